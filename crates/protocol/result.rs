//! What a module answers to a query.

use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};

/// The answer to one query. Elements and statistics have a form of their own for each module.
#[derive(Debug, Clone, Serialize, Deserialize, Default)]
#[serde(default)]
pub struct ModuleResult {
    /// The module was asked to find something and found at least one.
    pub foundanything: bool,
    /// The module ran to its end.
    pub success: bool,
    /// What was found: metadata, never the contents of a file.
    pub elements: Option<Box<RawValue>>,
    /// How the search went.
    pub statistics: Option<Box<RawValue>>,
    /// Without success why it failed, with success what could not be inspected.
    pub errors: Option<Vec<String>>,
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
        serde_json::to_writer(&mut writer, self)?;
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
    fn a_result_of_mig_is_read() {
        let text =
            r#"{"foundanything":true,"success":true,"elements":{"ok":true},"statistics":null,"errors":null}"#;

        let result: ModuleResult = serde_json::from_str(text).unwrap();

        assert!(result.foundanything && result.success);
        assert_eq!(result.elements.unwrap().get(), r#"{"ok":true}"#);
        assert_eq!(result.errors, None);
    }
}
