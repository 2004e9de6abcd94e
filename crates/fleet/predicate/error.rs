//! What is wrong with the text of a target, and where.

use super::{MAX_DEPTH, MAX_TEXT_BYTES, glob::MAX_STRETCH_CHARACTERS};

/// Every name that a fact can have, as errors list them.
const FACT_NAMES: &str =
    "agent, hostname, os, os.id, os.version, arch, kernel, agent.version, module, addr, group, tag.NAME";

/// Characters of the text that are shown before and after the place of an error.
const EXCERPT_CHARACTERS: usize = 40;

/// Characters of a word or text that a message repeats.
const SHOWN_CHARACTERS: usize = 64;

/// A text that is not a target. [`TargetError::caret`] shows the place.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}: {problem}", place(*line, *column))]
pub struct TargetError {
    problem: Problem,
    line: usize,
    column: usize,
    /// The part of the line around the place, without control characters.
    excerpt: String,
    /// Characters of `excerpt` before the place.
    indent: usize,
}

/// What is wrong with the text of a target.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Problem {
    /// There is nothing in it.
    #[error("the target is empty; use all for every agent")]
    Empty,
    /// The text is longer than [`MAX_TEXT_BYTES`].
    #[error("the target has {0} bytes; at most {MAX_TEXT_BYTES} are allowed")]
    TooLong(usize),
    /// The canonical text would be longer than [`MAX_TEXT_BYTES`].
    #[error("the target has {0} bytes with its spaces written out; at most {MAX_TEXT_BYTES} are allowed")]
    TooLongWritten(usize),
    /// More parentheses and `!` inside each other than [`MAX_DEPTH`].
    #[error("more than {MAX_DEPTH} nested parentheses and !")]
    TooDeep,
    /// `!` right before a comparison.
    #[error("after ! a comparison must be in parentheses, as in !(os == \"linux\")")]
    BareNot,
    /// A character that begins nothing.
    #[error("unexpected {0:?}; texts are written in double quotes, such as \"web-*\"")]
    UnexpectedCharacter(char),
    /// One character of an operator of two.
    #[error("unexpected {found}; write {meant}")]
    HalfOperator {
        /// What stands there.
        found: char,
        /// What was probably meant.
        meant: &'static str,
    },
    /// `and`, `or` or `not`.
    #[error("unexpected {found}; write {meant}")]
    WordForSymbol {
        /// What stands there.
        found: &'static str,
        /// What was probably meant.
        meant: &'static str,
    },
    /// A text without its second quote.
    #[error("the text that starts here has no closing double quote")]
    UnclosedText,
    /// A backslash before something that needs none.
    #[error("unexpected {0:?} after a backslash; only \\\" and \\\\ are known")]
    UnknownEscape(char),
    /// A control character in a text.
    #[error("the text contains the control character {0:?}; facts never contain any")]
    ControlCharacter(char),
    /// Something else than a comparison, `all`, `!` or `(`.
    #[error("expected a comparison such as os == \"linux\", found {0}")]
    ExpectedComparison(String),
    /// A name that is no fact.
    #[error("{0:?} is not a fact; the facts are {FACT_NAMES}")]
    UnknownFact(String),
    /// A name that no tag can have.
    #[error("{0:?} is not the name of a tag (1 to 64 letters, digits, -, _ and .)")]
    BadTagName(String),
    /// No operator after a fact.
    #[error("expected an operator after {fact}, found {found}; {fact} takes {takes}")]
    ExpectedOperator {
        /// The fact.
        fact: String,
        /// What stands there.
        found: String,
        /// The operators that this fact takes.
        takes: &'static str,
    },
    /// An operator that the fact does not take.
    #[error("{fact} is {kind} and does not take {operator}; it takes {takes}")]
    WrongOperator {
        /// The fact.
        fact: String,
        /// What the fact is.
        kind: &'static str,
        /// The operator.
        operator: &'static str,
        /// The operators that this fact takes.
        takes: &'static str,
    },
    /// No value after an operator.
    #[error("expected a value after {operator}, found {found}; texts are written in double quotes")]
    ExpectedValue {
        /// The operator.
        operator: &'static str,
        /// What stands there.
        found: String,
    },
    /// No list after `in`.
    #[error("expected a list after in, such as [\"a\", \"b\"], found {0}")]
    ExpectedList(String),
    /// A list that does not go on or end.
    #[error("expected a comma or ] in the list, found {0}")]
    ExpectedListEnd(String),
    /// A value of `<`, `<=`, `>`, `>=` that is not a version.
    #[error("{0:?} is not a number or version; these start with a digit, such as 12 or 6.1.0-13")]
    NotAVersion(String),
    /// A value of `addr has` that is not an address.
    #[error("{0:?} is not an IPv4 or IPv6 address, such as \"192.0.2.1\"")]
    NotAnAddress(String),
    /// A value of `cidr` that is not a range of addresses.
    #[error("{0:?} is not a range of addresses, such as \"192.0.2.0/24\" or \"2001:db8::/32\"")]
    NotARange(String),
    /// A stretch of a pattern that is too long to look for with `?`.
    #[error("between two * of a pattern, a part with ? has at most {MAX_STRETCH_CHARACTERS} characters")]
    PatternTooLong,
    /// `(` without `)`.
    #[error("expected &&, || or ), found {0}")]
    ExpectedClosing(String),
    /// Something follows where the target could end.
    #[error("expected &&, || or the end, found {0}")]
    ExpectedEnd(String),
}

impl TargetError {
    /// The error at a byte of the text.
    pub(super) fn new(text: &str, at: usize, problem: Problem) -> Self {
        let at = text.floor_char_boundary(at);
        let (before, after) = text.split_at(at);
        let line = before.matches('\n').count() + 1;
        let of_line = before.rsplit('\n').next().unwrap_or_default();
        let column = of_line.chars().count() + 1;

        let cut = column > EXCERPT_CHARACTERS + 1;
        let mut excerpt = String::new();
        if cut {
            excerpt.push('…');
        }
        excerpt.extend(of_line.chars().skip(column.saturating_sub(EXCERPT_CHARACTERS + 1)));
        let indent = excerpt.chars().count();
        let mut rest = after.chars().take_while(|c| *c != '\n');
        excerpt.extend(rest.by_ref().take(EXCERPT_CHARACTERS));
        if rest.next().is_some() {
            excerpt.push('…');
        }
        let excerpt = excerpt.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        Self { problem, line, column, excerpt, indent }
    }

    /// What is wrong.
    #[must_use]
    pub fn problem(&self) -> &Problem {
        &self.problem
    }

    /// Line of the place, from 1.
    #[must_use]
    pub fn line(&self) -> usize {
        self.line
    }

    /// Column of the place in characters, from 1.
    #[must_use]
    pub fn column(&self) -> usize {
        self.column
    }

    /// Two lines for people: the text around the place, and a caret below the place. The text is what was
    /// given, without control characters.
    #[must_use]
    pub fn caret(&self) -> String {
        format!("{}\n{:indent$}^", self.excerpt, "", indent = self.indent)
    }
}

/// What a message repeats of a word or text.
pub(super) fn shown(text: &str) -> String {
    text.chars().take(SHOWN_CHARACTERS).collect()
}

fn place(line: usize, column: usize) -> String {
    if line > 1 { format!("line {line}, column {column}") } else { format!("column {column}") }
}
