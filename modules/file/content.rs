//! What the content of one file says to the searches that ask about it.
//!
//! The bytes come in pieces, once, and answer every expression and digest of every search. Lines that go over the
//! end of a piece are put together again.

use std::borrow::Cow;

use crate::digest::{Algorithm, Algorithms, Digests, Hashers};
use crate::parameters::{Check, Search, Test};

/// Longest line that is matched as a whole, in bytes. A longer one is matched in parts of about this length, so
/// that a file without line feeds does not fill the memory.
pub const MAX_LINE_BYTES: usize = 1 << 20;

/// So many first bytes of a file tell whether it begins with a byte order mark.
const MARK_BYTES: usize = 4;

/// By how much the parts of a line that is too long overlap, so that little is missed where it is cut.
const OVERLAP_BYTES: usize = 64 * 1024;

/// What one search asks about one file whose name and metadata passed.
#[derive(Debug)]
pub struct Question<'s> {
    /// Its place among the searches.
    pub index: usize,
    search: &'s Search,
    /// The filters that passed already, by their places; for searches that do not need all to pass.
    passed: Vec<usize>,
    /// Which of its content expressions matched a line.
    found: Vec<bool>,
    /// A line is not as the option `macroal` wants it.
    violated: bool,
    /// The file is not what the search looks for.
    refused: bool,
}

/// A search that wants the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The search's place among the searches.
    pub index: usize,
    /// Which filters passed, by their places; `None` when all had to.
    pub passed: Option<Vec<usize>>,
    /// The file's SHA-256, when it was asked for and the file could be read.
    pub sha256: Option<Box<[u8]>>,
}

impl<'s> Question<'s> {
    /// A question of the search at place `index`, `passed` of whose filters passed already.
    #[must_use]
    pub fn new(index: usize, search: &'s Search, passed: Vec<usize>) -> Self {
        let found = vec![false; search.contents().1.len()];
        Self { index, search, passed, found, violated: false, refused: false }
    }

    /// What it was made of, when nothing was read yet.
    #[must_use]
    pub(crate) fn into_parts(self) -> (usize, Vec<usize>) {
        (self.index, self.passed)
    }

    /// The largest file that the search reads, in bytes.
    #[must_use]
    pub(crate) fn max_read(&self) -> u64 {
        self.search.options.max_read
    }

    /// Whether the search looks into compressed files.
    #[must_use]
    pub(crate) fn decompresses(&self) -> bool {
        self.search.options.decompress
    }

    /// Whether more lines could change what is known.
    fn wants_lines(&self) -> bool {
        !self.refused && !self.is_settled()
    }

    fn is_settled(&self) -> bool {
        if self.search.options.macroal {
            self.violated || self.found.is_empty()
        } else {
            self.found.iter().all(|found| *found)
        }
    }

    /// Which digests the answer needs.
    fn algorithms(&self) -> Algorithms {
        let mut algorithms = Algorithms::default();
        if !self.refused {
            algorithms.extend(self.search.digest_algorithms);
            if self.search.options.return_sha256 {
                algorithms.insert(Algorithm::Sha256);
            }
        }
        algorithms
    }

    /// Takes whole lines, or a part of one.
    fn take_lines(&mut self, lines: &Piece<'_>) {
        let macroal = self.search.options.macroal;
        for (check, found) in self.search.contents().1.iter().zip(&mut self.found) {
            let Test::Content(pattern) = &check.test else { continue };
            if macroal {
                // The bytes of a text that is decoded are no lines of their own.
                let counts = !(lines.is_raw_of_decoded);
                self.violated = self.violated || (counts && !pattern.accepts_every_line(lines.bytes));
            } else if !*found {
                *found = match lines.range() {
                    None => pattern.matches_a_line(lines.bytes),
                    Some(range) => pattern.matches_part(lines.bytes, range),
                };
            }
        }
        if self.search.options.match_all {
            let known = |place: usize| if macroal { self.violated } else { self.found[place] };
            let fails = |place: usize, check| known(place) && !self.content_passes(place, check);
            self.refused =
                self.search.contents().1.iter().enumerate().any(|(place, check)| fails(place, check));
        }
    }

