//! One membership in a fleet: the policy in force, what runs and waits, and the tasks on the connection. An actor of
//! its own for each; [`super::FleetLink`] begins and ends it. Whatever it began ends with it.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use actix::{
    Actor, ActorContext, ActorFutureExt, Addr, AsyncContext, Context, Handler, Message, Recipient, WrapFuture,
};
use bytes::Bytes;
use slog::{Logger, error, info, warn};
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinHandle;
use vigie_fleet::admission::{Admitted, Refused};
use vigie_fleet::agent_key::AgentKey;
use vigie_fleet::answer::{Answer, AnswerStatus};
use vigie_fleet::broker::client::{random_token, tls};
use vigie_fleet::broker::connection::BrokerEvent;
use vigie_fleet::facts::Facts;
use vigie_fleet::policy::{Offered, Packs, Policy, Roots, SignedPolicy, StoredPolicy, accept_newer};
use vigie_protocol::names::ActionId;

use super::alert_sender::{AlertSender, Progress};
use super::answer_sender::AnswerSender;
use super::answer_spool::AnswerSpool;
use super::audit_sender::{AuditQueue, AuditSender};
use super::desk::{Desk, Room};
use super::disk::{self, Opened, Places};
use super::identity::{self, Memory};
use super::intake::Intake;
use super::joining::{Joined, tls_settings};
use super::now;
use super::presence::{Presence, Silence};
use super::renewal::Renewal;
use super::running::answer_without_results;
use super::standing::{ORDERS, Order, Standing};
use super::trouble::{Trouble, Troubles, Voice};
use super::uplink::{Hold, Uplink};
use crate::alert_journal::AlertJournal;
use crate::query_router::Query;
use crate::work_threads::{self, Lane};
use vigie_config::model::{FleetSection, LoadedConfig};
use vigie_protocol::error_chain::ErrorChain;

/// Messages in the mailbox before a sender waits: the tasks are slowed, and the broker keeps what comes.
const MAILBOX_CAPACITY: usize = 64;

/// How often the agent looks whether its facts have changed without its configuration: addresses, the kernel.
const FACTS_EVERY: Duration = Duration::from_secs(600);

/// How long there may be no broker, or no policy, before that is said: most interruptions are shorter.
const LINK_GRACE: Duration = Duration::from_secs(10);

/// Pause before a policy that the disk did not take is stored again.
const STORE_RETRY: Duration = Duration::from_secs(5);

/// How many actions ended how, by outcome, for as long as the agent runs.
pub(super) type Outcomes = Rc<RefCell<BTreeMap<&'static str, u64>>>;

/// Which way an action came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// By subscription.
    Live,
    /// From the stream: it may be one that was run, refused or expired long ago.
    Stored,
}

/// An action was decided. Sent by `desk`.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(super) enum Decided {
    /// It is noted and may run.
    Run(Box<Admitted>),
    /// It does not run.
    Refused { refused: Box<Refused>, way: Way },
    /// It does not run, that is noted, and whoever asked is told.
    Answer { id: ActionId, refused: Box<Refused> },
    /// It is a standing question, or ends one, and is noted.
    Stand(Order),
    /// It is done. Sent by `standing`.
    Done { id: ActionId, answer: Box<Answer> },
}

/// A policy came; the answer says whether it counts. Sent by `intake`.
#[derive(Debug, Message)]
#[rtype(result = "bool")]
pub(super) struct PolicyArrived {
    pub(super) text: Bytes,
    /// It is the newest version that the broker has; one that does not count is then somebody's doing.
    pub(super) is_newest: bool,
}

/// Something happened to the connection. Sent by `intake`.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(super) struct BrokerHappened(pub(super) BrokerEvent);

/// The replay log is out of use until it is opened again, and why. Sent by `desk`.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(super) struct ReplayBroken(pub(super) String);

/// The configuration changed, but not `[fleet]`.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(super) struct LookAtFacts(pub(super) Arc<LoadedConfig>);

/// It is over. Sent by the link.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(super) struct Leave;

/// A membership ended by itself and is to be begun anew. For the link.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(super) struct Ended {
    /// Which, by the link's count.
    pub(super) number: u64,
    /// Why.
    pub(super) problem: String,
}

/// What the policy in force has for modules. For the link.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(super) struct HasPacks {
    /// Of which membership, by the link's count: what a membership says late counts no more.
    pub(super) number: u64,
    pub(super) packs: Packs,
}

