//! Opens a session with a cluster.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use scylla::client::execution_profile::ExecutionProfile;
use scylla::client::session::Session;
use scylla::client::session_builder::SessionBuilder;
use scylla::statement;

use super::config::{Config, Consistency, Tls};
use super::errors::of_session;
use crate::StoreError;

/// A server that does not answer for this long, twice, is taken for gone.
const KEEPALIVE: Duration = Duration::from_secs(5);

/// The limit for a statement that prepares or changes something, once at the start. Servers take their
/// time to agree on a schema.
const SETUP: Duration = Duration::from_secs(30);

pub(super) async fn open(config: &Config) -> Result<Session, StoreError> {
    let faults = config.faults();
    if !faults.is_empty() {
        return Err(StoreError::Config(faults.join("; ")));
    }
    let profile = ExecutionProfile::builder()
        .consistency(match config.consistency {
            Consistency::One => statement::Consistency::One,
            Consistency::Quorum => statement::Consistency::Quorum,
            Consistency::LocalQuorum => statement::Consistency::LocalQuorum,
        })
        .request_timeout(Some(SETUP))
        .build();
    let mut builder = SessionBuilder::new()
        .known_nodes(&config.nodes)
        .keyspaces_to_fetch([&config.keyspace])
        .fetch_full_schema_metadata(false)
        .default_execution_profile_handle(profile.into_handle())
        .connection_timeout(config.connect_timeout)
        .keepalive_interval(KEEPALIVE)
        .keepalive_timeout(KEEPALIVE)
        .tls_context(config.tls.as_ref().map(tls).transpose()?.map(Arc::new));
    if let Some(datacenter) = &config.datacenter {
        builder = builder.prefer_datacenter(datacenter.clone());
    }
    if let (Some(username), Some(password)) = (&config.username, &config.password) {
        builder = builder.user(username, password.expose());
    }
    let session = builder
        .build()
        .await
        .map_err(|error| of_session("connecting", error))?;
    check_datacenter(&session, config)?;
    Ok(session)
}

/// A quorum is of one datacenter: reading in another than was written to finds nothing.
fn check_datacenter(session: &Session, config: &Config) -> Result<(), StoreError> {
    let cluster = session.get_cluster_state();
    let nodes = cluster.get_nodes_info().iter();
    let there: BTreeSet<&str> = nodes
        .filter_map(|node| node.datacenter.as_deref())
        .collect();
    match config.datacenter.as_deref() {
        Some(name) if !there.contains(name) => Err(StoreError::Config(format!(
            "datacenter {name:?} is none of the cluster's: {there:?}"
        ))),
        None if there.len() > 1 => Err(StoreError::Config(format!(
            "the cluster has several datacenters, so datacenter must name one of {there:?}"
        ))),
        _ => Ok(()),
    }
}

fn tls(config: &Tls) -> Result<ClientConfig, StoreError> {
    let mut roots = RootCertStore::empty();
    let authorities = match &config.ca_file {
        Some(file) => certificates(file)?,
        None => rustls_native_certs::load_native_certs().certs,
    };
    if roots.add_parsable_certificates(authorities).0 == 0 {
        return Err(StoreError::Config(
            "tls: there is no certificate authority to trust".into(),
        ));
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| unusable(&error))?
        .with_root_certificates(roots);
    match (&config.certificate_file, &config.key_file) {
        (Some(certificate), Some(key)) => {
            let chain = certificates(certificate)?;
            let key = PrivateKeyDer::from_pem_file(key).map_err(|error| unreadable(key, &error))?;
            builder
                .with_client_auth_cert(chain, key)
                .map_err(|error| unusable(&error))
        }
        _ => Ok(builder.with_no_client_auth()),
    }
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, StoreError> {
    let found = CertificateDer::pem_file_iter(file).and_then(Iterator::collect);
    found.map_err(|error| unreadable(file, &error))
}

fn unreadable(file: &Path, error: &rustls::pki_types::pem::Error) -> StoreError {
    StoreError::Config(format!("tls: reading {}: {error}", file.display()))
}

fn unusable(error: &rustls::Error) -> StoreError {
    StoreError::Config(format!("tls: {error}"))
}
