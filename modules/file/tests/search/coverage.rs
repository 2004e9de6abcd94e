//! What a search that found nothing proves.

use serde_json::json;
use vigie_sdk::{StandardModule, Verdict};

use crate::harness::{Tree, ask, query};

#[test]
fn a_search_of_everything_that_finds_nothing_proves_it() {
    let tree = Tree::with(&[("a", "x"), ("b/c", "x")]);

    let result = ask(&json!({"searches": {"s": tree.search(json!({"names": ["^none$"]}))}}));

    assert_eq!(result.verdict(), Verdict::Absent);
    assert_eq!(result.coverage.unwrap().examined, 2);
}

#[test]
fn a_search_path_that_does_not_exist_holds_nothing() {
    let tree = Tree::new();
    let paths = json!([tree.text("none"), tree.text("none/below")]);

    let result = ask(&json!({"searches": {"s": {"paths": paths, "names": ["."]}}}));

    assert_eq!(result.verdict(), Verdict::Absent);
}

#[test]
fn a_line_that_was_matched_in_parts_is_named() {
    let tree = Tree::new();
    tree.write("long", vec![b'x'; 3 << 20]);

    let result = ask(&json!({"searches": {"s": tree.search(json!({"contents": ["needle"]}))}}));

    assert_eq!(result.verdict(), Verdict::NotKnown);
    let coverage = result.coverage.unwrap();
    assert_eq!(coverage.not_examined[0].what, tree.text("long"));
    assert!(coverage.not_examined[0].why.contains("longer than"), "{coverage:?}");
}

#[test]
fn a_search_whose_time_is_over_has_not_examined_the_rest() {
    // More than can be searched before anybody looks at the clock.
    let mut query =
        query(&json!({"searches": {"s": {"paths": ["/usr"], "contents": ["never-there-[0-9]{40}"]}}}));
    query.deadline = Some("2000-01-01T00:00:00Z".to_owned());

    let result = vigie_file::File::run(&query);

    assert_eq!(result.verdict(), Verdict::NotKnown);
    assert!(
        result.coverage.unwrap().not_examined.iter().any(|entry| entry.why.contains("its time was over"))
    );
}

#[test]
fn a_directory_that_may_not_be_listed_is_named() {
    use std::os::unix::fs::PermissionsExt;

    // For root, what is behind a mount of another host stands for it in the unit tests.
    if !vigie_skipped::is_plain_user() {
        return;
    }
    let tree = Tree::with(&[("closed/a", "x")]);
    std::fs::set_permissions(tree.path("closed"), std::fs::Permissions::from_mode(0o000)).unwrap();

    let result = ask(&json!({"searches": {"s": tree.search(json!({"names": ["^a$"]}))}}));

    std::fs::set_permissions(tree.path("closed"), std::fs::Permissions::from_mode(0o700)).unwrap();
    assert_eq!(result.verdict(), Verdict::NotKnown);
    assert_eq!(result.coverage.unwrap().not_examined[0].what, tree.text("closed"));
}

#[test]
fn what_lies_deeper_than_anybody_asked_for_is_not_known_and_what_was_not_asked_for_is_no_gap() {
    let tree = Tree::new();
    let mut directory = std::fs::File::open(tree.path("")).unwrap();
    for _ in 0..1_002 {
        let mode = rustix::fs::Mode::RWXU;
        rustix::fs::mkdirat(&directory, "d", mode).unwrap();
        let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::DIRECTORY;
        directory = rustix::fs::openat(&directory, "d", flags, mode).unwrap().into();
    }
    let flags = rustix::fs::OFlags::WRONLY | rustix::fs::OFlags::CREATE;
    rustix::fs::openat(&directory, "target", flags, rustix::fs::Mode::RWXU).unwrap();
    let verdict = |depth: u32| {
        let fields = json!({"names": ["^target$"], "options": {"matchall": true, "maxdepth": depth}});
        ask(&json!({"searches": {"s": tree.search(fields)}})).verdict()
    };

    let verdicts = [0, 10, 5_000].map(verdict);
    // What takes it away when the test ends has a descriptor open for each level.
    std::process::Command::new("rm").arg("-rf").arg(tree.path("d")).status().unwrap();
    assert_eq!(verdicts, [Verdict::NotKnown, Verdict::Absent, Verdict::Found]);
}

#[test]
fn what_is_renamed_all_the_time_is_found_or_not_known_but_never_absent() {
    let tree = Tree::with(&[("one/deep/er/needle", "needle")]);
    for other in 0..300 {
        tree.write(&format!("other{other}/x"), "x");
    }
    let ends = std::sync::atomic::AtomicBool::new(false);
    let verdicts: Vec<Verdict> = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !ends.load(std::sync::atomic::Ordering::Relaxed) {
                for (from, to) in [("one", "two"), ("two", "one")] {
                    std::fs::rename(tree.path(from), tree.path(to)).unwrap();
                }
            }
        });
        let search = tree.search(json!({"contents": ["needle"], "options": {"matchall": true}}));
        let verdicts = (0..60).map(|_| ask(&json!({"searches": {"s": search.clone()}})).verdict()).collect();
        ends.store(true, std::sync::atomic::Ordering::Relaxed);
        verdicts
    });

    assert!(!verdicts.contains(&Verdict::Absent), "{verdicts:?}");
}
