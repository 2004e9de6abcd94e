//! A directory listed and compared with what is known of it, and its files read in parts.

use std::ffi::{OsStr, OsString};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, RawDir};

use super::{Depth, Findings, ScanRules, plan};
use crate::avoided::is_unknown_mount;
use crate::look::{
    Found, Plan, Scratch, glance, is_missing, look_at_glanced, look_at_listed_file, looks_the_same,
    open_directory,
};
use crate::object::{Kind, Object};
use crate::reading::SLICE_BYTES;
use crate::rules::NamesRule;

/// Files of one part.
const PART_FILES: usize = 64;

/// Bytes of one part; a single larger file is a part of its own.
const PART_BYTES: u64 = 4 * 1024 * 1024;

/// Names of a directory that are compared at a time, so that a directory takes no more memory however many it has.
pub(crate) const PORTION_NAMES: usize = 16_384;

/// Bytes of names that the kernel gives at a time.
const LIST_BYTES: usize = 32 * 1024;

/// A file of a directory that is to be read.
#[derive(Debug)]
pub struct ToRead {
    /// Its name.
    name: OsString,
    /// It as it was seen just now; nothing when its directory lists it as a regular file, and that is all.
    glanced: Option<Object>,
    /// What is known of it.
    known: Option<Object>,
    /// What to find out.
    plan: Plan,
}

/// Cuts files into parts of about the same work.
pub(super) fn parts(files: Vec<ToRead>) -> impl Iterator<Item = Vec<ToRead>> {
    let mut files = files.into_iter().peekable();
    std::iter::from_fn(move || {
        let mut part = Vec::new();
        let mut bytes = 0;
        while let Some(next) = files.peek() {
            // Of those whose size is not known yet, the rest of a part is given back when they are large.
            let size = next.glanced.as_ref().map_or(0, |glanced| glanced.size);
            if !part.is_empty() && (part.len() >= PART_FILES || bytes + size > PART_BYTES) {
                break;
            }
            bytes += size;
            part.extend(files.next());
        }
        (!part.is_empty()).then_some(part)
    })
}

/// What was found in a directory.
pub(super) struct Listing {
    /// The directory's device: a file with another one is mounted there.
    pub(super) device: u64,
    pub(super) findings: Findings,
    pub(super) directories: Vec<(OsString, u64)>,
    pub(super) to_read: Vec<ToRead>,
}

/// The first names in a directory after one of them, and their kinds, which are unknown where the file system does not
/// say them; whether there are more.
fn names(directory: &OwnedFd, after: Option<&OsStr>) -> io::Result<(Vec<(OsString, FileType)>, bool)> {
    let mut buffer = vec![MaybeUninit::uninit(); LIST_BYTES];
    let mut list = RawDir::new(directory, &mut buffer);
    let mut names: Vec<(OsString, FileType)> = Vec::new();
    let mut has_more = false;
    let keep_first = |names: &mut Vec<(OsString, FileType)>| {
        if names.len() > PORTION_NAMES {
            names.select_nth_unstable_by(PORTION_NAMES, |(one, _), (other, _)| one.cmp(other));
            names.truncate(PORTION_NAMES);
            return true;
        }
        false
    };
    while let Some(entry) = list.next() {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name == b"." || name == b".." || after.is_some_and(|after| name <= after.as_bytes()) {
            continue;
        }
        names.push((OsString::from_vec(name.to_vec()), entry.file_type()));
        if names.len() >= 2 * PORTION_NAMES {
            has_more |= keep_first(&mut names);
        }
    }
    has_more |= keep_first(&mut names);
    names.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
    Ok((names, has_more))
}

