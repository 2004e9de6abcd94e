//! Segments that became one, and files beside them, as a crash or somebody else leaves them.

use std::fs;
use std::path::{Path, PathBuf};

use crate::chain::Head;
use crate::line::{Deleted, Line, Sealed};
use crate::tests::{Journal, LARGE, items, missing, seqs, temporary, told};
use crate::{Sizes, Writer, line, segment, verify};

const SIZES: Sizes = Sizes { segment_bytes: 8000, keep_segments: 10 };

/// A batch of a flood; now and then there is an alert of somebody else in it.
fn append(journal: &mut Journal, batch: usize) {
    let other = if batch.is_multiple_of(10) { "quiet" } else { "loud" };
    journal.append_of(&[("loud", "critical"), ("loud", "high"), (other, "critical")]);
}

/// Half-written files: what a crash leaves of those that were to take another one's place.
fn half_files(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    entries.filter(|path| path.extension().is_some_and(|extension| extension == "new")).collect()
}

fn copy(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

#[test]
fn half_files_of_a_kill_while_segments_become_one_are_seen_by_nobody_and_go() {
    let directory = temporary();
    let mut journal = Journal::open(directory.path(), SIZES);
    let mut batch = 0;
    while journal.writer.merged < 2 {
        append(&mut journal, batch);
        batch += 1;
    }
    journal.writer.step_bytes = 300;
    let mut kills = 0;
    for batch in 0..4000 {
        append(&mut journal, batch);
        let Some(half) = half_files(directory.path()).pop() else { continue };
        if batch % 7 != 0 || kills == 12 {
            continue;
        }
        kills += 1;
        let found = journal.items();
        let after = temporary();
        copy(directory.path(), after.path());
        let half = after.path().join(half.file_name().unwrap());
        let content = fs::read(&half).unwrap();
        fs::write(&half, &content[..content.len() / 2]).unwrap();
        for name in ["deleted.json", "high-water", "seen-ids.json", "identity"] {
            let content = fs::read(after.path().join(name)).unwrap();
            fs::write(after.path().join(format!("{name}.new")), &content[..content.len() / 2]).unwrap();
        }

        assert_eq!(items(after.path(), journal.writer.recorded()), found);
        let verification = verify(after.path(), None).unwrap();
        assert!(verification.is_whole(), "{verification:?}");
        let mut again = Journal::open(after.path(), SIZES);
        assert_eq!(again.writer.trouble(), None);
        assert_eq!(again.writer.recorded(), journal.writer.recorded());
        assert_eq!(again.items(), found);
        assert!(!half.exists());
        (0..200).for_each(|batch| append(&mut again, batch));
        let found = again.items();
        assert_eq!((missing(&found), told(&found)), (vec![], again.writer.deleted()));
        let stays = half_files(after.path());
        // Each goes with the next change of what it was to replace; of these two there is none.
        let never = ["high-water.new", "identity.new"].map(|name| after.path().join(name));
        assert!(
            stays.iter().all(|path| never.contains(path) || path.to_str().unwrap().contains("/alerts-")),
            "{stays:?}"
        );
    }
    assert_eq!(kills, 12);
}

#[test]
fn a_ledger_that_cannot_be_replaced_is_named_and_nothing_goes_without_a_note() {
    let directory = temporary();
    let mut journal = Journal::open(directory.path(), SIZES);
    (0..400).for_each(|batch| append(&mut journal, batch));
    let before = journal.writer.deleted();
    let half = directory.path().join("deleted.json.new");
    // Nothing replaces it as a file.
    fs::create_dir(&half).unwrap();

    (0..100).for_each(|batch| append(&mut journal, batch));

    let trouble = journal.writer.trouble().unwrap_or_default();
    assert!(trouble.contains("cannot write what was deleted"), "{trouble}");
    assert_eq!(journal.writer.deleted(), before);
    assert_eq!((missing(&journal.items()), told(&journal.items())), (vec![], before));
    fs::remove_dir(&half).unwrap();
    (0..100).for_each(|batch| append(&mut journal, batch));
    assert_eq!(journal.writer.trouble(), None);
    assert!(journal.writer.bytes() <= 8000 * 11, "{}", journal.writer.bytes());
    let found = journal.items();
    assert_eq!((missing(&found), told(&found)), (vec![], journal.writer.deleted()));
    assert_eq!(seqs(&found).len() as u64 + told(&found).iter().sum::<u64>(), journal.writer.recorded());
    assert!(verify(directory.path(), None).unwrap().is_whole());
}

/// Changes the line of a note, and seals it as we do.
fn sealed_anew(line: &str, change: impl FnOnce(&mut Deleted)) -> String {
    let Some(Sealed { line: Line::Deleted(mut note), seal: Some(seal) }) = line::read(line.as_bytes(), false)
    else {
        panic!("{line} is no note")
    };
    change(&mut note);
    let mut bytes = Vec::new();
    line::seal_value(&mut bytes, &note, seal.previous);
    String::from_utf8(bytes).unwrap().trim_end().to_owned()
}

/// The notes of what went from between merged segments are in their file only: whoever removes one, or has it stand for
/// less, for more or for another chain, with right checksums, is found by the proof.
#[test]
fn a_note_in_merged_segments_that_is_changed_or_removed_breaks_the_proof() {
    let directory = temporary();
    let mut journal = Journal::open(directory.path(), SIZES);
    let mut batch = 0;
    while journal.writer.merged < 8 {
        append(&mut journal, batch);
        batch += 1;
    }
    let recorded = journal.writer.recorded();
    drop(journal);
    let (mut tried, mut unnoticed) = (0, Vec::new());
    for name in segment::list(directory.path()).unwrap() {
        let path = name.path(directory.path());
        let text = fs::read_to_string(&path).unwrap();
        let is_note = |line: &&str| line.starts_with("{\"deleted\":") && line.contains("\"head\":");
        for note in text.lines().filter(is_note) {
            let changed = [
                String::new(),
                sealed_anew(note, |note| note.head = Some(Head::default())),
                sealed_anew(note, |note| note.deleted.1 -= 1),
                sealed_anew(note, |note| note.deleted.1 += 1),
                sealed_anew(note, |note| note.deleted.0 -= 1),
                sealed_anew(note, |note| note.link = note.link.map(|link| link ^ 1)),
            ];
            assert_eq!(sealed_anew(note, |_| {}), note);
            for (how, line) in changed.into_iter().enumerate() {
                let line = if line.is_empty() { line } else { line + "\n" };
                fs::write(&path, text.replace(&format!("{note}\n"), &line)).unwrap();
                let found = verify(directory.path(), Some(recorded)).unwrap();
                if found.is_whole() {
                    unnoticed.push(format!("{path:?}, change {how}: {note}"));
                }
                tried += 1;
            }
            fs::write(&path, &text).unwrap();
            assert!(verify(directory.path(), Some(recorded)).unwrap().is_whole());
        }
    }
    assert!(tried >= 100, "{tried}");
    assert!(unnoticed.is_empty(), "{unnoticed:#?}");
}

/// A segment that holds those after it as well, cut off where a later one begins: what was in it is missing.
#[test]
fn merged_segments_that_are_cut_off_where_one_began_are_missing_alerts() {
    let directory = temporary();
    let mut journal = Journal::open(directory.path(), SIZES);
    let mut batch = 0;
    while journal.writer.merged < 8 {
        append(&mut journal, batch);
        batch += 1;
    }
    let recorded = journal.writer.recorded();
    let before = seqs(&journal.items());
    drop(journal);
    let mut tried = 0;
    for name in segment::list(directory.path()).unwrap() {
        let path = name.path(directory.path());
        let text = fs::read_to_string(&path).unwrap();
        // Behind the commit lines in the middle, so that everything before is whole.
        let ends: Vec<usize> = text.match_indices("\n{\"seq\":").map(|(at, _)| at + 1).collect();
        let Some(&middle) = ends.get(ends.len() / 2).filter(|_| text.matches("\"quiet\"").count() > 2) else {
            continue;
        };
        fs::write(&path, &text[..middle]).unwrap();

        let found = items(directory.path(), recorded);

        let lost: u64 = missing(&found).iter().map(|(first, last)| last - first + 1).sum();
        let there = seqs(&found);
        assert!(lost > 0 && there.iter().all(|seq| before.contains(seq)), "{path:?}");
        assert!(!verify(directory.path(), Some(recorded)).unwrap().is_whole(), "{path:?}");
        fs::write(&path, &text).unwrap();
        tried += 1;
    }
    assert!(tried > 1, "{tried}");
}

#[test]
fn what_an_interrupted_retention_left_is_removed() {
    let directory = temporary();
    let mut journal = Journal::open(directory.path(), LARGE);
    journal.append_each(1);
    drop(journal);
    let left = [7, 8, 9].map(|first| segment::Name { first, part: 0 }.new_path(directory.path()));
    fs::write(&left[0], "half").unwrap();
    // It cannot be deleted as a file.
    fs::create_dir(&left[1]).unwrap();
    fs::write(&left[2], "half").unwrap();

    drop(Journal::open(directory.path(), LARGE));

    assert_eq!(left.map(|path| path.exists()), [false, true, false]);
}

#[test]
fn a_file_beside_the_segments_that_somebody_took_away_is_told_and_written_again() {
    for name in ["high-water", "identity"] {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(name);
        let is_whole = || verify(directory.path(), None).unwrap().is_whole();
        let mut journal = Journal::open(directory.path(), LARGE);
        journal.append_each(3);
        let before = fs::read(&path).unwrap();
        fs::remove_file(&path).unwrap();
        assert!(!is_whole(), "{name}");

        journal.writer.inspect_files();
        journal.writer.inspect_files();

        assert_eq!(journal.writer.take_taken_away(), [name]);
        assert!(is_whole(), "{name}");
        assert!(name != "identity" || fs::read(&path).unwrap() == before);
        drop(journal);
        fs::write(&path, "damaged").unwrap();
        assert!(!is_whole(), "{name}");
        let opened = |_| Writer::open(directory.path(), LARGE).unwrap().2.missing_files;
        assert_eq!([1, 2].map(opened), [vec![name], vec![]]);
        assert!(is_whole(), "{name}");
    }
}
