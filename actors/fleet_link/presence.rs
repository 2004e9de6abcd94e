//! Shows the fleet that this host is there, where it listens, and what it is: a task of its own.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use actix::{Addr, Handler, Message};
use slog::{Logger, debug, warn};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep_until};
use vigie_files::random;
use vigie_fleet::agent_key::AgentKey;
use vigie_fleet::answer::Purpose;
use vigie_fleet::broker::stored::{self, StoredError};
use vigie_fleet::facts::Facts;
use vigie_fleet::heartbeat::{Heartbeat, VERSION};
use vigie_fleet::standing::StandingHead;
use vigie_fleet::subjects;

use super::alert_sender::Progress;
use super::identity::{LONGEST_LOOK, Memory, OtherWriter, Reverted};
use super::lives::Begun;
use super::membership::Membership;
use super::trouble::Trouble;
use super::uplink::{Hold, Uplink};
use crate::work_threads::{self, Lane};
use vigie_protocol::error_chain::ErrorChain;

/// Time between two signs of life is drawn from this range, so that the hosts of a fleet do not speak all at once.
const BEAT: std::ops::Range<Duration> = Duration::from_secs(60)..Duration::from_secs(84);

/// Every so many signs of life the agent looks for what it may have missed all the same: about every 15 minutes.
const LOOK_EVERY: u32 = 12;

/// Pause before the newest heartbeat is asked for again.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Pause before a sign of life that was not stored is sent again.
const RETRY: Duration = Duration::from_secs(5);

/// How long a broker that is connected may store nothing before that is said: a cluster elects within 8 seconds.
const SILENT_AFTER: Duration = Duration::from_secs(20);

/// What the task works with.
pub(super) struct Presence {
    pub(super) log: Logger,
    pub(super) membership: Addr<Membership>,
    pub(super) key: Arc<AgentKey>,
    pub(super) uplink: Uplink,
    /// Secret token of the subject that the agent listens on.
    pub(super) live: String,
    /// Which life it is, and those before it.
    pub(super) begun: Begun,
    /// Where they are stored.
    pub(super) lives: PathBuf,
    pub(super) hold: Hold,
    /// The fleet knew of a life that the files did not.
    pub(super) is_reverted: bool,
    /// The newest time that a heartbeat of this life was sent with.
    pub(super) shown: i64,
    /// What is told of it.
    pub(super) memory: Arc<watch::Sender<Memory>>,
    /// The facts as they are now.
    pub(super) facts: watch::Receiver<Arc<Facts>>,
    /// How far alerts are sent.
    pub(super) alerts: watch::Receiver<Progress>,
    /// The standing questions.
    pub(super) standing: watch::Receiver<Vec<StandingHead>>,
    /// Told when it is time to look for what somebody asked who did not know of the newest sign of life.
    pub(super) look: Arc<Notify>,
    /// How long no sign of life was stored.
    pub(super) silent: Silence,
}

/// How long the broker stored nothing while it was connected, over all connections since it stored something.
#[derive(Debug, Default)]
pub(super) struct Silence {
    before: Duration,
    /// When something was first asked of the connection that stands, and when it last failed.
    now: Option<(Instant, Instant)>,
}

impl Silence {
    /// What was `asked` at this time failed `now`.
    fn failed(&mut self, asked: Instant, now: Instant) {
        self.now = Some((self.now.map_or(asked, |(since, _)| since), now));
    }

    /// Another connection begins: the time between them does not count.
    fn reconnected(&mut self) {
        self.before = self.total();
        self.now = None;
    }

    fn total(&self) -> Duration {
        self.before + self.now.map_or(Duration::ZERO, |(since, last)| last.duration_since(since))
    }
}

/// Whether the broker that is connected stores signs of life; if not, why. For the membership.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(super) struct Stores(pub(super) Result<(), String>);

impl Handler<Stores> for Membership {
    type Result = ();

    fn handle(&mut self, Stores(stored): Stores, _: &mut Self::Context) {
        match stored {
            Ok(()) => self.clear(Trouble::NotStored),
            // What it says of a connection that is gone is over with that.
            Err(_) if !self.uplink.is_up() => {}
            Err(why) => {
                let text = format!("the broker is connected and stores nothing of this host: {why}");
                self.raise(Trouble::NotStored, text);
            }
        }
    }
}

