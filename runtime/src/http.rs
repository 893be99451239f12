//! Answers what every role is asked over HTTP: `/healthz`, `/readyz`, `/metrics`.

use std::future::ready;
use std::net::TcpListener;
use std::sync::Arc;

use actix_web::http::StatusCode;
use actix_web::http::header::ALLOW;
use actix_web::web::{self, Data, ServiceConfig};
use actix_web::{App, HttpResponse, HttpResponseBuilder, HttpServer, Resource, ResponseError};
use rustls::ServerConfig;
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use crate::Health;
use crate::telemetry::Metrics;

/// What the routes of every role need.
#[derive(Clone, Debug)]
pub struct Endpoints {
    /// Asked by `/healthz` and `/readyz`.
    pub health: Health,
    /// Written out by `/metrics`.
    pub metrics: Metrics,
}

impl Endpoints {
    /// Adds the routes to an application.
    pub fn configure(&self, app: &mut ServiceConfig) {
        app.app_data(Data::new(self.clone()))
            .service(resource("/healthz", "GET").route(web::get().to(healthz)))
            .service(resource("/readyz", "GET").route(web::get().to(readyz)))
            .service(resource("/metrics", "GET").route(web::get().to(metrics)));
    }
}

/// A resource without routes yet, that answers other methods than `allow`, a list as in the header of
/// that name, with 405 and that header (RFC 9110 §15.5.6).
#[must_use]
pub fn resource(path: &str, allow: &'static str) -> Resource {
    let refuse = move || {
        let mut refused = HttpResponse::MethodNotAllowed();
        ready(refused.insert_header((ALLOW, allow)).finish())
    };
    web::resource(path).default_service(web::to(refuse))
}

/// Serves the routes of every role, and nothing else, until `shutdown`; over TLS if there is a
/// configuration for it.
///
/// # Errors
/// What the operating system says of the listener.
pub async fn serve(
    listener: TcpListener,
    endpoints: Endpoints,
    tls: Option<ServerConfig>,
    shutdown: CancellationToken,
) -> std::io::Result<()> {
    let app = move || App::new().configure(|app| endpoints.configure(app));
    let server = HttpServer::new(app).workers(1).disable_signals();
    let server = match tls {
        Some(tls) => server.listen_rustls_0_23(listener, tls)?,
        None => server.listen(listener)?,
    };
    let server = server.run();
    let handle = server.handle();
    let stop = async {
        shutdown.cancelled().await;
        handle.stop(false).await;
    };
    tokio::join!(server, stop).0
}

async fn healthz(endpoints: Data<Endpoints>) -> HttpResponse {
    answer("alive", "failed", endpoints.health.liveness())
}

async fn readyz(endpoints: Data<Endpoints>) -> HttpResponse {
    answer("ready", "not ready", endpoints.health.readiness())
}

#[derive(Serialize)]
struct Answer<'a> {
    status: &'static str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    reasons: Vec<Reason<'a>>,
}

#[derive(Serialize)]
struct Reason<'a> {
    component: &'a str,
    reason: &'a str,
}

fn answer(
    good: &'static str,
    bad: &'static str,
    state: Result<(), Vec<(Arc<str>, String)>>,
) -> HttpResponse {
    let Err(faults) = state else {
        return HttpResponse::Ok().json(Answer {
            status: good,
            reasons: vec![],
        });
    };
    let reasons = faults
        .iter()
        .map(|(component, reason)| Reason { component, reason })
        .collect();
    HttpResponse::ServiceUnavailable().json(Answer {
        status: bad,
        reasons,
    })
}

async fn metrics(endpoints: Data<Endpoints>) -> HttpResponse {
    match endpoints.metrics.text() {
        Ok(text) => HttpResponse::Ok()
            .content_type("text/plain; version=0.0.4; charset=utf-8")
            .body(text),
        Err(error) => Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "metrics")
            .detail(error.to_string())
            .error_response(),
    }
}

