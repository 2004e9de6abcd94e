//! Reads a configuration file's text without trusting what stands at the path.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;

use vigie_lease::Writers;
use vigie_protocol::control::ConfigProblem;

/// Largest configuration file in bytes. Ours have a few KiB; a list of ten thousand paths fits.
pub(crate) const MAX_FILE_BYTES: u64 = 1 << 20;

/// Mode bit: others may write.
const OTHERS_WRITE: u32 = 0o002;

/// Mode bit: the group may write.
const GROUP_WRITES: u32 = 0o020;

/// Mode bit: only owners may remove what is in the directory.
const STICKY: u32 = 0o1000;

/// Why there is no text.
#[derive(Debug)]
pub(crate) enum Unread {
    /// Nothing is there.
    Missing,
    /// Something is there that is not a readable text.
    Bad(ConfigProblem),
}

/// Reads a file: at once, whatever it is, and with bounded memory.
///
/// # Errors
/// [`Unread::Missing`] when there is none, [`Unread::Bad`] when it is not a readable text of a sensible size.
pub(crate) fn read(path: &Path) -> Result<String, Unread> {
    let bad = |message: String| Unread::Bad(problem(path, None, message));
    let regular = |data: &std::fs::Metadata| match data.file_type() {
        kind if kind.is_file() => Ok(()),
        other => Err(bad(format!("is {}, not a regular file", kind(other)))),
    };
    // Asked before opening as well: opening some devices has effects of its own.
    if let Ok(data) = std::fs::metadata(path) {
        regular(&data)?;
    }
    // Without O_NONBLOCK, opening a FIFO waits for a writer that may never come.
    let flags = OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
    let file = match File::options().read(true).custom_flags(flags.bits()).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Err(Unread::Missing),
        Err(error) => return Err(bad(format!("cannot be opened: {error}"))),
    };
    let writers = vigie_lease::writers(&file);
    let being_written =
        || bad("is open for writing in another program; reload when it is complete".to_owned());
    if matches!(writers, Writers::Some) {
        return Err(being_written());
    }
    let before = file.metadata().map_err(|error| bad(format!("cannot be examined: {error}")))?;
    regular(&before)?;
    if before.len() > MAX_FILE_BYTES {
        return Err(bad(format!("has {} bytes, but at most {MAX_FILE_BYTES} are allowed", before.len())));
    }
    let mut bytes = Vec::new();
    Read::by_ref(&mut &file)
        .take(MAX_FILE_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| bad(format!("cannot be read: {error}")))?;
    let after = file.metadata().map_err(|error| bad(format!("cannot be examined: {error}")))?;
    let version = |of: &std::fs::Metadata| (of.len(), of.mtime(), of.mtime_nsec());
    if version(&before) != version(&after) || bytes.len() as u64 != after.len() {
        return Err(bad("changed while it was read; reload when it is complete".to_owned()));
    }
    if matches!(&writers, Writers::None(lease) if !lease.was_kept()) {
        return Err(being_written());
    }
    if let Some((line, message)) = cut_short(&bytes) {
        return Err(Unread::Bad(problem(path, line, message.to_owned())));
    }
    String::from_utf8(bytes).map_err(|error| {
        let valid = error.utf8_error().valid_up_to();
        let line = error.as_bytes()[..valid].iter().filter(|byte| **byte == b'\n').count() + 1;
        Unread::Bad(problem(path, Some(line), "is not UTF-8 text".to_owned()))
    })
}

/// Why a text cannot be whole, and on which line that shows: a writer that was interrupted leaves a beginning of the
/// file, or blocks that were never written. A cut between two lines cannot be seen here.
fn cut_short(text: &[u8]) -> Option<(Option<usize>, &'static str)> {
    let line_of = |end: usize| Some(text[..end].iter().filter(|byte| **byte == b'\n').count() + 1);
    if text.is_empty() {
        return Some((None, "is empty; a file without settings must contain at least a comment"));
    }
    if let Some(place) = text.iter().position(|byte| *byte == 0) {
        return Some((line_of(place), "contains NUL bytes: it was not written completely"));
    }
    if !text.ends_with(b"\n") {
        return Some((
            line_of(text.len()),
            "the last line has no line feed: the file may have been cut short",
        ));
    }
    None
}

/// Says whether users other than root and the agent's own could have written the file or put another in its place.
pub(crate) fn writable_by_others(path: &Path) -> Option<ConfigProblem> {
    let directory = path.parent().unwrap_or(Path::new("/"));
    if let Some((who, change)) = who_else_writes(path) {
        return Some(problem(path, None, format!("{who} can write this file; run: chmod {change} on it")));
    }
    let sticky = std::fs::metadata(directory).is_ok_and(|data| data.mode() & STICKY != 0);
    match who_else_writes(directory).filter(|_| !sticky) {
        Some((who, change)) => {
            let message = format!("{who} can replace this file; run: chmod {change} {}", directory.display());
            Some(problem(path, None, message))
        }
        None => None,
    }
}

