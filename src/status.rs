//! `vigie status` and `vigie module list`.

use std::path::Path;
use std::time::Duration;

use clap::Args;
use serde::Serialize;
use vigie_protocol::control::{AgentStatus, FleetStatus, Health, ModuleState, ModuleStatus, Reply, Request};

use crate::client::{self, ClientError};
use crate::exit::{Exit, Failure};
use crate::print::{Paint, Printer, Tone, duration, safe, size};
use crate::sink;
use crate::table::{Cell, Room, Table};

/// What `--watch` prints as JSON while there is no agent.
#[derive(Serialize)]
struct Absence<'a> {
    health: &'a str,
    problems: [String; 1],
}

/// `status`
#[derive(Debug, Args)]
pub(crate) struct StatusArgs {
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,

    /// Refresh until interrupted
    #[arg(long, short = 'w')]
    pub(crate) watch: bool,

    /// Refresh interval with --watch
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = crate::durations::positive, requires = "watch")]
    pub(crate) interval: Duration,
}

/// Carries out `status`.
pub(crate) fn run(args: &StatusArgs, socket: &Path, printer: &mut Printer) -> Result<Exit, Failure> {
    if args.watch {
        return watch(args, socket, printer);
    }
    let status = fetch(socket).map_err(|error| {
        let exit = exit_without_status(&error);
        Failure { exit, ..Failure::from(error) }
    })?;
    show(&status, printer)?;
    Ok(exit_of(status.health))
}

/// Carries out `module list`.
pub(crate) fn list(socket: &Path, printer: &mut Printer) -> Result<Exit, Failure> {
    let status = fetch(socket)?;
    if printer.is_json() {
        for module in &status.modules {
            printer.json(module)?;
        }
    } else {
        let table = modules_table(&status.modules, printer.width(), printer.paint());
        printer.line(table.trim_end())?;
    }
    Ok(Exit::Ok)
}

/// Shows the status again and again; an agent that is away is shown as such.
fn watch(args: &StatusArgs, socket: &Path, printer: &mut Printer) -> Result<Exit, Failure> {
    loop {
        let answer = fetch(socket);
        if printer.is_terminal() && !printer.is_json() {
            // Home, and erase what was there: the picture stays in its place.
            printer.raw(b"\x1b[H\x1b[2J")?;
        }
        match answer {
            Ok(status) => show(&status, printer)?,
            Err(error) => {
                let health =
                    if exit_without_status(&error) == Exit::NotRunning { "not_running" } else { "unknown" };
                if printer.is_json() {
                    printer.json(&Absence { health, problems: [error.to_string()] })?;
                } else {
                    let text = printer.paint().text(Tone::Bad, &safe(&error.to_string()));
                    printer.line(&text)?;
                }
            }
        }
        pause(args.interval);
    }
}

#[expect(clippy::disallowed_methods, reason = "there is no arbiter here, and time is what is waited for")]
fn pause(time: std::time::Duration) {
    std::thread::sleep(time);
}

/// Asks the agent.
pub(crate) fn fetch(socket: &Path) -> Result<AgentStatus, ClientError> {
    match client::ask(socket, &Request::Status {}, client::PROMPT)? {
        Reply::Status(status) => Ok(*status),
        other => Err(ClientError::Garbled {
            reason: format!("not a status: {:?}", format!("{other:?}").chars().take(100).collect::<String>()),
        }),
    }
}

fn show(status: &AgentStatus, printer: &mut Printer) -> Result<(), Failure> {
    if printer.is_json() {
        return printer.json(status);
    }
    let text = render(status, printer.width(), printer.paint());
    printer.line(text.trim_end())
}

fn exit_of(health: Health) -> Exit {
    match health {
        Health::Healthy => Exit::Ok,
        Health::Degraded | Health::Failed => Exit::NotWell,
    }
}

/// An agent that is there and does not answer is not well; one that is not there does not run.
fn exit_without_status(error: &ClientError) -> Exit {
    match error {
        ClientError::NotRunning { .. } => Exit::NotRunning,
        ClientError::NotPermitted { .. } => Exit::Permission,
        ClientError::Garbled { .. } => Exit::Internal,
        ClientError::NotConnected { .. } => Exit::Unavailable,
        ClientError::Broken { .. }
        | ClientError::Closed
        | ClientError::TimedOut { .. }
        | ClientError::Refused(_) => Exit::NotWell,
    }
}

