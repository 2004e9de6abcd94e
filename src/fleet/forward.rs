//! `vigie fleet forward`: passes the alerts of all agents on to sinks, as an instance of a group that shares the work.
//!
//! A batch is taken from the group's consumer at the broker, each alert's seal is verified, every sink gets what it
//! wants, and only when all have it the broker is told. So the end of anybody costs repetitions, which are marked, and
//! no alert. Instances of one group see a part each: what is missing in an agent's sequence is told by
//! `vigie alerts -t`, which sees all of it.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use futures_util::future::join_all;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};
use vigie_actors::sinks::Outlet;
use vigie_config::files::{self as config_files, LoadOptions};
use vigie_files::random;
use vigie_fleet::answer::{Continued, FleetAlert};
use vigie_fleet::broker::consumer::{ACK_WAIT, Answer, Delivery, Member};
use vigie_fleet::broker::jwt::Role;
use vigie_fleet::broker::stored::matches;
use vigie_fleet::subjects::{self, EVERY_ALERT};
use vigie_protocol::names::AgentId;
use vigie_protocol::severity::Severity;
use vigie_sinks::alert::{Alert, Recorded, Source};
use vigie_sinks::backoff::Backoff;

use super::files::failed;
use super::inventory::Inventory;
use super::profile::Profile;
use crate::exit::{Exit, Failure};
use crate::modules::BUILTINS;
use crate::print::{self, Printer};

/// How long a request waits at the broker for an alert.
const PATIENCE: Duration = Duration::from_secs(5);

/// Pause after the broker could not be asked.
const PAUSE: Duration = Duration::from_secs(1);

/// Failures in a row after which a batch is given back, for instances whose receiver works.
const GIVE_BACK: u32 = 3;

/// Pause before a receiver is asked again that takes nothing as it is configured.
const REST: Duration = Duration::from_secs(60);

/// This program.
const SELF: &str = "/proc/self/exe";

/// `fleet forward`
#[derive(Debug, Args)]
pub(crate) struct ForwardArgs {
    /// A file with `[[sink]]` sections as in the agent's configuration; may be repeated
    #[arg(long = "sink", value_name = "CONFIG", required = true)]
    sinks: Vec<PathBuf>,
}

/// Carries out `fleet forward`.
pub(super) fn run(args: &ForwardArgs, profile: &Profile, printer: &mut Printer) -> Result<Exit, Failure> {
    if profile.role != Role::Forwarder {
        let hint = "an administrator creates one with `vigie fleet forwarder add NAME`; give it with --fleet";
        return Err(Failure::new(Exit::Config, "the fleet file is not a forwarder's file", hint));
    }
    if !std::path::Path::new(SELF).exists() {
        // Sinks of type `command` and `file` are programs of their own, started from it.
        let hint = "mount it: `mount -t proc proc /proc`";
        return Err(Failure::new(Exit::Unavailable, "/proc is not mounted; sinks cannot be started", hint));
    }
    let outlets = outlets(args)?;
    actix_rt::System::new().block_on(forward(outlets, profile, printer))
}

/// The sinks of all files.
fn outlets(args: &ForwardArgs) -> Result<Vec<Outlet>, Failure> {
    let mut outlets: Vec<Outlet> = Vec::new();
    for path in &args.sinks {
        let config =
            config_files::load(&LoadOptions::at_start(Some(path.clone())), BUILTINS).map_err(|problems| {
                problems.iter().for_each(|problem| print::problem(&problem.to_string()));
                let hint = "correct it and check it with `vigie check-config`";
                Failure::new(Exit::Config, format!("{} is invalid", path.display()), hint)
            })?;
        let agent = &config.agent;
        for section in agent.sinks.iter().filter(|section| section.enabled) {
            if !section.is_acknowledged() {
                let message = format!(
                    "the sink {} in {} does not acknowledge, so alerts would be lost",
                    section.name,
                    path.display()
                );
                let hint =
                    "use RELP or TLS for syslog; webhook, otlp, command and file have acknowledgements too";
                return Err(Failure::new(Exit::Config, message, hint));
            }
            if outlets.iter().any(|other| other.section().name == section.name) {
                let message = format!("duplicate sink name {}", section.name);
                return Err(Failure::new(Exit::Config, message, "give each sink its own name"));
            }
            let vigie = std::path::Path::new(SELF);
            let masked = agent.agent.extraprivacymode;
            outlets.push(Outlet::new(section, masked, vigie, env!("CARGO_PKG_VERSION")));
        }
    }
    if outlets.is_empty() {
        let hint = "see [[sink]] in conf/vigie.toml";
        return Err(Failure::new(Exit::Config, "no sink is configured and enabled", hint));
    }
    Ok(outlets)
}

