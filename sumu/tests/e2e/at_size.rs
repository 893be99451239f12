//! Counts the guarantees at size: 1,000 users with 1 to 3 devices, 3 edges, 2 pushers, 2 presence
//! processors, on a Kafka that is stopped and started and a CQL server; then every process is stopped
//! by SIGTERM and started again, one after the other, as an upgrade does.

use std::time::Duration;

use runtime::Timings;

use crate::broker::Broker;
use crate::cluster::{self, Servers};
use crate::run::{Fault, Run, Size};

const SIZE: Size = Size {
    users: 1000,
    turns: 8,
    steady: false,
    receipts: "summary",
};

/// A lease that outlives the broker's restart, as operators choose it: no edge loses its sockets.
const TIMINGS: Timings = Timings {
    lease: Duration::from_secs(90),
    connection_ttl: Duration::from_secs(400),
    ..cluster::TIMINGS
};

const EVERYBODY: [&str; 7] = [
    "ingest-1",
    "presence-1",
    "pusher-1",
    "ingest-2",
    "presence-2",
    "pusher-2",
    "ingest-3",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn guarantees_hold_at_size_over_a_broker_restart_and_a_rolling_restart() {
    let _alone = crate::busy().await;
    let Some(servers) = Servers::from_env() else {
        eprintln!("not run: SUMU_TEST_KAFKA and SUMU_TEST_CQL name no servers");
        return;
    };
    allow_descriptors();
    let broker = Broker::start("").await;
    let servers = Servers {
        kafka: broker.address(),
        ..servers
    };
    let mut run = Run::start(servers, TIMINGS, SIZE).await;
    run.connect_everybody().await;
    run.round(0, None).await;

    let before = run.closed();
    run.round(1, Some(Fault::Broker(&broker))).await;
    assert_eq!(run.closed(), before, "the broker's restart cost sockets");

    for (step, name) in EVERYBODY.into_iter().enumerate() {
        run.round(step + 2, Some(Fault::Terminate(name))).await;
    }
    run.settle().await;
    run.check_deliveries();
    run.check_messages().await;
    run.check_bad_input().await;
    run.check_presence().await;
}

/// This process holds a socket for each device.
pub(crate) fn allow_descriptors() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        ..limit
    };
    setrlimit(Resource::Nofile, raised).unwrap();
}
