//! chronyd as an independent judge: our client reads its clock, and it reads the clock of our server.

use std::io::{BufRead, BufReader, Read};
use std::net::UdpSocket;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use tempfile::TempDir;
use vigie_timedrift::client::{HostClock, ask};
use vigie_timedrift::daemons::Daemons;

use crate::server::{CEILING, Server, now, patience};

const SECOND: i64 = 1_000_000_000;

/// chronyd: the one that `VIGIE_CHRONYD` names, or where Debian has it, which is not on everybody's path.
pub(crate) fn chronyd() -> PathBuf {
    let named = std::env::var_os("VIGIE_CHRONYD").filter(|path| !path.is_empty());
    named.map_or_else(|| PathBuf::from("/usr/sbin/chronyd"), PathBuf::from)
}

/// Whether chronyd can be run here; otherwise says why not.
pub(crate) fn can_run() -> bool {
    if !chronyd().exists() {
        vigie_skipped::skipped("no chronyd; `make test` unpacks one, otherwise name it with VIGIE_CHRONYD");
        return false;
    }
    vigie_skipped::is_root()
}

/// A chronyd of our own, ended with the test.
pub(crate) struct Chronyd(pub(crate) Child);

impl Drop for Chronyd {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

#[test]
fn our_client_reads_the_clock_of_chronyd_right() {
    if !can_run() {
        return;
    }
    let directory = TempDir::new().unwrap();
    // Free now; nothing else takes it between here and chronyd but by bad luck.
    let address = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let configuration = directory.path().join("chrony.conf");
    let lines = [
        format!("port {}", address.port()),
        "bindaddress 127.0.0.1".to_owned(),
        "allow 127.0.0.0/8".to_owned(),
        "local stratum 3".to_owned(),
    ];
    let lines = lines.into_iter().chain(own_places(&directory)).collect::<Vec<_>>();
    std::fs::write(&configuration, lines.join("\n") + "\n").unwrap();
    // -x: never touches the host's clock.
    let child = Command::new(chronyd())
        .args(["-x", "-d", "-u", "root", "-f"])
        .arg(&configuration)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut chronyd = Chronyd(child);

    // Until it listens, loopback refuses at once.
    let began = now();
    let answer = loop {
        match ask(address, &HostClock, patience(CEILING)) {
            Ok(answer) => break answer,
            Err(error) if began.elapsed() > CEILING || chronyd.0.try_wait().unwrap().is_some() => {
                chronyd.0.kill().ok();
                let mut said = String::new();
                chronyd.0.stderr.take().unwrap().read_to_string(&mut said).unwrap();
                panic!("{error}; chronyd said: {said}");
            }
            Err(_) => std::thread::yield_now(),
        }
    };

    // Both read the same clock.
    let measurement = answer.measurement;
    let offset = measurement.offset.to_nanoseconds();
    let bound = measurement.error_bound.to_nanoseconds_up();
    assert!(offset.abs() <= bound, "{offset} ns, bound {bound} ns");
    assert!(bound < SECOND, "{measurement:?}");
    assert_eq!(measurement.stratum, 3);
}

#[test]
fn chronyd_and_our_client_agree_about_our_server() {
    if !can_run() {
        return;
    }
    for ahead in [37 * SECOND + 250_000_000, -1_234 * SECOND] {
        let server = Server::ahead("127.0.0.1:0", Arc::new(HostClock), ahead);

        let ours = ask(server.address, &HostClock, patience(CEILING)).unwrap();
        let theirs = chronyds_offset(&server);

        let offset = ours.measurement.offset.to_nanoseconds();
        let bound = ours.measurement.error_bound.to_nanoseconds_up();
        assert!((offset - ahead).abs() <= bound, "ours: {offset} ns, truth: {ahead} ns, bound: {bound} ns");
        // It says six digits after the point, and has a bound of its own, like ours.
        assert!((theirs - offset).abs() <= 2 * bound + 1_000, "ours: {offset} ns, theirs: {theirs} ns");
    }
}

#[test]
fn chronyd_tells_which_server_it_follows() {
    if !can_run() {
        return;
    }
    let directory = TempDir::new().unwrap();
    let server = Server::ahead("127.0.0.11:0", Arc::new(HostClock), 0);
    // Free now, as above.
    let commands = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let source =
        format!("server {} port {} minpoll -4 maxpoll -4", server.address.ip(), server.address.port());
    let _chronyd = Chronyd(
        Command::new(chronyd())
            .args(["-x", "-d", "-u", "root", &source, "port 0", "bindcmdaddress 127.0.0.1"])
            .args(own_places(&directory).into_iter().skip(1))
            .arg(format!("cmdport {}", commands.port()))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap(),
    );
    let daemons = Daemons { chronyd: Some(commands), ntpd: None, system_bus: None };

    let began = now();
    let selected = loop {
        match daemons.ask(patience(CEILING)) {
            Some(selected) if selected.server.is_some() => break selected,
            told => assert!(began.elapsed() < CEILING, "{told:?}"),
        }
    };

    assert_eq!((selected.daemon, selected.synchronised), ("chronyd", true));
    assert_eq!(selected.server, Some(server.address.ip()));
}

/// Configuration that keeps away from a chronyd that serves this machine.
pub(crate) fn own_places(directory: &TempDir) -> [String; 3] {
    let inside = |name: &str| directory.path().join(name).display().to_string();
    [
        "cmdport 0".to_owned(),
        format!("bindcmdaddress {}", inside("chronyd.sock")),
        format!("pidfile {}", inside("chronyd.pid")),
    ]
}

/// What `chronyd -Q` says of the server's clock, in nanoseconds ahead of the host's.
fn chronyds_offset(server: &Server) -> i64 {
    let address = server.address;
    let directory = TempDir::new().unwrap();
    let source = format!("server {} port {} iburst maxsamples 1", address.ip(), address.port());
    let mut chronyd = Chronyd(
        Command::new(chronyd())
            // -Q: measures, prints and ends without touching the clock.
            .args(["-Q", "-t", "30", "-u", "root", &source])
            .args(own_places(&directory))
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap(),
    );
    let lines: Vec<String> =
        BufReader::new(chronyd.0.stderr.take().unwrap()).lines().map(Result::unwrap).collect();
    // System clock wrong by 37.249988 seconds (ignored)
    let seconds: f64 = lines
        .iter()
        .find_map(|line| line.split_once("clock wrong by ")?.1.split(' ').next()?.parse().ok())
        .unwrap_or_else(|| panic!("chronyd measured nothing: {lines:#?}"));
    (seconds * 1e9).round() as i64
}
