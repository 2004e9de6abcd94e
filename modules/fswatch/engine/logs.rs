//! Logs that grow, where their rule says so: which changes are those of a rotation.

use std::collections::{HashMap, HashSet, VecDeque};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::log_names::{
    beginnings_of_copies, is_copy_of, is_numbered, is_old_log, logs_of, number_of, packed_path,
};
use super::round::{Seen, with_rights};
use super::{Engine, Sink, now};
use crate::change::{compare, shown};
use crate::events::Happened;
use crate::object::{Content, Kind, NotRead, Object};
use crate::packed::log_of;
use crate::rules::Severity;

/// Rotated logs that are remembered of each kind: the steps of a rotation are told by others in the meantime.
const MAX_REMEMBERED: usize = 64;

/// Names after that of a log among which its copies are looked for.
const MAX_COPIES: usize = 512;

/// Longest time for which a copy that is still written or read, and the log that was emptied meanwhile, are not told:
/// enough for 6 GB at 100 MB/s.
const LONGEST_COPY: Duration = Duration::from_secs(60);

/// Time between two looks at them.
const COPY_PAUSE: Duration = Duration::from_secs(1);

/// Time in which a new log is expected in the place of one that was renamed.
const LONGEST_AWAY: Duration = Duration::from_secs(60);

/// Rights by which a file can be run, also as another user.
const RUNS: u16 = 0o6111;

/// What is remembered of rotations whose steps are seen one by one.
#[derive(Debug, Default)]
pub(super) struct Rotations {
    /// Digests of compressed logs, and of copies that have more at their end, because whoever writes a log goes on
    /// while it is copied; each with that of the log. They are of contents, so that they are true whatever becomes of
    /// the files.
    holds: VecDeque<([u8; 32], [u8; 32])>,
    /// Logs that were renamed to the name of a copy, and until when a new one is expected in the place of each.
    away: VecDeque<(PathBuf, Object, Instant)>,
    /// Copies that are not known to their end, and logs that were emptied meanwhile.
    copies: HashMap<PathBuf, Waiting>,
}

/// What is not told yet, because it can be a step of a rotation.
#[derive(Debug)]
struct Waiting {
    since: Instant,
    until: Instant,
    /// Who did it, and what.
    happened: Happened,
}

impl Rotations {
    fn remember_held(&mut self, whole: &Content, log: [u8; 32]) {
        let Content::Digest(whole) = whole else { return };
        if !self.holds.contains(&(*whole, log)) {
            self.holds.push_back((*whole, log));
            self.holds.drain(..self.holds.len().saturating_sub(MAX_REMEMBERED));
        }
    }

    /// Whether what has this content has a log in it, or is as the log.
    fn has_all_of(&self, whole: &Content, log: &Content) -> bool {
        match (whole, log) {
            (Content::Digest(whole), Content::Digest(log)) => {
                whole == log || self.holds.contains(&(*whole, *log))
            }
            _ => false,
        }
    }

    fn remember_away(&mut self, log: &Path, known: Object, now: Instant) {
        self.away.retain(|(away, ..)| away != log);
        self.away.push_back((log.to_owned(), known, now + LONGEST_AWAY));
    }

    /// The log here that was renamed a moment ago; what comes in its place is not expected a second time.
    fn comes_back(&mut self, path: &Path) -> Option<Object> {
        let place = self.away.iter().position(|(away, ..)| away == path)?;
        self.away.remove(place).map(|(_, known, _)| known)
    }

    /// Logs in whose place no new one came, and those that are too many to be remembered.
    fn take_gone(&mut self, now: Instant) -> Vec<PathBuf> {
        let surplus = self.away.len().saturating_sub(MAX_REMEMBERED);
        let late = self.away.iter().take_while(|(.., until)| *until <= now).count();
        self.away.drain(..surplus.max(late)).map(|(path, ..)| path).collect()
    }

    /// Time until the next of them is told.
    pub(super) fn next(&self, now: Instant) -> Option<Duration> {
        self.away.front().map(|(.., until)| until.saturating_duration_since(now))
    }

