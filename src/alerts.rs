//! `vigie alerts`.
//!
//! With `-f` the command outlives the agent: it connects again and asks for what comes after the last alert that
//! it printed. Sequence numbers have no gaps and are never used twice, so nothing is missed or printed twice. Where
//! alerts are missing in the journal, a line says so in their place, and the exit code does in the end.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use clap::Args;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use vigie_actors::alert_journal::OWN_NAME;
use vigie_protocol::control::{AgentStatus, AlertRecord, JournalVerification, MissingAlerts, Reply, Request};
use vigie_protocol::json;
use vigie_protocol::module_name::ModuleName;
use vigie_protocol::severity::Severity;
use vigie_protocol::suggestion;

use crate::client::{Client, ClientError, PROMPT};
use crate::exit::{Exit, Failure};
use crate::fleet::options::FleetFile;
use crate::fswatch_view;
use crate::print::{self, Paint, Printer, Tone, safe};
use crate::status;

/// Alerts that `-f` begins with.
const FOLLOW_LINES: usize = 10;

/// Time between two attempts to reach an agent that went away.
const RECONNECT_DELAY: Duration = Duration::from_millis(250);

/// `alerts`
#[derive(Debug, Clone, Args)]
pub(crate) struct AlertsArgs {
    /// Print new alerts as they are recorded, starting with the newest ten unless -n or --since is given
    #[arg(long, short = 'f')]
    pub(crate) follow: bool,

    /// Only alerts within this period (1h, 2days), or recorded since this RFC 3339 time
    #[arg(long, value_name = "TIME")]
    pub(crate) since: Option<String>,

    /// Only alerts of this module
    #[arg(long, value_name = "MODULE")]
    pub(crate) module: Option<ModuleName>,

    /// Only alerts of at least this severity; low includes the records that only prove that alerts arrive
    #[arg(long, value_name = "LEVEL", value_parser = severity)]
    pub(crate) severity: Option<Severity>,

    /// Only the newest COUNT alerts
    #[arg(long, short = 'n', value_name = "COUNT")]
    pub(crate) lines: Option<usize>,

    /// Print JSON, one alert per line, with the module's message as an object in the key alert
    #[arg(long)]
    pub(crate) json: bool,

    /// Print JSON with the module's message as recorded, a string in the key message
    #[arg(long)]
    pub(crate) raw: bool,

    /// Verify the journal instead: every checksum, every link and the whole chain; print the chain's head
    #[arg(long, conflicts_with_all = ["follow", "since", "module", "lines", "target"])]
    pub(crate) verify: bool,

    /// With --verify: the directory of a journal that no agent is using (agent.state_dir/journal, or a copy)
    #[arg(long, value_name = "DIR", requires = "verify")]
    pub(crate) journal: Option<PathBuf>,

    /// Show the alerts of all agents of the fleet that match this expression; see docs/targets.md
    #[arg(long, short = 't', value_name = "EXPR")]
    pub(crate) target: Option<String>,

    #[command(flatten)]
    pub(crate) fleet: FleetFile,
}

/// Reads `low`, `medium`, `high` or `critical`.
fn severity(text: &str) -> Result<Severity, String> {
    Severity::from_name(text).ok_or_else(|| "expected low, medium, high or critical".to_owned())
}

/// Carries out `alerts`.
pub(crate) fn run(args: &AlertsArgs, socket: &Path, printer: &mut Printer) -> Result<Exit, Failure> {
    if args.verify {
        return verify(args.journal.as_deref(), socket, printer);
    }
    if let Some(module) = &args.module {
        check_module(module, &status::fetch(socket)?)?;
    }
    let since = args.since.as_deref().map(|since| moment(since, SystemTime::now())).transpose()?;
    let mut progress = Progress::new(args, since);
    if !args.follow {
        return stream(&mut progress, socket, printer).map_err(|ended| match ended {
            Ended::Agent(error) => error.into(),
            Ended::Output(failure) => failure,
        });
    }
    // How many alerts there were before the first one is asked for: an agent that goes away before it sent any
    // must not be asked for the newest ten once more, there may have been more than ten in between.
    progress.starts_at(status::fetch(socket)?.journal.recorded);
    loop {
        match stream(&mut progress, socket, printer) {
            Ok(exit) => return Ok(exit),
            Err(Ended::Output(failure)) => return Err(failure),
            Err(Ended::Agent(error)) if !error.is_absence() => return Err(error.into()),
            Err(Ended::Agent(error)) => {
                print::note(&format!("{error}; waiting for it to return"));
                let recorded = wait_for_agent(socket)?;
                print::note("the agent is back");
                if progress.restarts_at(recorded) {
                    print::note("its journal was recreated; showing it from the start");
                }
            }
        }
    }
}

