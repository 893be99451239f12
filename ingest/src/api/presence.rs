//! `GET /v1/presence?user_id=…&user_id=…`

use std::collections::{HashMap, HashSet};

use actix_web::http::StatusCode;
use actix_web::web::{Data, Query};
use actix_web::{HttpRequest, HttpResponse};
use runtime::http::Problem;
use schemas::presence::Status;
use schemas::{ConnectionRow, Millis, Position, UserId};
use serde::Serialize;
use store::StoreError;

use super::authorization::authorized;
use crate::api_keys::Scope;
use crate::edge::Edge;

#[derive(Debug, Serialize)]
struct Presence {
    users: Vec<UserPresence>,
}

#[derive(Debug, Serialize)]
struct UserPresence {
    user_id: UserId,
    status: Status,
    since: Option<Millis>,
    last_seen: Option<Millis>,
    devices: usize,
    position: Option<Position>,
}

/// `GET /v1/presence?user_id=…&user_id=…`
pub(crate) async fn presence(
    request: HttpRequest,
    edge: Data<Edge>,
) -> Result<HttpResponse, Problem> {
    authorized(&request, &edge, Scope::PresenceRead).await?;
    let users = asked(
        request.query_string(),
        edge.config.limits.max_presence_users,
    )?;
    if users.is_empty() {
        let problem = Problem::new(StatusCode::BAD_REQUEST, "user_id_missing");
        return Err(problem.detail("give user_id, once or more"));
    }
    // One round: the store is asked for both at once.
    let asked =
        futures_util::try_join!(edge.store.presence(&users), edge.store.connections(&users));
    let (rows, connections) = asked.map_err(|error| store_unavailable(&error))?;
    let mut rows: HashMap<UserId, _> = rows
        .into_iter()
        .map(|row| (row.user_id.clone(), row))
        .collect();
    let mut devices: HashMap<UserId, usize> = HashMap::new();
    for row in not_ended(&edge, connections) {
        *devices.entry(row.user_id).or_default() += 1;
    }
    let users = users
        .into_iter()
        .map(|user_id| {
            let row = rows.remove(&user_id);
            UserPresence {
                status: row.as_ref().map_or(Status::Offline, |row| row.status),
                since: row.as_ref().map(|row| row.since),
                last_seen: row.as_ref().and_then(|row| row.last_seen),
                devices: devices.remove(&user_id).unwrap_or_default(),
                position: row.map(|row| row.position),
                user_id,
            }
        })
        .collect();
    Ok(HttpResponse::Ok().json(Presence { users }))
}

/// Without the rows of edges whose lives have ended: they stay until presence has cleaned up.
pub(super) fn not_ended(edge: &Edge, mut rows: Vec<ConnectionRow>) -> Vec<ConnectionRow> {
    edge.edges
        .with(|edges| rows.retain(|row| edges.ended(&row.edge_id, row.epoch).is_none()));
    rows
}

pub(super) fn store_unavailable(error: &StoreError) -> Problem {
    tracing::warn!(%error, "presence could not be looked up");
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, "store_unavailable").retry_after(1)
}

/// The users of a query, each once, in the order of the query; none, if it names none.
pub(super) fn asked(query: &str, max: usize) -> Result<Vec<UserId>, Problem> {
    let wrong = |code, detail: String| Problem::new(StatusCode::BAD_REQUEST, code).detail(detail);
    let pairs = Query::<Vec<(String, String)>>::from_query(query)
        .map_err(|error| wrong("malformed_query", error.to_string()))?;
    let mut users: Vec<UserId> = Vec::new();
    let mut seen = HashSet::new();
    for (index, (name, value)) in pairs.into_inner().into_iter().enumerate() {
        if name != "user_id" {
            return Err(wrong("unknown_parameter", format!("{name:?} is not known")));
        }
        let user: UserId = value
            .parse()
            .map_err(|error: schemas::id::IdError| wrong("malformed_user_id", error.to_string()))?;
        if seen.insert(user.clone()) {
            users.push(user);
        }
        if index >= max {
            return Err(wrong("too_many_users", format!("ask for {max} at most")));
        }
    }
    Ok(users)
}
