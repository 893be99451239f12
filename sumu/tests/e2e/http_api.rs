//! Drives the HTTP API from its published document: whatever `openapi.yaml` describes is asked, with what fits it and
//! with what does not, and everything that is answered must be described there.
//!
//! `schemas/validate/schemathesis.toml` says how; `scripts/test` installs schemathesis.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;

use crate::dev::Dev;
use crate::examples::foreign::variable;

const API_KEY: &str = "an-api-key-to-drive-with-0123456789";
const PUSH_SECRET: &str = "a-push-secret-to-drive-with-0123456789";
/// Far more than it takes.
const LIMIT: Duration = Duration::from_secs(300);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_answer_is_one_that_the_document_describes() {
    let _alone = crate::busy().await;
    let Some(python) = variable("SUMU_TEST_PYTHON") else {
        let required = variable("SUMU_TEST_REQUIRE_SERVERS").is_some();
        assert!(
            !required,
            "required in this run and missing: SUMU_TEST_PYTHON"
        );
        eprintln!("not run: SUMU_TEST_PYTHON is missing");
        return;
    };
    let dev = Dev::start_with(&[
        (
            "SUMU__ADMIN__API_KEYS",
            r#"["an-api-key-to-drive-with-0123456789"]"#,
        ),
        ("SUMU__ADMIN__PUSH_SECRET", PUSH_SECRET),
    ])
    .await;
    let schemas = Path::new(env!("CARGO_MANIFEST_DIR")).join("../schemas");
    let mut schemathesis = Command::new(python);
    schemathesis
        .args(["-m", "schemathesis.cli", "--config-file"])
        .arg(schemas.join("validate/schemathesis.toml"))
        .arg("run")
        .arg(schemas.join("openapi.yaml"))
        .args(["--url", &dev.http()])
        .env("SUMU_HOOKS", schemas.join("validate/hooks.py"))
        .env("SUMU_API_KEY", API_KEY)
        .env("SUMU_PUSH_SECRET", PUSH_SECRET)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .current_dir(env!("CARGO_TARGET_TMPDIR"))
        .stdin(Stdio::null())
        .kill_on_drop(true);
    let ended = tokio::time::timeout(LIMIT, schemathesis.output()).await;
    let output = ended.expect("schemathesis ends").unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success(),
        "{said}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    // That it was driven at all, with the key and the secret.
    assert!(
        said.contains("Fuzzing") && !said.contains("Authentication failed"),
        "{said}"
    );
}
