//! Rules of udev.

use super::{Item, Line, item};

/// The programs and units that a rule starts. Its parts need no commas between them.
pub(super) fn rule(line: &Line) -> Option<Item> {
    const STARTS: [&str; 6] = [
        "RUN",
        "RUN{program}",
        "PROGRAM",
        "IMPORT{program}",
        "ENV{SYSTEMD_WANTS}",
        "ENV{SYSTEMD_USER_WANTS}",
    ];
    let mut found = Vec::new();
    let mut rest = line.text.as_str();
    loop {
        rest = rest.trim_start_matches(|letter: char| letter.is_whitespace() || letter == ',');
        let Some(equals) = rest.find('=') else { break };
        let name: String = rest[..equals].chars().filter(|letter| !letter.is_whitespace()).collect();
        let name = name.trim_end_matches(['+', '-', ':', '!', '=']);
        // In front of a key that is understood may stand what is not.
        let starts = STARTS.iter().any(|known| name.ends_with(known));
        let Some(quote) = rest[equals..].find('"').map(|at| at + equals) else { break };
        let (value, after) = value(&rest[quote + 1..]);
        if starts {
            found.push(value);
        }
        rest = after;
    }
    (!found.is_empty()).then(|| item(line, &found.join(" ; ")))
}

/// A text up to the mark that closes it, and what follows it.
fn value(text: &str) -> (&str, &str) {
    let mut escaped = false;
    let end = text.find(|letter: char| {
        let closes = letter == '"' && !escaped;
        escaped = letter == '\\' && !escaped;
        closes
    });
    end.map_or((text, ""), |end| (&text[..end], &text[end + 1..]))
}
