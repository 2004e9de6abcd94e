//! The journal as a whole: written, damaged, cut off, and read again.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use tempfile::TempDir;
use vigie_files::recording::{Chooser, History, Kind, Recording};

use crate::segment;
use crate::{
    AppendError, Cause, DamageKind, Draft, Item, OpenBatch, Portion, Reader, SealedBatch, SeenIds, Sizes,
    Why, Writer, start_of_last, verify,
};

pub(crate) const MODULE: &str = "watch";

pub(crate) const ALL: Portion = Portion { items: usize::MAX / 2, bytes: usize::MAX };

pub(crate) const LARGE: Sizes = Sizes { segment_bytes: 1 << 30, keep_segments: 4 };

/// A journal with the ids that it has recorded, as the agent holds it.
pub(crate) struct Journal {
    pub(crate) directory: PathBuf,
    pub(crate) writer: Writer,
    pub(crate) seen: SeenIds,
    /// Numbers that were acknowledged.
    pub(crate) acknowledged: Vec<u64>,
}

impl Journal {
    pub(crate) fn open(directory: &Path, sizes: Sizes) -> Self {
        let (writer, seen, _) = Writer::open(directory, sizes).unwrap();
        Self { directory: directory.to_owned(), writer, seen, acknowledged: Vec::new() }
    }

    /// One batch of alerts of these severities, tried as often as the agent does that has nothing else to do.
    pub(crate) fn append(&mut self, severities: &[&str]) {
        self.try_append(severities, 5).unwrap();
    }

    fn try_append(&mut self, severities: &[&str], attempts: usize) -> Result<(), AppendError> {
        let alerts: Vec<_> = severities.iter().map(|severity| (MODULE, *severity)).collect();
        self.try_append_of(&alerts, attempts)
    }

    /// One batch of alerts of these shares and severities.
    pub(crate) fn append_of(&mut self, alerts: &[(&str, &str)]) {
        self.try_append_of(alerts, 5).unwrap();
    }

    fn try_append_of(&mut self, alerts: &[(&str, &str)], attempts: usize) -> Result<(), AppendError> {
        self.write(&self.sealed(alerts), attempts)
    }

    /// Batches each of which is sealed, in parts, before the one before it is written. `wrote` is called after each.
    pub(crate) fn append_ahead(&mut self, batches: &[Vec<(&str, &str)>], mut wrote: impl FnMut(&Self)) {
        let (mut place, mut next) = (self.writer.place(), self.writer.recorded() + 1);
        let mut ahead = None;
        for alerts in batches {
            let mut batch = OpenBatch::new(place, Vec::new());
            for part in alerts.chunks(3) {
                batch.add(&draft_from(next, part));
                next += part.len() as u64;
            }
            let batch = batch.end();
            place = batch.place();
            if let Some(before) = ahead.replace(batch) {
                self.write(&before, 5).unwrap();
                wrote(self);
            }
        }
        if let Some(last) = ahead {
            self.write(&last, 5).unwrap();
            wrote(self);
        }
    }

    /// Tries to write a batch so often.
    pub(crate) fn write(&mut self, batch: &SealedBatch, attempts: usize) -> Result<(), AppendError> {
        let first = self.writer.recorded() + 1;
        let mut result = Ok(());
        for _ in 0..attempts {
            let snapshot = self.writer.needs_snapshot().then(|| self.seen.snapshot());
            result = self.writer.append(batch, snapshot);
            if result.is_ok() {
                for seq in first..=self.writer.recorded() {
                    self.seen.insert(MODULE, &format!("e-{seq}"));
                    self.acknowledged.push(seq);
                }
                break;
            }
        }
        result
    }

    /// A batch that is not written.
    pub(crate) fn sealed(&self, alerts: &[(&str, &str)]) -> SealedBatch {
        SealedBatch::of(&draft_from(self.writer.recorded() + 1, alerts), self.writer.place())
    }

    pub(crate) fn append_each(&mut self, count: usize) {
        for _ in 0..count {
            self.append(&["low"]);
        }
    }

