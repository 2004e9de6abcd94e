//! How the agent, its modules, sinks, journal and queries are: the answer to a status request.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{ConfigProblem, ModuleConfigStatus, ModuleKind};
use crate::condition::StandingCondition;
use crate::module_name::ModuleName;

/// How things are, worst last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Health {
    /// Everything does what it should.
    Healthy,
    /// Something is unexpected and handled; `problems` says what.
    Degraded,
    /// A module does not run, or alerts cannot be stored.
    Failed,
}

/// The agent as a whole.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct AgentStatus {
    /// Version of the agent.
    pub version: String,
    /// The agent's process.
    pub pid: u32,
    /// The host's name as told to modules.
    pub hostname: String,
    /// When the agent started, RFC 3339.
    pub started_at: String,
    /// How long it has been running in seconds.
    pub uptime_secs: u64,
    /// The worst of everything below.
    pub health: Health,
    /// Why `health` is not healthy, one sentence each: `conditions` for people.
    pub problems: Vec<String>,
    /// What is wrong, by name; `vigie explain NAME` says what each means.
    #[serde(default)]
    pub conditions: Vec<StandingCondition>,
    /// The configuration.
    pub config: ConfigStatus,
    /// The modules in the order of start.
    pub modules: Vec<ModuleStatus>,
    /// The alerts on disk.
    pub journal: JournalStatus,
    /// Queries since the agent started.
    pub queries: QueryStatus,
    /// The link to the fleet; absent when the agent belongs to none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fleet: Option<FleetStatus>,
    /// The sinks of alerts, in the order of the configuration.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sinks: Vec<SinkStatus>,
    /// How answers are kept private.
    #[serde(default)]
    pub privacy: PrivacyStatus,
    /// How leftovers of modules are ended: `cgroup` or `session`.
    pub containment: String,
    /// What the agent's own process uses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<ProcessUse>,
}

/// What a process uses, as the kernel counts it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ProcessUse {
    /// Time on processors since the process started, in milliseconds; of a module, with that of its children that ended
    /// and were waited for.
    pub cpu_ms: u64,
    /// Memory in RAM in bytes.
    pub memory_bytes: u64,
    /// Threads.
    pub threads: u64,
    /// Open files; absent where they cannot be counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub open_files: Option<u64>,
    /// Open files that the process may have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub open_files_limit: Option<u64>,
}

/// The link to the fleet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FleetStatus {
    /// Name of the fleet.
    pub org: String,
    /// Name of this agent in it.
    pub agent: String,
    /// The agent's public key, which its enrolment names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// Whether a broker is connected.
    pub connected: bool,
    /// Version of the policy in force; without one every action is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy_version: Option<u64>,
    /// What keeps it from working.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
    /// Conditions of their own names say all of `problem`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub named: bool,
    /// Number of the newest alert that the fleet has with all before it.
    pub alerts_sent: u64,
    /// Alerts that the fleet does not have yet.
    pub alerts_waiting: u64,
    /// Actions that run now.
    pub running: u64,
    /// Actions that wait for a place.
    pub waiting: u64,
    /// Actions since the agent started, by what was decided: `accepted` or why it was refused.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub outcomes: BTreeMap<String, u64>,
}

/// What a sink does.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SinkState {
    /// Everything that it wants is sent; it waits for alerts.
    #[default]
    Idle,
    /// It sends.
    Sending,
    /// The last delivery failed; it is tried again after a wait.
    Waiting,
    /// The receiver takes nothing as the sink is configured; it is asked again after ten minutes.
    Resting,
    /// It is switched off.
    Disabled,
}

