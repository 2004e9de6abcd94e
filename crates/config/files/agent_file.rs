//! The agent's own file: from the value tree to [`AgentConfig`], with every range checked.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use config::{Map, Value};

use super::fleet_section;
use super::origin::cut;
use super::places::Places;
use super::reader::{Problems, Table, unknown};
use super::sink_section;
use crate::builtin::{BuiltinModule, KeyType, TypedKey, find};
use crate::model::{
    AgentConfig, AgentSection, JournalSection, LimitsSection, LogFormat, LogLevel, LogMode, LoggingSection,
    MetricsSection, ModuleSection, ProcessLimits, RestartRule, RestartSection,
};
use vigie_protocol::control::ModuleKind;
use vigie_protocol::module_name::ModuleName;

/// Longest path of a unix socket in bytes: `sun_path` of unix(7) without its NUL.
const MAX_SOCKET_PATH_BYTES: usize = 107;

/// What comes after `run_dir` in the longest socket path: `/persist-NAME.sock` with 32 letters.
const SOCKET_NAME_BYTES: usize = "/persist-.sock".len() + 32;

/// Environment variables that the agent itself sets for a module.
const RESERVED_VARIABLES: [&str; 2] =
    [vigie_protocol::message::RUN_DIR_VARIABLE, vigie_protocol::message::STATE_DIR_VARIABLE];

const MILLISECOND: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(86_400);
const KIB: u64 = 1 << 10;
const GIB: u64 = 1 << 30;
const TIB: u64 = 1 << 40;

/// What the values depend on besides the file.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Context<'a> {
    /// Where things are by default.
    pub(crate) places: &'a Places,
    /// Default of `persistconfigdir`.
    pub(crate) persistconfigdir: &'a Path,
    /// The modules that are built in.
    pub(crate) builtins: &'a [BuiltinModule],
}

/// Reads the whole file; where something is wrong the default stands in and `problems` has an entry.
pub(crate) fn read_agent(
    root: Map<String, Value>,
    context: Context<'_>,
    problems: &mut Problems,
    warnings: &mut Problems,
) -> AgentConfig {
    let mut root = Table::new("", None, root);
    let agent = agent_section(root.table(problems, "agent"), context, problems, warnings);
    let config = AgentConfig {
        tags: tags(root.table(problems, "tags"), problems),
        logging: logging_section(root.table(problems, "logging"), context.places, &agent, problems),
        restart: restart_section(root.table(problems, "restart"), problems),
        limits: limits_section(root.table(problems, "limits"), problems),
        journal: journal_section(root.table(problems, "journal"), problems),
        metrics: metrics_section(root.table(problems, "metrics"), problems),
        fleet: root
            .optional_table(problems, "fleet")
            .and_then(|table| fleet_section::read(table, &agent.state_dir, problems)),
        sinks: sink_section::read_all(root.tables(problems, "sink"), problems, warnings),
        modules: modules(root.tables(problems, "module"), context, problems, warnings),
        agent,
    };
    root.finish(problems);
    config
}

/// Names that a module cannot have: the agent's alerts carry the first, the others are commands of the program.
pub const RESERVED_NAMES: [&str; 23] = [
    "agent",
    "vigie",
    "alerts",
    "check-config",
    "completions",
    "config",
    "console",
    "diagnostics",
    "doctor",
    "explain",
    "fleet",
    "guard",
    "help",
    "launch",
    "man",
    "metrics",
    "module",
    "query",
    "reload",
    "rules",
    "sink",
    "status",
    "top",
];

