//! Programs that let the kernel leave out sockets by their peer, in the instructions of `linux/inet_diag.h`.
//!
//! ```text
//!  peer in range 1? ──no──► peer in range 2? ──no──► … ──no──► left out
//!       │ yes                    │ yes
//!       └──► jump to the end     └──► jump to the end: kept
//! ```
//!
//! An instruction tells how far to go when it holds and when not, in bytes from its own beginning. A socket is
//! kept when that leads exactly to the end of the program, and left out when it leads 4 bytes beyond.

use std::net::IpAddr;

use rustix::net::AddressFamily;
use vigie_host::AddressRange;

/// `INET_DIAG_BC_JMP`: never holds.
const JUMP: u8 = 1;
/// `INET_DIAG_BC_D_COND`: holds when the peer's address begins with that of the condition behind it. The kernel
/// compares IPv4 conditions with v4-mapped addresses, too.
const PEER: u8 = 8;

/// Bytes of `struct inet_diag_bc_op`.
const INSTRUCTION_BYTES: usize = 4;
/// Bytes of `struct inet_diag_hostcond` without its address: family, length of the prefix, padding, port.
const CONDITION_BYTES: usize = 8;

/// `port` of a condition for any port.
const ANY_PORT: i32 = -1;

/// Most ranges of a program. The kernel tries them one after the other on every socket while it holds a lock;
/// with more it is better to look at every socket here.
const MAX_RANGES: usize = 64;

/// The program that keeps sockets whose peer is in one of the ranges; empty when the kernel had better keep all.
#[must_use]
pub(crate) fn peer_program(ranges: &[AddressRange]) -> Vec<u8> {
    let all_of_a_family = ranges.iter().any(|range| range.prefix_length() == 0);
    if ranges.is_empty() || ranges.len() > MAX_RANGES || all_of_a_family {
        return Vec::new();
    }
    let mut program = Vec::new();
    // From the last one on: a jump must know how much follows it.
    for (place, range) in ranges.iter().enumerate().rev() {
        let condition = condition(range);
        let length = INSTRUCTION_BYTES + condition.len();
        let is_last = place + 1 == ranges.len();
        // Over the jump, or beyond the end.
        let mut instructions = instruction(PEER, length, length + INSTRUCTION_BYTES);
        instructions.extend_from_slice(&condition);
        if !is_last {
            let after = INSTRUCTION_BYTES + program.len();
            instructions.extend_from_slice(&instruction(JUMP, INSTRUCTION_BYTES, after));
        }
        instructions.append(&mut program);
        program = instructions;
    }
    program
}

/// `struct inet_diag_bc_op`. All distances of [`MAX_RANGES`] ranges fit.
fn instruction(code: u8, if_it_holds: usize, if_not: usize) -> Vec<u8> {
    let mut bytes = vec![code, u8::try_from(if_it_holds).unwrap_or(u8::MAX)];
    bytes.extend_from_slice(&u16::try_from(if_not).unwrap_or(u16::MAX).to_ne_bytes());
    bytes
}

/// `struct inet_diag_hostcond`.
fn condition(range: &AddressRange) -> Vec<u8> {
    let family = if range.network().is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let mut bytes = Vec::with_capacity(CONDITION_BYTES + 16);
    // The two families are 2 and 10.
    bytes.extend_from_slice(&[family.as_raw() as u8, range.prefix_length(), 0, 0]);
    bytes.extend_from_slice(&ANY_PORT.to_ne_bytes());
    match range.network() {
        IpAddr::V4(network) => bytes.extend_from_slice(&network.octets()),
        IpAddr::V6(network) => bytes.extend_from_slice(&network.octets()),
    }
    bytes
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use proptest::prelude::*;

    use super::*;

    /// Runs a program as the kernel does (`inet_diag_bc_run` of `net/ipv4/inet_diag.c`) on a socket of the family
    /// that `peer` is written in.
    fn keeps(program: &[u8], peer: IpAddr) -> bool {
        let mut at = 0;
        while at < program.len() {
            let (code, if_it_holds) = (program[at], usize::from(program[at + 1]));
            let if_not = usize::from(u16::from_ne_bytes([program[at + 2], program[at + 3]]));
            let holds = code == PEER && holds(&program[at + INSTRUCTION_BYTES..], peer);
            at += if holds { if_it_holds } else { if_not };
        }
        at == program.len()
    }

    fn holds(condition: &[u8], peer: IpAddr) -> bool {
        let (family, length) = (condition[0], condition[1]);
        let address = &condition[CONDITION_BYTES..];
        let starts_with = |octets: &[u8]| {
            (0..usize::from(length)).all(|bit| {
                let mask = 0x80u8 >> (bit % 8);
                octets[bit / 8] & mask == address[bit / 8] & mask
            })
        };
        match (family, peer) {
            (2, IpAddr::V4(peer)) => starts_with(&peer.octets()),
            (2, IpAddr::V6(peer)) => {
                peer.to_ipv4_mapped().is_some_and(|mapped| starts_with(&mapped.octets()))
            }
            (10, IpAddr::V6(peer)) => starts_with(&peer.octets()),
            _ => false,
        }
    }

    #[test]
    fn nothing_is_left_out_when_all_is_wanted_or_too_much_is_asked() {
        let one = AddressRange::parse("192.0.2.1").unwrap();

        assert!(peer_program(&[]).is_empty());
        assert!(peer_program(&[one, AddressRange::parse("::/0").unwrap()]).is_empty());
        assert!(peer_program(&vec![one; MAX_RANGES + 1]).is_empty());
        assert!(!peer_program(&vec![one; MAX_RANGES]).is_empty());
    }

    proptest! {
        #[test]
        fn a_program_keeps_every_peer_that_is_wanted_and_no_other(
            networks in proptest::collection::vec((any::<u128>(), any::<bool>(), 1u8..=128), 1..=MAX_RANGES),
            chosen in any::<prop::sample::Index>(),
            noise in any::<u128>(),
        ) {
            let ranges: Vec<AddressRange> = networks
                .iter()
                .map(|(bits, is_ipv4, length)| {
                    let text = match is_ipv4 {
                        true => format!("{}/{}", Ipv4Addr::from_bits(*bits as u32), length % 32 + 1),
                        false => format!("{}/{length}", Ipv6Addr::from_bits(*bits)),
                    };
                    AddressRange::parse(&text).unwrap()
                })
                .collect();
            let program = peer_program(&ranges);
            let near = networks[chosen.index(networks.len())].0 ^ noise.checked_shr(noise as u32 % 140).unwrap_or(0);
            let ipv4 = Ipv4Addr::from_bits(near as u32);

            for peer in [ipv4.into(), ipv4.to_ipv6_mapped().into(), IpAddr::V6(Ipv6Addr::from_bits(near))] {
                let wanted = ranges.iter().any(|range| range.contains(peer));
                let kept = keeps(&program, peer);
                prop_assert!(kept || !wanted, "{peer} is left out");
                // An IPv6 range may hold mapped addresses, which are looked at again here.
                prop_assert!(!kept || wanted || peer.to_canonical() != peer, "{peer} is kept");
            }
        }
    }
}
