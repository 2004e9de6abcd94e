//! A file of lines that others read while it is written: whole lines only, synced, renamed by size, opened anew when
//! somebody else has renamed it (logrotate).

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg, OFlag};

/// How much is read at once when the end of the last whole line is looked for.
const LOOK_BACK_BYTES: u64 = 64 << 10;

/// How a file is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// Size in bytes at which it is renamed; 0 for never.
    pub rotate_bytes: u64,
    /// Renamed files that are kept.
    pub keep_files: u64,
    /// Permission bits of a new file.
    pub mode: u32,
}

/// The file, held open. It is locked while it is written, so that several processes may write whole lines to it.
#[derive(Debug)]
pub struct LineFile {
    path: PathBuf,
    rules: Rules,
    file: File,
    /// The length as we left it; nothing when the end was not looked at yet.
    length: Option<u64>,
}

impl LineFile {
    /// Opens or makes the file.
    ///
    /// # Errors
    /// When it is no regular file, another user may have put it there, or it cannot be opened.
    pub fn open(path: &Path, rules: Rules) -> io::Result<Self> {
        let file = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .mode(rules.mode)
            // A FIFO must not hold up whoever opens it, and a link leads elsewhere than its owner thinks.
            .custom_flags((OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_NOFOLLOW).bits())
            .open(path)?;
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file"));
        }
        if is_planted(path, &metadata) {
            let text = format!(
                "it belongs to user {}, and its directory is world-writable: remove it, or choose another file",
                metadata.uid()
            );
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, text));
        }
        if metadata.len() == 0 {
            // Whatever the umask of the agent.
            file.set_permissions(fs::Permissions::from_mode(rules.mode))?;
            sync_directory(path)?;
        }
        Ok(Self { path: path.to_owned(), rules, file, length: None })
    }

    /// Appends whole lines; they are on disk when this returns. When it fails, none of them counts as written. What a
    /// writer that was killed left of its last line is cut off first: it was never acknowledged. Blocking: while another
    /// process has locked the file, `pause` is called between two attempts, and its error ends them. Whoever may read
    /// the file may lock it.
    ///
    /// # Errors
    /// When the disk does not take them; what it took is cut off again.
    pub fn append(&mut self, lines: &[u8], pause: &mut dyn FnMut() -> io::Result<()>) -> io::Result<()> {
        let lock = loop {
            if !is_at(&self.file, &self.path) {
                *self = Self::open(&self.path, self.rules)?;
            }
            match Flock::lock(self.file.try_clone()?, FlockArg::LockExclusiveNonblock) {
                // Another writer may have renamed it before we had the lock.
                Ok(lock) if is_at(&self.file, &self.path) => break lock,
                Ok(_) | Err((_, Errno::EINTR)) => {}
                Err((_, Errno::EWOULDBLOCK)) => pause()?,
                Err((_, errno)) => return Err(errno.into()),
            }
        };
        let mut length = self.file.metadata()?.len();
        if self.length != Some(length) {
            let end = whole(&mut self.file)?;
            if end < length {
                self.file.set_len(end)?;
                length = end;
            }
        }
        let limit = self.rules.rotate_bytes;
        if limit > 0 && length > 0 && length + lines.len() as u64 > limit {
            self.rotate()?;
            drop(lock);
            return self.append(lines, pause);
        }
        let written = self.file.write_all(lines).and_then(|()| self.file.sync_data());
        if let Err(error) = written {
            self.file.set_len(length).ok();
            return Err(error);
        }
        self.length = Some(length + lines.len() as u64);
        Ok(())
    }

    /// Renames `PATH` to `PATH.1`, and those before it further; the last one goes.
    fn rotate(&self) -> io::Result<()> {
        let numbered = |number: u64| {
            let mut name = self.path.clone().into_os_string();
            name.push(format!(".{number}"));
            PathBuf::from(name)
        };
        if self.rules.keep_files == 0 {
            return fs::remove_file(&self.path);
        }
        for number in (1..self.rules.keep_files).rev() {
            match fs::rename(numbered(number), numbered(number + 1)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        fs::rename(&self.path, numbered(1))
    }
}

/// Whether the name leads to the file that is held open.
fn is_at(file: &File, path: &Path) -> bool {
    let held = file.metadata().ok().map(|data| (data.dev(), data.ino()));
    let named = fs::symlink_metadata(path).ok().map(|data| (data.dev(), data.ino()));
    held.is_some() && held == named
}

/// The length up to the end of the last whole line.
fn whole(file: &mut File) -> io::Result<u64> {
    let mut end = file.metadata()?.len();
    let mut bytes = Vec::new();
    while end > 0 {
        let start = end.saturating_sub(LOOK_BACK_BYTES);
        file.seek(SeekFrom::Start(start))?;
        bytes.clear();
        (&mut *file).take(end - start).read_to_end(&mut bytes)?;
        if let Some(at) = memchr::memrchr(b'\n', &bytes) {
            return Ok(start + at as u64 + 1);
        }
        end = start;
    }
    Ok(0)
}

/// The file's name survives a power loss as well.
fn sync_directory(path: &Path) -> io::Result<()> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    File::open(directory.unwrap_or(Path::new(".")))?.sync_all()
}

