//! The metrics there are: the one list of their names, kinds and helps.

/// What a value does over time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Goes up and down.
    Gauge,
    /// Only goes up, until the process that counts starts again.
    Counter,
}

/// One metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Family {
    /// Its name, with `_total` for a counter.
    pub name: &'static str,
    /// Its kind.
    pub kind: Kind,
    /// What it says.
    pub help: &'static str,
}

macro_rules! families {
    ($($constant:ident = $name:literal, $kind:ident, $help:literal;)+) => {
        $(pub(crate) const $constant: Family =
            Family { name: concat!("vigie_", $name), kind: Kind::$kind, help: $help };)+

        /// All metrics, in the order in which they are written.
        pub const FAMILIES: &[Family] = &[$($constant),+];
    };
}

families! {
    BUILD_INFO = "build_info", Gauge, "Version of the agent; always 1.";
    START_TIME = "start_time_seconds", Gauge, "Start time of the agent, in seconds since 1970.";
    HEALTH = "health", Gauge, "Health of the agent: 0 healthy, 1 degraded, 2 failed.";
    CONDITION = "condition", Gauge, "1 for each present condition; vigie explain describes its name.";
    CONDITION_SINCE = "condition_since_timestamp_seconds", Gauge, "Time when a condition was raised.";
    PROCESS_CPU = "process_cpu_seconds_total", Counter, "CPU time of the agent's process.";
    PROCESS_MEMORY = "process_resident_memory_bytes", Gauge, "Resident memory of the agent's process.";
    PROCESS_THREADS = "process_threads", Gauge, "Threads of the agent's process.";
    PROCESS_FDS = "process_open_fds", Gauge, "Open file descriptors of the agent's process.";
    PROCESS_MAX_FDS = "process_max_fds", Gauge, "Limit of open file descriptors of the agent's process.";
    CONFIG_GENERATION = "config_generation", Gauge, "Number of configurations that took effect since the agent started.";
    CONFIG_OK = "config_last_reload_successful", Gauge, "Whether the newest configuration took effect.";
    CONFIG_AT = "config_last_reload_timestamp_seconds", Gauge, "Time when the configuration was last read.";
    MODULE_STATE = "module_state", Gauge, "1 for the present state of a module, 0 for the others.";
    MODULE_UPTIME = "module_uptime_seconds", Gauge, "Time since a module's process started.";
    MODULE_RESTARTS = "module_restarts_total", Counter, "Restarts of a module.";
    MODULE_RTT = "module_heartbeat_rtt_seconds", Gauge, "Round-trip time of a module's newest heartbeat.";
    MODULE_HEARTBEAT = "module_last_heartbeat_timestamp_seconds", Gauge, "Time when a module last answered a heartbeat.";
    MODULE_CPU = "module_cpu_seconds_total", Counter, "CPU time of a module's process.";
    MODULE_MEMORY = "module_memory_bytes", Gauge, "Resident memory of a module's process.";
    MODULE_THREADS = "module_threads", Gauge, "Threads of a module's process.";
    MODULE_FDS = "module_open_fds", Gauge, "Open file descriptors of a module's process.";
    MODULE_VALUE = "module_value", Gauge, "A number reported by a module; its name ends in the unit.";
    MODULE_LOGS = "module_log_lines_total", Counter, "Lines that a module logged.";
    MODULE_DROPPED = "module_lines_dropped_total", Counter, "Dropped lines of a module, by reason.";
    MODULE_CONFIG = "module_config_in_force", Gauge, "Whether a module confirmed its newest configuration.";
    MODULE_GENERATION = "module_config_generation", Gauge, "Generation of the newest configuration sent to a module.";
    ALERTS = "alerts_total", Counter, "Alerts recorded since the agent started.";
    JOURNAL_SIZE = "journal_size_bytes", Gauge, "Size of the alert journal.";
    JOURNAL_LIMIT = "journal_limit_bytes", Gauge, "Size at which retention deletes alerts.";
    JOURNAL_SEQ = "journal_last_seq", Gauge, "Number of the newest recorded alert.";
    JOURNAL_UNSYNCED = "journal_unsynced_alerts", Gauge, "Alerts in memory that are not on disk yet.";
    JOURNAL_DUPLICATES = "journal_duplicates_total", Counter, "Repeated alerts that were not recorded again.";
    JOURNAL_DELETED = "journal_deleted_total", Counter, "Alerts deleted by retention since the journal was created.";
    JOURNAL_WRITABLE = "journal_writable", Gauge, "Whether alerts can be written to disk.";
    JOURNAL_WHOLE = "journal_whole", Gauge, "Whether the journal is undamaged.";
    SINK_STATE = "sink_state", Gauge, "1 for the present state of a sink, 0 for the others.";
    SINK_LAG = "sink_lag_records", Gauge, "Recorded alerts that a sink has not processed.";
    SINK_OLDEST = "sink_oldest_unsent_timestamp_seconds", Gauge, "Time when the oldest alert that the receiver lacks was recorded.";
    SINK_SENT = "sink_sent_total", Counter, "Alerts that a sink delivered.";
    SINK_RESENT = "sink_resent_total", Counter, "Alerts that a sink delivered marked as resent.";
    SINK_UNACKNOWLEDGED = "sink_unacknowledged_total", Counter, "Alerts that a sink sent without acknowledgement.";
    SINK_FILTERED = "sink_filtered_total", Counter, "Alerts excluded by the filter of a sink.";
    SINK_MISSED = "sink_missed_total", Counter, "Alerts that the journal deleted before a sink sent them.";
    SINK_DEAD = "sink_dead_letters_total", Counter, "Alerts that a receiver rejected permanently.";
    SINK_REJECTED = "sink_rejected_total", Counter, "Alerts that a collector rejected without identifying them.";
    SINK_FAILURES = "sink_failures_total", Counter, "Failed deliveries of a sink, by reason.";
    SINK_SUCCESS = "sink_last_success_timestamp_seconds", Gauge, "Time of a sink's last successful delivery.";
    SINK_CERTIFICATE = "sink_certificate_expiry_timestamp_seconds", Gauge, "Time when the first of a sink's TLS certificates expires.";
    QUERIES = "queries_total", Counter, "Queries since the agent started, by result.";
    QUERIES_RUNNING = "queries_running", Gauge, "Running queries.";
    QUERIES_WAITING = "queries_waiting", Gauge, "Waiting queries.";
    PRIVACY = "privacy_extra", Gauge, "Whether extra privacy mode is on.";
    PRIVACY_UNCHECKED = "privacy_unchecked_modules", Gauge, "Modules whose masking the agent cannot check.";
    FLEET_CONNECTED = "fleet_connected", Gauge, "Whether the agent is connected to a broker of the fleet.";
    FLEET_POLICY = "fleet_policy_version", Gauge, "Version of the current fleet policy; absent without one.";
    FLEET_SENT = "fleet_alerts_sent_seq", Gauge, "Number of the newest alert up to which the fleet has all alerts.";
    FLEET_WAITING = "fleet_alerts_waiting", Gauge, "Alerts that the fleet does not have yet.";
    FLEET_RUNNING = "fleet_actions_running", Gauge, "Running fleet actions.";
    FLEET_QUEUED = "fleet_actions_waiting", Gauge, "Waiting fleet actions.";
    FLEET_ACTIONS = "fleet_actions_total", Counter, "Fleet actions, by decision.";
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What promtool takes for a unit that should be spelled out, or for a base unit that is not one.
    const ABBREVIATED: [&str; 13] =
        ["ms", "us", "ns", "s", "b", "kb", "mb", "gb", "min", "milliseconds", "minutes", "hours", "percent"];

    #[test]
    fn names_follow_the_conventions() {
        for family in FAMILIES {
            let name = family.name;
            assert!(name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'), "{name}");
            assert_eq!(name.ends_with("_total"), family.kind == Kind::Counter, "{name}");
            assert!(family.help.ends_with('.') && !family.help.contains('\n'), "{name}");
            assert!(!name.split('_').any(|word| ABBREVIATED.contains(&word)), "{name}");
            assert_eq!(FAMILIES.iter().filter(|other| other.name == name).count(), 1, "{name}");
        }
    }
}
