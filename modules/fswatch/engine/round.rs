//! Looking at some paths together and telling what is not as it was known.
//!
//! What happened in the same moment is looked at in one round, because together it can mean something else: a name
//! that went and one that came with the same inode are one file with another name.

use std::collections::{HashMap, HashSet};
use std::io;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime};

use serde_json::Value;

use super::moving::Move;
use super::renames::{Renamed, renames};
use super::{Engine, SLICE, Sink, canary, linked, now, text_of_time, window_json};
use crate::avoided::is_unknown_mount;
use crate::change::{Alert, Event, Undone, alert, compare, digest_known, touched};
use crate::events::{Happened, Window};
use crate::ledger::Entry;
use crate::look::Found;
use crate::object::{Content, Kind, NotRead, Object};
use crate::query::path_from_text;
use crate::recorded::{PackageRecords, Question, mark_manager};
use crate::storm::Writer;
use crate::trust::Lane;
use crate::workers::{Item, Job, plan};

/// Paths of one round.
const ROUND_PATHS: usize = 256;

/// Rounds of what root alone can change that are under way at once.
const MAX_ROUNDS: usize = 4;

/// Paths of one round of a user's.
const USER_ROUND_PATHS: usize = 64;

/// Rounds of one user that are under way at once, and of all users together.
const MAX_USER_ROUNDS: [usize; 2] = [2, 8];

/// Paths that one worker takes at a time.
pub(super) const LOOKED_TOGETHER: usize = 16;

/// Paths below directories that are gone which are told at once in a round, and bytes of them.
const GONE_AT_ONCE: usize = 256;
const GONE_BYTES: usize = 256 << 10;

/// Time that the notification of a write has to arrive once somebody saw what was written. When the write was through a
/// name that is not known, one search goes before.
const LONGEST_TOLD: Duration = linked::PAUSE.saturating_add(Duration::from_millis(500));

/// Files that wait for that; changes of more are reported without waiting.
const MAX_UNHEARD: usize = 256;

/// Some paths that are looked at.
#[derive(Debug)]
pub(super) struct Round {
    pub(super) lane: Lane,
    /// When its paths were given to the workers.
    pub(super) begun: Instant,
    /// Reports that are awaited.
    awaited: usize,
    outcomes: Vec<(Item, io::Result<Found>)>,
}

/// What a round found, before it is told.
#[derive(Debug)]
pub(super) struct Told {
    lane: Lane,
    entry: Entry,
    alerts: Vec<Alert>,
    /// Directories that have another place, and since when nobody saw what happened in them. They are compared when
    /// what is known of them is known under their new name: before, nothing would be missing there.
    came: Vec<(PathBuf, Option<Window>)>,
    /// Directories with very much in them that have another name: what is in them gets that in slices.
    moves: Vec<Move>,
    /// All paths of the round.
    paths: Vec<PathBuf>,
    /// What happened to those that package managers changed.
    managed: HashMap<PathBuf, Happened>,
}

/// One path of a round as it was found.
pub(super) struct Seen {
    pub(super) path: PathBuf,
    pub(super) happened: Happened,
    pub(super) known: Option<Object>,
    pub(super) there: Option<Object>,
    /// It is the known file with more at its end, or a step of a rotation, and its rule allows that.
    pub(super) grown: bool,
    /// Of a compressed log, the digest of what is in it.
    pub(super) unpacked: Option<[u8; 32]>,
    /// Of a file that begins with all that is known of the log of which it can be a copy, or which it was, the digest
    /// of that.
    pub(super) begins_with: Option<[u8; 32]>,
}

impl Seen {
    /// A path at which nothing is.
    fn gone(path: PathBuf, happened: Happened, known: Option<Object>) -> Self {
        Self { path, happened, known, there: None, grown: false, unpacked: None, begins_with: None }
    }
}

impl<S: Sink> Engine<S> {
    /// The lanes of the rounds under way.
    fn lanes(&self) -> impl Iterator<Item = Lane> {
        let unrecorded = self.unrecorded.values().map(|told| told.lane);
        self.rounds.values().map(|round| round.lane).chain(unrecorded)
    }

