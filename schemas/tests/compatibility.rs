//! Proves the rule for records: unknown members are ignored, members are only added. A reader of today
//! takes what later versions write, and the golden files, which earlier ones wrote.

use std::fs;
use std::path::Path;

use bytes::Bytes;
use schemas::frames::ClientFrame;
use schemas::{ConnectionEvent, Deliveries, EdgeRecord, Notification, PresenceEvent, Revocation};
use serde_json::{Map, Value};

/// What a reader makes of a value of that type, so that two readings can be compared.
fn decoded(name: &str, value: &Value) -> Result<String, String> {
    let bytes = Bytes::from(value.to_string());
    let said = |error: schemas::DecodeError| error.to_string();
    match name.split('.').nth(1) {
        Some("connections") => ConnectionEvent::decode(Some(name), &bytes)
            .map(|event| format!("{event:?}"))
            .map_err(said),
        Some("edges") => EdgeRecord::decode(Some(name), &bytes)
            .map(|record| format!("{record:?}"))
            .map_err(said),
        Some("presence") => PresenceEvent::decode(&bytes)
            .map(|event| format!("{event:?}"))
            .map_err(said),
        Some("notifications") => Notification::decode(&bytes)
            .map(|request| format!("{request:?}"))
            .map_err(said),
        Some("deliveries") => Deliveries::decode(&bytes)
            .map(|deliveries| format!("{deliveries:?}"))
            .map_err(said),
        Some("revocations") => Revocation::decode(&bytes)
            .map(|revocation| format!("{revocation:?}"))
            .map_err(said),
        _ => ClientFrame::decode(&value.to_string())
            .map(|frame| format!("{frame:?}"))
            .map_err(said),
    }
}

/// Every golden value that sumu reads, with the name of its schema.
fn golden() -> Vec<(String, Value)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    for file in fs::read_dir(root.join("golden")).expect("golden/") {
        let path = file.expect("a file").path();
        let stem = path.file_stem().expect("a name").to_string_lossy();
        let name = match stem.split_once(".v1") {
            Some((name, _)) => format!("{name}.v1"),
            None => stem.split('.').next().unwrap_or_default().to_owned(),
        };
        let is_json = path.extension().is_some_and(|found| found == "json");
        if is_json && name != "server-frame" {
            let text = fs::read_to_string(&path).expect("text");
            found.push((name, serde_json::from_str(&text).expect("JSON")));
        }
    }
    assert!(found.len() > 15, "{} golden files", found.len());
    found
}

/// The members of a record itself, and of objects that sumu defines inside it.
fn objects(name: &str) -> &'static [&'static str] {
    if name.starts_with("sumu.presence.") {
        &["", "/message"]
    } else if name.starts_with("sumu.deliveries.") {
        &["", "/edges/0", "/receipts/0", "/receipts/0/edges/0"]
    } else {
        &[""]
    }
}

/// The value with the object at `pointer` changed.
fn with(value: &Value, pointer: &str, change: impl FnOnce(&mut Map<String, Value>)) -> Value {
    let mut value = value.clone();
    let object = value.pointer_mut(pointer).and_then(Value::as_object_mut);
    change(object.expect("an object"));
    value
}

#[test]
fn an_older_reader_reads_newer_records() {
    for (name, value) in golden() {
        let before = decoded(&name, &value);
        assert!(before.is_ok(), "{name}: {before:?}");
        for pointer in objects(&name) {
            for added in [
                Value::Null,
                "text".into(),
                serde_json::json!({"a": [1, {"b": 2}]}),
            ] {
                let newer = with(&value, pointer, |object| {
                    object.insert("added_later".into(), added);
                });
                assert_eq!(decoded(&name, &newer), before, "{newer}");
            }
        }
    }
}

/// A change that breaks readers gets a new type, which they tell from those they know by its name alone.
#[test]
fn an_older_reader_takes_a_newer_type_for_none_of_its_own() {
    let mut judged = 0;
    for (name, value) in golden() {
        if name.starts_with("sumu.connections.") || name.starts_with("sumu.edges.") {
            let newer = name.replace(".v1", ".v2");
            assert_ne!(newer, name);
            assert!(decoded(&newer, &value).is_err(), "{newer}");
            judged += 1;
        }
    }
    assert!(judged > 10, "{judged}");
}

/// The schema says which members may be missing. A member that is added later and not optional
/// fails in `golden.rs` and here: the golden files lack it.
#[test]
fn a_newer_reader_reads_older_records() {
    let (mut optional, mut required) = (0, 0);
    for (name, value) in golden() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("json/{name}.json"));
        let schema: Value =
            serde_json::from_slice(&fs::read(path).expect(&name)).expect("a schema");
        let schema = jsonschema::validator_for(&schema).expect("a schema");
        for pointer in objects(&name) {
            let members = value.pointer(pointer).and_then(Value::as_object);
            for member in members.expect("an object").keys() {
                let older = with(&value, pointer, |object| {
                    object.remove(member);
                });
                let may = schema.is_valid(&older);
                assert_eq!(decoded(&name, &older).is_ok(), may, "{name}: {older}");
                *(if may { &mut optional } else { &mut required }) += 1;
            }
        }
    }
    assert!(optional > 10 && required > 40, "{optional}, {required}");
}
