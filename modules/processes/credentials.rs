//! `/proc/PID/status`, proc_pid_status(5): users and groups, capabilities, what restricts a process.

use serde::Serialize;
use vigie_host::CAPABILITIES;

/// Users, groups and rights of a process.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Credentials {
    /// The real user.
    pub uid: u32,
    /// The saved user.
    pub suid: u32,
    /// The real group.
    pub gid: u32,
    /// The saved group.
    pub sgid: u32,
    /// Capabilities that are in force, by name; `all` when none is missing.
    pub effective: Vec<String>,
    /// Those that it may put in force.
    pub permitted: Vec<String>,
    /// Those that programs without any get from it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ambient: Vec<String>,
    /// No program that it starts gains rights.
    pub no_new_privs: bool,
    /// 0 none, 1 strict, 2 filter.
    pub seccomp: u32,
    /// The process that traces it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tracer: Option<u32>,
}

impl Credentials {
    /// Reads the file's content.
    #[must_use]
    pub fn parse(content: &[u8]) -> Self {
        let mut credentials = Self::default();
        for line in content.split(|byte| *byte == b'\n') {
            let Some(colon) = line.iter().position(|byte| *byte == b':') else { continue };
            let value = String::from_utf8_lossy(&line[colon + 1..]);
            let numbers = || value.split_ascii_whitespace().map(|number| number.parse().unwrap_or(u32::MAX));
            let first = || numbers().next().unwrap_or(0);
            let set = || names(u64::from_str_radix(value.trim(), 16).unwrap_or(0));
            match &line[..colon] {
                b"Uid" => {
                    credentials.uid = first();
                    credentials.suid = numbers().nth(2).unwrap_or(u32::MAX);
                }
                b"Gid" => {
                    credentials.gid = first();
                    credentials.sgid = numbers().nth(2).unwrap_or(u32::MAX);
                }
                b"CapEff" => credentials.effective = set(),
                b"CapPrm" => credentials.permitted = set(),
                b"CapAmb" => credentials.ambient = set(),
                b"NoNewPrivs" => credentials.no_new_privs = first() != 0,
                b"Seccomp" => credentials.seccomp = first(),
                b"TracerPid" => credentials.tracer = Some(first()).filter(|pid| *pid != 0),
                _ => {}
            }
        }
        credentials
    }

    /// Whether a capability is in force.
    #[must_use]
    pub fn has(&self, capability: &str) -> bool {
        self.effective.iter().any(|name| name == capability || name == "all")
    }
}

/// The names of a set of bits.
fn names(set: u64) -> Vec<String> {
    let all = (1_u64 << CAPABILITIES.len()) - 1;
    if set & all == all {
        return vec!["all".to_owned()];
    }
    let bits = (0..64).filter(|bit| set >> bit & 1 != 0);
    bits.map(|bit: usize| CAPABILITIES.get(bit).map_or_else(|| bit.to_string(), |name| (*name).to_owned()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_and_capabilities_are_read() {
        let credentials = Credentials::parse(
            b"Name:\tx\nUid:\t1000\t0\t5\t0\nGid:\t7\t8\t9\t8\nTracerPid:\t12\nCapPrm:\t0000000000002001\nCapEff:\t000001ffffffffff\nNoNewPrivs:\t1\nSeccomp:\t2\n",
        );

        assert_eq!((credentials.uid, credentials.suid, credentials.gid, credentials.sgid), (1000, 5, 7, 9));
        assert_eq!(credentials.permitted, ["cap_chown", "cap_net_raw"]);
        assert_eq!(credentials.effective, ["all"]);
        assert!(credentials.has("cap_bpf") && credentials.no_new_privs);
        assert_eq!((credentials.seccomp, credentials.tracer), (2, Some(12)));
    }
}
