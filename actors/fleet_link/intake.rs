//! Takes actions and policies from the broker: a task of its own.
//!
//! Actions come live on a subject that only this agent listens on, and from the stream of questions by direct get:
//! after every connection, now and then, and when somebody says that there is something new. So an agent
//! that was away, or whose secret somebody did not know yet, finds what it missed. Both ways can bring the same
//! action; who decides about it knows what it has run.

use actix::Addr;
use bytes::Bytes;
use slog::{Logger, debug, info, warn};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::{Duration, sleep};
use vigie_fleet::broker::LOOK;
use vigie_fleet::broker::client::Subscription;
use vigie_fleet::broker::connection::{BrokerEvent, Connection};
use vigie_fleet::broker::stored::{self, Entry, StoredError, Which};
use vigie_fleet::broker::streams::POLICY_VERSIONS;
use vigie_fleet::subjects::{self, ASK, EVERY_ASK, EVERY_STANDING, POLICY, POLICY_SUBJECT, STANDING};
use vigie_protocol::names::AgentId;

use super::desk::Arrived;
use super::membership::{BrokerHappened, Membership, PolicyArrived, Way};
use vigie_protocol::error_chain::ErrorChain;

/// Pause before something is fetched again that could not be.
const RETRY: Duration = Duration::from_secs(2);

/// The streams of questions.
const QUESTIONS: [(&str, &str); 2] = [(ASK, EVERY_ASK), (STANDING, EVERY_STANDING)];

/// What the task works with.
pub(super) struct Intake {
    pub(super) log: Logger,
    pub(super) membership: Addr<Membership>,
    /// Who decides about actions.
    pub(super) desk: mpsc::Sender<Arrived>,
    pub(super) agent: AgentId,
    /// Secret token of the subject that the agent listens on.
    pub(super) live: String,
    pub(super) connection: Connection,
    pub(super) events: mpsc::Receiver<BrokerEvent>,
    /// Told when the fleet was shown where the agent listens.
    pub(super) shown: std::sync::Arc<Notify>,
}

/// How far the stored questions were read.
#[derive(Default)]
struct Read {
    /// Of each stream of questions: number of the newest one, and when the broker stored it.
    last: [Option<(u64, i64)>; QUESTIONS.len()],
    /// The newest stored policy that was offered.
    policy: Option<(u64, i64)>,
}

impl Intake {
    /// Takes until the task is aborted.
    pub(super) async fn run(mut self) {
        let subject = subjects::live(&self.agent, &self.live);
        let mut live = match self.connection.client.subscribe(&subject) {
            Ok(live) => live,
            Err(error) => {
                warn!(self.log, "cannot listen for actions"; "error" => %error);
                return;
            }
        };
        let (mut read, mut behind, mut events_lost) = (Read::default(), false, 0);
        loop {
            tokio::select! {
                biased;
                event = self.events.recv() => {
                    let Some(event) = event else { return };
                    behind |= matches!(event, BrokerEvent::Connected | BrokerEvent::SlowConsumer(_));
                    self.happened(event).await;
                    // One that was lost may have told of a new connection.
                    let lost = self.connection.events_lost();
                    behind |= std::mem::replace(&mut events_lost, lost) != lost;
                }
                () = self.shown.notified() => behind = true,
                message = live.next() => {
                    let Some(message) = message else { return };
                    if message.payload == LOOK {
                        behind = true;
                    } else if !self.arrived(message.payload, Way::Live).await {
                        return;
                    }
                }
                () = sleep(RETRY), if behind => {}
            }
            if behind && self.connection.is_up() {
                behind = self.catch_up(&mut read, &mut live).await.is_err();
            }
        }
    }

    async fn happened(&mut self, event: BrokerEvent) {
        match &event {
            BrokerEvent::Connected => info!(self.log, "connected to the broker"),
            BrokerEvent::Disconnected => info!(self.log, "lost the connection to the broker"),
            BrokerEvent::SlowConsumer(_) => {
                warn!(self.log, "messages from the broker were lost, requesting them again")
            }
            BrokerEvent::BrokerStops | BrokerEvent::Closed => {
                info!(self.log, "the broker closed the connection")
            }
            BrokerEvent::Problem(what) => debug!(self.log, "broker"; "error" => what),
            // The membership tells these, once.
            BrokerEvent::PermissionViolation(_)
            | BrokerEvent::LoginRefused
            | BrokerEvent::BrokerFull(_)
            | BrokerEvent::TlsFailed(_) => {}
        }
        self.membership.send(BrokerHappened(event)).await.ok();
    }

