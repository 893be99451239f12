//! Runs everything in `examples/` against one `sumu dev`, and compares what it prints with its line of
//! the README there.
//!
//! `scripts/test` installs what they need; where a tool is missing and the run does not require it,
//! the test says so and passes.

pub(crate) mod foreign;
mod user;
mod webhook;

use std::fs;

use futures_util::future::join_all;
use serde_json::json;

use crate::dev::Dev;
use crate::until;
use foreign::{Foreign, Tools, cargo_example, folder, node, shell, tool};
use user::User;
use webhook::Webhook;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_example_prints_what_its_line_promises() {
    let _alone = crate::busy().await;
    let Some(tools) = Tools::find() else { return };
    let dev = Dev::start().await;
    let brokers = dev.brokers();
    let to = [brokers.as_str()];
    let apps = [
        (
            "python",
            "python/app.py",
            tools.python("python/app.py", &to),
        ),
        ("node", "node/app.mjs", node("node/app.mjs", &to)),
        ("rust", "rust/app.rs", cargo_example("app", &to)),
        ("java", "java/App.java", tools.java("java/App.java", &to)),
        ("kcat", "kcat/app.sh", shell("kcat/app.sh", &to)),
    ];
    let apps = apps.map(|(language, file, command)| {
        application(&dev, language, file, Foreign::start(language, command))
    });
    tokio::join!(
        join_all(apps),
        subscribers(&dev, &tools),
        workers(&dev, &tools),
        forwarder(&dev, &tools),
        pages(&dev, &tools),
    );
}

/// What the README says that the example in a file prints, with the name of a user of our own.
fn promised(file: &str, user: &str) -> Vec<String> {
    let readme = fs::read_to_string(folder().join("README.md")).unwrap();
    let link = format!("]({file})");
    let row = readme.lines().find(|line| line.contains(&link));
    let row = row.unwrap_or_else(|| panic!("{file} is not in the README"));
    let prints = row.trim_end_matches('|').rsplit('|').next().unwrap();
    let quoted: Vec<String> = (prints.split('`').skip(1).step_by(2))
        .map(|line| line.replace("ada", user))
        .collect();
    assert!(!quoted.is_empty(), "{file} promises nothing");
    quoted
}

async fn application(dev: &Dev, language: &str, file: &str, app: Foreign) {
    let name = format!("{language}-user");
    let mut user = User::connect(dev, &name).await;
    user.say("send", [json!({"text": "hi"})]).await;
    user.receives(&json!({"from": language, "heard": {"text": "hi"}}))
        .await;
    user.leave().await;
    app.prints(&promised(file, &name)).await;
}

/// Each of two groups hears everything.
async fn subscribers(dev: &Dev, tools: &Tools) {
    const FILE: &str = "patterns/subscriber.py";
    let groups = ["audit", "search"]
        .map(|group| Foreign::start(group, tools.python(FILE, &[group, &dev.brokers()])));
    let mut user = User::connect(dev, "publisher").await;
    user.say("publish", [json!({"text": "hi"})]).await;
    let promised = promised(FILE, "publisher");
    assert_eq!(promised.len(), groups.len());
    for (group, line) in groups.iter().zip(promised) {
        group.prints(&[line]).await;
    }
}

/// Two workers share the messages: each is done once, in batches of ten at most.
async fn workers(dev: &Dev, tools: &Tools) {
    const FILE: &str = "patterns/worker.py";
    const EACH: usize = 25;
    let promised = promised(FILE, "sender");
    let start = |name: &str| Foreign::start(name, tools.python(FILE, &[name, &dev.brokers()]));
    let left = start("left");
    left.prints(&promised[..1]).await;
    let right = start("right");
    right.prints(&promised[1..2]).await;

    let mut said = Vec::new();
    for sender in (0..8).map(|i| format!("sender{i}")) {
        let mut user = User::connect(dev, &sender).await;
        user.say("send", (0..EACH).map(|n| json!(n))).await;
        said.extend((0..EACH).map(|n| format!("{sender} {n}")));
    }
    let done = || {
        [batches("left", &left), batches("right", &right)]
            .concat()
            .concat()
    };
    until("the workers did everything", || done().len() >= said.len()).await;
    let (mut done, both) = (done(), [left, right]);
    done.sort();
    said.sort();
    assert_eq!(done, said, "each message is done once");
    for (worker, name) in both.iter().zip(["left", "right"]) {
        let batches = batches(name, worker);
        let sizes: Vec<_> = batches.iter().map(Vec::len).collect();
        assert!(sizes.iter().sum::<usize>() > 0, "{name} did its share");
        assert!(sizes.iter().all(|size| *size <= 10), "{name}: {sizes:?}");
    }
}