/// An error of an HTTP API, as `application/problem+json` (RFC 9457) with a `code` that programs
/// can tell apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The status of the response.
    pub status: StatusCode,
    /// A short name of the error that does not change, such as `token.expired`.
    pub code: &'static str,
    /// The error in a few words; the status' own name if nothing better is known.
    pub title: String,
    /// What was wrong this time.
    pub detail: String,
    /// After how many seconds to try again, as the header `retry-after`.
    pub retry_after: Option<u64>,
}

impl Problem {
    /// A problem with the status' own name as its title.
    #[must_use]
    pub fn new(status: StatusCode, code: &'static str) -> Self {
        let title = status.canonical_reason().unwrap_or("Error").to_owned();
        Self {
            status,
            code,
            title,
            detail: String::new(),
            retry_after: None,
        }
    }

    /// With a title of its own.
    #[must_use]
    pub fn title(mut self, title: impl Into<String>) -> Self {
        self.title = title.into();
        self
    }

    /// With what was wrong this time.
    #[must_use]
    pub fn detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = detail.into();
        self
    }

    /// With the time after which to try again.
    #[must_use]
    pub fn retry_after(mut self, seconds: u64) -> Self {
        self.retry_after = Some(seconds);
        self
    }
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({}): {}", self.title, self.code, self.detail)
    }
}

impl std::error::Error for Problem {}

impl ResponseError for Problem {
    fn status_code(&self) -> StatusCode {
        self.status
    }

    fn error_response(&self) -> HttpResponse {
        let mut response = HttpResponseBuilder::new(self.status);
        if let Some(seconds) = self.retry_after {
            response.insert_header(("retry-after", seconds.to_string()));
        }
        let body = serde_json::json!({
            "type": "about:blank",
            "title": self.title,
            "status": self.status.as_u16(),
            "code": self.code,
            "detail": self.detail,
        });
        response
            .content_type("application/problem+json")
            .body(body.to_string())
    }
}

#[cfg(test)]
mod tests {
    use actix_web::body::to_bytes;

    use super::*;

    #[tokio::test]
    async fn a_process_tells_its_health_and_metrics_over_http() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let health = Health::new();
        let log = health.component("log");
        let metrics = Metrics::default();
        let endpoints = Endpoints { health, metrics };
        let shutdown = CancellationToken::new();
        let serving = tokio::spawn(serve(listener, endpoints, None, shutdown.clone()));
        let get = async |path: &str| {
            let answer = reqwest::get(format!("{url}{path}")).await.unwrap();
            (answer.status().as_u16(), answer.text().await.unwrap())
        };
        let told = get("/readyz").await;
        let reasons = r#""reasons":[{"component":"log","reason":"starting"}]"#;
        assert_eq!(
            told,
            (503, format!(r#"{{"status":"not ready",{reasons}}}"#))
        );
        assert_eq!(
            get("/healthz").await,
            (200, r#"{"status":"alive"}"#.to_owned())
        );
        log.ready();
        assert_eq!(
            get("/readyz").await,
            (200, r#"{"status":"ready"}"#.to_owned())
        );
        assert_eq!(get("/metrics").await.0, 200);
        log.failed("displaced");
        assert_eq!(get("/healthz").await.0, 503);
        shutdown.cancel();
        serving.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn a_problem_says_what_is_wrong_and_when_to_come_back() {
        let problem = Problem::new(StatusCode::SERVICE_UNAVAILABLE, "draining")
            .detail("this edge is leaving")
            .retry_after(2);
        let response = problem.error_response();
        assert_eq!(response.status(), 503);
        let header = |name: &str| response.headers().get(name).unwrap().to_str().unwrap();
        assert_eq!(header("retry-after"), "2");
        assert_eq!(header("content-type"), "application/problem+json");
        let body: serde_json::Value =
            serde_json::from_slice(&to_bytes(response.into_body()).await.unwrap()).unwrap();
        let told = serde_json::json!({
            "type": "about:blank", "title": "Service Unavailable", "status": 503,
            "code": "draining", "detail": "this edge is leaving",
        });
        assert_eq!(body, told);
    }
}
