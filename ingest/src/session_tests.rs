use bytes::Bytes;
use proptest::prelude::*;
use schemas::{Millis, Position};
use serde_json::Value;

use super::*;

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

fn start() -> Instant {
    tokio::time::Instant::now().into_std()
}

pub(super) fn rules() -> Rules {
    let route = |action: &str| {
        let route = Route {
            action: action.into(),
            topic: format!("sumu.messages.{action}").into(),
            ce_type: format!("sumu.messages.{action}.v1"),
            source: format!("ingest.route.{action}"),
        };
        (action.to_owned(), Arc::new(route))
    };
    Rules {
        routes: [route("send"), route("publish")].into(),
        ping_interval: 25 * SECOND,
        silence: 60 * SECOND,
        refresh_interval: 900 * SECOND,
        write_timeout: 10 * SECOND,
        answer_timeout: 10 * SECOND,
        max_in_flight: 3,
        max_unsent_answers: 4,
        max_id_bytes: 16,
        frame_rate: None,
        max_watched: 0,
    }
}

pub(super) fn connection() -> ConnectionId {
    "edge-1.7.00000000deadbeef".parse().unwrap()
}

fn alice() -> UserId {
    "alice".parse().unwrap()
}

/// A token that ends so long after the session began, or never.
fn expiry(now: Instant, after: Option<Duration>) -> Expiry {
    let millis = |after: Duration| i64::try_from(after.as_millis()).unwrap();
    Expiry {
        at: after.map(|after| Millis(millis(after))),
        deadline: after.map(|after| now + after),
    }
}

struct Bench {
    session: Session,
    now: Instant,
}

impl Bench {
    fn new() -> Self {
        Self::expiring(None)
    }

    fn expiring(after: Option<Duration>) -> Self {
        let now = start();
        Self::with(rules(), expiry(now, after), now)
    }

    fn with(rules: Rules, expiry: Expiry, now: Instant) -> Self {
        let identity = Identity {
            user_id: alice(),
            connection_id: connection(),
            expiry,
        };
        let session = Session::new(Arc::new(rules), identity, now);
        Self { session, now }
    }

    fn give(&mut self, input: Input) -> Vec<Output> {
        let mut out = vec![];
        self.session.handle(self.now, input, &mut out);
        out
    }

    fn text(&mut self, text: &str) -> Vec<Output> {
        self.give(Input::Text(text.to_owned().into()))
    }

    /// Lets time pass, answering every deadline on the way.
    fn pass(&mut self, span: Duration) -> Vec<Output> {
        let until = self.now + span;
        let mut out = vec![];
        while self.session.deadline() <= until && !self.session.ended {
            self.now = self.session.deadline();
            let before = out.len();
            self.session.handle(self.now, Input::Timer, &mut out);
            // What was to be sent goes out at once.
            for _ in before..out.len() {
                self.session
                    .handle(self.now, Input::AnswerSent, &mut vec![]);
            }
        }
        self.now = until;
        out
    }
}

pub(super) fn frames(out: &[Output]) -> Vec<Value> {
    let text = |output: &Output| match output {
        Output::Send(text) => Some(serde_json::from_str(text).unwrap()),
        _ => None,
    };
    out.iter().filter_map(text).collect()
}

fn endings(out: &[Output]) -> Vec<Ending> {
    let ending = |output: &Output| match output {
        Output::End(ending) => Some(*ending),
        _ => None,
    };
    out.iter().filter_map(ending).collect()
}

fn position() -> Position {
    "sumu.messages.send-3-9001".parse().unwrap()
}

