//! Configuration of apt.

use super::{Item, MAX_ITEMS, MAX_SHOWN};

/// Parts of names of settings that run something.
const RUNS: [&str; 7] = [
    "invoke",
    "pre-install-pkgs",
    "proxy-auto-detect",
    "proxyautodetect",
    "dir::bin",
    "aptcli::hooks",
    "#include",
];

/// A word of the format.
enum Token {
    Text(u32, String),
    Opens,
    Closes,
    Ends,
}

/// The values of settings that run something, wherever their names are split by braces.
pub(super) fn items(content: &[u8]) -> Vec<Item> {
    let text = String::from_utf8_lossy(content);
    let mut items = Vec::new();
    let mut sections: Vec<usize> = Vec::new();
    let mut section = String::new();
    let mut statement: Vec<(u32, String)> = Vec::new();
    for token in tokens(&text) {
        match token {
            Token::Text(line, word) => statement.push((line, word)),
            Token::Opens => {
                sections.push(section.len());
                let name: String = statement.drain(..).map(|(_, word)| word).collect();
                section = under(&section, &name);
            }
            Token::Closes | Token::Ends => {
                let words = std::mem::take(&mut statement);
                // A word alone is one of a list.
                let (name, values) = match words.as_slice() {
                    [(_, name), values @ ..] if !values.is_empty() => (under(&section, name), values),
                    values => (section.clone(), values),
                };
                let lower = name.to_ascii_lowercase();
                if RUNS.iter().any(|runs| lower.contains(runs)) {
                    let more = values.iter().map(|(line, value)| Item {
                        line: *line,
                        command: value.clone(),
                        when: Some(name.clone()),
                        strange: true,
                        ..Item::default()
                    });
                    items.extend(more.take(MAX_ITEMS - items.len()));
                }
                if matches!(token, Token::Closes) {
                    section.truncate(sections.pop().unwrap_or(0));
                }
            }
        }
        if items.len() >= MAX_ITEMS {
            break;
        }
    }
    items
}

/// The whole name of what stands in a section; what is longer than any name that runs something is cut.
fn under(section: &str, name: &str) -> String {
    let mut whole = section.to_owned();
    if !whole.is_empty() && !name.starts_with("::") {
        whole.push_str("::");
    }
    whole.push_str(name);
    whole.truncate(whole.floor_char_boundary(MAX_SHOWN));
    whole
}

fn tokens(text: &str) -> impl Iterator<Item = Token> {
    let mut rest = text;
    let mut line = 1;
    let mut has_ended = false;
    std::iter::from_fn(move || {
        loop {
            let letter = match rest.chars().next() {
                Some(letter) => letter,
                None if has_ended => return None,
                None => {
                    has_ended = true;
                    return Some(Token::Ends);
                }
            };
            let lower = rest.get(..8).map(str::to_ascii_lowercase);
            let is_directive = lower.is_some_and(|start| start == "#include" || start.starts_with("#clear"));
            let end = if rest.starts_with("//") || (letter == '#' && !is_directive) {
                rest.find('\n').unwrap_or(rest.len())
            } else if rest.starts_with("/*") {
                rest.find("*/").map_or(rest.len(), |at| at + 2)
            } else if letter.is_whitespace() || matches!(letter, '{' | '}' | ';') {
                letter.len_utf8()
            } else {
                let (word, end) = word(rest);
                let token = Token::Text(line, word);
                advance(&mut rest, end, &mut line);
                return Some(token);
            };
            advance(&mut rest, end, &mut line);
            match letter {
                '{' => return Some(Token::Opens),
                '}' => return Some(Token::Closes),
                ';' => return Some(Token::Ends),
                _ => {}
            }
        }
    })
}

fn advance(rest: &mut &str, end: usize, line: &mut u32) {
    let passed = rest[..end].bytes().filter(|byte| *byte == b'\n').count();
    *line = line.saturating_add(u32::try_from(passed).unwrap_or(u32::MAX));
    *rest = &rest[end..];
}

/// A word without its quotes, in which blanks are letters, and where it ends.
fn word(text: &str) -> (String, usize) {
    let mut word = String::new();
    let mut quoted = false;
    for (at, letter) in text.char_indices() {
        match letter {
            '"' => quoted = !quoted,
            '\n' => return (word, at),
            _ if quoted => word.push(letter),
            _ if letter.is_whitespace() || matches!(letter, '{' | '}' | ';') => return (word, at),
            _ => word.push(letter),
        }
    }
    (word, text.len())
}
