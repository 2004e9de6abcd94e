//! What an investigator asks: the parameters of a query, checked as a whole before anything runs.
//!
//! The form is that of MIG's file module: searches by label, each with paths, filters and options. Keys may have
//! any case; labels keep theirs. A key that is not known is refused, because a misspelt filter that is ignored
//! gives an answer to another question.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use rustix::fs::FileType;

use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};
use serde_json::{Map, Value};

use crate::attributes::{KINDS, Owner};
use crate::digest::{Algorithm, Algorithms, from_hexadecimal};
use crate::filter::{Age, SizeRange};
use crate::pattern::{LinePattern, Pattern};

/// Longest label, in characters; MIG's limit.
const MAX_LABEL_CHARACTERS: usize = 64;

/// Directory levels that a search goes down when it does not say; MIG's default.
const DEFAULT_MAX_DEPTH: u32 = 1_000;

/// Matches that a search returns when it does not say; MIG's default.
const DEFAULT_MATCH_LIMIT: u32 = 1_000;

/// Errors that are returned when a search does not say; MIG's default.
const DEFAULT_MAX_ERRORS: u32 = 30;

/// One thing that is wrong with the parameters.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// The parameters are no set of searches.
    #[error("{0}")]
    Parameters(String),
    /// A search cannot be carried out.
    #[error("search {label:?}: {field}: {what}")]
    Search {
        /// Which search.
        label: String,
        /// Which of its fields.
        field: String,
        /// What is wrong with it, and what would be right.
        what: String,
    },
}

/// Everything that is wrong with the parameters.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
pub struct ParametersError(pub Vec<Problem>);

/// What one filter asks of a file.
#[derive(Debug, Clone)]
pub enum Test {
    /// Its base name.
    Name(Pattern),
    /// Its size.
    Size(SizeRange),
    /// Its mode, as text.
    Mode(Pattern),
    /// When it was modified.
    Modified(Age),
    /// When it or its metadata was changed.
    Changed(Age),
    /// When it was made; what is not known is not wanted.
    Created(Age),
    /// Whose it is.
    Owner(Owner),
    /// Which group it belongs to.
    Group(Owner),
    /// Its inode.
    Inode(SizeRange),
    /// How many names it has.
    Links(SizeRange),
    /// Its capabilities as `getcap` writes them.
    Capabilities(Pattern),
    /// The name of one of its extended attributes.
    Attribute(Pattern),
    /// Its lines.
    Content(LinePattern),
    /// One of its digests.
    Digest(Algorithm, Box<[u8]>),
    /// Any of these digests.
    AnyDigest(Arc<HashSet<(Algorithm, Box<[u8]>)>>),
}

impl Test {
    /// Whether it is about the content's digest.
    #[must_use]
    pub fn is_digest(&self) -> bool {
        matches!(self, Self::Digest(..) | Self::AnyDigest(_))
    }

    /// The digests that it compares.
    pub(crate) fn algorithms(&self) -> Vec<Algorithm> {
        match self {
            Self::Digest(algorithm, _) => vec![*algorithm],
            Self::AnyDigest(digests) => {
                let mut all: Vec<Algorithm> = digests.iter().map(|(algorithm, _)| *algorithm).collect();
                all.sort_unstable();
                all.dedup();
                all
            }
            _ => Vec::new(),
        }
    }

    /// Whether it needs the extended attributes.
    #[must_use]
    pub(crate) fn is_extended(&self) -> bool {
        matches!(self, Self::Capabilities(_) | Self::Attribute(_))
    }
}

/// One filter of a search.
#[derive(Debug, Clone)]
pub struct Check {
    /// What it asks.
    pub test: Test,
    /// The option `mismatch` names this kind of filter: what does not pass is wanted.
    pub mismatch: bool,
    /// What is repeated in a result of this filter alone.
    pub echo: Box<RawValue>,
}

