//! The agent's link to its fleet: decides about signed actions, runs them, and sends answers and alerts back.
//!
//! Started by the agent after the `QueryRouter`; does nothing without a `[fleet]` section. Owns one membership: the
//! policy in force, the log of actions that were run, what runs and waits, and the tasks on the connection.
//!
//! | part | does |
//! |---|---|
//! | `membership` | opens what is on disk |
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
mod membership;
mod presence;
mod running;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use actix::{
    Actor, ActorFutureExt, Addr, AsyncContext, Context, Handler, Message, MessageResult, Recipient,
    ResponseFuture, WrapFuture,
};
use bytes::Bytes;
use slog::{Logger, error, info, o, warn};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use vigie_fleet::admission::Admitted;
use vigie_fleet::answer::{AnswerStatus, AuditRecord};
use vigie_fleet::broker::connection::{
    self, BrokerEvent, Connection, ConnectionError, ConnectionSettings, Login, TlsSettings,
};
use vigie_fleet::broker::jwt::Role;
use vigie_fleet::facts::Facts;
use vigie_fleet::names::ActionId;
use vigie_fleet::policy::{Offered, SignedPolicy, StoredPolicy, accept_newer};
use vigie_fleet::replay_log::ReplayLog;

use self::actions::Waiting;
use self::alert_sender::{AlertSender, Progress};
use self::answer_sender::AnswerSender;
use self::audit::AuditBudget;
use self::audit_sender::AuditSender;
use self::intake::Intake;
use self::membership::{MembershipError, Opened};
use self::presence::Presence;
use self::running::answer_without_results;
use crate::alert_journal::{AlertJournal, GetJournalView, SentThrough};
use crate::config::{FleetSection, LoadedConfig};
use crate::config_loader::ConfigChanged;
use crate::control_protocol::FleetStatus;
use crate::error::ErrorChain;
use crate::query_router::Query;

/// Messages in the mailbox before a sender waits: the intake is slowed, and the broker keeps what comes.
const MAILBOX_CAPACITY: usize = 64;

/// Events of the connection that wait; one that does not fit is counted by the connection.
const EVENTS: usize = 64;

/// Audit records that wait for the broker; beyond it they are only in the agent's log.
const AUDIT_RECORDS: usize = 1024;

/// Pause before a membership that could not be opened is tried again.
const REOPEN: Duration = Duration::from_secs(10);

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
    running: usize,
    /// Size of the answers on disk at the last look, in bytes.
    spool_bytes: u64,
    audit_budget: AuditBudget,
    audit: mpsc::Sender<AuditRecord>,
    answers: mpsc::UnboundedSender<ActionId>,
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
}

impl Drop for Member {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

/// Why there is no membership.
#[derive(Debug, thiserror::Error)]
enum JoinError {
    #[error(transparent)]
    Membership(#[from] MembershipError),
    #[error("cannot read the agent's token {path:?}; `vigie fleet enrol` makes it")]
    Credentials {
        path: std::path::PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error(transparent)]
    Connection(#[from] ConnectionError),
    #[error("the agent is stopping")]
    Stopping,
}

/// What a membership needs to begin.
struct Joined {
    opened: Opened,
    connection: Connection,
    events: mpsc::Receiver<BrokerEvent>,
    view: crate::alert_journal::JournalView,
}

fn now() -> i64 {
    jiff::Timestamp::now().as_second()
}

fn now_milliseconds() -> u64 {
    u64::try_from(jiff::Timestamp::now().as_millisecond()).unwrap_or(0)
}

/// Opens what is on disk and makes the connection, which comes about in the background.
async fn join(
    config: Arc<LoadedConfig>,
    section: FleetSection,
    journal: Addr<AlertJournal>,
    log: Logger,
) -> Result<Joined, JoinError> {
    let view = journal.send(GetJournalView).await.map_err(|_| JoinError::Stopping)?;
    let opening = {
        let section = section.clone();
        tokio::task::spawn_blocking(move || {
            let token = std::fs::read_to_string(&section.credentials)
                .map_err(|source| JoinError::Credentials { path: section.credentials.clone(), source })?;
            Ok::<_, JoinError>((membership::open(&config, section, &log)?, token))
        })
    };
    let (opened, token) = opening.await.map_err(|_| JoinError::Stopping)??;
    let (send_events, events) = mpsc::channel(EVENTS);
    let settings = connection_settings(&section, token.trim().to_owned(), (*opened.key).clone());
    let connection = connection::connect(settings, send_events).await?;
    Ok(Joined { opened, connection, events, view })
}

fn connection_settings(
    section: &FleetSection,
    jwt: String,
    key: vigie_fleet::agent_key::AgentKey,
) -> ConnectionSettings {
    let (certificate, certificate_key) = section.certificate.clone().unzip();
    ConnectionSettings {
        urls: section.urls.clone(),
        login: Login::Token { jwt, key: Box::new(key) },
        tls: TlsSettings {
            required: section.urls.iter().any(|url| url.starts_with("tls://")),
            ca: section.ca.clone(),
            certificate,
            key: certificate_key,
        },
        name: format!("vigie agent {}", section.agent),
        inbox_prefix: Role::Agent.inbox_prefix(&section.agent),
        subscription_capacity: Some(1024),
        connect_in_background: true,
    }
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
        }
    }

