//! Lines of configuration that name further files. Pure: text in, names out.

use std::collections::HashSet;
use std::sync::LazyLock;

use regex::Regex;

use crate::catalogue::Rule;
use crate::format::lines::{self, Join};

/// How a format says which further files are read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Include {
    pub(crate) syntax: Syntax,
    /// Where a name without a slash at its beginning lies.
    pub(crate) base: Base,
    pub(crate) reads: Reads,
}

/// How such a line is written. Upper and lower case are one, and `*` matches anything in a word.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Syntax {
    /// These words, perhaps an equals sign, and then names.
    Words(&'static str),
    /// The same in nginx's form, in which `;` and braces end a statement and ends of lines do not.
    Statement(&'static str),
    /// A section, and a key in it whose values are names.
    Key(&'static str, &'static str),
    /// A variable of a shell, wherever it is set in a line, and its value.
    Variable(&'static str),
    /// rsyslog's `include(file="NAME")`.
    Call,
    /// A shell's `source NAME` or `. NAME`, wherever a command begins.
    Source,
}

/// Where a relative name lies.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Base {
    /// In the directory of the file that names it.
    File,
    /// In these directories.
    At(&'static [&'static str]),
    /// Below the home that the file lies in, or else in a directory of the system.
    HomeOr(&'static str, &'static str),
    /// In the work tree of a git repository.
    WorkTree,
    /// Where the shell is started: in the home that the file lies in, or nobody knows where.
    Home,
}

/// How files that are named are read.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Reads {
    /// As the file that names them; of a directory, its files.
    Same,
    /// As the file that names them; of a directory, the files at any level below it.
    SameBelow,
    /// A directory is named, and these are the files below it; what is a file itself is read by the first rule.
    Others(&'static [Rule]),
}

/// A line that names further files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Lead {
    /// From 1 on.
    pub(crate) line: u32,
    /// What it names. A name with blanks may be one or several, so both are here.
    pub(crate) names: Vec<String>,
    /// The place of its form among those that were asked for.
    pub(crate) form: usize,
}

/// The lines that name further files, in one of these forms.
pub(crate) fn leads(forms: &[Include], content: &[u8]) -> Vec<Lead> {
    let mut found = Vec::new();
    for (form, include) in forms.iter().enumerate() {
        let mut push = |line: u32, names: Vec<String>| {
            if !names.is_empty() {
                found.push(Lead { line, names, form });
            }
        };
        match include.syntax {
            Syntax::Words(words) => {
                for line in lines::lines(content, Join::Perhaps) {
                    push(line.number, after(&line.text, words));
                }
            }
            Syntax::Statement(words) => {
                for (line, text) in statements(content) {
                    push(line, after(&text, words));
                }
            }
            Syntax::Variable(variable) => {
                for line in lines::lines(content, Join::Shell).filter(|line| !line.is_comment()) {
                    let mut values = Vec::new();
                    assigned(&line.text, variable, 2, &mut values);
                    push(line.number, values);
                }
            }
            Syntax::Key(section, key) => keys(content, section, key, push),
            Syntax::Call => calls(content, push),
            Syntax::Source => {
                for line in lines::lines(content, Join::Shell) {
                    sourced(&line.text, &mut |name| push(line.number, vec![name]));
                }
            }
        }
    }
    found
}

/// What a line names after these words; nothing when it begins with others.
fn after(text: &str, words: &str) -> Vec<String> {
    let keywords = words.split_whitespace().count();
    let all = split(text, keywords);
    let is_comment = text.trim_start().starts_with('#') && !words.starts_with('#');
    let fits = all.len() > keywords
        && !is_comment
        && words.split_whitespace().zip(&all).all(|(word, (_, found))| is_like(word, found));
    if fits { names(text, &all[keywords..]) } else { Vec::new() }
}

/// How a line is read that may stand in quotes which other lines opened: in a text of several lines, or in a here-document
/// with an apostrophe. Which it is, is not known for sure, so lines are read in all these ways.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Quotes {
    Closed,
    /// What is quoted with this mark is read as if it were not, and the other way round: `alias x='. "NAME"'`.
    Open(char),
    /// The first backquote ends a command.
    InBackquotes,
    /// What is in quotes may be commands: `eval '. NAME'`, `"$(. NAME)"`.
    AroundCommands,
}

