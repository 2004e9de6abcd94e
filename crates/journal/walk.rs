//! Walks through one segment: good lines in their order, and damage between them.

use std::collections::VecDeque;
use std::io;
use std::path::Path;

use crate::line::{self, Sealed};
use crate::segment::{LineReader, Piece};

/// What comes next in a segment.
#[derive(Debug)]
pub(crate) enum Step {
    /// A good line; [`Walk::raw`] has its bytes.
    Good(Sealed),
    /// Bytes that are no line. Good lines that ran together in them follow.
    Damage,
}

/// Reads one segment.
#[derive(Debug)]
pub(crate) struct Walk {
    lines: LineReader,
    /// Of before version 2; known from the first line.
    old: Option<bool>,
    raw: Vec<u8>,
    salvaged: VecDeque<Vec<u8>>,
}

impl Walk {
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let lines = LineReader::open(path)?;
        Ok(Self { lines, old: None, raw: Vec::new(), salvaged: VecDeque::new() })
    }

    /// The last good line's bytes without its line feed.
    pub(crate) fn raw(&self) -> &[u8] {
        &self.raw
    }

    pub(crate) fn lines(&self) -> &LineReader {
        &self.lines
    }

    /// Whether the segment is of before version 2; unknown before the first line.
    pub(crate) fn is_old(&self) -> Option<bool> {
        self.old
    }

    /// The next line or damage; nothing at the end of what is there.
    pub(crate) fn next(&mut self) -> io::Result<Option<Step>> {
        if let Some(line) = self.salvaged.pop_front() {
            let read = line::read(&line, false);
            self.raw = line;
            return Ok(Some(read.map_or(Step::Damage, Step::Good)));
        }
        let line = match self.lines.next()? {
            None => return Ok(None),
            Some(Piece::Junk) => return Ok(Some(Step::Damage)),
            Some(Piece::Line(line)) => line,
        };
        let old = *self.old.get_or_insert_with(|| line::is_old(line));
        self.raw.clear();
        self.raw.extend_from_slice(line);
        if let Some(sealed) = line::read(line, old) {
            return Ok(Some(Step::Good(sealed)));
        }
        self.salvaged.extend(line::salvage(line).into_iter().map(|range| line[range].to_vec()));
        Ok(Some(Step::Damage))
    }
}
