//! What documents say about tests and commands.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// All sources of tests and of what has tests beside it.
fn sources() -> Vec<PathBuf> {
    let mut left: Vec<PathBuf> =
        ["actors", "crates", "modules", "src", "tests"].map(|name| root().join(name)).into();
    let mut found = Vec::new();
    while let Some(path) = left.pop() {
        if path.is_dir() {
            left.extend(fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found
}

/// Names of all tests: functions below `#[test]` and its kin.
fn tests() -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for path in sources() {
        let text = fs::read_to_string(path).unwrap();
        let mut is_test = false;
        for line in text.lines().map(str::trim_start) {
            if line.starts_with("#[") && line.contains("test") && !line.contains("cfg") {
                is_test = true;
            } else if let Some((_, after)) = line.split_once("fn ").filter(|_| is_test) {
                names.extend(after.split('(').next().map(str::to_owned));
                is_test = false;
            }
        }
    }
    names
}

/// What stands between backquotes.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

#[test]
fn every_promise_names_tests_that_are_there() {
    let tests = tests();
    let page = fs::read_to_string(root().join("docs/invariants.md")).unwrap();
    let rows: Vec<&str> = page.lines().filter(|line| line.starts_with("| ")).skip(1).collect();

    for (row, number) in rows.iter().zip(1..) {
        let cells: Vec<&str> = row.trim_matches('|').split(" | ").map(str::trim).collect();
        let [counted, document, _, named] = cells[..] else { panic!("{row}") };
        assert_eq!(counted, number.to_string(), "the promises are numbered");
        assert!(root().join(format!("{document}.md")).exists(), "{row}");
        assert!(quoted(named).count() > 0, "promise {number} names no test");
        for name in quoted(named) {
            assert!(tests.contains(name), "promise {number} names a test that is not there: {name}");
        }
    }
    assert!(rows.len() >= 50, "{}", rows.len());
}

#[test]
fn tests_that_other_documents_name_are_there() {
    let tests = tests();
    for document in ["SECURITY.md", "ARCHITECTURE.md", "docs/fleet.md"] {
        let text = fs::read_to_string(root().join(document)).unwrap();
        let named = quoted(&text).filter_map(|quoted| quoted.rsplit_once("::"));
        for (_, name) in named.filter(|(_, name)| name.matches('_').count() > 4) {
            assert!(tests.contains(name), "{document} names a test that is not there: {name}");
        }
    }
}
