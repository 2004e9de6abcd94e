//! Segments: their names, and reading one line by line.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use serde::{Deserialize, Serialize};
use vigie_files::durable;

use crate::contents::{Contents, Counting};
use crate::line::{self, Closed, Line, MAX_LINE_BYTES, MAX_SEQ, Sealed};

/// Bytes that are read at once. Each reader has a buffer of this size, and each client that waits has a reader.
const READ_BYTES: usize = 64 * 1024;

/// How much of a segment's end is read first to find its last line, which has an entry for each module; while the line
/// is longer, so many times more is read. What is longer than the limit is no last line: it has room for 100,000
/// modules.
const TAIL_BYTES: u64 = 4096;
const TAIL_FACTOR: u64 = 16;
const MAX_TAIL_BYTES: u64 = 16 << 20;

/// What a segment is called: number of its first alert, and which of several that begin with this number, as after a
/// batch that the disk did not take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(crate) struct Name {
    pub(crate) first: u64,
    pub(crate) part: u32,
}

impl Name {
    pub(crate) fn path(self, directory: &Path) -> PathBuf {
        let first = self.first;
        directory.join(match self.part {
            0 => format!("alerts-{first:020}.jsonl"),
            part => format!("alerts-{first:020}-{part}.jsonl"),
        })
    }

    /// Where what shall take its place is written.
    pub(crate) fn new_path(self, directory: &Path) -> PathBuf {
        self.path(directory).with_extension("jsonl.new")
    }

    fn parse(file_name: &str) -> Option<Self> {
        let name = file_name.strip_prefix("alerts-")?.strip_suffix(".jsonl")?;
        let (first, part) = name.split_once('-').unwrap_or((name, "0"));
        let name = Self { first: first.parse().ok()?, part: part.parse().ok()? };
        // Only the form that we write: two names must not mean the same segment.
        (name.first <= MAX_SEQ && name.path(Path::new("")).as_os_str() == file_name).then_some(name)
    }
}

/// The segments in a directory, oldest first.
pub(crate) fn list(directory: &Path) -> io::Result<Vec<Name>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(directory)? {
        names.extend(entry?.file_name().to_str().and_then(Name::parse));
    }
    names.sort_unstable();
    Ok(names)
}

/// Deletes what was to take the place of a segment when a crash came. What the system refuses stays.
pub(crate) fn delete_unfinished(directory: &Path) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let name = entry?.file_name();
        let segment = name.to_str().and_then(|name| name.strip_suffix(".new")).and_then(Name::parse);
        if let Some(segment) = segment {
            durable::remove(&segment.new_path(directory)).ok();
        }
    }
    Ok(())
}

/// A piece of a segment.
#[derive(Debug)]
pub(crate) enum Piece<'a> {
    /// A line without its line feed.
    Line(&'a [u8]),
    /// Zeros between lines, or bytes that are too many for a line.
    Junk,
}

/// Reads lines of a segment that may grow, with bounded memory.
#[derive(Debug)]
pub(crate) struct LineReader {
    file: File,
    buffer: Vec<u8>,
    /// What of the buffer is not returned yet.
    start: usize,
    end: usize,
    /// Where in the file `start` is.
    offset: u64,
}

/// Opens a segment for reading. Never waits for a FIFO or a device that somebody put there, and follows no link.
fn open(path: &Path) -> io::Result<File> {
    let flags = OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_NOFOLLOW;
    let file = fs::OpenOptions::new().read(true).custom_flags(flags.bits()).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
    }
    Ok(file)
}

