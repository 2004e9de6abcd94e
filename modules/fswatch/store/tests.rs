use super::frames::WHOLE_TABLES;
use super::*;
use crate::codec::tests::object;
use crate::extended::ExtendedAttributes;
use proptest::prelude::*;
use vigie_files::recording::{Kind, Recording};

pub(super) fn id(sequence: u64) -> AlertId {
    AlertId { epoch: 7, sequence }
}

pub(super) fn files(count: u64) -> Vec<(PathBuf, Option<Object>)> {
    use proptest::strategy::ValueTree;
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    (0..count)
        .map(|number| {
            let object = object().new_tree(&mut runner).unwrap().current();
            (PathBuf::from(format!("/watched/{number}")), Some(object))
        })
        .collect()
}

pub(super) fn apply(state: &mut State, step: &Step<'_>) {
    for (path, object) in step.changes {
        match object {
            Some(object) => state.baseline.insert(path, object),
            None => _ = state.baseline.remove(path),
        }
    }
    for (id, text) in step.alerts {
        state.remember(*id, Arc::clone(text));
    }
    for (path, change) in step.unaccepted {
        state.unaccepted.insert(path.clone(), change.clone());
    }
    state.history = step.history;
}

pub(super) type Content = (Vec<(PathBuf, Object)>, Vec<(AlertId, Arc<str>)>, Vec<PathBuf>);

pub(super) fn content(state: &State) -> Content {
    (
        state.baseline.after(None, usize::MAX),
        state.pending.values().cloned().collect(),
        state.unaccepted.keys().cloned().collect(),
    )
}

/// A store with a snapshot and two steps.
fn filled(directory: &Path) -> State {
    let (mut store, opened) = Store::open(directory, b"host").unwrap();
    assert!(matches!(opened, Opened::New));
    let mut state = State::default();
    for (path, object) in files(5) {
        state.baseline.insert(&path, &object.unwrap());
    }
    state.learned.insert("recursive:/watched".to_owned());
    store.snapshot(&state).unwrap();
    let change = Unaccepted { event: "created".to_owned(), since: "2026-01-01T00:00:00Z".to_owned() };
    let first = Step {
        changes: &files(9)[5..],
        alerts: &[(id(1), "one".into()), (id(2), "two".into())],
        unaccepted: &[(PathBuf::from("/watched/5"), change)],
        ..Step::default()
    };
    apply(&mut state, &first);
    store.append(&mut state, &first).unwrap();
    let second = Step { changes: &[(PathBuf::from("/watched/1"), None)], ..Step::default() };
    apply(&mut state, &second);
    store.append(&mut state, &second).unwrap();
    state.acknowledge(id(1));
    store.acknowledged(&[id(1)]).unwrap();
    store.sync().unwrap();
    state
}

fn open(directory: &Path, host: &[u8]) -> Opened {
    Store::open(directory, host).unwrap().1
}

#[test]
fn what_was_written_is_there_in_the_next_life() {
    let directory = tempfile::tempdir().unwrap();
    let state = filled(directory.path());

    let Opened::Whole { state: read, last_alive } = open(directory.path(), b"host") else { panic!() };

    assert_eq!(content(&read), content(&state));
    assert_eq!((read.learned, read.history), (state.learned, state.history));
    assert!(last_alive.is_some());
    let mode = |name| {
        let metadata = fs::metadata(directory.path().join(name)).unwrap();
        std::os::unix::fs::PermissionsExt::mode(&metadata.permissions()) & 0o777
    };
    assert_eq!((mode("fswatch.baseline"), mode("fswatch.key")), (0o600, 0o600));
}

#[test]
fn a_snapshot_holds_what_snapshot_and_steps_held_and_is_smaller() {
    let directory = tempfile::tempdir().unwrap();
    filled(directory.path());
    let (mut store, opened) = Store::open(directory.path(), b"host").unwrap();
    let Opened::Whole { state, .. } = opened else { panic!() };
    let before = store.bytes();

    store.snapshot(&state).unwrap();

    let Opened::Whole { state: read, .. } = open(directory.path(), b"host") else { panic!() };
    assert_eq!(content(&read), content(&state));
    assert!(store.bytes() < before, "{} {before}", store.bytes());
}

