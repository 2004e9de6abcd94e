//! Room is made, and segments become one, while readers read and the power goes.

use std::fs;
use std::path::{Path, PathBuf};

use vigie_files::recording::{Kind, Recording};

use crate::ledger::Ledger;
use crate::retention_tests::critical;
use crate::tests::{
    ALL, Journal, MODULE, items, missing, segments, seqs, temporary, told, what_is_left_after_a_cut,
};
use crate::verify::verify_while;
use crate::{Item, Reader, Sizes, verify};

#[test]
fn what_a_flood_leaves_in_the_batches_of_others_takes_nobody_s_room() {
    let directory = temporary();
    let sizes = Sizes { segment_bytes: 4000, keep_segments: 12 };
    let mut journal = Journal::open(directory.path(), sizes);
    for _ in 0..40 {
        journal.append_of(&[
            ("loud", "critical"),
            ("quiet", "critical"),
            ("loud", "high"),
            ("loud", "critical"),
        ]);
    }
    for _ in 0..300 {
        journal.append_of(&[("loud", "critical"); 4]);
    }

    let left = critical(&journal.items()).into_iter().filter(|(module, _)| module == "quiet").count();

    assert_eq!(left, 40);
    assert!(journal.writer.bytes() <= 4000 * 12 + 1500, "{}", journal.writer.bytes());
    assert!(verify(directory.path(), None).unwrap().is_whole());
}

/// Batches of one share, the first of which holds an alert of another one.
fn flood(journal: &mut Journal, [loud, quiet]: [&str; 2], batches: usize) {
    journal.append_of(&[(loud, "critical"), (quiet, "critical"), (loud, "high")]);
    for _ in 1..batches {
        journal.append_of(&[(loud, "critical"); 4]);
    }
}

fn of_quiet(items: &[Item]) -> Vec<u64> {
    critical(items).into_iter().filter(|(module, _)| module == "quiet").map(|(_, seq)| seq).collect()
}

#[test]
fn segments_of_which_little_is_left_become_one_and_nothing_of_them_is_lost() {
    let sizes = Sizes { segment_bytes: 8000, keep_segments: 10 };
    for step_bytes in [300, 1 << 20] {
        let directory = temporary();
        let mut journal = Journal::open(directory.path(), sizes);
        journal.writer.step_bytes = step_bytes;
        // Readers that are anywhere when their segments become one.
        let mut readers: Vec<(Reader, Vec<Item>)> = Vec::new();
        for round in 0..35 {
            flood(&mut journal, ["loud", "quiet"], 10);
            if round % 5 == 0 {
                readers.push((Reader::new(directory.path(), 0), Vec::new()));
            }
            for (at, (reader, found)) in readers.iter_mut().enumerate() {
                let portion = crate::Portion { items: 2 * at + 1, bytes: usize::MAX };
                reader.read(journal.writer.recorded(), portion, found).unwrap();
            }
        }

        let found = journal.items();
        assert_eq!(of_quiet(&found).len(), 35);
        assert_eq!(missing(&found), []);
        assert!(journal.writer.merged > 5, "{}", journal.writer.merged);
        assert!(segments(directory.path()).len() <= 22, "{}", segments(directory.path()).len());
        let verification = verify(directory.path(), None).unwrap();
        assert!(verification.is_whole(), "{verification:?}");
        for (mut reader, mut read) in readers {
            reader.read(journal.writer.recorded(), ALL, &mut read).unwrap();
            assert!(read.iter().all(|item| !matches!(item, Item::Damaged(_))), "{read:?}");
            assert_eq!(missing(&read), []);
            assert_eq!(of_quiet(&read), of_quiet(&found));
        }
        let bytes = journal.writer.bytes();
        drop(journal);
        let again = Journal::open(directory.path(), sizes);
        assert_eq!(again.writer.bytes(), bytes);
        assert_eq!(again.items(), found);
    }
}

