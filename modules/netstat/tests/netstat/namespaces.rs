//! Real network namespaces, made by this test and removed by it also when it fails.

use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::process::Command;
use std::sync::mpsc;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde_json::{Value, json};

use crate::{ask, elements};

/// A namespace under `/run/netns` in which no process is.
struct Netns {
    name: String,
}

impl Netns {
    fn new(part: &str) -> Self {
        let netns = Self { name: format!("vigie-test-{}-{part}", std::process::id()) };
        ip(&["netns", "add", &netns.name]);
        netns.ip(&["link", "set", "lo", "up"]);
        netns
    }

    /// Runs ip(8) in the namespace.
    fn ip(&self, arguments: &[&str]) {
        ip(&[&["-n", &self.name], arguments].concat());
    }

    fn path(&self) -> String {
        format!("/run/netns/{}", self.name)
    }

    /// What the kernel calls it.
    fn kernel_name(&self) -> String {
        format!("net:[{}]", std::fs::metadata(self.path()).unwrap().ino())
    }

    /// Runs `work` on a thread in the namespace that then ends; what it opens stays in the namespace.
    fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            scope
                .spawn(|| {
                    let netns = std::fs::File::open(self.path()).unwrap();
                    move_into_link_name_space(netns.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
                    work()
                })
                .join()
                .unwrap()
        })
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        // Nobody is there to be told.
        Command::new("ip").args(["netns", "del", &self.name]).output().ok();
    }
}

