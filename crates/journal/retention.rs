//! Makes room: decides what goes, and takes it out of a closed segment.
//!
//! Critical and high alerts have three quarters of the room to themselves, so that no flood of lesser ones pushes them
//! out, and the others have the last quarter; either takes what the other leaves free. Of those that have too much, what the fleet
//! has goes first, oldest first, and then the least severe, oldest first.
//!
//! A segment is rewritten beside itself and renamed, so that whoever reads the old file reads on in it.

use std::io;
use std::path::Path;

use serde::Serialize;
use vigie_files::durable::{self, DurableFile};
use vigie_protocol::severity::Severity;

use crate::chain::Head;
use crate::ledger::Range;
use crate::line::{self, Closed, Counts, Deleted, Line};
use crate::segment::{Contents, LineReader, Name, Piece, is_severe};

/// Most segments that retention leaves behind, however small they are.
const MAX_SEGMENTS: usize = 10_000;

/// Bytes that are written at once.
const WRITE_BYTES: usize = 1 << 20;

/// A segment to which nothing is added.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ClosedSegment {
    pub(crate) name: Name,
    /// Number of its last alert, at most.
    pub(crate) last: u64,
    pub(crate) contents: Contents,
}

/// What goes next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Victim {
    /// Which segment.
    pub(crate) index: usize,
    /// Which severities go, as [`Severity::ALL`] orders them.
    pub(crate) goes: [bool; 4],
}

/// Decides what goes next, if anything must. `closed` are in order; `sent_through` is the number of the newest alert
/// that the fleet has, or the largest number when no fleet wants them.
pub(crate) fn next_victim(closed: &[ClosedSegment], allowance: u64, sent_through: u64) -> Option<Victim> {
    let sum =
        |bytes: fn(&Contents) -> u64| closed.iter().map(|segment| bytes(&segment.contents)).sum::<u64>();
    let (lower, severe) = (sum(|contents| contents.bytes.0), sum(|contents| contents.bytes.1));
    if lower + severe <= allowance && closed.len() <= MAX_SEGMENTS {
        return None;
    }
    let severe_first = lower <= allowance / 4 && severe > 0;
    [severe_first, !severe_first].into_iter().find_map(|severe| victim_of(closed, severe, sent_through))
}

fn victim_of(closed: &[ClosedSegment], severe: bool, sent_through: u64) -> Option<Victim> {
    let of_part = |severity: Severity| is_severe(severity) == severe;
    let has = |segment: &ClosedSegment, severity: Severity| segment.contents.counts[severity as usize] > 0;
    let part = Severity::ALL.map(of_part);
    let sent = closed.iter().position(|segment| {
        segment.last <= sent_through
            && Severity::ALL.into_iter().any(|severity| of_part(severity) && has(segment, severity))
    });
    if let Some(index) = sent {
        return Some(Victim { index, goes: part });
    }
    Severity::ALL.into_iter().filter(|&severity| of_part(severity)).find_map(|severity| {
        let index = closed.iter().position(|segment| has(segment, severity))?;
        Some(Victim { index, goes: Severity::ALL.map(|other| other == severity) })
    })
}

/// Alerts that went before the fleet had them, or, where no fleet wants them, severe ones that went.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct GivenUp {
    /// How many of each severity, as [`Severity::ALL`] orders them.
    pub counts: Counts,
    /// Number of the first one.
    pub first_seq: u64,
    /// Number of the last one.
    pub last_seq: u64,
}

impl GivenUp {
    fn add(total: &mut Option<Self>, severity: Severity, seq: u64) {
        let total = total.get_or_insert(Self { counts: [0; 4], first_seq: seq, last_seq: seq });
        total.counts[severity as usize] += 1;
        total.first_seq = total.first_seq.min(seq);
        total.last_seq = total.last_seq.max(seq);
    }

    /// All of them.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Joins what was given up at two times.
    pub(crate) fn join(total: &mut Option<Self>, more: Option<Self>) {
        match (&mut *total, more) {
            (Some(total), Some(more)) => {
                total.counts.iter_mut().zip(more.counts).for_each(|(count, more)| *count += more);
                total.first_seq = total.first_seq.min(more.first_seq);
                total.last_seq = total.last_seq.max(more.last_seq);
            }
            (None, more @ Some(_)) => *total = more,
            (_, None) => {}
        }
    }

