//! Names of users, as `/etc/passwd` has them. Other sources of names (LDAP, SSSD) would have to be waited for, so they
//! are not asked.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Most of the file that is read, in bytes.
const MOST_BYTES: u64 = 4 * 1024 * 1024;

/// Longest name that is kept, in bytes.
const MAX_NAME_BYTES: usize = 64;

/// The names, read again when the file is another one.
#[derive(Debug)]
pub struct Names {
    path: PathBuf,
    /// Device, inode, size and change time of what was read.
    seen: Option<[i64; 5]>,
    names: HashMap<u32, Arc<str>>,
}

impl Default for Names {
    fn default() -> Self {
        Self::of(Path::new("/etc/passwd"))
    }
}

/// A user of a line of passwd(5).
fn user_of(line: &[u8]) -> Option<(u32, Arc<str>)> {
    let text = std::str::from_utf8(line).ok()?;
    let mut fields = text.split(':');
    let name = fields.next().filter(|name| !name.is_empty() && name.len() <= MAX_NAME_BYTES)?;
    let id = fields.nth(1)?.parse().ok()?;
    let is_plain = name.chars().all(|c| !c.is_control() && !c.is_whitespace());
    is_plain.then(|| (id, name.into()))
}

impl Names {
    /// The names in a file.
    #[must_use]
    pub fn of(path: &Path) -> Self {
        Self { path: path.to_owned(), seen: None, names: HashMap::new() }
    }

    /// Reads the file again if it is another one; what cannot be read has no names.
    pub fn refresh(&mut self) {
        let stamp = std::fs::metadata(&self.path).ok().filter(std::fs::Metadata::is_file).map(|file| {
            [
                file.dev().cast_signed(),
                file.ino().cast_signed(),
                file.size().cast_signed(),
                file.ctime(),
                file.ctime_nsec(),
            ]
        });
        if stamp == self.seen {
            return;
        }
        self.seen = stamp;
        self.names.clear();
        let Ok(file) = File::open(&self.path) else { return };
        let mut reader = BufReader::new(file.take(MOST_BYTES));
        let mut line = Vec::new();
        while reader.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
            if let Some((id, name)) = user_of(line.trim_ascii_end()) {
                // The first one counts, as for getpwuid(3).
                self.names.entry(id).or_insert(name);
            }
            line.clear();
        }
    }

    /// The name of a user.
    #[must_use]
    pub fn get(&self, id: u32) -> Option<Arc<str>> {
        self.names.get(&id).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_file_and_the_first_of_an_id_counts() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("passwd");
        let mut names = Names::of(&path);
        names.refresh();
        assert_eq!(names.get(0), None);

        std::fs::write(
            &path,
            "root:x:0:0::/root:/bin/sh\ntoor:x:0:0::/:/bin/sh\nbroken\n:x:1:1\na b:x:2:2\n",
        )
        .unwrap();
        names.refresh();
        assert_eq!(names.get(0).as_deref(), Some("root"));
        assert_eq!((names.get(1), names.get(2)), (None, None));

        std::fs::write(&path, "admin:x:0:0::/root:/bin/sh\nann:x:1000:1000::/home/ann:/bin/bash").unwrap();
        names.refresh();
        assert_eq!(names.get(0).as_deref(), Some("admin"));
        assert_eq!(names.get(1000).as_deref(), Some("ann"));
    }
}
