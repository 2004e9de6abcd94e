//! The agent's log: its own records and the lines of its modules, in one place and one form.
//!
//! [`AgentLog`] is no actor: whoever logs may not wait for a mailbox. It has one lock, held while lines are
//! handed to the kernel. Three rules follow from whom the lines come from and where they go:
//!
//! - Foreign text cannot forge a line or drive a terminal: everything is escaped ([`escape`]).
//! - The agent goes on when its log cannot be written, be the disk full or the reader of standard error stuck.
//!   It waits a little for a reader, then drops lines, counts them, says so in [`AgentLog::status`], and writes
//!   how many it dropped as soon as lines are taken again.
//! - Modules' lines are formatted without the lock, on the caller's thread, and written in batches.
//!
//! A file is written by a process of its own ([`writer`]), because a file system that hangs takes with it whoever
//! writes there. There is no queue in this process: one would be lost when it aborts, together with the lines that say
//! why.

pub mod escape;
mod line;
mod sink;
mod time;
pub mod writer;

use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::process::Child;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use slog::{Drain, Level, Logger, OwnedKVList, Record, o};
use tokio::time::Instant;

use self::line::{Shape, Source};
use self::sink::{Sink, WriteFailed};
pub use self::time::LogTime;
use vigie_config::model::{LogLevel, LoggingSection};

/// The local syslog daemon's socket.
const SYSLOG_SOCKET: &str = "/dev/log";

/// How long a record of the agent waits for the reader of its log. Heartbeats wait meanwhile, so it is short.
const RECORD_PATIENCE: Duration = Duration::from_millis(100);

/// How long a batch of modules' lines waits for the reader of the log. It waits on a thread of its own and holds
/// up only the module that wrote it; beyond it lines are dropped, lest modules miss heartbeats.
const BATCH_PATIENCE: Duration = Duration::from_secs(2);

/// Why the log cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// Standard error cannot be taken for the log.
    #[error("cannot use standard error for the log; set logging.mode to \"file\" or \"syslog\"")]
    StderrNotTaken {
        /// What the system says.
        source: io::Error,
    },
    /// The directory of the log file is not there and cannot be made.
    #[error(
        "cannot create the log file's directory {path:?}; set logging.file to a place the agent may write to"
    )]
    DirectoryNotCreated {
        /// The directory.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The process that writes the log file cannot be started.
    #[error("cannot start the process that writes the log file")]
    NoWriter {
        /// What the system says.
        source: io::Error,
    },
    /// The process that writes the log file cannot open it.
    #[error("{0}")]
    Refused(String),
    /// The log file cannot be opened or created.
    #[error("cannot open the log file {path:?}; set logging.file to a place the agent may write to")]
    NotOpened {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// There is something else under the log file's name.
    #[error(
        "the log file {path:?} is not a regular file (symbolic links are not followed); remove it or set logging.file to another path"
    )]
    NotRegular {
        /// What is there.
        path: PathBuf,
    },
}

/// The agent's log. Clones share one destination.
#[derive(Debug, Clone)]
pub struct AgentLog {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    /// Least severity that is written, as slog numbers it.
    level: AtomicU8,
    /// Form of the lines, see [`Shape::index`].
    shape: AtomicU8,
    syslog: PathBuf,
    /// The program that writes files for us; without one they are written here.
    writer: Option<PathBuf>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    sink: Sink,
    section: LoggingSection,
    /// Set from the first line lost until one is taken again.
    failure: Option<Failure>,
    /// Writers that still write what they had when another one took over.
    retired: Vec<Child>,
}

#[derive(Debug)]
struct Failure {
    error: String,
    since: LogTime,
    lost: u64,
}

impl AgentLog {
    /// Opens the log that the configuration describes.
    ///
    /// # Errors
    /// When the log file cannot be opened. That a syslog daemon is not running yet is no error.
    pub fn open(section: &LoggingSection) -> Result<Self, LogError> {
        Self::open_with(section, Path::new(SYSLOG_SOCKET), None)
    }

    /// The same, with a log file written by a process of its own: `program` with the command [`writer::COMMAND`].
    ///
    /// # Errors
    /// As [`AgentLog::open`]. That the file's disk does not answer is no error.
    pub fn open_through(section: &LoggingSection, program: &Path) -> Result<Self, LogError> {
        Self::open_with(section, Path::new(SYSLOG_SOCKET), Some(program))
    }

