//! How severe alerts are; what modules say and agents read.

use serde::{Deserialize, Serialize};

/// Severities in their order; by custom an alert is a JSON object with the key `severity`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Worth a note.
    Low,
    /// Worth a look; also what an alert counts as that does not say.
    Medium,
    /// Worth a look now.
    High,
    /// Somebody must act.
    Critical,
}

impl Severity {
    /// All, the least severe one first.
    pub const ALL: [Self; 4] = [Self::Low, Self::Medium, Self::High, Self::Critical];

    /// The name in configuration and alerts.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Low => "low",
            Self::Medium => "medium",
            Self::High => "high",
            Self::Critical => "critical",
        }
    }

    /// Finds a severity by its name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|severity| severity.name().eq_ignore_ascii_case(name))
    }

    /// The severity that an alert's text names.
    #[must_use]
    pub fn of(message: &str) -> Self {
        #[derive(Deserialize)]
        struct Named {
            severity: Severity,
        }
        serde_json::from_str(message).map_or(Self::Medium, |named: Named| named.severity)
    }
}

/// Whether an alert is the record of a canary of fswatch: nothing happened, but the way from a change to the journal
/// was proved. Whoever shows or sends alerts leaves these out unless somebody asks for them.
#[must_use]
pub fn is_canary(module: &str, message: &str) -> bool {
    // In JSON a quotation mark that is part of a name is escaped, so no name can look like this.
    module == "fswatch"
        && message.starts_with(r#"{"severity":"low","#)
        && message.contains(r#""event":"canary""#)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_record_of_a_canary_is_one() {
        let canary = r#"{"severity":"low","alert":"canary 1","event":"canary"}"#;
        assert!(is_canary("fswatch", canary) && !is_canary("honeypot", canary));
        assert!(!is_canary("fswatch", r#"{"severity":"critical","alert":"x","event":"canary"}"#));
        assert!(!is_canary(
            "fswatch",
            r#"{"severity":"low","alert":"path \"event\":\"canary\" created","event":"created"}"#
        ));
    }

    #[test]
    fn an_alert_names_its_severity_or_counts_as_medium() {
        assert_eq!(Severity::of(r#"{"alert": "x", "severity": "critical"}"#), Severity::Critical);
        assert_eq!(Severity::of(r#"{"severity": "low"}"#), Severity::Low);
        for text in ["plain text", "{}", r#"{"severity": "urgent"}"#, r#"{"severity": 3}"#, ""] {
            assert_eq!(Severity::of(text), Severity::Medium, "{text}");
        }
    }
}
