// A client as SUMU's users have it: Sockette, the token in the query, plain JSON actions.
// Prints one line for each thing that happens.
import Sockette from "sockette";
import WebSocket from "ws";

globalThis.WebSocket = WebSocket; // browsers have it

const socket = new Sockette(process.argv[2], {
  timeout: 1e3,
  maxAttempts: 10,
  onopen: () => {
    console.log("open");
    socket.json({ action: "ping" });
  },
  onmessage: ({ data }) => {
    const frame = JSON.parse(data);
    if (frame.type === "ack") {
      console.log(`${frame.action} ${frame.messageId}`);
      return;
    }
    console.log(data);
    if (frame.type === "pong") {
      socket.json({ action: "send", message: { text: "to the workers" } });
      socket.json({ action: "publish", message: { text: "to every subscriber" } });
    }
  },
});
