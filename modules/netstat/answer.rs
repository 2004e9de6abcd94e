//! What the investigator gets: the matches by asked value, in MIG's form with a few more keys.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use serde::{Serialize, Serializer};
use vigie_sdk::ModuleResult;

use crate::parameters::{Kind, Parameters};
use crate::processes::{Owners, Process};
use crate::search::{Findings, Match, Outcome};
use crate::socket::{Protocol, Socket, State};

/// Most bytes of all elements together. An answer with the rest of it stays below the 16 MiB that an agent
/// takes.
const MAX_ELEMENTS_BYTES: usize = 15 << 20;

/// Bytes of an element's keys, punctuation and numbers, at most.
const ELEMENT_BYTES: usize = 160;

/// The same of a process.
const PROCESS_BYTES: usize = 64;

/// Most bytes of one byte of text in JSON: `\u0000`.
const ESCAPED_BYTES: usize = 6;

/// What stands for what extra privacy mode hides.
const MASKED: &str = "masked";

/// An address, or that there is one.
#[derive(Debug, Clone, Copy)]
enum Shown {
    Address(IpAddr),
    Masked,
}

impl Serialize for Shown {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Address(address) => address.serialize(serializer),
            Self::Masked => serializer.serialize_str(MASKED),
        }
    }
}

/// One match. What is empty is left out; the keys up to `namespace` are MIG's.
#[derive(Debug, Serialize, Default)]
struct Element<'a> {
    #[serde(rename = "localmacaddr", skip_serializing_if = "Option::is_none")]
    local_hardware: Option<&'a str>,
    #[serde(rename = "remotemacaddr", skip_serializing_if = "Option::is_none")]
    remote_hardware: Option<&'a str>,
    #[serde(rename = "localaddr", skip_serializing_if = "Option::is_none")]
    local_address: Option<IpAddr>,
    #[serde(rename = "localport", skip_serializing_if = "Option::is_none")]
    local_port: Option<u16>,
    #[serde(rename = "remoteaddr", skip_serializing_if = "Option::is_none")]
    remote_address: Option<Shown>,
    #[serde(rename = "remoteport", skip_serializing_if = "Option::is_none")]
    remote_port: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    namespace: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    protocol: Option<Protocol>,
    #[serde(skip_serializing_if = "Option::is_none")]
    state: Option<State>,
    #[serde(skip_serializing_if = "Option::is_none")]
    uid: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    processes: Option<Vec<Process>>,
}

impl Element<'_> {
    /// Bytes of its JSON text, at most.
    fn bytes_at_most(&self) -> usize {
        let address = |address: &IpAddr| if address.is_ipv4() { 15 } else { 45 };
        let remote = match &self.remote_address {
            Some(Shown::Address(remote)) => address(remote),
            Some(Shown::Masked) => MASKED.len(),
            None => 0,
        };
        let texts = [self.local_hardware, self.remote_hardware, self.namespace];
        let processes = self.processes.iter().flatten().map(|process| {
            let text = process.command.len() + process.user.as_ref().map_or(0, String::len);
            PROCESS_BYTES + ESCAPED_BYTES * text
        });
        ELEMENT_BYTES
            + self.local_address.as_ref().map_or(0, address)
            + remote
            + texts.into_iter().flatten().map(str::len).sum::<usize>()
            + processes.sum::<usize>()
    }
}

#[derive(Debug, Serialize)]
struct Statistics {
    examined: u64,
    exectime: String,
    totalhits: u64,
    /// `netlink`, or `procfs` when a text table was read.
    backend: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    namespaces: Option<usize>,
}

/// Matches by asked value; `null` for one without.
type Matches<'a> = BTreeMap<&'a str, Option<Vec<Element<'a>>>>;

