//! What is known of one thing that starts by itself.

use std::collections::BTreeSet;

use serde::Serialize;

/// Who explains that something is there as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Verdict {
    /// A package brought it, and it is as the package brought it.
    Packaged,
    /// A tool of the distribution made it from something packaged, and it is as the tool makes it.
    Derived,
    /// A package brought it or a tool made it, and it was changed since.
    Modified,
    /// Nobody explains it: somebody put it there.
    Local,
    /// It could not be told.
    Unknown,
}

impl Verdict {
    pub(crate) const NAMES: [(&'static str, Self); 5] = [
        ("packaged", Self::Packaged),
        ("derived", Self::Derived),
        ("modified", Self::Modified),
        ("local", Self::Local),
        ("unknown", Self::Unknown),
    ];
}

/// Which lines of a file differ from what was recorded of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Changed {
    /// It cannot be told.
    Anywhere,
    /// These were put in; without them the file is as it was recorded.
    Between(u32, u32),
    /// These are not in what it was made from.
    Lines(BTreeSet<u32>),
}

impl Changed {
    pub(crate) fn has(&self, line: u32) -> bool {
        match self {
            Self::Anywhere => true,
            Self::Between(first, last) => (*first..=*last).contains(&line),
            Self::Lines(lines) => lines.contains(&line),
        }
    }

    /// The first line that differs, when that is known.
    pub(crate) fn first(&self) -> Option<u32> {
        match self {
            Self::Anywhere => None,
            Self::Between(first, _) => Some(*first),
            Self::Lines(lines) => lines.first().copied(),
        }
    }
}

/// How a file is explained.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Origin {
    /// As the package brought it.
    Packaged,
    /// As this tool made it.
    Derived(&'static str),
    /// Made by this tool and meant to be edited: each line is judged by itself.
    Generated(&'static str),
    /// Packaged or derived, and changed.
    Modified(Changed),
    /// Not explained.
    Local,
    /// Not known.
    Unknown,
}

impl Origin {
    /// What is said of an item in the file; `line` is `None` for the file as a whole.
    pub(crate) fn verdict(&self, line: Option<u32>, strange: bool) -> Verdict {
        match self {
            Self::Packaged => Verdict::Packaged,
            Self::Derived(_) => Verdict::Derived,
            Self::Generated(_) if strange => Verdict::Local,
            Self::Generated(_) => Verdict::Derived,
            Self::Modified(changed) => match line {
                Some(line) if !changed.has(line) => Verdict::Packaged,
                _ => Verdict::Modified,
            },
            Self::Local => Verdict::Local,
            Self::Unknown => Verdict::Unknown,
        }
    }

    /// Whether nothing of it needs a second look.
    pub(crate) fn is_explained(&self) -> bool {
        matches!(self, Self::Packaged | Self::Derived(_))
    }

    /// The tool that made it.
    pub(crate) fn made_by(&self) -> Option<&'static str> {
        match self {
            Self::Derived(by) | Self::Generated(by) => Some(by),
            _ => None,
        }
    }
}

/// One thing that starts by itself.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct Record {
    pub(crate) kind: &'static str,
    pub(crate) technique: &'static str,
    pub(crate) attack: &'static str,
    /// What makes it run.
    pub(crate) when: String,
    pub(crate) verdict: Option<Verdict>,
    /// The file that it stands in, as seen from the root.
    pub(crate) file: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) line: Option<u32>,
    /// What runs, or what is loaded.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) command: String,
    /// As whom, when it says so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) user: Option<String>,
    /// The program that the command names, and the package that brought that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) program: Option<Program>,
    /// The package that owns the file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) package: Option<String>,
    /// The tool that made the file, or that explains it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) made_by: Option<&'static str>,
    /// Why it does not run as it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) inactive: Option<&'static str>,
    /// Where the link leads.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) target: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) owner: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) uid: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) mode: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) size: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) mtime: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) sha256: Option<String>,
    /// `chattr +i` or `+a` protects it from being removed.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(crate) immutable: bool,
    /// What else is to be known.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) notes: Vec<String>,
    /// The account that decides what is in the file, and at whose cost this is kept.
    #[serde(skip)]
    pub(crate) payer: u32,
}

/// The program that a command names.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Program {
    pub(crate) path: String,
    /// Who owns it; `None` when nobody does.
    pub(crate) package: Option<String>,
    /// Nothing lies there.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(crate) missing: bool,
}
