//! Depth, number of matches and errors, overlapping paths, stops, privacy.

use std::fs::File;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use vigie_file::mounts::Mounts;
use vigie_file::parameters::parse;
use vigie_file::walk::{Stop, Walk};
use vigie_sdk::StandardModule;

use crate::harness::{Tree, ask, elements, query, statistics};

/// Larger than any host reads while a test runs; it takes no place on the disk.
const ENDLESS_BYTES: u64 = 1 << 42;

fn tree_of_levels() -> Tree {
    Tree::with(&[("0", ""), ("a/1", ""), ("a/b/2", ""), ("a/b/c/3", "")])
}

#[test]
fn maxdepth_counts_the_search_path_as_the_first_level() {
    let tree = tree_of_levels();
    let find = |depth: u32| tree.find(json!({"names": ["."], "options": {"maxdepth": depth}})).len();

    assert_eq!([1, 2, 3, 4, 9, 0].map(find), [1, 2, 3, 4, 4, 4]);
}

#[test]
fn a_file_below_two_search_paths_is_found_once_and_as_deep_as_either_allows() {
    let tree = tree_of_levels();
    let find = |paths: &[&str], depth: u32| {
        let paths: Vec<String> = paths.iter().map(|path| tree.text(path)).collect();
        tree.find(json!({"paths": paths, "names": ["."], "options": {"maxdepth": depth}}))
    };

    assert_eq!(find(&["", "a"], 9), ["0", "a/1", "a/b/2", "a/b/c/3"]);
    assert_eq!(find(&["a/b", ""], 2), ["0", "a/1", "a/b/2", "a/b/c/3"]);
    assert_eq!(find(&["", "a/b"], 1), ["0", "a/b/2"]);
    assert_eq!(find(&["a/b", "", "a/b/c/3", "a/b/"], 1), ["0", "a/b/2", "a/b/c/3"]);
}

#[test]
fn several_searches_share_a_walk_and_keep_apart() {
    let tree = tree_of_levels();
    let result = ask(&json!({"searches": {
        "all": tree.search(json!({"names": ["."]})),
        "deep": tree.search(json!({"paths": [tree.text("a/b")], "names": ["."], "options": {"maxdepth": 1}})),
        "file": tree.search(json!({"paths": [tree.text("a/1")], "names": ["."]})),
        "flat": tree.search(json!({"names": ["."], "options": {"maxdepth": 1}})),
    }}));

    let elements = elements(&result);
    assert_eq!(tree.files(&elements["all"]).len(), 4);
    assert_eq!(tree.files(&elements["deep"]), ["a/b/2"]);
    assert_eq!(tree.files(&elements["file"]), ["a/1"]);
    assert_eq!(tree.files(&elements["flat"]), ["0"]);
    // Each file was looked at once.
    assert_eq!(statistics(&result)["filescount"], 4);
}

#[test]
fn a_search_ends_at_its_matchlimit_and_says_so() {
    let tree = Tree::new();
    for number in 0..200 {
        tree.write(&format!("{}/{number}", number % 7), "x");
    }

    let result = ask(&json!({"searches": {
        "few": tree.search(json!({"names": ["."], "options": {"matchlimit": 5}})),
        "read": tree.search(json!({"contents": ["x"], "options": {"matchlimit": 6, "matchall": true}})),
        "all": tree.search(json!({"names": ["."]})),
    }}));

    let elements = elements(&result);
    assert_eq!(["few", "read", "all"].map(|label| tree.files(&elements[label]).len()), [5, 6, 200]);
    assert!(result.success);
    let errors = result.errors.unwrap();
    assert_eq!(errors.len(), 2, "{errors:?}");
    assert!(errors[0].contains("\"few\" stopped at its matchlimit of 5"), "{errors:?}");
}

