//! The grammar of sudoers(5): lines to entries. Nothing is looked up here.

/// Longest line, with its continuations, in bytes.
const MAX_LINE: usize = 256 * 1024;

/// A word with the number of `!` before it taken together.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Member {
    /// An odd number of `!` stands before it.
    pub negated: bool,
    /// Without quotes and escapes.
    pub name: String,
}

/// Kinds of aliases.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum AliasKind {
    /// `User_Alias`
    User,
    /// `Runas_Alias`
    Runas,
    /// `Host_Alias`
    Host,
    /// `Cmnd_Alias`
    Command,
}

/// A command of a rule, with everything that holds for it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CommandSpec {
    /// `None` when there are no parentheses; an empty list when there are, with nothing before the colon.
    pub runas_users: Option<Vec<Member>>,
    /// Groups after the colon.
    pub runas_groups: Option<Vec<Member>>,
    /// Tags in force: `NOPASSWD`, `PASSWD`, `NOEXEC`, …, in the order of `TAGS`.
    pub tags: Vec<&'static str>,
    /// `CWD=/x` and the like, as `name=value` with the name in lower case.
    pub options: Vec<(String, String)>,
    /// `sha256:…` and the like.
    pub digests: Vec<String>,
    /// The command, or an alias.
    pub command: Member,
}

/// What a line says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    /// `Defaults`, with what it is bound to and its text.
    Defaults {
        /// `@host`, `:user`, `!command`, `>runas`, or nothing.
        binding: String,
        /// The settings.
        settings: String,
    },
    /// One alias.
    Alias {
        /// Of what.
        kind: AliasKind,
        /// Its name.
        name: String,
        /// Its members; of commands with their digests left out.
        members: Vec<Member>,
    },
    /// Users may run commands on hosts.
    Rule {
        /// Who.
        users: Vec<Member>,
        /// Where, and what.
        privileges: Vec<(Vec<Member>, Vec<CommandSpec>)>,
    },
    /// Another file, or all files of a directory.
    Include {
        /// As it is written, without quotes.
        path: String,
        /// Whether it is a directory.
        directory: bool,
    },
    /// A line that sudo refuses too.
    Wrong {
        /// Why.
        problem: &'static str,
    },
}

/// Pairs of tags; of each at most one is in force.
const TAGS: [(&str, &str); 9] = [
    ("PASSWD", "NOPASSWD"),
    ("EXEC", "NOEXEC"),
    ("INTERCEPT", "NOINTERCEPT"),
    ("MAIL", "NOMAIL"),
    ("SETENV", "NOSETENV"),
    ("FOLLOW", "NOFOLLOW"),
    ("LOG_INPUT", "NOLOG_INPUT"),
    ("LOG_OUTPUT", "NOLOG_OUTPUT"),
    ("ADMIN", "NOADMIN"),
];

/// The entries of a file, each with the line that it begins in.
#[must_use]
pub fn parse(content: &[u8]) -> Vec<(u32, Entry)> {
    let text = String::from_utf8_lossy(content);
    let mut entries = Vec::new();
    let mut lines = text.lines().zip(1_u32..);
    while let Some((first, number)) = lines.next() {
        let mut line = first.to_owned();
        let mut comments = Comments::default();
        // A backslash at the end of a comment continues nothing: the next line is one of its own.
        let mut is_plain = !is_comment(first) && !comments.begins_in(first);
        while is_plain && line.ends_with('\\') {
            line.pop();
            let Some((more, _)) = lines.next() else { break };
            // It ends a word, too.
            line.push(' ');
            line.push_str(trimmed(more));
            is_plain = !comments.begins_in(more);
            if line.len() > MAX_LINE {
                break;
            }
        }
        let line = trimmed(&line);
        if line.len() > MAX_LINE {
            entries.push((number, Entry::Wrong { problem: "the line is too long" }));
        } else {
            entries.extend(entry(line).into_iter().map(|entry| (number, entry)));
        }
    }
    entries
}

/// Other blanks of Unicode are letters of names.
const BLANKS: [char; 3] = [' ', '\t', '\r'];

