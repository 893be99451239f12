//! Says in a table what members a JSON Schema describes.

use std::fs;

use serde_json::{Map, Value, json};

use crate::{cell, folder, sorted, table};

/// A schema, and the document or file that its references are relative to.
#[derive(Clone)]
pub(crate) struct Shape {
    schema: Value,
    root: Value,
}

impl Shape {
    pub(crate) fn new(schema: &Value, root: &Value) -> Self {
        Self {
            schema: schema.clone(),
            root: root.clone(),
        }
    }

    /// What the schema is, its references followed, all that `allOf` says put together.
    fn resolved(&self) -> Self {
        let mut whole = self.clone();
        if let Some(reference) = self.schema["$ref"].as_str() {
            let target = self.target(reference).resolved();
            let own = self.schema.as_object().cloned().unwrap_or_default();
            whole = target.with(own);
        }
        for part in self.schema["allOf"].as_array().into_iter().flatten() {
            let part = Self::new(part, &whole.root).resolved();
            let part = part.variant(&self.schema["properties"]);
            let own = whole.schema.as_object().cloned().unwrap_or_default();
            whole = part.with(own);
        }
        whole
    }

    fn target(&self, reference: &str) -> Self {
        if let Some(pointer) = reference.strip_prefix('#') {
            let schema = self.root.pointer(pointer).expect(reference);
            return Self::new(schema, &self.root);
        }
        let file = fs::read(folder().join(reference)).expect(reference);
        let file: Value = serde_json::from_slice(&file).expect(reference);
        Self::new(&file, &file)
    }

    /// Of alternatives, the one whose constants are these; its references stay relative to its file.
    fn variant(self, constants: &Value) -> Self {
        let fits = |variant: &&Value| {
            sorted(constants).into_iter().all(|(name, member)| {
                let fixed = &variant["properties"][name]["const"];
                fixed.is_null() || *fixed == member["const"]
            })
        };
        let found = self.schema["oneOf"]
            .as_array()
            .into_iter()
            .flatten()
            .find(fits);
        found.map_or(self.clone(), |variant| Self::new(variant, &self.root))
    }

    /// The same with more members and requirements.
    fn with(mut self, more: Map<String, Value>) -> Self {
        for (name, value) in more {
            let known = &mut self.schema[name.as_str()];
            match (name.as_str(), known) {
                ("$ref" | "allOf", _) => {}
                ("properties", Value::Object(known)) => merge(known, &value),
                ("required", Value::Array(known)) => {
                    known.extend(value.as_array().into_iter().flatten().cloned());
                }
                (_, known) => *known = value,
            }
        }
        self
    }

    /// The members, those that must be there first; members of members as `outer.inner`.
    pub(crate) fn members(&self) -> String {
        table(&["member", "type", ""], &self.rows(""))
    }

    fn rows(&self, prefix: &str) -> Vec<Vec<String>> {
        let whole = self.resolved();
        let required: Vec<_> = (whole.schema["required"].as_array().into_iter().flatten())
            .filter_map(Value::as_str)
            .collect();
        let mut members = sorted(&whole.schema["properties"]);
        let place = |name: &str| required.iter().position(|known| *known == name);
        members.sort_by_key(|(name, _)| (place(name).unwrap_or(usize::MAX), *name));
        let mut rows = Vec::new();
        for (name, member) in members {
            let member = Self::new(member, &whole.root);
            let optional = if place(name).is_some() {
                ""
            } else {
                ", optional"
            };
            let about = cell(&member.resolved().schema["description"]);
            rows.push(vec![
                format!("`{prefix}{name}`"),
                format!("{}{optional}", member.kind()),
                about,
            ]);
            rows.extend(member.rows(&format!("{prefix}{name}.")));
            let items = &member.resolved().schema["items"];
            if items.is_object() {
                rows.extend(member.inner(items).rows(&format!("{prefix}{name}[].")));
            }
        }
        rows
    }

    fn inner(&self, schema: &Value) -> Self {
        Self::new(schema, &self.resolved().root)
    }

    /// The type in a few words.
    pub(crate) fn kind(&self) -> String {
        let whole = self.resolved();
        let schema = &whole.schema;
        if !schema["const"].is_null() {
            return literal(&schema["const"]);
        }
        if let Some(values) = schema["enum"].as_array() {
            return values.iter().map(literal).collect::<Vec<_>>().join(", ");
        }
        for alternatives in ["oneOf", "anyOf"] {
            if let Some(variants) = schema[alternatives].as_array() {
                let kinds = variants.iter().map(|variant| whole.inner(variant).kind());
                return kinds.collect::<Vec<_>>().join(" or ");
            }
        }
        let named = |kind: &Value| match kind.as_str() {
            Some("array") => format!("array of {}", whole.inner(&schema["items"]).kind()),
            Some("string") if schema["format"].is_string() => {
                format!("string ({})", cell(&schema["format"]))
            }
            Some(kind) => kind.to_owned(),
            None => "any JSON".into(),
        };
        match &schema["type"] {
            Value::Array(kinds) => kinds.iter().map(named).collect::<Vec<_>>().join(" or "),
            kind => named(kind),
        }
    }
}

/// Adds members, and what is said of those that are known.
fn merge(known: &mut Map<String, Value>, more: &Value) {
    for (name, member) in sorted(more) {
        let known = known.entry(name).or_insert_with(|| json!({}));
        for (key, value) in sorted(member) {
            known[key] = value.clone();
        }
    }
}

fn literal(value: &Value) -> String {
    value
        .as_str()
        .map_or_else(|| format!("`{value}`"), |text| format!("`{text}`"))
}
