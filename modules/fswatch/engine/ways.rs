//! The ways to what is watched: links on them are followed, and where one leads elsewhere than before, that is reported
//! and what is there is compared with what was known under the configured name.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use super::moving::{Behind, MOVED_AT_ONCE, Move};
use super::round::with_circumstances;
use super::{Engine, Sink, now, text_of_time};
use crate::avoided::{Avoided, Way, is_unknown_mount};
use crate::change::{Alert, notice, shown};
use crate::events::Happened;
use crate::ledger::Entry;
use crate::look::is_missing;
use crate::rules::{Coverage, Interest, Severity};
use crate::trust::{Lane, NOBODY, Trust};

/// Links of users that were found below wildcards and are followed, and as many of root.
const MAX_FOLLOWED: usize = 4_096;

/// Time in which a link that came twice without leading elsewhere may have done so in between.
const FLIPPED: Duration = Duration::from_secs(5);

/// Pause after what a user did to ways was looked into, and the longest one when that goes on.
const PAUSES: [Duration; 2] = [Duration::from_millis(250), Duration::from_secs(8)];

/// Names that changed since then which are kept one by one.
const MAX_CAUSES: usize = 256;

/// Deepest of them that is kept when they are too many: users make paths as deep as they like.
const MAX_CAUSE_DEPTH: usize = 32;

/// Whether a link that was found is followed: its owner decides what is watched by its rule, so a user's link leads to
/// what is his own only. What is not there yet is judged when it comes, and again whenever the way changes.
fn may_lead(link: &Path, real: &Path, avoided: &Avoided) -> bool {
    let owner = avoided.status(link).map_or(0, |link| link.st_uid);
    owner == 0 || avoided.status(real).map_or(true, |target| target.st_uid == owner)
}

fn why_refused(real: &Path) -> String {
    format!("a link of a user to {}, which is not his, is not followed", shown(real))
}

/// Whether root alone can make a link lead elsewhere.
pub(super) fn is_roots(link: &Path, trust: &mut Trust) -> bool {
    trust.lane(link) == Lane::Trusted
}

/// Whether there is a link at a path.
fn is_link(path: &Path, avoided: &Avoided) -> bool {
    avoided.target(path).is_ok_and(|target| target.is_some())
}

/// What is known of the ways.
#[derive(Debug, Default)]
pub(super) struct Ways {
    /// Where each configured path, and each link that is followed below wildcards, led when that was asked last.
    ends: BTreeMap<PathBuf, Way>,
    /// All links on them.
    links: BTreeSet<PathBuf>,
    /// Links that were found below wildcards, or where a rule follows links, and their owners.
    followed: BTreeMap<PathBuf, u32>,
    /// Those of them that lead to what is not their owner's at present, and where: what becomes of that decides.
    refused: BTreeMap<PathBuf, PathBuf>,
    /// What changed on them since they were found, by who can have changed it.
    doubts: BTreeMap<Lane, Doubts>,
    /// When links came lately that lead where they led before.
    came: BTreeMap<PathBuf, Instant>,
}

/// Names that changed, and what happened to each.
type Causes = BTreeMap<PathBuf, Happened>;

/// Changes of ways that nobody looked into yet.
#[derive(Debug, Default)]
struct Doubts {
    causes: Causes,
    /// When the last ones were looked into, and how long the next ones wait after that.
    resolved: Option<(Instant, Duration)>,
}

impl Doubts {
    fn add(&mut self, path: &Path, happened: Happened) {
        if self.causes.len() >= MAX_CAUSES && !self.causes.contains_key(path) {
            self.widen();
        }
        self.causes.entry(path.to_owned()).or_default().merge(happened);
    }

