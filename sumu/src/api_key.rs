//! Makes keys for applications: `sumu api-key`.

use ingest::api_keys::{Key, Scope, hex_of};
use runtime::Secret;

use crate::Usage;
use crate::console;
use crate::dev::folder::random_secret;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// What the key is called in logs: one word.
    #[arg(long, value_name = "NAME")]
    name: String,
    /// What it may be used for; everything without one. `sumu:notify`, `sumu:presence:read`,
    /// `sumu:connections:read`, `sumu:connections:write`.
    #[arg(long = "scope", value_name = "SCOPE")]
    scopes: Vec<Scope>,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let key = Secret::new(format!("sumu_{}", random_secret().expose()));
    let scopes = args.scopes.iter().map(|scope| format!(" {}", scope.name()));
    let line = format!(
        "{} {}{}",
        args.name,
        hex_of(&key),
        scopes.collect::<String>()
    );
    let reads_back = line.parse().is_ok_and(|key: Key| key.is_named(&args.name));
    if !reads_back || args.name.contains('#') {
        return Err(Usage("--name: one word, without `#`".into()).into());
    }
    console::line("# for the application; it is shown this once:")?;
    console::line(key.expose())?;
    console::line("# for admin.api_keys_file or admin.api_key_hashes of the edges:")?;
    console::line(line)?;
    Ok(())
}
