//! A block of records: columns of numbers, dictionaries of texts, each compressed on its own, so that a question reads
//! only what it needs.
//!
//! ```text
//! magic (8) | bytes of the head (u32) | head | sections | chain before (32) | seal (32)
//! head: rows, rows of each kind, first and last time, for each section: bytes, compressed bytes
//! ```
//!
//! The seal is the SHA-256 of everything before it; the chain before is the seal of the block before this one.

mod builder;
mod reader;

use std::net::IpAddr;

use vigie_kernel_events::File;

use super::columns::{Reader, put, put_bytes, put_signed};
use crate::record::{Program, Rights, Run};

pub(crate) use self::builder::Builder;
pub(crate) use self::reader::{Block, BlockError, Bytes};

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
