//! Alerts that reach modules which take the alerts of others.

use std::collections::BTreeSet;
use std::fs;

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::harness::{Host, IMPATIENT, Settings, module, persistent, signal, wait_until};

/// What a dispatching module noted, in order.
fn delivered(host: &Host, name: &str) -> Vec<Value> {
    let text = fs::read_to_string(host.path(&format!("state/modules/{name}/delivered")));
    // The last line may be half written.
    text.unwrap_or_default().lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

fn messages(delivered: &[Value]) -> BTreeSet<&str> {
    delivered.iter().filter_map(|alert| alert["message"].as_str()).collect()
}

/// A module that takes alerts and acknowledges them as long as `silent` is not there.
fn dispatches(host: &Host, name: &str) -> String {
    let silent = host.path("silent");
    module("persistent", name, "dispatches.py", &[silent.to_str().unwrap()], "")
}

#[test]
fn each_alert_of_another_module_arrives_once_with_an_id_and_is_acknowledged_for_ever() {
    let host = Host::new(&Settings::default(), "");
    let modules =
        persistent("alerter.py", &["200"]) + &dispatches(&host, "first") + &dispatches(&host, "second");
    host.configure(&Settings::default(), &modules);
    let agent = host.start();

    for name in ["first", "second"] {
        wait_until("all arrive", || (delivered(&host, name).len() == 200).then_some(()));
        let alerts = delivered(&host, name);
        let ids: BTreeSet<_> = alerts.iter().filter_map(|alert| alert["id"].as_str()).collect();
        assert_eq!((messages(&alerts).len(), ids.len()), (200, 200));
    }
    assert_eq!(agent.stop(), Some(0));

    // The next life of everything begins where this one ended, and the alerter sends new ones.
    let _agent = host.start();
    wait_until("the new ones arrive", || (host.journal().len() == 400).then_some(()));
    wait_until("the new ones arrive", || (delivered(&host, "first").len() >= 400).then_some(()));
    let alerts = delivered(&host, "first");
    let ids: BTreeSet<_> = alerts.iter().filter_map(|alert| alert["id"].as_str()).collect();
    assert_eq!(ids.len(), 400);
    assert_eq!(alerts.len(), 400, "what was acknowledged before an orderly end came again");
}

#[test]
fn what_is_not_acknowledged_is_delivered_again_by_the_next_life_of_the_module() {
    let host = Host::new(&IMPATIENT, "");
    fs::write(host.path("silent"), "").unwrap();
    let modules = persistent("alerter.py", &["30"]) + &dispatches(&host, "deaf");
    host.configure(&IMPATIENT, &modules);
    let _agent = host.start();
    wait_until("all arrive", || (delivered(&host, "deaf").len() == 30).then_some(()));

    fs::remove_file(host.path("silent")).unwrap();
    signal(&host.module("deaf")["pid"], Signal::SIGKILL);

    wait_until("all arrive again", || (delivered(&host, "deaf").len() == 60).then_some(()));
    let alerts = delivered(&host, "deaf");
    let ids: BTreeSet<_> = alerts.iter().filter_map(|alert| alert["id"].as_str()).collect();
    assert_eq!(ids.len(), 30, "the same ids");
}

#[test]
fn a_module_that_does_not_take_its_alerts_holds_up_nobody() {
    let host = Host::new(&Settings::default(), "");
    fs::write(host.path("silent"), "").unwrap();
    let modules = persistent("alerter.py", &["3000"]) + &dispatches(&host, "deaf");
    host.configure(&Settings::default(), &modules);
    let _agent = host.start();

    wait_until("all alerts are recorded", || (host.journal().len() == 3000).then_some(()));

    // It gets no more than a window of them, and still answers heartbeats.
    wait_until("a window is full", || (delivered(&host, "deaf").len() == 64).then_some(()));
    let pid = host.wait_running("deaf")["pid"].clone();
    wait_until("heartbeats go on", || host.module("deaf")["heartbeat_us"].is_number().then_some(()));
    assert_eq!(host.module("deaf")["pid"], pid);
    assert_eq!(delivered(&host, "deaf").len(), 64);
}

#[test]
fn kill_9_of_agent_and_module_loses_no_alert() {
    let host = Host::new(&IMPATIENT, "");
    host.configure(&IMPATIENT, &(persistent("alerter.py", &["100"]) + &dispatches(&host, "takes")));
    for round in 1..=4 {
        let agent = host.start();
        wait_until("alerts arrive", || (delivered(&host, "takes").len() > 40 * round).then_some(()));
        if round % 2 == 0 {
            signal(&host.module("takes")["pid"], Signal::SIGKILL);
        }
        agent.kill();
        host.wait_empty();
    }
    let _agent = host.start();

    wait_until("every recorded alert arrives", || {
        let recorded = host.journal();
        let known = delivered(&host, "takes");
        let ids: BTreeSet<_> = known.iter().filter_map(|alert| alert["id"].as_str()).collect();
        let seqs: BTreeSet<_> =
            ids.iter().filter_map(|id| id.rsplit_once('-')?.1.parse::<u64>().ok()).collect();
        let all = recorded.iter().all(|record| seqs.contains(&record["seq"].as_u64().unwrap_or(0)));
        (all && recorded.len() >= 100).then_some(())
    });
}

#[test]
fn a_module_of_migs_kind_gets_alerts_without_ids_and_need_not_acknowledge() {
    let host = Host::new(&Settings::default(), "");
    let mig = module("persistent", "dispatch", "dispatches.py", &[], "");
    let named = module("persistent", "named", "dispatches.py", &[], "dispatch = true");
    let other = module("persistent", "other", "dispatches.py", &[], "");
    host.configure(&Settings::default(), &(persistent("alerter.py", &["100"]) + &mig + &named + &other));
    let _agent = host.start();

    for name in ["dispatch", "named"] {
        wait_until("all arrive", || (delivered(&host, name).len() == 100).then_some(()));
        let alerts = delivered(&host, name);
        assert!(alerts.iter().all(|alert| alert.get("id").is_none()), "{alerts:?}");
        assert_eq!(messages(&alerts).len(), 100);
    }
    host.wait_running("other");
    assert_eq!(delivered(&host, "other"), [] as [Value; 0]);
}
