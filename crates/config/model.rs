//! The agent's configuration as plain values: what every key means, its unit and its default.
//!
//! How files become these values is in [`crate::files`]; who publishes them is
//! the agent's `ConfigLoader`.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use vigie_protocol::control::{ConfigProblem, ModuleKind};
use vigie_protocol::module_name::ModuleName;
use vigie_protocol::names::{AgentId, GroupName};

use crate::builtin::TypedKey;
use crate::sinks::SinkSection;

/// The agent's configuration.
#[derive(Debug, Clone, PartialEq)]
pub struct AgentConfig {
    /// Directories, heartbeat, timeouts.
    pub agent: AgentSection,
    /// Labels of this host, sent to modules.
    pub tags: BTreeMap<String, String>,
    /// Where the agent's log goes.
    pub logging: LoggingSection,
    /// How modules are restarted.
    pub restart: RestartSection,
    /// Bounds on what modules and clients can make the agent use.
    pub limits: LimitsSection,
    /// The alerts on disk.
    pub journal: JournalSection,
    /// Where metrics are shown beside the socket in `run_dir`.
    pub metrics: MetricsSection,
    /// The fleet that this agent belongs to; without it the agent opens no network socket.
    pub fleet: Option<FleetSection>,
    /// Where alerts are sent to.
    pub sinks: Vec<SinkSection>,
    /// Changes to built-in modules, and external modules, in the order of start.
    pub modules: Vec<ModuleSection>,
}

/// `[agent]`
#[derive(Debug, Clone, PartialEq)]
pub struct AgentSection {
    /// Sockets and the lock; created with mode 0700; at most 61 bytes long, because unix(7) limits the paths of
    /// sockets. Default `/run/vigie`, without root `$XDG_RUNTIME_DIR/vigie`.
    pub run_dir: PathBuf,
    /// Journal and modules' state. Default `/var/lib/vigie`, without root `$XDG_STATE_HOME/vigie`.
    pub state_dir: PathBuf,
    /// Where `NAME.cfg` and `NAME.toml` of modules are. Default `modules.d` beside the configuration file; the
    /// file's own directory when that is MIG's `mig-agent.cfg`, as there.
    pub persistconfigdir: PathBuf,
    /// Name of this host as told to modules, 1 to 253 bytes; the kernel's when absent.
    pub hostname: Option<String>,
    /// Users of this group may ask the agent as its own user may, but not change what it does. Default: nobody but
    /// root and the agent's own user may. In force from the next start.
    pub operators_group: Option<String>,
    /// Modules mask in query results what identifies.
    pub extraprivacymode: bool,
    /// Start no persistent module.
    pub nopersistmods: bool,
    /// Longest a query may take, 1 s to 1 h. Default 5 min, MIG's value.
    pub moduletimeout: Duration,
    /// Time between two heartbeats of a module, 10 ms to 1 h. Degraded after one miss. Default 10 s, MIG's
    /// value.
    pub heartbeat_interval: Duration,
    /// Misses after which a module is killed, 1 to 100. Default 3, MIG's 30 s.
    pub heartbeat_misses: u32,
    /// Time that one module has to end after it was told to, before it is killed, 10 ms to 5 min. Default 5 s.
    pub stop_grace: Duration,
    /// Time for all modules to end when the agent stops, 100 ms to 10 min. Default 8 s: operators and service
    /// managers lose patience after 10 s.
    pub stop_budget: Duration,
}

/// `[logging]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoggingSection {
    /// Where lines go.
    pub mode: LogMode,
    /// Least severity that is written.
    pub level: LogLevel,
    /// Form of a line.
    pub format: LogFormat,
    /// The log file where `mode` is `file`. Default `/var/log/vigie/agent.log`, without root
    /// `STATE_DIR/agent.log`.
    pub file: PathBuf,
    /// Size in bytes at which the file is rotated, 64 KiB to 1 TiB.
    pub max_file_bytes: u64,
    /// Rotated files that are kept, 0 to 1000.
    pub keep_files: u32,
    /// Bytes of log that one module may write in a burst before it is slowed to `module_bytes_per_sec`, up to
    /// 1 TiB.
    pub module_burst_bytes: u64,
    /// Bytes of log a second that one module may write for long, up to 1 TiB; beyond it lines are dropped and
    /// counted. 0 means no limit.
    pub module_bytes_per_sec: u64,
}