/// What the link gives to each membership.
pub(super) struct Around {
    pub(super) log: Logger,
    pub(super) number: u64,
    pub(super) link: Recipient<Ended>,
    pub(super) router: Recipient<Query>,
    pub(super) journal: Addr<AlertJournal>,
    pub(super) config: Arc<LoadedConfig>,
    pub(super) outcomes: Outcomes,
    pub(super) audit: Rc<AuditQueue>,
    pub(super) voice: Voice,
    pub(super) packs: Recipient<HasPacks>,
}

/// The actor.
pub(super) struct Membership {
    pub(super) log: Logger,
    number: u64,
    link: Recipient<Ended>,
    pub(super) router: Recipient<Query>,
    config: Arc<LoadedConfig>,
    pub(super) outcomes: Outcomes,
    pub(super) section: FleetSection,
    pinned: Roots,
    pub(super) key: Arc<AgentKey>,
    pub(super) policy: watch::Sender<Option<Arc<Policy>>>,
    pub(super) spool: Arc<AnswerSpool>,
    pub(super) places: Places,
    pub(super) hold: Hold,
    /// Actions that are begun and wait for a place.
    pub(super) waiting: VecDeque<Admitted>,
    /// Actions that have a place: they run, or their answers wait for the disk.
    pub(super) running: BTreeSet<ActionId>,
    pub(super) room: Arc<Room>,
    pub(super) audit: Rc<AuditQueue>,
    /// Actions whose answers are safe, for the log.
    pub(super) answered: mpsc::UnboundedSender<ActionId>,
    /// Told when an answer was stored.
    pub(super) answers: Arc<Notify>,
    /// Standing questions and their ends, for who asks them.
    pub(super) standing: mpsc::Sender<Order>,
    /// A policy is being written to disk, and which one is to be written next.
    storing_policy: bool,
    policy_to_store: Option<StoredPolicy>,
    facts: watch::Sender<Arc<Facts>>,
    pub(super) alerts: watch::Receiver<Progress>,
    pub(super) recorded: watch::Receiver<u64>,
    pub(super) uplink: Uplink,
    pub(super) troubles: Troubles,
    voice: Voice,
    /// Counts how often another host was found to use this identity: what both record must not bear one name.
    pub(super) forks: watch::Sender<u64>,
    /// By which connection it was last noticed that the files are an older copy.
    pub(super) reverted_by: Option<u64>,
    /// What the files may have forgotten.
    pub(super) memory: Arc<watch::Sender<Memory>>,
    /// Signs of life since another host wrote under this name.
    pub(super) beats_alone: u32,
    interrupted: Vec<ActionId>,
    /// Told what the policy has for modules.
    packs: Recipient<HasPacks>,
    tasks: Vec<JoinHandle<()>>,
}

impl Drop for Membership {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
        self.voice.forget();
    }
}

impl Membership {
    /// Begins a membership with what was opened.
    pub(super) fn begin(around: Around, joined: Joined) -> Addr<Self> {
        Self::create(|ctx| Self::with_tasks(around, joined, ctx))
    }