/// Compares the names of a directory with what is known of them; gives the last one when there are more.
pub(super) fn list(
    path: &Path,
    after: Option<&OsStr>,
    known: Vec<(OsString, Object)>,
    rules: &ScanRules,
    listing: &mut Listing,
    scratch: &mut Scratch,
) -> io::Result<Option<OsString>> {
    let known_after =
        if known.len() < PORTION_NAMES { None } else { known.last().map(|(name, _)| name.clone()) };
    let directory = match open_directory(path, &rules.avoided) {
        Ok(directory) => directory,
        Err(error) => {
            listing.findings.suspects.extend(known.into_iter().map(|(name, _)| name));
            // What nobody knows yet is looked at when it is known.
            return if is_missing(&error) || is_unknown_mount(&error) { Ok(known_after) } else { Err(error) };
        }
    };
    listing.device = rustix::fs::fstat(&directory)?.st_dev;
    let (mut names, has_more) = names(&directory, after)?;
    let there_after = names.last().filter(|_| has_more).map(|(name, _)| name.clone());
    // No further than both are complete.
    let last = [there_after, known_after].into_iter().flatten().min();
    let is_in = |name: &OsString| last.as_ref().is_none_or(|last| name <= last);
    names.truncate(names.partition_point(|(name, _)| is_in(name)));
    let alike = rules.coverage.options_of_names(path);
    let mut known = known.into_iter().take_while(|(name, _)| is_in(name)).peekable();
    let mut inside = PathBuf::from(path);
    for (name, listed) in names {
        while let Some((gone, _)) = known.next_if(|(known, _)| *known < name) {
            listing.findings.suspects.push(gone);
        }
        let before = known.next_if(|(known, _)| *known == name).map(|(_, object)| object);
        inside.push(&name);
        if rules.avoided.has(&inside) {
            inside.pop();
            continue;
        }
        compare_name(&inside, name, listed, before, rules, alike, &directory, listing, scratch);
        inside.pop();
    }
    listing.findings.suspects.extend(known.map(|(name, _)| name));
    Ok(last)
}

#[expect(clippy::too_many_arguments, reason = "all of it is about one name")]
fn compare_name(
    path: &Path,
    name: OsString,
    listed: FileType,
    known: Option<Object>,
    rules: &ScanRules,
    alike: NamesRule<'_>,
    directory: &OwnedFd,
    listing: &mut Listing,
    scratch: &mut Scratch,
) {
    let options = match alike {
        NamesRule::Alike(options) => options,
        NamesRule::Each => rules.coverage.options(path),
    };
    let may_be_directory = matches!(listed, FileType::Directory | FileType::Unknown);
    let descends = may_be_directory && rules.coverage.descends(path);
    let may_be_link = matches!(listed, FileType::Symlink | FileType::Unknown);
    let is_followed = may_be_link && rules.coverage.may_follow(path);
    if options.is_none() && !descends && !is_followed {
        return;
    }
    let is_learned = known.is_none()
        && (rules.all_learned
            || !rules.learned.is_empty()
                && rules.coverage.rule_text(path).is_some_and(|rule| rules.learned.contains(rule)));
    let proves = matches!(rules.depth, Depth::Prove);
    if let Some(options) = options.filter(|options| options.hash && listed == FileType::RegularFile) {
        let is_read = match &known {
            None => !is_learned,
            Some(known) => proves && known.content.last_read().is_some(),
        };
        if is_read && known.as_ref().is_none_or(|known| !known.content.is_open()) {
            listing.findings.compared += 1;
            let plan = Plan { prove: known.is_some(), ..plan(options) };
            listing.to_read.push(ToRead { name, glanced: None, known, plan });
            return;
        }
    }
    let object = match glance(directory.as_fd(), &name, scratch) {
        Ok(object) => object,
        Err(error) if is_missing(&error) => {
            if known.is_some() {
                listing.findings.suspects.push(name);
            }
            return;
        }
        Err(error) if is_unknown_mount(&error) => {
            listing.findings.suspects.push(name);
            return;
        }
        Err(error) => {
            listing.findings.unreadable.push((name, error));
            return;
        }
    };
    if descends && object.kind == Kind::Directory {
        listing.directories.push((name.clone(), object.device));
    }
    if object.kind == Kind::Link && is_followed {
        listing.findings.links.push(name.clone());
    }
    let Some(options) = options else { return };
    listing.findings.compared += 1;
    if object.kind == Kind::File && (object.links > 1 || object.device != listing.device) {
        listing.findings.linked.push(name.clone());
    }
    match known {
        Some(known) if looks_the_same(&object, &known) && !known.content.is_open() => {
            let was_read = known.content.last_read().is_some();
            if proves && was_read {
                let plan = Plan { prove: true, ..plan(options) };
                listing.to_read.push(ToRead { name, glanced: Some(object), known: Some(known), plan });
            }
        }
        Some(_) => listing.findings.suspects.push(name),
        None if is_learned => listing.findings.suspects.push(name),
        None if object.kind == Kind::Directory => listing.findings.fresh.push((name, object)),
        None => {
            let plan = plan(options);
            listing.to_read.push(ToRead { name, glanced: Some(object), known: None, plan });
        }
    }
}

