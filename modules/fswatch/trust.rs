//! Who can cause work at a path. What root alone can change never waits for what others do.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Stat};

use crate::avoided::Avoided;

/// Bytes of the directories that are remembered, with their paths; beyond it all are forgotten and asked again. Users
/// make paths as long as they like, so that a number of directories would be no bound.
const MAX_BYTES: usize = 2 << 20;

/// What one of them takes beside its path.
const DIRECTORY_BYTES: usize = 64;

/// Whoever owns what has no owner of its own: names in a directory of all users that are gone already.
pub const NOBODY: u32 = u32::MAX;

/// Mode bits that let somebody beside the owner write. An ACL that lets others write shows in those of the group.
const WRITABLE: u32 = 0o022;

/// `S_ISVTX`: only the owner of a name may remove or rename it.
const STICKY: u32 = 0o1000;

/// To whom work is accounted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Lane {
    /// Nobody but root can change the path, or any directory above it.
    Trusted,
    /// This user can.
    Of(u32),
}

/// What a directory lets whom do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Standing {
    /// Only root can change it and everything above.
    trusted: bool,
    /// All can make names in it, but not take away those of others.
    shared: bool,
    /// Who pays for what happens in it, when somebody does.
    payer: Option<u32>,
}

const TOP: Standing = Standing { trusted: true, shared: false, payer: None };

impl Standing {
    /// That of a directory in a directory.
    fn below(self, status: &Stat) -> Self {
        let is_root = status.st_uid == 0;
        // Whether somebody else could put another one in its place.
        let is_safe = self.trusted || self.shared && is_root;
        let is_open = status.st_mode & WRITABLE != 0;
        Self {
            trusted: is_safe && is_root && !is_open,
            shared: is_safe && is_root && is_open && status.st_mode & STICKY != 0,
            payer: if is_root { self.payer } else { Some(status.st_uid) },
        }
    }
}

/// What is known of directories.
#[derive(Debug, Default)]
pub(crate) struct Trust {
    directories: BTreeMap<PathBuf, Standing>,
    /// Where nobody looks: a user would say how long that takes.
    avoided: Avoided,
    /// What they take.
    bytes: usize,
}

fn bytes_of(directory: &Path) -> usize {
    directory.as_os_str().len() + DIRECTORY_BYTES
}

impl Trust {
    /// Nothing is known yet.
    pub(crate) fn new(avoided: Avoided) -> Self {
        Self { avoided, ..Self::default() }
    }

    /// To whom work at a path is accounted.
    pub(crate) fn lane(&mut self, path: &Path) -> Lane {
        let Some(parent) = path.parent() else { return Lane::Trusted };
        if let Some(user) = self.avoided.user(path) {
            return Lane::Of(user);
        }
        if let Some(lane) = self.lane_of_names(parent) {
            return lane;
        }
        let standing = self.standing(parent);
        // In a directory of root that others can write it depends on the object.
        match self.avoided.status(path) {
            Ok(status) if status.st_uid != 0 => Lane::Of(status.st_uid),
            Ok(status) if standing.shared && status.st_mode & WRITABLE == 0 => Lane::Trusted,
            Ok(status) if standing.shared && FileType::from_raw_mode(status.st_mode) == FileType::Symlink => {
                Lane::Trusted
            }
            _ => Lane::Of(NOBODY),
        }
    }

    /// To whom work at all names in a directory is accounted; none when that depends on the name.
    pub(crate) fn lane_of_names(&mut self, directory: &Path) -> Option<Lane> {
        let standing = self.standing(directory);
        if standing.trusted { Some(Lane::Trusted) } else { standing.payer.map(Lane::Of) }
    }

