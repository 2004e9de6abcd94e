//! Reads and writes messages on a pipe or socket.
//!
//! Both ends keep one buffer for the life of the stream. MIG's first readers made a new buffer for every read:
//! a second line that had arrived together with the first was lost with the old buffer.

use std::io;
use std::ops::Range;
use std::pin::pin;

use bytes::Buf;
use futures_util::{FutureExt, StreamExt};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio_util::codec::FramedRead;

use crate::codec::LineCodec;
use crate::message::{BadLine, Message};

/// Room in a new reader's buffer, in bytes: a pipe's default capacity, so that one read can empty it.
const READ_BUFFER_BYTES: usize = 64 * 1024;

/// Largest write buffer that is kept between messages, in bytes; a rare large message does not pin its memory.
const KEPT_WRITE_BUFFER_BYTES: usize = 64 * 1024;

/// Memory for lines that is kept between batches, in bytes.
const KEPT_BATCH_BYTES: usize = 1024 * 1024;

/// Lines that were read together, in one piece of memory.
#[derive(Debug, Default)]
pub struct LineBatch {
    text: String,
    lines: Vec<Result<Range<usize>, BadLine>>,
}

impl LineBatch {
    /// The lines without their line ends, or why they were dropped.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = Result<&str, &BadLine>> + ExactSizeIterator {
        self.lines.iter().map(|line| match line {
            Ok(range) => Ok(&self.text[range.clone()]),
            Err(bad) => Err(bad),
        })
    }

    /// How many lines, good and bad.
    #[must_use]
    pub fn len(&self) -> usize {
        self.lines.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    /// Bytes of the good lines.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.text.len()
    }

    /// Forgets all lines and keeps the memory, up to a bound.
    pub fn clear(&mut self) {
        self.text.clear();
        self.text.shrink_to(KEPT_BATCH_BYTES);
        self.lines.clear();
        self.lines.shrink_to(KEPT_BATCH_BYTES / size_of::<Result<Range<usize>, BadLine>>());
    }

    fn push(&mut self, line: Result<String, BadLine>) {
        self.lines.push(line.map(|line| {
            let start = self.text.len();
            self.text.push_str(&line);
            start..self.text.len()
        }));
    }

    /// Takes whole lines, each ended by a line feed and none longer than `max_line_bytes`, from the beginning of
    /// `bytes`; returns how many bytes. What it does not take is left to the codec, which judges line by line.
    fn take_plain(&mut self, bytes: &[u8], max_line_bytes: usize) -> usize {
        let Some(end) = memchr::memrchr(b'\n', bytes) else { return 0 };
        let Ok(text) = str::from_utf8(&bytes[..=end]) else { return 0 };
        let base = self.text.len();
        let mut start = 0;
        for line_end in memchr::memchr_iter(b'\n', text.as_bytes()) {
            if line_end - start > max_line_bytes {
                break;
            }
            let line = &text[start..line_end];
            let length = line.strip_suffix('\r').map_or(line.len(), str::len);
            self.lines.push(Ok(base + start..base + start + length));
            start = line_end + 1;
        }
        self.text.push_str(&text[..start]);
        start
    }
}

/// Reads lines from a stream whose writer is not trusted.
#[derive(Debug)]
pub struct ModuleReader<R> {
    frames: FramedRead<R, LineCodec>,
}

impl<R: AsyncRead + Unpin> ModuleReader<R> {
    /// Reads from `stream`; lines longer than `max_line_bytes` are dropped.
    pub fn new(stream: R, max_line_bytes: usize) -> Self {
        Self { frames: FramedRead::with_capacity(stream, LineCodec::new(max_line_bytes), READ_BUFFER_BYTES) }
    }

    /// Drops lines longer than this from now on. What is left of a line that is being dropped counts as a line.
    pub fn set_max_line_bytes(&mut self, max_line_bytes: usize) {
        if self.frames.decoder().max_line_bytes() != max_line_bytes {
            *self.frames.decoder_mut() = LineCodec::new(max_line_bytes);
        }
    }

    /// The next line, or why it was dropped; `None` at the end of the stream. Cancel safe.
    ///
    /// # Errors
    /// When the stream itself fails.
    pub async fn next_line(&mut self) -> Option<io::Result<Result<String, BadLine>>> {
        self.frames.next().await
    }

    /// Waits for a line, then takes along what is there without further waiting, until `enough` says so of what was
    /// taken. `false` at the end of the stream. Cancel safe: a cancelled call has taken nothing.
    ///
    /// # Errors
    /// When the stream itself fails; lines taken before are in `lines`.
    pub async fn next_batch(
        &mut self,
        batch: &mut LineBatch,
        mut enough: impl FnMut(&LineBatch) -> bool,
    ) -> io::Result<bool> {
        let Some(first) = self.frames.next().await else { return Ok(false) };
        let mut line = first?;
        loop {
            // After a good line the codec has nothing of the next one in its memory.
            let is_good = line.is_ok();
            batch.push(line);
            if is_good {
                let max_line_bytes = self.frames.decoder().max_line_bytes();
                let taken = batch.take_plain(self.frames.read_buffer(), max_line_bytes);
                self.frames.read_buffer_mut().advance(taken);
            }
            if enough(batch) {
                return Ok(true);
            }
            match pin!(self.frames.next()).now_or_never() {
                Some(Some(next)) => line = next?,
                // At the end of the stream the next call says so.
                Some(None) | None => return Ok(true),
            }
        }
    }
}

