//! Processors that die and partitions that move, while users come and go: each transition once.

use std::time::Duration;

use schemas::CloseCode;
use tokio::time::sleep;

use crate::harness::{World, until};

const CODES: [CloseCode; 4] = [
    CloseCode::NORMAL,
    CloseCode::DROPPED,
    CloseCode::REVOKED,
    CloseCode::TOKEN_EXPIRED,
];

/// Users come and go in a fixed pattern; at the end a few stay.
async fn traffic(world: &World) {
    let mut open = Vec::new();
    for n in 0..600_usize {
        let conn = world.conn(&format!("u{}", n * 7 % 31), "e1", 0);
        world.open(&conn).await;
        open.push(conn);
        if n % 3 != 0 {
            let conn = open.swap_remove(n * 5 % open.len());
            world.close(&conn, CODES[n % CODES.len()]).await;
        }
        sleep(Duration::from_millis(10)).await;
    }
    for conn in open.drain(5..) {
        world.close(&conn, CloseCode::DROPPED).await;
    }
}

/// The topic holds what a fold of the whole log says, byte for byte, and nothing else.
async fn agrees_with_the_log(world: &World) {
    until("what the log says", async || {
        world.presence().await.len() >= world.expected().await.len()
    })
    .await;
    // Nothing follows any more: neither late nor twice.
    sleep(Duration::from_secs(2)).await;
    let expected = world.expected().await;
    let told = world.presence().await;
    for (told, expected) in told.iter().zip(&expected) {
        assert_eq!(told.value, expected.value, "at {}", told.position);
        assert_eq!(told.key, expected.key);
        assert_eq!(told.headers, expected.headers);
        assert_eq!(told.position.partition, expected.partition);
    }
    assert_eq!(told.len(), expected.len());
    assert!(told.len() > 100, "{} is no test", told.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_transition_is_told_once_across_crashes() {
    let world = World::new().await;
    let crashes = async {
        for n in 0..12_u64 {
            let worker = world.worker();
            sleep(Duration::from_millis(300 + n * 61)).await;
            worker.kill().await;
        }
    };
    tokio::join!(traffic(&world), crashes);
    let worker = world.worker();
    agrees_with_the_log(&world).await;
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_transition_is_told_once_across_moves() {
    let world = World::new().await;
    let stays = world.worker();
    let moves = async {
        for n in 0..6_u64 {
            let comes = world.worker();
            sleep(Duration::from_millis(900 + n * 130)).await;
            if n % 2 == 0 {
                comes.stop().await;
            } else {
                comes.kill().await;
            }
        }
    };
    tokio::join!(traffic(&world), moves);
    agrees_with_the_log(&world).await;
    stays.ready().await;
    stays.stop().await;
}
