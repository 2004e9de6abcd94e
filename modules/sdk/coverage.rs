//! How much of what was asked a module could look at.
//!
//! "Found nothing" says little when a directory could not be read. A result therefore carries beside its findings
//! what was not examined, and why; only a complete one proves that something is absent.

use serde::{Deserialize, Serialize};

/// Most entries of [`Coverage::not_examined`]. What comes after them is only counted, in one entry more.
pub const MAX_NOT_EXAMINED: usize = 200;

/// What a module looked at, and what it could not look at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Coverage {
    /// Everything that was asked about was examined.
    pub complete: bool,
    /// How many things were examined: files, sockets, servers.
    pub examined: u64,
    /// What was not, in the order in which it was met.
    pub not_examined: Vec<NotExamined>,
    /// How many things are beyond [`MAX_NOT_EXAMINED`].
    #[serde(skip)]
    beyond: u64,
}

/// Something that was not examined.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(default)]
pub struct NotExamined {
    /// What it is: a path, a namespace, a server.
    pub what: String,
    /// Why it was not examined.
    pub why: String,
}

/// Who says nothing else has examined everything.
impl Default for Coverage {
    fn default() -> Self {
        Self { complete: true, examined: 0, not_examined: Vec::new(), beyond: 0 }
    }
}

impl Coverage {
    /// All of `examined` things, and nothing was left out.
    #[must_use]
    pub fn complete(examined: u64) -> Self {
        Self { examined, ..Self::default() }
    }

    /// Notes that `what` was not examined. The same thing for the same reason is noted once.
    pub fn leave_out(&mut self, what: impl Into<String>, why: impl Into<String>) {
        self.complete = false;
        let entry = NotExamined { what: what.into(), why: why.into() };
        if self.not_examined.len() >= MAX_NOT_EXAMINED {
            self.beyond += 1;
            let why = "there was too much to name each one".to_owned();
            let entry = NotExamined { what: format!("{} more", self.beyond), why };
            self.not_examined.truncate(MAX_NOT_EXAMINED);
            self.not_examined.push(entry);
        } else if !self.not_examined.contains(&entry) {
            self.not_examined.push(entry);
        }
    }

    /// Puts what another part of the same work examined beside this.
    pub fn merge(&mut self, other: Self) {
        self.examined = self.examined.saturating_add(other.examined);
        for NotExamined { what, why } in other.not_examined {
            self.leave_out(what, why);
        }
        self.complete &= other.complete;
    }
}

/// What a result says about what was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// Something was found.
    Found,
    /// Everything was examined, and nothing was found.
    Absent,
    /// Nothing was found, but not everything was examined.
    NotKnown,
    /// The module did not run to its end, and found nothing.
    Failed,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_left_out_makes_it_incomplete_and_is_told_once() {
        let mut coverage = Coverage::complete(5);
        assert!(coverage.complete);

        coverage.leave_out("/root", "permission denied");
        coverage.leave_out("/root", "permission denied");

        assert_eq!(
            serde_json::to_string(&coverage).unwrap(),
            r#"{"complete":false,"examined":5,"not_examined":[{"what":"/root","why":"permission denied"}]}"#
        );
    }

    #[test]
    fn a_long_list_is_cut_and_counted() {
        let mut coverage = Coverage::default();
        for number in 0..MAX_NOT_EXAMINED + 7 {
            coverage.leave_out(format!("/{number}"), "no");
        }

        assert_eq!(coverage.not_examined.len(), MAX_NOT_EXAMINED + 1);
        assert_eq!(coverage.not_examined.last().unwrap().what, "7 more");
    }

    #[test]
    fn two_parts_are_complete_when_both_are() {
        let mut coverage = Coverage::complete(2);
        coverage.merge(Coverage::complete(3));
        assert_eq!(coverage, Coverage::complete(5));

        let mut part = Coverage::default();
        part.leave_out("a", "b");
        coverage.merge(part);

        assert!(!coverage.complete);
    }

    #[test]
    fn a_coverage_without_keys_claims_nothing_more_than_it_says() {
        let coverage: Coverage = serde_json::from_str(r#"{"complete":false}"#).unwrap();

        assert!(!coverage.complete && coverage.not_examined.is_empty());
    }
}