impl<R: AsyncRead + Unpin> ModuleReader<R> {
    /// Waits for more bytes and keeps them for later lines; `false` at the end of the stream. Never returns
    /// once a whole line of the longest kind is kept. Cancel safe.
    ///
    /// # Errors
    /// When the stream fails.
    pub async fn read_ahead(&mut self) -> io::Result<bool> {
        if self.frames.read_buffer().len() > self.frames.decoder().max_line_bytes() {
            return std::future::pending().await;
        }
        let mut piece = [0; 1024];
        let read = self.frames.get_mut().read(&mut piece).await?;
        self.frames.read_buffer_mut().extend_from_slice(&piece[..read]);
        Ok(read > 0)
    }

    /// The first line that [`ModuleReader::read_ahead`] has kept, when a whole one is there.
    pub fn kept_line(&self) -> Option<&[u8]> {
        let kept = self.frames.read_buffer();
        kept.iter().position(|byte| *byte == b'\n').map(|end| &kept[..end])
    }

    /// The stream.
    pub fn get_ref(&self) -> &R {
        self.frames.get_ref()
    }
}

/// Writes messages to a stream.
#[derive(Debug)]
pub struct ModuleWriter<W> {
    stream: W,
    buffer: Vec<u8>,
}

impl<W: AsyncWrite + Unpin> ModuleWriter<W> {
    /// Writes to `stream`.
    pub fn new(stream: W) -> Self {
        Self { stream, buffer: Vec::new() }
    }

    /// Writes one message and flushes it. Not cancel safe: a cancelled write may have written half a line.
    ///
    /// # Errors
    /// When the stream fails.
    pub async fn send(&mut self, message: &Message) -> io::Result<()> {
        self.buffer.clear();
        message.write_line(&mut self.buffer);
        self.stream.write_all(&self.buffer).await?;
        if self.buffer.capacity() > KEPT_WRITE_BUFFER_BYTES {
            self.buffer = Vec::new();
        }
        self.stream.flush().await
    }

    /// Writes lines that are ready as bytes.
    ///
    /// # Errors
    /// When the stream fails.
    pub async fn send_bytes(&mut self, lines: &[u8]) -> io::Result<()> {
        self.stream.write_all(lines).await?;
        self.stream.flush().await
    }

