//! Makes room in small steps: carries out what [`retention`] decides.

use std::io;

use vigie_files::durable;

use super::{Sizes, Writer};
use crate::retention::{self, ClosedSegment, GivenUp, Goes, Victim};
use crate::rewrite::Rewrite;
use crate::segment::{self, Name};

/// What one rewritten segment costs beside what is read, as bytes: it is synced several times.
const REWRITE_BYTES: u64 = 1 << 20;

impl Writer {
    /// Keeps the closed segments within their allowance, and reads at most `budget` bytes to do so. `merges`: also where
    /// segments become one, which makes no room.
    pub(super) fn make_room(&mut self, mut budget: u64, merges: bool) {
        while self.must_make_room && budget > 0 {
            if let Err(error) = self.step(&mut budget, merges) {
                // It stays as it is, and the next segment tries again. Until then a half-written file would only take room.
                (self.rewrite, self.must_make_room) = (None, false);
                segment::delete_unfinished(&self.directory).ok();
                self.retention_trouble =
                    Some(format!("cannot apply retention to the alert journal: {error}"));
            } else if !self.must_make_room {
                self.retention_trouble = None;
            }
        }
    }

    /// Goes on with what makes room.
    fn step(&mut self, budget: &mut u64, merges: bool) -> io::Result<()> {
        if self.rewrite.is_none() {
            self.rewrite = self.next_rewrite(merges)?;
        }
        let Some(rewrite) = &mut self.rewrite else {
            self.must_make_room = false;
            return Ok(());
        };
        match rewrite.advance(budget) {
            Ok(false) => Ok(()),
            Ok(true) => {
                *budget = budget.saturating_sub(REWRITE_BYTES);
                self.rewrite.take().map_or(Ok(()), |rewrite| self.finish(rewrite))
            }
            Err(error) => {
                let names: Vec<Name> = rewrite.segments().iter().map(|segment| segment.name).collect();
                if rewrite.goes().is_none() && error.kind() != io::ErrorKind::NotFound {
                    // Others can still become one.
                    let failed = self.closed.iter_mut().filter(|segment| names.contains(&segment.name));
                    failed.for_each(|segment| segment.is_alone = true);
                }
                self.rewrite = None;
                self.without(names, error)
            }
        }
    }

    /// What is to be done next, if anything is.
    fn next_rewrite(&mut self, merges: bool) -> io::Result<Option<Rewrite>> {
        let Sizes { segment_bytes, keep_segments } = self.sizes;
        let allowance = segment_bytes.saturating_mul(u64::from(keep_segments.saturating_sub(1)));
        loop {
            self.count_rough(allowance)?;
            let next = match self.interrupted()? {
                None => retention::next_victim(&self.closed, allowance, self.sent_through),
                interrupted => interrupted,
            };
            let (range, goes) = match next {
                Some(Victim { index, goes }) => (index..index + 1, Some(goes)),
                None if !merges => return Ok(None),
                None => match retention::next_merge(&self.closed, keep_segments.saturating_mul(2) as usize) {
                    Some(index) => (index..index + 2, None),
                    None => return Ok(None),
                },
            };
            let segments = self.closed[range.clone()].to_vec();
            let names = segments.iter().map(|segment| segment.name).collect();
            if goes.is_none()
                && let Some(alone) = self.not_to_be_merged(range)?
            {
                self.closed[alone].is_alone = true;
                continue;
            }
            match Rewrite::start(&self.directory, segments, goes, self.sent_through) {
                Ok(rewrite) => return Ok(Some(rewrite)),
                Err(error) => self.without(names, error)?,
            }
        }
    }

    /// What is counted as deleted and still there goes before anything else does.
    fn interrupted(&mut self) -> io::Result<Option<Victim>> {
        let Some((name, goes)) = self.ledger.doing.clone() else { return Ok(None) };
        let Some(index) = self.closed.iter().rposition(|segment| segment.name == name) else {
            return Ok(None);
        };
        if self.closed[index].contents.is_rough {
            self.count_again(index)?;
        }
        let is_there = |segment: &ClosedSegment| segment.name == name && goes.is_in(&segment.contents);
        Ok(self.closed.get(index).is_some_and(is_there).then_some(Victim { index, goes }))
    }

