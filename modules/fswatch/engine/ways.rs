//! The ways to what is watched: links on them are followed, and where one leads elsewhere than before, that is reported and
//! what is there is compared with what was known under the configured name.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};
use std::time::SystemTime;

use super::moving::{MOVED_AT_ONCE, Move};
use super::round::with_circumstances;
use super::{Engine, Sink, text_of_time};
use crate::avoided::Avoided;
use crate::change::{Alert, notice, shown};
use crate::events::Happened;
use crate::ledger::Entry;
use crate::look::is_missing;
use crate::rules::{Coverage, Interest, Severity};
use crate::trust::{Lane, NOBODY, Trust};

/// Links on one way, as many as the kernel follows: see path_resolution(7).
const MAX_LINKS: usize = 40;

/// Links that were found below wildcards and are followed.
const MAX_FOLLOWED: usize = 4_096;

/// Where a path leads.
pub(super) struct Way {
    /// The path without links, as far as it is there.
    pub(super) real: PathBuf,
    /// The links on it, each by where it really is.
    pub(super) links: Vec<PathBuf>,
}

/// Follows a path name by name, also where only a part of it is there.
pub(super) fn follow(path: &Path, avoided: &Avoided) -> Way {
    follow_where(path, avoided, |_| true)
}

/// The same to the first link that is not to be followed.
pub(super) fn follow_where(path: &Path, avoided: &Avoided, mut follows: impl FnMut(&Path) -> bool) -> Way {
    let names = |path: &Path| -> Vec<OsString> {
        let names = path.components().rev().filter_map(|component| match component {
            Component::Normal(_) | Component::ParentDir => Some(component.as_os_str().to_owned()),
            _ => None,
        });
        names.collect()
    };
    let mut way = Way { real: PathBuf::from("/"), links: Vec::new() };
    let (mut rest, mut is_there) = (names(path), true);
    while let Some(name) = rest.pop() {
        if name == ".." {
            way.real.pop();
            continue;
        }
        way.real.push(name);
        is_there &= !avoided.has(&way.real);
        if !is_there {
            continue;
        }
        match std::fs::read_link(&way.real) {
            Ok(target) if way.links.len() < MAX_LINKS && follows(&way.real) => {
                way.links.push(way.real.clone());
                if target.is_absolute() {
                    way.real = PathBuf::from("/");
                } else {
                    way.real.pop();
                }
                rest.extend(names(&target));
            }
            Err(error) if error.kind() == std::io::ErrorKind::InvalidInput => {}
            Ok(_) | Err(_) => is_there = false,
        }
    }
    way
}

/// Whether a link that was found is followed: its owner decides what is watched by its rule, so a user's link leads to
/// what is his own only. What is not there yet is judged when it comes.
fn may_lead(link: &Path, real: &Path, avoided: &Avoided) -> bool {
    let owner = link.symlink_metadata().map_or(0, |link| link.uid());
    owner == 0 || avoided.has(real) || real.symlink_metadata().map_or(true, |target| target.uid() == owner)
}

/// Whether root alone can make a link lead elsewhere.
pub(super) fn is_roots(link: &Path, trust: &mut Trust) -> bool {
    trust.lane(link) == Lane::Trusted
}

/// Whether there is a link at a path.
fn is_link(path: &Path, avoided: &Avoided) -> bool {
    !avoided.has(path) && std::fs::read_link(path).is_ok()
}

/// What is known of the ways.
#[derive(Debug, Default)]
pub(super) struct Ways {
    /// Where each configured path, and each link that is followed below wildcards, led when that was asked last.
    ends: BTreeMap<PathBuf, PathBuf>,
    /// All links on them.
    links: BTreeSet<PathBuf>,
    /// Links that were found below wildcards, or where a rule follows links.
    followed: BTreeSet<PathBuf>,
}

impl Ways {
    /// Finds the ways of a new coverage, and has it follow the links that were found before.
    pub(super) fn find(&mut self, coverage: &mut Coverage, avoided: &Avoided, trust: &mut Trust) {
        let (mut ends, mut links) = (BTreeMap::new(), BTreeSet::new());
        let mut waiting = std::mem::take(&mut self.followed);
        // One may lead to where another one is.
        loop {
            let before = waiting.len();
            waiting.retain(|link| {
                let way = follow(link, avoided);
                if way.links.first() != Some(link) {
                    return false;
                }
                let is_weak = way.links.iter().any(|link| !is_roots(link, trust));
                let is_followed =
                    may_lead(link, &way.real, avoided) && coverage.follow_link(link, &way.real, is_weak);
                if is_followed {
                    ends.insert(link.clone(), way.real);
                    links.extend(way.links);
                    self.followed.insert(link.clone());
                }
                !is_followed
            });
            if waiting.is_empty() || waiting.len() == before {
                break;
            }
        }
        let configured: BTreeSet<PathBuf> =
            coverage.roots().iter().map(|root| root.configured.clone()).collect();
        for path in configured {
            let way = follow(&path, avoided);
            links.extend(way.links);
            ends.entry(path).or_insert(way.real);
        }
        for link in &links {
            coverage.mark_link(link);
        }
        (self.ends, self.links) = (ends, links);
    }
}

