//! What the history holds: read as it was written, bounded, and honest about what is missing.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};
use vigie_kernel_events::{Account, File, Listed, Whose};

use crate::answer;
use crate::answer::Begins;
use crate::history::lanes::{self, Lane, Lanes};
use crate::history::store;
use crate::parameters::Parameters;
use crate::record::{Key, Kind, Outcome, Program, Record, Rights, Run, Session, Socket, SocketKind, What};
use crate::search::Found;
use crate::tests::{SmallDisk, search, skip};

const ROOT: Account = Account::TRUSTED;

/// A history whose first record is of this moment.
fn begins(from: i64, removed: bool) -> Begins {
    Begins::of(&[(Lane::Trusted, store::Extent { from: Some(from), removed, ..Default::default() })])
}

pub(crate) fn record(number: u32) -> Record {
    let who = Key { pid: 100 + number % 500, start: 1_000_000 + u64::from(number) * 900 };
    let run = Run {
        maker: Key { pid: 1, start: 5 },
        parent: 1,
        group: who.pid,
        session: 9,
        program: Program {
            path: format!("/usr/bin/tool{}", number % 7).into_bytes(),
            file: File {
                inode: u64::from(number % 7),
                links: 1,
                size: 10,
                mode: 0o100_755,
                ..File::default()
            },
        },
        rights: Rights { uid: number % 3, euid: number % 3, namespaces: [1, 2, 3, 4], ..Rights::default() },
        cwd: b"/".to_vec(),
        arguments: Listed::from_bytes(format!("tool\0{}", number % 100).into_bytes()),
        argument_bytes: format!("tool\0{}", number % 100).len() as u32 + 1,
        ..Run::default()
    };
    Record { time: 1_700_000_000_000_000 + i64::from(number) * 1000, who, what: What::Exec(Box::new(run)) }
}

fn one_of_each() -> Vec<Record> {
    let exec = record(1);
    let with = |what: What| Record { what, ..exec.clone() };
    let session = Session { user: b"ann".to_vec(), host: b"192.0.2.7".to_vec(), ..Session::default() };
    let socket = Socket {
        kind: SocketKind::Connect,
        outcome: Outcome::Refused,
        local: "::1".parse().unwrap(),
        local_port: 7,
        remote: "2001:db8::1".parse().unwrap(),
        remote_port: 443,
        program: Program::default(),
        rights: Rights::default(),
        peer: Key { pid: 3, start: 9 },
    };
    let exit = What::Exit { status: 9, processor_ms: 70, resident_quarters: 4, euid: 1 };
    let mut cut = record(2);
    if let What::Exec(run) = &mut cut.what {
        run.argument_bytes = 1_080_019;
        run.environment = vec![(b"LD_PRELOAD".to_vec(), b"/tmp/x.so".to_vec())];
        run.secure = true;
        run.maker = exec.who;
    }
    vec![
        exec.clone(),
        cut,
        with(What::Socket(Box::new(socket))),
        with(What::Setuid { uid: 1, euid: 0 }),
        with(What::Ptrace { tracer: Key { pid: 5, start: 6 } }),
        with(What::Login(Box::new(session.clone()))),
        with(What::Logout(Box::new(session))),
        with(What::Lost { kind: b"exec".to_vec(), count: 7, from: 5 }),
        with(What::Host(Kind::Mount, b"mounted tmpfs x at /y".to_vec())),
        with(What::Host(Kind::Time, b"the clock was set by +60000 ms".to_vec())),
        with(What::Namespace(b"mnt user".to_vec())),
        with(exit),
    ]
}

fn all_of(dir: &Path, open: Vec<(Lane, u64, Vec<u8>)>) -> Vec<Record> {
    let found = search(dir, open, &json!({"since": "2000-01-01", "limit": 100_000}));
    assert!(found.unread.is_empty() && !found.more, "{:?}", found.unread);
    found.hits.into_iter().map(|hit| hit.record).collect()
}

