//! `sumu store` with the store that is in the memory of `sumu dev`.

use std::sync::Arc;
use std::time::Duration;

use rdkafka::config::ClientConfig;
use rdkafka::producer::{FutureProducer, FutureRecord};
use schemas::presence::{Kind, Status, Transition};
use schemas::{Millis, Position, PresenceEvent, partition};

use super::{Dev, Instant, PATIENCE, output, sumu, text};

async fn store(dev: &Dev, what: &str) -> (Option<i32>, String) {
    let told = output(&mut sumu(&["store", what, "--data", &dev.data()])).await;
    let all = [told.stdout, told.stderr].concat();
    (told.status.code(), text(&all).to_owned())
}

/// An event of a user that no processor has told: the log knows of it, the store does not.
async fn tell_of_a_ghost(brokers: &str) {
    let topic: Arc<str> = "sumu.presence".into();
    let partition = partition::partition_for(b"ghost", 12);
    let event = PresenceEvent {
        kind: Kind::Presence,
        message: Transition {
            user_id: "ghost".parse().unwrap(),
            status: Status::Online,
            timestamp: Millis(1_700_000_000_000),
            cause: "opened".into(),
            devices: 1,
            last_seen: None,
            position: Position {
                topic: "sumu.connections".into(),
                partition,
                offset: 7,
            },
        },
    };
    let value = event.encode();
    let producer: FutureProducer = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .create()
        .unwrap();
    let record: FutureRecord<'_, str, [u8]> = FutureRecord::to(&topic)
        .partition(partition)
        .key("ghost")
        .payload(&value);
    producer.send(record, PATIENCE).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_store_of_dev_is_verified_and_rebuilt_while_traffic_flows() {
    let dev = Dev::start().await;
    let brokers = format!("127.0.0.1:{}", dev.broker);
    let token = output(&mut sumu(&["token", "--sub", "ann", "--data", &dev.data()])).await;
    let token = text(&token.stdout).trim().to_owned();
    let url = format!("ws://127.0.0.1:{}/push?authorization={token}", dev.listen);
    let (_ann, _) = tokio_tungstenite::connect_async(&url).await.unwrap();
    // Another of ann's devices comes and goes all the time.
    let traffic = tokio::spawn(async move {
        loop {
            let (mut socket, _) = tokio_tungstenite::connect_async(&url).await.unwrap();
            socket.close(None).await.unwrap();
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    let told = async || {
        let presence = [
            "replay",
            "presence",
            "--brokers",
            &brokers,
            "--format",
            "jsonl",
        ];
        let told = output(&mut sumu(&presence)).await;
        text(&told.stdout).lines().count()
    };
    let deadline = Instant::now() + PATIENCE;
    while told().await == 0 {
        assert!(Instant::now() < deadline, "ann is online");
    }
    let (code, said) = store(&dev, "verify").await;
    assert_eq!(code, Some(0), "{said}");
    assert!(
        said.contains("1 users: the store is as the log says"),
        "{said}"
    );

    tell_of_a_ghost(&brokers).await;
    let (code, said) = store(&dev, "verify").await;
    assert_eq!(code, Some(1), "{said}");
    assert!(
        said.contains("ghost: the store says nothing, the log Online"),
        "{said}"
    );
    let (code, said) = store(&dev, "rebuild").await;
    assert_eq!(code, Some(0), "{said}");
    // The ghost's, and what of the traffic was under way.
    assert!(said.contains(" rows, of 2 users"), "{said}");
    assert!(!said.contains("wrote 0 rows"), "{said}");
    let asked = format!("http://127.0.0.1:{}/v1/presence?user_id=ghost", dev.listen);
    let answer = reqwest::get(asked).await.unwrap().text().await.unwrap();
    assert!(answer.contains("ONLINE"), "{answer}");
    assert!(!traffic.is_finished(), "traffic went on meanwhile");
    traffic.abort();
    assert_eq!(told().await, 2, "a rebuild told something");
    let (code, said) = store(&dev, "verify").await;
    assert_eq!(code, Some(0), "{said}");

    drop(dev);
    let dir = tempfile::TempDir::new().unwrap();
    let nobody = output(sumu(&["store", "verify", "--data"]).arg(dir.path())).await;
    assert_eq!(nobody.status.code(), Some(1));
    assert!(
        text(&nobody.stderr).contains("no `sumu dev` listens on"),
        "{nobody:?}"
    );
}
