//! Proves a journal: every checksum, every link, and the chain of batches from its first line to its last.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::Path;

use vigie_protocol::control::JournalVerification as Verification;
use vigie_protocol::severity::Severity;

use crate::chain::{self, BatchDigest, Digests, Head, Parts};
use crate::contents::add_counts;
use crate::cursor;
use crate::ledger::Ledger;
use crate::line::{self, Commit, Counts, Deleted, Line, Sealed, Why};
use crate::mark;
use crate::segment::{self, Name};
use crate::walk::{Step, Walk};

/// Problems that are described; more are counted.
const MAX_PROBLEMS: usize = 1000;

/// Reads the journal in `directory` and proves it. `through` is the number of the newest alert that is known to be
/// recorded; what is behind it is being written now. Blocking, and reads every byte.
///
/// # Errors
/// When a segment cannot be read.
pub fn verify(directory: &Path, through: Option<u64>) -> io::Result<Verification> {
    verify_while(directory, through, || {})
}

/// [`verify`] while something else is done when a segment was opened.
pub(crate) fn verify_while(
    directory: &Path,
    through: Option<u64>,
    mut meanwhile: impl FnMut(),
) -> io::Result<Verification> {
    let mut work = Verifying {
        ledger: Ledger::load(directory),
        verification: Verification::default(),
        last: 0,
        link: None,
        head: None,
        batch: Batch::default(),
        committed: 0,
        tail_damaged: 0,
        batches: [After::default(); 2],
        through: through.unwrap_or(u64::MAX),
        is_first: true,
        version: 0,
        closed: 0,
        looked_for: 0,
        skip: 0,
    };
    if work.ledger.is_none() {
        work.verification.damaged += 1;
        work.problem("the list of deleted alerts is damaged");
    }
    let newest = segment::list(directory)?.last().copied();
    let mut before: Option<Name> = None;
    let mut next = work.next(directory, before, newest)?;
    while let Some((name, is_again)) = next {
        let mut walk = match Walk::open(&name.path(directory)) {
            // Retention deleted it meanwhile, or put it into an older one.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                (before, work.looked_for) = (before.max(Some(name)), 0);
                next = work.next(directory, before, newest)?;
                continue;
            }
            walk => walk?,
        };
        meanwhile();
        // Of segments that retention deleted meanwhile there is a note by now: here, or in the one before if both
        // became one.
        work.ledger = Ledger::load(directory).or(work.ledger);
        if !is_again && name.first > work.expected() {
            next = work.next(directory, before, newest)?;
            if next.is_some_and(|(_, is_again)| is_again) {
                continue;
            }
        }
        before = before.max(Some(name));
        work.skip = if is_again { work.last } else { 0 };
        if !work.segment(&mut walk)? {
            break;
        }
        // In the newest segment it counts only if it was acknowledged: `finish` knows.
        if !walk.lines().rest().is_empty() && walk.is_old() == Some(false) {
            work.tail_damaged += 1;
        }
        next = work.next(directory, before, newest)?;
    }
    let mark = mark::read(directory);
    if work.version > 0 {
        // Both are there before the first segment is.
        work.file_is_there(mark.is_some(), mark::FILE_NAME);
        work.file_is_there(cursor::known_identity(directory).is_some(), cursor::IDENTITY_FILE);
    }
    let recorded = through.unwrap_or_else(|| mark.map_or(0, |mark| mark.seq));
    Ok(work.finish(recorded))
}

/// Numbers of alerts by the names of their severities, without those of which there are none.
#[must_use]
pub fn by_severity(counts: Counts) -> BTreeMap<String, u64> {
    let names = Severity::ALL.into_iter().map(|severity| severity.name().to_owned());
    names.zip(counts).filter(|(_, count)| *count > 0).collect()
}

/// The same by module.
#[must_use]
pub fn by_module(counts: &BTreeMap<String, Counts>) -> BTreeMap<String, BTreeMap<String, u64>> {
    counts.iter().map(|(module, counts)| (module.clone(), by_severity(*counts))).collect()
}

