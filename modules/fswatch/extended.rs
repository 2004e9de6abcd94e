//! The extended attributes of an object, in a form that is small whatever somebody stores in them.
//!
//! Whoever owns a file may give it megabytes of them. So a long value is known by its length and digest, and attributes
//! that are many or long together by their number and one digest. Which form it is depends on names and values alone.

use std::sync::{Arc, LazyLock};

use sha2::{Digest, Sha256};

use crate::codec::{Malformed, Reader, put_bytes, put_number};
use crate::object::Timestamp;

/// Extended attributes that are attributes of their own, see xattr(7), acl(5), capabilities(7).
pub(crate) const OWN_NAMES: [&[u8]; 4] = [CAPABILITIES_NAME, SELINUX_NAME, ACCESS_ACL_NAME, DEFAULT_ACL_NAME];
pub(crate) const ACL_NAMES: [&[u8]; 2] = [ACCESS_ACL_NAME, DEFAULT_ACL_NAME];
pub(crate) const ACCESS_ACL_NAME: &[u8] = b"system.posix_acl_access";
pub(crate) const DEFAULT_ACL_NAME: &[u8] = b"system.posix_acl_default";
pub(crate) const CAPABILITIES_NAME: &[u8] = b"security.capability";
pub(crate) const SELINUX_NAME: &[u8] = b"security.selinux";

/// Longest value of one of those that is kept as it is, in bytes: an ACL of 31 entries.
const OWN_BYTES: usize = 256;

/// Longest value of another one that is kept as it is, in bytes.
const OTHER_BYTES: usize = 64;

/// Most others of an object that are kept one by one.
const MOST_OTHERS: u64 = 16;

/// Most bytes that others of an object take with their names when they are kept one by one.
const MOST_OTHERS_BYTES: usize = 512;

const WHOLE: u8 = 0;
const DIGEST: u8 = 1;
const TOGETHER: u8 = 2;
const NOT_READ: u8 = 3;

/// What is known of the value of an extended attribute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AttributeValue<'a> {
    /// All of it.
    Whole(&'a [u8]),
    /// A long one.
    Digest {
        /// Its bytes.
        length: u64,
        /// Their SHA-256.
        sha256: &'a [u8; 32],
    },
    /// All attributes but those that [`Attribute`](crate::rules::Attribute) names, when they are many or long. It has
    /// no name.
    Together {
        /// How many there are; 0 for more than the kernel lists.
        count: u64,
        /// The SHA-256 of their names and values.
        sha256: &'a [u8; 32],
    },
}

/// All extended attributes of an object in the order of their names, as far as they are kept; POSIX ACLs, file
/// capabilities and SELinux labels come first. Shared, because most objects of a host have the same ones.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ExtendedAttributes(Arc<[u8]>);

impl ExtendedAttributes {
    /// The empty set, the same one for all.
    #[must_use]
    pub fn none() -> Self {
        static NONE: LazyLock<ExtendedAttributes> = LazyLock::new(|| ExtendedAttributes([].into()));
        NONE.clone()
    }

    /// What is kept of attributes with these names and values.
    #[must_use]
    pub fn new<'a>(all: impl IntoIterator<Item = (&'a [u8], &'a [u8])>) -> Self {
        let mut all: Vec<_> = all.into_iter().collect();
        all.sort_unstable();
        let mut collector = Collector::default();
        for (name, value) in all {
            collector.put(name, value);
        }
        collector.finish()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Names, with what is known of the values.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], AttributeValue<'_>)> {
        let mut reader = Reader::new(&self.0);
        std::iter::from_fn(move || entry(&mut reader).ok())
    }

    /// The value of an attribute.
    #[must_use]
    pub(crate) fn get(&self, wanted: &[u8]) -> Option<AttributeValue<'_>> {
        self.iter().find(|(name, _)| *name == wanted).map(|(_, value)| value)
    }

    /// All that are no attributes of their own.
    pub(crate) fn others(&self) -> impl Iterator<Item = (&[u8], AttributeValue<'_>)> {
        self.iter().filter(|(name, _)| is_other(name))
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// What [`ExtendedAttributes::as_bytes`] gave.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(bytes);
        while !reader.is_empty() {
            entry(&mut reader)?;
        }
        Ok(Self(bytes.into()))
    }
}

