//! `vigie module`: the command line of its commands, and `restart`, `logs` and `tap`.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Subcommand};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use vigie_protocol::control::{LineFate, ModuleLine, Reply, Request};
use vigie_protocol::module_name::ModuleName;

use crate::client::{self, Client, ClientError, PROMPT};
use crate::exit::{Exit, Failure};
use crate::print::{Paint, Printer, Tone, safe};

/// The longest that the agent may be configured to let a module end, and time to start it.
const LONGEST_RESTART: Duration = Duration::from_secs(5 * 60 + 30);

/// Longest text that people are shown of a line, in characters; a recording and JSON have all of it.
const SHOWN_CHARS: usize = 512;

/// Version of the form of recordings.
pub(crate) const RECORDING: u32 = 1;

/// `module`
#[derive(Debug, Subcommand)]
pub(crate) enum ModuleCommand {
    /// List the modules
    #[command(after_help = "Examples:\n  vigie module list\n  vigie module list --json | jq -r .name")]
    List {
        /// Print JSON, one module per line
        #[arg(long)]
        json: bool,
    },

    /// Stop a persistent module gracefully and start it again at once
    #[command(after_help = "Examples:\n  vigie module restart fswatch")]
    Restart {
        /// The module
        #[arg(value_name = "MODULE")]
        name: ModuleName,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },

    /// Show recent log lines, standard error and dropped lines of a module
    #[command(after_help = "\
Examples:
  vigie module logs fswatch
  vigie module logs -f fswatch

Each line is labelled log, stderr or dropped; dropped lines show the reason and the start of the line.
Standard error of a standard module is shown when its query has ended.")]
    Logs {
        /// The module
        #[arg(value_name = "MODULE")]
        name: ModuleName,
        /// Print new lines as they arrive
        #[arg(long, short = 'f')]
        follow: bool,
        /// Print JSON, one log line per line
        #[arg(long)]
        json: bool,
    },

    /// Trace the messages between the agent and a module, even while it restarts
    #[command(after_help = "\
Examples:
  vigie module tap fswatch
  vigie module tap fswatch --json | jq .text
  vigie module tap scanner --record scanner.jsonl --for 1m

The first line for a persistent module is its current config. --> marks messages to the module and <--
messages from it; #N is the number of a query. Messages from the module are marked accepted, or dropped
with the reason; an alert is marked acknowledged when the agent confirms to the module that it is stored.
Only root and the agent's user may trace. Recordings contain configuration, parameters and results in clear.")]
    Tap(TapArgs),

    /// Replay a recorded conversation to a program and compare its answers
    #[command(after_help = "\
Examples:
  vigie module tap scanner --record scanner.jsonl --for 1m
  vigie module replay scanner.jsonl /usr/local/lib/vigie/scanner
  vigie module replay scanner.jsonl --ignore time --ignore pid -- /usr/bin/python3 ./scanner.py

The program runs without an agent in temporary directories. It receives the recorded lines one by one, and
the command waits for each recorded reply. It compares registrations, echoes, confirmations, health,
alerts and results, but not log lines. Exit codes: 0 identical, 1 messages differ, are missing or are extra.")]
    Replay(crate::module_test::replay::ReplayArgs),

    /// Create a working module with its test and its block for the agent's configuration
    #[command(after_help = "\
Examples:
  vigie module new python watcher && watcher/test
  vigie module new shell watcher")]
    New(crate::module_new::ModuleNewArgs),

    /// Check whether a persistent module conforms to docs/modules.md
    #[command(after_help = "\
Examples:
  vigie module test /usr/local/lib/vigie/scanner
  vigie module test --config '{\"disk_usage\": {\"limit\": \"1\"}}' -- /usr/bin/python3 /opt/disk_usage.py

It runs the module several times, without an agent, in temporary directories. Exit codes: 0 all checks
passed, 1 a check failed.")]
    Test(crate::module_test::ModuleTestArgs),

