//! Answers applications without a Kafka client: one file for each thing they ask for.

use actix_web::error::PayloadError;
use actix_web::http::StatusCode;
use runtime::http::Problem;

mod authorization;
pub(crate) mod connections;
pub(crate) mod disconnect;
pub(crate) mod notifications;
pub(crate) mod presence;
pub(crate) mod revocation;
pub(crate) mod subscriptions;

/// A body that could not be read.
pub(crate) fn unreadable(error: &actix_web::Error) -> Problem {
    let too_long = matches!(
        error.as_error::<PayloadError>(),
        Some(PayloadError::Overflow)
    );
    if too_long {
        Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large")
    } else {
        Problem::new(StatusCode::BAD_REQUEST, "unreadable_body").detail(error.to_string())
    }
}
