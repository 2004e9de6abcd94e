//! Random searches on random trees, against the plainest program that could answer them.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;

use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use regex::bytes::Regex;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::harness::{Tree, ask, elements};

const DIRECTORIES: &[&str] = &["", "d/", "d/e/", "x.conf/"];
const NAMES: &[&str] = &["a", "b.conf", "conf", "B"];
const CONTENTS: &[&str] = &["", "one\n", "two\r\none", "two", "\n\none\n", "onetwo\ntwo\n"];
const MODES: &[u32] = &[0o600, 0o644, 0o4755];

const NAME_FILTERS: &[&str] = &["conf$", "!conf$", "^[a-z]", "(?i)b"];
const SIZE_FILTERS: &[&str] = &["<4", ">4", "3", "0"];
const MODE_FILTERS: &[&str] = &["^u", "!^-rw-------$", "x$"];
const CONTENT_FILTERS: &[&str] = &["^one$", "!two", "^$", "two$", "!^o"];
const FILTER_WORDS: &[&str] = &["name", "size", "mode", "content", "sha2"];

#[derive(Debug, Clone)]
struct Planned {
    path: String,
    content: &'static str,
    mode: u32,
}

#[derive(Debug, Clone)]
struct Asked {
    names: Vec<&'static str>,
    sizes: Vec<&'static str>,
    modes: Vec<&'static str>,
    contents: Vec<&'static str>,
    digests: Vec<String>,
    mismatch: Vec<&'static str>,
    match_all: bool,
    macroal: bool,
    depth: usize,
}

fn trees() -> impl Strategy<Value = Vec<Planned>> {
    let file = (select(DIRECTORIES), select(NAMES), select(CONTENTS), select(MODES));
    prop::collection::vec(file, 0..10).prop_map(|files| {
        let mut planned: Vec<Planned> = Vec::new();
        for (directory, name, content, mode) in files {
            let path = format!("{directory}{name}");
            if planned.iter().all(|file| file.path != path) {
                planned.push(Planned { path, content, mode });
            }
        }
        planned
    })
}

fn searches() -> impl Strategy<Value = Asked> {
    let digest = select(CONTENTS).prop_map(|content| {
        Sha256::digest(content).iter().map(|byte| format!("{byte:02x}")).collect::<String>()
    });
    let filters = (
        subsequence(NAME_FILTERS, 0..=2),
        subsequence(SIZE_FILTERS, 0..=1),
        subsequence(MODE_FILTERS, 0..=1),
        subsequence(CONTENT_FILTERS, 0..=2),
        prop::collection::vec(digest, 0..=1),
    );
    let options = (subsequence(FILTER_WORDS, 0..=2), any::<bool>(), any::<bool>(), 1_usize..5);
    (filters, options).prop_map(
        |((names, sizes, modes, contents, digests), (mismatch, match_all, macroal, depth))| Asked {
            names,
            sizes,
            modes,
            contents,
            digests,
            mismatch,
            match_all,
            macroal,
            depth,
        },
    )
}

/// A regular expression that may be negated, and whether it is.
fn split(filter: &str) -> (bool, Regex) {
    let text = filter.strip_prefix('!').unwrap_or(filter);
    (text.len() < filter.len(), Regex::new(text).unwrap())
}

fn matches(filter: &str, text: &str) -> bool {
    let (negated, regex) = split(filter);
    regex.is_match(text.as_bytes()) != negated
}

fn lines(content: &str) -> Vec<&str> {
    content.lines().collect()
}

/// Which filters a file passes, as field and text.
fn passed(file: &Planned, asked: &Asked) -> Vec<(&'static str, String, bool)> {
    let mut results = Vec::new();
    let mut add = |field, word, filter: &str, raw: bool| {
        results.push((field, filter.to_owned(), raw != asked.mismatch.contains(&word)));
    };
    let name = file.path.rsplit('/').next().unwrap();
    for filter in &asked.names {
        add("names", "name", filter, matches(filter, name));
    }
    let size = file.content.len() as u64;
    for filter in &asked.sizes {
        let raw = match filter.split_at(1) {
            ("<", limit) => size <= limit.parse().unwrap(),
            (">", limit) => size >= limit.parse().unwrap(),
            _ => size == filter.parse::<u64>().unwrap(),
        };
        add("sizes", "size", filter, raw);
    }
    let mode = match file.mode {
        0o600 => "-rw-------",
        0o644 => "-rw-r--r--",
        _ => "urwxr-xr-x",
    };
    for filter in &asked.modes {
        add("modes", "mode", filter, matches(filter, mode));
    }
    let all_lines_pass =
        asked.contents.iter().all(|filter| lines(file.content).iter().all(|line| matches(filter, line)));
    for filter in &asked.contents {
        let (negated, regex) = split(filter);
        let found = lines(file.content).iter().any(|line| regex.is_match(line.as_bytes()));
        add("contents", "content", filter, if asked.macroal { all_lines_pass } else { found != negated });
    }
    let digest: String = Sha256::digest(file.content).iter().map(|byte| format!("{byte:02x}")).collect();
    for filter in &asked.digests {
        add("sha2", "sha2", filter, *filter == digest);
    }
    results
}

/// Every expected match as path, and field and text of its filter when each filter answers alone.
fn expected(files: &[Planned], asked: &Asked) -> BTreeSet<(String, String)> {
    let mut found = BTreeSet::new();
    for file in files.iter().filter(|file| file.path.matches('/').count() < asked.depth) {
        let results = passed(file, asked);
        if asked.match_all {
            if results.iter().all(|(_, _, passes)| *passes) {
                found.insert((file.path.clone(), String::new()));
            }
        } else {
            let passing = results.into_iter().filter(|(_, _, passes)| *passes);
            found.extend(passing.map(|(field, filter, _)| (file.path.clone(), format!("{field} {filter}"))));
        }
    }
    found
}

fn actual(tree: &Tree, asked: &Asked) -> BTreeSet<(String, String)> {
    let parameters = json!({"searches": {"s": tree.search(json!({
        "names": asked.names, "sizes": asked.sizes, "modes": asked.modes, "contents": asked.contents,
        "sha2": asked.digests,
        "options": {
            "mismatch": asked.mismatch, "matchall": asked.match_all, "macroal": asked.macroal, "maxdepth": asked.depth,
        },
    }))}});
    let result = ask(&parameters);
    assert!(result.success && result.errors.is_none(), "{result:?}");
    let elements = elements(&result);
    let matches = elements["s"].as_array().unwrap().iter().filter(|found| found["file"] != "");
    let filter = |search: &Value| {
        ["names", "sizes", "modes", "contents", "sha2"]
            .iter()
            .find_map(|field| Some(format!("{field} {}", search.get(field)?[0].as_str()?)))
            .unwrap_or_default()
    };
    matches
        .map(|found| {
            let path = tree.files(&json!([found])).remove(0);
            (path, if asked.match_all { String::new() } else { filter(&found["search"]) })
        })
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn searches_find_what_the_plainest_program_finds(files in trees(), asked in searches()) {
        let filters = asked.names.len() + asked.sizes.len() + asked.modes.len() + asked.contents.len();
        prop_assume!(asked.match_all || filters + asked.digests.len() > 0);
        let tree = Tree::new();
        for file in &files {
            tree.write(&file.path, file.content);
            std::fs::set_permissions(tree.path(&file.path), PermissionsExt::from_mode(file.mode)).unwrap();
        }

        prop_assert_eq!(actual(&tree, &asked), expected(&files, &asked));
    }
}
