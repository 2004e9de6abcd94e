//! What is remembered of a module over its lives, and what is decided by it. Pure: no I/O, and no clock of its own.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use actix::{Addr, SpawnHandle};
use serde_json::value::RawValue;
use tokio::sync::oneshot;
use tokio::time::Instant;
use vigie_config::model::{ModuleSpec, RestartRule, RestartSection};
use vigie_protocol::control::{ModuleKind, ModuleLine, ModuleState, ModuleStatus};

use super::confirmation::Confirmation;
use super::confirmed::Confirmed;
use super::restart::{RestartHistory, Verdict};
use crate::life::{EndReason, Incarnation};
use crate::line_feed::LineFeeds;
use crate::module_process::{Counters, ModuleExited, ModuleProcess, ProcessStatus};

/// Exit code of a module that refuses its configuration: `EX_CONFIG` of sysexits.h.
const EX_CONFIG: i32 = 78;

/// Pause before a start that failed for want of descriptors, tasks or memory is tried again; doubles up to the second
/// value. There are no dice: the host lacks something for all modules alike.
const SHORTAGE_PAUSE: Duration = Duration::from_millis(100);
const SHORTAGE_PAUSE_MAX: Duration = Duration::from_secs(1);

/// Lines of stderr that explain why a module could not be started: the launcher says why and what to do.
const LAST_WORDS: usize = 3;

/// What is remembered of a module over its lives.
pub(super) struct Module {
    /// What is to run; `None` once it is no longer configured, until its last life is over.
    pub(super) spec: Option<ModuleSpec>,
    pub(super) phase: Phase,
    pub(super) incarnation: Incarnation,
    pub(super) history: RestartHistory,
    /// Starts in a row that failed for want of something.
    shortages: u32,
    pub(super) last_exit: Option<EndReason>,
    pub(super) counters: Counters,
    /// The newest lines of the lives that are over.
    pub(super) lines: VecDeque<ModuleLine>,
    pub(super) feeds: LineFeeds,
    /// What the module made of the newest configuration.
    pub(super) confirmation: Option<Confirmation>,
    /// The newest configuration that the module confirmed, to go back to when it refuses a newer one.
    pub(super) confirmed: Option<Confirmed>,
    /// The configuration that the module refused; it is not started with it again.
    pub(super) refused_config: Option<Box<RawValue>>,
    /// The present life was ordered to end.
    pub(super) stopping: bool,
    /// The newest configuration was sent to a living process.
    pub(super) reconfigured: bool,
    /// Configurations that were sent, with packs that changed in one.
    pub(super) sent: u64,
    /// Who is told about the next start.
    pub(super) starting: Vec<oneshot::Sender<Result<u32, String>>>,
    /// Who is told when the present life is over.
    pub(super) ending: Vec<oneshot::Sender<()>>,
}

pub(super) enum Phase {
    /// Nothing runs, and nothing is to.
    Resting(Rest),
    /// A life is under way.
    Living(Addr<ModuleProcess>),
    /// The next start comes at a known time.
    Waiting { until: Instant, timer: SpawnHandle, failed: bool },
}

/// Why a module does not run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Rest {
    /// It has not been started.
    NotStarted,
    /// It runs once per query.
    Standard,
    /// It must not run.
    Off(String),
    /// It refuses its configuration, and there is none to go back to.
    Refused(String),
    /// Its rule says that it is not started again.
    Ended,
}

/// What follows the end of a life.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Sequel {
    /// The module is no longer configured.
    Forgotten,
    /// It refuses its configuration.
    Refused,
    /// The end was ordered: the next life begins at once.
    StartsAnew,
    /// Its rule says that it is not started again.
    StaysDown,
    /// The host lacked something: no death of the module, and tried again after `delay`.
    WaitsForResources { delay: Duration, first: bool },
    /// It died, and its history says when it is started again.
    Died(Verdict),
}