/// Writes the answer to a query. `owners` tells the processes when they were asked for.
#[must_use]
pub fn answer(
    parameters: &Parameters,
    outcome: &Outcome,
    owners: Option<&Owners>,
    extraprivacy: bool,
    elapsed: Duration,
) -> ModuleResult {
    let mut elements: BTreeMap<&str, Matches<'_>> = BTreeMap::new();
    for kind in Kind::ALL {
        let asked = parameters.asked(kind);
        if !asked.is_empty() {
            elements.insert(kind.name(), asked.iter().map(|text| (text.as_str(), None)).collect());
        }
    }
    let mut bytes_at_most = 0;
    let mut listed: u64 = 0;
    'all: for findings in &outcome.namespaces {
        for hit in &findings.hits {
            let element = element(parameters, findings, &hit.matched, hit.kind, owners, extraprivacy);
            bytes_at_most += element.bytes_at_most();
            if bytes_at_most > MAX_ELEMENTS_BYTES {
                break 'all;
            }
            listed += 1;
            let asked = parameters.asked(hit.kind).get(hit.place).map(String::as_str);
            let matches = elements.get_mut(hit.kind.name());
            if let (Some(asked), Some(matches)) = (asked, matches) {
                matches.entry(asked).or_default().get_or_insert_default().push(element);
            }
        }
    }
    let total_hits = outcome.namespaces.iter().map(|findings| findings.total_hits).sum();
    let statistics = Statistics {
        examined: outcome.namespaces.iter().map(|findings| findings.examined).sum(),
        exectime: format!("{elapsed:?}"),
        totalhits: total_hits,
        backend: if outcome.namespaces.iter().any(|findings| findings.fell_back) {
            "procfs"
        } else {
            "netlink"
        },
        namespaces: parameters.namespaces.then_some(outcome.namespaces.len()),
    };
    let mut errors = problems(parameters, outcome, owners);
    if listed < total_hits {
        errors.push(format!(
            "{listed} of {total_hits} matches are listed, an answer has no room for more: search for less at once"
        ));
    }
    let mut result = ModuleResult::found(total_hits > 0, &elements).with_statistics(&statistics);
    result.errors = (!errors.is_empty()).then_some(errors);
    result
}

fn element<'a>(
    parameters: &Parameters,
    findings: &'a Findings,
    matched: &'a Match,
    kind: Kind,
    owners: Option<&Owners>,
    extraprivacy: bool,
) -> Element<'a> {
    let namespace = findings.namespace.as_str();
    match matched {
        // MIG names the namespace of what belongs to this host only where it can be another.
        Match::Hardware(hardware) => Element {
            local_hardware: Some(hardware.as_str()).filter(|hardware| !hardware.is_empty()),
            namespace: parameters.namespaces.then_some(namespace),
            ..Element::default()
        },
        Match::Address(address) => Element {
            local_address: Some(*address),
            namespace: parameters.namespaces.then_some(namespace),
            ..Element::default()
        },
        Match::Neighbour(neighbour) => Element {
            remote_hardware: Some(&neighbour.hardware),
            remote_address: Some(Shown::Address(neighbour.address)),
            namespace: Some(namespace),
            ..Element::default()
        },
        Match::Socket(socket) => {
            let is_connected = kind == Kind::ConnectedIp;
            let remote = if extraprivacy { Shown::Masked } else { Shown::Address(socket.remote.address) };
            Element {
                local_address: Some(socket.local.address),
                local_port: port(socket.local.port),
                remote_address: is_connected.then_some(remote),
                remote_port: port(socket.remote.port).filter(|_| is_connected),
                namespace: Some(namespace),
                protocol: Some(socket.protocol),
                state: Some(socket.state),
                uid: owners.filter(|_| !extraprivacy).map(|_| socket.uid),
                processes: owners.map(|owners| processes(socket, owners, extraprivacy)),
                ..Element::default()
            }
        }
    }
}

/// A port; 0 is none.
fn port(port: u16) -> Option<u16> {
    Some(port).filter(|port| *port != 0)
}

/// The processes of a socket. Extra privacy mode hides whose they are.
fn processes(socket: &Socket, owners: &Owners, extraprivacy: bool) -> Vec<Process> {
    let all = owners.of(socket.inode).cloned();
    if !extraprivacy {
        return all.collect();
    }
    all.map(|process| Process { uid: None, user: Some(MASKED.to_owned()), ..process }).collect()
}

/// What could not be inspected.
fn problems(parameters: &Parameters, outcome: &Outcome, owners: Option<&Owners>) -> Vec<String> {
    let mut problems = Vec::new();
    for findings in &outcome.namespaces {
        let place = if parameters.namespaces { format!("{}: ", findings.namespace) } else { String::new() };
        problems.extend(findings.problems.iter().map(|problem| format!("{place}{problem}")));
        if findings.stopped {
            problems.push(format!("{place}stopped before all sockets were searched"));
        }
    }
    problems.extend(outcome.problems.iter().cloned());
    if let Some(owners) = owners {
        if owners.hidden > 0 {
            problems.push(format!(
                "the descriptors of {} processes cannot be read: it needs CAP_SYS_PTRACE, as root has it",
                owners.hidden
            ));
        }
        if owners.stopped {
            problems.push("stopped before the sockets of all processes were read".to_owned());
        }
    }
    problems
}

