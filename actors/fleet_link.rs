//! The agent's link to its fleet: decides about signed actions, runs them, and sends answers and alerts back.
//!
//! Started by the agent after the `QueryRouter`; does nothing without a `[fleet]` section. Owns one membership: the
//! policy in force, the log of actions that were run, what runs and waits, and the tasks on the connection.
//!
//! | part | does |
//! |---|---|
//! | `joining`, `membership` | open what is on disk and connect |
//! | `uplink` | says when there is a connection to send by |
//! | `intake` | takes actions and policies from the broker |
//! | `actions` | decides about an action and moves it on |
//! | `running` | asks the modules and makes the answer |
//! | `answer_spool`, `answer_sender` | keep answers until the broker has them, and send them |
//! | `alert_cursor`, `alert_sender` | send the journal's alerts |
//! | `presence` | shows that the host is there, and its facts |
//! | `audit`, `audit_sender` | report what was run and refused |
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
mod intake;
mod joining;
mod membership;
mod presence;
mod running;
mod uplink;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use actix::{
    Actor, ActorFutureExt, Addr, AsyncContext, Context, Handler, Message, MessageResult, Recipient,
    ResponseFuture, SpawnHandle, WrapFuture,
};
use bytes::Bytes;
use slog::{Logger, error, info, o, warn};
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use vigie_fleet::admission::Admitted;
use vigie_fleet::answer::{AnswerStatus, AuditRecord};
use vigie_fleet::broker::connection::BrokerEvent;
use vigie_fleet::facts::Facts;
use vigie_fleet::policy::{Offered, SignedPolicy, StoredPolicy, accept_newer};
use vigie_fleet::replay_log::ReplayLog;
use vigie_protocol::names::ActionId;

use self::actions::Waiting;
use self::alert_cursor::AlertCursor;
use self::alert_sender::{AlertSender, Progress};
use self::answer_sender::AnswerSender;
use self::audit::AuditBudget;
use self::audit_sender::AuditSender;
use self::intake::Intake;
use self::joining::{JoinError, Joined, Turn, join};
use self::membership::Opened;
use self::presence::Presence;
use self::running::answer_without_results;
use self::uplink::{Hold, Uplink};
use crate::alert_journal::{AlertJournal, SentThrough};
use crate::config_loader::ConfigChanged;
use crate::query_router::Query;
use crate::work_threads::{self, Lane};
use vigie_config::model::{FleetSection, LoadedConfig};
use vigie_protocol::control::FleetStatus;
use vigie_protocol::error_chain::ErrorChain;

/// Messages in the mailbox before a sender waits: the intake is slowed, and the broker keeps what comes.
const MAILBOX_CAPACITY: usize = 64;

/// Events of the connection that wait; one that does not fit is counted by the connection.
const EVENTS: usize = 64;

/// Audit records that wait for the broker; beyond it they are only in the agent's log.
const AUDIT_RECORDS: usize = 1024;

/// The outcome of an action that runs, in audit records and counters.
const ACCEPTED: &str = "accepted";

/// Pause before a membership that could not be opened is tried again.
const REOPEN: Duration = Duration::from_secs(10);

/// How often the agent looks whether its facts have changed without its configuration: addresses, the kernel.
const FACTS_EVERY: Duration = Duration::from_secs(600);

/// Pause before a policy that the disk did not take is stored again.
const STORE_RETRY: Duration = Duration::from_secs(5);

/// An envelope came. Sent by `intake`.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Arrived {
    /// For which membership.
    pub membership: u64,
    /// As it came.
    pub envelope: Bytes,
    /// Which way.
    pub way: Way,
}

/// Which way an action came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// By subscription.
    Live,
    /// From the stream: it may be one that was run, refused or expired long ago.
    Stored,
}

/// A policy came. Sent by `intake`.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct PolicyArrived {
    /// For which membership.
    pub membership: u64,
    /// As it came.
    pub text: Bytes,
}

