//! Paths, names and command lines as they are shown.

/// Bytes as text on one line and without ambiguity: what is not UTF-8, and what controls a terminal, is shown as
/// `\xNN`, and a backslash as two.
#[must_use]
pub fn shown(bytes: &[u8]) -> String {
    // Nearly always there is nothing to escape.
    if bytes.iter().all(|byte| matches!(byte, b' '..=b'~') && *byte != b'\\') {
        return String::from_utf8_lossy(bytes).into_owned();
    }
    let mut text = String::with_capacity(bytes.len() + 8);
    let escape = |text: &mut String, bytes: &[u8]| {
        for byte in bytes {
            text.push_str(&format!("\\x{byte:02x}"));
        }
    };
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            match character {
                '\\' => text.push_str("\\\\"),
                control if control.is_control() || is_misleading(control) => {
                    escape(&mut text, control.encode_utf8(&mut [0; 4]).as_bytes());
                }
                other => text.push(other),
            }
        }
        escape(&mut text, chunk.invalid());
    }
    text
}

/// The bytes that a text shown by [`shown`] stands for. A backslash that begins no escape is itself, so that a path is
/// also understood as a person types it.
#[must_use]
pub fn meant(text: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((first, after)) = rest.split_first() {
        let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
        let escaped = match after {
            [b'x', high, low, ..] if *first == b'\\' => {
                digit(*high).zip(digit(*low)).map(|(high, low)| (high << 4 | low, 3))
            }
            [b'\\', ..] if *first == b'\\' => Some((b'\\', 1)),
            _ => None,
        };
        let (byte, length) = escaped.unwrap_or((*first, 0));
        bytes.push(byte);
        rest = &after[length..];
    }
    bytes
}

/// Characters that change how others are shown: line and paragraph separators, and those of UAX #9.
fn is_misleading(character: char) -> bool {
    matches!(character, '\u{2028}' | '\u{2029}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_is_unambiguous_and_on_one_line() {
        for (bytes, text) in [
            (&b"/usr/bin/ls"[..], "/usr/bin/ls"),
            (b"a\\b\n\xff", "a\\\\b\\x0a\\xff"),
            ("é\u{202e}x".as_bytes(), "é\\xe2\\x80\\xaex"),
            (b"", ""),
        ] {
            assert_eq!(shown(bytes), text);
            assert_eq!(meant(text.as_bytes()), bytes);
        }
    }

    #[test]
    fn what_is_no_escape_is_itself() {
        for (text, bytes) in [
            (&b"a\\b\\xg0\\x4"[..], &b"a\\b\\xg0\\x4"[..]),
            (b"\\", b"\\"),
            (b"\\xFf\xfe\\\\x41", b"\xff\xfe\\x41"),
        ] {
            assert_eq!(meant(text), bytes, "{}", String::from_utf8_lossy(text));
        }
    }
}
