//! Identities that are not one host's alone: copied machines, two agents at once, snapshots that are put back. Each is
//! noticed and named, and no alert of anybody is taken for another one.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use vigie_fleet::answer::AnswerStatus;

use crate::harness::{Fleet, Member, action, now, patiently, server_is_missing};
use crate::host::{Host, Settings, persistent};
use crate::person::Person;

/// A module that sends so many alerts at each start.
fn alerter(count: usize, text: &str) -> String {
    persistent("alerter.py", &[&count.to_string(), &format!("{text} %d")])
}

fn copy(from: &std::path::Path, to: &std::path::Path) {
    let copied = Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap();
    assert!(copied.success());
}

/// A host with all files of another one, as a cloned machine has them.
fn clone_of(member: &Member, more: &str) -> Member {
    let host = Host::new(&Settings::default(), "");
    for name in ["state", "agent.nk", "agent.jwt"] {
        copy(&member.host.path(name), &host.path(name));
    }
    let place = |host: &Host| host.path("agent.nk").parent().unwrap().to_str().unwrap().to_owned();
    let section = member.section.replace(&place(&member.host), &place(&host));
    let clone = Member { host, section };
    clone.configure("", more);
    clone
}

fn journal_name(member: &Member) -> String {
    fs::read_to_string(member.host.path("state/journal/identity")).unwrap()
}

fn stands(member: &Member, name: &str) -> bool {
    member.host.condition("agent", name).is_some()
}

/// Waits until the fleet has everything that was recorded, which is at least so much.
fn wait_sent(member: &Member, at_least: u64) {
    patiently("all alerts are sent", || {
        let status = member.host.status();
        let (fleet, recorded) = (&status["fleet"], status["journal"]["recorded"].as_u64()?);
        let all = fleet["alerts_waiting"] == 0 && fleet["alerts_sent"] == recorded;
        (fleet["connected"] == true && all && recorded >= at_least).then_some(())
    });
}

/// The agent's own alerts, in one text.
fn own_alerts(member: &Member) -> String {
    let own = member.host.journal().into_iter().filter(|record| record["module"] == "agent");
    own.map(|record| record["message"].to_string()).collect()
}

/// What the fleet has of these alerts; [`Fleet::alerts`] has made sure that no two of them bear one name and number.
fn texts(fleet: &Fleet, begins: &str) -> BTreeSet<String> {
    let (alerts, flagged) = fleet.alerts();
    assert_eq!(flagged, 0);
    alerts.into_iter().map(|alert| alert.message).filter(|text| text.starts_with(begins)).collect()
}

#[test]
fn a_copy_on_another_machine_says_so_at_its_start_and_no_alert_is_taken_for_another() {
    if server_is_missing() {
        return;
    }
    let mut fleet = Fleet::new();
    let web = fleet.host("web-1", &alerter(3, "original"));
    let agent = web.host.start();
    wait_sent(&web, 3);
    drop(agent);
    let first = journal_name(&web);
    let copy = clone_of(&web, &alerter(3, "copy"));
    fs::write(copy.host.path("machine-id"), "00112233445566778899aabbccddeeff\n").unwrap();
    let script = format!("mount --bind {:?} /etc/machine-id && exec \"$@\"", copy.host.path("machine-id"));
    let elsewhere = ["unshare", "-m", "sh", "-c", &script, "sh"];
    let tried = Command::new(elsewhere[0]).args(&elsewhere[1..]).arg("true").status();
    if !tried.is_ok_and(|tried| tried.success()) {
        return vigie_skipped::skipped("no mount namespace of our own");
    }

    // Also without a broker.
    fleet.kill_broker();
    let copied = copy.host.start_by(&elsewhere);
    patiently("the copy says so", || stands(&copy, "identity-duplicated").then_some(()));
    let second = journal_name(&copy);
    assert_ne!(first, second);
    fleet.restart_broker();
    wait_sent(&copy, 7);
    let told = own_alerts(&copy);
    for text in ["created on another machine", "its own key", "journal_renamed", &first, &second] {
        assert!(told.contains(text), "{text}: {told}");
    }
    web.configure("", &alerter(3, "original again"));
    let _agent = web.host.start();
    // Between them it tells that somebody went on.
    patiently("all alerts of the original", || (texts(&fleet, "original").len() == 6).then_some(()));
    assert_eq!(texts(&fleet, "copy").len(), 3);
    patiently("the original hears that somebody went on", || stands(&web, "state-reverted").then_some(()));
    // It cannot know that the copy already has another name.
    patiently("so does the original", || {
        let third = journal_name(&web);
        (third != first && third != second).then_some(())
    });
    wait_sent(&web, 7);
    let alice = Person::alice(&fleet);
    let shown = alice.json(&fleet, &["alerts", "-t", "all"]);
    let of = |kind: &str| shown.iter().filter(|line| line["type"] == kind).count();
    assert_eq!((of("renamed"), of("fork"), of("gap"), of("gone")), (2, 0, 0, 0), "{shown:#?}");
    // A restart of the copy finds that the original runs beside it, and says so again. It got its name lately, so that
    // it waits with a further one.
    drop(copied);
    let _copied = copy.host.start_by(&elsewhere);
    patiently("the copy says so", || stands(&copy, "identity-duplicated").then_some(()));
    patiently("the copy finds the original", || stands(&copy, "state-reverted").then_some(()));
    wait_sent(&copy, 10);
    assert_eq!(journal_name(&copy), second);
    patiently("the fleet names it", || {
        let listed = alice.json(&fleet, &["fleet", "agents"]);
        listed.iter().any(|line| line["code"] == "copied" && line["agent"] == "web-1").then_some(())
    });
}

