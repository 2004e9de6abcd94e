//! The header of a package of rpm, as its database has it: an index of tags, then their data, all big endian.

use crate::installed::{Algorithm, Digest, FileRecord, Package};

/// Most tags and bytes of data of a header; those of rpm itself.
const MAX_TAGS: usize = 0xffff;
const MAX_DATA_BYTES: usize = 256 << 20;

/// Bytes of an entry of the index.
const ENTRY_BYTES: usize = 16;

const NAME: u32 = 1000;
const VERSION: u32 = 1001;
const RELEASE: u32 = 1002;
const EPOCH: u32 = 1003;
const INSTALL_TIME: u32 = 1008;
const SIZE: u32 = 1009;
const LONG_SIZE: u32 = 5009;
const ARCH: u32 = 1022;
const SOURCE_RPM: u32 = 1044;
const FILE_SIZES: u32 = 1028;
const FILE_STATES: u32 = 1029;
const FILE_MODES: u32 = 1030;
const FILE_DIGESTS: u32 = 1035;
const FILE_LINKS: u32 = 1036;
const FILE_FLAGS: u32 = 1037;
const FILE_USERS: u32 = 1039;
const FILE_GROUPS: u32 = 1040;
const FILE_VERIFY_FLAGS: u32 = 1045;
const DIRECTORY_INDEXES: u32 = 1116;
const BASE_NAMES: u32 = 1117;
const DIRECTORY_NAMES: u32 = 1118;
const LONG_FILE_SIZES: u32 = 5008;
const FILE_CAPABILITIES: u32 = 5010;
const FILE_DIGEST_ALGORITHM: u32 = 5011;

/// What a package wants to have verified, `RPMVERIFY_…`.
const VERIFY_DIGEST: u32 = 1 << 0;
const VERIFY_SIZE: u32 = 1 << 1;
const VERIFY_LINK: u32 = 1 << 2;
const VERIFY_USER: u32 = 1 << 3;
const VERIFY_GROUP: u32 = 1 << 4;
const VERIFY_MODE: u32 = 1 << 6;
const VERIFY_CAPABILITIES: u32 = 1 << 8;

/// What a file is, `RPMFILE_…`.
const IS_CONFIGURATION: u32 = 1 << 0;
const MAY_BE_MISSING: u32 = 1 << 3;
const IS_GHOST: u32 = 1 << 6;

const KIND: u32 = 0o170_000;
const DIRECTORY: u32 = 0o040_000;
const REGULAR: u32 = 0o100_000;

/// A header that is not as it must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a header of a package is damaged")]
pub(crate) struct Damaged;

/// A header whose limits were checked.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Header<'a> {
    index: &'a [u8],
    data: &'a [u8],
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.first_chunk().map(|word| u32::from_be_bytes(*word))
}

impl<'a> Header<'a> {
    /// Reads where things are.
    pub(crate) fn parse(blob: &'a [u8]) -> Result<Self, Damaged> {
        let tags = word(blob, 0).ok_or(Damaged)? as usize;
        let data = word(blob, 4).ok_or(Damaged)? as usize;
        if tags > MAX_TAGS || data > MAX_DATA_BYTES {
            return Err(Damaged);
        }
        let end = 8 + tags * ENTRY_BYTES;
        Ok(Self { index: blob.get(8..end).ok_or(Damaged)?, data: blob.get(end..end + data).ok_or(Damaged)? })
    }

    /// The kind, number of items and data of a tag; the data goes to the header's end.
    fn tag(&self, tag: u32) -> Option<(u32, usize, &'a [u8])> {
        let (entries, _) = self.index.as_chunks::<ENTRY_BYTES>();
        let entry = entries.iter().find(|entry| word(*entry, 0) == Some(tag))?;
        let (kind, offset, count) = (word(entry, 4)?, word(entry, 8)?, word(entry, 12)?);
        Some((kind, count as usize, self.data.get(offset as usize..)?))
    }

