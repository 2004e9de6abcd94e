//! How a known object becomes bytes, in memory and in the store: small, because a host has a million of them.
//!
//! Numbers are variable-length (7 bits in a byte, the highest bit says that more follow), as in LEB128. What most
//! objects share — the device, the set of extended attributes — is in [`Tables`], and an object names its place there.
//! The number of sets there is limited: any other set stands in the record of its object, and goes with it.

use std::collections::HashMap;
use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use crate::extended::ExtendedAttributes;
use crate::object::{Content, Kind, LongTarget, NotRead, Object, Timestamp};

/// Bytes that are no object, or end before it does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the record has a format that this version does not know")]
pub struct Malformed;

const KINDS: [Kind; 7] = [
    Kind::File,
    Kind::Directory,
    Kind::Link,
    Kind::Fifo,
    Kind::Socket,
    Kind::CharacterDevice,
    Kind::BlockDevice,
];

/// What the first byte says beside the kind.
const SAME_TIMES: u8 = 0x08;
const HAS_EXTENDED: u8 = 0x10;
const HAS_FLAGS: u8 = 0x20;
const MANY_LINKS: u8 = 0x40;
/// The extended attributes are in the record itself.
const INLINE_EXTENDED: u8 = 0x80;

/// Most sets of extended attributes in the tables, and the longest of them, in bytes. A host with SELinux has some
/// hundred labels. Whoever fills the tables with others costs no more than that: 1 MiB.
///
/// A store is read as it was written, step by step: with other numbers here it would need another format.
const MOST_SETS: usize = 4096;
const LONGEST_SET: usize = 256;

const CONTENT_NONE: u8 = 0;
const CONTENT_DIGEST: u8 = 1;
const CONTENT_TARGET: u8 = 2;
const CONTENT_METADATA_ONLY: u8 = 3;
const CONTENT_TOO_LARGE: u8 = 4;
const CONTENT_OPEN_FOR_WRITING: u8 = 5;
const CONTENT_FAILED: u8 = 6;
const CONTENT_SPARSE: u8 = 7;
const CONTENT_BEING_READ: u8 = 8;
const CONTENT_UNKNOWN: u8 = 9;
const CONTENT_LONG_TARGET: u8 = 10;

/// Appends a number.
pub(crate) fn put_number(buffer: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        buffer.push(number as u8 | 0x80);
        number >>= 7;
    }
    buffer.push(number as u8);
}

/// Appends bytes with their length.
pub fn put_bytes(buffer: &mut Vec<u8>, bytes: &[u8]) {
    put_number(buffer, bytes.len() as u64);
    buffer.extend_from_slice(bytes);
}

/// Reads what was put, from the beginning on.
#[derive(Debug, Clone, Copy)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Reads these bytes.
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// What is left.
    #[must_use]
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// Whether nothing is left.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// One byte.
    ///
    /// # Errors
    /// When nothing is left.
    pub fn byte(&mut self) -> Result<u8, Malformed> {
        let (first, rest) = self.rest.split_first().ok_or(Malformed)?;
        self.rest = rest;
        Ok(*first)
    }

    /// So many bytes.
    ///
    /// # Errors
    /// When fewer are left.
    pub fn take(&mut self, length: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.rest.split_at_checked(length).ok_or(Malformed)?;
        self.rest = rest;
        Ok(taken)
    }

    /// A number.
    ///
    /// # Errors
    /// When it does not end, or needs more than 64 bits.
    pub fn number(&mut self) -> Result<u64, Malformed> {
        let mut number = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            if bits << shift >> shift != bits {
                return Err(Malformed);
            }
            number |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(number);
            }
        }
        Err(Malformed)
    }

    /// A number of a smaller type.
    ///
    /// # Errors
    /// When it is no number, or too large.
    pub(crate) fn number_as<T: TryFrom<u64>>(&mut self) -> Result<T, Malformed> {
        T::try_from(self.number()?).map_err(|_| Malformed)
    }

    /// Bytes that were put with their length.
    ///
    /// # Errors
    /// When fewer are left.
    pub fn bytes(&mut self) -> Result<&'a [u8], Malformed> {
        let length = self.number_as::<usize>()?;
        self.take(length)
    }
}

