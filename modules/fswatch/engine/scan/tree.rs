//! Comparing what is below one directory.

use std::path::Path;
use std::time::SystemTime;

use super::{Purpose, Scan};
use crate::engine::{Engine, Sink, now};
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
    /// The same as [`Self::scan_tree`], once at a time: where that is being compared already, it is listed once more.
    pub(in crate::engine) fn scan_tree_once(&mut self, path: &Path) {
        let Some((&number, scan)) = self.scans.iter_mut().find(|(_, scan)| scan.is_of_tree(path)) else {
            return self.scan_tree(path, None);
        };
        scan.again = true;
        if let Some(window) = &mut scan.window {
            window.to = SystemTime::now();
        }
        // What it has listed can still be waited for, as long as whoever writes there likes.
        self.finish_scan(number);
    }

    /// Lists once more what was doubted again while it was listed. Whether it was.
    pub(super) fn repeat_scan(&mut self, number: u64) -> bool {
        if !self.scans.get(&number).is_some_and(|scan| scan.again) {
            return false;
        }
        // What doubted it may have changed them.
        let rules = self.scan_rules(Depth::Glance);
        let Some(scan) = self.scans.get_mut(&number) else { return false };
        let Some((tree, _)) = scan.directory.clone() else { return false };
        (scan.again, scan.walked, scan.begun, scan.rules) = (false, false, now(), rules);
        scan.stack.push((tree.clone(), None));
        self.start_tree(number, &tree);
        true
    }

    fn start_tree(&mut self, number: u64, path: &Path) {
        if self.coverage.roots().iter().any(|root| root.path == path) {
            self.suspect_root(number, path);
        }
        self.feed_scan(number);
    }

    /// Compares a directory that came, or that is to be compared for another reason, and what is below it. Users who
    /// make very many have their trees compared later.
    pub(in crate::engine) fn scan_tree(&mut self, path: &Path, window: Option<Window>) {
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
        self.start_tree(number, path);
    }
}
