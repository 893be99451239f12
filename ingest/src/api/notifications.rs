//! `POST /v1/notifications`

use std::sync::Arc;

use actix_web::http::StatusCode;
use actix_web::web::{Bytes, Data, Payload};
use actix_web::{FromRequest as _, HttpRequest, HttpResponse};
use eventlog::{AppendError, NewRecord};
use runtime::http::Problem;
use runtime::telemetry::trace;
use schemas::{Notification, Position};
use serde::Serialize;

use super::authorization::authorized;
use super::unreadable;
use crate::api_keys::Scope;
use crate::edge::Edge;

#[derive(Debug, Serialize)]
struct Accepted {
    position: Position,
}

/// `POST /v1/notifications`
pub(crate) async fn notify(
    request: HttpRequest,
    body: Payload,
    edge: Data<Edge>,
) -> Result<HttpResponse, Problem> {
    // Nothing is read from, and no memory held for, somebody without a key.
    authorized(&request, &edge, Scope::Notify).await?;
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
