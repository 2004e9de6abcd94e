//! The module `events` under an agent: what ran is asked for, an alert reaches the journal, privacy holds.

use std::process::Command;

use serde_json::{Value, json};

use crate::harness::{Host, Settings, wait_until};

const MODULE: &str = "[[module]]\nname = \"events\"\nkind = \"persistent\"\n";

/// Whether the module has a source here; it says why not.
fn has_bpf(host: &Host) -> bool {
    let status = wait_until("the module answers", || {
        let answer = host.query("events", &Value::Null);
        answer["result"]["elements"]["status"]
            .is_object()
            .then(|| answer["result"]["elements"]["status"].clone())
    });
    if status["source"] == "bpf" {
        return true;
    }
    vigie_skipped::without_bpf(format_args!("BPF cannot be loaded here: {}", status["not_used"]));
    false
}

#[test]
fn what_ran_is_asked_through_the_agent_and_a_rule_raises_an_alert() {
    let host = Host::new(&Settings::default(), MODULE);
    let _agent = host.start();
    host.wait_ready("events");
    if !has_bpf(&host) {
        return;
    }
    let program = host.path("insmod");
    vigie_skipped::copy_program("/bin/true", &program);
    Command::new(&program).arg("by hand").status().unwrap();
    let pattern = program.display().to_string();

    let event = wait_until("the exec", || {
        let answer = host.query("events", &json!({"ran": [pattern], "since": "1h"}));
        answer["result"]["elements"]["events"].get(0).cloned()
    });
    assert_eq!((&event["kind"], &event["argv"][1]), (&json!("exec"), &json!("by hand")), "{event}");
    wait_until("the alert", || {
        host.journal().iter().any(|alert| alert.to_string().contains("module-load")).then_some(())
    });
    let ran = host.vigie(&["query", "events", "--ran", &pattern, "--human"]);
    assert_eq!(ran.code, 0, "{} {}", ran.out, ran.err);
    assert!(ran.out.contains("by hand"), "{}", ran.out);
    let rules = host.vigie(&["query", "events", "--rules", "--human"]);
    assert!(rules.out.contains("module-load"), "{}", rules.out);
    // The history begins with this agent: what was before is not known.
    assert_eq!(host.vigie(&["query", "events", "--ran", "/none", "--since", "30d"]).code, 2);
    assert_eq!(host.vigie(&["query", "events", "--ran", "/none"]).code, 0);
    assert_eq!(host.vigie(&["query", "events", "--verify"]).code, 0);
    let wrong = host.query("events", &json!({"tree": "x"}));
    assert!(wrong["result"]["errors"][0].as_str().unwrap().contains("PID@TIME"), "{wrong}");
}

#[test]
fn in_extra_privacy_mode_no_event_is_shown() {
    let settings = Settings { agent: "extraprivacymode = true", ..Settings::default() };
    let host = Host::new(&settings, MODULE);
    let _agent = host.start();
    host.wait_ready("events");
    if !has_bpf(&host) {
        return;
    }
    Command::new("/bin/true").status().unwrap();

    let result = wait_until("an exec", || {
        let answer = host.query("events", &json!({"kind": ["exec"]}));
        let result = answer["result"].clone();
        (result["foundanything"] == true || result["success"] != true).then_some(result)
    });

    assert_eq!(result["success"], true, "{result}");
    assert_eq!(result["elements"]["events"][0], json!({"kind": "exec"}));
    for question in [json!({"rules": true}), Value::Null, json!({"verify": true})] {
        assert_eq!(host.query("events", &question)["result"]["success"], true, "{question}");
    }
}

#[test]
fn a_wrong_rule_or_kind_is_refused_with_its_key() {
    let host = Host::new(&Settings::default(), MODULE);
    std::fs::write(host.path("rules.toml"), "[[rule]]\nid = \"x\"\n").unwrap();
    let rules = host.path("rules.toml");
    let text = format!("[events]\nkinds = exec\nkinds = nonsense\nrules = {}\n", rules.display());
    std::fs::write(host.path("modules.d/events.cfg"), text).unwrap();

    let ran = host.vigie(&["check-config", &host.path("vigie.toml").display().to_string()]);

    let said = ran.out + &ran.err;
    assert_ne!(ran.code, 0, "{said}");
    assert!(said.contains("nonsense") && said.contains("rules.toml"), "{said}");
}

#[test]
fn an_alert_of_fswatch_leads_to_the_tree_of_who_did_it_and_back() {
    let host = Host::new(&Settings { fswatch: true, ..Settings::default() }, MODULE);
    let watched = host.path("watched");
    std::fs::create_dir(&watched).unwrap();
    let config = format!("[paths]\npath = recursive:{}\n", watched.display());
    std::fs::write(host.path("modules.d/fswatch.cfg"), config).unwrap();
    let _agent = host.start();
    host.wait_ready("events");
    host.wait_baseline();
    if !has_bpf(&host) {
        return;
    }

    let script = "cp /etc/hostname \"$0/dropped\"; true";
    assert!(Command::new("sh").args(["-c", script]).arg(&watched).status().unwrap().success());

    let alert = wait_until("the alert", || {
        host.journal()
            .into_iter()
            .find(|alert| alert["message"].as_str().is_some_and(|text| text.contains("dropped")))
    });
    let seq = alert["seq"].to_string();
    let tree = wait_until("the tree", || {
        let ran = host.vigie(&["query", "events", "--alert", &seq, "--json"]);
        (ran.code == 0).then(|| serde_json::from_str::<Value>(&ran.out).expect("it is JSON"))
    });
    let events = tree["elements"]["events"].as_array().unwrap();
    let at =
        |depth: i64| events.iter().find(|event| event["depth"] == depth && event["kind"] == "exec").unwrap();
    assert_eq!(at(0)["argv"][0], "cp", "{tree}");
    assert_eq!(at(-1)["argv"][2], json!(script), "{tree}");
    assert_eq!(at(0)["alerts"], json!([alert["seq"]]), "{tree}");
    // From the event to the alert.
    let ran = host.vigie(&["query", "events", "--command", "dropped", "--alerts", "--human"]);
    assert!(ran.out.contains("ALERTS") && ran.out.contains(&seq), "{}", ran.out);
    let none = host.vigie(&["query", "events", "--alert", "999999"]);
    assert!(none.code != 0 && none.err.contains("no alert 999999"), "{none:?}");
    let fleet = host.vigie(&["query", "events", "--alert", &seq, "-t", "true"]);
    assert!(fleet.err.contains("one host"), "{fleet:?}");
}