/// A sink of alerts. All counts are since the agent started.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SinkStatus {
    /// Its name in the configuration.
    pub name: String,
    /// `file`, `syslog`, `webhook`, `otlp`, `command` or `journald`.
    pub kind: String,
    /// Where it sends to, without anything secret.
    pub target: String,
    /// What it does.
    pub state: SinkState,
    /// Whether the receiver says that it has stored an alert. Otherwise an alert counts as sent when it was written.
    pub acknowledged: bool,
    /// Number of the newest alert that the receiver has with all before it, or that the sink does not want.
    pub position: u64,
    /// Recorded alerts after `position`.
    pub lag: u64,
    /// When the oldest alert was recorded that the receiver does not have, RFC 3339; absent when it is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oldest_unsent: Option<String>,
    /// Alerts that the receiver has, or that were written where it does not acknowledge.
    pub sent: u64,
    /// Of these, alerts that carried the mark of being sent again.
    pub resent: u64,
    /// Of these, alerts that nobody acknowledged.
    pub unacknowledged: u64,
    /// Alerts that the filter left out.
    pub filtered: u64,
    /// Alerts that the journal deleted, or lost, before they were sent.
    pub missed: u64,
    /// Alerts that the receiver refused for good; they are in the dead-letter file.
    pub dead_letters: u64,
    /// Alerts that a collector said it rejected, without saying which.
    pub rejected: u64,
    /// Failed deliveries by reason.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub failures: BTreeMap<String, u64>,
    /// When alerts were delivered last, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_success: Option<String>,
    /// What went wrong last, if nothing was delivered since.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
    /// Time until the next attempt in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_in_ms: Option<u64>,
    /// When the first of the sink's certificates ends: the receiver's or one of its own, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate_expires: Option<String>,
    /// Alerts are masked on their way, because extra privacy mode is on and this sink leaves the host.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub masked: bool,
}

/// What became of a test alert.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SinkTest {
    /// The sink.
    pub name: String,
    /// Whether the receiver acknowledged the test alert, or, where it does not acknowledge, whether it was
    /// written.
    pub ok: bool,
    /// Why not, by a name for programs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What happened, for people.
    pub detail: String,
    /// How long it took.
    pub elapsed_ms: u64,
}

/// The configuration in force and the last attempt to change it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ConfigStatus {
    /// The file; absent when the defaults hold.
    pub path: Option<PathBuf>,
    /// Counts the configurations that took effect, from 1.
    pub generation: u64,
    /// When the last attempt was made, RFC 3339.
    pub last_reload_at: String,
    /// Whether the last attempt took effect.
    pub last_reload_ok: bool,
    /// What was wrong at the last attempt, or is wrong with a module's file.
    pub problems: Vec<ConfigProblem>,
}

/// What a module does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ModuleState {
    /// A standard module, or a persistent one that is switched off.
    Idle,
    /// The process runs and has not answered its first heartbeat.
    Starting,
    /// Heartbeats are answered.
    Running,
    /// A heartbeat was missed, or something else is wrong.
    Degraded,
    /// It was told to end.
    Stopping,
    /// It ended and will be started after a delay.
    Backoff,
    /// It died too often; it is tried again at long intervals, or when an operator restarts it.
    Failed,
    /// It ended and is not to be started again.
    Ended,
}

/// One module.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ModuleStatus {
    /// The module's name.
    pub name: ModuleName,
    /// Persistent or standard.
    pub kind: ModuleKind,
    /// What it does.
    pub state: ModuleState,
    /// Why it is not plainly running.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Its process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// Which life this is, from 1.
    pub incarnation: u64,
    /// How long this life has lasted in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uptime_secs: Option<u64>,
    /// Restarts since the agent started.
    pub restarts: u64,
    /// How the last life ended, such as `exited(1)`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_exit: Option<String>,
    /// Time until the next start in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restart_in_ms: Option<u64>,
    /// The newest configuration that was sent to it, and what it said of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub configuration: Option<ModuleConfigStatus>,
    /// Where it answers queries.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub socket: Option<String>,
    /// Round trip of the newest heartbeat in microseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub heartbeat_us: Option<u64>,
    /// When the newest heartbeat was answered, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub heartbeat_at: Option<String>,
    /// What its process uses, without the processes that it started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<ProcessUse>,
    /// Numbers that it shows of itself, with the newest heartbeat.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub values: BTreeMap<String, u64>,
    /// Messages carried since the agent started.
    pub logs: u64,
    /// See `logs`.
    pub alerts: u64,
    /// Lines that were not carried, by reason.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub dropped: BTreeMap<String, u64>,
}

