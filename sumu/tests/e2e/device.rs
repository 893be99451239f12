//! Plays a user's devices: plain WebSocket clients that reconnect, and keep a journal of what they saw.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::Instant;

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

/// One socket's life as its client saw it.
#[derive(Clone, Debug)]
pub(crate) struct Session {
    pub(crate) user: String,
    pub(crate) connection: String,
    pub(crate) opened: Instant,
    pub(crate) closed: Option<Instant>,
    /// The code of the edge's close frame, if one came.
    pub(crate) code: Option<u16>,
    /// The `n` of each notification received, in order.
    pub(crate) notifications: Vec<u64>,
}

/// What all devices saw.
#[derive(Debug, Default)]
pub(crate) struct Journal {
    pub(crate) sessions: Vec<Session>,
    /// Message key → position, for each ack.
    pub(crate) acks: BTreeMap<String, String>,
    /// Message key → how many acks or errors it got.
    pub(crate) answers: BTreeMap<String, u32>,
    /// Message key → the frame's `message` text, as sent.
    pub(crate) sent: BTreeMap<String, String>,
    /// Errors that name no message.
    pub(crate) errors: usize,
}

pub(crate) type Shared = Arc<Mutex<Journal>>;

/// What a test tells a device.
#[derive(Debug)]
pub(crate) enum Command {
    /// `send` or `publish` a message with that key.
    Say { action: &'static str, key: String },
    /// Send this text as it is.
    Raw(String),
    /// Close with 1000 and stay away.
    Leave,
    /// Drop the TCP connection without a close frame and stay away.
    Vanish,
    /// Drop it, and come back at once, at the next edge.
    Drop,
}

/// A device that connects to one edge after the other until told to leave; or only once.
pub(crate) struct Device {
    pub(crate) user: String,
    pub(crate) commands: mpsc::Sender<Command>,
}

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

enum End {
    /// By the edge, with that code if it said one, or by the network.
    Lost(Option<u16>),
    Dropped,
    Done,
}

/// What a device does when its socket is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Habit {
    ComeBack,
    StayAway,
}

impl Device {
    pub(crate) fn start(
        user: &str,
        token: String,
        edges: Vec<String>,
        first: usize,
        journal: Shared,
    ) -> Self {
        Self::with(user, token, edges, first, journal, Habit::ComeBack)
    }

    /// One that tries until it is connected, and does not come back when its socket is gone.
    pub(crate) fn once(user: &str, token: String, edge: &str, journal: Shared) -> Self {
        let edges = vec![edge.to_owned()];
        Self::with(user, token, edges, 0, journal, Habit::StayAway)
    }

    fn with(
        user: &str,
        token: String,
        edges: Vec<String>,
        next: usize,
        journal: Shared,
        habit: Habit,
    ) -> Self {
        let (commands, inbox) = mpsc::channel(256);
        let run = Run {
            user: user.to_owned(),
            token,
            edges,
            next,
            journal,
            habit,
        };
        tokio::spawn(run.run(inbox));
        Self {
            user: user.to_owned(),
            commands,
        }
    }

    pub(crate) async fn tell(&self, command: Command) {
        self.commands.send(command).await.unwrap();
    }
}

struct Run {
    user: String,
    token: String,
    edges: Vec<String>,
    next: usize,
    journal: Shared,
    habit: Habit,
}

impl Run {
    async fn run(mut self, mut inbox: mpsc::Receiver<Command>) {
        loop {
            if let Some((socket, index)) = self.connect().await {
                let end = self.live(socket, index, &mut inbox).await;
                let code = if let End::Lost(code) = end {
                    code
                } else {
                    None
                };
                let session = &mut self.journal.lock().unwrap().sessions[index];
                (session.closed, session.code) = (Some(Instant::now()), code);
                match end {
                    End::Done => return,
                    End::Lost(_) if self.habit == Habit::StayAway => return,
                    End::Lost(_) | End::Dropped => {}
                }
            } else if inbox.is_closed() {
                return;
            }
            self.next += 1;
            // Spread out, as the protocol asks of clients.
            tokio::time::sleep(Duration::from_millis(50 + 37 * (self.next as u64 % 11))).await;
        }
    }

