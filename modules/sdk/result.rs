//! What a module answers to a query.

use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};

use crate::coverage::{Coverage, Verdict};
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
    /// Extension: how much of what was asked could be examined. A module that does not say is taken at its word.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub coverage: Option<Coverage>,
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

    /// Adds what is known about how the search went.
    #[must_use]
    pub fn with_statistics<T: Serialize>(mut self, statistics: &T) -> Self {
        self.statistics = to_raw_value(statistics).ok();
        self
    }

    /// Adds how much of what was asked was examined.
    #[must_use]
    pub fn with_coverage(mut self, coverage: Coverage) -> Self {
        self.coverage = Some(coverage);
        self
    }

    /// What the result says about what was asked for. Only a complete search proves that something is absent.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        let complete = self.coverage.as_ref().is_none_or(|coverage| coverage.complete);
        match (self.foundanything, self.success) {
            (true, _) => Verdict::Found,
            (false, false) => Verdict::Failed,
            (false, true) if complete => Verdict::Absent,
            (false, true) => Verdict::NotKnown,
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
    fn nothing_found_is_absent_only_when_everything_was_examined() {
        let mut coverage = Coverage::complete(1);
        let found = ModuleResult::found(true, &()).with_coverage(coverage.clone());
        let absent = ModuleResult::found(false, &()).with_coverage(coverage.clone());
        coverage.leave_out("/x", "no");
        let not_known = ModuleResult::found(false, &()).with_coverage(coverage);

        assert_eq!(found.verdict(), Verdict::Found);
        assert_eq!(absent.verdict(), Verdict::Absent);
        assert_eq!(not_known.verdict(), Verdict::NotKnown);
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
