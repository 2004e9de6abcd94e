//! The lines of a segment: making them, reading them, and finding them again after damage. Pure.
//!
//! Each line is a JSON object that ends with `,"p":"XXXXXXXX","c":"XXXXXXXX"}`: `c` is the CRC-32 of the line up to
//! `,"c"`, and `p` is the `c` of the record before. So a damaged line is known by itself, and condemns no neighbour;
//! whether a record is missing between two good ones is known from the later one's `p` and number. Journals of before
//! version 2 have neither.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::LazyLock;

use memchr::memmem::Finder;
use serde::{Deserialize, Serialize};
use vigie_protocol::severity::Severity;

use crate::chain::{Digest, Digests, Head, Parts};
use crate::contents::{Contents, Tally};

/// Version of the format that is written.
pub(crate) const VERSION: u32 = 3;

/// Longest line that is read, in bytes; what is longer is damage. The longest line from a module is 64 MiB.
pub(crate) const MAX_LINE_BYTES: usize = 80 << 20;

/// Largest number of an alert; nothing that counts upwards reaches it.
pub(crate) const MAX_SEQ: u64 = 1 << 62;

const PREVIOUS: &[u8] = br#","p":""#;
const CHECKSUM: &[u8] = br#","c":""#;
const END: &[u8] = br#""}"#;
const SEVERITY: &[u8] = br#","severity":""#;
const HEX_DIGITS: usize = 8;

/// Bytes of the end of a line that is sealed, without its line feed.
const SEAL_BYTES: usize = PREVIOUS.len() + HEX_DIGITS + 1 + CHECKSUM.len() + HEX_DIGITS + END.len();

/// What sealing adds to a record's body at most, in bytes.
pub(crate) const SEALED_MORE_BYTES: usize = SEVERITY.len() + 16 + SEAL_BYTES + 1;

/// How the lines of a segment begin; inside a JSON string the quotation marks would be escaped.
const BEGINNINGS: [&[u8]; 5] =
    [br#"{"seq":"#, br#"{"commit":"#, br#"{"deleted":"#, br#"{"segment":"#, br#"{"closed":"#];

/// One recorded alert.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Record {
    /// Number in the order of recording, from 1, without gaps.
    pub seq: u64,
    /// When the agent received it, RFC 3339 in UTC.
    pub time: String,
    /// The module that sent it.
    pub module: String,
    /// The module's id for it.
    #[serde(default)]
    pub id: Option<String>,
    /// The alert's text as the module sent it.
    pub message: String,
    /// How severe it is; older journals do not say, and the text is asked.
    #[serde(default, deserialize_with = "known_severity")]
    severity: Option<Severity>,
}

/// A severity that this version does not know does not make the record unreadable.
fn known_severity<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Severity>, D::Error> {
    let name = Cow::<'de, str>::deserialize(deserializer)?;
    Ok(Severity::from_name(&name))
}

impl Record {
    /// How severe it is.
    #[must_use]
    pub fn severity(&self) -> Severity {
        self.severity.unwrap_or_else(|| Severity::of(&self.message))
    }
}

/// How many alerts of each severity, as [`Severity::ALL`] orders them.
pub type Counts = [u64; 4];

/// First line of a segment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Header {
    /// Number of its first alert.
    pub(crate) segment: u64,
    pub(crate) version: u32,
    pub(crate) begun: String,
    /// Why it was begun.
    pub(crate) why: Why,
    /// Head of the chain before its first batch.
    pub(crate) head: Head,
}

/// Why a segment was begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Why {
    /// It is the first one, or the one before was of an older version.
    First,
    /// The one before was full.
    Full,
    /// The one before was made shorter or longer by somebody else.
    Resized,
    /// The one before was deleted or replaced by somebody else.
    Replaced,
    /// The disk did not take all of the last batch. What the segment before holds after its last commit line was never
    /// acknowledged, and is here again.
    WriteFailed,
    /// Alerts that had been recorded were not there when the agent started.
    Lost,
}

