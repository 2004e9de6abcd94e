//! How much text of one user's execs is kept in full: whoever runs programs with long arguments, as fast as he can, must
//! not push everybody's history out of its budget.

use std::collections::HashMap;

use vigie_kernel_events::Listed;

use crate::record::{Record, Run, What};

/// Bytes of texts that one user has in a minute, and all users but root together. A build of a large project stays below.
const OF_ONE: u64 = 4 << 20;
const OF_ALL: u64 = 16 << 20;

/// The minute, in microseconds.
const WINDOW: i64 = 60_000_000;

/// What is kept of each text beyond that, in bytes, and of the program's path.
const CUT: usize = 128;
const CUT_PATH: usize = 512;

/// Counts the texts of this minute.
#[derive(Debug, Default)]
pub(crate) struct Quota {
    since: i64,
    spent: HashMap<u32, u64>,
    all: u64,
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
    /// The record with shorter texts when its user has had his share. Root has none: who may delete the history need not
    /// fill it.
    pub(crate) fn cut(&mut self, record: &Record) -> Option<Record> {
        let What::Exec(run) = &record.what else { return None };
        if run.rights.uid == 0 {
            return None;
        }
        if !(0..WINDOW).contains(&(record.time - self.since)) {
            *self = Self { since: record.time, ..Self::default() };
        }
        let bytes = text_bytes(run);
        let spent = self.spent.entry(run.rights.uid).or_default();
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
    use crate::record::{Key, Program, Rights};

    fn exec(uid: u32, time: i64) -> Record {
        let run = Run {
            rights: Rights { uid, ..Rights::default() },
            program: Program { path: b"/tmp/x".to_vec(), ..Program::default() },
            cwd: b"/long".repeat(100),
            arguments: Listed::from_bytes(vec![b'a'; 4096]),
            argument_bytes: 4097,
            ..Run::default()
        };
        Record { time, who: Key { pid: 7, start: 1 }, what: What::Exec(Box::new(run)) }
    }

    fn kept(record: &Record, quota: &mut Quota) -> (usize, usize) {
        let cut = quota.cut(record);
        let What::Exec(run) = &cut.as_ref().unwrap_or(record).what else { panic!("it is one") };
        assert_eq!(run.argument_bytes, 4097);
        (run.arguments.bytes().len(), run.cwd.len())
    }

    #[test]
    fn what_one_user_runs_too_much_of_is_cut_and_others_and_root_are_kept_whole() {
        let mut quota = Quota::default();
        let begin = 1_700_000_000_000_000;
        for number in 0..1000 {
            kept(&exec(1000, begin + number), &mut quota);
        }

        assert_eq!(kept(&exec(1000, begin + 2000), &mut quota), (CUT, CUT + "…".len()));
        assert_eq!(kept(&exec(1001, begin + 2000), &mut quota), (4096, 500));
        assert_eq!(kept(&exec(0, begin + 2000), &mut quota), (4096, 500));
        // The next minute, and a clock that was set back.
        assert_eq!(kept(&exec(1000, begin + WINDOW), &mut quota), (4096, 500));
        assert_eq!(kept(&exec(1000, begin - WINDOW), &mut quota), (4096, 500));
    }

    #[test]
    fn many_users_together_have_no_more_than_four_have() {
        let mut quota = Quota::default();
        for number in 0..8000 {
            kept(&exec(1000 + number, 5), &mut quota);
        }

        assert_eq!(kept(&exec(999, 5), &mut quota), (CUT, CUT + "…".len()));
    }
}
