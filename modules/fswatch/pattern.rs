//! Wildcards in paths, on bytes: file names are not text.
//!
//! ```text
//! *      any characters of one name, also none and also a leading dot
//! ?      one character (one byte where the name is not UTF-8)
//! [a-z]  one character of these; [!a-z] and [^a-z] one of the others
//! **     as a whole name: any number of directories; at the end at least one name
//! {a,b}  one of these, also with / in them and nested
//! \      before one of * ? [ ] { } , \ takes its meaning away
//! ```
//!
//! A path is compared name by name with a set of states, and a name with one place to go back to, so that nothing
//! takes longer than the product of the lengths of pattern and path.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Longest pattern in bytes; longer than any path.
pub(crate) const MAX_PATTERN_BYTES: usize = 4096;

/// Most patterns that the braces of one may stand for.
pub(crate) const MAX_ALTERNATIVES: usize = 256;

/// Most names in one pattern: a bit for each state and one for the end fit into a word.
pub const MAX_NAMES: usize = 63;

/// Why a text is not a pattern.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadPattern {
    /// Nothing is left of it.
    #[error("is empty; give a name or an absolute path")]
    Empty,
    /// No path holds a NUL.
    #[error("{0:?} contains a NUL character, which no path can")]
    Nul(String),
    /// It is too long.
    #[error("has {0} bytes; a pattern has at most {MAX_PATTERN_BYTES}")]
    TooLong(usize),
    /// It has too many names.
    #[error("{0:?} has more than {MAX_NAMES} names; use ** for any number of directories")]
    TooDeep(String),
    /// A set is not closed, or holds a slash.
    #[error("{0:?} has a [ without its ] in the same name; write \\[ for the character itself")]
    OpenSet(String),
    /// A range goes backwards.
    #[error("{0:?} has a range whose end is before its beginning; write it the other way round")]
    BackwardRange(String),
    /// Braces are not closed.
    #[error("{0:?} has a {{ without its }}; write \\{{ for the character itself")]
    OpenBrace(String),
    /// Braces stand for too many patterns.
    #[error("{0:?} stands for more than {MAX_ALTERNATIVES} patterns; use fewer braces")]
    TooManyAlternatives(String),
}

/// Values from here on stand for single bytes that are not UTF-8.
const RAW_BYTE: u32 = 0x11_0000;

/// One thing that a name is compared with.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Unit {
    /// This character.
    Character(u32),
    /// Any one character.
    Any,
    /// Any characters.
    Many,
    /// A character inside (or outside) of these ranges.
    Set { negated: bool, ranges: Vec<(u32, u32)> },
}

/// What one name of a path is compared with. The common forms do without the general comparison.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Name {
    /// Exactly this.
    Literal(Box<[u8]>),
    /// `*.swp`
    Ending(Box<[u8]>),
    /// `sd*`
    Beginning(Box<[u8]>),
    /// Anything else.
    Units(Box<[Unit]>),
    /// `**`: any number of names.
    Directories,
}

/// Where a comparison stands: bit `i` when the first `i` names of the pattern are used up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct States(u64);

/// A pattern without braces: names, one after the other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern {
    names: Box<[Name]>,
}

/// The names of a path; empty ones and the root are left out.
pub(crate) fn names_of(path: &Path) -> impl Iterator<Item = &[u8]> {
    path.as_os_str().as_bytes().split(|byte| *byte == b'/').filter(|name| !name.is_empty())
}

/// Whether a text holds anything that makes it a pattern rather than one path.
#[must_use]
pub fn is_pattern(text: &str) -> bool {
    let mut escaped = false;
    text.chars().any(|c| match (escaped, c) {
        (true, _) => {
            escaped = false;
            false
        }
        (false, '\\') => {
            escaped = true;
            false
        }
        (false, c) => matches!(c, '*' | '?' | '[' | '{'),
    })
}

/// Takes the backslashes away that take the meaning of a character away.
#[must_use]
pub fn unescaped(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut characters = text.chars().peekable();
    while let Some(c) = characters.next() {
        match characters.peek() {
            Some(next) if c == '\\' && is_special(*next) => {
                plain.push(*next);
                characters.next();
            }
            _ => plain.push(c),
        }
    }
    plain
}