    /// Runs a built-in persistent module on standard input and output; the agent starts it.
    #[command(hide = true)]
    Persist {
        /// The module
        #[arg(value_name = "MODULE")]
        name: String,
    },

    /// Answers one query with a built-in module on standard input and output; the agent starts it.
    #[command(hide = true)]
    Run {
        /// The module
        #[arg(value_name = "MODULE")]
        name: String,
    },
}

/// `module tap`
#[derive(Debug, Args)]
pub(crate) struct TapArgs {
    /// The module
    #[arg(value_name = "MODULE")]
    pub(crate) name: ModuleName,

    /// Also record all lines in full to this file, which must not exist yet; see `vigie module replay`
    #[arg(long, value_name = "FILE")]
    pub(crate) record: Option<PathBuf>,

    /// Stop after this time [default: when interrupted]
    #[arg(long = "for", value_name = "TIME", value_parser = crate::durations::positive)]
    pub(crate) duration: Option<Duration>,

    /// Print JSON, one message per line
    #[arg(long)]
    pub(crate) json: bool,
}

/// The first line of a recording.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct RecordingHead {
    /// The form of what follows: one [`ModuleLine`] a line.
    pub(crate) recording: u32,
    /// The module.
    pub(crate) module: String,
    /// Version of this program.
    pub(crate) vigie: String,
    /// When the recording began, RFC 3339 in UTC; a `config` line before it is what the module had.
    pub(crate) started: String,
}

/// Carries out `module restart`.
pub(crate) fn restart(name: &ModuleName, socket: &Path, printer: &mut Printer) -> Result<Exit, Failure> {
    match client::ask(socket, &Request::Restart { module: name.to_string() }, LONGEST_RESTART)? {
        Reply::Restarted { module, pid } if !printer.is_json() => {
            printer.line(&format!("{module} was restarted, its process is {pid}"))?;
        }
        reply @ Reply::Restarted { .. } => printer.json(&reply)?,
        other => return Err(client::unexpected(&other)),
    }
    Ok(Exit::Ok)
}

/// Carries out `module logs`.
pub(crate) fn logs(
    name: &ModuleName,
    follow: bool,
    socket: &Path,
    printer: &mut Printer,
) -> Result<Exit, Failure> {
    let request = Request::Logs { module: name.to_string(), follow };
    let mut client = Client::connect(socket)?;
    client.send(&request, if follow { None } else { Some(PROMPT) })?;
    while let Some(line) = next_line(&mut client, follow)? {
        show(&line, printer)?;
    }
    Ok(Exit::Ok)
}

/// Carries out `module tap`.
pub(crate) fn tap(args: &TapArgs, socket: &Path, printer: &mut Printer) -> Result<Exit, Failure> {
    let mut client = Client::connect(socket)?;
    let started = jiff::Timestamp::now().to_string();
    let whole = args.record.is_some() || printer.is_json();
    client.send(&Request::Tap { module: args.name.to_string(), whole }, args.duration)?;
    let mut recording = match &args.record {
        Some(path) => Some(Recording::begin(path, &args.name, started)?),
        None => None,
    };
    let until = args.duration.map(|duration| Instant::now() + duration);
    loop {
        if let Some(until) = until {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(Exit::Ok);
            }
            client.set_limit(left)?;
        }
        let line = match next_line(&mut client, true) {
            Ok(Some(line)) => line,
            Ok(None) => return Ok(Exit::Ok),
            Err(ClientError::TimedOut { .. }) if until.is_some() => return Ok(Exit::Ok),
            Err(error) => {
                if let Some(recording) = recording {
                    recording.remove_empty();
                }
                return Err(error.into());
            }
        };
        if let Some(recording) = &mut recording {
            recording.write(&line)?;
        }
        show(&line, printer)?;
    }
}

