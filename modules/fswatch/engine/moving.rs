//! Directories with very much in them that have another name: what is known of what is in them gets the new name in
//! slices, between which the engine sees what else happened.
//!
//! The alert comes first, together with the new name of the directory itself. Its old name is known until nothing is
//! known below it any more, and what is moved is never known without the directories above it. So a life that ends in
//! between leaves only what the next one finds: the old directory, with all that is still known in it, is not there,
//! and the new one is compared with what is known of it.

use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{Engine, SLICE, Sink, now};
use crate::events::{Happened, Window};
use crate::look::Found;
use crate::object::Object;
use crate::trust::Lane;
use crate::workers::Item;

/// Objects that get another name in the same step as the directory that they are in, of all renames of a round.
pub(super) const MOVED_AT_ONCE: usize = 512;

/// Objects of one slice.
const MOVED_TOGETHER: usize = 64;

/// Time after which a path is asked for again that is in a directory on the move.
const PAUSE: Duration = Duration::from_millis(20);

/// A directory on the move.
#[derive(Debug)]
pub(super) struct Move {
    pub(super) from: PathBuf,
    pub(super) to: PathBuf,
    pub(super) lane: Lane,
    /// Since when nobody saw what happened in it.
    pub(super) window: Option<Window>,
    /// It is behind a way that leads elsewhere, and has not got another name.
    pub(super) way: Option<Behind>,
}

/// What was behind a way that leads elsewhere now.
#[derive(Debug)]
pub(super) struct Behind {
    /// It is not there any more; otherwise what is covered where it was stays known there as well.
    pub(super) is_gone: bool,
    /// So far it was gone through.
    pub(super) after: Option<PathBuf>,
}

impl<S: Sink> Engine<S> {
    /// Whether it is not certain now under which name something is known.
    pub(super) fn is_moving(&self, path: &Path) -> bool {
        self.moves.iter().any(|moving| path.starts_with(&moving.from) || path.starts_with(&moving.to))
    }

    /// Whether a path is not looked at yet because of that; then it is asked for again.
    pub(super) fn awaits_move(&mut self, path: &Path, happened: &Happened) -> bool {
        let is_moving =
            self.is_moving(path) || happened.moved_from.as_deref().is_some_and(|from| self.is_moving(from));
        if is_moving {
            self.postpone(path, happened.clone(), now() + PAUSE);
        }
        is_moving
    }

    /// Leaves out what was looked at before it was known that its directory moves; it is looked at again.
    pub(super) fn leave_what_moves(
        &mut self,
        outcomes: Vec<(Item, io::Result<Found>)>,
    ) -> Vec<(Item, io::Result<Found>)> {
        if self.moves.is_empty() {
            return outcomes;
        }
        let (moving, rest): (Vec<_>, Vec<_>) =
            outcomes.into_iter().partition(|(item, _)| self.is_moving(&item.path));
        for (item, _) in moving {
            self.in_flight.remove(&item.path);
            let mut happened = item.happened;
            happened.merge(self.again.remove(&item.path).unwrap_or_default());
            self.postpone(&item.path, happened, now() + PAUSE);
        }
        rest
    }

    /// Gives what is known of directories on the move its new names, a slice of it.
    pub(super) fn move_some(&mut self) {
        if self.moves.is_empty() {
            return;
        }
        let begun = now();
        while let Some(place) = self.next_move() {
            self.move_slice(place);
            if now().duration_since(begun) >= SLICE {
                return;
            }
        }
    }

    /// What root alone can change first.
    fn next_move(&self) -> Option<usize> {
        let trusted = self.moves.iter().position(|moving| moving.lane == Lane::Trusted);
        trusted.or(if self.moves.is_empty() { None } else { Some(0) })
    }

    fn move_slice(&mut self, place: usize) {
        let (from, to) = (self.moves[place].from.clone(), self.moves[place].to.clone());
        if let Some(Behind { is_gone, after }) = &mut self.moves[place].way {
            let part = self.ledger.state().baseline.tree_after(&from, after.as_deref(), MOVED_TOGETHER);
            let is_gone = *is_gone;
            after.clone_from(&part.last().cloned());
            if part.is_empty() {
                let Move { to, window, .. } = self.moves.remove(place);
                self.scan_tree(&to, window);
                self.surplus.want();
            } else {
                let changes = self.carried_over(part, &from, &to, is_gone);
                self.ledger.learn(changes);
                self.note_trouble();
                let moving = self.moves.remove(place);
                self.moves.push(moving);
            }
            return;
        }
        let part = self.ledger.state().baseline.last_below(&from, MOVED_TOGETHER);
        if part.is_empty() {
            self.ledger.learn(vec![(from, None)]);
            let Move { to, window, .. } = self.moves.remove(place);
            self.scan_tree(&to, window);
            return;
        }
        let mut changes = Vec::with_capacity(2 * part.len());
        let mut above = HashSet::new();
        for path in part {
            let Ok(rest) = path.strip_prefix(&from) else { continue };
            for directory in rest.ancestors().skip(1).filter(|way| !way.as_os_str().is_empty()) {
                if above.contains(directory) || self.ledger.state().baseline.contains(&to.join(directory)) {
                    break;
                }
                above.insert(directory.to_owned());
                changes.extend(self.known_as(&from.join(directory), to.join(directory)));
            }
            changes.extend(self.known_as(&path, to.join(rest)));
            changes.push((path, None));
        }
        self.ledger.learn(changes);
        self.note_trouble();
        // The next one's turn.
        let moving = self.moves.remove(place);
        self.moves.push(moving);
    }

    /// What becomes of what was known at a place that a way led to before. What is not known under the new name either
    /// stays: whoever forgets what no entry covers names it.
    pub(super) fn carried_over(
        &self,
        paths: Vec<PathBuf>,
        from: &Path,
        to: &Path,
        is_gone: bool,
    ) -> Vec<(PathBuf, Option<Object>)> {
        let mut changes = Vec::with_capacity(2 * paths.len());
        for path in paths {
            let other = match path.strip_prefix(from) {
                Ok(rest) if !rest.as_os_str().is_empty() => to.join(rest),
                _ => to.to_owned(),
            };
            let is_known = self.ledger.state().baseline.contains(&other);
            let carried = if is_known { None } else { self.known_as(&path, other) };
            let stays = !is_known && carried.is_none() || !is_gone && self.coverage.options(&path).is_some();
            changes.extend(carried);
            if !stays {
                changes.push((path, None));
            }
        }
        changes
    }

    /// The way to `old` leads to `new` now: what was still on its way to `old` goes there as well, and what came from
    /// there stays.
    pub(super) fn redirect_moves(&mut self, old: &Path, new: &Path) {
        for moving in self.moves.iter_mut().filter(|moving| moving.way.is_some() && moving.to == old) {
            moving.to = new.to_owned();
        }
        self.moves.retain(|moving| moving.from != moving.to);
    }

    /// What is known of a path, under another one. What is not covered there has gone: the comparison tells.
    pub(super) fn known_as(&self, path: &Path, other: PathBuf) -> Option<(PathBuf, Option<Object>)> {
        self.coverage.options(&other)?;
        let known = self.ledger.state().baseline.get(path)?;
        Some((other, Some(known)))
    }
}
