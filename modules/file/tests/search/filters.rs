//! Every filter and option of content, and its opposite.

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, SystemTime};

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};

use crate::harness::{Tree, ask, elements, statistics};

/// Asks with a filter, with its negation where it has one, and with its mismatch.
fn assert_found(tree: &Tree, field: &str, word: &str, filter: &str, expected: &[&str], others: &[&str]) {
    assert_eq!(tree.find(json!({field: [filter]})), expected, "{field} {filter}");
    assert_eq!(
        tree.find(json!({field: [filter], "options": {"mismatch": [word]}})),
        others,
        "mismatch of {field} {filter}"
    );
    if matches!(field, "names" | "modes" | "contents") {
        assert_eq!(tree.find(json!({field: [format!("!{filter}")]})), others, "negation of {field} {filter}");
        let twice = json!({field: [format!("!{filter}")], "options": {"mismatch": [word]}});
        assert_eq!(tree.find(twice), expected, "mismatch of the negation of {field} {filter}");
    }
}

#[test]
fn names_are_matched_without_their_directory() {
    let tree = Tree::with(&[("passwd", ""), ("passwd.bak", ""), ("passwd.d/shadow", "")]);

    assert_found(&tree, "names", "name", "^passwd", &["passwd", "passwd.bak"], &["passwd.d/shadow"]);
}

#[test]
fn sizes_are_compared_with_their_limit() {
    let tree = Tree::with(&[
        ("0", ""),
        ("1023", &"x".repeat(1023)),
        ("1024", &"x".repeat(1024)),
        ("5k", &"x".repeat(5120)),
    ]);

    assert_found(&tree, "sizes", "size", "<1k", &["0", "1023", "1024"], &["5k"]);
    assert_found(&tree, "sizes", "size", ">1k", &["1024", "5k"], &["0", "1023"]);
    assert_found(&tree, "sizes", "size", "1024", &["1024"], &["0", "1023", "5k"]);
    assert_eq!(tree.find(json!({"sizes": [">1", "<1k"]})), ["1023", "1024"]);
}

#[test]
fn modes_are_matched_as_text() {
    let tree = Tree::with(&[("plain", ""), ("secret", ""), ("setuid", "")]);
    for (name, mode) in [("plain", 0o644), ("secret", 0o600), ("setuid", 0o4755)] {
        std::fs::set_permissions(tree.path(name), std::fs::Permissions::from_mode(mode)).unwrap();
    }

    assert_found(&tree, "modes", "mode", "^u", &["setuid"], &["plain", "secret"]);
    assert_found(&tree, "modes", "mode", "^-rw-------$", &["secret"], &["plain", "setuid"]);
}

#[test]
fn times_are_compared_with_now() {
    let tree = Tree::with(&[("new", ""), ("old", ""), ("future", "")]);
    let hours = |hours: u64| Duration::from_secs(hours * 3600);
    for (name, time) in [("old", SystemTime::now() - hours(50)), ("future", SystemTime::now() + hours(50))] {
        std::fs::File::options().write(true).open(tree.path(name)).unwrap().set_modified(time).unwrap();
    }

    assert_found(&tree, "mtimes", "mtime", "<2d", &["future", "new"], &["old"]);
    assert_found(&tree, "mtimes", "mtime", ">49h", &["old"], &["future", "new"]);
}

#[test]
fn contents_are_matched_line_by_line() {
    let tree = Tree::with(&[
        ("hit", "first\nroot:x:0\n"),
        ("crlf", "root:x:0\r\nlast"),
        ("inside", "# root:x:0\n"),
        ("empty", ""),
    ]);

    assert_found(&tree, "contents", "content", "^root:.*0$", &["crlf", "hit"], &["empty", "inside"]);
}

