//! Whose sockets, sockets of other kinds, interfaces, namespaces that only a descriptor holds, and views compared.

use std::io::IoSlice;
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixListener, UnixStream};

use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketType, sendmsg, socket,
};
use serde_json::{Value, json};

use crate::{ask, elements};

fn states(result: &Value, kind: &str, asked: &str) -> Vec<String> {
    let mut states: Vec<String> =
        elements(result, kind, asked).iter().map(|one| one["state"].as_str().unwrap().to_owned()).collect();
    states.sort_unstable();
    states
}

#[test]
fn a_local_port_finds_sockets_in_every_state_once() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let port = address.port().to_string();
    let _client = TcpStream::connect(address).unwrap();
    let _server = listener.accept().unwrap();

    let result = ask(&json!({"localport": [port], "listeningport": [port], "connectedip": ["127.0.0.0/8"]}));

    assert_eq!(states(&result, "localport", &port), ["established", "listening"]);
    assert_eq!(states(&result, "listeningport", &port), ["listening"]);
    let connected = elements(&result, "localport", &port).iter().find(|one| one["state"] == "established");
    assert_eq!(connected.unwrap()["remoteaddr"], "127.0.0.1");
}

#[test]
fn sockets_are_narrowed_by_whose_they_are() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port().to_string();
    let command = std::fs::read_to_string("/proc/self/comm").unwrap();
    let executable = std::env::current_exe().unwrap();
    let found = |filter: Value| {
        let mut parameters = json!({"listeningport": [port]});
        parameters.as_object_mut().unwrap().extend(filter.as_object().unwrap().clone());
        let result = ask(&parameters);
        assert_eq!(result["success"], true, "{result}");
        let found = elements(&result, "listeningport", &port).to_vec();
        assert_eq!(result["foundanything"], !found.is_empty(), "{result}");
        assert_eq!(result["statistics"]["totalhits"], found.len(), "{result}");
        found
    };

    let ours = found(json!({
        "process": ["^nobody$", format!("^{}$", regex::escape(command.trim_end()))],
        "executable": [format!("^{}$", regex::escape(executable.to_str().unwrap()))],
        "user": [rustix::process::getuid().as_raw().to_string()],
    }));
    assert_eq!(ours.len(), 1);
    assert_eq!(ours[0]["processes"][0]["executable"], executable.to_str().unwrap());

    for other in [
        json!({"process": ["^no such process$"]}),
        json!({"executable": ["^/no/such"]}),
        json!({"user": ["4294967294"]}),
        json!({"user": ["nosuchuser"]}),
        json!({"container": ["no such container"]}),
    ] {
        assert_eq!(found(other.clone()), Vec::<Value>::new(), "{other}");
    }
    let alone = ask(&json!({"process": ["x"]}));
    assert!(alone["errors"][0].as_str().unwrap().contains("only narrow a search"), "{alone}");
}

#[test]
fn unix_sockets_are_found_by_names_of_any_bytes() {
    let unique = format!("vigie-more-{}", std::process::id());
    let directory = std::env::temp_dir().join(&unique);
    std::fs::create_dir_all(&directory).unwrap();
    let path = directory.join("a b\n0001 01 5");
    let _listener = UnixListener::bind(&path).unwrap();
    let name = SocketAddr::from_abstract_name(format!("{unique}\0\n\u{1b}[2J").as_bytes()).unwrap();
    let _datagram = UnixDatagram::bind_addr(&name).unwrap();

    let result = ask(&json!({"unixsocket": [unique, "/no/such"], "processes": true}));
    std::fs::remove_dir_all(&directory).unwrap();

    let found = elements(&result, "unixsocket", &unique);
    let by_path =
        |path: &str| found.iter().find(|one| one["path"] == path).unwrap_or_else(|| panic!("{result}"));
    assert_eq!(found.len(), 2, "{result}");
    let listening = by_path(&path.to_str().unwrap().replace('\n', "\\x0a"));
    assert_eq!((&listening["type"], &listening["state"]), (&json!("stream"), &json!("listening")));
    assert_eq!(listening["processes"][0]["pid"], std::process::id());
    assert_eq!(by_path(&format!("@{unique}\\x00\\x0a\\x1b[2J"))["type"], "dgram");
    assert_eq!(result["elements"]["unixsocket"]["/no/such"], Value::Null);
    assert_eq!(result["coverage"]["complete"], true, "{result}");
}

#[test]
fn udp_lite_is_searched_as_udp_is() {
    let protocol = Some(rustix::net::ipproto::UDPLITE);
    let Ok(socket) = socket(AddressFamily::INET6, SocketType::DGRAM, protocol) else {
        return vigie_skipped::skipped("this kernel has no UDP-Lite");
    };
    rustix::net::bind(&socket, &std::net::SocketAddr::from((std::net::Ipv6Addr::LOCALHOST, 0))).unwrap();
    let address = std::net::SocketAddr::try_from(rustix::net::getsockname(&socket).unwrap()).unwrap();
    let port = address.port().to_string();

    for parameters in [json!({"listeningport": [port]}), json!({"localport": [port]})] {
        let result = ask(&parameters);
        let kind = parameters.as_object().unwrap().keys().next().unwrap();
        // Others can have the same number.
        let found = elements(&result, kind, &port).iter().find(|one| one["protocol"] == "udplite");
        assert_eq!(found.map(|found| &found["state"]), Some(&json!("unconnected")), "{result}");
    }
}

