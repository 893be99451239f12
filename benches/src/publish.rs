//! Hands payloads to what is measured, as fast as it takes them or when each is due.

use std::io::{BufWriter, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::Context as _;
use rdkafka::config::ClientConfig;
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::message::ToBytes;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};

use crate::load::now;

/// Who a payload is for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Whom {
    /// Every socket.
    All,
    /// The user of that number; on the floor, the socket.
    One(usize),
}

/// A way to the sockets.
pub(crate) trait Publish: Send {
    /// Takes one payload; blocks while nothing more is taken.
    fn publish(&mut self, whom: Whom, payload: &str) -> anyhow::Result<()>;

    /// Sends what waits for company.
    fn flush(&mut self) -> anyhow::Result<()>;
}

/// Publishes `count` payloads as fast as they are taken; `what` says for whom, and of how many bytes.
pub(crate) fn storm(
    publisher: &mut dyn Publish,
    count: u64,
    what: impl Fn(u64) -> (Whom, usize),
) -> anyhow::Result<()> {
    for i in 0..count {
        let (whom, bytes) = what(i);
        publisher.publish(whom, &payload(now(), bytes))?;
    }
    publisher.flush()
}

/// Publishes `count` payloads at a steady rate. A payload says when it was due: a late sender hides nothing.
pub(crate) fn steady(
    publisher: &mut dyn Publish,
    per_second: f64,
    count: u64,
    what: impl Fn(u64) -> (Whom, usize),
) -> anyhow::Result<()> {
    let pace = Pace::new(per_second);
    let mut i = 0;
    while i < count {
        pace.wait(i);
        let until = pace.due_by(now()).min(count);
        while i < until {
            let (whom, bytes) = what(i);
            publisher.publish(whom, &payload(pace.due(i), bytes))?;
            i += 1;
        }
        publisher.flush()?;
    }
    Ok(())
}

/// When each of many steady events is due.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    began: u64,
    /// Nanoseconds between two.
    every: f64,
}

impl Pace {
    /// The first is due soon.
    pub(crate) fn new(per_second: f64) -> Self {
        Self {
            began: now() + 1_000_000,
            every: 1e9 / per_second,
        }
    }

    /// In nanoseconds since the Unix epoch.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "positive, and far below 2^53"
    )]
    pub(crate) fn due(&self, i: u64) -> u64 {
        self.began + (self.every * i as f64) as u64
    }

    /// How many are due by then.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "positive, and far below 2^53"
    )]
    fn due_by(&self, now: u64) -> u64 {
        (now.saturating_sub(self.began) as f64 / self.every) as u64 + 1
    }

    /// Blocks until that one is due, and no shorter than a sleep is worth.
    #[expect(clippy::disallowed_methods, reason = "on a thread of its own")]
    fn wait(&self, i: u64) {
        const LEAST: u64 = 50_000;
        let left = self.due(i).saturating_sub(now());
        if left > 0 {
            std::thread::sleep(Duration::from_nanos(left.max(LEAST)));
        }
    }
}

