//! Reading JSON the way Go's `encoding/json` does, for input that MIG's programs and operators write; and writing
//! foreign JSON anew, so that it fits on one line.

use std::borrow::Cow;
use std::io::{self, Write};

use serde::de::{DeserializeOwned, Error as _, IgnoredAny};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;
use serde_json::{Map, Value};

/// The mark that some editors put at the beginning of a file.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// Reads one JSON text, however it is laid out and with or without a byte order mark, and writes it anew without
/// blanks between its parts. Texts, numbers, the order of keys and doubled keys stay as they are.
///
/// Whatever comes from a file, a flag, a module or another host passes here, or through `compact_raw`, before it
/// becomes part of a message: a line feed in it would end the message and begin one of its own.
///
/// # Errors
/// When it is not JSON; the message names line and column.
pub fn compact(text: &[u8]) -> Result<Box<RawValue>, serde_json::Error> {
    let text = text.strip_prefix(BYTE_ORDER_MARK).unwrap_or(text);
    let text = std::str::from_utf8(text).map_err(|error| {
        serde_json::Error::custom(format_args!("not UTF-8 from byte {} on", error.valid_up_to() + 1))
    })?;
    serde_json::from_str::<IgnoredAny>(text)?;
    RawValue::from_string(without_blanks(text))
}

/// For `#[serde(deserialize_with)]`: JSON that is passed on, written anew as by [`compact`]. `null` is `None`.
///
/// # Errors
/// Those of the deserializer.
pub(crate) fn compact_raw<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Box<RawValue>>, D::Error> {
    Ok(Option::<Box<RawValue>>::deserialize(deserializer)?.map(compacted))
}

/// The same JSON with each escape of half a surrogate pair replaced by that of U+FFFD, as Go's `encoding/json` reads
/// it.
///
/// Python writes such halves for every byte of a file's name that is no UTF-8; whoever names a file must not have the
/// lines refused that tell of it.
#[must_use]
pub fn whole_characters(json: &str) -> Cow<'_, str> {
    let unit = |at: usize| {
        let digits = json.get(at..at + 6)?.strip_prefix("\\u")?;
        digits.bytes().all(|byte| byte.is_ascii_hexdigit()).then(|| u16::from_str_radix(digits, 16).ok())?
    };
    let bytes = json.as_bytes();
    let (mut whole, mut copied, mut at) = (String::new(), 0, 0);
    while let Some(found) = memchr::memchr(b'\\', &bytes[at..]) {
        at += found;
        at += match (unit(at), unit(at + 6)) {
            (Some(0xd800..=0xdbff), Some(0xdc00..=0xdfff)) => 12,
            (Some(0xd800..=0xdfff), _) => {
                whole.push_str(&json[copied..at]);
                whole.push_str("\\ufffd");
                copied = at + 6;
                6
            }
            (Some(_), _) => 6,
            (None, _) => 2,
        };
        if at >= bytes.len() {
            break;
        }
    }
    if copied == 0 {
        return Cow::Borrowed(json);
    }
    whole.push_str(&json[copied..]);
    Cow::Owned(whole)
}

/// The same JSON without blanks between its parts.
#[must_use]
pub fn compacted(raw: Box<RawValue>) -> Box<RawValue> {
    // Most is compact already, and a byte below the exclamation mark is rare outside texts.
    if !raw.get().bytes().any(|byte| byte <= b' ') {
        return raw;
    }
    RawValue::from_string(without_blanks(raw.get())).unwrap_or(raw)
}

fn without_blanks(text: &str) -> String {
    let mut compact = Vec::with_capacity(text.len());
    CompactWriter::new(&mut compact).write_all(text.as_bytes()).expect("a Vec takes it all");
    String::from_utf8(compact).expect("only blanks were left out")
}

/// Passes JSON on without the blanks between its parts: the last lock in front of a stream of lines.
pub struct CompactWriter<W> {
    inner: W,
    in_text: bool,
    /// The next byte belongs to a backslash before it.
    escaped: bool,
}

