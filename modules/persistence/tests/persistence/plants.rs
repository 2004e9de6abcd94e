//! One plant for each technique of the catalogue that a directory can hold.

use serde_json::{Value, json};

use crate::catalogue::{PLANTS, plant};
use crate::host::Host;

fn has(entries: &[Value], technique: &str, attack: &str, path: &str, line: u64, verdict: &str) -> bool {
    entries.iter().any(|entry| {
        entry["technique"] == technique
            && entry["attack"] == attack
            && entry["file"] == path
            && entry["verdict"] == verdict
            && (line == 0 || entry["line"] == line)
    })
}

#[test]
fn on_a_host_that_was_only_installed_everything_is_explained() {
    let host = Host::fresh();

    let all = host.entries(json!({"deep": true}));

    let strange: Vec<&Value> = all
        .iter()
        .filter(|entry| !["packaged", "derived"].contains(&entry["verdict"].as_str().unwrap()))
        .collect();
    assert!(strange.is_empty(), "{strange:#?}");
    for (file, verdict) in [
        ("/usr/lib/systemd/system/cron.service", "packaged"),
        ("/etc/systemd/system/sshd.service", "derived"),
        ("/etc/rc2.d/S01cron", "derived"),
        ("/etc/pam.d/common-auth", "derived"),
        ("/root/.bashrc", "derived"),
        ("/home/ann/.profile", "derived"),
        ("/etc/crontab", "packaged"),
    ] {
        assert!(all.iter().any(|entry| entry["file"] == file && entry["verdict"] == verdict), "{file}");
    }
    let cron = all.iter().find(|entry| entry["file"] == "/usr/lib/systemd/system/cron.service").unwrap();
    assert_eq!((&cron["package"], &cron["program"]["package"]), (&json!("cron"), &json!("cron")), "{cron}");
    assert_eq!((cron["sha256"].as_str().map(str::len), cron["line"].as_u64()), (Some(64), Some(4)), "{cron}");
}

#[test]
fn every_plant_is_found_with_file_line_verdict_and_attack_number() {
    let host = Host::fresh();
    for (_, _, path, how, _, _) in PLANTS {
        plant(&host, path, how);
    }

    let found = host.entries(json!({"local": true}));

    let missing: Vec<_> = PLANTS
        .iter()
        .filter(|(technique, attack, path, _, line, verdict)| {
            !has(&found, technique, attack, path, *line, verdict)
        })
        .map(|(technique, _, path, _, line, verdict)| {
            let near: Vec<String> =
                found.iter().filter(|entry| entry["file"] == *path).map(Value::to_string).collect();
            format!("{technique} {path}:{line} {verdict}, but {near:?}")
        })
        .collect();
    assert!(missing.is_empty(), "{}", missing.join("\n"));
    let mut techniques: Vec<&str> = PLANTS.iter().map(|(technique, ..)| *technique).collect();
    techniques.sort_unstable();
    techniques.dedup();
    // Capabilities need rights, five others a live kernel.
    assert_eq!(techniques.len(), 130);
}

#[test]
fn lines_that_a_package_brought_stay_packaged_beside_those_that_were_added() {
    let host = Host::fresh();
    host.write("/etc/crontab", "SHELL=/bin/sh\n* * * * * root /opt/p\n17 *\t* * *\troot\tcd / && run-parts --report /etc/cron.hourly\n", 0o644);

    let lines = host.entries(json!({"technique": ["cron-system"]}));

    assert!(has(&lines, "cron-system", "T1053.003", "/etc/crontab", 2, "modified"), "{lines:?}");
    assert!(has(&lines, "cron-system", "T1053.003", "/etc/crontab", 3, "packaged"), "{lines:?}");
}

#[test]
fn capabilities_of_files_are_found() {
    let host = Host::fresh();
    host.write("/usr/local/bin/p", "x", 0o755);
    let capability = [1, 0, 0, 2, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let set = rustix::fs::setxattr(
        host.path("/usr/local/bin/p"),
        "security.capability",
        &capability,
        rustix::fs::XattrFlags::empty(),
    );
    if set.is_err() {
        return vigie_skipped::skipped(
            "only root can give a file capabilities, and not on every file system",
        );
    }

    let found = host.entries(json!({"technique": "filecaps", "local": true}));

    assert!(has(&found, "filecaps", "T1548", "/usr/local/bin/p", 0, "local"), "{found:?}");
    assert_eq!(found[0]["notes"], json!(["cap_setuid"]));
}

#[test]
fn a_packaged_program_that_became_setuid_is_told() {
    let host = Host::fresh();
    let ls = host.path("/usr/bin/ls");
    std::fs::set_permissions(&ls, std::os::unix::fs::PermissionsExt::from_mode(0o4755)).unwrap();

    let found = host.entries(json!({"technique": "suid"}));

    assert!(has(&found, "suid", "T1548.001", "/usr/bin/ls", 0, "modified"), "{found:?}");
    assert!(has(&found, "suid", "T1548.001", "/usr/bin/passwd", 0, "packaged"), "{found:?}");
}

#[test]
fn hooks_of_git_and_changed_programs_anywhere_need_a_deep_walk() {
    let host = Host::fresh();
    host.write("/srv/repo/.git/hooks/post-merge", "#!/bin/sh\n/opt/p\n", 0o755);
    host.write("/srv/tool", "x", 0o4755);

    let shallow = host.ask(json!({"technique": ["git", "suid"], "local": true}));
    let deep = host.entries(json!({"technique": ["git", "suid"], "local": true, "deep": true}));

    assert!(shallow.is_not_known(), "{shallow:?}");
    assert!(has(&deep, "git", "T1546", "/srv/repo/.git/hooks/post-merge", 2, "local"), "{deep:?}");
    assert!(has(&deep, "suid", "T1548.001", "/srv/tool", 0, "local"), "{deep:?}");
}

#[test]
fn a_question_that_needs_no_walk_is_answered_completely() {
    let host = Host::fresh();

    let result = host.ask(json!({"kind": "cron", "local": true}));

    assert!(!result.foundanything && result.coverage.unwrap().complete);
}

#[test]
fn without_a_database_of_packages_nothing_is_called_local() {
    let host = Host::fresh();
    std::fs::remove_dir_all(host.path("/var/lib/dpkg")).unwrap();

    let result = host.ask(json!({"technique": "cron-d"}));
    host.write("/etc/cron.d/p", "@daily root x\n", 0o644);
    let entries = host.entries(json!({"technique": "cron-d"}));

    assert!(!result.coverage.unwrap().complete);
    assert_eq!(entries[0]["verdict"], "unknown");
}
