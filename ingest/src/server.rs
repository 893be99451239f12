//! Serves the public and the admin listener, or both as one.

use std::any::Any;
use std::net::{SocketAddr, TcpListener};
use std::num::NonZeroUsize;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use actix_http::HttpService;
use actix_service::{Service as _, ServiceFactory as _, fn_factory, fn_service, map_config};
use actix_tls::accept::rustls_0_23::TlsStream;
use actix_web::App;
use actix_web::dev::{AppConfig, Extensions, Server, ServerHandle};
use actix_web::rt::net::TcpStream;
use actix_web::web::{self, Data, PayloadConfig, ServiceConfig};
use runtime::http::{Endpoints, resource};
use runtime::tls::{self, Certificate, TlsError};
use schemas::push::PATH as PUSH_PATH;
use socket2::SockRef;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::descriptors::{self, Shares};
use crate::edge::Edge;
use crate::takeover::{self, Upgrading};
use crate::{Config, Error, api, gateway, push};

/// How long a listener waits for its requests when it stops. The sockets are closed by then.
const STOP_SECONDS: u64 = 2;

/// How long a connection that is closed may take to say so.
const DISCONNECT: Duration = Duration::from_secs(1);

/// Connections to a listener that are neither sockets nor streams: requests, and sockets before their 101.
/// With more, the next ones wait to be accepted. Each holds two buffers of 8 KiB, actix-http's.
const SPARE_CONNECTIONS: usize = 1024;
/// Connections that wait to be accepted.
const BACKLOG: i32 = 4096;
/// The most workers that actix's server can have.
pub(crate) const MAX_WORKERS: usize = 512;

/// Bound listeners.
#[derive(Debug)]
pub(crate) struct Servers {
    public: Bound,
    admin: Option<Bound>,
    sockets: usize,
}

#[derive(Debug)]
struct Bound {
    listener: TcpListener,
    address: SocketAddr,
    certificate: Option<Arc<Certificate>>,
    /// How many of its connections may be open at a time.
    connections: usize,
}

/// A process of sumu's own that has shown its certificate.
#[derive(Clone, Copy, Debug)]
pub(crate) struct KnownPeer;

/// Listeners that serve.
#[derive(Debug)]
pub(crate) struct Running {
    handles: Vec<ServerHandle>,
    /// Ends what is kept alive between two requests.
    stopping: CancellationToken,
    tasks: Vec<(SocketAddr, JoinHandle<std::io::Result<()>>)>,
}

/// What a listener's workers serve.
#[derive(Clone)]
struct Site {
    edge: Data<Edge>,
    endpoints: Option<Endpoints>,
    /// Whether the socket is here.
    sockets: bool,
    stopping: CancellationToken,
}

/// The application: the socket if it is here, and the rest if there are endpoints.
macro_rules! app {
    ($site:expr) => {{
        let site = $site;
        App::new()
            .app_data(Data::clone(&site.edge))
            .configure(|app| site.routes(app))
    }};
}

/// Serves HTTP on connections of that type, and hands over those that become sockets.
macro_rules! http {
    ($site:expr, $io:ty) => {{
        let site: Site = $site.clone();
        let config = |()| AppConfig::default();
        let upgrading = site.clone();
        let upgrade = fn_factory(move || {
            let app = map_config(app!(&upgrading), config).new_service(());
            async move {
                let app = Rc::new(app.await?);
                Ok::<_, ()>(fn_service(move |(request, framed): Upgrading<$io>| {
                    takeover::mark(&request);
                    let answer = app.call(request);
                    async move {
                        let answer = answer.await.map_or_else(|e| e.error_response(), Into::into);
                        takeover::answer(answer.into(), framed).await;
                        Ok::<_, actix_web::Error>(())
                    }
                }))
            }
        });
        // Twice what the session allows: it closes first, and logs why.
        let stuck = site.edge.config.limits.write_timeout.saturating_mul(2);
        let stopping = site.stopping.clone();
        HttpService::build()
            .client_disconnect_timeout(DISCONNECT)
            .h1_allow_half_closed(false)
            .tcp_nodelay(true)
            .graceful_shutdown_signal(move || stopping.clone().cancelled_owned())
            .on_connect_ext(move |io: &$io, data| greet(io, data, stuck))
            .upgrade(upgrade)
            .finish(map_config(app!(&site), config))
    }};
}

impl Site {
    fn routes(&self, app: &mut ServiceConfig) {
        let edge = &self.edge;
        if self.sockets {
            let path = edge.config.socket_path();
            app.service(resource(&path, "GET").route(web::get().to(gateway::connect)));
        }
        if let Some(endpoints) = &self.endpoints {
            admin(app, endpoints, edge);
        }
    }
}

