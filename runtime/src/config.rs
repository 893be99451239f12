//! Reads settings from layers, each over those before, and tells every fault at once.
//!
//! ```text
//!   T::default() < texts, files < SUMU__SECTION__NAME=… < flags ──▶ one tree of values
//!        ▲                                                             │ read, note the fault,
//!        └──────────── what a faulty key is read as, to go on ◀────────┘ read again
//! ```

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::path::Path;

use figment::error::{Actual, Error, Kind};
use figment::providers::{Format as _, Toml};
use figment::value::{Dict, Map, Value};
use figment::{Figment, Metadata, Profile, Provider};
use serde::de::DeserializeOwned;

mod print;

pub use print::{keys, to_toml};

/// Begins the name of every environment variable that is a setting.
pub const ENV_PREFIX: &str = "SUMU__";

/// One thing that is wrong with the settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Where it was found, or where it can be mended.
    pub place: Option<Place>,
    /// What is wrong, beginning with the key.
    pub problem: String,
}

/// Where a faulty value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// This file, variable or flag.
    In(String),
    /// Nobody gave a value: this variable would.
    Unset(String),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.problem)?;
        match &self.place {
            Some(Place::In(source)) => write!(f, " (in {source})"),
            Some(Place::Unset(variable)) => write!(f, " (as a variable: {variable})"),
            None => Ok(()),
        }
    }
}

/// Everything that is wrong with the settings, one line each.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Faults(pub Vec<Fault>);

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.0.len();
        write!(
            f,
            "{count} {} in the configuration:",
            if count == 1 { "fault" } else { "faults" }
        )?;
        self.0.iter().try_for_each(|fault| write!(f, "\n  {fault}"))
    }
}

/// Where settings come from; later layers win.
#[derive(Clone, Debug, Default)]
pub struct Layers {
    figment: Figment,
    /// Variables that look like something other than text, in case text is wanted.
    texts: BTreeMap<Vec<String>, String>,
    faults: Vec<Fault>,
    /// The keys that could not be read: their defaults stand in for them, and are not judged.
    unread: Vec<String>,
}

impl Layers {
    /// Nothing but the defaults.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds TOML text. `name` says in faults where it comes from.
    #[must_use]
    pub fn text(mut self, name: &str, toml: &str) -> Self {
        match Toml::from_str(toml) {
            Ok(dict) => return self.layer(name, dict),
            // Not the error's own text: it quotes the line, which may hold a secret.
            Err(error) => self.faults.push(Fault {
                place: Some(Place::In(name.into())),
                problem: format!("line {}: {}", line(toml, error.span()), error.message()),
            }),
        }
        self
    }

    /// Adds a TOML file.
    #[must_use]
    pub fn file(mut self, path: &Path) -> Self {
        let name = path.display().to_string();
        match std::fs::read_to_string(path) {
            Ok(toml) => return self.text(&name, &toml),
            Err(error) => self.faults.push(Fault {
                place: None,
                problem: format!("cannot read {name}: {error}"),
            }),
        }
        self
    }

    /// Adds those of the variables that begin with [`ENV_PREFIX`]. `__` stands between the keys; a
    /// value is written as in TOML, and needs no quotes as a text. A section named in `dotted` has
    /// names with dots, written with `_`.
    #[must_use]
    pub fn environment(
        mut self,
        variables: impl IntoIterator<Item = (OsString, OsString)>,
        dotted: &[&str],
    ) -> Self {
        let mut variables: Vec<(String, String)> = variables
            .into_iter()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .filter(|(name, _)| name.starts_with(ENV_PREFIX))
            .collect();
        variables.sort();
        for (name, text) in variables {
            let key = name
                .trim_start_matches(ENV_PREFIX)
                .to_lowercase()
                .replace("__", "\0");
            let mut keys: Vec<String> = key.split('\0').map(Into::into).collect();
            for section in dotted {
                let depth = section.split('.').count();
                if keys.len() > depth && keys[..depth].join(".") == *section {
                    let rest = keys.split_off(depth).join(".");
                    keys.push(rest.replace('_', "."));
                }
            }
            let Ok(value) = text.parse::<Value>();
            if !matches!(value, Value::String(..)) {
                self.texts.insert(keys.clone(), text);
            }
            self = self.layer(&name, nested(&keys, value));
        }
        self
    }

    /// Adds one value, given by a flag such as `--brokers`. `key` is dotted.
    #[must_use]
    pub fn flag(self, flag: &str, key: &str, value: impl Into<Value>) -> Self {
        let keys: Vec<String> = key.split('.').map(Into::into).collect();
        self.layer(flag, nested(&keys, value.into()))
    }

    /// Reads the settings. Every key must have a default, and unknown ones must be refused:
    /// `#[serde(default, deny_unknown_fields)]`.
    ///
    /// # Errors
    /// Everything that is wrong: unknown keys, wrong types, then what `faults` says of the values.
    pub fn load<T: DeserializeOwned>(
        mut self,
        faults: impl FnOnce(&T) -> Vec<String>,
    ) -> Result<T, Faults> {
        let settings = self.read::<T>();
        let mut told = settings.as_ref().map(faults).unwrap_or_default();
        told.retain(|problem| !self.unread.iter().any(|key| problem.starts_with(key)));
        let told: Vec<Fault> = told
            .into_iter()
            .map(|problem| Fault {
                place: self.place(&problem),
                problem,
            })
            .collect();
        let mut faults = self.faults;
        faults.extend(told);
        match settings {
            Some(settings) if faults.is_empty() => Ok(settings),
            _ => Err(Faults(faults)),
        }
    }