    /// Whole numbers of 1 to 8 bytes; none when there are not as many as the tag says.
    fn numbers(&self, tag: u32) -> Vec<u64> {
        let Some((kind, count, data)) = self.tag(tag) else { return Vec::new() };
        let width = match kind {
            1 | 2 => 1,
            3 => 2,
            4 => 4,
            5 => 8,
            _ => return Vec::new(),
        };
        let Some(data) = count.checked_mul(width).and_then(|bytes| data.get(..bytes)) else {
            return Vec::new();
        };
        let number = |bytes: &[u8]| bytes.iter().fold(0_u64, |number, byte| number << 8 | u64::from(*byte));
        data.chunks_exact(width).map(number).collect()
    }

    fn number(&self, tag: u32) -> Option<u64> {
        self.numbers(tag).first().copied()
    }

    /// Texts, as many as there are up to what the tag says.
    fn texts(&self, tag: u32) -> Vec<&'a [u8]> {
        let Some((6 | 8 | 9, count, data)) = self.tag(tag) else { return Vec::new() };
        let mut texts = Vec::new();
        let mut rest = data;
        for _ in 0..count {
            let Some(end) = rest.iter().position(|byte| *byte == 0) else { break };
            texts.push(&rest[..end]);
            rest = &rest[end + 1..];
        }
        texts
    }

    fn text(&self, tag: u32) -> Option<String> {
        self.texts(tag).first().map(|text| String::from_utf8_lossy(text).into_owned())
    }

    /// The package; `None` when it is a key for signatures, which rpm keeps in the same table.
    pub(crate) fn package(&self) -> Result<Option<Package>, Damaged> {
        let name = self.text(NAME).ok_or(Damaged)?;
        if name == "gpg-pubkey" {
            return Ok(None);
        }
        let (version, release) = (self.text(VERSION).ok_or(Damaged)?, self.text(RELEASE).ok_or(Damaged)?);
        let epoch = self.number(EPOCH).map(|epoch| format!("{epoch}:")).unwrap_or_default();
        Ok(Some(Package {
            name,
            version: format!("{epoch}{version}-{release}"),
            architecture: self.text(ARCH).unwrap_or_default(),
            source: self.text(SOURCE_RPM).map(|file| source_name(&file).to_owned()),
            state: "installed".to_owned(),
            wanted: None,
            installed_at: self.number(INSTALL_TIME).and_then(|time| i64::try_from(time).ok()),
            size: self.number(LONG_SIZE).or_else(|| self.number(SIZE)),
        }))
    }

    /// The package's files.
    pub(crate) fn files(&self) -> Vec<FileRecord> {
        let (names, directories) = (self.texts(BASE_NAMES), self.texts(DIRECTORY_NAMES));
        let indexes = self.numbers(DIRECTORY_INDEXES);
        let sizes = Some(self.numbers(LONG_FILE_SIZES)).filter(|sizes| !sizes.is_empty());
        let sizes = sizes.unwrap_or_else(|| self.numbers(FILE_SIZES));
        let (states, modes, flags) =
            (self.numbers(FILE_STATES), self.numbers(FILE_MODES), self.numbers(FILE_FLAGS));
        let (digests, links) = (self.texts(FILE_DIGESTS), self.texts(FILE_LINKS));
        let (users, groups) = (self.texts(FILE_USERS), self.texts(FILE_GROUPS));
        let (verify, capabilities) = (self.numbers(FILE_VERIFY_FLAGS), self.texts(FILE_CAPABILITIES));
        let algorithm = match self.number(FILE_DIGEST_ALGORITHM) {
            None | Some(1) => Some(Algorithm::Md5),
            Some(2) => Some(Algorithm::Sha1),
            Some(8) => Some(Algorithm::Sha256),
            Some(10) => Some(Algorithm::Sha512),
            Some(_) => None,
        };
        let text = |texts: &[&[u8]], at: usize| {
            texts
                .get(at)
                .filter(|text| !text.is_empty())
                .map(|text| String::from_utf8_lossy(text).into_owned())
        };
        let mut files = Vec::with_capacity(names.len());
        for (at, name) in names.iter().enumerate() {
            // What was replaced by another package, or left out, is not this package's any more.
            if states.get(at).is_some_and(|state| *state != 0) {
                continue;
            }
            let directory = indexes.get(at).and_then(|index| directories.get(usize::try_from(*index).ok()?));
            let Some(directory) = directory else { continue };
            let flags = flags.get(at).map_or(0, |flags| *flags as u32);
            let ghost = flags & IS_GHOST != 0;
            let mut wanted = verify.get(at).map_or(u32::MAX, |wanted| *wanted as u32);
            if ghost {
                wanted &= !(VERIFY_DIGEST | VERIFY_SIZE | VERIFY_LINK);
            }
            let mode = modes.get(at).map(|mode| *mode as u32);
            let regular = mode.is_some_and(|mode| mode & KIND == REGULAR);
            let is_wanted = |what: u32| wanted & what != 0;
            let digest = digests.get(at).filter(|_| is_wanted(VERIFY_DIGEST)).and_then(|text| {
                Some(Digest { algorithm: algorithm?, bytes: hexadecimal(text, algorithm?.length())? })
            });
            files.push(FileRecord {
                path: [directory, *name].concat(),
                lacks_digest: regular && digest.is_none() && is_wanted(VERIFY_DIGEST),
                digest,
                mode: mode.filter(|_| is_wanted(VERIFY_MODE)),
                user: text(&users, at).filter(|_| is_wanted(VERIFY_USER)),
                group: text(&groups, at).filter(|_| is_wanted(VERIFY_GROUP)),
                size: sizes.get(at).copied().filter(|_| regular && is_wanted(VERIFY_SIZE)),
                link: links
                    .get(at)
                    .filter(|link| !link.is_empty() && is_wanted(VERIFY_LINK))
                    .map(|link| link.to_vec()),
                capabilities: Some(text(&capabilities, at).unwrap_or_default())
                    .filter(|_| regular && is_wanted(VERIFY_CAPABILITIES)),
                configuration: flags & IS_CONFIGURATION != 0,
                may_be_missing: ghost || flags & MAY_BE_MISSING != 0,
                directory: mode.is_some_and(|mode| mode & KIND == DIRECTORY),
            });
        }
        files
    }
}

