//! Tells a newcomer what runs, and three lines to try it with.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use runtime::{Clock, Health, Secret};

use crate::{console, token};

const TOKEN_TTL: Duration = Duration::from_hours(24);
const POLL: Duration = Duration::from_millis(50);

/// What `sumu dev` says once it is ready.
#[derive(Debug)]
pub(super) struct Welcome {
    pub(super) listen: SocketAddr,
    /// The socket's URL.
    pub(super) socket: String,
    /// Where Kafka clients connect.
    pub(super) brokers: String,
    pub(super) data: PathBuf,
    pub(super) secret: Option<Secret>,
    /// Whether other machines can reach it.
    pub(super) open: bool,
}

impl Welcome {
    pub(super) async fn when_ready(self, health: Health) {
        while health.readiness().is_err() {
            tokio::time::sleep(POLL).await;
        }
        if self.open {
            tracing::warn!("other machines can reach this: `sumu dev` is for development");
        }
        if let Err(error) = console::line(self.text(&program())) {
            tracing::warn!(%error, "nobody reads what this says");
        }
    }

    fn text(&self, sumu: &str) -> String {
        let Self {
            listen,
            socket,
            brokers,
            data,
            ..
        } = self;
        let data = data.display();
        let token = self.token();
        let elsewhere = match brokers.as_str() {
            "127.0.0.1:9092" => String::new(),
            other => format!(" --brokers {other}"),
        };
        format!(
            "\n  sumu dev is ready, data in {data}\n\n  \
             socket  {socket}\n  \
             http    http://{listen}  (/v1, /readyz, /metrics)\n  \
             broker  {brokers}  (any Kafka client)\n  \
             token   for alice, 24 hours; more: {sumu} token --sub NAME --data {data}\n\n  \
             Try it, each line in a terminal of its own:\n\n\
             npx wscat -c '{socket}?authorization={token}'\n\
             {sumu} notify{elsewhere} --user alice '{{\"hello\":\"world\"}}'\n\
             {sumu} tail{elsewhere} presence --from beginning\n"
        )
    }

    fn token(&self) -> String {
        let signed = (self.secret.as_ref())
            .zip("alice".parse().ok())
            .and_then(|(secret, user)| token::sign(secret, &user, TOKEN_TTL, Clock::system()).ok());
        signed.unwrap_or_else(|| "TOKEN".into())
    }
}

/// How this program is called in a shell: by its path, if it was started by one.
fn program() -> String {
    let first = std::env::args().next().unwrap_or_default();
    if first.contains('/') {
        first
    } else {
        "sumu".into()
    }
}
