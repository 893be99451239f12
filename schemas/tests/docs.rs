//! Reads the examples in `docs/` with the types: what the pages show is what the code takes.

use std::fs;
use std::path::Path;

use bytes::Bytes;
use schemas::frames::ClientFrame;
use schemas::{ConnectionEvent, Deliveries, EdgeRecord, Notification, PresenceEvent, Revocation};

fn page(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../docs")
        .join(name);
    fs::read_to_string(path).expect(name)
}

/// The quoted pieces of a line: every second one between backticks.
fn quoted(line: &str) -> impl Iterator<Item = &str> {
    line.split('`').skip(1).step_by(2)
}

#[test]
fn records_in_tables() {
    let (mut connections, mut edges) = (0, 0);
    for line in page("topics.md")
        .lines()
        .filter(|line| line.starts_with("| `sumu."))
    {
        let ce_type = quoted(line).next().expect("a name");
        let Some(value) = quoted(line).find(|text| text.starts_with('{')) else {
            continue;
        };
        if ce_type.starts_with("sumu.edges.") {
            let record = EdgeRecord::decode(Some(ce_type), value.as_bytes()).expect(line);
            let key = quoted(line).nth(1).expect("a key");
            assert_eq!(
                (record.key().as_str(), record.encode()),
                (key, value.to_owned().into())
            );
            edges += 1;
        } else {
            let event = ConnectionEvent::decode(Some(ce_type), value.as_bytes()).expect(line);
            assert_eq!(event.encode(), value, "{line}");
            connections += 1;
        }
    }
    assert_eq!((connections, edges), (4, 3), "examples");
}

/// The indented blocks of the page, as single lines.
fn blocks(page: &str) -> Vec<String> {
    let mut blocks = vec![String::new()];
    for line in page.lines() {
        let more = line.strip_prefix("    ").unwrap_or_default();
        // A record begins with a brace; what is indented deeper goes on with it.
        if !more.starts_with(' ') {
            blocks.push(String::new());
        }
        if let Some(block) = blocks.last_mut() {
            block.push_str(more.trim());
        }
    }
    blocks.retain(|block| block.starts_with('{'));
    blocks
}

#[test]
fn records_in_blocks() {
    let blocks = blocks(&page("topics.md"));
    let mut kinds = (0, 0, 0, 0);
    for block in blocks {
        if block.contains(r#""data""#) {
            Notification::decode(&Bytes::from(block.clone())).expect(&block);
            kinds.0 += 1;
        } else if block.contains(r#""receipts":["#) {
            let deliveries = Deliveries::decode(block.as_bytes()).expect(&block);
            assert_eq!(deliveries.encode(), block);
            kinds.3 += 1;
        } else if block.contains(r#""type":"presence""#) {
            let event = PresenceEvent::decode(block.as_bytes()).expect(&block);
            assert_eq!(event.encode(), block);
            kinds.1 += 1;
        } else {
            let revocation = Revocation::decode(block.as_bytes()).expect(&block);
            assert_eq!(revocation.encode(), block);
            kinds.2 += 1;
        }
    }
    assert_eq!(kinds, (1, 2, 1, 1), "examples");
}

#[test]
fn client_frames() {
    let page = page("protocol.md");
    let frames = page.lines().filter_map(|line| {
        let frame = line.strip_prefix("| `{\"action\"")?.split('`').next()?;
        Some(format!("{{\"action\"{frame}").replace("<any JSON>", "[1]"))
    });
    let mut actions = Vec::new();
    for text in frames {
        let frame = ClientFrame::decode(&text).expect(&text);
        actions.push(frame.action.into_owned());
    }
    let known = ["ping", "send", "publish", "refresh", "watch", "unwatch"];
    assert_eq!(actions, known);
}