/// The options of a search.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "they are the investigator's switches")]
pub struct Options {
    /// Levels of directories that are entered: 1 is the search path itself.
    pub max_depth: u32,
    /// Nobody asked for so few levels: what lies deeper belongs to the question.
    pub is_depth_own: bool,
    /// All filters must pass; otherwise each one is a search of its own.
    pub match_all: bool,
    /// All content expressions must pass on all lines.
    pub macroal: bool,
    /// Matches that are returned at most.
    pub match_limit: u32,
    /// Errors that are returned at most.
    pub max_errors: u32,
    /// Return the SHA-256 of what matches.
    pub return_sha256: bool,
    /// Look into files that are compressed with gzip.
    pub decompress: bool,
    /// Enter file systems of other hosts too.
    pub remote: bool,
    /// Enter the kernel's pseudo file systems too.
    pub pseudo: bool,
    /// Return whose a match is, its times, inode, links, capabilities and extended attributes.
    pub return_metadata: bool,
    /// Read no file larger than this, in bytes.
    pub max_read: u64,
}

/// One search.
#[derive(Debug, Clone)]
pub struct Search {
    /// Its name in the result.
    pub label: String,
    /// Where it looks; absolute, without `.`, `..` or a slash at the end, each one once.
    pub paths: Vec<PathBuf>,
    /// Its filters: those on names first, then on metadata, on lines, and on digests.
    checks: Vec<Check>,
    /// Where the filters of the first three kinds end in `checks`.
    ends: [usize; 3],
    /// The kinds of objects that it is about; regular files when it does not say.
    pub kinds: Vec<FileType>,
    /// Paths that it stays out of: a pattern of the whole path each.
    pub excludes: Vec<glob::Pattern>,
    /// The digests that its filters compare.
    pub digest_algorithms: Algorithms,
    /// Its options.
    pub options: Options,
    /// What is repeated in each of its results.
    pub echo: Box<RawValue>,
}

impl Search {
    /// All filters.
    #[must_use]
    pub fn checks(&self) -> &[Check] {
        &self.checks
    }

    /// The filters on names, and the place of the first one.
    #[must_use]
    pub fn names(&self) -> (usize, &[Check]) {
        (0, &self.checks[..self.ends[0]])
    }

    /// The filters on metadata, and the place of the first one.
    #[must_use]
    pub fn metadata(&self) -> (usize, &[Check]) {
        (self.ends[0], &self.checks[self.ends[0]..self.ends[1]])
    }

    /// The filters on lines, and the place of the first one.
    #[must_use]
    pub fn contents(&self) -> (usize, &[Check]) {
        (self.ends[1], &self.checks[self.ends[1]..self.ends[2]])
    }

    /// The filters on digests, and the place of the first one.
    #[must_use]
    pub fn digests(&self) -> (usize, &[Check]) {
        (self.ends[2], &self.checks[self.ends[2]..])
    }
}

/// Reads the parameters of a query. `now` is in nanoseconds since the epoch; ages count back from it.
///
/// # Errors
/// Everything that is wrong with them, by search and field.
pub fn parse(parameters: Option<&RawValue>, now: i128) -> Result<Vec<Search>, ParametersError> {
    let fail = |what: &str| Err(ParametersError(vec![Problem::Parameters(what.to_owned())]));
    let value = match parameters.map(|raw| serde_json::from_str(raw.get())).transpose() {
        Ok(value) => value.unwrap_or_default(),
        Err(error) => return fail(&format!("the parameters are not JSON: {error}")),
    };
    let missing = "no search given: give at least one, as in \
                   {\"searches\": {\"label\": {\"paths\": [\"/etc\"], \"names\": [\"^passwd$\"]}}}";
    let Value::Object(parameters) = value else { return fail(missing) };
    let mut problems = Vec::new();
    let mut searches = Vec::new();
    for (key, value) in &parameters {
        match value {
            _ if !key.eq_ignore_ascii_case("searches") => {
                problems.push(Problem::Parameters(format!("unknown key {key:?}; known: searches")));
            }
            Value::Object(map) => {
                for (label, value) in map {
                    searches.extend(Reader { label, problems: &mut problems }.search(value, now));
                }
            }
            Value::Null => {}
            _ => problems.push(Problem::Parameters("searches must be an object of searches".to_owned())),
        }
    }
    if problems.is_empty() && searches.is_empty() {
        return fail(missing);
    }
    if problems.is_empty() { Ok(searches) } else { Err(ParametersError(problems)) }
}

