//! Comparing directories with what is known of them, in the background of everything else.

mod tree;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::SyncSender;
use std::time::{Duration, Instant, SystemTime};

use serde_json::{Value, json};

use super::slices::KnownTree;
use super::{Engine, Sink, now};
use crate::change::shown;
use crate::events::{Happened, Window};
use crate::look::is_missing;
use crate::object::{Content, NotRead, Object};
use crate::rules::{Coverage, Interest};
use crate::trust::{Lane, NOBODY};
use crate::waiting::Extent;
use crate::workers::{Charge, Depth, Findings, Job, Listed, PORTION_NAMES, Report, ScanRules};

/// Directories that wait for a worker, for each worker.
const QUEUED_DIRECTORIES: usize = 8;

/// Bytes that listings of users' directories may take at once, of all scans together; one is always possible.
const LISTED_BYTES: usize = 8 << 20;

/// Bytes that the names in a directory are taken for before they are read, and those of an object that is known.
const LISTING_BYTES: usize = 2 << 20;
const KNOWN_BYTES: usize = 256;

/// Longest time that a comparison waits for room for a user's paths: what it still has of his is noted then, so that
/// nobody keeps it from coming to its end.
const LONGEST_HELD: Duration = Duration::from_secs(30);

/// Objects of one scan from which on memory is given back after it.
const MANY_COMPARED: usize = 10_000;

/// Names of one directory that are taken up at once.
const FOUND_AT_ONCE: usize = 256;

/// Paths that are looked at for one scan before more directories are listed: however much differs, only so many wait.
const MAX_OPEN: usize = 16_384;

/// What a scan is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// The first one under a configuration.
    Learn,
    /// It is time to see what gave no notification.
    Quick,
    /// Notifications were lost.
    Lost,
    /// A directory came.
    Tree,
    /// More happened in a directory than was told by name.
    Busy,
    /// Somebody asked for it.
    Asked,
}

impl Purpose {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Learn => "first scan",
            Self::Quick => "quick scan",
            Self::Lost => "scan after lost notifications",
            Self::Tree => "new directory",
            Self::Busy => "busy directory",
            Self::Asked => "rescan",
        }
    }
}

/// A scan under way.
#[derive(Debug)]
pub(super) struct Scan {
    pub(super) purpose: Purpose,
    /// Directories that are still to be listed, and after which name.
    stack: Vec<(PathBuf, Option<OsString>)>,
    /// Those of users for whose paths there is no room at present.
    held: BTreeMap<Lane, Vec<(PathBuf, Option<OsString>)>>,
    /// What is known there and is to be looked at.
    pub(super) known: Vec<KnownTree>,
    /// The directory that it is for, and how much of it, when that was busy or came.
    directory: Option<(PathBuf, Extent)>,
    /// To whom it is accounted.
    lane: Lane,
    /// Jobs whose reports are awaited.
    running: usize,
    rules: ScanRules,
    window: Option<Window>,
    whole: bool,
    begun: Instant,
    /// Everything was listed.
    walked: bool,
    /// Hashes of the paths that are looked at because of it and have not been told yet, by the engine's own keys. Each
    /// path that is told is looked for in every scan, and users make paths as long as they like.
    open: HashSet<u64>,
    pub(super) compared: usize,
    bytes_read: u64,
    differing: usize,
    /// What it compares was doubted again meanwhile: it is listed once more.
    again: bool,
    /// Who waits for its end.
    done: Vec<SyncSender<Value>>,
    /// What was asked for and is not watched.
    unwatched: Vec<String>,
}

impl Scan {
    /// Whether it compares a directory because that was busy.
    pub(super) fn is_for_busy(&self) -> bool {
        self.purpose == Purpose::Busy
    }

    /// Whether it compares this directory for that.
    pub(super) fn is_of(&self, directory: &Path) -> bool {
        self.is_for_busy() && self.directory.as_ref().is_some_and(|(known, _)| known == directory)
    }

    /// Whether directories that were known before are left out.
    fn is_shallow(&self) -> bool {
        self.directory.as_ref().is_some_and(|(_, extent)| *extent == Extent::Names)
    }

