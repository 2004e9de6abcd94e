//! Directories whose disk or server does not respond: scans go on without them, and they are compared when it does.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::scan::Purpose;
use super::{Engine, Sink, now};
use crate::waiting::Extent;
use crate::workers::{Doing, Findings, Listed};

/// Longest time that a scan waits for a directory. Of the first scan it waits for all: what is not known after that
/// would seem to be new.
const LONGEST_LISTING: Duration = Duration::from_secs(15);

fn why() -> io::Error {
    io::Error::new(
        io::ErrorKind::TimedOut,
        "its disk or server does not respond; it is compared when it does",
    )
}

impl<S: Sink> Engine<S> {
    /// Has scans go on past directories that were waited for long enough, and names those.
    pub(super) fn give_up_listings(&mut self) {
        let scans = &self.scans;
        let is_meant = |doing: &Doing| {
            let scan = doing.course.and_then(|course| scans.get(&course.scan));
            scan.is_some_and(|scan| scan.purpose != Purpose::Learn)
        };
        for Doing { path, course, .. } in self.workers.give_up(now(), LONGEST_LISTING, is_meant) {
            let Some(course) = course else { continue };
            if !self.is_hung(&path) {
                self.hung.insert(path.clone());
            }
            self.note_hung(&path);
            if course.is_part {
                self.note_read(course.scan, &path, Findings::default(), 0, course.charge);
            } else {
                let (directories, findings) = (Vec::new(), Findings::default());
                let listed = Listed { directories, findings, parts: 0, rest_after: None, error: Some(why()) };
                self.note_listed(course.scan, &path, listed, course.charge);
            }
        }
        self.feed_scans();
    }

    /// Whether a directory is in one that does not respond.
    pub(super) fn is_hung(&self, directory: &Path) -> bool {
        self.hung.iter().any(|hung| directory.starts_with(hung))
    }

    pub(super) fn note_hung(&mut self, directory: &Path) {
        self.note_unwatched(directory, format!("it cannot be listed: {}", why()));
    }

    /// A directory that was given up responds, or is gone.
    pub(super) fn note_responds(&mut self, directory: PathBuf) {
        self.hung.remove(&directory);
        self.status.unwatched.remove(&directory);
        self.note_busy_directory(directory, Extent::Tree);
    }
}
