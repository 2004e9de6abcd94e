//! `vigie write-log`, `write-files`, `write-sink` and `write-metrics`: the processes that write the agent's files, see
//! [`vigie_log::writer`], [`vigie_files::remote`], [`vigie_files::line_file`] and [`vigie_files::published`]. Only the
//! agent starts them.

use std::ffi::OsString;
use std::io::{self, BufRead as _, BufReader, Read, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, poll};
use tokio::time::Instant;
use vigie_files::line_file::{LineFile, Rules};
use vigie_files::{published, remote};
use vigie_log::writer;
use vigie_sinks::ack::Envelope;

use crate::exit::{Exit, Failure};
use crate::print;

/// Writes the log until the agent is gone.
pub(crate) fn write_log(arguments: &[OsString]) -> ExitCode {
    let Some(section) = writer::section_of(arguments) else { return not_for_people() };
    ended(agent().and_then(|agent| writer::serve(&section, &agent)))
}

/// Changes files until the agent is gone.
pub(crate) fn write_files(arguments: &[OsString]) -> ExitCode {
    let parent = arguments.first().and_then(|text| text.to_str()).and_then(|text| text.parse().ok());
    let Some(parent) = parent else { return not_for_people() };
    ended(agent().and_then(|agent| remote::serve(agent, parent)))
}

/// Writes the alerts of a sink to its file, and acknowledges them when they are on disk.
pub(crate) fn write_sink(arguments: &[OsString]) -> ExitCode {
    let number = |at: usize| arguments.get(at)?.to_str()?.parse::<u64>().ok();
    let (Some(path), Some(rotate_bytes), Some(keep_files), Some(mode), Some(patience)) =
        (arguments.first(), number(1), number(2), number(3), number(4))
    else {
        return not_for_people();
    };
    let rules = Rules { rotate_bytes, keep_files, mode: u32::try_from(mode).unwrap_or(0o600) };
    let patience = Duration::from_millis(patience);
    let written = LineFile::open(Path::new(path), rules)
        .and_then(|file| serve_sink(file, io::stdin().lock(), patience));
    if let Err(error) = &written {
        // The agent shows the last words.
        writeln!(io::stderr(), "{path:?}: {error}").ok();
    }
    ended(written)
}

/// Replaces the file with metrics by what comes from the agent.
pub(crate) fn write_metrics(arguments: &[OsString]) -> ExitCode {
    let [path, length] = arguments else { return not_for_people() };
    let Some(length) = length.to_str().and_then(|text| text.parse().ok()) else { return not_for_people() };
    // All of it, or nothing when the agent was killed meanwhile.
    let mut page = vec![0; length];
    let written = io::stdin()
        .lock()
        .read_exact(&mut page)
        .and_then(|()| published::replace(Path::new(path), &page, vigie_metrics::TEXTFILE_MODE));
    if let Err(error) = &written {
        // The agent shows the last words.
        writeln!(io::stderr(), "{error}").ok();
    }
    ended(written)
}

/// Bytes that are written and synced together.
const MAX_TOGETHER_BYTES: usize = 4 << 20;

/// Pause between two attempts to lock a file, in milliseconds.
const LOCK_PAUSE: u8 = 20;

fn serve_sink(mut file: LineFile, input: impl Read, patience: Duration) -> io::Result<()> {
    let mut input = BufReader::with_capacity(1 << 20, input);
    let mut line = Vec::new();
    loop {
        // Everything that is here already is written and synced at once.
        let (mut text, mut last) = (Vec::new(), None);
        loop {
            line.clear();
            if input.read_until(b'\n', &mut line)? == 0 {
                break;
            }
            let envelope: Envelope = serde_json::from_slice(&line)?;
            text.extend_from_slice(envelope.alert.get().as_bytes());
            text.push(b'\n');
            last = Some(envelope.seq);
            if !input.buffer().contains(&b'\n') || text.len() >= MAX_TOGETHER_BYTES {
                break;
            }
        }
        let Some(seq) = last else { return Ok(()) };
        let began = Instant::now();
        file.append(&text, &mut || {
            // What is under way is written to its end, but nothing is begun for an agent that is gone.
            let answers = io::stdout();
            let mut reader = [PollFd::new(answers.as_fd(), PollFlags::empty())];
            if poll(&mut reader, LOCK_PAUSE)? > 0 {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            let is_over = began.elapsed() >= patience;
            let locked = || io::Error::new(io::ErrorKind::TimedOut, "another process has locked it");
            if is_over { Err(locked()) } else { Ok(()) }
        })?;
        let mut answer = io::stdout().lock();
        writeln!(answer, "{seq}")?;
        answer.flush()?;
    }
}

fn agent() -> io::Result<OwnedFd> {
    io::stdin().as_fd().try_clone_to_owned()
}

fn ended(result: io::Result<()>) -> ExitCode {
    match result {
        Ok(()) => Exit::Ok.into(),
        Err(_) => Exit::Io.into(),
    }
}

fn not_for_people() -> ExitCode {
    print::failure(&Failure::new(Exit::Usage, "only the agent starts this command", ""));
    Exit::Usage.into()
}