/// Something happened to the connection. Sent by `intake`.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct BrokerHappened {
    /// For which membership.
    pub membership: u64,
    /// What.
    pub event: BrokerEvent,
}

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
    /// Counts the memberships, so that what comes late for an earlier one is known.
    membership: u64,
    member: Option<Member>,
    /// What keeps the membership from working.
    problem: Option<String>,
    connected: bool,
    outcomes: BTreeMap<&'static str, u64>,
    /// Ends when nobody works on the files of the newest membership any more.
    released: Option<mpsc::Receiver<Infallible>>,
}

/// How far the fleet has the alerts of an agent with this configuration; nothing when it belongs to none. The journal
/// is told before the first alert comes. Blocking.
#[must_use]
pub fn sent_through(config: &LoadedConfig, journal: &std::path::Path) -> Option<u64> {
    config.agent.fleet.as_ref()?;
    let path = membership::Places::of(&config.agent.agent.state_dir).alert_cursor();
    Some(AlertCursor::of_journal(&path, journal).map_or(0, |cursor| cursor.settled()))
}

/// A membership in force.
struct Member {
    opened: OpenedParts,
    /// The replay log; away while it is written on the blocking pool.
    replay: Option<ReplayLog>,
    /// Envelopes that wait to be decided.
    arrived: VecDeque<Waiting>,
    /// Actions whose answers are safe and wait for the replay log to say so.
    to_close: VecDeque<ActionId>,
    /// Actions that are begun and wait for a place.
    waiting: VecDeque<Admitted>,
    /// Actions that have a place: they run, or their answers wait for the disk.
    running: BTreeMap<ActionId, SpawnHandle>,
    /// Actions that came from the stream, the newest ones: each may come once more by subscription.
    stored_ids: BTreeSet<ActionId>,
    audit_budget: AuditBudget,
    audit: mpsc::Sender<AuditRecord>,
    /// Told when an answer was stored.
    answers: Arc<Notify>,
    /// A policy is being written to disk, and which one is to be written next.
    storing_policy: bool,
    policy_to_store: Option<StoredPolicy>,
    facts: watch::Sender<Arc<Facts>>,
    alerts: watch::Receiver<Progress>,
    recorded: watch::Receiver<u64>,
    tasks: Vec<JoinHandle<()>>,
}

/// What of [`Opened`] stays as it is, but for the policy.
struct OpenedParts {
    section: FleetSection,
    pinned: vigie_fleet::policy::Roots,
    key: Arc<vigie_fleet::agent_key::AgentKey>,
    policy: Option<vigie_fleet::policy::Policy>,
    spool: Arc<answer_spool::AnswerSpool>,
    places: membership::Places,
    hold: Hold,
}

