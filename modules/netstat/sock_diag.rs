//! Sockets from the kernel over netlink: sock_diag(7), the interface of ss(8).
//!
//! The kernel leaves out sockets in other states before it writes anything, and walks its tables itself: a
//! socket that stays is neither missed nor shown twice while others come and go.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::ControlFlow;

use rustix::net::{AddressFamily, netlink};

use crate::netlink::{NetlinkError, NetlinkSocket, u32_at};
use crate::socket::{Endpoint, Protocol, Socket, SocketSource, SourceError, State, States, Table};

/// `SOCK_DIAG_BY_FAMILY` of `linux/sock_diag.h`.
const BY_FAMILY: u16 = 20;

/// Bytes of `struct inet_diag_req_v2` (`linux/inet_diag.h`): family, protocol, extensions, padding, states and
/// the 48 bytes of a socket's id, all zero for a dump.
const REQUEST_BYTES: usize = 56;

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

/// The kernel's sock_diag, in the network namespace of the thread that asks.
#[derive(Debug, Default)]
pub struct SockDiag {}

impl SocketSource for SockDiag {
    fn read(
        &mut self,
        table: Table,
        states: States,
        each: &mut dyn FnMut(&Socket) -> ControlFlow<()>,
    ) -> Result<u64, SourceError> {
        let mut socket = NetlinkSocket::open(Some(netlink::SOCK_DIAG)).map_err(SourceError::Netlink)?;
        let mut understood = true;
        socket
            .dump(BY_FAMILY, &request(table, states), &mut |message| match parse(
                message.payload,
                table.protocol,
            ) {
                Some(socket) => each(&socket),
                None => {
                    understood = false;
                    ControlFlow::Break(())
                }
            })
            .map_err(SourceError::Netlink)?;
        if understood { Ok(0) } else { Err(SourceError::Netlink(NetlinkError::NotUnderstood)) }
    }
}

/// The request for all sockets of a table in these states.
fn request(table: Table, states: States) -> [u8; REQUEST_BYTES] {
    let family = if table.ipv6 { AddressFamily::INET6 } else { AddressFamily::INET };
    let mut request = [0; REQUEST_BYTES];
    // The two families are 2 and 10.
    request[0] = family.as_raw() as u8;
    request[1] = table.protocol.number();
    request[4..8].copy_from_slice(&states.bits().to_ne_bytes());
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
        let table = Table { protocol: Protocol::Udp, ipv6: true };

        let request = request(table, States::listening(Protocol::Udp));

        assert_eq!(request[..4], [10, 17, 0, 0]);
        assert_eq!(u32_at(&request, 4), Some(1 << 7));
        assert!(request[8..].iter().all(|byte| *byte == 0));
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
