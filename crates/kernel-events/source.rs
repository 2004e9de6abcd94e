//! Opens the best source that this host allows, and reads it.

use std::os::fd::BorrowedFd;
use std::time::Duration;

use crate::connector::Connector;
use crate::counters::{Counters, Kind};
use crate::event::Event;

/// What is wanted of a source.
#[derive(Debug, Clone)]
pub struct Options {
    /// Kinds that the programs send at all.
    pub kinds: Vec<Kind>,
    /// Bytes between kernel and reader, rounded up to a power of two.
    pub ring_bytes: u32,
    /// The reader is woken when this much waits; until then it looks by itself.
    pub wake_bytes: u32,
    /// Bytes of arguments that are taken, at most 4096.
    pub argument_bytes: u32,
    /// Bytes of the environment that are looked through for variables that change what a program does, at most 4096.
    pub environment_bytes: u32,
    /// Use BPF where it can be loaded.
    pub bpf: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            kinds: Kind::ALL.to_vec(),
            ring_bytes: 1 << 20,
            wake_bytes: 256 * 1024,
            argument_bytes: 4096,
            environment_bytes: 4096,
            bpf: true,
        }
    }
}

impl Options {
    /// One bit for each kind.
    #[cfg_attr(not(bpf_program), expect(dead_code, reason = "only the programs read it"))]
    pub(crate) fn wanted_bits(&self) -> u32 {
        self.kinds.iter().fold(0, |bits, kind| bits | 1 << *kind as u32)
    }
}

/// Why a source cannot be had or read.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// BPF was left out of this build.
    #[error("BPF is not part of this build: {0}")]
    NotBuilt(&'static str),
    /// The programs cannot be used on this host.
    #[error("the BPF programs cannot {what}: {why}")]
    Bpf {
        /// What they cannot.
        what: &'static str,
        /// The kernel's or libbpf's reason.
        why: String,
    },
    /// The process connector cannot be used on this host.
    #[error("the process connector cannot {what}")]
    Connector {
        /// What it cannot.
        what: &'static str,
        /// The kernel's reason.
        #[source]
        source: std::io::Error,
    },
    /// Numbers of processes are told as the first namespace has them.
    #[error("PIDs here differ from those in the host's initial PID namespace")]
    OtherNumbers,
    /// It was not wanted.
    #[error("BPF is disabled")]
    SwitchedOff,
}

/// Which source it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SourceKind {
    /// BPF programs on the kernel's tracepoints.
    Bpf,
    /// The process connector and `/proc`.
    Connector,
}

impl SourceKind {
    /// A word for it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Bpf => "bpf",
            Self::Connector => "proc-connector",
        }
    }

    /// What it cannot see, one text for each; empty for the whole source.
    #[must_use]
    pub fn blind_spots(self) -> &'static [&'static str] {
        match self {
            Self::Bpf => &[],
            Self::Connector => &[
                "connections and listening sockets",
                "arguments and programs of processes that end within a millisecond",
                "arguments as executed: only those that the process shows later",
                "which program gained privileges by setuid",
            ],
        }
    }
}

/// A running source. One thread reads it at a time.
#[derive(Debug)]
pub struct Source {
    reading: Reading,
    /// Changes of users and traced processes, which BPF has no tracepoint for.
    beside: Option<Connector>,
    not_used: Vec<SourceError>,
}

#[derive(Debug)]
enum Reading {
    #[cfg(bpf_program)]
    Bpf(Box<crate::bpf::BpfSource>),
    Connector(Box<Connector>),
}

impl Source {
    /// Opens BPF, or the process connector where BPF cannot be had.
    ///
    /// # Errors
    /// When none can be had: what each one failed with.
    pub fn open(options: &Options) -> Result<Self, Vec<SourceError>> {
        let mut not_used = Vec::new();
        match open_bpf(options) {
            Ok(reading) => {
                // Only with the kernel's filter: all events of all processes would cost more than BPF itself.
                let beside = Connector::open_beside().map_err(|error| not_used.push(error)).ok();
                return Ok(Self { reading, beside, not_used });
            }
            Err(error) => not_used.push(error),
        }
        match Connector::open() {
            Ok(connector) => {
                Ok(Self { reading: Reading::Connector(Box::new(connector)), beside: None, not_used })
            }
            Err(error) => {
                not_used.push(error);
                Err(not_used)
            }
        }
    }