/// What objects share. Places never change, so that what was encoded once stays readable.
#[derive(Debug, Clone, Default)]
pub struct Tables {
    devices: Vec<u64>,
    extended: Vec<ExtendedAttributes>,
    places: HashMap<ExtendedAttributes, usize>,
}

impl Tables {
    /// How many devices and sets of extended attributes there are.
    #[must_use]
    pub fn size(&self) -> (usize, usize) {
        (self.devices.len(), self.extended.len())
    }

    /// Bytes of all sets of extended attributes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.extended.iter().map(|set| set.as_bytes().len()).sum()
    }

    fn device(&mut self, device: u64) -> usize {
        // Few file systems: the search is shorter than a hash.
        self.devices.iter().position(|known| *known == device).unwrap_or_else(|| {
            self.devices.push(device);
            self.devices.len() - 1
        })
    }

    /// The place of a set; `None` when there is none for it.
    fn extended(&mut self, attributes: &ExtendedAttributes) -> Option<usize> {
        if let Some(place) = self.places.get(attributes) {
            return Some(*place);
        }
        if self.extended.len() >= MOST_SETS || attributes.as_bytes().len() > LONGEST_SET {
            return None;
        }
        self.push(attributes.clone());
        Some(self.extended.len() - 1)
    }

    fn push(&mut self, attributes: ExtendedAttributes) {
        self.places.insert(attributes.clone(), self.extended.len());
        self.extended.push(attributes);
    }

    /// Writes what came after these sizes.
    #[must_use]
    pub(crate) fn encode_from(&self, (devices, extended): (usize, usize)) -> Vec<u8> {
        let mut buffer = Vec::new();
        let new_devices = self.devices.get(devices..).unwrap_or_default();
        let new_extended = self.extended.get(extended..).unwrap_or_default();
        put_number(&mut buffer, new_devices.len() as u64);
        for device in new_devices {
            put_number(&mut buffer, *device);
        }
        put_number(&mut buffer, new_extended.len() as u64);
        for set in new_extended {
            put_bytes(&mut buffer, set.as_bytes());
        }
        buffer
    }

    /// Adds what `Tables::encode_from` wrote.
    ///
    /// # Errors
    /// When it is something else.
    pub fn add(&mut self, bytes: &[u8]) -> Result<(), Malformed> {
        self.add_sets(bytes, |reader| ExtendedAttributes::from_bytes(reader.bytes()?))
    }

    /// The same of an earlier version, which wrote all attributes with their values.
    ///
    /// # Errors
    /// As there.
    pub(crate) fn add_whole_values(&mut self, bytes: &[u8]) -> Result<(), Malformed> {
        self.add_sets(bytes, |reader| {
            let mut set = Vec::new();
            for _ in 0..reader.number()? {
                set.push((reader.bytes()?, reader.bytes()?));
            }
            Ok(ExtendedAttributes::new(set))
        })
    }

    fn add_sets<'a>(
        &mut self,
        bytes: &'a [u8],
        set: impl Fn(&mut Reader<'a>) -> Result<ExtendedAttributes, Malformed>,
    ) -> Result<(), Malformed> {
        let mut reader = Reader::new(bytes);
        for _ in 0..reader.number()? {
            self.devices.push(reader.number()?);
        }
        for _ in 0..reader.number()? {
            let set = set(&mut reader)?;
            self.push(set);
        }
        if reader.is_empty() { Ok(()) } else { Err(Malformed) }
    }

    /// Appends an object.
    pub fn encode(&mut self, object: &Object, buffer: &mut Vec<u8>) {
        let kind = KINDS.iter().position(|kind| *kind == object.kind).unwrap_or_default() as u8;
        let usual_links = u32::from(object.kind != Kind::Directory);
        let mut head = kind;
        let mark = |condition, bit| if condition { bit } else { 0 };
        head |= mark(object.modified == object.changed, SAME_TIMES);
        let place = if object.extended.is_empty() { None } else { Some(self.extended(&object.extended)) };
        head |= match place {
            None => 0,
            Some(Some(_)) => HAS_EXTENDED,
            Some(None) => INLINE_EXTENDED,
        };
        head |= mark(object.flags != 0, HAS_FLAGS);
        head |= mark(object.links != usual_links, MANY_LINKS);
        buffer.push(head);
        put_number(buffer, u64::from(object.permissions));
        put_number(buffer, u64::from(object.owner));
        put_number(buffer, u64::from(object.group));
        put_number(buffer, object.size);
        put_time(buffer, object.modified);
        if head & SAME_TIMES == 0 {
            put_time(buffer, object.changed);
        }
        let device = self.device(object.device) as u64;
        put_number(buffer, device);
        put_number(buffer, object.inode);
        if head & MANY_LINKS != 0 {
            put_number(buffer, u64::from(object.links));
        }
        if matches!(object.kind, Kind::CharacterDevice | Kind::BlockDevice) {
            put_number(buffer, object.special);
        }
        if head & HAS_FLAGS != 0 {
            put_number(buffer, u64::from(object.flags));
        }
        match place {
            None => {}
            Some(Some(place)) => put_number(buffer, place as u64),
            Some(None) => put_bytes(buffer, object.extended.as_bytes()),
        }
        put_content(&object.content, buffer);
    }

    /// Reads an object.
    ///
    /// # Errors
    /// When the bytes are none, or name a place that the tables do not have.
    pub fn decode(&self, reader: &mut Reader<'_>) -> Result<Object, Malformed> {
        let head = reader.byte()?;
        let kind = *KINDS.get(usize::from(head & 0x07)).ok_or(Malformed)?;
        if head & HAS_EXTENDED != 0 && head & INLINE_EXTENDED != 0 {
            return Err(Malformed);
        }
        let permissions = reader.number_as()?;
        let owner = reader.number_as()?;
        let group = reader.number_as()?;
        let size = reader.number()?;
        let modified = time(reader)?;
        let changed = if head & SAME_TIMES != 0 { modified } else { time(reader)? };
        let device = *self.devices.get(reader.number_as::<usize>()?).ok_or(Malformed)?;
        let inode = reader.number()?;
        let usual_links = u32::from(kind != Kind::Directory);
        let links = if head & MANY_LINKS != 0 { reader.number_as()? } else { usual_links };
        let is_device = matches!(kind, Kind::CharacterDevice | Kind::BlockDevice);
        let special = if is_device { reader.number()? } else { 0 };
        let flags = if head & HAS_FLAGS != 0 { reader.number_as()? } else { 0 };
        let extended = if head & HAS_EXTENDED != 0 {
            let place = reader.number_as::<usize>()?;
            self.extended.get(place).ok_or(Malformed)?.clone()
        } else if head & INLINE_EXTENDED != 0 {
            ExtendedAttributes::from_bytes(reader.bytes()?)?
        } else {
            ExtendedAttributes::none()
        };
        let content = content(reader, false)?;
        Ok(Object {
            kind,
            permissions,
            owner,
            group,
            size,
            modified,
            changed,
            device,
            inode,
            links,
            special,
            flags,
            content,
            extended,
        })
    }
}

