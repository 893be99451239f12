//! Sends batches to edges over HTTP.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use reqwest::{Client, Response, StatusCode, header, redirect};
use runtime::secret::Secret;
use runtime::tls;
use schemas::push::{self, PushItem, PushReply};
use schemas::{DecodeError, EdgeId, Epoch};
use serde::Serialize;

use crate::config;
use crate::dispatcher::Failure;
use crate::outbox::{Parcel, Request};

/// Edges, as a pusher sees them.
pub trait EdgeClient: Send + Sync + Debug {
    /// Sends one request; the reply has as many batches as the request. Cancelled, or failed without
    /// an answer, it may still be applied.
    ///
    /// # Errors
    /// [`PushError`]; its [`PushError::failure`] says what follows.
    fn push<'a>(&'a self, request: &'a Request) -> BoxFuture<'a, Result<PushReply, PushError>>;

    /// Whether there is an answer of any kind at that push URL. Cancel safe.
    fn answers<'a>(&'a self, push_url: &'a str) -> BoxFuture<'a, bool>;
}

/// Why an edge did not take a request.
#[derive(Debug, thiserror::Error)]
pub enum PushError {
    /// There is no connection, or it broke, or no answer came in time.
    #[error("the edge cannot be reached: {0}")]
    Unreachable(reqwest::Error),
    /// 409: another life answers there, or the edge has fenced itself.
    #[error("the edge is of another epoch: {0}")]
    OtherEpoch(String),
    /// 413.
    #[error("the request is too large for the edge")]
    TooLarge,
    /// 401: the two do not share the push secret.
    #[error("the edge refuses the push secret")]
    Unauthorized,
    /// 5xx.
    #[error("the edge cannot take pushes: {0}")]
    Unavailable(StatusCode),
    /// Any other status.
    #[error("the edge answered {status}: {text}")]
    Refused {
        /// What it answered.
        status: StatusCode,
        /// The beginning of the answer's body.
        text: String,
    },
    /// The answer is not a reply.
    #[error("the edge's answer: {0}")]
    Reply(DecodeError),
    /// The answer is a reply to something else.
    #[error("the edge answered {answered} batches of {sent}")]
    Mismatch {
        /// Batches in the answer.
        answered: usize,
        /// Batches in the request.
        sent: usize,
    },
}

impl PushError {
    /// What it means for each of its batches.
    #[must_use]
    pub const fn failure(&self) -> Failure {
        match self {
            Self::Unreachable(_) => Failure::Unreachable,
            Self::OtherEpoch(_) => Failure::OtherEpoch,
            Self::TooLarge => Failure::TooLarge,
            Self::Unavailable(_) => Failure::Unavailable,
            Self::Unauthorized | Self::Refused { .. } | Self::Reply(_) | Self::Mismatch { .. } => {
                Failure::Refused
            }
        }
    }
}

/// Edges over HTTP/1.1 with connections kept alive; no proxies, no redirects.
#[derive(Debug)]
pub struct HttpEdges {
    client: Client,
    secret: Secret,
}

/// The most bytes of an answer that are read.
const MAX_REPLY_BYTES: usize = 16 * 1024 * 1024;
/// Room in a body for what surrounds the items.
const HEAD_BYTES: usize = 512;
/// Where any edge answers, below its push URL.
const HEALTH_PATH: &str = "/healthz";

impl HttpEdges {
    /// Edges that know that secret.
    ///
    /// # Errors
    /// If the TLS roots of this machine cannot be read.
    pub fn new(
        config: &config::Push,
        secret: Secret,
        tls: &tls::Client,
    ) -> Result<Self, reqwest::Error> {
        let client = tls
            .apply(Client::builder())
            .no_proxy()
            .redirect(redirect::Policy::none())
            .connect_timeout(config.connect_timeout)
            .timeout(config.request_timeout)
            .pool_idle_timeout(Duration::from_secs(60))
            .tcp_nodelay(true)
            .build()?;
        Ok(Self { client, secret })
    }
}