fn ip(arguments: &[&str]) {
    let output = Command::new("ip").args(arguments).output().unwrap();
    assert!(output.status.success(), "ip {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Why namespaces cannot be made here; `None` when they can.
fn unable(probe: &str) -> Option<String> {
    let name = format!("vigie-test-{}-probe-{probe}", std::process::id());
    match Command::new("ip").args(["netns", "add", &name]).output() {
        Err(error) => Some(format!("ip(8) does not run: {error}")),
        Ok(output) if !output.status.success() => {
            Some(format!("no namespaces: {}", String::from_utf8_lossy(&output.stderr).trim()))
        }
        Ok(_) => {
            Command::new("ip").args(["netns", "del", &name]).output().ok();
            None
        }
    }
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// The elements of one value, without what is ours.
fn of_mig(result: &Value, kind: &str, asked: &str) -> Vec<Value> {
    let mut elements = elements(result, kind, asked).to_vec();
    for element in &mut elements {
        element
            .as_object_mut()
            .unwrap()
            .retain(|key, _| !["protocol", "state", "interface"].contains(&key.as_str()));
    }
    elements.sort_by_key(Value::to_string);
    elements
}

#[test]
fn what_two_namespaces_say_to_each_other_is_found_in_both() {
    if let Some(why) = unable("veth") {
        return vigie_skipped::skipped(why);
    }
    let (left, right) = (Netns::new("left"), Netns::new("right"));
    left.ip(&["link", "add", "veth0", "type", "veth", "peer", "name", "veth0", "netns", &right.name]);
    for (netns, number) in [(&left, 1), (&right, 2)] {
        netns.ip(&["link", "set", "veth0", "address", &format!("02:77:01:00:00:0{number}")]);
        netns.ip(&["address", "add", &format!("10.77.9.{number}/24"), "dev", "veth0"]);
        netns.ip(&["address", "add", &format!("fd77:9::{number}/64"), "dev", "veth0", "nodad"]);
        netns.ip(&["link", "set", "veth0", "up"]);
    }
    let (listener, listener6) = right.run(|| {
        let listener = TcpListener::bind(("10.77.9.2", 0)).unwrap();
        (listener, TcpListener::bind("[fd77:9::2]:0").unwrap())
    });
    let (port, port6) = (listener.local_addr().unwrap().port(), listener6.local_addr().unwrap().port());
    let (_client, client_address, _client6) = left.run(|| {
        let client = TcpStream::connect(SocketAddr::new(address("10.77.9.2"), port)).unwrap();
        let client6 = TcpStream::connect(SocketAddr::new(address("fd77:9::2"), port6)).unwrap();
        let client_address = client.local_addr().unwrap();
        (client, client_address, client6)
    });
    let _servers = (listener.accept().unwrap(), listener6.accept().unwrap());
    let port_text = port.to_string();

    let result = ask(&json!({
        "connectedip": ["10.77.9.0/24", "fd77:9::/64"], "listeningport": [port_text],
        "neighborip": ["10.77.9.1", "fd77:9::2"], "neighbormac": ["^02:77:01:00:00:01$"],
        "localip": ["10.77.9.0/24", "fe80::/10"], "localmac": ["02:77:01:00:00:02"], "namespaces": true,
    }));

    assert_eq!(result["success"], json!(true), "{result}");
    let (left_name, right_name) = (left.kernel_name(), right.kernel_name());
    let mut expected = vec![
        json!({"localaddr": "10.77.9.1", "localport": client_address.port(), "remoteaddr": "10.77.9.2",
               "remoteport": port, "namespace": left_name}),
        json!({"localaddr": "10.77.9.2", "localport": port, "remoteaddr": "10.77.9.1",
               "remoteport": client_address.port(), "namespace": right_name}),
    ];
    expected.sort_by_key(Value::to_string);
    assert_eq!(of_mig(&result, "connectedip", "10.77.9.0/24"), expected);
    assert_eq!(elements(&result, "connectedip", "fd77:9::/64").len(), 2);
    assert_eq!(
        of_mig(&result, "listeningport", &port_text),
        [json!({"localaddr": "10.77.9.2", "localport": port, "namespace": right_name})]
    );
    let neighbour = |ip: &str, mac: &str, netns: &str| json!({"remotemacaddr": mac, "remoteaddr": ip, "namespace": netns});
    assert_eq!(
        of_mig(&result, "neighborip", "10.77.9.1"),
        [neighbour("10.77.9.1", "02:77:01:00:00:01", &right_name)]
    );
    assert_eq!(
        of_mig(&result, "neighborip", "fd77:9::2"),
        [neighbour("fd77:9::2", "02:77:01:00:00:02", &left_name)]
    );
    assert!(of_mig(&result, "neighbormac", "^02:77:01:00:00:01$").contains(&neighbour(
        "fd77:9::1",
        "02:77:01:00:00:01",
        &right_name
    )));
    let own = elements(&result, "localip", "10.77.9.0/24");
    assert!(
        own.len() == 2 && own.iter().all(|own| own["interface"].is_string() && own["zone"].is_null()),
        "{own:?}"
    );
    let of_one_link = elements(&result, "localip", "fe80::/10");
    let is_right = |own: &&Value| own["namespace"] == right_name && own["localaddr"] == "fe80::77:1ff:fe00:2";
    assert_eq!(of_one_link.iter().find(is_right).unwrap()["zone"], "veth0", "{of_one_link:?}");
    assert_eq!(
        of_mig(&result, "localmac", "02:77:01:00:00:02"),
        [json!({"localmacaddr": "02:77:01:00:00:02", "namespace": right_name})]
    );
}

#[test]
fn sockets_of_other_namespaces_are_found_only_when_they_are_asked_for() {
    if let Some(why) = unable("hidden") {
        return vigie_skipped::skipped(why);
    }
    let netns = Netns::new("hidden");
    let listener = netns.run(|| TcpListener::bind("127.0.0.1:0").unwrap());
    let port = listener.local_addr().unwrap().port().to_string();

    let here = ask(&json!({"listeningport": [port]}));
    let everywhere = ask(&json!({"listeningport": [port], "namespaces": true, "processes": true}));

    let name = netns.kernel_name();
    let is_hidden = |element: &&Value| element["namespace"] == json!(name);
    assert_eq!(elements(&here, "listeningport", &port).iter().filter(is_hidden).count(), 0);
    let found: Vec<_> = elements(&everywhere, "listeningport", &port).iter().filter(is_hidden).collect();
    assert_eq!(found.len(), 1, "{everywhere}");
    // The numbers of sockets are the same in all namespaces.
    assert_eq!(found[0]["processes"][0]["pid"], json!(std::process::id()));
    assert!(everywhere["statistics"]["namespaces"].as_u64().unwrap() >= 2);
}

#[test]
fn a_namespace_in_which_there_is_only_one_thread_is_found() {
    let (ready, opened) = mpsc::channel();
    let (end, ended) = mpsc::channel::<()>();
    let thread = std::thread::spawn(move || {
        let socket = nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET)
            .map_err(|error| error.to_string())
            .map(|()| UdpSocket::bind("0.0.0.0:0").unwrap().local_addr().unwrap().port());
        let socket = socket.map(|port| (port, UdpSocket::bind(("0.0.0.0", port)).unwrap()));
        ready.send(socket.as_ref().map(|(port, _)| *port).map_err(Clone::clone)).unwrap();
        // The namespace lives until the test has seen it.
        ended.recv().unwrap_err();
    });
    let port = match opened.recv().unwrap() {
        Ok(port) => port,
        Err(why) => return vigie_skipped::skipped(why),
    };

    let own = std::fs::read_link("/proc/thread-self/ns/net").unwrap();
    let result = ask(&json!({"listeningport": [port.to_string()], "namespaces": true}));

    let found = elements(&result, "listeningport", &port.to_string()).iter().any(|element| {
        element["namespace"] != json!(own.to_str().unwrap()) && element["protocol"] == json!("udp")
    });
    assert!(found, "{result}");
    drop(end);
    thread.join().unwrap();
}

#[test]
fn the_thread_that_asks_stays_in_its_namespace() {
    let before = std::fs::read_link("/proc/thread-self/ns/net").unwrap();

    ask(&json!({"listeningport": ["1"], "namespaces": true}));

    assert_eq!(std::fs::read_link("/proc/thread-self/ns/net").unwrap(), before);
}

#[test]
fn how_many_other_namespaces_were_not_asked_about_is_in_the_answer() {
    if let Some(why) = unable("dummy") {
        return vigie_skipped::skipped(why);
    }
    let netns = Netns::new("elsewhere");
    let listener = netns.run(|| TcpListener::bind("0.0.0.0:0").unwrap());
    let port = listener.local_addr().unwrap().port().to_string();

    let here = ask(&json!({"listeningport": [port]}));
    let everywhere = ask(&json!({"listeningport": [port], "namespaces": true}));

    // The question was about the agent's own, and that is answered.
    assert_eq!(
        (&here["foundanything"], &here["coverage"]["complete"]),
        (&json!(false), &json!(true)),
        "{here}"
    );
    assert!(here["statistics"]["othernamespaces"].as_u64() >= Some(1), "{here}");
    assert_eq!(everywhere["foundanything"], true, "{everywhere}");
    assert_eq!(everywhere["statistics"]["othernamespaces"], Value::Null, "{everywhere}");
}
