//! Edges that die: found out, said in the log, marked, and their users told.

use std::sync::Arc;
use std::time::Duration;

use schemas::edges::{EdgeRecord, Expired, ExpiryCause};
use tokio::time::sleep;

use crate::harness::World;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_edge_loses_its_users_and_a_living_one_keeps_them() {
    let world = Arc::new(World::new().await);
    let workers = [world.worker(), world.worker()];
    let (dies, heart) = world.edge("dies").await;
    let (lives, beats) = world.edge("lives").await;
    for n in 0..12 {
        world
            .open(&world.conn(&format!("d{n}"), "dies", dies.0))
            .await;
    }
    world.open(&world.conn("both", "dies", dies.0)).await;
    world.open(&world.conn("both", "lives", lives.0)).await;
    for n in 0..12 {
        world
            .until_told(&format!("d{n}"), &["ONLINE connected"])
            .await;
    }
    // Longer than a lease: as long as it heartbeats, nothing happens.
    sleep(world.timings.lease + Duration::from_secs(1)).await;
    assert_eq!(world.presence().await.len(), 13);

    heart.abort();
    for n in 0..12 {
        let both = ["ONLINE connected", "OFFLINE edge_lost"];
        world.until_told(&format!("d{n}"), &both).await;
    }
    world.until_told("both", &["ONLINE connected"]).await;
    assert_eq!(world.presence().await.len(), 25);
    for worker in workers {
        worker.stop().await;
    }
    beats.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_life_that_ended_while_nobody_watched_is_marked_at_the_takeover() {
    let world = Arc::new(World::new().await);
    let (epoch, heart) = world.edge("gone").await;
    let worker = world.worker();
    world.open(&world.conn("ada", "gone", epoch.0)).await;
    world.until_told("ada", &["ONLINE connected"]).await;
    worker.stop().await;

    heart.abort();
    let expired = EdgeRecord::Expired(Expired {
        edge_id: "gone".parse().unwrap(),
        epoch,
        after: epoch.0,
        cause: ExpiryCause::Ended,
    });
    world.append_edge(&expired).await;
    let worker = world.worker();
    let both = ["ONLINE connected", "OFFLINE edge_lost"];
    world.until_told("ada", &both).await;
    worker.stop().await;
}

/// It could neither mark the end of a life nor find one out, and nobody would know.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_processor_that_cannot_see_edges_gives_up() {
    let world = World::new().await;
    let worker = world.worker();
    worker.ready().await;
    world.stop_following();
    let error = worker.gives_up().await;
    assert!(matches!(error, presence::Error::Edges), "{error}");
}
