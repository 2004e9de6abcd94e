//! The addresses of this host's interfaces.

use std::net::IpAddr;

use nix::ifaddrs::{InterfaceAddress, getifaddrs};
use nix::net::if_::InterfaceFlags;
use nix::sys::socket::SockaddrStorage;

/// Addresses of all interfaces that are up with the lengths of their prefixes in bits; loopback interfaces are left
/// out. Sorted, each once.
#[must_use]
pub fn addresses() -> Vec<(IpAddr, u32)> {
    let Ok(interfaces) = getifaddrs() else { return Vec::new() };
    let mut addresses: Vec<_> = interfaces.filter_map(|interface| with_prefix(&interface)).collect();
    addresses.sort();
    addresses.dedup();
    addresses
}

fn with_prefix(interface: &InterfaceAddress) -> Option<(IpAddr, u32)> {
    let up = interface.flags.contains(InterfaceFlags::IFF_UP);
    if !up || interface.flags.contains(InterfaceFlags::IFF_LOOPBACK) {
        return None;
    }
    let address = ip(interface.address.as_ref()?)?;
    let prefix = match interface.netmask.as_ref().and_then(ip) {
        Some(IpAddr::V4(mask)) => mask.to_bits().count_ones(),
        Some(IpAddr::V6(mask)) => mask.to_bits().count_ones(),
        None if address.is_ipv4() => 32,
        None => 128,
    };
    Some((address, prefix))
}

fn ip(address: &SockaddrStorage) -> Option<IpAddr> {
    let v4 = address.as_sockaddr_in().map(|address| IpAddr::V4(address.ip()));
    v4.or_else(|| address.as_sockaddr_in6().map(|address| IpAddr::V6(address.ip())))
}
