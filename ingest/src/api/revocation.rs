//! Answers `DELETE /v1/users/{user_id}/connections`: the user's tokens count no more.

use actix_web::http::StatusCode;
use actix_web::web::{Data, Path};
use actix_web::{HttpRequest, HttpResponse};
use eventlog::AppendError;
use runtime::http::Problem;
use schemas::{Millis, Position, UserId};
use serde::Serialize;

use super::authorization::authorized;
use crate::api_keys::Scope;
use crate::edge::Edge;
use crate::revoke;

#[derive(Debug, Serialize)]
struct Revoked {
    position: Position,
    not_before: Millis,
}

/// `DELETE /v1/users/{user_id}/connections`
pub(crate) async fn revoke(
    request: HttpRequest,
    user: Path<String>,
    edge: Data<Edge>,
) -> Result<HttpResponse, Problem> {
    authorized(&request, &edge, Scope::ConnectionsWrite).await?;
    let user: UserId = user.parse().map_err(|error: schemas::id::IdError| {
        Problem::new(StatusCode::BAD_REQUEST, "malformed_user_id").detail(error.to_string())
    })?;
    match revoke::revoke(&edge, user).await {
        Ok((appended, not_before)) => Ok(HttpResponse::Accepted().json(Revoked {
            position: appended.position,
            not_before,
        })),
        Err(error) => Err(not_logged(&error)),
    }
}

fn not_logged(error: &AppendError) -> Problem {
    let problem = match error {
        AppendError::Unknown { .. } => Problem::new(StatusCode::GATEWAY_TIMEOUT, "outcome_unknown"),
        _ => Problem::new(StatusCode::SERVICE_UNAVAILABLE, "log_unavailable").retry_after(1),
    };
    problem.detail(error.to_string())
}
