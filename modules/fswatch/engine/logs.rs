//! Logs that grow, where their rule says so: which changes are those of a rotation.

use std::collections::{HashMap, VecDeque};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::round::Seen;
use super::{Engine, Sink, now};
use crate::events::Happened;
use crate::object::{Content, Kind, NotRead, Object};
use crate::packed::log_of;

/// Rotated logs that are remembered of each kind: the steps of a rotation are told by others in the meantime.
const MAX_REMEMBERED: usize = 64;

/// Names after that of a log among which its copies are looked for.
const MAX_COPIES: usize = 64;

/// Longest time for which a copy that is still written is not told. Ten minutes are enough for 60 GB at 100 MB/s.
const LONGEST_COPY: Duration = Duration::from_secs(600);

/// Time between two looks at a copy that is still written.
const COPY_PAUSE: Duration = Duration::from_secs(5);

/// What is remembered of rotations whose steps are seen one by one.
#[derive(Debug, Default)]
pub(super) struct Rotations {
    /// Compressed logs, each with the digest of what is in it: the log is removed only then.
    packed: VecDeque<(PathBuf, [u8; 32])>,
    /// Logs that have got the name of a copy: new ones take their places.
    away: VecDeque<PathBuf>,
    /// Copies that are still written, since when, and until when they are not looked at.
    copies: HashMap<PathBuf, (Instant, Instant)>,
}

impl Rotations {
    fn remember_packed(&mut self, path: &Path, digest: [u8; 32]) {
        self.packed.push_back((path.to_owned(), digest));
        self.packed.drain(..self.packed.len().saturating_sub(MAX_REMEMBERED));
    }

    fn remember_away(&mut self, log: &Path) {
        self.away.retain(|away| away != log);
        self.away.push_back(log.to_owned());
        self.away.drain(..self.away.len().saturating_sub(MAX_REMEMBERED));
    }

    /// Whether a copy that is still written is not told yet.
    fn waits_for_copy(&mut self, path: &Path, now: Instant) -> bool {
        let may_wait = self.copies.contains_key(path) || self.copies.len() < MAX_REMEMBERED;
        let (since, until) = self.copies.entry(path.to_owned()).or_insert((now, now));
        *until = now + COPY_PAUSE;
        let waits = may_wait && now.duration_since(*since) < LONGEST_COPY;
        if !waits {
            self.copies.remove(path);
        }
        waits
    }
}

/// The logs of which a file can be a copy, by its name: `log` for `log.1` and `log-20260101`, `a.log` for `a-1.log`.
fn logs_of(copy: &Path) -> impl Iterator<Item = PathBuf> {
    let name = copy.file_name().map(|name| name.as_encoded_bytes().to_vec()).unwrap_or_default();
    let directory = copy.parent().map(Path::to_owned).unwrap_or_default();
    let extension = name.iter().rposition(|byte| *byte == b'.').unwrap_or(name.len());
    let ends = (1..name.len()).filter(|at| matches!(name[*at], b'.' | b'-')).collect::<Vec<_>>();
    ends.into_iter().flat_map(move |end| {
        let with_extension =
            (end < extension).then(|| [&name[..end], &name[extension..]].concat()).filter(|log| *log != name);
        let logs = [Some(name[..end].to_vec()), with_extension];
        let paths: Vec<PathBuf> =
            logs.into_iter().flatten().map(|log| directory.join(OsStr::from_bytes(&log))).collect();
        paths
    })
}