    /// Of a round whose alerts wait for what packages say.
    pub(super) fn lane_of_unrecorded(&self, round: u64) -> Option<Lane> {
        self.unrecorded.get(&round).map(|told| told.lane)
    }

    pub(super) fn has_room_for_a_round(&self, lane: Lane) -> bool {
        let of_it = self.lanes().filter(|other| *other == lane).count();
        match lane {
            Lane::Trusted => of_it < MAX_ROUNDS,
            Lane::Of(_) => {
                let [of_one, of_all] = MAX_USER_ROUNDS;
                of_it < of_one && self.lanes().filter(|lane| *lane != Lane::Trusted).count() < of_all
            }
        }
    }

    /// Has the paths looked at whose time has come.
    pub(super) fn start_rounds(&mut self) {
        while self.has_room_for_a_round(Lane::Trusted) {
            let ready = self.due.take_trusted(now(), ROUND_PATHS);
            if ready.is_empty() {
                break;
            }
            self.start_round(Lane::Trusted, ready);
        }
        let begun = now();
        loop {
            let lanes: Vec<Lane> = self.lanes().filter(|lane| *lane != Lane::Trusted).collect();
            let [of_one, of_all] = MAX_USER_ROUNDS;
            if lanes.len() >= of_all || now().duration_since(begun) >= SLICE {
                return;
            }
            let has_turn = |user| lanes.iter().filter(|lane| **lane == Lane::Of(user)).count() < of_one;
            let Some((user, ready)) = self.due.take_of_users(now(), USER_ROUND_PATHS, has_turn) else {
                return;
            };
            self.start_round(Lane::Of(user), ready);
        }
    }

    fn start_round(&mut self, lane: Lane, mut ready: Vec<(PathBuf, Happened)>) {
        if !self.moves.is_empty() {
            ready.retain(|(path, happened)| !self.awaits_move(path, happened));
        }
        self.add_other_names(lane, &mut ready);
        let mut items = Vec::with_capacity(ready.len());
        for (path, happened) in ready {
            if self.in_flight.contains(&path) {
                self.again.entry(path).or_default().merge(happened);
                continue;
            }
            if self.coverage.options(&path).is_some()
                && (self.holds_back(&path, &happened)
                    || self.lets_write(&path, &happened)
                    || self.lets_copy(&path, &happened))
            {
                continue;
            }
            let Some(options) = self.coverage.options(&path).filter(|_| !self.watching.avoided().has(&path))
            else {
                self.unheard.remove(&path);
                self.unknown_mounts.remove(&path);
                self.status.unreadable.remove(&path);
                self.settled(&path);
                continue;
            };
            let being_read = self.contents.is_being_read(&path);
            // Of a log it matters whether it only grows, which takes reading it.
            let being_written = happened.written && !happened.finished && !happened.prove && !options.growing;
            let plan =
                crate::look::Plan { prove: happened.prove, being_read, being_written, ..plan(options) };
            let its = self.ledger.state().baseline.get(&path);
            let other = || self.log_before(&path, happened.moved_from.as_deref());
            let known = plan.growing.then(other).flatten().or(its);
            let known = known.or_else(|| plan.growing.then(|| self.copied_log(&path)).flatten());
            self.in_flight.insert(path.clone());
            items.push(Item { path, known, plan, happened, reads: false, unpacked: None });
        }
        if items.is_empty() {
            return;
        }
        let number = self.number();
        let mut round = Round { lane, begun: now(), awaited: 0, outcomes: Vec::with_capacity(items.len()) };
        let mut jobs = Vec::new();
        let mut items = items.into_iter().peekable();
        while items.peek().is_some() {
            let items = items.by_ref().take(LOOKED_TOGETHER).collect();
            jobs.push(Job::Look { lane, round: number, items });
            round.awaited += 1;
        }
        self.rounds.insert(number, round);
        self.workers.put(jobs);
    }

