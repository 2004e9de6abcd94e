//! Addresses as investigators write them, and fast lookup of one address among all that were asked for.
//!
//! An address belongs to the family that it is written in, and a v4-mapped IPv6 address (RFC 4291, 2.5.5.2) is
//! the IPv4 address that it carries. A range matches addresses of its own family only.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

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

/// A range of addresses of one family: a network and the length of its prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AddressRange {
    /// The first address; bits after the prefix are zero.
    network: IpAddr,
    prefix_length: u8,
}

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
        let longest = longest_prefix(address);
        let length = match length {
            None => longest,
            Some(length) => prefix_length(length, longest)
                .ok_or_else(|| AddressError::NotAPrefixLength { found: length.to_owned(), longest })?,
        };
        // A range that holds more than the mapped addresses is an IPv6 range like any other.
        let (address, length) = match (address, address.to_canonical()) {
            (IpAddr::V6(_), IpAddr::V4(mapped)) if length >= MAPPED_PREFIX_LENGTH => {
                (IpAddr::V4(mapped), length - MAPPED_PREFIX_LENGTH)
            }
            _ => (address, length),
        };
        Ok(Self { network: masked(address, length), prefix_length: length })
    }

    /// The first address of the range.
    #[must_use]
    pub fn network(&self) -> IpAddr {
        self.network
    }

    /// How many bits of the first address count.
    #[must_use]
    pub fn prefix_length(&self) -> u8 {
        self.prefix_length
    }

    /// Whether the address lies in the range.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        address.is_ipv4() == self.network.is_ipv4() && masked(address, self.prefix_length) == self.network
    }
}

/// The length of the prefix that is a whole address.
fn longest_prefix(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

/// Digits only: the parser of numbers takes a sign, too.
fn prefix_length(text: &str, longest: u8) -> Option<u8> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten().filter(|length| *length <= longest)
}

/// The address with only the first `length` bits kept.
fn masked(address: IpAddr, length: u8) -> IpAddr {
    let length = u32::from(length);
    match address {
        IpAddr::V4(address) => {
            let mask = u32::MAX.checked_shl(32u32.saturating_sub(length)).unwrap_or(0);
            IpAddr::V4(Ipv4Addr::from_bits(address.to_bits() & mask))
        }
        IpAddr::V6(address) => {
            let mask = u128::MAX.checked_shl(128u32.saturating_sub(length)).unwrap_or(0);
            IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & mask))
        }
    }
}

/// Many ranges, searched at once: one binary search for each prefix length that occurs, however many ranges
/// there are.
#[derive(Debug, Clone, Default)]
pub struct AddressSet {
    /// Sorted networks with the number of their range, for each family and prefix length that occurs.
    groups: Vec<Group>,
}

#[derive(Debug, Clone)]
struct Group {
    is_ipv4: bool,
    prefix_length: u8,
    networks: Vec<(IpAddr, usize)>,
}

impl AddressSet {
    /// A set of ranges; [`AddressSet::matches`] tells them by their place in the list.
    #[must_use]
    pub fn new(ranges: &[AddressRange]) -> Self {
        let mut groups: Vec<Group> = Vec::new();
        for (number, range) in ranges.iter().enumerate() {
            let entry = (range.network, number);
            let (is_ipv4, prefix_length) = (range.network.is_ipv4(), range.prefix_length);
            let same = |group: &&mut Group| group.is_ipv4 == is_ipv4 && group.prefix_length == prefix_length;
            match groups.iter_mut().find(same) {
                Some(group) => group.networks.push(entry),
                None => groups.push(Group { is_ipv4, prefix_length, networks: vec![entry] }),
            }
        }
        for group in &mut groups {
            group.networks.sort_unstable();
        }
        Self { groups }
    }

    /// Calls `found` with the number of each range that holds the address. Allocates nothing.
    pub fn matches(&self, address: IpAddr, mut found: impl FnMut(usize)) {
        let address = address.to_canonical();
        for group in self.groups.iter().filter(|group| group.is_ipv4 == address.is_ipv4()) {
            let network = masked(address, group.prefix_length);
            let first = group.networks.partition_point(|(other, _)| *other < network);
            for (_, number) in group.networks[first..].iter().take_while(|(other, _)| *other == network) {
                found(*number);
            }
        }
    }
}

#[cfg(test)]
mod tests {
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
        for text in ["", "/24", "010.0.0.1", "fe80::1%veth0", "1.2.3", "1.2.3.4 ", "localhost"] {
            assert!(matches!(AddressRange::parse(text), Err(AddressError::NotAnAddress(_))), "{text}");
        }
        for text in ["1.2.3.4/33", "::1/129", "1.2.3.4/", "1.2.3.4/+8", "1.2.3.4/8/8", "::1/999"] {
            let error = AddressRange::parse(text).unwrap_err();
            assert!(matches!(error, AddressError::NotAPrefixLength { .. }), "{text}");
        }
    }

    fn any_address() -> impl Strategy<Value = IpAddr> {
        prop_oneof![
            any::<u32>().prop_map(|bits| IpAddr::V4(Ipv4Addr::from_bits(bits))),
            any::<u32>().prop_map(|bits| IpAddr::V6(Ipv4Addr::from_bits(bits).to_ipv6_mapped())),
            any::<u128>().prop_map(|bits| IpAddr::V6(Ipv6Addr::from_bits(bits))),
        ]
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
        fn a_set_finds_what_its_ranges_hold(
            networks in proptest::collection::vec((any_address(), 0u8..=128), 0..20),
            wanted in any_address(),
            near in any::<prop::sample::Index>(),
        ) {
            let ranges: Vec<AddressRange> = networks
                .iter()
                .map(|(address, length)| range(&format!("{address}/{}", length % (longest_prefix(*address) + 1))))
                .collect();
            let set = AddressSet::new(&ranges);
            let near = networks.get(near.index(networks.len().max(1))).map_or(wanted, |(address, _)| *address);

            for wanted in [wanted, near] {
                let mut found = Vec::new();
                set.matches(wanted, |number| found.push(number));
                found.sort_unstable();

                let expected: Vec<usize> =
                    (0..ranges.len()).filter(|number| ranges[*number].contains(wanted)).collect();
                prop_assert_eq!(found, expected);
            }
        }
    }
}