fn is_special(c: char) -> bool {
    matches!(c, '*' | '?' | '[' | ']' | '{' | '}' | ',' | '\\')
}

impl Pattern {
    /// Reads a text as all the patterns that its braces stand for. A slash at its beginning or end makes no
    /// difference here, `.` and `..` are resolved.
    ///
    /// # Errors
    /// What is wrong with the text.
    pub fn parse(text: &str) -> Result<Vec<Self>, BadPattern> {
        if text.len() > MAX_PATTERN_BYTES {
            return Err(BadPattern::TooLong(text.len()));
        }
        if text.contains('\0') {
            return Err(BadPattern::Nul(text.to_owned()));
        }
        let mut patterns = Vec::new();
        for alternative in without_braces(text)? {
            let pattern = Self::parse_one(&alternative, text)?;
            if !patterns.contains(&pattern) {
                patterns.push(pattern);
            }
        }
        Ok(patterns)
    }

    fn parse_one(alternative: &str, whole: &str) -> Result<Self, BadPattern> {
        let mut names = Vec::new();
        for name in alternative.split('/') {
            match name {
                "" | "." => {}
                ".." => _ = names.pop(),
                // Two in a row are one.
                "**" if names.last() == Some(&Name::Directories) => {}
                "**" => names.push(Name::Directories),
                name => names.push(Name::parse(name, whole)?),
            }
        }
        match names.len() {
            0 => Err(BadPattern::Empty),
            1..=MAX_NAMES => Ok(Self { names: names.into() }),
            _ => Err(BadPattern::TooDeep(whole.to_owned())),
        }
    }

    /// Splits off the names at the beginning that are plain; the rest may be `None`.
    #[must_use]
    pub fn split(&self) -> (Vec<&[u8]>, Option<Self>) {
        let mut base = Vec::new();
        for name in &self.names {
            match name {
                Name::Literal(name) => base.push(&**name),
                _ => break,
            }
        }
        let rest = &self.names[base.len()..];
        let rest = (!rest.is_empty()).then(|| Self { names: rest.into() });
        (base, rest)
    }

    /// Whether it is one name without `**`, which may stand anywhere.
    #[must_use]
    pub(crate) fn is_one_name(&self) -> bool {
        self.names.len() == 1 && self.names[0] != Name::Directories
    }

    /// Whether the first name matches this one.
    #[must_use]
    pub(crate) fn matches_name(&self, name: &[u8]) -> bool {
        self.names[0].matches(name)
    }

    /// The state before any name.
    #[must_use]
    pub fn start(&self) -> States {
        self.closed(1)
    }

    /// The state after one name more.
    #[must_use]
    pub fn step(&self, states: States, name: &[u8]) -> States {
        let mut next = 0;
        let mut rest = states.0 & !(1 << self.names.len());
        while rest != 0 {
            let at = rest.trailing_zeros() as usize;
            rest &= rest - 1;
            match &self.names[at] {
                Name::Directories if at + 1 == self.names.len() => next |= 1 << at | 1 << (at + 1),
                Name::Directories => next |= 1 << at,
                one if one.matches(name) => next |= 1 << (at + 1),
                _ => {}
            }
        }
        self.closed(next)
    }

    /// Adds the states that `**` reaches by standing for nothing.
    fn closed(&self, mut states: u64) -> States {
        for (at, name) in self.names.iter().enumerate() {
            if *name == Name::Directories && at + 1 < self.names.len() && states & 1 << at != 0 {
                states |= 1 << (at + 1);
            }
        }
        States(states)
    }

    /// Whether all names are used up.
    #[must_use]
    pub fn accepts(&self, states: States) -> bool {
        states.0 & 1 << self.names.len() != 0
    }

    /// Whether further names could be accepted.
    #[must_use]
    pub fn goes_on(&self, states: States) -> bool {
        states.0 & !(1 << self.names.len()) != 0
    }

    /// Whether the next name is compared with one name of the pattern, and not with `**`.
    #[must_use]
    pub(crate) fn is_definite(&self, states: States) -> bool {
        let is_any = |(at, name): (usize, &Name)| *name == Name::Directories && states.0 & 1 << at != 0;
        !self.names.iter().enumerate().any(is_any)
    }

