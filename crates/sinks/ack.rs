//! Lines between the agent and a program that takes alerts: the sinks `command` and `file`.
//!
//! The agent writes `{"seq":N,"alert":…}` for each alert. The program answers with a line that has the number of the
//! newest alert that it has stored with all before it: `N`, or `{"ack":N}`.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// Longest line that is read from a program, in bytes.
pub const MAX_ANSWER_BYTES: usize = 1024;

/// A line to the program.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Envelope {
    /// The alert's number.
    pub seq: u64,
    /// The alert in the form that the sink is configured for.
    pub alert: Box<RawValue>,
}

impl Envelope {
    /// The line, with its line feed.
    #[must_use]
    pub fn line(seq: u64, alert: &[u8]) -> Vec<u8> {
        let mut line = format!("{{\"seq\":{seq},\"alert\":").into_bytes();
        line.extend_from_slice(alert);
        line.extend_from_slice(b"}\n");
        line
    }
}

/// The number that a line from the program acknowledges.
#[must_use]
pub fn acknowledged(line: &str) -> Option<u64> {
    #[derive(Deserialize)]
    struct Ack {
        ack: u64,
    }
    let line = line.trim();
    line.parse().ok().or_else(|| serde_json::from_str::<Ack>(line).ok().map(|ack| ack.ack))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_read_back_and_both_forms_of_an_answer_are_understood() {
        let line = Envelope::line(7, br#"{"a":"b\n"}"#);

        let envelope: Envelope = serde_json::from_slice(&line).unwrap();

        assert_eq!((envelope.seq, envelope.alert.get()), (7, r#"{"a":"b\n"}"#));
        assert_eq!(line.iter().filter(|byte| **byte == b'\n').count(), 1);
        for (line, seq) in
            [("7", Some(7)), (" 7\r", Some(7)), (r#"{"ack":7}"#, Some(7)), ("ok", None), ("-1", None)]
        {
            assert_eq!(acknowledged(line), seq, "{line}");
        }
    }
}
