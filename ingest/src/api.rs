//! Answers applications without a Kafka client: `POST /v1/notifications`, `GET /v1/presence`.

use std::collections::HashMap;
use std::sync::Arc;

use actix_web::error::PayloadError;
use actix_web::http::StatusCode;
use actix_web::http::header::AUTHORIZATION;
use actix_web::web::{Bytes, Data, Payload, Query};
use actix_web::{FromRequest as _, HttpRequest, HttpResponse};
use eventlog::{AppendError, NewRecord};
use runtime::http::Problem;
use runtime::telemetry::trace;
use schemas::presence::Status;
use schemas::{Millis, Notification, Position, UserId};
use serde::Serialize;

use crate::edge::Edge;

#[derive(Debug, Serialize)]
struct Accepted {
    position: Position,
}

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

/// `POST /v1/notifications`
pub(crate) async fn notify(
    request: HttpRequest,
    body: Payload,
    edge: Data<Edge>,
) -> Result<HttpResponse, Problem> {
    // Nothing is read from, and no memory held for, somebody without a key.
    authorized(&request, &edge)?;
    let body = Bytes::from_request(&request, &mut body.into_inner()).await;
    let body = body.map_err(|error| unreadable(&error))?;
    let notification = Notification::decode(&body).map_err(|error| {
        let problem = Problem::new(StatusCode::BAD_REQUEST, "malformed_notification");
        problem.detail(error.to_string())
    })?;
    let target = &notification.target;
    // One user's notifications stay in order; the others share the partitions.
    let (partition, key) = match (target.users.as_slice(), target.connections.as_slice()) {
        ([user], []) => (edge.log.partition_of(user), Some(user.as_str())),
        _ => (rand::random_range(0..edge.log.partitions().max(1)), None),
    };
    let traceparent = request.headers().get("traceparent");
    let traceparent = match traceparent.and_then(|given| given.to_str().ok()) {
        Some(given) => Some(given.to_owned()),
        None => trace::inject(),
    };
    let mut envelope = edge.envelope(Notification::TYPE, None);
    envelope.traceparent = traceparent.as_deref();
    let record = NewRecord {
        topic: Arc::clone(&edge.log.topics().notifications),
        partition,
        key: key.map(|key| Bytes::copy_from_slice(key.as_bytes())),
        value: Some(body),
        headers: envelope.headers(),
    };
    let outcome = match edge.producer.append(record) {
        Ok(append) => append.await,
        Err(error) => Err(error),
    };
    match outcome {
        Ok(appended) => Ok(HttpResponse::Accepted().json(Accepted {
            position: appended.position,
        })),
        Err(error) => Err(not_logged(&error)),
    }
}

fn not_logged(error: &AppendError) -> Problem {
    let problem = match error {
        AppendError::Refused { .. } => Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "log_refused"),
        AppendError::Full | AppendError::Unavailable { .. } => {
            Problem::new(StatusCode::SERVICE_UNAVAILABLE, "log_unavailable").retry_after(1)
        }
        AppendError::Unknown { .. } => Problem::new(StatusCode::GATEWAY_TIMEOUT, "outcome_unknown"),
    };
    problem.detail(error.to_string())
}

/// `GET /v1/presence?user_id=…&user_id=…`
pub(crate) async fn presence(
    request: HttpRequest,
    edge: Data<Edge>,
) -> Result<HttpResponse, Problem> {
    authorized(&request, &edge)?;
    let users = asked(
        request.query_string(),
        edge.config.limits.max_presence_users,
    )?;
    let unavailable = |error: store::StoreError| {
        tracing::warn!(%error, "presence could not be looked up");
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, "store_unavailable").retry_after(1)
    };
    let rows = edge.store.presence(&users).await.map_err(unavailable)?;
    let connections = edge.store.connections(&users).await.map_err(unavailable)?;
    let mut rows: HashMap<UserId, _> = rows
        .into_iter()
        .map(|row| (row.user_id.clone(), row))
        .collect();
    let mut devices: HashMap<UserId, usize> = HashMap::new();
    edge.edges.with(|membership| {
        for row in connections {
            // Rows of an edge that died stay until presence has cleaned up.
            if membership.ended(&row.edge_id, row.epoch).is_none() {
                *devices.entry(row.user_id).or_default() += 1;
            }
        }
    });
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

/// The users of a query, each once, in the order of the query.
fn asked(query: &str, max: usize) -> Result<Vec<UserId>, Problem> {
    let wrong = |code, detail: String| Problem::new(StatusCode::BAD_REQUEST, code).detail(detail);
    let pairs = Query::<Vec<(String, String)>>::from_query(query)
        .map_err(|error| wrong("malformed_query", error.to_string()))?;
    let mut users: Vec<UserId> = Vec::new();
    let mut seen = std::collections::HashSet::new();
    for (name, value) in pairs.into_inner() {
        if name != "user_id" {
            return Err(wrong("unknown_parameter", format!("{name:?} is not known")));
        }
        let user: UserId = value
            .parse()
            .map_err(|error: schemas::id::IdError| wrong("malformed_user_id", error.to_string()))?;
        if seen.insert(user.clone()) {
            users.push(user);
        }
        if users.len() > max {
            return Err(wrong("too_many_users", format!("ask for {max} at most")));
        }
    }
    if users.is_empty() {
        return Err(wrong(
            "user_id_missing",
            "give user_id, once or more".into(),
        ));
    }
    Ok(users)
}

/// Whether the request carries one of the API keys. Without keys, everybody on loopback may.
fn authorized(request: &HttpRequest, edge: &Edge) -> Result<(), Problem> {
    let keys = &edge.config.admin.api_keys;
    let given = request.headers().get(AUTHORIZATION);
    let given = given
        .and_then(|value| value.as_bytes().strip_prefix(b"Bearer "))
        .unwrap_or_default();
    // Every key is compared, so that the time does not tell which one was nearly right.
    let known = keys
        .iter()
        .fold(keys.is_empty(), |known, key| known | key.matches(given));
    if known {
        Ok(())
    } else {
        let problem = Problem::new(StatusCode::UNAUTHORIZED, "wrong_api_key");
        Err(problem.detail("send Authorization: Bearer and an API key"))
    }
}

/// A body that could not be read.
pub(crate) fn unreadable(error: &actix_web::Error) -> Problem {
    let too_long = matches!(
        error.as_error::<PayloadError>(),
        Some(PayloadError::Overflow)
    );
    if too_long {
        Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large")
    } else {
        Problem::new(StatusCode::BAD_REQUEST, "unreadable_body").detail(error.to_string())
    }
}