fn entry<'a>(reader: &mut Reader<'a>) -> Result<(&'a [u8], AttributeValue<'a>), Malformed> {
    let digest = |reader: &mut Reader<'a>| reader.take(32)?.try_into().map_err(|_| Malformed);
    let name = reader.bytes()?;
    let value = match reader.byte()? {
        WHOLE => AttributeValue::Whole(reader.bytes()?),
        DIGEST => AttributeValue::Digest { length: reader.number()?, sha256: digest(reader)? },
        TOGETHER => AttributeValue::Together { count: reader.number()?, sha256: digest(reader)? },
        _ => return Err(Malformed),
    };
    Ok((name, value))
}

/// Whether an attribute with this name is none of its own.
pub(crate) fn is_other(name: &[u8]) -> bool {
    !OWN_NAMES.contains(&name)
}

/// Takes attributes in the order of their names, with no more memory than what is kept of them.
#[derive(Default)]
pub(crate) struct Collector {
    own: Vec<u8>,
    others: Vec<u8>,
    count: u64,
    /// They are too many, or too long; `others` is what was not added yet.
    together: Option<Sha256>,
}

impl Collector {
    /// Takes an attribute.
    pub(crate) fn put(&mut self, name: &[u8], value: &[u8]) {
        let is_other = is_other(name);
        let (buffer, most) =
            if is_other { (&mut self.others, OTHER_BYTES) } else { (&mut self.own, OWN_BYTES) };
        put_bytes(buffer, name);
        if value.len() <= most {
            buffer.push(WHOLE);
            put_bytes(buffer, value);
        } else {
            buffer.push(DIGEST);
            put_number(buffer, value.len() as u64);
            buffer.extend_from_slice(&Sha256::digest(value));
        }
        if is_other {
            self.note_other();
        }
    }

    /// Takes another attribute that was not read. [`Collector::stamp`] must follow.
    pub(crate) fn put_unread(&mut self, name: &[u8]) {
        put_bytes(&mut self.others, name);
        self.others.push(NOT_READ);
        self.note_other();
    }

    /// Not everything was read: from now on it is taken for another one whenever the inode changes.
    pub(crate) fn stamp(&mut self, changed: Timestamp) {
        self.others.extend_from_slice(&changed.seconds.to_le_bytes());
        self.others.extend_from_slice(&changed.nanoseconds.to_le_bytes());
        self.together.get_or_insert_default();
        self.add_to_digest();
    }

    fn note_other(&mut self) {
        self.count += 1;
        if self.count > MOST_OTHERS || self.others.len() > MOST_OTHERS_BYTES {
            self.together.get_or_insert_default();
        }
        self.add_to_digest();
    }

    fn add_to_digest(&mut self) {
        if let Some(digest) = &mut self.together {
            digest.update(&self.others);
            self.others.clear();
        }
    }

