//! What the text of a shell's command does with the output of other commands: whether it is run.
//!
//! It is no shell: quotes are passed over, and what has a name only at run time is not known.

use super::arguments::{Program, interpreted, is_interpreter, is_shell};
use super::facts::name_of;

/// Words in front of a command.
const BEFORE: [&[u8]; 26] = [
    b"if",
    b"then",
    b"else",
    b"elif",
    b"do",
    b"while",
    b"until",
    b"!",
    b"{",
    b"time",
    b"sudo",
    b"doas",
    b"env",
    b"command",
    b"builtin",
    b"exec",
    b"nohup",
    b"nice",
    b"ionice",
    b"setsid",
    b"stdbuf",
    b"timeout",
    b"busybox",
    b"unbuffer",
    b"chrt",
    b"taskset",
];

/// Their options that take a value.
const WITH_VALUE: [&[u8]; 6] = [b"-u", b"-g", b"-n", b"-k", b"-s", b"-C"];

/// What is replaced by the output of commands, as a word.
const REPLACED: &[u8] = b"$()";

/// The words of a command from its name on.
fn command<'w, 'a>(words: &'w [&'a [u8]]) -> &'w [&'a [u8]] {
    let mut at = 0;
    while let Some(word) = words.get(at) {
        let is_number = word.first().is_some_and(u8::is_ascii_digit);
        let name_ends = word.iter().position(|byte| !(byte.is_ascii_alphanumeric() || *byte == b'_'));
        let is_setting = name_ends.is_some_and(|end| end > 0 && word[end] == b'=');
        let is_before = BEFORE.contains(&name_of(word)) || is_number || is_setting;
        let is_shell = is_shell(name_of(word));
        if is_shell && words.get(at + 1).is_some_and(|next| next.starts_with(b"-") && next.ends_with(b"c")) {
            // What it is told to do is part of this text.
            at += 1;
        } else if WITH_VALUE.contains(word) && at > 0 {
            at += 1;
        } else if !(is_before || at > 0 && word.starts_with(b"-")) {
            break;
        }
        at += 1;
    }
    words.get(at..).unwrap_or_default()
}

/// Whether a command runs what comes next: its input, or a file that is named now.
fn runs_next(words: &[&[u8]]) -> bool {
    let Some((name, arguments)) = command(words).split_first() else { return false };
    let name = name_of(name);
    matches!(name, b"source" | b".")
        || is_interpreter(name) && interpreted(name, arguments.iter().copied()) == Program::Input
}

/// Whether a command runs a text that is an argument of it.
fn runs_text(words: &[&[u8]]) -> bool {
    let Some((name, arguments)) = command(words).split_first() else {
        // It is the command, unless it is what `x="$(…)"` sets.
        return words.last().is_none_or(|last| !last.ends_with(b"="));
    };
    let name = name_of(name);
    let is_inline = arguments.last().is_some_and(|last| {
        last.strip_prefix(b"-").is_some_and(|letters| letters.iter().any(|letter| b"cer".contains(letter)))
    });
    name == b"eval" || is_inline && (is_interpreter(name) || matches!(name, b"su" | b"runuser"))
}

/// Commands up to a bracket.
#[derive(Default)]
struct Level<'a> {
    words: Vec<&'a [u8]>,
    /// Commands whose output the next one reads.
    before: Vec<&'a [u8]>,
    /// All commands.
    all: Vec<&'a [u8]>,
    closes: u8,
    /// The next word names a file.
    redirects: bool,
    /// What these write is run.
    is_run: bool,
}

impl<'a> Level<'a> {
    fn end_command(&mut self, goes_on: bool, run: &mut Vec<&'a [u8]>) {
        if runs_next(&self.words) {
            run.append(&mut self.before);
        }
        let name = command(&self.words).first().map(|name| name_of(name));
        self.words.clear();
        self.redirects = false;
        self.all.extend(name);
        self.before.extend(name);
        if !goes_on {
            self.before.clear();
        }
    }
}

