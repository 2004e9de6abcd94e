//! The test for modules: good ones pass it, and each bad one fails in its own way.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::harness::{VIGIE, fixture, python};

/// The result of each check, by name.
fn test(options: &[&str], command: &[&str]) -> (i32, Vec<(String, String, String)>) {
    let output = Command::new(VIGIE)
        .args(["module", "test", "--json"])
        .args(options)
        .arg("--")
        .args(command)
        .output()
        .unwrap();
    let lines = String::from_utf8(output.stdout).unwrap();
    let schema = serde_json::from_str(include_str!("../../docs/module-test.schema.json")).unwrap();
    let checked = lines.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()).map(|value| {
        assert_eq!(vigie_schema::problems(&schema, "", &value), [""; 0]);
        let text = |key: &str| value[key].as_str().unwrap().to_owned();
        (text("check"), text("result"), text("detail"))
    });
    (output.status.code().unwrap(), checked.collect())
}

fn result_of<'a>(checks: &'a [(String, String, String)], name: &str) -> &'a str {
    &checks.iter().find(|(check, ..)| check.starts_with(name)).unwrap().1
}

fn example(name: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/modules").join(name).to_str().unwrap().to_owned()
}

#[test]
fn modules_of_ours_keep_every_promise_that_concerns_them() {
    // Every file system is fuller than this: it alerts at once.
    let config = r#"{"disk_usage": {"limit": "0"}}"#;
    let (code, checks) = test(&["--config", config], &[python(), &example("disk_usage.py")]);
    assert_eq!(code, 0, "{checks:?}");
    assert_eq!(result_of(&checks, "sends unacknowledged alerts again"), "kept", "{checks:?}");
    assert_eq!(result_of(&checks, "forgets acknowledged alerts"), "kept", "{checks:?}");
    assert_eq!(result_of(&checks, "answers queries"), "kept", "{checks:?}");

    let query = r#"{"string": "x"}"#;
    let builtin = [VIGIE, "module", "persist", "examplepersist"];
    let (code, checks) = test(&["--query", query, "--wait", "10s"], &builtin);
    assert_eq!(code, 0, "{checks:?}");
    assert_eq!(result_of(&checks, "accepts a configuration"), "skipped", "{checks:?}");
    assert_eq!(result_of(&checks, "confirms a configuration"), "kept", "{checks:?}");

    let (code, checks) = test(&[], &["/bin/sh", &example("load_average.sh")]);
    assert_eq!(code, 0, "{checks:?}");
    assert_eq!(result_of(&checks, "answers queries"), "skipped", "{checks:?}");
}

#[test]
fn a_module_that_breaks_a_promise_is_told_which_one() {
    let run = |script: &str| test(&["--wait", "1s"], &[python(), "-BS", fixture(script).to_str().unwrap()]);
    let (code, checks) = run("bad_lines.py");
    assert_eq!((code, result_of(&checks, "writes messages only")), (1, "broken"), "{checks:?}");
    let (code, checks) = run("hangs.py");
    assert_eq!((code, result_of(&checks, "starts and echoes")), (1, "broken"), "{checks:?}");
    let is_over = |(_, result, detail): &(String, String, String)| {
        result == "skipped" && detail == "it does not echo heartbeats"
    };
    assert!(checks.len() > 10 && checks[1..].iter().all(is_over), "nobody waits for it again: {checks:?}");
    let (code, checks) = run("setsid_grandchild.py");
    assert_eq!(result_of(&checks, "starts and echoes"), "kept", "{checks:?}");
    assert_eq!((code, result_of(&checks, "leaves no process behind")), (1, "broken"), "{checks:?}");
    let (code, checks) = test(&["--wait", "1s"], &["/bin/sh", "-c", "exit 3"]);
    assert_eq!((code, result_of(&checks, "starts and echoes")), (1, "broken"), "{checks:?}");
    assert!(checks[0].2.contains("code 3"), "{checks:?}");
    let (code, _) = test(&[], &["relative"]);
    assert_eq!(code, 64);
}

/// Makes a module of this language and runs the test that comes with it.
fn new_module(language: &str) -> (std::process::Output, tempfile::TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let made = Command::new(VIGIE)
        .args(["module", "new", language, "made"])
        .current_dir(&directory)
        .output()
        .unwrap();
    assert!(made.status.success(), "{made:?}");
    let again = Command::new(VIGIE)
        .args(["module", "new", language, "made"])
        .current_dir(&directory)
        .output()
        .unwrap();
    assert_eq!(again.status.code(), Some(74), "{again:?}");
    let mut test = Command::new(directory.path().join("made/test"));
    test.env("VIGIE", VIGIE).args(["--json", "--wait", "20s"]);
    let tested = test.output().unwrap();
    (tested, directory)
}

fn assert_passes(language: &str) {
    let (tested, directory) = new_module(language);
    assert!(tested.status.success(), "{language}: {tested:?}");
    let block = std::fs::read_to_string(directory.path().join("made/module.toml")).unwrap();
    assert!(block.contains("[[module]]\nname = \"made\"\ncommand = ["), "{block}");
}

#[test]
fn new_modules_pass_their_own_test() {
    assert_passes("shell");
    assert_passes("python");
    let (tested, _directory) = new_module("python");
    let text = String::from_utf8(tested.stdout).unwrap();
    assert!(!text.contains("skipped"), "the SDK keeps every promise: {text}");
}

#[test]
fn new_modules_of_compiled_languages_build_and_pass() {
    // Go is no tool of this project: its skeleton is tried where it is installed.
    if vigie_skipped::happens_to_have("go") {
        assert_passes("go");
    }
    assert_passes("rust");
}