    fn open_with(section: &LoggingSection, syslog: &Path, writer: Option<&Path>) -> Result<Self, LogError> {
        let sink = Sink::open(section, syslog, writer)?;
        let state = State { sink, section: section.clone(), failure: None, retired: Vec::new() };
        Ok(Self {
            shared: Arc::new(Shared {
                level: AtomicU8::new(level_index(section.level)),
                shape: AtomicU8::new(Shape::of(section.mode, section.format).index()),
                syslog: syslog.to_owned(),
                writer: writer.map(Path::to_owned),
                state: Mutex::new(state),
            }),
        })
    }

    /// The root logger of the agent's own records. It never fails and never panics.
    pub fn logger(&self) -> Logger {
        Logger::root(RecordDrain(self.clone()).ignore_res(), o!())
    }

    /// Takes another level, format, mode, file or bound at once. Lines in flight may still have the old form.
    ///
    /// # Errors
    /// When a new log file cannot be opened; everything then stays as it was.
    pub fn apply(&self, section: &LoggingSection) -> Result<(), LogError> {
        let in_force = self.state().section.clone();
        let elsewhere = (in_force.mode, &in_force.file) != (section.mode, &section.file);
        let through_writer = self.shared.writer.is_some() && in_force != *section;
        // Opened before the lock is taken, which holds up everybody who logs.
        let opened = if elsewhere || through_writer { Some(self.open_sink(section)?) } else { None };
        let mut state = self.state();
        match opened {
            Some(sink) => state.take_sink(sink),
            None => {
                if let Sink::File(file) = &mut state.sink {
                    file.limit(section);
                }
            }
        }
        state.section = section.clone();
        self.shared.level.store(level_index(section.level), Ordering::Relaxed);
        self.shared.shape.store(Shape::of(section.mode, section.format).index(), Ordering::Relaxed);
        Ok(())
    }

    /// Opens the log file again after logrotate or a person moved it away; nothing to do for other modes.
    ///
    /// # Errors
    /// When the file cannot be opened; the agent then goes on writing to the one it has.
    pub fn reopen(&self) -> Result<(), LogError> {
        let section = match &mut *self.state() {
            State { sink: Sink::File(file), .. } => return file.reopen(),
            State { sink: Sink::Stderr(_) | Sink::Syslog(_), .. } => return Ok(()),
            State { sink: Sink::Writer(_), section, .. } => section.clone(),
        };
        let sink = self.open_sink(&section)?;
        self.state().take_sink(sink);
        Ok(())
    }

    fn open_sink(&self, section: &LoggingSection) -> Result<Sink, LogError> {
        Sink::open(section, &self.shared.syslog, self.shared.writer.as_deref())
    }

    /// Asks the process that writes the file whether the file system takes writes; see [`AgentLog::silent_for`].
    pub fn probe(&self) {
        if let Sink::Writer(writer) = &mut self.state().sink {
            writer.look_after();
            writer.probe();
        }
    }

    /// How long a probe has waited for its answer.
    #[must_use]
    pub fn silent_for(&self) -> Option<Duration> {
        let mut state = self.state();
        state.retired.retain_mut(|child| matches!(child.try_wait(), Ok(None)));
        match &mut state.sink {
            Sink::Writer(writer) => {
                writer.look_after();
                writer.silent_for()
            }
            Sink::Stderr(_) | Sink::File(_) | Sink::Syslog(_) => None,
        }
    }

    /// Waits a little until the process that writes the file has written everything, and ends it. Nothing is logged
    /// afterwards.
    pub fn finish(&self, patience: Duration) {
        if let Sink::Writer(writer) = &mut self.state().sink {
            writer.finish(patience);
        }
    }

    /// Has the file system with the log file take an order that changes nothing; returns when it did.
    pub(crate) fn touch(&self) {
        let path = self.state().section.file.clone();
        // Renaming a file to its own name is an order like any other until the kernel sees that nothing is to be done.
        std::fs::rename(&path, &path).ok();
    }

