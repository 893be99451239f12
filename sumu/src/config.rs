//! Checks and prints the configuration: `sumu config`.

use clap::Subcommand;

use crate::console;
use crate::settings::{self, Part, Settings};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Name everything that is wrong; exit code 2 if anything is.
    Check {
        #[command(flatten)]
        settings: settings::Args,
        /// Only what this role uses; may be given several times.
        #[arg(long, value_name = "ROLE")]
        role: Vec<Role>,
    },
    /// Print every setting as it applies, as TOML; secrets are hidden.
    Print {
        #[command(flatten)]
        settings: settings::Args,
    },
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Role {
    Ingest,
    Presence,
    Pusher,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    match &args.command {
        Command::Check { settings, role } => {
            let mut parts = Part::CLUSTER.to_vec();
            parts.retain(|part| role.is_empty() || uses(role, *part));
            settings.load(&parts)?;
            console::line("the configuration is sound")?;
        }
        Command::Print { settings } => {
            let settings = settings.layers().load(|_: &Settings| vec![])?;
            console::line(runtime::config::to_toml(&settings).trim_end())?;
        }
    }
    Ok(())
}

fn uses(roles: &[Role], part: Part) -> bool {
    match part {
        Part::Ingest => roles.iter().any(|role| matches!(role, Role::Ingest)),
        Part::Presence => roles.iter().any(|role| matches!(role, Role::Presence)),
        Part::Pusher => roles.iter().any(|role| matches!(role, Role::Pusher)),
        Part::Log | Part::Store | Part::Process | Part::Dev => true,
    }
}
