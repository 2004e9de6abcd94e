//! Whether an object is what is searched for, as far as its name and its metadata tell.

use std::sync::Arc;

use vigie_host::users::Names;

use super::place::{FileName, Place};
use super::{Candidate, Interest, Walk, Worker};
use crate::attributes::Extended;
use crate::open::Status;
use crate::parameters::{Check, Test};

impl Walk {
    /// Asks about a regular file: by name, then by metadata, and keeps it for reading when that does not decide.
    pub(super) fn file(
        &self,
        place: &Arc<Place>,
        file: &FileName<'_>,
        interests: &[Interest],
        is_file: bool,
        worker: &mut Worker,
    ) {
        let mut status: Option<Status> = None;
        let mut asking = Vec::new();
        for interest in interests {
            let search = &self.searches[interest.search];
            if self.findings.is_closed(interest.search) {
                continue;
            }
            let match_all = search.options.match_all;
            let mut passed = Vec::new();
            let (first, names) = search.names();
            if !gather(match_all, first, names, &mut passed, |check| name_passes(check, file.called())) {
                continue;
            }
            let (first, metadata) = search.metadata();
            let mut extended: Option<Extended> = None;
            let reads = is_file
                && (!search.contents().1.is_empty()
                    || !search.digests().1.is_empty()
                    || (search.options.return_sha256
                        && (match_all || !passed.is_empty() || !metadata.is_empty())));
            // A file that is read tells its status when it is open.
            if !metadata.is_empty() || (!reads && (match_all || !passed.is_empty())) {
                let known = match status {
                    Some(status) => status,
                    None => match worker.at(place, file).status(file) {
                        Ok(found) => *status.insert(found),
                        Err(error) => {
                            return self.cannot_open(&place.path(file), error);
                        }
                    },
                };
                if metadata.iter().any(|check| check.test.is_extended()) {
                    worker.at(place, file);
                    extended = Some(self.extended(place, file));
                }
                let passes =
                    |check: &Check| metadata_passes(check, known, &self.findings.names, extended.as_ref());
                if !gather(match_all, first, metadata, &mut passed, passes) {
                    continue;
                }
                if !reads && (match_all || !passed.is_empty()) {
                    let path = place.path(file);
                    let passed = (!match_all).then_some(&*passed);
                    let extended = || extended.take().unwrap_or_else(|| self.extended(place, file));
                    self.findings.add(interest.search, passed, &path, known, None, extended);
                }
            }
            // Only a file has a content; without all filters each other one is asked alone.
            let has_other =
                !is_file && match_all && !(search.contents().1.is_empty() && search.digests().1.is_empty());
            if reads && !has_other {
                asking.push((interest.search, passed));
            }
        }
        if !asking.is_empty() {
            let candidate = Candidate { place: Arc::clone(place), file: file.to_kept(), asking };
            worker.own.batch().push(candidate);
        }
    }

    /// The extended attributes of an object; none when it cannot be looked at.
    pub(super) fn extended(&self, place: &Place, file: &FileName<'_>) -> Extended {
        place.extended(file).unwrap_or_else(|error| {
            self.cannot_open(&place.path(file), error);
            Extended::default()
        })
    }
}

/// Applies filters of one kind. With `match_all` tells whether all passed; otherwise notes those that did.
fn gather(
    match_all: bool,
    first: usize,
    checks: &[Check],
    passed: &mut Vec<usize>,
    passes: impl Fn(&Check) -> bool,
) -> bool {
    if match_all {
        return checks.iter().all(passes);
    }
    let places = checks.iter().enumerate().filter(|(_, check)| passes(check)).map(|(place, _)| first + place);
    passed.extend(places);
    true
}

pub(super) fn name_passes(check: &Check, name: &[u8]) -> bool {
    matches!(&check.test, Test::Name(pattern) if pattern.accepts(name) != check.mismatch)
}

fn metadata_passes(check: &Check, status: Status, names: &Names, extended: Option<&Extended>) -> bool {
    let raw = match &check.test {
        Test::Changed(age) => age.contains(status.changed),
        Test::Created(age) => status.created.is_some_and(|created| age.contains(created)),
        Test::Owner(owner) => owner.accepts(status.uid, names.user(status.uid)),
        Test::Group(group) => group.accepts(status.gid, names.group(status.gid)),
        Test::Inode(range) => range.contains(status.inode),
        Test::Links(range) => range.contains(u64::from(status.links)),
        Test::Capabilities(pattern) => extended.is_some_and(|extended| {
            !extended.capabilities.is_empty() && pattern.accepts(extended.capabilities.as_bytes())
        }),
        Test::Attribute(pattern) => extended
            .is_some_and(|extended| extended.names.iter().any(|name| pattern.accepts(name.as_bytes()))),
        Test::Size(range) => range.contains(status.size),
        Test::Mode(pattern) => pattern.accepts(crate::filter::mode_text(status.mode).as_bytes()),
        Test::Modified(age) => age.contains(status.modified),
        Test::Name(_) | Test::Content(_) | Test::Digest(..) | Test::AnyDigest(_) => return false,
    };
    raw != check.mismatch
}
