//! Starts a broker and edges, and speaks to them as clients, pushers and applications do.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use broker::Broker;
use bytes::Bytes;
use eventlog::{Edges, Log, Reader, Record, Start, TopicPartition};
use futures_util::{SinkExt as _, StreamExt as _};
use ingest::{Config, Deps, Error, Node};
use jsonwebtoken::{EncodingKey, Header};
use runtime::http::Endpoints;
use runtime::{Clock, Health, Timings};
use schemas::notifications::Receipts;
use schemas::push::{self, BatchReply, PushBatch, PushItem, PushReply, PushRequest, Target};
use schemas::{ConnectionEvent, ConnectionId, Epoch, Headers};
use serde_json::{Value, json};
use store::ConnectionStore;
use store::embedded::EmbeddedStore;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::http::{Request, Response};
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode as WsCode;
use tokio_tungstenite::tungstenite::{self, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};
use tokio_util::sync::CancellationToken;

/// Longer than anything takes on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
pub(crate) const SECRET: &str = "a secret of more than thirty-two bytes";
pub(crate) const PUSH_SECRET: &str = "what pushers know";
pub(crate) const API_KEY: &str = "what applications know";

/// A broker with topics.
pub(crate) struct Cluster {
    pub(crate) log: Log,
    pub(crate) timings: Timings,
    broker: Option<Broker>,
    address: SocketAddr,
    data: TempDir,
}

impl Cluster {
    pub(crate) async fn start() -> Self {
        Self::with(|_| {}).await
    }

    pub(crate) async fn with(change: impl FnOnce(&mut eventlog::Config)) -> Self {
        let data = tempfile::tempdir().unwrap();
        let broker = start_broker(SocketAddr::from(([127, 0, 0, 1], 0)), &data).await;
        let address = broker.address();
        let mut config = eventlog::Config {
            brokers: address.to_string(),
            partitions: 3,
            replication: 1,
            min_insync_replicas: 1,
            append_timeout: Duration::from_secs(2),
            ..eventlog::Config::default()
        };
        change(&mut config);
        let log = Log::new(config).unwrap();
        log.create_topics().await.unwrap();
        let timings = Timings {
            heartbeat: Duration::from_millis(200),
            lease: Duration::from_secs(6),
            ..Timings::default()
        };
        Self {
            log,
            timings,
            broker: Some(broker),
            address,
            data,
        }
    }

    pub(crate) async fn stop_broker(&mut self) {
        self.broker.take().unwrap().shutdown().await;
    }

    pub(crate) async fn restart_broker(&mut self) {
        self.broker = Some(start_broker(self.address, &self.data).await);
    }

    pub(crate) async fn edge(&self) -> Edge {
        self.edge_with(|_| {}).await
    }

    /// An edge that admits sockets.
    pub(crate) async fn edge_with(&self, change: impl FnOnce(&mut Config)) -> Edge {
        let edge = self.edge_starting(change, embedded_store()).await;
        edge.admitting().await;
        edge
    }

    pub(crate) async fn edge_starting(
        &self,
        change: impl FnOnce(&mut Config),
        store: Arc<dyn ConnectionStore>,
    ) -> Edge {
        let tls = runtime::tls::Client::default();
        self.edge_starting_with(change, store, tls, PUSH_SECRET)
            .await
    }

    pub(crate) async fn edge_starting_with(
        &self,
        change: impl FnOnce(&mut Config),
        store: Arc<dyn ConnectionStore>,
        tls: runtime::tls::Client,
        push_secret: &str,
    ) -> Edge {
        let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
        let mut config = Config {
            listen: any,
            workers: 1,
            ..Config::default()
        };
        config.admin.listen = Some(any);
        config.admin.api_keys = vec![API_KEY.into()];
        config.auth.hs256_secret = Some(SECRET.into());
        config.drain.spread = Duration::from_millis(200);
        change(&mut config);
        let (health, shutdown) = (Health::new(), CancellationToken::new());
        let edges = Edges::follow(&self.log, CancellationToken::new())
            .await
            .unwrap();
        let deps = Deps {
            log: self.log.clone(),
            edges: edges.clone(),
            store: Arc::clone(&store),
            endpoints: Endpoints {
                health: health.clone(),
                metrics: runtime::telemetry::Metrics::default(),
            },
            clock: Clock::system(),
            timings: self.timings,
            push_secret: push_secret.into(),
            tls,
        };
        let node = Node::bind(config, deps).unwrap();
        let (public, admin) = (node.public_address(), node.admin_address());
        Edge {
            public,
            admin,
            health,
            edges,
            store,
            shutdown: shutdown.clone(),
            task: tokio::spawn(node.run(shutdown)),
        }
    }

    /// Every record of a topic by now, partition by partition.
    pub(crate) async fn records(&self, topic: &Arc<str>) -> Vec<Record> {
        let mut records = vec![];
        for partition in 0..self.log.partitions() {
            records.extend(self.records_of(topic, partition).await);
        }
        records
    }

