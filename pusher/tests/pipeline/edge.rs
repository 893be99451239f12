//! A small edge: a real HTTP server that filters by the highest offset applied and remembers what its
//! sockets were shown.

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex};

use actix_web::dev::ServerHandle;
use actix_web::{App, HttpRequest, HttpResponse, HttpServer, web};
use schemas::push::{
    BatchReply, CONTENT_TYPE, PATH, PushBatch, PushReply, PushRequest, SECRET_HEADER, Target,
};
use schemas::{ConnectionId, EdgeId, Epoch, UserId};

use crate::SECRET;

/// An edge that can be stopped and started again at the same address.
pub(crate) struct Edge {
    pub(crate) edge_id: EdgeId,
    pub(crate) epoch: Epoch,
    pub(crate) address: SocketAddr,
    shared: Arc<Mutex<State>>,
    server: Option<ServerHandle>,
}

#[derive(Default)]
pub(crate) struct State {
    sockets: BTreeMap<ConnectionId, Socket>,
    applied: BTreeMap<(i32, u64), i64>,
    /// Requests taken.
    pub(crate) pushes: usize,
    /// Notifications that came once more.
    pub(crate) repeated: u32,
    /// The traces that came along.
    pub(crate) traces: Vec<String>,
    /// The most bytes of `data` in a request; more is 413.
    pub(crate) limit: Option<usize>,
    /// Applies what comes and then breaks the answer off, so many times.
    pub(crate) lose_answers: usize,
}

struct Socket {
    user: UserId,
    frames: Vec<Frame>,
}

/// A frame that a socket was shown: partition, offset, text.
pub(crate) type Frame = (i32, i64, String);

impl Edge {
    /// Listens; `epoch` is not known yet.
    pub(crate) fn listen(name: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut edge = Self {
            edge_id: name.parse().unwrap(),
            epoch: Epoch(-1),
            address: listener.local_addr().unwrap(),
            shared: Arc::default(),
            server: None,
        };
        edge.serve(listener);
        edge
    }

    fn serve(&mut self, listener: TcpListener) {
        let shared = web::Data::from(Arc::clone(&self.shared));
        let server = HttpServer::new(move || {
            App::new()
                .app_data(shared.clone())
                .app_data(web::PayloadConfig::new(4 << 20))
                .route(PATH, web::post().to(push))
        });
        let server = server
            .workers(1)
            .disable_signals()
            .listen(listener)
            .unwrap()
            .run();
        self.server = Some(server.handle());
        tokio::spawn(server);
    }

    /// Stops answering, its sockets kept.
    pub(crate) async fn stop(&mut self) {
        if let Some(server) = self.server.take() {
            server.stop(false).await;
        }
    }

    /// Answers again, at the same address.
    pub(crate) fn resume(&mut self) {
        self.serve(TcpListener::bind(self.address).unwrap());
    }

    /// Opens a socket.
    pub(crate) fn open(&self, user: &str, random: u64) -> ConnectionId {
        let id = ConnectionId::new(&self.edge_id, self.epoch, random);
        let socket = Socket {
            user: user.parse().unwrap(),
            frames: vec![],
        };
        self.with(|state| state.sockets.insert(id.clone(), socket));
        id
    }

    pub(crate) fn with<R>(&self, look: impl FnOnce(&mut State) -> R) -> R {
        look(&mut self.shared.lock().unwrap())
    }

    /// The texts that a socket was shown.
    pub(crate) fn texts(&self, id: &ConnectionId) -> Vec<String> {
        self.frames(id)
            .into_iter()
            .map(|(_, _, text)| text)
            .collect()
    }

    /// What a socket was shown, in order.
    pub(crate) fn frames(&self, id: &ConnectionId) -> Vec<Frame> {
        self.with(|state| state.sockets[id].frames.clone())
    }
}

async fn push(
    state: web::Data<Mutex<State>>,
    request: HttpRequest,
    body: web::Bytes,
) -> HttpResponse {
    let header = |name| {
        request
            .headers()
            .get(name)
            .map(|value| value.as_bytes().to_vec())
    };
    assert_eq!(header("content-type").unwrap(), CONTENT_TYPE.as_bytes());
    if header(SECRET_HEADER).as_deref() != Some(SECRET.as_bytes()) {
        return HttpResponse::Unauthorized().finish();
    }
    let pushed = PushRequest::decode(&body).unwrap();
    let mut state = state.lock().unwrap();
    let items = pushed.batches.iter().flat_map(|batch| &batch.notifications);
    let size: usize = items.map(|item| item.data.len()).sum();
    if state.limit.is_some_and(|limit| size > limit) {
        return HttpResponse::PayloadTooLarge().finish();
    }
    state.pushes += 1;
    let batches = pushed.batches.iter().map(|batch| state.apply(batch));
    let reply = PushReply {
        batches: batches.collect(),
    };
    if state.lose_answers > 0 {
        state.lose_answers -= 1;
        return HttpResponse::ServiceUnavailable().finish();
    }
    HttpResponse::Ok().body(reply.encode())
}

impl State {
    fn apply(&mut self, batch: &PushBatch) -> BatchReply {
        let applied = self
            .applied
            .entry((batch.partition, batch.incarnation))
            .or_insert(-1);
        let (mut delivered, mut repeated) = (0, 0);
        for item in &batch.notifications {
            if item.offset <= *applied {
                repeated += 1;
                continue;
            }
            *applied = item.offset;
            self.traces.extend(item.traceparent.clone());
            let text = String::from_utf8(item.data.to_vec()).unwrap();
            for (id, socket) in &mut self.sockets {
                if is_meant(&item.target, id, &socket.user) {
                    socket
                        .frames
                        .push((batch.partition, item.offset, text.clone()));
                    delivered += 1;
                }
            }
        }
        self.repeated += repeated;
        BatchReply {
            applied_through: *applied,
            delivered,
            repeated,
            ..BatchReply::default()
        }
    }
}

fn is_meant(target: &Target, id: &ConnectionId, user: &UserId) -> bool {
    let named = target.users.contains(user) || target.connections.contains(id);
    (target.is_broadcast() || named) && !target.exclude_users.contains(user)
}
