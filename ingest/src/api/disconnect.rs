//! Answers `DELETE /v1/connections/{connection_id}`, on whichever edge it is asked: the id names the edge
//! that holds the connection.

use std::sync::Arc;

use actix_web::http::StatusCode;
use actix_web::web::{Data, Path};
use actix_web::{HttpRequest, HttpResponse};
use reqwest::StatusCode as Status;
use runtime::http::Problem;
use schemas::{CloseCode, ConnectionId, push};

use super::authorization::authorized;
use crate::api_keys::Scope;
use crate::edge::Edge;
use crate::push::knows_secret;

/// Where edges ask each other, followed by the connection's id.
pub(crate) const INTERNAL_PATH: &str = "/internal/connections";

/// Where a connection is.
enum Place {
    Here,
    /// At an edge with that push URL.
    There(Arc<str>),
    /// Nowhere any more: its edge's life is over.
    Gone,
}

/// `DELETE /v1/connections/{connection_id}`
pub(crate) async fn disconnect(
    request: HttpRequest,
    id: Path<String>,
    edge: Data<Edge>,
) -> Result<HttpResponse, Problem> {
    authorized(&request, &edge, Scope::ConnectionsWrite).await?;
    let id = connection_id(&id)?;
    match place(&edge, &id).await? {
        Place::Here => close(&edge, &id),
        Place::There(url) => forward(&edge, &url, &id).await,
        Place::Gone => Err(gone()),
    }
}

/// `DELETE /internal/connections/{connection_id}`: the same, asked by another edge.
pub(crate) async fn disconnect_here(
    request: HttpRequest,
    id: Path<String>,
    edge: Data<Edge>,
) -> Result<HttpResponse, Problem> {
    knows_secret(&request, &edge)?;
    close(&edge, &connection_id(&id)?)
}

fn connection_id(text: &str) -> Result<ConnectionId, Problem> {
    text.parse().map_err(|error: schemas::id::IdError| {
        Problem::new(StatusCode::BAD_REQUEST, "malformed_connection_id").detail(error.to_string())
    })
}

async fn place(edge: &Edge, id: &ConnectionId) -> Result<Place, Problem> {
    let (edge_id, epoch) = id.home();
    if edge_id == edge.id.as_str() {
        return Ok(Place::Here);
    }
    let Ok(edge_id) = edge_id.parse() else {
        return Ok(Place::Gone);
    };
    let look = || {
        edge.edges.with(|membership| {
            let life = membership.life(&edge_id, epoch)?;
            life.push_url.as_deref().map(Arc::from)
        })
    };
    if let Some(url) = look() {
        return Ok(Place::There(url));
    }
    // A life that began just now may not have been read yet.
    edge.edges.read_to_end().await.map_err(|error| {
        let problem = Problem::new(StatusCode::SERVICE_UNAVAILABLE, "log_unavailable");
        problem.detail(error.to_string()).retry_after(1)
    })?;
    Ok(look().map_or(Place::Gone, Place::There))
}

fn close(edge: &Edge, id: &ConnectionId) -> Result<HttpResponse, Problem> {
    if edge.registry.close(id, CloseCode::DISCONNECTED) {
        Ok(HttpResponse::NoContent().finish())
    } else {
        Err(gone())
    }
}

fn gone() -> Problem {
    Problem::new(StatusCode::GONE, "connection_gone").detail("no edge holds this connection")
}

async fn forward(edge: &Edge, url: &str, id: &ConnectionId) -> Result<HttpResponse, Problem> {
    let url = format!("{}{INTERNAL_PATH}/{id}", url.trim_end_matches('/'));
    let request = edge
        .peers
        .delete(url)
        .header(push::SECRET_HEADER, edge.push_secret.expose());
    match request.send().await.map(|response| response.status()) {
        Ok(Status::NO_CONTENT) => Ok(HttpResponse::NoContent().finish()),
        Ok(Status::GONE) => Err(gone()),
        Ok(status) => {
            let problem = Problem::new(StatusCode::SERVICE_UNAVAILABLE, "edge_unavailable");
            let detail = format!("the connection's edge answered {status}");
            Err(problem.detail(detail).retry_after(1))
        }
        Err(error) => {
            let problem = Problem::new(StatusCode::GATEWAY_TIMEOUT, "edge_unreachable");
            Err(problem.detail(error.without_url().to_string()))
        }
    }
}