impl Drop for Member {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
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
    ) -> Self {
        Self {
            log: log.new(o!("component" => "fleet_link")),
            config,
            router,
            journal,
            membership: 0,
            member: None,
            problem: None,
            connected: false,
            outcomes: BTreeMap::new(),
            released: None,
        }
    }

    /// Begins the membership that the configuration names, or ends the one that it no longer names.
    fn begin(&mut self, ctx: &mut Context<Self>) {
        if let Some(member) = self.member.take() {
            // Their answers are not waited for: the next membership answers that they were interrupted.
            for running in member.running.values() {
                ctx.cancel_future(*running);
            }
        }
        self.connected = false;
        self.problem = None;
        self.membership += 1;
        let membership = self.membership;
        let Some(section) = self.config.agent.fleet.clone() else {
            self.keep_no_alerts(ctx);
            return;
        };
        let (hold, released) = mpsc::channel(1);
        let turn = Turn { before: self.released.replace(released), hold };
        let joining = join(self.config.clone(), section, turn, self.journal.clone(), self.log.clone());
        ctx.spawn(joining.into_actor(self).map(move |joined, this, ctx| {
            if membership != this.membership {
                // It may have told the journal to keep alerts for a fleet that was left meanwhile.
                if this.config.agent.fleet.is_none() {
                    this.keep_no_alerts(ctx);
                }
                return;
            }
            match joined {
                Ok(joined) => this.joined(joined, ctx),
                Err(problem) => this.not_joined(&problem, ctx),
            }
        }));
    }

    fn keep_no_alerts(&self, ctx: &mut Context<Self>) {
        let journal = self.journal.clone();
        ctx.spawn(async move { journal.send(SentThrough(None)).await }.into_actor(self).map(|_, _, _| ()));
    }

    fn not_joined(&mut self, problem: &JoinError, ctx: &mut Context<Self>) {
        let text = ErrorChain(problem).to_string();
        if self.problem.as_ref() != Some(&text) {
            error!(self.log, "cannot join the fleet, trying again"; "error" => &text);
        }
        self.problem = Some(text);
        self.begin_later(ctx);
    }

    /// Begins the membership anew after a while.
    fn begin_later(&mut self, ctx: &mut Context<Self>) {
        let membership = self.membership;
        ctx.run_later(REOPEN, move |this, ctx| {
            if membership == this.membership {
                let problem = this.problem.take();
                this.begin(ctx);
                this.problem = problem;
            }
        });
    }

    fn joined(&mut self, joined: Joined, ctx: &mut Context<Self>) {
        self.problem = None;
        let Joined { opened, cursor, connection, events, view } = joined;
        let Opened {
            section,
            pinned,
            key,
            facts,
            policy,
            replay,
            interrupted,
            answered,
            hold,
            spool,
            places,
        } = opened;
        let (connections, connected) = watch::channel(0);
        let uplink = Uplink { jetstream: connection.jetstream.clone(), connections: connected };
        let answers = Arc::new(Notify::new());
        let (audit, records) = mpsc::channel(AUDIT_RECORDS);
        let (facts, shown) = watch::channel(facts);
        let (progress, alerts) = watch::channel(Progress::default());
        let log = &self.log;
        let agent = section.agent.clone();
        let tasks = vec![
            actix_rt::spawn(
                Intake {
                    log: log.clone(),
                    link: ctx.address(),
                    membership: self.membership,
                    agent: agent.clone(),
                    groups: section.groups.clone(),
                    connection,
                    events,
                    connections,
                }
                .run(),
            ),
            actix_rt::spawn(
                AnswerSender {
                    log: log.clone(),
                    agent: agent.clone(),
                    spool: spool.clone(),
                    stored: answers.clone(),
                    uplink: uplink.clone(),
                }
                .run(),
            ),
            actix_rt::spawn(
                AuditSender {
                    log: log.clone(),
                    agent: agent.clone(),
                    key: key.clone(),
                    records,
                    uplink: uplink.clone(),
                }
                .run(),
            ),
            actix_rt::spawn(
                Presence { log: log.clone(), key: key.clone(), facts: shown, uplink: uplink.clone() }.run(),
            ),
            actix_rt::spawn(
                AlertSender {
                    log: log.clone(),
                    agent: agent.clone(),
                    key: key.clone(),
                    journal: self.journal.clone(),
                    view: view.clone(),
                    uplink,
                    cursor,
                    cursor_path: places.alert_cursor(),
                    hold: hold.clone(),
                    progress,
                }
                .run(),
            ),
        ];
        info!(log, "member of a fleet"; "org" => %section.org, "agent" => %agent, "key" => key.public_key().text(),
            "policy" => policy.as_ref().map(vigie_fleet::policy::Policy::version));
        self.member = Some(Member {
            opened: OpenedParts { section, pinned, key, policy, spool, places, hold },
            replay: Some(replay),
            arrived: VecDeque::new(),
            to_close: answered.into(),
            waiting: VecDeque::new(),
            running: BTreeMap::new(),
            stored_ids: BTreeSet::new(),
            audit_budget: AuditBudget::default(),
            audit,
            answers,
            storing_policy: false,
            policy_to_store: None,
            facts,
            alerts,
            recorded: view.recorded,
            tasks,
        });
        for action in interrupted {
            warn!(self.log, "the agent ended while it ran an action"; "action" => %action);
            let answer = answer_without_results(
                AnswerStatus::Interrupted,
                "interrupted",
                "the agent ended, or joined its fleet anew, while it ran the action, and does not run it again"
                    .to_owned(),
                &self.hostname(),
            );
            self.keep_answer(action, answer, false, ctx);
        }
        self.work(ctx);
        self.look_at_facts_later(ctx);
    }
}

