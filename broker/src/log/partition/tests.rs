use std::fs::OpenOptions;

use kafka_protocol::error::ResponseError;
use proptest::prelude::*;

use super::*;
use crate::log::testing::Sample;

struct Disk {
    folder: tempfile::TempDir,
    flusher: Arc<Flusher>,
}

impl Disk {
    fn new() -> Self {
        let flusher = Arc::new(Flusher::start().unwrap());
        Self {
            folder: tempfile::tempdir().unwrap(),
            flusher,
        }
    }

    fn open(&self, segment_bytes: u64) -> Arc<Partition> {
        self.open_from(0, segment_bytes).unwrap()
    }

    fn open_from(&self, start: i64, segment_bytes: u64) -> io::Result<Arc<Partition>> {
        let folder = self.folder.path().join("0");
        let flusher = Arc::clone(&self.flusher);
        Partition::open(folder, start, segment_bytes, flusher).map(Arc::new)
    }

    fn last_segment(&self) -> PathBuf {
        let folder = self.folder.path().join("0");
        Segment::path(&folder, *segments(&folder).unwrap().last().unwrap())
    }
}

fn append(partition: &Arc<Partition>, sample: &Sample) -> Appended {
    let appended = partition.append(&sample.bytes(), Stamp::Create, 0).unwrap();
    partition.flush();
    appended
}

/// Base offsets of all batches that a reader gets, fetching a little at a time.
fn read_all(partition: &Partition, isolation: Isolation) -> Vec<i64> {
    let (mut offset, mut bases) = (partition.bounds().unwrap().start, Vec::new());
    loop {
        let fetched = partition.read(offset, 1, isolation).unwrap();
        let Some(header) = Header::read(&fetched.batches) else {
            return bases;
        };
        assert!(header.is_intact(&fetched.batches));
        bases.push(header.base_offset);
        offset = header.last_offset() + 1;
    }
}

#[test]
fn nothing_is_visible_before_it_is_durable() {
    let disk = Disk::new();
    let partition = disk.open(1 << 20);
    // The flusher is closed: nothing becomes durable by itself.
    disk.flusher.close();
    let appended = partition
        .append(&Sample::records(2).bytes(), Stamp::Create, 0)
        .unwrap();
    assert_eq!((appended.base_offset, appended.needed), (0, 2));
    assert_eq!(partition.bounds().unwrap().high_watermark, 0);
    assert!(read_all(&partition, Isolation::Uncommitted).is_empty());
    partition.flush();
    assert_eq!(read_all(&partition, Isolation::Uncommitted), [0]);
}

#[test]
fn a_tail_torn_at_any_byte_leaves_the_batches_before_it() {
    let disk = Disk::new();
    let partition = disk.open(1 << 20);
    let mut ends = vec![0];
    for _ in 0..3 {
        append(&partition, &Sample::records(2));
        ends.push(partition.state().active.len);
    }
    drop(partition);
    let path = disk.last_segment();
    let bytes = fs::read(&path).unwrap();
    for cut in 0..=bytes.len() {
        fs::write(&path, &bytes[..cut]).unwrap();
        let partition = disk.open(1 << 20);
        let whole = ends
            .iter()
            .filter(|end| **end > 0 && **end <= cut as u64)
            .count();
        let expected = i64::try_from(whole).unwrap() * 2;
        assert_eq!(
            partition.bounds().unwrap().high_watermark,
            expected,
            "cut at {cut}"
        );
        // And it takes more.
        assert_eq!(
            append(&partition, &Sample::records(1)).base_offset,
            expected
        );
        assert_eq!(
            read_all(&disk.open(1 << 20), Isolation::Uncommitted).len(),
            whole + 1
        );
    }
}

#[test]
fn a_flipped_bit_in_the_last_segment_ends_the_log_there() {
    let disk = Disk::new();
    let partition = disk.open(1 << 20);
    for _ in 0..3 {
        append(&partition, &Sample::records(1));
    }
    let path = disk.last_segment();
    let bytes = fs::read(&path).unwrap();
    for at in (0..bytes.len()).filter(|at| at % 7 == 0) {
        let mut damaged = bytes.clone();
        damaged[at] ^= 0x10;
        fs::write(&path, &damaged).unwrap();
        let partition = disk.open(1 << 20);
        let end = partition.bounds().unwrap().high_watermark;
        assert!(end <= 3);
        assert_eq!(
            read_all(&partition, Isolation::Uncommitted).len(),
            usize::try_from(end).unwrap()
        );
    }
}

