//! Knows the API keys of applications by their hashes, what each may do, and reads them anew when
//! their file changes.
//!
//! A key is a long random text, so its plain SHA-256 gives nothing away: there are no likely keys to
//! try. A password would need a slow, salted hash; keys are not passwords, and each request asks for
//! one.

use std::path::PathBuf;
use std::str::FromStr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, SHA256_OUTPUT_LEN, digest};
use runtime::Secret;
use runtime::reload::Watch;
use subtle::ConstantTimeEq as _;

/// Something that an application may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Request notifications.
    Notify,
    /// Ask who is online.
    PresenceRead,
    /// Ask for a user's connections.
    ConnectionsRead,
    /// Close connections and revoke users.
    ConnectionsWrite,
}

impl Scope {
    /// All there are.
    pub const ALL: [Self; 4] = [
        Self::Notify,
        Self::PresenceRead,
        Self::ConnectionsRead,
        Self::ConnectionsWrite,
    ];

    /// Its name, in the lines of keys and in tokens.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Notify => "sumu:notify",
            Self::PresenceRead => "sumu:presence:read",
            Self::ConnectionsRead => "sumu:connections:read",
            Self::ConnectionsWrite => "sumu:connections:write",
        }
    }
}

impl FromStr for Scope {
    type Err = LineError;

    fn from_str(text: &str) -> Result<Self, LineError> {
        let known = Self::ALL.into_iter().find(|scope| scope.name() == text);
        known.ok_or_else(|| LineError::Scope(text.to_owned()))
    }
}

/// Why a line is no key. The line itself is not shown: it may hold a key by mistake.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum LineError {
    /// There are not two words at least.
    #[error("is not: name, SHA-256 in hexadecimal, scopes")]
    Form,
    /// The second word is not 64 hexadecimal digits.
    #[error("has no SHA-256 in hexadecimal as its second word")]
    Hash,
    /// A further word is none of the scopes.
    #[error("names {0:?}, which is no scope")]
    Scope(String),
}

/// One key, by its hash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    name: String,
    hash: [u8; SHA256_OUTPUT_LEN],
    scopes: Vec<Scope>,
}

impl FromStr for Key {
    type Err = LineError;

    /// Reads `name hash scope…`; without a scope it may do everything.
    fn from_str(line: &str) -> Result<Self, LineError> {
        let mut words = line.split_ascii_whitespace();
        let (Some(name), Some(hash)) = (words.next(), words.next()) else {
            return Err(LineError::Form);
        };
        let scopes = words.map(str::parse).collect::<Result<Vec<_>, _>>()?;
        Ok(Self {
            name: name.to_owned(),
            hash: unhex(hash).ok_or(LineError::Hash)?,
            scopes: if scopes.is_empty() {
                Scope::ALL.into()
            } else {
                scopes
            },
        })
    }
}

impl Key {
    fn of_text(name: String, key: &Secret) -> Self {
        Self {
            name,
            hash: hash(key.expose().as_bytes()),
            scopes: Scope::ALL.into(),
        }
    }

    /// Whether it may be used for that.
    pub(crate) fn allows(&self, scope: Scope) -> bool {
        self.scopes.contains(&scope)
    }

    /// Whether that is its name.
    #[must_use]
    pub fn is_named(&self, name: &str) -> bool {
        self.name == name
    }

    /// For people.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }
}

/// Reads keys, a line each; empty lines and what follows a `#` do not count.
///
/// # Errors
/// The number of each line that is wrong, and why.
pub fn parse(text: &str) -> Result<Vec<Key>, Vec<String>> {
    let (mut keys, mut faults) = (vec![], vec![]);
    for (index, line) in text.lines().enumerate() {
        let line = line.split('#').next().unwrap_or_default().trim();
        if line.is_empty() {
            continue;
        }
        match line.parse() {
            Ok(key) => keys.push(key),
            Err(error) => faults.push(format!("line {}: {error}", index + 1)),
        }
    }
    if faults.is_empty() {
        Ok(keys)
    } else {
        Err(faults)
    }
}