/// A search as it was asked, in MIG's form and order.
#[derive(Debug, Clone, Default, Serialize)]
struct Asked {
    #[serde(skip_serializing_if = "String::is_empty")]
    description: String,
    paths: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    contents: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    names: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    sizes: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    modes: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    mtimes: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    md5: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    sha1: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    sha2: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    sha3: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    ctimes: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    btimes: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    owners: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    groups: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    inodes: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    links: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    capabilities: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    xattrs: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    types: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    excludes: Vec<String>,
    /// A long list is not repeated with each match.
    #[serde(skip_serializing_if = "Vec::is_empty", serialize_with = "number_of")]
    digests: Vec<String>,
    options: AskedOptions,
}

fn number_of<S: serde::Serializer>(list: &[String], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq([format!("{} digests", list.len())])
}

#[derive(Debug, Clone, Default, Serialize)]
#[expect(clippy::struct_excessive_bools, reason = "they are the investigator's switches")]
struct AskedOptions {
    maxdepth: u32,
    maxerrors: u32,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    remotefs: bool,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    allfilesystems: bool,
    matchall: bool,
    macroal: bool,
    mismatch: Option<Vec<String>>,
    matchlimit: u32,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    returnsha256: bool,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    decompress: bool,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    returnmetadata: bool,
    #[serde(skip_serializing_if = "String::is_empty")]
    maxread: String,
}

/// The fields of a search that hold filters, and their names in the option `mismatch`, the cheap ones first.
const FILTERS: [(&str, &str); 18] = [
    ("names", "name"),
    ("sizes", "size"),
    ("modes", "mode"),
    ("mtimes", "mtime"),
    ("ctimes", "ctime"),
    ("btimes", "btime"),
    ("owners", "owner"),
    ("groups", "group"),
    ("inodes", "inode"),
    ("links", "link"),
    ("capabilities", "capability"),
    ("xattrs", "xattr"),
    ("contents", "content"),
    ("md5", "md5"),
    ("sha1", "sha1"),
    ("sha2", "sha2"),
    ("sha3", "sha3"),
    ("digests", "digest"),
];

impl Asked {
    fn filter(&mut self, field: &str) -> &mut Vec<String> {
        match field {
            "names" => &mut self.names,
            "sizes" => &mut self.sizes,
            "modes" => &mut self.modes,
            "mtimes" => &mut self.mtimes,
            "contents" => &mut self.contents,
            "md5" => &mut self.md5,
            "sha1" => &mut self.sha1,
            "sha2" => &mut self.sha2,
            "ctimes" => &mut self.ctimes,
            "btimes" => &mut self.btimes,
            "owners" => &mut self.owners,
            "groups" => &mut self.groups,
            "inodes" => &mut self.inodes,
            "links" => &mut self.links,
            "capabilities" => &mut self.capabilities,
            "xattrs" => &mut self.xattrs,
            "digests" => &mut self.digests,
            _ => &mut self.sha3,
        }
    }

    fn echo(&self) -> Box<RawValue> {
        to_raw_value(self).expect("it is plain data with string keys")
    }

    /// The same search with one filter.
    fn only(&self, field: &str, text: &str) -> Box<RawValue> {
        let mut only = Self { paths: self.paths.clone(), options: self.options.clone(), ..Self::default() };
        only.filter(field).push(text.to_owned());
        only.echo()
    }
}

/// Reads one search and notes what is wrong with it.
struct Reader<'r> {
    label: &'r str,
    problems: &'r mut Vec<Problem>,
}

