//! The examples of questions in help texts and documents, asked of this host.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::harness::{Host, Settings, VIGIE};

/// Modules whose examples can be asked anywhere: they need neither a fleet nor the network, and change nothing.
const MODULES: [&str; 7] = ["accounts", "file", "fswatch", "netstat", "packages", "persistence", "processes"];

/// What this host does not have, and what takes long.
const NOT_HERE: [&str; 8] = [
    "/mnt/image",
    " -t ",
    "--deep",
    "--hashes",
    "query packages --verify",
    "persistence --local",
    "--group ID",
    "…",
];

/// The lines of a text that ask a module, without what is said about them.
fn asked<'t>(text: &'t str, module: &str) -> impl Iterator<Item = &'t str> {
    let start = format!("vigie query {module}");
    text.lines().map(str::trim_start).map(|line| line.trim_start_matches("$ ")).filter_map(move |line| {
        let fits = line.strip_prefix(&start).is_some_and(|rest| rest.is_empty() || rest.starts_with(' '));
        // Two spaces or a # begin a remark, but not between quotes.
        let mut quoted = false;
        let end = line.char_indices().find(|(at, char)| {
            quoted ^= *char == '\'';
            !quoted && (line[*at..].starts_with("  ") || line[*at..].starts_with(" #"))
        });
        let line = &line[..end.map_or(line.len(), |(at, _)| at)];
        let whole = !line.ends_with('\\') && line.matches('\'').count() % 2 == 0;
        (fits && whole && !NOT_HERE.iter().any(|not| line.contains(not))).then_some(line)
    })
}

#[test]
fn every_question_that_documents_show_is_answered() {
    let host = Host::new(&Settings { fswatch: true, ..Settings::default() }, "");
    let watched = host.path("watched");
    fs::create_dir_all(&watched).unwrap();
    fs::write(
        host.path("modules.d/fswatch.cfg"),
        format!("[paths]\npath = recursive:{}\n", watched.display()),
    )
    .unwrap();
    let _agent = host.start();
    host.wait_baseline();
    // What the shell finds under the name `vigie` asks the agent of this test.
    let programs = host.path("programs");
    fs::create_dir_all(&programs).unwrap();
    let script = format!("#!/bin/sh\nexec {VIGIE} --run-dir {} \"$@\" --json\n", host.path("run").display());
    fs::write(programs.join("vigie"), script).unwrap();
    assert!(Command::new("chmod").arg("755").arg(programs.join("vigie")).status().unwrap().success());
    let path = format!("{}:{}", programs.display(), std::env::var("PATH").unwrap());

    let mut faults = Vec::new();
    let mut answered = 0;
    for module in MODULES {
        let help = Command::new(VIGIE).args(["query", module, "--help"]).output().unwrap();
        let page = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("docs/{module}.md"));
        let text = String::from_utf8(help.stdout).unwrap() + &fs::read_to_string(page).unwrap();
        let mut lines: Vec<&str> = asked(&text, module).collect();
        lines.sort_unstable();
        lines.dedup();
        for line in lines {
            let ran = Command::new("sh").args(["-c", line]).env("PATH", &path).output().unwrap();
            let answer: Value = serde_json::from_slice(&ran.stdout).unwrap_or_default();
            // 1: nothing was found, or something is not as it should be. 2: something could not be looked at.
            let fits = matches!(ran.status.code(), Some(0..=2)) && answer["elements"].is_object();
            let refused = answer["errors"].to_string().contains("parameter ");
            answered += 1;
            if !fits || refused {
                faults.push(format!(
                    "{line}: {}: {}{}",
                    ran.status,
                    String::from_utf8_lossy(&ran.stdout),
                    String::from_utf8_lossy(&ran.stderr)
                ));
            }
        }
    }

    // An expression that can never match is an example of nothing: these find what every host has, or what is here.
    let setuid = host.path("setuid");
    fs::write(&setuid, "").unwrap();
    fs::set_permissions(&setuid, fs::Permissions::from_mode(0o4755)).unwrap();
    let help = Command::new(VIGIE).args(["query", "file", "--help"]).output().unwrap().stdout;
    let help = String::from_utf8(help).unwrap();
    let line = asked(&help, "file").find(|line| line.contains("--mode")).expect("the help has it");
    let line = line.replace("/usr", &host.path("").display().to_string());
    let ran = Command::new("sh").args(["-c", &line]).env("PATH", &path).output().unwrap();
    let answer: Value = serde_json::from_slice(&ran.stdout).unwrap_or_default();
    let found = answer["elements"]["search"].as_array().map(Vec::as_slice).unwrap_or_default();
    let found: Vec<_> = found.iter().filter_map(|one| one["file"].as_str()).collect();
    assert_eq!(found, [setuid.to_str().unwrap()], "{line}: {answer}");
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    assert!(answered > 30, "only {answered} questions were found");
}
