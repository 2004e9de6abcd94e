//! Reading one file, once, for everything that is asked about its content.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicBool, Ordering};

use flate2::bufread::GzDecoder;
use liblzma::bufread::XzDecoder;
use liblzma::stream::{CONCATENATED, Stream};
use rustix::fs::SeekFrom;
use rustix::io::Errno;
use ruzstd::decoding::StreamingDecoder;

use crate::content::{Answer, Examination, Question};

/// Bytes that are read at a time.
pub const READ_BYTES: usize = 128 * 1024;

/// Files from this size on, in bytes, are asked where their data is: it costs two system calls for each hole.
const SPARSE_FROM: u64 = 1 << 20;

/// Most memory of a decoder of xz, in bytes. What `xz -9` writes needs 65 MiB.
const XZ_MEMORY_BYTES: u64 = 256 << 20;

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

/// How a file is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    /// RFC 1952
    Gzip,
    Xz,
    /// RFC 8878
    Zstd,
}

impl Format {
    /// By how the file begins.
    fn of(start: &[u8]) -> Option<Self> {
        match start {
            [0x1f, 0x8b, ..] => Some(Self::Gzip),
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Some(Self::Xz),
            // A frame of data, or one that holds none, as pzstd writes first (RFC 8878, 3.1).
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Some(Self::Zstd),
            // As zstd wrote before its version 0.8; these are not read, which is an error and no absence.
            [0x1e | 0x22..=0x27, 0xb5, 0x2f, 0xfd, ..] => Some(Self::Zstd),
            _ => None,
        }
    }
}

/// Reads an open regular file up to the size that it had, so that one that grows faster than it is read has an end.
/// Ends early when nothing more can be learned, or when `stop` is set.
pub fn read(
    file: BorrowedFd<'_>,
    size: u64,
    questions: Vec<Question<'_>>,
    buffer: &mut [u8],
    stop: &AtomicBool,
) -> Reading {
    let mut data = Data::new(file, size);
    let mut first = match data.next(buffer) {
        Ok(piece) => Some(piece),
        Err(error) => return unread(questions, Some(ReadTrouble::Unreadable(error))),
    };
    let format = match first {
        Some(Part::Bytes(length)) => Format::of(&buffer[..length]),
        _ => None,
    };
    let (inner, outer): (Vec<_>, Vec<_>) =
        questions.into_iter().partition(|question| format.is_some() && question.decompresses());
    let mut outer = Examination::new(outer);
    let mut trouble = None;
    let mut at_end = false;
    while !at_end {
        if outer.is_done() || stop.load(Ordering::Relaxed) {
            break;
        }
        let piece = match first.take().map_or_else(|| data.next(buffer), Ok) {
            Ok(piece) => piece,
            Err(error) => {
                trouble = Some(ReadTrouble::Unreadable(error));
                break;
            }
        };
        // What the kernel makes up has no size, or one that is not its length.
        at_end = data.is_at_end() || matches!(piece, Part::Bytes(0));
        match piece {
            Part::Bytes(length) => outer.take(&buffer[..length], at_end),
            Part::Hole(length) => {
                let whole = outer.take_hole(length, at_end, || stop.load(Ordering::Relaxed));
                at_end &= whole;
            }
        }
    }
    let mut is_cut = !(at_end || outer.is_done());
    if outer.has_long_line() {
        trouble = trouble.or(Some(ReadTrouble::LongLine));
    }
    let mut answers = outer.finish(at_end);
    if let Some(format) = format.filter(|_| !inner.is_empty()) {
        let inside = read_inside(Data::new(file, size), format, inner, stop);
        answers.extend(inside.answers);
        trouble = trouble.or(inside.trouble);
        is_cut |= inside.is_cut;
    }
    Reading { answers, trouble, is_cut }
}

/// The answers that are known without reading.
#[must_use]
pub fn unread(questions: Vec<Question<'_>>, trouble: Option<ReadTrouble>) -> Reading {
    Reading { answers: Examination::new(questions).finish(false), trouble, is_cut: true }
}

/// A part of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    /// So many bytes are in the buffer; none at the end.
    Bytes(usize),
    /// So many zeros that are nowhere.
    Hole(u64),
}

/// Reads what a file holds, from its beginning up to the size that it had.
#[derive(Debug)]
struct Data<'f> {
    file: BorrowedFd<'f>,
    /// 0 when it is not known.
    size: u64,
    at: u64,
    /// Up to here there is no hole.
    data_end: u64,
}

impl<'f> Data<'f> {
    fn new(file: BorrowedFd<'f>, size: u64) -> Self {
        let data_end = if size < SPARSE_FROM { size } else { 0 };
        Self { file, size, at: 0, data_end }
    }