/// The files that a line of a shell's script reads as parts of it; perhaps more of them, and not fewer.
fn sourced(text: &str, push: &mut dyn FnMut(String)) {
    let is_comment = text.trim_start().starts_with('#');
    let ways =
        [Quotes::Closed, Quotes::Open('"'), Quotes::Open('\''), Quotes::InBackquotes, Quotes::AroundCommands];
    let mut seen = HashSet::new();
    for quotes in ways {
        let (is_wanted, is_prose) = match quotes {
            Quotes::Closed => (!is_comment, false),
            Quotes::Open(mark) => (text.contains(mark), is_comment),
            Quotes::InBackquotes => (!is_comment && text.contains('`'), false),
            Quotes::AroundCommands => (!is_comment && text.contains(['"', '\'']), true),
        };
        // A shell reads no directory.
        let mut once = |name: String| {
            if (!is_prose || is_path(&name)) && !name.ends_with('/') && seen.insert(name.clone()) {
                push(name);
            }
        };
        if is_wanted {
            sourced_within(text, quotes, &mut once);
        }
    }
}

/// Whether a word looks like a path: only such are taken of what may be no command at all.
fn is_path(name: &str) -> bool {
    name.starts_with(['/', '~', '$', '`'])
}

/// Most directories that a name is looked for in.
const MAX_PLACES: usize = 16;