/// Which paths are logs that were rotated, with the paths where they are now: a file went on under another name in its
/// directory, and a new one took its place or will. `is_growing`: their rule is for logs. `is_log`: something is, or was
/// a moment ago, the log of that name.
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
    let is_rotated = |index: usize| {
        let one: &Seen = &seen[index];
        let known = one.known.as_ref().filter(|known| known.kind == Kind::File)?;
        let is_replaced = match &one.there {
            Some(there) if there.kind != Kind::File || there.inode == known.inode => return None,
            there => there.is_some(),
        };
        let moved = *came.get(&(known.device, known.inode))?;
        let (path, there) = (&seen[moved].path, seen[moved].there.as_ref()?);
        // An inode is given again at once, so it alone proves nothing.
        let is_moved = seen[moved].happened.moved_from.as_deref() == Some(one.path.as_path());
        let has_same = there.content == known.content && there.modified == known.modified;
        // Where nothing took its place the names must say that it is a rotation.
        let is_same = if is_replaced {
            is_moved || has_same
        } else {
            has_same
                && logs_of(path).any(|log| {
                    log == one.path
                        || is_growing(&log) && is_log(&log) && logs_of(&one.path).any(|other| other == log)
                })
        };
        let is_allowed = path.parent() == one.path.parent() && is_growing(&one.path) && is_growing(path);
        (is_same && is_allowed).then_some((index, moved))
    };
    (0..seen.len()).filter_map(is_rotated).collect()
}

impl<S: Sink> Engine<S> {
    /// Finds the steps of rotations, so that they are told as growth; what is not complete yet is left out.
    pub(super) fn judge_logs(&mut self, seen: &mut Vec<Seen>) {
        let baseline = &self.ledger.state().baseline;
        let is_growing = |path: &Path| self.is_growing(path);
        let is_log =
            |path: &Path| self.rotations.away.iter().any(|away| away == path) || baseline.get(path).is_some();
        let moves = rotations(seen, is_growing, is_log);
        let away = moves
            .iter()
            .filter(|(log, _)| seen[*log].there.is_none())
            .map(|(log, _)| seen[*log].path.clone());
        for log in away.collect::<Vec<_>>() {
            self.rotations.remember_away(&log);
        }
        for index in moves.into_iter().flat_map(|(log, copy)| [log, copy]).chain(self.copied_logs(seen)) {
            seen[index].grown = true;
        }
        for one in seen.iter_mut() {
            if one.known.is_none() && one.there.as_ref().is_some_and(|there| there.kind == Kind::File) {
                let away = self.rotations.away.iter().position(|away| *away == one.path);
                one.grown |= away.and_then(|index| self.rotations.away.remove(index)).is_some();
            }
        }
        let now = now();
        seen.retain(|one| {
            let is_unread = self.is_copy_being_read(one);
            if is_unread {
                return false;
            }
            let is_open = self.is_incomplete_copy(one) || self.is_emptied_while_copied(one);
            let waits = is_open && self.rotations.waits_for_copy(&one.path, now);
            if waits {
                self.again.entry(one.path.clone()).or_default().merge(one.happened.clone());
            } else {
                self.rotations.copies.remove(&one.path);
            }
            !waits
        });
    }

    /// Whether it can be the copy of a log, which a worker reads on: it is judged when that is done.
    fn is_copy_being_read(&self, one: &Seen) -> bool {
        let is_being_read = one.known.is_none()
            && one.there.as_ref().is_some_and(|there| there.content.not_read() == Some(NotRead::BeingRead))
            && self.contents.is_being_read(&one.path);
        is_being_read
            && self.is_growing(&one.path)
            && logs_of(&one.path).any(|log| self.known_log(&log).is_some())
    }

    /// Whether a log has lost what it had while what can be its copy is not known yet.
    fn is_emptied_while_copied(&self, one: &Seen) -> bool {
        let (Some(known), Some(there)) = (&one.known, &one.there) else { return false };
        let is_copy = |path: &PathBuf| {
            path.parent() == one.path.parent()
                && *path != one.path
                && logs_of(path).any(|log| log == one.path)
        };
        let is_emptied = !one.grown && known.inode == there.inode && there.size < known.size;
        let mut unknown =
            self.rotations.copies.keys().chain(&self.in_flight).chain(self.contents.being_read());
        is_emptied && self.is_growing(&one.path) && unknown.any(is_copy)
    }