struct Verifying {
    ledger: Option<Ledger>,
    verification: Verification,
    /// Number of the last alert, there or deleted.
    last: u64,
    link: Option<u32>,
    /// Head of the chain; unknown before the first one that is read, and after a hole.
    head: Option<Head>,
    batch: Batch,
    /// Number of the last alert of the last batch.
    committed: u64,
    /// Pieces after the last commit line that are no lines: damage, unless they were never acknowledged.
    tail_damaged: u64,
    /// What was known after the last two batches.
    batches: [After; 2],
    through: u64,
    is_first: bool,
    /// Of the newest segment's first line; 0 before there is one.
    version: u32,
    /// What was read goes as far, as its last line says: segments up to there are in it.
    closed: u64,
    /// Number up to which it was looked whether an older segment holds it by now.
    looked_for: u64,
    /// A segment is read again up to this number.
    skip: u64,
}

/// What was known after a batch: to forget a later one that the disk did not take, and that is written again in the
/// next segment.
#[derive(Default, Clone, Copy)]
struct After {
    committed: u64,
    head: Option<Head>,
    alerts: u64,
    proved_batches: u64,
    missing: u64,
    damaged: u64,
    broken: u64,
    problems: usize,
}

/// What is gathered between two commit lines.
#[derive(Default)]
struct Batch {
    digest: BatchDigest,
    deleted: Counts,
    /// The same by share, where the notes say it.
    shares: BTreeMap<String, Counts>,
    damaged: bool,
}

impl Batch {
    fn of_version(version: u32) -> Self {
        Self { digest: BatchDigest::of_version(version), ..Self::default() }
    }

    /// Whether everything that its commit line stands for is there or noted as deleted, and unchanged; and whether
    /// all of it is there.
    fn prove(self, commit: &Commit) -> (bool, bool) {
        let deleted: u64 = self.deleted.iter().sum();
        let count_is_right = self.digest.records() + deleted == commit.n;
        let is_right = match (self.digest.finish(), commit.digests()) {
            (Digests::Classes(severe, other), Digests::Classes(was_severe, was_other)) => {
                let [low, medium, high, critical] = self.deleted;
                (low + medium > 0 || other == was_other) && (high + critical > 0 || severe == was_severe)
            }
            (Digests::Parts(parts), Digests::Parts(were)) => parts_are_right(&parts, &were, &self.shares),
            _ => false,
        };
        (count_is_right && is_right, deleted == 0)
    }
}

/// Retention takes a share's alerts of a severity or leaves them: each is there whole or noted as deleted.
fn parts_are_right(parts: &Parts, were: &Parts, deleted: &BTreeMap<String, Counts>) -> bool {
    let is_deleted = |share: &String, severity: Severity| {
        deleted.get(share).is_some_and(|counts| counts[severity as usize] > 0)
    };
    let digest = |parts: &Parts, share: &String, severity: &Severity| {
        parts.get(share).and_then(|share| share.get(severity)).copied()
    };
    let all = |parts: &Parts, is_right: &dyn Fn(&String, &Severity) -> bool| {
        parts.iter().all(|(share, digests)| digests.keys().all(|severity| is_right(share, severity)))
    };
    all(were, &|share, severity| {
        let there = digest(parts, share, severity);
        if is_deleted(share, *severity) { there.is_none() } else { there == digest(were, share, severity) }
    }) && all(parts, &|share, severity| digest(were, share, severity).is_some())
}

impl Verifying {
    /// Number of the alert that comes next.
    fn expected(&self) -> u64 {
        self.last.max(self.closed) + 1
    }

    /// The segment to be read after `before`, up to the `newest`: the next one, or one that was read and holds more by
    /// now, because others were merged with it.
    fn next(
        &mut self,
        directory: &Path,
        before: Option<Name>,
        newest: Option<Name>,
    ) -> io::Result<Option<(Name, bool)>> {
        let names = segment::list(directory)?;
        let closed = self.closed;
        let is_next = |name: &Name| {
            before.is_none_or(|before| *name > before) && name.first > closed && Some(*name) <= newest
        };
        let next = names.iter().copied().find(is_next);
        let expected = self.expected();
        if before.is_some()
            && self.looked_for < expected
            && next.is_none_or(|next| next.first > expected)
            && let Some(name) = segment::merged_with(directory, &names, expected)?
            && Some(name) <= before
        {
            self.looked_for = expected;
            return Ok(Some((name, true)));
        }
        Ok(next.map(|name| (name, false)))
    }

