//! Follows presence over HTTP and on a socket while a presence processor is killed: what is told is
//! the topic, no more and no less.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio_tungstenite::tungstenite::Message;

use crate::cluster::{API_KEY, Cluster, Servers};
use crate::device::{Command, Device, Shared};
use crate::kafka::{Consumed, Seen};
use crate::until;

const USERS: usize = 24;
/// Of whom some are followed by name.
const NAMED: usize = 6;
const WATCHER: &str = "watcher";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_is_the_topic_while_a_presence_processor_is_killed() {
    let Some(servers) = Servers::from_env() else {
        eprintln!("not run: SUMU_TEST_KAFKA and SUMU_TEST_CQL name no servers");
        return;
    };
    let mut cluster = Cluster::with(servers, "[ingest.watch]\nallow = \"anybody\"\n").await;
    cluster.start("ingest", 2).await;
    cluster.start("presence", 2).await;
    let presence = cluster.topic("presence");
    let group = cluster.topic("follower");
    let topic = Consumed::start(&cluster.servers.kafka, &group, &[&presence]);
    let named: Vec<String> = (0..NAMED).map(|user| format!("user-{user}")).collect();
    let query = named.iter().map(|user| format!("user_id={user}"));
    let query = format!("?{}", query.collect::<Vec<_>>().join("&"));

    let everybody = Stream::of(&cluster, "ingest-1", "", None);
    let some = Stream::of(&cluster, "ingest-2", &query, None);
    let watch = Stream::on_socket(&cluster, &named).await;
    for (stream, states) in [(&everybody, 0), (&some, NAMED)] {
        until("the stream is live", || stream.all("live").len() == 1).await;
        assert_eq!(stream.all("state").len(), states);
    }
    until("all are watched", || watch.all("presence").len() == NAMED).await;

    come_and_go(&cluster, &topic).await;
    // The stream ends, and goes on at the other edge while the next ones come and go.
    let told = everybody.all("presence");
    let last = everybody.last_id();
    drop(everybody);
    cluster.kill("presence-1");
    let resumed = Stream::of(&cluster, "ingest-2", "", Some(&last));
    come_and_go(&cluster, &topic).await;

    let records = of_users(topic.all().iter().map(text));
    assert_eq!(records.len(), USERS);
    let caught_up = |stream: &Stream| {
        let told = of_users(stream.all("presence"));
        let last = |user: &String| told.get(user).and_then(|told| told.last());
        let mut meant = records.iter().filter(|(user, _)| told.contains_key(*user));
        meant.all(|(user, meant)| last(user) == meant.last())
    };
    for stream in [&resumed, &some, &watch] {
        until("the streams are at the end", || caught_up(stream)).await;
    }
    let all = of_users(told.into_iter().chain(resumed.all("presence")));
    assert_eq!(all, records, "of everybody, over two edges");
    assert!(resumed.all("state").is_empty() && resumed.all("reset").is_empty());

    let records: BTreeMap<_, _> = (records.into_iter())
        .filter(|(user, _)| named.contains(user))
        .collect();
    assert_eq!(of_users(some.all("presence")), records, "of some");
    let mut watched = of_users(watch.all("presence"));
    for told in watched.values_mut() {
        let never_seen: Value = serde_json::from_str(&told.remove(0)).unwrap();
        assert_eq!(never_seen["message"]["position"], Value::Null);
    }
    assert_eq!(watched, records, "on a socket");

    // Who comes late is told the last of each.
    let late = Stream::of(&cluster, "ingest-1", "", None);
    until("the stream is live", || late.all("live").len() == 1).await;
    let states = of_users(late.all("state"));
    for (user, told) in &records {
        assert_eq!(states[user].last(), told.last(), "{user}");
    }
}

