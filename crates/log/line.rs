//! The form of a log line: the agent's own records through slog-term and slog-json, modules' lines by hand.
//!
//! A module can write a million lines a second, an agent's record is rare; so only the former are formatted
//! without any machinery. Every function appends exactly one line with its line feed, whatever the text holds.

use std::cell::RefCell;
use std::io::{self, Write};

use slog::{Drain as _, Level, OwnedKVList, PushFnValue, Record, o};
use slog_term::{Decorator, RecordDecorator};

use super::escape::{escape_into, escape_json_into, escape_quoted_into, printable_json};
use super::time::LogTime;
use vigie_config::model::{LogFormat, LogMode};

/// Facility `daemon` of RFC 3164, shifted to its place.
const SYSLOG_DAEMON: u8 = 3 << 3;

/// How lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    /// Time, level, message, keys.
    Text,
    /// One JSON object.
    Json,
    /// `<N>`, message, keys.
    Journald,
    /// A datagram's head, message, keys.
    SyslogText,
    /// A datagram's head and a JSON object.
    SyslogJson,
}

impl Shape {
    pub(super) fn of(mode: LogMode, format: LogFormat) -> Self {
        match (mode, format) {
            (LogMode::Syslog, LogFormat::Json) => Self::SyslogJson,
            (LogMode::Syslog, _) => Self::SyslogText,
            (_, LogFormat::Text) => Self::Text,
            (_, LogFormat::Json) => Self::Json,
            (_, LogFormat::Journald) => Self::Journald,
        }
    }

    pub(super) fn from_index(index: u8) -> Self {
        [Self::Text, Self::Json, Self::Journald, Self::SyslogText, Self::SyslogJson]
            .get(usize::from(index))
            .copied()
            .unwrap_or(Self::Text)
    }

    pub(super) fn index(self) -> u8 {
        self as u8
    }

    fn is_json(self) -> bool {
        matches!(self, Self::Json | Self::SyslogJson)
    }

    /// What stands after the text of a module's line.
    fn after(self) -> &'static [u8] {
        if self.is_json() { b"\"}\n" } else { b"\n" }
    }
}

/// Where a module's line came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    Log,
    Stderr,
    Alert,
}

impl Source {
    /// Reads the word that callers use; one that is not known counts as a log line.
    pub(super) fn named(name: &str) -> Self {
        match name {
            "alert" => Self::Alert,
            "stderr" => Self::Stderr,
            _ => Self::Log,
        }
    }

    pub(super) fn level(self) -> Level {
        match self {
            Self::Log | Self::Stderr => Level::Info,
            Self::Alert => Level::Warning,
        }
    }

    /// What stands between the module's name and its text.
    fn separator(self) -> &'static [u8] {
        match self {
            Self::Log => b": ",
            Self::Stderr => b" stderr: ",
            Self::Alert => b" alert: ",
        }
    }

    fn message(self) -> &'static [u8] {
        match self {
            Self::Log => b"module log",
            Self::Stderr => b"module stderr",
            Self::Alert => b"module alert",
        }
    }
}

/// A level's name, padded to one width in texts.
fn level_name(level: Level) -> &'static str {
    match level {
        Level::Critical | Level::Error => "ERROR",
        Level::Warning => "WARN ",
        Level::Info => "INFO ",
        Level::Debug => "DEBUG",
        Level::Trace => "TRACE",
    }
}

/// A level as syslog(3) and sd-daemon(3) number it.
fn priority(level: Level) -> u8 {
    match level {
        Level::Critical | Level::Error => 3,
        Level::Warning => 4,
        Level::Info => 6,
        Level::Debug | Level::Trace => 7,
    }
}

/// Appends what stands before the message.
fn push_head(buffer: &mut Vec<u8>, shape: Shape, time: &LogTime, level: Level) {
    match shape {
        Shape::Text => {
            buffer.extend_from_slice(time.bytes());
            buffer.push(b' ');
            buffer.extend_from_slice(level_name(level).as_bytes());
            buffer.push(b' ');
        }
        Shape::Journald => buffer.extend([b'<', b'0' + priority(level), b'>']),
        Shape::SyslogText | Shape::SyslogJson => {
            write!(buffer, "<{}>", SYSLOG_DAEMON | priority(level)).expect("a vector takes every write");
            buffer.extend_from_slice(time.syslog());
            write!(buffer, " vigie[{}]: ", std::process::id()).expect("a vector takes every write");
        }
        Shape::Json => {}
    }
}

