//! Ranges of addresses in CIDR notation.
//!
//! An address belongs to the family that it is written in, and a v4-mapped IPv6 address (RFC 4291, 2.5.5.2) is
//! the IPv4 address that it carries. A range matches addresses of its own family only.

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;

/// Bits of the v4-mapped prefix `::ffff:0:0/96`.
const MAPPED_PREFIX_LENGTH: u8 = 96;

/// Why a text is not an address or a range.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum AddressError {
    /// What stands before the slash, or all of it, is no address.
    #[error("{0:?} is not an IPv4 or IPv6 address, such as 192.0.2.1 or 2001:db8::1")]
    NotAnAddress(String),
    /// What stands after the slash is no prefix length of this family.
    #[error("{found:?} is not a prefix length: expected a number from 0 to {longest}")]
    NotAPrefixLength {
        /// What stands after the slash.
        found: String,
        /// 32 for IPv4, 128 for IPv6.
        longest: u8,
    },
}

/// A range of addresses of one family: a network, whose bits after the prefix are zero, and the length of the prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AddressRange(IpNet);

impl AddressRange {
    /// Reads an address or a range in CIDR notation. Bits after the prefix are ignored.
    ///
    /// # Errors
    /// When the text is neither; see [`AddressError`].
    pub fn parse(text: &str) -> Result<Self, AddressError> {
        let (address, length) = match text.split_once('/') {
            Some((address, length)) => (address, Some(length)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| AddressError::NotAnAddress(address.to_owned()))?;
        let net = match length {
            None => IpNet::from(address),
            Some(length) => with_prefix(address, length).ok_or_else(|| AddressError::NotAPrefixLength {
                found: length.to_owned(),
                longest: IpNet::from(address).max_prefix_len(),
            })?,
        };
        Ok(Self(canonical(net).trunc()))
    }

    /// The first address of the range.
    #[must_use]
    pub fn network(&self) -> IpAddr {
        self.0.addr()
    }

    /// How many bits of the first address count.
    #[must_use]
    pub fn prefix_length(&self) -> u8 {
        self.0.prefix_len()
    }

    /// Whether the address lies in the range.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        self.0.contains(&address.to_canonical())
    }
}

impl fmt::Display for AddressRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Digits only: the parser of numbers takes a sign, too.
fn with_prefix(address: IpAddr, length: &str) -> Option<IpNet> {
    let is_number = !length.is_empty() && length.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| IpNet::new(address, length.parse().ok()?).ok()).flatten()
}

/// A range that holds more than the mapped addresses is an IPv6 range like any other.
fn canonical(net: IpNet) -> IpNet {
    match (net, net.addr().to_canonical()) {
        (IpNet::V6(_), mapped @ IpAddr::V4(_)) if net.prefix_len() >= MAPPED_PREFIX_LENGTH => {
            IpNet::new(mapped, net.prefix_len() - MAPPED_PREFIX_LENGTH).unwrap_or(net)
        }
        _ => net,
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use proptest::prelude::*;

    use super::*;

    fn range(text: &str) -> AddressRange {
        AddressRange::parse(text).unwrap()
    }

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn an_ipv4_mask_counts_from_the_first_bit_of_the_ipv4_address() {
        assert!(range("127.0.0.4/30").contains(address("127.0.0.5")));
        assert!(!range("127.0.0.4/30").contains(address("127.0.0.8")));
        assert!(range("10.77.0.9/24").contains(address("10.77.0.1")));
        assert!(range("0.0.0.0/0").contains(address("255.255.255.255")));
    }

    #[test]
    fn a_mapped_address_is_the_ipv4_address_that_it_carries() {
        assert!(range("127.0.0.5").contains(address("::ffff:127.0.0.5")));
        assert!(range("::ffff:127.0.0.5").contains(address("127.0.0.5")));
        assert!(range("::ffff:10.0.0.0/104").contains(address("10.1.2.3")));
    }

    #[test]
    fn a_range_holds_addresses_of_its_own_family_only() {
        assert!(!range("::/0").contains(address("::ffff:127.0.0.5")));
        assert!(!range("::/0").contains(address("127.0.0.5")));
        assert!(!range("0.0.0.0/0").contains(address("::1")));
        assert!(range("::/0").contains(address("::1")));
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for text in ["", "/24", "010.0.0.1", "fe80::1%veth0", "1.2.3", "1.2.3.4 ", "localhost", "/", "10.0/8"]
        {
            assert!(matches!(AddressRange::parse(text), Err(AddressError::NotAnAddress(_))), "{text}");
        }
        for text in
            ["1.2.3.4/33", "::1/129", "1.2.3.4/", "1.2.3.4/+8", "1.2.3.4/8/8", "::1/999", "10.0.0.0/-1"]
        {
            let error = AddressRange::parse(text).unwrap_err();
            assert!(matches!(error, AddressError::NotAPrefixLength { .. }), "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "[0-9a-f:./%]{0,50}") {
            let _ = AddressRange::parse(&text);
        }

        #[test]
        fn a_range_holds_exactly_what_shares_its_prefix(network in any::<u32>(), length in 0u32..=32, other in any::<u32>()) {
            let range = range(&format!("{}/{length}", Ipv4Addr::from_bits(network)));

            let shares = (network ^ other).leading_zeros() >= length;

            prop_assert_eq!(range.contains(IpAddr::V4(Ipv4Addr::from_bits(other))), shares);
        }

        #[test]
        fn an_ipv6_range_holds_exactly_what_shares_its_prefix(
            network in any::<u128>(), length in 0u32..=128, flipped in 0u32..128,
        ) {
            prop_assume!(Ipv6Addr::from_bits(network).to_ipv4_mapped().is_none());
            let other = network ^ (1u128 << (127 - flipped));
            prop_assume!(Ipv6Addr::from_bits(other).to_ipv4_mapped().is_none());

            let range = range(&format!("{}/{length}", Ipv6Addr::from_bits(network)));

            prop_assert_eq!(range.contains(IpAddr::V6(Ipv6Addr::from_bits(other))), flipped >= length);
        }

        #[test]
        fn a_range_is_read_again_as_it_is_written(address in any::<IpAddr>(), length in 0..=128_u8) {
            if let Ok(range) = AddressRange::parse(&format!("{address}/{length}")) {
                prop_assert_eq!(AddressRange::parse(&range.to_string()), Ok(range));
                prop_assert!(range.contains(range.network()));
            }
        }
    }
}
