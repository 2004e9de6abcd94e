//! The journal over real files.

#![expect(clippy::disallowed_methods, reason = "a test may wait for a disk")]

use super::*;
use proptest::prelude::*;
use slog::Discard;
use vigie_config::model::LoggingSection;
use vigie_files::recording::{Chooser, Kind, Recording};
use vigie_journal::{Item, Portion};
use vigie_protocol::condition::{Condition, ConditionSeverity, StandingCondition, Subject};
use vigie_protocol::severity::Severity;

use crate::conditions::ModuleConditionFailed;
use crate::own_alerts::{OwnAlert, OwnAlerts};

fn journal(directory: &Path) -> AlertJournal {
    AlertJournal::open(directory, JournalSection::default(), &Logger::root(Discard, o!())).unwrap()
}

fn alerts(ids: &[&str]) -> StoreAlerts {
    let alerts = ids
        .iter()
        .map(|id| NewAlert { id: Some((*id).to_owned()), message: format!("alert {id}") })
        .collect::<Vec<_>>();
    StoreAlerts {
        module: "watch".parse().unwrap(),
        alerts: Arc::new(alerts.into()),
        about: None,
        last_words: false,
    }
}

fn ids_on_disk(directory: &Path) -> Vec<String> {
    let mut items = Vec::new();
    let portion = Portion { items: 100_000, bytes: usize::MAX };
    vigie_journal::Reader::new(&directory.join("journal"), 0).read(u64::MAX, portion, &mut items).unwrap();
    items
        .into_iter()
        .filter_map(|item| match item {
            Item::Alert(record) if record.module == "watch" => record.id,
            _ => None,
        })
        .collect()
}

#[actix_rt::test]
async fn an_answer_means_that_the_alerts_are_on_disk() {
    let directory = tempfile::tempdir().unwrap();
    let journal = journal(directory.path()).start();

    let new = journal.send(alerts(&["e-1", "e-2"])).await.unwrap().unwrap();

    assert_eq!(new, [true, true]);
    assert_eq!(ids_on_disk(directory.path()), ["e-1", "e-2"]);
}

#[actix_rt::test]
async fn an_alert_that_comes_again_is_answered_and_not_recorded_twice() {
    let directory = tempfile::tempdir().unwrap();
    let journal = journal(directory.path()).start();
    let (first, second) = futures_util::future::join(
        journal.send(alerts(&["e-1", "x"])),
        journal.send(alerts(&["x", "e-1", "e-2"])),
    )
    .await;

    let third = journal.send(alerts(&["e-2", "x"])).await.unwrap().unwrap();

    assert_eq!(first.unwrap().unwrap(), [true, true]);
    assert_eq!(second.unwrap().unwrap(), [false, false, true]);
    assert_eq!(third, [false, false]);
    assert_eq!(ids_on_disk(directory.path()), ["e-1", "x", "e-2"]);
    assert_eq!(journal.send(GetJournalStatus).await.unwrap().duplicates, 4);
}

#[actix_rt::test]
async fn alerts_wait_while_the_disk_takes_none_and_are_stored_when_it_does_again() {
    let directory = tempfile::tempdir().unwrap();
    let journal_dir = directory.path().join("journal");
    let journal = journal(directory.path()).start();
    // A file where the directory was: nothing can be written until it is gone.
    std::fs::remove_dir_all(&journal_dir).unwrap();
    std::fs::write(&journal_dir, "").unwrap();
    let waiting = actix_rt::spawn(journal.send(alerts(&["e-1"])));
    let error = loop {
        if let Some(error) = journal.send(GetJournalStatus).await.unwrap().error {
            break error;
        }
        tokio::task::yield_now().await;
    };
    assert!(!waiting.is_finished());
    let name = journal.send(RenameJournal { through: 0 }).await.unwrap();
    assert_eq!(name, None, "nobody waits for the disk");

    std::fs::remove_file(&journal_dir).unwrap();
    let new = waiting.await.unwrap().unwrap().unwrap();

    assert!(error.contains("cannot write alerts"), "{error}");
    assert_eq!(new, [true]);
    assert_eq!(ids_on_disk(directory.path()), ["e-1"]);
    assert_eq!(journal.send(GetJournalStatus).await.unwrap().error, None);
}

