//! Lists the close codes: what each says, what the client should do, and whether the user meant to leave.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A WebSocket close code (RFC 6455 §7.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct CloseCode(pub u16);

/// One row of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CloseCodeRow {
    /// The code.
    pub code: CloseCode,
    /// Its stable name, as in the `reason` of `closed` events.
    pub reason: &'static str,
    /// What the client should do.
    pub advice: Advice,
}

/// What a client should do after a close.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Advice {
    /// The client's own wish: nothing.
    Nothing,
    /// Mend what it sends.
    Mend,
    /// Reconnect, after a random wait.
    Reconnect,
    /// Get a new token, then reconnect.
    NewToken,
    /// Reconnect and send or read at a slower or faster pace.
    SlowDown,
    /// Stay away.
    Stop,
}

impl CloseCode {
    /// The client is done.
    pub const NORMAL: Self = Self(1000);
    /// The client's page or program goes away.
    pub const GOING_AWAY: Self = Self(1001);
    /// The client broke the WebSocket protocol.
    pub const PROTOCOL_ERROR: Self = Self(1002);
    /// The client's close frame had no code (never sent on the wire).
    pub const NO_CODE: Self = Self(1005);
    /// The connection dropped without a close frame (never sent on the wire).
    pub const DROPPED: Self = Self(1006);
    /// A text message was not UTF-8.
    pub const INVALID_PAYLOAD: Self = Self(1007);
    /// A message was over the limit.
    pub const TOO_BIG: Self = Self(1009);
    /// The edge restarts: it drains.
    pub const DRAIN: Self = Self(1012);
    /// The edge lost its lease.
    pub const LEASE_LOST: Self = Self(4001);
    /// The token expired.
    pub const TOKEN_EXPIRED: Self = Self(4401);
    /// The user was revoked.
    pub const REVOKED: Self = Self(4403);
    /// Nothing was heard of the client for the silence limit.
    pub const IDLE: Self = Self(4408);
    /// The application closed it.
    pub const DISCONNECTED: Self = Self(4410);
    /// The client sends too many frames, or reads too slowly.
    pub const TOO_FAST_OR_SLOW: Self = Self(4429);

    /// Every code that sumu sends or logs.
    pub const TABLE: [CloseCodeRow; 14] = [
        row(Self::NORMAL, "client_closed", Advice::Nothing),
        row(Self::GOING_AWAY, "going_away", Advice::Nothing),
        row(Self::PROTOCOL_ERROR, "protocol_error", Advice::Mend),
        row(Self::NO_CODE, "client_closed", Advice::Nothing),
        row(Self::DROPPED, "dropped", Advice::Reconnect),
        row(Self::INVALID_PAYLOAD, "invalid_payload", Advice::Mend),
        row(Self::TOO_BIG, "message_too_big", Advice::Mend),
        row(Self::DRAIN, "edge_draining", Advice::Reconnect),
        row(Self::LEASE_LOST, "lease_lost", Advice::Reconnect),
        row(Self::TOKEN_EXPIRED, "token_expired", Advice::NewToken),
        row(Self::REVOKED, "user_revoked", Advice::Stop),
        row(Self::IDLE, "client_silent", Advice::Reconnect),
        row(Self::DISCONNECTED, "disconnected_by_api", Advice::Stop),
        row(Self::TOO_FAST_OR_SLOW, "too_fast_or_slow", Advice::SlowDown),
    ];

    /// The code's stable name; `client_closed_other` for codes that clients made up.
    #[must_use]
    pub fn reason(self) -> &'static str {
        Self::TABLE
            .iter()
            .find(|row| row.code == self)
            .map_or("client_closed_other", |row| row.reason)
    }

    /// Whether OFFLINE follows at once rather than after the grace, for a close with this code.
    /// `clean` says that the client began it with 1000 or no code.
    #[must_use]
    pub fn ends_presence_at_once(self, clean: bool) -> bool {
        clean || self == Self::TOKEN_EXPIRED || self == Self::REVOKED
    }
}

const fn row(code: CloseCode, reason: &'static str, advice: Advice) -> CloseCodeRow {
    CloseCodeRow {
        code,
        reason,
        advice,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A row of the page: `| 1000 | client_closed | nothing | … |`.
    fn page_row(line: &str) -> Option<(u16, &str, &str)> {
        let mut cells = line.strip_prefix('|')?.split('|').map(str::trim);
        let code = cells.next()?.parse().ok()?;
        Some((code, cells.next()?.trim_matches('`'), cells.next()?))
    }

    #[test]
    fn the_page_says_what_the_table_says() {
        let page = include_str!("../../docs/protocol.md");
        let (_, page) = page.split_once("## Close codes").expect("the section");
        let said: Vec<_> = page.lines().filter_map(page_row).collect();
        let meant: Vec<_> = CloseCode::TABLE
            .iter()
            .map(|row| {
                let advice = match row.advice {
                    Advice::Nothing => "nothing",
                    Advice::Mend => "mend what you send",
                    Advice::Reconnect => "reconnect",
                    Advice::NewToken => "get a new token",
                    Advice::SlowDown => "slow down",
                    Advice::Stop => "stop",
                };
                (row.code.0, row.reason, advice)
            })
            .collect();
        assert_eq!(said, meant);
    }

    #[test]
    fn codes_are_listed_once_in_order() {
        assert!(CloseCode::TABLE.is_sorted_by(|a, b| a.code.0 < b.code.0));
    }

    #[test]
    fn presence_ends_at_once_when_the_user_meant_it_or_may_not_stay() {
        assert!(CloseCode::NORMAL.ends_presence_at_once(true));
        assert!(
            !CloseCode::NORMAL.ends_presence_at_once(false),
            "sumu closed with 1000"
        );
        for code in [1001, 1006, 1009, 1012, 4001, 4408, 4410, 4429].map(CloseCode) {
            assert!(!code.ends_presence_at_once(false), "{code:?}");
        }
        for code in [CloseCode::TOKEN_EXPIRED, CloseCode::REVOKED] {
            assert!(code.ends_presence_at_once(false), "{code:?}");
        }
    }
}
