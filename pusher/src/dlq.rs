//! Puts what cannot be delivered into the DLQ: the record as it came, and why it is there.

use std::sync::Arc;
use std::time::Duration;

use eventlog::{Append, AppendError, Appended, NewRecord, Producer, Record};
use runtime::Backoff;
use schemas::Headers;
use tracing::{error, warn};

/// The most bytes of a reason.
const MAX_REASON_BYTES: usize = 1024;
/// What is added to the headers of the record.
const OUR_HEADERS: [&str; 3] = ["dlq_reason", "dlq_position", "dlq_attempts"];
const FIRST_WAIT: Duration = Duration::from_millis(100);
const LONGEST_WAIT: Duration = Duration::from_secs(10);

/// The DLQ's record for one of the log: its bytes, key and headers, and three headers more.
pub(crate) fn record(topic: &Arc<str>, of: &Record, reason: &str, attempts: u32) -> NewRecord {
    let mut headers = of.headers.clone();
    let end = reason.floor_char_boundary(MAX_REASON_BYTES);
    let reason = reason.get(..end).unwrap_or_default();
    let [why, position, how_often] = OUR_HEADERS;
    headers.push(why, reason.to_owned());
    headers.push(position, of.position.to_string());
    headers.push(how_often, attempts.to_string());
    NewRecord {
        topic: Arc::clone(topic),
        partition: of.position.partition,
        key: of.key.clone(),
        value: of.value.clone(),
        headers,
    }
}

/// Appends until the log has it. What cannot be written is tried on and on: until then the
/// notification is not settled, and its partition stops at the bound of its window. What the log
/// refuses for what it is, is replaced by its [`stand_in`]. The first try is made by this call
/// itself, so that records keep the order of the calls.
pub(crate) fn bury(
    producer: Producer,
    record: NewRecord,
    failing: impl Fn(&AppendError),
) -> impl Future<Output = ()> {
    let mut queued = producer.append(record.clone());
    async move {
        let mut backoff = Backoff::new(FIRST_WAIT, LONGEST_WAIT);
        loop {
            let mut appended = answer(queued).await;
            if let Err(error @ AppendError::Refused { .. }) = &appended {
                error!(%error, "the DLQ refuses a notification: only its headers are kept");
                appended = answer(producer.append(stand_in(&record, error))).await;
            }
            match appended {
                Ok(appended) => {
                    warn!(position = %appended.position, "notification put into the DLQ");
                    return;
                }
                Err(error) => {
                    error!(%error, "cannot write to the DLQ");
                    failing(&error);
                }
            }
            tokio::time::sleep(backoff.step()).await;
            queued = producer.append(record.clone());
        }
    }
}

/// What is put into the DLQ for a record that is too large for it: a topic's limit counts bytes as
/// compressed by the producer, and the record may be many times that. No key, no value, and the
/// headers that say where the record is and why.
fn stand_in(record: &NewRecord, refusal: &AppendError) -> NewRecord {
    let mut headers = Headers::new();
    for name in OUR_HEADERS {
        if let Some(value) = record.headers.get(name) {
            headers.push(name, value.clone());
        }
    }
    headers.push("dlq_refused", refusal.to_string());
    NewRecord {
        topic: Arc::clone(&record.topic),
        partition: record.partition,
        key: None,
        value: None,
        headers,
    }
}

async fn answer(queued: Result<Append, AppendError>) -> Result<Appended, AppendError> {
    queued?.await
}
