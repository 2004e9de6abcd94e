//! Both backends and ss(8) about the same sockets of this process, which do not change meanwhile.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::ops::ControlFlow;
use std::os::fd::AsRawFd;
use std::process::Command;

use serde_json::json;
use vigie_netstat::proc_net::ProcNet;
use vigie_netstat::sock_diag::SockDiag;
use vigie_netstat::socket::{Protocol, SocketSource, State, States, Wanted};

use crate::{ask, elements};

/// A socket as all three tell it: protocol, state, ends, number.
type Row = (Protocol, String, (IpAddr, u16), (IpAddr, u16), u64);

/// Sockets of every kind, which stay until this is dropped.
struct Frozen {
    tcp: Vec<TcpStream>,
    listeners: Vec<TcpListener>,
    udp: Vec<UdpSocket>,
}

impl Frozen {
    fn new() -> Self {
        let mut frozen = Self { tcp: Vec::new(), listeners: Vec::new(), udp: Vec::new() };
        let ipv6 = TcpListener::bind("[::1]:0").is_ok();
        let places: &[(&str, &str)] = match ipv6 {
            // The last one is an IPv4 connection to an IPv6 socket.
            true => &[("127.0.0.1:0", "127.0.0.1"), ("[::1]:0", "::1"), ("[::]:0", "127.0.0.1")],
            false => &[("127.0.0.1:0", "127.0.0.1")],
        };
        for (listen, connect) in places {
            let listener = TcpListener::bind(listen).unwrap();
            let peer = SocketAddr::new(connect.parse().unwrap(), listener.local_addr().unwrap().port());
            for _ in 0..20 {
                frozen.tcp.push(TcpStream::connect(peer).unwrap());
                frozen.tcp.push(listener.accept().unwrap().0);
            }
            frozen.listeners.push(listener);
            let unconnected = UdpSocket::bind(listen).unwrap();
            let connected = UdpSocket::bind((peer.ip(), 0)).unwrap();
            connected.connect((peer.ip(), unconnected.local_addr().unwrap().port())).unwrap();
            frozen.udp.extend([unconnected, connected]);
        }
        frozen
    }

    /// The numbers of the sockets' files.
    fn inodes(&self) -> BTreeSet<u64> {
        let tcp = self.tcp.iter().map(AsRawFd::as_raw_fd);
        let listeners = self.listeners.iter().map(AsRawFd::as_raw_fd);
        let udp = self.udp.iter().map(AsRawFd::as_raw_fd);
        tcp.chain(listeners)
            .chain(udp)
            .map(|fd| {
                let link = std::fs::read_link(format!("/proc/self/fd/{fd}")).unwrap();
                let text = link.to_str().unwrap();
                text.strip_prefix("socket:[").unwrap().strip_suffix(']').unwrap().parse().unwrap()
            })
            .collect()
    }
}

/// What a source tells about these sockets; a socket that it tells twice is there twice.
fn told_by(source: &mut dyn SocketSource, inodes: &BTreeSet<u64>) -> Vec<Row> {
    let mut rows = Vec::new();
    for protocol in Protocol::ALL {
        let wanted = Wanted { protocol, states: States::ALL, peers: &[] };
        let left_out = source
            .read(&wanted, &mut |socket| {
                if inodes.contains(&socket.inode) {
                    let end = |end: vigie_netstat::socket::Endpoint| (end.address, end.port);
                    let state = serde_json::to_string(&socket.state).unwrap();
                    rows.push((socket.protocol, state, end(socket.local), end(socket.remote), socket.inode));
                }
                ControlFlow::Continue(())
            })
            .unwrap();
        assert_eq!(left_out, 0);
    }
    rows.sort_unstable();
    rows
}

/// The same from the text of `ss -tuaneOH`.
fn told_by_ss(text: &str, inodes: &BTreeSet<u64>) -> Vec<Row> {
    let mut rows: Vec<Row> = text
        .lines()
        .filter_map(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let inode = fields.iter().find_map(|field| field.strip_prefix("ino:"))?.parse().ok()?;
            if !inodes.contains(&inode) {
                return None;
            }
            let protocol = if fields[0] == "tcp" { Protocol::Tcp } else { Protocol::Udp };
            let state = match fields[1] {
                "ESTAB" => State::Established,
                "LISTEN" => State::Listening,
                "UNCONN" => State::Unconnected,
                other => panic!("state {other}"),
            };
            let state = serde_json::to_string(&state).unwrap();
            Some((protocol, state, ss_end(fields[4], fields[5]), ss_end(fields[5], fields[4]), inode))
        })
        .collect();
    rows.sort_unstable();
    rows
}

