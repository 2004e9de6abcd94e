//! What the investigator gets: the matches by asked value, in MIG's form with a few more keys.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use serde::{Serialize, Serializer};
use vigie_host::users::UNKNOWN_NAME;
use vigie_sdk::privacy::{MASKED, Showing};
use vigie_sdk::{Coverage, ModuleResult};

use crate::crossview::View;
use crate::parameters::{Kind, Parameters};
use crate::processes::Owners;
use crate::search::{ALL_INTERFACES, Findings, Hit, Match, Outcome};
use crate::socket::{Socket, State};

/// Most bytes of all elements together. An answer with the rest of it stays below the 16 MiB that an agent
/// takes.
const MAX_ELEMENTS_BYTES: usize = 15 << 20;

/// Bytes of an element's keys, punctuation and numbers, at most.
const ELEMENT_BYTES: usize = 240;

/// The same of a process.
const PROCESS_BYTES: usize = 100;

/// Most bytes of one byte of text in JSON: `\u0000`.
const ESCAPED_BYTES: usize = 6;

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
    protocol: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    state: Option<State>,
    #[serde(skip_serializing_if = "Option::is_none")]
    uid: Option<u32>,
    /// `stream`, `dgram`, `seqpacket`, `raw`.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    kind: Option<&'static str>,
    /// The state of a socket that is neither TCP nor UDP.
    #[serde(rename = "state", skip_serializing_if = "Option::is_none")]
    other_state: Option<&'static str>,
    /// The name of a Unix socket.
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<&'a str>,
    /// The IP protocol of a raw socket, or the protocol of frames of a packet socket.
    #[serde(skip_serializing_if = "Option::is_none")]
    number: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    interface: Option<&'a str>,
    /// The interface without which the address is not one: of one that holds on one link only.
    #[serde(skip_serializing_if = "Option::is_none")]
    zone: Option<&'a str>,
    /// What a difference between two views means.
    #[serde(skip_serializing_if = "Option::is_none")]
    evidence: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    processes: Option<ProcessesOf<'a>>,
}

/// The processes of a socket. Extra privacy mode hides whose they are.
#[derive(Debug, Clone, Copy)]
struct ProcessesOf<'a> {
    owners: &'a Owners,
    inode: u64,
    extraprivacy: bool,
}

impl Serialize for ProcessesOf<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let all = self.owners.of(self.inode);
        if self.extraprivacy {
            // How many there are, and no more.
            return serializer.collect_seq(all.map(|_| BTreeMap::from([("command", MASKED)])));
        }
        serializer.collect_seq(all)
    }
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
        let texts = [
            self.local_hardware,
            self.remote_hardware,
            self.namespace,
            self.interface,
            self.zone,
            self.evidence,
        ];
        let path = self.path.map_or(0, |path| path.len() * 2);
        let processes = self.processes.iter().flat_map(|all| all.owners.of(all.inode)).map(|process| {
            let length = |text: &Option<String>| text.as_ref().map_or(0, String::len);
            let text = process.command.len().max(MASKED.len())
                + length(&process.user)
                + length(&process.executable)
                + length(&process.container);
            PROCESS_BYTES + ESCAPED_BYTES * text
        });
        ELEMENT_BYTES
            + path
            + self.local_address.as_ref().map_or(0, address)
            + remote
            + texts.into_iter().flatten().map(str::len).sum::<usize>()
            + processes.sum::<usize>()
    }
}

#[derive(Debug, Serialize)]
struct Statistics<'a> {
    examined: u64,
    exectime: String,
    totalhits: u64,
    /// `netlink`, or `procfs` when a text table was read.
    backend: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    namespaces: Option<usize>,
    /// Known ones that were not asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    othernamespaces: Option<usize>,
    /// Why there may be more of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    othernamespacesunknown: Option<&'a str>,
}

/// A match and where it was found.
type Place<'a> = (&'a Findings, &'a Hit);

