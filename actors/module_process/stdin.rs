//! What waits for a module to read its stdin, and in which order it is written. Pure: the actor writes.
//!
//! Heartbeats, configurations and acknowledgements go before alerts of other modules. Closing lets what waits be
//! written first.

use std::collections::VecDeque;

use actix::SpawnHandle;
use tokio::io::AsyncWrite;
use tokio::sync::oneshot;
use tokio::time::Instant;
use vigie_protocol::stream::ModuleWriter;

/// Batches of lines that wait for a module to read its stdin: a heartbeat or the acknowledgements of one batch
/// of alerts each. When it is full the module is read no further.
const QUEUE: usize = 64;

pub(super) type Writer = ModuleWriter<Box<dyn AsyncWrite + Unpin>>;

/// Lines that are written in one go.
pub(super) struct Lines {
    pub(super) text: Vec<u8>,
    /// Who is told when they are written.
    pub(super) written: Option<oneshot::Sender<()>>,
}

/// What is to be done next.
pub(super) enum Next {
    /// These lines are to be written, and the writer to be handed back.
    Write(Writer, Lines),
    /// A write is under way, or nothing waits.
    Nothing,
    /// Everything is written and nothing comes any more.
    Close,
}

/// The child's stdin; dropping it closes the pipe unless a write is under way.
pub(super) struct Stdin {
    /// Away while a write is under way.
    writer: Option<Writer>,
    /// The write that is under way, and since when.
    writing: Option<(SpawnHandle, Instant)>,
    queue: VecDeque<Vec<u8>>,
    /// Alerts of other modules, one batch at a time.
    delivery: Option<Lines>,
    /// Nothing is taken any more.
    is_closing: bool,
    /// The delivery of alerts learns by the end of this that stdin is closed.
    _is_open: oneshot::Sender<()>,
    closed: Option<oneshot::Receiver<()>>,
}

impl Stdin {
    pub(super) fn new(stream: Box<dyn AsyncWrite + Unpin>) -> Self {
        let (open, closed) = oneshot::channel();
        Self {
            writer: Some(ModuleWriter::new(stream)),
            writing: None,
            queue: VecDeque::new(),
            delivery: None,
            is_closing: false,
            _is_open: open,
            closed: Some(closed),
        }
    }

    /// What ends when stdin is closed, for the one who delivers alerts; once.
    pub(super) fn closed(&mut self) -> Option<oneshot::Receiver<()>> {
        self.closed.take()
    }

    /// Takes a line that the module may miss.
    ///
    /// # Errors
    /// Gives the line back when the module has not read for long, or stdin is being closed.
    pub(super) fn try_push(&mut self, line: Vec<u8>) -> Result<(), Vec<u8>> {
        if self.is_full() || self.is_closing {
            return Err(line);
        }
        self.queue.push_back(line);
        Ok(())
    }

    /// Takes acknowledgements, however many wait: what they acknowledge is bounded, and a module is read no further
    /// while stdin is full.
    pub(super) fn push(&mut self, lines: Vec<u8>) {
        if !self.is_closing && !lines.is_empty() {
            self.queue.push_back(lines);
        }
    }

    /// Takes alerts of other modules, which wait for everything else.
    pub(super) fn deliver(&mut self, lines: Lines) {
        if !self.is_closing {
            self.delivery = Some(lines);
        }
    }

    pub(super) fn is_full(&self) -> bool {
        self.queue.len() >= QUEUE
    }

    /// Takes nothing more and closes when what waits is written.
    pub(super) fn close(&mut self) {
        self.is_closing = true;
        self.delivery = None;
    }

    pub(super) fn next(&mut self) -> Next {
        let Some(writer) = self.writer.take() else { return Next::Nothing };
        let queued = self.queue.pop_front().map(|text| Lines { text, written: None });
        match queued.or_else(|| self.delivery.take()) {
            Some(lines) => Next::Write(writer, lines),
            None if self.is_closing => Next::Close,
            None => {
                self.writer = Some(writer);
                Next::Nothing
            }
        }
    }

    /// A write has begun.
    pub(super) fn writes(&mut self, handle: SpawnHandle, now: Instant) {
        self.writing = Some((handle, now));
    }

    /// The write is done.
    pub(super) fn wrote(&mut self, writer: Writer) {
        self.writer = Some(writer);
        self.writing = None;
    }

    /// The write that is under way.
    pub(super) fn writing(&self) -> Option<SpawnHandle> {
        self.writing.map(|(handle, _)| handle)
    }

    /// Since when a write has been waiting.
    pub(super) fn writing_since(&self) -> Option<Instant> {
        self.writing.map(|(_, since)| since)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stdin() -> Stdin {
        Stdin::new(Box::new(tokio::io::sink()))
    }

    /// Does what is next; the text that was written, `None` when there was nothing, an error when it closes.
    fn step(stdin: &mut Stdin) -> Result<Option<String>, ()> {
        match stdin.next() {
            Next::Write(writer, lines) => {
                stdin.wrote(writer);
                Ok(Some(String::from_utf8(lines.text).unwrap()))
            }
            Next::Nothing => Ok(None),
            Next::Close => Err(()),
        }
    }

    fn delivery(text: &str) -> Lines {
        Lines { text: text.into(), written: None }
    }

    #[test]
    fn alerts_of_others_wait_for_everything_else() {
        let mut stdin = stdin();
        stdin.deliver(delivery("alert"));
        stdin.try_push("ping".into()).unwrap();
        stdin.push("ack".into());

        let written: Vec<_> = std::iter::from_fn(|| step(&mut stdin).unwrap()).collect();

        assert_eq!(written, ["ping", "ack", "alert"]);
    }

    #[test]
    fn one_write_is_under_way_at_a_time() {
        let mut stdin = stdin();
        stdin.push("one".into());
        stdin.push("two".into());

        let Next::Write(writer, _) = stdin.next() else { panic!("a line waits") };
        assert!(matches!(stdin.next(), Next::Nothing));
        stdin.wrote(writer);

        assert_eq!(step(&mut stdin), Ok(Some("two".to_owned())));
    }

    #[test]
    fn closing_writes_what_waits_but_no_alerts_of_others_and_takes_nothing() {
        let mut stdin = stdin();
        let mut closed = stdin.closed().unwrap();
        stdin.push("ack".into());
        stdin.deliver(delivery("alert"));
        stdin.close();
        stdin.push("late".into());
        stdin.deliver(delivery("late"));
        assert_eq!(stdin.try_push("late".into()), Err("late".into()));

        assert_eq!(step(&mut stdin), Ok(Some("ack".to_owned())));
        assert_eq!(step(&mut stdin), Err(()));
        assert!(closed.try_recv().is_err_and(|error| error == oneshot::error::TryRecvError::Empty));
        drop(stdin);
        assert!(closed.try_recv().is_err_and(|error| error == oneshot::error::TryRecvError::Closed));
    }

    #[test]
    fn a_full_queue_takes_acknowledgements_and_no_heartbeats() {
        let mut stdin = stdin();
        for _ in 0..QUEUE {
            stdin.try_push("ping".into()).unwrap();
        }

        assert!(stdin.is_full());
        assert!(stdin.try_push("ping".into()).is_err());
        stdin.push("ack".into());
        assert_eq!(stdin.queue.back().unwrap(), b"ack");
    }
}
