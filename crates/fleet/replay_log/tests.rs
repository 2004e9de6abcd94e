//! Nothing that was begun is begun again: over restarts, torn writes, full disks and clocks that are set back.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use proptest::prelude::*;
use vigie_files::recording::{Chooser, Kind as Changes, Recording};

use super::*;

const NOW: i64 = 1_800_000_000;
const HOUR: i64 = 3600;

fn id(number: usize) -> ActionId {
    let mut bytes = [7; ID_BYTES];
    bytes[..8].copy_from_slice(&(number as u64).to_be_bytes());
    ActionId::from_random(bytes)
}

struct Place {
    _directory: tempfile::TempDir,
    path: PathBuf,
}

fn place() -> Place {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("fleet").join("replay.log");
    Place { _directory: directory, path }
}

fn open(path: &Path) -> ReplayLog {
    ReplayLog::open(path, NOW).unwrap()
}

fn unanswered(log: &ReplayLog) -> BTreeSet<ActionId> {
    log.unanswered().collect()
}

#[test]
fn what_was_begun_is_known_after_a_restart() {
    let Place { path, _directory } = place();
    let mut log = open(&path);
    log.begin(&id(1), NOW + HOUR, NOW).unwrap();
    log.begin(&id(2), NOW + HOUR, NOW).unwrap();
    log.answered(&id(1)).unwrap();
    log.answered(&id(1)).unwrap();
    log.answered(&id(9)).unwrap();
    assert!(matches!(log.begin(&id(1), NOW + HOUR, NOW), Err(ReplayError::Seen(_))));

    for _ in 0..2 {
        let mut log = open(&path);
        assert!(log.has_seen(&id(1), NOW + HOUR) && log.has_seen(&id(2), NOW + HOUR));
        assert!(!log.has_seen(&id(3), NOW + HOUR));
        assert_eq!((log.len(), log.is_empty()), (2, false));
        assert_eq!(unanswered(&log), BTreeSet::from([id(2)]));
        assert!(matches!(log.begin(&id(2), NOW + HOUR, NOW), Err(ReplayError::Seen(_))));
    }
    assert_eq!(fs::metadata(&path).unwrap().len(), 4 * RECORD_BYTES as u64);
    let mode = std::os::unix::fs::MetadataExt::mode(&fs::metadata(&path).unwrap());
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn a_file_that_ends_at_any_byte_keeps_all_that_was_acknowledged() {
    let Place { path, _directory } = place();
    let mut log = open(&path);
    // Which were acknowledged, and which of them answered, when the file had that length.
    let mut acknowledged = vec![(RECORD_BYTES, BTreeSet::new(), BTreeSet::new())];
    for number in 0..12 {
        let (_, mut begun, mut answered) = acknowledged.last().unwrap().clone();
        if number % 3 == 2 {
            log.answered(&id(number - 1)).unwrap();
            answered.insert(id(number - 1));
        } else {
            log.begin(&id(number), NOW + HOUR, NOW).unwrap();
            begun.insert(id(number));
        }
        acknowledged.push((fs::metadata(&path).unwrap().len() as usize, begun, answered));
    }
    let whole = fs::read(&path).unwrap();

    for end in 0..=whole.len() {
        for torn_to_garbage in [false, true] {
            let mut bytes = whole[..end].to_vec();
            if torn_to_garbage {
                // The length was written, the content was not.
                bytes.resize(end.next_multiple_of(RECORD_BYTES), 0);
            }
            fs::write(&path, &bytes).unwrap();
            if end < RECORD_BYTES {
                assert!(matches!(ReplayLog::open(&path, NOW), Err(ReplayError::Damaged { offset: 0, .. })));
                continue;
            }
            let (length, begun, answered) = acknowledged.iter().rfind(|(length, ..)| *length <= end).unwrap();

            let mut log = open(&path);

            assert_eq!(unanswered(&log), begun.difference(answered).cloned().collect());
            assert!(begun.iter().all(|id| log.has_seen(id, NOW + HOUR)));
            assert_eq!(log.len(), begun.len());
            assert_eq!(fs::metadata(&path).unwrap().len(), *length as u64);
            log.begin(&id(99), NOW + HOUR, NOW).unwrap();
            assert!(open(&path).has_seen(&id(99), NOW + HOUR));
        }
    }
}

#[test]
fn damage_before_the_end_is_reported_with_its_place() {
    let Place { path, _directory } = place();
    let mut log = open(&path);
    for number in 0..3 {
        log.begin(&id(number), NOW + HOUR, NOW).unwrap();
    }
    let whole = fs::read(&path).unwrap();

    for at in 0..whole.len() - RECORD_BYTES {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x10;
        fs::write(&path, &bytes).unwrap();

        let error = ReplayLog::open(&path, NOW).unwrap_err();

        let expected = (at / RECORD_BYTES * RECORD_BYTES) as u64;
        assert!(matches!(error, ReplayError::Damaged { offset, .. } if offset == expected), "{at}: {error}");
        assert_eq!(fs::read(&path).unwrap(), bytes);
    }
    // Only one record can be torn.
    let mut bytes = whole.clone();
    bytes[3 * RECORD_BYTES] ^= 1;
    bytes.push(0);
    fs::write(&path, &bytes).unwrap();
    assert!(matches!(ReplayLog::open(&path, NOW), Err(ReplayError::Damaged { .. })));
}

#[test]
fn an_id_is_forgotten_only_when_it_has_expired_for_an_hour_and_was_answered() {
    let Place { path, _directory } = place();
    let mut log = open(&path);
    let late = NOW + HOUR + KEEP_SECONDS;
    for number in 0..3 {
        log.begin(&id(number), NOW + HOUR, NOW).unwrap();
    }
    log.begin(&id(3), NOW + 2 * HOUR, NOW).unwrap();
    for number in [0, 1, 3] {
        log.answered(&id(number)).unwrap();
    }

    log.compact(late).unwrap();
    assert_eq!(log.len(), 4);
    log.compact(late + 1).unwrap();

    for mut log in [log, open(&path)] {
        assert_eq!(log.len(), 2);
        assert_eq!(unanswered(&log), BTreeSet::from([id(2)]));
        assert!(log.has_seen(&id(3), NOW + 2 * HOUR));
        // The clock is set back: what was forgotten does not come to life, nor anything that ended before.
        assert!(matches!(log.begin(&id(0), NOW + HOUR, NOW), Err(ReplayError::Seen(_))));
        assert!(log.has_seen(&id(50), NOW + HOUR) && !log.has_seen(&id(50), NOW + HOUR + 1));
    }
    let mut log = open(&path);
    log.begin(&id(4), NOW + HOUR + 1, NOW).unwrap();
    assert!(open(&path).has_seen(&id(4), NOW + HOUR + 1));
}

#[test]
fn the_file_is_written_anew_when_half_of_it_is_of_no_use() {
    let Place { path, _directory } = place();
    let mut log = open(&path);
    for number in 0..600 {
        log.begin(&id(number), NOW, NOW).unwrap();
        log.answered(&id(number)).unwrap();
    }
    let before = fs::metadata(&path).unwrap().len();

    log.begin(&id(1000), NOW + 3 * HOUR, NOW + 2 * HOUR).unwrap();

    assert_eq!(log.len(), 1);
    assert!(fs::metadata(&path).unwrap().len() < before / 100);
    let log = open(&path);
    assert!(log.has_seen(&id(1000), NOW + 3 * HOUR) && log.has_seen(&id(5), NOW));
    assert!(!path.with_extension("log.new").exists());
}

#[test]
fn a_crash_while_it_is_written_anew_leaves_the_old_file() {
    let Place { path, _directory } = place();
    let mut log = open(&path);
    log.begin(&id(1), NOW + HOUR, NOW).unwrap();
    for half_written in [&b""[..], b"half", &[0; 40]] {
        fs::write(path.with_extension("log.new"), half_written).unwrap();
        assert!(open(&path).has_seen(&id(1), NOW + HOUR));
    }
    log.compact(NOW).unwrap();
    assert!(open(&path).has_seen(&id(1), NOW + HOUR));
}

#[test]
fn a_full_log_refuses_and_forgets_nothing_early() {
    let Place { path, _directory } = place();
    let mut log = ReplayLog::open_with(&path, NOW, 10).unwrap();
    for number in 0..10 {
        log.begin(&id(number), NOW + HOUR, NOW).unwrap();
        log.answered(&id(number)).unwrap();
    }
    for now in [NOW, NOW + HOUR + KEEP_SECONDS] {
        assert!(matches!(log.begin(&id(10), NOW + 9 * HOUR, now), Err(ReplayError::Full { .. })));
    }
    assert!((0..10).all(|number| log.has_seen(&id(number), NOW + HOUR)));
    log.begin(&id(10), NOW + 9 * HOUR, NOW + HOUR + KEEP_SECONDS + 1).unwrap();
    assert_eq!(log.len(), 1);
}

#[test]
fn a_disk_that_takes_nothing_begins_nothing() {
    let Place { path, _directory } = place();
    let mut log = open(&path);
    log.begin(&id(1), NOW + HOUR, NOW).unwrap();
    // Every write fails with ENOSPC; cutting it off fails too.
    let recording = Recording::start(path.parent().unwrap());
    recording.fail_all(Some(28));
    assert!(matches!(log.begin(&id(2), NOW + HOUR, NOW), Err(ReplayError::Io { what: "write to", .. })));
    assert!(!log.has_seen(&id(2), NOW + HOUR));
    assert!(matches!(log.begin(&id(2), NOW + HOUR, NOW), Err(ReplayError::Broken { .. })));
    recording.fail_all(None);

    open(&path).begin(&id(2), NOW + HOUR, NOW).unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    /// What was begun before the power went is never begun again, and what is found is never damaged.
    #[test]
    fn after_a_power_loss_at_any_change_nothing_is_begun_twice(
        acts in proptest::collection::vec((0..6_usize, any::<bool>()), 1..14),
        fails in proptest::option::of((0..20_usize, 0..3_usize)),
        seed in any::<u64>(),
    ) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("replay.log");
        let recording = Recording::start(directory.path());
        let mut log = open(&path);
        let start = recording.changes();
        if let Some((after, kind)) = fails {
            recording.fail_after(after, [Changes::Any, Changes::Write, Changes::Sync][kind], 5);
        }
        // Ids, each from the change on after which its beginning and its answer were confirmed.
        let (mut begun, mut answered) = (Vec::new(), Vec::new());
        for (number, is_answer) in &acts {
            if log.broken {
                log = match ReplayLog::open(&path, NOW) {
                    Ok(log) => log,
                    Err(ReplayError::Io { .. }) => continue,
                    Err(error) => panic!("{error}"),
                };
            }
            if *is_answer && log.answered(&id(*number)).is_ok() {
                answered.push((recording.changes(), *number));
            } else if log.begin(&id(*number), NOW + HOUR, NOW).is_ok() {
                begun.push((recording.changes(), *number));
            }
        }
        let history = recording.finish();

        for cut in start..=history.len() {
            for seed in [0, 1, seed, seed ^ 2] {
                let after = tempfile::tempdir().unwrap();
                history.cut(cut, &mut Chooser::new(seed), after.path()).unwrap();

                let log = open(&after.path().join("replay.log"));

                for (_, number) in begun.iter().filter(|(at, _)| *at <= cut) {
                    prop_assert!(log.has_seen(&id(*number), NOW + HOUR), "cut {cut}, seed {seed}");
                }
                let unanswered: BTreeSet<ActionId> = log.unanswered().collect();
                for (at, number) in &answered {
                    let was_begun = begun.iter().any(|(begun, same)| same == number && begun <= at);
                    prop_assert!(*at > cut || !was_begun || !unanswered.contains(&id(*number)));
                }
            }
        }
    }
}

