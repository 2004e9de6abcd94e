//! The database of dpkg: deb-md5sums(5), deb-conffiles(5), dpkg-divert(1), and the fields of dpkg-query(1) in
//! `status`. `info/PACKAGE.list` holds the paths of a package, a line each.
//!
//! dpkg replaces these files by renaming, so that each is whole at any time; its lock is not needed.

mod incoming;

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::io;

use vigie_tree::{Place, Root};

use self::incoming::Incoming;
use super::{Aliases, Digests, Index, MAX_PATHS, Manager, Recorded, Stamp, each_line};
use crate::text::{Damage, End, Line, is_text, lines};

/// Most configuration files that are kept, of one package and of all; hosts have some 1,000.
const MAX_CONFFILES: usize = 100_000;

/// Most packages whose versions are listed.
const MAX_PACKAGES: usize = 100_000;

/// The database, as it was read.
#[derive(Debug)]
pub(super) struct Database {
    /// `/var/lib/dpkg`
    directory: Place,
    index: Index,
    packages: Vec<Package>,
    /// Sorted by hash.
    conffiles: Vec<Conffile>,
    diversions: Vec<Diversion>,
    digests: Option<Digests<16>>,
    /// What is being unpacked.
    incoming: Incoming,
    /// The stamps of `info`, `status` and `updates` before they were read.
    seen: [Option<Stamp>; 3],
    /// That of `diversions`.
    diverted: Option<Stamp>,
}

#[derive(Debug)]
struct Package {
    /// What its files in `info` are called: the name, with the architecture where several can be installed.
    name: Box<str>,
    version: Box<str>,
    /// Its list when it was read; `None` when the package is gone.
    list: Option<Stamp>,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Conffile {
    hash: u64,
    package: u32,
    md5: Option<[u8; 16]>,
}

/// A file that lies elsewhere when it is not of one package.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Diversion {
    pub(crate) from: Vec<u8>,
    pub(crate) to: Vec<u8>,
    /// The package whose file stays at `from`; `:`, which is no package, when the administrator diverted it.
    pub(crate) by: String,
}