/// One that an earlier version wrote: the same frames, but tables with whole values.
#[test]
fn a_snapshot_with_whole_values_is_read_and_gone_on_with() {
    let directory = tempfile::tempdir().unwrap();
    let value = vec![7; 4_000];
    let extended = ExtendedAttributes::new([(&b"user.long"[..], value.as_slice())]);
    let (path, object) = files(1).remove(0);
    let object = Object { extended, ..object.unwrap() };
    let mut state = State::default();
    state.baseline.insert(&path, &object);
    let (mut store, _) = Store::open(directory.path(), b"host").unwrap();
    store.snapshot(&state).unwrap();
    let content = fs::read(store.place()).unwrap();
    let mut old = Frames { chain: store.fresh.clone(), bytes: 0, to: MAGIC.to_vec() };
    let mut at = MAGIC.len();
    while at < content.len() {
        let length = u32::from_le_bytes(content[at..at + 4].try_into().unwrap()) as usize;
        let payload = &content[at + 5..at + 5 + length];
        match content[at + 4] {
            TABLES => {
                let mut tables = Vec::new();
                [1, object.device, 1, 1].into_iter().for_each(|number| put_number(&mut tables, number));
                put_bytes(&mut tables, b"user.long");
                put_bytes(&mut tables, &value);
                old.put(WHOLE_TABLES, &tables).unwrap();
            }
            kind => old.put(kind, payload).unwrap(),
        }
        at += 5 + length + SEAL_BYTES;
    }
    fs::write(store.place(), old.to).unwrap();

    let (mut store, opened) = Store::open(directory.path(), b"host").unwrap();
    let Opened::Whole { mut state, .. } = opened else { panic!("{opened:?}") };
    assert_eq!(state.baseline.get(&path), Some(object.clone()));
    let changes = [(PathBuf::from("/watched/more"), files(3).remove(2).1)];
    let step = Step { changes: &changes, ..Step::default() };
    apply(&mut state, &step);
    store.append(&mut state, &step).unwrap();

    let Opened::Whole { state: read, .. } = open(directory.path(), b"host") else { panic!() };
    assert_eq!(self::content(&read), self::content(&state));
}

#[test]
fn a_store_of_another_host_or_with_another_key_is_set_aside() {
    for change_key in [false, true] {
        let directory = tempfile::tempdir().unwrap();
        filled(directory.path());
        if change_key {
            fs::remove_file(directory.path().join("fswatch.key")).unwrap();
        }

        let opened = open(directory.path(), if change_key { b"host" } else { b"other" });

        let Opened::SetAside { why, kept_as, .. } = opened else { panic!("{opened:?}") };
        assert!(kept_as.exists() && !directory.path().join("fswatch.baseline").exists());
        assert_eq!(why.contains("another host"), !change_key, "{why}");
    }
}

/// Cut anywhere it holds one of the states that it went through, or is set aside; with a byte changed anywhere it
/// is set aside. It is never another state.
#[test]
fn damage_at_every_byte_is_noticed() {
    let directory = tempfile::tempdir().unwrap();
    let last = content(&filled(directory.path()));
    let path = directory.path().join("fswatch.baseline");
    let whole = fs::read(&path).unwrap();
    let secret = fs::read(directory.path().join("fswatch.key")).unwrap();
    let read = |bytes: &[u8]| {
        let identity: [u8; SEAL_BYTES] = whole[MAGIC.len() + 5..][..SEAL_BYTES].try_into().unwrap();
        read_frames(bytes, &mut Chain::new(&secret, b"host"), identity)
    };
    let mut states = 0;
    for at in 0..whole.len() {
        let mut damaged = whole.clone();
        damaged[at] ^= 1 << (at % 8);
        match read(&damaged) {
            Err(_) => {}
            // A longer length makes the last frame look torn: what is before it is what was.
            Ok((state, bytes, _)) => {
                assert!(content(&state) != last && bytes <= at as u64, "byte {at}");
            }
        }
        if let Ok((state, bytes, _)) = read(&whole[..at]) {
            assert!(bytes <= at as u64 && state.baseline.len() >= 5);
            states += usize::from(bytes == at as u64);
        }
    }
    assert_eq!(content(&read(&whole).unwrap().0), last);
    assert!(states >= 3, "{states}");
}

