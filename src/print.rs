//! The only place where the program prints.
//!
//! People at a terminal get tables and colours, programs get JSON. Text that came from the agent, and so perhaps
//! from a module or a file, is escaped before it reaches a terminal.

use std::borrow::Cow;
use std::io::{self, IsTerminal as _, Write};
use std::time::Duration;

use clap::ValueEnum;
use serde::Serialize;
use vigie_log::escape;

use crate::exit::Failure;

/// When to use colours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum ColorWhen {
    /// On a terminal, unless NO_COLOR is set.
    #[default]
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// What a text means, shown as its colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tone {
    /// As it should be.
    Good,
    /// Unexpected.
    Doubtful,
    /// Broken.
    Bad,
    /// Less important than its surroundings.
    Faint,
    /// Neither.
    Plain,
}

/// Colours texts, or leaves them as they are.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Paint {
    colour: bool,
}

impl Paint {
    /// Paints when `colour` says so.
    pub(crate) fn new(colour: bool) -> Self {
        Self { colour }
    }

    /// Whether there are colours.
    pub(crate) fn is_on(self) -> bool {
        self.colour
    }

    /// The text in the colour of its meaning.
    pub(crate) fn text(self, tone: Tone, text: &str) -> String {
        let code = match tone {
            Tone::Good => "32",
            Tone::Doubtful => "33",
            Tone::Bad => "1;31",
            Tone::Faint => "2",
            Tone::Plain => return text.to_owned(),
        };
        if self.colour { format!("\u{1b}[{code}m{text}\u{1b}[0m") } else { text.to_owned() }
    }
}

/// Foreign text that is safe to show.
pub(crate) fn safe(text: &str) -> Cow<'_, str> {
    escape::printable(text)
}

/// A length of time in its two largest units: `3h 12m`.
pub(crate) fn duration(seconds: u64) -> String {
    humantime::format_duration(Duration::from_secs(seconds))
        .to_string()
        .split(' ')
        .take(2)
        .collect::<Vec<_>>()
        .join(" ")
}

/// A size in bytes for people: `1.5 MiB`.
#[expect(clippy::cast_precision_loss, reason = "one digit after the point is shown")]
pub(crate) fn size(bytes: u64) -> String {
    let mut size = bytes as f64;
    let mut units = ["B", "KiB", "MiB", "GiB", "TiB"].into_iter();
    let mut unit = units.next().unwrap_or_default();
    for larger in units {
        if size < 1024.0 {
            break;
        }
        size /= 1024.0;
        unit = larger;
    }
    if unit == "B" { format!("{bytes} B") } else { format!("{size:.1} {unit}") }
}

/// Standard output.
pub(crate) struct Printer {
    output: Box<dyn Write + Send>,
    /// JSON instead of text for people.
    json: bool,
    colour: bool,
    terminal: bool,
    /// The user's locale has no UTF-8: what is drawn is of ASCII.
    ascii: bool,
}

impl Printer {
    /// Decides the form: JSON when it is asked for, or when nobody watches and `human` does not insist.
    pub(crate) fn stdout(when: ColorWhen, json: bool, human: bool) -> Self {
        let terminal = io::stdout().is_terminal();
        let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty()) || is_dumb();
        Self {
            output: Box::new(io::LineWriter::new(io::stdout())),
            json: json || (!terminal && !human),
            colour: wants_colour(when, terminal, no_color),
            terminal,
            ascii: !has_utf8(|name| std::env::var(name).ok()),
        }
    }

    /// Prints into something else.
    #[cfg(test)]
    pub(crate) fn into(output: Box<dyn Write + Send>, json: bool) -> Self {
        Self { output, json, colour: false, terminal: false, ascii: false }
    }

    /// Whether what is drawn is of ASCII.
    pub(crate) fn is_ascii(&self) -> bool {
        self.ascii
    }

    /// Whether JSON is wanted.
    pub(crate) fn is_json(&self) -> bool {
        self.json
    }

    /// Whether a person watches.
    pub(crate) fn is_terminal(&self) -> bool {
        self.terminal
    }

    /// Prints for people from now on, whoever reads.
    pub(crate) fn for_people(&mut self) {
        self.json = false;
    }

    /// How to colour.
    pub(crate) fn paint(&self) -> Paint {
        Paint::new(self.colour)
    }

    /// Columns of the terminal; unlimited without one, and on serial lines, which do not tell.
    pub(crate) fn width(&self) -> Option<u16> {
        let size = rustix::termios::tcgetwinsize(io::stdout()).ok().filter(|_| self.terminal);
        size.map(|size| size.ws_col).filter(|&columns| columns > 0)
    }

    /// Prints text that is safe already, and a line feed.
    pub(crate) fn line(&mut self, text: &str) -> Result<(), Failure> {
        if self.ascii && !self.json && !text.is_ascii() {
            return Ok(writeln!(self.output, "{}", drawn_in_ascii(text))?);
        }
        Ok(writeln!(self.output, "{text}")?)
    }

    /// Prints text or bytes as they are.
    pub(crate) fn raw(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.output.write_all(bytes)?;
        Ok(self.output.flush()?)
    }

    /// Prints a value as one line of JSON.
    pub(crate) fn json<T: Serialize>(&mut self, value: &T) -> Result<(), Failure> {
        let text = serde_json::to_string(value).map_err(io::Error::from)?;
        self.line(&escape::printable_json(&text))
    }
}

