//! Makes room in small steps: carries out what [`retention`] decides.

use std::fmt;
use std::io;
use std::ops::Range;

use vigie_files::durable;

use super::{LeftOver, Sizes, Writer};
use crate::ledger::Ledger;
use crate::retention::{self, ClosedSegment, GivenUp, Goes, Victim};
use crate::rewrite::{Rewrite, RewriteError, remove};
use crate::segment::{self, Name};

/// What one rewritten segment costs beside what is read, as bytes: it is synced several times.
const REWRITE_BYTES: u64 = 1 << 20;

impl Writer {
    /// Keeps the closed segments within their allowance, and reads at most `budget` bytes to do so. `merges`: also
    /// where segments become one, which makes no room.
    ///
    /// What cannot be done is put off until the next segment is begun, and the others go on.
    pub(super) fn make_room(&mut self, mut budget: u64, merges: bool) {
        while self.must_make_room && budget > 0 {
            self.step(&mut budget, merges);
        }
    }

    /// Goes on with what makes room.
    fn step(&mut self, budget: &mut u64, merges: bool) {
        let Some(mut rewrite) = self.rewrite.take().or_else(|| self.next_rewrite(merges)) else {
            self.must_make_room = false;
            if self.left_over.is_empty() && self.closed.iter().all(|segment| !segment.is_put_off) {
                self.retention_trouble = None;
            }
            return;
        };
        match rewrite.advance(budget) {
            Ok(false) => self.rewrite = Some(rewrite),
            Ok(true) => {
                *budget = budget.saturating_sub(REWRITE_BYTES);
                self.finish(rewrite, budget);
            }
            Err(error) => {
                let names = rewrite.names();
                rewrite.give_up();
                self.rewrite_failed(&names, error, budget);
            }
        }
    }

    /// What is to be done next, if anything is.
    fn next_rewrite(&mut self, merges: bool) -> Option<Rewrite> {
        let Sizes { segment_bytes, keep_segments } = self.sizes;
        let allowance = segment_bytes.saturating_mul(u64::from(keep_segments.saturating_sub(1)));
        let allowance = allowance.saturating_sub(self.left_over_bytes());
        loop {
            self.count_rough(allowance);
            let victim = self
                .interrupted()
                .or_else(|| retention::next_victim(&self.closed, allowance, self.sent_through));
            let (range, goes) = match victim {
                Some(Victim { index, goes }) => (index..index + 1, Some(goes)),
                None if !merges => return None,
                None => {
                    let index =
                        retention::next_merge(&self.closed, keep_segments.saturating_mul(2) as usize)?;
                    (index..index + 2, None)
                }
            };
            if goes.is_none() && !self.can_be_merged(range.clone()) {
                continue;
            }
            let segments = self.closed[range].to_vec();
            let (first, last) = (segments[0].name.first, segments.last().map_or(0, |segment| segment.last));
            let between = self.ledger.between(first, last);
            match Rewrite::start(&self.directory, segments, between, goes, self.sent_through) {
                Ok(rewrite) => return Some(rewrite),
                Err((name, error)) => self.cannot_read(name, &error),
            }
        }
    }

    /// What is counted as deleted and still there goes before anything else does.
    fn interrupted(&mut self) -> Option<Victim> {
        for (name, goes) in self.ledger.counted() {
            let is_it = |segment: &ClosedSegment| segment.name == name && !segment.is_put_off;
            if let Some(index) =
                self.closed.iter().position(|segment| is_it(segment) && segment.contents.is_rough)
            {
                self.count_again(index);
            }
            let has_some = |segment: &ClosedSegment| is_it(segment) && goes.is_in(&segment.contents);
            if let Some(index) = self.closed.iter().position(has_some) {
                return Some(Victim { index, goes });
            }
        }
        None
    }

    /// Whether these segments can become one. A segment without its first line cannot.
    fn can_be_merged(&mut self, range: Range<usize>) -> bool {
        for index in range {
            let name = self.closed[index].name;
            match segment::has_header(&name.path(&self.directory)) {
                Ok(true) => continue,
                Ok(false) => self.closed[index].is_alone = true,
                Err(error) => self.cannot_read(name, &error),
            }
            return false;
        }
        true
    }

    /// Before anything goes it must be known whose the alerts are in segments of an earlier version.
    fn count_rough(&mut self, allowance: u64) {
        let is_rough = |segment: &ClosedSegment| segment.contents.is_rough && !segment.is_put_off;
        while retention::is_too_much(&self.closed, allowance)
            && let Some(index) = self.closed.iter().position(is_rough)
        {
            self.count_again(index);
        }
    }

    fn count_again(&mut self, index: usize) {
        let name = self.closed[index].name;
        match segment::count(&name.path(&self.directory)) {
            Ok(contents) => self.closed[index].contents = contents,
            Err(error) => self.cannot_read(name, &error),
        }
    }

    fn rewrite_failed(&mut self, names: &[Name], error: RewriteError, budget: &mut u64) {
        match error {
            RewriteError::Read(name, error) => self.cannot_read(name, &error),
            RewriteError::Write(error) => {
                // If the disk takes nothing at present, the alerts to come must not wait for all that it does not take.
                *budget = 0;
                self.put_off(names, "rewrite", &error);
            }
        }
    }