    /// The alert that tells of it, in the form that modules' alerts have.
    #[must_use]
    pub fn message(&self, fleet: bool) -> serde_json::Value {
        let [low, medium, high, critical] = self.counts;
        // About lesser alerts it says no more than they did, or a flood of them would fill the room of the severe ones.
        let severity = if high + critical > 0 { Severity::Critical } else { Severity::Medium };
        let (event, text) = if fleet {
            (
                "alerts_given_up",
                "alerts were deleted before they could be sent to the fleet because the journal is full; increase journal.keep_segments, and check why the broker does not accept alerts",
            )
        } else {
            (
                "alerts_deleted",
                "severe alerts were deleted because the journal is full of critical and high alerts; increase journal.keep_segments, and find the source of so many alerts",
            )
        };
        serde_json::json!({
            "severity": severity,
            "alert": format!("{} {text}", self.total()),
            "event": event,
            "low": low, "medium": medium, "high": high, "critical": critical,
            "first_seq": self.first_seq, "last_seq": self.last_seq,
        })
    }
}

/// How a segment is after alerts were taken out of it.
#[derive(Debug)]
pub(crate) struct Thinned {
    pub(crate) contents: Contents,
    /// What went, of each severity.
    pub(crate) deleted: Counts,
    pub(crate) given_up: Option<GivenUp>,
    /// Nothing is left but the note that alerts were deleted; it is kept elsewhere, and the file can go.
    pub(crate) emptied: Option<Range>,
    /// Whether the new file is written.
    written: bool,
}

impl Thinned {
    /// Whether no file is left.
    pub(crate) fn is_gone(&self) -> bool {
        !self.written
    }
}

/// Alerts one after the other that go, with those that went before.
#[derive(Debug, Default)]
struct Gone {
    range: Option<(u64, u64)>,
    counts: Counts,
    /// Checksum of the last one, if it is known.
    link: Option<u32>,
    /// Checksum of the record before the first one.
    before: u32,
    /// All alerts of one or more batches, after which the chain's head is this.
    head: Option<Head>,
}

impl Gone {
    fn add(&mut self, (first, last): (u64, u64), counts: Counts, link: Option<u32>, before: u32) {
        if let Some(range) = &mut self.range {
            range.1 = last;
        } else {
            self.range = Some((first, last));
            self.before = before;
        }
        self.counts.iter_mut().zip(counts).for_each(|(count, more)| *count += more);
        self.link = link;
    }

    /// Takes what follows it at once; the head is then the later one's.
    fn join(&mut self, later: Self) {
        if let Some(range) = later.range {
            self.add(range, later.counts, later.link, later.before);
        }
        if later.head.is_some() {
            self.head = later.head;
        }
    }

    fn write(&mut self, buffer: &mut Vec<u8>) {
        if let Some(deleted) = self.range.take() {
            let line = Deleted { deleted, counts: self.counts, link: self.link, head: self.head.take() };
            line::seal_value(buffer, &line, self.before);
        }
        *self = Self::default();
    }
}

/// Rewrites a segment line by line.
struct Thinning<'a> {
    goes: &'a [bool; 4],
    sent_through: u64,
    fleet: bool,
    thinned: Thinned,
    /// What is to be written.
    out: Vec<u8>,
    /// Whole batches that went, up to the batch that is gathered now.
    gone: Gone,
    /// The batch that is gathered: its lines that stay, with what goes among them, and what goes at its end.
    batch: Vec<u8>,
    batch_gone: Gone,
    batch_contents: Contents,
    batch_keeps: bool,
    last: u64,
    /// Checksum of the last record.
    link: Option<u32>,
}