    /// Notes what is not told yet; whether its time is not over.
    fn waits(&mut self, path: &Path, happened: &Happened, now: Instant) -> bool {
        self.copies.retain(|_, waiting| now.duration_since(waiting.since) < 2 * LONGEST_COPY);
        if !self.copies.contains_key(path) && self.copies.len() >= MAX_REMEMBERED {
            return false;
        }
        let new = || Waiting { since: now, until: now, happened: Happened::default() };
        let waiting = self.copies.entry(path.to_owned()).or_insert_with(new);
        waiting.until = now + COPY_PAUSE;
        waiting.happened.merge(happened.clone());
        now.duration_since(waiting.since) < LONGEST_COPY
    }

    /// Whether it was not told for a while already.
    fn has_waited(&self, path: &Path, now: Instant) -> bool {
        self.copies.get(path).is_some_and(|waiting| now.duration_since(waiting.since) >= COPY_PAUSE)
    }
}

/// Whether it is a file as logs are, which nobody can run and which has no other name.
fn is_plain(there: &Object) -> bool {
    there.kind == Kind::File && there.permissions & RUNS == 0 && there.links == 1
}

/// Whether a file was made, not renamed, in the place of a log, as whoever writes the log makes it.
fn is_new_log(one: &Seen, log: &Object, there: &Object) -> bool {
    one.happened.appeared
        && one.happened.moved_from.is_none()
        && log.inode != there.inode
        && is_plain(there)
        && with_rights(log, there) == *log
}

/// Whether a copy lets nobody read or write what the log does not let them: what root or the log's own owner copies.
fn opens_no_more(copy: &Object, log: &Object) -> bool {
    let is_of = |copy: u32, log: u32| copy == log || copy == 0;
    let of_group = copy.permissions & 0o070;
    copy.permissions & !log.permissions == 0
        && is_of(copy.owner, log.owner)
        && (of_group == 0 || is_of(copy.group, log.group))
        && copy.extended.iter().all(|one| log.extended.iter().any(|its| its == one))
}

/// Whether a copy that something was renamed over is what a rotation loses: it is the oldest, by age and number, and
/// what is there now had the number beside it or is the log of the only copy.
fn is_oldest(
    (copy, known): (&Path, &Object),
    (from, there): (&Path, &Object),
    log: &Path,
    copies: &[(PathBuf, Object)],
) -> bool {
    let Some(number) = number_of(copy, log) else { return from == log && is_old_log(copy, log) };
    let mut others = copies.iter().filter(|(path, _)| path != copy && is_numbered(path, log));
    let is_beside = match number_of(from, log) {
        Some(other) => number.abs_diff(other) == 1,
        None => from == log && others.clone().next().is_none(),
    };
    // Whoever writes the files can set their times, so the number has to say the same.
    is_beside
        && known.modified <= there.modified
        && others.all(|(path, other)| {
            known.modified <= other.modified && number_of(path, log).is_none_or(|other| other < number)
        })
}

