//! Files, random numbers and the clock, as the commands of the fleet need them.

use std::error::Error;
use std::fs::{DirBuilder, File, OpenOptions};
use std::future::Future;
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use vigie_files::durable::{self, Durability};
use vigie_files::random;
use vigie_protocol::error_chain::ErrorChain;

use crate::exit::{Exit, Failure};

/// Seconds since 1970 (UTC).
pub(super) fn now() -> i64 {
    jiff::Timestamp::now().as_second()
}

/// Random bytes for keys and ids, from the kernel.
pub(super) fn random_bytes<const N: usize>() -> Result<[u8; N], Failure> {
    random::bytes()
        .map_err(|error| Failure::new(Exit::Io, format!("the kernel gives no random numbers: {error}"), ""))
}

/// A failure with all its reasons.
pub(super) fn failed<'a>(exit: Exit, hint: &'a str) -> impl Fn(&(dyn Error + 'static)) -> Failure + 'a {
    move |error| Failure::new(exit, ErrorChain(error).to_string(), hint)
}

/// Reads a text of at most `limit` bytes.
pub(super) fn read(path: &Path, limit: usize) -> Result<String, Failure> {
    let unreadable = |error: io::Error| {
        let message = format!("cannot read {}: {error}", path.display());
        Failure::new(Exit::Io, message, "give a file that you may read")
    };
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(unreadable)?;
    file.take(limit as u64 + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() > limit {
        let message = format!("{} exceeds {limit} bytes", path.display());
        return Err(Failure::new(Exit::Usage, message, "check that it is the right file"));
    }
    String::from_utf8(bytes).map_err(|_| {
        Failure::new(
            Exit::Usage,
            format!("{} is not a text file", path.display()),
            "check that it is the right file",
        )
    })
}

fn unwritable(path: &Path) -> impl Fn(io::Error) -> Failure + '_ {
    move |error| {
        let hint = match error.kind() {
            io::ErrorKind::AlreadyExists => {
                "existing files are not overwritten; give another path, or move the file away"
            }
            _ => "check the permissions of the directory",
        };
        Failure::new(Exit::Io, format!("cannot write {}: {error}", path.display()), hint)
    }
}

/// Makes a directory that only its owner enters, unless it is there.
pub(super) fn directory(path: &Path) -> Result<(), Failure> {
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(unwritable(path))
}

/// Writes a new file that is not secret.
pub(super) fn create(path: &Path, text: &str) -> Result<(), Failure> {
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o644)
        .open(path)
        .and_then(|mut file| {
            file.write_all(text.as_bytes())?;
            file.sync_all()
        })
        .map_err(unwritable(path))
}

/// Writes a file that is not secret, over one that is there; at no moment is there half of it.
pub(super) fn replace(path: &Path, text: &str) -> Result<(), Failure> {
    replace_with(path, text, 0o644)
}

/// The same with a mode of its own.
pub(super) fn replace_with(path: &Path, text: &str, mode: u32) -> Result<(), Failure> {
    durable::replace_shared(path, mode, text.as_bytes(), Durability::Power).map_err(unwritable(path))
}

/// The path from the root of the file system; it needs not be there.
pub(super) fn absolute(path: &Path) -> Result<PathBuf, Failure> {
    std::path::absolute(path).map_err(unwritable(path))
}

/// A text in quotation marks, as TOML wants it.
pub(super) fn quoted(text: &str) -> String {
    // JSON's escapes are TOML's as well, but for this character, which JSON leaves as it is.
    serde_json::Value::from(text).to_string().replace('\u{7f}', "\\u007F")
}

/// A path in quotation marks; files of configuration are texts.
pub(super) fn quoted_path(path: &Path) -> Result<String, Failure> {
    path.to_str().map(quoted).ok_or_else(|| {
        let message = format!("the path {} cannot be written to a configuration file", path.display());
        Failure::new(Exit::Usage, message, "use a UTF-8 path")
    })
}

/// A list of texts, as TOML wants it.
pub(super) fn quoted_list(texts: impl IntoIterator<Item = String>) -> String {
    let texts: Vec<String> = texts.into_iter().map(|text| quoted(&text)).collect();
    format!("[{}]", texts.join(", "))
}

/// Runs what speaks to the broker, on this thread.
pub(super) fn block_on<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(Exit::Internal, format!("cannot start: {error}"), ""))?
        .block_on(work)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn what_is_there_is_replaced_only_when_that_is_meant() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("file");

        create(&path, "first").unwrap();

        assert!(create(&path, "second").unwrap_err().hint.contains("existing files are not overwritten"));
        replace(&path, "third").unwrap();
        assert_eq!(read(&path, 5).unwrap(), "third");
        assert_eq!(read(&path, 4).unwrap_err().exit, Exit::Usage);
        assert_eq!(fs::read_dir(place.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_directory_is_its_owner_s_alone() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("a/b");

        directory(&path).unwrap();

        assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o700);
    }

    proptest::proptest! {
        #[test]
        fn a_quoted_text_is_read_by_toml_as_it_was(text in proptest::prelude::any::<String>()) {
            let table: toml::Table = toml::from_str(&format!("a = {}", quoted(&text))).unwrap();
            proptest::prop_assert_eq!(table["a"].as_str(), Some(text.as_str()));
        }
    }
}