/// The next line of a stream; nothing at its end, which an endless one does not have.
fn next_line(client: &mut Client, endless: bool) -> Result<Option<ModuleLine>, ClientError> {
    match client.receive()? {
        Reply::Line(line) => Ok(Some(*line)),
        Reply::End {} if endless => Err(ClientError::Closed),
        Reply::End {} => Ok(None),
        other => Err(client::misfit(&other)),
    }
}

/// A file with everything that passes.
struct Recording {
    file: File,
    path: PathBuf,
    is_empty: bool,
}

impl Recording {
    /// Makes the file. It can hold what nobody else may see.
    fn begin(path: &Path, module: &ModuleName, started: String) -> Result<Self, Failure> {
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
        let file = file.map_err(|error| unwritable(path, &error))?;
        let mut recording = Self { file, path: path.to_owned(), is_empty: true };
        let head = RecordingHead {
            recording: RECORDING,
            module: module.to_string(),
            vigie: env!("CARGO_PKG_VERSION").to_owned(),
            started,
        };
        recording.write(&head)?;
        recording.is_empty = true;
        Ok(recording)
    }

    /// Takes the file away when nothing was recorded: the module is not there, or this user may not watch it.
    fn remove_empty(self) {
        if self.is_empty {
            // What is left of it says itself that it is empty.
            std::fs::remove_file(&self.path).ok();
        }
    }

    /// Writes one line at once: an interruption leaves whole lines.
    fn write(&mut self, line: &impl Serialize) -> Result<(), Failure> {
        self.is_empty = false;
        let written = serde_json::to_vec(line).map_err(std::io::Error::from).and_then(|mut text| {
            text.push(b'\n');
            self.file.write_all(&text)
        });
        written.map_err(|error| unwritable(&self.path, &error))
    }
}

fn unwritable(path: &Path, error: &std::io::Error) -> Failure {
    let hint = "name a file that is not there yet, in a directory that you may write to";
    Failure::new(Exit::Io, format!("cannot record into {path:?}: {error}"), hint)
}

fn show(line: &ModuleLine, printer: &mut Printer) -> Result<(), Failure> {
    if printer.is_json() {
        return printer.json(line);
    }
    let text = render(line, printer.paint());
    printer.line(&text)
}

/// Where a line comes from; arrows show the direction of a tapped message.
pub(crate) fn source(name: &str) -> (Tone, &str) {
    match name {
        "to_module" => (Tone::Faint, "-->"),
        "from_module" => (Tone::Good, "<--"),
        "stderr" => (Tone::Doubtful, "stderr"),
        "dropped" => (Tone::Bad, "dropped"),
        other => (Tone::Plain, other),
    }
}

/// What became of a line, and the query that it belongs to, as words before its text.
pub(crate) fn marks(line: &ModuleLine, paint: Paint) -> String {
    let mut marks = line.query.map(|query| format!("#{query} ")).unwrap_or_default();
    if let Some(fate) = line.fate {
        let tone = match fate {
            LineFate::Accepted => Tone::Faint,
            LineFate::Acknowledged => Tone::Good,
            LineFate::Dropped => Tone::Bad,
        };
        let reason = line.reason.as_ref().map(|reason| format!("({})", safe(reason))).unwrap_or_default();
        marks.push_str(&paint.text(tone, &format!("{}{reason}", fate.name())));
        marks.push(' ');
    }
    marks
}