    /// Whether a content filter passes, by what is known so far.
    fn content_passes(&self, place: usize, check: &Check) -> bool {
        let raw = match &check.test {
            _ if self.search.options.macroal => !self.violated,
            Test::Content(pattern) => self.found[place] != pattern.is_negated(),
            _ => false,
        };
        raw != check.mismatch
    }

    /// There are no more lines.
    fn end_lines(&mut self) {
        if self.search.options.match_all {
            let mut contents = self.search.contents().1.iter().enumerate();
            self.refused = self.refused || contents.any(|(place, check)| !self.content_passes(place, check));
        }
    }

    /// The answer. When the file was not read `complete`, only what is known for certain counts.
    fn answer(self, digests: &Digests, complete: bool) -> Option<Answer> {
        let digest_passes = |check: &Check| match &check.test {
            Test::Digest(algorithm, wanted) => {
                digests.get(*algorithm).is_some_and(|found| (found == &**wanted) != check.mismatch)
            }
            Test::AnyDigest(wanted) => {
                let is_any = digests.iter().any(|found| wanted.contains(found));
                !digests.is_empty() && is_any != check.mismatch
            }
            _ => false,
        };
        let content_passes = |place: usize, check: &Check| {
            let known =
                complete || if self.search.options.macroal { self.violated } else { self.found[place] };
            known && self.content_passes(place, check)
        };
        let (first_content, contents) = self.search.contents();
        let (first_digest, digest_checks) = self.search.digests();
        if self.search.options.match_all {
            let passes = !self.refused
                && contents.iter().enumerate().all(|(place, check)| content_passes(place, check))
                && digest_checks.iter().all(digest_passes);
            if !passes {
                return None;
            }
        }
        let passed = (!self.search.options.match_all).then(|| {
            let contents = contents.iter().enumerate().filter(|(place, check)| content_passes(*place, check));
            let digests = digest_checks.iter().enumerate().filter(|(_, check)| digest_passes(check));
            let mut passed = self.passed.clone();
            passed.extend(contents.map(|(place, _)| first_content + place));
            passed.extend(digests.map(|(place, _)| first_digest + place));
            passed
        });
        if passed.as_ref().is_some_and(Vec::is_empty) {
            return None;
        }
        let sha256 = self.search.options.return_sha256.then(|| digests.get(Algorithm::Sha256)).flatten();
        Some(Answer { index: self.index, passed, sha256: sha256.map(Into::into) })
    }
}

/// Whole lines, or a part of a line that is too long.
struct Piece<'b> {
    bytes: &'b [u8],
    /// The first byte belongs to what was given before.
    cut_before: bool,
    /// The line goes on, and the last byte will be given again.
    cut_after: bool,
    /// These are the bytes of a text that is given decoded as well.
    is_raw_of_decoded: bool,
}

impl Piece<'_> {
    /// The bytes to match, when they are not all.
    fn range(&self) -> Option<std::ops::Range<usize>> {
        if !self.cut_before && !self.cut_after {
            return None;
        }
        let line = self.bytes.strip_suffix(b"\n").unwrap_or(self.bytes);
        let line = line.strip_suffix(b"\r").filter(|_| !self.cut_after).unwrap_or(line);
        let start = usize::from(self.cut_before).min(line.len());
        let end = line.len() - usize::from(self.cut_after && line.len() > start);
        Some(start..end)
    }
}

/// Cuts bytes into lines.
#[derive(Default)]
struct Lines {
    /// The beginning of a line whose end has not come.
    line: Vec<u8>,
    /// Its own beginning was given already.
    is_continued: bool,
    has_long_line: bool,
}

