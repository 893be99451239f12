//! Finds the tools that the examples need, and runs the examples as processes.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// The folder of the examples.
pub(super) fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples")
}

/// What the examples are run with.
#[derive(Debug)]
pub(super) struct Tools {
    /// A Python that has what requirements.txt lists.
    python: OsString,
    /// A folder with kafka-clients and Jackson.
    jars: OsString,
}

impl Tools {
    /// All of them; `None`, and a line that says why, if one is missing and this run need not have it.
    pub(super) fn find() -> Option<Self> {
        let found = Self {
            python: variable("SUMU_TEST_PYTHON").unwrap_or_default(),
            jars: variable("SUMU_TEST_JARS").unwrap_or_default(),
        };
        let has = |program: &str| {
            let paths = variable("PATH").unwrap_or_default();
            std::env::split_paths(&paths).any(|path| path.join(program).is_file())
        };
        let there = [
            ("SUMU_TEST_PYTHON", !found.python.is_empty()),
            ("SUMU_TEST_JARS", !found.jars.is_empty()),
            (
                "examples/node_modules",
                folder().join("node_modules").is_dir(),
            ),
            ("the example app", built("app").is_file()),
            ("chromium", has("chromium")),
            ("java", has("java")),
            ("jq", has("jq")),
            ("kcat", has("kcat")),
            ("node", has("node")),
        ];
        let missing: Vec<_> = there
            .iter()
            .filter(|(_, there)| !there)
            .map(|(what, _)| what)
            .collect();
        if missing.is_empty() {
            return Some(found);
        }
        let required = variable("SUMU_TEST_REQUIRE_SERVERS").is_some();
        assert!(!required, "required in this run and missing: {missing:?}");
        eprintln!("not run: {missing:?} are missing");
        None
    }

    pub(super) fn python(&self, file: &str, args: &[&str]) -> Command {
        run(&self.python, file, args)
    }

    pub(super) fn java(&self, file: &str, args: &[&str]) -> Command {
        let mut command = Command::new("java");
        let mut jars = self.jars.clone();
        jars.push("/*");
        command.arg("-cp").arg(jars).arg(file).args(args);
        command.current_dir(folder());
        command
    }
}

pub(super) fn node(file: &str, args: &[&str]) -> Command {
    run("node", file, args)
}

pub(super) fn shell(file: &str, args: &[&str]) -> Command {
    run("bash", file, args)
}

pub(super) fn tool(name: &str, args: &[&str]) -> Command {
    let mut command = Command::new(name);
    command.args(args);
    command
}

pub(super) fn cargo_example(name: &str, args: &[&str]) -> Command {
    let mut command = Command::new(built(name));
    command.args(args);
    command
}

/// Where cargo puts the examples of this package.
fn built(example: &str) -> PathBuf {
    Path::new(env!("CARGO_BIN_EXE_sumu"))
        .with_file_name("examples")
        .join(example)
}

fn run(program: impl AsRef<OsStr>, file: &str, args: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.arg(file).args(args).current_dir(folder());
    command
}

pub(crate) fn variable(name: &str) -> Option<OsString> {
    std::env::var_os(name).filter(|value| !value.is_empty())
}

/// A process that prints a line for each thing that happens to it.
#[derive(Debug)]
pub(super) struct Foreign {
    name: String,
    _child: Child,
    printed: Arc<Mutex<Vec<String>>>,
    /// Ends when the process does.
    reading: JoinHandle<()>,
}

impl Foreign {
    pub(super) fn start(name: &str, mut command: Command) -> Self {
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true);
        let mut child = command
            .spawn()
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let printed = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&printed);
        let reading = tokio::spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                sink.lock().unwrap().push(line);
            }
        });
        Self {
            name: name.to_owned(),
            _child: child,
            printed,
            reading,
        }
    }

    pub(super) fn printed(&self) -> Vec<String> {
        self.printed.lock().unwrap().clone()
    }

    /// Waits until it has printed these lines.
    pub(super) async fn prints(&self, lines: &[String]) {
        let deadline = Instant::now() + Duration::from_secs(120);
        loop {
            let waiting = Instant::now() < deadline && !self.reading.is_finished();
            let printed = self.printed();
            let missing: Vec<_> = lines
                .iter()
                .filter(|line| !printed.contains(line))
                .collect();
            if missing.is_empty() {
                return;
            }
            assert!(
                waiting,
                "{} has not printed {missing:?} but {printed:?}",
                self.name
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}