fn agent_section(
    mut table: Table,
    context: Context<'_>,
    problems: &mut Problems,
    warnings: &mut Problems,
) -> AgentSection {
    let table = &mut table;
    let section = AgentSection {
        run_dir: table.path(problems, "run_dir").unwrap_or_else(|| context.places.run_dir.clone()),
        state_dir: table.path(problems, "state_dir").unwrap_or_else(|| context.places.state_dir.clone()),
        persistconfigdir: table
            .path(problems, "persistconfigdir")
            .unwrap_or_else(|| context.persistconfigdir.to_owned()),
        hostname: table.text(problems, "hostname"),
        operators_group: table.text(problems, "operators_group"),
        extraprivacymode: table.boolean(problems, "extraprivacymode", false),
        nopersistmods: table.boolean(problems, "nopersistmods", false),
        moduletimeout: table.duration(problems, "moduletimeout", 300 * SECOND, SECOND..=HOUR),
        heartbeat_interval: table.duration(
            problems,
            "heartbeat_interval",
            10 * SECOND,
            10 * MILLISECOND..=HOUR,
        ),
        heartbeat_misses: table
            .integer(problems, "heartbeat_misses", 1..=100)
            .map_or(3, |misses| u32::try_from(misses).unwrap_or(u32::MAX)),
        stop_grace: table.duration(problems, "stop_grace", 5 * SECOND, 10 * MILLISECOND..=5 * MINUTE),
        stop_budget: table.duration(problems, "stop_budget", 8 * SECOND, 100 * MILLISECOND..=10 * MINUTE),
    };

    if section.hostname.as_ref().is_some_and(|name| name.is_empty() || name.len() > 253) {
        table.complain(problems, "hostname", "a host name has 1 to 253 bytes");
    }
    if section.operators_group.as_ref().is_some_and(|name| name.is_empty() || name.len() > 32) {
        table.complain(problems, "operators_group", "a group name has 1 to 32 bytes");
    }
    let longest = section.run_dir.as_os_str().len() + SOCKET_NAME_BYTES;
    if longest > MAX_SOCKET_PATH_BYTES {
        let message = format!(
            "{:?} is too long: socket paths in it would have up to {longest} bytes, but the kernel permits {MAX_SOCKET_PATH_BYTES}; choose a directory of at most {} bytes",
            section.run_dir,
            MAX_SOCKET_PATH_BYTES - SOCKET_NAME_BYTES
        );
        table.complain(problems, "run_dir", message);
    }
    if section.stop_grace > section.stop_budget {
        let message = "must not be longer than stop_budget, the limit for all modules together";
        table.complain(warnings, "stop_grace", message);
    }
    std::mem::replace(table, Table::new("", None, Map::new())).finish(problems);
    section
}

fn tags(table: Table, problems: &mut Problems) -> BTreeMap<String, String> {
    let mut tags = BTreeMap::new();
    for (name, value, line) in table.into_texts(problems) {
        let key = format!("tags.{}", cut(&name));
        if let Some(message) = tag_problem(&name, &value) {
            problems.add(line, key, message);
        }
        tags.insert(name, value);
    }
    tags
}

/// Says what is wrong with a tag. Tags are matched by fleet targets and become part of log lines.
#[must_use]
pub fn tag_problem(name: &str, value: &str) -> Option<&'static str> {
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if !(1..=64).contains(&name.len()) || !name.chars().all(good) {
        Some("a tag's name has 1 to 64 letters, digits, -, _ and .")
    } else if value.len() > 1024 {
        Some("a tag's value has at most 1024 bytes")
    } else {
        None
    }
}

fn logging_section(
    mut table: Table,
    places: &Places,
    agent: &AgentSection,
    problems: &mut Problems,
) -> LoggingSection {
    let default = LoggingSection::default();
    let modes = [("stderr", LogMode::Stderr), ("file", LogMode::File), ("syslog", LogMode::Syslog)];
    let levels = [
        ("error", LogLevel::Error),
        ("warning", LogLevel::Warning),
        ("info", LogLevel::Info),
        ("debug", LogLevel::Debug),
    ];
    let formats = [("text", LogFormat::Text), ("json", LogFormat::Json), ("journald", LogFormat::Journald)];
    let section = LoggingSection {
        mode: table.choice(problems, "mode", &modes).unwrap_or(default.mode),
        level: table.choice(problems, "level", &levels).unwrap_or(default.level),
        format: table.choice(problems, "format", &formats).unwrap_or(default.format),
        file: table
            .path(problems, "file")
            .or_else(|| places.log_file.clone())
            .unwrap_or_else(|| agent.state_dir.join("agent.log")),
        max_file_bytes: table
            .bytes(problems, "max_file_bytes", 64 * KIB..=TIB)
            .unwrap_or(default.max_file_bytes),
        keep_files: number(table.integer(problems, "keep_files", 0..=1000), default.keep_files),
        module_burst_bytes: table
            .bytes(problems, "module_burst_bytes", 0..=TIB)
            .unwrap_or(default.module_burst_bytes),
        module_bytes_per_sec: table
            .bytes(problems, "module_bytes_per_sec", 0..=TIB)
            .unwrap_or(default.module_bytes_per_sec),
    };
    table.finish(problems);
    section
}