impl Module {
    pub(super) fn new() -> Self {
        Self {
            spec: None,
            phase: Phase::Resting(Rest::NotStarted),
            incarnation: Incarnation(0),
            history: RestartHistory::default(),
            shortages: 0,
            last_exit: None,
            counters: Counters::default(),
            lines: VecDeque::new(),
            feeds: LineFeeds::default(),
            confirmation: None,
            confirmed: None,
            refused_config: None,
            stopping: false,
            reconfigured: false,
            sent: 0,
            starting: Vec::new(),
            ending: Vec::new(),
        }
    }

    /// The process, while a life is under way.
    pub(super) fn living(&self) -> Option<&Addr<ModuleProcess>> {
        match &self.phase {
            Phase::Living(process) => Some(process),
            _ => None,
        }
    }

    /// Counts the life that begins.
    pub(super) fn begin_life(&mut self) -> Incarnation {
        self.incarnation = Incarnation(self.incarnation.0 + 1);
        self.reconfigured = false;
        self.incarnation
    }

    /// Decides what follows the end of a life. `jitter` is drawn evenly from 0 to 1.
    pub(super) fn sequel(
        &mut self,
        reason: &EndReason,
        lifetime: Duration,
        policy: &RestartSection,
        now: Instant,
        jitter: f64,
    ) -> Sequel {
        let Some(spec) = &self.spec else { return Sequel::Forgotten };
        if *reason == EndReason::Exited(EX_CONFIG) {
            return Sequel::Refused;
        }
        if reason.is_ordered() {
            return Sequel::StartsAnew;
        }
        if matches!(reason, EndReason::Shortage(_)) {
            let delay = SHORTAGE_PAUSE.saturating_mul(1 << self.shortages.min(4)).min(SHORTAGE_PAUSE_MAX);
            self.shortages = self.shortages.saturating_add(1);
            return Sequel::WaitsForResources { delay, first: self.shortages == 1 };
        }
        self.shortages = 0;
        let stays_down = match spec.section.restart {
            RestartRule::Permanent => false,
            RestartRule::Transient => *reason == EndReason::Exited(0),
            RestartRule::Temporary => true,
        };
        if stays_down {
            return Sequel::StaysDown;
        }
        Sequel::Died(self.history.died(policy, now, lifetime, jitter))
    }

    /// The configuration to start it with: the newest one, unless it refused that and has one to go back to.
    pub(super) fn runnable_config(&self) -> Option<&RawValue> {
        let newest = self.spec.as_ref()?.config.usable()?;
        let refused = self.refused_config.as_ref().is_some_and(|refused| refused.get() == newest.get());
        match (&self.confirmed, refused) {
            (Some(before), true) => Some(&before.config),
            _ => Some(newest),
        }
    }

    pub(super) fn is_wanted(&self) -> bool {
        self.spec.as_ref().is_some_and(|spec| spec.section.enabled)
    }

    pub(super) fn has_confirmed(&self, config: &RawValue) -> bool {
        self.confirmed.as_ref().is_some_and(|confirmed| confirmed.config.get() == config.get())
    }

    /// Whether it refused its configuration and has confirmed another one.
    pub(super) fn goes_back(&self) -> bool {
        self.confirmed.is_some()
            && self.refused_config.as_ref().is_some_and(|refused| !self.has_confirmed(refused))
    }

    /// Whether a new attempt may be made at once with other packs: it does not run because it refused what it had, or
    /// because it died of it too often.
    pub(super) fn has_given_up(&self) -> bool {
        matches!(self.phase, Phase::Resting(Rest::Refused(_)) | Phase::Waiting { failed: true, .. })
    }

    pub(super) fn answer_starting(&mut self, answer: &Result<u32, String>) {
        for waiting in self.starting.drain(..) {
            waiting.send(answer.clone()).ok();
        }
    }

