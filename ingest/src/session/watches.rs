//! Decides whom a client watches.

use std::collections::BTreeSet;
use std::time::Instant;

use schemas::UserId;
use schemas::frames::{ClientFrame, ServerFrame};
use serde_json::value::RawValue;

use super::{Fault, InFlight, Output, Session, Waiting};
use crate::watchlist::Permit;

/// The states of users cannot be told.
pub(super) const UNAVAILABLE: Fault<'static> = Fault::new(503, "presence is unavailable");

impl Session {
    /// `watch` or `unwatch`.
    pub(super) fn watch_list(
        &mut self,
        now: Instant,
        frame: &ClientFrame<'_>,
        out: &mut Vec<Output>,
    ) {
        let id = frame.id;
        let users = match (frame.users.map(named).transpose(), frame.action.as_ref()) {
            (Ok(Some(users)), "watch") if !users.is_empty() => users,
            (Ok(users), "unwatch") => return self.unwatch(users, id, out),
            _ => return self.refuse(&Fault::new(400, "users must list user ids"), id, out),
        };
        if let Some(user) = users.iter().find(|user| !self.permit.covers(user)) {
            let why = format!("{user} may not be watched with this token");
            return self.refuse(&Fault::new(403, &why), id, out);
        }
        let new: Vec<UserId> = users.difference(&self.watched).cloned().collect();
        if self.watched.len() + new.len() > self.rules.max_watched {
            let why = format!("{} users can be watched at most", self.rules.max_watched);
            return self.refuse(&Fault::new(400, &why), id, out);
        }
        self.watched.extend(new.iter().cloned());
        if new.is_empty() {
            return self.watching("watch", id, out);
        }
        let request = self.wait(Waiting::Watch(new.clone()), id, now);
        out.push(Output::Watch {
            request,
            users: new,
        });
    }

    /// What became of an [`Output::Watch`].
    pub(super) fn begun(&mut self, request: u64, begun: bool, out: &mut Vec<Output>) {
        // Not there: its time had passed, and it was answered then.
        let Some(InFlight {
            what: Waiting::Watch(users),
            id,
            ..
        }) = self.in_flight.remove(&request)
        else {
            return;
        };
        if begun {
            self.watching("watch", id.as_deref(), out);
        } else {
            self.forget(&users, out);
            self.refuse(&UNAVAILABLE, id.as_deref(), out);
        }
    }

    /// Takes the permit of a new token: who is not covered is watched no more.
    pub(super) fn permit_only(&mut self, permit: Permit, out: &mut Vec<Output>) {
        self.permit = permit;
        let lost = self.watched.iter().filter(|user| !self.permit.covers(user));
        let lost: Vec<UserId> = lost.cloned().collect();
        self.forget(&lost, out);
    }

    fn unwatch(
        &mut self,
        users: Option<BTreeSet<UserId>>,
        id: Option<&RawValue>,
        out: &mut Vec<Output>,
    ) {
        let users = users.unwrap_or_else(|| self.watched.clone());
        let users: Vec<UserId> = users.into_iter().collect();
        self.forget(&users, out);
        self.watching("unwatch", id, out);
    }

    /// Watches these users no more. Whatever still waits to watch them has nothing to undo if it
    /// fails: asked for anew, they are another request's.
    pub(super) fn forget(&mut self, users: &[UserId], out: &mut Vec<Output>) {
        let gone: Vec<UserId> = (users.iter())
            .filter(|user| self.watched.remove(*user))
            .cloned()
            .collect();
        if !gone.is_empty() {
            for waiting in self.in_flight.values_mut() {
                if let Waiting::Watch(users) = &mut waiting.what {
                    users.retain(|user| self.watched.contains(user));
                }
            }
            out.push(Output::Unwatch(gone));
        }
    }

    fn watching(&mut self, action: &str, id: Option<&RawValue>, out: &mut Vec<Output>) {
        let ack = ServerFrame::Watching {
            action,
            id,
            status_code: 200,
            users: self.watched.iter().collect(),
        };
        let text = ack.encode().into();
        self.answer(Output::Send(text), out);
    }
}

