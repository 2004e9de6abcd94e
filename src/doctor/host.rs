//! The host: what the kernel can do, and how much room there is.

use nix::sys::statvfs::statvfs;
use vigie_adjtimex::KernelClock;
use vigie_fanotify::{Group, Options};
use vigie_host::CAPABILITIES;

use super::{Check, Outcome, Patient, Verdict, fine, note, trouble, unknown};
use crate::print::size;

pub(super) const CHECKS: &[Check] = &[
    Check {
        id: "host.kernel",
        title: "version of the kernel",
        docs: "docs/doctor.md#host",
        run: |patient| with_proc(patient, kernel),
    },
    Check {
        id: "host.fanotify",
        title: "watching whole file systems",
        docs: "docs/fswatch.md",
        run: |patient| with_proc(patient, fanotify),
    },
    Check {
        id: "host.btf",
        title: "kernel type information for eBPF",
        docs: "docs/doctor.md#host",
        run: btf,
    },
    Check {
        id: "host.cgroups",
        title: "cgroups that hold modules",
        docs: "docs/doctor.md#host",
        run: |patient| with_proc(patient, cgroups),
    },
    Check {
        id: "host.capabilities",
        title: "capabilities of the agent",
        docs: "docs/unit.md",
        run: |patient| with_proc(patient, capabilities),
    },
    Check { id: "host.clock", title: "synchronisation of the clock", docs: "docs/timedrift.md", run: clock },
    Check { id: "host.disk", title: "free space for state and log", docs: "docs/journal.md", run: disk },
    Check {
        id: "host.memory",
        title: "free memory",
        docs: "docs/doctor.md#host",
        run: |patient| with_proc(patient, memory),
    },
    Check {
        id: "host.limits",
        title: "limits of open files and tasks",
        docs: "docs/unit.md",
        run: |patient| with_proc(patient, limits),
    },
];

/// The oldest kernel on which every promise holds: names of both ends of a rename by fanotify(7).
const FULL: (u32, u32) = (5, 17);

/// The oldest one on which the agent runs: fanotify with names of entries, pidfd_open(2).
const LEAST: (u32, u32) = (5, 9);

/// Looks where there is a `/proc`. What is missing in an empty one says nothing about the kernel or the user.
fn with_proc(patient: &Patient, look: fn(&Patient) -> Vec<Outcome>) -> Vec<Outcome> {
    match std::fs::read_dir(patient.path("/proc")).map(|mut entries| entries.next().is_some()) {
        Ok(true) => look(patient),
        _ => vec![unknown("/proc is not mounted", "mount /proc")],
    }
}

fn kernel(patient: &Patient) -> Vec<Outcome> {
    let Some(release) = patient.text("/proc/sys/kernel/osrelease") else {
        return vec![unknown("the kernel's version is unknown", "mount /proc")];
    };
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|number| number.parse().unwrap_or(0));
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    vec![if version < LEAST {
        let remedy = "use Linux 5.9 or newer: older kernels cannot watch whole file systems";
        trouble(Verdict::Fail, format!("Linux {release} is too old"), remedy)
    } else if version < FULL {
        let remedy = "use Linux 5.17 or newer to get renames as one change; before 5.14, leftovers of modules are found only by session";
        trouble(Verdict::Warn, format!("Linux {release} lacks some features"), remedy)
    } else {
        fine(format!("Linux {release}"))
    }]
}

/// Whether this process may open a group, whatever the reason: the kernel, the user, a filter of a container.
fn fanotify(patient: &Patient) -> Vec<Outcome> {
    if !patient.path("/proc/sys/fs/fanotify").exists() {
        return vec![trouble(
            Verdict::Warn,
            "the kernel has no fanotify: fswatch uses inotify, which needs one watch per directory and cannot identify the process that changed a file",
            "use a kernel with CONFIG_FANOTIFY",
        )];
    }
    vec![match Group::new(Options::default()) {
        Ok(_) => fine("whole file systems can be watched"),
        Err(error) => {
            let found = format!("{}", vigie_protocol::error_chain::ErrorChain(&error));
            if nix::unistd::geteuid().is_root() {
                let remedy = "give the agent CAP_SYS_ADMIN and the system calls fanotify_init, fanotify_mark, open_by_handle_at";
                trouble(Verdict::Warn, found, remedy)
            } else {
                unknown(found, "run the doctor as root to learn what the agent can do")
            }
        }
    }]
}

fn btf(patient: &Patient) -> Vec<Outcome> {
    vec![if patient.path("/sys/kernel/btf/vmlinux").exists() {
        fine("kernel type information is available")
    } else {
        note("the kernel has no BTF: modules that load eBPF programs cannot run here; others do not need it")
    }]
}

