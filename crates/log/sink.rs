//! Where lines go: standard error, a file that is rotated, or the local syslog socket.
//!
//! A sink takes whole lines and says how many bytes of them it took. It never waits for a reader: standard
//! error and syslog answer `WouldBlock` when nobody reads, and the caller decides how long to be patient.

use std::fs::{DirBuilder, File, Metadata, OpenOptions, Permissions};
use std::io::{self, ErrorKind, Write as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::LogError;
use super::writer::Writer;
use vigie_config::model::{LogMode, LoggingSection};
use vigie_protocol::error_chain::ErrorChain;

/// Most bytes written to standard error at once: POSIX's `PIPE_BUF` on Linux. A pipe that poll(2) calls
/// writable takes so many without blocking.
const STDERR_CHUNK_BYTES: usize = 4096;

/// Longest that a line already begun on standard error may hold up the next one.
const UNFINISHED_LINE_PATIENCE: Duration = Duration::from_millis(200);

/// Longest datagram to syslog in bytes; rsyslog's default `$MaxMessageSize`. Longer lines are cut.
const SYSLOG_LINE_BYTES: usize = 8192;

/// Lines that were not all taken.
#[derive(Debug)]
pub(super) struct WriteFailed {
    /// Bytes of whole lines that were taken, and with them lines that nothing can save any more.
    pub(super) taken: usize,
    /// Lines among them that were lost.
    pub(super) lost: u64,
    pub(super) error: io::Error,
}

/// An open destination.
#[derive(Debug)]
pub(super) enum Sink {
    Stderr(Stderr),
    File(LogFile),
    Syslog(Syslog),
    /// A file that another process writes.
    Writer(Box<Writer>),
}

impl Sink {
    /// Opens what the configuration names. A syslog daemon that is not there yet is no error.
    pub(super) fn open(
        section: &LoggingSection,
        syslog: &Path,
        writer: Option<&Path>,
    ) -> Result<Self, LogError> {
        match section.mode {
            LogMode::Stderr => {
                let output = io::stderr().as_fd().try_clone_to_owned();
                output
                    .map(|output| Self::Stderr(Stderr { output: Arc::new(output), torn: false }))
                    .map_err(|source| LogError::StderrNotTaken { source })
            }
            LogMode::File => match writer {
                Some(program) => Writer::start(program, section).map(|writer| Self::Writer(Box::new(writer))),
                None => LogFile::open(section).map(Self::File),
            },
            LogMode::Syslog => Ok(Self::Syslog(Syslog { path: syslog.to_owned(), socket: None })),
        }
    }

    /// Takes a pipe for standard error.
    #[cfg(test)]
    pub(super) fn stderr_for_test(output: OwnedFd) -> Self {
        Self::Stderr(Stderr { output: Arc::new(output), torn: false })
    }

    /// Writes whole lines without waiting for a reader.
    pub(super) fn write(&mut self, lines: &[u8]) -> Result<(), WriteFailed> {
        match self {
            Self::Stderr(stderr) => stderr.write(lines),
            Self::File(file) => file.write(lines),
            Self::Syslog(syslog) => syslog.write(lines),
            Self::Writer(writer) => writer.write(lines),
        }
    }

    /// What to wait for after `WouldBlock`; a file has no reader.
    pub(super) fn reader(&self) -> Option<Reader> {
        match self {
            Self::Stderr(stderr) => Some(Reader::Descriptor(stderr.output.clone())),
            Self::File(_) => None,
            Self::Syslog(syslog) => syslog.socket.clone().map(Reader::Syslog),
            Self::Writer(writer) => Some(Reader::Descriptor(writer.socket())),
        }
    }

    /// What is wrong although lines are written.
    pub(super) fn problem(&self) -> Option<&str> {
        match self {
            Self::File(file) => file.problem.as_deref(),
            Self::Writer(writer) => writer.status(),
            _ => None,
        }
    }
}

/// The one who has to read before a sink takes more.
pub(super) enum Reader {
    Descriptor(Arc<OwnedFd>),
    Syslog(Arc<UnixDatagram>),
}

impl Reader {
    /// Waits until the sink may take more; false when the time is over.
    pub(super) fn wait(&self, patience: Duration) -> bool {
        match self {
            Self::Descriptor(output) => is_writable(output.as_fd(), patience),
            Self::Syslog(socket) => is_writable(socket.as_fd(), patience),
        }
    }
}

/// Whether a write would not block, or becomes so in time. An error on the descriptor counts as writable: the
/// write will name it.
pub(super) fn is_writable(descriptor: BorrowedFd<'_>, patience: Duration) -> bool {
    is_ready(descriptor, PollFlags::POLLOUT, patience)
}

/// Whether there is something to read, or comes in time.
pub(super) fn is_readable(descriptor: BorrowedFd<'_>, patience: Duration) -> bool {
    is_ready(descriptor, PollFlags::POLLIN, patience)
}

fn is_ready(descriptor: BorrowedFd<'_>, event: PollFlags, patience: Duration) -> bool {
    let timeout = PollTimeout::try_from(patience).unwrap_or(PollTimeout::MAX);
    let mut polled = [PollFd::new(descriptor, event)];
    match poll(&mut polled, timeout) {
        Ok(ready) => ready > 0,
        Err(Errno::EINTR) => false,
        Err(_) => true,
    }
}

/// Bytes of the whole lines at the beginning of `lines` that fit into `room`.
pub(super) fn whole_lines_within(lines: &[u8], room: usize) -> usize {
    if lines.len() <= room {
        return lines.len();
    }
    lines[..room].iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1)
}

