//! Applies notifications: each once per connection, in the order of its partition.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use runtime::telemetry::trace;
use schemas::Receipts;
use schemas::push::{BatchReply, Devices, Fate, PushBatch};
use tracing::{Span, info_span};

use crate::fates::{Fates, named, weight};
use crate::frame::Frame;
use crate::registry::{Delivered, Mailbox, Registry};
use crate::worker::Calls;

/// The frames handed over without a pause: other requests are served in between.
const FRAMES_AT_ONCE: u32 = 10_000;
/// A notification partition in one life of its topic.
type Source = (String, i32, u64);

/// How far each notification partition was applied, and what came of it. Bounded: of partitions over
/// the limit, the one that was used longest ago is forgotten.
#[derive(Debug)]
pub struct Applied {
    sources: Mutex<Sources>,
    limits: Memory,
}

/// How much is remembered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// Partitions of which is known how far they were applied.
    pub partitions: usize,
    /// Fates of one partition, each connection id counted as one, until the pusher has told them.
    pub fates: usize,
    /// Connections named of one notification; of more, the numbers are told.
    pub connections: usize,
}

#[derive(Debug, Default)]
struct Sources {
    offsets: HashMap<Source, Entry>,
    uses: u64,
}

#[derive(Debug)]
struct Entry {
    /// Locked from the check until all mailboxes have their frames.
    progress: Arc<Mutex<Progress>>,
    used: u64,
}

#[derive(Debug)]
struct Progress {
    /// The highest offset applied.
    through: i64,
    fates: Fates,
}

impl Applied {
    /// Nothing was applied yet.
    #[must_use]
    pub fn new(limits: Memory) -> Self {
        Self {
            sources: Mutex::default(),
            limits,
        }
    }

    /// Hands the frames of a batch to their mailboxes, but for those applied before, and takes them
    /// out of it; until none is left, a socket needs time, or many frames were handed over. The reply
    /// gets the fates that are asked for, those of repeated notifications too, if they are known. Where
    /// spans are collected, each that came with a trace gets one in it.
    ///
    /// Between two calls another batch of the partition may be applied. It holds what this one does,
    /// or what is not owed to a socket that was open when the notifications were appended.
    ///
    /// # Errors
    /// The offset of a notification that is not UTF-8. What comes before it has been applied.
    pub fn apply(
        &self,
        topic: &str,
        batch: &mut PushBatch,
        registry: &Registry,
        reply: &mut BatchReply,
    ) -> Result<Vec<Arc<Mailbox>>, i64> {
        let source = (topic.to_owned(), batch.partition, batch.incarnation);
        let progress = self.source(source);
        let mut progress = progress.lock().unwrap_or_else(PoisonError::into_inner);
        progress.fates.forget_below(batch.settled_below);
        let push = info_span!("push", partition = batch.partition);
        let traced = trace::of(&push).is_some();
        let (mut crowded, mut handed, mut done) = (vec![], 0, 0);
        // Dropped at the end, or when a notification is no text: then the sockets write.
        let mut calls = Calls::default();
        for item in &batch.notifications {
            if !crowded.is_empty() || handed >= FRAMES_AT_ONCE {
                break;
            }
            done += 1;
            if item.offset <= progress.through {
                reply.repeated += 1;
                let asked = item.receipts != Receipts::None;
                if asked && let Some(fate) = progress.fates.of(item.offset) {
                    handed += u32::try_from(weight(&fate)).unwrap_or(u32::MAX);
                    reply.fates.push(fate);
                }
                continue;
            }
            // Checked and encoded once; every socket shares the bytes.
            let data = std::str::from_utf8(&item.data).map_err(|_not_utf8| item.offset)?;
            let frame = Frame::text(data);
            let parent = item.traceparent.as_ref().filter(|_| traced);
            let span = parent.map_or_else(Span::none, |parent| {
                let span = info_span!("deliver notification", offset = item.offset);
                trace::parent(&span, parent);
                span
            });
            let mut took = Delivered::naming(item.receipts == Receipts::Full);
            took.calls = calls;
            span.in_scope(|| registry.hand_out(&item.target, &frame, &mut took));
            reply.delivered += took.queued;
            reply.overflowed += took.overflowed;
            handed += took.queued;
            progress.through = item.offset;
            if item.receipts != Receipts::None {
                let fate = self.fate(item.offset, &mut took);
                reply.fates.push(fate.clone());
                progress.fates.keep(fate, self.limits.fates);
            }
            (crowded, calls) = (took.crowded, took.calls);
        }
        reply.applied_through = progress.through;
        batch.notifications.drain(..done);
        Ok(crowded)
    }

