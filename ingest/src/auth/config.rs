//! Configures which tokens count.

mod issuer;

use std::time::Duration;

use jiff::fmt::serde::unsigned_duration::friendly::compact;
use jsonwebtoken::Algorithm;
use runtime::secret::Secret;
use serde::{Deserialize, Serialize};

use super::claims::Rules;
use super::fetch;
use super::local::Local;
use crate::config::Watch;
pub(super) use issuer::Trusted;
pub use issuer::{Audience, Cognito, Issuer, Keycloak, PublicKey};

/// Which tokens count.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The secret of HS256 tokens.
    pub hs256_secret: Option<Secret>,
    /// The secret before that one, while tokens that it signed still count.
    pub hs256_previous_secret: Option<Secret>,
    /// Public keys of RS, PS, ES and `EdDSA` tokens: PEM texts, or paths of PEM files.
    pub public_keys: Vec<PublicKey>,
    /// What `iss` must be; anything, without one.
    pub issuer: Option<String>,
    /// What `aud` must name; anything, without one.
    pub audience: Option<String>,
    /// Identity providers. A token whose `iss` is one of theirs is checked by that one's keys alone.
    pub issuers: Vec<Issuer>,
    /// How keys are fetched from them.
    pub fetch: Fetch,
    /// The claim that names the user.
    pub user_claim: String,
    /// Claims carried in the connection's record, by name.
    pub carry_claims: Vec<String>,
    /// Whether a token must expire.
    pub require_expiry: bool,
    /// Whether a token's `exp` counts: if not, expired ones do, and connections outlive them.
    pub verify_token_expiration: bool,
    /// How far clocks may differ.
    #[serde(with = "compact::required")]
    pub leeway: Duration,
    /// The longest token, in bytes.
    pub max_token_bytes: usize,
    /// How often PEM files are looked at for other keys.
    #[serde(with = "compact::required")]
    pub reload_interval: Duration,
    /// Which claim says whom a user may watch; the edge has it in a section of its own.
    #[serde(skip)]
    pub watch: Watch,
}

/// How keys are fetched from identity providers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Fetch {
    /// How long one fetch may take, discovery and redirects included.
    #[serde(with = "compact::required")]
    pub timeout: Duration,
    /// Largest answer, in bytes.
    pub max_bytes: usize,
    /// Keys that one issuer may have.
    pub max_keys: usize,
    /// Redirects that are followed, each to where fetching is allowed.
    pub max_redirects: usize,
    /// Hosts that may be asked without TLS, as `host` or `host:port`; all others need `https://`.
    pub http_hosts: Vec<String>,
    /// PEM file with certificate authorities to trust besides those of the operating system.
    pub ca_file: Option<String>,
    /// A token whose key is not known has the keys fetched anew, but only so long after the last time.
    #[serde(with = "compact::required")]
    pub cooldown: Duration,
    /// Keys are fetched anew after this long, where the answer's `Cache-Control` says nothing.
    #[serde(with = "compact::required")]
    pub refresh: Duration,
    /// The shortest time until then, whatever `Cache-Control` says.
    #[serde(with = "compact::required")]
    pub refresh_min: Duration,
    /// The longest time until then, whatever `Cache-Control` says.
    #[serde(with = "compact::required")]
    pub refresh_max: Duration,
    /// The wait after a failed fetch; it doubles with each one in a row.
    #[serde(with = "compact::required")]
    pub retry_min: Duration,
    /// The longest wait after a failed fetch.
    #[serde(with = "compact::required")]
    pub retry_max: Duration,
    /// How long the last good keys serve while an issuer cannot be asked.
    #[serde(with = "compact::required")]
    pub keep: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            hs256_secret: None,
            hs256_previous_secret: None,
            public_keys: vec![],
            issuer: None,
            audience: None,
            issuers: vec![],
            fetch: Fetch::default(),
            user_claim: "sub".into(),
            carry_claims: vec![],
            require_expiry: true,
            verify_token_expiration: true,
            leeway: Duration::from_secs(5),
            max_token_bytes: 8 << 10,
            reload_interval: Duration::from_secs(10),
            watch: Watch::default(),
        }
    }
}

