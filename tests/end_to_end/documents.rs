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

/// Names of all tests: functions below `#[test]` and its kin, and those that are run on every backend of fswatch.
fn tests() -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for path in sources() {
        let text = fs::read_to_string(path).unwrap();
        let (mut is_test, mut is_list) = (false, false);
        for line in text.lines().map(str::trim_start) {
            is_list = line.starts_with("on_every_backend!") || is_list && line != "}";
            if is_list {
                names.insert(line.trim_end_matches(',').to_owned());
            } else if line.starts_with("#[") && line.contains("test") && !line.contains("cfg") {
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

#[test]
fn source_files_that_the_architecture_names_are_there() {
    fn files(directory: &Path, found: &mut Vec<String>) {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                files(&path, found);
            } else {
                found.push(path.display().to_string());
            }
        }
    }
    let mut found = Vec::new();
    for directory in ["src", "actors", "crates", "modules", "tests"] {
        files(&root().join(directory), &mut found);
    }
    let text = fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();

    let named: Vec<&str> = quoted(&text).filter(|name| name.ends_with(".rs")).collect();

    assert!(named.len() > 150, "{}", named.len());
    for name in named {
        let end = format!("/{name}");
        assert!(
            found.iter().any(|path| path.ends_with(&end)),
            "ARCHITECTURE.md names {name}, which does not exist"
        );
    }
}

/// All pages of the book, and the documents beside it.
fn pages() -> Vec<PathBuf> {
    let mut left: Vec<PathBuf> =
        ["docs", "examples", "packaging", "fuzz"].map(|name| root().join(name)).into();
    left.extend(
        fs::read_dir(root()).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_file()),
    );
    let mut found = Vec::new();
    while let Some(path) = left.pop() {
        if path.is_dir() {
            left.extend(fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()));
        } else if path.extension().is_some_and(|extension| extension == "md") {
            found.push(path);
        }
    }
    found
}

/// The lines of a page that are no code.
fn prose(page: &Path) -> String {
    let text = fs::read_to_string(page).unwrap();
    let mut fenced = false;
    let mut prose = String::new();
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        } else if !fenced {
            prose = prose + line + "\n";
        }
    }
    prose
}

/// The anchors of a page's headings, as mdBook and code hosts make them.
fn anchors(page: &Path) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for heading in prose(page).lines().filter(|line| line.starts_with('#')) {
        let name: String = heading
            .trim_start_matches('#')
            .trim()
            .chars()
            .filter(|char| char.is_alphanumeric() || "-_ ".contains(*char))
            .map(|char| if char == ' ' { '-' } else { char.to_ascii_lowercase() })
            .collect();
        let again = (1..).map(|number| format!("{name}-{number}")).find(|name| !found.contains(name));
        let taken = found.contains(&name);
        found.extend(if taken { again } else { Some(name) });
    }
    found
}

/// Where the links of a page lead, without those to other hosts.
fn links(page: &Path) -> Vec<String> {
    // What stands between backquotes is no link.
    let text: String = prose(page).split('`').step_by(2).collect();
    let targets =
        text.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(to, _)| to.to_owned());
    targets.filter(|to| !to.contains("://") && !to.starts_with("mailto:")).collect()
}

#[test]
fn every_link_leads_somewhere() {
    let mut faults = Vec::new();
    let mut counted = 0;
    for page in pages() {
        let in_book = page.starts_with(root().join("docs"));
        for link in links(&page) {
            counted += 1;
            let (file, anchor) = link.split_once('#').unwrap_or((&link, ""));
            let to = if file.is_empty() { page.clone() } else { page.parent().unwrap().join(file) };
            let fault = match to.canonicalize() {
                Err(error) => error.to_string(),
                Ok(to) if in_book && !to.starts_with(root().join("docs").canonicalize().unwrap()) => {
                    "leads out of the book".to_owned()
                }
                Ok(to) if !anchor.is_empty() && !anchors(&to).contains(anchor) => {
                    "no such heading".to_owned()
                }
                Ok(_) => continue,
            };
            faults.push(format!("{}: {link}: {fault}", page.display()));
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    assert!(counted > 100, "only {counted} links were found");
}

#[test]
fn the_book_has_every_page_once() {
    let summary = root().join("docs/SUMMARY.md");
    let listed = links(&summary);
    let once: BTreeSet<&String> = listed.iter().collect();
    assert_eq!(once.len(), listed.len(), "a page is listed twice");
    for page in pages().iter().filter(|page| **page != summary) {
        let Ok(name) = page.strip_prefix(root().join("docs")) else { continue };
        assert!(
            listed.iter().any(|listed| name == Path::new(listed)),
            "{} is not in SUMMARY.md",
            name.display()
        );
    }
}
