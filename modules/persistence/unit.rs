//! systemd's unit files. Pure: text in, directives out.

use std::rc::Rc;

use crate::format::lines::MAX_PATH;

/// `KEY=VALUE` in a section.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Directive {
    /// All directives of a section have it in common, however long it is.
    pub(crate) section: Rc<str>,
    pub(crate) key: String,
    pub(crate) value: String,
    /// Where it begins, from 1 on.
    pub(crate) line: u32,
}

/// Reads a unit file as systemd.syntax(7) has it: a backslash at the end continues a line, unless another one stands
/// before it, and comments between the parts of a line do not end it.
pub(crate) fn parse(content: &[u8]) -> Vec<Directive> {
    let text = String::from_utf8_lossy(content);
    let mut directives = Vec::new();
    let mut section = Rc::from("");
    let mut begun: Option<(u32, String)> = None;
    let mut end = |number: u32, line: &str| {
        let line = line.trim();
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            section = Rc::from(name);
        } else if let Some((key, value)) = line.split_once('=') {
            directives.push(Directive {
                section: Rc::clone(&section),
                key: key.trim().to_owned(),
                value: value.trim().to_owned(),
                line: number,
            });
        }
    };
    for (line, number) in text.trim_start_matches('\u{feff}').lines().zip(1_u32..) {
        // Before a blank at the end, a backslash continues nothing, except in the newest versions, which cut the blank.
        let line = line.trim_start();
        if line.starts_with(['#', ';']) {
            continue;
        }
        let backslashes = line.len() - line.trim_end_matches('\\').len();
        let (part, goes_on) = match line.strip_suffix('\\') {
            Some(part) if backslashes % 2 == 1 => (part, true),
            _ => (line, false),
        };
        let (_, whole) = begun.get_or_insert_with(|| (number, String::new()));
        whole.push_str(part);
        if goes_on {
            whole.truncate(whole.trim_end().len());
            whole.push(' ');
        } else if let Some((number, whole)) = begun.take() {
            end(number, &whole);
        }
    }
    if let Some((number, whole)) = begun {
        end(number, &whole);
    }
    directives
}

/// What a directive starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Starts {
    /// A command.
    Command,
    /// Another unit, when something happened.
    Unit,
    /// Variables that make programs load something.
    Environment,
    /// It is the trigger of a timer, a path or a socket.
    Trigger,
}

impl Directive {
    /// What this starts, if anything.
    pub(crate) fn starts(&self) -> Option<Starts> {
        let key = self.key.as_str();
        if self.value.is_empty() {
            // An empty assignment clears the list.
            return None;
        }
        match (&*self.section, key) {
            (_, "OnFailure" | "OnSuccess") => Some(Starts::Unit),
            ("Timer", key) if key.starts_with("On") => Some(Starts::Trigger),
            (
                "Path",
                "PathExists" | "PathExistsGlob" | "PathChanged" | "PathModified" | "DirectoryNotEmpty",
            ) => Some(Starts::Trigger),
            ("Socket", key) if key.starts_with("Listen") => Some(Starts::Trigger),
            (_, "Environment" | "DefaultEnvironment") => {
                const NAMES: [&str; 7] =
                    ["LD_", "BASH_ENV", "PYTHON", "PERL5", "GCONV_PATH", "RUBYOPT", "NODE_OPTIONS"];
                NAMES.iter().any(|name| self.value.contains(name)).then_some(Starts::Environment)
            }
            (_, key) if key.starts_with("Exec") && key != "ExecSearchPath" => Some(Starts::Command),
            _ => None,
        }
    }

    /// The program of a command, without systemd's prefixes.
    pub(crate) fn program(&self) -> Option<String> {
        if self.starts() != Some(Starts::Command) {
            return None;
        }
        program(&self.value)
    }
}

/// The program that a command line names by its absolute path.
pub(crate) fn program(command: &str) -> Option<String> {
    let command = command.trim_start_matches(['@', '-', ':', '+', '!', '|', '"', '\'', ' ']);
    let word = command.split([' ', '\t', '"', '\'', ';']).next()?;
    (word.starts_with('/') && (2..MAX_PATH).contains(&word.len()) && !word.contains('%'))
        .then(|| word.to_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn lines_go_on_over_comments() {
        let unit = parse(b"[Service]\nExecStart=-/bin/a \\\n# no\n  b\nExecStart=\nEnvironment=LD_PRELOAD=/x\nFoo\n[Install]\nWantedBy = c\n");

        let said: Vec<_> =
            unit.iter().map(|d| (d.line, &*d.section, d.key.as_str(), d.value.as_str())).collect();
        assert_eq!(
            said,
            [
                (2, "Service", "ExecStart", "-/bin/a b"),
                (5, "Service", "ExecStart", ""),
                (6, "Service", "Environment", "LD_PRELOAD=/x"),
                (9, "Install", "WantedBy", "c"),
            ]
        );
        assert_eq!(unit[0].program().as_deref(), Some("/bin/a"));
        assert_eq!(
            unit.iter().map(Directive::starts).collect::<Vec<_>>(),
            [Some(Starts::Command), None, Some(Starts::Environment), None]
        );
    }

    #[test]
    fn no_backslash_hides_a_line() {
        for hidden in [
            "Description=x \\\\\nExecStart=/e\n",
            "Description=x \\ \nExecStart=/e\n",
            "Description=x \\\t\nExecStart=/e\n",
            "ExecStart \\\n=/e\n",
            "ExecStart=\\\n# c \\\n; d\n/e",
            "\u{feff}ExecStart=/e\\",
            "# c \\\nExecStart=/e\n",
            "Description=\\\n\nExecStart=/e\n",
        ] {
            let found = parse(hidden.as_bytes());
            let found = found.iter().map(|d| (d.key.as_str(), d.value.as_str())).next_back();
            assert_eq!(found, Some(("ExecStart", "/e")), "{hidden:?}");
        }
    }

    #[test]
    fn a_long_section_is_kept_once() {
        let unit = parse(format!("[{}]\n{}", "x".repeat(1 << 16), "a=\n".repeat(1 << 14)).as_bytes());

        let sections: std::collections::HashSet<*const u8> =
            unit.iter().map(|d| d.section.as_ptr()).collect();
        assert_eq!((unit.len(), sections.len()), (1 << 14, 1));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            for directive in parse(&bytes) {
                directive.program();
            }
        }
    }
}