#[test]
fn no_more_errors_than_maxerrors_are_returned() {
    let tree = Tree::new();
    let paths: Vec<String> = (0..10).map(|number| tree.text(&format!("none{number}"))).collect();
    let ask_with = |options: Value| {
        ask(&json!({"searches": {"s": {"paths": paths, "names": ["a"], "options": options}}}))
    };

    assert_eq!(ask_with(json!({})).errors.unwrap().len(), 10);
    let errors = ask_with(json!({"maxerrors": 3})).errors.unwrap();

    assert_eq!(errors.len(), 4);
    assert_eq!(errors[3], "7 more errors are not shown: maxerrors is 3");
}

#[test]
fn a_stop_returns_what_was_found_so_far() {
    let tree = Tree::with(&[("small", "")]);
    File::create(tree.path("endless")).unwrap().set_len(ENDLESS_BYTES).unwrap();
    let parameters = json!({"searches": {
        "name": tree.search(json!({"names": ["^small$"], "options": {"matchall": true}})),
        "digest": tree.search(json!({"md5": ["0".repeat(32)], "options": {"matchall": true}})),
    }});
    let searches = parse(query(&parameters).parameters.as_deref(), 0).unwrap();
    let walk = Arc::new(Walk::new(searches.into(), Mounts::default(), false));

    // The directory is listed, the endless file is not read to its end.
    let ended = walk.run(Duration::from_secs(5), || (walk.files() == 2).then_some(Stop::Asked));

    assert_eq!(ended, Err(Stop::Asked));
    let (elements, hits) = walk.findings.take_elements();
    assert_eq!(hits, 1);
    assert!(elements["name"][0].get().contains("small"));
}

#[test]
fn the_deadline_ends_a_search_and_marks_it_incomplete() {
    let tree = Tree::new();
    File::create(tree.path("endless")).unwrap().set_len(ENDLESS_BYTES).unwrap();
    let mut query = query(&json!({"searches": {"s": tree.search(json!({"md5": ["0".repeat(32)]}))}}));
    query.deadline = Some("2020-01-01T00:00:00Z".to_owned());

    let result = vigie_file::File::run(&query);

    assert!(!result.success && !result.foundanything);
    assert_eq!(statistics(&result)["incomplete"], true);
    let errors = result.errors.unwrap();
    assert!(errors.iter().any(|error| error.contains("its time was over")), "{errors:?}");
    assert_eq!(serde_json::from_str::<Value>(result.elements.unwrap().get()).unwrap()["s"][0]["file"], "");
}

#[test]
fn extra_privacy_tells_that_something_matched_and_nothing_else() {
    let tree = Tree::with(&[("secret/name", "abc")]);
    let paths = json!([tree.text(""), tree.text("missing")]);
    for match_all in [true, false] {
        let mut query = query(&json!({"searches": {"s": {
            "paths": paths, "contents": ["b"], "options": {"matchall": match_all, "returnsha256": true}
        }}}));
        query.extraprivacy = true;

        let result = vigie_file::File::run(&query);

        let found = elements(&result)["s"][0].clone();
        assert!(result.foundanything && result.success);
        assert_eq!(found["file"], "masked");
        assert_eq!(found["fileinfo"]["sha256"], "masked");
        let error = "\"masked\" cannot be opened: No such file or directory (os error 2)".to_owned();
        assert_eq!(result.errors, Some(vec![error]));
        assert_eq!(vigie_sdk::privacy::check(&result, vigie_file::masked_form), Ok(()));
        assert!(!serde_json::to_string(&result).unwrap().contains("secret"));
    }
}

#[test]
fn a_large_tree_is_searched_by_all_threads_without_a_loss() {
    let tree = Tree::new();
    for number in 0..3_000 {
        tree.write(&format!("{}/{}/{number}", number % 10, number % 3), format!("line\nnumber {number}\n"));
    }

    for _ in 0..3 {
        let options = json!({"matchall": true, "matchlimit": 10_000});
        assert_eq!(tree.find(json!({"contents": ["^number [0-9]+$"], "options": options})).len(), 3_000);
        assert_eq!(tree.find(json!({"contents": ["^number 2[0-9]{3}$"], "names": ["7$"]})).len(), 100);
    }
}