fn sorted(mut records: Vec<Record>) -> Vec<Record> {
    records.sort_by_key(|record| record.time);
    records
}

#[test]
fn every_kind_is_read_as_it_was_written_also_after_a_restart_and_a_seal() {
    let dir = tempfile::tempdir().unwrap();
    let records = one_of_each();
    let mut store = Lanes::open(dir.path(), 1 << 20).unwrap();
    for record in &records {
        store.add(record, ROOT);
    }
    store.flush(records[0].time).unwrap();
    assert_eq!(all_of(dir.path(), store.snapshot()), sorted(records.clone()));
    drop(store);

    let mut store = Lanes::open(dir.path(), 1 << 20).unwrap();
    assert_eq!(all_of(dir.path(), store.snapshot()), sorted(records.clone()));
    store.seal().unwrap();

    assert_eq!(all_of(dir.path(), store.snapshot()), sorted(records));
    assert_eq!(lanes::verify(dir.path(), &[]), Ok(1));
}

#[test]
fn a_log_that_was_cut_keeps_what_was_whole() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = Lanes::open(dir.path(), 1 << 20).unwrap();
    for number in 0..3 {
        store.add(&record(number), ROOT);
        store.flush(record(0).time).unwrap();
    }
    drop(store);
    let log: PathBuf = dir.path().join("trusted/00000000.log");
    let bytes = std::fs::read(&log).unwrap();
    std::fs::write(&log, &bytes[..bytes.len() - 5]).unwrap();

    let mut store = Lanes::open(dir.path(), 1 << 20).unwrap();
    assert_eq!(store.take_complaints().len(), 1);
    store.add(&record(5), ROOT);
    store.flush(record(0).time).unwrap();
    drop(store);

    let mut store = Lanes::open(dir.path(), 1 << 20).unwrap();
    assert!(store.take_complaints().is_empty());
    let expected: Vec<Record> = [0, 1, 5].map(record).into();
    assert_eq!(all_of(dir.path(), store.snapshot()), expected);
}

#[test]
fn blocks_follow_on_each_other_and_a_changed_one_is_found_out() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = Lanes::open(dir.path(), 64 << 20).unwrap();
    for number in 0..40_000 {
        store.add(&record(number), ROOT);
        if number % 500 == 0 {
            store.flush(record(number).time).unwrap();
        }
    }
    store.seal().unwrap();
    assert_eq!(lanes::verify(dir.path(), &[]), Ok(3));
    let bytes: u64 = store.extents().iter().map(|(_, extent)| extent.bytes).sum();
    assert!(bytes < 40_000 * 12, "{bytes} bytes for 40,000 execs");
    let found = search(dir.path(), store.snapshot(), &json!({"ran": ["*/tool3"], "by": ["2"], "limit": 10}));
    assert_eq!((found.hits.len(), found.more), (10, true));

    let path = store::block_path(&Lane::Trusted.dir(dir.path()), 1);
    let mut bytes = std::fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&path, &bytes).unwrap();

    assert!(lanes::verify(dir.path(), &[]).unwrap_err().contains("block 1 is not as it was sealed"));
    std::fs::remove_file(&path).unwrap();
    assert!(lanes::verify(dir.path(), &[]).unwrap_err().contains("somebody removed block"));
}

#[test]
fn the_budget_drops_the_oldest_blocks_and_says_which() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = Lanes::open(dir.path(), 1 << 20).unwrap();
    store.set_budget(1);
    let mut dropped = Vec::new();
    for number in 0..3 {
        store.add(&record(number), ROOT);
        dropped.extend(store.seal().unwrap());
    }

    assert_eq!(dropped.iter().map(|(_, dropped)| dropped.blocks).sum::<u64>(), 2);
    assert_eq!(
        dropped.first().map(|(lane, dropped)| (*lane, dropped.from)),
        Some((Lane::Trusted, record(0).time))
    );
    assert_eq!(store::numbers(&Lane::Trusted.dir(dir.path())).unwrap(), [2]);
    assert!(store.extents()[0].1.removed && !store.extents()[1].1.removed);
}

