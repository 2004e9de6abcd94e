//! The doctor beside a real agent, and without one.

use serde_json::Value;

use crate::harness::{Host, Ran, Settings};

fn examine(host: &Host, more: &[&str]) -> Ran {
    let config = host.path("vigie.toml");
    let words = [&["doctor", "--config", config.to_str().unwrap()], more].concat();
    host.vigie(&words)
}

fn status_of(ran: &Ran, id: &str) -> String {
    let findings = ran.out.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let found = findings.filter(|finding| finding["id"] == id);
    found.map(|finding| finding["status"].as_str().unwrap().to_owned()).next().unwrap()
}

#[test]
fn the_doctor_sees_a_running_agent_and_its_absence() {
    let host = Host::new(&Settings::default(), "");
    let agent = host.start();

    let ran = examine(&host, &["--json"]);
    assert_eq!(status_of(&ran, "agent.running"), "ok", "{ran:?}");
    assert_eq!(status_of(&ran, "agent.version"), "ok", "{ran:?}");
    assert_eq!(status_of(&ran, "configuration.files"), "ok", "{ran:?}");
    assert_eq!(status_of(&ran, "installation.directories"), "ok", "{ran:?}");
    assert_eq!(status_of(&ran, "configuration.in-force"), "ok", "{ran:?}");

    assert_eq!(agent.stop(), Some(0));
    let ran = examine(&host, &["--json"]);
    assert_eq!((ran.code, status_of(&ran, "agent.running").as_str()), (2, "fail"), "{ran:?}");
    let ran = examine(&host, &["--only", "configuration.files", "--human"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(ran.out.starts_with("ok      configuration.files"), "{ran:?}");
}

#[test]
fn without_a_name_the_configuration_that_the_running_agent_has_read_is_examined() {
    let host = Host::new(&Settings::default(), "");
    let agent = host.start();

    let ran = host.vigie(&["doctor", "--only", "configuration.files", "--json"]);

    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(ran.out.contains(host.path("vigie.toml").to_str().unwrap()), "{ran:?}");
    assert_eq!(agent.stop(), Some(0));
}

#[test]
fn a_configuration_that_is_wrong_is_found_with_its_line() {
    let host = Host::new(&Settings::default(), "[limits]\nclients = 1\n");

    let ran = examine(&host, &["--only", "configuration", "--json"]);

    assert_eq!(ran.code, 2);
    assert!(ran.out.contains("limits.clients") && ran.out.contains("vigie check-config"), "{ran:?}");
    assert_eq!(examine(&host, &["--only", "configuraton"]).code, 64);
}
