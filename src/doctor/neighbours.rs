//! Other programs of the same kind beside this agent.

use super::{Check, Outcome, Patient, Verdict, fine, note, trouble};

pub(super) const CHECKS: &[Check] = &[
    Check {
        id: "neighbours.agents",
        title: "other security agents",
        docs: "docs/doctor.md#neighbours",
        run: agents,
    },
    Check {
        id: "neighbours.vigie",
        title: "other security agents",
        docs: "docs/doctor.md#neighbours",
        run: own_kind,
    },
];

/// How a program and this agent get on.
enum Together {
    /// Each does its own.
    Fine,
    /// It can hold up what we read.
    Holds,
    /// Both want the same thing.
    Quarrels,
}

/// Names of processes as the kernel cuts them (15 bytes), the product, and what to know.
const KNOWN: [(&str, &str, Together); 20] = [
    ("auditd", "Linux audit", Together::Fine),
    ("auditbeat", "Auditbeat", Together::Fine),
    ("filebeat", "Filebeat", Together::Fine),
    ("elastic-agent", "Elastic Agent", Together::Fine),
    ("elastic-endpoin", "Elastic Endpoint", Together::Holds),
    ("osqueryd", "osquery", Together::Fine),
    ("orbit", "Fleet's osquery", Together::Fine),
    ("launcher", "Kolide launcher", Together::Fine),
    ("wazuh-agentd", "Wazuh", Together::Fine),
    ("wazuh-syscheckd", "Wazuh FIM", Together::Fine),
    ("ossec-syscheckd", "OSSEC", Together::Fine),
    ("falco", "Falco", Together::Fine),
    ("tetragon", "Tetragon", Together::Fine),
    ("samhain", "Samhain", Together::Fine),
    ("sysmon", "Sysmon for Linux", Together::Fine),
    ("clamonacc", "ClamAV on access", Together::Holds),
    ("wdavdaemon", "Microsoft Defender", Together::Holds),
    ("falcon-sensor", "CrowdStrike Falcon", Together::Holds),
    ("mig-agent", "MIG", Together::Quarrels),
    ("mig-agent-searc", "MIG", Together::Quarrels),
];

/// Name, command line and number of every process.
fn processes(patient: &Patient) -> Vec<(u32, String, Vec<String>)> {
    let entries = std::fs::read_dir(patient.path("/proc")).into_iter().flatten().flatten();
    let of = |pid: u32| {
        let name = patient.text(&format!("/proc/{pid}/comm"))?;
        let command = std::fs::read(patient.path(&format!("/proc/{pid}/cmdline"))).unwrap_or_default();
        let words = command.split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word).into_owned());
        Some((pid, name, words.filter(|word| !word.is_empty()).collect()))
    };
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).filter_map(of).collect()
}

fn agents(patient: &Patient) -> Vec<Outcome> {
    let mut outcomes = Vec::new();
    let found = processes(patient);
    for (comm, product, together) in &KNOWN {
        let Some((pid, ..)) = found.iter().find(|(_, name, _)| name == comm) else { continue };
        let shown = format!("{product} runs here (process {pid})");
        outcomes.push(match together {
            Together::Fine => note(format!("{shown}; both can run")),
            Together::Holds => trouble(
                Verdict::Warn,
                format!("{shown}; it can delay every file access, including Vigie's"),
                "exclude /usr/bin/vigie and agent.state_dir there",
            ),
            Together::Quarrels => trouble(
                Verdict::Warn,
                format!("{shown}; its modules may use the same sockets and files"),
                "run the modules in only one of the two: remove them from the other's configuration, or stop it",
            ),
        });
    }
    if outcomes.is_empty() {
        outcomes.push(fine("none found"));
    }
    outcomes
}

fn own_kind(patient: &Patient) -> Vec<Outcome> {
    let is_agent = |words: &[String]| {
        words.iter().skip(1).find(|word| !word.starts_with('-')).is_some_and(|word| word == "agent")
    };
    let others: Vec<u32> = processes(patient)
        .into_iter()
        .filter(|(pid, name, words)| name == "vigie" && is_agent(words) && Some(*pid) != patient.agent_pid())
        .map(|(pid, ..)| pid)
        .collect();
    vec![if others.is_empty() {
        fine("none")
    } else {
        let remedy = "find out who started them (`ps -fp PID`); two agents that watch the same files duplicate the work";
        trouble(Verdict::Warn, format!("other agents are running: {others:?}"), remedy)
    }]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::tests::Planted;

    #[test]
    fn other_agents_are_named_with_what_to_do() {
        assert_eq!(Planted::new().examined("neighbours.agents").0, Verdict::Ok);
        assert_eq!(
            Planted::new().with("/proc/77/comm", "auditd\n").examined("neighbours.agents").0,
            Verdict::Info
        );
        let (verdict, found) =
            Planted::new().with("/proc/77/comm", "mig-agent\n").examined("neighbours.agents");
        assert_eq!((verdict, found.contains("process 77")), (Verdict::Warn, true));
        assert!(KNOWN.iter().all(|(comm, ..)| comm.len() <= 15));
    }

    #[test]
    fn a_second_agent_is_named_and_the_first_one_and_tools_are_not() {
        let host =
            || Planted::new().with("/proc/4242/comm", "vigie\n").with("/proc/4242/cmdline", "vigie\0agent\0");
        let tool = host().with("/proc/5/comm", "vigie\n").with("/proc/5/cmdline", "vigie\0status\0");
        assert_eq!(tool.examined("neighbours.vigie").0, Verdict::Ok);
        let second = host()
            .with("/proc/5/comm", "vigie\n")
            .with("/proc/5/cmdline", "/opt/vigie\0agent\0--config\0x\0");
        assert_eq!(second.examined("neighbours.vigie").0, Verdict::Warn);
    }
}