/// The status for people.
fn render(status: &AgentStatus, width: Option<u16>, paint: Paint) -> String {
    let (tone, health) = match status.health {
        Health::Healthy => (Tone::Good, "healthy"),
        Health::Degraded => (Tone::Doubtful, "degraded"),
        Health::Failed => (Tone::Bad, "failed"),
    };
    let mut text = format!(
        "vigie {} on {}: {}, up {}, pid {}\n",
        safe(&status.version),
        safe(&status.hostname),
        paint.text(tone, health),
        duration(status.uptime_secs),
        status.pid
    );
    for problem in &status.problems {
        text.push_str(&format!("  {} {}\n", paint.text(tone, "!"), safe(problem)));
    }
    let config = &status.config;
    let origin = match &config.path {
        Some(path) => format!("from {}", safe(&path.to_string_lossy())),
        None => "the defaults".to_owned(),
    };
    text.push_str(&format!("configuration {}, {origin}", config.generation));
    if config.last_reload_ok {
        text.push_str(&format!(", read {}\n", safe(&config.last_reload_at)));
    } else {
        let refused =
            format!("the file read {} is invalid and was not applied", safe(&config.last_reload_at));
        text.push_str(&format!("; {}\n", paint.text(Tone::Bad, &refused)));
    }
    let journal = &status.journal;
    text.push_str(&format!("alerts: {} recorded, {} on disk", journal.recorded, size(journal.bytes)));
    if journal.pending > 0 {
        text.push_str(&format!(", {} waiting for the disk", journal.pending));
    }
    let deleted: u64 = journal.deleted.values().sum();
    if deleted > 0 {
        text.push_str(&format!(", {deleted} deleted by retention"));
    }
    if let Some(damage) = &journal.damage {
        text.push_str(&format!("; {}", paint.text(Tone::Bad, &safe(damage))));
    }
    if let Some(error) = &journal.error {
        text.push_str(&format!("; {}", paint.text(Tone::Bad, &safe(error))));
    }
    let queries = &status.queries;
    text.push_str(&format!(
        "\nqueries: {} answered, {} failed, {} running, {} waiting\n",
        queries.answered, queries.failed, queries.running, queries.waiting
    ));
    if let Some(fleet) = &status.fleet {
        text.push_str(&fleet_line(fleet, paint));
    }
    if status.privacy.extra {
        text.push_str("extra privacy mode is on");
        let names: Vec<&str> = status.privacy.unchecked.iter().map(|name| name.as_str()).collect();
        if !names.is_empty() {
            text.push_str(&format!(
                "; results of these modules are not checked for masking: {}",
                names.join(", ")
            ));
        }
        text.push('\n');
    }
    text.push('\n');
    text.push_str(&modules_table(&status.modules, width, paint));
    if !status.sinks.is_empty() {
        text.push('\n');
        text.push_str(&sink::table(&status.sinks, width, paint));
    }
    text
}

/// The link to the fleet for people.
fn fleet_line(fleet: &FleetStatus, paint: Paint) -> String {
    let (tone, state) =
        if fleet.connected { (Tone::Good, "connected") } else { (Tone::Doubtful, "not connected") };
    let mut text =
        format!("fleet {}: {} as {}", safe(&fleet.org), paint.text(tone, state), safe(&fleet.agent));
    match fleet.policy_version {
        Some(version) => text.push_str(&format!(", policy {version}")),
        None => text.push_str(&format!(", {}", paint.text(Tone::Doubtful, "no policy"))),
    }
    let count = |outcome: &str| fleet.outcomes.get(outcome).copied().unwrap_or(0);
    let accepted = count("accepted");
    let refused: u64 = fleet
        .outcomes
        .iter()
        .filter(|(outcome, _)| !matches!(outcome.as_str(), "accepted" | "again" | "not_targeted"))
        .map(|(_, count)| count)
        .sum();
    text.push_str(&format!(
        "; actions: {accepted} accepted, {refused} refused, {} running, {} waiting; alerts: {} waiting\n",
        fleet.running, fleet.waiting, fleet.alerts_waiting
    ));
    if let Some(key) = &fleet.key {
        text.push_str(&format!("  key {}\n", safe(key)));
    }
    text
}

