//! What is asked for.

use std::path::{Path, PathBuf};

use regex::{Regex, RegexBuilder};
use vigie_sdk::Query;
use vigie_sdk::given::Given;

/// Most bytes of a compiled expression.
const MAX_EXPRESSION_BYTES: usize = 1 << 20;

/// Most values of one parameter.
const MAX_VALUES: usize = 1_000;

/// Logins that are told when nobody says how many.
const NEWEST: usize = 100;

/// Parts of the answer.
pub(crate) const PARTS: [&str; 7] = ["users", "groups", "sudo", "keys", "logins", "failures", "sessions"];

const NAMES: [&str; 7] = ["group", "newest", "privileged", "root", "uid", "user", "what"];

/// The query.
#[derive(Debug)]
pub(crate) struct Parameters {
    pub(crate) root: Option<PathBuf>,
    what: Vec<String>,
    users: Vec<Regex>,
    uids: Vec<u32>,
    groups: Vec<Regex>,
    /// Only accounts that are root, or may become it.
    pub(crate) privileged: bool,
    /// Most logins.
    pub(crate) newest: usize,
}

impl Parameters {
    /// Reads the parameters of a query.
    ///
    /// # Errors
    /// Every problem, as a sentence that names the parameter.
    pub(crate) fn from_query(query: &Query) -> Result<Self, Vec<String>> {
        let mut given = Given::of(query)?;
        let root = given.path("root");
        let expression = |text: &str| {
            let built = RegexBuilder::new(text).size_limit(MAX_EXPRESSION_BYTES).build();
            built.map_err(|error| format!("{text:?} is not a regular expression: {error}"))
        };
        let what = given.words("what", MAX_VALUES, |part| {
            if PARTS.contains(&part) {
                Ok(part.to_owned())
            } else {
                Err(format!("{part:?} is not a part; known parts: {}", PARTS.join(", ")))
            }
        });
        let users = given.words("user", MAX_VALUES, expression);
        let groups = given.words("group", MAX_VALUES, expression);
        let uids = given.words("uid", MAX_VALUES, |text| {
            text.parse::<u32>().map_err(|_| format!("{text:?} is not a UID"))
        });
        let privileged = given.switch("privileged");
        let newest = match given.take("newest") {
            None => NEWEST,
            Some(value) => match value.as_u64().and_then(|count| usize::try_from(count).ok()) {
                Some(count) => count.min(100_000),
                None => {
                    given.complain("newest", "expected a number");
                    0
                }
            },
        };
        given.end(&NAMES)?;
        Ok(Self { root, what, users, uids, groups, privileged, newest })
    }

    pub(crate) fn root(&self) -> &Path {
        self.root.as_deref().unwrap_or_else(|| Path::new("/"))
    }

    /// Whether what runs now belongs to the root that was asked for.
    pub(crate) fn is_this_host(&self) -> bool {
        self.root.as_deref().is_none_or(|root| root == Path::new("/"))
    }

    /// Whether a part of the answer was asked for. Failed logins are told only when they are.
    pub(crate) fn wants(&self, part: &str) -> bool {
        if self.what.is_empty() { part != "failures" } else { self.what.iter().any(|asked| asked == part) }
    }

    /// Whether only some accounts were asked for.
    pub(crate) fn narrows(&self) -> bool {
        !self.users.is_empty() || !self.uids.is_empty() || !self.groups.is_empty() || self.privileged
    }

    /// Whether an account was asked for by its name, number and groups.
    pub(crate) fn takes(&self, name: &str, uid: u32, groups: &[String]) -> bool {
        (self.users.is_empty() || self.users.iter().any(|user| user.is_match(name)))
            && (self.uids.is_empty() || self.uids.contains(&uid))
            && (self.groups.is_empty() || groups.iter().any(|group| self.takes_group(group)))
    }

    /// Whether a group was asked for.
    pub(crate) fn takes_group(&self, name: &str) -> bool {
        self.groups.is_empty() || self.groups.iter().any(|group| group.is_match(name))
    }

    /// Whether groups were asked for, and nothing about accounts: a group without members is one as well.
    pub(crate) fn asks_groups_only(&self) -> bool {
        self.users.is_empty() && self.uids.is_empty() && !self.privileged
    }

    /// Whether a name that is of no account here was asked for. Nobody knows its number or its groups.
    pub(crate) fn takes_stranger(&self, name: &str) -> bool {
        self.uids.is_empty()
            && self.groups.is_empty()
            && !self.privileged
            && self.users.iter().any(|user| user.is_match(name))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::value::to_raw_value;
    use serde_json::{Value, json};

    use super::*;

    fn read(parameters: &Value) -> Result<Parameters, Vec<String>> {
        Parameters::from_query(&Query::new(Some(to_raw_value(parameters).unwrap())))
    }

    #[test]
    fn every_problem_names_its_parameter() {
        let problems = read(&json!({"root": "x", "what": ["no"], "user": ["("], "uid": ["-1"], "group": 7.5, "newest": "x", "privileged": 1, "usr": "a"})).unwrap_err();

        for name in ["root", "what[0]", "user[0]", "uid[0]", "newest", "privileged", "\"usr\""] {
            let unknown = if name.starts_with('"') { "unknown " } else { "" };
            let expected = format!("{unknown}parameter {name}");
            assert!(problems.iter().any(|problem| problem.starts_with(&expected)), "{name}: {problems:?}");
        }
    }

    #[test]
    fn failures_are_told_when_they_are_asked_for() {
        assert!(!read(&json!({})).unwrap().wants("failures"));
        assert!(read(&json!({"what": "failures"})).unwrap().wants("failures"));
        assert!(read(&json!({"uid": [0]})).unwrap().takes("root", 0, &[]));
    }
}