impl FleetLink {
    /// The host's name as its answers give it.
    fn hostname(&self) -> String {
        self.member.as_ref().map_or_else(String::new, |member| member.facts.borrow().hostname.clone())
    }

    /// Takes a policy that arrived if it is a newer one. It is in force at once, and then on disk.
    fn take_policy(&mut self, text: &[u8], ctx: &mut Context<Self>) {
        let Some(member) = &mut self.member else { return };
        let parts = &mut member.opened;
        let org = parts.section.org.as_str();
        let offered = SignedPolicy::from_json(text).and_then(|signed| {
            accept_newer(parts.policy.as_ref(), &parts.pinned, org, &signed).map(|offered| (signed, offered))
        });
        match offered {
            Ok((_, Offered::Same)) => {}
            Ok((signed, Offered::Newer(policy))) => {
                info!(self.log, "policy in force"; "version" => policy.version());
                parts.policy = Some(*policy);
                member.policy_to_store = Some(StoredPolicy { pinned: parts.pinned.clone(), signed });
                self.store_policy(ctx);
            }
            Err(error) => self.report("bad_policy", None, &[], Some(ErrorChain(&error).to_string())),
        }
    }

    /// Writes the policy in force to disk. One write at a time: an older one must not come last.
    fn store_policy(&mut self, ctx: &mut Context<Self>) {
        let Some(member) = self.member.as_mut().filter(|member| !member.storing_policy) else { return };
        let Some(stored) = member.policy_to_store.take() else { return };
        member.storing_policy = true;
        let (places, hold) = (member.opened.places.clone(), member.opened.hold.clone());
        let membership = self.membership;
        let storing = work_threads::run(Lane::Fleet, move || {
            let result = membership::store_policy(&places, &stored);
            drop(hold);
            (stored, result)
        });
        ctx.spawn(storing.into_actor(self).map(move |stored, this, ctx| {
            let Some(member) = this.member.as_mut().filter(|_| membership == this.membership) else { return };
            member.storing_policy = false;
            if let Ok((stored, Err(error))) = stored {
                error!(this.log, "the policy in force is not on disk, a restart begins with the one before";
                    "error" => %error);
                member.policy_to_store.get_or_insert(stored);
                ctx.run_later(STORE_RETRY, |this, ctx| this.store_policy(ctx));
            } else {
                this.store_policy(ctx);
            }
        }));
    }

    /// Looks from time to time whether the host has changed.
    fn look_at_facts_later(&self, ctx: &mut Context<Self>) {
        let membership = self.membership;
        ctx.run_later(FACTS_EVERY, move |this, ctx| {
            if membership == this.membership {
                this.renew_facts(ctx);
                this.look_at_facts_later(ctx);
            }
        });
    }

    /// Shows the fleet what changed about this host.
    fn renew_facts(&self, ctx: &mut Context<Self>) {
        let Some(member) = &self.member else { return };
        let (config, section) = (self.config.clone(), member.opened.section.clone());
        let collected_for = config.clone();
        let membership = self.membership;
        let collecting = work_threads::run(Lane::Fleet, move || membership::collect_facts(&config, &section));
        ctx.spawn(collecting.into_actor(self).map(move |collected, this, _| {
            // What was collected for a configuration that holds no more may come late.
            let newest = Arc::ptr_eq(&collected_for, &this.config) && membership == this.membership;
            let Some(member) = this.member.as_ref().filter(|_| newest) else { return };
            match collected {
                Ok(Ok(facts)) => {
                    member.facts.send_if_modified(|known| {
                        let differs = **known != facts;
                        if differs {
                            *known = Arc::new(facts);
                        }
                        differs
                    });
                }
                Ok(Err(error)) => {
                    let text = ErrorChain(&error).to_string();
                    warn!(this.log, "the fleet is shown the facts from before"; "error" => &text);
                    this.problem = Some(text);
                }
                Err(_) => {}
            }
        }));
    }

