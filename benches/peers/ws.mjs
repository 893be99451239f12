// A broadcast server of the npm package `ws`, to be driven by `benches drive`: what a team would write first.
// It checks no token and keeps no log.
//
//   npm install ws && node ws.mjs [PORT]
//
// GET /push/N opens socket N; POST /publish sends the body to all of them, POST /publish/N to socket N.
import { createServer } from 'node:http';
import { WebSocketServer } from 'ws';

const sockets = new Map();
const server = createServer((request, response) => {
  const parts = [];
  request.on('data', (part) => parts.push(part));
  request.on('end', () => {
    const [, path, number] = request.url.split('/');
    if (request.method !== 'POST' || path !== 'publish') return response.writeHead(404).end();
    const text = Buffer.concat(parts);
    const meant = number === undefined ? sockets.values() : [sockets.get(number)].filter(Boolean);
    for (const socket of meant) socket.send(text, { binary: false });
    response.writeHead(204).end();
  });
});
const upgrades = new WebSocketServer({ server, perMessageDeflate: false });
upgrades.on('connection', (socket, request) => {
  const number = request.url.split('/')[2];
  sockets.set(number, socket);
  socket.on('close', () => sockets.delete(number));
  socket.on('error', () => {});
});
server.listen(Number(process.argv[2] ?? 9000), '127.0.0.1', 4096);
