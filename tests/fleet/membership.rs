//! Joining, leaving and what an agent shows.

use std::collections::BTreeSet;
use std::fs;

use nix::sys::signal::Signal;
use nix::unistd::Pid;
use serde_json::json;
use vigie_fleet::answer::AnswerStatus;

use crate::harness::{
    Fleet, action, agent, alice, document, id_of, patiently, server_is_missing, sign, with,
};
use crate::host::{Host, Settings, persistent};

/// How many of a process' sockets are internet sockets.
fn internet_sockets(pid: Pid) -> usize {
    let mut inodes = BTreeSet::new();
    for table in ["tcp", "tcp6", "udp", "udp6", "raw", "raw6"] {
        let text = fs::read_to_string(format!("/proc/{pid}/net/{table}")).unwrap_or_default();
        inodes
            .extend(text.lines().skip(1).filter_map(|line| Some(line.split_whitespace().nth(9)?.to_owned())));
    }
    let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten();
    descriptors
        .filter_map(|entry| fs::read_link(entry.path()).ok())
        .filter_map(|link| Some(link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned()))
        .filter(|inode| inodes.contains(inode))
        .count()
}

fn threads(pid: Pid) -> usize {
    fs::read_dir(format!("/proc/{pid}/task")).unwrap().count()
}

#[test]
fn an_agent_joins_shows_itself_and_answers_a_signed_action() {
    if server_is_missing() {
        return;
    }
    let mut fleet = Fleet::new();
    let member = fleet.host("web-1", &persistent("alerter.py", &["3"]));
    let _agent = member.host.start();

    let status = member.wait_connected();

    assert_eq!(
        (&status["org"], &status["agent"], &status["policy_version"]),
        (&json!("example"), &json!("web-1"), &json!(1))
    );
    assert_eq!(status["problem"], json!(null), "{status}");
    assert_eq!(status["key"].as_str().unwrap(), fleet.enrolled_key(&agent("web-1")).unwrap().text());
    let facts = patiently("facts are shown", || fleet.facts("web-1"));
    assert_eq!((&facts["agent"], &facts["os"]), (&json!("web-1"), &json!("linux")));
    let ops = json!([{"module": "netstat", "params": {"listening_port": ["1"]}}]);
    let id = fleet.ask(&with("ops", ops));
    let answer = &fleet.answers(&id, 1)["web-1"];
    assert_eq!(answer.status, AnswerStatus::Ok, "{answer:?}");
    assert!(answer.operations[0].result.as_ref().unwrap().get().contains("\"foundanything\""), "{answer:?}");
    member.wait("all alerts are sent", |status| status["alerts_sent"] == 3 && status["alerts_waiting"] == 0);
    let (alerts, flagged) = fleet.alerts();
    let messages: Vec<_> = alerts.iter().map(|alert| alert.message.as_str()).collect();
    assert_eq!((messages, flagged), (vec!["alert 0", "alert 1", "alert 2"], 0));
    let audit = patiently("it is reported", || Some(fleet.audit("web-1")).filter(|audit| !audit.is_empty()));
    assert_eq!(
        (audit.len(), audit[0].outcome.as_str(), &audit[0].signers[..]),
        (1, "accepted", &["alice".to_owned()][..])
    );
    assert_eq!(member.status()["outcomes"], json!({"accepted": 1}));
    let shown = member.host.vigie(&["status", "--json"]);
    let shown: serde_json::Value = serde_json::from_str(&shown.out).unwrap();
    assert_eq!(shown["fleet"]["connected"], true, "{shown}");
}

#[test]
fn only_an_agent_of_a_fleet_has_an_internet_socket_and_no_thread_more() {
    if server_is_missing() {
        return;
    }
    let alone = Host::new(&Settings::default(), "");
    let alone_agent = alone.start();
    let mut fleet = Fleet::new();
    let member = fleet.host("web-1", "");
    let agent = member.host.start();
    member.wait_connected();
    let id = fleet.ask(&action());
    fleet.answers(&id, 1);

    assert_eq!(internet_sockets(alone_agent.pid()), 0);
    assert_eq!(internet_sockets(agent.pid()), 1);
    // All threads are made at the start, whatever the agent does later.
    assert_eq!(threads(agent.pid()), threads(alone_agent.pid()));
}