    /// Fetches the policy first, because actions are decided by it, and then the actions that were missed.
    async fn catch_up(&self, read: &mut Read, live: &mut Subscription) -> Result<(), StoredError> {
        let failed = |error: &StoredError| debug!(self.log, "cannot catch up"; "error" => %ErrorChain(error));
        self.fetch_policy(read).await.inspect_err(failed)?;
        for (place, (stream, every)) in QUESTIONS.into_iter().enumerate() {
            let mut next = self.next_stored(stream, read.last[place]).await.inspect_err(failed)?;
            let client = &self.connection.client;
            loop {
                let found = stored::get(client, stream, Which::Next(every, next)).await.inspect_err(failed);
                let entry = match found {
                    Ok(Some(entry)) => entry,
                    Ok(None) => break,
                    // A fleet that was set up before there was this stream: all else goes on, and doctor names it.
                    Err(_) if stream == STANDING && read.last[place].is_none() && self.connection.is_up() => {
                        break;
                    }
                    Err(error) => return Err(error),
                };
                if entry.sequence < next {
                    break;
                }
                self.arrived(entry.value, Way::Stored).await;
                read.last[place] = Some((entry.sequence, entry.stored));
                next = entry.sequence.saturating_add(1);
                // What comes meanwhile must not be lost for want of room.
                while let Ok(Some(message)) = tokio::time::timeout(Duration::ZERO, live.next()).await {
                    if message.payload == LOOK {
                        self.fetch_policy(read).await.inspect_err(failed)?;
                    } else {
                        self.arrived(message.payload, Way::Live).await;
                    }
                }
            }
        }
        Ok(())
    }

    /// Offers the newest stored policy; when it does not count, all versions that are kept: what nobody signed hides
    /// none that does.
    async fn fetch_policy(&self, read: &mut Read) -> Result<(), StoredError> {
        let client = &self.connection.client;
        let Some(newest) = stored::get(client, POLICY, Which::Last(POLICY_SUBJECT)).await? else {
            return Ok(());
        };
        let place = |entry: &Entry| (entry.sequence, entry.stored);
        if read.policy == Some(place(&newest)) {
            return Ok(());
        }
        let known = read.policy.replace(place(&newest));
        if self.policy_arrived(newest.value.clone(), true).await {
            return Ok(());
        }
        for entry in stored::versions(client, POLICY, POLICY_SUBJECT, POLICY_VERSIONS).await? {
            let was_offered = known.is_some_and(|known| place(&entry) <= known);
            if place(&entry) != place(&newest) && !was_offered {
                self.policy_arrived(entry.value, false).await;
            }
        }
        Ok(())
    }

    /// Number from which on stored questions were not read. Where the stream does not hold the newest one that was
    /// read, it has expired or the stream was begun anew, and its numbers mean nothing: then from the beginning.
    async fn next_stored(&self, stream: &str, last: Option<(u64, i64)>) -> Result<u64, StoredError> {
        let Some(last) = last else { return Ok(1) };
        let found = stored::get(&self.connection.client, stream, Which::Number(last.0)).await?;
        let is_same = found.is_some_and(|entry| (entry.sequence, entry.stored) == last);
        Ok(if is_same { last.0.saturating_add(1) } else { 1 })
    }

    /// Whether it counts: it is in force now.
    async fn policy_arrived(&self, text: Bytes, is_newest: bool) -> bool {
        self.membership.send(PolicyArrived { text, is_newest }).await.unwrap_or(false)
    }

    /// Has an action decided; the next one comes only then. `false` when nobody decides any more.
    async fn arrived(&self, envelope: Bytes, way: Way) -> bool {
        let (decided, done) = oneshot::channel();
        if self.desk.send(Arrived { envelope, way, decided }).await.is_err() {
            return false;
        }
        done.await.is_ok()
    }
}
