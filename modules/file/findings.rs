//! What was found, in MIG's form, within limits.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};
use vigie_host::users::Names;
use vigie_sdk::privacy::MASKED;

use crate::attributes::{Extended, kind_name};
use crate::digest::hexadecimal;
use crate::filter::mode_text;
use crate::open::Status;
use crate::parameters::{Search, Test};

/// Longest list of matches, in bytes of JSON. The agent drops a result of more than 16 MiB.
const MAX_RESULT_BYTES: usize = 12 << 20;

/// The matches of all searches. Threads add to it together.
#[derive(Debug)]
pub struct Findings {
    searches: Arc<[Search]>,
    masked: bool,
    /// Names of users and groups.
    pub names: Names,
    lists: Vec<List>,
    bytes: AtomicUsize,
    full: AtomicBool,
}

#[derive(Debug, Default)]
struct List {
    taken: AtomicU32,
    closed: AtomicBool,
    matches: Mutex<Vec<Match>>,
}

#[derive(Debug)]
struct Match {
    path: Vec<u8>,
    /// The filter that passed, for searches that do not need all to pass.
    check: Option<usize>,
    element: Box<RawValue>,
}

/// One match as the investigator reads it.
#[derive(Serialize)]
struct Element<'e> {
    file: Cow<'e, str>,
    /// The path in hexadecimal, when it cannot be written as text.
    #[serde(skip_serializing_if = "Option::is_none")]
    filebytes: Option<String>,
    search: &'e RawValue,
    fileinfo: FileInfo,
}

#[derive(Default, Serialize)]
struct FileInfo {
    size: u64,
    mode: String,
    lastmodified: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    sha256: Option<String>,
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    more: Option<Metadata>,
}

/// What is returned on request.
#[derive(Default, Serialize)]
struct Metadata {
    r#type: &'static str,
    uid: u32,
    gid: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    owner: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    group: Option<String>,
    ctime: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    btime: Option<String>,
    inode: u64,
    links: u32,
    #[serde(skip_serializing_if = "String::is_empty")]
    capabilities: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    xattrs: Vec<String>,
}

impl Metadata {
    fn new(status: Status, extended: Extended, names: &Names) -> Self {
        Self {
            r#type: kind_name(status.kind),
            uid: status.uid,
            gid: status.gid,
            owner: names.user(status.uid).map(str::to_owned),
            group: names.group(status.gid).map(str::to_owned),
            ctime: time_text(status.changed),
            btime: status.created.map(time_text),
            inode: status.inode,
            links: status.links,
            capabilities: extended.capabilities,
            xattrs: extended.names,
        }
    }
}

impl FileInfo {
    fn new(status: Status, sha256: Option<&[u8]>) -> Self {
        Self {
            size: status.size,
            mode: mode_text(status.mode),
            lastmodified: time_text(status.modified),
            sha256: sha256.map(hexadecimal),
            more: None,
        }
    }

    /// Nothing that tells one file from another.
    fn masked(sha256: Option<&[u8]>) -> Self {
        Self {
            size: 0,
            mode: MASKED.to_owned(),
            lastmodified: MASKED.to_owned(),
            sha256: sha256.map(|_| MASKED.to_owned()),
            more: None,
        }
    }
}

impl Findings {
    /// How many matches there are so far.
    #[must_use]
    pub fn taken(&self) -> u64 {
        let taken = self.lists.iter().zip(&*self.searches).map(|(list, search)| {
            // Threads count one match too many each before they see that the list is closed.
            u64::from(list.taken.load(Ordering::Relaxed).min(search.options.match_limit))
        });
        taken.sum()
    }

    /// No matches yet. When `masked`, what identifies a file is left out.
    #[must_use]
    pub fn new(searches: Arc<[Search]>, masked: bool) -> Self {
        let lists = searches.iter().map(|_| List::default()).collect();
        let wants_names = searches.iter().any(|search| {
            search.options.return_metadata
                || search.checks().iter().any(|check| matches!(check.test, Test::Owner(_) | Test::Group(_)))
        });
        let names = if wants_names { Names::of(Path::new("/")) } else { Names::default() };
        Self { searches, masked, names, lists, bytes: AtomicUsize::new(0), full: AtomicBool::new(false) }
    }

    /// Whether a search has as many matches as it may return.
    #[must_use]
    pub fn is_closed(&self, search: usize) -> bool {
        self.lists[search].closed.load(Ordering::Relaxed)
    }

    /// Whether no search can take another match.
    #[must_use]
    pub(crate) fn are_all_closed(&self) -> bool {
        self.lists.iter().all(|list| list.closed.load(Ordering::Relaxed))
    }

