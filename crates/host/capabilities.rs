//! Names of capabilities, and whether this process has what others' processes are read with.

/// The names of capabilities by number, as in capabilities(7).
pub const CAPABILITIES: [&str; 41] = [
    "cap_chown",
    "cap_dac_override",
    "cap_dac_read_search",
    "cap_fowner",
    "cap_fsetid",
    "cap_kill",
    "cap_setgid",
    "cap_setuid",
    "cap_setpcap",
    "cap_linux_immutable",
    "cap_net_bind_service",
    "cap_net_broadcast",
    "cap_net_admin",
    "cap_net_raw",
    "cap_ipc_lock",
    "cap_ipc_owner",
    "cap_sys_module",
    "cap_sys_rawio",
    "cap_sys_chroot",
    "cap_sys_ptrace",
    "cap_sys_pacct",
    "cap_sys_admin",
    "cap_sys_boot",
    "cap_sys_nice",
    "cap_sys_resource",
    "cap_sys_time",
    "cap_sys_tty_config",
    "cap_mknod",
    "cap_lease",
    "cap_audit_write",
    "cap_audit_control",
    "cap_setfcap",
    "cap_mac_override",
    "cap_mac_admin",
    "cap_syslog",
    "cap_wake_alarm",
    "cap_block_suspend",
    "cap_audit_read",
    "cap_perfmon",
    "cap_bpf",
    "cap_checkpoint_restore",
];

/// What has to be changed when other users' processes cannot be read: whoever asks may be root, but the one who reads
/// is a process of the agent, and root need not have every capability.
#[must_use]
pub fn tracing_hint() -> &'static str {
    let status = std::fs::read("/proc/thread-self/status").unwrap_or_default();
    hint(has(&status, "cap_sys_ptrace"), nix::unistd::geteuid().is_root())
}

fn hint(may_trace: bool, is_root: bool) -> &'static str {
    match (may_trace, is_root) {
        (true, _) => {
            "although the agent has CAP_SYS_PTRACE: a security module or a user namespace forbids it"
        }
        (false, true) => {
            "the agent runs as root without CAP_SYS_PTRACE: its unit's CapabilityBoundingSet or its container must allow it"
        }
        (false, false) => {
            "the agent runs without CAP_SYS_PTRACE: run it as root, or set AmbientCapabilities in its unit"
        }
    }
}

/// Whether a capability is effective, by the text of `/proc/PID/status`.
fn has(status: &[u8], name: &str) -> bool {
    let line = status.split(|byte| *byte == b'\n').find_map(|line| line.strip_prefix(b"CapEff:"));
    let text = line.and_then(|line| std::str::from_utf8(line).ok()).unwrap_or_default();
    let effective = u64::from_str_radix(text.trim(), 16).unwrap_or(0);
    CAPABILITIES.iter().position(|known| *known == name).is_some_and(|bit| effective >> bit & 1 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_without_the_capability_is_not_told_to_be_root() {
        assert!(hint(false, true).contains("CapabilityBoundingSet"));
        assert!(!hint(false, true).contains("run it as root"));
        assert!(hint(false, false).contains("run it as root"));
        assert!(hint(true, true).contains("security module"));
    }

    #[test]
    fn a_capability_is_known_by_its_bit() {
        let all = b"Name:\tx\nCapPrm:\t0000000000000000\nCapEff:\t000001ffffffffff\n";
        let without = b"CapPrm:\t000001ffffffffff\nCapEff:\t000001fffff7ffff\n";

        assert!(has(all, "cap_sys_ptrace"));
        assert!(!has(without, "cap_sys_ptrace"));
        assert!(has(without, "cap_sys_admin"));
        assert!(!has(b"", "cap_sys_ptrace"));
    }
}