/// Where the agent's log goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogMode {
    /// Standard error, for a service manager or a person.
    Stderr,
    /// A file that is rotated by size and reopened on SIGHUP.
    File,
    /// The local syslog socket `/dev/log`, RFC 3164.
    Syslog,
}

/// Least severity that is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogLevel {
    /// A promise is broken and someone must act.
    Error,
    /// Unexpected, handled.
    Warning,
    /// A life event that an operator would ask about.
    Info,
    /// Decisions.
    Debug,
}

/// Form of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people: time, level, message, keys.
    Text,
    /// One JSON object a line.
    Json,
    /// Text without a time and with a `<N>` priority in front, as systemd's journal reads it (sd-daemon(3)).
    Journald,
}

/// `[restart]`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RestartSection {
    /// Upper bound of the first delay, 0 to 1 min; every further death doubles it. The delay is drawn evenly
    /// between zero and the bound, so that modules that died together do not start together.
    pub backoff_initial: Duration,
    /// Largest bound of the delay, up to 1 day.
    pub backoff_max: Duration,
    /// Run without a death after which the delay starts over, up to 1 day.
    pub healthy_after: Duration,
    /// Deaths within `breaker_window` that open the breaker (state `failed`), up to 1000; 0 turns it off.
    pub breaker_deaths: u32,
    /// See `breaker_deaths`; 10 ms to 1 day.
    pub breaker_window: Duration,
    /// Time between two attempts of a module whose breaker is open, 10 ms to 1 day.
    pub breaker_retry: Duration,
}

/// `[limits]`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LimitsSection {
    /// Longest line from a module in bytes, 1 KiB to 64 MiB.
    pub line_bytes: usize,
    /// Largest query result in bytes, 1 KiB to 1 GiB.
    pub result_bytes: usize,
    /// Queries that run at once, 1 to 10,000.
    pub running_queries: usize,
    /// Queries that wait for a place, 0 to 100,000; beyond it a query is refused at once.
    pub waiting_queries: usize,
    /// Clients connected to the agent's socket, 16 to 100,000; one that has not asked yet makes room.
    pub clients: usize,
    /// Time that a client has to send its request, 100 ms to 10 min.
    pub client_timeout: Duration,
}

/// `[journal]`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JournalSection {
    /// Size in bytes at which a new segment is begun, 64 KiB to 1 TiB.
    pub segment_bytes: u64,
    /// So many times `segment_bytes` are kept, 2 to 10,000; beyond it the oldest alerts are deleted, the less severe
    /// ones before the others, and of those the ones of the module that takes most room.
    pub keep_segments: u32,
    /// Alerts held in memory, in bytes, while the disk takes none; beyond it modules wait. 64 KiB to 1 GiB.
    pub memory_bytes: usize,
}

/// `[metrics]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MetricsSection {
    /// TCP address of this host's loopback on which metrics are served over HTTP; none by default, because every user
    /// of the host can connect to it.
    pub listen: Option<SocketAddr>,
    /// A file that node_exporter's textfile collector reads; its name ends in `.prom`. None by default.
    pub textfile: Option<PathBuf>,
    /// Time between two writings of `textfile`, 1 s to 1 h.
    pub textfile_interval: Duration,
}

impl Default for MetricsSection {
    fn default() -> Self {
        Self { listen: None, textfile: None, textfile_interval: Duration::from_secs(30) }
    }
}

