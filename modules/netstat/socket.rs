//! What is known of a socket, whichever way it was learned, and the interface of those ways.

use std::net::IpAddr;
use std::ops::ControlFlow;

use rustix::net::ipproto;
use serde::Serialize;
use vigie_host::AddressRange;

use crate::netlink::NetlinkError;

/// A transport protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP, and the subflows of MPTCP.
    Tcp,
    /// UDP.
    Udp,
    /// UDP-Lite (RFC 3828), where the kernel has it.
    UdpLite,
}

impl Protocol {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Tcp, Self::Udp, Self::UdpLite];

    /// The name in answers.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::UdpLite => "udplite",
        }
    }

    /// The number of the protocol in IP headers and in the kernel's interfaces.
    #[must_use]
    pub fn number(self) -> u8 {
        let protocol = match self {
            Self::Tcp => ipproto::TCP,
            Self::Udp => ipproto::UDP,
            Self::UdpLite => ipproto::UDPLITE,
        };
        // Both fit: they are numbers of the IP header.
        protocol.as_raw().get() as u8
    }
}

/// A state of a socket, by the names of ss(8); UDP knows two of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// The connection is open; UDP: the socket is connected to a peer.
    Established,
    /// The first segment was sent.
    SynSent,
    /// The first segment was received and answered.
    SynRecv,
    /// This side has closed, the peer has not acknowledged it.
    #[serde(rename = "fin-wait-1")]
    FinWait1,
    /// This side has closed, the peer has acknowledged it.
    #[serde(rename = "fin-wait-2")]
    FinWait2,
    /// Both sides have closed; late segments are awaited. The socket belongs to no process.
    TimeWait,
    /// Neither connected nor listening; for UDP, bound and open to every peer.
    Unconnected,
    /// The peer has closed.
    CloseWait,
    /// Both sides have closed, the peer first; the last acknowledgement is awaited.
    LastAck,
    /// Open to every peer; TCP only.
    Listening,
    /// Both sides have closed at once.
    Closing,
}

impl State {
    /// Reads the kernel's number (`include/net/tcp_states.h`). Number 12 is a request socket, which is shown
    /// as the state of the connection that it may become.
    #[must_use]
    pub(crate) fn from_number(number: u8) -> Option<Self> {
        Some(match number {
            1 => Self::Established,
            2 => Self::SynSent,
            3 | 12 => Self::SynRecv,
            4 => Self::FinWait1,
            5 => Self::FinWait2,
            6 => Self::TimeWait,
            7 => Self::Unconnected,
            8 => Self::CloseWait,
            9 => Self::LastAck,
            10 => Self::Listening,
            11 => Self::Closing,
            _ => return None,
        })
    }

    /// The kernel's number.
    #[must_use]
    pub fn number(self) -> u8 {
        match self {
            Self::Established => 1,
            Self::SynSent => 2,
            Self::SynRecv => 3,
            Self::FinWait1 => 4,
            Self::FinWait2 => 5,
            Self::TimeWait => 6,
            Self::Unconnected => 7,
            Self::CloseWait => 8,
            Self::LastAck => 9,
            Self::Listening => 10,
            Self::Closing => 11,
        }
    }
}

/// A set of states, in the form in which the kernel takes it: one bit for each number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct States(u32);

impl States {
    /// No state.
    pub const NONE: Self = Self(0);
    /// All states.
    pub const ALL: Self = Self(0b1111_1111_1110);
    /// The same, and TCP sockets with a local port that neither listen nor are connected: `TCPF_BOUND_INACTIVE` of
    /// `include/net/tcp_states.h`, which sock_diag takes from Linux 6.8 on. It shows them as [`State::Unconnected`].
    pub const ALL_AND_BOUND: Self = Self(Self::ALL.0 | 1 << 13);

    /// The states in which a socket of this protocol has a peer.
    #[must_use]
    pub(crate) fn with_peer(protocol: Protocol) -> Self {
        match protocol {
            Protocol::Tcp => Self(Self::ALL.0 & !bit(State::Listening) & !bit(State::Unconnected)),
            Protocol::Udp | Protocol::UdpLite => Self(bit(State::Established)),
        }
    }

