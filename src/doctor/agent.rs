//! The agent that runs: whether it does, what it says is wrong, and whether it is of this version.

use vigie_protocol::catalogue;
use vigie_protocol::condition::ConditionSeverity;

use super::{Check, Outcome, Patient, Verdict, fine, trouble, unknown};

pub(super) const CHECKS: &[Check] = &[
    Check { id: "agent.running", title: "whether an agent runs", docs: "docs/doctor.md#agent", run: running },
    Check {
        id: "agent.version",
        title: "versions of agent and tools",
        docs: "docs/doctor.md#agent",
        run: version,
    },
    Check {
        id: "agent.conditions",
        title: "conditions of the agent",
        docs: "docs/conditions.md",
        run: conditions,
    },
    Check {
        id: "agent.restarts",
        title: "modules that restart repeatedly",
        docs: "docs/modules.md",
        run: restarts,
    },
];

fn running(patient: &Patient) -> Vec<Outcome> {
    vec![match &patient.status {
        Ok(status) => fine(format!("process {} since {}", status.pid, status.started_at)),
        Err(absent) if absent.is_hidden => {
            let remedy = "run the doctor as root, or as a member of the group in agent.operators_group";
            unknown(format!("it is not known whether an agent runs: {}", absent.why), remedy)
        }
        Err(absent) => trouble(
            Verdict::Fail,
            absent.why.clone(),
            "start it: `systemctl start vigie`; if you are not root, use `sudo` or give its --run-dir",
        ),
    }]
}

fn version(patient: &Patient) -> Vec<Outcome> {
    let Ok(status) = &patient.status else { return vec![patient.without_agent("versions are not compared")] };
    let own = env!("CARGO_PKG_VERSION");
    vec![if status.version == own {
        fine(own)
    } else {
        let remedy = "restart the agent: `systemctl restart vigie`";
        trouble(Verdict::Warn, format!("the agent is {} and this program is {own}", status.version), remedy)
    }]
}

fn conditions(patient: &Patient) -> Vec<Outcome> {
    let Ok(status) = &patient.status else { return vec![patient.without_agent("conditions are unknown")] };
    if status.conditions.is_empty() {
        return vec![fine("nothing")];
    }
    let of = |standing: &vigie_protocol::condition::StandingCondition| {
        let name = &standing.condition.name;
        let verdict = match standing.condition.severity {
            ConditionSeverity::Warning => Verdict::Warn,
            ConditionSeverity::Failed => Verdict::Fail,
        };
        let remedy = catalogue::all().find(|entry| entry.name == name).map_or_else(
            || format!("see the module's documentation and `vigie module logs`, about {name}"),
            |entry| entry.remedy.to_owned(),
        );
        trouble(verdict, standing.to_string(), remedy)
    };
    status.conditions.iter().map(of).collect()
}

fn restarts(patient: &Patient) -> Vec<Outcome> {
    let Ok(status) = &patient.status else {
        return vec![patient.without_agent("restarts of modules are unknown")];
    };
    let hours = status.uptime_secs / 3600 + 1;
    let many = status.modules.iter().filter(|module| module.restarts > 3 * hours);
    let mut outcomes: Vec<Outcome> = many
        .map(|module| {
            let last = module.last_exit.as_deref().unwrap_or("unknown");
            let found = format!("{} was restarted {} times; last end: {last}", module.name, module.restarts);
            trouble(
                Verdict::Warn,
                found,
                format!("`vigie module logs {}`; `vigie explain '{last}'`", module.name),
            )
        })
        .collect();
    if outcomes.is_empty() {
        outcomes.push(fine("none"));
    }
    outcomes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::tests::Planted;

    #[test]
    fn an_agent_that_does_not_run_is_a_failure() {
        assert_eq!(Planted::new().examined("agent.running").0, Verdict::Ok);
        assert_eq!(Planted::new().without_agent().examined("agent.running").0, Verdict::Fail);
    }

    /// The run directory of an agent that was killed refuses a stranger as that of one that runs does.
    #[test]
    fn whether_an_agent_runs_that_this_user_may_not_ask_is_unknown() {
        let (verdict, found) = Planted::new().says_nothing("no access", true).examined("agent.running");

        assert_eq!(
            (verdict, found.as_str()),
            (Verdict::Unknown, "it is not known whether an agent runs: no access")
        );
    }

    #[test]
    fn an_agent_that_does_not_respond_is_not_said_to_be_absent() {
        let mute = Planted::new().says_nothing("it did not respond", false);

        assert_eq!(
            mute.examined("agent.version"),
            (Verdict::Info, "it did not respond; versions are not compared".to_owned())
        );
    }

    #[test]
    fn an_agent_of_another_version_is_named() {
        let own = Planted::new().says(|status| status.version = env!("CARGO_PKG_VERSION").to_owned());
        assert_eq!(own.examined("agent.version").0, Verdict::Ok);
        assert_eq!(
            Planted::new().says(|status| status.version = "0.0.1".to_owned()).examined("agent.version").0,
            Verdict::Warn
        );
    }

    #[test]
    fn conditions_come_with_the_remedy_of_the_catalogue() {
        assert_eq!(Planted::new().examined("agent.conditions").0, Verdict::Warn);
        assert_eq!(
            Planted::new().says(|status| status.conditions.clear()).examined("agent.conditions").0,
            Verdict::Ok
        );
        let host = Planted::new();
        assert!(
            conditions(&host.patient)[0].remedy.contains("logging.file"),
            "{:?}",
            conditions(&host.patient)
        );
    }

    #[test]
    fn a_module_that_ends_again_and_again_is_named() {
        assert_eq!(Planted::new().examined("agent.restarts").0, Verdict::Ok);
        let restless = Planted::new().says(|status| status.modules[1].restarts = 100);
        assert_eq!(restless.examined("agent.restarts").0, Verdict::Warn);
    }
}
