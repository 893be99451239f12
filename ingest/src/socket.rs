//! The seam between the loop and a WebSocket: a stream of inputs, a sink of frames.
//!
//! [`actix`] is the plain implementation, over actix-ws. Another one gives the same two halves.

use std::error::Error;
use std::io::ErrorKind;
use std::pin::Pin;
use std::task::{Context, Poll};

use actix_web::error::PayloadError;
use actix_ws::{AggregatedMessage, CloseReason, Message, MessageStream, ProtocolError};
use bytes::Bytes;
use bytestring::ByteString;
use futures_util::{Sink, Stream, StreamExt as _};

use crate::session::{CloseFrame, Input, Loss};

/// A frame to the client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Frame {
    /// A text message.
    Text(ByteString),
    /// A ping without a payload.
    Ping,
    /// The answer to a ping.
    Pong(Bytes),
    /// The last frame.
    Close(CloseFrame),
}

/// The transport is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Gone;

/// The two halves of a socket held by actix-ws. Reading is cancel safe. The sink has room when
/// actix-ws' own bounded channel (32 frames) has.
pub(crate) fn actix(
    session: actix_ws::Session,
    messages: MessageStream,
    max_message_bytes: usize,
) -> (
    impl Stream<Item = Input> + Unpin,
    impl Sink<Frame, Error = Gone> + Unpin,
) {
    let reader = messages
        .max_frame_size(max_message_bytes)
        .aggregate_continuations()
        .max_continuation_size(max_message_bytes)
        .map(|message| match message {
            Ok(AggregatedMessage::Text(text)) => Input::Text(text),
            Ok(AggregatedMessage::Binary(_)) => Input::Binary,
            Ok(AggregatedMessage::Ping(payload)) => Input::Ping(payload),
            Ok(AggregatedMessage::Pong(_)) => Input::Pong,
            Ok(AggregatedMessage::Close(reason)) => {
                Input::ClientClosed(reason.map(|reason| reason.code.into()))
            }
            Err(error) => Input::Lost(loss(&error)),
        });
    (reader, Writer(session))
}

fn loss(error: &ProtocolError) -> Loss {
    let ProtocolError::Io(error) = error else {
        return match error {
            ProtocolError::Overflow => Loss::TooBig,
            _ => Loss::Protocol,
        };
    };
    if error.kind() == ErrorKind::InvalidData {
        return Loss::NotUtf8;
    }
    let source = error
        .get_ref()
        .and_then(<dyn Error + Send + Sync>::downcast_ref);
    match source {
        // The guard's own, or what is left: the limit on fragmented messages.
        Some(PayloadError::Overflow) | None => Loss::TooBig,
        Some(_) => Loss::Dropped,
    }
}

struct Writer(actix_ws::Session);

impl Sink<Frame> for Writer {
    type Error = Gone;

    fn poll_ready(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Gone>> {
        Pin::new(&mut self.0).poll_ready(cx).map_err(|_closed| Gone)
    }

    fn start_send(mut self: Pin<&mut Self>, frame: Frame) -> Result<(), Gone> {
        let message = match frame {
            Frame::Text(text) => Message::Text(text),
            Frame::Ping => Message::Ping(Bytes::new()),
            Frame::Pong(payload) => Message::Pong(payload),
            Frame::Close(CloseFrame::Code(code)) => Message::Close(Some(CloseReason {
                code: code.0.into(),
                description: Some(code.reason().to_owned()),
            })),
            Frame::Close(_) => Message::Close(None),
        };
        Pin::new(&mut self.0)
            .start_send(message)
            .map_err(|_closed| Gone)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Gone>> {
        Pin::new(&mut self.0).poll_flush(cx).map_err(|_closed| Gone)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Gone>> {
        Pin::new(&mut self.0).poll_close(cx).map_err(|_closed| Gone)
    }
}