impl Presence {
    /// Shows until the task is aborted.
    pub(super) async fn run(mut self) {
        let mut connection = 0;
        // Number of our own newest message, when nobody else can have written since.
        let mut last = None;
        let mut beats = 0;
        let mut next = Instant::now();
        let mut stands = 0;
        // The newest heartbeat is still to be compared, and since when.
        let mut compares = Some(next);
        loop {
            let Some(number) = self.uplink.up().await else { return };
            if number != connection {
                // Whoever watches learns at once that the host is back. The broker may have lost its last seconds.
                (connection, last, beats, next) = (number, None, 0, Instant::now());
                compares = Some(next);
                self.silent.reconnected();
            }
            if compares.is_some() && Instant::now() >= next && self.compare(number).await {
                compares = None;
                self.memory.send_modify(|memory| memory.heartbeats = Some(number));
            }
            // Our own would take the place of what is to be compared.
            if compares.is_some_and(|since| since.elapsed() < LONGEST_LOOK) {
                next = next.max(Instant::now() + LOOK_AGAIN);
            } else if Instant::now() >= next {
                let asked = Instant::now();
                let stored = self.show(last).await;
                let stored = self.heard(stored, asked, last.is_none()).await;
                next = Instant::now() + if stored.is_some() { beat_pause(random::fraction()) } else { RETRY };
                last = stored;
                if stored.is_some() {
                    compares = None;
                    // After the first of a connection it is known where the agent listens: what was sent to where it
                    // listened before is found in the stream.
                    if beats % LOOK_EVERY == 0 {
                        self.look.notify_one();
                    }
                    beats = beats.wrapping_add(1);
                }
            }
            tokio::select! {
                () = sleep_until(next) => {}
                changed = self.facts.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    next = Instant::now();
                }
                changed = self.standing.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    // Which there are is shown at once, how far they are with the next sign of life.
                    let now = self.standing.borrow_and_update().len();
                    if std::mem::replace(&mut stands, now) != now {
                        next = Instant::now();
                    }
                }
                goes_on = self.uplink.changed() => {
                    if !goes_on {
                        return;
                    }
                }
            }
        }
    }

    /// Compares the newest heartbeat that the broker has under this name with the lives that the files know; `false`
    /// when it is to be asked for again.
    async fn compare(&mut self, connection: u64) -> bool {
        let agent = self.facts.borrow().agent.clone();
        let (subject, asked) = (subjects::facts(&agent), Instant::now());
        let newest = match stored::newest_of_own(&self.uplink.client, subjects::FACTS, &subject).await {
            Ok(newest) => newest,
            Err(error) => {
                debug!(self.log, "cannot read the newest heartbeat"; "error" => %ErrorChain(&error));
                if error.is_not_permitted() {
                    // Who may not ask does not learn it later either.
                    self.memory.send_modify(|memory| memory.not_permitted = Some(connection));
                    return true;
                }
                self.silent.failed(asked, Instant::now());
                return false;
            }
        };
        // Under another key it is another agent's, which had this name before.
        let heartbeat = newest.and_then(|entry| {
            let heartbeat = Heartbeat::open(&entry.value, &agent, self.key.public_key()).ok()?;
            Some((heartbeat, entry.stored))
        });
        let Some((Heartbeat { life, sent, .. }, stored)) =
            heartbeat.filter(|(newest, _)| self.is_unknown(newest))
        else {
            return true;
        };
        (self.is_reverted, self.shown) = (true, self.shown.max(sent));
        let time = jiff::Timestamp::from_second(sent).unwrap_or_default();
        let text = format!(
            "the fleet has a heartbeat of this agent from {time} that its own files do not know: an older copy of STATE_DIR was restored or it was deleted, or another host uses a copy of it"
        );
        self.membership.send(Reverted { text, stored, sealed: sent, connection }).await.ok();
        let (mut begun, path, hold) = (self.begun.clone(), self.lives.clone(), self.hold.clone());
        let storing = work_threads::run(Lane::Fleet, move || {
            let stored = begun.go_on_after(&life, &path);
            drop(hold);
            (begun, stored)
        });
        let Ok((begun, stored)) = storing.await else { return true };
        self.begun = begun;
        if let Err(error) = stored {
            warn!(self.log, "cannot store which life this is; after a restart it is reported again";
                "path" => ?self.lives, "error" => %error);
        }
        true
    }

    /// Whether this life or one before it did not send the heartbeat. A machine that was put back while it ran goes on
    /// in the life in which it sent more.
    fn is_unknown(&self, Heartbeat { life, sent, .. }: &Heartbeat) -> bool {
        self.begun.is_behind(life) || (life.epoch == self.begun.life.epoch && *sent > self.shown)
    }

    /// Stores a sign of life; its number. When somebody else wrote after our last one, another host has our name.
    async fn show(&mut self, last: Option<u64>) -> Result<u64, String> {
        let subject = subjects::facts(&self.facts.borrow_and_update().agent);
        let payload = self.payload(false)?;
        let client = &self.uplink.client.clone();
        let mut result = match last {
            Some(last) => stored::store_after(client, &subject, last, &payload).await,
            None => stored::store(client, &subject, &payload).await,
        };
        let is_twice =
            matches!((&result, last), (Err(error), Some(last)) if error.is_other_writer_after(last));
        if is_twice || (last.is_some() && result.is_ok()) {
            self.membership.send(OtherWriter(is_twice)).await.ok();
        }
        if matches!(&result, Err(error) if error.is_other_writer()) {
            result = stored::store(client, &subject, &self.payload(is_twice)?).await;
        }
        result.map_err(|error: StoredError| ErrorChain(&error).to_string())
    }

    /// Reports a broker that stores nothing for a while, and that it does again; the number of what was stored.
    async fn heard(&mut self, stored: Result<u64, String>, asked: Instant, is_first: bool) -> Option<u64> {
        match stored {
            Ok(number) => {
                // The first of a connection ends also what was said of the one before.
                if std::mem::take(&mut self.silent).total() > Duration::ZERO || is_first {
                    self.membership.send(Stores(Ok(()))).await.ok();
                }
                Some(number)
            }
            Err(problem) => {
                debug!(self.log, "heartbeat was not stored"; "error" => &problem);
                self.silent.failed(asked, Instant::now());
                if self.silent.total() >= SILENT_AFTER {
                    self.membership.send(Stores(Err(problem))).await.ok();
                }
                None
            }
        }
    }

    /// The sealed sign of life.
    fn payload(&mut self, twice: bool) -> Result<Vec<u8>, String> {
        let sent = super::now();
        self.shown = self.shown.max(sent);
        let heartbeat = Heartbeat {
            v: VERSION,
            sent,
            live: self.live.clone(),
            life: self.begun.life.clone(),
            twice,
            copied: self.begun.is_copy,
            reverted: self.is_reverted || self.alerts.borrow().is_forked,
            alerts: self.alerts.borrow().head.clone(),
            standing: self.standing.borrow().clone(),
            facts: (**self.facts.borrow()).clone(),
        };
        serde_json::to_string(&heartbeat)
            .map_err(|error| error.to_string())
            .and_then(|text| self.key.seal(Purpose::Facts, text).map_err(|error| error.to_string()))
            .and_then(|sealed| serde_json::to_vec(&sealed).map_err(|error| error.to_string()))
    }
}