#[test]
fn a_power_cut_while_segments_become_one_loses_nothing() {
    for step_bytes in [700, 1 << 20] {
        let root = temporary();
        let sizes = Sizes { segment_bytes: 12_000, keep_segments: 2 };
        let recording = Recording::start(root.path());
        let mut journal = Journal::open(&root.path().join("journal"), sizes);
        journal.writer.step_bytes = step_bytes;
        let mut known = vec![(recording.changes(), 0)];
        let mut first = 0;
        for round in 0.. {
            match journal.writer.merged {
                0 => first = recording.changes(),
                1 => {}
                _ => break,
            }
            assert!(round < 20, "segments become one");
            flood(&mut journal, [MODULE, "watch:more"], 15);
            known.push((recording.changes(), journal.writer.recorded()));
        }
        let history = recording.finish();

        for cut in first..=history.len() {
            let acknowledged =
                known.iter().rev().find(|(changes, _)| *changes <= cut).map_or(0, |(_, seq)| *seq);
            for seed in [0, 3, 1001] {
                what_is_left_after_a_cut(&history, cut, seed + cut as u64, acknowledged, sizes).unwrap();
            }
        }
    }
}

#[test]
fn a_merge_that_fails_half_way_while_the_journal_goes_on_loses_nothing() {
    for (after, kind) in (0..24).flat_map(|after| [Kind::Any, Kind::Sync].map(|kind| (after, kind))) {
        let directory = temporary();
        let root = directory.path();
        let recording = Recording::start(root);
        let journal_directory = root.join("journal");
        let mut journal = Journal::open(&journal_directory, Sizes { segment_bytes: 4000, keep_segments: 10 });
        while journal.writer.merged == 0 {
            flood(&mut journal, ["loud", "quiet"], 5);
        }
        for _ in 0..25 {
            recording.fail_after(after, kind, 5);
            flood(&mut journal, ["loud", "quiet"], 5);
        }
        drop(recording);
        // What is counted and could not be done is done with the next segment.
        flood(&mut journal, ["loud", "quiet"], 10);

        let recorded = journal.writer.recorded();
        for is_opened_anew in [false, true] {
            if is_opened_anew {
                let sizes = Sizes { segment_bytes: 4000, keep_segments: 10 };
                drop(std::mem::replace(&mut journal, Journal::open(&journal_directory, sizes)));
            }
            let items = journal.items();
            assert_eq!(missing(&items), [], "change {after} failed");
            let deleted: u64 = journal.writer.deleted().iter().sum();
            assert_eq!(seqs(&items).len() as u64 + deleted, recorded, "change {after} failed");
            assert_eq!(told(&items), journal.writer.deleted(), "change {after} failed");
            let verification = verify(&journal_directory, Some(recorded)).unwrap();
            assert!(verification.is_whole(), "change {after} failed: {verification:?}");
        }
    }
}

#[test]
fn what_is_proved_while_segments_become_one_is_whole() {
    let directory = temporary();
    let sizes = Sizes { segment_bytes: 8000, keep_segments: 10 };
    let mut journal = Journal::open(directory.path(), sizes);
    while journal.writer.merged == 0 {
        flood(&mut journal, ["loud", "quiet"], 10);
    }
    let recorded = journal.writer.recorded();
    let before = journal.writer.merged;

    let verification =
        verify_while(directory.path(), Some(recorded), || flood(&mut journal, ["loud", "quiet"], 3)).unwrap();

    assert!(verification.is_whole(), "{verification:?}");
    assert!(verification.last >= recorded);
    assert!(journal.writer.merged > before + 2, "{}", journal.writer.merged);
}

/// Fills a journal until segments became one; the later one of them as it was before, and where it was.
fn merged_away(journal: &mut Journal, mut append: impl FnMut(&mut Journal, usize)) -> (PathBuf, Vec<u8>) {
    let content = |journal: &Journal| -> Vec<(PathBuf, Vec<u8>)> {
        let paths = segments(&journal.directory).into_iter();
        paths.map(|path| (path.clone(), fs::read(path).unwrap())).collect()
    };
    for batch in 0..1000 {
        let before = content(journal);
        append(journal, batch);
        if journal.writer.merged > 0 {
            let there = segments(&journal.directory);
            return before.into_iter().rfind(|(path, _)| !there.contains(path)).unwrap();
        }
    }
    panic!("no segments became one");
}

