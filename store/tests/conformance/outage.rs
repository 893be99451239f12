//! What a CQL store does when its server cannot be reached.

use std::net::SocketAddr;
use std::time::Duration;

use store::scylla::{Config, ScyllaStore};
use store::{ConnectionStore, StoreError};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

use crate::bench::{Bench, T, cql_config, named, put, row};

const LIMIT: Duration = Duration::from_secs(2);

/// How much longer than its limit a call may take on a busy machine.
const SLACK: Duration = Duration::from_secs(20);

fn impatient(node: &str) -> Config {
    Config {
        connect_timeout: LIMIT,
        request_timeout: LIMIT,
        ..cql_config(node)
    }
}

#[tokio::test]
async fn nobody_listens() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let closed = listener.local_addr().unwrap();
    drop(listener);
    let config = impatient(&closed.to_string());
    let connecting = ScyllaStore::connect(&config);
    let error = timeout(LIMIT + SLACK, connecting)
        .await
        .unwrap()
        .unwrap_err();
    assert!(error.is_transient(), "{error}");
}

#[tokio::test]
async fn the_server_is_silent() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let silent = listener.local_addr().unwrap();
    let config = impatient(&silent.to_string());
    let connecting = ScyllaStore::connect(&config);
    let error = timeout(LIMIT + SLACK, connecting)
        .await
        .unwrap()
        .unwrap_err();
    assert!(error.is_transient(), "{error}");
}

#[tokio::test]
async fn wrong_settings_are_told_before_anything_is_tried() {
    let config = Config {
        nodes: Vec::new(),
        concurrency: 0,
        ..Config::default()
    };
    let error = ScyllaStore::connect(&config).await.unwrap_err();
    assert!(
        matches!(&error, StoreError::Config(text) if text.contains("nodes") && text.contains("concurrency")),
        "{error}"
    );
    assert!(!error.is_transient());
}

#[tokio::test]
async fn the_tables_are_not_there() {
    let Some(node) = named("SUMU_TEST_CQL") else {
        return;
    };
    let config = Config {
        keyspace: "sumu_not_there".into(),
        ..cql_config(&node)
    };
    let error = ScyllaStore::connect(&config).await.unwrap_err();
    assert!(
        matches!(&error, StoreError::Schema(text) if text.contains("sumu_not_there")),
        "{error}"
    );
    assert!(!error.is_transient());
}

#[tokio::test]
async fn the_datacenter_is_not_there() {
    let Some(node) = named("SUMU_TEST_CQL") else {
        return;
    };
    let config = Config {
        datacenter: Some("mars".into()),
        ..cql_config(&node)
    };
    let error = ScyllaStore::connect(&config).await.unwrap_err();
    assert!(
        matches!(&error, StoreError::Config(text) if text.contains("mars")),
        "{error}"
    );
}

#[tokio::test]
async fn the_server_goes_and_comes_back() {
    let (Some(bench), Some(node)) = (Bench::cql().await, named("SUMU_TEST_CQL")) else {
        return;
    };
    let mut proxy = Proxy::start(&node).await;
    let store = ScyllaStore::connect(&impatient(&proxy.address.to_string()))
        .await
        .unwrap();
    let user = bench.user("ann");
    store.apply(&[put(&user, 1, T)]).await.unwrap();

    proxy.pause(true);
    let [first, ..] = fails_in_time(&store, &user).await;
    assert!(
        matches!(first, StoreError::TimedOut { limit: LIMIT, .. }),
        "{first}"
    );
    proxy.pause(false);
    recovers(&store).await;

    proxy.stop().await;
    fails_in_time(&store, &user).await;
    proxy.restart().await;
    recovers(&store).await;
    assert_eq!(
        store
            .connections(std::slice::from_ref(&user))
            .await
            .unwrap(),
        [row(&user, 1, T)]
    );
}

async fn fails_in_time(store: &ScyllaStore, user: &schemas::UserId) -> [StoreError; 4] {
    let users = std::slice::from_ref(user);
    let mutations = [put(user, 1, T)];
    let within = LIMIT + SLACK;
    let errors = [
        timeout(within, store.ready()).await.unwrap().unwrap_err(),
        timeout(within, store.apply(&mutations))
            .await
            .unwrap()
            .unwrap_err(),
        timeout(within, store.connections(users))
            .await
            .unwrap()
            .unwrap_err(),
        timeout(within, store.presence(users))
            .await
            .unwrap()
            .unwrap_err(),
    ];
    for error in &errors {
        assert!(error.is_transient(), "{error}");
    }
    errors
}

async fn recovers(store: &ScyllaStore) {
    let deadline = Instant::now() + Duration::from_secs(120);
    while let Err(error) = store.ready().await {
        assert!(Instant::now() < deadline, "{error}");
        sleep(Duration::from_millis(200)).await;
    }
}

/// Stands between the store and its server, and can be paused or taken away.
struct Proxy {
    address: SocketAddr,
    server: String,
    paused: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Proxy {
    async fn start(server: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let paused = watch::Sender::new(false);
        let task = tokio::spawn(serve(listener, server.to_owned(), paused.subscribe()));
        Self {
            address,
            server: server.into(),
            paused,
            task,
        }
    }

    fn pause(&self, paused: bool) {
        self.paused.send_replace(paused);
    }

    async fn stop(&mut self) {
        self.task.abort();
        assert!((&mut self.task).await.unwrap_err().is_cancelled());
    }

    async fn restart(&mut self) {
        let listener = TcpListener::bind(self.address).await.unwrap();
        self.task = tokio::spawn(serve(
            listener,
            self.server.clone(),
            self.paused.subscribe(),
        ));
    }
}

/// Ends every connection when it is dropped.
async fn serve(listener: TcpListener, server: String, paused: watch::Receiver<bool>) {
    let mut connections = tokio::task::JoinSet::new();
    while let Ok((client, _)) = listener.accept().await {
        let server = server.clone();
        let paused = paused.clone();
        connections.spawn(async move {
            if let Ok(server) = TcpStream::connect(server).await {
                relay(&client, &server, paused).await;
            }
        });
    }
}

async fn relay(client: &TcpStream, server: &TcpStream, mut paused: watch::Receiver<bool>) {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        if paused.wait_for(|paused| !paused).await.is_err() {
            return;
        }
        let (from, to) = tokio::select! {
            _ = paused.wait_for(|paused| *paused) => continue,
            ready = client.readable() => (ready.map(|()| client), server),
            ready = server.readable() => (ready.map(|()| server), client),
        };
        let Ok(from) = from else { return };
        match from.try_read(&mut buffer) {
            Ok(0) => return,
            Ok(read) => {
                if forward(to, &buffer[..read]).await.is_err() {
                    return;
                }
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(_) => return,
        }
    }
}

async fn forward(to: &TcpStream, mut bytes: &[u8]) -> std::io::Result<()> {
    while !bytes.is_empty() {
        to.writable().await?;
        match to.try_write(bytes) {
            Ok(written) => bytes = &bytes[written..],
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