    /// Whether notifications were lost before it.
    pub(super) fn is_for_what_was_lost(&self) -> bool {
        self.purpose == Purpose::Lost
    }

    /// Whether more may be looked at for it now.
    pub(super) fn has_room(&self) -> bool {
        self.open.len() < MAX_OPEN
    }

    /// More is covered from now on: the walk goes there as well.
    pub(super) fn goes_on_at(&mut self, coverage: Arc<Coverage>, directory: PathBuf) {
        self.rules.coverage = coverage;
        self.stack.push((directory, None));
    }

    /// Whether it compares everything.
    pub(super) fn is_whole(&self) -> bool {
        self.whole
    }
}

impl<S: Sink> Engine<S> {
    fn scan_rules(&self, depth: Depth) -> ScanRules {
        let all_learned = self.coverage.rules().entries().iter().all(|entry| self.learned.contains(entry));
        ScanRules {
            coverage: self.coverage.clone(),
            learned: self.learned.clone(),
            all_learned,
            depth,
            avoided: self.watching.avoided().clone(),
        }
    }

    fn add_scan(
        &mut self,
        purpose: Purpose,
        depth: Depth,
        roots: Vec<PathBuf>,
        done: Option<SyncSender<Value>>,
    ) -> u64 {
        let number = self.number();
        let window =
            (purpose != Purpose::Tree).then(|| Window { from: self.seen_until, to: SystemTime::now() });
        let scan = Scan {
            purpose,
            stack: roots.into_iter().map(|root| (root, None)).collect(),
            held: BTreeMap::new(),
            known: Vec::new(),
            directory: None,
            lane: Lane::Trusted,
            running: 0,
            rules: self.scan_rules(depth),
            window,
            whole: false,
            begun: now(),
            walked: false,
            open: HashSet::new(),
            compared: 0,
            bytes_read: 0,
            differing: 0,
            again: false,
            done: done.into_iter().collect(),
            unwatched: Vec::new(),
        };
        self.scans.insert(number, scan);
        number
    }

    /// Compares everything that is covered with what is there.
    pub(super) fn scan_all(&mut self, purpose: Purpose, depth: Depth, done: Option<SyncSender<Value>>) {
        let mut waiting = Vec::new();
        if purpose == Purpose::Learn {
            // They go by rules that are no longer those; who waits for one waits for this one now.
            waiting = std::mem::take(&mut self.scans).into_values().flat_map(|scan| scan.done).collect();
        }
        self.note_avoided();
        // Of files that are gone nothing is kept: the scan names those that there are.
        self.watching.forget_names();
        let roots: BTreeSet<_> = self.coverage.roots().iter().map(|root| root.path.clone()).collect();
        for root in &roots {
            self.watch_way(root);
        }
        self.watch_links();
        // The shortest is taken first: what is in it is then known to be covered by the walk.
        let top: Vec<PathBuf> = roots
            .iter()
            .filter(|root| !root.ancestors().skip(1).any(|above| self.walks_from(&roots, above, root)))
            .cloned()
            .collect();
        let number = self.add_scan(purpose, depth, top, done);
        if let Some(scan) = self.scans.get_mut(&number) {
            scan.whole = true;
            scan.done.extend(waiting);
        }
        for root in &roots {
            self.suspect_root(number, root);
        }
        self.next_scan = None;
        self.note_waiting();
        self.feed_scans();
    }

    /// Whether the walk from one root comes by another.
    fn walks_from(&self, roots: &BTreeSet<PathBuf>, above: &Path, root: &Path) -> bool {
        roots.contains(above)
            && root
                .ancestors()
                .skip(1)
                .take_while(|way| way.starts_with(above))
                .all(|way| self.coverage.descends(way))
    }

    /// Has a root looked at, and everything that is known below it when it is gone: no listing would tell.
    pub(super) fn suspect_root(&mut self, scan: u64, root: &Path) {
        if self.coverage.options(root).is_some() {
            self.suspect(scan, root.to_owned(), false);
        }
        if !self.is_there(root) {
            self.suspect_known(scan, root);
        }
    }

