// An OpenID Connect provider on 127.0.0.1:PORT, told what to do by lines: usage: provider.mjs PORT
//   start | stop | rotate ALG (a new key signs, the others stay) | forget (the others go) | token SUB SECONDS

import readline from "node:readline";
import { OAuth2Server } from "oauth2-mock-server";

const port = Number(process.argv[2]);
let keys = [];
let server;

async function start() {
  server = new OAuth2Server();
  for (const key of keys) await server.issuer.keys.add(key);
  server.issuer.url = `http://127.0.0.1:${port}`;
  await server.start(port, "127.0.0.1");
}

const commands = {
  start,
  stop: () => server.stop(),
  async rotate(alg) {
    keys.push(await server.issuer.keys.generate(alg));
  },
  async forget() {
    keys = keys.slice(-1);
    await server.stop();
    await start();
  },
  token: (sub, seconds) =>
    server.issuer.buildToken({
      kid: keys.at(-1).kid,
      expiresIn: Number(seconds),
      scopesOrTransform: (_header, payload) => Object.assign(payload, { sub, aud: "sumu" }),
    }),
};

for await (const line of readline.createInterface({ input: process.stdin })) {
  const [command, ...words] = line.split(" ");
  console.log((await commands[command](...words)) ?? "done");
}
process.exit(0);