/// `[fleet]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FleetSection {
    /// Name of the fleet; actions and policies for another one are refused. 1 to 64 letters, digits, - and _.
    pub org: GroupName,
    /// Name of this agent, as it is enrolled.
    pub agent: AgentId,
    /// Brokers, 1 to 16, as `nats://HOST:PORT` or `tls://HOST:PORT`.
    pub urls: Vec<String>,
    /// File with the agent's token for the broker (a NATS user JWT), which its enrolment gave. Default
    /// `STATE_DIR/fleet/agent.jwt`.
    pub credentials: PathBuf,
    /// File with the agent's key, made at the first start. Default `STATE_DIR/fleet/agent.nk`.
    pub key_file: PathBuf,
    /// Certificates of the authorities that broker certificates are checked against; the host's own when absent.
    pub ca: Option<PathBuf>,
    /// The agent's certificate and its key, for brokers that ask for one.
    pub certificate: Option<(PathBuf, PathBuf)>,
    /// Groups that this host is in.
    pub groups: Vec<GroupName>,
    /// Public keys that may sign the policy, 1 to 16, in OpenSSH's form.
    pub roots: Vec<String>,
    /// How many of them must sign it.
    pub root_threshold: u32,
    /// A policy in a file, for hosts that cannot get it from the broker; the newer one counts.
    pub policy_file: Option<PathBuf>,
    /// Actions that run at once, 1 to 64.
    pub running_actions: usize,
    /// Actions that wait for a place, 0 to 10,000; one more is refused.
    pub waiting_actions: usize,
    /// Answers that wait on disk for the broker, in bytes, 1 MiB to 1 TiB; beyond it actions are refused.
    pub answer_bytes: u64,
}

/// `[[module]]`: an external module, or changes to a built-in one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModuleSection {
    /// The module's name.
    pub name: ModuleName,
    /// Persistent or standard; for a built-in module it must agree with what the module is.
    pub kind: ModuleKind,
    /// Whether the module may run.
    pub enabled: bool,
    /// Program and arguments of an external module; absent for a built-in one. The program is an absolute path
    /// and neither it nor its directory is writable by others.
    pub command: Option<Vec<String>>,
    /// User to run as; the agent's own when absent.
    pub user: Option<String>,
    /// Environment added to the small one that every module gets.
    pub env: BTreeMap<String, String>,
    /// When the module is started again.
    pub restart: RestartRule,
    /// Whether it may listen on other TCP addresses than loopback.
    pub allow_remote_tcp: bool,
    /// Directory outside the agent's run directory in which its query socket may be; programs written for MIG
    /// use `/var/lib/mig`.
    pub socket_dir: Option<PathBuf>,
    /// Bounds enforced by the kernel.
    pub limits: ProcessLimits,
    /// Whether its programs may gain privileges when they are started, as with set-user-ID programs; otherwise
    /// `no_new_privs` is set (PR_SET_NO_NEW_PRIVS(2const)).
    pub new_privileges: bool,
    /// Whether it gets the alerts of other modules although it does not register the capability `dispatch`, as MIG's
    /// dispatch modules.
    pub dispatch: bool,
    /// Types of the keys in its own file; empty when nothing is stated and values arrive as they are written.
    pub config_types: Vec<TypedKey>,
}

/// When a persistent module that ended is started again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RestartRule {
    /// Always.
    Permanent,
    /// Unless it exited with 0.
    Transient,
    /// Never.
    Temporary,
}

/// Tasks of a module where its configuration says nothing: enough for a module with a thread for each processor.
const DEFAULT_TASKS: u64 = 512;

/// Memory of a module where its configuration says nothing, in bytes.
const DEFAULT_RESIDENT_BYTES: u64 = 2 << 30;

/// Bounds on a module: of its process as in setrlimit(2), and of all that it starts by its control group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ProcessLimits {
    /// Processes and threads, of all that it starts, 8 to 1,000,000; 0 means no limit.
    pub tasks: Option<u64>,
    /// Memory in use with the page cache, of all that it starts, in bytes, 16 MiB to 1024 TiB; 0 means no limit.
    pub resident_bytes: Option<u64>,
    /// Share of processors in hundredths of one, 1 to 100,000.
    pub cpu_percent: Option<u64>,
    /// Address space in bytes, 1 MiB to 1024 TiB.
    pub memory_bytes: Option<u64>,
    /// Open files, 16 to 1,048,576.
    pub open_files: Option<u64>,
    /// Niceness, 0 to 19.
    pub nice: Option<i32>,
}

impl ProcessLimits {
    /// Most tasks, if they are limited. 512 where nothing is configured.
    #[must_use]
    pub fn tasks(&self) -> Option<u64> {
        Some(self.tasks.unwrap_or(DEFAULT_TASKS)).filter(|tasks| *tasks > 0)
    }

