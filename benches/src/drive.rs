//! Puts the same load on any other WebSocket server: by URL, by the frames it wants to hear first, and by a
//! template of what is published to it, over HTTP or through Kafka.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::task::block_in_place;
use tokio::time::Instant;

use crate::frames;
use crate::load::Load;
use crate::measure::{PAYLOAD, micros, spread};
use crate::process::{raise_descriptors, usage};
use crate::publish::{self, Publish, Records, Templates, Whom};
use crate::report::short;

/// Requests under way at a time.
const REQUESTS: usize = 64;

/// How peers are driven, for those who read the help.
const EXAMPLES: &str = "\
Start the server, and tell its process to see what it costs. `{n}` is the socket's number, `{payload}` what is
delivered, which says when it was due. So a server of the npm package `ws`:

    npm install --prefix /tmp/ws ws && cp benches/peers/ws.mjs /tmp/ws
    node /tmp/ws/ws.mjs 9000 & PEER=$!
    benches drive --pid $PEER --url 'ws://127.0.0.1:9000/push/{n}' \\
        --publish-url http://127.0.0.1:9000/publish --publish-body '{payload}' --broadcast --rate 2 --count 12
    benches drive --pid $PEER --url 'ws://127.0.0.1:9000/push/{n}' \\
        --publish-url 'http://127.0.0.1:9000/publish/{n}' --publish-body '{payload}' --rate 2000 --count 12000

Centrifugo, whose sockets say first what they want to hear:

    go install github.com/centrifugal/centrifugo/v6@v6.9.1
    centrifugo -c benches/peers/centrifugo.json & PEER=$!
    benches drive --pid $PEER --url ws://127.0.0.1:8000/connection/websocket \\
        --subscribe '{\"id\":1,\"connect\":{}}' --subscribe '{\"id\":2,\"subscribe\":{\"channel\":\"user{n}\"}}' \\
        --publish-url http://127.0.0.1:8000/api/publish \\
        --publish-body '{\"channel\":\"user{n}\",\"data\":{payload}}' --rate 2000 --count 12000

A server that reads Kafka gets records with --publish-kafka and --publish-topic in place of --publish-url.";

/// What to drive, and how. `{n}` in a template is the socket's number, `{payload}` the payload.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// The socket, such as `ws://127.0.0.1:8000/connection/websocket`. No TLS; a host's address, no name.
    #[arg(long)]
    url: String,
    /// The server's processes: their CPU and memory are told.
    #[arg(long)]
    pid: Vec<u32>,
    /// Sockets.
    #[arg(long, default_value_t = 10_000)]
    sockets: usize,
    /// A text frame that each socket sends first; may be repeated.
    #[arg(long, value_name = "TEMPLATE")]
    subscribe: Vec<String>,
    /// Where payloads are sent by POST; a template.
    #[arg(long, value_name = "URL", conflicts_with = "publish_kafka")]
    publish_url: Option<String>,
    /// A header of these requests, as NAME:VALUE; may be repeated.
    #[arg(long, value_name = "NAME:VALUE")]
    publish_header: Vec<String>,
    /// Kafka, in place of HTTP.
    #[arg(long, value_name = "HOST:PORT", requires = "publish_topic")]
    publish_kafka: Option<String>,
    /// The topic that the server reads.
    #[arg(long, value_name = "TOPIC")]
    publish_topic: Option<String>,
    /// The request's body or the record's value.
    #[arg(long, value_name = "TEMPLATE")]
    publish_body: Option<String>,
    /// Whether one payload reaches every socket.
    #[arg(long)]
    broadcast: bool,
    /// Payloads per second; as fast as they are taken, if 0.
    #[arg(long, default_value_t = 0.0)]
    rate: f64,
    /// Payloads.
    #[arg(long, default_value_t = 100_000)]
    count: u64,
}

