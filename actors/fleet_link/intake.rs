//! Takes actions and policies from the broker: a task of its own.
//!
//! Actions come live by subscription and, after every connection, from the stream by direct get: an agent that was
//! away finds what it missed. Both ways can bring the same action; who decides about it knows what it has run.

use actix::Addr;
use async_nats::Subscriber;
use async_nats::jetstream::Context as JetStream;
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::select_all;
use slog::{Logger, debug, info, warn};
use tokio::sync::{mpsc, watch};
use tokio::time::{Duration, sleep};
use vigie_fleet::broker::connection::BrokerEvent;
use vigie_fleet::broker::kv::{self, KvError};
use vigie_fleet::names::{AgentId, GroupName};
use vigie_fleet::subjects::{self, ACTION_ALL, ACTIONS, KV_POLICY, POLICY};

use super::{Arrived, BrokerHappened, FleetLink, PolicyArrived, Way};
use crate::error::ErrorChain;

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
    pub(super) jetstream: JetStream,
    pub(super) events: mpsc::Receiver<BrokerEvent>,
    /// Counts the connections that came about, for the other tasks.
    pub(super) connections: watch::Sender<u64>,
}

/// How far the stored actions of one subject were read.
struct Stored {
    subject: String,
    /// Number in the stream of the next one to ask for.
    next: u64,
}

impl Intake {
    /// Takes until the task is aborted.
    pub(super) async fn run(mut self) {
        let mut stored: Vec<Stored> = [ACTION_ALL.to_owned(), subjects::action_for_agent(&self.agent)]
            .into_iter()
            .chain(self.groups.iter().map(subjects::action_for_group))
            .map(|subject| Stored { subject, next: 1 })
            .collect();
        let mut actions = Vec::new();
        for stored in &stored {
            actions.extend(self.subscribe(&stored.subject).await);
        }
        let mut actions = select_all(actions);
        let Some(mut policies) = self.subscribe(POLICY).await else { return };
        let mut behind = false;
        loop {
            tokio::select! {
                Some(message) = actions.next() => {
                    if !self.arrived(message.payload, Way::Live).await {
                        return;
                    }
                }
                Some(message) = policies.next() => {
                    if self.link.send(PolicyArrived { membership: self.membership, text: message.payload }).await.is_err() {
                        return;
                    }
                }
                event = self.events.recv() => {
                    let Some(event) = event else { return };
                    behind |= matches!(event, BrokerEvent::Connected | BrokerEvent::SlowConsumer(_));
                    self.happened(event).await;
                    if behind {
                        behind = self.catch_up(&mut stored).await.is_err();
                    }
                }
                () = sleep(RETRY), if behind => behind = self.catch_up(&mut stored).await.is_err(),
            }
        }
    }

    async fn subscribe(&self, subject: &str) -> Option<Subscriber> {
        match self.jetstream.client().subscribe(subject.to_owned()).await {
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
    async fn catch_up(&self, stored: &mut [Stored]) -> Result<(), KvError> {
        let failed = |error: &KvError| debug!(self.log, "cannot catch up"; "error" => %ErrorChain(error));
        let policy = kv::get(&self.jetstream, KV_POLICY, POLICY).await.inspect_err(failed)?;
        if let Some(policy) = policy {
            self.link.send(PolicyArrived { membership: self.membership, text: policy.value }).await.ok();
        }
        for stored in stored {
            while let Some(entry) =
                kv::next(&self.jetstream, ACTIONS, &stored.subject, stored.next).await.inspect_err(failed)?
            {
                stored.next = entry.sequence + 1;
                self.arrived(entry.value, Way::Stored).await;
            }
        }
        Ok(())
    }

    async fn arrived(&self, envelope: Bytes, way: Way) -> bool {
        self.link.send(Arrived { membership: self.membership, envelope, way }).await.is_ok()
    }
}
