//! A block of records: columns of numbers, dictionaries of texts, each compressed on its own, so that a question reads
//! only what it needs.
//!
//! ```text
//! magic (8) | bytes of the head (u32) | head | sections | chain before (32) | seal (32)
//! head: rows, rows of each kind, first and last time, for each section: bytes, compressed bytes
//! ```
//!
//! The seal is the SHA-256 of everything before it; the chain before is the seal of the block before this one.

use std::net::IpAddr;

use hashbrown::HashMap;
use sha2::{Digest as _, Sha256};
use vigie_kernel_events::{File, Listed};

use super::columns::{Dictionary, Reader, put, put_bytes, put_signed, texts};
use super::store::{FileKey, file_key};
use crate::record::{Key, Kind, Outcome, Program, Record, Rights, Run, Session, Socket, SocketKind, What};

const MAGIC: &[u8; 8] = b"VIGIEEV2";

/// Bytes of a seal.
pub(crate) const SEAL_BYTES: usize = 32;

/// Bytes of magic and the head's length.
const START_BYTES: usize = 12;

/// Most bytes that a section may say it has: more is damage.
const MAX_SECTION_BYTES: u64 = 64 << 20;

/// As fast as it matters, and within 2 % of slower levels.
const LEVEL: i32 = 3;

/// The columns of numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Column {
    Kind,
    Time,
    Pid,
    /// Rows back to the exec of the same process, 0 when there is none.
    Reference,
    /// When the process began, where no row says so.
    Start,
    /// Rows back to the exec of the maker.
    Maker,
    MakerKey,
    Parent,
    Group,
    Session,
    Program,
    Rights,
    Directory,
    Arguments,
    Filename,
    Extra,
    Flags,
    Length,
    Status,
    Resources,
    Remote,
    Local,
    Ports,
    Other,
}

const COLUMNS: usize = Column::Other as usize + 1;

/// The dictionaries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Texts {
    /// Path and file of each program.
    Programs,
    /// Digests of programs, in the order of [`Texts::Programs`]; empty where not known.
    Digests,
    Rights,
    Directories,
    Arguments,
    Filenames,
    /// Kinds of standard files, and the environment.
    Extras,
    /// Remote addresses, 4 or 16 bytes.
    Addresses,
    /// Users, terminals, hosts, kinds that were lost.
    Others,
}

const DICTIONARIES: usize = Texts::Others as usize + 1;
const SECTIONS: usize = COLUMNS + DICTIONARIES;

const FLAG_SECURE: u64 = 1;
const FLAG_DESCRIPTOR: u64 = 2;
const FLAG_THREAD: u64 = 4;
const FLAG_CLAIMED: u64 = 8;
const FLAG_CUT: u64 = 16;

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

fn expected_start((time_before, start_before): (i64, u64), time: i64) -> u64 {
    start_before.wrapping_add(time.wrapping_sub(time_before) as u64)
}

/// 0: as the maker's; 1: its own number; otherwise the number behind these two.
fn relative(number: u32, makers: u32, own: u32) -> u64 {
    match number {
        _ if number == makers => 0,
        _ if number == own => 1,
        _ => u64::from(number) + 2,
    }
}

fn absolute(relative: u64, makers: u32, own: u32) -> Option<u32> {
    match relative {
        0 => Some(makers),
        1 => Some(own),
        _ => u32::try_from(relative - 2).ok(),
    }
}

fn program_bytes(program: &Program) -> Vec<u8> {
    let file = &program.file;
    let mut out = Vec::with_capacity(program.path.len() + 40);
    put_bytes(&mut out, &program.path);
    for number in [u64::from(file.device.0), u64::from(file.device.1), file.inode, file.size] {
        put(&mut out, number);
    }
    put_signed(&mut out, file.changed);
    put(&mut out, file.filesystem);
    for number in [file.mode, file.owner, file.links, file.generation] {
        put(&mut out, u64::from(number));
    }
    out
}

fn program_of(bytes: &[u8]) -> Option<Program> {
    let mut reader = Reader(bytes);
    Some(Program {
        path: reader.bytes()?.to_vec(),
        file: File {
            device: (reader.small()?, reader.small()?),
            inode: reader.number()?,
            size: reader.number()?,
            changed: reader.signed()?,
            filesystem: reader.number()?,
            mode: reader.small()?,
            owner: reader.small()?,
            links: reader.small()?,
            generation: reader.small()?,
        },
    })
}

/// The path of a program without reading the rest.
pub(crate) fn path_of(program: &[u8]) -> Option<&[u8]> {
    Reader(program).bytes()
}

