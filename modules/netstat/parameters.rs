//! What an investigator may ask for, checked before anything runs.

use std::collections::HashSet;
use std::net::IpAddr;
use std::path::Path;

use regex::{Regex, RegexBuilder};
use serde_json::{Map, Value};
use vigie_host::AddressRange;
use vigie_host::users::Names;
use vigie_sdk::Query;

use crate::address::AddressSet;
use crate::processes::Process;

/// Most addresses or ports in one list; a list of indicators of compromise has tens of thousands.
const MAX_VALUES: usize = 65_536;

/// Most regular expressions in one list; each is tried on every hardware address.
const MAX_EXPRESSIONS: usize = 256;

/// Most memory of one compiled regular expression, in bytes. A hardware address needs a few thousand.
const MAX_EXPRESSION_BYTES: usize = 1 << 20;

/// What can be searched for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// The hardware addresses of this host's interfaces.
    LocalMac,
    /// The addresses of this host.
    LocalIp,
    /// The hardware addresses of hosts on the same networks.
    NeighborMac,
    /// The addresses of hosts on the same networks.
    NeighborIp,
    /// The peers of sockets.
    ConnectedIp,
    /// The ports of sockets that listen.
    ListeningPort,
    /// The local ports of sockets in any state.
    LocalPort,
    /// The names of Unix sockets.
    UnixSocket,
    /// The protocols of raw sockets.
    RawSocket,
    /// The interfaces of packet sockets.
    PacketSocket,
    /// Sockets that one interface of the kernel shows and another does not.
    CrossView,
}

impl Kind {
    /// All of them, in the order of an answer.
    pub const ALL: [Self; 11] = [
        Self::LocalMac,
        Self::LocalIp,
        Self::NeighborMac,
        Self::NeighborIp,
        Self::ConnectedIp,
        Self::ListeningPort,
        Self::LocalPort,
        Self::UnixSocket,
        Self::RawSocket,
        Self::PacketSocket,
        Self::CrossView,
    ];

    /// The name in parameters and answers.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::LocalMac => "localmac",
            Self::LocalIp => "localip",
            Self::NeighborMac => "neighbormac",
            Self::NeighborIp => "neighborip",
            Self::ConnectedIp => "connectedip",
            Self::ListeningPort => "listeningport",
            Self::LocalPort => "localport",
            Self::UnixSocket => "unixsocket",
            Self::RawSocket => "rawsocket",
            Self::PacketSocket => "packetsocket",
            Self::CrossView => "crossview",
        }
    }
}

/// The name of the parameter that searches every network namespace.
const NAMESPACES: &str = "namespaces";
/// The name of the parameter that asks for the processes of each socket.
const PROCESSES: &str = "processes";
/// The names of the parameters that say whose sockets are wanted.
const PROCESS: &str = "process";
const EXECUTABLE: &str = "executable";
const USER: &str = "user";
const CONTAINER: &str = "container";

/// Names of parameters that are no kind.
const OTHERS: [&str; 6] = [NAMESPACES, PROCESSES, PROCESS, EXECUTABLE, USER, CONTAINER];

/// The values of one kind and how to find them all at once.
#[derive(Debug, Clone, Default)]
pub struct Searches<T> {
    /// The values as they were asked for, each once.
    pub asked: Vec<String>,
    /// Finds the places in `asked` that match.
    pub matcher: T,
}

impl<T> Searches<T> {
    /// Whether this kind was not asked for.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.asked.is_empty()
    }
}

/// Whose sockets are wanted: of each list that is not empty, one must match.
#[derive(Debug, Clone, Default)]
pub struct OwnerFilter {
    process: Vec<Regex>,
    executable: Vec<Regex>,
    container: Vec<Regex>,
    user: Vec<u32>,
    /// Users who were asked for and whom this host does not know.
    pub(crate) unknown_users: Vec<String>,
}

