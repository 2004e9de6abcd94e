//! The processes that run now and ran a moment ago: whose records are told with their programs and ancestors.

use std::collections::{HashSet, VecDeque};
use std::hash::Hash;
use std::rc::Rc;

use hashbrown::HashMap;
use vigie_kernel_events::StandardFile;

use crate::record::{Key, Program, Rights, Run};

/// Processes that are remembered; beyond it the oldest that ended are forgotten, then the oldest.
const MOST: usize = 6000;

/// Bytes that their commands and programs' paths may take together: paths can be long.
const MOST_BYTES: usize = 2 << 20;

/// Bytes of a command that are remembered for its children's sake.
const COMMAND_BYTES: usize = 400;

/// How long one that ended is remembered, in microseconds.
const KEPT: i64 = 60_000_000;

/// Ancestors that are looked at.
const DEPTH: usize = 24;

/// Pipes that are remembered.
const MOST_PIPES: usize = 1024;

/// A process that ran a program of its own.
#[derive(Debug, Clone)]
pub(crate) struct Process {
    pub(crate) key: Key,
    pub(crate) maker: Key,
    pub(crate) program: Rc<Program>,
    pub(crate) rights: Rc<Rights>,
    /// The arguments with blanks between them, cut.
    pub(crate) command: Box<[u8]>,
    /// The pipe that it reads from, and the one that it writes to.
    pub(crate) pipes: [u64; 2],
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
    processes: HashMap<Key, Process>,
    newest: HashMap<u32, Key>,
    /// In the order in which they came, and in which they ended.
    order: VecDeque<Key>,
    ended: VecDeque<(i64, Key)>,
    programs: HashSet<Rc<Program>>,
    rights: HashSet<Rc<Rights>>,
    /// Bytes of all processes.
    bytes: usize,
    readers: Pipes,
    writers: Pipes,
}

/// Who last had a pipe as standard input, or output.
#[derive(Debug, Default)]
struct Pipes {
    ends: HashMap<u64, Key>,
    order: VecDeque<u64>,
}