/// The matches of one kind by asked value.
type Matches<'a> = BTreeMap<&'a str, Vec<Place<'a>>>;

/// What the answer is made of.
#[derive(Debug, Clone, Copy)]
struct Context<'a> {
    parameters: &'a Parameters,
    outcome: &'a Outcome,
    /// The processes, when they were asked for.
    owners: Option<&'a Owners>,
    extraprivacy: bool,
    /// The names of the views that are compared.
    views: &'a [String],
}

/// The elements of an answer; each is made when it is written.
struct Elements<'a> {
    context: Context<'a>,
    kinds: BTreeMap<&'static str, Matches<'a>>,
    /// How many there are.
    listed: u64,
}

impl Serialize for Elements<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let kinds = self.kinds.iter();
        serializer.collect_map(kinds.map(|(kind, matches)| (kind, MatchesOf(self.context, matches))))
    }
}

struct MatchesOf<'a>(Context<'a>, &'a Matches<'a>);

impl Serialize for MatchesOf<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        // A value that matches nothing has `null`, as MIG writes it.
        let list = |places| Some(PlacesOf(self.0, places)).filter(|list| !list.1.is_empty());
        serializer.collect_map(self.1.iter().map(|(asked, places)| (asked, list(places))))
    }
}

struct PlacesOf<'a>(Context<'a>, &'a Vec<Place<'a>>);

impl Serialize for PlacesOf<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.1.iter().map(|place| self.0.element(place)))
    }
}

/// Writes the answer to a query. `owners` tells the processes when they were asked for.
#[must_use]
pub fn answer(
    parameters: &Parameters,
    outcome: &Outcome,
    owners: Option<&Owners>,
    extraprivacy: bool,
    elapsed: Duration,
) -> ModuleResult {
    let views = View::ALL.map(|view| view.name().to_owned());
    let context = Context { parameters, outcome, owners, extraprivacy, views: &views };
    let elements = context.elements();
    let total_hits = outcome.namespaces.iter().map(|findings| findings.total_hits).sum();
    let fell_back = outcome.namespaces.iter().any(|findings| findings.fell_back);
    let statistics = Statistics {
        examined: outcome.namespaces.iter().map(|findings| findings.examined).sum(),
        exectime: format!("{elapsed:?}"),
        totalhits: total_hits,
        backend: if fell_back { "procfs" } else { "netlink" },
        namespaces: parameters.namespaces.then_some(outcome.namespaces.len()),
        othernamespaces: Some(outcome.elsewhere.known).filter(|known| *known > 0),
        othernamespacesunknown: outcome
            .elsewhere
            .unknown
            .as_deref()
            .map(|why| if extraprivacy { MASKED } else { why }),
    };
    let mut errors = problems(parameters, outcome, owners);
    if elements.listed < total_hits {
        errors.push(format!(
            "{} of {total_hits} matches are listed because of the size limit of a result: narrow the query",
            elements.listed
        ));
    }
    let mut coverage = coverage(parameters, outcome, elements.listed < total_hits);
    for user in &parameters.owners.unknown_users {
        let what = match extraprivacy {
            true => "sockets of a user".to_owned(),
            false => format!("sockets of the user {user:?}"),
        };
        coverage.skip(what, UNKNOWN_NAME);
    }
    let mut result =
        ModuleResult::found(total_hits > 0, &elements).with_statistics(&statistics).with_coverage(coverage);
    result.errors = (!errors.is_empty()).then_some(errors);
    result
}