#[test]
fn what_a_power_failure_leaves_at_the_end_is_cut_off_and_writing_goes_on() {
    for tail in [&[0_u8; 700][..], &[9, 0, 0, 0, 4, 1][..]] {
        let directory = tempfile::tempdir().unwrap();
        let expected = content(&filled(directory.path()));
        let path = directory.path().join("fswatch.baseline");
        OpenOptions::new().append(true).open(&path).unwrap().write_all(tail).unwrap();

        let (mut store, opened) = Store::open(directory.path(), b"host").unwrap();
        let Opened::Whole { state, .. } = opened else { panic!("{opened:?}") };
        assert_eq!(content(&state), expected);
        store.acknowledged(&[id(2)]).unwrap();

        let Opened::Whole { state, .. } = open(directory.path(), b"host") else { panic!() };
        assert!(state.pending.is_empty());
    }
}

#[test]
fn a_full_disk_leaves_the_last_whole_state_and_a_snapshot_catches_up() {
    let directory = tempfile::tempdir().unwrap();
    let mut state = filled(directory.path());
    let (mut store, _) = Store::open(directory.path(), b"host").unwrap();
    let recording = Recording::start(directory.path());
    recording.fail_next(Kind::Write, 28);
    let step = Step { changes: &files(20)[9..], ..Step::default() };
    let before = content(&state);
    apply(&mut state, &step);

    assert!(store.append(&mut state, &step).is_err());
    assert!(store.wants_snapshot(false) && !store.is_whole());
    let Opened::Whole { state: old, .. } = open(directory.path(), b"host") else { panic!() };
    assert_eq!(content(&old), before);
    store.snapshot(&state).unwrap();

    let Opened::Whole { state: new, .. } = open(directory.path(), b"host") else { panic!() };
    assert_eq!(content(&new), content(&state));
}

#[test]
fn a_baseline_that_somebody_removed_is_missed() {
    let directory = tempfile::tempdir().unwrap();
    filled(directory.path());
    Store::mark_alive(directory.path()).unwrap();
    fs::remove_file(directory.path().join("fswatch.baseline")).unwrap();

    assert!(matches!(open(directory.path(), b"host"), Opened::Gone { last_alive: Some(_) }));
}

#[test]
fn the_time_of_the_last_heartbeat_is_known_to_the_next_life() {
    let directory = tempfile::tempdir().unwrap();
    filled(directory.path());
    Store::mark_alive(directory.path()).unwrap();
    let marked = fs::metadata(directory.path().join("fswatch.alive")).unwrap().modified().unwrap();

    let Opened::Whole { last_alive, .. } = open(directory.path(), b"host") else { panic!() };

    assert_eq!(last_alive, Some(marked));
}

proptest! {
    #[test]
    fn no_payload_makes_the_reader_panic(
        kind in 0..12_u8, payload in proptest::collection::vec(any::<u8>(), 0..100),
    ) {
        let _ = State::default().add(kind, &payload);
    }
}

#[test]
fn a_baseline_that_claims_to_be_longer_than_all_memory_is_read_as_far_as_it_has_frames() {
    let directory = tempfile::tempdir().unwrap();
    let lengthen = |bytes| {
        let file = OpenOptions::new().write(true).open(directory.path().join("fswatch.baseline")).unwrap();
        file.set_len(bytes).unwrap();
    };
    let state = filled(directory.path());
    lengthen(1 << 42);
    let (_, opened) = Store::open(directory.path(), b"host").unwrap();
    let Opened::Whole { state: read, .. } = opened else { panic!("{opened:?}") };
    assert_eq!(content(&read), content(&state), "its end is what a power failure leaves");

    fs::write(directory.path().join("fswatch.baseline"), "x").unwrap();
    lengthen(1 << 42);
    let (_, opened) = Store::open(directory.path(), b"host").unwrap();
    let Opened::SetAside { why, .. } = opened else { panic!("{opened:?}") };
    assert!(why.contains("does not start like a baseline"), "{why}");
    assert!(matches!(Store::open(directory.path(), b"host").unwrap().1, Opened::Gone { .. } | Opened::New));
}