/// Base offsets that can be read, and the first offset of each damage on the way.
fn read_around(partition: &Partition) -> (Vec<i64>, Vec<i64>) {
    let end = partition.bounds().unwrap().high_watermark;
    let (mut offset, mut bases, mut breaks) = (0, Vec::new(), Vec::new());
    while offset < end {
        match partition.read(offset, 1, Isolation::Uncommitted) {
            Ok(fetched) => {
                let header = Header::read(&fetched.batches).unwrap();
                bases.push(header.base_offset);
                offset = header.last_offset() + 1;
            }
            Err(error) => {
                assert_eq!(error, ResponseError::CorruptMessage);
                breaks.push(offset);
                let whole = partition.whole_from(offset, Isolation::Uncommitted);
                offset = whole.unwrap();
            }
        }
    }
    (bases, breaks)
}

/// Two records in each batch, three batches in each segment.
fn six_batches(disk: &Disk) -> (PathBuf, Vec<u8>) {
    let partition = disk.open(300);
    for _ in 0..6 {
        append(&partition, &Sample::records(2));
    }
    let folder = disk.folder.path().join("0");
    assert_eq!(segments(&folder).unwrap(), [0, 6]);
    let first = Segment::path(&folder, 0);
    let bytes = fs::read(&first).unwrap();
    (first, bytes)
}

#[test]
fn a_truncated_segment_is_a_hole_and_nothing_is_cut() {
    let disk = Disk::new();
    let (first, bytes) = six_batches(&disk);
    let batch = bytes.len() / 3;
    for (length, hole) in [(bytes.len() - 1, 4), (batch * 2, 4), (batch + 7, 2), (0, 0)] {
        fs::write(&first, &bytes[..length]).unwrap();
        let (bases, breaks) = read_around(&disk.open(300));
        let expected: Vec<i64> = (0..hole).step_by(2).chain([6, 8, 10]).collect();
        assert_eq!((bases, breaks), (expected, vec![hole]), "of {length} bytes");
        assert_eq!(fs::metadata(&first).unwrap().len(), length as u64);
    }
}

/// A byte of the middle batch is wrong, before the log is opened or while it is open: the two
/// batches beside it are read, and no offset inside can be read as if nothing were missing.
#[test]
fn a_flipped_byte_costs_its_batch_alone() {
    let disk = Disk::new();
    let (first, bytes) = six_batches(&disk);
    let batch = bytes.len() / 3;
    // The leader's epoch is not looked at.
    for at in (0..batch).filter(|at| !(12..16).contains(at)) {
        let mut damaged = bytes.clone();
        damaged[batch + at] ^= 0x10;
        let open = disk.open(300);
        fs::write(&first, &damaged).unwrap();
        for partition in [open, disk.open(300)] {
            let (bases, breaks) = read_around(&partition);
            assert_eq!(
                (bases, breaks),
                (vec![0, 4, 6, 8, 10], vec![2]),
                "byte {at}"
            );
            let inside = partition.read(3, 1, Isolation::Uncommitted).map(|_| ());
            assert_eq!(inside, Err(ResponseError::CorruptMessage), "byte {at}");
        }
        fs::write(&first, &bytes).unwrap();
    }
}

