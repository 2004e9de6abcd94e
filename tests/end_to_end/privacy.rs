//! Extra privacy mode: what modules mask, and what the agent refuses when one forgets to.

use serde_json::json;

use crate::harness::{Host, Settings, module};

const PRIVATE: Settings = Settings { agent: "extraprivacymode = true", heartbeat: "2s", fswatch: true };

/// An answer of `file` that names a file.
const NAMES_A_FILE: &str = r#"{"foundanything":true,"success":true,"elements":{"s":[{"file":"/home/ann/letter","search":{"paths":["/home"]},"fileinfo":{"size":0,"mode":"masked","lastmodified":"masked"}}]},"statistics":{"filescount":1,"openfailed":0,"totalhits":1,"exectime":"1ms"},"errors":null}"#;

/// An answer of `netstat` whose peer is masked and whose error is not.
const ERROR_WITH_ADDRESS: &str = r#"{"foundanything":true,"success":true,"elements":{"connectedip":{"0.0.0.0/0":[{"localaddr":"10.0.0.1","localport":1,"remoteaddr":"masked","remoteport":2}]}},"statistics":{"examined":1,"exectime":"1ms","totalhits":1},"errors":["10.77.0.2 went away"]}"#;

#[test]
fn the_agent_refuses_the_answer_of_a_known_module_that_forgot_to_mask() {
    let modules = module("standard", "file", "forgetful.sh", &[NAMES_A_FILE], "")
        + &module("standard", "netstat", "forgetful.sh", &[ERROR_WITH_ADDRESS], "");
    let host = Host::new(&PRIVATE, &modules);
    let _agent = host.start();

    for (name, place, secret) in [("file", "elements.s.file", "letter"), ("netstat", "errors", "10.77")] {
        let answer = host.query(name, &json!({}));

        assert_eq!(answer["error"]["kind"], "unmasked", "{answer}");
        let message = answer["error"]["message"].as_str().unwrap();
        assert!(message.contains(name) && message.contains(place), "{message}");
        assert!(!answer.to_string().contains(secret), "{answer}");
    }
    assert!(!std::fs::read_to_string(host.path("agent.log")).unwrap().contains("letter"));
}

#[test]
fn without_the_mode_the_same_answer_is_passed_on() {
    let modules = module("standard", "file", "forgetful.sh", &[NAMES_A_FILE], "");
    let host = Host::new(&Settings::default(), &modules);
    let _agent = host.start();

    let answer = host.query("file", &json!({}));

    assert_eq!(answer["result"]["elements"]["s"][0]["file"], "/home/ann/letter", "{answer}");
}

#[test]
fn the_built_in_modules_keep_to_it() {
    let host = Host::new(&PRIVATE, "");
    let watched = host.path("diary");
    std::fs::create_dir(&watched).unwrap();
    std::fs::write(watched.join("letter"), "dear").unwrap();
    std::fs::write(
        host.path("modules.d/fswatch.cfg"),
        format!("[paths]\npath = recursive:{}\n", watched.display()),
    )
    .unwrap();
    let _agent = host.start();
    host.wait_baseline();

    for (name, parameters) in [
        ("file", json!({"searches": {"s": {"paths": [watched, "/nonexistent"], "names": ["letter"]}}})),
        ("file", json!({"searches": {"s": {"paths": [watched], "names": ["("]}}})),
        (
            "netstat",
            json!({"connectedip": ["0.0.0.0/0", "::/0"], "listeningport": ["22"], "processes": true}),
        ),
        (
            "netstat",
            json!({"neighborip": ["0.0.0.0/0"], "localip": ["0.0.0.0/0"], "localmac": [".*"], "namespaces": true}),
        ),
        ("netstat", json!({"connectedip": ["10.1.2.3/99"]})),
        ("persistence", json!({"root": host.path("")})),
        ("accounts", json!({})),
        ("accounts", json!({"what": ["failures"], "user": ["diary"]})),
        ("timedrift", json!({})),
        ("timedrift", json!({"drift": "5s", "fallback": false})),
        ("fswatch", json!({})),
        ("fswatch", json!({"rescan": true})),
        ("fswatch", json!({"changes": true})),
        ("fswatch", json!({"unaccepted": true})),
        ("fswatch", json!({"accept": true, "by": "ann"})),
        ("fswatch", json!({"explain": watched})),
        ("fswatch", json!({"since": "/home/ann"})),
    ] {
        let answer = host.query(name, &parameters);

        assert!(answer["result"].is_object(), "{name} {parameters}: {answer}");
        if name != "netstat" {
            let mut elements = answer["result"].clone();
            // The search repeats what was asked.
            elements["elements"]["s"]
                .as_array_mut()
                .into_iter()
                .flatten()
                .for_each(|found| found["search"] = json!(null));
            assert!(!elements.to_string().contains("diary"), "{name} {parameters}: {answer}");
        }
    }
}

#[test]
fn the_status_names_the_modules_that_nobody_can_check() {
    let host = Host::new(&PRIVATE, &module("standard", "own", "standard_echo.sh", &[], ""));
    let _agent = host.start();

    let status = host.status();

    assert_eq!(status["privacy"], json!({"extra": true, "unchecked": ["own"]}));
    let answer = host.query("own", &json!({"path": "/etc"}));
    assert_eq!(answer["result"]["elements"]["extraprivacy"], true, "{answer}");
}
