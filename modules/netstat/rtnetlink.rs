//! Neighbours, interfaces and addresses from the kernel: rtnetlink(7), the interface of ip(8).

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::ControlFlow;

use crate::netlink::{NetlinkError, NetlinkSocket, attributes, u16_at, u32_at, undisturbed};

/// `RTM_GETLINK`, `RTM_GETADDR` and `RTM_GETNEIGH` of `linux/rtnetlink.h`; answers have the `NEW` number before.
const GET_LINK: u16 = 18;
const NEW_LINK: u16 = 16;
const GET_ADDRESS: u16 = 22;
const NEW_ADDRESS: u16 = 20;
const GET_NEIGHBOUR: u16 = 30;
const NEW_NEIGHBOUR: u16 = 28;

/// Bytes of `struct ifinfomsg`, `struct ifaddrmsg` and `struct ndmsg`, which stand before the attributes.
const LINK_BYTES: usize = 16;
const ADDRESS_BYTES: usize = 8;
const NEIGHBOUR_BYTES: usize = 12;

/// Where the state of a `struct ndmsg` is, in bytes.
const NEIGHBOUR_STATE: usize = 8;
/// `NUD_NOARP`: multicast and the like, which the kernel computes and nobody answered.
const STATE_NO_ARP: u16 = 0x40;

/// `IFLA_IFNAME`.
const LINK_NAME: u16 = 3;
/// `IFLA_ADDRESS`.
const LINK_HARDWARE: u16 = 1;
/// `IFA_ADDRESS`: of a point-to-point interface, the peer's.
const ADDRESS_ANY: u16 = 1;
/// `IFA_LOCAL`: this host's.
const ADDRESS_LOCAL: u16 = 2;
/// `NDA_DST`.
const NEIGHBOUR_ADDRESS: u16 = 1;
/// `NDA_LLADDR`; only while the kernel holds it to be right.
const NEIGHBOUR_HARDWARE: u16 = 2;

/// `ARPHRD_*` of `linux/if_arp.h` for tunnels, whose hardware addresses are IP addresses: IPIP, IP6IP6, SIT, GRE
/// over IPv4 and over IPv6.
const TUNNELS: [u16; 5] = [768, 769, 776, 778, 823];

/// Another host on a network of this one, whose hardware address is known.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Neighbour {
    /// Its address.
    pub address: IpAddr,
    /// Its hardware address in the usual form, see `hardware_text`.
    pub hardware: String,
}

/// Hexadecimal bytes in lower case with colons between them.
#[must_use]
pub(crate) fn hardware_text(bytes: &[u8]) -> String {
    let pairs: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    pairs.join(":")
}

/// Something of this host, and the number of the interface that has it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Own<T> {
    /// What it is.
    pub what: T,
    /// The interface's number.
    pub interface: u32,
}

/// The hardware address of each interface of this thread's network namespace; empty where it has none.
///
/// # Errors
/// When the kernel does not tell.
pub(crate) fn hardware_addresses() -> Result<Vec<Own<String>>, NetlinkError> {
    dump(GET_LINK, NEW_LINK, &[0; LINK_BYTES], parse_link)
}

/// The names of the interfaces of this thread's network namespace, by number.
///
/// # Errors
/// When the kernel does not tell.
pub(crate) fn interface_names() -> Result<BTreeMap<u32, String>, NetlinkError> {
    Ok(dump(GET_LINK, NEW_LINK, &[0; LINK_BYTES], parse_name)?.into_iter().collect())
}

/// The addresses of this thread's network namespace.
///
/// # Errors
/// When the kernel does not tell.
pub fn addresses() -> Result<Vec<Own<IpAddr>>, NetlinkError> {
    dump(GET_ADDRESS, NEW_ADDRESS, &[0; ADDRESS_BYTES], parse_address)
}

/// The neighbours of this thread's network namespace, IPv4 and IPv6, each once.
///
/// # Errors
/// When the kernel does not tell.
pub fn neighbours() -> Result<Vec<Neighbour>, NetlinkError> {
    let neighbours = dump(GET_NEIGHBOUR, NEW_NEIGHBOUR, &[0; NEIGHBOUR_BYTES], parse_neighbour)?;
    // A host can be seen through several interfaces.
    let mut seen = std::collections::HashSet::new();
    Ok(neighbours.into_iter().filter(|neighbour| seen.insert(neighbour.clone())).collect())
}

fn dump<T>(
    kind: u16,
    answer: u16,
    header: &[u8],
    parse: fn(&[u8]) -> Option<T>,
) -> Result<Vec<T>, NetlinkError> {
    // NETLINK_ROUTE is number 0, which is the family that none names.
    undisturbed(|| {
        let mut socket = NetlinkSocket::open(None)?;
        let mut collected = Vec::new();
        socket.dump(kind, header, &mut |message| {
            if message.kind == answer {
                collected.extend(parse(message.payload));
            }
            ControlFlow::Continue(())
        })?;
        Ok(collected)
    })
}

