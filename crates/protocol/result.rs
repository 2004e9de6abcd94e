//! What a module answers to a query.

use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};

use crate::json::{CompactWriter, compact_raw};

/// The answer to one query. Elements and statistics have a form of their own for each module.
#[derive(Debug, Clone, Serialize, Deserialize, Default)]
#[serde(default)]
pub struct ModuleResult {
    /// The module was asked to find something and found at least one.
    pub foundanything: bool,
    /// The module ran to its end.
    pub success: bool,
    /// What was found: metadata, never the contents of a file.
    #[serde(deserialize_with = "compact_raw")]
    pub elements: Option<Box<RawValue>>,
    /// How the search went.
    #[serde(deserialize_with = "compact_raw")]
    pub statistics: Option<Box<RawValue>>,
    /// Without success why it failed, with success what could not be inspected.
    pub errors: Option<Vec<String>>,
    /// What was looked at and what was not; `None` from a module that does not say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub coverage: Option<Coverage>,
    /// The module rejected the parameters and did nothing. Left out when false, as MIG does not know it.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub rejected: bool,
}

/// What a search looked at and what it could not look at. Nothing found with `complete` false means that it is not
/// known whether there is anything.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(default)]
pub struct Coverage {
    /// Everything that was asked for was examined.
    pub complete: bool,
    /// How many things were examined: processes, files, sockets, packages.
    pub examined: u64,
    /// What was not examined. The list may be cut; `complete` is false whenever there was anything.
    pub not_examined: Vec<NotExamined>,
}

/// Something that was not examined.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(default)]
pub struct NotExamined {
    /// What it is: a path, a mount, a process, a kind of things.
    pub what: String,
    /// Why it was not examined.
    pub why: String,
}

/// Most entries of [`Coverage::not_examined`] that [`Coverage::skip`] keeps; the last one then counts the rest.
pub const MAX_NOT_EXAMINED: usize = 1_000;

impl Coverage {
    /// So far everything was examined, and nothing was there.
    #[must_use]
    pub fn whole() -> Self {
        Self { complete: true, ..Self::default() }
    }

    /// Notes what was not examined; the same thing for the same reason once.
    pub fn skip(&mut self, what: impl Into<String>, why: impl Into<String>) {
        self.complete = false;
        let skipped = NotExamined { what: what.into(), why: why.into() };
        match self.not_examined.len() {
            _ if self.not_examined.contains(&skipped) => {}
            0..MAX_NOT_EXAMINED => self.not_examined.push(skipped),
            MAX_NOT_EXAMINED => self
                .not_examined
                .push(NotExamined { what: "more".to_owned(), why: "the list is cut here".to_owned() }),
            _ => {}
        }
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

impl ModuleResult {
    /// A successful answer with these elements.
    #[must_use]
    pub fn found<T: Serialize>(foundanything: bool, elements: &T) -> Self {
        match to_raw_value(elements) {
            Ok(elements) => {
                Self { foundanything, success: true, elements: Some(elements), ..Self::default() }
            }
            Err(error) => Self::failed([format!("result cannot be written as JSON: {error}")]),
        }
    }

    /// An answer that says why there is none.
    #[must_use]
    pub fn failed(errors: impl IntoIterator<Item = String>) -> Self {
        Self { errors: Some(errors.into_iter().collect()), ..Self::default() }
    }

    /// An answer that says why the parameters are rejected.
    #[must_use]
    pub fn rejected(errors: impl IntoIterator<Item = String>) -> Self {
        Self { rejected: true, ..Self::failed(errors) }
    }

    /// Adds what is known about how the search went.
    #[must_use]
    pub fn with_statistics<T: Serialize>(mut self, statistics: &T) -> Self {
        self.statistics = to_raw_value(statistics).ok();
        self
    }

    /// Adds what was looked at and what was not.
    #[must_use]
    pub fn with_coverage(mut self, coverage: Coverage) -> Self {
        self.coverage = Some(coverage);
        self
    }

    /// Whether nothing was found although not everything was looked at: not "none", but not known.
    #[must_use]
    pub fn is_not_known(&self) -> bool {
        !self.foundanything && self.coverage.as_ref().is_some_and(|coverage| !coverage.complete)
    }

    /// What the result says about what was asked for. Only a complete search proves that something is absent; a
    /// module that says nothing of its coverage is taken at its word.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        match (self.foundanything, self.success) {
            (true, _) => Verdict::Found,
            (false, _) if self.is_not_known() => Verdict::NotKnown,
            (false, true) => Verdict::Absent,
            (false, false) => Verdict::Failed,
        }
    }