/// Appends lines of a module that came together, whose texts are valid JSON strings.
pub(super) fn push_json_text_lines<'a>(
    buffer: &mut Vec<u8>,
    shape: Shape,
    time: &LogTime,
    module: &str,
    source: Source,
    texts: impl IntoIterator<Item = &'a str>,
) {
    let mut before = Vec::new();
    push_before(&mut before, shape, time, module, source);
    for json in texts {
        buffer.extend_from_slice(&before);
        let start = buffer.len();
        if !copy_json_text(buffer, json, shape.is_json()) {
            buffer.truncate(start);
            push_text(buffer, shape, &serde_json::from_str::<String>(json).unwrap_or_default());
        }
        buffer.extend_from_slice(shape.after());
    }
}

/// Appends the text of a JSON string as the log shows it: most of it is the same. `false` when something in it is not,
/// or has to be judged.
fn copy_json_text(buffer: &mut Vec<u8>, json: &str, as_json: bool) -> bool {
    let Some(mut rest) = json.as_bytes().get(1..json.len().saturating_sub(1)) else { return false };
    // Other characters can turn the direction of writing around, or drive a terminal.
    let is_plain = rest.iter().fold(true, |plain, byte| plain & (0x20..0x7f).contains(byte));
    if !is_plain {
        return false;
    }
    while let Some(at) = memchr::memchr(b'\\', rest) {
        let Some(&escaped) = rest.get(at + 1) else { return false };
        buffer.extend_from_slice(&rest[..at]);
        match escaped {
            b'"' if !as_json => buffer.push(b'"'),
            b'/' => buffer.push(b'/'),
            b'"' | b'\\' | b'n' | b'r' | b't' => buffer.extend([b'\\', escaped]),
            _ => return false,
        }
        rest = &rest[at + 2..];
    }
    buffer.extend_from_slice(rest);
    true
}

/// Appends a module's line.
pub(super) fn push_module_line(
    buffer: &mut Vec<u8>,
    shape: Shape,
    time: &LogTime,
    module: &str,
    source: Source,
    text: &str,
) {
    push_before(buffer, shape, time, module, source);
    push_text(buffer, shape, text);
    buffer.extend_from_slice(shape.after());
}

/// Appends what stands before the text of a module's line.
fn push_before(buffer: &mut Vec<u8>, shape: Shape, time: &LogTime, module: &str, source: Source) {
    push_head(buffer, shape, time, source.level());
    if shape.is_json() {
        buffer.extend_from_slice(b"{\"time\":\"");
        buffer.extend_from_slice(time.bytes());
        buffer.extend_from_slice(b"\",\"level\":\"");
        buffer.extend_from_slice(level_name(source.level()).trim_end().as_bytes());
        buffer.extend_from_slice(b"\",\"msg\":\"");
        buffer.extend_from_slice(source.message());
        buffer.extend_from_slice(b"\",\"module\":\"");
        escape_json_into(buffer, module);
        buffer.extend_from_slice(b"\",\"text\":\"");
    } else {
        escape_into(buffer, module);
        buffer.extend_from_slice(source.separator());
    }
}

fn push_text(buffer: &mut Vec<u8>, shape: Shape, text: &str) {
    if shape.is_json() { escape_json_into(buffer, text) } else { escape_into(buffer, text) }
}

/// Appends a record of the log sink about itself; it cannot go through slog, which it is the end of.
pub(super) fn push_own_line(
    buffer: &mut Vec<u8>,
    shape: Shape,
    time: &LogTime,
    message: &str,
    dropped: u64,
    error: &str,
) {
    push_head(buffer, shape, time, Level::Warning);
    if shape.is_json() {
        write!(
            buffer,
            "{{\"time\":\"{}\",\"level\":\"WARN\",\"msg\":\"{message}\",\"component\":\"agent_log\",\"dropped\":{dropped},\"error\":\"",
            time.as_str()
        )
        .expect("a vector takes every write");
        escape_json_into(buffer, error);
        buffer.extend_from_slice(b"\"}\n");
    } else {
        write!(buffer, "{message}  component=agent_log dropped={dropped} error=\"")
            .expect("a vector takes every write");
        escape_quoted_into(buffer, error);
        buffer.extend_from_slice(b"\"\n");
    }
}