fn sourced_within(text: &str, quotes: Quotes, push: &mut dyn FnMut(String)) {
    const BEFORE_COMMANDS: [&str; 23] = [
        "!",
        "{",
        "if",
        "then",
        "elif",
        "else",
        "while",
        "until",
        "do",
        "time",
        "builtin",
        "command",
        "begin",
        "and",
        "or",
        "not",
        "eval",
        "exec",
        "coproc",
        "noglob",
        "nocorrect",
        "repeat",
        "-",
    ];
    let is_number = |word: &str| word.chars().all(|letter| letter.is_ascii_digit());
    let is_descriptor = |word: &str| {
        let in_braces = word.strip_prefix('{').is_some_and(|rest| rest.ends_with('}'));
        in_braces || is_number(word)
    };
    let has_quotes = quotes != Quotes::AroundCommands;
    // Whether the next word is a command, the name of a file, or where something is redirected to.
    let (mut begins, mut is_named, mut is_target) = (true, false, false);
    // Whether it may be an option, or a number, of a word before a command; and whether a name must look like a path.
    let (mut has_options, mut is_prose) = (false, false);
    // Where a name is looked for; empty before it is said.
    let mut directory: Option<String> = None;
    let mut quote = if let Quotes::Open(mark) = quotes { Some(mark) } else { None };
    // What was quoted before this line may be the value of a variable, and then a command follows.
    let mut word = quote.map(|_| "=".to_owned());
    let mut is_before = quote.is_some();
    let mut in_backquotes = quotes == Quotes::InBackquotes;
    // Whether a name was taken up to a mark that may be the closing one, and whether it is that mark which is open.
    let (mut is_taken, mut may_be_closed) = (false, false);
    // Whether the word may be the beginning of `x[1 + 2]=3`; absent before its first bracket.
    let mut subscript = None;
    // Whether a backslash stands for itself: in `'…'`, but not in `$'…'`.
    let mut is_literal = quote == Some('\'');
    let mut letters = text.chars().chain([';']);
    while let Some(letter) = letters.next() {
        let redirects = matches!(letter, '<' | '>');
        let is_operator = redirects
            || matches!(letter, ';' | '&' | '|' | '(' | ')' | '`')
            || (!has_quotes && matches!(letter, '"' | '\''));
        let follows_dollar = word.as_deref().is_some_and(|word| word.ends_with('$'));
        let opens_command = match letter {
            '`' => !in_backquotes || word.is_none(),
            _ => letter == '(' && follows_dollar,
        };
        // In a way of reading that is only assumed, a mark that opens may be the one that closes.
        let is_assumed = match letter {
            '`' => opens_command && quotes != Quotes::Closed,
            _ => quotes == Quotes::Open(letter),
        };
        let name = word.as_ref().filter(|word| is_assumed && is_named && !is_taken && is_path(word));
        match (quote, letter) {
            (Some(mark), _) if letter == mark => {
                (quote, is_literal) = (None, false);
                word.get_or_insert_default().extend(matches!(mark, ')' | '`').then_some(mark));
                if std::mem::take(&mut is_before) {
                    word = Some("=".to_owned());
                }
            }
            (None, '"' | '\'') if has_quotes => {
                may_be_closed = name.is_some();
                is_taken |= may_be_closed;
                name.cloned().into_iter().for_each(&mut *push);
                (quote, is_literal) = (Some(letter), letter == '\'' && !follows_dollar);
                let word = word.get_or_insert_default();
                if follows_dollar {
                    // `$'.'` is `.`.
                    word.pop();
                }
            }
            (None, '#') if word.is_none() && has_quotes => break,
            (None, '(' | '`') if is_named && opens_command => {
                may_be_closed = name.is_some();
                is_taken |= may_be_closed;
                name.cloned().into_iter().for_each(&mut *push);
                // A command in the name: what it is, is not known.
                word.get_or_insert_default().push(letter);
                quote = Some(if letter == '`' { '`' } else { ')' });
            }
            (None, '&' | '|') if is_target && word.is_none() => {}
            (None, _) if letter.is_whitespace() && begins && subscript == Some(true) => {
                word.get_or_insert_default().push(letter);
            }
            (None, _) if letter.is_whitespace() || is_operator => {
                subscript = None;
                match word.take() {
                    // The number of a descriptor, or the variable that gets it.
                    Some(word) if redirects && is_descriptor(&word) => {}
                    Some(_) if is_target => is_target = false,
                    Some(option) if is_named && option.starts_with('-') => {
                        directory = option.contains('p').then(String::new);
                    }
                    // `source -p DIRECTORIES NAME`.
                    Some(paths) if is_named && directory.as_ref().is_some_and(String::is_empty) => {
                        directory = Some(paths);
                    }
                    Some(name) if is_named => {
                        let directories = directory.take().filter(|_| !name.contains('/'));
                        let places = directories.iter().flat_map(|paths| paths.split(':'));
                        for place in places.take(MAX_PLACES) {
                            push(format!("{place}/{name}"));
                        }
                        if directories.is_none() && (!is_prose || is_path(&name)) {
                            push(name);
                        }
                        (begins, is_named) = (false, false);
                    }
                    Some(word) if begins || word == "{" => {
                        // Behind a mark that may be an opening one, the command may begin.
                        let command = word.strip_prefix('=');
                        is_prose = command.is_some();
                        let command = command.unwrap_or(&word);
                        is_named = matches!(command, "." | "source");
                        is_taken = false;
                        has_options = BEFORE_COMMANDS.contains(&command)
                            || (has_options && (word.starts_with(['-', '$']) || is_number(&word)));
                        begins = has_options || is_assignment(&word);
                    }
                    _ => {}
                }
                in_backquotes ^= letter == '`';
                if redirects {
                    is_target = true;
                } else if is_operator {
                    (begins, is_named, is_target, has_options) = (true, false, false, false);
                }
            }
            _ => {
                let escapes = letter == '\\' && !is_literal;
                let letter = if escapes { letters.next().unwrap_or(letter) } else { letter };
                let word = word.get_or_insert_default();
                match (letter, subscript) {
                    ('[', None) => subscript = Some(!word.is_empty() && after_name(word).is_empty()),
                    (']', _) => subscript = Some(false),
                    _ => {}
                }
                word.push(letter);
            }
        }
    }
    let goes_on = is_named && quote.is_some() && !may_be_closed;
    if let Some(begun) = word.filter(|begun| goes_on && (!is_prose || is_path(begun))) {
        // The name goes on in the next line.
        push(format!("{}$", begun.trim_end_matches(';')));
    }
}