fn put_content(content: &Content, buffer: &mut Vec<u8>) {
    match content {
        Content::None => buffer.push(CONTENT_NONE),
        Content::Digest(digest) => {
            buffer.push(CONTENT_DIGEST);
            buffer.extend_from_slice(digest);
        }
        Content::Sparse(digest) => {
            buffer.push(CONTENT_SPARSE);
            buffer.extend_from_slice(digest);
        }
        Content::Target(target) => {
            buffer.push(CONTENT_TARGET);
            put_bytes(buffer, target.as_os_str().as_bytes());
        }
        Content::LongTarget(target) => {
            buffer.push(CONTENT_LONG_TARGET);
            put_bytes(buffer, target.beginning.as_os_str().as_bytes());
            put_number(buffer, target.length);
            buffer.extend_from_slice(&target.sha256);
        }
        Content::NotRead(NotRead::MetadataOnly) => buffer.push(CONTENT_METADATA_ONLY),
        Content::NotRead(NotRead::TooLarge) => buffer.push(CONTENT_TOO_LARGE),
        Content::NotRead(NotRead::OpenForWriting) => buffer.push(CONTENT_OPEN_FOR_WRITING),
        Content::NotRead(NotRead::BeingRead) => buffer.push(CONTENT_BEING_READ),
        Content::NotRead(NotRead::Failed(number)) => {
            buffer.push(CONTENT_FAILED);
            put_number(buffer, u64::from(number.unsigned_abs()));
        }
        Content::Unknown { last, why } => {
            buffer.push(CONTENT_UNKNOWN);
            put_content(&Content::NotRead(*why), buffer);
            put_content(last, buffer);
        }
    }
}

