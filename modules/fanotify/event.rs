//! Reading events: the layout is that of linux/fanotify.h, and nothing is believed about lengths.

use std::ffi::OsStr;
use std::ops::BitOr;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;

use crate::handle::{FilesystemId, HandleRef};
use crate::sys;

/// What happened, or what to tell of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Mask(pub u64);

impl Mask {
    /// Content was written.
    pub const MODIFY: Self = Self(libc::FAN_MODIFY);
    /// Metadata changed.
    pub const ATTRIB: Self = Self(libc::FAN_ATTRIB);
    /// A file that was open for writing was closed.
    pub const CLOSE_WRITE: Self = Self(libc::FAN_CLOSE_WRITE);
    /// A name came.
    pub const CREATE: Self = Self(libc::FAN_CREATE);
    /// A name went.
    pub const DELETE: Self = Self(libc::FAN_DELETE);
    /// The last name of the object went.
    pub const DELETE_SELF: Self = Self(libc::FAN_DELETE_SELF);
    /// A name became another one; both are told.
    pub const RENAME: Self = Self(libc::FAN_RENAME);
    /// A file was opened to be executed.
    pub const OPEN_EXEC: Self = Self(libc::FAN_OPEN_EXEC);
    /// The queue overflowed: events were lost.
    pub const OVERFLOW: Self = Self(libc::FAN_Q_OVERFLOW);
    /// It is about a directory.
    pub const DIRECTORY: Self = Self(libc::FAN_ONDIR);
    /// Also what happens to the children of a marked directory.
    pub const ON_CHILD: Self = Self(libc::FAN_EVENT_ON_CHILD);

    /// Whether all of `other` is in it.
    #[must_use]
    pub fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether something of `other` is in it.
    #[must_use]
    pub fn intersects(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }
}

impl BitOr for Mask {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// A name in a directory. The name is `.` when it is about the directory itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry<'a> {
    /// The directory.
    pub directory: HandleRef<'a>,
    /// The name.
    pub name: &'a OsStr,
}

/// The process behind an event, as a descriptor that no other process can take over.
#[derive(Debug)]
pub enum Pidfd {
    /// It lived when the event was read.
    Open(OwnedFd),
    /// It had ended.
    Ended,
    /// The group does not report it, or there was no room for a descriptor.
    Absent,
}

/// One event.
#[derive(Debug)]
pub struct Event<'a> {
    /// What happened; several things when they happened to the same object one after the other.
    pub mask: Mask,
    /// The process, 0 when it is outside our process namespace.
    pub pid: i32,
    /// The process as a descriptor.
    pub pidfd: Pidfd,
    /// Where it happened.
    pub entry: Option<Entry<'a>>,
    /// What it happened to.
    pub target: Option<HandleRef<'a>>,
    /// The name before a rename.
    pub old: Option<Entry<'a>>,
    /// The name after a rename.
    pub new: Option<Entry<'a>>,
}

/// Bytes of `struct fanotify_event_metadata`.
const METADATA_BYTES: usize = 24;

/// Bytes before a handle's own: the record's head (4), the file system's id (8), length and kind (8).
const HANDLE_OFFSET: usize = 20;

/// Events of one read. What is not taken is closed when it is dropped.
#[derive(Debug)]
pub struct Events<'a> {
    rest: &'a [u8],
}

fn number<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at + N)?.try_into().ok()
}

/// The handle of a record, and what follows it.
fn handle(record: &[u8]) -> Option<(HandleRef<'_>, &[u8])> {
    let filesystem = FilesystemId(u64::from_ne_bytes(number(record, 4)?));
    let length = usize::try_from(u32::from_ne_bytes(number(record, 12)?)).ok()?;
    let kind = i32::from_ne_bytes(number(record, 16)?);
    let (bytes, rest) = record.get(HANDLE_OFFSET..)?.split_at_checked(length)?;
    Some((HandleRef { filesystem, kind, bytes }, rest))
}

/// A directory's handle with the name after it, which ends with a NUL.
fn entry(record: &[u8]) -> Option<Entry<'_>> {
    let (directory, rest) = handle(record)?;
    let end = rest.iter().position(|byte| *byte == 0)?;
    Some(Entry { directory, name: OsStr::from_bytes(&rest[..end]) })
}

impl<'a> Events<'a> {
    /// Events in bytes that fanotify gave just now: the descriptors in them are ours and still open.
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }
}

impl<'a> Iterator for Events<'a> {
    type Item = Event<'a>;

    fn next(&mut self) -> Option<Event<'a>> {
        let (event, descriptors, rest) = parse(self.rest)?;
        self.rest = rest;
        // We ask for no open files, and must not keep any either.
        drop(descriptors.file.map(sys::own));
        let pidfd = match descriptors.process {
            Process::Open(descriptor) => Pidfd::Open(sys::own(descriptor)),
            Process::Ended => Pidfd::Ended,
            Process::Absent => Pidfd::Absent,
        };
        Some(Event { pidfd, ..event })
    }
}

impl Drop for Events<'_> {
    fn drop(&mut self) {
        while self.next().is_some() {}
    }
}

/// The numbers of descriptors in an event.
#[derive(Debug, PartialEq, Eq)]
struct Descriptors {
    file: Option<i32>,
    process: Process,
}

#[derive(Debug, PartialEq, Eq)]
enum Process {
    Open(i32),
    Ended,
    Absent,
}

