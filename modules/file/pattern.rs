//! Regular expressions of filters, on names and modes as a whole and on contents line by line.
//!
//! A content expression is matched against each line alone, without its line feed and a carriage return before it,
//! as MIG does. Cutting a file into lines and asking the expression about each would be slow, so a second form of
//! it that finds its matches in many lines at once leads to the lines that are worth asking about. That form may
//! point at a line too many, never at one too few.

use std::sync::OnceLock;

use regex::bytes::{Regex, RegexBuilder};
use regex_automata::{Input, meta, util::syntax};
use regex_syntax::ParserBuilder;
use regex_syntax::hir::{Class, ClassBytes, ClassBytesRange, ClassUnicode, ClassUnicodeRange};
use regex_syntax::hir::{Hir, HirKind, Look, Repetition};
use vigie_matching::is_match;

/// Why an expression cannot be used.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum PatternError {
    /// It is empty, and so would match everything.
    #[error("an expression is empty: write what to look for, or leave the filter out")]
    Empty,
    /// The expression is not understood, or too large.
    #[error("{text:?} is not a regular expression: {problem}")]
    Invalid {
        /// The expression.
        text: String,
        /// What is wrong, on one line.
        problem: String,
    },
}

/// Takes a leading `!` off, which negates. One that stands alone is the character, as in MIG.
fn split_negation(text: &str) -> Result<(bool, &str), PatternError> {
    match text.strip_prefix('!') {
        _ if text.is_empty() => Err(PatternError::Empty),
        Some(rest) if !rest.is_empty() => Ok((true, rest)),
        _ => Ok((false, text)),
    }
}

fn compile(text: &str) -> Result<Regex, PatternError> {
    Regex::new(text).map_err(|error| {
        // The library draws the place of the error on several lines; its last line says what it is.
        let message = error.to_string();
        let problem = message.lines().last().unwrap_or_default().trim();
        let problem = problem.strip_prefix("error: ").unwrap_or(problem).to_owned();
        PatternError::Invalid { text: text.to_owned(), problem }
    })
}

/// An expression for a name or a mode.
#[derive(Debug, Clone)]
pub struct Pattern {
    negated: bool,
    regex: Regex,
}

impl Pattern {
    /// Reads an expression; a leading `!` negates it.
    ///
    /// # Errors
    /// What is wrong with the text.
    pub fn parse(text: &str) -> Result<Self, PatternError> {
        let (negated, text) = split_negation(text)?;
        Ok(Self { negated, regex: compile(text)? })
    }

    /// Whether the text is wanted.
    #[must_use]
    pub fn accepts(&self, text: &[u8]) -> bool {
        is_match(&self.regex, text) != self.negated
    }
}

/// An expression for the lines of a file.
#[derive(Debug, Clone)]
pub struct LinePattern {
    negated: bool,
    line: Regex,
    /// Finds the lines that are worth a closer look; `None` when the expression has no such form.
    lines: Option<Regex>,
    text: String,
    /// For parts of lines that are too long: it sees what is before and after the part.
    part: OnceLock<Option<meta::Regex>>,
}

impl LinePattern {
    /// Reads an expression; a leading `!` negates it.
    ///
    /// # Errors
    /// What is wrong with the text.
    pub fn parse(text: &str) -> Result<Self, PatternError> {
        let (negated, text) = split_negation(text)?;
        let line = compile(text)?;
        let lines = ParserBuilder::new()
            .utf8(false)
            .build()
            .parse(text)
            .ok()
            .and_then(|hir| RegexBuilder::new(&confined(hir).to_string()).build().ok());
        Ok(Self { negated, line, lines, text: text.to_owned(), part: OnceLock::new() })
    }

    /// Whether a file that has a matching line is the one that is *not* wanted.
    #[must_use]
    pub(crate) fn is_negated(&self) -> bool {
        self.negated
    }

    /// Whether the expression, without its negation, matches a line of the text. The text starts where a line
    /// starts; what is after its last line feed is a line too, unless it is empty.
    #[must_use]
    pub(crate) fn matches_a_line(&self, text: &[u8]) -> bool {
        let Some(lines) = &self.lines else {
            return each_line(text).any(|line| is_match(&self.line, line));
        };
        let mut at = 0;
        while at < text.len() {
            let Some(end) = lines.shortest_match_at(text, at) else { return false };
            // No match of this form goes over a line feed.
            let start = memchr::memrchr(b'\n', &text[..end]).map_or(0, |before| before + 1);
            if start == text.len() {
                return false;
            }
            let stop = memchr::memchr(b'\n', &text[start..]).map_or(text.len(), |length| start + length);
            if is_match(&self.line, without_carriage_return(&text[start..stop])) {
                return true;
            }
            at = stop + 1;
        }
        false
    }

