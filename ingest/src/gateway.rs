//! Answers `GET /push`: who may connect, and how the socket begins.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use actix_http::ws;
use actix_web::error::InternalError;
use actix_web::http::StatusCode;
use actix_web::http::header::{
    AUTHORIZATION, HeaderMap, HeaderValue, ORIGIN, SEC_WEBSOCKET_EXTENSIONS,
    SEC_WEBSOCKET_PROTOCOL, USER_AGENT,
};
use actix_web::web::{Data, Query};
use actix_web::{HttpMessage as _, HttpRequest, HttpResponse};
use runtime::http::Problem;
use tokio::sync::oneshot;

use crate::admission::address::{client, source};
use crate::admission::gate::Closed;
use crate::auth::Refusal;
use crate::connection::Begin;
use crate::deflate::{Agreement, Malformed, Window, negotiate};
use crate::edge::{Denied, Edge, Permit, now};
use crate::opening::{Candidate, Refused, open};
use crate::session::{Identity, Session};
use crate::takeover::Upgradable;

/// The subprotocol that sumu speaks.
const PROTOCOL: &str = "sumu.v1";
/// Begins the subprotocol that carries a token.
const BEARER: &str = "bearer.";
/// The part of `User-Agent` that is kept, in bytes.
const USER_AGENT_BYTES: usize = 256;

/// `GET /push`
pub(crate) async fn connect(
    request: HttpRequest,
    edge: Data<Edge>,
) -> actix_web::Result<HttpResponse> {
    // Checks the handshake. The answer is held back until the connection is open.
    let mut answer = ws::handshake(request.head())?;
    if request.extensions().get::<Upgradable>().is_none() {
        // With a body, or a protocol beside `websocket`: HTTP keeps the connection.
        return Err(ws::HandshakeError::NoWebsocketUpgrade.into());
    }
    if protocols(request.headers()).any(|offered| offered == PROTOCOL) {
        answer.insert_header((SEC_WEBSOCKET_PROTOCOL, PROTOCOL));
    }
    let edge = edge.into_inner();
    let agreement = match edge.config.compression.enabled {
        true => agreement(request.headers())?,
        false => None,
    };
    if let Some(agreement) = agreement {
        answer.insert_header((SEC_WEBSOCKET_EXTENSIONS, agreement.to_string()));
    }
    let window = agreement.and_then(Agreement::window);
    let candidate = match candidate(&request, &edge, window).await {
        Ok(candidate) => candidate,
        Err(problem) => {
            edge.instruments.handshake(problem.code);
            return Err(problem.into());
        }
    };
    let (user_id, expires_at) = {
        let principal = &candidate.principal;
        (principal.user_id.clone(), principal.expires_at)
    };
    let permit = candidate.principal.watch.clone();
    let began = now();
    let (tell, told) = oneshot::channel();
    {
        let task = Arc::clone(&edge);
        edge.spawn(async move {
            // Nobody listens any more: what was opened is dropped, and `closed` follows.
            drop(tell.send(open(&task, candidate).await));
        });
    }
    let opened = match told.await.unwrap_or(Err(Refused::NoLease)) {
        Ok(opened) => opened,
        Err(refused) => {
            edge.instruments.handshake(refused.code());
            return Err(problem(&edge, refused).into());
        }
    };
    edge.instruments.handshake("opened");
    edge.instruments.opening((now() - began).as_secs_f64());
    let identity = Identity {
        user_id,
        connection_id: opened.connection.row().connection_id.clone(),
        expiry: edge.expiry(expires_at),
    };
    let session = Session::new(Arc::clone(&edge.rules), identity, now()).permitting(permit);
    let mut answer = answer.finish().map_into_boxed_body();
    answer.extensions_mut().insert(Begin {
        edge,
        opened,
        session,
    });
    Ok(answer.into())
}

/// Who asks, if they may.
async fn candidate(
    request: &HttpRequest,
    edge: &Arc<Edge>,
    window: Option<Window>,
) -> Result<Candidate, Problem> {
    let headers = request.headers();
    let origins = &edge.config.origins;
    if let Some(origin) = headers.get(ORIGIN)
        && !origins.is_empty()
        && !origins.iter().any(|allowed| origin == allowed.as_str())
    {
        let problem = Problem::new(StatusCode::FORBIDDEN, "origin_forbidden");
        return Err(problem.detail("pages of this origin may not connect"));
    }
    let address = address(request, edge);
    // Before the token, whose check costs more.
    let permit = match address {
        Some(address) => {
            Permit::take(edge, source(address)).map_err(|closed| busy(edge, closed))?
        }
        None => None,
    };
    let token = token(headers, request.query_string());
    let principal = match token {
        Some(token) => edge.judge(&token).await,
        None => Err(Refusal::TokenMissing.into()),
    };
    let principal = principal.map_err(|denied| unauthorized(edge, denied))?;
    let user_agent = headers
        .get(USER_AGENT)
        .map(|agent| shortened(&String::from_utf8_lossy(agent.as_bytes())));
    Ok(Candidate {
        principal,
        source_ip: address.map_or_else(String::new, |address| address.to_string()),
        user_agent,
        permit,
        window,
    })
}