fn rights_bytes(rights: &Rights) -> Vec<u8> {
    let mut out = Vec::with_capacity(48);
    let small = [rights.uid, rights.gid, rights.euid, rights.egid, rights.suid, rights.fsuid];
    for number in small.into_iter().chain(rights.namespaces) {
        put(&mut out, u64::from(number));
    }
    for number in [rights.login_uid, rights.login_session] {
        put(&mut out, number.map_or(0, |number| u64::from(number) + 1));
    }
    for number in [rights.effective, rights.permitted, rights.cgroup, rights.cgroup_v2] {
        put(&mut out, number);
    }
    out
}

pub(crate) fn rights_of(bytes: &[u8]) -> Option<Rights> {
    let mut reader = Reader(bytes);
    let mut small = [0; 10];
    for number in &mut small {
        *number = reader.small()?;
    }
    let [uid, gid, euid, egid, suid, fsuid, mnt, pid, net, user] = small;
    let mut optional = || Some(reader.number()?.checked_sub(1).and_then(|number| u32::try_from(number).ok()));
    let (login_uid, login_session) = (optional()?, optional()?);
    Some(Rights {
        uid,
        gid,
        euid,
        egid,
        suid,
        fsuid,
        namespaces: [mnt, pid, net, user],
        login_uid,
        login_session,
        effective: reader.number()?,
        permitted: reader.number()?,
        cgroup: reader.number()?,
        cgroup_v2: reader.number()?,
    })
}

fn extra_bytes(run: &Run) -> Vec<u8> {
    let mut out = Vec::new();
    for (mode, family) in run.standard {
        put(&mut out, u64::from(mode));
        put(&mut out, u64::from(family));
    }
    for (name, value) in &run.environment {
        put_bytes(&mut out, name);
        put_bytes(&mut out, value);
    }
    out
}

pub(crate) fn address_bytes(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

pub(crate) fn address_of(bytes: &[u8]) -> Option<IpAddr> {
    <[u8; 4]>::try_from(bytes)
        .map(IpAddr::from)
        .or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from))
        .ok()
}

/// Where a block's bytes come from: a file, of which only what is asked for is read, or memory.
pub(crate) trait Bytes {
    /// Fills `out` from this place on.
    fn read_at(&self, place: u64, out: &mut [u8]) -> std::io::Result<()>;
}

impl Bytes for std::fs::File {
    fn read_at(&self, place: u64, out: &mut [u8]) -> std::io::Result<()> {
        std::os::unix::fs::FileExt::read_exact_at(self, out, place)
    }
}

