//! The agent's link to its fleet: decides about signed actions, runs them, and sends answers and alerts back.
//!
//! Started by the agent after the `QueryRouter`; does nothing without a `[fleet]` section. Supervises one
//! `membership` at a time: begins it, ends it when `[fleet]` changes, begins it anew when it ended by itself.
//!
//! | part | does |
//! |---|---|
//! | `joining`, `disk`, `lives` | open what is on disk and connect |
//! | `membership`, `member_status` | the actor of one membership: its policy, what runs, its status |
//! | `desk` | decides about an action and notes it on disk; owns the replay log |
//! | `actions`, `running` | run it, make the answer, report |
//! | `standing` | asks standing questions again and again, and reports what differs |
//! | `uplink` | says when there is a connection to send by |
//! | `intake` | takes actions and policies from the broker |
//! | `answer_spool`, `answer_sender` | keep answers until the broker has them, and send them |
//! | `alert_cursor`, `alert_sender` | send the journal's alerts |
//! | `presence` | shows that the host is there, and its facts |
//! | `identity` | what becomes of an identity that is not this host's alone |
//! | `renewal` | has the login and the certificate renewed in time |
//! | `audit`, `audit_sender` | report what was run and refused |
//! | `trouble` | what keeps it from working, by name |
//!
//! An action is on disk in the replay log before anything of it runs, and its answer before the log says that it is
//! answered. So an agent that ends in between answers that it was interrupted, and runs nothing twice.

mod actions;
mod alert_cursor;
mod alert_sender;
mod answer_sender;
mod answer_spool;
mod audit;
mod audit_sender;
mod desk;
mod disk;
mod identity;
mod intake;
mod joining;
mod lives;
mod member_status;
mod membership;
mod presence;
mod renewal;
mod running;
mod standing;
mod trouble;
mod uplink;

use std::convert::Infallible;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use actix::{
    Actor, ActorFutureExt, Addr, AsyncContext, Context, Handler, Message, Recipient, ResponseFuture,
    WrapFuture,
};
use slog::{Logger, error, o, warn};
use tokio::sync::mpsc;

use self::alert_cursor::AlertCursor;
use self::audit_sender::AuditQueue;
use self::joining::{JoinError, Turn, join};
use self::member_status::GetMemberStatus;
use self::membership::{Around, Ended, HasPacks, Leave, LookAtFacts, Membership, Outcomes};

pub use self::trouble::Voice;
use crate::alert_journal::{AlertJournal, SentThrough};
use crate::config_loader::ConfigChanged;
use crate::query_router::Query;
use crate::supervisor::TakePacks;
use crate::work_threads::{self, Lane};
use vigie_config::model::{FleetSection, LoadedConfig};
use vigie_fleet::policy::Packs;
use vigie_protocol::catalogue::AgentCondition;
use vigie_protocol::control::FleetStatus;
use vigie_protocol::error_chain::ErrorChain;

/// The outcome of an action that runs, in audit records and counters.
const ACCEPTED: &str = "accepted";

/// Pause before a membership that could not be opened is tried again.
const REOPEN: Duration = Duration::from_secs(10);

/// Asks how the link is; nothing when the agent belongs to no fleet.
#[derive(Debug, Message)]
#[rtype(result = "Option<FleetStatus>")]
pub struct GetFleetStatus;

/// The actor.
pub struct FleetLink {
    log: Logger,
    config: Arc<LoadedConfig>,
    router: Recipient<Query>,
    journal: Addr<AlertJournal>,
    /// Counts the memberships, so that what comes late of an earlier one is known.
    number: u64,
    membership: Option<Addr<Membership>>,
    voice: Voice,
    /// Why there is no membership.
    problem: Option<String>,
    /// The condition `replay-log-unusable` says why.
    replay_unusable: bool,
    outcomes: Outcomes,
    /// What waits for the auditors of the fleet that the configuration names.
    audit: Rc<AuditQueue>,
    /// Who gives modules what the policy has for them.
    packs: Option<Recipient<TakePacks>>,
    /// Ends when nobody works on the files of the newest membership any more.
    released: Option<mpsc::Receiver<Infallible>>,
}

/// How far the fleet has the alerts of an agent with this configuration; nothing when it belongs to none. The journal
/// is told before the first alert comes. Blocking.
#[must_use]
pub fn sent_through(config: &LoadedConfig, journal: &std::path::Path) -> Option<u64> {
    config.agent.fleet.as_ref()?;
    let path = disk::Places::of(&config.agent.agent.state_dir).alert_cursor();
    Some(AlertCursor::of_journal(&path, journal).map_or(0, |cursor| cursor.sent_for_good()))
}