#[test]
fn a_disk_that_takes_nothing_keeps_no_agent_from_starting() {
    let directory = tempfile::tempdir().unwrap();
    drop(journal(directory.path()));
    let names = directory.path().join("journal/names.json");
    std::fs::remove_file(&names).ok();
    // Nothing can be written in its place.
    std::fs::create_dir(&names).unwrap();

    assert!(journal(directory.path()).moved.is_none());
}

#[actix_rt::test]
async fn a_module_that_dies_again_and_again_leaves_others_memory_for_their_last_words() {
    let directory = tempfile::tempdir().unwrap();
    let mut journal = journal(directory.path());
    journal.section.memory_bytes = 64 << 10;
    // The disk takes nothing: what comes waits.
    journal.writer = None;
    let journal = journal.start();
    let words = |module: &str| {
        let alert = NewAlert { id: None, message: "x".repeat(4000) };
        StoreAlerts {
            module: module.parse().unwrap(),
            alerts: Arc::new(vec![alert].into()),
            about: None,
            last_words: true,
        }
    };
    let (refusals, mut refused) = tokio::sync::mpsc::unbounded_channel();
    let store = |module: &str| {
        let (refusals, storing) = (refusals.clone(), journal.send(words(module)));
        actix_rt::spawn(async move {
            if let Ok(Err(refusal)) = storing.await {
                refusals.send(refusal).unwrap();
            }
        });
        journal.send(GetJournalStatus)
    };
    for _ in 0..16 {
        store("loud").await.unwrap();
    }
    let taken = journal.send(GetJournalStatus).await.unwrap().pending;

    let pending = store("quiet").await.unwrap().pending;

    let AlertsRefused::MemoryFull { own_bytes, limit, .. } = refused.recv().await.unwrap();
    assert!((limit / 3..=limit * 2 / 3).contains(&own_bytes), "{own_bytes} of {limit}");
    assert!((7..=9).contains(&taken), "{taken}");
    assert_eq!(pending, taken + 1, "the other module's alert waits with the rest");
}

#[actix_rt::test]
async fn deletions_are_told_at_once_then_ever_more_rarely() {
    tokio::time::pause();
    let mut telling = inspection::Telling::default();
    let mut told = Vec::new();
    for second in 0..24 * 3600 {
        if telling.wait().is_zero() {
            telling.tell();
            told.push(second);
        }
        tokio::time::advance(Duration::from_secs(1)).await;
    }

    assert_eq!(told[..4], [0, 1, 3, 7]);
    assert!((30..40).contains(&told.len()), "{} alerts in a day", told.len());
    assert!(told.last().is_some_and(|last| last + 3600 >= 24 * 3600), "to the end");
}

/// Alerts of the agent itself that are recorded.
fn own_alerts(directory: &Path) -> Vec<String> {
    let mut items = Vec::new();
    let portion = Portion { items: 1000, bytes: 1 << 20 };
    vigie_journal::Reader::new(&directory.join("journal"), 0).read(u64::MAX, portion, &mut items).unwrap();
    let own = items.into_iter().filter_map(|item| match item {
        Item::Alert(record) if record.module == OWN_NAME => Some(record.message),
        _ => None,
    });
    own.collect()
}

