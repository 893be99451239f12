//! `GET /v1/presence/events?user_id=…&user_id=…`

use std::sync::Arc;

use actix_web::http::StatusCode;
use actix_web::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use actix_web::web::{Bytes, Data};
use actix_web::{HttpRequest, HttpResponse};
use futures_util::stream;
use runtime::http::Problem;
use tokio::sync::mpsc;

use super::authorization::{authorized, unauthorized};
use super::presence::asked;
use crate::api_keys::Scope;
use crate::edge::Edge;
use crate::lease::Standing;
use crate::subscription::{Failed, Subscription};

/// Events that wait for one client; then its reader waits too.
const QUEUED_EVENTS: usize = 64;

/// `GET /v1/presence/events`
pub(crate) async fn subscribe(
    request: HttpRequest,
    edge: Data<Edge>,
) -> Result<HttpResponse, Problem> {
    authorized(&request, &edge, Scope::PresenceRead).await?;
    let users = asked(
        request.query_string(),
        edge.config.limits.max_presence_users,
    )?;
    let last_id = request.headers().get("last-event-id");
    let last_id = last_id.and_then(|id| id.to_str().ok()).map(str::to_owned);
    let edge = edge.into_inner();
    let draining = match *edge.standing.borrow() {
        Standing::Held(tenure) => tenure.draining,
        Standing::Waiting(_) => false,
        Standing::Ended => true,
    };
    if draining {
        let problem = Problem::new(StatusCode::SERVICE_UNAVAILABLE, "edge_draining");
        return Err(problem.detail("this edge is about to leave").retry_after(1));
    }
    let slot = Arc::clone(&edge.subscriptions).try_acquire_owned();
    let slot = slot.map_err(|_full| {
        let problem = Problem::new(StatusCode::SERVICE_UNAVAILABLE, "too_many_subscriptions");
        problem
            .detail("this edge serves as many streams as it may")
            .retry_after(1)
    })?;
    let (out, events) = mpsc::channel::<Bytes>(QUEUED_EVENTS);
    let opened = Subscription::open(Arc::clone(&edge), users, last_id.as_deref(), slot).await;
    let subscription = opened.map_err(|error| {
        tracing::warn!(%error, "a stream of presence could not begin");
        let code = match error {
            Failed::Log(_) => Problem::new(StatusCode::SERVICE_UNAVAILABLE, "log_unavailable"),
            Failed::Store(_) => Problem::new(StatusCode::SERVICE_UNAVAILABLE, "store_unavailable"),
        };
        code.detail(error.to_string()).retry_after(1)
    })?;
    let unauthorized = unauthorized(&request, Arc::clone(&edge), Scope::PresenceRead);
    edge.spawn(subscription.run(out, unauthorized));
    let body = stream::unfold(events, async |mut events| {
        let event = events.recv().await?;
        Some((Ok::<_, actix_web::Error>(event), events))
    });
    Ok(HttpResponse::Ok()
        .insert_header((CONTENT_TYPE, "text/event-stream; charset=utf-8"))
        .insert_header((CACHE_CONTROL, "no-store"))
        // Proxies that buffer by default hold events back.
        .insert_header(("x-accel-buffering", "no"))
        .streaming(Box::pin(body)))
}
