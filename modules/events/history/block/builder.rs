//! Writing a block, record by record.

use hashbrown::HashMap;
use sha2::{Digest as _, Sha256};
use vigie_kernel_events::File;

use super::{
    COLUMNS, Column, DICTIONARIES, FLAG_CLAIMED, FLAG_CUT, FLAG_DESCRIPTOR, FLAG_SECURE, FLAG_THREAD, LEVEL,
    MAGIC, SEAL_BYTES, Texts, address_bytes, expected_start, extra_bytes, program_bytes, relative,
    rights_bytes,
};
use crate::history::columns::{Dictionary, put, put_bytes, put_signed, texts};
use crate::history::store::{FileKey, file_key};
use crate::record::{Key, Kind, Program, Record, Rights, Run, What};

/// What encoder and decoder know of an exec that was in the block before.
#[derive(Debug, Clone, Copy)]
struct Known {
    row: u64,
    group: u32,
    session: u32,
}

/// The last few different values with their numbers: most records have one of them, and comparing costs less than to
/// write a value as bytes and to hash those.
#[derive(Debug)]
struct Recent<T> {
    values: [(T, u64); 4],
    filled: usize,
    next: usize,
}

impl<T: Default> Default for Recent<T> {
    fn default() -> Self {
        Self { values: Default::default(), filled: 0, next: 0 }
    }
}

impl<T: Clone + PartialEq> Recent<T> {
    /// The number of a value, which `find` tells when it is not among them.
    fn number(&mut self, value: &T, find: impl FnOnce(&T) -> u64) -> u64 {
        if let Some((_, number)) = self.values[..self.filled].iter().find(|(known, _)| known == value) {
            return *number;
        }
        let number = find(value);
        let place = &mut self.values[self.next];
        place.0.clone_from(value);
        place.1 = number;
        self.next = (self.next + 1) % self.values.len();
        self.filled = self.values.len().min(self.filled + 1);
        number
    }
}

/// A block that is still written.
#[derive(Debug)]
pub(crate) struct Builder {
    columns: [Vec<u8>; COLUMNS],
    dictionaries: [Dictionary; DICTIONARIES],
    /// Digest of each program by its number; it may become known later.
    digests: Vec<Option<[u8; 32]>>,
    recent_programs: Recent<Program>,
    recent_rights: Recent<Rights>,
    /// The program of each file, by what names its content.
    numbers: HashMap<FileKey, u64>,
    rows: u64,
    counts: [u64; Kind::ALL.len()],
    first: i64,
    last: i64,
    /// Time and process of the row before.
    before: (i64, u32),
    /// Time of the exec before, and when its process began.
    exec_before: (i64, u64),
    execs: HashMap<Key, Known>,
}

impl Default for Builder {
    fn default() -> Self {
        Self {
            columns: std::array::from_fn(|_| Vec::new()),
            dictionaries: std::array::from_fn(|_| Dictionary::default()),
            digests: Vec::new(),
            recent_programs: Recent::default(),
            recent_rights: Recent::default(),
            numbers: HashMap::new(),
            rows: 0,
            counts: [0; Kind::ALL.len()],
            first: i64::MAX,
            last: i64::MIN,
            before: (0, 0),
            exec_before: (0, 0),
            execs: HashMap::new(),
        }
    }
}

impl Builder {
    pub(crate) fn rows(&self) -> u64 {
        self.rows
    }

    /// Whether it has the last exec of a process that did not end.
    pub(crate) fn has_exec(&self, who: Key) -> bool {
        self.execs.contains_key(&who)
    }

    /// Bytes of all its texts.
    pub(crate) fn text_bytes(&self) -> usize {
        self.dictionaries.iter().map(Dictionary::bytes).sum()
    }

    /// The time of its first record, microseconds since 1970.
    pub(crate) fn first(&self) -> Option<i64> {
        (self.rows > 0).then_some(self.first)
    }

    /// The time of its last record.
    pub(crate) fn last(&self) -> Option<i64> {
        (self.rows > 0).then_some(self.last)
    }

