//! What a module may take, and what holds its processes together where there is no cgroup.

use std::fs;
use std::path::PathBuf;

use nix::sys::signal::Signal;
use nix::unistd::Pid;
use serde_json::Value;

use crate::harness::{Agent, Host, IMPATIENT, module, persistent, signal, wait_until};

/// Starts a command where every cgroup can only be read, as in most containers.
pub(crate) const READ_ONLY: [&str; 6] = [
    "unshare",
    "--mount",
    "sh",
    "-ec",
    "for point in $(awk '/ - cgroup2? /{print $5}' /proc/self/mountinfo); do
        mount -o remount,bind,ro \"$point\"
    done
    exec \"$@\"",
    "sh",
];

/// Whether this host limits a controller here; says that the test is skipped where it does not.
fn limits(controller: &str) -> bool {
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap();
    let legacy = groups.lines().any(|line| line.contains(&format!(":{controller}:")));
    let unified = fs::read_to_string("/sys/fs/cgroup/cgroup.controllers").unwrap_or_default();
    let found = nix::unistd::geteuid().is_root() && (legacy || unified.contains(controller));
    if !found {
        vigie_skipped::skipped(format_args!("no {controller} cgroup can be made here"));
    }
    found
}

fn pid_of(module: &Value) -> Pid {
    Pid::from_raw(i32::try_from(module["pid"].as_i64().unwrap()).unwrap())
}

/// The directory of a process in the hierarchy of a controller, version 1 or 2.
fn group_of(pid: Pid, controller: &str) -> PathBuf {
    let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    let legacy = groups.lines().find_map(|line| line.split_once(&format!(":{controller}:")));
    match legacy {
        Some((_, path)) => PathBuf::from(format!("/sys/fs/cgroup/{controller}{path}")),
        None => {
            let path = groups.lines().find_map(|line| line.strip_prefix("0::")).unwrap();
            PathBuf::from(format!("/sys/fs/cgroup{path}"))
        }
    }
}

#[test]
fn a_module_that_uses_up_its_tasks_ends_by_that_name_and_its_neighbour_does_not_notice() {
    if !limits("pids") {
        return;
    }
    let host = Host::new(&IMPATIENT, "");
    let trigger = host.path("trigger");
    let more = "restart = \"temporary\"\n[module.limits]\ntasks = 20\n";
    let bomb = module("persistent", "bomb", "many_tasks.sh", &[trigger.to_str().unwrap()], more);
    host.configure(&IMPATIENT, &(bomb + &persistent("echo.py", &[])));
    let agent = host.start();
    let neighbour = host.wait_ready("echo");
    host.wait_running("bomb");

    fs::write(&trigger, "").unwrap();

    let ended = host.wait_for("bomb", |module| module["state"] == "ended");
    assert_eq!(ended["last_exit"], "limit(tasks)");
    let now = host.module("echo");
    assert_eq!((&now["pid"], &now["state"]), (&neighbour["pid"], &neighbour["state"]));
    wait_until("nothing of the bomb is left", || (host.processes().len() == 1).then_some(()));
    assert_eq!(agent.stop(), Some(0));
}

#[test]
fn a_module_whose_tasks_are_used_up_while_it_lives_says_so_in_its_status() {
    if !limits("pids") {
        return;
    }
    let host = Host::new(&IMPATIENT, "");
    let trigger = host.path("trigger");
    let more = "[module.limits]\ntasks = 20\n";
    let bomb = module("persistent", "bomb", "uses_up_tasks.py", &[trigger.to_str().unwrap()], more);
    host.configure(&IMPATIENT, &bomb);
    let _agent = host.start();
    host.wait_running("bomb");

    fs::write(&trigger, "").unwrap();

    let condition = host.wait_condition("bomb", "limit-reached");
    assert_eq!(condition["detail"], "tasks are used up");
}

#[test]
fn a_module_that_takes_too_much_memory_ends_by_that_name() {
    if !limits("memory") {
        return;
    }
    let host = Host::new(&IMPATIENT, "");
    let trigger = host.path("trigger");
    let more = "restart = \"temporary\"\n[module.limits]\nresident_bytes = \"48 MiB\"\n";
    let takes = module("persistent", "takes", "takes_memory.py", &[trigger.to_str().unwrap()], more);
    host.configure(&IMPATIENT, &(takes + &persistent("echo.py", &[])));
    let _agent = host.start();
    let neighbour = host.wait_ready("echo");
    host.wait_running("takes");

    fs::write(&trigger, "").unwrap();

    let ended = host.wait_for("takes", |module| module["state"] == "ended");
    assert_eq!(ended["last_exit"], "limit(memory)");
    assert_eq!(host.module("echo")["pid"], neighbour["pid"]);
}

#[test]
fn limits_are_in_force_before_a_module_runs_and_its_groups_go_with_it() {
    if !limits("pids") || !limits("cpu") {
        return;
    }
    let more = "[module.limits]\ncpu_percent = 50\n";
    let host = Host::new(&IMPATIENT, &module("persistent", "echo", "echo.py", &[], more));
    let agent = host.start();
    let pid = pid_of(&host.wait_ready("echo"));
    let (tasks, cpu) = (group_of(pid, "pids"), group_of(pid, "cpu"));

    assert_eq!(fs::read_to_string(tasks.join("pids.max")).unwrap().trim(), "512");
    let quota = fs::read_to_string(cpu.join("cpu.cfs_quota_us"))
        .or_else(|_| fs::read_to_string(cpu.join("cpu.max")))
        .unwrap();
    assert_eq!(quota.split_whitespace().next(), Some("50000"), "{cpu:?}");
    assert!(host.condition("echo", "containment-limited").is_none());
    signal(&host.module("echo")["pid"], Signal::SIGKILL);
    wait_until("the group of that life is gone", || (!tasks.exists() && !cpu.exists()).then_some(()));
    let again = pid_of(&host.wait_for("echo", |module| {
        module["state"] == "running" && module["pid"].as_i64() != Some(pid.as_raw().into())
    }));
    let groups = [group_of(again, "pids"), group_of(again, "cpu")];
    assert_eq!(agent.stop(), Some(0));
    for group in groups {
        assert!(!group.exists() && !group.parent().unwrap().exists(), "{group:?}");
    }
}

