//! What is said in a query, for whoever watches the module.

use vigie_protocol::control::ModuleLine;

use super::QueryError;
use crate::line_feed::{LineFeeds, line_from_module, module_line, wire_line};

/// Lines of a standard module's stderr that are kept of one query.
const STDERR_LINES: usize = 50;

/// Shows the lines of one query.
#[derive(Debug, Clone, Default)]
pub(super) struct Ears {
    query: u64,
    feeds: LineFeeds,
}

impl Ears {
    /// For the query of this number.
    pub(super) fn new(query: u64, feeds: LineFeeds) -> Self {
        Self { query, feeds }
    }

    /// A line for the module, before it is written.
    pub(super) fn asked(&self, line: &[u8]) {
        let text = || String::from_utf8_lossy(line).into_owned();
        self.feeds.wire.send(|| self.of_query(wire_line("to_module", &text())));
    }

    /// An answer of the module; `dropped` says why it is none.
    pub(super) fn said(&self, text: &str, dropped: Option<&str>) {
        self.feeds.wire.send(|| self.of_query(line_from_module(text, dropped)));
    }

    fn of_query(&self, line: ModuleLine) -> ModuleLine {
        ModuleLine { query: Some(self.query), ..line }
    }
}

/// What is kept of a query for people: the end of stderr, and why the answer was dropped.
pub(super) fn left(on_stderr: &[u8], dropped: Option<&QueryError>) -> Vec<ModuleLine> {
    let text = String::from_utf8_lossy(on_stderr);
    let lines: Vec<&str> = text.lines().filter(|line| !line.is_empty()).collect();
    let newest = &lines[lines.len().saturating_sub(STDERR_LINES)..];
    let stderr = newest.iter().map(|line| module_line("stderr", line));
    stderr.chain(dropped.map(|error| module_line("dropped", &error.to_string()))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_of_a_query_is_the_end_of_stderr_and_why_its_answer_was_dropped() {
        let stderr: String = (0..STDERR_LINES + 2).map(|number| format!("line {number}\n\n")).collect();
        let error = QueryError::TooLarge { module: "x".parse().unwrap(), limit: 5 };

        let lines = left(stderr.as_bytes(), Some(&error));

        assert_eq!(lines.len(), STDERR_LINES + 1);
        assert_eq!((lines[0].source.as_str(), lines[0].text.as_str()), ("stderr", "line 2"));
        assert_eq!(lines[STDERR_LINES].source, "dropped");
        assert!(lines[STDERR_LINES].text.contains("exceeds 5 bytes"));
        assert_eq!(left(b"", None), []);
    }
}
