//! The standard module `file`: searches files by name, size, mode, time, content and digest.
//!
//! Takes the parameters of MIG's module of that name and answers in its form. [`parameters`], [`filter`],
//! [`pattern`], [`content`] and [`digest`] decide without touching a file; [`open`] and [`read`] touch one file,
//! [`walk`] finds them, with threads that share their work through a [`pool`], and [`findings`] keeps the result
//! within limits. Contents of files are never returned.

#![forbid(unsafe_code)]

pub mod attributes;
pub mod content;
pub mod digest;
pub mod filter;
pub mod findings;
pub mod mounts;
pub mod open;
pub mod parameters;
pub mod pattern;
pub mod pool;
pub mod read;
pub mod walk;

use std::collections::{BTreeSet, HashMap};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant, SystemTime};

use serde::Serialize;
use serde_json::value::RawValue;
use vigie_host::mounts::of_process;
use vigie_sdk::privacy::Showing;
use vigie_sdk::protocol::Progress;
use vigie_sdk::{ModuleResult, Query, StandardModule};

use crate::mounts::Mounts;
use crate::parameters::{ParametersError, Search};
use crate::walk::{Stop, Walk};

/// Where the kernel shows the mounts that this process sees.
const MOUNTINFO: &str = "/proc/self/mountinfo";

/// The module.
#[derive(Debug)]
pub struct File;

impl StandardModule for File {
    const NAME: &'static str = "file";

    fn run(query: &Query) -> ModuleResult {
        search(query)
    }
}

/// Checks the parameters of a query without running it.
///
/// # Errors
/// Everything that is wrong with them, by search and field.
pub fn check(parameters: Option<&RawValue>) -> Result<(), ParametersError> {
    parameters::parse(parameters, 0).map(drop)
}

/// What a result may show in extra privacy mode: what was asked, and how much was found.
#[must_use]
pub fn masked_form(place: &[&str]) -> Showing {
    match place {
        ["elements"] | ["elements", _] | ["elements", _, "fileinfo"] => Showing::Inside,
        // The investigator's own words.
        ["elements", _, "search"] => Showing::Anything,
        ["elements", _, "file"] => Showing::Hidden,
        ["elements", _, "fileinfo", "size" | "mode" | "lastmodified" | "sha256"] => Showing::Hidden,
        ["statistics"] => Showing::Inside,
        ["statistics", "filescount" | "openfailed" | "totalhits" | "exectime" | "incomplete"] => {
            Showing::Unnamed
        }
        ["errors"] => Showing::Unnamed,
        _ => Showing::Nothing,
    }
}

/// MIG's counters, and ours.
#[derive(Debug, Serialize)]
struct Statistics {
    filescount: u64,
    openfailed: u64,
    totalhits: usize,
    exectime: String,
    /// The search ended before its end.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    incomplete: bool,
}

fn search(query: &Query) -> ModuleResult {
    let started = now();
    let mut searches = match parameters::parse(query.parameters.as_deref(), nanoseconds(SystemTime::now())) {
        Ok(searches) => searches,
        Err(error) => return ModuleResult::rejected(error.0.iter().map(ToString::to_string)),
    };
    let unexpanded = expand(&mut searches, query);
    let mounts = match mounts(&searches) {
        Ok(mounts) => mounts,
        Err(error) => return ModuleResult::failed([error]),
    };
    let walk = Arc::new(Walk::new(searches.into(), mounts, query.extraprivacy));
    for path in unexpanded {
        walk.leave_out(path.as_os_str().as_bytes(), "does not respond: what it stands for is not known");
    }
    let (so_far, parting) = (Arc::clone(&walk), query.parting());
    let kept = query.keep(move || result(&so_far, Err(Stop::Deadline), started));
    let ended = walk.run(parting, || {
        query.report(|| Progress {
            done: walk.files(),
            found: Some(walk.findings.taken()),
            unit: "files".to_owned(),
            ..Progress::default()
        });
        match (query.is_late(), query.is_stopped()) {
            (true, _) => Some(Stop::Deadline),
            (false, true) => Some(Stop::Asked),
            (false, false) => None,
        }
    });
    kept.answer(|| result(&walk, ended, started))
}

