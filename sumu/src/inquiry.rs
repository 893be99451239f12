//! Answers who, what and when, from the log, and shows that the answer was not altered: `sumu audit`.

mod archive;
mod notification;
mod presence;
mod seals;
mod user;

/// Answers from the log alone: no process of sumu is asked, none is disturbed.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    question: Question,
}

#[derive(Debug, clap::Subcommand)]
enum Question {
    /// Who was online at a moment, or from when to when.
    Presence(presence::Args),
    /// What happened to one user: sockets, messages, notifications, presence.
    User(user::Args),
    /// Whom a notification meant, and whether it was given up.
    Notification(notification::Args),
    /// Make a key that signs seals.
    Key(seals::KeyArgs),
    /// Sign what came into the log since the last seal.
    Seal(seals::SealArgs),
    /// Check the log, or an archive, against its seals.
    Verify(seals::VerifyArgs),
    /// Write an archive that verifies without the log.
    Export(archive::ExportArgs),
    /// Write an archive anew, without one user's payloads.
    Erase(archive::EraseArgs),
}

pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    match args.question {
        Question::Presence(args) => presence::run(args).await,
        Question::User(args) => user::run(args).await,
        Question::Notification(args) => notification::run(args).await,
        Question::Key(args) => seals::key(&args),
        Question::Seal(args) => seals::seal(args).await,
        Question::Verify(args) => seals::verify(args).await,
        Question::Export(args) => archive::export(args).await,
        Question::Erase(args) => archive::erase(&args),
    }
}
