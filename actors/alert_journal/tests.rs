//! The journal over real files.

#![expect(clippy::disallowed_methods, reason = "a test may wait for a disk")]

use super::*;
use slog::Discard;
use vigie_journal::{Item, Portion};

fn journal(directory: &Path) -> AlertJournal {
    AlertJournal::open(directory, JournalSection::default(), &Logger::root(Discard, o!())).unwrap()
}

fn alerts(ids: &[&str]) -> StoreAlerts {
    let alerts = ids
        .iter()
        .map(|id| NewAlert { id: Some((*id).to_owned()), message: format!("alert {id}") })
        .collect::<Vec<_>>();
    StoreAlerts { module: "watch".parse().unwrap(), alerts: Arc::new(alerts.into()), last_words: false }
}

fn ids_on_disk(directory: &Path) -> Vec<String> {
    let mut items = Vec::new();
    let portion = Portion { items: 1000, bytes: 1 << 20 };
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

    std::fs::remove_file(&journal_dir).unwrap();
    let new = waiting.await.unwrap().unwrap().unwrap();

    assert!(error.contains("cannot write alerts"), "{error}");
    assert_eq!(new, [true]);
    assert_eq!(ids_on_disk(directory.path()), ["e-1"]);
    assert_eq!(journal.send(GetJournalStatus).await.unwrap().error, None);
}