impl Bytes for Vec<u8> {
    fn read_at(&self, place: u64, out: &mut [u8]) -> std::io::Result<()> {
        let from = usize::try_from(place).unwrap_or(usize::MAX);
        let bytes = self.get(from..).and_then(|rest| rest.get(..out.len()));
        out.copy_from_slice(bytes.ok_or(std::io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }
}

/// A block that cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BlockError {
    /// Its bytes cannot be had.
    #[error("cannot be read: {0}")]
    Io(#[from] std::io::Error),
    /// Its bytes make no sense.
    #[error("is damaged")]
    Damaged,
}

/// A block that is read, a section at a time.
#[derive(Debug)]
pub(crate) struct Block<B> {
    bytes: B,
    pub(crate) rows: u64,
    counts: [u64; Kind::ALL.len()],
    pub(crate) first: i64,
    pub(crate) last: i64,
    /// Place, length and compressed length of each section.
    sections: Vec<(u64, u64, u64)>,
}

impl<B: Bytes> Block<B> {
    /// Reads the head.
    pub(crate) fn open(bytes: B) -> Result<Self, BlockError> {
        let mut start = [0; START_BYTES];
        bytes.read_at(0, &mut start)?;
        if &start[..8] != MAGIC {
            return Err(BlockError::Damaged);
        }
        let length = u32::from_le_bytes([start[8], start[9], start[10], start[11]]);
        if length > 4096 {
            return Err(BlockError::Damaged);
        }
        let mut head = vec![0; length as usize];
        bytes.read_at(START_BYTES as u64, &mut head)?;
        Self::parse(bytes, &head).ok_or(BlockError::Damaged)
    }

    fn parse(bytes: B, head: &[u8]) -> Option<Self> {
        let mut reader = Reader(head);
        let rows = reader.number()?;
        let mut counts = [0; Kind::ALL.len()];
        for count in &mut counts {
            *count = reader.number()?;
        }
        let (first, last) = (reader.signed()?, reader.signed()?);
        let mut place = (START_BYTES + head.len()) as u64;
        let mut sections = Vec::with_capacity(SECTIONS);
        for _ in 0..SECTIONS {
            let (length, packed) = (reader.number()?, reader.number()?);
            if length > MAX_SECTION_BYTES || packed > length {
                return None;
            }
            sections.push((place, length, packed));
            place += packed;
        }
        Some(Self { bytes, rows, counts, first, last, sections })
    }

    pub(crate) fn count(&self, kind: Kind) -> u64 {
        self.counts[kind as usize]
    }

    fn section(&self, number: usize) -> Result<Vec<u8>, BlockError> {
        let (place, length, packed) = self.sections[number];
        let mut bytes = vec![0; packed as usize];
        self.bytes.read_at(place, &mut bytes)?;
        if packed == length {
            return Ok(bytes);
        }
        let unpacked = zstd::bulk::decompress(&bytes, length as usize).map_err(|_| BlockError::Damaged)?;
        if unpacked.len() as u64 == length { Ok(unpacked) } else { Err(BlockError::Damaged) }
    }

    /// One dictionary.
    pub(crate) fn dictionary(&self, dictionary: Texts) -> Result<Vec<u8>, BlockError> {
        self.section(COLUMNS + dictionary as usize)
    }

    /// Hands on all records in their order, each with the digest of its program.
    pub(crate) fn records(&self, mut take: impl FnMut(Record, Option<[u8; 32]>)) -> Result<(), BlockError> {
        let sections = (0..SECTIONS).map(|number| self.section(number)).collect::<Result<Vec<_>, _>>()?;
        let dictionaries = sections[COLUMNS..]
            .iter()
            .map(|data| texts(data))
            .collect::<Option<Vec<_>>>()
            .ok_or(BlockError::Damaged)?;
        let mut decoder = Decoder {
            columns: std::array::from_fn(|number| Reader(&sections[number])),
            dictionaries,
            before: (0, 0),
            exec_before: (0, 0),
            execs: Vec::with_capacity(usize::try_from(self.rows).unwrap_or(0).min(65_536)),
        };
        for _ in 0..self.rows {
            let (record, digest) = decoder.next().ok_or(BlockError::Damaged)?;
            take(record, digest);
        }
        Ok(())
    }
}

struct Decoder<'a> {
    columns: [Reader<'a>; COLUMNS],
    dictionaries: Vec<Vec<&'a [u8]>>,
    before: (i64, u32),
    exec_before: (i64, u64),
    /// Process, group and session of each row; of execs only.
    execs: Vec<Option<(Key, u32, u32)>>,
}

impl<'a> Decoder<'a> {
    fn number(&mut self, column: Column) -> Option<u64> {
        self.columns[column as usize].number()
    }

    fn small(&mut self, column: Column) -> Option<u32> {
        self.columns[column as usize].small()
    }

    fn signed(&mut self, column: Column) -> Option<i64> {
        self.columns[column as usize].signed()
    }

    fn text(&mut self, column: Column, dictionary: Texts) -> Option<&'a [u8]> {
        let number = usize::try_from(self.number(column)?).ok()?;
        self.dictionaries[dictionary as usize].get(number).copied()
    }

    fn program(&mut self) -> Option<(Program, Option<[u8; 32]>)> {
        let number = usize::try_from(self.number(Column::Program)?).ok()?;
        let program = program_of(self.dictionaries[Texts::Programs as usize].get(number)?)?;
        let digest = self.dictionaries[Texts::Digests as usize].get(number)?;
        Some((program, (*digest).try_into().ok()))
    }

    fn back(&self, rows: u64) -> Option<(Key, u32, u32)> {
        let row = (self.execs.len() as u64).checked_sub(rows)?;
        *self.execs.get(usize::try_from(row).ok()?)?
    }

    fn key(&mut self) -> Option<Key> {
        let pid = self.small(Column::Other)?;
        let start = if pid == 0 { 0 } else { self.number(Column::Other)? };
        Some(Key { pid, start })
    }

    fn next(&mut self) -> Option<(Record, Option<[u8; 32]>)> {
        let kind = *Kind::ALL.get(usize::from(self.columns[Column::Kind as usize].byte()?))?;
        let time = self.before.0.wrapping_add(self.signed(Column::Time)?);
        let pid = u32::try_from(i64::from(self.before.1).checked_add(self.signed(Column::Pid)?)?).ok()?;
        self.before = (time, pid);
        let mut who = Key { pid, start: 0 };
        if kind != Kind::Exec {
            who.start = match self.number(Column::Reference)? {
                0 => self.number(Column::Start)?,
                rows => self.back(rows)?.0.start,
            };
        }
        let mut digest = None;
        let mut exec = None;
        let what = match kind {
            Kind::Exec => {
                let (run, start, of_program) = self.run(pid)?;
                who.start = start;
                digest = of_program;
                exec = Some((who, run.group, run.session));
                What::Exec(Box::new(run))
            }
            Kind::Exit => What::Exit {
                status: self.small(Column::Status)?,
                processor_ms: self.number(Column::Resources)?,
                resident_quarters: self.number(Column::Resources)?,
                euid: self.small(Column::Resources)?,
            },
            Kind::Connect | Kind::Accept | Kind::Listen => {
                let (program, of_program) = self.program()?;
                digest = of_program;
                What::Socket(Box::new(Socket {
                    kind: match kind {
                        Kind::Connect => SocketKind::Connect,
                        Kind::Accept => SocketKind::Accept,
                        _ => SocketKind::Listen,
                    },
                    program,
                    rights: rights_of(self.text(Column::Rights, Texts::Rights)?)?,
                    remote: address_of(self.text(Column::Remote, Texts::Addresses)?)?,
                    local: address_of(self.text(Column::Local, Texts::Others)?)?,
                    remote_port: u16::try_from(self.number(Column::Ports)?).ok()?,
                    local_port: u16::try_from(self.number(Column::Ports)?).ok()?,
                    outcome: match self.number(Column::Flags)? {
                        0 => Outcome::Open,
                        1 => Outcome::Refused,
                        _ => Outcome::Unanswered,
                    },
                    peer: self.key()?,
                }))
            }
            Kind::Setuid => {
                What::Setuid { uid: self.small(Column::Other)?, euid: self.small(Column::Other)? }
            }
            Kind::Ptrace => What::Ptrace { tracer: self.key()? },
            Kind::Login | Kind::Logout => {
                let mut text = || self.text(Column::Other, Texts::Others).map(<[u8]>::to_vec);
                let session =
                    Box::new(Session { user: text()?, line: text()?, host: text()?, source: text()? });
                if kind == Kind::Login { What::Login(session) } else { What::Logout(session) }
            }
            Kind::Mount | Kind::Module | Kind::Bpf | Kind::Time => {
                What::Host(kind, self.text(Column::Other, Texts::Others)?.to_vec())
            }
            Kind::Namespace => What::Namespace(self.text(Column::Other, Texts::Others)?.to_vec()),
            Kind::Lost => What::Lost {
                kind: self.text(Column::Other, Texts::Others)?.to_vec(),
                count: self.number(Column::Other)?,
                from: self.signed(Column::Other)?,
            },
        };
        self.execs.push(exec);
        Some((Record { time, who, what }, digest))
    }

    fn run(&mut self, pid: u32) -> Option<(Run, u64, Option<[u8; 32]>)> {
        let maker = match self.number(Column::Maker)? {
            0 => None,
            rows => Some(self.back(rows)?),
        };
        let maker_key = match maker {
            Some((key, ..)) => key,
            None => Key { pid: self.small(Column::MakerKey)?, start: self.number(Column::MakerKey)? },
        };
        let expected = expected_start(self.exec_before, self.before.0);
        let start = expected.wrapping_add(self.signed(Column::Start)? as u64);
        self.exec_before = (self.before.0, start);
        let parent =
            u32::try_from(i64::from(maker_key.pid).checked_sub(self.signed(Column::Parent)?)?).ok()?;
        let (makers_group, makers_session) = maker.map_or((0, 0), |(_, group, session)| (group, session));
        let group = absolute(self.number(Column::Group)?, makers_group, pid)?;
        let session = absolute(self.number(Column::Session)?, makers_session, pid)?;
        let (program, digest) = self.program()?;
        let rights = rights_of(self.text(Column::Rights, Texts::Rights)?)?;
        let cwd = self.text(Column::Directory, Texts::Directories)?.to_vec();
        let arguments = self.text(Column::Arguments, Texts::Arguments)?.to_vec();
        let filename = self.text(Column::Filename, Texts::Filenames)?.to_vec();
        let mut extra = Reader(self.text(Column::Extra, Texts::Extras)?);
        let mut standard = [(0, 0); 3];
        for file in &mut standard {
            *file = (extra.small()?, extra.small()?);
        }
        let mut environment = Vec::new();
        while !extra.0.is_empty() {
            environment.push((extra.bytes()?.to_vec(), extra.bytes()?.to_vec()));
        }
        let flags = self.number(Column::Flags)?;
        let argument_bytes = match flags & FLAG_CUT {
            0 => u32::try_from(arguments.len() + 1).ok()?,
            _ => self.small(Column::Length)?,
        };
        let run = Run {
            maker: maker_key,
            parent,
            group,
            session,
            program,
            rights,
            filename,
            cwd,
            arguments: Listed::from_bytes(arguments),
            argument_bytes,
            standard,
            environment,
            secure: flags & FLAG_SECURE != 0,
            by_descriptor: flags & FLAG_DESCRIPTOR != 0,
            by_thread: flags & FLAG_THREAD != 0,
            claimed: flags & FLAG_CLAIMED != 0,
        };
        Some((run, start, digest))
    }
}