    /// Its status, with what a living process says of itself; nothing when it is no longer configured.
    pub(super) fn status(&self, living: Option<ProcessStatus>, now: Instant) -> Option<ModuleStatus> {
        let spec = self.spec.as_ref()?;
        let (state, reason) = self.state(spec, living.as_ref());
        let problem = spec.config.problem();
        let restart_in = match self.phase {
            Phase::Waiting { until, .. } => Some(until.saturating_duration_since(now)),
            _ => None,
        };
        let mut counters = self.counters.clone();
        let mut status = ModuleStatus {
            name: spec.name().clone(),
            kind: spec.section.kind,
            state,
            reason: reason
                .or_else(|| problem.map(|problem| format!("keeps its last valid configuration: {problem}"))),
            incarnation: self.incarnation.0,
            restarts: self.incarnation.0.saturating_sub(1),
            last_exit: self.last_exit.as_ref().map(ToString::to_string),
            restart_in_ms: restart_in.map(|delay| u64::try_from(delay.as_millis()).unwrap_or(u64::MAX)),
            configuration: self.confirmation.as_ref().map(|confirmation| confirmation.status(spec.name())),
            pid: None,
            uptime_secs: None,
            socket: None,
            heartbeat_at: None,
            heartbeat_us: None,
            resources: None,
            values: BTreeMap::new(),
            logs: 0,
            alerts: 0,
            dropped: BTreeMap::new(),
        };
        if let Some(living) = living {
            counters.add(&living.counters);
            status.pid = living.pid;
            status.uptime_secs = Some(living.uptime.as_secs());
            status.socket = living.socket.map(|socket| socket.to_string());
            status.heartbeat_at = living.heartbeat_at.map(|at| at.to_string());
            status.heartbeat_us =
                living.heartbeat.map(|trip| u64::try_from(trip.as_micros()).unwrap_or(u64::MAX));
            status.values = living.values;
        }
        status.logs = counters.logs;
        status.alerts = counters.alerts;
        status.dropped = counters.dropped.into_iter().map(|(why, count)| (why.to_owned(), count)).collect();
        Some(status)
    }

    fn state(&self, spec: &ModuleSpec, living: Option<&ProcessStatus>) -> (ModuleState, Option<String>) {
        match (&self.phase, living) {
            (Phase::Living(_), Some(living)) => (living.state, living.reason.clone()),
            (Phase::Living(_), None) => (ModuleState::Stopping, None),
            (Phase::Waiting { failed: true, .. }, _) => {
                (ModuleState::Failed, Some("died too often".to_owned()))
            }
            (Phase::Waiting { failed: false, .. }, _) => (ModuleState::Backoff, None),
            (Phase::Resting(Rest::Ended), _) => (ModuleState::Ended, None),
            (Phase::Resting(Rest::Off(why)), _) => {
                let invalid = spec.config.usable().is_none();
                (if invalid { ModuleState::Failed } else { ModuleState::Idle }, Some(why.clone()))
            }
            (Phase::Resting(Rest::Refused(why)), _) => (ModuleState::Failed, Some(why.clone())),
            (Phase::Resting(Rest::NotStarted | Rest::Standard), _) => (ModuleState::Idle, None),
        }
    }
}

/// Why a life ended before it had begun, with what the launcher or the module said last.
pub(super) fn why_not_started(exited: &ModuleExited) -> String {
    if let EndReason::SpawnFailed(why) | EndReason::Shortage(why) = &exited.reason {
        return why.clone();
    }
    let said = exited.lines.iter().filter(|line| line.source == "stderr").map(|line| line.text.trim());
    let said: Vec<_> = said.collect();
    let last = &said[said.len().saturating_sub(LAST_WORDS)..];
    if last.is_empty() {
        exited.reason.to_string()
    } else {
        format!("{}: {}", exited.reason, last.join("; "))
    }
}