impl Bound {
    fn bind(
        address: SocketAddr,
        tls: Option<&tls::Config>,
        connections: usize,
    ) -> Result<Self, Error> {
        let certificate = tls.map(Certificate::load).transpose();
        let certificate = certificate.map_err(|error| unusable(&error))?;
        let failed = |source| Error::Serve { address, source };
        let listener = TcpListener::bind(address).map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        SockRef::from(&listener).listen(BACKLOG).map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        Ok(Self {
            listener,
            address,
            certificate,
            connections,
        })
    }
}

fn unusable(error: &TlsError) -> Error {
    Error::Config(vec![format!("tls: {error}")])
}

impl Servers {
    pub(crate) fn bind(config: &Config) -> Result<Self, Error> {
        let Shares {
            sockets,
            public,
            admin,
        } = descriptors::allow(wanted(config));
        Ok(Self {
            sockets,
            public: Bound::bind(config.listen, config.tls.as_ref(), public)?,
            admin: (config.admin.listen)
                .map(|address| Bound::bind(address, config.admin.tls.as_ref(), admin))
                .transpose()?,
        })
    }

    /// How many sockets may be open: no more than the descriptors that this process may have bear.
    pub(crate) const fn sockets(&self) -> usize {
        self.sockets
    }

    pub(crate) const fn public(&self) -> SocketAddr {
        self.public.address
    }

    pub(crate) const fn admin(&self) -> SocketAddr {
        match &self.admin {
            Some(bound) => bound.address,
            None => self.public.address,
        }
    }

    /// Where this edge is reached by others, unless it is told otherwise.
    pub(crate) fn push_url(&self) -> String {
        let Bound {
            address,
            certificate,
            ..
        } = self.admin.as_ref().unwrap_or(&self.public);
        let scheme = if certificate.is_some() {
            "https"
        } else {
            "http"
        };
        format!("{scheme}://{address}")
    }

    /// What the listeners show, to be kept up to date.
    pub(crate) fn certificates(&self) -> Vec<Arc<Certificate>> {
        let bound = [Some(&self.public), self.admin.as_ref()].into_iter();
        bound
            .flatten()
            .filter_map(|bound| bound.certificate.clone())
            .collect()
    }

    /// Begins to serve.
    ///
    /// # Errors
    /// [`Error::Serve`]
    pub(crate) fn run(self, edge: &Arc<Edge>, endpoints: &Endpoints) -> Result<Running, Error> {
        let mut running = Running {
            handles: vec![],
            stopping: CancellationToken::new(),
            tasks: vec![],
        };
        let joined = self.admin.is_none();
        running.serve(self.public, edge, joined.then_some(endpoints), true)?;
        if let Some(admin) = self.admin {
            running.serve(admin, edge, Some(endpoints), false)?;
        }
        Ok(running)
    }
}

impl Running {
    /// Serves the socket if `sockets`, and the rest if there are `endpoints`.
    fn serve(
        &mut self,
        bound: Bound,
        edge: &Arc<Edge>,
        endpoints: Option<&Endpoints>,
        sockets: bool,
    ) -> Result<(), Error> {
        let Bound {
            listener,
            address,
            certificate,
            connections,
        } = bound;
        let tls = certificate
            .map(|certificate| certificate.server())
            .transpose();
        let tls = tls.map_err(|error| unusable(&error))?;
        let workers = workers(edge.config.workers);
        let site = Site {
            edge: Data::from(Arc::clone(edge)),
            endpoints: endpoints.cloned(),
            sockets,
            stopping: self.stopping.clone(),
        };
        let server = Server::build()
            .workers(workers)
            .max_concurrent_connections(connections.div_ceil(workers)) // of each worker
            .disable_signals()
            .shutdown_timeout(STOP_SECONDS);
        let server = match tls {
            Some(tls) => server.listen("tls", listener, move || {
                http!(site, TlsStream<TcpStream>).rustls_0_23(tls.clone())
            }),
            None => server.listen("tcp", listener, move || http!(site, TcpStream).tcp()),
        };
        let server = server
            .map_err(|source| Error::Serve { address, source })?
            .run();
        self.handles.push(server.handle());
        self.tasks.push((address, tokio::spawn(server)));
        Ok(())
    }

    /// Waits until a listener breaks. Cancel safe.
    pub(crate) async fn broken(&mut self) -> Error {
        let ends = self.tasks.iter_mut().map(|(address, task)| {
            let address = *address;
            Box::pin(async move {
                let source = match task.await {
                    Ok(Ok(())) => std::io::Error::other("the listener ended"),
                    Ok(Err(error)) => error,
                    Err(error) => std::io::Error::other(error),
                };
                Error::Serve { address, source }
            })
        });
        futures_util::future::select_all(ends).await.0
    }

    /// Waits a little for the last frames of sockets, stops to listen, and waits a little for requests
    /// under way.
    pub(crate) async fn stop(self, edge: &Edge) {
        edge.sockets.close();
        let last = Duration::from_secs(STOP_SECONDS);
        if timeout(last, edge.sockets.wait()).await.is_err() {
            tracing::debug!("some clients did not close their side");
        }
        self.stopping.cancel();
        for handle in self.handles {
            handle.stop(true).await;
        }
    }
}