/// What our senders' messages were in each batch that a worker printed: `left did 2: ada 1, ada 2`.
fn batches(name: &str, worker: &Foreign) -> Vec<Vec<String>> {
    let did = format!("{name} did ");
    let lines = worker.printed().into_iter();
    lines
        .filter_map(|line| {
            let (size, messages) = line.strip_prefix(&did)?.split_once(": ").unwrap();
            let messages: Vec<_> = messages.split(", ").map(str::to_owned).collect();
            assert_eq!(size, messages.len().to_string(), "{line}");
            let ours = messages
                .into_iter()
                .filter(|message| message.starts_with("sender"));
            Some(ours.collect())
        })
        .collect()
}

/// A webhook that fails twice gets the message at the third attempt; what it always refuses is buried.
async fn forwarder(dev: &Dev, tools: &Tools) {
    const FILE: &str = "patterns/webhook.py";
    let webhook = Webhook::start(|body, attempt| match body {
        r#"{"text":"hi"}"# => attempt > 2,
        r#""poison""# => false,
        _others => true,
    });
    let forwarder = tools.python(FILE, &[&webhook.url, &dev.brokers()]);
    let forwarder = Foreign::start("webhook", forwarder);
    let mut user = User::connect(dev, "reporter").await;
    user.say(
        "send",
        [json!({"text": "hi"}), json!("poison"), json!("after")],
    )
    .await;
    forwarder.prints(&promised(FILE, "reporter")).await;
    forwarder
        .prints(&["forwarded reporter: \"after\"".into()])
        .await;

    let attempts = |body: &str| {
        let posts = webhook.posts().into_iter();
        posts
            .filter(|post| post.user == "reporter" && post.body == body)
            .collect::<Vec<_>>()
    };
    let (hi, poison) = (attempts(r#"{"text":"hi"}"#), attempts(r#""poison""#));
    assert_eq!((hi.len(), poison.len()), (3, 4), "attempts");
    assert!(
        hi.iter().all(|post| post.position == hi[0].position),
        "{hi:?}"
    );
    assert_ne!(hi[0].position, poison[0].position);
    // Not by a consumer in this process: one whose broker is gone, when the test fails, never ends.
    let format = ["-f", "%k %s\n"];
    let read = [
        "-q",
        "-b",
        &dev.brokers(),
        "-C",
        "-t",
        "webhook.dead-letters",
        "-e",
    ];
    let dead = Foreign::start("kcat", tool("kcat", &[&read[..], &format[..]].concat()));
    dead.prints(&["reporter \"poison\"".into()]).await;
    assert_eq!(dead.printed().len(), 1, "{:?}", dead.printed());
}

/// Both pages, in a real browser: they show who is online, an acknowledgement and a notification.
async fn pages(dev: &Dev, tools: &Tools) {
    let relay = "patterns/who_is_online.py";
    let told = Foreign::start("who_is_online", tools.python(relay, &[&dev.brokers()]));
    for page in ["websocket", "sockette"] {
        let (user, file) = (format!("{page}-user"), format!("browser/{page}.html"));
        let screenshot = format!("{}/{page}.png", env!("CARGO_TARGET_TMPDIR"));
        let args = [
            &format!("{page}.html"),
            &dev.token(&user),
            &dev.socket(),
            &screenshot,
        ];
        let open = node("browser/open.mjs", &args.map(String::as_str));
        let shown = Foreign::start(page, open);
        shown.prints(&["open".into()]).await;
        let notification = json!({"users": [user], "data": {"text": format!("hello, {user}")}});
        user::notify(dev, &notification).await;
        shown.prints(&["closed".into()]).await;
        // The position is the log's to choose.
        let placeless = |line: String| match line.rsplit_once("sumu.messages.send-") {
            Some((before, _)) => before.to_owned(),
            None => line,
        };
        let printed: Vec<_> = shown.printed().into_iter().map(placeless).collect();
        let lines = promised(&file, &user).into_iter().map(placeless);
        let expected: Vec<_> = lines.chain(["closed".into()]).collect();
        assert_eq!(printed, expected, "{page}");
        told.prints(&promised(relay, &user)).await;
    }
}
