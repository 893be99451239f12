//! Holds the keys that are given in the configuration, some of them in files that may change.

use std::fs;

use jsonwebtoken::Algorithm;
use runtime::secret::Secret;

use super::config::PublicKey;
use super::key::Key;

/// The keys that are given.
#[derive(Debug)]
pub(super) struct Local {
    secrets: Vec<Key>,
    public: Vec<PublicKey>,
    read: Read,
}

/// What was read of public keys.
#[derive(Debug, Default)]
pub(super) struct Read {
    texts: Vec<String>,
    keys: Vec<Key>,
}

impl Local {
    /// Reads them. `kind` is what secrets sign with, and the fewest bytes that they have.
    ///
    /// # Errors
    /// All that is wrong, each with the name it was given under.
    pub(super) fn new(
        secrets: &[(&str, &Option<Secret>)],
        kind: (Algorithm, usize),
        public: &[PublicKey],
    ) -> Result<Self, Vec<String>> {
        let (algorithm, least) = kind;
        let (mut keys, mut faults) = (vec![], vec![]);
        for (name, secret) in secrets {
            match secret.as_ref().map(|secret| secret.expose().as_bytes()) {
                Some([]) => faults.push(format!("{name}: must not be empty")),
                Some(short) if short.len() < least => {
                    faults.push(format!(
                        "{name}: must have {least} bytes at least for {algorithm:?}"
                    ));
                }
                Some(secret) => keys.push(Key::secret(secret, algorithm)),
                None => {}
            }
        }
        let read = read(public).unwrap_or_else(|of_public| {
            faults.extend(of_public);
            Read::default()
        });
        if !faults.is_empty() {
            return Err(faults);
        }
        Ok(Self {
            secrets: keys,
            public: public.to_vec(),
            read,
        })
    }

    /// Every key, as last read.
    pub(super) fn keys(&self) -> impl Iterator<Item = &Key> {
        self.secrets.iter().chain(&self.read.keys)
    }

    /// Whether there are files, which may change.
    pub(super) fn has_files(&self) -> bool {
        self.public.iter().any(|key| !is_text(key.parts().1))
    }

    /// Where the public keys are.
    pub(super) fn public(&self) -> Vec<PublicKey> {
        self.public.clone()
    }

    /// Takes what was read anew. Whether it is something else than before.
    pub(super) fn replace(&mut self, read: Read) -> bool {
        let changed = read.texts != self.read.texts;
        self.read = read;
        changed
    }
}

/// Reads public keys, some of them in files. Blocks.
///
/// # Errors
/// All that is wrong.
pub(super) fn read(public: &[PublicKey]) -> Result<Read, Vec<String>> {
    let (mut read, mut faults) = (Read::default(), vec![]);
    for (index, key) in public.iter().enumerate() {
        let (kid, source) = key.parts();
        let text = text(source);
        let keys = text
            .as_ref()
            .map_err(Clone::clone)
            .and_then(|text| Key::all_of_pem(text, kid));
        match keys {
            Ok(keys) => read.keys.extend(keys),
            Err(fault) => faults.push(format!("public_keys[{index}]: {fault}")),
        }
        read.texts.extend(text);
    }
    if faults.is_empty() {
        Ok(read)
    } else {
        Err(faults)
    }
}

fn is_text(source: &str) -> bool {
    source.trim_start().starts_with("-----BEGIN")
}

/// A PEM text, which is given itself or by the path of its file.
fn text(source: &str) -> Result<String, String> {
    if is_text(source) {
        return Ok(source.to_owned());
    }
    fs::read_to_string(source).map_err(|error| format!("reading {source}: {error}"))
}