/// The alerts on disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JournalStatus {
    /// Alerts recorded since the journal was begun.
    pub recorded: u64,
    /// Alerts that came again and were not recorded twice, since the agent started.
    pub duplicates: u64,
    /// Size of all segments in bytes.
    pub bytes: u64,
    /// Alerts that wait in memory for the disk.
    pub pending: u64,
    /// Why alerts cannot be written to disk at present.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Head of the chain of batches: it stands for everything that is recorded.
    #[serde(default)]
    pub head: String,
    /// Alerts that were deleted to make room since the journal was begun, by severity.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub deleted: BTreeMap<String, u64>,
    /// The same by module; what the agent told about a module is under `agent:MODULE`. Versions of before this key
    /// did not count by module.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub deleted_by_module: BTreeMap<String, BTreeMap<String, u64>>,
    /// Alerts recorded since the agent started, by module and severity.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub by_module: BTreeMap<String, BTreeMap<String, u64>>,
    /// Bytes that the segments may take together before the oldest alerts are deleted.
    #[serde(default)]
    pub limit_bytes: u64,
    /// What is wrong with the files; absent when nothing was found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub damage: Option<String>,
    /// Alerts that went since the agent started although they are severe or the fleet does not have them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trimmed: Option<String>,
    /// What the disk does not take at present although the alerts themselves are stored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trouble: Option<String>,
}

/// What a journal is found to be, read from its first byte to its last.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct JournalVerification {
    /// Number of the first alert that is there; 0 when there is none.
    pub first: u64,
    /// Number of the newest alert that was recorded.
    pub last: u64,
    /// Alerts that are there.
    pub alerts: u64,
    /// Batches whose every alert is proved by the chain.
    pub proved_batches: u64,
    /// Batches of which some alerts were deleted to make room; the others are proved as far as they can be.
    pub thinned_batches: u64,
    /// Alerts of versions that wrote no checksums.
    pub unproved_alerts: u64,
    /// Alerts that are missing without having been deleted to make room.
    pub missing: u64,
    /// Pieces that are no lines of a journal.
    pub damaged: u64,
    /// Places where the chain, or the link between two alerts, is broken.
    pub broken: u64,
    /// Alerts that were deleted to make room, by severity.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub deleted: BTreeMap<String, u64>,
    /// The same by module; what the agent told about a module is under `agent:MODULE`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub deleted_by_module: BTreeMap<String, BTreeMap<String, u64>>,
    /// Head of the chain at the end.
    pub head: String,
    /// What is wrong, the first thousand of it.
    pub problems: Vec<String>,
}

impl JournalVerification {
    /// Whether nothing is wrong.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.missing == 0 && self.damaged == 0 && self.broken == 0
    }
}

/// Between two alerts of a stream: alerts are missing, or something is not as it was written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MissingAlerts {
    /// Number of the first alert that is missing.
    pub first: u64,
    /// Number of the last one; less than `first` when none is missing.
    pub last: u64,
    /// How many are missing.
    pub count: u64,
    /// `deleted` to make room, `damaged`, `lost`, or `changed`.
    pub reason: String,
    /// The same as a sentence.
    pub message: String,
}

impl MissingAlerts {
    /// Whether they should be there.
    #[must_use]
    pub fn is_damage(&self) -> bool {
        self.reason != "deleted"
    }
}

/// Queries since the agent started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct QueryStatus {
    /// Running now.
    pub running: u64,
    /// Waiting for a place now.
    pub waiting: u64,
    /// Answered.
    pub answered: u64,
    /// Ended with an error.
    pub failed: u64,
}

/// How answers to queries are kept private.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct PrivacyStatus {
    /// Extra privacy mode is on.
    pub extra: bool,
    /// Modules whose answers the agent cannot check, because it does not know their form: they mask themselves, or
    /// nobody does. Empty when the mode is off.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unchecked: Vec<ModuleName>,
}
