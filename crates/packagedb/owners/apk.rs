//! The database of apk: one file, in the form of apk-v2(5). A paragraph is a package; `P:` is its name, `V:` its
//! version, `F:` a directory, `R:` a file in it and `Z:` that file's digest.

use std::collections::BTreeMap;
use std::io::{self, Read, Seek, SeekFrom};

use vigie_tree::{Place, Root};

use super::{Aliases, Digests, Index, MAX_PATHS, Manager, Recorded, Stamp, each_line};

/// The database, as it was read.
#[derive(Debug)]
pub(super) struct Database {
    /// Where it can be: the second on newer hosts, where `/lib` need not be a link to it.
    paths: [Place; 2],
    /// The one that was read.
    read: Option<(Place, Stamp)>,
    index: Index,
    packages: Vec<Package>,
    digests: Option<Digests<20>>,
}

#[derive(Debug)]
struct Package {
    name: Box<str>,
    version: Box<str>,
    /// Where its paragraph begins, in bytes.
    offset: u64,
    /// How long that is, in bytes.
    length: u64,
}

/// A line of the database.
#[derive(Debug, PartialEq, Eq)]
enum Line<'a> {
    /// The paragraph ends.
    End,
    Name(&'a [u8]),
    Version(&'a [u8]),
    /// Letters that say how the package was installed.
    Flags(&'a [u8]),
    Directory(&'a [u8]),
    File(&'a [u8]),
    Digest([u8; 20]),
    Other,
}

impl<'a> Line<'a> {
    fn of(line: &'a [u8]) -> Self {
        match line {
            [] => Self::End,
            [b'P', b':', name @ ..] => Self::Name(name),
            [b'V', b':', version @ ..] => Self::Version(version),
            [b'f', b':', flags @ ..] => Self::Flags(flags),
            [b'F', b':', directory @ ..] => Self::Directory(directory),
            [b'R', b':', file @ ..] => Self::File(file),
            // Q is base64, 1 is SHA-1.
            [b'Z', b':', b'Q', b'1', digest @ ..] => sha1(digest).map_or(Self::Other, Self::Digest),
            _ => Self::Other,
        }
    }
}

/// The versions of the packages that are installed.
pub(super) fn versions(root: &Root) -> BTreeMap<String, String> {
    let mut versions = BTreeMap::new();
    let mut name = String::new();
    for path in ["lib/apk/db/installed", "usr/lib/apk/db/installed"] {
        let Ok(file) = root.place(path).open() else { continue };
        each_line(file, |_, line| match Line::of(line) {
            Line::Name(text) => name = String::from_utf8_lossy(text).into_owned(),
            Line::Version(version) if !name.is_empty() => {
                versions.insert(std::mem::take(&mut name), String::from_utf8_lossy(version).into_owned());
            }
            _ => {}
        })
        .ok();
        break;
    }
    versions
}

impl Database {
    pub(super) fn at(root: &Root) -> Self {
        Self {
            paths: ["lib/apk/db/installed", "usr/lib/apk/db/installed"].map(|path| root.place(path)),
            read: None,
            index: Index::default(),
            packages: Vec::new(),
            digests: None,
        }
    }

    /// Reads everything again when anything has changed: apk writes all of it, and once for all that it does.
    pub(super) fn refresh(&mut self, aliases: &Aliases) {
        let there = self.paths.iter().find_map(|path| Some((path.clone(), Stamp::of(path)?)));
        let is_read = |(path, stamp): &(Place, Stamp)| {
            self.read.as_ref().is_some_and(|(known, read)| known.path() == path.path() && read == stamp)
        };
        if there.as_ref().map_or(self.read.is_none(), is_read) {
            return;
        }
        self.index = Index::default();
        self.packages = Vec::new();
        if let Some((path, _)) = &there {
            // What cannot be read has no packages.
            self.read_packages(path, aliases).ok();
        }
        self.read = there;
        self.index.settle();
    }

    fn read_packages(&mut self, path: &Place, aliases: &Aliases) -> io::Result<()> {
        let mut begin = 0;
        let mut package = None;
        let mut directory = Vec::new();
        each_line(path.open()?, |offset, line| match Line::of(line) {
            Line::End => {
                if package.take().is_some()
                    && let Some(package) = self.packages.last_mut()
                {
                    package.length = offset - package.offset;
                }
                begin = offset + 1;
                directory.clear();
            }
            Line::Name(name) => {
                package = Some(self.packages.len() as u32);
                let name = String::from_utf8_lossy(name).into();
                self.packages.push(Package { name, version: "".into(), offset: begin, length: u64::MAX });
            }
            Line::Version(version) => {
                if package.is_some()
                    && let Some(package) = self.packages.last_mut()
                {
                    package.version = String::from_utf8_lossy(version).into();
                }
            }
            Line::Directory(path) => path.clone_into(&mut directory),
            Line::File(name) => {
                if let Some(package) = package {
                    let hash = self.index.hash(&aliases.resolve(&joined(&directory, name)));
                    self.index.add(hash, package);
                }
            }
            Line::Flags(_) | Line::Digest(_) | Line::Other => {}
        })?;
        Ok(())
    }

    /// Finds whose file a path is.
    pub(super) fn find(&mut self, path: &[u8], aliases: &Aliases) -> Option<Recorded> {
        let hash = self.index.hash(path);
        let number = self.index.owners(hash).next()?;
        let stamp = self.read.as_ref().map(|(_, stamp)| *stamp);
        if !self.digests.as_ref().is_some_and(|digests| digests.is_of(number, stamp)) {
            let all = self.read_digests(number, aliases).unwrap_or_default();
            self.digests = Some(Digests::new(number, stamp, all));
        }
        let sha1 = self.digests.as_ref().and_then(|digests| digests.get(hash));
        let Package { name, version, .. } = &self.packages[number as usize];
        Some(Recorded {
            manager: Manager::Apk,
            package: name.to_string(),
            version: version.to_string(),
            md5: None,
            sha1,
            sha256: None,
            // What apk protects unless it is told otherwise, see apk-protected_paths(5).
            configuration: path.starts_with(b"/etc/") && !path.starts_with(b"/etc/init.d/"),
        })
    }

    fn read_digests(&self, number: u32, aliases: &Aliases) -> io::Result<Vec<(u64, [u8; 20])>> {
        let package = &self.packages[number as usize];
        let Some((path, stamp)) = &self.read else { return Ok(Vec::new()) };
        let mut file = path.open()?;
        if Stamp::from(&file.metadata()?) != *stamp {
            // The next refresh finds where it is now.
            return Ok(Vec::new());
        }
        file.seek(SeekFrom::Start(package.offset))?;
        let mut digests = Vec::new();
        let (mut directory, mut path) = (Vec::new(), None);
        let mut are_sha1 = true;
        each_line(file.take(package.length), |_, line| {
            match Line::of(line) {
                // Digests of such a package have the length of SHA-1, but are the beginning of SHA-256.
                Line::Flags(flags) => are_sha1 &= !flags.contains(&b'S'),
                Line::Directory(name) => name.clone_into(&mut directory),
                Line::File(name) => path = Some(joined(&directory, name)),
                Line::Digest(sha1) => {
                    if let Some(path) = path.take()
                        && are_sha1
                        && digests.len() < MAX_PATHS
                    {
                        digests.push((self.index.hash(&aliases.resolve(&path)), sha1));
                    }
                }
                Line::End | Line::Name(_) | Line::Version(_) | Line::Other => {}
            }
        })?;
        Ok(digests)
    }
}

/// An absolute path of a file in a directory that is named from the root.
pub(crate) fn joined(directory: &[u8], name: &[u8]) -> Vec<u8> {
    let separator: &[u8] = if directory.is_empty() { b"" } else { b"/" };
    [b"/", directory, separator, name].concat()
}

fn sha1(text: &[u8]) -> Option<[u8; 20]> {
    base64(text, 20)?.try_into().ok()
}

/// So many bytes in base64 with padding, RFC 4648 section 4.
pub(crate) fn base64(text: &[u8], length: usize) -> Option<Vec<u8>> {
    let padding = (3 - length % 3) % 3;
    let (text, end) = text.split_at_checked(text.len().checked_sub(padding)?)?;
    if text.len() != (length * 8).div_ceil(6) || end.iter().any(|byte| *byte != b'=') {
        return None;
    }
    let mut bits: u32 = 0;
    let mut value = Vec::with_capacity(length);
    for (nth, character) in text.iter().enumerate() {
        let sextet = match character {
            b'A'..=b'Z' => character - b'A',
            b'a'..=b'z' => character - b'a' + 26,
            b'0'..=b'9' => character - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = bits << 6 | u32::from(sextet);
        // Every character brings six bits, and a byte is full when they are more than those of the bytes before.
        if (nth + 1) * 6 / 8 > value.len() {
            let unused = (nth + 1) * 6 - (value.len() + 1) * 8;
            value.push((bits >> unused) as u8);
        }
    }
    Some(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// RFC 4648 section 4, a whole text at a time.
    fn base64(bytes: &[u8]) -> String {
        let alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        let bits: String = bytes.iter().map(|byte| format!("{byte:08b}")).collect();
        let sextets = bits.as_bytes().chunks(6).map(|bits| {
            let bits = format!("{:0<6}", std::str::from_utf8(bits).unwrap());
            char::from(alphabet[usize::from_str_radix(&bits, 2).unwrap()])
        });
        let text: String = sextets.collect();
        let padding = (4 - text.len() % 4) % 4;
        text + &"=".repeat(padding)
    }

    #[test]
    fn a_line_is_known_by_its_first_letter() {
        // The SHA-1 of nothing.
        let digest = Line::of(b"Z:Q12jmj7l5rSw0yVb/vlWAYkK/YBwk=");

        let Line::Digest(sha1) = digest else { panic!("{digest:?}") };
        let hex: String = sha1.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, "da39a3ee5e6b4b0d3255bfef95601890afd80709");
        assert_eq!(Line::of(b""), Line::End);
        assert_eq!(Line::of(b"P:musl"), Line::Name(b"musl"));
        assert_eq!(Line::of(b"F:"), Line::Directory(b""));
        for other in [&b"Z:Q2abc"[..], b"Z:Q12jmj7l5rSw0yVb/vlWAYkK/YBwk", b"P", b"p:so:libc.so=1"] {
            assert_eq!(Line::of(other), Line::Other);
        }
    }

    proptest! {
        #[test]
        fn a_digest_is_read_as_it_was_written(bytes: [u8; 20]) {
            prop_assert_eq!(sha1(base64(&bytes).as_bytes()), Some(bytes));
        }

        #[test]
        fn any_bytes_are_a_line(line in proptest::collection::vec(any::<u8>(), 0..40)) {
            Line::of(&line);
            sha1(&line);
        }
    }
}