impl Lines {
    /// Gives the lines that the next bytes make whole.
    fn take(&mut self, mut bytes: &[u8], last: bool, mut give: impl FnMut(&[u8], bool, bool)) {
        if !self.line.is_empty() {
            let end = memchr::memchr(b'\n', bytes).map_or(bytes.len(), |at| at + 1);
            self.line.extend_from_slice(&bytes[..end]);
            bytes = &bytes[end..];
            if self.line.ends_with(b"\n") || (last && bytes.is_empty()) {
                give(&self.line, self.is_continued, false);
                self.line.clear();
                self.is_continued = false;
            }
        }
        if self.line.is_empty() {
            let end = if last { bytes.len() } else { memchr::memrchr(b'\n', bytes).map_or(0, |at| at + 1) };
            if end > 0 {
                give(&bytes[..end], false, false);
            }
            self.line.extend_from_slice(&bytes[end..]);
        }
        if self.line.len() > MAX_LINE_BYTES {
            give(&self.line, self.is_continued, true);
            self.has_long_line = true;
            self.is_continued = true;
            self.line.drain(..self.line.len() - OVERLAP_BYTES);
        }
    }
}

/// How a text is written that begins with a byte order mark.
#[derive(Clone, Copy)]
enum Encoding {
    /// So many bytes of the mark are left.
    Utf8(usize),
    Utf16 {
        big_endian: bool,
    },
}

/// Decodes a text with a byte order mark, which comes in pieces.
struct Marked {
    encoding: Encoding,
    /// Bytes of a character that is not whole.
    pending: Vec<u8>,
    lines: Lines,
}

impl Marked {
    /// When the first bytes of a file say that it is such a text.
    fn of(start: &[u8]) -> Option<Self> {
        let encoding = match start {
            // Its first two bytes also begin UTF-32.
            [0xff, 0xfe, 0, 0, ..] => return None,
            [0xff, 0xfe, ..] => Encoding::Utf16 { big_endian: false },
            [0xfe, 0xff, ..] => Encoding::Utf16 { big_endian: true },
            [0xef, 0xbb, 0xbf, ..] => Encoding::Utf8(3),
            _ => return None,
        };
        Some(Self { encoding, pending: Vec::new(), lines: Lines::default() })
    }

    /// The text without its mark.
    fn decode<'b>(&mut self, bytes: &'b [u8], last: bool) -> Cow<'b, [u8]> {
        match &mut self.encoding {
            Encoding::Utf8(mark) => {
                let text = bytes.get(*mark..).unwrap_or_default();
                *mark = mark.saturating_sub(bytes.len());
                Cow::Borrowed(text)
            }
            Encoding::Utf16 { big_endian } => {
                let big_endian = *big_endian;
                Cow::Owned(self.decode_utf16(big_endian, bytes, last).into_bytes())
            }
        }
    }

    fn decode_utf16(&mut self, big_endian: bool, bytes: &[u8], last: bool) -> String {
        self.pending.extend_from_slice(bytes);
        let unit =
            |pair: &[u8; 2]| if big_endian { u16::from_be_bytes(*pair) } else { u16::from_le_bytes(*pair) };
        let (pairs, _) = self.pending.as_chunks::<2>();
        let mut whole = pairs.len();
        // The first half of a pair of surrogates waits for the second.
        if !last && pairs.last().is_some_and(|pair| (0xd800..0xdc00).contains(&unit(pair))) {
            whole -= 1;
        }
        let text = char::decode_utf16(pairs[..whole].iter().map(unit))
            .map(|character| character.unwrap_or(char::REPLACEMENT_CHARACTER))
            .filter(|character| *character != '\u{feff}')
            .collect();
        self.pending.drain(..whole * 2);
        text
    }
}

/// The reading of one file for all searches that ask about its content.
#[derive(Default)]
pub(crate) struct Examination<'s> {
    questions: Vec<Question<'s>>,
    hashers: Hashers,
    lines: Lines,
    /// The same text decoded, when it begins with a byte order mark.
    decoded: Option<Marked>,
    /// The first bytes, until there are enough of them to tell.
    start: Vec<u8>,
    has_begun: bool,
}

