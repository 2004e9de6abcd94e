use proptest::prelude::*;
use serde_json::json;
use serde_json::value::to_raw_value;

use super::texts::clean;
use super::*;

fn read(parameters: &Value) -> Result<Vec<Search>, Vec<String>> {
    parse(Some(&to_raw_value(parameters).unwrap()), 0)
        .map_err(|error| error.0.iter().map(ToString::to_string).collect())
}

#[test]
fn a_search_without_options_has_the_defaults_of_mig() {
    let searches = read(&json!({"searches": {"S1": {"paths": ["/etc/"], "names": ["a"]}}})).unwrap();

    let [search] = &searches[..] else { panic!("{searches:?}") };
    assert_eq!(search.label, "S1");
    assert_eq!(search.paths, [PathBuf::from("/etc")]);
    assert_eq!(
        search.options,
        Options {
            max_depth: 1000,
            is_depth_own: true,
            match_all: false,
            macroal: false,
            match_limit: 1000,
            max_errors: 30,
            return_sha256: false,
            decompress: false,
            remote: false,
            pseudo: false,
            return_metadata: false,
            max_read: u64::MAX,
        }
    );
    assert_eq!(
        search.echo.get(),
        r#"{"paths":["/etc/"],"names":["a"],"options":{"maxdepth":0,"maxerrors":0,"matchall":false,"macroal":false,"mismatch":null,"matchlimit":0}}"#
    );
}

#[test]
fn keys_may_have_any_case_and_labels_keep_theirs() {
    let searches = read(&json!({"SEARCHES": {"aB": {
        "Paths": ["/"], "SHA2": ["AB".repeat(32)], "Options": {"MatchAll": true, "MaxDepth": 2.0}
    }}}))
    .unwrap();

    assert_eq!(searches[0].label, "aB");
    assert!(searches[0].options.match_all);
    assert_eq!(searches[0].options.max_depth, 2);
}

#[test]
fn filters_are_ordered_by_what_they_cost_and_know_their_mismatch() {
    let searches = read(&json!({"searches": {"a": {
        "paths": ["/"], "contents": ["c", "!d"], "md5": ["0".repeat(32)], "mtimes": ["<1d"], "sizes": ["1"],
        "names": ["n"], "modes": ["m"], "options": {"mismatch": ["content", "size"]}
    }}}))
    .unwrap();

    let search = &searches[0];
    assert_eq!(search.names().1.len(), 1);
    assert_eq!((search.metadata().0, search.metadata().1.len()), (1, 3));
    assert_eq!((search.contents().0, search.contents().1.len()), (4, 2));
    assert_eq!((search.digests().0, search.digests().1.len()), (6, 1));
    let mismatch: Vec<bool> = search.checks().iter().map(|check| check.mismatch).collect();
    assert_eq!(mismatch, [false, true, false, false, true, true, false]);
    let echo = search.contents().1[1].echo.get();
    assert!(echo.contains(r#""contents":["!d"],"options""#) && !echo.contains("names"), "{echo}");
}

#[test]
fn every_problem_is_named_by_search_and_field() {
    let problems = read(&json!({"extra": 1, "searches": {
        "one": {"paths": ["etc", "/a\u{0}"], "names": ["["], "sizes": ["big"], "modes": [""], "mtimes": ["9d"],
            "contents": ["(", 3], "md5": ["00"], "sha1": ["xyz"], "sha2": ["0".repeat(56)], "sha3": ["é"],
            "nmaes": [], "options": {
                "maxdepth": -1, "matchlimit": 1.5, "maxerrors": "1", "matchall": 1, "mismatch": ["names"],
                "depth": 1
            }},
        "": {"paths": [], "names": ["a"]},
        "three": [],
        "four": {"paths": ["/"]},
    }}))
    .unwrap_err();

    for expected in [
        "unknown key \"extra\"",
        "search \"one\": paths: \"etc\"",
        "search \"one\": paths: \"/a\\0\"",
        "search \"one\": names:",
        "search \"one\": sizes:",
        "search \"one\": modes:",
        "search \"one\": mtimes:",
        "search \"one\": contents: must be a list of texts",
        "search \"one\": md5:",
        "search \"one\": sha1:",
        "search \"one\": sha2:",
        "search \"one\": sha3:",
        "search \"one\": nmaes:",
        "search \"one\": options.maxdepth:",
        "search \"one\": options.matchlimit:",
        "search \"one\": options.maxerrors:",
        "search \"one\": options.matchall:",
        "search \"one\": options.mismatch: unknown filter \"names\"",
        "search \"one\": options.depth:",
        "search \"\": label:",
        "search \"\": paths:",
        "search \"three\": search:",
        "search \"four\": filters:",
    ] {
        assert!(problems.iter().any(|problem| problem.starts_with(expected)), "{expected} in {problems:#?}");
    }
    assert_eq!(problems.len(), 23, "{problems:#?}");
}

#[test]
fn a_query_without_a_search_says_what_one_looks_like() {
    for parameters in [json!(null), json!({}), json!([]), json!({"searches": {}}), json!({"searches": null})]
    {
        assert!(read(&parameters).unwrap_err()[0].contains("no search given"), "{parameters}");
    }
    assert!(parse(None, 0).is_err());
    assert!(read(&json!({"searches": []})).is_err());
}

#[test]
fn matchall_without_a_filter_is_every_file() {
    assert!(read(&json!({"searches": {"a": {"paths": ["/"], "options": {"matchall": true}}}})).is_ok());
}

#[test]
fn paths_are_cleaned_by_their_text() {
    for (text, expected) in [
        ("/", Some("/")),
        ("/a//b/./c/", Some("/a/b/c")),
        ("/a/../../b", Some("/b")),
        ("a", None),
        ("", None),
        ("~/a", None),
        (r"/a\x62", Some("/ab")),
        (r"/a\x5cx62", Some(r"/a\x62")),
        (r"/a\xg0\x", Some(r"/a\xg0\x")),
        (r"/\x00", None),
    ] {
        assert_eq!(clean(text), expected.map(PathBuf::from), "{text}");
    }
}

proptest! {
    #[test]
    fn any_field_is_read_or_refused(key in "[a-z0-9]{1,8}", text in any::<String>()) {
        for value in [json!(text), json!([text]), json!({key.clone(): text}), json!(1.5)] {
            read(&json!({"searches": {"a": {"paths": ["/"], key.clone(): value}}})).ok();
        }
    }
}