impl Default for Fetch {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(5),
            max_bytes: 256 << 10,
            max_keys: 64,
            max_redirects: 3,
            http_hosts: vec![],
            ca_file: None,
            cooldown: Duration::from_secs(10),
            refresh: Duration::from_mins(10),
            refresh_min: Duration::from_mins(1),
            refresh_max: Duration::from_hours(1),
            retry_min: Duration::from_secs(1),
            retry_max: Duration::from_mins(1),
            keep: Duration::from_hours(72),
        }
    }
}

impl Config {
    /// Everything wrong with it, for people. Reads the key files.
    #[must_use]
    pub fn faults(&self) -> Vec<String> {
        let mut faults = self.trusted().err().unwrap_or_default();
        if !self.has_own_keys() && self.issuers.is_empty() {
            faults
                .push("hs256_secret: without it, public_keys or issuers nobody can connect".into());
        }
        if self.user_claim.is_empty() {
            faults.push("user_claim: must not be empty".into());
        }
        if self.max_token_bytes == 0 {
            faults.push("max_token_bytes: must not be 0".into());
        }
        if self.reload_interval.is_zero() {
            faults.push("reload_interval: must not be 0".into());
        }
        faults.extend(self.fetch.faults());
        faults
    }

    /// Every issuer with what its tokens are checked by; the keys given in place of issuers make one,
    /// too.
    pub(super) fn trusted(&self) -> Result<Vec<Trusted>, Vec<String>> {
        let (mut trusted, mut faults) = (vec![], vec![]);
        if self.has_own_keys() {
            match self.own() {
                Ok(own) => trusted.push(own),
                Err(own) => faults.extend(own),
            }
        }
        for (index, issuer) in self.issuers.iter().enumerate() {
            match issuer.trusted(self) {
                Ok(one) => trusted.push(one),
                Err(of_it) => {
                    let name = |fault| format!("issuers[{index}].{fault}");
                    faults.extend(of_it.into_iter().map(name));
                }
            }
        }
        let mut names: Vec<_> = trusted.iter().map(|one| &one.rules.issuer).collect();
        names.sort();
        if let Some([Some(name), _]) = names.windows(2).find(|pair| pair[0] == pair[1]) {
            faults.push(format!("issuers: {name} is there twice"));
        }
        if faults.is_empty() {
            Ok(trusted)
        } else {
            Err(faults)
        }
    }

    fn has_own_keys(&self) -> bool {
        self.hs256_secret.is_some()
            || self.hs256_previous_secret.is_some()
            || !self.public_keys.is_empty()
    }

    fn own(&self) -> Result<Trusted, Vec<String>> {
        let secrets = [
            ("hs256_secret", &self.hs256_secret),
            ("hs256_previous_secret", &self.hs256_previous_secret),
        ];
        // Any length but none: configurations of before have short ones.
        let local = Local::new(&secrets, (Algorithm::HS256, 1), &self.public_keys)?;
        Ok(Trusted {
            rules: self.rules(self.issuer.clone(), self.audience.iter().cloned().collect()),
            user_claim: self.user_claim.clone(),
            local,
            remote: None,
        })
    }

    fn rules(&self, issuer: Option<String>, audience: Vec<String>) -> Rules {
        Rules {
            issuer,
            audience,
            expires: self.verify_token_expiration,
            require_expiry: self.require_expiry,
            leeway: self.leeway,
        }
    }
}

impl Fetch {
    fn faults(&self) -> Vec<String> {
        let zero = [
            ("timeout", self.timeout.is_zero()),
            ("max_bytes", self.max_bytes == 0),
            ("max_keys", self.max_keys == 0),
            ("cooldown", self.cooldown.is_zero()),
            ("refresh_min", self.refresh_min.is_zero()),
            ("retry_min", self.retry_min.is_zero()),
            ("keep", self.keep.is_zero()),
        ];
        let mut faults: Vec<String> = (zero.into_iter())
            .filter(|(_, zero)| *zero)
            .map(|(name, _)| format!("fetch.{name}: must not be 0"))
            .collect();
        faults.extend(fetch::authorities(self).err());
        if self.refresh_min > self.refresh_max {
            faults.push("fetch.refresh_min: must not exceed fetch.refresh_max".into());
        }
        if self.retry_min > self.retry_max {
            faults.push("fetch.retry_min: must not exceed fetch.retry_max".into());
        }
        faults
    }
}

#[cfg(test)]
mod tests;
