//! Starts that fail or wait, and what the agent says of it.

use std::fs;
use std::process::{Command, Stdio};

use crate::disk::Disk;
use crate::harness::{Agent, Host, Settings, wait_until};

/// What the agent wrote on standard error.
fn errors(host: &Host) -> String {
    fs::read_to_string(host.path("agent.err")).unwrap_or_default()
}

fn words(inside: &[String]) -> Vec<&str> {
    inside.iter().map(String::as_str).collect()
}

fn disk_of(host: &Host) -> Option<Disk> {
    let disk = Disk::mount(host, "state");
    if disk.is_none() {
        vigie_skipped::skipped("no file system can be mounted here");
    }
    disk
}

/// The control groups of this host's agent.
fn groups(host: &Host) -> String {
    let name = format!("vigie{}", host.path("run").display()).replace('/', "-");
    let found = Command::new("find").args(["/sys/fs/cgroup", "-type", "d", "-name", &name]).output();
    String::from_utf8_lossy(&found.expect("find runs").stdout).into_owned()
}

#[test]
fn a_state_on_a_full_or_read_only_file_system_is_named_and_leaves_no_control_group() {
    let host = Host::new(&Settings::default(), "");
    let Some(disk) = disk_of(&host) else { return };
    let inside = disk.inside();

    disk.fill();
    assert_eq!(host.launch_by(&words(&inside)).wait().code(), Some(69));
    let full = errors(&host);
    assert!(full.contains("the file system is full"), "{full}");
    // The guard removes them after the agent has ended.
    wait_until("no control group is left", || groups(&host).is_empty().then_some(()));

    assert!(disk.run(&["mount", "-o", "remount,ro"]));
    assert_eq!(host.launch_by(&words(&inside)).wait().code(), Some(69));
    let read_only = errors(&host);
    assert!(read_only.contains("the file system is read-only; repair or remount it"), "{read_only}");
}

#[test]
fn a_new_state_on_a_frozen_file_system_is_named_and_the_agent_starts_when_it_thaws() {
    let host = Host::new(&Settings::default(), "");
    let Some(disk) = disk_of(&host) else { return };

    disk.freeze();
    let mut agent: Agent<'_> = host.launch_by(&words(&disk.inside()));
    wait_until("the agent says what it waits for", || {
        errors(&host).contains("does not respond").then_some(())
    });
    assert!(errors(&host).contains(&host.path("state").display().to_string()), "{}", errors(&host));
    agent.assert_runs();
    disk.thaw();
    host.wait_log("agent started");

    assert_eq!(agent.stop(), Some(0));
}

#[test]
fn a_host_without_proc_or_the_null_device_is_told_what_to_mount() {
    // Root in a container may lack what it takes.
    let may = Command::new("unshare").args(["-m", "true"]).stderr(Stdio::null()).status();
    if !may.is_ok_and(|status| status.success()) {
        return vigie_skipped::skipped("no mount namespace can be made here");
    }
    for (order, what) in
        [("umount -l /proc", "/proc is not mounted"), ("mount -t tmpfs none /dev", "cannot open /dev/null")]
    {
        let host = Host::new(&Settings::default(), "");
        let script = format!("{order} && exec \"$@\"");
        let mut agent = host.launch_by(&["unshare", "-m", "sh", "-c", &script, "sh"]);

        assert_eq!(agent.wait().code(), Some(69), "{}", errors(&host));

        assert!(errors(&host).contains(what), "{}", errors(&host));
    }
}