impl OwnerFilter {
    /// Whether all are wanted.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.process.is_empty()
            && self.executable.is_empty()
            && self.container.is_empty()
            && self.user.is_empty()
    }

    /// Whether a process is one of those.
    #[must_use]
    pub fn matches(&self, process: &Process) -> bool {
        let one = |expressions: &[Regex], text: &str| {
            expressions.is_empty() || expressions.iter().any(|expression| expression.is_match(text))
        };
        one(&self.process, &process.command)
            && one(&self.executable, process.executable.as_deref().unwrap_or_default())
            && (self.container.is_empty()
                || process.container.as_ref().is_some_and(|container| one(&self.container, container)))
            && (self.user.is_empty() || process.uid.is_some_and(|uid| self.user.contains(&uid)))
    }
}

/// Finds texts.
#[derive(Debug, Clone, Default)]
pub struct TextMatcher(Vec<Regex>);

impl TextMatcher {
    /// Calls `found` with the place of each expression that matches.
    pub fn matches(&self, text: &str, mut found: impl FnMut(usize)) {
        for (place, expression) in self.0.iter().enumerate() {
            if expression.is_match(text) {
                found(place);
            }
        }
    }
}

/// Finds addresses.
#[derive(Debug, Clone, Default)]
pub struct AddressMatcher {
    ranges: Vec<AddressRange>,
    set: AddressSet,
    excluded: AddressSet,
}

impl AddressMatcher {
    /// Calls `found` with the place of each range that holds the address.
    pub fn matches(&self, address: IpAddr, found: impl FnMut(usize)) {
        let mut is_excluded = false;
        self.excluded.matches(address, |_| is_excluded = true);
        if !is_excluded {
            self.set.matches(address, found);
        }
    }

    /// The ranges by place.
    #[must_use]
    pub fn ranges(&self) -> &[AddressRange] {
        &self.ranges
    }
}

/// The ports from one to another, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct PortRange(u16, u16);

impl PortRange {
    /// Reads `80` or `8000-8999`.
    fn parse(text: &str) -> Option<Self> {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let range = Self(first.parse().ok()?, last.parse().ok()?);
        (range.0 <= range.1).then_some(range)
    }

    fn contains(self, port: u16) -> bool {
        (self.0..=self.1).contains(&port)
    }
}

/// Finds ports.
#[derive(Debug, Clone, Default)]
pub struct PortMatcher {
    /// Sorted, with the places in the list.
    ports: Vec<(u16, usize)>,
    /// Those of more than one port.
    ranges: Vec<(PortRange, usize)>,
    excluded: Vec<PortRange>,
}

impl PortMatcher {
    /// Calls `found` with each place where this port was asked for: `80` and `080` are two.
    pub fn matches(&self, port: u16, mut found: impl FnMut(usize)) {
        if self.excluded.iter().any(|range| range.contains(port)) {
            return;
        }
        for (_, place) in self.ranges.iter().filter(|(range, _)| range.contains(port)) {
            found(*place);
        }
        let first = self.ports.partition_point(|(other, _)| *other < port);
        for (_, place) in self.ports[first..].iter().take_while(|(other, _)| *other == port) {
            found(*place);
        }
    }
}

/// A query's parameters.
#[derive(Debug, Clone, Default)]
pub struct Parameters {
    /// See [`Kind::LocalMac`].
    pub local_mac: Searches<TextMatcher>,
    /// See [`Kind::LocalIp`].
    pub local_ip: Searches<AddressMatcher>,
    /// See [`Kind::NeighborMac`].
    pub neighbor_mac: Searches<TextMatcher>,
    /// See [`Kind::NeighborIp`].
    pub neighbor_ip: Searches<AddressMatcher>,
    /// See [`Kind::ConnectedIp`].
    pub connected_ip: Searches<AddressMatcher>,
    /// See [`Kind::ListeningPort`].
    pub listening_port: Searches<PortMatcher>,
    /// See [`Kind::LocalPort`].
    pub local_port: Searches<PortMatcher>,
    /// See [`Kind::UnixSocket`].
    pub unix_socket: Searches<TextMatcher>,
    /// See [`Kind::RawSocket`].
    pub raw_socket: Searches<PortMatcher>,
    /// See [`Kind::PacketSocket`].
    pub packet_socket: Searches<TextMatcher>,
    /// See [`Kind::CrossView`].
    pub cross_view: bool,
    /// Whose sockets are wanted.
    pub owners: OwnerFilter,
    /// Search every network namespace, not only that of the agent.
    pub namespaces: bool,
    /// Tell the processes of each socket.
    pub processes: bool,
}

