//! The agent with the real fswatch on a real directory: what a person sees first.

use std::fs;

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::harness::{Host, Settings, signal, wait_until};

/// An agent that watches `watched` with everything below it.
fn host() -> Host {
    let host = Host::new(&Settings { fswatch: true, ..Settings::default() }, "");
    fs::create_dir(host.path("watched")).unwrap();
    fs::write(host.path("watched/passwd"), "root:x:0:0\n").unwrap();
    let watched = host.path("watched");
    fs::write(
        host.path("modules.d/fswatch.cfg"),
        format!("[paths]\npath = recursive:{}\n", watched.display()),
    )
    .unwrap();
    host
}

/// Waits for the alert on a path whose text has this in it.
fn wait_alert(host: &Host, text: &str) -> Value {
    wait_until(&format!("an alert says {text:?}"), || {
        let alerts = host.journal().into_iter();
        let mut messages =
            alerts.filter_map(|alert| serde_json::from_str::<Value>(alert["message"].as_str()?).ok());
        messages.find(|message| message["alert"].as_str().is_some_and(|alert| alert.contains(text)))
    })
}

#[test]
fn a_changed_file_is_an_alert_in_the_journal_the_log_and_on_the_command_line() {
    let host = host();
    let _agent = host.start();
    host.wait_baseline();
    let follow = host.begin(&["alerts", "-f"]);

    fs::write(host.path("watched/passwd"), "root:x:0:0\nmallory:x:0:0\n").unwrap();

    let alert = wait_alert(&host, "signature changed");
    assert_eq!(alert["severity"], "critical", "{alert}");
    assert!(alert["alert"].as_str().unwrap().starts_with(host.path("watched/passwd").to_str().unwrap()));
    host.wait_log("signature changed");
    wait_until("it is followed", || follow.out().contains("signature changed").then_some(()));
    assert!(host.vigie(&["alerts", "--human"]).out.contains("signature changed"));
}

#[test]
fn new_and_removed_files_and_files_in_new_directories_are_alerts() {
    let host = host();
    let _agent = host.start();
    host.wait_baseline();

    fs::create_dir_all(host.path("watched/new/deep")).unwrap();
    fs::write(host.path("watched/new/deep/dropper"), "#!/bin/sh\n").unwrap();
    wait_alert(&host, "watched/new/deep/dropper");
    fs::remove_file(host.path("watched/passwd")).unwrap();

    let removed = wait_alert(&host, "removed");
    assert!(removed["alert"].as_str().unwrap().contains("watched/passwd"), "{removed}");
    assert_eq!(removed["severity"], "low");
}

#[test]
fn a_query_says_what_is_watched() {
    let host = host();
    let _agent = host.start();
    let elements = host.wait_baseline();

    let ran = host.vigie(&["query", "fswatch", "--human"]);

    assert_eq!(elements["ok"], true, "{elements}");
    assert!(elements["files"].as_u64() >= Some(1), "{elements}");
    assert_eq!(ran.code, 0, "{ran:?}");
}

#[test]
fn further_paths_are_watched_after_a_reload_without_a_restart() {
    let host = host();
    let _agent = host.start();
    host.wait_baseline();
    let before = host.module("fswatch")["pid"].clone();
    let late = host.path("late");
    fs::write(&late, "old").unwrap();

    let mut file = fs::read_to_string(host.path("modules.d/fswatch.cfg")).unwrap();
    file.push_str(&format!("path = {}\n", late.display()));
    fs::write(host.path("modules.d/fswatch.cfg"), file).unwrap();
    assert_eq!(host.vigie(&["reload"]).code, 0);
    wait_until("both entries are watched", || {
        let elements = host.query("fswatch", &json!({}))["result"]["elements"].take();
        (elements["paths"] == 2 && elements["baseline_complete"] == true).then_some(())
    });
    fs::write(&late, "new").unwrap();

    wait_alert(&host, "late signature changed");
    assert_eq!(host.module("fswatch")["pid"], before);
}

#[test]
fn what_is_done_to_a_file_without_writing_it_is_an_alert_by_the_rule_of_its_path() {
    let host = host();
    let watched = host.path("watched");
    fs::write(
        host.path("modules.d/fswatch.cfg"),
        format!(
            "[paths]\npath = recursive:{}\nexclude = *.swp\ntags = accounts\n[fswatch]\nsettle_milliseconds = 10\n",
            watched.display()
        ),
    )
    .unwrap();
    let _agent = host.start();
    host.wait_baseline();

    fs::write(watched.join("a.swp"), "").unwrap();
    fs::set_permissions(watched.join("passwd"), std::os::unix::fs::PermissionsExt::from_mode(0o4755))
        .unwrap();

    let alert = wait_alert(&host, "mode changed");
    assert_eq!((&alert["severity"], &alert["tags"]), (&json!("critical"), &json!(["accounts"])), "{alert}");
    assert_eq!(
        (&alert["before"]["mode"], &alert["after"]["mode"]),
        (&json!("0644"), &json!("4755")),
        "{alert}"
    );
    assert!(!host.journal().iter().any(|alert| alert["message"].as_str().unwrap().contains("a.swp")));
}