    fn with_tasks(around: Around, joined: Joined, ctx: &mut Context<Self>) -> Self {
        let Joined { opened, cursor, renamed_at, connection, events, view } = joined;
        let Opened {
            section,
            pinned,
            key,
            facts,
            policy,
            replay,
            interrupted,
            answered,
            begun,
            memory,
            hold,
            spool,
            places,
        } = opened;
        let Around { log, number, link, router, journal, config, outcomes, audit, voice, packs } = around;
        let uplink = Uplink::new(connection.client.clone());
        let answers = Arc::new(Notify::new());
        let shown = Arc::new(Notify::new());
        let live = random_token();
        let (policy, policies) = watch::channel(policy.map(Arc::new));
        let (facts, shown_facts) = watch::channel(facts);
        let (progress, alerts) = watch::channel(Progress::default());
        let (forks, found_forks) = watch::channel(0);
        let memory = Arc::new(watch::Sender::new(memory));
        let (send_arrived, arrived) = mpsc::channel(1);
        let (standing, orders) = mpsc::channel(ORDERS);
        let (heads, shown_heads) = watch::channel(Vec::new());
        let (send_answered, close) = mpsc::unbounded_channel();
        for id in answered {
            send_answered.send(id).ok();
        }
        let room = Arc::new(Room::new(&section, spool.clone()));
        let agent = section.agent.clone();
        let membership = ctx.address();
        let desk = Desk {
            log: log.clone(),
            membership: membership.clone(),
            org: section.org.clone(),
            policy: policies.clone(),
            facts: shown_facts.clone(),
            room: room.clone(),
            hold: hold.clone(),
            memory: memory.subscribe(),
            uplink: uplink.clone(),
            arrived,
            answered: close,
        };
        let tasks = vec![
            actix_rt::spawn(desk.run(replay)),
            actix_rt::spawn(
                Standing {
                    log: log.clone(),
                    membership: membership.clone(),
                    org: section.org.clone(),
                    agent: agent.clone(),
                    key: key.clone(),
                    router: router.clone(),
                    policy: policies.clone(),
                    facts: shown_facts.clone(),
                    spool: spool.clone(),
                    answer_bytes: section.answer_bytes,
                    answers: answers.clone(),
                    hold: hold.clone(),
                    directory: places.standing(),
                    orders,
                    memory: memory.subscribe(),
                    heads,
                }
                .run(),
            ),
            actix_rt::spawn(
                Intake {
                    log: log.clone(),
                    membership: membership.clone(),
                    desk: send_arrived,
                    agent: agent.clone(),
                    live: live.clone(),
                    connection,
                    events,
                    shown: shown.clone(),
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
                Renewal {
                    log: log.clone(),
                    section: section.clone(),
                    key: key.clone(),
                    policy: policies,
                    facts: shown_facts.clone(),
                    uplink: uplink.clone(),
                    hold: hold.clone(),
                }
                .run(),
            ),
            actix_rt::spawn(
                AuditSender {
                    log: log.clone(),
                    membership: membership.clone(),
                    agent: agent.clone(),
                    key: key.clone(),
                    queue: audit.clone(),
                    uplink: uplink.clone(),
                    hold: hold.clone(),
                }
                .run(),
            ),
            actix_rt::spawn(
                Presence {
                    log: log.clone(),
                    membership: membership.clone(),
                    key: key.clone(),
                    uplink: uplink.clone(),
                    live,
                    begun: begun.clone(),
                    lives: places.lives(),
                    hold: hold.clone(),
                    is_reverted: false,
                    shown: i64::MIN,
                    memory: memory.clone(),
                    facts: shown_facts,
                    alerts: alerts.clone(),
                    standing: shown_heads,
                    look: shown,
                    silent: Silence::default(),
                }
                .run(),
            ),
            actix_rt::spawn(
                AlertSender {
                    log: log.clone(),
                    agent: agent.clone(),
                    key: key.clone(),
                    journal,
                    membership,
                    forks: found_forks,
                    view: view.clone(),
                    uplink: uplink.clone(),
                    cursor,
                    cursor_path: places.alert_cursor(),
                    renamed_at,
                    hold: hold.clone(),
                    masked: config.agent.agent.extraprivacymode,
                    progress,
                    memory: memory.clone(),
                }
                .run(),
            ),
        ];
        info!(log, "member of a fleet"; "org" => %section.org, "agent" => %agent, "key" => key.public_key().text(),
            "policy" => policy.borrow().as_ref().map(|policy| policy.version()));
        let mut troubles = Troubles::default();
        if begun.is_copy {
            error!(log, "this host is a copy of another"; "agent" => %agent);
            let is_new = troubles.raise(Trouble::Copied, identity::COPIED.to_owned());
            voice.tell(&troubles, Trouble::Copied, is_new);
        }
        Self {
            log,
            number,
            link,
            router,
            config,
            outcomes,
            section,
            pinned,
            key,
            policy,
            spool,
            places,
            hold,
            waiting: VecDeque::new(),
            running: BTreeSet::new(),
            room,
            audit,
            answered: send_answered,
            answers,
            standing,
            storing_policy: false,
            policy_to_store: None,
            facts,
            alerts,
            recorded: view.recorded,
            uplink,
            troubles,
            voice,
            forks,
            reverted_by: None,
            memory,
            beats_alone: 0,
            interrupted,
            packs,
            tasks,
        }
    }

    /// The host's name as its answers give it.
    pub(super) fn hostname(&self) -> String {
        self.facts.borrow().hostname.clone()
    }

    /// Takes a policy that arrived if it is a newer one, and says whether it is in force. It is at once, and then on
    /// disk.
    fn take_policy(&mut self, text: &[u8], is_newest: bool, ctx: &mut Context<Self>) -> bool {
        let current = self.policy.borrow().clone();
        let offered = SignedPolicy::from_json(text).and_then(|signed| {
            accept_newer(current.as_deref(), &self.pinned, self.section.org.as_str(), &signed)
                .map(|offered| (signed, offered))
        });
        match offered {
            Ok((_, Offered::Same)) => true,
            Ok((signed, Offered::Newer(policy))) => {
                info!(self.log, "policy in force"; "version" => policy.version());
                self.clear(Trouble::NoPolicy);
                self.take_brokers(&policy);
                self.policy.send_replace(Some(Arc::new(*policy)));
                self.give_packs();
                self.policy_to_store = Some(StoredPolicy { pinned: self.pinned.clone(), signed });
                self.store_policy(ctx);
                true
            }
            Err(error) => {
                // Beside the newest stored version lie older ones, which is as it should be.
                if is_newest {
                    self.report("bad_policy", None, &[], None, Some(ErrorChain(&error).to_string()));
                }
                false
            }
        }
    }

    /// Goes where the policy says that the brokers are, from the next connection on.
    fn take_brokers(&self, policy: &Policy) {
        // A policy is checked before it is in force.
        self.uplink.client.set_brokers(policy.document().addresses().unwrap_or_default());
    }

    /// Has modules get what the policy in force has for them, which is nothing where there is none. It is on disk with
    /// the policy and nowhere else, so that what nobody signed is never read.
    #[expect(clippy::disallowed_methods, reason = "one message for each policy")]
    fn give_packs(&self) {
        let policy = self.policy.borrow();
        let packs = policy.as_ref().map(|policy| policy.document().packs.clone()).unwrap_or_default();
        self.packs.do_send(HasPacks { number: self.number, packs });
    }

    /// Writes the policy in force to disk. One write at a time: an older one must not come last.
    fn store_policy(&mut self, ctx: &mut Context<Self>) {
        if self.storing_policy {
            return;
        }
        let Some(stored) = self.policy_to_store.take() else { return };
        self.storing_policy = true;
        let (places, hold) = (self.places.clone(), self.hold.clone());
        let storing = work_threads::run(Lane::Fleet, move || {
            let result = disk::store_policy(&places, &stored);
            drop(hold);
            (stored, result)
        });
        ctx.spawn(storing.into_actor(self).map(|stored, this, ctx| {
            this.storing_policy = false;
            if let Ok((stored, Err(error))) = stored {
                error!(this.log, "the current policy could not be stored; a restart begins with the previous one";
                    "error" => %error);
                this.policy_to_store.get_or_insert(stored);
                ctx.run_later(STORE_RETRY, |this, ctx| this.store_policy(ctx));
            } else {
                this.store_policy(ctx);
            }
        }));
    }

    /// Looks after a while whether there is still no broker, or no policy.
    fn look_at_link_later(&self, ctx: &mut Context<Self>) {
        ctx.run_later(LINK_GRACE, |this, _| {
            if !this.uplink.is_up() {
                let text = format!("not connected to a broker ({})", this.section.urls.join(", "));
                this.raise(Trouble::Disconnected, text);
            } else if this.policy.borrow().is_none() {
                let text = "no fleet policy: every action is refused";
                this.raise(Trouble::NoPolicy, text.to_owned());
            }
        });
    }

    /// Looks from time to time whether the host has changed.
    fn look_at_facts_later(&self, ctx: &mut Context<Self>) {
        ctx.run_later(FACTS_EVERY, |this, ctx| {
            this.renew_facts(ctx);
            this.look_at_facts_later(ctx);
        });
    }

    /// Shows the fleet what changed about this host.
    fn renew_facts(&self, ctx: &mut Context<Self>) {
        let (config, section) = (self.config.clone(), self.section.clone());
        let collected_for = config.clone();
        let collecting = work_threads::run(Lane::Fleet, move || {
            let complaints = tls::complaints(&tls_settings(&section), now());
            (disk::collect_facts(&config, &section), complaints)
        });
        ctx.spawn(collecting.into_actor(self).map(move |collected, this, _| {
            // What was collected for a configuration that holds no more may come late.
            if !Arc::ptr_eq(&collected_for, &this.config) {
                return;
            }
            let Ok((collected, complaints)) = collected else { return };
            if complaints.is_empty() {
                this.clear(Trouble::Certificate);
            } else {
                this.raise(Trouble::Certificate, complaints.join("; "));
            }
            match collected {
                Ok(facts) => {
                    this.troubles.clear(Trouble::Facts);
                    this.facts.send_if_modified(|known| {
                        let differs = **known != facts;
                        if differs {
                            *known = Arc::new(facts);
                        }
                        differs
                    });
                }
                Err(error) => {
                    let text = ErrorChain(&error).to_string();
                    warn!(this.log, "cannot update the facts; the fleet sees the previous ones"; "error" => &text);
                    this.troubles.raise(Trouble::Facts, text);
                }
            }
        }));
    }

    /// Whether it is new.
    pub(super) fn raise(&mut self, trouble: Trouble, text: String) -> bool {
        let is_new = self.troubles.raise(trouble, text.clone());
        self.voice.tell(&self.troubles, trouble, is_new);
        if is_new {
            warn!(self.log, "the link to the fleet has a problem"; "problem" => ?trouble, "error" => text);
        }
        is_new
    }

    pub(super) fn clear(&mut self, trouble: Trouble) {
        if self.troubles.clear(trouble) {
            self.voice.tell(&self.troubles, trouble, false);
            info!(self.log, "a problem of the link to the fleet is solved"; "problem" => ?trouble);
        }
    }
}

impl Actor for Membership {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(MAILBOX_CAPACITY);
        for action in std::mem::take(&mut self.interrupted) {
            warn!(self.log, "the agent ended while it ran an action"; "action" => %action);
            let answer = answer_without_results(
                AnswerStatus::Interrupted,
                "interrupted",
                "the agent ended or rejoined its fleet while it ran the action; the action is not run again"
                    .to_owned(),
                &self.hostname(),
            );
            self.keep_answer(action, answer, ctx);
        }
        if let Some(policy) = self.policy.borrow().clone() {
            self.take_brokers(&policy);
        }
        self.give_packs();
        self.look_at_dropped();
        self.renew_facts(ctx);
        self.look_at_facts_later(ctx);
        self.look_at_link_later(ctx);
        self.report_owed_later(ctx);
    }
}

