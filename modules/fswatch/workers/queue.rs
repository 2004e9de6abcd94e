//! Whose work is done next.

use std::collections::{BTreeMap, VecDeque};
use std::path::Path;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use super::Job;
use crate::trust::{Lane, NOBODY};

/// Users that have a turn of their own; all others share one.
const MAX_USERS: usize = 64;

/// Files of one user that are read on at the same time: each is open meanwhile.
const MAX_READINGS: usize = 64;

/// Turns of users after which a scan has one.
const SCAN_TURN: u32 = 4;

/// What a thread works on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Serves {
    /// What root alone can change, and nothing else.
    Trusted,
    /// Everything.
    All,
}

/// The work of one lane.
#[derive(Debug, Default)]
struct Turns {
    looks: VecDeque<Job>,
    /// Reading on is for when there is nothing to look at.
    readings: VecDeque<Job>,
}

impl Turns {
    /// Puts a job at the end; gives back the one that has no place any more.
    fn put(&mut self, job: Job) -> Option<Job> {
        let Job::Read { path, .. } = &job else {
            self.looks.push_back(job);
            return None;
        };
        let is_same = |other: &Job| matches!(other, Job::Read { path: known, .. } if known == path);
        if let Some(at) = self.readings.iter().position(is_same) {
            // It is another file, or has another content: the older reading comes to nothing.
            return self.readings.get_mut(at).map(|known| std::mem::replace(known, job));
        }
        if self.readings.len() >= MAX_READINGS {
            return Some(job);
        }
        self.readings.push_back(job);
        None
    }

    fn next(&mut self) -> Option<Job> {
        self.looks.pop_front().or_else(|| self.readings.pop_front())
    }

    fn is_empty(&self) -> bool {
        self.looks.is_empty() && self.readings.is_empty()
    }
}

#[derive(Debug, Default)]
struct Waiting {
    trusted: Turns,
    users: BTreeMap<u32, Turns>,
    /// Who had the last turn.
    last: u32,
    /// Turns of users since a scan had one.
    turns: u32,
    /// The newest first, so that a tree is walked in depth and little of it waits.
    scans: Vec<Job>,
    closed: bool,
}

impl Waiting {
    fn put(&mut self, job: Job) -> Option<Job> {
        match &job {
            Job::List { .. } | Job::Part { .. } => {
                self.scans.push(job);
                None
            }
            Job::Look { lane: Lane::Trusted, .. } | Job::Read { lane: Lane::Trusted, .. } => {
                self.trusted.put(job)
            }
            Job::Look { lane: Lane::Of(user), .. } | Job::Read { lane: Lane::Of(user), .. } => {
                let has_room = self.users.len() < MAX_USERS || self.users.contains_key(user);
                let user = if has_room { *user } else { NOBODY };
                self.users.entry(user).or_default().put(job)
            }
        }
    }

    /// The next turn of a user, one after the other.
    fn next_of_users(&mut self) -> Option<Job> {
        let after = self.users.range(self.last.saturating_add(1)..).next();
        let user = *after.or_else(|| self.users.first_key_value())?.0;
        self.last = user;
        let turns = self.users.get_mut(&user)?;
        let job = turns.next();
        if turns.is_empty() {
            self.users.remove(&user);
        }
        job
    }

    fn next(&mut self, serves: Serves) -> Option<Job> {
        let trusted = self.trusted.next();
        if trusted.is_some() || serves == Serves::Trusted {
            return trusted;
        }
        self.turns += 1;
        if self.turns > SCAN_TURN || self.users.is_empty() {
            self.turns = 0;
            if let Some(job) = self.scans.pop() {
                return Some(job);
            }
        }
        self.next_of_users().or_else(|| self.scans.pop())
    }
}

/// What waits for a thread.
#[derive(Debug, Default)]
pub(super) struct Queue {
    waiting: Mutex<Waiting>,
    arrived: Condvar,
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes jobs; gives back those that have no place any more.
    pub(super) fn put(&self, jobs: impl IntoIterator<Item = Job>) -> Vec<Job> {
        let mut jobs = jobs.into_iter().peekable();
        if jobs.peek().is_none() {
            // Nobody is woken for nothing.
            return Vec::new();
        }
        let mut waiting = self.lock();
        let dropped = jobs.filter_map(|job| waiting.put(job)).collect();
        drop(waiting);
        // One that is not for the thread which wakes would wait for the next.
        self.arrived.notify_all();
        dropped
    }

    /// Takes back what waits of scans in a directory.
    pub(super) fn take_listings(&self, directory: &Path) -> Vec<Job> {
        let is_in = |job: &mut Job| match job {
            Job::List { directory: other, .. } | Job::Part { directory: other, .. } => {
                other.starts_with(directory)
            }
            _ => false,
        };
        self.lock().scans.extract_if(.., is_in).collect()
    }

    /// Waits for a job; none when there will be no more.
    pub(super) fn next(&self, serves: Serves) -> Option<Job> {
        let mut waiting = self.lock();
        loop {
            if waiting.closed {
                return None;
            }
            let job = waiting.next(serves);
            if job.is_some() {
                return job;
            }
            waiting = self.arrived.wait(waiting).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// There will be no more.
    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.arrived.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn job(lane: Lane, round: u64) -> Job {
        Job::Look { lane, round, items: Vec::new() }
    }

    fn taken(waiting: &mut Waiting, serves: Serves) -> Option<(Lane, u64)> {
        match waiting.next(serves)? {
            Job::Look { lane, round, .. } => Some((lane, round)),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_root_alone_can_change_is_next_whatever_users_wait_for() {
        let mut waiting = Waiting::default();
        for round in 0..1000 {
            waiting.put(job(Lane::Of(1000), round));
        }
        assert_eq!(taken(&mut waiting, Serves::Trusted), None);
        waiting.put(job(Lane::Trusted, 7));

        assert_eq!(taken(&mut waiting, Serves::All), Some((Lane::Trusted, 7)));
    }

    proptest! {
        /// Each user has a turn before another has a second one, and nothing is lost.
        #[test]
        fn users_take_turns(jobs in proptest::collection::vec(0..5_u32, 1..60)) {
            let mut waiting = Waiting::default();
            let mut left = BTreeMap::new();
            for (round, user) in jobs.iter().enumerate() {
                waiting.put(job(Lane::Of(*user), round as u64));
                *left.entry(*user).or_insert(0) += 1;
            }
            let users = left.len() as u32;
            let mut since: BTreeMap<u32, u32> = BTreeMap::new();
            while let Some((lane, _)) = taken(&mut waiting, Serves::All) {
                let Lane::Of(user) = lane else { panic!() };
                *left.get_mut(&user).unwrap() -= 1;
                for (other, turns) in &mut since {
                    *turns += u32::from(*other != user);
                    prop_assert!(left[other] == 0 || *turns < users, "{other} waited for {turns} turns");
                }
                since.insert(user, 0);
            }
            prop_assert!(left.values().all(|left| *left == 0));
        }
    }
}
