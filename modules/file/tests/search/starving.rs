//! Files that cannot keep a search from what is beside them.

use std::fs::File;

use serde_json::json;

use crate::harness::{Tree, ask, elements};

#[test]
fn sparse_files_do_not_keep_a_search_from_its_hits() {
    let tree = Tree::new();
    for number in 0..8 {
        let path = tree.path(&format!("{number}-sparse"));
        if File::create(path).unwrap().set_len(4 << 40).is_err() {
            return vigie_skipped::skipped("the file system takes no sparse file of 4 TiB");
        }
    }
    for name in ["0-hit", "5-hit", "9-hit"] {
        tree.write(name, "a\nneedle\n");
    }

    let found = tree.find(json!({"contents": ["^needle$"]}));

    assert_eq!(found, ["0-hit", "5-hit", "9-hit"]);
}

#[test]
fn a_digest_of_a_sparse_file_waits_for_everything_else() {
    let tree = Tree::new();
    if File::create(tree.path("sparse")).unwrap().set_len(64 << 40).is_err() {
        return vigie_skipped::skipped("the file system takes no sparse file of 64 TiB");
    }
    tree.write("hit", "needle\n");
    // The SHA-1 of "needle\n".
    let search = tree.search(json!({"sha1": ["69e32e02b65edc332c456d6bb838a87231ac4dd0"]}));
    let mut query = crate::harness::query(&json!({"searches": {"s": search}}));
    let deadline = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(5);
    query.deadline = Some(deadline.to_string());

    let result = <vigie_file::File as vigie_sdk::StandardModule>::run(&query);

    assert_eq!(tree.files(&elements(&result)["s"]), ["hit"]);
    let coverage = result.coverage.unwrap();
    assert!(coverage.not_examined.iter().any(|entry| entry.what == tree.text("sparse")), "{coverage:?}");
}

#[test]
fn large_files_are_read_after_the_small_ones() {
    let tree = Tree::new();
    let mut large = vec![b'\n'; 17 << 20];
    large.extend(b"needle\n");
    tree.write("large", &large);
    tree.write("link/small", "needle\n");
    std::os::unix::fs::symlink("../large", tree.path("link/to_large")).unwrap();

    let result = ask(&json!({"searches": {"s": tree.search(json!({"contents": ["^needle$"]}))}}));

    assert_eq!(tree.files(&elements(&result)["s"]), ["large", "link/small", "link/to_large"]);
    assert!(result.coverage.unwrap().complete);
}
