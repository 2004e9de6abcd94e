//! A marker in what modules and alerts show of a host, and every byte that the broker stores of it in extra privacy
//! mode.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use vigie_fleet::subjects;

use crate::harness::{Fleet, alice, document, id_of, patiently, server_is_missing, sign, with};
use crate::host::{Settings, persistent};

/// What is looked for. Questions spell it as an expression, since what was asked is stored with them.
const MARKER: &str = "zqmarkerzq";
const ASKED: &str = "zqmark[e]rzq";

/// All that agents may have stored.
const STREAMS: [(&str, &str); 4] = [
    (subjects::RESULTS, subjects::EVERY_ANSWER),
    (subjects::ALERTS, subjects::EVERY_ALERT),
    (subjects::FACTS, subjects::EVERY_FACTS),
    (subjects::AUDIT, subjects::EVERY_AUDIT),
];

fn plant(root: &Path) {
    let plant = |path: &str, text: String| {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    };
    plant(
        "etc/passwd",
        format!("root:x:0:0:root:/root:/bin/sh\n{MARKER}:x:0:0:{MARKER}:/home/{MARKER}:/bin/{MARKER}\n"),
    );
    plant("etc/sudoers", format!("{MARKER} ALL=(ALL) NOPASSWD: /opt/{MARKER}\n"));
    plant(&format!("etc/cron.d/{MARKER}"), format!("* * * * * {MARKER} /opt/{MARKER}\n"));
    plant(&format!("files/{MARKER}.txt"), MARKER.to_owned());
}

/// Everything of a stream that names an agent, as the broker has it.
fn stored(fleet: &Fleet, agent: &str) -> Vec<(String, String)> {
    let all = STREAMS.into_iter().flat_map(|(stream, filter)| fleet.read(stream, filter));
    let of_agent = all.filter(|entry| entry.subject.ends_with(&format!(".{agent}")));
    of_agent.map(|entry| (entry.subject, String::from_utf8_lossy(&entry.value).into_owned())).collect()
}

#[test]
fn nothing_that_the_broker_stores_of_a_private_host_has_the_marker() {
    if server_is_missing() {
        return;
    }
    let mut fleet = Fleet::new();
    let mut policy = document();
    policy["version"] = json!(2);
    policy["acl"]["default"] = json!({"minimum_weight": 1, "investigators": {"alice": 1}});
    policy["standing"] = json!({"investigators": ["alice"], "min_seconds": 5, "questions": 4});
    fleet.publish_policy(&policy);
    let alert = json!({"severity": "high", "alert": format!("{MARKER} changed"), "event": "changed",
        "path": format!("/srv/{MARKER}"), "rule": "srv", "number": "%d",
        "process": {"pid": 1, "executable": format!("/opt/{MARKER}"), "command": MARKER}});
    let alerter = persistent("alerter.py", &["3", &alert.to_string()]);
    let tree = tempfile::tempdir().unwrap();
    plant(tree.path());
    let (root, files) = (tree.path(), tree.path().join("files"));
    let questions = [
        json!({"module": "file", "params": {"searches": {"s": {"paths": [files], "names": [ASKED],
            "options": {"returnsha256": true, "returnmetadata": true}}}}}),
        json!({"module": "accounts", "params": {"root": root}}),
        json!({"module": "persistence", "params": {"root": root}}),
    ];

    let members = [("open", "extraprivacymode = false"), ("private", "extraprivacymode = true")].map(
        |(name, agent)| {
            let member = fleet.host(name, "");
            let settings = Settings { agent, ..Settings::default() };
            member.host.configure(&settings, &format!("{}\n{alerter}", member.section));
            member
        },
    );
    let _agents = [&members[0], &members[1]].map(|member| {
        let agent = member.host.start();
        member.wait_connected();
        agent
    });
    let standing = |every: u32| {
        let mut action = with("ops", json!(questions));
        action["standing"] = json!({ "every": every });
        action
    };
    let (once, again) = (with("ops", json!(questions)), standing(5));
    fleet.ask(&once);
    fleet.publish("vigie.standing.alice", &sign(&again, &[&alice()]));
    fleet.live(&sign(&again, &[&alice()]));
    for id in [id_of(&once), id_of(&again)] {
        fleet.answers(&id, 2);
    }
    for member in &members {
        let sent =
            |status: &Value| status["alerts_sent"].as_u64() >= Some(3) && status["alerts_waiting"] == 0;
        member.wait("the alerts are sent", sent);
        // A report of the standing question as well.
        patiently("it was asked", || {
            let directory = member.host.path("state/fleet/standing");
            let kept = fs::read(directory.join(format!("{}.json", id_of(&again)))).ok()?;
            let kept: Value = serde_json::from_slice(&kept).ok()?;
            (kept["number"].as_u64() >= Some(1)).then_some(())
        });
    }

    let counts = |agent: &str| {
        let stored = stored(&fleet, agent);
        let with_marker: Vec<_> =
            stored.iter().filter(|(_, bytes)| bytes.contains(MARKER)).cloned().collect();
        (stored.len(), with_marker)
    };
    // The open host shows that the marker is there to be found, in answers and in alerts.
    let (_, leaks) = counts("open");
    for prefix in ["vigie.res.", "vigie.alert."] {
        assert!(leaks.iter().any(|(subject, _)| subject.starts_with(prefix)), "{prefix}");
    }
    let (count, leaks) = counts("private");
    assert!(count >= 5, "{count}");
    assert_eq!(leaks, []);
}