fn parse_link(payload: &[u8]) -> Option<Own<String>> {
    // struct ifinfomsg: family, padding, the kind of hardware, then the number.
    let (kind, interface) = (u16_at(payload, 2)?, u32_at(payload, 4)?);
    let hardware = attribute(payload.get(LINK_BYTES..)?, LINK_HARDWARE).unwrap_or_default();
    let real = hardware.iter().any(|byte| *byte != 0) && !TUNNELS.contains(&kind);
    let what = if real { hardware_text(hardware) } else { String::new() };
    Some(Own { what, interface })
}

fn parse_name(payload: &[u8]) -> Option<(u32, String)> {
    // struct ifinfomsg: family, padding, the kind of hardware, then the number.
    let number = u32_at(payload, 4)?;
    let name = attribute(payload.get(LINK_BYTES..)?, LINK_NAME)?;
    let name = name.strip_suffix(b"\0").unwrap_or(name);
    Some((number, String::from_utf8_lossy(name).into_owned()))
}

fn parse_address(payload: &[u8]) -> Option<Own<IpAddr>> {
    // struct ifaddrmsg: family, length of the prefix, flags, scope, then the interface's number.
    let interface = u32_at(payload, 4)?;
    let all = payload.get(ADDRESS_BYTES..)?;
    let what = ip_address(attribute(all, ADDRESS_LOCAL).or_else(|| attribute(all, ADDRESS_ANY))?)?;
    Some(Own { what, interface })
}

fn parse_neighbour(payload: &[u8]) -> Option<Neighbour> {
    if u16_at(payload, NEIGHBOUR_STATE)? & STATE_NO_ARP != 0 {
        return None;
    }
    let all = payload.get(NEIGHBOUR_BYTES..)?;
    let hardware = attribute(all, NEIGHBOUR_HARDWARE).filter(|bytes| !bytes.is_empty())?;
    // Entries of bridges have no address.
    let address = ip_address(attribute(all, NEIGHBOUR_ADDRESS)?)?;
    Some(Neighbour { address, hardware: hardware_text(hardware) })
}

fn attribute(bytes: &[u8], wanted: u16) -> Option<&[u8]> {
    attributes(bytes).find(|(kind, _)| *kind == wanted).map(|(_, value)| value)
}

/// An address in network byte order; its length tells its family.
fn ip_address(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(octets) = <[u8; 4]>::try_from(bytes) {
        return Some(Ipv4Addr::from(octets).into());
    }
    <[u8; 16]>::try_from(bytes).ok().map(|octets| Ipv6Addr::from(octets).into())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn with_attributes(header: &[u8], all: &[(u16, &[u8])]) -> Vec<u8> {
        let mut bytes = header.to_vec();
        for (kind, value) in all {
            crate::netlink::push_attribute(&mut bytes, *kind, value);
        }
        bytes
    }

    fn neighbour_with_state(state: u16) -> Vec<u8> {
        let mut header = [0; NEIGHBOUR_BYTES];
        header[NEIGHBOUR_STATE..NEIGHBOUR_STATE + 2].copy_from_slice(&state.to_ne_bytes());
        with_attributes(&header, &[(1, &[10, 77, 0, 9]), (2, &[2, 0x77, 0xaa, 0xbb, 0xcc, 9])])
    }

    #[test]
    fn a_neighbour_has_an_address_and_a_hardware_address() {
        let neighbour = parse_neighbour(&neighbour_with_state(0x4)).unwrap();

        assert_eq!(neighbour.address, IpAddr::from([10, 77, 0, 9]));
        assert_eq!(neighbour.hardware, "02:77:aa:bb:cc:09");
    }

    #[test]
    fn what_nobody_answered_is_no_neighbour() {
        let incomplete = with_attributes(&[0; NEIGHBOUR_BYTES], &[(1, &[10, 77, 0, 9])]);

        assert_eq!(parse_neighbour(&incomplete), None);
        assert_eq!(parse_neighbour(&neighbour_with_state(STATE_NO_ARP)), None);
    }

    #[test]
    fn the_address_of_this_end_of_a_link_counts() {
        let mut header = [0; ADDRESS_BYTES];
        header[4..].copy_from_slice(&3_u32.to_ne_bytes());
        let bytes = with_attributes(&header, &[(1, &[10, 0, 0, 2]), (2, &[10, 0, 0, 1])]);

        let own = parse_address(&bytes).unwrap();
        assert_eq!((own.what, own.interface), (IpAddr::from([10, 0, 0, 1]), 3));
    }

    #[test]
    fn neither_loopback_nor_a_tunnel_has_a_hardware_address() {
        let mut tunnel = [0; LINK_BYTES];
        tunnel[2..4].copy_from_slice(&768u16.to_ne_bytes());

        assert_eq!(parse_link(&with_attributes(&[0; LINK_BYTES], &[(1, &[0; 6])])).unwrap().what, "");
        assert_eq!(parse_link(&with_attributes(&tunnel, &[(1, &[10, 0, 0, 1])])).unwrap().what, "");
        assert_eq!(
            parse_link(&with_attributes(&[0; LINK_BYTES], &[(1, &[2, 0, 0, 0, 0, 1])])).unwrap().what,
            "02:00:00:00:00:01"
        );
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            let _ = parse_link(&bytes);
            let _ = parse_address(&bytes);
            let _ = parse_neighbour(&bytes);
        }
    }
}
