//! Gives the process few descriptors: it refuses sockets while it still has some for all else.

use std::time::Duration;

use futures_util::StreamExt as _;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep};
use tokio_tungstenite::tungstenite::Error;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

use crate::at_size::allow_descriptors;
use crate::dev::Dev;
use crate::kafka::Producer;

/// Far fewer than the sockets of the default configuration.
const DESCRIPTORS: u32 = 1200;
/// What a user may have by default.
const OF_A_USER: usize = 100;

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

#[tokio::test]
async fn sockets_leave_descriptors_to_the_process() {
    let _alone = crate::busy().await;
    allow_descriptors();
    let dev = Dev::start_within(DESCRIPTORS).await;
    let (mut sockets, refused) = open_all(&dev).await;
    assert_eq!(refused, 503);
    assert!((400..1000).contains(&sockets.len()), "{}", sockets.len());
    // New clients of its broker, its log and its other listener are served, and so are old sockets.
    let health = reqwest::get(format!("{}/readyz", dev.http())).await;
    assert!(health.unwrap().status().is_success());
    let producer = Producer::new(&dev.brokers());
    let everybody = br#"{"data":"still here"}"#;
    producer
        .send(&dev.topic("notifications"), Some(everybody))
        .await;
    for socket in &mut sockets {
        let frame = socket.next().await.unwrap().unwrap();
        assert_eq!(frame.to_text().unwrap(), r#""still here""#);
    }
    // Who leaves makes room.
    drop(sockets.pop());
    let url = format!("{}?authorization={}", dev.socket(), dev.token("late"));
    let deadline = Instant::now() + crate::PATIENCE;
    while let Err(error) = connect_async(&url).await {
        assert!(Instant::now() < deadline, "{error}");
        sleep(Duration::from_millis(100)).await;
    }
}

/// Opens sockets until one is refused; answers them, and the status.
async fn open_all(dev: &Dev) -> (Vec<Socket>, u16) {
    let mut sockets = vec![];
    loop {
        let token = dev.token(&format!("user-{}", sockets.len() / OF_A_USER));
        let url = format!("{}?authorization={token}", dev.socket());
        for _ in 0..OF_A_USER {
            match connect_async(&url).await {
                Ok((socket, _)) => sockets.push(socket),
                Err(Error::Http(response)) => return (sockets, response.status().as_u16()),
                Err(error) => panic!("{error} after {}", sockets.len()),
            }
        }
    }
}
