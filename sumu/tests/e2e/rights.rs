//! Who may enter and how long they may stay, on two edges: new tokens, ends of tokens, revocation,
//! disconnection, limits; and that no secret is told on the way.

use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

use crate::cluster::{API_KEY, Cluster, PUSH_SECRET, SECRET, Servers};
use crate::kafka::Consumed;
use crate::until;

const PATIENCE: Duration = Duration::from_secs(60);

struct Client {
    id: String,
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
}

#[derive(Debug)]
struct Refused {
    status: u16,
    code: String,
    retry_after: Option<u64>,
    body: String,
}

impl Client {
    async fn open(url: &str, token: &str) -> Self {
        Self::open_from(url, token, None).await.unwrap()
    }

    /// Connects, as a proxy would for a client at that address.
    async fn open_from(url: &str, token: &str, from: Option<&str>) -> Result<Self, Refused> {
        let mut request = format!("{url}?authorization={token}")
            .into_client_request()
            .unwrap();
        if let Some(from) = from {
            let from = HeaderValue::from_str(from).unwrap();
            request.headers_mut().insert("x-forwarded-for", from);
        }
        let opening = tokio_tungstenite::connect_async(request);
        let socket = match timeout(PATIENCE, opening).await.unwrap() {
            Ok((socket, _)) => socket,
            Err(Error::Http(response)) => {
                let body = response.body().clone().unwrap_or_default();
                let body = String::from_utf8(body).unwrap();
                let problem: Value = serde_json::from_str(&body).unwrap();
                let wait = response.headers().get("retry-after");
                return Err(Refused {
                    status: response.status().as_u16(),
                    code: problem["code"].as_str().unwrap().to_owned(),
                    retry_after: wait.map(|wait| wait.to_str().unwrap().parse().unwrap()),
                    body,
                });
            }
            Err(error) => panic!("{error}"),
        };
        let mut client = Self {
            id: String::new(),
            socket,
        };
        let pong = client.ask(&json!({"action": "ping"})).await;
        client.id = pong["connectionId"].as_str().unwrap().to_owned();
        Ok(client)
    }

    async fn ask(&mut self, frame: &Value) -> Value {
        let frame = Message::text(frame.to_string());
        self.socket.send(frame).await.unwrap();
        loop {
            match timeout(PATIENCE, self.socket.next()).await.unwrap() {
                Some(Ok(Message::Text(text))) => return serde_json::from_str(&text).unwrap(),
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                other => panic!("instead of an answer: {other:?}"),
            }
        }
    }

    async fn refresh(&mut self, token: &str) -> Value {
        let frame = json!({"action": "refresh", "token": token, "id": "r"});
        self.ask(&frame).await
    }

    async fn close_code(&mut self) -> u16 {
        loop {
            match timeout(PATIENCE, self.socket.next()).await.unwrap() {
                Some(Ok(Message::Close(Some(frame)))) => return frame.code.into(),
                Some(Ok(_)) => {}
                other => panic!("instead of a close: {other:?}"),
            }
        }
    }
}

struct Run {
    cluster: Cluster,
    edges: Vec<String>,
    presence: Consumed,
    connections: Consumed,
    /// Every token there was.
    tokens: Vec<String>,
    /// What was answered to those who were refused.
    told: String,
}