    /// Reads, and reads again without the key that was at fault, until it can be read. Each round
    /// takes a key or a text away, so it ends.
    fn read<T: DeserializeOwned>(&mut self) -> Option<T> {
        let mut tree = match self.figment.find_value("") {
            Ok(Value::Dict(_, dict)) => dict,
            Ok(_) | Err(_) => Dict::new(),
        };
        loop {
            let error = match Value::from(tree.clone()).deserialize::<T>() {
                Ok(settings) => return Some(settings),
                Err(error) => error,
            };
            if let Some(text) = self.texts.remove(&error.path)
                && put(&mut tree, &error.path, &text)
            {
                continue;
            }
            let found = get(&tree, &error.path);
            let source = found.and_then(|value| self.figment.get_metadata(value.tag()));
            self.faults.push(Fault {
                place: source.map(|metadata| Place::In(metadata.name.to_string())),
                problem: describe(&error),
            });
            self.unread.push(error.path.join("."));
            if !remove(&mut tree, &error.path) {
                return None;
            }
        }
    }

    /// Where the value comes from that a problem begins with the key of.
    fn place(&self, problem: &str) -> Option<Place> {
        let in_key = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "_.".contains(c);
        let end = problem.find(|c| !in_key(c)).unwrap_or(problem.len());
        let key = problem.get(..end)?.trim_end_matches('.');
        if key.is_empty() {
            return None;
        }
        let found = self.figment.find_metadata(key);
        Some(match found {
            Some(metadata) => Place::In(metadata.name.to_string()),
            None => Place::Unset(variable(key)),
        })
    }

    fn layer(mut self, name: &str, dict: Dict) -> Self {
        self.figment = self.figment.merge(Layer {
            name: name.to_owned(),
            dict,
        });
        self
    }
}

struct Layer {
    name: String,
    dict: Dict,
}

impl Provider for Layer {
    fn metadata(&self) -> Metadata {
        Metadata::named(self.name.clone())
    }

    fn data(&self) -> figment::Result<Map<Profile, Dict>> {
        Ok(Profile::Default.collect(self.dict.clone()))
    }
}

/// The name of the environment variable that sets a key.
fn variable(key: &str) -> String {
    format!("{ENV_PREFIX}{}", key.replace('.', "__").to_uppercase())
}

fn nested(keys: &[String], value: Value) -> Dict {
    let mut keys = keys.iter().rev();
    let last = keys.next().cloned().unwrap_or_default();
    keys.fold(Dict::from([(last, value)]), |inner, key| {
        Dict::from([(key.clone(), Value::from(inner))])
    })
}

fn get<'a>(tree: &'a Dict, path: &[String]) -> Option<&'a Value> {
    let (key, rest) = path.split_first()?;
    match tree.get(key)? {
        Value::Dict(_, inner) if !rest.is_empty() => get(inner, rest),
        value => Some(value),
    }
}

/// Puts a text where another value is.
fn put(tree: &mut Dict, path: &[String], text: &str) -> bool {
    let Some((key, rest)) = path.split_first() else {
        return false;
    };
    match tree.get_mut(key) {
        Some(Value::Dict(_, inner)) if !rest.is_empty() => put(inner, rest, text),
        Some(value) => {
            *value = Value::String(value.tag(), text.into());
            true
        }
        None => false,
    }
}

/// Takes away the value at that path, or the list or table that it is in.
fn remove(tree: &mut Dict, path: &[String]) -> bool {
    let Some((key, rest)) = path.split_first() else {
        return false;
    };
    if let Some(Value::Dict(_, inner)) = tree.get_mut(key)
        && remove(inner, rest)
    {
        return true;
    }
    tree.remove(key).is_some()
}

/// Says what is wrong without the value, which may be a secret.
fn describe(error: &Error) -> String {
    let key = error.path.join(".");
    match &error.kind {
        Kind::UnknownField(name, known) => {
            let near = nearest(name, known);
            let hint = near
                .map(|near| format!("; is `{near}` meant?"))
                .unwrap_or_default();
            format!("{key} is no setting{hint}")
        }
        Kind::InvalidType(found, wanted) => format!("{key} must be {wanted}, not {}", name(found)),
        Kind::InvalidValue(found, wanted) => format!("{key} must be {wanted}, not {found}"),
        Kind::UnknownVariant(_, known) => format!("{key} must be one of {}", known.join(", ")),
        kind => format!("{key}: {kind}"),
    }
}

fn name(found: &Actual) -> &'static str {
    match found {
        Actual::Bool(_) => "true or false",
        Actual::Unsigned(_) | Actual::Signed(_) | Actual::Float(_) => "a number",
        Actual::Str(_) | Actual::Char(_) => "a text",
        Actual::Seq => "a list",
        Actual::Map => "a section",
        _ => "this",
    }
}

fn nearest<'a>(name: &str, known: &[&'a str]) -> Option<&'a str> {
    let likeness = |other: &str| strsim::jaro_winkler(name, other);
    let near = known
        .iter()
        .max_by(|a, b| likeness(a).total_cmp(&likeness(b)))?;
    (likeness(near) > 0.8).then_some(near)
}

fn line(text: &str, span: Option<std::ops::Range<usize>>) -> usize {
    let end = span.map_or(0, |span| span.start);
    text.bytes().take(end).filter(|byte| *byte == b'\n').count() + 1
}

#[cfg(test)]
mod tests;