fn restart_section(mut table: Table, problems: &mut Problems) -> RestartSection {
    let default = RestartSection::default();
    let section = RestartSection {
        backoff_initial: table.duration(
            problems,
            "backoff_initial",
            default.backoff_initial,
            Duration::ZERO..=MINUTE,
        ),
        backoff_max: table.duration(problems, "backoff_max", default.backoff_max, Duration::ZERO..=DAY),
        healthy_after: table.duration(problems, "healthy_after", default.healthy_after, Duration::ZERO..=DAY),
        breaker_deaths: number(table.integer(problems, "breaker_deaths", 0..=1000), default.breaker_deaths),
        breaker_window: table.duration(
            problems,
            "breaker_window",
            default.breaker_window,
            10 * MILLISECOND..=DAY,
        ),
        breaker_retry: table.duration(
            problems,
            "breaker_retry",
            default.breaker_retry,
            10 * MILLISECOND..=DAY,
        ),
    };
    if section.backoff_initial > section.backoff_max {
        table.complain(problems, "backoff_initial", "must not be longer than backoff_max");
    }
    table.finish(problems);
    section
}

fn limits_section(mut table: Table, problems: &mut Problems) -> LimitsSection {
    let default = LimitsSection::default();
    let section = LimitsSection {
        line_bytes: number(table.bytes(problems, "line_bytes", KIB..=64 << 20), default.line_bytes),
        result_bytes: number(table.bytes(problems, "result_bytes", KIB..=GIB), default.result_bytes),
        running_queries: number(
            table.integer(problems, "running_queries", 1..=10_000),
            default.running_queries,
        ),
        waiting_queries: number(
            table.integer(problems, "waiting_queries", 0..=100_000),
            default.waiting_queries,
        ),
        clients: number(table.integer(problems, "clients", 16..=100_000), default.clients),
        client_timeout: table.duration(
            problems,
            "client_timeout",
            default.client_timeout,
            100 * MILLISECOND..=10 * MINUTE,
        ),
    };
    table.finish(problems);
    section
}

fn journal_section(mut table: Table, problems: &mut Problems) -> JournalSection {
    let default = JournalSection::default();
    let section = JournalSection {
        segment_bytes: table
            .bytes(problems, "segment_bytes", 64 * KIB..=TIB)
            .unwrap_or(default.segment_bytes),
        keep_segments: number(table.integer(problems, "keep_segments", 2..=10_000), default.keep_segments),
        memory_bytes: number(table.bytes(problems, "memory_bytes", 64 * KIB..=GIB), default.memory_bytes),
    };
    table.finish(problems);
    section
}

fn metrics_section(mut table: Table, problems: &mut Problems) -> MetricsSection {
    let default = MetricsSection::default();
    let listen = table.text(problems, "listen").and_then(|text| {
        let address = text.parse::<SocketAddr>().ok().filter(|address| address.ip().is_loopback());
        if address.is_none() {
            let message = format!(
                "{:?} is not a loopback address such as \"127.0.0.1:9469\" or \"[::1]:9469\"; use a TLS proxy to serve other hosts",
                cut(&text)
            );
            table.complain(problems, "listen", message);
        }
        address
    });
    let textfile = table.path(problems, "textfile");
    if textfile.as_ref().is_some_and(|path| path.extension().is_none_or(|ending| ending != "prom")) {
        table.complain(problems, "textfile", "must end in .prom: node_exporter reads no other files");
    }
    let textfile_interval =
        table.duration(problems, "textfile_interval", default.textfile_interval, SECOND..=HOUR);
    table.finish(problems);
    MetricsSection { listen, textfile, textfile_interval }
}

/// A number whose range has been checked, in the type of its default.
pub(crate) fn number<T: TryFrom<u64>>(number: Option<u64>, default: T) -> T {
    number.and_then(|number| T::try_from(number).ok()).unwrap_or(default)
}

