//! Files that somebody writes and has not closed: one alert that it is being written, and one when it is done. What is
//! in between is nobody's content yet.

use std::collections::HashMap;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::{Engine, Sink, now};
use crate::change::{Alert, Event};
use crate::events::Happened;
use crate::object::Kind;
use crate::waiting::Keys;

/// Files that are remembered; what else is written is told as it is seen.
const MAX_FILES: usize = 4096;

/// Time between two looks at one of them.
pub(super) const PAUSE: Duration = Duration::from_secs(5);

/// Time after which what is there is told although its writer goes on; it doubles each time.
const FIRST_TOLD: Duration = Duration::from_secs(30);

/// The longest such time.
const LONGEST_TOLD: Duration = Duration::from_secs(600);

#[derive(Debug)]
struct Writing {
    /// The key of what was found last.
    last: u64,
    looked: Instant,
    /// When what is there is told.
    told_at: Instant,
    /// Time to the next such moment.
    pause: Duration,
}

/// The files that are being written, by keys of their paths.
#[derive(Debug, Default)]
pub(super) struct Writings {
    keys: Keys,
    files: HashMap<u64, Writing>,
}

/// What becomes of a change.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// It is told that the file is being written.
    Begins,
    /// Nothing is told.
    GoesOn,
    /// It is told as it is.
    Tell,
}

impl Writings {
    fn turn(&mut self, path: &Path, after: &Value, unfinished: bool, now: Instant) -> Turn {
        let (key, found) = (self.keys.of(path), self.keys.of(&after.to_string()));
        let Some(writing) = self.files.get_mut(&key) else {
            if !unfinished || self.files.len() >= MAX_FILES {
                return Turn::Tell;
            }
            let (told_at, pause) = (now + FIRST_TOLD, FIRST_TOLD);
            self.files.insert(key, Writing { last: found, looked: now, told_at, pause });
            return Turn::Begins;
        };
        writing.looked = now;
        let rests = std::mem::replace(&mut writing.last, found) == found;
        if !unfinished || rests {
            self.files.remove(&key);
            return Turn::Tell;
        }
        if now >= writing.told_at {
            writing.pause = (writing.pause * 2).min(LONGEST_TOLD);
            writing.told_at = now + writing.pause;
            return Turn::Tell;
        }
        Turn::GoesOn
    }

    /// Until when a file is not looked at again; `None` when it is.
    fn rests_until(&self, path: &Path, now: Instant) -> Option<Instant> {
        self.files.get(&self.keys.of(path)).map(|writing| writing.looked + PAUSE).filter(|until| *until > now)
    }
}

impl<S: Sink> Engine<S> {
    /// Says what becomes of a change of a file that may not be closed yet.
    pub(super) fn turn_of_writing(&mut self, alert: &mut Alert, path: &Path) -> Turn {
        let is_content =
            matches!(alert.event, Event::Created | Event::Changed) && alert.kind == Kind::File.name();
        if !is_content || alert.gains_rights || alert.managed.is_some() {
            return Turn::Tell;
        }
        let turn = self.writings.turn(path, &alert.after, alert.unfinished, now());
        if turn == Turn::Begins {
            alert.alert = format!("{} is being written: {}", alert.path, alert.alert);
        }
        turn
    }

    /// Whether a file that is being written is not looked at yet.
    pub(super) fn lets_write(&mut self, path: &Path, happened: &Happened) -> bool {
        let is_written = happened.is_unfinished();
        let Some(until) = self.writings.rests_until(path, now()).filter(|_| is_written) else { return false };
        self.postpone(path, happened.clone(), until);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[expect(clippy::disallowed_methods, reason = "only its differences matter, they are made here")]
    fn start() -> Instant {
        Instant::now()
    }

    #[test]
    fn a_file_that_is_written_for_a_while_is_told_twice() {
        let (path, begin) = (Path::new("/a"), start());
        let mut writings = Writings::default();
        let after = |number: u64| json!({"size": number});
        let at = |seconds: u64| begin + Duration::from_secs(seconds);

        assert_eq!(writings.turn(path, &after(1), true, at(0)), Turn::Begins);
        assert_eq!(writings.rests_until(path, at(1)), Some(at(5)));
        assert_eq!(writings.turn(path, &after(2), true, at(5)), Turn::GoesOn);
        assert_eq!(writings.turn(path, &after(3), true, at(10)), Turn::GoesOn);
        assert_eq!(writings.turn(path, &after(4), false, at(15)), Turn::Tell);
        assert_eq!(writings.turn(path, &after(5), false, at(20)), Turn::Tell);
    }

    #[test]
    fn a_file_that_rests_or_is_written_without_an_end_is_told_although_it_is_open() {
        let (path, begin) = (Path::new("/a"), start());
        let at = |seconds: u64| begin + Duration::from_secs(seconds);
        let mut rests = Writings::default();
        rests.turn(path, &json!(1), true, at(0));
        assert_eq!(rests.turn(path, &json!(1), true, at(5)), Turn::Tell);

        let mut endless = Writings::default();
        let turns: Vec<Turn> =
            (0..40).map(|nth| endless.turn(path, &json!(nth), true, at(nth * 5))).collect();
        let told = turns.iter().filter(|turn| **turn == Turn::Tell).count();
        assert_eq!((told, &turns[6]), (2, &Turn::Tell));
    }
}
