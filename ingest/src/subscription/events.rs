//! Writes server-sent events (HTML Living Standard §9.2).

use std::sync::Arc;

use bytes::{BufMut as _, Bytes, BytesMut};

use super::Offsets;

/// How long a client waits before it connects again, in milliseconds.
const RETRY_MILLIS: u32 = 1000;

/// Forget what was told: states follow. Takes back the id of the stream before.
pub(super) fn reset(reason: &str) -> Bytes {
    let text =
        format!("retry: {RETRY_MILLIS}\nid:\nevent: reset\ndata: {{\"reason\":\"{reason}\"}}\n\n");
    text.into()
}

/// What a user is.
pub(super) fn state(value: &[u8]) -> Bytes {
    event("state", None, value)
}

/// The states are told: what follows are changes, from these offsets on.
pub(super) fn live(topic: &Arc<str>, offsets: &Offsets, id: Option<&str>) -> Bytes {
    let offsets = offsets.to_json();
    let data = format!(r#"{{"topic":"{topic}","offsets":{offsets}}}"#);
    event("live", id, data.as_bytes())
}

/// A change.
pub(super) fn presence(value: &[u8], id: Option<&str>) -> Bytes {
    event("presence", id, value)
}

/// The stream ends here, on purpose.
pub(super) fn end(reason: &str) -> Bytes {
    event(
        "end",
        None,
        format!(r#"{{"reason":"{reason}"}}"#).as_bytes(),
    )
}

/// A comment.
pub(super) const fn heartbeat() -> Bytes {
    Bytes::from_static(b":\n\n")
}

fn event(name: &str, id: Option<&str>, data: &[u8]) -> Bytes {
    let mut text = BytesMut::with_capacity(data.len() + 64);
    if let Some(id) = id {
        text.put_slice(b"id: ");
        text.put_slice(id.as_bytes());
        text.put_u8(b'\n');
    }
    text.put_slice(b"event: ");
    text.put_slice(name.as_bytes());
    text.put_u8(b'\n');
    // JSON that spans lines stays the same JSON.
    for line in data.split(|byte| matches!(byte, b'\n' | b'\r')) {
        text.put_slice(b"data: ");
        text.put_slice(line);
        text.put_u8(b'\n');
    }
    text.put_u8(b'\n');
    text.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_lines_that_end_with_an_empty_one() {
        assert_eq!(
            presence(b"{}", Some("1.2~0.a")),
            "id: 1.2~0.a\nevent: presence\ndata: {}\n\n"
        );
        assert_eq!(
            state(b"{\r\n1}"),
            "event: state\ndata: {\ndata: \ndata: 1}\n\n"
        );
        let begin = "retry: 1000\nid:\nevent: reset\ndata: {\"reason\":\"begin\"}\n\n";
        assert_eq!(reset("begin"), begin);
        let offsets = Offsets::at([(0, 3), (2, 5)]);
        assert_eq!(
            live(&"sumu.presence".into(), &offsets, None),
            "event: live\ndata: {\"topic\":\"sumu.presence\",\"offsets\":{\"0\":3,\"2\":5}}\n\n"
        );
        assert_eq!(
            end("draining"),
            "event: end\ndata: {\"reason\":\"draining\"}\n\n"
        );
        assert_eq!(heartbeat(), ":\n\n");
    }
}