/// The users of a frame, each once.
fn named(users: &RawValue) -> serde_json::Result<BTreeSet<UserId>> {
    serde_json::from_str(users.get())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use serde_json::{Value, json};

    use super::super::tests::{connection, frames, rules};
    use super::super::{Expiry, Identity, Input, Rules, Verdict};
    use super::*;

    const NEVER: Expiry = Expiry {
        at: None,
        deadline: None,
    };

    struct Bench {
        session: Session,
        now: Instant,
    }

    impl Bench {
        fn new(permit: Permit) -> Self {
            let now = tokio::time::Instant::now().into_std();
            let rules = Rules {
                max_watched: 3,
                ..rules()
            };
            let identity = Identity {
                user_id: "alice".parse().unwrap(),
                connection_id: connection(),
                expiry: NEVER,
            };
            let session = Session::new(Arc::new(rules), identity, now);
            Self {
                session: session.permitting(permit),
                now,
            }
        }

        fn give(&mut self, input: Input) -> Vec<Output> {
            let mut out = vec![];
            self.session.handle(self.now, input, &mut out);
            out
        }

        fn text(&mut self, frame: &Value) -> Vec<Output> {
            let out = self.give(Input::Text(frame.to_string().into()));
            for _ in frames(&out) {
                self.give(Input::AnswerSent);
            }
            out
        }
    }

    fn users(names: &[&str]) -> Vec<UserId> {
        names.iter().map(|name| name.parse().unwrap()).collect()
    }

    fn ack(action: &str, id: u64, users: &[&str]) -> Value {
        json!({"type": "ack", "action": action, "id": id, "statusCode": 200, "users": users})
    }

    #[test]
    fn a_watch_is_acked_once_it_has_begun_and_ends_with_an_unwatch() {
        let mut bench = Bench::new(Permit::Anybody);
        let out = bench.text(&json!({"action": "watch", "users": ["b", "a", "b"], "id": 1}));
        let watch = |request, names: &[&str]| Output::Watch {
            request,
            users: users(names),
        };
        assert_eq!(out, [watch(1, &["a", "b"])]);
        let out = bench.give(Input::Watched {
            request: 1,
            begun: true,
        });
        assert_eq!(frames(&out), [ack("watch", 1, &["a", "b"])]);

        // Only who is new is asked for.
        let out = bench.text(&json!({"action": "watch", "users": ["a", "c"], "id": 2}));
        assert_eq!(out, [watch(2, &["c"])]);
        let again = bench.text(&json!({"action": "watch", "users": ["a"], "id": 3}));
        assert_eq!(frames(&again), [ack("watch", 3, &["a", "b", "c"])]);
        let out = bench.text(&json!({"action": "unwatch", "users": ["a", "x"], "id": 4}));
        assert_eq!(out[0], Output::Unwatch(users(&["a"])));
        assert_eq!(frames(&out), [ack("unwatch", 4, &["b", "c"])]);
        let out = bench.text(&json!({"action": "unwatch", "id": 5}));
        assert_eq!(out[0], Output::Unwatch(users(&["b", "c"])));
        assert_eq!(frames(&out), [ack("unwatch", 5, &[])]);
        assert!(bench.session.watched.is_empty());
        let out = bench.give(Input::Watched {
            request: 2,
            begun: true,
        });
        assert_eq!(frames(&out), [ack("watch", 2, &[])], "it was undone since");
    }

    #[test]
    fn what_cannot_be_watched_is_refused_and_changes_nothing() {
        let these = users(&["a", "b", "c", "d"]).into_iter().collect();
        let mut bench = Bench::new(Permit::These(Box::new(these)));
        bench.text(&json!({"action": "watch", "users": ["a"]}));
        for (frame, status) in [
            (json!({"action": "watch", "id": 1}), 400),
            (json!({"action": "watch", "users": [], "id": 1}), 400),
            (json!({"action": "watch", "users": "a", "id": 1}), 400),
            (json!({"action": "watch", "users": [1], "id": 1}), 400),
            (json!({"action": "watch", "users": ["b", ""], "id": 1}), 400),
            (json!({"action": "unwatch", "users": 5, "id": 1}), 400),
            (
                json!({"action": "watch", "users": ["b", "x"], "id": 1}),
                403,
            ),
            (
                json!({"action": "watch", "users": ["b", "c", "d"], "id": 1}),
                400,
            ),
        ] {
            let out = bench.text(&frame);
            let error = &frames(&out)[0];
            assert_eq!(
                (out.len(), &error["statusCode"]),
                (1, &status.into()),
                "{frame}"
            );
            assert_eq!(error["id"], 1);
        }
        assert_eq!(bench.session.watched, users(&["a"]).into_iter().collect());
        let out = Bench::new(Permit::Nobody).text(&json!({"action": "watch", "users": ["a"]}));
        assert_eq!(frames(&out)[0]["statusCode"], 403);
    }

    #[test]
    fn a_watch_that_cannot_begin_is_answered_and_undone() {
        let mut bench = Bench::new(Permit::Anybody);
        bench.text(&json!({"action": "watch", "users": ["a"]}));
        let out = bench.give(Input::Watched {
            request: 1,
            begun: false,
        });
        assert_eq!(out[0], Output::Unwatch(users(&["a"])));
        assert_eq!(frames(&out)[0]["statusCode"], 503);

        bench.give(Input::AnswerSent);
        bench.text(&json!({"action": "watch", "users": ["a", "b"], "id": 2}));
        bench.now += Duration::from_secs(10);
        assert!(bench.session.deadline() <= bench.now);
        let out = bench.give(Input::Timer);
        assert_eq!(out[0], Output::Unwatch(users(&["a", "b"])));
        assert_eq!(frames(&out)[0]["statusCode"], 503);
        let late = bench.give(Input::Watched {
            request: 2,
            begun: true,
        });
        assert!(late.is_empty(), "answered once");
    }

    #[test]
    fn the_failure_of_a_watch_leaves_what_was_asked_for_anew_since() {
        for (late, newer_first) in [(false, false), (false, true), (true, false), (true, true)] {
            let mut bench = Bench::new(Permit::Anybody);
            bench.text(&json!({"action": "watch", "users": ["a", "b"], "id": 1}));
            bench.text(&json!({"action": "unwatch", "users": ["a"], "id": 2}));
            bench.now += Duration::from_secs(5);
            bench.text(&json!({"action": "watch", "users": ["a"], "id": 3}));
            let newer = |bench: &mut Bench, watched: &[&str]| {
                let (request, begun) = (2, true);
                let out = bench.give(Input::Watched { request, begun });
                assert_eq!(frames(&out), [ack("watch", 3, watched)]);
            };
            if newer_first {
                newer(&mut bench, &["a", "b"]);
            }
            let (request, begun) = (1, false);
            bench.now += Duration::from_secs(5);
            let older = [Input::Watched { request, begun }, Input::Timer];
            let out = bench.give(older.into_iter().nth(usize::from(late)).unwrap());
            assert_eq!(out[0], Output::Unwatch(users(&["b"])), "not a");
            assert_eq!(
                (&frames(&out)[0]["id"], &frames(&out)[0]["statusCode"]),
                (&1.into(), &503.into())
            );
            if !newer_first {
                newer(&mut bench, &["a"]);
            }
            assert_eq!(bench.session.watched, users(&["a"]).into_iter().collect());
        }
    }

    #[test]
    fn a_new_token_permits_what_it_says_and_no_more() {
        let mut bench = Bench::new(Permit::Anybody);
        bench.text(&json!({"action": "watch", "users": ["a", "b"], "id": 1}));
        bench.text(&json!({"action": "refresh", "token": "t"}));
        let these = users(&["b", "c"]).into_iter().collect();
        let verdict = Verdict::Good {
            user_id: "alice".parse().unwrap(),
            expiry: NEVER,
            watch: Permit::These(Box::new(these)),
        };
        let out = bench.give(Input::Checked {
            request: 2,
            verdict,
        });
        assert_eq!(out[0], Output::Unwatch(users(&["a"])));
        let out = bench.text(&json!({"action": "watch", "users": ["a"]}));
        assert_eq!(frames(&out)[0]["statusCode"], 403);
    }

    #[test]
    fn where_no_client_may_watch_it_is_an_action_like_any_other() {
        let mut bench = Bench::new(Permit::Anybody);
        bench.session.rules = Arc::new(rules());
        let out = bench.text(&json!({"action": "watch", "users": ["a"]}));
        assert_eq!(frames(&out)[0]["message"], "unknown action");
    }
}
