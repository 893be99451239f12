//! Reads, checks and stamps record batches (message format 2) without decoding their records.
use kafka_protocol::error::ResponseError;

/// Bytes of a batch before its records.
pub(crate) const HEADER: usize = 61;
/// Bytes before the part that `batch_length` counts.
const LENGTH_END: usize = 12;
/// Where the part that the checksum covers begins.
const CHECKED: usize = 21;

const COMPRESSION: i16 = 0b0111;
const LOG_APPEND_TIME: i16 = 0b1000;
const TRANSACTIONAL: i16 = 0b1_0000;
const CONTROL: i16 = 0b10_0000;

/// The fixed part of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) base_offset: i64,
    /// Bytes of the whole batch.
    pub(crate) size: usize,
    pub(crate) crc: u32,
    pub(crate) attributes: i16,
    pub(crate) last_offset_delta: i32,
    pub(crate) base_timestamp: i64,
    pub(crate) max_timestamp: i64,
    pub(crate) producer_id: i64,
    pub(crate) producer_epoch: i16,
    pub(crate) base_sequence: i32,
    pub(crate) records: i32,
}

impl Header {
    /// Reads a header; `None` when the bytes are too few or cannot be a batch of format 2.
    pub(crate) fn read(bytes: &[u8]) -> Option<Self> {
        let length = usize::try_from(i32::from_be_bytes(array(bytes, 8)?)).ok()?;
        let header = Self {
            base_offset: i64::from_be_bytes(array(bytes, 0)?),
            size: length.checked_add(LENGTH_END)?,
            crc: u32::from_be_bytes(array(bytes, 17)?),
            attributes: i16::from_be_bytes(array(bytes, CHECKED)?),
            last_offset_delta: i32::from_be_bytes(array(bytes, 23)?),
            base_timestamp: i64::from_be_bytes(array(bytes, 27)?),
            max_timestamp: i64::from_be_bytes(array(bytes, 35)?),
            producer_id: i64::from_be_bytes(array(bytes, 43)?),
            producer_epoch: i16::from_be_bytes(array(bytes, 51)?),
            base_sequence: i32::from_be_bytes(array(bytes, 53)?),
            records: i32::from_be_bytes(array(bytes, 57)?),
        };
        let plausible = header.size >= HEADER
            && magic(bytes) == Some(2)
            && header.last_offset_delta >= 0
            && header.base_offset >= 0
            && header
                .base_offset
                .checked_add(i64::from(header.last_offset_delta) + 1)
                .is_some();
        plausible.then_some(header)
    }

    /// Offset of the last record.
    pub(crate) fn last_offset(&self) -> i64 {
        self.base_offset + i64::from(self.last_offset_delta)
    }

    pub(crate) fn is_transactional(&self) -> bool {
        self.attributes & TRANSACTIONAL != 0
    }

    pub(crate) fn is_control(&self) -> bool {
        self.attributes & CONTROL != 0
    }

    pub(crate) fn is_compressed(&self) -> bool {
        self.attributes & COMPRESSION != 0
    }

    pub(crate) fn has_append_time(&self) -> bool {
        self.attributes & LOG_APPEND_TIME != 0
    }

    /// Whether the batch comes from an idempotent or transactional producer.
    pub(crate) fn has_producer(&self) -> bool {
        self.producer_id >= 0
    }

    /// Whether `batch`, whose header this is, is whole and as it was written.
    pub(crate) fn is_intact(&self, batch: &[u8]) -> bool {
        batch.len() == self.size
            && batch
                .get(CHECKED..)
                .is_some_and(|part| crc32c::crc32c(part) == self.crc)
    }
}

/// Checks one batch as a client sent it.
///
/// Compressed records are left as they are; uncompressed ones are counted, so that no consumer
/// meets a batch whose header lies about them.
pub(crate) fn accept(batch: &[u8]) -> Result<Header, ResponseError> {
    match magic(batch) {
        None => return Err(ResponseError::CorruptMessage),
        Some(2) => {}
        Some(_) => return Err(ResponseError::UnsupportedForMessageFormat),
    }
    let header = Header::read(batch).ok_or(ResponseError::CorruptMessage)?;
    if header.size < batch.len() {
        // KIP-98: from version 3 on a produce request carries exactly one batch per partition.
        return Err(ResponseError::InvalidRecord);
    }
    if !header.is_intact(batch) {
        return Err(ResponseError::CorruptMessage);
    }
    let compression = header.attributes & COMPRESSION;
    let counted = header.last_offset_delta.checked_add(1) == Some(header.records);
    if !counted || compression > 4 || header.is_control() {
        return Err(ResponseError::InvalidRecord);
    }
    if header.has_append_time() {
        return Err(ResponseError::InvalidTimestamp);
    }
    if header.has_producer() && (header.producer_epoch < 0 || header.base_sequence < 0)
        || header.is_transactional() && !header.has_producer()
    {
        return Err(ResponseError::InvalidRecord);
    }
    if !header.is_compressed() && !lists_all(&header, batch) {
        return Err(ResponseError::InvalidRecord);
    }
    Ok(header)
}