fn loud_and_quiet(journal: &mut Journal, batch: usize) {
    journal.append_of(&[
        ("loud", "critical"),
        ("loud", "high"),
        (["quiet", "loud"][usize::from(!batch.is_multiple_of(10))], "critical"),
    ]);
}

#[test]
fn a_segment_that_another_one_holds_as_well_is_read_once_and_goes() {
    let directory = temporary();
    let sizes = Sizes { segment_bytes: 8000, keep_segments: 10 };
    let mut journal = Journal::open(directory.path(), sizes);
    let (path, bytes) = merged_away(&mut journal, loud_and_quiet);
    let (found, recorded) = (journal.items(), journal.writer.recorded());
    drop(journal);

    fs::write(&path, bytes).unwrap();

    let verification = verify(directory.path(), Some(recorded)).unwrap();
    assert!(verification.is_whole(), "{verification:?}");
    assert_eq!(items(directory.path(), recorded), found);
    drop(Journal::open(directory.path(), sizes));
    assert!(!path.exists());
    assert_eq!(items(directory.path(), recorded), found);
}

#[test]
fn a_segment_whose_beginning_the_disk_failed_is_read_where_it_was_merged() {
    let directory = temporary();
    let recording = Recording::start(directory.path());
    let mut journal = Journal::open(directory.path(), Sizes { segment_bytes: 8000, keep_segments: 10 });
    let (path, bytes) = merged_away(&mut journal, |journal, batch| {
        if batch % 4 == 0 {
            recording.fail_next(Kind::Sync, 5);
        }
        loud_and_quiet(journal, batch);
    });
    assert!(
        bytes.starts_with(b"{\"segment\":") && bytes[..200].windows(12).any(|part| part == b"write_failed")
    );
    let (found, recorded) = (journal.items(), journal.writer.recorded());

    fs::write(&path, bytes).unwrap();

    assert_eq!(missing(&found), []);
    assert_eq!(items(directory.path(), recorded), found);
    let verification = verify(directory.path(), Some(recorded)).unwrap();
    assert!(verification.is_whole(), "{verification:?}");
}

#[test]
fn a_left_over_segment_that_cannot_be_deleted_keeps_no_journal_closed() {
    let directory = temporary();
    let sizes = Sizes { segment_bytes: 8000, keep_segments: 10 };
    let mut journal = Journal::open(directory.path(), sizes);
    let (path, _) = merged_away(&mut journal, loud_and_quiet);
    let holds = segments(directory.path()).into_iter().rfind(|segment| *segment < path).unwrap();
    let found = journal.items();
    drop(journal);
    // No system deletes it as a file.
    fs::create_dir(&path).unwrap();

    let mut journal = Journal::open(directory.path(), sizes);

    let is_named = |journal: &Journal| {
        journal.writer.trouble().is_some_and(|trouble| trouble.contains(path.to_str().unwrap()))
    };
    assert!(is_named(&journal), "{:?}", journal.writer.trouble());
    assert_eq!(journal.items(), found);
    let before = fs::read(&holds).unwrap();
    (0..400).for_each(|batch| loud_and_quiet(&mut journal, batch));
    assert!(is_named(&journal), "{:?}", journal.writer.trouble());
    assert_eq!(fs::read(&holds).unwrap(), before, "what would still be read in the other one stays");
    assert!(journal.writer.bytes() <= 8000 * 11, "{}", journal.writer.bytes());
    fs::remove_dir(&path).unwrap();
    (0..400).for_each(|batch| loud_and_quiet(&mut journal, batch));
    assert_eq!(journal.writer.trouble(), None);
    assert_ne!(fs::read(&holds).ok(), Some(before));
    assert_eq!(missing(&journal.items()), []);
    assert_eq!(told(&journal.items()), journal.writer.deleted());
}

