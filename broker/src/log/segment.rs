//! One file of batches, and where in it an offset or a time is found.
use std::fs::{self, File, OpenOptions};
use std::io::{self, IoSlice, Seek, SeekFrom, Write};
use std::ops::ControlFlow;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::batch::{HEADER, Header, Records};
use super::damage::{Hole, Synced, next_whole};

/// Bytes of batches between two entries of the index.
const INDEX_STEP: u64 = 4096;
/// Bytes read at a time while stepping from header to header.
const CHUNK: usize = 8192;

/// A segment: batches in offset order, and a sparse index that is made anew at opening.
#[derive(Debug)]
pub(crate) struct Segment {
    pub(crate) base: i64,
    pub(crate) path: PathBuf,
    pub(crate) file: Arc<File>,
    /// Where in the file it begins.
    start: u64,
    /// Where it ends.
    pub(crate) len: u64,
    pub(crate) max_timestamp: i64,
    index: Vec<Entry>,
    /// A write failed half way and could not be undone: the file takes no more.
    broken: bool,
}

/// What of a file must be there.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Its first offset.
    base: i64,
    /// The first offset of the next file.
    until: i64,
    /// How far it is known to have been synced.
    synced: Synced,
    /// Whether it is the last file, which takes more.
    last: bool,
    /// Whether all checksums are compared.
    verify: bool,
}

impl Limits {
    /// A file that was synced before the next one was begun.
    pub(crate) const fn closed(base: i64, until: i64) -> Self {
        let synced = Synced {
            len: u64::MAX,
            next: until,
        };
        Self {
            base,
            until,
            synced,
            last: false,
            verify: false,
        }
    }

    /// The same, to be read as a whole.
    pub(crate) const fn verified(base: i64, until: i64) -> Self {
        Self {
            verify: true,
            ..Self::closed(base, until)
        }
    }

    /// The last file.
    pub(crate) const fn last(base: i64, synced: Synced) -> Self {
        Self {
            base,
            until: i64::MAX,
            synced,
            last: true,
            verify: true,
        }
    }
}

/// What was found in a file.
#[derive(Debug, Default)]
pub(crate) struct Opened {
    /// At least one: what lies between two damages.
    pub(crate) parts: Vec<Segment>,
    /// What was damaged.
    pub(crate) holes: Vec<Hole>,
}

/// Where a batch begins, and the greatest time stamp of the batches before it.
#[derive(Clone, Copy, Debug)]
struct Entry {
    offset: i64,
    position: u64,
    max_before: i64,
}

impl Segment {
    pub(crate) fn path(folder: &Path, base: i64) -> PathBuf {
        folder.join(format!("{base:020}.log"))
    }

    /// Begins an empty segment and makes its name durable.
    pub(crate) fn create(folder: &Path, base: i64) -> io::Result<Self> {
        let path = Self::path(folder, base);
        let file = options().create(true).truncate(true).open(&path)?;
        File::open(folder)?.sync_all()?;
        Ok(Self::empty(base, path, &Arc::new(file)))
    }

    /// Opens a file and shows `visit` each batch header, with the batch itself if it is a control
    /// batch.
    ///
    /// What is damaged of what was `synced` is passed over: the file becomes several segments, with
    /// holes between them. The first batch that is not whole behind that was torn by a crash; in
    /// the last file that tail is cut off.
    pub(crate) fn open(
        path: &Path,
        limits: Limits,
        visit: &mut impl FnMut(&Header, &[u8]),
    ) -> io::Result<Opened> {
        let file = options().open(path)?;
        let end = file.metadata()?.len();
        let file = Arc::new(file);
        let part = |base, start| Self {
            start,
            len: start,
            file: Arc::clone(&file),
            ..Self::empty(base, path.to_owned(), &file)
        };
        let mut opened = Opened::default();
        let (mut segment, mut next) = (part(limits.base, 0), limits.base);
        loop {
            next = segment.walk(end, next, limits.verify, visit)?;
            let at = segment.len;
            if at >= limits.synced.len.min(end) {
                break;
            }
            let Some((start, header)) = next_whole(&file, at + 1, end, next, limits.until)? else {
                break;
            };
            let hole = Hole {
                from: next,
                to: header.base_offset,
            };
            report(path, at, hole);
            opened.holes.push(hole);
            next = header.base_offset;
            let fresh = part(next, start);
            opened.parts.push(std::mem::replace(&mut segment, fresh));
        }
        let at = segment.len;
        opened.parts.push(segment);
        let lost = if limits.last {
            limits.synced.next
        } else {
            limits.until
        };
        if next < lost {
            let hole = Hole {
                from: next,
                to: lost,
            };
            report(path, at, hole);
            opened.holes.push(hole);
        }
        if limits.last {
            if at < end {
                let (path, bytes) = (path.display(), end - at);
                tracing::warn!(%path, bytes, "cut a torn tail");
                file.set_len(at)?;
            }
            // What survived in the page cache only is made durable before anyone reads it.
            file.sync_all()?;
            (&*file).seek(SeekFrom::Start(at))?;
        }
        Ok(opened)
    }