/// A name that no module has finds nothing for ever.
fn check_module(module: &ModuleName, status: &AgentStatus) -> Result<(), Failure> {
    let mut names = status.modules.iter().map(|known| known.name.as_str());
    // The agent's own alerts stand under its own name.
    if module.as_str() == OWN_NAME || names.any(|known| known == module.as_str()) {
        return Ok(());
    }
    let known: Vec<&str> = status.modules.iter().map(|known| known.name.as_str()).collect();
    let message = format!("no module {module} is configured; there are: {}", known.join(", "));
    let hint = suggestion::hint(module.as_str(), known, "omit --module to see the alerts of all modules");
    Err(Failure::new(Exit::Usage, message, hint))
}

/// Proves the journal: asks the agent, or reads a directory when no agent runs on it.
fn verify(directory: Option<&Path>, socket: &Path, printer: &mut Printer) -> Result<Exit, Failure> {
    let found = match directory {
        Some(directory) => vigie_journal::verify(directory, None).map_err(|error| {
            let message = format!("cannot read the journal in {directory:?}: {error}");
            Failure::new(Exit::Io, message, "give the directory that contains alerts-NUMBER.jsonl")
        })?,
        None => {
            let mut client = Client::connect(socket)?;
            // It reads all of the journal, which may take a while.
            client.send(&Request::VerifyAlerts {}, None)?;
            match client.receive()? {
                Reply::Verified(found) => *found,
                other => return Err(crate::client::unexpected(&other)),
            }
        }
    };
    if printer.is_json() {
        printer.json(&found)?;
    } else {
        for line in verified(&found) {
            printer.line(&line)?;
        }
    }
    Ok(if found.is_whole() { Exit::Ok } else { Exit::NotWell })
}

/// What a proof found, for people.
fn verified(found: &JournalVerification) -> Vec<String> {
    let mut lines = vec![if found.is_whole() {
        format!("the journal is intact: {} alerts, numbers {} to {}", found.alerts, found.first, found.last)
    } else {
        format!(
            "the journal is DAMAGED OR ALTERED: {} alerts missing, {} damaged sections, {} broken links",
            found.missing, found.damaged, found.broken
        )
    }];
    lines.extend(found.problems.iter().map(|problem| format!("  {}", safe(problem))));
    lines.push(format!("verified by the chain: {} batches", found.proved_batches));
    if found.thinned_batches > 0 {
        lines
            .push(format!("verified in part, because retention deleted the rest: {}", found.thinned_batches));
    }
    if found.unproved_alerts > 0 {
        lines.push(format!("alerts of a version without checksums: {}", found.unproved_alerts));
    }
    if !found.deleted.is_empty() {
        let deleted = found.deleted.iter().map(|(severity, count)| format!("{count} {}", safe(severity)));
        lines.push(format!("deleted by retention: {}", deleted.collect::<Vec<_>>().join(", ")));
        for (module, counts) in &found.deleted_by_module {
            let counts = counts.iter().map(|(severity, count)| format!("{count} {}", safe(severity)));
            lines.push(format!("  {}: {}", safe(module), counts.collect::<Vec<_>>().join(", ")));
        }
    }
    lines.push(format!("head after alert {}: {}", found.last, safe(&found.head)));
    lines
}

/// Why a stream of alerts ended.
enum Ended {
    Agent(ClientError),
    Output(Failure),
}

