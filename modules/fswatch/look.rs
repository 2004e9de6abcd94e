//! Looking at one object without being led astray, kept waiting, or leaving traces.
//!
//! Directories are opened without following links, so that a directory which becomes a link leads nowhere; files
//! are opened only when they are regular, and never waited for. A digest counts only when the file was the same
//! before and after it was read.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{AtFlags, OFlags, Statx, StatxFlags};
use rustix::io::Errno;
use std::time::Instant;

use crate::avoided::{Avoided, is_unknown_mount, path_of};
use crate::extended::{Collector, ExtendedAttributes, OWN_NAMES, is_other};
use crate::object::{Content, Kind, NotRead, Object, Timestamp, flag};
use crate::reading::{Reading, SLICE_BYTES, Step};
use crate::verifier::Budget;

/// Bytes that are read at a time.
pub const READ_BYTES: usize = 128 * 1024;

/// Bytes of a file that are read whatever the slice says: nearly all files are smaller, and told with their digest.
const ANYWAY_BYTES: u64 = 1024 * 1024;

/// Times that a file is read again because it changed while it was read.
const READ_ATTEMPTS: usize = 3;

/// Largest extended attribute, and longest list of names, in bytes: what the kernel allows at most
/// (`XATTR_SIZE_MAX`, `XATTR_LIST_MAX`).
const MAX_ATTRIBUTE_BYTES: usize = 64 * 1024;

/// Bytes of extended attributes of an object that are read. One can have 500 MB of them.
const READ_ATTRIBUTE_BYTES: usize = 256 * 1024;

/// What reading one costs, whatever is in it, in bytes.
const ATTRIBUTE_COST: usize = 512;

/// Room that is enough for nearly all of them. The kernel allocates as much as it is offered, for each call.
const USUAL_ATTRIBUTE_BYTES: usize = 512;

/// What to find out.
#[derive(Debug, Clone, Copy, Default)]
pub struct Plan {
    /// Whether a regular file is hashed.
    pub hash: bool,
    /// Largest file that is hashed, in bytes.
    pub largest_hashed: Option<u64>,
    /// Read even what looks as it is known.
    pub prove: bool,
    /// The file may have grown: see whether what is known of it is still its beginning.
    pub growing: bool,
    /// Leave the page cache as it was.
    pub spare_cache: bool,
    /// It is being read already, as it is known.
    pub being_read: bool,
    /// Somebody writes to it: what is in it now is not what will be.
    pub being_written: bool,
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// There is nothing.
    Missing,
    /// There is this.
    Object {
        /// The object.
        object: Object,
        /// It is the known file with more at its end.
        grown: bool,
    },
}

/// Memory that is used again for each look.
#[derive(Debug)]
pub struct Scratch {
    pub(crate) buffer: Vec<u8>,
    none: ExtendedAttributes,
    /// Where nobody looks.
    pub(crate) avoided: Avoided,
    /// Bytes that may still be read at once; none for as many as there are. What is larger is left in `reading`.
    pub slice: Option<u64>,
    /// A file whose first slice was read, and that is to be read on.
    pub reading: Option<Box<Reading>>,
    /// Bytes that were read.
    pub bytes_read: u64,
    /// What reading may cost, and when the work went on last.
    budget: Option<(Budget, Instant)>,
}

impl Default for Scratch {
    fn default() -> Self {
        Self {
            buffer: vec![0; READ_BYTES],
            none: ExtendedAttributes::none(),
            avoided: Avoided::default(),
            slice: None,
            reading: None,
            bytes_read: 0,
            budget: None,
        }
    }
}

impl Scratch {
    /// Memory for looks elsewhere than there.
    #[must_use]
    pub fn beside(avoided: Avoided) -> Self {
        Self { avoided, ..Self::default() }
    }

    /// Memory for looks that keep within a budget from now on.
    #[must_use]
    pub fn within(budget: Budget, now: Instant, avoided: Avoided) -> Self {
        Self { budget: Some((budget, now)), ..Self::beside(avoided) }
    }

