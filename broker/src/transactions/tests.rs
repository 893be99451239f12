use super::*;
use crate::log::Stamp;
use crate::log::testing::Sample;
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
    let made = tokio::task::spawn_blocking(create).await.unwrap();
    node.meta.durable(made).await.unwrap();
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
