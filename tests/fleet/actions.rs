//! Actions: each agent runs each once, whatever is killed meanwhile, and answers it.

use std::fs;
use std::process::Command;

use serde_json::json;
use vigie_fleet::answer::AnswerStatus;
use vigie_protocol::names::ActionId;

use crate::crowd::Crowd;
use crate::harness::{Fleet, action, alice, id_of, now, number, patiently, server_is_missing, sign, with};
use crate::host::persistent;

#[test]
fn every_agent_answers_every_action_once_though_the_broker_is_killed_right_after() {
    if server_is_missing() {
        return;
    }
    let agents = number("VIGIE_FLEET_AGENTS", 60);
    let mut fleet = Fleet::new();
    let names: Vec<String> = (0..agents).map(|at| format!("many-{at}")).collect();
    let (offline, online) = names.split_at(agents / 10);
    let crowd = Crowd::new(&mut fleet, &names, "");
    crowd.start(online);
    crowd.wait_connected();

    let expires = now() + 5;
    let short = fleet.ask(&with("not_after", json!(expires)));
    fleet.answers(&short, online.len());
    let mut asked = Vec::new();
    for _ in 0..3 {
        asked.push(fleet.ask(&action()));
        fleet.kill_broker();
        fleet.restart_broker();
    }
    patiently("the short one expires", || (now() > expires).then_some(()));
    crowd.start(offline);

    for id in &asked {
        fleet.answers(id, agents);
    }
    crowd.wait_connected();
    fleet.answers(&short, online.len());
    let ran = crowd.ran();
    assert_eq!(ran.len(), agents * 3 + online.len());
    assert!(ran.values().all(|times| *times == 1), "{ran:?}");
    println!("{} answers of {agents} agents", agents * 3);
}

#[test]
fn an_action_that_a_kill_interrupts_is_answered_so_and_not_run_again() {
    if server_is_missing() {
        return;
    }
    let mut fleet = Fleet::new();
    let member = fleet.host("web-1", "");
    let go_on = member.host.path("go-on");
    member.configure_with(&member.section, &[go_on.to_str().unwrap()], "");
    let running = member.host.start();
    member.wait_connected();
    let interrupted = fleet.ask(&action());
    patiently("it runs", || (member.trace().len() == 1).then_some(()));
    running.kill();
    member.host.wait_empty();

    let running = member.host.start();
    let answer = &fleet.answers(&interrupted, 1)["web-1"];

    assert_eq!((answer.status, answer.code.as_deref()), (AnswerStatus::Interrupted, Some("interrupted")));
    running.kill();
    fs::write(go_on, "").unwrap();
    let _running = member.host.start();
    let next = fleet.ask(&action());
    assert_eq!(fleet.answers(&next, 1)["web-1"].status, AnswerStatus::Ok);
    assert_eq!(member.trace(), [&interrupted, &next].map(ActionId::to_string), "nothing ran twice");
    fleet.answers(&interrupted, 1);
}

#[test]
fn an_answer_that_was_safe_before_a_kill_is_the_only_one() {
    if server_is_missing() {
        return;
    }
    let mut fleet = Fleet::new();
    let member = fleet.host("web-1", "");
    let mut running = member.host.start();
    member.wait_connected();

    // Wherever the kill hits: noted, run, answered, sent.
    let mut asked = Vec::new();
    for _ in 0..8 {
        let id = fleet.ask(&action());
        patiently("it runs", || member.trace().contains(&id.to_string()).then_some(()));
        asked.push(id);
        running.kill();
        running = member.host.start();
    }
    for id in &asked {
        let status = fleet.answers(id, 1)["web-1"].status;
        assert!(matches!(status, AnswerStatus::Ok | AnswerStatus::Interrupted), "{status:?}");
    }
    // Two more lives answer nothing again.
    for _ in 0..2 {
        running.kill();
        running = member.host.start();
        let id = fleet.ask(&action());
        fleet.answers(&id, 1);
        asked.push(id);
    }
    for id in &asked {
        fleet.answers(id, 1);
    }
    assert_eq!(member.trace(), asked.iter().map(ActionId::to_string).collect::<Vec<_>>());
}