fn trimmed(text: &str) -> &str {
    text.trim_matches(BLANKS)
}

/// Looks for the comment of a line whose parts are read one after the other.
#[derive(Default)]
struct Comments {
    quoted: bool,
    /// The path or the arguments of a command, in which quotes are letters like others.
    in_command: bool,
    word: String,
}

impl Comments {
    /// Whether a comment begins in this part. A number of a user or group is none.
    fn begins_in(&mut self, part: &str) -> bool {
        let mut letters = part.chars().peekable();
        while let Some(letter) = letters.next() {
            match letter {
                '\\' => {
                    letters.next();
                    self.word.push(letter);
                }
                '"' if !self.in_command => {
                    self.quoted = !self.quoted;
                    self.word.push(letter);
                }
                _ if self.quoted => {}
                '#' => {
                    let begins = self.word.is_empty() || self.word == "%";
                    let is_number = letters.peek().is_some_and(|next| next.is_ascii_digit() || *next == '-');
                    if self.in_command || !begins || !is_number {
                        return true;
                    }
                    self.word.push(letter);
                }
                ',' | ':' | '=' | '!' | '(' | ')' | ' ' | '\t' => {
                    self.in_command |= self.word == "sudoedit";
                    self.in_command &= !matches!(letter, ',' | ':');
                    self.word.clear();
                }
                _ => {
                    self.in_command |= self.word.is_empty() && matches!(letter, '/' | '^');
                    if self.word.len() <= "sudoedit".len() {
                        self.word.push(letter);
                    }
                }
            }
        }
        self.word.clear();
        false
    }
}

/// A comment, which is neither an include nor the number of a user.
fn is_comment(line: &str) -> bool {
    let line = trimmed(line);
    let Some(rest) = line.strip_prefix('#') else { return false };
    let is_include = rest.starts_with("include ")
        || rest.starts_with("includedir ")
        || rest.starts_with("include\t")
        || rest.starts_with("includedir\t");
    let is_number = rest.trim_start_matches('-').starts_with(|letter: char| letter.is_ascii_digit());
    !is_include && !is_number
}

fn entry(line: &str) -> Vec<Entry> {
    if line.is_empty() || is_comment(line) {
        return Vec::new();
    }
    for (word, directory) in [("includedir", true), ("include", false)] {
        for mark in ['#', '@'] {
            let rest = line.strip_prefix(mark).and_then(|rest| rest.strip_prefix(word));
            if let Some(path) = rest.filter(|rest| rest.starts_with([' ', '\t'])) {
                return vec![Entry::Include { path: path_of(trimmed(path)), directory }];
            }
        }
    }
    if let Some(rest) = line.strip_prefix("Defaults")
        && rest.starts_with([' ', '\t', '@', ':', '!', '>'])
    {
        return vec![defaults(rest)];
    }
    for (word, kind) in [
        ("User_Alias", AliasKind::User),
        ("Runas_Alias", AliasKind::Runas),
        ("Host_Alias", AliasKind::Host),
        ("Cmnd_Alias", AliasKind::Command),
        ("Cmd_Alias", AliasKind::Command),
    ] {
        if let Some(rest) = line.strip_prefix(word)
            && rest.starts_with([' ', '\t'])
        {
            return aliases(rest, kind);
        }
    }
    vec![rule(line).unwrap_or_else(|problem| Entry::Wrong { problem })]
}

/// A path in quotes, or with escaped blanks.
fn path_of(text: &str) -> String {
    let mut scanner = Scanner::new(text);
    scanner.word(&[]).unwrap_or_default()
}

fn defaults(rest: &str) -> Entry {
    let (binding, settings) = if rest.starts_with(['@', ':', '!', '>']) {
        // Names may be joined by commas.
        let mut end = 0;
        let mut after_comma = true;
        for (at, letter) in rest.char_indices() {
            if BLANKS.contains(&letter) && !after_comma {
                break;
            }
            after_comma = letter == ',' || (BLANKS.contains(&letter) && after_comma) || at == 0;
            end = at + letter.len_utf8();
        }
        rest.split_at(end)
    } else {
        ("", rest)
    };
    Entry::Defaults {
        binding: trimmed(binding).to_owned(),
        settings: trimmed(without_comment(settings)).to_owned(),
    }
}