#[test]
fn a_reload_joins_rejoins_and_leaves() {
    if server_is_missing() {
        return;
    }
    let mut fleet = Fleet::new();
    let member = fleet.host("web-1", "");
    member.configure_with("", &[], "");
    let agent = member.host.start();
    assert!(member.status().is_null());
    assert_eq!(internet_sockets(agent.pid()), 0);

    member.configure("", "");
    agent.signal(Signal::SIGHUP);
    member.wait("it joins", |status| status["connected"] == true);
    let first = fleet.ask(&action());
    fleet.answers(&first, 1);
    assert_eq!(patiently("facts", || fleet.facts("web-1"))["tags"], json!({}));

    member.configure("", "[tags]\nenv = \"prod\"\n");
    agent.signal(Signal::SIGHUP);
    patiently("changed tags are shown", || (fleet.facts("web-1")?["tags"]["env"] == "prod").then_some(()));
    let second = fleet.ask(&with("target", json!("tag.env == \"prod\"")));
    fleet.answers(&second, 1);

    member.configure("groups = [\"db\"]\n", "[tags]\nenv = \"prod\"\n");
    agent.signal(Signal::SIGHUP);
    patiently("it joins anew", || (fleet.facts("web-1")?["groups"] == json!(["db"])).then_some(()));
    let third = with("target", json!("group has \"db\""));
    fleet.send(&sign(&third, &[&alice()]));
    fleet.answers(&id_of(&third), 1);
    assert_eq!(member.trace(), [first, second, id_of(&third)].map(|id| id.to_string()), "each ran once");

    member.configure_with("", &[], "");
    agent.signal(Signal::SIGHUP);
    patiently("it leaves", || {
        (internet_sockets(agent.pid()) == 0 && member.status().is_null()).then_some(())
    });
}

#[test]
fn agents_go_where_the_signed_policy_says_that_the_brokers_are() {
    if server_is_missing() {
        return;
    }
    let mut fleet = Fleet::without_policy();
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut policy = document();
    policy["brokers"] = json!([format!("nats://127.0.0.1:{free}")]);
    fleet.publish_policy(&policy);
    let member = fleet.host("web-1", "");
    let running = member.host.start();
    // Nobody is there yet: it stays with the broker of its configuration.
    member.wait_connected();
    let before = fleet.broker.url();

    fleet.move_broker(free);

    assert_ne!(fleet.broker.url(), before);
    fleet.publish_policy(&document_of(2, &policy));
    member.wait("it follows", |status| status["connected"] == true && status["policy_version"] == 2);
    let id = fleet.ask(&action());
    fleet.answers(&id, 1);
    // It is in the stored policy, so a restart goes there too.
    drop(running);
    let _running = member.host.start();
    member.wait_connected();
}

/// The same with another version.
fn document_of(version: u64, policy: &serde_json::Value) -> serde_json::Value {
    let mut policy = policy.clone();
    policy["version"] = json!(version);
    policy
}

/// What is wrong with the link has a name of its own each, from when it begins to when it ends.
#[test]
fn what_keeps_the_link_from_working_is_named() {
    if server_is_missing() {
        return;
    }
    let mut fleet = Fleet::without_policy();
    let member = fleet.host("web-1", "");
    // A log of actions that is none.
    let log = member.host.path("state/fleet/replay.log");
    std::fs::create_dir_all(&log).unwrap();
    let _agent = member.host.start();
    let stands = |name: &str| member.host.condition("agent", name).is_some();
    patiently("the log is named", || stands("replay-log-unusable").then_some(()));
    std::fs::remove_dir(&log).unwrap();
    patiently("the policy is named", || stands("fleet-policy-missing").then_some(()));
    assert!(!stands("replay-log-unusable") && !stands("fleet-not-joined"));
    fleet.publish_policy(&document());
    patiently("there is a policy", || (!stands("fleet-policy-missing")).then_some(()));
    fleet.kill_broker();
    patiently("the broker is named", || stands("fleet-disconnected").then_some(()));
    assert!(!stands("fleet-not-joined"));
    fleet.restart_broker();
    patiently("it is connected", || (!stands("fleet-disconnected")).then_some(()));
    // Somebody writes under its name between two of its signs of life.
    patiently("it shows itself", || fleet.heartbeat("web-1"));
    assert!(!stands("identity-duplicated"));
}

#[test]
fn an_agent_that_left_while_there_was_no_broker_does_not_go_on_looking_for_it() {
    if server_is_missing() {
        return;
    }
    let mut fleet = Fleet::new();
    let member = fleet.host("web-1", "");
    fleet.kill_broker();
    let agent = member.host.start();
    member
        .wait("it looks for the broker", |status| status["connected"] == false && status["key"].is_string());
    member.configure_with("", &[], "");
    agent.signal(Signal::SIGHUP);
    patiently("it leaves", || member.status().is_null().then_some(()));

    fleet.restart_broker();
    member.configure("", "");
    agent.signal(Signal::SIGHUP);
    member.wait_connected();

    assert_eq!(internet_sockets(agent.pid()), 1);
}