    /// Puts off a segment that cannot be read. One that somebody else deleted is forgotten: who reads the journal says
    /// what is missing, and what is left must still be kept within its allowance.
    fn cannot_read(&mut self, name: Name, error: &io::Error) {
        let found = name.path(&self.directory).symlink_metadata();
        if found.is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
            self.closed.retain(|segment| segment.name != name);
        } else {
            self.put_off(&[name], "read", error);
        }
    }

    fn put_off(&mut self, names: &[Name], what: &str, error: &io::Error) {
        for segment in self.closed.iter_mut().filter(|segment| names.contains(&segment.name)) {
            segment.is_put_off = true;
        }
        let paths: Vec<_> = names.iter().map(|name| name.path(&self.directory)).collect();
        self.retention_fails(format_args!("cannot {what} {paths:?}: {error}"));
    }

    pub(super) fn retention_fails(&mut self, why: impl fmt::Display) {
        self.retention_trouble = Some(format!("cannot apply retention to the alert journal: {why}"));
    }

    /// Deletes segments that the one before holds as well. Until they are gone, that one stays as it is: what went from
    /// it would still be read in them.
    pub(super) fn remove_left_over(&mut self) {
        if self.left_over.is_empty() {
            return;
        }
        // What holds them must be on disk before they go.
        let mut removed = durable::sync_directory(&self.directory);
        if removed.is_ok() {
            let directory = &self.directory;
            self.left_over.retain(|left| {
                let gone = remove(&left.name.path(directory));
                let stays = gone.is_err();
                removed = std::mem::replace(&mut removed, Ok(())).and(gone);
                stays
            });
        }
        let Err(error) = removed else { return };
        for left in &self.left_over {
            if let Some(holds) = self.closed.iter_mut().rfind(|segment| segment.name < left.name) {
                holds.is_put_off = true;
            }
        }
        let paths: Vec<_> = self.left_over.iter().map(|left| left.name.path(&self.directory)).collect();
        self.retention_fails(format_args!("cannot delete {paths:?}, which were merged: {error}"));
    }

    /// After a change that failed half way: what is in the files counts, not what was to be in them.
    fn look_again(&mut self, names: &[Name], last: u64) {
        let [first, others @ ..] = names else { return };
        let closed_at = segment::closed_at(&first.path(&self.directory)).unwrap_or(0);
        let are_one = others.last().is_some_and(|other| closed_at >= other.first);
        if let Some(segment) = self.closed.iter_mut().find(|segment| segment.name == *first) {
            segment.contents.is_rough = true;
            if are_one {
                segment.last = last;
            }
        }
        if are_one {
            self.are_one(others);
        }
    }

    /// The segment before holds these as well.
    fn are_one(&mut self, others: &[Name]) {
        self.closed.retain(|segment| !others.contains(&segment.name));
        let found = others.iter().map(|&name| LeftOver::find(&self.directory, name));
        self.left_over.extend(found);
        self.remove_left_over();
    }

    /// What segments take that are still there although another one holds what is in them.
    pub(super) fn left_over_bytes(&self) -> u64 {
        self.left_over.iter().map(|left| left.bytes).sum()
    }

    /// Puts what was rewritten in its place.
    fn finish(&mut self, rewrite: Rewrite, budget: &mut u64) {
        let doing = rewrite.goes().map(|goes: &Goes| (rewrite.name(), goes.clone()));
        // First the note, then the deed: in between a crash leaves alerts that are noted as deleted, and are read. Of
        // segments that become one nothing goes, and what was done to one of them is not to be done to the other.
        if !doing.as_ref().is_some_and(|doing| self.ledger.counted().contains(doing)) {
            let thinned = rewrite.thinned();
            let mut ledger = self.ledger.clone();
            ledger.count(&thinned.deleted);
            if let Some(range) = thinned.emptied.clone() {
                ledger.add(range);
            }
            GivenUp::join(&mut ledger.untold, thinned.given_up.clone());
            self.begin_in(&mut ledger, doing);
            if let Err(error) = ledger.store(&self.directory) {
                // Nothing can go without it.
                self.must_make_room = false;
                rewrite.give_up();
                return self.retention_fails(format_args!("cannot write what was deleted: {error}"));
            }
            GivenUp::join(&mut self.given_up, thinned.given_up.clone());
            self.ledger = ledger;
        }
        let names = rewrite.names();
        let last = rewrite.segments().last().map_or(0, |segment| segment.last);
        let thinned = match rewrite.finish() {
            Ok(thinned) => thinned,
            Err(error) => {
                self.look_again(&names, last);
                return self.rewrite_failed(&names, RewriteError::Write(error), budget);
            }
        };
        // The next change of the ledger brings it to the disk; until then both say it.
        self.ledger.forget(&thinned.noted);
        let [first, others @ ..] = names.as_slice() else { return };
        if let Some(index) = self.closed.iter().position(|segment| segment.name == *first) {
            if thinned.is_gone() {
                self.closed.remove(index);
            } else {
                // What was counted wrongly before must not make it a victim for ever.
                (self.closed[index].contents, self.closed[index].last) = (thinned.contents, last);
            }
        }
        if !others.is_empty() {
            #[cfg(test)]
            {
                self.merged += 1;
            }
            self.are_one(others);
        }
    }

    /// Notes in the ledger what is done next, and keeps of what was counted before what is not done yet.
    fn begin_in(&self, ledger: &mut Ledger, doing: Option<(Name, Goes)>) {
        ledger.undone.extend(ledger.doing.take());
        ledger.undone.retain(|(name, goes)| {
            let has_some = |segment: &ClosedSegment| {
                segment.name == *name && (segment.contents.is_rough || goes.is_in(&segment.contents))
            };
            self.closed.iter().any(has_some)
        });
        ledger.doing = doing;
    }
}