fn without_comment(text: &str) -> &str {
    let mut quoted = false;
    for (at, letter) in text.char_indices() {
        match letter {
            '"' => quoted = !quoted,
            '#' if !quoted => return &text[..at],
            _ => {}
        }
    }
    text
}

fn aliases(rest: &str, kind: AliasKind) -> Vec<Entry> {
    let mut scanner = Scanner::new(rest);
    let mut entries = Vec::new();
    loop {
        let Some(name) = scanner.word(&['=', ':', ',']) else {
            entries.push(Entry::Wrong { problem: "an alias has no name" });
            return entries;
        };
        if !scanner.take('=') {
            entries.push(Entry::Wrong { problem: "an alias has no equals sign" });
            return entries;
        }
        let Ok(members) = scanner.members_of(kind) else {
            entries.push(Entry::Wrong { problem: "an alias has no members" });
            return entries;
        };
        entries.push(Entry::Alias { kind, name, members });
        if !scanner.take(':') {
            if !scanner.is_at_end() {
                entries.push(Entry::Wrong { problem: "something stands after an alias" });
            }
            return entries;
        }
    }
}

fn rule(line: &str) -> Result<Entry, &'static str> {
    let mut scanner = Scanner::new(line);
    let users = scanner.members(false)?;
    let mut privileges = Vec::new();
    loop {
        let hosts = scanner.members(true)?;
        if !scanner.take('=') {
            return Err("a rule has no equals sign");
        }
        privileges.push((hosts, scanner.specs()?));
        if !scanner.take(':') {
            break;
        }
    }
    if !scanner.is_at_end() {
        return Err("something stands after a rule");
    }
    Ok(Entry::Rule { users, privileges })
}

/// A list of members, as it stands behind the mark of a binding.
pub(crate) fn members_of(list: &str, kind: AliasKind) -> Result<Vec<Member>, &'static str> {
    Scanner::new(list).members_of(kind)
}

/// Reads a line from the left.
struct Scanner<'a> {
    rest: &'a str,
}

impl<'a> Scanner<'a> {
    fn new(text: &'a str) -> Self {
        Self { rest: text.trim_start_matches(BLANKS) }
    }

    fn skip_blanks(&mut self) {
        self.rest = self.rest.trim_start_matches(BLANKS);
    }

    fn is_at_end(&mut self) -> bool {
        self.skip_blanks();
        self.rest.is_empty() || self.rest.starts_with('#')
    }

    fn take(&mut self, letter: char) -> bool {
        self.skip_blanks();
        match self.rest.strip_prefix(letter) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    /// A word up to a blank or one of `ends`, with quotes and escapes taken away.
    fn word(&mut self, ends: &[char]) -> Option<String> {
        self.skip_blanks();
        let mut word = String::new();
        let mut letters = self.rest.char_indices();
        let mut end = self.rest.len();
        let mut quoted = false;
        let mut was_quoted = false;
        while let Some((at, letter)) = letters.next() {
            match letter {
                '"' => {
                    quoted = !quoted;
                    was_quoted = true;
                }
                '\\' => match letters.next() {
                    Some((_, next)) => word.push(next),
                    None => word.push('\\'),
                },
                letter if !quoted && (BLANKS.contains(&letter) || ends.contains(&letter)) => {
                    end = at;
                    break;
                }
                // A comment, unless it is the number of a user or group.
                '#' if !quoted && !word.is_empty() && word != "%" => {
                    end = at;
                    break;
                }
                letter => word.push(letter),
            }
        }
        self.rest = &self.rest[end..];
        (!word.is_empty() || was_quoted).then_some(word)
    }

    fn negations(&mut self) -> bool {
        let mut negated = false;
        while self.take('!') {
            negated = !negated;
        }
        negated
    }

    /// The members of an alias.
    fn members_of(&mut self, kind: AliasKind) -> Result<Vec<Member>, &'static str> {
        if kind == AliasKind::Command {
            self.commands().map(|specs| specs.into_iter().map(|(_, command)| command).collect())
        } else {
            self.members(kind == AliasKind::Host)
        }
    }

