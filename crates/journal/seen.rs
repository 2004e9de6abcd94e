//! Remembers which alert ids of which modules are on disk, in bounded memory.
//!
//! Our modules number their alerts `EPOCH-1`, `EPOCH-2`, …; such ids are kept as ranges, so that they are known
//! for ever at the cost of one range. Any other id is kept as a digest among the newest of its module.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};

use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use vigie_files::durable::{self, Durability};

use crate::line;

const FILE_NAME: &str = "seen-ids.json";

/// Largest file that is read, in bytes.
const MAX_FILE_BYTES: u64 = 256 << 20;

/// Longest id that is accepted, in bytes.
pub const MAX_ID_BYTES: usize = 256;

/// Unnumbered ids remembered for one module; a module that has more alerts unacknowledged at once than this
/// can have one recorded twice.
const UNNUMBERED_IDS: usize = 65_536;

/// Numbered sequences remembered for one module, and ranges for one sequence; beyond it the oldest is forgotten.
const SEQUENCES: usize = 1024;
const RANGES: usize = 4096;

/// Ranges remembered for one module in all: numbers that a module leaves out cost the agent a range each. When there
/// are more, a quarter is forgotten at once, so that the search for what to forget costs nothing that counts.
const MODULE_RANGES: usize = 32_768;

/// Which ids are recorded.
#[derive(Debug, Default)]
pub struct SeenIds {
    modules: HashMap<Box<str>, ModuleIds>,
    newest: Option<Newest>,
}

/// The sequence that was used last. An id behind its end is new, which needs no look at what is in the maps.
#[derive(Debug)]
struct Newest {
    module: Box<str>,
    prefix: String,
    /// Its largest number.
    last: u64,
    /// First number of a run up to `last` that is not in the maps yet.
    run: Option<u64>,
}

impl Newest {
    fn is_of(&self, module: &str, prefix: &str) -> bool {
        self.prefix == prefix && *self.module == *module
    }
}

#[derive(Debug, Default)]
struct ModuleIds {
    sequences: HashMap<String, Ranges>,
    /// Sequences in the order of their last use would cost a write for each alert; the order of first use is
    /// enough, because a module begins a new sequence only when its state is lost.
    sequence_order: VecDeque<String>,
    /// Ranges of all sequences.
    ranges: usize,
    unnumbered: HashSet<u128>,
    unnumbered_order: VecDeque<u128>,
}

/// Disjoint, not adjacent ranges of numbers: first → last.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Ranges(BTreeMap<u64, u64>);

impl Ranges {
    /// The largest number; 0 when there is none.
    fn last(&self) -> u64 {
        self.0.last_key_value().map_or(0, |(_, &last)| last)
    }

    fn contains(&self, number: u64) -> bool {
        self.0.range(..=number).next_back().is_some_and(|(_, &last)| number <= last)
    }

    /// `false` when the number was there.
    fn insert(&mut self, number: u64) -> bool {
        // The common case: the next number of a running sequence.
        if let Some(mut newest) = self.0.last_entry()
            && newest.get().checked_add(1) == Some(number)
        {
            *newest.get_mut() = number;
            return true;
        }
        if self.contains(number) {
            return false;
        }
        self.insert_range(number, number);
        true
    }

    fn insert_range(&mut self, mut first: u64, mut last: u64) {
        if let Some((&before, &end)) = self.0.range(..=first).next_back()
            && end.saturating_add(1) >= first
        {
            first = before;
            last = last.max(end);
        }
        while let Some((&next, &end)) = self.0.range(first..=last.saturating_add(1)).next() {
            last = last.max(end);
            self.0.remove(&next);
        }
        self.0.insert(first, last);
        if self.0.len() > RANGES {
            self.0.pop_first();
        }
    }
}

/// An alert's id, looked at once.
#[derive(Debug, Clone, Copy)]
pub struct AlertId<'a> {
    text: &'a str,
    /// `EPOCH-` and 12 of `EPOCH-12`.
    numbered: Option<(&'a str, u64)>,
}

impl<'a> From<&'a str> for AlertId<'a> {
    fn from(text: &'a str) -> Self {
        Self { text, numbered: numbered(text) }
    }
}

impl<'a> From<&'a String> for AlertId<'a> {
    fn from(text: &'a String) -> Self {
        text.as_str().into()
    }
}

