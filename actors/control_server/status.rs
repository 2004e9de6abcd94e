//! The status: what the actors say, put together for clients and metrics.

use std::time::Duration;

use vigie_files::remote;
use vigie_protocol::catalogue::AgentCondition;
use vigie_protocol::condition::{Condition, ConditionSet, ConditionSeverity, StandingCondition, Subject};
use vigie_protocol::control::{
    AgentStatus, FleetStatus, Health, JournalStatus, ModuleState, ModuleStatus, ProcessUse,
};

use super::Asked;
use crate::alert_journal::GetJournalStatus;
use crate::conditions::GetConditions;
use crate::config_loader::GetConfig;
use crate::fleet_link::GetFleetStatus;
use crate::process_use::{module_use, own_use};
use crate::query_router::GetQueryStatus;
use crate::sinks::GetSinks;
use crate::supervisor::GetModules;
use crate::work_threads::{self, Lane};

/// Time in which the actors answer what needs no waiting.
pub(super) const ACTOR_TIMEOUT: Duration = Duration::from_secs(5);

/// Longest of the pauses in which the answer of a file system is waited for; all of them are half a second.
const PROBE_PAUSE_MAX: Duration = Duration::from_millis(256);

impl Asked {
    /// How everything is; nothing when the agent is stopping.
    pub(crate) async fn status(&self) -> Option<AgentStatus> {
        let asked = self;
        let (modules, config, journal, queries, fleet, sinks, conditions) = tokio::join!(
            asked.supervisor.send(GetModules).timeout(ACTOR_TIMEOUT),
            asked.loader.send(GetConfig).timeout(ACTOR_TIMEOUT),
            asked.journal.send(GetJournalStatus).timeout(ACTOR_TIMEOUT),
            asked.router.send(GetQueryStatus).timeout(ACTOR_TIMEOUT),
            asked.fleet.send(GetFleetStatus).timeout(ACTOR_TIMEOUT),
            asked.sinks.send(GetSinks).timeout(ACTOR_TIMEOUT),
            asked.conditions.send(GetConditions).timeout(ACTOR_TIMEOUT),
        );
        let (Ok(mut modules), Ok(config), Ok(journal), Ok((queries, privacy))) =
            (modules, config, journal, queries)
        else {
            return None;
        };
        let (Ok(fleet), Ok(sinks), Ok(mut conditions)) = (fleet, sinks, conditions) else { return None };
        let config = config.status;
        let (log_stalled, state_stalled) = tokio::join!(self.log_stalled(), state_stalled());
        let log_problem = asked.agent_log.status();
        let found = found_now(&journal, fleet.as_ref(), log_problem, log_stalled, state_stalled);
        let about_agent =
            |condition: &Condition| StandingCondition { about: Subject::Agent, condition: condition.clone() };
        conditions.splice(0..0, found.iter().map(about_agent));
        let pids = modules.iter().map(|module| module.pid).collect();
        let (resources, of_modules) = resources_of(pids).await;
        for (module, resources) in modules.iter_mut().zip(of_modules) {
            module.resources = resources;
        }
        for module in &mut modules {
            show_in_module(module, &conditions);
        }
        let agent = &asked.agent;
        Some(AgentStatus {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            hostname: agent.hostname.clone(),
            started_at: agent.started_at.clone(),
            uptime_secs: agent.started.elapsed().as_secs(),
            health: health(&conditions),
            problems: conditions.iter().map(ToString::to_string).collect(),
            conditions,
            config,
            modules,
            journal,
            queries,
            fleet,
            sinks,
            privacy,
            containment: agent.containment.clone(),
            resources,
        })
    }

    /// Asks the file system with the log whether it takes writes, and waits a little for the answer.
    async fn log_stalled(&self) -> Option<String> {
        let log = &self.agent_log;
        log.probe();
        let mut pause = Duration::from_millis(1);
        while let Some(silent) = log.silent_for() {
            if pause > PROBE_PAUSE_MAX {
                return Some(not_responding("the log", silent));
            }
            tokio::time::sleep(pause).await;
            pause *= 2;
        }
        None
    }
}

