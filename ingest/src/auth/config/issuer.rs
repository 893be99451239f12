//! Configures one issuer: by the name of a provider, by where its keys are, or by the keys themselves.

use std::fmt;

use jsonwebtoken::Algorithm;
use reqwest::Url;
use runtime::secret::Secret;
use serde::de::value::{MapAccessDeserializer, SeqAccessDeserializer};
use serde::de::{Error as _, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use super::Config;
use crate::auth::claims::Rules;
use crate::auth::fetch::{self, Remote};
use crate::auth::local::Local;

/// Whose tokens count, and where the keys come from. A provider's name stands for the rest; what is
/// given beside it wins.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Issuer {
    /// Firebase Authentication: the project id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub firebase: Option<String>,
    /// Amazon Cognito: the user pool.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cognito: Option<Cognito>,
    /// Auth0: the tenant's domain.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub auth0: Option<String>,
    /// Keycloak: server and realm.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keycloak: Option<Keycloak>,
    /// What `iss` is, to the letter. Alone, it has the keys found by `OpenID` Connect Discovery.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub issuer: Option<String>,
    /// Where the issuer's JSON Web Key Set is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jwks_url: Option<String>,
    /// Where the issuer's certificates are: a JSON object of PEM texts by `kid`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub x509_url: Option<String>,
    /// Public keys or certificates: PEM texts, or paths of PEM files, or those with a `kid`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub public_keys: Vec<PublicKey>,
    /// A secret that the issuer shares.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret: Option<Secret>,
    /// The secret before that one, while tokens that it signed still count.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub previous_secret: Option<Secret>,
    /// What the secrets sign with: `HS256`, `HS384` or `HS512`; `HS256` without it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret_algorithm: Option<Algorithm>,
    /// Whom tokens must be for: one, or any of several.
    #[serde(skip_serializing_if = "Audience::is_empty")]
    pub audience: Audience,
    /// Takes tokens for anybody. Without it, an issuer whose keys are fetched needs an audience.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub any_audience: bool,
    /// The claim that names the user, in place of `user_claim` of the section.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user_claim: Option<String>,
}

/// A user pool of Amazon Cognito.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cognito {
    /// Such as `eu-west-1`.
    pub region: String,
    /// Such as `eu-west-1_AbCdEfGhI`.
    pub user_pool: String,
}

/// A realm of a Keycloak server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Keycloak {
    /// The server's base URL, such as `https://sso.example.com`.
    pub url: String,
    /// The realm's name.
    pub realm: String,
}

/// A public key: a PEM text or the path of a PEM file, perhaps with the `kid` that tokens name it by.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum PublicKey {
    /// Whatever `kid` a token names.
    Unnamed(String),
    /// For tokens that name it.
    Named {
        /// The name.
        kid: String,
        /// The text or the path.
        pem: String,
    },
}

/// One audience or several.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Audience(pub Vec<String>);

/// An issuer, ready for use.
#[derive(Debug)]
pub(in crate::auth) struct Trusted {
    pub(in crate::auth) rules: Rules,
    pub(in crate::auth) user_claim: String,
    pub(in crate::auth) local: Local,
    pub(in crate::auth) remote: Option<Remote>,
}

const FIREBASE_CERTIFICATES: &str =
    "https://www.googleapis.com/robot/v1/metadata/x509/securetoken@system.gserviceaccount.com";

impl Issuer {
    /// What its tokens are checked by, or all that is wrong with it.
    pub(super) fn trusted(&self, config: &Config) -> Result<Trusted, Vec<String>> {
        let mut faults = vec![];
        let this = self.with_presets(&mut faults);
        let Some(issuer) = this.issuer.clone().filter(|issuer| !issuer.is_empty()) else {
            faults.push("issuer: needed, or the name of a provider".into());
            return Err(faults);
        };
        let local = this.local(&mut faults);
        let remote = this.remote(&issuer, &config.fetch.http_hosts, &mut faults);
        if remote.is_some() && this.audience.is_empty() && !this.any_audience {
            faults.push("audience: needed; or say any_audience = true".into());
        }
        let user_claim = this.user_claim.as_ref().unwrap_or(&config.user_claim);
        if user_claim.is_empty() {
            faults.push("user_claim: must not be empty".into());
        }
        match local {
            Some(local) if faults.is_empty() => Ok(Trusted {
                rules: config.rules(Some(issuer), this.audience.0),
                user_claim: user_claim.clone(),
                local,
                remote,
            }),
            _ => Err(faults),
        }
    }

    /// The same, with what the provider's name stands for where nothing else is given.
    fn with_presets(&self, faults: &mut Vec<String>) -> Self {
        let mut this = self.clone();
        let mut presets = 0;
        let mut set = |issuer: String, jwks: Option<String>, x509: Option<&str>| {
            presets += 1;
            this.issuer.get_or_insert(issuer);
            if this.jwks_url.is_none() && this.x509_url.is_none() {
                this.jwks_url = jwks;
                this.x509_url = x509.map(Into::into);
            }
        };
        if let Some(project) = &self.firebase {
            let issuer = format!("https://securetoken.google.com/{project}");
            set(issuer, None, Some(FIREBASE_CERTIFICATES));
        }
        if let Some(Cognito { region, user_pool }) = &self.cognito {
            let issuer = format!("https://cognito-idp.{region}.amazonaws.com/{user_pool}");
            let jwks = format!("{issuer}/.well-known/jwks.json");
            set(issuer, Some(jwks), None);
        }
        if let Some(domain) = &self.auth0 {
            let jwks = format!("https://{domain}/.well-known/jwks.json");
            set(format!("https://{domain}/"), Some(jwks), None);
        }
        if let Some(Keycloak { url, realm }) = &self.keycloak {
            let issuer = format!("{}/realms/{realm}", url.trim_end_matches('/'));
            let jwks = format!("{issuer}/protocol/openid-connect/certs");
            set(issuer, Some(jwks), None);
        }
        if presets > 1 {
            faults.push("issuer: one provider, please; each issuer has an entry of its own".into());
        }
        for (name, part) in self.parts() {
            let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
            if part.is_empty() || !part.chars().all(plain) {
                faults.push(format!(
                    "{name}: has letters, digits, `-`, `_` and `.` only"
                ));
            }
        }
        if let Some(project) = &self.firebase
            && this.audience.is_empty()
        {
            this.audience.0.push(project.clone());
        }
        this
    }