/// `bash` of `bash-5.2-1.src.rpm`.
fn source_name(file: &str) -> &str {
    let mut parts = file.rsplitn(3, '-');
    parts.nth(2).unwrap_or(file)
}

fn hexadecimal(text: &[u8], length: usize) -> Option<Box<[u8]>> {
    let (pairs, rest) = text.as_chunks::<2>();
    if pairs.len() != length || !rest.is_empty() {
        return None;
    }
    let digit = |byte: u8| char::from(byte).to_digit(16);
    pairs.iter().map(|[high, low]| u8::try_from(digit(*high)? << 4 | digit(*low)?).ok()).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_source_package_is_named_without_version() {
        assert_eq!(source_name("gcc-c++-12.3-1.fc39.src.rpm"), "gcc-c++");
        assert_eq!(source_name("odd"), "odd");
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_header_or_refused(
            tags in 0_u32..5, length in 0_u32..64, rest in proptest::collection::vec(any::<u8>(), 0..160),
            tag in prop_oneof![Just(NAME), Just(BASE_NAMES), Just(FILE_MODES), any::<u32>()], kind in 0_u32..10,
        ) {
            let mut blob = [tags.to_be_bytes(), length.to_be_bytes(), tag.to_be_bytes(), kind.to_be_bytes()].concat();
            blob.extend_from_slice(&rest);
            if let Ok(header) = Header::parse(&blob) {
                header.package().ok();
                header.files();
            }
        }
    }
}