    /// So many bytes were read: counts them, and rests as the budget wants it.
    #[expect(clippy::disallowed_methods, reason = "a budget of real time is kept by waiting in real time")]
    pub(crate) fn note_read(&mut self, bytes: u64) {
        self.bytes_read += bytes;
        self.slice = self.slice.map(|left| left.saturating_sub(bytes));
        if let Some((budget, since)) = &mut self.budget {
            let rest = budget.rest(since.elapsed(), bytes);
            if !rest.is_zero() {
                std::thread::sleep(rest);
            }
            *since = Instant::now();
        }
    }
}

/// Opens a directory for looking at what is in it. No component may be a link.
///
/// # Errors
/// When it is not there, is no directory, or may not be listed.
pub fn open_directory(path: &Path, avoided: &Avoided) -> io::Result<OwnedFd> {
    avoided.open(path, OFlags::RDONLY | OFlags::DIRECTORY)
}

/// Whether an error says that nothing is there.
#[must_use]
pub fn is_missing(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

/// Looks at a path of any length.
///
/// # Errors
/// When the kernel does not let us look; that nothing is there is no error.
pub(crate) fn look_at(
    path: &Path,
    plan: Plan,
    known: Option<&Object>,
    scratch: &mut Scratch,
) -> io::Result<Found> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        // The root of everything has no name in any directory.
        let root = open_directory(path, &scratch.avoided)?;
        return look_at_name(root.as_fd(), OsStr::new("."), plan, known, scratch);
    };
    match scratch.avoided.open(parent, OFlags::PATH | OFlags::DIRECTORY) {
        Ok(directory) => look_at_name(directory.as_fd(), name, plan, known, scratch),
        Err(error) if is_missing(&error) => Ok(Found::Missing),
        Err(error) => Err(error),
    }
}

/// Looks at a name in an open directory, without reading it: neither its content nor its extended attributes are
/// in the answer, but for directories, whose times say nothing about them.
///
/// # Errors
/// When the kernel does not let us look; `NotFound` when nothing is there.
pub fn glance(directory: BorrowedFd<'_>, name: &OsStr, scratch: &mut Scratch) -> io::Result<Object> {
    let status = scratch.avoided.status_of_name(directory, name)?;
    let mut object = object(&status, scratch.none.clone());
    if object.kind == Kind::Directory {
        object.extended = extended_of_name(directory, name, scratch)?;
    }
    Ok(object)
}

/// Whether an object that was glanced at is the known one as far as that tells. Whoever changes anything in an
/// inode moves its change time, but for what `chattr` does and for what a glance at a directory reads anyway.
#[must_use]
pub(crate) fn looks_the_same(glanced: &Object, known: &Object) -> bool {
    let stamp = |object: &Object| {
        (
            object.kind,
            object.permissions,
            object.owner,
            object.group,
            object.size,
            object.modified,
            object.changed,
            object.device,
            object.inode,
            object.links,
            object.special,
            object.flags,
        )
    };
    stamp(glanced) == stamp(known) && (glanced.kind != Kind::Directory || glanced.extended == known.extended)
}

/// Looks at a name in an open directory.
///
/// # Errors
/// When the kernel does not let us look; that nothing is there is no error.
pub(crate) fn look_at_name(
    directory: BorrowedFd<'_>,
    name: &OsStr,
    plan: Plan,
    known: Option<&Object>,
    scratch: &mut Scratch,
) -> io::Result<Found> {
    look_at_glanced(directory, name, None, plan, known, scratch)
}

