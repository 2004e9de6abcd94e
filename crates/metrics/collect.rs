//! From the status to samples.

use std::collections::BTreeSet;

use vigie_protocol::condition::{ConditionSeverity, Subject};
use vigie_protocol::control::{
    AgentStatus, FleetStatus, Health, InForce, JournalStatus, ModuleState, ModuleStatus, ProcessUse,
    SinkState, SinkStatus,
};
use vigie_protocol::severity::Severity;

use crate::families::{self as f, Family};

/// One value of one metric.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Sample {
    pub(crate) family: &'static Family,
    /// Names and values; an empty value is the same as no label and is not written.
    pub(crate) labels: Vec<(&'static str, String)>,
    pub(crate) value: f64,
}

/// The states of a module and the words for them.
const STATES: [(ModuleState, &str); 8] = [
    (ModuleState::Idle, "idle"),
    (ModuleState::Starting, "starting"),
    (ModuleState::Running, "running"),
    (ModuleState::Degraded, "degraded"),
    (ModuleState::Stopping, "stopping"),
    (ModuleState::Backoff, "backoff"),
    (ModuleState::Failed, "failed"),
    (ModuleState::Ended, "ended"),
];

#[derive(Default)]
struct Samples(Vec<Sample>);

impl Samples {
    fn add(&mut self, family: &'static Family, labels: &[(&'static str, &str)], value: f64) {
        let labels = labels.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
        self.0.push(Sample { family, labels, value });
    }

    fn count(&mut self, family: &'static Family, labels: &[(&'static str, &str)], value: u64) {
        self.add(family, labels, number(value));
    }

    fn flag(&mut self, family: &'static Family, labels: &[(&'static str, &str)], value: bool) {
        self.add(family, labels, f64::from(u8::from(value)));
    }

    /// A time; nothing when there is none, or one that cannot be read.
    fn time(&mut self, family: &'static Family, labels: &[(&'static str, &str)], time: &str) {
        if let Ok(time) = time.parse::<jiff::Timestamp>() {
            self.add(family, labels, time.as_duration().as_secs_f64());
        }
    }
}

/// Exact up to 2^53, which no counter here reaches.
#[expect(clippy::cast_precision_loss, reason = "both formats have floating-point values only")]
fn number(value: u64) -> f64 {
    value as f64
}

/// Milliseconds as seconds.
fn seconds(milliseconds: u64) -> f64 {
    number(milliseconds) / 1000.0
}

/// Everything that the status knows.
pub(crate) fn samples(status: &AgentStatus) -> Vec<Sample> {
    let mut samples = Samples::default();
    let s = &mut samples;
    s.add(&f::BUILD_INFO, &[("version", &status.version)], 1.0);
    s.time(&f::START_TIME, &[], &status.started_at);
    let health = match status.health {
        Health::Healthy => 0,
        Health::Degraded => 1,
        Health::Failed => 2,
    };
    s.count(&f::HEALTH, &[], health);
    conditions(s, status);
    if let Some(used) = &status.resources {
        agent_process(s, used);
    }
    s.count(&f::CONFIG_GENERATION, &[], status.config.generation);
    s.flag(&f::CONFIG_OK, &[], status.config.last_reload_ok);
    s.time(&f::CONFIG_AT, &[], &status.config.last_reload_at);
    for one in &status.modules {
        module(s, one);
    }
    alerts(s, status);
    journal(s, &status.journal);
    for one in &status.sinks {
        sink(s, one);
    }
    let queries = &status.queries;
    s.count(&f::QUERIES, &[("result", "answered")], queries.answered);
    s.count(&f::QUERIES, &[("result", "failed")], queries.failed);
    s.count(&f::QUERIES_RUNNING, &[], queries.running);
    s.count(&f::QUERIES_WAITING, &[], queries.waiting);
    s.flag(&f::PRIVACY, &[], status.privacy.extra);
    s.count(&f::PRIVACY_UNCHECKED, &[], status.privacy.unchecked.len() as u64);
    if let Some(link) = &status.fleet {
        fleet(s, link);
    }
    samples.0
}

