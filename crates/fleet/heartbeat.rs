//! What an agent shows of itself every minute: that it is there, where it listens, who it is, how far its alerts
//! reach, and its facts. One message, sealed; the broker keeps the newest few.
//!
//! Two hosts with one identity, as a cloned virtual machine makes them, show different lives in turns.

use serde::{Deserialize, Serialize};

use crate::agent_key::{self, AgentPublicKey};
use crate::answer::{Purpose, Sealed};
use crate::facts::{Facts, FactsError};
use crate::standing::StandingHead;
use vigie_protocol::names::AgentId;

/// Version of [`Heartbeat`].
pub const VERSION: u8 = 1;

/// Longest heartbeat as it is stored, in bytes.
pub(crate) const MAX_HEARTBEAT_BYTES: usize = 192 * 1024;

/// Longest text of an identity, in bytes.
const MAX_TEXT_BYTES: usize = 64;

/// What an agent shows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heartbeat {
    /// Always [`VERSION`].
    pub v: u8,
    /// When it was sent, in seconds since 1970 by the agent's clock.
    pub sent: i64,
    /// Secret token of the subject that the agent listens on, see [`crate::subjects::live`].
    pub live: String,
    /// Which of all lives under this name it is.
    pub life: Life,
    /// Another host wrote under this name since the sign of life before.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub twice: bool,
    /// Its files were made on another machine.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub copied: bool,
    /// The fleet had something of this agent that the agent's files did not know: they are an older copy, or another
    /// host's.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub reverted: bool,
    /// How far its alerts reach.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alerts: Option<AlertHead>,
    /// The standing questions that it runs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub standing: Vec<StandingHead>,
    /// What the agent is.
    pub facts: Facts,
}

/// Which of all lives under a name it is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Life {
    /// Digest of the machine's id: differs on another machine.
    pub machine: String,
    /// Digest of the kernel's boot id: differs after each boot.
    pub boot: String,
    /// Drawn when the agent's process begins to belong to the fleet.
    pub epoch: String,
    /// How often this agent's files were begun on: grows with each life, so that an older copy of them is known.
    pub count: u64,
}

/// The newest alert that the fleet has acknowledged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AlertHead {
    /// Name of the journal.
    pub journal: String,
    /// Its number.
    pub seq: u64,
    /// Its link, see [`crate::answer::FleetAlert::link`].
    pub link: String,
}

