//! The doctor beside a real agent, and without one.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;

use serde_json::Value;

use crate::harness::{Host, Ran, Settings, VIGIE};

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

#[test]
fn an_ordinary_user_learns_what_the_doctor_could_not_look_at() {
    if !vigie_skipped::is_root() {
        return;
    }
    let host = Host::new(&Settings::default(), "");
    let config = host.path("vigie.toml");
    // As /run and /etc are: everybody passes through, and not everybody may read.
    fs::set_permissions(host.path("."), Permissions::from_mode(0o711)).unwrap();
    fs::set_permissions(&config, Permissions::from_mode(0o600)).unwrap();
    let agent = host.start();

    let output = Command::new("setpriv")
        .args(["--reuid", "65502", "--regid", "65502", "--clear-groups", "--", VIGIE, "doctor", "--json"])
        .arg("--run-dir")
        .arg(host.path("run"))
        .arg("--config")
        .arg(&config)
        .output()
        .unwrap();
    let ran = Ran {
        code: output.status.code().unwrap_or(-1),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    };

    for id in [
        "host.capabilities",
        "host.disk",
        "installation.program",
        "installation.directories",
        "configuration.files",
        "configuration.in-force",
        "agent.running",
        "agent.conditions",
    ] {
        assert_eq!(status_of(&ran, id), "unknown", "{id}: {ran:?}");
    }
    assert!(!ran.out.contains("no agent") && !ran.out.contains("\"fail\""), "{ran:?}");
    assert!(ran.out.contains("run the doctor as root"), "{ran:?}");
    assert_eq!(ran.code, 1, "{ran:?}");
    assert_eq!(agent.stop(), Some(0));
}