fn modules(
    tables: Vec<Table>,
    context: Context<'_>,
    problems: &mut Problems,
    warnings: &mut Problems,
) -> Vec<ModuleSection> {
    let mut seen = BTreeSet::new();
    let mut sections = Vec::new();
    for table in tables {
        let line = table.line;
        let Some(section) = module_section(table, context, problems, warnings) else { continue };
        if !seen.insert(section.name.clone()) {
            let message = format!("duplicate [[module]] with the name {}", section.name);
            problems.add(line, "module.name", message);
        }
        sections.push(section);
    }
    sections
}

/// MIG's module that hands alerts on; it cannot say so itself.
const MIG_DISPATCH: &str = "dispatch";

fn module_section(
    mut table: Table,
    context: Context<'_>,
    problems: &mut Problems,
    warnings: &mut Problems,
) -> Option<ModuleSection> {
    let Some(text) = table.text(problems, "name") else {
        if table.line_of("name") == table.line {
            table.complain(problems, "name", "is missing: every [[module]] needs one");
        }
        return None;
    };
    let name = match text.parse::<ModuleName>() {
        Ok(name) => name,
        Err(error) => {
            table.complain(problems, "name", error.to_string());
            return None;
        }
    };
    if RESERVED_NAMES.contains(&name.as_str()) {
        table.complain(problems, "name", format!("{name} is reserved; choose another name"));
        return None;
    }
    table.path = format!("module.{name}");

    let builtin = find(context.builtins, name.as_str());
    let kinds = [("persistent", ModuleKind::Persistent), ("standard", ModuleKind::Standard)];
    let kind = table.choice(problems, "kind", &kinds);
    if let (Some(kind), Some(builtin)) = (kind, builtin)
        && kind != builtin.kind
    {
        let message = format!("the built-in module {name} is {}", kind_word(builtin.kind));
        table.complain(problems, "kind", message);
    }
    let rules = [
        ("permanent", RestartRule::Permanent),
        ("transient", RestartRule::Transient),
        ("temporary", RestartRule::Temporary),
    ];
    let section = ModuleSection {
        kind: kind.or(builtin.map(|builtin| builtin.kind)).unwrap_or(ModuleKind::Persistent),
        enabled: table.boolean(problems, "enabled", true),
        command: table.texts(problems, "command"),
        user: table.text(problems, "user"),
        env: env(table.table(problems, "env"), problems),
        restart: table.choice(problems, "restart", &rules).unwrap_or(RestartRule::Permanent),
        allow_remote_tcp: table.boolean(problems, "allow_remote_tcp", false),
        socket_dir: table.path(problems, "socket_dir"),
        limits: process_limits(table.table(problems, "limits"), problems),
        new_privileges: table.boolean(problems, "new_privileges", false),
        dispatch: table.boolean(problems, "dispatch", name.as_str() == MIG_DISPATCH && builtin.is_none()),
        config_types: config_types(table.table(problems, "config_types"), problems),
        name,
    };

    match &section.command {
        Some(command) => check_command(command, &table, problems, warnings),
        // A command of the wrong type has its own problem already.
        None if builtin.is_none() && table.line_of("command") == table.line => {
            let known = context.builtins.iter().map(|builtin| builtin.name);
            let unknown = unknown("built-in module", section.name.as_str(), known);
            let message = format!("is missing: an external module needs one ({unknown})");
            table.complain(problems, "command", message);
        }
        None => {}
    }
    if builtin.is_some() && !section.config_types.is_empty() {
        let message = "has no effect: the types of a built-in module's keys are fixed";
        table.complain(warnings, "config_types", message);
    }
    if let Some(user) = &section.user
        && matches!(nix::unistd::User::from_name(user), Ok(None))
    {
        let message =
            format!("the user {:?} does not exist on this host; the module cannot start", cut(user));
        table.complain(warnings, "user", message);
    }
    table.finish(problems);
    Some(section)
}

fn kind_word(kind: ModuleKind) -> &'static str {
    match kind {
        ModuleKind::Persistent => "persistent",
        ModuleKind::Standard => "standard",
    }
}

fn env(table: Table, problems: &mut Problems) -> BTreeMap<String, String> {
    let path = table.path.clone();
    let mut env = BTreeMap::new();
    for (name, value, line) in table.into_texts(problems) {
        let good = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
            && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
        let key = format!("{path}.{}", cut(&name));
        if !good {
            let message = "a variable's name has letters, digits and _, and does not start with a digit";
            problems.add(line, key, message);
        } else if RESERVED_VARIABLES.contains(&name.as_str()) {
            problems.add(line, key, "is set by the agent itself");
        }
        env.insert(name, value);
    }
    env
}

