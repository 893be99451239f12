//! Keeps what `sumu dev` must find again: the data folder, its lock and its secret.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use runtime::Secret;

/// The folder, unless another is named.
pub(crate) const DEFAULT: &str = "sumu-data";
const SECRET: &str = "hs256.secret";

/// A data folder, for this process alone as long as it lives.
#[derive(Debug)]
pub(crate) struct Folder {
    path: PathBuf,
    _lock: File,
}

impl Folder {
    /// Opens the folder, and makes it if it is not there.
    pub(crate) fn open(path: &Path) -> anyhow::Result<Self> {
        let shown = path.display();
        fs::create_dir_all(path).with_context(|| format!("cannot make the folder {shown}"))?;
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(path.join("lock"));
        let lock = lock.with_context(|| format!("cannot write in {shown}"))?;
        match lock.try_lock() {
            Ok(()) => Ok(Self {
                path: path.into(),
                _lock: lock,
            }),
            Err(TryLockError::WouldBlock) => anyhow::bail!(
                "another `sumu dev` uses {shown}: stop it, or choose another folder with --data"
            ),
            Err(TryLockError::Error(error)) => {
                Err(error).with_context(|| format!("cannot lock {shown}"))
            }
        }
    }

    /// Where the broker keeps its files.
    pub(crate) fn broker(&self) -> PathBuf {
        self.path.join("broker")
    }

    /// The secret that was made once for this folder, readable by its owner only.
    pub(crate) fn secret(&self) -> anyhow::Result<Secret> {
        let path = self.path.join(SECRET);
        if !path.exists() {
            self.make_secret(&path)
                .with_context(|| format!("cannot write {}", path.display()))?;
        }
        read_secret(&self.path)
    }

    /// Whole or not at all: written beside, then renamed.
    fn make_secret(&self, path: &Path) -> io::Result<()> {
        let draft = self.path.join("hs256.secret.new");
        let mut file = OpenOptions::new()
            .create(true)
            .truncate(true)
            .write(true)
            .mode(0o600)
            .open(&draft)?;
        writeln!(file, "{}", random_secret().expose())?;
        file.sync_all()?;
        fs::rename(draft, path)
    }
}

/// The secret of a data folder.
pub(crate) fn read_secret(data: &Path) -> anyhow::Result<Secret> {
    let path = data.join(SECRET);
    Secret::from_file(&path).with_context(|| format!("cannot read {}", path.display()))
}

/// A secret that nobody guesses: 32 random bytes in hexadecimal.
pub(crate) fn random_secret() -> Secret {
    let bytes: [u8; 32] = rand::random();
    Secret::new(
        bytes
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect::<String>(),
    )
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn the_secret_is_made_once_and_for_its_owner_only() {
        let data = tempfile::tempdir().unwrap();
        let folder = Folder::open(data.path()).unwrap();
        let secret = folder.secret().unwrap();
        assert_eq!(secret.expose().len(), 64);
        assert_eq!(folder.secret().unwrap(), secret);
        assert_eq!(read_secret(data.path()).unwrap(), secret);
        let mode = fs::metadata(data.path().join(SECRET))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_folder_is_used_by_one_process_at_a_time() {
        let data = tempfile::tempdir().unwrap();
        let folder = Folder::open(data.path()).unwrap();
        let refused = Folder::open(data.path()).unwrap_err().to_string();
        assert!(refused.contains("another `sumu dev` uses"), "{refused}");
        drop(folder);
        Folder::open(data.path()).unwrap();
    }
}
