//! How the distribution describes itself; os-release(5).

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;

/// Where the description is, the second for systems that keep `/etc` empty.
const FILES: [&str; 2] = ["/etc/os-release", "/usr/lib/os-release"];

/// Longest file that is read, in bytes; real ones have a few hundred.
const MAX_FILE_BYTES: u64 = 64 * 1024;

/// The description of this host, key by key; empty where there is none. Reads a small file.
#[must_use]
pub fn read() -> BTreeMap<String, String> {
    let text = FILES.iter().find_map(|file| {
        let mut bytes = Vec::new();
        File::open(file).ok()?.take(MAX_FILE_BYTES).read_to_end(&mut bytes).ok()?;
        Some(String::from_utf8_lossy(&bytes).into_owned())
    });
    parse(&text.unwrap_or_default())
}

/// Reads `KEY=value` lines as a shell would, os-release(5); the last line of a key counts. Lines of another form
/// are skipped.
pub(crate) fn parse(text: &str) -> BTreeMap<String, String> {
    let lines = text.lines().map(str::trim).filter(|line| !line.starts_with('#'));
    lines
        .filter_map(|line| line.split_once('='))
        .filter_map(|(key, value)| Some((key.to_owned(), word(value)?)))
        .collect()
}

/// The value of one shell word without expansions: quotes, and backslashes as each kind of quotes knows them.
/// `None` when a quote is not closed, or more than one word stands there.
fn word(value: &str) -> Option<String> {
    let mut word = String::new();
    let mut characters = value.chars();
    while let Some(c) = characters.next() {
        match c {
            '\'' => loop {
                match characters.next()? {
                    '\'' => break,
                    c => word.push(c),
                }
            },
            '"' => loop {
                match characters.next()? {
                    '"' => break,
                    '\\' => match characters.next()? {
                        c @ ('"' | '\\' | '$' | '`') => word.push(c),
                        // Before anything else the backslash stands for itself.
                        c => word.extend(['\\', c]),
                    },
                    c => word.push(c),
                }
            },
            '\\' => word.push(characters.next()?),
            c if c.is_whitespace() => return None,
            c => word.push(c),
        }
    }
    Some(word)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn os_release_is_read_as_a_shell_reads_it() {
        let text = "# comment\nNAME=\"Debian GNU/Linux\"\n  ID=debian\r\nVERSION_ID='12'\nHOME=\"a\\\"\\\\\\$\\`\\x\"\n\
                    JOINED=a\"b c\"'d'\\ e\nTWO=a b\nOPEN=\"abc\nID=last\nEMPTY=\ngarbage\n";
        let values = parse(text);

        assert_eq!(values["NAME"], "Debian GNU/Linux");
        assert_eq!(values["ID"], "last");
        assert_eq!(values["VERSION_ID"], "12");
        assert_eq!(values["HOME"], "a\"\\$`\\x");
        assert_eq!(values["JOINED"], "ab cd e");
        assert_eq!(values["EMPTY"], "");
        assert!(!values.contains_key("TWO") && !values.contains_key("OPEN"));
    }

    proptest! {
        #[test]
        fn any_os_release_is_read(text in "[A-Z=\"'\\\\\n a-z#]{0,60}") {
            let _ = parse(&text);
        }
    }
}
