//! Searches by what is beside name, size and content, and where a search stays out.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;

use serde_json::json;

use crate::harness::{Tree, ask, elements};

#[test]
fn other_kinds_than_files_are_found_when_they_are_asked_for() {
    let tree = Tree::with(&[("a/file", "x")]);
    symlink("nowhere", tree.path("a/link")).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(tree.path("a/socket")).unwrap();

    let of = |kinds: serde_json::Value| tree.find(json!({"types": kinds}));

    assert_eq!(of(json!(["directory"])), ["", "a"]);
    assert_eq!(of(json!(["link", "socket"])), ["a/link", "a/socket"]);
    assert_eq!(of(json!(["file", "link"])), ["a/file", "a/link"]);
    assert_eq!(of(json!([])), ["a/file"]);
    let wrong = ask(&json!({"searches": {"s": tree.search(json!({"types": ["pipe"]}))}}));
    assert!(!wrong.success && wrong.errors.unwrap()[0].contains("known: file, directory"));
}

#[test]
fn owner_times_inode_and_links_are_compared() {
    use std::os::unix::fs::MetadataExt;

    let tree = Tree::with(&[("one", "x"), ("two", "x")]);
    std::fs::hard_link(tree.path("two"), tree.path("again")).unwrap();
    let metadata = std::fs::metadata(tree.path("one")).unwrap();

    assert_eq!(tree.find(json!({"links": [">2"]})), ["again", "two"]);
    assert_eq!(tree.find(json!({"inodes": [metadata.ino().to_string()]})), ["one"]);
    assert_eq!(tree.find(json!({"owners": [metadata.uid().to_string()], "ctimes": ["<1h"]})).len(), 3);
    assert_eq!(tree.find(json!({"owners": ["4294900001"]})), [""; 0]);
    for (field, wrong) in [("owners", "4294967296"), ("groups", "a/b")] {
        let refused = ask(&json!({"searches": {"a": {"paths": [tree.path("")], field: [wrong]}}}));
        assert!(refused.rejected, "{wrong}: {refused:?}");
    }
    assert_eq!(tree.find(json!({"ctimes": [">1h"]})), [""; 0]);
}

/// A hunt goes to hosts that do not have the account.
#[test]
fn whoever_this_host_does_not_know_owns_nothing_and_is_named() {
    let tree = Tree::with(&[("one", "x"), ("two", "x")]);

    for (field, name, found) in
        [("owners", "nosuchuser", 0), ("owners", "!nosuchuser", 2), ("groups", "nosuchgroup", 0)]
    {
        let result = ask(&json!({"searches": {"a": {"paths": [tree.path("")], field: [name]}}}));

        assert_eq!(tree.find(json!({field: [name]})).len(), found, "{name}: {result:?}");
        let skipped = result.coverage.unwrap().not_examined;
        assert!(skipped.len() == 1 && skipped[0].what.contains("\"nosuch"), "{skipped:?}");
    }
}

#[test]
fn metadata_is_returned_on_request() {
    let tree = Tree::with(&[("a", "x")]);
    let search = tree.search(json!({"names": ["a"], "options": {"matchall": true, "returnmetadata": true}}));

    let result = ask(&json!({"searches": {"s": search}}));

    let info = elements(&result)["s"][0]["fileinfo"].clone();
    assert_eq!((&info["type"], &info["links"]), (&json!("file"), &json!(1)), "{info}");
    assert!(info["uid"].is_u64() && info["inode"].is_u64() && info["ctime"].is_string(), "{info}");
}

#[test]
fn excluded_paths_are_not_entered() {
    let tree = Tree::with(&[("keep/a", "x"), ("skip/a", "x"), ("keep/skip/b", "x")]);

    let found = tree.find(json!({"names": ["."], "excludes": [tree.text("skip"), tree.text("*/skip")]}));

    assert_eq!(found, ["keep/a"]);
}

#[test]
fn a_pattern_in_a_search_path_stands_for_what_matches() {
    let tree =
        Tree::with(&[("ann/.ssh/key", "x"), ("bob/.ssh/key", "x"), ("carl/key", "x"), ("[a]/key", "x")]);

    assert_eq!(
        tree.find(json!({"paths": [tree.text("*/.ssh")], "names": ["key"]})),
        ["ann/.ssh/key", "bob/.ssh/key"]
    );
    // What is there as it is written is meant.
    assert_eq!(tree.find(json!({"paths": [tree.text("[a]")], "names": ["key"]})), ["[a]/key"]);
    assert_eq!(tree.find(json!({"paths": [tree.text("none*")], "names": ["key"]})), [""; 0]);
}

#[test]
fn a_path_that_is_no_text_is_searched_as_alerts_show_it() {
    let tree = Tree::new();
    let directory = tree.path("").join(OsStr::from_bytes(b"odd\xff\\x"));
    std::fs::create_dir(&directory).unwrap();
    std::fs::write(directory.join("a"), "x").unwrap();
    let path = format!("{}/odd\\xff\\x5cx", tree.text(""));

    let result = ask(&json!({"searches": {"s": {"paths": [path], "names": ["^a$"]}}}));

    assert!(result.foundanything, "{result:?}");
}

#[test]
fn any_digest_of_a_long_list_is_found() {
    let tree = Tree::with(&[("hit", "needle\n"), ("miss", "hay\n")]);
    let mut digests: Vec<String> = (0..50_000).map(|number| format!("{number:040x}")).collect();
    digests.push("69e32e02b65edc332c456d6bb838a87231ac4dd0".to_owned());
    let search = tree.search(json!({"digests": digests, "options": {"matchall": true}}));

    let result = ask(&json!({"searches": {"s": search}}));

    assert_eq!(tree.files(&elements(&result)["s"]), ["hit"]);
    assert_eq!(elements(&result)["s"][0]["search"]["digests"], json!(["50001 digests"]));
    let wrong = ask(&json!({"searches": {"s": tree.search(json!({"digests": ["zz"]}))}}));
    assert!(!wrong.success);
}

#[test]
fn a_file_above_the_limit_is_not_read_and_named() {
    let tree = Tree::new();
    tree.write("large", vec![b'x'; 2_000]);
    let search = tree.search(json!({"contents": ["y"], "options": {"matchall": true, "maxread": "1k"}}));

    let result = ask(&json!({"searches": {"s": search}}));

    assert!(result.is_not_known());
    assert_eq!(result.coverage.unwrap().not_examined[0].what, tree.text("large"));
}