/// Whether the user's locale has UTF-8 (locale(7)): the first of these variables that is not empty counts.
fn has_utf8(variable: impl Fn(&str) -> Option<String>) -> bool {
    let locale =
        ["LC_ALL", "LC_CTYPE", "LANG"].into_iter().filter_map(variable).find(|value| !value.is_empty());
    let locale = locale.unwrap_or_default().to_ascii_lowercase();
    locale.contains("utf-8") || locale.contains("utf8")
}

/// The same with branches and marks of cut texts of as many columns; names of others stay as they are.
pub(crate) fn drawn_in_ascii(text: &str) -> String {
    let plain = |letter: char| match letter {
        '├' | '│' => '|',
        '└' => '`',
        '─' => '-',
        '…' => '~',
        '▸' => '>',
        '↑' => '^',
        '↓' => 'v',
        other => other,
    };
    text.chars().map(plain).collect()
}

/// Whether the terminal says that it understands no control sequences.
pub(crate) fn is_dumb() -> bool {
    std::env::var_os("TERM").is_some_and(|term| term == "dumb")
}

fn wants_colour(when: ColorWhen, terminal: bool, no_color: bool) -> bool {
    match when {
        ColorWhen::Always => true,
        ColorWhen::Never => false,
        ColorWhen::Auto => terminal && !no_color,
    }
}

/// Tells the person what happened, on standard error. When that is gone too there is nobody left to tell.
pub(crate) fn note(text: &str) {
    let _ = writeln!(io::stderr().lock(), "vigie: {}", safe(text));
}

/// Writes a message or a result as it is, for a program that reads standard output.
pub(crate) fn raw(line: &[u8]) {
    // Whoever closed the output does not want it.
    let _ = io::stdout().lock().write_all(line);
}

/// Prints why the command was not carried out and what to do next.
pub(crate) fn failure(failure: &Failure) {
    if failure.message.is_empty() {
        return;
    }
    note(&failure.message);
    for line in failure.hint.lines() {
        let _ = writeln!(io::stderr().lock(), "  {}", safe(line));
    }
}

/// The same as one line of JSON, for a program.
pub(crate) fn failure_json(failure: &Failure) {
    if failure.message.is_empty() {
        return;
    }
    let Failure { exit, message, hint } = failure;
    let error = serde_json::json!({"error": {"exit": *exit as u8, "message": message, "hint": hint}});
    let _ = writeln!(io::stderr().lock(), "{}", escape::printable_json(&error.to_string()));
}

/// Prints a line on standard error that says where the problem is, as compilers do.
pub(crate) fn problem(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{}", safe(text));
}

#[cfg(test)]
pub(crate) mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    /// Output that a test can read.
    #[derive(Clone, Default)]
    pub(crate) struct Captured(Arc<Mutex<Vec<u8>>>);

    impl Captured {
        pub(crate) fn text(&self) -> String {
            String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
        }
    }

    impl Write for Captured {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn without_utf_8_in_the_locale_branches_are_of_ascii() {
        let of = |set: &[(&str, &str)]| {
            has_utf8(|name| set.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned()))
        };
        assert!(
            of(&[("LANG", "en_GB.UTF-8")]) && of(&[("LC_ALL", ""), ("LC_CTYPE", "C.utf8"), ("LANG", "C")])
        );
        assert!(!of(&[]) && !of(&[("LC_ALL", "POSIX"), ("LANG", "de_DE.UTF-8")]));
        assert_eq!(drawn_in_ascii("├─a │ └─é…"), "|-a | `-é~");
    }

    #[test]
    fn colours_follow_the_terminal_unless_told_otherwise() {
        assert!(wants_colour(ColorWhen::Auto, true, false));
        assert!(!wants_colour(ColorWhen::Auto, true, true));
        assert!(!wants_colour(ColorWhen::Auto, false, false));
        assert!(wants_colour(ColorWhen::Always, false, true));
        assert!(!wants_colour(ColorWhen::Never, true, false));
    }

    #[test]
    fn sizes_and_times_are_short() {
        assert_eq!(size(1023), "1023 B");
        assert_eq!(size(1 << 20), "1.0 MiB");
        assert_eq!(duration(3 * 3600 + 12 * 60 + 7), "3h 12m");
        assert_eq!(duration(0), "0s");
    }

    #[test]
    fn json_is_one_line_that_cannot_drive_a_terminal() {
        let captured = Captured::default();

        Printer::into(Box::new(captured.clone()), true).json(&"a\n\u{1b}[2J\u{9b}").unwrap();

        assert_eq!(captured.text(), "\"a\\n\\u001b[2J\\u009b\"\n");
    }

    #[test]
    fn a_reader_who_went_away_is_no_failure() {
        let failure = Failure::from(io::Error::from(io::ErrorKind::BrokenPipe));

        assert_eq!(failure.exit, crate::exit::Exit::Ok);
        assert_eq!(failure.message, "");
    }
}