    /// Appends a module's line in the log's form, ready for [`AgentLog::write_module_lines`]. `source` is `log`,
    /// `stderr` or `alert`. Nothing is appended for logs and stderr while the level is above `info`; alerts are
    /// always written, they are what the agent is for.
    ///
    /// Takes no lock and no time stamp; lines that arrived together share one [`LogTime`].
    pub fn format_module_line(
        &self,
        buffer: &mut Vec<u8>,
        time: &LogTime,
        module: &str,
        source: &str,
        text: &str,
    ) {
        let source = Source::named(source);
        if source == Source::Alert || self.writes(source.level()) {
            line::push_module_line(buffer, self.shape(), time, module, source, text);
        }
    }

    /// The same for alerts that came together, whose texts are valid JSON strings: they are copied where the log shows
    /// them as JSON does.
    pub fn format_alert_lines<'a>(
        &self,
        buffer: &mut Vec<u8>,
        time: &LogTime,
        module: &str,
        texts: impl IntoIterator<Item = &'a str>,
    ) {
        line::push_json_text_lines(buffer, self.shape(), time, module, Source::Alert, texts);
    }

    /// Writes lines made by [`AgentLog::format_module_line`]. Blocks while the disk works, and up to two seconds
    /// while nobody reads the log: call it where that holds up only the module.
    ///
    /// # Errors
    /// When not all lines were taken; the others are lost, counted, and reported by [`AgentLog::status`].
    pub fn write_module_lines(&self, buffer: &[u8]) -> io::Result<()> {
        self.write(buffer, BATCH_PATIENCE)
    }

    /// Why the log is not written as it should be at present, as a sentence for `status`.
    #[must_use]
    pub fn status(&self) -> Option<String> {
        let mut state = self.state();
        if let Sink::Writer(writer) = &mut state.sink {
            writer.look_after();
        }
        match &state.failure {
            Some(failure) => Some(format!(
                "the agent's log has not been written since {}: {}; {} lines lost so far",
                failure.since.as_str(),
                failure.error,
                failure.lost
            )),
            None => state.sink.problem().map(ToOwned::to_owned),
        }
    }

    fn write(&self, mut lines: &[u8], patience: Duration) -> io::Result<()> {
        if lines.is_empty() {
            return Ok(());
        }
        let mut lost = 0;
        // One budget for all waits: a reader that takes a line now and then must not hold the writer for ever.
        let mut deadline = None;
        loop {
            let mut state = self.state();
            if state.failure.is_some() {
                // Whoever did not read for so long is not waited for again until it does.
                deadline = Some(Instant::now());
                if let Err(error) = state.report_loss(self.shape()) {
                    state.count_loss(count_lines(lines), &error);
                    return Err(error);
                }
            }
            let Err(WriteFailed { taken, lost: torn, error }) = state.sink.write(lines) else {
                return Ok(());
            };
            lines = &lines[taken..];
            lost += torn;
            let reader = state.sink.reader();
            // Others may write while this thread waits.
            drop(state);
            if error.kind() == ErrorKind::WouldBlock
                && lost == 0
                && let Some(reader) = reader
            {
                let deadline = *deadline.get_or_insert_with(|| Instant::now() + patience);
                let left = deadline.saturating_duration_since(Instant::now());
                if !left.is_zero() && reader.wait(left) {
                    continue;
                }
            }
            self.state().count_loss(lost + count_lines(lines), &error);
            return Err(error);
        }
    }

    /// How long a record of the agent may wait: it comes from the thread that nothing may hold up, and what the socket
    /// to the writer cannot take will not be taken soon.
    fn record_patience(&self) -> Duration {
        match self.state().sink {
            Sink::Writer(_) => Duration::ZERO,
            Sink::Stderr(_) | Sink::File(_) | Sink::Syslog(_) => RECORD_PATIENCE,
        }
    }

    fn writes(&self, level: Level) -> bool {
        level.as_usize() <= usize::from(self.shared.level.load(Ordering::Relaxed))
    }

    fn shape(&self) -> Shape {
        Shape::from_index(self.shared.shape.load(Ordering::Relaxed))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing in the lock can be half done in a way that matters to the next line.
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn take_sink(&mut self, sink: Sink) {
        if let Sink::Writer(writer) = std::mem::replace(&mut self.sink, sink) {
            self.retired.push(writer.retire());
        }
    }

    fn count_loss(&mut self, lines: u64, error: &io::Error) {
        let error = match error.kind() {
            ErrorKind::WouldBlock if matches!(self.sink, Sink::Writer(_)) => {
                "its file system is too slow".to_owned()
            }
            ErrorKind::WouldBlock => "nobody reads it".to_owned(),
            _ => error.to_string(),
        };
        let failure = self.failure.get_or_insert_with(|| Failure {
            error: String::new(),
            since: LogTime::now(),
            lost: 0,
        });
        failure.error = error;
        failure.lost += lines;
    }

    /// Tries whether lines are taken again, by writing how many were not.
    fn report_loss(&mut self, shape: Shape) -> io::Result<()> {
        let Some(failure) = &self.failure else { return Ok(()) };
        let mut line = Vec::with_capacity(128);
        line::push_own_line(
            &mut line,
            shape,
            &LogTime::now(),
            "log lines were lost",
            failure.lost,
            &failure.error,
        );
        self.sink.write(&line).map_err(|failed| failed.error)?;
        self.failure = None;
        Ok(())
    }
}

