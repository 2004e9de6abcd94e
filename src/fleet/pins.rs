//! The newest enrolment of each agent that this user has seen: a broker cannot bring back an older key.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::PathBuf;

use vigie_fleet::enrolment::Enrolment;
use vigie_protocol::names::AgentId;

use crate::print;

/// What was seen.
#[derive(Debug)]
pub(crate) struct Pins {
    path: Option<PathBuf>,
    seen: BTreeMap<AgentId, Enrolment>,
    changed: bool,
}

impl Pins {
    /// Reads what this user has seen of a fleet; nothing when there is no file or it is damaged.
    pub(crate) fn load(org: &str) -> Self {
        let path = directory().map(|directory| directory.join(format!("{org}.keys.json")));
        let seen = path
            .as_ref()
            .and_then(|path| fs::read(path).ok())
            .and_then(|bytes| serde_json::from_slice::<Vec<Enrolment>>(&bytes).ok())
            .unwrap_or_default()
            .into_iter()
            .map(|enrolment| (enrolment.agent.clone(), enrolment))
            .collect();
        Self { path, seen, changed: false }
    }

    /// The newest enrolment of an agent that was seen.
    pub(crate) fn known(&self, agent: &AgentId) -> Option<&Enrolment> {
        self.seen.get(agent)
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
        let write = || {
            if let Some(directory) = path.parent() {
                fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
            }
            let new = path.with_extension("new");
            let mut file =
                OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(&new)?;
            file.write_all(&serde_json::to_vec(&self.seen.values().collect::<Vec<_>>())?)?;
            fs::rename(new, path)
        };
        if let Err(error) = write() {
            print::note(&format!("cannot remember the keys of agents in {}: {error}", path.display()));
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
