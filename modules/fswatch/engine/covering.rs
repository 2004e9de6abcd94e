//! What is watched: what the rules mean on this host as it is now, and which directories are listened to for it.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use super::scan::Purpose;
use super::ways::is_roots;
use super::{Engine, Sink};
use crate::avoided::is_unknown_mount;
use crate::change::shown;
use crate::config::Backend;
use crate::look::is_missing;
use crate::rules::{Coverage, Interest, Rules};
use crate::trust::{Lane, NOBODY};
use crate::watching::LONGEST_PATH;
use crate::workers::Depth;

/// Missing paths that the log names one by one; the status names them all.
const MAX_WAITING_LINES: usize = 5;

impl<S: Sink> Engine<S> {
    /// Takes other rules. What is new is learned in silence, what is no longer covered forgotten.
    pub(super) fn watch(&mut self, rules: &Rules) {
        self.status.baseline_complete = false;
        let settings = rules.settings();
        self.due.set_settle(settings.settle);
        self.storms.set_limit(settings.storm_changes);
        self.ledger.set_history_bytes(settings.history_bytes);
        self.trust.forget_all();
        self.watching.choose(settings.backend, self.own.as_deref(), &self.mailbox);
        self.watching.ask_execs(settings.exec_commands);
        if settings.backend == Backend::Fanotify
            && let Some(why) = self.watching.why_not()
        {
            self.sink.log(&format!("fanotify is configured but cannot be used: {why}"));
        }
        let known = self.ledger.state().baseline.len();
        self.widening.begin(self.coverage.clone());
        self.cover(rules);
        if self.ledger.state().rules == self.coverage.digest() {
            // What is behind links that the first scan finds is still covered, so nothing is forgotten before it.
            self.surplus.want();
        } else {
            let coverage = &self.coverage;
            self.ledger.retain(|path| coverage.options(path).is_some());
            self.surplus.is_gone();
        }
        self.set_canary();
        self.tell_narrowing(rules, known);
        self.scan_all(Purpose::Learn, Depth::Glance, None);
        self.publish();
    }

    /// Finds out what the rules mean on this host as it is now. What is known and no longer covered is not forgotten
    /// yet.
    pub(super) fn cover(&mut self, rules: &Rules) {
        let avoided = self.watching.avoided();
        let trust = RefCell::new(&mut self.trust);
        let coverage = Coverage::trusting(rules, &|path| Some(avoided.follow(path).real), &|path| {
            Some(avoided.follow_where(path, |link| is_roots(link, &mut trust.borrow_mut())).real)
        });
        let left_out = self.own.iter().chain(&self.left_out);
        let mut coverage = left_out.fold(coverage, |coverage, path| coverage.without(path));
        let has_canary = rules.settings().canary.is_some();
        coverage.set_canary(self.own.as_ref().filter(|_| has_canary).map(|own| own.join("canary")));
        let refused = self.ways.find(&mut coverage, avoided, &mut self.trust);
        self.coverage = Arc::new(coverage);
        self.note_refused(&refused);
        for root in self.coverage.roots() {
            if let Some(target) = &root.link_to
                && self.links.get(&root.path) != Some(target)
            {
                self.sink.log(&format!("{} is watched as {}", shown(&root.path), shown(target)));
                self.links.insert(root.path.clone(), target.clone());
            }
        }
        self.note_coverage();
        let coverage = &self.coverage;
        self.status.unreadable.retain(|path| coverage.options(path).is_some());
        self.status.skipped.retain(|path, _| coverage.descends(path));
    }

    /// Tells those that go by the coverage that it is another one.
    pub(super) fn note_coverage(&mut self) {
        let roots = self.coverage.roots().iter();
        let paths = roots.flat_map(|root| [&root.path, &root.configured]);
        self.longest_root = paths.map(|path| path.as_os_str().len()).max().unwrap_or_default();
        self.watching.cover(&self.coverage);
    }

    pub(super) fn note_waiting(&mut self) {
        let waiting: BTreeSet<_> = self.coverage.waiting(&|path| self.is_there(path)).into_iter().collect();
        let new: Vec<_> = waiting.difference(&self.status.waiting).collect();
        if new.len() > MAX_WAITING_LINES {
            self.sink.log(&format!("{} paths do not exist yet; waiting for them", new.len()));
        } else {
            for path in new {
                self.sink.log(&format!("{} does not exist yet; waiting for it", shown(path)));
            }
        }
        self.status.waiting = waiting;
    }

    /// Whether something is at a path; nothing that may be looked at counts as something that is there.
    pub(super) fn is_there(&self, path: &Path) -> bool {
        !self.watching.avoided().status(path).is_err_and(|error| is_missing(&error))
    }

    /// Other file systems are mounted: says in which nothing is looked at.
    pub(super) fn note_avoided(&mut self) {
        let avoided = self.watching.avoided().clone();
        self.trust.forget_all();
        for point in avoided.points() {
            if (self.coverage.descends(&point) || self.coverage.options(&point).is_some())
                && let Some(why) = avoided.why(&point)
            {
                self.note_unwatched(&point, why);
            }
        }
    }

    /// Watches a directory; says so in the status when that is not possible. `false` when it is gone.
    pub(super) fn watch_directory(&mut self, directory: &Path) -> bool {
        let lane = self.trust.lane_of_names(directory).unwrap_or(Lane::Of(NOBODY));
        match self.watching.add(directory, lane) {
            Ok(()) => {
                if !self.is_refused(directory) {
                    self.status.unwatched.remove(directory);
                }
                true
            }
            // It went away, or something else took its place: the directory above it tells.
            Err(error) if is_missing(&error) || is_unknown_mount(&error) => false,
            Err(error) => {
                let why = match error.raw_os_error() {
                    Some(errno) if errno == nix::errno::Errno::ENOSPC as i32 => {
                        "the limit of inotify watches is reached; raise fs.inotify.max_user_watches"
                            .to_owned()
                    }
                    _ => error.to_string(),
                };
                self.note_unwatched(directory, why);
                true
            }
        }
    }

    /// All that is below a path that is too long is too long as well: of such a tree the highest directory stands for
    /// all.
    pub(super) fn note_unwatched(&mut self, directory: &Path, why: String) {
        let is_too_long = |way: &&Path| way.as_os_str().len() > LONGEST_PATH;
        let directory = directory.ancestors().take_while(is_too_long).last().unwrap_or(directory);
        let is_first = self.status.unwatched.is_empty();
        if self.status.unwatched.insert(directory.to_owned(), why.clone()) && is_first {
            self.sink.log(&format!("{} cannot be watched: {why}", shown(directory)));
        }
    }

    /// Gives up the watches of directories that are neither covered nor on the way to an entry.
    pub(super) fn forget_watches(&mut self) {
        let coverage = &self.coverage;
        self.watching.directories().retain(|directory| coverage.interest(directory) != Interest::Nothing);
    }

    /// Clears complaints about directories that are no longer there.
    pub(super) fn forget_gone(&mut self) {
        let avoided = self.watching.avoided();
        self.status
            .unwatched
            .retain(|directory| !avoided.status(directory).is_err_and(|error| is_missing(&error)));
    }
}
