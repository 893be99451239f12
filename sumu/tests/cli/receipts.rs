//! `sumu audit notification` and `user`: what became of notifications.

use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::Value;
use tokio_tungstenite::tungstenite::Message;

use super::replay::notify;
use super::{Dev, Instant, PATIENCE, output, sleep, sumu, text, timeout};

async fn audit(brokers: &str, args: &[&str]) -> String {
    let told = output(sumu(&["audit"]).args(args).args(["--brokers", brokers])).await;
    assert!(told.status.success(), "{told:?}");
    text(&told.stdout).to_owned()
}

/// What is told of a notification, as soon as there is a receipt.
async fn receipt(brokers: &str, name: &str) -> Value {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let told = audit(brokers, &["notification", name, "--json"]).await;
        let told: Value = serde_json::from_str(&told).unwrap();
        if !told["receipt"].is_null() {
            return told;
        }
        assert!(Instant::now() < deadline, "{told}");
        sleep(std::time::Duration::from_millis(200)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_became_of_a_notification_is_told_by_edge_and_by_device() {
    let dev = Dev::start().await;
    let brokers = format!("127.0.0.1:{}", dev.broker);
    let token = output(&mut sumu(&["token", "--sub", "ann", "--data", &dev.data()])).await;
    let token = text(&token.stdout).trim();
    let url = format!("ws://127.0.0.1:{}/push?authorization={token}", dev.listen);
    let (mut socket, _) = tokio_tungstenite::connect_async(url).await.unwrap();
    socket
        .send(Message::text(r#"{"action":"ping"}"#))
        .await
        .unwrap();
    let pong = timeout(PATIENCE, socket.next()).await.unwrap();
    let pong: Value = serde_json::from_str(pong.unwrap().unwrap().to_text().unwrap()).unwrap();
    let ann = pong["connectionId"].as_str().unwrap().to_owned();
    let (home, _) = ann.rsplit_once('.').unwrap();
    let gone = format!("{home}.0000000000000001");

    // In one partition, so that the last one's receipt says that the others' are there.
    let of = |id: &'static str, how: &'static str| ["--user", "ann", "--id", id, "--receipts", how];
    notify(&brokers, &of("silent", "none"), "1").await;
    notify(&brokers, &of("counted", "summary"), "2").await;
    let named = ["--connection", &ann, "--connection", &gone];
    let named = [&named[..], &["--id", "named", "--receipts", "full"]].concat();
    notify(&brokers, &named, "3").await;
    let away = notify(&brokers, &["--user", "nobody"], "4").await;
    notify(&brokers, &of("last", "summary"), "5").await;

    let told = receipt(&brokers, "named").await;
    let edge = &told["receipt"]["edges"][0];
    assert_eq!(told["receipt"]["outcome"], "sent", "{told}");
    assert_eq!(
        (&edge["delivered"], &edge["overflowed"]),
        (&1.into(), &0.into())
    );
    assert_eq!(edge["devices"]["delivered"], serde_json::json!([ann]));
    assert_eq!(edge["devices"]["gone"], serde_json::json!([gone]));
    let told = audit(&brokers, &["notification", "named"]).await;
    for line in [format!("  delivered: ann {ann}"), format!("  gone: {gone}")] {
        assert!(told.contains(&line), "{line}: {told}");
    }
    let told = receipt(&brokers, &away).await;
    assert_eq!(told["receipt"]["outcome"], "nobody_there", "{told}");
    receipt(&brokers, "last").await;
    let told = receipt(&brokers, "counted").await;
    let edge = &told["receipt"]["edges"][0];
    assert_eq!(edge["delivered"], 1, "{told}");
    assert!(edge["devices"].is_null(), "{told}");
    let told = audit(&brokers, &["notification", "silent"]).await;
    assert!(told.contains("no receipt"), "{told}");

    let story = audit(&brokers, &["user", "ann"]).await;
    assert!(
        story.contains("was delivered to 1 sockets in all"),
        "{story}"
    );
    let told = story.matches("was delivered to").count();
    assert_eq!(
        told, 2,
        "of what was addressed to ann and asked to be told: {story}"
    );
}
