//! Conditions: what is wrong at present, each with a name, a severity, a detail for people, and since when.
//!
//! Whoever finds a fault raises the condition and clears it when the fault is gone; doing either twice changes
//! nothing. Status, exit code, log, metrics and the fleet's list are views of the same set. No decision reads a
//! detail: it is for people only.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::catalogue::AgentCondition;
use crate::module_name::ModuleName;

/// Most conditions that one module may have at a time; more are left out and counted.
pub(crate) const MAX_CONDITIONS: usize = 64;

/// Longest name of a condition in bytes.
const MAX_NAME_BYTES: usize = 48;

/// Longest detail in bytes; what is longer is cut.
const MAX_DETAIL_BYTES: usize = 512;

/// How bad a condition is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ConditionSeverity {
    /// Something is unexpected and handled.
    Warning,
    /// A promise is broken, and somebody must act.
    Failed,
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Condition {
    /// Its name in the catalogue of whoever reports it: lower-case letters, digits and hyphens.
    pub name: String,
    /// How bad it is.
    pub severity: ConditionSeverity,
    /// When it began, RFC 3339 in UTC.
    #[serde(default)]
    pub since: String,
    /// What a person needs to know beside the name.
    #[serde(default)]
    pub detail: String,
}

impl Condition {
    /// Makes a condition that came from outside safe to keep: bounded, printable, with a name that can be a term.
    /// `None` when its name cannot be one.
    #[must_use]
    pub(crate) fn sanitized(mut self) -> Option<Self> {
        let is_term = (1..=MAX_NAME_BYTES).contains(&self.name.len())
            && self
                .name
                .bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
        if !is_term {
            return None;
        }
        if self.since.parse::<jiff::Timestamp>().is_err() {
            self.since.clear();
        }
        self.detail.retain(|c| !c.is_control());
        self.detail.truncate(self.detail.floor_char_boundary(MAX_DETAIL_BYTES));
        Some(self)
    }
}

/// What a condition is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Subject {
    /// The agent itself.
    Agent,
    /// A module.
    Module(ModuleName),
    /// A sink of alerts, by its name in the configuration.
    Sink(String),
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Agent => f.write_str("agent"),
            Self::Module(name) => write!(f, "module {name}"),
            Self::Sink(name) => write!(f, "sink {name}"),
        }
    }
}

/// A condition and what it is about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StandingCondition {
    /// What it is about.
    pub about: Subject,
    /// The condition.
    #[serde(flatten)]
    pub condition: Condition,
}

impl fmt::Display for StandingCondition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Condition { name, detail, .. } = &self.condition;
        write!(f, "{}: {name}", self.about)?;
        if detail.is_empty() { Ok(()) } else { write!(f, ": {detail}") }
    }
}

/// What a step did to a set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Transition {
    /// A condition that was not there, or is worse than it was.
    Raised(Condition),
    /// A condition that is gone.
    Cleared(Condition),
}

/// The conditions of one subject.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ConditionSet(BTreeMap<String, Condition>);

impl ConditionSet {
    /// Raises one of the agent's own conditions. A condition that stands keeps its beginning and takes the new detail.
    pub fn raise(&mut self, condition: AgentCondition, detail: &str, now: &str) -> Option<Transition> {
        let severity = condition.severity();
        let name = condition.name().to_owned();
        let raised = Condition { name, severity, since: now.to_owned(), detail: detail.to_owned() };
        self.put(raised.sanitized()?)
    }

    /// Clears one of the agent's own conditions.
    pub fn clear(&mut self, condition: AgentCondition) -> Option<Transition> {
        self.0.remove(condition.name()).map(Transition::Cleared)
    }

    /// Makes `whole` the set, but for conditions that `keep` says belong to somebody else. What has no time of its own
    /// begins `now`. Returns what changed, and how many of `whole` were left out.
    pub fn replace(
        &mut self,
        whole: Vec<Condition>,
        keep: impl Fn(&str) -> bool,
        now: &str,
    ) -> (Vec<Transition>, usize) {
        let total = whole.len();
        let mut new: BTreeMap<String, Condition> = BTreeMap::new();
        for condition in whole.into_iter().take(MAX_CONDITIONS).filter_map(Condition::sanitized) {
            if !keep(&condition.name) {
                new.insert(condition.name.clone(), condition);
            }
        }
        let left_out = total - new.len();
        let gone: Vec<String> =
            self.0.keys().filter(|name| !keep(name) && !new.contains_key(*name)).cloned().collect();
        let cleared = gone.iter().filter_map(|name| self.0.remove(name)).map(Transition::Cleared);
        let mut transitions: Vec<_> = cleared.collect();
        for (_, mut condition) in new {
            if condition.since.is_empty() {
                now.clone_into(&mut condition.since);
            }
            transitions.extend(self.put(condition));
        }
        (transitions, left_out)
    }