    /// Whether the expression, without its negation, matches within `range` of a part of one line. What is outside
    /// the range is not matched, but seen: the start of a part is not the start of a line.
    #[must_use]
    pub(crate) fn matches_part(&self, part: &[u8], range: std::ops::Range<usize>) -> bool {
        let regex = self.part.get_or_init(|| {
            let config = meta::Config::new().utf8_empty(false);
            let mut builder = meta::Builder::new();
            builder.configure(config).syntax(syntax::Config::new().utf8(false)).build(&self.text).ok()
        });
        match regex {
            Some(regex) => regex.is_match(Input::new(part).range(range)),
            None => is_match(&self.line, &part[range]),
        }
    }

    /// Whether every line of the text is as wanted, negation included. The text is as in
    /// [`LinePattern::matches_a_line`].
    #[must_use]
    pub(crate) fn accepts_every_line(&self, text: &[u8]) -> bool {
        if self.negated {
            !self.matches_a_line(text)
        } else {
            each_line(text).all(|line| is_match(&self.line, line))
        }
    }
}

fn each_line(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    let text = text.strip_suffix(b"\n").map_or((!text.is_empty()).then_some(text), Some);
    text.into_iter().flat_map(|text| text.split(|byte| *byte == b'\n')).map(without_carriage_return)
}

fn without_carriage_return(line: &[u8]) -> &[u8] {
    line.strip_suffix(b"\r").unwrap_or(line)
}

/// Rewrites an expression for single lines into one for many: the start and the end of the text become those of a line,
/// and nothing can match a line feed. An end may also be before a carriage return. What matches U+FFFD may match a byte
/// that is no part of UTF-8 as well.
fn confined(hir: Hir) -> Hir {
    match hir.into_kind() {
        HirKind::Empty => Hir::empty(),
        HirKind::Literal(literal) if literal.0.contains(&b'\n') => Hir::fail(),
        HirKind::Literal(literal) => with_wrong_bytes(&literal.0),
        HirKind::Class(Class::Unicode(mut class)) => {
            class.difference(&ClassUnicode::new([ClassUnicodeRange::new('\n', '\n')]));
            let takes_wrong_bytes = class
                .iter()
                .any(|range| (range.start()..=range.end()).contains(&char::REPLACEMENT_CHARACTER));
            let class = Hir::class(Class::Unicode(class));
            if takes_wrong_bytes { Hir::alternation(vec![class, wrong_byte()]) } else { class }
        }
        HirKind::Class(Class::Bytes(mut class)) => {
            class.difference(&ClassBytes::new([ClassBytesRange::new(b'\n', b'\n')]));
            Hir::class(Class::Bytes(class))
        }
        HirKind::Look(Look::Start) => Hir::look(Look::StartLF),
        HirKind::Look(Look::End | Look::EndLF) => Hir::look(Look::EndCRLF),
        HirKind::Look(look) => Hir::look(look),
        HirKind::Repetition(repetition) => {
            Hir::repetition(Repetition { sub: Box::new(confined(*repetition.sub)), ..repetition })
        }
        // Nobody asks what a group matched.
        HirKind::Capture(capture) => confined(*capture.sub),
        HirKind::Concat(parts) => Hir::concat(parts.into_iter().map(confined).collect()),
        HirKind::Alternation(parts) => Hir::alternation(parts.into_iter().map(confined).collect()),
    }
}

/// A byte that is beyond ASCII.
fn wrong_byte() -> Hir {
    Hir::class(Class::Bytes(ClassBytes::new([ClassBytesRange::new(0x80, 0xff)])))
}

