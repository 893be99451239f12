//! Creates, changes and deletes topics, and knows their partitions.
mod settings;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use kafka_protocol::error::ResponseError;
use uuid::Uuid;

use crate::Error;
use crate::config::Config;
use crate::log::{Flusher, Partition, Stamp, lock, storage};
use crate::meta::{Change, Made, Meta, TopicImage};
pub(crate) use settings::{SETTINGS, Setting, check};

/// A refusal with its reason, for the answers that have room for it.
pub(crate) type Refusal = (ResponseError, String);

/// The topics of the broker.
#[derive(Debug)]
pub(crate) struct Topics {
    folder: PathBuf,
    limits: Limits,
    flusher: Arc<Flusher>,
    meta: Arc<Meta>,
    open: RwLock<BTreeMap<String, Arc<Topic>>>,
    /// Held by whoever creates, changes or deletes.
    changing: Mutex<()>,
}

#[derive(Clone, Copy, Debug)]
struct Limits {
    default_partitions: i32,
    max_partitions: usize,
    max_message_bytes: usize,
    segment_bytes: u64,
}

/// A topic as it is now; a change makes a new value.
#[derive(Clone, Debug)]
pub(crate) struct Topic {
    pub(crate) id: Uuid,
    pub(crate) partitions: Vec<Arc<Partition>>,
    pub(crate) stamp: Stamp,
    pub(crate) max_message_bytes: usize,
}

impl Topic {
    pub(crate) fn partition(&self, index: i32) -> Option<&Arc<Partition>> {
        self.partitions.get(usize::try_from(index).ok()?)
    }

    /// Partition numbers, as the protocol counts them.
    pub(crate) fn indexes(&self) -> impl Iterator<Item = i32> {
        (0..).take(self.partitions.len())
    }
}

impl Topics {
    /// Opens all partitions and removes the folders of deleted topics. Blocks.
    pub(crate) fn open(
        config: &Config,
        flusher: Arc<Flusher>,
        meta: Arc<Meta>,
    ) -> Result<Self, Error> {
        let folder = config.data.join("topics");
        let limits = Limits {
            default_partitions: config.default_partitions,
            max_partitions: config.max_partitions,
            max_message_bytes: config.max_message_bytes,
            segment_bytes: config.segment_bytes,
        };
        let (open, changing) = (RwLock::default(), Mutex::new(()));
        let topics = Self {
            folder,
            limits,
            flusher,
            meta,
            open,
            changing,
        };
        let fault = |source| Error::Storage {
            doing: "open the topics in",
            path: topics.folder.clone(),
            source,
        };
        fs::create_dir_all(&topics.folder).map_err(fault)?;
        let data = fs::File::open(&config.data);
        data.and_then(|data| data.sync_all()).map_err(fault)?;
        let images = topics.meta.read(|image| image.topics.clone());
        remove_strangers(&topics.folder, &images).map_err(fault)?;
        for (name, image) in images {
            let topic = topics.open_topic(&image, &[]).map_err(fault)?;
            topics.put(name, topic);
        }
        Ok(topics)
    }

    pub(crate) fn get(&self, name: &str) -> Option<Arc<Topic>> {
        self.open
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(name)
            .cloned()
    }

    pub(crate) fn partition(&self, name: &str, index: i32) -> Option<Arc<Partition>> {
        self.get(name)?.partition(index).cloned()
    }