/// What the fleet's policy has for modules when the agent starts, so that it is in their first configuration. Blocking.
#[must_use]
pub fn stored_packs(config: &LoadedConfig, log: &Logger) -> Packs {
    let section = config.agent.fleet.as_ref();
    section.map(|section| disk::stored_packs(&config.agent.agent.state_dir, section, log)).unwrap_or_default()
}

fn now() -> i64 {
    jiff::Timestamp::now().as_second()
}

fn now_milliseconds() -> u64 {
    u64::try_from(jiff::Timestamp::now().as_millisecond()).unwrap_or(0)
}

impl FleetLink {
    /// A link for an agent with this configuration.
    #[must_use]
    pub fn new(
        log: &Logger,
        router: Recipient<Query>,
        journal: Addr<AlertJournal>,
        config: Arc<LoadedConfig>,
        voice: Voice,
    ) -> Self {
        Self {
            voice,
            replay_unusable: false,
            log: log.new(o!("component" => "fleet_link")),
            config,
            router,
            journal,
            number: 0,
            membership: None,
            problem: None,
            outcomes: Rc::default(),
            audit: Rc::default(),
            packs: None,
            released: None,
        }
    }

    /// Has somebody told what the policy has for modules.
    #[must_use]
    pub fn giving_packs_to(self, packs: Recipient<TakePacks>) -> Self {
        Self { packs: Some(packs), ..self }
    }

    /// Begins the membership that the configuration names, or ends the one that it no longer names.
    #[expect(clippy::disallowed_methods, reason = "one message to each membership, its last")]
    fn begin(&mut self, ctx: &mut Context<Self>) {
        if let Some(before) = self.membership.take() {
            // Answers of what runs are not waited for: the next membership answers that it was interrupted.
            before.do_send(Leave);
        }
        self.number += 1;
        let number = self.number;
        let Some(section) = self.config.agent.fleet.clone() else {
            self.problem = None;
            self.replay_log(None);
            self.keep_no_alerts(ctx);
            self.give_packs(Packs::new());
            return;
        };
        // What the policy on disk has for modules counts also when the fleet cannot be joined, if those signed it who
        // are trusted now. `join` says of a policy that does not count why.
        let (state_dir, of, quiet) =
            (self.config.agent.agent.state_dir.clone(), section.clone(), Logger::root(slog::Discard, o!()));
        let reading = work_threads::run(Lane::Fleet, move || disk::stored_packs(&state_dir, &of, &quiet));
        ctx.spawn(reading.into_actor(self).map(move |packs, this, ctx| {
            if number == this.number {
                if let Ok(packs) = packs {
                    this.give_packs(packs);
                }
                this.join(section, ctx);
            }
        }));
    }

    /// Has modules get what the policy has for them.
    #[expect(clippy::disallowed_methods, reason = "one message for each policy and each membership")]
    fn give_packs(&self, packs: Packs) {
        if let Some(supervisor) = &self.packs {
            supervisor.do_send(TakePacks(packs));
        }
    }

    fn join(&mut self, section: FleetSection, ctx: &mut Context<Self>) {
        let number = self.number;
        let (hold, released) = mpsc::channel(1);
        let turn = Turn { before: self.released.replace(released), hold };
        let joining = join(self.config.clone(), section, turn, self.journal.clone(), self.log.clone());
        ctx.spawn(joining.into_actor(self).map(move |joined, this, ctx| {
            if number != this.number {
                // It may have told the journal to keep alerts for a fleet that was left meanwhile.
                if this.config.agent.fleet.is_none() {
                    this.keep_no_alerts(ctx);
                }
                return;
            }
            match joined {
                Ok(joined) => {
                    this.problem = None;
                    this.replay_log(None);
                    let around = Around {
                        log: this.log.clone(),
                        number,
                        link: ctx.address().recipient(),
                        router: this.router.clone(),
                        journal: this.journal.clone(),
                        config: this.config.clone(),
                        outcomes: this.outcomes.clone(),
                        audit: this.audit.clone(),
                        voice: this.voice.clone(),
                        packs: ctx.address().recipient(),
                    };
                    this.membership = Some(Membership::begin(around, joined));
                }
                Err(problem) => this.not_joined(&problem, ctx),
            }
        }));
    }

    fn keep_no_alerts(&self, ctx: &mut Context<Self>) {
        let journal = self.journal.clone();
        ctx.spawn(async move { journal.send(SentThrough(None)).await }.into_actor(self).map(|_, _, _| ()));
    }

