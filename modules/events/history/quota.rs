//! How much one user adds to the history: how much text of his execs is kept in full, and how much of a day is his
//! share. Whoever runs programs as fast as he can must not push everybody's history out of its budget.

use std::collections::HashMap;

use vigie_kernel_events::{Account, Listed};

use super::lanes::Lane;
use crate::record::{Record, Run, What};

/// Bytes of texts that one user has in a minute, and all users but root together. A build of a large project stays
/// below.
const OF_ONE: u64 = 4 << 20;
const OF_ALL: u64 = 16 << 20;

/// Parts of the budget that one account may add in a day, and all but the trusted together.
const DAY_OF_ONE: u64 = 100;
const DAY_OF_ALL: u64 = 10;

/// The day, in microseconds.
const DAY: i64 = 24 * 60 * 60 * 1_000_000;

/// Accounts that are counted; beyond it all are taken for one whose share is used up.
const MOST_ACCOUNTS: usize = 4096;

/// The minute, in microseconds.
const WINDOW: i64 = 60_000_000;

/// What is kept of each text beyond that, in bytes, and of the program's path.
const CUT: usize = 128;
const CUT_PATH: usize = 512;

/// Counts the texts of this minute.
#[derive(Debug, Default)]
pub(crate) struct Quota {
    since: i64,
    spent: HashMap<Account, u64>,
    all: u64,
}

/// Counts what each account added to this day's history.
#[derive(Debug, Default)]
pub(crate) struct Allowance {
    since: i64,
    spent: HashMap<Account, u64>,
    all: u64,
}

impl Allowance {
    /// Where a record of an account is kept.
    pub(crate) fn lane(&mut self, account: Account, time: i64, budget: u64) -> Lane {
        if account.is_trusted() {
            return Lane::Trusted;
        }
        if !(0..DAY).contains(&(time - self.since)) {
            *self = Self { since: time, ..Self::default() };
        }
        let spent = match self.spent.get(&account) {
            Some(spent) => *spent,
            None if self.spent.len() < MOST_ACCOUNTS => 0,
            None => return Lane::Excess,
        };
        let is_within = spent < budget / DAY_OF_ONE && self.all < budget / DAY_OF_ALL;
        if is_within { Lane::Others } else { Lane::Excess }
    }

    /// So many bytes of it were added.
    pub(crate) fn charge(&mut self, account: Account, bytes: u64) {
        if self.spent.len() < MOST_ACCOUNTS || self.spent.contains_key(&account) {
            *self.spent.entry(account).or_default() += bytes;
            self.all += bytes;
        }
    }
}

/// Bytes of the texts of an exec that differ from one to the next.
fn text_bytes(run: &Run) -> u64 {
    let environment = run.environment.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>();
    let texts = [&run.cwd, &run.filename, &run.program.path].map(Vec::len);
    (run.arguments.bytes().len() + environment + texts.iter().sum::<usize>()) as u64
}

/// The end of a path, marked as the kernel marks what was too deep.
fn cut_path(path: &mut Vec<u8>, most: usize) {
    if path.len() > most {
        let mut cut = "…".as_bytes().to_vec();
        cut.extend_from_slice(&path[path.len() - most..]);
        *path = cut;
    }
}

impl Quota {
    /// The record with shorter texts when its user has had his share. Root has none: who may delete the history need
    /// not fill it.
    pub(crate) fn cut(&mut self, record: &Record, account: Account) -> Option<Record> {
        let What::Exec(run) = &record.what else { return None };
        if account.is_trusted() {
            return None;
        }
        if !(0..WINDOW).contains(&(record.time - self.since)) {
            *self = Self { since: record.time, ..Self::default() };
        }
        let bytes = text_bytes(run);
        let spent = self.spent.entry(account).or_default();
        *spent += bytes;
        self.all += bytes;
        if *spent <= OF_ONE && self.all <= OF_ALL {
            return None;
        }
        let mut run = run.clone();
        // That they are cut shows in their true length, which is kept.
        let arguments = run.arguments.bytes();
        run.arguments = Listed::from_bytes(arguments[..arguments.len().min(CUT)].to_vec());
        cut_path(&mut run.cwd, CUT);
        cut_path(&mut run.filename, CUT);
        cut_path(&mut run.program.path, CUT_PATH);
        run.environment.iter_mut().for_each(|(_, value)| value.truncate(CUT));
        Some(Record { what: What::Exec(run), ..record.clone() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{Key, Program};

    fn exec(time: i64) -> Record {
        let run = Run {
            program: Program { path: b"/tmp/x".to_vec(), ..Program::default() },
            cwd: b"/long".repeat(100),
            arguments: Listed::from_bytes(vec![b'a'; 4096]),
            argument_bytes: 4097,
            ..Run::default()
        };
        Record { time, who: Key { pid: 7, start: 1 }, what: What::Exec(Box::new(run)) }
    }

    fn kept(uid: u32, time: i64, quota: &mut Quota) -> (usize, usize) {
        let record = exec(time);
        let cut = quota.cut(&record, Account::user(uid));
        let What::Exec(run) = &cut.as_ref().unwrap_or(&record).what else { panic!("it is one") };
        assert_eq!(run.argument_bytes, 4097);
        (run.arguments.bytes().len(), run.cwd.len())
    }

    #[test]
    fn what_one_user_runs_too_much_of_is_cut_and_others_and_root_are_kept_whole() {
        let mut quota = Quota::default();
        let begin = 1_700_000_000_000_000;
        for number in 0..1000 {
            kept(1000, begin + number, &mut quota);
        }

        assert_eq!(kept(1000, begin + 2000, &mut quota), (CUT, CUT + "…".len()));
        assert_eq!(kept(1001, begin + 2000, &mut quota), (4096, 500));
        assert_eq!(kept(0, begin + 2000, &mut quota), (4096, 500));
        // The next minute, and a clock that was set back.
        assert_eq!(kept(1000, begin + WINDOW, &mut quota), (4096, 500));
        assert_eq!(kept(1000, begin - WINDOW, &mut quota), (4096, 500));
    }

    #[test]
    fn many_users_together_have_no_more_than_four_have() {
        let mut quota = Quota::default();
        for number in 0..8000 {
            kept(1000 + number, 5, &mut quota);
        }

        assert_eq!(kept(999, 5, &mut quota), (CUT, CUT + "…".len()));
    }

    #[test]
    fn beyond_a_share_of_the_day_records_are_excess() {
        const BUDGET: u64 = 100 << 20;
        let mut allowance = Allowance::default();
        let (ann, bob, begin) = (Account::user(1000), Account::user(1001), 1_700_000_000_000_000);
        let mut add = |account, time, bytes| {
            let lane = allowance.lane(account, time, BUDGET);
            if lane != Lane::Trusted {
                allowance.charge(account, bytes);
            }
            lane
        };

        assert_eq!(add(ann, begin, 1 << 20), Lane::Others);
        assert_eq!(add(ann, begin + 1, 30), Lane::Excess);
        assert_eq!(add(bob, begin + 1, 30), Lane::Others);
        assert_eq!(add(Account::TRUSTED, begin + 1, 1 << 30), Lane::Trusted);
        assert_eq!(add(ann, begin + DAY, 30), Lane::Others);
        // Users without number share what ten of them have.
        for uid in 2000..2020 {
            add(Account::user(uid), begin + DAY, 1 << 20);
        }
        assert_eq!(add(Account::user(3000), begin + DAY, 30), Lane::Excess);
    }
}
