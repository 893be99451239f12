//! Checks tokens against the keys of their issuers.

use std::sync::Arc;

use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, join_all};
use runtime::Health;
use runtime::health::Component;
use schemas::Millis;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use super::claims::{Rules, principal, user_of};
use super::fetch::Fetcher;
use super::source::Source;
use super::token::{self, Token};
use super::{Authorizer, Config, Principal, Refusal, Verified, telemetry};

/// Checks tokens, whoever they are for: [`Verifier::verify`] answers all that they say, and as an
/// [`Authorizer`] it answers which user they speak for. [`Verifier::run`] keeps its keys fresh.
#[derive(Debug)]
pub struct Verifier {
    config: Config,
    issuers: Vec<Issuer>,
    /// None where no keys are fetched.
    fetcher: Option<Fetcher>,
}

#[derive(Debug)]
struct Issuer {
    rules: Rules,
    user_claim: String,
    source: Arc<Source>,
}

impl Verifier {
    /// A check with the keys of `config`. Those to be fetched are not there yet.
    ///
    /// # Errors
    /// All faults of issuers and keys.
    pub fn new(config: Config) -> Result<Self, Vec<String>> {
        let trusted = config.trusted()?;
        let remote = trusted.iter().any(|trusted| trusted.remote.is_some());
        let fetcher = remote.then(|| Fetcher::new(&config.fetch)).transpose();
        let fetcher = fetcher.map_err(|fault| vec![fault])?;
        let issuers = trusted.into_iter().map(|trusted| {
            let name = trusted.rules.issuer.as_deref().unwrap_or("any issuer");
            let source = Source::new(name, trusted.local, trusted.remote, &config.fetch);
            Issuer {
                source: Arc::new(source),
                rules: trusted.rules,
                user_claim: trusted.user_claim,
            }
        });
        Ok(Self {
            issuers: issuers.collect(),
            config,
            fetcher,
        })
    }

    /// What `token` says, if it counts at the moment `now`. Waits, for a bounded time, only if its key
    /// is not known and may be fetched. Cancel safe.
    ///
    /// # Errors
    /// Why it does not count.
    pub fn verify<'a>(
        &'a self,
        token: &'a str,
        now: Millis,
    ) -> BoxFuture<'a, Result<Verified, Refusal>> {
        self.check(token, now).boxed()
    }

    /// One for the health of each issuer whose keys are fetched: not ready before the first are there.
    pub fn components(&self, health: &Health) -> Vec<Component> {
        (self.issuers.iter())
            .filter(|issuer| issuer.source.is_remote())
            .map(|issuer| health.component(&format!("ingest.keys of {}", issuer.source.name())))
            .collect()
    }

    /// Fetches keys, and reads those in files again, until `shutdown`; returns at once if there are none of
    /// either. `components` are its own.
    pub async fn run(&self, components: Vec<Component>, shutdown: CancellationToken) {
        let sources: Vec<&Source> = self.issuers.iter().map(|issuer| &*issuer.source).collect();
        let issuers = self
            .issuers
            .iter()
            .filter(|issuer| issuer.source.is_remote());
        telemetry::tell_ages(
            issuers
                .map(|issuer| Arc::downgrade(&issuer.source))
                .collect(),
        );
        let (mut follow, mut watch) = (vec![], vec![]);
        if let Some(fetcher) = &self.fetcher {
            let remote = sources.iter().filter(|source| source.is_remote());
            for (source, component) in remote.zip(&components) {
                follow.push(source.follow(fetcher, component));
            }
        }
        for source in sources.iter().filter(|source| source.has_files()) {
            watch.push(source.watch_files(self.config.reload_interval));
        }
        let work = async { tokio::join!(join_all(follow), join_all(watch)) };
        if shutdown.run_until_cancelled(work).await.is_some() {
            tracing::debug!("no keys are fetched or in files");
        }
    }

    async fn check(&self, token: &str, now: Millis) -> Result<Verified, Refusal> {
        if token.is_empty() {
            return Err(Refusal::TokenMissing);
        }
        if token.len() > self.config.max_token_bytes {
            return Err(Refusal::TokenTooLarge);
        }
        let token = token::read(token)?;
        let issuer = self.issuer_of(&token)?;
        let keys = issuer.source.keys();
        let mut proved = keys.verify(&token, now);
        let kid = token.kid.as_deref();
        if proved.is_err() && issuer.source.is_remote() && !keys.names(kid) {
            // Not for a token that would be refused anyhow.
            issuer.rules.judge(&token.claims, now)?;
            issuer.source.refreshed().await;
            let newer = issuer.source.keys();
            if newer.0.is_empty() {
                return Err(Refusal::KeysUnavailable);
            }
            if !Arc::ptr_eq(&keys, &newer) {
                proved = newer.verify(&token, now);
            }
        }
        proved?;
        let times = issuer.rules.judge(&token.claims, now)?;
        Ok(Verified {
            user_id: user_of(&token.claims, &issuer.user_claim),
            claims: token.claims,
            expires_at: times.expires_at,
            issued_at: times.issued_at,
        })
    }

    /// The issuer that the token names, or else the one that takes any name.
    fn issuer_of(&self, token: &Token<'_>) -> Result<&Issuer, Refusal> {
        let name = token.claims.get("iss").and_then(Value::as_str);
        let by_name = |wanted: Option<&str>| {
            let mut issuers = self.issuers.iter();
            issuers.find(|issuer| issuer.rules.issuer.as_deref() == wanted)
        };
        let named = name.and_then(|name| by_name(Some(name)));
        named.or_else(|| by_name(None)).ok_or(Refusal::WrongIssuer)
    }
}

impl Authorizer for Verifier {
    fn authorize<'a>(
        &'a self,
        token: &'a str,
        now: Millis,
    ) -> BoxFuture<'a, Result<Principal, Refusal>> {
        let authorized = async move {
            let verified = self.check(token, now).await?;
            let config = &self.config;
            let (carry, watch) = (&config.carry_claims, &config.watch);
            principal(verified, carry, watch)
        };
        authorized.boxed()
    }
}