/// Which paths are logs that were rotated, with the paths where they are now: a file went on under another name in its
/// directory, and a new one took its place or will. `is_growing`: their rule is for logs. `is_log`: a file is, or was
/// until a moment ago, the log of that name.
pub(super) fn rotations(
    seen: &[Seen],
    is_growing: impl Fn(&Path) -> bool,
    is_log: impl Fn(&Path) -> bool,
) -> Vec<(usize, usize)> {
    let mut came: HashMap<(u64, u64), usize> = HashMap::new();
    for (index, one) in seen.iter().enumerate() {
        if let Some(there) = one.there.as_ref().filter(|there| there.kind == Kind::File) {
            came.insert((there.device, there.inode), index);
        }
    }
    let moved = |known: &Object| came.get(&(known.device, known.inode)).copied();
    // Where files only have each other's places, none is new. An inode is given again at once, so it alone proves
    // nothing.
    let is_exchanged = |index: usize| {
        let next = |at: &usize| {
            let known = seen[*at].known.as_ref()?;
            let next = moved(known).filter(|next| next != at)?;
            let is_moved = seen[next].happened.moved_from.as_deref() == Some(seen[*at].path.as_path());
            let is_same = |there: &Object| {
                known.size > 0 && there.content == known.content && there.modified == known.modified
            };
            (is_moved || seen[next].there.as_ref().is_some_and(is_same)).then_some(next)
        };
        std::iter::successors(next(&index), next).take(seen.len()).any(|at| at == index)
    };
    let is_rotated = |index: usize| {
        let one: &Seen = &seen[index];
        let known = one.known.as_ref().filter(|known| known.kind == Kind::File)?;
        let is_replaced = match &one.there {
            Some(there) if there.kind != Kind::File || there.inode == known.inode => return None,
            there => there.is_some(),
        };
        let moved = moved(known)?;
        let (path, there) = (&seen[moved].path, seen[moved].there.as_ref()?);
        let is_moved = seen[moved].happened.moved_from.as_deref() == Some(one.path.as_path());
        let has_same = (&there.content, there.modified, there.size)
            == (&known.content, known.modified, known.size)
            && !is_exchanged(index);
        let has_same_rights = with_rights(known, there) == *known;
        // It may be written until whoever writes it takes the new one.
        let has_more = match &there.content {
            content @ Content::Digest(_) => {
                let own = seen[moved].known.as_ref().filter(|_| seen[moved].grown);
                let begins = seen[moved].begins_with.map(Content::Digest);
                let begins = begins.as_ref().or_else(|| own?.content.last_read());
                begins.is_some() && begins == known.content.last_read() || *content == known.content
            }
            // It is compared when it is read.
            content => content.not_read().is_some() && known.size <= there.size,
        };
        let is_same = if is_replaced {
            has_same || is_moved && has_more && !is_exchanged(index)
        } else {
            // Where nothing took its place the names must say that it is a rotation.
            let is_copy =
                |log: &Path| is_numbered(path, log) && (log == one.path || is_numbered(&one.path, log));
            let are_of_one_log = logs_of(path).any(|log| is_copy(&log) && is_growing(&log) && is_log(&log));
            (has_same || is_moved && has_more) && are_of_one_log
        };
        let is_allowed = path.parent() == one.path.parent() && is_growing(&one.path) && is_growing(path);
        (is_same && has_same_rights && is_allowed).then_some((index, moved))
    };
    (0..seen.len()).filter_map(is_rotated).collect()
}

