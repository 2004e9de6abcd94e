//! Lines of configuration files.

use std::collections::VecDeque;

/// Bytes of a path from which on no kernel takes it (`PATH_MAX`).
pub(crate) const MAX_PATH: usize = 4096;

/// A line, perhaps joined from several by backslashes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Line {
    /// Of its first part, from 1 on.
    pub(crate) number: u32,
    pub(crate) text: String,
    /// It is also a part of the line before it.
    pub(crate) is_part: bool,
}

impl Line {
    /// Empty, or a comment in every format.
    pub(crate) fn is_comment(&self) -> bool {
        let text = self.text.trim_start();
        text.is_empty() || text.starts_with('#')
    }
}

/// When a backslash at the end of a line that is no comment continues it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Join {
    Never,
    /// As in a shell, where another backslash before it takes that away, and no comment goes on.
    Shell,
    /// Always.
    Always,
    /// Perhaps: programs that read the format differ, so the parts are lines of their own as well.
    Perhaps,
}

impl Join {
    /// Whether a line goes on in the next one.
    fn goes_on(self, text: &str) -> bool {
        let backslashes = text.len() - text.trim_end_matches('\\').len();
        match self {
            Self::Never => false,
            Self::Shell => backslashes % 2 == 1 && !text.contains('#'),
            Self::Always | Self::Perhaps => backslashes > 0 && !text.trim_start().starts_with('#'),
        }
    }
}

/// The lines of a text, whole: it is no longer than what is read of a file.
pub(crate) fn lines(content: &[u8], join: Join) -> impl Iterator<Item = Line> {
    let mut physical = content.split(|byte| *byte == b'\n').map(readable).zip(1_u32..);
    let mut parts = VecDeque::new();
    std::iter::from_fn(move || {
        if let Some(part) = parts.pop_front() {
            return Some(part);
        }
        let (mut text, number) = physical.next()?;
        while join.goes_on(&text) {
            text.pop();
            let Some((next, number)) = physical.next() else { break };
            text.push_str(next.trim_start());
            if join == Join::Perhaps {
                parts.push_back(Line { number, text: next, is_part: true });
            }
        }
        Some(Line { number, text, is_part: false })
    })
}

fn readable(line: &[u8]) -> String {
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    String::from_utf8_lossy(line).into_owned()
}

/// The first words of a text as one, and the rest after the blanks that follow; `None` when there are fewer.
pub(crate) fn words(text: &str, count: usize) -> Option<(&str, &str)> {
    let mut end = 0;
    for _ in 0..count {
        let start = end + text[end..].find(|letter: char| !letter.is_whitespace())?;
        end = start + text[start..].find(char::is_whitespace).unwrap_or(text.len() - start);
    }
    Some((text[..end].trim(), text[end..].trim()))
}

/// `NAME=VALUE`, perhaps exported, with blanks around the sign as cron takes them.
pub(crate) fn assignment(text: &str) -> Option<(&str, &str)> {
    let text = text.trim();
    let text = text.strip_prefix("export ").or_else(|| text.strip_prefix("setenv ")).unwrap_or(text);
    // PAM's form: NAME DEFAULT=VALUE.
    if let Some((name, value)) = text.split_once(char::is_whitespace)
        && let Some(value) =
            value.trim().strip_prefix("DEFAULT=").or_else(|| value.trim().strip_prefix("OVERRIDE="))
        && is_name(name)
    {
        return Some((name, value));
    }
    let (name, value) = text.split_once('=')?;
    let name = name.trim().trim_matches(['"', '\'']);
    is_name(name).then(|| (name, value.trim().trim_matches(['"', '\''])))
}

fn is_name(name: &str) -> bool {
    !name.is_empty() && name.chars().all(|letter| letter.is_ascii_alphanumeric() || letter == '_')
}

/// Whether a variable of this name makes programs load or run something.
pub(crate) fn dangerous(name: &str) -> bool {
    const NAMES: [&str; 28] = [
        "BASH_ENV",
        "ENV",
        "PROMPT_COMMAND",
        "SHELLOPTS",
        "BASHOPTS",
        "PERL5OPT",
        "PERL5LIB",
        "PERL5DB",
        "PERLLIB",
        "RUBYOPT",
        "RUBYLIB",
        "NODE_OPTIONS",
        "NODE_PATH",
        "JAVA_TOOL_OPTIONS",
        "_JAVA_OPTIONS",
        "JDK_JAVA_OPTIONS",
        "GCONV_PATH",
        "LOCPATH",
        "NLSPATH",
        "GLIBC_TUNABLES",
        "GIT_SSH_COMMAND",
        "GIT_EXTERNAL_DIFF",
        "OPENSSL_CONF",
        "OPENSSL_ENGINES",
        "OPENSSL_MODULES",
        "PAM_RHOST",
        "MANPAGER",
        "CLASSPATH",
    ];
    name.starts_with("LD_")
        || NAMES.contains(&name)
        || (name.starts_with("PYTHON")
            && !matches!(name, "PYTHONUNBUFFERED" | "PYTHONIOENCODING" | "PYTHONDONTWRITEBYTECODE"))
}

/// Values can be secrets: those of the loader and of the shell are shown, of others only the name.
pub(crate) fn shown_value(name: &str, value: &str) -> String {
    if name.starts_with("LD_") || matches!(name, "BASH_ENV" | "ENV" | "SHELL") {
        format!("{name}={value}")
    } else {
        name.to_owned()
    }
}