/// In the last segment, too, what was synced stays, and its offsets are not given again.
#[test]
fn damage_of_what_was_synced_is_no_torn_tail() {
    let disk = Disk::new();
    let partition = disk.open(1 << 20);
    let mut sample = Sample::records(1);
    sample.value = vec![7; 8 * 1024];
    for _ in 0..7 {
        append(&partition, &sample);
    }
    drop(partition);
    let path = disk.last_segment();
    let bytes = fs::read(&path).unwrap();
    let batch = bytes.len() / 7;

    let mut damaged = bytes.clone();
    damaged[batch + 100] ^= 1;
    fs::write(&path, &damaged).unwrap();
    let partition = disk.open(1 << 20);
    assert_eq!(read_around(&partition), (vec![0, 2, 3, 4, 5, 6], vec![1]));
    assert_eq!(append(&partition, &sample).base_offset, 7);
    drop(partition);
    let again = disk.open(1 << 20);
    assert_eq!(read_around(&again), (vec![0, 2, 3, 4, 5, 6, 7], vec![1]));
    drop(again);

    // Six were noted as synced.
    fs::write(&path, &bytes[..batch * 3 + 5]).unwrap();
    let partition = disk.open(1 << 20);
    assert_eq!(append(&partition, &sample).base_offset, 8);
    assert_eq!(read_around(&partition), (vec![0, 1, 2, 8], vec![3]));
    drop(partition);
    assert_eq!(
        read_around(&disk.open(1 << 20)),
        (vec![0, 1, 2, 8], vec![3])
    );
}

#[test]
fn append_times_never_go_back() {
    let disk = Disk::new();
    let partition = disk.open(1 << 20);
    let batch = Sample::records(1).bytes();
    let time = |partition: &Arc<Partition>, now| {
        let appended = partition.append(&batch, Stamp::Append, now).unwrap();
        partition.flush();
        appended.time.unwrap()
    };
    assert_eq!([50, 40, 60].map(|now| time(&partition, now)), [50, 50, 60]);
    drop(partition);
    assert_eq!(time(&disk.open(1 << 20), 10), 60);
}

#[test]
fn finds_offsets_by_time() {
    let disk = Disk::new();
    let partition = disk.open(300);
    // Times 1000, 1001, 1002; 2000, …; one segment each.
    for n in 1..=4 {
        append(&partition, &Sample::records(3).at(n * 1000));
    }
    let find = |time| partition.find_time(time, Isolation::Uncommitted).unwrap();
    assert_eq!(find(0), Some((0, 1000)));
    assert_eq!(find(1001), Some((1, 1001)));
    assert_eq!(find(1003), Some((3, 2000)));
    assert_eq!(find(4002), Some((11, 4002)));
    assert_eq!(find(4003), None);
    let stamped = partition
        .append(&Sample::records(3).bytes(), Stamp::Append, 9000)
        .unwrap();
    partition.flush();
    assert_eq!(find(8000), Some((stamped.base_offset, 9000)));
    assert_eq!(partition.max_timestamp(), Some(9000));
}

#[test]
fn a_reader_of_the_committed_stops_at_the_first_open_transaction() {
    let disk = Disk::new();
    let partition = disk.open(200);
    append(&partition, &Sample::records(1).of(1, 0, 0).transactional());
    append(&partition, &Sample::records(1));
    append(&partition, &Sample::records(1).of(2, 0, 0).transactional());
    assert!(read_all(&partition, Isolation::Committed).is_empty());
    partition.end_transaction(1, 0, true, 5).unwrap();
    partition.flush();
    assert_eq!(read_all(&partition, Isolation::Committed), [0, 1]);
    partition.end_transaction(2, 1, false, 5).unwrap();
    partition.flush();
    // What is known of producers and transactions is the same after a restart.
    for partition in [Arc::clone(&partition), disk.open(200)] {
        assert_eq!(read_all(&partition, Isolation::Committed), [0, 1, 2, 3, 4]);
        let fetched = partition.read(0, 1 << 20, Isolation::Committed).unwrap();
        assert_eq!(
            fetched.aborted,
            [Aborted {
                producer_id: 2,
                first: 2,
                marker: 4
            }]
        );
        let zombie = Sample::records(1).of(2, 0, 1).transactional().bytes();
        let refused = partition.append(&zombie, Stamp::Create, 0);
        assert_eq!(refused, Err(ResponseError::InvalidProducerEpoch));
    }
}

