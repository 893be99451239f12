//! Sends spans and metrics to a collector over HTTP, as a process does.

use std::net::TcpListener;
use std::time::Duration;

use actix_web::web::{Bytes, Data};
use actix_web::{App, HttpRequest, HttpResponse, HttpServer, web};
use runtime::telemetry::{self, trace};
use tokio::sync::mpsc;

type Received = (String, Option<String>, Bytes);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn spans_and_metrics_reach_the_collector_and_prometheus() {
    let (sender, mut received) = mpsc::channel::<Received>(16);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let app = move || {
        App::new()
            .app_data(Data::new(sender.clone()))
            .default_service(web::to(take))
    };
    let server = HttpServer::new(app)
        .workers(1)
        .disable_signals()
        .listen(listener)
        .unwrap();
    drop(tokio::spawn(server.run()));

    let config = telemetry::Config {
        otlp_endpoint: Some(format!("{endpoint}/")),
        otlp_authorization: Some("Bearer sesame".into()),
        ..telemetry::Config::default()
    };
    let guard = telemetry::init(&config, "sumu-test", "one").unwrap();
    let span = tracing::info_span!("deliver");
    let traceparent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    trace::parent(&span, traceparent);
    let sent = trace::of(&span).unwrap();
    drop(span);
    opentelemetry::global::meter("test")
        .u64_counter("sumu.test.count")
        .build()
        .add(3, &[]);
    let text = guard.metrics().text().unwrap();
    assert!(text.contains("sumu_test_count_total"), "{text}");
    assert!(text.contains(r#"service_name="sumu-test""#), "{text}");

    tokio::task::spawn_blocking(move || guard.shutdown(Duration::from_secs(20)))
        .await
        .unwrap();
    let mut paths = vec![];
    while let Ok((path, authorization, body)) = received.try_recv() {
        assert_eq!(authorization.as_deref(), Some("Bearer sesame"));
        if path == "/v1/traces" {
            let id: Vec<u8> = hex(sent.split('-').nth(1).unwrap());
            assert!(
                body.windows(16).any(|part| part == id),
                "the producer's trace goes on"
            );
        }
        paths.push(path);
    }
    paths.sort();
    assert_eq!(paths, ["/v1/metrics", "/v1/traces"]);
}

async fn take(
    request: HttpRequest,
    body: Bytes,
    sender: Data<mpsc::Sender<Received>>,
) -> HttpResponse {
    let authorization = request.headers().get("authorization");
    let authorization = authorization
        .and_then(|value| value.to_str().ok())
        .map(Into::into);
    match sender.try_send((request.path().to_owned(), authorization, body)) {
        Ok(()) => HttpResponse::Ok().finish(),
        Err(_full) => HttpResponse::ServiceUnavailable().finish(),
    }
}

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<char> = text.chars().collect();
    let byte =
        |pair: &[char]| u8::from_str_radix(&pair.iter().collect::<String>(), 16).unwrap_or(0);
    digits.chunks(2).map(byte).collect()
}
