//! Standing questions: asked again and again by real agents, whatever is away or killed, and only within bounds.

use std::collections::BTreeSet;
use std::fs;

use serde_json::{Value, json};
use vigie_fleet::answer::{Answer, AnswerStatus};
use vigie_fleet::signature::SigningKey;
use vigie_fleet::subjects;
use vigie_protocol::names::ActionId;

use crate::harness::{
    Fleet, Member, alice, bob, document, id_of, now, patiently, server_is_missing, sign, with,
};
use crate::host::module;
use crate::person::Person;

/// Alice and bob may sign standing questions, two of which an agent takes; only alice may ask `says`.
fn policy(version: u64) -> Value {
    let mut policy = document();
    policy["version"] = json!(version);
    policy["acl"]["says"] = json!({"minimum_weight": 1, "investigators": {"alice": 1}});
    policy["standing"] = json!({"investigators": ["alice", "bob"], "min_seconds": 5, "questions": 2});
    policy
}

/// A host with the module `says`, which answers with what is in a file.
fn host(fleet: &mut Fleet) -> Member {
    fleet.publish_policy(&policy(1));
    let member = fleet.host("web-1", "");
    let said = member.host.path("said");
    says(&member, &["one"]);
    member.configure("", &module("standard", "says", "says.sh", &[said.to_str().unwrap()], ""));
    member
}

fn says(member: &Member, what: &[&str]) {
    // The module reads it at any moment.
    fs::write(member.host.path("said.new"), format!("{}\n", json!(what))).unwrap();
    fs::rename(member.host.path("said.new"), member.host.path("said")).unwrap();
}

/// What the agent keeps of a question.
fn kept(member: &Member, id: &str) -> Option<Value> {
    let text = fs::read(member.host.path(&format!("state/fleet/standing/{id}.json"))).ok()?;
    serde_json::from_slice(&text).ok()
}

fn wait_number(member: &Member, id: &str, number: u64) -> Value {
    patiently(&format!("report {number}"), || kept(member, id).filter(|kept| kept["number"] == number))
}

/// The values of a report's rows below `elements`.
fn said(report: &Value, which: &str) -> Vec<String> {
    let rows = report[which].as_array().cloned().unwrap_or_default();
    let rows = rows.iter().filter(|row| row["place"] == "elements.said");
    rows.map(|row| row["value"].as_str().unwrap().trim_matches('"').to_owned()).collect()
}

#[test]
fn a_standing_question_outlives_broker_and_agent_and_sends_only_what_differs() {
    if server_is_missing() {
        return;
    }
    let mut fleet = Fleet::without_policy();
    let member = host(&mut fleet);
    let running = member.host.start();
    member.wait_connected();
    patiently("facts are shown", || fleet.facts("web-1"));
    let alice = Person::alice(&fleet);

    let asked = alice.json(&fleet, &["query", "says", "-t", "all", "--every", "5s", "--expires", "1h"]);
    assert_eq!((&asked[0]["taken"], &asked[0]["refused"]), (&json!(1), &json!(0)), "{asked:?}");
    let id = asked[0]["action"].as_str().unwrap().to_owned();
    let epoch = wait_number(&member, &id, 1)["epoch"].clone();

    // Nobody is connected, and the question is asked all the same.
    fleet.kill_broker();
    says(&member, &["one", "two"]);
    wait_number(&member, &id, 2);
    fleet.restart_broker();
    member.wait_connected();
    // Killed and started again, it goes on where it was.
    running.kill();
    member.host.wait_empty();
    says(&member, &["two"]);
    let running = member.host.start();
    assert_eq!(wait_number(&member, &id, 3)["epoch"], epoch);

    let arguments = ["fleet", "standing", "results", &id];
    let reports = patiently("all reports are there", || {
        Some(alice.json(&fleet, &arguments)).filter(|reports| reports.len() >= 3)
    });
    let told: Vec<_> =
        reports.iter().map(|report| (said(report, "added"), said(report, "removed"))).collect();
    let one = |text: &str| vec![text.to_owned()];
    assert_eq!(told, [(one("one"), vec![]), (one("two"), vec![]), (vec![], one("one"))], "{reports:?}");
    assert_eq!((&reports[0]["full"], &reports[1]["full"]), (&json!(true), &json!(false)));
    let now = alice.json(&fleet, &["fleet", "standing", "results", &id, "--now"]);
    let rows: Vec<_> =
        now[0]["rows"].as_array().unwrap().iter().map(|row| row["value"].as_str().unwrap()).collect();
    assert_eq!(rows, ["\"two\"", "true", "true"], "{now:?}");
    // What did not differ was not sent: the agent's word that it took it, and three reports.
    let action: ActionId = id.parse().unwrap();
    let entries = fleet.read(subjects::RESULTS, &subjects::answers_to(&action));
    let different: BTreeSet<_> = entries.iter().map(|entry| entry.value.clone()).collect();
    assert_eq!(different.len(), 4, "what comes twice after a reconnect is the same");

    let listed = patiently("the agent shows it", || {
        Some(alice.json(&fleet, &["fleet", "standing", "list"])).filter(|listed| listed[0]["held"] == 1)
    });
    assert_eq!((&listed[0]["state"], &listed[0]["meant"]), (&json!("asked"), &json!(1)), "{listed:?}");
    let stopped = alice.json(&fleet, &["fleet", "standing", "stop", &id]);
    assert_eq!((&stopped[0]["taken"], &stopped[0]["stops"]), (&json!(1), &json!(id)), "{stopped:?}");
    assert_eq!(kept(&member, &id), None);
    assert_eq!(alice.json(&fleet, &["fleet", "standing", "list"]), Vec::<Value>::new());
    let all = alice.json(&fleet, &["fleet", "standing", "list", "--all"]);
    assert_eq!(all[0]["state"], "stopped", "{all:?}");
    // The stream brings the question again to an agent that starts: it stays stopped.
    running.kill();
    member.host.wait_empty();
    let _running = member.host.start();
    member.wait_connected();
    let next = fleet.ask(&with("ops", json!([{"module": "says"}])));
    fleet.answers(&next, 1);
    assert_eq!(kept(&member, &id), None);
}