/// Appends one of the agent's own records.
///
/// # Errors
/// When a value of the record cannot be formatted; the buffer is then as it was.
pub(super) fn push_record(
    buffer: &mut Vec<u8>,
    shape: Shape,
    time: &LogTime,
    record: &Record<'_>,
    values: &OwnedKVList,
) -> io::Result<()> {
    let length = buffer.len();
    push_head(buffer, shape, time, record.level());
    let result = if shape.is_json() {
        push_json(buffer, time, record, values)
    } else {
        let decorator = LineDecorator { line: RefCell::new(buffer) };
        slog_term::FullFormat::new(decorator)
            .use_original_order()
            // The head is there already: what it holds depends on the shape, not only on the record.
            .use_custom_header_print(|_timestamp, line, record, _location| {
                line.start_msg()?;
                write!(line, "{}", record.msg())?;
                Ok(true)
            })
            .build()
            .log(record, values)
    };
    if result.is_err() {
        buffer.truncate(length);
    }
    result
}

fn push_json(
    buffer: &mut Vec<u8>,
    time: &LogTime,
    record: &Record<'_>,
    values: &OwnedKVList,
) -> io::Result<()> {
    let mut line = Vec::with_capacity(256);
    slog_json::Json::new(&mut line)
        .set_newlines(false)
        .add_key_value(o!("time" => time.as_str().to_owned()))
        .add_key_value(o!("level" => level_name(record.level()).trim_end()))
        .add_key_value(o!("msg" => PushFnValue(|record: &Record<'_>, value| value.emit(record.msg()))))
        .build()
        .log(record, values)?;
    buffer.extend_from_slice(printable_json(&String::from_utf8_lossy(&line)).as_bytes());
    buffer.push(b'\n');
    Ok(())
}

/// Gives slog-term one line to write into.
struct LineDecorator<'a> {
    line: RefCell<&'a mut Vec<u8>>,
}

impl Decorator for LineDecorator<'_> {
    fn with_record<F>(&self, _record: &Record<'_>, _values: &OwnedKVList, write: F) -> io::Result<()>
    where
        F: FnOnce(&mut dyn RecordDecorator) -> io::Result<()>,
    {
        let mut line = self.line.borrow_mut();
        let mut parts = LineParts { line: &mut line, part: Part::Space, text: Vec::new(), first_key: true };
        write(&mut parts)?;
        parts.end_part();
        parts.line.push(b'\n');
        Ok(())
    }
}

/// Which part of the line slog-term is writing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    /// Blanks, commas and colons: ours are different ones.
    Space,
    Message,
    Key,
    Value,
}

/// Collects what slog-term writes part by part, and writes it as `message  key=value key="a value"` with
/// everything dangerous escaped. (slog-term itself escapes nothing.)
struct LineParts<'a> {
    line: &'a mut Vec<u8>,
    part: Part,
    text: Vec<u8>,
    first_key: bool,
}

impl LineParts<'_> {
    fn begin(&mut self, part: Part) -> io::Result<()> {
        self.end_part();
        self.part = part;
        Ok(())
    }

    fn end_part(&mut self) {
        let text = String::from_utf8_lossy(&self.text);
        match self.part {
            Part::Space => {}
            Part::Message => escape_into(self.line, &text),
            Part::Key => {
                self.line.extend_from_slice(if self.first_key { b"  " } else { b" " });
                self.first_key = false;
                // In the order of origin slog-term writes the colon as part of the key.
                escape_into(self.line, text.strip_suffix(':').unwrap_or(&text));
                self.line.push(b'=');
            }
            Part::Value if is_bare(&text) || is_quoted(&text) => {
                self.line.extend_from_slice(text.as_bytes());
            }
            Part::Value => {
                self.line.push(b'"');
                escape_quoted_into(self.line, &text);
                self.line.push(b'"');
            }
        }
        self.text.clear();
    }
}