impl<S: Sink> Engine<S> {
    /// Finds the steps of rotations, so that they are told as growth; what is not complete yet is left out and looked
    /// at again.
    pub(super) fn judge_logs(&mut self, seen: &mut Vec<Seen>) {
        let now = now();
        let away: HashSet<PathBuf> = self.rotations.away.iter().map(|(path, ..)| path.clone()).collect();
        let is_file = |path: &Path| self.known_log(path).is_some_and(|log| log.kind == Kind::File);
        let is_log = |path: &Path| away.contains(path) || is_file(path);
        let moves = rotations(seen, |path| self.is_growing(path), is_log);
        let is_copy = |path: &Path| logs_of(path).any(|log| is_numbered(path, &log) && is_log(&log));
        let gone =
            moves.iter().map(|(log, _)| &seen[*log]).filter(|one| one.there.is_none() && !is_copy(&one.path));
        let gone = gone.filter_map(|one| Some((one.path.clone(), one.known.clone()?)));
        for (log, known) in gone.collect::<Vec<_>>() {
            self.rotations.remember_away(&log, known, now);
        }
        for (log, copy) in &moves {
            // What is not read yet is compared with the log when it is.
            let last = seen[*log].known.as_ref().map(|known| known.content.clone());
            if let Some(there) = &mut seen[*copy].there {
                there.content =
                    std::mem::replace(&mut there.content, Content::None).remembering(last.as_ref());
            }
        }
        let mut parts = HashSet::new();
        for (replaced, _) in &moves {
            let one = &mut seen[*replaced];
            let is_part = one.there.as_ref().is_some_and(|there| self.is_part_of_copy(one, there));
            if is_part && self.rotations.waits(&one.path, &one.happened, now) {
                // What was here has another name, and what comes in its place is judged when it is complete.
                one.there = None;
                self.postpone(&one.path, one.happened.clone(), now + COPY_PAUSE);
                parts.insert(one.path.clone());
            }
        }
        for one in seen.iter_mut().filter(|one| one.known.is_none()) {
            one.grown |= one.begins_with.is_some() && self.may_be_copy(one);
        }
        for one in seen.iter() {
            let Some(there) = &one.there else { continue };
            for log in one.unpacked.into_iter().chain(one.begins_with.filter(|_| one.grown)) {
                self.rotations.remember_held(&there.content, log);
            }
        }
        let overwritten = self.overwritten_copies(seen, &moves);
        // What was overwritten can be in a compressed copy that is still read; both ends of the renaming wait for it.
        let mut held = Vec::new();
        let judged: HashSet<PathBuf> = seen.iter().map(|one| one.path.clone()).collect();
        for (log, copy) in moves.iter().filter(|(_, copy)| overwritten.contains(copy)) {
            let one = &seen[*copy];
            let may_be_kept = logs_of(&one.path).any(|log| self.may_have_copy(&log, &one.path, &judged, now));
            if may_be_kept && self.rotations.waits(&one.path, &one.happened, now) {
                held.extend([*log, *copy]);
            }
        }
        let moved = moves.into_iter().flat_map(|(log, copy)| [log, copy]);
        let moved = moved.filter(|index| !overwritten.contains(index));
        for index in moved.chain(self.copied_logs(seen)) {
            let one = &mut seen[index];
            one.grown = true;
            // A log that was compressed itself: whoever writes it has to begin a new one.
            let is_copy = || logs_of(&one.path).any(|log| is_numbered(&one.path, &log));
            if let (Some(known), None) = (&one.known, &one.there)
                && !is_copy()
            {
                self.rotations.remember_away(&one.path, known.clone(), now);
            }
        }
        held.sort_unstable();
        held.dedup();
        for index in held.into_iter().rev() {
            self.look_on(seen.swap_remove(index), now);
        }
        for one in seen.iter_mut().filter(|one| one.known.is_none()) {
            if let Some(there) = &one.there
                && let Some(log) = self.rotations.comes_back(&one.path)
                && let Some(options) = self.coverage.options(&one.path)
            {
                let has_other_rights =
                    compare(Some(&log), Some(&with_rights(&log, there)), options).is_some();
                one.grown |= is_plain(there) && !has_other_rights;
            }
        }
        let mut index = 0;
        while index < seen.len() {
            let one = &seen[index];
            let is_open = self.is_copy_being_read(one) || self.is_incomplete_copy(one);
            if is_open && self.rotations.waits(&one.path, &one.happened, now) {
                self.look_on(seen.swap_remove(index), now);
            } else {
                index += 1;
            }
        }
        let judged: HashSet<PathBuf> = seen.iter().map(|one| one.path.clone()).collect();
        let mut index = 0;
        while index < seen.len() {
            let one = &seen[index];
            let waits = self.is_replaced_before_its_copy(one, &judged, now)
                && self.rotations.waits(&one.path, &one.happened, now);
            if waits {
                self.look_on(seen.swap_remove(index), now);
                continue;
            }
            if !parts.contains(&one.path)
                && let Some(waiting) = self.rotations.copies.remove(&one.path)
            {
                let mut happened = waiting.happened;
                happened.merge(one.happened.clone());
                seen[index].happened = happened;
            }
            index += 1;
        }
    }