impl<S: Sink> Engine<S> {
    /// Whether a path is a directory on the way to an entry, the entry itself, or a link that leads there.
    pub(super) fn leads(&self, path: &Path) -> bool {
        self.leads_as(path, self.coverage.interest(path))
    }

    /// The same, when it is known already what a directory of this name is of.
    pub(super) fn leads_as(&self, path: &Path, interest: Interest) -> bool {
        // Nearly all that happens is further down than every root.
        let is_short = path.as_os_str().len() <= self.longest_root;
        self.ways.links.contains(path)
            || interest == Interest::OnTheWay
            || is_short
                && self
                    .coverage
                    .roots()
                    .iter()
                    .any(|root| root.path.starts_with(path) || root.configured.starts_with(path))
    }

    /// A name came: whether it is a link that is to be followed from now on.
    pub(super) fn is_new_way(&mut self, path: &Path, happened: &Happened) -> bool {
        let may_be = happened.appeared && !happened.directory && self.coverage.may_follow(path);
        may_be && is_link(path, self.watching.avoided()) && {
            let real = follow(path, self.watching.avoided()).real;
            self.may_lead(path, &real) && self.remember_link(path)
        }
    }

    /// As [`may_lead`]; says so in the status when it may not.
    fn may_lead(&mut self, link: &Path, real: &Path) -> bool {
        let may = may_lead(link, real, self.watching.avoided());
        if may {
            self.status.unwatched.remove(link);
        } else {
            let why = format!("a link of a user to {}, which is not his, is not followed", shown(real));
            self.note_unwatched(link, why);
        }
        may
    }

    fn remember_link(&mut self, link: &Path) -> bool {
        let has_room = self.ways.followed.len() < MAX_FOLLOWED;
        if has_room {
            self.ways.followed.insert(link.to_owned());
        } else {
            self.note_unwatched(link, format!("more than {MAX_FOLLOWED} links lead to watched paths"));
        }
        has_room
    }

    /// What leads to an entry came or went: the entry may be elsewhere now.
    pub(super) fn way_changed(&mut self, path: &Path, happened: Option<&Happened>) {
        self.watching.directories().remove_tree(path);
        self.trust.forget(path);
        let before: BTreeSet<_> = self.coverage.roots().iter().map(|root| root.path.clone()).collect();
        let mut ends = self.ways.ends.clone();
        let rules = self.coverage.rules().clone();
        self.cover(&rules);
        self.surplus.want();
        // A link that came or went below wildcards led, or leads, to where it is itself.
        for (configured, end) in self.ways.ends.clone() {
            let old = ends.remove(&configured).unwrap_or_else(|| configured.clone());
            self.retarget(&configured, &old, &end, happened);
        }
        for (configured, old) in ends {
            self.retarget(&configured, &old, &configured, happened);
        }
        let roots: BTreeSet<_> = self.coverage.roots().iter().map(|root| root.path.clone()).collect();
        for root in roots {
            self.watch_way(&root);
            let may_be_another = root.starts_with(path) || path.starts_with(&root) || !before.contains(&root);
            // Who makes what is not there yet is told by the directory above it, which is watched now.
            let is_there = || self.is_there(&root) || self.ledger.state().baseline.contains(&root);
            if may_be_another || !self.watching.is_watched(&root) && is_there() {
                self.scan_tree(&root, None);
            }
        }
        self.watch_links();
        self.forget_watches();
        self.note_waiting();
    }