    /// The states in which a socket of this protocol takes what any peer sends.
    #[must_use]
    pub fn listening(protocol: Protocol) -> Self {
        match protocol {
            Protocol::Tcp => Self(bit(State::Listening)),
            Protocol::Udp | Protocol::UdpLite => Self(bit(State::Unconnected)),
        }
    }

    /// The states of both sets.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether the state is in the set.
    #[must_use]
    pub fn contains(self, state: State) -> bool {
        self.0 & bit(state) != 0
    }

    /// One bit for each of the kernel's numbers.
    #[must_use]
    pub fn bits(self) -> u32 {
        self.0
    }
}

fn bit(state: State) -> u32 {
    1 << state.number()
}

/// One end of a connection. IPv4 addresses are IPv4 here, whatever the family of the socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Endpoint {
    /// The address; unspecified where the socket is open to any.
    pub address: IpAddr,
    /// The port; 0 where there is none.
    pub port: u16,
}

impl Endpoint {
    /// An endpoint; a v4-mapped address becomes the IPv4 address that it carries.
    #[must_use]
    pub fn new(address: IpAddr, port: u16) -> Self {
        Self { address: address.to_canonical(), port }
    }
}

/// A socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Socket {
    /// Its protocol.
    pub protocol: Protocol,
    /// Its state.
    pub state: State,
    /// This side.
    pub local: Endpoint,
    /// The peer; unspecified with port 0 without one.
    pub remote: Endpoint,
    /// The number of its file; 0 when it belongs to no file, as in the state [`State::TimeWait`].
    pub inode: u64,
    /// The user who opened it.
    pub uid: u32,
    /// The interface that it is bound to, or 0. The kernel's text tables do not tell it.
    pub interface: u32,
}

impl Socket {
    /// Whether it has a peer.
    #[must_use]
    pub(crate) fn has_peer(&self) -> bool {
        States::with_peer(self.protocol).contains(self.state)
    }

    /// Whether it takes what any peer sends to its port.
    #[must_use]
    pub fn listens(&self) -> bool {
        States::listening(self.protocol).contains(self.state) && self.local.port != 0
    }

    /// What no two sockets have in common at a time. A TCP connection is one whatever its file: the kernel
    /// lists it twice when it is moved while the table is read.
    #[must_use]
    pub fn identity(&self) -> Identity {
        let inode = if self.protocol == Protocol::Tcp && self.has_peer() { 0 } else { self.inode };
        (self.protocol, self.local, self.remote, self.interface, inode)
    }
}

/// See [`Socket::identity`].
pub type Identity = (Protocol, Endpoint, Endpoint, u32, u64);

/// Which sockets are wanted. A source leaves out what is in another state, and may leave out what has another
/// peer.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    /// Their protocol.
    pub protocol: Protocol,
    /// Their states.
    pub states: States,
    /// Where their peers are; empty for anywhere.
    pub peers: &'a [AddressRange],
}

/// A way to learn which sockets there are.
pub trait SocketSource {
    /// Calls `each` for every wanted socket of both families, until it breaks. IPv4 peers of `AF_INET6` sockets are
    /// among them. Returns how many rows were left out because their form is not understood.
    ///
    /// # Errors
    /// When the sockets cannot be read to their end; what `each` was given until then is not to be used.
    fn read(
        &mut self,
        wanted: &Wanted<'_>,
        each: &mut dyn FnMut(&Socket) -> ControlFlow<()>,
    ) -> Result<u64, SourceError>;
}

/// Why sockets cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// Over netlink.
    #[error("sock_diag does not respond")]
    Netlink(#[source] NetlinkError),
    /// In `/proc/net`.
    #[error("{file} cannot be read")]
    File {
        /// The table's file.
        file: String,
        /// What reading it gave.
        #[source]
        source: std::io::Error,
    },
}