/// What client and edge agree on of compression.
fn agreement(headers: &HeaderMap) -> actix_web::Result<Option<Agreement>> {
    let lines = headers.get_all(SEC_WEBSOCKET_EXTENSIONS);
    negotiate(lines.map(HeaderValue::as_bytes)).map_err(|Malformed| {
        InternalError::from_response("", HttpResponse::BadRequest().finish()).into()
    })
}

/// The client's address, behind the proxies that are trusted.
fn address(request: &HttpRequest, edge: &Edge) -> Option<IpAddr> {
    let peer = request.peer_addr()?.ip();
    let header = edge.config.forwarded_header;
    let lines: Vec<&str> = request
        .headers()
        .get_all(header.name())
        // What is no text cannot be read: it ends the search as such.
        .map(|line| line.to_str().unwrap_or("?"))
        .collect();
    let trusted = &edge.config.trusted_proxies;
    Some(client(peer, lines.into_iter(), header, trusted))
}

/// What an address is told that holds or tries too much.
fn busy(edge: &Edge, closed: Closed) -> Problem {
    let (problem, wait) = match closed {
        Closed::Full => (
            Problem::new(
                StatusCode::TOO_MANY_REQUESTS,
                "too_many_connections_of_address",
            )
            .detail("this address holds as many connections as it may"),
            edge.config.limits.retry_after,
        ),
        Closed::TooOften(wait) => (
            Problem::new(StatusCode::TOO_MANY_REQUESTS, "too_many_attempts")
                .detail("this address tries to connect too often"),
            wait,
        ),
    };
    problem.retry_after(seconds(wait))
}

/// Whole seconds, rounded up.
const fn seconds(span: Duration) -> u64 {
    span.as_secs() + if span.subsec_nanos() > 0 { 1 } else { 0 }
}

/// The token: from the header that programs set, the subprotocol or the query that browsers can.
fn token(headers: &HeaderMap, query: &str) -> Option<String> {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    if let Some(token) = text(AUTHORIZATION).and_then(bearer) {
        return Some(token.to_owned());
    }
    let offered = protocols(headers).find_map(|protocol| protocol.strip_prefix(BEARER));
    if let Some(token) = offered {
        return Some(token.to_owned());
    }
    let pairs = Query::<Vec<(String, String)>>::from_query(query).ok()?;
    pairs
        .into_inner()
        .into_iter()
        .find(|(name, _)| name == "authorization")
        .map(|(_, value)| bearer(&value).map(str::to_owned).unwrap_or(value))
}

/// The subprotocols that the client offers.
fn protocols(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    headers
        .get_all(SEC_WEBSOCKET_PROTOCOL)
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
}

fn bearer(value: &str) -> Option<&str> {
    let (scheme, token) = value.split_once(' ')?;
    scheme
        .eq_ignore_ascii_case("bearer")
        .then(|| token.trim_start())
}

fn shortened(agent: &str) -> String {
    let end = agent.floor_char_boundary(USER_AGENT_BYTES);
    agent.get(..end).unwrap_or_default().to_owned()
}

/// Why a token does not count. It may, later, if only its issuer could not be asked for keys.
fn unauthorized(edge: &Edge, denied: Denied) -> Problem {
    let problem = Problem::new(denied.status(), denied.code()).detail(denied.to_string());
    if denied.status() == StatusCode::SERVICE_UNAVAILABLE {
        return problem.retry_after(seconds(edge.config.limits.retry_after));
    }
    problem
}

fn problem(edge: &Edge, refused: Refused) -> Problem {
    let status = match refused {
        Refused::UserFull => StatusCode::TOO_MANY_REQUESTS,
        Refused::Revoked => StatusCode::UNAUTHORIZED,
        _ => StatusCode::SERVICE_UNAVAILABLE,
    };
    let problem = Problem::new(status, refused.code()).detail(refused.to_string());
    match refused {
        Refused::Revoked => problem,
        _ => problem.retry_after(seconds(edge.config.limits.retry_after)),
    }
}