    /// Gives the stream back.
    pub fn into_inner(self) -> W {
        self.stream
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LIMIT: usize = 256;

    /// Everything a reader makes of `chunks`, each delivered in a read of its own.
    fn read_all(chunks: &[Vec<u8>]) -> Vec<Result<String, BadLine>> {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        builder.build().unwrap().block_on(async {
            let (mut near, far) = tokio::io::duplex(64 * 1024);
            let mut reader = ModuleReader::new(far, LIMIT);
            let mut lines = Vec::new();
            for chunk in chunks {
                near.write_all(chunk).await.unwrap();
                while let Some(Some(line)) = reader.next_line().now_or_never() {
                    lines.push(line.unwrap());
                }
            }
            drop(near);
            while let Some(line) = reader.next_line().await {
                lines.push(line.unwrap());
            }
            lines
        })
    }

    #[test]
    fn two_hundred_messages_in_one_write_all_arrive() {
        let mut chunk = Vec::new();
        for number in 0..200 {
            Message::log(&format!("line {number}")).write_line(&mut chunk);
        }

        let lines = read_all(&[chunk]);

        assert_eq!(lines.len(), 200);
        assert!(lines.iter().enumerate().all(|(number, line)| {
            line.as_ref().is_ok_and(|line| line.contains(&format!("\"line {number}\"")))
        }));
    }

    #[test]
    fn a_batch_takes_all_that_is_there_and_stops_when_it_is_enough() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let (mut near, far) = tokio::io::duplex(4096);
            let mut reader = ModuleReader::new(far, LIMIT);
            near.write_all(b"a\nb\nc\nd\n").await.unwrap();

            let texts = |batch: &LineBatch| -> Vec<String> {
                batch.iter().map(|line| line.map_or_else(ToString::to_string, ToOwned::to_owned)).collect()
            };
            let mut batch = LineBatch::default();
            assert!(reader.next_batch(&mut batch, |_| false).await.unwrap());
            assert_eq!(texts(&batch), ["a", "b", "c", "d"]);
            assert_eq!((batch.len(), batch.bytes() >= 4), (4, true));

            batch.clear();
            near.write_all(b"e\n\xff\nf\r\ng").await.unwrap();
            assert!(reader.next_batch(&mut batch, |batch| batch.len() >= 2).await.unwrap());
            assert!(reader.next_batch(&mut batch, |_| false).await.unwrap());
            drop(near);
            assert_eq!(texts(&batch), ["e", "line is not UTF-8", "f"]);
            assert!(reader.next_batch(&mut batch, |_| false).await.unwrap());
            assert_eq!(texts(&batch).last().map(String::as_str), Some("g"));
            assert!(!reader.next_batch(&mut batch, |_| false).await.unwrap());
        });
    }

    #[test]
    fn line_ends_may_be_crlf_and_the_last_one_may_be_missing() {
        let lines = read_all(&[b"one\r\ntwo\nthree".to_vec()]);

        assert_eq!(lines, ["one", "two", "three"].map(|line| Ok(line.to_owned())));
    }

    #[test]
    fn a_writer_sends_whole_lines() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let text = runtime.block_on(async {
            let (near, mut far) = tokio::io::duplex(4096);
            let mut writer = ModuleWriter::new(near);
            writer.send(&Message::stop()).await.unwrap();
            writer.send_bytes(b"{\"class\":\"ping\"}\n").await.unwrap();
            drop(writer.into_inner());
            let mut text = String::new();
            far.read_to_string(&mut text).await.unwrap();
            text
        });

        assert_eq!(text, "{\"class\":\"stop\"}\n{\"class\":\"ping\"}\n");
    }

    proptest! {
        /// Lines that are read in batches are those that are read one by one.
        #[test]
        fn batches_hold_the_same_lines(
            bytes in proptest::collection::vec(
                prop_oneof![4 => 32u8..127, 1 => any::<u8>(), 1 => Just(b'\n'), 1 => Just(b'\r')], 0..1500),
            pieces in proptest::collection::vec(1usize..400, 1..20),
            enough in 1usize..20,
        ) {
            let mut chunks: Vec<Vec<u8>> = Vec::new();
            let mut rest = bytes.as_slice();
            let mut sizes = pieces.iter().cycle();
            while !rest.is_empty() {
                let (chunk, after) = rest.split_at((*sizes.next().unwrap()).min(rest.len()));
                chunks.push(chunk.to_vec());
                rest = after;
            }
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let in_batches: Vec<Result<String, BadLine>> = runtime.block_on(async {
                let (mut near, far) = tokio::io::duplex(64 * 1024);
                let mut reader = ModuleReader::new(far, LIMIT);
                let mut lines = Vec::new();
                let mut batch = LineBatch::default();
                let mut near = Some(&mut near);
                for chunk in chunks.iter().map(Some).chain([None]) {
                    match (chunk, &mut near) {
                        (Some(chunk), Some(near)) => near.write_all(chunk).await.unwrap(),
                        _ => near.take().unwrap().shutdown().await.unwrap(),
                    }
                    loop {
                        batch.clear();
                        let read = reader.next_batch(&mut batch, |batch| batch.len() >= enough).now_or_never();
                        lines.extend(batch.iter().map(|line| line.map(ToOwned::to_owned).map_err(Clone::clone)));
                        if !matches!(read, Some(Ok(true))) {
                            break;
                        }
                    }
                }
                lines
            });

            prop_assert_eq!(in_batches, read_all(&[bytes]));
        }

        /// Whatever a module writes, in whatever pieces: no panic, no line over the limit gets through, and the
        /// next good line arrives.
        #[test]
        fn after_any_bytes_in_any_pieces_the_next_good_line_arrives(
            bytes in proptest::collection::vec(prop_oneof![any::<u8>(), Just(b'\n'), Just(b'\r')], 0..2000),
            pieces in proptest::collection::vec(1usize..300, 1..20),
        ) {
            let mut stream = bytes;
            stream.extend_from_slice(b"\ngood line\n");
            let mut chunks = Vec::new();
            let mut sizes = pieces.iter().cycle();
            while !stream.is_empty() {
                let size = (*sizes.next().unwrap()).min(stream.len());
                chunks.push(stream.drain(..size).collect());
            }

            let lines = read_all(&chunks);

            prop_assert_eq!(lines.last(), Some(&Ok("good line".to_owned())));
            for line in lines.iter().flatten() {
                prop_assert!(line.len() <= LIMIT);
            }
        }

        /// How a stream is cut into reads does not change what is read.
        #[test]
        fn chunking_does_not_matter(
            lines in proptest::collection::vec("[ -~]{0,300}", 0..20),
            pieces in proptest::collection::vec(1usize..100, 1..10),
        ) {
            let stream: Vec<u8> = lines.iter().flat_map(|line| format!("{line}\n").into_bytes()).collect();
            let whole = read_all(std::slice::from_ref(&stream));
            let mut rest = stream.as_slice();
            let mut chunks = Vec::new();
            for size in pieces.iter().cycle() {
                if rest.is_empty() {
                    break;
                }
                let (head, tail) = rest.split_at((*size).min(rest.len()));
                chunks.push(head.to_vec());
                rest = tail;
            }

            let cut = read_all(&chunks);

            prop_assert_eq!(cut, whole);
        }
    }
}
