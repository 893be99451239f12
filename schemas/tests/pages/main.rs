//! Renders `asyncapi.yaml` and `openapi.yaml` as the pages `docs/asyncapi.md` and `docs/openapi.md`, and fails if
//! what is there is not what they say.

mod asyncapi;
mod openapi;
mod shape;

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

#[test]
fn asyncapi_is_rendered() {
    check("asyncapi", asyncapi::page);
}

#[test]
fn openapi_is_rendered() {
    check("openapi", openapi::page);
}

#[expect(
    clippy::disallowed_methods,
    reason = "a switch for people: rewrite the files"
)]
fn check(name: &str, render: fn(&Value) -> String) {
    let document = fs::read_to_string(folder().join(format!("{name}.yaml"))).expect(name);
    let document: Value = serde_saphyr::from_str(&document).expect(name);
    let page = render(&document);
    let path = folder().join(format!("../docs/{name}.md"));
    if std::env::var("UPDATE_SCHEMAS").is_ok_and(|value| value == "1") {
        fs::write(&path, &page).expect("write");
    }
    let found = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        found == page,
        "docs/{name}.md is not what schemas/{name}.yaml says: run UPDATE_SCHEMAS=1 cargo test -p schemas"
    );
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).into()
}

/// The first lines of a page.
fn head(title: &str, name: &str, document: &Value, read_on: &str) -> String {
    let about = text(&document["info"]["description"]);
    format!(
        "<!-- Made from schemas/{name}.yaml by `UPDATE_SCHEMAS=1 cargo test -p schemas`: edit that. -->\n\n\
         # {title}\n\n{about}\nThis page is [`{name}.yaml`](../schemas/{name}.yaml), for people. {read_on}\n"
    )
}

/// Members in the order of their names, however `serde_json` was built.
fn sorted(object: &Value) -> Vec<(&str, &Value)> {
    let members = object.as_object().into_iter().flatten();
    let mut members: Vec<_> = members
        .map(|(name, value)| (name.as_str(), value))
        .collect();
    members.sort_by_key(|(name, _)| *name);
    members
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// A text for the cell of a table: one line.
fn cell(value: &Value) -> String {
    let words: Vec<_> = text(value).split_whitespace().collect();
    words.join(" ").replace('|', "\\|")
}

/// A table, or nothing if it has no rows.
fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    if rows.is_empty() {
        return String::new();
    }
    let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
    let names: Vec<_> = head.iter().map(|name| (*name).to_owned()).collect();
    let rule = format!("|{}\n", "---|".repeat(head.len()));
    let rows: String = rows.iter().map(|row| line(row)).collect();
    format!("\n{}{rule}{rows}", line(&names))
}
