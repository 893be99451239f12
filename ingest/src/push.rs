//! Takes push batches from pushers and answers how far each was applied.

use std::sync::Arc;
use std::time::Duration;

use actix_web::http::StatusCode;
use actix_web::http::header::CONTENT_TYPE;
use actix_web::web::{Bytes, Data, Payload};
use actix_web::{FromRequest as _, HttpRequest, HttpResponse};
use runtime::http::Problem;
use schemas::push::{self, BatchReply, PushReply, PushRequest};
use tokio::time::{Instant, sleep};

use crate::edge::{Edge, now};
use crate::fates::weight;
use crate::lease::Addressed;
use crate::registry::Mailbox;
use crate::server::KnownPeer;

/// How often a crowded socket is looked at.
const LOOK_AGAIN: Duration = Duration::from_millis(1);

/// `POST /internal/push`
pub(crate) async fn receive(
    request: HttpRequest,
    body: Payload,
    edge: Data<Edge>,
) -> Result<HttpResponse, Problem> {
    let taken = match entitled(&request, &edge) {
        Ok(()) => {
            let body = Bytes::from_request(&request, &mut body.into_inner()).await;
            take(body, &edge).await
        }
        Err(problem) => Err(problem),
    };
    let reply = taken.as_ref().map_err(|problem| problem.code);
    edge.instruments.pushed(reply);
    let reply = taken?;
    Ok(HttpResponse::Ok()
        .content_type(push::CONTENT_TYPE)
        .body(reply.encode()))
}

/// Whether it comes from a pusher. Asked before the body is read, so that nobody else gets memory.
fn entitled(request: &HttpRequest, edge: &Edge) -> Result<(), Problem> {
    knows_secret(request, edge)?;
    let content_type = request.headers().get(CONTENT_TYPE);
    if content_type.is_none_or(|given| given != push::CONTENT_TYPE) {
        let problem = Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unknown_content_type");
        return Err(problem.detail(format!("send {}", push::CONTENT_TYPE)));
    }
    Ok(())
}

/// Whether it comes from one of sumu's own processes: it shows what is configured, the secret, a
/// certificate, or both.
pub(crate) fn knows_secret(request: &HttpRequest, edge: &Edge) -> Result<(), Problem> {
    let certificates = edge.config.admin.asks_for_certificates();
    if certificates && request.conn_data::<KnownPeer>().is_none() {
        return Err(Problem::new(
            StatusCode::UNAUTHORIZED,
            "client_certificate_missing",
        ));
    }
    if certificates && edge.push_secret.expose().is_empty() {
        return Ok(());
    }
    let given = request.headers().get(push::SECRET_HEADER);
    let given = given.map_or(&b""[..], |given| given.as_bytes());
    if !given.is_empty() && edge.push_secret.matches(given) {
        Ok(())
    } else {
        Err(Problem::new(StatusCode::UNAUTHORIZED, "wrong_push_secret"))
    }
}

/// Applies the batches in turns, giving crowded sockets time: one that waits for a socket holds up
/// none of the others, only their answer. What is not applied when time is up the pusher sends
/// again.
async fn take(body: Result<Bytes, actix_web::Error>, edge: &Edge) -> Result<PushReply, Problem> {
    let body = body.map_err(|error| crate::api::unreadable(&error))?;
    let mut pushed = PushRequest::decode(&body).map_err(|error| {
        Problem::new(StatusCode::BAD_REQUEST, "malformed_batch").detail(error.to_string())
    })?;
    let answer_by = Instant::now() + edge.config.limits.push_time;
    let mut replies = vec![BatchReply::new(); pushed.batches.len()];
    loop {
        addressed(edge, &pushed)?;
        let (mut crowded, mut done) = (vec![], true);
        for (batch, reply) in pushed.batches.iter_mut().zip(&mut replies) {
            if reply.applied_through >= 0 && batch.notifications.is_empty() {
                continue;
            }
            let applied = edge
                .applied
                .apply(&pushed.topic, batch, &edge.registry, reply);
            crowded.extend(applied.map_err(|offset| {
                Problem::new(StatusCode::BAD_REQUEST, "not_utf8").detail(format!("offset {offset}"))
            })?);
            done &= batch.notifications.is_empty();
        }
        let named = replies.iter().flat_map(|reply| &reply.fates);
        let named: usize = named.map(weight).sum();
        let long = named >= edge.config.limits.receipt_connections;
        if done || long || Instant::now() >= answer_by {
            return Ok(PushReply { batches: replies });
        }
        give_time(crowded, answer_by).await;
    }
}

/// Waits until none of these sockets needs time any more. Each has so much of it, and no more.
pub(crate) async fn give_time(mut crowded: Vec<Arc<Mailbox>>, until: Instant) {
    tokio::task::yield_now().await;
    loop {
        crowded.retain(|mailbox| mailbox.needs_time());
        let began = Instant::now();
        if crowded.is_empty() || began >= until {
            return;
        }
        sleep(LOOK_AGAIN).await;
        for mailbox in &crowded {
            mailbox.waited(began.elapsed());
        }
    }
}

/// Whether the request is meant for this edge in the life that it has now.
fn addressed(edge: &Edge, pushed: &PushRequest) -> Result<(), Problem> {
    let standing = *edge.standing.borrow();
    match standing.addressed(&edge.id, &pushed.edge_id, pushed.epoch, now()) {
        Addressed::Here => Ok(()),
        Addressed::NotYet => {
            let problem = Problem::new(StatusCode::SERVICE_UNAVAILABLE, "edge_not_ready");
            Err(problem.retry_after(1))
        }
        Addressed::Elsewhere => {
            let here = format!("{} holds no sockets of epoch {}", edge.id, pushed.epoch);
            Err(Problem::new(StatusCode::CONFLICT, "other_epoch").detail(here))
        }
    }
}