    pub(crate) fn items(&self) -> Vec<Item> {
        items(&self.directory, self.writer.recorded())
    }
}

/// Alerts of these shares and severities, with numbers from `first` on.
fn draft_from(first: u64, alerts: &[(&str, &str)]) -> Draft {
    let mut draft = Draft::default();
    for (seq, (share, severity)) in (first..).zip(alerts) {
        let text = serde_json::json!({ "severity": severity, "alert": format!("step{seq}") }).to_string();
        let json = |text: &str| serde_json::to_string(text).unwrap();
        let module = crate::line::module_of(share);
        let share = (module != *share).then_some(*share);
        let id = json(&format!("e-{seq}"));
        let source = draft.source("2026-01-02T03:04:05Z", module, share);
        draft.push(&source, seq, Some(&id), &json(&text));
    }
    draft
}

pub(crate) fn items(directory: &Path, through: u64) -> Vec<Item> {
    let mut items = Vec::new();
    Reader::new(directory, 0).read(through, ALL, &mut items).unwrap();
    items
}

pub(crate) fn seqs(items: &[Item]) -> Vec<u64> {
    items
        .iter()
        .filter_map(|item| match item {
            Item::Alert(record) => {
                assert!(record.message.contains(&format!("step{}\"", record.seq)), "{record:?}");
                Some(record.seq)
            }
            _ => None,
        })
        .collect()
}

/// Ranges that are missing without having been deleted.
pub(crate) fn missing(items: &[Item]) -> Vec<(u64, u64)> {
    items
        .iter()
        .filter_map(|item| match item {
            Item::Missing(missing) if missing.is_damage() => Some((missing.first, missing.last)),
            _ => None,
        })
        .collect()
}

/// How many alerts of each severity are said to be deleted.
pub(crate) fn told(items: &[Item]) -> crate::Counts {
    let mut sum = [0; 4];
    for item in items {
        if let Item::Missing(crate::Missing { why: Cause::Deleted(counts), .. }) = item {
            sum.iter_mut().zip(counts).for_each(|(sum, count)| *sum += count);
        }
    }
    sum
}

pub(crate) fn segments(directory: &Path) -> Vec<PathBuf> {
    segment::list(directory).unwrap().into_iter().map(|name| name.path(directory)).collect()
}

/// In memory where that can be: what a real disk does is not asked here, and thousands of syncs would take minutes.
pub(crate) fn temporary() -> TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { TempDir::new_in(memory) } else { TempDir::new() }.unwrap()
}

#[test]
fn what_was_recorded_is_read_back_after_a_restart_and_proved() {
    let directory = temporary();
    let mut journal = Journal::open(directory.path(), LARGE);
    journal.append(&["low", "critical", "high"]);
    journal.append(&["medium"]);
    let head = journal.writer.head();
    drop(journal);

    let (mut writer, seen, recovery) = Writer::open(directory.path(), LARGE).unwrap();

    assert_eq!((writer.recorded(), writer.head()), (4, head.clone()));
    assert_eq!(recovery, crate::Recovery::default());
    assert!(seen.contains(MODULE, "e-4") && !seen.contains(MODULE, "e-5"));
    assert_eq!(seqs(&items(directory.path(), u64::MAX)), [1, 2, 3, 4]);
    let verification = verify(directory.path(), None).unwrap();
    assert!(verification.is_whole(), "{verification:?}");
    assert_eq!((verification.proved_batches, verification.head), (2, head));
    assert_eq!(segments(directory.path()).len(), 1);
    assert!(writer.take_incidents().is_empty());
}

