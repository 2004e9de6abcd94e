//! Lanes: whose records are removed first, and that questions see all of them as one history.

use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use vigie_kernel_events::{Account, Listed};

use super::lanes::{Lane, Lanes, verify};
use super::store::{Dropped, Limits, Store, numbers};
use crate::answer::{self, Begins};
use crate::history_tests::record;
use crate::record::{Key, Record, What};
use crate::search::Found;
use crate::tests::search;

const ROOT: Account = Account::TRUSTED;
const ANN: Account = Account::user(1000);
const BOB: Account = Account::user(1001);

fn ask(dir: &Path, store: &Lanes, parameters: Value) -> Found {
    let found = search(dir, store.snapshot(), &parameters);
    assert!(found.unread.is_empty(), "{:?}", found.unread);
    found
}

/// An exec of a process in a directory that only this one has.
fn exec(number: u32, cwd: &str, maker: Key) -> Record {
    let mut record = record(number);
    if let What::Exec(run) = &mut record.what {
        run.cwd = cwd.as_bytes().to_vec();
        // Nothing that packs well.
        let odd = u64::from(number).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
        run.arguments = Listed::from_bytes(format!("{odd:016x}").into_bytes());
        run.argument_bytes = 17;
        run.maker = maker;
    }
    record
}

fn cwd(record: &Record) -> &[u8] {
    match &record.what {
        What::Exec(run) => &run.cwd,
        _ => b"",
    }
}

#[test]
fn a_user_who_fills_the_budget_removes_only_what_is_beyond_his_share() {
    const BUDGET: u64 = 200 << 10;
    let dir = tempfile::tempdir().unwrap();
    let mut store = Lanes::open(dir.path(), BUDGET).unwrap();
    for number in 0..200 {
        store.add(&exec(number, "/of root", Key::default()), ROOT);
        if number % 4 == 0 {
            store.add(&exec(number, "/of bob", Key::default()), BOB);
        }
    }
    let mut dropped: Vec<(Lane, Dropped)> = Vec::new();
    for number in 200..60_000 {
        store.add(&exec(number, "/of ann", Key::default()), ANN);
        if number % 500 == 0 {
            dropped.extend(store.flush(record(number).time).unwrap());
        }
    }
    dropped.extend(store.seal().unwrap());

    // Of the time before ann's flood.
    let all = ask(dir.path(), &store, json!({"until": "2023-11-14T22:13:20.199Z", "limit": 1000}));
    let of = |place: &str| all.hits.iter().filter(|hit| cwd(&hit.record) == place.as_bytes()).count();
    assert_eq!((of("/of root"), of("/of bob")), (200, 50));
    assert!(!dropped.is_empty() && dropped.iter().all(|(lane, _)| *lane == Lane::Excess), "{dropped:?}");
    let bytes: u64 = store.extents().iter().map(|(_, extent)| extent.bytes).sum();
    assert!(bytes <= BUDGET, "{bytes}");
    assert!(verify(dir.path(), &[]).is_ok());

    // Whoever asks about a time of which something was removed is told of whom it was.
    let names = vigie_host::users::Names::of(Path::new("/"));
    let coverage = |since: i64| {
        let begins = Begins::of(&store.extents());
        let found = ask(dir.path(), &store, json!({"ran": ["/no/such"]}));
        let result = answer::events(&found, &begins, since, false, &names, Duration::ZERO);
        (result.is_not_known(), serde_json::to_string(&result.coverage).unwrap())
    };
    let (not_known, text) = coverage(record(0).time);
    assert!(not_known && text.contains("events of others beyond their share of a day, before "), "{text}");
    assert!(!text.contains("the trusted") && !text.contains("begins later"), "{text}");
    assert!(!coverage(record(59_500).time).0);
    // And so after a restart.
    drop(store);
    let store = Lanes::open(dir.path(), BUDGET).unwrap();
    let removed: Vec<bool> = store.extents().iter().map(|(_, extent)| extent.removed).collect();
    assert_eq!(removed, [false, false, true]);
}

#[test]
fn the_newest_of_all_lanes_are_the_newest() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = Lanes::open(dir.path(), 1 << 30).unwrap();
    // Of each lane several blocks, of the same times.
    for number in 0..900 {
        let account = if number % 3 == 0 { ROOT } else { ANN };
        store.add(&record(number), account);
        if number % 200 == 199 {
            store.seal().unwrap();
        }
    }

    let found = ask(dir.path(), &store, json!({"since": "2000-01-01", "limit": 50}));

    let times: Vec<i64> = found.hits.iter().map(|hit| hit.record.time).collect();
    let expected: Vec<i64> = (850..900).map(|number| record(number).time).collect();
    assert_eq!((times, found.more), (expected, true));
    let all = ask(dir.path(), &store, json!({"since": "2000-01-01", "limit": 900}));
    assert_eq!((all.hits.len(), all.more), (900, false));
}

#[test]
fn a_tree_goes_through_all_lanes() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = Lanes::open(dir.path(), 1 << 30).unwrap();
    let who = |number: u32| record(number).who;
    // The first block of root is older than that of the user whose sudo it runs.
    store.add(&exec(1, "/before", Key::default()), ROOT);
    store.add(&exec(10, "/shell", Key::default()), ANN);
    store.add(&exec(11, "/sudo", who(10)), ANN);
    store.add(&exec(12, "/root's", who(11)), ROOT);
    store.add(&exec(13, "/user's", who(12)), ANN);
    store.add(&exec(14, "/root's again", who(13)), ROOT);
    let exit = What::Exit { status: 0, processor_ms: 1, resident_quarters: 1, euid: 0 };
    store.add(&Record { what: exit, ..record(14) }, ANN);
    for seals in [false, true] {
        if seals {
            store.seal().unwrap();
        }
        let tree = ask(dir.path(), &store, json!({"tree": who(11).pid.to_string()}));

        let found: Vec<(i32, &[u8])> =
            tree.hits.iter().filter_map(|hit| Some((hit.depth?, cwd(&hit.record)))).collect();
        let expected: [(i32, &[u8]); 6] = [
            (-1, b"/shell"),
            (0, b"/sudo"),
            (1, b"/root's"),
            (2, b"/user's"),
            (3, b"/root's again"),
            (3, b""),
        ];
        assert_eq!(found, expected);
    }
}

#[test]
fn blocks_from_before_there_were_lanes_are_found() {
    let dir = tempfile::tempdir().unwrap();
    let limits = Limits { rows: 100, text_bytes: 1 << 20, times: 4 };
    let mut old = Store::open(dir.path(), limits).unwrap();
    for number in 0..150 {
        old.add(&record(number), |_| None);
        old.flush(record(0).time).unwrap();
    }
    drop(old);

    let mut store = Lanes::open(dir.path(), 1 << 30).unwrap();

    assert_eq!(store.take_complaints(), Vec::<String>::new());
    assert_eq!(numbers(dir.path()).unwrap(), Vec::<u64>::new());
    assert_eq!(ask(dir.path(), &store, json!({"since": "2000-01-01", "limit": 1000})).hits.len(), 150);
    assert_eq!(verify(dir.path(), &[]), Ok(1));
}