    fn number(&mut self, column: Column, number: u64) {
        put(&mut self.columns[column as usize], number);
    }

    fn signed(&mut self, column: Column, number: i64) {
        put_signed(&mut self.columns[column as usize], number);
    }

    fn text(&mut self, column: Column, dictionary: Texts, text: &[u8]) {
        let number = self.dictionaries[dictionary as usize].number(text);
        self.number(column, number);
    }

    fn program(&mut self, program: &Program, digest: Option<[u8; 32]>) {
        let programs = &mut self.dictionaries[Texts::Programs as usize];
        let number = self.recent_programs.number(program, |program| programs.number(&program_bytes(program)));
        let place = number as usize;
        if self.digests.len() <= place {
            self.digests.resize(place + 1, None);
            self.numbers.insert(file_key(&program.file), number);
        }
        if digest.is_some() {
            self.digests[place] = digest;
        }
        self.number(Column::Program, number);
    }

    fn rights(&mut self, rights: &Rights) {
        let known = &mut self.dictionaries[Texts::Rights as usize];
        let number = self.recent_rights.number(rights, |rights| known.number(&rights_bytes(rights)));
        self.number(Column::Rights, number);
    }

    /// Adds a record. `digest` says what is in a program's file, when it is known.
    pub(crate) fn add(&mut self, record: &Record, digest: impl Fn(&File) -> Option<[u8; 32]>) {
        let kind = record.what.kind();
        let Record { time, who, .. } = *record;
        self.columns[Column::Kind as usize].push(kind as u8);
        self.signed(Column::Time, time.wrapping_sub(self.before.0));
        self.signed(Column::Pid, i64::from(who.pid) - i64::from(self.before.1));
        self.before = (time, who.pid);
        self.first = self.first.min(time);
        self.last = self.last.max(time);
        self.counts[kind as usize] += 1;
        if !matches!(record.what, What::Exec(_)) {
            let known = self.execs.get(&who).map_or(0, |known| self.rows - known.row);
            self.number(Column::Reference, known);
            if known == 0 {
                self.number(Column::Start, who.start);
            }
        }
        match &record.what {
            What::Exec(run) => self.add_run(time, who, run, digest(&run.program.file)),
            What::Exit { status, processor_ms, resident_quarters, euid } => {
                self.number(Column::Status, u64::from(*status));
                self.number(Column::Resources, *processor_ms);
                self.number(Column::Resources, *resident_quarters);
                self.number(Column::Resources, u64::from(*euid));
                self.execs.remove(&who);
            }
            What::Socket(socket) => {
                self.program(&socket.program, digest(&socket.program.file));
                self.rights(&socket.rights);
                self.text(Column::Remote, Texts::Addresses, &address_bytes(socket.remote));
                self.text(Column::Local, Texts::Others, &address_bytes(socket.local));
                self.number(Column::Ports, u64::from(socket.remote_port));
                self.number(Column::Ports, u64::from(socket.local_port));
                self.number(Column::Flags, socket.outcome as u64);
                self.key(socket.peer);
            }
            What::Setuid { uid, euid } => {
                self.number(Column::Other, u64::from(*uid));
                self.number(Column::Other, u64::from(*euid));
            }
            What::Ptrace { tracer } => self.key(*tracer),
            What::Login(session) | What::Logout(session) => {
                for text in [&session.user, &session.line, &session.host, &session.source] {
                    self.text(Column::Other, Texts::Others, text);
                }
            }
            What::Host(_, text) | What::Namespace(text) => {
                self.text(Column::Other, Texts::Others, text);
            }
            What::Lost { kind, count, from } => {
                self.text(Column::Other, Texts::Others, kind);
                self.number(Column::Other, *count);
                self.signed(Column::Other, *from);
            }
        }
        self.rows += 1;
    }

    fn key(&mut self, key: Key) {
        self.number(Column::Other, u64::from(key.pid));
        if key.pid != 0 {
            self.number(Column::Other, key.start);
        }
    }