impl Thinning<'_> {
    fn record(&mut self, line: &[u8], seq: u64) {
        let severity = line::severity_of_line(line);
        let seal = line::check(line);
        let link = seal.map(|seal| seal.checksum);
        self.last = seq;
        if self.goes[severity as usize] {
            let mut counts = [0; 4];
            counts[severity as usize] = 1;
            self.thinned.deleted[severity as usize] += 1;
            if seq > self.sent_through || (!self.fleet && is_severe(severity)) {
                GivenUp::add(&mut self.thinned.given_up, severity, seq);
            }
            self.batch_gone.add((seq, seq), counts, link, seal.map_or(0, |seal| seal.previous));
        } else {
            self.write_batch_gone();
            self.batch.extend_from_slice(line);
            self.batch.push(b'\n');
            self.batch_keeps = true;
            self.batch_contents.add(severity, line.len() + 1);
        }
        self.link = link;
    }

    fn write_batch_gone(&mut self) {
        if !self.batch_keeps && self.batch_gone.range.is_some() && self.batch.is_empty() {
            // At the beginning of a batch: told together with the batches before, without moving the head.
            self.flush_gone();
        }
        let before = self.batch.len();
        self.batch_gone.write(&mut self.batch);
        self.batch_contents.add_bytes(false, self.batch.len() - before);
    }

    fn deleted(&mut self, deleted: Deleted, previous: u32) {
        self.last = deleted.deleted.1;
        self.link = deleted.link;
        let mut gone = Gone::default();
        gone.add(deleted.deleted, deleted.counts, deleted.link, previous);
        if deleted.head.is_some() {
            // Whole batches; they stand between batches.
            self.end_batch(None);
            gone.head = deleted.head;
            self.gone.join(gone);
        } else {
            self.batch_gone.join(gone);
        }
    }

    /// Ends the batch, with its commit line and the head after it.
    fn end_batch(&mut self, commit: Option<(&[u8], Head)>) {
        if let Some((_, head)) = commit
            && !self.batch_keeps
            && self.batch.is_empty()
        {
            let mut gone = std::mem::take(&mut self.batch_gone);
            gone.head = Some(head);
            if gone.range.is_some() {
                self.gone.join(gone);
            }
            return;
        }
        self.write_batch_gone();
        if !self.batch.is_empty() {
            self.flush_gone();
        }
        self.out.append(&mut self.batch);
        if let Some((line, _)) = commit {
            let severe = self.batch_contents.bytes.1 > 0;
            self.batch_contents.add_bytes(severe, line.len() + 1);
            self.out.extend_from_slice(line);
            self.out.push(b'\n');
        }
        let batch = std::mem::take(&mut self.batch_contents);
        self.thinned.contents.add_all(&batch);
        self.batch_keeps = false;
    }

    fn flush_gone(&mut self) {
        let before = self.out.len();
        self.gone.write(&mut self.out);
        self.thinned.contents.add_bytes(false, self.out.len() - before);
    }

    /// Anything else stays as it is.
    fn keep(&mut self, line: &[u8]) {
        self.write_batch_gone();
        self.batch.extend_from_slice(line);
        self.batch.push(b'\n');
        self.batch_contents.add_bytes(false, line.len() + 1);
    }
}

/// Takes out of a closed segment the severities that go. Nothing is changed before [`finish`].
///
/// # Errors
/// When the file cannot be read or the new one cannot be written; it is then as before.
pub(crate) fn thin(
    directory: &Path,
    segment: &ClosedSegment,
    goes: &[bool; 4],
    sent_through: Option<u64>,
) -> io::Result<Thinned> {
    let path = segment.name.path(directory);
    let new = new_path(&path);
    let mut reader = LineReader::open(&path)?;
    let mut file: Option<DurableFile> = None;
    let mut work = Thinning {
        goes,
        sent_through: sent_through.unwrap_or(u64::MAX),
        fleet: sent_through.is_some(),
        thinned: Thinned {
            contents: Contents::default(),
            deleted: [0; 4],
            given_up: None,
            emptied: None,
            written: false,
        },
        out: Vec::new(),
        gone: Gone::default(),
        batch: Vec::new(),
        batch_gone: Gone::default(),
        batch_contents: Contents::default(),
        batch_keeps: false,
        last: 0,
        link: None,
    };
    let mut header = None;
    let mut old = None;
    while let Some(piece) = reader.next()? {
        let Piece::Line(line) = piece else { continue };
        let old = *old.get_or_insert_with(|| line::is_old(line));
        if let Some(seq) = line::seq_of(line)
            && (old || line::check(line).is_some())
        {
            if seq > segment.last {
                // Of a batch that the disk did not take; the next segment holds it.
                continue;
            }
            work.record(line, seq);
            if old && work.batch_keeps {
                // There are no batches.
                work.end_batch(None);
            }
            continue;
        }
        match line::read(line, old).map(|sealed| (sealed.line, sealed.seal)) {
            Some((Line::Header(_), _)) if header.is_none() => header = Some(line.to_vec()),
            Some((Line::Commit(commit), _)) => work.end_batch(Some((line, commit.head))),
            Some((Line::Deleted(deleted), seal)) => {
                work.deleted(deleted, seal.map_or(0, |seal| seal.previous))
            }
            // It is written anew.
            Some((Line::Closed(_), _)) => {}
            Some(_) | None => work.keep(line),
        }
        if work.out.len() >= WRITE_BYTES {
            write(&mut file, &new, header.as_deref(), &mut work.out)?;
        }
    }
    if !work.batch_keeps && work.batch.is_empty() && work.batch_gone.range.is_some() {
        // No commit line says which head follows.
        let gone = std::mem::take(&mut work.batch_gone);
        work.gone.join(gone);
        work.gone.head = None;
    }
    work.end_batch(None);
    if file.is_none() && work.out.is_empty() {
        // Everything went: what is known of it moves to the ledger.
        if let Some((first, last)) = work.gone.range {
            let Gone { counts, link, head, .. } = work.gone;
            work.thinned.emptied = Some(Range { first, last, counts, link, head });
        }
        return Ok(work.thinned);
    }
    work.flush_gone();
    let header_bytes = header.as_ref().map_or(0, |line| line.len() + 1);
    work.thinned.contents.add_bytes(false, header_bytes);
    let Contents { counts, bytes } = work.thinned.contents;
    let closed = Closed { closed: work.last, counts, bytes };
    let before = work.out.len();
    line::seal_value(&mut work.out, &closed, work.link.unwrap_or(0));
    work.thinned.contents.add_bytes(false, work.out.len() - before);
    write(&mut file, &new, header.as_deref(), &mut work.out)?;
    if let Some(mut file) = file {
        file.sync()?;
    }
    work.thinned.written = true;
    Ok(work.thinned)
}

