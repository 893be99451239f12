//! Holds many sockets, reads frames by hand and keeps the latency of each delivery.
//!
//! An idle socket costs a task and no buffer: all that one thread reads goes through one buffer of its own.

use std::cell::RefCell;
use std::future::poll_fn;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use futures_util::stream::{self, StreamExt as _};
use hdrhistogram::Histogram;
use tokio::io::{AsyncRead as _, AsyncReadExt as _, AsyncWriteExt as _, ReadBuf};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::AbortHandle;

use crate::frames::{self, Kind};

/// Sockets from one address. With many, those of a moment ago among them, finding a free port takes longer than
/// all else, and connects come so slowly that the server has nothing to do together.
const PER_ADDRESS: usize = 1_000;
/// Sockets that were opened by this process.
static OPENED: AtomicUsize = AtomicUsize::new(0);
const AT_ONCE: usize = 64;
const SHARDS: usize = 16;
const READ_BYTES: usize = 64 * 1024;

thread_local! {
    static BUFFER: RefCell<Vec<u8>> = RefCell::new(vec![0; READ_BYTES]);
}

/// What all sockets saw.
#[derive(Debug)]
pub(crate) struct Seen {
    frames: AtomicU64,
    ended: AtomicU64,
    latency: Vec<Mutex<Histogram<u64>>>,
}

/// One open socket. It ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Socket {
    write: OwnedWriteHalf,
    /// Without a reader, the socket never reads.
    reader: Option<AbortHandle>,
    _unread: Option<OwnedReadHalf>,
}

/// The open sockets, in the order of their numbers.
#[derive(Debug)]
pub(crate) struct Load {
    pub(crate) seen: Arc<Seen>,
    pub(crate) sockets: Vec<Socket>,
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
    let mut load = Load::new()?;
    let paths = (0..count).map(path).collect();
    load.add(&[to], paths, true).await?;
    Ok(load)
}

/// Opens one socket; its frames are noted in `seen`.
pub(crate) async fn connect(
    to: SocketAddr,
    number: usize,
    path: String,
    seen: Arc<Seen>,
) -> anyhow::Result<Socket> {
    let stream = handshake(to, number, &path, None).await?;
    let (read, write) = stream.into_split();
    let reader = tokio::spawn(listen(read, seen, number)).abort_handle();
    Ok(Socket {
        write,
        reader: Some(reader),
        _unread: None,
    })
}

/// Opens a socket with a small window that never reads what comes.
async fn connect_deaf(to: SocketAddr, number: usize, path: String) -> anyhow::Result<Socket> {
    let stream = handshake(to, number, &path, Some(4_096)).await?;
    let (read, write) = stream.into_split();
    Ok(Socket {
        write,
        reader: None,
        _unread: Some(read),
    })
}

impl Load {
    /// No sockets yet.
    pub(crate) fn new() -> anyhow::Result<Self> {
        let histogram = || Histogram::new_with_bounds(1, 600_000_000_000, 3).map(Mutex::new);
        let latency = (0..SHARDS).map(|_| histogram()).collect::<Result<_, _>>()?;
        let seen = Arc::new(Seen {
            frames: AtomicU64::new(0),
            ended: AtomicU64::new(0),
            latency,
        });
        Ok(Self {
            seen,
            sockets: vec![],
        })
    }

    /// Opens one socket for each request target, some at a time, at these addresses in turn.
    pub(crate) async fn add(
        &mut self,
        to: &[SocketAddr],
        paths: Vec<String>,
        reads: bool,
    ) -> anyhow::Result<()> {
        let first = self.sockets.len();
        let count = paths.len();
        self.sockets.reserve(count);
        let addresses = to.iter().copied().cycle();
        let numbered = (first..).zip(paths).zip(addresses);
        let mut opening = stream::iter(numbered)
            .map(|((number, path), to)| {
                let seen = reads.then(|| Arc::clone(&self.seen));
                tokio::spawn(connect_one(to, number, path, seen))
            })
            .buffered(AT_ONCE);
        while let Some(opened) = opening.next().await {
            self.sockets.push(opened??);
        }
        anyhow::ensure!(
            self.sockets.len() == first + count,
            "no address to connect to"
        );
        Ok(())
    }
}

async fn connect_one(
    to: SocketAddr,
    number: usize,
    path: String,
    seen: Option<Arc<Seen>>,
) -> anyhow::Result<Socket> {
    match seen {
        Some(seen) => connect(to, number, path, seen).await,
        None => connect_deaf(to, number, path).await,
    }
}

impl Socket {
    /// Writes a whole frame.
    pub(crate) async fn write(&mut self, frame: &[u8]) -> anyhow::Result<()> {
        Ok(self.write.write_all(frame).await?)
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if let Some(reader) = &self.reader {
            reader.abort();
        }
    }
}

/// An address that is this process's own for a while, in 127.0.0.0/8.
fn next_source() -> anyhow::Result<IpAddr> {
    let address = OPENED.fetch_add(1, Ordering::Relaxed) / PER_ADDRESS;
    let process = usize::try_from(std::process::id())?;
    let part = |number: usize| u8::try_from(1 + number % 250);
    let (second, third) = (part(process)?, part(process / 250 + address / 250)?);
    Ok(IpAddr::V4(Ipv4Addr::new(
        127,
        second,
        third,
        part(address)?,
    )))
}

