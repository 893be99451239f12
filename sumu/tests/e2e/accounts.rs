//! Holds delivery receipts against what sockets received: every notification's fate is accounted for.

use audit::receipts::{Account, Accounts};
use schemas::deliveries::{Outcome, Unanswered};
use schemas::{ConnectionId, Deliveries, Millis};

use crate::check::Produced;
use crate::device::{Journal, Session};
use crate::kafka::Seen;

/// What the records of `deliveries` say, joined.
pub(crate) fn joined(records: &[Seen]) -> Accounts {
    let mut accounts = Accounts::default();
    for record in records {
        assert_eq!(record.header("ce_type"), Some(Deliveries::TYPE));
        let told = Deliveries::decode(&record.value).unwrap();
        assert_eq!(told.partition, record.partition);
        accounts.add(&told, Millis(record.timestamp), |_| true);
    }
    accounts
}

/// How often each fate was met: a run that met none of them proves nothing.
#[derive(Debug, Default)]
pub(crate) struct Met {
    pub(crate) delivered: usize,
    pub(crate) edge_lost: usize,
    pub(crate) nobody_there: usize,
}

/// Every notification has an account, with the connections named; what a socket received is in it, and
/// a socket that lives on has received what is in it.
pub(crate) fn are_true(accounts: &Accounts, journal: &Journal, produced: &[Produced]) -> Met {
    let mut met = Met::default();
    for one in produced {
        let place = (one.partition, one.offset);
        let account = accounts.of(one.partition, one.offset);
        let account = account.unwrap_or_else(|| panic!("{place:?} has no receipt"));
        adds_up(account, place);
        met.edge_lost += account.unanswered(Unanswered::EdgeLost).count();
        met.nobody_there += usize::from(account.nobody_there());
        for session in &journal.sessions {
            met.delivered += usize::from(is_true(account, session, one.n));
        }
    }
    met
}

/// Each edge counts the connections that it names, and none has forgotten.
fn adds_up(account: &Account, place: (i32, i64)) {
    let kinds = [Outcome::Sent, Outcome::NobodyThere];
    assert!(kinds.contains(&account.outcome), "{place:?}: {account:?}");
    for edge in &account.edges {
        let forgotten = Some(Unanswered::Forgotten);
        assert_ne!(edge.unanswered, forgotten, "{place:?}: {account:?}");
        if let Some(devices) = &edge.devices {
            let named = (devices.delivered.len(), devices.overflowed.len());
            let counted = (edge.delivered as usize, edge.overflowed as usize);
            assert_eq!(named, counted, "{place:?}: {account:?}");
        }
    }
}

/// Compares what a receipt says of a socket with what it received; answers whether that was something.
fn is_true(account: &Account, session: &Session, n: u64) -> bool {
    let id: ConnectionId = session.connection.parse().unwrap();
    let received = session.notifications.contains(&n);
    let told = account.device(&id) == Some("delivered");
    let mut lost = account.unanswered(Unanswered::EdgeLost);
    let lost = lost.any(|life| (life.edge_id.as_str(), life.epoch) == id.home());
    let lives = session.closed.is_none();
    if lives && !lost {
        assert_eq!(received, told, "{n} at {session:?}: {account:?}");
    } else if received {
        assert!(told || lost, "{n} at {session:?}: {account:?}");
    }
    received
}
