//! TLS on both listeners: certificates that change, and certificates in place of the push secret.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use runtime::tls::{Certificate, Client as Trust, Config as Files};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use schemas::push;
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

use crate::harness::*;

/// An authority, and the files of what it has signed.
struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    folder: TempDir,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let issuer = CertifiedIssuer::self_signed(params, key).unwrap();
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("ca.pem"), issuer.pem()).unwrap();
        Self { issuer, folder }
    }

    fn ca(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    /// Signs a certificate for this machine, and puts it where that name's files are.
    fn sign(&self, name: &str) -> Files {
        let names = vec!["127.0.0.1".to_owned(), "localhost".to_owned()];
        let params = CertificateParams::new(names).unwrap();
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let files = Files {
            certificate_file: self.folder.path().join(format!("{name}.pem")),
            key_file: self.folder.path().join(format!("{name}.key")),
            client_ca_file: None,
        };
        replace(&files.certificate_file, &certificate.pem());
        replace(&files.key_file, &key.serialize_pem());
        files
    }
}

fn replace(file: &Path, text: &str) {
    let draft = file.with_extension("draft");
    fs::write(&draft, text).unwrap();
    fs::rename(draft, file).unwrap();
}

type Socket = WebSocketStream<TlsStream<TcpStream>>;

/// Opens a socket over TLS; answers it and the certificate that was shown.
async fn open(edge: &Edge, ca: &Path) -> (Socket, Vec<u8>) {
    let mut roots = RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_file(ca).unwrap())
        .unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let stream = TcpStream::connect(edge.public).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    let connector = TlsConnector::from(Arc::new(config));
    let stream = connector.connect(name, stream).await.unwrap();
    let shown = stream.get_ref().1.peer_certificates().unwrap()[0].to_vec();
    let url = format!("wss://localhost/push?authorization={}", token("alice"));
    let (socket, _) = tokio_tungstenite::client_async(url, stream).await.unwrap();
    (socket, shown)
}

async fn ping(socket: &mut Socket) {
    socket
        .send(Message::text(r#"{"action":"ping"}"#))
        .await
        .unwrap();
    let answer = tokio::time::timeout(PATIENCE, socket.next()).await.unwrap();
    let Some(Ok(Message::Text(pong))) = answer else {
        panic!("instead of a pong: {answer:?}");
    };
    assert!(pong.contains("pong"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_is_changed_while_clients_stay_connected() {
    let authority = Authority::new();
    let files = authority.sign("public");
    let cluster = Cluster::start().await;
    let edge = cluster
        .edge_with(|config| {
            config.tls = Some(files.clone());
            config.admin.reload_interval = Duration::from_millis(20);
        })
        .await;
    let (mut early, first) = open(&edge, &authority.ca()).await;
    ping(&mut early).await;

    authority.sign("public");
    let (mut late, second) = eventually("the new certificate", async || {
        let (socket, shown) = open(&edge, &authority.ca()).await;
        (shown != first).then_some((socket, shown))
    })
    .await;
    ping(&mut late).await;
    ping(&mut early).await;

    // What cannot be read changes nothing.
    replace(&files.certificate_file, "nonsense");
    tokio::time::sleep(Duration::from_millis(100)).await;
    let (mut later, third) = open(&edge, &authority.ca()).await;
    assert_eq!(third, second);
    ping(&mut later).await;
    let url = format!("ws://{}/push", edge.public);
    let plain = tokio_tungstenite::connect_async(url).await;
    assert!(plain.is_err(), "nobody is served without TLS");
}

#[tokio::test(flavor = "multi_thread")]
async fn edges_and_pushers_show_certificates_in_place_of_the_secret() {
    let authority = Authority::new();
    let mut files = authority.sign("inner");
    files.client_ca_file = Some(authority.ca());
    let trust = |identity: Option<&Files>| {
        let identity = identity.map(|files| Certificate::load(files).unwrap());
        Trust::new(Some(&authority.ca()), identity).unwrap()
    };
    let cluster = Cluster::start().await;
    let mut edges = vec![];
    for _ in 0..2 {
        let change = |config: &mut ingest::Config| config.admin.tls = Some(files.clone());
        let tls = trust(Some(&files));
        let edge = cluster
            .edge_starting_with(change, embedded_store(), tls, "")
            .await;
        edge.admitting().await;
        edges.push(edge);
    }
    let client = |trust: &Trust| trust.apply(reqwest::Client::builder()).build().unwrap();
    let (member, stranger) = (client(&trust(Some(&files))), client(&trust(None)));
    let (asked, holds) = (&edges[0], &edges[1]);
    let mut alice = holds.client("alice").await;

    // As a pusher.
    let target = push::Target::default();
    let body = batch(&alice, 0, &target, &["1"]).encode();
    let url = format!("https://{}{}", holds.admin, push::PATH);
    let pushed = async |client: &reqwest::Client| {
        let request = client.post(&url).header("content-type", push::CONTENT_TYPE);
        let response = request.body(body.clone()).send().await.unwrap();
        (response.status().as_u16(), response.text().await.unwrap())
    };
    let (status, problem) = pushed(&stranger).await;
    assert_eq!(status, 401);
    assert!(problem.contains("client_certificate_missing"), "{problem}");
    assert_eq!(pushed(&member).await.0, 200);
    assert_eq!(alice.receive().await, "1");

    // An application needs none, and the edge that it asks shows its own to the other.
    let url = format!("https://{}/v1/connections/{}", asked.admin, alice.id);
    let response = stranger.delete(url).bearer_auth(API_KEY).send().await;
    assert_eq!(response.unwrap().status(), 204);
    assert_eq!(alice.close_code().await, 4410);
}