    /// Whether the result is as long as a result may be.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.full.load(Ordering::Relaxed)
    }

    /// Adds a file that a search wants: once, or once for each of the filters that `passed`.
    pub fn add(
        &self,
        search: usize,
        passed: Option<&[usize]>,
        path: &[u8],
        status: Status,
        sha256: Option<&[u8]>,
        extended: impl FnOnce() -> Extended,
    ) {
        let asks = self.searches[search].options.return_metadata && !self.masked;
        let extended = if asks { Some(extended()) } else { None };
        match passed {
            None => self.add_one(search, None, path, status, sha256, extended.as_ref()),
            Some(checks) => {
                for check in checks {
                    self.add_one(search, Some(*check), path, status, sha256, extended.as_ref());
                }
            }
        }
    }

    fn add_one(
        &self,
        index: usize,
        check: Option<usize>,
        path: &[u8],
        status: Status,
        sha256: Option<&[u8]>,
        extended: Option<&Extended>,
    ) {
        let (search, list) = (&self.searches[index], &self.lists[index]);
        if self.is_full() || list.closed.load(Ordering::Relaxed) {
            return;
        }
        let file = if self.masked { Cow::Borrowed(MASKED) } else { String::from_utf8_lossy(path) };
        let is_text = self.masked || matches!(file, Cow::Borrowed(_));
        let element = to_raw_value(&Element {
            file,
            filebytes: (!is_text).then(|| hexadecimal(path)),
            search: check.map_or(&search.echo, |check| &search.checks()[check].echo),
            fileinfo: if self.masked {
                FileInfo::masked(sha256)
            } else {
                let more = extended.map(|extended| Metadata::new(status, extended.clone(), &self.names));
                FileInfo { more, ..FileInfo::new(status, sha256) }
            },
        })
        .expect("it is plain data with string keys");
        let length = element.get().len() + path.len();
        if self.bytes.fetch_add(length, Ordering::Relaxed) + length > MAX_RESULT_BYTES {
            self.full.store(true, Ordering::Relaxed);
            return;
        }
        let taken = list.taken.fetch_add(1, Ordering::Relaxed);
        if taken.saturating_add(1) >= search.options.match_limit {
            list.closed.store(true, Ordering::Relaxed);
        }
        if taken < search.options.match_limit {
            lock(&list.matches).push(Match { path: path.to_owned(), check, element });
        }
    }

    /// The searches that ended at their limit.
    pub fn limited(&self) -> impl Iterator<Item = &Search> {
        let closed = self.lists.iter().map(|list| list.closed.load(Ordering::Relaxed));
        self.searches.iter().zip(closed).filter(|(_, closed)| *closed).map(|(search, _)| search)
    }

    /// Takes the matches out, by label and in the order of their paths, and tells how many there are. As in MIG, a
    /// search that found nothing, or a filter when each one is asked alone, has one entry without a file.
    #[must_use]
    pub fn take_elements(&self) -> (BTreeMap<&str, Vec<Box<RawValue>>>, usize) {
        let mut hits = 0;
        let elements = self.searches.iter().zip(&self.lists).map(|(search, list)| {
            let mut matches = std::mem::take(&mut *lock(&list.matches));
            matches.sort_by(|a, b| (&a.path, a.check).cmp(&(&b.path, b.check)));
            // A link that is a search path and lies below another one was met twice.
            matches.dedup_by(|a, b| (&a.path, a.check) == (&b.path, b.check));
            hits += matches.len();
            let nothing_for: Vec<&RawValue> = if search.options.match_all {
                matches.is_empty().then_some(&*search.echo).into_iter().collect()
            } else {
                let checks = search.checks().iter().enumerate();
                let without =
                    checks.filter(|(place, _)| matches.iter().all(|found| found.check != Some(*place)));
                without.map(|(_, check)| &*check.echo).collect()
            };
            let nothing = nothing_for.into_iter().map(|search| {
                let element =
                    Element { file: "".into(), filebytes: None, search, fileinfo: FileInfo::default() };
                to_raw_value(&element).expect("it is plain data with string keys")
            });
            let list = matches.into_iter().map(|found| found.element).chain(nothing).collect();
            (search.label.as_str(), list)
        });
        let elements = elements.collect();
        (elements, hits)
    }
}

/// A time in nanoseconds since the epoch as Go writes it: `2026-11-23 03:33:12.336839479 +0000 UTC`.
fn time_text(time: i128) -> String {
    match jiff::Timestamp::from_nanosecond(time) {
        Ok(time) => time.strftime("%Y-%m-%d %H:%M:%S%.f +0000 UTC").to_string(),
        // After the year 9999, as some file systems can say.
        Err(_) => format!("{} seconds after 1970-01-01 00:00:00 +0000 UTC", time.div_euclid(1_000_000_000)),
    }
}