    fn status(&self) -> Option<FleetStatus> {
        let section = self.config.agent.fleet.as_ref()?;
        let mut status = FleetStatus {
            org: section.org.to_string(),
            agent: section.agent.to_string(),
            key: None,
            connected: self.connected,
            policy_version: None,
            problem: self.problem.clone(),
            alerts_sent: 0,
            alerts_waiting: 0,
            running: 0,
            waiting: 0,
            outcomes: self.outcomes.iter().map(|(code, count)| ((*code).to_owned(), *count)).collect(),
        };
        if let Some(member) = &self.member {
            let alerts = member.alerts.borrow();
            status.key = Some(member.opened.key.public_key().text());
            status.alerts_sent = alerts.acknowledged;
            status.alerts_waiting = member.recorded.borrow().saturating_sub(alerts.acknowledged);
            status.running = member.running.len() as u64;
            status.waiting = member.waiting.len() as u64;
            let policy = member.opened.policy.as_ref();
            status.policy_version = policy.map(vigie_fleet::policy::Policy::version);
            status.problem = status.problem.or_else(|| match policy {
                None if self.connected => Some("there is no policy, every action is refused".to_owned()),
                Some(policy) if policy.is_expired(now()) => {
                    Some(format!("policy {} is past its date; it stays in force", policy.version()))
                }
                _ => alerts.problem.clone().filter(|_| self.connected),
            });
        }
        if !self.connected && status.problem.is_none() {
            status.problem = Some(format!("no broker is connected ({})", section.urls.join(", ")));
        }
        Some(status)
    }
}

impl Actor for FleetLink {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(MAILBOX_CAPACITY);
        self.begin(ctx);
    }
}

impl Handler<Arrived> for FleetLink {
    type Result = ResponseFuture<()>;

    /// Answered when it is decided: the next one comes only then.
    fn handle(&mut self, message: Arrived, ctx: &mut Self::Context) -> Self::Result {
        let (decided, done) = oneshot::channel();
        if let Some(member) = self.member.as_mut().filter(|_| message.membership == self.membership) {
            member.arrived.push_back(Waiting { envelope: message.envelope, way: message.way, decided });
            self.work(ctx);
        }
        Box::pin(async move {
            // Dropped without a word when it is refused: that is a decision too.
            done.await.ok();
        })
    }
}

impl Handler<PolicyArrived> for FleetLink {
    type Result = ();

    fn handle(&mut self, message: PolicyArrived, ctx: &mut Self::Context) {
        if message.membership == self.membership {
            self.take_policy(&message.text, ctx);
        }
    }
}

impl Handler<BrokerHappened> for FleetLink {
    type Result = ();

    fn handle(&mut self, message: BrokerHappened, _: &mut Self::Context) {
        if message.membership != self.membership {
            return;
        }
        match message.event {
            BrokerEvent::Connected => {
                self.connected = true;
                self.problem = None;
            }
            BrokerEvent::Disconnected | BrokerEvent::Closed => self.connected = false,
            BrokerEvent::LoginRefused => {
                self.problem = Some("the broker refuses the login; see fleet.credentials".to_owned());
            }
            BrokerEvent::PermissionViolation(what) => {
                self.problem = Some(format!("the broker does not permit what the agent needs: {what}"));
            }
            BrokerEvent::SlowConsumer(_) | BrokerEvent::BrokerStops | BrokerEvent::Problem(_) => {}
        }
    }
}

impl Handler<GetFleetStatus> for FleetLink {
    type Result = MessageResult<GetFleetStatus>;

    fn handle(&mut self, _: GetFleetStatus, _: &mut Self::Context) -> Self::Result {
        MessageResult(self.status())
    }
}

impl Handler<ConfigChanged> for FleetLink {
    type Result = ();

    fn handle(&mut self, change: ConfigChanged, ctx: &mut Self::Context) {
        let before = std::mem::replace(&mut self.config, change.config);
        if before.agent.fleet != self.config.agent.fleet {
            self.begin(ctx);
        } else {
            self.renew_facts(ctx);
        }
    }
}
