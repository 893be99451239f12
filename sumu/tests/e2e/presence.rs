//! Proves the rows of `docs/presence-cases.md` that are marked there, with real processes: killed, paused,
//! cut off, restarted. Each test has a deployment of its own, and [`Judge`](crate::judge::Judge) reads along.

mod broker;
mod devices;
mod edges;
mod owners;
mod store;
mod storm;
mod unreachable;

use std::sync::Arc;
use std::time::Duration;

use runtime::{Clock, Timings};
use schemas::Millis;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use crate::cluster::{Cluster, Servers};
use crate::device::{Command, Device, Shared};
use crate::judge::Judge;
use crate::until;

/// Short, and long enough for a busy machine.
const TIMINGS: Timings = Timings {
    heartbeat: Duration::from_millis(500),
    lease: Duration::from_secs(3),
    connection_ttl: Duration::from_secs(40),
    presence_grace: Duration::from_secs(3),
};

/// The servers, or a word that this test was not run.
fn servers() -> Option<Servers> {
    let servers = Servers::from_env();
    if servers.is_none() {
        eprintln!("not run: SUMU_TEST_KAFKA and SUMU_TEST_CQL name no servers");
    }
    servers
}

/// Now, by the clock of this machine, which is the brokers' too.
fn wall() -> Millis {
    Clock::system().now()
}

/// The names of so many users.
fn names(group: &str, count: usize) -> Vec<String> {
    (0..count).map(|i| format!("{group}-{i}")).collect()
}

/// Devices that come once, one for each user, at that edge.
fn once(users: &[String], edge: &str, journal: &Shared) -> Vec<Device> {
    let device = |user: &String| Device::once(user, Cluster::sign(user), edge, Arc::clone(journal));
    users.iter().map(device).collect()
}

/// Devices that come back, one for each user, to one of those edges after the other.
fn faithful(users: &[String], edges: &[String], journal: &Shared) -> Vec<Device> {
    let device = |user: &String| {
        let (token, edges) = (Cluster::sign(user), edges.to_vec());
        Device::start(user, token, edges, 0, Arc::clone(journal))
    };
    users.iter().map(device).collect()
}

/// Waits until so many sockets are open, as their clients see it.
async fn open_are(journal: &Shared, count: usize) {
    until(&format!("{count} sockets are open"), || {
        open(journal) == count
    })
    .await;
}

fn open(journal: &Shared) -> usize {
    let journal = journal.lock().unwrap();
    let open = journal.sessions.iter().filter(|s| s.closed.is_none());
    open.count()
}

/// The codes that a user's sockets were closed with, as the client saw them.
fn codes(journal: &Shared, user: &str) -> Vec<Option<u16>> {
    let journal = journal.lock().unwrap();
    let ended = (journal.sessions.iter()).filter(|s| s.user == user && s.closed.is_some());
    ended.map(|s| s.code).collect()
}

/// A user who comes, stays a moment and leaves, in one way or the other, until the end.
async fn come_and_go(user: String, edges: Vec<String>, seed: u64, stopped: watch::Receiver<bool>) {
    let token = Cluster::sign(&user);
    for turn in 0.. {
        if *stopped.borrow() {
            return;
        }
        let moment = |n: u64| Duration::from_millis((seed * 7919 + turn * 104_729 + n) % 500 + 150);
        let edge = &edges[usize::try_from(seed + turn).unwrap() % edges.len()];
        let journal = Shared::default();
        let device = Device::once(&user, token.clone(), edge, Arc::clone(&journal));
        open_are(&journal, 1).await;
        sleep(moment(0)).await;
        let way = if turn % 4 == 0 {
            Command::Vanish
        } else {
            Command::Leave
        };
        device.tell(way).await;
        open_are(&journal, 0).await;
        sleep(moment(250)).await;
    }
}

/// Waits until each of these users has had that course of events.
async fn courses_are(judge: &Judge, users: &[String], course: &str) {
    until(&format!("everybody is {course}"), || {
        let courses = judge.courses();
        users.iter().all(|user| {
            let now = courses.get(user).map_or("", String::as_str);
            assert!(
                course.starts_with(now),
                "{user} is {now} and should be {course}"
            );
            now == course
        })
    })
    .await;
}

/// Measures how long this machine let a task wait that wanted to run: a bound of time is held as long
/// as the machine runs at all.
struct Stalls(JoinHandle<()>, Arc<std::sync::Mutex<Duration>>);

impl Stalls {
    fn start() -> Self {
        const NAP: Duration = Duration::from_millis(20);
        let worst = Arc::new(std::sync::Mutex::new(Duration::ZERO));
        let kept = Arc::clone(&worst);
        let task = tokio::spawn(async move {
            loop {
                let before = Instant::now();
                sleep(NAP).await;
                let late = before.elapsed().saturating_sub(NAP);
                let mut worst = kept.lock().unwrap();
                *worst = late.max(*worst);
            }
        });
        Self(task, worst)
    }

    fn worst(&self) -> Duration {
        *self.1.lock().unwrap()
    }
}

impl Drop for Stalls {
    fn drop(&mut self) {
        self.0.abort();
    }
}
