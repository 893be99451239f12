mod provider;
mod support;
mod table;
mod vectors;

use futures_util::FutureExt as _;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use proptest::prelude::*;
use serde_json::json;

use super::*;

const NOW: Millis = Millis(1_800_000_000_000);
const SECRET: &str = "a secret of more than thirty-two bytes";

macro_rules! pair {
    ($algorithm:ident, $name:literal) => {
        (
            Algorithm::$algorithm,
            include_str!(concat!("../../tests/keys/", $name, ".pem")),
            include_str!(concat!("../../tests/keys/", $name, ".pub.pem")),
        )
    };
}

/// Algorithm, private key and public key. Made for these tests, used nowhere else.
const PAIRS: [(Algorithm, &str, &str); 5] = [
    pair!(RS256, "rsa"),
    pair!(PS256, "other-rsa"),
    pair!(ES256, "p256"),
    pair!(ES384, "p384"),
    pair!(EdDSA, "ed25519"),
];

struct Check(Verifier);

impl Check {
    /// The answer, which needs nothing to be waited for.
    fn check(&self, token: &str, now: Millis) -> Result<Principal, Refusal> {
        self.0.authorize(token, now).now_or_never().unwrap()
    }
}

fn check(config: Config) -> Check {
    Check(Verifier::new(config).unwrap())
}

fn hs256() -> Config {
    Config {
        hs256_secret: Some(SECRET.into()),
        ..Config::default()
    }
}

fn sign(claims: &Value) -> String {
    let key = EncodingKey::from_secret(SECRET.as_bytes());
    encode(&Header::default(), claims, &key).unwrap()
}

fn seconds(after_now: i64) -> i64 {
    NOW.0 / 1000 + after_now
}

fn claims() -> Value {
    json!({"sub": "alice", "exp": seconds(60)})
}

/// The claims with these instead; `null` takes one away.
fn with(changes: &Value) -> Value {
    let mut claims = claims();
    for (name, value) in changes.as_object().unwrap() {
        if value.is_null() {
            claims.as_object_mut().unwrap().remove(name);
        } else {
            claims[name] = value.clone();
        }
    }
    claims
}

#[test]
fn a_good_token_names_its_user_and_its_end() {
    let mut config = hs256();
    config.carry_claims = vec!["tier".into()];
    let token = sign(&with(&json!({"tier": "gold", "secret": 1})));
    let principal = check(config).check(&token, NOW).unwrap();
    assert_eq!(principal.user_id.as_str(), "alice");
    assert_eq!(principal.expires_at, Some(Millis(seconds(60) * 1000)));
    assert_eq!(
        Value::from(principal.claims.unwrap()),
        json!({"tier": "gold"})
    );
}

#[test]
fn each_claim_is_judged() {
    use Refusal::*;
    let mut named = hs256();
    named.issuer = Some("https://issuer".into());
    named.audience = Some("sumu".into());
    let fine = json!({"iss": "https://issuer", "aud": "sumu"});
    let plain = hs256();
    for (config, changes, expected) in [
        (&plain, json!({"exp": seconds(-4)}), None),
        (&plain, json!({"exp": seconds(-6)}), Some(TokenExpired)),
        (&plain, json!({"exp": 12.5}), Some(TokenExpired)),
        (&plain, json!({"exp": null}), Some(ExpiryMissing)),
        (&plain, json!({"exp": "tomorrow"}), Some(MalformedToken)),
        (&plain, json!({"exp": 1e300}), Some(MalformedToken)),
        (&plain, json!({"nbf": seconds(4)}), None),
        (&plain, json!({"nbf": seconds(6)}), Some(TokenNotYetValid)),
        (&plain, json!({"sub": null}), Some(UserMissing)),
        (&plain, json!({"sub": ""}), Some(UserMissing)),
        (&plain, json!({"sub": 7}), Some(UserMissing)),
        (&plain, json!({"sub": "x".repeat(257)}), Some(UserMissing)),
        (&plain, json!({"sub": "line\nbreak"}), Some(UserMissing)),
        (&plain, json!({"aud": "others", "iss": "anybody"}), None),
        (&named, fine.clone(), None),
        (
            &named,
            json!({"iss": "https://issuer", "aud": ["x", "sumu"]}),
            None,
        ),
        (&named, json!({"aud": "sumu"}), Some(WrongIssuer)),
        (
            &named,
            json!({"iss": "https://issuer/", "aud": "sumu"}),
            Some(WrongIssuer),
        ),
        (
            &named,
            json!({"iss": "https://issuer"}),
            Some(WrongAudience),
        ),
        (
            &named,
            json!({"iss": "https://issuer", "aud": ["x"]}),
            Some(WrongAudience),
        ),
    ] {
        let outcome = check(config.clone()).check(&sign(&with(&changes)), NOW);
        assert_eq!(outcome.err(), expected, "{changes}");
    }
}

