//! `vigie alerts -t TARGET`: the alerts of the fleet, each agent's in their order, with what is missing.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use serde::Serialize;
use tokio::time::Instant;
use vigie_fleet::alert_order::{AlertOrder, Told};
use vigie_fleet::broker::connection::Connection;
use vigie_fleet::broker::stored::{Cursor, Entry};
use vigie_fleet::predicate::Target;
use vigie_fleet::subjects::{self, ALERTS, EVERY_ALERT};
use vigie_protocol::names::AgentId;
use vigie_protocol::severity::{Severity, is_canary};

use super::files::{self, failed};
use super::inventory::{Inventory, parse_target};
use super::profile::Profile;
use crate::alerts::AlertsArgs;
use crate::alerts::{self, Line};
use crate::exit::{Exit, Failure};
use crate::print::{Printer, Tone, safe};

/// How long an alert waits for one before it that is missing: longer than an agent takes to send it again.
const PATIENCE: Duration = Duration::from_secs(5);

/// How often `-f` looks for new alerts.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Alerts that are read before the first of them are shown.
const READ_AT_ONCE: usize = 1000;

/// Alerts that `-f` begins with.
const FOLLOW_LINES: usize = 10;

/// Something wrong as JSON.
#[derive(Serialize)]
struct Wrong<'a> {
    r#type: &'a str,
    agent: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    first_seq: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_seq: Option<u64>,
    message: &'a str,
}

fn unavailable(error: vigie_fleet::broker::stored::StoredError) -> Failure {
    failed(Exit::Unavailable, "check that the broker is running and reachable")(&error)
}

/// Carries out `alerts -t`.
pub(crate) fn run(args: &AlertsArgs, target: &str, printer: &mut Printer) -> Result<Exit, Failure> {
    files::block_on(read(args, target, printer))
}

/// What reading the fleet's alerts needs.
struct Reader<'p> {
    args: AlertsArgs,
    target: Target,
    profile: Profile,
    connection: Connection,
    inventory: Inventory,
    /// Agents that were looked at again for what is being read.
    renewed: BTreeSet<AgentId>,
    order: AlertOrder,
    started: Instant,
    /// The newest alerts, when only so many are wanted.
    held: Option<VecDeque<Told>>,
    lines: usize,
    is_bad: bool,
    printer: &'p mut Printer,
}

async fn read(args: &AlertsArgs, target: &str, printer: &mut Printer) -> Result<Exit, Failure> {
    let since = args.since.as_deref().map(alerts::since_seconds).transpose()?;
    let profile = Profile::load(args.fleet.fleet_file.as_deref())?;
    let (target, _) = parse_target(target, &profile)?;
    let (connection, _events) = profile.connect().await?;
    let inventory = Inventory::load(&connection, &profile).await?;
    let lines = args.lines.or((args.follow && since.is_none()).then_some(FOLLOW_LINES));
    let patience = u64::try_from(PATIENCE.as_millis()).unwrap_or(u64::MAX);
    let order = if since.is_none() { AlertOrder::from_start(patience) } else { AlertOrder::new(patience) };
    let mut cursor = Cursor { next: 1 };
    if let Some(seconds) = since {
        cursor =
            Cursor::at_time(&connection.client, ALERTS, EVERY_ALERT, seconds).await.map_err(unavailable)?;
    }
    let mut reader = Reader {
        args: args.clone(),
        target,
        profile,
        connection,
        inventory,
        renewed: BTreeSet::new(),
        order,
        started: Instant::now(),
        held: lines.map(|_| VecDeque::new()),
        lines: lines.unwrap_or(usize::MAX),
        is_bad: false,
        printer,
    };
    reader.run(cursor).await
}

