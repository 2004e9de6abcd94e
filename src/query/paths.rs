//! Paths of command lines, as modules read them.
//!
//! Alerts and answers show bytes that are not UTF-8 as `\xNN`, and people copy paths from there; shells hand over the
//! bytes themselves. Both mean the same file.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};

use vigie_host::{meant, shown};

use crate::exit::{Exit, Failure};

/// A path as modules read it: absolute, and shown as alerts show it.
pub(crate) fn path_text(path: &Path) -> String {
    let path = PathBuf::from(OsString::from_vec(meant(path.as_os_str().as_bytes())));
    shown(absolute(&path).as_os_str().as_bytes())
}

/// A path as the module `file` reads it, to which a backslash without an `x` is nothing special: absolute, with `\xNN`
/// for bytes that are not UTF-8.
pub(crate) fn searched_path(path: &Path) -> String {
    text_of(absolute(path).as_os_str())
}

/// Any bytes as text, with `\xNN` for those that are not UTF-8; escapes that are there stay.
pub(crate) fn text_of(bytes: &OsStr) -> String {
    let mut text = String::new();
    for chunk in bytes.as_bytes().utf8_chunks() {
        text.push_str(chunk.valid());
        text.extend(chunk.invalid().iter().map(|byte| format!("\\x{byte:02x}")));
    }
    text
}

fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

/// Reads a path that no working directory completes.
pub(crate) fn absolute_only(text: OsString) -> Result<PathBuf, String> {
    let path = PathBuf::from(text);
    if path.is_absolute() { Ok(path) } else { Err("give an absolute path, such as /usr/bin/ls".to_owned()) }
}

/// Refuses paths that mean another place on each host.
pub(crate) fn refuse_relative<'p>(mut paths: impl Iterator<Item = &'p PathBuf>) -> Result<(), Failure> {
    match paths.find(|path| !path.is_absolute()) {
        None => Ok(()),
        Some(path) => Err(Failure::new(
            Exit::Usage,
            format!("{path:?} is relative to a directory of this host, and the query is for other hosts"),
            "give an absolute path",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_understood_as_alerts_show_them_and_as_they_are() {
        let raw = |bytes: &[u8]| PathBuf::from(OsStr::from_bytes(bytes));
        for (typed, read) in [
            (raw(b"/w/\\xff\\xFEbad"), "/w/\\xff\\xfebad"),
            (raw(b"/w/\xff\xfebad"), "/w/\\xff\\xfebad"),
            (raw(b"/etc/a\nb"), "/etc/a\\x0ab"),
            (raw(b"/etc/a\\\\b"), "/etc/a\\\\b"),
            (raw(b"/etc/a\\b"), "/etc/a\\\\b"),
        ] {
            assert_eq!(path_text(&typed), read, "{typed:?}");
        }
        assert_eq!(searched_path(&raw(b"/w/\\xff\xfe\\b")), "/w/\\xff\\xfe\\b");
    }

    #[test]
    fn a_relative_path_is_refused_where_it_means_nothing() {
        assert!(absolute_only("ls".into()).is_err() && absolute_only("/bin/ls".into()).is_ok());
        let paths = [PathBuf::from("/etc"), PathBuf::from("etc")];
        assert!(refuse_relative(paths[..1].iter()).is_ok());
        assert_eq!(refuse_relative(paths.iter()).unwrap_err().exit, Exit::Usage);
    }
}