impl<W: Write> CompactWriter<W> {
    /// Writes to `inner`.
    pub fn new(inner: W) -> Self {
        Self { inner, in_text: false, escaped: false }
    }

    fn is_blank(&mut self, byte: u8) -> bool {
        if !self.in_text {
            self.in_text = byte == b'"';
            return matches!(byte, b' ' | b'\t' | b'\n' | b'\r');
        }
        self.in_text = self.escaped || byte != b'"';
        self.escaped = !self.escaped && byte == b'\\';
        false
    }
}

impl<W: Write> Write for CompactWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut start = 0;
        for (place, byte) in bytes.iter().enumerate() {
            if self.is_blank(*byte) {
                self.inner.write_all(&bytes[start..place])?;
                start = place + 1;
            }
        }
        self.inner.write_all(&bytes[start..])?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
pub(crate) mod hostile;

/// Reads `T` from a JSON text whose keys may have any case at every level, as MIG accepts them. `T` names its
/// keys in lower case. Absent text and `null` read as an empty object.
///
/// # Errors
/// When the text does not have the form of `T`; the message names the field.
pub fn from_any_case<T: DeserializeOwned>(raw: Option<&RawValue>) -> Result<T, serde_json::Error> {
    let value = match raw {
        Some(raw) => serde_json::from_str(raw.get())?,
        None => Value::Null,
    };
    if value.is_array() {
        // Serde would read a list as the fields in their order.
        return Err(serde::de::Error::custom("expected an object, found a list"));
    }
    let value = if value.is_null() { Value::Object(Map::new()) } else { lower_keys(value) };
    serde_json::from_value(value)
}

/// Checks the value of one key; the error says what it must be.
pub type KeyCheck<'a> = &'a dyn Fn(&Value) -> Result<(), String>;