#[test]
fn two_agents_of_one_identity_are_named_and_go_on_in_journals_of_their_own() {
    if server_is_missing() {
        return;
    }
    let mut fleet = Fleet::new();
    let web = fleet.host("web-1", &alerter(3, "original"));
    let agent = web.host.start();
    wait_sent(&web, 3);
    let first = journal_name(&web);
    // A cloned machine has the same ID.
    let twin = clone_of(&web, &alerter(3, "twin"));
    let twin_agent = twin.host.start();
    wait_sent(&twin, 6);
    assert_eq!(journal_name(&twin), first, "nothing on the host tells that it is a clone");

    // The next heartbeat of each finds the other's.
    for (member, agent, text) in [(&web, &agent, "original"), (&twin, &twin_agent, "twin")] {
        member.configure("", &format!("[tags]\nside = {text:?}\n{}", alerter(3, text)));
        agent.signal(Signal::SIGHUP);
        patiently("another host is noticed", || stands(member, "identity-duplicated").then_some(()));
        patiently("the journal goes on under another name", || (journal_name(member) != first).then_some(()));
        wait_sent(member, 4);
    }

    let names = BTreeSet::from([first, journal_name(&web), journal_name(&twin)]);
    assert_eq!(names.len(), 3);
    patiently("all alerts of both", || {
        (texts(&fleet, "original").len() == 3 && texts(&fleet, "twin").len() == 3).then_some(())
    });
    let alice = Person::alice(&fleet);
    let listed = alice.json(&fleet, &["fleet", "agents"]);
    let is_named = |line: &Value| line["code"] == "runs_twice" && line["agent"] == "web-1";
    assert!(listed.iter().any(is_named), "{listed:#?}");
    let looked_at = alice.json(&fleet, &["fleet", "doctor"]);
    let clones = looked_at.iter().find(|line| line["check"] == "clones").unwrap();
    assert!(clones["good"] == false && clones["found"].as_str().unwrap().contains("web-1"), "{clones}");
    let shown = alice.json(&fleet, &["alerts", "-t", "all"]);
    let renamed = shown.iter().filter(|line| line["type"] == "renamed").count();
    assert_eq!(renamed, 2, "{shown:#?}");
}