/// What the agent and these processes use. Reads `/proc`.
async fn resources_of(pids: Vec<Option<u32>>) -> (Option<ProcessUse>, Vec<Option<ProcessUse>>) {
    let count = pids.len();
    let reading = work_threads::run(Lane::Modules, move || {
        let of_modules = pids.into_iter().map(|pid| pid.and_then(module_use)).collect();
        (own_use(), of_modules)
    });
    // A disk that hangs holds up that thread: the status comes all the same.
    let read = tokio::time::timeout(PROBE_PAUSE_MAX, reading).await;
    read.ok().and_then(Result::ok).unwrap_or_else(|| (None, vec![None; count]))
}

/// Asks the file system with the state whether it takes writes, and waits a little for the answer.
async fn state_stalled() -> Option<String> {
    let mut pause = Duration::from_millis(1);
    let mut probe = (!remote::is_probing()).then(|| work_threads::run(Lane::Journal, remote::probe));
    loop {
        // An order that hangs holds up the probe as well.
        let waiting = match &mut probe {
            Some(probe) => tokio::time::timeout(pause, probe).await.is_err(),
            None => remote::is_probing(),
        };
        if !waiting {
            return None;
        }
        let busy = remote::busy_for().unwrap_or_default();
        if pause > PROBE_PAUSE_MAX {
            return Some(not_responding("agent.state_dir", busy));
        }
        if probe.is_none() {
            tokio::time::sleep(pause).await;
        }
        pause *= 2;
    }
}

/// What is wrong with parts that are asked for it at the moment of the status.
fn found_now(
    journal: &JournalStatus,
    fleet: Option<&FleetStatus>,
    log_problem: Option<String>,
    log_stalled: Option<String>,
    state_stalled: Option<String>,
) -> ConditionSet {
    let now = jiff::Timestamp::now().to_string();
    let mut set = ConditionSet::default();
    let mut note = |condition, detail: Option<String>| {
        if let Some(detail) = detail {
            set.raise(condition, &detail, &now);
        }
    };
    note(AgentCondition::JournalUnwritable, journal.error.clone());
    note(AgentCondition::JournalDamaged, journal.damage.clone());
    note(AgentCondition::JournalTrimmed, journal.trimmed.clone());
    note(AgentCondition::JournalUntidy, journal.trouble.clone());
    note(
        AgentCondition::FleetNotJoined,
        fleet.filter(|fleet| !fleet.named).and_then(|fleet| fleet.problem.clone()),
    );
    note(AgentCondition::LogUnwritable, log_problem);
    note(AgentCondition::LogStalled, log_stalled);
    note(AgentCondition::StateStalled, state_stalled);
    set
}

/// Says for how long something has not responded, once that is a time for people.
fn not_responding(what: &str, time: Duration) -> String {
    match time.as_secs() {
        0 => format!("the file system of {what} does not respond"),
        seconds => format!("the file system of {what} has not responded for {seconds} s"),
    }
}

/// The worst of everything.
fn health(conditions: &[StandingCondition]) -> Health {
    let worst = conditions.iter().map(|standing| standing.condition.severity).max();
    match worst {
        None => Health::Healthy,
        Some(ConditionSeverity::Warning) => Health::Degraded,
        Some(ConditionSeverity::Failed) => Health::Failed,
    }
}

/// Shows what is wrong with a module in its own line as well.
fn show_in_module(module: &mut ModuleStatus, conditions: &[StandingCondition]) {
    let about = Subject::Module(module.name.clone());
    let of_module = conditions.iter().filter(|standing| standing.about == about);
    let texts: Vec<String> = of_module
        .map(|standing| match standing.condition.detail.as_str() {
            "" => standing.condition.name.clone(),
            detail => format!("{}: {detail}", standing.condition.name),
        })
        .collect();
    if texts.is_empty() {
        return;
    }
    if module.state == ModuleState::Running {
        module.state = ModuleState::Degraded;
    }
    module.reason = Some(texts.join("; "));
}