impl Reader<'_> {
    async fn run(&mut self, mut cursor: Cursor) -> Result<Exit, Failure> {
        let mut told = Vec::new();
        let mut looks = tokio::time::interval(LOOK_EVERY);
        looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut caught_up = false;
        let interrupt = tokio::signal::ctrl_c();
        tokio::pin!(interrupt);
        loop {
            tokio::select! {
                biased;
                _ = &mut interrupt => return Ok(Exit::Ok),
                _ = looks.tick() => {}
            }
            loop {
                let mut entries = Vec::new();
                let read = cursor
                    .read(&self.connection.client, ALERTS, EVERY_ALERT, |entry| {
                        entries.push(entry);
                        entries.len() < READ_AT_ONCE
                    })
                    .await;
                self.renewed.clear();
                for entry in &entries {
                    self.take(entry, &mut told).await?;
                }
                match read {
                    Ok(is_end) => caught_up |= is_end,
                    // A broker that is away for a while is no end for one that follows.
                    Err(error) if !(self.args.follow && error.is_transient()) => {
                        return Err(unavailable(error));
                    }
                    Err(_) => break,
                }
                self.show(&mut told, caught_up)?;
                if entries.len() < READ_AT_ONCE {
                    break;
                }
            }
            if !self.args.follow && caught_up {
                break;
            }
            let now = self.now();
            self.order.overdue(now, &mut told);
            self.show(&mut told, caught_up)?;
        }
        self.order.finish(&mut told);
        for (agent, known) in &self.inventory.agents {
            if let Some(head) = known.shown.as_ref().and_then(|shown| shown.alerts.as_ref()) {
                self.order.compare(agent, head, &mut told);
            }
        }
        self.show(&mut told, true)?;
        Ok(if self.is_bad { Exit::SomeFailed } else { Exit::Ok })
    }

    fn now(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Checks an alert and puts it in its place.
    async fn take(&mut self, stored: &Entry, told: &mut Vec<Told>) -> Result<(), Failure> {
        let Some(agent) = subjects::last_name(&stored.subject) else { return Ok(()) };
        let mut opened = self.inventory.open_alert(&agent, &stored.value, stored.stored);
        // Since the inventory was read it may have joined, or have got another key; looked at once for all that was
        // read together.
        if opened.is_err() && self.renewed.insert(agent.clone()) {
            let agents = [agent.clone()];
            self.inventory.renew(&self.connection, &self.profile, &agents).await?;
            self.inventory.refresh(&self.connection, &agents).await?;
            opened = self.inventory.open_alert(&agent, &stored.value, stored.stored);
        }
        match opened {
            Ok(alert) => {
                let now = self.now();
                self.order.take(alert, now, told);
                Ok(())
            }
            Err(problem) => self.wrong("flagged", agent.as_str(), None, &problem),
        }
    }

    fn is_wanted(&self, agent: &AgentId) -> bool {
        let facts = self.inventory.agents.get(agent).and_then(|known| known.facts());
        facts.is_some_and(|facts| self.target.matches(facts))
    }

    /// Prints what is in order. The newest only, when only they are wanted, until all that was stored is read.
    fn show(&mut self, told: &mut Vec<Told>, caught_up: bool) -> Result<(), Failure> {
        for one in told.drain(..) {
            let (agent, module) = match &one {
                Told::Alert(alert) | Told::Late(alert) | Told::Twin(alert) => {
                    (&alert.agent, Some(alert.module.as_str()))
                }
                Told::Gap { agent, .. }
                | Told::Gone { agent, .. }
                | Told::Cut { agent, .. }
                | Told::Renamed { agent, .. }
                | Told::Fork { agent, .. } => (agent, None),
            };
            let other_module =
                self.args.module.as_ref().zip(module).is_some_and(|(wanted, of)| wanted.as_str() != of);
            let is_proof = matches!(&one, Told::Alert(alert) | Told::Late(alert) | Told::Twin(alert) if is_canary(&alert.module, &alert.message));
            let is_unasked = is_proof && self.args.severity != Some(Severity::Low);
            if other_module || is_unasked || !self.is_wanted(agent) {
                continue;
            }
            match &mut self.held {
                Some(held) => {
                    held.push_back(one);
                    if held.len() > self.lines {
                        held.pop_front();
                    }
                }
                None => self.print(&one)?,
            }
        }
        if caught_up && let Some(held) = self.held.take() {
            for one in held {
                self.print(&one)?;
            }
        }
        Ok(())
    }

    fn print(&mut self, told: &Told) -> Result<(), Failure> {
        match told {
            Told::Alert(alert) | Told::Late(alert) | Told::Twin(alert) => {
                if self.printer.is_json() {
                    return self.printer.json(alert);
                }
                let line = Line { time: &alert.time, module: &alert.module, message: &alert.message };
                let late = match told {
                    Told::Late(_) => " (late)",
                    Told::Twin(_) => " (second agent)",
                    _ => "",
                };
                let text = alerts::render(&line, self.printer.paint());
                self.printer.line(&format!("{}{late}  {text}", alert.agent))
            }
            Told::Gap { agent, first_seq, last_seq, given_up } => {
                let count = last_seq - first_seq + 1;
                let problem = if *given_up {
                    format!("the agent discarded {count} alerts for lack of space")
                } else {
                    format!("{count} alerts are missing")
                };
                self.wrong("gap", agent.as_str(), Some((*first_seq, *last_seq)), &problem)
            }
            Told::Gone { agent, last_seq } => {
                let problem =
                    format!("the first {last_seq} alerts are not on the broker: expired or displaced");
                self.wrong("gone", agent.as_str(), Some((1, *last_seq)), &problem)
            }
            Told::Cut { agent, first_seq, last_seq } => {
                let problem = "the newest alerts that the broker accepted are missing: they were deleted";
                self.wrong("cut", agent.as_str(), Some((*first_seq, *last_seq)), problem)
            }
            Told::Renamed { agent, before, seq } => {
                let problem = format!(
                    "the journal continues under another name: before, {before}; its files come from another machine or are an older copy"
                );
                self.wrong("renamed", agent.as_str(), Some((*seq, *seq)), &problem)
            }
            Told::Fork { agent, seq } => {
                let problem = "duplicate identity: a clone, a restored snapshot or a stolen key";
                self.wrong("fork", agent.as_str(), Some((*seq, *seq)), problem)
            }
        }
    }

    fn wrong(
        &mut self,
        kind: &str,
        agent: &str,
        range: Option<(u64, u64)>,
        problem: &str,
    ) -> Result<(), Failure> {
        self.is_bad = true;
        if self.printer.is_json() {
            let (first_seq, last_seq) = range.unzip();
            return self.printer.json(&Wrong { r#type: kind, agent, first_seq, last_seq, message: problem });
        }
        let range = range.map_or_else(String::new, |(first, last)| format!(" (numbers {first} to {last})"));
        let text = self.printer.paint().text(Tone::Bad, &safe(problem));
        self.printer.line(&format!("{}  {text}{range}", safe(agent)))
    }
}