/// How many sockets an edge admits whose process may open so many descriptors: what its configuration says, or
/// fewer. Requests and the process' own files have their share.
#[must_use]
pub fn admitted(config: &Config, descriptors: u64) -> usize {
    wanted(config).within(Some(descriptors)).sockets
}

/// The connections that the configuration asks for. Sockets are taken over from HTTP: they are limited for
/// themselves.
fn wanted(config: &Config) -> Shares {
    let (public, admin) = connections(config);
    Shares {
        sockets: config.limits.max_connections,
        public,
        admin,
    }
}

/// How many connections HTTP may have at the public and at the admin listener. Without an admin
/// listener the public one has them all.
fn connections(config: &Config) -> (usize, usize) {
    let workers = workers(config.workers);
    let streams = config.subscriptions.max;
    let whole = |open: usize| {
        let open = open.saturating_add(SPARE_CONNECTIONS);
        // As many at each worker.
        open.checked_next_multiple_of(workers).unwrap_or(open)
    };
    match config.admin.listen {
        Some(_) => (whole(0), whole(streams)),
        None => (whole(streams), 0),
    }
}

/// The threads of a listener.
fn workers(configured: usize) -> usize {
    let processors = || std::thread::available_parallelism().map_or(2, NonZeroUsize::get);
    let workers = match configured {
        0 => processors(),
        workers => workers,
    };
    workers.min(MAX_WORKERS)
}

/// Prepares a connection, and notes who has shown a certificate: the handshake has proved it.
fn greet(stream: &dyn Any, data: &mut Extensions, stuck: Duration) {
    if let Some(stream) = stream.downcast_ref::<TcpStream>() {
        limit_writes(stream, stuck);
    } else if let Some(stream) = stream.downcast_ref::<TlsStream<TcpStream>>() {
        let (tcp, session) = stream.get_ref();
        limit_writes(tcp, stuck);
        if session.peer_certificates().is_some() {
            data.insert(KnownPeer);
        }
    }
}

/// Has the kernel drop a client that takes no bytes for so long: actix-web itself waits for ever to
/// flush what a closed socket had left.
fn limit_writes(stream: &TcpStream, within: Duration) {
    #[cfg(target_os = "linux")]
    if let Err(error) = SockRef::from(stream).set_tcp_user_timeout(Some(within)) {
        tracing::warn!(%error, "a socket has no time limit for writes");
    }
}

/// The routes for applications, pushers and operators.
fn admin(app: &mut ServiceConfig, endpoints: &Endpoints, edge: &Edge) {
    let limits = &edge.config.limits;
    endpoints.configure(app);
    app.service(
        resource("/v1/notifications", "POST")
            .app_data(PayloadConfig::new(limits.max_request_bytes))
            .route(web::post().to(api::notifications::notify)),
    )
    .service(resource("/v1/presence", "GET").route(web::get().to(api::presence::presence)))
    .service(
        resource("/v1/presence/events", "GET").route(web::get().to(api::subscriptions::subscribe)),
    )
    .service(
        resource("/v1/users/{user_id}/connections", "GET, DELETE")
            .route(web::get().to(api::connections::list))
            .route(web::delete().to(api::revocation::revoke)),
    )
    .service(
        resource("/v1/connections/{connection_id}", "DELETE")
            .route(web::delete().to(api::disconnect::disconnect)),
    )
    .service(
        resource(
            &format!("{}/{{connection_id}}", api::disconnect::INTERNAL_PATH),
            "DELETE",
        )
        .route(web::delete().to(api::disconnect::disconnect_here)),
    )
    .service(
        resource(PUSH_PATH, "POST")
            .app_data(PayloadConfig::new(limits.max_push_bytes))
            .route(web::post().to(push::receive)),
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_workers_of_a_listener_share_its_connections() {
        let mut config = Config::default();
        config.subscriptions.max = 32;
        for workers in [1, 2, 3, 64, 511, 512] {
            config.workers = workers;
            config.admin.listen = None;
            let (public, admin) = connections(&config);
            assert_eq!((public % workers, admin), (0, 0));
            let meant = 32 + SPARE_CONNECTIONS;
            assert!(
                (meant..meant + workers).contains(&public),
                "{workers}: {public}"
            );
            config.admin.listen = Some("127.0.0.1:0".parse().unwrap());
            let (public, admin) = connections(&config);
            for (all, open) in [(public, 0), (admin, 32)] {
                let meant = open + SPARE_CONNECTIONS;
                assert_eq!(all % workers, 0);
                assert!((meant..meant + workers).contains(&all), "{workers}: {all}");
            }
        }
        config.subscriptions.max = usize::MAX;
        assert!(connections(&config).1 > SPARE_CONNECTIONS);
        assert!((1..=MAX_WORKERS).contains(&workers(0)));
    }
}
