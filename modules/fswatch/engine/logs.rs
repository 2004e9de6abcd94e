//! Logs that grow, where their rule says so: which changes are those of a rotation.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::round::Seen;
use super::{Engine, Sink};
use crate::object::{Content, Kind, Object};
use crate::packed::log_of;

/// Compressed logs that are remembered: the log is removed only then.
const MAX_PACKED: usize = 64;

/// Names after that of a log among which its copies are looked for.
const MAX_COPIES: usize = 64;

/// The logs of which a file can be a copy, by its name: `log` for `log.1` and `log-20260101`.
fn logs_of(copy: &Path) -> impl Iterator<Item = PathBuf> {
    let name = copy.file_name().map(|name| name.as_encoded_bytes().to_vec()).unwrap_or_default();
    let directory = copy.parent().map(Path::to_owned).unwrap_or_default();
    let ends = (1..name.len()).filter(|at| matches!(name[*at], b'.' | b'-')).collect::<Vec<_>>();
    ends.into_iter().map(move |end| directory.join(OsStr::from_bytes(&name[..end])))
}

/// Which paths are logs that were rotated: the file went on under another name in its directory, and a new one took its
/// place. Both are as their rule allows.
pub(super) fn rotations(seen: &[Seen], growing: impl Fn(&Path) -> bool) -> Vec<usize> {
    let mut came: HashMap<(u64, u64), usize> = HashMap::new();
    for (index, one) in seen.iter().enumerate() {
        if let Some(there) = one.there.as_ref().filter(|there| there.kind == Kind::File) {
            came.insert((there.device, there.inode), index);
        }
    }
    let mut rotated = Vec::new();
    for (index, one) in seen.iter().enumerate() {
        let (Some(known), Some(there)) = (&one.known, &one.there) else { continue };
        let is_other = known.kind == Kind::File && there.kind == Kind::File && known.inode != there.inode;
        if !is_other || !growing(&one.path) {
            continue;
        }
        let old = came.get(&(known.device, known.inode)).filter(|old| {
            let old = &seen[**old];
            // An inode is given again at once, so it alone proves nothing.
            let is_same = old.happened.moved_from.as_deref() == Some(one.path.as_path())
                || old
                    .there
                    .as_ref()
                    .is_some_and(|there| there.content == known.content && there.modified == known.modified);
            is_same && old.path.parent() == one.path.parent() && growing(&old.path)
        });
        if let Some(old) = old {
            rotated.extend([index, *old]);
        }
    }
    rotated
}

impl<S: Sink> Engine<S> {
    /// Which paths are logs that were copied and emptied then (logrotate's `copytruncate`), or compressed, and their copies:
    /// the copy has what was known of the log, under its name with more at its end.
    pub(super) fn copied_logs(&mut self, seen: &[Seen]) -> Vec<usize> {
        for one in seen {
            if let Some(digest) = one.unpacked {
                self.packed_logs.push_back((one.path.clone(), digest));
            }
        }
        let surplus = self.packed_logs.len().saturating_sub(MAX_PACKED);
        self.packed_logs.drain(..surplus);
        let baseline = &self.ledger.state().baseline;
        let is_growing = |path: &Path| self.coverage.options(path).is_some_and(|options| options.growing);
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
            (Some(known), None) => self.packed_logs.iter().any(|(packed, digest)| {
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
