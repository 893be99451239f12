//! Makes tokens for development and tests: `sumu token`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use runtime::{Clock, Secret};
use schemas::UserId;
use serde::Serialize;

use crate::console;
use crate::dev::folder;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The user that the token speaks for.
    #[arg(long, value_name = "USER")]
    sub: UserId,
    /// How long it counts: 30m, 1h, 7d …
    #[arg(long, default_value = "1h", value_parser = duration)]
    ttl: Duration,
    /// The data folder of `sumu dev`, which keeps the secret.
    #[arg(long, value_name = "DIR", default_value = folder::DEFAULT)]
    data: PathBuf,
    /// The secret of the edges, in place of the one in the folder.
    #[arg(long, value_name = "TEXT")]
    hs256_secret: Option<Secret>,
}

#[derive(Debug, Serialize)]
struct Claims<'a> {
    sub: &'a UserId,
    iat: i64,
    exp: i64,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let secret = match &args.hs256_secret {
        Some(secret) => secret.clone(),
        None => of_dev(&args.data)?,
    };
    console::line(sign(&secret, &args.sub, args.ttl, Clock::system())?)?;
    Ok(())
}

fn of_dev(data: &Path) -> anyhow::Result<Secret> {
    folder::read_secret(data).with_context(|| {
        format!(
            "no secret in {}: start `sumu dev` there first, or give --data or --hs256-secret",
            data.display()
        )
    })
}

/// A token for that user, from now on for so long.
pub(crate) fn sign(
    secret: &Secret,
    user: &UserId,
    ttl: Duration,
    clock: Clock,
) -> anyhow::Result<String> {
    let now = clock.now();
    let claims = Claims {
        sub: user,
        iat: now.0 / 1000,
        exp: (now + ttl).0 / 1000,
    };
    let key = EncodingKey::from_secret(secret.expose().as_bytes());
    jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &key)
        .context("cannot sign the token")
}

/// Reads a time such as `90s` or `1h 30m`.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let span: jiff::SignedDuration = text.parse().map_err(|e: jiff::Error| e.to_string())?;
    Duration::try_from(span).map_err(|_negative| "must not be negative".to_owned())
}