#[test]
fn actions_that_come_twice_and_out_of_order_run_once() {
    if server_is_missing() {
        return;
    }
    let mut fleet = Fleet::new();
    let member = fleet.host("web-1", "");
    let _running = member.host.start();
    member.wait_connected();
    let actions: Vec<_> = (0..3).map(|_| action()).collect();

    for action in actions.iter().rev().chain(&actions) {
        for _ in 0..2 {
            fleet.live(&sign(action, &[&alice()]));
        }
    }

    for action in &actions {
        fleet.answers(&id_of(action), 1);
    }
    member.wait("all twelve are decided", |status| {
        status["outcomes"]["accepted"] == 3 && status["outcomes"]["replayed"] == 9
    });
    assert_eq!(member.trace().len(), 3);
}

#[test]
fn what_came_while_the_connection_was_away_is_no_replay() {
    if server_is_missing() {
        return;
    }
    let mut fleet = Fleet::new();
    let member = fleet.host("web-1", "");
    let _running = member.host.start();
    member.wait_connected();
    for _ in 0..3 {
        fleet.kill_broker();
        fleet.restart_broker();
        let asked: Vec<_> = (0..5).map(|_| fleet.ask(&action())).collect();
        for id in &asked {
            fleet.answers(id, 1);
        }
    }
    assert_eq!(member.trace().len(), 15);
    let audit =
        patiently("all are reported", || Some(fleet.audit("web-1")).filter(|audit| audit.len() >= 15));
    assert_eq!(audit.len(), 15, "each is reported once: {audit:?}");
    for asked in audit.iter().map(|record| record.asked.as_ref().expect("what is signed is shown")) {
        assert_eq!((asked.operations.len(), asked.shortened), (1, false), "{asked:?}");
        assert!(!asked.operations[0].module.is_empty(), "{asked:?}");
    }
    assert_eq!(member.status()["outcomes"]["replayed"], json!(null), "{}", member.status());
}

#[test]
fn nothing_runs_without_its_note_on_disk_and_alerts_wait_for_room() {
    if server_is_missing() {
        return;
    }
    let mut fleet = Fleet::new();
    let member = fleet.host("web-1", "");
    let state = member.host.path("state");
    fs::create_dir(&state).unwrap();
    let mounted = Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=2m,mode=0711", "vigie-test"])
        .arg(&state)
        .output()
        .is_ok_and(|output| output.status.success());
    if !mounted {
        vigie_skipped::skipped("this user may not mount a small file system");
        return;
    }
    let _unmount = Unmount(state.clone());
    let agent = member.host.start();
    member.wait_connected();
    // A page of the log has room for its header, 63 actions with their answers, and the note of one more.
    for _ in 0..3 {
        let asked: Vec<_> = (0..21).map(|_| fleet.ask(&action())).collect();
        for id in &asked {
            fleet.answers(id, 1);
        }
    }
    patiently("all is noted", || {
        (fs::metadata(state.join("fleet/replay.log")).unwrap().len() == 127 * 32).then_some(())
    });
    member.configure("", &persistent("alerter.py", &["2000"]));
    fs::write(state.join("filler"), vec![0; 2 << 20]).ok();
    member.host.ask(&json!({"reload": {}}));
    patiently("the journal waits", || member.host.status()["journal"]["error"].is_string().then_some(()));

    let last = fleet.ask(&action());
    patiently("its note fits", || member.trace().contains(&last.to_string()).then_some(()));
    let refused = fleet.ask(&action());
    member.wait("another is refused", |status| status["outcomes"]["busy"] == 1);

    assert!(!member.trace().contains(&refused.to_string()));
    assert_eq!(fleet.collect(&last).answers.len(), 0, "its answer waits for the disk");
    fs::remove_file(state.join("filler")).unwrap();
    fleet.answers(&last, 1);
    member.wait("all alerts are sent", |status| status["alerts_sent"] == 2000);
    assert_eq!(fleet.alerts().0.len(), 2000);
    let next = fleet.ask(&action());
    fleet.answers(&next, 1);
    drop(agent);
    assert!(!member.trace().contains(&refused.to_string()));
}

struct Unmount(std::path::PathBuf);

impl Drop for Unmount {
    fn drop(&mut self) {
        Command::new("umount").arg("-l").arg(&self.0).status().ok();
    }
}