    fn after<'a>(&self, names: impl Iterator<Item = &'a [u8]>) -> States {
        let mut states = self.start();
        for name in names {
            if states.0 == 0 {
                break;
            }
            states = self.step(states, name);
        }
        states
    }

    /// Whether the whole path matches.
    #[must_use]
    pub fn matches(&self, path: &Path) -> bool {
        self.accepts(self.after(names_of(path)))
    }

    /// Whether these names, or the first few of them, match.
    #[must_use]
    pub(crate) fn matches_beginning<'a>(&self, names: impl Iterator<Item = &'a [u8]>) -> bool {
        let mut states = self.start();
        for name in names {
            states = self.step(states, name);
            if self.accepts(states) {
                return true;
            }
            if states.0 == 0 {
                return false;
            }
        }
        false
    }
}

impl Name {
    fn parse(text: &str, whole: &str) -> Result<Self, BadPattern> {
        let mut units = Vec::new();
        let mut characters = text.chars().peekable();
        while let Some(c) = characters.next() {
            units.push(match c {
                // Several in a row are one.
                '*' if units.last() == Some(&Unit::Many) => continue,
                '*' => Unit::Many,
                '?' => Unit::Any,
                '[' => set(&mut characters, whole)?,
                '\\' => match characters.peek() {
                    Some(next) if is_special(*next) => {
                        let next = u32::from(*next);
                        characters.next();
                        Unit::Character(next)
                    }
                    _ => Unit::Character(u32::from(c)),
                },
                c => Unit::Character(u32::from(c)),
            });
        }
        let literal = |units: &[Unit]| -> Option<Box<[u8]>> {
            let mut text = String::new();
            for unit in units {
                let Unit::Character(c) = unit else { return None };
                text.push(char::from_u32(*c)?);
            }
            Some(text.into_bytes().into())
        };
        Ok(if let Some(text) = literal(&units) {
            Self::Literal(text)
        } else if let (Unit::Many, Some(text)) = (&units[0], literal(&units[1..])) {
            Self::Ending(text)
        } else if let (Unit::Many, Some(text)) = (&units[units.len() - 1], literal(&units[..units.len() - 1]))
        {
            Self::Beginning(text)
        } else {
            Self::Units(units.into())
        })
    }

    fn matches(&self, name: &[u8]) -> bool {
        match self {
            Self::Literal(text) => **text == *name,
            Self::Ending(text) => name.ends_with(text),
            Self::Beginning(text) => name.starts_with(text),
            Self::Units(units) => units_match(units, name, &mut 0),
            Self::Directories => true,
        }
    }
}

/// Reads a set after its `[`.
fn set(characters: &mut std::iter::Peekable<std::str::Chars<'_>>, whole: &str) -> Result<Unit, BadPattern> {
    let negated = characters.next_if(|c| matches!(c, '!' | '^')).is_some();
    // Each with whether it is a minus that makes a range.
    let mut members: Vec<(u32, bool)> = Vec::new();
    loop {
        let c = characters.next().ok_or_else(|| BadPattern::OpenSet(whole.to_owned()))?;
        match c {
            // At its beginning it stands for itself, as in a shell.
            ']' if !members.is_empty() => break,
            '\\' => match characters.next_if(|next| is_special(*next) || *next == '-') {
                Some(next) => members.push((u32::from(next), false)),
                None => members.push((u32::from(c), false)),
            },
            c => members.push((u32::from(c), c == '-')),
        }
    }
    let mut ranges = Vec::new();
    let mut rest = members.as_slice();
    while let [(from, _), after @ ..] = rest {
        match after {
            [(_, true), (to, _), after @ ..] => {
                if to < from {
                    return Err(BadPattern::BackwardRange(whole.to_owned()));
                }
                ranges.push((*from, *to));
                rest = after;
            }
            _ => {
                ranges.push((*from, *from));
                rest = after;
            }
        }
    }
    Ok(Unit::Set { negated, ranges })
}