    /// Which of these segments has no first line, without which it cannot be one with others.
    fn not_to_be_merged(&self, mut range: std::ops::Range<usize>) -> io::Result<Option<usize>> {
        let has_header =
            |index: &usize| match segment::has_header(&self.closed[*index].name.path(&self.directory)) {
                // Found out below.
                Err(error) if error.kind() == io::ErrorKind::NotFound => true,
                found => found.unwrap_or(false),
            };
        Ok(range.find(|index| !has_header(index)))
    }

    /// Before anything goes it must be known whose the alerts are in segments of an earlier version.
    fn count_rough(&mut self, allowance: u64) -> io::Result<()> {
        if retention::is_too_much(&self.closed, allowance) {
            while let Some(index) = self.closed.iter().position(|segment| segment.contents.is_rough) {
                self.count_again(index)?;
            }
        }
        Ok(())
    }

    fn count_again(&mut self, index: usize) -> io::Result<()> {
        let name = self.closed[index].name;
        match segment::count(&name.path(&self.directory)) {
            Ok(contents) => self.closed[index].contents = contents,
            Err(error) => self.without(vec![name], error)?,
        }
        Ok(())
    }

    /// Forgets segments that somebody else deleted: who reads the journal says what is missing, and what is left must
    /// still be kept within its allowance.
    fn without(&mut self, names: Vec<Name>, error: io::Error) -> io::Result<()> {
        if error.kind() != io::ErrorKind::NotFound {
            return Err(error);
        }
        let is_gone = |name: &Name| names.contains(name) && !name.path(&self.directory).exists();
        let before = self.closed.len();
        self.closed.retain(|segment| !is_gone(&segment.name));
        if self.closed.len() == before { Err(error) } else { Ok(()) }
    }

    /// After a change that failed half way: what is in the files counts, not what was to be in them.
    fn look_again(&mut self, names: &[Name], last: u64) {
        let [first, others @ ..] = names else { return };
        let closed_at = segment::closed_at(&first.path(&self.directory)).unwrap_or(0);
        let is_gone = |other: &Name| {
            let found = std::fs::symlink_metadata(other.path(&self.directory));
            found.is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
        };
        let are_one = others.last().is_some_and(|other| closed_at >= other.first || is_gone(other));
        // Before what is one is known to be on disk, the others stay: the next start removes them.
        if are_one && durable::sync_directory(&self.directory).is_ok() {
            for other in others {
                // Nobody reads it any more, and the next start tries again.
                durable::remove(&other.path(&self.directory)).ok();
            }
        }
        if are_one {
            self.closed.retain(|segment| !others.contains(&segment.name));
        }
        if let Some(segment) = self.closed.iter_mut().find(|segment| segment.name == *first) {
            segment.contents.is_rough = true;
            if are_one {
                segment.last = last;
            }
        }
    }

    /// Puts what was rewritten in its place.
    fn finish(&mut self, rewrite: Rewrite) -> io::Result<()> {
        let doing = rewrite.goes().map(|goes: &Goes| (rewrite.name(), goes.clone()));
        // First the note, then the deed: in between a crash leaves alerts that are noted as deleted, and are read. Of
        // segments that become one nothing goes, and what was done to one of them is not to be done to the other.
        if doing.is_none() || self.ledger.doing != doing {
            let mut ledger = self.ledger.clone();
            let thinned = rewrite.thinned();
            ledger.count(&thinned.deleted);
            if let Some(range) = thinned.emptied.clone() {
                ledger.add(range);
            }
            GivenUp::join(&mut ledger.untold, thinned.given_up.clone());
            ledger.doing = doing;
            ledger.store(&self.directory)?;
            GivenUp::join(&mut self.given_up, thinned.given_up.clone());
            self.ledger = ledger;
        }
        let names: Vec<Name> = rewrite.segments().iter().map(|segment| segment.name).collect();
        let last = rewrite.segments().last().map_or(0, |segment| segment.last);
        let thinned = rewrite.finish().inspect_err(|_| self.look_again(&names, last))?;
        #[cfg(test)]
        {
            self.merged += u64::from(names.len() > 1);
        }
        self.closed.retain(|segment| !names[1..].contains(&segment.name));
        let Some(index) = self.closed.iter().position(|segment| segment.name == names[0]) else {
            return Ok(());
        };
        if thinned.is_gone() {
            self.closed.remove(index);
        } else {
            // What was counted wrongly before must not make it a victim for ever.
            (self.closed[index].contents, self.closed[index].last) = (thinned.contents, last);
        }
        Ok(())
    }
}