/// Who may write there beside root and the agent's own user and group, and what takes that right away.
fn who_else_writes(path: &Path) -> Option<(&'static str, &'static str)> {
    let data = std::fs::metadata(path).ok()?;
    let own_group = data.gid() == 0 || data.gid() == nix::unistd::getegid().as_raw();
    if data.mode() & OTHERS_WRITE != 0 {
        Some(("every user", "o-w"))
    } else if data.mode() & GROUP_WRITES != 0 && !own_group {
        Some(("a group that is not root's", "g-w"))
    } else {
        None
    }
}

/// Says whether the file belongs to a user who is neither root nor the agent's own.
pub(crate) fn owned_by_another(path: &Path) -> Option<ConfigProblem> {
    let owner = std::fs::metadata(path).ok()?.uid();
    let message = format!("belongs to user {owner}, who could control the agent with it; chown it to root");
    is_foreign(owner, nix::unistd::geteuid().as_raw()).then(|| problem(path, None, message))
}

fn is_foreign(owner: u32, agent: u32) -> bool {
    owner != 0 && owner != agent
}

fn problem(file: &Path, line: Option<usize>, message: String) -> ConfigProblem {
    ConfigProblem { file: PathBuf::from(file), line, key: None, message }
}

fn kind(kind: std::fs::FileType) -> &'static str {
    if kind.is_dir() {
        "a directory"
    } else if kind.is_fifo() {
        "a FIFO"
    } else if kind.is_socket() {
        "a socket"
    } else {
        "a device"
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn message(path: &Path) -> String {
        match read(path) {
            Ok(text) => panic!("{text:?} was read from {}", path.display()),
            Err(Unread::Missing) => "missing".to_owned(),
            Err(Unread::Bad(problem)) => problem.to_string(),
        }
    }

    #[test]
    fn what_is_not_a_regular_text_file_is_refused_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        nix::unistd::mkfifo(&at("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        symlink(at("loop"), at("loop")).unwrap();
        symlink("/dev/zero", at("zero")).unwrap();
        File::create(at("huge")).unwrap().set_len(1 << 30).unwrap();
        std::fs::write(at("latin1"), b"[a]\n\nb = \xe9\n").unwrap();

        assert!(message(dir.path()).ends_with("is a directory, not a regular file"));
        assert!(message(&at("fifo")).ends_with("is a FIFO, not a regular file"));
        assert!(message(&at("zero")).ends_with("is a device, not a regular file"));
        assert!(message(&at("loop")).contains("cannot be opened"));
        assert!(message(&at("huge")).contains("has 1073741824 bytes"));
        assert!(message(&at("latin1")).ends_with("latin1:3: is not UTF-8 text"));
        assert!(message(&std::env::current_exe().unwrap()).contains("bytes, but at most"));
        assert_eq!(message(&at("nothing")), "missing");
    }

    #[test]
    fn a_text_that_was_not_written_to_its_end_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f.toml");
        for (text, said) in [
            ("", "f.toml: is empty"),
            ("a = 1\nb", "f.toml:2: the last line has no line feed"),
            ("a = 1\n\0\0\0\n", "f.toml:2: contains NUL bytes"),
        ] {
            std::fs::write(&path, text).unwrap();
            assert!(message(&path).contains(said), "{text:?}: {}", message(&path));
        }
        std::fs::write(&path, "# nothing\n").unwrap();
        assert_eq!(read(&path).unwrap(), "# nothing\n");
    }

    #[test]
    fn a_file_that_somebody_has_open_for_writing_is_refused_until_it_is_closed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f.toml");
        std::fs::write(&path, "a = 1\n").unwrap();

        let writer = File::options().append(true).open(&path).unwrap();
        assert!(message(&path).contains("is open for writing"), "{}", message(&path));
        drop(writer);

        assert_eq!(read(&path).unwrap(), "a = 1\n");
    }

    #[test]
    fn files_belong_to_root_or_to_the_agents_user() {
        let own = tempfile::NamedTempFile::new().unwrap();

        assert!(owned_by_another(own.path()).is_none());
        assert!(is_foreign(1000, 0) && is_foreign(1001, 1000));
        assert!(!is_foreign(0, 1000) && !is_foreign(1000, 1000));
    }

    #[test]
    fn a_file_that_every_user_may_write_or_replace_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("f.toml");
        std::fs::write(&file, "# nothing\n").unwrap();
        let set =
            |path: &Path, mode| std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();

        set(&file, 0o644);
        assert!(writable_by_others(&file).is_none());
        set(&file, 0o646);
        assert!(writable_by_others(&file).unwrap().message.contains("write this file"));
        set(&file, 0o600);
        set(dir.path(), 0o707);
        assert!(writable_by_others(&file).unwrap().message.contains("replace"));
        set(dir.path(), 0o1777);
        assert!(writable_by_others(&file).is_none());
    }
}