#[actix_rt::test]
async fn deletions_that_no_alert_told_before_the_agent_was_killed_are_told_at_the_next_start_and_once() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("journal");
    let sizes = Sizes { segment_bytes: 4000, keep_segments: 4 };
    let (mut writer, mut seen, _) = Writer::open(&path, sizes).unwrap();
    while writer.deleted() == [0; 4] {
        let mut draft = Draft::default();
        draft.push_text(
            writer.recorded() + 1,
            "2026-01-02T03:04:05Z",
            "loud",
            None,
            r#"{"severity":"high"}"#,
        );
        let snapshot = writer.needs_snapshot().then(|| seen.snapshot());
        writer.append(&vigie_journal::SealedBatch::of(&draft, writer.place()), snapshot).unwrap();
    }
    let deleted = writer.deleted()[2];
    drop(writer);

    for _ in 0..2 {
        let section = JournalSection { segment_bytes: 4000, keep_segments: 4, ..JournalSection::default() };
        let log = Logger::root(Discard, o!());
        let journal = AlertJournal::open(directory.path(), section, &log).unwrap().start();
        journal.send(alerts(&["e-1"])).await.unwrap().unwrap();
        // It is killed: nobody waits until everything is in order.
        drop(journal);

        let told = own_alerts(directory.path());
        assert_eq!(told.len(), 1, "{told:?}");
        assert!(
            told[0].contains("alerts_deleted") && told[0].contains(&format!("{deleted} of loud")),
            "{told:?}"
        );
    }
}

