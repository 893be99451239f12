use super::*;
use crate::config::Config;
use crate::log::testing::Sample;
use crate::log::{Isolation, Stamp};
use crate::node::Node;

/// A broker without a listener, and the folder that outlives it.
async fn open(folder: &std::path::Path) -> Node {
    let config = Config {
        data: folder.to_owned(),
        segment_bytes: 4096,
        ..Config::default()
    };
    let address = std::net::SocketAddr::from(([127, 0, 0, 1], 9));
    Node::open(config, address).await.unwrap()
}

async fn create_topic(node: &Node) -> Arc<Partition> {
    let topics = Arc::clone(&node.topics);
    let create = move || topics.create("t", 1, BTreeMap::new()).unwrap();
    tokio::task::spawn_blocking(create).await.unwrap();
    node.topics.partition("t", 0).unwrap()
}

/// Writes one record in a transaction of `x`.
async fn write(node: &Node, producer: Producer) {
    let place = ("t".to_owned(), 0);
    let added = node
        .transactions
        .add_partitions("x", producer, vec![place.clone()]);
    added.await.unwrap();
    let batch = Sample::records(1)
        .of(producer.0, producer.1, 0)
        .transactional();
    let header = Header::read(&batch.bytes()).unwrap();
    let partition = node.topics.partition("t", 0).unwrap();
    let append = || partition.append(&batch.bytes(), Stamp::Create, 0);
    let appended = node.transactions.append(&header, &place, append).unwrap();
    partition.durable(appended.needed).await.unwrap();
}

/// The answer to an end may be lost with the broker that gave it: the client asks again.
#[tokio::test]
async fn an_end_is_answered_again_after_a_restart() {
    for commit in [true, false] {
        let folder = tempfile::tempdir().unwrap();
        let node = open(folder.path()).await;
        create_topic(&node).await;
        let producer = node.transactions.take_over("x", 1000, None).await.unwrap();
        write(&node, producer).await;
        node.transactions.end("x", producer, commit).await.unwrap();
        node.close().await;
        // Twice: what the journal keeps must survive being rewritten at each start.
        for _ in 0..2 {
            let node = open(folder.path()).await;
            let again = node.transactions.end("x", producer, commit).await;
            assert_eq!(again, Ok(()));
            let other = node.transactions.end("x", producer, !commit).await;
            assert_eq!(other, Err(ResponseError::InvalidTxnState));
            let heir = node.transactions.take_over("y", 1000, None).await.unwrap();
            assert_ne!(heir.0, producer.0);
            node.close().await;
        }
        let node = open(folder.path()).await;
        let heir = node.transactions.take_over("x", 1000, None).await.unwrap();
        assert_eq!(heir, (producer.0, producer.1 + 1));
        let nothing = node.transactions.end("x", heir, commit).await;
        assert_eq!(nothing, Err(ResponseError::InvalidTxnState));
        node.close().await;
    }
}

/// A full disk passes; the last stable offset must not stay behind for ever because of it.
#[tokio::test]
async fn an_end_that_the_storage_refuses_is_written_later() {
    let folder = tempfile::tempdir().unwrap();
    let node = Arc::new(open(folder.path()).await);
    let partition = create_topic(&node).await;
    let producer = node
        .transactions
        .take_over("x", 60_000, None)
        .await
        .unwrap();
    write(&node, producer).await;
    // Fill the segment, so that the marker needs a new file, which has no place to be.
    let mut full = Sample::records(1);
    full.value = vec![0; 4096 - 200];
    partition.append(&full.bytes(), Stamp::Create, 0).unwrap();
    let topics = folder.path().join("topics");
    let away = folder.path().join("away");
    std::fs::rename(&topics, &away).unwrap();
    let refused = node.transactions.end("x", producer, true).await;
    assert_eq!(refused, Err(ResponseError::ConcurrentTransactions));
    std::fs::rename(&away, &topics).unwrap();
    let ticking = tokio::spawn(Arc::clone(&node).tick());
    let ended = async {
        while node.transactions.end("x", producer, true).await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let patience = Duration::from_secs(30);
    tokio::time::timeout(patience, ended).await.unwrap();
    let bounds = partition.bounds().unwrap();
    assert_eq!(bounds.end(Isolation::Committed), 3);
    ticking.abort();
    node.close().await;
}