/// What follows the name that a word of a shell begins with.
fn after_name(word: &str) -> &str {
    word.trim_start_matches(|letter: char| letter.is_ascii_alphanumeric() || letter == '_')
}

/// Whether a word assigns to a variable: `x=`, `x+=`, `x[1]=`. Without a name, the name was in the lines before.
fn is_assignment(word: &str) -> bool {
    let rest = after_name(word);
    match rest.strip_prefix('[') {
        Some(subscript) => subscript.contains("]=") || subscript.contains("]+="),
        None => rest.starts_with('=') || rest.starts_with("+="),
    }
}

/// All that a line assigns to a variable: `NAME=VALUE`, `"NAME=VALUE"` or `${NAME:=VALUE}`. Values are looked into for
/// further ones, but no deeper than this: what they assign there is not known.
fn assigned(text: &str, variable: &str, depth: u8, values: &mut Vec<String>) {
    let is_of_name = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '_' | '$');
    let mut end = 0;
    while let Some(at) = text[end..].find(variable).map(|at| at + end) {
        end = at + variable.len();
        let before = text[..at].chars().next_back();
        let value = text[end..].strip_prefix(":=").or_else(|| text[end..].strip_prefix('='));
        let Some(value) = value.filter(|_| !before.is_some_and(is_of_name)) else { continue };
        let (word, rest) = word_of_shell(value, before.filter(|before| matches!(before, '"' | '\'')));
        values.extend(Some(word).filter(|word| !word.is_empty()));
        end = text.len() - rest.len();
        let inside = &value[..value.len() - rest.len()];
        match depth.checked_sub(1) {
            Some(depth) => assigned(inside, variable, depth, values),
            None => values.extend(inside.contains(variable).then(|| format!("${variable}"))),
        }
    }
}

/// The word that a shell's text begins with, perhaps within quotes that were opened before it, and what follows it.
pub(crate) fn word_of_shell(text: &str, mut quote: Option<char>) -> (String, &str) {
    let mut word = String::new();
    let mut braces = 0;
    let mut rest = text;
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        match (quote, letter) {
            (Some(mark), letter) if letter == mark => quote = None,
            (None, '"' | '\'') => quote = Some(letter),
            (None, '}') if braces <= 0 => break,
            (None, letter) if letter.is_whitespace() || matches!(letter, ';' | '&' | '|' | '(' | ')') => {
                break;
            }
            (None | Some('"'), '\\') => word.extend(letters.next()),
            (_, letter) => {
                braces += i32::from(letter == '{') - i32::from(letter == '}');
                word.push(letter);
            }
        }
        rest = letters.as_str();
    }
    (word, rest)
}

fn is_like(pattern: &str, text: &str) -> bool {
    vigie_tree::matches(pattern.to_ascii_lowercase().as_bytes(), text.to_ascii_lowercase().as_bytes())
}

/// Names from words: each, and all of them together when a name can have blanks.
fn names(text: &str, words: &[(usize, String)]) -> Vec<String> {
    let plain = |word: &str| word.trim_end_matches([';', ',', '>']).trim().to_owned();
    let mut names: Vec<String> = words.iter().map(|(_, word)| plain(word)).collect();
    if let [(first, _), _, ..] = words {
        names.push(plain(&text[*first..]));
    }
    names.retain(|name| !name.is_empty());
    names
}

/// The words of a line with where they begin, without quotes and backslashes. An equals sign before or after the first
/// `keywords` of them counts as a blank, and a comment ends the line.
fn split(text: &str, keywords: usize) -> Vec<(usize, String)> {
    let mut words: Vec<(usize, String)> = Vec::new();
    let mut word: Option<(usize, String)> = None;
    let mut quote: Option<char> = None;
    let mut letters = text.char_indices();
    while let Some((at, letter)) = letters.next() {
        let is_early = words.len() < keywords || (words.len() == keywords && word.is_none());
        let is_end = letter.is_whitespace() || (letter == '=' && is_early);
        match (quote, letter) {
            (Some(mark), letter) if letter == mark => quote = None,
            (None, '"' | '\'') => {
                quote = Some(letter);
                word.get_or_insert_with(|| (at, String::new()));
            }
            (None, _) if is_end => words.extend(word.take()),
            (None, '#') if word.is_none() && !words.is_empty() => break,
            (_, letter) => {
                let letter =
                    if letter == '\\' { letters.next().map_or('\\', |(_, next)| next) } else { letter };
                word.get_or_insert_with(|| (at, String::new())).1.push(letter);
            }
        }
    }
    words.extend(word);
    words
}

