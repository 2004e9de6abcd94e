//! Makes text that others wrote safe to show on a terminal and to keep in a file of lines.
//!
//! Three things are dangerous in foreign text: line breaks, which forge lines; control characters (ESC and its
//! eight-bit forms), which drive the terminal of whoever reads the line; and the marks that turn the direction
//! of writing around, which make a line read differently from what it holds.

use std::borrow::Cow;
use std::io::Write as _;

/// Bytes at which [`append`] has to look at the character that begins there; every other byte is plain.
const SUSPECT: [bool; 256] = suspect_table();

const fn suspect_table() -> [bool; 256] {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 0x20 {
        table[byte] = true;
        byte += 1;
    }
    table[b'\\' as usize] = true;
    table[b'"' as usize] = true;
    table[0x7f] = true;
    // First UTF-8 bytes of the C1 controls, of U+061C, and of the marks in U+2000..U+206F.
    table[0xc2] = true;
    table[0xd8] = true;
    table[0xe2] = true;
    table
}

/// Whether a character can forge lines, drive a terminal, or turn the direction of writing around.
#[must_use]
pub fn is_dangerous(character: char) -> bool {
    character.is_control()
        || matches!(character,
            '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Appends text with dangerous characters and backslashes escaped, so that the original can be recovered: a
/// line feed becomes `\n`, ESC becomes `\u{1b}`, a backslash becomes `\\`.
pub(crate) fn escape_into(buffer: &mut Vec<u8>, text: &str) {
    append(buffer, text, |character| character == '\\' || is_dangerous(character), write_escape);
}

/// Appends text for the inside of a quoted value: as [`escape_into`], and a quotation mark becomes `\"`.
pub(crate) fn escape_quoted_into(buffer: &mut Vec<u8>, text: &str) {
    append(
        buffer,
        text,
        |character| matches!(character, '\\' | '"') || is_dangerous(character),
        write_escape,
    );
}

/// Appends text for the inside of a JSON string.
pub(crate) fn escape_json_into(buffer: &mut Vec<u8>, text: &str) {
    append(
        buffer,
        text,
        |character| matches!(character, '\\' | '"') || is_dangerous(character),
        |buffer, character| match character {
            '\n' => buffer.extend_from_slice(b"\\n"),
            '\r' => buffer.extend_from_slice(b"\\r"),
            '\t' => buffer.extend_from_slice(b"\\t"),
            '\\' | '"' => buffer.extend([b'\\', character as u8]),
            _ => write_json_escape(buffer, character),
        },
    );
}

/// Text that is safe to show on a terminal; backslashes stay as they are.
#[must_use]
pub fn printable(text: &str) -> Cow<'_, str> {
    if !text.contains(is_dangerous) {
        return Cow::Borrowed(text);
    }
    let mut buffer = Vec::with_capacity(text.len() + 16);
    append(&mut buffer, text, is_dangerous, write_escape);
    Cow::Owned(String::from_utf8_lossy(&buffer).into_owned())
}

/// JSON text that is one line and safe to show on a terminal, and means the same.
///
/// Valid JSON holds raw control characters below U+0020 only as white space between tokens, so a space can
/// stand for them; every other dangerous character is inside a string, where it has an escaped form.
#[must_use]
pub fn printable_json(json: &str) -> Cow<'_, str> {
    if !json.contains(is_dangerous) {
        return Cow::Borrowed(json);
    }
    let mut buffer = Vec::with_capacity(json.len() + 16);
    append(&mut buffer, json, is_dangerous, |buffer, character| {
        if character < ' ' { buffer.push(b' ') } else { write_json_escape(buffer, character) }
    });
    Cow::Owned(String::from_utf8_lossy(&buffer).into_owned())
}

