//! What happened to every path, for questions afterwards: each change as a line of JSON, in two files that take turns.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::state_files;
use crate::store::HistoryPosition;

/// The files. When the newer one is full, it becomes the older one, and the one that was is gone.
#[derive(Debug)]
pub struct History {
    directory: PathBuf,
    /// Bytes of one file.
    most: u64,
    position: HistoryPosition,
    /// Bytes that the store knows of and that are not there.
    missing: u64,
    file: Option<File>,
}

/// The newer and the older file.
fn paths(directory: &Path) -> [PathBuf; 2] {
    ["fswatch.history", "fswatch.history.1"].map(|name| directory.join(name))
}

impl History {
    /// Goes on where the store says that it ended: what is beyond belongs to steps that never were.
    ///
    /// # Errors
    /// When the file cannot be used.
    pub fn open(directory: &Path, position: HistoryPosition, most: u64) -> io::Result<Self> {
        let [newer, older] = paths(directory);
        let mut file =
            state_files::open(&newer, OpenOptions::new().write(true).create(true).truncate(false))?;
        let length = file.metadata()?.len();
        // Shorter after a power failure, or rotated right before a crash: all of it counts then.
        let bytes = if length > position.bytes { position.bytes } else { length };
        let was_rotated = fs::symlink_metadata(older).is_ok_and(|older| older.len() >= position.bytes);
        let missing = if was_rotated { 0 } else { position.bytes - bytes };
        file.set_len(bytes)?;
        io::Seek::seek(&mut file, io::SeekFrom::End(0))?;
        let position = HistoryPosition { bytes, ..position };
        Ok(Self { directory: directory.to_owned(), most, position, missing, file: Some(file) })
    }

    /// Bytes that are not there any more, if there are such.
    #[must_use]
    pub fn missing(&self) -> Option<u64> {
        Some(self.missing).filter(|missing| *missing > 0)
    }

    /// How far it goes.
    #[must_use]
    pub fn position(&self) -> HistoryPosition {
        self.position
    }

    /// Changes how large a file may become.
    pub(crate) fn set_most(&mut self, most: u64) {
        self.most = most;
    }

    /// Adds lines: each one object of JSON.
    ///
    /// # Errors
    /// When the disk does not take them; those before it did are there, and `lines` has the others.
    pub fn add(&mut self, lines: &mut Vec<String>) -> io::Result<()> {
        while !lines.is_empty() {
            if self.position.bytes > self.most {
                self.rotate()?;
            }
            // As many as there is room for, and at least one: a batch is no longer than a file may be.
            let room = self.most.saturating_sub(self.position.bytes);
            let mut bytes = Vec::new();
            let mut count = 0;
            for line in lines.iter() {
                if count > 0 && bytes.len() as u64 + line.len() as u64 > room {
                    break;
                }
                bytes.extend_from_slice(line.as_bytes());
                bytes.push(b'\n');
                count += 1;
            }
            let Some(file) = &mut self.file else { return Err(io::ErrorKind::NotFound.into()) };
            if let Err(error) = file.write_all(&bytes) {
                file.set_len(self.position.bytes)?;
                io::Seek::seek(file, io::SeekFrom::End(0))?;
                return Err(error);
            }
            self.position.bytes += bytes.len() as u64;
            lines.drain(..count);
        }
        Ok(())
    }

    fn rotate(&mut self) -> io::Result<()> {
        let [newer, older] = paths(&self.directory);
        fs::rename(newer, older)?;
        let position = HistoryPosition { generation: self.position.generation + 1, bytes: 0 };
        *self = Self::open(&self.directory, position, self.most)?;
        Ok(())
    }

    /// Goes through all lines, the oldest first, until `each` returns `false`. Lines of another form are left out.
    /// For any thread: what is being written meanwhile may be seen or not.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn read(directory: &Path, mut each: impl FnMut(Value) -> bool) -> io::Result<()> {
        let [newer, older] = paths(directory);
        // Both are open before the first is read, so that a rotation in between hides nothing.
        let open = |path: PathBuf| state_files::open(&path, OpenOptions::new().read(true)).ok();
        let files: Vec<File> = [older, newer].into_iter().filter_map(open).collect();
        for file in files {
            for line in BufReader::new(file).split(b'\n') {
                if let Ok(value) = serde_json::from_slice(&line?)
                    && !each(value)
                {
                    return Ok(());
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn all(directory: &Path) -> Vec<u64> {
        let mut all = Vec::new();
        History::read(directory, |line| {
            all.push(line["n"].as_u64().unwrap());
            true
        })
        .unwrap();
        all
    }

    #[test]
    fn lines_are_read_in_their_order_and_the_oldest_go_first() {
        let directory = tempfile::tempdir().unwrap();
        let mut history = History::open(directory.path(), HistoryPosition::default(), 1000).unwrap();
        for number in 0..300 {
            history.add(&mut vec![json!({"n": number}).to_string()]).unwrap();
        }

        let kept = all(directory.path());

        let first = kept[0];
        assert_eq!(kept, (first..300).collect::<Vec<_>>());
        assert!((90..200).contains(&kept.len()), "{}", kept.len());
        assert!(history.position().generation > 0);
    }

    #[test]
    fn what_was_removed_is_missed_and_a_rotation_is_no_loss() {
        let directory = tempfile::tempdir().unwrap();
        let mut history = History::open(directory.path(), HistoryPosition::default(), 50).unwrap();
        history
            .add(&mut vec![json!({"n": 1, "text": "long enough to be the last line of a file"}).to_string()])
            .unwrap();
        let position = history.position();
        assert_eq!(history.missing(), None);
        history.add(&mut vec![json!({"n": 2}).to_string()]).unwrap();

        let rotated = History::open(directory.path(), position, 50).unwrap();
        fs::remove_file(directory.path().join("fswatch.history.1")).unwrap();
        fs::write(directory.path().join("fswatch.history"), "").unwrap();
        let emptied = History::open(directory.path(), position, 50).unwrap();

        assert_eq!((rotated.missing(), emptied.missing()), (None, Some(position.bytes)));
    }

    #[test]
    fn what_was_written_after_the_last_step_is_cut_off() {
        let directory = tempfile::tempdir().unwrap();
        let mut history = History::open(directory.path(), HistoryPosition::default(), 1000).unwrap();
        history.add(&mut vec![json!({"n": 1}).to_string()]).unwrap();
        let position = history.position();
        history.add(&mut vec![json!({"n": 2}).to_string()]).unwrap();
        drop(history);

        let mut history = History::open(directory.path(), position, 1000).unwrap();
        history.add(&mut vec![json!({"n": 3}).to_string()]).unwrap();

        assert_eq!(all(directory.path()), [1, 3]);
    }

    #[test]
    fn a_full_disk_leaves_no_half_line() {
        let directory = tempfile::tempdir().unwrap();
        let mut history = History::open(directory.path(), HistoryPosition::default(), 1000).unwrap();
        history.file = Some(File::options().write(true).open("/dev/full").unwrap());

        assert!(history.add(&mut vec![json!({"n": 1}).to_string()]).is_err());
        assert_eq!(history.position(), HistoryPosition::default());
    }
}