/// The newest message under its name is not what the agent wrote last, as behind a machine that stood still for
/// minutes.
#[test]
fn a_stream_that_was_made_anew_makes_nobody_a_clone() {
    if server_is_missing() {
        return;
    }
    let mut fleet = Fleet::new();
    let web = fleet.host("web-1", &alerter(3, "alert"));
    let agent = web.host.start();
    wait_sent(&web, 3);
    let first = journal_name(&web);
    let show = |tag: &str| {
        web.configure("", &format!("[tags]\ntag = {tag:?}\n{}", alerter(3, "alert")));
        agent.signal(Signal::SIGHUP);
        patiently("it shows itself", || {
            fleet.heartbeat("web-1").filter(|shown| shown["facts"]["tags"]["tag"] == tag)
        })
    };
    // It knows the number of its newest heartbeat.
    show("before");
    fleet.make_anew("FACTS");

    let after = show("after");

    assert!(after["twice"] != true, "{after}");
    show("once more");
    assert!(!stands(&web, "identity-duplicated"));
    assert_eq!(journal_name(&web), first);
}

/// More alerts were lost with the snapshot than a reader remembers, so by their numbers alone the new ones would be
/// doubles.
#[test]
fn after_a_snapshot_was_put_back_no_alert_is_taken_for_one_that_was_lost_with_it() {
    if server_is_missing() {
        return;
    }
    let mut fleet = Fleet::new();
    let received = tempfile::tempdir().unwrap();
    let out = received.path().join("out.jsonl");
    let sink = format!("[[sink]]\nname = \"own\"\nkind = \"file\"\npath = {out:?}\nbegin = \"oldest\"\n");
    let web = fleet.host("web-1", &format!("{sink}{}", alerter(3, "before")));
    let agent = web.host.start();
    wait_sent(&web, 3);
    drop(agent);
    let first = journal_name(&web);
    copy(&web.host.path("state"), &web.host.path("snapshot"));
    web.configure("", &format!("{sink}{}", alerter(1500, "lost")));
    let agent = web.host.start();
    wait_sent(&web, 1503);
    drop(agent);

    fs::remove_dir_all(web.host.path("state")).unwrap();
    copy(&web.host.path("snapshot"), &web.host.path("state"));
    web.configure("", &format!("{sink}{}", alerter(20, "after")));
    let agent = web.host.start();
    patiently("it is noticed", || stands(&web, "state-reverted").then_some(()));
    let second = patiently("the journal goes on under another name", || {
        Some(journal_name(&web)).filter(|name| *name != first)
    });
    wait_sent(&web, 25);
    let told = own_alerts(&web);
    for text in ["an older copy of STATE_DIR was restored", "journal_renamed"] {
        assert!(told.contains(text), "{text}: {told}");
    }
    for (text, count) in [("before", 3), ("lost", 1500), ("after", 20)] {
        patiently("all alerts", || (texts(&fleet, text).len() == count).then_some(()));
    }
    let alice = Person::alice(&fleet);
    let shown = alice.json(&fleet, &["alerts", "-t", "all"]);
    let count = |text: &str| {
        let texts =
            shown.iter().filter_map(|line| line["message"].as_str().filter(|it| it.starts_with(text)));
        texts.collect::<BTreeSet<_>>().len()
    };
    assert_eq!((count("before"), count("lost"), count("after")), (3, 1500, 20));
    let of = |kind: &str| shown.iter().filter(|line| line["type"] == kind).count();
    assert_eq!((of("renamed"), of("fork"), of("gone"), of("cut")), (1, 0, 0, 0));
    let listed = alice.json(&fleet, &["fleet", "agents"]);
    assert!(listed.iter().any(|line| line["code"] == "reverted" && line["agent"] == "web-1"), "{listed:#?}");
    // A sink of the host itself goes on under the new name as well: a collector knows alerts by name and number.
    patiently("the sink has them under the new name", || {
        let text = fs::read_to_string(&out).ok()?;
        let lines: Vec<Value> = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        let under = |name: &str, text: &str| {
            let is_so = |line: &&Value| line.to_string().contains(name) && line.to_string().contains(text);
            lines.iter().filter(is_so).count()
        };
        (under(&second, "after ") == 20 && under(&first, "lost ") == 1500).then_some(())
    });
    // It is told once: the next life knows what the fleet knows.
    drop(agent);
    let _agent = web.host.start();
    wait_sent(&web, 45);
    assert!(!stands(&web, "state-reverted") && journal_name(&web) == second);
    assert_eq!(web.status()["problem"], json!(null));
}

