//! What a broker keeps, in a file and back in another broker.

use std::fs;
use std::os::unix::fs::MetadataExt as _;

use data_encoding::{BASE64, HEXLOWER};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use vigie_fleet::subjects::{self, ALERTS, EVERY_ALERT, STREAMS};

use crate::harness::{Fleet, action, document, patiently, server_is_missing};
use crate::host::persistent;
use crate::person::Person;

/// The same backup with some lines changed, and an end that fits them.
fn changed(text: &str, change: impl Fn(&mut Value)) -> String {
    let mut lines: Vec<String> = Vec::new();
    for line in text.lines() {
        let mut line: Value = serde_json::from_str(line).unwrap();
        if line.get("end").is_none() {
            change(&mut line);
            lines.push(format!("{line}\n"));
        }
    }
    let digest = HEXLOWER.encode(&Sha256::digest(lines.concat()));
    let end = json!({"end": {"lines": lines.len(), "sha256": digest}});
    format!("{}{end}\n", lines.concat())
}

#[test]
fn a_backup_makes_another_broker_the_same_and_nothing_that_nobody_signed_comes_with_it() {
    if server_is_missing() {
        return;
    }
    let mut fleet = Fleet::new();
    let member = fleet.host("web-1", &persistent("alerter.py", &["3"]));
    let running = member.host.start();
    member.wait_connected();
    member.wait("the alerts are sent", |status| status["alerts_sent"] == 3);
    let asked = fleet.ask(&action());
    fleet.answers(&asked, 1);
    patiently("it is reported", || (!fleet.audit("web-1").is_empty()).then_some(()));
    patiently("facts are shown", || fleet.facts("web-1"));
    drop(running);
    let administrator = Person::administrator(&fleet);

    let made = administrator.json(&fleet, &["fleet", "backup", "whole"]);
    assert_eq!(
        (&made[0]["POLICY"], &made[0]["ENROL"], &made[0]["ALERTS"]),
        (&json!(1), &json!(1), &json!(3))
    );
    assert!(made[0].get("keys").is_none(), "{made:?}");
    let path = administrator.path("whole");
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
    let text = fs::read_to_string(&path).unwrap();
    let keys: Vec<_> = text.lines().filter(|line| line.starts_with("{\"key\"")).collect();
    assert_eq!(keys, Vec::<&str>::new(), "no secret came with it");

    // A new broker, which has nothing.
    let second = Fleet::without_policy();
    let administrator_of_second = Person::administrator(&second);
    let restored = administrator_of_second.json(&second, &["fleet", "restore", path.to_str().unwrap()]);
    for stream in STREAMS {
        assert_eq!(restored[0].get(stream), made[0].get(stream).filter(|count| **count != 0), "{stream}");
    }
    let values = |fleet: &Fleet| -> Vec<_> {
        fleet.read(ALERTS, EVERY_ALERT).into_iter().map(|entry| (entry.subject, entry.value)).collect()
    };
    assert_eq!(values(&second), values(&fleet));
    let alice = Person::alice(&second);
    let agents = alice.json(&second, &["fleet", "agents"]);
    assert_eq!((agents.len(), &agents[0]["agent"]), (1, &json!("web-1")), "{agents:?}");
    // Once more: everything is there.
    let again = administrator_of_second.json(&second, &["fleet", "restore", path.to_str().unwrap()]);
    assert_eq!(again, [json!({})]);

    // Somebody changed an alert, and an older policy comes after a newer one.
    let third = Fleet::without_policy();
    let mut newer = document();
    newer["version"] = json!(7);
    third.publish_policy(&newer);
    let forged = changed(&text, |line| {
        if let Some(message) = line.get_mut("message").filter(|message| message["stream"] == ALERTS) {
            let value = BASE64.decode(message["value"].as_str().unwrap().as_bytes()).unwrap();
            let value = String::from_utf8(value).unwrap().replace("alert 1", "alert 9");
            message["value"] = json!(BASE64.encode(value.as_bytes()));
        }
    });
    let administrator_of_third = Person::administrator(&third);
    fs::write(administrator_of_third.path("forged"), forged).unwrap();
    let output = administrator_of_third.run(&third, &["fleet", "restore", "forged"]);
    assert_eq!(output.status.code(), Some(4));
    assert!(String::from_utf8_lossy(&output.stderr).contains("ALERTS vigie.alert.web-1"));
    assert_eq!(third.read(ALERTS, EVERY_ALERT).len(), 2);
    let policies = third.read(subjects::POLICY, subjects::POLICY_SUBJECT);
    assert_eq!(policies.len(), 1, "versions never go down");
    // A file that was changed and not sealed anew is none.
    fs::write(administrator_of_third.path("cut"), text.replace("vigie.alert.web-1", "vigie.alert.web-2"))
        .unwrap();
    assert!(!administrator_of_third.run(&third, &["fleet", "restore", "cut"]).status.success());
}
