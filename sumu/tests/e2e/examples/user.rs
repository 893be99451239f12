//! Plays one user: a socket that says things and waits for what it is sent.

use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

use crate::dev::Dev;

/// A user with one open socket.
pub(super) struct User {
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    /// What came and was not asked for yet.
    seen: Vec<Value>,
}

impl User {
    pub(super) async fn connect(dev: &Dev, name: &str) -> Self {
        let url = format!("{}?authorization={}", dev.socket(), dev.token(name));
        let (socket, _) = tokio_tungstenite::connect_async(url).await.unwrap();
        Self {
            socket,
            seen: Vec::new(),
        }
    }

    /// Says things, one after the other, and waits until all are acknowledged.
    pub(super) async fn say(&mut self, action: &str, messages: impl IntoIterator<Item = Value>) {
        let mut said = 0;
        for message in messages {
            let frame = json!({"action": action, "message": message, "id": said});
            self.socket
                .send(Message::text(frame.to_string()))
                .await
                .unwrap();
            said += 1;
        }
        for id in 0..said {
            self.until(&format!("ack {id}"), |frame| {
                frame["type"] == "ack" && frame["id"] == id
            })
            .await;
        }
    }

    /// Waits for a notification.
    pub(super) async fn receives(&mut self, data: &Value) {
        self.until(&data.to_string(), |frame| frame == data).await;
    }

    async fn until(&mut self, what: &str, wanted: impl Fn(&Value) -> bool) {
        let found = async {
            loop {
                if let Some(at) = self.seen.iter().position(&wanted) {
                    self.seen.remove(at);
                    return;
                }
                if let Message::Text(text) = self.socket.next().await.unwrap().unwrap() {
                    self.seen.push(serde_json::from_str(&text).unwrap());
                }
            }
        };
        let within = tokio::time::timeout(Duration::from_secs(120), found).await;
        within.unwrap_or_else(|_| panic!("has not come: {what}"));
    }

    /// Closes cleanly.
    pub(super) async fn leave(mut self) {
        self.socket.close(None).await.unwrap();
        while let Some(Ok(_)) = self.socket.next().await {}
    }
}

/// Asks for a notification over HTTP.
pub(super) async fn notify(dev: &Dev, request: &Value) {
    let client = reqwest::Client::new();
    let post = client
        .post(format!("{}/v1/notifications", dev.http()))
        .json(request);
    let answer = post.send().await.unwrap();
    assert!(answer.status().is_success(), "{answer:?}");
}
