//! Holds many sockets, reads frames by hand and keeps the latency of each delivery.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context;
use hdrhistogram::Histogram;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpSocket, TcpStream};

/// Above about this many sockets from one address to one port, `connect` itself slows down.
const PER_ADDRESS: usize = 5_000;
const AT_ONCE: usize = 64;

/// What all sockets saw.
#[derive(Debug)]
pub(crate) struct Seen {
    pub frames: AtomicU64,
    latency: Mutex<Histogram<u64>>,
}

/// The open sockets' writing halves, in the order of their numbers.
pub(crate) struct Load {
    pub seen: Arc<Seen>,
    pub sockets: Vec<OwnedWriteHalf>,
}

/// Nanoseconds since the Unix epoch.
#[expect(clippy::disallowed_methods, reason = "a load generator measures time")]
pub(crate) fn now() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// Opens `count` sockets; `path` gives the request target of each.
pub(crate) async fn open(
    to: SocketAddr,
    count: usize,
    path: impl Fn(usize) -> String,
) -> anyhow::Result<Load> {
    let latency = Histogram::new_with_bounds(1, 600_000_000_000, 3)?;
    let seen = Arc::new(Seen {
        frames: AtomicU64::new(0),
        latency: Mutex::new(latency),
    });
    let mut sockets = Vec::with_capacity(count);
    for first in (0..count).step_by(AT_ONCE) {
        let batch = (first..count.min(first + AT_ONCE))
            .map(|i| tokio::spawn(connect(to, i, path(i), Arc::clone(&seen))));
        for opened in batch.collect::<Vec<_>>() {
            sockets.push(opened.await??);
        }
    }
    Ok(Load { seen, sockets })
}

/// Opens one socket; its frames are noted in `seen`.
pub(crate) async fn connect(
    to: SocketAddr,
    number: usize,
    path: String,
    seen: Arc<Seen>,
) -> anyhow::Result<OwnedWriteHalf> {
    let socket = TcpSocket::new_v4()?;
    let host = u8::try_from(2 + number / PER_ADDRESS)?;
    socket.bind(SocketAddr::new(
        IpAddr::V4(Ipv4Addr::new(127, 0, 0, host)),
        0,
    ))?;
    let mut stream = socket.connect(to).await?;
    stream.set_nodelay(true)?;
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: {to}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await?;
    answer(&mut stream)
        .await
        .with_context(|| format!("socket {number}"))?;
    let (read, write) = stream.into_split();
    tokio::spawn(listen(read, seen));
    Ok(write)
}

/// Reads the answer's head byte by byte: a frame may follow it at once.
async fn answer(stream: &mut TcpStream) -> anyhow::Result<()> {
    let mut head = Vec::with_capacity(256);
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
    }
    anyhow::ensure!(
        head.starts_with(b"HTTP/1.1 101"),
        "{}",
        String::from_utf8_lossy(&head)
    );
    Ok(())
}

/// Reads frames until the socket ends.
async fn listen(mut read: OwnedReadHalf, seen: Arc<Seen>) {
    let mut buffer: Vec<u8> = Vec::new();
    loop {
        // Waiting with no buffer keeps an idle socket small.
        if buffer.is_empty() {
            buffer = Vec::new();
            if read.readable().await.is_err() {
                return;
            }
            buffer.reserve(4096);
        }
        match read.read_buf(&mut buffer).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        let now = now();
        let mut used = 0;
        while let Some((text, length)) = first_frame(buffer.get(used..).unwrap_or_default()) {
            if text {
                let payload = buffer.get(used..used + length).unwrap_or_default();
                seen.note(payload, now);
            }
            used += length;
        }
        buffer.drain(..used);
    }
}

/// Whether the first whole frame is text, and how many bytes it takes, head included.
fn first_frame(bytes: &[u8]) -> Option<(bool, usize)> {
    let (first, second) = (*bytes.first()?, *bytes.get(1)?);
    let length = match second & 0x7f {
        126 => 4 + usize::from(u16::from_be_bytes([*bytes.get(2)?, *bytes.get(3)?])),
        127 => 10 + usize::try_from(u64::from_be_bytes(*bytes.get(2..)?.first_chunk()?)).ok()?,
        short => 2 + usize::from(short),
    };
    (bytes.len() >= length).then_some((first & 0x0f == 1, length))
}

impl Seen {
    /// Counts a frame, and its latency if the payload says when it was due: `"at":NANOSECONDS`.
    fn note(&self, frame: &[u8], now: u64) {
        self.frames.fetch_add(1, Ordering::Relaxed);
        let Some(at) = frame.windows(5).position(|w| w == b"\"at\":") else {
            return;
        };
        let digits = frame
            .get(at + 5..)
            .unwrap_or_default()
            .iter()
            .take_while(|b| b.is_ascii_digit());
        let due = digits.fold(0_u64, |n, b| n * 10 + u64::from(b - b'0'));
        let mut latency = self.latency.lock().unwrap_or_else(PoisonError::into_inner);
        latency.saturating_record(now.saturating_sub(due).max(1));
    }

    /// The latency at a quantile, since the last [`Seen::reset`].
    pub(crate) fn latency(&self, quantile: f64) -> Duration {
        let latency = self.latency.lock().unwrap_or_else(PoisonError::into_inner);
        Duration::from_nanos(latency.value_at_quantile(quantile))
    }

    /// Begins a new measurement.
    pub(crate) fn reset(&self) {
        self.frames.store(0, Ordering::Relaxed);
        self.latency
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .reset();
    }

    /// Waits until that many frames came, for a minute at most.
    pub(crate) async fn until(&self, frames: u64) -> anyhow::Result<()> {
        for _ in 0..60_000 {
            if self.frames.load(Ordering::Relaxed) >= frames {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        anyhow::bail!(
            "{} of {frames} frames came within a minute",
            self.frames.load(Ordering::Relaxed)
        )
    }
}

/// A text frame from a client, masked with zeros (RFC 6455 §5.3 asks for a mask, not for a good one).
pub(crate) fn client_frame(text: &str) -> anyhow::Result<Vec<u8>> {
    let length = u8::try_from(text.len())
        .ok()
        .filter(|l| *l < 126)
        .context("a short frame")?;
    let mut frame = vec![0x81, 0x80 | length, 0, 0, 0, 0];
    frame.extend_from_slice(text.as_bytes());
    Ok(frame)
}
