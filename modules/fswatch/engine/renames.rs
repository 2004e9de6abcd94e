//! Files and directories with another name: what went and what came with the same inode are one object.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use super::moving::MOVED_AT_ONCE;
use super::round::{LOOKED_TOGETHER, Seen, with_circumstances};
use super::{Engine, Sink, text_of_time};
use crate::change::{Alert, Difference, Event, alert, compare, shown};
use crate::events::{Happened, Window};
use crate::ledger::Entry;
use crate::object::{Kind, Object};
use crate::rules::Severity;
use crate::trust::Lane;

/// What had another name.
pub(super) enum Renamed {
    File,
    /// A directory, with what is known of it; it is to be compared.
    Tree(Option<Window>),
    /// One of which what is in it is still to be moved.
    Large(Option<Window>),
}

impl<S: Sink> Engine<S> {
    /// Has the place where a file was looked at together with where it is, also when the kernel's word of one of both
    /// is not taken up yet: otherwise one file with another name seems to be one that went and one that came. A file
    /// can have had as many names as a user likes: no more are added than are ready.
    pub(super) fn add_other_names(&mut self, lane: Lane, ready: &mut Vec<(PathBuf, Happened)>) {
        let most = (2 * ready.len()).max(LOOKED_TOGETHER);
        let mut added: HashSet<PathBuf> = HashSet::new();
        let mut next = 0;
        while let Some((path, happened)) = ready.get(next) {
            next += 1;
            if happened.moved_from.is_none() && happened.moved_to.is_none() {
                continue;
            }
            let path: Arc<Path> = path.as_path().into();
            let happened = happened.clone();
            if added.is_empty() {
                added = ready.iter().map(|(path, _)| path.clone()).collect();
            }
            let without = Happened {
                appeared: false,
                executed: false,
                moved_from: None,
                moved_to: None,
                ..happened.clone()
            };
            let from = happened
                .moved_from
                .map(|from| (from, Happened { moved_to: Some(path.clone()), ..without.clone() }));
            let to = happened
                .moved_to
                .map(|to| (to, Happened { appeared: true, moved_from: Some(path), ..without }));
            for (other, happened) in from.into_iter().chain(to) {
                let its = self.trust.lane(&other);
                // What root alone can change does not wait for what users can.
                if added.contains(&*other) || its == Lane::Trusted && lane != its || ready.len() >= most {
                    continue;
                }
                let waiting = self.due.remove(&other);
                if waiting.is_some() || its == lane {
                    added.insert(other.to_path_buf());
                    ready.push((other.to_path_buf(), waiting.unwrap_or(happened)));
                }
            }
        }
    }

    /// Tells that an object has another name, and takes what is known below it along, unless that is so much that it is
    /// done in slices.
    pub(super) fn rename(
        &mut self,
        from: &Seen,
        to: &Seen,
        entry: &mut Entry,
        alerts: &mut Vec<Alert>,
    ) -> Renamed {
        let (Some(known), Some(there)) = (&from.known, &to.there) else { return Renamed::File };
        let below = self.ledger.state().baseline.count_below(&from.path);
        let is_large = entry.changes.len() / 2 + below > MOVED_AT_ONCE;
        let mut moved = 0_u64;
        if is_large {
            moved = 1 + below as u64;
            entry.changes.push((to.path.clone(), Some(there.clone())));
        } else {
            for path in self.ledger.state().baseline.tree(&from.path) {
                let new = match path.strip_prefix(&from.path) {
                    Ok(rest) if !rest.as_os_str().is_empty() => to.path.join(rest),
                    _ => to.path.clone(),
                };
                let object = if path == from.path {
                    Some(there.clone())
                } else {
                    self.ledger.state().baseline.get(&path)
                };
                entry.changes.push((path, None));
                // What is not covered there has gone, and what is there but was not covered has come: the scan tells.
                if self.coverage.options(&new).is_some() {
                    moved += 1;
                    entry.changes.push((new, object));
                }
            }
        }
        alerts.extend(self.renamed(from, to, known, there, moved));
        if known.kind != Kind::Directory {
            return Renamed::File;
        }
        // While it moved, nobody could say what a notification was about.
        self.watching.directories().remove_tree(&from.path);
        self.watching.directories().remove_tree(&to.path);
        let window = Window::of_both(to.happened.window, from.happened.window);
        if is_large { Renamed::Large(window) } else { Renamed::Tree(window) }
    }

    /// The alert that an object has another name, and `moved` objects with it.
    fn renamed(&self, from: &Seen, to: &Seen, known: &Object, there: &Object, moved: u64) -> Option<Alert> {
        let options = self.coverage.options(&to.path)?;
        let rule = self.coverage.rule_text(&to.path)?;
        let changed = compare(Some(known), Some(there), options);
        let usual = Difference {
            event: Event::Renamed,
            attributes: Vec::new(),
            severity: options.severity.unwrap_or(Severity::Medium),
            gains_rights: false,
        };
        let difference = match changed {
            Some(changed) => Difference {
                event: Event::Renamed,
                severity: changed.severity.max(usual.severity),
                ..changed
            },
            None => usual,
        };
        let time = text_of_time(SystemTime::now());
        let changes = !difference.attributes.is_empty();
        let mut told = alert(&to.path, Some(known), Some(there), difference, options, rule, &time);
        let (old, new) = (shown(&from.path), shown(&to.path));
        let more = if changes { format!("; {}", told.alert) } else { String::new() };
        let inside = if moved > 1 { format!(" with {} objects in it", moved - 1) } else { String::new() };
        told.alert = format!("path {old} renamed to {new}{inside}{more}");
        told.from = Some(old);
        told.count = (moved > 1).then_some(moved);
        let mut happened = to.happened.clone();
        happened.merge(from.happened.clone());
        Some(with_circumstances(told, &happened))
    }
}

/// Which of what came (first) is which of what went (second) under another name.
pub(super) fn renames(seen: &[Seen]) -> Vec<(usize, usize)> {
    let mut went: HashMap<(u64, u64), usize> = HashMap::new();
    let mut by_path: HashMap<&Path, usize> = HashMap::new();
    for (index, one) in seen.iter().enumerate() {
        // A log that was rotated is not told, so it has no other name to tell either.
        if let (Some(known), None, false) = (&one.known, &one.there, one.grown) {
            went.insert((known.device, known.inode), index);
            by_path.insert(&one.path, index);
        }
    }
    let mut pairs = Vec::new();
    for (index, one) in seen.iter().enumerate() {
        let (None, Some(there)) = (&one.known, &one.there) else { continue };
        let hinted = one.happened.moved_from.as_deref().and_then(|from| by_path.get(from)).copied();
        let identity = (there.device, there.inode);
        let found = hinted.or_else(|| went.get(&identity).copied());
        let Some(from) = found else { continue };
        let Some(known) = &seen[from].known else { continue };
        // An inode is given again at once: without the kernel's word only the same content and time tell.
        let is_same = (known.device, known.inode, known.kind) == (there.device, there.inode, there.kind);
        let is_proved = hinted.is_some()
            || known.kind != Kind::Directory
                && known.content == there.content
                && known.modified == there.modified;
        if is_same && is_proved && went.remove(&identity).is_some() {
            pairs.push((index, from));
        }
    }
    pairs
}
