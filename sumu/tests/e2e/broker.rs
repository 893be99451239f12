//! An Apache Kafka of a test's own, which it may stop.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command as Program, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::process::{Child, Command};

use crate::cluster::free_port;

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../scripts/kafka");

#[derive(Debug)]
pub(crate) struct Broker {
    port: u16,
    /// Further words for the script.
    options: String,
    dir: TempDir,
}

impl Broker {
    /// Starts it with further options of `scripts/kafka`.
    pub(crate) async fn start(options: &str) -> Self {
        let broker = Self {
            port: three_ports(),
            options: options.to_owned(),
            dir: TempDir::new().unwrap(),
        };
        let started = broker.script("\"$0\" start $1").status().await.unwrap();
        assert!(started.success(), "{started}");
        broker
    }

    pub(crate) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Begins to stop it and to start it again, with all that it holds.
    pub(crate) fn restart(&self) -> Child {
        let both = "\"$0\" stop $1 && \"$0\" start $1";
        self.script(both).spawn().unwrap()
    }

    /// Whether somebody answers there.
    pub(crate) fn is_up(&self) -> bool {
        let address = SocketAddr::from(([127, 0, 0, 1], self.port));
        TcpStream::connect_timeout(&address, Duration::from_secs(1)).is_ok()
    }

    /// SIGSTOP, SIGCONT and the like.
    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(self.pid().unwrap(), signal).unwrap();
    }

    fn pid(&self) -> Option<Pid> {
        let text = std::fs::read_to_string(self.dir.path().join("pid")).ok()?;
        Pid::from_raw(text.trim().parse().ok()?)
    }

    fn options(&self) -> String {
        let Self { port, options, .. } = self;
        format!("--port {port} --dir {} {options}", folder(&self.dir))
    }

    fn script(&self, text: &str) -> Command {
        let mut command = Command::new("bash");
        command
            .args(["-euc", &text.replace("$1", &self.options()), SCRIPT])
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        command
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        // One that is paused cannot end.
        let _continued = self.pid().map(|pid| kill_process(pid, Signal::CONT));
        let options = self.options();
        let _stopped = Program::new(SCRIPT)
            .arg("stop")
            .args(options.split_whitespace())
            .stdout(Stdio::null())
            .status();
        let log = Path::new(&folder(&self.dir)).join("server.log");
        if std::thread::panicking()
            && let Ok(log) = std::fs::read_to_string(log)
        {
            let lines: Vec<&str> = log.lines().collect();
            let last = lines[lines.len().saturating_sub(40)..].join("\n");
            eprintln!("--- kafka\n{last}");
        }
    }
}

fn folder(dir: &TempDir) -> String {
    dir.path().to_str().unwrap().to_owned()
}

/// The first of three free ports in a row: the script wants the next two as well.
fn three_ports() -> u16 {
    let free = |port: u16| TcpListener::bind(("127.0.0.1", port)).is_ok();
    (0..100)
        .map(|_| free_port())
        .find(|port| *port < u16::MAX - 2 && free(port + 1) && free(port + 2))
        .unwrap()
}