/// Reads files of a directory; gives those back that are left when much was read, for whoever is idle.
pub(super) fn read_part(
    path: &Path,
    files: Vec<ToRead>,
    findings: &mut Findings,
    scratch: &mut Scratch,
) -> io::Result<Option<Vec<ToRead>>> {
    let directory = open_directory(path, &scratch.avoided)?;
    let device = rustix::fs::fstat(&directory)?.st_dev;
    let begun = scratch.bytes_read;
    let mut files = files.into_iter();
    while let Some(ToRead { name, glanced, known, plan }) = files.next() {
        let was_glanced = glanced.is_some();
        scratch.slice = Some(SLICE_BYTES);
        let found = match glanced {
            None => look_at_listed_file(directory.as_fd(), &name, plan, known.as_ref(), scratch),
            glanced => look_at_glanced(directory.as_fd(), &name, glanced, plan, known.as_ref(), scratch),
        };
        // It is looked at in the lane of whoever can write it.
        if scratch.reading.take().is_some() {
            findings.large.push(name.clone());
        }
        match found {
            Ok(Found::Object { object, .. }) if known.is_some() && object.content.is_open() => {
                // What cannot be read is looked at for its own sake.
                if !findings.large.contains(&name) {
                    findings.suspects.push(name);
                }
            }
            Ok(Found::Object { object, .. }) => {
                if !was_glanced && object.kind == Kind::File && (object.links > 1 || object.device != device)
                {
                    findings.linked.push(name.clone());
                }
                match known {
                    // Something else took its place since it was listed: what that is has to be found out in full.
                    None if !was_glanced && object.kind != Kind::File => findings.suspects.push(name),
                    None => findings.fresh.push((name, object)),
                    Some(known) if !was_glanced && !looks_the_same(&object, &known) => {
                        findings.suspects.push(name);
                    }
                    Some(known) if known != object => findings.disproved.push(name),
                    Some(_) => {}
                }
            }
            Ok(Found::Missing) if known.is_some() => findings.suspects.push(name),
            Ok(Found::Missing) => {}
            Err(error) => findings.unreadable.push((name, error)),
        }
        if files.len() > 0 && scratch.bytes_read - begun > PART_BYTES {
            return Ok(Some(files.collect()));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::look::look_at;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn parts_hold_every_file_once_and_none_is_too_large(
            sizes in proptest::collection::vec(0..2 * PART_BYTES, 0..300),
        ) {
            let file = look_at(Path::new("/"), Plan::default(), None, &mut Scratch::default());
            let Ok(Found::Object { object: file, .. }) = file else { panic!() };
            let files: Vec<ToRead> = sizes
                .iter()
                .enumerate()
                .map(|(number, size)| ToRead {
                    name: OsString::from(number.to_string()),
                    glanced: Some(Object { size: *size, ..file.clone() }),
                    known: None,
                    plan: Plan::default(),
                })
                .collect();

            let mut next = 0;
            for part in parts(files) {
                let bytes: u64 = part.iter().map(|one| sizes[one.name.to_str().unwrap().parse::<usize>().unwrap()]).sum();
                prop_assert!(part.len() <= PART_FILES && (bytes <= PART_BYTES || part.len() == 1));
                for one in part {
                    prop_assert_eq!(one.name.to_str().unwrap(), next.to_string());
                    next += 1;
                }
            }
            prop_assert_eq!(next, sizes.len());
        }
    }
}
