//! Sockets from the kernel over netlink: sock_diag(7), the interface of ss(8).
//!
//! The kernel leaves out sockets in other states and with other peers before it writes anything, and walks its tables
//! itself: a socket that stays is neither missed nor shown twice while others come and go.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::ControlFlow;

use rustix::net::{AddressFamily, netlink};

use crate::netlink::{NetlinkError, NetlinkSocket, push_attribute, u32_at};
use crate::peer_program::peer_program;
use crate::socket::{Endpoint, Protocol, Socket, SocketSource, SourceError, State, States, Wanted};

/// `SOCK_DIAG_BY_FAMILY` of `linux/sock_diag.h`.
const BY_FAMILY: u16 = 20;
/// Bytes of `struct inet_diag_req_v2` (`linux/inet_diag.h`): family, protocol, extensions, padding, states and
/// the 48 bytes of a socket's id, all zero for a dump.
const BY_FAMILY_BYTES: usize = 56;

/// `TCPDIAG_GETSOCK` of `linux/inet_diag.h`: the TCP sockets of both families at once. The kernel walks one table
/// of the whole host for either family and every namespace, which takes most of the time.
const BOTH_FAMILIES: u16 = 18;
/// Bytes of `struct inet_diag_req`: family, two lengths, extensions, a socket's id, states and a number that is
/// not used.
const BOTH_FAMILIES_BYTES: usize = 60;
/// Where its states are.
const BOTH_FAMILIES_STATES: usize = 52;

/// `INET_DIAG_REQ_BYTECODE`: the attribute with a program that leaves out sockets.
const PROGRAM: u16 = 1;

/// Where the fields of `struct inet_diag_msg` are, in bytes.
mod field {
    pub(super) const FAMILY: usize = 0;
    pub(super) const STATE: usize = 1;
    /// Ports and addresses are in network byte order, everything else in the host's.
    pub(super) const LOCAL_PORT: usize = 4;
    pub(super) const REMOTE_PORT: usize = 6;
    pub(super) const LOCAL_ADDRESS: usize = 8;
    pub(super) const REMOTE_ADDRESS: usize = 24;
    pub(super) const INTERFACE: usize = 40;
    pub(super) const UID: usize = 64;
    pub(super) const INODE: usize = 68;
}

/// Whether the kernel tells of [`States::ALL_AND_BOUND`]: an older one ignores what it does not know.
pub(crate) fn shows_bound() -> bool {
    let uname = rustix::system::uname();
    let mut numbers =
        uname.release().to_str().unwrap_or_default().split(|letter: char| !letter.is_ascii_digit());
    let mut next = || numbers.next().and_then(|number| number.parse::<u32>().ok()).unwrap_or_default();
    (next(), next()) >= (6, 8)
}

/// The kernel's sock_diag, in the network namespace of the thread that asks.
#[derive(Debug, Default)]
pub struct SockDiag {}