async fn handshake(
    to: SocketAddr,
    number: usize,
    path: &str,
    window: Option<u32>,
) -> anyhow::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    if let Some(bytes) = window {
        socket.set_recv_buffer_size(bytes)?;
    }
    if to.ip().is_loopback() {
        socket.bind(SocketAddr::new(next_source()?, 0))?;
    }
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
    Ok(stream)
}

/// Reads the answer's head, and no byte more: a frame may follow it at once.
async fn answer(stream: &mut TcpStream) -> anyhow::Result<()> {
    const END: &[u8] = b"\r\n\r\n";
    let mut head = [0_u8; 1024];
    let mut length = 0;
    loop {
        let seen = stream
            .peek(head.get_mut(length..).unwrap_or_default())
            .await?;
        anyhow::ensure!(seen > 0, "the server left, or its answer is too long");
        let known = head.get(..length + seen).unwrap_or_default();
        let end = known.windows(END.len()).position(|w| w == END);
        let whole = end.map_or(length + seen, |at| at + END.len());
        let part = head.get_mut(length..whole).unwrap_or_default();
        stream.read_exact(part).await?;
        length = whole;
        if end.is_some() {
            break;
        }
    }
    let head = head.get(..length).unwrap_or_default();
    anyhow::ensure!(
        head.starts_with(b"HTTP/1.1 101"),
        "{}",
        String::from_utf8_lossy(head)
    );
    Ok(())
}

/// Reads frames until the socket ends, and answers pings.
async fn listen(mut read: OwnedReadHalf, seen: Arc<Seen>, number: usize) {
    let mut begun = Vec::new();
    let mut open = true;
    while open {
        open = poll_fn(|cx| {
            BUFFER.with_borrow_mut(|buffer| {
                let mut into = ReadBuf::new(buffer);
                match Pin::new(&mut read).poll_read(cx, &mut into) {
                    Poll::Pending => Poll::Pending,
                    Poll::Ready(Ok(())) if !into.filled().is_empty() => {
                        seen.take(into.filled(), &mut begun, number, read.as_ref());
                        Poll::Ready(true)
                    }
                    Poll::Ready(_) => Poll::Ready(false),
                }
            })
        })
        .await;
    }
    seen.ended.fetch_add(1, Ordering::Relaxed);
}

impl Seen {
    /// Notes the whole frames among these bytes; `begun` keeps the part of one that is still to come.
    fn take(&self, bytes: &[u8], begun: &mut Vec<u8>, number: usize, stream: &TcpStream) {
        if begun.is_empty() {
            let used = self.note(bytes, number, stream);
            begun.extend_from_slice(bytes.get(used..).unwrap_or_default());
            return;
        }
        begun.extend_from_slice(bytes);
        let used = self.note(begun, number, stream);
        begun.drain(..used);
        if begun.is_empty() {
            *begun = Vec::new();
        }
    }

    /// Answers how many bytes were whole frames.
    fn note(&self, bytes: &[u8], number: usize, stream: &TcpStream) -> usize {
        let (now, mut used, mut timed) = (now(), 0, 0);
        let mut latency = None;
        while let Some(frame) = frames::first(bytes.get(used..).unwrap_or_default()) {
            used += frame.length;
            match (frame.kind, frames::due(frame.payload)) {
                (Kind::Text, Some(due)) => {
                    timed += 1;
                    let shard = self.latency.get(number % SHARDS);
                    latency = latency.or_else(|| shard.map(lock));
                    if let Some(latency) = &mut latency {
                        latency.saturating_record(now.saturating_sub(due).max(1));
                    }
                }
                (Kind::Ping, _) => {
                    // A pong that does not fit now is as good as one that was lost.
                    let _unsent = stream.try_write(&frames::pong(frame.payload));
                }
                (Kind::Text | Kind::Other, _) => {}
            }
        }
        drop(latency);
        self.frames.fetch_add(timed, Ordering::Relaxed);
        used
    }

    /// Text frames that say when they were due, since the last [`Seen::reset`].
    pub(crate) fn frames(&self) -> u64 {
        self.frames.load(Ordering::Relaxed)
    }

    /// Reading sockets that the server ended.
    pub(crate) fn ended(&self) -> u64 {
        self.ended.load(Ordering::Relaxed)
    }

    /// Milliseconds at a quantile, since the last [`Seen::reset`].
    pub(crate) fn latency(&self, quantile: f64) -> anyhow::Result<f64> {
        let mut all = Histogram::<u64>::new_with_bounds(1, 600_000_000_000, 3)?;
        for shard in &self.latency {
            all.add(&*lock(shard))?;
        }
        Ok(Duration::from_nanos(all.value_at_quantile(quantile)).as_secs_f64() * 1e3)
    }

    /// Begins a new measurement.
    pub(crate) fn reset(&self) {
        self.frames.store(0, Ordering::Relaxed);
        for shard in &self.latency {
            lock(shard).reset();
        }
    }

    /// Waits until that many frames came, for a minute at most.
    pub(crate) async fn until(&self, frames: u64) -> anyhow::Result<()> {
        for _ in 0..60_000 {
            if self.frames() >= frames {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        anyhow::bail!(
            "{} of {frames} frames came within a minute; {} sockets were ended",
            self.frames(),
            self.ended()
        )
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
