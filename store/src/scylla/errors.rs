//! Classifies what the driver reports: will trying again help?

use std::error::Error;

use scylla::errors::{
    ConnectionError, ConnectionPoolError, ConnectionSetupRequestErrorKind, DbError, ExecutionError,
    MetadataError, NewSessionError, PrepareError, RequestAttemptError,
};

use crate::StoreError;

/// The server, or the driver on its behalf, will say the same next time.
pub(super) fn refused(
    doing: &'static str,
    source: impl Into<Box<dyn Error + Send + Sync>>,
) -> StoreError {
    StoreError::Refused {
        doing,
        source: source.into(),
    }
}

pub(super) fn of_execution(doing: &'static str, error: ExecutionError) -> StoreError {
    if let ExecutionError::RequestTimeout(limit) = error {
        return StoreError::TimedOut { doing, limit };
    }
    classified(doing, execution_is_transient(&error), error)
}

pub(super) fn of_prepare(doing: &'static str, error: PrepareError) -> StoreError {
    classified(doing, prepare_is_transient(&error), error)
}

pub(super) fn of_session(doing: &'static str, error: NewSessionError) -> StoreError {
    let transient = match &error {
        NewSessionError::MetadataError(MetadataError::ConnectionPoolError(pool)) => {
            pool_is_transient(pool)
        }
        NewSessionError::EmptyKnownNodesList | NewSessionError::IllegalConfig(_) => false,
        _ => true,
    };
    classified(doing, transient, error)
}

fn classified(
    doing: &'static str,
    transient: bool,
    source: impl Into<Box<dyn Error + Send + Sync>>,
) -> StoreError {
    if transient {
        StoreError::Unavailable {
            doing,
            source: source.into(),
        }
    } else {
        refused(doing, source)
    }
}

fn execution_is_transient(error: &ExecutionError) -> bool {
    match error {
        ExecutionError::BadQuery(_) => false,
        ExecutionError::PrepareError(error) => prepare_is_transient(error),
        ExecutionError::ConnectionPoolError(error) => pool_is_transient(error),
        ExecutionError::LastAttemptError(error) => attempt_is_transient(error),
        // No server to ask, no answer in time, servers that do not agree yet.
        _ => true,
    }
}

fn prepare_is_transient(error: &PrepareError) -> bool {
    match error {
        PrepareError::ConnectionPoolError(error) => pool_is_transient(error),
        PrepareError::AllAttemptsFailed { first_attempt } => attempt_is_transient(first_attempt),
        _ => true,
    }
}

fn attempt_is_transient(error: &RequestAttemptError) -> bool {
    match error {
        RequestAttemptError::DbError(error, _) => db_is_transient(error),
        RequestAttemptError::UnableToAllocStreamId
        | RequestAttemptError::BrokenConnectionError(_) => true,
        // Bytes that one side cannot write or read.
        _ => false,
    }
}

/// A server that is not there may come back; one that does not like the password or the certificate
/// stays so until a person looks.
fn pool_is_transient(error: &ConnectionPoolError) -> bool {
    let ConnectionPoolError::Broken {
        last_connection_error,
    } = error
    else {
        return true;
    };
    match last_connection_error {
        ConnectionError::ConnectionSetupRequestError(setup) => match &setup.error {
            ConnectionSetupRequestErrorKind::DbError(error, _) => db_is_transient(error),
            ConnectionSetupRequestErrorKind::MissingAuthentication => false,
            _ => true,
        },
        ConnectionError::IoError(error) => !error
            .get_ref()
            .is_some_and(<dyn Error + Send + Sync>::is::<rustls::Error>),
        _ => true,
    }
}

fn db_is_transient(error: &DbError) -> bool {
    matches!(
        error,
        DbError::Unavailable { .. }
            | DbError::Overloaded
            | DbError::IsBootstrapping
            | DbError::TruncateError
            | DbError::ReadTimeout { .. }
            | DbError::WriteTimeout { .. }
            | DbError::ReadFailure { .. }
            | DbError::WriteFailure { .. }
            | DbError::RateLimitReached { .. }
            | DbError::ServerError
            | DbError::Unprepared { .. }
    )
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;

    fn database(error: DbError) -> ExecutionError {
        ExecutionError::LastAttemptError(RequestAttemptError::DbError(error, String::new()))
    }

    fn pool(last_connection_error: ConnectionError) -> NewSessionError {
        let broken = ConnectionPoolError::Broken {
            last_connection_error,
        };
        NewSessionError::MetadataError(MetadataError::ConnectionPoolError(broken))
    }

    fn io(error: io::Error) -> ConnectionError {
        ConnectionError::IoError(Arc::new(error))
    }

    #[test]
    fn what_may_pass_is_tried_again() {
        for error in [
            database(DbError::Overloaded),
            database(DbError::IsBootstrapping),
            database(DbError::ServerError),
            ExecutionError::EmptyPlan,
            ExecutionError::ConnectionPoolError(ConnectionPoolError::Initializing),
        ] {
            let error = of_execution("testing", error);
            assert!(matches!(error, StoreError::Unavailable { .. }), "{error:?}");
        }
        let error = of_execution(
            "testing",
            ExecutionError::RequestTimeout(Duration::from_secs(1)),
        );
        assert!(matches!(error, StoreError::TimedOut { .. }), "{error:?}");
        for error in [
            pool(ConnectionError::ConnectTimeout),
            pool(io(io::ErrorKind::ConnectionRefused.into())),
            NewSessionError::FailedToResolveAnyHostname(vec!["nowhere".into()]),
        ] {
            assert!(of_session("testing", error).is_transient());
        }
    }

    #[test]
    fn what_stays_wrong_is_refused() {
        for error in [
            DbError::SyntaxError,
            DbError::Invalid,
            DbError::Unauthorized,
        ] {
            let error = of_execution("testing", database(error));
            assert!(matches!(error, StoreError::Refused { .. }), "{error:?}");
        }
        let certificate = rustls::Error::InvalidCertificate(rustls::CertificateError::Expired);
        let error = of_session("testing", pool(io(io::Error::other(certificate))));
        assert!(matches!(error, StoreError::Refused { .. }), "{error:?}");
    }
}