#[test]
fn events_that_were_lost_in_the_time_that_is_asked_for_make_an_answer_not_known() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = Lanes::open(dir.path(), 1 << 20).unwrap();
    let exec = record(1);
    let what = What::Lost { kind: b"exec".to_vec(), count: 7, from: exec.time };
    store.add(&exec, ROOT);
    store.add(&Record { time: exec.time + 900_000, what, ..exec.clone() }, ROOT);
    let not_known = |parameters: Value| {
        let names = vigie_host::users::Names::of(Path::new("/"));
        let found = search(dir.path(), store.snapshot(), &parameters);
        answer::events(&found, &begins(1, false), i64::MIN, false, &names, Duration::ZERO).is_not_known()
    };

    assert!(not_known(json!({"ran": ["*/nosuch"]})));
    assert!(not_known(json!({"command": ["nosuch"], "since": "2023-11-14T22:13:20Z"})));
    for parameters in [
        json!({"connected": ["192.0.2.1"]}),
        json!({"kind": ["listen"]}),
        json!({"ran": ["*/nosuch"], "until": "2023-11-14T22:13:19Z"}),
        json!({"ran": ["*/nosuch"], "since": "2023-11-14T22:13:30Z"}),
    ] {
        assert!(!not_known(parameters.clone()), "{parameters}");
    }
}

/// An exec with arguments of 4 KiB, of which no two are the same.
fn long(number: u32, filler: u8) -> Record {
    let mut record = record(number);
    if let What::Exec(run) = &mut record.what {
        let mut arguments = format!("{number:08}").into_bytes();
        arguments.resize(4096, filler);
        run.argument_bytes = 4097;
        run.arguments = Listed::from_bytes(arguments);
    }
    record
}

#[test]
fn arguments_of_any_length_make_no_block_that_cannot_be_read() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = Lanes::open(dir.path(), 1 << 30).unwrap();

    for number in 0..17_000 {
        store.add(&long(number, b'x'), ROOT);
        if number % 1000 == 0 {
            store.flush(record(number).time).unwrap();
        }
    }
    store.seal().unwrap();

    assert_eq!(store.take_refused().map(|(_, count)| count), [0, 0]);
    let found = search(dir.path(), Vec::new(), &json!({"since": "2000-01-01", "limit": 10}));
    assert_eq!((found.unread, found.hits.len()), (Vec::new(), 10));
    let found = search(dir.path(), Vec::new(), &json!({"command": ["^00000007x"]}));
    assert_eq!((found.unread, found.hits.len()), (Vec::new(), 1));
}

#[test]
fn arguments_of_any_length_make_no_answer_that_the_agent_does_not_take() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = Lanes::open(dir.path(), 1 << 30).unwrap();
    for number in 0..1_500 {
        store.add(&long(number, 1), ROOT);
    }

    let found = search(dir.path(), store.snapshot(), &json!({"since": "2000-01-01", "limit": 100_000}));

    assert!(found.more && found.hits.last().unwrap().record.time == record(1_499).time);
    let names = vigie_host::users::Names::of(Path::new("/"));
    let result = answer::events(&found, &begins(1, false), i64::MIN, false, &names, Duration::ZERO);
    assert!(result.elements.unwrap().get().len() < 16 << 20);
}

#[test]
fn in_extra_privacy_mode_an_answer_shows_kinds_and_numbers_only() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = Lanes::open(dir.path(), 1 << 20).unwrap();
    for record in one_of_each() {
        store.add(&record, ROOT);
    }
    let found = search(dir.path(), store.snapshot(), &json!({"since": "2000-01-01"}));
    let names = vigie_host::users::Names::of(Path::new("/"));

    let result = answer::events(&found, &begins(1, false), i64::MIN, true, &names, Duration::ZERO);

    assert_eq!(vigie_sdk::privacy::check(&result, crate::masked_form), Ok(()));
    let text = result.elements.as_ref().unwrap().get();
    assert!(text.contains("\"exec\"") && !text.contains("tool"), "{text}");
    let plain = answer::events(&found, &begins(1, false), i64::MIN, false, &names, Duration::ZERO);
    assert!(vigie_sdk::privacy::check(&plain, crate::masked_form).is_err());
    let schema = include_str!("../../docs/events.schema.json");
    let schema: Value = serde_json::from_str(schema).unwrap();
    for result in [result, plain] {
        let elements: Value = serde_json::from_str(result.elements.as_ref().unwrap().get()).unwrap();
        assert_eq!(vigie_schema::problems(&schema, "/$defs/elements", &elements), Vec::<String>::new());
    }
}

