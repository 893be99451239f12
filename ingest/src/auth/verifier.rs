//! Checks tokens against the keys of their issuers.

use std::future::ready;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use schemas::Millis;

use super::claims::{Rules, principal};
use super::key::KeySet;
use super::{Authorizer, Config, Principal, Refusal, Verified, token};

/// Checks tokens, whoever they are for: [`Verifier::verify`] answers all that they say, and as an
/// [`Authorizer`] it answers which user they speak for.
#[derive(Debug)]
pub struct Verifier {
    config: Config,
    rules: Rules,
    keys: KeySet,
}

impl Verifier {
    /// A check with the keys of `config`.
    ///
    /// # Errors
    /// All faults of the keys.
    pub fn new(config: Config) -> Result<Self, Vec<String>> {
        let (keys, faults) = config.keys();
        if !faults.is_empty() {
            return Err(faults);
        }
        Ok(Self {
            rules: config.rules(),
            config,
            keys,
        })
    }

    /// What `token` says, if it counts at the moment `now`. Cancel safe.
    ///
    /// # Errors
    /// Why it does not count.
    pub fn verify<'a>(
        &'a self,
        token: &'a str,
        now: Millis,
    ) -> BoxFuture<'a, Result<Verified, Refusal>> {
        ready(self.check(token, now)).boxed()
    }

    fn check(&self, token: &str, now: Millis) -> Result<Verified, Refusal> {
        if token.is_empty() {
            return Err(Refusal::TokenMissing);
        }
        if token.len() > self.config.max_token_bytes {
            return Err(Refusal::TokenTooLarge);
        }
        let token = token::read(token)?;
        self.keys.verify(&token, now)?;
        self.rules.judge(token.claims, now)
    }
}

impl Authorizer for Verifier {
    fn authorize<'a>(
        &'a self,
        token: &'a str,
        now: Millis,
    ) -> BoxFuture<'a, Result<Principal, Refusal>> {
        let principal =
            move |verified| principal(verified, &self.config.user_claim, &self.config.carry_claims);
        self.verify(token, now)
            .map(move |outcome| outcome.and_then(principal))
            .boxed()
    }
}