    /// Which copies were lost because something was renamed over them. A rotation loses only the oldest one, or one
    /// that is kept elsewhere, as when it was compressed before.
    fn overwritten_copies(&self, seen: &[Seen], moves: &[(usize, usize)]) -> Vec<usize> {
        let gone_on: HashSet<usize> = moves.iter().map(|(log, _)| *log).collect();
        let is_log = |log: &PathBuf| {
            self.known_log(log).is_some() || self.rotations.away.iter().any(|(away, ..)| away == log)
        };
        let mut copies_of: HashMap<PathBuf, Vec<(PathBuf, Object)>> = HashMap::new();
        let mut is_lost = |(from, copy): &(usize, usize)| {
            let (from, one) = (&seen[*from].path, &seen[*copy]);
            let (Some(known), Some(there)) = (&one.known, &one.there) else { return false };
            if (known.device, known.inode) == (there.device, there.inode) || gone_on.contains(copy) {
                return false;
            }
            !logs_of(&one.path).filter(is_log).any(|log| {
                let copies = copies_of.entry(log.clone()).or_insert_with(|| self.known_copies(&log));
                is_oldest((&one.path, known), (from, there), &log, copies) || self.has_copy(seen, &log, known)
            })
        };
        moves.iter().filter(|pair| is_lost(pair)).map(|(_, copy)| *copy).collect()
    }

    /// Whether a copy of a log, by its name, has all that was known.
    fn has_copy(&self, seen: &[Seen], log: &Path, known: &Object) -> bool {
        // Another name of the same file keeps nothing.
        let is_copy = |path: &Path, there: &Object| {
            (there.device, there.inode) != (known.device, known.inode)
                && self.has_all(there, known)
                && is_copy_of(path, log)
                && self.is_growing(path)
        };
        let is_seen = |path: &Path| seen.iter().any(|one| one.path == path);
        seen.iter().any(|one| one.there.as_ref().is_some_and(|there| is_copy(&one.path, there)))
            || self.known_copies(log).iter().any(|(path, there)| is_copy(path, there) && !is_seen(path))
    }

    fn has_all(&self, copy: &Object, log: &Object) -> bool {
        let are_files = copy.kind == Kind::File && log.kind == Kind::File;
        are_files && self.rotations.has_all_of(&copy.content, &log.content)
    }

    /// What is known beside a log under names of its copies.
    fn known_copies(&self, log: &Path) -> Vec<(PathBuf, Object)> {
        let Some((directory, name)) = log.parent().zip(log.file_name()) else { return Vec::new() };
        let baseline = &self.ledger.state().baseline;
        let after = beginnings_of_copies(name)
            .flat_map(|begins| baseline.children_after(directory, Some(&begins), MAX_COPIES));
        let paths = after.map(|(name, object)| (directory.join(name), object));
        paths.filter(|(path, _)| is_copy_of(path, log)).collect()
    }

    /// What is not told yet is looked at again; what a worker reads is when that is done.
    fn look_on(&mut self, one: Seen, now: Instant) {
        if !self.contents.is_being_read(&one.path) {
            self.postpone(&one.path, one.happened, now + COPY_PAUSE);
        }
    }

    /// Tells of logs that were renamed as for a rotation and in whose place no new one came.
    pub(super) fn tell_logs_gone(&mut self) {
        for log in self.rotations.take_gone(now()) {
            let text = format!(
                "log {} was renamed or compressed as in a rotation, but no new log was created in its place",
                shown(&log)
            );
            self.tell_notice(&log, text, Severity::Medium, None);
        }
    }

    /// Whether it can be the copy of a log, which a worker reads on: it is judged when that is done.
    fn is_copy_being_read(&self, one: &Seen) -> bool {
        let is_being_read = one.known.is_none()
            && one.there.as_ref().is_some_and(|there| there.content.not_read() == Some(NotRead::BeingRead))
            && self.contents.is_being_read(&one.path);
        is_being_read && self.may_be_copy(one)
    }

    /// Whether a log has lost what it had, or is a new one, while what can be its copy is not known yet, or not told
    /// of. `judged`: what is known in this round.
    fn is_replaced_before_its_copy(&self, one: &Seen, judged: &HashSet<PathBuf>, now: Instant) -> bool {
        let Some(known) = one.known.as_ref().filter(|_| !one.grown && self.is_growing(&one.path)) else {
            return false;
        };
        let Some(there) = &one.there else {
            let packed = packed_path(&one.path);
            let is_awaited = |path: &Path| {
                self.due.happened(path).is_some() || self.unknown_copies().any(|copy| copy == path)
            };
            return known.kind == Kind::File && !judged.contains(&packed) && is_awaited(&packed);
        };
        let is_emptied = known.inode == there.inode && there.size < known.size;
        // What it was is compressed in the moment in which it was renamed.
        let is_renamed = is_new_log(one, known, there)
            && one.happened.moved_to.as_deref().is_some_and(|copy| is_numbered(copy, &one.path));
        (is_emptied || is_renamed) && self.may_have_copy(&one.path, &one.path, judged, now)
    }