    /// What is kept of them.
    pub(crate) fn finish(mut self) -> ExtendedAttributes {
        if let Some(digest) = self.together {
            put_bytes(&mut self.others, &[]);
            self.others.push(TOGETHER);
            put_number(&mut self.others, self.count);
            self.others.extend_from_slice(&digest.finalize());
        }
        self.own.append(&mut self.others);
        if self.own.is_empty() { ExtendedAttributes::none() } else { ExtendedAttributes(self.own.into()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    type Raw = Vec<(Vec<u8>, Vec<u8>)>;

    fn kept(all: &Raw) -> ExtendedAttributes {
        ExtendedAttributes::new(all.iter().map(|(name, value)| (name.as_slice(), value.as_slice())))
    }

    fn numbered(count: usize, bytes: usize) -> Raw {
        (0..count).map(|number| (format!("user.{number:05}").into_bytes(), vec![b'v'; bytes])).collect()
    }

    fn raw() -> impl Strategy<Value = Raw> {
        let own = proptest::sample::select(OWN_NAMES.to_vec()).prop_map(<[u8]>::to_vec);
        let name = prop_oneof![1 => own, 3 => "user\\.[a-z]{1,30}".prop_map(String::into_bytes)];
        let value = (any::<u8>(), prop_oneof![3 => 0..80_usize, 1 => 0..300_usize])
            .prop_map(|(byte, length)| vec![byte; length]);
        let count = prop_oneof![0..5_usize, 0..40_usize];
        count
            .prop_flat_map(move |count| proptest::collection::btree_map(name.clone(), value.clone(), count))
            .prop_map(|all| all.into_iter().collect())
    }

    #[test]
    fn what_is_short_is_kept_and_the_rest_is_known_by_its_digest() {
        let long = vec![7; OTHER_BYTES + 1];
        let few = kept(&vec![
            (b"user.note".to_vec(), b"hi".to_vec()),
            (b"user.long".to_vec(), long.clone()),
            (ACCESS_ACL_NAME.to_vec(), vec![1; OWN_BYTES + 1]),
            (CAPABILITIES_NAME.to_vec(), vec![2; 20]),
        ]);
        let many = kept(&numbered(17, 1));

        assert_eq!(few.get(b"user.note"), Some(AttributeValue::Whole(b"hi")));
        assert_eq!(few.get(CAPABILITIES_NAME), Some(AttributeValue::Whole(&[2; 20])));
        let sha256: [u8; 32] = Sha256::digest(&long).into();
        assert_eq!(few.get(b"user.long"), Some(AttributeValue::Digest { length: 65, sha256: &sha256 }));
        assert!(matches!(few.get(ACCESS_ACL_NAME), Some(AttributeValue::Digest { length: 257, .. })));
        assert_eq!(few.others().map(|(name, _)| name).collect::<Vec<_>>(), [&b"user.long"[..], b"user.note"]);
        assert!(matches!(
            many.iter().collect::<Vec<_>>()[..],
            [(b"", AttributeValue::Together { count: 17, .. })]
        ));
        assert_eq!(kept(&numbered(16, 1)).iter().count(), 16);
    }

    #[test]
    fn no_attributes_take_more_than_a_kilobyte_or_two() {
        let own = |bytes| OWN_NAMES.map(|name| (name.to_vec(), vec![0; bytes])).to_vec();
        let longest = numbered(5, OTHER_BYTES);
        for others in [numbered(9_000, 70), numbered(1, 65_000), numbered(16, 4), longest] {
            for own in [own(OWN_BYTES), own(65_000)] {
                let bytes = kept(&[own, others.clone()].concat()).as_bytes().len();
                assert!(bytes <= 4 * (OWN_BYTES + 32) + MOST_OTHERS_BYTES, "{bytes}");
            }
        }
    }

    #[test]
    fn what_was_not_read_is_another_one_when_the_inode_changed() {
        let stamped = |names: &[&[u8]], seconds| {
            let mut collector = Collector::default();
            names.iter().for_each(|name| collector.put_unread(name));
            collector.stamp(Timestamp { seconds, nanoseconds: 0 });
            collector.finish()
        };

        assert_eq!(stamped(&[b"user.a"], 1), stamped(&[b"user.a"], 1));
        assert_ne!(stamped(&[b"user.a"], 1), stamped(&[b"user.a"], 2));
        assert_ne!(stamped(&[b"user.a"], 1), stamped(&[b"user.b"], 1));
        assert_ne!(stamped(&[], 1), ExtendedAttributes::none());
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

        /// Also of what is not kept: a byte of a value, its length, a name, one more, one less.
        #[test]
        fn whatever_differs_is_kept_differently_and_order_does_not_count(
            all in raw(), other in raw(), at in any::<prop::sample::Index>(), by: u16,
        ) {
            let known = kept(&all);
            let mut reordered = all.clone();
            if !all.is_empty() {
                reordered.rotate_left(usize::from(by) % all.len());
                let at = at.index(all.len());
                let mut changed = Vec::new();
                for change in 0..4 {
                    let mut one = all.clone();
                    match change {
                        0 => one[at].1.push(0),
                        1 => one[at].0.push(b'!'),
                        2 => drop(one.remove(at)),
                        _ if one[at].1.is_empty() => continue,
                        _ => one[at].1[0] ^= 1,
                    }
                    changed.push(one);
                }
                for one in &changed {
                    prop_assert_ne!(&kept(one), &known);
                }
            }
            prop_assert_eq!(&kept(&reordered), &known);
            prop_assert_eq!(all == other, kept(&other) == known);
            prop_assert_eq!(&ExtendedAttributes::from_bytes(known.as_bytes()).unwrap(), &known);
        }

        #[test]
        fn no_bytes_make_the_reader_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            drop(ExtendedAttributes::from_bytes(&bytes));
        }
    }
}
