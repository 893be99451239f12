//! Connects by kind of token: what the edge alone uses, with the log and the store beside it.

use std::time::Duration;

use anyhow::Context as _;
use jsonwebtoken::{Algorithm, EncodingKey};
use tokio::time::Instant;

use crate::RunArgs;
use crate::load::Load;
use crate::measure::Measured;
use crate::report::Report;
use crate::scenarios::Size;
use crate::target::{SECRET, Setup, Target, path_signed};

macro_rules! pem {
    ($name:literal) => {
        include_str!(concat!("../../../ingest/tests/keys/", $name, ".pem"))
    };
}

pub(super) async fn run(args: &RunArgs, size: &Size, report: &mut Report) -> anyhow::Result<()> {
    let keys = [
        (
            Algorithm::HS256,
            EncodingKey::from_secret(SECRET.as_bytes()),
        ),
        (
            Algorithm::EdDSA,
            EncodingKey::from_ed_pem(pem!("ed25519").as_bytes())?,
        ),
        (
            Algorithm::RS256,
            EncodingKey::from_rsa_pem(pem!("rsa").as_bytes())?,
        ),
    ];
    let public = serde_json::to_string(&[pem!("ed25519.pub"), pem!("rsa.pub")])?;
    let settings = [("INGEST__AUTH__PUBLIC_KEYS", public.as_str())];
    let mut measured = Measured::start(args, Setup::Edges(1), &settings, report).await?;
    let count = (size.sockets / 2).max(1);
    for (round, (algorithm, key)) in keys.iter().enumerate() {
        let users = round * count..(round + 1) * count;
        let paths: Vec<String> = users.map(|n| path_signed(n, *algorithm, key)).collect();
        let of_edge = measured.target.usage_of("edge-1")?;
        let of_all = measured.target.usage()?;
        let (mut load, began) = (Load::new()?, Instant::now());
        load.add(&measured.target.sockets, paths, true)
            .await
            .with_context(|| format!("{algorithm:?}"))?;
        let took = began.elapsed();
        // What is folded and stored late belongs to it.
        tokio::time::sleep(Duration::from_secs(1)).await;
        let of_edge = measured.target.usage_of("edge-1")? - of_edge;
        let of_all = measured.target.usage()? - of_all;
        let scenario = format!("connect, {algorithm:?}");
        let each = count as f64;
        measured.note(&scenario, "connects/s", each / took.as_secs_f64());
        measured.note_cpu(&scenario, "CPU of the edge", of_edge, each);
        measured.note_cpu(&scenario, "CPU of edge and presence", of_all, each);
        drop(load);
        quiet(&measured.target).await?;
    }
    measured.finish().await;
    Ok(())
}

/// Waits until the ends of sockets are logged and stored, for a minute at most: they would be counted with
/// the next ones.
async fn quiet(target: &Target) -> anyhow::Result<()> {
    const LOOK: Duration = Duration::from_secs(1);
    let mut quiet = 0;
    for _ in 0..60 {
        let before = target.usage()?;
        tokio::time::sleep(LOOK).await;
        let used = target.usage()? - before;
        quiet = if used.cpu() < LOOK / 10 { quiet + 1 } else { 0 };
        if quiet == 3 {
            return Ok(());
        }
    }
    eprintln!("the ends of sockets are counted with the next ones");
    Ok(())
}
