use serde_json::json;
use serde_json::value::to_raw_value;
use vigie_sdk::Query;

use super::*;
use crate::socket::{Endpoint, Protocol, State};

/// A source that shows what it is told to.
struct Told(Vec<Result<Socket, ()>>);

impl SocketSource for Told {
    fn read(
        &mut self,
        wanted: &Wanted<'_>,
        each: &mut dyn FnMut(&Socket) -> ControlFlow<()>,
    ) -> Result<u64, SourceError> {
        for told in &self.0 {
            let Ok(socket) = told else { return Err(SourceError::Netlink(NetlinkError::Disturbed)) };
            if socket.protocol == wanted.protocol
                && wanted.states.contains(socket.state)
                && each(socket).is_break()
            {
                break;
            }
        }
        Ok(0)
    }
}

const TCP: Wanted<'_> = Wanted { protocol: Protocol::Tcp, states: States::ALL, peers: &[] };
const UDP: Wanted<'_> = Wanted { protocol: Protocol::Udp, states: States::ALL, peers: &[] };

fn endpoint(text: &str) -> Endpoint {
    let address: std::net::SocketAddr = text.parse().unwrap();
    Endpoint::new(address.ip(), address.port())
}

fn socket(protocol: Protocol, state: State, local: &str, remote: &str, inode: u64) -> Result<Socket, ()> {
    Ok(Socket {
        protocol,
        state,
        local: endpoint(local),
        remote: endpoint(remote),
        inode,
        uid: 0,
        interface: 0,
    })
}

fn parameters(value: serde_json::Value) -> Parameters {
    Parameters::from_query(&Query::new(Some(to_raw_value(&value).unwrap()))).unwrap()
}

fn found(
    parameters: &Parameters,
    wanted: &Wanted<'_>,
    told: &[Result<Socket, ()>],
) -> Vec<(Kind, usize, u64)> {
    let findings = search_source(parameters, &mut Told(told.to_vec()), wanted, &|| false).unwrap();
    findings
        .hits
        .iter()
        .map(|hit| match &hit.matched {
            Match::Socket(socket) => (hit.kind, hit.place, socket.inode),
            other => unreachable!("{other:?} among sockets"),
        })
        .collect()
}

#[test]
fn only_sockets_with_a_peer_are_connected_and_only_open_ones_listen() {
    let parameters = parameters(json!({"connectedip": ["0.0.0.0/0"], "listeningport": ["80", "53"]}));
    let none = "0.0.0.0:0";
    let told = [
        socket(Protocol::Tcp, State::Listening, "0.0.0.0:80", none, 1),
        socket(Protocol::Tcp, State::Established, "10.0.0.1:80", "10.0.0.2:5000", 2),
        socket(Protocol::Tcp, State::TimeWait, "10.0.0.1:80", "10.0.0.2:5001", 0),
        socket(Protocol::Tcp, State::Unconnected, "0.0.0.0:80", none, 3),
        socket(Protocol::Udp, State::Unconnected, "0.0.0.0:53", none, 4),
        socket(Protocol::Udp, State::Established, "10.0.0.1:53", "10.0.0.2:53", 5),
    ];

    assert_eq!(
        found(&parameters, &TCP, &told),
        [(Kind::ListeningPort, 0, 1), (Kind::ConnectedIp, 0, 2), (Kind::ConnectedIp, 0, 0)]
    );
    assert_eq!(found(&parameters, &UDP, &told), [(Kind::ListeningPort, 1, 4), (Kind::ConnectedIp, 0, 5)]);
}

#[test]
fn a_socket_that_is_shown_twice_is_found_once_for_each_value() {
    let parameters = parameters(json!({"connectedip": ["10.0.0.2", "10.0.0.0/8"], "listeningport": ["80"]}));
    let told = [
        socket(Protocol::Tcp, State::Established, "10.0.0.1:80", "10.0.0.2:5000", 2),
        // While the table was read the connection was closed.
        socket(Protocol::Tcp, State::TimeWait, "10.0.0.1:80", "10.0.0.2:5000", 0),
        // These two share a port.
        socket(Protocol::Tcp, State::Listening, "0.0.0.0:80", "0.0.0.0:0", 7),
        socket(Protocol::Tcp, State::Listening, "0.0.0.0:80", "0.0.0.0:0", 8),
        socket(Protocol::Tcp, State::Listening, "0.0.0.0:80", "0.0.0.0:0", 7),
    ];

    let mut found = found(&parameters, &TCP, &told);
    found.sort_unstable();

    assert_eq!(
        found,
        [
            (Kind::ConnectedIp, 0, 2),
            (Kind::ConnectedIp, 1, 2),
            (Kind::ListeningPort, 0, 7),
            (Kind::ListeningPort, 0, 8)
        ]
    );
}

