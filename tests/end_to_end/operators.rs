//! Who may ask an agent that belongs to root: members of the operators' group, and nobody else.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Output};

use crate::harness::{Host, Settings, VIGIE};

/// A group that every Debian and most others have, and its number is looked up.
const GROUP: &str = "adm";

const OPERATORS: Settings = Settings { agent: "operators_group = \"adm\"", heartbeat: "2s", fswatch: false };

/// A user without a name or files here.
const STRANGER: &str = "65502";

fn group_id() -> Option<String> {
    let groups = fs::read_to_string("/etc/group").unwrap();
    let line = groups.lines().find(|line| line.split(':').next() == Some(GROUP))?;
    line.split(':').nth(2).map(str::to_owned)
}

/// Runs a command as the stranger, with these groups.
fn ask(host: &Host, groups: &str, arguments: &[&str]) -> Output {
    Command::new("setpriv")
        .args(["--reuid", STRANGER, "--regid", STRANGER, groups, "--", VIGIE])
        .args(arguments)
        .arg("--run-dir")
        .arg(host.path("run"))
        .output()
        .unwrap()
}

#[test]
fn only_members_of_the_operators_group_may_ask_roots_agent() {
    if !vigie_skipped::is_root() {
        return;
    }
    let Some(group) = group_id() else {
        return vigie_skipped::skipped(format_args!("this host has no group {GROUP}"));
    };
    let member = format!("--groups={group}");
    for (settings, is_open) in [(&OPERATORS, true), (&Settings::default(), false)] {
        let host = Host::new(settings, "");
        // As /run is: everybody passes through.
        fs::set_permissions(host.path("."), Permissions::from_mode(0o711)).unwrap();
        let _agent = host.start();

        for arguments in
            [&["status"][..], &["query", "file", "--path", "/etc", "--name", "^passwd$", "--json"]]
        {
            let stranger = ask(&host, "--clear-groups", arguments);
            let said = String::from_utf8_lossy(&stranger.stderr).into_owned();
            assert_eq!(stranger.status.code(), Some(77), "{arguments:?}: {said}");
            assert!(said.contains("agent.operators_group"), "{said}");

            let operator = ask(&host, &member, arguments);
            let said = String::from_utf8_lossy(&operator.stderr).into_owned();
            let expected = if is_open { 0 } else { 77 };
            assert_eq!(operator.status.code(), Some(expected), "{arguments:?}: {said}");
        }
        // What an operator may ask is not what he may do.
        let sockets = fs::read_dir(host.path("run")).unwrap().map(|entry| entry.unwrap().path());
        for path in sockets.filter(|path| path.to_string_lossy().contains("persist-")) {
            assert_eq!(path.metadata().unwrap().permissions().mode() & 0o077, 0, "{path:?}");
        }
    }
}