/// Bytes of the first line, with its line feed.
pub(super) fn first_line(lines: &[u8]) -> usize {
    lines.iter().position(|byte| *byte == b'\n').map_or(lines.len(), |at| at + 1)
}

/// Standard error.
#[derive(Debug)]
pub(super) struct Stderr {
    output: Arc<OwnedFd>,
    /// The last line was not written to its end.
    torn: bool,
}

impl Stderr {
    fn write(&mut self, lines: &[u8]) -> Result<(), WriteFailed> {
        let mut taken = 0;
        while taken < lines.len() {
            let rest = &lines[taken..];
            let chunk = match whole_lines_within(rest, STDERR_CHUNK_BYTES) {
                0 => first_line(rest),
                whole => whole,
            };
            self.write_chunk(&rest[..chunk]).map_err(|(begun, error)| WriteFailed {
                // A line that was begun cannot be written again from its start.
                taken: taken + if begun { chunk } else { 0 },
                lost: u64::from(begun),
                error,
            })?;
            taken += chunk;
        }
        Ok(())
    }

    /// Writes lines that fit into a pipe at once, or one line that does not; says with an error whether some of
    /// it was written.
    fn write_chunk(&mut self, chunk: &[u8]) -> Result<(), (bool, io::Error)> {
        let would_block = || io::Error::from(ErrorKind::WouldBlock);
        if !is_writable(self.output.as_fd(), Duration::ZERO) {
            return Err((false, would_block()));
        }
        if self.torn {
            self.write_some(b"\n").map_err(|error| (false, error))?;
            self.torn = false;
        }
        let mut written = 0;
        while written < chunk.len() {
            let end = chunk.len().min(written + STDERR_CHUNK_BYTES);
            let result = if written > 0 && !is_writable(self.output.as_fd(), UNFINISHED_LINE_PATIENCE) {
                Err(would_block())
            } else {
                self.write_some(&chunk[written..end])
            };
            match result {
                Ok(count) => written += count,
                Err(error) => {
                    self.torn = written > 0;
                    return Err((written > 0, error));
                }
            }
        }
        Ok(())
    }

