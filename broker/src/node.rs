//! Holds the parts of a running broker together.
use std::fs::{File, TryLockError};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use uuid::Uuid;

use crate::Error;
use crate::clock::Clock;
use crate::config::Config;
use crate::groups::Groups;
use crate::log::Flusher;
use crate::meta::{Change, Meta};
use crate::topics::Topics;
use crate::transactions::Transactions;

/// How often sessions and transactions are looked at for time-outs.
const TICK: Duration = Duration::from_millis(50);

/// How often a locked data folder is tried, one [`TICK`] apart.
const LOCK_TRIES: u32 = 60;

/// Everything that answers requests.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) config: Config,
    pub(crate) clock: Clock,
    pub(crate) cluster: String,
    /// Where clients are told to connect.
    pub(crate) host: String,
    pub(crate) port: i32,
    pub(crate) flusher: Arc<Flusher>,
    pub(crate) meta: Arc<Meta>,
    pub(crate) topics: Arc<Topics>,
    pub(crate) groups: Groups,
    pub(crate) transactions: Arc<Transactions>,
    /// Bytes of requests and responses in memory, over all connections.
    pub(crate) memory: Arc<Semaphore>,
    /// Locked as long as this broker uses the folder.
    lock: File,
}

impl Node {
    /// Opens the data folder and finishes what a crash left open.
    pub(crate) async fn open(config: Config, bound: SocketAddr) -> Result<Self, Error> {
        let (host, port) = config.advertise(bound)?;
        let clock = Clock::start();
        let lock = lock_folder(&config).await?;
        let opened = tokio::task::spawn_blocking({
            let config = config.clone();
            move || open_files(&config)
        });
        let (flusher, meta, topics) = opened
            .await
            .map_err(|error| Error::Config(format!("opening the data folder: {error}")))??;
        let cluster = cluster_id(&meta)
            .await
            .map_err(|_failed| unwritable(&config))?;
        let recovered = Transactions::recover(
            &config,
            clock.clone(),
            Arc::clone(&meta),
            Arc::clone(&topics),
        );
        let transactions = recovered.await.map_err(|_failed| unwritable(&config))?;
        let groups = Groups::new(&config, clock.clone(), Arc::clone(&meta));
        let memory = Arc::new(Semaphore::new(config.max_buffered_bytes));
        Ok(Self {
            config,
            clock,
            cluster,
            host,
            port,
            flusher,
            meta,
            topics,
            groups,
            transactions,
            memory,
            lock,
        })
    }

    /// Looks for what timed out, for ever.
    pub(crate) async fn tick(self: Arc<Self>) {
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.groups.tick();
            self.transactions.tick();
        }
    }

    /// Waits for transactions being ended and syncs all files.
    pub(crate) async fn close(&self) {
        self.transactions.close().await;
        let flusher = Arc::clone(&self.flusher);
        if let Err(error) = tokio::task::spawn_blocking(move || flusher.close()).await {
            tracing::error!(%error, "cannot flush at shutdown");
        }
        if let Err(error) = self.lock.unlock() {
            tracing::warn!(%error, "cannot unlock the data folder");
        }
    }
}

/// Makes sure that no other broker uses the folder; waits a little for one that is stopping.
async fn lock_folder(config: &Config) -> Result<File, Error> {
    let fault = |doing| {
        move |source| Error::Storage {
            doing,
            path: config.data.clone(),
            source,
        }
    };
    std::fs::create_dir_all(&config.data).map_err(fault("create"))?;
    let file = File::create(config.data.join("lock")).map_err(fault("create a lock in"))?;
    let mut tries = 0;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) if tries < LOCK_TRIES => {
                tries += 1;
                tokio::time::sleep(TICK).await;
            }
            Err(error) => return Err(fault("lock (does another broker use it?)")(error.into())),
        }
    }
}

type Files = (Arc<Flusher>, Arc<Meta>, Arc<Topics>);

fn open_files(config: &Config) -> Result<Files, Error> {
    let fault = |doing| {
        move |source| Error::Storage {
            doing,
            path: config.data.clone(),
            source,
        }
    };
    let flusher = Arc::new(Flusher::start().map_err(fault("start the flush threads for"))?);
    let opened = Meta::open(
        &config.data,
        Arc::clone(&flusher),
        config.metadata_log_bytes,
    )
    .map_err(fault("read the metadata journal in"))
    .map(Arc::new)
    .and_then(|meta| {
        Topics::open(config, Arc::clone(&flusher), Arc::clone(&meta))
            .map(|topics| (meta, Arc::new(topics)))
    });
    match opened {
        Ok((meta, topics)) => Ok((flusher, meta, topics)),
        Err(error) => {
            flusher.close();
            Err(error)
        }
    }
}

async fn cluster_id(meta: &Arc<Meta>) -> Result<String, crate::log::StorageFailed> {
    let (made, id) = meta.make_with(|image| {
        if let Some(id) = &image.cluster {
            return (None, id.clone());
        }
        let id = Uuid::now_v7().simple().to_string();
        (Some(Change::Cluster { id: id.clone() }), id)
    })?;
    meta.durable(made).await?;
    Ok(id)
}

fn unwritable(config: &Config) -> Error {
    let source = std::io::Error::other("see the log for the failed write");
    Error::Storage {
        doing: "write to",
        path: config.data.clone(),
        source,
    }
}