#[test]
fn groups_of_an_agent_that_was_killed_are_removed() {
    if !limits("pids") {
        return;
    }
    let host = Host::new(&IMPATIENT, &persistent("echo.py", &[]));
    let agent = host.start();
    let group = group_of(pid_of(&host.wait_ready("echo")), "pids");

    agent.kill();

    host.wait_empty();
    wait_until("the guard has removed them", || (!group.parent().unwrap().exists()).then_some(()));
}

#[test]
fn children_cannot_gain_privileges_unless_the_configuration_lets_them() {
    let free = module("persistent", "free", "echo.py", &[], "new_privileges = true\n");
    let host = Host::new(&IMPATIENT, &(persistent("echo.py", &[]) + &free));
    let _agent = host.start();
    let flag = |name: &str| {
        let pid = pid_of(&host.wait_ready(name));
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("NoNewPrivs:")).unwrap();
        line.trim().to_owned()
    };
    let own = fs::read_to_string("/proc/self/status").unwrap();
    let inherited = own.lines().any(|line| line.split_whitespace().eq(["NoNewPrivs:", "1"]));

    assert_eq!(flag("echo"), "1");
    assert_eq!(flag("free"), if inherited { "1" } else { "0" });
}

/// The signals that a process blocks, as bits.
fn blocked_signals(pid: i64) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let bits = status.lines().find_map(|line| line.strip_prefix("SigBlk:")).expect("proc_pid_status(5)");
    u64::from_str_radix(bits.trim(), 16).expect("a hexadecimal number")
}

/// The module below a launcher.
pub(crate) fn below(launcher: &Value) -> i64 {
    let children = fs::read_to_string(format!("/proc/{launcher}/task/{launcher}/children")).unwrap();
    children.trim().parse().expect("one process")
}

/// An agent to which no cgroup belongs.
fn without_cgroups<'h>(host: &'h Host) -> Agent<'h> {
    if nix::unistd::geteuid().is_root() { host.start_by(&READ_ONLY) } else { host.start() }
}

#[test]
fn without_a_cgroup_what_a_module_leaves_in_other_sessions_ends_before_its_next_life() {
    let host = Host::new(&IMPATIENT, &persistent("setsid_grandchild.py", &[]));
    let agent = without_cgroups(&host);
    if host.status()["containment"] == "cgroup" {
        return vigie_skipped::skipped("this user has a cgroup of its own");
    }
    assert_eq!(host.status()["containment"], "launcher");
    let note = host.path("state/modules/setsid_grandchild/grandchild");
    let mut earlier = Vec::new();
    for round in 0..4 {
        host.wait_for("setsid_grandchild", |module| {
            module["state"] == "running" && module["restarts"].as_u64() == Some(round)
        });
        let grandchild = wait_until("the grandchild is there", || {
            let text = fs::read_to_string(&note).ok()?;
            text.parse::<i32>().ok().filter(|pid| !earlier.contains(pid))
        });
        earlier.push(grandchild);
        // launcher, module, child, grandchild
        assert_eq!(host.processes().len(), 4);
        let launcher = &host.module("setsid_grandchild")["pid"];
        signal(&below(launcher).into(), Signal::SIGKILL);
        host.wait_for("setsid_grandchild", |module| module["restarts"].as_u64() == Some(round + 1));
        assert!(!PathBuf::from(format!("/proc/{grandchild}")).exists());
    }
    assert_eq!(agent.stop(), Some(0));
    host.wait_empty();
}

#[test]
fn without_a_cgroup_a_module_starts_with_no_signal_blocked() {
    let host = Host::new(&IMPATIENT, &persistent("echo.py", &[]));
    let _agent = without_cgroups(&host);
    let module = host.wait_ready("echo");
    if host.status()["containment"] == "cgroup" {
        return vigie_skipped::skipped("this user has a cgroup of its own");
    }

    assert_eq!(blocked_signals(below(&module["pid"])), 0);
}

#[test]
fn without_a_cgroup_nothing_outlives_an_agent_that_is_killed() {
    let host = Host::new(&IMPATIENT, &persistent("setsid_grandchild.py", &[]));
    let agent = without_cgroups(&host);
    host.wait_running("setsid_grandchild");
    wait_until("the grandchild is there", || {
        host.path("state/modules/setsid_grandchild/grandchild").exists().then_some(())
    });

    agent.kill();

    host.wait_empty();
}

#[test]
fn without_a_cgroup_the_status_names_the_limits_that_nobody_keeps() {
    let more = "[module.limits]\ntasks = 100\n";
    let host = Host::new(&IMPATIENT, &module("persistent", "echo", "echo.py", &[], more));
    let _agent = without_cgroups(&host);
    if host.status()["containment"] == "cgroup" {
        return vigie_skipped::skipped("this user has a cgroup of its own");
    }

    let condition = host.wait_condition("echo", "containment-limited");

    assert!(condition["detail"].as_str().unwrap().contains("limits.tasks"), "{condition}");
}
