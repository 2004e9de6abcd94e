//! The store after a power loss at every change of its files, and with a disk that fails.

use proptest::prelude::*;
use vigie_files::recording::{Chooser, Kind, Recording};

use super::tests::{Content, apply, content, files, id};
use super::*;

/// What a module does to its store.
#[derive(Debug, Clone)]
enum Act {
    Step(usize),
    Acknowledge(u64),
    Sync,
    Snapshot,
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let act = prop_oneof![
        4 => (0..30_usize).prop_map(Act::Step),
        1 => (0..30_u64).prop_map(Act::Acknowledge),
        2 => Just(Act::Sync),
        1 => Just(Act::Snapshot),
    ];
    proptest::collection::vec(act, 1..12)
}

/// A store with a snapshot of nothing.
fn begun(directory: &Path) -> (Store, State) {
    let (mut store, opened) = Store::open(directory, b"host").unwrap();
    assert!(matches!(opened, Opened::New), "{opened:?}");
    let state = State::default();
    store.snapshot(&state).unwrap();
    (store, state)
}

fn act(store: &mut Store, state: &mut State, act: &Act) -> io::Result<()> {
    match act {
        Act::Step(number) => {
            let all = files(31);
            let step = Step {
                changes: &all[*number..=*number],
                alerts: &[(id(*number as u64), "x".repeat(number * 40).into())],
                ..Step::default()
            };
            apply(state, &step);
            store.append(state, &step)
        }
        Act::Acknowledge(sequence) => {
            state.acknowledge(id(*sequence));
            store.acknowledged(&[id(*sequence)])
        }
        Act::Sync => store.sync(),
        Act::Snapshot => store.snapshot(state),
    }
}

fn read(directory: &Path) -> Content {
    match Store::open(directory, b"host").unwrap().1 {
        Opened::Whole { state, .. } => content(&state),
        other => panic!("{other:?}"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Whatever the disk kept of what was not synced, the store holds one of the states since the last sync.
    #[test]
    fn after_a_power_loss_at_any_change_the_store_holds_what_it_held_since_it_was_last_synced(
        acts in acts(), seed in any::<u64>(),
    ) {
        let directory = tempfile::tempdir().unwrap();
        let recording = Recording::start(directory.path());
        let (mut store, mut state) = begun(directory.path());
        // What is held, from which change on; and the oldest state that may come back.
        let mut held = vec![(recording.changes(), content(&state))];
        let mut safe = vec![(recording.changes(), 0)];
        for one in &acts {
            act(&mut store, &mut state, one).unwrap();
            held.push((recording.changes(), content(&state)));
            if matches!(one, Act::Sync | Act::Snapshot) {
                safe.push((recording.changes(), held.len() - 1));
            }
        }
        let history = recording.finish();

        for cut in safe[0].0..=history.len() {
            let oldest = safe.iter().rev().find(|(at, _)| *at <= cut).map_or(0, |(_, number)| *number);
            // The one under way may have been made already.
            let newest = held.iter().position(|(at, _)| *at > cut).unwrap_or(held.len() - 1);
            for seed in [0, 1, seed, seed ^ 2, seed ^ 4] {
                let after = tempfile::tempdir().unwrap();
                history.cut(cut, &mut Chooser::new(seed), after.path()).unwrap();

                let found = read(after.path());

                prop_assert!(held[oldest..=newest].iter().any(|(_, state)| *state == found), "cut {cut}, seed {seed}");
            }
        }
    }

    /// Whichever change fails, nothing that was held before is lost, and the next snapshot has everything.
    #[test]
    fn a_disk_that_fails_once_at_any_change_loses_nothing(acts in acts(), at in 0..40_usize, kind in 0..4_usize) {
        let directory = tempfile::tempdir().unwrap();
        let (mut store, mut state) = begun(directory.path());
        let recording = Recording::start(directory.path());
        recording.fail_after(at, [Kind::Any, Kind::Write, Kind::Sync, Kind::SyncDirectory][kind], 28);

        for one in &acts {
            // A snapshot that is not taken leaves what was there.
            if act(&mut store, &mut state, one).is_err() && !matches!(one, Act::Snapshot) {
                prop_assert!(store.wants_snapshot(true));
            }
        }
        drop(recording);
        if store.wants_snapshot(true) {
            store.snapshot(&state).unwrap();
        }

        prop_assert_eq!(read(directory.path()), content(&state));
    }
}

#[test]
fn a_sync_that_failed_is_not_forgotten() {
    let directory = tempfile::tempdir().unwrap();
    let (mut store, mut state) = begun(directory.path());
    act(&mut store, &mut state, &Act::Step(1)).unwrap();
    let recording = Recording::start(directory.path());
    recording.fail_next(Kind::Sync, 5);

    assert!(store.sync().is_err());

    // Written pages are lost when a sync fails, and the next one would say that all is well.
    assert!(store.wants_snapshot(true) && !store.is_whole());
    assert!(store.sync().is_err());
    drop(recording);
    store.snapshot(&state).unwrap();
    assert!(store.sync().is_ok() && store.is_whole());
}