    fn add_run(&mut self, time: i64, who: Key, run: &Run, digest: Option<[u8; 32]>) {
        let maker = self.execs.get(&run.maker).copied();
        self.number(Column::Maker, maker.map_or(0, |maker| self.rows - maker.row));
        match maker {
            Some(_) => {}
            None => {
                self.number(Column::MakerKey, u64::from(run.maker.pid));
                self.number(Column::MakerKey, run.maker.start);
            }
        }
        // All processes take about as long from their beginning to their exec.
        let expected = expected_start(self.exec_before, time);
        self.signed(Column::Start, who.start.wrapping_sub(expected) as i64);
        self.exec_before = (time, who.start);
        self.signed(Column::Parent, i64::from(run.maker.pid) - i64::from(run.parent));
        let (group, session) = maker.map_or((0, 0), |maker| (maker.group, maker.session));
        self.number(Column::Group, relative(run.group, group, who.pid));
        self.number(Column::Session, relative(run.session, session, who.pid));
        self.program(&run.program, digest);
        self.rights(&run.rights);
        self.text(Column::Directory, Texts::Directories, &run.cwd);
        self.text(Column::Arguments, Texts::Arguments, run.arguments.bytes());
        self.text(Column::Filename, Texts::Filenames, &run.filename);
        self.text(Column::Extra, Texts::Extras, &extra_bytes(run));
        let cut = run.argument_bytes as usize != run.arguments.bytes().len() + 1;
        let flags = [
            (run.secure, FLAG_SECURE),
            (run.by_descriptor, FLAG_DESCRIPTOR),
            (run.by_thread, FLAG_THREAD),
            (run.claimed, FLAG_CLAIMED),
            (cut, FLAG_CUT),
        ];
        self.number(Column::Flags, flags.iter().filter(|(is, _)| *is).map(|(_, flag)| flag).sum());
        if cut {
            self.number(Column::Length, u64::from(run.argument_bytes));
        }
        self.execs.insert(who, Known { row: self.rows, group: run.group, session: run.session });
    }

    /// Says what is in the file of a program that is here already.
    pub(crate) fn set_digest(&mut self, key: FileKey, digest: [u8; 32]) {
        if let Some(number) = self.numbers.get(&key) {
            self.digests[*number as usize] = Some(digest);
        }
    }

    /// The block as bytes. What is read again soon need not be small.
    pub(crate) fn encode(&self, before: [u8; SEAL_BYTES], small: bool) -> Vec<u8> {
        let mut digests = Vec::new();
        let programs = texts(self.dictionaries[Texts::Programs as usize].data()).map_or(0, |all| all.len());
        for place in 0..programs {
            let digest = self.digests.get(place).copied().flatten();
            put_bytes(&mut digests, digest.as_ref().map_or(&[], |digest| &digest[..]));
        }
        let columns = self.columns.iter().map(Vec::as_slice);
        let dictionaries = self.dictionaries.iter().enumerate().map(|(number, dictionary)| {
            if number == Texts::Digests as usize { &digests[..] } else { dictionary.data() }
        });
        let mut head = Vec::new();
        put(&mut head, self.rows);
        for count in self.counts {
            put(&mut head, count);
        }
        put_signed(&mut head, self.first);
        put_signed(&mut head, self.last);
        let mut body = Vec::new();
        for section in columns.chain(dictionaries) {
            // What cannot be compressed is kept as it is; both have the same length then.
            let packed = match section.len() {
                _ if !small => section.to_vec(),
                0..=24 => section.to_vec(),
                _ => zstd::bulk::compress(section, LEVEL).unwrap_or_else(|_| section.to_vec()),
            };
            let packed = if packed.len() < section.len() { packed } else { section.to_vec() };
            put(&mut head, section.len() as u64);
            put(&mut head, packed.len() as u64);
            body.extend_from_slice(&packed);
        }
        let mut block = MAGIC.to_vec();
        block.extend_from_slice(&(head.len() as u32).to_le_bytes());
        block.extend_from_slice(&head);
        block.extend_from_slice(&body);
        block.extend_from_slice(&before);
        let seal = Sha256::digest(&block);
        block.extend_from_slice(&seal);
        block
    }
}
