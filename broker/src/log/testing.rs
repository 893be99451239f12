//! Batches as producers make them, for tests.
use bytes::BytesMut;
use kafka_protocol::records::{
    Compression, Record, RecordBatchEncoder, RecordEncodeOptions, TimestampType,
};

/// A batch to be made.
#[derive(Clone, Debug)]
pub(crate) struct Sample {
    pub(crate) records: i64,
    pub(crate) producer_id: i64,
    pub(crate) epoch: i16,
    pub(crate) sequence: i32,
    pub(crate) transactional: bool,
    pub(crate) timestamp: i64,
    pub(crate) value: Vec<u8>,
}

impl Sample {
    /// A batch of an ordinary producer; each record is one millisecond after the one before.
    pub(crate) fn records(records: i64) -> Self {
        Self {
            records,
            producer_id: -1,
            epoch: -1,
            sequence: -1,
            transactional: false,
            timestamp: 1_000,
            value: b"value".to_vec(),
        }
    }

    pub(crate) fn of(mut self, producer_id: i64, epoch: i16, sequence: i32) -> Self {
        (self.producer_id, self.epoch, self.sequence) = (producer_id, epoch, sequence);
        self
    }

    pub(crate) fn transactional(mut self) -> Self {
        self.transactional = true;
        self
    }

    pub(crate) fn at(mut self, timestamp: i64) -> Self {
        self.timestamp = timestamp;
        self
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let records: Vec<Record> = (0..self.records)
            .map(|n| Record {
                transactional: self.transactional,
                control: false,
                delete_horizon: false,
                partition_leader_epoch: -1,
                producer_id: self.producer_id,
                producer_epoch: self.epoch,
                timestamp_type: TimestampType::Creation,
                offset: n,
                sequence: if self.sequence < 0 {
                    i32::try_from(n).unwrap() - 1
                } else {
                    self.sequence + i32::try_from(n).unwrap()
                },
                timestamp: self.timestamp + n,
                key: None,
                value: Some(self.value.clone().into()),
                headers: kafka_protocol::indexmap::IndexMap::new(),
            })
            .collect();
        let mut bytes = BytesMut::new();
        let options = RecordEncodeOptions {
            version: 2,
            compression: Compression::None,
        };
        RecordBatchEncoder::encode(&mut bytes, &records, &options).unwrap();
        bytes.to_vec()
    }
}

/// Makes the checksum of a changed batch right again.
pub(crate) fn reseal(mut batch: Vec<u8>) -> Vec<u8> {
    let crc = crc32c::crc32c(&batch[21..]);
    batch[17..21].copy_from_slice(&crc.to_be_bytes());
    batch
}
