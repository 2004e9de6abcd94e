//! The catalogue of the agent's conditions: the one list from which `vigie explain` and `docs/conditions.md` are made.

use crate::condition::ConditionSeverity;

/// One entry of the catalogue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// The stable name, for scripts.
    pub name: &'static str,
    /// `condition`, `module condition`, `end of a module`, `dropped line`, `refused query` or `refused action`.
    pub kind: &'static str,
    /// `warning` or `failed` for conditions, otherwise empty.
    pub severity: &'static str,
    /// The meaning.
    pub meaning: &'static str,
    /// The remedy.
    pub remedy: &'static str,
}

macro_rules! conditions {
    ($($(#[doc = $meaning:literal])+ $variant:ident = $name:literal, $severity:ident, $remedy:literal;)+) => {
        /// A problem of the agent itself, or of a module as seen by the agent.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum AgentCondition {
            $($(#[doc = $meaning])+ $variant,)+
        }

        impl AgentCondition {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            /// The stable name, for scripts.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name),+ }
            }

            /// The severity.
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

            /// Whether the name is one of the agent's own conditions, which modules can neither raise nor
            /// clear.
            #[must_use]
            pub fn is_name(name: &str) -> bool {
                Self::ALL.iter().any(|condition| condition.name() == name)
            }
        }
    };
}

conditions! {
    /// Alerts cannot be written to disk and are buffered in memory; modules block when the buffer is full.
    JournalUnwritable = "journal-unwritable", Failed,
        "Free space on the disk of agent.state_dir, or mount it read-write; the agent recovers without a restart.";
    /// Records of the alert journal are missing or damaged.
    JournalDamaged = "journal-damaged", Failed,
        "Run `vigie alerts --verify` to list the gaps, and find out who changed the files in agent.state_dir/journal.";
    /// Retention deleted alerts before they were read, because the journal reached its size limit.
    JournalTrimmed = "journal-trimmed", Warning,
        "Increase journal.segment_bytes or journal.keep_segments, or find the source of the many alerts.";
    /// Alerts are stored, but old segments of the journal cannot be read, rewritten or deleted to make room, or the
    /// file with its newest number cannot be written.
    JournalUntidy = "journal-untidy", Warning,
        "Repair the file that the condition names in agent.state_dir/journal, or the disk, or move the file away; the agent tries again with the next segment.";
    /// The agent's log cannot be written; lines are dropped and counted.
    LogUnwritable = "log-unwritable", Warning,
        "Free space on the disk of logging.file, or correct [logging]; the agent recovers without a restart.";
    /// Writing the agent's log is too slow or blocked; its file system may hang.
    LogStalled = "log-stalled", Warning,
        "Check the file system of logging.file.";
    /// Writes to the state directory are blocked; its file system may hang.
    StateStalled = "state-stalled", Failed,
        "Check the file system of agent.state_dir.";
    /// A changed configuration was rejected as a whole; the previous one stays in force.
    ConfigurationRefused = "configuration-refused", Warning,
        "Correct the file named in the detail; `vigie check-config` lists all problems.";
    /// A setting in the configuration takes effect but is questionable.
    ConfigurationQuestionable = "configuration-questionable", Warning,
        "`vigie check-config` lists all problems.";
    /// A module's configuration file has errors; the module keeps its last valid configuration, or does not
    /// run if it has none.
    ModuleConfigurationInvalid = "module-configuration-invalid", Warning,
        "Correct the file named in the detail; `vigie check-config` lists all problems.";
    /// The module did not confirm the configuration that the agent sent.
    ConfigurationUnconfirmed = "configuration-unconfirmed", Warning,
        "`vigie reload` shows the module's answer; `vigie module restart` starts it with the new configuration.";
    /// The module rejected its configuration; it runs with the previous one, or not at all.
    ModuleConfigurationRefused = "module-configuration-refused", Failed,
        "The detail contains the module's message: correct its file and run `vigie reload`.";
    /// The module exited too often; the agent restarts it only at long intervals.
    ModuleFailed = "module-failed", Failed,
        "`vigie module logs NAME` shows its last output; `vigie module restart NAME` starts it at once.";
    /// The module exited and waits to be restarted.
    ModuleRestarting = "module-restarting", Warning,
        "None if it recovers; otherwise see `vigie module logs NAME`.";
    /// The module did not answer heartbeats in time.
    HeartbeatMissed = "heartbeat-missed", Warning,
        "None: after agent.heartbeat_misses missed heartbeats the agent kills and restarts the module.";
    /// The module was killed, but its process does not end: it waits in the kernel, for example for a disk that does not
    /// respond. No second copy is started before it has ended.
    ModuleUnkillable = "module-unkillable", Failed,
        "`cat /proc/PID/stack` shows what the process waits for, such as a disk to repair; then the agent restarts the module. \
         With `containment: launcher`, PID is the launcher: look at the processes below it.";
    /// The module registered a query socket that is not permitted, so it cannot be queried.
    SocketRefused = "socket-refused", Warning,
        "Make the module listen in its run directory, or allow the address in its [[module]] block.";
    /// The module's query socket was removed or is owned by another process.
    SocketMissing = "socket-missing", Warning,
        "None if it reappears within one heartbeat; otherwise find out who removed it.";
    /// The module logs more than logging.module_bytes_per_sec; the excess is dropped and counted.
    LogBudgetExceeded = "log-budget-exceeded", Warning,
        "Find out what it logs: `vigie module logs NAME`.";
    /// The module reports more conditions than the agent keeps; the rest is omitted.
    HealthTruncated = "health-truncated", Warning,
        "Query the module itself: `vigie query NAME`.";
    /// No new thread or process can be created; running ones continue.
    TasksExhausted = "tasks-exhausted", Failed,
        "Find what uses the tasks of this host, cgroup or user (`systemd-cgtop`, `ps -eLf`).";
    /// No file descriptor is free; new clients and module starts wait.
    DescriptorsExhausted = "descriptors-exhausted", Failed,
        "Raise LimitNOFILE in the unit, or lower limits.clients.";
    /// Configured limits of the module cannot be enforced on this host.
    ContainmentLimited = "containment-limited", Warning,
        "Give the agent a writable cgroup with the controllers in the detail (`Delegate=pids memory cpu` in its unit), or remove the limits.";
    /// The module reached a limit of its cgroup.
    LimitReached = "limit-reached", Warning,
        "Find out what uses the resource (`vigie module logs NAME`), or raise the limit in its [module.limits].";
    /// The guard process, which kills leftover modules if the agent dies, is not running.
    GuardMissing = "guard-missing", Warning,
        "None if it recovers within seconds; otherwise see the agent's log.";
    /// The agent's control socket was removed and recreated, or cannot be recreated.
    ControlSocketMissing = "control-socket-missing", Warning,
        "Find out who removed it from agent.run_dir.";
    /// Extra privacy mode stays on because the configuration that could turn it off cannot be read.
    PrivacyKept = "privacy-kept", Warning,
        "Correct the configuration; only `extraprivacymode = false` in a valid file turns the mode off.";
    /// The metrics cannot be served at the configured address or written to the configured file.
    MetricsUnavailable = "metrics-unavailable", Warning,
        "Correct [metrics]: the detail names the address or file. The agent retries automatically.";
    /// The agent cannot join its fleet.
    FleetNotJoined = "fleet-not-joined", Warning,
        "Correct the file or key named in the detail; the agent retries every 10 s.";
    /// No connection to a broker of the fleet, or the broker stores nothing: this host cannot be queried remotely, and
    /// its alerts wait on disk.
    FleetDisconnected = "fleet-disconnected", Warning,
        "Check that a broker of fleet.urls is running and reachable; `vigie doctor` tests each address. If it stores nothing, check its JetStream: `vigie fleet doctor` with an administrator's fleet file. The agent keeps retrying.";
    /// The agent has no fleet policy and therefore refuses every action.
    FleetPolicyMissing = "fleet-policy-missing", Warning,
        "Publish a policy that is signed by the keys in fleet.roots: `vigie fleet policy publish`.";
    /// Audit records of fleet actions were dropped, because the broker did not take them: too many were waiting, or they
    /// are too large for its stream. The next record that it takes says how many, which ends this condition; the actions
    /// are in the agent's log.
    FleetAuditDropped = "fleet-audit-dropped", Failed,
        "Check the stream AUDIT of the broker: `vigie fleet doctor`. Look for the missing actions in the agent's log.";
    /// Another host uses this agent's identity, or the identity was copied from another machine.
    IdentityDuplicated = "identity-duplicated", Failed,
        "Give each host its own key: stop the agent, delete STATE_DIR/fleet and the key file, and join under another name.";
    /// The fleet has alerts or lives of this agent that the agent's files do not know: an older copy of the state
    /// directory was put back, or another host uses a copy of it. No alert is lost: the journal continues under another
    /// name. Actions that were signed before are refused, because they may have run already.
    StateReverted = "state-reverted", Failed,
        "If you restored a snapshot or a backup, acknowledge that by restarting the agent. Otherwise find the other host, and give each host its own key.";
    /// The replay log cannot be used; until it can, the agent runs no fleet actions.
    ReplayLogUnusable = "replay-log-unusable", Failed,
        "The detail names the file and the reason: free space or repair the disk. The agent retries every 10 s.";
    /// A certificate for the fleet's broker has expired or expires within 30 days.
    CertificateExpires = "certificate-expires", Warning,
        "`vigie fleet approve --follow` renews the certificates of agents that joined with a token; replace others by hand.";
    /// The sink's receiver is not accepting alerts; they stay in the journal and are sent when it recovers.
    SinkFailing = "sink-failing", Warning,
        "Check the receiver; `vigie sink test NAME` shows its answer. No alert is lost while the journal has space.";
    /// An alert that the sink has not delivered has waited for more than a day, because the receiver is down or too
    /// slow. Retention deletes the oldest alerts of the journal, whoever still waits for them.
    SinkBehind = "sink-behind", Failed,
        "Repair or replace the receiver, or send it less by `severity`; `vigie sink test NAME` shows its answer. If that takes longer, increase journal.keep_segments.";
    /// The sink's receiver rejects every request with the present configuration; the sink retries every ten
    /// minutes.
    SinkRefused = "sink-refused", Failed,
        "Correct the address or the credentials; after a successful `vigie sink test NAME` the sink resumes at once.";
    /// The receiver permanently rejected some alerts; they are in the sink's dead-letter file.
    SinkDeadLetters = "sink-dead-letters", Warning,
        "Review sinks/NAME.dead.jsonl in agent.state_dir, then remove the file.";
    /// Alerts that the receiver permanently rejected could not be written to the sink's dead-letter file, because it
    /// has reached its limit or the disk does not accept it. They are only counted.
    SinkLettersLost = "sink-letters-lost", Failed,
        "Move sinks/NAME.dead.jsonl away from agent.state_dir, or free space there, and find out why the receiver rejects alerts. The alerts themselves are in the journal.";
    /// Journal retention deleted alerts before the sink could send them.
    SinkAlertsDeleted = "sink-alerts-deleted", Failed,
        "Increase journal.keep_segments, or repair the receiver; `vigie status` shows the number of lost alerts.";
    /// The receiver does not send the acknowledgements that the sink is configured to expect; alerts can be
    /// sent again after a disconnect.
    SinkUnacknowledged = "sink-unacknowledged", Warning,
        "Configure the receiver to answer the TLS close notification (rsyslog: StreamDriver.Name=\"ossl\"), or use RELP.";
    /// A certificate of the sink expires within 30 days or has expired: the receiver's, as it was shown in the last
    /// connection, or one that the configuration names. After that nothing is delivered.
    SinkCertificateExpires = "sink-certificate-expires", Warning,
        "Renew the certificate that the detail names, at the receiver or in the sink's `certificate` or `ca`; a new file is used within five minutes.";
    /// The sink cannot save its position to disk; after a restart some alerts are sent again.
    SinkPlaceUnwritable = "sink-place-unwritable", Warning,
        "Free space on the disk of agent.state_dir.";
}

/// The conditions that the built-in modules report. A module may report one with another severity.
const MODULE_CONDITIONS: &[Entry] = &[
    reported(
        "blind",
        "failed",
        "fswatch: kernel events of a file system do not arrive, or the canary's alert was not acknowledged.",
        "The detail names the failing step. Until it is repaired, only scans reliably find changes there; see docs/fswatch.md.",
    ),
    reported(
        "directories-unwatched",
        "warning",
        "fswatch: changes in these directories cause no events; scans find them where the directories can be listed and entered.",
        "`vigie query fswatch --unwatched` lists them with the reason.",
    ),
    reported(
        "events-lost",
        "warning",
        "events: the kernel dropped events within the last ten minutes because the module read them too slowly.",
        "The log and `vigie query events` show how many events of which kind were lost, of root or of others, and when; find what starts so many programs. Users cannot take the room of root.",
    ),
    reported(
        "files-unreadable",
        "warning",
        "fswatch: the content of some files is unknown because they cannot be read.",
        "`vigie query fswatch --unwatched` lists them with the reason; the module retries automatically.",
    ),
    reported(
        "history-damaged",
        "warning",
        "events: somebody removed or changed files of the history, or the end of its log was cut short.",
        "The detail names the files; `vigie query events --verify` checks all of them. Queries over that time have the result unknown. The condition ends with a restart of the module, and that of a removed block with the block's time.",
    ),
    reported(
        "history-not-written",
        "failed",
        "events: the history cannot be opened or written; unwritten events are kept in memory as far as they fit, and what is lost is counted.",
        "Free space on the disk of agent.state_dir, or mount it read-write; the module tries again automatically.",
    ),
    reported(
        "lesser-source",
        "warning",
        "events: BPF is unavailable; the fallback source sees fewer events.",
        "The detail lists what it cannot see, and `vigie query events` shows the reason; set bpf = false to accept the fallback.",
    ),
    reported(
        "looks-behind",
        "failed",
        "fswatch: a change has waited longer than behind_seconds to be inspected.",
        "The detail names the path and the user whose work delays it: find out what that user does, or which disk is slow.",
    ),
    reported(
        "no-source",
        "failed",
        "events: no source is available, neither BPF nor the process connector.",
        "Run the agent as root on the host itself, not in a container; the detail gives both reasons.",
    ),
    reported(
        "notifications-lost",
        "warning",
        "fswatch: an event queue overflowed; everything affected is being compared with the baseline.",
        "None: the condition ends with the comparison, which reports every change.",
    ),
    reported(
        "rule-pack-refused",
        "warning",
        "events: a rule pack of the fleet's policy has an error and is not used; all other rules are.",
        "The detail names the pack, the rule and the key; publish a policy with a corrected pack (`vigie fleet policy packs`).",
    ),
    reported(
        "source-silent",
        "failed",
        "events: a program started as a self-test was not reported by the kernel.",
        "Run `vigie module restart events`; if the condition persists, report it with the output of `vigie diagnostics`.",
    ),
    reported(
        "state-unwritable",
        "failed",
        "fswatch: the baseline or the history cannot be written; after a restart, changes are reported again.",
        "Free space on the disk of agent.state_dir, or mount it read-write; the module recovers without a restart.",
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
        "The process exited with the code in parentheses.",
        "See `vigie module logs NAME`; code 78 means that it rejects its configuration.",
    ),
    entry(
        END,
        "signalled",
        "A signal that the agent did not send killed the process; its number is in parentheses.",
        "Signal 9 often comes from the kernel's OOM killer: see the kernel log.",
    ),
    entry(
        END,
        "heartbeat_lost",
        "The process did not answer agent.heartbeat_misses heartbeats and was killed.",
        "Find out what blocks it, or raise agent.heartbeat_interval.",
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
        "A module must keep reading standard input while it works.",
    ),
    entry(
        END,
        "limit",
        "The module and its child processes exceeded a limit of their cgroup, named in parentheses: tasks or memory.",
        "Find out what uses the resource, or raise tasks or resident_bytes in its [module.limits].",
    ),
    entry(
        END,
        "spawn_failed",
        "The process could not be started.",
        "The detail names the program or the limit.",
    ),
    entry(
        END,
        "closed_stdout",
        "The process closed its standard output but kept running.",
        "A module must keep standard output open.",
    ),
    entry(
        END,
        "closed_stdin",
        "The process closed its standard input but kept running.",
        "A module must read standard input until end of file.",
    ),
    entry(END, "removed", "The module is no longer configured.", "None."),
    entry(END, "agent_stopping", "The agent stopped.", "None."),
    entry(END, "config_changed", "The agent restarted the module to apply a new configuration.", "None."),
    entry(END, "operator", "An operator restarted the module.", "None."),
    entry(
        DROPPED,
        "too_long",
        "A line exceeded limits.line_bytes.",
        "Raise the limit or correct the module.",
    ),
    entry(DROPPED, "not_utf8", "A line was not UTF-8.", "Correct the module."),
    entry(
        DROPPED,
        "not_message",
        "A line was not a JSON object with the key class.",
        "Correct the module: standard output is for messages only.",
    ),
    entry(
        DROPPED,
        "unexpected_class",
        "A message had a class that modules may not send.",
        "Correct the module.",
    ),
    entry(
        DROPPED,
        "bad_parameters",
        "The parameters of a message had the wrong type.",
        "Correct the module.",
    ),
    entry(
        DROPPED,
        "wrong_nonce",
        "An echo did not match any heartbeat.",
        "None if it is rare: the echo was late.",
    ),
    entry(
        DROPPED,
        "socket_refused",
        "A registered query socket was not permitted.",
        "See the condition socket-refused.",
    ),
];

/// Every name that status, log and results can contain, by kind.
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
    fn every_name_is_valid_and_unique() {
        let mut seen = BTreeSet::new();
        for entry in all() {
            assert!(seen.insert(entry.name), "{} occurs twice", entry.name);
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
