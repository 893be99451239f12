//! Configures an edge: its listeners, who may enter, and every limit of a socket.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use jiff::fmt::serde::unsigned_duration::friendly::compact;
use runtime::secret::Secret;
use runtime::tls;
use schemas::EdgeId;
use serde::{Deserialize, Serialize};

use crate::admission::address::{ForwardedHeader, Network};
use crate::api_keys::Keys;
use crate::auth;
use crate::server::MAX_WORKERS;

mod compression;
mod limits;
mod reads;

pub use compression::Compression;
pub use limits::Limits;
pub use reads::{Allow, Subscriptions, Watch};

/// What an edge listens on, whom it lets in and how far they may go. Durations are written like
/// `5s` or `500ms`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// This edge's name, its own among all edges; made up at each start without one.
    pub edge_id: Option<String>,
    /// Address for clients; port 0 takes any free one.
    pub listen: SocketAddr,
    /// TLS of that listener; none without this section.
    pub tls: Option<tls::Config>,
    /// Path of the socket.
    pub path: String,
    /// What comes before that path, like the stage of an API Gateway: with `/prod` the socket is at
    /// `/prod/push`. An empty one is none.
    pub stage: Option<String>,
    /// Where clients reach the edges, such as `wss://live.example.com`; told at start, with stage
    /// and path. An empty one is none.
    pub public_url: Option<String>,
    /// Threads that serve sockets and requests, 512 at most; as many as processors with 0.
    pub workers: usize,
    /// The listener for applications and operators; the process has one for every role.
    #[serde(skip)]
    pub admin: Admin,
    /// Base URL at which pushers and other edges reach this edge; without one `http://`, or `https://` if
    /// there is TLS, and the admin address.
    pub push_url: Option<String>,
    /// Which tokens count.
    pub auth: auth::Config,
    /// Values of `Origin` that browsers may come from, such as `https://app.example`; any, if empty.
    pub origins: Vec<String>,
    /// Networks of proxies that are believed when they say whom they speak for.
    pub trusted_proxies: Vec<Network>,
    /// Where they say it: `x-forwarded-for` or `forwarded` (RFC 7239). Nothing else is read.
    pub forwarded_header: ForwardedHeader,
    /// The topic that each action of a client frame goes to, in addition to `send` and `publish`.
    pub routes: BTreeMap<String, String>,
    /// Every limit.
    pub limits: Limits,
    /// Compression of WebSocket messages (permessage-deflate, RFC 7692).
    pub compression: Compression,
    /// The watch list of clients.
    pub watch: Watch,
    /// Streams of presence for applications.
    pub subscriptions: Subscriptions,
    /// How this edge leaves.
    pub drain: Drain,
}

/// The listener of `/v1`, pushes, metrics and health.
#[derive(Clone, Debug)]
pub struct Admin {
    /// Its address. Without one, its routes join the public listener, which must then be on
    /// loopback or ask for a key.
    pub listen: Option<SocketAddr>,
    /// Keys for `/v1`, any of which opens it. May be empty on loopback only.
    pub api_keys: Vec<Secret>,
    /// More of them, each as a line: a name, the key's SHA-256 in hexadecimal, scopes.
    pub api_key_hashes: Vec<String>,
    /// A file of such lines, read anew when it changes.
    pub api_keys_file: Option<PathBuf>,
    /// Whether tokens that count for sockets open `/v1`, too, as far as their scopes go.
    pub tokens: bool,
    /// How often to look whether files have changed.
    pub reload_interval: Duration,
    /// TLS of that listener; none without it.
    pub tls: Option<tls::Config>,
}

/// How an edge leaves on SIGTERM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Drain {
    /// The sockets are closed evenly over this time.
    #[serde(with = "compact::required")]
    pub spread: Duration,
    /// All of it takes no longer than this.
    #[serde(with = "compact::required")]
    pub timeout: Duration,
}

impl Default for Admin {
    fn default() -> Self {
        Self {
            listen: None,
            api_keys: vec![],
            api_key_hashes: vec![],
            api_keys_file: None,
            tokens: false,
            reload_interval: Duration::from_secs(5),
            tls: None,
        }
    }
}

impl Admin {
    /// Whether sumu's own processes must show a certificate to be let in.
    pub(crate) fn asks_for_certificates(&self) -> bool {
        self.tls
            .as_ref()
            .is_some_and(|tls| tls.client_ca_file.is_some())
    }

    /// The keys of applications. Reads their file.
    pub(crate) fn keys(&self) -> Result<Keys, Vec<String>> {
        let named = |faults: Vec<String>| faults.iter().map(|f| format!("admin.{f}")).collect();
        let file = self.api_keys_file.clone();
        Keys::new(&self.api_keys, &self.api_key_hashes, file).map_err(named)
    }