impl<'s> Examination<'s> {
    /// Begins to read a file.
    #[must_use]
    pub(crate) fn new(questions: Vec<Question<'s>>) -> Self {
        let hashers = Hashers::new(algorithms(&questions));
        Self { questions, hashers, ..Self::default() }
    }

    /// Whether the rest of the file cannot change any answer.
    #[must_use]
    pub(crate) fn is_done(&self) -> bool {
        !self.wants_lines() && algorithms(&self.questions).is_empty()
    }

    /// Whether there is a line that was matched in parts.
    #[must_use]
    pub(crate) fn has_long_line(&self) -> bool {
        self.lines.has_long_line || self.decoded.as_ref().is_some_and(|decoded| decoded.lines.has_long_line)
    }

    fn wants_lines(&self) -> bool {
        self.questions.iter().any(Question::wants_lines)
    }

    /// Takes the next bytes of the file, which may be its `last`.
    pub(crate) fn take(&mut self, bytes: &[u8], last: bool) {
        if !self.has_begun {
            self.start.extend_from_slice(bytes);
            let may_be_mark = matches!(self.start.first(), None | Some(0xff | 0xfe | 0xef));
            if self.start.len() >= MARK_BYTES || last || !may_be_mark {
                self.has_begun = true;
                self.decoded = Marked::of(&self.start);
                let start = std::mem::take(&mut self.start);
                self.take(&start, last);
            }
            return;
        }
        if self.wants_lines() {
            self.take_lines(bytes, last);
        } else {
            self.lines = Lines::default();
        }
        if last {
            self.questions.iter_mut().for_each(Question::end_lines);
        }
        self.hashers.update(bytes, algorithms(&self.questions));
    }

    /// Takes a hole of a sparse file, which reads as so many zeros. Lines need to know only that there is one; a
    /// digest is of all of them. Ends early when `stop` says so, and then tells `false`.
    pub(crate) fn take_hole(&mut self, length: u64, last: bool, stop: impl Fn() -> bool) -> bool {
        const ZEROS: [u8; 16 * 1024] = [0; 16 * 1024];
        let shown = usize::try_from(length).unwrap_or(usize::MAX).min(ZEROS.len());
        self.take(&ZEROS[..shown], last);
        let mut left = length - shown as u64;
        while left > 0 {
            let wanted = algorithms(&self.questions);
            if wanted.is_empty() {
                break;
            }
            if stop() {
                return false;
            }
            let length = usize::try_from(left).unwrap_or(usize::MAX).min(ZEROS.len());
            self.hashers.update(&ZEROS[..length], wanted);
            left -= length as u64;
        }
        true
    }

    fn take_lines(&mut self, bytes: &[u8], last: bool) {
        let Self { questions, lines, decoded, .. } = self;
        let is_raw_of_decoded = decoded.is_some();
        lines.take(bytes, last, |bytes, cut_before, cut_after| {
            give(questions, &Piece { bytes, cut_before, cut_after, is_raw_of_decoded });
        });
        if let Some(decoded) = decoded {
            let text = decoded.decode(bytes, last);
            decoded.lines.take(&text, last, |bytes, cut_before, cut_after| {
                give(questions, &Piece { bytes, cut_before, cut_after, is_raw_of_decoded: false });
            });
        }
    }

    /// Ends with the searches that want the file. When it was not read to its end, and [`Examination::is_done`]
    /// does not say that it was read far enough, only what is known for certain counts.
    #[must_use]
    pub(crate) fn finish(self, at_end: bool) -> Vec<Answer> {
        let complete = at_end || self.is_done();
        let digests = if at_end { self.hashers.finish() } else { Digests::default() };
        self.questions.into_iter().filter_map(|question| question.answer(&digests, complete)).collect()
    }
}

