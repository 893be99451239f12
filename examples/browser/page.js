// What both pages share: where to connect, and how things are shown. Nothing of it knows about sockets.

// websocket.html#token=TOKEN, and &url=ws://... where it is not `sumu dev` on this machine.
const settings = new URLSearchParams(location.hash.slice(1));
const token = settings.get("token");
const url = settings.get("url") ?? "ws://127.0.0.1:8080/push";

const element = (id) => document.getElementById(id);

function showStatus(text) {
  element("status").textContent = text;
  element("status").className = text;
}

function showFrame(frame) {
  if (frame?.presence) return showPresence(frame.presence);
  const kind = ["ack", "pong", "error"].includes(frame?.type) ? frame.type : "notification";
  const [item, name, text] = ["li", "b", "code"].map((tag) => document.createElement(tag));
  name.textContent = kind;
  text.textContent = kind === "ack" ? `${frame.action} ${frame.id} is ${frame.messageId}` : JSON.stringify(frame);
  item.append(name, text);
  element("received").prepend(item);
}

function showPresence({ user, status }) {
  const id = `user-${user}`;
  element(id)?.remove();
  if (status !== "ONLINE") return;
  const item = document.createElement("li");
  item.id = id;
  item.textContent = user;
  element("online").append(item);
}

function onSay(send) {
  element("say").onsubmit = (event) => {
    event.preventDefault();
    send({ text: element("text").value });
    element("text").value = "";
  };
}
