//! Which rule a path has.
//!
//! [`Rules`] are the checked configuration. A [`Coverage`] is what they mean on this host, where the root of an entry
//! may be a symbolic link: a tree of names that answers for any path at once, because every event and every file of a
//! scan asks.
//!
//! Where entries overlap, the nearer one counts: the one whose root has more names; at the same root one that covers
//! only a directory before one that covers everything below, a plain path before one with wildcards, and the later one
//! before the earlier one. What a group excludes is left out of that group only, and a path that is named in full is
//! never left out.

mod attribute;
mod compile;
mod coverage;
mod explanation;

use std::sync::Arc;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
pub use vigie_sdk::severity::Severity;

pub use self::attribute::{Attribute, Attributes};
pub(crate) use self::coverage::NamesRule;
pub use self::coverage::{Coverage, Interest, Root};
pub use self::explanation::{EntryName, Explanation, Other};
use crate::config::Settings;
use crate::pattern::Pattern;

/// What is done with the objects that a rule covers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// What is compared.
    pub attributes: Attributes,
    /// How much any change matters; without it each kind of change has its own severity.
    pub severity: Option<Severity>,
    /// Whether files are hashed; metadata only otherwise.
    pub hash: bool,
    /// Largest file that is hashed, in bytes.
    pub largest_hashed: Option<u64>,
    /// Whether a file that only grows, and a new one that takes its place, are no change.
    pub growing: bool,
    /// Labels that alerts of this rule carry.
    pub tags: Vec<String>,
}

/// Levels below the root of an entry that covers everything.
const ANY_DEPTH: usize = usize::MAX;

/// One thing that a group leaves out.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Exclusion {
    /// As it is configured.
    text: String,
    patterns: Vec<Pattern>,
    scope: Scope,
}

/// What an exclusion is compared with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scope {
    /// Every name below the root of an entry.
    Name,
    /// The names below the root of an entry, from its root on.
    Relative,
    /// The whole path.
    Absolute,
}

/// Some paths that are watched alike.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Group {
    /// As it is told: `[paths]`, `[paths "web"]`, `profile default: boot`.
    title: String,
    options: Arc<Options>,
    follow: bool,
    exclusions: Vec<Exclusion>,
}

/// One configured path.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    /// In its canonical form, `/etc` or `recursive:/home/*/.ssh`.
    text: String,
    group: usize,
    recursive: bool,
    /// Levels below the root that are covered.
    reach: usize,
    /// What its braces stand for; a single plain path has one without wildcards.
    patterns: Vec<Pattern>,
}

/// The checked configuration of paths.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rules {
    groups: Vec<Group>,
    entries: Vec<Entry>,
    settings: Settings,
}

impl Rules {
    /// Rules that cover nothing.
    #[must_use]
    pub fn none() -> Self {
        Self { groups: Vec::new(), entries: Vec::new(), settings: Settings::default() }
    }

    /// How the module works.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The entries in their canonical form, those of the profile first.
    #[must_use]
    pub fn entries(&self) -> Vec<String> {
        self.entries.iter().map(|entry| entry.text.clone()).collect()
    }

    /// Identifies the whole configuration with all its defaults: SHA-256 of what it says.
    #[must_use]
    pub fn digest(&self) -> [u8; 32] {
        let groups: Vec<Value> = self
            .groups
            .iter()
            .map(|group| {
                let exclusions: Vec<&str> = group.exclusions.iter().map(|one| one.text.as_str()).collect();
                json!([group.title, group.options.to_json(), group.follow, exclusions])
            })
            .collect();
        let entries: Vec<Value> =
            self.entries.iter().map(|entry| json!([entry.text, entry.group, entry.reach])).collect();
        let settings = &self.settings;
        let settings =
            json!([settings.settle.as_millis().to_string(), settings.quick_scan.map(|time| time.as_secs()),]);
        Sha256::digest(json!([groups, entries, settings]).to_string().as_bytes()).into()
    }
}

impl Options {
    /// What is done, for answers: the keys of the configuration.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let attributes: Vec<&str> = self.attributes.iter().map(Attribute::name).collect();
        json!({
            "attributes": attributes,
            "severity": self.severity,
            "hash": self.hash,
            "largest_hashed": self.largest_hashed,
            "growing": self.growing,
            "tags": self.tags,
        })
    }
}

#[cfg(test)]
mod tests;
