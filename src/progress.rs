//! How far a long query is, on standard error while its answer is waited for.

use std::io::{self, IsTerminal as _, Write};
use std::time::{Duration, Instant};

use clap::ValueEnum;
use vigie_protocol::message::Progress;

use crate::print::{is_dumb, safe};

/// When progress is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum ProgressWhen {
    /// On a terminal, unless the result is JSON.
    #[default]
    Auto,
    /// Always; without a terminal each report is a separate line.
    Always,
    /// Never.
    Never,
}

/// A line that is written anew with each report, and taken away at the end.
pub(crate) struct ProgressLine {
    output: Box<dyn Write + Send>,
    is_terminal: bool,
    started: Instant,
    is_shown: bool,
}

#[expect(clippy::disallowed_methods, reason = "a client waits in real time")]
fn now() -> Instant {
    Instant::now()
}

impl ProgressLine {
    /// A line on standard error, when there is to be one.
    pub(crate) fn new(when: ProgressWhen, json: bool) -> Option<Self> {
        let is_terminal = io::stderr().is_terminal() && !is_dumb();
        let wanted = match when {
            ProgressWhen::Auto => is_terminal && !json,
            ProgressWhen::Always => true,
            ProgressWhen::Never => false,
        };
        wanted.then(|| Self { output: Box::new(io::stderr()), is_terminal, started: now(), is_shown: false })
    }

    /// Shows a report.
    pub(crate) fn show(&mut self, progress: &Progress) {
        let text = text(progress, now().saturating_duration_since(self.started));
        // Home, and erase the rest of the line; a terminal cuts no line, so a long one is not rewritten cleanly,
        // but none of ours is.
        let line = if self.is_terminal { format!("\r{text}\u{1b}[K") } else { format!("{text}\n") };
        // Whoever closed standard error does not want it.
        drop(self.output.write_all(line.as_bytes()).and_then(|()| self.output.flush()));
        self.is_shown = true;
    }
}

impl ProgressLine {
    /// Takes the line away until the next report.
    pub(crate) fn clear(&mut self) {
        if self.is_shown && self.is_terminal {
            drop(self.output.write_all(b"\r\x1b[K").and_then(|()| self.output.flush()));
            self.is_shown = false;
        }
    }
}

impl Drop for ProgressLine {
    fn drop(&mut self) {
        self.clear();
    }
}

/// Most characters of a module's own word that are shown.
const MAX_UNIT: usize = 20;

/// `12,345 of 50,000 files, 3 found, 4s`.
fn text(progress: &Progress, elapsed: Duration) -> String {
    let mut text = grouped(progress.done);
    if let Some(total) = progress.total {
        text.push_str(&format!(" of {}", grouped(total)));
    }
    let unit: String = progress.unit.chars().take(MAX_UNIT).collect();
    if !unit.is_empty() {
        text.push_str(&format!(" {}", safe(&unit)));
    }
    if let Some(found) = progress.found {
        text.push_str(&format!(", {} found", grouped(found)));
    }
    text.push_str(&format!(", {}", humantime::format_duration(Duration::from_secs(elapsed.as_secs()))));
    text
}

/// A number with commas between thousands.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::print::tests::Captured;

    fn report(done: u64, total: Option<u64>, found: Option<u64>, unit: &str) -> Progress {
        Progress { done, total, found, unit: unit.to_owned() }
    }

    #[test]
    fn numbers_are_grouped() {
        let numbers = [0, 999, 1_000, 12_345, 123_456, 1_234_567].map(grouped);

        assert_eq!(numbers, ["0", "999", "1,000", "12,345", "123,456", "1,234,567"]);
    }

    #[test]
    fn a_report_for_people() {
        let seconds = Duration::from_millis(64_900);

        assert_eq!(
            text(&report(12_345, Some(50_000), Some(3), "files"), seconds),
            "12,345 of 50,000 files, 3 found, 1m 4s"
        );
        assert_eq!(text(&report(7, None, None, ""), Duration::ZERO), "7, 0s");
        let foreign = text(&report(7, None, None, "\u{1b}[2Jxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"), Duration::ZERO);
        assert!(!foreign.contains('\u{1b}') && foreign.len() < 60, "{foreign}");
    }

    #[test]
    fn on_a_terminal_the_line_is_rewritten_and_taken_away() {
        let captured = Captured::default();
        for (is_terminal, expected) in [
            (true, "\r1 files, 0s\u{1b}[K\r2 files, 0s\u{1b}[K\r\u{1b}[K"),
            (false, "1 files, 0s\n2 files, 0s\n"),
        ] {
            let output = Captured::default();
            let mut line = ProgressLine {
                output: Box::new(output.clone()),
                is_terminal,
                started: now(),
                is_shown: false,
            };
            line.show(&report(1, None, None, "files"));
            line.show(&report(2, None, None, "files"));
            drop(line);

            assert_eq!(output.text(), expected);
        }
        drop(ProgressLine {
            output: Box::new(captured.clone()),
            is_terminal: true,
            started: now(),
            is_shown: false,
        });
        assert_eq!(captured.text(), "");
    }

    #[test]
    fn it_is_shown_when_it_is_wanted() {
        assert!(ProgressLine::new(ProgressWhen::Never, false).is_none());
        assert!(ProgressLine::new(ProgressWhen::Always, true).is_some());
        assert!(ProgressLine::new(ProgressWhen::Auto, true).is_none());
    }
}