    /// Members joined by commas. Addresses of hosts may have colons.
    fn members(&mut self, hosts: bool) -> Result<Vec<Member>, &'static str> {
        let mut members = Vec::new();
        loop {
            let negated = self.negations();
            self.skip_blanks();
            let address = if hosts { colon_address(self.rest) } else { None };
            let name = match address {
                Some(length) => {
                    let (name, rest) = self.rest.split_at(length);
                    self.rest = rest;
                    name.to_owned()
                }
                None if self.rest.starts_with("%:") => {
                    self.rest = &self.rest[2..];
                    let name = self.word(&[',', '=', '(', ')', '!']).ok_or("a name is missing")?;
                    format!("%:{name}")
                }
                None => self.word(&[',', '=', ':', '(', ')', '!']).ok_or("a name is missing")?,
            };
            members.push(Member { negated, name });
            if !self.take(',') {
                return Ok(members);
            }
        }
    }

    /// The commands of a privilege. Who runs them, tags and options hold for those that follow.
    fn specs(&mut self) -> Result<Vec<CommandSpec>, &'static str> {
        let mut specs: Vec<CommandSpec> = Vec::new();
        loop {
            let mut spec = specs.last().cloned().unwrap_or_default();
            if self.take('(') {
                let (users, groups) = self.runas()?;
                spec.runas_users = Some(users);
                spec.runas_groups = groups;
            }
            while let Some((name, value)) = self.option() {
                spec.options.retain(|(known, _)| *known != name);
                spec.options.push((name, value));
            }
            while let Some(tag) = self.tag() {
                let (yes, no) =
                    TAGS.iter().find(|(yes, no)| *yes == tag || *no == tag).expect("tags come from the list");
                spec.tags.retain(|known| known != yes && known != no);
                spec.tags.push(tag);
            }
            let (digests, command) = self.command()?;
            spec.digests = digests;
            spec.command = command;
            specs.push(spec);
            if !self.take(',') {
                return Ok(specs);
            }
        }
    }

    fn commands(&mut self) -> Result<Vec<(Vec<String>, Member)>, &'static str> {
        let mut commands = Vec::new();
        loop {
            commands.push(self.command()?);
            if !self.take(',') {
                return Ok(commands);
            }
        }
    }

    fn runas(&mut self) -> Result<(Vec<Member>, Option<Vec<Member>>), &'static str> {
        self.skip_blanks();
        let users = if self.rest.starts_with([':', ')']) { Vec::new() } else { self.members(false)? };
        let groups = if self.take(':') {
            self.skip_blanks();
            Some(if self.rest.starts_with(')') { Vec::new() } else { self.members(false)? })
        } else {
            None
        };
        if self.take(')') { Ok((users, groups)) } else { Err("a parenthesis is not closed") }
    }

    fn option(&mut self) -> Option<(String, String)> {
        const OPTIONS: [&str; 8] =
            ["ROLE", "TYPE", "APPARMOR_PROFILE", "TIMEOUT", "NOTBEFORE", "NOTAFTER", "CWD", "CHROOT"];
        self.skip_blanks();
        let name = OPTIONS.iter().find(|name| {
            self.rest.strip_prefix(**name).is_some_and(|rest| rest.trim_start().starts_with('='))
        })?;
        let rest = self.rest.strip_prefix(*name)?.trim_start().strip_prefix('=')?;
        self.rest = rest;
        let value = self.word(&[',', ':'])?;
        Some((name.to_ascii_lowercase(), value))
    }

    fn tag(&mut self) -> Option<&'static str> {
        self.skip_blanks();
        let mut tags = TAGS.iter().flat_map(|(yes, no)| [*yes, *no]);
        let found = tags
            .find(|tag| self.rest.strip_prefix(tag).is_some_and(|rest| rest.trim_start().starts_with(':')))?;
        self.rest = self.rest.strip_prefix(found)?.trim_start().strip_prefix(':')?;
        Some(found)
    }

    /// One command with its digests.
    fn command(&mut self) -> Result<(Vec<String>, Member), &'static str> {
        let mut digests = Vec::new();
        loop {
            self.skip_blanks();
            let kinds = ["sha224", "sha256", "sha384", "sha512"];
            let text = self.rest;
            let after = |kind: &str| text.strip_prefix(kind)?.trim_start_matches(BLANKS).strip_prefix(':');
            let found = kinds.into_iter().find_map(|kind| Some((kind, after(kind)?)));
            let Some((kind, rest)) = found else { break };
            self.rest = rest;
            let digest = self.word(&[',']).ok_or("a digest is missing")?;
            digests.push(format!("{kind}:{digest}"));
            self.take(',');
        }
        let negated = self.negations();
        self.skip_blanks();
        let name = if self.rest.starts_with('^') {
            let mut text = self.expression()?;
            let arguments = self.arguments()?;
            if !arguments.is_empty() {
                text.push(' ');
                text.push_str(&arguments);
            }
            text
        } else {
            let path = self.word(&[',', ':', '=']).ok_or("a command is missing")?;
            let takes_arguments = path.starts_with('/') || path == "sudoedit";
            if takes_arguments {
                let arguments = self.arguments()?;
                if arguments.is_empty() { path } else { format!("{path} {arguments}") }
            } else {
                path
            }
        };
        Ok((digests, Member { negated, name }))
    }

    /// A regular expression from `^` to a `$` before a blank, a comma or the end.
    fn expression(&mut self) -> Result<String, &'static str> {
        let mut escaped = false;
        for (at, letter) in self.rest.char_indices() {
            let after = &self.rest[at + letter.len_utf8()..];
            if letter == '$' && !escaped && (after.is_empty() || after.starts_with([' ', '\t', ',', ':'])) {
                let (text, rest) = self.rest.split_at(at + 1);
                self.rest = rest;
                return Ok(text.to_owned());
            }
            escaped = letter == '\\' && !escaped;
        }
        Err("a regular expression has no end")
    }

    /// Everything up to a comma, a colon or a comment.
    fn arguments(&mut self) -> Result<String, &'static str> {
        let mut words: Vec<String> = Vec::new();
        loop {
            self.skip_blanks();
            if self.rest.starts_with('^') {
                words.push(self.expression()?);
                continue;
            }
            let mut word = String::new();
            let mut end = self.rest.len();
            let mut stops = true;
            let mut letters = self.rest.char_indices();
            while let Some((at, letter)) = letters.next() {
                match letter {
                    // Only what would end the command is written without its backslash.
                    '\\' => match letters.next() {
                        Some((_, next)) if matches!(next, ':' | ',' | '=' | '\\' | '#' | ' ' | '\t') => {
                            word.push(next)
                        }
                        Some((_, next)) => {
                            word.push('\\');
                            word.push(next);
                        }
                        None => word.push('\\'),
                    },
                    ',' | ':' | '#' => {
                        end = at;
                        break;
                    }
                    letter if BLANKS.contains(&letter) => {
                        end = at;
                        stops = false;
                        break;
                    }
                    letter => word.push(letter),
                }
            }
            self.rest = &self.rest[end..];
            if !word.is_empty() {
                words.push(word);
            }
            if stops {
                return Ok(words.join(" "));
            }
        }
    }
}

/// The length of an IPv6 address, with its prefix, at the beginning of a text.
fn colon_address(text: &str) -> Option<usize> {
    let end = text
        .find(|letter: char| !(letter.is_ascii_hexdigit() || matches!(letter, ':' | '.' | '/')))
        .unwrap_or(text.len());
    let word = &text[..end];
    let address = word.split('/').next().unwrap_or_default();
    address.parse::<std::net::Ipv6Addr>().is_ok().then_some(end)
}
