//! Going through much that is known in slices, between which the engine sees what else happened: whoever mounts
//! something over a directory, or has an entry lead elsewhere, does not decide for how long nothing else is told.

use std::path::{Path, PathBuf};

use super::{Engine, SLICE, Sink, now};

/// Known paths that are taken together.
const TOGETHER: usize = 64;

/// Paths that are named of those that are not covered any more.
const MAX_SAMPLES: usize = 5;

/// A tree of which all that is known is to be looked at.
#[derive(Debug)]
pub(super) struct KnownTree {
    tree: PathBuf,
    /// So far it was gone through.
    after: Option<PathBuf>,
}

/// What is known and no rule covers any more.
#[derive(Debug, Default)]
pub(super) struct Surplus {
    /// It is being looked for.
    wanted: bool,
    /// So far everything was gone through.
    after: Option<PathBuf>,
    /// The rules are others since that began.
    again: bool,
    /// How much was forgotten since that began, and some of it.
    forgotten: (usize, Vec<PathBuf>),
}

impl Surplus {
    /// Less may be covered than before. What is under way comes to its end first: whoever changes it all the time does
    /// not keep it from that.
    pub(super) fn want(&mut self) {
        self.again = self.wanted && self.after.is_some();
        self.wanted = true;
    }

    /// All of it was forgotten at once.
    pub(super) fn is_gone(&mut self) {
        *self = Self::default();
    }
}

impl<S: Sink> Engine<S> {
    /// Has everything looked at that is known at a path and below it, for a scan.
    pub(super) fn suspect_known(&mut self, scan: u64, tree: &Path) {
        if let Some(scan) = self.scans.get_mut(&scan) {
            scan.known.push(KnownTree { tree: tree.to_owned(), after: None });
        }
    }

    /// Whether a slice can be taken now.
    pub(super) fn has_slices(&self) -> bool {
        self.scans.values().any(|scan| !scan.known.is_empty() && scan.has_room())
            || self.surplus.wanted && self.status.baseline_complete
    }

    /// Takes a slice of what is known and is to be looked at, and one of what is to be forgotten.
    pub(super) fn go_through_some(&mut self) {
        if !self.has_slices() {
            return;
        }
        let begun = now();
        let is_over = || now().duration_since(begun) >= SLICE;
        let numbers: Vec<u64> = self.scans.keys().copied().collect();
        for number in numbers {
            while !is_over()
                && let Some(scan) = self.scans.get_mut(&number)
                && scan.has_room()
                && let Some(KnownTree { tree, after }) = scan.known.pop()
            {
                let part = self.ledger.state().baseline.tree_after(&tree, after.as_deref(), TOGETHER);
                if let Some(last) = part.last()
                    && let Some(scan) = self.scans.get_mut(&number)
                {
                    scan.known.push(KnownTree { tree, after: Some(last.clone()) });
                }
                for path in part {
                    self.suspect(number, path, false);
                }
                self.finish_scan(number);
            }
        }
        while self.surplus.wanted && self.status.baseline_complete && !is_over() {
            self.forget_surplus();
        }
    }

    /// Forgets what is not covered among the next known paths.
    fn forget_surplus(&mut self) {
        let part = self.ledger.state().baseline.after(self.surplus.after.as_deref(), TOGETHER);
        let coverage = self.coverage.clone();
        let Some((last, _)) = part.last() else {
            self.ledger.retain_unaccepted(|path| coverage.options(path).is_some());
            let Surplus { again, forgotten: (count, samples), .. } = std::mem::take(&mut self.surplus);
            self.surplus.wanted = again;
            self.tell_forgotten(count, &samples);
            return;
        };
        self.surplus.after = Some(last.clone());
        // What is on the move is not forgotten where it was.
        let is_surplus = |path: &PathBuf| coverage.options(path).is_none() && !self.is_moving(path);
        let surplus = part.into_iter().map(|(path, _)| path).filter(is_surplus);
        let surplus: Vec<_> = surplus.map(|path| (path, None)).collect();
        let (count, samples) = &mut self.surplus.forgotten;
        *count += surplus.len();
        let room = MAX_SAMPLES.saturating_sub(samples.len());
        samples.extend(surplus.iter().take(room).map(|(path, _)| path.clone()));
        if !surplus.is_empty() {
            self.ledger.learn(surplus);
            self.note_trouble();
        }
    }
}
