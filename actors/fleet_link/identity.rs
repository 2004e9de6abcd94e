//! What becomes of a membership whose identity is not its own alone: another host writes under its name, or its files
//! are a copy.

use std::io::{self, ErrorKind};
use std::path::Path;
use std::time::Duration;

use actix::{ActorFutureExt, Handler, Message, ResponseActFuture, WrapFuture};
use serde::{Deserialize, Serialize};
use slog::{Logger, warn};

use super::membership::Membership;
use super::trouble::Trouble;
use super::{disk, now};
use crate::work_threads::{self, Lane};

/// Signs of life without another writer after which an identity counts as used once again.
const QUIET_BEATS: u32 = 3;

/// What a host is told whose files come from another machine.
pub(super) const COPIED: &str = "the agent's files were created on another machine: this host is a copy and needs its own key (stop the agent, delete STATE_DIR/fleet and the key file, enrol it under its own name)";

/// Whether another host wrote under this name since the last sign of life. Sent by `presence`.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(super) struct OtherWriter(pub(super) bool);

/// The fleet has something of this agent that its files do not know. Sent by `alert_sender` and `presence`: alerts
/// that these files do not know may bear the journal's name also where the fleet does not have them.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(super) struct Reverted {
    /// What.
    pub(super) text: String,
    /// When the broker stored it, in seconds since 1970.
    pub(super) stored: i64,
    /// When this agent made it, by its own clock.
    pub(super) sealed: i64,
    /// Number of the connection by which it was read.
    pub(super) connection: u64,
}

impl Handler<OtherWriter> for Membership {
    type Result = ();

    fn handle(&mut self, OtherWriter(is_twice): OtherWriter, _: &mut Self::Context) {
        if is_twice {
            self.beats_alone = 0;
            let text = format!(
                "another host uses the identity {}: a clone, a restored snapshot or a stolen key; give each host its own key",
                self.section.agent
            );
            if self.raise(Trouble::RunsTwice, text) {
                // What both record from now on must not bear one name.
                self.forks.send_modify(|forks| *forks += 1);
            }
        } else {
            self.beats_alone = self.beats_alone.saturating_add(1);
            if self.beats_alone >= QUIET_BEATS {
                self.clear(Trouble::RunsTwice);
            }
        }
    }
}

/// How long the newest that the fleet has of this agent is asked for, before a connection is used without.
pub(super) const LONGEST_LOOK: Duration = Duration::from_secs(15);

/// How much later than this agent made something the broker may say that it stored it, in seconds. So much may pass
/// between two signs of life; beyond it the broker's clock is wrong, and would keep everybody from asking until then.
const LONGEST_STORING: i64 = 600;

/// When it was last noticed that the files are an older copy, in seconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Noticed {
    /// By this host's clock.
    own: i64,
    /// By the broker's: when it stored what showed that. A host whose clock is behind ran actions after its own time.
    broker: i64,
    /// How often it was noticed. What of the files must change because of it says up to which it did.
    #[serde(default)]
    count: u64,
}

impl Noticed {
    /// It was noticed at `own` from what the broker says to have stored at `stored`, and this agent made at `sealed`.
    #[must_use]
    fn at(own: i64, stored: i64, sealed: i64) -> Self {
        Self { own, broker: stored.min(sealed.saturating_add(LONGEST_STORING)), count: 0 }
    }

    /// Blocking.
    fn store(self, path: &Path) -> io::Result<()> {
        disk::replace(path, &serde_json::to_vec(&self)?)
    }

    /// What could be begun before then may have been run.
    #[must_use]
    pub(super) fn time(self) -> i64 {
        self.own.max(self.broker)
    }

    /// With one that was noticed before: the later of each. It may be the same one, which showed in two things.
    #[must_use]
    fn after(self, earlier: Option<Self>, is_another: bool) -> Self {
        let count = earlier.map_or(0, |earlier| earlier.count).saturating_add(u64::from(is_another));
        let earlier = earlier.unwrap_or(self);
        Self { own: self.own.max(earlier.own), broker: self.broker.max(earlier.broker), count }
    }

    /// A clock that was ahead keeps nobody from asking once it is right. One that is behind what the broker says is
    /// not.
    #[must_use]
    fn corrected(self, now: i64) -> Self {
        Self { own: if now < self.broker { self.own } else { self.own.min(now) }, ..self }
    }
}

/// What the files may lack of the actions that this agent has run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Memory {
    /// When it was last noticed that they are an older copy.
    pub(super) reverted: Option<Noticed>,
    /// Number of the last connection by which the fleet's newest heartbeat of this agent was compared with them, or
    /// which does not permit that.
    pub(super) heartbeats: Option<u64>,
    /// The same of its newest alert.
    pub(super) alerts: Option<u64>,
    /// Number of the last connection that does not permit one of both: by it, it is never known.
    pub(super) not_permitted: Option<u64>,
}

impl Memory {
    /// What was noticed in earlier lives. What must be assumed of it is stored, so that it stays the same. Blocking.
    pub(super) fn stored(path: &Path, now: i64, log: &Logger) -> Self {
        let text = match disk::read_bounded(path) {
            Ok(bytes) => Some(bytes),
            Err(error) if error.kind() == ErrorKind::NotFound => return Self::default(),
            Err(_) => None,
        };
        let read = text.and_then(|bytes| serde_json::from_slice::<Noticed>(&bytes).ok());
        // It was noticed, and nobody knows when and how often: a count that no file has had.
        let unknown = || Noticed { own: now, broker: 0, count: now.unsigned_abs() };
        let noticed = read.map_or_else(unknown, |noticed| noticed.corrected(now));
        if read != Some(noticed)
            && let Err(error) = noticed.store(path)
        {
            warn!(log, "cannot store when an older copy of the state was noticed; each restart refuses what waits";
                "path" => ?path, "error" => %error);
        }
        Self { reverted: Some(noticed), ..Self::default() }
    }