impl Reader<'_> {
    fn problem(&mut self, field: &str, what: impl std::fmt::Display) {
        self.problems.push(Problem::Search {
            label: self.label.to_owned(),
            field: field.to_owned(),
            what: what.to_string(),
        });
    }

    /// `None` when something is wrong.
    fn search(&mut self, value: &Value, now: i128) -> Option<Search> {
        let before = self.problems.len();
        if self.label.is_empty()
            || self.label.chars().count() > MAX_LABEL_CHARACTERS
            || self.label.chars().any(char::is_control)
        {
            self.problem("label", "must have 1 to 64 characters, and no control characters");
        }
        let Value::Object(fields) = value else {
            self.problem("search", "must be an object with paths, filters and options");
            return None;
        };
        let asked = self.asked(fields);
        let paths = self.paths(&asked.paths);
        let checks = self.checks(&asked, now);
        let kinds = self.kinds(&asked.types);
        let excludes = self.excludes(&asked.excludes);
        let max_read = match asked.options.maxread.as_str() {
            "" => None,
            text => match SizeRange::parse(text.trim_start_matches('<')) {
                Ok(size) => Some(size),
                Err(error) => {
                    self.problem("options.maxread", error);
                    None
                }
            },
        };
        if kinds != [FileType::RegularFile]
            && checks.iter().any(|check| check.test.is_digest() || matches!(check.test, Test::Content(_)))
            && !kinds.contains(&FileType::RegularFile)
        {
            self.problem("types", "only regular files have content");
        }
        if self.problems.len() == before && checks.is_empty() && !asked.options.matchall {
            self.problem(
                "filters",
                "no filter given: use names, sizes, modes, mtimes, contents, md5, sha1, sha2, sha3 or another filter of docs/file.md, or set the option matchall to find every file",
            );
        }
        if self.problems.len() > before {
            return None;
        }
        let mut digest_algorithms = Algorithms::default();
        let compared = checks.iter().flat_map(|check| check.test.algorithms());
        compared.for_each(|algorithm| digest_algorithms.insert(algorithm));
        let end = |kind: fn(&Test) -> bool| checks.iter().take_while(|check| kind(&check.test)).count();
        let ends = [
            end(|test| matches!(test, Test::Name(_))),
            end(|test| !matches!(test, Test::Content(_)) && !test.is_digest()),
            end(|test| !test.is_digest()),
        ];
        let or_default = |number: u32, default: u32| if number == 0 { default } else { number };
        Some(Search {
            label: self.label.to_owned(),
            paths,
            checks,
            ends,
            kinds,
            excludes,
            digest_algorithms,
            options: Options {
                max_depth: or_default(asked.options.maxdepth, DEFAULT_MAX_DEPTH),
                is_depth_own: asked.options.maxdepth == 0,
                match_all: asked.options.matchall,
                macroal: asked.options.macroal,
                match_limit: or_default(asked.options.matchlimit, DEFAULT_MATCH_LIMIT),
                max_errors: or_default(asked.options.maxerrors, DEFAULT_MAX_ERRORS),
                return_sha256: asked.options.returnsha256,
                decompress: asked.options.decompress,
                remote: asked.options.remotefs || asked.options.allfilesystems,
                pseudo: asked.options.allfilesystems,
                return_metadata: asked.options.returnmetadata,
                max_read: max_read.map_or(u64::MAX, SizeRange::largest),
            },
            echo: asked.echo(),
        })
    }

    fn asked(&mut self, fields: &Map<String, Value>) -> Asked {
        let mut asked = Asked::default();
        for (key, value) in fields {
            match key.to_ascii_lowercase().as_str() {
                "paths" => asked.paths = self.texts("paths", value),
                "options" => match value {
                    Value::Null => {}
                    Value::Object(options) => self.options(options, &mut asked.options),
                    _ => self.problem("options", "must be an object"),
                },
                // A remark of the investigator's.
                "description" => match value {
                    Value::Null => {}
                    Value::String(text) => asked.description.clone_from(text),
                    _ => self.problem("description", "must be a text"),
                },
                "types" => asked.types = self.texts("types", value),
                "excludes" => asked.excludes = self.texts("excludes", value),
                key if FILTERS.iter().any(|(field, _)| *field == key) => {
                    *asked.filter(key) = self.texts(key, value);
                }
                unknown => {
                    let known: Vec<&str> = FILTERS.iter().map(|(field, _)| *field).collect();
                    self.problem(
                        unknown,
                        format_args!(
                            "unknown field; known: paths, {}, types, excludes, options, description",
                            known.join(", ")
                        ),
                    );
                }
            }
        }
        asked
    }

    fn options(&mut self, fields: &Map<String, Value>, options: &mut AskedOptions) {
        for (key, value) in fields {
            let key = key.to_ascii_lowercase();
            let field = format!("options.{key}");
            match key.as_str() {
                "maxdepth" => options.maxdepth = self.number(&field, value),
                "matchlimit" => options.matchlimit = self.number(&field, value),
                "maxerrors" => options.maxerrors = self.number(&field, value),
                "matchall" => options.matchall = self.switch(&field, value),
                "macroal" => options.macroal = self.switch(&field, value),
                "returnsha256" => options.returnsha256 = self.switch(&field, value),
                "decompress" => options.decompress = self.switch(&field, value),
                "returnmetadata" => options.returnmetadata = self.switch(&field, value),
                "maxread" => match value {
                    Value::Null => {}
                    Value::String(text) => options.maxread.clone_from(text),
                    _ => self.problem(&field, "must be a size such as \"100m\""),
                },
                "remotefs" => options.remotefs = self.switch(&field, value),
                "allfilesystems" => options.allfilesystems = self.switch(&field, value),
                "mismatch" => {
                    let words = self.texts(&field, value);
                    let known = FILTERS.map(|(_, word)| word);
                    for word in words.iter().filter(|word| !known.contains(&word.as_str())) {
                        self.problem(
                            &field,
                            format_args!("unknown filter {word:?}; known: {}", known.join(", ")),
                        );
                    }
                    options.mismatch = (!words.is_empty()).then_some(words);
                }
                // MIG's: prints to a terminal that is not there.
                "debug" => {}
                _ => self.problem(
                    &field,
                    "unknown option; known: maxdepth, matchall, matchlimit, macroal, mismatch, returnsha256, \
                     returnmetadata, decompress, maxread, maxerrors, remotefs, allfilesystems",
                ),
            }
        }
    }

    fn texts(&mut self, field: &str, value: &Value) -> Vec<String> {
        let texts = match value {
            Value::Null => Some(Vec::new()),
            Value::Array(items) => items.iter().map(|item| item.as_str().map(str::to_owned)).collect(),
            _ => None,
        };
        texts.unwrap_or_else(|| {
            self.problem(field, "must be a list of texts");
            Vec::new()
        })
    }

    fn switch(&mut self, field: &str, value: &Value) -> bool {
        match value {
            Value::Bool(on) => *on,
            Value::Null => false,
            _ => {
                self.problem(field, "must be true or false");
                false
            }
        }
    }

    /// A whole number; 0 stands for the default.
    fn number(&mut self, field: &str, value: &Value) -> u32 {
        let number = match value {
            Value::Null => Some(0),
            // MIG's numbers are floating point.
            Value::Number(number) => match number.as_u64() {
                Some(number) => u32::try_from(number).ok(),
                None => number.as_f64().and_then(whole),
            },
            _ => None,
        };
        number.unwrap_or_else(|| {
            self.problem(field, format_args!("must be a whole number from 0 to {}, not {value}", u32::MAX));
            0
        })
    }

    fn paths(&mut self, texts: &[String]) -> Vec<PathBuf> {
        if texts.is_empty() {
            self.problem("paths", "no path given: give at least one absolute path");
        }
        let mut paths = Vec::new();
        for text in texts {
            match clean(text) {
                Some(path) if !paths.contains(&path) => paths.push(path),
                Some(_) => {}
                None => self.problem("paths", format_args!("{text:?} is not an absolute path")),
            }
        }
        paths
    }

    fn kinds(&mut self, texts: &[String]) -> Vec<FileType> {
        if texts.is_empty() {
            return vec![FileType::RegularFile];
        }
        let mut kinds = Vec::new();
        for text in texts {
            match KINDS.iter().find(|(name, _)| name.eq_ignore_ascii_case(text)) {
                Some((_, kind)) => kinds.push(*kind),
                None => {
                    let known: Vec<&str> = KINDS.iter().map(|(name, _)| *name).collect();
                    self.problem(
                        "types",
                        format_args!("unknown file type {text:?}; known: {}", known.join(", ")),
                    );
                }
            }
        }
        kinds
    }

    fn excludes(&mut self, texts: &[String]) -> Vec<glob::Pattern> {
        let mut patterns = Vec::new();
        for text in texts {
            match glob::Pattern::new(text) {
                Ok(pattern) if text.starts_with('/') => patterns.push(pattern),
                Ok(_) => self.problem("excludes", format_args!("{text:?} does not start with a slash")),
                Err(error) => self.problem("excludes", format_args!("invalid pattern {text:?}: {error}")),
            }
        }
        patterns
    }

    /// One filter for a whole list.
    fn any_digest(&mut self, texts: &[String], mismatch: bool, asked: &Asked) -> Option<Check> {
        let mut digests = HashSet::with_capacity(texts.len());
        for text in texts {
            match parse_digest(text) {
                Some(digest) => drop(digests.insert(digest)),
                None => {
                    let what = "a digest of MD5, SHA-1 or SHA-2, or of SHA-3 with sha3: in front";
                    self.problem("digests", format_args!("{text:?} is not {what}"));
                    return None;
                }
            }
        }
        if digests.is_empty() {
            return None;
        }
        let echo = Asked {
            paths: asked.paths.clone(),
            options: asked.options.clone(),
            digests: texts.to_vec(),
            ..Asked::default()
        };
        Some(Check { test: Test::AnyDigest(Arc::new(digests)), mismatch, echo: echo.echo() })
    }

    fn checks(&mut self, asked: &Asked, now: i128) -> Vec<Check> {
        let mismatch = asked.options.mismatch.as_deref().unwrap_or_default();
        let mut source = asked.clone();
        let mut checks = Vec::new();
        for (field, word) in FILTERS {
            if field == "digests" {
                checks.extend(self.any_digest(
                    &asked.digests,
                    mismatch.iter().any(|named| named == word),
                    asked,
                ));
                continue;
            }
            for text in std::mem::take(source.filter(field)) {
                match test(field, &text, now) {
                    Ok(test) => checks.push(Check {
                        test,
                        mismatch: mismatch.iter().any(|named| named == word),
                        echo: asked.only(field, &text),
                    }),
                    Err(what) => self.problem(field, what),
                }
            }
        }
        checks
    }
}