/// Reads a content; `inner` when it is a part of another one, which cannot have parts itself.
fn content(reader: &mut Reader<'_>, inner: bool) -> Result<Content, Malformed> {
    let digest = |reader: &mut Reader<'_>| reader.take(32)?.try_into().map_err(|_| Malformed);
    Ok(match reader.byte()? {
        CONTENT_NONE => Content::None,
        CONTENT_DIGEST => Content::Digest(digest(reader)?),
        CONTENT_SPARSE => Content::Sparse(digest(reader)?),
        // An earlier version wrote long ones as well.
        CONTENT_TARGET => Content::target(reader.bytes()?.to_vec()),
        CONTENT_LONG_TARGET => Content::LongTarget(Box::new(LongTarget {
            beginning: PathBuf::from(OsString::from_vec(reader.bytes()?.to_vec())),
            length: reader.number()?,
            sha256: digest(reader)?,
        })),
        CONTENT_METADATA_ONLY => Content::NotRead(NotRead::MetadataOnly),
        CONTENT_TOO_LARGE => Content::NotRead(NotRead::TooLarge),
        CONTENT_OPEN_FOR_WRITING => Content::NotRead(NotRead::OpenForWriting),
        CONTENT_BEING_READ => Content::NotRead(NotRead::BeingRead),
        CONTENT_FAILED => Content::NotRead(NotRead::Failed(reader.number_as()?)),
        CONTENT_UNKNOWN if !inner => {
            let why = content(reader, true)?.not_read().ok_or(Malformed)?;
            let last = content(reader, true)?;
            last.last_read().ok_or(Malformed)?;
            Content::Unknown { last: Box::new(last), why }
        }
        _ => return Err(Malformed),
    })
}

fn put_time(buffer: &mut Vec<u8>, time: Timestamp) {
    // Zigzag: times before 1970 stay short as well.
    put_number(buffer, ((time.seconds << 1) ^ (time.seconds >> 63)).cast_unsigned());
    put_number(buffer, u64::from(time.nanoseconds));
}