    /// Says whether the log of actions that were run can be used.
    fn replay_log(&mut self, problem: Option<String>) {
        self.replay_unusable = problem.is_some();
        self.voice.conditions.set(AgentCondition::ReplayLogUnusable, problem);
    }

    fn not_joined(&mut self, problem: &JoinError, ctx: &mut Context<Self>) {
        let text = ErrorChain(problem).to_string();
        self.replay_log(problem.is_of_replay_log().then(|| text.clone()));
        if self.problem.as_ref() != Some(&text) {
            error!(self.log, "cannot join the fleet, retrying"; "error" => &text);
        }
        self.problem = Some(text);
        self.begin_later(ctx);
    }

    /// Begins the membership anew after a while.
    fn begin_later(&self, ctx: &mut Context<Self>) {
        let number = self.number;
        ctx.run_later(REOPEN, move |this, ctx| {
            if number == this.number {
                this.begin(ctx);
            }
        });
    }
}

impl Actor for FleetLink {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        self.begin(ctx);
    }
}

impl Handler<Ended> for FleetLink {
    type Result = ();

    fn handle(&mut self, Ended { number, problem }: Ended, ctx: &mut Self::Context) {
        if number == self.number {
            error!(self.log, "the membership ended, joining again"; "error" => &problem);
            self.membership = None;
            self.replay_log(Some(problem.clone()));
            self.problem = Some(problem);
            self.begin_later(ctx);
        }
    }
}

impl Handler<HasPacks> for FleetLink {
    type Result = ();

    fn handle(&mut self, HasPacks { number, packs }: HasPacks, _: &mut Self::Context) {
        if number == self.number {
            self.give_packs(packs);
        }
    }
}

impl Handler<GetFleetStatus> for FleetLink {
    type Result = ResponseFuture<Option<FleetStatus>>;

    fn handle(&mut self, _: GetFleetStatus, _: &mut Self::Context) -> Self::Result {
        let Some(section) = &self.config.agent.fleet else { return Box::pin(std::future::ready(None)) };
        let outcomes = self.outcomes.borrow();
        let status = FleetStatus {
            org: section.org.to_string(),
            agent: section.agent.to_string(),
            key: None,
            connected: false,
            policy_version: None,
            problem: self.problem.clone().or_else(|| Some("joining the fleet".to_owned())),
            named: self.replay_unusable,
            alerts_sent: 0,
            alerts_waiting: 0,
            running: 0,
            waiting: 0,
            outcomes: outcomes.iter().map(|(code, count)| ((*code).to_owned(), *count)).collect(),
        };
        let membership = self.membership.clone();
        Box::pin(async move {
            match membership {
                Some(membership) => {
                    Some(membership.send(GetMemberStatus(status.clone())).await.unwrap_or(status))
                }
                None => Some(status),
            }
        })
    }
}

impl Handler<ConfigChanged> for FleetLink {
    type Result = ();

    #[expect(clippy::disallowed_methods, reason = "one message for each change of the configuration")]
    fn handle(&mut self, change: ConfigChanged, ctx: &mut Self::Context) {
        let before = std::mem::replace(&mut self.config, change.config);
        let masks = |config: &LoadedConfig| config.agent.agent.extraprivacymode;
        let trusted = |config: &LoadedConfig| {
            let fleet = config.agent.fleet.as_ref();
            fleet.map(|fleet| (fleet.org.clone(), fleet.roots.clone(), fleet.root_threshold))
        };
        if trusted(&before) != trusted(&self.config) {
            // At once, before any disk is asked: those who signed them may not be trusted any more.
            self.give_packs(Packs::new());
        }
        let named = |config: &LoadedConfig| {
            config.agent.fleet.as_ref().map(|fleet| (fleet.org.clone(), fleet.agent.clone()))
        };
        if named(&before) != named(&self.config) {
            let left = std::mem::take(&mut self.audit);
            let counted: u64 = left.owed(u64::MAX).into_iter().map(|(_, count)| count).sum();
            let lost = left.len() as u64 + left.dropped() + counted;
            if lost > 0 {
                warn!(self.log, "the auditors of the fleet that was left do not get all records"; "records" => lost);
            }
        }
        // What an alert may say is fixed for the life of a membership.
        if before.agent.fleet != self.config.agent.fleet || masks(&before) != masks(&self.config) {
            self.begin(ctx);
        } else if let Some(membership) = &self.membership {
            membership.do_send(LookAtFacts(self.config.clone()));
        }
    }
}