#[test]
fn another_claim_can_name_the_user() {
    let mut config = hs256();
    config.user_claim = "email".into();
    let token = sign(&with(&json!({"email": "a@b"})));
    assert_eq!(
        check(config).check(&token, NOW).unwrap().user_id.as_str(),
        "a@b"
    );
}

#[test]
fn a_token_need_not_expire_if_the_configuration_says_so() {
    let mut config = hs256();
    config.require_expiry = false;
    let token = sign(&with(&json!({"exp": null})));
    assert_eq!(check(config).check(&token, NOW).unwrap().expires_at, None);
}

#[test]
fn every_kind_of_public_key_works_and_only_for_its_own_signatures() {
    for (algorithm, private, public) in PAIRS {
        let key = match algorithm {
            Algorithm::EdDSA => EncodingKey::from_ed_pem(private.as_bytes()),
            Algorithm::ES256 | Algorithm::ES384 => EncodingKey::from_ec_pem(private.as_bytes()),
            _ => EncodingKey::from_rsa_pem(private.as_bytes()),
        };
        let token = encode(&Header::new(algorithm), &claims(), &key.unwrap()).unwrap();
        for (other, _, other_public) in PAIRS {
            let config = Config {
                public_keys: vec![other_public.into()],
                ..Config::default()
            };
            let outcome = check(config).check(&token, NOW);
            assert_eq!(
                outcome.is_ok(),
                public == other_public,
                "{algorithm:?} by {other:?}"
            );
        }
    }
}

#[test]
fn the_key_says_which_algorithm_not_the_token() {
    let (_, _, public) = PAIRS[0];
    let rsa = Config {
        public_keys: vec![public.into()],
        ..Config::default()
    };
    // The public key taken for a secret: the classic confusion.
    let key = EncodingKey::from_secret(public.as_bytes());
    let confused = encode(&Header::new(Algorithm::HS256), &claims(), &key).unwrap();
    assert_eq!(
        check(rsa).check(&confused, NOW),
        Err(Refusal::WrongAlgorithm)
    );
    // `none`: {"alg":"none"} . {"sub":"alice","exp":9999999999} . nothing
    let none = "eyJhbGciOiJub25lIn0.eyJzdWIiOiJhbGljZSIsImV4cCI6OTk5OTk5OTk5OX0.";
    assert_eq!(
        check(hs256()).check(none, NOW),
        Err(Refusal::WrongAlgorithm)
    );
    let key = EncodingKey::from_secret(SECRET.as_bytes());
    let hs512 = encode(&Header::new(Algorithm::HS512), &claims(), &key).unwrap();
    assert_eq!(
        check(hs256()).check(&hs512, NOW),
        Err(Refusal::WrongAlgorithm)
    );
}

#[test]
fn what_is_no_token_is_told_apart() {
    let check = check(hs256());
    let good = sign(&claims());
    let (rest, signature) = good.rsplit_once('.').unwrap();
    let other = EncodingKey::from_secret(b"another secret");
    let forged = encode(&Header::default(), &claims(), &other).unwrap();
    let other_first = if signature.starts_with('A') { 'B' } else { 'A' };
    let others: String = signature.chars().skip(1).collect();
    let tampered = format!("{rest}.{other_first}{others}");
    for (token, expected) in [
        (String::new(), Refusal::TokenMissing),
        ("x".into(), Refusal::MalformedToken),
        ("a.b.c".into(), Refusal::MalformedToken),
        (rest.into(), Refusal::MalformedToken),
        (format!("{rest}."), Refusal::BadSignature),
        (tampered, Refusal::BadSignature),
        (forged, Refusal::BadSignature),
        (good.repeat(200), Refusal::TokenTooLarge),
    ] {
        assert_eq!(check.check(&token, NOW), Err(expected), "{token:.60}");
    }
    assert!(check.check(&good, NOW).is_ok());
}

