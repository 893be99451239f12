//! Holds `asyncapi.yaml` and `openapi.yaml` to the types, to the pages and to the services' refusals:
//! everything that exists is in them, and nothing else.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use jsonschema::{Registry, Validator};
use schemas::close::Advice;
use schemas::topics::Layout;
use schemas::{CloseCode, Topics, push};
use serde_json::{Value, json};

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn text(name: &str) -> String {
    fs::read_to_string(folder(name)).expect(name)
}

fn document(name: &str) -> Value {
    serde_saphyr::from_str(&text(name)).expect(name)
}

fn object<'a>(value: &'a Value, pointer: &str) -> impl Iterator<Item = (&'a str, &'a Value)> {
    let object = value.pointer(pointer).and_then(Value::as_object);
    let members = object.expect(pointer).iter();
    members.map(|(name, value)| (name.as_str(), value))
}

fn list<'a>(value: &'a Value, pointer: &str) -> impl Iterator<Item = &'a Value> {
    let list = value.pointer(pointer).and_then(Value::as_array);
    list.expect(pointer).iter()
}

/// The files of a folder with their stems, in order.
fn files(dir: &str, extension: &str) -> BTreeMap<String, PathBuf> {
    let paths = fs::read_dir(folder(dir))
        .expect(dir)
        .map(|entry| entry.expect(dir).path());
    paths
        .filter(|path| path.extension().is_some_and(|found| found == extension))
        .map(|path| {
            let stem = path.file_stem().expect("a name").to_string_lossy();
            (stem.into_owned(), path)
        })
        .collect()
}

fn read(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).expect("a file")).expect("JSON")
}

/// Judges values by the schema at `pointer` of a document, with the files that it refers to.
fn validator(document: &Value, pointer: &str) -> Validator {
    let mut registry = Registry::new();
    for path in files("json", "json").values() {
        let schema = read(path);
        let id = schema["$id"].as_str().expect("an id").to_owned();
        registry = registry.add(id, schema).expect("a URI");
    }
    let registry = registry.prepare().expect("references");
    let mut root = document.clone();
    by_urn(&mut root);
    root["$ref"] = format!("#{pointer}").into();
    let options = jsonschema::options().with_registry(&registry);
    options.build(&root).expect(pointer)
}

/// Writes `json/NAME.json` as the `$id` of that file.
fn by_urn(value: &mut Value) {
    match value {
        Value::Object(members) => {
            for (name, value) in members {
                let file = value.as_str().and_then(|text| text.strip_prefix("json/"));
                if name == "$ref"
                    && let Some(schema) = file.and_then(|file| file.strip_suffix(".json"))
                {
                    *value = format!("urn:sumu:schema:{schema}").into();
                }
                by_urn(value);
            }
        }
        Value::Array(items) => items.iter_mut().for_each(by_urn),
        _ => {}
    }
}

/// Channels but for the socket.
fn topics(asyncapi: &Value) -> impl Iterator<Item = (&str, &Value)> {
    object(asyncapi, "/channels").filter(|(name, _)| *name != "push")
}

fn names<'a>(channel: &'a Value, pointer: &str) -> Vec<&'a str> {
    object(channel, pointer).map(|(name, _)| name).collect()
}

#[test]
fn every_topic_is_there_with_its_layout() {
    let asyncapi = document("asyncapi.yaml");
    let mut found: Vec<_> = topics(&asyncapi)
        .map(|(name, channel)| {
            assert_eq!(channel["address"], name);
            let kafka = "/bindings/kafka/topicConfiguration";
            let settings = object(channel, kafka).map(|(setting, value)| {
                let value = match value {
                    Value::Array(only) => only[0].as_str().expect("text").to_owned(),
                    Value::String(text) => text.clone(),
                    number => number.to_string(),
                };
                (setting.to_owned(), value)
            });
            let partitions = channel["bindings"]["kafka"]["partitions"].as_i64();
            let settings: BTreeMap<_, _> = settings.collect();
            (name.to_owned(), partitions, settings)
        })
        .collect();
    found.sort();
    let mut meant: Vec<_> = Topics::new("sumu.")
        .specs(Layout::default())
        .into_iter()
        .map(|spec| {
            let settings = spec.settings.into_iter();
            let settings = settings.map(|(name, value)| (name.to_owned(), value));
            let partitions = Some(i64::from(spec.partitions));
            (spec.name.to_string(), partitions, settings.collect())
        })
        .collect();
    meant.sort();
    assert_eq!(found, meant);

    let internal = topics(&asyncapi).filter(|(_, topic)| topic["tags"][0]["name"] == "internal");
    let internal: BTreeSet<_> = internal.map(|(name, _)| name).collect();
    let meant = ["sumu.connections", "sumu.edges", "sumu.revocations"];
    assert_eq!(internal, meant.into());
}

