//! Serves a broker until it is killed: `cargo run -p broker --example serve -- DIR HOST:PORT`.
//!
//! It prints the address it listens on. The crash tests start it, and kill it.
use std::io::Write;

use broker::{Broker, Config};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let (data, listen) = arguments
        .next()
        .zip(arguments.next())
        .ok_or("usage: serve DIR HOST:PORT")?;
    let config = Config {
        data: data.into(),
        listen: listen.parse()?,
        ..Config::default()
    };
    let broker = Broker::start(config).await?;
    writeln!(std::io::stdout(), "{}", broker.address())?;
    std::future::pending::<()>().await;
    Ok(())
}
