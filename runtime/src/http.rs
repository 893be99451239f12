//! Answers what every role is asked over HTTP: `/healthz`, `/readyz`, `/metrics`.

use std::sync::Arc;

use actix_web::http::StatusCode;
use actix_web::web::{self, Data, ServiceConfig};
use actix_web::{HttpResponse, HttpResponseBuilder, ResponseError};
use serde::Serialize;

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
            .route("/healthz", web::get().to(healthz))
            .route("/readyz", web::get().to(readyz))
            .route("/metrics", web::get().to(metrics));
    }
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
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// The status of the response.
    #[serde(serialize_with = "status_number")]
    pub status: StatusCode,
    /// A short name of the error that does not change, such as `token.expired`.
    pub code: &'static str,
    /// The error in a few words; the status' own name if nothing better is known.
    pub title: String,
    /// What was wrong this time.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub detail: String,
    /// After how many seconds to try again, as the header `retry-after`.
    #[serde(skip)]
    pub retry_after: Option<u64>,
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde passes a reference"
)]
fn status_number<S: serde::Serializer>(status: &StatusCode, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_u16(status.as_u16())
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
        response.content_type("application/problem+json").body(
            // Texts and a number: it cannot fail.
            serde_json::to_vec(self).unwrap_or_default(),
        )
    }
}
