//! Checks docker-compose.yml, .env.example and the Dockerfile: what is refused, pinned, confined.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command as Program;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use super::file::{File, Variables, names, root, text};
use super::stack::Stack;
use super::variables;
use crate::cluster::Servers;

/// A missing variable stops a service at once, with the variable's name and what it should be.
#[tokio::test]
async fn a_service_without_a_secret_is_refused_at_once() {
    let nowhere = Servers {
        kafka: "127.0.0.1:1".into(),
        cql: "127.0.0.1:1".into(),
    };
    let mut stack = Stack::new(nowhere, &variables("refused"));
    let needs: [(&str, &[(&str, &str)]); 3] = [
        (
            "ingest-1",
            &[
                (
                    "SUMU__ADMIN__PUSH_SECRET",
                    "edges and pushers need the same one",
                ),
                ("SUMU__ADMIN__API_KEYS", "needed where /v1 is served"),
                ("SUMU__INGEST__AUTH__HS256_SECRET", "nobody can connect"),
                ("SUMU__INGEST__PUSH_URL", "needed where"),
            ],
        ),
        ("presence", &[("SUMU__ADMIN__PUSH_SECRET", "is not set")]),
        ("pusher", &[("SUMU__ADMIN__PUSH_SECRET", "is not set")]),
    ];
    for (service, variables) in needs {
        for (variable, wanted) in variables {
            let mut command = stack.command(service);
            // Where containers listen; here it would be loopback, where less is asked for.
            command.env("SUMU__ADMIN__LISTEN", "0.0.0.0:8081");
            command.env_remove(variable);
            let output = command.output();
            let output = tokio::time::timeout(Duration::from_secs(60), output).await;
            let told = output.unwrap().unwrap();
            let text = String::from_utf8(told.stderr).unwrap();
            assert_eq!(told.status.code(), Some(2), "{service}: {text}");
            let named = text.contains(variable) && text.contains(wanted);
            assert!(named, "{service} without {variable} says {text}");
        }
    }
    let mut wrong = stack.command("ingest-1");
    wrong.env("SUMU__ADMIN__PUSH_SECRET", "short");
    wrong.env("SUMU__LOG__PARTITIONS", "many");
    let told = wrong.output().await.unwrap();
    let text = String::from_utf8(told.stderr).unwrap();
    assert_eq!(told.status.code(), Some(2), "{text}");
    for fault in [
        "must have at least 16 bytes (in SUMU__ADMIN__PUSH_SECRET)",
        "not a text (in SUMU__LOG__PARTITIONS)",
    ] {
        assert!(text.contains(fault), "{text}");
    }
}

/// Compose itself, of any version, reads the file; without a secret it refuses, and names it.
#[test]
fn compose_reads_the_file_with_all_profiles() {
    let found = Program::new("docker-compose").arg("version").output();
    if found.is_err() {
        assert!(
            !Servers::required(),
            "docker-compose is missing in this run"
        );
        eprintln!("not run: docker-compose is missing");
        return;
    }
    let folder = TempDir::new().unwrap();
    let nothing = folder.path().join("env");
    std::fs::write(&nothing, "").unwrap();
    let config = |variables: &Variables, profiles: &[&str]| {
        let mut compose = Program::new("docker-compose");
        compose
            .current_dir(root())
            .env("COMPOSE_FILE", "docker-compose.yml");
        // Not the .env of whoever runs this.
        compose.arg("--env-file").arg(&nothing);
        for profile in profiles {
            compose.args(["--profile", profile]);
        }
        compose.args(["config"]).envs(variables).output().unwrap()
    };
    let all = variables("config");
    for profiles in [&[][..], &["tls"]] {
        let read = config(&all, profiles);
        let (out, err) = (read.stdout, String::from_utf8(read.stderr).unwrap());
        assert!(read.status.success() && err.is_empty(), "{err}");
        let out = String::from_utf8(out).unwrap();
        let services = File::read(&all).unwrap().services;
        let active = |own: &[String]| own.iter().all(|p| profiles.contains(&p.as_str()));
        for (name, _) in services.iter().filter(|(_, s)| active(&s.profiles)) {
            assert!(out.contains(&format!("\n  {name}:\n")), "{name}: {out}");
        }
    }
    let compose = text();
    let (_, required) = names(&compose);
    assert_eq!(required.len(), 3, "{required:?}");
    for name in required {
        let mut variables = all.clone();
        variables.remove(name);
        let refused = config(&variables, &[]);
        let told = String::from_utf8(refused.stderr).unwrap();
        assert!(
            !refused.status.success() && told.contains(&format!("{name} is not set")),
            "{told}"
        );
        assert!(File::read(&variables).is_err_and(|fault| fault.contains(name)));
    }
}