/// JSON of that size that says when it was due.
pub(crate) fn payload(due: u64, bytes: usize) -> String {
    let head = format!(r#"{{"at":{due},"pad":""#);
    let pad = "x".repeat(bytes.saturating_sub(head.len() + 2));
    format!(r#"{head}{pad}"}}"#)
}

/// A line on the floor's control socket.
pub(crate) struct Lines(pub(crate) BufWriter<TcpStream>);

impl Publish for Lines {
    fn publish(&mut self, whom: Whom, payload: &str) -> anyhow::Result<()> {
        match whom {
            Whom::All => writeln!(self.0, "* {payload}")?,
            // Number 0 is the socket that was opened first and not counted.
            Whom::One(number) => writeln!(self.0, "{} {payload}", number + 1)?,
        }
        Ok(())
    }

    fn flush(&mut self) -> anyhow::Result<()> {
        Ok(self.0.flush()?)
    }
}

/// What is published, with `{n}` for the user's number and `{payload}` for the payload.
#[derive(Clone, Debug)]
pub(crate) struct Templates {
    pub(crate) for_all: String,
    pub(crate) for_one: String,
}

impl Templates {
    /// sumu's notifications.
    pub(crate) fn sumu() -> Self {
        Self {
            for_all: r#"{"data":{payload}}"#.into(),
            for_one: r#"{"users":["user-{n}"],"data":{payload}}"#.into(),
        }
    }

    pub(crate) fn fill(&self, whom: Whom, payload: &str) -> String {
        match whom {
            Whom::All => self.for_all.replace("{payload}", payload),
            Whom::One(number) => {
                let one = self.for_one.replace("{n}", &number.to_string());
                one.replace("{payload}", payload)
            }
        }
    }
}

/// Records in a topic. No thread waits for what became of them: the one of rdkafka's `ThreadedProducer` spins for
/// some of its time, beside what is measured.
pub(crate) struct Records {
    producer: BaseProducer,
    topic: String,
    templates: Templates,
}

impl Records {
    pub(crate) fn new(brokers: &str, topic: String, templates: Templates) -> anyhow::Result<Self> {
        Ok(Self {
            producer: producer(brokers)?,
            topic,
            templates,
        })
    }
}

impl Publish for Records {
    fn publish(&mut self, whom: Whom, payload: &str) -> anyhow::Result<()> {
        let record = self.templates.fill(whom, payload);
        let record = BaseRecord::<(), str>::to(&self.topic).payload(&record);
        enqueue(&self.producer, record)
    }

    /// A producer's queue sends by itself; what was delivered leaves it here.
    fn flush(&mut self) -> anyhow::Result<()> {
        self.producer.poll(Duration::ZERO);
        Ok(())
    }
}

/// The log's raw speed: so many records of that size, acks=all, from one plain producer.
pub(crate) fn raw_produce(
    brokers: &str,
    topic: &str,
    records: u64,
    bytes: usize,
) -> anyhow::Result<()> {
    let (producer, value) = (producer(brokers)?, "x".repeat(bytes));
    for _ in 0..records {
        enqueue(&producer, BaseRecord::<(), str>::to(topic).payload(&value))?;
    }
    producer.flush(Duration::from_secs(60))?;
    Ok(())
}

/// Queues without waiting for the delivery; waits while the queue is full.
pub(crate) fn enqueue<K: ToBytes + ?Sized>(
    producer: &BaseProducer,
    mut record: BaseRecord<'_, K, str>,
) -> anyhow::Result<()> {
    loop {
        match producer.send(record) {
            Ok(()) => return Ok(()),
            Err((error, back))
                if error.rdkafka_error_code() == Some(RDKafkaErrorCode::QueueFull) =>
            {
                record = back;
                producer.poll(Duration::from_millis(1));
            }
            Err((error, _)) => return Err(error).context("producing"),
        }
    }
}

fn producer(brokers: &str) -> anyhow::Result<BaseProducer> {
    let producer = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("enable.idempotence", "true")
        .set("linger.ms", "0")
        .set("sticky.partitioning.linger.ms", "0")
        .set("socket.nagle.disable", "true")
        .create()?;
    Ok(producer)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Kept(Vec<(u64, u64)>);

    impl Publish for Kept {
        fn publish(&mut self, _: Whom, payload: &str) -> anyhow::Result<()> {
            let due = crate::frames::due(payload.as_bytes());
            self.0.push((due.context("it says when")?, now()));
            Ok(())
        }

        fn flush(&mut self) -> anyhow::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn what_was_held_up_says_when_it_was_due() {
        let mut kept = Kept(vec![]);
        steady(&mut kept, 2_000.0, 100, |_| (Whom::All, 64)).unwrap();
        assert_eq!(kept.0.len(), 100);
        for (before, after) in kept.0.iter().zip(kept.0.iter().skip(1)) {
            assert!((499_000..501_000).contains(&(after.0 - before.0)));
        }
        assert!(kept.0.iter().all(|(due, sent)| due <= sent));
    }

    #[test]
    fn a_payload_has_the_size_asked_for() {
        assert_eq!(payload(now(), 200).len(), 200);
        assert!(payload(now(), 1).starts_with("{\"at\":"));
    }
}