/// What all files of a journal take, but for the small ones beside the segments.
fn bytes_on_disk(directory: &Path) -> u64 {
    segments(directory).iter().map(|path| fs::metadata(path).unwrap().len()).sum()
}

#[test]
fn what_a_left_over_segment_takes_is_counted() {
    let directory = temporary();
    let sizes = Sizes { segment_bytes: 8000, keep_segments: 10 };
    let mut journal = Journal::open(directory.path(), sizes);
    let (path, _) = merged_away(&mut journal, loud_and_quiet);
    drop(journal);
    // No system deletes it as a file, and it takes something.
    fs::create_dir(&path).unwrap();
    assert!(fs::symlink_metadata(&path).unwrap().len() > 0);

    let mut journal = Journal::open(directory.path(), sizes);

    for batch in 0..50 {
        assert_eq!(journal.writer.bytes(), bytes_on_disk(directory.path()));
        loud_and_quiet(&mut journal, batch);
    }
    assert!(path.exists() && bytes_on_disk(directory.path()) <= 8000 * 11);
}

#[test]
fn a_segment_that_cannot_be_read_is_named_and_the_others_make_room() {
    let directory = temporary();
    let sizes = Sizes { segment_bytes: 4000, keep_segments: 5 };
    let mut journal = Journal::open(directory.path(), sizes);
    journal.append_of(&[("quiet", "critical")]);
    while segments(directory.path()).len() < 4 {
        journal.append_of(&[("loud", "critical"); 3]);
    }
    let unreadable = segments(directory.path()).remove(1);
    let content = fs::read(&unreadable).unwrap();
    fs::remove_file(&unreadable).unwrap();
    fs::create_dir(&unreadable).unwrap();
    for opened_anew in [false, true] {
        if opened_anew {
            drop(std::mem::replace(&mut journal, Journal::open(directory.path(), sizes)));
        }

        (0..100).for_each(|_| journal.append_of(&[("loud", "critical"); 3]));

        let trouble = journal.writer.trouble().unwrap_or_default();
        assert!(trouble.contains(unreadable.to_str().unwrap()), "{trouble}");
        let on_disk: u64 =
            segments(directory.path()).iter().map(|path| fs::metadata(path).unwrap().len()).sum();
        assert!(on_disk <= 4000 * 6, "{on_disk}");
    }
    fs::remove_dir(&unreadable).unwrap();
    fs::write(&unreadable, content).unwrap();
    (0..100).for_each(|_| journal.append_of(&[("loud", "critical"); 3]));

    assert_eq!(journal.writer.trouble(), None);
    let items = journal.items();
    assert_eq!((missing(&items), of_quiet(&items)), (vec![], vec![1]));
    assert_eq!(told(&items), journal.writer.deleted());
}

#[test]
fn a_merge_whose_segment_somebody_deletes_leaves_no_half_file() {
    let directory = temporary();
    let unfinished = || -> Vec<PathBuf> {
        let entries = fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().path());
        entries.filter(|path| path.to_str().unwrap().ends_with("jsonl.new")).collect()
    };
    let mut journal = Journal::open(directory.path(), Sizes { segment_bytes: 8000, keep_segments: 10 });
    journal.writer.step_bytes = 300;
    let mut deleted = 0;
    for batch in 0..4000 {
        loud_and_quiet(&mut journal, batch);
        let new = unfinished();
        assert!(new.len() <= 1, "{new:?}");
        // The one after it, if they are to become one; it is found out when the first one is copied.
        if deleted < 20
            && let Some(merging) = new.first()
            && let paths = segments(directory.path())
            && paths.len() > 20
            && let Some(at) = paths.iter().position(|path| path.with_extension("jsonl.new") == *merging)
        {
            fs::remove_file(&paths[at + 1]).unwrap();
            deleted += 1;
        }
    }
    assert_eq!(deleted, 20);
    assert!(segments(directory.path()).len() <= 22, "{}", segments(directory.path()).len());
}

