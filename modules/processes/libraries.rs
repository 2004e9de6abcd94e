//! The files that a process has mapped to execute, proc_pid_maps(5).

use std::collections::{HashMap, HashSet};
use std::os::fd::AsFd;

use rustix::fs::{AtFlags, statx};
use rustix::io::Errno;
use serde::Serialize;
use vigie_host::shown;

use crate::executable::{FileState, Inode, View, WANTED};
use crate::procfs;
use crate::remote::known_status;

/// Most bytes of the list that are read.
const MAX_MAPS_BYTES: usize = 64 << 20;

/// A file that is mapped to execute.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Library {
    /// Its path.
    pub path: String,
    /// What became of the file.
    pub state: FileState,
    /// Who may change it: whoever may write to the `file`, or to a `directory` that it lies in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub writable: Option<&'static str>,
}

impl Library {
    /// Whether it deserves a look: gone, or not safe from others.
    #[must_use]
    pub(crate) fn is_suspicious(&self) -> bool {
        self.writable.is_some() || !matches!(self.state, FileState::Present | FileState::Unknown)
    }
}

/// What is known of files that lie where their names say, so that a library of all processes is looked at once. By the
/// root's namespace, path, and device and inode as the list has them.
#[derive(Debug, Default)]
pub struct Known(HashMap<(u64, Vec<u8>, Vec<u8>), Library>);

/// A line of the list: the range, device and inode, path.
#[derive(Debug, PartialEq, Eq)]
struct Mapping<'a> {
    range: &'a [u8],
    file: &'a [u8],
    path: Vec<u8>,
}

/// Reads a line when it is of a file that is executed.
fn mapping(line: &[u8]) -> Option<Mapping<'_>> {
    let mut rest = line;
    let mut field = || {
        let end = rest.iter().position(|byte| *byte == b' ')?;
        let (field, after) = rest.split_at(end);
        rest = after.trim_ascii_start();
        Some(field)
    };
    let (range, rights, _offset) = (field()?, field()?, field()?);
    if !rights.contains(&b'x') {
        return None;
    }
    let begin = rest;
    let end = begin.iter().position(|byte| *byte == b' ')?;
    let inode = begin[end..].trim_ascii_start();
    let path_at = inode.iter().position(|byte| *byte == b' ')?;
    let file = &begin[..begin.len() - inode.len() + path_at];
    let path = inode[path_at..].trim_ascii_start();
    path.starts_with(b"/").then(|| Mapping { range, file, path: unescaped(path) })
}

/// A line feed is written as `\012`; nothing else is escaped.
fn unescaped(path: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(path.len());
    let mut rest = path;
    while let Some(byte) = rest.first() {
        let (byte, length) = if rest.starts_with(b"\\012") { (b'\n', 4) } else { (*byte, 1) };
        plain.push(byte);
        rest = &rest[length..];
    }
    plain
}

/// Reads what a process executes, its program among it.
///
/// # Errors
/// When the list cannot be read.
pub fn read(view: &View<'_>, namespace: u64, known: &mut Known) -> Result<(Vec<Library>, bool), Errno> {
    let mut content = Vec::new();
    let whole = procfs::read(view.directory, "maps", MAX_MAPS_BYTES, &mut content)?;
    let mut libraries: Vec<Library> = Vec::new();
    let mut seen: HashSet<(&[u8], Vec<u8>)> = HashSet::new();
    for line in content.split(|byte| *byte == b'\n') {
        let Some(Mapping { range, file, path }) = mapping(line) else { continue };
        if !seen.insert((file, path.clone())) {
            continue;
        }
        let key = (namespace, path.clone(), file.to_vec());
        if let Some(library) = known.0.get(&key) {
            libraries.push(library.clone());
            continue;
        }
        let library = look(view, range, file, &path);
        if library.state == FileState::Present {
            known.0.insert(key, library.clone());
        }
        libraries.push(library);
    }
    Ok((libraries, whole))
}