impl Parameters {
    /// Reads the parameters of a query.
    ///
    /// # Errors
    /// Every problem, as a sentence that names the parameter.
    pub fn from_query(query: &Query) -> Result<Self, Vec<String>> {
        let mut given: Map<String, Value> = query.parse().map_err(|error| vec![error.to_string()])?;
        let mut reader = Reader { given: &mut given, problems: Vec::new() };
        let (user, unknown_users) = reader.users();
        let parameters = Self {
            local_mac: reader.hardware(Kind::LocalMac),
            local_ip: reader.addresses(Kind::LocalIp),
            neighbor_mac: reader.hardware(Kind::NeighborMac),
            neighbor_ip: reader.addresses(Kind::NeighborIp),
            connected_ip: reader.addresses(Kind::ConnectedIp),
            listening_port: reader.ports(Kind::ListeningPort),
            local_port: reader.ports(Kind::LocalPort),
            unix_socket: reader.texts(Kind::UnixSocket),
            raw_socket: reader.numbers(Kind::RawSocket, "an IP protocol", u8::MAX.into()),
            packet_socket: reader.texts(Kind::PacketSocket),
            cross_view: reader.boolean(Kind::CrossView.name()),
            owners: OwnerFilter {
                process: reader.expressions(PROCESS, false).1,
                executable: reader.expressions(EXECUTABLE, false).1,
                container: reader.expressions(CONTAINER, false).1,
                user,
                unknown_users,
            },
            namespaces: reader.boolean(NAMESPACES),
            processes: reader.boolean(PROCESSES),
        };
        let mut problems = reader.problems;
        if !parameters.owners.is_empty() && !SOCKETS.iter().any(|kind| !parameters.asked(*kind).is_empty()) {
            let kinds: Vec<&str> = SOCKETS.map(Kind::name).into();
            problems.push(format!(
                "{PROCESS}, {EXECUTABLE}, {USER} and {CONTAINER} only narrow a search; select sockets with {}",
                kinds.join(", ")
            ));
        }
        // A search that was misspelt must not look like one that found nothing.
        for name in given.keys() {
            let known: Vec<&str> = Kind::ALL.map(Kind::name).into_iter().chain(OTHERS).collect();
            problems.push(format!("unknown parameter {name:?}; known: {}", known.join(", ")));
        }
        if problems.is_empty() { Ok(parameters) } else { Err(problems) }
    }

    /// The values of this kind as they were asked for.
    #[must_use]
    pub fn asked(&self, kind: Kind) -> &[String] {
        match kind {
            Kind::LocalMac => &self.local_mac.asked,
            Kind::LocalIp => &self.local_ip.asked,
            Kind::NeighborMac => &self.neighbor_mac.asked,
            Kind::NeighborIp => &self.neighbor_ip.asked,
            Kind::ConnectedIp => &self.connected_ip.asked,
            Kind::ListeningPort => &self.listening_port.asked,
            Kind::LocalPort => &self.local_port.asked,
            Kind::UnixSocket => &self.unix_socket.asked,
            Kind::RawSocket => &self.raw_socket.asked,
            Kind::PacketSocket => &self.packet_socket.asked,
            Kind::CrossView => &[],
        }
    }

    /// Whether something was asked for.
    #[must_use]
    pub fn asks(&self) -> bool {
        self.cross_view || Kind::ALL.iter().any(|kind| !self.asked(*kind).is_empty())
    }

    /// Whether the processes of sockets must be known.
    #[must_use]
    pub(crate) fn wants_owners(&self) -> bool {
        self.processes || self.cross_view || !self.owners.is_empty()
    }
}

/// The kinds whose matches are sockets.
const SOCKETS: [Kind; 6] = [
    Kind::ConnectedIp,
    Kind::ListeningPort,
    Kind::LocalPort,
    Kind::UnixSocket,
    Kind::RawSocket,
    Kind::PacketSocket,
];

/// Takes the parameters one by one and collects what is wrong with them.
struct Reader<'a> {
    given: &'a mut Map<String, Value>,
    problems: Vec<String>,
}