/// Prints alerts until the stream ends.
fn stream(progress: &mut Progress, socket: &Path, printer: &mut Printer) -> Result<Exit, Ended> {
    let mut client = Client::connect(socket).map_err(Ended::Agent)?;
    let limit = if progress.follow { None } else { Some(PROMPT) };
    client.send(&progress.request(), limit).map_err(Ended::Agent)?;
    loop {
        match client.receive().map_err(Ended::Agent)? {
            Reply::Alert(alert) => {
                if progress.is_new(alert.seq) {
                    show(&alert, progress.raw, printer).map_err(Ended::Output)?;
                    progress.printed(alert.seq);
                }
            }
            Reply::Missing(missing) => {
                progress.damaged |= missing.is_damage();
                show_missing(&missing, printer).map_err(Ended::Output)?;
                progress.printed(missing.last);
            }
            // A follower's stream has no end of its own: the agent is stopping.
            Reply::End {} if progress.follow => return Err(Ended::Agent(ClientError::Closed)),
            Reply::End {} if progress.damaged => return Ok(Exit::NotWell),
            Reply::End {} => return Ok(Exit::Ok),
            other => return Err(Ended::Output(crate::client::unexpected(&other))),
        }
    }
}

/// Waits until an agent answers and returns how many alerts it has recorded.
#[expect(clippy::disallowed_methods, reason = "there is no arbiter here, and nothing announces a new agent")]
fn wait_for_agent(socket: &Path) -> Result<u64, Failure> {
    loop {
        std::thread::sleep(RECONNECT_DELAY);
        match status::fetch(socket) {
            Ok(status) => return Ok(status.journal.recorded),
            Err(error) if error.is_absence() => {}
            Err(error) => return Err(error.into()),
        }
    }
}

fn show(alert: &AlertRecord, raw: bool, printer: &mut Printer) -> Result<(), Failure> {
    if printer.is_json() && raw {
        return printer.json(alert);
    }
    if printer.is_json() {
        return printer.json(&JsonAlert::of(alert));
    }
    // A person at a terminal gets several lines; what goes through a pipe stays one line for each alert.
    let for_people = (printer.is_terminal() && alert.module.as_str() == "fswatch")
        .then(|| fswatch_view::of_alert(&alert.message, printer.paint()))
        .flatten();
    let text = for_people.unwrap_or_else(|| render(&Line::of(alert), printer.paint()));
    printer.line(&text)
}

/// An alert as JSON, with what the module said as an object.
#[derive(Serialize)]
struct JsonAlert<'a> {
    seq: u64,
    time: &'a str,
    module: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    alert: Option<Box<RawValue>>,
    /// What is no object stays a text.
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<&'a str>,
}

impl<'a> JsonAlert<'a> {
    fn of(record: &'a AlertRecord) -> Self {
        let object = record.message.trim_start().starts_with('{');
        let alert = json::compact(record.message.as_bytes()).ok().filter(|_| object);
        Self {
            seq: record.seq,
            time: &record.time,
            module: record.module.as_str(),
            id: record.id.as_deref(),
            message: alert.is_none().then_some(&record.message),
            alert,
        }
    }
}

/// A line in the place of what is missing. What was deleted to make room is no news for programs.
fn show_missing(missing: &MissingAlerts, printer: &mut Printer) -> Result<(), Failure> {
    if printer.is_json() {
        if missing.is_damage() {
            printer.json(&serde_json::json!({ "missing": missing }))?;
        }
        return Ok(());
    }
    let tone = if missing.is_damage() { Tone::Bad } else { Tone::Faint };
    let line = printer.paint().text(tone, &format!("--- {}", safe(&missing.message)));
    printer.line(&line)
}

/// What is to be asked for, and what was printed already.
#[derive(Debug)]
pub(crate) struct Progress {
    follow: bool,
    module: Option<String>,
    severity: Option<Severity>,
    /// Messages stay texts.
    raw: bool,
    since: Option<String>,
    last: Option<usize>,
    /// The sequence number after which to go on; unknown before the first connection.
    after: Option<u64>,
    /// Whether the first connection was made.
    resumed: bool,
    /// Alerts were missing that should have been there.
    damaged: bool,
}

impl Progress {
    fn new(args: &AlertsArgs, since: Option<String>) -> Self {
        let last = match (args.lines, &since) {
            (None, None) if args.follow => Some(FOLLOW_LINES),
            (lines, _) => lines,
        };
        Self {
            follow: args.follow,
            module: args.module.as_ref().map(ToString::to_string),
            severity: args.severity,
            raw: args.raw,
            since,
            last,
            after: None,
            resumed: false,
            damaged: false,
        }
    }