/// Whether another user may have made this file before us, to read and change what we write: it is his, in a directory
/// that every user may write, as `/tmp` is.
fn is_planted(path: &Path, file: &fs::Metadata) -> bool {
    const EVERYBODY: u32 = 0o002;
    let is_ours = [0, nix::unistd::geteuid().as_raw()].contains(&file.uid());
    let directory = path.parent().map(fs::metadata);
    !is_ours && matches!(directory, Some(Ok(directory)) if directory.mode() & EVERYBODY != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: Rules = Rules { rotate_bytes: 0, keep_files: 2, mode: 0o640 };

    fn again() -> io::Result<()> {
        std::thread::yield_now();
        Ok(())
    }

    fn read(path: &Path) -> String {
        fs::read_to_string(path).unwrap()
    }

    #[test]
    fn what_is_left_of_a_line_is_cut_off_and_whole_lines_stay() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("alerts");
        let long = "x".repeat(200_000);
        for (found, kept) in
            [("a\nb\nhal", "a\nb\n"), ("hal", ""), ("a\n", "a\n"), ("", ""), (&format!("a\n{long}"), "a\n")]
        {
            fs::write(&path, found).unwrap();
            LineFile::open(&path, RULES).unwrap().append(b"new\n", &mut again).unwrap();
            assert_eq!(read(&path), format!("{kept}new\n"), "{}", found.len());
        }
    }

    #[test]
    fn a_file_is_renamed_by_size_and_only_so_many_are_kept() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("alerts");
        let mut file = LineFile::open(&path, Rules { rotate_bytes: 10, ..RULES }).unwrap();
        for line in ["1234567\n", "2\n", "3\n", "1234567890123\n", "5\n"] {
            file.append(line.as_bytes(), &mut again).unwrap();
        }

        let named = |name: &str| read(&directory.path().join(name));
        assert_eq!(
            [named("alerts"), named("alerts.1"), named("alerts.2")],
            ["5\n", "1234567890123\n", "3\n"]
        );
        assert!(!directory.path().join("alerts.3").exists());
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
    }

    #[test]
    fn a_file_that_another_user_put_into_a_directory_of_all_users_is_refused() {
        if !nix::unistd::geteuid().is_root() {
            vigie_skipped::skipped("only root can give files to others");
            return;
        }
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("alerts");
        fs::write(&path, "").unwrap();
        std::os::unix::fs::chown(&path, Some(1234), None).unwrap();

        // Whoever may write the directory gave it to a shipper of logs.
        LineFile::open(&path, RULES).unwrap();
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o1777)).unwrap();
        let error = LineFile::open(&path, RULES).unwrap_err();

        assert!(error.to_string().starts_with("it belongs to user 1234"), "{error}");
        std::os::unix::fs::chown(&path, Some(0), None).unwrap();
        LineFile::open(&path, RULES).unwrap();
    }

    #[test]
    fn a_file_that_somebody_renamed_emptied_or_removed_is_opened_anew() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("alerts");
        let moved = directory.path().join("moved");
        let mut file = LineFile::open(&path, RULES).unwrap();
        file.append(b"1\n", &mut again).unwrap();
        fs::rename(&path, &moved).unwrap();
        file.append(b"2\n", &mut again).unwrap();
        assert_eq!((read(&moved), read(&path)), ("1\n".to_owned(), "2\n".to_owned()));

        File::options().write(true).open(&path).unwrap().set_len(0).unwrap();
        file.append(b"3\n", &mut again).unwrap();
        assert_eq!(read(&path), "3\n");
        fs::remove_file(&path).unwrap();
        file.append(b"4\n", &mut again).unwrap();
        assert_eq!(read(&path), "4\n");
    }

    #[test]
    fn two_writers_write_whole_lines_and_rename_once() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("alerts");
        let rules = Rules { rotate_bytes: 2000, keep_files: 100, ..RULES };
        let writers = ["a", "b"].map(|name| {
            let path = path.clone();
            std::thread::spawn(move || {
                let mut file = LineFile::open(&path, rules).unwrap();
                for number in 0..200 {
                    file.append(format!("{name}{number}\n").repeat(3).as_bytes(), &mut again).unwrap();
                }
            })
        });
        for writer in writers {
            writer.join().unwrap();
        }

        let files = fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().path());
        let text: String = files.map(|file| read(&file)).collect();
        assert_eq!(text.lines().count(), 1200);
        assert!(
            text.ends_with('\n')
                && text.lines().all(|line| line.len() >= 2 && line[1..].parse::<u32>().is_ok())
        );
    }

    #[test]
    fn a_file_that_another_process_has_locked_is_not_waited_for_without_an_end() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("alerts");
        let mut file = LineFile::open(&path, RULES).unwrap();
        // The right to read it is enough.
        let other = Flock::lock(File::open(&path).unwrap(), FlockArg::LockShared).unwrap();
        let mut pauses = 0;

        let refused = file.append(b"1\n", &mut || {
            pauses += 1;
            if pauses < 3 { Ok(()) } else { Err(io::ErrorKind::TimedOut.into()) }
        });
        assert_eq!((refused.unwrap_err().kind(), read(&path)), (io::ErrorKind::TimedOut, String::new()));

        drop(other);
        file.append(b"2\n", &mut again).unwrap();
        assert_eq!((pauses, read(&path)), (3, "2\n".to_owned()));
    }

    #[test]
    fn what_is_no_file_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let pipe = directory.path().join("pipe");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
        std::os::unix::fs::symlink(directory.path().join("elsewhere"), directory.path().join("link"))
            .unwrap();

        assert!(LineFile::open(&pipe, RULES).is_err());
        assert!(LineFile::open(&directory.path().join("link"), RULES).is_err());
        assert!(LineFile::open(&directory.path().join("missing/x"), RULES).is_err());
    }
}