/// Last line of a batch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Commit {
    /// Number of the batch's last alert.
    pub(crate) commit: u64,
    /// How many alerts are in it.
    pub(crate) n: u64,
    /// Digests of the lines, by share and severity: what retention takes has a digest of its own, so that the others
    /// are proved as before.
    #[serde(default, skip_serializing_if = "Parts::is_empty")]
    pub(crate) parts: Parts,
    /// In version 2: digest of the lines of alerts that are critical or high; absent when there are none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) severe: Option<Digest>,
    /// In version 2: the same of those that are medium or low.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) other: Option<Digest>,
    /// Head of the chain after the batch.
    pub(crate) head: Head,
}

impl Commit {
    pub(crate) fn new(commit: u64, n: u64, digests: Digests, head: Head) -> Self {
        let (parts, severe, other) = match digests {
            Digests::Parts(parts) => (parts, None, None),
            Digests::Classes(severe, other) => (Parts::new(), severe, other),
        };
        Self { commit, n, parts, severe, other, head }
    }

    pub(crate) fn digests(&self) -> Digests {
        if self.parts.is_empty() {
            Digests::Classes(self.severe, self.other)
        } else {
            Digests::Parts(self.parts.clone())
        }
    }
}

/// Stands for alerts that retention has deleted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Deleted {
    /// First and last number.
    pub(crate) deleted: (u64, u64),
    pub(crate) counts: Counts,
    /// The same by share, where it is a part of a batch.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) shares: BTreeMap<String, Counts>,
    /// Checksum of the last one, which the next record names; absent when it had none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) link: Option<u32>,
    /// Head of the chain after the batches that went whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) head: Option<Head>,
}

/// Last line of a segment to which nothing is added.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Closed {
    /// Number of its last alert.
    pub(crate) closed: u64,
    pub(crate) counts: Counts,
    /// Bytes that the shares take, and everything else. In version 2: that the less severe alerts take, and the severe
    /// ones.
    pub(crate) bytes: (u64, u64),
    /// What is in it by share; version 2 does not say.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) shares: BTreeMap<String, Tally>,
}

impl Closed {
    pub(crate) fn new(closed: u64, contents: &Contents) -> Self {
        let other = contents.other_bytes;
        Self {
            closed,
            counts: contents.counts(),
            bytes: (contents.total_bytes() - other, other),
            shares: contents.shares.clone(),
        }
    }

    /// What is in the segment without this line.
    pub(crate) fn contents(self) -> Contents {
        let (first, second) = self.bytes;
        if self.shares.is_empty() {
            let other_bytes = first.saturating_add(second);
            return Contents { other_bytes, is_rough: self.counts != [0; 4], ..Contents::default() };
        }
        Contents { shares: self.shares, other_bytes: second, is_rough: false }
    }
}

/// What a good line is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Line {
    Header(Header),
    Record(Record),
    Commit(Commit),
    Deleted(Deleted),
    Closed(Closed),
}

/// A good line with its place in the chain of links.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Sealed {
    pub(crate) line: Line,
    /// Checksums of the record before and of the line itself; absent in records of before version 2.
    pub(crate) seal: Option<Seal>,
}

/// The end of a sealed line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Seal {
    pub(crate) previous: u32,
    pub(crate) checksum: u32,
}

/// Ends the line that begins at `start` of the buffer, a JSON object without its last brace. Returns its checksum.
pub(crate) fn seal(buffer: &mut Vec<u8>, start: usize, previous: u32) -> u32 {
    buffer.extend_from_slice(PREVIOUS);
    buffer.extend_from_slice(&hex_digits(previous));
    buffer.push(b'"');
    let checksum = crc32fast::hash(&buffer[start..]);
    buffer.extend_from_slice(CHECKSUM);
    buffer.extend_from_slice(&hex_digits(checksum));
    buffer.extend_from_slice(END);
    buffer.push(b'\n');
    checksum
}

/// Appends the line of a record. `body` is a JSON object without its last brace.
pub(crate) fn seal_record(buffer: &mut Vec<u8>, body: &[u8], severity: Severity, previous: u32) -> u32 {
    let start = buffer.len();
    buffer.reserve(body.len() + SEALED_MORE_BYTES);
    buffer.extend_from_slice(body);
    buffer.extend_from_slice(SEVERITY);
    buffer.extend_from_slice(severity.name().as_bytes());
    buffer.push(b'"');
    seal(buffer, start, previous)
}

