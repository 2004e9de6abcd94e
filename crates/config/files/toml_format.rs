//! TOML for the `config` crate with the line of every value, which the crate's own format does not keep.

use std::error::Error;
use std::path::PathBuf;

use config::{FileStoredFormat, Format, Map, Value, ValueKind};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::origin::{Position, SyntaxError, cut, origin};

/// Deepest nesting of tables and lists. Our keys need four; dotted keys have no limit of their own in the
/// parser, and freeing what it built recurses.
const MAX_DEPTH: usize = 32;

/// The format for the `config` crate.
#[derive(Debug, Clone)]
pub(crate) struct Toml {
    /// The file that the text came from.
    pub(crate) file: PathBuf,
}

impl Format for Toml {
    fn parse(
        &self,
        _uri: Option<&String>,
        text: &str,
    ) -> Result<Map<String, Value>, Box<dyn Error + Send + Sync>> {
        let lines = Lines::new(text);
        refuse_deep_keys(text, &lines)?;
        let document = DeTable::parse(text).map_err(|error| {
            let start = error.span().map_or(0, |span| span.start);
            SyntaxError { position: lines.position(start), message: cut(error.message()).to_owned() }
        })?;
        Ok(self.table(document.into_inner(), &lines)?)
    }
}

impl FileStoredFormat for Toml {
    fn file_extensions(&self) -> &'static [&'static str] {
        &["toml"]
    }
}

impl Toml {
    fn table(&self, table: DeTable<'_>, lines: &Lines<'_>) -> Result<Map<String, Value>, SyntaxError> {
        let mut map = Map::new();
        for (key, value) in table {
            // The key's line, not the value's: a table's own span can be that of a later header.
            let start = key.span().start;
            map.insert(key.into_inner().into_owned(), self.value(value, start, lines)?);
        }
        Ok(map)
    }

    fn value(
        &self,
        value: Spanned<DeValue<'_>>,
        start: usize,
        lines: &Lines<'_>,
    ) -> Result<Value, SyntaxError> {
        // Only an error needs the column, which takes a look at the whole line to count.
        let bad = |message| SyntaxError { position: lines.position(start), message };
        let kind = match value.into_inner() {
            DeValue::String(text) => ValueKind::String(text.into_owned()),
            DeValue::Boolean(value) => ValueKind::Boolean(value),
            DeValue::Integer(value) => {
                let number = i64::from_str_radix(value.as_str(), value.radix());
                ValueKind::I64(
                    number
                        .map_err(|_| bad(format!("the number {} is too large", cut(&value.to_string()))))?,
                )
            }
            DeValue::Float(value) => {
                let number = value.as_str().parse();
                ValueKind::Float(number.map_err(|_| bad(format!("{} is not a number", cut(value.as_str()))))?)
            }
            DeValue::Datetime(_) => {
                return Err(bad("dates are not supported; quote the value if it is a text".to_owned()));
            }
            DeValue::Array(items) => {
                let mut list = Vec::with_capacity(items.len());
                for item in items {
                    let start = item.span().start;
                    list.push(self.value(item, start, lines)?);
                }
                ValueKind::Array(list)
            }
            DeValue::Table(table) => ValueKind::Table(self.table(table, lines)?),
        };
        Ok(Value::new(Some(&origin(&self.file, lines.line(start))), kind))
    }
}

/// Refuses keys of very many parts before the parser builds a table for each. A run of dots ends where
/// something stands that cannot be part of a key.
fn refuse_deep_keys(text: &str, lines: &Lines<'_>) -> Result<(), SyntaxError> {
    let mut start = 0;
    for line in text.split_inclusive('\n') {
        let (mut dots, mut quote) = (0, None);
        for c in line.chars() {
            match quote {
                Some(open) if c == open => quote = None,
                Some(_) => {}
                None if matches!(c, '"' | '\'') => quote = Some(c),
                None if c == '#' => break,
                None if matches!(c, '=' | ',' | '{' | '}' | '[' | ']') => dots = 0,
                None => dots += usize::from(c == '.'),
            }
            if dots > MAX_DEPTH {
                let message = format!("a key has more than {MAX_DEPTH} parts");
                return Err(SyntaxError { position: lines.position(start), message });
            }
        }
        start += line.len();
    }
    Ok(())
}

/// Finds line and column of an offset.
struct Lines<'a> {
    text: &'a str,
    /// Offset of each line's first byte.
    starts: Vec<usize>,
}

impl<'a> Lines<'a> {
    fn new(text: &'a str) -> Self {
        let newlines = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n').map(|(at, _)| at + 1);
        Self { text, starts: std::iter::once(0).chain(newlines).collect() }
    }

    fn line(&self, offset: usize) -> usize {
        self.starts.partition_point(|start| *start <= offset)
    }

    fn position(&self, offset: usize) -> Position {
        let line = self.line(offset);
        let start = self.starts[line - 1];
        let column = self.text.get(start..offset).map_or(1, |before| before.chars().count() + 1);
        Position { line, column }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use proptest::prelude::*;

    use super::super::origin::line;
    use super::*;

    fn parse(text: &str) -> Result<Map<String, Value>, SyntaxError> {
        let format = Toml { file: Path::new("/f.toml").to_owned() };
        format.parse(None, text).map_err(|error| *error.downcast().expect("the format has one error type"))
    }

    #[test]
    fn every_value_knows_its_line() {
        let text = "a = 1\n[b]\n\nc = [\n  \"x\",\n  \"y\"]\n[[m]]\nk = {z = 2}\n[[m]]\n";

        let map = parse(text).unwrap();

        assert_eq!(line(&map["a"]), Some(1));
        assert_eq!(line(&map["b"]), Some(2));
        let ValueKind::Table(b) = &map["b"].kind else { panic!("not a table") };
        assert_eq!(line(&b["c"]), Some(4));
        let ValueKind::Array(c) = &b["c"].kind else { panic!("not a list") };
        assert_eq!(line(&c[1]), Some(6));
        let ValueKind::Array(m) = &map["m"].kind else { panic!("not a list") };
        assert_eq!(m.iter().map(line).collect::<Vec<_>>(), [Some(7), Some(9)]);
    }

    #[test]
    fn an_error_names_line_and_column() {
        for (text, expected) in [
            ("a = 1\nb = = 2\n", 2),
            ("a = \"x\n", 1),
            ("\n[a\n", 2),
            ("a = 1\na = 2\n", 2),
            ("\n\na = 99999999999999999999\n", 3),
            ("\na = 2026-01-01\n", 2),
        ] {
            assert_eq!(parse(text).unwrap_err().position.line, expected, "{text:?}");
        }
    }

    #[test]
    fn very_deep_nesting_is_refused_before_it_fills_the_stack() {
        let dotted = format!("a{} = 1\n", ".a".repeat(200_000));
        let inline = format!("x = {{ a{} = 1 }}\n", ".a".repeat(200_000));
        let spaced = format!("[ a{} ]\n", " . a".repeat(200_000));
        let lists = format!("a = {}\n", "[".repeat(200_000));
        let tables = "a = ".to_owned() + &"{a = ".repeat(100_000);

        for text in [dotted, inline, spaced, lists, tables] {
            assert!(parse(&text).is_err());
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused_at_a_place_inside_it(text in "(?s)[\\[\\]\"'={},.#\n \\-a-c0-3\\PC]{0,80}") {
            if let Err(error) = parse(&text) {
                prop_assert!(error.position.line <= text.matches('\n').count() + 1);
            }
        }
    }
}