    /// `false` when the newest recorded alert was read.
    fn segment(&mut self, walk: &mut Walk) -> io::Result<bool> {
        let mut repeats = true;
        while let Some(step) = walk.next()? {
            let Sealed { line, seal } = match step {
                Step::Damage => {
                    self.tail_damaged += 1;
                    continue;
                }
                Step::Good(sealed) => sealed,
            };
            match line {
                Line::Header(header) => {
                    self.version = header.version;
                    if header.segment <= self.skip {
                        self.batch = Batch::of_version(header.version);
                        continue;
                    }
                    // What the segment before holds after its last commit line does not count.
                    self.batch = Batch::of_version(header.version);
                    if header.why == Why::WriteFailed {
                        self.forget_from(header.segment, seal.map(|seal| seal.previous));
                    }
                    self.settle_damage();
                    self.head_is(header.head, header.segment);
                    if self.is_first {
                        self.link = seal.map(|seal| seal.previous);
                    }
                }
                Line::Record(record) => {
                    if record.seq <= self.last {
                        self.tail_damaged += u64::from(!repeats);
                        continue;
                    }
                    if record.seq > self.through {
                        return Ok(false);
                    }
                    repeats = false;
                    self.record(record.seq, seal.map(|seal| (seal.previous, seal.checksum)), walk.raw());
                }
                Line::Commit(commit) if commit.commit <= self.skip => {}
                Line::Commit(commit) => self.commit(&commit),
                Line::Deleted(deleted) => self.deleted(&deleted, seal.map(|seal| seal.previous)),
                Line::Closed(closed) => self.closed = self.closed.max(closed.closed),
            }
            self.is_first = false;
        }
        Ok(true)
    }

    fn file_is_there(&mut self, is_there: bool, name: &str) {
        if !is_there {
            self.verification.damaged += 1;
            self.problem(format_args!("the file {name} is missing or damaged"));
        }
    }

    fn after(&self) -> After {
        let found = &self.verification;
        After {
            committed: self.committed,
            head: self.head,
            alerts: found.alerts,
            proved_batches: found.proved_batches,
            missing: found.missing,
            damaged: found.damaged,
            broken: found.broken,
            problems: found.problems.len(),
        }
    }

    fn batch_ended(&mut self, last: u64) {
        self.committed = last;
        self.batches = [self.batches[1], self.after()];
    }

    /// Forgets what the segment before holds from alert `seq` on.
    fn forget_from(&mut self, seq: u64, link: Option<u32>) {
        let Some(after) = self.batches.into_iter().rev().find(|after| after.committed + 1 == seq) else {
            return;
        };
        let found = &mut self.verification;
        found.alerts = after.alerts;
        found.proved_batches = after.proved_batches;
        (found.missing, found.damaged, found.broken) = (after.missing, after.damaged, after.broken);
        found.problems.truncate(after.problems);
        (self.committed, self.head) = (after.committed, after.head);
        (self.last, self.link) = (after.committed, link);
        self.tail_damaged = 0;
    }

    /// Counts what was found damaged; it is in the middle of what was acknowledged.
    fn settle_damage(&mut self) {
        if self.tail_damaged > 0 {
            self.batch.damaged = true;
            self.verification.damaged += std::mem::take(&mut self.tail_damaged);
            let last = self.last;
            self.problem(format_args!("damaged after alert {last}"));
        }
    }

    fn problem(&mut self, problem: impl fmt::Display) {
        if self.verification.problems.len() < MAX_PROBLEMS {
            self.verification.problems.push(problem.to_string());
        }
    }

    fn broken(&mut self, problem: impl fmt::Display) {
        self.verification.broken += 1;
        self.problem(problem);
    }

    fn record(&mut self, seq: u64, seal: Option<(u32, u32)>, raw: &[u8]) {
        self.settle_damage();
        let follows = seq == self.last + 1;
        if !follows {
            self.gap(self.last + 1, seq - 1);
        }
        match seal {
            None => self.verification.unproved_alerts += 1,
            Some((previous, _)) => {
                if follows && self.link.is_some_and(|link| link != previous) && !self.batch.damaged {
                    self.broken(format_args!("alert {seq} does not follow alert {}", seq - 1));
                }
                let line = [raw, b"\n"].concat();
                self.batch.digest.add(&line, line::share_of(raw), line::severity_of_line(raw));
            }
        }
        self.verification.alerts += 1;
        if self.verification.first == 0 {
            self.verification.first = seq;
        }
        (self.last, self.link) = (seq, seal.map(|(_, checksum)| checksum));
    }