    /// Connects and asks for the connection's id. Answers the socket and its session in the journal.
    async fn connect(&self) -> Option<(Socket, usize)> {
        let url = format!(
            "{}?authorization={}",
            self.edges[self.next % self.edges.len()],
            self.token
        );
        let attempt = tokio::time::timeout(
            Duration::from_secs(10),
            tokio_tungstenite::connect_async(url),
        );
        let (mut socket, _) = attempt.await.ok()?.ok()?;
        let opened = Instant::now();
        socket
            .send(Message::text(r#"{"action":"ping"}"#))
            .await
            .ok()?;
        // Notifications may come before the pong.
        let mut notifications = Vec::new();
        loop {
            let message = tokio::time::timeout(Duration::from_secs(10), socket.next())
                .await
                .ok()??
                .ok()?;
            let Message::Text(text) = message else {
                continue;
            };
            let frame: Value = serde_json::from_str(&text).unwrap();
            if frame["type"] == "pong" {
                let connection = frame["connectionId"].as_str().unwrap().to_owned();
                let user = self.user.clone();
                let mut journal = self.journal.lock().unwrap();
                journal.sessions.push(Session {
                    user,
                    connection,
                    opened,
                    closed: None,
                    code: None,
                    notifications,
                });
                return Some((socket, journal.sessions.len() - 1));
            }
            notifications.extend(frame["n"].as_u64());
        }
    }

    async fn live(
        &self,
        mut socket: Socket,
        index: usize,
        inbox: &mut mpsc::Receiver<Command>,
    ) -> End {
        loop {
            tokio::select! {
                message = socket.next() => match message {
                    Some(Ok(Message::Text(text))) => self.note(&text, index),
                    Some(Ok(Message::Close(frame))) => {
                        return End::Lost(frame.map(|frame| frame.code.into()));
                    }
                    Some(Err(_)) | None => return End::Lost(None),
                    Some(Ok(_)) => {}
                },
                command = inbox.recv() => {
                    let text = match command {
                        Some(Command::Say { action, key }) => self.say(action, &key),
                        Some(Command::Raw(text)) => text,
                        Some(Command::Leave) => {
                            leave(&mut socket).await;
                            return End::Done;
                        }
                        Some(Command::Drop) => return End::Dropped,
                        Some(Command::Vanish) | None => return End::Done,
                    };
                    if socket.send(Message::text(text)).await.is_err() {
                        return End::Lost(None);
                    }
                }
            }
        }
    }

    fn say(&self, action: &str, key: &str) -> String {
        // Numbers and spaces as no serializer would write them: they must come out of Kafka unchanged.
        let message = format!(r#"{{"key": "{key}",  "odd":1.50e+1}}"#);
        self.journal
            .lock()
            .unwrap()
            .sent
            .insert(key.to_owned(), message.clone());
        format!(
            r#"{{"action":"{action}","id":{},"message":{message}}}"#,
            json!(key)
        )
    }

    fn note(&self, text: &str, index: usize) {
        let frame: Value = serde_json::from_str(text).unwrap();
        let mut journal = self.journal.lock().unwrap();
        if let Some(n) = frame["n"].as_u64() {
            journal.sessions[index].notifications.push(n);
            return;
        }
        let kind = frame["type"].as_str().unwrap_or_default();
        if kind == "error" && frame["id"].is_null() {
            journal.errors += 1;
        }
        if let Some(key) = frame["id"].as_str() {
            *journal.answers.entry(key.to_owned()).or_default() += 1;
            if kind == "ack" {
                let position = frame["messageId"].as_str().unwrap().to_owned();
                journal.acks.insert(key.to_owned(), position);
            }
        }
    }
}

async fn leave(socket: &mut Socket) {
    let frame = CloseFrame {
        code: CloseCode::Normal,
        reason: "".into(),
    };
    let _sent = socket.close(Some(frame)).await;
    while let Ok(Some(Ok(_))) = tokio::time::timeout(Duration::from_secs(5), socket.next()).await {}
}