/// Copies runs of plain text whole and hands the characters that `must_escape` picks to `escape`.
fn append(
    buffer: &mut Vec<u8>,
    text: &str,
    must_escape: impl Fn(char) -> bool,
    escape: impl Fn(&mut Vec<u8>, char),
) {
    let bytes = text.as_bytes();
    let mut copied = 0;
    let mut next = 0;
    while let Some(offset) = bytes[next..].iter().position(|byte| SUSPECT[usize::from(*byte)]) {
        let at = next + offset;
        let Some(character) = text.get(at..).and_then(|rest| rest.chars().next()) else { break };
        next = at + character.len_utf8();
        if must_escape(character) {
            buffer.extend_from_slice(&bytes[copied..at]);
            escape(buffer, character);
            copied = next;
        }
    }
    buffer.extend_from_slice(&bytes[copied..]);
}

fn write_escape(buffer: &mut Vec<u8>, character: char) {
    match character {
        '\n' => buffer.extend_from_slice(b"\\n"),
        '\r' => buffer.extend_from_slice(b"\\r"),
        '\t' => buffer.extend_from_slice(b"\\t"),
        '\\' | '"' => buffer.extend([b'\\', character as u8]),
        _ => write!(buffer, "\\u{{{:x}}}", u32::from(character)).expect("a vector takes every write"),
    }
}

/// All dangerous characters are in the basic plane, so one escape is enough.
fn write_json_escape(buffer: &mut Vec<u8>, character: char) {
    write!(buffer, "\\u{:04x}", u32::from(character)).expect("a vector takes every write");
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn escaped(text: &str) -> String {
        let mut buffer = Vec::new();
        escape_into(&mut buffer, text);
        String::from_utf8(buffer).unwrap()
    }

    fn json(text: &str) -> String {
        let mut buffer = vec![b'"'];
        escape_json_into(&mut buffer, text);
        buffer.push(b'"');
        String::from_utf8(buffer).unwrap()
    }

    #[test]
    fn line_breaks_and_terminal_sequences_are_escaped() {
        assert_eq!(escaped("a\nb\r\tc\u{1b}[2Jd\u{9b}1me\\f"), r"a\nb\r\tc\u{1b}[2Jd\u{9b}1me\\f");
        assert_eq!(escaped("left\u{202e}thgir\u{2028}"), r"left\u{202e}thgir\u{2028}");
        assert_eq!(escaped("Grüße, °C — “ok” 漢字 🦀"), "Grüße, °C — “ok” 漢字 🦀");
    }

    #[test]
    fn text_for_people_keeps_its_backslashes() {
        assert_eq!(printable("{\"a\":\"\\\"\"}\u{7}"), "{\"a\":\"\\\"\"}\\u{7}");
        assert!(matches!(printable("plain"), Cow::Borrowed(_)));
    }

    #[test]
    fn json_for_a_terminal_is_one_line_and_means_the_same() {
        let text = "{\"a\":\r\n\t\"x\u{9b}\u{7f}\u{202e}\"}";

        let shown = printable_json(text);

        assert_eq!(shown, "{\"a\":   \"x\\u009b\\u007f\\u202e\"}");
        assert_eq!(
            serde_json::from_str::<serde_json::Value>(&shown).unwrap(),
            serde_json::from_str::<serde_json::Value>(text).unwrap()
        );
    }

    proptest! {
        #[test]
        fn no_text_gets_a_dangerous_character_through(text in any::<String>()) {
            prop_assert!(!escaped(&text).contains(is_dangerous));
            prop_assert!(!printable(&text).contains(is_dangerous));
            prop_assert!(!json(&text).contains(is_dangerous));
        }

        #[test]
        fn json_text_is_read_back_as_it_was(text in any::<String>()) {
            prop_assert_eq!(serde_json::from_str::<String>(&json(&text)).unwrap(), text);
        }

        #[test]
        fn different_texts_stay_different(first in any::<String>(), second in any::<String>()) {
            prop_assert_eq!(escaped(&first) == escaped(&second), first == second);
        }
    }
}
