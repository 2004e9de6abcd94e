//! Alerts on their way to whoever reads the alerts of the fleet: none lost, none twice, in their order.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::json;
use vigie_actors::alert_journal::NewAlert;
use vigie_fleet::alert_order::{AlertOrder, Told};
use vigie_fleet::answer::{FleetAlert, Sealed};
use vigie_fleet::subjects;

use crate::crowd::Crowd;
use crate::harness::{Fleet, number, patiently, server_is_missing};
use crate::host::{Agent, Settings, VIGIE, persistent};

/// Restarts that neither wait nor stop.
const EAGER: &str = "[restart]\nbackoff_initial = \"20ms\"\nbackoff_max = \"20ms\"\nbreaker_deaths = 0\n";

/// Alerts that an agent is given at once.
const BATCH: usize = 50;

fn batch(first: usize, count: usize) -> Vec<NewAlert> {
    let alert = |number| NewAlert { id: Some(format!("life-{number}")), message: format!("alert {number}") };
    (first..first + count).map(alert).collect()
}

/// The numbers of each journal, which must be there once each.
fn numbers(alerts: &[FleetAlert]) -> BTreeMap<&str, BTreeSet<u64>> {
    let mut numbers: BTreeMap<&str, BTreeSet<u64>> = BTreeMap::new();
    for alert in alerts {
        let new = numbers.entry(alert.agent.as_str()).or_default().insert(alert.seq);
        assert!(new, "{}: alert {} is in the stream twice", alert.agent, alert.seq);
    }
    numbers
}

#[test]
fn kill_9_of_broker_and_agents_loses_and_doubles_no_alert() {
    if server_is_missing() {
        return;
    }
    let agents = number("VIGIE_FLEET_AGENTS", 20).max(6);
    let broker_kills = number("VIGIE_FLEET_BROKER_KILLS", 3);
    let agent_kills = number("VIGIE_FLEET_AGENT_KILLS", 4);
    let each = (number("VIGIE_FLEET_ALERTS", 20_000) / agents).next_multiple_of(BATCH);
    let processes = (agents / 20).clamp(2, 10);
    let program = Path::new(VIGIE).with_file_name("examples").join("alert_storm");
    assert!(program.exists(), "{program:?} is missing; run: cargo build --example alert_storm");
    let storm = format!(
        "{EAGER}[[module]]\nname = \"alert_storm\"\nkind = \"persistent\"\ncommand = [{program:?}, \"{each}\"]\n"
    );
    let mut fleet = Fleet::new();
    let members: Vec<_> = (0..processes).map(|at| fleet.host(&format!("real-{at}"), &storm)).collect();
    let names: Vec<String> = (0..agents - processes).map(|at| format!("many-{at}")).collect();
    let crowd = Crowd::new(&mut fleet, &names, "");
    let mut running: Vec<Option<Agent<'_>>> =
        members.iter().map(|member| Some(member.host.start())).collect();
    crowd.start(&names);
    crowd.wait_connected();

    let rounds = each / BATCH;
    let (mut killed_brokers, mut killed_agents) = (0, 0);
    for round in 0..rounds {
        crowd.alerts(batch(round * BATCH, BATCH));
        while killed_brokers < broker_kills && killed_brokers * rounds <= round * broker_kills {
            fleet.kill_broker();
            fleet.restart_broker();
            killed_brokers += 1;
        }
        while killed_agents < agent_kills && killed_agents * rounds <= round * agent_kills {
            let at = killed_agents % processes;
            running[at].take().unwrap().kill();
            running[at] = Some(members[at].host.start());
            killed_agents += 1;
        }
    }
    assert_eq!((killed_brokers, killed_agents), (broker_kills, agent_kills));

    crowd.wait("all alerts are sent", |status| {
        status.alerts_waiting == 0 && status.alerts_sent == each as u64
    });
    for member in &members {
        patiently("the storm is over", || {
            let counter = member.host.path("state/modules/alert_storm/counter");
            let counted: usize = std::fs::read_to_string(counter).ok()?.parse().ok()?;
            let status = member.host.status();
            let (fleet, journal) = (&status["fleet"], &status["journal"]);
            let all_sent = fleet["alerts_waiting"] == 0 && fleet["alerts_sent"] == journal["recorded"];
            (counted == each && journal["pending"] == 0 && all_sent).then_some(())
        });
    }
    // What was sent and not acknowledged when an agent was killed is recorded by the next one before it stops.
    running.clear();
    let running: Vec<_> = members.iter().map(|member| member.host.start()).collect();
    for member in &members {
        patiently("the last are sent", || {
            let status = member.host.status();
            let (fleet, journal) = (&status["fleet"], &status["journal"]);
            (fleet["connected"] == true && fleet["alerts_waiting"] == 0 && journal["pending"] == 0)
                .then_some(())
        });
    }
    drop(running);

    let (alerts, flagged) = fleet.alerts();
    assert_eq!(flagged, 0);
    let numbers = numbers(&alerts);
    for name in &names {
        assert_eq!(numbers[name.as_str()], (1..=each as u64).collect(), "{name}");
    }
    for (at, member) in members.iter().enumerate() {
        let name = format!("real-{at}");
        let recorded: BTreeSet<u64> =
            member.host.journal().iter().map(|record| record["seq"].as_u64().unwrap()).collect();
        assert_eq!(numbers[name.as_str()], recorded, "{name}");
        let told: BTreeSet<&str> = alerts
            .iter()
            .filter(|alert| alert.agent.as_str() == name)
            .map(|alert| &alert.message[..])
            .collect();
        assert_eq!(told.len(), each, "{name}: every number is there");
    }
    println!(
        "{} alerts of {agents} agents, {broker_kills} broker kills, {agent_kills} agent kills",
        alerts.len()
    );
}