    /// Of too many only the directories are kept that they are in: first of those in which there are most, and where
    /// each is alone in its own, of the deepest. Each step has one less or one level less.
    fn widen(&mut self) {
        let depth = |path: &Path| path.components().take(MAX_CAUSE_DEPTH + 1).count();
        let cut = |path: PathBuf| match depth(&path) {
            ..=MAX_CAUSE_DEPTH => path,
            _ => path.components().take(MAX_CAUSE_DEPTH).collect(),
        };
        let mut causes = Causes::new();
        let add = |causes: &mut Causes, path, happened| causes.entry(path).or_default().merge(happened);
        for (path, happened) in std::mem::take(&mut self.causes) {
            add(&mut causes, cut(path), happened);
        }
        while causes.len() > MAX_CAUSES / 2 {
            let mut directories: HashMap<&Path, usize> = HashMap::new();
            for directory in causes.keys().filter_map(|path| path.parent()) {
                *directories.entry(directory).or_default() += 1;
            }
            let weight = |(directory, count): &(&Path, usize)| (*count, depth(directory));
            let Some((fullest, count)) = directories.into_iter().max_by_key(weight) else { break };
            let is_meant = |path: &Path| match count {
                1 => depth(path) > depth(fullest),
                _ => path.parent() == Some(fullest),
            };
            let meant: Vec<PathBuf> = causes.keys().filter(|path| is_meant(path)).cloned().collect();
            for path in meant {
                let happened = causes.remove(&path).unwrap_or_default();
                add(&mut causes, path.parent().unwrap_or(&path).to_owned(), happened);
            }
        }
        self.causes = causes;
    }

    /// Time until these are looked into: what root changes at once.
    fn wait(&self, lane: Lane, now: Instant) -> Option<Duration> {
        let resolved = self.resolved.filter(|_| lane != Lane::Trusted);
        let left =
            resolved.map_or(Duration::ZERO, |(at, pause)| pause.saturating_sub(now.duration_since(at)));
        (!self.causes.is_empty()).then_some(left)
    }
}

impl Ways {
    /// Time until changes are to be looked into.
    pub(super) fn next(&self, now: Instant) -> Option<Duration> {
        self.doubts.iter().filter_map(|(lane, doubts)| doubts.wait(*lane, now)).min()
    }

    /// Whether there are none.
    pub(super) fn are_known(&self) -> bool {
        self.doubts.values().all(|doubts| doubts.causes.is_empty())
    }

    /// The changes that are to be looked into now. Who goes on with them waits longer each time.
    fn take_due(&mut self, now: Instant) -> Causes {
        let [shortest, longest] = PAUSES;
        let mut due = Causes::new();
        for (lane, doubts) in &mut self.doubts {
            if doubts.wait(*lane, now).is_some_and(|left| left.is_zero()) {
                due.append(&mut doubts.causes);
                let last = doubts.resolved.filter(|(at, pause)| now.duration_since(*at) < 2 * *pause);
                doubts.resolved = Some((now, last.map_or(shortest, |(_, pause)| longest.min(2 * pause))));
            }
        }
        self.doubts.retain(|_, doubts| {
            let is_recent = |(at, pause): (Instant, Duration)| now.duration_since(at) < 2 * pause;
            !doubts.causes.is_empty() || doubts.resolved.is_some_and(is_recent)
        });
        due
    }

    /// Whether a link of this owner is followed beside those that are, and which other one is not any more then.
    fn room_for(&self, owner: u32) -> (bool, Option<PathBuf>) {
        let mut counts: HashMap<u32, usize> = HashMap::new();
        for owner in self.followed.values() {
            *counts.entry(*owner).or_default() += 1;
        }
        let roots = counts.remove(&0).unwrap_or_default();
        let of_kind = if owner == 0 { roots } else { counts.values().sum() };
        if of_kind < MAX_FOLLOWED {
            return (true, None);
        }
        let its = counts.get(&owner).copied().unwrap_or_default();
        let largest = counts.into_iter().filter(|(_, count)| owner != 0 && *count > its + 1);
        let largest = largest.max_by_key(|(_, count)| *count).map(|(user, _)| user);
        let last = largest.and_then(|user| self.followed.iter().rfind(|(_, owner)| **owner == user));
        (last.is_some(), last.map(|(link, _)| link.clone()))
    }

