//! Creating and checking topics.

use eventlog::{Config, Log, LogError};
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;

use crate::harness::Server;

fn faults(error: LogError) -> String {
    assert!(!error.is_transient());
    let LogError::Layout(faults) = error else {
        panic!("{error}");
    };
    faults.join("\n")
}

pub(crate) async fn is_created_once_and_checked(server: &Server) {
    let log = Log::new(server.config()).unwrap();
    let missing = faults(log.check_topics().await.unwrap_err());
    assert_eq!(
        missing.matches("does not exist: run `sumu topics`").count(),
        9,
        "{missing}"
    );
    assert!(missing.contains(&*log.topics().edges));
    assert_eq!(log.create_topics().await.unwrap().len(), 9);
    assert_eq!(log.create_topics().await.unwrap().len(), 0);
    log.check_topics().await.unwrap();
}

pub(crate) async fn other_partition_counts_are_refused(server: &Server) {
    let config = server.config();
    Log::new(config.clone())
        .unwrap()
        .create_topics()
        .await
        .unwrap();
    let more = Config {
        partitions: 4,
        ..config
    };
    let log = Log::new(more).unwrap();
    let wrong = faults(log.check_topics().await.unwrap_err());
    assert_eq!(
        wrong.matches("has 3 partitions, not 4").count(),
        7,
        "{wrong}"
    );
    assert_eq!(faults(log.create_topics().await.unwrap_err()), wrong);
}

pub(crate) async fn other_required_settings_are_refused(server: &Server) {
    let log = Log::new(server.config()).unwrap();
    let admin: AdminClient<DefaultClientContext> = ClientConfig::new()
        .set("bootstrap.servers", &server.brokers)
        .create()
        .unwrap();
    let edges = NewTopic::new(&log.topics().edges, 1, TopicReplication::Fixed(1))
        .set("cleanup.policy", "delete");
    let made = admin
        .create_topics(&[edges], &AdminOptions::new())
        .await
        .unwrap();
    assert!(made[0].is_ok(), "{made:?}");
    let wrong = faults(log.create_topics().await.unwrap_err());
    assert!(
        wrong.contains("cleanup.policy=delete, not compact"),
        "{wrong}"
    );
    assert!(
        wrong.contains("message.timestamp.type=CreateTime, not LogAppendTime"),
        "{wrong}"
    );
    assert!(wrong.contains("kafka-configs.sh --alter"), "{wrong}");
}
