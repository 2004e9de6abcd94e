//! What the service manager is told (sd_notify(3)): the agent is ready, reloads, lives.
//!
//! One datagram of `KEY=VALUE` lines each; a manager that does not read is never waited for.

use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

/// The service manager, or nobody.
#[derive(Debug)]
pub(crate) struct Notifier {
    to: Option<(UnixDatagram, SocketAddr)>,
    /// Time between two signs of life; absent when nobody waits for them.
    pub(crate) watchdog: Option<Duration>,
}

impl Notifier {
    /// Reads the environment that the service manager sets.
    pub(crate) fn from_environment() -> Self {
        let variable = |name| std::env::var_os(name);
        let text = |name| variable(name).and_then(|value| value.into_string().ok());
        let to = variable("NOTIFY_SOCKET").and_then(|name| {
            let address = match name.as_bytes().split_first()? {
                (b'@', name) => SocketAddr::from_abstract_name(name).ok()?,
                _ => SocketAddr::from_pathname(&name).ok()?,
            };
            let socket = UnixDatagram::unbound().ok()?;
            socket.set_nonblocking(true).ok()?;
            Some((socket, address))
        });
        let period = watchdog(text("WATCHDOG_USEC"), text("WATCHDOG_PID"), std::process::id());
        let watchdog = period.filter(|_| to.is_some());
        Self { to, watchdog }
    }

    /// The agent can be asked and supervises.
    pub(crate) fn ready(&self, status: &str) {
        self.tell(&format!("READY=1\nSTATUS={status}\n"));
    }

    /// What people see beside the agent.
    pub(crate) fn status(&self, status: &str) {
        self.tell(&format!("STATUS={status}\n"));
    }

    /// A reload begins; [`Notifier::ready`] ends it.
    pub(crate) fn reloading(&self) {
        let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC);
        let now = now.map(Duration::from).unwrap_or_default();
        self.tell(&format!("RELOADING=1\nMONOTONIC_USEC={}\n", now.as_micros()));
    }

    /// The agent stops.
    pub(crate) fn stopping(&self) {
        self.tell("STOPPING=1\n");
    }

    /// A sign of life, from the thread that everything depends on.
    pub(crate) fn alive(&self) {
        self.tell("WATCHDOG=1\n");
    }

    fn tell(&self, lines: &str) {
        if let Some((socket, address)) = &self.to {
            socket.send_to_addr(lines.as_bytes(), address).ok();
        }
    }
}

/// Half of the time after which the manager takes the agent for dead, when that is meant for us.
fn watchdog(microseconds: Option<String>, meant_for: Option<String>, own_pid: u32) -> Option<Duration> {
    let period = Duration::from_micros(microseconds?.parse().ok()?) / 2;
    let ours = meant_for.is_none_or(|pid| pid.parse() == Ok(own_pid));
    (ours && !period.is_zero()).then_some(period)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watchdog_is_fed_twice_as_often_as_it_bites_and_only_our_own() {
        let text = |value: &str| Some(value.to_owned());

        assert_eq!(watchdog(text("30000000"), None, 7), Some(Duration::from_secs(15)));
        assert_eq!(watchdog(text("30000000"), text("7"), 7), Some(Duration::from_secs(15)));
        assert_eq!(watchdog(text("30000000"), text("8"), 7), None);
        assert_eq!(watchdog(text("0"), None, 7), None);
        assert_eq!(watchdog(text("soon"), None, 7), None);
        assert_eq!(watchdog(None, None, 7), None);
    }
}