impl SocketSource for SockDiag {
    fn read(
        &mut self,
        wanted: &Wanted<'_>,
        each: &mut dyn FnMut(&Socket) -> ControlFlow<()>,
    ) -> Result<u64, SourceError> {
        let protocol = wanted.protocol;
        let mut netlink = NetlinkSocket::open(Some(netlink::SOCK_DIAG)).map_err(SourceError::Netlink)?;
        let (mut understood, mut broken_off) = (true, false);
        let mut dump = |kind, request: &[u8]| {
            if broken_off {
                return Ok(());
            }
            netlink.dump(kind, request, &mut |message| {
                let socket = parse(message.payload, protocol);
                understood &= socket.is_some();
                broken_off = !understood || socket.is_some_and(|socket| each(&socket).is_break());
                if broken_off { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            })
        };
        let program = peer_program(wanted.peers);
        // There is no such request for UDP, and a kernel may be built without this one.
        let at_once = match protocol {
            Protocol::Tcp => Some(dump(BOTH_FAMILIES, &both_families(wanted.states, &program))),
            Protocol::Udp | Protocol::UdpLite => None,
        };
        let result = match at_once {
            Some(result) if !matches!(result, Err(NetlinkError::Refused(_))) => result,
            _ => [AddressFamily::INET, AddressFamily::INET6].into_iter().try_for_each(|family| {
                match dump(BY_FAMILY, &by_family(family, protocol, wanted.states, &program)) {
                    // A kernel without IPv6.
                    Err(NetlinkError::Refused(error))
                        if family == AddressFamily::INET6 && error.kind() == ErrorKind::NotFound =>
                    {
                        Ok(())
                    }
                    result => result,
                }
            }),
        };
        let result = if understood { result } else { Err(NetlinkError::NotUnderstood) };
        result.map(|()| 0).map_err(SourceError::Netlink)
    }
}

/// The request for all sockets of a family and protocol in these states.
fn by_family(family: AddressFamily, protocol: Protocol, states: States, program: &[u8]) -> Vec<u8> {
    let mut request = vec![0; BY_FAMILY_BYTES];
    // The two families are 2 and 10.
    request[0] = family.as_raw() as u8;
    request[1] = protocol.number();
    request[4..8].copy_from_slice(&states.bits().to_ne_bytes());
    with_program(request, program)
}

/// The request for all TCP sockets in these states.
fn both_families(states: States, program: &[u8]) -> Vec<u8> {
    let mut request = vec![0; BOTH_FAMILIES_BYTES];
    request[BOTH_FAMILIES_STATES..BOTH_FAMILIES_STATES + 4].copy_from_slice(&states.bits().to_ne_bytes());
    with_program(request, program)
}

fn with_program(mut request: Vec<u8>, program: &[u8]) -> Vec<u8> {
    if !program.is_empty() {
        push_attribute(&mut request, PROGRAM, program);
    }
    request
}

/// Reads one answer; `None` when it has not the form of `struct inet_diag_msg`.
fn parse(bytes: &[u8], protocol: Protocol) -> Option<Socket> {
    let ipv6 = match AddressFamily::from_raw((*bytes.get(field::FAMILY)?).into()) {
        AddressFamily::INET => false,
        AddressFamily::INET6 => true,
        _ => return None,
    };
    Some(Socket {
        protocol,
        state: State::from_number(*bytes.get(field::STATE)?)?,
        local: Endpoint::new(
            address_at(bytes, field::LOCAL_ADDRESS, ipv6)?,
            port_at(bytes, field::LOCAL_PORT)?,
        ),
        remote: Endpoint::new(
            address_at(bytes, field::REMOTE_ADDRESS, ipv6)?,
            port_at(bytes, field::REMOTE_PORT)?,
        ),
        interface: u32_at(bytes, field::INTERFACE)?,
        uid: u32_at(bytes, field::UID)?,
        inode: u32_at(bytes, field::INODE)?.into(),
    })
}

fn port_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn address_at(bytes: &[u8], at: usize, ipv6: bool) -> Option<IpAddr> {
    Some(if ipv6 {
        let octets: [u8; 16] = bytes.get(at..at + 16)?.try_into().ok()?;
        Ipv6Addr::from(octets).into()
    } else {
        let octets: [u8; 4] = bytes.get(at..at + 4)?.try_into().ok()?;
        Ipv4Addr::from(octets).into()
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// An answer for a connection from `::ffff:127.0.0.1` port 8081 to `::ffff:127.0.0.5` port 40081.
    fn mapped() -> Vec<u8> {
        let mut bytes = vec![0; 72];
        bytes[0] = 10;
        bytes[1] = 1;
        bytes[4..6].copy_from_slice(&8081u16.to_be_bytes());
        bytes[6..8].copy_from_slice(&40081u16.to_be_bytes());
        bytes[8..24].copy_from_slice(&Ipv4Addr::new(127, 0, 0, 1).to_ipv6_mapped().octets());
        bytes[24..40].copy_from_slice(&Ipv4Addr::new(127, 0, 0, 5).to_ipv6_mapped().octets());
        bytes[40..44].copy_from_slice(&3u32.to_ne_bytes());
        bytes[64..68].copy_from_slice(&1000u32.to_ne_bytes());
        bytes[68..72].copy_from_slice(&6_783_907u32.to_ne_bytes());
        bytes
    }

    #[test]
    fn an_answer_is_read() {
        let socket = parse(&mapped(), Protocol::Tcp).unwrap();

        assert_eq!(socket.local, Endpoint::new(Ipv4Addr::new(127, 0, 0, 1).into(), 8081));
        assert_eq!(socket.remote, Endpoint::new(Ipv4Addr::new(127, 0, 0, 5).into(), 40081));
        assert_eq!((socket.state, socket.interface), (State::Established, 3));
        assert_eq!((socket.uid, socket.inode), (1000, 6_783_907));
    }

    #[test]
    fn a_request_names_family_protocol_and_states() {
        let request = by_family(AddressFamily::INET6, Protocol::Udp, States::listening(Protocol::Udp), &[]);

        assert_eq!(request[..4], [10, 17, 0, 0]);
        assert_eq!(u32_at(&request, 4), Some(1 << 7));
        assert!(request[8..].iter().all(|byte| *byte == 0));
        assert_eq!(request.len(), 56);
    }

    #[test]
    fn a_request_for_both_families_has_its_states_and_program_at_the_end() {
        let request = both_families(States::listening(Protocol::Tcp), b"program!");

        assert!(request[..52].iter().all(|byte| *byte == 0));
        assert_eq!(u32_at(&request, 52), Some(1 << 10));
        assert_eq!(crate::netlink::attributes(&request[60..]).collect::<Vec<_>>(), [(1, &b"program!"[..])]);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            let _ = parse(&bytes, Protocol::Tcp);
        }

        #[test]
        fn an_answer_that_is_cut_is_refused(length in 0usize..72) {
            prop_assert_eq!(parse(&mapped()[..length], Protocol::Tcp), None);
        }
    }
}