    fn fate(&self, offset: i64, took: &mut Delivered) -> Fate {
        let few = |devices: &Devices| named(devices) <= self.limits.connections;
        Fate {
            offset,
            delivered: took.queued,
            overflowed: took.overflowed,
            connections: took.devices.take().filter(few),
        }
    }

    fn source(&self, source: Source) -> Arc<Mutex<Progress>> {
        let mut sources = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
        sources.uses += 1;
        let used = sources.uses;
        if let Some(entry) = sources.offsets.get_mut(&source) {
            entry.used = used;
            return Arc::clone(&entry.progress);
        }
        if sources.offsets.len() >= self.limits.partitions {
            let oldest = sources.offsets.iter().min_by_key(|(_, entry)| entry.used);
            if let Some(oldest) = oldest.map(|(source, _)| source.clone()) {
                sources.offsets.remove(&oldest);
            }
        }
        let progress = Arc::new(Mutex::new(Progress {
            through: -1,
            fates: Fates::default(),
        }));
        let entry = Entry {
            progress: Arc::clone(&progress),
            used,
        };
        sources.offsets.insert(source, entry);
        progress
    }
}

#[cfg(test)]
mod tests {
    use opentelemetry::trace::TracerProvider as _;
    use opentelemetry_sdk::error::OTelSdkResult;
    use opentelemetry_sdk::trace::{SdkTracerProvider, SpanData, SpanProcessor};
    use schemas::ConnectionId;
    use schemas::push::{PushItem, Target};
    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;
    use crate::push::give_time;
    use crate::registry::{Inbox, MailboxLimits};
    use std::time::Duration;
    use tokio::time::Instant;

    const TOPIC: &str = "sumu.notifications";

    fn batch(partition: i32, incarnation: u64, offsets: &[i64]) -> PushBatch {
        let item = |offset: &i64| PushItem {
            offset: *offset,
            target: Target::default(),
            data: offset.to_string().into(),
            traceparent: None,
            receipts: Receipts::default(),
        };
        PushBatch {
            incarnation,
            partition,
            settled_below: -1,
            notifications: offsets.iter().map(item).collect(),
        }
    }

    fn bench(limit: usize) -> (Applied, Registry, Inbox) {
        let registry = Registry::new(MailboxLimits {
            frames: 100,
            bytes: 1000,
            patience: Duration::from_millis(20),
        });
        let id = "edge.1.0000000000000001".parse().unwrap();
        let inbox = registry
            .register(&"a".parse().unwrap(), &id, schemas::Millis(0), 1, None)
            .unwrap();
        let memory = Memory {
            partitions: limit,
            fates: 100,
            connections: 2,
        };
        (Applied::new(memory), registry, inbox)
    }

    fn apply(
        applied: &Applied,
        mut batch: PushBatch,
        registry: &Registry,
    ) -> Result<BatchReply, i64> {
        let mut reply = BatchReply::new();
        let crowded = applied.apply(TOPIC, &mut batch, registry, &mut reply)?;
        assert!(crowded.is_empty() && batch.notifications.is_empty());
        Ok(reply)
    }

    fn got(inbox: &mut Inbox) -> Vec<String> {
        std::iter::from_fn(|| inbox.try_next()?.read_text().map(|text| text.to_string())).collect()
    }

