//! MIG's configuration format: git-config style, as its Go library reads it.
//!
//! ```text
//! ; a comment, also with #
//! [paths]
//! path = /etc/passwd          # repeated keys form a list
//! path = "recursive:/usr/bin" ; quotes keep spaces, ; and #
//! path                        ; without "=": forgets what the list held so far
//! ```
//!
//! Names have no case. In quotes `\"`, `\\`, `\n`, `\t` and `\b` are known; a backslash at the end of a line
//! continues the value on the next one. Where MIG's programs go on after an error with what they had, this
//! reader refuses the text and names line and column.

use std::error::Error;
use std::path::PathBuf;

use config::{FileStoredFormat, Format, Map, Value, ValueKind};

use super::origin::{Position, SyntaxError, cut, origin};

/// A text that has been read, in its own order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Document {
    /// The sections; one name may occur more than once.
    pub(crate) sections: Vec<Section>,
}

/// `[name]` or `[name "subsection"]` and what stands under it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Section {
    /// The name in lower case.
    pub(crate) name: String,
    /// The name in quotes, its case kept.
    pub(crate) subsection: Option<String>,
    /// Line of the header, from 1.
    pub(crate) line: usize,
    /// Its keys.
    pub(crate) entries: Vec<Entry>,
}

/// `name = value`, or `name` alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    /// The name in lower case.
    pub(crate) name: String,
    /// The value without quotes and escapes; `None` when there is no `=`.
    pub(crate) value: Option<String>,
    /// Line of the name, from 1.
    pub(crate) line: usize,
}

/// Reads a text.
///
/// # Errors
/// The first place that is not of the format.
pub(crate) fn parse(text: &str) -> Result<Document, SyntaxError> {
    let mut scanner = Scanner { rest: text, position: Position { line: 1, column: 1 } };
    let mut document = Document::default();
    loop {
        scanner.skip_blank();
        let start = scanner.position;
        match scanner.peek() {
            None => return Ok(document),
            Some('\n') => scanner.advance(),
            Some(';' | '#') => scanner.skip_comment(),
            Some('[') => document.sections.push(scanner.section_header()?),
            Some(c) if c.is_ascii_alphabetic() => {
                let entry = scanner.entry()?;
                match document.sections.last_mut() {
                    Some(section) => section.entries.push(entry),
                    None => {
                        let message = format!("a [section] is needed before the key {:?}", cut(&entry.name));
                        return Err(SyntaxError { position: start, message });
                    }
                }
            }
            Some(c) => return Err(scanner.error(format!("expected [section] or a key, found {c:?}"))),
        }
    }
}

struct Scanner<'a> {
    rest: &'a str,
    position: Position,
}