fn beat_pause(drawn: f64) -> Duration {
    BEAT.start + (BEAT.end - BEAT.start).mul_f64(drawn.clamp(0.0, 1.0))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use vigie_fleet::broker::streams::PRESENCE_AGE;

    use super::*;

    proptest! {
        /// An idle agent sends at most one message a minute, and a host does not look gone because one sign of life is
        /// lost.
        #[test]
        fn an_idle_agent_sends_at_most_one_message_a_minute(drawn in prop::collection::vec(0.0..=1.0, 2..200)) {
            let beats: Duration = drawn.iter().map(|drawn| beat_pause(*drawn)).sum();
            prop_assert!(drawn.len() as u64 <= beats.as_secs() / 60, "{} in {beats:?}", drawn.len());
            for two in drawn.windows(2) {
                prop_assert!(two.iter().map(|drawn| beat_pause(*drawn)).sum::<Duration>() < PRESENCE_AGE);
            }
        }
    }

    #[test]
    fn connections_that_store_nothing_count_together_and_the_time_between_them_does_not() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut silence = Silence::default();

        silence.failed(at(0), at(2));
        silence.failed(at(7), at(9));
        assert_eq!(silence.total(), Duration::from_secs(9));
        silence.reconnected();
        silence.reconnected();
        silence.failed(at(100), at(102));
        assert_eq!(silence.total(), Duration::from_secs(11));
    }
}
