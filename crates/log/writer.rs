//! A small process that writes the log file, and the agent's side of it.
//!
//! A file system that hangs (a frozen or lost disk) keeps a thread that writes there until it wakes, and with the
//! thread the whole process: after SIGKILL as well, with its locks and sockets. So the agent hands its lines to a
//! process of its own and can leave that behind. The price is half a megabyte of memory, one more copy of each line,
//! and that lines which the agent gave away a moment before a crash of the whole host are lost with more than one
//! process.
//!
//! Lines go in packets of whole lines through a socket (SOCK_SEQPACKET); what the socket holds is the bound of what
//! waits for the disk, and beyond it the agent drops lines and counts them, as for a reader that does not read. The
//! agent keeps the writer's end open as well: a writer that is killed leaves the waiting packets to the next one. The
//! end of the agent is the end of the socket, and the writer's end when it has written what is there.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockType, recv, send, setsockopt, shutdown, socketpair, sockopt,
};
use nix::unistd::Pid;
use tokio::time::Instant;

use super::sink::{WriteFailed, first_line, is_readable, whole_lines_within};
use super::{AgentLog, LogError};
use vigie_config::model::{LogFormat, LogMode, LoggingSection};
use vigie_protocol::error_chain::ErrorChain;

/// The command that runs the writer; its arguments are the file, its largest size, how many are kept, and the format.
pub const COMMAND: &str = "write-log";

/// Largest packet of lines in bytes.
const PACKET_BYTES: usize = 32 * 1024;

/// Room that is asked for in the socket, in bytes. Without privileges the system's own limit holds.
const SOCKET_BYTES: usize = 4 << 20;

/// How long a writer may take to open its file before it counts as hanging.
const OPEN_PATIENCE: Duration = Duration::from_secs(3);

/// Writers that are started in place of killed ones while the file is being opened.
const MORE_ATTEMPTS: u32 = 20;

/// Pause before a writer that ended is started again.
const RESTART_PAUSE: Duration = Duration::from_secs(1);

/// First byte of a packet that asks whether the file system takes writes; lines never hold it.
const PROBE: u8 = 0;

/// First byte of what the writer answers: the file is open, it cannot be opened (and why), something is wrong (and
/// what) or nothing any more, and the number of a probe that was passed.
const OPENED: u8 = b'o';
const REFUSED: u8 = b'r';
const STATUS: u8 = b's';
const PROBED: u8 = b'p';

/// Longest answer in bytes.
const ANSWER_BYTES: usize = 4096;

/// The agent's side: a writer and the socket to it.
#[derive(Debug)]
pub(super) struct Writer {
    program: PathBuf,
    section: LoggingSection,
    socket: Arc<OwnedFd>,
    /// Handed to each writer in turn.
    far_end: OwnedFd,
    child: Child,
    started: Instant,
    /// A line was begun whose rest did not fit.
    torn: bool,
    /// What the writer says is wrong.
    status: Option<String>,
    asked: u64,
    answered: u64,
    /// When the oldest probe without an answer was sent.
    waiting_since: Option<Instant>,
}