    pub(super) fn note_looked(&mut self, number: u64, outcomes: Vec<(Item, io::Result<Found>)>) {
        if number == canary::ROUND {
            self.note_canary_read(outcomes.first().and_then(|(_, found)| found.as_ref().ok()));
            return;
        }
        let Some(round) = self.rounds.get_mut(&number) else { return };
        round.awaited -= 1;
        round.outcomes.extend(outcomes);
        if round.awaited > 0 {
            return;
        }
        if let Some(round) = self.rounds.remove(&number) {
            self.settle(number, round.lane, round.outcomes);
        }
    }

    /// Finds out what is to be told of a round.
    pub(super) fn settle(&mut self, number: u64, lane: Lane, outcomes: Vec<(Item, io::Result<Found>)>) {
        let outcomes = self.leave_what_moves(outcomes);
        let paths: Vec<PathBuf> = outcomes.iter().map(|(item, _)| item.path.clone()).collect();
        let mut seen: Vec<Seen> =
            outcomes.into_iter().filter_map(|(item, found)| self.judge(item, found)).collect();
        self.judge_logs(&mut seen);
        self.add_what_went_along(&mut seen);
        // What came before what went: a name that went with another one is told there.
        let renames = renames(&seen);
        let mut entry = Entry::default();
        let mut alerts = Vec::new();
        let (mut came, mut moves) = (Vec::new(), Vec::new());
        let mut managed = HashMap::new();
        for (to, from) in &renames {
            match self.rename(&seen[*from], &seen[*to], &mut entry, &mut alerts) {
                Renamed::File => {}
                Renamed::Tree(window) => came.push((seen[*to].path.clone(), window)),
                Renamed::Large(window) => {
                    let (from, to) = (seen[*from].path.clone(), seen[*to].path.clone());
                    moves.push(Move { from, to, lane, window, way: None });
                }
            }
        }
        let told: HashSet<usize> = renames.iter().flat_map(|(to, from)| [*to, *from]).collect();
        let moved: Vec<(PathBuf, PathBuf)> = renames
            .iter()
            .filter(|(to, _)| is_directory(&seen[*to].there))
            .map(|(to, from)| (seen[*to].path.clone(), seen[*from].path.clone()))
            .collect();
        for (index, one) in seen.iter_mut().enumerate() {
            // What is in a directory that has another name now went along with it.
            let is_in = |directory: &PathBuf| one.path.starts_with(directory) && one.path != *directory;
            if told.contains(&index) || moved.iter().any(|(_, from)| is_in(from)) {
                continue;
            }
            if moved.iter().any(|(to, _)| is_in(to)) {
                // What was known of it under its old name is known only after this round.
                self.hurry(&one.path, one.happened.clone(), now());
                continue;
            }
            if is_directory(&one.there) && one.happened.moved_from.is_some() {
                came.push((one.path.clone(), None));
            }
            let told = self.difference(one).or_else(|| self.completion(one)).or_else(|| self.undone(one));
            if let Some(told) = told {
                if told.managed.is_some() || told.unfinished {
                    managed.insert(one.path.clone(), one.happened.clone());
                }
                alerts.push(told);
            }
            if one.there.as_ref().is_some_and(|object| object.kind == Kind::File && object.links > 1) {
                self.follow_names(&one.path);
            }
            if let Some(there) = &mut one.there {
                let known = one.known.as_ref().map(|known| &known.content);
                there.content = std::mem::replace(&mut there.content, Content::None).remembering(known);
            }
            self.note_gone(lane, one);
            if one.known != one.there {
                self.note_names(one);
                entry.changes.push((one.path.clone(), one.there.take()));
            }
        }
        let questions: Vec<Question> = alerts
            .iter()
            .enumerate()
            .map(|(alert, told)| (alert, told, path_from_text(&told.path)))
            .filter(|(_, _, path)| PackageRecords::may_know(path))
            .map(|(alert, told, path)| {
                let is_file = told.kind == Kind::File.name() && told.event != Event::Removed;
                Question { alert, path, is_file }
            })
            .collect();
        let told = Told { lane, entry, alerts, came, moves, paths, managed };
        if questions.is_empty() {
            self.conclude(told);
        } else {
            self.unrecorded.insert(number, told);
            self.packages.compare(number, questions);
        }
    }

