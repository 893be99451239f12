//! Judges presence: what was told is the fold of what was logged, byte for byte, each event once.
//!
//! An ordinary consumer in `read_committed` reads the topics. The pure processor folds `connections`
//! from offset 0 in one go, as no process of a test did; what the processes told, in pieces and while
//! they were killed, must be the same. What a row expects of its users is asserted on top of that.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use presence::processor::{OnlineEvents, Outputs, Partition, Rules};
use runtime::Timings;
use schemas::presence::{Status, Transition};
use schemas::{ConnectionEvent, EdgeRecord, Epoch, Millis, PresenceEvent};
use serde_json::Value;

use crate::kafka::{Consumed, Seen};
use crate::{check, until};

/// A deployment as applications see it.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) brokers: String,
    pub(crate) prefix: String,
    pub(crate) partitions: i32,
    pub(crate) timings: Timings,
    /// Where `/v1` is.
    pub(crate) http: String,
    pub(crate) api_key: String,
}

/// A record, read.
#[derive(Clone, Debug)]
pub(crate) struct Logged<T> {
    pub(crate) partition: i32,
    pub(crate) offset: i64,
    /// When the broker appended it.
    pub(crate) at: Millis,
    pub(crate) record: Seen,
    pub(crate) what: T,
}

pub(crate) struct Judge {
    pub(crate) place: Place,
    log: Consumed,
    book: Mutex<Book>,
}

/// What was read so far.
struct Book {
    topics: [String; 3],
    rules: Rules,
    read: usize,
    folds: BTreeMap<i32, Partition>,
    /// By partition, what the fold says is to be told.
    due: BTreeMap<i32, Vec<Vec<u8>>>,
    /// By partition, what was told.
    told: BTreeMap<i32, Vec<Seen>>,
    transitions: Vec<Transition>,
    connections: Vec<Logged<ConnectionEvent>>,
    edges: Vec<Logged<EdgeRecord>>,
}

impl Judge {
    pub(crate) fn start(place: Place) -> Self {
        let topic = |name: &str| format!("{}{name}", place.prefix);
        let topics = ["connections", "presence", "edges"].map(topic);
        let [connections, told, edges] = &topics;
        let log = Consumed::reading(
            &place.brokers,
            &[
                (connections, place.partitions),
                (told, place.partitions),
                (edges, 1),
            ],
        );
        let rules = Rules {
            connection_ttl: place.timings.connection_ttl,
            grace: place.timings.presence_grace,
            online: OnlineEvents::First,
        };
        let book = Book {
            topics,
            rules,
            read: 0,
            folds: BTreeMap::new(),
            due: BTreeMap::new(),
            told: BTreeMap::new(),
            transitions: vec![],
            connections: vec![],
            edges: vec![],
        };
        Self {
            place,
            log,
            book: Mutex::new(book),
        }
    }

    fn look<R>(&self, look: impl FnOnce(&Book) -> R) -> R {
        let mut book = self.book.lock().unwrap();
        for record in self.log.after(book.read) {
            book.read += 1;
            book.note(record);
        }
        look(&book)
    }

    /// All that was told of a user.
    pub(crate) fn told(&self, user: &str) -> Vec<Transition> {
        self.look(|book| {
            let of_user = (book.transitions.iter()).filter(|t| t.user_id.as_str() == user);
            of_user.cloned().collect()
        })
    }

    /// How often each user became ONLINE or OFFLINE, in order: `+` and `-`.
    pub(crate) fn courses(&self) -> BTreeMap<String, String> {
        self.look(|book| {
            let mut courses: BTreeMap<String, String> = BTreeMap::new();
            for told in &book.transitions {
                let course = courses.entry(told.user_id.to_string()).or_default();
                course.push(match told.status {
                    Status::Online => '+',
                    Status::Offline => '-',
                });
            }
            courses
        })
    }

    /// The same for one user.
    pub(crate) fn course(&self, user: &str) -> String {
        self.courses().remove(user).unwrap_or_default()
    }

    /// All that was logged of a user's connections.
    pub(crate) fn logged(&self, user: &str) -> Vec<Logged<ConnectionEvent>> {
        self.events(|event| event.user_id().is_some_and(|id| id.as_str() == user))
    }

    pub(crate) fn events(
        &self,
        is_meant: impl Fn(&ConnectionEvent) -> bool,
    ) -> Vec<Logged<ConnectionEvent>> {
        self.look(|book| {
            let meant = book.connections.iter().filter(|l| is_meant(&l.what));
            meant.cloned().collect()
        })
    }

    /// How often such an event was logged of each user.
    pub(crate) fn tally(
        &self,
        is_meant: impl Fn(&ConnectionEvent) -> bool,
    ) -> BTreeMap<String, usize> {
        self.look(|book| {
            let mut tally = BTreeMap::new();
            let meant = book.connections.iter().filter(|l| is_meant(&l.what));
            for user in meant.filter_map(|l| l.what.user_id()) {
                *tally.entry(user.to_string()).or_default() += 1;
            }
            tally
        })
    }

