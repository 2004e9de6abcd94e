//! Reads and writes messages on a pipe or socket.
//!
//! Both ends keep one buffer for the life of the stream. MIG's first readers made a new buffer for every read:
//! a second line that had arrived together with the first was lost with the old buffer.

use std::io;
use std::pin::pin;

use futures_util::{FutureExt, StreamExt};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio_util::codec::FramedRead;

use crate::codec::LineCodec;
use crate::message::{BadLine, Message};

/// Room in a new reader's buffer, in bytes: a pipe's default capacity, so that one read can empty it.
const READ_BUFFER_BYTES: usize = 64 * 1024;

/// Largest write buffer that is kept between messages, in bytes; a rare large message does not pin its memory.
const KEPT_WRITE_BUFFER_BYTES: usize = 64 * 1024;

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

    /// Waits for a line, then takes along what is there without further waiting, until `enough` says so.
    /// `false` at the end of the stream. Cancel safe: a cancelled call has taken nothing.
    ///
    /// # Errors
    /// When the stream itself fails; lines taken before are in `lines`.
    pub async fn next_batch(
        &mut self,
        lines: &mut Vec<Result<String, BadLine>>,
        mut enough: impl FnMut(&Result<String, BadLine>) -> bool,
    ) -> io::Result<bool> {
        let Some(first) = self.frames.next().await else { return Ok(false) };
        let mut line = first?;
        loop {
            let stop = enough(&line);
            lines.push(line);
            if stop {
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

            let mut first = Vec::new();
            assert!(reader.next_batch(&mut first, |line| line.as_deref() == Ok("b")).await.unwrap());
            let mut second = Vec::new();
            assert!(reader.next_batch(&mut second, |_| false).await.unwrap());
            drop(near);

            assert_eq!(first, [Ok("a".to_owned()), Ok("b".to_owned())]);
            assert_eq!(second, [Ok("c".to_owned()), Ok("d".to_owned())]);
            assert!(!reader.next_batch(&mut second, |_| false).await.unwrap());
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