/// It was noticed that the files are an older copy, and the agent was killed before anything came of it.
#[test]
fn what_comes_of_a_restored_snapshot_comes_also_after_a_kill_and_once() {
    if server_is_missing() {
        return;
    }
    let mut fleet = Fleet::without_policy();
    let member = host(&mut fleet);
    let running = member.host.start();
    member.wait_connected();
    patiently("facts are shown", || fleet.facts("web-1"));
    let alice = Person::alice(&fleet);
    let asked = alice.json(&fleet, &["query", "says", "-t", "all", "--every", "5s", "--expires", "1h"]);
    let id = asked[0]["action"].as_str().unwrap().to_owned();
    let epoch = wait_number(&member, &id, 1)["epoch"].clone();
    let journal = || fs::read_to_string(member.host.path("state/journal/identity")).unwrap();
    let first = journal();
    running.kill();
    member.host.wait_empty();
    let noticed = json!({"own": now(), "broker": now(), "count": 1});
    fs::write(member.host.path("state/fleet/reverted"), noticed.to_string()).unwrap();

    let running = member.host.start();

    patiently("the journal goes on under another name", || (journal() != first).then_some(()));
    let anew = patiently("everything is reported under another name", || {
        kept(&member, &id).filter(|kept| kept["epoch"] != epoch && kept["number"] == 1)
    });
    member.wait("all alerts are sent", |status| status["alerts_waiting"] == 0);
    let second = journal();
    running.kill();
    member.host.wait_empty();
    says(&member, &["two"]);
    let _running = member.host.start();
    assert_eq!(wait_number(&member, &id, 2)["epoch"], anew["epoch"]);
    member.wait_connected();
    assert_eq!(journal(), second);
}

/// Stores an envelope among the standing questions and sends it to all agents.
fn send(fleet: &Fleet, envelope: &[u8]) {
    fleet.publish("vigie.standing.alice", envelope);
    fleet.live(envelope);
}

fn question(every: u32) -> Value {
    let mut action = with("ops", json!([{"module": "says"}]));
    action["standing"] = json!({ "every": every });
    action
}

fn stop_of(id: &ActionId) -> Value {
    let mut stop = with("ops", json!([]));
    stop["stop"] = json!(id);
    stop
}

fn answer(fleet: &Fleet, action: &Value, key: &SigningKey) -> Answer {
    send(fleet, &sign(action, &[key]));
    fleet.answers(&id_of(action), 1).remove("web-1").unwrap()
}

#[test]
fn standing_questions_are_bounded_and_end_with_the_right_to_ask_them() {
    if server_is_missing() {
        return;
    }
    let mut fleet = Fleet::without_policy();
    let member = host(&mut fleet);
    let _running = member.host.start();
    member.wait_connected();
    patiently("facts are shown", || fleet.facts("web-1"));
    let code = |answer: Answer| (answer.status, answer.code.unwrap());
    let refused = |code: &str| (AnswerStatus::Refused, code.to_owned());
    let taken = |code: &str| (AnswerStatus::Ok, code.to_owned());

    assert_eq!(code(answer(&fleet, &question(4), &alice())), refused("too_often"));
    assert_eq!(code(answer(&fleet, &question(5), &bob())), refused("too_little_weight"));
    // Its end comes first.
    let stopped = question(5);
    assert_eq!(code(answer(&fleet, &stop_of(&id_of(&stopped)), &alice())), taken("not_standing"));
    assert_eq!(code(answer(&fleet, &stopped, &alice())), taken("stopped"));
    assert_eq!(kept(&member, id_of(&stopped).as_str()), None);
    // As many as the policy allows.
    let (first, second) = (question(5), question(3600));
    for question in [&first, &second] {
        assert_eq!(code(answer(&fleet, question, &alice())), taken("standing"));
    }
    assert_eq!(code(answer(&fleet, &question(5), &alice())), refused("busy"));
    // Who could not have asked it cannot end it.
    let second = id_of(&second);
    assert_eq!(code(answer(&fleet, &stop_of(&second), &bob())), refused("too_little_weight"));
    assert!(kept(&member, second.as_str()).is_some());
    // Longer than the policy allows: nobody is answered, and it is reported.
    let mut long = question(5);
    long["not_after"] = json!(now() + 31 * 24 * 3600);
    send(&fleet, &sign(&long, &[&alice()]));
    patiently("it is reported", || {
        fleet.audit("web-1").iter().any(|record| record.outcome == "window_too_long").then_some(())
    });

    // A key that is revoked takes its questions with it.
    let mut revoked = policy(2);
    revoked["revoked"].as_array_mut().unwrap().push(json!(alice().public_key().fingerprint()));
    fleet.publish_policy(&revoked);
    patiently("it ends", || kept(&member, id_of(&first).as_str()).is_none().then_some(()));
    patiently("it is reported", || {
        let first = id_of(&first);
        let of_first = |action: &Option<ActionId>| action.as_ref() == Some(&first);
        let audit = fleet.audit("web-1");
        audit.iter().any(|one| one.outcome == "revoked_key" && of_first(&one.action)).then_some(())
    });
}