/// Checks a module's configuration of sections with keys, whose names may have any case. `sections` lists what
/// there may be.
///
/// # Errors
/// Every problem, as the key that has it, `section.key`, and what is wrong.
pub fn check_sections(
    config: &Value,
    sections: &[(&str, &[(&str, KeyCheck<'_>)])],
) -> Result<(), Vec<(String, String)>> {
    let mut problems = Vec::new();
    let empty = Map::new();
    let config = match config {
        Value::Null => &empty,
        Value::Object(map) => map,
        _ => return Err(vec![(String::new(), "the configuration must consist of sections".to_owned())]),
    };
    for (name, content) in config {
        let Some((_, keys)) = sections.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)) else {
            let known: Vec<&str> = sections.iter().map(|(known, _)| *known).collect();
            problems.push((name.clone(), format!("unknown section; known: {}", known.join(", "))));
            continue;
        };
        let Value::Object(content) = content else {
            if !content.is_null() {
                problems.push((name.clone(), "must be a section".to_owned()));
            }
            continue;
        };
        for (key, value) in content {
            let found = keys.iter().find(|(known, _)| known.eq_ignore_ascii_case(key));
            let checked = match found {
                Some((_, check)) => check(value),
                None => {
                    let known: Vec<&str> = keys.iter().map(|(known, _)| *known).collect();
                    Err(format!("unknown key; known: {}", known.join(", ")))
                }
            };
            if let Err(problem) = checked {
                problems.push((format!("{name}.{key}"), problem));
            }
        }
    }
    if problems.is_empty() { Ok(()) } else { Err(problems) }
}

fn lower_keys(value: Value) -> Value {
    match value {
        Value::Object(map) => Value::Object(
            map.into_iter().map(|(key, value)| (key.to_ascii_lowercase(), lower_keys(value))).collect(),
        ),
        Value::Array(items) => Value::Array(items.into_iter().map(lower_keys).collect()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, serde::Deserialize, PartialEq)]
    struct Outer {
        #[serde(default)]
        inner: Option<Inner>,
    }

    #[derive(Debug, serde::Deserialize, PartialEq)]
    struct Inner {
        path: Vec<String>,
    }

    #[test]
    fn keys_are_matched_without_regard_to_case_at_every_level() {
        let raw = RawValue::from_string(r#"{"INNER":{"Path":["/A"]}}"#.to_owned()).unwrap();

        let outer: Outer = from_any_case(Some(&raw)).unwrap();

        assert_eq!(outer.inner.unwrap().path, ["/A"]);
    }

    #[test]
    fn a_list_is_not_an_object() {
        let raw = RawValue::from_string("[null]".to_owned()).unwrap();

        assert!(from_any_case::<Outer>(Some(&raw)).is_err());
    }

    #[test]
    fn a_text_is_written_anew_and_means_the_same() {
        for (text, expected) in [
            (&b"\xef\xbb\xbf{ }\r\n"[..], "{}"),
            (b"[1.50 ,\n1e400, \"a \\\" b\" ]", r#"[1.50,1e400,"a \" b"]"#),
            (b"{\"b\": 1, \"a\": 2, \"b\": 3}", r#"{"b":1,"a":2,"b":3}"#),
            (b"\"a\\\\\" ", r#""a\\""#),
        ] {
            assert_eq!(compact(text).unwrap().get(), expected);
        }
        for bad in [&b""[..], b"{", b"\xff", b"{} {}", b"\"a\nb\"", b"\xef\xbb"] {
            assert!(compact(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn half_a_surrogate_pair_is_read_as_go_reads_it() {
        for (text, expected) in [
            (r#""a\udcffb""#, "a\u{fffd}b"),
            (r#""\ud83d\ude00""#, "\u{1f600}"),
            (r#""\uD83D""#, "\u{fffd}"),
            (r#""\ud83d\ud83d\ude00""#, "\u{fffd}\u{1f600}"),
            (r#""\ude00\ud83dx""#, "\u{fffd}\u{fffd}x"),
            (r#""\\udcff""#, r"\udcff"),
            (r#""é\\\ud800""#, "é\\\u{fffd}"),
            (r#""\u00e9\n""#, "é\n"),
        ] {
            assert_eq!(serde_json::from_str::<String>(&whole_characters(text)).unwrap(), expected, "{text}");
        }
        for odd in ["\\", "\\u", "\\ud8", "\\ud8é0", "\"\\ud80", "x\\é"] {
            assert_eq!(whole_characters(odd), odd);
        }
    }

    #[test]
    fn a_text_nested_very_deeply_does_not_fill_the_stack() {
        let text = format!("{}{}", "[\n".repeat(200_000), "]".repeat(200_000));

        assert_eq!(compact(text.as_bytes()).unwrap().get().len(), 400_000);
    }

    proptest::proptest! {
        #[test]
        fn whole_characters_change_nothing_in_json_that_is_read(value in ".*", odd in r#"([a\\"]|\\u|d83d|dc00|é)*"#) {
            let text = serde_json::to_string(&value).unwrap();
            proptest::prop_assert_eq!(whole_characters(&text), text.as_str());
            let whole = whole_characters(&odd);
            proptest::prop_assert_eq!(whole_characters(&whole), whole.as_ref());
        }

        #[test]
        fn hostile_layout_never_leaves_a_line_feed((value, text) in hostile::texts(), cut in 1_usize..9) {
            let compact = compact(text.as_bytes()).unwrap();

            proptest::prop_assert!(!compact.get().contains(['\n', '\r']));
            proptest::prop_assert_eq!(serde_json::from_str::<Value>(compact.get()).unwrap(), value);
            let mut pieces = Vec::new();
            let mut writer = CompactWriter::new(&mut pieces);
            text.as_bytes().chunks(cut).for_each(|piece| writer.write_all(piece).unwrap());
            proptest::prop_assert_eq!(pieces, compact.get().as_bytes());
        }
    }

    #[test]
    fn nothing_reads_as_an_empty_object() {
        let outer: Outer = from_any_case(None).unwrap();

        assert_eq!(outer, Outer { inner: None });
    }
}
