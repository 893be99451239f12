//! Keeps the house in order: which room uses which library, what stays pure, what may be depended on.

#![expect(clippy::unwrap_used, reason = "a step that fails is a test that fails")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use toml::Table;

const ROOMS: [&str; 12] = [
    "schemas",
    "eventlog",
    "broker",
    "store",
    "runtime",
    "ingest",
    "presence",
    "pusher",
    "audit",
    "simulator",
    "sumu",
    "benches",
];

/// The other rooms that a room may use; `sumu` and `benches` may use all.
const ARROWS: [(&str, &[&str]); 9] = [
    ("schemas", &[]),
    ("broker", &[]),
    ("eventlog", &["schemas"]),
    ("store", &["schemas"]),
    ("runtime", &["schemas"]),
    ("ingest", &["schemas", "eventlog", "store", "runtime"]),
    ("presence", &["schemas", "eventlog", "store", "runtime"]),
    ("pusher", &["schemas", "eventlog", "store", "runtime"]),
    ("audit", &["schemas", "eventlog", "store", "presence"]),
];

/// The libraries that one room alone uses. Tests and benches may act as an ordinary Kafka client.
const DRIVERS: [(&str, &str); 3] = [
    ("rdkafka", "eventlog"),
    ("kafka-protocol", "broker"),
    ("scylla", "store"),
];

/// Where nothing waits and nothing does I/O: a file, or all files below a folder, by the start of its path.
const PURE: &[&str] = &[
    "schemas/src/",
    "eventlog/src/membership",
    "eventlog/src/lease",
    "ingest/src/auth/claims",
    "ingest/src/auth/keyring",
    "ingest/src/journal",
    "ingest/src/lease",
    "ingest/src/session",
    "presence/src/batch",
    "presence/src/commit",
    "presence/src/owned",
    "presence/src/processor",
    "presence/src/takeover",
    "pusher/src/batch",
    "pusher/src/planner",
    "pusher/src/dispatcher",
    "ingest/src/admission",
    "ingest/src/revocations",
    "audit/src/selection",
    "audit/src/render",
    "audit/src/history",
    "audit/src/rows",
    "audit/src/digest",
    "audit/src/addressed",
    "audit/src/archive",
    "audit/src/seal",
    "audit/src/timeline",
];

/// The most lines of a source file, its tests left out.
const MAX_LINES: usize = 500;

#[test]
fn rooms_use_only_the_rooms_below_them() {
    let used = ARROWS.iter().flat_map(|(room, allowed)| {
        let used = dependencies(room).into_iter();
        let rooms = used.filter(|name| ROOMS.contains(&name.as_str()));
        let wrong = rooms.filter(|name| !allowed.contains(&name.as_str()));
        wrong.map(move |name| format!("{room} must not use {name}"))
    });
    none(used);
}

#[test]
fn a_driver_is_used_in_one_room_only() {
    for (driver, home) in DRIVERS {
        assert!(
            dependencies(home).contains(driver),
            "{home} uses {driver} no more"
        );
        let others = ROOMS
            .into_iter()
            .filter(|room| ![home, "benches"].contains(room));
        let wrong = others.filter(|room| dependencies(room).contains(driver));
        none(wrong.map(|room| format!("{room} must not use {driver}")));
    }
    let store = sources("store/src/").filter(|(path, _)| !path.starts_with("store/src/scylla"));
    let wrong = store.filter(|(_, text)| text.contains("use scylla::"));
    none(wrong.map(|(path, _)| format!("{path} must not use the driver")));
}

#[test]
fn what_decides_neither_waits_nor_does_io() {
    let impure = [
        "async",
        "await",
        "tokio",
        "rdkafka",
        "Instant::now",
        "SystemTime::now",
    ];
    for place in PURE {
        let files: Vec<_> = code(place).collect();
        assert!(!files.is_empty(), "{place} is not there");
        none(files.iter().flat_map(|(path, text)| {
            let found = lines(text).filter(|line| impure.iter().any(|word| has_word(line, word)));
            found.map(move |line| format!("{path} is not pure: {line}"))
        }));
    }
}

#[test]
fn files_are_short() {
    let lengths = ROOMS.iter().flat_map(|room| code(&format!("{room}/src/")));
    let lengths = lengths.map(|(path, text)| (path, text.lines().count()));
    let long = lengths.filter(|(_, lines)| *lines > MAX_LINES);
    none(long.map(|(path, lines)| format!("{path} has {lines} lines, tests left out")));
}