/// Why a module is not to be started at all.
pub(super) fn must_rest(spec: &ModuleSpec, no_persistent_modules: bool) -> Option<Rest> {
    if spec.section.kind == ModuleKind::Standard {
        return Some(Rest::Standard);
    }
    if !spec.section.enabled {
        return Some(Rest::Off("disabled in the configuration".to_owned()));
    }
    if no_persistent_modules {
        return Some(Rest::Off("agent.nopersistmods is on".to_owned()));
    }
    match spec.config.usable() {
        Some(_) => None,
        None => {
            let problem = spec.config.problem().map(ToString::to_string).unwrap_or_default();
            Some(Rest::Off(format!("its configuration is invalid: {problem}")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    fn sequel(module: &mut Module, reason: EndReason) -> Sequel {
        module.sequel(&reason, Duration::ZERO, &RestartSection::default(), Instant::now(), 1.0)
    }

    fn watch(rule: RestartRule) -> Module {
        let mut spec = testing::module("watch");
        spec.section.restart = rule;
        Module { spec: Some(spec), ..Module::new() }
    }

    #[test]
    fn the_rule_decides_which_ends_are_followed_by_a_life() {
        let table = [
            (RestartRule::Permanent, EndReason::Exited(0), true),
            (RestartRule::Permanent, EndReason::Exited(1), true),
            (RestartRule::Transient, EndReason::Exited(0), false),
            (RestartRule::Transient, EndReason::Exited(1), true),
            (RestartRule::Transient, EndReason::HeartbeatLost, true),
            (RestartRule::Temporary, EndReason::Exited(1), false),
        ];
        for (rule, reason, lives_on) in table {
            let follows = sequel(&mut watch(rule), reason.clone());
            assert_eq!(matches!(follows, Sequel::Died(_)), lives_on, "{rule:?} {reason}");
            assert_eq!(follows == Sequel::StaysDown, !lives_on, "{rule:?} {reason}");
        }
    }

    #[test]
    fn an_ordered_end_counts_as_no_death_whatever_the_rule_says() {
        let mut module = watch(RestartRule::Temporary);
        for _ in 0..20 {
            assert_eq!(sequel(&mut module, EndReason::ConfigChanged), Sequel::StartsAnew);
        }

        assert_eq!(module.history.keep(Instant::now()), None);
    }

    #[test]
    fn a_shortage_is_no_death_and_is_tried_again_within_a_second() {
        let mut module = watch(RestartRule::Permanent);
        let shortage = || EndReason::Shortage("no descriptors".to_owned());

        let waits: Vec<_> = (0..6).map(|_| sequel(&mut module, shortage())).collect();

        let expected = [(100, true), (200, false), (400, false), (800, false), (1000, false), (1000, false)];
        for (wait, (ms, first)) in waits.into_iter().zip(expected) {
            assert_eq!(wait, Sequel::WaitsForResources { delay: Duration::from_millis(ms), first });
        }
        assert_eq!(module.history.keep(Instant::now()), None);
        sequel(&mut module, EndReason::Exited(1));
        assert!(matches!(
            sequel(&mut module, shortage()),
            Sequel::WaitsForResources { delay: SHORTAGE_PAUSE, first: true }
        ));
    }

    #[test]
    fn a_module_that_is_gone_or_refuses_is_not_started() {
        let mut gone = watch(RestartRule::Permanent);
        gone.spec = None;
        assert_eq!(sequel(&mut gone, EndReason::Exited(EX_CONFIG)), Sequel::Forgotten);
        let refusing = sequel(&mut watch(RestartRule::Temporary), EndReason::Exited(EX_CONFIG));
        assert_eq!(refusing, Sequel::Refused);
    }

    #[test]
    fn a_refused_configuration_is_left_for_the_one_that_was_confirmed() {
        let mut module = watch(RestartRule::Permanent);
        let newest = module.runnable_config().unwrap().to_owned();
        module.refused_config = Some(newest.clone());
        assert_eq!(module.runnable_config().unwrap().get(), newest.get());
        assert!(!module.goes_back());

        let before = RawValue::from_string(r#"{"before":1}"#.to_owned()).unwrap();
        module.confirmed = Some(Confirmed::now(&before));

        assert!(module.goes_back());
        assert_eq!(module.runnable_config().unwrap().get(), before.get());
        module.refused_config = None;
        assert_eq!(module.runnable_config().unwrap().get(), newest.get());
    }
}