    /// A configured path leads elsewhere than before: says so, and takes what was known under it along, so that what is
    /// there now is compared with that.
    fn retarget(&mut self, configured: &Path, old: &Path, new: &Path, happened: Option<&Happened>) {
        if old == new {
            return;
        }
        // Of a link that is watched itself its own alert says it.
        if self.status.baseline_complete && self.coverage.options(configured).is_none() {
            let is_trusted = self.trust.lane(configured) == Lane::Trusted;
            let severity = if is_trusted { Severity::Critical } else { Severity::High };
            let text = format!(
                "the way to {} leads elsewhere now: to {} instead of {}; what is there is compared with what was known",
                shown(configured),
                shown(new),
                shown(old)
            );
            self.sink.log(&text);
            let told = notice(shown(configured), text, &text_of_time(SystemTime::now()));
            let told = Alert { severity, ..told };
            let told = match happened {
                Some(happened) => with_circumstances(told, happened),
                None => told,
            };
            self.tell(Entry::default(), vec![told]);
        }
        // What is still covered where it is has not come from there.
        let is_gone = follow(old, self.watching.avoided()).real != old;
        let is_apart = !old.starts_with(new) && !new.starts_with(old);
        if !is_apart || !is_gone && self.coverage.options(old).is_some() {
            return;
        }
        let known = self.ledger.state().baseline.tree(old);
        if known.len() > MOVED_AT_ONCE {
            let lane = self.trust.lane(old);
            self.moves.push(Move { from: old.to_owned(), to: new.to_owned(), lane, window: None });
            return;
        }
        let mut changes = Vec::with_capacity(2 * known.len());
        for path in known {
            let other = match path.strip_prefix(old) {
                Ok(rest) if !rest.as_os_str().is_empty() => new.join(rest),
                _ => new.to_owned(),
            };
            if !self.ledger.state().baseline.contains(&other) {
                changes.extend(self.known_as(&path, other));
            }
            if is_gone || self.coverage.options(&path).is_none() {
                changes.push((path, None));
            }
        }
        if !changes.is_empty() {
            self.ledger.learn(changes);
            self.note_trouble();
            self.compare_tree(new);
        }
    }

    /// Watches where a link leads that was found below an entry which follows links.
    pub(super) fn follow(&mut self, scan: u64, link: &Path) {
        let way = follow(link, self.watching.avoided());
        if way.links.first().is_none_or(|first| first != link) || self.ways.followed.contains(link) {
            return;
        }
        let mut coverage = self.coverage.clone();
        let changed = std::sync::Arc::make_mut(&mut coverage);
        if !self.may_lead(link, &way.real) {
            return;
        }
        let is_weak = way.links.iter().any(|link| !is_roots(link, &mut self.trust));
        if !changed.follow_link(link, &way.real, is_weak) || !self.remember_link(link) {
            return;
        }
        for link in &way.links {
            changed.mark_link(link);
        }
        self.coverage = coverage;
        self.ways.ends.insert(link.to_owned(), way.real.clone());
        self.ways.links.extend(way.links);
        self.note_coverage();
        let coverage = self.coverage.clone();
        if let Some(scan) = self.scans.get_mut(&scan) {
            scan.goes_on_at(coverage, way.real.clone());
        }
        self.watch_way(&way.real);
        self.watch_links();
        if !self.ledger.state().baseline.last_below(link, 1).is_empty() {
            self.retarget(link, link, &way.real, None);
        }
        self.suspect_root(scan, &way.real);
    }

    /// Watches the directories above a root.
    pub(super) fn watch_way(&mut self, root: &Path) {
        for ancestor in root.ancestors().skip(1) {
            // What happens to the root itself is told by the directory that it is in.
            self.watch_above(ancestor, Some(ancestor) == root.parent());
        }
    }

    /// Watches the directories above the links on all ways.
    pub(super) fn watch_links(&mut self) {
        let above = self.ways.links.iter().flat_map(|link| link.ancestors().skip(1));
        for directory in above.map(Path::to_owned).collect::<BTreeSet<_>>() {
            self.watch_above(&directory, false);
        }
    }

    fn watch_above(&mut self, directory: &Path, is_whole: bool) {
        // A directory that is not there is not watched: the one above it is.
        let lane = self.trust.lane_of_names(directory).unwrap_or(Lane::Of(NOBODY));
        if !self.watching.avoided().has(directory)
            && directory.is_dir()
            && let Err(error) = if is_whole {
                self.watching.add(directory, lane)
            } else {
                self.watching.add_way(directory, lane)
            }
            && !is_missing(&error)
        {
            self.note_unwatched(directory, error.to_string());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn a_way_is_followed_through_all_its_links_as_far_as_it_is_there() {
        let temp = tempfile::tempdir().unwrap();
        let at = |name: &str| temp.path().canonicalize().unwrap().join(name);
        std::fs::create_dir_all(at("real/sub")).unwrap();
        symlink("real", at("one")).unwrap();
        symlink(at("one/sub/../sub"), at("two")).unwrap();
        symlink("nowhere/x", at("dangling")).unwrap();
        symlink("loop", at("loop")).unwrap();
        let of = |name: &str| {
            let way = follow(&at(name), &Avoided::default());
            (way.real, way.links)
        };

        assert_eq!(of("two/file"), (at("real/sub/file"), vec![at("two"), at("one")]));
        assert_eq!(of("real/new/file"), (at("real/new/file"), vec![]));
        assert_eq!(of("dangling/file"), (at("nowhere/x/file"), vec![at("dangling")]));
        assert_eq!(of("loop").1.len(), MAX_LINKS);
        assert_eq!(follow(Path::new("/"), &Avoided::default()).real, Path::new("/"));
    }
}
