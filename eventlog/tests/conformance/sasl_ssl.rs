//! Reaching a broker over TLS with a user name and password, as managed ones want it.

use eventlog::Config;

use crate::harness::{Server, created, environment, fill, given, notifications, read_all};

/// Runs against the listener at `SUMU_TEST_KAFKA_SASL_SSL`; its certificate is signed by the one in
/// the file `SUMU_TEST_KAFKA_CA`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn works_if_sumu_test_kafka_sasl_ssl_is_given() {
    let Some(brokers) = given("SUMU_TEST_KAFKA_SASL_SSL") else {
        return;
    };
    let setting = |name: &str, default: &str| environment(name).unwrap_or(default.into());
    let properties = [
        ("security.protocol", "sasl_ssl".to_owned()),
        (
            "sasl.mechanism",
            setting("SUMU_TEST_KAFKA_SASL_MECHANISM", "PLAIN"),
        ),
        ("sasl.username", setting("SUMU_TEST_KAFKA_USER", "sumu")),
        (
            "sasl.password",
            setting("SUMU_TEST_KAFKA_PASSWORD", "sumu-secret"),
        ),
        (
            "ssl.ca.location",
            environment("SUMU_TEST_KAFKA_CA").expect("SUMU_TEST_KAFKA_CA"),
        ),
    ];
    let server = Server::at(brokers);
    let mut config = Config {
        request_timeout: std::time::Duration::from_secs(5),
        startup_timeout: std::time::Duration::from_secs(20),
        ..server.config()
    };
    config.properties.0 = properties.map(|(name, value)| (name.into(), value)).into();

    let log = created(config.clone()).await;
    let place = notifications(&log, 0);
    fill(&log, &place, 10).await;
    assert_eq!(read_all(&log, &place).await.len(), 10);

    config
        .properties
        .0
        .insert("sasl.password".into(), "wrong".into());
    config.startup_timeout = config.request_timeout;
    let refused = eventlog::Log::new(config).unwrap();
    refused.check_topics().await.unwrap_err();
}