/// The snapshot has the log of what was run as well: what was run since then would run again while it may still be
/// begun.
#[test]
fn after_a_snapshot_was_put_back_nothing_runs_that_may_have_run_before() {
    if server_is_missing() {
        return;
    }
    let mut fleet = Fleet::new();
    let web = fleet.host("web-1", "");
    let agent = web.host.start();
    web.wait_connected();
    patiently("it shows itself", || fleet.heartbeat("web-1"));
    drop(agent);
    copy(&web.host.path("state"), &web.host.path("snapshot"));
    let agent = web.host.start();
    let id = fleet.ask(&action());
    assert_eq!(fleet.answers(&id, 1)["web-1"].status, AnswerStatus::Ok);
    assert_eq!(web.trace().len(), 1);
    drop(agent);

    fs::remove_dir_all(web.host.path("state")).expect("the test owns the directory");
    copy(&web.host.path("snapshot"), &web.host.path("state"));
    let agent = web.host.start();
    patiently("it is noticed", || stands(&web, "state-reverted").then_some(()));
    let refused = |count: u64| {
        web.wait("it is refused", |status| status["outcomes"]["state_reverted"] == count);
    };
    refused(1);
    let asked = |fleet: &Fleet| {
        let id = fleet.ask(&action());
        let answer = fleet.answers(&id, 1)["web-1"].clone();
        assert_eq!((answer.status, answer.code.as_deref()), (AnswerStatus::Refused, Some("state_reverted")));
        assert!(answer.message.is_some_and(|message| message.contains("older copy")));
    };
    asked(&fleet);
    refused(2);
    // Also by a life that has nothing to notice any more.
    drop(agent);
    let _agent = web.host.start();
    web.wait_connected();
    asked(&fleet);
    assert!(!stands(&web, "state-reverted"));
    assert_eq!(web.trace().len(), 1);
    // What it answered before holds, and nobody is accused of having sealed two answers.
    assert_eq!(fleet.answers(&id, 1)["web-1"].status, AnswerStatus::Ok);
    // Also for whoever reads the newest message first.
    let shown = Person::alice(&fleet).json(&fleet, &["fleet", "results", id.as_str()]);
    let answered: Vec<_> = shown.iter().filter(|line| line["type"] == "answer").collect();
    assert!(answered.len() == 1 && answered[0]["status"] == "ok", "{shown:?}");

    let begun = now();
    let mut later = action();
    later["not_before"] = json!(begun + 61);
    later["not_after"] = json!(begun + 600);
    patiently("what cannot have run before may begin", || (now() > begun + 1).then_some(()));
    let id = fleet.ask(&later);
    assert_eq!(fleet.answers(&id, 1)["web-1"].status, AnswerStatus::Ok);
    assert_eq!(web.trace().len(), 2);
}

/// The fleet has no alert that the snapshot lacks, so only the lives differ.
#[test]
fn a_snapshot_that_was_put_back_is_noticed_although_no_alert_was_lost_with_it() {
    if server_is_missing() {
        return;
    }
    let mut fleet = Fleet::new();
    let web = fleet.host("web-1", "");
    let live = |count: u64| {
        let _agent = web.host.start();
        patiently("it shows itself", || (fleet.heartbeat("web-1")?["life"]["count"] == count).then_some(()));
    };
    live(1);
    copy(&web.host.path("state"), &web.host.path("snapshot"));
    let first = journal_name(&web);
    live(2);
    live(3);
    fs::remove_dir_all(web.host.path("state")).unwrap();
    copy(&web.host.path("snapshot"), &web.host.path("state"));

    let agent = web.host.start();
    patiently("it is noticed", || stands(&web, "state-reverted").then_some(()));
    // What was recorded since may be where the fleet does not see it: in a collector of the host's own.
    patiently("the journal goes on under another name", || (journal_name(&web) != first).then_some(()));
    patiently("the fleet is told", || (fleet.heartbeat("web-1")?["reverted"] == true).then_some(()));
    drop(agent);
    let _agent = web.host.start();
    web.wait_connected();
    patiently("a life that knows", || {
        let heartbeat = fleet.heartbeat("web-1")?;
        heartbeat.get("reverted").is_none().then_some(())
    });
    assert!(!stands(&web, "state-reverted"));
}
