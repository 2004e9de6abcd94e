//! The catalogue of the agent's conditions: the one list from which `vigie explain` and `docs/conditions.md` are made.

use crate::condition::ConditionSeverity;

/// One entry of the catalogue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// The name that programs compare.
    pub name: &'static str,
    /// `condition`, `module condition`, `end of a module`, `dropped line`, `refused query` or `refused action`.
    pub kind: &'static str,
    /// `warning` or `failed` for conditions, otherwise empty.
    pub severity: &'static str,
    /// What it means.
    pub meaning: &'static str,
    /// What to do about it.
    pub remedy: &'static str,
}

macro_rules! conditions {
    ($($(#[doc = $meaning:literal])+ $variant:ident = $name:literal, $severity:ident, $remedy:literal;)+) => {
        /// What can be wrong with the agent itself or with a module as the agent sees it.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum AgentCondition {
            $($(#[doc = $meaning])+ $variant,)+
        }

        impl AgentCondition {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            /// The name that programs compare.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name),+ }
            }

            /// How bad it is.
            #[must_use]
            pub fn severity(self) -> ConditionSeverity {
                match self { $(Self::$variant => ConditionSeverity::$severity),+ }
            }

            /// Its entry in the catalogue.
            #[must_use]
            pub fn entry(self) -> Entry {
                let severity = match self.severity() {
                    ConditionSeverity::Warning => "warning",
                    ConditionSeverity::Failed => "failed",
                };
                match self {
                    $(Self::$variant => Entry {
                        name: $name, kind: "condition", severity, meaning: concat!($($meaning),+), remedy: $remedy,
                    },)+
                }
            }

            /// Whether a name is one of the agent's own: a module cannot raise or clear it.
            #[must_use]
            pub fn is_name(name: &str) -> bool {
                Self::ALL.iter().any(|condition| condition.name() == name)
            }
        }
    };
}

conditions! {
    /// Alerts cannot be written to disk and are kept in memory; when memory is full, modules wait.
    JournalUnwritable = "journal-unwritable", Failed,
        "Make room on the disk that holds agent.state_dir, or mount it read-write; the agent goes on by itself.";
    /// Records of the journal are missing or damaged; what is missing is named by `vigie alerts --verify`.
    JournalDamaged = "journal-damaged", Failed,
        "Find out who changed the files below agent.state_dir/journal. `vigie alerts --verify` names the gaps.";
    /// Alerts were deleted because the journal reached its size before they were read.
    JournalTrimmed = "journal-trimmed", Warning,
        "Give the journal more room (journal.segment_bytes, journal.keep_segments), or find what floods it.";
    /// The agent's log cannot be written; lines are dropped and counted.
    LogUnwritable = "log-unwritable", Warning,
        "Make room where logging.file is, or correct [logging]; the agent goes on by itself.";
    /// The agent's log does not take lines fast enough; it may be on a hung file system.
    LogStalled = "log-stalled", Warning,
        "Look at the file system that holds logging.file.";
    /// The state directory does not answer; it may be on a hung file system.
    StateStalled = "state-stalled", Failed,
        "Look at the file system that holds agent.state_dir.";
    /// A changed configuration was refused as a whole; the one before it is in force.
    ConfigurationRefused = "configuration-refused", Warning,
        "Correct the file that is named; `vigie check-config` shows every problem.";
    /// Something in the configuration takes effect but is not as it should be.
    ConfigurationQuestionable = "configuration-questionable", Warning,
        "`vigie check-config` shows every problem.";
    /// A module's configuration file has errors; the module keeps its last good one, or does not run.
    ModuleConfigurationInvalid = "module-configuration-invalid", Warning,
        "Correct the file that is named; `vigie check-config` shows every problem.";
    /// The module said nothing about the configuration that was sent to it.
    ConfigurationUnconfirmed = "configuration-unconfirmed", Warning,
        "`vigie reload` shows what the module said; `vigie module restart` starts it with the new configuration.";
    /// The module refuses its configuration; it runs with the one before, or not at all.
    ModuleConfigurationRefused = "module-configuration-refused", Failed,
        "The detail is what the module said: correct its file and run `vigie reload`.";
    /// The module died too often; it is tried again at long intervals only.
    ModuleFailed = "module-failed", Failed,
        "`vigie module logs NAME` shows its last words; `vigie module restart NAME` tries at once.";
    /// The module ended and waits for its next start.
    ModuleRestarting = "module-restarting", Warning,
        "Nothing, if it comes back; otherwise see `vigie module logs NAME`.";
    /// The module did not answer heartbeats in time.
    HeartbeatMissed = "heartbeat-missed", Warning,
        "Nothing: after agent.heartbeat_misses the module is killed and started again.";
    /// The module registered a query socket that is not allowed, so it cannot be queried.
    SocketRefused = "socket-refused", Warning,
        "Let the module listen in its run directory, or allow the address in its [[module]] block.";
    /// The query socket of the module vanished or is owned by another process.
    SocketMissing = "socket-missing", Warning,
        "Nothing, if it comes back within a heartbeat; otherwise find out who removed it.";
    /// The module logs more than logging.module_bytes_per_sec; the rest is dropped and counted.
    LogBudgetExceeded = "log-budget-exceeded", Warning,
        "Find out what the module repeats: `vigie module logs NAME`.";
    /// The module reports more conditions than are kept; the rest is left out.
    HealthTruncated = "health-truncated", Warning,
        "Ask the module itself: `vigie query NAME`.";
    /// No new thread or process can be made; what runs goes on.
    TasksExhausted = "tasks-exhausted", Failed,
        "Find what uses up the tasks of this host, cgroup or user (`systemd-cgtop`, `ps -eLf`).";
    /// No descriptor is free; new clients and starts of modules wait.
    DescriptorsExhausted = "descriptors-exhausted", Failed,
        "Raise LimitNOFILE in the unit, or lower limits.clients.";
    /// Limits of the module that the configuration asks for cannot be kept by the kernel here.
    ContainmentLimited = "containment-limited", Warning,
        "Let the agent have a writable cgroup with these controllers (`Delegate=pids memory cpu` in its unit), or leave the limits out.";
    /// The module runs into the limits of its control group.
    LimitReached = "limit-reached", Warning,
        "Find out what the module uses up (`vigie module logs NAME`), or raise its [module.limits].";
    /// The guard process that ends what a dead agent leaves behind does not run.
    GuardMissing = "guard-missing", Warning,
        "Nothing, if it comes back within seconds; otherwise see the agent's log.";
    /// The agent's own socket vanished and was made again, or cannot be made.
    ControlSocketMissing = "control-socket-missing", Warning,
        "Find out who removed it from agent.run_dir.";
    /// Extra privacy mode is kept on because the configuration that would say otherwise cannot be read.
    PrivacyKept = "privacy-kept", Warning,
        "Correct the configuration; only `extraprivacymode = false` in a valid file turns the mode off.";
    /// The metrics cannot be served or written where the configuration says.
    MetricsUnavailable = "metrics-unavailable", Warning,
        "The detail names the address or the file; the agent tries again by itself. Correct [metrics].";
    /// The agent cannot take part in its fleet.
    FleetNotJoined = "fleet-not-joined", Warning,
        "The detail names the file or the key; the agent tries again every 10 s.";
    /// No broker of the fleet is connected: nobody can ask this host, and its alerts wait on its disk.
    FleetDisconnected = "fleet-disconnected", Warning,
        "See that a broker of fleet.urls runs and can be reached; the agent goes on trying. `vigie doctor` tries each address.";
    /// The agent has no policy of its fleet, so it refuses every action.
    FleetPolicyMissing = "fleet-policy-missing", Warning,
        "Publish one that the keys in fleet.roots signed: `vigie fleet policy publish`.";
    /// Another host uses this agent's identity, or its files come from another machine.
    IdentityDuplicated = "identity-duplicated", Failed,
        "Give each host a key of its own: stop the agent, delete STATE_DIR/fleet and the key file, and join under another name.";
    /// The log of actions that were run cannot be used; without it nothing is run for the fleet.
    ReplayLogUnusable = "replay-log-unusable", Failed,
        "The detail names the file and why: make room, or mend the disk; the agent tries again every 10 s.";
    /// A certificate for the fleet's broker ends within 30 days, or has ended.
    CertificateExpires = "certificate-expires", Warning,
        "`vigie fleet approve --follow` renews those of agents that joined; otherwise put a new one in its place.";
    /// The sink's receiver does not take alerts; they wait in the journal and are sent when it does again.
    SinkFailing = "sink-failing", Warning,
        "Look at the receiver; `vigie sink test NAME` shows what it says. Nothing is lost while the journal has room.";
    /// The sink's receiver refuses to take anything as the sink is configured; it is asked again every ten minutes.
    SinkRefused = "sink-refused", Failed,
        "Correct the address or the credentials; after a `vigie sink test NAME` that works the sink goes on at once.";
    /// The receiver refused single alerts for good; they are in the sink's dead-letter file.
    SinkDeadLetters = "sink-dead-letters", Warning,
        "Read sinks/NAME.dead.jsonl in agent.state_dir, and remove the file when that is done.";
    /// The journal deleted alerts before the sink could send them.
    SinkAlertsDeleted = "sink-alerts-deleted", Failed,
        "Give the journal more room (journal.keep_segments), or repair the receiver; `vigie status` counts what is gone.";
    /// The receiver does not acknowledge although the sink is configured for it; alerts are sent again after a break.
    SinkUnacknowledged = "sink-unacknowledged", Warning,
        "Let the receiver answer the end of TLS (rsyslog: StreamDriver.Name=\"ossl\"), or use RELP.";
    /// The sink cannot note on disk how far it is; after a restart alerts are sent again.
    SinkPlaceUnwritable = "sink-place-unwritable", Warning,
        "Make room on the disk that holds agent.state_dir.";
}

/// The conditions that the built-in modules report of themselves; a module can give a detail its own severity.
const MODULE_CONDITIONS: &[Entry] = &[
    reported(
        "blind",
        "failed",
        "fswatch: the kernel's events of a file system do not come back, or the canary does not come through.",
        "The detail says where the way ends; only scans are sure to find changes there. See docs/fswatch.md.",
    ),
    reported(
        "directories-unwatched",
        "warning",
        "fswatch: changes in these directories give no event and are found by a scan only.",
        "`vigie query fswatch --unwatched` names them and says why.",
    ),
    reported(
        "events-lost",
        "warning",
        "events: the kernel had more to tell than was taken within the last ten minutes.",
        "The log and `vigie query events` say how many of which kind, of root or of others, and when; find what runs so many \
         programs. Users cannot take the room of root's records.",
    ),
    reported(
        "files-unreadable",
        "warning",
        "fswatch: what is in these files is not known.",
        "`vigie query fswatch --unwatched` names them and says why; they are read again by themselves.",
    ),
    reported(
        "history-not-written",
        "failed",
        "events: the disk does not take the history; what is not written yet is in memory.",
        "Make room on the disk that holds agent.state_dir.",
    ),
    reported(
        "lesser-source",
        "warning",
        "events: BPF cannot be used, and the source that is used sees less.",
        "The detail says what it does not see, `vigie query events` why; set bpf = false if it is meant to be so.",
    ),
    reported(
        "looks-behind",
        "failed",
        "fswatch: a change waits longer than behind_seconds to be looked at.",
        "The detail names the path and who pays for it: find out what that user does, or which disk does not answer.",
    ),
    reported(
        "no-source",
        "failed",
        "events: nothing can be seen, neither by BPF nor by the process connector.",
        "Run the agent as root on the host itself; the detail has both reasons.",
    ),
    reported(
        "notifications-lost",
        "warning",
        "fswatch: a queue overflowed; everything is being compared with what was known.",
        "Nothing: it ends with the comparison, and what changed is told.",
    ),
    reported(
        "source-silent",
        "failed",
        "events: a program that was run as a proof was not told.",
        "`vigie module restart events`; if it stays, report it with `vigie diagnostics`.",
    ),
    reported(
        "state-unwritable",
        "failed",
        "fswatch: the baseline or the history cannot be written; after a restart changes are told again.",
        "Make room on the disk that holds agent.state_dir, or mount it read-write; the module goes on by itself.",
    ),
];

const fn reported(
    name: &'static str,
    severity: &'static str,
    meaning: &'static str,
    remedy: &'static str,
) -> Entry {
    Entry { name, kind: "condition", severity, meaning, remedy }
}

const fn entry(kind: &'static str, name: &'static str, meaning: &'static str, remedy: &'static str) -> Entry {
    Entry { name, kind, severity: "", meaning, remedy }
}

const END: &str = "end of a module";
const DROPPED: &str = "dropped line";

/// Reasons of ends and of dropped lines.
const REASONS: &[Entry] = &[
    entry(
        END,
        "exited",
        "The process ended by itself with the code in parentheses.",
        "See `vigie module logs NAME`; code 78 means that it refuses its configuration.",
    ),
    entry(
        END,
        "signalled",
        "A signal from outside the agent ended the process; its number is in parentheses.",
        "9 is often the kernel that ran out of memory: see the kernel's log.",
    ),
    entry(
        END,
        "heartbeat_lost",
        "The process did not answer agent.heartbeat_misses heartbeats and was killed.",
        "See what it waits for, or raise agent.heartbeat_interval.",
    ),
    entry(
        END,
        "start_timeout",
        "The process did not answer its first heartbeat in time.",
        "See `vigie module logs NAME`.",
    ),
    entry(
        END,
        "write_timeout",
        "The process did not read its standard input.",
        "It must read while it works.",
    ),
    entry(
        END,
        "limit",
        "With all that it started it used up what its control group allows: tasks, or memory, in parentheses.",
        "Find out what takes it, or raise limits.tasks or limits.resident_bytes in its [module.limits].",
    ),
    entry(
        END,
        "spawn_failed",
        "The process could not be started.",
        "The reason names the program or the limit.",
    ),
    entry(
        END,
        "closed_stdout",
        "The process closed its standard output and lived on.",
        "A module must keep standard output open.",
    ),
    entry(
        END,
        "closed_stdin",
        "The process closed its standard input and lived on.",
        "A module must read until the end of standard input.",
    ),
    entry(END, "removed", "The module is no longer configured.", "Nothing."),
    entry(END, "agent_stopping", "The agent stopped.", "Nothing."),
    entry(END, "config_changed", "The agent restarted it for a new configuration.", "Nothing."),
    entry(END, "operator", "An operator restarted it.", "Nothing."),
    entry(
        DROPPED,
        "too_long",
        "A line was longer than limits.line_bytes.",
        "Raise the limit or repair the module.",
    ),
    entry(DROPPED, "not_utf8", "A line was not UTF-8.", "Repair the module."),
    entry(
        DROPPED,
        "not_message",
        "A line was not a JSON object with a class.",
        "Repair the module: standard output is for messages only.",
    ),
    entry(
        DROPPED,
        "unexpected_class",
        "A message had a class that modules do not send.",
        "Repair the module.",
    ),
    entry(DROPPED, "bad_parameters", "The parameters of a message had the wrong form.", "Repair the module."),
    entry(
        DROPPED,
        "wrong_nonce",
        "An echo belonged to no heartbeat.",
        "Nothing, if it is rare: it came too late.",
    ),
    entry(
        DROPPED,
        "socket_refused",
        "A registered query socket was not allowed.",
        "See the condition socket-refused.",
    ),
];

/// Everything that has a name in status, log or answers, by kind.
pub fn all() -> impl Iterator<Item = Entry> {
    AgentCondition::ALL
        .iter()
        .map(|condition| condition.entry())
        .chain(MODULE_CONDITIONS.iter().copied())
        .chain(REASONS.iter().copied())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_name_is_a_term_that_stands_once() {
        let mut seen = BTreeSet::new();
        for entry in all() {
            assert!(seen.insert(entry.name), "{} stands twice", entry.name);
            assert!(
                entry
                    .name
                    .bytes()
                    .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_".contains(&byte)),
                "{}",
                entry.name
            );
            assert!(entry.meaning.trim().ends_with('.') && entry.remedy.ends_with('.'), "{}", entry.name);
        }
    }
}