/// Splits `EPOCH-12` into `EPOCH-` and 12. Leading zeros are not ours, and would make two ids the same.
fn numbered(id: &str) -> Option<(&str, u64)> {
    let dash = id.rfind('-')?;
    let (prefix, digits) = id.split_at(dash + 1);
    let digits = digits.as_bytes();
    if !(1..=18).contains(&digits.len()) || (digits.len() > 1 && digits[0] == b'0') {
        return None;
    }
    let number = digits.iter().try_fold(0, |number, digit| match digit {
        b'0'..=b'9' => Some(number * 10 + u64::from(digit - b'0')),
        _ => None,
    })?;
    Some((prefix, number))
}

fn digest(id: &str) -> u128 {
    let hash = Sha256::digest(id.as_bytes());
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&hash[..16]);
    u128::from_be_bytes(bytes)
}

impl SeenIds {
    /// Whether this id of this module is recorded.
    #[must_use]
    pub fn contains<'a>(&self, module: &str, id: impl Into<AlertId<'a>>) -> bool {
        let AlertId { text, numbered } = id.into();
        if let (Some((prefix, number)), Some(newest)) = (numbered, &self.newest)
            && newest.is_of(module, prefix)
        {
            if number > newest.last {
                return false;
            }
            if newest.run.is_some_and(|first| number >= first) {
                return true;
            }
        }
        let Some(ids) = self.modules.get(module) else { return false };
        match numbered {
            Some((prefix, number)) => ids.sequences.get(prefix).is_some_and(|ranges| ranges.contains(number)),
            None => ids.unnumbered.contains(&digest(text)),
        }
    }

    /// Remembers an id; `false` when it was known.
    pub fn insert<'a>(&mut self, module: &str, id: impl Into<AlertId<'a>>) -> bool {
        let AlertId { text, numbered } = id.into();
        let Some((prefix, number)) = numbered else {
            return self.ids_of(module).add_unnumbered(digest(text));
        };
        if let Some(newest) = &mut self.newest
            && newest.last.checked_add(1) == Some(number)
            && newest.is_of(module, prefix)
        {
            newest.last = number;
            newest.run.get_or_insert(number);
            return true;
        }
        self.write_run();
        let ids = self.ids_of(module);
        let known = ids.change(prefix, |ranges| (ranges.insert(number), ranges.last()));
        let (is_new, last) = match known {
            Some(known) => known,
            None => {
                let mut ranges = Ranges::default();
                ranges.insert(number);
                ids.add_sequence(prefix.to_owned(), ranges);
                (true, number)
            }
        };
        self.newest = Some(Newest { module: module.into(), prefix: prefix.to_owned(), last, run: None });
        is_new
    }

    fn ids_of(&mut self, module: &str) -> &mut ModuleIds {
        if !self.modules.contains_key(module) {
            self.modules.insert(module.into(), ModuleIds::default());
        }
        self.modules.get_mut(module).expect("it was put there if it was missing")
    }

    /// Puts the run of the newest sequence into the maps.
    fn write_run(&mut self) {
        let Some(newest) = &mut self.newest else { return };
        if let Some(first) = newest.run.take()
            && let Some(ids) = self.modules.get_mut(&newest.module)
        {
            ids.change(&newest.prefix, |ranges| ranges.insert_range(first, newest.last));
        }
    }

    /// Takes over all ids of `other`.
    pub fn absorb(&mut self, mut other: Self) {
        self.write_run();
        other.write_run();
        for (module, mut theirs) in other.modules {
            let ids = self.modules.entry(module).or_default();
            for prefix in theirs.sequence_order {
                let Some(ranges) = theirs.sequences.remove(&prefix) else { continue };
                if !ids.sequences.contains_key(&prefix) {
                    ids.add_sequence(prefix, ranges);
                    continue;
                }
                ids.change(&prefix, |known| {
                    ranges.0.into_iter().for_each(|(first, last)| known.insert_range(first, last));
                });
            }
            for digest in theirs.unnumbered_order {
                ids.add_unnumbered(digest);
            }
        }
        self.newest = other.newest.and_then(|newest| {
            let ranges = self.modules.get(&newest.module)?.sequences.get(&newest.prefix)?;
            Some(Newest { last: ranges.last(), ..newest })
        });
    }

    /// What is to be kept on disk when the segments it came from go away.
    #[must_use]
    pub fn snapshot(&mut self) -> SeenSnapshot {
        self.write_run();
        let modules = self.modules.iter().map(|(name, ids)| {
            let sequences = ids
                .sequence_order
                .iter()
                .filter_map(|prefix| Some((prefix.clone(), ids.sequences.get(prefix)?.clone())));
            let unnumbered = ids.unnumbered_order.iter().map(|digest| format!("{digest:032x}"));
            (
                name.clone(),
                ModuleSnapshot { sequences: sequences.collect(), unnumbered: unnumbered.collect() },
            )
        });
        SeenSnapshot { through_seq: 0, modules: modules.collect() }
    }

    /// Takes over what an earlier run kept.
    #[must_use]
    pub(crate) fn from_snapshot(snapshot: SeenSnapshot) -> Self {
        let mut seen = Self::default();
        for (name, kept) in snapshot.modules {
            let ids = seen.modules.entry(name).or_default();
            for (prefix, ranges) in kept.sequences {
                ids.add_sequence(prefix, ranges);
            }
            for text in kept.unnumbered {
                if let Ok(digest) = u128::from_str_radix(&text, 16) {
                    ids.add_unnumbered(digest);
                }
            }
        }
        seen
    }
}