    pub(crate) async fn records_of(&self, topic: &Arc<str>, partition: i32) -> Vec<Record> {
        let mut records = vec![];
        let partition = TopicPartition::new(Arc::clone(topic), partition);
        let end = self.log.end_offset(&partition).await.unwrap();
        let start = vec![(partition.clone(), Start::Beginning)];
        let mut reader: Reader = self.log.reader(start).await.unwrap();
        while reader.position(&partition).is_none_or(|at| at < end) {
            let read = timeout(PATIENCE, reader.next()).await.unwrap().unwrap();
            records.extend(read);
        }
        records
    }

    /// The connection events by now, in the order of each partition.
    pub(crate) async fn events(&self) -> Vec<ConnectionEvent> {
        let records = self.records(&self.log.topics().connections).await;
        let event = |record: Record| {
            let value = record.value.unwrap();
            ConnectionEvent::decode(record.headers.ce_type(), &value).unwrap()
        };
        records.into_iter().map(event).collect()
    }

    /// How that connection was closed, once it is logged.
    pub(crate) async fn closed(&self, id: &ConnectionId) -> schemas::connections::Closed {
        eventually("a closed event", async || {
            self.events()
                .await
                .into_iter()
                .find_map(|event| match event {
                    ConnectionEvent::Closed(closed) if closed.connection_id == *id => Some(closed),
                    _ => None,
                })
        })
        .await
    }
}

async fn start_broker(listen: SocketAddr, data: &TempDir) -> Broker {
    let config = broker::Config {
        listen,
        data: data.path().into(),
        ..broker::Config::default()
    };
    Broker::start(config).await.unwrap()
}

pub(crate) fn embedded_store() -> Arc<dyn ConnectionStore> {
    let clock = Clock::system();
    let now = Arc::new(move || clock.now());
    Arc::new(EmbeddedStore::new(store::embedded::Config::default(), now))
}