    /// Packages said what they recorded.
    pub(super) fn note_recorded(&mut self, round: u64, answers: Vec<(usize, Value)>) {
        let Some(mut told) = self.unrecorded.remove(&round) else { return };
        for (alert, package) in answers {
            if let Some(alert) = told.alerts.get_mut(alert) {
                alert.package = package;
                mark_manager(&mut alert.package, alert.managed.as_deref());
            }
        }
        self.conclude(told);
    }

    /// Tells what a round found.
    fn conclude(&mut self, told: Told) {
        let Told { mut entry, mut alerts, came, moves, paths, mut managed, .. } = told;
        let waiting = self.explain(&paths, &mut entry, &mut alerts);
        self.tell(entry, alerts);
        self.moves.extend(moves);
        for (path, window) in came {
            self.scan_tree(&path, window);
        }
        for path in paths {
            self.in_flight.remove(&path);
            match self.again.remove(&path) {
                // It is looked at once more, and only then settled.
                Some(mut happened) => {
                    if waiting.contains(&path) {
                        let mut earlier = managed.remove(&path).unwrap_or_default();
                        earlier.merge(happened);
                        happened = earlier;
                    }
                    self.touch(&path, happened, now());
                }
                None if waiting.contains(&path) => {
                    let happened = managed.remove(&path).unwrap_or_default();
                    self.wait_for_explanation(&path, happened);
                }
                // What is in it is still to be told.
                None if self.contents.is_being_read(&path) => {}
                None => self.settled(&path),
            }
        }
        for (path, happened) in std::mem::take(&mut self.going) {
            self.hurry(&path, happened, now());
        }
    }

    /// Turns what a worker found into what is there; `None` when that could not be told.
    fn judge(&mut self, item: Item, found: io::Result<Found>) -> Option<Seen> {
        let Item { path, mut happened, reads, plan, unpacked, known: compared } = item;
        // A scan can find what happened before it is told who did it.
        if happened.writers.last().is_none()
            && let Some(later) = self.again.get(&path).or_else(|| self.due.happened(&path))
        {
            happened.writers.merge(later.writers.clone());
        }
        // Not what it was compared with: a directory may have taken it along to another name.
        let known = self.ledger.state().baseline.get(&path);
        let options = self.coverage.options(&path)?;
        let growing = options.growing;
        if !found.as_ref().is_err_and(is_unknown_mount) {
            self.unknown_mounts.remove(&path);
        }
        // Where the name went elsewhere meanwhile, or something else is known there, it says nothing.
        let is_of_known = |first: &Object| {
            happened.moved_to.is_none() && known.as_ref().is_some_and(|known| has_other_content(known, first))
        };
        let first = self.unheard.remove(&path).filter(is_of_known);
        if let Some(there) = first.clone().filter(|first| !is_still(first, &found)) {
            // What was seen is reported, and what came after it with the next look.
            self.hurry(&path, happened.clone(), now());
            let (grown, unpacked, begins_with) = (false, None, None);
            return Some(Seen { path, happened, known, there: Some(there), grown, unpacked, begins_with });
        }
        let (there, grown) = match found {
            Ok(Found::Object { object, grown }) => (object, grown && growing),
            Ok(Found::Missing) => {
                self.status.unreadable.remove(&path);
                self.status.unwatched.remove_below(&path);
                self.contents.forget(&path);
                return Some(Seen::gone(path, happened, known));
            }
            Err(error) if is_unknown_mount(&error) => {
                self.note_unknown_mount(&path, happened);
                return None;
            }
            Err(error) => {
                // It cannot even be looked at: nothing is known of a change, and the status says so.
                let why = NotRead::Failed(error.raw_os_error().unwrap_or_default());
                self.note_unread(&path, why);
                return None;
            }
        };
        if first.is_none()
            && self.unheard.len() < MAX_UNHEARD
            && is_written_by_another(&happened, known.as_ref(), &there)
        {
            self.postpone(&path, happened, now() + LONGEST_TOLD);
            self.unheard.insert(path, there);
            return None;
        }
        // Whether a log only grew is known when it was read.
        let may_have_grown = growing
            && known.as_ref().is_some_and(|known| {
                (known.kind, known.device, known.inode) == (there.kind, there.device, there.inode)
                    && known.size <= there.size
            });
        match there.content.not_read() {
            Some(NotRead::BeingRead) if reads => {
                self.contents.reads(&path, &there, &happened, compared.clone());
            }
            Some(NotRead::OpenForWriting) if plan.being_written => self.note_written(&path),
            Some(NotRead::BeingRead) if self.contents.is_being_read(&path) => {}
            Some(why) if why.is_for_now() => self.note_unread(&path, why),
            _ => {
                self.contents.forget(&path);
                self.status.unreadable.remove(&path);
            }
        }
        if may_have_grown
            && matches!(there.content.not_read(), Some(NotRead::BeingRead | NotRead::OpenForWriting))
        {
            return None;
        }
        let last = |object: &Option<Object>| object.as_ref().and_then(|it| it.content.last_read().cloned());
        let begins = last(&compared).filter(|_| grown);
        let is_its_own = known.is_some() && begins == last(&known);
        let begins_with = match begins {
            Some(Content::Digest(digest)) if !is_its_own => Some(digest),
            _ => None,
        };
        let grown = grown && is_its_own;
        Some(Seen { path, happened, known, there: Some(there), grown, unpacked, begins_with })
    }

