//! How far a long query is: told by the module a few times a second, and read by the agent ahead of the result.

use std::time::Duration;

use crate::message::{Class, MessageRef, Progress};

/// Least time between two reports of a query.
pub const INTERVAL: Duration = Duration::from_millis(250);

/// Longest line of progress in bytes; what is longer is taken for the beginning of the result.
const MAX_LINE_BYTES: usize = 1024;

/// Longest unit in bytes; a longer one, or one that is no plain word, is left out.
const MAX_UNIT_BYTES: usize = 20;

/// Takes the lines of progress from the beginning of an answer while it is read. A result never begins like one: it
/// has no class.
#[derive(Debug, Default)]
pub struct ProgressReader {
    /// The result has begun.
    over: bool,
    /// So many bytes hold no line feed.
    looked_at: usize,
}

impl ProgressReader {
    /// A reader for an answer that progress may come before, if it `may_come`.
    #[must_use]
    pub fn new(may_come: bool) -> Self {
        Self { over: !may_come, looked_at: 0 }
    }

    /// Takes what has come of progress out of `answer`, to which the caller adds what he reads; returns the newest.
    pub fn take(&mut self, answer: &mut Vec<u8>) -> Option<Progress> {
        let mut newest = None;
        while !self.over {
            let Some(end) = answer[self.looked_at..].iter().position(|byte| *byte == b'\n') else {
                self.looked_at = answer.len();
                self.over = answer.len() > MAX_LINE_BYTES;
                break;
            };
            let end = self.looked_at + end;
            match progress_of(&answer[..end]) {
                Some(progress) => newest = Some(progress),
                None => self.over = true,
            }
            if !self.over {
                answer.drain(..=end);
                self.looked_at = 0;
            }
        }
        newest
    }
}

/// The progress that a line tells, if it does.
fn progress_of(line: &[u8]) -> Option<Progress> {
    if line.len() > MAX_LINE_BYTES {
        return None;
    }
    let message = MessageRef::parse(std::str::from_utf8(line).ok()?).ok()?;
    if message.class != Class::Progress {
        return None;
    }
    let mut progress: Progress = message.parameters_as("progress").unwrap_or_default();
    // A word and nothing else: in extra privacy mode nobody looks for names here.
    let is_word = |unit: &str| unit.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b' ');
    if progress.unit.len() > MAX_UNIT_BYTES || !is_word(&progress.unit) {
        progress.unit.clear();
    }
    Some(progress)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::message::Message;

    fn line(done: u64) -> Vec<u8> {
        let unit = "files".to_owned();
        Message::progress(&Progress { done, total: None, found: Some(1), unit }).to_line()
    }

    #[test]
    fn an_answer_without_progress_is_left_as_it_is() {
        for text in ["{}", "{\"a\":\n1}\n", "", "\n", "garbage\nmore", "{\"class\":\"log\"}\n{}"] {
            let mut answer = text.as_bytes().to_vec();

            assert_eq!(ProgressReader::new(true).take(&mut answer), None);
            assert_eq!(answer, text.as_bytes());
        }
        let mut answer = line(1);
        assert_eq!(ProgressReader::new(false).take(&mut answer), None);
        assert_eq!(answer, line(1));
    }

    #[test]
    fn a_unit_is_a_plain_word_or_left_out() {
        for (unit, expected) in [("files", "files"), ("/home/ann", ""), ("\u{1b}[2J", ""), ("Ann", "")] {
            let progress = Progress { unit: unit.to_owned(), ..Progress::default() };
            let mut answer = Message::progress(&progress).to_line();

            let read = ProgressReader::new(true).take(&mut answer).unwrap();

            assert_eq!(read.unit, expected);
        }
    }

    #[test]
    fn a_beginning_without_end_is_no_progress_and_is_looked_at_once() {
        let mut reader = ProgressReader::new(true);
        let mut answer = vec![b' '; MAX_LINE_BYTES + 1];

        assert_eq!(reader.take(&mut answer), None);

        assert!(reader.over);
        assert_eq!(answer.len(), MAX_LINE_BYTES + 1);
    }

    proptest! {
        #[test]
        fn progress_and_result_are_told_apart_however_they_arrive(
            reports in 0_u64..5,
            result in "[ -~\n]{0,80}",
            sizes in prop::collection::vec(1_usize..60, 1..20),
        ) {
            let result = format!("{{{result}");
            let mut stream: Vec<u8> = (1..=reports).flat_map(line).collect();
            stream.extend_from_slice(result.as_bytes());
            let (mut reader, mut answer) = (ProgressReader::new(true), Vec::new());
            let mut newest = None;

            let mut sizes = sizes.into_iter().cycle();
            let mut rest = &stream[..];
            while !rest.is_empty() {
                let (piece, after) = rest.split_at(sizes.next().unwrap().min(rest.len()));
                answer.extend_from_slice(piece);
                newest = reader.take(&mut answer).or(newest);
                rest = after;
            }

            prop_assert_eq!(answer, result.as_bytes());
            prop_assert_eq!(newest.map_or(0, |progress| progress.done), reports);
        }
    }
}