    fn is_at_end(&self) -> bool {
        self.size > 0 && self.at >= self.size
    }

    fn next(&mut self, buffer: &mut [u8]) -> io::Result<Part> {
        if self.is_at_end() {
            return Ok(Part::Bytes(0));
        }
        if self.size > 0 && self.at >= self.data_end {
            let hole = self.find_data()?;
            if hole > 0 {
                self.at += hole;
                return Ok(Part::Hole(hole));
            }
        }
        let room = match self.size {
            0 => buffer.len(),
            _ => usize::try_from(self.data_end - self.at).unwrap_or(usize::MAX).min(buffer.len()),
        };
        let read = rustix::io::retry_on_intr(|| rustix::io::pread(self.file, &mut buffer[..room], self.at))?;
        self.at += read as u64;
        Ok(Part::Bytes(read))
    }

    /// Finds the next data; returns the length of the hole before it.
    fn find_data(&mut self) -> io::Result<u64> {
        match rustix::fs::seek(self.file, SeekFrom::Data(self.at)) {
            Ok(data) => {
                let data = data.clamp(self.at, self.size);
                let end = rustix::fs::seek(self.file, SeekFrom::Hole(data)).unwrap_or(self.size);
                self.data_end = end.clamp(data, self.size);
                Ok(data - self.at)
            }
            // Nothing but a hole is left.
            Err(Errno::NXIO) => Ok(self.size - self.at),
            // The file system does not tell: all of it is data.
            Err(Errno::INVAL | Errno::OPNOTSUPP | Errno::NOTTY) => {
                self.data_end = self.size;
                Ok(0)
            }
            Err(error) => Err(error.into()),
        }
    }
}

/// The whole file, holes as zeros.
impl Read for Data<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let before = self.at;
        match self.next(buffer)? {
            Part::Bytes(read) => Ok(read),
            Part::Hole(length) => {
                let shown = usize::try_from(length).unwrap_or(usize::MAX).min(buffer.len());
                buffer[..shown].fill(0);
                self.at = before + shown as u64;
                Ok(shown)
            }
        }
    }
}

/// Reads what is inside a compressed file: all its parts, and no zeros that fill it up.
fn read_inside(data: Data<'_>, format: Format, questions: Vec<Question<'_>>, stop: &AtomicBool) -> Reading {
    let mut source = BufReader::with_capacity(READ_BYTES, data);
    let mut sink = Sink { examination: Examination::new(questions), stop };
    let result = decompress(&mut source, format, &mut sink);
    let ended_early = sink.ends_early();
    let mut examination = sink.examination;
    let is_whole = result.is_ok() && !ended_early;
    if is_whole {
        examination.take(&[], true);
    }
    let trouble = match result {
        Err(error) if !ended_early => Some(ReadTrouble::Damaged(error)),
        _ if examination.has_long_line() => Some(ReadTrouble::LongLine),
        _ => None,
    };
    let is_cut = !is_whole && !examination.is_done();
    Reading { answers: examination.finish(is_whole), trouble, is_cut }
}

fn decompress(source: &mut impl BufRead, format: Format, sink: &mut Sink<'_, '_>) -> io::Result<()> {
    if format == Format::Xz {
        // It knows of further parts, and of zeros between them, itself.
        let stream = Stream::new_stream_decoder(XZ_MEMORY_BYTES, CONCATENATED)?;
        io::copy(&mut XzDecoder::new_stream(source, stream), sink)?;
        return Ok(());
    }
    loop {
        // Tapes and block devices are filled up with zeros.
        loop {
            let piece = source.fill_buf()?;
            if piece.is_empty() {
                return Ok(());
            }
            let zeros = piece.iter().take_while(|byte| **byte == 0).count();
            let all = zeros == piece.len();
            source.consume(zeros);
            if !all {
                break;
            }
        }
        match format {
            Format::Zstd => {
                let mut decoder = match StreamingDecoder::new(&mut *source) {
                    Ok(decoder) => decoder,
                    Err(error) => {
                        let Some(length) = skippable(&error) else { return Err(io::Error::other(error)) };
                        if io::copy(&mut source.by_ref().take(length), &mut io::sink())? < length {
                            return Err(io::ErrorKind::UnexpectedEof.into());
                        }
                        continue;
                    }
                };
                io::copy(&mut decoder, sink)?;
                let frame = &decoder.decoder;
                let written = frame.get_checksum_from_data();
                if written.is_some() && written != frame.get_calculated_checksum() {
                    return Err(io::Error::other("the checksum does not match the content"));
                }
            }
            Format::Gzip | Format::Xz => {
                io::copy(&mut GzDecoder::new(&mut *source), sink)?;
            }
        }
    }
}