#[test]
fn what_is_no_replay_log_is_left_alone() {
    let Place { path, _directory } = place();
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    for foreign in [&b""[..], b"hello", &[1; 320]] {
        fs::write(&path, foreign).unwrap();
        assert!(matches!(ReplayLog::open(&path, NOW), Err(ReplayError::Damaged { offset: 0, .. })));
        assert_eq!(fs::read(&path).unwrap(), foreign);
    }
    File::create(&path).unwrap().set_len(MAX_FILE_BYTES + 1).unwrap();
    assert!(matches!(ReplayLog::open(&path, NOW), Err(ReplayError::Io { what: "read", .. })));
}

/// Names the log to a process of this test that is going to be killed.
const CHILD: &str = "VIGIE_REPLAY_LOG_OF_CHILD";

/// Not a test by itself: begins actions and says so, until it is killed.
#[test]
#[ignore = "a child of the test below"]
fn child_that_begins_actions_until_it_is_killed() {
    let path = std::env::var(CHILD).unwrap();
    let mut log = open(Path::new(&path));
    let first = log.len();
    // The harness has begun a line.
    println!();
    for number in first.. {
        log.begin(&id(number), NOW + HOUR, NOW).unwrap();
        println!("begun {number} .");
    }
}

#[test]
fn a_process_that_is_killed_has_begun_nothing_that_is_not_known() {
    let Place { path, _directory } = place();
    let mut known = 0;
    for round in 1..=5 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["replay_log::tests::child_that_begins", "--ignored", "--nocapture", "--test-threads=1"])
            .env(CHILD, &path)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
        let mut begun: Vec<String> =
            lines.by_ref().filter(|line| line.starts_with("begun")).take(20 * round).collect();
        child.kill().unwrap();
        begun.extend(lines.filter(|line| line.starts_with("begun")));
        child.wait().unwrap();

        let log = open(&path);
        for line in &begun {
            // The last line can be cut.
            if let Some(number) = line.strip_prefix("begun ").and_then(|rest| rest.strip_suffix(" .")) {
                assert!(log.has_seen(&id(number.parse().unwrap()), NOW + HOUR), "{line}");
            }
        }
        // One more at most: on disk, but not told any more.
        assert!(
            (known + begun.len()..=known + begun.len() + 1).contains(&log.len()),
            "{known} {}",
            log.len()
        );
        known = log.len();
    }
    assert!(known >= 300);
}