/// Opens the sockets, publishes, and prints what it cost.
pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    raise_descriptors();
    let rest = args
        .url
        .strip_prefix("ws://")
        .context("ws://HOST:PORT/PATH")?;
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    let to = host.parse().context("an address with its port")?;
    let numbered = |text: &str, n: usize| text.replace("{n}", &n.to_string());
    let paths = (0..args.sockets).map(|n| format!("/{}", numbered(path, n)));

    let mut load = Load::new()?;
    let (before, began) = (usage(&args.pid)?, Instant::now());
    load.add(&[to], paths.collect(), true).await?;
    for (n, socket) in load.sockets.iter_mut().enumerate() {
        for frame in &args.subscribe {
            socket.write(&frames::text(&numbered(frame, n))?).await?;
        }
    }
    let took = began.elapsed();
    tokio::time::sleep(Duration::from_secs(3)).await;
    let used = usage(&args.pid)? - before;
    let each = args.sockets as f64;
    say("connects/s", each / took.as_secs_f64());
    say("CPU per connect [µs]", micros(used.cpu()) / each);
    say(
        "resident memory per connection [KiB]",
        used.resident as f64 / 1024.0 / each,
    );
    let Some(mut publisher) = publisher(&args)? else {
        return Ok(());
    };

    load.seen.reset();
    let what = |i| {
        let whom = if args.broadcast {
            Whom::All
        } else {
            spread(args.sockets)(i)
        };
        (whom, PAYLOAD)
    };
    let deliveries = args.count
        * if args.broadcast {
            args.sockets as u64
        } else {
            1
        };
    let (before, began) = (usage(&args.pid)?, Instant::now());
    block_in_place(|| match args.rate {
        rate if rate > 0.0 => publish::steady(&mut *publisher, rate, args.count, what),
        _ => publish::storm(&mut *publisher, args.count, what),
    })?;
    load.seen.until(deliveries).await?;
    let (used, took) = (usage(&args.pid)? - before, began.elapsed());
    say("deliveries/s", deliveries as f64 / took.as_secs_f64());
    say(
        "CPU per delivery [µs]",
        micros(used.cpu()) / deliveries as f64,
    );
    for (name, quantile) in [("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999)] {
        say(
            &format!("latency {name} [ms]"),
            load.seen.latency(quantile)?,
        );
    }
    Ok(())
}

fn publisher(args: &Args) -> anyhow::Result<Option<Box<dyn Publish>>> {
    let Some(body) = &args.publish_body else {
        return Ok(None);
    };
    let same = |template: &str| Templates {
        for_all: template.to_owned(),
        for_one: template.to_owned(),
    };
    let templates = same(body);
    if let (Some(kafka), Some(topic)) = (&args.publish_kafka, &args.publish_topic) {
        let records = Records::new(kafka, topic.clone(), templates)?;
        return Ok(Some(Box::new(records)));
    }
    let mut headers = HeaderMap::new();
    for header in &args.publish_header {
        let (name, value) = header.split_once(':').context("NAME:VALUE")?;
        headers.insert(
            HeaderName::try_from(name.trim())?,
            HeaderValue::try_from(value.trim())?,
        );
    }
    Ok(Some(Box::new(Requests {
        client: reqwest::Client::builder()
            .default_headers(headers)
            .build()?,
        urls: same(args.publish_url.as_deref().context("where to publish")?),
        templates,
        permits: Arc::new(Semaphore::new(REQUESTS)),
    })))
}

/// One POST for each payload, some at a time.
struct Requests {
    client: reqwest::Client,
    urls: Templates,
    templates: Templates,
    permits: Arc<Semaphore>,
}

impl Publish for Requests {
    fn publish(&mut self, whom: Whom, payload: &str) -> anyhow::Result<()> {
        let body = self.templates.fill(whom, payload);
        let permit = Handle::current().block_on(Arc::clone(&self.permits).acquire_owned())?;
        let request = self.client.post(self.urls.fill(whom, "")).body(body);
        tokio::spawn(async move {
            let answer = request.send().await;
            if let Err(error) = answer.and_then(reqwest::Response::error_for_status) {
                eprintln!("publishing: {error}");
            }
            drop(permit);
        });
        Ok(())
    }

    /// Requests go at once.
    fn flush(&mut self) -> anyhow::Result<()> {
        Ok(())
    }
}

#[expect(clippy::print_stdout, reason = "figures are what this command is for")]
fn say(figure: &str, value: f64) {
    println!("{figure}: {}", short(value));
}