    /// Takes the whole batches from here on, and answers the offset after them.
    fn walk(
        &mut self,
        end: u64,
        mut next: i64,
        verify: bool,
        visit: &mut impl FnMut(&Header, &[u8]),
    ) -> io::Result<i64> {
        let file = Arc::clone(&self.file);
        let mut batch = Vec::new();
        scan(&file, self.len, end, |position, header| {
            // The offset lies outside of the checksum.
            let mut whole = header.base_offset == next;
            if whole && (verify || header.is_control()) {
                batch.resize(header.size, 0);
                file.read_exact_at(&mut batch, position)?;
                whole = header.is_intact(&batch);
            }
            if !whole {
                return Ok(ControlFlow::Break(()));
            }
            next = header.last_offset() + 1;
            self.note(header);
            visit(header, &batch);
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(next)
    }

    fn empty(base: i64, path: PathBuf, file: &Arc<File>) -> Self {
        let (file, index) = (Arc::clone(file), Vec::new());
        Self {
            base,
            path,
            file,
            start: 0,
            len: 0,
            max_timestamp: i64::MIN,
            index,
            broken: false,
        }
    }

    /// Writes a batch whose stamped header is `head`; an error leaves the segment as it was.
    pub(crate) fn append(&mut self, header: &Header, head: &[u8], body: &[u8]) -> io::Result<()> {
        if self.broken {
            return Err(io::Error::other("an earlier write could not be undone"));
        }
        let mut file = &*self.file;
        let parts = [IoSlice::new(head), IoSlice::new(body)];
        let written = file.write_vectored(&parts).and_then(|done| {
            // Short writes are rare: finish what the one call left.
            file.write_all(head.get(done..).unwrap_or_default())?;
            file.write_all(
                body.get(done.saturating_sub(head.len())..)
                    .unwrap_or_default(),
            )
        });
        if let Err(error) = written {
            let undone = file
                .set_len(self.len)
                .and_then(|()| file.seek(SeekFrom::Start(self.len)));
            self.broken = undone.is_err();
            return Err(error);
        }
        self.note(header);
        Ok(())
    }

    fn note(&mut self, header: &Header) {
        if self
            .index
            .last()
            .is_none_or(|entry| self.len - entry.position >= INDEX_STEP)
        {
            let (position, max_before) = (self.len, self.max_timestamp);
            self.index.push(Entry {
                offset: header.base_offset,
                position,
                max_before,
            });
        }
        self.max_timestamp = self.max_timestamp.max(header.max_timestamp);
        self.len += header.size as u64;
    }

    /// A position at or before the batch that holds `offset`.
    pub(crate) fn near(&self, offset: i64) -> u64 {
        let after = self.index.partition_point(|entry| entry.offset <= offset);
        after
            .checked_sub(1)
            .and_then(|at| self.index.get(at))
            .map_or(self.start, |entry| entry.position)
    }

    /// A position at or before the first batch with a time stamp of at least `time`.
    pub(crate) fn near_time(&self, time: i64) -> u64 {
        let after = self.index.partition_point(|entry| entry.max_before < time);
        after
            .checked_sub(1)
            .and_then(|at| self.index.get(at))
            .map_or(self.start, |entry| entry.position)
    }
}

/// First offsets of the segment files in a folder, in order.
pub(crate) fn segments(folder: &Path) -> io::Result<Vec<i64>> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut bases = Vec::new();
    for entry in entries {
        let name = entry?.file_name();
        let base = name.to_str().and_then(|name| name.strip_suffix(".log"));
        bases.extend(base.and_then(|base| base.parse::<i64>().ok()));
    }
    bases.sort_unstable();
    Ok(bases)
}

/// Makes a folder and its parent, durably.
pub(crate) fn create_folder(folder: &Path) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    for ancestor in folder.ancestors().skip(1).take(2) {
        File::open(ancestor)?.sync_all()?;
    }
    Ok(())
}

