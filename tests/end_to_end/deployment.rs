//! The files of `deploy/`, by the programs that judge them.

use std::path::{Path, PathBuf};
use std::process::Command;

use vigie_skipped::skipped;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Where `make test` has put programs from PyPI, when this module of Python is there.
fn oracles(module: &str) -> Option<PathBuf> {
    let Some(directory) = std::env::var_os("VIGIE_ORACLES").map(PathBuf::from) else {
        skipped("no VIGIE_ORACLES, see the target schemas of the Makefile");
        return None;
    };
    let imported =
        Command::new(directory.join("bin/python")).args(["-c", &format!("import {module}")]).output();
    if !imported.is_ok_and(|output| output.status.success()) {
        skipped(format_args!("no {module} from PyPI"));
        return None;
    }
    Some(directory.join("bin"))
}

#[track_caller]
fn assert_runs(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(
        output.status.success(),
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn kubernetes_takes_the_file_and_it_gives_what_the_unit_gives() {
    let Some(programs) = oracles("kubernetes_validate") else { return };

    assert_runs(Command::new(programs.join("python")).arg(root().join("tests/schemas/check_kubernetes.py")));
}

#[test]
fn ansible_reads_the_role() {
    let Some(programs) = oracles("ansible") else { return };

    assert_runs(
        Command::new(programs.join("ansible-playbook"))
            .args(["--syntax-check", "--inventory", "localhost,"])
            .arg(root().join("deploy/ansible/site.yml"))
            // Its own files go where the test's go.
            .env("ANSIBLE_HOME", env!("CARGO_TARGET_TMPDIR"))
            .env("LC_ALL", "C.UTF-8"),
    );
}

#[test]
fn the_image_is_built_with_the_rust_that_is_promised() {
    let manifest = std::fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let dockerfile = std::fs::read_to_string(root().join("deploy/container/Dockerfile")).unwrap();
    let promised =
        manifest.split("rust-version = \"").nth(1).and_then(|rest| rest.split('"').next()).unwrap();
    let promised = promised.split('.').take(2).collect::<Vec<_>>().join(".");

    assert!(dockerfile.contains(&format!("/rust:{promised}-bookworm AS build")), "{promised}: {dockerfile}");
}