    /// To whom work at the names in a directory is accounted.
    pub(super) fn lane_of_names(&mut self, directory: &Path) -> Lane {
        self.trust.lane_of_names(directory).unwrap_or(Lane::Of(NOBODY))
    }

    /// Compares a directory in which more happened than was told by name: its names and what is below new ones, or all.
    pub(super) fn scan_busy(&mut self, directory: PathBuf, extent: Extent) {
        let mut roots = vec![directory.clone()];
        if extent == Extent::Tree {
            // The walk may not come by those that are further down.
            let below = self.coverage.roots().iter().map(|root| &root.path);
            let below = below.filter(|root| root.starts_with(&directory) && **root != directory);
            roots.extend(below.cloned().collect::<BTreeSet<_>>());
        }
        let number = self.add_scan(Purpose::Busy, Depth::Glance, roots, None);
        let lane = self.lane_of_names(&directory);
        if let Some(scan) = self.scans.get_mut(&number) {
            (scan.directory, scan.lane) = (Some((directory, extent)), lane);
        }
        self.feed_scan(number);
    }

    /// Compares what is known and what is there at a path and below it.
    pub(super) fn compare_tree(&mut self, path: &Path) {
        let number = self.add_scan(Purpose::Tree, Depth::Glance, vec![path.to_owned()], None);
        self.suspect_known(number, path);
        self.feed_scan(number);
    }

    /// Compares on request.
    pub(super) fn rescan(&mut self, paths: Vec<PathBuf>, prove: bool, done: SyncSender<Value>) {
        let depth = if prove { Depth::Prove } else { Depth::Glance };
        if paths.is_empty() {
            self.scan_all(Purpose::Asked, depth, Some(done));
            return;
        }
        // Who asks for a path means what it leads to.
        let is_known = |path: &PathBuf| self.coverage.options(path).is_some();
        let lead =
            |path: PathBuf| Some(self.watching.avoided().follow(&path).real).filter(is_known).unwrap_or(path);
        let paths: Vec<PathBuf> = paths.into_iter().map(lead).collect();
        let is_watched =
            |path: &PathBuf| self.coverage.options(path).is_some() || self.coverage.descends(path);
        let unwatched: Vec<String> =
            paths.iter().filter(|path| !is_watched(path)).map(|path| shown(path)).collect();
        if unwatched.len() == paths.len() {
            let why = "not watched, so there is nothing to compare; --explain PATH says why";
            done.try_send(json!({"not_watched": unwatched, "why": why})).ok();
            return;
        }
        let number = self.add_scan(Purpose::Asked, depth, paths.clone(), Some(done));
        if let Some(scan) = self.scans.get_mut(&number) {
            scan.unwatched = unwatched;
        }
        for path in paths {
            let is_gone = !self.is_there(&path);
            if self.coverage.options(&path).is_some() {
                self.suspect(number, path.clone(), prove);
            }
            if is_gone {
                self.suspect_known(number, &path);
            }
        }
        self.feed_scans();
    }

    /// Has a path looked at for a scan.
    pub(super) fn suspect(&mut self, scan: u64, path: PathBuf, prove: bool) {
        let hash = self.path_keys.of(path.as_path());
        let Some(scan) = self.scans.get_mut(&scan) else { return };
        let happened = Happened { prove, window: scan.window, ..Happened::finished() };
        scan.open.insert(hash);
        // A scan finds what is over; only what just came may still be written to.
        if matches!(scan.purpose, Purpose::Tree | Purpose::Busy) {
            self.touch(&path, happened, now());
        } else {
            self.hurry(&path, happened, now());
        }
    }

    /// Gives the workers directories to list, of all scans.
    pub(super) fn feed_scans(&mut self) {
        let numbers: Vec<u64> = self.scans.keys().copied().collect();
        for number in numbers {
            self.feed_scan(number);
        }
    }

