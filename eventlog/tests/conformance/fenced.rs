//! A broker that has lost its controllers names no brokers: clients must find it again by themselves.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use eventlog::{
    Config, GroupConsumer, GroupEvent, Log, LogError, Producer, Reader, Start, TopicPartition,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep, timeout};

use crate::harness::{self, PATIENCE, Server, notifications, value};

/// Kafka's number of the metadata request.
const METADATA: [u8; 2] = [0, 3];
const VERSION: [u8; 2] = [0, 12];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_find_brokers_again_that_were_all_fenced() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let advertised = listener.local_addr().unwrap().to_string();
    let server = Server::advertised(&advertised).await;
    let fenced = Arc::new(AtomicBool::new(false));
    let proxy = tokio::spawn(serve(listener, server.address(), Arc::clone(&fenced)));
    let mut config = Config {
        brokers: advertised,
        append_timeout: Duration::from_secs(2),
        request_timeout: Duration::from_secs(2),
        session_timeout: Duration::from_secs(2),
        heartbeat_interval: Duration::from_millis(500),
        ..server.config()
    };
    let often = ("topic.metadata.refresh.interval.ms", "100");
    (config.properties.0).insert(often.0.into(), often.1.into());
    let log = harness::created(config).await;
    let partition = notifications(&log, 0);
    let start = vec![(partition.clone(), Start::Beginning)];
    let mut clients = Clients {
        producer: log.producer().unwrap(),
        reader: log.reader(start).await.unwrap(),
        group: harness::sole_member(&log, "fenced").await,
        partition,
        log,
    };
    clients.start().await;
    clients.carry("before").await;
    for round in 0..2 {
        fenced.store(true, Ordering::Relaxed);
        sleep(Duration::from_secs(1)).await;
        fenced.store(false, Ordering::Relaxed);
        clients.carry(&format!("after {round}")).await;
    }
    proxy.abort();
}

/// One of each kind.
struct Clients {
    log: Log,
    producer: Producer,
    reader: Reader,
    group: GroupConsumer,
    partition: TopicPartition,
}

impl Clients {
    /// Appends a record, and waits until everybody has it.
    async fn carry(&mut self, text: &str) {
        let deadline = Instant::now() + PATIENCE;
        while let Err(error) = self.append(text).await {
            assert!(Instant::now() < deadline, "the producer: {error}");
            sleep(Duration::from_millis(100)).await;
        }
        timeout(PATIENCE, self.read(text))
            .await
            .expect("the reader");
        timeout(PATIENCE, self.consume(text))
            .await
            .expect("the group");
        while let Err(error) = self.log.end_offset(&self.partition).await {
            assert!(Instant::now() < deadline, "the look-ups: {error}");
        }
    }

    async fn append(&self, text: &str) -> Result<(), eventlog::AppendError> {
        let record = harness::record(&self.partition, text);
        self.producer.append(record)?.await.map(drop)
    }

    async fn read(&mut self, text: &str) {
        loop {
            match self.reader.next().await {
                Ok(records) if records.iter().any(|r| value(r) == text) => return,
                Ok(_) => {}
                Err(error) => assert!(error.is_transient(), "{error}"),
            }
        }
    }

    async fn start(&self) {
        let start = || self.group.start(&self.partition, Start::Beginning);
        while let Err(error) = start().await {
            if matches!(error, LogError::NotOwner(_)) {
                return;
            }
            assert!(error.is_transient(), "{error}");
        }
    }

    async fn consume(&mut self, text: &str) {
        loop {
            match self.group.next().await {
                Ok(GroupEvent::Records(records)) if records.iter().any(|r| value(r) == text) => {
                    return;
                }
                Ok(GroupEvent::Assigned(partitions)) if partitions.contains(&self.partition) => {
                    self.start().await;
                }
                Ok(_) => {}
                Err(error) => assert!(error.is_transient(), "{error}"),
            }
        }
    }
}

async fn serve(listener: TcpListener, to: SocketAddr, fenced: Arc<AtomicBool>) {
    loop {
        let (client, _) = listener.accept().await.unwrap();
        let Ok(server) = TcpStream::connect(to).await else {
            continue;
        };
        let (from_client, to_client) = client.into_split();
        let (from_server, to_server) = server.into_split();
        let to_client = Arc::new(Mutex::new(to_client));
        tokio::spawn(answers(from_server, Arc::clone(&to_client)));
        tokio::spawn(requests(
            from_client,
            to_server,
            to_client,
            Arc::clone(&fenced),
        ));
    }
}

/// Passes requests on; answers those for metadata itself while the broker is fenced.
async fn requests(
    mut client: OwnedReadHalf,
    mut server: OwnedWriteHalf,
    answers: Arc<Mutex<OwnedWriteHalf>>,
    fenced: Arc<AtomicBool>,
) -> Option<()> {
    loop {
        let frame = frame(&mut client).await?;
        if fenced.load(Ordering::Relaxed) && frame[4..6] == METADATA {
            assert_eq!(frame[6..8], VERSION);
            let answer = no_brokers(&frame[8..12]);
            answers.lock().await.write_all(&answer).await.ok()?;
        } else {
            server.write_all(&frame).await.ok()?;
        }
    }
}

async fn answers(mut server: OwnedReadHalf, client: Arc<Mutex<OwnedWriteHalf>>) -> Option<()> {
    loop {
        let frame = frame(&mut server).await?;
        client.lock().await.write_all(&frame).await.ok()?;
    }
}

/// Length and content.
async fn frame(from: &mut OwnedReadHalf) -> Option<Vec<u8>> {
    let mut frame = vec![0; 4];
    from.read_exact(&mut frame).await.ok()?;
    let length = u32::from_be_bytes([frame[0], frame[1], frame[2], frame[3]]);
    frame.resize(4 + usize::try_from(length).unwrap(), 0);
    from.read_exact(&mut frame[4..]).await.ok()?;
    Some(frame)
}

/// The metadata of a cluster without brokers, which has a topic without a leader.
fn no_brokers(correlation: &[u8]) -> Vec<u8> {
    let mut answer = correlation.to_vec();
    answer.push(0); // no tags
    answer.extend([0; 4]); // throttled for
    answer.push(1); // brokers: none
    answer.push(0); // cluster id: null
    answer.extend((-1_i32).to_be_bytes()); // controller
    answer.push(2); // topics: one
    answer.extend(5_i16.to_be_bytes()); // leader not available
    answer.extend(b"\x02x"); // its name
    answer.extend([0; 16]); // its id
    answer.push(0); // not internal
    answer.push(1); // partitions: none
    answer.extend(i32::MIN.to_be_bytes()); // operations: not asked for
    answer.extend([0, 0]); // no tags, twice
    let mut frame = u32::try_from(answer.len()).unwrap().to_be_bytes().to_vec();
    frame.extend(answer);
    frame
}
