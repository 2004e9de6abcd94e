//! Lines as they come: the newest ones are kept, and the view stays where a person looks.

use std::collections::VecDeque;

/// Newest entries of a stream, numbered as they come.
#[derive(Debug, Default)]
pub(super) struct Feed<T> {
    entries: VecDeque<T>,
    /// Number of the oldest entry that is kept.
    first: u64,
    /// The entry that a person chose; without one the newest are followed.
    chosen: Option<u64>,
    capacity: usize,
}

impl<T> Feed<T> {
    /// Keeps so many.
    pub(super) fn new(capacity: usize) -> Self {
        Self { entries: VecDeque::new(), first: 0, chosen: None, capacity }
    }

    /// Adds the newest entry.
    pub(super) fn push(&mut self, entry: T) {
        if self.entries.len() >= self.capacity && self.entries.pop_front().is_some() {
            self.first += 1;
        }
        self.entries.push_back(entry);
    }

    /// Whether nothing came.
    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Whether the newest are followed.
    pub(super) fn follows(&self) -> bool {
        self.chosen.is_none()
    }

    /// The chosen entry, or the newest one.
    pub(super) fn chosen(&self) -> Option<&T> {
        self.entries.get(self.place()?)
    }

    /// Moves the choice; beyond the newest entry they are followed again.
    pub(super) fn step(&mut self, by: isize) {
        let Some(at) = self.place() else { return };
        // The first step upwards chooses what stands last.
        let at = if self.chosen.is_none() && by < 0 { at + 1 } else { at };
        let to = at.saturating_add_signed(by);
        self.chosen = (to < self.entries.len()).then_some(self.first + to as u64);
    }

    /// Place of the choice among what is kept.
    fn place(&self) -> Option<usize> {
        let last = self.entries.len().checked_sub(1)?;
        let chosen = self.chosen.map_or(last as u64, |chosen| chosen.saturating_sub(self.first));
        Some(usize::try_from(chosen).unwrap_or(last).min(last))
    }

    /// What fits into so many lines, with whether it is the choice.
    pub(super) fn shown(&self, height: usize) -> impl Iterator<Item = (bool, &T)> {
        let place = self.chosen.and(self.place());
        let start = match place {
            Some(place) => window(place, self.entries.len(), height),
            None => self.entries.len().saturating_sub(height),
        };
        let entries = self.entries.iter().enumerate().skip(start).take(height);
        entries.map(move |(at, entry)| (Some(at) == place, entry))
    }
}

/// The first of so many entries that are shown, so that `chosen` is among them, in the middle where it can be.
pub(super) fn window(chosen: usize, count: usize, height: usize) -> usize {
    chosen.saturating_sub(height / 2).min(count.saturating_sub(height))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn shown(feed: &Feed<u64>, height: usize) -> Vec<(bool, u64)> {
        feed.shown(height).map(|(chosen, entry)| (chosen, *entry)).collect()
    }

    #[test]
    fn the_newest_are_followed_until_one_is_chosen() {
        let mut feed = Feed::new(4);
        assert_eq!(shown(&feed, 3), []);
        feed.step(-1);
        (1..=5).for_each(|number| feed.push(number));
        assert_eq!(shown(&feed, 2), [(false, 4), (false, 5)]);

        feed.step(-1);
        assert_eq!(shown(&feed, 2), [(false, 4), (true, 5)]);
        feed.step(-1);
        feed.push(6);
        assert_eq!(feed.chosen(), Some(&4));
        assert_eq!(shown(&feed, 3), [(false, 3), (true, 4), (false, 5)]);

        feed.step(10);
        assert!(feed.follows());
        assert_eq!(feed.chosen(), Some(&6));
    }

    proptest! {
        #[test]
        fn the_choice_is_always_shown(steps in proptest::collection::vec(-9_isize..9, 0..40), height in 1_usize..9) {
            let mut feed = Feed::new(7);
            for (number, by) in steps.into_iter().enumerate() {
                feed.push(number as u64);
                feed.step(by);
                let lines = shown(&feed, height);
                prop_assert!(lines.len() <= height);
                prop_assert_eq!(lines.iter().filter(|(chosen, _)| *chosen).count(), usize::from(!feed.follows()));
            }
        }
    }
}
