//! Serves and asks over TLS, with certificates that are read anew when their files change.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use rustls::client::ResolvesClientCert;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, RootCertStore, ServerConfig, SignatureScheme};
use serde::{Deserialize, Serialize};

use crate::reload::Watch;

/// The files of a certificate.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// PEM file with the certificate and its chain. Read anew when it changes, as is the key.
    pub certificate_file: PathBuf,
    /// PEM file with the certificate's key.
    pub key_file: PathBuf,
    /// PEM file with the authorities of clients' certificates; none is asked for without one.
    pub client_ca_file: Option<PathBuf>,
}

/// Why there is no TLS.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read, or is not what it should be.
    #[error("{}: {reason}", file.display())]
    File {
        /// Which one.
        file: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The parts do not go together.
    #[error("{0}")]
    Refused(String),
}

impl Config {
    /// Everything wrong with it. Reads the files.
    #[must_use]
    pub fn faults(&self) -> Vec<String> {
        let made = Certificate::load(self).and_then(|certificate| certificate.server());
        made.err().iter().map(ToString::to_string).collect()
    }
}

/// A certificate with its key, as its files have them now.
#[derive(Debug)]
pub struct Certificate {
    files: Config,
    /// Begun before the files were read first, so that no change is missed.
    watch: Mutex<Watch>,
    current: RwLock<Arc<CertifiedKey>>,
}

impl Certificate {
    /// Reads the files.
    ///
    /// # Errors
    /// [`TlsError`]
    pub fn load(files: &Config) -> Result<Arc<Self>, TlsError> {
        let paths = [files.certificate_file.clone(), files.key_file.clone()];
        let watch = Mutex::new(Watch::new(paths));
        Ok(Arc::new(Self {
            current: RwLock::new(read(files)?),
            files: files.clone(),
            watch,
        }))
    }

    /// A server that shows it, and asks for clients' certificates if there is an authority for them.
    /// A client without one is served: what it may do is for the routes to say.
    ///
    /// # Errors
    /// [`TlsError`]
    pub fn server(self: &Arc<Self>) -> Result<ServerConfig, TlsError> {
        let refused = |error: &dyn std::error::Error| TlsError::Refused(error.to_string());
        let builder = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(|error| refused(&error))?;
        let builder = match &self.files.client_ca_file {
            None => builder.with_no_client_auth(),
            Some(file) => {
                let mut roots = RootCertStore::empty();
                add(&mut roots, file)?;
                let verifier =
                    WebPkiClientVerifier::builder_with_provider(roots.into(), provider())
                        .allow_unauthenticated()
                        .build()
                        .map_err(|error| refused(&error))?;
                builder.with_client_cert_verifier(verifier)
            }
        };
        Ok(builder.with_cert_resolver(Arc::clone(self) as Arc<dyn ResolvesServerCert>))
    }

    /// Reads the files anew whenever one of them has changed, for ever. What cannot be read changes
    /// nothing, and is tried again the next time; nor do connections that are open change.
    pub async fn follow(&self, every: Duration) {
        loop {
            tokio::time::sleep(every).await;
            if !self.watch().changed() {
                continue;
            }
            let file = self.files.certificate_file.display();
            match read(&self.files) {
                Ok(certificate) => {
                    tracing::info!(%file, "the certificate was read anew");
                    let current = self.current.write();
                    *current.unwrap_or_else(PoisonError::into_inner) = certificate;
                }
                // The other file of the two may be on its way.
                Err(error) => {
                    tracing::error!(%error, "the certificate stays as it was");
                    self.watch().again();
                }
            }
        }
    }

    fn watch(&self) -> MutexGuard<'_, Watch> {
        self.watch.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn current(&self) -> Arc<CertifiedKey> {
        let current = self.current.read();
        Arc::clone(&current.unwrap_or_else(PoisonError::into_inner))
    }
}

impl ResolvesServerCert for Certificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current())
    }
}

impl ResolvesClientCert for Certificate {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.current())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// Whom this process trusts when it asks others of sumu's processes, and what it shows them. By default
/// the authorities of the operating system, and nothing.
#[derive(Clone, Debug, Default)]
pub struct Client(Option<ClientConfig>);

impl Client {
    /// Trusts the authorities of a PEM file as well, and shows a certificate, where they are given.
    ///
    /// # Errors
    /// [`TlsError`]
    pub fn new(
        ca_file: Option<&Path>,
        identity: Option<Arc<Certificate>>,
    ) -> Result<Self, TlsError> {
        if ca_file.is_none() && identity.is_none() {
            return Ok(Self::default());
        }
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        if let Some(file) = ca_file {
            add(&mut roots, file)?;
        }
        let builder = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(|error| TlsError::Refused(error.to_string()))?
            .with_root_certificates(roots);
        Ok(Self(Some(match identity {
            Some(identity) => builder.with_client_cert_resolver(identity),
            None => builder.with_no_client_auth(),
        })))
    }

    /// Has an HTTP client do so.
    pub fn apply(&self, client: reqwest::ClientBuilder) -> reqwest::ClientBuilder {
        match &self.0 {
            Some(config) => client.tls_backend_preconfigured(config.clone()),
            None => client,
        }
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

fn read(files: &Config) -> Result<Arc<CertifiedKey>, TlsError> {
    let chain = certificates(&files.certificate_file)?;
    let key = PrivateKeyDer::from_pem_file(&files.key_file)
        .map_err(|error| wrong(&files.key_file, &error))?;
    let pair = CertifiedKey::from_der(chain, key, &aws_lc_rs::default_provider());
    pair.map(Arc::new)
        .map_err(|error| wrong(&files.certificate_file, &error))
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_file_iter(file)
        .and_then(Iterator::collect)
        .map_err(|error| wrong(file, &error));
    match found {
        Ok(none) if none.is_empty() => Err(wrong(file, &"holds no certificate")),
        found => found,
    }
}

fn add(roots: &mut RootCertStore, file: &Path) -> Result<(), TlsError> {
    for certificate in certificates(file)? {
        let added = roots.add(certificate);
        added.map_err(|error| wrong(file, &error))?;
    }
    Ok(())
}

fn wrong(file: &Path, reason: &dyn std::fmt::Display) -> TlsError {
    TlsError::File {
        file: file.to_owned(),
        reason: reason.to_string(),
    }
}
