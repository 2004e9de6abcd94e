//! The processes that run now and ran a moment ago: whose records are told with their programs and ancestors.

use std::collections::{HashSet, VecDeque};
use std::hash::Hash;
use std::rc::Rc;

use hashbrown::HashMap;
use vigie_kernel_events::Account;

use crate::record::{Key, Program, Rights, Run};
use crate::rules::{Download, download, keeps_input, name_of};
use crate::shares::{Bounded, who_gives};

/// Processes that are remembered; beyond it those of the account that has most are forgotten: the oldest that ended,
/// then the oldest.
const MOST: usize = 6000;

/// Of these, processes that have ended: a storm of short ones would fill all places, and all of them be in memory.
const MOST_ENDED: usize = 2000;

/// Bytes that their commands and programs' paths may take together: paths can be long.
const MOST_BYTES: usize = 2 << 20;

/// Bytes of a command that are remembered for its children's sake.
const COMMAND_BYTES: usize = 400;

/// How long one that ended is remembered, in microseconds.
const KEPT: i64 = 60_000_000;

/// What a process weighs beside its texts when accounts are compared, in bytes.
const PROCESS_BYTES: usize = MOST_BYTES / MOST;

/// Ancestors that are looked at.
const DEPTH: usize = 24;

/// Programs of a pipeline that are looked at, in each direction.
const LONGEST_PIPELINE: usize = 4;

/// Programs that run another one for whoever called them.
const WRAPPERS: [&[u8]; 12] = [
    b"sudo",
    b"doas",
    b"env",
    b"timeout",
    b"nice",
    b"ionice",
    b"nohup",
    b"setsid",
    b"stdbuf",
    b"time",
    b"runuser",
    b"proxychains4",
];

/// Pipes that are remembered.
const MOST_PIPES: usize = 1024;

/// A process that ran a program of its own.
#[derive(Debug, Clone)]
pub(crate) struct Process {
    pub(crate) key: Key,
    pub(crate) account: Account,
    pub(crate) maker: Key,
    pub(crate) program: Rc<Program>,
    pub(crate) rights: Rc<Rights>,
    /// The arguments with blanks between them, cut.
    pub(crate) command: Box<[u8]>,
    /// The pipe that it reads from, and the one that it writes to.
    pub(crate) pipes: [u64; 2],
    /// When it, or a child of it that runs no program of its own, last asked a peer for a connection.
    pub(crate) connected: Option<i64>,
    /// When a child of it last was a tool that downloads, or a child's child, as of sudo.
    pub(crate) downloaded: Option<i64>,
    /// When one that wrote a file last was, also through a pipe or a shell between them.
    pub(crate) downloaded_file: Option<i64>,
    /// It is a tool that downloads.
    download: Option<Download>,
    /// It makes files of its input.
    keeps_input: bool,
    /// The file that standard output is, 0 for none.
    output_file: u64,
    ended: bool,
}

impl Process {
    fn bytes(&self) -> usize {
        self.command.len() + self.program.path.len()
    }
}

/// All of them.
#[derive(Debug, Default)]
pub(crate) struct Table {
    /// Boxed: a table of hashes has up to twice as many places as it needs.
    processes: HashMap<Key, Box<Process>>,
    newest: HashMap<u32, Key>,
    lanes: HashMap<Account, Lane>,
    programs: HashSet<Rc<Program>>,
    rights: HashSet<Rc<Rights>>,
    /// Bytes of all processes.
    bytes: usize,
    /// How many of them have ended.
    ended: usize,
    readers: Pipes,
    writers: Pipes,
}

/// The processes of one account.
#[derive(Debug, Default)]
struct Lane {
    /// In the order in which they came, and in which they ended; some are gone.
    order: VecDeque<Key>,
    ended: VecDeque<(i64, Key)>,
    count: usize,
    bytes: usize,
}

/// Who last had a pipe as standard input, or output.
#[derive(Debug)]
struct Pipes(Bounded<u64, Key>);

impl Default for Pipes {
    fn default() -> Self {
        Self(Bounded::new(MOST_PIPES))
    }
}

fn shared<T: Clone + Eq + Hash>(all: &mut HashSet<Rc<T>>, one: &T) -> Rc<T> {
    if let Some(known) = all.get(one) {
        return Rc::clone(known);
    }
    let made = Rc::new(one.clone());
    all.insert(Rc::clone(&made));
    made
}

/// Forgets what nobody but this one has.
fn release<T: Eq + Hash>(all: &mut HashSet<Rc<T>>, one: &Rc<T>) {
    if Rc::strong_count(one) <= 2 {
        all.remove(one);
    }
}

