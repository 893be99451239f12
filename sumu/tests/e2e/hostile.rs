//! Surrounds ordinary clients with hostile ones: the process keeps its memory, and the others their deliveries.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::check::Target;
use crate::dev::Dev;
use crate::device::{Device, Shared};
use crate::kafka::Producer;
use crate::until;

const CALM: usize = 8;
/// Of each kind.
const HOSTILE: usize = 12;
/// Notifications whose way is timed, in the quiet and in the loud run.
const ROUNDS: u64 = 100;
/// `SUMU__INGEST__LIMITS__…` below, in bytes.
const MAX_MESSAGE: usize = 64 << 10;
const MAX_QUEUED: usize = 256 << 10;

/// What a client does to the server.
#[derive(Clone, Copy, Debug)]
enum Kind {
    /// Connects and says nothing.
    Mute,
    /// Sends the first half of a request.
    HalfRequest,
    /// Sends a header that does not end.
    EndlessHeader,
    /// Opens a socket and neither reads nor writes.
    NeverReads,
    /// Reads a byte a second.
    ReadsSlowly,
    /// Sends a frame byte by byte.
    ByteByByte,
    /// Sends pings as fast as it can, and reads no pong.
    Pings,
    /// Sends a message of tiny fragments that does not end.
    Fragments,
    /// Announces a message of a gibibyte.
    Announces,
}

const KINDS: [Kind; 9] = [
    Kind::Mute,
    Kind::HalfRequest,
    Kind::EndlessHeader,
    Kind::NeverReads,
    Kind::ReadsSlowly,
    Kind::ByteByByte,
    Kind::Pings,
    Kind::Fragments,
    Kind::Announces,
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hostile_clients_cost_bounded_memory_and_harm_nobody() {
    let _alone = crate::busy().await;
    let dev = Dev::start_with(&[
        ("SUMU__INGEST__LIMITS__MAX_MESSAGE_BYTES", "65536"),
        ("SUMU__INGEST__LIMITS__MAX_QUEUED_BYTES", "262144"),
    ])
    .await;
    let journal = Shared::default();
    let start = |n: usize| {
        let name = format!("calm-{n}");
        let (token, edge) = (dev.token(&name), vec![dev.socket()]);
        Device::start(&name, token, edge, 0, Arc::clone(&journal))
    };
    let _calm: Vec<Device> = (0..CALM).map(start).collect();
    until("the calm ones are connected", || {
        journal.lock().unwrap().sessions.len() == CALM
    })
    .await;
    let producer = Producer::new(&dev.brokers());
    let quiet = percentile_99(&dev, &producer, &journal, 0).await;
    let before = dev.resident();

    let connects = Arc::new(AtomicUsize::new(0));
    let mut hostile = JoinSet::new();
    let address = dev.http().replace("http://", "");
    let token = dev.token("hostile");
    for kind in KINDS.repeat(HOSTILE) {
        let (address, token) = (address.clone(), token.clone());
        let connects = Arc::clone(&connects);
        hostile.spawn(async move {
            loop {
                // However it ends, the next one comes.
                let _refused_or_closed = attack(kind, &address, &token, &connects).await;
                sleep(Duration::from_millis(200)).await;
            }
        });
    }
    until("the hostile ones are there", || {
        connects.load(Ordering::Relaxed) >= KINDS.len() * HOSTILE
    })
    .await;
    let loud = percentile_99(&dev, &producer, &journal, ROUNDS).await;
    let grown = dev.resident().saturating_sub(before);
    hostile.shutdown().await;

    eprintln!("p99 quiet {quiet:?}, among hostile clients {loud:?}; {grown} bytes more");
    let journal = journal.lock().unwrap();
    assert_eq!(
        journal.sessions.len(),
        CALM,
        "a calm client lost its socket"
    );
    // A message and what is read of it, answers, and notifications; and for all of it together, what the
    // allocator keeps.
    let each = 2 * MAX_MESSAGE + MAX_QUEUED + (32 << 10);
    let bound = KINDS.len() * HOSTILE * each + (32 << 20);
    assert!(grown < bound, "{grown} bytes more, not {bound}");
    let bound = 10 * quiet + Duration::from_secs(5);
    assert!(loud < bound, "p99 {loud:?}, and {quiet:?} when quiet");
}

/// Sends notifications to everybody, one after the other; answers how long nearly all took to reach
/// each calm client.
async fn percentile_99(dev: &Dev, producer: &Producer, journal: &Shared, from: u64) -> Duration {
    let mut times = vec![];
    for n in from..from + ROUNDS {
        let sent = Instant::now();
        let request = Target::default().request(n);
        producer
            .send(&dev.topic("notifications"), Some(&request))
            .await;
        while !reached_all(journal, n) {
            assert!(sent.elapsed() < crate::PATIENCE, "{n} does not come");
            sleep(Duration::from_millis(1)).await;
        }
        times.push(sent.elapsed());
    }
    times.sort_unstable();
    times[times.len() * 99 / 100]
}

fn reached_all(journal: &Shared, n: u64) -> bool {
    let journal = journal.lock().unwrap();
    let mut sessions = journal.sessions.iter();
    sessions.all(|session| session.notifications.last() == Some(&n))
}

/// Until the server closes.
async fn attack(
    kind: Kind,
    address: &str,
    token: &str,
    connects: &AtomicUsize,
) -> std::io::Result<()> {
    const PING: [u8; 131] = {
        let mut frame = [0; 131];
        (frame[0], frame[1]) = (0x89, 0x80 | 125);
        frame
    };
    let mut tcp = TcpStream::connect(address).await?;
    let half = format!("GET /push?authorization={token} HTTP/1.1\r\nHost: {address}\r\n");
    let upgrade = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
                   Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    match kind {
        Kind::Mute => {}
        Kind::HalfRequest | Kind::EndlessHeader => tcp.write_all(half.as_bytes()).await?,
        _ => {
            tcp.write_all(format!("{half}{upgrade}").as_bytes()).await?;
            tcp.read_u8().await?;
        }
    }
    connects.fetch_add(1, Ordering::Relaxed);
    match kind {
        Kind::Mute | Kind::HalfRequest => tcp.read_to_end(&mut vec![]).await.map(drop),
        Kind::NeverReads => {
            sleep(crate::PATIENCE).await;
            Ok(())
        }
        Kind::EndlessHeader => flood(&mut tcp, b"X-More: and-more-and-more\r\n").await,
        Kind::Pings => flood(&mut tcp, &PING).await,
        Kind::Fragments => {
            tcp.write_all(&[0x01, 0x81, 0, 0, 0, 0, b'x']).await?;
            flood(&mut tcp, &[0x00, 0x81, 0, 0, 0, 0, b'x']).await
        }
        Kind::Announces => {
            tcp.write_all(&[0x81, 0xff, 0, 0, 0, 0, 0x40, 0, 0, 0])
                .await?;
            flood(&mut tcp, &[0; 1024]).await
        }
        Kind::ReadsSlowly => loop {
            tcp.read_u8().await?;
            sleep(Duration::from_secs(1)).await;
        },
        Kind::ByteByByte => loop {
            for byte in [0x81, 0x82, 0, 0, 0, 0, b'{', b'}'] {
                tcp.write_all(&[byte]).await?;
                sleep(Duration::from_millis(10)).await;
            }
        },
    }
}

/// As fast as the server takes it, and without a pause when it takes it at once.
async fn flood(tcp: &mut TcpStream, bytes: &[u8]) -> std::io::Result<()> {
    loop {
        tcp.write_all(bytes).await?;
        tokio::task::yield_now().await;
    }
}
