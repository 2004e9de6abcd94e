//! dpkg: `status` and `updates`, or `status.d` of images without dpkg; `info/NAME.list` and `NAME.md5sums`.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;

use vigie_tree::{Place, Root};

use super::{Algorithm, Digest, FileRecord, Package, Unread, Visitor, Want, unread};
use crate::owners::dpkg::{Diversion, Stanza, each_stanza, md5sum, read_diversions, status_files};
use crate::owners::{Aliases, Manager, each_line};
use crate::text::{Damage, End, Line, is_text, lines};

/// Most packages and files of a package that are read.
const MAX_PACKAGES: usize = 200_000;
const MAX_FILES: usize = 2_000_000;

/// The states of a package, see dpkg(1).
const STATES: [&str; 8] = [
    "not-installed",
    "config-files",
    "half-installed",
    "unpacked",
    "half-configured",
    "triggers-awaited",
    "triggers-pending",
    "installed",
];

fn directory(root: &Root) -> Place {
    root.place("var/lib/dpkg")
}

pub(super) fn is_there(root: &Root) -> bool {
    let directory = directory(root);
    directory.join("status").is_file() || directory.join("status.d").is_directory()
}

/// A package with what is needed to find its files.
struct Found {
    package: Package,
    file_name: String,
    conffiles: Vec<(Vec<u8>, Option<[u8; 16]>)>,
    /// Where its list and digests are.
    info: Place,
}

pub(super) fn visit(root: &Root, visitor: &mut dyn Visitor) -> Vec<Unread> {
    let directory = directory(root);
    let mut problems = Vec::new();
    let found = read_status(&directory, &mut problems);
    for name in ["diversions", "statoverride"] {
        let path = directory.join(name);
        match path.open() {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                problems.push(cannot_be_read(&path, error))
            }
            _ => {}
        }
    }
    // Lists name paths as packages have them, so links are not resolved here.
    let diversions = read_diversions(&directory.join("diversions"), &Aliases::default());
    let overrides = read_overrides(&directory.join("statoverride"));
    for found in found {
        let want = visitor.want(Manager::Dpkg, &found.package);
        if want == Want::Nothing {
            continue;
        }
        let mut package = found.package.clone();
        let list = found.info.join(format!("{}.list", found.file_name));
        // Nothing else tells when it was.
        package.installed_at = list.status().ok().map(|status| status.modified);
        let files = match want {
            Want::Files => read_files(&found, &list, &diversions, &overrides, &mut problems),
            Want::Package | Want::Nothing => Vec::new(),
        };
        visitor.take(Manager::Dpkg, package, files);
    }
    problems
}

fn read_status(directory: &Place, problems: &mut Vec<Unread>) -> Vec<Found> {
    let mut found: Vec<Found> = Vec::new();
    let mut places: HashMap<String, usize> = HashMap::new();
    let info = directory.join("info");
    let mut read = |path: &Place, info: &Place, problems: &mut Vec<Unread>| {
        let mut senseless = Vec::new();
        let result = path.open().and_then(|file| {
            each_stanza(file, |stanza| {
                if stanza.package.is_empty() || found.len() >= MAX_PACKAGES {
                    return;
                }
                senseless.extend(senseless_in(stanza).map(|why| (stanza.line, why)));
                let one = of_stanza(stanza, info);
                let key = format!("{}:{}", stanza.package, stanza.architecture);
                match places.get(&key) {
                    Some(place) => found[*place] = one,
                    None => {
                        places.insert(key, found.len());
                        found.push(one);
                    }
                }
            })
        });
        match result {
            Ok(mut damage) => {
                senseless.into_iter().for_each(|(line, why)| damage.note(line, why));
                problems.extend((!damage.is_none()).then(|| unread(path, &damage)));
            }
            Err(error) => problems.push(cannot_be_read(path, error)),
        }
    };
    let single = directory.join("status.d");
    let status = status_files(directory);
    let is_managed = status[0].status().is_ok() || !single.is_directory();
    if is_managed {
        for path in &status {
            read(path, &info, problems);
        }
        let cut = status.iter().filter(|path| is_cut(path));
        problems.extend(cut.map(|path| unread(path, "is cut: it ends in the middle of a line")));
    }
    // Images without dpkg have a file for each package, with its digests beside it.
    let entries = match single.list() {
        Ok(entries) => entries,
        Err(error) => {
            let is_none = error.kind() == io::ErrorKind::NotFound;
            problems.extend((!is_none).then(|| cannot_be_read(&single, error)));
            Vec::new()
        }
    };
    let mut entries: Vec<Place> = entries.into_iter().filter(Place::is_file).collect();
    entries.sort_by(|a, b| a.path().cmp(b.path()));
    for path in entries.iter().filter(|place| place.path().extension().is_none_or(|end| end != "md5sums")) {
        read(path, &single, problems);
    }
    if is_managed {
        problems.extend(lists_of_nobody(&info, &found));
    }
    // What is not installed leaves a stanza behind.
    found.retain(|one| one.package.state != "not-installed");
    found
}