impl Table {
    /// A process runs another program.
    pub(crate) fn exec(&mut self, key: Key, account: Account, time: i64, run: &Run) {
        let mut command = Vec::with_capacity(80);
        for argument in run.arguments.iter() {
            if !command.is_empty() {
                command.push(b' ');
            }
            command.extend_from_slice(&argument[..argument.len().min(COMMAND_BYTES)]);
            if command.len() >= COMMAND_BYTES {
                break;
            }
        }
        command.truncate(COMMAND_BYTES);
        let process = Process {
            key,
            account,
            maker: run.maker,
            program: shared(&mut self.programs, &run.program),
            rights: shared(&mut self.rights, &run.rights),
            command: command.into(),
            pipes: run.pipes,
            connected: None,
            downloaded: None,
            downloaded_file: None,
            download: download(run),
            keeps_input: keeps_input(run),
            output_file: run.output_file,
            ended: false,
        };
        if process.pipes[0] != 0 {
            self.readers.0.insert(process.pipes[0], account, key);
        }
        if process.pipes[1] != 0 {
            self.writers.0.insert(process.pipes[1], account, key);
        }
        let bytes = process.bytes();
        let before = self.processes.insert(key, Box::new(process));
        self.bytes += bytes;
        let lane = self.lanes.entry(account).or_default();
        lane.count += 1;
        lane.bytes += bytes;
        if before.as_ref().is_none_or(|before| before.account != account) {
            lane.order.push_back(key);
        }
        if let Some(before) = before {
            self.let_go(&before);
        }
        self.newest.insert(key.pid, key);
        self.downloads(key, time);
        self.make_room(account, time);
    }

    /// Marks for whom a tool downloads, and for whom it or what reads its output writes a file: the programs of a pipeline
    /// begin in any order, and each is looked at with those that are there.
    fn downloads(&mut self, key: Key, time: i64) {
        let Some(process) = self.processes.get(&key).map(AsRef::as_ref) else { return };
        let mut pipeline: Vec<&Process> = self.writers(process).collect();
        pipeline.reverse();
        pipeline.push(process);
        pipeline.extend(self.readers(process));
        let Some(at) = pipeline.iter().position(|one| one.download.is_some()) else { return };
        let (tool, behind) = (pipeline[at], &pipeline[at + 1..]);
        let last = behind.iter().find(|one| one.keeps_input || self.redirects(one));
        let is_file = last.is_some() || tool.download == Some(Download::File) || self.redirects(tool);
        let callers =
            |of: &Process, most| self.callers(of.maker, most).map(|one| one.key).collect::<Vec<_>>();
        let downloaded = if key == tool.key { callers(tool, 1) } else { Vec::new() };
        let mut downloaded_file = if is_file { callers(tool, 2) } else { Vec::new() };
        downloaded_file.extend(last.into_iter().flat_map(|last| callers(last, 2)));
        for key in downloaded {
            if let Some(process) = self.processes.get_mut(&key) {
                process.downloaded = Some(time);
            }
        }
        for key in downloaded_file {
            if let Some(process) = self.processes.get_mut(&key) {
                process.downloaded_file = Some(time);
            }
        }
    }

    /// Whether a program's output is a file, and not that of the shell that called it, which need not have written `>`.
    fn redirects(&self, process: &Process) -> bool {
        let callers = self.callers(process.maker, 1).last();
        process.output_file != 0 && callers.is_none_or(|shell| shell.output_file != process.output_file)
    }

    /// Who called something, up to so many, and what they called it by, as sudo.
    fn callers(&self, maker: Key, most: usize) -> impl Iterator<Item = &Process> {
        let mut left = most;
        self.ancestors(maker).take_while(move |process| {
            let is_one_more = left > 0;
            left -= usize::from(is_one_more && !WRAPPERS.contains(&name_of(&process.program.path)));
            is_one_more
        })
    }

    /// A process asks a peer for a connection; one that runs no program of its own does it for its maker.
    pub(crate) fn connects(&mut self, key: Key, maker: Key, time: i64) {
        let key = if self.processes.contains_key(&key) { key } else { maker };
        if let Some(key) = self.get(key).map(|process| process.key)
            && let Some(process) = self.processes.get_mut(&key)
        {
            process.connected = Some(time);
        }
    }

    /// A process has ended; what it was.
    pub(crate) fn exit(&mut self, key: Key, time: i64) -> Option<&Process> {
        let process = self.processes.get_mut(&key)?;
        if std::mem::replace(&mut process.ended, true) {
            return Some(process);
        }
        self.ended += 1;
        if let Some(lane) = self.lanes.get_mut(&process.account) {
            lane.ended.push_back((time, key));
        }
        Some(process)
    }