/// The length of a frame that holds no data (RFC 8878, 3.1.2).
fn skippable(error: &ruzstd::decoding::errors::FrameDecoderError) -> Option<u64> {
    use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};
    match error {
        FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame { length, .. }) => {
            Some(u64::from(*length))
        }
        _ => None,
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
    fn xz_and_zstd_are_looked_into_as_well() {
        let searches = inside_and_outside();
        let content = [&b"hay\n".repeat(1_000)[..], b"needle\n"].concat();
        let xz = {
            let mut encoder = liblzma::write::XzEncoder::new(Vec::new(), 6);
            encoder.write_all(&content).unwrap();
            encoder.finish().unwrap()
        };
        let zstd =
            ruzstd::encoding::compress_to_vec(&content[..], ruzstd::encoding::CompressionLevel::Fastest);
        // A frame that holds no data.
        let skipped = [&[0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3][..], &zstd].concat();

        // Whether the line stands in the compressed bytes as well is the encoder's choice.
        let inside = |bytes: &[u8]| {
            let found = found(&read_with(&searches, bytes, false));
            found.contains(&0) && found.contains(&2)
        };
        assert!(inside(&xz) && inside(&zstd));
        assert!(inside(&[&zstd[..], &skipped].concat()));
        assert!(inside(&[&xz[..], &xz].concat()));
        assert!(read_with(&searches, &xz[..xz.len() - 9], false).trouble.is_some());
        assert!(read_with(&searches, &zstd[..zstd.len() - 9], false).trouble.is_some());
    }

    #[test]
    fn frames_without_data_stand_anywhere_in_a_zstd_file() {
        let searches = inside_and_outside();
        let level = ruzstd::encoding::CompressionLevel::Fastest;
        let zstd = ruzstd::encoding::compress_to_vec(&b"hay\nneedle\n"[..], level);
        let empty = |magic: u8| [magic, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3];

        for magic in 0x50..=0x5f {
            for bytes in
                [[&empty(magic)[..], &zstd].concat(), [&empty(0x50), &empty(magic)[..], &zstd].concat()]
            {
                let reading = read_with(&searches, &bytes, false);
                let found = found(&reading);
                assert!(found.contains(&0) && found.contains(&2) && reading.trouble.is_none(), "{magic:x}");
            }
        }
    }

    #[test]
    fn what_starts_like_a_compressed_file_and_cannot_be_read_is_not_known() {
        let searches = [search(json!({"contents": ["nosuch"], "options": {"decompress": true}}))];
        let level = ruzstd::encoding::CompressionLevel::Fastest;
        let mut zstd = ruzstd::encoding::compress_to_vec(&b"hay\nneedle\n".repeat(40)[..], level);
        let last = zstd.len() - 1;
        zstd[last] ^= 1;

        for bytes in [
            &b"\x1f\x8b"[..],
            b"\x1f\x8b\x07hay",
            b"\xfd7zXZ\0hay",
            b"\x28\xb5\x2f\xfd",
            // An old version, a frame of which the end is missing, one before something else, and a wrong checksum.
            b"\x27\xb5\x2f\xfd hay",
            b"\x50\x2a\x4d\x18\x09\0\0\0hay",
            b"\x5f\x2a\x4d\x18\0\0\0\0\x04\x22\x4d\x18",
            &zstd,
        ] {
            let reading = read_with(&searches, bytes, false);
            assert!(matches!(reading.trouble, Some(ReadTrouble::Damaged(_))), "{bytes:x?}: {reading:?}");
        }
    }

    #[test]
    fn zeros_that_fill_a_compressed_file_up_are_no_damage() {
        let searches = inside_and_outside();
        let mut content = compressed(b"hay\nneedle\n");
        content.extend([0; 10_000]);

        let reading = read_with(&searches, &content, false);

        assert_eq!(found(&reading), [0, 2]);
        assert!(reading.trouble.is_none(), "{:?}", reading.trouble);
    }

    #[test]
    fn holes_are_not_read_and_a_file_is_read_up_to_the_size_that_it_had() {
        let searches = [search(json!({"contents": ["^needle$", "^hay"], "options": {"matchall": true}}))];
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"hay\n").unwrap();
        let size = 4_u64 << 40;
        if rustix::fs::ftruncate(&file, size).is_err() {
            return vigie_skipped::skipped("the file system takes no sparse file of 4 TiB");
        }
        rustix::io::pwrite(&file, b"\nneedle\n", size / 2).unwrap();
        let ask = |size| {
            let questions = vec![Question::new(0, &searches[0], Vec::new())];
            read(file.as_fd(), size, questions, &mut [0; 4096], &AtomicBool::new(false))
        };

        assert_eq!(found(&ask(size)), [0]);
        // It has grown since.
        assert!(found(&ask(1_000)).is_empty());
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