    /// The alert for a path that is not as it was known, unless nobody could have known.
    fn difference(&mut self, seen: &Seen) -> Option<Alert> {
        let is_open = seen.there.as_ref().is_some_and(|there| there.content.is_open());
        let alert = self.compared(seen)?;
        let completes = !is_open && self.contents.complete(&seen.path);
        let begins = is_open && self.contents.announce(&seen.path);
        Some(Alert { begins, completes, ..alert })
    }

    /// The alert for a file whose content is known now, when it was told that it was not.
    fn completion(&mut self, seen: &Seen) -> Option<Alert> {
        let there = seen.there.as_ref()?;
        let was_open = seen.known.as_ref().is_some_and(|known| known.content.is_open());
        if !was_open
            || there.content.last_read() != Some(&there.content)
            || !self.contents.complete(&seen.path)
        {
            return None;
        }
        let rule = self.coverage.rule_text(&seen.path)?;
        let last = seen.known.as_ref().and_then(|known| known.content.last_read());
        let tags = self.coverage.options(&seen.path)?.tags.clone();
        let time = text_of_time(SystemTime::now());
        let told = digest_known(&seen.path, there, last, rule, &time);
        let (process, other_processes) = (Value::Null, Vec::new());
        Some(Alert {
            tags,
            process,
            other_processes,
            completes: true,
            ..with_circumstances(told, &seen.happened)
        })
    }

    /// The alert for something that is as it was known, but was not in between: the kernel's events say so, and the
    /// time of the inode's last change.
    fn undone(&self, seen: &Seen) -> Option<Alert> {
        let options = self.coverage.options(&seen.path)?;
        let is_touched = match (&seen.known, &seen.there) {
            (None, None) => seen.happened.appeared && seen.happened.executed,
            (Some(known), Some(there)) => {
                // Another inode is a replacement with the same content, unless the name had a third one in between.
                let is_other = (known.device, known.inode) != (there.device, there.inode);
                // The kernel gives the number of one that is gone again.
                let is_moved_on = known.changed != there.changed;
                let is_back = !is_other && is_moved_on && known.modified == there.modified;
                matches!(known.kind, Kind::File | Kind::Link)
                    && (is_back || seen.happened.reappeared && (is_other || is_moved_on))
                    && !known.content.is_open()
                    && !options.growing
                    && compare(Some(known), Some(there), options).is_none()
                    && known.content == there.content
            }
            _ => false,
        };
        if !is_touched {
            return None;
        }
        let rule = self.coverage.rule_text(&seen.path)?;
        let time = text_of_time(SystemTime::now());
        let undone = match &seen.happened {
            Happened { reappeared: true, .. } => Undone::Replaced,
            Happened { written: true, .. } => Undone::Written,
            _ => Undone::Changed,
        };
        let told = touched(&seen.path, seen.there.as_ref(), undone, options, rule, &time);
        Some(with_circumstances(told, &seen.happened))
    }

