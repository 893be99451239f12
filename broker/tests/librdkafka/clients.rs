//! Producing, consuming, offsets by time, administration, limits, and what survives a restart.
use rdkafka::admin::{AdminOptions, AlterConfig, NewPartitions, ResourceSpecifier};
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::Message;
use rdkafka::producer::FutureProducer;
use rdkafka::{Offset, Timestamp, TopicPartitionList};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::{PATIENCE, Server, blocking, send, values};

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_is_read_again_after_a_crash() {
    // Small segments: the log is rolled many times.
    let mut server = Server::start_with(|config| config.segment_bytes = 4096).await;
    server.create("t", 1, &[]).await;
    for codec in ["none", "snappy", "lz4", "zstd"] {
        let settings = [("enable.idempotence", "true"), ("compression.type", codec)];
        let producer: FutureProducer = server.client(&settings);
        let sends = (0..250).map(|_| send(&producer, "t", 0, codec));
        for sent in futures_util::future::join_all(sends).await {
            sent.unwrap();
        }
    }
    let before = values(&server.read("t", 0, "read_uncommitted"));
    assert_eq!(before.len(), 1000);
    server.crash().await;
    assert_eq!(values(&server.read("t", 0, "read_uncommitted")), before);
    server.restart().await;
    assert_eq!(values(&server.read("t", 0, "read_uncommitted")), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn append_time_is_the_same_for_producer_and_consumer() {
    let server = Server::start().await;
    server
        .create("t", 1, &[("message.timestamp.type", "LogAppendTime")])
        .await;
    let producer = server.producer();
    let mut acknowledged = Vec::new();
    for value in ["a", "b", "c"] {
        acknowledged.push(send(&producer, "t", 0, value).await.unwrap());
    }
    assert!(acknowledged.is_sorted());
    let read = server.read("t", 0, "read_uncommitted");
    for (message, (offset, time)) in read.iter().zip(&acknowledged) {
        assert_eq!(message.offset(), *offset);
        assert_eq!(message.timestamp(), Timestamp::LogAppendTime(*time));
    }
    let address = server.address.to_string();
    let (_, last) = acknowledged[2];
    blocking(move || {
        let consumer: BaseConsumer = crate::support::client(&address, &[("group.id", "g")]);
        let mut times = TopicPartitionList::new();
        times
            .add_partition_offset("t", 0, Offset::Offset(last))
            .unwrap();
        let found = consumer.offsets_for_times(times, PATIENCE).unwrap();
        let Offset::Offset(offset) = found.elements()[0].offset() else {
            panic!("none found")
        };
        let first_then = acknowledged.iter().find(|(_, time)| *time >= last).unwrap();
        assert_eq!(offset, first_then.0);
        let mut times = TopicPartitionList::new();
        times
            .add_partition_offset("t", 0, Offset::Offset(last + 1))
            .unwrap();
        let found = consumer.offsets_for_times(times, PATIENCE).unwrap();
        assert_eq!(found.elements()[0].offset(), Offset::End);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn offsets_metadata_and_settings_survive_a_crash() {
    let mut server = Server::start().await;
    server.create("t", 2, &[("retention.ms", "1234")]).await;
    let admin = server.admin();
    let options = AdminOptions::new();
    admin
        .create_partitions([&NewPartitions::new("t", 3)], &options)
        .await
        .unwrap()[0]
        .as_ref()
        .unwrap();
    let alter = AlterConfig::new(ResourceSpecifier::Topic("t")).set("max.message.bytes", "2000");
    admin.alter_configs([&alter], &options).await.unwrap()[0]
        .as_ref()
        .unwrap();
    server.create("gone", 1, &[]).await;
    assert_eq!(
        admin.delete_topics(&["gone"], &options).await.unwrap(),
        [Ok("gone".to_owned())]
    );

    let address = server.address.to_string();
    blocking(move || {
        let consumer: BaseConsumer = crate::support::client(&address, &[("group.id", "g")]);
        let mut offsets = TopicPartitionList::new();
        offsets
            .add_partition_offset("t", 1, Offset::Offset(42))
            .unwrap();
        let mut element = offsets.find_partition("t", 1).unwrap();
        element.set_metadata("from 17");
        consumer.commit(&offsets, CommitMode::Sync).unwrap();
    })
    .await;

    server.crash().await;
    let address = server.address.to_string();
    blocking(move || {
        let consumer: BaseConsumer = crate::support::client(&address, &[("group.id", "g")]);
        let mut wanted = TopicPartitionList::new();
        wanted.add_partition("t", 1);
        let committed = consumer.committed_offsets(wanted, PATIENCE).unwrap();
        let element = committed.find_partition("t", 1).unwrap();
        assert_eq!(
            (element.offset(), element.metadata()),
            (Offset::Offset(42), "from 17")
        );
        let metadata = consumer.fetch_metadata(None, PATIENCE).unwrap();
        let topics: Vec<_> = metadata
            .topics()
            .iter()
            .map(|it| (it.name(), it.partitions().len()))
            .collect();
        assert_eq!(topics, [("t", 3)]);
    })
    .await;
    let shown = server
        .admin()
        .describe_configs([&ResourceSpecifier::Topic("t")], &options)
        .await
        .unwrap();
    let shown = shown[0].as_ref().unwrap().entry_map();
    // AlterConfigs replaces all settings.
    assert_eq!(shown["max.message.bytes"].value.as_deref(), Some("2000"));
    assert_eq!(shown["retention.ms"].value.as_deref(), Some("604800000"));
    let refused = send(&server.producer(), "t", 0, &"x".repeat(3000)).await;
    let too_large = RDKafkaErrorCode::MessageSizeTooLarge;
    assert_eq!(refused, Err(KafkaError::MessageProduction(too_large)));
}

#[tokio::test(flavor = "multi_thread")]
async fn deleted_records_stay_deleted() {
    let mut server = Server::start().await;
    server.create("t", 1, &[]).await;
    let producer = server.producer();
    for n in 0..10 {
        send(&producer, "t", 0, &n.to_string()).await.unwrap();
    }
    let mut below = TopicPartitionList::new();
    below
        .add_partition_offset("t", 0, Offset::Offset(4))
        .unwrap();
    server
        .admin()
        .delete_records(&below, &AdminOptions::new())
        .await
        .unwrap();
    for _ in 0..2 {
        let left = values(&server.read("t", 0, "read_uncommitted"));
        assert_eq!(left, ["4", "5", "6", "7", "8", "9"]);
        server.crash().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_is_created_by_asking_only_where_that_is_configured() {
    for auto in [false, true] {
        let server = Server::start_with(|config| config.auto_create_topics = auto).await;
        let producer: FutureProducer =
            server.client(&[("message.timeout.ms", if auto { "30000" } else { "1000" })]);
        assert_eq!(send(&producer, "wish", 0, "v").await.is_ok(), auto);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_client_loses_its_connection_and_nobody_else_notices() {
    let server = Server::start_with(|config| config.max_connections = 6).await;
    server.create("t", 1, &[]).await;
    let too_long = i32::MAX.to_be_bytes();
    let negative = (-5_i32).to_be_bytes();
    let http = b"GET / HTTP/1.1\r\n\r\n";
    let garbage = [0, 0, 0, 9, 0, 3, 0, 1, 1, 1, 1, 1, 0x7f];
    for bytes in [&too_long[..], &negative[..], &http[..], &garbage[..]] {
        let mut socket = TcpStream::connect(server.address).await.unwrap();
        socket.write_all(bytes).await.unwrap();
        let mut answer = Vec::new();
        let closed = tokio::time::timeout(PATIENCE, socket.read_to_end(&mut answer)).await;
        // Reset or closed, but without a word.
        assert!(closed.expect("it is closed in time").unwrap_or(0) == 0);
    }
    let mut idle = Vec::new();
    for _ in 0..6 {
        idle.push(TcpStream::connect(server.address).await.unwrap());
    }
    let mut seventh = TcpStream::connect(server.address).await.unwrap();
    let mut answer = Vec::new();
    let closed = tokio::time::timeout(PATIENCE, seventh.read_to_end(&mut answer)).await;
    assert!(closed.is_ok());
    drop(idle);
    send(&server.producer(), "t", 0, "still there")
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_is_used_by_one_broker_at_a_time() {
    let server = Server::start().await;
    let mut config = server.config.clone();
    config.listen.set_port(0);
    let second = broker::Broker::start(config).await;
    assert!(matches!(second, Err(broker::Error::Storage { .. })));
}
