//! What looking for the files of one account may cost: nobody but root can use up the time of a scan.

use vigie_host::shown;
use vigie_tree::{Entry, MAX_NAMES, NotRead, Unread};

use crate::record::Record;
use crate::scan::{MAX_DIGESTED, Scan};

/// The account whose files may cost what they will.
pub(crate) const ROOT: u32 = 0;

/// What looking for the files of one account and reading them may cost, so that nobody uses up the time of all. One is
/// a name in a directory that is listed, which takes about a microsecond.
const ALLOWANCE: u64 = 3_000_000;

/// Most entries of the coverage that are about the files of one account other than root.
const MAX_NOTED: usize = 50;

/// What it costs to look for a file by its path.
pub(crate) const COST_OF_NAME: u64 = 10;

/// What it costs to read a file, and how many bytes of it cost one more.
const COST_OF_FILE: u64 = 100;
const BYTES_OF_COST: u64 = 256;

/// What it costs to read a file, for its lines or for its digest.
pub(crate) fn cost_of(file: &Entry) -> u64 {
    let read = if file.status.size <= MAX_DIGESTED { file.status.size } else { 0 };
    COST_OF_FILE + read / BYTES_OF_COST
}

/// What it costs to make a record and to keep it, and how many bytes of its texts cost one more.
const COST_OF_RECORD: u64 = 50;
const BYTES_OF_RECORD: usize = 8;

/// What it costs to make a record and to keep it.
pub(crate) fn cost_of_record(record: &Record) -> u64 {
    let texts =
        [&record.when, &record.file, &record.command].into_iter().chain(&record.user).chain(&record.notes);
    let texts = texts.chain(record.program.as_ref().map(|program| &program.path)).chain(&record.target);
    COST_OF_RECORD + (texts.map(String::len).sum::<usize>() / BYTES_OF_RECORD) as u64
}

impl Scan<'_> {
    /// Notes what is not examined; of one account no more than leaves room for others.
    pub(crate) fn skip(&self, what: impl Into<String>, why: impl Into<String>) {
        let what = what.into();
        let account = match self.reads_for {
            ROOT => self.home_of(what.as_bytes()).map_or(ROOT, |home| home.uid),
            account => account,
        };
        let coverage = &mut self.so_far.locked().0.coverage;
        let mut noted = self.noted.borrow_mut();
        let noted = noted.entry(account).or_default();
        match *noted {
            MAX_NOTED if account != ROOT => {
                let name = self.name_of(account).cloned().unwrap_or_else(|| account.to_string());
                coverage.skip(format!("more of {name}'s files"), "of one account, only some are listed here");
            }
            _ => {
                let before = coverage.not_examined.len();
                coverage.skip(what, why);
                *noted += coverage.not_examined.len() - before;
            }
        }
    }

    /// Who decides what is in a file, and pays for what it leads to.
    pub(crate) fn writer(&self, file: &Entry) -> u32 {
        match self.payer(file) {
            // The files of an image can all be those of whoever unpacked it.
            ROOT if file.status.uid == self.administrator => ROOT,
            ROOT => file.status.uid,
            account => account,
        }
    }

    /// What a directory holds, at the cost of the account that is read for.
    pub(crate) fn listed(&mut self, directory: &[u8]) -> Vec<Entry> {
        let what = shown(directory);
        if !self.can_pay(self.reads_for) {
            return Vec::new();
        }
        let listed = self.tree.list(directory);
        let cost = match &listed {
            Ok(entries) => entries.len() as u64,
            Err(Unread::Large) => MAX_NAMES as u64,
            Err(_) => COST_OF_NAME,
        };
        self.spend(self.reads_for, cost, &what);
        listed.unwrap_or_else(|why| {
            self.skip(what, why.to_string());
            Vec::new()
        })
    }

    /// Whether something is left of the allowance of an account.
    pub(crate) fn can_pay(&self, account: u32) -> bool {
        self.left(account) > 0
    }

    /// Who pays for reading a file: whoever has the home that it lies in, or that names it.
    pub(crate) fn payer(&self, file: &Entry) -> u32 {
        match self.reads_for {
            ROOT => self.home_of(&file.path).map_or(ROOT, |home| home.uid),
            account => account,
        }
    }

    /// What matches a pattern below a directory, at the cost of an account, and what could not be read on the way.
    pub(crate) fn glob_for(
        &mut self,
        account: u32,
        directory: &[u8],
        pattern: &str,
        what: &str,
    ) -> (Vec<Entry>, Vec<NotRead>) {
        let mut unread = Vec::new();
        let mut left = self.left(account);
        let found = self.tree.glob_within(directory, pattern, &mut left, &mut unread);
        let cost = self.left(account) - left;
        self.spend(account, cost, what);
        (found, unread)
    }

    fn left(&self, account: u32) -> u64 {
        let whole = if account == ROOT { u64::MAX } else { ALLOWANCE };
        self.allowances.get(&account).copied().unwrap_or(whole)
    }

    /// Takes from the allowance of an account; `false` when nothing is left, which is noted once.
    pub(crate) fn spend(&mut self, account: u32, cost: u64, what: &str) -> bool {
        let before = self.left(account);
        let left = before.saturating_sub(cost);
        if account != ROOT {
            self.allowances.insert(account, left);
        }
        if left == 0 && before > 0 {
            self.skip(what, "this account has too much of this: its other files are not examined");
        }
        before > 0
    }
}

#[cfg(test)]
mod tests {
    use vigie_sdk::Query;
    use vigie_tree::{Root, Tree};

    use super::*;
    use crate::catalogue::rules;
    use crate::parameters::Parameters;
    use crate::scan::SoFar;

    #[test]
    fn what_one_account_cannot_pay_for_is_read_for_the_next_one() {
        const UNIT: &str = "[Service]\nEnvironmentFile=/shared\n";
        let directory = tempfile::tempdir().expect("a directory can be made");
        for (name, content) in [("shared", "LD_PRELOAD=/x.so\n"), ("a.service", UNIT), ("shared.sh", "/x\n")]
        {
            std::fs::write(directory.path().join(name), content).expect("the directory is writable");
        }
        let tree = Tree::open(directory.path()).expect("it is there");
        let root = Root::open(directory.path()).expect("it is there");
        let parameters = Parameters::from_query(&Query::new(None)).expect("nothing is asked for");
        let so_far = SoFar::default();
        let mut scan = Scan::new(&tree, &root, &parameters, &|_, _| false, &so_far);
        let unit = tree.find(b"/a.service").expect("it was written");
        let directive = crate::unit::parse(UNIT.as_bytes()).remove(0);
        let rule = rules().find(|rule| rule.technique == "user-rc").expect("the catalogue has it");
        let shared = tree.find(b"/shared.sh").expect("it was written");

        // The first one has just enough to name a file, and nothing to open it.
        for (account, has_nothing) in [(1000, true), (1001, false)] {
            scan.reads_for = account;
            if has_nothing {
                scan.allowances.insert(account, COST_OF_NAME + 1);
            }
            scan.environment_file(&unit, &directive);
            scan.matched(rule, shared.clone());
        }

        let found: Vec<&str> = scan.finished().records.iter().map(|record| record.technique).collect();
        assert_eq!(found, ["sd-envfile", "user-rc"]);
    }
}