#[actix_rt::test]
async fn what_the_agent_tells_about_a_module_has_room_of_its_own() {
    let directory = tempfile::tempdir().unwrap();
    let journal = journal(directory.path()).start();
    let agent_log = vigie_log::AgentLog::open(&LoggingSection::default()).unwrap();
    let own = OwnAlerts::new(&Logger::root(Discard, o!()), agent_log, journal.clone()).start();
    let condition = Condition {
        name: "blind".to_owned(),
        severity: ConditionSeverity::Failed,
        since: String::new(),
        detail: String::new(),
    };
    let about = Subject::Module("watch".parse().unwrap());
    let mut recorded = journal.send(GetJournalView).await.unwrap().recorded;

    own.send(ModuleConditionFailed { standing: StandingCondition { about, condition } }).await.unwrap();
    own.send(OwnAlert { severity: Severity::High, text: "of itself".to_owned() }).await.unwrap();

    recorded.wait_for(|recorded| *recorded == 2).await.unwrap();
    let segment = std::fs::read_dir(directory.path().join("journal"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| path.extension().is_some_and(|extension| extension == "jsonl"))
        .unwrap();
    let text = std::fs::read_to_string(segment).unwrap();
    assert_eq!(text.matches(r#""module":"agent","share":"agent:watch","message":"#).count(), 1, "{text}");
    assert_eq!(text.matches(r#""module":"agent","message":"#).count(), 1, "{text}");
}

/// Alerts with ids from `first` on.
fn many(first: usize, count: usize, bytes: usize) -> StoreAlerts {
    let alert = |id: usize| NewAlert { id: Some(format!("e-{id}")), message: "x".repeat(bytes) };
    let all: Vec<_> = (first..first + count).map(alert).collect();
    StoreAlerts { alerts: Arc::new(all.into()), ..alerts(&[]) }
}

#[actix_rt::test]
async fn what_comes_while_the_disk_takes_nothing_goes_to_it_in_its_order_and_in_one_batch() {
    let directory = tempfile::tempdir().unwrap();
    let journal_dir = directory.path().join("journal");
    let journal = journal(directory.path()).start();
    std::fs::remove_dir_all(&journal_dir).unwrap();
    std::fs::write(&journal_dir, "").unwrap();
    let mut waiting = vec![actix_rt::spawn(journal.send(many(1, 1, 10)))];
    while journal.send(GetJournalStatus).await.unwrap().error.is_none() {
        tokio::task::yield_now().await;
    }
    for part in 0..20 {
        waiting.push(actix_rt::spawn(journal.send(many(2 + part * 1000, 1000, 100))));
    }
    // What waits is known as well.
    waiting.push(actix_rt::spawn(journal.send(many(1, 3000, 100))));
    while journal.send(GetJournalStatus).await.unwrap().pending < 20_001 {
        tokio::task::yield_now().await;
    }
    assert!(waiting.iter().all(|one| !one.is_finished()));

    std::fs::remove_file(&journal_dir).unwrap();

    for (part, one) in waiting.into_iter().enumerate() {
        let new = one.await.unwrap().unwrap().unwrap();
        assert!(new.iter().all(|new| *new == (part < 21)), "{part}");
    }
    let ids = ids_on_disk(directory.path());
    assert!(ids.iter().eq((1..=20_001).map(|id| format!("e-{id}")).collect::<Vec<_>>().iter()));
    let found = vigie_journal::verify(&journal_dir, None).unwrap();
    assert_eq!((found.missing, found.broken, found.proved_batches), (0, 0, 2), "{found:?}");
}

/// Sends alerts in parts while changes of files fail, cuts the power after any of them, and looks at what is left.
async fn power_cut(
    parts: &[(usize, bool, bool)],
    fail: Option<(usize, usize)>,
    seeds: &[u64],
) -> Result<(), TestCaseError> {
    tokio::time::pause();
    let directory = tempfile::tempdir().unwrap();
    let recording = std::rc::Rc::new(Recording::start(directory.path()));
    let section = JournalSection { segment_bytes: 100_000, keep_segments: 100, ..JournalSection::default() };
    let log = Logger::root(Discard, o!());
    let journal = AlertJournal::open(directory.path(), section, &log).unwrap().start();
    if let Some((after, kind)) = fail {
        recording.fail_after(after, [Kind::Any, Kind::Write, Kind::Sync][kind], 5);
    }
    let mut next = 1;
    let mut storing = Vec::new();
    for &(count, is_large, waits) in parts {
        let stored = journal.send(many(next, count, if is_large { 30_000 } else { 10 }));
        next += count;
        let (recording, last) = (recording.clone(), next - 1);
        let stored = actix_rt::spawn(async move {
            let new = stored.await.unwrap().unwrap();
            assert!(new.iter().all(|new| *new));
            (recording.changes(), last)
        });
        if waits {
            tokio::task::yield_now().await;
        }
        storing.push(stored);
    }
    let mut known = Vec::new();
    for stored in storing {
        known.push(stored.await.unwrap());
    }
    journal.send(FlushJournal).await.unwrap();
    drop(journal);
    let history = std::rc::Rc::into_inner(recording).expect("nobody stores any more").finish();

    for (at, &seed) in seeds.iter().enumerate() {
        let cut = if at == 0 { history.len() } else { usize::try_from(seed).unwrap() % (history.len() + 1) };
        let acknowledged = known.iter().filter(|(changes, _)| *changes <= cut).map(|(_, last)| *last).max();
        let after = tempfile::tempdir().unwrap();
        history.cut(cut, &mut Chooser::new(seed % 7 + seed % 2 * 1000), after.path()).unwrap();
        let path = after.path().join("journal");
        let (writer, seen, _) =
            Writer::open(&path, Sizes { segment_bytes: 1 << 20, keep_segments: 100 }).unwrap();
        let ids = ids_on_disk(after.path());
        prop_assert!(
            ids.len() >= acknowledged.unwrap_or(0),
            "{} of {:?}, cut {}",
            ids.len(),
            acknowledged,
            cut
        );
        for (number, id) in (1..).zip(&ids) {
            prop_assert_eq!(id, &format!("e-{number}"));
            prop_assert!(seen.contains("watch", id.as_str()));
        }
        let behind = format!("e-{}", ids.len() + 1);
        prop_assert!(!seen.contains("watch", behind.as_str()));
        drop(writer);
        let verification = vigie_journal::verify(&path, None).unwrap();
        prop_assert!(verification.is_whole(), "{:?}", verification);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    /// Whatever comes while something is written, and whichever change of a file fails or is the last one before
    /// the power goes: what was acknowledged is there, once and in its order, and the chain is whole.
    #[test]
    fn a_power_cut_loses_nothing_that_the_journal_answered(
        parts in proptest::collection::vec((1usize..5, any::<bool>(), any::<bool>()), 1..15),
        fail in prop::option::of((0usize..40, 0usize..3)),
        seeds in proptest::collection::vec(any::<u64>(), 5),
    ) {
        work_threads::here::set(Some(seeds[0]));
        let result = actix_rt::System::new().block_on(power_cut(&parts, fail, &seeds));
        work_threads::here::set(None);
        result?;
    }
}
