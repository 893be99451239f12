//! Measures how many tokens one core verifies, beside the bare `jsonwebtoken` call.

use std::hint::black_box;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use futures_util::FutureExt as _;
use ingest::auth::config::PublicKey;
use ingest::auth::{Authorizer as _, Config, Verifier};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation, decode, encode};
use schemas::Millis;
use serde_json::{Map, Value, json};
use tokio::time::Instant;

/// How much to measure.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// Runs of each algorithm, bare and sumu in turn; the table shows minimum, median and maximum.
    #[arg(long, default_value_t = 5)]
    runs: usize,
    /// Milliseconds of each run.
    #[arg(long, default_value_t = 1_000)]
    millis: u64,
}

const NOW: Millis = Millis(1_800_000_000_000);
const SECRET: &str = "a secret of more than thirty-two bytes";

macro_rules! pem {
    ($name:literal) => {
        include_str!(concat!("../../ingest/tests/keys/", $name, ".pem"))
    };
}

/// One kind of token, and all that verifies it.
struct Case {
    algorithm: Algorithm,
    token: String,
    key: DecodingKey,
    validation: Validation,
    verifier: Verifier,
}

#[expect(clippy::print_stdout, reason = "the table is what this command is for")]
/// Verifies on one thread, bare and with sumu in turn, and prints a table.
pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    println!(
        "verifications/s on one core, {} runs of {} ms each",
        args.runs, args.millis
    );
    println!("| algorithm | jsonwebtoken min/med/max | sumu min/med/max | sumu ÷ jsonwebtoken |");
    println!("|---|---|---|---|");
    for case in cases()? {
        let (mut bare, mut ours, mut ratios) = (vec![], vec![], vec![]);
        for _ in 0..args.runs {
            let time = Duration::from_millis(args.millis);
            let one = rate(time, || case.bare())?;
            let other = rate(time, || case.ours())?;
            bare.push(one);
            ours.push(other);
            ratios.push(other / one);
        }
        let told = |mut rates: Vec<f64>, digits: usize| {
            rates.sort_by(f64::total_cmp);
            let at = |share: usize| rates[share * (rates.len() - 1) / 2];
            format!(
                "{:.digits$} / {:.digits$} / {:.digits$}",
                at(0),
                at(1),
                at(2)
            )
        };
        println!(
            "| {:?} | {} | {} | {} |",
            case.algorithm,
            told(bare, 0),
            told(ours, 0),
            told(ratios, 2)
        );
    }
    Ok(())
}

/// Calls per second.
fn rate(time: Duration, mut call: impl FnMut() -> anyhow::Result<()>) -> anyhow::Result<f64> {
    const BATCH: u32 = 64;
    let (began, mut calls) = (Instant::now(), 0_u32);
    while began.elapsed() < time {
        for _ in 0..BATCH {
            call()?;
        }
        calls += BATCH;
    }
    Ok(f64::from(calls) / began.elapsed().as_secs_f64())
}

impl Case {
    fn bare(&self) -> anyhow::Result<()> {
        let token = black_box(&self.token);
        let verified = decode::<Map<String, Value>>(token, &self.key, &self.validation)?;
        black_box(verified);
        Ok(())
    }

    fn ours(&self) -> anyhow::Result<()> {
        let verified = self.verifier.authorize(black_box(&self.token), NOW);
        black_box(verified.now_or_never().context("it waited")??);
        Ok(())
    }
}

fn cases() -> anyhow::Result<Vec<Case>> {
    let public = |pem: &'static str| Config {
        public_keys: vec![PublicKey::from(pem)],
        ..Config::default()
    };
    let secret = Config {
        hs256_secret: Some(SECRET.into()),
        ..Config::default()
    };
    let (rsa, p256, ed25519) = (pem!("rsa.pub"), pem!("p256.pub"), pem!("ed25519.pub"));
    [
        (
            Algorithm::RS256,
            EncodingKey::from_rsa_pem(pem!("rsa").as_bytes())?,
            DecodingKey::from_rsa_pem(rsa.as_bytes())?,
            public(rsa),
        ),
        (
            Algorithm::ES256,
            EncodingKey::from_ec_pem(pem!("p256").as_bytes())?,
            DecodingKey::from_ec_pem(p256.as_bytes())?,
            public(p256),
        ),
        (
            Algorithm::EdDSA,
            EncodingKey::from_ed_pem(pem!("ed25519").as_bytes())?,
            DecodingKey::from_ed_pem(ed25519.as_bytes())?,
            public(ed25519),
        ),
        (
            Algorithm::HS256,
            EncodingKey::from_secret(SECRET.as_bytes()),
            DecodingKey::from_secret(SECRET.as_bytes()),
            secret,
        ),
    ]
    .into_iter()
    .map(|(algorithm, signer, key, config)| {
        let config = Config {
            issuer: Some("https://issuer.example".into()),
            audience: Some("sumu".into()),
            ..config
        };
        // What providers put into an access token, more or less.
        let claims = json!({
            "iss": "https://issuer.example", "aud": ["sumu", "https://issuer.example/userinfo"],
            "sub": "auth0|507f1f77bcf86cd799439011", "iat": 1_799_999_000, "exp": 4_000_000_000_u32,
            "azp": "my_client_id", "scope": "openid profile email",
        });
        let mut validation = Validation::new(algorithm);
        validation.set_issuer(&["https://issuer.example"]);
        validation.set_audience(&["sumu"]);
        Ok(Case {
            algorithm,
            validation,
            token: encode(&Header::new(algorithm), &claims, &signer)?,
            key,
            verifier: Verifier::new(config).map_err(|faults| anyhow!(faults.join("; ")))?,
        })
    })
    .collect()
}