/// As [`look_at_name`], for a name that was glanced at just now.
///
/// # Errors
/// As there.
pub(crate) fn look_at_glanced(
    directory: BorrowedFd<'_>,
    name: &OsStr,
    mut glanced: Option<Object>,
    plan: Plan,
    known: Option<&Object>,
    scratch: &mut Scratch,
) -> io::Result<Found> {
    let known = known.filter(|known| !plan.prove || known.kind != Kind::File || plan.growing);
    for _ in 0..READ_ATTEMPTS {
        let glanced = match glanced.take().map_or_else(|| glance(directory, name, scratch), Ok) {
            Ok(glanced) => glanced,
            Err(error) if is_missing(&error) => return Ok(Found::Missing),
            Err(error) => return Err(error),
        };
        let is_enough = |known: &Object| !known.content.is_open() || plan.being_read;
        let is_as_known =
            |known: &&Object| !plan.prove && is_enough(known) && looks_the_same(&glanced, known);
        if let Some(known) = known.filter(is_as_known) {
            return Ok(Found::Object { object: known.clone(), grown: false });
        }
        let found = match glanced.kind {
            Kind::File => file(directory, name, glanced, plan, known, scratch)?,
            Kind::Link => link(directory, name, glanced, scratch)?,
            Kind::Directory => Some(Found::Object { object: glanced, grown: false }),
            Kind::Fifo | Kind::Socket | Kind::CharacterDevice | Kind::BlockDevice => {
                let extended = extended_of_name(directory, name, scratch)?;
                Some(Found::Object { object: Object { extended, ..glanced }, grown: false })
            }
        };
        // Otherwise something else took its place between two calls.
        if let Some(found) = found {
            return Ok(found);
        }
    }
    let glanced = match glance(directory, name, scratch) {
        Ok(glanced) => glanced,
        Err(error) if is_missing(&error) => return Ok(Found::Missing),
        Err(error) => return Err(error),
    };
    // It does not rest: of what cannot be told together nothing is taken for gone.
    let content = match (glanced.kind, known) {
        (Kind::File, _) => Content::NotRead(NotRead::OpenForWriting),
        (Kind::Link, Some(known)) if known.kind == Kind::Link => known.content.clone(),
        _ => glanced.content.clone(),
    };
    let extended = match glanced.kind {
        Kind::Directory => glanced.extended.clone(),
        _ => extended_of_name(directory, name, scratch)?,
    };
    Ok(Found::Object { object: Object { content, extended, ..glanced }, grown: false })
}