/// Whether the records follow each other without a gap and end with the batch.
fn lists_all(header: &Header, batch: &[u8]) -> bool {
    let mut walk = Records::of(batch);
    let mut expected = 0;
    for record in walk.by_ref() {
        if record.offset_delta != expected {
            return false;
        }
        expected += 1;
    }
    walk.rest.is_empty() && expected == i64::from(header.records)
}

/// Writes the offset, the leader epoch and, if given, the append time into a header copy.
///
/// The checksum covers the append time, so it is made anew then; all else is kept.
pub(crate) fn stamp(
    batch: &[u8],
    base_offset: i64,
    append_time: Option<i64>,
) -> Option<[u8; HEADER]> {
    let mut head: [u8; HEADER] = array(batch, 0)?;
    head[..8].copy_from_slice(&base_offset.to_be_bytes());
    head[12..16].copy_from_slice(&0_i32.to_be_bytes());
    if let Some(time) = append_time {
        let attributes = i16::from_be_bytes([head[21], head[22]]) | LOG_APPEND_TIME;
        head[21..23].copy_from_slice(&attributes.to_be_bytes());
        head[35..43].copy_from_slice(&time.to_be_bytes());
        let crc = crc32c::crc32c_append(crc32c::crc32c(&head[CHECKED..]), batch.get(HEADER..)?);
        head[17..21].copy_from_slice(&crc.to_be_bytes());
    }
    Some(head)
}

/// The control batch that ends a transaction in a partition.
pub(crate) fn end_marker(producer_id: i64, epoch: i16, commit: bool, time: i64) -> Vec<u8> {
    let mut batch = vec![0; HEADER];
    // One record: no attributes, no deltas, a key of version and type, a value of version and
    // coordinator epoch, no headers. Lengths are zigzag varints.
    let record = [
        0,
        0,
        0,
        8,
        0,
        0,
        0,
        u8::from(commit),
        12,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
    ];
    batch.push(32);
    batch.extend_from_slice(&record);
    let length: i32 = 61 + 17 - 12;
    batch[8..12].copy_from_slice(&length.to_be_bytes());
    batch[16] = 2;
    batch[21..23].copy_from_slice(&(TRANSACTIONAL | CONTROL).to_be_bytes());
    batch[27..35].copy_from_slice(&time.to_be_bytes());
    batch[35..43].copy_from_slice(&time.to_be_bytes());
    batch[43..51].copy_from_slice(&producer_id.to_be_bytes());
    batch[51..53].copy_from_slice(&epoch.to_be_bytes());
    batch[53..57].copy_from_slice(&(-1_i32).to_be_bytes());
    batch[57..61].copy_from_slice(&1_i32.to_be_bytes());
    let crc = crc32c::crc32c(&batch[CHECKED..]);
    batch[17..21].copy_from_slice(&crc.to_be_bytes());
    batch
}

/// Whether a control batch commits its producer's transaction (or aborts it).
pub(crate) fn marker_commits(batch: &[u8]) -> bool {
    // Header, then record length, attributes, two deltas and key length of one byte each.
    batch.get(HEADER + 5..HEADER + 9) == Some(&[0, 0, 0, 1])
}

/// Where in an uncompressed batch a record stands, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RecordAt {
    pub(crate) timestamp_delta: i64,
    pub(crate) offset_delta: i64,
}

/// Steps over the records of an uncompressed batch; ends early where they are malformed.
#[derive(Debug)]
pub(crate) struct Records<'a> {
    rest: &'a [u8],
}

impl<'a> Records<'a> {
    pub(crate) fn of(batch: &'a [u8]) -> Self {
        Self {
            rest: batch.get(HEADER..).unwrap_or_default(),
        }
    }