    /// Gives the workers directories to list, of one scan. A user who makes directories begins a scan with each, so
    /// that a new one must not cost a step for all the others.
    fn feed_scan(&mut self, number: u64) {
        let most = self.workers.threads() * QUEUED_DIRECTORIES;
        let mut jobs = Vec::new();
        while let Some(scan) = self.scans.get(&number)
            && scan.running < most
            && scan.has_room()
            && let Some((directory, after, lane)) = self.next_directory(number)
        {
            if self.watching.avoided().has(&directory) {
                self.note_avoided();
                continue;
            }
            if self.is_hung(&directory) {
                self.note_hung(&directory);
                continue;
            }
            if !self.coverage.descends(&directory) || !self.watch_directory(&directory) {
                if self.ledger.state().baseline.contains(&directory) {
                    // All that is known below it goes with it.
                    self.suspect(number, directory, false);
                } else {
                    self.suspect_below(number, &directory, &[]);
                }
                continue;
            }
            let baseline = &self.ledger.state().baseline;
            let known = baseline.children_after(&directory, after.as_deref(), PORTION_NAMES);
            let names: usize = known.iter().map(|(name, _)| KNOWN_BYTES + name.len()).sum();
            let bytes = if lane == Lane::Trusted { 0 } else { LISTING_BYTES + names };
            self.listed_bytes += bytes;
            if let Some(scan) = self.scans.get_mut(&number) {
                scan.running += 1;
                let (rules, charge) = (scan.rules.clone(), Charge { lane, bytes });
                jobs.push(Job::List { scan: number, directory, after, known, rules, charge });
            }
        }
        self.workers.put(jobs);
        self.give_up_held(number);
        self.finish_scan(number);
    }

    /// Whether a scan has waited long enough for room for a user's paths.
    pub(super) fn is_overdue(&self, number: u64) -> bool {
        // Before everything was looked at once, what is not compared now would seem to be new.
        self.scans.get(&number).is_some_and(|scan| {
            scan.purpose != Purpose::Learn && now().duration_since(scan.begun) >= LONGEST_HELD
        })
    }

    /// Leaves directories that wait for room too long to a comparison of their own.
    fn give_up_held(&mut self, number: u64) {
        let waits =
            self.scans.get(&number).is_some_and(|scan| !scan.held.is_empty() && scan.stack.is_empty());
        if !waits || !self.is_overdue(number) {
            return;
        }
        let Some(scan) = self.scans.get_mut(&number) else { return };
        for (directory, _) in std::mem::take(&mut scan.held).into_values().flatten() {
            self.note_busy_directory(directory, Extent::Tree);
        }
    }

    /// Whether a directory may be listed now: what would be found in it has room.
    fn may_list(&self, lane: Lane) -> bool {
        let is_first = self.listed_bytes == 0;
        lane == Lane::Trusted
            || (is_first || self.listed_bytes + LISTING_BYTES <= LISTED_BYTES) && self.due.has_room(lane)
    }

    /// The next directory of a scan that may be listed; those of users without room are put aside.
    fn next_directory(&mut self, number: u64) -> Option<(PathBuf, Option<OsString>, Lane)> {
        let lanes: Vec<Lane> = self.scans.get(&number)?.held.keys().copied().collect();
        for lane in lanes {
            if self.may_list(lane)
                && let Some(scan) = self.scans.get_mut(&number)
                && let Some(held) = scan.held.get_mut(&lane)
            {
                let next = held.pop();
                if held.is_empty() {
                    scan.held.remove(&lane);
                }
                if let Some((directory, after)) = next {
                    return Some((directory, after, lane));
                }
            }
        }
        loop {
            let (directory, after) = self.scans.get_mut(&number)?.stack.pop()?;
            let lane = self.lane_of_names(&directory);
            if self.may_list(lane) {
                return Some((directory, after, lane));
            }
            self.scans.get_mut(&number)?.held.entry(lane).or_default().push((directory, after));
        }
    }

    /// Has everything looked at that is known below the directories of `directory` that are not there.
    fn suspect_below(&mut self, scan: u64, directory: &Path, there: &[(OsString, u64)]) {
        for name in self.ledger.state().baseline.ways(directory) {
            if !there.iter().any(|(known, _)| *known == name) {
                self.suspect_known(scan, &directory.join(name));
            }
        }
    }