/// Which packages a file may be of.
enum Owner<'a> {
    Any,
    Only(&'a str),
    AnyBut(&'a str),
}

impl Database {
    pub(super) fn at(root: &Root) -> Self {
        Self {
            directory: root.place("var/lib/dpkg"),
            index: Index::default(),
            packages: Vec::new(),
            conffiles: Vec::new(),
            diversions: Vec::new(),
            digests: None,
            incoming: Incoming::default(),
            seen: [None; 3],
            diverted: None,
        }
    }

    /// Reads what has changed.
    pub(super) fn refresh(&mut self, aliases: &Aliases) {
        // What happened since `status` was written last is in `updates`.
        let seen = ["info", "status", "updates"].map(|name| Stamp::of(&self.directory.join(name)));
        if seen != self.seen {
            self.read_lists(aliases);
            self.read_status(aliases);
            self.seen = seen;
        }
        let diverted = Stamp::of(&self.directory.join("diversions"));
        if diverted != self.diverted {
            self.diversions = read_diversions(&self.directory.join("diversions"), aliases);
            self.diverted = diverted;
        }
    }

    /// Reads the lists of packages that came or changed, and forgets those that went.
    fn read_lists(&mut self, aliases: &Aliases) {
        let directory = self.directory.join("info");
        let mut numbers: HashMap<_, _> =
            self.packages.iter().map(|package| package.name.clone()).zip(0..).collect();
        let mut stamps = vec![None; self.packages.len()];
        for entry in directory.list().unwrap_or_default() {
            let file_name = entry.path().file_name().and_then(|name| name.to_str());
            let Some(name) = file_name.and_then(|name| name.strip_suffix(".list")) else { continue };
            let stamp = Stamp::of(&entry);
            match numbers.get(name) {
                Some(number) => stamps[*number] = stamp,
                None => {
                    numbers.insert(name.into(), self.packages.len());
                    self.packages.push(Package { name: name.into(), version: "".into(), list: None });
                    stamps.push(stamp);
                }
            }
        }
        let changed: Vec<bool> =
            self.packages.iter().zip(&stamps).map(|(package, stamp)| package.list != *stamp).collect();
        self.index.remove(|number| changed[number as usize]);
        for (number, stamp) in stamps.into_iter().enumerate().filter(|(number, _)| changed[*number]) {
            self.packages[number].list = stamp;
            let path = directory.join(format!("{}.list", self.packages[number].name));
            if stamp.is_some() {
                // What cannot be read has no paths.
                self.read_list(&path, number as u32, aliases).ok();
            }
        }
        self.index.settle();
    }

    fn read_list(&mut self, path: &Place, package: u32, aliases: &Aliases) -> io::Result<()> {
        let mut paths = Vec::new();
        // Directories are what other paths are in; they are shared by many packages.
        let mut directories = Vec::new();
        let mut latest = Vec::new();
        each_line(path.open()?, |_, line| {
            if !line.starts_with(b"/") || line == b"/." || paths.len() == MAX_PATHS {
                return;
            }
            let resolved = aliases.resolve(line);
            paths.push(self.index.hash(&resolved));
            if parent(line) != latest {
                // By both names, or /bin would be a file here.
                directories.push(self.index.hash(parent(line)));
                directories.push(self.index.hash(parent(&resolved)));
                parent(line).clone_into(&mut latest);
            }
        })?;
        directories.sort_unstable();
        for hash in paths {
            if directories.binary_search(&hash).is_err() {
                self.index.add(hash, package);
            }
        }
        Ok(())
    }

    fn read_status(&mut self, aliases: &Aliases) {
        self.conffiles.clear();
        let files = status_files(&self.directory);
        let numbers: HashMap<_, _> =
            self.packages.iter().map(|package| package.name.clone()).zip(0u32..).collect();
        for (nth, path) in files.iter().enumerate() {
            let Ok(file) = path.open() else { continue };
            each_stanza(file, |stanza| {
                let Some(number) = numbers.get(stanza.file_name().as_str()).copied() else { return };
                self.packages[number as usize].version = stanza.version.as_str().into();
                if nth > 0 {
                    self.conffiles.retain(|conffile| conffile.package != number);
                }
                let room = MAX_CONFFILES - self.conffiles.len();
                for (path, md5) in stanza.conffiles.iter().take(room) {
                    let hash = self.index.hash(&aliases.resolve(path));
                    self.conffiles.push(Conffile { hash, package: number, md5: *md5 });
                }
            })
            .ok();
        }
        self.conffiles.sort_unstable();
        self.conffiles.shrink_to_fit();
    }

    /// Finds whose file a path is.
    pub(super) fn find(&mut self, path: &[u8], aliases: &Aliases) -> Option<Recorded> {
        let (path, owner) = undiverted(&self.diversions, path);
        let is_of = |package: &str| {
            let name = package.split_once(':').map_or(package, |(name, _)| name);
            match owner {
                Owner::Any => true,
                Owner::Only(by) => name == by,
                Owner::AnyBut(by) => name != by,
            }
        };
        // The new version's word before the old one's.
        let new = self.incoming.find(&self.directory.join("tmp.ci"), path, &self.index, aliases);
        if let Some(new) = new.filter(|new| is_of(&new.package)) {
            return Some(new);
        }
        let hash = self.index.hash(path);
        let number = self.index.owners(hash).find(|number| is_of(&self.packages[*number as usize].name))?;
        let first = self.conffiles.partition_point(|conffile| conffile.hash < hash);
        let conffile = self.conffiles[first..]
            .iter()
            .take_while(|conffile| conffile.hash == hash)
            .find(|conffile| conffile.package == number)
            .cloned();
        let configuration = conffile.is_some();
        let md5 = match conffile {
            Some(conffile) => conffile.md5,
            None => self.md5(hash, number, aliases),
        };
        let Package { name, version, .. } = &self.packages[number as usize];
        Some(Recorded {
            manager: Manager::Dpkg,
            package: name.to_string(),
            version: version.to_string(),
            md5,
            sha1: None,
            sha256: None,
            configuration,
        })
    }

    /// The recorded digest of a path of this package.
    fn md5(&mut self, hash: u64, package: u32, aliases: &Aliases) -> Option<[u8; 16]> {
        let path = self.directory.join(format!("info/{}.md5sums", self.packages[package as usize].name));
        let stamp = Stamp::of(&path);
        if !self.digests.as_ref().is_some_and(|digests| digests.is_of(package, stamp)) {
            let mut all = Vec::new();
            if let Ok(file) = path.open() {
                each_line(file, |_, line| {
                    if let Some((md5, path)) = md5sum(line)
                        && all.len() < MAX_PATHS
                    {
                        let path = [b"/", &*path].concat();
                        all.push((self.index.hash(&aliases.resolve(&path)), md5));
                    }
                })
                .ok();
            }
            self.digests = Some(Digests::new(package, stamp, all));
        }
        self.digests.as_ref()?.get(hash)
    }
}

/// `status`, and what happened since it was written last, in order.
pub(crate) fn status_files(directory: &Place) -> Vec<Place> {
    // The names of updates are numbers of the same length; dpkg is still writing what has another name.
    let is_update = |place: &Place| {
        place.path().file_name().is_some_and(|name| name.as_encoded_bytes().iter().all(u8::is_ascii_digit))
    };
    let mut updates = directory.join("updates").list().unwrap_or_default();
    updates.retain(is_update);
    updates.sort_by(|a, b| a.path().cmp(b.path()));
    [vec![directory.join("status")], updates].concat()
}

/// The versions of the packages whose files are there.
pub(super) fn versions(root: &Root) -> BTreeMap<String, String> {
    let mut versions = BTreeMap::new();
    for path in status_files(&root.place("var/lib/dpkg")) {
        let Ok(file) = path.open() else { continue };
        each_stanza(file, |stanza| {
            if stanza.package.is_empty() {
                return;
            }
            if stanza.is_there() && versions.len() < MAX_PACKAGES {
                versions.insert(stanza.file_name(), stanza.version.clone());
            } else {
                versions.remove(&stanza.file_name());
            }
        })
        .ok();
    }
    versions
}

fn parent(path: &[u8]) -> &[u8] {
    &path[..path.iter().rposition(|byte| *byte == b'/').unwrap_or(0)]
}

/// 32 hexadecimal digits.
fn md5(text: &[u8]) -> Option<[u8; 16]> {
    let (pairs, rest) = text.as_chunks::<2>();
    if pairs.len() != 16 || !rest.is_empty() {
        return None;
    }
    let digit = |byte: u8| char::from(byte).to_digit(16);
    let mut value = [0; 16];
    for (byte, [high, low]) in value.iter_mut().zip(pairs) {
        *byte = u8::try_from(digit(*high)? << 4 | digit(*low)?).ok()?;
    }
    Some(value)
}

/// A line of `PACKAGE.md5sums`: the digest, two spaces, and the path as seen from the root. As md5sum(1) writes
/// it, a name with a backslash or a newline is escaped, and the line begins with a backslash.
pub(crate) fn md5sum(line: &[u8]) -> Option<([u8; 16], Cow<'_, [u8]>)> {
    let (escaped, line) = line.strip_prefix(b"\\").map_or((false, line), |line| (true, line));
    let (digest, path) = line.split_at_checked(32)?;
    let path = path.strip_prefix(b"  ").or_else(|| path.strip_prefix(b" *"))?;
    let path = path.strip_prefix(b"./").or_else(|| path.strip_prefix(b"/")).unwrap_or(path);
    if path.is_empty() {
        return None;
    }
    let path = if escaped { Cow::Owned(unescaped(path)?) } else { Cow::Borrowed(path) };
    Some((md5(digest)?, path))
}

fn unescaped(path: &[u8]) -> Option<Vec<u8>> {
    let mut bytes = path.iter();
    let mut plain = Vec::new();
    while let Some(byte) = bytes.next() {
        plain.push(match byte {
            b'\\' => match bytes.next()? {
                b'\\' => b'\\',
                b'n' => b'\n',
                b'r' => b'\r',
                _ => return None,
            },
            byte => *byte,
        });
    }
    Some(plain)
}

/// A line of the field `Conffiles`: the path, its digest (`newconffile` before it is known), and perhaps why it stays.
fn conffile(line: &[u8]) -> Option<(&[u8], Option<[u8; 16]>)> {
    let mut line = line.trim_ascii();
    for remark in [&b" obsolete"[..], b" remove-on-upgrade"] {
        line = line.strip_suffix(remark).unwrap_or(line);
    }
    let space = line.iter().rposition(|byte| *byte == b' ')?;
    let (path, digest) = (&line[..space], &line[space + 1..]);
    path.starts_with(b"/").then(|| (path, md5(digest)))
}

/// What `status` says of a package.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Stanza {
    /// The line that it begins with, from 1; 0 before it begins.
    pub(crate) line: u64,
    pub(crate) package: String,
    pub(crate) architecture: String,
    /// `Multi-Arch: same`: it can be installed for several architectures at once.
    pub(crate) several: bool,
    pub(crate) version: String,
    /// Three words: what is wanted, whether it is broken, and how far it is installed.
    pub(crate) status: String,
    /// The source package, with its version in parentheses when that is another one.
    pub(crate) source: String,
    /// In KiB.
    pub(crate) installed_size: String,
    pub(crate) conffiles: Vec<(Vec<u8>, Option<[u8; 16]>)>,
}