#[test]
fn a_query_explains_which_rule_a_path_has_and_compares_on_request() {
    let host = host();
    let _agent = host.start();
    host.wait_baseline();
    let path = host.path("watched/passwd");

    let explained = host.query("fswatch", &json!({"explain": path}))["result"]["elements"].take();
    let rescanned = host.query("fswatch", &json!({"rescan": true}))["result"].take();
    let wrong = host.query("fswatch", &json!({"rescann": true}))["result"].take();

    assert_eq!(explained["watched"], true, "{explained}");
    assert_eq!(rescanned["success"], true, "{rescanned}");
    assert_eq!(wrong["success"], false, "{wrong}");
    assert!(wrong["errors"][0].as_str().unwrap().contains("rescann"), "{wrong}");
}

#[test]
fn a_key_that_makes_no_sense_is_named_with_its_file_and_line() {
    let host = host();
    fs::write(host.path("modules.d/fswatch.cfg"), "[paths]\npath = /etc\nseverity = loud\ncolour = red\n")
        .unwrap();

    let checked = host.vigie(&["check-config", host.path("vigie.toml").to_str().unwrap()]);

    let said = format!("{}{}", checked.out, checked.err);
    assert!(said.contains("fswatch.cfg:4") && said.contains("colour"), "{said}");
}

#[test]
fn the_shipped_module_file_is_valid_with_and_without_its_examples() {
    let host = host();
    let shipped = include_str!("../../conf/modules.d/fswatch.cfg");
    // ";key = value" is a key, "; text" is text.
    let uncommented: Vec<_> = shipped
        .lines()
        .map(|line| {
            line.strip_prefix(';').filter(|rest| rest.starts_with(char::is_alphabetic)).unwrap_or(line)
        })
        .collect();
    assert!(uncommented.iter().filter(|line| line.contains(" = ")).count() > 10, "{uncommented:?}");

    for text in [shipped.to_owned(), uncommented.join("\n") + "\n"] {
        fs::write(host.path("modules.d/fswatch.cfg"), text).unwrap();
        let checked = host.vigie(&["check-config", host.path("vigie.toml").to_str().unwrap()]);
        assert_eq!(checked.code, 0, "{checked:?}");
    }
}

/// All messages of fswatch in the journal, in their order.
fn told(host: &Host) -> Vec<Value> {
    let alerts = host.journal().into_iter();
    alerts.filter_map(|alert| serde_json::from_str(alert["message"].as_str()?).ok()).collect()
}

#[test]
fn what_happens_around_a_killed_module_is_told_exactly_once() {
    let host = host();
    let _agent = host.start();
    host.wait_baseline();

    for round in 0..3 {
        let before = host.module("fswatch")["pid"].clone();
        for number in 0..20 {
            fs::write(host.path(&format!("watched/{round}-{number}")), "").unwrap();
            if number == 10 {
                signal(&before, Signal::SIGKILL);
            }
        }
        fs::write(host.path("watched/passwd"), format!("round {round}")).unwrap();
        wait_until("the module lives again", || {
            let module = host.module("fswatch");
            (module["pid"] != before && module["state"] == "running").then_some(())
        });
        host.wait_baseline();
        fs::write(host.path(&format!("watched/mark-{round}")), "").unwrap();
        wait_alert(&host, &format!("mark-{round}"));
    }

    let told = told(&host);
    let count = |path: &str| {
        let path = host.path(path);
        told.iter().filter(|alert| alert["path"] == json!(path)).count()
    };
    for round in 0..3 {
        for number in 0..20 {
            assert_eq!(count(&format!("watched/{round}-{number}")), 1, "{round}-{number}");
        }
    }
    assert!((1..=3).contains(&count("watched/passwd")));
    let history = host.query("fswatch", &json!({"history": host.path("watched/passwd")}));
    assert_eq!(history["result"]["elements"]["now"]["known"]["size"], 7, "{history}");
}

#[test]
fn what_changed_while_the_agent_was_down_is_told_once_with_the_time() {
    let host = host();
    let agent = host.start();
    host.wait_baseline();
    drop(agent);

    fs::write(host.path("watched/passwd"), "root::0:0\n").unwrap();
    let _agent = host.start();
    let alert = wait_alert(&host, "signature changed");
    host.wait_baseline();

    assert!(alert["window"]["from"].as_str() < alert["window"]["to"].as_str(), "{alert}");
    assert_eq!(told(&host).len(), 1);
}

