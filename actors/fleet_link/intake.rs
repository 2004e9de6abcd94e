//! Takes actions and policies from the broker: a task of its own.
//!
//! Actions come live by subscription and, after every connection, from the stream by direct get: an agent that was
//! away finds what it missed. Both ways can bring the same action; who decides about it knows what it has run.

use actix::Addr;
use async_nats::Subscriber;
use bytes::Bytes;
use futures_util::stream::{SelectAll, select_all};
use futures_util::{FutureExt, StreamExt};
use slog::{Logger, debug, info, warn};
use tokio::sync::{mpsc, watch};
use tokio::time::{Duration, sleep};
use vigie_fleet::broker::connection::{BrokerEvent, Connection};
use vigie_fleet::broker::kv::{self, KvError};
use vigie_fleet::subjects::{self, ACTION_ALL, ACTIONS, KV_POLICY, POLICY};
use vigie_protocol::names::{AgentId, GroupName};

use super::{Arrived, BrokerHappened, FleetLink, PolicyArrived, Way};
use vigie_protocol::error_chain::ErrorChain;

/// Pause before something is fetched again that could not be.
const RETRY: Duration = Duration::from_secs(2);

/// What the task works with.
pub(super) struct Intake {
    pub(super) log: Logger,
    pub(super) link: Addr<FleetLink>,
    /// Which membership this is, for messages to the link.
    pub(super) membership: u64,
    pub(super) agent: AgentId,
    pub(super) groups: Vec<GroupName>,
    pub(super) connection: Connection,
    pub(super) events: mpsc::Receiver<BrokerEvent>,
    /// Counts the connections that came about, for the other tasks.
    pub(super) connections: watch::Sender<u64>,
}

/// How far the stored actions of one subject were read.
struct Stored {
    subject: String,
    /// Number of the newest one in the stream, and when the broker stored it.
    last: Option<(u64, i64)>,
}

impl Intake {
    /// Takes until the task is aborted.
    pub(super) async fn run(mut self) {
        let mut stored: Vec<Stored> = [ACTION_ALL.to_owned(), subjects::action_for_agent(&self.agent)]
            .into_iter()
            .chain(self.groups.iter().map(subjects::action_for_group))
            .map(|subject| Stored { subject, last: None })
            .collect();
        let Some(mut policies) = self.subscribe(POLICY).await else { return };
        let mut actions = Vec::new();
        for stored in &stored {
            actions.extend(self.subscribe(&stored.subject).await);
        }
        let mut actions: SelectAll<Subscriber> = select_all(actions);
        let mut behind = false;
        let mut events_lost = 0;
        loop {
            tokio::select! {
                // A policy goes before the actions that came with it: it may revoke the key that signed them.
                biased;
                Some(message) = policies.next() => self.policy_arrived(message.payload).await,
                event = self.events.recv() => {
                    let Some(event) = event else { return };
                    behind |= matches!(event, BrokerEvent::Connected | BrokerEvent::SlowConsumer(_));
                    self.happened(event).await;
                    // One that was lost may have told of a new connection.
                    let lost = self.connection.events_lost();
                    if std::mem::replace(&mut events_lost, lost) != lost {
                        behind = true;
                        self.connections.send_modify(|count| *count += 1);
                    }
                    if behind {
                        behind = self.catch_up(&mut stored, &mut policies).await.is_err();
                    }
                }
                Some(message) = actions.next() => {
                    if !self.arrived(message.payload, Way::Live).await {
                        return;
                    }
                }
                () = sleep(RETRY), if behind => {
                    behind = self.catch_up(&mut stored, &mut policies).await.is_err();
                }
            }
        }
    }

    async fn subscribe(&self, subject: &str) -> Option<Subscriber> {
        match self.connection.client.subscribe(subject.to_owned()).await {
            Ok(subscriber) => Some(subscriber),
            Err(error) => {
                warn!(self.log, "cannot subscribe"; "subject" => subject, "error" => %ErrorChain(&error));
                None
            }
        }
    }

    async fn happened(&mut self, event: BrokerEvent) {
        match &event {
            BrokerEvent::Connected => {
                info!(self.log, "connected to the broker");
                self.connections.send_modify(|count| *count += 1);
            }
            BrokerEvent::Disconnected => info!(self.log, "connection to the broker is lost"),
            BrokerEvent::SlowConsumer(_) => warn!(self.log, "messages of the broker were lost, asking again"),
            BrokerEvent::PermissionViolation(what) => {
                warn!(self.log, "the broker does not permit it; the agent's token has other rights than it needs";
                    "error" => what);
            }
            BrokerEvent::LoginRefused => {
                warn!(
                    self.log,
                    "the broker refuses the login; see fleet.credentials and the agent's enrolment"
                );
            }
            BrokerEvent::BrokerStops | BrokerEvent::Closed => {
                info!(self.log, "the broker ends the connection")
            }
            BrokerEvent::Problem(what) => debug!(self.log, "broker"; "error" => what),
        }
        self.link.send(BrokerHappened { membership: self.membership, event }).await.ok();
    }

    /// Fetches the policy first, because actions are decided by it, and then the actions that were missed.
    async fn catch_up(&self, stored: &mut [Stored], policies: &mut Subscriber) -> Result<(), KvError> {
        let failed = |error: &KvError| debug!(self.log, "cannot catch up"; "error" => %ErrorChain(error));
        let jetstream = &self.connection.jetstream;
        let policy = kv::get(jetstream, KV_POLICY, POLICY).await.inspect_err(failed)?;
        if let Some(policy) = policy {
            self.policy_arrived(policy.value).await;
        }
        for stored in stored {
            let mut next = self.next_stored(stored).await.inspect_err(failed)?;
            while let Some(entry) =
                kv::next(jetstream, ACTIONS, &stored.subject, next).await.inspect_err(failed)?
            {
                while let Some(Some(message)) = policies.next().now_or_never() {
                    self.policy_arrived(message.payload).await;
                }
                self.arrived(entry.value, Way::Stored).await;
                stored.last = Some((entry.sequence, entry.stored));
                next = entry.sequence + 1;
            }
        }
        Ok(())
    }

    /// Number from which on stored actions were not read. Where the stream does not hold the newest one that was read,
    /// it has expired or the stream was begun anew, and its numbers mean nothing: then from the beginning.
    async fn next_stored(&self, stored: &Stored) -> Result<u64, KvError> {
        let Some(last) = stored.last else { return Ok(1) };
        let found = kv::next(&self.connection.jetstream, ACTIONS, &stored.subject, last.0).await?;
        Ok(if found.is_some_and(|entry| (entry.sequence, entry.stored) == last) { last.0 + 1 } else { 1 })
    }

    async fn policy_arrived(&self, text: Bytes) {
        self.link.send(PolicyArrived { membership: self.membership, text }).await.ok();
    }

    async fn arrived(&self, envelope: Bytes, way: Way) -> bool {
        self.link.send(Arrived { membership: self.membership, envelope, way }).await.is_ok()
    }
}
