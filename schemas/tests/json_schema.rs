//! Compares the JSON Schema files with the types, and every golden file with its schema.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use schemars::generate::{Contract, SchemaSettings};
use schemas::connections::{Closed, EdgeExpired, Tick};
use schemas::edges::{Expired, Heartbeat, Started};
use schemas::frames::{ClientFrame, ServerFrame};
use schemas::notifications::NotificationRequest;
use schemas::{
    ConnectionEvent, ConnectionRow, Deliveries, EdgeRecord, Notification, PresenceEvent, Revocation,
};
use serde_json::Value;

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn schema<T: JsonSchema>(name: &'static str, contract: Contract) -> (&'static str, Value) {
    let settings = SchemaSettings::draft2020_12().with(|s| s.contract = contract);
    let mut schema = settings.into_generator().into_root_schema_for::<T>();
    schema.insert("$id".into(), format!("urn:sumu:schema:{name}").into());
    schema.insert("title".into(), name.into());
    (name, schema.to_value())
}

/// Every schema by its name: the record's `ce_type`, or the kind of frame.
fn schemas() -> BTreeMap<&'static str, Value> {
    let read = || Contract::Deserialize;
    BTreeMap::from([
        schema::<ConnectionRow>(ConnectionEvent::OPENED, read()),
        schema::<ConnectionRow>(ConnectionEvent::REFRESHED, read()),
        schema::<Closed>(ConnectionEvent::CLOSED, read()),
        schema::<EdgeExpired>(ConnectionEvent::EDGE_EXPIRED, read()),
        schema::<Tick>(ConnectionEvent::TICK, read()),
        schema::<Started>(EdgeRecord::STARTED, read()),
        schema::<Heartbeat>(EdgeRecord::HEARTBEAT, read()),
        schema::<Expired>(EdgeRecord::EXPIRED, read()),
        schema::<PresenceEvent>(PresenceEvent::TYPE, read()),
        schema::<NotificationRequest<'_>>(Notification::TYPE, read()),
        schema::<Deliveries>(Deliveries::TYPE, read()),
        schema::<Revocation>(Revocation::TYPE, read()),
        schema::<ClientFrame<'_>>("client-frame", read()),
        schema::<ServerFrame<'_>>("server-frame", Contract::Serialize),
    ])
}

/// The golden JSON files, each with the name of its schema: `NAME.json` or `NAME.CASE.json`.
fn golden() -> Vec<(String, &'static str, Value)> {
    let names: Vec<&'static str> = schemas().into_keys().collect();
    let mut files: Vec<_> = fs::read_dir(folder("golden"))
        .expect("golden/")
        .map(|entry| entry.expect("entry").path())
        .filter(|path| path.extension().is_some_and(|e| e == "json"))
        .collect();
    files.sort();
    files
        .into_iter()
        .map(|path| {
            let file = path
                .file_name()
                .expect("name")
                .to_string_lossy()
                .into_owned();
            let schema = names
                .iter()
                .find(|name| file.starts_with(&format!("{name}.")))
                .expect("a golden file is named after a schema");
            let value = serde_json::from_slice(&fs::read(&path).expect("read")).expect("JSON");
            (file, *schema, value)
        })
        .collect()
}

#[test]
#[expect(
    clippy::disallowed_methods,
    reason = "a switch for people: rewrite the files"
)]
fn the_files_are_generated_from_the_types() {
    let rewrite = std::env::var("UPDATE_SCHEMAS").is_ok_and(|v| v == "1");
    for (name, schema) in schemas() {
        let path = folder("json").join(format!("{name}.json"));
        let text = serde_json::to_string_pretty(&schema).expect("JSON") + "\n";
        if rewrite {
            fs::write(&path, &text).expect("write");
        }
        // As values: the order of members depends on how serde_json was built.
        let found: Value =
            serde_json::from_slice(&fs::read(&path).unwrap_or_default()).unwrap_or_default();
        assert!(
            found == schema,
            "{} is not what the types say: run UPDATE_SCHEMAS=1 cargo test -p schemas",
            path.display()
        );
    }
    let files = fs::read_dir(folder("json")).expect("json/").count();
    assert_eq!(
        files,
        schemas().len(),
        "schemas/json/ holds a file of no type"
    );
}

#[test]
fn every_golden_file_fits_its_schema() {
    let schemas = schemas();
    let golden = golden();
    for name in schemas.keys() {
        assert!(
            golden.iter().any(|(_, n, _)| n == name),
            "{name} has no golden file"
        );
    }
    for (file, name, value) in golden {
        let validator = jsonschema::validator_for(&schemas[name]).expect("a schema");
        if let Err(error) = validator.validate(&value) {
            panic!("{file}: {error}");
        }
    }
}

#[test]
fn a_member_may_be_added_and_none_may_be_of_another_type() {
    let schemas = schemas();
    for (file, name, value) in golden() {
        let validator = jsonschema::validator_for(&schemas[name]).expect("a schema");
        let members = value.as_object().expect("an object").clone();
        let with = |member: &str, odd: Value| {
            let mut changed = members.clone();
            changed.insert(member.into(), odd);
            Value::Object(changed)
        };
        assert!(validator.is_valid(&with("added_later", 1.into())), "{file}");
        for member in members.keys() {
            let any = match name {
                "client-frame" | "server-frame" => {
                    matches!(member.as_str(), "message" | "id" | "token")
                }
                _ => member == "data",
            };
            let odd = Value::Array(vec![Value::Bool(true)]);
            let text_message = name == "server-frame" && member == "message";
            if !any || text_message {
                assert!(!validator.is_valid(&with(member, odd)), "{file}: {member}");
            }
        }
    }
}