/// The answer of a walk that ended, or that is not waited for any longer.
fn result(walk: &Walk, ended: Result<(), Stop>, started: Instant) -> ModuleResult {
    let (filescount, openfailed) = (walk.files(), walk.failed());
    let mut coverage = walk.coverage();
    let mut errors = walk.errors.finish();
    for search in walk.findings.limited() {
        let (label, limit) = (&search.label, search.options.match_limit);
        errors.push(format!(
            "search {label:?} stopped at its matchlimit of {limit}: there may be more matches"
        ));
        coverage.skip(
            format!("the rest of search {label:?}"),
            format!("it stopped at its matchlimit of {limit}"),
        );
    }
    if let Err(stop) = &ended {
        errors.push(format!("the search ended early because {stop}: there may be more matches"));
        coverage.skip("the rest of the search", format!("it ended early because {stop}"));
    }
    let (elements, totalhits) = walk.findings.take_elements();
    let mut result = ModuleResult::found(totalhits > 0, &elements).with_statistics(&Statistics {
        filescount,
        openfailed,
        totalhits,
        exectime: duration_text(now() - started),
        incomplete: ended.is_err(),
    });
    result.success &= ended.is_ok();
    result.coverage = Some(coverage);
    result.errors = (!errors.is_empty()).then_some(errors);
    result
}

/// How long patterns are expanded at most, before their searches begin without what a file system does not tell; no
/// longer than half of the time, the rest of which is the searches'.
const EXPANDING: Duration = Duration::from_secs(5);

/// Most patterns that are expanded at once.
const MAX_EXPANDING: usize = 16;

/// Replaces patterns by the paths that they stand for; returns those whose file system did not respond in time.
fn expand(searches: &mut [Search], query: &Query) -> Vec<PathBuf> {
    let mut patterns: Vec<PathBuf> = searches.iter().flat_map(|search| search.paths.clone()).collect();
    patterns.retain(|path| is_pattern(path));
    patterns.sort();
    patterns.dedup();
    if patterns.is_empty() {
        return patterns;
    }
    // Each on its own: the next one may be on a file system that does respond. A thread that waits ends with the
    // process.
    let (sender, answers) = mpsc::channel();
    let queue = Arc::new((AtomicUsize::new(0), patterns.clone()));
    for _ in 0..patterns.len().min(MAX_EXPANDING) {
        let (sender, queue) = (sender.clone(), Arc::clone(&queue));
        let expand = move || {
            while let Some(path) = queue.1.get(queue.0.fetch_add(1, Ordering::Relaxed)) {
                drop(sender.send((path.clone(), expanded(path))));
            }
        };
        drop(std::thread::Builder::new().spawn(expand));
    }
    drop(sender);
    let mut known: HashMap<PathBuf, Vec<PathBuf>> = HashMap::new();
    let until = now() + query.left().map_or(EXPANDING, |left| EXPANDING.min(left / 2));
    while known.len() < patterns.len() && now() < until && !query.is_stopped() {
        match answers.recv_timeout(Duration::from_millis(10)) {
            Ok((pattern, paths)) => drop(known.insert(pattern, paths)),
            Err(mpsc::RecvTimeoutError::Timeout) => {}
            Err(mpsc::RecvTimeoutError::Disconnected) => break,
        }
    }
    patterns.retain(|pattern| !known.contains_key(pattern));
    for search in searches {
        let paths = std::mem::take(&mut search.paths);
        let paths = paths.into_iter().flat_map(|path| match known.get(&path) {
            Some(paths) => paths.clone(),
            None if patterns.contains(&path) => Vec::new(),
            None => vec![path],
        });
        search.paths = paths.collect();
    }
    patterns
}

