//! Decides who may use the HTTP API.

use actix_web::HttpRequest;
use actix_web::http::StatusCode;
use actix_web::http::header::AUTHORIZATION;
use runtime::http::Problem;

use crate::edge::Edge;

/// Whether the request carries one of the API keys. Without keys, everybody on loopback may.
pub(super) fn authorized(request: &HttpRequest, edge: &Edge) -> Result<(), Problem> {
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
