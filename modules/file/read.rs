//! Reading one file, once, for everything that is asked about its content.

use std::io::{self, Write};
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicBool, Ordering};

use flate2::write::MultiGzDecoder;

use crate::content::{Answer, Examination, Question};

/// Bytes that are read at a time.
pub const READ_BYTES: usize = 128 * 1024;

/// How a file compressed with gzip begins (RFC 1952, 2.3.1).
const GZIP: &[u8] = &[0x1f, 0x8b];

/// Why a file was not examined as a whole.
#[derive(Debug, thiserror::Error)]
pub enum ReadTrouble {
    /// It cannot be read.
    #[error("cannot be read to its end: {0}")]
    Unreadable(#[source] io::Error),
    /// It is compressed, and damaged.
    #[error("cannot be decompressed: {0}")]
    Damaged(#[source] io::Error),
    /// A line was matched in parts.
    #[error("has a line longer than {} bytes, which was matched in parts", crate::content::MAX_LINE_BYTES)]
    LongLine,
}

/// What came of reading a file.
#[derive(Debug)]
pub struct Reading {
    /// The searches that want it.
    pub answers: Vec<Answer>,
    /// What went wrong.
    pub trouble: Option<ReadTrouble>,
    /// It was not read to its end, and more could have changed the answers.
    pub is_cut: bool,
}

/// Reads an open regular file of this size. Ends early when nothing more can be learned, or when `stop` is set.
pub fn read(
    file: BorrowedFd<'_>,
    size: u64,
    questions: Vec<Question<'_>>,
    buffer: &mut [u8],
    stop: &AtomicBool,
) -> Reading {
    let mut first = match read_some(file, buffer) {
        Ok(length) => Some(length),
        Err(error) => return unread(questions, Some(ReadTrouble::Unreadable(error))),
    };
    let is_compressed = first.is_some_and(|length| buffer[..length].starts_with(GZIP));
    let (inner, outer): (Vec<_>, Vec<_>) =
        questions.into_iter().partition(|question| is_compressed && question.decompresses());
    let mut outer = Examination::new(outer);
    // A decoder has much memory to prepare: only for those who need it.
    let mut inner = (!inner.is_empty()).then(|| Inside::new(inner, stop));
    let mut total = 0;
    let mut trouble = None;
    let mut at_end = false;
    while !at_end {
        if (outer.is_done() && inner.as_ref().is_none_or(Inside::is_done)) || stop.load(Ordering::Relaxed) {
            break;
        }
        let length = match first.take().map_or_else(|| read_some(file, buffer), Ok) {
            Ok(length) => length,
            Err(error) => {
                trouble = Some(ReadTrouble::Unreadable(error));
                break;
            }
        };
        total += length as u64;
        // What the kernel makes up has no size, or one that is not its length.
        at_end = length == 0 || total == size;
        outer.take(&buffer[..length], at_end);
        if let Some(inner) = &mut inner {
            inner.take(&buffer[..length]);
        }
    }
    let is_done = outer.is_done() && inner.as_ref().is_none_or(Inside::is_done);
    let is_cut = !(at_end || is_done);
    let inner = inner.map(|inner| inner.finish(at_end));
    let mut reading = inner.unwrap_or(Reading { answers: Vec::new(), trouble: None, is_cut });
    reading.is_cut = is_cut;
    if outer.has_long_line() {
        trouble = trouble.or(Some(ReadTrouble::LongLine));
    }
    reading.answers.extend(outer.finish(at_end));
    reading.trouble = trouble.or(reading.trouble);
    reading
}

/// The answers that are known without reading.
#[must_use]
pub fn unread(questions: Vec<Question<'_>>, trouble: Option<ReadTrouble>) -> Reading {
    Reading { answers: Examination::new(questions).finish(false), trouble, is_cut: true }
}

fn read_some(file: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<usize> {
    Ok(rustix::io::retry_on_intr(|| rustix::io::read(file, &mut *buffer))?)
}

/// What is inside a compressed file.
struct Inside<'s, 'a> {
    decoder: MultiGzDecoder<Sink<'s, 'a>>,
    damage: Option<io::Error>,
}

impl<'s, 'a> Inside<'s, 'a> {
    fn new(questions: Vec<Question<'s>>, stop: &'a AtomicBool) -> Self {
        let sink = Sink { examination: Examination::new(questions), stop };
        Self { decoder: MultiGzDecoder::new(sink), damage: None }
    }

    fn is_done(&self) -> bool {
        self.damage.is_some() || self.decoder.get_ref().examination.is_done()
    }

    fn take(&mut self, bytes: &[u8]) {
        if !self.is_done() {
            self.damage = self.decoder.write_all(bytes).err();
        }
    }

    fn finish(mut self, at_end: bool) -> Reading {
        if at_end && !self.is_done() {
            self.damage = self.decoder.try_finish().err();
        }
        let sink = self.decoder.get_mut();
        let ended_early = sink.ends_early();
        let mut examination = std::mem::take(&mut sink.examination);
        let is_whole = at_end && self.damage.is_none() && !ended_early;
        if is_whole {
            examination.take(&[], true);
        }
        let trouble = match self.damage {
            Some(error) if !ended_early => Some(ReadTrouble::Damaged(error)),
            _ if examination.has_long_line() => Some(ReadTrouble::LongLine),
            _ => None,
        };
        Reading { answers: examination.finish(is_whole), trouble, is_cut: !is_whole }
    }
}

/// Where the decompressed bytes go.
struct Sink<'s, 'a> {
    examination: Examination<'s>,
    stop: &'a AtomicBool,
}

impl Sink<'_, '_> {
    fn ends_early(&self) -> bool {
        self.examination.is_done() || self.stop.load(Ordering::Relaxed)
    }
}

impl Write for Sink<'_, '_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // A few bytes can stand for very many: the decoder must not go on for their sake.
        if self.ends_early() {
            return Err(io::Error::other("nobody wants the rest"));
        }
        self.examination.take(bytes, false);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use flate2::Compression;
    use flate2::write::GzEncoder;
    use serde_json::{Value, json};

    use super::*;
    use crate::parameters::{Search, parse};

    fn search(fields: Value) -> Search {
        let mut fields = fields;
        fields["paths"] = json!(["/"]);
        let raw = serde_json::value::to_raw_value(&json!({"searches": {"a": fields}})).unwrap();
        parse(Some(&raw), 0).unwrap().remove(0)
    }

    fn read_with(searches: &[Search], content: &[u8], stop: bool) -> Reading {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(content).unwrap();
        rustix::fs::seek(&file, rustix::fs::SeekFrom::Start(0)).unwrap();
        let questions = searches.iter().enumerate();
        let questions = questions.map(|(index, search)| Question::new(index, search, Vec::new())).collect();
        read(file.as_fd(), content.len() as u64, questions, &mut [0; 100], &AtomicBool::new(stop))
    }

    fn found(reading: &Reading) -> Vec<usize> {
        let mut found: Vec<usize> = reading.answers.iter().map(|answer| answer.index).collect();
        found.sort_unstable();
        found
    }

    fn compressed(content: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(content).unwrap();
        encoder.finish().unwrap()
    }

    fn inside_and_outside() -> [Search; 3] {
        // The SHA-1 of "needle\n".
        let sha1 = "69e32e02b65edc332c456d6bb838a87231ac4dd0";
        [
            search(json!({"contents": ["^needle$"], "options": {"matchall": true, "decompress": true}})),
            search(json!({"contents": ["^needle$"], "options": {"matchall": true}})),
            search(
                json!({"sha1": [sha1], "options": {"matchall": true, "decompress": true, "mismatch": ["sha1"]}}),
            ),
        ]
    }

    #[test]
    fn compressed_files_are_looked_into_only_when_asked() {
        let searches = inside_and_outside();
        let content = [&b"hay\n".repeat(1_000)[..], b"needle\n"].concat();

        assert_eq!(found(&read_with(&searches, &content, false)), [0, 1, 2]);
        assert_eq!(found(&read_with(&searches, &compressed(&content), false)), [0, 2]);
    }

    #[test]
    fn several_compressed_parts_are_one_file() {
        let searches = inside_and_outside();
        let content = [compressed(b"hay\nnee"), compressed(b"dle\n")].concat();

        assert_eq!(found(&read_with(&searches, &content, false)), [0, 2]);
    }

    #[test]
    fn a_damaged_file_is_told_and_certain_answers_stay() {
        let searches = inside_and_outside();
        let mut content =
            compressed(&[&b"needle\n"[..], &(0..=255).collect::<Vec<u8>>().repeat(40)].concat());
        content.truncate(content.len() - 12);

        let reading = read_with(&searches, &content, false);

        assert_eq!(found(&reading), [0]);
        assert!(matches!(reading.trouble, Some(ReadTrouble::Damaged(_))), "{:?}", reading.trouble);
    }

    #[test]
    fn a_bomb_is_not_unpacked_further_than_needed() {
        let searches = inside_and_outside();
        let bomb = compressed(&[&b"needle\n"[..], &vec![b'\n'; 50_000_000]].concat());

        let reading = read_with(&searches[..1], &bomb, false);

        assert_eq!(found(&reading), [0]);
        assert!(reading.trouble.is_none(), "{:?}", reading.trouble);
    }

    #[test]
    fn a_stop_ends_the_reading_without_a_guess() {
        let reading = read_with(&[search(json!({"contents": ["!a"]}))], &[b'b'; 1_000], true);

        assert!(found(&reading).is_empty());
        assert!(reading.trouble.is_none());
    }

    #[test]
    fn a_file_of_unknown_size_is_read_to_its_end() {
        let searches = [search(json!({"contents": ["^Name:"], "options": {"matchall": true}}))];
        let file = std::fs::File::open("/proc/self/status").unwrap();
        let questions = vec![Question::new(0, &searches[0], Vec::new())];

        let reading = read(file.as_fd(), 0, questions, &mut [0; 16], &AtomicBool::new(false));

        assert_eq!(found(&reading), [0]);
    }
}