/// A sink and what it has not got yet of the batch.
struct Way {
    outlet: Outlet,
    pending: Vec<Alert>,
    backoff: Backoff,
    last: Option<Instant>,
}

/// What all steps need.
struct Forwarder<'p> {
    profile: &'p Profile,
    member: Member,
    inventory: Inventory,
    /// Who speaks for what does not count.
    own: Arc<Source>,
    own_journal: Arc<str>,
    connection: vigie_fleet::broker::connection::Connection,
    printer: &'p mut Printer,
}

/// Why a batch is not done.
enum Ended {
    Stopped,
    /// A receiver did not take it; wait so long.
    Failed(Duration),
}

async fn forward(outlets: Vec<Outlet>, profile: &Profile, printer: &mut Printer) -> Result<Exit, Failure> {
    let stop = |kind| signal(kind).map_err(Failure::from);
    let mut stops =
        Stops { terminated: stop(SignalKind::terminate())?, pressed: stop(SignalKind::interrupt())? };
    let (connection, _events) = profile.connect().await?;
    let inventory = Inventory::load_members(&connection, profile).await?;
    let member =
        Member::new(&connection.client, &profile.user).map_err(|error| failed(Exit::Internal, "")(&error))?;
    let hostname = vigie_host::environment::hostname();
    let own = Source { host: hostname, version: env!("CARGO_PKG_VERSION").to_owned(), ..Source::default() };
    let mut ways: Vec<Way> = outlets
        .into_iter()
        .map(|outlet| Way { outlet, pending: Vec::new(), backoff: Backoff::default(), last: None })
        .collect();
    let own_journal = format!("fleet-{}", profile.org).into();
    let mut forwarder =
        Forwarder { profile, member, inventory, own: Arc::new(own), own_journal, connection, printer };
    let result = forwarder.run(&mut ways, &mut stops).await;
    for way in &mut ways {
        way.outlet.close().await;
    }
    result
}

/// The signals that end it.
struct Stops {
    terminated: Signal,
    pressed: Signal,
}

impl Stops {
    async fn stop(&mut self) {
        tokio::select! {
            _ = self.terminated.recv() => {}
            _ = self.pressed.recv() => {}
        }
    }
}