impl LineReader {
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        Ok(Self { file: open(path)?, buffer: Vec::new(), start: 0, end: 0, offset: 0 })
    }

    /// Where the next piece begins.
    pub(crate) fn offset(&self) -> u64 {
        self.offset
    }

    /// Whether the file is still the one that `path` leads to.
    pub(crate) fn is_at(&self, path: &Path) -> bool {
        let (Ok(held), Ok(named)) = (self.file.metadata(), fs::symlink_metadata(path)) else { return false };
        (held.dev(), held.ino()) == (named.dev(), named.ino())
    }

    /// The next line; nothing when there is no whole one. More may be there later.
    pub(crate) fn next(&mut self) -> io::Result<Option<Piece<'_>>> {
        let mut searched = 0;
        loop {
            let unread = &self.buffer[self.start..self.end];
            if unread.first() == Some(&0) {
                return Ok(self.skip_zeros()?.then_some(Piece::Junk));
            }
            if let Some(at) = memchr::memchr(b'\n', &unread[searched..]) {
                let length = searched + at;
                let start = self.start;
                self.take(length + 1);
                return Ok(Some(Piece::Line(&self.buffer[start..start + length])));
            }
            searched = unread.len();
            if searched > MAX_LINE_BYTES {
                self.take(searched);
                return Ok(Some(Piece::Junk));
            }
            if !self.fill()? {
                return Ok(None);
            }
        }
    }

    /// What is there after the last whole line.
    pub(crate) fn rest(&self) -> &[u8] {
        &self.buffer[self.start..self.end]
    }

    fn take(&mut self, bytes: usize) {
        self.start += bytes;
        self.offset += bytes as u64;
    }

    /// Reads more behind what is there; `false` at the end of the file.
    fn fill(&mut self) -> io::Result<bool> {
        if self.start > 0 {
            self.buffer.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        if self.buffer.len() < self.end + READ_BYTES {
            self.buffer.resize((self.end + READ_BYTES).max(self.end * 2), 0);
        }
        let read = self.file.read(&mut self.buffer[self.end..])?;
        self.end += read;
        Ok(read > 0)
    }

    /// Skips zeros. `false` when they go on to the end of the file: they are room that is still to be written, and
    /// are read again later.
    fn skip_zeros(&mut self) -> io::Result<bool> {
        let first = self.offset;
        loop {
            let unread = &self.buffer[self.start..self.end];
            let zeros = unread.iter().position(|&byte| byte != 0).unwrap_or(unread.len());
            self.take(zeros);
            if self.start < self.end {
                return Ok(true);
            }
            if !self.fill()? {
                self.file.seek(SeekFrom::Start(first))?;
                (self.start, self.end, self.offset) = (0, 0, first);
                return Ok(false);
            }
        }
    }
}

/// What is in a closed segment: as its last line says, or as it is counted where that is missing.
pub(crate) fn contents(path: &Path) -> io::Result<Contents> {
    if let Some((closed, line_bytes, length)) = last_line(path)? {
        let mut contents = closed.contents();
        contents.add_other(line_bytes);
        if contents.total_bytes() <= length {
            return Ok(contents);
        }
    }
    count(path)
}

