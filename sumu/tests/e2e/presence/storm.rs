//! Row 21: ten thousand users lose their sockets at one moment and are back inside the grace.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use runtime::Timings;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use schemas::ConnectionEvent;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::{names, servers, wall};
use crate::cluster::Cluster;
use crate::judge::{Judge, Logged};
use crate::until;

const USERS: usize = 10_000;
/// How many handshakes are under way at a time.
const AT_ONCE: usize = 256;
/// More from one address to one port slow `connect` down.
const PER_ADDRESS: usize = 2_500;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_21_ten_thousand_reconnect_and_nobody_is_gone() {
    let Some(servers) = servers() else { return };
    allow_descriptors();
    // As long as this machine needs to bring all of them back.
    let timings = Timings {
        heartbeat: Duration::from_secs(1),
        lease: Duration::from_secs(20),
        connection_ttl: Duration::from_mins(10),
        presence_grace: Duration::from_secs(30),
    };
    let settings = [
        ("SUMU__INGEST__LIMITS__SILENCE", "10m"),
        ("SUMU__INGEST__LIMITS__PING_INTERVAL", "5m"),
    ];
    let mut cluster = Cluster::timed(servers, timings, &settings).await;
    cluster.start("ingest", 2).await;
    cluster.start("presence", 1).await;
    let judge = Judge::start(cluster.place("ingest-1"));
    let users: Arc<[String]> = names("user", USERS).into();
    let edges: Vec<SocketAddr> = (cluster.edges().iter())
        .map(|url| url.split('/').nth(2).unwrap().parse().unwrap())
        .collect();

    let sockets = connect(&users, &edges, 0).await;
    until("all are ONLINE", || judge.courses().len() == USERS).await;
    let dropped = wall();
    drop(sockets);
    let sockets = connect(&users, &edges, 1).await;
    let back = wall().since(dropped);
    let opened = || {
        let opens = judge.tally(|event| matches!(event, ConnectionEvent::Opened(_)));
        opens.values().filter(|count| **count == 2).count()
    };
    until("all returns are folded", || opened() == USERS).await;
    // Log time passes the end of every grace, and nobody was gone.
    let drops = judge.events(|event| matches!(event, ConnectionEvent::Closed(_)));
    assert_eq!(drops.len(), USERS);
    until("every drop's grace is over", || {
        let log_times = judge.log_times();
        let over =
            |drop: &Logged<_>| log_times[&drop.partition] >= drop.at + timings.presence_grace;
        drops.iter().all(over)
    })
    .await;
    judge.agrees().await;
    assert!(judge.courses().values().all(|course| course == "+"));
    eprintln!("{USERS} users were back after {back:?}, no OFFLINE");
    drop(sockets);
}

/// Opens a socket for each user, at one edge or the other, as fast as they let in.
async fn connect(users: &Arc<[String]>, edges: &[SocketAddr], round: usize) -> Vec<TcpStream> {
    let turns = Arc::new(Semaphore::new(AT_ONCE));
    let mut opening = JoinSet::new();
    for i in 0..users.len() {
        let (users, turns) = (Arc::clone(users), Arc::clone(&turns));
        let edge = edges[(i + round) % edges.len()];
        opening.spawn(async move {
            let _turn = turns.acquire().await.unwrap();
            handshake(&users[i], edge, i).await
        });
    }
    opening.join_all().await
}

/// One socket; refused for a moment, it tries again.
async fn handshake(user: &str, edge: SocketAddr, number: usize) -> TcpStream {
    let request = format!(
        "GET /push?authorization={} HTTP/1.1\r\nHost: {edge}\r\nUpgrade: websocket\r\n\
         Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        Cluster::sign(user)
    );
    let host = u8::try_from(2 + number / PER_ADDRESS).unwrap();
    let from = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(127, 0, 0, host)), 0);
    for _ in 0..100 {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(from).unwrap();
        if let Ok(mut stream) = socket.connect(edge).await
            && stream.write_all(request.as_bytes()).await.is_ok()
            && is_switching(&mut stream).await
        {
            return stream;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    panic!("{user} could not connect");
}

async fn is_switching(stream: &mut TcpStream) -> bool {
    let mut head = [0; 12];
    let read = stream.read_exact(&mut head).await;
    read.is_ok() && head == *b"HTTP/1.1 101"
}

/// This process holds one end of each socket.
fn allow_descriptors() {
    let needed = u64::try_from(USERS).unwrap() + 1_000;
    let limit = getrlimit(Resource::Nofile);
    if limit.current.is_some_and(|soft| soft < needed) {
        let raised = Rlimit {
            current: Some(needed),
            ..limit
        };
        setrlimit(Resource::Nofile, raised).expect("ten thousand open files are allowed");
    }
}
