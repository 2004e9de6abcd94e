//! Files that others read, such as metrics: replaced whole, so that nobody reads half of one, and not synced, because
//! after a crash the next one comes soon.

use std::fs::{self, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

/// Replaces the file, which then has this mode whatever the umask. What is written meanwhile lies beside it under
/// another name; its directory may belong to another user, whose links are not followed.
///
/// # Errors
/// When the directory does not take the file.
pub fn replace(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    let beside = name_beside(path)?;
    // What a crash left.
    match fs::remove_file(&beside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside)?;
    let written = file
        .write_all(content)
        .and_then(|()| file.set_permissions(Permissions::from_mode(mode)))
        .and_then(|()| fs::rename(&beside, path));
    if written.is_err() {
        fs::remove_file(&beside).ok();
    }
    written
}

/// A hidden name with another ending: who reads `*.prom` does not read it.
fn name_beside(path: &Path) -> io::Result<PathBuf> {
    let name = path.file_name().ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
    let mut hidden = std::ffi::OsString::from(".");
    hidden.push(name);
    hidden.push(format!(".{}", std::process::id()));
    Ok(path.with_file_name(hidden))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_is_replaced_with_its_mode_and_nothing_stays_beside_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("vigie.prom");

        replace(&path, b"one\n", 0o644).unwrap();
        replace(&path, b"two\n", 0o644).unwrap();

        assert_eq!(fs::read(&path).unwrap(), b"two\n");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o644);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_link_that_somebody_planted_leads_nowhere() {
        let directory = tempfile::tempdir().unwrap();
        let (path, victim) = (directory.path().join("vigie.prom"), directory.path().join("victim"));
        fs::write(&victim, "whole").unwrap();
        std::os::unix::fs::symlink(&victim, &path).unwrap();
        std::os::unix::fs::symlink(&victim, name_beside(&path).unwrap()).unwrap();

        replace(&path, b"page\n", 0o644).unwrap();

        assert_eq!(fs::read(&victim).unwrap(), b"whole");
        assert_eq!(fs::read(&path).unwrap(), b"page\n");
        assert!(!fs::symlink_metadata(&path).unwrap().is_symlink());
    }

    #[test]
    fn a_directory_that_is_not_there_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        assert!(replace(&directory.path().join("gone/vigie.prom"), b"", 0o644).is_err());
    }
}