#[test]
fn a_program_is_found_by_its_name_and_what_users_did_by_theirs() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = Lanes::open(dir.path(), 1 << 20).unwrap();
    let own = |what: What| Record { what, ..record(1) };
    let session = || Box::new(Session { user: b"root".to_vec(), ..Session::default() });
    for record in [
        record(1),
        own(What::Setuid { uid: 0, euid: 4242 }),
        own(What::Login(session())),
        own(What::Logout(session())),
        own(What::Exit { status: 0, processor_ms: 1, resident_quarters: 1, euid: 4242 }),
    ] {
        store.add(&record, ROOT);
    }
    store.seal().unwrap();
    let found = |question: Value| search(dir.path(), store.snapshot(), &question).hits.len();

    assert_eq!(found(json!({"ran": ["tool1"]})), 1);
    assert_eq!(found(json!({"ran": ["t?ol*"]})), 1);
    assert_eq!(found(json!({"ran": ["/tool1"]})), 0);
    assert_eq!(found(json!({"by": ["4242"], "kind": ["exit"]})), 1);
    assert_eq!(found(json!({"by": ["4242"]})), 1);
    assert_eq!(found(json!({"by": ["root"], "kind": ["login", "logout"]})), 2);
    assert_eq!(found(json!({"by": ["root"], "kind": ["setuid"]})), 1);
}

#[test]
fn a_script_is_found_by_its_place_however_it_was_run() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = Lanes::open(dir.path(), 1 << 20).unwrap();
    for (path, filename, arguments) in [
        ("/usr/bin/dash", "/usr/bin/sh", "sh\0./x.sh"),
        ("/usr/bin/dash", "/tmp/x.sh", "/bin/sh\0./x.sh"),
        ("/usr/bin/dash", "/usr/bin/sh", "sh\0-ex\0x.sh\0-c"),
        ("/usr/bin/python3.11", "", "python3\0-u\0/tmp/x.sh"),
        ("/usr/bin/busybox", "", "busybox\0sh\0x.sh"),
        ("/usr/bin/dash", "/usr/bin/sh", "sh\0-c\0x.sh"),
        ("/usr/bin/cat", "", "cat\0/tmp/x.sh"),
    ] {
        let mut exec = record(1);
        if let What::Exec(run) = &mut exec.what {
            run.program.path = path.into();
            run.filename = filename.into();
            run.cwd = b"/tmp".to_vec();
            run.arguments = Listed::from_bytes(arguments.into());
            run.add_script();
        }
        store.add(&exec, ROOT);
    }
    store.seal().unwrap();
    let found = |pattern: &str| search(dir.path(), store.snapshot(), &json!({"ran": [pattern]})).hits.len();

    assert_eq!(found("/tmp/*"), 5);
    assert_eq!(found("x.sh"), 5);
    assert_eq!(found("sh"), 3);
}

#[test]
fn a_question_that_nothing_can_answer_is_refused() {
    let names = vigie_host::users::Names::of(Path::new("/"));
    for question in [
        json!({"ran": ["x"], "kind": ["exit"]}),
        json!({"command": ["x"], "connected": ["192.0.2.1"]}),
        json!({"by": ["root"], "kind": ["mount"]}),
        json!({"since": "1h", "until": "2h"}),
        json!({"tree": "7", "by": ["root"]}),
        json!({"rules": true, "ran": ["x"]}),
    ] {
        let query = vigie_sdk::Query::new(Some(serde_json::value::to_raw_value(&question).unwrap()));
        assert!(Parameters::of(&query, &names, 1_700_000_000_000_000).is_err(), "{question}");
    }
    assert!(
        crate::rules::parse_network("::ffff:192.0.2.0/120") == crate::rules::parse_network("192.0.2.0/24")
    );
}