    fn compared(&mut self, seen: &Seen) -> Option<Alert> {
        let coverage = self.coverage.clone();
        let options = coverage.options(&seen.path)?;
        let rule = coverage.rule_text(&seen.path)?;
        let is_learned = seen.grown || !self.learned.contains(rule);
        if seen.known.is_none() && (is_learned || self.widening.explains(&seen.path, &seen.happened)) {
            return None;
        }
        let difference = match (&seen.known, &seen.there) {
            // A log that grew or was rotated may have got other rights as well, or a time at which nobody wrote.
            (Some(known), Some(there)) if seen.grown => {
                let modified = if is_time_set(known, there) { there.modified } else { known.modified };
                compare(Some(known), Some(&Object { modified, ..with_rights(known, there) }), options)?
            }
            _ if seen.grown => return None,
            (known, there) => compare(known.as_ref(), there.as_ref(), options)?,
        };
        let time = text_of_time(SystemTime::now());
        let told =
            alert(&seen.path, seen.known.as_ref(), seen.there.as_ref(), difference, options, rule, &time);
        Some(with_circumstances(self.since_gone(seen, told, options), &seen.happened))
    }

    /// Where a directory is gone, or something else now, all that was known in it is gone as well. It is told in the
    /// same step: whoever ends in between must not leave behind what no listing would find again.
    ///
    /// Of very much only a part is told, and the directory is looked at again: whoever removes it does not decide for
    /// how long nothing else is told. It is known until all in it is told.
    fn add_what_went_along(&mut self, seen: &mut Vec<Seen>) {
        let renamed: HashSet<usize> = renames(seen).into_iter().map(|(_, from)| from).collect();
        let is_gone = |one: &Seen| is_directory(&one.known) && !is_directory(&one.there);
        let mut gone: Vec<usize> =
            (0..seen.len()).filter(|index| !renamed.contains(index) && is_gone(&seen[*index])).collect();
        // What is in a directory before it: where a part of that is left, a part of the directory is.
        gone.sort_by(|one, other| seen[*other].path.cmp(&seen[*one].path));
        let mut paths: HashSet<PathBuf> = seen.iter().map(|one| one.path.clone()).collect();
        let (mut count, mut bytes) = (GONE_AT_ONCE, GONE_BYTES);
        let (mut more, mut again) = (Vec::new(), Vec::new());
        for index in gone {
            let one = &seen[index];
            let part = self.ledger.state().baseline.last_below(&one.path, count + 1);
            let mut is_whole = part.len() <= count;
            for path in part.into_iter().take(count) {
                if bytes == 0 {
                    is_whole = false;
                    break;
                }
                bytes = bytes.saturating_sub(path.as_os_str().len());
                if paths.insert(path.clone()) {
                    let known = self.ledger.state().baseline.get(&path);
                    let happened = Happened { moved_from: None, ..one.happened.clone() };
                    more.push(Seen::gone(path, happened, known));
                }
            }
            count = if is_whole { GONE_AT_ONCE - more.len().min(GONE_AT_ONCE) } else { 0 };
            if !is_whole {
                again.push(index);
            }
        }
        again.sort_unstable();
        for index in again.into_iter().rev() {
            let one = seen.swap_remove(index);
            self.going.push((one.path, one.happened));
        }
        seen.extend(more);
    }

    /// Writes down what is known from now on, and tells it alone or as part of a group.
    pub(super) fn tell(&mut self, mut entry: Entry, mut alerts: Vec<Alert>) {
        for alert in &mut alerts {
            alert.lane = self.trust.lane(&path_from_text(&alert.path));
        }
        if !alerts.is_empty() {
            let sorted = self.storms.sort(alerts, writer, now());
            entry.alone = sorted.alone;
            if !sorted.members.is_empty() {
                entry.groups = Some(self.groups_text());
                entry.members = sorted.members;
            }
        }
        let is_worth_it = !entry.changes.is_empty() || !entry.alone.is_empty() || !entry.members.is_empty();
        if is_worth_it || !entry.explained.is_empty() {
            self.commit(entry);
        }
    }