fn report(path: &Path, byte: u64, Hole { from, to }: Hole) {
    let path = path.display();
    tracing::error!(%path, byte, from, to, "damaged: these offsets cannot be read");
}

fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true);
    options
}

/// Steps over the batch headers in `from..end`; a batch that does not fit ends the walk.
pub(crate) fn scan(
    file: &File,
    from: u64,
    end: u64,
    mut visit: impl FnMut(u64, &Header) -> io::Result<ControlFlow<()>>,
) -> io::Result<()> {
    let mut chunk = Vec::new();
    let (mut position, mut chunk_at) = (from, from);
    while position < end {
        let mut skip = usize::try_from(position - chunk_at).unwrap_or(usize::MAX);
        if chunk.len() < skip.saturating_add(HEADER) {
            chunk.resize(
                usize::try_from(end - position).unwrap_or(CHUNK).min(CHUNK),
                0,
            );
            file.read_exact_at(&mut chunk, position)?;
            (chunk_at, skip) = (position, 0);
        }
        let Some(header) = chunk.get(skip..).and_then(Header::read) else {
            return Ok(());
        };
        let after = position + header.size as u64;
        if after > end || visit(position, &header)?.is_break() {
            return Ok(());
        }
        position = after;
    }
    Ok(())
}

/// Reads whole batches from the one that holds `offset` on: at least one, and more while they fit
/// into `max` bytes, all of them below `limit`.
pub(crate) fn read(
    file: &File,
    near: u64,
    end: u64,
    offset: i64,
    limit: i64,
    max: usize,
) -> io::Result<Vec<u8>> {
    let mut first = None;
    scan(file, near, end, |position, header| {
        if header.last_offset() < offset {
            return Ok(ControlFlow::Continue(()));
        }
        first = Some((position, header.size));
        Ok(ControlFlow::Break(()))
    })?;
    let Some((position, size)) = first else {
        return Ok(Vec::new());
    };
    let available = usize::try_from(end - position).unwrap_or(usize::MAX);
    let mut bytes = vec![0; available.min(max.max(size))];
    file.read_exact_at(&mut bytes, position)?;
    let mut whole = 0;
    while let Some(header) = bytes.get(whole..).and_then(Header::read) {
        let after = whole.saturating_add(header.size);
        if after > bytes.len() || header.last_offset() >= limit {
            break;
        }
        whole = after;
    }
    bytes.truncate(whole);
    Ok(bytes)
}

/// The first record with a time stamp of at least `time` in `near..end`, as (offset, time stamp).
///
/// Exact for uncompressed batches and for append times. In a compressed batch with producer times
/// it is the batch's first record: at or before the one asked for, never after it.
pub(crate) fn find_time(
    file: &File,
    near: u64,
    end: u64,
    time: i64,
) -> io::Result<Option<(i64, i64)>> {
    let mut found = None;
    scan(file, near, end, |position, header| {
        if header.max_timestamp < time || header.is_control() {
            return Ok(ControlFlow::Continue(()));
        }
        found = if header.has_append_time() {
            Some((header.base_offset, header.max_timestamp))
        } else if header.is_compressed() {
            Some((header.base_offset, header.base_timestamp))
        } else {
            let mut batch = vec![0; header.size];
            file.read_exact_at(&mut batch, position)?;
            Records::of(&batch)
                .map(|record| {
                    let stamp = header.base_timestamp.saturating_add(record.timestamp_delta);
                    (
                        header.base_offset.saturating_add(record.offset_delta),
                        stamp,
                    )
                })
                .find(|(_, stamp)| *stamp >= time)
        };
        Ok(if found.is_some() {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        })
    })?;
    Ok(found)
}
