//! The history in lanes: what root did, what others did, and what a user did beyond his share of a day. Each lane is a
//! chain of blocks of its own, so that what one user's load fills is removed first and nobody else's records with it.
//!
//! | lane | has | when the budget is used up |
//! |---|---|---|
//! | `trusted` | root on the host itself, and the host | keeps half of the budget |
//! | `others` | everybody else, each up to a hundredth of the budget a day, all together a tenth | keeps half of the budget |
//! | `excess` | what is beyond that | is removed first |

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use vigie_files::durable;
use vigie_kernel_events::{Account, Whose};

use super::quota::{Allowance, Quota};
use super::store::{self, Dropped, Extent, FileKey, Limits, Store, file_key};
use crate::record::{Record, What};
use crate::shares::Bounded;

/// Digests that are remembered for the programs of the open blocks.
const MOST_DIGESTS: usize = 4096;

/// Part of the history.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Lane {
    Trusted,
    Others,
    Excess,
}

impl Lane {
    pub(crate) const ALL: [Self; 3] = [Self::Trusted, Self::Others, Self::Excess];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Trusted => "trusted",
            Self::Others => "others",
            Self::Excess => "excess",
        }
    }

    /// Its directory in that of the history.
    pub(crate) fn dir(self, history: &Path) -> PathBuf {
        history.join(self.name())
    }

    fn whose(self) -> Whose {
        match self {
            Self::Trusted => Whose::Trusted,
            Self::Others | Self::Excess => Whose::Others,
        }
    }

    /// What its open block may have. All lanes' are in memory at once.
    fn limits(self) -> Limits {
        match self {
            Self::Trusted => Limits { rows: 16_384, text_bytes: 2 << 20, times: 4 },
            Self::Others => Limits { rows: 16_384, text_bytes: 1 << 20, times: 4 },
            Self::Excess => Limits { rows: 8_192, text_bytes: 1 << 20, times: 1 },
        }
    }
}

/// All lanes. Readers open the files themselves.
#[derive(Debug)]
pub(crate) struct Lanes {
    stores: [Store; Lane::ALL.len()],
    budget: u64,
    quota: Quota,
    allowance: Allowance,
    digests: Bounded<FileKey, [u8; 32]>,
}

/// Blocks of the time before there were lanes have records of everybody.
fn move_old_blocks(history: &Path) -> io::Result<()> {
    let others = Lane::Others.dir(history);
    durable::make_directory(&others)?;
    for entry in fs::read_dir(history)?.flatten() {
        let name = entry.file_name();
        let is_one = name.to_str().is_some_and(|name| name.ends_with(".block") || name.ends_with(".log"));
        if is_one {
            fs::rename(entry.path(), others.join(name))?;
        }
    }
    Ok(())
}

/// Checks all lanes.
///
/// # Errors
/// The first block that does not fit, and why.
pub(crate) fn verify(history: &Path, open: &[(Lane, u64, Vec<u8>)]) -> Result<u64, String> {
    Lane::ALL.into_iter().try_fold(0, |blocks, lane| {
        let open = open.iter().find(|(of, ..)| *of == lane).map(|(_, number, _)| *number);
        store::verify(&lane.dir(history), open)
            .map(|more| blocks + more)
            .map_err(|problem| format!("{}: {problem}", lane.name()))
    })
}

impl Lanes {
    /// Opens the history of a directory, which is made when it is not there.
    pub(crate) fn open(history: &Path, budget: u64) -> io::Result<Self> {
        durable::make_directory(history)?;
        move_old_blocks(history)?;
        let open = |lane: Lane| Store::open(&lane.dir(history), lane.limits());
        Ok(Self {
            stores: [open(Lane::Trusted)?, open(Lane::Others)?, open(Lane::Excess)?],
            budget,
            quota: Quota::default(),
            allowance: Allowance::default(),
            digests: Bounded::new(MOST_DIGESTS),
        })
    }

    fn each(&self) -> impl Iterator<Item = (Lane, &Store)> {
        Lane::ALL.into_iter().zip(&self.stores)
    }

    pub(crate) fn set_budget(&mut self, budget: u64) {
        self.budget = budget;
    }

    /// What was wrong with the files since this was asked the last time.
    pub(crate) fn take_complaints(&mut self) -> Vec<String> {
        let mut all = Vec::new();
        for (lane, store) in Lane::ALL.into_iter().zip(&mut self.stores) {
            all.extend(store.complaints.drain(..).map(|text| format!("{}: {text}", lane.name())));
        }
        all
    }

    /// The last record that was found at the start.
    pub(crate) fn found_last(&self) -> Option<i64> {
        self.stores.iter().filter_map(|store| store.found_last).max()
    }

    /// Numbers that the open blocks will have, and their bytes now.
    pub(crate) fn snapshot(&self) -> Vec<(Lane, u64, Vec<u8>)> {
        let one = |(lane, store): (Lane, &Store)| {
            let (number, bytes) = store.snapshot();
            (lane, number, bytes)
        };
        self.each().map(one).collect()
    }