/// Names of the commands whose output this text runs.
pub(super) fn outputs_run(text: &[u8]) -> Vec<&[u8]> {
    /// Brackets within each other.
    const DEEPEST: usize = 16;
    let mut run = Vec::new();
    let mut levels = vec![Level::default()];
    let mut at = 0;
    while let Some(level) = levels.last_mut() {
        let rest = &text[at..];
        let [first, ..] = rest else { break };
        let opens = |mark: &[u8]| rest.starts_with(mark);
        let runs = |words: &[&[u8]]| {
            let before = text[..at].trim_ascii_end();
            let before = before.strip_suffix(b"\"").unwrap_or(before).trim_ascii_end();
            if before.ends_with(b"<<<") { runs_next(words) } else { runs_text(words) }
        };
        let (taken, opened) = match first {
            b'`' if level.closes != b'`' => (1, Some((b'`', runs(&level.words)))),
            _ if opens(b"$((") => (3, None),
            _ if opens(b"$(") => (2, Some((b')', runs(&level.words)))),
            _ if opens(b"<(") => (2, Some((b')', runs_next(&level.words)))),
            b'(' => (1, Some((b')', false))),
            closes if *closes == level.closes => {
                level.end_command(false, &mut run);
                if level.is_run {
                    run.append(&mut level.all);
                }
                levels.pop();
                if let Some(above) = levels.last_mut() {
                    above.words.push(REPLACED);
                }
                at += 1;
                continue;
            }
            b'|' => {
                let goes_on = !opens(b"||");
                level.end_command(goes_on, &mut run);
                (if goes_on && !opens(b"|&") { 1 } else { 2 }, None)
            }
            // Not `2>&1` and `&>`.
            b'&' if !opens(b"&>") && at.checked_sub(1).is_none_or(|before| text[before] != b'>') => {
                level.end_command(false, &mut run);
                (1, None)
            }
            b';' | b'\n' => {
                level.end_command(false, &mut run);
                (1, None)
            }
            b'<' | b'>' => {
                // The number of a descriptor is no word.
                if at.checked_sub(1).is_some_and(|before| text[before].is_ascii_digit())
                    && level.words.last().is_some_and(|word| word.iter().all(u8::is_ascii_digit))
                {
                    level.words.pop();
                }
                level.redirects = true;
                (1, None)
            }
            b'"' | b'\'' | b'\\' | b' ' | b'\t' | b'\r' | b')' | b'&' => (1, None),
            _ => {
                let ends = |byte: &u8| b" \t\r\n|&;<>()`\"'\\".contains(byte);
                let end = rest.iter().position(ends).unwrap_or(rest.len()).max(1);
                // A word that goes on with the output of a command is no name.
                let whole = &rest[..end];
                let dollar = whole.strip_suffix(b"$").filter(|_| rest.get(end) == Some(&b'('));
                match dollar {
                    Some(b"") => (0, None),
                    Some(part) => {
                        level.words.push(part);
                        (part.len(), None)
                    }
                    None => {
                        if !std::mem::take(&mut level.redirects) {
                            level.words.push(whole);
                        }
                        (end, None)
                    }
                }
            }
        };
        at += taken;
        if let Some((closes, is_run)) = opened {
            level.redirects = false;
            // `x=$(…)` takes the output and runs nothing; so does a word that it is a part of.
            let is_glued = at > taken && !b" \t\n\r\"'(;|&`<".contains(&text[at - taken - 1]);
            if levels.len() < DEEPEST {
                levels.push(Level { closes, is_run: is_run && !is_glued, ..Level::default() });
            }
        }
    }
    while let Some(mut level) = levels.pop() {
        level.end_command(false, &mut run);
        if level.is_run {
            run.append(&mut level.all);
        }
    }
    run
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn runs(text: &str) -> bool {
        let all = outputs_run(text.as_bytes());
        all.iter().any(|name| matches!(*name, b"curl" | b"wget" | b"base64"))
    }

    #[test]
    fn what_is_run_is_told_from_what_is_only_taken() {
        for text in [
            "curl http://h/x | sh",
            "curl -fsSL http://h/x|bash",
            "wget -qO- http://h/x | sudo -E bash -",
            "/usr/bin/curl http://h/x 2>/dev/null | tee /tmp/log | bash -s -- --yes",
            "cd /tmp && timeout 5 curl http://h/x | python3",
            "curl http://h/x | python3 -",
            "source <(curl http://h/x)",
            ". <(wget -qO- http://h/x)",
            "bash <(curl http://h/x) --yes",
            "bash < <(curl http://h/x)",
            "bash -c \"$(curl -fsSL http://h/x)\"",
            "sh -lc \"$( wget -qO- http://h/x )\"",
            "eval \"$(wget -qO- http://h/x)\"",
            "eval `curl http://h/x`",
            "python3 -c \"$(curl http://h/x.py)\"",
            "bash <<< \"$(curl http://h/x)\"",
            "$(curl http://h/x)",
            "if true; then eval \"$(curl http://h/x)\"; fi",
            "x=1 bash -c \"$(curl http://h/x)\"",
            "su -c \"$(curl http://h/x)\"",
            "true; echo eA== | base64 -d | sh",
            "bash -c 'curl http://h/x | sh'",
        ] {
            assert!(runs(text), "{text}");
        }
        for text in [
            "curl -s http://h/x | jq -r .hash",
            "curl -s http://h/sha256 | grep sh",
            "curl -f http://localhost/ || kill -s TERM 1; sh x",
            "curl http://h/x | python3 -m json.tool",
            "curl http://h/x | python3 -c 'import json,sys; json.load(sys.stdin)'",
            "curl http://h/x | python3 parse.py",
            "curl http://h/x | perl -ne 'print if /x/'",
            "curl http://h/key | gpg --dearmor > /etc/apt/keyrings/x.gpg",
            "curl http://h/x.tgz | tar xz -C /opt && sh /opt/x/run.sh",
            "echo $(curl -s http://h/ip)",
            "x=$(curl -s http://h/x); echo \"$x\"; bash -c true",
            "export P=\"$(echo eA== | base64 -d)\"",
            "if [ \"$(curl -s -o /dev/null -w '%{http_code}' http://h)\" = 200 ]; then sh x; fi",
            "diff <(curl http://h/a) <(curl http://h/b)",
            "while read x; do echo $x; done < <(curl http://h/x)",
            "echo 'use curl http://h/x | tail' >&2; bash x",
            "curl http://h/x > x.sh",
        ] {
            assert!(!runs(text), "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_text_ends(text in "[a-c$()`<>|&;\"' \n-]{0,80}|.{0,200}") {
            outputs_run(text.as_bytes());
        }
    }
}