impl ModuleIds {
    fn add_sequence(&mut self, prefix: String, ranges: Ranges) {
        self.ranges += ranges.0.len();
        self.sequences.insert(prefix.clone(), ranges);
        self.sequence_order.push_back(prefix);
        if self.sequence_order.len() > SEQUENCES
            && let Some(oldest) = self.sequence_order.pop_front()
            && let Some(ranges) = self.sequences.remove(&oldest)
        {
            self.ranges -= ranges.0.len();
        }
        self.forget_ranges();
    }

    /// Changes the ranges of a sequence, if it is known.
    fn change<T>(&mut self, prefix: &str, change: impl FnOnce(&mut Ranges) -> T) -> Option<T> {
        let ranges = self.sequences.get_mut(prefix)?;
        let before = ranges.0.len();
        let changed = change(ranges);
        self.ranges = self.ranges + ranges.0.len() - before;
        self.forget_ranges();
        Some(changed)
    }

    /// Forgets the lowest numbers of the oldest sequences. The newest range of each stays, which is all that a module
    /// has that leaves no number out.
    fn forget_ranges(&mut self) {
        if self.ranges <= MODULE_RANGES {
            return;
        }
        for prefix in &self.sequence_order {
            let Some(Ranges(ranges)) = self.sequences.get_mut(prefix) else { continue };
            while self.ranges > MODULE_RANGES / 4 * 3 && ranges.len() > 1 {
                ranges.pop_first();
                self.ranges -= 1;
            }
        }
    }

    fn add_unnumbered(&mut self, digest: u128) -> bool {
        if !self.unnumbered.insert(digest) {
            return false;
        }
        self.unnumbered_order.push_back(digest);
        if self.unnumbered_order.len() > UNNUMBERED_IDS
            && let Some(oldest) = self.unnumbered_order.pop_front()
        {
            self.unnumbered.remove(&oldest);
        }
        true
    }
}

/// The recorded ids as kept on disk.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct SeenSnapshot {
    /// Number of the newest alert whose id is in here; later ones are read from the segments.
    pub(crate) through_seq: u64,
    modules: BTreeMap<Box<str>, ModuleSnapshot>,
}

impl SeenSnapshot {
    /// Reads what is kept. Nothing when it is missing or damaged: the segments are read instead. A damaged range could
    /// hide alerts to come, so the file is sealed as lines are; those of before version 2 are not.
    pub(crate) fn load(directory: &Path) -> Option<Self> {
        let content = durable::read_bounded(&directory.join(FILE_NAME), MAX_FILE_BYTES).ok()?;
        let text = content.trim_ascii_end();
        let is_old = !text.ends_with(b"\"}");
        (is_old || line::check(text).is_some()).then(|| serde_json::from_slice(text).ok())?
    }

