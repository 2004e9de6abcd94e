//! Files that hold secrets: made with mode 0600, and not read when others could have read them.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;

/// Why a file with a secret cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SecretFileError {
    /// It cannot be read.
    #[error("cannot read the secret in {path:?}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It cannot be written.
    #[error("cannot write the secret to {path:?}")]
    Unwritable {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Others than its owner have rights on it.
    #[error(
        "{path:?} contains a secret and has mode {mode:04o}: run `chmod 600` on it, or create a new secret if other users could read it"
    )]
    WideMode {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// It belongs to somebody else, who can change it at any time.
    #[error("{path:?} contains a secret and belongs to user {owner}: chown it to user {user} or to root")]
    ForeignOwner {
        /// The file.
        path: PathBuf,
        /// Who owns it.
        owner: u32,
        /// Who reads it.
        user: u32,
    },
    /// It is not a file, or far larger than any secret.
    #[error("{path:?} is not a regular file of at most {limit} bytes of UTF-8 text")]
    NotASecret {
        /// The file.
        path: PathBuf,
        /// Most bytes that are read.
        limit: u64,
    },
}

/// Reads a secret of at most `limit` bytes.
///
/// # Errors
///
/// See [`SecretFileError`].
pub fn read(path: &Path, limit: u64) -> Result<String, SecretFileError> {
    let unreadable = |source| SecretFileError::Unreadable { path: path.to_owned(), source };
    // A FIFO must not hold up whoever opens it.
    let file = OpenOptions::new()
        .read(true)
        .custom_flags((OFlag::O_NONBLOCK | OFlag::O_NOCTTY).bits())
        .open(path)
        .map_err(unreadable)?;
    let metadata = file.metadata().map_err(unreadable)?;
    let not_a_secret = || SecretFileError::NotASecret { path: path.to_owned(), limit };
    if !metadata.is_file() || metadata.len() > limit {
        return Err(not_a_secret());
    }
    let mode = metadata.mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(SecretFileError::WideMode { path: path.to_owned(), mode });
    }
    let user = nix::unistd::geteuid().as_raw();
    if metadata.uid() != user && metadata.uid() != 0 {
        return Err(SecretFileError::ForeignOwner { path: path.to_owned(), owner: metadata.uid(), user });
    }
    let mut bytes = Vec::new();
    file.take(limit + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > limit {
        return Err(not_a_secret());
    }
    String::from_utf8(bytes).map_err(|_| not_a_secret())
}

/// Writes a secret to a new file, on disk when this returns. An existing file stays as it is, and is an error.
///
/// # Errors
///
/// See [`SecretFileError`].
pub fn create(path: &Path, text: &str) -> Result<(), SecretFileError> {
    let written = || -> io::Result<()> {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        let result = file.write_all(text.as_bytes()).and_then(|()| file.sync_all());
        if result.is_err() {
            // Half a secret would look like one that was spoiled.
            let _ = fs::remove_file(path);
        }
        result?;
        let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        File::open(directory.unwrap_or(Path::new(".")))?.sync_all()
    };
    written().map_err(|source| SecretFileError::Unwritable { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_secret_comes_back_and_is_never_overwritten() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("secret");

        create(&path, "first").unwrap();

        assert_eq!(read(&path, 100).unwrap(), "first");
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o600);
        assert!(matches!(create(&path, "second"), Err(SecretFileError::Unwritable { .. })));
        assert_eq!(read(&path, 100).unwrap(), "first");
    }

    #[test]
    fn what_others_could_read_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("secret");
        create(&path, "text").unwrap();
        for mode in [0o644, 0o640, 0o620, 0o601] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            assert!(matches!(read(&path, 100), Err(SecretFileError::WideMode { .. })), "{mode:o}");
        }
    }

    #[test]
    fn what_is_no_secret_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let large = directory.path().join("large");
        create(&large, "0123456789").unwrap();
        assert!(matches!(read(&large, 9), Err(SecretFileError::NotASecret { .. })));
        let pipe = directory.path().join("pipe");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRUSR).unwrap();
        assert!(matches!(read(&pipe, 9), Err(SecretFileError::NotASecret { .. })));
    }
}