/// What was looked at, and what was not. Whose a socket is does not count: it was found or not.
fn coverage(parameters: &Parameters, outcome: &Outcome, is_cut: bool) -> Coverage {
    let mut coverage = Coverage::whole();
    for findings in &outcome.namespaces {
        coverage.examined += findings.examined;
        for problem in &findings.problems {
            coverage.skip(format!("network namespace {}", findings.namespace), problem.clone());
        }
        if findings.stopped {
            coverage.skip(
                format!("network namespace {}", findings.namespace),
                "the search was stopped, or its time was over",
            );
        }
    }
    for problem in &outcome.problems {
        coverage.skip("other network namespaces", problem.clone());
    }
    if is_cut {
        coverage.skip("some matches", "not all of them fit in a result");
    }
    if !parameters.asks() {
        let known: Vec<&str> = Kind::ALL.map(Kind::name).into();
        coverage.skip("everything", format!("no search parameter given; use one of {}", known.join(", ")));
    }
    coverage
}

impl<'a> Context<'a> {
    /// The matches by asked value, as many as an answer has room for.
    fn elements(self) -> Elements<'a> {
        let mut elements = Elements { context: self, kinds: BTreeMap::new(), listed: 0 };
        let mut bytes_at_most = 0;
        for kind in Kind::ALL {
            let asked = match kind {
                Kind::CrossView if self.parameters.cross_view => self.views,
                _ => self.parameters.asked(kind),
            };
            if asked.is_empty() {
                continue;
            }
            let mut matches = vec![Vec::new(); asked.len()];
            let all = self.outcome.namespaces.iter().flat_map(|findings| {
                findings.hits.iter().filter(move |hit| hit.kind == kind).map(move |hit| (findings, hit))
            });
            for place in all {
                bytes_at_most += self.element(&place).bytes_at_most();
                if bytes_at_most > MAX_ELEMENTS_BYTES {
                    break;
                }
                if let Some(matches) = matches.get_mut(place.1.place) {
                    matches.push(place);
                    elements.listed += 1;
                }
            }
            let matches = asked.iter().map(String::as_str).zip(matches).collect();
            elements.kinds.insert(kind.name(), matches);
        }
        elements
    }

    fn element(&self, (findings, hit): &Place<'a>) -> Element<'a> {
        let namespace = findings.namespace.as_str();
        // MIG names the namespace of what belongs to this host only where it can be another.
        let own_namespace = self.parameters.namespaces.then_some(namespace);
        match &hit.matched {
            Match::Hardware(hardware) => Element {
                local_hardware: Some(hardware.what.as_str()).filter(|hardware| !hardware.is_empty()),
                namespace: own_namespace,
                interface: interface(findings, hardware.interface),
                ..Element::default()
            },
            Match::Address(address) => {
                let interface = interface(findings, address.interface);
                Element {
                    local_address: Some(address.what),
                    namespace: own_namespace,
                    interface,
                    zone: interface.filter(|_| is_of_one_link(address.what)),
                    ..Element::default()
                }
            }
            Match::Neighbour(neighbour) => Element {
                remote_hardware: Some(&neighbour.hardware),
                remote_address: Some(Shown::Address(neighbour.address)),
                namespace: Some(namespace),
                ..Element::default()
            },
            Match::Socket(socket) => {
                let is_connected =
                    hit.kind == Kind::ConnectedIp || (hit.kind == Kind::LocalPort && socket.has_peer());
                Element { namespace: Some(namespace), ..self.socket(findings, socket, is_connected) }
            }
            Match::Missing(view, socket) => Element {
                namespace: Some(namespace),
                evidence: Some(view.evidence()),
                ..self.socket(findings, socket, socket.has_peer())
            },
            Match::Other(other) => Element {
                local_address: other.address,
                namespace: Some(namespace),
                protocol: Some(other.protocol),
                kind: Some(other.kind),
                other_state: Some(other.state),
                path: Some(if self.extraprivacy { MASKED } else { &other.path })
                    .filter(|path| !path.is_empty()),
                number: other.number,
                interface: interface(findings, other.interface)
                    .or_else(|| (other.protocol == "packet").then_some(ALL_INTERFACES)),
                uid: other.uid.filter(|_| !self.extraprivacy && self.owners.is_some()),
                processes: self.processes(other.inode),
                ..Element::default()
            },
        }
    }

    fn socket(&self, findings: &'a Findings, socket: &Socket, is_connected: bool) -> Element<'a> {
        let remote = match self.extraprivacy {
            true => Shown::Masked,
            false => Shown::Address(socket.remote.address),
        };
        Element {
            local_address: Some(socket.local.address),
            local_port: port(socket.local.port),
            remote_address: is_connected.then_some(remote),
            remote_port: port(socket.remote.port).filter(|_| is_connected),
            protocol: Some(socket.protocol.name()),
            state: Some(socket.state),
            interface: interface(findings, socket.interface),
            uid: self.owners.filter(|_| !self.extraprivacy).map(|_| socket.uid),
            processes: self.processes(socket.inode),
            ..Element::default()
        }
    }

    fn processes(&self, inode: u64) -> Option<ProcessesOf<'a>> {
        self.owners.map(|owners| ProcessesOf { owners, inode, extraprivacy: self.extraprivacy })
    }
}