#[test]
fn segments_that_the_disk_did_not_merge_are_merged_later() {
    let directory = temporary();
    let recording = Recording::start(directory.path());
    let mut journal = Journal::open(directory.path(), Sizes { segment_bytes: 8000, keep_segments: 4 });
    for round in 0..60 {
        recording.fail_after(round % 9, Kind::Write, 28);
        flood(&mut journal, ["loud", "quiet"], 5);
    }
    let before = journal.writer.merged;
    for _ in 0..10 {
        flood(&mut journal, ["loud", "quiet"], 10);
    }

    assert!(journal.writer.merged > before);
    assert!(segments(directory.path()).len() <= 10, "{}", segments(directory.path()).len());
    assert_eq!(journal.writer.trouble(), None);
    assert_eq!(missing(&journal.items()), []);
}

/// What holds a segment as well is on disk before that goes, also when it is found out afterwards.
#[test]
fn a_power_cut_after_a_merge_that_failed_half_way_loses_nothing() {
    let sizes = Sizes { segment_bytes: 12_000, keep_segments: 2 };
    let mut failed_merges = 0;
    for failing in 0..30 {
        let root = temporary();
        let recording = Recording::start(root.path());
        let mut journal = Journal::open(&root.path().join("journal"), sizes);
        while journal.writer.merged == 0 {
            flood(&mut journal, [MODULE, "watch:more"], 15);
        }
        let mut known = vec![(recording.changes(), journal.writer.recorded())];
        let mut is_merge = false;
        recording.fail_after(2 * failing, Kind::SyncDirectory, 5);
        for batch in 0..20 {
            journal.append_of(&[([MODULE, "watch:more"][usize::from(batch % 10 == 0)], "critical"); 4]);
            known.push((recording.changes(), journal.writer.recorded()));
            is_merge |= journal.writer.trouble().is_some_and(|why| why.matches(".jsonl").count() == 2);
        }
        let history = recording.finish();
        if !is_merge {
            continue;
        }
        failed_merges += 1;
        for cut in known[0].0..=history.len() {
            let acknowledged =
                known.iter().rev().find(|(changes, _)| *changes <= cut).map_or(0, |(_, seq)| *seq);
            for seed in [0, 3] {
                what_is_left_after_a_cut(&history, cut, seed + cut as u64, acknowledged, sizes).unwrap();
            }
        }
    }
    assert!(failed_merges > 0);
}

#[test]
fn the_ledger_stays_small_however_long_a_flood_lasts_and_each_number_is_told_once() {
    let directory = temporary();
    let sizes = Sizes { segment_bytes: 16_000, keep_segments: 5 };
    let mut journal = Journal::open(directory.path(), sizes);
    // Readers that wait before what a range of the ledger tells when a segment tells it.
    let mut readers = Vec::new();
    let mut told_before = 0;
    for round in 0..100 {
        flood(&mut journal, ["loud", "quiet"], 40);
        let ranges = Ledger::load(directory.path()).unwrap().ranges();
        assert!(ranges <= 12, "{ranges} ranges after round {round}");
        if round % 20 == 10 {
            for item in journal.items() {
                let Item::Missing(missing) = item else { continue };
                let (mut reader, mut found) = (Reader::new(directory.path(), missing.first - 1), Vec::new());
                reader.read(missing.first, ALL, &mut found).unwrap();
                readers.push((reader, found));
            }
        }
        if round == 50 {
            let items = journal.items();
            told_before = items.iter().filter(|item| matches!(item, Item::Missing(_))).count();
        }
    }

    assert!(told_before > 12, "{told_before}");
    assert!(of_quiet(&journal.items()).len() > 20);
    for is_opened_anew in [false, true] {
        if is_opened_anew {
            drop(std::mem::replace(&mut journal, Journal::open(directory.path(), sizes)));
        }
        let items = journal.items();
        assert_eq!((missing(&items), told(&items)), (vec![], journal.writer.deleted()));
        let deleted: u64 = journal.writer.deleted().iter().sum();
        assert_eq!(seqs(&items).len() as u64 + deleted, journal.writer.recorded());
        let verification = verify(directory.path(), None).unwrap();
        assert!(verification.is_whole(), "{verification:?}");
    }
    for (mut reader, mut found) in readers {
        reader.read(journal.writer.recorded(), ALL, &mut found).unwrap();
        assert_eq!(missing(&found), []);
        assert!(found.iter().all(|item| !matches!(item, Item::Damaged(_))), "{found:?}");
    }
}

