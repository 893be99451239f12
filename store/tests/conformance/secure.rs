//! What a CQL store does with a server that wants TLS and a password.

use store::scylla::{Config, ScyllaStore, Tls};
use store::{ConnectionStore, StoreError};

use crate::bench::{cql_config, named};

fn secure() -> Option<Config> {
    let config = cql_config(&named("SUMU_TEST_CQL_TLS")?);
    let ca_file = Some(named("SUMU_TEST_CQL_CA")?.into());
    Some(Config {
        keyspace: "sumu_secure".into(),
        username: named("SUMU_TEST_CQL_USER"),
        password: named("SUMU_TEST_CQL_PASSWORD").map(Into::into),
        tls: Some(Tls {
            ca_file,
            ..Tls::default()
        }),
        ..config
    })
}

#[tokio::test]
async fn the_password_is_right() {
    let Some(config) = secure() else { return };
    ScyllaStore::create_schema(&config).await.unwrap();
    ScyllaStore::connect(&config)
        .await
        .unwrap()
        .ready()
        .await
        .unwrap();
}

#[tokio::test]
async fn the_password_is_wrong() {
    let Some(config) = secure() else { return };
    is_refused(&Config {
        password: Some(String::from("wrong").into()),
        ..config
    })
    .await;
}

#[tokio::test]
async fn there_is_no_password() {
    let Some(config) = secure() else { return };
    is_refused(&Config {
        username: None,
        password: None,
        ..config
    })
    .await;
}

#[tokio::test]
async fn the_certificate_is_of_an_unknown_authority() {
    let Some(config) = secure() else { return };
    is_refused(&Config {
        tls: Some(Tls::default()),
        ..config
    })
    .await;
}

async fn is_refused(config: &Config) {
    let error = ScyllaStore::connect(config).await.unwrap_err();
    assert!(matches!(error, StoreError::Refused { .. }), "{error:?}");
    assert!(!error.is_transient());
}

#[tokio::test]
async fn a_certificate_that_cannot_be_read_is_a_fault_of_the_configuration() {
    let tls = Tls {
        ca_file: Some("/does/not/exist.pem".into()),
        ..Tls::default()
    };
    let config = Config {
        tls: Some(tls),
        ..Config::default()
    };
    let error = ScyllaStore::connect(&config).await.unwrap_err();
    assert!(
        matches!(&error, StoreError::Config(text) if text.contains("exist.pem")),
        "{error}"
    );
}