#[derive(Debug, Clone)]
enum Step {
    Begin(usize, i64),
    Answer(usize),
    Reopen,
    Compact,
    Clock(i64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (0..20_usize, -5 * HOUR..5 * HOUR).prop_map(|(number, after)| Step::Begin(number, after)),
        3 => (0..20_usize).prop_map(Step::Answer),
        1 => Just(Step::Reopen),
        1 => Just(Step::Compact),
        2 => (-50 * HOUR..50 * HOUR).prop_map(Step::Clock),
    ];
    prop::collection::vec(step, 1..40)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn whatever_happens_and_whatever_the_clock_says_nothing_is_begun_twice(steps in steps()) {
        let Place { path, _directory } = place();
        let (mut now, mut log) = (NOW, open(&path));
        let (mut begun, mut answered) = (BTreeSet::new(), BTreeSet::new());
        for step in steps {
            match step {
                Step::Clock(difference) => now = NOW + difference,
                Step::Reopen => log = ReplayLog::open(&path, now).unwrap(),
                Step::Compact => log.compact(now).unwrap(),
                Step::Begin(number, after) => {
                    let not_after = NOW + after;
                    // Both are signed: an action has one end, so the end is a part of its id here.
                    let action = id(number * 1_000_000 + usize::try_from(after + 5 * HOUR).unwrap());
                    let first = begun.insert(action.clone());
                    match log.begin(&action, not_after, now) {
                        Ok(()) => prop_assert!(first),
                        // Refused although it is new: only behind the latest that was forgotten.
                        Err(_) if first => {
                            prop_assert!(not_after <= log.forgotten_until);
                            begun.remove(&action);
                        }
                        Err(_) => {}
                    }
                }
                Step::Answer(nth) => {
                    if let Some(action) = begun.iter().nth(nth) {
                        log.answered(action).unwrap();
                        answered.insert(action.clone());
                    }
                }
            }
            prop_assert_eq!(unanswered(&log), begun.difference(&answered).cloned().collect());
        }
    }
}
