//! Makes tokens with real keys, as good or as bad as asked for, and publishes keys as providers do.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, EncodingKey, crypto};
use runtime::Health;
use schemas::Millis;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::auth::config::{Config, Fetch};
use crate::auth::{Authorizer as _, Principal, Refusal, Verifier};

/// When tokens are checked.
pub(crate) const NOW: Millis = Millis(1_800_000_000_000);
pub(crate) const SECRET: &str =
    "a secret of more than sixty-four bytes, which even HS512 is content with";
/// Longer than anything takes on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

macro_rules! pem {
    ($name:literal) => {
        include_str!(concat!("../../../tests/keys/", $name, ".pem"))
    };
}

pub(crate) const RSA: &str = pem!("rsa");
pub(crate) const RSA_PUBLIC: &str = pem!("rsa.pub");
pub(crate) const OTHER_RSA: &str = pem!("other-rsa");
pub(crate) const WEAK_RSA_PUBLIC: &str = pem!("weak-rsa.pub");
pub(crate) const P256: &str = pem!("p256");
pub(crate) const P256_PUBLIC: &str = pem!("p256.pub");
pub(crate) const P384: &str = pem!("p384");
pub(crate) const P384_PUBLIC: &str = pem!("p384.pub");
pub(crate) const P521_PUBLIC: &str = pem!("p521.pub");
pub(crate) const ED25519: &str = pem!("ed25519");
pub(crate) const ED25519_PUBLIC: &str = pem!("ed25519.pub");
pub(crate) const RSA_CERTIFICATE: &str = pem!("rsa.crt");
pub(crate) const RSA_EXPIRED: &str = pem!("rsa-expired.crt");
pub(crate) const RSA_FUTURE: &str = pem!("rsa-future.crt");
pub(crate) const P256_CERTIFICATE: &str = pem!("p256.crt");

/// The key that signs with that algorithm: a private key in PEM, or a secret.
pub(crate) fn signer(algorithm: Algorithm, key: &str) -> EncodingKey {
    let pem = key.as_bytes();
    match algorithm {
        Algorithm::HS256 | Algorithm::HS384 | Algorithm::HS512 => EncodingKey::from_secret(pem),
        Algorithm::ES256 | Algorithm::ES384 => EncodingKey::from_ec_pem(pem).unwrap(),
        Algorithm::EdDSA => EncodingKey::from_ed_pem(pem).unwrap(),
        _ => EncodingKey::from_rsa_pem(pem).unwrap(),
    }
}

pub(crate) fn encoded(part: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(part)
}

/// A token of just these bytes, signed with `algorithm`, whatever they say.
pub(crate) fn compact(
    header: impl AsRef<[u8]>,
    payload: impl AsRef<[u8]>,
    algorithm: Algorithm,
    key: &str,
) -> String {
    let message = format!("{}.{}", encoded(header), encoded(payload));
    let signature = crypto::sign(message.as_bytes(), &signer(algorithm, key), algorithm).unwrap();
    format!("{message}.{signature}")
}

/// A token whose header says what it is signed with, and which key, if any.
pub(crate) fn token(algorithm: Algorithm, key: &str, kid: Option<&str>, claims: &Value) -> String {
    let mut header = json!({"alg": algorithm, "typ": "JWT"});
    if let Some(kid) = kid {
        header["kid"] = kid.into();
    }
    compact(header.to_string(), claims.to_string(), algorithm, key)
}

/// So many seconds after [`NOW`].
pub(crate) fn seconds(after_now: i64) -> i64 {
    NOW.0 / 1000 + after_now
}

/// Alice's claims with these instead; `null` takes one away.
pub(crate) fn claims(changes: &Value) -> Value {
    let mut claims = json!({"sub": "alice", "exp": seconds(60)});
    for (name, value) in changes.as_object().unwrap() {
        if value.is_null() {
            claims.as_object_mut().unwrap().remove(name);
        } else {
            claims[name] = value.clone();
        }
    }
    claims
}

/// The public part of a key as a JSON Web Key, with these members instead; `null` takes one away.
pub(crate) fn jwk(algorithm: Algorithm, key: &str, changes: &Value) -> Value {
    let jwk = Jwk::from_encoding_key(&signer(algorithm, key), algorithm).unwrap();
    let mut jwk = serde_json::to_value(jwk).unwrap();
    for (name, value) in changes.as_object().unwrap() {
        if value.is_null() {
            jwk.as_object_mut().unwrap().remove(name);
        } else {
            jwk[name] = value.clone();
        }
    }
    jwk
}