#[test]
fn every_record_is_there_with_the_schema_of_its_type() {
    let asyncapi = document("asyncapi.yaml");
    let mut found = BTreeMap::new();
    for (topic, channel) in topics(&asyncapi) {
        for (name, message) in object(channel, "/messages") {
            assert_eq!(message["name"], name);
            let ce_type = &message["headers"]["properties"]["ce_type"]["const"];
            if ce_type.is_null() {
                assert!(["dead-letter", "tombstone"].contains(&name), "{name}");
                continue;
            }
            assert_eq!(ce_type, name);
            assert!(name.starts_with(&format!("{topic}.")), "{name} in {topic}");
            found.insert(name, message["payload"]["$ref"].as_str());
        }
    }
    let paths: Vec<_> = files("json", "json")
        .into_keys()
        .filter(|name| name.starts_with("sumu."))
        .map(|name| (format!("json/{name}.json"), name))
        .collect();
    let mut meant: BTreeMap<_, _> = paths
        .iter()
        .map(|(path, name)| (name.as_str(), Some(path.as_str())))
        .collect();
    // Their values are any JSON.
    meant.extend([
        ("sumu.messages.send.v1", None),
        ("sumu.messages.publish.v1", None),
    ]);
    assert_eq!(found, meant);
}

/// The headers of a golden file: `name: value`, a line each.
fn golden_headers(file: &str) -> BTreeMap<String, String> {
    let text = text(file);
    let lines = text.lines().filter_map(|line| line.split_once(": "));
    lines
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

#[test]
fn headers_are_those_that_the_envelope_writes() {
    let asyncapi = document("asyncapi.yaml");
    for (file, message, optional) in [
        (
            "golden/headers.full.txt",
            "sumu.messages.send/messages/sumu.messages.send.v1",
            1,
        ),
        (
            "golden/headers.least.txt",
            "sumu.connections/messages/sumu.connections.tick.v1",
            0,
        ),
    ] {
        let headers = golden_headers(file);
        let validator = validator(&asyncapi, &format!("/channels/{message}/headers"));
        let judge = |headers: &BTreeMap<_, _>| validator.is_valid(&json!(headers));
        assert!(judge(&headers), "{file}");
        let without = headers.keys().filter(|name| {
            let mut fewer = headers.clone();
            fewer.remove(*name);
            judge(&fewer)
        });
        // The trace, where there is one.
        assert_eq!(without.count(), optional, "{file}: may be left out");
        let mut other = headers.clone();
        other.insert("ce_type".into(), "sumu.other.v1".into());
        assert!(!judge(&other), "{file}");
    }
    let schemas = &asyncapi["components"]["schemas"];
    let described: BTreeSet<_> = ["OptionalHeaders", "UserHeaders", "MessageHeaders"]
        .into_iter()
        .flat_map(|name| names(schemas, &format!("/{name}/properties")))
        .map(str::to_owned)
        .collect();
    let written = golden_headers("golden/headers.full.txt");
    assert_eq!(described, written.into_keys().collect());
}

#[test]
fn every_golden_value_fits_its_message_and_no_other_of_the_socket() {
    let asyncapi = document("asyncapi.yaml");
    let frame = |name: &str| {
        validator(
            &asyncapi,
            &format!("/channels/push/messages/{name}/payload"),
        )
    };
    let frames: BTreeMap<_, _> = names(&asyncapi, "/channels/push/messages")
        .into_iter()
        .filter(|name| *name != "notification")
        .map(|name| (name, frame(name)))
        .collect();
    let mut seen = BTreeSet::new();
    let operations = object(&asyncapi, "/operations").map(|(_, operation)| operation);
    let received = operations.filter(|operation| {
        operation["action"] == "receive" && operation["channel"]["$ref"] == "#/channels/push"
    });
    let sent_by_clients: Vec<&str> = received
        .flat_map(|operation| list(operation, "/messages"))
        .filter_map(|message| message["$ref"].as_str()?.rsplit('/').next())
        .collect();
    for (stem, path) in files("golden", "json") {
        let value = read(&path);
        if stem.starts_with("sumu.") {
            let (ce_type, _) = stem.split_once(".v1").expect("a version");
            let topic = ce_type.rsplit_once('.').expect("a topic").0;
            let payload = format!("/channels/{topic}/messages/{ce_type}.v1/payload");
            assert!(validator(&asyncapi, &payload).is_valid(&value), "{stem}");
        } else {
            let kind = if stem.starts_with("client") {
                "action"
            } else {
                "type"
            };
            let kind = value[kind].as_str().expect("a kind");
            // An answer repeats its frame's action: the two ways are told apart by who sends.
            let is_clients = |name: &str| sent_by_clients.contains(&name);
            let same_way = |name: &&str| is_clients(name) == stem.starts_with("client");
            for (name, validator) in frames.iter().filter(|(name, _)| same_way(name)) {
                assert_eq!(
                    validator.is_valid(&value),
                    *name == kind,
                    "{stem} as {name}"
                );
            }
            seen.insert(kind.to_owned());
        }
    }
    let frames: BTreeSet<_> = frames.keys().map(|name| (*name).to_owned()).collect();
    assert_eq!(seen, frames, "frames with golden files");

    let server = read(&folder("json/server-frame.json"));
    let types = list(&server, "/oneOf").map(|frame| &frame["properties"]["type"]["const"]);
    for kind in types {
        assert!(frames.contains(kind.as_str().expect("a type")), "{kind}");
    }
}

#[test]
fn close_codes_are_those_of_the_table() {
    let asyncapi = document("asyncapi.yaml");
    let meant = CloseCode::TABLE.map(|row| {
        let advice = match row.advice {
            Advice::Nothing => "nothing",
            Advice::Mend => "mend what you send",
            Advice::Reconnect => "reconnect",
            Advice::NewToken => "get a new token",
            Advice::SlowDown => "slow down",
            Advice::Stop => "stop",
        };
        json!({"code": row.code, "reason": row.reason, "advice": advice})
    });
    assert_eq!(asyncapi["channels"]["push"]["x-close-codes"], json!(meant));
}

/// Status and code of every refusal of an operation.
fn refusals(openapi: &Value, operation: &str) -> BTreeSet<(String, String)> {
    let mut refusals = BTreeSet::new();
    for (status, response) in object(openapi, &format!("/paths/{operation}/responses")) {
        let Some(shared) = response["$ref"].as_str() else {
            continue;
        };
        let shared = shared.strip_prefix('#').expect("a reference inside");
        let schema = format!("{shared}/content/application~1problem+json/schema");
        for code in list(openapi, &format!("{schema}/properties/code/enum")) {
            refusals.insert((status.to_owned(), code.as_str().expect("text").to_owned()));
        }
    }
    refusals
}

/// Status and code of every refusal in a section of a page: the first
/// two cells of its rows.
fn refusals_of_page(page: &str, section: &str) -> BTreeSet<(String, String)> {
    let page = text(&format!("../docs/{page}"));
    let (_, rest) = page
        .split_once(&format!("\n## {section}\n"))
        .expect(section);
    let section = rest.split("\n## ").next().unwrap_or(rest);
    let mut refusals = BTreeSet::new();
    for line in section.lines() {
        let mut cells = line.split('|').map(str::trim).skip(1);
        let Some(status) = cells.next().filter(|cell| cell.parse::<u16>().is_ok()) else {
            continue;
        };
        let codes = cells
            .next()
            .unwrap_or_default()
            .split('`')
            .skip(1)
            .step_by(2);
        let codes = codes.filter(|code| code.chars().all(|c| c == '_' || c.is_ascii_lowercase()));
        refusals.extend(codes.map(|code| (status.to_owned(), code.to_owned())));
    }
    refusals
}

#[test]
fn refusals_are_those_of_the_pages() {
    let openapi = document("openapi.yaml");
    for (operation, page, section) in [
        ("~1push/get", "protocol.md", "Connect"),
        (
            "~1v1~1notifications/post",
            "http-api.md",
            "`POST /v1/notifications`",
        ),
        (
            "~1v1~1presence/get",
            "http-api.md",
            "`GET /v1/presence?user_id=alice`",
        ),
        (
            "~1v1~1users~1{user_id}~1connections/delete",
            "http-api.md",
            "`DELETE /v1/users/{user_id}/connections`",
        ),
        (
            "~1v1~1connections~1{connection_id}/delete",
            "http-api.md",
            "`DELETE /v1/connections/{connection_id}`",
        ),
        (
            "~1v1~1presence~1events/get",
            "http-api.md",
            "`GET /v1/presence/events`",
        ),
        (
            "~1v1~1users~1{user_id}~1connections/get",
            "http-api.md",
            "`GET /v1/users/{user_id}/connections`",
        ),
    ] {
        let (found, meant) = (
            refusals(&openapi, operation),
            refusals_of_page(page, section),
        );
        assert!(!meant.is_empty(), "{page}: {section}");
        assert_eq!(found, meant, "{operation}");
    }
}

/// The refusals' codes in a service's source, as it writes them.
fn codes_of_source(file: &Path) -> BTreeSet<String> {
    let source = fs::read_to_string(file).expect("a source");
    let code = source.split("#[cfg(test)]").next().unwrap_or_default();
    let code: String = code.split_whitespace().collect();
    let mut codes = BTreeSet::new();
    let mut add = |literal: &str| {
        let literal = literal.split_once('"').expect("a literal").0;
        codes.insert(literal.to_owned());
    };
    for after in code.split("Problem::new(StatusCode::").skip(1) {
        let (_, argument) = after.split_once(',').expect("two arguments");
        if let Some(literal) = argument.strip_prefix('"') {
            add(literal);
        }
    }
    code.split("wrong(\"").skip(1).for_each(&mut add);
    for after in code.split("fncode(self)->&'staticstr{").skip(1) {
        let (body, _) = after.split_once("}}").expect("an end");
        body.split("=>\"").skip(1).for_each(&mut add);
    }
    codes
}

/// The Rust files below a folder.
fn sources(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|found| found == "rs") {
            found.push(path);
        }
    }
    found
}