fn look(view: &View<'_>, range: &[u8], file: &[u8], path: &[u8]) -> Library {
    let name = [b"map_files/", &without_zeros(range)[..]].concat();
    match known_status(view.directory, name.as_slice()) {
        Ok(status) => {
            let (state, path) = view.state(path, &status);
            let writable =
                if state == FileState::Present { view.writable_by_others(path, &status) } else { None };
            Library { path: shown(path), state, writable }
        }
        Err(_) if view.remote.covers(view.directory, path) => {
            Library { path: shown(path), state: FileState::Unknown, writable: None }
        }
        // Without the right to follow mapped files, device and inode as the list has them must do.
        Err(_) => {
            let plain = path.strip_suffix(b" (deleted)").unwrap_or(path);
            let at = |path: &[u8]| {
                let below = [b"root", path].concat();
                statx(view.directory.as_fd(), below.as_slice(), AtFlags::SYMLINK_NOFOLLOW, WANTED)
            };
            match (at(path), at(plain)) {
                (Ok(status), _) if is_same(file, &status) => Library {
                    path: shown(path),
                    state: FileState::Present,
                    writable: view.writable_by_others(path, &status),
                },
                // File systems with several devices have other numbers in the list.
                (Ok(_), _) => Library { path: shown(path), state: FileState::Unknown, writable: None },
                (Err(_), Ok(_)) => Library { path: shown(plain), state: FileState::Replaced, writable: None },
                (Err(Errno::NOENT), Err(Errno::NOENT)) => {
                    Library { path: shown(plain), state: FileState::Deleted, writable: None }
                }
                _ => Library { path: shown(path), state: FileState::Unknown, writable: None },
            }
        }
    }
}

/// The names in `map_files` have no zeros in front, those in the list have.
fn without_zeros(range: &[u8]) -> Vec<u8> {
    let plain = |address: &[u8]| {
        let zeros =
            address.iter().take_while(|digit| **digit == b'0').count().min(address.len().saturating_sub(1));
        address[zeros..].to_vec()
    };
    let mut parts = range.splitn(2, |byte| *byte == b'-');
    [plain(parts.next().unwrap_or_default()), b"-".to_vec(), plain(parts.next().unwrap_or_default())].concat()
}

/// Whether `MAJOR:MINOR INODE` is this file.
fn is_same(file: &[u8], status: &rustix::fs::Statx) -> bool {
    let inode = Inode::of(status);
    let text = format!("{:02x}:{:02x} {}", inode.device.0, inode.device.1, inode.inode);
    let mut words = file.split(|byte| *byte == b' ').filter(|word| !word.is_empty());
    let found = [words.next().unwrap_or_default(), words.next().unwrap_or_default()].join(&b' ');
    found == text.as_bytes()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_path_is_the_rest_of_the_line() {
        let line =
            b"00400000-0040b000 r-xp 00000000 fe:00 1234                       /opt/a b (deleted)\\012x";

        let mapping = mapping(line).unwrap();

        assert_eq!(
            (mapping.range, &*mapping.path),
            (&b"00400000-0040b000"[..], &b"/opt/a b (deleted)\nx"[..])
        );
        assert_eq!(mapping.file, b"fe:00 1234");
        assert_eq!(without_zeros(mapping.range), b"400000-40b000");
    }

    #[test]
    fn what_is_not_executed_or_no_file_is_left_out() {
        for line in [
            &b"7f0-7f1 rw-p 00000000 fe:00 1 /lib/x.so"[..],
            b"7f0-7f1 r-xp 00000000 00:00 0 [vdso]",
            b"7f0-7f1 r-xp 00000000 00:00 0 ",
            b"",
        ] {
            assert_eq!(mapping(line), None, "{}", String::from_utf8_lossy(line));
        }
    }

    proptest! {
        #[test]
        fn any_line_is_read_or_left_out(line in proptest::collection::vec(any::<u8>(), 0..80)) {
            mapping(&line);
        }
    }
}