/// One line for people.
fn render(line: &ModuleLine, paint: Paint) -> String {
    let (tone, source) = source(&line.source);
    let shown = line.text.char_indices().nth(SHOWN_CHARS).map_or(&*line.text, |(end, _)| &line.text[..end]);
    let text = format!(
        "{} {} {}{}",
        paint.text(Tone::Faint, &safe(&line.time)),
        paint.text(tone, &safe(source)),
        marks(line, paint),
        safe(shown)
    );
    text.trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::tests::fake_agent;
    use crate::print::tests::Captured;

    fn line(source: &str, text: &str) -> ModuleLine {
        ModuleLine {
            time: "2026-11-23T06:29:22.123Z".to_owned(),
            source: source.to_owned(),
            text: text.to_owned(),
            ..ModuleLine::default()
        }
    }

    #[test]
    fn a_line_for_people() {
        let text = |source, text| render(&line(source, text), Paint::new(false));

        assert_eq!(text("log", "a\u{1b}"), r"2026-11-23T06:29:22.123Z log a\u{1b}");
        assert_eq!(
            text("to_module", r#"{"class":"ping"}"#),
            r#"2026-11-23T06:29:22.123Z --> {"class":"ping"}"#
        );
    }

    #[test]
    fn a_tapped_line_says_what_became_of_it() {
        let text = |line: ModuleLine| render(&line, Paint::new(false))[25..].to_owned();

        let dropped = ModuleLine {
            fate: Some(LineFate::Dropped),
            reason: Some("not_message".to_owned()),
            ..line("from_module", "garbage")
        };
        assert_eq!(text(dropped), "<-- dropped(not_message) garbage");
        let answer =
            ModuleLine { fate: Some(LineFate::Accepted), query: Some(7), ..line("from_module", "{}") };
        assert_eq!(text(answer), "<-- #7 accepted {}");
        let ack = ModuleLine { fate: Some(LineFate::Acknowledged), ..line("to_module", "x") };
        assert_eq!(text(ack), "--> acknowledged x");
        assert_eq!(text(line("to_module", &"x".repeat(SHOWN_CHARS + 9))).len(), SHOWN_CHARS + 4);
    }

    #[test]
    fn a_recording_is_for_its_owner_and_replaces_nothing() {
        use std::os::unix::fs::PermissionsExt as _;

        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("x.jsonl");
        let module = "x".parse().unwrap();
        let mut recording = Recording::begin(&path, &module, "2026-11-23T06:29:22Z".to_owned()).unwrap();
        recording.write(&line("to_module", "{}")).unwrap();

        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        let text = std::fs::read_to_string(&path).unwrap();
        let (head, rest) = text.split_once('\n').unwrap();
        assert_eq!(serde_json::from_str::<RecordingHead>(head).unwrap().module, "x");
        assert_eq!(serde_json::from_str::<ModuleLine>(rest).unwrap(), line("to_module", "{}"));
        let refused = Recording::begin(&path, &module, String::new()).err().unwrap();
        assert_eq!(refused.exit, Exit::Io);
        assert!(refused.message.contains("x.jsonl"), "{}", refused.message);
    }

    #[test]
    fn lines_are_printed_until_the_end() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("agent.sock");
        let replies = [
            Reply::Line(Box::new(line("log", "one"))),
            Reply::Line(Box::new(line("stderr", "two"))),
            Reply::End {},
        ];
        let replies =
            replies.iter().map(|reply| format!("{}\n", serde_json::to_string(reply).unwrap())).collect();
        let agent = fake_agent(&socket, vec![replies]);
        let captured = Captured::default();
        let mut printer = Printer::into(Box::new(captured.clone()), false);

        let exit = logs(&"fswatch".parse().unwrap(), false, &socket, &mut printer).unwrap();

        assert_eq!(exit, Exit::Ok);
        assert_eq!(
            captured.text(),
            "2026-11-23T06:29:22.123Z log one\n2026-11-23T06:29:22.123Z stderr two\n"
        );
        assert_eq!(agent.join().unwrap(), ["{\"logs\":{\"module\":\"fswatch\",\"follow\":false}}\n"]);
    }

    #[test]
    fn a_restart_names_the_new_process() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("agent.sock");
        let agent = fake_agent(
            &socket,
            vec![vec!["{\"restarted\":{\"module\":\"fswatch\",\"pid\":42}}\n".to_owned()]],
        );
        let captured = Captured::default();
        let mut printer = Printer::into(Box::new(captured.clone()), false);

        restart(&"fswatch".parse().unwrap(), &socket, &mut printer).unwrap();

        agent.join().unwrap();
        assert_eq!(captured.text(), "fswatch was restarted, its process is 42\n");
    }
}