/// The SHA-256 of a key, in hexadecimal, as the lines have it.
#[must_use]
pub fn hex_of(key: &Secret) -> String {
    let hash = hash(key.expose().as_bytes());
    hash.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn hash(key: &[u8]) -> [u8; SHA256_OUTPUT_LEN] {
    let mut hash = [0; SHA256_OUTPUT_LEN];
    hash.copy_from_slice(digest(&SHA256, key).as_ref());
    hash
}

fn unhex(text: &str) -> Option<[u8; SHA256_OUTPUT_LEN]> {
    let digits: Vec<u32> = text
        .chars()
        .map(|digit| digit.to_digit(16))
        .collect::<Option<_>>()?;
    let bytes: Vec<u8> = digits
        .chunks_exact(2)
        .filter_map(|pair| u8::try_from(pair[0] << 4 | pair[1]).ok())
        .collect();
    (digits.len() == 2 * SHA256_OUTPUT_LEN)
        .then(|| bytes.try_into().ok())
        .flatten()
}

/// Every key that counts now.
#[derive(Debug)]
pub(crate) struct Keys {
    fixed: Vec<Key>,
    file: Option<PathBuf>,
    /// Begun before the file was read first, so that no change is missed.
    watch: Mutex<Watch>,
    of_file: RwLock<Arc<[Key]>>,
}

impl Keys {
    /// Those of the configuration: as texts, as lines with hashes, and in a file of such lines.
    ///
    /// # Errors
    /// Everything wrong with them.
    pub(crate) fn new(
        texts: &[Secret],
        lines: &[String],
        file: Option<PathBuf>,
    ) -> Result<Self, Vec<String>> {
        let named =
            |(index, key): (usize, &Secret)| Key::of_text(format!("api_keys[{index}]"), key);
        let mut fixed: Vec<Key> = texts.iter().enumerate().map(named).collect();
        let mut faults = vec![];
        for (index, line) in lines.iter().enumerate() {
            match line.parse() {
                Ok(key) => fixed.push(key),
                Err(error) => faults.push(format!("api_key_hashes[{index}]: {error}")),
            }
        }
        let watch = Mutex::new(Watch::new(file.clone()));
        let of_file = match file.as_ref().map(read) {
            Some(Ok(keys)) => keys,
            Some(Err(mut more)) => {
                faults.append(&mut more);
                vec![]
            }
            None => vec![],
        };
        if !faults.is_empty() {
            return Err(faults);
        }
        Ok(Self {
            fixed,
            file,
            watch,
            of_file: RwLock::new(of_file.into()),
        })
    }

    /// Whether there never is one, and so everybody may: on loopback only.
    pub(crate) const fn is_open(&self) -> bool {
        self.fixed.is_empty() && self.file.is_none()
    }

    /// The key that was given, if it is known. Every hash is compared, each in constant time, so that
    /// the time tells neither which one it is nor how nearly.
    pub(crate) fn find(&self, given: &[u8]) -> Option<Key> {
        let given = hash(given);
        let of_file = {
            let of_file = self.of_file.read();
            Arc::clone(&of_file.unwrap_or_else(PoisonError::into_inner))
        };
        let all = self.fixed.iter().chain(&*of_file);
        all.fold(None, |found, key| {
            let same: bool = key.hash.ct_eq(&given).into();
            if same { Some(key) } else { found }
        })
        .cloned()
    }

    /// Reads the file anew whenever it has changed, for ever. One that cannot be read changes nothing, and
    /// is tried again the next time.
    pub(crate) async fn follow(&self, every: Duration) {
        let Some(file) = &self.file else {
            return std::future::pending().await;
        };
        loop {
            tokio::time::sleep(every).await;
            if !self.watch().changed() {
                continue;
            }
            match read(file) {
                Ok(keys) => {
                    tracing::info!(keys = keys.len(), "the API keys were read anew");
                    let of_file = self.of_file.write();
                    *of_file.unwrap_or_else(PoisonError::into_inner) = keys.into();
                }
                Err(faults) => {
                    let faults = faults.join("; ");
                    tracing::error!(faults, "the API keys stay as they were");
                    self.watch().again();
                }
            }
        }
    }

    fn watch(&self) -> MutexGuard<'_, Watch> {
        self.watch.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn read(file: &PathBuf) -> Result<Vec<Key>, Vec<String>> {
    let named = |fault: String| format!("api_keys_file: {}: {fault}", file.display());
    let text = std::fs::read_to_string(file).map_err(|error| vec![named(error.to_string())])?;
    parse(&text).map_err(|faults| faults.into_iter().map(named).collect())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KEY: &str = "sumu_0123456789abcdef";

    fn line(rest: &str) -> String {
        format!("billing {}{rest}", hex_of(&KEY.into()))
    }

    #[test]
    fn the_hash_is_sha_256() {
        // FIPS 180-2, B.1.
        let hex = hex_of(&"abc".into());
        let meant = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(hex, meant);
        assert_eq!(unhex(meant), Some(hash(b"abc")));
        for wrong in [
            "",
            "ba",
            meant.strip_prefix('b').unwrap(),
            &format!("{meant}00"),
            &meant.replace('b', "g"),
        ] {
            assert_eq!(unhex(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_file_is_read_line_by_line_and_its_faults_are_told_without_its_text() {
        let text = format!(
            "# ours\n\n{}\n{} # theirs\n",
            line(""),
            line(" sumu:notify")
        );
        let keys = parse(&text).unwrap();
        assert_eq!(keys.len(), 2);
        assert_eq!(keys[0].scopes, Scope::ALL);
        assert_eq!(keys[1].scopes, [Scope::Notify]);
        let text = format!(
            "hunter2-hunter2\nbilling hunter2-hunter2\n{}",
            line(" sumu:all")
        );
        let faults = parse(&text).unwrap_err().join("; ");
        for told in ["line 1", "line 2", "line 3", "sumu:all"] {
            assert!(faults.contains(told), "{faults}");
        }
        assert!(!faults.contains("hunter2"), "{faults}");
    }

    #[test]
    fn a_key_is_found_by_its_whole_text_and_may_what_its_line_says() {
        let lines = [line(" sumu:presence:read sumu:notify")];
        let keys = Keys::new(&["another-long-key-0123".into()], &lines, None).unwrap();
        let found = keys.find(KEY.as_bytes()).unwrap();
        assert_eq!(found.name(), "billing");
        assert!(found.allows(Scope::PresenceRead) && found.allows(Scope::Notify));
        assert!(!found.allows(Scope::ConnectionsWrite));
        let plain = keys.find(b"another-long-key-0123").unwrap();
        assert!(Scope::ALL.iter().all(|scope| plain.allows(*scope)));
        for wrong in [
            "",
            "sumu_",
            KEY.strip_prefix('s').unwrap(),
            &format!("{KEY} "),
            &hex_of(&KEY.into()),
        ] {
            assert!(keys.find(wrong.as_bytes()).is_none(), "{wrong}");
        }
        assert!(!keys.is_open());
        assert!(Keys::new(&[], &[], None).unwrap().is_open());
    }

    /// Waits until that key is known, or not any more.
    async fn known(keys: &Keys, key: &Secret, meant: bool) {
        while keys.find(key.expose().as_bytes()).is_some() != meant {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    #[tokio::test]
    async fn a_file_that_changes_is_read_anew_and_a_bad_one_changes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("keys");
        std::fs::write(&file, line("")).unwrap();
        let keys = Keys::new(&[], &[], Some(file.clone())).unwrap();
        assert!(!keys.is_open());
        let other: Secret = "sumu_fedcba9876543210".into();
        let rotate = async {
            known(&keys, &KEY.into(), true).await;
            std::fs::write(&file, format!("new {}\n", hex_of(&other))).unwrap();
            known(&keys, &other, true).await;
            known(&keys, &KEY.into(), false).await;
            std::fs::write(&file, "nonsense").unwrap();
            tokio::time::sleep(Duration::from_millis(50)).await;
            known(&keys, &other, true).await;
            std::fs::write(&file, "# nobody any more\n").unwrap();
            known(&keys, &other, false).await;
            assert!(!keys.is_open(), "an empty file opens nothing");
        };
        tokio::select! {
            () = keys.follow(Duration::from_millis(5)) => {}
            rotated = tokio::time::timeout(Duration::from_mins(1), rotate) => rotated.unwrap(),
        }
    }

    #[tokio::test]
    async fn a_file_that_could_not_be_read_is_tried_again_though_nothing_of_it_changed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys");
        let fine = line("");
        std::fs::write(&path, "").unwrap();
        let keys = Keys::new(&[], &[], Some(path.clone())).unwrap();
        // As long as the good one, in the same file, and of the same time in the end.
        std::fs::write(&path, "x".repeat(fine.len())).unwrap();
        let written = std::fs::metadata(&path).unwrap().modified().unwrap();
        let mend = async {
            tokio::time::sleep(Duration::from_millis(100)).await;
            std::fs::write(&path, &fine).unwrap();
            let file = std::fs::File::options().write(true).open(&path).unwrap();
            file.set_modified(written).unwrap();
            known(&keys, &KEY.into(), true).await;
        };
        tokio::select! {
            () = keys.follow(Duration::from_millis(5)) => {}
            mended = tokio::time::timeout(Duration::from_secs(20), mend) => mended.unwrap(),
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_the_reader_panic(text in "(\\PC|\n){0,200}") {
            drop(parse(&text));
        }
    }
}
