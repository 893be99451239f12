//! Asks a process whether it is ready, for container health checks: `sumu health`.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use audit::render;

use crate::settings::{self, Admin, Settings, reachable};
use crate::{console, token};

/// The longest answer that is shown, in bytes.
const SHOWN: usize = 2048;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The TOML file of the process to ask.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// What to ask [default: /readyz of its `admin.listen`].
    #[arg(long, value_name = "URL")]
    url: Option<String>,
    /// How long its answer may take.
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = token::duration)]
    timeout: Duration,
}

pub(crate) async fn run(args: &Args) -> anyhow::Result<()> {
    let url = match &args.url {
        Some(url) => url.clone(),
        None => {
            let admin = admin(args)?;
            let scheme = if admin.tls.is_some() { "https" } else { "http" };
            format!("{scheme}://{}/readyz", reachable(admin.listen))
        }
    };
    let client = reqwest::Client::builder()
        .timeout(args.timeout)
        .no_proxy()
        // It is asked on this machine, by an address that its certificate need not name, for nothing secret.
        .tls_danger_accept_invalid_certs(true)
        .build()?;
    let answer = client.get(&url).send().await;
    let answer = answer.with_context(|| format!("no answer from {url}"))?;
    let status = answer.status();
    let body = answer.bytes().await.unwrap_or_default();
    let shown = render::plain(body.get(..SHOWN).unwrap_or(&body));
    anyhow::ensure!(status.is_success(), "{url} says {status}: {shown}");
    console::line(shown)?;
    Ok(())
}

/// Where the process that has the same file and environment answers.
fn admin(args: &Args) -> anyhow::Result<Admin> {
    let settings = settings::Args {
        config: args.config.clone(),
        brokers: None,
    };
    let settings = settings.layers().load(|_: &Settings| vec![])?;
    Ok(settings.admin)
}