#[test]
fn refusals_are_those_of_the_services() {
    let openapi = document("openapi.yaml");
    let mut described = BTreeSet::new();
    for (path, item) in object(&openapi, "/paths") {
        for (method, _) in object(item, "") {
            let operation = format!("{}/{method}", path.replace('/', "~1"));
            let codes = refusals(&openapi, &operation).into_iter();
            described.extend(codes.map(|(_, code)| code));
        }
    }
    let mut written = codes_of_source(&folder("../runtime/src/http.rs"));
    for path in sources(&folder("../ingest/src")) {
        written.extend(codes_of_source(&path));
    }
    assert!(written.contains("token_missing") && written.contains("not_utf8"));
    assert_eq!(described, written);
}

#[test]
fn answers_on_the_page_fit_their_schemas() {
    let openapi = document("openapi.yaml");
    let page = text("../docs/http-api.md");
    let fits = |name: &str, example: &str| {
        let value = serde_json::from_str(example).expect(example);
        let schema = validator(&openapi, &format!("/components/schemas/{name}"));
        assert!(schema.is_valid(&value), "{name}: {example}");
    };
    let (_, block) = page.split_once("```json\n").expect("an example");
    fits("Presence", block.split("```").next().unwrap_or_default());
    for (schema, begin) in [
        ("Problem", r#"{"status":"#),
        ("Accepted", r#"{"position":"#),
        ("Revoked", r#"{"position":"sumu.revocations"#),
    ] {
        let quoted = page.split('`').find(|text| text.starts_with(begin));
        // The page leaves the explanation out.
        fits(schema, &quoted.expect(schema).replace('…', ""));
    }
    let indented = |begin: &str| {
        let (_, rest) = page.split_once(&format!("\n    {begin}")).expect(begin);
        let block = rest.split("\n\n").next().unwrap_or_default();
        block.to_owned()
    };
    fits("PresenceFrame", &indented("event: state\n    data: "));
    let begin = r#"{"user_id":"#;
    fits("Connections", &format!("{begin}{}", indented(begin)));
}

#[test]
fn the_push_is_that_of_the_types() {
    let openapi = document("openapi.yaml");
    let post = &openapi["paths"][push::PATH]["post"];
    for content in [&post["requestBody"], &post["responses"]["200"]] {
        assert_eq!(names(content, "/content"), [push::CONTENT_TYPE]);
    }
    let secret = &openapi["components"]["securitySchemes"]["pushSecret"]["name"];
    assert_eq!(secret, push::SECRET_HEADER);
}