impl Handler<Decided> for Membership {
    type Result = ();

    fn handle(&mut self, decided: Decided, ctx: &mut Self::Context) {
        match decided {
            Decided::Run(admitted) => self.admit(*admitted, ctx),
            Decided::Refused { refused, way } => self.report_refusal(&refused, way),
            Decided::Answer { id, refused } => self.answer_refusal(id, &refused, ctx),
            Decided::Stand(order) => self.stand(order, ctx),
            Decided::Done { id, answer } => self.keep_answer(id, *answer, ctx),
        }
    }
}

impl Handler<PolicyArrived> for Membership {
    type Result = bool;

    fn handle(&mut self, arrived: PolicyArrived, ctx: &mut Self::Context) -> bool {
        self.take_policy(&arrived.text, arrived.is_newest, ctx)
    }
}

impl Handler<BrokerHappened> for Membership {
    type Result = ();

    fn handle(&mut self, BrokerHappened(event): BrokerHappened, ctx: &mut Self::Context) {
        match event {
            BrokerEvent::Connected => {
                for trouble in [
                    Trouble::LoginRefused,
                    Trouble::Tls,
                    Trouble::BrokerFull,
                    Trouble::NotPermitted,
                    Trouble::Disconnected,
                ] {
                    self.clear(trouble);
                }
                if self.policy.borrow().is_none() {
                    self.look_at_link_later(ctx);
                }
            }
            BrokerEvent::LoginRefused => {
                let text =
                    "the broker rejects the credentials; see fleet.credentials and the agent's enrolment";
                self.raise(Trouble::LoginRefused, text.to_owned());
            }
            BrokerEvent::TlsFailed(why) => {
                self.raise(Trouble::Tls, format!("TLS connection to the broker failed: {why}"));
            }
            BrokerEvent::BrokerFull(words) => {
                self.raise(Trouble::BrokerFull, format!("the broker accepts no more connections: {words}"));
            }
            BrokerEvent::PermissionViolation(what) => {
                let text = format!("the broker does not permit what the agent needs: {what}");
                self.raise(Trouble::NotPermitted, text);
            }
            BrokerEvent::Disconnected => {
                self.clear(Trouble::NotStored);
                self.look_at_link_later(ctx);
            }
            BrokerEvent::Closed
            | BrokerEvent::SlowConsumer(_)
            | BrokerEvent::BrokerStops
            | BrokerEvent::Problem(_) => {}
        }
    }
}

impl Handler<ReplayBroken> for Membership {
    type Result = ();

    #[expect(clippy::disallowed_methods, reason = "the last message of a membership")]
    fn handle(&mut self, ReplayBroken(problem): ReplayBroken, ctx: &mut Self::Context) {
        self.link.do_send(Ended { number: self.number, problem });
        ctx.stop();
    }
}

impl Handler<LookAtFacts> for Membership {
    type Result = ();

    fn handle(&mut self, LookAtFacts(config): LookAtFacts, ctx: &mut Self::Context) {
        self.config = config;
        self.renew_facts(ctx);
    }
}

impl Handler<Leave> for Membership {
    type Result = ();

    fn handle(&mut self, _: Leave, ctx: &mut Self::Context) {
        ctx.stop();
    }
}
