//! Takes a socket over from HTTP, and drops all that HTTP held of it.
//!
//! actix-http hands requests to upgrade to a service of their own, with the connection. That service asks
//! the same application for the answer. A 101 comes with what is to begin; any other answer ends the connection.

use std::future::poll_fn;
use std::pin::pin;

use actix_codec::Framed;
use actix_http::body::{BodySize, BoxBody, MessageBody};
use actix_http::{ConnectionType, HttpMessage as _, Request, Response, StatusCode, h1};
use bytes::Bytes;
use futures_util::SinkExt as _;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::connection::{Begin, Life};
use crate::incoming::Incoming;
use crate::socket::Socket;

/// In a request's extensions: the connection can be taken over.
#[derive(Debug)]
pub(crate) struct Upgradable;

/// A connection to be taken over or ended.
pub(crate) type Upgrading<T> = (Request, Framed<T, h1::Codec>);

/// Marks a request whose connection can be taken over.
pub(crate) fn mark(request: &Request) {
    request.extensions_mut().insert(Upgradable);
}

/// Sends `response`. If it is a 101, begins what came with it; otherwise the connection ends here.
pub(crate) async fn answer<T>(mut response: Response<BoxBody>, mut framed: Framed<T, h1::Codec>)
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let begin = response.extensions_mut().remove::<Begin>();
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        response
            .head_mut()
            .set_connection_type(ConnectionType::Close);
    }
    if let Err(error) = send(response, &mut framed).await {
        tracing::debug!(%error, "a client left before it was answered");
        return;
    }
    let parts = framed.into_parts();
    match begin {
        Some(Begin {
            edge,
            opened,
            session,
        }) => {
            // What the client sent without waiting for the answer.
            let early = &parts.read_buf;
            let limits = edge.config.limits.message();
            let inflates = opened.inbox.mailbox().window.is_some();
            let incoming = Incoming::new(limits, early).inflating(inflates);
            let socket = Socket::new(parts.io, incoming);
            Life::begin(edge, socket, opened, session);
        }
        None => {
            let mut io = parts.io;
            let ended = poll_fn(|cx| std::pin::Pin::new(&mut io).poll_shutdown(cx)).await;
            ended.unwrap_or_else(|error| tracing::debug!(%error, "a client was gone"));
        }
    }
}

/// Sends a response, its body as it comes.
async fn send<T>(
    response: Response<BoxBody>,
    framed: &mut Framed<T, h1::Codec>,
) -> std::io::Result<()>
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    let (head, body) = response.into_parts();
    let size = match body.size() {
        BodySize::Sized(0) if head.status() == StatusCode::SWITCHING_PROTOCOLS => BodySize::None,
        size => size,
    };
    framed.feed(h1::Message::Item((head, size))).await?;
    let mut body = pin!(body);
    while let Some(chunk) = poll_fn(|cx| body.as_mut().poll_next(cx)).await {
        let chunk: Bytes = chunk.map_err(|error| std::io::Error::other(error.to_string()))?;
        framed.send(h1::Message::Chunk(Some(chunk))).await?;
    }
    if size != BodySize::None {
        framed.feed(h1::Message::Chunk(None)).await?;
    }
    futures_util::SinkExt::<h1::Message<(Response<()>, BodySize)>>::flush(framed).await
}