    /// Begins with the newest so many and goes on for ever.
    pub(crate) fn following(last: usize) -> Self {
        Self {
            follow: true,
            module: None,
            severity: None,
            raw: false,
            since: None,
            last: Some(last),
            after: None,
            resumed: false,
            damaged: false,
        }
    }

    /// The first stream is asked for as the command line says, every later one from where the last one ended.
    pub(crate) fn request(&self) -> Request {
        Request::Alerts {
            since: self.since.clone().filter(|_| !self.resumed),
            after: self.after.filter(|_| self.resumed),
            module: self.module.clone(),
            severity: self.severity,
            last: self.last.filter(|_| !self.resumed),
            follow: self.follow,
        }
    }

    fn starts_at(&mut self, recorded: u64) {
        self.after = Some(recorded);
    }

    pub(crate) fn is_new(&self, seq: u64) -> bool {
        !self.resumed || self.after.is_none_or(|after| seq > after)
    }

    pub(crate) fn printed(&mut self, seq: u64) {
        self.after = Some(self.after.map_or(seq, |after| after.max(seq)));
    }

    /// Begins with an agent that has recorded so many alerts, or goes on with it; true when its journal is another one.
    pub(crate) fn restarts_or_starts_at(&mut self, recorded: u64) -> bool {
        if self.after.is_some() {
            return self.restarts_at(recorded);
        }
        self.starts_at(recorded);
        false
    }

    /// Goes on with an agent that has recorded so many alerts; true when its journal is not the one from before.
    fn restarts_at(&mut self, recorded: u64) -> bool {
        self.resumed = true;
        let anew = self.after.is_some_and(|after| after > recorded);
        if anew {
            self.after = Some(0);
        }
        anew
    }
}

/// Reads an age or a time into RFC 3339.
fn moment(text: &str, now: SystemTime) -> Result<String, Failure> {
    if let Ok(age) = humantime::parse_duration(text) {
        let moment = now.checked_sub(age).and_then(|moment| Timestamp::try_from(moment).ok());
        // An age beyond the beginning of our clocks means everything.
        return Ok(moment.unwrap_or(Timestamp::UNIX_EPOCH).max(Timestamp::UNIX_EPOCH).to_string());
    }
    text.parse::<Timestamp>().map(|moment| moment.to_string()).map_err(|_| {
        Failure::new(
            Exit::Usage,
            format!("--since {text:?} is neither a duration nor a time"),
            "use a duration such as 90s, 1h or 2days, or a time such as 2026-11-23T06:00:00Z",
        )
    })
}

/// Reads an age or a time into seconds since 1970.
pub(crate) fn since_seconds(text: &str) -> Result<i64, Failure> {
    let moment = moment(text, SystemTime::now())?;
    Ok(moment.parse::<Timestamp>().map_or(0, Timestamp::as_second))
}

/// The parts of an alert's message that fswatch and MIG's modules agree on.
#[derive(Deserialize)]
struct Message {
    severity: String,
    alert: String,
    #[serde(default)]
    process: Option<Writer>,
    #[serde(default)]
    window: Option<Window>,
}

/// Who did it, as far as the module knows.
#[derive(Deserialize)]
struct Writer {
    pid: Option<i64>,
    executable: Option<String>,
}

/// When it happened, if nobody saw it happen.
#[derive(Deserialize)]
struct Window {
    from: String,
    to: String,
}

impl Message {
    /// What the sentence does not say: who it was, and when.
    fn circumstances(&self) -> String {
        let mut text = String::new();
        if let Some(Writer { pid, executable }) = &self.process {
            match (executable, pid) {
                (Some(program), Some(pid)) => text.push_str(&format!(", by {program} (pid {pid})")),
                (None, Some(pid)) => text.push_str(&format!(", by pid {pid}")),
                _ => {}
            }
        }
        if let Some(Window { from, to }) = &self.window {
            text.push_str(&format!(", between {from} and {to}"));
        }
        text
    }
}