/// A digest whose length says which one it is; `sha3:` in front tells those of SHA-3 from those of SHA-2.
fn parse_digest(text: &str) -> Option<(Algorithm, Box<[u8]>)> {
    let (is_sha3, digits) = match text.split_once(':') {
        Some((name, digits)) if name.eq_ignore_ascii_case("sha3") => (true, digits),
        Some(_) => return None,
        None => (false, text),
    };
    let digest = from_hexadecimal(digits)?;
    let algorithm = match (is_sha3, digest.len()) {
        (false, 16) => Algorithm::Md5,
        (false, 20) => Algorithm::Sha1,
        (false, 32) => Algorithm::Sha256,
        (false, 48) => Algorithm::Sha384,
        (false, 64) => Algorithm::Sha512,
        (true, 28) => Algorithm::Sha3_224,
        (true, 32) => Algorithm::Sha3_256,
        (true, 48) => Algorithm::Sha3_384,
        (true, 64) => Algorithm::Sha3_512,
        _ => return None,
    };
    Some((algorithm, digest))
}

/// A number without a fraction that fits.
fn whole(number: f64) -> Option<u32> {
    let fits = number.fract() == 0.0 && (0.0..=f64::from(u32::MAX)).contains(&number);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it was just checked")]
    fits.then_some(number as u32)
}