/// What comes again after the mode was switched is masked now, and the same alert: no second agent made it.
#[test]
fn extra_privacy_masks_what_the_broker_gets_and_its_switch_is_no_second_agent() {
    if server_is_missing() {
        return;
    }
    let mut fleet = Fleet::new();
    let text = json!({"severity": "high", "event": "changed", "path": "/home/ann/letter", "number": "%d"});
    let alerter = persistent("alerter.py", &["3", &text.to_string()]);
    let member = fleet.host("web-1", &alerter);
    let configure = |privacy: bool| {
        let agent = if privacy { "extraprivacymode = true" } else { "extraprivacymode = false" };
        member
            .host
            .configure(&Settings { agent, ..Settings::default() }, &format!("{}\n{alerter}", member.section));
    };
    let bytes_from = |first: usize| -> Vec<String> {
        let entries = fleet.read(subjects::ALERTS, subjects::EVERY_ALERT);
        entries[first..].iter().map(|entry| String::from_utf8(entry.value.to_vec()).unwrap()).collect()
    };
    configure(false);
    let agent = member.host.start();
    let all_sent = |status: &serde_json::Value| {
        status["alerts_sent"].as_u64() >= Some(3) && status["alerts_waiting"] == 0
    };
    member.wait("the alerts are sent", all_sent);
    let first = bytes_from(0);
    assert!(first.len() >= 3 && first.iter().all(|bytes| bytes.contains("/home/ann/letter")), "{first:?}");

    // The switch begins the membership anew, which sends the alerts of the last minutes again.
    configure(true);
    agent.signal(Signal::SIGHUP);
    let came_from = |before: usize| {
        let again = patiently("they come again", || Some(bytes_from(before)).filter(|new| new.len() >= 3));
        member.wait("the alerts are sent", all_sent);
        again
    };
    for bytes in came_from(first.len()) {
        assert!(!bytes.contains("ann") && !bytes.contains("letter"), "{bytes}");
        assert!(bytes.contains("changed") && bytes.contains("high"), "{bytes}");
    }
    // Off again, as the file says so, at a restart.
    drop(agent);
    configure(false);
    let before = bytes_from(0).len();
    let _agent = member.host.start();
    patiently("they come in full", || {
        let came = bytes_from(before);
        (came.iter().filter(|bytes| bytes.contains("/home/ann/letter")).count() >= 3).then_some(())
    });
    member.wait("the alerts are sent", all_sent);

    let mut order = AlertOrder::from_start(0);
    let mut told = Vec::new();
    for bytes in bytes_from(0) {
        let sealed: Sealed = serde_json::from_str(&bytes).unwrap();
        order.take(serde_json::from_str(&sealed.text).unwrap(), 0, &mut told);
    }
    order.finish(&mut told);
    assert!(told.iter().all(|one| matches!(one, Told::Alert(_))), "{told:#?}");
}

/// Stays away for as long as the environment says; without it not at all.
#[expect(clippy::disallowed_methods, reason = "an outage of a given length is what somebody asked for")]
fn outage() {
    std::thread::sleep(Duration::from_secs(number("VIGIE_FLEET_OUTAGE", 0) as u64));
}

