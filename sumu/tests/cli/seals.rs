//! `sumu audit seal`, `verify`, `export` and `erase`: what was done to a log or an archive is found.

use tempfile::TempDir;

use super::Dev;
use super::replay::{notify, run};

fn value<'a>(told: &'a str, name: &str) -> &'a str {
    let line = told.lines().find_map(|line| line.strip_prefix(name));
    line.unwrap().trim()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn seals_find_what_was_done_to_an_archive() {
    let dev = Dev::start().await;
    let brokers = format!("127.0.0.1:{}", dev.broker);
    let dir = TempDir::new().unwrap();
    let file = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let key = file("key");
    let (code, made) = run(&["audit", "key", &key]).await;
    assert_eq!(code, Some(0), "{made}");
    let (public, fingerprint) = (value(&made, "public key"), value(&made, "fingerprint"));
    let (code, told) = run(&["audit", "verify", "--brokers", &brokers]).await;
    assert_eq!(code, Some(1), "{told}");
    assert!(told.contains("there is no seal"), "{told}");

    for data in ["1", "2", "3"] {
        notify(&brokers, &["--user", "ann"], data).await;
    }
    notify(&brokers, &["--user", "bob"], "\"bob's\"").await;
    // Not the receipts, which come when they come.
    let seal = [
        "audit",
        "seal",
        "notifications",
        "--key",
        &key,
        "--brokers",
        &brokers,
    ];
    let (code, first) = run(&seal).await;
    assert_eq!(code, Some(0), "{first}");
    assert!(first.contains(" seals of 4 records"), "{first}");
    notify(&brokers, &["--user", "ann"], "5").await;
    let (_, second) = run(&seal).await;
    assert!(second.contains("1 seals of 1 records"), "{second}");

    let head = value(&first, "head");
    for by in [public, fingerprint] {
        let args = [
            "audit",
            "verify",
            "--brokers",
            &brokers,
            "--key",
            by,
            "--head",
            head,
        ];
        let (code, told) = run(&args).await;
        assert_eq!(code, Some(0), "{told}");
        assert!(told.contains("5 records as they were"), "{told}");
        assert!(!told.contains("no key was given"), "{told}");
    }
    let stranger = "0".repeat(64);
    let (code, told) = run(&["audit", "verify", "--brokers", &brokers, "--key", &stranger]).await;
    assert_eq!(code, Some(1), "{told}");
    assert!(told.contains("not the key expected"), "{told}");
    let keys = [key.as_str(), public];
    archives_are_checked(dev, &brokers, &dir, keys).await;
}

/// With the key's file and the public key.
async fn archives_are_checked(dev: Dev, brokers: &str, dir: &TempDir, [key, public]: [&str; 2]) {
    let file = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let archive = file("archive.jsonl.zst");
    let (unsigned, table) = (file("unsigned.jsonl.zst"), file("archive.parquet"));
    for path in [&archive, &table] {
        let export = ["audit", "export", path, "--key", key, "--brokers", brokers];
        let (code, told) = run(&export).await;
        assert_eq!(code, Some(0), "{told}");
        assert!(told.starts_with("5 records"), "{told}");
    }
    let (code, told) = run(&["audit", "export", &unsigned, "--brokers", brokers]).await;
    assert_eq!(code, Some(0), "{told}");
    drop(dev);

    let verify =
        async |path: &str| run(&["audit", "verify", "--key", public, "--archive", path]).await;
    let (erased, erased_table) = (file("erased.jsonl.zst"), file("erased.parquet"));
    for (path, erased) in [(&archive, &erased), (&table, &erased_table)] {
        let (code, told) = verify(path).await;
        assert_eq!(code, Some(0), "{told}");
        assert!(told.contains("5 records as they were"), "{told}");
        let (code, told) = run(&["audit", "erase", path, erased, "--user", "bob"]).await;
        assert_eq!((code, told.trim()), (Some(0), "erased 1 payloads"));
        let (code, told) = verify(erased).await;
        assert_eq!(code, Some(0), "{told}");
    }
    let (code, told) = verify(&unsigned).await;
    assert_eq!(code, Some(3), "{told}");
    assert!(told.contains("a range may have been left out"), "{told}");
    let mut bytes = std::fs::read(&table).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&table, bytes).unwrap();
    let (code, told) = verify(&table).await;
    assert_eq!(code, Some(1), "{told}");
    assert!(told.contains("not the file that was written"), "{told}");
    let lines = |path: &str| {
        let bytes = zstd::decode_all(std::fs::File::open(path).unwrap()).unwrap();
        String::from_utf8(bytes)
            .unwrap()
            .lines()
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    assert!(!lines(&erased).concat().contains("bob's"));
    tampered(&lines(&archive), &archive, verify).await;
}

/// Does to an archive what must not be done, one thing at a time.
async fn tampered(
    whole: &[String],
    archive: &str,
    verify: impl AsyncFn(&str) -> (Option<i32>, String),
) {
    let write = |name: &str, lines: &[String]| {
        let path = format!("{archive}.{name}");
        let text = lines
            .iter()
            .flat_map(|line| [line, "\n"])
            .collect::<String>();
        let packed = zstd::encode_all(text.as_bytes(), 1).unwrap();
        std::fs::write(&path, packed).unwrap();
        path
    };
    // After what the archive holds, and who says so.
    let records = 2..whole
        .iter()
        .position(|line| line.starts_with("{\"seal\""))
        .unwrap();
    assert_eq!(records.len(), 5);
    for at in records.clone() {
        let mut altered = whole.to_vec();
        let after = altered[at].find("\"data").unwrap();
        // One bit of what the user was told.
        let mut bytes = altered[at].clone().into_bytes();
        bytes[after + 3] ^= 1;
        altered[at] = String::from_utf8(bytes).unwrap();
        let mut removed = whole.to_vec();
        removed.remove(at);
        let mut added = whole.to_vec();
        let more = added[at].replacen("\"offset\":", "\"offset\":9", 1);
        added.insert(at + 1, more);
        let mut moved = whole.to_vec();
        moved.swap(at, if at + 1 < records.end { at + 1 } else { at - 1 });
        for (name, lines) in [
            ("altered", altered),
            ("removed", removed),
            ("added", added),
            ("moved", moved),
        ] {
            let (code, told) = verify(&write(name, &lines)).await;
            assert_eq!(code, Some(1), "{name} {at}: {told}");
            assert!(told.contains("sumu.notifications-"), "{name} {at}: {told}");
        }
    }
    let mut shorter = whole.to_vec();
    let last = shorter.len() - 2;
    shorter.remove(last);
    let (code, told) = verify(&write("unsealed", &shorter)).await;
    assert_eq!(code, Some(1), "{told}");
    assert!(
        told.contains("chain of seals") || told.contains("stands where seal"),
        "{told}"
    );
    let packed = std::fs::read(archive).unwrap();
    let path = format!("{archive}.cut");
    std::fs::write(&path, &packed[..packed.len() / 2]).unwrap();
    let (code, told) = verify(&path).await;
    assert_eq!(code, Some(1), "{told}");
    assert!(told.contains(", line "), "{told}");
}