    /// Whether there can be a copy of a log, of what was lost at `path`, which is not known yet: it is looked at or
    /// read, or will be in a moment. `judged`: what is known in this round.
    fn may_have_copy(&self, log: &Path, path: &Path, judged: &HashSet<PathBuf>, now: Instant) -> bool {
        let is_copy = |copy: &&PathBuf| {
            copy.parent() == log.parent()
                && copy.as_path() != path
                && is_numbered(copy, log)
                && self.is_growing(copy)
                && !judged.contains(*copy)
        };
        !self.rotations.has_waited(path, now) || self.unknown_copies().any(|copy| is_copy(&copy))
    }

    /// Paths of which it is not known yet what is there.
    fn unknown_copies(&self) -> impl Iterator<Item = &PathBuf> {
        self.rotations.copies.keys().chain(&self.in_flight).chain(self.contents.being_read())
    }

    /// The log of which this path can be a copy by its name: what is new is compared with what is known of that.
    pub(super) fn copied_log(&self, path: &Path) -> Option<Object> {
        let mut logs = logs_of(path).filter(|log| is_numbered(path, log));
        logs.find_map(|log| self.known_log(&log).filter(|log| log.kind == Kind::File && log.size > 0))
    }

    /// The log that was renamed to this path.
    pub(super) fn log_before(&self, path: &Path, from: Option<&Path>) -> Option<Object> {
        let from = from.filter(|from| *from != path)?;
        self.known_log(from).filter(|log| log.kind == Kind::File)
    }

    fn is_growing(&self, path: &Path) -> bool {
        self.coverage.options(path).is_some_and(|options| options.growing)
    }

    fn known_log(&self, log: &Path) -> Option<Object> {
        if self.is_growing(log) { self.ledger.state().baseline.get(log) } else { None }
    }

    /// Whether it is new, and can be the copy of a log, or the compressed log, that somebody has not written to its
    /// end.
    fn is_incomplete_copy(&self, one: &Seen) -> bool {
        let there = one.there.as_ref().filter(|_| one.known.is_none() && !one.grown);
        there.is_some_and(|there| self.is_part_of_copy(one, there))
    }

    /// Whether what is there now can be such a part.
    fn is_part_of_copy(&self, one: &Seen, there: &Object) -> bool {
        let is_packed = || log_of(&one.path).is_some_and(|log| self.known_log(&log).is_some());
        let is_part = |log: &Path| self.known_log(log).is_some_and(|log| there.size < log.size);
        // Rights that are set before it is written end nothing.
        let happened = &one.happened;
        let is_open = !happened.closed && happened.window.is_none() && happened.moved_from.is_none();
        there.kind == Kind::File
            && is_open
            && self.may_be_copy(one)
            && (is_packed() || logs_of(&one.path).any(|log| is_part(&log)))
    }

    /// Whether its name is that of a log's copy, and nothing about it is more than a log.
    fn may_be_copy(&self, one: &Seen) -> bool {
        let is_no_more = |log: &Object| {
            one.there.as_ref().is_none_or(|there| is_plain(there) && opens_no_more(there, log))
        };
        let is_log =
            |log: &Path| is_numbered(&one.path, log) && self.known_log(log).as_ref().is_some_and(is_no_more);
        !one.happened.executed && self.is_growing(&one.path) && logs_of(&one.path).any(|log| is_log(&log))
    }

    /// Whether a copy that is still written is not looked at yet.
    pub(super) fn lets_copy(&mut self, path: &Path, happened: &Happened) -> bool {
        let until = self.rotations.copies.get(path).map(|waiting| waiting.until);
        let Some(until) = until.filter(|until| !happened.finished && *until > now()) else { return false };
        self.postpone(path, happened.clone(), until);
        true
    }