    /// How often it was noticed that the files are an older copy.
    #[must_use]
    pub(super) fn restorations(&self) -> u64 {
        self.reverted.map_or(0, |noticed| noticed.count)
    }

    /// Whether nothing more is learned by this connection, or a later one told it.
    #[must_use]
    pub(super) fn is_settled(&self, connection: u64) -> bool {
        self.heartbeats.min(self.alerts) >= Some(connection)
    }

    /// Whether both were compared by this connection or a later one.
    #[must_use]
    pub(super) fn is_compared(&self, connection: u64) -> bool {
        self.is_settled(connection) && self.not_permitted < Some(connection)
    }
}

impl Handler<Reverted> for Membership {
    type Result = ResponseActFuture<Self, ()>;

    /// Returns when it is on disk: whoever noticed it makes the files such that it is not noticed again.
    fn handle(&mut self, reverted: Reverted, _: &mut Self::Context) -> Self::Result {
        let Reverted { text, stored, sealed, connection } = reverted;
        // An alert and a heartbeat by one connection show the same restoration.
        let is_another = self.reverted_by.replace(connection) != Some(connection);
        let before = self.memory.borrow().reverted;
        let noticed = Noticed::at(now(), stored, sealed).after(before, is_another);
        self.memory.send_modify(|memory| memory.reverted = Some(noticed));
        self.raise(Trouble::Reverted, text);
        let (path, hold) = (self.places.reverted(), self.hold.clone());
        let storing = work_threads::run(Lane::Fleet, move || {
            let _hold = hold;
            noticed.store(&path)
        });
        Box::pin(storing.into_actor(self).map(|stored, this, _| {
            if let Ok(Err(error)) = stored {
                warn!(this.log, "cannot store that an older copy of the state was restored; after a restart actions from before may run again";
                    "error" => %error);
            }
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_noticed_counts_by_the_later_clock_and_is_never_forgotten() {
        let noticed = |own, broker| Noticed { own, broker, count: 1 };
        // The clock is behind: the fleet's message is younger than the agent's time.
        assert_eq!(Noticed::at(100, 5000, 5000).after(None, true).time(), 5000);
        assert_eq!(Noticed::at(5000, 100, 100).after(None, true), noticed(5000, 100));
        assert_eq!(noticed(10, 20).after(Some(noticed(30, 15)), false), noticed(30, 20));
        assert_eq!(noticed(10, 20).after(Some(noticed(30, 15)), true).count, 2);
        // The broker's clock is years ahead.
        assert_eq!(Noticed::at(1000, i64::MAX, 990).time(), 990 + LONGEST_STORING);

        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("reverted");
        let log = Logger::root(slog::Discard, slog::o!());
        let memory = |now| Memory::stored(&path, now, &log);
        let stored = |now| memory(now).reverted.map(Noticed::time);
        assert_eq!(stored(1000), None, "there is no file");
        let keep = |noticed: Noticed| noticed.store(&path).unwrap();
        keep(noticed(900, 800));
        assert_eq!(stored(1000), Some(900));
        keep(noticed(90_000, 800));
        assert_eq!(stored(1000), Some(1000), "the clock was ahead");
        assert_eq!(stored(3000), Some(1000), "the next start refuses no more");
        keep(noticed(100, 2000));
        assert_eq!(stored(150), Some(2000), "the clock is still behind");
        keep(noticed(2050, 2000));
        assert_eq!((stored(5), stored(3000)), (Some(2050), Some(2050)), "the clock was behind in between");
        for damaged in ["", "{", "900", "{\"own\":1}"] {
            disk::replace(&path, damaged.as_bytes()).unwrap();
            assert_eq!((stored(1000), stored(4000)), (Some(1000), Some(1000)), "{damaged:?}");
            assert_eq!(memory(4000).restorations(), 1000, "none that was taken note of");
        }
        disk::replace(&path, b"{\"own\":7,\"broker\":8}").unwrap();
        assert_eq!(
            (stored(1000), memory(1000).restorations()),
            (Some(8), 0),
            "of a build that did not count"
        );
    }

    #[test]
    fn a_connection_is_compared_when_both_were_read_by_it() {
        let memory = |heartbeats, alerts| Memory { heartbeats, alerts, ..Memory::default() };
        assert!(memory(Some(2), Some(2)).is_compared(2) && memory(Some(3), Some(2)).is_compared(2));
        for incomplete in
            [memory(None, None), memory(Some(2), None), memory(None, Some(2)), memory(Some(2), Some(1))]
        {
            assert!(!incomplete.is_compared(2), "{incomplete:?}");
        }
        assert!(!memory(None, None).is_compared(0));
        // It is not waited for what nobody may ask, and it counts as unknown.
        let refused = |by| Memory { not_permitted: Some(by), ..memory(Some(2), Some(2)) };
        assert!(refused(2).is_settled(2) && !refused(2).is_compared(2));
        assert!(refused(1).is_compared(2), "the next broker permits it");
    }
}
