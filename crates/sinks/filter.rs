//! Which alerts a sink wants.

use glob::MatchOptions;
pub use glob::Pattern;
use serde_json::Value;
use vigie_protocol::severity::{Severity, is_canary};

use crate::alert::Alert;

/// A filter; an alert passes when every part lets it pass. An empty list lets everything pass.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    /// Names of modules.
    pub modules: Vec<String>,
    /// The least severity.
    pub severity: Option<Severity>,
    /// Patterns of glob(7) that an alert's `rule` has to match.
    pub rules: Vec<Pattern>,
    /// Patterns of glob(7) that an alert's `path`, or `from`, or a sample of a group, has to match; `*` and `**` pass a
    /// slash.
    pub paths: Vec<Pattern>,
}

/// Reads a pattern.
///
/// # Errors
/// What is wrong with it.
pub fn pattern(text: &str) -> Result<Pattern, String> {
    Pattern::new(text).map_err(|error| error.msg.to_owned())
}

const OPTIONS: MatchOptions = MatchOptions {
    case_sensitive: true,
    require_literal_separator: false,
    require_literal_leading_dot: false,
};

impl Filter {
    /// Whether the alert is wanted.
    #[must_use]
    pub fn wants(&self, alert: &Alert) -> bool {
        let is_any = |patterns: &[Pattern], text: &str| {
            patterns.iter().any(|pattern| pattern.matches_with(text, OPTIONS))
        };
        (self.modules.is_empty() || self.modules.contains(&alert.module))
            && self.severity.is_none_or(|least| alert.severity >= least)
            && (self.rules.is_empty() || is_any(&self.rules, alert.text("rule")))
            && (self.paths.is_empty() || paths(alert).any(|path| is_any(&self.paths, path)))
    }

    /// Whether it leaves out the record of a canary, by which nothing happened: unless it names the severity of these.
    #[must_use]
    pub fn leaves_out_canary(&self, module: &str, message: &str) -> bool {
        self.severity != Some(Severity::Low) && is_canary(module, message)
    }

    /// Whether everything passes but canaries.
    #[must_use]
    pub fn is_open(&self) -> bool {
        *self == Self::default()
    }
}

/// Everything that an alert is about.
fn paths(alert: &Alert) -> impl Iterator<Item = &str> {
    let own = [alert.text("path"), alert.text("from")];
    let samples = alert.fields.get("group").and_then(|group| group.get("samples")).and_then(Value::as_array);
    let samples = samples.into_iter().flatten().filter_map(Value::as_str);
    own.into_iter().chain(samples).filter(|path| !path.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::alert::tests::{alert, hard};

    fn patterns(texts: &[&str]) -> Vec<Pattern> {
        texts.iter().map(|text| pattern(text).unwrap()).collect()
    }

    #[test]
    fn every_part_has_to_let_an_alert_pass() {
        let change = hard();
        let group =
            alert(1, r#"{"severity":"low","alert":"x","event":"group","group":{"samples":["/etc/passwd"]}}"#);
        for (filter, wants) in [
            (Filter::default(), [true, true]),
            (Filter { modules: vec!["netstat".to_owned()], ..Filter::default() }, [false, false]),
            (Filter { severity: Some(Severity::High), ..Filter::default() }, [true, false]),
            (Filter { rules: patterns(&["recursive:/srv"]), ..Filter::default() }, [true, false]),
            (Filter { paths: patterns(&["/etc/*"]), ..Filter::default() }, [false, true]),
            (Filter { paths: patterns(&["/etc/**", "/srv/*"]), ..Filter::default() }, [true, true]),
        ] {
            assert_eq!([filter.wants(&change), filter.wants(&group)], wants, "{filter:?}");
        }
        assert!(pattern("[").is_err());
    }

    #[test]
    fn canaries_are_for_who_names_their_severity() {
        let canary = r#"{"severity":"low","alert":"canary 1","event":"canary"}"#;
        let low = Filter { severity: Some(Severity::Low), ..Filter::default() };
        assert!(Filter::default().leaves_out_canary("fswatch", canary));
        assert!(!low.leaves_out_canary("fswatch", canary));
        assert!(!Filter::default().leaves_out_canary("honeypot", canary));
    }
}