/// Everybody connects, some twice, and leaves or vanishes; answers when the topic says that all are
/// gone.
async fn come_and_go(cluster: &Cluster, topic: &Consumed) {
    let journal = Shared::default();
    let mut devices = vec![];
    for user in 0..USERS {
        let name = format!("user-{user}");
        for first in 0..=user % 2 {
            let (token, edges) = (Cluster::token(&name), cluster.edges());
            devices.push(Device::start(
                &name,
                token,
                edges,
                first,
                Arc::clone(&journal),
            ));
        }
    }
    until("all are connected", || {
        journal.lock().unwrap().sessions.len() >= devices.len()
    })
    .await;
    let is = |status: &str| {
        let last = of_users(topic.all().iter().map(text));
        let last = last.values().filter_map(|told| told.last());
        last.filter(|told| told.contains(status)).count()
    };
    until("all are online", || is("ONLINE") == USERS).await;
    for (index, device) in devices.iter().enumerate() {
        let bye = if index % 3 == 0 {
            Command::Vanish
        } else {
            Command::Leave
        };
        device.tell(bye).await;
    }
    until("all are offline", || is("OFFLINE") == USERS).await;
}

fn text(record: &Seen) -> String {
    String::from_utf8(record.value.clone()).unwrap()
}

/// What was told of each user, in order; the one who watches is none of them.
fn of_users(told: impl IntoIterator<Item = String>) -> BTreeMap<String, Vec<String>> {
    let mut users: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for text in told {
        let frame: Value = serde_json::from_str(&text).unwrap();
        let user = frame["message"]["user_id"].as_str().unwrap().to_owned();
        if user != WATCHER {
            users.entry(user).or_default().push(text);
        }
    }
    users
}

/// Somebody who follows presence, and all that was told.
struct Stream {
    events: Arc<Mutex<Vec<Event>>>,
    task: JoinHandle<()>,
}

/// One server-sent event.
#[derive(Clone, Debug, Default)]
struct Event {
    name: String,
    id: String,
    data: String,
}

impl Event {
    fn of(block: &str) -> Self {
        let mut event = Self::default();
        for line in block.lines() {
            let (field, value) = line.split_once(':').unwrap();
            let value = value.trim().to_owned();
            match field {
                "event" => event.name = value,
                "id" => event.id = value,
                "data" => event.data = value,
                _ => {}
            }
        }
        event
    }
}

impl Stream {
    fn of(cluster: &Cluster, edge: &str, query: &str, last_id: Option<&str>) -> Self {
        let port = cluster.admin_port(edge);
        let url = format!("http://127.0.0.1:{port}/v1/presence/events{query}");
        let mut request = reqwest::Client::new().get(url).bearer_auth(API_KEY);
        if let Some(id) = last_id {
            request = request.header("last-event-id", id);
        }
        let events = Arc::new(Mutex::new(vec![]));
        let sink = Arc::clone(&events);
        let task = tokio::spawn(async move {
            let mut answer = request.send().await.unwrap().error_for_status().unwrap();
            let mut text = String::new();
            while let Ok(Some(chunk)) = answer.chunk().await {
                text.push_str(std::str::from_utf8(&chunk).unwrap());
                while let Some((block, rest)) = text.split_once("\n\n") {
                    sink.lock().unwrap().push(Event::of(block));
                    text = rest.to_owned();
                }
            }
        });
        Self { events, task }
    }

    /// A client that watches these users on its own socket.
    async fn on_socket(cluster: &Cluster, users: &[String]) -> Self {
        let url = format!(
            "{}?authorization={}",
            cluster.edges()[1],
            Cluster::token(WATCHER)
        );
        let (mut socket, _) = tokio_tungstenite::connect_async(url).await.unwrap();
        let watch = json!({"action": "watch", "users": users}).to_string();
        socket.send(Message::text(watch)).await.unwrap();
        let events = Arc::new(Mutex::new(vec![]));
        let sink = Arc::clone(&events);
        let task = tokio::spawn(async move {
            while let Some(Ok(message)) = socket.next().await {
                let Message::Text(text) = message else {
                    continue;
                };
                let frame: Value = serde_json::from_str(&text).unwrap();
                sink.lock().unwrap().push(Event {
                    name: frame["type"].as_str().unwrap().to_owned(),
                    id: String::new(),
                    data: text.to_string(),
                });
            }
        });
        Self { events, task }
    }

    /// The data of every event of that name so far.
    fn all(&self, name: &str) -> Vec<String> {
        let events = self.events.lock().unwrap();
        let named = events.iter().filter(|event| event.name == name);
        named.map(|event| event.data.clone()).collect()
    }

    fn last_id(&self) -> String {
        let events = self.events.lock().unwrap();
        let mut ids = events.iter().rev().map(|event| event.id.clone());
        ids.find(|id| !id.is_empty()).unwrap()
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.task.abort();
    }
}