#[test]
fn the_tree_of_a_process_from_before_the_history_has_what_it_made() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = Lanes::open(dir.path(), 1 << 20).unwrap();
    let mut child = record(1);
    if let What::Exec(run) = &mut child.what {
        run.maker = Key { pid: 77, start: 9 };
    }
    store.add(&child, ROOT);
    let lost = What::Lost { kind: b"exec/others".to_vec(), count: 7, from: child.time };
    store.add(&Record { time: child.time + 1, who: Key::default(), what: lost }, ROOT);

    let found = search(dir.path(), store.snapshot(), &json!({"tree": "77"}));

    assert_eq!(
        found.hits.iter().map(|hit| (hit.record.who, hit.depth)).collect::<Vec<_>>(),
        [(child.who, Some(1))]
    );
    assert!(found.unread.len() == 1 && found.lost.get("exec/others") == Some(&7), "{found:?}");
}

/// What it did is in the history, and the caller knows which one it is.
#[test]
fn a_process_from_before_the_history_is_found_by_what_it_did() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = Lanes::open(dir.path(), 1 << 20).unwrap();
    let exit = What::Exit { status: 9, processor_ms: 70, resident_quarters: 4, euid: 1 };
    let end = Record { time: 50, who: Key { pid: 88, start: 9 }, what: exit };
    store.add(&end, ROOT);

    let found = search(dir.path(), store.snapshot(), &json!({"tree": "88", "start": 9}));

    assert_eq!(found.hits.iter().map(|hit| &hit.record).collect::<Vec<_>>(), [&end]);
}

#[test]
fn blocks_that_were_sealed_and_dropped_during_a_question_are_not_missed() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = Lanes::open(dir.path(), 1 << 20).unwrap();
    let mut open = Vec::new();
    for number in 0..4 {
        store.add(&record(number), ROOT);
        if number == 2 {
            open = store.snapshot();
        }
        store.seal().unwrap();
    }
    // As the budget does.
    for number in 0..3 {
        std::fs::remove_file(store::block_path(&Lane::Trusted.dir(dir.path()), number)).unwrap();
    }

    let found = search(dir.path(), open.clone(), &json!({"kind": ["exec"]}));

    assert_eq!((found.unread.len(), found.hits.len()), (0, 1), "{:?}", found.unread);
    assert_eq!(lanes::verify(dir.path(), &open), Ok(1));
}

#[test]
fn a_log_that_was_moved_is_written_again_also_when_the_disk_was_full_at_first() {
    let Some(disk) = SmallDisk::mount() else {
        return skip("this user may not mount a small file system").unwrap_or_default();
    };
    let dir = disk.0.path().join("history");
    let mut store = Lanes::open(&dir, 64 << 20).unwrap();
    store.add(&record(0), ROOT);
    store.flush(record(0).time).unwrap();
    let log = Lane::Trusted.dir(&dir).join("00000000.log");
    std::fs::rename(&log, disk.0.path().join("moved")).unwrap();
    let filler = disk.0.path().join("filler");
    std::fs::write(&filler, vec![0; 9 << 20]).unwrap_err();
    store.add(&record(1), ROOT);
    store.flush(record(1).time).unwrap_err();
    std::fs::remove_file(&filler).unwrap();
    store.add(&record(2), ROOT);
    store.flush(record(2).time).unwrap();

    assert_eq!(store.take_complaints().len(), 1);
    drop(store);
    let store = Lanes::open(&dir, 64 << 20).unwrap();
    assert_eq!(all_of_kind(&dir, &store), 3);
}

