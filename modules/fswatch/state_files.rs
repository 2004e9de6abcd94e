//! Opening the files of the state directory: whatever somebody put in their place is never followed, waited for or
//! written to. What is no regular file is put aside, and that is told.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use vigie_files::durable::{self, DurableFile};

/// Names that are tried for what is put aside.
const MAX_ASIDE: u32 = 100;

/// Something that stood where a file of ours should be: where, what it was, and where it is now.
pub type Odd = (PathBuf, &'static str, PathBuf);

/// Sets what holds for all files of the state: readable by us alone, and opening one waits for nobody and follows no
/// link.
pub fn private(options: &mut OpenOptions) -> &mut OpenOptions {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
    options.mode(0o600).custom_flags(flags.bits().cast_signed())
}

/// What stands at a path, when that is no regular file.
fn odd_kind(path: &Path) -> Option<&'static str> {
    let kind = fs::symlink_metadata(path).ok()?.file_type();
    if kind.is_file() {
        return None;
    }
    Some(if kind.is_symlink() {
        "symbolic link"
    } else if kind.is_dir() {
        "directory"
    } else if kind.is_fifo() {
        "fifo"
    } else if kind.is_socket() {
        "socket"
    } else {
        "device"
    })
}

/// Moves what stands at a path out of the way, under a name that is free.
///
/// # Errors
/// When the directory cannot be changed.
pub(crate) fn put_aside(path: &Path) -> io::Result<PathBuf> {
    for number in 0..MAX_ASIDE {
        let mut name = path.as_os_str().to_owned();
        name.push(".set-aside");
        if number > 0 {
            name.push(format!(".{number}"));
        }
        let aside = PathBuf::from(name);
        // An earlier file of ours makes room; whatever else is there stays.
        if fs::symlink_metadata(&aside).is_ok_and(|there| !there.is_file()) {
            continue;
        }
        return durable::rename(path, &aside).map(|()| aside);
    }
    Err(io::Error::other(format!("too much stands beside {}", path.display())))
}

/// Puts what stands at a path aside unless it is a regular file, or nothing.
///
/// # Errors
/// When the directory cannot be changed.
pub(crate) fn clear_odd(path: &Path) -> io::Result<Option<Odd>> {
    let Some(kind) = odd_kind(path) else { return Ok(None) };
    Ok(Some((path.to_owned(), kind, put_aside(path)?)))
}

/// Opens a file that must be a regular one.
///
/// # Errors
/// When it cannot be opened, or is none: somebody put it there just now.
pub fn open(path: &Path, options: &mut OpenOptions) -> io::Result<File> {
    let file = private(options).open(path)?;
    if file.metadata()?.is_file() {
        return Ok(file);
    }
    Err(io::Error::other("it is not a regular file"))
}

/// Makes a file anew, whatever stood there.
///
/// # Errors
/// When the directory cannot be changed.
pub(crate) fn create_anew(path: &Path) -> io::Result<DurableFile> {
    clear_odd(path)?;
    match durable::remove(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    DurableFile::create(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn what_stands_in_the_place_of_a_file_is_put_aside_and_never_waited_for() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state");
        let target = directory.path().join("target");
        fs::write(&target, "theirs").unwrap();
        for kind in ["symbolic link", "directory", "fifo", "fifo"] {
            match kind {
                "symbolic link" => symlink(&target, &path).unwrap(),
                "directory" => fs::create_dir(&path).unwrap(),
                _ => nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap(),
            }
            assert!(open(&path, OpenOptions::new().read(true).write(true)).is_err());

            let (_, found, aside) = clear_odd(&path).unwrap().unwrap();

            assert_eq!(found, kind);
            assert!(fs::symlink_metadata(&aside).is_ok() && fs::symlink_metadata(&path).is_err());
        }
        create_anew(&path).unwrap();
        assert_eq!(clear_odd(&path).unwrap(), None);
        assert_eq!(fs::read_to_string(&target).unwrap(), "theirs");
    }
}