/// What makes no sense in a paragraph, although each of its fields is one.
fn senseless_in(stanza: &Stanza) -> Option<&'static str> {
    // Images without dpkg may say nothing of it.
    let state = stanza.status.split_ascii_whitespace().nth(2).unwrap_or("installed");
    if (!stanza.status.is_empty() && stanza.status.split_ascii_whitespace().count() != 3)
        || !STATES.contains(&state)
    {
        return Some("begins a package in an unknown state");
    }
    (stanza.version.is_empty() && !matches!(state, "not-installed" | "config-files"))
        .then_some("begins a package without a version")
}

fn is_cut(path: &Place) -> bool {
    let Ok(file) = path.open() else { return false };
    let Ok(length) = file.metadata().map(|metadata| metadata.len()) else { return false };
    let mut last = [0];
    length > 0 && file.read_exact_at(&mut last, length - 1).is_ok() && last != *b"\n"
}

/// Every package that dpkg knows has a list, and a list without a package is what is left of a status that lost it.
fn lists_of_nobody(info: &Place, found: &[Found]) -> Option<Unread> {
    let names: HashSet<&[u8]> = found.iter().map(|one| one.package.name.as_bytes()).collect();
    let entries = info.list().unwrap_or_default();
    let nobodys = entries.iter().filter(|entry| {
        let name = entry.path().file_name().and_then(|name| name.as_bytes().strip_suffix(b".list"));
        // The architecture stands behind a colon.
        name.and_then(|name| name.split(|byte| *byte == b':').next())
            .is_some_and(|name| !names.contains(name))
    });
    match nobodys.count() {
        0 => None,
        count => Some(unread(info, format_args!("has the lists of {count} packages that no status names"))),
    }
}

fn cannot_be_read(path: &Place, error: impl std::fmt::Display) -> Unread {
    unread(path, format_args!("cannot be read: {error}"))
}

fn of_stanza(stanza: &Stanza, info: &Place) -> Found {
    let mut words = stanza.status.split_ascii_whitespace();
    let (wanted, flag, state) = (words.next(), words.next(), words.next());
    let mut state = state.unwrap_or("installed").to_owned();
    if flag == Some("reinstreq") {
        state.push_str(", must be reinstalled");
    }
    let package = Package {
        name: stanza.package.clone(),
        version: stanza.version.clone(),
        architecture: stanza.architecture.clone(),
        source: stanza.source.split_ascii_whitespace().next().map(str::to_owned),
        state,
        wanted: wanted.filter(|wanted| *wanted != "install").map(str::to_owned),
        installed_at: None,
        size: stanza.installed_size.parse::<u64>().ok().and_then(|kib| kib.checked_mul(1024)),
    };
    let file_name = stanza.file_name();
    Found { package, file_name, conffiles: stanza.conffiles.clone(), info: info.clone() }
}

/// What the administrator set instead of what a package has: user, group, mode.
type Overrides = HashMap<Vec<u8>, (String, String, u32)>;

fn read_overrides(path: &Place) -> Overrides {
    let mut overrides = Overrides::new();
    let Ok(file) = path.open() else { return overrides };
    each_line(file, |_, line| {
        let mut words = line.splitn(4, |byte| *byte == b' ');
        let mut text = || words.next().map(|word| String::from_utf8_lossy(word).into_owned());
        if let (Some(user), Some(group), Some(mode)) = (text(), text(), text())
            && let Ok(mode) = u32::from_str_radix(&mode, 8)
            && let Some(path) = words.next()
        {
            overrides.insert(path.to_owned(), (user, group, mode & 0o7777));
        }
    })
    .ok();
    overrides
}

