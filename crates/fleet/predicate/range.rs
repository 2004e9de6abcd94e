//! Ranges of addresses in CIDR notation.
//!
//! A range holds addresses of its own family only. An IPv4-mapped IPv6 address (RFC 4291, 2.5.5.2) is the IPv4
//! address that it carries; this is how the netstat module sees addresses, too.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Bits of the prefix `::ffff:0:0/96` of mapped addresses.
const MAPPED_PREFIX_LENGTH: u8 = 96;

/// The addresses that begin with the same bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Range {
    /// The first of them.
    network: IpAddr,
    /// How many bits are the same: up to 32 or 128.
    prefix_length: u8,
}

impl Range {
    /// Reads `ADDRESS/LENGTH`, or an address alone, which is a range of one. Bits after the prefix are ignored.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (address, length) = text.split_once('/').map_or((text, None), |(a, length)| (a, Some(length)));
        let address: IpAddr = address.parse().ok()?;
        let longest = if address.is_ipv4() { 32 } else { 128 };
        let length = match length {
            Some(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => digits.parse().ok()?,
            Some(_) => return None,
            None => longest,
        };
        if length > longest {
            return None;
        }
        // A range that holds more than the mapped addresses is an IPv6 range like any other.
        let (address, prefix_length) = match address.to_canonical() {
            IpAddr::V4(mapped) if address.is_ipv6() && length >= MAPPED_PREFIX_LENGTH => {
                (IpAddr::V4(mapped), length - MAPPED_PREFIX_LENGTH)
            }
            _ => (address, length),
        };
        Some(Self { network: masked(address, prefix_length), prefix_length })
    }

    pub(super) fn contains(self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        address.is_ipv4() == self.network.is_ipv4() && masked(address, self.prefix_length) == self.network
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network, self.prefix_length)
    }
}

/// The address with every bit after the prefix zero.
fn masked(address: IpAddr, prefix_length: u8) -> IpAddr {
    // A shift by all bits is no shift in Rust: a prefix of 0 keeps nothing.
    match address {
        IpAddr::V4(v4) => {
            let mask = u32::MAX.checked_shl(32_u32.saturating_sub(prefix_length.into())).unwrap_or(0);
            Ipv4Addr::from_bits(v4.to_bits() & mask).into()
        }
        IpAddr::V6(v6) => {
            let mask = u128::MAX.checked_shl(128_u32.saturating_sub(prefix_length.into())).unwrap_or(0);
            Ipv6Addr::from_bits(v6.to_bits() & mask).into()
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn holds(range: &str, address: &str) -> bool {
        Range::parse(range).unwrap().contains(address.parse().unwrap())
    }

    #[test]
    fn a_range_holds_the_addresses_of_its_network() {
        assert!(holds("10.0.0.0/8", "10.255.0.1"));
        assert!(!holds("10.0.0.0/8", "11.0.0.0"));
        assert!(holds("10.1.2.3/8", "10.9.9.9"));
        assert!(holds("192.0.2.1", "192.0.2.1"));
        assert!(!holds("192.0.2.1/32", "192.0.2.2"));
        assert!(holds("0.0.0.0/0", "203.0.113.7"));
        assert!(holds("2001:db8::/32", "2001:db8:ffff::1"));
        assert!(!holds("2001:db8::/33", "2001:db8:ffff::1"));
    }

    #[test]
    fn families_stay_apart_and_mapped_addresses_are_ipv4() {
        assert!(!holds("::/0", "192.0.2.1"));
        assert!(!holds("0.0.0.0/0", "2001:db8::1"));
        assert!(holds("192.0.2.0/24", "::ffff:192.0.2.9"));
        assert!(holds("::ffff:192.0.2.0/120", "192.0.2.9"));
        assert!(!holds("::/0", "::ffff:192.0.2.9"));
    }

    #[test]
    fn what_is_no_range_is_refused() {
        for bad in
            ["", "/", "10.0.0.0/", "10.0.0.0/33", "10.0.0.0/+8", "10.0.0.0/-1", "10.0/8", "::/129", "a"]
        {
            assert_eq!(Range::parse(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn a_range_is_read_again_as_it_is_written(address in any::<IpAddr>(), length in 0..=128_u8) {
            if let Some(range) = Range::parse(&format!("{address}/{length}")) {
                prop_assert_eq!(Range::parse(&range.to_string()), Some(range));
                prop_assert!(range.contains(range.network));
            }
        }
    }
}