    fn make_room(&mut self, account: Account, now: i64) {
        while let Some(lane) = self.lanes.get_mut(&account)
            && let Some((time, key)) = lane.ended.front().copied()
            && now - time > KEPT
        {
            lane.ended.pop_front();
            self.forget(account, key, true);
        }
        while self.ended > MOST_ENDED {
            let counts = self.lanes.iter().map(|(account, lane)| (*account, lane.ended.len()));
            let Some(gives) = who_gives(counts, MOST_ENDED) else { break };
            let Some((_, key)) = self.lanes.get_mut(&gives).and_then(|lane| lane.ended.pop_front()) else {
                break;
            };
            self.forget(gives, key, true);
        }
        while self.processes.len() > MOST || self.bytes > MOST_BYTES {
            let weight = |lane: &Lane| lane.count * PROCESS_BYTES + lane.bytes;
            let weights = self.lanes.iter().map(|(account, lane)| (*account, weight(lane)));
            let Some(gives) = who_gives(weights, MOST_BYTES) else { break };
            let Some(lane) = self.lanes.get_mut(&gives) else { break };
            if let Some((_, key)) = lane.ended.pop_front() {
                self.forget(gives, key, true);
            } else if let Some(key) = lane.order.pop_front() {
                self.forget(gives, key, false);
            } else {
                break;
            }
        }
        // Those that ended are in the order as well, and would stay there as long as an old one lives.
        if let Some(lane) = self.lanes.get_mut(&account)
            && lane.order.len() > 2 * lane.count + 64
        {
            let processes = &self.processes;
            let is_here = |key: &Key| processes.get(key).is_some_and(|process| process.account == account);
            lane.order.retain(is_here);
        }
    }

    fn forget(&mut self, account: Account, key: Key, only_ended: bool) {
        let is_it = |process: &Process| process.account == account && (process.ended || !only_ended);
        if self.processes.get(&key).is_some_and(|process| is_it(process))
            && let Some(process) = self.processes.remove(&key)
        {
            self.let_go(&process);
            if self.newest.get(&key.pid) == Some(&key) {
                self.newest.remove(&key.pid);
            }
        }
    }

    fn let_go(&mut self, process: &Process) {
        let bytes = process.bytes();
        self.bytes -= bytes;
        self.ended -= usize::from(process.ended);
        if let Some(lane) = self.lanes.get_mut(&process.account) {
            lane.count -= 1;
            lane.bytes -= bytes;
            if lane.count == 0 {
                self.lanes.remove(&process.account);
            }
        }
        release(&mut self.programs, &process.program);
        release(&mut self.rights, &process.rights);
    }

    pub(crate) fn get(&self, key: Key) -> Option<&Process> {
        // What /proc says of the beginning of a process is exact to 10 ms.
        let known = self.processes.get(&key).or_else(|| {
            let newest =
                self.newest.get(&key.pid).filter(|found| found.start / 10_000 == key.start / 10_000)?;
            self.processes.get(newest)
        });
        known.map(AsRef::as_ref)
    }

    /// The newest process of this number.
    pub(crate) fn of_pid(&self, pid: u32) -> Option<&Process> {
        self.processes.get(self.newest.get(&pid)?).map(AsRef::as_ref)
    }

    /// Its ancestors, the nearest one first.
    pub(crate) fn ancestors(&self, maker: Key) -> impl Iterator<Item = &Process> {
        let mut next = self.get(maker);
        std::iter::from_fn(move || {
            let this = next?;
            next = self.get(this.maker).filter(|above| above.key != this.key);
            Some(this)
        })
        .take(DEPTH)
    }

    /// Who writes into the pipe that this process reads, and so on.
    pub(crate) fn writers(&self, process: &Process) -> impl Iterator<Item = &Process> {
        self.along(process, &self.writers, 0)
    }

    /// Who reads from the pipe that this process writes, and so on.
    pub(crate) fn readers(&self, process: &Process) -> impl Iterator<Item = &Process> {
        self.along(process, &self.readers, 1)
    }

