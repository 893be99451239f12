//! Shows a record where it was fetched, so that what is not wanted is never copied.

use std::sync::Arc;

use bytes::Bytes;
use rdkafka::Message as _;
use rdkafka::message::{BorrowedHeaders, BorrowedMessage, Headers as _};
use schemas::{Headers, Millis, Position};

use crate::{Record, messages};

/// A record that belongs to somebody else: a fetch, or a [`Record`].
#[derive(Clone, Copy, Debug)]
pub struct RecordRef<'a> {
    /// The topic's full name.
    pub topic: &'a str,
    /// The partition, from 0.
    pub partition: i32,
    /// The offset within the partition.
    pub offset: i64,
    /// As in [`Record::append_time`].
    pub append_time: Millis,
    /// What compaction and readers group by.
    pub key: Option<&'a [u8]>,
    /// The bytes; `None` deletes the key from a compacted topic.
    pub value: Option<&'a [u8]>,
    /// CloudEvents attributes and trace context.
    pub headers: HeadersRef<'a>,
}

/// The headers of a [`RecordRef`].
#[derive(Clone, Copy)]
pub struct HeadersRef<'a>(From<'a>);

#[derive(Clone, Copy)]
enum From<'a> {
    /// librdkafka takes headers apart when they are first asked for.
    Fetched(&'a BorrowedMessage<'a>),
    Owned(&'a Headers),
}

impl<'a> From<'a> {
    fn fetched(self) -> Option<&'a BorrowedHeaders> {
        match self {
            Self::Fetched(message) => message.headers(),
            Self::Owned(_) => None,
        }
    }
}

impl<'a> HeadersRef<'a> {
    /// The last value of that name, as [`Headers::get`].
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&'a [u8]> {
        match self.0 {
            From::Owned(headers) => headers.get(name).map(AsRef::as_ref),
            From::Fetched(_) => {
                let headers = self.0.fetched()?;
                let header = (0..headers.count())
                    .rev()
                    .filter_map(|at| headers.try_get(at))
                    .find(|header| header.key == name)?;
                Some(header.value.unwrap_or_default())
            }
        }
    }

    /// The last value of that name, if it is UTF-8.
    #[must_use]
    pub fn text(&self, name: &str) -> Option<&'a str> {
        std::str::from_utf8(self.get(name)?).ok()
    }

    /// Every header, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&'a str, &'a [u8])> {
        let owned = match self.0 {
            From::Owned(headers) => Some(headers),
            From::Fetched(_) => None,
        };
        let fetched = self.0.fetched();
        let owned = owned.into_iter().flat_map(Headers::iter);
        let fetched = fetched.into_iter().flat_map(|headers| headers.iter());
        owned
            .map(|(name, value)| (name, value.as_ref()))
            .chain(fetched.map(|header| (header.key, header.value.unwrap_or_default())))
    }
}

impl std::fmt::Debug for HeadersRef<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

impl<'a> RecordRef<'a> {
    /// `topic` is what the message's topic is called, which librdkafka would have to be asked for.
    pub(crate) fn fetched(message: &'a BorrowedMessage<'a>, topic: &'a str) -> Self {
        Self {
            topic,
            partition: message.partition(),
            offset: message.offset(),
            append_time: messages::append_time(message),
            key: message.key(),
            value: message.payload(),
            headers: HeadersRef(From::Fetched(message)),
        }
    }

    /// The record's type, from `ce_type`.
    #[must_use]
    pub fn ce_type(&self) -> Option<&'a str> {
        self.headers.text("ce_type")
    }

    /// Its identity.
    #[must_use]
    pub fn position(&self) -> Position {
        Position {
            topic: self.topic.into(),
            partition: self.partition,
            offset: self.offset,
        }
    }

    /// A copy. `topic` is the topic's name, to be shared.
    #[must_use]
    pub fn to_record(&self, topic: &Arc<str>) -> Record {
        let mut headers = Headers::new();
        for (name, value) in self.headers.iter() {
            headers.push(name.to_owned(), Bytes::copy_from_slice(value));
        }
        Record {
            position: Position {
                topic: Arc::clone(topic),
                partition: self.partition,
                offset: self.offset,
            },
            append_time: self.append_time,
            key: self.key.map(Bytes::copy_from_slice),
            value: self.value.map(Bytes::copy_from_slice),
            headers,
        }
    }
}

impl Record {
    /// The record, to be looked at.
    #[must_use]
    pub fn view(&self) -> RecordRef<'_> {
        RecordRef {
            topic: &self.position.topic,
            partition: self.position.partition,
            offset: self.position.offset,
            append_time: self.append_time,
            key: self.key.as_deref(),
            value: self.value.as_deref(),
            headers: HeadersRef(From::Owned(&self.headers)),
        }
    }
}