#[test]
fn nothing_points_into_a_machine() {
    // Put together here, or this file would be found.
    let paths = [["/wo", "rk/"], ["/ro", "ot/"], ["../sha", "red"]].map(|parts| parts.concat());
    let texts = files(&root()).into_iter().filter_map(|path| {
        let text = fs::read_to_string(&path).ok()?;
        Some((path, text))
    });
    none(texts.flat_map(|(path, text)| {
        let found: Vec<_> = paths
            .iter()
            .filter(|wrong| text.contains(wrong.as_str()))
            .collect();
        found
            .into_iter()
            .map(|wrong| format!("{} names {wrong}", path.display()))
            .collect::<Vec<_>>()
    }));
}

#[test]
fn every_dependency_is_in_the_table() {
    let contributing = fs::read_to_string(root().join("CONTRIBUTING.md")).unwrap();
    let rows = contributing
        .lines()
        .filter_map(|line| line.strip_prefix("| "));
    let cells = rows.filter_map(|row| row.split(" |").next());
    let listed: BTreeSet<String> = cells.flat_map(names).collect();
    let manifest = table("Cargo.toml");
    let shared = manifest["workspace"]["dependencies"].as_table().unwrap();
    let own = ROOMS
        .iter()
        .flat_map(|room| dependencies_of_every_kind(room));
    let used: BTreeSet<String> = shared.keys().cloned().chain(own).collect();
    let foreign = used.iter().filter(|name| !ROOMS.contains(&name.as_str()));
    let wrong = foreign.filter(|name| !listed.contains(*name));
    none(wrong.map(|name| format!("{name} is not in the table of CONTRIBUTING.md")));
}

/// Fails with all that is wrong.
fn none(faults: impl Iterator<Item = String>) {
    let faults: Vec<String> = faults.collect();
    assert!(faults.is_empty(), "{faults:#?}");
}

/// The names in a cell: `a, -b, _c, d` stands for `a`, `a-b`, `a_c` and `d`.
fn names(cell: &str) -> Vec<String> {
    let words: Vec<_> = cell.split(", ").map(str::trim).collect();
    let short = |word: &str| word.starts_with(['-', '_']);
    words
        .iter()
        .map(|word| {
            if short(word) {
                format!("{}{word}", words[0])
            } else {
                (*word).into()
            }
        })
        .collect()
}

#[test]
fn dependencies_keep_to_deny_toml() {
    let deny = table("deny.toml");
    let texts = |list: &toml::Value| -> BTreeSet<String> {
        list.as_array()
            .unwrap()
            .iter()
            .map(|text| text.as_str().unwrap().into())
            .collect()
    };
    let licences = texts(&deny["licenses"]["allow"]);
    let sources = texts(&deny["sources"]["allow-registry"]);
    let bans: BTreeMap<&str, BTreeSet<String>> = deny["bans"]["deny"]
        .as_array()
        .unwrap()
        .iter()
        .map(|ban| {
            (
                ban["crate"].as_str().unwrap(),
                ban.get("wrappers").map(texts).unwrap_or_default(),
            )
        })
        .collect();

    let metadata = metadata();
    let packages: BTreeMap<&str, &Value> = metadata["packages"]
        .as_array()
        .unwrap()
        .iter()
        .map(|p| (p["id"].as_str().unwrap(), p))
        .collect();
    let used = metadata["resolve"]["nodes"].as_array().unwrap();
    for node in used {
        let package = packages[node["id"].as_str().unwrap()];
        let name = package["name"].as_str().unwrap();
        let licence = package["license"].as_str().unwrap_or("none");
        assert!(
            permits(licence, &licences),
            "{name} has the licence {licence}"
        );
        let source = package["source"]
            .as_str()
            .map(|source| source.trim_start_matches("registry+"));
        assert!(
            source.is_none_or(|source| sources.contains(source)),
            "{name} comes from {source:?}"
        );
        for dependency in node["dependencies"].as_array().unwrap() {
            let dependency = packages[dependency.as_str().unwrap()]["name"]
                .as_str()
                .unwrap();
            let wrappers = bans.get(dependency);
            assert!(
                wrappers.is_none_or(|wrappers| wrappers.contains(name)),
                "{name} uses {dependency}"
            );
        }
    }
    assert!(used.len() > 100, "cargo named {} packages", used.len());
}

/// Whether an SPDX expression can be met with these licences. `/` is the old way to write `OR`.
fn permits(expression: &str, licences: &BTreeSet<String>) -> bool {
    let spaced = expression
        .replace('/', " OR ")
        .replace('(', " ( ")
        .replace(')', " ) ");
    let mut words = spaced.split_whitespace().peekable();
    let met = any_of(&mut words, licences);
    met && words.next().is_none()
}

type Words<'a> = std::iter::Peekable<std::str::SplitWhitespace<'a>>;

fn any_of(words: &mut Words<'_>, licences: &BTreeSet<String>) -> bool {
    let mut met = all_of(words, licences);
    while words.next_if_eq(&"OR").is_some() {
        met |= all_of(words, licences);
    }
    met
}

