//! What this user has seen of a fleet, so that a broker cannot bring back something older: the newest enrolment of each
//! agent, also one that shut it out, and the version of the policy. Kept for the fleet's root keys, not for its name.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use vigie_files::durable::{self, Durability};
use vigie_fleet::enrolment::Enrolment;
use vigie_fleet::policy::Roots;
use vigie_protocol::names::AgentId;

use crate::print;

/// The file.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Kept {
    policy_version: u64,
    enrolments: Vec<Enrolment>,
}

/// What was seen.
#[derive(Debug)]
pub(crate) struct Pins {
    path: Option<PathBuf>,
    seen: BTreeMap<AgentId, Enrolment>,
    policy_version: u64,
    changed: bool,
}

impl Pins {
    /// Reads what this user has seen of a fleet; nothing when there is no file or it is damaged.
    pub(crate) fn load(org: &str, roots: &Roots) -> Self {
        let path = directory().map(|directory| directory.join(format!("{org}-{}.json", roots.digest())));
        let kept = path
            .as_ref()
            .and_then(|path| fs::read(path).ok())
            .and_then(|bytes| serde_json::from_slice::<Kept>(&bytes).ok())
            .unwrap_or_default();
        let seen = kept.enrolments.into_iter().map(|one| (one.agent.clone(), one)).collect();
        Self { path, seen, policy_version: kept.policy_version, changed: false }
    }

    /// The newest enrolment of an agent that was seen.
    pub(crate) fn known(&self, agent: &AgentId) -> Option<&Enrolment> {
        self.seen.get(agent)
    }

    /// All agents that were seen.
    pub(crate) fn agents(&self) -> impl Iterator<Item = &AgentId> {
        self.seen.keys()
    }

    /// The newest version of the policy that was seen; 0 when none was.
    pub(crate) fn policy_version(&self) -> u64 {
        self.policy_version
    }

    /// Remembers a policy that counts.
    pub(crate) fn pin_policy(&mut self, version: u64) {
        if version > self.policy_version {
            (self.policy_version, self.changed) = (version, true);
        }
    }

    /// Remembers an enrolment that counts.
    pub(crate) fn pin(&mut self, enrolment: &Enrolment) {
        if self.seen.get(&enrolment.agent) != Some(enrolment) {
            self.seen.insert(enrolment.agent.clone(), enrolment.clone());
            self.changed = true;
        }
    }

    /// Writes what was seen, when it is more than before.
    pub(crate) fn store(&self) {
        let (true, Some(path)) = (self.changed, &self.path) else { return };
        let kept =
            Kept { policy_version: self.policy_version, enrolments: self.seen.values().cloned().collect() };
        let write = || {
            durable::make_directory(durable::parent(path))?;
            durable::replace_shared(path, 0o600, &serde_json::to_vec(&kept)?, Durability::Process)
        };
        if let Err(error) = write() {
            print::note(&format!("cannot store the keys of agents in {}: {error}", path.display()));
        }
    }
}

/// `$XDG_STATE_HOME/vigie/fleet`, as the XDG Base Directory Specification says.
fn directory() -> Option<PathBuf> {
    let state = std::env::var_os("XDG_STATE_HOME")
        .map(PathBuf::from)
        .filter(|path| path.is_absolute())
        .or_else(|| std::env::home_dir().map(|home| home.join(".local/state")))?;
    Some(state.join("vigie").join("fleet"))
}