    /// All topics, by name.
    pub(crate) fn all(&self) -> BTreeMap<String, Arc<Topic>> {
        self.open
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Partitions that a topic gets whose creator asks for `-1`.
    pub(crate) fn default_partitions(&self) -> i32 {
        self.limits.default_partitions
    }

    /// Checks a wish for a topic; gives its number of partitions.
    pub(crate) fn check_new(
        &self,
        name: &str,
        partitions: i32,
        config: &BTreeMap<String, String>,
    ) -> Result<i32, Refusal> {
        if !is_legal(name) {
            let why = "a topic's name has 1 to 249 of the characters a-z A-Z 0-9 . _ -";
            return Err((ResponseError::InvalidTopicException, why.to_owned()));
        }
        if self.get(name).is_some() {
            let why = format!("topic '{name}' already exists");
            return Err((ResponseError::TopicAlreadyExists, why));
        }
        let partitions = if partitions == -1 {
            self.limits.default_partitions
        } else {
            partitions
        };
        self.check_room(partitions, 0)?;
        check(config)?;
        Ok(partitions)
    }

    /// Creates a topic, durably: what is written to it can be acknowledged. Blocks, in a thread
    /// of a runtime.
    pub(crate) fn create(
        &self,
        name: &str,
        partitions: i32,
        config: BTreeMap<String, String>,
    ) -> Result<(), Refusal> {
        let _changing = lock(&self.changing);
        let partitions = self.check_new(name, partitions, &config)?;
        let id = Uuid::now_v7().simple().to_string();
        let image = TopicImage {
            id,
            partitions,
            config,
            starts: BTreeMap::new(),
        };
        let topic = self
            .open_topic(&image, &[])
            .map_err(|error| failed(&error))?;
        let change = Change::TopicCreated {
            name: name.to_owned(),
            topic: image,
        };
        self.change_durably(change)?;
        self.put(name.to_owned(), topic);
        Ok(())
    }

    /// Gives a topic more partitions, durably. Blocks, in a thread of a runtime.
    pub(crate) fn add_partitions(
        &self,
        name: &str,
        partitions: i32,
        only_check: bool,
    ) -> Result<(), Refusal> {
        let _changing = lock(&self.changing);
        let topic = self.get(name).ok_or_else(unknown)?;
        let mut image = self.image(name).ok_or_else(unknown)?;
        if partitions <= image.partitions {
            let why = format!("topic '{name}' already has {} partitions", image.partitions);
            return Err((ResponseError::InvalidPartitions, why));
        }
        self.check_room(partitions, topic.partitions.len())?;
        if only_check {
            return Ok(());
        }
        image.partitions = partitions;
        let topic = self
            .open_topic(&image, &topic.partitions)
            .map_err(|error| failed(&error))?;
        self.change_durably(Change::PartitionsAdded {
            name: name.to_owned(),
            partitions,
        })?;
        self.put(name.to_owned(), topic);
        Ok(())
    }

    /// Replaces a topic's own settings.
    pub(crate) fn configure(
        &self,
        name: &str,
        config: BTreeMap<String, String>,
    ) -> Result<Made, Refusal> {
        let _changing = lock(&self.changing);
        let topic = self.get(name).ok_or_else(unknown)?;
        check(&config)?;
        let topic = self.settle((*topic).clone(), &config);
        let made = self.change(Change::TopicConfigured {
            name: name.to_owned(),
            config,
        })?;
        self.put(name.to_owned(), topic);
        Ok(made)
    }

    /// A topic's own settings.
    pub(crate) fn config(&self, name: &str) -> Option<BTreeMap<String, String>> {
        self.image(name).map(|image| image.config)
    }

    /// Forgets a topic; its folder can be removed once the change is durable.
    pub(crate) fn delete(&self, name: &str) -> Result<(Made, PathBuf), ResponseError> {
        let _changing = lock(&self.changing);
        let image = self
            .image(name)
            .ok_or(ResponseError::UnknownTopicOrPartition)?;
        let change = Change::TopicDeleted {
            name: name.to_owned(),
        };
        let made = self.meta.make(change).map_err(storage)?;
        self.open
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(name);
        Ok((made, self.folder.join(&image.id)))
    }

    fn change(&self, change: Change) -> Result<Made, Refusal> {
        self.meta
            .make(change)
            .map_err(|error| (storage(error), String::new()))
    }

    fn change_durably(&self, change: Change) -> Result<(), Refusal> {
        let made = self.change(change)?;
        let durable = tokio::runtime::Handle::current().block_on(self.meta.durable(made));
        durable.map_err(|error| (storage(error), String::new()))
    }

    fn check_room(&self, partitions: i32, had: usize) -> Result<(), Refusal> {
        let wanted = usize::try_from(partitions).unwrap_or_default();
        if wanted == 0 {
            let why = "a topic needs one partition or more".to_owned();
            return Err((ResponseError::InvalidPartitions, why));
        }
        let others = self
            .meta
            .read(crate::meta::Image::partitions)
            .saturating_sub(had);
        let most = self.limits.max_partitions;
        if others.saturating_add(wanted) > most {
            let why = format!("this broker holds {most} partitions at most");
            return Err((ResponseError::PolicyViolation, why));
        }
        Ok(())
    }

    fn image(&self, name: &str) -> Option<TopicImage> {
        self.meta.read(|image| image.topics.get(name).cloned())
    }

    fn put(&self, name: String, topic: Topic) {
        let mut open = self.open.write().unwrap_or_else(PoisonError::into_inner);
        open.insert(name, Arc::new(topic));
    }

    fn open_topic(&self, image: &TopicImage, had: &[Arc<Partition>]) -> io::Result<Topic> {
        let id = Uuid::try_parse(&image.id).map_err(io::Error::other)?;
        let mut partitions = had.to_vec();
        for index in (0..image.partitions).skip(had.len()) {
            let folder = self.folder.join(&image.id).join(index.to_string());
            let start = image.starts.get(&index).copied().unwrap_or(0);
            let flusher = Arc::clone(&self.flusher);
            let partition = Partition::open(folder, start, self.limits.segment_bytes, flusher)?;
            partitions.push(Arc::new(partition));
        }
        let topic = Topic {
            id,
            partitions,
            stamp: Stamp::Create,
            max_message_bytes: 0,
        };
        Ok(self.settle(topic, &image.config))
    }

    /// The topic under other settings.
    fn settle(&self, topic: Topic, config: &BTreeMap<String, String>) -> Topic {
        let stamp = match config.get("message.timestamp.type").map(String::as_str) {
            Some("LogAppendTime") => Stamp::Append,
            _ => Stamp::Create,
        };
        let max_message_bytes = config
            .get("max.message.bytes")
            .and_then(|bytes| bytes.parse().ok())
            .unwrap_or(self.limits.max_message_bytes);
        Topic {
            stamp,
            max_message_bytes,
            ..topic
        }
    }
}

/// Kafka's rule for names.
fn is_legal(name: &str) -> bool {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    (1..=249).contains(&name.len()) && name.bytes().all(legal) && name != "." && name != ".."
}

fn unknown() -> Refusal {
    (
        ResponseError::UnknownTopicOrPartition,
        "there is no such topic".to_owned(),
    )
}

fn failed(error: &io::Error) -> Refusal {
    tracing::error!(%error, "cannot make the files of a topic");
    (ResponseError::KafkaStorageError, error.to_string())
}

/// Removes folders that no topic owns: of topics deleted, or not quite created, before a crash.
fn remove_strangers(folder: &Path, images: &BTreeMap<String, TopicImage>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        // Nothing but our own kind of folder is ever removed.
        let ours = name.to_str().filter(|name| Uuid::try_parse(name).is_ok());
        if let Some(id) = ours
            && !images.values().any(|image| image.id == id)
        {
            fs::remove_dir_all(entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::Flush;

    /// Records are synced apart from the metadata: those of a topic that a crash could still take
    /// back must not be acknowledged.
    #[tokio::test]
    async fn a_topic_is_not_seen_before_it_is_durable() {
        let folder = tempfile::tempdir().unwrap();
        let config = Config {
            data: folder.path().to_owned(),
            ..Config::default()
        };
        let flusher = Arc::new(Flusher::start().unwrap());
        let meta = Meta::open(&config.data, Arc::clone(&flusher), 1 << 20).unwrap();
        let meta = Arc::new(meta);
        let topics = Topics::open(&config, Arc::clone(&flusher), Arc::clone(&meta)).unwrap();
        let topics = Arc::new(topics);
        // The flusher is closed: nothing becomes durable by itself.
        flusher.close();
        let create = {
            let topics = Arc::clone(&topics);
            move || topics.create("t", 1, BTreeMap::new())
        };
        let creating = tokio::task::spawn_blocking(create);
        while meta.read(|image| image.topics.is_empty()) {
            tokio::task::yield_now().await;
        }
        // Time to do it wrong.
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        let early = topics.get("t").is_some();
        meta.flush();
        creating.await.unwrap().unwrap();
        assert!(!early);
        assert!(topics.get("t").is_some());
    }
}