impl Run {
    async fn start(servers: Servers) -> Self {
        let mut cluster = Cluster::new(servers).await;
        for (key, value) in [
            ("TRUSTED_PROXIES", r#"["127.0.0.0/8"]"#),
            ("LIMITS__MAX_CONNECTIONS_PER_ADDRESS", "6"),
            ("LIMITS__CONNECTS_PER_MINUTE", "30"),
            ("LIMITS__FRAMES_PER_SECOND", "20"),
            ("LIMITS__FRAME_BURST", "40"),
            ("AUTH__LEEWAY", "1s"),
        ] {
            cluster.set(&format!("SUMU__INGEST__{key}"), value);
        }
        cluster.set("SUMU__TELEMETRY__LOG", "debug,librdkafka=info");
        cluster.start("ingest", 2).await;
        cluster.start("presence", 1).await;
        let kafka = &cluster.servers.kafka;
        let consume = |topic: &str| {
            let group = format!("{}{topic}-watcher", cluster.prefix);
            Consumed::start(kafka, &group, &[&cluster.topic(topic)])
        };
        Self {
            edges: cluster.edges(),
            presence: consume("presence"),
            connections: consume("connections"),
            cluster,
            tokens: vec![],
            told: String::new(),
        }
    }

    fn token(&mut self, user: &str, ttl: &str) -> String {
        let token = Cluster::token_for(user, ttl);
        self.tokens.push(token.clone());
        token
    }

    /// What edge number `at` answers to an application.
    async fn delete(&mut self, at: usize, path: &str) -> (u16, Value) {
        let port = self.cluster.admin_port(&format!("ingest-{}", at + 1));
        let url = format!("http://127.0.0.1:{port}{path}");
        let request = reqwest::Client::new().delete(url).bearer_auth(API_KEY);
        let response = request.send().await.unwrap();
        let status = response.status().as_u16();
        let text = response.text().await.unwrap();
        self.told.push_str(&text);
        (status, serde_json::from_str(&text).unwrap_or_default())
    }

    async fn refused(&mut self, at: usize, token: &str, from: Option<&str>) -> Refused {
        let refused = Client::open_from(&self.edges[at], token, from).await;
        let refused = refused.err().expect("refused");
        self.told.push_str(&refused.body);
        refused
    }

    /// Status, cause and position of every presence event of a user.
    fn events(&self, user: &str) -> Vec<(String, String, String)> {
        let seen = self.presence.all();
        let of_user = seen.iter().filter(|seen| seen.key.as_deref() == Some(user));
        of_user
            .map(|seen| {
                let event: Value = serde_json::from_slice(&seen.value).unwrap();
                let text = |name: &str| event["message"][name].as_str().unwrap().to_owned();
                (text("status"), text("cause"), text("position"))
            })
            .collect()
    }

    /// Waits for the user's OFFLINE; answers its cause, and whether it is the close itself that made
    /// it so, of one of these connections, and not the end of a grace.
    async fn offline(&self, user: &str, connections: &[&str]) -> (String, bool) {
        until(&format!("{user} is OFFLINE"), || {
            self.events(user).len() == 2
        })
        .await;
        let events = self.events(user);
        let status = (events[0].0.as_str(), events[1].0.as_str());
        assert_eq!(status, ("ONLINE", "OFFLINE"));
        let closed = |id: &&str| self.logged(id, "closed").expect("logged").0;
        let closes: Vec<String> = connections.iter().map(closed).collect();
        (events[1].1.clone(), closes.contains(&events[1].2))
    }

    /// Position and value of that event of a connection.
    fn logged(&self, connection: &str, kind: &str) -> Option<(String, Value)> {
        let ce_type = format!("sumu.connections.{kind}.v1");
        let seen = self.connections.all();
        let mut of_kind = seen
            .iter()
            .filter(|seen| seen.header("ce_type") == Some(&ce_type))
            .map(|seen| {
                let value: Value = serde_json::from_slice(&seen.value).unwrap();
                (seen.position(), value)
            });
        of_kind.find(|(_, event)| event["connection_id"] == connection)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_is_revoked_and_tokens_end_on_two_edges() {
    let Some(servers) = Servers::from_env() else {
        eprintln!("not run: SUMU_TEST_KAFKA and SUMU_TEST_CQL name no servers");
        return;
    };
    let mut run = Run::start(servers).await;
    tokens_end_and_are_renewed(&mut run).await;
    a_user_is_revoked(&mut run).await;
    a_connection_is_closed_from_the_other_edge(&mut run).await;
    limits_hold(&mut run).await;
    nothing_secret_was_told(&run).await;
}

/// Row 17 of the presence cases: expiry is at once. And what is refreshed stays.
async fn tokens_end_and_are_renewed(run: &mut Run) {
    let (short, longer) = (run.token("eve", "4s"), run.token("eve", "1h"));
    let fleeting = run.token("frank", "4s");
    let other = run.token("mallory", "1h");
    let mut kept = Client::open(&run.edges[0], &short).await;
    let mut left = Client::open(&run.edges[1], &fleeting).await;
    let ack = kept.refresh(&longer).await;
    assert_eq!(ack["type"], "ack", "{ack}");
    let expires_at = ack["expiresAt"].as_i64().unwrap();
    let answer = left.refresh(&other).await;
    assert_eq!(answer["code"], "other_user", "{answer}");
    run.told.push_str(&answer.to_string());

    assert_eq!(left.close_code().await, 4401);
    let (cause, at_once) = run.offline("frank", &[&left.id]).await;
    assert_eq!((cause.as_str(), at_once), ("token_expired", true));
    let pong = kept.ask(&json!({"action": "ping"})).await;
    assert_eq!(pong["type"], "pong", "its first token has ended, too");
    let (position, refreshed) = run.logged(&kept.id, "refreshed").expect("in the log");
    assert_eq!(refreshed["expires_at"], expires_at);
    assert_eq!(ack["messageId"], position);
    assert_eq!(run.events("eve").len(), 1, "never OFFLINE");
    let refused = run.refused(0, &fleeting, None).await;
    assert_eq!(
        (refused.status, refused.code.as_str()),
        (401, "token_expired")
    );
}

/// Row 18: three devices on two edges, one OFFLINE at once; and an edge that starts anew remembers.
async fn a_user_is_revoked(run: &mut Run) {
    let old = run.token("alice", "1h");
    let mut devices = vec![];
    for at in [0, 1, 1] {
        devices.push(Client::open(&run.edges[at], &old).await);
    }
    let bob = run.token("bob", "1h");
    let mut bob = Client::open(&run.edges[1], &bob).await;
    until("alice is ONLINE", || run.events("alice").len() == 1).await;

    let (status, answer) = run.delete(0, "/v1/users/alice/connections").await;
    assert_eq!(status, 202, "{answer}");
    let asked = Instant::now();
    for device in &mut devices {
        assert_eq!(device.close_code().await, 4403);
    }
    eprintln!("3 devices on 2 edges closed within {:?}", asked.elapsed());
    let ids: Vec<&str> = devices.iter().map(|device| device.id.as_str()).collect();
    let (cause, at_once) = run.offline("alice", &ids).await;
    assert_eq!((cause.as_str(), at_once), ("user_revoked", true));
    for at in [0, 1] {
        let refused = run.refused(at, &old, None).await;
        assert_eq!(
            (refused.status, refused.code.as_str()),
            (401, "token_revoked")
        );
    }
    run.cluster.kill("ingest-1");
    run.cluster.restart("ingest-1").await;
    let refused = run.refused(0, &old, None).await;
    assert_eq!(refused.code, "token_revoked", "after a restart, too");

    // The next second's token counts again.
    tokio::time::sleep(Duration::from_millis(1100)).await;
    let new = run.token("alice", "1h");
    let mut back = Client::open(&run.edges[0], &new).await;
    let answer = back.refresh(&old).await;
    assert_eq!(answer["code"], "token_revoked");
    run.told.push_str(&answer.to_string());
    assert_eq!(back.ask(&json!({"action": "ping"})).await["type"], "pong");
    assert_eq!(bob.ask(&json!({"action": "ping"})).await["type"], "pong");
    assert_eq!(run.events("bob").len(), 1);
}

async fn a_connection_is_closed_from_the_other_edge(run: &mut Run) {
    let token = run.token("carol", "1h");
    let mut carol = Client::open(&run.edges[1], &token).await;
    until("carol is ONLINE", || run.events("carol").len() == 1).await;
    let path = format!("/v1/connections/{}", carol.id);
    assert_eq!(run.delete(0, &path).await.0, 204);
    assert_eq!(carol.close_code().await, 4410);
    let (cause, at_once) = run.offline("carol", &[&carol.id]).await;
    assert_eq!((cause.as_str(), at_once), ("disconnected_by_api", false));
    let (status, problem) = run.delete(0, &path).await;
    assert_eq!(
        (status, problem["code"].as_str()),
        (410, Some("connection_gone"))
    );
}

async fn limits_hold(run: &mut Run) {
    let token = run.token("dave", "1h");
    let mut held = vec![];
    for _ in 0..6 {
        let from = Some("198.51.100.7");
        held.push(
            Client::open_from(&run.edges[1], &token, from)
                .await
                .unwrap(),
        );
    }
    let refused = run.refused(1, &token, Some("198.51.100.7")).await;
    let full = "too_many_connections_of_address";
    assert_eq!((refused.status, refused.code.as_str()), (429, full));
    assert!(refused.retry_after.is_some());
    assert!(
        Client::open_from(&run.edges[1], &token, Some("198.51.100.8"))
            .await
            .is_ok()
    );

    let flood = Some("203.0.113.9");
    let mut tries = 0;
    let refused = loop {
        let refused = run.refused(1, "nonsense", flood).await;
        tries += 1;
        if refused.status != 401 {
            break refused;
        }
    };
    assert_eq!(
        (refused.status, refused.code.as_str()),
        (429, "too_many_attempts")
    );
    assert!(refused.retry_after.is_some_and(|wait| wait >= 1));
    assert!(tries > 30, "{tries}: a minute's worth at once");

    let mut eager = held.pop().unwrap();
    for _ in 0..500 {
        let ping = Message::text(r#"{"action":"ping"}"#);
        if eager.socket.send(ping).await.is_err() {
            break;
        }
    }
    assert_eq!(eager.close_code().await, 4429);
}

/// Logs at `debug`, metrics and answers name no token, key or secret.
async fn nothing_secret_was_told(run: &Run) {
    let mut told = run.told.clone();
    for name in ["ingest-1", "ingest-2", "presence-1"] {
        told.push_str(&run.cluster.whole_log(name));
        let url = format!("http://127.0.0.1:{}/metrics", run.cluster.admin_port(name));
        told.push_str(&reqwest::get(url).await.unwrap().text().await.unwrap());
    }
    assert!(told.contains("token_revoked"), "answers are looked at");
    assert!(
        told.contains("sumu_ingest_revocations"),
        "metrics are looked at"
    );
    assert!(told.contains("admitting sockets"), "logs are looked at");
    let secrets = run.tokens.iter().map(String::as_str);
    for secret in secrets.chain([SECRET, API_KEY, PUSH_SECRET]) {
        // Not even its beginning, which for a token is the same for all: its end.
        let end = secret.get(secret.len() - 12..).unwrap();
        let line = told
            .lines()
            .find(|line| line.contains(secret) || line.contains(end));
        assert_eq!(line, None, "a secret was told");
    }
}
