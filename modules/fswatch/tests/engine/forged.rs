//! Processes that show another program than their own, as everybody can with a user namespace.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use serde_json::{Value, json};

use super::running::{Running, recursive};
use super::who::uses_fanotify;

/// The user and group `nobody`.
const NOBODY: u32 = 65_534;

/// What a program ends with where the kernel does not let it do this.
const NOT_PERMITTED: i32 = 77;

#[test]
fn nobody_who_shows_the_program_of_the_package_manager_is_the_package_manager() {
    if !vigie_skipped::is_root()
        || !vigie_skipped::happens_to_have("/usr/bin/dpkg")
        || !vigie_skipped::happens_to_have("/usr/bin/cc")
    {
        return;
    }
    let temp = tempfile::tempdir().unwrap();
    let (program, watched) = (temp.path().join("forged"), temp.path().join("w"));
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/engine/forged.c");
    let mut compiler = Command::new("cc");
    compiler.args(["-O1", "-fno-stack-protector", "-o"]).arg(&program).arg(source);
    assert!(compiler.status().unwrap().success());
    fs::create_dir(&watched).unwrap();
    for (path, mode) in [(temp.path(), 0o755), (&watched, 0o777), (&program, 0o755)] {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    for commands in ["exec", "claimed"] {
        let mut running = Running::configured(
            json!({"paths": {"path": [recursive(&watched)]}, "fswatch": {"commands": commands}}),
        );
        if !uses_fanotify(&running) {
            return;
        }
        for mode in ["own", "fork", "shared"] {
            let file = watched.join(format!("{commands}-{mode}"));
            let mut forged = Command::new(&program);
            forged.arg("/usr/bin/dpkg").arg(&file).arg(mode).uid(NOBODY).gid(NOBODY);
            let done = forged.status().unwrap();
            if done.code() == Some(NOT_PERMITTED) {
                return vigie_skipped::skipped("no user namespace of a user's own");
            }
            assert!(done.success(), "{mode}: {done}");

            for told in running.told(&watched) {
                let process = &told.process;
                let is_claimed =
                    |key: &str| process["claimed"].as_array().is_some_and(|keys| keys.contains(&json!(key)));
                let is_dpkg = process["executable"] == "/usr/bin/dpkg";
                assert!(!is_dpkg || is_claimed("executable") && is_claimed("executable_file"), "{told:?}");
                assert_eq!(told.package["by_manager"], Value::Null, "{told:?}");
            }
        }
        running.stop();
    }
}