    /// Opens BPF alone, with nothing beside it: for whoever asks about processes, and does better without than with a
    /// lesser source.
    ///
    /// # Errors
    /// Why it cannot be had, or that process numbers are others here than the kernel's programs tell.
    pub fn open_bpf(options: &Options) -> Result<Self, SourceError> {
        if !crate::proc::is_first_pid_namespace() {
            return Err(SourceError::OtherNumbers);
        }
        Ok(Self { reading: open_bpf(options)?, beside: None, not_used: Vec::new() })
    }

    /// What is readable when so much waits that it should be read now; not of the process connector.
    #[must_use]
    pub fn wakeups(&self) -> Option<BorrowedFd<'_>> {
        match &self.reading {
            #[cfg(bpf_program)]
            Reading::Bpf(bpf) => Some(bpf.wakeups()),
            Reading::Connector(_) => None,
        }
    }

    /// Which one it is.
    #[must_use]
    pub fn kind(&self) -> SourceKind {
        match self.reading {
            #[cfg(bpf_program)]
            Reading::Bpf(_) => SourceKind::Bpf,
            Reading::Connector(_) => SourceKind::Connector,
        }
    }

    /// Whether changes of users and traced processes are told as they happen.
    #[must_use]
    pub fn tells_credentials(&self) -> bool {
        self.beside.is_some() || self.kind() == SourceKind::Connector
    }

    /// Why a better source, or a part beside it, is not used.
    #[must_use]
    pub fn not_used(&self) -> &[SourceError] {
        &self.not_used
    }

    /// Waits at most this long and hands on what there is. With BPF it returns early only when much waits: call it in a
    /// loop, with 100 ms or so.
    ///
    /// # Errors
    /// When the source cannot be read any more: open another one.
    pub fn wait(&mut self, timeout: Duration, mut sink: impl FnMut(Event)) -> Result<(), SourceError> {
        match &mut self.reading {
            #[cfg(bpf_program)]
            Reading::Bpf(bpf) => bpf.wait(timeout, &mut sink)?,
            Reading::Connector(connector) => connector.wait(timeout, &mut sink)?,
        }
        match &mut self.beside {
            Some(beside) => beside.drain(&mut sink),
            None => Ok(()),
        }
    }

    /// Hands on what happened until now, without waiting. Whoever learns of a change by other means calls this before
    /// he asks who made it.
    ///
    /// # Errors
    /// As [`Source::wait`].
    pub fn drain(&mut self, mut sink: impl FnMut(Event)) -> Result<(), SourceError> {
        match &mut self.reading {
            #[cfg(bpf_program)]
            Reading::Bpf(bpf) => bpf.drain(&mut sink),
            Reading::Connector(connector) => connector.drain(&mut sink),
        }
    }

    /// What was told and lost until now.
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub fn counters(&self) -> Result<Counters, SourceError> {
        let mut counters = match &self.reading {
            #[cfg(bpf_program)]
            Reading::Bpf(bpf) => bpf.counters()?,
            Reading::Connector(connector) => connector.counters(),
        };
        if let Some(beside) = &self.beside {
            counters.lost_of_any_kind += beside.counters().lost_of_any_kind;
        }
        Ok(counters)
    }
}

#[cfg(bpf_program)]
fn open_bpf(options: &Options) -> Result<Reading, SourceError> {
    if !options.bpf {
        return Err(SourceError::SwitchedOff);
    }
    crate::bpf::BpfSource::open(options).map(Box::new).map(Reading::Bpf)
}

#[cfg(not(bpf_program))]
fn open_bpf(options: &Options) -> Result<Reading, SourceError> {
    match options.bpf {
        true => Err(SourceError::NotBuilt(env!("VIGIE_NO_BPF_PROGRAM"))),
        false => Err(SourceError::SwitchedOff),
    }
}