fn cgroups(patient: &Patient) -> Vec<Outcome> {
    let mounts = patient.text("/proc/self/mountinfo").unwrap_or_default();
    let has_v2 = mounts.lines().any(|line| line.contains(" - cgroup2 "));
    vec![match (&patient.status, has_v2) {
        (Ok(status), _) if status.containment == "cgroup" => fine("each module has a cgroup of its own"),
        (Ok(_), true) => trouble(
            Verdict::Warn,
            "the agent cannot create cgroups: limits of tasks, memory and CPU are not enforced",
            "use the shipped unit, which has Delegate=, or give the agent a writable cgroup",
        ),
        (Err(_), true) => fine("cgroup v2 is mounted"),
        (_, false) => trouble(
            Verdict::Warn,
            "there is no cgroup v2: limits of tasks, memory and CPU may not be enforced",
            "mount cgroup v2 (boot with systemd.unified_cgroup_hierarchy=1)",
        ),
    }]
}

/// What is lost without a capability.
const NEEDED: [(&str, &str); 3] = [
    (
        "cap_dac_read_search",
        "files and directories of other users cannot be read, and fswatch cannot name changed files",
    ),
    ("cap_sys_ptrace", "sockets are not attributed to processes, and programs of other users are invisible"),
    ("cap_sys_admin", "fswatch falls back to inotify, and other network namespaces are not searched"),
];

fn capabilities(patient: &Patient) -> Vec<Outcome> {
    let of_whom = patient.agent_pid().map_or("self".to_owned(), |pid| pid.to_string());
    let text = patient.text(&format!("/proc/{of_whom}/status")).unwrap_or_default();
    let field = text.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let Some(bits) = field.and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok()) else {
        return vec![unknown(
            format!("the capabilities of process {of_whom} cannot be read"),
            "run the doctor as root",
        )];
    };
    let has = |name: &str| {
        CAPABILITIES.iter().position(|known| *known == name).is_some_and(|bit| bits >> bit & 1 == 1)
    };
    if patient.status.is_err() && !nix::unistd::geteuid().is_root() {
        let names: Vec<String> = NEEDED
            .iter()
            .map(|(name, _)| name.to_uppercase())
            .filter(|name| !has(&name.to_lowercase()))
            .collect();
        if !names.is_empty() {
            let found = format!(
                "an agent of this user would lack {}; what root's agent has is unknown",
                names.join(", ")
            );
            return vec![unknown(found, "run the doctor as root to learn what the agent can do")];
        }
    }
    let missing: Vec<Outcome> = NEEDED
        .iter()
        .filter(|(name, _)| !has(name))
        .map(|(name, lost)| {
            let remedy =
                "run the agent with the shipped unit, or add the capability to CapabilityBoundingSet=";
            trouble(Verdict::Warn, format!("{} is missing: {lost}", name.to_uppercase()), remedy)
        })
        .collect();
    if missing.is_empty() { vec![fine("all capabilities that modules need are available")] } else { missing }
}

fn clock(patient: &Patient) -> Vec<Outcome> {
    // A clock that is years off is seen without asking anybody.
    if jiff::Timestamp::now().as_second() < BUILT_AFTER {
        let remedy = "set the clock; until then certificates, tokens and alert times are unreliable";
        return vec![trouble(Verdict::Fail, "the clock shows a time before this program was built", remedy)];
    }
    if patient.path("/proc/sys/fs").exists() {
        return vec![match KernelClock::read() {
            Ok(clock) if clock.is_synchronised() => fine("the kernel's clock is synchronised"),
            Ok(_) => trouble(
                Verdict::Warn,
                "the clock is not synchronised",
                "run a time service such as systemd-timesyncd or chrony; `vigie query timedrift --drift 5s` measures it",
            ),
            Err(error) => unknown(
                format!("the kernel gives no information: {error}"),
                "allow the system call clock_adjtime",
            ),
        }];
    }
    vec![unknown("the kernel gives no information", "mount /proc")]
}

/// 2026-11-01T00:00:00Z.
const BUILT_AFTER: i64 = 1_793_491_200;