/// Whether an address is one only together with an interface: `fe80::/10`.
fn is_of_one_link(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(address) if address.is_unicast_link_local())
}

/// The name of an interface; its number where it has none any more.
fn interface(findings: &Findings, number: u32) -> Option<&str> {
    findings.interfaces.get(&number).map(String::as_str)
}

/// What a result may show in extra privacy mode: everything but whom a connection goes to, and whose it is.
#[must_use]
pub fn masked_form(place: &[&str]) -> Showing {
    match place {
        // The asked value is the investigator's own.
        ["elements"] | ["elements", _] | ["elements", _, _] => Showing::Inside,
        [
            "elements",
            "localmac" | "localip",
            _,
            "localmacaddr" | "localaddr" | "namespace" | "interface" | "zone",
        ]
        | ["elements", "neighbormac" | "neighborip", _, "remotemacaddr" | "remoteaddr" | "namespace"] => {
            Showing::Anything
        }
        [
            "elements",
            "connectedip" | "listeningport" | "localport" | "unixsocket" | "rawsocket" | "packetsocket"
            | "crossview",
            _,
            key,
        ] => match *key {
            "localaddr" | "localport" | "remoteport" | "namespace" | "protocol" | "state" | "type"
            | "number" | "interface" | "evidence" => Showing::Anything,
            "remoteaddr" | "path" => Showing::Hidden,
            "processes" => Showing::Inside,
            _ => Showing::Nothing,
        },
        ["elements", _, _, "processes", "command"] => Showing::Hidden,
        ["statistics"] => Showing::Inside,
        [
            "statistics",
            "examined" | "exectime" | "totalhits" | "backend" | "namespaces" | "othernamespaces",
        ] => Showing::Unnamed,
        ["statistics", "othernamespacesunknown"] => Showing::Hidden,
        ["errors"] => Showing::Unnamed,
        _ => Showing::Nothing,
    }
}

