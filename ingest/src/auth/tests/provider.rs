//! Identity providers that rotate their keys, are down, slow, too chatty, or lie.

use std::time::Duration;

use futures_util::future::join_all;
use jsonwebtoken::Algorithm::{ES256, RS256};
use serde_json::{Value, json};
use tokio::time::{Instant, timeout};

use super::support::*;
use crate::auth::Refusal::*;
use crate::auth::config::{Audience, Config, Fetch, Issuer};
use crate::auth::{Principal, Refusal};

const ISSUER: &str = "https://issuer.example";

fn short() -> Fetch {
    Fetch {
        cooldown: Duration::from_millis(50),
        retry_min: Duration::from_millis(20),
        retry_max: Duration::from_millis(20),
        ..Fetch::default()
    }
}

fn config(provider: &Provider, issuer: Issuer, fetch: Fetch) -> Config {
    Config {
        issuers: vec![Issuer {
            issuer: issuer.issuer.or_else(|| Some(ISSUER.into())),
            audience: Audience(vec!["sumu".into()]),
            ..issuer
        }],
        fetch: Fetch {
            http_hosts: vec![provider.address.to_string()],
            ..fetch
        },
        ..Config::default()
    }
}

fn by_jwks(provider: &Provider, fetch: Fetch) -> Config {
    let issuer = Issuer {
        jwks_url: Some(provider.url("/jwks")),
        ..Issuer::default()
    };
    config(provider, issuer, fetch)
}

fn publish(provider: &Provider, keys: &[Value]) {
    provider.answer("/jwks", Answer::json(&json!({ "keys": keys })));
}

fn one() -> Value {
    jwk(RS256, RSA, &json!({"kid": "one"}))
}

fn two() -> Value {
    jwk(ES256, P256, &json!({"kid": "two"}))
}

fn by_one() -> String {
    token(
        RS256,
        RSA,
        Some("one"),
        &claims(&json!({"iss": ISSUER, "aud": "sumu"})),
    )
}

fn by_two() -> String {
    token(
        ES256,
        P256,
        Some("two"),
        &claims(&json!({"iss": ISSUER, "aud": "sumu"})),
    )
}