    /// The result as one line with its line feed.
    #[must_use]
    pub fn to_line(&self) -> Vec<u8> {
        let mut line = Vec::new();
        self.write_line(&mut line).expect("a result is plain data with string keys");
        line
    }

    /// Writes the result as one line with its line feed.
    ///
    /// # Errors
    /// Those of `writer`.
    pub fn write_line(&self, mut writer: impl std::io::Write) -> std::io::Result<()> {
        serde_json::to_writer(CompactWriter::new(&mut writer), self)?;
        writer.write_all(b"\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_result_is_written_with_all_five_keys_as_mig_does() {
        let result = ModuleResult::failed(["must set a string to echo".to_owned()]);

        let line = String::from_utf8(result.to_line()).unwrap();

        assert_eq!(
            line,
            "{\"foundanything\":false,\"success\":false,\"elements\":null,\"statistics\":null,\"errors\":[\"must set a string to echo\"]}\n"
        );
    }

    #[test]
    fn nothing_found_is_not_known_when_something_was_not_examined() {
        let mut coverage = Coverage::whole();
        let none = ModuleResult::found(false, &()).with_coverage(coverage.clone());
        for number in 0..2 * MAX_NOT_EXAMINED {
            coverage.skip(number.to_string(), "no permission");
        }
        let not_known = ModuleResult::found(false, &()).with_coverage(coverage.clone());
        let found = ModuleResult::found(true, &()).with_coverage(coverage.clone());

        assert!(!none.is_not_known() && not_known.is_not_known() && !found.is_not_known());
        assert_eq!(coverage.not_examined.len(), MAX_NOT_EXAMINED + 1);
        let line = String::from_utf8(none.to_line()).unwrap();
        assert!(line.contains(r#""coverage":{"complete":true,"examined":0,"not_examined":[]}"#), "{line}");
    }

    #[test]
    fn nothing_found_is_absent_only_when_everything_was_examined() {
        let mut partly = Coverage::whole();
        partly.skip("/x", "no");
        let found = ModuleResult::found(true, &()).with_coverage(partly.clone());
        let absent = ModuleResult::found(false, &()).with_coverage(Coverage::whole());
        let not_known = ModuleResult::found(false, &()).with_coverage(partly.clone());
        let stopped = ModuleResult::failed([]).with_coverage(partly);

        assert_eq!(found.verdict(), Verdict::Found);
        assert_eq!(absent.verdict(), Verdict::Absent);
        assert_eq!((not_known.verdict(), stopped.verdict()), (Verdict::NotKnown, Verdict::NotKnown));
        assert_eq!(ModuleResult::found(false, &()).verdict(), Verdict::Absent);
        assert_eq!(ModuleResult::failed([]).verdict(), Verdict::Failed);
    }

    #[test]
    fn a_result_over_many_lines_is_read_and_written_as_one() {
        let text =
            "{\n \"success\": true,\r\n\t\"elements\": {\n\"a b\": [ 1.50 ,\n2 ]},\n\"statistics\":\n {}}";

        let result: ModuleResult = serde_json::from_str(text).unwrap();

        assert_eq!(result.elements.as_ref().unwrap().get(), r#"{"a b":[1.50,2]}"#);
        let made = ModuleResult {
            elements: Some(RawValue::from_string("{\n\"a b\" :\n1}".to_owned()).unwrap()),
            ..ModuleResult::default()
        };
        let line = String::from_utf8(made.to_line()).unwrap();
        assert!(line.contains(r#""elements":{"a b":1}"#), "{line}");
        assert_eq!(line.matches('\n').count(), 1, "{line}");
    }

    #[test]
    fn a_result_of_mig_is_read() {
        let text =
            r#"{"foundanything":true,"success":true,"elements":{"ok":true},"statistics":null,"errors":null}"#;

        let result: ModuleResult = serde_json::from_str(text).unwrap();

        assert!(result.foundanything && result.success);
        assert_eq!(result.elements.unwrap().get(), r#"{"ok":true}"#);
        assert_eq!(result.errors, None);
    }
}