impl EdgeClient for HttpEdges {
    fn push<'a>(&'a self, request: &'a Request) -> BoxFuture<'a, Result<PushReply, PushError>> {
        Box::pin(async move {
            let push_url = (request.parcels.first()).map_or("", |parcel| &*parcel.batch.push_url);
            let sending = self
                .client
                .post(format!("{}{}", push_url.trim_end_matches('/'), push::PATH))
                .header(header::CONTENT_TYPE, push::CONTENT_TYPE)
                .header(push::SECRET_HEADER, self.secret.expose())
                .body(encode(request));
            let response = sending.send().await.map_err(unreachable)?;
            let status = response.status();
            let body = beginning(response).await.map_err(unreachable)?;
            let text = || String::from_utf8_lossy(&body).chars().take(200).collect();
            match status {
                StatusCode::OK => reply(&body, request.parcels.len()),
                StatusCode::CONFLICT => Err(PushError::OtherEpoch(text())),
                StatusCode::PAYLOAD_TOO_LARGE => Err(PushError::TooLarge),
                StatusCode::UNAUTHORIZED => Err(PushError::Unauthorized),
                status if status.is_server_error() => Err(PushError::Unavailable(status)),
                status => Err(PushError::Refused {
                    status,
                    text: text(),
                }),
            }
        })
    }

    fn answers<'a>(&'a self, push_url: &'a str) -> BoxFuture<'a, bool> {
        Box::pin(async move {
            let url = format!("{}{HEALTH_PATH}", push_url.trim_end_matches('/'));
            self.client.get(url).send().await.is_ok()
        })
    }
}

/// Without the URL: the caller knows the edge, and logs stay short.
fn unreachable(error: reqwest::Error) -> PushError {
    PushError::Unreachable(error.without_url())
}

async fn beginning(mut response: Response) -> Result<Vec<u8>, reqwest::Error> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        let room = MAX_REPLY_BYTES - body.len();
        body.extend_from_slice(&chunk[..chunk.len().min(room)]);
        if chunk.len() > room {
            break;
        }
    }
    Ok(body)
}

fn reply(body: &[u8], sent: usize) -> Result<PushReply, PushError> {
    let reply = PushReply::decode(body).map_err(PushError::Reply)?;
    match reply.batches.len() {
        answered if answered == sent => Ok(reply),
        answered => Err(PushError::Mismatch { answered, sent }),
    }
}

/// A [`push::PushRequest`] whose items are shared with other requests and later attempts.
#[derive(Serialize)]
struct SharedRequest<'a> {
    edge_id: &'a EdgeId,
    epoch: Epoch,
    topic: &'a str,
    batches: Vec<SharedBatch<'a>>,
}

/// A [`push::PushBatch`] likewise.
#[derive(Serialize)]
struct SharedBatch<'a> {
    incarnation: u64,
    partition: i32,
    settled_below: i64,
    notifications: &'a [Arc<PushItem>],
}

impl<'a> SharedBatch<'a> {
    fn of(parcel: &'a Parcel) -> Self {
        Self {
            incarnation: parcel.source.incarnation,
            partition: parcel.batch.ticket.partition,
            settled_below: parcel.settled_below,
            notifications: &parcel.batch.items,
        }
    }
}

fn encode(request: &Request) -> Vec<u8> {
    let Some(first) = request.parcels.first() else {
        return Vec::new();
    };
    let life = &first.batch.ticket.life;
    let shared = SharedRequest {
        edge_id: &life.edge_id,
        epoch: life.epoch,
        topic: &first.source.topic,
        batches: request.parcels.iter().map(SharedBatch::of).collect(),
    };
    let bytes = request.parcels.iter().map(|parcel| parcel.batch.bytes());
    let room = Vec::with_capacity(HEAD_BYTES + bytes.sum::<usize>());
    // Every length is known and memory is the only sink: serialization cannot fail.
    postcard::to_extend(&shared, room).unwrap_or_default()
}

#[cfg(test)]
mod tests;
