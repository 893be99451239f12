//! Accepts connections and carries requests and responses, within limits.
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::FuturesOrdered;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::api::{Answer, answer};
use crate::node::Node;
use crate::protocol::ProtocolError;

/// Accepts until `stop`; then returns when all connections are closed.
pub(crate) async fn serve(listener: TcpListener, node: Arc<Node>, stop: CancellationToken) {
    let places = Arc::new(Semaphore::new(node.config.max_connections));
    let connections = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => break,
        };
        let (socket, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of descriptors, most likely: closing connections helps, spinning does not.
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                continue;
            }
        };
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
            let limit = node.config.max_connections;
            tracing::warn!(%peer, limit, "refused a connection: there are too many");
            continue;
        };
        let (node, stop) = (Arc::clone(&node), stop.clone());
        connections.spawn(async move {
            let _place = place;
            let served = Box::pin(converse(socket, peer, node));
            let ended = tokio::select! {
                ended = served => ended,
                () = stop.cancelled() => Ok(()),
            };
            match ended {
                Ok(()) => {}
                // A client that was killed, or a network that broke: nobody's fault here.
                Err(error @ Closed::Io(_)) => tracing::debug!(%peer, %error, "lost a connection"),
                Err(error) => tracing::warn!(%peer, %error, "closed a connection"),
            }
        });
    }
    connections.close();
    connections.wait().await;
}

/// Why a connection was closed by this side.
#[derive(Debug, thiserror::Error)]
enum Closed {
    #[error("the connection failed: {0}")]
    Io(#[from] io::Error),
    #[error(transparent)]
    Protocol(#[from] ProtocolError),
    #[error("a request of {size} bytes is over the limit of {limit}")]
    TooLarge { size: i64, limit: usize },
    #[error("the rest of a request did not arrive in time")]
    SlowRequest,
    #[error("the client did not read its response in time")]
    SlowReader,
}

/// A request with the memory it holds.
struct Frame {
    bytes: Bytes,
    held: OwnedSemaphorePermit,
}

type Pending = Pin<Box<dyn Future<Output = Result<Answer, ProtocolError>> + Send>>;

/// Reads requests and writes responses in their order, several requests being answered at a time.
async fn converse(socket: TcpStream, peer: SocketAddr, node: Arc<Node>) -> Result<(), Closed> {
    socket.set_nodelay(true)?;
    let (reader, mut writer) = socket.into_split();
    let (sender, mut frames) = mpsc::channel(1);
    let reading = read_frames(reader, Arc::clone(&node), sender);
    tokio::pin!(reading);
    let mut pending: FuturesOrdered<Pending> = FuturesOrdered::new();
    let mut ended = None;
    loop {
        tokio::select! {
            biased;
            Some(answered) = pending.next(), if !pending.is_empty() => {
                write(&mut writer, answered?, &node).await?;
            }
            Some(frame) = frames.recv(), if pending.len() < node.config.max_in_flight => {
                pending.push_back(Box::pin(respond(Arc::clone(&node), peer, frame)));
            }
            end = &mut reading, if ended.is_none() => ended = Some(end),
            else => return ended.unwrap_or(Ok(())),
        }
    }
}

async fn respond(node: Arc<Node>, peer: SocketAddr, frame: Frame) -> Result<Answer, ProtocolError> {
    let Frame { bytes, held } = frame;
    let answered = answer(node, peer, bytes).await;
    drop(held);
    answered
}

/// Reads requests until the client closes, is silent for too long, or breaks a limit.
async fn read_frames(
    mut reader: OwnedReadHalf,
    node: Arc<Node>,
    frames: mpsc::Sender<Frame>,
) -> Result<(), Closed> {
    let limit = node.config.max_request_bytes;
    loop {
        let begun = timeout(node.config.idle_timeout(), reader.read_i32()).await;
        // Otherwise the client went away, in the ordinary way or another, or has been silent.
        let Ok(Ok(size)) = begun else { return Ok(()) };
        let permits = u32::try_from(size)
            .ok()
            .filter(|size| (1..=limit).contains(&(*size as usize)));
        let Some(permits) = permits else {
            return Err(Closed::TooLarge {
                size: size.into(),
                limit,
            });
        };
        let memory = Arc::clone(&node.memory).acquire_many_owned(permits).await;
        let Ok(held) = memory else { return Ok(()) };
        let mut bytes = vec![0; permits as usize];
        match timeout(node.config.io_timeout(), reader.read_exact(&mut bytes)).await {
            Ok(Ok(_)) => {}
            Ok(Err(_)) => return Ok(()),
            Err(_) => return Err(Closed::SlowRequest),
        }
        if frames
            .send(Frame {
                bytes: bytes.into(),
                held,
            })
            .await
            .is_err()
        {
            return Ok(());
        }
    }
}

async fn write(writer: &mut OwnedWriteHalf, answer: Answer, node: &Node) -> Result<(), Closed> {
    let Answer {
        bytes: Some(bytes),
        held,
    } = answer
    else {
        return Ok(());
    };
    let written = timeout(node.config.io_timeout(), writer.write_all(&bytes)).await;
    drop(held);
    written
        .map_err(|_elapsed| Closed::SlowReader)?
        .map_err(Closed::Io)
}
