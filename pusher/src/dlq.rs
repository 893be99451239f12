//! Puts what cannot be delivered into the DLQ: the record as it came, and why it is there.

use std::sync::Arc;
use std::time::Duration;

use eventlog::{AppendError, NewRecord, Producer, Record};
use tracing::{error, warn};

/// The most bytes of a reason.
const MAX_REASON_BYTES: usize = 1024;
const FIRST_WAIT: Duration = Duration::from_millis(100);
const LONGEST_WAIT: Duration = Duration::from_secs(10);

/// The DLQ's record for one of the log: its bytes, key and headers, and three headers more.
pub(crate) fn record(topic: &Arc<str>, of: &Record, reason: &str, attempts: u32) -> NewRecord {
    let mut headers = of.headers.clone();
    let end = reason.floor_char_boundary(MAX_REASON_BYTES);
    let reason = reason.get(..end).unwrap_or_default();
    headers.push("dlq_reason", reason.to_owned());
    headers.push("dlq_position", of.position.to_string());
    headers.push("dlq_attempts", attempts.to_string());
    NewRecord {
        topic: Arc::clone(topic),
        partition: of.position.partition,
        key: of.key.clone(),
        value: of.value.clone(),
        headers,
    }
}

/// Appends until the log has it. What cannot be written is tried on and on: until then the
/// notification is not settled, and its partition stops at the bound of its window. The first try
/// is made by this call itself, so that records keep the order of the calls.
pub(crate) fn bury(
    producer: Producer,
    record: NewRecord,
    failing: impl Fn(&AppendError),
) -> impl Future<Output = ()> {
    let mut queued = producer.append(record.clone());
    async move {
        let mut wait = FIRST_WAIT;
        loop {
            let appended = match queued {
                Ok(append) => append.await,
                Err(error) => Err(error),
            };
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
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(LONGEST_WAIT);
            queued = producer.append(record.clone());
        }
    }
}