/// Appends the line of a value that is no record.
pub(crate) fn seal_value(buffer: &mut Vec<u8>, value: &impl Serialize, previous: u32) -> u32 {
    let start = buffer.len();
    serde_json::to_writer(&mut *buffer, value).expect("plain data with string keys, and a Vec takes it all");
    buffer.pop();
    seal(buffer, start, previous)
}

fn hex_digits(number: u32) -> [u8; HEX_DIGITS] {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    std::array::from_fn(|at| DIGITS[(number >> (4 * (HEX_DIGITS - 1 - at))) as usize & 15])
}

fn hex(digits: &[u8]) -> Option<u32> {
    const NONE: u8 = 0xff;
    const VALUES: [u8; 256] = {
        let mut values = [NONE; 256];
        let mut value = 0;
        while value < 16 {
            values[b"0123456789abcdef"[value as usize] as usize] = value;
            value += 1;
        }
        values
    };
    // Seeing all of them at once is faster than stopping at the first bad one.
    let (number, seen) = digits.iter().fold((0, 0), |(number, seen), digit| {
        let value = VALUES[usize::from(*digit)];
        (number << 4 | u32::from(value & 15), seen | value)
    });
    (seen < 16).then_some(number)
}

/// The checksums of a line without its line feed, if they are there and right.
pub(crate) fn check(line: &[u8]) -> Option<Seal> {
    let seal_at = line.len().checked_sub(SEAL_BYTES)?;
    let (_, rest) = line.split_at(seal_at);
    let rest = rest.strip_prefix(PREVIOUS)?;
    let (previous, rest) = rest.split_at_checked(HEX_DIGITS)?;
    // `CHECKSUM` begins with the comma after the quotation mark that ends `p`.
    let rest = rest.strip_prefix(b"\"")?.strip_prefix(CHECKSUM)?;
    let (checksum, end) = rest.split_at_checked(HEX_DIGITS)?;
    if end != END {
        return None;
    }
    let seal = Seal { previous: hex(previous)?, checksum: hex(checksum)? };
    let covered = line.len() - CHECKSUM.len() - HEX_DIGITS - END.len();
    (crc32fast::hash(&line[..covered]) == seal.checksum).then_some(seal)
}

/// Number of a record's line.
pub(crate) fn seq_of(line: &[u8]) -> Option<u64> {
    let digits = line.strip_prefix(BEGINNINGS[0])?;
    let end = digits.iter().position(|digit| !digit.is_ascii_digit())?;
    let seq = digits[..end]
        .iter()
        .try_fold(0_u64, |number, digit| number.checked_mul(10)?.checked_add(u64::from(digit - b'0')))?;
    (1..=MAX_SEQ).contains(&seq).then_some(seq)
}

/// Whether a line looks like the last one of a batch.
pub(crate) fn is_commit(line: &[u8]) -> bool {
    line.starts_with(BEGINNINGS[1])
}

/// Reads a line without its line feed. `old`: the segment is of before version 2, whose records have no checksums.
pub(crate) fn read(line: &[u8], old: bool) -> Option<Sealed> {
    let seal = check(line);
    if seal.is_none() && !old {
        return None;
    }
    let kind = BEGINNINGS.iter().position(|beginning| line.starts_with(beginning))?;
    let line = match (kind, seal) {
        (0, _) => {
            let record: Record = serde_json::from_slice(line).ok()?;
            if !(1..=MAX_SEQ).contains(&record.seq) {
                return None;
            }
            Line::Record(record)
        }
        (_, None) => return None,
        (1, _) => Line::Commit(serde_json::from_slice(line).ok()?),
        (2, _) => Line::Deleted(serde_json::from_slice(line).ok()?),
        (3, _) => Line::Header(serde_json::from_slice(line).ok()?),
        _ => Line::Closed(serde_json::from_slice(line).ok()?),
    };
    Some(Sealed { line, seal })
}

/// Whether a segment that begins with this line is of before version 2: a record that has no checksums, right or not.
pub(crate) fn is_old(first_line: &[u8]) -> bool {
    first_line.starts_with(BEGINNINGS[0]) && memchr::memmem::find(first_line, CHECKSUM).is_none()
}