fn test(field: &str, text: &str, now: i128) -> Result<Test, String> {
    let digest = |sizes: &[(usize, Algorithm)]| {
        let found = from_hexadecimal(text).and_then(|digest| {
            let (_, algorithm) = sizes.iter().find(|(bytes, _)| *bytes == digest.len())?;
            Some(Test::Digest(*algorithm, digest))
        });
        found.ok_or_else(|| {
            let digits: Vec<String> = sizes.iter().map(|(bytes, _)| (bytes * 2).to_string()).collect();
            format!(
                "{text:?} is not a digest of this kind: it must have {} hexadecimal digits",
                digits.join(", ")
            )
        })
    };
    match field {
        "names" => Pattern::parse(text).map(Test::Name).map_err(|error| error.to_string()),
        "sizes" => SizeRange::parse(text).map(Test::Size).map_err(|error| error.to_string()),
        "modes" => Pattern::parse(text).map(Test::Mode).map_err(|error| error.to_string()),
        "mtimes" => Age::parse(text, now).map(Test::Modified).map_err(|error| error.to_string()),
        "ctimes" => Age::parse(text, now).map(Test::Changed).map_err(|error| error.to_string()),
        "btimes" => Age::parse(text, now).map(Test::Created).map_err(|error| error.to_string()),
        "owners" => Owner::parse(text).map(Test::Owner),
        "groups" => Owner::parse(text).map(Test::Group),
        "inodes" => SizeRange::parse(text).map(Test::Inode).map_err(|error| error.to_string()),
        "links" => SizeRange::parse(text).map(Test::Links).map_err(|error| error.to_string()),
        "capabilities" => Pattern::parse(text).map(Test::Capabilities).map_err(|error| error.to_string()),
        "xattrs" => Pattern::parse(text).map(Test::Attribute).map_err(|error| error.to_string()),
        "contents" => LinePattern::parse(text).map(Test::Content).map_err(|error| error.to_string()),
        "md5" => digest(&[(16, Algorithm::Md5)]),
        "sha1" => digest(&[(20, Algorithm::Sha1)]),
        "sha2" => digest(&[(32, Algorithm::Sha256), (48, Algorithm::Sha384), (64, Algorithm::Sha512)]),
        _ => digest(&[
            (28, Algorithm::Sha3_224),
            (32, Algorithm::Sha3_256),
            (48, Algorithm::Sha3_384),
            (64, Algorithm::Sha3_512),
        ]),
    }
}

/// The bytes of a path in which `\xNN` stands for a byte, as results and alerts show what is not UTF-8.
fn unescaped(text: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let digit = |at: usize| after.get(at).and_then(|digit| char::from(*digit).to_digit(16));
        let escape =
            (*first == b'\\' && after.first() == Some(&b'x')).then(|| Some(digit(1)? * 16 + digit(2)?));
        match escape.flatten().and_then(|byte| u8::try_from(byte).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[3..];
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    bytes
}

/// An absolute path without `.`, `..` and doubled slashes, by its text alone as MIG cleans it; `None` for others.
fn clean(text: &str) -> Option<PathBuf> {
    let bytes = unescaped(text);
    if !bytes.starts_with(b"/") || bytes.contains(&0) {
        return None;
    }
    let mut path = PathBuf::new();
    for component in Path::new(OsStr::from_bytes(&bytes)).components() {
        match component {
            Component::ParentDir => {
                path.pop();
            }
            other => path.push(other),
        }
    }
    Some(path)
}

#[cfg(test)]
mod tests;