/// An address as ss writes it; `*` stands for any address and any port, of the family of the other end or of
/// both families.
fn ss_end(text: &str, other: &str) -> (IpAddr, u16) {
    let (address, port) = text.rsplit_once(':').unwrap();
    let address = address.trim_start_matches('[').trim_end_matches(']');
    let address = match address.split('%').next().unwrap() {
        "*" if other.starts_with('[') || other.starts_with('*') => Ipv6Addr::UNSPECIFIED.into(),
        address => address.parse::<IpAddr>().unwrap().to_canonical(),
    };
    (address, port.parse().unwrap_or(0))
}

#[test]
fn both_backends_tell_the_same_of_sockets_that_stay() {
    let frozen = Frozen::new();
    let inodes = frozen.inodes();

    let mut by_kernel = told_by(&mut SockDiag {}, &inodes);
    let mut by_text = told_by(&mut ProcNet::of_this_thread(), &inodes);

    // The text tables may tell a socket twice while those of other processes come and go.
    by_text.dedup();
    assert_eq!(by_kernel, by_text);
    by_kernel.dedup_by_key(|row| row.4);
    assert_eq!(by_kernel.len(), inodes.len());
}

#[test]
fn ss_tells_the_same_of_sockets_that_stay() {
    let frozen = Frozen::new();
    let inodes = frozen.inodes();
    let ss = match Command::new("ss").arg("-tuaneOH").output() {
        Ok(output) if output.status.success() => output,
        other => return vigie_skipped::skipped(format_args!("ss does not run: {other:?}")),
    };

    let by_ss = told_by_ss(&String::from_utf8(ss.stdout).unwrap(), &inodes);

    assert_eq!(told_by(&mut SockDiag {}, &inodes), by_ss);
    assert_eq!(by_ss.len(), inodes.len());
}

#[test]
fn connections_and_listeners_are_found_with_their_process() {
    let frozen = Frozen::new();
    let port = frozen.listeners[0].local_addr().unwrap().port();
    let asked_port = port.to_string();

    let result =
        ask(&json!({"connectedip": ["127.0.0.1"], "listeningport": [asked_port], "processes": true}));

    let listening = elements(&result, "listeningport", &asked_port);
    assert_eq!(listening.len(), 1, "{listening:?}");
    assert_eq!(listening[0]["localaddr"], json!("127.0.0.1"));
    assert_eq!(listening[0]["state"], json!("listening"));
    let me = json!(std::process::id());
    let is_mine = |element: &&serde_json::Value| {
        element["processes"].as_array().unwrap().iter().any(|process| process["pid"] == me)
    };
    assert!(is_mine(&&listening[0]), "{listening:?}");
    let connected = elements(&result, "connectedip", "127.0.0.1");
    let to_listener = connected.iter().filter(|element| element["remoteport"] == json!(port)).filter(is_mine);
    assert_eq!(to_listener.count(), 20);
    // Those of the IPv6 listener are found by their IPv4 address, too.
    if let Some(mapped) = frozen.listeners.get(2) {
        let port = json!(mapped.local_addr().unwrap().port());
        let accepted = connected.iter().filter(|element| element["localport"] == port).filter(is_mine);
        assert_eq!(accepted.count(), 20);
    }
}

#[test]
fn an_end_that_waits_for_late_segments_is_found_without_a_process() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (mut server, client_address) = listener.accept().unwrap();
    drop(client);
    // The end of the stream says that the client has closed; it now waits for this side to close.
    assert_eq!(std::io::Read::read(&mut server, &mut [0]).unwrap(), 0);

    let result = ask(&json!({"connectedip": ["127.0.0.1"], "processes": true}));

    // Somebody else can have the same port towards another one.
    let (local, remote) = (json!(client_address.port()), json!(listener.local_addr().unwrap().port()));
    let element = elements(&result, "connectedip", "127.0.0.1")
        .iter()
        .find(|element| element["localport"] == local && element["remoteport"] == remote)
        .unwrap();
    // The acknowledgement of the last segment can be on its way.
    assert!(element["state"].as_str().unwrap().starts_with("fin-wait-"), "{element}");
    assert_eq!(element["processes"], json!([]));
}

#[test]
fn the_addresses_of_this_host_are_found() {
    let result = ask(&json!({"localip": ["127.0.0.0/8", "192.0.2.77"], "localmac": [".*"]}));

    assert_eq!(
        elements(&result, "localip", "127.0.0.0/8"),
        [json!({"localaddr": "127.0.0.1", "interface": "lo"})]
    );
    assert_eq!(result["elements"]["localip"]["192.0.2.77"], json!(null));
    // Loopback has no hardware address.
    assert!(elements(&result, "localmac", ".*").contains(&json!({"interface": "lo"})), "{result}");
}