impl Stanza {
    /// Whether more of it is there than its configuration.
    fn is_there(&self) -> bool {
        !self.status.ends_with("config-files") && !self.status.ends_with("not-installed")
    }

    /// What the package's files in `info` are called.
    pub(crate) fn file_name(&self) -> String {
        if self.several { format!("{}:{}", self.package, self.architecture) } else { self.package.clone() }
    }
}

/// Gives each paragraph; what in it makes no sense is left out, and told.
pub(crate) fn each_stanza(file: impl io::Read, mut each: impl FnMut(&Stanza)) -> io::Result<Damage> {
    let mut stanza = Stanza::default();
    let mut in_conffiles = false;
    let mut damage = Damage::default();
    lines(file, |line| {
        let Line { number, text, end, .. } = line;
        if matches!(text.first(), Some(b' ' | b'\t')) {
            if stanza.line == 0 {
                damage.note(number, "continues nothing");
            } else if in_conffiles && end == End::TooLong {
                damage.note(number, "is too long");
            } else if in_conffiles
                && stanza.conffiles.len() < MAX_CONFFILES
                && let Some((path, md5)) = conffile(text)
            {
                stanza.conffiles.push((path.to_owned(), md5));
            }
            return;
        }
        in_conffiles = false;
        if text.is_empty() {
            if stanza.line > 0 {
                end_of_stanza(&stanza, &mut damage, &mut each);
                stanza = Stanza::default();
            }
            return;
        }
        if stanza.line == 0 {
            stanza.line = number;
        }
        let colon = text.iter().position(|byte| *byte == b':');
        let colon = colon.filter(|colon| text[..*colon].iter().all(u8::is_ascii_graphic) && *colon > 0);
        let Some(colon) = colon else {
            damage.note(number, "is no field");
            return;
        };
        if !is_text(text) {
            damage.note(number, "is no text");
        }
        let value = text[colon + 1..].trim_ascii();
        let name = text[..colon].to_ascii_lowercase();
        let field = match name.as_slice() {
            b"package" => &mut stanza.package,
            b"architecture" => &mut stanza.architecture,
            b"version" => &mut stanza.version,
            b"status" => &mut stanza.status,
            b"source" => &mut stanza.source,
            b"installed-size" => &mut stanza.installed_size,
            b"multi-arch" => {
                stanza.several = value == b"same";
                return;
            }
            b"conffiles" => {
                in_conffiles = true;
                return;
            }
            _ => return,
        };
        if end == End::TooLong {
            damage.note(number, "is too long");
            return;
        }
        if !field.is_empty() {
            // The line between two paragraphs is gone.
            damage.note(number, "is a field that was there before");
        }
        *field = String::from_utf8_lossy(value).into_owned();
    })?;
    if stanza.line > 0 {
        end_of_stanza(&stanza, &mut damage, &mut each);
    }
    Ok(damage)
}

