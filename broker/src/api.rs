//! Answers requests: finds the handler of each API and frames its answer.
//!
//! A handler does all that depends on the order of requests before its first await. The connection
//! polls new requests in the order they came, so a producer's batches are appended in the order it
//! sent them while several of its requests wait for the disk together.
mod configs;
mod fetch;
mod groups;
mod metadata;
mod offsets;
mod produce;
mod topics;
mod transactions;

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::ApiKey;
use kafka_protocol::protocol::{Decodable, Encodable, StrBytes};
use tokio::sync::OwnedSemaphorePermit;

use crate::node::Node;
use crate::protocol::{Envelope, ProtocolError, decode, encode, open};

/// The one broker's id.
pub(crate) const NODE: i32 = 1;

/// What goes back to the client.
#[derive(Debug)]
pub(crate) struct Answer {
    /// `None` for a produce request that wants no acknowledgement.
    pub(crate) bytes: Option<BytesMut>,
    /// Memory that the answer holds until it is sent.
    pub(crate) held: Option<OwnedSemaphorePermit>,
}

/// A request in the hands of its handler.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) node: Arc<Node>,
    pub(crate) envelope: Envelope,
    pub(crate) peer: SocketAddr,
}

/// Answers one request.
///
/// # Errors
/// When it cannot be read or answered in the protocol: the connection is to be closed.
pub(crate) async fn answer(
    node: Arc<Node>,
    peer: SocketAddr,
    frame: Bytes,
) -> Result<Answer, ProtocolError> {
    let (envelope, body) = open(frame)?;
    let call = Call {
        node,
        envelope,
        peer,
    };
    let Some(body) = body else {
        return call.done(0, &metadata::unsupported_versions());
    };
    match call.envelope.key {
        ApiKey::Produce => match call.produce(call.read(body)?).await {
            Some(response) => call.reply(&response),
            None => Ok(Answer {
                bytes: None,
                held: None,
            }),
        },
        ApiKey::Fetch => {
            let (response, held) = call.fetch(call.read(body)?).await;
            Ok(Answer {
                held,
                ..call.reply(&response)?
            })
        }
        ApiKey::ApiVersions => call.done(call.envelope.version, &metadata::versions()),
        ApiKey::JoinGroup | ApiKey::SyncGroup | ApiKey::Heartbeat | ApiKey::LeaveGroup => {
            call.membership(body).await
        }
        ApiKey::AddPartitionsToTxn
        | ApiKey::AddOffsetsToTxn
        | ApiKey::TxnOffsetCommit
        | ApiKey::EndTxn
        | ApiKey::InitProducerId => call.transaction(body).await,
        ApiKey::Metadata
        | ApiKey::FindCoordinator
        | ApiKey::ListOffsets
        | ApiKey::OffsetCommit
        | ApiKey::OffsetFetch => call.lookup(body).await,
        _ => call.administration(body).await,
    }
}

impl Call {
    async fn membership(&self, body: Bytes) -> Result<Answer, ProtocolError> {
        match self.envelope.key {
            ApiKey::JoinGroup => self.reply(&self.join_group(self.read(body)?).await),
            ApiKey::SyncGroup => self.reply(&self.sync_group(self.read(body)?).await),
            ApiKey::Heartbeat => self.reply(&self.heartbeat(&self.read(body)?)),
            _ => self.reply(&self.leave_group(self.read(body)?)),
        }
    }

    async fn transaction(&self, body: Bytes) -> Result<Answer, ProtocolError> {
        match self.envelope.key {
            ApiKey::AddPartitionsToTxn => {
                self.reply(&self.add_partitions_to_txn(self.read(body)?).await)
            }
            ApiKey::AddOffsetsToTxn => self.reply(&self.add_offsets_to_txn(self.read(body)?).await),
            ApiKey::TxnOffsetCommit => self.reply(&self.txn_offset_commit(self.read(body)?)),
            ApiKey::EndTxn => self.reply(&self.end_txn(self.read(body)?).await),
            _ => self.reply(&self.init_producer_id(self.read(body)?).await),
        }
    }

    async fn lookup(&self, body: Bytes) -> Result<Answer, ProtocolError> {
        match self.envelope.key {
            ApiKey::Metadata => self.reply(&self.metadata(self.read(body)?).await),
            ApiKey::FindCoordinator => self.reply(&self.find_coordinator(self.read(body)?)),
            ApiKey::ListOffsets => self.reply(&self.list_offsets(self.read(body)?)),
            ApiKey::OffsetCommit => self.reply(&self.offset_commit(self.read(body)?).await),
            _ => self.reply(&self.offset_fetch(self.read(body)?)),
        }
    }

    async fn administration(&self, body: Bytes) -> Result<Answer, ProtocolError> {
        match self.envelope.key {
            ApiKey::CreateTopics => self.reply(&self.create_topics(self.read(body)?).await),
            ApiKey::DeleteTopics => self.reply(&self.delete_topics(self.read(body)?).await),
            ApiKey::CreatePartitions => self.reply(&self.create_partitions(self.read(body)?).await),
            ApiKey::DeleteRecords => self.reply(&self.delete_records(self.read(body)?).await),
            ApiKey::DescribeConfigs => self.reply(&self.describe_configs(self.read(body)?)),
            ApiKey::AlterConfigs => self.reply(&self.alter_configs(self.read(body)?).await),
            ApiKey::IncrementalAlterConfigs => {
                self.reply(&self.incremental_alter_configs(self.read(body)?).await)
            }
            ApiKey::DescribeGroups => self.reply(&self.describe_groups(self.read(body)?)),
            ApiKey::ListGroups => self.reply(&self.list_groups(&self.read(body)?)),
            ApiKey::DeleteGroups => self.reply(&self.delete_groups(self.read(body)?).await),
            key => Err(ProtocolError::Body {
                key,
                version: self.envelope.version,
            }),
        }
    }

    fn read<R: Decodable>(&self, body: Bytes) -> Result<R, ProtocolError> {
        decode(&self.envelope, body)
    }

    fn reply<R: Encodable>(&self, response: &R) -> Result<Answer, ProtocolError> {
        self.done(self.envelope.version, response)
    }

    fn done<R: Encodable>(&self, version: i16, response: &R) -> Result<Answer, ProtocolError> {
        Ok(Answer {
            bytes: Some(encode(&self.envelope, version, response)?),
            held: None,
        })
    }

    /// Whether the request has at least this version.
    fn since(&self, version: i16) -> bool {
        self.envelope.version >= version
    }
}

/// The protocol's number of an outcome.
fn code<T>(outcome: &Result<T, ResponseError>) -> i16 {
    outcome.as_ref().err().map_or(0, ResponseError::code)
}

fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

#[cfg(test)]
mod tests;