/// Checks until the answer is that.
async fn until(running: &Running, token: &str, wanted: Result<(), Refusal>) {
    let met = async {
        while running.check(token).await.map(|_: Principal| ()) != wanted {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let what = format!("never {wanted:?}");
    timeout(PATIENCE, met).await.expect(&what);
}

#[tokio::test]
async fn keys_rotate_while_tokens_come() {
    let provider = Provider::start().await;
    publish(&provider, &[one()]);
    let running = Running::start(by_jwks(&provider, short()));
    running.ready(true).await;
    until(&running, &by_one(), Ok(())).await;
    assert_eq!(running.check(&by_two()).await, Err(UnknownKey));

    publish(&provider, &[one(), two()]);
    until(&running, &by_two(), Ok(())).await;
    until(&running, &by_one(), Ok(())).await;

    // What leaves the document holds no more; an unknown key makes it be read.
    publish(&provider, &[two()]);
    let stranger = token(
        RS256,
        RSA,
        Some("new"),
        &claims(&json!({"iss": ISSUER, "aud": "sumu"})),
    );
    tokio::time::sleep(Duration::from_millis(60)).await;
    assert_eq!(running.check(&stranger).await, Err(UnknownKey));
    until(&running, &by_one(), Err(UnknownKey)).await;
    until(&running, &by_two(), Ok(())).await;
}

#[tokio::test]
async fn keys_are_refreshed_in_the_background_as_the_answer_says() {
    let provider = Provider::start().await;
    let answer = |keys: Value, age| Answer {
        headers: format!("cache-control: public, max-age={age}\r\n"),
        ..Answer::json(&json!({ "keys": [keys] }))
    };
    provider.answer("/jwks", answer(one(), 0));
    let fetch = Fetch {
        refresh_min: Duration::from_millis(50),
        cooldown: Duration::from_hours(1),
        ..Fetch::default()
    };
    let running = Running::start(by_jwks(&provider, fetch));
    until(&running, &by_one(), Ok(())).await;
    provider.answer("/jwks", answer(two(), 3600));
    until(&running, &by_one(), Err(UnknownKey)).await;
    assert!(running.check(&by_two()).await.is_ok());
    let asked = provider.asked();
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(provider.asked(), asked, "it said an hour");
}

#[tokio::test]
async fn ten_thousand_unknown_keys_cause_one_fetch_per_cool_down() {
    let provider = Provider::start().await;
    publish(&provider, &[one()]);
    let cooldown = Duration::from_secs(1);
    let fetch = Fetch {
        cooldown,
        ..Fetch::default()
    };
    let running = Running::start(by_jwks(&provider, fetch));
    running.ready(true).await;
    assert_eq!(provider.asked(), 1);

    let began = Instant::now();
    tokio::time::sleep(cooldown).await;
    let stranger = |n: usize| {
        let header = json!({"alg": "RS256", "kid": format!("unknown-{n}")});
        let payload = claims(&json!({"iss": ISSUER, "aud": "sumu"}));
        format!(
            "{}.{}.{}",
            encoded(header.to_string()),
            encoded(payload.to_string()),
            encoded([7; 256])
        )
    };
    let tokens: Vec<String> = (0..10_000).map(stranger).collect();
    let outcomes = join_all(tokens.iter().map(|token| running.check(token))).await;
    assert!(outcomes.iter().all(|outcome| *outcome == Err(UnknownKey)));
    let most = 1 + usize::try_from(began.elapsed().as_secs()).unwrap();
    let asked = provider.asked();
    assert!(
        (2..=most).contains(&asked),
        "{asked} fetches, and not 2 to {most}"
    );
    assert!(running.check(&by_one()).await.is_ok());
}

#[tokio::test]
async fn a_refused_token_causes_no_fetch() {
    let provider = Provider::start().await;
    publish(&provider, &[one()]);
    let fetch = Fetch {
        cooldown: Duration::from_nanos(1),
        ..Fetch::default()
    };
    let running = Running::start(by_jwks(&provider, fetch));
    running.ready(true).await;
    for changes in [
        json!({"exp": 1}),
        json!({"aud": "other"}),
        json!({"iss": "https://evil.example"}),
    ] {
        let mut claims = claims(&json!({"iss": ISSUER, "aud": "sumu"}));
        claims
            .as_object_mut()
            .unwrap()
            .extend(changes.as_object().unwrap().clone());
        let stranger = token(RS256, RSA, Some("new"), &claims);
        assert!(running.check(&stranger).await.is_err());
    }
    assert_eq!(provider.asked(), 1);
}

#[tokio::test]
async fn a_provider_that_is_down_delays_readiness_and_ends_nothing() {
    let provider = Provider::start().await;
    let running = Running::start(by_jwks(&provider, short()));
    running.ready(false).await;
    until(&running, &by_one(), Err(KeysUnavailable)).await;
    let said = running.reason();
    assert!(said.contains(ISSUER), "{said}");

    publish(&provider, &[one()]);
    running.ready(true).await;
    assert!(running.check(&by_one()).await.is_ok());

    // Down again: the last good keys serve.
    provider.answer(
        "/jwks",
        Answer {
            status: 500,
            ..Answer::body("")
        },
    );
    let down = async {
        let asked = provider.asked();
        while provider.asked() < asked + 3 {
            assert_eq!(running.check(&by_two()).await, Err(UnknownKey));
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, down).await.expect("it is asked no more");
    assert!(running.check(&by_one()).await.is_ok());
    running.ready(true).await;
}

#[tokio::test]
async fn keys_that_are_too_old_serve_no_more() {
    let provider = Provider::start().await;
    publish(&provider, &[one()]);
    let fetch = Fetch {
        keep: Duration::from_millis(300),
        refresh_min: Duration::from_millis(20),
        refresh: Duration::from_millis(20),
        ..short()
    };
    let running = Running::start(by_jwks(&provider, fetch));
    until(&running, &by_one(), Ok(())).await;
    provider.answer("/jwks", Answer::body("gone"));
    until(&running, &by_one(), Err(KeysUnavailable)).await;
    running.ready(false).await;
}

/// What a provider may answer that is no key set, and what is said of it.
#[expect(clippy::too_many_lines, reason = "a table")]
#[tokio::test]
async fn what_a_bad_provider_answers_is_told_and_never_used() {
    let key_set = json!({"keys": [one()]}).to_string();
    let many: Vec<Value> = (0..65).map(|_| one()).collect();
    let location = |to: &str| Answer {
        status: 302,
        headers: format!("location: {to}\r\n"),
        ..Answer::body("")
    };
    for (answer, told) in [
        (
            Answer::body("<html><body>Sign in</body></html>"),
            "no JSON object",
        ),
        (Answer::body(vec![0xff; 1000]), "no JSON object"),
        (Answer::body(""), "no JSON object"),
        (Answer::body("[]"), "no JSON object"),
        (Answer::body("{}"), "no list `keys`"),
        (Answer::body(r#"{"keys":{}}"#), "no list `keys`"),
        (Answer::body(r#"{"keys":[]}"#), "no key that can be used"),
        (
            Answer::body(r#"{"keys":[1,{"kty":"RSA"}]}"#),
            "no key that can be used",
        ),
        (
            Answer::body(format!(
                r#"{{"keys":[],{}"#,
                key_set.trim_start_matches('{')
            )),
            "a member twice",
        ),
        (Answer::json(&json!({ "keys": many })), "more than 64 keys"),
        (
            Answer::body(" ".repeat(300 << 10) + &key_set),
            "more than 262144 bytes",
        ),
        (
            Answer {
                status: 500,
                ..Answer::body(key_set.clone())
            },
            "status 500",
        ),
        (
            Answer {
                status: 404,
                ..Answer::body(key_set.clone())
            },
            "status 404",
        ),
        (
            Answer {
                status: 204,
                ..Answer::body("")
            },
            "status 204",
        ),
        (location("http://127.0.0.1:9/jwks"), "redirects"),
        (location("file:///etc/passwd"), "status 302"),
        (location("/jwks"), "redirects"),
    ] {
        let provider = Provider::start().await;
        provider.answer("/jwks", answer);
        let running = Running::start(by_jwks(&provider, short()));
        running.says("no keys of").await;
        let said = running.reason();
        assert!(said.contains(told), "{told} is not in {said}");
        assert_eq!(
            running.check(&by_one()).await,
            Err(KeysUnavailable),
            "{told}"
        );
    }
}

#[tokio::test]
async fn a_slow_provider_is_not_waited_for() {
    let provider = Provider::start().await;
    let slow = Answer {
        after: Duration::from_secs(3600),
        ..Answer::json(&json!({"keys": [one()]}))
    };
    provider.answer("/jwks", slow);
    let fetch = Fetch {
        timeout: Duration::from_millis(100),
        ..short()
    };
    let running = Running::start(by_jwks(&provider, fetch));
    let began = Instant::now();
    assert_eq!(running.check(&by_one()).await, Err(KeysUnavailable));
    assert!(began.elapsed() < PATIENCE);
    running.says("no whole answer").await;
}

#[tokio::test]
async fn a_redirect_to_where_fetching_is_allowed_is_followed() {
    let provider = Provider::start().await;
    publish(&provider, &[one()]);
    let moved = Answer {
        status: 302,
        headers: "location: /jwks\r\n".into(),
        ..Answer::body("")
    };
    provider.answer("/old", moved);
    let issuer = Issuer {
        jwks_url: Some(provider.url("/old")),
        ..Issuer::default()
    };
    let running = Running::start(config(&provider, issuer, short()));
    until(&running, &by_one(), Ok(())).await;
}

#[tokio::test]
async fn an_issuer_is_enough_where_its_keys_can_be_discovered() {
    let provider = Provider::start().await;
    publish(&provider, &[one()]);
    let issuer = provider.url("/tenant/");
    let document = "/tenant/.well-known/openid-configuration";
    let describe = |issuer: &str, jwks: &str| {
        provider.answer(
            document,
            Answer::json(&json!({"issuer": issuer, "jwks_uri": jwks})),
        );
    };
    let settings = Issuer {
        issuer: Some(issuer.clone()),
        ..Issuer::default()
    };
    let jwks = provider.url("/jwks");
    for (found, keys, told) in [
        ("https://evil.example", &*jwks, "another issuer"),
        (issuer.trim_end_matches('/'), &*jwks, "another issuer"),
        (&*issuer, "http://127.0.0.1:9/jwks", "https://"),
        (&*issuer, "file:///etc/passwd", "https://"),
        (&*issuer, "", "no URL"),
    ] {
        describe(found, keys);
        let running = Running::start(config(&provider, settings.clone(), short()));
        running.says("discovery document").await;
        assert!(
            running.reason().contains(told),
            "{told}: {}",
            running.reason()
        );
    }
    describe(&issuer, &jwks);
    let running = Running::start(config(&provider, settings, short()));
    let alice = token(
        RS256,
        RSA,
        Some("one"),
        &claims(&json!({"iss": issuer, "aud": "sumu"})),
    );
    until(&running, &alice, Ok(())).await;
}

#[tokio::test]
async fn files_of_keys_are_read_again_when_they_change() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("key.pem");
    std::fs::write(&path, RSA_PUBLIC).unwrap();
    let running = Running::start(Config {
        public_keys: vec![path.to_str().unwrap().into()],
        reload_interval: Duration::from_millis(20),
        ..Config::default()
    });
    let (rsa, p256) = (by_one(), by_two());
    assert!(running.check(&rsa).await.is_ok());
    assert_eq!(running.check(&p256).await, Err(WrongAlgorithm));
    std::fs::write(&path, format!("{RSA_PUBLIC}{P256_PUBLIC}")).unwrap();
    until(&running, &p256, Ok(())).await;
    assert!(running.check(&rsa).await.is_ok());
    std::fs::write(&path, P256_PUBLIC).unwrap();
    until(&running, &rsa, Err(WrongAlgorithm)).await;
    // What cannot be read changes nothing.
    std::fs::write(&path, "-----BEGIN PUBLIC KEY-----\n").unwrap();
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(running.check(&p256).await.is_ok());
}

/// Keeps everything that is logged.
#[derive(Clone, Default)]
struct Lines(std::sync::Arc<std::sync::Mutex<Vec<u8>>>);

impl std::io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn no_secret_key_or_token_is_shown() {
    let lines = Lines::default();
    let writer = lines.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_writer(move || writer.clone())
        .finish();
    // With a single one, tracing asks the thread that comes to a line first whether anybody wants it, and
    // other tests' threads have none.
    let _another = tracing::Dispatch::new(tracing_subscriber::registry());
    let _logging = tracing::subscriber::set_default(subscriber);

    let provider = Provider::start().await;
    publish(&provider, &[one(), weak_jwk()]);
    let mut config = by_jwks(&provider, short());
    config.hs256_secret = Some(SECRET.into());
    config.issuers[0].secret = Some("another secret of more than 32 bytes".into());
    let mut shown = format!("{config:?}");
    let running = Running::start(config);
    running.ready(true).await;
    let tokens = [
        by_one(),
        by_two(),
        token(
            jsonwebtoken::Algorithm::HS256,
            SECRET,
            None,
            &claims(&json!({})),
        ),
        token(
            jsonwebtoken::Algorithm::HS256,
            "guessed",
            None,
            &claims(&json!({})),
        ),
        "garbage-of-more-than-a-few-letters".to_owned(),
    ];
    for token in &tokens {
        shown += &format!("{:?}", running.check(token).await);
    }
    provider.answer("/jwks", Answer::body("<html>"));
    let down = async {
        let asked = provider.asked();
        while provider.asked() < asked + 2 {
            shown += &format!("{:?}", running.check(&by_two()).await);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, down).await.expect("it is asked no more");
    shown += &format!("{:?} {}", running.verifier, running.reason());
    let logged = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
    assert!(logged.contains("keys were not fetched"), "{logged}");
    shown += &logged;

    let modulus = one()["n"].as_str().unwrap().to_owned();
    let mut secrets = vec![SECRET.to_owned(), "another secret of more".into(), modulus];
    for token in &tokens {
        secrets.push(token.clone());
        secrets.extend(
            token
                .split('.')
                .filter(|part| part.len() > 20)
                .map(str::to_owned),
        );
    }
    for secret in secrets {
        assert!(!shown.contains(&secret), "{secret} is shown");
    }
}