/// Finds the good lines in one that is damaged: where a line feed was destroyed, two or more are in one.
pub(crate) fn salvage(bytes: &[u8]) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(start) = next_beginning(&bytes[at..]).map(|offset| at + offset) {
        // A line has one end of this form: in a JSON string the quotation marks are escaped.
        let end = memchr::memmem::find(&bytes[start..], CHECKSUM)
            .map(|offset| start + offset + CHECKSUM.len() + HEX_DIGITS + END.len());
        match end {
            Some(end) if end <= bytes.len() && check(&bytes[start..end]).is_some() => {
                found.push(start..end);
                at = end;
            }
            // The next beginning may still have a good end.
            Some(_) => at = start + 1,
            None => break,
        }
    }
    found
}

fn next_beginning(bytes: &[u8]) -> Option<usize> {
    let mut from = 0;
    while let Some(offset) = memchr::memmem::find(&bytes[from..], b"{\"") {
        let at = from + offset;
        if BEGINNINGS.iter().any(|beginning| bytes[at..].starts_with(beginning)) {
            return Some(at);
        }
        from = at + 1;
    }
    None
}

/// How severe a record is, from its line.
pub(crate) fn severity_of_line(line: &[u8]) -> Severity {
    let body = &line[..line.len().saturating_sub(SEAL_BYTES)];
    let named = Severity::ALL.into_iter().find(|severity| {
        let rest = body.strip_suffix(b"\"").and_then(|body| body.strip_suffix(severity.name().as_bytes()));
        rest.is_some_and(|rest| rest.ends_with(SEVERITY))
    });
    named.unwrap_or_else(|| severity_of_body(&line[..line.len().saturating_sub(1)]))
}

/// Whose room in the journal a record takes: the module's, or what `share` says, which follows. For a record that names
/// neither it is the empty text. Lines and bodies are written by us, with their keys in one order.
pub(crate) fn share_of(line: &[u8]) -> &str {
    /// Made once: it costs more than the search.
    static MODULE: LazyLock<Finder<'_>> = LazyLock::new(|| Finder::new(br#"","module":""#));
    const SHARE: &[u8] = br#","share":""#;
    let text = |from: &[u8]| memchr::memchr(b'"', from);
    let Some(start) = MODULE.find(line).map(|at| at + MODULE.needle().len()) else { return "" };
    let Some(end) = text(&line[start..]).map(|length| start + length) else { return "" };
    let named = match line[end + 1..].strip_prefix(SHARE) {
        Some(rest) => &rest[..text(rest).unwrap_or(0)],
        None => &line[start..end],
    };
    str::from_utf8(named).unwrap_or_default()
}

/// The module to which a share belongs.
pub(crate) fn module_of(share: &str) -> &str {
    share.split(':').next().unwrap_or_default()
}

/// How severe a record is, from its line's body.
fn severity_of_body(body: &[u8]) -> Severity {
    const MESSAGE: &[u8] = br#","message":"#;
    // Inside a JSON string the quotation marks would be escaped.
    let at = memchr::memmem::find(body, MESSAGE).map(|at| at + MESSAGE.len());
    at.map_or(Severity::Medium, |at| severity_of_message(&body[at..]))
}