/// The paths of a list, but for that of the root directory, and what makes no sense in it.
fn read_list(path: &Place) -> io::Result<(Vec<Vec<u8>>, Damage)> {
    let mut paths = Vec::new();
    let mut damage = Damage::default();
    lines(path.open()?, |Line { number, text, end, .. }| match text {
        _ if end == End::TooLong || paths.len() >= MAX_FILES => damage.note(number, "is too much"),
        [b'/', ..] if is_text(text) => {
            if text != b"/." {
                paths.push(text.to_owned());
            }
        }
        [] => {}
        _ => damage.note(number, "is no path"),
    })?;
    Ok((paths, damage))
}

/// Digests by path.
type Md5sums = HashMap<Vec<u8>, [u8; 16]>;

fn read_md5sums(path: &Place) -> io::Result<(Md5sums, Damage)> {
    let mut digests = HashMap::new();
    let mut damage = Damage::default();
    lines(path.open()?, |Line { number, text, end, .. }| match md5sum(text) {
        _ if end == End::TooLong || digests.len() >= MAX_FILES => damage.note(number, "is too much"),
        Some((md5, path)) => {
            digests.insert([b"/", &*path].concat(), md5);
        }
        None if text.is_empty() => {}
        None => damage.note(number, "is no digest of a path"),
    })?;
    Ok((digests, damage))
}

fn read_files(
    found: &Found,
    list: &Place,
    diversions: &[Diversion],
    overrides: &Overrides,
    problems: &mut Vec<Unread>,
) -> Vec<FileRecord> {
    let md5sums = found.info.join(format!("{}.md5sums", found.file_name));
    let mut is_there = true;
    let digests = match read_md5sums(&md5sums) {
        Ok((digests, damage)) => {
            problems.extend((!damage.is_none()).then(|| unread(&md5sums, &damage)));
            digests
        }
        // A package without files of its own has none.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            is_there = false;
            HashMap::new()
        }
        Err(error) => {
            problems.push(cannot_be_read(&md5sums, error));
            HashMap::new()
        }
    };
    let paths = match read_list(list) {
        Ok((paths, damage)) => {
            problems.extend((!damage.is_none()).then(|| unread(list, &damage)));
            paths
        }
        // Images without dpkg have digests only.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let is_image = list.path().parent().is_some_and(|parent| parent.ends_with("status.d"));
            let has_files = !matches!(&*found.package.state, "config-files" | "half-installed");
            if has_files && !(is_image && is_there) {
                problems.push(unread(list, "is missing: the files of its package are not known"));
            }
            digests.keys().cloned().collect()
        }
        Err(error) => {
            problems.push(cannot_be_read(list, error));
            return Vec::new();
        }
    };
    let conffiles: HashMap<&[u8], Option<[u8; 16]>> =
        found.conffiles.iter().map(|(path, md5)| (path.as_slice(), *md5)).collect();
    let directories: HashSet<&[u8]> = paths.iter().filter_map(|path| parent(path)).collect();
    let mut files = Vec::with_capacity(paths.len());
    for path in &paths {
        let conffile = conffiles.get(path.as_slice());
        let md5 = digests.get(path).copied().or_else(|| conffile.copied().flatten());
        let place = diverted(diversions, path, &found.package.name);
        let set = overrides.get(&*place);
        files.push(FileRecord {
            digest: md5.map(|md5| Digest { algorithm: Algorithm::Md5, bytes: md5.into() }),
            mode: set.map(|(_, _, mode)| *mode),
            user: set.map(|(user, _, _)| user.clone()),
            group: set.map(|(_, group, _)| group.clone()),
            configuration: conffile.is_some(),
            directory: directories.contains(path.as_slice()),
            lacks_digest: md5.is_none() && conffile.is_none(),
            path: place.into_owned(),
            ..FileRecord::default()
        });
    }
    files
}

fn parent(path: &[u8]) -> Option<&[u8]> {
    let slash = path.iter().rposition(|byte| *byte == b'/')?;
    (slash > 0).then(|| &path[..slash])
}

/// Where a package's file lies when another package, or the administrator, put its own in that place.
fn diverted<'a>(diversions: &'a [Diversion], path: &'a [u8], package: &str) -> Cow<'a, [u8]> {
    match diversions.iter().find(|diversion| diversion.from == path && diversion.by != package) {
        Some(diversion) => Cow::Borrowed(&diversion.to),
        None => Cow::Borrowed(path),
    }
}