#[test]
fn a_reader_follows_over_segments_in_any_portions() {
    let directory = temporary();
    let sizes = Sizes { segment_bytes: 2000, keep_segments: 1000 };
    let mut journal = Journal::open(directory.path(), sizes);
    let mut reader = Reader::new(directory.path(), 3);
    let mut found = Vec::new();
    for round in 1..=20 {
        journal.append_each(3);
        let portion = Portion { items: round % 4 + 1, bytes: 400 };
        loop {
            let before = found.len();
            reader.read(journal.writer.recorded(), portion, &mut found).unwrap();
            if found.len() == before {
                break;
            }
        }
    }

    assert_eq!(seqs(&found), (4..=60).collect::<Vec<_>>());
    assert_eq!(found.len(), 57);
    assert!(segments(directory.path()).len() > 5);
    for (count, expected) in [(1, 59), (5, 55), (60, 0), (100, 0)] {
        assert_eq!(crate::start_of_last(directory.path(), 60, count, |_| true).unwrap(), expected);
    }
    assert!(verify(directory.path(), None).unwrap().is_whole());
}

#[test]
fn truncation_while_running_begins_a_new_segment_and_loses_no_later_alert() {
    for (keep, lost) in [(0, (1, 3)), (700, (2, 3))] {
        let directory = temporary();
        let mut journal = Journal::open(directory.path(), LARGE);
        journal.append_each(3);
        let path = segments(directory.path()).remove(0);
        let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
        file.set_len(keep).unwrap();

        journal.append_each(2);

        let items = journal.items();
        assert_eq!(missing(&items), [lost], "{items:?}");
        assert!(seqs(&items).ends_with(&[4, 5]));
        assert!(!fs::read(&path).unwrap().contains(&0));
        let incidents = journal.writer.take_incidents();
        assert_eq!(incidents.iter().map(|i| (i.why, i.after)).collect::<Vec<_>>(), [(Why::Resized, 3)]);
        drop(journal);
        let mut again = Journal::open(directory.path(), LARGE);
        again.append_each(1);
        assert!(seqs(&again.items()).ends_with(&[4, 5, 6]));
        assert!(again.seen.contains(MODULE, "e-3"), "ids of lost alerts stay known");
        assert!(!verify(directory.path(), None).unwrap().is_whole());
    }
}

#[test]
fn deletion_and_replacement_while_running_begin_a_new_segment() {
    for how in ["delete", "replace", "directory"] {
        let outer = temporary();
        let directory = outer.path().join("journal");
        let mut journal = Journal::open(&directory, LARGE);
        journal.append_each(3);
        let path = segments(&directory).remove(0);
        match how {
            "delete" => fs::remove_file(&path).unwrap(),
            "replace" => {
                let copy = directory.join("copy");
                fs::copy(&path, &copy).unwrap();
                fs::rename(copy, &path).unwrap();
            }
            _ => fs::remove_dir_all(&directory).unwrap(),
        }

        journal.append_each(2);

        let items = journal.items();
        assert!(seqs(&items).ends_with(&[4, 5]), "{how}: {items:?}");
        if how == "replace" {
            assert_eq!(missing(&items), []);
        } else {
            assert_eq!(missing(&items), [(1, 3)]);
        }
        assert_eq!(journal.writer.take_incidents().len(), 1);
    }
}

#[test]
fn numbers_go_on_when_all_segments_are_gone_and_it_is_known_how_many_alerts_went() {
    for empty in [true, false] {
        let directory = temporary();
        let mut journal = Journal::open(directory.path(), LARGE);
        journal.append_each(45);
        drop(journal);
        for path in segments(directory.path()) {
            if empty {
                fs::write(path, "").unwrap();
            } else {
                fs::remove_file(path).unwrap();
            }
        }
        fs::remove_file(directory.path().join("seen-ids.json")).unwrap();

        let (writer, _, recovery) = Writer::open(directory.path(), LARGE).unwrap();
        assert_eq!((writer.recorded(), recovery.missing_at_end), (45, 45));
        drop(writer);
        let mut journal = Journal::open(directory.path(), LARGE);
        journal.append_each(1);

        let items = journal.items();
        assert_eq!((seqs(&items), missing(&items)), (vec![46], vec![(1, 45)]));
        let Item::Missing(missing) = &items[0] else { panic!("{items:?}") };
        assert!(missing.to_string().starts_with("45 alerts between 0 and 46 are missing here"), "{missing}");
    }
}

