//! Regular expressions as modules take them in questions: lists, of which one must match, and exceptions with `!`.

use regex::bytes::{Regex, RegexBuilder};

/// Most memory of one compiled regular expression, in bytes.
const MAX_EXPRESSION_BYTES: usize = 1 << 20;

/// Whether an expression matches a text. Where that is not UTF-8 each wrong byte counts as a character of its own,
/// U+FFFD, as in MIG: one of them must not hide a text from `.` or `[^a]`.
#[must_use]
pub fn is_match(expression: &Regex, text: &[u8]) -> bool {
    expression.is_match(text)
        || (std::str::from_utf8(text).is_err() && expression.is_match(with_replacements(text).as_bytes()))
}

fn with_replacements(text: &[u8]) -> String {
    let mut replaced = String::with_capacity(text.len());
    for chunk in text.utf8_chunks() {
        replaced.push_str(chunk.valid());
        replaced.extend(chunk.invalid().iter().map(|_| char::REPLACEMENT_CHARACTER));
    }
    replaced
}

/// Regular expressions of which one must match; those with `!` in front must not.
#[derive(Debug, Clone, Default)]
pub struct Expressions(Vec<(bool, Regex)>);

impl Expressions {
    /// Reads expressions; what is none is told in `problems`, with the key that it was given for.
    #[must_use]
    pub fn parse(key: &str, texts: &[String], problems: &mut Vec<String>) -> Self {
        let mut expressions = Vec::new();
        for text in texts {
            let (wanted, expression) =
                text.strip_prefix('!').map_or((true, text.as_str()), |rest| (false, rest));
            match RegexBuilder::new(expression).size_limit(MAX_EXPRESSION_BYTES).build() {
                Ok(expression) => expressions.push((wanted, expression)),
                Err(error) => {
                    problems.push(format!(
                        "parameter {key}: {expression:?} is not a regular expression: {error}"
                    ));
                }
            }
        }
        Self(expressions)
    }

    /// Whether a text is as wanted.
    #[must_use]
    pub fn matches(&self, text: &[u8]) -> bool {
        self.matches_one(std::iter::once(text))
    }

    /// Whether one of several texts is wanted, and none is an exception.
    #[must_use]
    pub fn matches_one<'t>(&self, texts: impl Iterator<Item = &'t [u8]> + Clone) -> bool {
        let (wanted, exceptions): (Vec<_>, Vec<_>) = self.0.iter().partition(|(wanted, _)| *wanted);
        let any = |expressions: &[&(bool, Regex)]| {
            texts.clone().any(|text| expressions.iter().any(|(_, expression)| is_match(expression, text)))
        };
        (wanted.is_empty() || any(&wanted)) && !any(&exceptions)
    }

    /// Whether a text that is as wanted could stop to be so when more is added to it.
    #[must_use]
    pub fn has_exceptions(&self) -> bool {
        self.0.iter().any(|(wanted, _)| !wanted)
    }

    /// Whether nothing is asked.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(texts: &[&str]) -> Expressions {
        let texts: Vec<String> = texts.iter().map(|text| (*text).to_owned()).collect();
        let mut problems = Vec::new();
        let expressions = Expressions::parse("name", &texts, &mut problems);
        assert!(problems.is_empty(), "{problems:?}");
        expressions
    }

    #[test]
    fn one_must_match_and_no_exception_may() {
        let some = read(&["^a", "b$", "!x"]);
        assert!(some.matches(b"a") && some.matches(b"\xffb") && !some.matches(b"c") && !some.matches(b"ax"));
        assert!(read(&["!x"]).matches(b"a") && read(&[]).matches(b"a") && read(&[]).is_empty());
        assert!(
            some.matches_one([&b"c"[..], b"a"].into_iter())
                && !some.matches_one([&b"x"[..], b"a"].into_iter())
        );
        assert!(!some.matches_one(std::iter::empty()) && read(&["!x"]).matches_one(std::iter::empty()));
    }

    #[test]
    fn a_byte_that_is_not_utf_8_hides_nothing() {
        for (expression, text) in [
            ("^/tmp/n.m$", &b"/tmp/n\xffm"[..]),
            ("^[^a]*$", b"\xfe\xff"),
            (r"^(?-u:\xff)m$", b"\xffm"),
            ("^é.$", b"\xc3\xa9\xff"),
        ] {
            assert!(read(&[expression]).matches(text), "{expression}");
            assert!(!read(&[&format!("!{expression}")]).matches(text), "{expression}");
        }
        assert!(!read(&["^n.m$"]).matches(b"n\xff\xffm"));
    }

    #[test]
    fn what_is_no_expression_is_told_with_its_key() {
        let mut problems = Vec::new();
        let _ =
            Expressions::parse("name", &["(".to_owned(), "((a{100}){100}){100}".to_owned()], &mut problems);
        assert_eq!(problems.len(), 2);
        assert!(problems[0].starts_with("parameter name: \"(\" is not"), "{problems:?}");
    }
}