#[test]
fn the_example_of_env_names_every_variable() {
    let example = std::fs::read_to_string(root().join(".env.example")).unwrap();
    let settings = example.lines().filter_map(|line| line.split_once('='));
    let listed: BTreeSet<&str> = settings
        .map(|(name, _)| name.trim_start_matches('#'))
        .filter(|name| !name.contains(' '))
        .collect();
    let compose = text();
    assert_eq!(names(&compose).0, listed);
    // The defaults that it shows are those of the file.
    for line in example.lines().filter_map(|l| l.strip_prefix('#')) {
        let Some((name, value)) = line.split_once('=').filter(|(n, _)| !n.contains(' ')) else {
            continue;
        };
        let shown = format!("${{{name}:-{value}}}");
        assert!(
            name == "SUMU_PUBLIC_URL" || compose.contains(&shown),
            "{shown}"
        );
    }
}

#[test]
fn every_container_is_pinned_confined_and_limited() {
    let file = File::read(&variables("confined")).unwrap();
    assert_eq!(file.sumu().count(), 5);
    for (name, service) in &file.services {
        let (_, tag) = service.image.rsplit_once(':').expect(name);
        assert!(
            tag.starts_with(|c: char| c.is_ascii_digit()),
            "{name}: {tag}"
        );
        assert!(service.restart.is_some(), "{name} does not come back");
        assert!(service.mem_limit.is_some(), "{name} has no limit of memory");
        assert_eq!(service.security_opt, ["no-new-privileges:true"], "{name}");
        assert!(service.healthcheck.is_some(), "{name}");
        for (_, path) in service.mounts() {
            let optional = path.ends_with("certificate.pem");
            assert!(
                optional || path.exists(),
                "{name} mounts {}",
                path.display()
            );
        }
    }
}

/// The layer of the image that has the dependencies: empty crates with every target that a manifest
/// may name, or cargo builds nothing.
#[test]
fn dependencies_can_be_built_before_the_code_is_there() {
    let folder = TempDir::new().unwrap();
    let copied = Program::new(root().join("scripts/manifests"))
        .arg(folder.path())
        .output()
        .unwrap();
    assert!(copied.status.success(), "{copied:?}");
    let (whole, empty) = (tests_in(&root()), tests_in(folder.path()));
    assert!(whole.len() > 10, "{whole:?}");
    assert_eq!(empty, whole);
    let dockerfile = std::fs::read_to_string(root().join("Dockerfile")).unwrap();
    assert!(dockerfile.contains("RUN mkdir /manifests && scripts/manifests /manifests"));
    let ignored = std::fs::read_to_string(root().join(".dockerignore")).unwrap();
    assert!(!ignored.contains("tests"), "cargo needs them: {ignored}");
}

/// The test targets that cargo finds in a workspace, as package and name.
fn tests_in(folder: &Path) -> BTreeSet<(String, String)> {
    let options = "metadata --locked --offline --no-deps --format-version 1";
    let read = Program::new(env!("CARGO"))
        .args(options.split(' '))
        .current_dir(folder)
        .output()
        .unwrap();
    let err = String::from_utf8(read.stderr).unwrap();
    assert!(read.status.success(), "{err}");
    let metadata: Value = serde_json::from_slice(&read.stdout).unwrap();
    let name = |value: &Value| value["name"].as_str().unwrap().to_owned();
    let packages = metadata["packages"].as_array().unwrap().iter();
    let targets = packages.flat_map(|package| {
        let targets = package["targets"].as_array().unwrap().iter();
        let tests = targets.filter(|target| target["kind"][0] == "test");
        tests.map(move |target| (name(package), name(target)))
    });
    targets.collect()
}

/// The runtime image has what the binary is linked with.
#[test]
fn the_image_has_the_libraries_of_the_binary() {
    let linked = Program::new("ldd").arg(env!("CARGO_BIN_EXE_sumu")).output();
    let linked = String::from_utf8(linked.unwrap().stdout).unwrap();
    let dockerfile = std::fs::read_to_string(root().join("Dockerfile")).unwrap();
    let (_, runtime) = dockerfile.rsplit_once("FROM ").unwrap();
    // debian:slim has the C library and libgcc; the rest is installed.
    let installed = ["ca-certificates", "libssl3"];
    assert!(installed.iter().all(|package| runtime.contains(package)));
    let known = [
        "linux-vdso",
        "libssl.so.3",
        "libcrypto.so.3",
        "libgcc_s",
        "libm.so",
        "libc.so",
        "ld-linux",
    ];
    for library in linked.lines().map(str::trim) {
        let there = known.iter().any(|known| library.contains(known));
        assert!(there, "the image lacks {library}");
    }
}