    #[test]
    fn what_was_applied_is_not_shown_again() {
        let (applied, registry, mut inbox) = bench(10);
        let reply = apply(&applied, batch(0, 1, &[3, 5]), &registry).unwrap();
        assert_eq!(
            (reply.applied_through, reply.delivered, reply.repeated),
            (5, 2, 0)
        );
        let reply = apply(&applied, batch(0, 1, &[4, 5, 6]), &registry).unwrap();
        assert_eq!(
            (reply.applied_through, reply.delivered, reply.repeated),
            (6, 1, 2)
        );
        assert_eq!(got(&mut inbox), ["3", "5", "6"]);
        // Another partition and another life of the topic count for themselves.
        apply(&applied, batch(1, 1, &[0]), &registry).unwrap();
        apply(&applied, batch(0, 2, &[0]), &registry).unwrap();
        assert_eq!(got(&mut inbox), ["0", "0"]);
    }

    /// A batch whose notifications ask for that much, of a pusher that has committed so far.
    fn asking(offsets: &[i64], receipts: Receipts, settled_below: i64) -> PushBatch {
        let mut batch = PushBatch {
            settled_below,
            ..batch(0, 1, offsets)
        };
        for item in &mut batch.notifications {
            item.receipts = receipts;
        }
        batch
    }

    fn id(number: u64) -> ConnectionId {
        ConnectionId::new(&"edge".parse().unwrap(), schemas::Epoch(1), number)
    }

    fn fates(reply: &BatchReply) -> Vec<(i64, u32, u32)> {
        let told = reply.fates.iter();
        told.map(|fate| (fate.offset, fate.delivered, fate.overflowed))
            .collect()
    }

    #[test]
    fn a_batch_sent_again_is_answered_with_the_same_fates() {
        let (applied, registry, inbox) = bench(10);
        let first = asking(&[1, 2], Receipts::Summary, -1);
        let reply = apply(&applied, first.clone(), &registry).unwrap();
        assert_eq!(fates(&reply), [(1, 1, 0), (2, 1, 0)]);
        registry.unregister(&"a".parse().unwrap(), &id(1));
        drop(inbox);
        let more = asking(&[1, 2, 3], Receipts::Summary, -1);
        let again = apply(&applied, more, &registry).unwrap();
        assert_eq!(fates(&again), [(1, 1, 0), (2, 1, 0), (3, 0, 0)]);
        let told = asking(&[1, 2], Receipts::Summary, 2);
        let told = apply(&applied, told, &registry).unwrap();
        assert_eq!(fates(&told), [(2, 1, 0)], "1 was told of");
        let none = asking(&[3, 4], Receipts::None, 2);
        let none = apply(&applied, none, &registry).unwrap();
        assert_eq!(fates(&none), [], "nobody asked");
        let too_late = asking(&[1], Receipts::Summary, 2);
        let too_late = apply(&applied, too_late, &registry).unwrap();
        assert_eq!((fates(&too_late), too_late.repeated), (vec![], 1));
    }

    #[test]
    fn full_receipts_name_the_connections_unless_they_are_too_many() {
        let (applied, registry, mut inbox) = bench(10);
        let (here, gone) = (id(1), id(99));
        let mut batch = asking(&[1], Receipts::Full, -1);
        batch.notifications[0].target.connections = vec![here.clone(), gone.clone()];
        let reply = apply(&applied, batch, &registry).unwrap();
        let devices = reply.fates[0].connections.clone().unwrap();
        assert_eq!((devices.delivered, devices.gone), (vec![here], vec![gone]));
        got(&mut inbox);

        let others: Vec<_> = (50..52)
            .map(|n| {
                registry.register(
                    &"other".parse().unwrap(),
                    &id(n),
                    schemas::Millis(0),
                    10,
                    None,
                )
            })
            .collect();
        let everybody = asking(&[2], Receipts::Full, -1);
        let reply = apply(&applied, everybody, &registry).unwrap();
        assert_eq!(fates(&reply), [(2, 3, 0)]);
        assert_eq!(reply.fates[0].connections, None, "three, where two may be");
        drop(others);
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let (applied, registry, mut inbox) = bench(2);
        for partition in [0, 1, 0, 2] {
            apply(&applied, batch(partition, 1, &[7]), &registry).unwrap();
        }
        assert_eq!(applied.sources.lock().unwrap().offsets.len(), 2);
        got(&mut inbox);
        let reply = apply(&applied, batch(0, 1, &[7]), &registry).unwrap();
        assert_eq!(reply.repeated, 1, "0 was used after 1: it is remembered");
    }