/// Reads the first event; `None` when there is no whole one.
fn parse(bytes: &[u8]) -> Option<(Event<'_>, Descriptors, &[u8])> {
    let length = usize::try_from(u32::from_ne_bytes(number(bytes, 0)?)).ok()?;
    let metadata_length = usize::from(u16::from_ne_bytes(number(bytes, 6)?));
    if metadata_length < METADATA_BYTES || length < metadata_length {
        return None;
    }
    let (bytes, rest) = bytes.split_at_checked(length)?;
    let file = i32::from_ne_bytes(number(bytes, 16)?);
    let mut descriptors = Descriptors { file: (file >= 0).then_some(file), process: Process::Absent };
    let mut event = Event {
        mask: Mask(u64::from_ne_bytes(number(bytes, 8)?)),
        pid: i32::from_ne_bytes(number(bytes, 20)?),
        pidfd: Pidfd::Absent,
        entry: None,
        target: None,
        old: None,
        new: None,
    };
    let mut records = &bytes[metadata_length..];
    while let Some(length) = number(records, 2).map(|bytes| usize::from(u16::from_ne_bytes(bytes))) {
        let Some((record, more)) = records.split_at_checked(length).filter(|_| length >= 4) else { break };
        records = more;
        match record[0] {
            libc::FAN_EVENT_INFO_TYPE_DFID_NAME => event.entry = entry(record),
            libc::FAN_EVENT_INFO_TYPE_DFID => {
                event.entry = handle(record).map(|(directory, _)| Entry { directory, name: OsStr::new(".") });
            }
            libc::FAN_EVENT_INFO_TYPE_FID => event.target = handle(record).map(|(handle, _)| handle),
            libc::FAN_EVENT_INFO_TYPE_OLD_DFID_NAME => event.old = entry(record),
            libc::FAN_EVENT_INFO_TYPE_NEW_DFID_NAME => event.new = entry(record),
            libc::FAN_EVENT_INFO_TYPE_PIDFD => {
                descriptors.process = match number(record, 4).map(i32::from_ne_bytes) {
                    Some(descriptor) if descriptor >= 0 => Process::Open(descriptor),
                    Some(libc::FAN_NOPIDFD) => Process::Ended,
                    _ => Process::Absent,
                };
            }
            // Those of later kernels.
            _ => {}
        }
    }
    Some((event, descriptors, rest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn record(kind: u8, content: &[u8]) -> Vec<u8> {
        let mut record = vec![kind, 0];
        let length = u16::try_from((content.len() + 4).next_multiple_of(4)).unwrap();
        record.extend(length.to_ne_bytes());
        record.extend(content);
        record.resize(usize::from(length), 0);
        record
    }

    fn named(name: &[u8]) -> Vec<u8> {
        let mut content = 77_u64.to_ne_bytes().to_vec();
        content.extend(8_u32.to_ne_bytes());
        content.extend(1_i32.to_ne_bytes());
        content.extend([5; 8]);
        content.extend(name);
        content.push(0);
        content
    }

    fn event(mask: u64, records: &[Vec<u8>]) -> Vec<u8> {
        let length = METADATA_BYTES + records.iter().map(Vec::len).sum::<usize>();
        let mut bytes = u32::try_from(length).unwrap().to_ne_bytes().to_vec();
        bytes.extend([3, 0]);
        bytes.extend((METADATA_BYTES as u16).to_ne_bytes());
        bytes.extend(mask.to_ne_bytes());
        bytes.extend((-1_i32).to_ne_bytes());
        bytes.extend(42_i32.to_ne_bytes());
        records.iter().for_each(|record| bytes.extend(record));
        bytes
    }

    #[test]
    fn names_handles_and_processes_are_read() {
        let rename = event(
            libc::FAN_RENAME,
            &[
                record(libc::FAN_EVENT_INFO_TYPE_OLD_DFID_NAME, &named(b"old")),
                record(libc::FAN_EVENT_INFO_TYPE_NEW_DFID_NAME, &named(b"new\xff")),
                record(libc::FAN_EVENT_INFO_TYPE_FID, &named(b"")),
                record(200, &[1, 2, 3]),
                record(libc::FAN_EVENT_INFO_TYPE_PIDFD, &libc::FAN_NOPIDFD.to_ne_bytes()),
            ],
        );

        let (event, descriptors, rest) = parse(&rename).unwrap();

        let name = |entry: Option<Entry<'_>>| entry.unwrap().name.as_bytes().to_vec();
        assert_eq!((name(event.old), name(event.new)), (b"old".to_vec(), b"new\xff".to_vec()));
        assert_eq!(event.target.unwrap().bytes, [5; 8]);
        assert_eq!(event.target.unwrap().filesystem, FilesystemId(77));
        assert_eq!((event.mask, event.pid), (Mask::RENAME, 42));
        assert_eq!(descriptors, Descriptors { file: None, process: Process::Ended });
        assert!(rest.is_empty());
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_reader_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            drop(parse(&bytes));
        }

        #[test]
        fn a_damaged_event_is_never_read_beyond_its_end(
            at in any::<prop::sample::Index>(), value in any::<u8>(), cut in any::<prop::sample::Index>(),
        ) {
            let mut bytes = event(libc::FAN_CREATE, &[
                record(libc::FAN_EVENT_INFO_TYPE_DFID_NAME, &named(b"name")),
                record(libc::FAN_EVENT_INFO_TYPE_PIDFD, &7_i32.to_ne_bytes()),
            ]);
            let at = at.index(bytes.len());
            bytes[at] = value;
            let cut = cut.index(bytes.len() + 1);
            drop(parse(&bytes[..cut]));
            drop(parse(&bytes));
        }
    }
}
