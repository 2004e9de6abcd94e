//! What an investigator asks: the parameters of a query, checked as a whole before anything runs.
//!
//! The form is that of MIG's file module: searches by label, each with paths, filters and options. Keys may have
//! any case; labels keep theirs. A key that is not known is refused, because a misspelt filter that is ignored
//! gives an answer to another question.

mod reader;
mod texts;

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;

use rustix::fs::FileType;
use serde_json::Value;
use serde_json::value::RawValue;

use self::reader::Reader;
use crate::attributes::Owner;
use crate::digest::{Algorithm, Algorithms};
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

#[cfg(test)]
mod tests;