impl Write for LineParts<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.part != Part::Space {
            self.text.extend_from_slice(bytes);
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl RecordDecorator for LineParts<'_> {
    fn reset(&mut self) -> io::Result<()> {
        self.begin(Part::Space)
    }

    fn start_msg(&mut self) -> io::Result<()> {
        self.begin(Part::Message)
    }

    fn start_key(&mut self) -> io::Result<()> {
        self.begin(Part::Key)
    }

    fn start_value(&mut self) -> io::Result<()> {
        self.begin(Part::Value)
    }

    fn start_separator(&mut self) -> io::Result<()> {
        self.begin(Part::Space)
    }
}

/// Whether a value can stand without quotation marks.
fn is_bare(text: &str) -> bool {
    !text.is_empty()
        && !text.contains(|character: char| {
            matches!(character, '"' | '\\' | '=')
                || character.is_whitespace()
                || super::escape::is_dangerous(character)
        })
}

/// Whether a value is one quoted string already, as `Debug` writes strings.
fn is_quoted(text: &str) -> bool {
    let Some(inner) = text.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) else { return false };
    let mut escaped = false;
    for character in inner.chars() {
        if super::escape::is_dangerous(character) || (character == '"' && !escaped) {
            return false;
        }
        escaped = character == '\\' && !escaped;
    }
    !escaped
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use proptest::prelude::*;
    use slog::{Drain, Logger, info, warn};

    use super::*;

    fn time() -> LogTime {
        LogTime::at(SystemTime::UNIX_EPOCH + Duration::from_millis(1_795_415_362_123))
    }

    fn module_line(shape: Shape, source: &str, text: &str) -> String {
        let mut buffer = Vec::new();
        push_module_line(&mut buffer, shape, &time(), "fswatch", Source::named(source), text);
        String::from_utf8(buffer).unwrap()
    }

    /// Formats what it is given and keeps it.
    struct Keep(Shape, std::sync::Arc<std::sync::Mutex<Vec<u8>>>);

    impl Drain for Keep {
        type Ok = ();
        type Err = io::Error;

        fn log(&self, record: &Record<'_>, values: &OwnedKVList) -> io::Result<()> {
            push_record(&mut self.1.lock().unwrap(), self.0, &time(), record, values)
        }
    }

    fn records(shape: Shape, log: impl FnOnce(&Logger)) -> String {
        let kept = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
        log(&Logger::root(Keep(shape, kept.clone()).ignore_res(), o!("component" => "supervisor")));
        let kept = kept.lock().unwrap();
        String::from_utf8(kept.clone()).unwrap()
    }

    #[test]
    fn a_module_s_line_looks_like_the_agent_s_own() {
        assert_eq!(
            module_line(Shape::Text, "log", "module received configuration"),
            "2026-11-23T06:29:22.123Z INFO  fswatch: module received configuration\n"
        );
        assert_eq!(
            module_line(Shape::Text, "alert", r#"{"severity":"low"}"#),
            "2026-11-23T06:29:22.123Z WARN  fswatch alert: {\"severity\":\"low\"}\n"
        );
        assert_eq!(module_line(Shape::Journald, "stderr", "x"), "<6>fswatch stderr: x\n");
        assert_eq!(
            module_line(Shape::Json, "log", "a \"b\"\n"),
            "{\"time\":\"2026-11-23T06:29:22.123Z\",\"level\":\"INFO\",\"msg\":\"module log\",\"module\":\"fswatch\",\"text\":\"a \\\"b\\\"\\n\"}\n"
        );
    }

    #[test]
    fn a_syslog_line_has_facility_and_severity() {
        let line = module_line(Shape::SyslogText, "alert", "x");

        assert!(line.starts_with("<28>"), "{line}");
        assert!(line.ends_with(&format!(" vigie[{}]: fswatch alert: x\n", std::process::id())), "{line}");
    }

    #[test]
    fn a_record_of_the_agent_has_its_keys_in_the_order_they_were_given() {
        let text = records(Shape::Text, |log| {
            let log = log.new(o!("module" => "fswatch"));
            info!(log, "module started"; "pid" => 42, "socket" => "a b", "error" => ?"c\n\"d\"", "empty" => "");
        });

        assert_eq!(
            text,
            "2026-11-23T06:29:22.123Z INFO  module started  component=supervisor module=fswatch pid=42 socket=\"a b\" error=\"c\\n\\\"d\\\"\" empty=\"\"\n"
        );
    }

    #[test]
    fn a_record_of_the_agent_is_one_json_object() {
        let text =
            records(Shape::Json, |log| warn!(log, "heartbeat missed"; "pid" => 42, "error" => "a\u{9b}"));

        assert_eq!(
            text,
            "{\"time\":\"2026-11-23T06:29:22.123Z\",\"level\":\"WARN\",\"msg\":\"heartbeat missed\",\"component\":\"supervisor\",\"error\":\"a\\u009b\",\"pid\":42}\n"
        );
    }

    #[test]
    fn a_value_cannot_pretend_to_be_two() {
        let text = records(Shape::Text, |log| info!(log, "x"; "path" => r#""a" pid="1"#));

        assert!(text.ends_with("path=\"\\\"a\\\" pid=\\\"1\"\n"), "{text}");
    }

    #[test]
    fn what_the_sink_says_of_itself_has_every_shape() {
        for shape in [Shape::Text, Shape::Json, Shape::Journald, Shape::SyslogText, Shape::SyslogJson] {
            let mut buffer = Vec::new();

            push_own_line(&mut buffer, shape, &time(), "log lines were lost", 7, "disk \"full\"\n");

            let line = String::from_utf8(buffer).unwrap();
            assert_eq!(line.matches('\n').count(), 1);
            if shape == Shape::Json {
                let value: serde_json::Value = serde_json::from_str(&line).unwrap();
                assert_eq!(value["dropped"], 7);
            }
        }
    }

    proptest! {
        #[test]
        fn whatever_a_module_writes_is_one_line(text in any::<String>(), shape in 0_u8..5, source in "log|stderr|alert") {
            let line = module_line(Shape::from_index(shape), &source, &text);

            prop_assert_eq!(line.matches('\n').count(), 1);
            prop_assert!(line.ends_with('\n'));
            prop_assert!(!line.trim_end_matches('\n').contains(super::super::escape::is_dangerous));
        }

        /// A text that is copied from JSON is shown as the same text that was read from it.
        #[test]
        fn a_text_from_json_is_shown_as_any_other(
            text in prop_oneof![any::<String>(), "[ -~\n\t\r/\u{8}]{0,40}"],
            slashes in any::<bool>(),
            shape in 0_u8..5,
        ) {
            let mut json = serde_json::to_string(&text).unwrap();
            if slashes {
                json = json.replace('/', "\\/");
            }
            let (mut copied, mut read) = (Vec::new(), Vec::new());
            let shape = Shape::from_index(shape);

            let texts = [r#""\u0061""#, &json];
            push_json_text_lines(&mut copied, shape, &time(), "watch", Source::Alert, texts);
            for text in ["a", &text] {
                push_module_line(&mut read, shape, &time(), "watch", Source::Alert, text);
            }

            prop_assert_eq!(String::from_utf8(copied).unwrap(), String::from_utf8(read).unwrap());
        }

        #[test]
        fn whatever_a_record_holds_is_one_line(text in any::<String>(), shape in 0_u8..5) {
            let line = records(Shape::from_index(shape), |log| {
                info!(log, "{}", text; "value" => &text, "debug" => ?text);
            });

            prop_assert_eq!(line.matches('\n').count(), 1);
            prop_assert!(!line.trim_end_matches('\n').contains(super::super::escape::is_dangerous));
            if Shape::from_index(shape) == Shape::Json {
                let value: serde_json::Value = serde_json::from_str(&line).unwrap();
                prop_assert_eq!(value["msg"].as_str(), Some(text.as_str()));
                prop_assert_eq!(value["value"].as_str(), Some(text.as_str()));
            }
        }
    }
}
