//! Lets commands ask a running `sumu dev`, through a socket in its data folder.
//!
//! ```text
//!   sumu store verify --data DIR ─ {"wish":"verify_store"}\n ─▶ DIR/control.sock ─▶ dev: its log, its store
//!                                ◀─ {"told":{…}}\n or {"failed":"…"}\n ─┘
//! ```
//!
//! Whoever may read the data folder's secret may ask: both are for the folder's owner only.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use eventlog::Log;
use runtime::Timings;
use serde::{Deserialize, Serialize};
use store::ConnectionStore;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::upkeep::inspect::{self, Verdict};

/// Its name in the data folder.
const NAME: &str = "control.sock";
/// The longest wish.
const MAX_WISH_BYTES: u64 = 1024;
/// How long a peer may take to say what it wants, or to take the answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// Between two attempts to take a peer, when that fails.
const PAUSE: Duration = Duration::from_millis(100);

/// What can be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "wish", rename_all = "snake_case")]
pub(crate) enum Wish {
    /// To compare the store with the log.
    VerifyStore,
    /// To fold the log into the store, and to compare them.
    RebuildStore,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Answer {
    Told(Verdict),
    Failed(String),
}

/// What wishes are about.
#[derive(Clone, Debug)]
pub(crate) struct Control {
    pub(crate) log: Log,
    pub(crate) store: Arc<dyn ConnectionStore>,
    pub(crate) timings: Timings,
}

impl Control {
    /// Answers one wish after the other, until `stop`.
    ///
    /// # Errors
    /// If there can be no such socket: its path is too long, say.
    pub(crate) fn serve(self, data: &Path, stop: CancellationToken) -> io::Result<()> {
        let path = data.join(NAME);
        // One that is there is of a process that is gone: the folder is locked.
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(&path)?;
        fs::set_permissions(&path, Permissions::from_mode(0o600))?;
        tokio::spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = self.answer_all(&listener) => {}
            }
        });
        Ok(())
    }

    async fn answer_all(&self, listener: &UnixListener) {
        loop {
            let answered = match listener.accept().await {
                Ok((peer, _)) => self.answer(peer).await,
                Err(error) => {
                    tokio::time::sleep(PAUSE).await;
                    Err(error)
                }
            };
            if let Err(error) = answered {
                tracing::warn!(%error, "a command was not answered");
            }
        }
    }

    async fn answer(&self, peer: UnixStream) -> io::Result<()> {
        let (reading, mut writing) = peer.into_split();
        let mut reading = BufReader::new(reading.take(MAX_WISH_BYTES));
        let mut line = String::new();
        timeout(PATIENCE, reading.read_line(&mut line)).await??;
        let wish = serde_json::from_str(&line).map_err(io::Error::other)?;
        let answer = match self.fulfil(wish).await {
            Ok(verdict) => Answer::Told(verdict),
            Err(error) => Answer::Failed(format!("{error:#}")),
        };
        let mut line = serde_json::to_vec(&answer).map_err(io::Error::other)?;
        line.push(b'\n');
        timeout(PATIENCE, writing.write_all(&line)).await?
    }

    async fn fulfil(&self, wish: Wish) -> anyhow::Result<Verdict> {
        match wish {
            Wish::VerifyStore => inspect::verify(&self.log, &*self.store, self.timings).await,
            Wish::RebuildStore => inspect::rebuild(&self.log, &*self.store, self.timings).await,
        }
    }
}

/// Asks the `sumu dev` that runs on that data folder. It takes as long as the log is.
pub(crate) async fn ask(data: &Path, wish: Wish) -> anyhow::Result<Verdict> {
    let path = data.join(NAME);
    let shown = path.display();
    let peer = UnixStream::connect(&path).await;
    let peer = peer.with_context(|| format!("no `sumu dev` listens on {shown}"))?;
    let (reading, mut writing) = peer.into_split();
    let mut line = serde_json::to_vec(&wish)?;
    line.push(b'\n');
    writing.write_all(&line).await?;
    let mut answer = String::new();
    BufReader::new(reading).read_line(&mut answer).await?;
    if answer.is_empty() {
        bail!("`sumu dev` has ended without an answer");
    }
    match serde_json::from_str(&answer).context("no answer of `sumu dev`")? {
        Answer::Told(verdict) => Ok(verdict),
        Answer::Failed(why) => bail!("`sumu dev`: {why}"),
    }
}
