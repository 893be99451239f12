use std::time::Duration;

use jiff::fmt::serde::unsigned_duration::friendly::compact;
use serde::{Deserialize, Serialize};

use super::*;
use crate::Secret;

#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Example {
    log: Log,
    store: Option<Store>,
    secret: Option<Secret>,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Log {
    brokers: String,
    partitions: i32,
    #[serde(with = "compact::required")]
    timeout: Duration,
    properties: BTreeMap<String, String>,
    kind: Kind,
}

#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Kind {
    #[default]
    Near,
    Far,
}

#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Store {
    nodes: Vec<String>,
    rows: u16,
}

impl Default for Log {
    fn default() -> Self {
        Self {
            brokers: "localhost:9092".into(),
            partitions: 12,
            timeout: Duration::from_secs(5),
            properties: BTreeMap::new(),
            kind: Kind::Near,
        }
    }
}

fn faults(example: &Example) -> Vec<String> {
    let wrong = example.log.partitions < 1;
    wrong
        .then(|| "log.partitions must be at least 1".to_owned())
        .into_iter()
        .collect()
}

fn variables(pairs: &[(&str, &str)]) -> Vec<(OsString, OsString)> {
    pairs
        .iter()
        .map(|(name, value)| (name.into(), value.into()))
        .collect()
}

#[test]
fn later_layers_win_and_the_rest_keeps_its_default() {
    let read: Example = Layers::new()
        .text(
            "a.toml",
            "log = { brokers = 'a:1', partitions = 3, timeout = '500ms' }\nstore.rows = 7",
        )
        .environment(
            variables(&[
                ("SUMU__LOG__PARTITIONS", "4"),
                ("SUMU__LOG__PROPERTIES__SASL_PASSWORD", "0123"),
                ("SUMU__STORE__NODES", r#"["a:1", "b:2"]"#),
                ("SUMU__SECRET", "00777"),
                ("HOME", "/root"),
            ]),
            &["log.properties"],
        )
        .flag("--brokers", "log.brokers", "b:2")
        .load(faults)
        .unwrap();
    assert_eq!(read.log.brokers, "b:2");
    assert_eq!(read.log.partitions, 4);
    assert_eq!(read.log.timeout, Duration::from_millis(500));
    assert_eq!(read.log.properties["sasl.password"], "0123");
    assert_eq!(
        read.store,
        Some(Store {
            nodes: vec!["a:1".into(), "b:2".into()],
            rows: 7
        })
    );
    assert!(read.secret.unwrap().matches(b"00777"));
}

#[test]
fn every_fault_is_told_at_once() {
    let faults = Layers::new()
        .text(
            "sumu.toml",
            r#"
            colour = "red"
            secret = 12345
            [log]
            partitons = 3
            partitions = 0
            brokers = 9092
            timeout = "soon"
            kind = "middle"
            [store]
            nodes = ["a", 2]
            rows = 70000
            "#,
        )
        .environment(variables(&[("SUMU__STORE__RAWS", "1")]), &[])
        .load::<Example>(faults)
        .unwrap_err();
    assert_eq!(faults.to_string(), include_str!("faults.golden").trim_end());
}

#[test]
fn a_file_that_cannot_be_read_is_a_fault_among_others() {
    let faults = Layers::new()
        .file(Path::new("/nowhere/sumu.toml"))
        .text("b.toml", "x = 1\n\n[log\npassword = 'hunter2'")
        .flag("--partitions", "log.partitions", 0)
        .load::<Example>(faults)
        .unwrap_err();
    let told = faults.to_string();
    assert_eq!(faults.0.len(), 3, "{told}");
    assert!(told.contains("cannot read /nowhere/sumu.toml"), "{told}");
    assert!(told.contains("line 3"), "{told}");
    assert!(told.contains("log.partitions must be at least 1"), "{told}");
}

#[test]
fn what_is_not_set_is_told_with_the_variable_that_sets_it() {
    let missing = |_: &Example| vec!["log.sasl_user is not set: brokers ask for it".to_owned()];
    let faults = Layers::new().load::<Example>(missing).unwrap_err();
    let told = "log.sasl_user is not set: brokers ask for it (as a variable: SUMU__LOG__SASL_USER)";
    assert_eq!(faults.0[0].to_string(), told);
    let set = variables(&[("SUMU__LOG__SASL_USER", "")]);
    let faults = Layers::new()
        .environment(set, &[])
        .load::<Example>(missing)
        .unwrap_err();
    assert!(
        faults.to_string().contains("(in SUMU__LOG__SASL_USER)"),
        "{faults}"
    );
}

#[test]
fn settings_are_printed_as_toml_that_reads_back() {
    let mut settings = Example {
        secret: Some(Secret::from("hunter2")),
        ..Example::default()
    };
    settings
        .log
        .properties
        .insert("sasl.password".into(), "a \"quoted\" one".into());
    let printed = to_toml(&settings);
    assert!(printed.contains("secret = \"<redacted>\""), "{printed}");
    assert!(printed.contains("# store is not set"), "{printed}");
    let read: Example = Layers::new()
        .text("printed", &printed)
        .load(faults)
        .unwrap();
    assert_eq!(read.log, settings.log);
    assert_eq!(
        keys(&settings),
        [
            "log.brokers",
            "log.kind",
            "log.partitions",
            "log.properties.sasl.password",
            "log.timeout",
            "secret",
            "store"
        ]
    );
}