impl Reader<'_> {
    fn hardware(&mut self, kind: Kind) -> Searches<TextMatcher> {
        let (asked, expressions) = self.expressions(kind.name(), true);
        Searches { asked, matcher: TextMatcher(expressions) }
    }

    fn texts(&mut self, kind: Kind) -> Searches<TextMatcher> {
        let (asked, expressions) = self.expressions(kind.name(), false);
        Searches { asked, matcher: TextMatcher(expressions) }
    }

    fn expressions(&mut self, name: &str, any_case: bool) -> (Vec<String>, Vec<Regex>) {
        self.list(name, MAX_EXPRESSIONS, |text| {
            RegexBuilder::new(text)
                .case_insensitive(any_case)
                .size_limit(MAX_EXPRESSION_BYTES)
                .build()
                .map_err(|error| format!("{text:?} is not a regular expression: {error}"))
        })
    }

    fn addresses(&mut self, kind: Kind) -> Searches<AddressMatcher> {
        let (asked, ranges) = self.list(kind.name(), MAX_VALUES, |text| {
            let (is_excluded, range) = excluded(text);
            AddressRange::parse(range)
                .map(|range| (is_excluded, range))
                .map_err(|error| format!("{text:?} is neither an address nor a CIDR: {error}"))
        });
        let (asked, ranges, excluded) = self.without_excluded(kind, asked, ranges);
        let (set, excluded) = (AddressSet::new(&ranges), AddressSet::new(&excluded));
        Searches { asked, matcher: AddressMatcher { ranges, set, excluded } }
    }

    /// Users by name or number, and those of whom this host does not know the number.
    fn users(&mut self) -> (Vec<u32>, Vec<String>) {
        if !self.given.contains_key(USER) {
            return Default::default();
        }
        let names = Names::of(Path::new("/"));
        let (asked, numbers) = self.list(USER, MAX_EXPRESSIONS, |user| {
            let number = names.asked_uid(user, &mut Vec::new());
            number.ok_or_else(|| format!("{user:?} is neither the name of a user nor a user ID"))
        });
        (numbers, asked.into_iter().filter(|user| names.uid(user).is_none()).collect())
    }

    fn ports(&mut self, kind: Kind) -> Searches<PortMatcher> {
        self.numbers(kind, "a port", u16::MAX)
    }

    fn numbers(&mut self, kind: Kind, what: &str, most: u16) -> Searches<PortMatcher> {
        let (asked, ports) = self.list(kind.name(), MAX_VALUES, |text| {
            let (is_excluded, range) = excluded(text);
            let range = PortRange::parse(range).filter(|range| range.1 <= most).ok_or_else(|| {
                let example = if most == u16::MAX { "8000-8999" } else { "0-255" };
                format!(
                    "{text:?} is not {what}: expected a number from 0 to {most}, or a range such as {example}"
                )
            })?;
            Ok((is_excluded, range))
        });
        let (asked, all, excluded) = self.without_excluded(kind, asked, ports);
        let (single, ranges): (Vec<_>, Vec<_>) =
            all.into_iter().zip(0..).partition(|(range, _)| range.0 == range.1);
        let mut ports: Vec<(u16, usize)> =
            single.into_iter().map(|(range, place)| (range.0, place)).collect();
        ports.sort_unstable();
        Searches { asked, matcher: PortMatcher { ports, ranges, excluded } }
    }

    /// Takes the values with an exclamation mark out: they narrow all others, and have no matches of their own.
    fn without_excluded<T>(
        &mut self,
        kind: Kind,
        asked: Vec<String>,
        values: Vec<(bool, T)>,
    ) -> (Vec<String>, Vec<T>, Vec<T>) {
        let (mut kept, mut wanted, mut excluded) = (Vec::new(), Vec::new(), Vec::new());
        for (text, (is_excluded, value)) in asked.into_iter().zip(values) {
            if is_excluded {
                excluded.push(value);
            } else {
                kept.push(text);
                wanted.push(value);
            }
        }
        if wanted.is_empty() && !excluded.is_empty() {
            self.problems.push(format!(
                "parameter {}: only exclusions are given; add a range to exclude from, such as 0.0.0.0/0 or 0-65535",
                kind.name()
            ));
        }
        (kept, wanted, excluded)
    }

    fn boolean(&mut self, name: &str) -> bool {
        match self.given.remove(name) {
            None | Some(Value::Null) => false,
            Some(Value::Bool(value)) => value,
            Some(other) => {
                self.problems
                    .push(format!("parameter {name}: expected true or false, found {}", shape(&other)));
                false
            }
        }
    }

    /// Reads a list of texts, without repetitions.
    fn list<T>(
        &mut self,
        name: &str,
        most: usize,
        read: impl Fn(&str) -> Result<T, String>,
    ) -> (Vec<String>, Vec<T>) {
        let values = match self.given.remove(name) {
            None | Some(Value::Null) => Vec::new(),
            Some(Value::Array(values)) => values,
            Some(other) => {
                self.problems
                    .push(format!("parameter {name}: expected a list of texts, found {}", shape(&other)));
                Vec::new()
            }
        };
        if values.len() > most {
            self.problems
                .push(format!("parameter {name}: {} values, at most {most} are allowed", values.len()));
            return Default::default();
        }
        let mut seen = HashSet::new();
        let mut asked = Vec::with_capacity(values.len());
        let mut matchers = Vec::with_capacity(values.len());
        for (place, value) in values.into_iter().enumerate() {
            let Value::String(text) = value else {
                self.problems
                    .push(format!("parameter {name}[{place}]: expected a text, found {}", shape(&value)));
                continue;
            };
            if !seen.insert(text.clone()) {
                continue;
            }
            match read(&text) {
                Ok(matcher) => {
                    asked.push(text);
                    matchers.push(matcher);
                }
                Err(problem) => self.problems.push(format!("parameter {name}[{place}]: {problem}")),
            }
        }
        (asked, matchers)
    }
}