    /// Which paths are logs that were copied and emptied then (logrotate's `copytruncate`), or compressed, and their
    /// copies: the copy has what was known of the log, under its name with more at its end.
    fn copied_logs(&self, seen: &[Seen]) -> Vec<usize> {
        let now: HashMap<&Path, Option<&Object>> =
            seen.iter().map(|one| (one.path.as_path(), one.there.as_ref())).collect();
        let baseline = &self.ledger.state().baseline;
        let is_growing = |path: &Path| self.is_growing(path);
        let is_same = |a: &Object, b: &Object| {
            let are_files = a.kind == Kind::File && b.kind == Kind::File;
            are_files && matches!(a.content, Content::Digest(_)) && a.content == b.content
        };
        let is_copied = |one: &Seen| match (&one.known, &one.there) {
            (Some(known), Some(there)) => {
                let is_it = (known.device, known.inode) == (there.device, there.inode);
                // A new one in the place of one that was renamed and compressed in the same moment.
                known.kind == there.kind
                    && (is_it || is_new_log(one, known, there))
                    && !one.grown
                    && self.has_copy(seen, &one.path, known)
            }
            (None, Some(there)) => {
                let unpacked = one.unpacked.map(Content::Digest);
                let is_packed =
                    |log: &Object| unpacked.as_ref() == Some(&log.content) && opens_no_more(there, log);
                let is_of = |log: &Path| {
                    let known = baseline.get(log).filter(|_| is_growing(log));
                    known.is_some_and(|known| {
                        is_packed(&known) || is_same(there, &known) && opens_no_more(there, &known)
                    }) || unpacked.is_some()
                        && is_numbered(&one.path, log)
                        && self.known_copies(log).iter().any(|(_, copy)| is_packed(copy))
                };
                is_plain(there) && logs_of(&one.path).any(|log| is_of(&log))
            }
            // Compressed, and removed then.
            (Some(known), None) => {
                let packed = packed_path(&one.path);
                let there = match now.get(packed.as_path()) {
                    Some(there) => there.cloned(),
                    None => baseline.get(&packed),
                };
                is_growing(&packed) && there.is_some_and(|there| self.has_all(&there, known))
            }
            _ => false,
        };
        let found = seen.iter().enumerate().filter(|(_, one)| is_growing(&one.path) && is_copied(one));
        found.map(|(index, _)| index).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::object::Timestamp;

    fn a_log() -> Object {
        Object {
            kind: Kind::File,
            permissions: 0o640,
            owner: 0,
            group: 0,
            size: 0,
            modified: Timestamp::default(),
            changed: Timestamp::default(),
            device: 1,
            inode: 1,
            links: 1,
            special: 0,
            flags: 0,
            content: Content::Digest([0; 32]),
            extended: crate::extended::ExtendedAttributes::none(),
        }
    }

    #[test]
    fn a_log_that_does_not_come_back_is_told_and_nothing_waits_without_end() {
        let (begin, mut rotations) = (now(), Rotations::default());
        let (log, copy) = (Path::new("/l/a"), Path::new("/l/a.1"));

        rotations.remember_away(log, a_log(), begin);
        assert!(rotations.take_gone(begin).is_empty());
        assert_eq!(rotations.next(begin), Some(LONGEST_AWAY));
        assert_eq!(rotations.take_gone(begin + LONGEST_AWAY), [log]);
        assert!(rotations.comes_back(log).is_none());

        let writer = Happened { appeared: true, ..Happened::default() };
        assert!(rotations.waits(copy, &writer, begin));
        assert!(rotations.waits(copy, &Happened::default(), begin + LONGEST_COPY / 2));
        assert!(!rotations.waits(copy, &Happened::default(), begin + LONGEST_COPY));
        assert!(rotations.copies[copy].happened.appeared);
        rotations.waits(log, &writer, begin + 3 * LONGEST_COPY);
        assert!(!rotations.copies.contains_key(copy));
    }
}