/// Takes the agent's own records from slog.
struct RecordDrain(AgentLog);

impl Drain for RecordDrain {
    type Ok = ();
    type Err = io::Error;

    fn log(&self, record: &Record<'_>, values: &OwnedKVList) -> io::Result<()> {
        if !self.0.writes(record.level()) {
            return Ok(());
        }
        let mut line = Vec::with_capacity(256);
        line::push_record(&mut line, self.0.shape(), &LogTime::now(), record, values)?;
        self.0.write(&line, self.0.record_patience())
    }

    fn is_enabled(&self, level: Level) -> bool {
        self.0.writes(level)
    }
}

fn level_index(level: LogLevel) -> u8 {
    let level = match level {
        LogLevel::Error => Level::Error,
        LogLevel::Warning => Level::Warning,
        LogLevel::Info => Level::Info,
        LogLevel::Debug => Level::Debug,
    };
    u8::try_from(level.as_usize()).unwrap_or(u8::MAX)
}

fn count_lines(lines: &[u8]) -> u64 {
    lines.iter().filter(|byte| **byte == b'\n').count() as u64
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::net::UnixDatagram;

    use slog::{debug, info, warn};

    use super::*;
    use vigie_config::model::{LogFormat, LogMode};

    fn section(file: &Path) -> LoggingSection {
        LoggingSection { mode: LogMode::File, file: file.to_owned(), ..LoggingSection::default() }
    }

    fn module_lines(log: &AgentLog, texts: &[&str]) -> Vec<u8> {
        let mut buffer = Vec::new();
        for text in texts {
            log.format_module_line(&mut buffer, &LogTime::now(), "fswatch", "log", text);
        }
        buffer
    }

    #[test]
    fn records_and_module_lines_go_to_the_file_in_order() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("agent.log");
        let log = AgentLog::open(&section(&path)).unwrap();

        info!(log.logger(), "module started"; "module" => "fswatch");
        log.write_module_lines(&module_lines(&log, &["one", "two\nthree"])).unwrap();
        debug!(log.logger(), "not at this level");

        let text = fs::read_to_string(&path).unwrap();
        let lines: Vec<&str> = text.lines().map(|line| &line[24..]).collect();
        assert_eq!(
            lines,
            [" INFO  module started  module=fswatch", " INFO  fswatch: one", r" INFO  fswatch: two\nthree"]
        );
        assert_eq!(log.status(), None);
    }

    #[test]
    fn level_format_and_file_change_while_the_agent_runs() {
        let directory = tempfile::tempdir().unwrap();
        let first = directory.path().join("first.log");
        let second = directory.path().join("second.log");
        let log = AgentLog::open(&section(&first)).unwrap();
        let logger = log.logger();

        log.apply(&LoggingSection { format: LogFormat::Json, level: LogLevel::Warning, ..section(&second) })
            .unwrap();
        info!(logger, "too quiet");
        warn!(logger, "loud enough");
        let mut buffer = module_lines(&log, &["too quiet as well"]);
        log.format_module_line(&mut buffer, &LogTime::now(), "fswatch", "alert", "an alert");
        log.write_module_lines(&buffer).unwrap();

        assert_eq!(fs::read_to_string(&first).unwrap(), "");
        let text = fs::read_to_string(&second).unwrap();
        let messages: Vec<String> = text
            .lines()
            .map(|line| {
                serde_json::from_str::<serde_json::Value>(line).unwrap()["msg"].as_str().unwrap().to_owned()
            })
            .collect();
        assert_eq!(messages, ["loud enough", "module alert"]);
    }

    #[test]
    fn a_log_file_that_cannot_be_opened_changes_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("agent.log");
        let log = AgentLog::open(&section(&path)).unwrap();

        let error = log.apply(&section(&path.join("below a file"))).unwrap_err();

        assert!(matches!(error, LogError::DirectoryNotCreated { .. }));
        info!(log.logger(), "still here");
        assert!(fs::read_to_string(&path).unwrap().contains("still here"));
    }

    #[test]
    fn lines_lost_are_counted_and_reported_when_the_log_is_written_again() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("log");
        let section = LoggingSection { mode: LogMode::Syslog, ..LoggingSection::default() };
        let log = AgentLog::open_with(&section, &socket, None).unwrap();
        info!(log.logger(), "nobody listens");
        log.write_module_lines(&module_lines(&log, &["one", "two"])).unwrap_err();
        assert!(log.status().unwrap().ends_with("3 lines lost so far"), "{:?}", log.status());

        let daemon = UnixDatagram::bind(&socket).unwrap();
        info!(log.logger(), "somebody listens");

        let mut datagram = [0; 512];
        let mut receive = || {
            let length = daemon.recv(&mut datagram).unwrap();
            String::from_utf8_lossy(&datagram[..length]).into_owned()
        };
        assert!(receive().contains("log lines were lost  component=agent_log dropped=3"));
        assert!(receive().ends_with("somebody listens"));
        assert_eq!(log.status(), None);
    }

    #[test]
    fn a_full_disk_is_survived_and_said() {
        // The kernel's full disk: every write fails with ENOSPC. It is no regular file, so it is put in by hand.
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("agent.log");
        let log = AgentLog::open(&section(&path)).unwrap();
        if let Sink::File(file) = &mut log.state().sink {
            file.replace_for_test(fs::OpenOptions::new().write(true).open("/dev/full").unwrap());
        }

        info!(log.logger(), "lost");
        assert!(log.write_module_lines(&module_lines(&log, &["lost too"])).is_err());

        let status = log.status().unwrap();
        assert!(status.contains("No space left on device") && status.contains("2 lines lost"), "{status}");
        log.reopen().unwrap();
        info!(log.logger(), "recovered");
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains("log lines were lost  component=agent_log dropped=2"), "{text}");
        assert!(text.ends_with("INFO  recovered\n"), "{text}");
    }

    #[test]
    fn a_slow_reader_of_standard_error_gets_every_line() {
        let directory = tempfile::tempdir().unwrap();
        let log = AgentLog::open(&section(&directory.path().join("agent.log"))).unwrap();
        let (mut reader, writer) = io::pipe().unwrap();
        log.state().sink = Sink::stderr_for_test(writer.into());
        let lines = module_lines(&log, &["x".repeat(1000).as_str(); 1000]);

        let read = std::thread::spawn(move || {
            let mut text = Vec::new();
            io::Read::read_to_end(&mut reader, &mut text).unwrap();
            text
        });
        log.write_module_lines(&lines).unwrap();

        drop(log);
        assert_eq!(read.join().unwrap(), lines);
    }

    #[test]
    fn lines_of_many_threads_are_never_mixed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("agent.log");
        let log =
            AgentLog::open(&LoggingSection { max_file_bytes: 4096, keep_files: 1000, ..section(&path) })
                .unwrap();

        std::thread::scope(|scope| {
            for thread in 0..4 {
                let log = log.clone();
                scope.spawn(move || {
                    let text = format!("thread {thread} writes {}", "x".repeat(50));
                    for _ in 0..100 {
                        log.write_module_lines(&module_lines(&log, &[&text, &text])).unwrap();
                        info!(log.logger(), "own"; "thread" => thread);
                    }
                });
            }
        });

        let mut lines = 0;
        for file in fs::read_dir(directory.path()).unwrap() {
            for line in fs::read_to_string(file.unwrap().path()).unwrap().lines() {
                assert!(line.ends_with(&"x".repeat(50)) || line.contains("INFO  own  thread="), "{line}");
                lines += 1;
            }
        }
        assert_eq!(lines, 4 * 100 * 3);
    }
}