#[test]
fn blocks_that_somebody_removed_are_missed_also_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = Lanes::open(dir.path(), 1 << 20).unwrap();
    for number in 0..4 {
        store.add(&record(number), ROOT);
        store.seal().unwrap();
    }
    store.add(&record(5), ROOT);
    store.flush(record(5).time).unwrap();
    let trusted = Lane::Trusted.dir(dir.path());
    for number in [1, 3] {
        std::fs::remove_file(store::block_path(&trusted, number)).unwrap();
    }
    let unread = |store: &Lanes| {
        let found = search(dir.path(), store.snapshot(), &json!({"ran": ["x"]}));
        found.unread.into_iter().map(|(what, _)| what).collect::<Vec<_>>()
    };
    let expected = ["block 1 of trusted", "block 3 of trusted"];

    assert_eq!(unread(&store), expected);
    assert!(lanes::verify(dir.path(), &store.snapshot()).is_err());
    drop(store);
    let mut store = Lanes::open(dir.path(), 1 << 20).unwrap();
    assert_eq!(unread(&store), expected);
    assert_eq!(store.take_complaints().len(), 2);
    assert_eq!(all_of_kind(dir.path(), &store), 3);

    // The log is removed while it is written: what it had is written again.
    std::fs::remove_dir_all(&trusted).unwrap();
    store.add(&record(6), ROOT);
    store.flush(record(6).time).unwrap();
    assert_eq!(store.take_complaints().len(), 1);
    drop(store);
    let store = Lanes::open(dir.path(), 1 << 20).unwrap();
    assert_eq!(all_of_kind(dir.path(), &store), 2);
}

fn all_of_kind(dir: &Path, store: &Lanes) -> usize {
    search(dir, store.snapshot(), &json!({"kind": ["exec"]})).hits.len()
}

#[test]
fn a_question_about_the_time_before_the_history_is_not_known() {
    let found = Found::default();
    let names = vigie_host::users::Names::of(Path::new("/"));

    let result = answer::events(&found, &begins(10, false), 5, false, &names, Duration::ZERO);

    assert!(result.is_not_known());
    let all: Vec<Kind> = Kind::ALL.into_iter().collect();
    assert!(all.iter().all(|kind| Kind::from_name(kind.name()) == Some(*kind)));
}

#[test]
fn a_full_disk_costs_bounded_memory_and_what_was_lost_is_counted() {
    let Some(disk) = SmallDisk::mount() else {
        return skip("this user may not mount a small file system").unwrap_or_default();
    };
    let dir = disk.0.path().join("history");
    let mut store = Lanes::open(&dir, 64 << 20).unwrap();
    store.add(&record(0), ROOT);
    store.flush(record(0).time).unwrap();
    let filler = disk.0.path().join("filler");
    std::fs::write(&filler, vec![0; 9 << 20]).unwrap_err();

    for number in 1..70_000 {
        store.add(&record(number), ROOT);
        if number % 20_000 == 0 {
            store.flush(record(number).time).unwrap_err();
        }
    }
    let refused = store.take_refused().map(|(_, count)| count);
    assert_eq!((refused, store.take_refused()[0]), ([70_000 - 65_536, 0], (Whose::Trusted, 0)));
    drop(store);
    // A crash now loses what has never been on disk, and nothing else.
    let mut store = Lanes::open(&dir, 64 << 20).unwrap();
    assert_eq!((store.take_complaints().len(), all_of(&dir, store.snapshot())), (0, vec![record(0)]));
    for number in 1..40_000 {
        store.add(&record(number), ROOT);
    }
    store.flush(record(0).time).unwrap_err();
    std::fs::remove_file(&filler).unwrap();
    store.flush(record(0).time).unwrap();
    drop(store);

    let mut store = Lanes::open(&dir, 64 << 20).unwrap();
    assert_eq!(store.take_complaints(), Vec::<String>::new());
    assert_eq!(all_of(&dir, store.snapshot()).len(), 40_000);
    assert_eq!(lanes::verify(&dir, &[]), Ok(1));
}