/// Whether a value excludes, as `!10.0.0.0/8` and `not 10.0.0.0/8` do, and what.
fn excluded(text: &str) -> (bool, &str) {
    let rest = text.strip_prefix('!').or_else(|| text.strip_prefix("not "));
    rest.map_or((false, text), |rest| (true, rest.trim_start()))
}

/// What a value is, for a message.
fn shape(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(value) => value.to_string(),
        Value::Number(number) => format!("the number {number}"),
        Value::String(text) => format!("the text {text:?}"),
        Value::Array(_) => "a list".to_owned(),
        Value::Object(_) => "an object".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;
    use serde_json::value::to_raw_value;

    use super::*;

    fn read(parameters: &Value) -> Result<Parameters, Vec<String>> {
        Parameters::from_query(&Query::new(Some(to_raw_value(parameters).unwrap())))
    }

    fn places(matches: impl FnOnce(&mut dyn FnMut(usize))) -> Vec<usize> {
        let mut found = Vec::new();
        matches(&mut |place| found.push(place));
        found
    }

    #[test]
    fn ranges_of_ports_and_exclusions_narrow_a_search() {
        let parameters = read(&json!({
            "listeningport": ["0-1023", "22", "8080", "!80", "!100-200"], "connectedip": ["0.0.0.0/0", "not 10.0.0.0/8"],
        }))
        .unwrap();

        let ports = |port| places(|found| parameters.listening_port.matcher.matches(port, found));
        assert_eq!(parameters.listening_port.asked, ["0-1023", "22", "8080"]);
        assert_eq!([22, 80, 150, 201, 8080].map(ports), [vec![0, 1], vec![], vec![], vec![0], vec![2]]);
        let peers = |peer: &str| {
            places(|found| parameters.connected_ip.matcher.matches(peer.parse().unwrap(), found))
        };
        assert_eq!((peers("192.0.2.1"), peers("10.1.2.3")), (vec![0], vec![]));
        for wrong in [json!(["!22"]), json!(["9-8"]), json!(["1-"]), json!(["!"])] {
            assert!(read(&json!({"listeningport": wrong})).is_err(), "{wrong}");
        }
    }

    #[test]
    fn nothing_asked_is_a_valid_query() {
        for nothing in
            [json!({}), json!(null), json!({"localip": null, "namespaces": null, "connectedip": []})]
        {
            let parameters = read(&nothing).unwrap();

            assert!(Kind::ALL.iter().all(|kind| parameters.asked(*kind).is_empty()), "{nothing}");
        }
    }

    #[test]
    fn every_problem_names_its_parameter() {
        let problems = read(&json!({
            "localip": "127.0.0.1", "localmac": ["("], "connectedip": ["::1", "1.2.3.4/33"], "listeningport": [80, "70000"],
            "namespaces": "yes", "listenport": ["80"],
        }))
        .unwrap_err();

        for name in [
            "localip:",
            "localmac[0]:",
            "connectedip[1]:",
            "listeningport[0]:",
            "listeningport[1]:",
            "namespaces:",
        ] {
            let start = format!("parameter {name} ");
            assert!(problems.iter().any(|problem| problem.starts_with(&start)), "{name} in {problems:?}");
        }
        assert!(
            problems.iter().any(|problem| problem.contains("unknown parameter \"listenport\"")),
            "{problems:?}"
        );
        assert_eq!(problems.len(), 7, "{problems:?}");
    }

    #[test]
    fn names_may_have_any_case_and_values_are_asked_once() {
        let parameters = read(&json!({"ListeningPort": ["80", "080", "80", "+80", "0"]})).unwrap();

        assert_eq!(parameters.listening_port.asked, ["80", "080", "+80", "0"]);
        assert_eq!(places(|found| parameters.listening_port.matcher.matches(80, found)), [0, 1, 2]);
        assert_eq!(places(|found| parameters.listening_port.matcher.matches(0, found)), [3]);
    }

    #[test]
    fn the_case_of_a_hardware_address_does_not_matter() {
        let parameters =
            read(&json!({"neighbormac": ["02:77:AA"], "localmac": ["^02:77:[a-f]{2}"]})).unwrap();

        assert_eq!(places(|found| parameters.neighbor_mac.matcher.matches("02:77:aa:bb:cc:09", found)), [0]);
        assert_eq!(places(|found| parameters.local_mac.matcher.matches("02:77:AA:bb:cc:09", found)), [0]);
    }

    #[test]
    fn lists_and_expressions_are_bounded() {
        let too_many: Vec<String> = (0..=MAX_EXPRESSIONS).map(|number| number.to_string()).collect();

        assert!(read(&json!({"localmac": too_many})).unwrap_err()[0].contains("257 values, at most 256"));
        assert!(read(&json!({"localmac": ["((a{100}){100}){100}"]})).is_err());
    }

    #[test]
    fn numbers_and_users_that_nothing_can_have_are_refused() {
        for (parameters, problem) in [
            (json!({"rawsocket": ["256"]}), "\"256\" is not an IP protocol: expected a number from 0 to 255"),
            (json!({"rawsocket": ["1-300"]}), "is not an IP protocol"),
            (json!({"listeningport": ["0-65535"], "user": ["no/user"]}), "neither the name of a user nor"),
        ] {
            let problems = read(&parameters).unwrap_err();
            assert!(problems[0].contains(problem), "{problems:?}");
        }
        // A question is for many hosts, and on each it has an answer.
        let asked =
            read(&json!({"rawsocket": ["0-255"], "user": ["root", "nosuchuser", "4294967294"]})).unwrap();
        assert_eq!(asked.owners.user, [0, u32::MAX, u32::MAX - 1]);
        assert_eq!(asked.owners.unknown_users, ["nosuchuser"]);
    }

    proptest! {
        #[test]
        fn any_parameters_are_read_or_refused(text in "\\PC{0,40}", number in any::<i64>(), key in "[a-z]{0,14}") {
            let _ = read(&json!({"localmac": [&text], "connectedip": [&text], "listeningport": [&text]}));
            let bare_number = read(&json!({"listeningport": [number]}));
            prop_assert!(bare_number.is_err());
            let port = read(&json!({"listeningport": [number.to_string()]}));
            prop_assert_eq!(port.is_ok(), (0..=65535).contains(&number));
            let known = Kind::ALL.iter().any(|kind| kind.name() == key) || key == NAMESPACES || key == PROCESSES;
            prop_assert_eq!(read(&json!({&key: null})).is_ok(), known);
        }
    }
}