    /// Removes everything; returns what was there.
    pub fn clear_all(&mut self) -> Vec<Transition> {
        std::mem::take(&mut self.0).into_values().map(Transition::Cleared).collect()
    }

    /// The conditions by name.
    pub fn iter(&self) -> impl Iterator<Item = &Condition> {
        self.0.values()
    }

    /// Whether nothing is wrong.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn put(&mut self, mut condition: Condition) -> Option<Transition> {
        let known = self.0.get(&condition.name);
        let worse = known.is_none_or(|known| condition.severity > known.severity);
        if let Some(known) = known {
            condition.since.clone_from(&known.since);
        }
        self.0.insert(condition.name.clone(), condition.clone());
        worse.then_some(Transition::Raised(condition))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: &str = "2026-01-31T08:00:00Z";
    const LATER: &str = "2026-01-31T09:00:00Z";

    fn condition(name: &str, severity: ConditionSeverity) -> Condition {
        Condition { name: name.to_owned(), severity, since: String::new(), detail: String::new() }
    }

    #[test]
    fn raising_twice_changes_the_detail_and_not_the_beginning() {
        let mut set = ConditionSet::default();

        assert!(set.raise(AgentCondition::LogUnwritable, "disk full", NOW).is_some());
        assert_eq!(set.raise(AgentCondition::LogUnwritable, "read-only", LATER), None);

        let standing = set.iter().next().unwrap();
        assert_eq!((standing.since.as_str(), standing.detail.as_str()), (NOW, "read-only"));
    }

    #[test]
    fn one_owner_never_clears_what_another_one_raised() {
        let mut set = ConditionSet::default();
        set.raise(AgentCondition::SocketRefused, "not allowed", NOW);
        set.raise(AgentCondition::LogBudgetExceeded, "", NOW);

        set.clear(AgentCondition::LogBudgetExceeded);

        assert_eq!(set.iter().map(|one| one.name.as_str()).collect::<Vec<_>>(), ["socket-refused"]);
        let (transitions, _) = set.replace(Vec::new(), AgentCondition::is_name, NOW);
        assert_eq!(transitions, []);
        assert!(!set.is_empty());
    }

    #[test]
    fn what_becomes_worse_is_raised_again() {
        let mut set = ConditionSet::default();
        let of = |severity| vec![condition("blind", severity)];

        set.replace(of(ConditionSeverity::Warning), |_| false, NOW);
        let (transitions, _) = set.replace(of(ConditionSeverity::Failed), |_| false, LATER);

        let [Transition::Raised(raised)] = transitions.as_slice() else { panic!("{transitions:?}") };
        assert_eq!((raised.severity, raised.since.as_str()), (ConditionSeverity::Failed, NOW));
    }

    #[test]
    fn a_name_that_is_no_term_is_left_out_and_a_detail_is_bounded() {
        for name in ["", "Two Words", "a\nb", &"x".repeat(49)] {
            assert_eq!(condition(name, ConditionSeverity::Warning).sanitized(), None, "{name:?}");
        }
        let long = Condition { detail: "é\n".repeat(1000), ..condition("x", ConditionSeverity::Warning) };
        assert_eq!(long.sanitized().unwrap().detail.len(), 512);
    }

    proptest! {
        #[test]
        fn transitions_of_any_replacement_lead_from_the_old_set_to_the_new_one(
            steps in proptest::collection::vec(proptest::collection::vec("[a-c]", 0..4), 1..8),
        ) {
            let mut set = ConditionSet::default();
            let mut mirror = std::collections::BTreeSet::new();
            for step in steps {
                let whole = step.iter().map(|name| condition(name, ConditionSeverity::Warning)).collect();
                for transition in set.replace(whole, |_| false, NOW).0 {
                    match transition {
                        Transition::Raised(one) => prop_assert!(mirror.insert(one.name)),
                        Transition::Cleared(one) => prop_assert!(mirror.remove(&one.name)),
                    }
                }
                let names: std::collections::BTreeSet<String> = step.into_iter().collect();
                prop_assert_eq!(&mirror, &names);
            }
        }
    }
}
