//! Why a path is watched as it is, or not, for people and programs.

use std::path::PathBuf;

use serde_json::{Value, json};

use super::{Attribute, Options};

/// An entry and where it is configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EntryName {
    /// In its canonical form.
    pub entry: String,
    /// The section or the profile's group.
    pub group: String,
}

/// An entry that a path does not have its rule from, although it could.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Other {
    /// The entry.
    pub name: EntryName,
    /// The exclusion that leaves the path out; without one, another entry is nearer.
    pub excluded_by: Option<String>,
}

/// Why a path is watched as it is, or not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation {
    /// The path.
    pub path: PathBuf,
    /// The entry that it has its rule from.
    pub rule: Option<EntryName>,
    /// The rule, and whether links are followed.
    pub options: Option<(Options, bool)>,
    /// Entries that lost, the nearest first.
    pub others: Vec<Other>,
    /// The path is on the way to what is watched.
    pub leads: bool,
    /// The path belongs to the module itself.
    pub own: bool,
}

impl Explanation {
    /// Whether the path is watched.
    #[must_use]
    pub fn watched(&self) -> bool {
        self.rule.is_some()
    }

    /// In one sentence or a few.
    #[must_use]
    pub fn sentence(&self) -> String {
        let path = self.path.display();
        let mut text = match (&self.rule, &self.options) {
            (Some(rule), Some((options, follow))) => {
                let compared: Vec<&str> = options.attributes.iter().map(Attribute::name).collect();
                let mut text = format!(
                    "{path} is watched by {} of {}: compared are {}",
                    rule.entry,
                    rule.group,
                    compared.join(", ")
                );
                if !options.hash {
                    text += "; files are not hashed";
                } else if let Some(most) = options.largest_hashed {
                    text += &format!("; files of up to {} are hashed", vigie_host::show_size(most));
                }
                if options.growing {
                    text += "; growth is not a change";
                }
                if *follow {
                    text += "; links are followed to files";
                }
                if let Some(severity) = options.severity {
                    text += &format!("; any change is {}", severity.name());
                }
                text
            }
            _ if self.own => format!("{path} is not watched: it belongs to the module itself"),
            _ if self.others.is_empty() && self.leads => {
                format!("{path} is not watched itself, but leads to watched paths")
            }
            _ if self.others.is_empty() => format!("{path} is not watched: no entry covers it"),
            _ => format!("{path} is not watched"),
        };
        if !self.own {
            for Other { name, excluded_by } in &self.others {
                let EntryName { entry, group } = name;
                text += &match excluded_by {
                    Some(exclusion) => format!("; {entry} of {group} excludes it by {exclusion}"),
                    None => format!("; {entry} of {group} covers it too, but is less specific"),
                };
            }
        }
        text
    }

    /// The same for programs.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let others: Vec<Value> = self
            .others
            .iter()
            .map(|other| {
                json!({
                    "entry": other.name.entry,
                    "group": other.name.group,
                    "excluded_by": other.excluded_by,
                })
            })
            .collect();
        let mut options = self.options.as_ref().map(|(options, _)| options.to_json());
        if let (Some(options), Some((_, follow))) = (&mut options, &self.options) {
            options["follow"] = json!(follow);
        }
        json!({
            "path": self.path.to_string_lossy(),
            "watched": self.watched(),
            "entry": self.rule.as_ref().map(|rule| rule.entry.as_str()),
            "group": self.rule.as_ref().map(|rule| rule.group.as_str()),
            "options": options,
            "other_entries": others,
            "on_the_way": self.leads,
            "explanation": self.sentence(),
        })
    }
}