/// The first character of a name and its length in bytes; a byte that is not UTF-8 counts as one.
fn character(bytes: &[u8]) -> Option<(u32, usize)> {
    let first = *bytes.first()?;
    let length = match first {
        0..=0x7f => return Some((u32::from(first), 1)),
        0xc2..=0xdf => 2,
        0xe0..=0xef => 3,
        0xf0..=0xf4 => 4,
        _ => 1,
    };
    let text = bytes.get(..length).and_then(|bytes| std::str::from_utf8(bytes).ok());
    match text.and_then(|text| text.chars().next()) {
        Some(c) => Some((u32::from(c), length)),
        None => Some((RAW_BYTE + u32::from(first), 1)),
    }
}

/// Compares a name; after a `*` only the last one is ever tried again, which is enough: whatever an earlier one
/// could take, the last one can take too. Counts its steps.
fn units_match(units: &[Unit], name: &[u8], steps: &mut usize) -> bool {
    let (mut unit, mut at) = (0, 0);
    let mut again: Option<(usize, usize)> = None;
    loop {
        *steps += 1;
        let next = character(&name[at..]);
        let fits = match (units.get(unit), next) {
            (Some(Unit::Many), _) => {
                again = Some((unit, at));
                unit += 1;
                continue;
            }
            (None, None) => return true,
            (None, Some(_)) | (Some(_), None) => None,
            (Some(Unit::Any), Some((_, length))) => Some(length),
            (Some(Unit::Character(wanted)), Some((found, length))) => (*wanted == found).then_some(length),
            (Some(Unit::Set { negated, ranges }), Some((found, length))) => {
                let inside = ranges.iter().any(|(from, to)| (*from..=*to).contains(&found));
                (inside != *negated).then_some(length)
            }
        };
        match (fits, again) {
            (Some(length), _) => {
                unit += 1;
                at += length;
            }
            (None, Some((star, from))) => {
                let Some((_, length)) = character(&name[from..]) else { return false };
                again = Some((star, from + length));
                unit = star + 1;
                at = from + length;
            }
            (None, None) => return false,
        }
    }
}

/// All texts that the braces of a text stand for; without braces itself.
fn without_braces(text: &str) -> Result<Vec<String>, BadPattern> {
    let mut open = vec![text.to_owned()];
    let mut done = Vec::new();
    while let Some(one) = open.pop() {
        match first_braces(&one, text)? {
            None => done.push(one),
            Some((before, alternatives, after)) => {
                // The last one is taken first: pushed in reverse, they come out in their order.
                for alternative in alternatives.iter().rev() {
                    open.push(format!("{before}{alternative}{after}"));
                }
            }
        }
        if open.len() + done.len() > MAX_ALTERNATIVES {
            return Err(BadPattern::TooManyAlternatives(text.to_owned()));
        }
    }
    Ok(done)
}

/// What is before the first braces, in them, and after them.
type Braces<'a> = (&'a str, Vec<&'a str>, &'a str);

