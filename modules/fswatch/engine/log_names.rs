//! Names of logs and of their copies, as programs that rotate them choose them.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Ends of a name, from the last, that can be what rotation added to it.
const MAX_ENDS: usize = 16;

/// The logs of which a file can be a copy, by its name: `log` for `log.1` and `log-20260101`, `a.log` for `a-1.log`.
pub(super) fn logs_of(copy: &Path) -> impl Iterator<Item = PathBuf> {
    let name = copy.file_name().map(|name| name.as_encoded_bytes().to_vec()).unwrap_or_default();
    let directory = copy.parent().map(Path::to_owned).unwrap_or_default();
    let extension = name.iter().rposition(|byte| *byte == b'.').unwrap_or(name.len());
    let ends = (1..name.len()).rev().filter(|at| matches!(name[*at], b'.' | b'-'));
    let ends = ends.take(MAX_ENDS).collect::<Vec<_>>();
    ends.into_iter().rev().flat_map(move |end| {
        let with_extension =
            (end < extension).then(|| [&name[..end], &name[extension..]].concat()).filter(|log| *log != name);
        let logs = [Some(name[..end].to_vec()), with_extension];
        let paths: Vec<PathBuf> =
            logs.into_iter().flatten().map(|log| directory.join(OsStr::from_bytes(&log))).collect();
        paths
    })
}

/// Whether a file can be a copy of a log by its name.
pub(super) fn is_copy_of(path: &Path, log: &Path) -> bool {
    if path.parent() != log.parent() {
        return false;
    }
    let (Some(name), Some(log)) = (path.file_name(), log.file_name()) else { return false };
    let (name, log) = (name.as_bytes(), log.as_bytes());
    let is_end = |rest: &[u8]| matches!(rest.first(), Some(b'.' | b'-'));
    let extension =
        name.iter().rposition(|byte| *byte == b'.').map_or(&name[name.len()..], |dot| &name[dot..]);
    let has_extension = |stem: &[u8]| {
        !stem.is_empty()
            && name.strip_prefix(stem).is_some_and(|rest| is_end(rest) && rest.len() > extension.len())
    };
    name.strip_prefix(log).is_some_and(is_end) || log.strip_suffix(extension).is_some_and(has_extension)
}

/// What the names of a log's copies follow in the order of names: `log` itself, and of `a.log` also `a-` and `a.`.
pub(super) fn beginnings_of_copies(log: &OsStr) -> impl Iterator<Item = OsString> {
    let stem = Path::new(log).extension().and(Path::new(log).file_stem());
    let before_extension = ["-", "."].into_iter().filter_map(move |end| {
        let mut begins = stem?.to_owned();
        begins.push(end);
        Some(begins)
    });
    std::iter::once(log.to_owned()).chain(before_extension)
}

/// Where a log is when it is compressed.
pub(super) fn packed_path(log: &Path) -> PathBuf {
    let mut packed = log.to_owned().into_os_string();
    packed.push(".gz");
    packed.into()
}

/// Whether a name is that of a log with a number or a date, as rotation makes them.
pub(super) fn is_numbered(path: &Path, log: &Path) -> bool {
    let (Some(name), Some(log)) = (path.file_name(), log.file_name()) else { return false };
    let (name, log) = (name.as_bytes(), log.as_bytes());
    let stem = log.iter().rposition(|byte| *byte == b'.').map_or(log, |dot| &log[..dot]);
    let extension = &log[stem.len()..];
    let is_number = |rest: &[u8]| {
        let rest = rest.strip_suffix(b".gz").unwrap_or(rest);
        matches!(rest.first(), Some(b'.' | b'-'))
            && rest.iter().any(u8::is_ascii_digit)
            && rest.iter().all(|byte| byte.is_ascii_digit() || matches!(byte, b'.' | b'-' | b'_'))
    };
    let with_extension = name.strip_prefix(stem).and_then(|rest| rest.strip_suffix(extension));
    name.strip_prefix(log).is_some_and(is_number) || with_extension.is_some_and(is_number)
}

/// Whether a name is that of the one copy that programs keep without a number.
pub(super) fn is_old_log(path: &Path, log: &Path) -> bool {
    let (Some(name), Some(log)) = (path.file_name(), log.file_name()) else { return false };
    let ends = [".old", "-old", ".bak", ".prev", ".last"];
    name.as_bytes()
        .strip_prefix(log.as_bytes())
        .is_some_and(|end| ends.iter().any(|old| old.as_bytes() == end))
}

/// The number of a log's copy; none of a date.
pub(super) fn number_of(path: &Path, log: &Path) -> Option<u32> {
    /// Digits of the largest number.
    const DIGITS: usize = 5;
    if !is_numbered(path, log) {
        return None;
    }
    let (name, log) = (path.file_name()?.as_bytes(), log.file_name()?.as_bytes());
    let common = name.iter().zip(log).take_while(|(one, other)| one == other).count();
    let digits = name[common..].split(|byte| !byte.is_ascii_digit()).find(|digits| !digits.is_empty())?;
    std::str::from_utf8(digits).ok().filter(|digits| digits.len() <= DIGITS)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_is_known_by_its_name() {
        for (path, log) in [
            ("/l/a.log.1", "a.log"),
            ("/l/a.log-x", "a.log"),
            ("/l/a-1.log", "a.log"),
            ("/l/a.1.log", "a.log"),
            ("/l/a-1", "a"),
        ] {
            let log = Path::new("/l").join(log);
            assert!(is_copy_of(Path::new(path), &log), "{path}");
            assert!(logs_of(Path::new(path)).any(|of| of == log), "{path}");
        }
        for (path, log) in
            [("/l/a.log", "a.log"), ("/l/a.logs", "a.log"), ("/m/a.log.1", "a.log"), ("/l/.log", ".log")]
        {
            assert!(!is_copy_of(Path::new(path), &Path::new("/l").join(log)), "{path}");
        }
    }

    #[test]
    fn a_number_or_a_date_makes_a_rotated_log_and_nothing_else_does() {
        let is = |path: &str, log: &str| is_numbered(Path::new(path), Path::new(log));

        for path in ["/l/a.log.1", "/l/a.log-20261128", "/l/a.log.2.gz", "/l/a-1.log", "/l/a.1.log"] {
            assert!(is(path, "/l/a.log"), "{path}");
        }
        for (path, number) in [
            ("/l/a.log.1", Some(1)),
            ("/l/a.log.12.gz", Some(12)),
            ("/l/a-3.log", Some(3)),
            ("/l/a.log-20261128", None),
            ("/l/a.log.old", None),
        ] {
            assert_eq!(number_of(Path::new(path), Path::new("/l/a.log")), number, "{path}");
        }
        for path in ["/l/a.log", "/l/a.log.old", "/l/a-access.log", "/l/a.log.x1", "/l/a1.log", "/l/a.log."] {
            assert!(!is(path, "/l/a.log"), "{path}");
        }
    }
}