#[test]
fn faults_of_keys_are_told() {
    let (_, private, public) = PAIRS[0];
    let faults = |config: Config| config.faults().join("\n");
    assert!(faults(Config::default()).contains("hs256_secret"));
    let config = Config {
        hs256_secret: Some("".into()),
        public_keys: vec![
            private.into(),
            "/nowhere.pem".into(),
            "-----BEGIN X-----".into(),
            support::WEAK_RSA_PUBLIC.into(),
            support::P521_PUBLIC.into(),
        ],
        user_claim: String::new(),
        ..Config::default()
    };
    let told = faults(config);
    for fault in [
        "must not be empty",
        "[0]: is a private key",
        "[1]: reading",
        "[2]: holds no PEM block",
        "[3]: is an RSA key with fewer than 2048 bits",
        "[4]: is an EC key, but of neither P-256 nor P-384",
        "user_claim",
    ] {
        assert!(told.contains(fault), "{fault} is missing in\n{told}");
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("key.pem");
    std::fs::write(&path, public).unwrap();
    let config = Config {
        public_keys: vec![path.to_str().unwrap().into()],
        ..Config::default()
    };
    assert_eq!(faults(config), "");
}

#[test]
fn every_code_is_of_two_words_or_more() {
    let source = include_str!("../auth.rs");
    let codes: Vec<_> = source
        .split("=> \"")
        .skip(1)
        .filter_map(|rest| rest.split('"').next())
        .collect();
    assert!(codes.len() >= 16, "{codes:?}");
    for code in codes {
        assert!(code.contains('_'), "{code}");
        assert!(
            code.chars().all(|c| c == '_' || c.is_ascii_lowercase()),
            "{code}"
        );
    }
}

/// JSON in the words of headers, claims and published keys.
fn words() -> impl Strategy<Value = Value> {
    let word = "(alg|kid|crit|typ|jwk|kty|crv|n|e|x|y|use|key_ops|keys|issuer|jwks_uri|sub|exp|nbf|iat|iss|aud|RSA|EC|P-256|sig|HS256|RS256|[A-Za-z0-9_-]{0,60})";
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        word.prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 24, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::hash_map(word, inner, 0..6).prop_map(Value::from_iter),
        ]
    })
}

proptest! {
    /// Whatever a token's header and claims hold, and whoever signed it.
    #[test]
    fn no_header_or_claims_make_it_panic(header in words(), claims in words()) {
        let check = check(hs256());
        for header in [header, json!({"alg": "HS256"})] {
            let token = support::compact(header.to_string(), claims.to_string(), Algorithm::HS256, SECRET);
            let outcome = check.check(&token, NOW);
            prop_assert!(outcome.is_err() || claims["sub"].is_string());
        }
    }

    /// Whatever a provider publishes.
    #[test]
    fn no_document_makes_it_panic(document in words(), bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let text = document.to_string();
        let key = json!({"kty": "RSA", "n": document, "e": "AQAB"});
        let set = json!({"keys": [document, key]}).to_string();
        for bytes in [text.as_bytes(), set.as_bytes(), &bytes] {
            let keys = documents::jwks(bytes).unwrap_or_default().len();
            let certificates = documents::certificates(bytes).unwrap_or_default().len();
            prop_assert!(keys <= 2 && certificates == 0);
            let found = documents::jwks_uri(bytes, "https://issuer");
            prop_assert!(found.is_err(), "no issuer has that name here");
        }
    }

    /// Whatever is in a PEM file.
    #[test]
    fn no_key_file_makes_it_panic(
        bytes in prop::collection::vec(any::<u8>(), 0..300),
        label in "(PUBLIC KEY|RSA PUBLIC KEY|CERTIFICATE|X)",
    ) {
        let text = pem::encode(&pem::Pem::new(label, bytes));
        prop_assert!(key::Key::all_of_pem(&text, None).is_err());
    }

    /// A change of any one character of a good token.
    #[test]
    fn a_changed_token_is_refused(at in any::<prop::sample::Index>(), other in "[A-Za-z0-9_.~-]") {
        let good = sign(&claims());
        let at = at.index(good.len());
        let (before, after) = (good.split_at(at).0, good.split_at(at + 1).1);
        let changed = format!("{before}{other}{after}");
        prop_assume!(changed != good);
        prop_assert!(check(hs256()).check(&changed, NOW).is_err());
    }

    #[test]
    fn no_token_makes_it_panic(token in ".{0,200}", a in "[A-Za-z0-9_-]{0,40}", b in "[A-Za-z0-9_-]{0,40}") {
        let check = check(hs256());
        prop_assert!(check.check(&token, NOW).is_err());
        let shaped = format!("{a}.{b}.{a}");
        prop_assert!(check.check(&shaped, NOW).is_err());
    }
}
