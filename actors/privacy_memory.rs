//! The note on disk that extra privacy mode is on: a configuration that is gone, short or broken does not turn it off.

#![expect(clippy::disallowed_methods, reason = "called before the actors run, and on Lane::Config")]

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

fn note(state_dir: &Path) -> PathBuf {
    state_dir.join("extra-privacy")
}

/// Whether the mode was on when this state was last used. Blocking.
#[must_use]
pub fn is_set(state_dir: &Path) -> bool {
    // Whatever stands there: only its absence says that the mode was off.
    fs::symlink_metadata(note(state_dir)).is_ok()
}

/// Makes or removes the note, on disk when this returns. Blocking.
///
/// # Errors
/// When the directory does not take the change.
pub fn set(state_dir: &Path, is_on: bool) -> io::Result<()> {
    let path = note(state_dir);
    if is_on {
        match File::options().write(true).create_new(true).open(&path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
    } else {
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    File::open(state_dir)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_note_stays_until_it_is_removed() {
        let directory = tempfile::tempdir().unwrap();
        assert!(!is_set(directory.path()));

        set(directory.path(), true).unwrap();
        set(directory.path(), true).unwrap();
        assert!(is_set(directory.path()));

        set(directory.path(), false).unwrap();
        set(directory.path(), false).unwrap();
        assert!(!is_set(directory.path()));
    }
}