    pub(super) fn note_listed(&mut self, number: u64, directory: &Path, listed: Listed, charge: Charge) {
        let Listed { directories, mut findings, parts, rest_after, error } = listed;
        self.listed_bytes -= charge.bytes;
        let Some(scan) = self.scans.get_mut(&number) else { return };
        scan.running += parts;
        scan.running -= 1;
        self.leave_for_later(number, directory, &mut findings, charge.lane);
        let Some(scan) = self.scans.get_mut(&number) else { return };
        let is_shallow = scan.is_shallow();
        if rest_after.is_some() {
            scan.stack.push((directory.to_owned(), rest_after));
        }
        if let Some(error) = error.filter(|error| !is_missing(error)) {
            self.note_unwatched(directory, format!("it cannot be listed: {error}"));
        } else if self.coverage.interest(directory) == Interest::OnTheWay {
            self.suspect_below(number, directory, &directories);
        }
        let own_device = directories.iter().any(|(_, device)| *device != directories[0].1).then(|| {
            self.watching.avoided().status(directory).map(|status| status.st_dev).unwrap_or_default()
        });
        for (name, device) in directories {
            let path = directory.join(name);
            if own_device.is_some_and(|own| own != device) && self.is_left_out(&path) {
                continue;
            }
            // In one that nobody knew more may have happened than was told.
            let is_left = is_shallow
                && (self.coverage.options(&path).is_none() || self.ledger.state().baseline.contains(&path));
            if let Some(scan) = self.scans.get_mut(&number).filter(|_| !is_left) {
                scan.stack.push((path, None));
            }
        }
        self.note_findings(number, directory, findings);
    }

    /// Whether a file system is mounted there that has nothing to watch, and no entry asks for it by name.
    fn is_left_out(&mut self, path: &Path) -> bool {
        if self.coverage.roots().iter().any(|root| root.path.starts_with(path)) {
            return false;
        }
        let Some(mount) = self.watching.mounts().of(path).filter(|mount| mount.is_pseudo()) else {
            return false;
        };
        let why = format!("{} contains no stored files, only data of the kernel", mount.kind);
        self.status.skipped.insert(path.to_owned(), why);
        true
    }

    pub(super) fn note_read(
        &mut self,
        number: u64,
        directory: &Path,
        mut findings: Findings,
        parts: usize,
        charge: Charge,
    ) {
        self.listed_bytes -= charge.bytes;
        let Some(scan) = self.scans.get_mut(&number) else { return };
        scan.running += parts;
        scan.running -= 1;
        self.leave_for_later(number, directory, &mut findings, charge.lane);
        self.note_findings(number, directory, findings);
    }

    /// Takes up only so much of what was found at once.
    fn leave_for_later(&mut self, number: u64, directory: &Path, findings: &mut Findings, lane: Lane) {
        let Some(rest) = findings.split_off(FOUND_AT_ONCE) else { return };
        if let Some(scan) = self.scans.get_mut(&number) {
            scan.running += 1;
            let directory = directory.to_owned();
            let charge = Charge { lane, bytes: if lane == Lane::Trusted { 0 } else { LISTING_BYTES } };
            self.listed_bytes += charge.bytes;
            self.backlog.put_first(Report::Read {
                scan: number,
                directory,
                findings: rest,
                parts: 0,
                charge,
            });
        }
    }

    fn note_findings(&mut self, number: u64, directory: &Path, findings: Findings) {
        if let Some(scan) = self.scans.get_mut(&number) {
            scan.compared += findings.compared;
            scan.bytes_read += findings.bytes_read;
            scan.differing += findings.suspects.len() + findings.disproved.len();
        }
        self.learn(number, directory, findings.fresh);
        for name in findings.suspects {
            self.suspect(number, directory.join(name), false);
        }
        for name in findings.disproved {
            self.suspect(number, directory.join(name), true);
        }
        for name in findings.large {
            self.suspect(number, directory.join(name), false);
        }
        for (name, error) in findings.unreadable {
            let path = if name.is_empty() { directory.to_owned() } else { directory.join(name) };
            self.status.unreadable.insert(path, error.to_string());
        }
        for name in findings.linked {
            self.follow_names(&directory.join(name));
        }
        for name in findings.links {
            self.follow(number, &directory.join(name));
        }
        self.finish_scan(number);
    }

