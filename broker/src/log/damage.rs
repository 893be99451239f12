//! Tells damage from a torn tail, and finds what is whole behind it.
//!
//! A crash tears what was not synced; that is cut off. What was synced and cannot be read any more was
//! damaged: it becomes a [`Hole`], which readers are told of, and what lies behind it stays.
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use super::batch::{HEADER, Header};

/// Bytes that are synced between two notes of how far a file is.
pub(crate) const NOTE_STEP: u64 = 16 * 1024;
/// Bytes that are looked through at a time for the next whole batch.
const WINDOW: usize = 1 << 20;

/// Offsets whose records were durable and cannot be read any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Hole {
    pub(crate) from: i64,
    /// After the last.
    pub(crate) to: i64,
}

impl Hole {
    pub(crate) fn holds(&self, offset: i64) -> bool {
        (self.from..self.to).contains(&offset)
    }
}

/// How far a segment was synced: a note beside the file, which may be older than the file is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Synced {
    /// Bytes.
    pub(crate) len: u64,
    /// The offset after them.
    pub(crate) next: i64,
}

impl Synced {
    fn path(segment: &Path) -> PathBuf {
        segment.with_extension("synced")
    }

    /// What was noted; nothing if there is no note, or none that can be read.
    pub(crate) fn read(segment: &Path) -> Self {
        let noted = fs::read(Self::path(segment)).unwrap_or_default();
        Self::decode(&noted).unwrap_or_default()
    }

    fn decode(noted: &[u8]) -> Option<Self> {
        let (body, crc) = noted.split_at_checked(16)?;
        let (len, next) = body.split_at_checked(8)?;
        let crc = u32::from_be_bytes(crc.try_into().ok()?);
        (crc == crc32c::crc32c(body)).then_some(Self {
            len: u64::from_be_bytes(len.try_into().ok()?),
            next: i64::from_be_bytes(next.try_into().ok()?),
        })
    }

    /// Notes it. It need not survive a crash: an older note promises less.
    pub(crate) fn write(self, segment: &Path) -> io::Result<()> {
        let mut note = Vec::with_capacity(20);
        note.extend_from_slice(&self.len.to_be_bytes());
        note.extend_from_slice(&self.next.to_be_bytes());
        let crc = crc32c::crc32c(&note);
        note.extend_from_slice(&crc.to_be_bytes());
        fs::write(Self::path(segment), note)
    }

    /// Removes the note of a segment that is removed or needs none any more.
    pub(crate) fn forget(segment: &Path) -> io::Result<()> {
        match fs::remove_file(Self::path(segment)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

/// The next whole batch in `from..end` whose offsets lie in `next..until`, and where it stands.
pub(crate) fn next_whole(
    file: &File,
    from: u64,
    end: u64,
    next: i64,
    until: i64,
) -> io::Result<Option<(u64, Header)>> {
    let (mut at, mut window) = (from, Vec::new());
    while at < end {
        let left = usize::try_from(end - at).unwrap_or(usize::MAX);
        window.resize(left.min(WINDOW), 0);
        file.read_exact_at(&mut window, at)?;
        for (step, bytes) in window.windows(HEADER.min(window.len())).enumerate() {
            let Some(header) = Header::read(bytes) else {
                continue;
            };
            let position = at + step as u64;
            let fits = position + header.size as u64 <= end;
            if !fits || header.base_offset < next || header.last_offset() >= until {
                continue;
            }
            let mut batch = vec![0; header.size];
            file.read_exact_at(&mut batch, position)?;
            if header.is_intact(&batch) {
                return Ok(Some((position, header)));
            }
        }
        // A header may lie across the border of two windows.
        let step = window.len().saturating_sub(HEADER - 1).max(1);
        at += step as u64;
    }
    Ok(None)
}

/// How many of these bytes are whole batches that follow each other, the first of which holds
/// `offset`.
pub(crate) fn whole_bytes(batches: &[u8], offset: i64) -> usize {
    let (mut whole, mut next) = (0, None);
    while let Some(rest) = batches.get(whole..)
        && let Some(header) = Header::read(rest)
        && let Some(batch) = rest.get(..header.size)
    {
        let follows = match next {
            None => header.base_offset <= offset && offset <= header.last_offset(),
            Some(next) => header.base_offset == next,
        };
        if !follows || !header.is_intact(batch) {
            break;
        }
        whole += header.size;
        next = Some(header.last_offset() + 1);
    }
    whole
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_is_read_back_and_a_torn_one_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let segment = folder.path().join("00.log");
        assert_eq!(Synced::read(&segment), Synced::default());
        let synced = Synced { len: 77, next: 5 };
        synced.write(&segment).unwrap();
        assert_eq!(Synced::read(&segment), synced);
        let note = Synced::path(&segment);
        for cut in 0..20 {
            let whole = fs::read(&note).unwrap();
            fs::write(&note, &whole[..cut]).unwrap();
            assert_eq!(Synced::read(&segment), Synced::default());
            fs::write(&note, &whole).unwrap();
        }
        Synced::forget(&segment).unwrap();
        Synced::forget(&segment).unwrap();
        assert_eq!(Synced::read(&segment), Synced::default());
    }
}