    /// Most memory in bytes, if it is limited. 2 GiB where nothing is configured.
    #[must_use]
    pub fn resident_bytes(&self) -> Option<u64> {
        Some(self.resident_bytes.unwrap_or(DEFAULT_RESIDENT_BYTES)).filter(|bytes| *bytes > 0)
    }
}

impl Default for LoggingSection {
    fn default() -> Self {
        Self {
            mode: LogMode::Stderr,
            level: LogLevel::Info,
            format: LogFormat::Text,
            file: PathBuf::from("/var/log/vigie/agent.log"),
            max_file_bytes: 128 << 20,
            keep_files: 4,
            module_burst_bytes: 256 << 20,
            module_bytes_per_sec: 4 << 20,
        }
    }
}

impl Default for RestartSection {
    fn default() -> Self {
        Self {
            backoff_initial: Duration::from_millis(100),
            backoff_max: Duration::from_secs(300),
            healthy_after: Duration::from_secs(60),
            breaker_deaths: 5,
            breaker_window: Duration::from_secs(60),
            breaker_retry: Duration::from_secs(600),
        }
    }
}

impl Default for LimitsSection {
    fn default() -> Self {
        Self {
            line_bytes: vigie_protocol::message::DEFAULT_MAX_LINE_BYTES,
            result_bytes: vigie_protocol::message::DEFAULT_MAX_RESULT_BYTES,
            running_queries: 64,
            waiting_queries: 4096,
            clients: 4096,
            client_timeout: Duration::from_secs(10),
        }
    }
}

impl Default for JournalSection {
    fn default() -> Self {
        Self { segment_bytes: 64 << 20, keep_segments: 16, memory_bytes: 16 << 20 }
    }
}

/// One module as the agent is to run it: its section merged with what is built in, and its own configuration.
#[derive(Debug, Clone)]
pub struct ModuleSpec {
    /// How to run it.
    pub section: ModuleSection,
    /// Its own configuration.
    pub config: ModuleConfig,
}

impl ModuleSpec {
    /// The module's name.
    #[must_use]
    pub fn name(&self) -> &ModuleName {
        &self.section.name
    }
}

/// A module's own configuration as sent in its `config` message.
#[derive(Debug, Clone)]
pub enum ModuleConfig {
    /// Read and valid, or the module's empty structure when there is no file.
    Good(Box<RawValue>),
    /// The file is invalid and there is no earlier good one: the module is not started.
    Invalid(ConfigProblem),
    /// The file is invalid; the module keeps what it had.
    LastGood {
        /// What the module keeps.
        config: Box<RawValue>,
        /// What is wrong with the file.
        problem: ConfigProblem,
    },
}

impl ModuleConfig {
    /// What to send to the module, if it may be started at all.
    #[must_use]
    pub fn usable(&self) -> Option<&RawValue> {
        match self {
            Self::Good(config) | Self::LastGood { config, .. } => Some(config),
            Self::Invalid(_) => None,
        }
    }

    /// What is wrong with the module's file.
    #[must_use]
    pub fn problem(&self) -> Option<&ConfigProblem> {
        match self {
            Self::Good(_) => None,
            Self::Invalid(problem) | Self::LastGood { problem, .. } => Some(problem),
        }
    }
}

/// A complete, valid configuration, published as one immutable value.
#[derive(Debug, Clone)]
pub struct LoadedConfig {
    /// Counts the configurations that took effect since the agent started, from 1.
    pub generation: u64,
    /// The file it came from; `None` when there is none and the defaults hold.
    pub path: Option<PathBuf>,
    /// The agent's part.
    pub agent: AgentConfig,
    /// Every module that may run, in the order of start.
    pub modules: Vec<ModuleSpec>,
    /// Problems that do not keep the configuration from taking effect, such as a module's invalid file.
    pub warnings: Vec<ConfigProblem>,
    /// What has no effect and is no problem, such as keys of MIG that mean nothing here; named once.
    pub notes: Vec<ConfigProblem>,
    /// Extra privacy mode is on only because it was on before and nothing turned it off explicitly.
    pub privacy_kept: bool,
}