    fn step(&mut self) -> Option<RecordAt> {
        let mut rest = self.rest;
        let length = usize::try_from(varint(&mut rest)?).ok()?;
        let (mut record, after) = rest.split_at_checked(length)?;
        record = record.get(1..)?;
        let timestamp_delta = varint(&mut record)?;
        let offset_delta = varint(&mut record)?;
        self.rest = after;
        Some(RecordAt {
            timestamp_delta,
            offset_delta,
        })
    }
}

impl Iterator for Records<'_> {
    type Item = RecordAt;

    fn next(&mut self) -> Option<RecordAt> {
        self.step()
    }
}

/// Reads a zigzag varint of at most ten bytes.
fn varint(bytes: &mut &[u8]) -> Option<i64> {
    let mut value = 0_u64;
    for shift in (0..70).step_by(7) {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f).checked_shl(shift)?;
        if byte & 0x80 == 0 {
            let magnitude = (value >> 1).cast_signed();
            return Some(if value & 1 == 0 {
                magnitude
            } else {
                !magnitude
            });
        }
    }
    None
}

fn magic(batch: &[u8]) -> Option<u8> {
    batch.get(16).copied()
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at.checked_add(N)?)?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::testing::{Sample, reseal};
    use proptest::prelude::*;

    #[test]
    fn accepts_what_a_producer_sends() {
        let batch = Sample::records(3).bytes();
        let header = accept(&batch).unwrap();
        assert_eq!((header.records, header.last_offset()), (3, 2));
    }

    #[test]
    fn names_each_fault_by_its_code() {
        let good = Sample::records(2).bytes();
        let with = |at: usize, value: u8| {
            let mut bad = good.clone();
            bad[at] = value;
            bad
        };
        assert_eq!(accept(&good[..40]), Err(ResponseError::CorruptMessage));
        assert_eq!(
            accept(&with(16, 1)),
            Err(ResponseError::UnsupportedForMessageFormat)
        );
        assert_eq!(accept(&with(70, 99)), Err(ResponseError::CorruptMessage));
        assert_eq!(
            accept(&[good.clone(), good.clone()].concat()),
            Err(ResponseError::InvalidRecord)
        );
        assert_eq!(
            accept(&reseal(with(60, 3))),
            Err(ResponseError::InvalidRecord)
        );
        assert_eq!(
            accept(&reseal(with(22, 0x20))),
            Err(ResponseError::InvalidRecord)
        );
        assert_eq!(
            accept(&reseal(with(22, 0x08))),
            Err(ResponseError::InvalidTimestamp)
        );
    }

    #[test]
    fn refuses_a_header_that_counts_more_records_than_there_are() {
        let mut batch = Sample::records(2).bytes();
        batch[26] = 4;
        batch[60] = 5;
        assert_eq!(accept(&reseal(batch)), Err(ResponseError::InvalidRecord));
    }

    #[test]
    fn stamping_keeps_the_batch_intact() {
        let batch = Sample::records(3).bytes();
        for time in [None, Some(1_700_000_000_123)] {
            let head = stamp(&batch, 42, time).unwrap();
            let stamped = [&head[..], &batch[HEADER..]].concat();
            let header = Header::read(&stamped).unwrap();
            assert!(header.is_intact(&stamped));
            assert_eq!(
                (header.base_offset, header.has_append_time()),
                (42, time.is_some())
            );
            if let Some(time) = time {
                assert_eq!(header.max_timestamp, time);
            }
        }
    }

    #[test]
    fn the_codec_reads_our_markers() {
        for commit in [false, true] {
            let marker = end_marker(7, 3, commit, 99);
            let header = Header::read(&marker).unwrap();
            assert!(header.is_intact(&marker) && header.is_control());
            assert_eq!(marker_commits(&marker), commit);
            let mut bytes = bytes::Bytes::from(marker);
            let set = kafka_protocol::records::RecordBatchDecoder::decode(&mut bytes).unwrap();
            let record = &set.records[0];
            assert!(record.control && record.transactional);
            assert_eq!((record.producer_id, record.producer_epoch), (7, 3));
            assert_eq!(
                record.key.as_deref(),
                Some(&[0, 0, 0, u8::from(commit)][..])
            );
        }
    }

    proptest! {
        #[test]
        fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _checked = accept(&bytes);
            prop_assert!(Records::of(&bytes).count() <= bytes.len());
        }

        #[test]
        fn a_resealed_mutation_never_panics(at in 21_usize..120, value: u8) {
            let mut batch = Sample::records(4).bytes();
            let at = at % batch.len();
            batch[at] = value;
            let _checked = accept(&reseal(batch));
        }
    }
}