fn first_braces<'a>(text: &'a str, whole: &str) -> Result<Option<Braces<'a>>, BadPattern> {
    let (mut depth, mut in_set, mut escaped) = (0_usize, false, false);
    let (mut start, mut from) = (0, 0);
    let mut alternatives = Vec::new();
    for (at, c) in text.char_indices() {
        if std::mem::take(&mut escaped) {
            continue;
        }
        match c {
            '\\' => escaped = true,
            '/' => in_set = false,
            // Braces inside of a set are characters.
            '[' => in_set = text[at..].split('/').next().is_some_and(|name| name.contains(']')),
            ']' => in_set = false,
            _ if in_set => {}
            '{' => {
                if depth == 0 {
                    (start, from) = (at, at + 1);
                }
                depth += 1;
            }
            ',' if depth == 1 => {
                alternatives.push(&text[from..at]);
                from = at + 1;
            }
            '}' if depth == 1 => {
                alternatives.push(&text[from..at]);
                return Ok(Some((&text[..start], alternatives, &text[at + 1..])));
            }
            '}' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    if depth > 0 { Err(BadPattern::OpenBrace(whole.to_owned())) } else { Ok(None) }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;

    use proptest::prelude::*;

    use super::*;

    fn matches(pattern: &str, path: &str) -> bool {
        Pattern::parse(pattern).unwrap().iter().any(|pattern| pattern.matches(Path::new(path)))
    }

    #[test]
    fn wildcards_match_inside_of_one_name() {
        for (pattern, path, expected) in [
            ("/home/*/.ssh/authorized_keys", "/home/ada/.ssh/authorized_keys", true),
            ("/home/*/.ssh/authorized_keys", "/home/.ssh/authorized_keys", false),
            ("/home/*/.ssh", "/home/a/b/.ssh", false),
            ("/etc/*", "/etc/.hidden", true),
            ("/etc/*", "/etc", false),
            ("/dev/sd?", "/dev/sda", true),
            ("/dev/sd?", "/dev/sd", false),
            ("/dev/sd?", "/dev/sdé", true),
            ("/dev/sd[a-c]", "/dev/sdb", true),
            ("/dev/sd[!a-c]", "/dev/sdb", false),
            ("/dev/sd[^a-c]", "/dev/sdz", true),
            ("/x/[]a]", "/x/]", true),
            ("/x/[a-]", "/x/-", true),
            (r"/x/[a\-c]", "/x/b", false),
            ("/x/[é-ü]", "/x/ö", true),
            ("/x/a*b*c", "/x/aXbXbXc", true),
            ("/x/a*b*c", "/x/aXcXb", false),
            ("/x/a*b*c", "/x/abc", true),
            (r"/x/\*", "/x/*", true),
            (r"/x/\*", "/x/y", false),
            (r"/x/a\b*", r"/x/a\bc", true),
        ] {
            assert_eq!(matches(pattern, path), expected, "{pattern} {path}");
        }
    }

    #[test]
    fn two_stars_stand_for_any_number_of_directories() {
        for (pattern, path, expected) in [
            ("/opt/**/bin", "/opt/bin", true),
            ("/opt/**/bin", "/opt/a/b/bin", true),
            ("/opt/**/bin", "/opt/a/bin/c", false),
            ("/**/x", "/x", true),
            ("/**/x", "/a/x", true),
            ("/opt/**", "/opt", false),
            ("/opt/**", "/opt/a/b", true),
            ("/a/**/**/b", "/a/b", true),
            ("/a/**/b/**/c", "/a/b/x/b/c", true),
            ("/a**", "/abc", true),
        ] {
            assert_eq!(matches(pattern, path), expected, "{pattern} {path}");
        }
    }

    #[test]
    fn braces_stand_for_each_of_their_texts() {
        for (pattern, path, expected) in [
            ("/etc/{passwd,shadow}", "/etc/shadow", true),
            ("/etc/{passwd,shadow}", "/etc/group", false),
            ("/{a/b,c}/d", "/a/b/d", true),
            ("/{a,b{c,d}}", "/bd", true),
            ("/x{,.bak}", "/x", true),
            ("/x/[{]", "/x/{", true),
            (r"/x/\{a,b\}", "/x/{a,b}", true),
        ] {
            assert_eq!(matches(pattern, path), expected, "{pattern} {path}");
        }
    }

    #[test]
    fn what_is_no_pattern_is_refused_with_its_reason() {
        let bad = |text: &str| Pattern::parse(text).unwrap_err();

        assert_eq!(bad(""), BadPattern::Empty);
        assert_eq!(bad("/./x/.."), BadPattern::Empty);
        assert!(matches!(bad("/a/[b"), BadPattern::OpenSet(_)));
        assert!(matches!(bad("/a/[b/c]"), BadPattern::OpenSet(_)));
        assert!(matches!(bad("/a/[z-a]"), BadPattern::BackwardRange(_)));
        assert!(matches!(bad("/a/{b,c"), BadPattern::OpenBrace(_)));
        assert!(matches!(bad(&"{a,b}".repeat(20)), BadPattern::TooManyAlternatives(_)));
        assert!(matches!(bad(&"/a".repeat(64)), BadPattern::TooDeep(_)));
        assert!(matches!(bad(&"a".repeat(5000)), BadPattern::TooLong(5000)));
        assert!(matches!(bad("a\0"), BadPattern::Nul(_)));
    }

    fn goes_on_below(pattern: &Pattern, directory: impl AsRef<Path>) -> bool {
        pattern.goes_on(pattern.after(names_of(directory.as_ref())))
    }

    #[test]
    fn a_directory_is_entered_only_when_something_below_could_match() {
        let patterns = Pattern::parse("/home/*/.config/systemd").unwrap();
        let below = |directory: &str| goes_on_below(&patterns[0], directory);

        assert!(below("/") && below("/home") && below("/home/ada") && below("/home/ada/.config"));
        assert!(!below("/home/ada/.config/systemd") && !below("/home/ada/.ssh") && !below("/etc"));
        assert!(goes_on_below(&Pattern::parse("/opt/**").unwrap()[0], "/opt/a/b"));
    }

    #[test]
    fn the_plain_beginning_is_told_apart() {
        let pattern = &Pattern::parse("/home/x/*/y").unwrap()[0];

        let (base, rest) = pattern.split();

        assert_eq!(base, [b"home".as_slice(), b"x"]);
        assert!(rest.unwrap().matches(Path::new("a/y")));
        assert!(Pattern::parse("/a/b").unwrap()[0].split().1.is_none());
    }

    #[test]
    fn names_that_are_not_utf8_match_byte_by_byte() {
        let path = Path::new(OsStr::from_bytes(b"/x/a\xff\xfeb"));

        assert!(Pattern::parse("/x/a??b").unwrap()[0].matches(path));
        assert!(Pattern::parse("/x/a*b").unwrap()[0].matches(path));
        assert!(Pattern::parse("/x/a[!z]?b").unwrap()[0].matches(path));
        assert!(!Pattern::parse("/x/a?b").unwrap()[0].matches(path));
    }

    #[test]
    fn escapes_are_taken_from_plain_paths() {
        assert!(is_pattern("/a/*") && is_pattern("/a{b") && !is_pattern(r"/a/\*") && !is_pattern("/a]"));
        assert_eq!(unescaped(r"/a/\*\[x\\y\z"), r"/a/*[x\y\z");
    }

    /// The same by trying everything; for short ones only.
    fn simple(units: &[Unit], name: &[u8]) -> bool {
        match units.split_first() {
            None => name.is_empty(),
            Some((Unit::Many, rest)) => (0..=name.len()).any(|skip| simple(rest, &name[skip..])),
            Some((Unit::Any, rest)) => !name.is_empty() && simple(rest, &name[1..]),
            Some((Unit::Character(c), rest)) => {
                name.first().is_some_and(|found| u32::from(*found) == *c) && simple(rest, &name[1..])
            }
            Some((Unit::Set { .. }, _)) => unreachable!("the strategy makes none"),
        }
    }

    proptest! {
        #[test]
        fn a_name_is_compared_in_bounded_steps(stars in 1_usize..40, name in "[ab]{0,255}") {
            let text = "a*".repeat(stars) + "c";
            let Ok(Name::Units(units)) = Name::parse(&text, &text) else { return Ok(()) };
            let mut steps = 0;

            units_match(&units, name.as_bytes(), &mut steps);

            prop_assert!(steps <= (units.len() + 1) * (name.len() + 2), "{steps}");
        }

        #[test]
        fn a_name_matches_as_when_everything_is_tried(pattern in "[ab*?]{1,8}", name in "[abc]{0,8}") {
            let parsed = Name::parse(&pattern, &pattern).unwrap();
            let units: Vec<Unit> = pattern.chars().map(|c| match c {
                '*' => Unit::Many,
                '?' => Unit::Any,
                c => Unit::Character(u32::from(c)),
            }).collect();

            prop_assert_eq!(parsed.matches(name.as_bytes()), simple(&units, name.as_bytes()));
        }

        #[test]
        fn any_text_is_a_pattern_or_refused_and_any_path_is_compared(
            text in "[a-c*?\\[\\]{},\\\\!/.\u{e9}-]{0,40}",
            path in prop::collection::vec(any::<u8>(), 0..60),
        ) {
            if let Ok(patterns) = Pattern::parse(&text) {
                let path = Path::new(OsStr::from_bytes(&path));
                for pattern in patterns {
                    if pattern.matches(path) {
                        for directory in path.ancestors().skip(1) {
                            prop_assert!(goes_on_below(&pattern, directory));
                        }
                    }
                }
            }
        }
    }
}
