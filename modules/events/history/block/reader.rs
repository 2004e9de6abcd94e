//! Reading a block, only as much of it as is asked for.

use vigie_kernel_events::Listed;

use super::{
    COLUMNS, Column, FLAG_CLAIMED, FLAG_CUT, FLAG_DESCRIPTOR, FLAG_SECURE, FLAG_THREAD, MAGIC,
    MAX_SECTION_BYTES, SECTIONS, START_BYTES, Texts, absolute, address_of, expected_start, program_of,
    rights_of,
};
use crate::history::columns::{Reader, texts};
use crate::record::{Key, Kind, Outcome, Program, Record, Run, Session, Socket, SocketKind, What};

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
            pipes: [0; 2],
            output_file: 0,
            script_file: None,
            environment,
            secure: flags & FLAG_SECURE != 0,
            by_descriptor: flags & FLAG_DESCRIPTOR != 0,
            by_thread: flags & FLAG_THREAD != 0,
            claimed: flags & FLAG_CLAIMED != 0,
        };
        Some((run, start, digest))
    }
}