    /// What becomes a part of a URL.
    fn parts(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let cognito = self.cognito.as_ref();
        let parts = [
            ("firebase", self.firebase.as_ref()),
            ("cognito.region", cognito.map(|pool| &pool.region)),
            ("cognito.user_pool", cognito.map(|pool| &pool.user_pool)),
            ("auth0", self.auth0.as_ref()),
            (
                "keycloak.realm",
                self.keycloak.as_ref().map(|keycloak| &keycloak.realm),
            ),
        ];
        (parts.into_iter()).filter_map(|(name, part)| Some((name, part?.as_str())))
    }

    fn local(&self, faults: &mut Vec<String>) -> Option<Local> {
        let secrets = [
            ("secret", &self.secret),
            ("previous_secret", &self.previous_secret),
        ];
        // RFC 7518 §3.2: as long as the hash.
        let algorithm = match self.secret_algorithm.unwrap_or(Algorithm::HS256) {
            Algorithm::HS256 => (Algorithm::HS256, 32),
            Algorithm::HS384 => (Algorithm::HS384, 48),
            Algorithm::HS512 => (Algorithm::HS512, 64),
            _ => {
                faults.push("secret_algorithm: must be HS256, HS384 or HS512".into());
                return None;
            }
        };
        match Local::new(&secrets, algorithm, &self.public_keys) {
            Ok(local) => Some(local),
            Err(of_keys) => {
                faults.extend(of_keys);
                None
            }
        }
    }

    /// Where keys are fetched from: there where it says, or found by discovery if there are no others.
    fn remote(&self, issuer: &str, http: &[String], faults: &mut Vec<String>) -> Option<Remote> {
        let given =
            self.secret.is_some() || self.previous_secret.is_some() || !self.public_keys.is_empty();
        let (name, url) = match (&self.jwks_url, &self.x509_url) {
            (Some(_), Some(_)) => {
                faults.push("x509_url: not with jwks_url".into());
                return None;
            }
            (Some(url), None) => ("jwks_url", url.as_str()),
            (None, Some(url)) => ("x509_url", url.as_str()),
            (None, None) if given => return None,
            (None, None) => ("issuer", issuer),
        };
        let parsed = match fetch::allowed(url, http) {
            Ok(parsed) => parsed,
            Err(fault) => {
                faults.push(format!("{name}: {fault}"));
                return None;
            }
        };
        Some(match name {
            "jwks_url" => Remote::Jwks(parsed),
            "x509_url" => Remote::X509(parsed),
            _ => Remote::Discovery {
                issuer: issuer.to_owned(),
                document: discovery(parsed),
            },
        })
    }
}

/// `OpenID` Connect Discovery 1.0 §4: below the issuer's path.
fn discovery(mut issuer: Url) -> Url {
    let path = issuer.path().trim_end_matches('/');
    let path = format!("{path}/.well-known/openid-configuration");
    issuer.set_path(&path);
    issuer
}

impl Audience {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl PublicKey {
    /// The name that tokens must know it by, if any, and its text or path.
    pub(in crate::auth) fn parts(&self) -> (Option<&str>, &str) {
        match self {
            Self::Unnamed(pem) => (None, pem),
            Self::Named { kid, pem } => (Some(kid), pem),
        }
    }
}

impl From<&str> for PublicKey {
    fn from(pem: &str) -> Self {
        Self::Unnamed(pem.to_owned())
    }
}

impl<'de> Deserialize<'de> for PublicKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AnyPublicKey)
    }
}

struct AnyPublicKey;

impl<'de> Visitor<'de> for AnyPublicKey {
    type Value = PublicKey;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a PEM text, a path, or { kid = \"…\", pem = \"…\" }")
    }

    fn visit_str<E>(self, text: &str) -> Result<PublicKey, E> {
        Ok(text.into())
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<PublicKey, A::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Named {
            kid: String,
            pem: String,
        }
        let Named { kid, pem } = Named::deserialize(MapAccessDeserializer::new(map))?;
        Ok(PublicKey::Named { kid, pem })
    }
}

impl<'de> Deserialize<'de> for Audience {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(OneOrMany)
    }
}

struct OneOrMany;

impl<'de> Visitor<'de> for OneOrMany {
    type Value = Audience;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text or a list of texts")
    }

    fn visit_str<E: serde::de::Error>(self, one: &str) -> Result<Audience, E> {
        if one.is_empty() {
            return Err(E::custom("must not be empty"));
        }
        Ok(Audience(vec![one.to_owned()]))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, many: A) -> Result<Audience, A::Error> {
        let many = Vec::<String>::deserialize(SeqAccessDeserializer::new(many))?;
        if many.iter().any(String::is_empty) {
            return Err(A::Error::custom("must not be empty"));
        }
        Ok(Audience(many))
    }
}