fn time(reader: &mut Reader<'_>) -> Result<Timestamp, Malformed> {
    let zigzag = reader.number()?;
    let seconds = (zigzag >> 1).cast_signed() ^ -((zigzag & 1).cast_signed());
    Ok(Timestamp { seconds, nanoseconds: reader.number_as()? })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    fn content(kind: Kind) -> BoxedStrategy<Content> {
        match kind {
            Kind::File => prop_oneof![
                any::<[u8; 32]>().prop_map(Content::Digest),
                any::<[u8; 32]>().prop_map(Content::Sparse),
                any::<[u8; 32]>().prop_map(|last| Content::Unknown {
                    last: Box::new(Content::Digest(last)),
                    why: NotRead::Failed(11),
                }),
                Just(Content::NotRead(NotRead::BeingRead)),
                Just(Content::NotRead(NotRead::MetadataOnly)),
                Just(Content::NotRead(NotRead::TooLarge)),
                Just(Content::NotRead(NotRead::OpenForWriting)),
                (0..200_i32).prop_map(|number| Content::NotRead(NotRead::Failed(number))),
            ]
            .boxed(),
            Kind::Link => prop_oneof![3 => 1..40_usize, 1 => 200..4_000_usize]
                .prop_flat_map(|length| proptest::collection::vec(1..=255_u8, length))
                .prop_map(Content::target)
                .boxed(),
            _ => Just(Content::None).boxed(),
        }
    }

    fn timestamp() -> impl Strategy<Value = Timestamp> {
        (any::<i64>(), 0..1_000_000_000_u32)
            .prop_map(|(seconds, nanoseconds)| Timestamp { seconds, nanoseconds })
    }

    pub(crate) fn object() -> impl Strategy<Value = Object> {
        let length = prop_oneof![9 => 0..9_usize, 1 => 0..400_usize];
        let value = length.prop_flat_map(|length| proptest::collection::vec(any::<u8>(), length));
        let attribute = (proptest::collection::vec(1..=255_u8, 1..9), value);
        let count = prop_oneof![9 => 0..3_usize, 1 => 0..40_usize];
        let extended = count.prop_flat_map(move |count| proptest::collection::vec(attribute.clone(), count));
        let extended = extended.prop_map(|all| {
            ExtendedAttributes::new(all.iter().map(|(name, value)| (name.as_slice(), value.as_slice())))
        });
        proptest::sample::select(KINDS.to_vec()).prop_flat_map(move |kind| {
            let is_device = matches!(kind, Kind::CharacterDevice | Kind::BlockDevice);
            let special = if is_device { any::<u64>().boxed() } else { Just(0).boxed() };
            let numbers =
                (0..0o10000_u16, any::<u32>(), any::<u32>(), any::<u64>(), any::<u64>(), any::<u64>());
            let more = (any::<u32>(), special, any::<u32>(), content(kind), extended.clone());
            (numbers, timestamp(), timestamp(), any::<bool>(), more).prop_map(
                move |(numbers, modified, changed, same, more)| Object {
                    kind,
                    permissions: numbers.0,
                    owner: numbers.1,
                    group: numbers.2,
                    size: numbers.3,
                    modified,
                    changed: if same { modified } else { changed },
                    device: numbers.4,
                    inode: numbers.5,
                    links: more.0,
                    special: more.1,
                    flags: more.2,
                    content: more.3,
                    extended: more.4,
                },
            )
        })
    }

    /// Tables and a record as the first version wrote them, with values of any length.
    #[test]
    fn what_an_earlier_version_wrote_is_read_as_what_is_seen_now() {
        let (value, target) = (vec![b'v'; 4_000], vec![b't'; 4_000]);
        let set = [(&b"user.long"[..], value.as_slice()), (b"user.note", b"hi")];
        let mut old = Vec::new();
        for number in [1, 2049, 1, set.len() as u64] {
            put_number(&mut old, number);
        }
        for (name, value) in set {
            put_bytes(&mut old, name);
            put_bytes(&mut old, value);
        }
        // A link with all rights and one name, attributes in place 0, and times of 0.
        let mut record = vec![2 | SAME_TIMES | HAS_EXTENDED];
        for number in [0o777, 0, 0, 0, 0, 0, 0, 42, 0] {
            put_number(&mut record, number);
        }
        record.push(CONTENT_TARGET);
        put_bytes(&mut record, &target);

        let mut tables = Tables::default();
        tables.add_whole_values(&old).unwrap();
        let object = tables.decode(&mut Reader::new(&record)).unwrap();

        assert_eq!(object.extended, ExtendedAttributes::new(set));
        assert_eq!((object.content.clone(), object.inode), (Content::target(target), 42));
        // It has its place already.
        let sizes = tables.size();
        tables.encode(&object, &mut Vec::new());
        assert_eq!(tables.size(), sizes);
    }

    proptest! {
        #[test]
        fn an_object_is_read_as_it_was_written_also_with_tables_that_were_written(
            objects in proptest::collection::vec(object(), 1..8),
        ) {
            let mut tables = Tables::default();
            let mut bytes = Vec::new();
            for object in &objects {
                tables.encode(object, &mut bytes);
            }
            let half = tables.encode_from((0, 0));
            let mut copy = Tables::default();
            copy.add(&half).unwrap();

            let mut reader = Reader::new(&bytes);
            for object in &objects {
                prop_assert_eq!(&copy.decode(&mut reader).unwrap(), object);
            }
            prop_assert!(reader.is_empty());
        }

        #[test]
        fn no_bytes_make_the_reader_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut tables = Tables::default();
            tables.device(1);
            drop(tables.decode(&mut Reader::new(&bytes)));
            let _ = tables.add(&bytes);
        }

        #[test]
        fn every_number_comes_back(number in any::<u64>()) {
            let mut bytes = Vec::new();
            put_number(&mut bytes, number);
            prop_assert_eq!(Reader::new(&bytes).number(), Ok(number));
        }
    }
}