/// The modules for people.
fn modules_table(modules: &[ModuleStatus], width: Option<u16>, paint: Paint) -> String {
    let headings = ["MODULE", "STATE", "PID", "UP", "RESTARTS", "HEARTBEAT", "LOGS", "ALERTS", "NOTE"];
    let mut table = Table::simple(&headings);
    for module in modules {
        let (tone, state) = state_word(module.state);
        let cell = |text: &str| Cell::from(text);
        let optional = |number: Option<u64>| number.map_or("-".to_owned(), |number| number.to_string());
        table.add([
            cell(module.name.as_str()),
            Cell::new(tone, state),
            cell(&optional(module.pid.map(u64::from))),
            cell(&module.uptime_secs.map_or("-".to_owned(), duration)),
            cell(&module.restarts.to_string()),
            cell(&module.heartbeat_us.map_or("-".to_owned(), heartbeat)),
            cell(&module.logs.to_string()),
            cell(&module.alerts.to_string()),
            cell(&module_note(module)),
        ]);
    }
    table.text(Room { width, wide: false }, paint)
}

pub(crate) fn state_word(state: ModuleState) -> (Tone, &'static str) {
    match state {
        ModuleState::Idle => (Tone::Faint, "idle"),
        ModuleState::Starting => (Tone::Plain, "starting"),
        ModuleState::Running => (Tone::Good, "running"),
        ModuleState::Degraded => (Tone::Doubtful, "degraded"),
        ModuleState::Stopping => (Tone::Plain, "stopping"),
        ModuleState::Backoff => (Tone::Doubtful, "backoff"),
        ModuleState::Failed => (Tone::Bad, "failed"),
        ModuleState::Ended => (Tone::Faint, "ended"),
    }
}

/// Microseconds as milliseconds.
pub(crate) fn heartbeat(microseconds: u64) -> String {
    format!("{}.{} ms", microseconds / 1000, microseconds % 1000 / 100)
}

