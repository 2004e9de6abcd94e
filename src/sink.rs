//! `vigie sink list` and `vigie sink test`.

use std::path::Path;
use std::time::Duration;

use clap::Subcommand;
use vigie_protocol::control::{Reply, Request, SinkState, SinkStatus};

use crate::client;
use crate::exit::{Exit, Failure};
use crate::print::{Paint, Printer, Tone, duration, safe};
use crate::status;
use crate::table::{Cell, Room, Table};

/// Longest that a test may take: twice the largest timeout of a sink, and time to end it.
const LONGEST_TEST: Duration = Duration::from_secs(2 * 600 + 30);

/// `sink`
#[derive(Debug, Subcommand)]
pub(crate) enum SinkCommand {
    /// List the sinks with their progress and problems
    #[command(after_help = "\
Examples:
  vigie sink list
  vigie sink list --json")]
    List {
        /// Print JSON, one sink per line
        #[arg(long)]
        json: bool,
    },

    /// Send a test alert through a sink and wait for the receiver's answer
    #[command(after_help = "\
Examples:
  vigie sink test siem

The test uses a separate connection and is not recorded in the journal. If it succeeds, a waiting sink
retries at once. Exit codes: 0 acknowledged by the receiver, or sent if the protocol has no
acknowledgements; 1 failed.")]
    Test {
        /// The sink's name in the configuration
        name: String,

        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

/// Carries out `sink list`.
pub(crate) fn list(socket: &Path, printer: &mut Printer) -> Result<Exit, Failure> {
    let status = status::fetch(socket)?;
    if printer.is_json() {
        for sink in &status.sinks {
            printer.json(sink)?;
        }
    } else if status.sinks.is_empty() {
        printer.line("no sink is configured; see [[sink]] in conf/vigie.toml and docs/sinks.md")?;
    } else {
        let table = table(&status.sinks, printer.width(), printer.paint());
        printer.line(table.trim_end())?;
    }
    Ok(Exit::Ok)
}

/// Carries out `sink test`.
pub(crate) fn test(name: &str, socket: &Path, printer: &mut Printer) -> Result<Exit, Failure> {
    let test = match client::ask(socket, &Request::TestSink { sink: name.to_owned() }, LONGEST_TEST)? {
        Reply::SinkTested(test) => test,
        other => return Err(client::unexpected(&other)),
    };
    if printer.is_json() {
        printer.json(&test)?;
    } else {
        let (tone, word) = if test.ok { (Tone::Good, "works") } else { (Tone::Bad, "does not work") };
        let reason = test.reason.map_or_else(String::new, |reason| format!(" ({})", safe(&reason)));
        let word = printer.paint().text(tone, word);
        printer.line(&format!(
            "{}: {word}{reason}: {} [{} ms]",
            safe(&test.name),
            safe(&test.detail),
            test.elapsed_ms
        ))?;
    }
    Ok(if test.ok { Exit::Ok } else { Exit::NotWell })
}

/// The sinks for people.
pub(crate) fn table(sinks: &[SinkStatus], width: Option<u16>, paint: Paint) -> String {
    let mut table = Table::simple(&["SINK", "KIND", "STATE", "SENT", "LAG", "TARGET", "NOTE"]);
    for sink in sinks {
        let (tone, state) = state_word(sink.state);
        table.add([
            Cell::from(sink.name.as_str()),
            Cell::from(sink.kind.as_str()),
            Cell::new(tone, state),
            Cell::from(sink.sent.to_string().as_str()),
            Cell::from(sink.lag.to_string().as_str()),
            Cell::from(sink.target.as_str()),
            Cell::from(note(sink).as_str()),
        ]);
    }
    table.text(Room { width, wide: false }, paint)
}

/// What a sink does, in a word.
pub(crate) fn state_word(state: SinkState) -> (Tone, &'static str) {
    match state {
        SinkState::Idle => (Tone::Good, "idle"),
        SinkState::Sending => (Tone::Good, "sending"),
        SinkState::Waiting => (Tone::Doubtful, "waiting"),
        SinkState::Resting => (Tone::Bad, "resting"),
        SinkState::Disabled => (Tone::Faint, "disabled"),
    }
}

/// What is unusual about a sink.
pub(crate) fn note(sink: &SinkStatus) -> String {
    let mut notes = Vec::new();
    notes.extend(sink.last_error.clone());
    if let Some(wait) = sink.retry_in_ms {
        notes.push(format!("again in {}", duration(wait.div_ceil(1000))));
    }
    for (count, what) in [
        (sink.resent, "sent again"),
        (sink.unacknowledged, "sent without acknowledgement"),
        (sink.missed, "deleted before they were sent"),
        (sink.dead_letters, "refused"),
        (sink.rejected, "rejected"),
    ] {
        if count > 0 {
            notes.push(format!("{count} {what}"));
        }
    }
    if sink.masked {
        notes.push("masked".to_owned());
    }
    notes.join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sinks_for_people() {
        let sink: SinkStatus = serde_json::from_value(serde_json::json!({
            "name": "siem", "kind": "syslog", "target": "relp://log:2514", "state": "waiting", "acknowledged": true,
            "position": 7, "lag": 12, "sent": 7, "resent": 1, "unacknowledged": 0, "filtered": 2, "missed": 0,
            "dead_letters": 0, "rejected": 0, "last_error": "connect: refused\u{1b}", "retry_in_ms": 1500,
        }))
        .unwrap();

        assert_eq!(
            table(&[sink], None, Paint::new(false)),
            "\
SINK  KIND    STATE    SENT  LAG  TARGET           NOTE
siem  syslog  waiting  7     12   relp://log:2514  connect: refused\\u{1b}; again in 2s; 1 sent again
"
        );
    }
}
