//! Comparing what is below one directory.

use std::path::Path;

use super::{Purpose, Scan};
use crate::engine::{Engine, Sink};
use crate::events::Window;
use crate::trust::Lane;
use crate::waiting::Extent;
use crate::workers::Depth;

/// Directories of one user whose trees are compared at once, and of all users together; of more the trees are noted.
const MAX_TREES: [usize; 2] = [64, 256];

impl Scan {
    /// Whether it compares what is below this directory, and nothing else.
    fn is_of_tree(&self, path: &Path) -> bool {
        self.purpose == Purpose::Tree && self.directory.as_ref().is_some_and(|(known, _)| known == path)
    }
}

impl<S: Sink> Engine<S> {
    /// Compares a directory that came, or that is to be compared for another reason, and what is below it: once more
    /// where that is under way already. Users who make very many have their trees compared later.
    pub(in crate::engine) fn scan_tree(&mut self, path: &Path, window: Option<Window>) {
        if let Some(scan) = self.scans.values_mut().find(|scan| scan.is_of_tree(path)) {
            scan.again = true;
            scan.window = scan.window.take().or(window);
            return;
        }
        let lane = self.lane_of_names(path);
        if lane != Lane::Trusted {
            let trees = self.scans.values().filter(|scan| scan.purpose == Purpose::Tree);
            let of_users = trees.filter(|scan| scan.lane != Lane::Trusted);
            let (its, all) =
                of_users.fold((0, 0), |(its, all), scan| (its + usize::from(scan.lane == lane), all + 1));
            if its >= MAX_TREES[0] || all >= MAX_TREES[1] {
                self.note_busy_directory(path.to_owned(), Extent::Tree);
                return;
            }
        }
        let number = self.add_scan(Purpose::Tree, Depth::Glance, vec![path.to_owned()], None);
        if let Some(scan) = self.scans.get_mut(&number) {
            (scan.directory, scan.window, scan.lane) = (Some((path.to_owned(), Extent::Tree)), window, lane);
        }
        if self.coverage.roots().iter().any(|root| root.path == path) {
            self.suspect_root(number, path);
        }
        self.feed_scan(number);
    }
}