impl Forwarder<'_> {
    async fn run(&mut self, ways: &mut [Way], stops: &mut Stops) -> Result<Exit, Failure> {
        let most = ways.iter().map(|way| way.outlet.section().batch_alerts).min().unwrap_or(1);
        let mut is_away = false;
        loop {
            // A request that is given up here may bring an alert: it is given out again when its time is over.
            let taken = tokio::select! {
                biased;
                () = stops.stop() => return Ok(Exit::Ok),
                taken = self.member.next(most, PATIENCE) => taken,
            };
            let batch = match taken {
                Ok(batch) => batch,
                Err(error) => {
                    if !std::mem::replace(&mut is_away, true) {
                        let error = vigie_protocol::error_chain::ErrorChain(&error).to_string();
                        print::note(&format!(
                            "cannot receive alerts: {error}; retrying (does the group {} exist? see `vigie fleet forwarder`)",
                            self.profile.user
                        ));
                    }
                    tokio::select! {
                        () = stops.stop() => return Ok(Exit::Ok),
                        () = sleep(PAUSE) => continue,
                    }
                }
            };
            if std::mem::take(&mut is_away) {
                print::note("alerts can be received again");
            }
            if batch.is_empty() {
                continue;
            }
            if let Err(failure) = self.sort(&batch, ways).await {
                if failure.exit != Exit::Unavailable {
                    return Err(failure);
                }
                print::note(&format!("cannot read who is in the fleet: {}; retrying", failure.message));
                self.answer(&batch, Answer::Back).await;
                tokio::select! {
                    () = stops.stop() => return Ok(Exit::Ok),
                    () = sleep(PAUSE) => continue,
                }
            }
            match self.pass(&batch, ways, stops).await? {
                Ok(()) => self.answer(&batch, Answer::Done).await,
                Err(Ended::Stopped) => {
                    self.answer(&batch, Answer::Back).await;
                    self.connection.client.flush(PAUSE).await.ok();
                    return Ok(Exit::Ok);
                }
                Err(Ended::Failed(wait)) => {
                    self.answer(&batch, Answer::Back).await;
                    tokio::select! {
                        () = stops.stop() => return Ok(Exit::Ok),
                        () = sleep(wait) => {}
                    }
                }
            }
        }
    }

    async fn answer(&self, batch: &[Delivery], answer: Answer) {
        for delivery in batch {
            // Without a connection the broker gives it out again.
            if delivery.answer(self.member.client(), answer).await.is_err() {
                return;
            }
        }
    }

    /// Verifies a batch and gives each sink what it wants.
    async fn sort(&mut self, batch: &[Delivery], ways: &mut [Way]) -> Result<(), Failure> {
        for way in ways.iter_mut() {
            way.pending.clear();
        }
        let open = |inventory: &Inventory, delivery: &Delivery, agent: Option<&AgentId>| match agent {
            Some(agent) => inventory.open_alert(agent, &delivery.value, delivery.stored),
            None => Err("it does not name its agent".to_owned()),
        };
        let mut all: Vec<_> = batch
            .iter()
            .map(|delivery| {
                let agent = claimed(delivery);
                let opened = open(&self.inventory, delivery, agent.as_ref());
                (delivery, agent, opened)
            })
            .collect();
        // Whose alerts cannot be opened may have joined, or have got another key, since the inventory was read.
        let unopened: BTreeSet<AgentId> = all
            .iter()
            .filter(|(_, _, opened)| opened.is_err())
            .filter_map(|(_, agent, _)| agent.clone())
            .collect();
        if !unopened.is_empty() {
            let agents: Vec<AgentId> = unopened.into_iter().collect();
            self.inventory.renew(&self.connection, self.profile, &agents).await?;
            for (delivery, agent, opened) in all.iter_mut().filter(|(_, _, opened)| opened.is_err()) {
                *opened = open(&self.inventory, delivery, agent.as_ref());
            }
        }
        for (delivery, agent, opened) in all {
            match opened {
                Ok(alert) => {
                    for (first, last) in &alert.dropped {
                        let sentence = format!(
                            "{} discarded its alerts {first} to {last} for lack of space",
                            alert.agent
                        );
                        self.tell(delivery, "gap", alert.agent.as_str(), &sentence, ways);
                    }
                    if let Some(Continued { journal, seq }) = &alert.continues {
                        let sentence = format!(
                            "the journal {journal} of {} continues after alert {seq} as {}: its files come from another machine or are an older copy",
                            alert.agent, alert.journal
                        );
                        self.tell(delivery, "renamed", alert.agent.as_str(), &sentence, ways);
                    }
                    give(delivery, &alert, ways);
                }
                Err(problem) => {
                    let agent = agent.map_or("nobody".to_owned(), |agent| agent.to_string());
                    let sentence = format!("an alert in the name of {agent} is invalid: {problem}");
                    print::note(&sentence);
                    self.tell(delivery, "unverified", &agent, &sentence, ways);
                }
            }
        }
        Ok(())
    }

    /// An alert of our own in the place of one that is not there or does not count.
    fn tell(&self, delivery: &Delivery, event: &str, agent: &str, sentence: &str, ways: &mut [Way]) {
        let message = serde_json::json!({
            "severity": Severity::High, "alert": sentence, "event": event, "agent": agent,
        });
        let time = jiff::Timestamp::from_second(delivery.stored).unwrap_or_default().to_string();
        let id = format!("{event}-{}", delivery.sequence);
        let recorded = Recorded {
            seq: delivery.sequence,
            time: &time,
            module: "fleet",
            id: Some(&id),
            severity: Severity::High,
            message: &message.to_string(),
        };
        push(delivery, &self.own, &self.own_journal, &recorded, ways);
    }

    /// Delivers until every sink has the batch; meanwhile the broker is told that it is worked on.
    async fn pass(
        &mut self,
        batch: &[Delivery],
        ways: &mut [Way],
        stops: &mut Stops,
    ) -> Result<Result<(), Ended>, Failure> {
        let mut ticks = interval(ACK_WAIT / 3);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        ticks.tick().await;
        loop {
            let mut refused = Vec::new();
            let mut waits: Vec<(Duration, u32)> = Vec::new();
            {
                let delivering = join_all(ways.iter_mut().map(Way::deliver));
                tokio::pin!(delivering);
                let results = loop {
                    tokio::select! {
                        biased;
                        () = stops.stop() => return Ok(Err(Ended::Stopped)),
                        _ = ticks.tick() => self.answer(batch, Answer::Working).await,
                        results = &mut delivering => break results,
                    }
                };
                for result in results {
                    refused.extend(result.refused);
                    waits.extend(result.wait);
                }
            }
            for line in refused {
                self.printer.json(&line)?;
            }
            if ways.iter().all(|way| way.pending.is_empty()) {
                return Ok(Ok(()));
            }
            let Some((wait, failures)) = waits.into_iter().max() else { continue };
            if failures >= GIVE_BACK || wait >= ACK_WAIT {
                return Ok(Err(Ended::Failed(wait)));
            }
            tokio::select! {
                () = stops.stop() => return Ok(Err(Ended::Stopped)),
                () = sleep(wait) => {}
            }
        }
    }
}