/// A port; 0 is none.
fn port(port: u16) -> Option<u16> {
    Some(port).filter(|port| *port != 0)
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
                "the descriptors of {} processes cannot be read: {}",
                owners.hidden,
                vigie_host::tracing_hint()
            ));
        }
        for pid in &owners.unresponsive {
            problems.push(format!("process {pid} does not respond: its sockets are told without it"));
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
    use crate::namespaces::Elsewhere;
    use crate::processes::Process;
    use crate::socket::{Endpoint, Protocol, Socket};

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
        Outcome { namespaces: vec![findings], ..Outcome::default() }
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
                "coverage": {"complete": true, "examined": 0, "not_examined": []},
            })
        );
    }

    #[test]
    fn what_is_not_known_of_other_namespaces_and_users_is_said() {
        let parameters = parameters(json!({"connectedip": ["10.0.0.2"], "user": ["nosuchuser"]}));
        let mut outcome = outcome(Vec::new());
        outcome.elsewhere = Elsewhere { known: 0, unknown: Some("a process does not respond".to_owned()) };

        let result = |private| json_of(&answer(&parameters, &outcome, None, private, Duration::ZERO));

        let open = result(false);
        assert_eq!(open["statistics"]["othernamespaces"], Value::Null, "{open}");
        assert_eq!(open["statistics"]["othernamespacesunknown"], "a process does not respond");
        assert_eq!(open["coverage"]["not_examined"][0]["what"], "sockets of the user \"nosuchuser\"");
        let masked = result(true).to_string();
        assert!(!masked.contains("respond") && !masked.contains("nosuchuser"), "{masked}");
    }

    #[test]
    fn without_a_question_nothing_is_known() {
        let (nothing, outcome) = (parameters(json!({})), outcome(Vec::new()));

        let result = answer(&nothing, &outcome, None, false, Duration::ZERO);

        assert!(result.success && result.is_not_known(), "{result:?}");
        assert!(result.coverage.unwrap().not_examined[0].why.contains("no search parameter"));
    }

    #[test]
    fn what_could_not_be_read_makes_absence_unknown() {
        let asked = parameters(json!({"listeningport": ["22"]}));
        let mut outcome = outcome(Vec::new());
        outcome.problems.push("2 network namespaces could not be entered".to_owned());

        assert!(answer(&asked, &outcome, None, false, Duration::ZERO).is_not_known());
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
    fn the_agents_check_passes_masked_answers_and_refuses_others() {
        let parameters = parameters(json!({"connectedip": ["10.0.0.0/8", "10.9.9.9"], "namespaces": true}));
        let outcome = outcome(vec![connection([10, 0, 0, 2].into())]);
        let process =
            Process { pid: 7, user: Some("ann".to_owned()), command: "vi".to_owned(), ..Process::default() };
        let owners = Owners::new([(process, vec![1])]);
        let check = |owners, extraprivacy| {
            let result = answer(&parameters, &outcome, owners, extraprivacy, Duration::ZERO);
            vigie_sdk::privacy::check(&result, masked_form).err().map(|unmasked| unmasked.place)
        };

        assert_eq!((check(None, true), check(Some(&owners), true)), (None, None));
        // The asked value has dots of its own, so it is not told.
        assert_eq!(check(None, false).as_deref(), Some("elements.connectedip.….remoteaddr"));
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
        let process = Process {
            pid: u32::MAX,
            uid: Some(u32::MAX),
            user: Some("u".repeat(32)),
            command: "\u{1}".repeat(15),
            executable: Some("\u{1}".repeat(4_096)),
            container: Some("c".repeat(255)),
        };
        let owners = Owners::new([(process.clone(), vec![1]), (process, vec![1])]);
        let longest: IpAddr = "2001:2001:2001:2001:2001:2001:2001:2001".parse().unwrap();
        let element = Element {
            local_hardware: Some("02:77:00:00:00:01"),
            remote_hardware: Some("02:77:00:00:00:02"),
            local_address: Some(longest),
            local_port: Some(u16::MAX),
            remote_address: Some(Shown::Address(longest)),
            remote_port: Some(u16::MAX),
            namespace: Some("net:[4026531840]"),
            protocol: Some("packet"),
            state: Some(State::Established),
            uid: Some(u32::MAX),
            kind: Some("seqpacket"),
            path: Some("\\x00\\x00"),
            number: Some(u16::MAX),
            interface: Some("enp0s31f6np0d15"),
            zone: Some("enp0s31f6np0d15"),
            evidence: Some(View::Descriptors.evidence()),
            other_state: None,
            processes: Some(ProcessesOf { owners: &owners, inode: 1, extraprivacy: false }),
        };

        let text = serde_json::to_string(&element).unwrap();

        assert!(text.len() <= element.bytes_at_most(), "{} of {}", text.len(), element.bytes_at_most());
    }
}
