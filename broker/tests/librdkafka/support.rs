//! Starts brokers and makes clients.
use std::net::SocketAddr;
use std::time::Duration;

use broker::{Broker, Config};
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::{ClientConfig, FromClientConfig};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::{Message, OwnedMessage};
use rdkafka::producer::{FutureProducer, FutureRecord};
use rdkafka::types::RDKafkaErrorCode;
use rdkafka::{Offset, TopicPartitionList};

/// How long anything may take before a test fails.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// A broker and its data folder.
pub(crate) struct Server {
    broker: Option<Broker>,
    pub(crate) config: Config,
    pub(crate) address: SocketAddr,
    _folder: tempfile::TempDir,
}

impl Server {
    pub(crate) async fn start() -> Self {
        Self::start_with(|_| ()).await
    }

    pub(crate) async fn start_with(adapt: impl FnOnce(&mut Config)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut config = config(folder.path());
        adapt(&mut config);
        let broker = Broker::start(config.clone()).await.unwrap();
        let address = broker.address();
        // Clients come back to the same address after a restart.
        config.listen = address;
        Self {
            broker: Some(broker),
            config,
            address,
            _folder: folder,
        }
    }

    /// Drops the broker without a word and starts another one on its folder.
    pub(crate) async fn crash(&mut self) {
        drop(self.broker.take());
        // The old listener is closed when its task is dropped, a moment later.
        for _ in 0..PATIENCE.as_millis() / 50 {
            match Broker::start(self.config.clone()).await {
                Ok(broker) => {
                    self.broker = Some(broker);
                    return;
                }
                Err(broker::Error::Listen { .. }) => {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                Err(error) => panic!("{error}"),
            }
        }
        panic!("the address is not free in time");
    }

    pub(crate) async fn restart(&mut self) {
        self.broker.take().unwrap().shutdown().await;
        self.broker = Some(Broker::start(self.config.clone()).await.unwrap());
    }

    pub(crate) fn client<C: FromClientConfig>(&self, settings: &[(&str, &str)]) -> C {
        client(&self.address.to_string(), settings)
    }

    pub(crate) fn admin(&self) -> AdminClient<DefaultClientContext> {
        self.client(&[])
    }

    pub(crate) async fn create(&self, name: &str, partitions: i32, config: &[(&str, &str)]) {
        create(&self.admin(), name, partitions, config).await;
    }

    pub(crate) fn producer(&self) -> FutureProducer {
        self.client(&[("enable.idempotence", "true"), ("linger.ms", "0")])
    }

    /// Everything in a partition, to its end, as `isolation` sees it.
    pub(crate) fn read(&self, topic: &str, partition: i32, isolation: &str) -> Vec<OwnedMessage> {
        read(&self.address.to_string(), topic, partition, isolation)
    }
}

pub(crate) fn config(folder: &std::path::Path) -> Config {
    Config {
        listen: SocketAddr::from(([127, 0, 0, 1], 0)),
        data: folder.to_owned(),
        ..Config::default()
    }
}

pub(crate) fn client<C: FromClientConfig>(address: &str, settings: &[(&str, &str)]) -> C {
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", address)
        .set("socket.nagle.disable", "true");
    for (name, value) in settings {
        config.set(*name, *value);
    }
    config.create().unwrap()
}

pub(crate) async fn create(
    admin: &AdminClient<DefaultClientContext>,
    name: &str,
    partitions: i32,
    config: &[(&str, &str)],
) {
    let topic = NewTopic::new(name, partitions, TopicReplication::Fixed(1));
    let topic = config
        .iter()
        .fold(topic, |topic, (name, value)| topic.set(name, value));
    let options = AdminOptions::new().operation_timeout(Some(PATIENCE));
    let made = admin.create_topics([&topic], &options).await.unwrap();
    assert_eq!(made, [Ok(name.to_owned())]);
}

/// Sends and waits for the acknowledgement: partition, offset, time stamp in milliseconds.
pub(crate) async fn send(
    producer: &FutureProducer,
    topic: &str,
    partition: i32,
    value: &str,
) -> Result<(i64, i64), KafkaError> {
    let record = FutureRecord::<(), _>::to(topic)
        .partition(partition)
        .payload(value);
    let delivery = producer
        .send(record, PATIENCE)
        .await
        .map_err(|(error, _)| error)?;
    Ok((
        delivery.offset,
        delivery.timestamp.to_millis().unwrap_or(-1),
    ))
}

pub(crate) fn read(
    address: &str,
    topic: &str,
    partition: i32,
    isolation: &str,
) -> Vec<OwnedMessage> {
    let consumer: BaseConsumer = client(
        address,
        &[
            ("group.id", "reader"),
            ("enable.auto.commit", "false"),
            ("enable.partition.eof", "true"),
            ("auto.offset.reset", "earliest"),
            ("isolation.level", isolation),
        ],
    );
    let mut places = TopicPartitionList::new();
    places
        .add_partition_offset(topic, partition, Offset::Beginning)
        .unwrap();
    consumer.assign(&places).unwrap();
    let mut messages = Vec::new();
    loop {
        match consumer
            .poll(PATIENCE)
            .expect("the end of the partition in time")
        {
            Ok(message) => messages.push(message.detach()),
            Err(KafkaError::PartitionEOF(_)) => return messages,
            Err(KafkaError::MessageConsumption(
                RDKafkaErrorCode::BrokerTransportFailure | RDKafkaErrorCode::AllBrokersDown,
            )) => {}
            Err(error) => panic!("{error}"),
        }
    }
}

pub(crate) fn values(messages: &[OwnedMessage]) -> Vec<String> {
    let text = |message: &OwnedMessage| String::from_utf8(message.payload()?.to_vec()).ok();
    messages
        .iter()
        .map(|message| text(message).unwrap())
        .collect()
}

/// Runs what blocks (librdkafka's consumers and transactions) beside the broker's tasks.
pub(crate) async fn blocking<T: Send + 'static>(run: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(run).await.unwrap()
}
