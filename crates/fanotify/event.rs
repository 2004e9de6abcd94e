//! Parses what the kernel writes for an event: a header, then records.
//!
//! Formats: fanotify(7), include/uapi/linux/fanotify.h. All numbers are in the machine's byte order. Nothing is
//! believed: a length that does not fit is [`Malformed`], and what is of an unknown type is passed over.

use std::ffi::OsStr;
use std::os::fd::{OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;

use crate::handle::{FilesystemId, HandleRef};
use crate::mask::Mask;
use crate::sys::MAX_HANDLE_BYTES;

/// Bytes of `struct fanotify_event_metadata`.
const HEADER_BYTES: usize = 24;
/// Bytes of `struct fanotify_event_info_header`.
const RECORD_HEADER_BYTES: usize = 4;

/// Something that happened. `D` stands for an open descriptor.
#[derive(Debug, PartialEq, Eq)]
pub struct Event<'a, D = OwnedFd> {
    /// What happened; several things at once where the kernel merged events of the same process, object and name.
    pub mask: Mask,
    /// The process that did it; 0 when it is of a pid namespace that is not ours, or the kernel itself.
    pub pid: i32,
    /// The same process by descriptor.
    pub pidfd: Pidfd<D>,
    /// The name that it happened to and the directory that the name is in.
    pub directory: Option<Entry<'a>>,
    /// The object that it happened to.
    pub target: Option<HandleRef<'a>>,
    /// With [`Mask::RENAME`]: the name before. Missing when only the new directory is marked.
    pub old: Option<Entry<'a>>,
    /// With [`Mask::RENAME`]: the name after. Missing when only the old directory is marked.
    pub new: Option<Entry<'a>>,
    /// With [`Mask::FS_ERROR`]: what the file system found.
    pub error: Option<FilesystemError>,
}

/// A name in a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Entry<'a> {
    /// The directory.
    pub directory: HandleRef<'a>,
    /// One component of a path, any bytes but `/` and zero. `.` is the directory itself; empty when the kernel
    /// gave no name.
    pub name: &'a OsStr,
}

/// The process that caused an event, by descriptor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pidfd<D = OwnedFd> {
    /// Refers to the process, also when its number is given to another one.
    Open(D),
    /// It had ended, and its parent had noticed, before the event was read; or it is of a pid namespace that is not
    /// ours.
    Ended,
    /// The kernel could not make the descriptor, mostly because too many files are open.
    Failed,
    /// Not asked for ([`crate::Options::pidfd`]), or it is not about a process.
    NotReported,
}

/// What a file system found to be wrong with itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FilesystemError {
    /// The number of the first error since the last event (errno(3)).
    pub code: i32,
    /// Errors since the last event.
    pub count: u32,
}

/// Why an event cannot be understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// The rest of what was read cannot be understood either.
    #[error(
        "the kernel uses version {found} of the fanotify format instead of {}",
        libc::FANOTIFY_METADATA_VERSION
    )]
    Version {
        /// The kernel's version.
        found: u8,
    },
    /// The rest of what was read cannot be understood either.
    #[error("a fanotify event exceeds the {left} bytes that were read")]
    Length {
        /// Bytes from the beginning of the event.
        left: usize,
    },
    /// The events that follow can be understood.
    #[error("a record of type {kind} in a fanotify event is malformed")]
    Record {
        /// `FAN_EVENT_INFO_TYPE_…`, 0 when it is unknown.
        kind: u8,
    },
}

/// Takes the next event from what was read; `None` at the end.
///
/// `adopt` gets each descriptor of a well-formed header or record once, and what it makes of it is kept in the event
/// or dropped.
pub(crate) fn next<'a, D>(
    bytes: &mut &'a [u8],
    adopt: impl Fn(RawFd) -> D,
) -> Option<Result<Event<'a, D>, Malformed>> {
    if bytes.is_empty() {
        return None;
    }
    let (header, records) = match split(bytes) {
        Ok((header, records, rest)) => {
            *bytes = rest;
            (header, records)
        }
        Err(malformed) => {
            *bytes = &[];
            return Some(Err(malformed));
        }
    };
    // Set only in groups that ask for open files instead of handles.
    if header.descriptor >= 0 {
        drop(adopt(header.descriptor));
    }
    Some(parse_records(&header, records, adopt))
}

