//! Whose an event is, for what each may take of what is bounded.

use std::fmt;

/// Whose an event is. The trusted are those who have the real user id 0 on the host itself: what they do must be seen,
/// whatever load others make. Everybody else has a share of the rest.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Account(u64);

/// Behind the numbers of users, as `bpf/events.bpf.c` has them.
const CONTAINER: u64 = 1 << 32;
const HELPERS: u64 = 2 << 32;
const PEERS: u64 = 3 << 32;
const UNKNOWN: u64 = 4 << 32;

impl Account {
    /// Root on the host itself.
    pub const TRUSTED: Self = Self(0);
    /// Somebody of whom nothing is known.
    pub const UNKNOWN: Self = Self(UNKNOWN);

    /// A user of the host; 0 is trusted.
    #[must_use]
    pub const fn user(uid: u32) -> Self {
        Self(uid as u64)
    }

    /// The container whose processes have this pid namespace.
    #[must_use]
    pub const fn container(pid_namespace: u32) -> Self {
        Self(CONTAINER | pid_namespace as u64)
    }

    /// As the kernel's programs write it.
    #[cfg_attr(not(bpf_program), expect(dead_code, reason = "only the programs write it"))]
    pub(crate) const fn from_kernel(number: u64) -> Self {
        Self(number)
    }

    /// Whether it is root on the host itself.
    #[must_use]
    pub fn is_trusted(self) -> bool {
        self == Self::TRUSTED
    }
}

impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let low = self.0 & u64::from(u32::MAX);
        match self.0 - low {
            0 => write!(f, "user {low}"),
            CONTAINER if low == 0 => f.write_str("containers"),
            CONTAINER => write!(f, "the container of pid namespace {low}"),
            HELPERS => f.write_str("helpers of the kernel"),
            PEERS => f.write_str("peers of listening sockets"),
            _ => f.write_str("unknown users"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_root_on_the_host_is_trusted() {
        assert!(Account::user(0).is_trusted());
        for other in [Account::user(33), Account::container(0), Account::container(7), Account::UNKNOWN] {
            assert!(!other.is_trusted(), "{other}");
        }
        assert_eq!(Account::container(7).to_string(), "the container of pid namespace 7");
        assert_eq!(Account::from_kernel(PEERS).to_string(), "peers of listening sockets");
    }
}