    fn deleted(&mut self, deleted: &Deleted, previous: Option<u32>) {
        let (first, last) = deleted.deleted;
        if last <= self.last || first > last {
            return;
        }
        self.settle_damage();
        if first > self.last + 1 {
            self.gap(self.last + 1, first - 1);
        }
        // In a segment that is read again a note can have grown meanwhile.
        let is_overlap = first <= self.last && self.skip == 0;
        // A note knows no record before it where retention knew none.
        let is_other = |link| previous.is_some_and(|previous| previous != 0 && previous != link);
        let follows = first == self.last + 1 && !self.batch.damaged;
        if is_overlap || follows && self.link.is_some_and(is_other) {
            self.broken(format_args!("the note that alerts {first} to {last} were deleted does not follow"));
        }
        (self.last, self.link) = (last, deleted.link);
        match deleted.head {
            Some(head) => {
                self.head = Some(head);
                // What has no commit before it is proved by nothing.
                self.batch = Batch::of_version(self.version);
                self.batch_ended(last);
            }
            None => {
                self.batch.deleted.iter_mut().zip(deleted.counts).for_each(|(count, more)| *count += more);
                for (share, &counts) in &deleted.shares {
                    add_counts(&mut self.batch.shares, share, counts);
                }
            }
        }
    }

    fn commit(&mut self, commit: &Commit) {
        self.settle_damage();
        let batch = std::mem::replace(&mut self.batch, Batch::of_version(self.version));
        if commit.commit < self.last {
            self.broken(format_args!("the batch that ends with alert {} is duplicated", commit.commit));
            return;
        }
        if commit.commit > self.last {
            self.gap(self.last + 1, commit.commit);
            (self.last, self.link) = (commit.commit, None);
        }
        let through = commit.commit;
        if let Some(head) = self.head
            && chain::next_head(&head, through, commit.n, &commit.digests()) != commit.head
        {
            self.broken(format_args!("the chain is broken at the batch that ends with alert {through}"));
        }
        self.head = Some(commit.head);
        if !batch.damaged {
            match batch.prove(commit) {
                (true, true) => self.verification.proved_batches += 1,
                (true, false) => self.verification.thinned_batches += 1,
                (false, _) => {
                    self.broken(format_args!("the batch that ends with alert {through} was changed"));
                }
            }
        }
        self.batch_ended(through);
    }

    /// The chain goes on with this head before alert `next`.
    fn head_is(&mut self, head: Head, next: u64) {
        let expected = match self.ledger.as_ref().and_then(|ledger| ledger.find(next.saturating_sub(1))) {
            // The segment before was deleted.
            Some(range) if range.last + 1 == next && range.last > self.last => range.head,
            // Noted as deleted with others, and a crash came before it was.
            Some(range) if range.last > self.last => None,
            _ => self.head,
        };
        if expected.is_some_and(|expected| expected != head) {
            self.broken(format_args!("the chain is broken before alert {next}"));
        }
        self.head = Some(head);
    }

    fn gap(&mut self, mut first: u64, last: u64) {
        while first <= last {
            let range = self.ledger.as_ref().and_then(|ledger| ledger.find(first));
            match range.map(|range| range.last.min(last)) {
                Some(end) => first = end + 1,
                None => {
                    let next = self.ledger.as_ref().and_then(|ledger| ledger.next_after(first));
                    let end = next.map_or(last, |next| (next - 1).min(last));
                    self.batch.damaged = true;
                    self.verification.missing += end - first + 1;
                    self.problem(format_args!("alerts {first} to {end} are missing"));
                    first = end + 1;
                }
            }
        }
    }

    fn finish(mut self, recorded: u64) -> Verification {
        if recorded > self.committed {
            self.settle_damage();
        }
        if recorded > self.last {
            self.gap(self.last + 1, recorded);
        }
        let Ledger { totals, shares, .. } = self.ledger.unwrap_or_default();
        self.verification.last = self.last.max(recorded);
        self.verification.deleted = by_severity(totals);
        self.verification.deleted_by_module = by_module(&shares);
        self.verification.head = self.head.unwrap_or_default().to_string();
        self.verification
    }
}