struct Header {
    mask: u64,
    descriptor: i32,
    pid: i32,
}

/// Splits what was read into the next event's header, its records, and what follows the event.
fn split(bytes: &[u8]) -> Result<(Header, &[u8], &[u8]), Malformed> {
    let malformed = Malformed::Length { left: bytes.len() };
    let mut fields = Fields(bytes);
    let mut start = || Some((fields.u32()?, fields.u8()?, fields.u8()?, fields.u16()?));
    let (length, version, _reserved, header_length) = start().ok_or(malformed)?;
    if version != libc::FANOTIFY_METADATA_VERSION {
        return Err(Malformed::Version { found: version });
    }
    let mut rest = || Some(Header { mask: fields.u64()?, descriptor: fields.i32()?, pid: fields.i32()? });
    let header = rest().ok_or(malformed)?;

    // A newer kernel may have a longer header.
    let header_length = usize::from(header_length);
    if header_length < HEADER_BYTES {
        return Err(malformed);
    }
    let (event, following) =
        usize::try_from(length).ok().and_then(|length| bytes.split_at_checked(length)).ok_or(malformed)?;
    let records = event.get(header_length..).ok_or(malformed)?;
    Ok((header, records, following))
}

fn parse_records<'a, D>(
    header: &Header,
    mut records: &'a [u8],
    adopt: impl Fn(RawFd) -> D,
) -> Result<Event<'a, D>, Malformed> {
    let mut event = Event {
        mask: Mask::from_bits_retain(header.mask),
        pid: header.pid,
        pidfd: Pidfd::NotReported,
        directory: None,
        target: None,
        old: None,
        new: None,
        error: None,
    };
    while !records.is_empty() {
        let (kind, body, rest) = split_record(records).ok_or(Malformed::Record { kind: 0 })?;
        records = rest;
        let malformed = Malformed::Record { kind };
        let mut fields = Fields(body);
        match kind {
            libc::FAN_EVENT_INFO_TYPE_FID => event.target = Some(fields.handle().ok_or(malformed)?),
            libc::FAN_EVENT_INFO_TYPE_DFID => {
                let directory = fields.handle().ok_or(malformed)?;
                event.directory = Some(Entry { directory, name: OsStr::new("") });
            }
            libc::FAN_EVENT_INFO_TYPE_DFID_NAME => event.directory = Some(fields.entry().ok_or(malformed)?),
            libc::FAN_EVENT_INFO_TYPE_OLD_DFID_NAME => event.old = Some(fields.entry().ok_or(malformed)?),
            libc::FAN_EVENT_INFO_TYPE_NEW_DFID_NAME => event.new = Some(fields.entry().ok_or(malformed)?),
            libc::FAN_EVENT_INFO_TYPE_PIDFD => {
                event.pidfd = match fields.i32().ok_or(malformed)? {
                    number @ 0.. => Pidfd::Open(adopt(number)),
                    libc::FAN_NOPIDFD => Pidfd::Ended,
                    _ => Pidfd::Failed,
                };
            }
            libc::FAN_EVENT_INFO_TYPE_ERROR => {
                let mut error = || Some(FilesystemError { code: fields.i32()?, count: fields.u32()? });
                event.error = Some(error().ok_or(malformed)?);
            }
            _ => {}
        }
    }
    Ok(event)
}

/// Splits records into the first one's type and body, and what follows it.
fn split_record(records: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let mut fields = Fields(records);
    let (kind, _padding, length) = (fields.u8()?, fields.u8()?, fields.u16()?);
    // The length counts the record's header, and padding to a multiple of four bytes.
    let (record, rest) = records.split_at_checked(usize::from(length))?;
    Some((kind, record.get(RECORD_HEADER_BYTES..)?, rest))
}

