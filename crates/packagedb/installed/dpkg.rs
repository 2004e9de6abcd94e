//! dpkg: `status` and `updates`, or `status.d` of images without dpkg; `info/NAME.list` and `NAME.md5sums`.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::{Algorithm, Digest, FileRecord, Package, Unread, Visitor, Want, unread};
use crate::owners::dpkg::{Diversion, Stanza, each_stanza, md5sum, read_diversions, status_files};
use crate::owners::{Aliases, Manager, each_line, open};

/// Most packages and files of a package that are read.
const MAX_PACKAGES: usize = 200_000;
const MAX_FILES: usize = 2_000_000;

fn directory(root: &Path) -> PathBuf {
    root.join("var/lib/dpkg")
}

pub(super) fn is_there(root: &Path) -> bool {
    let directory = directory(root);
    directory.join("status").is_file() || directory.join("status.d").is_dir()
}

/// A package with what is needed to find its files.
struct Found {
    package: Package,
    file_name: String,
    conffiles: Vec<(Vec<u8>, Option<[u8; 16]>)>,
    /// Where its list and digests are.
    info: PathBuf,
}

pub(super) fn visit(root: &Path, visitor: &mut dyn Visitor) -> Vec<Unread> {
    let directory = directory(root);
    let mut problems = Vec::new();
    let found = read_status(&directory, &mut problems);
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
        package.installed_at = std::fs::metadata(&list).ok().map(|metadata| metadata.mtime());
        let files = match want {
            Want::Files => read_files(&found, &list, &diversions, &overrides, &mut problems),
            Want::Package | Want::Nothing => Vec::new(),
        };
        visitor.take(Manager::Dpkg, package, files);
    }
    problems
}

fn read_status(directory: &Path, problems: &mut Vec<Unread>) -> Vec<Found> {
    let mut found: Vec<Found> = Vec::new();
    let mut places: HashMap<String, usize> = HashMap::new();
    let info = directory.join("info");
    let mut read = |path: &Path, info: &Path, problems: &mut Vec<Unread>| {
        let result = open(path).and_then(|file| {
            each_stanza(file, |stanza| {
                if stanza.package.is_empty() || found.len() >= MAX_PACKAGES {
                    return;
                }
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
        if let Err(error) = result {
            problems.push(unread(path, error));
        }
    };
    let single = directory.join("status.d");
    let status = status_files(directory);
    if status[0].exists() || !single.is_dir() {
        for path in &status {
            read(path, &info, problems);
        }
    }
    // Images without dpkg have a file for each package, with its digests beside it.
    let entries = std::fs::read_dir(&single).into_iter().flatten().flatten();
    let mut entries: Vec<PathBuf> = entries.map(|entry| entry.path()).filter(|path| path.is_file()).collect();
    entries.sort();
    for path in entries.iter().filter(|path| path.extension().is_none_or(|end| end != "md5sums")) {
        read(path, &single, problems);
    }
    // What is not installed leaves a stanza behind.
    found.retain(|one| one.package.state != "not-installed");
    found
}

fn of_stanza(stanza: &Stanza, info: &Path) -> Found {
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
    Found { package, file_name, conffiles: stanza.conffiles.clone(), info: info.to_owned() }
}

/// What the administrator set instead of what a package has: user, group, mode.
type Overrides = HashMap<Vec<u8>, (String, String, u32)>;

fn read_overrides(path: &Path) -> Overrides {
    let mut overrides = Overrides::new();
    let Ok(file) = open(path) else { return overrides };
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

/// The paths of a list, but for that of the root directory.
fn read_list(path: &Path) -> io::Result<Vec<Vec<u8>>> {
    let mut paths = Vec::new();
    each_line(open(path)?, |_, line| {
        if line.starts_with(b"/") && line != b"/." && paths.len() < MAX_FILES {
            paths.push(line.to_owned());
        }
    })?;
    Ok(paths)
}

fn read_md5sums(path: &Path) -> io::Result<HashMap<Vec<u8>, [u8; 16]>> {
    let mut digests = HashMap::new();
    each_line(open(path)?, |_, line| {
        if let Some((md5, path)) = md5sum(line)
            && digests.len() < MAX_FILES
        {
            digests.insert([b"/", &*path].concat(), md5);
        }
    })?;
    Ok(digests)
}

fn read_files(
    found: &Found,
    list: &Path,
    diversions: &[Diversion],
    overrides: &Overrides,
    problems: &mut Vec<Unread>,
) -> Vec<FileRecord> {
    let md5sums = found.info.join(format!("{}.md5sums", found.file_name));
    let digests = match read_md5sums(&md5sums) {
        Ok(digests) => digests,
        // A package without files of its own has none.
        Err(error) if error.kind() == io::ErrorKind::NotFound => HashMap::new(),
        Err(error) => {
            problems.push(unread(&md5sums, error));
            HashMap::new()
        }
    };
    let paths = match read_list(list) {
        Ok(paths) => paths,
        // Images without dpkg have digests only.
        Err(error) if error.kind() == io::ErrorKind::NotFound => digests.keys().cloned().collect(),
        Err(error) => {
            problems.push(unread(list, error));
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
