//! Creates sumu's topics and checks how they are laid out.

use std::sync::Arc;
use std::time::Duration;

use rdkafka::admin::{
    AdminClient, AdminOptions, ConfigResource, NewTopic, ResourceSpecifier, TopicReplication,
};
use rdkafka::config::FromClientConfigAndContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use schemas::topics::TopicSpec;
use tokio::time::{Instant, sleep};

use crate::client::{self, Client, Logging};
use crate::{Log, LogError};

const FIRST_BACKOFF: Duration = Duration::from_millis(100);
const LONGEST_BACKOFF: Duration = Duration::from_secs(2);

/// How a topic is found to be.
enum Found {
    Missing,
    As {
        partitions: i32,
        settings: ConfigResource,
    },
}

/// Creates those that are missing, then checks all.
pub(crate) async fn create(log: &Log) -> Result<Vec<Arc<str>>, LogError> {
    let admin = admin(log)?;
    let specs = log.topics().specs(log.config().layout());
    let mut created = Vec::new();
    for spec in &specs {
        let replicas = log.config().replication;
        let fresh = patiently(log, || create_one(log, &admin, spec, replicas)).await?;
        created.extend(fresh.then(|| Arc::clone(&spec.name)));
    }
    // A topic just created is not known everywhere at once.
    let deadline = Instant::now() + log.config().request_timeout;
    loop {
        match check_with(log, &admin).await {
            Err(LogError::Layout(_)) if !created.is_empty() && Instant::now() < deadline => {
                sleep(FIRST_BACKOFF).await;
            }
            Err(error) => return Err(error),
            Ok(()) => return Ok(created),
        }
    }
}

/// Creates one topic if it is missing, then checks it.
pub(crate) async fn ensure(log: &Log, spec: &TopicSpec) -> Result<bool, LogError> {
    let admin = admin(log)?;
    // As the topics that are there: who makes one by hand may not know how many brokers there are.
    let connections = log.metadata(Arc::clone(&log.topics().connections)).await?;
    let known = (connections.topics().iter())
        .flat_map(|topic| topic.partitions().first())
        .find_map(|partition| i32::try_from(partition.replicas().len()).ok());
    let replicas = known.unwrap_or(log.config().replication).max(1);
    let fresh = patiently(log, || create_one(log, &admin, spec, replicas)).await?;
    let deadline = Instant::now() + log.config().request_timeout;
    loop {
        let found = patiently(log, || look(log, &admin, spec)).await?;
        let faults = compare(spec, &found, log.config().partitions);
        if faults.is_empty() {
            return Ok(fresh);
        }
        if !fresh || Instant::now() >= deadline {
            return Err(LogError::Layout(faults));
        }
        // A topic just created is not known everywhere at once.
        sleep(FIRST_BACKOFF).await;
    }
}

/// Checks that every topic is there and as it must be.
pub(crate) async fn check(log: &Log) -> Result<(), LogError> {
    let admin = admin(log)?;
    check_with(log, &admin).await
}

async fn check_with(log: &Log, admin: &Admin) -> Result<(), LogError> {
    let mut faults = Vec::new();
    for spec in log.topics().specs(log.config().layout()) {
        let found = patiently(log, || look(log, admin, &spec)).await?;
        faults.extend(compare(&spec, &found, log.config().partitions));
    }
    if faults.is_empty() {
        return Ok(());
    }
    Err(LogError::Layout(faults))
}

/// What is wrong with a topic, and what mends it. `configured` is `log.partitions`.
fn compare(spec: &TopicSpec, found: &Found, configured: i32) -> Vec<String> {
    let name = &spec.name;
    let (partitions, settings) = match found {
        Found::Missing => return vec![format!("{name} does not exist: run `sumu topics`")],
        Found::As {
            partitions,
            settings,
        } => (*partitions, settings),
    };
    let mut faults = Vec::new();
    if partitions != spec.partitions {
        let wanted = spec.partitions;
        // `edges` and `revocations` have one, whatever is configured.
        let keep = if wanted == configured {
            format!("configure as many as it has (SUMU__LOG__PARTITIONS={partitions}), or ")
        } else {
            String::new()
        };
        faults.push(format!(
            "{name} has {partitions} partitions, not {wanted}: {keep}delete it (kafka-topics.sh \
             --delete --topic {name}) and run `sumu topics`"
        ));
    }
    for setting in &spec.required {
        let wanted = spec.settings.iter().find(|(name, _)| name == setting);
        let actual = settings
            .get(setting)
            .and_then(|entry| entry.value.as_deref());
        match (wanted, actual) {
            (Some((_, wanted)), Some(actual)) if wanted != actual => faults.push(format!(
                "{name} has {setting}={actual}, not {wanted}: alter it (kafka-configs.sh --alter \
                 --topic {name} --add-config {setting}={wanted}), or delete it and run \
                 `sumu topics`"
            )),
            // A log that does not tell a setting cannot be checked for it.
            _ => {}
        }
    }
    faults
}

