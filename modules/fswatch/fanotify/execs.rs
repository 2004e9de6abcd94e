//! Asks the kernel what processes run: BPF programs write each exec into a ring before the program does anything, so that
//! whoever reads the ring after a queue of fanotify finds there who did what the queue tells.

use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::event::PollFlags;
use vigie_kernel_events::{Kind, Options, Source, SourceError};

use crate::ending::{Owner, ending};
use crate::processes::Processes;

/// Room for some five hundred execs; the thread is woken after a quarter of it.
const RING_BYTES: u32 = 256 * 1024;

/// The ring, and those who are told what is in it.
#[derive(Debug)]
pub(super) struct Kernel {
    source: Mutex<Result<Source, String>>,
    processes: Arc<Mutex<Processes>>,
}

#[expect(clippy::disallowed_methods, reason = "these threads live in real time")]
fn now() -> std::time::Instant {
    std::time::Instant::now()
}

/// An error with its causes.
fn text(error: &SourceError) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

impl Kernel {
    /// Asks nothing yet.
    pub(super) fn new(processes: Arc<Mutex<Processes>>) -> Arc<Self> {
        Arc::new(Self { source: Mutex::new(Err("it was not asked for yet".to_owned())), processes })
    }

    fn source(&self) -> MutexGuard<'_, Result<Source, String>> {
        self.source.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Why nothing is asked.
    pub(super) fn why_not(&self) -> Option<String> {
        self.source().as_ref().err().cloned()
    }

    /// Takes the programs away again.
    pub(super) fn close(&self, why: &str) {
        *self.source() = Err(why.to_owned());
    }

    /// Loads the programs, and starts a thread that reads the ring when much is in it: files may be quiet for long. The
    /// thread lives as long as its owner.
    pub(super) fn open(self: &Arc<Self>) -> Option<Owner> {
        let (source, owner) = match self.start() {
            Ok((source, owner)) => (Ok(source), Some(owner)),
            Err(why) => (Err(why), None),
        };
        *self.source() = source;
        owner
    }

    fn start(self: &Arc<Self>) -> Result<(Source, Owner), String> {
        let options = Options {
            kinds: vec![Kind::Exec, Kind::Exit],
            ring_bytes: RING_BYTES,
            wake_bytes: RING_BYTES / 4,
            // What is kept of a command line.
            argument_bytes: 1024,
            environment_bytes: 0,
            bpf: true,
        };
        let source = Source::open_bpf(&options).map_err(|error| text(&error))?;
        let wakeups = source.wakeups().map(|wakeups| wakeups.try_clone_to_owned());
        let wakeups = wakeups
            .ok_or_else(|| "the source cannot be waited for".to_owned())?
            .map_err(|error| error.to_string())?;
        let (owner, end) = ending().map_err(|error| error.to_string())?;
        let kernel = Arc::clone(self);
        std::thread::Builder::new()
            .name("execs".to_owned())
            .stack_size(128 * 1024)
            .spawn(move || {
                while end.wait(wakeups.as_fd(), PollFlags::IN).unwrap_or(false) {
                    kernel.take_with(|source, sink| source.wait(Duration::ZERO, sink));
                }
            })
            .map_err(|error| error.to_string())?;
        Ok((source, owner))
    }

    /// Learns what was run until now.
    pub(super) fn take(&self) {
        self.take_with(|source, sink| source.drain(sink));
    }

    fn take_with(
        &self,
        read: impl FnOnce(&mut Source, &mut dyn FnMut(vigie_kernel_events::Event)) -> Result<(), SourceError>,
    ) {
        // Held until all is learned: whoever comes next finds in the ring or among the processes what he asks for.
        let mut source = self.source();
        let Ok(open) = &mut *source else { return };
        let mut told = Vec::new();
        // Without it processes are asked themselves, and alerts say so.
        if let Err(error) = read(open, &mut |event| told.push(event)) {
            *source = Err(text(&error));
        }
        if told.is_empty() {
            return;
        }
        let now = now();
        let mut processes = self.processes.lock().unwrap_or_else(PoisonError::into_inner);
        for event in told {
            processes.execs().take(event, now);
        }
    }
}