/// Why a module is not plainly running, how it ended last, and what it lost.
pub(crate) fn module_note(module: &ModuleStatus) -> String {
    let mut notes = Vec::new();
    notes.extend(module.reason.clone());
    if let Some(milliseconds) = module.restart_in_ms {
        notes.push(format!("starts in {}.{} s", milliseconds / 1000, milliseconds % 1000 / 100));
    }
    if let Some(exit) = &module.last_exit {
        notes.push(format!("last exit {exit}"));
    }
    let dropped: u64 = module.dropped.values().sum();
    if dropped > 0 {
        let reasons: Vec<&str> = module.dropped.keys().map(String::as_str).collect();
        notes.push(format!("{dropped} lines dropped ({})", reasons.join(", ")));
    }
    notes.join("; ")
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::client::tests::fake_agent;
    use crate::print::tests::Captured;

    pub(crate) fn status() -> AgentStatus {
        serde_json::from_value(serde_json::json!({
            "version": "0.1.0", "pid": 4242, "hostname": "web1", "started_at": "2026-11-23T06:00:00.000Z",
            "uptime_secs": 11527, "health": "degraded", "problems": ["module audit waits for its next start"],
            "config": {
                "path": "/etc/vigie/vigie.toml", "generation": 3,
                "last_reload_at": "2026-11-23T09:00:00.000Z", "last_reload_ok": true, "problems": []
            },
            "modules": [
                {
                    "name": "fswatch", "kind": "persistent", "state": "running", "pid": 4243, "incarnation": 1,
                    "uptime_secs": 11526, "restarts": 0, "heartbeat_us": 240, "logs": 12, "alerts": 3
                },
                {
                    "name": "audit", "kind": "persistent", "state": "backoff", "reason": "exited\u{1b}[2J",
                    "incarnation": 4, "restarts": 3, "last_exit": "exited(1)", "restart_in_ms": 1250,
                    "logs": 0, "alerts": 0, "dropped": {"not_json": 2}
                }
            ],
            "journal": {"recorded": 3, "duplicates": 0, "bytes": 1536, "pending": 0},
            "queries": {"running": 0, "waiting": 0, "answered": 5, "failed": 1},
            "containment": "cgroup"
        }))
        .unwrap()
    }

    #[test]
    fn the_status_has_the_form_that_its_schema_says() {
        let schema = serde_json::from_str(include_str!("../docs/status.schema.json")).unwrap();
        let example: AgentStatus = serde_json::from_str(vigie_metrics::EXAMPLE_STATUS).unwrap();

        let value = serde_json::to_value(&example).unwrap();

        assert_eq!(vigie_schema::problems(&schema, "", &value), [""; 0]);
    }

    #[test]
    fn the_status_for_people() {
        let text = render(&status(), None, Paint::new(false));

        assert_eq!(
            text,
            "\
vigie 0.1.0 on web1: degraded, up 3h 12m, pid 4242
  ! module audit waits for its next start
configuration 3, from /etc/vigie/vigie.toml, read 2026-11-23T09:00:00.000Z
alerts: 3 recorded, 1.5 KiB on disk
queries: 5 answered, 1 failed, 0 running, 0 waiting

MODULE   STATE    PID   UP      RESTARTS  HEARTBEAT  LOGS  ALERTS  NOTE
fswatch  running  4243  3h 12m  0         0.2 ms     12    3
audit    backoff  -     -       3         -          0     0       exited\\u{1b}[2J; starts in 1.2 s; last exit exited(1); 2 lines dropped (not_json)
"
        );
    }

    #[test]
    fn the_link_to_the_fleet_is_shown() {
        let mut status = status();
        let mut fleet: FleetStatus = serde_json::from_value(serde_json::json!({
            "org": "example", "agent": "web-1", "key": "UABC", "connected": true, "policy_version": 7,
            "alerts_sent": 3, "alerts_waiting": 2, "running": 1, "waiting": 0,
            "outcomes": {"accepted": 5, "again": 9, "not_targeted": 2, "expired": 1, "bad_signature": 2}
        }))
        .unwrap();
        status.fleet = Some(fleet.clone());
        let shown = "fleet example: connected as web-1, policy 7; actions: 5 accepted, 3 refused, 1 running, 0 waiting; \
                     alerts: 2 waiting\n  key UABC\n";
        assert!(render(&status, None, Paint::new(false)).contains(shown));

        fleet.connected = false;
        fleet.policy_version = None;
        status.fleet = Some(fleet);
        let text = render(&status, None, Paint::new(false));

        assert!(text.contains("fleet example: not connected as web-1, no policy;"), "{text}");
    }

    #[test]
    fn extra_privacy_mode_is_shown_with_whom_nobody_checks() {
        let mut status = status();
        status.privacy.extra = true;
        assert!(render(&status, None, Paint::new(false)).contains("waiting\nextra privacy mode is on\n\n"));

        status.privacy.unchecked = vec!["audit".parse().unwrap()];
        let text = render(&status, None, Paint::new(false));

        assert!(text.contains(
            "extra privacy mode is on; results of these modules are not checked for masking: audit\n"
        ));
    }

    #[test]
    fn an_invalid_configuration_is_shown_with_its_place() {
        let mut status = status();
        status.config.last_reload_ok = false;
        status.problems =
            vec!["configuration: /etc/vigie/vigie.toml:7: agent.stop_grace: is \"x\"".to_owned()];

        let text = render(&status, None, Paint::new(false));

        assert!(
            text.contains("; the file read 2026-11-23T09:00:00.000Z is invalid and was not applied\n"),
            "{text}"
        );
        assert!(
            text.contains("  ! configuration: /etc/vigie/vigie.toml:7: agent.stop_grace: is \"x\""),
            "{text}"
        );
    }

    #[test]
    fn colours_come_only_when_they_are_wanted() {
        assert!(render(&status(), None, Paint::new(true)).contains("\u{1b}[33mdegraded\u{1b}[0m"));
        assert!(!render(&status(), None, Paint::new(false)).contains('\u{1b}'));
    }

    #[test]
    fn the_exit_code_tells_healthy_from_degraded_from_absent() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("agent.sock");
        let args = StatusArgs { json: true, watch: false, interval: std::time::Duration::from_secs(1) };
        let captured = Captured::default();
        let mut printer = Printer::into(Box::new(captured.clone()), true);

        assert_eq!(run(&args, &socket, &mut printer).unwrap_err().exit, Exit::NotRunning);
        assert_eq!(captured.text(), "");

        let reply = format!("{}\n", serde_json::to_string(&Reply::Status(Box::new(status()))).unwrap());
        let agent = fake_agent(&socket, vec![vec![reply]]);
        assert_eq!(run(&args, &socket, &mut printer).unwrap(), Exit::NotWell);
        agent.join().unwrap();
        assert!(captured.text().starts_with("{\"version\":\"0.1.0\""));

        assert_eq!(exit_of(Health::Healthy), Exit::Ok);
    }
}