/// Words for the types of a module's keys.
const KEY_TYPES: [(&str, KeyType); 4] = [
    ("text", KeyType::String),
    ("texts", KeyType::Strings),
    ("integer", KeyType::Integer),
    ("boolean", KeyType::Boolean),
];

/// Types of the keys in a module's own file, by `SECTION.KEY`.
fn config_types(table: Table, problems: &mut Problems) -> Vec<TypedKey> {
    let path = table.path.clone();
    let mut types: Vec<TypedKey> = Vec::new();
    for (name, word, line) in table.into_texts(problems) {
        let place = format!("{path}.{}", cut(&name));
        let kind = KEY_TYPES.iter().find(|(known, _)| *known == word).map(|(_, kind)| *kind);
        match (name.split_once('.'), kind) {
            (Some((section, key)), Some(kind)) if !section.is_empty() && !key.is_empty() => {
                let is_same = |one: &TypedKey| {
                    one.section.eq_ignore_ascii_case(section) && one.key.eq_ignore_ascii_case(key)
                };
                if types.iter().any(is_same) {
                    problems.add(line, place, "is a duplicate: names are case-insensitive");
                }
                types.push(TypedKey { section: section.to_owned(), key: key.to_owned(), kind });
            }
            (Some(_), None) => {
                let words: Vec<_> = KEY_TYPES.iter().map(|(word, _)| format!("{word:?}")).collect();
                problems.add(line, place, format!("{:?} is not one of {}", cut(&word), words.join(", ")));
            }
            _ => problems.add(line, place, "is written \"SECTION.KEY\", in quotes"),
        }
    }
    types
}

fn process_limits(mut table: Table, problems: &mut Problems) -> ProcessLimits {
    let tasks = table.integer(problems, "tasks", 0..=1_000_000);
    if tasks.is_some_and(|tasks| (1..8).contains(&tasks)) {
        table.complain(problems, "tasks", "must be 0, for no limit, or at least 8");
    }
    let resident_bytes = table.bytes(problems, "resident_bytes", 0..=1 << 50);
    if resident_bytes.is_some_and(|bytes| (1..16 << 20).contains(&bytes)) {
        table.complain(problems, "resident_bytes", "must be 0, for no limit, or at least 16 MiB");
    }
    let limits = ProcessLimits {
        tasks,
        resident_bytes,
        cpu_percent: table.integer(problems, "cpu_percent", 1..=100_000),
        memory_bytes: table.bytes(problems, "memory_bytes", 1 << 20..=1 << 50),
        open_files: table.integer(problems, "open_files", 16..=1 << 20),
        nice: table.integer(problems, "nice", 0..=19).and_then(|nice| i32::try_from(nice).ok()),
    };
    table.finish(problems);
    limits
}

/// Refuses a program that other users could replace by theirs: it would run with the agent's rights.
pub(super) fn check_command(
    command: &[String],
    table: &Table,
    problems: &mut Problems,
    warnings: &mut Problems,
) {
    let Some(program) = command.first() else {
        table.complain(problems, "command", "is empty: the first text is the program's absolute path");
        return;
    };
    let path = PathBuf::from(program);
    if !path.is_absolute() {
        let message = format!("the program {:?} is not an absolute path", cut(program));
        table.complain(problems, "command", message);
        return;
    }
    match std::fs::metadata(&path) {
        Ok(data) if !data.is_file() || data.mode() & 0o111 == 0 => {
            let message = format!("{:?} is not an executable file; the module cannot start", cut(program));
            table.complain(warnings, "command", message);
        }
        Ok(_) => {}
        Err(error) => {
            let message = format!("{:?} cannot be examined: {error}; the module cannot start", cut(program));
            table.complain(warnings, "command", message);
        }
    }
    if let Some(problem) = super::text::owned_by_another(&path) {
        table.complain(warnings, "command", format!("{:?} {}", cut(program), problem.message));
    }
    if let Some(problem) = super::text::writable_by_others(&path) {
        table.complain(problems, "command", format!("{:?}: {}", cut(program), problem.message));
    }
}
