//! What is bounded and shared by all users: when it is full, whoever has most of it makes room, so that nobody's load
//! displaces what others have there.

use std::collections::VecDeque;
use std::hash::Hash;

use hashbrown::HashMap;
use vigie_kernel_events::Account;

/// Whose entries make room when all together have more than `most`: of the others the one with most, and the trusted
/// only for what they have beyond half.
pub(crate) fn who_gives(weights: impl Iterator<Item = (Account, usize)>, most: usize) -> Option<Account> {
    let (mut trusted, mut others, mut heaviest) = (0, 0, None);
    for (account, weight) in weights {
        if account.is_trusted() {
            trusted = weight;
        } else {
            others += weight;
            // The account decides between equals, so that the order of a map does not.
            heaviest = heaviest.max(Some((weight, account)));
        }
    }
    if trusted > most / 2 && others <= most / 2 {
        return Some(Account::TRUSTED);
    }
    heaviest.map(|(_, account)| account).or((trusted > 0).then_some(Account::TRUSTED))
}

/// A map of at most so many entries, each of somebody.
#[derive(Debug)]
pub(crate) struct Bounded<K, V> {
    most: usize,
    entries: HashMap<K, Entry<V>>,
    lanes: HashMap<Account, Lane<K>>,
    /// How many were put in so far.
    stamp: u64,
}

#[derive(Debug)]
struct Entry<V> {
    account: Account,
    stamp: u64,
    value: V,
}

/// The keys of one account in the order in which they came, and some that are gone.
#[derive(Debug)]
struct Lane<K> {
    order: VecDeque<(u64, K)>,
    count: usize,
}

impl<K> Default for Lane<K> {
    fn default() -> Self {
        Self { order: VecDeque::new(), count: 0 }
    }
}

impl<K: Eq + Hash + Clone, V> Bounded<K, V> {
    pub(crate) fn new(most: usize) -> Self {
        Self { most, entries: HashMap::new(), lanes: HashMap::new(), stamp: 0 }
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.entries.len()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&K, Account, &V)> {
        self.entries.iter().map(|(key, entry)| (key, entry.account, &entry.value))
    }

    pub(crate) fn values_mut(&mut self) -> impl Iterator<Item = &mut V> {
        self.entries.values_mut().map(|entry| &mut entry.value)
    }

    pub(crate) fn get(&self, key: &K) -> Option<&V> {
        self.entries.get(key).map(|entry| &entry.value)
    }

    pub(crate) fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        self.entries.get_mut(key).map(|entry| &mut entry.value)
    }

    /// Puts an entry in, in place of one with this key; what had to make room for it.
    pub(crate) fn insert(&mut self, key: K, account: Account, value: V) -> Option<(Account, V)> {
        self.remove(&key);
        self.stamp += 1;
        let lane = self.lanes.entry(account).or_default();
        lane.order.push_back((self.stamp, key.clone()));
        lane.count += 1;
        self.entries.insert(key, Entry { account, stamp: self.stamp, value });
        if self.entries.len() <= self.most {
            return None;
        }
        let weights = self.lanes.iter().map(|(account, lane)| (*account, lane.count));
        let gives = who_gives(weights, self.most)?;
        self.pop(gives, |_| true)
    }

    pub(crate) fn remove(&mut self, key: &K) -> Option<(Account, V)> {
        let Entry { account, value, .. } = self.entries.remove(key)?;
        if let Some(lane) = self.lanes.get_mut(&account) {
            lane.count -= 1;
            if lane.count == 0 {
                self.lanes.remove(&account);
            } else if lane.order.len() > 2 * lane.count + 16 {
                let entries = &self.entries;
                lane.order.retain(|(stamp, key)| entries.get(key).is_some_and(|entry| entry.stamp == *stamp));
            }
        }
        Some((account, value))
    }

    /// Takes the oldest one of an account out, when it is such a one.
    fn pop(&mut self, account: Account, is: impl Fn(&V) -> bool) -> Option<(Account, V)> {
        loop {
            let (stamp, key) = self.lanes.get(&account)?.order.front()?;
            let entry = self.entries.get(key).filter(|entry| entry.stamp == *stamp);
            if entry.is_some_and(|entry| !is(&entry.value)) {
                return None;
            }
            let is_there = entry.is_some();
            let (_, key) = self.lanes.get_mut(&account)?.order.pop_front()?;
            if is_there {
                return self.remove(&key);
            }
        }
    }

    /// Takes out what came before anything that is not such a one, of each account.
    pub(crate) fn take_while(&mut self, is: impl Fn(&V) -> bool) -> Vec<(Account, V)> {
        let accounts: Vec<Account> = self.lanes.keys().copied().collect();
        let mut taken = Vec::new();
        for account in accounts {
            while let Some(one) = self.pop(account, &is) {
                taken.push(one);
            }
        }
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ANN: Account = Account::user(1000);
    const BOB: Account = Account::user(1001);

    #[test]
    fn who_has_most_makes_room_and_the_trusted_keep_half() {
        let mut all = Bounded::new(100);
        for number in 0..40 {
            assert_eq!(all.insert(("root", number), Account::TRUSTED, number), None);
        }
        for number in 0..20 {
            assert_eq!(all.insert(("bob", number), BOB, number), None);
        }
        for number in 0..40 {
            assert_eq!(all.insert(("ann", number), ANN, number), None);
        }

        for number in 40..4000 {
            assert_eq!(all.insert(("ann", number), ANN, number), Some((ANN, number - 40)));
        }
        assert!((0..40).all(|number| all.get(&("root", number)) == Some(&number)));
        assert!((0..20).all(|number| all.get(&("bob", number)) == Some(&number)));
        // Beyond its half root makes room itself.
        for number in 40..400 {
            all.insert(("root", number), Account::TRUSTED, number);
        }
        assert_eq!(all.lanes[&Account::TRUSTED].count, 50);
        assert_eq!(all.lanes[&BOB].count, 20);
    }

    #[test]
    fn the_oldest_are_taken_as_long_as_they_fit() {
        let mut all = Bounded::new(10);
        for time in [1, 2, 5] {
            all.insert(time, ANN, time);
        }
        all.insert(3, BOB, 3);
        all.remove(&1);

        let mut taken = all.take_while(|time| *time < 4);
        taken.sort_unstable();
        assert_eq!(taken, [(ANN, 2), (BOB, 3)]);
        assert_eq!(all.len(), 1);
    }

    proptest! {
        #[test]
        fn it_is_never_more_and_never_loses_count(steps in proptest::collection::vec((0u8..40, 0u32..4, any::<bool>()), 0..300)) {
            let mut all = Bounded::new(12);
            for (key, uid, removes) in steps {
                if removes {
                    all.remove(&key);
                } else {
                    all.insert(key, Account::user(uid), key);
                }
                prop_assert!(all.len() <= 12);
                let counted: usize = all.lanes.values().map(|lane| lane.count).sum();
                prop_assert_eq!(counted, all.len());
                let kept: usize = all.lanes.values().map(|lane| lane.order.len()).sum();
                prop_assert!(kept <= 2 * 12 + 17 * all.lanes.len());
            }
        }
    }
}