/// The public part of an RSA key of 1024 bits.
pub(crate) fn weak_jwk() -> Value {
    let modulus = [&[0xff], &[7; 127][..]].concat();
    json!({"kty": "RSA", "kid": "weak", "n": encoded(modulus), "e": "AQAB"})
}

/// A verifier that keeps its keys fresh until it is dropped.
pub(crate) struct Running {
    pub(crate) verifier: Arc<Verifier>,
    pub(crate) health: Health,
    _end: DropGuard,
}

impl Running {
    pub(crate) fn start(config: Config) -> Self {
        let verifier = Arc::new(Verifier::new(config).unwrap());
        let (health, end) = (Health::new(), CancellationToken::new());
        let components = verifier.components(&health);
        let (task, until) = (Arc::clone(&verifier), end.clone());
        tokio::spawn(async move { task.run(components, until).await });
        Self {
            verifier,
            health,
            _end: end.drop_guard(),
        }
    }

    pub(crate) async fn check(&self, token: &str) -> Result<Principal, Refusal> {
        self.verifier.authorize(token, NOW).await
    }

    /// Waits until the health is so.
    pub(crate) async fn ready(&self, wanted: bool) {
        let met = async {
            while self.health.readiness().is_ok() != wanted {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(PATIENCE, met).await.expect("never");
    }

    /// Waits until the reason for not being ready says so.
    pub(crate) async fn says(&self, wanted: &str) {
        let met = async {
            while !self.reason().contains(wanted) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(PATIENCE, met).await.expect(wanted);
    }

    /// Why it is not ready.
    pub(crate) fn reason(&self) -> String {
        format!("{:?}", self.health.readiness())
    }
}

/// What a provider answers at a path.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: String,
    pub(crate) body: Vec<u8>,
    pub(crate) after: Duration,
}

impl Answer {
    pub(crate) fn json(body: &Value) -> Self {
        Self::body(body.to_string())
    }

    pub(crate) fn body(body: impl Into<Vec<u8>>) -> Self {
        Self {
            status: 200,
            headers: String::new(),
            body: body.into(),
            after: Duration::ZERO,
        }
    }
}

/// An identity provider on this machine.
pub(crate) struct Provider {
    pub(crate) address: SocketAddr,
    answers: Arc<Mutex<HashMap<String, Answer>>>,
    asked: Arc<AtomicUsize>,
    task: tokio::task::JoinHandle<()>,
}

impl Provider {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (answers, asked) = (Arc::default(), Arc::default());
        let task = tokio::spawn(serve(listener, Arc::clone(&answers), Arc::clone(&asked)));
        Self {
            address,
            answers,
            asked,
            task,
        }
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// How keys are fetched from it: nothing but a fetch by an unknown key follows the first.
    pub(crate) fn fetch(&self) -> Fetch {
        Fetch {
            http_hosts: vec![self.address.to_string()],
            ..Fetch::default()
        }
    }

    pub(crate) fn answer(&self, path: &str, answer: Answer) {
        self.answers.lock().unwrap().insert(path.to_owned(), answer);
    }

    /// How often it was asked for anything.
    pub(crate) fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

impl Drop for Provider {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(
    listener: TcpListener,
    answers: Arc<Mutex<HashMap<String, Answer>>>,
    asked: Arc<AtomicUsize>,
) {
    loop {
        let (socket, _) = listener.accept().await.unwrap();
        let (answers, asked) = (Arc::clone(&answers), Arc::clone(&asked));
        tokio::spawn(async move {
            let found = |path: &str| answers.lock().unwrap().get(path).cloned();
            // A client that gives up in the middle is a case of some tests.
            drop(respond(socket, &asked, found).await);
        });
    }
}

async fn respond(
    mut socket: TcpStream,
    asked: &AtomicUsize,
    found: impl Fn(&str) -> Option<Answer>,
) -> std::io::Result<()> {
    let mut request = vec![];
    while !request.ends_with(b"\r\n\r\n") {
        request.push(socket.read_u8().await?);
    }
    asked.fetch_add(1, Ordering::SeqCst);
    let request = String::from_utf8_lossy(&request);
    let path = request.split(' ').nth(1).unwrap_or_default();
    let answer = found(path).unwrap_or_else(|| Answer {
        status: 404,
        ..Answer::body("")
    });
    tokio::time::sleep(answer.after).await;
    let head = format!(
        "HTTP/1.1 {} x\r\nconnection: close\r\ncontent-length: {}\r\n{}\r\n",
        answer.status,
        answer.body.len(),
        answer.headers,
    );
    socket.write_all(head.as_bytes()).await?;
    socket.write_all(&answer.body).await?;
    socket.shutdown().await
}