/// Number of the last alert in a segment, as its last line says; 0 where that is missing.
pub(crate) fn closed_at(path: &Path) -> io::Result<u64> {
    match last_line(path) {
        Ok(found) => Ok(found.map_or(0, |(closed, ..)| closed.closed)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
        Err(error) => Err(error),
    }
}

/// The segment that holds alert `seq` since those after it were merged with it. `names` are all, in order.
pub(crate) fn merged_with(directory: &Path, names: &[Name], seq: u64) -> io::Result<Option<Name>> {
    let Some(&name) = names.iter().rev().find(|name| name.first <= seq) else { return Ok(None) };
    Ok((closed_at(&name.path(directory))? >= seq).then_some(name))
}

/// The last line of a segment that has one, its bytes, and those of the segment.
fn last_line(path: &Path) -> io::Result<Option<(Closed, usize, u64)>> {
    let mut file = open(path)?;
    let length = file.metadata()?.len();
    let mut tail_bytes = TAIL_BYTES;
    loop {
        let start = length.saturating_sub(tail_bytes);
        file.seek(SeekFrom::Start(start))?;
        let mut tail = Vec::new();
        (&file).take(length - start).read_to_end(&mut tail)?;
        let Some(lines) = tail.strip_suffix(b"\n") else { return Ok(None) };
        let line_start = memchr::memrchr(b'\n', lines).map(|at| at + 1);
        if line_start.is_none() && start > 0 {
            if tail_bytes >= MAX_TAIL_BYTES {
                return Ok(None);
            }
            tail_bytes *= TAIL_FACTOR;
            continue;
        }
        let last = &lines[line_start.unwrap_or(0)..];
        return Ok(match line::read(last, false) {
            Some(Sealed { line: Line::Closed(closed), .. }) => Some((closed, last.len() + 1, length)),
            _ => None,
        });
    }
}

/// Whether a segment begins with a first line, and is so of version 2 or later.
pub(crate) fn has_header(path: &Path) -> io::Result<bool> {
    let mut reader = LineReader::open(path)?;
    let Some(Piece::Line(line)) = reader.next()? else { return Ok(false) };
    Ok(matches!(line::read(line, false), Some(Sealed { line: Line::Header(_), .. })))
}

/// Reads a segment to know what is in it.
pub(crate) fn count(path: &Path) -> io::Result<Contents> {
    let mut reader = LineReader::open(path)?;
    let mut counting = Counting::default();
    while let Some(piece) = reader.next()? {
        if let Piece::Line(line) = piece {
            let bytes = line.len() + 1;
            if line::seq_of(line).is_some() {
                counting.record(line::share_of(line), line::severity_of_line(line), bytes);
            } else if line::is_commit(line) {
                counting.commit(bytes);
            } else if let Some(Line::Deleted(note)) = line::read(line, false).map(|sealed| sealed.line) {
                counting.note(&note, bytes);
            } else {
                counting.other(bytes);
            }
        }
    }
    Ok(counting.finish())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pieces(content: &[u8]) -> (Vec<String>, Vec<u8>) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        fs::write(&path, content).unwrap();
        let mut reader = LineReader::open(&path).unwrap();
        let mut found = Vec::new();
        while let Some(piece) = reader.next().unwrap() {
            found.push(match piece {
                Piece::Line(line) => String::from_utf8_lossy(line).into_owned(),
                Piece::Junk => "junk".to_owned(),
            });
        }
        (found, reader.rest().to_vec())
    }

    #[test]
    fn lines_zeros_and_halves_are_told_apart() {
        assert_eq!(pieces(b"a\nb\nc"), (vec!["a".into(), "b".into()], b"c".to_vec()));
        let zeros = vec![0; 3 * READ_BYTES];
        let found = pieces(&[b"a\n".as_slice(), &zeros, b"b\n"].concat());
        assert_eq!(found, (vec!["a".into(), "junk".into(), "b".into()], Vec::new()));
        assert_eq!(pieces(&[b"a\n".as_slice(), &zeros].concat()).0, ["a"]);
    }

    #[test]
    fn zeros_that_are_written_later_are_read_then() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        fs::write(&path, [b"a\n".as_slice(), &[0; 100]].concat()).unwrap();
        let mut reader = LineReader::open(&path).unwrap();
        assert!(matches!(reader.next().unwrap(), Some(Piece::Line(b"a"))));
        assert!(reader.next().unwrap().is_none());

        fs::write(&path, b"a\nb\n").unwrap();

        assert!(matches!(reader.next().unwrap(), Some(Piece::Line(b"b"))));
        assert_eq!(reader.offset(), 4);
    }

    /// A segment that begins with alerts and ends with a last line for so many modules.
    fn closed_segment(path: &Path, shares: usize) -> Contents {
        let mut contents = Contents::default();
        for share in 0..shares {
            contents.add(&format!("module-{share}"), vigie_protocol::severity::Severity::High, 100);
        }
        let mut bytes = [vec![b'x'; 100 * shares], b"\n".to_vec()].concat();
        contents.add_other(1);
        let start = bytes.len();
        line::seal_value(&mut bytes, &Closed::new(7, &contents), 0);
        contents.add_other(bytes.len() - start);
        fs::write(path, bytes).unwrap();
        contents
    }

    #[test]
    fn a_last_line_of_any_length_is_found() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        for shares in [1, 100, 1000, 20_000] {
            let written = closed_segment(&path, shares);

            assert_eq!(closed_at(&path).unwrap(), 7, "{shares}");
            assert_eq!(contents(&path).unwrap(), written, "{shares}");
        }
    }

    #[test]
    fn a_fifo_in_the_place_of_a_segment_holds_up_nobody() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let (done, is_done) = std::sync::mpsc::channel();

        std::thread::spawn(move || {
            let found = [closed_at(&path).is_err(), contents(&path).is_err(), has_header(&path).is_err()];
            done.send(found).unwrap();
        });

        let found = is_done.recv_timeout(std::time::Duration::from_secs(30));
        assert_eq!(found.unwrap(), [true; 3]);
    }

    #[test]
    fn only_names_of_our_form_are_segments() {
        let of = |first, part| Some(Name { first, part });
        assert_eq!(Name::parse("alerts-00000000000000000041.jsonl"), of(41, 0));
        assert_eq!(Name::parse("alerts-00000000000000000041-2.jsonl"), of(41, 2));
        for name in [
            "alerts-41.jsonl",
            "alerts-00000000000000000041-0.jsonl",
            "alerts-00000000000000000041-02.jsonl",
            "alerts-18446744073709551615.jsonl",
            "alerts-00000000000000000041.jsonl.new",
        ] {
            assert_eq!(Name::parse(name), None, "{name}");
        }
        assert!(Name { first: 41, part: 1 } > Name { first: 41, part: 0 });
    }
}