    /// Takes new objects as known in silence.
    fn learn(&mut self, scan: u64, directory: &Path, mut fresh: Vec<(OsString, Object)>) {
        // Files come after directories, which are not read.
        fresh.sort_by(|(one, _), (other, _)| one.cmp(other));
        if !self.in_flight.is_empty() {
            // Something happens to those, so another look has the last word.
            let busy: Vec<_> =
                fresh.extract_if(.., |(name, _)| self.in_flight.contains(&directory.join(name))).collect();
            for (name, _) in busy {
                self.suspect(scan, directory.join(name), false);
            }
        }
        for (name, object) in &fresh {
            match object.content {
                // It is looked at in a lane, and was suspected already.
                Content::NotRead(NotRead::BeingRead) => {}
                Content::NotRead(why) if why.is_for_now() => self.note_unread(&directory.join(name), why),
                _ => {}
            }
        }
        for name in self.ledger.learn_new(directory, fresh) {
            self.suspect(scan, directory.join(name), false);
        }
    }

    /// A path was looked at and told: scans that waited for it may be done.
    pub(super) fn settled(&mut self, path: &Path) {
        if self.scans.is_empty() {
            return;
        }
        let hash = self.path_keys.of(path);
        let mut done = Vec::new();
        for (number, scan) in &mut self.scans {
            if scan.open.remove(&hash) && scan.walked {
                done.push(*number);
            }
        }
        for number in done {
            self.finish_scan(number);
        }
    }

    pub(super) fn finish_scan(&mut self, number: u64) {
        let Some(scan) = self.scans.get_mut(&number) else { return };
        let is_listed = scan.stack.is_empty() && scan.held.is_empty() && scan.running == 0;
        if !is_listed || !scan.known.is_empty() || self.repeat_scan(number) {
            return;
        }
        let Some(scan) = self.scans.get_mut(&number) else { return };
        scan.walked = true;
        if !scan.open.is_empty() {
            return;
        }
        let Some(scan) = self.scans.remove(&number) else { return };
        let took = now().duration_since(scan.begun);
        if scan.compared > MANY_COMPARED {
            self.memory.is_swollen(now());
        }
        if scan.whole {
            self.status.last_scan = Some((SystemTime::now(), took));
            let quick_scan = self.coverage.rules().settings().quick_scan;
            self.next_scan = quick_scan.map(|pause| now() + pause);
            self.forget_watches();
            self.forget_gone();
        }
        if scan.purpose == Purpose::Learn {
            self.note_learned();
        }
        if !self.status.waiting.is_empty() {
            self.note_waiting();
        }
        if !scan.done.is_empty() {
            let mut answer = json!({
                "rescanned": true,
                "compared": scan.compared,
                "differing": scan.differing,
                "bytes_read": scan.bytes_read,
                "seconds": took.as_secs_f64(),
            });
            if !scan.unwatched.is_empty() {
                answer["not_watched"] = json!(scan.unwatched);
            }
            for done in scan.done {
                // Nobody waits any more, or there is room for one answer.
                done.try_send(answer.clone()).ok();
            }
        }
        if scan.whole && std::mem::take(&mut self.lost_again) {
            self.scan_all(Purpose::Lost, Depth::Glance, None);
        }
    }

    fn note_learned(&mut self) {
        let entries: BTreeSet<String> = self.coverage.rules().entries().into_iter().collect();
        self.learned = Arc::new(entries.clone());
        let digest = self.coverage.digest();
        self.ledger.learned(entries, digest);
        self.note_trouble();
        self.status.baseline_complete = true;
        self.loops.doubted = true;
        self.memory.is_swollen(now());
        self.seen_until = SystemTime::now();
        self.tell_widening();
        self.ledger.tend(true, true);
        self.publish();
        let message = format!(
            "watching {} paths: {} objects known, {} file systems watched by fanotify, {} directories by inotify, {} \
             paths not there yet",
            self.status.entries,
            self.status.objects,
            self.watching.choices().filter(|choice| choice.fanotify).count(),
            self.watching.directories().len(),
            self.status.waiting.len()
        );
        self.sink.log(&message);
    }
}