/// The statements of nginx's configuration, each with the line that it begins in.
fn statements(content: &[u8]) -> Vec<(u32, String)> {
    let mut found = Vec::new();
    let mut statement: Option<(u32, String)> = None;
    let mut quote: Option<char> = None;
    for (line, number) in String::from_utf8_lossy(content).lines().zip(1_u32..) {
        let mut follows_blank = true;
        for letter in line.chars() {
            match (quote, letter) {
                (Some(mark), letter) if letter == mark => quote = None,
                (None, '#') if follows_blank => break,
                (None, '"' | '\'') => quote = Some(letter),
                (None, ';' | '{' | '}') => {
                    found.extend(statement.take());
                    follows_blank = true;
                    continue;
                }
                _ => {}
            }
            follows_blank = letter.is_whitespace();
            if !follows_blank || statement.is_some() {
                statement.get_or_insert_with(|| (number, String::new())).1.push(letter);
            }
        }
        if let Some((_, text)) = &mut statement {
            text.push(' ');
        }
    }
    found.extend(statement);
    found
}

/// `KEY = NAMES` in a section; lines that begin with a blank and have no sign go on with the names.
fn keys(content: &[u8], section: &str, key: &str, mut push: impl FnMut(u32, Vec<String>)) {
    let mut is_here = false;
    let mut is_open = false;
    for line in lines::lines(content, Join::Perhaps).filter(|line| !line.is_comment()) {
        let mut text = line.text.trim();
        if let Some((name, rest)) = text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            is_here = is_like(section, name.trim());
            is_open = false;
            text = rest.trim();
        }
        if let Some((name, value)) = text.split_once(['=', ':']).filter(|(name, _)| !name.contains('/')) {
            is_open = is_here && is_like(key, name.trim());
            if is_open {
                push(line.number, names(value, &split(value, 0)));
            }
        } else if is_open && line.text.starts_with([' ', '\t']) {
            push(line.number, names(text, &split(text, 0)));
        }
    }
}

/// `include(file="NAME")`, over several lines or not. What has no file names no file that can be followed.
fn calls(content: &[u8], mut push: impl FnMut(u32, Vec<String>)) {
    static CALL: LazyLock<Regex> =
        LazyLock::new(|| Regex::new(r"(?is)\binclude\s*\(([^)]*)\)").expect("the expression is fixed"));
    static FILE: LazyLock<Regex> = LazyLock::new(|| {
        Regex::new(r#"(?is)\bfile\s*=\s*["']([^"']*)["']"#).expect("the expression is fixed")
    });
    let text = String::from_utf8_lossy(content);
    // Comments keep their length, so that lines keep their numbers.
    let text: String = text
        .split_inclusive('\n')
        .map(|line| if line.trim_start().starts_with('#') { "\n" } else { line })
        .collect();
    let (mut line, mut counted) = (1, 0);
    for call in CALL.captures_iter(&text) {
        let (Some(whole), Some(arguments)) = (call.get(0), call.get(1)) else { continue };
        line += text[counted..whole.start()].bytes().filter(|byte| *byte == b'\n').count();
        counted = whole.start();
        let name = match FILE.captures(arguments.as_str()).and_then(|file| file.get(1)) {
            Some(name) => name.as_str().to_owned(),
            None => format!("${}", arguments.as_str().trim()),
        };
        push(u32::try_from(line).unwrap_or(u32::MAX), vec![name]);
    }
}

#[cfg(test)]
mod tests;