impl Scanner<'_> {
    /// The next character; CR LF reads as LF.
    fn peek(&self) -> Option<char> {
        if self.rest.starts_with("\r\n") { Some('\n') } else { self.rest.chars().next() }
    }

    fn advance(&mut self) {
        let length = if self.rest.starts_with("\r\n") {
            2
        } else {
            self.rest.chars().next().map_or(0, char::len_utf8)
        };
        if self.rest[..length].ends_with('\n') {
            self.position.line += 1;
            self.position.column = 1;
        } else if length > 0 {
            self.position.column += 1;
        }
        self.rest = &self.rest[length..];
    }

    fn error(&self, message: impl Into<String>) -> SyntaxError {
        SyntaxError { position: self.position, message: message.into() }
    }

    fn skip_blank(&mut self) {
        while matches!(self.peek(), Some(' ' | '\t')) {
            self.advance();
        }
    }

    fn skip_comment(&mut self) {
        while self.peek().is_some_and(|c| c != '\n') {
            self.advance();
        }
    }

    fn name(&mut self, what: &str) -> Result<String, SyntaxError> {
        if !self.peek().is_some_and(|c| c.is_ascii_alphabetic()) {
            return Err(self.error(format!("expected the name of a {what}, which starts with a letter")));
        }
        let mut name = String::new();
        while let Some(c) = self.peek().filter(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_')) {
            name.push(c.to_ascii_lowercase());
            self.advance();
        }
        Ok(name)
    }

    fn section_header(&mut self) -> Result<Section, SyntaxError> {
        let line = self.position.line;
        self.advance();
        self.skip_blank();
        let name = self.name("section")?;
        self.skip_blank();
        let subsection = match self.peek() {
            Some('"') => Some(self.subsection()?),
            _ => None,
        };
        self.skip_blank();
        if self.peek() != Some(']') {
            return Err(self.error("expected ] at the end of the section's name"));
        }
        self.advance();
        self.skip_blank();
        match self.peek() {
            None | Some('\n' | ';' | '#') => Ok(Section { name, subsection, line, entries: Vec::new() }),
            Some(_) => Err(self.error("expected the end of the line after the section's name")),
        }
    }

    /// The name in quotes after a section's name, where only `"` and `\` are escaped.
    fn subsection(&mut self) -> Result<String, SyntaxError> {
        let start = self.position;
        self.advance();
        let mut name = String::new();
        loop {
            match self.peek() {
                None | Some('\n') => return Err(not_terminated(start)),
                Some('"') => {
                    self.advance();
                    return Ok(name);
                }
                Some('\\') => {
                    self.advance();
                    match self.peek() {
                        Some(c @ ('"' | '\\')) => name.push(c),
                        _ => return Err(self.error(r#"only \" and \\ may follow a backslash here"#)),
                    }
                    self.advance();
                }
                Some(c) => {
                    self.check_character(c)?;
                    name.push(c);
                    self.advance();
                }
            }
        }
    }

    fn entry(&mut self) -> Result<Entry, SyntaxError> {
        let line = self.position.line;
        let name = self.name("key")?;
        self.skip_blank();
        let value = match self.peek() {
            None | Some('\n' | ';' | '#') => None,
            Some('=') => {
                self.advance();
                Some(self.value()?)
            }
            Some(_) => return Err(self.error(format!("expected = after the key {:?}", cut(&name)))),
        };
        Ok(Entry { name, value, line })
    }

    fn value(&mut self) -> Result<String, SyntaxError> {
        self.skip_blank();
        let mut value = String::new();
        // Where the value ends unless something other than blanks follows.
        let mut end = 0;
        let mut quote: Option<Position> = None;
        loop {
            match (self.peek(), quote) {
                (None | Some('\n'), Some(start)) => return Err(not_terminated(start)),
                (None | Some('\n' | ';' | '#'), None) => {
                    value.truncate(end);
                    return Ok(value);
                }
                (Some('"'), _) => {
                    quote = if quote.is_some() { None } else { Some(self.position) };
                    end = value.len();
                }
                (Some('\\'), _) => {
                    let start = self.position;
                    self.advance();
                    match (self.peek(), quote.is_some()) {
                        (Some('\n'), _) => {}
                        (Some(c @ ('"' | '\\')), true) => value.push(c),
                        (Some('n'), true) => value.push('\n'),
                        (Some('t'), true) => value.push('\t'),
                        (Some('b'), true) => value.push('\u{8}'),
                        (_, true) => {
                            let message = r#"unknown escape: in quotes a backslash is followed by " \ n t b or the end of the line"#;
                            return Err(SyntaxError { position: start, message: message.to_owned() });
                        }
                        (_, false) => {
                            let message =
                                r"a backslash outside quotes must end the line (write \\ in quotes)";
                            return Err(SyntaxError { position: start, message: message.to_owned() });
                        }
                    }
                    if self.peek() != Some('\n') {
                        end = value.len();
                    }
                }
                (Some(c), _) => {
                    self.check_character(c)?;
                    value.push(c);
                    if quote.is_some() || !matches!(c, ' ' | '\t') {
                        end = value.len();
                    }
                }
            }
            self.advance();
        }
    }

    fn check_character(&self, c: char) -> Result<(), SyntaxError> {
        if c.is_control() && c != '\t' {
            return Err(self.error(format!("control character {c:?} in a value")));
        }
        Ok(())
    }
}

fn not_terminated(start: Position) -> SyntaxError {
    SyntaxError { position: start, message: "quoted text is not terminated on its line".to_owned() }
}

/// The format for the `config` crate. A text becomes tables of three levels: section, subsection (the empty
/// name for none), key; and each key is a list of texts, with nil where the key stood without a value.
#[derive(Debug, Clone)]
pub(crate) struct Gcfg {
    /// The file that the text came from.
    pub(crate) file: PathBuf,
}

impl Format for Gcfg {
    fn parse(
        &self,
        _uri: Option<&String>,
        text: &str,
    ) -> Result<Map<String, Value>, Box<dyn Error + Send + Sync>> {
        let mut sections = Map::new();
        for section in parse(text)?.sections {
            let header = origin(&self.file, section.line);
            let named = table(&mut sections, section.name, &header);
            let keys = table(named, section.subsection.unwrap_or_default(), &header);
            for entry in section.entries {
                let place = origin(&self.file, entry.line);
                let kind = entry.value.map_or(ValueKind::Nil, ValueKind::String);
                let list = keys
                    .entry(entry.name)
                    .or_insert_with(|| Value::new(Some(&place), ValueKind::Array(Vec::new())));
                if let ValueKind::Array(items) = &mut list.kind {
                    items.push(Value::new(Some(&place), kind));
                }
            }
        }
        Ok(sections)
    }
}

impl FileStoredFormat for Gcfg {
    fn file_extensions(&self) -> &'static [&'static str] {
        &["cfg"]
    }
}