    /// Returns when it is on disk.
    ///
    /// # Errors
    /// When it cannot be written to disk.
    pub(crate) fn store(&self, directory: &Path) -> io::Result<()> {
        let mut content = Vec::new();
        line::seal_value(&mut content, self, 0);
        durable::replace(&directory.join(FILE_NAME), &content, Durability::Power)
    }
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct ModuleSnapshot {
    sequences: Vec<(String, Ranges)>,
    unnumbered: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MODULE: &str = "watch";

    #[test]
    fn a_million_numbered_ids_cost_one_range() {
        let mut seen = SeenIds::default();

        for number in 1..=1_000_000 {
            assert!(seen.insert(MODULE, &format!("e1-{number}")));
        }

        assert!(!seen.insert(MODULE, "e1-500000"));
        assert_eq!(seen.modules[MODULE].sequences["e1-"].0.len(), 1);
    }

    #[test]
    fn ids_that_look_alike_are_different() {
        let mut seen = SeenIds::default();
        for id in ["a-1", "a-01", "b-1", "1", "-1", "a-", "a1", "a-1x"] {
            assert!(seen.insert(MODULE, id), "{id}");
        }

        assert!(seen.insert("other", "a-1"));
        assert!(!seen.insert(MODULE, "a-01"));
    }

    #[test]
    fn unnumbered_ids_are_bounded_and_the_newest_are_kept() {
        let mut seen = SeenIds::default();
        for number in 0..UNNUMBERED_IDS + 10 {
            seen.insert(MODULE, &format!("id{number}"));
        }

        assert_eq!(seen.modules[MODULE].unnumbered.len(), UNNUMBERED_IDS);
        assert!(seen.contains(MODULE, &format!("id{}", UNNUMBERED_IDS + 9)));
        assert!(!seen.contains(MODULE, "id0"));
    }

    #[test]
    fn numbers_that_a_module_leaves_out_are_bounded_for_all_its_sequences_and_the_newest_are_kept() {
        let mut seen = SeenIds::default();
        seen.insert("quiet", "e-1");
        for number in (1..2 * 4000).step_by(2) {
            for sequence in 0..20 {
                seen.insert(MODULE, &format!("s{sequence}-{number}"));
            }
        }
        let mut more = SeenIds::default();
        for number in (10_001..2 * 6000).step_by(2) {
            more.insert(MODULE, &format!("s19-{number}"));
        }
        seen.absorb(more);

        let ids = &seen.modules[MODULE];
        let counted: usize = ids.sequences.values().map(|ranges| ranges.0.len()).sum();
        assert_eq!(counted, ids.ranges);
        assert!((MODULE_RANGES / 4 * 3..=MODULE_RANGES).contains(&counted), "{counted}");
        assert!((0..20).all(|sequence| seen.contains(MODULE, &format!("s{sequence}-7999"))));
        assert!(seen.contains(MODULE, "s19-11999") && !seen.contains(MODULE, "s0-1"));
        assert!(seen.contains("quiet", "e-1"));
    }

    proptest! {
        /// Ids in any order behave as a plain set, and survive being written and read.
        #[test]
        fn it_is_a_set_and_survives_a_restart(ids in proptest::collection::vec("[ab]-?[0-9]{1,2}", 0..300)) {
            let mut seen = SeenIds::default();
            let mut model = HashSet::new();
            for id in &ids {
                prop_assert_eq!(seen.contains(MODULE, id), model.contains(id));
                prop_assert_eq!(seen.insert(MODULE, id), model.insert(id.clone()));
            }

            let text = serde_json::to_string(&seen.snapshot()).unwrap();
            let again = SeenIds::from_snapshot(serde_json::from_str(&text).unwrap());

            for id in &ids {
                prop_assert!(again.contains(MODULE, id));
            }
            prop_assert!(!again.contains(MODULE, "c-1"));
        }

        /// Ids gathered in parts are the same set as ids gathered at once.
        #[test]
        fn parts_make_up_the_whole(
            first in proptest::collection::vec(0u64..60, 0..60),
            second in proptest::collection::vec(0u64..60, 0..60),
        ) {
            let gather = |numbers: &[u64]| {
                let mut seen = SeenIds::default();
                for number in numbers {
                    seen.insert(MODULE, &format!("e-{number}"));
                }
                seen
            };
            let mut parts = gather(&first);
            parts.absorb(gather(&second));

            let whole = gather(&[first, second].concat());

            parts.write_run();
            let mut whole = whole;
            whole.write_run();
            for number in 0..62 {
                let id = format!("e-{number}");
                prop_assert_eq!(parts.contains(MODULE, &id), whole.contains(MODULE, &id));
            }
            let ranges = |seen: &SeenIds| {
                seen.modules.get(MODULE).and_then(|ids| ids.sequences.get("e-").cloned())
            };
            prop_assert_eq!(ranges(&parts), ranges(&whole));
        }
    }
}
