//! Writes settings down as TOML, with those that are not set as comments.

use figment::value::{Dict, Value};
use serde::Serialize;

/// The settings as TOML, by name. Secrets are written as their types write themselves: hidden.
#[must_use]
pub fn to_toml(settings: &impl Serialize) -> String {
    let mut text = String::new();
    section(&mut text, "", &tree(settings));
    text.trim_start().to_owned()
}

/// Every setting's full, dotted key; that of a section that is not set is its own.
#[must_use]
pub fn keys(settings: &impl Serialize) -> Vec<String> {
    fn collect(keys: &mut Vec<String>, prefix: &str, dict: &Dict) {
        for (name, value) in dict {
            let key = join(prefix, name);
            match value {
                Value::Dict(_, inner) if !inner.is_empty() => collect(keys, &key, inner),
                _ => keys.push(key),
            }
        }
    }
    let mut keys = Vec::new();
    collect(&mut keys, "", &tree(settings));
    keys
}

fn tree(settings: &impl Serialize) -> Dict {
    // Settings are plain data: nothing in them cannot be a value.
    Value::serialize(settings)
        .ok()
        .and_then(Value::into_dict)
        .unwrap_or_default()
}

fn section(text: &mut String, key: &str, dict: &Dict) {
    let (sections, values): (Vec<_>, Vec<_>) = dict
        .iter()
        .partition(|(_, value)| matches!(value, Value::Dict(..)));
    if !key.is_empty() && (!values.is_empty() || sections.is_empty()) {
        *text += &format!("\n[{key}]\n");
    }
    for (name, value) in values {
        let name = toml_key(name);
        *text += &match toml::Value::try_from(value) {
            Ok(value) => format!("{name} = {value}\n"),
            Err(_unset) => format!("# {name} is not set\n"),
        };
    }
    for (name, value) in sections {
        if let Value::Dict(_, inner) = value {
            section(text, &join(key, &toml_key(name)), inner);
        }
    }
}

fn join(prefix: &str, name: &str) -> String {
    if prefix.is_empty() {
        name.to_owned()
    } else {
        format!("{prefix}.{name}")
    }
}

fn toml_key(name: &str) -> String {
    let bare = name
        .chars()
        .all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-'));
    if bare && !name.is_empty() {
        name.to_owned()
    } else {
        toml::Value::from(name).to_string()
    }
}
