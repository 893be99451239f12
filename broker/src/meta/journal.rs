//! Appends changes to a file, each in a frame of length, checksum and JSON.
use std::fs::{self, File, OpenOptions};
use std::io::{self, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::image::Change;

/// Bytes of length and checksum before each change.
const FRAME: usize = 8;

/// The journal file.
#[derive(Debug)]
pub(crate) struct Journal {
    folder: PathBuf,
    file: Arc<File>,
    len: u64,
    /// Length after the last rewrite.
    rewritten: u64,
    broken: bool,
}

impl Journal {
    /// Replays the journal up to its last whole frame and cuts off what follows.
    pub(crate) fn open(folder: &Path, mut apply: impl FnMut(Change)) -> io::Result<Self> {
        fs::create_dir_all(folder)?;
        let path = folder.join("meta.log");
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)?;
        let bytes = fs::read(&path)?;
        let mut whole = 0;
        while let Some((json, after)) = frame(&bytes, whole) {
            let change = serde_json::from_slice(json).map_err(|error| {
                // The checksum was right: this is not a torn write but a file of another version.
                io::Error::new(io::ErrorKind::InvalidData, error)
            })?;
            apply(change);
            whole = after;
        }
        if whole < bytes.len() {
            tracing::warn!(path = %path.display(), bytes = bytes.len() - whole, "cut a torn tail");
            file.set_len(whole as u64)?;
        }
        let len = whole as u64;
        (&file).seek(SeekFrom::Start(len))?;
        let folder = folder.to_owned();
        Ok(Self {
            folder,
            file: Arc::new(file),
            len,
            rewritten: len,
            broken: false,
        })
    }

    /// Writes a change; an error leaves the journal as it was.
    pub(crate) fn append(&mut self, change: &Change) -> io::Result<()> {
        if self.broken {
            return Err(io::Error::other("an earlier write could not be undone"));
        }
        let frame = framed(change)?;
        let mut file = &*self.file;
        if let Err(error) = file.write_all(&frame) {
            let undone = file
                .set_len(self.len)
                .and_then(|()| file.seek(SeekFrom::Start(self.len)));
            self.broken = undone.is_err();
            return Err(error);
        }
        self.len += frame.len() as u64;
        Ok(())
    }

    /// Replaces the journal, durably and at once.
    pub(crate) fn rewrite(&mut self, changes: Vec<Change>) -> io::Result<()> {
        let (new, path) = (
            self.folder.join("meta.log.new"),
            self.folder.join("meta.log"),
        );
        let mut bytes = Vec::new();
        for change in changes {
            bytes.extend_from_slice(&framed(&change)?);
        }
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(&new)?;
        file.write_all(&bytes)?;
        file.sync_all()?;
        fs::rename(&new, &path)?;
        File::open(&self.folder)?.sync_all()?;
        self.len = bytes.len() as u64;
        self.rewritten = self.len;
        self.file = Arc::new(file);
        self.broken = false;
        Ok(())
    }

    /// Whether it is longer than `limit` and twice as long as after the last rewrite.
    pub(crate) fn grown_above(&self, limit: u64) -> bool {
        self.len > limit && self.len / 2 > self.rewritten
    }

    pub(crate) fn file(&self) -> Arc<File> {
        Arc::clone(&self.file)
    }
}

fn framed(change: &Change) -> io::Result<Vec<u8>> {
    let mut frame = vec![0; FRAME];
    serde_json::to_writer(&mut frame, change)?;
    let json = frame.get(FRAME..).unwrap_or_default();
    let length = u32::try_from(json.len()).map_err(io::Error::other)?;
    let crc = crc32c::crc32c(json);
    frame[..4].copy_from_slice(&length.to_be_bytes());
    frame[4..FRAME].copy_from_slice(&crc.to_be_bytes());
    Ok(frame)
}

/// The change at `at` and where the next one begins; `None` at the end or where it is torn.
fn frame(bytes: &[u8], at: usize) -> Option<(&[u8], usize)> {
    let head = bytes.get(at..at + FRAME)?;
    let length = u32::from_be_bytes(head.get(..4)?.try_into().ok()?);
    let crc = u32::from_be_bytes(head.get(4..)?.try_into().ok()?);
    let begin = at + FRAME;
    let end = begin.checked_add(usize::try_from(length).ok()?)?;
    let json = bytes.get(begin..end)?;
    // A run of zeros, which some file systems leave after a crash, is no frame.
    (length > 0 && crc32c::crc32c(json) == crc).then_some((json, end))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn replay(folder: &Path) -> Vec<Change> {
        let mut changes = Vec::new();
        Journal::open(folder, |change| changes.push(change)).unwrap();
        changes
    }

    #[test]
    fn keeps_all_whole_changes_whatever_is_torn_off() {
        let folder = tempfile::tempdir().unwrap();
        let mut journal = Journal::open(folder.path(), |_| ()).unwrap();
        let mut ends = vec![0];
        for next in 1..5 {
            journal.append(&Change::ProducerIds { next }).unwrap();
            ends.push(journal.len);
        }
        let path = folder.path().join("meta.log");
        let bytes = fs::read(&path).unwrap();
        for cut in 0..=bytes.len() {
            fs::write(&path, &bytes[..cut]).unwrap();
            let whole = ends
                .iter()
                .filter(|end| **end > 0 && **end <= cut as u64)
                .count();
            assert_eq!(replay(folder.path()).len(), whole, "cut at {cut}");
            assert_eq!(fs::metadata(&path).unwrap().len(), ends[whole]);
        }
    }

    #[test]
    fn a_rewrite_replaces_all_and_appends_go_on_after_it() {
        let folder = tempfile::tempdir().unwrap();
        let mut journal = Journal::open(folder.path(), |_| ()).unwrap();
        for next in 1..5 {
            journal.append(&Change::ProducerIds { next }).unwrap();
        }
        journal
            .rewrite(vec![Change::ProducerIds { next: 9 }])
            .unwrap();
        journal.append(&Change::ProducerIds { next: 10 }).unwrap();
        let expected = [9, 10].map(|next| Change::ProducerIds { next });
        assert_eq!(replay(folder.path()), expected);
    }
}
