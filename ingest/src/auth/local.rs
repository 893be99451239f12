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
    /// The PEM texts last read, and the keys in them.
    read: (Vec<String>, Vec<Key>),
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
        let mut local = Self {
            secrets: keys,
            public: public.to_vec(),
            read: (vec![], vec![]),
        };
        if let Err(of_public) = local.reload() {
            faults.extend(of_public);
        }
        if faults.is_empty() {
            Ok(local)
        } else {
            Err(faults)
        }
    }

    /// Every key, as last read.
    pub(super) fn keys(&self) -> impl Iterator<Item = &Key> {
        self.secrets.iter().chain(&self.read.1)
    }

    /// Whether there are files, which may change.
    pub(super) fn has_files(&self) -> bool {
        self.public.iter().any(|key| !is_text(key.parts().1))
    }

    /// Reads the files again. Blocks.
    ///
    /// # Errors
    /// All that is wrong; the keys stay as they were.
    pub(super) fn reload(&mut self) -> Result<Changed, Vec<String>> {
        let (mut texts, mut keys, mut faults) = (vec![], vec![], vec![]);
        for (index, key) in self.public.iter().enumerate() {
            let (kid, source) = key.parts();
            let read = text(source).and_then(|text| {
                let of_it = Key::all_of_pem(&text, kid)?;
                Ok((text, of_it))
            });
            match read {
                Ok((text, of_it)) => {
                    texts.push(text);
                    keys.extend(of_it);
                }
                Err(fault) => faults.push(format!("public_keys[{index}]: {fault}")),
            }
        }
        if !faults.is_empty() {
            return Err(faults);
        }
        let changed = Changed(texts != self.read.0);
        self.read = (texts, keys);
        Ok(changed)
    }
}

/// Whether the files held something else than before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Changed(pub(super) bool);

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
