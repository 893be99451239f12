//! Decides who may use the HTTP API: whoever has an API key, or a token with the scope for it.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use actix_web::HttpRequest;
use actix_web::http::StatusCode;
use actix_web::http::header::AUTHORIZATION;
use runtime::Secret;
use runtime::http::Problem;
use serde_json::{Map, Value};
use tokio::time::sleep;

use crate::api_keys::Scope;
use crate::auth::Refusal;
use crate::edge::Edge;

/// Whether the request may do that. Where neither keys nor tokens are configured, everybody on loopback
/// may.
pub(super) async fn authorized(
    request: &HttpRequest,
    edge: &Edge,
    scope: Scope,
) -> Result<(), Problem> {
    opens(credential(request), edge, scope).await
}

/// Asks again and again, and ends when the key or token of the request opens that no more. While a token
/// cannot be checked, it counts. Cancel safe.
pub(super) fn unauthorized(
    request: &HttpRequest,
    edge: Arc<Edge>,
    scope: Scope,
) -> impl Future<Output = ()> + Send + use<> {
    let given = str::from_utf8(credential(request)).unwrap_or_default();
    let given = Secret::new(given);
    async move {
        loop {
            sleep(edge.config.admin.reload_interval).await;
            if let Err(problem) = opens(given.expose().as_bytes(), &edge, scope).await
                && problem.status.is_client_error()
            {
                tracing::info!(%problem, "a key or token does not count any more");
                return;
            }
        }
    }
}

/// What comes after `Authorization: Bearer`.
fn credential(request: &HttpRequest) -> &[u8] {
    let given = request.headers().get(AUTHORIZATION);
    given
        .and_then(|value| value.as_bytes().strip_prefix(b"Bearer "))
        .unwrap_or_default()
}

/// Whether a key or token opens that.
async fn opens(given: &[u8], edge: &Edge, scope: Scope) -> Result<(), Problem> {
    let tokens = edge.config.admin.tokens;
    if edge.api_keys.is_open() && !tokens {
        return Ok(());
    }
    if let Some(key) = edge.api_keys.find(given) {
        tracing::debug!(
            key = key.name(),
            scope = scope.name(),
            "an API key was used"
        );
        return if key.allows(scope) {
            Ok(())
        } else {
            Err(scope_missing(scope))
        };
    }
    match std::str::from_utf8(given) {
        // A key has no dots, a token has two.
        Ok(token) if tokens && token.contains('.') => by_token(token, edge, scope).await,
        _ => {
            let problem = Problem::new(StatusCode::UNAUTHORIZED, "wrong_api_key");
            Err(problem.detail("send Authorization: Bearer and an API key"))
        }
    }
}

async fn by_token(token: &str, edge: &Edge, scope: Scope) -> Result<(), Problem> {
    if !edge.revocations_read.load(Ordering::Acquire) {
        let problem = Problem::new(StatusCode::SERVICE_UNAVAILABLE, "edge_not_ready");
        return Err(problem
            .detail("it is not known yet whose tokens were revoked")
            .retry_after(1));
    }
    let now = edge.clock.now();
    let verified = edge.verifier.verify(token, now).await;
    let verified = verified.map_err(|refusal| match refusal {
        Refusal::KeysUnavailable => {
            let problem = Problem::new(StatusCode::SERVICE_UNAVAILABLE, "keys_unavailable");
            problem.detail(refusal.to_string()).retry_after(1)
        }
        _ => {
            let problem = Problem::new(StatusCode::UNAUTHORIZED, "wrong_api_key");
            problem.detail(format!("the token does not count: {}", refusal.code()))
        }
    })?;
    let revoked =
        (verified.user_id.as_ref()).is_some_and(|user| edge.is_revoked(user, verified.issued_at));
    if revoked {
        let problem = Problem::new(StatusCode::UNAUTHORIZED, "wrong_api_key");
        return Err(problem.detail("the token does not count: token_revoked"));
    }
    if has_scope(&verified.claims, scope) {
        Ok(())
    } else {
        Err(scope_missing(scope))
    }
}

fn scope_missing(scope: Scope) -> Problem {
    let problem = Problem::new(StatusCode::FORBIDDEN, "scope_missing");
    problem.detail(format!("needs the scope {}", scope.name()))
}

/// Whether a token's claims have the scope: in `scope` (RFC 8693 §4.2), `scp` or `permissions`, as a
/// text with spaces between or as a list.
fn has_scope(claims: &Map<String, Value>, scope: Scope) -> bool {
    ["scope", "scp", "permissions"].iter().any(|name| {
        let mut texts: Box<dyn Iterator<Item = &str>> = match claims.get(*name) {
            Some(Value::String(text)) => Box::new(text.split(' ')),
            Some(Value::Array(list)) => Box::new(list.iter().filter_map(Value::as_str)),
            _ => return false,
        };
        texts.any(|text| text == scope.name())
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_scope_is_one_word_of_the_claim_and_not_a_part_of_one() {
        for (claims, has) in [
            (json!({"scope": "openid sumu:notify"}), true),
            (json!({"scp": ["openid", "sumu:notify"]}), true),
            (json!({"permissions": ["sumu:notify"]}), true),
            (json!({"scope": "sumu:notify2 xsumu:notify"}), false),
            (json!({"scope": ["sumu:presence:read"]}), false),
            (json!({"scope": 7, "other": "sumu:notify"}), false),
            (json!({}), false),
        ] {
            let Value::Object(members) = &claims else {
                panic!("an object")
            };
            assert_eq!(has_scope(members, Scope::Notify), has, "{claims}");
        }
    }
}