/// Asks until there is an answer.
pub(crate) async fn eventually<T>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let asking = async {
        loop {
            if let Some(answer) = ask().await {
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let Ok(answer) = timeout(PATIENCE, asking).await else {
        panic!("no {what} in {PATIENCE:?}");
    };
    answer
}

/// A running edge.
pub(crate) struct Edge {
    pub(crate) public: SocketAddr,
    pub(crate) admin: SocketAddr,
    pub(crate) health: Health,
    pub(crate) edges: Edges,
    pub(crate) store: Arc<dyn ConnectionStore>,
    shutdown: CancellationToken,
    task: JoinHandle<Result<(), Error>>,
}

impl Edge {
    pub(crate) async fn admitting(&self) {
        eventually("lease", async || self.health.readiness().ok()).await;
    }

    pub(crate) fn drain(&self) {
        self.shutdown.cancel();
    }

    pub(crate) async fn ended(self) -> Result<(), Error> {
        timeout(PATIENCE, self.task).await.unwrap().unwrap()
    }

    /// A client with a good token of that user.
    pub(crate) async fn client(&self, user: &str) -> Client {
        self.try_client(user).await.unwrap()
    }

    pub(crate) async fn try_client(&self, user: &str) -> Result<Client, Response<Option<Vec<u8>>>> {
        let target = format!("ws://{}/push?authorization={}", self.public, token(user));
        connect(target.into_client_request().unwrap()).await
    }

    /// The epoch that the edge's heartbeats tell.
    pub(crate) fn epoch(&self, client: &Client) -> Epoch {
        client.id.home().1
    }

    /// Pushes frames to that target, as a pusher would.
    pub(crate) async fn push(&self, request: &PushRequest) -> BatchReply {
        let mut replies = self.push_all(request).await;
        assert_eq!(replies.len(), 1);
        replies.remove(0)
    }

    pub(crate) async fn push_all(&self, request: &PushRequest) -> Vec<BatchReply> {
        let (status, body) = self.try_push(PUSH_SECRET, &request.encode()).await;
        assert_eq!(status, 200, "{}", String::from_utf8_lossy(&body));
        PushReply::decode(&body).unwrap().batches
    }

    pub(crate) async fn try_push(&self, secret: &str, body: &[u8]) -> (u16, Vec<u8>) {
        let headers = [
            ("content-type", push::CONTENT_TYPE),
            (push::SECRET_HEADER, secret),
        ];
        http(self.admin, "POST", push::PATH, &headers, body).await
    }

    /// A request of an application.
    pub(crate) async fn ask(&self, method: &str, target: &str, body: &str) -> (u16, Value) {
        let key = format!("Bearer {API_KEY}");
        let headers = [("authorization", key.as_str())];
        let (status, body) = http(self.admin, method, target, &headers, body.as_bytes()).await;
        let answer = if body.is_empty() { b"null" } else { &body[..] };
        (status, serde_json::from_slice(answer).unwrap())
    }
}

/// A request of one batch for that life of the edge that holds `client`.
pub(crate) fn batch(client: &Client, offset: i64, target: &Target, frames: &[&str]) -> PushRequest {
    let (edge_id, epoch) = client.id.home();
    let item = |(index, frame): (usize, &&str)| PushItem {
        offset: offset + i64::try_from(index).unwrap(),
        target: target.clone(),
        data: Bytes::copy_from_slice(frame.as_bytes()),
        traceparent: None,
        receipts: Receipts::default(),
    };
    let batch = PushBatch {
        incarnation: 1,
        partition: 0,
        settled_below: -1,
        notifications: frames.iter().enumerate().map(item).collect(),
    };
    PushRequest {
        edge_id: edge_id.parse().unwrap(),
        epoch,
        topic: "sumu.notifications".into(),
        batches: vec![batch],
    }
}

/// A token for that user, good for an hour.
pub(crate) fn token(user: &str) -> String {
    token_until(user, Clock::system().now().0 / 1000 + 3600)
}

pub(crate) fn token_until(user: &str, exp: i64) -> String {
    token_of(&json!({"sub": user, "exp": exp}))
}

/// A token with these claims.
pub(crate) fn token_of(claims: &Value) -> String {
    let key = EncodingKey::from_secret(SECRET.as_bytes());
    jsonwebtoken::encode(&Header::default(), claims, &key).unwrap()
}

/// An open socket.
pub(crate) struct Client {
    pub(crate) id: ConnectionId,
    pub(crate) protocol: Option<String>,
    pub(crate) socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
}

/// Opens a socket, or gives what was answered instead of a 101.
pub(crate) async fn connect(request: Request<()>) -> Result<Client, Response<Option<Vec<u8>>>> {
    let opening = tokio_tungstenite::connect_async(request);
    match timeout(PATIENCE, opening).await.unwrap() {
        Ok((socket, response)) => {
            let protocol = response.headers().get("sec-websocket-protocol");
            let mut client = Client {
                id: "none.0.0000000000000000".parse().unwrap(),
                protocol: protocol.map(|value| value.to_str().unwrap().to_owned()),
                socket,
            };
            let pong = client.ask(r#"{"action":"ping"}"#).await;
            client.id = pong["connectionId"].as_str().unwrap().parse().unwrap();
            Ok(client)
        }
        Err(tungstenite::Error::Http(response)) => Err(*response),
        Err(error) => panic!("{error}"),
    }
}

impl Client {
    pub(crate) async fn send(&mut self, text: &str) {
        self.socket.send(Message::text(text)).await.unwrap();
    }

    /// The next text message.
    pub(crate) async fn receive(&mut self) -> String {
        loop {
            match timeout(PATIENCE, self.socket.next()).await.unwrap() {
                Some(Ok(Message::Text(text))) => return text.to_string(),
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                other => panic!("instead of a text: {other:?}"),
            }
        }
    }

    pub(crate) async fn ask(&mut self, text: &str) -> Value {
        self.send(text).await;
        serde_json::from_str(&self.receive().await).unwrap()
    }

    /// The close code that the edge sends, whatever it sends before.
    pub(crate) async fn close_code(&mut self) -> u16 {
        loop {
            match timeout(PATIENCE, self.socket.next()).await.unwrap() {
                Some(Ok(Message::Close(Some(frame)))) => return frame.code.into(),
                Some(Ok(Message::Close(None))) => return 1005,
                Some(Ok(_)) => {}
                other => panic!("instead of a close: {other:?}"),
            }
        }
    }

    pub(crate) fn local_port(&self) -> u16 {
        let MaybeTlsStream::Plain(stream) = self.socket.get_ref() else {
            panic!("no TLS here");
        };
        stream.local_addr().unwrap().port()
    }

    pub(crate) async fn close(mut self, code: u16) {
        let frame = tungstenite::protocol::CloseFrame {
            code: WsCode::from(code),
            reason: "".into(),
        };
        self.socket.close(Some(frame)).await.unwrap();
        while self
            .socket
            .next()
            .await
            .is_some_and(|message| message.is_ok())
        {}
    }
}

/// One HTTP request on a connection of its own.
pub(crate) async fn http(
    address: SocketAddr,
    method: &str,
    target: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> (u16, Vec<u8>) {
    let mut head = format!(
        "{method} {target} HTTP/1.1\r\nhost: test\r\nconnection: close\r\ncontent-length: {}\r\n",
        body.len()
    );
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str("\r\n");
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(head.as_bytes()).await.unwrap();
    // A server may answer before it has read all of a body that is too long.
    let sent = stream.write_all(body).await;
    let mut answer = vec![];
    let read = timeout(PATIENCE, stream.read_to_end(&mut answer))
        .await
        .unwrap();
    assert!(!answer.is_empty(), "{sent:?} {read:?}");
    let end = answer
        .windows(4)
        .position(|four| four == b"\r\n\r\n")
        .unwrap();
    let status = std::str::from_utf8(&answer[9..12])
        .unwrap()
        .parse()
        .unwrap();
    (status, answer.split_off(end + 4))
}

/// A header's text, for comparison.
pub(crate) fn header<'a>(headers: &'a Headers, name: &str) -> &'a str {
    headers.text(name).unwrap_or_default()
}
