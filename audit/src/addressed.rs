//! Says whom a notification meant, among those who were online when it came into the log.

use schemas::push::Target;
use schemas::{ConnectionId, UserId};
use serde::Serialize;

use crate::history::Online;

/// Whom a notification meant.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Addressed {
    /// Sockets that were open, with their users.
    pub sockets: Vec<(UserId, ConnectionId)>,
    /// Users who were named and had no socket: nobody there.
    pub absent_users: Vec<UserId>,
    /// Connections that were named and not open.
    pub absent_connections: Vec<ConnectionId>,
}

/// Whom that target means among these.
#[must_use]
pub fn addressed(target: &Target, online: &[Online]) -> Addressed {
    let excluded = |user: &UserId| target.exclude_users.contains(user);
    let mut addressed = Addressed::default();
    for one in online.iter().filter(|one| !excluded(&one.user_id)) {
        let by_name = target.is_broadcast() || target.users.contains(&one.user_id);
        let meant = one
            .connections
            .iter()
            .filter(|id| by_name || target.connections.contains(id));
        let meant = meant.map(|id| (one.user_id.clone(), id.clone()));
        addressed.sockets.extend(meant);
    }
    let has_socket = |user: &UserId| {
        let mut users = online.iter().filter(|one| !one.connections.is_empty());
        users.any(|one| one.user_id == *user)
    };
    let absent = target.users.iter();
    let absent = absent.filter(|user| !excluded(user) && !has_socket(user));
    addressed.absent_users = absent.cloned().collect();
    let is_open = |id: &ConnectionId| online.iter().any(|one| one.connections.contains(id));
    let absent = target.connections.iter().filter(|id| !is_open(id));
    addressed.absent_connections = absent.cloned().collect();
    addressed
}

#[cfg(test)]
mod tests {
    use schemas::{Epoch, Notification};

    use super::*;

    fn id(n: u64) -> ConnectionId {
        ConnectionId::new(&"e".parse().unwrap(), Epoch(1), n)
    }

    fn online() -> Vec<Online> {
        let one = |user: &str, sockets: &[u64]| Online {
            user_id: user.parse().unwrap(),
            since: None,
            connections: sockets.iter().map(|n| id(*n)).collect(),
            grace_until: None,
        };
        // The last one is in a grace.
        vec![one("ann", &[1, 2]), one("bob", &[3]), one("cleo", &[])]
    }

    /// The sockets by number, and who or what was not there.
    fn meant(request: &str) -> (Vec<ConnectionId>, Vec<String>) {
        let request = bytes::Bytes::copy_from_slice(request.as_bytes());
        let target = Notification::decode(&request).unwrap().target;
        let addressed = addressed(&target, &online());
        let absent = addressed.absent_users.iter().map(ToString::to_string);
        let gone = addressed.absent_connections.iter();
        let absent = absent.chain(gone.map(ToString::to_string)).collect();
        let sockets = addressed.sockets.into_iter().map(|(_, id)| id).collect();
        (sockets, absent)
    }

    #[test]
    fn the_meant_are_those_of_the_request() {
        let nobody: Vec<String> = vec![];
        assert_eq!(
            meant(r#"{"data":1}"#),
            (vec![id(1), id(2), id(3)], nobody.clone())
        );
        assert_eq!(
            meant(r#"{"exclude_users":["ann"],"data":1}"#),
            (vec![id(3)], nobody.clone())
        );
        assert_eq!(
            meant(r#"{"users":["ann","cleo","dan"],"exclude_users":["dan"],"data":1}"#),
            (vec![id(1), id(2)], vec!["cleo".into()])
        );
        let connections = format!(r#"{{"connections":["{}","{}"],"data":1}}"#, id(2), id(9));
        assert_eq!(meant(&connections), (vec![id(2)], vec![id(9).to_string()]));
        let both = format!(
            r#"{{"users":["bob"],"connections":["{}"],"data":1}}"#,
            id(1)
        );
        assert_eq!(meant(&both), (vec![id(1), id(3)], nobody));
    }
}
