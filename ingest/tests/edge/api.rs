//! What applications ask over HTTP.

use std::sync::Arc;

use ingest::auth::config::Issuer;
use schemas::{Millis, Position};
use serde_json::json;
use store::{Mutation, PresenceRow};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::harness::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_notification_is_checked_and_logged_as_it_came() {
    let cluster = Cluster::start().await;
    let edge = cluster
        .edge_with(|config| config.limits.max_request_bytes = 2000)
        .await;
    let body = r#"{"users":["alice"], "data": {"n": 1.0} }"#;
    let (status, answer) = edge.ask("POST", "/v1/notifications", body).await;
    assert_eq!(status, 202);
    let position: Position = answer["position"].as_str().unwrap().parse().unwrap();
    let records = cluster.records(&cluster.log.topics().notifications).await;
    assert_eq!(records.len(), 1);
    assert_eq!(records[0].position, position);
    assert_eq!(records[0].value.as_deref(), Some(body.as_bytes()));
    let alice = "alice".parse().unwrap();
    assert_eq!(position.partition, cluster.log.partition_of(&alice));

    for (wrong, status, code) in [
        ("", 400, "malformed_notification"),
        ("nonsense", 400, "malformed_notification"),
        (r#"{"users":["alice"]}"#, 400, "malformed_notification"),
        (r#"{"users":[""],"data":1}"#, 400, "malformed_notification"),
        (
            &format!(r#"{{"data":"{}"}}"#, "x".repeat(3000)),
            413,
            "body_too_large",
        ),
    ] {
        let (got, problem) = edge.ask("POST", "/v1/notifications", wrong).await;
        assert_eq!(
            (got, problem["code"].as_str()),
            (status, Some(code)),
            "{wrong:.50}"
        );
    }
    assert_eq!(
        cluster
            .records(&cluster.log.topics().notifications)
            .await
            .len(),
        1
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn presence_is_the_row_and_the_devices_of_now() {
    let cluster = Cluster::start().await;
    let edge = cluster
        .edge_with(|config| config.limits.max_presence_users = 3)
        .await;
    let row = PresenceRow {
        user_id: "alice".parse().unwrap(),
        status: schemas::presence::Status::Online,
        since: Millis(1000),
        last_seen: None,
        devices: 9,
        position: "sumu.connections-1-5".parse().unwrap(),
    };
    edge.store.apply(&[Mutation::Presence(row)]).await.unwrap();
    let _devices = (edge.client("alice").await, edge.client("alice").await);
    let query = "/v1/presence?user_id=alice&user_id=no%20body&user_id=alice";
    let (status, answer) = edge.ask("GET", query, "").await;
    assert_eq!(status, 200);
    let expected = json!({"users": [
        {"user_id": "alice", "status": "ONLINE", "since": 1000, "last_seen": null, "devices": 2,
         "position": "sumu.connections-1-5"},
        {"user_id": "no body", "status": "OFFLINE", "since": null, "last_seen": null, "devices": 0,
         "position": null},
    ]});
    assert_eq!(answer, expected);

    for (query, code) in [
        ("", "user_id_missing"),
        ("?user_id=", "malformed_user_id"),
        ("?user_id=%0a", "malformed_user_id"),
        ("?user=alice", "unknown_parameter"),
        ("?user_id=1&user_id=2&user_id=3&user_id=4", "too_many_users"),
    ] {
        let (status, problem) = edge.ask("GET", &format!("/v1/presence{query}"), "").await;
        assert_eq!(
            (status, problem["code"].as_str()),
            (400, Some(code)),
            "{query}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_key_opens_v1_and_nothing_else_does() {
    let cluster = Cluster::start().await;
    let edge = cluster.edge().await;
    for given in [None, Some("Bearer wrong"), Some("Bearer "), Some(API_KEY)] {
        let headers: Vec<_> = given
            .map(|given| ("authorization", given))
            .into_iter()
            .collect();
        for (method, target) in [
            ("POST", "/v1/notifications"),
            ("GET", "/v1/presence?user_id=a"),
        ] {
            let (status, _) = http(edge.admin, method, target, &headers, b"").await;
            assert_eq!(status, 401, "{target} {given:?}");
        }
    }
    assert_eq!(http(edge.admin, "GET", "/readyz", &[], b"").await.0, 200);

    // Joined on loopback, without keys: one listener for all of it.
    let edge = cluster
        .edge_with(|config| {
            config.admin.listen = None;
            config.admin.api_keys = vec![];
        })
        .await;
    assert_eq!(edge.admin, edge.public);
    let (status, _) = http(edge.public, "GET", "/v1/presence?user_id=a", &[], b"").await;
    assert_eq!(status, 200);
    let client = Arc::new(edge.client("alice").await);
    assert!(client.id.as_str().starts_with("edge-"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_is_refused_before_the_body_is_read() {
    let cluster = Cluster::start().await;
    let edge = cluster.edge().await;
    for path in ["/v1/notifications", schemas::push::PATH] {
        let mut stream = TcpStream::connect(edge.admin).await.unwrap();
        let head = format!("POST {path} HTTP/1.1\r\nhost: test\r\ncontent-length: 1000\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut status = [0; 12];
        let read = timeout(PATIENCE, stream.read_exact(&mut status)).await;
        read.expect("an answer without the body").unwrap();
        assert_eq!(&status, b"HTTP/1.1 401", "{path}");
    }
}

async fn with_key(edge: &Edge, key: &str, method: &str, target: &str) -> (u16, String) {
    let key = format!("Bearer {key}");
    let headers = [("authorization", key.as_str())];
    let body = br#"{"users":["alice"],"data":1}"#;
    let (status, answer) = http(edge.admin, method, target, &headers, body).await;
    let answer: serde_json::Value = serde_json::from_slice(&answer).unwrap_or_default();
    let code = answer["code"].as_str().unwrap_or_default();
    (status, code.to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_open_what_they_are_for_and_are_changed_without_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("keys");
    let (old, new, reader) = (
        "the-old-key-0123456789",
        "the-new-key-0123456789",
        "the-reader-key",
    );
    let line = |name: &str, key: &str, scopes: &str| {
        format!(
            "{name} {} {scopes}\n",
            ingest::api_keys::hex_of(&key.into())
        )
    };
    std::fs::write(&file, line("old", old, "sumu:notify")).unwrap();
    let cluster = Cluster::start().await;
    let edge = cluster
        .edge_with(|config| {
            config.admin.api_keys = vec![];
            config.admin.api_key_hashes = vec![line("reader", reader, "sumu:presence:read")];
            config.admin.api_keys_file = Some(file.clone());
            config.admin.reload_interval = std::time::Duration::from_millis(20);
        })
        .await;
    let (notify, presence) = ("/v1/notifications", "/v1/presence?user_id=alice");
    let user = "/v1/users/alice/connections";
    let refused = |status: u16, code: &str| (status, code.to_owned());
    let missing = refused(403, "scope_missing");
    assert_eq!(with_key(&edge, old, "POST", notify).await.0, 202);
    assert_eq!(with_key(&edge, old, "GET", presence).await, missing);
    assert_eq!(with_key(&edge, reader, "GET", presence).await.0, 200);
    assert_eq!(with_key(&edge, reader, "POST", notify).await, missing);
    assert_eq!(with_key(&edge, reader, "DELETE", user).await, missing);
    let wrong = refused(401, "wrong_api_key");
    assert_eq!(with_key(&edge, new, "POST", notify).await, wrong);
    assert_eq!(with_key(&edge, API_KEY, "POST", notify).await, wrong);
    let token = token_of(&json!({"sub": "app", "exp": 1e11, "scope": "sumu:notify"}));
    assert_eq!(
        with_key(&edge, &token, "POST", notify).await,
        wrong,
        "off by default"
    );

    let both = line("old", old, "sumu:notify") + &line("new", new, "sumu:notify");
    std::fs::write(&file, both).unwrap();
    eventually("the new key", async || {
        (with_key(&edge, new, "POST", notify).await.0 == 202).then_some(())
    })
    .await;
    assert_eq!(with_key(&edge, old, "POST", notify).await.0, 202);
    std::fs::write(&file, line("new", new, "sumu:notify")).unwrap();
    eventually("the end of the old key", async || {
        (with_key(&edge, old, "POST", notify).await == wrong).then_some(())
    })
    .await;
    assert_eq!(with_key(&edge, new, "POST", notify).await.0, 202);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_opens_what_its_scope_names() {
    let cluster = Cluster::start().await;
    let edge = cluster
        .edge_with(|config| {
            config.admin.api_keys = vec![];
            config.admin.tokens = true;
        })
        .await;
    let now = runtime::Clock::system().now().0 / 1000;
    let token = |scope: &str| {
        token_of(&json!({"sub": "app", "exp": now + 60, "iat": now - 1, "scope": scope}))
    };
    let (notify, presence) = ("/v1/notifications", "/v1/presence?user_id=alice");
    let notifier = token("openid sumu:notify");
    assert_eq!(with_key(&edge, &notifier, "POST", notify).await.0, 202);
    let (status, code) = with_key(&edge, &notifier, "GET", presence).await;
    assert_eq!((status, code.as_str()), (403, "scope_missing"));
    let users = token_until("alice", now + 60);
    assert_eq!(
        with_key(&edge, &users, "POST", notify).await.0,
        403,
        "a user's own token"
    );
    let ended = token_of(&json!({"sub": "app", "exp": 1, "scope": "sumu:notify"}));
    for wrong in [ended.as_str(), "a.b.c", "nonsense", ""] {
        assert_eq!(
            with_key(&edge, wrong, "POST", notify).await.0,
            401,
            "{wrong}"
        );
    }
    let writer = token("sumu:connections:write");
    let (status, _) = with_key(&edge, &writer, "DELETE", "/v1/users/app/connections").await;
    assert_eq!(status, 202);
    eventually("the revocation of the token itself", async || {
        (with_key(&edge, &notifier, "POST", notify).await.0 == 401).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_revoked_by_the_user_claim_of_its_own_issuer() {
    let cluster = Cluster::start().await;
    let edge = cluster
        .edge_with(|config| {
            config.admin.tokens = true;
            config.auth.hs256_secret = None;
            config.auth.issuers = vec![Issuer {
                issuer: Some("https://id.example".into()),
                secret: Some(SECRET.into()),
                user_claim: Some("uid".into()),
                ..Issuer::default()
            }];
        })
        .await;
    let now = runtime::Clock::system().now().0 / 1000;
    let token = |uid: &str, sub: &str| {
        token_of(&json!({
            "iss": "https://id.example", "uid": uid, "sub": sub, "scope": "sumu:notify",
            "exp": now + 3600, "iat": now - 60,
        }))
    };
    let (meant, other) = (token("alice", "1"), token("bob", "alice"));
    let (status, _) = edge.ask("DELETE", "/v1/users/alice/connections", "").await;
    assert_eq!(status, 202);
    let notify = "/v1/notifications";
    eventually("the revocation of the token", async || {
        (with_key(&edge, &meant, "POST", notify).await.0 == 401).then_some(())
    })
    .await;
    assert_eq!(with_key(&edge, &other, "POST", notify).await.0, 202);
}

/// A token that was revoked before the edge began opens nothing meanwhile, and neither does any other.
#[tokio::test(flavor = "multi_thread")]
async fn no_token_opens_anything_before_the_revocations_are_read() {
    let mut cluster = Cluster::start().await;
    let prefix = "late.".into();
    let config = eventlog::Config {
        prefix,
        ..cluster.log.config().clone()
    };
    let layout = config.layout();
    cluster.log = eventlog::Log::new(config).unwrap();
    let specs = cluster.log.topics().specs(layout);
    let (late, there): (Vec<_>, Vec<_>) =
        (specs.iter()).partition(|spec| spec.name == cluster.log.topics().revocations);
    for spec in there {
        cluster.log.ensure_topic(spec).await.unwrap();
    }
    let edge = cluster
        .edge_starting(|config| config.admin.tokens = true, embedded_store())
        .await;
    let token = token_of(&json!({"sub": "app", "exp": 1e10, "scope": "sumu:notify"}));
    let notify = "/v1/notifications";
    assert_eq!(
        with_key(&edge, &token, "POST", notify).await,
        (503, "edge_not_ready".to_owned())
    );
    assert_eq!(with_key(&edge, API_KEY, "POST", notify).await.0, 202);
    cluster.log.ensure_topic(late[0]).await.unwrap();
    edge.admitting().await;
    assert_eq!(with_key(&edge, &token, "POST", notify).await.0, 202);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_whose_keys_are_not_there_is_not_called_wrong() {
    let cluster = Cluster::start().await;
    // Nobody answers there.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let host = silent.local_addr().unwrap().to_string();
    drop(silent);
    let jwks_url = format!("http://{host}/keys");
    let edge = cluster
        .edge_starting(
            |config| {
                config.admin.tokens = true;
                config.auth.fetch.http_hosts = vec![host];
                config.auth.issuers = vec![Issuer {
                    issuer: Some("https://id.example".into()),
                    jwks_url: Some(jwks_url),
                    any_audience: true,
                    ..Issuer::default()
                }];
            },
            embedded_store(),
        )
        .await;
    let token = token_of(&json!({
        "iss": "https://id.example", "sub": "app", "scope": "sumu:notify", "exp": 1e10,
    }));
    let notify = "/v1/notifications";
    let refused = eventually("an edge that has read the revocations", async || {
        let refused = with_key(&edge, &token, "POST", notify).await;
        (refused.1 != "edge_not_ready").then_some(refused)
    })
    .await;
    assert_eq!(refused, (503, "keys_unavailable".to_owned()));
}
