//! What the host's own time daemon has selected, to be compared with what the servers say together.
//!
//! Asked on loopback and on the system bus, with requests that anybody may send; a daemon that does not run is not
//! started by it.

mod chronyd;
mod ntpd;
mod timesyncd;

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::time::Duration;

use crate::client::Patience;

/// Longest wait for a daemon, which answers at once when it runs.
const LONGEST_WAIT: Duration = Duration::from_millis(500);

/// Where the daemons are asked; `None` is not asked.
#[derive(Debug, Clone)]
pub struct Daemons {
    /// chronyd's port for commands.
    pub chronyd: Option<SocketAddr>,
    /// The port of ntpd and NTPsec.
    pub ntpd: Option<SocketAddr>,
    /// The socket of the system bus, on which timesyncd is.
    pub system_bus: Option<PathBuf>,
}

impl Default for Daemons {
    fn default() -> Self {
        let loopback = |port| Some(SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
        Self {
            chronyd: loopback(323),
            ntpd: loopback(123),
            system_bus: Some(PathBuf::from("/run/dbus/system_bus_socket")),
        }
    }
}

/// What a daemon says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selected {
    /// Its name.
    pub daemon: &'static str,
    /// It takes its clock for synchronised.
    pub synchronised: bool,
    /// The server that it follows; `None` when it follows none, or a clock of the host.
    pub server: Option<IpAddr>,
}

impl Daemons {
    /// Asks one after the other until one answers.
    #[must_use]
    pub fn ask(&self, patience: Patience<'_>) -> Option<Selected> {
        let patience = patience.until(crate::client::now() + LONGEST_WAIT);
        let chronyd = || chronyd::ask(self.chronyd?, patience);
        let ntpd = || ntpd::ask(self.ntpd?, patience);
        let timesyncd = || timesyncd::ask(self.system_bus.as_deref()?, patience);
        chronyd().or_else(ntpd).or_else(timesyncd)
    }
}

/// Sends a request and waits for the first answer that `read` accepts. Loopback refuses at once when nobody listens.
fn exchange<T>(
    address: SocketAddr,
    request: &[u8],
    patience: Patience<'_>,
    read: impl Fn(&[u8]) -> Option<T>,
) -> Option<T> {
    let any: IpAddr = if address.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { [0_u16; 8].into() };
    let socket = UdpSocket::bind((any, 0)).ok()?;
    socket.connect(address).ok()?;
    socket.send(request).ok()?;
    let mut buffer = [0; 1_024];
    loop {
        let left = patience.left();
        if left.is_zero() {
            return None;
        }
        socket.set_read_timeout(Some(left)).ok()?;
        let length = socket.recv(&mut buffer).ok()?;
        if let Some(answer) = read(&buffer[..length]) {
            return Some(answer);
        }
    }
}
