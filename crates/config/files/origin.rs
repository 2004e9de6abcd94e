//! Where a value stands: carried through the `config` crate as the origin of each value.

use std::path::Path;

use config::Value;

/// A place in a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Position {
    /// From 1.
    pub(crate) line: usize,
    /// In characters, from 1.
    pub(crate) column: usize,
}

/// A text that is not of its format.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message} (column {})", position.column)]
pub(crate) struct SyntaxError {
    /// Where.
    pub(crate) position: Position,
    /// What is wrong.
    pub(crate) message: String,
}

/// Most bytes of a file's own text that a message repeats.
const MAX_QUOTED_BYTES: usize = 128;

/// Cuts a text from a file to what a message may repeat of it.
pub(crate) fn cut(text: &str) -> &str {
    &text[..text.floor_char_boundary(MAX_QUOTED_BYTES)]
}

/// An address as a message quotes it, without the user and password that somebody wrote there.
pub(crate) fn quoted_address(text: &str) -> String {
    let start = text.find("://").map_or(0, |at| at + 3);
    // A password can have any character in it.
    match text[start..].rfind('@') {
        Some(at) => format!("{:?}", cut(&format!("{}…{}", &text[..start], &text[start + at..]))),
        None => format!("{:?}", cut(text)),
    }
}

/// The origin of a value at this line, `FILE:LINE`.
pub(crate) fn origin(file: &Path, line: usize) -> String {
    format!("{}:{line}", file.display())
}

/// The line that [`origin`] put into a value.
pub(crate) fn line(value: &Value) -> Option<usize> {
    value.origin()?.rsplit_once(':')?.1.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_password_in_an_address_is_quoted() {
        for (address, quoted) in [
            ("https://host/x", "\"https://host/x\""),
            ("http://u:secret@host/x", "\"http://…@host/x\""),
            ("http://u:se/c@ret@host", "\"http://…@host\""),
            ("u:secret@host", "\"…@host\""),
        ] {
            assert_eq!(quoted_address(address), quoted);
        }
    }
}
