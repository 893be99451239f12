//! The page of topics and socket: what applications meet, what is sumu's own, the socket, the headers.

use serde_json::Value;

use crate::shape::Shape;
use crate::{cell, head, sorted, table, text};

pub(crate) fn page(document: &Value) -> String {
    let read_on = "With the reasons, for people: [topics](topics.md) and [protocol](protocol.md).";
    let mut page = head("AsyncAPI: topics and socket", "asyncapi", document, read_on);
    let channels = sorted(&document["channels"]);
    let (own, met): (Vec<_>, Vec<_>) = (channels.iter().filter(|(name, _)| *name != "push"))
        .partition(|(_, channel)| channel["tags"][0]["name"] == "internal");
    page += "\n## Topics that applications meet\n";
    for (name, channel) in met {
        page += &topic(name, channel, document);
    }
    page += "\n## Topics of sumu's own\n";
    for (name, channel) in own {
        page += &topic(name, channel, document);
    }
    page += &socket(document);
    page += "\n## Headers of records\n";
    for (name, title) in [
        ("Headers", "Every record that sumu writes"),
        ("UserHeaders", "Also records about a user"),
        ("MessageHeaders", "Also messages"),
    ] {
        let schema = &document["components"]["schemas"][name];
        page += &format!("\n### {title}\n{}", Shape::new(schema, document).members());
    }
    page
}

fn topic(name: &str, channel: &Value, document: &Value) -> String {
    let kafka = &channel["bindings"]["kafka"];
    let settings = sorted(&kafka["topicConfiguration"]).into_iter();
    let settings = settings.map(|(name, value)| match value {
        Value::Array(only) => format!("`{name}={}`", text(&only[0])),
        Value::String(value) => format!("`{name}={value}`"),
        value => format!("`{name}={value}`"),
    });
    let layout: Vec<_> = std::iter::once(partitions(&kafka["partitions"]))
        .chain(settings)
        .collect();
    let mut section = format!(
        "\n### `{name}`\n\n{}\n",
        text(&channel["description"]).trim_end()
    );
    section += &format!("\nLayout: {}.\n", layout.join(", "));
    section += &operations(name, document);
    for (name, message) in sorted(&channel["messages"]) {
        section += &record(name, message, document);
    }
    section
}

fn partitions(count: &Value) -> String {
    format!("{count} partition{}", if *count == 1 { "" } else { "s" })
}

/// Who writes or reads, as the operations say.
fn operations(channel: &str, document: &Value) -> String {
    let here = format!("#/channels/{channel}");
    let found = sorted(&document["operations"]).into_iter();
    let found = found.filter(|(_, operation)| operation["channel"]["$ref"] == here.as_str());
    found
        .map(|(_, operation)| {
            let action = if operation["action"] == "send" {
                "writes"
            } else {
                "reads"
            };
            format!("\nsumu {action}: {}\n", cell(&operation["summary"]))
        })
        .collect()
}

fn record(name: &str, message: &Value, document: &Value) -> String {
    let mut section = format!("\n#### `{name}`\n\n{}.", text(&message["title"]));
    let about = cell(&message["description"]);
    if !about.is_empty() {
        section += &format!(" {about}");
    }
    let key = &message["bindings"]["kafka"]["key"];
    if key.is_object() {
        let key = referred(key, document);
        section += &format!(" Key: {}", lower_first(&cell(&key["description"])));
    }
    section += "\n";
    let headers = Shape::new(&message["headers"], document);
    if message["headers"]["required"][0]
        .as_str()
        .is_some_and(|name| name.starts_with("dlq"))
    {
        section += &headers.members();
    }
    section + &payload(&message["payload"], document)
}

/// The value: its members, or what is said of it.
fn payload(payload: &Value, document: &Value) -> String {
    let members = Shape::new(payload, document).members();
    let reference = payload["$ref"]
        .as_str()
        .or_else(|| payload["allOf"][0]["$ref"].as_str());
    match reference {
        Some(file) => format!(
            "\nValue: [{file}](../schemas/{file}){}\n{members}",
            if members.is_empty() { ", empty" } else { "" }
        ),
        None if payload["type"] == "null" => "\nValue: none.\n".into(),
        None => format!("\n{}\n", cell(&payload["description"])),
    }
}

fn socket(document: &Value) -> String {
    let channel = &document["channels"]["push"];
    let mut section = format!("\n## The socket\n\n{}", text(&channel["description"]));
    let asked: Vec<&Value> = (sorted(&document["operations"]).into_iter())
        .filter(|(_, operation)| operation["action"] == "receive")
        .flat_map(|(_, operation)| operation["messages"].as_array().into_iter().flatten())
        .map(|message| &message["$ref"])
        .collect();
    let by_client = |name: &str| {
        let message = format!("#/channels/push/messages/{name}");
        asked.iter().any(|asked| **asked == message.as_str())
    };
    for (title, from_client) in [
        ("Frames of the client", true),
        ("Frames of the edge", false),
    ] {
        section += &format!("\n### {title}\n");
        for (name, message) in sorted(&channel["messages"]) {
            if by_client(name) == from_client {
                section += &format!("\n#### `{name}`\n\n{}.\n", text(&message["title"]));
                section += &payload(&message["payload"], document);
            }
        }
    }
    let codes = channel["x-close-codes"].as_array().into_iter().flatten();
    let codes: Vec<_> = codes
        .map(|row| {
            let reason = format!("`{}`", text(&row["reason"]));
            vec![row["code"].to_string(), reason, cell(&row["advice"])]
        })
        .collect();
    section + "\n### Close codes\n" + &table(&["code", "reason", "what to do"], &codes)
}

fn referred<'a>(value: &'a Value, document: &'a Value) -> &'a Value {
    let reference = value["$ref"]
        .as_str()
        .and_then(|reference| reference.strip_prefix('#'));
    reference.map_or(value, |pointer| document.pointer(pointer).expect(pointer))
}

fn lower_first(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| {
        first.to_lowercase().chain(letters).collect()
    })
}
