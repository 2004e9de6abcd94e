//! What was met lately, in a bounded number of bytes: users decide how much there is of it and how long it is.
//!
//! In two generations. When the younger one has half of the bytes it becomes the older one, and what was in that and
//! was not asked for since is forgotten. So what is used stays, whoever brings how much that is new.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::Hash;

/// About what an entry takes beside what it says of itself.
const ENTRY_BYTES: usize = 96;

/// What is remembered.
#[derive(Debug)]
pub(crate) struct Recent<K, V> {
    young: HashMap<K, (V, usize)>,
    old: HashMap<K, (V, usize)>,
    /// What the young ones take, and the old ones.
    bytes: [usize; 2],
    most: usize,
}

impl<K: Eq + Hash, V> Recent<K, V> {
    /// Remembers nothing yet, and never more than so many bytes, but for one entry that is longer.
    pub(crate) fn new(most: usize) -> Self {
        Self { young: HashMap::new(), old: HashMap::new(), bytes: [0; 2], most }
    }

    /// Remembers something that takes about so many bytes.
    pub(crate) fn insert(&mut self, key: K, value: V, bytes: usize) {
        self.remove(&key);
        let bytes = bytes + ENTRY_BYTES;
        if !self.young.is_empty() && self.bytes[0] + bytes > self.most / 2 {
            self.old = std::mem::take(&mut self.young);
            self.bytes = [0, self.bytes[0]];
        }
        self.young.insert(key, (value, bytes));
        self.bytes[0] += bytes;
    }

    /// What is known under a key.
    pub(crate) fn get<Q: Eq + Hash + ?Sized>(&mut self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        if !self.young.contains_key(key)
            && let Some((key, (value, bytes))) = self.old.remove_entry(key)
        {
            self.bytes[1] -= bytes;
            self.insert(key, value, bytes - ENTRY_BYTES);
        }
        self.young.get(key).map(|(value, _)| value)
    }

    /// Forgets a key; gives what was known under it.
    pub(crate) fn remove<Q: Eq + Hash + ?Sized>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        for (all, its) in [&mut self.young, &mut self.old].into_iter().zip(&mut self.bytes) {
            if let Some((value, bytes)) = all.remove(key) {
                *its -= bytes;
                return Some(value);
            }
        }
        None
    }

    /// About what all of it takes.
    #[cfg(test)]
    pub(crate) fn bytes(&self) -> usize {
        self.bytes.iter().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_for_stays_and_all_of_it_takes_no_more_than_the_bound() {
        const MOST: usize = 100_000;
        let mut recent = Recent::new(MOST);
        recent.insert(0, "used", 100);
        for number in 1..5_000 {
            recent.insert(number, "new", number % 4_000);
            assert_eq!(recent.get(&0), Some(&"used"), "{number}");
            assert!(recent.bytes() <= MOST, "{}", recent.bytes());
        }

        assert_eq!(recent.get(&4_999), Some(&"new"));
        assert_eq!(recent.get(&1), None);
        assert_eq!(recent.remove(&4_999), Some("new"));
        assert_eq!(recent.get(&4_999), None);
        for number in 0..5_000 {
            recent.remove(&number);
        }
        assert_eq!(recent.bytes(), 0);
    }
}
