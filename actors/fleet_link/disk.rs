//! What a membership has on disk: its key, the policy in force, the replay log, answers. Blocking.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use slog::{Logger, warn};
use vigie_files::durable::{self, Durability};
use vigie_fleet::agent_key::{AgentKey, AgentKeyError};
use vigie_fleet::facts::{Facts, FactsError};
use vigie_fleet::host_facts::{self, Identity};
use vigie_fleet::policy::{
    Offered, Packs, Policy, PolicyError, Roots, SignedPolicy, StoredPolicy, accept_newer,
};
use vigie_fleet::replay_log::{ReplayError, ReplayLog};
use vigie_fleet::signature::{KeyError, PublicKey};
use vigie_protocol::names::ActionId;

use super::answer_spool::{AnswerSpool, SpoolError};
use super::identity::Memory;
use super::lives::{self, Begun};
use super::uplink::Hold;
use vigie_config::model::{AgentConfig, FleetSection, LoadedConfig};
use vigie_protocol::error_chain::ErrorChain;

/// Largest policy file that is read, in bytes.
const MAX_POLICY_FILE_BYTES: u64 = 1 << 20;

/// Why the agent cannot belong to its fleet.
#[derive(Debug, thiserror::Error)]
pub(super) enum MembershipError {
    /// A root key cannot be read.
    #[error("fleet.roots: {key:?} is not a public key in OpenSSH format")]
    Root {
        /// The key.
        key: String,
        /// What is wrong.
        #[source]
        source: KeyError,
    },
    /// The root keys cannot be used.
    #[error("fleet.roots cannot be used")]
    Roots(#[source] PolicyError),
    /// The directory for the fleet's files cannot be made.
    #[error("cannot use {path:?}")]
    Directory {
        /// The directory.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// The agent's key cannot be read or made.
    #[error("cannot use the agent's key {path:?}")]
    Key {
        /// Its file.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: AgentKeyError,
    },
    /// The replay log cannot be used; without it nothing may run.
    #[error("cannot use the replay log")]
    Replay(#[source] ReplayError),
    /// Answers cannot be kept.
    #[error("{0}")]
    Spool(#[source] SpoolError),
    /// The host's facts are not such as a fleet takes.
    #[error("cannot publish the facts of this host: correct [tags] or fleet.groups")]
    Facts(#[source] FactsError),
}

/// Where the fleet's files are.
#[derive(Debug, Clone)]
pub(super) struct Places {
    /// `STATE_DIR/fleet`
    pub(super) directory: PathBuf,
}

impl Places {
    /// The places below the agent's state directory.
    #[must_use]
    pub(super) fn of(state_dir: &Path) -> Self {
        Self { directory: state_dir.join("fleet") }
    }

    /// The policy in force.
    #[must_use]
    pub(super) fn policy(&self) -> PathBuf {
        self.directory.join("policy.json")
    }

    /// The standing questions.
    #[must_use]
    pub(super) fn standing(&self) -> PathBuf {
        self.directory.join("standing")
    }

    /// Which of all lives under its name this is.
    #[must_use]
    pub(super) fn lives(&self) -> PathBuf {
        self.directory.join("lives.json")
    }

    /// When it was noticed that an older copy of the files was put back.
    #[must_use]
    pub(super) fn reverted(&self) -> PathBuf {
        self.directory.join("reverted")
    }

    /// How far alerts are sent.
    #[must_use]
    pub(super) fn alert_cursor(&self) -> PathBuf {
        self.directory.join("alerts.cursor")
    }
}

/// What a membership has on disk, opened.
pub(super) struct Opened {
    pub(super) section: FleetSection,
    pub(super) pinned: Roots,
    pub(super) key: Arc<AgentKey>,
    pub(super) facts: Arc<Facts>,
    pub(super) policy: Option<Policy>,
    pub(super) replay: ReplayLog,
    /// Actions that were begun and have no answer: the agent ended while it ran them.
    pub(super) interrupted: Vec<ActionId>,
    /// Actions whose answers are safe, of which the replay log does not say so.
    pub(super) answered: Vec<ActionId>,
    pub(super) begun: Begun,
    pub(super) memory: Memory,
    pub(super) hold: Hold,
    pub(super) spool: Arc<AnswerSpool>,
    pub(super) places: Places,
}

/// The keys that are pinned.
///
/// # Errors
/// When one of them cannot be read, or they cannot be used together.
pub(super) fn pinned_roots(section: &FleetSection) -> Result<Roots, MembershipError> {
    let keys = section
        .roots
        .iter()
        .map(|key| PublicKey::parse(key).map_err(|source| MembershipError::Root { key: key.clone(), source }))
        .collect::<Result<Vec<_>, _>>()?;
    let roots = Roots { keys, threshold: section.root_threshold };
    roots.check().map_err(MembershipError::Roots)?;
    Ok(roots)
}

/// Opens everything. Blocking.
///
/// # Errors
/// When something of it cannot be used.
#[expect(clippy::disallowed_methods, reason = "called on Lane::Fleet")]
pub(super) fn open(
    config: &LoadedConfig,
    section: FleetSection,
    hold: Hold,
    log: &Logger,
) -> Result<Opened, MembershipError> {
    let pinned = pinned_roots(&section)?;
    let places = Places::of(&config.agent.agent.state_dir);
    let directory = |path: &Path, source| MembershipError::Directory { path: path.to_owned(), source };
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&places.directory)
        .map_err(|source| directory(&places.directory, source))?;
    let key = AgentKey::load_or_create(&section.key_file)
        .map_err(|source| MembershipError::Key { path: section.key_file.clone(), source })?;
    let begun = lives::begin(&places.lives()).map_err(|source| directory(&places.lives(), source))?;
    let facts = collect_facts(config, &section)?;
    let policy = stored_policy(&places, &pinned, &section, log);
    let now = jiff::Timestamp::now().as_second();
    let replay =
        ReplayLog::open(&places.directory.join("replay.log"), now).map_err(MembershipError::Replay)?;
    let spool = AnswerSpool::open(&places.directory.join("answers"), section.answer_bytes, hold.clone())
        .map_err(MembershipError::Spool)?;
    let spooled: BTreeSet<ActionId> = spool.answered().into_iter().collect();
    let (answered, interrupted) = replay.unanswered().partition(|id| spooled.contains(id));
    Ok(Opened {
        section,
        pinned,
        key: Arc::new(key),
        facts: Arc::new(facts),
        policy,
        replay,
        interrupted,
        answered,
        begun,
        memory: Memory::stored(&places.reverted(), now, log),
        hold,
        spool: Arc::new(spool),
        places,
    })
}

/// What this host is, as its configuration and the system say.
///
/// # Errors
/// When it is not such as a fleet takes.
pub(super) fn collect_facts(config: &LoadedConfig, section: &FleetSection) -> Result<Facts, MembershipError> {
    let AgentConfig { tags, .. } = &config.agent;
    let modules = config
        .modules
        .iter()
        .filter(|spec| spec.section.enabled)
        .map(|spec| spec.name().to_string())
        .collect();
    host_facts::collect(Identity {
        agent: section.agent.clone(),
        agent_version: env!("CARGO_PKG_VERSION").to_owned(),
        tags: tags.clone(),
        groups: section.groups.clone(),
        modules,
    })
    .map_err(MembershipError::Facts)
}

/// What the policy on disk has for modules, if the keys that are pinned now and the name of the fleet let it count.
/// Blocking.
pub(super) fn stored_packs(state_dir: &Path, section: &FleetSection, log: &Logger) -> Packs {
    let policy = pinned_roots(section)
        .ok()
        .and_then(|pinned| stored_policy(&Places::of(state_dir), &pinned, section, log));
    policy.map(|policy| policy.document().packs.clone()).unwrap_or_default()
}

/// The newest valid one of the policy that was in force and the one in the configured file.
fn stored_policy(places: &Places, pinned: &Roots, section: &FleetSection, log: &Logger) -> Option<Policy> {
    let org = section.org.as_str();
    let mut policy = None;
    let path = places.policy();
    if let Ok(bytes) = read_bounded(&path) {
        match StoredPolicy::from_json(&bytes).and_then(|stored| stored.restore(pinned, org)) {
            Ok(restored) => policy = Some(restored),
            Err(error) => {
                warn!(log, "stored policy rejected"; "path" => ?path,
                    "error" => %ErrorChain(&error));
            }
        }
    }
    if let Some(file) = &section.policy_file {
        match policy_from_file(file, policy.as_ref(), pinned, org) {
            Ok(Some(newer)) => policy = Some(newer),
            Ok(None) => {}
            Err(error) => {
                warn!(log, "policy in fleet.policy_file rejected"; "path" => ?file, "error" => error)
            }
        }
    }
    policy
}

fn policy_from_file(
    file: &Path,
    current: Option<&Policy>,
    pinned: &Roots,
    org: &str,
) -> Result<Option<Policy>, String> {
    let bytes = read_bounded(file).map_err(|error| error.to_string())?;
    let offered =
        SignedPolicy::from_json(&bytes).and_then(|signed| accept_newer(current, pinned, org, &signed));
    match offered {
        Ok(Offered::Newer(policy)) => Ok(Some(*policy)),
        // The broker has had a newer one than the file for long.
        Ok(Offered::Same) | Err(PolicyError::Older { .. }) => Ok(None),
        Err(error) => Err(ErrorChain(&error).to_string()),
    }
}

#[expect(clippy::disallowed_methods, reason = "called on Lane::Fleet")]
pub(super) fn read_bounded(path: &Path) -> io::Result<Vec<u8>> {
    use std::io::Read as _;
    let mut bytes = Vec::new();
    fs::File::open(path)?.take(MAX_POLICY_FILE_BYTES).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Keeps the policy that is in force from now on, so that a restart cannot take the host back to an older one.
/// Blocking.
///
/// # Errors
/// When it cannot be written to disk.
pub(super) fn store_policy(places: &Places, stored: &StoredPolicy) -> io::Result<()> {
    replace(&places.policy(), &serde_json::to_vec(stored)?)
}

/// Writes a file anew, mode 0600; at no moment is there half of it, and it survives a power loss. Blocking.
///
/// # Errors
/// When it cannot be written to disk.
pub(super) fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    durable::replace(path, bytes, Durability::Power)
}