#[test]
fn every_digest_finds_its_file() {
    let tree = Tree::with(&[("abc", "abc"), ("other", "abd")]);
    // From md5sum, sha1sum, sha256sum, sha384sum, sha512sum and openssl dgst.
    for (field, digest) in [
        ("md5", "900150983cd24fb0d6963f7d28e17f72"),
        ("sha1", "A9993E364706816ABA3E25717850C26C9CD0D89D"),
        ("sha2", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"),
        (
            "sha2",
            "cb00753f45a35e8bb5a03d699ac65007272c32ab0eded1631a8b605a43ff5bed8086072ba1e7cc2358baeca134c825a7",
        ),
        (
            "sha2",
            "ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f",
        ),
        ("sha3", "e642824c3f8cf24ad09234ee7d3c766fc9a3a5168d0c94ad73b46fdf"),
        ("sha3", "3a985da74fe225b2045c172d6bd390bd855f086e3e9d525b46bfe24511431532"),
        (
            "sha3",
            "ec01498288516fc926459f58e2c6ad8df9b473cb0fc08c2596da7cf0e49be4b298d88cea927ac7f539f1edf228376d25",
        ),
        (
            "sha3",
            "b751850b1a57168a5693cd924b6b096e08f621827444f70d884f5d0240d2712e10e116e9192af3c91a7ec57647e3934057340b4cf408d5a56592f8274eec53f0",
        ),
    ] {
        assert_found(&tree, field, field, digest, &["abc"], &["other"]);
    }
}

#[test]
fn matchall_wants_all_filters_and_otherwise_each_answers_alone() {
    let tree = Tree::with(&[("a.conf", "on\n"), ("b.conf", "off\n"), ("c", "on\n")]);
    let fields = json!({"names": ["conf$"], "contents": ["^on$"], "sizes": [">1m"]});

    assert_eq!(tree.find(json!({"names": ["conf$"], "contents": ["^on$"]})), ["a.conf"]);
    let result = ask(&json!({"searches": {"any": tree.search(fields)}}));

    let matches = elements(&result)["any"].as_array().unwrap().clone();
    let pairs: Vec<(&str, &Value)> =
        matches.iter().map(|found| (found["file"].as_str().unwrap(), &found["search"])).collect();
    assert_eq!(pairs.len(), 5);
    assert_eq!(statistics(&result)["totalhits"], 4);
    for (found, (file, field)) in pairs.iter().zip([
        ("a.conf", "names"),
        ("a.conf", "contents"),
        ("b.conf", "names"),
        ("c", "contents"),
    ]) {
        assert_eq!(found.0, tree.text(file));
        assert!(found.1.get(field).is_some() && found.1["options"]["matchall"] == false, "{found:?}");
    }
    // The filter that found nothing.
    assert_eq!((pairs[4].0, &pairs[4].1["sizes"]), ("", &json!([">1m"])));
}

#[test]
fn macroal_finds_files_whose_lines_are_all_known_and_mismatch_the_others() {
    let tree = Tree::with(&[
        (".ssh/authorized_keys", "# mine\nssh-ed25519 AAAA me\n"),
        ("other/authorized_keys", "ssh-ed25519 AAAA me\nssh-rsa EVIL\n"),
    ]);
    let lines = "^(#.*|ssh-ed25519 AAAA.*)$";

    let known = json!({"contents": [lines], "options": {"macroal": true}});
    let rogue = json!({"contents": [lines], "options": {"macroal": true, "mismatch": ["content"]}});

    assert_eq!(tree.find(known), [".ssh/authorized_keys"]);
    assert_eq!(tree.find(rogue), ["other/authorized_keys"]);
    assert_eq!(tree.find(json!({"contents": [lines]})).len(), 2);
}

#[test]
fn decompress_looks_into_gzip_and_reads_others_as_they_are() {
    let tree = Tree::with(&[("plain", "needle\n")]);
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(b"needle\n").unwrap();
    tree.write("packed.gz", encoder.finish().unwrap());
    // The SHA-256 of the text.
    let sha256 = "d29210777777dac0b3d12f6a656a073c9ba717cf6932dbc01b0cc6dc1e7779b8";

    assert_eq!(tree.find(json!({"contents": ["^needle$"]})), ["plain"]);
    assert_eq!(
        tree.find(json!({"contents": ["^needle$"], "options": {"decompress": true}})),
        ["packed.gz", "plain"]
    );
    assert_eq!(tree.find(json!({"sha2": [sha256]})), ["plain"]);
    assert_eq!(tree.find(json!({"sha2": [sha256], "options": {"decompress": true}})), ["packed.gz", "plain"]);
}

#[test]
fn returnsha256_gives_the_digest_of_each_match() {
    let tree = Tree::with(&[("abc", "abc"), ("no", "abc")]);
    let options = json!({"matchall": true, "returnsha256": true});
    let parameters = json!({"searches": {
        "all": tree.search(json!({"names": ["^abc$"], "options": options})),
        "any": tree.search(json!({"names": ["^abc$"], "options": {"returnsha256": true}})),
        "without": tree.search(json!({"names": ["^abc$"]})),
    }});

    let elements = elements(&ask(&parameters));

    let sha256 = "BA7816BF8F01CFEA414140DE5DAE2223B00361A396177A9CB410FF61F20015AD";
    for label in ["all", "any"] {
        assert_eq!(elements[label].as_array().unwrap().len(), 1);
        assert_eq!(elements[label][0]["fileinfo"]["sha256"], sha256, "{label}");
        assert_eq!(elements[label][0]["search"]["options"]["returnsha256"], true);
    }
    assert_eq!(elements["without"][0]["fileinfo"].get("sha256"), None);
}

#[test]
fn a_match_is_described_as_mig_does() {
    let tree = Tree::with(&[("file", "some content\n\n")]);
    std::fs::set_permissions(tree.path("file"), std::fs::Permissions::from_mode(0o644)).unwrap();

    let result = ask(
        &json!({"searches": {"s1": tree.search(json!({"names": [".*"], "options": {"matchall": true}}))}}),
    );

    assert!(result.foundanything && result.success && result.errors.is_none(), "{result:?}");
    let found = &elements(&result)["s1"][0];
    assert_eq!(found["file"], tree.text("file"));
    assert_eq!(found["fileinfo"]["size"], 14);
    assert_eq!(found["fileinfo"]["mode"], "-rw-r--r--");
    assert!(found["fileinfo"]["lastmodified"].as_str().unwrap().ends_with(" +0000 UTC"));
    let statistics = statistics(&result);
    assert_eq!(
        (&statistics["filescount"], &statistics["openfailed"], &statistics["totalhits"]),
        (&json!(1), &json!(0), &json!(1))
    );
    assert_eq!(statistics.get("incomplete"), None);
}

#[test]
fn wrong_parameters_are_told_before_anything_runs() {
    let tree = Tree::with(&[("a", "")]);

    let result = ask(&json!({"searches": {
        "good": tree.search(json!({"names": ["a"]})),
        "bad": tree.search(json!({"names": ["["], "sizes": ["10x"]})),
    }}));

    assert!(!result.success && !result.foundanything && result.elements.is_none());
    let errors = result.errors.unwrap();
    assert_eq!(errors.len(), 2);
    assert!(errors[0].starts_with("search \"bad\": names: "), "{errors:?}");
    assert!(errors[1].starts_with("search \"bad\": sizes: "), "{errors:?}");
}