/// A path as text: what is not UTF-8, and what controls a terminal, as `\xNN`, and a backslash before an `x` too.
#[must_use]
pub fn shown(path: &[u8]) -> String {
    let mut text = String::with_capacity(path.len());
    let escape = |text: &mut String, bytes: &[u8]| {
        for byte in bytes {
            text.push_str(&format!("\\x{byte:02x}"));
        }
    };
    for chunk in path.utf8_chunks() {
        let mut characters = chunk.valid().chars().peekable();
        while let Some(character) = characters.next() {
            let is_escape = character == '\\' && characters.peek() == Some(&'x');
            if character.is_control() || is_escape {
                escape(&mut text, character.encode_utf8(&mut [0; 4]).as_bytes());
            } else {
                text.push(character);
            }
        }
        escape(&mut text, chunk.invalid());
    }
    text
}

/// What could not be inspected, within a limit.
#[derive(Debug)]
pub struct ErrorLog {
    limit: usize,
    masked: bool,
    kept: Mutex<Vec<String>>,
    dropped: AtomicU64,
}

impl ErrorLog {
    /// Keeps this many errors; the others are counted. When `masked`, they do not name the path.
    #[must_use]
    pub fn new(limit: u32, masked: bool) -> Self {
        Self {
            masked,
            limit: usize::try_from(limit).unwrap_or(usize::MAX),
            kept: Mutex::default(),
            dropped: AtomicU64::new(0),
        }
    }