impl Writer {
    /// Starts a writer, and waits a little for it to open the file. One that does not answer hangs with its disk; its
    /// lines wait for it.
    pub(super) fn start(program: &Path, section: &LoggingSection) -> Result<Self, LogError> {
        let not_started = |source| LogError::NoWriter { source };
        let (socket, far_end) =
            socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)
                .map_err(|errno| not_started(errno.into()))?;
        if setsockopt(&socket, sockopt::SndBufForce, &SOCKET_BYTES).is_err() {
            setsockopt(&socket, sockopt::SndBuf, &SOCKET_BYTES).ok();
        }
        let child = spawn(program, section, &far_end).map_err(not_started)?;
        let mut writer = Self {
            program: program.to_owned(),
            section: section.clone(),
            socket: Arc::new(socket),
            far_end,
            child,
            started: Instant::now(),
            torn: false,
            status: None,
            asked: 0,
            answered: 0,
            waiting_since: None,
        };
        match writer.wait_opened() {
            Some(refused) => Err(LogError::Refused(refused)),
            None => Ok(writer),
        }
    }

    /// Waits for the file to be open; gives the reason when it cannot be.
    fn wait_opened(&mut self) -> Option<String> {
        let deadline = Instant::now() + OPEN_PATIENCE;
        let mut more_attempts = MORE_ATTEMPTS;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                self.probe();
                return None;
            }
            if !is_readable(self.socket.as_fd(), left.min(Duration::from_millis(50))) {
                if matches!(self.child.try_wait(), Ok(Some(_))) {
                    // One that refuses says so; this one was killed.
                    if more_attempts == 0 {
                        return Some("the process that writes the log ended".to_owned());
                    }
                    more_attempts -= 1;
                    match spawn(&self.program, &self.section, &self.far_end) {
                        Ok(child) => self.child = child,
                        Err(error) => return Some(error.to_string()),
                    }
                }
                continue;
            }
            let mut answer = [0; ANSWER_BYTES];
            match recv(self.socket.as_raw_fd(), &mut answer, MsgFlags::MSG_DONTWAIT) {
                Ok(length) => match answer[..length].split_first() {
                    Some((&REFUSED, text)) => return Some(String::from_utf8_lossy(text).into_owned()),
                    Some(_) => return None,
                    None => return Some("the process that writes the log ended".to_owned()),
                },
                Err(Errno::EAGAIN | Errno::EINTR) => {}
                Err(errno) => return Some(errno.to_string()),
            }
        }
    }

    /// Hands over whole lines without waiting.
    pub(super) fn write(&mut self, lines: &[u8]) -> Result<(), WriteFailed> {
        self.look_after();
        let mut taken = 0;
        while taken < lines.len() {
            let rest = &lines[taken..];
            let packet = match whole_lines_within(rest, PACKET_BYTES) {
                0 => first_line(rest),
                whole => whole,
            };
            self.write_packet(&rest[..packet]).map_err(|(begun, error)| WriteFailed {
                taken: taken + if begun { packet } else { 0 },
                lost: u64::from(begun),
                error,
            })?;
            taken += packet;
        }
        Ok(())
    }

    /// Sends lines that fit into a packet, or one line that does not; says with an error whether some of it was sent.
    fn write_packet(&mut self, lines: &[u8]) -> Result<(), (bool, io::Error)> {
        if self.torn {
            self.send(b"\n").map_err(|errno| (false, errno.into()))?;
            self.torn = false;
        }
        for (number, piece) in lines.chunks(PACKET_BYTES).enumerate() {
            if let Err(errno) = self.send(piece) {
                self.torn = number > 0;
                return Err((number > 0, errno.into()));
            }
        }
        Ok(())
    }

    fn send(&self, packet: &[u8]) -> Result<(), Errno> {
        loop {
            match send(self.socket.as_raw_fd(), packet, MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL) {
                Ok(_) => return Ok(()),
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno),
            }
        }
    }

    /// What to wait for after `WouldBlock`.
    pub(super) fn socket(&self) -> Arc<OwnedFd> {
        self.socket.clone()
    }

    /// Takes what the writer answered, and starts another one when it has ended.
    pub(super) fn look_after(&mut self) {
        let mut answer = [0; ANSWER_BYTES];
        while let Ok(length) = recv(self.socket.as_raw_fd(), &mut answer, MsgFlags::MSG_DONTWAIT) {
            match answer[..length].split_first() {
                Some((&STATUS, text)) => {
                    self.status = (!text.is_empty()).then(|| String::from_utf8_lossy(text).into_owned());
                }
                Some((&REFUSED, text)) => self.status = Some(String::from_utf8_lossy(text).into_owned()),
                Some((&OPENED, _)) => self.status = None,
                Some((&PROBED, number)) => {
                    let number = std::str::from_utf8(number).ok().and_then(|text| text.parse().ok());
                    self.answered = self.answered.max(number.unwrap_or(0));
                    if self.answered >= self.asked {
                        self.waiting_since = None;
                    }
                }
                Some(_) => {}
                None => break,
            }
        }
        if matches!(self.child.try_wait(), Ok(Some(_))) && self.started.elapsed() >= RESTART_PAUSE {
            self.started = Instant::now();
            match spawn(&self.program, &self.section, &self.far_end) {
                Ok(child) => self.child = child,
                Err(error) => {
                    self.status = Some(format!("the process that writes it cannot be started: {error}"))
                }
            }
        }
    }

    /// Asks whether the file system takes writes.
    pub(super) fn probe(&mut self) {
        let number = self.asked + 1;
        let mut packet = vec![PROBE];
        packet.extend(number.to_string().bytes());
        // A full socket is an answer as well.
        if self.send(&packet).is_ok() {
            self.asked = number;
        }
        // A stopped writer looks like a disk that hangs.
        if self.waiting_since.is_some() && matches!(self.child.try_wait(), Ok(None)) {
            kill(Pid::from_raw(self.child.id().cast_signed()), Signal::SIGCONT).ok();
        }
        self.waiting_since.get_or_insert_with(Instant::now);
    }

    /// How long the file system has not answered.
    pub(super) fn silent_for(&self) -> Option<Duration> {
        self.waiting_since.map(|since| since.elapsed())
    }

    /// What the writer says is wrong.
    pub(super) fn status(&self) -> Option<&str> {
        self.status.as_deref()
    }

    /// Lets go of the writer, which ends when it has written what waits. The caller asks how it ended.
    pub(super) fn retire(self) -> Child {
        self.child
    }

    /// Lets the writer finish: nothing more comes. What waits is written by it whether or not this is waited for.
    pub(super) fn finish(&mut self, patience: Duration) {
        shutdown(self.socket.as_raw_fd(), nix::sys::socket::Shutdown::Write).ok();
        let deadline = Instant::now() + patience;
        while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < deadline {
            // The writer says nothing when it ends; its end of the socket stays open in this process.
            is_readable(self.socket.as_fd(), Duration::from_millis(5));
        }
    }
}