    /// From the nearest directory that says enough upwards: one that is known, or one of a user, below which nothing is
    /// trusted, whatever is above. So a user's chain of a thousand directories costs no more than one.
    fn standing(&mut self, directory: &Path) -> Standing {
        if let Some(known) = self.directories.get(directory) {
            return *known;
        }
        if let Some(user) = self.avoided.user(directory) {
            return Standing { trusted: false, shared: false, payer: Some(user) };
        }
        let mut unknown = Vec::new();
        let mut standing = TOP;
        for way in directory.ancestors() {
            if let Some(known) = self.directories.get(way) {
                standing = *known;
                break;
            }
            // What is not there has nobody's rights: whoever makes it needs those of the directory above.
            let Ok(status) = self.avoided.status(way) else { continue };
            unknown.push((way, status));
            if status.st_uid != 0 {
                break;
            }
        }
        for (way, status) in unknown.into_iter().rev() {
            standing = standing.below(&status);
            if self.bytes + bytes_of(way) > MAX_BYTES {
                self.forget_all();
            }
            if self.directories.insert(way.to_owned(), standing).is_none() {
                self.bytes += bytes_of(way);
            }
        }
        standing
    }

    /// Something happened to this directory: it and those below it are asked again.
    pub(crate) fn forget(&mut self, directory: &Path) {
        let below: Vec<PathBuf> = self
            .directories
            .range(directory.to_owned()..)
            .take_while(|(path, _)| path.starts_with(directory))
            .map(|(path, _)| path.clone())
            .collect();
        for path in below {
            self.bytes -= bytes_of(&path);
            self.directories.remove(&path);
        }
    }

    /// Anything may have happened.
    pub(crate) fn forget_all(&mut self) {
        self.directories.clear();
        self.bytes = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, chown};

    #[test]
    fn only_what_root_alone_can_write_up_to_the_top_is_trusted() {
        if !vigie_skipped::is_root() {
            return;
        }
        let temp = tempfile::tempdir().unwrap();
        let path = |name: &str| temp.path().join(name);
        for name in ["mine/sub", "open", "shared", "user/sub"] {
            fs::create_dir_all(path(name)).unwrap();
        }
        let mode =
            |name: &str, mode| fs::set_permissions(path(name), fs::Permissions::from_mode(mode)).unwrap();
        mode("open", 0o777);
        mode("shared", 0o1777);
        chown(path("user"), Some(1234), None).unwrap();
        for name in ["shared/root", "shared/user", "open/root"] {
            fs::write(path(name), "").unwrap();
        }
        chown(path("shared/user"), Some(77), None).unwrap();
        let mut trust = Trust::default();

        for (name, lane) in [
            ("mine/a", Lane::Trusted),
            ("mine/sub/missing/a", Lane::Trusted),
            ("open/root", Lane::Of(NOBODY)),
            ("shared/root", Lane::Trusted),
            ("shared/user", Lane::Of(77)),
            ("shared/gone", Lane::Of(NOBODY)),
            ("user/a", Lane::Of(1234)),
            ("user/sub/a", Lane::Of(1234)),
        ] {
            assert_eq!(trust.lane(&path(name)), lane, "{name}");
        }
        mode("mine", 0o775);
        trust.forget(&path("mine"));
        assert_eq!(trust.lane(&path("mine/sub/a")), Lane::Of(NOBODY));
    }

    /// Of a user's chain only what is asked for is looked at, and what is remembered of many long ones has a bound.
    #[test]
    fn what_is_remembered_of_a_users_deep_chains_is_bounded_by_bytes() {
        if !vigie_skipped::is_root() {
            return;
        }
        let temp = tempfile::tempdir().unwrap();
        let mut trust = Trust::default();
        let mut most = 0;
        for chain in 0..60 {
            let mut path = temp.path().to_owned();
            for _ in 0..36 {
                path.push(format!("{chain}{}", "d".repeat(100)));
                fs::create_dir(&path).unwrap();
                chown(&path, Some(1234), None).unwrap();
            }
            let before = trust.directories.len();
            assert_eq!(trust.lane(&path.join("a")), Lane::Of(1234));
            assert!(trust.directories.len() <= before + 1, "what is above a user's directory is not asked");
            for directory in path.ancestors().take(36) {
                assert_eq!(trust.lane(&directory.join("a")), Lane::Of(1234));
                most = most.max(trust.bytes);
            }
            trust.forget(&path);
            assert_eq!(trust.bytes, trust.directories.keys().map(|path| bytes_of(path)).sum::<usize>());
        }
        assert!((MAX_BYTES / 2..=MAX_BYTES).contains(&most), "{most}");
    }
}