#[test]
fn alerts_of_an_outage_arrive_in_order_and_without_a_gap() {
    if server_is_missing() {
        return;
    }
    let agents = number("VIGIE_FLEET_AGENTS", 20);
    let mut fleet = Fleet::new();
    let names: Vec<String> = (0..agents).map(|at| format!("many-{at}")).collect();
    let crowd = Crowd::new(&mut fleet, &names, "");
    crowd.start(&names);
    crowd.wait_connected();
    crowd.alerts(batch(0, 1));
    crowd.wait("the first is sent", |status| status.alerts_sent == 1);

    fleet.kill_broker();
    for at in 0..20 {
        crowd.alerts(batch(1 + at * BATCH, BATCH));
    }
    outage();
    fleet.restart_broker();

    crowd.wait("all are sent", |status| status.alerts_waiting == 0);
    let (alerts, flagged) = fleet.alerts();
    assert_eq!((alerts.len(), flagged), (agents * 1001, 0));
    let mut order = AlertOrder::new(5_000);
    let mut told = Vec::new();
    for alert in alerts {
        order.take(alert, 0, &mut told);
    }
    assert!(!order.waits());
    let mut next: BTreeMap<String, usize> = BTreeMap::new();
    for one in told {
        let Told::Alert(alert) = one else { panic!("{one:?}") };
        let next = next.entry(alert.agent.to_string()).or_default();
        assert_eq!(alert.message, format!("alert {next}"));
        *next += 1;
    }
}

/// The alerts that the fleet has, their numbers, and how many lesser ones the agent says were deleted.
fn left_and_given_up(fleet: &Fleet) -> (Vec<FleetAlert>, BTreeSet<u64>, u64) {
    let (alerts, _) = fleet.alerts();
    let mut numbers: BTreeSet<u64> = BTreeSet::new();
    let mut given_up = 0;
    for alert in &alerts {
        let message: serde_json::Value = serde_json::from_str(&alert.message).unwrap();
        if alert.module == "agent" {
            assert_eq!(message["event"], "alerts_given_up");
            assert_eq!((&message["high"], &message["critical"]), (&json!(0), &json!(0)), "{message}");
            given_up += message["low"].as_u64().unwrap() + message["medium"].as_u64().unwrap();
        } else {
            numbers.insert(message["number"].as_u64().unwrap());
        }
    }
    (alerts, numbers, given_up)
}

#[test]
fn a_full_journal_gives_up_the_oldest_of_the_least_severe_and_says_how_many() {
    if server_is_missing() {
        return;
    }
    let mut fleet = Fleet::new();
    let name = "small".to_owned();
    let names = std::slice::from_ref(&name);
    // Room for the severe ones with their checksums, and with the notes of what was deleted between them.
    let crowd = Crowd::new(&mut fleet, names, "[journal]\nsegment_bytes = \"96 KiB\"\nkeep_segments = 2\n");
    crowd.start(names);
    crowd.wait_connected();
    let alert = |number: usize| {
        let severity = if number.is_multiple_of(40) { "critical" } else { "low" };
        let message = json!({"severity": severity, "alert": "x".repeat(150), "number": number}).to_string();
        NewAlert { id: Some(format!("life-{number}")), message }
    };
    crowd.alerts(vec![alert(0)]);
    crowd.wait("the first is sent", |status| status.alerts_sent == 1);

    fleet.kill_broker();
    for first in (1..4000).step_by(BATCH) {
        crowd.alerts((first..(first + BATCH).min(4000)).map(alert).collect());
    }
    fleet.restart_broker();

    crowd.wait("what is left is sent", |status| status.alerts_waiting == 0);
    let all = 4000;
    // What is deleted within a second is told together.
    let (alerts, numbers, given_up) = patiently("everything that went is told", || {
        let (alerts, numbers, given_up) = left_and_given_up(&fleet);
        (numbers.len() as u64 + given_up == all).then_some((alerts, numbers, given_up))
    });
    let critical: Vec<u64> = (0..4000).step_by(40).collect();
    assert!(critical.iter().all(|number| numbers.contains(number)), "no severe alert went");
    let kept_low: Vec<u64> = numbers.iter().copied().filter(|number| !number.is_multiple_of(40)).collect();
    let newest: Vec<u64> = (4000 - kept_low.len() as u64..4000).collect();
    assert!(
        kept_low.first() >= newest.first().map(|first| first.saturating_sub(200)).as_ref(),
        "the oldest went: {kept_low:?}"
    );
    let mut order = AlertOrder::new(5_000);
    let mut told = Vec::new();
    for alert in alerts {
        order.take(alert, 0, &mut told);
    }
    assert!(!order.waits());
    let gaps: u64 = told
        .iter()
        .filter_map(|one| match one {
            Told::Gap { first_seq, last_seq, given_up: true, .. } => Some(last_seq - first_seq + 1),
            Told::Alert(_) => None,
            other => panic!("{other:?}"),
        })
        .sum();
    assert!(gaps > 2_000, "{gaps}");
    assert_eq!(gaps, given_up, "the reader is told of exactly what was given up");
}