    fn is_growing(&self, path: &Path) -> bool {
        self.coverage.options(path).is_some_and(|options| options.growing)
    }

    fn known_log(&self, log: &Path) -> Option<Object> {
        if self.is_growing(log) { self.ledger.state().baseline.get(log) } else { None }
    }

    /// Whether it can be the copy of a log, or the compressed log, that somebody has not written to its end.
    fn is_incomplete_copy(&self, one: &Seen) -> bool {
        let is_new = one.known.is_none() && !one.grown && !one.happened.finished;
        let Some(there) = one.there.as_ref().filter(|there| is_new && there.kind == Kind::File) else {
            return false;
        };
        self.is_growing(&one.path)
            && (log_of(&one.path).is_some_and(|log| self.known_log(&log).is_some())
                || logs_of(&one.path)
                    .any(|log| self.known_log(&log).is_some_and(|log| there.size < log.size)))
    }

    /// Whether a copy that is still written is not looked at yet.
    pub(super) fn lets_copy(&mut self, path: &Path, happened: &Happened) -> bool {
        let until = self.rotations.copies.get(path).map(|(_, until)| *until);
        let Some(until) = until.filter(|until| !happened.finished && *until > now()) else { return false };
        self.postpone(path, happened.clone(), until);
        true
    }

    /// Which paths are logs that were copied and emptied then (logrotate's `copytruncate`), or compressed, and their copies:
    /// the copy has what was known of the log, under its name with more at its end.
    fn copied_logs(&mut self, seen: &[Seen]) -> Vec<usize> {
        for one in seen {
            if let Some(digest) = one.unpacked {
                self.rotations.remember_packed(&one.path, digest);
            }
        }
        let baseline = &self.ledger.state().baseline;
        let is_growing = |path: &Path| self.is_growing(path);
        let is_same = |a: &Object, b: &Object| {
            let are_files = a.kind == Kind::File && b.kind == Kind::File;
            are_files && matches!(a.content, Content::Digest(_)) && a.content == b.content
        };
        // What is new in this round first: the baseline has it afterwards.
        let has_copy = |log: &Path, known: &Object| {
            let Some((directory, name)) = log.parent().zip(log.file_name()) else { return false };
            let is_copys = |path: &Path| {
                path.parent() == Some(directory) && logs_of(path).any(|of| of == log) && is_growing(path)
            };
            let mut now = seen.iter().filter_map(|other| Some((&other.path, other.there.as_ref()?)));
            now.any(|(path, there)| is_copys(path) && is_same(there, known))
                || baseline
                    .children_after(directory, Some(name), MAX_COPIES)
                    .iter()
                    .any(|(name, object)| is_copys(&directory.join(name)) && is_same(object, known))
        };
        let is_copied = |one: &Seen| match (&one.known, &one.there) {
            (Some(known), Some(there)) => {
                known.inode == there.inode && there.size < known.size && has_copy(&one.path, known)
            }
            (None, Some(there)) => {
                let of_same = |log: &Path| baseline.get(log).is_some_and(|log| is_same(there, &log));
                let is_packed = log_of(&one.path).zip(one.unpacked).is_some_and(|(log, unpacked)| {
                    let known = baseline.get(&log).map(|log| log.content);
                    is_growing(&log) && known == Some(Content::Digest(unpacked))
                });
                is_packed || logs_of(&one.path).any(|log| is_growing(&log) && of_same(&log))
            }
            // Compressed, and removed then.
            (Some(known), None) => self.rotations.packed.iter().any(|(packed, digest)| {
                log_of(packed).as_deref() == Some(&one.path)
                    && is_growing(packed)
                    && known.content == Content::Digest(*digest)
            }),
            _ => false,
        };
        let found = seen.iter().enumerate().filter(|(_, one)| is_growing(&one.path) && is_copied(one));
        found.map(|(index, _)| index).collect()
    }
}