    #[test]
    fn what_is_not_text_stops_the_batch_where_it_is() {
        let (applied, registry, mut inbox) = bench(10);
        let mut wrong = batch(0, 1, &[1, 2, 3]);
        wrong.notifications[1].data = vec![0xff].into();
        assert_eq!(apply(&applied, wrong, &registry), Err(2));
        assert_eq!(got(&mut inbox), ["1"]);
    }

    #[tokio::test]
    async fn a_socket_that_reads_is_given_time_and_one_that_does_not_is_closed() {
        let (applied, registry, mut inbox) = bench(10);
        let offsets: Vec<i64> = (0..300).collect();
        let mut reply = apply(&applied, batch(9, 1, &[0]), &registry).unwrap();
        let mut batch = batch(0, 1, &offsets);
        let far = Instant::now() + Duration::from_secs(60);
        let mut seen = got(&mut inbox).len();
        // It reads: nothing overflows, though the batch is three times what its queue holds.
        while batch.notifications.len() > 100 {
            let crowded = applied
                .apply(TOPIC, &mut batch, &registry, &mut reply)
                .unwrap();
            assert_eq!(crowded.len(), 1);
            let reading = async { seen += got(&mut inbox).len() };
            tokio::join!(give_time(crowded, far), reading);
        }
        assert_eq!(reply.overflowed, 0);
        // It stops reading: waited for as long as the patience lasts, then no more.
        let began = Instant::now();
        while !batch.notifications.is_empty() {
            let crowded = applied
                .apply(TOPIC, &mut batch, &registry, &mut reply)
                .unwrap();
            give_time(crowded, far).await;
        }
        let waited = began.elapsed();
        assert!((20..2_000).contains(&waited.as_millis()), "{waited:?}");
        assert_eq!(reply.applied_through, 299);
        seen += got(&mut inbox).len();
        assert_eq!(seen, usize::try_from(reply.delivered).unwrap());
    }

    #[test]
    fn concurrent_batches_of_a_partition_stay_in_order() {
        let (applied, registry, mut inbox) = bench(10);
        let push_all = || {
            for offset in 0..20 {
                apply(&applied, batch(0, 1, &[offset]), &registry).unwrap();
            }
        };
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(push_all);
            }
        });
        let got: Vec<i64> = got(&mut inbox).iter().map(|o| o.parse().unwrap()).collect();
        assert_eq!(got, (0..20).collect::<Vec<_>>());
    }

    #[derive(Clone, Debug, Default)]
    struct Ended(Arc<Mutex<Vec<SpanData>>>);

    impl SpanProcessor for Ended {
        fn on_start(&self, _: &mut opentelemetry_sdk::trace::Span, _: &opentelemetry::Context) {}

        fn on_end(&self, span: SpanData) {
            self.0.lock().unwrap().push(span);
        }

        fn force_flush(&self) -> OTelSdkResult {
            Ok(())
        }

        fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
            Ok(())
        }
    }

    #[test]
    fn the_trace_of_a_notification_goes_on_to_the_edge() {
        let ended = Ended::default();
        let tracers = SdkTracerProvider::builder()
            .with_span_processor(ended.clone())
            .build();
        let layer = tracing_opentelemetry::layer().with_tracer(tracers.tracer("test"));
        let (applied, registry, _inbox) = bench(10);
        let mut batch = batch(0, 1, &[1, 2]);
        batch.notifications[1].traceparent =
            Some("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".into());
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
            apply(&applied, batch, &registry).unwrap();
        });
        let ended = ended.0.lock().unwrap();
        let deliveries: Vec<_> = ended
            .iter()
            .filter(|span| span.name == "deliver notification")
            .map(|span| {
                let trace = span.span_context.trace_id().to_string();
                (trace, span.parent_span_id.to_string())
            })
            .collect();
        let expected = ("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7");
        assert_eq!(deliveries, [(expected.0.into(), expected.1.into())]);
    }
}