fn end_of_stanza(stanza: &Stanza, damage: &mut Damage, each: &mut impl FnMut(&Stanza)) {
    if stanza.package.is_empty() {
        damage.note(stanza.line, "begins a paragraph without the name of a package");
    }
    each(stanza);
}

/// Reads all diversions; each has three lines: from, to, by.
pub(crate) fn read_diversions(path: &Place, aliases: &Aliases) -> Vec<Diversion> {
    let mut diversions = Vec::new();
    let mut paths: Vec<Vec<u8>> = Vec::new();
    if let Ok(file) = path.open() {
        each_line(file, |_, line| {
            if line.starts_with(b"/") {
                paths.push(aliases.resolve(line).into_owned());
                return;
            }
            if let [from, to] = &mut *paths {
                let by = String::from_utf8_lossy(line).into_owned();
                diversions.push(Diversion { from: std::mem::take(from), to: std::mem::take(to), by });
            }
            paths.clear();
        })
        .ok();
    }
    diversions
}

/// Under which path the lists have the file that lies at this one, and which packages it can be of.
fn undiverted<'a>(diversions: &'a [Diversion], path: &'a [u8]) -> (&'a [u8], Owner<'a>) {
    for diversion in diversions {
        if diversion.to == path {
            return (&diversion.from, Owner::AnyBut(&diversion.by));
        }
        if diversion.from == path {
            return (path, Owner::Only(&diversion.by));
        }
    }
    (path, Owner::Any)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const DIGEST: &str = "00112233445566778899aabbccddeeff";
    const BYTES: [u8; 16] =
        [0, 0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88, 0x99, 0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0xff];

    #[test]
    fn a_line_of_md5sums_is_a_digest_and_a_path_from_the_root() {
        let parsed = |line: &str| md5sum(line.as_bytes()).map(|(md5, path)| (md5, path.into_owned()));

        for line in
            [format!("{DIGEST}  bin/a b"), format!("{DIGEST} *./bin/a b"), format!("{DIGEST}  /bin/a b")]
        {
            assert_eq!(parsed(&line), Some((BYTES, b"bin/a b".to_vec())));
        }
        assert_eq!(parsed(&format!("\\{DIGEST}  a\\\\b\\nc")), Some((BYTES, b"a\\b\nc".to_vec())));
        for line in ["", DIGEST, &format!("{DIGEST}  "), &format!("{DIGEST} a"), &format!("{DIGEST}0  a")] {
            assert_eq!(parsed(line), None, "{line:?}");
        }
    }

    #[test]
    fn a_conffile_has_a_digest_when_it_is_known_and_perhaps_a_remark() {
        let parsed = |line: &str| conffile(line.as_bytes()).map(|(path, md5)| (path.to_vec(), md5));

        for remark in ["", " obsolete", " remove-on-upgrade"] {
            let line = format!(" /etc/a b {DIGEST}{remark}");
            assert_eq!(parsed(&line), Some((b"/etc/a b".to_vec(), Some(BYTES))));
        }
        assert_eq!(parsed(" /etc/a newconffile"), Some((b"/etc/a".to_vec(), None)));
        assert_eq!(parsed(" /etc/a"), None);
        assert_eq!(parsed(&format!(" etc/a {DIGEST}")), None);
    }

    #[test]
    fn stanzas_are_told_apart_by_empty_lines_and_keep_what_is_asked_for() {
        let status = "Package: a\nStatus: install ok installed\nVersion: 1:2-3\nArchitecture: amd64\n\
            Conffiles:\n /etc/a newconffile\nDescription: x\n /etc/no newconffile\n\n\
            no field\nPackage: b\nArchitecture: i386\nMulti-Arch: same\nVersion: 4";
        let mut names = Vec::new();

        each_stanza(status.as_bytes(), |stanza| {
            names.push((stanza.file_name(), stanza.version.clone(), stanza.conffiles.len()));
        })
        .unwrap();

        assert_eq!(names, [("a".into(), "1:2-3".into(), 1), ("b:i386".into(), "4".to_owned(), 0)]);
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_record_or_left_out(line in proptest::collection::vec(any::<u8>(), 0..80)) {
            md5sum(&line);
            conffile(&line);
            let read = each_stanza(&*line, |_| ());
            prop_assert!(read.is_ok());
        }

        #[test]
        fn a_path_is_read_as_md5sum_wrote_it(path in "[a-z\\\\\n]{1,9}") {
            let written = path.replace('\\', "\\\\").replace('\n', "\\n");
            let mark = if written == path { "" } else { "\\" };
            let line = format!("{mark}{DIGEST}  {written}");
            prop_assert_eq!(md5sum(line.as_bytes()), Some((BYTES, Cow::Borrowed(path.as_bytes()))));
        }
    }
}