    /// The links on a way that led where they lead now and may have led elsewhere in between: each came more than once.
    fn flipped(&mut self, causes: &Causes, way: &Way, now: Instant) -> Happened {
        self.came.retain(|_, at| now.duration_since(*at) < FLIPPED);
        let mut happened = Happened::default();
        for link in &way.links {
            let Some(its) = causes.get(link).filter(|its| its.appeared) else { continue };
            if its.reappeared || self.came.contains_key(link) {
                happened.merge(its.clone());
                happened.reappeared = true;
            }
            if self.came.len() < MAX_CAUSES {
                self.came.insert(link.clone(), now);
            }
        }
        happened
    }

    /// Finds the ways of a new coverage, and has it follow the links that were found before. Gives those that were not
    /// followed until now.
    pub(super) fn find(
        &mut self,
        coverage: &mut Coverage,
        avoided: &Avoided,
        trust: &mut Trust,
    ) -> BTreeMap<PathBuf, PathBuf> {
        let (mut ends, mut links) = (BTreeMap::new(), BTreeSet::new());
        let mut waiting = std::mem::take(&mut self.followed);
        let refused = std::mem::take(&mut self.refused);
        // One may lead to where another one is.
        loop {
            let before = waiting.len();
            waiting.retain(|link, owner| {
                let way = avoided.follow(link);
                if way.links.first() != Some(link) {
                    return false;
                }
                if !may_lead(link, &way.real, avoided) {
                    // Whoever makes it his, or puts another one there, is told of.
                    links.extend(way.links.into_iter().chain([way.real.clone()]));
                    self.refused.insert(link.clone(), way.real);
                    self.followed.insert(link.clone(), *owner);
                    return false;
                }
                let is_weak = way.links.iter().any(|link| !is_roots(link, trust));
                let is_followed = coverage.follow_link(link, &way.real, is_weak);
                if is_followed {
                    links.extend(way.links.iter().cloned());
                    ends.insert(link.clone(), way);
                    self.followed.insert(link.clone(), *owner);
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
            let way = avoided.follow(&path);
            links.extend(way.links.iter().cloned());
            ends.entry(path).or_insert(way);
        }
        for link in &links {
            coverage.mark_link(link);
        }
        (self.ends, self.links) = (ends, links);
        refused
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
        // A directory that went before it may be what else happened to the name.
        let may_be = happened.appeared && self.coverage.may_follow(path);
        may_be && is_link(path, self.watching.avoided()) && {
            let real = self.watching.avoided().follow(path).real;
            self.may_lead(path, &real) && self.remember_link(path)
        }
    }

    /// As [`may_lead`]; says so in the status when it may not.
    fn may_lead(&mut self, link: &Path, real: &Path) -> bool {
        let may = may_lead(link, real, self.watching.avoided());
        if may {
            self.status.unwatched.remove(link);
        } else {
            self.note_unwatched(link, why_refused(real));
        }
        may
    }

    /// Whether a link is not followed at present because it leads to what is not its owner's.
    pub(super) fn is_refused(&self, link: &Path) -> bool {
        self.ways.refused.contains_key(link)
    }

    /// The same of links that were followed before.
    pub(super) fn note_refused(&mut self, before: &BTreeMap<PathBuf, PathBuf>) {
        let refused = self.ways.refused.clone();
        for link in before.keys().filter(|link| !refused.contains_key(*link)) {
            self.status.unwatched.remove(link);
        }
        for (link, real) in refused {
            self.note_unwatched(&link, why_refused(&real));
        }
    }

    /// Where there is no room, a link of the user who has most gives way, but no user's keeps out one of root.
    fn remember_link(&mut self, link: &Path) -> bool {
        let owner = self.watching.avoided().status(link).map_or(NOBODY, |link| link.st_uid);
        let (has_room, surplus) = self.ways.room_for(owner);
        if let Some(surplus) = surplus {
            self.ways.followed.remove(&surplus);
            self.note_unfollowed(&surplus);
            self.way_changed(&surplus, Happened::default());
        }
        if has_room {
            self.ways.followed.insert(link.to_owned(), owner);
        } else {
            self.note_unfollowed(link);
        }
        has_room
    }

    fn note_unfollowed(&mut self, link: &Path) {
        self.note_unwatched(link, format!("more than {MAX_FOLLOWED} links of users lead to watched paths"));
    }

    /// What leads to an entry came or went: the entry may be elsewhere now. That is found out once for all such changes
    /// of a round, see [`Engine::resolve_ways`].
    pub(super) fn way_changed(&mut self, path: &Path, happened: Happened) {
        self.trust.forget(path);
        let lane = self.trust.lane(path);
        self.ways.doubts.entry(lane).or_default().add(path, happened);
    }

    /// Finds out where everything is whose ways changed, when it is time for that.
    pub(super) fn resolve_ways(&mut self) {
        let causes = self.ways.take_due(now());
        if causes.is_empty() {
            return;
        }
        for path in causes.keys() {
            self.watching.directories().remove_tree(path);
        }
        let before: BTreeSet<_> = self.coverage.roots().iter().map(|root| root.path.clone()).collect();
        let mut ends = self.ways.ends.clone();
        let rules = self.coverage.rules().clone();
        self.cover(&rules);
        self.surplus.want();
        // A link that came or went below wildcards led, or leads, to where it is itself.
        for (configured, way) in self.ways.ends.clone() {
            let old = ends.remove(&configured).unwrap_or_else(|| Way::of(&configured));
            if old.real == way.real {
                self.tell_flipped(&configured, &way, &causes);
            }
            self.retarget(&configured, &old, &way, &causes);
        }
        for (configured, old) in ends {
            self.retarget(&configured, &old, &Way::of(&configured), &causes);
        }
        let roots: BTreeSet<_> = self.coverage.roots().iter().map(|root| root.path.clone()).collect();
        for root in roots {
            self.watch_way(&root);
            // What came below a root is compared for itself.
            let may_be_another =
                !before.contains(&root) || root.ancestors().any(|way| causes.contains_key(way));
            // Who makes what is not there yet is told by the directory above it, which is watched now.
            let is_there = || self.is_there(&root) || self.ledger.state().baseline.contains(&root);
            let is_unwatched = || self.coverage.descends(&root) && !self.watching.is_watched(&root);
            if may_be_another || is_unwatched() && is_there() {
                self.scan_tree_once(&root);
            }
        }
        self.watch_links();
        self.forget_watches();
        self.note_waiting();
    }

    /// A way leads where it led, but may have led elsewhere in between. Of a link that is watched itself its own alert
    /// says so.
    fn tell_flipped(&mut self, configured: &Path, way: &Way, causes: &Causes) {
        let happened = self.ways.flipped(causes, way, now());
        if !happened.reappeared
            || self.coverage.options(configured).is_some()
            || !self.status.baseline_complete
        {
            return;
        }
        let is_trusted = self.trust.lane(configured) == Lane::Trusted;
        let severity = if is_trusted { Severity::High } else { Severity::Medium };
        let text = format!(
            "the way to {} was replaced more than once: it leads to {} as before, in between it may have led elsewhere",
            shown(configured),
            shown(&way.real)
        );
        self.sink.log(&text);
        let told = notice(shown(configured), text, &text_of_time(SystemTime::now()));
        self.tell(Entry::default(), vec![with_circumstances(Alert { severity, ..told }, &happened)]);
    }

    /// A configured path leads elsewhere than before: says so, and takes what was known under it along, so that what is
    /// there now is compared with that.
    fn retarget(&mut self, configured: &Path, before: &Way, after: &Way, causes: &Causes) {
        let (old, new) = (before.real.as_path(), after.real.as_path());
        if old == new {
            return;
        }
        // Of a link that is watched itself its own alert says it.
        let is_refused = self.is_refused(configured);
        if self.status.baseline_complete && (is_refused || self.coverage.options(configured).is_none()) {
            let is_trusted = self.trust.lane(configured) == Lane::Trusted;
            let severity = if is_trusted { Severity::Critical } else { Severity::High };
            let what = match self.ways.refused.get(configured) {
                Some(real) => format!("nowhere instead of {}, because {}", shown(old), why_refused(real)),
                None => format!("to {} instead of {}", shown(new), shown(old)),
            };
            let text = format!(
                "the way to {} leads elsewhere now: {what}; what is there is compared with what was known",
                shown(configured)
            );
            self.sink.log(&text);
            let told = notice(shown(configured), text, &text_of_time(SystemTime::now()));
            let told = Alert { severity, ..told };
            let links = before.links.iter().chain(&after.links).map(PathBuf::as_path);
            let paths = [configured, old, new].into_iter().chain(links);
            let ways: BTreeSet<&Path> = paths.flat_map(Path::ancestors).collect();
            let mut happened = Happened::default();
            for (_, its) in causes.iter().filter(|(path, _)| ways.contains(path.as_path())) {
                happened.merge(its.clone());
            }
            self.tell(Entry::default(), vec![with_circumstances(told, &happened)]);
        }
        // What is still covered where it is has not come from there.
        let is_gone = self.watching.avoided().follow(old).real != old;
        let is_apart = !old.starts_with(new) && !new.starts_with(old);
        self.redirect_moves(old, new);
        if !is_apart || !is_gone && self.coverage.options(old).is_some() {
            return;
        }
        if self.ledger.state().baseline.last_below(old, MOVED_AT_ONCE + 1).len() > MOVED_AT_ONCE {
            let (from, to, lane) = (old.to_owned(), new.to_owned(), self.trust.lane(old));
            let way = Some(Behind { is_gone, after: None });
            self.moves.push(Move { from, to, lane, window: None, way });
            return;
        }
        let known = self.ledger.state().baseline.tree(old);
        let changes = self.carried_over(known, old, new, is_gone);
        if !changes.is_empty() {
            self.ledger.learn(changes);
            self.note_trouble();
            self.compare_tree(new);
        }
    }

    /// Watches where a link leads that was found below an entry which follows links.
    pub(super) fn follow(&mut self, scan: u64, link: &Path) {
        let way = self.watching.avoided().follow(link);
        let is_known = self.ways.followed.contains_key(link) && !self.ways.refused.contains_key(link);
        if way.links.first().is_none_or(|first| first != link) || is_known {
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
        self.ways.refused.remove(link);
        self.ways.ends.insert(link.to_owned(), way.clone());
        self.ways.links.extend(way.links.iter().cloned());
        self.note_coverage();
        let coverage = self.coverage.clone();
        if let Some(scan) = self.scans.get_mut(&scan) {
            scan.goes_on_at(coverage, way.real.clone());
        }
        self.watch_way(&way.real);
        self.watch_links();
        if !self.ledger.state().baseline.last_below(link, 1).is_empty() {
            self.retarget(link, &Way::of(link), &way, &Causes::new());
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
        for real in self.ways.refused.clone().into_values() {
            self.watch_way(&real);
        }
        let above = self.ways.links.iter().flat_map(|link| link.ancestors().skip(1));
        for directory in above.map(Path::to_owned).collect::<BTreeSet<_>>() {
            self.watch_above(&directory, false);
        }
    }

    fn watch_above(&mut self, directory: &Path, is_whole: bool) {
        // A directory that is not there is not watched: the one above it is.
        let lane = self.trust.lane_of_names(directory).unwrap_or(Lane::Of(NOBODY));
        if let Err(error) =
            if is_whole { self.watching.add(directory, lane) } else { self.watching.add_way(directory, lane) }
            && !is_missing(&error)
            && !is_unknown_mount(&error)
            && !self.watching.avoided().has(directory)
        {
            self.note_unwatched(directory, error.to_string());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_too_many_changes_in_two_places_the_places_are_kept_and_nothing_above_them() {
        let mut doubts = Doubts::default();
        for number in 0..1_000 {
            for place in ["/home/ann/a", "/var/tmp/b/c"] {
                doubts.add(&Path::new(place).join(number.to_string()), Happened::finished());
            }
            assert!(doubts.causes.len() <= MAX_CAUSES);
        }

        let is_in_one = |path: &Path| path.starts_with("/home/ann/a") || path.starts_with("/var/tmp/b/c");
        assert!(doubts.causes.keys().all(|path| is_in_one(path)), "{:?}", doubts.causes.keys());
    }

    #[test]
    fn of_too_many_changes_at_the_ends_of_deep_chains_some_directory_above_each_is_kept() {
        let mut doubts = Doubts::default();
        let chain = |number: usize| {
            let names = (0..200).map(|depth| format!("{number}-{depth}"));
            Path::new("/home/ann").join(names.collect::<PathBuf>())
        };
        for number in 0..2 * MAX_CAUSES {
            doubts.add(&chain(number), Happened::finished());
        }

        assert!(doubts.causes.len() <= MAX_CAUSES);
        for number in 0..2 * MAX_CAUSES {
            let chain = chain(number);
            assert!(doubts.causes.keys().any(|kept| chain.starts_with(kept)), "{chain:?}");
        }
    }

    #[test]
    fn no_user_takes_the_room_for_followed_links_from_root_or_from_another_user() {
        let mut ways = Ways::default();
        let link = |owner: u32, number: usize| PathBuf::from(format!("/home/{owner}/{number:05}"));
        for number in 0..MAX_FOLLOWED {
            assert_eq!(ways.room_for(1000), (true, None));
            ways.followed.insert(link(1000, number), 1000);
        }

        assert_eq!(ways.room_for(1000), (false, None));
        assert_eq!(ways.room_for(0), (true, None));
        assert_eq!(ways.room_for(1001), (true, Some(link(1000, MAX_FOLLOWED - 1))));
        for number in 0..MAX_FOLLOWED {
            ways.followed.insert(link(0, number), 0);
        }
        assert_eq!(ways.room_for(0), (false, None));
    }

    #[test]
    fn a_link_that_came_twice_within_a_moment_may_have_led_elsewhere() {
        let (mut ways, begun) = (Ways::default(), now());
        let link = PathBuf::from("/etc/app");
        let way = Way { real: "/srv/app".into(), links: vec![link.clone()] };
        let came = Happened { appeared: true, ..Happened::finished() };
        let mut twice = came.clone();
        twice.merge(came.clone());
        let mut flipped = |happened: &Happened, seconds: u64| {
            let causes = Causes::from([(link.clone(), happened.clone())]);
            ways.flipped(&causes, &way, begun + Duration::from_secs(seconds)).reappeared
        };

        assert!(!flipped(&came, 0) && flipped(&came, 0), "in two parts");
        assert!(!flipped(&came, 10), "replaced once by the same");
        assert!(flipped(&twice, 20));
        assert!(!flipped(&Happened::finished(), 20));
    }

    #[test]
    fn what_a_user_changes_again_and_again_waits_longer_each_time_and_what_root_changes_never() {
        let begun = now();
        let mut ways = Ways::default();
        let user = Lane::Of(7);
        let (mut resolved, mut names) = (Vec::new(), BTreeSet::new());
        for step in 0..6_000_u64 {
            let at = begun + Duration::from_millis(10 * step);
            let path = PathBuf::from(format!("/home/a/{}/x{step}", step % 3));
            ways.doubts.entry(user).or_default().add(&path, Happened::finished());
            let causes = ways.take_due(at);
            assert!(causes.len() <= MAX_CAUSES);
            if !causes.is_empty() {
                resolved.push(step);
            }
            names.extend(causes.into_keys());
        }
        ways.doubts.entry(Lane::Trusted).or_default().add(Path::new("/etc"), Happened::finished());
        let at_once = ways.take_due(begun + Duration::from_secs(60));

        assert!((8..=14).contains(&resolved.len()) && resolved[0] == 0, "{resolved:?}");
        assert!(at_once.contains_key(Path::new("/etc")));
        let later = ways.take_due(begun + Duration::from_secs(70));
        names.extend(later.into_keys());
        for step in 0..6_000 {
            let path = PathBuf::from(format!("/home/a/{}/x{step}", step % 3));
            assert!(path.ancestors().any(|way| names.contains(way)), "{}", path.display());
        }
        assert!(ways.are_known() && ways.take_due(begun + Duration::from_secs(100)).is_empty());
        assert!(ways.doubts.is_empty(), "who is quiet does not wait any more");
    }
}