/// How severe a record with this message is, a JSON string. Reads it only where it does not begin as our modules' do.
pub(crate) fn severity_of_message(json: &[u8]) -> Severity {
    if let Some(name) = json.strip_prefix(br#""{\"severity\":\""#) {
        for severity in Severity::ALL {
            let named = name.strip_prefix(severity.name().as_bytes());
            if named.is_some_and(|rest| rest.starts_with(br#"\""#)) {
                return severity;
            }
        }
    }
    if memchr::memmem::find(json, b"severity").is_none() && memchr::memchr(b'\\', json).is_none() {
        return Severity::Medium;
    }
    serde_json::from_slice::<Cow<'_, str>>(json).map_or(Severity::Medium, |text| Severity::of(&text))
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    fn body(seq: u64, message: &str) -> Vec<u8> {
        let message = serde_json::to_string(message).unwrap();
        format!(r#"{{"seq":{seq},"time":"t","module":"m","message":{message}"#).into_bytes()
    }

    fn lines(messages: &[String]) -> (Vec<u8>, Vec<Range<usize>>) {
        let (mut bytes, mut previous, mut places) = (Vec::new(), 0, Vec::new());
        for (seq, message) in (1..).zip(messages) {
            let start = bytes.len();
            previous = seal_record(&mut bytes, &body(seq, message), Severity::Low, previous);
            places.push(start..bytes.len() - 1);
        }
        (bytes, places)
    }

    #[test]
    fn a_line_is_read_back_with_its_links() {
        let mut bytes = Vec::new();
        let text = "a \"quoted\" text";
        let first = seal_record(&mut bytes, &body(7, text), Severity::High, 0x1234_abcd);

        let read = read(bytes.trim_ascii_end(), false).unwrap();

        assert_eq!(read.seal, Some(Seal { previous: 0x1234_abcd, checksum: first }));
        let Line::Record(record) = read.line else { panic!("no record") };
        assert_eq!((record.seq, record.message.as_str(), record.severity()), (7, text, Severity::High));
        assert_eq!(seq_of(&bytes), Some(7));
        assert_eq!(severity_of_line(bytes.trim_ascii_end()), Severity::High);
    }

    #[test]
    fn the_severity_is_the_one_that_the_text_names() {
        for (message, severity) in [
            (r#"{"severity":"critical","alert":"x"}"#, Severity::Critical),
            (r#"{"severity":"criticality","alert":"x"}"#, Severity::Medium),
            (r#"{"alert":"x", "severity": "low"}"#, Severity::Low),
            (r#"{"alert":"\"severity\":\"critical\"","severity":"low"}"#, Severity::Low),
            (r#"say ","message":"{\"severity\":\"critical\" "#, Severity::Medium),
            ("plain", Severity::Medium),
        ] {
            assert_eq!(severity_of_body(&body(1, message)), severity, "{message}");
        }
    }

    #[test]
    fn a_share_is_the_module_or_what_follows_it() {
        let told = r#""message":"\",\"module\":\"other\",\"share\":\"x\""#;
        for (named, share) in [
            (r#""module":"watch","id":"i","#, "watch"),
            (r#""module":"agent","share":"agent:watch","#, "agent:watch"),
            (r#""module":"watch","id":"\",\"share\":\"x","#, "watch"),
            ("", ""),
        ] {
            assert_eq!(
                share_of(format!(r#"{{"seq":1,"time":"t",{named}{told}"#).as_bytes()),
                share,
                "{named}"
            );
        }
        assert_eq!((module_of("agent:watch"), module_of("watch")), ("agent", "watch"));
    }

    #[test]
    fn a_record_without_checksums_is_read_only_in_an_old_segment() {
        let line = br#"{"seq":1,"time":"t","module":"m","message":"x"}"#;

        assert!(is_old(line));
        assert!(read(line, true).is_some());
        assert!(read(line, false).is_none());
    }

    proptest! {
        /// Whatever bit is flipped in a line: it is known to be damaged, and does not count as an old one.
        #[test]
        fn a_flipped_bit_is_found(message in ".{0,40}", place in 0usize..10_000, bit in 0u8..8) {
            let (mut bytes, _) = lines(&[message]);
            bytes.pop();
            let place = place % bytes.len();
            bytes[place] ^= 1 << bit;

            prop_assert!(check(&bytes).is_none());
        }

        /// A destroyed line feed costs no record.
        #[test]
        fn lines_that_ran_together_are_told_apart(
            messages in proptest::collection::vec(".{0,30}", 1..6),
            junk in proptest::collection::vec(any::<u8>(), 0..20),
        ) {
            let (mut bytes, places) = lines(&messages);
            for byte in &mut bytes {
                if *byte == b'\n' {
                    *byte = 0x0b;
                }
            }
            let shift = junk.len();
            let bytes = [junk.clone(), bytes, junk].concat();

            let found = salvage(&bytes);

            prop_assert_eq!(found, places.iter().map(|p| p.start + shift..p.end + shift).collect::<Vec<_>>());
        }

        #[test]
        fn any_bytes_are_salvaged_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            salvage(&bytes);
            read(&bytes, true);
        }
    }
}