/// What became of one attempt.
#[derive(Default)]
struct Attempt {
    refused: Vec<serde_json::Value>,
    wait: Option<(Duration, u32)>,
}

impl Way {
    /// One attempt to deliver what this sink has not got yet.
    async fn deliver(&mut self) -> Attempt {
        if self.pending.is_empty() {
            return Attempt::default();
        }
        if let (Some(pace), Some(last)) = (self.outlet.pace(), self.last) {
            tokio::time::sleep_until(last + pace).await;
        }
        let delivered = self.outlet.deliver(&self.pending).await;
        self.last = Some(Instant::now());
        let name = self.outlet.section().name.clone();
        let mut attempt = Attempt::default();
        for (at, why) in &delivered.refused {
            if let Some(alert) = self.pending.get(*at) {
                attempt.refused.push(serde_json::json!({"sink": name, "refused": why, "alert": own(alert)}));
            }
        }
        if delivered.rejected > 0 {
            print::note(&format!("sink {name}: the collector rejected {} alerts", delivered.rejected));
        }
        self.pending.drain(..delivered.done);
        let Some(failure) = delivered.failure else {
            if self.backoff.failures() > 0 {
                print::note(&format!("sink {name}: the receiver accepts alerts again"));
            }
            self.backoff.succeed();
            return attempt;
        };
        if delivered.done > 0 {
            self.backoff.succeed();
        }
        if failure.unsure {
            for alert in &mut self.pending {
                alert.resent = true;
            }
        }
        let wait = self.backoff.fail(random::number(), failure.asked);
        if self.backoff.failures() == 1 {
            print::note(&format!("sink {name}: {}: {}; retrying", failure.reason, failure.detail));
        }
        attempt.wait = Some((if failure.rest { REST } else { wait }, self.backoff.failures()));
        attempt
    }
}

/// An alert as our own document.
fn own(alert: &Alert) -> serde_json::Value {
    let line = vigie_sinks::schema::Schema::Vigie.line(alert);
    serde_json::from_slice(&line).unwrap_or_default()
}

/// Whose alert it is said to be; the seal proves it or not.
fn claimed(delivery: &Delivery) -> Option<AgentId> {
    #[derive(serde::Deserialize)]
    struct Outer {
        text: String,
    }
    #[derive(serde::Deserialize)]
    struct Inner {
        agent: AgentId,
    }
    let by_subject =
        matches(EVERY_ALERT, &delivery.subject).then(|| subjects::last_name(&delivery.subject)).flatten();
    by_subject.or_else(|| {
        let outer: Outer = serde_json::from_slice(&delivery.value).ok()?;
        serde_json::from_str::<Inner>(&outer.text).ok().map(|inner| inner.agent)
    })
}

/// Gives an agent's alert to the sinks that want it.
fn give(delivery: &Delivery, alert: &FleetAlert, ways: &mut [Way]) {
    let source = Arc::new(Source { host: alert.agent.to_string(), ..Source::default() });
    let journal: Arc<str> = alert.journal.as_str().into();
    let recorded = Recorded {
        seq: alert.seq,
        time: &alert.time,
        module: &alert.module,
        id: None,
        severity: Severity::of(&alert.message),
        message: &alert.message,
    };
    push(delivery, &source, &journal, &recorded, ways);
}

fn push(
    delivery: &Delivery,
    source: &Arc<Source>,
    journal: &Arc<str>,
    recorded: &Recorded<'_>,
    ways: &mut [Way],
) {
    for way in ways {
        if let Some(alert) = way.outlet.alert(source, journal, recorded) {
            way.pending.push(Alert { resent: delivery.again, ..alert });
        }
    }
}