#[test]
fn a_bound_socket_that_does_not_listen_is_found_by_its_port_or_said_to_be_out_of_sight() {
    let socket = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    rustix::net::bind(&socket, &std::net::SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    let address = std::net::SocketAddr::try_from(rustix::net::getsockname(&socket).unwrap()).unwrap();
    let port = address.port().to_string();

    let result = ask(&json!({"localport": [port], "listeningport": [port]}));

    assert_eq!(result["elements"]["listeningport"][&port], Value::Null, "{result}");
    let out_of_sight = result["coverage"].to_string().contains("neither listen nor are connected");
    let found = result["elements"]["localport"][&port].as_array().map(Vec::len);
    assert_eq!(found, (!out_of_sight).then_some(1), "{result}");
}

#[test]
fn raw_and_packet_sockets_are_found_with_their_interface() {
    if !vigie_skipped::is_root() {
        return;
    }
    let Ok(_sniffer) = socket(AddressFamily::PACKET, SocketType::DGRAM, None) else {
        return vigie_skipped::skipped("no packet sockets");
    };
    let Ok(_raw) = socket(AddressFamily::INET, SocketType::RAW, Some(rustix::net::ipproto::ICMP)) else {
        return vigie_skipped::skipped("no raw sockets");
    };

    let result =
        ask(&json!({"rawsocket": ["0-255", "not 17"], "packetsocket": ["^any$"], "processes": true}));

    let ours = |kind: &str, asked: &str| {
        let pid = json!(std::process::id());
        let mut all = elements(&result, kind, asked).iter();
        all.find(|one| one["processes"][0]["pid"] == pid)
            .unwrap_or_else(|| panic!("{kind}: {result}"))
            .clone()
    };
    assert_eq!(ours("rawsocket", "0-255")["number"], 1);
    let sniffer = ours("packetsocket", "^any$");
    assert_eq!(
        (&sniffer["protocol"], &sniffer["type"], &sniffer["interface"]),
        (&json!("packet"), &json!("dgram"), &json!("any"))
    );
}

#[test]
fn a_socket_that_is_bound_to_an_interface_names_it() {
    if !vigie_skipped::is_root() {
        return;
    }
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let name = std::ffi::OsStr::new("lo").to_owned();
    nix::sys::socket::setsockopt(&socket, nix::sys::socket::sockopt::BindToDevice, &name).unwrap();
    let port = socket.local_addr().unwrap().port().to_string();

    let result = ask(&json!({"listeningport": [port]}));

    assert_eq!(elements(&result, "listeningport", &port)[0]["interface"], "lo", "{result}");
}

#[test]
fn views_that_agree_show_nothing_and_a_socket_without_a_process_is_evidence() {
    // While others come and go.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let stop = std::sync::atomic::AtomicBool::new(false);
    let (held, carrier) = UnixStream::pair().unwrap();
    let result = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                drop(TcpStream::connect(address));
                drop(listener.accept());
            }
        });
        // In no descriptor table, on its way in a message that nobody reads.
        let hidden = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = hidden.local_addr().unwrap().port();
        let descriptors = [hidden.as_fd()];
        let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut message = SendAncillaryBuffer::new(&mut space);
        assert!(message.push(SendAncillaryMessage::ScmRights(&descriptors)));
        sendmsg(&carrier, &[IoSlice::new(b"x")], &mut message, SendFlags::empty()).unwrap();
        drop(hidden);
        let result = ask(&json!({"crossview": true}));
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        (result, port)
    });
    let (result, port) = result;
    drop(held);

    assert_eq!(result["success"], true, "{result}");
    assert_eq!(
        (&result["elements"]["crossview"]["sock_diag"], &result["elements"]["crossview"]["proc_net"]),
        (&Value::Null, &Value::Null),
        "{result}"
    );
    if !vigie_skipped::is_root() {
        return;
    }
    let evidence = elements(&result, "crossview", "descriptors");
    let ours =
        evidence.iter().find(|one| one["localport"] == port).unwrap_or_else(|| panic!("{port}: {result}"));
    assert!(ours["evidence"].as_str().unwrap().contains("no process has it open"), "{ours}");
    let noise = evidence.iter().filter(|one| one["localport"] == address.port()).count();
    assert_eq!(noise, 0, "{result}");
}

#[test]
fn a_namespace_that_only_a_descriptor_holds_is_searched() {
    // In a namespace of its own, which the thread leaves with its end; descriptors of both stay.
    let opened = std::thread::spawn(|| {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).ok()?;
        let namespace = std::fs::File::open("/proc/thread-self/ns/net").unwrap();
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        Some((namespace, socket))
    })
    .join()
    .unwrap();
    let Some((_namespace, socket)) = opened else {
        return vigie_skipped::skipped("no network namespace can be made");
    };
    let port = socket.local_addr().unwrap().port().to_string();

    let result = ask(&json!({"listeningport": [port], "namespaces": true, "processes": true}));

    let found = elements(&result, "listeningport", &port);
    assert!(found.iter().any(|one| one["processes"][0]["pid"] == std::process::id()), "{result}");
}