fn disk(patient: &Patient) -> Vec<Outcome> {
    let Ok(config) = &patient.config else {
        return vec![patient.without_config("the directories are not known")];
    };
    let agent = &config.agent.agent;
    let log = config.agent.logging.file.parent().map(std::path::Path::to_owned).unwrap_or_default();
    let limit = config.agent.journal.segment_bytes * u64::from(config.agent.journal.keep_segments);
    let mut outcomes = Vec::new();
    for (key, directory, wanted) in
        [("agent.state_dir", agent.state_dir.clone(), limit), ("logging.file", log, 64 << 20)]
    {
        let Ok(room) = statvfs(&nearest(patient, &directory)) else {
            outcomes.push(unknown(
                format!("{key}: cannot query the file system of {directory:?}"),
                "run the doctor as root",
            ));
            continue;
        };
        let free = room.blocks_available().saturating_mul(room.fragment_size());
        outcomes.push(of_room(key, free, room.files_available(), room.files(), wanted));
    }
    outcomes
}

/// The directory, or the nearest one above it that exists.
fn nearest(patient: &Patient, directory: &std::path::Path) -> std::path::PathBuf {
    let mut path = patient.below(directory);
    while !path.exists() && path.pop() {}
    path
}

/// Judges free bytes and inodes where so many bytes may be needed.
fn of_room(key: &str, free: u64, inodes_free: u64, inodes: u64, wanted: u64) -> Outcome {
    let shown = format!("{key}: {} free", size(free));
    // Some file systems have no fixed number of inodes and say 0.
    if free < 16 << 20 || (inodes > 0 && inodes_free < 100) {
        trouble(Verdict::Fail, shown, "free space: when alerts cannot be written, modules block")
    } else if free < wanted {
        let remedy = "free space, or lower journal.segment_bytes and journal.keep_segments";
        trouble(Verdict::Warn, format!("{shown}, and up to {} may be needed", size(wanted)), remedy)
    } else {
        fine(shown)
    }
}

fn memory(patient: &Patient) -> Vec<Outcome> {
    let text = patient.text("/proc/meminfo").unwrap_or_default();
    let field = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let kib =
        field.and_then(|rest| rest.split_whitespace().next()).and_then(|number| number.parse::<u64>().ok());
    vec![match kib {
        None => unknown("the kernel gives no information", "mount /proc"),
        Some(kib) if kib < 64 << 10 => {
            let remedy = "find out what uses the memory; when it is exhausted, the kernel kills processes, the agent among the last";
            trouble(Verdict::Warn, format!("{} available", size(kib << 10)), remedy)
        }
        Some(kib) => fine(format!("{} available", size(kib << 10))),
    }]
}