    /// Adds an error about a path.
    pub fn add(&self, path: &[u8], what: impl std::fmt::Display) {
        let mut kept = lock(&self.kept);
        if kept.len() < self.limit {
            let path = if self.masked { MASKED.to_owned() } else { shown(path) };
            kept.push(format!("\"{path}\" {what}"));
        } else {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The errors that were kept, sorted, and how many more there were.
    #[must_use]
    pub fn finish(&self) -> Vec<String> {
        let mut errors = lock(&self.kept).clone();
        errors.sort_unstable();
        let dropped = self.dropped.load(Ordering::Relaxed);
        if dropped > 0 {
            errors.push(format!("{dropped} more errors are not shown: maxerrors is {}", self.limit));
        }
        errors
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use rustix::fs::FileType;
    use serde_json::{Value, json};

    use super::*;
    use crate::parameters::parse;

    const STATUS: Status = Status {
        kind: FileType::RegularFile,
        size: 14,
        mode: 0o100_644,
        modified: 1_795_404_792_336_839_479,
        changed: 0,
        created: None,
        uid: 0,
        gid: 0,
        inode: 1,
        links: 1,
    };

    fn searches(fields: Value) -> Arc<[Search]> {
        let raw = serde_json::value::to_raw_value(&json!({"searches": {"s1": fields}})).unwrap();
        parse(Some(&raw), 0).unwrap().into()
    }

    fn elements(findings: Findings) -> Value {
        serde_json::to_value(findings.take_elements().0).unwrap()
    }

    #[test]
    fn a_match_reads_as_mig_writes_it() {
        let searches = searches(json!({"paths": ["/srv"], "names": [".*"], "options": {"matchall": true}}));
        let findings = Findings::new(Arc::clone(&searches), false);

        findings.add(0, None, b"/srv/file", STATUS, Some(&[0xbf, 0xd3]), Extended::default);

        let (elements, hits) = findings.take_elements();
        assert_eq!(hits, 1);
        assert_eq!(
            elements["s1"][0].get(),
            "{\"file\":\"/srv/file\",\"search\":{\"paths\":[\"/srv\"],\"names\":[\".*\"],\"options\":{\"maxdepth\":0,\
             \"maxerrors\":0,\"matchall\":true,\"macroal\":false,\"mismatch\":null,\"matchlimit\":0}},\"fileinfo\":\
             {\"size\":14,\"mode\":\"-rw-r--r--\",\"lastmodified\":\"2026-11-23 03:33:12.336839479 +0000 UTC\",\
             \"sha256\":\"BFD3\"}}"
        );
    }

    #[test]
    fn extra_privacy_leaves_nothing_that_identifies() {
        let searches = searches(json!({"paths": ["/srv"], "names": [".*"]}));
        let findings = Findings::new(Arc::clone(&searches), true);

        findings.add(0, Some(&[0]), b"/srv/secret\xff", STATUS, Some(&[0xbf]), Extended::default);

        let elements = elements(findings);
        assert_eq!(elements["s1"][0]["file"], "masked");
        assert_eq!(
            elements["s1"][0]["fileinfo"],
            json!({"size": 0, "mode": "masked", "lastmodified": "masked", "sha256": "masked"})
        );
        assert!(!elements.to_string().contains("secret"));
    }

    #[test]
    fn the_agents_check_passes_masked_matches_and_refuses_any_other() {
        let searches = searches(json!({"paths": ["/srv"], "names": ["a", "b"]}));
        let result = |masked| {
            let findings = Findings::new(Arc::clone(&searches), masked);
            findings.add(0, Some(&[0]), b"/srv/a", STATUS, Some(&[0xbf]), Extended::default);
            vigie_sdk::ModuleResult::found(true, &findings.take_elements().0)
        };

        assert_eq!(vigie_sdk::privacy::check(&result(true), crate::masked_form), Ok(()));
        assert!(vigie_sdk::privacy::check(&result(false), crate::masked_form).is_err());
    }

    #[test]
    fn a_name_that_is_no_text_comes_with_its_bytes() {
        let searches = searches(json!({"paths": ["/"], "names": [".*"]}));
        let findings = Findings::new(Arc::clone(&searches), false);

        findings.add(0, Some(&[0]), b"/\xff\n", STATUS, None, Extended::default);

        let elements = elements(findings);
        assert_eq!(elements["s1"][0]["file"], "/\u{fffd}\n");
        assert_eq!(elements["s1"][0]["filebytes"], "2FFF0A");
    }

    #[test]
    fn a_search_ends_at_its_limit() {
        let searches = searches(json!({"paths": ["/"], "names": ["a", "b"], "options": {"matchlimit": 3}}));
        let findings = Findings::new(Arc::clone(&searches), false);

        findings.add(0, Some(&[0, 1]), b"/ab", STATUS, None, Extended::default);
        assert!(!findings.is_closed(0));
        findings.add(0, Some(&[0, 1]), b"/ba", STATUS, None, Extended::default);

        assert!(findings.is_closed(0) && findings.are_all_closed());
        assert_eq!(findings.limited().count(), 1);
        assert_eq!(findings.take_elements().1, 3);
    }

    #[test]
    fn a_filter_that_found_nothing_has_an_entry_without_a_file() {
        let searches = searches(json!({"paths": ["/"], "names": ["a", "b"]}));
        let findings = Findings::new(Arc::clone(&searches), false);

        findings.add(0, Some(&[0]), b"/a", STATUS, None, Extended::default);

        let elements = elements(findings);
        assert_eq!(elements["s1"][0]["file"], "/a");
        assert_eq!(elements["s1"][1]["file"], "");
        assert_eq!(elements["s1"][1]["search"]["names"], json!(["b"]));
    }

    #[test]
    fn a_result_does_not_grow_over_what_the_agent_takes() {
        let searches =
            searches(json!({"paths": ["/"], "names": ["a"], "options": {"matchlimit": 4_000_000_000_u32}}));
        let findings = Findings::new(Arc::clone(&searches), false);
        let path = vec![b'a'; 4_000];

        for _ in 0..10_000 {
            findings.add(0, Some(&[0]), &path, STATUS, None, Extended::default);
        }

        assert!(findings.is_full());
        assert!(findings.bytes.load(Ordering::Relaxed) < MAX_RESULT_BYTES + 10_000);
    }

    #[test]
    fn matches_are_sorted_and_met_once() {
        let searches = searches(json!({"paths": ["/"], "names": ["a"], "options": {"matchall": true}}));
        let findings = Findings::new(Arc::clone(&searches), false);

        for path in [&b"/b"[..], b"/a", b"/b"] {
            findings.add(0, None, path, STATUS, None, Extended::default);
        }

        let (elements, hits) = findings.take_elements();
        assert_eq!(hits, 2);
        assert!(elements["s1"][0].get().contains("\"/a\""));
    }

    #[test]
    fn errors_beyond_the_limit_are_counted() {
        let errors = ErrorLog::new(2, false);

        for path in [&b"/c"[..], b"/a\n", b"/b"] {
            errors.add(path, "cannot be opened");
        }

        assert_eq!(
            errors.finish(),
            [
                "\"/a\\x0a\" cannot be opened",
                "\"/c\" cannot be opened",
                "1 more errors are not shown: maxerrors is 2"
            ]
        );
    }

    #[test]
    fn times_read_as_go_writes_them() {
        assert_eq!(time_text(0), "1970-01-01 00:00:00 +0000 UTC");
        assert_eq!(time_text(1_500_000_000), "1970-01-01 00:00:01.5 +0000 UTC");
        assert_eq!(time_text(-1), "1969-12-31 23:59:59.999999999 +0000 UTC");
        assert_eq!(
            time_text(i128::from(i64::MAX) * 1_000_000_000),
            "9223372036854775807 seconds after 1970-01-01 00:00:00 +0000 UTC"
        );
    }
}