fn new_path(path: &Path) -> std::path::PathBuf {
    path.with_extension("jsonl.new")
}

fn write(
    file: &mut Option<DurableFile>,
    new: &Path,
    header: Option<&[u8]>,
    out: &mut Vec<u8>,
) -> io::Result<()> {
    let file = match file {
        Some(file) => file,
        None => {
            if new.exists() {
                durable::remove(new)?;
            }
            let made = file.insert(DurableFile::create(new)?);
            if let Some(header) = header {
                made.append(&[header, b"\n"].concat())?;
            }
            made
        }
    };
    file.append(out)?;
    out.clear();
    Ok(())
}

/// Puts the thinned segment in the place of the old one, or deletes it when nothing is left.
///
/// # Errors
/// When the disk does not take it.
pub(crate) fn finish(directory: &Path, segment: &ClosedSegment, thinned: &Thinned) -> io::Result<()> {
    let path = segment.name.path(directory);
    if thinned.written {
        durable::rename(&new_path(&path), &path)?;
    } else {
        durable::remove(&path)?;
    }
    durable::sync_directory(directory)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn segment(index: u64, counts: Counts) -> ClosedSegment {
        let bytes = ((counts[0] + counts[1]) * 100, (counts[2] + counts[3]) * 100);
        ClosedSegment {
            name: Name { first: index * 1000 + 1, part: 0 },
            last: (index + 1) * 1000,
            contents: Contents { counts, bytes },
        }
    }

    /// Deletes until there is room; returns what is left.
    fn make_room(mut closed: Vec<ClosedSegment>, allowance: u64, sent_through: u64) -> Vec<ClosedSegment> {
        while let Some(Victim { index, goes }) = next_victim(&closed, allowance, sent_through) {
            let mut counts = closed[index].contents.counts;
            for (count, goes) in counts.iter_mut().zip(goes) {
                if goes {
                    *count = 0;
                }
            }
            assert_ne!(counts, closed[index].contents.counts, "something goes each time");
            closed[index] = segment(closed[index].name.first / 1000, counts);
            if counts == [0; 4] {
                closed.remove(index);
            }
        }
        closed
    }

    #[test]
    fn a_flood_of_lesser_alerts_costs_no_severe_one() {
        let mut closed = vec![segment(0, [10, 10, 10, 10])];
        closed.extend((1..50).map(|index| segment(index, [50, 50, 0, 0])));

        let left = make_room(closed, 40_000, u64::MAX);

        assert_eq!(left[0].contents.counts, [0, 0, 10, 10]);
        assert!(left.last().is_some_and(|last| last.contents.counts == [50, 50, 0, 0]), "the newest stay");
    }

    proptest! {
        /// Neither part loses anything while it has at most its own room, and everything fits in the end.
        #[test]
        fn each_part_has_room_of_its_own(
            counts in proptest::collection::vec([0u64..20, 0u64..20, 0u64..20, 0u64..20], 1..30),
            sent in 0u64..30_000,
        ) {
            let closed: Vec<_> = (0..).zip(counts).map(|(index, counts)| segment(index, counts)).collect();
            let bytes = |closed: &[ClosedSegment]| {
                closed.iter().fold((0, 0), |(lower, severe), segment| {
                    (lower + segment.contents.bytes.0, severe + segment.contents.bytes.1)
                })
            };
            let (lower, severe) = bytes(&closed);
            let allowance = 10_000;

            let left = bytes(&make_room(closed, allowance, sent));

            prop_assert!(left.0 + left.1 <= allowance);
            if severe <= allowance / 4 * 3 {
                prop_assert_eq!(left.1, severe);
            }
            if lower <= allowance / 4 {
                prop_assert_eq!(left.0, lower);
            }
        }
    }
}