#[cfg(test)]
mod tests {
    use serde_json::value::to_raw_value;
    use serde_json::{Value, json};
    use vigie_sdk::Query;

    use super::*;
    use crate::search::Hit;
    use crate::socket::Endpoint;

    fn parameters(value: Value) -> Parameters {
        Parameters::from_query(&Query::new(Some(to_raw_value(&value).unwrap()))).unwrap()
    }

    fn connection(remote: IpAddr) -> Hit {
        Hit {
            kind: Kind::ConnectedIp,
            place: 0,
            matched: Match::Socket(Socket {
                protocol: Protocol::Tcp,
                state: State::FinWait1,
                local: Endpoint::new([10, 0, 0, 1].into(), 443),
                remote: Endpoint::new(remote, 5000),
                inode: 0,
                uid: 7,
                interface: 0,
            }),
        }
    }

    fn outcome(hits: Vec<Hit>) -> Outcome {
        let findings = Findings {
            namespace: "default".to_owned(),
            total_hits: hits.len() as u64,
            hits,
            ..Findings::default()
        };
        Outcome { namespaces: vec![findings], problems: Vec::new() }
    }

    fn json_of(result: &ModuleResult) -> Value {
        serde_json::from_slice(&result.to_line()).unwrap()
    }

    #[test]
    fn a_connection_has_the_keys_of_mig_and_its_protocol_and_state() {
        let parameters = parameters(json!({"connectedip": ["10.0.0.2", "10.0.0.3"]}));
        let outcome = outcome(vec![connection([10, 0, 0, 2].into())]);

        let result = json_of(&answer(&parameters, &outcome, None, false, Duration::from_micros(1200)));

        assert_eq!(
            result,
            json!({
                "foundanything": true, "success": true,
                "elements": {"connectedip": {
                    "10.0.0.2": [{
                        "localaddr": "10.0.0.1", "localport": 443, "remoteaddr": "10.0.0.2", "remoteport": 5000,
                        "namespace": "default", "protocol": "tcp", "state": "fin-wait-1",
                    }],
                    "10.0.0.3": null,
                }},
                "statistics": {"examined": 0, "exectime": "1.2ms", "totalhits": 1, "backend": "netlink"},
                "errors": null,
            })
        );
    }

    #[test]
    fn extra_privacy_hides_who_it_was() {
        let parameters = parameters(json!({"connectedip": ["10.0.0.0/8"], "processes": true}));
        let outcome = outcome(vec![connection([10, 0, 0, 2].into())]);

        let result = answer(&parameters, &outcome, Some(&Owners::default()), true, Duration::ZERO);

        let text = String::from_utf8(result.to_line()).unwrap();
        assert!(text.contains("\"remoteaddr\":\"masked\"") && !text.contains("10.0.0.2"), "{text}");
        assert!(!text.contains("uid"), "{text}");
    }

    #[test]
    fn an_answer_never_becomes_too_long() {
        let parameters = parameters(json!({"connectedip": ["::/0"]}));
        let longest: IpAddr = "2001:2001:2001:2001:2001:2001:2001:2001".parse().unwrap();
        let outcome = outcome(vec![connection(longest); 150_000]);

        let result = answer(&parameters, &outcome, None, false, Duration::ZERO);

        assert!(result.to_line().len() < 16 << 20);
        assert!(result.foundanything && result.success);
        assert!(result.errors.unwrap()[0].contains("of 150000 matches are listed"));
    }

    #[test]
    fn no_element_is_longer_than_it_is_taken_for() {
        let text = "\u{1}".repeat(15);
        let process =
            Process { pid: u32::MAX, uid: Some(u32::MAX), user: Some("u".repeat(32)), command: text };
        let longest: IpAddr = "2001:2001:2001:2001:2001:2001:2001:2001".parse().unwrap();
        let element = Element {
            local_hardware: Some("02:77:00:00:00:01"),
            remote_hardware: Some("02:77:00:00:00:02"),
            local_address: Some(longest),
            local_port: Some(u16::MAX),
            remote_address: Some(Shown::Address(longest)),
            remote_port: Some(u16::MAX),
            namespace: Some("net:[4026531840]"),
            protocol: Some(Protocol::Udp),
            state: Some(State::Established),
            uid: Some(u32::MAX),
            processes: Some(vec![process; 3]),
        };

        let text = serde_json::to_string(&element).unwrap();

        assert!(text.len() <= element.bytes_at_most(), "{} of {}", text.len(), element.bytes_at_most());
    }
}
