//! Fetches keys from identity providers, within limits.

use std::io;
use std::time::Duration;

use reqwest::header::{AGE, CACHE_CONTROL, HeaderMap};
use reqwest::redirect::Policy;
use reqwest::{Certificate, Client, Url};
use tokio::time::timeout;

use super::config::Fetch;
use super::documents;
use super::key::Key;

/// Where an issuer's keys are fetched from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Remote {
    /// A JSON Web Key Set.
    Jwks(Url),
    /// Certificates by `kid`.
    X509(Url),
    /// A key set that the discovery document of the issuer names.
    Discovery { issuer: String, document: Url },
}

#[cfg(test)]
impl Remote {
    /// What is asked first.
    pub(super) const fn url(&self) -> &Url {
        match self {
            Self::Jwks(url) | Self::X509(url) => url,
            Self::Discovery { document, .. } => document,
        }
    }
}

/// What was fetched.
#[derive(Debug)]
pub(super) struct Fetched {
    pub(super) keys: Vec<Key>,
    /// How long the answer says that it holds.
    pub(super) max_age: Option<Duration>,
}

/// Why keys could not be fetched.
#[derive(Debug, thiserror::Error)]
pub(super) enum FetchError {
    #[error("there was no whole answer within {0:?}")]
    TimedOut(Duration),
    #[error("it cannot be reached: {0}")]
    Unreachable(String),
    #[error("it redirects too often, or to where fetching is not allowed")]
    Redirected,
    #[error("its answer has the status {0}")]
    Status(u16),
    #[error("its answer has more than {0} bytes")]
    TooLarge(usize),
    #[error("its discovery document {0}")]
    Discovery(String),
    #[error("its answer {0}")]
    Malformed(String),
    #[error("it publishes no key that can be used")]
    NoKeys,
    #[error("it publishes more than {0} keys")]
    TooManyKeys(usize),
}

impl FetchError {
    /// The reason in snake case, for metrics.
    pub(super) const fn outcome(&self) -> &'static str {
        match self {
            Self::TimedOut(_) => "timed_out",
            Self::Unreachable(_) => "not_reachable",
            Self::Redirected => "bad_redirect",
            Self::Status(_) => "bad_status",
            Self::TooLarge(_) => "too_large",
            Self::Discovery(_) => "wrong_discovery",
            Self::Malformed(_) => "malformed_answer",
            Self::NoKeys => "no_keys",
            Self::TooManyKeys(_) => "too_many_keys",
        }
    }
}

/// Asks providers.
#[derive(Clone, Debug)]
pub(super) struct Fetcher {
    client: Client,
    limits: Fetch,
}

impl Fetcher {
    /// # Errors
    /// If the file of authorities, or the system's, cannot be read.
    pub(super) fn new(limits: &Fetch) -> Result<Self, String> {
        let (http, most) = (limits.http_hosts.clone(), limits.max_redirects);
        let redirects = Policy::custom(move |attempt| {
            if attempt.previous().len() > most {
                return attempt.error(io::Error::other("too many redirects"));
            }
            match is_allowed(attempt.url(), &http) {
                Ok(()) => attempt.follow(),
                Err(fault) => attempt.error(io::Error::other(fault)),
            }
        });
        let mut client = Client::builder()
            .redirect(redirects)
            .timeout(limits.timeout)
            .pool_idle_timeout(Duration::from_secs(30))
            .user_agent(concat!("sumu/", env!("CARGO_PKG_VERSION")));
        for authority in authorities(limits)? {
            client = client.add_root_certificate(authority);
        }
        let client = client.build();
        Ok(Self {
            client: client.map_err(|error| format!("fetch: no HTTP client: {error}"))?,
            limits: limits.clone(),
        })
    }

    /// Fetches keys. Cancel safe.
    ///
    /// # Errors
    /// [`FetchError`]; also if there is no key at all, or a limit is passed.
    pub(super) async fn fetch(&self, remote: &Remote) -> Result<Fetched, FetchError> {
        let limit = self.limits.timeout;
        timeout(limit, self.fetch_in_time(remote))
            .await
            .map_err(|_elapsed| FetchError::TimedOut(limit))?
    }

    async fn fetch_in_time(&self, remote: &Remote) -> Result<Fetched, FetchError> {
        let (answer, read): (_, fn(&[u8]) -> _) = match remote {
            Remote::Jwks(url) => (self.get(url.clone()).await?, documents::jwks),
            Remote::X509(url) => (self.get(url.clone()).await?, documents::certificates),
            Remote::Discovery { issuer, document } => {
                let document = self.get(document.clone()).await?.0;
                let url = documents::jwks_uri(&document, issuer)
                    .and_then(|url| allowed(&url, &self.limits.http_hosts))
                    .map_err(FetchError::Discovery)?;
                (self.get(url).await?, documents::jwks)
            }
        };
        let (body, max_age) = answer;
        let keys = read(&body).map_err(FetchError::Malformed)?;
        match keys.len() {
            0 => Err(FetchError::NoKeys),
            many if many > self.limits.max_keys => {
                Err(FetchError::TooManyKeys(self.limits.max_keys))
            }
            _ => Ok(Fetched { keys, max_age }),
        }
    }

