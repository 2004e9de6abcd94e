//! Sockets that stay are all found, each once, while others come and go as fast as this machine can do it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use rustix::net::sockopt::set_socket_linger;
use serde_json::json;

use crate::{ask, elements};

const STABLE: usize = 300;
const SEARCHES: usize = 20;

/// An address of the loopback network that no other test uses.
const ADDRESS: Ipv4Addr = Ipv4Addr::new(127, 77, 3, 1);

/// Opens and closes connections until it is told to end.
fn come_and_go(end: &AtomicBool, closed: &AtomicUsize) {
    let listener = TcpListener::bind((ADDRESS, 0)).unwrap();
    // What it accepts is reset when it is closed, which frees the port; otherwise there would soon be none left.
    set_socket_linger(&listener, Some(Duration::ZERO)).unwrap();
    let peer = listener.local_addr().unwrap();
    while !end.load(Ordering::Relaxed) {
        let client = TcpStream::connect(peer).unwrap();
        let (server, _) = listener.accept().unwrap();
        drop(server);
        drop(client);
        closed.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn no_socket_that_stays_is_missed_or_doubled_while_others_come_and_go() {
    let listener = TcpListener::bind((ADDRESS, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let stable: Vec<(TcpStream, TcpStream)> = (0..STABLE)
        .map(|_| (TcpStream::connect((ADDRESS, port)).unwrap(), listener.accept().unwrap().0))
        .collect();
    let expected: BTreeSet<u16> =
        stable.iter().map(|(client, _)| client.local_addr().unwrap().port()).collect();
    let (end, closed) = (AtomicBool::new(false), AtomicUsize::new(0));

    let results: Vec<serde_json::Value> = std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| come_and_go(&end, &closed));
        }
        let results = (0..SEARCHES).map(|_| ask(&json!({"connectedip": [ADDRESS.to_string()]}))).collect();
        end.store(true, Ordering::Relaxed);
        results
    });

    assert!(closed.load(Ordering::Relaxed) > SEARCHES);
    for result in &results {
        let mut ends: BTreeMap<String, usize> = BTreeMap::new();
        let mut found = BTreeSet::new();
        for element in elements(result, "connectedip", &ADDRESS.to_string()) {
            let (local, remote) = (&element["localport"], &element["remoteport"]);
            *ends.entry(format!("{local} {remote}")).or_default() += 1;
            if remote == &json!(port) {
                found.insert(u16::try_from(local.as_u64().unwrap()).unwrap());
            }
        }
        assert_eq!(expected.difference(&found).count(), 0, "missed");
        let doubled: Vec<_> = ends.iter().filter(|(_, count)| **count > 1).collect();
        assert!(doubled.is_empty(), "doubled: {doubled:?}");
    }
}
