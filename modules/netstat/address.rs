//! Fast lookup of one address among all ranges that were asked for.

use std::net::IpAddr;

use ipnet::IpNet;
use vigie_host::AddressRange;

/// Many ranges, searched at once: one binary search for each prefix length that occurs, however many ranges
/// there are.
#[derive(Debug, Clone, Default)]
pub(crate) struct AddressSet {
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
    pub(crate) fn new(ranges: &[AddressRange]) -> Self {
        let mut groups: Vec<Group> = Vec::new();
        for (number, range) in ranges.iter().enumerate() {
            let entry = (range.network(), number);
            let (is_ipv4, prefix_length) = (range.network().is_ipv4(), range.prefix_length());
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
    pub(crate) fn matches(&self, address: IpAddr, mut found: impl FnMut(usize)) {
        let address = address.to_canonical();
        for group in self.groups.iter().filter(|group| group.is_ipv4 == address.is_ipv4()) {
            let Ok(network) = IpNet::new(address, group.prefix_length).map(|net| net.network()) else {
                continue;
            };
            let first = group.networks.partition_point(|(other, _)| *other < network);
            for (_, number) in group.networks[first..].iter().take_while(|(other, _)| *other == network) {
                found(*number);
            }
        }
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

    fn any_address() -> impl Strategy<Value = IpAddr> {
        prop_oneof![
            any::<u32>().prop_map(|bits| IpAddr::V4(Ipv4Addr::from_bits(bits))),
            any::<u32>().prop_map(|bits| IpAddr::V6(Ipv4Addr::from_bits(bits).to_ipv6_mapped())),
            any::<u128>().prop_map(|bits| IpAddr::V6(Ipv6Addr::from_bits(bits))),
        ]
    }

    proptest! {
        #[test]
        fn a_set_finds_what_its_ranges_hold(
            networks in proptest::collection::vec((any_address(), 0u8..=128), 0..20),
            wanted in any_address(),
            near in any::<prop::sample::Index>(),
        ) {
            let ranges: Vec<AddressRange> = networks
                .iter()
                .map(|(address, length)| range(&format!("{address}/{}", length % (if address.is_ipv4() { 33 } else { 129 }))))
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