    /// Writes what is taken at once.
    fn write_some(&self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            match nix::unistd::write(&self.output, bytes) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(count) => return Ok(count),
                Err(Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// The log file.
#[derive(Debug)]
pub(super) struct LogFile {
    file: File,
    path: PathBuf,
    max_bytes: u64,
    keep_files: u32,
    /// Size in bytes at which the file is rotated; above `max_bytes` after a rotation that failed.
    rotate_at: u64,
    /// The last line was not written to its end.
    torn: bool,
    /// Why the file was not rotated or reopened.
    problem: Option<String>,
}

impl LogFile {
    fn open(section: &LoggingSection) -> Result<Self, LogError> {
        Ok(Self {
            file: open_file(&section.file)?,
            path: section.file.clone(),
            max_bytes: section.max_file_bytes,
            keep_files: section.keep_files,
            rotate_at: section.max_file_bytes,
            torn: false,
            problem: None,
        })
    }

    /// Takes new bounds.
    pub(super) fn limit(&mut self, section: &LoggingSection) {
        self.max_bytes = section.max_file_bytes;
        self.keep_files = section.keep_files;
        self.rotate_at = section.max_file_bytes;
    }

    /// Opens the path again, after somebody moved the file away.
    pub(super) fn reopen(&mut self) -> Result<(), LogError> {
        self.file = open_file(&self.path)?;
        self.rotate_at = self.max_bytes;
        self.torn = false;
        self.problem = None;
        Ok(())
    }

    #[cfg(test)]
    pub(super) fn replace_for_test(&mut self, file: File) {
        self.file = file;
    }

    fn write(&mut self, lines: &[u8]) -> Result<(), WriteFailed> {
        let mut taken = 0;
        while taken < lines.len() {
            let rest = &lines[taken..];
            let size = self.size();
            let room = usize::try_from(self.rotate_at.saturating_sub(size)).unwrap_or(usize::MAX);
            let part = match whole_lines_within(rest, room) {
                0 if size > 0 && self.rotate(size) => continue,
                // A line that is larger than a whole file, or cannot get a new one, has to go somewhere.
                0 => first_line(rest),
                whole => whole,
            };
            self.append(&rest[..part]).map_err(|(whole, error)| {
                let begun = if self.torn { first_line(&rest[whole..]) } else { 0 };
                WriteFailed { taken: taken + whole + begun, lost: u64::from(self.torn), error }
            })?;
            taken += part;
        }
        Ok(())
    }

    /// The file's size as it is now; logrotate's `copytruncate` changes it behind our back. A file that was
    /// deleted is created again.
    fn size(&mut self) -> u64 {
        let size = self.file.metadata().ok().filter(|found| found.nlink() > 0).map(|found| found.size());
        if let Some(size) = size {
            return size;
        }
        match self.reopen() {
            Ok(()) => self.file.metadata().map_or(0, |found| found.size()),
            Err(error) => {
                self.problem = Some(ErrorChain(&error).to_string());
                0
            }
        }
    }

    /// Appends lines; with an error how many bytes of whole lines were written.
    fn append(&mut self, lines: &[u8]) -> Result<(), (usize, io::Error)> {
        if self.torn {
            self.file.write_all(b"\n").map_err(|error| (0, error))?;
            self.torn = false;
        }
        let mut written = 0;
        while written < lines.len() {
            let error = match self.file.write(&lines[written..]) {
                Ok(0) => ErrorKind::WriteZero.into(),
                Ok(count) => {
                    written += count;
                    continue;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => error,
            };
            let whole = whole_lines_within(lines, written);
            self.torn = written > whole;
            return Err((whole, error));
        }
        Ok(())
    }

    /// Moves `agent.log` to `agent.log.1` and so on. When that fails the file grows on, and it is tried again
    /// an eighth of the file's size later. Says whether it worked.
    fn rotate(&mut self, size: u64) -> bool {
        match self.try_rotate() {
            Ok(file) => {
                self.file = file;
                self.rotate_at = self.max_bytes;
                self.torn = false;
                self.problem = None;
            }
            Err(error) => {
                self.rotate_at = size.saturating_add(self.max_bytes / 8).saturating_add(1);
                self.problem = Some(format!("the log file {:?} is not rotated: {error}", self.path));
                return false;
            }
        }
        true
    }

    fn try_rotate(&self) -> io::Result<File> {
        let fresh = with_suffix(&self.path, "new");
        // Left over from a crash between creating and renaming; we never wrote to it.
        remove_if_there(&fresh)?;
        let file = create_file(&fresh)?;
        if let Err(error) = self.shift(&fresh) {
            remove_if_there(&fresh)?;
            return Err(error);
        }
        Ok(file)
    }

    /// Moves every file one number up and the fresh one to the file's own name.
    fn shift(&self, fresh: &Path) -> io::Result<()> {
        for number in (1..self.keep_files).rev() {
            let from = with_suffix(&self.path, &number.to_string());
            rename_if_there(&from, &with_suffix(&self.path, &(number + 1).to_string()))?;
        }
        if self.keep_files > 0 {
            rename_if_there(&self.path, &with_suffix(&self.path, "1"))?;
        }
        std::fs::rename(fresh, &self.path)
    }
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(suffix);
    name.into()
}

fn rename_if_there(from: &Path, to: &Path) -> io::Result<()> {
    std::fs::rename(from, to)
        .or_else(|error| if error.kind() == ErrorKind::NotFound { Ok(()) } else { Err(error) })
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    std::fs::remove_file(path)
        .or_else(|error| if error.kind() == ErrorKind::NotFound { Ok(()) } else { Err(error) })
}

/// Creates a file that only its owner writes and its group reads, whatever the umask.
fn create_file(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new()
        .append(true)
        .create_new(true)
        .mode(0o640)
        .custom_flags(OFlag::O_NOFOLLOW.bits())
        .open(path)?;
    file.set_permissions(Permissions::from_mode(0o640))?;
    Ok(file)
}

/// Opens the log file for appending, creating it and its directories when they are not there.
///
/// Only a regular file that is no symbolic link is taken: the agent may be root, and the directory another's.
fn open_file(path: &Path) -> Result<File, LogError> {
    if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        DirBuilder::new()
            .recursive(true)
            .mode(0o750)
            .create(parent)
            .map_err(|source| LogError::DirectoryNotCreated { path: parent.to_owned(), source })?;
    }
    let not_opened = |source: io::Error| LogError::NotOpened { path: path.to_owned(), source };
    match create_file(path) {
        Ok(file) => return Ok(file),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
        Err(error) => return Err(not_opened(error)),
    }
    let file = OpenOptions::new()
        .append(true)
        // O_NONBLOCK: opening a FIFO would wait for its reader.
        .custom_flags((OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK).bits())
        .open(path)
        .map_err(|error| match error.raw_os_error().map(Errno::from_raw) {
            Some(Errno::ELOOP | Errno::ENXIO | Errno::EISDIR) => {
                LogError::NotRegular { path: path.to_owned() }
            }
            _ => not_opened(error),
        })?;
    let regular = file.metadata().as_ref().is_ok_and(Metadata::is_file);
    if regular { Ok(file) } else { Err(LogError::NotRegular { path: path.to_owned() }) }
}

/// The local syslog socket. Connected when there is something to say, and again whenever the daemon went away.
#[derive(Debug)]
pub(super) struct Syslog {
    path: PathBuf,
    socket: Option<Arc<UnixDatagram>>,
}

impl Syslog {
    /// Sends each line as one datagram.
    fn write(&mut self, lines: &[u8]) -> Result<(), WriteFailed> {
        let mut taken = 0;
        while taken < lines.len() {
            let length = first_line(&lines[taken..]);
            let line = &lines[taken..taken + length];
            self.send(datagram(line.strip_suffix(b"\n").unwrap_or(line))).map_err(|error| WriteFailed {
                taken,
                lost: 0,
                error,
            })?;
            taken += length;
        }
        Ok(())
    }

    fn send(&mut self, datagram: &[u8]) -> io::Result<()> {
        if let Some(socket) = &self.socket {
            match socket.send(datagram) {
                Ok(_) => return Ok(()),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Err(error),
                Err(error) if error.raw_os_error() == Some(Errno::ENOBUFS as i32) => {
                    return Err(ErrorKind::WouldBlock.into());
                }
                // The daemon went away, perhaps for good, perhaps to come back with a new socket.
                Err(_) => self.socket = None,
            }
        }
        let socket = UnixDatagram::unbound()?;
        socket.connect(&self.path)?;
        socket.set_nonblocking(true)?;
        let sent = socket.send(datagram);
        self.socket = Some(Arc::new(socket));
        sent.map(|_| ())
    }
}

/// What is sent for a line: never more than the daemon takes, never half a character.
fn datagram(line: &[u8]) -> &[u8] {
    let mut end = line.len().min(SYSLOG_LINE_BYTES);
    while end < line.len() && end > 0 && line[end] & 0xc0 == 0x80 {
        end -= 1;
    }
    &line[..end]
}

#[cfg(test)]
mod tests;
