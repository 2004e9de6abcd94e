//! Asks the kernel what processes run: BPF programs write each exec into a ring before the program does anything, so
//! that whoever reads the ring after a queue of fanotify finds there who did what the queue tells.
//!
//! The kernel proves each program before it takes it, for a third of a second. Nothing waits for that: directories are
//! marked and compared meanwhile, and who does something is what `/proc` says until then.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::event::PollFlags;
use vigie_kernel_events::{Kind, Options, Source, SourceError};

use crate::ending::{Ending, Owner, ending};
use crate::events::Mailbox;
use crate::processes::Processes;

/// Room for some five hundred execs; the thread is woken after a quarter of it.
const RING_BYTES: u32 = 256 * 1024;

/// Stack of the thread, on which libbpf works.
const STACK_BYTES: usize = 1 << 20;

/// Why command lines are what processes say of themselves while the programs are being loaded.
pub(crate) const LOADING: &str = "the BPF programs that report them are being loaded";

/// The ring, while somebody asks for it.
#[derive(Debug)]
struct Asked {
    source: Result<Source, String>,
    /// How often it was asked for, or no longer: what was loaded for an earlier time is not used.
    times: u64,
}

/// The ring, and those who are told what is in it.
#[derive(Debug)]
pub(super) struct Kernel {
    asked: Mutex<Asked>,
    processes: Arc<Mutex<Processes>>,
}

#[expect(clippy::disallowed_methods, reason = "these threads live in real time")]
fn now() -> std::time::Instant {
    std::time::Instant::now()
}

/// Loads the programs; what tells that much is in their ring comes with them.
fn load() -> Result<(Source, OwnedFd), String> {
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
    let wakeups = source.wakeups().ok_or_else(|| "the source cannot be waited for".to_owned())?;
    let wakeups = wakeups.try_clone_to_owned().map_err(|error| error.to_string())?;
    Ok((source, wakeups))
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
        let asked = Asked { source: Err("it was not requested yet".to_owned()), times: 0 };
        Arc::new(Self { asked: Mutex::new(asked), processes })
    }

    fn asked(&self) -> MutexGuard<'_, Asked> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Why nothing is asked.
    pub(super) fn why_not(&self) -> Option<String> {
        self.asked().source.as_ref().err().cloned()
    }

    fn set(&self, source: Result<Source, String>) -> u64 {
        let mut asked = self.asked();
        asked.source = source;
        asked.times += 1;
        asked.times
    }

    /// Takes the programs away again.
    pub(super) fn close(&self, why: &str) {
        self.set(Err(why.to_owned()));
    }

    /// Starts a thread that loads the programs, and then reads the ring when much is in it: files may be quiet for
    /// long. The thread lives as long as its owner. When it is decided whether the kernel tells, the mailbox is woken.
    pub(super) fn open(self: &Arc<Self>, mailbox: &Mailbox) -> Option<Owner> {
        let time = self.set(Err(LOADING.to_owned()));
        let (kernel, mailbox) = (Arc::clone(self), mailbox.clone());
        let started = ending().and_then(|(owner, end)| {
            let thread = std::thread::Builder::new().name("execs".to_owned()).stack_size(STACK_BYTES);
            thread.spawn(move || kernel.run(time, &end, &mailbox)).map(|_| owner)
        });
        started.map_err(|error| self.close(&error.to_string())).ok()
    }

    fn run(&self, time: u64, end: &Ending, mailbox: &Mailbox) {
        let (source, wakeups) = match load() {
            Ok((source, wakeups)) => (Ok(source), Some(wakeups)),
            Err(why) => (Err(why), None),
        };
        {
            let mut asked = self.asked();
            if asked.times != time {
                return;
            }
            asked.source = source;
        }
        mailbox.wake();
        let Some(wakeups) = wakeups else { return };
        while end.wait(wakeups.as_fd(), PollFlags::IN).unwrap_or(false) {
            self.take_with(|source, sink| source.wait(Duration::ZERO, sink));
        }
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
        let mut asked = self.asked();
        let Ok(open) = &mut asked.source else { return };
        let mut told = Vec::new();
        // Without it processes are asked themselves, and alerts say so.
        if let Err(error) = read(open, &mut |event| told.push(event)) {
            asked.source = Err(text(&error));
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