fn conditions(s: &mut Samples, status: &AgentStatus) {
    for standing in &status.conditions {
        let (module, sink) = match &standing.about {
            Subject::Agent => ("", ""),
            Subject::Module(name) => (name.as_str(), ""),
            Subject::Sink(name) => ("", name.as_str()),
        };
        let severity = match standing.condition.severity {
            ConditionSeverity::Warning => "warning",
            ConditionSeverity::Failed => "failed",
        };
        let name = standing.condition.name.as_str();
        let labels = [("name", name), ("severity", severity), ("module", module), ("sink", sink)];
        s.add(&f::CONDITION, &labels, 1.0);
        s.time(&f::CONDITION_SINCE, &labels, &standing.condition.since);
    }
}

/// The states of a sink and the words for them.
const SINK_STATES: [(SinkState, &str); 5] = [
    (SinkState::Idle, "idle"),
    (SinkState::Sending, "sending"),
    (SinkState::Waiting, "waiting"),
    (SinkState::Resting, "resting"),
    (SinkState::Disabled, "disabled"),
];

fn sink(s: &mut Samples, sink: &SinkStatus) {
    let name = ("sink", sink.name.as_str());
    for (state, word) in SINK_STATES {
        s.flag(&f::SINK_STATE, &[name, ("state", word)], state == sink.state);
    }
    s.count(&f::SINK_LAG, &[name], sink.lag);
    s.time(&f::SINK_OLDEST, &[name], sink.oldest_unsent.as_deref().unwrap_or_default());
    for (family, count) in [
        (&f::SINK_SENT, sink.sent),
        (&f::SINK_RESENT, sink.resent),
        (&f::SINK_UNACKNOWLEDGED, sink.unacknowledged),
        (&f::SINK_FILTERED, sink.filtered),
        (&f::SINK_MISSED, sink.missed),
        (&f::SINK_DEAD, sink.dead_letters),
        (&f::SINK_REJECTED, sink.rejected),
    ] {
        s.count(family, &[name], count);
    }
    for (reason, count) in &sink.failures {
        s.count(&f::SINK_FAILURES, &[name, ("reason", reason)], *count);
    }
    s.time(&f::SINK_SUCCESS, &[name], sink.last_success.as_deref().unwrap_or_default());
    s.time(&f::SINK_CERTIFICATE, &[name], sink.certificate_expires.as_deref().unwrap_or_default());
}

fn agent_process(s: &mut Samples, used: &ProcessUse) {
    s.add(&f::PROCESS_CPU, &[], seconds(used.cpu_ms));
    s.count(&f::PROCESS_MEMORY, &[], used.memory_bytes);
    s.count(&f::PROCESS_THREADS, &[], used.threads);
    if let Some(open) = used.open_files {
        s.count(&f::PROCESS_FDS, &[], open);
    }
    if let Some(limit) = used.open_files_limit {
        s.count(&f::PROCESS_MAX_FDS, &[], limit);
    }
}

fn module(s: &mut Samples, module: &ModuleStatus) {
    let name = ("module", module.name.as_str());
    for (state, word) in STATES {
        s.flag(&f::MODULE_STATE, &[name, ("state", word)], state == module.state);
    }
    s.count(&f::MODULE_RESTARTS, &[name], module.restarts);
    for (value, number) in &module.values {
        s.count(&f::MODULE_VALUE, &[name, ("name", value)], *number);
    }
    s.count(&f::MODULE_LOGS, &[name], module.logs);
    for (reason, count) in &module.dropped {
        s.count(&f::MODULE_DROPPED, &[name, ("reason", reason)], *count);
    }
    if let Some(uptime) = module.uptime_secs {
        s.count(&f::MODULE_UPTIME, &[name], uptime);
    }
    if let Some(round_trip) = module.heartbeat_us {
        s.add(&f::MODULE_RTT, &[name], number(round_trip) / 1e6);
    }
    if let Some(at) = &module.heartbeat_at {
        s.time(&f::MODULE_HEARTBEAT, &[name], at);
    }
    if let Some(used) = &module.resources {
        s.add(&f::MODULE_CPU, &[name], seconds(used.cpu_ms));
        s.count(&f::MODULE_MEMORY, &[name], used.memory_bytes);
        s.count(&f::MODULE_THREADS, &[name], used.threads);
        if let Some(open) = used.open_files {
            s.count(&f::MODULE_FDS, &[name], open);
        }
    }
    if let Some(configuration) = &module.configuration {
        s.flag(&f::MODULE_CONFIG, &[name], configuration.state == InForce::InForce);
        s.count(&f::MODULE_GENERATION, &[name], configuration.generation);
    }
}