impl Pipes {
    fn put(&mut self, pipe: u64, key: Key) {
        if self.ends.insert(pipe, key).is_none() {
            self.order.push_back(pipe);
        }
        if self.order.len() > MOST_PIPES
            && let Some(old) = self.order.pop_front()
        {
            self.ends.remove(&old);
        }
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
    pub(crate) fn exec(&mut self, key: Key, time: i64, run: &Run, standard: [StandardFile; 3]) {
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
        let pipe = |file: StandardFile| if file.is_pipe() { file.inode } else { 0 };
        let process = Process {
            key,
            maker: run.maker,
            program: shared(&mut self.programs, &run.program),
            rights: shared(&mut self.rights, &run.rights),
            command: command.into(),
            pipes: [pipe(standard[0]), pipe(standard[1])],
            ended: false,
        };
        if process.pipes[0] != 0 {
            self.readers.put(process.pipes[0], key);
        }
        if process.pipes[1] != 0 {
            self.writers.put(process.pipes[1], key);
        }
        self.bytes += process.bytes();
        match self.processes.insert(key, process) {
            Some(before) => self.let_go(&before),
            None => self.order.push_back(key),
        }
        self.newest.insert(key.pid, key);
        self.make_room(time);
    }

    /// A process has ended; what it was.
    pub(crate) fn exit(&mut self, key: Key, time: i64) -> Option<&Process> {
        let process = self.processes.get_mut(&key)?;
        process.ended = true;
        self.ended.push_back((time, key));
        Some(process)
    }

    fn make_room(&mut self, now: i64) {
        let is_too_much = |table: &Self| table.processes.len() > MOST || table.bytes > MOST_BYTES;
        while let Some((time, key)) = self.ended.front().copied() {
            if !is_too_much(self) && now - time <= KEPT {
                break;
            }
            self.ended.pop_front();
            self.forget(key, true);
        }
        while is_too_much(self) {
            let Some(key) = self.order.pop_front() else { break };
            self.forget(key, false);
        }
        // Those that ended are in the order as well, and would stay there as long as an old one lives.
        if self.order.len() > 2 * MOST {
            let processes = &self.processes;
            self.order.retain(|key| processes.contains_key(key));
        }
    }

    fn forget(&mut self, key: Key, only_ended: bool) {
        if self.processes.get(&key).is_some_and(|process| process.ended || !only_ended)
            && let Some(process) = self.processes.remove(&key)
        {
            self.let_go(&process);
            if self.newest.get(&key.pid) == Some(&key) {
                self.newest.remove(&key.pid);
            }
        }
    }

    fn let_go(&mut self, process: &Process) {
        self.bytes -= process.bytes();
        release(&mut self.programs, &process.program);
        release(&mut self.rights, &process.rights);
    }

    pub(crate) fn get(&self, key: Key) -> Option<&Process> {
        // What /proc says of the beginning of a process is exact to 10 ms.
        self.processes.get(&key).or_else(|| {
            let newest =
                self.newest.get(&key.pid).filter(|found| found.start / 10_000 == key.start / 10_000)?;
            self.processes.get(newest)
        })
    }

    /// The newest process of this number.
    pub(crate) fn of_pid(&self, pid: u32) -> Option<&Process> {
        self.processes.get(self.newest.get(&pid)?)
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

    /// Who writes into the pipe that this process reads, and who reads from the one that it writes.
    pub(crate) fn joined(&self, process: &Process) -> (Option<&Process>, Option<&Process>) {
        let end = |pipes: &Pipes, pipe: u64| {
            let key = *pipes.ends.get(&pipe).filter(|key| pipe != 0 && **key != process.key)?;
            self.get(key)
        };
        (end(&self.writers, process.pipes[0]), end(&self.readers, process.pipes[1]))
    }

    pub(crate) fn len(&self) -> usize {
        self.processes.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(maker: Key) -> Run {
        Run { maker, ..Run::default() }
    }

    fn key(number: u32) -> Key {
        Key { pid: number, start: u64::from(number) * 1_000_000 }
    }

    #[test]
    fn the_table_is_bounded_and_forgets_the_ended_first() {
        let mut table = Table::default();
        table.exec(key(1), 0, &run(Key::default()), Default::default());
        for number in 2..20_000 {
            table.exec(key(number), i64::from(number), &run(key(1)), Default::default());
            table.exit(key(number), i64::from(number));
        }

        assert!(table.len() <= MOST + 1);
        assert!(table.get(key(1)).is_some());
        assert!(table.get(key(19_999)).is_some());
        assert!(table.order.len() <= 2 * MOST + 1 && table.ended.len() <= MOST + 1);
        assert_eq!(table.ancestors(key(19_999)).count(), 2);
    }

    #[test]
    fn long_paths_that_are_all_different_take_no_more_than_their_share() {
        let mut table = Table::default();
        for number in 1..5000 {
            let path = format!("/{}/{number}", "x".repeat(4000)).into_bytes();
            let program = Program { path, ..Program::default() };
            table.exec(key(number), 0, &Run { program, ..Run::default() }, Default::default());
            table.exit(key(number), 0);
        }

        assert!(table.bytes <= MOST_BYTES, "{}", table.bytes);
        let counted: usize = table.processes.values().map(Process::bytes).sum();
        assert_eq!(table.bytes, counted);
        assert!(table.programs.len() <= table.len() && table.get(key(4999)).is_some());
    }

    #[test]
    fn ancestors_that_go_in_a_circle_end() {
        let mut table = Table::default();
        table.exec(key(1), 0, &run(key(2)), Default::default());
        table.exec(key(2), 0, &run(key(1)), Default::default());

        assert_eq!(table.ancestors(key(1)).count(), DEPTH);
    }

    #[test]
    fn two_ends_of_a_pipe_find_each_other() {
        let mut table = Table::default();
        let pipe = StandardFile { mode: 0o010_600, family: 0, inode: 7 };
        let nothing = StandardFile::default();
        table.exec(key(1), 0, &run(key(9)), [nothing, pipe, nothing]);
        table.exec(key(2), 0, &run(key(9)), [pipe, nothing, nothing]);

        let reader = table.get(key(2)).expect("it is there");
        assert_eq!(table.joined(reader).0.map(|process| process.key), Some(key(1)));
        let writer = table.get(key(1)).expect("it is there");
        assert_eq!(table.joined(writer).1.map(|process| process.key), Some(key(2)));
    }
}