fn is_pattern(path: &Path) -> bool {
    path.to_str().is_some_and(|text| text.contains(['*', '?', '[']))
}

/// Most paths that one pattern stands for; further ones are left out.
const MAX_EXPANDED: usize = 10_000;

/// The paths that a search path with `*`, `?` or `[` stands for; itself when it has none, or is there as it is written.
fn expanded(path: &Path) -> Vec<PathBuf> {
    let Some(text) = path.to_str().filter(|text| text.contains(['*', '?', '['])) else {
        return vec![path.to_owned()];
    };
    if path.symlink_metadata().is_ok() {
        return vec![path.to_owned()];
    }
    let options = glob::MatchOptions { require_literal_separator: true, ..glob::MatchOptions::default() };
    match glob::glob_with(text, options) {
        Ok(paths) => paths.flatten().take(MAX_EXPANDED).collect(),
        Err(_) => vec![path.to_owned()],
    }
}

/// The mounts, which some searches need not know.
fn mounts(searches: &[Search]) -> Result<Mounts, String> {
    let paths = searches.iter().flat_map(|search| &search.paths);
    let processes: BTreeSet<PathBuf> = paths.filter_map(|path| Some(of_process(path)?.0)).collect();
    match std::fs::read(MOUNTINFO) {
        Ok(table) => {
            let mut mounts = Mounts::parse(&table);
            for process in processes {
                // Whoever may not read it may not enter the root either.
                if let Ok(table) = std::fs::read(process.join("mountinfo")) {
                    mounts.add(&table, &process.join("root"));
                }
            }
            Ok(mounts)
        }
        Err(_) if searches.iter().all(|search| search.options.pseudo) => Ok(Mounts::default()),
        Err(error) => Err(format!(
            "cannot read {MOUNTINFO} and therefore cannot exclude remote file systems: {error}; set the option allfilesystems in every search to search anyway"
        )),
    }
}

#[expect(clippy::disallowed_methods, reason = "a module of its own process lives in real time")]
fn now() -> Instant {
    Instant::now()
}

fn nanoseconds(time: SystemTime) -> i128 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i128::try_from(since.as_nanos()).unwrap_or(i128::MAX)
}

/// A duration as Go writes it: `1.033646ms`, `2.5s`, `1m0s`.
fn duration_text(duration: Duration) -> String {
    let nanoseconds = duration.as_nanos();
    let (unit, name) = match nanoseconds {
        0 => return "0s".to_owned(),
        1..1_000 => (1, "ns"),
        1_000..1_000_000 => (1_000, "µs"),
        1_000_000..1_000_000_000 => (1_000_000, "ms"),
        _ => (1_000_000_000, "s"),
    };
    let minutes = nanoseconds / 60_000_000_000;
    let rest = nanoseconds % 60_000_000_000;
    let digits = unit.to_string().len() - 1;
    let fraction = format!("{:0digits$}", rest % unit);
    let fraction = if digits == 0 { "" } else { fraction.trim_end_matches('0') };
    let point = if fraction.is_empty() { "" } else { "." };
    let hours = match (minutes / 60, minutes % 60) {
        (0, 0) => String::new(),
        (0, minutes) => format!("{minutes}m"),
        (hours, minutes) => format!("{hours}h{minutes}m"),
    };
    format!("{hours}{}{point}{fraction}{name}", rest / unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_as_go_writes_them() {
        for (nanoseconds, text) in [
            (0, "0s"),
            (7, "7ns"),
            (1_500, "1.5µs"),
            (596_771, "596.771µs"),
            (1_033_646, "1.033646ms"),
            (2_000_000_000, "2s"),
            (2_050_000_000, "2.05s"),
            (60_000_000_000, "1m0s"),
            (3_661_000_000_001, "1h1m1.000000001s"),
        ] {
            assert_eq!(duration_text(Duration::from_nanos(nanoseconds)), text);
        }
    }
}
