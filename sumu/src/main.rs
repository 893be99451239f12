//! The one binary.
//!
//! ```text
//!   sumu dev ─▶ broker + embedded store + every role, in one process
//!   sumu ingest | presence | pusher ─▶ one role, on Kafka and a CQL store
//!   sumu topics | config | token | api-key | health ─▶ operators      sumu notify | tail ─▶ people at a terminal
//!   sumu replay | audit | store ─▶ answers from the log, repairs from it
//! ```
//!
//! Backends are chosen here and nowhere else.

mod api_key;
mod config;
mod console;
mod dev;
mod health;
mod inquiry;
mod moment;
mod notify;
mod patience;
mod progress;
mod replay;
mod roles;
mod scanning;
mod settings;
mod token;
mod topics;
mod upkeep;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use runtime::config::Faults;
use runtime::shutdown::ShutdownError;
use tokio::runtime::{Builder, Runtime};

/// A process of many threads that hand each other what they allocate, librdkafka's among them: with libc's own
/// allocator a targeted storm takes a fifth more CPU (benches/RESULTS.md).
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// The WebSocket stack you put beside your application, as an event-sourced pipeline over Kafka.
#[derive(Debug, Parser)]
#[command(version, after_help = EXIT_CODES, propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

const EXIT_CODES: &str = "Exit codes: 0 done, 1 failed, 2 wrong usage or configuration, 3 an answer that may \
    lack something, 130 interrupted.\n\
    Settings: defaults, then the file, then variables (SUMU__SECTION__NAME), then flags.";

#[derive(Debug, Subcommand)]
enum Command {
    /// Run everything in one process, with an embedded broker: for development.
    Dev(dev::Args),
    /// Run an edge: it holds the sockets.
    Ingest(settings::Args),
    /// Run a presence processor: it tells who is online.
    Presence(settings::Args),
    /// Run a pusher: it carries notifications to the edges.
    Pusher(settings::Args),
    /// Create and check the topics, and the tables of the store.
    Topics(topics::Args),
    /// Ask a process on this machine whether it is ready: exit code 0 if so, 1 if not.
    Health(health::Args),
    /// Check or print the configuration.
    Config(config::Args),
    /// Make a key for an application, and the line by which edges know it.
    ApiKey(api_key::Args),
    /// Print a token that an edge with the same secret accepts.
    Token(token::Args),
    /// Produce notifications.
    Notify(notify::Args),
    /// Print what comes into a topic.
    Tail(replay::TailArgs),
    /// Print what the log holds.
    Replay(replay::Args),
    /// Answer who and when, from the log.
    Audit(inquiry::Args),
    /// Compare the store with the log, or build it again.
    Store(upkeep::Args),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let runtime = threads(&cli.command);
    let result = match &runtime {
        Ok(runtime) => runtime.block_on(run(cli.command)),
        Err(error) => Err(anyhow::anyhow!("cannot start threads: {error}")),
    };
    let code = match result {
        Ok(()) => ExitCode::SUCCESS,
        // As shells count an end by Ctrl-C.
        Err(error) if error.is::<Interrupted>() => 130.into(),
        Err(error) => {
            console::complain(&error);
            if error.is::<Faults>() || error.is::<Usage>() {
                2.into()
            } else if error.is::<Incomplete>() {
                3.into()
            } else {
                1.into()
            }
        }
    };
    if let Ok(runtime) = runtime {
        // Whatever still runs had its time.
        runtime.shutdown_background();
    }
    code
}

/// A role's own work is a loop, and sockets have threads of their own: a second thread would mostly be woken
/// in vain (a quarter of a targeted delivery's cost, see benches/RESULTS.md). More, if tokio's own
/// variable asks for them. Other commands get as many as there are processors.
fn threads(command: &Command) -> std::io::Result<Runtime> {
    let mut threads = Builder::new_multi_thread();
    let is_service = matches!(
        command,
        Command::Dev(_) | Command::Ingest(_) | Command::Presence(_) | Command::Pusher(_)
    );
    if is_service && std::env::var_os("TOKIO_WORKER_THREADS").is_none() {
        threads.worker_threads(1);
    }
    threads.enable_all().build()
}

async fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Dev(args) => Box::pin(dev::run(args)).await,
        Command::Ingest(args) => Box::pin(roles::ingest(&args)).await,
        Command::Presence(args) => Box::pin(roles::presence(&args)).await,
        Command::Pusher(args) => Box::pin(roles::pusher(&args)).await,
        Command::Topics(args) => topics::run(&args).await,
        Command::Health(args) => health::run(&args).await,
        Command::Config(args) => config::run(&args),
        Command::ApiKey(args) => api_key::run(&args),
        Command::Token(args) => token::run(&args),
        Command::Notify(args) => notify::run(args).await,
        Command::Tail(args) => replay::tail(args).await,
        Command::Replay(args) => replay::run(args).await,
        Command::Audit(args) => inquiry::run(args).await,
        Command::Store(args) => upkeep::run(args).await,
    }
}

/// The command line asks for something that cannot be done: exit code 2.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Usage(String);

/// The answer was given, and the log no longer holds all that it would rest on: exit code 3.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Incomplete(String);

/// The store is not as the log says: exit code 1.
#[derive(Debug, thiserror::Error)]
#[error("the store differs from the log: {0} times")]
struct Differs(usize);

/// A log or an archive is not as it was sealed: exit code 1.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Tampered(String);

/// Ended by Ctrl-C: exit code 130.
#[derive(Debug, thiserror::Error)]
#[error("interrupted")]
struct Interrupted;

/// What a role of this process failed with.
type RoleError = Box<dyn std::error::Error + Send + Sync>;

/// The end of a process as one error, with its cause.
fn ended(error: ShutdownError<RoleError>) -> anyhow::Error {
    match error {
        ShutdownError::Task {
            task,
            source: Some(source),
        } => anyhow::Error::from_boxed(source).context(format!("{task} ended")),
        other => anyhow::anyhow!("{other}"),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_consistent() {
        super::Cli::command().debug_assert();
    }
}