    pub(crate) fn extents(&self) -> Vec<(Lane, Extent)> {
        self.each().map(|(lane, store)| (lane, store.extent())).collect()
    }

    pub(crate) fn add(&mut self, record: &Record, account: Account) {
        let cut = self.quota.cut(record, account);
        let record = cut.as_ref().unwrap_or(record);
        // What a process did is found fastest beside its exec.
        let of_exec = match &record.what {
            What::Exec(_) => None,
            _ => self.each().find(|(_, store)| store.has_open_exec(record.who)).map(|(lane, _)| lane),
        };
        let lane = of_exec.unwrap_or_else(|| self.allowance.lane(account, record.time, self.budget));
        let digests = &self.digests;
        let digest = |file: &vigie_kernel_events::File| digests.get(&file_key(file)).copied();
        let bytes = self.stores[lane as usize].add(record, digest);
        if lane != Lane::Trusted {
            self.allowance.charge(account, bytes);
        }
    }

    /// How many records found no room since this was asked the last time.
    pub(crate) fn take_refused(&mut self) -> [(Whose, u64); 2] {
        let mut all = Whose::ALL.map(|whose| (whose, 0));
        for (lane, store) in Lane::ALL.into_iter().zip(&mut self.stores) {
            all[lane.whose() as usize].1 += store.take_refused();
        }
        all
    }

    /// What is in a file from now on; programs of the open blocks get it with their next record.
    pub(crate) fn set_digest(&mut self, key: FileKey, account: Account, digest: [u8; 32]) {
        for store in &mut self.stores {
            store.set_digest(key, digest);
        }
        self.digests.insert(key, account, digest);
    }

    pub(crate) fn knows_digest(&self, key: &FileKey) -> bool {
        self.digests.get(key).is_some()
    }

    /// Writes what came since the last time, seals blocks that are full or old, and stays within the budget.
    pub(crate) fn flush(&mut self, now: i64) -> io::Result<Vec<(Lane, Dropped)>> {
        let mut sealed = false;
        // A lane that cannot be written keeps no other from being written.
        let mut result = Ok(());
        for store in &mut self.stores {
            match store.flush(now) {
                Ok(is) => sealed |= is,
                Err(error) => result = Err(error),
            }
        }
        // Also when one could not be written: what is removed makes room on a full disk.
        let dropped = if sealed { self.stay_within_budget()? } else { Vec::new() };
        result.map(|()| dropped)
    }

    /// Seals the open blocks that have something.
    #[cfg(test)]
    pub(crate) fn seal(&mut self) -> io::Result<Vec<(Lane, Dropped)>> {
        for store in &mut self.stores {
            store.seal_some()?;
        }
        self.stay_within_budget()
    }

    fn stay_within_budget(&mut self) -> io::Result<Vec<(Lane, Dropped)>> {
        let mut dropped: Vec<(Lane, Dropped)> = Vec::new();
        loop {
            let extents: Vec<(Lane, Extent)> = self.extents();
            let Some(lane) = gives(&extents, self.budget) else { return Ok(dropped) };
            let Some(one) = self.stores[lane as usize].drop_oldest()? else { return Ok(dropped) };
            match dropped.iter_mut().find(|(of, _)| *of == lane) {
                Some((_, all)) => {
                    *all = Dropped { blocks: all.blocks + 1, from: all.from.min(one.from), ..one }
                }
                None => dropped.push((lane, one)),
            }
        }
    }
}

/// Which lane's oldest block is removed when all have more than the budget. The newest block of a lane stays.
fn gives(extents: &[(Lane, Extent)], budget: u64) -> Option<Lane> {
    let all: u64 = extents.iter().map(|(_, extent)| extent.bytes).sum();
    if all <= budget {
        return None;
    }
    let can = |(_, extent): &&(Lane, Extent)| extent.blocks > 1;
    let excess = extents.iter().filter(can).find(|(lane, _)| *lane == Lane::Excess);
    // Of the two others the larger one: it has more than half.
    let largest = extents.iter().filter(can).max_by_key(|(_, extent)| extent.bytes);
    excess.or(largest).map(|(lane, _)| *lane)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn excess_is_removed_first_and_then_what_has_more_than_half() {
        let extent = |bytes, blocks| Extent { bytes, blocks, ..Extent::default() };
        let gives = |trusted, others, excess, blocks| {
            let extents = [
                (Lane::Trusted, extent(trusted, 5)),
                (Lane::Others, extent(others, 5)),
                (Lane::Excess, extent(excess, blocks)),
            ];
            super::gives(&extents, 100)
        };

        assert_eq!(gives(40, 40, 20, 5), None);
        assert_eq!(gives(80, 10, 20, 5), Some(Lane::Excess));
        assert_eq!(gives(80, 10, 20, 1), Some(Lane::Trusted));
        assert_eq!(gives(20, 81, 0, 0), Some(Lane::Others));
    }
}
