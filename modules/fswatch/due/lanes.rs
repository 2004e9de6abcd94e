//! The paths that wait, by who can cause work at them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::DuePaths;
use crate::events::Happened;
use crate::trust::{Lane, NOBODY};
use crate::waiting::DUE;

/// Users with a lane of their own; all others share one.
const MAX_USERS: usize = 64;

/// Paths of one user that wait by name; of more, or of what takes more than [`DUE`], the directories are compared.
const MAX_OF_USER: usize = 10_000;

/// The same of all users together.
const MAX_OF_USERS: usize = 30_000;

/// The lanes.
#[derive(Debug)]
pub struct DueLanes {
    settle: Duration,
    trusted: DuePaths,
    users: BTreeMap<u32, DuePaths>,
    /// Whose paths were taken last.
    last: u32,
}

impl DueLanes {
    /// Nothing waits; a path is looked at when it was quiet for `settle`.
    #[must_use]
    pub fn new(settle: Duration) -> Self {
        Self { settle, trusted: DuePaths::new(settle), users: BTreeMap::new(), last: 0 }
    }

    /// Changes the settling time of what comes from now on.
    pub(crate) fn set_settle(&mut self, settle: Duration) {
        self.settle = settle;
        self.all_mut().for_each(|lane| lane.set_settle(settle));
    }

    fn all_mut(&mut self) -> impl Iterator<Item = &mut DuePaths> {
        std::iter::once(&mut self.trusted).chain(self.users.values_mut())
    }

    fn all(&self) -> impl Iterator<Item = &DuePaths> {
        std::iter::once(&self.trusted).chain(self.users.values())
    }

    /// The paths of a lane.
    pub fn of(&mut self, lane: Lane) -> &mut DuePaths {
        match lane {
            Lane::Trusted => &mut self.trusted,
            Lane::Of(user) => {
                let has_room = self.users.len() < MAX_USERS || self.users.contains_key(&user);
                let user = if has_room { user } else { NOBODY };
                self.users.entry(user).or_insert_with(|| DuePaths::new(self.settle))
            }
        }
    }

    /// Whether a lane has room for one path more by its name.
    #[must_use]
    pub(crate) fn has_room(&self, lane: Lane) -> bool {
        match lane {
            Lane::Trusted => true,
            Lane::Of(user) => {
                let of_all: usize = self.users.values().map(DuePaths::len).sum();
                let its = self.users.get(&user).map_or((0, 0), |paths| (paths.len(), paths.bytes()));
                its.0 < MAX_OF_USER
                    && of_all < MAX_OF_USERS
                    && its.1 < DUE.of_user
                    && self.bytes_of_users() < DUE.of_users
            }
        }
    }

    /// Takes paths whose time has come, of what root alone can change; those of users are taken with
    /// [`DueLanes::take_of_users`].
    pub(crate) fn take_trusted(&mut self, now: Instant, most: usize) -> Vec<(PathBuf, Happened)> {
        self.trusted.take(now, most)
    }

    /// Takes paths whose time has come, of the next user for whom `has_turn`.
    pub(crate) fn take_of_users(
        &mut self,
        now: Instant,
        most: usize,
        has_turn: impl Fn(u32) -> bool,
    ) -> Option<(u32, Vec<(PathBuf, Happened)>)> {
        let after: Vec<u32> = self
            .users
            .range(self.last.saturating_add(1)..)
            .chain(self.users.range(..=self.last))
            .map(|(user, _)| *user)
            .collect();
        for user in after {
            if !has_turn(user) {
                continue;
            }
            let Some(lane) = self.users.get_mut(&user) else { continue };
            let ready = lane.take(now, most);
            if lane.is_empty() {
                self.users.remove(&user);
            }
            if !ready.is_empty() {
                self.last = user;
                return Some((user, ready));
            }
        }
        None
    }

    /// What happened to a path that waits.
    pub(crate) fn happened(&self, path: &Path) -> Option<&Happened> {
        self.all().find_map(|lane| lane.happened(path))
    }

    /// Takes one path out before its time.
    pub fn remove(&mut self, path: &Path) -> Option<Happened> {
        self.all_mut().find_map(|lane| lane.remove(path))
    }

    /// Time until it is worth taking again from lanes for which `has_turn`; `None` when nothing waits there.
    #[must_use]
    pub fn next(&self, now: Instant, has_turn: impl Fn(Lane) -> bool) -> Option<Duration> {
        let trusted = has_turn(Lane::Trusted).then(|| self.trusted.next(now)).flatten();
        let users = self.users.iter().filter(|(user, _)| has_turn(Lane::Of(**user)));
        users.filter_map(|(_, lane)| lane.next(now)).chain(trusted).min()
    }

    /// The path that is overdue longest in each kind of lane: whether it is trusted, since when, and which.
    #[must_use]
    pub fn overdue(&self, now: Instant) -> Vec<(Lane, Duration, Arc<Path>)> {
        let users = self.users.iter().map(|(user, lane)| (Lane::Of(*user), lane));
        std::iter::once((Lane::Trusted, &self.trusted))
            .chain(users)
            .filter_map(|(name, lane)| lane.overdue(now).map(|(late, path)| (name, late, path)))
            .collect()
    }

    /// About how many bytes take the paths that wait of all users together.
    #[must_use]
    pub(crate) fn bytes_of_users(&self) -> usize {
        self.users.values().map(DuePaths::bytes).sum()
    }

    /// Number of paths that wait of what root alone can change, of all users together, and number of users.
    #[must_use]
    pub fn lengths(&self) -> (usize, usize, usize) {
        let of_users = self.users.values().map(DuePaths::len).sum();
        (self.trusted.len(), of_users, self.users.len())
    }

    /// Number of paths that wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.all().map(DuePaths::len).sum()
    }

    /// Whether none waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[expect(clippy::disallowed_methods, reason = "only its differences matter, they are made here")]
    fn start() -> Instant {
        Instant::now()
    }

    #[test]
    fn users_take_turns_and_one_of_many_paths_has_no_room_for_more() {
        let now = start();
        let mut due = DueLanes::new(Duration::ZERO);
        for number in 0..MAX_OF_USER {
            due.of(Lane::Of(1)).touch(Path::new(&format!("/1/{number}")), Happened::finished(), now);
        }
        due.of(Lane::Of(2)).touch(Path::new("/2/a"), Happened::finished(), now);
        due.of(Lane::Trusted).touch(Path::new("/t"), Happened::finished(), now);

        assert_eq!(
            (due.has_room(Lane::Of(1)), due.has_room(Lane::Of(2)), due.has_room(Lane::Trusted)),
            (false, true, true)
        );
        assert_eq!(due.take_trusted(now, 9).len(), 1);
        let turns: Vec<_> =
            (0..3).filter_map(|_| due.take_of_users(now, 9, |_| true)).map(|(user, _)| user).collect();
        assert_eq!(turns, [1, 2, 1]);
        assert_eq!(due.remove(Path::new("/1/9999")), Some(Happened::finished()));
        assert_eq!(due.take_of_users(now, 9, |user| user != 1), None);
    }
}
