//! One search as it was asked, read field by field.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;

use rustix::fs::FileType;
use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};
use serde_json::{Map, Value};

use super::texts::{clean, parse_digest, test, whole};
use super::{
    Check, DEFAULT_MATCH_LIMIT, DEFAULT_MAX_DEPTH, DEFAULT_MAX_ERRORS, MAX_LABEL_CHARACTERS, Options,
    Problem, Search, Test,
};
use crate::attributes::KINDS;
use crate::digest::Algorithms;
use crate::filter::SizeRange;

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
pub(super) struct Reader<'r> {
    pub(super) label: &'r str,
    pub(super) problems: &'r mut Vec<Problem>,
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
    pub(super) fn search(&mut self, value: &Value, now: i128) -> Option<Search> {
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