#[test]
fn many_namespaces_together_keep_no_more_than_one_may() {
    let hit = Hit {
        kind: Kind::LocalIp,
        place: 0,
        matched: Match::Address(Own { what: [10, 0, 0, 1].into(), interface: 1 }),
    };
    let mut progress = Progress::default();

    for _ in 0..3 {
        let hits = vec![hit.clone(); MAX_HITS / 2 + 1];
        progress.add(Findings { total_hits: hits.len() as u64, hits, ..Findings::default() });
    }

    assert_eq!(progress.findings.iter().map(|findings| findings.hits.len()).sum::<usize>(), MAX_HITS);
    assert!(progress.findings.iter().all(|findings| findings.total_hits > MAX_HITS as u64 / 2));
}

#[test]
fn namespaces_that_wait_behind_those_that_do_not_respond_are_named() {
    const COUNT: usize = MAX_THREADS + MAX_WAITING + 2;
    let (made, names) = mpsc::channel();
    let (at_work, works) = mpsc::channel();
    let ends = std::sync::RwLock::new(());
    let held = ends.write().unwrap();
    let so_far = SoFar::default();
    // Each thread is held before it has searched anything.
    let stop = || {
        let _ = at_work.send(());
        drop(ends.read());
        true
    };
    std::thread::scope(|scope| {
        for _ in 0..COUNT {
            let (made, ends) = (made.clone(), &ends);
            scope.spawn(move || {
                let own = nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).ok();
                let _ = made.send(own.and_then(|()| own_name().ok()));
                drop(ends.read());
            });
        }
        if (0..COUNT).any(|_| names.recv().unwrap().is_none()) {
            drop(held);
            return vigie_skipped::skipped("no network namespaces can be made");
        }
        let searching = scope.spawn(|| {
            search(
                &parameters(json!({"namespaces": true, "localip": ["127.0.0.1"]})),
                &Backend::Kernel,
                &stop,
                &so_far,
            );
        });
        let threads = std::thread::available_parallelism().map_or(1, usize::from).min(MAX_THREADS);
        (0..threads).for_each(|_| works.recv().unwrap());
        // The one for which there is no room is the last one.
        let began = jiff::Timestamp::now();
        while so_far.locked().searching.len() < threads + MAX_WAITING + 1
            || so_far.locked().looking_at.is_some()
        {
            assert!(jiff::Timestamp::now().duration_since(began).as_secs() < 300, "{:?}", so_far.locked());
            std::thread::yield_now();
        }

        let outcome = so_far.take();

        let named: BTreeSet<String> =
            outcome.namespaces.iter().skip(1).map(|one| one.namespace.clone()).collect();
        assert_eq!(named.len(), threads + MAX_WAITING + 1);
        // They may be those of others: what waits is held open, and so found again.
        let mut known = BTreeSet::new();
        find_others("", &|_| {}, &mut |namespace| {
            known.insert(namespace.name);
            ControlFlow::Continue(())
        });
        assert!(named.is_subset(&known), "{named:?} of {known:?}");
        assert_eq!(outcome.problems, ["stopped before all network namespaces were found"]);
        drop(held);
        searching.join().unwrap();
    });
}

#[test]
fn a_disturbed_table_is_read_again_from_its_beginning() {
    let parameters = parameters(json!({"connectedip": ["10.0.0.2"]}));
    let good = socket(Protocol::Tcp, State::Established, "10.0.0.1:80", "10.0.0.2:5000", 2);
    let mut attempts = vec![vec![good, Err(())], vec![good]].into_iter();

    let findings =
        undisturbed(|| search_source(&parameters, &mut Told(attempts.next().unwrap()), &TCP, &|| false));

    assert_eq!(findings.unwrap().total_hits, 1);
}

#[test]
fn a_source_that_fails_is_replaced_and_the_answer_says_so() {
    let parameters = parameters(json!({"connectedip": ["127.0.0.5"]}));
    let tables = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/vectors/netstat/default");
    let mut tables = ProcNet::below(tables);

    let findings = search_with_fallback(&parameters, &mut Told(vec![Err(())]), &mut tables, &TCP, &|| false);

    assert_eq!(findings.total_hits, 1);
    assert!(findings.fell_back);
    assert!(findings.problems[0].contains("tcp sockets were read from /proc/net"), "{findings:?}");
}

#[test]
fn what_neither_source_tells_is_said() {
    let parameters = parameters(json!({"connectedip": ["127.0.0.5"]}));
    let mut nowhere = ProcNet::below("/proc/thread-self/no-such-directory");

    let findings = search_with_fallback(&parameters, &mut Told(vec![Err(())]), &mut nowhere, &TCP, &|| false);

    assert!(findings.problems[0].contains("tcp sockets cannot be read"), "{findings:?}");
}

#[test]
fn a_search_that_is_stopped_keeps_what_it_has() {
    let parameters = parameters(json!({"connectedip": ["0.0.0.0/0"]}));
    let told: Vec<_> = (0..5000u16)
        .map(|port| socket(Protocol::Tcp, State::Established, "10.0.0.1:80", &format!("10.0.0.2:{port}"), 2))
        .collect();

    let findings = search_source(&parameters, &mut Told(told), &TCP, &|| true).unwrap();

    assert!(findings.stopped);
    assert_eq!(findings.total_hits, STOP_INTERVAL - 1);
}
