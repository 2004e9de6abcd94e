//! FUSE mounts of users: a program of the user answers each request there, or does not. Nothing in them is looked at, by the
//! engine or by any other thread, because whoever looks waits for as long as the user likes; the status names them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use vigie_host::mounts::Mounts;

/// Where they are, and whose program answers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Avoided(Arc<BTreeMap<PathBuf, u32>>);

impl Avoided {
    /// Those among the mounts that can be seen: what is mounted over hides them.
    #[must_use]
    pub(crate) fn among(mounts: &Mounts) -> Self {
        let seen =
            mounts.iter().filter(|mount| mounts.of(&mount.point).is_some_and(|top| top.id == mount.id));
        Self(Arc::new(seen.filter_map(|mount| Some((mount.point.clone(), mount.fuse_user?))).collect()))
    }

    /// Whose program would have to answer for a look at this path.
    #[must_use]
    pub(crate) fn user(&self, path: &Path) -> Option<u32> {
        if self.0.is_empty() {
            return None;
        }
        path.ancestors().find_map(|way| self.0.get(way)).copied()
    }

    /// Whether a look at this path would wait for a user's program.
    #[must_use]
    pub(crate) fn has(&self, path: &Path) -> bool {
        self.user(path).is_some()
    }

    /// Why nothing at this path is looked at, when that is so.
    #[must_use]
    pub(crate) fn why(&self, path: &Path) -> Option<String> {
        let user = self.user(path)?;
        Some(format!(
            "a program of user {user} serves this FUSE mount and may not respond, so it is not looked at"
        ))
    }

    /// Where they are.
    pub(crate) fn points(&self) -> impl Iterator<Item = &PathBuf> {
        self.0.keys()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fuse_mounts_of_users_are_avoided_unless_something_is_mounted_over_them() {
        let of = |lines: &[&str]| Avoided::among(&Mounts::parse(lines.join("\n").as_bytes()));
        let root = "22 1 254:0 / / rw - ext4 /dev/vda rw";
        let users = "40 22 0:40 / /home/a/m rw - fuse.sshfs x rw,user_id=1000,group_id=0,allow_other";
        let roots = "41 22 0:41 / /srv rw - fuse.mergerfs x rw,user_id=0,group_id=0,allow_other";
        let over = "42 40 0:42 / /home/a/m rw - tmpfs tmpfs rw";

        let avoided = of(&[root, users, roots]);

        assert_eq!(avoided.user(Path::new("/home/a/m/x")), Some(1000));
        assert!(avoided.has(Path::new("/home/a/m")) && !avoided.has(Path::new("/home/a/mx")));
        assert!(!avoided.has(Path::new("/srv/x")));
        assert!(!of(&[root, users, over]).has(Path::new("/home/a/m")));
    }
}