/// A literal in which each U+FFFD may also be a wrong byte.
fn with_wrong_bytes(literal: &[u8]) -> Hir {
    const REPLACEMENT: &[u8] = "\u{fffd}".as_bytes();
    let mut parts = Vec::new();
    let mut rest = literal;
    while let Some(at) = memchr::memmem::find(rest, REPLACEMENT) {
        parts.push(Hir::literal(rest[..at].to_vec()));
        parts.push(Hir::alternation(vec![Hir::literal(REPLACEMENT.to_vec()), wrong_byte()]));
        rest = &rest[at + REPLACEMENT.len()..];
    }
    parts.push(Hir::literal(rest.to_vec()));
    Hir::concat(parts)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What the rest is an optimisation of.
    fn naive(text: &str, content: &[u8]) -> bool {
        let regex = Regex::new(text).unwrap();
        each_line(content).any(|line| is_match(&regex, line))
    }

    #[test]
    fn lines_are_cut_as_mig_cuts_them() {
        for (text, lines) in [
            (&b""[..], &[][..]),
            (b"\n", &[&b""[..]]),
            (b"a", &[b"a"]),
            (b"a\n", &[b"a"]),
            (b"a\r\nb\r", &[b"a", b"b"]),
            (b"a\n\nb\r\r\n", &[b"a", b"", b"b\r"]),
        ] {
            assert_eq!(each_line(text).collect::<Vec<_>>(), lines, "{text:?}");
        }
    }

    #[test]
    fn an_exclamation_mark_negates_unless_it_stands_alone() {
        assert!(Pattern::parse("!a").unwrap().accepts(b"b"));
        assert!(!Pattern::parse("!a").unwrap().accepts(b"a"));
        assert!(Pattern::parse("!").unwrap().accepts(b"a!"));
        assert!(LinePattern::parse("!a").unwrap().is_negated());
    }

    #[test]
    fn what_is_no_expression_is_refused_on_one_line() {
        assert_eq!(Pattern::parse("").unwrap_err(), PatternError::Empty);

        let error = LinePattern::parse("![").unwrap_err().to_string();

        assert!(error.contains("\"[\" is not a regular expression: unclosed character class"), "{error}");
        assert!(Pattern::parse(r"\w{1000}{1000}").is_err());
    }

    #[test]
    fn a_byte_that_is_no_utf8_hides_no_line() {
        for (expression, content) in [
            ("password.*=", &b"ok\npassword\xff\xfe = x\n"[..]),
            ("^[^#]+$", b"a\x80b"),
            ("^a.b$", b"a\xffb"),
            ("a\u{fffd}b", b"a\xffb"),
            ("(?-u)\\xff", b"a\xffb"),
        ] {
            assert!(LinePattern::parse(expression).unwrap().matches_a_line(content), "{expression}");
        }
        assert!(Pattern::parse("^a.b$").unwrap().accepts(b"a\xffb"));
        assert!(!LinePattern::parse("^a..b$").unwrap().matches_a_line("aéb".as_bytes()));
        assert!(!LinePattern::parse("^a..b$").unwrap().matches_a_line(b"a\xffb"));
    }

    #[test]
    fn where_a_line_is_cut_it_neither_starts_nor_ends() {
        let pattern = |text: &str| LinePattern::parse(text).unwrap();

        assert!(!pattern("^b").matches_part(b"abc", 1..2));
        assert!(!pattern("b$").matches_part(b"abc", 1..2));
        assert!(pattern("b").matches_part(b"abc", 1..2));
        assert!(!pattern(r"\bb").matches_part(b"abc", 1..3));
        assert!(pattern("^a").matches_part(b"abc", 0..2));
        assert!(pattern("c$").matches_part(b"abc", 1..3));
    }

    #[test]
    fn every_line_must_be_as_wanted() {
        let comments = LinePattern::parse("^#").unwrap();
        assert!(comments.accepts_every_line(b"# a\n# b"));
        assert!(!comments.accepts_every_line(b"# a\n\n# b"));
        assert!(comments.accepts_every_line(b""));

        let none = LinePattern::parse("!^#").unwrap();
        assert!(none.accepts_every_line(b"a\nb\n"));
        assert!(!none.accepts_every_line(b"a\n#b\n"));
    }

    const EXPRESSIONS: &[&str] = &[
        "a",
        "^a",
        "a$",
        "^a$",
        "^$",
        "",
        "a.b",
        "a[^b]*b",
        r"a\s*b",
        r"\Aab",
        r"ab\z",
        "(?m)^b$",
        "(?s)a.b",
        r"a\nb",
        "a|b$",
        r"\bab\b",
        r"\Ba",
        "(a+)b?$",
        "(?i)AB",
        r"^\s*$",
        r"\r",
        r"a\r$",
        "(?R)(?m)^b",
        "(?-u)\\xff",
        "[^a]",
        "é",
        "$a",
        "^.?$",
        r"\w+\W",
        "a.+b",
        "\u{fffd}b",
        "(?i)É",
        r"[^\x00-\x7F]",
    ];

    const PIECES: &[&[u8]] = &[b"a", b"b", b"B", b" ", b"\n", b"\r", b"\r\n", b"\xff", b"\xc3\xa9"];

    proptest! {
        #[test]
        fn many_lines_at_once_give_the_answer_of_each_line_alone(
            expression in proptest::sample::select(EXPRESSIONS),
            content in proptest::collection::vec(proptest::sample::select(PIECES), 0..12),
        ) {
            let content = content.concat();

            let pattern = LinePattern::parse(if expression.is_empty() { "()" } else { expression }).unwrap();

            prop_assert!(pattern.lines.is_some());
            prop_assert_eq!(pattern.matches_a_line(&content), naive(expression, &content));
        }
    }
}