    fn along<'a>(
        &'a self,
        process: &Process,
        ends: &'a Pipes,
        side: usize,
    ) -> impl Iterator<Item = &'a Process> + use<'a> {
        let (first, mut pipe) = (process.key, process.pipes[side]);
        std::iter::from_fn(move || {
            let key = *ends.0.get(&pipe).filter(|key| pipe != 0 && **key != first)?;
            let next = self.get(key)?;
            pipe = next.pipes[side];
            Some(next)
        })
        .take(LONGEST_PIPELINE)
    }

    pub(crate) fn len(&self) -> usize {
        self.processes.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANN: Account = Account::user(1000);

    #[test]
    fn one_users_processes_displace_no_others() {
        let mut table = Table::default();
        let bob = Account::user(1001);
        // Daemons that began long ago, and a command that has just ended.
        for number in 1..300 {
            table.exec(key(number), Account::TRUSTED, 0, &run(Key::default()));
        }
        table.exit(key(299), 0);
        table.exec(key(300), bob, 0, &run(key(1)));
        let long = Program { path: vec![b'x'; 4000], ..Program::default() };
        for number in 301..20_000 {
            let run = Run { program: long.clone(), ..run(key(1)) };
            table.exec(key(number), ANN, 0, &run);
            if number % 2 == 0 {
                table.exit(key(number), 0);
            }
        }

        assert!((1..=300).all(|number| table.get(key(number)).is_some()));
        assert!(table.get(key(19_999)).is_some() && table.bytes <= MOST_BYTES);
        let counted: usize = table.lanes.values().map(|lane| lane.count).sum();
        assert_eq!(counted, table.len());
    }

    fn run(maker: Key) -> Run {
        Run { maker, ..Run::default() }
    }

    fn key(number: u32) -> Key {
        Key { pid: number, start: u64::from(number) * 1_000_000 }
    }

    #[test]
    fn the_table_is_bounded_and_forgets_the_ended_first() {
        let mut table = Table::default();
        table.exec(key(1), ANN, 0, &run(Key::default()));
        for number in 2..20_000 {
            table.exec(key(number), ANN, i64::from(number), &run(key(1)));
            table.exit(key(number), i64::from(number));
        }

        assert!(table.len() <= MOST_ENDED + 2 && table.ended == table.len() - 1, "{}", table.ended);
        assert!(table.get(key(1)).is_some());
        assert!(table.get(key(19_999)).is_some());
        let lane = &table.lanes[&ANN];
        assert!(lane.order.len() <= 2 * MOST + 65 && lane.ended.len() <= MOST + 1);
        assert_eq!(table.ancestors(key(19_999)).count(), 2);
    }

    #[test]
    fn long_paths_that_are_all_different_take_no_more_than_their_share() {
        let mut table = Table::default();
        for number in 1..5000 {
            let path = format!("/{}/{number}", "x".repeat(4000)).into_bytes();
            let program = Program { path, ..Program::default() };
            table.exec(key(number), ANN, 0, &Run { program, ..Run::default() });
            table.exit(key(number), 0);
        }

        assert!(table.bytes <= MOST_BYTES, "{}", table.bytes);
        let counted: usize = table.processes.values().map(|process| process.bytes()).sum();
        assert_eq!(table.bytes, counted);
        assert!(table.programs.len() <= table.len() && table.get(key(4999)).is_some());
    }

    #[test]
    fn ancestors_that_go_in_a_circle_end() {
        let mut table = Table::default();
        table.exec(key(1), ANN, 0, &run(key(2)));
        table.exec(key(2), ANN, 0, &run(key(1)));

        assert_eq!(table.ancestors(key(1)).count(), DEPTH);
    }

    #[test]
    fn a_download_through_a_pipe_into_a_file_is_one_in_whichever_order_its_programs_begin() {
        let program = |path: &str| Program { path: path.into(), ..Program::default() };
        let of = |path: &str, pipes, output_file| Run {
            program: program(path),
            pipes,
            output_file,
            ..run(key(2))
        };
        let unpacked =
            [of("/usr/bin/curl", [0, 7], 0), of("/bin/base64", [7, 8], 0), of("/bin/gzip", [8, 0], 5)];
        let stored =
            [of("/usr/bin/curl", [0, 7], 0), of("/bin/base64", [7, 8], 0), of("/bin/tee", [8, 0], 9)];
        let shown =
            [of("/usr/bin/curl", [0, 7], 0), of("/bin/base64", [7, 8], 0), of("/bin/grep", [8, 0], 9)];
        for order in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
            for (pipeline, is_file) in [(&unpacked, true), (&stored, true), (&shown, false)] {
                let mut table = Table::default();
                table.exec(key(1), ANN, 0, &run(Key::default()));
                // Its own output is a file.
                table.exec(key(2), ANN, 0, &Run { output_file: 9, ..run(key(1)) });
                for at in order {
                    table.exec(key(10 + at as u32), ANN, 1, &pipeline[at]);
                }

                let marked = |number| table.get(key(number)).is_some_and(|one| one.downloaded_file.is_some());
                assert_eq!([marked(1), marked(2)], [is_file; 2], "{order:?}");
                assert!(table.get(key(2)).is_some_and(|shell| shell.downloaded.is_some()));
            }
        }
    }

    #[test]
    fn two_ends_of_a_pipe_find_each_other() {
        let mut table = Table::default();
        table.exec(key(1), ANN, 0, &Run { pipes: [0, 7], ..run(key(9)) });
        table.exec(key(2), ANN, 0, &Run { pipes: [7, 0], ..run(key(9)) });

        let reader = table.get(key(2)).expect("it is there");
        assert_eq!(table.writers(reader).next().map(|process| process.key), Some(key(1)));
        let writer = table.get(key(1)).expect("it is there");
        assert_eq!(table.readers(writer).next().map(|process| process.key), Some(key(2)));
    }
}
