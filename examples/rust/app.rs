//! An application beside sumu: answers every message, and prints who comes and goes.
//!
//! usage: `cargo run --example app -- [BROKERS]`
//! needs: `cargo add anyhow rdkafka serde_json`, `cargo add tokio --features macros,rt-multi-thread`

#![expect(clippy::print_stdout, reason = "that is what it is for")]

use std::time::Duration;

use anyhow::Context as _;
use rdkafka::consumer::{CommitMode, Consumer, StreamConsumer};
use rdkafka::producer::{FutureProducer, FutureRecord};
use rdkafka::{ClientConfig, Message};
use serde_json::{Value, json};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let brokers = std::env::args().nth(1);
    let brokers = brokers.as_deref().unwrap_or("127.0.0.1:9092");
    let producer: FutureProducer = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("enable.idempotence", "true")
        .create()?;
    let consumer: StreamConsumer = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("group.id", "example-rust")
        .set("auto.offset.reset", "earliest")
        .set("enable.auto.commit", "false")
        .set("isolation.level", "read_committed")
        .create()?;
    consumer.subscribe(&["sumu.messages.send", "sumu.presence"])?;
    loop {
        let record = consumer.recv().await?;
        let user = record.key_view::<str>().context("no key")??;
        let text = record.payload_view::<str>().context("no value")??;
        let value: Value = serde_json::from_str(text)?;
        if record.topic() == "sumu.presence" {
            println!(
                "presence: {user} {}",
                value["message"]["status"].as_str().unwrap_or("?")
            );
        } else {
            println!("message from {user}: {text}");
            let request = json!({"users": [user], "data": {"from": "rust", "heard": value}});
            let request = request.to_string();
            let record = FutureRecord::to("sumu.notifications")
                .key(user)
                .payload(&request);
            let sent = producer.send(record, Duration::from_secs(5)).await;
            sent.map_err(|(error, _)| error)?;
        }
        consumer.commit_message(&record, CommitMode::Sync)?;
    }
}