    fn faults(&self, listen: SocketAddr) -> Vec<String> {
        let mut faults = vec![];
        let open = match self.keys() {
            Ok(keys) => keys.is_open(),
            Err(mut more) => {
                faults.append(&mut more);
                false
            }
        };
        if open && !self.tokens && !listen.ip().is_loopback() {
            let fault = "admin.api_keys: needed where /v1 is served on anything but loopback";
            faults.push(fault.into());
        }
        if self.api_keys.iter().any(|key| key.expose().len() < 16) {
            faults.push("admin.api_keys: each must have 16 characters at least".into());
        }
        if let Some(tls) = &self.tls {
            faults.extend(tls.faults().iter().map(|f| format!("admin.tls: {f}")));
        }
        if self.reload_interval.is_zero() {
            faults.push("admin.reload_interval: must not be 0s".into());
        }
        faults
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            edge_id: None,
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 8080)),
            tls: None,
            path: "/push".into(),
            stage: None,
            public_url: None,
            workers: 0,
            admin: Admin::default(),
            push_url: None,
            auth: auth::Config::default(),
            origins: vec![],
            trusted_proxies: vec![],
            forwarded_header: ForwardedHeader::default(),
            routes: BTreeMap::new(),
            limits: Limits::default(),
            compression: Compression::default(),
            watch: Watch::default(),
            subscriptions: Subscriptions::default(),
            drain: Drain::default(),
        }
    }
}

impl Default for Drain {
    fn default() -> Self {
        Self {
            spread: Duration::from_secs(5),
            timeout: Duration::from_secs(20),
        }
    }
}

/// What the session answers itself.
const OWN_ACTIONS: [&str; 2] = ["ping", "refresh"];

/// Whether a browser could send that as its `Origin` (RFC 6454 §6.2): anything else never matches.
fn is_origin(text: &str) -> bool {
    let host = text.split_once("://").map_or("", |(_, host)| host);
    let plain = |c: char| !c.is_whitespace() && !c.is_ascii_uppercase() && !"/?#*@,".contains(c);
    text == "null" || (!host.is_empty() && host.chars().all(plain))
}

impl Config {
    /// The path of the socket with the stage before it.
    #[must_use]
    pub fn socket_path(&self) -> String {
        format!("{}{}", self.stage.as_deref().unwrap_or_default(), self.path)
    }

    /// Where clients connect: at the public URL, or else at this listener.
    #[must_use]
    pub fn socket_url(&self, listener: SocketAddr) -> String {
        let path = self.socket_path();
        match self.public_url.as_deref().filter(|url| !url.is_empty()) {
            Some(url) => format!("{}{path}", url.trim_end_matches('/')),
            None => format!("ws://{listener}{path}"),
        }
    }

    /// Everything wrong with it, for people.
    #[must_use]
    pub fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        let mut check = |fine: bool, fault: &str| {
            if !fine {
                faults.push(fault.to_owned());
            }
        };
        if let Some(Err(fault)) = self.edge_id.as_ref().map(|id| id.parse::<EdgeId>()) {
            check(false, &format!("edge_id: {fault}"));
        }
        let admin = self.admin.listen.unwrap_or(self.listen);
        match &self.push_url {
            Some(url) => check(
                ["http://", "https://"].iter().any(|scheme| {
                    url.strip_prefix(scheme)
                        .is_some_and(|rest| !rest.is_empty())
                }),
                "push_url: must begin with http:// or https://",
            ),
            None => check(
                !admin.ip().is_unspecified(),
                "push_url: needed where the admin listener's address is a wildcard",
            ),
        }
        for action in self.routes.keys() {
            check(
                !action.is_empty() && action.len() <= 64 && !OWN_ACTIONS.contains(&action.as_str()),
                "routes: an action has 1 to 64 bytes and is neither `ping` nor `refresh`",
            );
            check(
                !self.watch.is_on() || !matches!(action.as_str(), "watch" | "unwatch"),
                "routes: `watch` and `unwatch` are sumu's own while watch.allow is on",
            );
        }
        check(self.workers <= MAX_WORKERS, "workers: must not exceed 512");
        check(
            self.origins.iter().all(|origin| is_origin(origin)),
            "origins: each is scheme://host or scheme://host:port, as browsers send it",
        );
        faults.extend(self.socket_faults());
        faults.extend(
            self.auth
                .faults()
                .iter()
                .map(|fault| format!("auth.{fault}")),
        );
        faults.extend(self.admin.faults(admin));
        if self.admin.tokens && !self.auth.verify_token_expiration {
            let fault = "admin.tokens: not with auth.verify_token_expiration = false, which has tokens open /v1 for ever";
            faults.push(fault.into());
        }
        if let Some(tls) = &self.tls {
            faults.extend(tls.faults().iter().map(|fault| format!("tls: {fault}")));
        }
        faults.extend(self.limits.faults());
        faults.extend(self.compression.faults());
        faults.extend(self.watch.faults(self.limits.max_queued_frames));
        faults.extend(self.subscriptions.faults());
        if self.drain.spread > self.drain.timeout {
            faults.push("drain.spread: must not exceed drain.timeout".into());
        }
        faults
    }
}

