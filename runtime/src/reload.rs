//! Notices that files have changed, so that what they hold can be read anew without a restart.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// Some files, as they were when last looked at.
#[derive(Debug)]
pub struct Watch(Vec<(PathBuf, Option<Stamp>)>);

/// What changes when a file does: it is written, replaced, or its link leads somewhere else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    modified: Option<SystemTime>,
    bytes: u64,
    inode: u64,
}

impl Watch {
    /// The files as they are now.
    #[must_use]
    pub fn new(files: impl IntoIterator<Item = PathBuf>) -> Self {
        let stamped = files.into_iter().map(|file| {
            let stamp = stamp(&file);
            (file, stamp)
        });
        Self(stamped.collect())
    }

    /// Whether one of them has changed since it was last asked.
    pub fn changed(&mut self) -> bool {
        let mut changed = false;
        for (file, seen) in &mut self.0 {
            let now = stamp(file);
            changed |= now != *seen;
            *seen = now;
        }
        changed
    }

    /// Forgets what was seen, so that files that are there have changed when next asked: for when what
    /// they hold could not be read. What mends that, such as other permissions, may leave no trace.
    pub fn again(&mut self) {
        for (_, seen) in &mut self.0 {
            *seen = None;
        }
    }
}

fn stamp(file: &Path) -> Option<Stamp> {
    let metadata = fs::metadata(file).ok()?;
    Some(Stamp {
        modified: metadata.modified().ok(),
        bytes: metadata.len(),
        inode: metadata.ino(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_written_or_replaced_has_changed_once() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        let mut watch = Watch::new([file.clone()]);
        assert!(!watch.changed());
        fs::write(&file, "one").unwrap();
        assert!(watch.changed(), "it is there");
        assert!(!watch.changed());
        fs::write(&file, "three").unwrap();
        assert!(watch.changed(), "it was written");
        let next = folder.path().join("next");
        fs::write(&next, "seven").unwrap();
        fs::rename(&next, &file).unwrap();
        assert!(watch.changed(), "it was replaced by one of the same length");
        assert!(!watch.changed());
        watch.again();
        assert!(watch.changed(), "it is to be read again");
        assert!(!watch.changed());
    }
}