#[test]
fn a_ping_is_answered_with_the_connections_id() {
    let out = Bench::new().text(r#"{"action":"ping"}"#);
    let expected = serde_json::json!({
        "type": "pong", "statusCode": 200, "connectionId": connection(),
    });
    assert_eq!(frames(&out), [expected]);
}

#[test]
fn a_message_goes_to_its_route_byte_for_byte_and_is_acked_with_its_position() {
    let mut bench = Bench::new();
    let out = bench.text(r#" {"id": 1.0e0 ,"action":"send","message": {"b" : 1.10,"a":[ 1 ]} }"#);
    let [
        Output::Append {
            request,
            route,
            message,
        },
    ] = &out[..]
    else {
        panic!("{out:?}");
    };
    assert_eq!(&*route.topic, "sumu.messages.send");
    assert_eq!(&message[..], br#"{"b" : 1.10,"a":[ 1 ]}"#);
    let answer = Answer::Logged(position());
    let out = bench.give(Input::Answered {
        request: *request,
        answer,
    });
    let Output::Send(text) = &out[0] else {
        panic!("{out:?}")
    };
    let expected = r#"{"type":"ack","action":"send","id":1.0e0,"statusCode":200,"messageId":"sumu.messages.send-3-9001"}"#;
    assert_eq!(&**text, expected);
}

#[test]
fn what_the_log_says_decides_the_answer() {
    for (answer, status, outcome) in [
        (Answer::Refused, 413, None),
        (Answer::Unavailable, 503, None),
        (Answer::Unknown, 504, Some("unknown")),
    ] {
        let mut bench = Bench::new();
        bench.text(r#"{"action":"publish","message":null,"id":"x"}"#);
        let frames = frames(&bench.give(Input::Answered { request: 1, answer }));
        assert_eq!(frames[0]["statusCode"], status);
        assert_eq!(frames[0]["id"], "x");
        assert_eq!(frames[0].get("outcome").and_then(Value::as_str), outcome);
    }
}

#[test]
fn bad_frames_get_an_error_and_the_connection_stays() {
    let deep = format!(
        r#"{{"action":"send","message":{}{}}}"#,
        "[".repeat(200),
        "]".repeat(200)
    );
    let long = r#"{"action":"send","message":1,"id":"longer than sixteen bytes"}"#;
    for wrong in [
        "",
        "nonsense",
        "[]",
        "{}",
        r#"{"action":7}"#,
        r#"{"action":"nope","id":3}"#,
        r#"{"action":"send"}"#,
        &deep,
        long,
    ] {
        let mut bench = Bench::new();
        let out = bench.text(wrong);
        assert_eq!(out.len(), 1, "{wrong}: {out:?}");
        assert_eq!(frames(&out)[0]["statusCode"], 400, "{wrong}");
        assert_eq!(
            frames(&bench.text(r#"{"action":"ping"}"#))[0]["type"],
            "pong"
        );
    }
    let mut bench = Bench::new();
    assert_eq!(
        frames(&bench.give(Input::Binary(Bytes::new())))[0]["statusCode"],
        400
    );
    let frame = frames(&bench.text(r#"{"action":"nope","id":3}"#));
    assert_eq!(frame[0]["id"], 3, "the id is echoed where it could be read");
}

#[test]
fn request_ids_differ() {
    let mut bench = Bench::new();
    let ids: Vec<_> = (0..4)
        .map(|_| frames(&bench.text("?"))[0]["requestId"].to_string())
        .collect();
    assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), 4);
}

#[test]
fn a_late_log_is_answered_once() {
    let mut bench = Bench::new();
    bench.text(r#"{"action":"send","message":1,"id":9}"#);
    assert_eq!(bench.pass(10 * SECOND - MS), []);
    let out = bench.pass(MS);
    assert_eq!(frames(&out)[0]["outcome"], "unknown");
    assert_eq!(frames(&out)[0]["id"], 9);
    let answer = Answer::Logged(position());
    assert_eq!(bench.give(Input::Answered { request: 1, answer }), []);
}

#[test]
fn too_many_unanswered_messages_stop_the_reading() {
    let mut bench = Bench::new();
    for _ in 0..3 {
        assert!(bench.session.wants_input());
        bench.text(r#"{"action":"send","message":1}"#);
    }
    assert!(!bench.session.wants_input());
    bench.give(Input::Answered {
        request: 2,
        answer: Answer::Unavailable,
    });
    assert!(bench.session.wants_input());
}

#[test]
fn too_many_unsent_answers_stop_the_reading() {
    let mut bench = Bench::new();
    for _ in 0..4 {
        assert!(bench.session.wants_input());
        bench.give(Input::Ping(Bytes::new()));
    }
    assert!(!bench.session.wants_input());
    bench.give(Input::AnswerSent);
    assert!(bench.session.wants_input());
}

#[test]
fn a_client_that_is_not_read_is_not_called_silent() {
    let mut bench = Bench::new();
    for _ in 0..4 {
        bench.give(Input::Ping(Bytes::new()));
    }
    bench.now += 70 * SECOND;
    assert_eq!(endings(&bench.give(Input::Timer)), []);
    bench.give(Input::AnswerSent);
    assert!(bench.session.wants_input());
    assert_eq!(endings(&bench.pass(60 * SECOND - MS)), []);
    assert_eq!(endings(&bench.pass(MS))[0].code, CloseCode::IDLE);
}

#[test]
fn the_edge_pings_and_closes_who_is_silent() {
    let mut bench = Bench::new();
    assert_eq!(bench.pass(25 * SECOND), [Output::Ping]);
    bench.give(Input::Pong);
    let out = bench.pass(60 * SECOND);
    assert_eq!(out[..2], [Output::Ping, Output::Ping]);
    let expected = Ending {
        code: CloseCode::IDLE,
        clean: false,
        frame: CloseFrame::Code(CloseCode::IDLE),
    };
    assert_eq!(endings(&out), [expected]);
}

#[test]
fn a_token_that_ends_closes_its_socket() {
    let mut bench = Bench::expiring(Some(20 * SECOND));
    assert_eq!(bench.pass(20 * SECOND - MS), []);
    assert_eq!(endings(&bench.pass(MS))[0].code, CloseCode::TOKEN_EXPIRED);
}

#[test]
fn a_socket_that_takes_nothing_is_closed() {
    let mut bench = Bench::new();
    bench.give(Input::Stalled);
    bench.pass(5 * SECOND);
    bench.give(Input::Flowing);
    bench.give(Input::Stalled);
    assert_eq!(endings(&bench.pass(10 * SECOND - MS)), []);
    let code = endings(&bench.pass(MS))[0].code;
    assert_eq!(code, CloseCode::TOO_FAST_OR_SLOW);
}

#[test]
fn a_connection_is_refreshed_again_and_again() {
    let mut bench = Bench::new();
    let mut refreshed = 0;
    for _ in 0..200 {
        bench.give(Input::Pong);
        let out = bench.pass(10 * SECOND);
        refreshed += out
            .iter()
            .filter(|o| matches!(o, Output::Refresh { .. }))
            .count();
    }
    assert_eq!(refreshed, 2, "in 2000 s, every 900 s");
}

#[test]
fn every_end_has_its_code() {
    let silent = |code, clean| (code, clean, CloseFrame::Silent);
    let said = |code: CloseCode, clean| (code, clean, CloseFrame::Code(code));
    for (input, expected) in [
        (
            Input::ClientClosed(None),
            (CloseCode::NO_CODE, true, CloseFrame::Empty),
        ),
        (
            Input::ClientClosed(Some(1000)),
            said(CloseCode::NORMAL, true),
        ),
        (
            Input::ClientClosed(Some(1001)),
            said(CloseCode::GOING_AWAY, false),
        ),
        (
            Input::ClientClosed(Some(1011)),
            said(CloseCode(1011), false),
        ),
        (
            Input::ClientClosed(Some(3999)),
            said(CloseCode(3999), false),
        ),
        (
            Input::ClientClosed(Some(999)),
            said(CloseCode::PROTOCOL_ERROR, false),
        ),
        (
            Input::ClientClosed(Some(1006)),
            said(CloseCode::PROTOCOL_ERROR, false),
        ),
        (
            Input::ClientClosed(Some(5000)),
            said(CloseCode::PROTOCOL_ERROR, false),
        ),
        (
            // Said by a client, it must not end its presence as if its token had.
            Input::ClientClosed(Some(4401)),
            (
                CloseCode::GOING_AWAY,
                false,
                CloseFrame::Code(CloseCode(4401)),
            ),
        ),
        (
            Input::Lost(Loss::Dropped),
            silent(CloseCode::DROPPED, false),
        ),
        (Input::Lost(Loss::TooBig), said(CloseCode::TOO_BIG, false)),
        (
            Input::Lost(Loss::NotUtf8),
            said(CloseCode::INVALID_PAYLOAD, false),
        ),
        (
            Input::Lost(Loss::Protocol),
            said(CloseCode::PROTOCOL_ERROR, false),
        ),
        (
            Input::Command(CloseCode::DRAIN),
            said(CloseCode::DRAIN, false),
        ),
    ] {
        let told = format!("{input:?}");
        let ending = endings(&Bench::new().give(input))[0];
        assert_eq!(
            (ending.code, ending.clean, ending.frame),
            expected,
            "{told}"
        );
    }
}

fn good(expiry: Expiry) -> Verdict {
    let user_id = alice();
    Verdict::Good {
        user_id,
        expiry,
        watch: Permit::Nobody,
    }
}

fn bad() -> Verdict {
    Verdict::Bad {
        status_code: 401,
        code: "token_expired",
        reason: "the token has expired".into(),
    }
}

/// Asks for a refresh and answers what the session wants to know of the token.
fn ask_to_refresh(bench: &mut Bench) -> u64 {
    let out = bench.text(r#"{"action":"refresh","token":"a.b.c","id":[1]}"#);
    let [Output::Check { request, token }] = &out[..] else {
        panic!("{out:?}");
    };
    assert_eq!(token.expose(), "a.b.c");
    assert!(
        !format!("{out:?}").contains("a.b.c"),
        "a token is not shown"
    );
    *request
}

fn check(bench: &mut Bench, request: u64, verdict: Verdict) -> Vec<Output> {
    bench.give(Input::Checked { request, verdict })
}

#[test]
fn a_good_token_extends_the_connection_once_it_is_logged() {
    let mut bench = Bench::expiring(Some(30 * SECOND));
    let request = ask_to_refresh(&mut bench);
    let later = expiry(bench.now, Some(60 * SECOND));
    let out = check(&mut bench, request, good(later));
    let renew = Output::Renew {
        request,
        expires_at: later.at,
    };
    assert_eq!(out, [renew], "logged before it is acknowledged");
    let answer = Answer::Logged(position());
    let out = bench.give(Input::Answered { request, answer });
    let expected = serde_json::json!({
        "type": "ack", "action": "refresh", "id": [1], "statusCode": 200,
        "messageId": position(), "expiresAt": 60_000,
    });
    assert_eq!(frames(&out), [expected]);
    assert!(endings(&bench.pass(59 * SECOND)).is_empty());
    assert_eq!(
        endings(&bench.pass(SECOND))[0].code,
        CloseCode::TOKEN_EXPIRED
    );
}

#[test]
fn what_is_not_extended_ends_at_its_own_time() {
    let other = Verdict::Good {
        user_id: "bob".parse().unwrap(),
        expiry: expiry(start(), None),
        watch: Permit::Nobody,
    };
    for (verdict, status, code) in [(bad(), 401, "token_expired"), (other, 403, "other_user")] {
        let mut bench = Bench::expiring(Some(30 * SECOND));
        let request = ask_to_refresh(&mut bench);
        let answer = &frames(&check(&mut bench, request, verdict))[0];
        assert_eq!(answer["type"], "error");
        assert_eq!(answer["statusCode"], status);
        assert_eq!(answer["code"], code);
        assert_eq!(answer["id"], serde_json::json!([1]));
        assert!(endings(&bench.pass(29 * SECOND)).is_empty(), "it stays");
        assert_eq!(endings(&bench.pass(SECOND)).len(), 1, "until its own end");
    }
    // The log does not take it: the old expiry stands.
    for (answer, status) in [(Answer::Unavailable, 503), (Answer::Unknown, 504)] {
        let mut bench = Bench::expiring(Some(30 * SECOND));
        let request = ask_to_refresh(&mut bench);
        let later = expiry(bench.now, Some(60 * SECOND));
        check(&mut bench, request, good(later));
        let out = bench.give(Input::Answered { request, answer });
        assert_eq!(frames(&out)[0]["statusCode"], status);
        assert_eq!(endings(&bench.pass(30 * SECOND)).len(), 1);
    }
}

#[test]
fn a_token_that_ends_earlier_changes_nothing() {
    for (has, shown) in [(None, Some(SECOND)), (Some(30 * SECOND), Some(SECOND))] {
        let mut bench = Bench::expiring(has);
        let request = ask_to_refresh(&mut bench);
        let earlier = expiry(bench.now, shown);
        check(&mut bench, request, good(earlier));
        let answer = Answer::Logged(position());
        let ack = frames(&bench.give(Input::Answered { request, answer }));
        let kept = expiry(bench.now, has).at.map(|at| at.0);
        assert_eq!(ack[0]["expiresAt"].as_i64(), kept);
        assert!(endings(&bench.pass(2 * SECOND)).is_empty());
    }
}

#[test]
fn a_new_expiry_is_in_every_later_refresh() {
    let mut bench = Bench::expiring(Some(1000 * SECOND));
    let request = ask_to_refresh(&mut bench);
    let later = expiry(bench.now, Some(2000 * SECOND));
    check(&mut bench, request, good(later));
    let answer = Answer::Logged(position());
    bench.give(Input::Answered { request, answer });
    let mut refreshed = vec![];
    for _ in 0..31 {
        refreshed.extend(bench.pass(30 * SECOND));
        bench.give(Input::Pong);
    }
    let refresh = Output::Refresh {
        expires_at: Some(Millis(2_000_000)),
    };
    assert!(refreshed.contains(&refresh), "{refreshed:?}");
}

#[test]
fn a_check_that_takes_too_long_changes_nothing() {
    let mut bench = Bench::expiring(Some(30 * SECOND));
    let request = ask_to_refresh(&mut bench);
    let out = frames(&bench.pass(10 * SECOND));
    assert_eq!(out[0]["statusCode"], 503);
    assert_eq!(out[0]["code"], "token_not_checked");
    let later = expiry(bench.now, None);
    assert_eq!(
        check(&mut bench, request, good(later)),
        [],
        "answered before"
    );
    assert_eq!(endings(&bench.pass(20 * SECOND)).len(), 1);
}

#[test]
fn a_refresh_needs_a_token() {
    for text in [
        r#"{"action":"refresh"}"#,
        r#"{"action":"refresh","token":7}"#,
        r#"{"action":"refresh","token":null}"#,
    ] {
        let out = frames(&Bench::new().text(text));
        assert_eq!(out[0]["statusCode"], 400, "{text}");
        assert_eq!(out[0]["code"], "token_missing", "{text}");
    }
    let sent = Bench::new().text(r#"{"action":"send","message":1,"token":7}"#);
    assert!(
        matches!(sent[..], [Output::Append { .. }]),
        "as it always was"
    );
}

#[test]
fn who_sends_too_many_frames_is_closed() {
    let mut limited = rules();
    limited.frame_rate = Rate::new(2, SECOND, 3);
    let now = start();
    let mut bench = Bench::with(limited, expiry(now, None), now);
    let nothing = Bytes::new;
    for input in [
        Input::Pong,
        Input::Ping(nothing()),
        Input::Binary(nothing()),
    ] {
        assert!(endings(&bench.give(input)).is_empty());
    }
    bench.now += SECOND;
    for _ in 0..2 {
        assert!(endings(&bench.text(r#"{"action":"ping"}"#)).is_empty());
    }
    let sent = Input::AnswerSent;
    assert!(
        endings(&bench.give(sent)).is_empty(),
        "only the client's frames count"
    );
    let ending = endings(&bench.text(r#"{"action":"ping"}"#))[0];
    assert_eq!(ending.code, CloseCode::TOO_FAST_OR_SLOW);
    assert_eq!(ending.frame, CloseFrame::Code(CloseCode::TOO_FAST_OR_SLOW));
}

#[derive(Clone, Debug)]
enum Step {
    Text(String),
    Ping,
    Answer(Answer),
    Sent,
    Stall,
    Flow,
    Pass(u64),
    Close,
}

fn step() -> impl Strategy<Value = Step> {
    let frame = prop_oneof![
        Just(r#"{"action":"ping"}"#.to_owned()),
        Just(r#"{"action":"send","message":[1]}"#.to_owned()),
        Just(r#"{"action":"publish","message":{},"id":7}"#.to_owned()),
        Just(r#"{"action":"refresh","token":"t","id":8}"#.to_owned()),
        any::<String>(),
        "[\\[\\]{}\":,a-z0-9 ]{0,40}",
        "\\{\"action\":\"(send|ping|refresh|x)\",\"(id|message|token)\":.{0,12}\\}",
    ];
    let answer = prop_oneof![
        Just(Answer::Logged(position())),
        Just(Answer::Refused),
        Just(Answer::Unavailable),
        Just(Answer::Unknown),
    ];
    prop_oneof![
        8 => frame.prop_map(Step::Text),
        1 => Just(Step::Ping),
        4 => answer.prop_map(Step::Answer),
        8 => Just(Step::Sent),
        1 => Just(Step::Stall),
        2 => Just(Step::Flow),
        4 => (0_u64..20_000).prop_map(Step::Pass),
        1 => Just(Step::Close),
    ]
}

proptest! {
    /// Whatever comes: each text frame is answered once, what waits is bounded, the message is the
    /// client's own bytes, timers move on, and an ended session does nothing more.
    #[test]
    fn nothing_is_lost_and_nothing_grows(steps in prop::collection::vec(step(), 0..200)) {
        let mut bench = Bench::new();
        let (mut asked, mut answered) = (0_usize, 0_usize);
        let mut waiting = std::collections::VecDeque::new();
        for step in steps {
            let ended = bench.session.ended;
            let out = match step {
                Step::Text(text) if bench.session.wants_input() => {
                    asked += 1;
                    let out = bench.text(&text);
                    for output in &out {
                        if let Output::Append { message, .. } = output {
                            let message = std::str::from_utf8(message).unwrap();
                            prop_assert!(text.contains(message));
                        }
                    }
                    prop_assert_eq!(out.len(), 1);
                    out
                }
                Step::Ping if bench.session.wants_input() => bench.give(Input::Ping(Bytes::new())),
                Step::Answer(answer) => match waiting.pop_front() {
                    Some((request, true)) => {
                        let verdict = match answer {
                            Answer::Logged(_) => good(expiry(bench.now, Some(900 * SECOND))),
                            _ => bad(),
                        };
                        bench.give(Input::Checked { request, verdict })
                    }
                    Some((request, false)) => bench.give(Input::Answered { request, answer }),
                    None => continue,
                },
                Step::Sent => bench.give(Input::AnswerSent),
                Step::Stall => bench.give(Input::Stalled),
                Step::Flow => bench.give(Input::Flowing),
                Step::Pass(ms) => bench.pass(Duration::from_millis(ms)),
                Step::Close => bench.give(Input::Command(CloseCode::DRAIN)),
                Step::Text(_) | Step::Ping => continue,
            };
            prop_assert!(!ended || out.is_empty());
            for output in &out {
                match output {
                    Output::Append { request, .. } | Output::Renew { request, .. } => {
                        waiting.push_back((*request, false));
                    }
                    Output::Check { request, .. } => waiting.push_back((*request, true)),
                    Output::Send(_) => answered += 1,
                    _ => {}
                }
            }
            prop_assert!(bench.session.in_flight.len() <= 3);
            // What was in flight when reading stopped may still be answered on top.
            prop_assert!(bench.session.unsent_answers <= 4 + 3);
        }
        if !bench.session.ended {
            answered += frames(&bench.pass(10 * SECOND)).len();
            if !bench.session.ended {
                prop_assert_eq!(asked, answered);
            }
        }
    }
}