    async fn get(&self, url: Url) -> Result<(Vec<u8>, Option<Duration>), FetchError> {
        let error = |error: reqwest::Error| self.error(error);
        let request = self.client.get(url).header("accept", "application/json");
        let mut answer = request.send().await.map_err(error)?;
        if answer.status() != 200 {
            return Err(FetchError::Status(answer.status().as_u16()));
        }
        let most = self.limits.max_bytes;
        let mut body = vec![];
        while let Some(piece) = answer.chunk().await.map_err(error)? {
            if body.len() + piece.len() > most {
                return Err(FetchError::TooLarge(most));
            }
            body.extend_from_slice(&piece);
        }
        Ok((body, max_age(answer.headers())))
    }

    fn error(&self, error: reqwest::Error) -> FetchError {
        if error.is_timeout() {
            return FetchError::TimedOut(self.limits.timeout);
        }
        if error.is_redirect() {
            return FetchError::Redirected;
        }
        // The innermost says what happened; none of them need the URL, which may hold more than its host.
        let error = error.without_url();
        let mut cause: &dyn std::error::Error = &error;
        while let Some(source) = cause.source() {
            cause = source;
        }
        FetchError::Unreachable(cause.to_string())
    }
}

/// The authorities to trust besides the system's.
pub(super) fn authorities(limits: &Fetch) -> Result<Vec<Certificate>, String> {
    let Some(path) = &limits.ca_file else {
        return Ok(vec![]);
    };
    let fault = |error: String| format!("fetch.ca_file: reading {path}: {error}");
    let pem = std::fs::read(path).map_err(|error| fault(error.to_string()))?;
    match Certificate::from_pem_bundle(&pem) {
        Ok(authorities) if authorities.is_empty() => Err(fault("it holds no certificate".into())),
        Ok(authorities) => Ok(authorities),
        Err(error) => Err(fault(error.to_string())),
    }
}

/// A URL that may be asked.
pub(super) fn allowed(url: &str, http_hosts: &[String]) -> Result<Url, String> {
    let url: Url = url.parse().map_err(|error| format!("is no URL: {error}"))?;
    is_allowed(&url, http_hosts)?;
    Ok(url)
}

fn is_allowed(url: &Url, http_hosts: &[String]) -> Result<(), String> {
    let host = url.host_str().unwrap_or_default();
    if !url.username().is_empty() || url.password().is_some() {
        return Err("must not hold a user or a password".into());
    }
    let with_port = url.port().map(|port| format!("{host}:{port}"));
    let named = |name: &String| name == host || Some(name) == with_port.as_ref();
    match url.scheme() {
        "https" => Ok(()),
        "http" if http_hosts.iter().any(named) => Ok(()),
        _ => Err("must begin with https://, or name a host of fetch.http_hosts".into()),
    }
}

/// How long an answer may be kept: RFC 9111 §5.2.2, less what it has spent in caches (§5.1).
fn max_age(headers: &HeaderMap) -> Option<Duration> {
    let values = headers.get_all(CACHE_CONTROL).iter();
    let directives: Vec<String> = values
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(|directive| directive.trim().to_ascii_lowercase())
        .collect();
    if directives
        .iter()
        .any(|word| word == "no-store" || word == "no-cache")
    {
        return Some(Duration::ZERO);
    }
    let mut ages = directives
        .iter()
        .filter_map(|word| word.strip_prefix("max-age="));
    let seconds: u64 = ages.next()?.trim_matches('"').parse().ok()?;
    let age = headers
        .get(AGE)
        .and_then(|age| age.to_str().ok()?.parse().ok());
    Some(Duration::from_secs(
        seconds.saturating_sub(age.unwrap_or(0)),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_https_may_be_asked_and_what_is_named() {
        let named = ["sso.internal".to_owned(), "localhost:8080".to_owned()];
        for url in [
            "https://example.com/x",
            "http://sso.internal/x",
            "http://sso.internal:81/",
            "http://localhost:8080",
        ] {
            assert!(allowed(url, &named).is_ok(), "{url}");
        }
        for url in [
            "http://example.com",
            "http://localhost:8081",
            "http://localhost",
            "ftp://sso.internal",
            "file:///etc/passwd",
            "https://user:password@example.com/",
            "example.com",
            "",
        ] {
            assert!(allowed(url, &named).is_err(), "{url}");
        }
    }

    #[test]
    fn an_answer_says_how_long_it_may_be_kept() {
        let told = |control: &str, age: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(CACHE_CONTROL, control.parse().unwrap());
            headers.insert(AGE, age.parse().unwrap());
            max_age(&headers).map(|kept| kept.as_secs())
        };
        assert_eq!(told("public, max-age=600, must-revalidate", "0"), Some(600));
        assert_eq!(told("Max-Age=600", "100"), Some(500));
        assert_eq!(told("max-age=600", "1000"), Some(0));
        assert_eq!(told("no-store, max-age=600", "0"), Some(0));
        assert_eq!(told("public", "0"), None);
        assert_eq!(told("max-age=soon", "x"), None);
        assert_eq!(max_age(&HeaderMap::new()), None);
    }
}