/// What is shown of an alert.
pub(crate) struct Line<'a> {
    /// When it was recorded.
    pub(crate) time: &'a str,
    /// Whose it is.
    pub(crate) module: &'a str,
    /// What it says.
    pub(crate) message: &'a str,
}

impl<'a> Line<'a> {
    fn of(alert: &'a AlertRecord) -> Self {
        Self { time: &alert.time, module: alert.module.as_str(), message: &alert.message }
    }
}

/// An alert's severity, how bad that is, and its sentence; all of the message where it has no form that is known.
pub(crate) fn said(message: &str) -> (Tone, String, String) {
    let (severity, text) = match serde_json::from_str::<Message>(message) {
        Ok(message) => {
            let text = format!("{}{}", message.alert, message.circumstances());
            (message.severity, text)
        }
        Err(_) => ("-".to_owned(), message.to_owned()),
    };
    let tone = match severity.as_str() {
        "critical" | "high" => Tone::Bad,
        "medium" => Tone::Doubtful,
        _ => Tone::Plain,
    };
    (tone, severity, text)
}

/// One alert for people.
pub(crate) fn render(alert: &Line<'_>, paint: Paint) -> String {
    let (tone, severity, text) = said(alert.message);
    format!(
        "{} {} {} {}",
        paint.text(Tone::Faint, &safe(alert.time)),
        safe(alert.module),
        paint.text(tone, &format!("{:8}", safe(&severity))),
        safe(&text)
    )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::client::tests::fake_agent;
    use crate::fleet::options::FleetFile;
    use crate::print::tests::Captured;

    fn args(follow: bool, lines: Option<usize>) -> AlertsArgs {
        AlertsArgs {
            follow,
            since: None,
            module: None,
            severity: None,
            raw: false,
            lines,
            json: true,
            verify: false,
            journal: None,
            target: None,
            fleet: FleetFile::default(),
        }
    }

    fn alert(seq: u64) -> AlertRecord {
        AlertRecord {
            seq,
            time: "2026-11-23T06:29:22.123Z".to_owned(),
            module: "fswatch".parse().unwrap(),
            id: None,
            message: r#"{"severity":"critical","alert":"/etc/passwd signature changed a -> b"}"#.to_owned(),
        }
    }

    fn line(reply: &Reply) -> String {
        format!("{}\n", serde_json::to_string(reply).unwrap())
    }

    fn status_line(recorded: u64) -> String {
        let status = serde_json::json!({"status": {
            "version": "0.1.0", "pid": 1, "hostname": "h", "started_at": "", "uptime_secs": 0, "health": "healthy",
            "problems": [], "modules": [], "containment": "session",
            "config": {"path": null, "generation": 1, "last_reload_at": "", "last_reload_ok": true, "problems": []},
            "journal": {"recorded": recorded, "duplicates": 0, "bytes": 0, "pending": 0},
            "queries": {"running": 0, "waiting": 0, "answered": 0, "failed": 0}
        }});
        format!("{status}\n")
    }

    #[test]
    fn json_holds_the_alert_as_an_object_unless_it_is_none() {
        let text = |record: &AlertRecord| serde_json::to_string(&JsonAlert::of(record)).unwrap();

        let object = AlertRecord { message: "{\n \"severity\": \"low\"}".to_owned(), ..alert(1) };
        assert!(text(&object).ends_with(r#","alert":{"severity":"low"}}"#), "{}", text(&object));
        for message in ["plain", "5", "[1]", "{"] {
            let plain = AlertRecord { message: message.to_owned(), ..alert(1) };
            assert!(text(&plain).ends_with(&format!(r#","message":"{message}"}}"#)), "{}", text(&plain));
        }
    }

    #[test]
    fn who_did_it_and_when_is_told_to_people() {
        let alert = AlertRecord {
            message: r#"{"severity":"low","alert":"path /a removed","process":{"pid":7,"executable":"/bin/rm"},"window":{"from":"x","to":"y"}}"#.to_owned(),
            ..alert(1)
        };

        let shown = render(&Line::of(&alert), Paint::new(false));

        assert!(shown.ends_with("path /a removed, by /bin/rm (pid 7), between x and y"), "{shown}");
    }

    #[test]
    fn an_alert_for_people() {
        assert_eq!(
            render(&Line::of(&alert(1)), Paint::new(false)),
            "2026-11-23T06:29:22.123Z fswatch critical /etc/passwd signature changed a -> b"
        );
        let odd = AlertRecord { message: "a\nb\u{1b}".to_owned(), ..alert(2) };
        assert_eq!(
            render(&Line::of(&odd), Paint::new(false)),
            r"2026-11-23T06:29:22.123Z fswatch -        a\nb\u{1b}"
        );
    }

    #[test]
    fn an_age_and_a_time_are_understood_and_nonsense_is_not() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_415_362);

        assert_eq!(moment("1h", now).unwrap(), "2026-11-23T05:29:22Z");
        assert_eq!(moment("2026-11-23T07:00:00+01:00", now).unwrap(), "2026-11-23T06:00:00Z");
        assert_eq!(moment("5000years", now).unwrap(), "1970-01-01T00:00:00Z");
        assert_eq!(moment("yesterday", now).unwrap_err().exit, Exit::Usage);
    }

    #[test]
    fn following_goes_on_after_the_last_alert_when_the_agent_returns() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("agent.sock");
        let alerts =
            |range: std::ops::RangeInclusive<u64>| range.map(|seq| line(&Reply::Alert(alert(seq)))).collect();
        let refusal = "{\"error\":{\"kind\":\"gone\",\"message\":\"the test is over\"}}\n".to_owned();
        let agent = fake_agent(
            &socket,
            vec![
                vec![status_line(2)],
                alerts(1..=3),
                // The agent went away in the middle of alert 4, and is back with two more.
                vec![status_line(5)],
                alerts(3..=5),
                vec![status_line(5)],
                vec![refusal],
            ],
        );
        let captured = Captured::default();

        let failure = run(&args(true, None), &socket, &mut Printer::into(Box::new(captured.clone()), true))
            .unwrap_err();

        assert_eq!(failure.message, "the test is over");
        let printed: Vec<u64> = captured
            .text()
            .lines()
            .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap())
            .map(|alert| {
                assert_eq!(alert["alert"]["severity"], "critical", "{alert}");
                alert["seq"].as_u64().unwrap()
            })
            .collect();
        assert_eq!(printed, [1, 2, 3, 4, 5]);
        let requests = agent.join().unwrap();
        assert!(
            requests[1].contains("\"last\":10") && requests[1].contains("\"after\":null"),
            "{}",
            requests[1]
        );
        assert!(
            requests[3].contains("\"after\":3") && requests[3].contains("\"last\":null"),
            "{}",
            requests[3]
        );
        assert!(requests[5].contains("\"after\":5"), "{}", requests[5]);
    }

    #[test]
    fn a_journal_that_was_begun_anew_is_shown_from_its_start() {
        let mut progress = Progress::new(&args(true, None), None);
        progress.starts_at(7);
        progress.printed(8);

        assert!(progress.restarts_at(2));

        assert!(progress.is_new(1));
        assert!(matches!(progress.request(), Request::Alerts { after: Some(0), last: None, .. }));
    }

    proptest! {
        #[test]
        fn over_any_restarts_every_alert_is_printed_once(
            before in 0_u64..20,
            lives in proptest::collection::vec((0_u64..20, 0_u64..20), 1..6),
        ) {
            let mut progress = Progress::new(&args(true, None), None);
            let mut recorded = before;
            let mut printed = Vec::new();
            progress.starts_at(recorded);

            for (life, (while_connected, while_away)) in lives.iter().enumerate() {
                if life > 0 {
                    prop_assert!(!progress.restarts_at(recorded));
                }
                recorded += while_connected;
                let Request::Alerts { after, last, .. } = progress.request() else { unreachable!() };
                let first = match (after, last) {
                    (Some(after), _) => after + 1,
                    (None, Some(last)) => (before + 1).saturating_sub(last as u64).max(1),
                    (None, None) => 1,
                };
                for seq in first..=recorded {
                    if progress.is_new(seq) {
                        printed.push(seq);
                        progress.printed(seq);
                    }
                }
                recorded += while_away;
            }

            prop_assert!(printed.windows(2).all(|pair| pair[1] == pair[0] + 1), "{:?}", printed);
        }
    }
}
