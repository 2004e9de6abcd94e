//! Splits a byte stream that is not trusted into lines, with bounded memory and without ever giving up.
//!
//! The work is done by tokio-util's `LinesCodec` with a length limit. On its own it reports an overlong or
//! non-UTF-8 line as an error, and a framed stream ends at the first error: one bad line would make the reader
//! deaf to a healthy module. Here a bad line is an item like any other.

use std::io;

use bytes::BytesMut;
use tokio_util::codec::{Decoder, LinesCodec, LinesCodecError};

use crate::message::BadLine;

/// Decoder for lines of at most a given length; a bad line is an item, an error is a failure of the stream.
#[derive(Debug)]
pub(crate) struct LineCodec {
    lines: LinesCodec,
    max_line_bytes: usize,
}

impl LineCodec {
    /// A codec that drops lines longer than `max_line_bytes`, not counting the line feed.
    #[must_use]
    pub(crate) fn new(max_line_bytes: usize) -> Self {
        Self { lines: LinesCodec::new_with_max_length(max_line_bytes), max_line_bytes }
    }

    /// The longest line that is let through, in bytes.
    #[must_use]
    pub(crate) fn max_line_bytes(&self) -> usize {
        self.max_line_bytes
    }

    fn item(
        &self,
        decoded: Result<Option<String>, LinesCodecError>,
    ) -> Result<Option<Result<String, BadLine>>, io::Error> {
        match decoded {
            Ok(line) => Ok(line.map(Ok)),
            Err(LinesCodecError::MaxLineLengthExceeded) => {
                Ok(Some(Err(BadLine::TooLong { limit: self.max_line_bytes })))
            }
            Err(LinesCodecError::Io(error)) if error.kind() == io::ErrorKind::InvalidData => {
                Ok(Some(Err(BadLine::NotUtf8)))
            }
            Err(LinesCodecError::Io(error)) => Err(error),
        }
    }
}

impl Decoder for LineCodec {
    type Item = Result<String, BadLine>;
    type Error = io::Error;

    fn decode(&mut self, buffer: &mut BytesMut) -> Result<Option<Self::Item>, io::Error> {
        let decoded = self.lines.decode(buffer);
        self.item(decoded)
    }

    fn decode_eof(&mut self, buffer: &mut BytesMut) -> Result<Option<Self::Item>, io::Error> {
        let decoded = self.lines.decode_eof(buffer);
        self.item(decoded)
    }
}
