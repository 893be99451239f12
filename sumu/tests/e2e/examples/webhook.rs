//! Plays somebody's webhook: keeps what is posted to it, and fails when told to.

use std::sync::{Arc, Mutex};

use actix_web::web::{Bytes, Data};
use actix_web::{App, HttpRequest, HttpResponse, HttpServer, web};
use tokio::task::JoinHandle;

/// A request as the webhook saw it.
#[derive(Clone, Debug)]
pub(super) struct Post {
    pub(super) user: String,
    /// What tells doubles apart.
    pub(super) position: String,
    pub(super) body: String,
}

/// Whether it takes a body, at the attempt of that number.
type Takes = fn(&str, usize) -> bool;

#[derive(Debug)]
struct State {
    takes: Takes,
    posts: Mutex<Vec<Post>>,
}

/// A server on a free port.
#[derive(Debug)]
pub(super) struct Webhook {
    pub(super) url: String,
    state: Arc<State>,
    server: JoinHandle<std::io::Result<()>>,
}

impl Webhook {
    pub(super) fn start(takes: Takes) -> Self {
        let state = Arc::new(State {
            takes,
            posts: Mutex::default(),
        });
        let shared = Data::from(Arc::clone(&state));
        let app = move || {
            App::new()
                .app_data(Data::clone(&shared))
                .route("/hook", web::post().to(take))
        };
        let server = HttpServer::new(app)
            .workers(1)
            .disable_signals()
            .bind(("127.0.0.1", 0))
            .unwrap();
        let url = format!("http://{}/hook", server.addrs()[0]);
        let server = tokio::spawn(server.run());
        Self { url, state, server }
    }

    pub(super) fn posts(&self) -> Vec<Post> {
        self.state.posts.lock().unwrap().clone()
    }
}

impl Drop for Webhook {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn take(request: HttpRequest, body: Bytes, state: Data<State>) -> HttpResponse {
    let header = |name: &str| {
        let value = request
            .headers()
            .get(name)
            .and_then(|value| value.to_str().ok());
        value.unwrap_or_default().to_owned()
    };
    let post = Post {
        user: header("x-user-id"),
        position: header("idempotency-key"),
        body: String::from_utf8_lossy(&body).into_owned(),
    };
    let mut posts = state.posts.lock().unwrap();
    let attempt = 1 + posts
        .iter()
        .filter(|before| before.position == post.position)
        .count();
    let taken = (state.takes)(&post.body, attempt);
    posts.push(post);
    if taken {
        HttpResponse::NoContent().finish()
    } else {
        HttpResponse::InternalServerError().finish()
    }
}
