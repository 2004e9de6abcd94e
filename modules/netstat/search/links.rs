//! Interfaces of this host with their addresses, and the hosts that it has seen.

use super::{Backend, Findings, Hit, Match, chain, left_out_problem};
use crate::parameters::{Kind, Parameters};
use crate::proc_net::ProcNet;
use crate::rtnetlink::{self, Neighbour};

pub(super) fn search_interfaces(parameters: &Parameters, findings: &mut Findings) {
    if !parameters.local_mac.is_empty() {
        match rtnetlink::hardware_addresses() {
            Ok(all) => {
                for hardware in all {
                    findings.examined += 1;
                    parameters.local_mac.matcher.matches(&hardware.what, |place| {
                        findings.add(Hit {
                            kind: Kind::LocalMac,
                            place,
                            matched: Match::Hardware(hardware.clone()),
                        });
                    });
                }
            }
            Err(error) => findings.problems.push(format!("interfaces: {}", chain(&error))),
        }
    }
    if !parameters.local_ip.is_empty() {
        match rtnetlink::addresses() {
            Ok(all) => {
                for address in all {
                    findings.examined += 1;
                    parameters.local_ip.matcher.matches(address.what, |place| {
                        let matched = Match::Address(address.clone());
                        findings.add(Hit { kind: Kind::LocalIp, place, matched });
                    });
                }
            }
            Err(error) => findings.problems.push(format!("addresses: {}", chain(&error))),
        }
    }
}

pub(super) fn search_neighbours(parameters: &Parameters, backend: &Backend, findings: &mut Findings) {
    if parameters.neighbor_mac.is_empty() && parameters.neighbor_ip.is_empty() {
        return;
    }
    for neighbour in neighbours(backend, findings) {
        findings.examined += 1;
        let hit = |kind, place| Hit { kind, place, matched: Match::Neighbour(neighbour.clone()) };
        parameters.neighbor_mac.matcher.matches(&neighbour.hardware, |place| {
            findings.add(hit(Kind::NeighborMac, place));
        });
        parameters.neighbor_ip.matcher.matches(neighbour.address, |place| {
            findings.add(hit(Kind::NeighborIp, place));
        });
    }
}

fn neighbours(backend: &Backend, findings: &mut Findings) -> Vec<Neighbour> {
    let tables = match backend {
        Backend::TextTables(tables) => tables.clone(),
        Backend::Kernel => match rtnetlink::neighbours() {
            Ok(neighbours) => return neighbours,
            Err(error) => {
                findings.problems.push(format!(
                    "IPv6 neighbours are unknown; IPv4 neighbours were read from /proc/net: {}",
                    chain(&error)
                ));
                ProcNet::of_this_thread()
            }
        },
    };
    findings.fell_back = true;
    match tables.neighbours() {
        Ok((neighbours, left_out)) => {
            findings.problems.extend(left_out_problem("arp", left_out));
            neighbours
        }
        Err(error) => {
            findings.problems.push(format!("neighbours: {}", chain(&error)));
            Vec::new()
        }
    }
}