/// Takes numbers and more from the front of bytes.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (array, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*array)
    }

    fn u8(&mut self) -> Option<u8> {
        self.array().map(u8::from_ne_bytes)
    }

    fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_ne_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_ne_bytes)
    }

    fn i32(&mut self) -> Option<i32> {
        self.array().map(i32::from_ne_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_ne_bytes)
    }

    /// `__kernel_fsid_t`, then `struct file_handle`.
    fn handle(&mut self) -> Option<HandleRef<'a>> {
        let filesystem = FilesystemId::from_words([self.u32()?, self.u32()?]);
        let length = usize::try_from(self.u32()?).ok().filter(|length| *length <= MAX_HANDLE_BYTES)?;
        let kind = self.i32()?;
        let (bytes, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(HandleRef { filesystem, kind, bytes })
    }

    /// A handle, then a name that ends with a zero.
    fn entry(&mut self) -> Option<Entry<'a>> {
        let directory = self.handle()?;
        let end = self.0.iter().position(|byte| *byte == 0)?;
        let name = OsStr::from_bytes(self.0.get(..end)?);
        Some(Entry { directory, name })
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use proptest::prelude::*;

    use super::*;
    use crate::handle::Handle;

    /// What an event is made of, owned.
    #[derive(Debug, Clone)]
    struct Model {
        mask: u64,
        descriptor: i32,
        pid: i32,
        pidfd: Option<i32>,
        directory: Option<(Handle, Vec<u8>)>,
        target: Option<Handle>,
        old: Option<(Handle, Vec<u8>)>,
        new: Option<(Handle, Vec<u8>)>,
        error: Option<(i32, u32)>,
        unknown: Option<Vec<u8>>,
    }

    impl Model {
        fn encode(&self) -> Vec<u8> {
            let mut records = Vec::new();
            let entries = [
                (libc::FAN_EVENT_INFO_TYPE_DFID_NAME, &self.directory),
                (libc::FAN_EVENT_INFO_TYPE_OLD_DFID_NAME, &self.old),
                (libc::FAN_EVENT_INFO_TYPE_NEW_DFID_NAME, &self.new),
            ];
            for (kind, entry) in entries {
                if let Some((directory, name)) = entry {
                    let body = [&encode_handle(directory), &name[..], &[0]].concat();
                    records.extend(encode_record(kind, &body));
                }
            }
            if let Some(unknown) = &self.unknown {
                records.extend(encode_record(200, unknown));
            }
            if let Some(target) = &self.target {
                records.extend(encode_record(libc::FAN_EVENT_INFO_TYPE_FID, &encode_handle(target)));
            }
            if let Some(pidfd) = self.pidfd {
                records.extend(encode_record(libc::FAN_EVENT_INFO_TYPE_PIDFD, &pidfd.to_ne_bytes()));
            }
            if let Some((code, count)) = self.error {
                let body = [code.to_ne_bytes(), count.to_ne_bytes()].concat();
                records.extend(encode_record(libc::FAN_EVENT_INFO_TYPE_ERROR, &body));
            }
            self.encode_with(&records)
        }

        fn encode_with(&self, records: &[u8]) -> Vec<u8> {
            let length = u32::try_from(HEADER_BYTES + records.len()).unwrap();
            let mut bytes = length.to_ne_bytes().to_vec();
            bytes.extend([libc::FANOTIFY_METADATA_VERSION, 0]);
            bytes.extend(u16::try_from(HEADER_BYTES).unwrap().to_ne_bytes());
            bytes.extend(self.mask.to_ne_bytes());
            bytes.extend(self.descriptor.to_ne_bytes());
            bytes.extend(self.pid.to_ne_bytes());
            bytes.extend(records);
            bytes
        }

        fn event(&self) -> Event<'_, RawFd> {
            Event {
                mask: Mask::from_bits_retain(self.mask),
                pid: self.pid,
                pidfd: match self.pidfd {
                    None => Pidfd::NotReported,
                    Some(-1) => Pidfd::Ended,
                    Some(number) if number < 0 => Pidfd::Failed,
                    Some(number) => Pidfd::Open(number),
                },
                directory: borrow(&self.directory),
                target: self.target.as_ref().map(Handle::as_handle_ref),
                old: borrow(&self.old),
                new: borrow(&self.new),
                error: self.error.map(|(code, count)| FilesystemError { code, count }),
            }
        }
    }

    fn borrow(entry: &Option<(Handle, Vec<u8>)>) -> Option<Entry<'_>> {
        let (directory, name) = entry.as_ref()?;
        Some(Entry { directory: directory.as_handle_ref(), name: OsStr::from_bytes(name) })
    }

    fn encode_handle(handle: &Handle) -> Vec<u8> {
        let HandleRef { filesystem, kind, bytes } = handle.as_handle_ref();
        let mut encoded: Vec<u8> = filesystem.words().into_iter().flat_map(u32::to_ne_bytes).collect();
        encoded.extend(u32::try_from(bytes.len()).unwrap().to_ne_bytes());
        encoded.extend(kind.to_ne_bytes());
        encoded.extend(bytes);
        encoded
    }

    fn encode_record(kind: u8, body: &[u8]) -> Vec<u8> {
        let length = (RECORD_HEADER_BYTES + body.len()).next_multiple_of(4);
        let mut record = vec![kind, 0];
        record.extend(u16::try_from(length).unwrap().to_ne_bytes());
        record.extend(body);
        record.resize(length, 0);
        record
    }

    fn handles() -> impl Strategy<Value = Handle> {
        (any::<[u32; 2]>(), any::<i32>(), proptest::collection::vec(any::<u8>(), 0..=MAX_HANDLE_BYTES))
            .prop_map(|(words, kind, bytes)| {
                Handle::from(HandleRef { filesystem: FilesystemId::from_words(words), kind, bytes: &bytes })
            })
    }

    fn entries() -> impl Strategy<Value = (Handle, Vec<u8>)> {
        (handles(), proptest::collection::vec(1..=u8::MAX, 0..256))
    }

    fn models() -> impl Strategy<Value = Model> {
        use proptest::option::of;
        let numbers = (any::<u64>(), -1..5_i32, any::<i32>(), of(-3..5_i32), of(any::<(i32, u32)>()));
        let handles = (of(entries()), of(handles()), of(entries()), of(entries()));
        let unknown = of(proptest::collection::vec(any::<u8>(), 0..20));
        (numbers, handles, unknown).prop_map(
            |((mask, descriptor, pid, pidfd, error), (directory, target, old, new), unknown)| Model {
                mask,
                descriptor,
                pid,
                pidfd,
                directory,
                target,
                old,
                new,
                error,
                unknown,
            },
        )
    }

    /// What the parser makes of bytes, and the descriptors that it took.
    fn parse(mut bytes: &[u8]) -> (Vec<Result<Event<'_, RawFd>, Malformed>>, Vec<RawFd>) {
        let adopted = RefCell::new(Vec::new());
        let adopt = |number| {
            adopted.borrow_mut().push(number);
            number
        };
        let events = std::iter::from_fn(|| next(&mut bytes, adopt)).collect();
        (events, adopted.into_inner())
    }

    /// The descriptors of events that are whole: the header's, then the process's.
    fn descriptors(models: &[Model]) -> Vec<RawFd> {
        models
            .iter()
            .flat_map(|model| [Some(model.descriptor), model.pidfd])
            .flatten()
            .filter(|number| *number >= 0)
            .collect()
    }

    fn plain() -> Model {
        Model {
            mask: libc::FAN_CREATE,
            descriptor: -1,
            pid: 7,
            pidfd: None,
            directory: None,
            target: None,
            old: None,
            new: None,
            error: None,
            unknown: None,
        }
    }

    #[test]
    fn a_record_that_is_broken_costs_its_own_event_only() {
        let good = plain();
        let broken_records: [&[u8]; 5] = [
            // Shorter than a record's header, by what there is and by what it says.
            &[4, 0, 8],
            &[4, 0, 3, 0],
            // Longer than the event.
            &[4, 0, 12, 0, 1, 0, 0, 0],
            // No room for the descriptor.
            &[4, 0, 6, 0, 1, 0],
            // A handle without an end.
            &[1, 0, 8, 0, 1, 0, 0, 0],
        ];
        for records in broken_records {
            let bytes = [good.encode(), good.encode_with(records), good.encode()].concat();

            let (events, adopted) = parse(&bytes);

            assert_eq!(events.len(), 3, "{records:?}");
            assert_eq!(events[0], Ok(good.event()));
            assert!(matches!(events[1], Err(Malformed::Record { .. })), "{records:?}");
            assert_eq!(events[2], Ok(good.event()));
            assert_eq!(adopted, []);
        }
    }

    #[test]
    fn a_name_without_an_end_and_a_handle_beyond_the_limit_are_broken() {
        let handle = |length: usize| {
            let bytes = vec![1; length];
            let filesystem = FilesystemId::from_words([1, 2]);
            encode_handle(&Handle::from(HandleRef { filesystem, kind: 1, bytes: &bytes }))
        };
        let endless = [&handle(8)[..], b"name"].concat();
        for (kind, body) in
            [(libc::FAN_EVENT_INFO_TYPE_DFID_NAME, endless), (1, handle(MAX_HANDLE_BYTES + 4))]
        {
            let bytes = plain().encode_with(&encode_record(kind, &body));

            assert_eq!(parse(&bytes).0, [Err(Malformed::Record { kind })]);
        }
    }

    #[test]
    fn another_version_or_a_length_that_does_not_fit_ends_the_reading() {
        let good = plain().encode();
        let changed = |at: usize, to: u8| {
            let mut bytes = good.clone();
            bytes[at] = to;
            [bytes, good.clone()].concat()
        };
        let length = Malformed::Length { left: 2 * HEADER_BYTES };

        assert_eq!(parse(&changed(4, 4)).0, [Err(Malformed::Version { found: 4 })]);
        // An event that is longer than what was read, or shorter than its header, and a header that is too short.
        assert_eq!(parse(&changed(1, 1)).0, [Err(length)]);
        assert_eq!(parse(&changed(0, 23)).0, [Err(length)]);
        assert_eq!(parse(&changed(6, 23)).0, [Err(length)]);
        // A header that is longer than the event.
        assert_eq!(parse(&changed(6, 25)).0, [Err(length)]);
    }

    #[test]
    fn a_directory_without_a_name_has_an_empty_one() {
        let directory = Handle::from(HandleRef {
            filesystem: FilesystemId::from_words([1, 2]),
            kind: 1,
            bytes: &[1, 2, 3, 4],
        });
        let bytes =
            plain().encode_with(&encode_record(libc::FAN_EVENT_INFO_TYPE_DFID, &encode_handle(&directory)));

        let (events, _) = parse(&bytes);

        let expected = Entry { directory: directory.as_handle_ref(), name: OsStr::new("") };
        assert_eq!(events[0].as_ref().unwrap().directory, Some(expected));
    }

    proptest! {
        #[test]
        fn events_are_read_as_they_were_written(models in proptest::collection::vec(models(), 0..5)) {
            let bytes: Vec<u8> = models.iter().flat_map(Model::encode).collect();

            let (events, adopted) = parse(&bytes);

            let expected: Vec<_> = models.iter().map(|model| Ok(model.event())).collect();
            prop_assert_eq!(events, expected);
            prop_assert_eq!(adopted, descriptors(&models));
        }

        #[test]
        fn a_header_may_grow(model in models(), extra in proptest::collection::vec(any::<u8>(), 0..20)) {
            let mut bytes = model.encode();
            bytes.splice(HEADER_BYTES..HEADER_BYTES, extra.clone());
            let length = u32::try_from(bytes.len()).unwrap();
            bytes[..4].copy_from_slice(&length.to_ne_bytes());
            let header_length = u16::try_from(HEADER_BYTES + extra.len()).unwrap();
            bytes[6..8].copy_from_slice(&header_length.to_ne_bytes());

            prop_assert_eq!(parse(&bytes).0, [Ok(model.event())]);
        }

        #[test]
        fn any_bytes_are_read_to_an_end(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let (events, _) = parse(&bytes);

            prop_assert!(events.len() <= bytes.len() / HEADER_BYTES + 1);
        }

        #[test]
        fn damaged_bytes_are_read_to_an_end(
            models in proptest::collection::vec(models(), 1..4),
            damages in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
            end in any::<prop::sample::Index>(),
        ) {
            let mut bytes: Vec<u8> = models.iter().flat_map(Model::encode).collect();
            for (at, to) in damages {
                let at = at.index(bytes.len());
                bytes[at] = to;
            }
            bytes.truncate(end.index(bytes.len() + 1));

            let (events, _) = parse(&bytes);

            prop_assert!(events.len() <= bytes.len() / HEADER_BYTES + 1);
        }

        #[test]
        fn what_comes_before_the_damage_is_read(model in models(), cut in any::<prop::sample::Index>()) {
            let whole = model.encode();
            let cut = cut.index(whole.len());
            let bytes = [&whole[..], &whole[..cut]].concat();

            let (events, adopted) = parse(&bytes);

            prop_assert_eq!(&events[0], &Ok(model.event()));
            let broken: &[_] = if cut == 0 { &[] } else { &[Err(Malformed::Length { left: cut })] };
            prop_assert_eq!(&events[1..], broken);
            prop_assert_eq!(adopted, descriptors(&[model]));
        }
    }
}