fn give(questions: &mut [Question<'_>], lines: &Piece<'_>) {
    if !lines.bytes.is_empty() {
        for question in questions.iter_mut().filter(|question| question.wants_lines()) {
            question.take_lines(lines);
        }
    }
}

fn algorithms(questions: &[Question<'_>]) -> Algorithms {
    questions.iter().fold(Algorithms::default(), |mut all, question| {
        all.extend(question.algorithms());
        all
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;
    use crate::parameters::parse;

    fn search(fields: Value) -> Search {
        let mut fields = fields;
        fields["paths"] = json!(["/"]);
        let raw = serde_json::value::to_raw_value(&json!({"searches": {"a": fields}})).unwrap();
        parse(Some(&raw), 0).unwrap().remove(0)
    }

    fn examine(search: &Search, pieces: &[&[u8]]) -> Option<Answer> {
        let mut examination = Examination::new(vec![Question::new(0, search, Vec::new())]);
        for piece in pieces {
            examination.take(piece, false);
        }
        examination.take(&[], true);
        examination.finish(true).pop()
    }

    fn is_wanted(fields: Value, content: &[u8]) -> bool {
        examine(&search(fields), &[content]).is_some()
    }

    #[test]
    fn all_content_expressions_must_match_some_line() {
        let both = json!({"contents": ["^a", "b$"], "options": {"matchall": true}});

        assert!(is_wanted(both.clone(), b"xb\nax\n"));
        assert!(!is_wanted(both.clone(), b"ax\n"));
        assert!(!is_wanted(both, b""));
    }

    #[test]
    fn a_text_with_a_byte_order_mark_is_read_as_one() {
        let encode = |text: &str, big: bool| -> Vec<u8> {
            let units = std::iter::once(0xfeff).chain(text.encode_utf16());
            units.flat_map(|unit| if big { unit.to_be_bytes() } else { unit.to_le_bytes() }).collect()
        };
        let wanted =
            search(json!({"contents": ["^pass\u{1f600}word: .{3}$"], "options": {"matchall": true}}));
        let every = search(json!({"contents": ["^[a-z]+$"], "options": {"matchall": true, "macroal": true}}));
        for big in [false, true] {
            let text = encode("x\r\npass\u{1f600}word: abc\r\ny", big);
            for cut in 1..text.len() {
                assert!(examine(&wanted, &[&text[..cut], &text[cut..]]).is_some(), "{big} {cut}");
            }
            assert!(examine(&every, &[&encode("abc\ndef\n", big)]).is_some());
            assert!(examine(&every, &[&encode("abc\n1\n", big)]).is_none());
        }
        let first = search(json!({"contents": ["^needle$"], "options": {"matchall": true}}));
        let text = b"\xef\xbb\xbfneedle\nx";
        for cut in 1..text.len() {
            assert!(examine(&first, &[&text[..cut], &text[cut..]]).is_some(), "{cut}");
        }
        assert!(examine(&every, &[b"\xef\xbb\xbfabc\ndef\n"]).is_some());
        let mark = search(json!({"contents": ["^\u{feff}needle$"], "options": {"matchall": true}}));
        assert!(examine(&mark, &[text]).is_some());
        // The mark alone hides nothing.
        let plain = search(json!({"contents": ["needle"], "options": {"matchall": true}}));
        assert!(examine(&plain, &[b"\xff\xfeneedle"]).is_some());
    }

    #[test]
    fn a_line_that_is_cut_neither_starts_nor_ends_there() {
        let mut content = vec![b'b'; 3 << 20];
        content[0] = b'a';
        for (expression, expected) in
            [("^b", false), ("a$", false), ("^ab", true), ("b$", true), ("bb", true)]
        {
            let search = search(json!({"contents": [expression], "options": {"matchall": true}}));
            for size in [1000, 70_000, 1 << 20, 3 << 20] {
                let pieces: Vec<&[u8]> = content.chunks(size).collect();
                assert_eq!(examine(&search, &pieces).is_some(), expected, "{expression} {size}");
            }
        }
    }

    #[test]
    fn a_hole_is_zeros_for_digests_and_no_end_of_a_line() {
        let asked =
            search(json!({"contents": ["^a\\x00+b$"], "options": {"matchall": true, "returnsha256": true}}));
        let mut with_hole = Examination::new(vec![Question::new(0, &asked, Vec::new())]);
        let mut without = Examination::new(vec![Question::new(0, &asked, Vec::new())]);

        with_hole.take(b"a", false);
        assert!(with_hole.take_hole(100_000, false, || false));
        with_hole.take(b"b", true);
        without.take(&[&b"a"[..], &[0; 100_000], b"b"].concat(), true);

        let (with_hole, without) = (with_hole.finish(true), without.finish(true));
        assert_eq!(with_hole, without);
        assert!(with_hole[0].sha256.is_some());
    }

    #[test]
    fn a_negated_expression_may_match_no_line() {
        let without = json!({"contents": ["^a", "!b"], "options": {"matchall": true}});

        assert!(is_wanted(without.clone(), b"a\nc"));
        assert!(!is_wanted(without.clone(), b"a\nb"));
        assert!(!is_wanted(without, b"c"));
    }

    #[test]
    fn mismatch_turns_the_content_filter_round() {
        let neither =
            json!({"contents": ["a", "!b"], "options": {"matchall": true, "mismatch": ["content"]}});

        assert!(is_wanted(neither.clone(), b"b"));
        assert!(!is_wanted(neither.clone(), b"c"));
        assert!(!is_wanted(neither, b"a\nb"));
    }

    #[test]
    fn macroal_wants_every_line() {
        let keys = json!({"contents": ["^(#.*|key1|key2)$"], "options": {"matchall": true, "macroal": true}});
        let rogue = json!({
            "contents": ["^(#.*|key1|key2)$"],
            "options": {"matchall": true, "macroal": true, "mismatch": ["content"]}
        });
        for (content, all_known) in [
            (&b"# mine\nkey1\nkey2\n"[..], true),
            (b"key1\nevil\n", false),
            (b"key1\n\nkey2", false),
            (b"", true),
        ] {
            assert_eq!(is_wanted(keys.clone(), content), all_known, "{content:?}");
            assert_eq!(is_wanted(rogue.clone(), content), !all_known, "{content:?}");
        }
    }

    #[test]
    fn macroal_wants_all_expressions_on_every_line() {
        let both = json!({"contents": ["a", "!b"], "options": {"matchall": true, "macroal": true}});

        assert!(is_wanted(both.clone(), b"a\nca\n"));
        assert!(!is_wanted(both.clone(), b"a\nab\n"));
        assert!(!is_wanted(both, b"a\nc\n"));
    }

    #[test]
    fn without_matchall_each_filter_answers_alone() {
        let any = search(json!({"contents": ["a", "!b", "c"], "md5": ["900150983cd24fb0d6963f7d28e17f72"]}));

        assert_eq!(examine(&any, &[b"abc"]).unwrap().passed, Some(vec![0, 2, 3]));
        assert_eq!(examine(&any, &[b"x"]).unwrap().passed, Some(vec![1]));
        assert_eq!(examine(&any, &[b"b"]), None);
    }

    #[test]
    fn digests_can_be_turned_round() {
        let abc = "900150983cd24fb0d6963f7d28e17f72";
        let same = json!({"md5": [abc], "options": {"matchall": true}});
        let other = json!({"md5": [abc], "options": {"matchall": true, "mismatch": ["md5"]}});

        assert!(is_wanted(same.clone(), b"abc") && !is_wanted(same, b"abd"));
        assert!(!is_wanted(other.clone(), b"abc") && is_wanted(other, b"abd"));
    }

    #[test]
    fn the_sha256_of_what_matches_is_returned() {
        let asked = search(json!({"contents": ["a"], "options": {"matchall": true, "returnsha256": true}}));

        let answer = examine(&asked, &[b"x\n", b"ab", b"c"]).unwrap();

        assert_eq!(
            crate::digest::hexadecimal(&answer.sha256.unwrap()),
            "80A9F8DA6631567EB7E638DAA19DEE7540089F69C392200EB6603A10B68CE7D6"
        );
        assert_eq!(examine(&asked, &[b"x"]), None);
    }

    #[test]
    fn reading_ends_when_nothing_can_change() {
        let asked = search(json!({"contents": ["a"], "options": {"matchall": true}}));
        let mut examination = Examination::new(vec![Question::new(0, &asked, Vec::new())]);
        assert!(!examination.is_done());

        examination.take(b"xa\n", false);

        assert!(examination.is_done());
        assert_eq!(examination.finish(false).len(), 1);
    }

    #[test]
    fn a_file_that_cannot_be_read_to_its_end_answers_only_what_is_certain() {
        let finish = |fields: Value, content: &[u8], passed: Vec<usize>| {
            let asked = search(fields);
            let mut examination = Examination::new(vec![Question::new(0, &asked, passed)]);
            examination.take(content, false);
            examination.finish(false).pop()
        };
        let all = json!({"matchall": true});

        assert!(finish(json!({"contents": ["a"], "options": all}), b"a\n", vec![]).is_some());
        assert!(finish(json!({"contents": ["!a"], "options": all}), b"b\n", vec![]).is_none());
        assert!(
            finish(json!({"md5": ["0".repeat(32)], "options": {"mismatch": ["md5"]}}), b"b\n", vec![])
                .is_none()
        );
        let named = finish(json!({"names": ["x"], "contents": ["!a", "b"]}), b"b\n", vec![0]).unwrap();
        assert_eq!(named.passed, Some(vec![0, 2]));
        let named = finish(
            json!({"names": ["x"], "options": {"matchall": true, "returnsha256": true}}),
            b"b",
            vec![],
        );
        assert_eq!(named.unwrap().sha256, None);
    }

    #[test]
    fn a_line_that_is_too_long_is_matched_in_parts_with_bounded_memory() {
        let asked = search(json!({"contents": ["needle"], "options": {"matchall": true}}));
        let mut examination = Examination::new(vec![Question::new(0, &asked, Vec::new())]);
        let piece = vec![b'x'; 100_000];
        // The word lies across the place where the first part ends.
        for _ in 0..MAX_LINE_BYTES / piece.len() {
            examination.take(&piece, false);
        }
        examination.take(&vec![b'x'; MAX_LINE_BYTES % piece.len() - 2], false);
        examination.take(b"need", false);
        assert!(examination.has_long_line());
        examination.take(b"le", false);
        for _ in 0..100 {
            examination.take(&piece, false);
            assert!(examination.lines.line.len() <= MAX_LINE_BYTES + piece.len());
        }

        examination.take(&[], true);

        assert_eq!(examination.finish(true).len(), 1);
    }

    proptest! {
        #[test]
        fn how_the_bytes_are_cut_changes_nothing(
            content in proptest::collection::vec(proptest::sample::select(&b"ab\n\n\r"[..]), 0..40),
            cuts in proptest::collection::vec(0_usize..40, 0..6),
            macroal in any::<bool>(),
            match_all in any::<bool>(),
            mismatch in any::<bool>(),
        ) {
            let mismatch = if mismatch { json!(["content"]) } else { json!([]) };
            let asked = search(json!({
                "contents": ["^ab?$", "!bb", "^$"], "sha1": ["0".repeat(40)],
                "options": {"matchall": match_all, "macroal": macroal, "returnsha256": true, "mismatch": mismatch}
            }));
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(content.len())).collect();
            cuts.extend([0, content.len()]);
            cuts.sort_unstable();
            let pieces: Vec<&[u8]> = cuts.windows(2).map(|ends| &content[ends[0]..ends[1]]).collect();

            let mut whole = Examination::new(vec![Question::new(0, &asked, Vec::new())]);
            whole.take(&content, true);

            prop_assert_eq!(examine(&asked, &pieces), whole.finish(true).pop());
        }
    }
}