#[test]
fn what_was_given_up_is_told_after_a_restart_and_each_alert_of_it_once() {
    let directory = temporary();
    let sizes = Sizes { segment_bytes: 2000, keep_segments: 3 };
    let fill = |journal: &mut Journal| (0..30).for_each(|_| journal.append(&["critical"]));
    let mut journal = Journal::open(directory.path(), sizes);
    fill(&mut journal);
    drop(journal);
    let mut journal = Journal::open(directory.path(), sizes);
    let first = journal.writer.tell().unwrap();
    assert_eq!((journal.writer.tell(), journal.writer.has_untold()), (None, false));
    fill(&mut journal);
    // Nobody knows whether the alert that tells of it was recorded.
    drop(journal);

    let mut journal = Journal::open(directory.path(), sizes);
    let again = journal.writer.tell().unwrap();
    journal.writer.told();
    let second = journal.writer.tell().unwrap();
    journal.writer.told();
    journal.writer.settle();

    assert_eq!((&again, again.id()), (&first, first.id()));
    assert_eq!(second.first_seq, first.last_seq + 1);
    assert_eq!(first.total() + second.total(), journal.writer.deleted().iter().sum::<u64>());
    drop(journal);
    assert!(!Journal::open(directory.path(), sizes).writer.has_untold());
}

/// How long one append takes at the default limits while a flood fills the journal beside alerts of others. Run it in
/// release, on the disk that is asked about: `TMPDIR=… cargo test --release -p vigie-journal stalls -- --ignored
/// --nocapture`.
#[test]
#[ignore = "a measurement of minutes: it writes more than two GiB"]
fn how_long_an_append_stalls_at_the_limit() {
    let directory = tempfile::tempdir().unwrap();
    let sizes = Sizes { segment_bytes: 64 << 20, keep_segments: 16 };
    let mut journal = Journal::open(directory.path(), sizes);
    let mut took = Vec::new();
    let mut batch = 0;
    while journal.writer.recorded() < 9_000_000 {
        let (loud, quiet) = (("loud", ["critical", "high", "low"][batch % 3]), ("quiet", "critical"));
        let mut alerts = vec![loud; 1000];
        if batch % 20 == 0 {
            alerts[500] = quiet;
        }
        let sealed = journal.sealed(&alerts);
        let snapshot = journal.writer.needs_snapshot().then(|| journal.seen.snapshot());
        let begun = std::time::SystemTime::now();
        journal.writer.append(&sealed, snapshot).unwrap();
        took.push(begun.elapsed().unwrap().as_micros());
        batch += 1;
    }
    let full = took.len() / 2;
    for (when, times) in
        [("before the limit", &mut took[..full].to_vec()), ("at the limit", &mut took[full..].to_vec())]
    {
        times.sort_unstable();
        let at = |part: usize| times[(times.len() - 1) * part / 1000] / 1000;
        println!(
            "{when}: median {} ms, 99 % {} ms, 99.9 % {} ms, longest {} ms",
            at(500),
            at(990),
            at(999),
            at(1000)
        );
    }
    println!("{} bytes, {:?}", journal.writer.bytes(), journal.writer.deleted_by_module());
}