impl Config {
    /// What is wrong with where the socket is.
    fn socket_faults(&self) -> Vec<String> {
        let plain = |text: &str| !text.contains(['{', '}', '?', '#']);
        let stage = self.stage.as_deref().unwrap_or_default();
        let url = self.public_url.as_deref().unwrap_or_default();
        let host = ["ws://", "wss://"]
            .iter()
            .find_map(|scheme| url.strip_prefix(scheme));
        let checks = [
            (
                self.path.starts_with('/') && plain(&self.path),
                "path: must begin with `/` and hold none of `{}?#`",
            ),
            (
                stage.is_empty() || stage.starts_with('/') && !stage.ends_with('/') && plain(stage),
                "stage: must be like `/prod`: begin with `/`, not end with it, and hold none of `{}?#`",
            ),
            (
                url.is_empty() || host.is_some_and(|host| !host.is_empty() && plain(host)),
                "public_url: must begin with ws:// or wss:// and hold none of `{}?#`",
            ),
        ];
        let wrong = checks.into_iter().filter(|(fine, _)| !fine);
        wrong.map(|(_, fault)| fault.to_owned()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(text: &str) -> Secret {
        Secret::from(text)
    }

    #[test]
    fn defaults_lack_a_key_and_nothing_else() {
        let faults = Config::default().faults();
        assert_eq!(faults.len(), 1, "{faults:?}");
        assert!(faults[0].starts_with("auth."), "{faults:?}");
    }

    #[test]
    fn an_origin_is_what_a_browser_sends() {
        for fine in ["https://app.example", "http://localhost:3000", "null"] {
            assert!(is_origin(fine), "{fine}");
        }
        for wrong in [
            "app.example",
            "https://",
            "https://app.example/",
            "https://*.example",
            "https://App.example",
            "*",
        ] {
            assert!(!is_origin(wrong), "{wrong}");
        }
    }

    #[test]
    fn every_fault_is_told_at_once() {
        let mut config = Config {
            edge_id: Some("not an id".into()),
            listen: "0.0.0.0:80".parse().unwrap(),
            path: "push".into(),
            stage: Some("prod/".into()),
            public_url: Some("https://live.example.com".into()),
            push_url: None,
            ..Config::default()
        };
        config.auth.hs256_secret = Some(secret("a secret of more than thirty-two bytes"));
        config.workers = MAX_WORKERS + 1;
        config.routes.insert("ping".into(), "topic".into());
        config.origins = vec!["https://*.example".into()];
        config.routes.insert("watch".into(), "topic".into());
        config.watch.allow = Allow::Anybody;
        config.watch.max_users = 1000;
        config.subscriptions.max = 0;
        config.limits.max_in_flight = 0;
        config.compression.level = 10;
        config.limits.silence = Duration::ZERO;
        config.drain.timeout = Duration::ZERO;
        let told = config.faults().join("\n");
        for name in [
            "edge_id",
            "path",
            "stage",
            "public_url",
            "workers",
            "admin.api_keys",
            "push_url",
            "routes: an action",
            "origins",
            "while watch.allow is on",
            "watch.max_users",
            "subscriptions.max",
            "max_in_flight",
            "compression.level",
            "silence",
            "drain.spread",
        ] {
            assert!(told.contains(name), "{name} is missing in\n{told}");
        }
    }

    #[test]
    fn tokens_that_never_end_do_not_open_v1() {
        let mut config = Config::default();
        config.auth.hs256_secret = Some(secret("a secret of more than thirty-two bytes"));
        config.admin.tokens = true;
        assert_eq!(config.faults(), Vec::<String>::new());
        config.auth.verify_token_expiration = false;
        let faults = config.faults();
        assert_eq!(faults.len(), 1, "{faults:?}");
        assert!(faults[0].starts_with("admin.tokens: "), "{faults:?}");
        config.admin.tokens = false;
        assert_eq!(config.faults(), Vec::<String>::new());
    }

    #[test]
    fn the_socket_is_at_the_public_url_with_stage_and_path() {
        let listener = "127.0.0.1:8080".parse().unwrap();
        let mut config = Config::default();
        assert_eq!(config.socket_url(listener), "ws://127.0.0.1:8080/push");
        config.public_url = Some(String::new());
        config.stage = Some("/prod".into());
        assert_eq!(config.socket_url(listener), "ws://127.0.0.1:8080/prod/push");
        config.public_url = Some("wss://live.example.com/".into());
        assert_eq!(
            config.socket_url(listener),
            "wss://live.example.com/prod/push"
        );
    }
}