/// The table of that name, made where it is missing.
fn table<'a>(parent: &'a mut Map<String, Value>, name: String, place: &String) -> &'a mut Map<String, Value> {
    let value = parent.entry(name).or_insert_with(|| Value::new(Some(place), ValueKind::Table(Map::new())));
    match &mut value.kind {
        ValueKind::Table(map) => map,
        _ => unreachable!("sections and subsections are only ever made as tables"),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn only_value(text: &str) -> Option<String> {
        let document = parse(text).unwrap();
        document.sections[0].entries[0].value.clone()
    }

    fn error(text: &str) -> (usize, usize) {
        let error = parse(text).unwrap_err();
        (error.position.line, error.position.column)
    }

    #[test]
    fn names_have_no_case_and_keep_their_lines() {
        let document = parse("\r\n[PaThs]\r\n\r\n  PATH = /a\r\npath=/b").unwrap();

        let section = &document.sections[0];
        assert_eq!((section.name.as_str(), section.line), ("paths", 2));
        assert_eq!(
            section.entries,
            [
                Entry { name: "path".into(), value: Some("/a".into()), line: 4 },
                Entry { name: "path".into(), value: Some("/b".into()), line: 5 },
            ]
        );
    }

    #[test]
    fn a_subsection_keeps_its_case() {
        let document = parse("[Remote \"Ori\\\"gin\"] ; why\nurl = x\n").unwrap();

        assert_eq!(document.sections[0].subsection.as_deref(), Some("Ori\"gin"));
    }

    #[test]
    fn quotes_keep_blanks_and_comment_characters() {
        assert_eq!(only_value("[a]\nb = \" x;y#z \" ; c\n").unwrap(), " x;y#z ");
        assert_eq!(only_value("[a]\nb = x\" \"  y  # c\n").unwrap(), "x   y");
        assert_eq!(only_value("[a]\nb = \"\\\"\\\\\\n\\t\\b\"\n").unwrap(), "\"\\\n\t\u{8}");
    }

    #[test]
    fn a_backslash_at_the_end_continues_the_value_and_lines_are_still_counted() {
        assert_eq!(only_value("[a]\nb = x\\\r\ny\\\n z\n").unwrap(), "xy z");
        assert_eq!(only_value("[a]\nb = \"x\\\ny\"\n").unwrap(), "xy");
        assert_eq!(error("[a]\nb = x\\\ny\n!\n"), (4, 1));
    }

    #[test]
    fn an_error_names_line_and_column() {
        assert_eq!(error("[a]\nb = \"x\n"), (2, 5));
        assert_eq!(error("[a]\nb = x\\t\n"), (2, 6));
        assert_eq!(error("[a] b = 1\n"), (1, 5));
        assert_eq!(error("[a\nb = 1\n"), (1, 3));
        assert_eq!(error("\nb = 1\n"), (2, 1));
        assert_eq!(error("[a]\nb c\n"), (2, 3));
        assert_eq!(error("[a]\nb = x\0\n"), (2, 6));
        assert_eq!(error("[]\n"), (1, 2));
        assert_eq!(error("\u{feff}[a]\n"), (1, 1));
    }

    /// Writes a document so that [`parse`] must read it as it was.
    fn write(document: &Document) -> String {
        let mut text = String::new();
        for section in &document.sections {
            let quote = |text: &str| text.replace('\\', r"\\").replace('"', "\\\"");
            match &section.subsection {
                Some(name) => text += &format!("[{} \"{}\"]\n", section.name, quote(name)),
                None => text += &format!("[{}]\n", section.name),
            }
            for entry in &section.entries {
                match &entry.value {
                    Some(value) => {
                        let value = quote(value).replace('\n', "\\n").replace('\t', "\\t");
                        text += &format!("{} = \"{value}\"\n", entry.name);
                    }
                    None => text += &format!("{}\n", entry.name),
                }
            }
        }
        text
    }

    fn any_document() -> impl Strategy<Value = Document> {
        let value = proptest::option::of("[^\\p{Cc}]{0,12}|[\\n\\t\"\\\\;# =]{0,6}");
        let entry = ("[a-z][a-z0-9_-]{0,6}", value);
        let subsection = proptest::option::of("[^\\p{Cc}]{0,8}");
        let section = ("[a-z][a-z0-9-]{0,6}", subsection, prop::collection::vec(entry, 0..5));
        prop::collection::vec(section, 0..5).prop_map(|sections| {
            let mut line = 0;
            let mut next = || {
                line += 1;
                line
            };
            let sections = sections
                .into_iter()
                .map(|(name, subsection, entries)| Section {
                    name,
                    subsection,
                    line: next(),
                    entries: entries
                        .into_iter()
                        .map(|(name, value)| Entry { name, value, line: next() })
                        .collect(),
                })
                .collect();
            Document { sections }
        })
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_again(document in any_document()) {
            prop_assert_eq!(parse(&write(&document)).unwrap(), document);
        }

        #[test]
        fn any_text_is_read_or_refused_at_a_place_inside_it(text in "(?s)[\\[\\]\"\\\\=;#\r\n \ta-c\\PC]{0,80}") {
            if let Err(error) = parse(&text) {
                prop_assert!(error.position.line <= text.matches('\n').count() + 1);
            }
        }
    }
}