    /// The record that a transition came of.
    pub(crate) fn cause(&self, transition: &Transition) -> Logged<ConnectionEvent> {
        let position = &transition.position;
        self.look(|book| {
            let mut logged = book.connections.iter();
            logged
                .find(|l| (l.partition, l.offset) == (position.partition, position.offset))
                .cloned()
                .unwrap_or_else(|| panic!("{position} is not in the log"))
        })
    }

    pub(crate) fn edges(&self) -> Vec<Logged<EdgeRecord>> {
        self.look(|book| book.edges.clone())
    }

    /// The newest life of an edge.
    pub(crate) fn epoch(&self, edge: &str) -> Option<Epoch> {
        let started = |logged: &Logged<EdgeRecord>| match &logged.what {
            EdgeRecord::Started(started) => started.edge_id.as_str() == edge,
            EdgeRecord::Heartbeat(_) | EdgeRecord::Expired(_) => false,
        };
        let newest = self.edges().into_iter().rfind(started);
        newest.map(|logged| Epoch(logged.offset))
    }

    /// The log time of a user's partition.
    pub(crate) fn log_time(&self, user: &str) -> Millis {
        let count = self.place.partitions;
        let partition = schemas::partition::partition_for(user.as_bytes(), count);
        let times = self.log_times();
        times.get(&partition).copied().unwrap_or(Millis(0))
    }

    /// The log time of each partition that has records.
    pub(crate) fn log_times(&self) -> BTreeMap<i32, Millis> {
        self.look(|book| {
            let folds = book.folds.iter();
            folds.map(|(p, fold)| (*p, fold.log_time())).collect()
        })
    }

    /// Waits until what was told is what the fold says, all of it and no more.
    ///
    /// # Panics
    /// If that does not come, or if a user's events do not alternate or go back.
    pub(crate) async fn agrees(&self) {
        let mut differing = String::new();
        for _ in 0..900 {
            differing = self.look(Book::difference);
            if differing.is_empty() {
                let told: Vec<Seen> =
                    self.look(|book| book.told.values().flatten().cloned().collect());
                check::alternating(&told);
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("presence is not the fold of the log: {differing}");
    }

    /// Waits until a user's course is that.
    pub(crate) async fn course_is(&self, user: &str, course: &str) {
        until(&format!("{user} is {course}"), || {
            let now = self.course(user);
            assert!(
                course.starts_with(&now),
                "{user} is {now} and should be {course}"
            );
            now == course
        })
        .await;
    }

    /// What a query answers of a user.
    pub(crate) async fn query(&self, user: &str) -> Value {
        let url = format!("{}/v1/presence?user_id={user}", self.place.http);
        let client = reqwest::Client::new();
        let request = client.get(url).bearer_auth(&self.place.api_key);
        let answer = request.send().await.unwrap();
        assert!(answer.status().is_success(), "{answer:?}");
        let mut answer: Value = answer.json().await.unwrap();
        answer["users"][0].take()
    }

    /// Waits until a query counts so many devices.
    pub(crate) async fn devices_are(&self, user: &str, devices: u64) {
        for _ in 0..300 {
            if self.query(user).await["devices"] == devices {
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!(
            "{user} has {} devices, not {devices}",
            self.query(user).await
        );
    }
}

impl Book {
    fn note(&mut self, record: Seen) {
        let [connections, told, edges] = &self.topics;
        let (partition, offset, at) = (record.partition, record.offset, Millis(record.timestamp));
        let ce_type = record.header("ce_type");
        if record.topic == *connections {
            let event = ConnectionEvent::decode(ce_type, &record.value).unwrap();
            let (topic, rules) = (Arc::<str>::from(connections.as_str()), self.rules);
            let fold = self.folds.entry(partition);
            let fold = fold.or_insert_with(|| Partition::new(topic, partition, rules, None));
            let mut outputs = Outputs::default();
            fold.apply(offset, at, Some(&event), &mut outputs);
            let due = self.due.entry(partition).or_default();
            due.extend(outputs.events.iter().map(|event| event.encode().to_vec()));
            self.connections.push(Logged {
                partition,
                offset,
                at,
                record,
                what: event,
            });
        } else if record.topic == *told {
            let event = PresenceEvent::decode(&record.value).unwrap();
            self.transitions.push(event.message);
            self.told.entry(partition).or_default().push(record);
        } else if record.topic == *edges && !record.value.is_empty() {
            let what = EdgeRecord::decode(ce_type, &record.value).unwrap();
            self.edges.push(Logged {
                partition,
                offset,
                at,
                record,
                what,
            });
        }
    }

    /// The first thing in which what was told is not what was due.
    fn difference(&self) -> String {
        let none = (vec![], vec![]);
        for partition in self.due.keys().chain(self.told.keys()) {
            let due = self.due.get(partition).unwrap_or(&none.0);
            let told = self.told.get(partition).unwrap_or(&none.1);
            let wrong = (0..due.len().max(told.len()))
                .find(|i| due.get(*i) != told.get(*i).map(|told| &told.value));
            if let Some(i) = wrong {
                let text = |bytes: Option<&Vec<u8>>| {
                    bytes.map(|bytes| String::from_utf8_lossy(bytes).into_owned())
                };
                return format!(
                    "partition {partition}, event {i}: due {:?}, told {:?}",
                    text(due.get(i)),
                    text(told.get(i).map(|told| &told.value)),
                );
            }
        }
        String::new()
    }
}
