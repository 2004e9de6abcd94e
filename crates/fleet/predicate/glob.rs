//! Patterns with `*` (any characters, also none) and `?` (one character), matched in linear time.
//!
//! The parts between the stars are looked for from the left, each behind the one before: the first place where a
//! part fits leaves the most for the rest, so nothing is ever tried twice.

/// Most characters of a part with `?` that stands between two stars: the bits of one word.
pub(super) const MAX_STRETCH_CHARACTERS: usize = 64;

/// A pattern, ready to be matched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Glob {
    /// The pattern as it was written.
    pattern: Box<str>,
    form: Form,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Form {
    /// Without a star.
    Whole(Anchored),
    /// `first*middle*middle*last`; first and last may be empty.
    Stars { first: Anchored, middle: Box<[Floating]>, last: Anchored },
}

impl Glob {
    /// Reads a pattern; `None` when a part with `?` between stars is longer than [`MAX_STRETCH_CHARACTERS`].
    pub(super) fn new(pattern: &str) -> Option<Self> {
        let mut parts = pattern.split('*');
        let first = Anchored::new(parts.next().unwrap_or_default());
        let form = match parts.next_back() {
            None => Form::Whole(first),
            Some(last) => Form::Stars {
                first,
                middle: parts.filter(|part| !part.is_empty()).map(Floating::new).collect::<Option<_>>()?,
                last: Anchored::new(last),
            },
        };
        Some(Self { pattern: pattern.into(), form })
    }

    pub(super) fn as_str(&self) -> &str {
        &self.pattern
    }

    pub(super) fn matches(&self, text: &str) -> bool {
        match &self.form {
            Form::Whole(part) => part.strip_start(text) == Some(""),
            Form::Stars { first, middle, last } => {
                let rest = first.strip_start(text).and_then(|rest| last.strip_end(rest));
                rest.and_then(|rest| middle.iter().try_fold(rest, |rest, part| part.behind(rest))).is_some()
            }
        }
    }
}

/// A part at the start or the end, which can fit at one place only.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Anchored {
    part: Box<str>,
    literal: bool,
}

impl Anchored {
    fn new(part: &str) -> Self {
        Self { part: part.into(), literal: !part.contains('?') }
    }

    /// What follows this part at the start of the text.
    fn strip_start<'t>(&self, text: &'t str) -> Option<&'t str> {
        if self.literal {
            return text.strip_prefix(&*self.part);
        }
        let mut rest = text.chars();
        let fits = self.part.chars().all(|wanted| rest.next().is_some_and(|c| wanted == '?' || wanted == c));
        fits.then_some(rest.as_str())
    }

    /// What precedes this part at the end of the text.
    fn strip_end<'t>(&self, text: &'t str) -> Option<&'t str> {
        if self.literal {
            return text.strip_suffix(&*self.part);
        }
        let mut rest = text.chars();
        let mut wanted = self.part.chars().rev();
        let fits = wanted.all(|wanted| rest.next_back().is_some_and(|c| wanted == '?' || wanted == c));
        fits.then_some(rest.as_str())
    }
}

/// A part between two stars, which is looked for.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Floating {
    Literal(Box<str>),
    Mixed(Mixed),
}

/// A part with `?`, for the algorithm Shift-And (Baeza-Yates and Gonnet, 1992): bit `i` of a word says that the
/// first `i + 1` characters fit what was just read.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Mixed {
    /// Where every character fits.
    any: u64,
    /// Where a certain character fits, sorted by character; `any` is included.
    places: Vec<(char, u64)>,
    /// The last character.
    end: u64,
}

impl Floating {
    fn new(part: &str) -> Option<Self> {
        if !part.contains('?') {
            return Some(Self::Literal(part.into()));
        }
        let length = part.chars().count();
        if length > MAX_STRETCH_CHARACTERS {
            return None;
        }
        let (mut any, mut places) = (0_u64, Vec::<(char, u64)>::new());
        for (place, wanted) in part.chars().enumerate() {
            let bit = 1_u64 << place;
            match places.binary_search_by_key(&wanted, |(c, _)| *c) {
                _ if wanted == '?' => any |= bit,
                Ok(known) => places[known].1 |= bit,
                Err(new) => places.insert(new, (wanted, bit)),
            }
        }
        for (_, bits) in &mut places {
            *bits |= any;
        }
        Some(Self::Mixed(Mixed { any, places, end: 1 << (length - 1) }))
    }

    /// What follows the first place in the text where this part fits.
    fn behind<'t>(&self, text: &'t str) -> Option<&'t str> {
        match self {
            // The standard library's search is linear, too (Crochemore and Perrin, 1991).
            Self::Literal(part) => text.find(&**part).map(|at| &text[at + part.len()..]),
            Self::Mixed(mixed) => {
                let mut state = 0_u64;
                let mut rest = text.chars();
                while let Some(c) = rest.next() {
                    let place = mixed.places.binary_search_by_key(&c, |(c, _)| *c);
                    let fits = place.map_or(mixed.any, |place| mixed.places[place].1);
                    state = (state << 1 | 1) & fits;
                    if state & mixed.end != 0 {
                        return Some(rest.as_str());
                    }
                }
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn matches(pattern: &str, text: &str) -> bool {
        Glob::new(pattern).unwrap().matches(text)
    }

    /// The definition, in quadratic time.
    fn by_definition(pattern: &[char], text: &[char]) -> bool {
        let mut row: Vec<bool> = (0..=text.len()).map(|i| i == 0).collect();
        for wanted in pattern {
            let mut next = vec![false; text.len() + 1];
            for i in 0..=text.len() {
                next[i] = match wanted {
                    '*' => row[i] || (i > 0 && next[i - 1]),
                    '?' => i > 0 && row[i - 1],
                    c => i > 0 && row[i - 1] && text[i - 1] == *c,
                };
            }
            row = next;
        }
        row[text.len()]
    }

    #[test]
    fn patterns_match_whole_texts() {
        for (pattern, text) in [
            ("", ""),
            ("*", ""),
            ("**", "anything"),
            ("web-*", "web-"),
            ("web-??", "web-01"),
            ("*.example.org", "a.example.org"),
            ("a*b*c", "abbc"),
            ("*a?c*", "aabcac"),
            ("?", "é"),
            ("*é?*", "aéb"),
        ] {
            assert!(matches(pattern, text), "{pattern} and {text}");
        }
        for (pattern, text) in [
            ("", "a"),
            ("web-*", "web"),
            ("web-??", "web-1"),
            ("ab*ba", "aba"),
            ("a*b*c", "acb"),
            ("?", ""),
            ("A", "a"),
            ("*a?c*", "acac"),
        ] {
            assert!(!matches(pattern, text), "{pattern} and {text}");
        }
    }

    #[test]
    fn a_part_with_question_marks_has_its_limit() {
        let longest = "?".repeat(MAX_STRETCH_CHARACTERS);
        assert!(matches(&format!("*{longest}*"), &"x".repeat(64)));
        assert!(!matches(&format!("*{longest}*"), &"x".repeat(63)));
        assert!(Glob::new(&format!("*{longest}?*")).is_none());
        // At an end there is nothing to look for, so no limit is needed.
        assert!(matches(&format!("{longest}?*"), &"x".repeat(65)));
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

        #[test]
        fn the_search_agrees_with_the_definition(pattern in "[ab*?é]{0,12}", text in "[abé]{0,14}") {
            let expected =
                by_definition(&pattern.chars().collect::<Vec<_>>(), &text.chars().collect::<Vec<_>>());
            prop_assert_eq!(matches(&pattern, &text), expected);
        }
    }
}
