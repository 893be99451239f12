//! `GET /v1/users/{user_id}/connections`

use actix_web::http::StatusCode;
use actix_web::web::{Data, Path};
use actix_web::{HttpRequest, HttpResponse};
use runtime::http::Problem;
use schemas::id::IdError;
use schemas::{ConnectionId, ConnectionRow, EdgeId, Millis, UserId};
use serde::Serialize;

use super::authorization::authorized;
use super::presence::{not_ended, store_unavailable};
use crate::api_keys::Scope;
use crate::edge::Edge;

#[derive(Debug, Serialize)]
struct Connections {
    user_id: UserId,
    /// How many there are; more than are listed, where there are too many.
    total: usize,
    /// The newest first.
    connections: Vec<Listed>,
}

/// What an application may know of a connection: no claim, no token.
#[derive(Debug, Serialize)]
struct Listed {
    connection_id: ConnectionId,
    edge_id: EdgeId,
    opened_at: Millis,
    expires_at: Option<Millis>,
    source_ip: String,
    user_agent: Option<String>,
}

/// `GET /v1/users/{user_id}/connections`
pub(crate) async fn list(
    request: HttpRequest,
    user: Path<String>,
    edge: Data<Edge>,
) -> Result<HttpResponse, Problem> {
    authorized(&request, &edge, Scope::ConnectionsRead).await?;
    let user_id: UserId = user.parse().map_err(|error: IdError| {
        Problem::new(StatusCode::BAD_REQUEST, "malformed_user_id").detail(error.to_string())
    })?;
    let rows = edge.store.connections(std::slice::from_ref(&user_id)).await;
    let mut rows = not_ended(&edge, rows.map_err(|error| store_unavailable(&error))?);
    rows.sort_by(|a, b| {
        let age = b.opened_at.cmp(&a.opened_at);
        age.then_with(|| a.connection_id.cmp(&b.connection_id))
    });
    let total = rows.len();
    rows.truncate(edge.config.limits.max_listed_connections);
    Ok(HttpResponse::Ok().json(Connections {
        user_id,
        total,
        connections: rows.into_iter().map(Listed::from).collect(),
    }))
}

impl From<ConnectionRow> for Listed {
    fn from(row: ConnectionRow) -> Self {
        Self {
            connection_id: row.connection_id,
            edge_id: row.edge_id,
            opened_at: row.opened_at,
            expires_at: row.expires_at,
            source_ip: row.source_ip,
            user_agent: row.user_agent,
        }
    }
}