/// A heartbeat that does not count.
#[derive(Debug, thiserror::Error)]
pub enum HeartbeatError {
    /// It is larger than `MAX_HEARTBEAT_BYTES`.
    #[error("the heartbeat has {0} bytes, more than {MAX_HEARTBEAT_BYTES}")]
    TooLarge(usize),
    /// It is not the JSON of a sealed heartbeat.
    #[error("the heartbeat cannot be read: {0}")]
    Malformed(String),
    /// It is of a version that is not known here.
    #[error("the heartbeat has version {0}, but this program knows {VERSION}: use a newer program")]
    Version(u8),
    /// The seal is not of the agent's key.
    #[error(transparent)]
    Seal(#[from] agent_key::SealError),
    /// A text is too long or of another form.
    #[error("the {0} of the heartbeat has the wrong format")]
    BadText(&'static str),
    /// The facts are beyond their limits.
    #[error(transparent)]
    Facts(#[from] FactsError),
    /// It is another agent's.
    #[error("it is the heartbeat of {0}")]
    OtherAgent(AgentId),
}

impl Heartbeat {
    /// Opens a heartbeat that lies where that of `agent` belongs.
    ///
    /// # Errors
    ///
    /// When it does not count.
    pub fn open(bytes: &[u8], agent: &AgentId, key: &AgentPublicKey) -> Result<Self, HeartbeatError> {
        if bytes.len() > MAX_HEARTBEAT_BYTES {
            return Err(HeartbeatError::TooLarge(bytes.len()));
        }
        let malformed = |error: serde_json::Error| HeartbeatError::Malformed(error.to_string());
        let sealed: Sealed = serde_json::from_slice(bytes).map_err(malformed)?;
        let text = agent_key::open(&sealed, Purpose::Facts, key)?;
        let heartbeat: Self = serde_json::from_str(text).map_err(malformed)?;
        heartbeat.check()?;
        if heartbeat.facts.agent != *agent {
            return Err(HeartbeatError::OtherAgent(heartbeat.facts.agent));
        }
        Ok(heartbeat)
    }

    fn check(&self) -> Result<(), HeartbeatError> {
        if self.v != VERSION {
            return Err(HeartbeatError::Version(self.v));
        }
        // It becomes part of a subject.
        if !(16..=MAX_TEXT_BYTES).contains(&self.live.len())
            || !self.live.bytes().all(|b| b.is_ascii_alphanumeric())
        {
            return Err(HeartbeatError::BadText("secret"));
        }
        let short = |text: &str| text.len() <= MAX_TEXT_BYTES && text.bytes().all(|b| b.is_ascii_graphic());
        if ![&self.life.machine, &self.life.boot, &self.life.epoch].into_iter().all(|text| short(text)) {
            return Err(HeartbeatError::BadText("identity"));
        }
        if self.alerts.as_ref().is_some_and(|head| !short(&head.journal) || !short(&head.link)) {
            return Err(HeartbeatError::BadText("head of the alerts"));
        }
        Ok(self.facts.check()?)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::agent_key::AgentKey;

    fn heartbeat() -> Heartbeat {
        let facts = r#"{"agent":"a","hostname":"h","os":"linux","arch":"amd64","kernel":"6.1.0","agent_version":"0.1.0"}"#;
        Heartbeat {
            v: VERSION,
            sent: 7,
            live: "ab".repeat(16),
            life: Life { machine: "m".to_owned(), boot: "b".to_owned(), epoch: "e".to_owned(), count: 1 },
            twice: false,
            copied: false,
            reverted: false,
            standing: Vec::new(),
            alerts: Some(AlertHead { journal: "j".to_owned(), seq: 3, link: "l".to_owned() }),
            facts: serde_json::from_str(facts).unwrap(),
        }
    }

    fn sealed(heartbeat: &Heartbeat, key: &AgentKey) -> Vec<u8> {
        let text = serde_json::to_string(heartbeat).unwrap();
        serde_json::to_vec(&key.seal(Purpose::Facts, text).unwrap()).unwrap()
    }

    #[test]
    fn a_heartbeat_counts_for_its_agent_and_key_only() {
        let (key, other) = (AgentKey::generate(), AgentKey::generate());
        let bytes = sealed(&heartbeat(), &key);
        let agent = "a".parse().unwrap();
        assert_eq!(Heartbeat::open(&bytes, &agent, key.public_key()).unwrap(), heartbeat());
        assert!(matches!(
            Heartbeat::open(&bytes, &"b".parse().unwrap(), key.public_key()),
            Err(HeartbeatError::OtherAgent(_))
        ));
        assert!(matches!(Heartbeat::open(&bytes, &agent, other.public_key()), Err(HeartbeatError::Seal(_))));
        for bad in [
            Heartbeat { live: "vigie.>".repeat(4), ..heartbeat() },
            Heartbeat { live: String::new(), ..heartbeat() },
            Heartbeat { v: 2, ..heartbeat() },
            Heartbeat { life: Life { machine: "x".repeat(65), ..Life::default() }, ..heartbeat() },
        ] {
            assert!(Heartbeat::open(&sealed(&bad, &key), &agent, key.public_key()).is_err(), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), text in "\\PC{0,200}") {
            let key = AgentKey::generate();
            let agent = "a".parse().unwrap();
            prop_assert!(Heartbeat::open(&bytes, &agent, key.public_key()).is_err());
            let sealed = serde_json::to_vec(&key.seal(Purpose::Facts, text).unwrap()).unwrap();
            prop_assert!(Heartbeat::open(&sealed, &agent, key.public_key()).is_err());
        }
    }
}