/// Creates the topic unless it is there; answers whether it did.
async fn create_one(
    log: &Log,
    admin: &Admin,
    spec: &TopicSpec,
    replicas: i32,
) -> Result<bool, LogError> {
    let doing = "creating a topic";
    let config = log.config();
    let in_sync = config.min_insync_replicas.min(replicas).to_string();
    let replicas = TopicReplication::Fixed(replicas);
    let mut topic =
        NewTopic::new(&spec.name, spec.partitions, replicas).set("min.insync.replicas", &in_sync);
    for (setting, value) in &spec.settings {
        topic = topic.set(setting, value);
    }
    let answers = admin.0.create_topics(&[topic], &options(log)).await;
    let answers = answers.map_err(|error| client::log_error(doing, &error))?;
    match answers.into_iter().next() {
        Some(Err((_, RDKafkaErrorCode::TopicAlreadyExists))) => Ok(false),
        Some(Err((_, code))) => Err(refusal(doing, &spec.name, code)),
        Some(Ok(_)) | None => Ok(true),
    }
}

async fn look(log: &Log, admin: &Admin, spec: &TopicSpec) -> Result<Found, LogError> {
    let doing = "checking a topic";
    let metadata = log.metadata(Arc::clone(&spec.name)).await?;
    let partitions = match metadata.topics().iter().find(|t| t.name() == &*spec.name) {
        None => return Ok(Found::Missing),
        Some(topic) => match topic.error().map(RDKafkaErrorCode::from) {
            Some(RDKafkaErrorCode::UnknownTopicOrPartition) => return Ok(Found::Missing),
            Some(code) => return Err(refusal(doing, &spec.name, code)),
            None => i32::try_from(topic.partitions().len()).unwrap_or(i32::MAX),
        },
    };
    let asked = [ResourceSpecifier::Topic(&spec.name)];
    let answers = admin.0.describe_configs(&asked, &options(log)).await;
    let answers = answers.map_err(|error| client::log_error(doing, &error))?;
    match answers.into_iter().next() {
        Some(Ok(settings)) => Ok(Found::As {
            partitions,
            settings,
        }),
        Some(Err(RDKafkaErrorCode::UnknownTopicOrPartition)) | None => Ok(Found::Missing),
        Some(Err(code)) => Err(refusal(doing, &spec.name, code)),
    }
}

/// Tries again, with growing pauses, while the log is not up; within `startup_timeout`.
async fn patiently<T, F>(log: &Log, mut attempt: impl FnMut() -> F) -> Result<T, LogError>
where
    F: Future<Output = Result<T, LogError>>,
{
    let deadline = Instant::now() + log.config().startup_timeout;
    let mut backoff = FIRST_BACKOFF;
    loop {
        match attempt().await {
            Err(error) if error.is_transient() && Instant::now() + backoff < deadline => {
                // The caller tells people, once.
                tracing::debug!(%error, "waiting for the log");
                sleep(backoff).await;
                backoff = (backoff * 2).min(LONGEST_BACKOFF);
            }
            outcome => return outcome,
        }
    }
}

struct Admin(AdminClient<Logging>);

fn admin(log: &Log) -> Result<Client<Admin>, LogError> {
    AdminClient::from_config_and_context(&client::admin(log.config()), Logging)
        .map(|admin| Client::new(Admin(admin)))
        .map_err(|error| client::log_error("looking at the topics", &error))
}

fn options(log: &Log) -> AdminOptions {
    let within = Some(log.config().request_timeout);
    AdminOptions::new()
        .request_timeout(within)
        .operation_timeout(within)
}

fn refusal(doing: &'static str, topic: &str, code: RDKafkaErrorCode) -> LogError {
    match client::log_error(doing, &KafkaError::MetadataFetch(code)) {
        LogError::Permanent { .. } => LogError::Permanent {
            doing,
            reason: format!("{topic}: {code}"),
        },
        error => error,
    }
}