#[test]
fn deleting_records_moves_the_start_and_removes_whole_segments() {
    let disk = Disk::new();
    let partition = disk.open(200);
    for _ in 0..6 {
        append(&partition, &Sample::records(2));
    }
    let folder = disk.folder.path().join("0");
    let before = segments(&folder).unwrap().len();
    partition.delete_below(5);
    assert!(segments(&folder).unwrap().len() < before);
    assert_eq!(partition.bounds().unwrap().start, 5);
    let below = partition.read(4, 100, Isolation::Uncommitted).map(|_| ());
    assert_eq!(below, Err(ResponseError::OffsetOutOfRange));
    // The batch that holds offset 5 begins before it.
    assert_eq!(read_all(&partition, Isolation::Uncommitted), [4, 6, 8, 10]);
    partition.delete_below(12);
    drop(partition);
    let partition = disk.open_from(12, 200).unwrap();
    assert_eq!(append(&partition, &Sample::records(1)).base_offset, 12);
}

/// What can happen to a partition.
#[derive(Clone, Debug)]
enum Event {
    Append(u8),
    Produce {
        producer: u8,
        retry: bool,
    },
    Flush,
    /// The process dies; `torn` bytes of what was not synced are lost.
    Crash {
        torn: u16,
    },
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        4 => (1_u8..5).prop_map(Event::Append),
        4 => (0_u8..3, any::<bool>()).prop_map(|(producer, retry)| Event::Produce { producer, retry }),
        2 => Just(Event::Flush),
        1 => any::<u16>().prop_map(|torn| Event::Crash { torn }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever happens: what was flushed stays, in order and without gaps, and a retry of what is
    /// there is never written twice.
    #[test]
    fn crashes_lose_nothing_that_was_durable(events in proptest::collection::vec(event(), 1..60)) {
        let disk = Disk::new();
        // Only this test flushes.
        disk.flusher.close();
        let mut partition = disk.open(400);
        let (mut durable, mut synced_len) = (0, (disk.last_segment(), 0));
        let mut sequences = [0_i32; 3];
        for event in events {
            match event {
                Event::Append(records) => {
                    let batch = Sample::records(records.into()).bytes();
                    partition.append(&batch, Stamp::Append, 7).unwrap();
                }
                Event::Produce { producer, retry } => {
                    let sequence = &mut sequences[usize::from(producer)];
                    let first = if retry && *sequence > 0 { *sequence - 1 } else { *sequence };
                    let sample = Sample::records(1).of(producer.into(), 0, first);
                    let next = partition.state().next;
                    let appended = partition.append(&sample.bytes(), Stamp::Create, 7).unwrap();
                    prop_assert_eq!(appended.base_offset < next, first < *sequence);
                    *sequence = first + 1;
                }
                Event::Flush => {
                    partition.flush();
                    durable = partition.state().next;
                    synced_len = (disk.last_segment(), partition.state().active.len);
                }
                Event::Crash { torn } => {
                    drop(partition);
                    let path = disk.last_segment();
                    let length = fs::metadata(&path).unwrap().len();
                    let kept = if path == synced_len.0 { synced_len.1 } else { 0 };
                    let cut = length.saturating_sub(torn.into()).max(kept);
                    OpenOptions::new().write(true).open(&path).unwrap().set_len(cut).unwrap();
                    partition = disk.open(400);
                    let end = partition.bounds().unwrap().high_watermark;
                    prop_assert!(end >= durable, "{} of {} are left", end, durable);
                    durable = end;
                    synced_len = (disk.last_segment(), partition.state().active.len);
                    // The producers go on from what the log knows of them.
                    for (id, sequence) in (0..).zip(&mut sequences) {
                        *sequence = next_sequence(&partition, id);
                    }
                }
            }
        }
        partition.flush();
        let bases = read_all(&partition, Isolation::Uncommitted);
        prop_assert!(bases.is_sorted());
        let again = disk.open(400);
        prop_assert_eq!(read_all(&again, Isolation::Uncommitted), bases);
        prop_assert_eq!(&again.state().producers, &partition.state().producers);
    }
}

/// The sequence number that a producer of single records has to go on with.
fn next_sequence(partition: &Arc<Partition>, id: i64) -> i32 {
    let (mut offset, mut next) = (0, 0);
    loop {
        let fetched = partition.read(offset, 1, Isolation::Uncommitted).unwrap();
        let Some(header) = Header::read(&fetched.batches) else {
            return next;
        };
        if header.producer_id == id {
            next = header.base_sequence + 1;
        }
        offset = header.last_offset() + 1;
    }
}