/// Also the counts that are zero: from nothing to the first critical alert is no increase that Prometheus sees.
fn alerts(s: &mut Samples, status: &AgentStatus) {
    let by_module = &status.journal.by_module;
    let names = status.modules.iter().map(|module| module.name.as_str());
    let names: BTreeSet<&str> = names.chain(by_module.keys().map(String::as_str)).chain(["agent"]).collect();
    for module in names {
        for severity in Severity::ALL {
            let counts = by_module.get(module);
            let count = counts.and_then(|counts| counts.get(severity.name())).copied().unwrap_or_default();
            s.count(&f::ALERTS, &[("module", module), ("severity", severity.name())], count);
        }
    }
}

fn journal(s: &mut Samples, journal: &JournalStatus) {
    s.count(&f::JOURNAL_SIZE, &[], journal.bytes);
    s.count(&f::JOURNAL_LIMIT, &[], journal.limit_bytes);
    s.count(&f::JOURNAL_SEQ, &[], journal.recorded);
    s.count(&f::JOURNAL_UNSYNCED, &[], journal.pending);
    s.count(&f::JOURNAL_DUPLICATES, &[], journal.duplicates);
    for (severity, count) in &journal.deleted {
        s.count(&f::JOURNAL_DELETED, &[("severity", severity)], *count);
    }
    s.flag(&f::JOURNAL_WRITABLE, &[], journal.error.is_none());
    s.flag(&f::JOURNAL_WHOLE, &[], journal.damage.is_none());
}

fn fleet(s: &mut Samples, fleet: &FleetStatus) {
    s.flag(&f::FLEET_CONNECTED, &[], fleet.connected);
    if let Some(version) = fleet.policy_version {
        s.count(&f::FLEET_POLICY, &[], version);
    }
    s.count(&f::FLEET_SENT, &[], fleet.alerts_sent);
    s.count(&f::FLEET_WAITING, &[], fleet.alerts_waiting);
    s.count(&f::FLEET_RUNNING, &[], fleet.running);
    s.count(&f::FLEET_QUEUED, &[], fleet.waiting);
    for (outcome, count) in &fleet.outcomes {
        s.count(&f::FLEET_ACTIONS, &[("outcome", outcome)], *count);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{EXAMPLE_STATUS, FAMILIES};

    fn of<'a>(samples: &'a [Sample], name: &str) -> Vec<&'a Sample> {
        samples.iter().filter(|sample| sample.family.name == name).collect()
    }

    #[test]
    fn the_example_status_has_every_metric() {
        let samples = samples(&serde_json::from_str(EXAMPLE_STATUS).unwrap());

        for family in FAMILIES {
            assert!(samples.iter().any(|sample| sample.family == family), "{}", family.name);
        }
    }

    #[test]
    fn a_module_is_in_one_state_and_a_condition_has_its_subject() {
        let samples = samples(&serde_json::from_str(EXAMPLE_STATUS).unwrap());

        let in_state: f64 = of(&samples, "vigie_module_state")
            .iter()
            .filter(|sample| sample.labels[0].1 == "fswatch")
            .map(|sample| sample.value)
            .sum();
        assert!((in_state - 1.0).abs() < f64::EPSILON);
        let conditions = of(&samples, "vigie_condition");
        let about: Vec<&str> = conditions.iter().map(|sample| sample.labels[2].1.as_str()).collect();
        assert_eq!(about, ["", "audit"]);
    }

    #[test]
    fn times_and_units_are_seconds() {
        let samples = samples(&serde_json::from_str(EXAMPLE_STATUS).unwrap());

        let value = |name: &str| of(&samples, name)[0].value;
        assert!((value("vigie_start_time_seconds") - 1_779_516_000.0).abs() < 1e-3);
        assert!((value("vigie_module_heartbeat_rtt_seconds") - 0.000_24).abs() < 1e-9);
        assert!((value("vigie_process_cpu_seconds_total") - 1.5).abs() < 1e-9);
    }
}