fn link(
    directory: BorrowedFd<'_>,
    name: &OsStr,
    glanced: Object,
    scratch: &mut Scratch,
) -> io::Result<Option<Found>> {
    let link = match scratch.avoided.refer(directory, name) {
        Ok(link) => link,
        Err(error) if is_missing(&error) => return Ok(None),
        Err(error) => return Err(error),
    };
    let target = match rustix::fs::readlinkat(&link, "", Vec::new()) {
        Ok(target) => Content::target(target.into_bytes()),
        Err(Errno::INVAL | Errno::NOENT) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let extended = extended_of_reference(&link, scratch)?;
    let object = Object { content: target, extended, ..glanced };
    Ok(Some(Found::Object { object, grown: false }))
}

/// Reads a regular file. `None` when it is another one now, or changed while it was read.
fn file(
    directory: BorrowedFd<'_>,
    name: &OsStr,
    glanced: Object,
    plan: Plan,
    known: Option<&Object>,
    scratch: &mut Scratch,
) -> io::Result<Option<Found>> {
    let skipped = if !plan.hash {
        Some(NotRead::MetadataOnly)
    } else if plan.being_written {
        Some(NotRead::OpenForWriting)
    } else if plan.largest_hashed.is_some_and(|largest| glanced.size > largest) {
        Some(NotRead::TooLarge)
    } else {
        None
    };
    if let Some(why) = skipped {
        let extended = extended_of_name(directory, name, scratch)?;
        let object = Object { content: Content::NotRead(why), extended, ..glanced };
        return Ok(Some(Found::Object { object, grown: false }));
    }
    match open_file(directory, name, scratch) {
        Ok(file) => read(file, glanced, plan, known, scratch),
        Err(error) if is_unknown_mount(&error) => Err(error),
        Err(error) if matches!(Errno::from_io_error(&error), Some(Errno::NOENT | Errno::LOOP)) => Ok(None),
        Err(error) => {
            let extended = extended_of_name(directory, name, scratch)?;
            let content = Content::NotRead(NotRead::Failed(error.raw_os_error().unwrap_or_default()));
            Ok(Some(Found::Object { object: Object { content, extended, ..glanced }, grown: false }))
        }
    }
}

/// Reads an open regular file that was as `before` just now. `None` when it changed while it was read. What is more
/// than the slice allows is left in `scratch` to be read on.
fn read(
    file: OwnedFd,
    before: Object,
    plan: Plan,
    known: Option<&Object>,
    scratch: &mut Scratch,
) -> io::Result<Option<Found>> {
    let mut reading = Reading::new(file, before, plan, known);
    let is_sliced = scratch.slice.is_some();
    loop {
        let bytes = match scratch.slice {
            None => SLICE_BYTES,
            // Another reading of it was overtaken: the next one waits for its turn.
            Some(_) if plan.being_read => 0,
            Some(left) => left.max(ANYWAY_BYTES),
        };
        match reading.advance(bytes, scratch)? {
            Step::Done(object, grown) => return Ok(Some(Found::Object { object, grown })),
            Step::Changed => return Ok(None),
            Step::More if is_sliced => {
                let content = Content::NotRead(NotRead::BeingRead);
                let extended = reading.extended(scratch)?;
                let object = Object { content, extended, ..reading.before().clone() };
                scratch.reading = Some(Box::new(reading));
                return Ok(Some(Found::Object { object, grown: false }));
            }
            Step::More => {}
        }
    }
}

/// As [`look_at_name`], for a name that its directory lists as a regular file, and that is to be read whatever it looks
/// like. It is opened before it is asked what it is: its name is looked up once and not twice.
///
/// # Errors
/// As there.
pub(crate) fn look_at_listed_file(
    directory: BorrowedFd<'_>,
    name: &OsStr,
    plan: Plan,
    known: Option<&Object>,
    scratch: &mut Scratch,
) -> io::Result<Found> {
    if plan.hash
        && let Ok(file) = open_file(directory, name, scratch)
    {
        let before = status_of(&file, scratch)?;
        let is_wanted = plan.largest_hashed.is_none_or(|largest| before.size <= largest);
        if before.kind == Kind::File
            && is_wanted
            && let Some(found) = read(file, before, plan, known, scratch)?
        {
            return Ok(found);
        }
    }
    // Another kind of object now, one that cannot be opened, or one that does not rest.
    look_at_name(directory, name, plan, known, scratch)
}

fn open_file(directory: BorrowedFd<'_>, name: &OsStr, scratch: &Scratch) -> io::Result<OwnedFd> {
    // Not blocking: between the glance and the opening a FIFO may have taken the file's place, and opening one
    // would wait for a writer for ever.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
    match scratch.avoided.open_file(directory, name, flags | OFlags::NOATIME) {
        // Only the owner may read without leaving a trace in the access time.
        Err(error) if error.raw_os_error() == Some(Errno::PERM.raw_os_error()) => {
            scratch.avoided.open_file(directory, name, flags)
        }
        result => result,
    }
}

fn status(file: &OwnedFd) -> io::Result<Statx> {
    Ok(rustix::fs::statx(file, "", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS)?)
}

pub(crate) fn status_of(file: &OwnedFd, scratch: &Scratch) -> io::Result<Object> {
    Ok(object(&status(file)?, scratch.none.clone()))
}

fn object(status: &Statx, none: ExtendedAttributes) -> Object {
    let kind = match rustix::fs::FileType::from_raw_mode(u32::from(status.stx_mode)) {
        rustix::fs::FileType::Directory => Kind::Directory,
        rustix::fs::FileType::Symlink => Kind::Link,
        rustix::fs::FileType::Fifo => Kind::Fifo,
        rustix::fs::FileType::Socket => Kind::Socket,
        rustix::fs::FileType::CharacterDevice => Kind::CharacterDevice,
        rustix::fs::FileType::BlockDevice => Kind::BlockDevice,
        rustix::fs::FileType::RegularFile | rustix::fs::FileType::Unknown => Kind::File,
    };
    let is_directory = kind == Kind::Directory;
    let flags = u32::try_from(status.stx_attributes.bits() & u64::from(flag::ALL)).unwrap_or_default();
    let none_of_directory = |value| if is_directory { 0 } else { value };
    Object {
        kind,
        permissions: status.stx_mode & 0o7777,
        owner: status.stx_uid,
        group: status.stx_gid,
        size: if kind == Kind::File { status.stx_size } else { 0 },
        modified: if is_directory { Timestamp::default() } else { time(status.stx_mtime) },
        changed: if is_directory { Timestamp::default() } else { time(status.stx_ctime) },
        device: rustix::fs::makedev(status.stx_dev_major, status.stx_dev_minor),
        inode: status.stx_ino,
        links: u32::try_from(none_of_directory(u64::from(status.stx_nlink))).unwrap_or(u32::MAX),
        special: match kind {
            Kind::CharacterDevice | Kind::BlockDevice => {
                rustix::fs::makedev(status.stx_rdev_major, status.stx_rdev_minor)
            }
            _ => 0,
        },
        flags,
        content: if kind == Kind::File { Content::NotRead(NotRead::MetadataOnly) } else { Content::None },
        extended: none,
    }
}

fn time(time: rustix::fs::StatxTimestamp) -> Timestamp {
    Timestamp { seconds: time.tv_sec, nanoseconds: time.tv_nsec }
}

fn extended_of_name(
    directory: BorrowedFd<'_>,
    name: &OsStr,
    scratch: &mut Scratch,
) -> io::Result<ExtendedAttributes> {
    match scratch.avoided.refer(directory, name) {
        Ok(object) => extended_of_reference(&object, scratch),
        Err(error) if is_missing(&error) => Ok(scratch.none.clone()),
        Err(error) => Err(error),
    }
}

fn extended_of_reference(object: &OwnedFd, scratch: &mut Scratch) -> io::Result<ExtendedAttributes> {
    // Those of a link as well: what the descriptor refers to is not followed any further.
    let path = path_of(object);
    extended(
        scratch,
        |buffer| rustix::fs::listxattr(&path, buffer),
        |attribute, buffer| rustix::fs::getxattr(&path, attribute, buffer),
        || status(object),
    )
}

pub(crate) fn extended_of_file(file: &OwnedFd, scratch: &mut Scratch) -> io::Result<ExtendedAttributes> {
    extended(
        scratch,
        |buffer| rustix::fs::flistxattr(file, buffer),
        |attribute, buffer| rustix::fs::fgetxattr(file, attribute, buffer),
        || status(file),
    )
}

/// Has something written into the usual room, and into all that can be needed when that is not enough.
fn with_room(
    buffer: &mut [u8],
    write: impl Fn(&mut [u8]) -> rustix::io::Result<usize>,
) -> rustix::io::Result<usize> {
    match write(&mut buffer[..USUAL_ATTRIBUTE_BYTES]) {
        Err(Errno::RANGE) => write(&mut buffer[..MAX_ATTRIBUTE_BYTES]),
        result => result,
    }
}

fn extended(
    scratch: &mut Scratch,
    list: impl Fn(&mut [u8]) -> rustix::io::Result<usize>,
    get: impl Fn(&OsStr, &mut [u8]) -> rustix::io::Result<usize>,
    status: impl Fn() -> io::Result<Statx>,
) -> io::Result<ExtendedAttributes> {
    let (listed, room) = scratch.buffer.split_at_mut(MAX_ATTRIBUTE_BYTES);
    let mut all_read = true;
    let mut names: Vec<&[u8]> = match with_room(listed, list) {
        Ok(0) | Err(Errno::OPNOTSUPP | Errno::NOENT | Errno::PERM | Errno::ACCESS | Errno::NOSYS) => {
            return Ok(scratch.none.clone());
        }
        Ok(length) => listed[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty()).collect(),
        // More names than it lists; those that matter most are asked for by name.
        Err(Errno::TOOBIG) => {
            all_read = false;
            OWN_NAMES.to_vec()
        }
        Err(error) => return Err(error.into()),
    };
    names.sort_unstable();
    let mut collector = Collector::default();
    let mut left = READ_ATTRIBUTE_BYTES;
    for name in names {
        if is_other(name) && left == 0 {
            collector.put_unread(name);
            all_read = false;
            continue;
        }
        // One that may not be read, or went away meanwhile, counts as not there.
        if let Ok(length) = with_room(room, |room| get(OsStr::from_bytes(name), room)) {
            collector.put(name, &room[..length]);
            left = left.saturating_sub(length + ATTRIBUTE_COST);
        }
    }
    if !all_read {
        collector.stamp(time(status()?.stx_ctime));
    }
    Ok(collector.finish())
}

#[cfg(test)]
mod tests;