#[test]
fn changes_are_listed_explained_and_accepted_by_queries() {
    let host = host();
    let _agent = host.start();
    host.wait_baseline();
    fs::write(host.path("watched/passwd"), "x").unwrap();
    wait_alert(&host, "signature changed");
    let path = host.path("watched/passwd");
    let ask = |parameters: Value| host.query("fswatch", &parameters)["result"].take();

    let changes = ask(json!({"changes": true}));
    let history = ask(json!({"history": path}));
    let none = ask(json!({"changes": path, "event": "removed"}));
    let wrong = ask(json!({"since": "yesterday"}));
    let unaccepted = ask(json!({"unaccepted": true}));
    let accepted = ask(json!({"accept": [path], "by": "alice"}));

    assert_eq!(changes["elements"]["changes"][0]["path"], json!(path), "{changes}");
    assert_eq!(history["elements"]["now"]["known"]["size"], 1, "{history}");
    assert_eq!((&none["foundanything"], &none["success"]), (&json!(false), &json!(true)), "{none}");
    assert!(wrong["errors"][0].as_str().unwrap().contains("since"), "{wrong}");
    assert_eq!(unaccepted["elements"]["unaccepted"][0]["event"], "changed", "{unaccepted}");
    assert_eq!(accepted["elements"]["accepted"], json!([path]), "{accepted}");
    let uid = nix::unistd::geteuid().as_raw();
    let user = nix::unistd::User::from_uid(uid.into()).unwrap().map(|user| user.name);
    let proved = format!("alice (asked by user {}) accepted", user.clone().unwrap_or(uid.to_string()));
    wait_alert(&host, &proved);
    let acceptance = ask(json!({"changes": true, "event": "accepted"}));
    let group = &acceptance["elements"]["changes"][0]["group"];
    assert_eq!((&group["by"], &group["asker"]["uid"]), (&json!("alice"), &json!(uid)), "{acceptance}");
    assert_eq!(group["asker"]["user"].as_str(), user.as_deref());
    assert_eq!(ask(json!({"unaccepted": true}))["elements"]["unaccepted"], json!([]));
}

/// Starts the agent where a process may have so many inotify watches, as root of a namespace of users: root's own limit
/// is everybody's.
fn start_with_watches(host: &Host, most: u32) -> Option<crate::harness::Agent<'_>> {
    let limit = format!("echo {most} > /proc/sys/user/max_inotify_watches && exec \"$0\" \"$@\"");
    let command = ["unshare", "--user", "--map-root-user", "sh", "-c", &limit];
    let tried = std::process::Command::new(command[0]).args(&command[1..]).arg("true").status();
    if !tried.is_ok_and(|tried| tried.success()) {
        vigie_skipped::skipped("no namespace of users with a limit of its own can be made");
        return None;
    }
    Some(host.start_by(&command))
}

#[test]
#[expect(clippy::disallowed_methods, reason = "what the agent promises is in real time")]
fn a_limit_of_watches_that_is_reached_is_said_at_once() {
    let host = host();
    let Some(_agent) = start_with_watches(&host, 12) else { return };
    host.wait_baseline();
    assert!(host.condition("fswatch", "directories-unwatched").is_none());

    let begun = std::time::Instant::now();
    for number in 0..20 {
        fs::create_dir(host.path(&format!("watched/{number}"))).unwrap();
    }
    let condition = host.wait_condition("fswatch", "directories-unwatched");

    // Two seconds on a host of its own; beside all other tests it may be more, and a scan would take hours.
    assert!(begun.elapsed() <= std::time::Duration::from_secs(10), "{:?}", begun.elapsed());
    assert!(condition["detail"].as_str().unwrap().contains("paths are not watched"), "{condition}");
}

#[test]
fn a_canary_that_the_kernel_does_not_tell_of_makes_blind() {
    let host = host();
    for number in 0..20 {
        fs::create_dir(host.path(&format!("watched/{number}"))).unwrap();
    }
    let file = host.path("modules.d/fswatch.cfg");
    let text = fs::read_to_string(&file).unwrap() + "[fswatch]\ncanary_seconds = 1\n";
    fs::write(&file, text).unwrap();

    // The watched directories take all watches, and none is left for the canary's.
    let Some(_agent) = start_with_watches(&host, 12) else { return };
    let condition = host.wait_condition("fswatch", "blind");

    let detail = condition["detail"].as_str().unwrap();
    assert!(detail.contains("the kernel does not report its change"), "{condition}");
    assert_eq!(condition["severity"], "failed");
}