    /// Begins the membership that the configuration names, or ends the one that it no longer names.
    fn begin(&mut self, ctx: &mut Context<Self>) {
        self.member = None;
        self.connected = false;
        self.problem = None;
        self.membership += 1;
        let membership = self.membership;
        let Some(section) = self.config.agent.fleet.clone() else {
            let journal = self.journal.clone();
            ctx.spawn(
                async move { journal.send(SentThrough(None)).await }.into_actor(self).map(|_, _, _| ()),
            );
            return;
        };
        let joining = join(self.config.clone(), section, self.journal.clone(), self.log.clone());
        ctx.spawn(joining.into_actor(self).map(move |joined, this, ctx| {
            if membership != this.membership {
                return;
            }
            match joined {
                Ok(joined) => this.joined(joined, ctx),
                Err(problem) => this.not_joined(&problem, ctx),
            }
        }));
    }

    fn not_joined(&mut self, problem: &JoinError, ctx: &mut Context<Self>) {
        let text = ErrorChain(problem).to_string();
        if self.problem.as_ref() != Some(&text) {
            error!(self.log, "cannot join the fleet, trying again"; "error" => &text);
        }
        self.problem = Some(text);
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
        let Joined { opened, connection, events, view } = joined;
        let Opened { section, pinned, key, facts, policy, replay, interrupted, spool, places } = opened;
        let jetstream = connection.jetstream;
        let (connections, connected) = watch::channel(0);
        let (answers, stored) = mpsc::unbounded_channel();
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
                    jetstream: jetstream.clone(),
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
                    jetstream: jetstream.clone(),
                    stored,
                    connections: connected.clone(),
                }
                .run(),
            ),
            actix_rt::spawn(
                AuditSender {
                    agent: agent.clone(),
                    key: key.clone(),
                    jetstream: jetstream.clone(),
                    records,
                    connections: connected.clone(),
                }
                .run(),
            ),
            actix_rt::spawn(
                Presence {
                    log: log.clone(),
                    key: key.clone(),
                    jetstream: jetstream.clone(),
                    facts: shown,
                    connections: connected.clone(),
                }
                .run(),
            ),
            actix_rt::spawn(
                AlertSender {
                    log: log.clone(),
                    agent: agent.clone(),
                    key: key.clone(),
                    journal: self.journal.clone(),
                    view: view.clone(),
                    jetstream,
                    cursor_path: places.alert_cursor(),
                    connections: connected,
                    progress,
                }
                .run(),
            ),
        ];
        info!(log, "member of a fleet"; "org" => %section.org, "agent" => %agent, "key" => key.public_key().text(),
            "policy" => policy.as_ref().map(vigie_fleet::policy::Policy::version));
        self.member = Some(Member {
            opened: OpenedParts { section, pinned, key, policy, spool, places },
            replay: Some(replay),
            arrived: VecDeque::new(),
            to_close: VecDeque::new(),
            waiting: VecDeque::new(),
            running: 0,
            spool_bytes: 0,
            audit_budget: AuditBudget::default(),
            audit,
            answers,
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
                "the agent ended while it ran the action, and does not run it again".to_owned(),
                &self.hostname(),
            );
            self.keep_answer(action, &answer, false, ctx);
        }
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
                let stored = StoredPolicy { pinned: parts.pinned.clone(), signed };
                self.store_policy(stored, ctx);
            }
            Err(error) => self.report("bad_policy", None, &[], Some(ErrorChain(&error).to_string())),
        }
    }

    fn store_policy(&self, stored: StoredPolicy, ctx: &mut Context<Self>) {
        let Some(member) = &self.member else { return };
        let places = member.opened.places.clone();
        let storing = tokio::task::spawn_blocking(move || membership::store_policy(&places, &stored));
        ctx.spawn(storing.into_actor(self).map(|stored, this, _| {
            if let Ok(Err(error)) = stored {
                error!(this.log, "the policy in force is not on disk, a restart begins with the one before";
                    "error" => %error);
            }
        }));
    }

    /// Shows the fleet what changed about this host.
    fn renew_facts(&self, ctx: &mut Context<Self>) {
        let Some(member) = &self.member else { return };
        let (config, section) = (self.config.clone(), member.opened.section.clone());
        let membership = self.membership;
        let collecting = tokio::task::spawn_blocking(move || membership::collect_facts(&config, &section));
        ctx.spawn(collecting.into_actor(self).map(move |collected, this, _| {
            let Some(member) = this.member.as_ref().filter(|_| membership == this.membership) else { return };
            match collected {
                Ok(Ok(facts)) => {
                    member.facts.send_if_modified(|known| {
                        let differs = **known != facts;
                        *known = Arc::new(facts);
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
            status.running = member.running as u64;
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