fn all_of(words: &mut Words<'_>, licences: &BTreeSet<String>) -> bool {
    let mut met = one(words, licences);
    while words.next_if_eq(&"AND").is_some() {
        met &= one(words, licences);
    }
    met
}

fn one(words: &mut Words<'_>, licences: &BTreeSet<String>) -> bool {
    if words.next_if_eq(&"(").is_some() {
        let met = any_of(words, licences);
        return words.next() == Some(")") && met;
    }
    let licence = words.next().unwrap_or_default();
    // An exception only permits more.
    if words.next_if_eq(&"WITH").is_some() {
        words.next();
    }
    licences.contains(licence)
}

#[test]
fn licence_expressions_are_read_as_spdx_means_them() {
    let licences = BTreeSet::from(["MIT".into(), "ISC".into()]);
    for good in [
        "MIT",
        "GPL-3.0 OR MIT",
        "GPL-3.0/MIT",
        "(GPL-3.0 OR MIT) AND ISC",
        "MIT WITH x",
        "GPL-3.0 AND BSD OR MIT",
    ] {
        assert!(permits(good, &licences), "{good}");
    }
    for bad in [
        "none",
        "",
        "GPL-3.0",
        "MIT AND GPL-3.0",
        "(MIT OR ISC) AND GPL-3.0",
        "MIT )",
        "( MIT",
    ] {
        assert!(!permits(bad, &licences), "{bad}");
    }
}

fn metadata() -> Value {
    let mut cargo = Command::new(env!("CARGO"));
    cargo
        .args(["metadata", "--format-version", "1", "--locked"])
        .current_dir(root());
    let output = cargo.output().unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    serde_json::from_slice(&output.stdout).unwrap()
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap()
        .into()
}

fn table(path: &str) -> Table {
    fs::read_to_string(root().join(path))
        .unwrap()
        .parse()
        .unwrap()
}

/// What a room's code depends on; tests left out.
fn dependencies(room: &str) -> BTreeSet<String> {
    keys(&table(&format!("{room}/Cargo.toml")), "dependencies")
}

fn dependencies_of_every_kind(room: &str) -> BTreeSet<String> {
    let manifest = table(&format!("{room}/Cargo.toml"));
    let kinds = ["dependencies", "dev-dependencies", "build-dependencies"];
    kinds
        .iter()
        .flat_map(|kind| keys(&manifest, kind))
        .collect()
}

fn keys(manifest: &Table, kind: &str) -> BTreeSet<String> {
    manifest
        .get(kind)
        .and_then(toml::Value::as_table)
        .into_iter()
        .flat_map(Table::keys)
        .cloned()
        .collect()
}

/// The Rust files whose path starts so, with their text.
fn sources(start: &str) -> impl Iterator<Item = (String, String)> + use<> {
    let room = start.split('/').next().unwrap();
    let found = files(&root().join(room)).into_iter().filter_map(|path| {
        let name = path
            .strip_prefix(root())
            .unwrap()
            .to_str()
            .unwrap()
            .to_owned();
        name.ends_with(".rs")
            .then(|| (name, fs::read_to_string(path).unwrap()))
    });
    let start = start.to_owned();
    found.filter(move |(path, _)| path.starts_with(&start))
}

/// The same, the tests left out.
fn code(start: &str) -> impl Iterator<Item = (String, String)> + use<> {
    let tests = |path: &str| path.ends_with("tests.rs") || path.contains("/tests/");
    sources(start)
        .filter(move |(path, _)| !tests(path))
        .map(|(path, text)| {
            let end = text
                .find("\n#[cfg(test)]\nmod tests {")
                .unwrap_or(text.len());
            let code = text.get(..end).unwrap_or_default().to_owned();
            (path, code)
        })
}

/// All files below a folder that belong to the project.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name();
        let skipped = [
            "target",
            ".git",
            ".venv",
            "node_modules",
            "__pycache__",
            "sumu-data",
        ];
        if skipped.iter().any(|skipped| *skipped == name) {
            continue;
        }
        if entry.file_type().unwrap().is_dir() {
            found.extend(files(&entry.path()));
        } else {
            found.push(entry.path());
        }
    }
    found
}

/// The lines of a text that are no comments.
fn lines(text: &str) -> impl Iterator<Item = &str> {
    text.lines()
        .map(str::trim)
        .filter(|line| !line.starts_with("//"))
}

fn has_word(line: &str, word: &str) -> bool {
    let part = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(word).any(|(at, _)| {
        let (before, after) = (&line.as_bytes()[..at], &line.as_bytes()[at + word.len()..]);
        let bounds = |byte: Option<&u8>| byte.is_none_or(|byte| !part(char::from(*byte)));
        bounds(before.last()) && bounds(after.first())
    })
}
