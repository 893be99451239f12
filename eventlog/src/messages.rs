//! Turns records into librdkafka's messages and back.

use std::sync::Arc;

use bytes::Bytes;
use rdkafka::Message;
use rdkafka::message::{BorrowedMessage, Header, Headers as _, OwnedHeaders};
use schemas::{Headers, Millis, Position};

use crate::Record;

/// Shares the names of the few topics that a consumer reads among its records.
#[derive(Debug, Default)]
pub(crate) struct Names(Vec<Arc<str>>);

impl Names {
    fn share(&mut self, topic: &str) -> Arc<str> {
        if let Some(name) = self.0.iter().find(|name| ***name == *topic) {
            return Arc::clone(name);
        }
        let name: Arc<str> = topic.into();
        self.0.push(Arc::clone(&name));
        name
    }
}

/// Copies a fetched message out of librdkafka's memory.
pub(crate) fn record(message: &BorrowedMessage<'_>, names: &mut Names) -> Record {
    Record {
        position: Position {
            topic: names.share(message.topic()),
            partition: message.partition(),
            offset: message.offset(),
        },
        append_time: append_time(message),
        key: message.key().map(Bytes::copy_from_slice),
        value: message.payload().map(Bytes::copy_from_slice),
        headers: headers(message),
    }
}

/// The time stamp that the log has for a message.
pub(crate) fn append_time(message: &BorrowedMessage<'_>) -> Millis {
    Millis(message.timestamp().to_millis().unwrap_or(-1))
}

/// The bytes of keys and values in a record, what a batch's limit counts.
pub(crate) fn size(record: &Record) -> usize {
    record.key.as_ref().map_or(0, Bytes::len) + record.value.as_ref().map_or(0, Bytes::len)
}

fn headers(message: &BorrowedMessage<'_>) -> Headers {
    let mut headers = Headers::new();
    for header in message.headers().into_iter().flat_map(|all| all.iter()) {
        let value = header.value.map(Bytes::copy_from_slice).unwrap_or_default();
        headers.push(header.key.to_owned(), value);
    }
    headers
}

/// Headers for librdkafka.
pub(crate) fn native_headers(headers: &Headers) -> OwnedHeaders {
    let empty = OwnedHeaders::new_with_capacity(headers.iter().len());
    headers.iter().fold(empty, |native, (key, value)| {
        native.insert(Header {
            key,
            value: Some(value.as_ref()),
        })
    })
}