fn spawn(program: &Path, section: &LoggingSection, far_end: &OwnedFd) -> io::Result<Child> {
    use std::os::unix::process::CommandExt as _;
    Command::new(program)
        .arg0("vigie")
        .arg(COMMAND)
        .arg(&section.file)
        .args([section.max_file_bytes.to_string(), section.keep_files.to_string()])
        .arg(format_name(section.format))
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::from(far_end.try_clone()?))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
}

fn format_name(format: LogFormat) -> &'static str {
    match format {
        LogFormat::Text => "text",
        LogFormat::Json => "json",
        LogFormat::Journald => "journald",
    }
}

/// What the writer is started with, from its arguments.
#[must_use]
pub fn section_of(arguments: &[std::ffi::OsString]) -> Option<LoggingSection> {
    let [file, max_file_bytes, keep_files, format] = arguments else { return None };
    let formats = [LogFormat::Text, LogFormat::Json, LogFormat::Journald];
    Some(LoggingSection {
        mode: LogMode::File,
        file: file.into(),
        max_file_bytes: max_file_bytes.to_str()?.parse().ok()?,
        keep_files: keep_files.to_str()?.parse().ok()?,
        format: formats.into_iter().find(|known| *format == *format_name(*known))?,
        ..LoggingSection::default()
    })
}

/// The writer: takes packets from `agent` and writes them until the agent is gone.
///
/// # Errors
/// When the socket fails.
pub fn serve(section: &LoggingSection, agent: &OwnedFd) -> io::Result<()> {
    // Whatever ends the agent's group or terminal must not end the writer before it has written what is left.
    SigSet::from_iter([Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGQUIT]).thread_block().ok();
    let answer = |kind: u8, text: &str| {
        let mut packet = vec![kind];
        packet.extend(text.bytes().take(ANSWER_BYTES - 1));
        // An agent that does not listen is not waited for; it asks again.
        send(agent.as_raw_fd(), &packet, MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL).ok();
    };
    let log = match AgentLog::open(section) {
        Ok(log) => log,
        Err(error) => {
            answer(REFUSED, &ErrorChain(&error).to_string());
            return Ok(());
        }
    };
    answer(OPENED, "");
    let mut packet = vec![0; PACKET_BYTES];
    let mut told = None;
    // A line longer than a packet is written as a whole.
    let mut line = Vec::new();
    loop {
        let length = match recv(agent.as_raw_fd(), &mut packet, MsgFlags::empty()) {
            Ok(0) => return Ok(()),
            Ok(length) => length,
            Err(Errno::EINTR) => continue,
            Err(errno) => return Err(errno.into()),
        };
        match packet[..length].split_first() {
            Some((&PROBE, number)) => {
                log.touch();
                answer(PROBED, &String::from_utf8_lossy(number));
            }
            _ => {
                line.extend_from_slice(&packet[..length]);
                if line.last() == Some(&b'\n') {
                    // What cannot be written is counted, and said below.
                    log.write_module_lines(&line).ok();
                    line.clear();
                }
            }
        }
        let status = log.status();
        if status != told {
            answer(STATUS, status.as_deref().unwrap_or_default());
            told = status;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_say_the_whole_section_that_the_writer_needs() {
        let section = LoggingSection {
            mode: LogMode::File,
            file: "/var/log/a b.log".into(),
            max_file_bytes: 70_000,
            keep_files: 3,
            format: LogFormat::Json,
            ..LoggingSection::default()
        };
        let arguments = ["/var/log/a b.log", "70000", "3", "json"].map(Into::into);

        assert_eq!(section_of(&arguments), Some(section));
        assert_eq!(section_of(&arguments[1..]), None);
        assert_eq!(section_of(&["f", "1", "2", "xml"].map(Into::into)), None);
    }

    #[test]
    fn packets_become_lines_of_the_file_and_the_end_of_the_agent_is_its_end() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("agent.log");
        let section = LoggingSection { mode: LogMode::File, file: file.clone(), ..LoggingSection::default() };
        let (agent, writer) =
            socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC).unwrap();
        let long = "x".repeat(3 * PACKET_BYTES) + "\n";
        let serving = std::thread::spawn(move || serve(&section, &writer).unwrap());

        for packet in std::iter::once(b"one\ntwo\n".as_slice()).chain(long.as_bytes().chunks(PACKET_BYTES)) {
            send(agent.as_raw_fd(), packet, MsgFlags::empty()).unwrap();
        }
        send(agent.as_raw_fd(), b"\x007", MsgFlags::empty()).unwrap();
        let mut answers = Vec::new();
        while answers.len() < 2 {
            let mut answer = [0; 64];
            let length = recv(agent.as_raw_fd(), &mut answer, MsgFlags::empty()).unwrap();
            answers.push(String::from_utf8_lossy(&answer[..length]).into_owned());
        }
        drop(agent);
        serving.join().unwrap();

        assert_eq!(answers, ["o", "p7"]);
        assert_eq!(std::fs::read_to_string(file).unwrap(), format!("one\ntwo\n{long}"));
    }
}
