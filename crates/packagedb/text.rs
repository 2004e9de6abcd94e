//! Databases that are text: their lines, and what in them makes no sense.

use std::fmt;
use std::io::{self, BufRead, BufReader, Read};

/// Longest line that is read, in bytes: the longest path with room for what stands beside it.
pub(crate) const MAX_LINE_BYTES: usize = 8 * 1024;

/// Where a line ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// With a line feed, which is not part of it.
    LineFeed,
    /// With the file.
    File,
    /// It is too long, and only its beginning was read.
    TooLong,
}

/// A line.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Line<'a> {
    /// Where it begins, in bytes.
    pub(crate) offset: u64,
    /// Its number, from 1.
    pub(crate) number: u64,
    pub(crate) text: &'a [u8],
    pub(crate) end: End,
}

/// Gives each line of a file, also what was read of those that are too long.
pub(crate) fn lines(file: impl Read, mut each: impl FnMut(Line<'_>)) -> io::Result<()> {
    let mut reader = BufReader::with_capacity(16 * 1024, file);
    let mut text = Vec::new();
    let (mut offset, mut number) = (0, 0);
    loop {
        text.clear();
        let mut read = reader.by_ref().take(MAX_LINE_BYTES as u64).read_until(b'\n', &mut text)?;
        if read == 0 {
            return Ok(());
        }
        number += 1;
        let end = if text.last() == Some(&b'\n') {
            text.pop();
            End::LineFeed
        } else if read < MAX_LINE_BYTES {
            End::File
        } else {
            read += reader.skip_until(b'\n')?;
            End::TooLong
        };
        each(Line { offset, number, text: &text, end });
        offset += read as u64;
    }
}

/// Gives each line of a file with its offset in bytes, without its newline; what is too long is left out. How many
/// were.
pub(crate) fn each_line(file: impl Read, mut each: impl FnMut(u64, &[u8])) -> io::Result<u64> {
    let mut left_out = 0;
    lines(file, |line| match line.end {
        End::LineFeed | End::File => each(line.offset, line.text),
        End::TooLong => left_out += 1,
    })?;
    Ok(left_out)
}

/// What makes no sense in a file: the first such line, and how many there are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Damage {
    first: Option<(u64, &'static str)>,
    lines: u64,
}

impl Damage {
    /// Notes a line.
    pub(crate) fn note(&mut self, number: u64, why: &'static str) {
        self.first.get_or_insert((number, why));
        self.lines += 1;
    }

    /// Whether there is none.
    pub(crate) fn is_none(&self) -> bool {
        self.first.is_none()
    }
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some((number, why)) = self.first else { return f.write_str("is sound") };
        write!(f, "is damaged: line {number} {why}")?;
        match self.lines {
            1 => Ok(()),
            lines => write!(f, ", and {} more", lines - 1),
        }
    }
}

/// Whether bytes can stand in a line of text: zeros are what a lost block of a disk leaves behind.
pub(crate) fn is_text(line: &[u8]) -> bool {
    !line.contains(&0)
}