    /// Tells the groups whose time has come.
    pub(super) fn tell_groups(&mut self) {
        let groups = self.storms.take(now());
        if groups.is_empty() {
            return;
        }
        let time = text_of_time(SystemTime::now());
        let alone = groups.iter().map(|group| group.alert(&time)).collect();
        self.commit(Entry { alone, groups: Some(self.groups_text()), ..Entry::default() });
    }
}

/// An object with the rights and the number of names of another one.
pub(super) fn with_rights(object: &Object, rights: &Object) -> Object {
    let Object { permissions, owner, group, flags, extended, links, .. } = rights.clone();
    Object { permissions, owner, group, flags, extended, links, ..object.clone() }
}

/// Whether somebody set the time of a log: writing sets it to that of the inode's change, which other changes move on
/// later. A clock that was set back moves both.
fn is_time_set(known: &Object, there: &Object) -> bool {
    let (modified, changed) = (there.modified, there.changed);
    // A program that sets the present time has a finer clock than the kernel uses for this.
    let is_ahead = |object: &Object| object.modified.seconds > object.changed.seconds.saturating_add(1);
    let is_later = is_ahead(there);
    let is_earlier = modified < known.modified && changed >= known.changed;
    let is_unwritten =
        modified != known.modified && modified < known.changed && there.content == known.content;
    // What was ahead already was reported, or always is on this file system.
    (known.device, known.inode) == (there.device, there.inode)
        && !is_ahead(known)
        && (is_later || is_earlier || is_unwritten)
}

/// Whether a file has another content although nobody of whom was heard wrote it: who made a name for it only, say. The
/// notification of the write is on its way.
fn is_written_by_another(happened: &Happened, known: Option<&Object>, there: &Object) -> bool {
    let is_heard_of = happened.writers.last().is_some() && happened.window.is_none();
    // What came from elsewhere was written there.
    let came = happened.appeared || happened.moved_from.is_some();
    is_heard_of && !came && !happened.written && known.is_some_and(|known| has_other_content(known, there))
}

/// Whether a file is the same one and holds something else.
fn has_other_content(known: &Object, there: &Object) -> bool {
    (known.device, known.inode) == (there.device, there.inode)
        && matches!((&known.content, &there.content), (Content::Digest(_), Content::Digest(_)))
        && known.content != there.content
}

/// Whether a file still has the content that it was seen with.
fn is_still(first: &Object, found: &io::Result<Found>) -> bool {
    matches!(found, Ok(Found::Object { object, .. }) if object.content == first.content)
}

fn is_directory(object: &Option<Object>) -> bool {
    object.as_ref().is_some_and(|object| object.kind == Kind::Directory)
}

/// Adds who did it and when it can have happened.
pub(super) fn with_circumstances(told: Alert, happened: &Happened) -> Alert {
    let mut writers = happened.writers.iter().rev();
    Alert {
        managed: happened.writers.managed().cloned(),
        unfinished: happened.is_unfinished(),
        tool: happened.writers.account_tool().cloned(),
        process: writers.next().map_or(Value::Null, |process| process.to_json()),
        other_processes: writers.map(|process| process.to_json()).collect(),
        window: happened.window.map_or(Value::Null, window_json),
        ..told
    }
}

/// Who is counted for a change.
fn writer(alert: &Alert) -> Writer {
    let program = match alert.process["executable"].as_str() {
        Some(executable) => executable.to_owned(),
        None if alert.window != Value::Null => "an unknown process while nothing was watched".to_owned(),
        None => "an unknown process".to_owned(),
    };
    Writer { program, user: alert.process["user"].as_u64(), login: alert.process["login_user"].as_u64() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::change::notice;
    use serde_json::json;

    #[test]
    fn changes_are_counted_by_program_or_by_why_none_is_known() {
        let told = notice("/a".to_owned(), String::new(), "now");
        let by = Alert { process: json!({"executable": "/usr/bin/dpkg"}), ..told.clone() };
        let unseen = Alert { window: json!({"from": "a"}), ..told.clone() };

        assert_eq!(writer(&by).program, "/usr/bin/dpkg");
        assert!(writer(&unseen).program.contains("nothing was watched"));
        assert_eq!(writer(&told).program, "an unknown process");
    }
}