#[test]
fn a_name_alone_does_not_move_the_numbers() {
    let directory = temporary();
    let mut journal = Journal::open(directory.path(), LARGE);
    journal.append_each(2);
    drop(journal);
    let bogus = segment::Name { first: 1 << 61, part: 0 }.path(directory.path());
    fs::write(&bogus, "").unwrap();

    let mut journal = Journal::open(directory.path(), LARGE);
    journal.append_each(1);

    assert_eq!(journal.writer.recorded(), 3);
}

/// The records of a journal of version 1.
pub(crate) fn old_journal(directory: &Path, first: u64, last: u64) {
    let lines: String = (first..=last)
        .map(|seq| {
            format!(
                "{{\"seq\":{seq},\"time\":\"2026-01-02T03:04:05Z\",\"module\":\"{MODULE}\",\"id\":\"e-{seq}\",\
                 \"message\":\"{{\\\"severity\\\":\\\"high\\\",\\\"alert\\\":\\\"step{seq}\\\"}}\"}}\n"
            )
        })
        .collect();
    fs::write(segment::Name { first, part: 0 }.path(directory), lines).unwrap();
}

#[test]
fn an_old_journal_is_read_and_goes_on() {
    let directory = temporary();
    old_journal(directory.path(), 41, 45);
    let path = segments(directory.path()).remove(0);
    let half = fs::read(&path).unwrap();
    fs::write(&path, [half.as_slice(), br#"{"seq":46,"ti"#].concat()).unwrap();

    let mut journal = Journal::open(directory.path(), LARGE);
    assert!(journal.seen.contains(MODULE, "e-43"));
    journal.append_each(2);

    let items = journal.items();
    assert_eq!(seqs(&items), [41, 42, 43, 44, 45, 46, 47]);
    assert_eq!(missing(&items), [], "{items:?}");
    assert!(matches!(&items[0], Item::Missing(m) if m.why == Cause::Deleted([0; 4]) && m.last == 40));
    let verification = verify(directory.path(), None).unwrap();
    assert!(verification.is_whole(), "{verification:?}");
    assert_eq!((verification.unproved_alerts, verification.proved_batches), (5, 2));
}

#[test]
fn after_a_failed_sync_the_batch_is_written_again_to_a_new_segment() {
    let directory = temporary();
    let recording = Recording::start(directory.path());
    let mut journal = Journal::open(directory.path(), LARGE);
    journal.append_each(2);
    // Write, then sync: the second of the two changes.
    recording.fail_next(Kind::Sync, 5);
    assert!(matches!(journal.try_append(&["high", "low"], 1), Err(AppendError::Disk(_))));

    journal.append(&["high", "low"]);
    journal.append_each(1);
    drop(recording);

    let items = journal.items();
    assert_eq!(seqs(&items), [1, 2, 3, 4, 5]);
    assert_eq!(items.len(), 5, "{items:?}");
    assert_eq!(segments(directory.path()).len(), 2);
    assert_eq!(journal.writer.take_incidents()[0].why, Why::WriteFailed);
    let verification = verify(directory.path(), None).unwrap();
    assert!(verification.is_whole(), "{verification:?}");
}

#[test]
fn a_batch_that_does_not_follow_what_is_recorded_is_refused() {
    let directory = temporary();
    let mut journal = Journal::open(directory.path(), LARGE);
    journal.append_each(2);
    let batch = journal.sealed(&[(MODULE, "low")]);
    journal.write(&batch, 5).unwrap();

    let again = journal.write(&batch, 5);

    assert!(matches!(again, Err(AppendError::OutOfOrder { after: 2, newest: 3 })), "{again:?}");
    assert_eq!(seqs(&journal.items()), [1, 2, 3]);
    assert!(verify(directory.path(), None).unwrap().is_whole());
}

#[test]
fn a_disk_that_was_full_costs_nothing() {
    let directory = temporary();
    let recording = Recording::start(directory.path());
    let mut journal = Journal::open(directory.path(), LARGE);
    journal.append_each(2);
    for kind in [Kind::Write, Kind::Any, Kind::SyncDirectory, Kind::Sync] {
        recording.fail_next(kind, 28);
        journal.try_append(&["low"], 1).ok();
        journal.append(&["low"]);
    }
    drop(recording);

    let items = journal.items();
    assert_eq!(seqs(&items), (1..=journal.writer.recorded()).collect::<Vec<_>>());
    assert_eq!(missing(&items), []);
    assert!(verify(directory.path(), None).unwrap().is_whole());
}

#[test]
fn a_changed_record_with_a_right_checksum_is_found() {
    let directory = temporary();
    let mut journal = Journal::open(directory.path(), LARGE);
    journal.append_each(3);
    let path = segments(directory.path()).remove(0);
    let text = fs::read_to_string(&path).unwrap();
    let changed: Vec<u8> = text
        .lines()
        .flat_map(|line| {
            let mut bytes = line.as_bytes().to_vec();
            if line.contains("step2") {
                let seal = crate::line::check(&bytes).unwrap();
                let body = line.replace("step2", "Step2");
                bytes = body.as_bytes()[..body.find(r#","p":"#).unwrap()].to_vec();
                crate::line::seal(&mut bytes, 0, seal.previous);
                bytes.pop();
            }
            bytes.push(b'\n');
            bytes
        })
        .collect();
    fs::write(&path, changed).unwrap();

    let items = journal.items();
    let verification = verify(directory.path(), None).unwrap();

    assert!(
        items
            .iter()
            .any(|item| matches!(item, Item::Damaged(d) if d.kind == DamageKind::Link && d.after == 2))
    );
    assert_eq!(items.iter().filter(|item| matches!(item, Item::Alert(_))).count(), 3);
    assert_eq!(verification.broken, 2, "{verification:?}");
}

/// A journal of three segments, and how many alerts are in it.
fn three_segments() -> (TempDir, u64) {
    let directory = temporary();
    let mut journal = Journal::open(directory.path(), Sizes { segment_bytes: 2500, keep_segments: 100 });
    for batch in 0..12 {
        journal.append(if batch % 3 == 0 { &["low", "high"] } else { &["medium"] });
    }
    assert_eq!(segments(directory.path()).len(), 3);
    (directory, journal.writer.recorded())
}

/// Flips a bit of what three segments hold, at a place chosen by their length, and looks at what readers, the proof and
/// the next writer make of it.
fn flip(place: impl FnOnce(u64) -> u64, bit: u8) -> Result<(), TestCaseError> {
    let (directory, recorded) = three_segments();
    let paths = segments(directory.path());
    let sizes: Vec<u64> = paths.iter().map(|path| fs::metadata(path).unwrap().len()).collect();
    let mut place = place(sizes.iter().sum());
    let mut index = 0;
    while place >= sizes[index] {
        place -= sizes[index];
        index += 1;
    }
    let file = fs::OpenOptions::new().read(true).write(true).open(&paths[index]).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, place).unwrap();
    file.write_all_at(&[byte[0] ^ (1 << bit)], place).unwrap();

    let before = items(directory.path(), recorded);
    let verification = verify(directory.path(), None).unwrap();
    let (_, _, recovery) = Writer::open(directory.path(), LARGE).unwrap();
    let mut journal = Journal::open(directory.path(), LARGE);
    journal.append_each(1);
    let after = journal.items();

    prop_assert!(!verification.is_whole());
    prop_assert_eq!(journal.writer.recorded(), recorded + 1);
    for (items, recorded) in [(before, recorded), (after, recorded + 1)] {
        let there = seqs(&items);
        let lost = missing(&items);
        prop_assert!(there.len() as u64 + 1 >= recorded, "{:?}", lost);
        let counted: u64 = lost.iter().map(|(first, last)| last - first + 1).sum();
        prop_assert_eq!(there.len() as u64 + counted, recorded);
    }
    if index == 2 && recovery.missing_at_end == 0 && recovery.cut_bytes == 0 {
        prop_assert!(recovery.damaged > 0);
    }
    Ok(())
}

#[test]
fn a_segment_that_lost_its_end_before_one_that_lost_everything_is_read_once() {
    let (directory, recorded) = three_segments();
    let paths = segments(directory.path());
    let text = fs::read_to_string(&paths[0]).unwrap();
    let last = text.rfind("{\"seq\":").unwrap();
    fs::write(&paths[0], [&text[..last], "X", &text[last + 1..]].concat()).unwrap();
    fs::write(&paths[1], "").unwrap();

    let found = items(directory.path(), recorded);

    let there = seqs(&found).len() as u64;
    let lost: u64 = missing(&found).iter().map(|(first, last)| last - first + 1).sum();
    assert!(there > 2 && lost > 2, "{found:?}");
    assert_eq!(there + lost, recorded);
    assert!(!verify(directory.path(), None).unwrap().is_whole());
}

#[test]
fn a_flipped_bit_in_the_very_last_line_feed_is_told() {
    for bit in 0..8 {
        flip(|length| length - 1, bit).unwrap();
    }
}

/// What is on disk after a power cut: every acknowledged alert is there or counted as deleted, none is there that was
/// not written, no number is given twice, an id is known exactly when its alert is there, and nothing is called damaged
/// or missing.
pub(crate) fn what_is_left_after_a_cut(
    history: &History,
    cut: usize,
    seed: u64,
    acknowledged: u64,
    sizes: Sizes,
) -> Result<(), TestCaseError> {
    let after = temporary();
    history.cut(cut, &mut Chooser::new(seed % 7 + seed % 2 * 1000), after.path()).unwrap();
    let directory = after.path().join("journal");
    let mut journal = Journal::open(&directory, sizes);

    let items = items(&directory, journal.writer.recorded());
    let there = seqs(&items);
    prop_assert_eq!(missing(&items), [], "cut {} of {}", cut, history.len());
    prop_assert!(items.iter().all(|item| !matches!(item, Item::Damaged(_))), "{:?}", items);
    prop_assert!(journal.writer.recorded() >= acknowledged);
    let all: BTreeSet<u64> = there.iter().copied().collect();
    for seq in 1..=journal.writer.recorded() {
        let deleted =
            items.iter().any(|item| matches!(item, Item::Missing(m) if m.first <= seq && seq <= m.last));
        prop_assert!(all.contains(&seq) || deleted, "alert {} of {}", seq, acknowledged);
        let id = format!("e-{seq}");
        prop_assert!(journal.seen.contains(MODULE, &id), "{}", id);
    }
    let next = format!("e-{}", journal.writer.recorded() + 1);
    prop_assert!(!journal.seen.contains(MODULE, &next), "{}", next);
    journal.append_each(2);
    let deleted: u64 = journal.writer.deleted().iter().sum();
    let there = seqs(&journal.items()).len() as u64;
    prop_assert_eq!(there + deleted, journal.writer.recorded(), "each is there or counted, and once");
    prop_assert_eq!(told(&journal.items()), journal.writer.deleted(), "cut {}", cut);
    let verification = verify(&directory, None).unwrap();
    prop_assert!(verification.is_whole(), "{:?}", verification);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    /// One flipped bit anywhere costs at most one alert, hides no other, is told to who reads, and found by the proof.
    #[test]
    fn a_flipped_bit_costs_at_most_one_alert_and_is_told(place in any::<prop::sample::Index>(), bit in 0u8..8) {
        flip(|length| place.index(usize::try_from(length).unwrap()) as u64, bit)?;
    }

    /// Whatever is done to the files, reading and opening neither panic nor invent an alert, and numbers never go back.
    #[test]
    fn any_damage_is_survived(
        damages in proptest::collection::vec(
            (any::<prop::sample::Index>(), any::<prop::sample::Index>(), 0u8..4, proptest::collection::vec(any::<u8>(), 0..600)),
            1..5,
        ),
    ) {
        let (directory, recorded) = three_segments();
        for (file, place, how, bytes) in damages {
            let paths = segments(directory.path());
            let Some(path) = paths.get(file.index(paths.len().max(1))) else { continue };
            let mut content = fs::read(path).unwrap();
            let place = place.index(content.len() + 1);
            match how {
                0 => content.truncate(place),
                1 => content.splice(place..place, bytes).for_each(drop),
                2 => {
                    let end = (place + bytes.len()).min(content.len());
                    content[place..end].copy_from_slice(&bytes[..end - place]);
                }
                _ => content.resize(content.len() + bytes.len(), 0),
            }
            fs::write(path, content).unwrap();
        }

        items(directory.path(), recorded);
        verify(directory.path(), None).unwrap();
        let mut journal = Journal::open(directory.path(), LARGE);
        journal.append_each(2);

        prop_assert_eq!(journal.writer.recorded(), recorded + 2);
        let items = journal.items();
        let there = seqs(&items);
        prop_assert!(there.is_sorted() && there.ends_with(&[recorded + 1, recorded + 2]));
        let counted: u64 = missing(&items).iter().map(|(first, last)| last - first + 1).sum();
        prop_assert_eq!(there.len() as u64 + counted, recorded + 2);
    }

    /// A power cut after any change, with any part of what was not synced: every acknowledged alert is there, none is
    /// there that was not written, no number is given twice, an id is known exactly when its alert is there, and
    /// nothing is called damaged or missing.
    #[test]
    fn a_power_cut_loses_nothing_that_was_acknowledged(
        batches in proptest::collection::vec(proptest::collection::vec(0usize..8, 1..8), 1..20),
        segment_bytes in 600u64..4000,
        fail in prop::option::of((0usize..60, 0usize..3)),
        seeds in proptest::collection::vec(any::<u64>(), 4),
    ) {
        let directory = temporary();
        let root = directory.path();
        let journal_directory = root.join("journal");
        let recording = Recording::start(root);
        let sizes = Sizes { segment_bytes, keep_segments: 4 };
        let mut journal = Journal::open(&journal_directory, sizes);
        if let Some((after, kind)) = fail {
            recording.fail_after(after, [Kind::Any, Kind::Write, Kind::Sync][kind], 5);
        }
        // After how many changes how much was acknowledged, and deleted by retention.
        let mut known = vec![(recording.changes(), 0)];
        // Two shares, so that retention takes parts of batches by share as well.
        let alert = |&at: &usize| ([MODULE, "watch:more"][at % 2], ["low", "medium", "high", "critical"][at / 2]);
        let batches: Vec<Vec<_>> = batches.iter().map(|batch| batch.iter().map(alert).collect()).collect();
        journal.append_ahead(&batches, |journal| known.push((recording.changes(), journal.writer.recorded())));
        let history = recording.finish();

        for (at, &seed) in seeds.iter().enumerate() {
            let cut = match at {
                0 => history.len(),
                _ => usize::try_from(seed % (history.len() as u64 + 1)).unwrap(),
            };
            let acknowledged = known.iter().filter(|(changes, _)| *changes <= cut).map(|(_, seq)| *seq).max().unwrap_or(0);
            what_is_left_after_a_cut(&history, cut, seed, acknowledged, sizes)?;
        }
    }
}

#[test]
fn a_first_alert_that_is_missing_is_told_with_the_newest_ones_when_there_are_no_more() {
    let directory = tempfile::tempdir().unwrap();
    let mut journal = Journal::open(directory.path(), LARGE);
    journal.append_each(5);
    drop(journal);
    let path = segments(directory.path()).remove(0);
    let text = fs::read_to_string(&path).unwrap();
    let without: Vec<&str> = text.lines().filter(|line| !line.starts_with("{\"seq\":1,")).collect();
    fs::write(&path, without.join("\n") + "\n").unwrap();

    let start = |count| start_of_last(directory.path(), 5, count, |_| true).unwrap();

    assert_eq!((start(10), start(5), start(4), start(2)), (0, 0, 1, 3));
    assert_eq!(missing(&items(directory.path(), 5)), [(1, 1)]);
}