fn limits(patient: &Patient) -> Vec<Outcome> {
    let of_whom = patient.agent_pid().map_or("self".to_owned(), |pid| pid.to_string());
    let text = patient.text(&format!("/proc/{of_whom}/limits")).unwrap_or_default();
    let soft = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        let word = line.split_whitespace().next()?;
        Some(if word == "unlimited" { u64::MAX } else { word.parse().ok()? })
    };
    let (Some(files), Some(tasks)) = (soft("Max open files"), soft("Max processes")) else {
        return vec![unknown(
            format!("the limits of process {of_whom} cannot be read"),
            "run the doctor as root",
        )];
    };
    let mut outcomes = Vec::new();
    if files < 1024 {
        let remedy = "raise LimitNOFILE= of the unit, or `ulimit -n`";
        outcomes.push(trouble(Verdict::Warn, format!("the limit of {files} open files is low"), remedy));
    }
    if tasks < 256 {
        let remedy = "raise LimitNPROC= of the unit, or `ulimit -u`";
        outcomes.push(trouble(Verdict::Warn, format!("the limit of {tasks} tasks is low"), remedy));
    }
    if outcomes.is_empty() {
        outcomes.push(fine(format!("{files} open files")));
    }
    outcomes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::tests::Planted;

    #[test]
    fn an_old_kernel_is_named() {
        let with = |release: &str| {
            Planted::new().with("/proc/sys/kernel/osrelease", release).examined("host.kernel").0
        };
        assert_eq!(with("6.1.0-30-amd64\n"), Verdict::Ok);
        assert_eq!(with("5.15.0-1.el9\n"), Verdict::Warn);
        assert_eq!(with("4.19.0\n"), Verdict::Fail);
        assert_eq!(Planted::new().examined("host.kernel").0, Verdict::Unknown);
    }

    #[test]
    fn a_host_without_proc_is_told_so_and_nothing_else() {
        for id in ["kernel", "fanotify", "cgroups", "capabilities", "memory", "limits"] {
            let found = Planted::new().without_agent().examined(&format!("host.{id}"));
            assert_eq!(found, (Verdict::Unknown, "/proc is not mounted".to_owned()), "{id}");
        }
    }

    #[test]
    fn a_kernel_without_fanotify_or_types_is_named() {
        assert_eq!(Planted::new().with("/proc/version", "x").examined("host.fanotify").0, Verdict::Warn);
        let with = Planted::new().with("/proc/sys/fs/fanotify/max_queued_events", "16384");
        let expected = if Group::new(Options::default()).is_ok() { Verdict::Ok } else { Verdict::Unknown };
        let found = with.examined("host.fanotify").0;
        assert!(found == expected || nix::unistd::geteuid().is_root() && found == Verdict::Warn);
        assert_eq!(Planted::new().examined("host.btf").0, Verdict::Info);
        assert_eq!(Planted::new().with("/sys/kernel/btf/vmlinux", "x").examined("host.btf").0, Verdict::Ok);
    }

    #[test]
    fn modules_that_no_cgroup_holds_are_named() {
        let mounted = "30 29 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n";
        let host = || Planted::new().with("/proc/self/mountinfo", mounted);
        assert_eq!(host().examined("host.cgroups").0, Verdict::Ok);
        assert_eq!(
            host().says(|status| status.containment = "launcher".to_owned()).examined("host.cgroups").0,
            Verdict::Warn
        );
        assert_eq!(host().without_agent().examined("host.cgroups").0, Verdict::Ok);
        let without = Planted::new().with("/proc/version", "x").without_agent();
        assert_eq!(without.examined("host.cgroups").0, Verdict::Warn);
    }

    #[test]
    fn a_capability_that_is_missing_is_named_with_what_is_lost() {
        let with = |bits: &str| {
            Planted::new().with("/proc/4242/status", &format!("Name:\tvigie\nCapEff:\t{bits}\n"))
        };
        assert_eq!(with("000001ffffffffff").examined("host.capabilities").0, Verdict::Ok);
        assert_eq!(with("0000000000280004").examined("host.capabilities").0, Verdict::Ok);
        let (verdict, found) = with("0000000000080004").examined("host.capabilities");
        assert_eq!(verdict, Verdict::Warn);
        assert!(found.starts_with("CAP_SYS_ADMIN is missing"), "{found}");
        assert_eq!(Planted::new().examined("host.capabilities").0, Verdict::Unknown);
    }

    #[test]
    fn a_clock_that_nobody_sets_is_named() {
        let read = KernelClock::read().map(|clock| clock.is_synchronised());
        let expected = match read {
            Ok(true) => Verdict::Ok,
            Ok(false) => Verdict::Warn,
            Err(_) => Verdict::Unknown,
        };
        assert_eq!(Planted::new().with("/proc/sys/fs/file-max", "1").examined("host.clock").0, expected);
        assert_eq!(Planted::new().examined("host.clock").0, Verdict::Unknown);
    }

    #[test]
    fn a_full_disk_is_named_before_alerts_wait() {
        assert_eq!(of_room("x", 20 << 30, 1000, 10_000, 1 << 30).verdict, Verdict::Ok);
        assert_eq!(of_room("x", 20 << 30, 0, 0, 1 << 30).verdict, Verdict::Ok);
        assert_eq!(of_room("x", 500 << 20, 1000, 10_000, 1 << 30).verdict, Verdict::Warn);
        assert_eq!(of_room("x", 1 << 20, 1000, 10_000, 1 << 30).verdict, Verdict::Fail);
        assert_eq!(of_room("x", 20 << 30, 3, 10_000, 1 << 30).verdict, Verdict::Fail);
        assert_ne!(Planted::new().examined("host.disk").0, Verdict::Unknown);
        assert_eq!(Planted::new().configured("[agent]\nx = 1\n").examined("host.disk").0, Verdict::Unknown);
    }

    #[test]
    fn memory_that_is_used_up_is_named() {
        let with = |kib: u32| {
            Planted::new().with("/proc/meminfo", &format!("MemTotal: 9 kB\nMemAvailable:   {kib} kB\n"))
        };
        assert_eq!(with(2_000_000).examined("host.memory").0, Verdict::Ok);
        assert_eq!(with(2_000).examined("host.memory").0, Verdict::Warn);
    }

    #[test]
    fn small_limits_are_named() {
        let with = |files: &str, tasks: &str| {
            let text = format!(
                "Limit Soft Hard Units\nMax processes             {tasks} 9 processes\nMax open files            {files} 9 files\n"
            );
            Planted::new().with("/proc/4242/limits", &text).examined("host.limits").0
        };
        assert_eq!(with("65536", "unlimited"), Verdict::Ok);
        assert_eq!(with("512", "9999"), Verdict::Warn);
        assert_eq!(with("65536", "64"), Verdict::Warn);
    }
}
