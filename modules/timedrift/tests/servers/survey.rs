//! Whole queries: which servers are asked, in which order, for how long, and what is said of them.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use serde_json::value::to_raw_value;
use serde_json::{Value, json};
use tempfile::TempDir;
use vigie_sdk::{ModuleResult, Query};
use vigie_timedrift::daemons::Daemons;
use vigie_timedrift::survey::Means;
use vigie_timedrift::{DEFAULT_FALLBACK, Host, answer};

use crate::server::{CEILING, Server, TestClock, good, now};

const SECOND: i64 = 1_000_000_000;

/// A host with a file system, a name service and a clock of its own.
pub(crate) struct TestHost {
    files: TempDir,
    pub(crate) clock: Arc<TestClock>,
    names: HashMap<String, Vec<SocketAddr>>,
    fallback: Vec<String>,
}

impl TestHost {
    pub(crate) fn new() -> Self {
        Self {
            files: TempDir::new().unwrap(),
            clock: Arc::default(),
            names: HashMap::new(),
            fallback: Vec::new(),
        }
    }

    pub(crate) fn file(self, path: &str, text: &str) -> Self {
        write(self.files.path(), path, text);
        self
    }

    pub(crate) fn name(mut self, name: &str, addresses: &[SocketAddr]) -> Self {
        self.names.insert(name.to_owned(), addresses.to_vec());
        self
    }

    pub(crate) fn fallback(mut self, hosts: &[&str]) -> Self {
        self.fallback = hosts.iter().map(|host| (*host).to_owned()).collect();
        self
    }

    /// A server whose clock is so far ahead of the host's.
    pub(crate) fn server(&self, ahead_nanoseconds: i64) -> Server {
        Server::ahead("127.0.0.1:0", Arc::clone(&self.clock) as _, ahead_nanoseconds)
    }

    pub(crate) fn host(&self) -> Host {
        let names = self.names.clone();
        let resolve = move |host: &str, port: u16| match (names.get(host), host.parse()) {
            (Some(addresses), _) => Ok(addresses.clone()),
            (None, Ok(address)) => Ok(vec![SocketAddr::new(address, port)]),
            (None, Err(_)) => Err(io::Error::new(io::ErrorKind::NotFound, "no such name")),
        };
        Host {
            root: self.files.path().to_owned(),
            fallback: self.fallback.clone(),
            means: Means { resolve: Arc::new(resolve), clock: Arc::clone(&self.clock) as _, port: 123 },
            daemons: no_daemons(),
        }
    }

    pub(crate) fn ask(&self, parameters: &Value) -> Told {
        Told::from(answer(&query(parameters), &self.host()))
    }
}

/// No daemon of the machine on which the tests run is asked.
pub(crate) fn no_daemons() -> Daemons {
    Daemons { chronyd: None, ntpd: None, system_bus: None }
}

pub(crate) fn write(root: &Path, path: &str, text: &str) {
    let path = root.join(path.trim_start_matches('/'));
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
}

pub(crate) fn query(parameters: &Value) -> Query {
    Query::new(Some(to_raw_value(parameters).unwrap()))
}

/// A result to look into.
#[derive(Debug)]
pub(crate) struct Told {
    pub(crate) found: bool,
    pub(crate) success: bool,
    pub(crate) elements: Value,
    pub(crate) statistics: Value,
    pub(crate) errors: Vec<String>,
    pub(crate) complete: bool,
}

impl From<ModuleResult> for Told {
    fn from(result: ModuleResult) -> Self {
        let read = |raw: Option<Box<serde_json::value::RawValue>>| {
            raw.map_or(Value::Null, |raw| serde_json::from_str(raw.get()).unwrap())
        };
        Self {
            found: result.foundanything,
            success: result.success,
            elements: read(result.elements),
            statistics: read(result.statistics),
            errors: result.errors.unwrap_or_default(),
            complete: result.coverage.is_none_or(|coverage| coverage.complete),
        }
    }
}

impl Told {
    pub(crate) fn hosts(&self) -> Vec<&str> {
        let asked = self.statistics["ntpstats"].as_array().map(Vec::as_slice).unwrap_or_default();
        asked.iter().map(|one| one["host"].as_str().unwrap()).collect()
    }

    pub(crate) fn last(&self) -> &Value {
        self.statistics["ntpstats"].as_array().unwrap().last().unwrap()
    }
}

/// Mounts a file system that never responds, in mounts of this thread's own.
fn hang(point: &Path) -> Option<File> {
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).ok()?;
    let device = File::options().read(true).write(true).open("/dev/fuse").ok()?;
    let mount = |arguments: &[&str]| {
        let stdin = Stdio::from(device.try_clone().ok()?);
        Command::new("mount").args(arguments).stdin(stdin).status().ok().filter(|status| status.success())
    };
    mount(&["--make-rprivate", "/"])?;
    let options = "fd=0,rootmode=40000,user_id=0,group_id=0";
    mount(&["-i", "-t", "fuse", "-o", options, "hung", point.to_str()?])?;
    Some(device)
}

#[test]
fn a_configuration_that_does_not_respond_costs_only_the_servers_that_it_names() {
    let server = TestHost::new().server(0);
    let told = std::thread::scope(|scope| {
        let asked = scope.spawn(|| {
            let host = TestHost::new()
                .name("ntp", &[server.address])
                .file("/etc/ntp.conf", "server ntp\n")
                .file("/etc/chrony/chrony.conf", "server other\n");
            let device = hang(&host.files.path().join("etc/chrony"))?;
            let told = [json!("first"), json!("all")]
                .map(|whom| host.ask(&json!({"drift": "5s", "timeout": "6s", "ask": whom})));
            // Whoever waits for it is let go.
            drop(device);
            Some(told)
        });
        asked.join().unwrap()
    });

    let Some(told) = told else { return vigie_skipped::skipped("no FUSE file system can be mounted") };
    for told in told {
        assert!(told.success && told.elements["iswithindrift"] == true, "{told:?}");
        assert_eq!(told.hosts(), ["ntp"]);
        assert!(!told.complete, "{told:?}");
        assert!(
            told.errors.iter().any(|error| error.contains("/etc/chrony/chrony.conf does not respond")),
            "{told:?}"
        );
    }
}

#[test]
fn without_drift_nobody_is_asked() {
    let server = TestHost::new().server(0);
    let host = TestHost::new().name("ntp", &[server.address]).file("/etc/ntp.conf", "server ntp\n");

    for parameters in [json!({}), json!(null), json!({"drift": ""}), json!({"drift": null})] {
        let told = host.ask(&parameters);

        assert!(told.found && told.success, "{told:?}");
        assert_eq!(told.elements["hascheckeddrift"], false);
        assert_eq!(told.elements["localtime"], "2026-11-23T04:10:26Z");
        assert!(told.statistics["exectime"].is_string());
        // What the kernel says needs no packet.
        assert!(told.elements["kernel"]["synchronised"].is_boolean(), "{told:?}");
    }
    assert!(server.requests().is_empty());
}

#[test]
fn a_clock_is_told_to_be_ahead_or_behind_in_the_words_of_mig() {
    for (ahead, drift, found, sentence) in [
        (0, "5s", false, None),
        (4 * SECOND, "5s", false, None),
        (100 * SECOND, "5s", true, Some("Local time is behind ntp host ntp by 1m40s")),
        (-100 * SECOND, "5s", true, Some("Local time is ahead of ntp host ntp by 1m40s")),
        (100 * SECOND, "1m41s", false, None),
        (-40 * 31_557_600 * SECOND, "1h", true, Some("Local time is ahead of ntp host ntp by 350640h0m0s")),
    ] {
        let host = TestHost::new();
        let server = host.server(ahead);
        let host = host.name("ntp", &[server.address]).file("/etc/ntp.conf", "server ntp\n");

        let told = host.ask(&json!({"drift": drift}));

        assert!(told.success && told.errors.is_empty(), "{told:?}");
        assert_eq!(told.found, found, "{told:?}");
        assert_eq!(told.elements["hascheckeddrift"], true);
        assert_eq!(told.elements["iswithindrift"], !found);
        assert_eq!(told.elements["drifts"][0].as_str(), sentence, "{told:?}");
        assert_eq!(told.last()["reachable"], true);
        assert_eq!(told.last()["latency"], "0s");
        assert_eq!(told.last()["offset_nanoseconds"], ahead);
        assert_eq!(told.last()["source"], "/etc/ntp.conf");
        assert_eq!(told.last()["stratum"], 2);
    }
}

#[test]
fn the_time_of_the_server_is_told_in_the_right_era() {
    let host = TestHost::new();
    let server = host.server(10 * 365 * 86_400 * SECOND);
    let host = host.name("ntp", &[server.address]).file("/etc/ntp.conf", "server ntp\n");

    let told = host.ask(&json!({"drift": "5s"}));

    assert_eq!(told.last()["time"], "2036-11-20T04:10:26Z");
}

#[test]
fn only_what_the_error_bound_leaves_counts_against_the_clock() {
    // 200 ms off by a way back of 400 ms: the clock may well be right.
    let host = TestHost::new();
    let clock = Arc::clone(&host.clock);
    let server = Server::at(
        "127.0.0.1:0",
        Box::new(move |request| {
            let reply = good(request, &*clock, 0);
            clock.advance(Duration::from_millis(400));
            vec![reply.to_bytes()]
        }),
    );
    let host = host.name("ntp", &[server.address]).file("/etc/ntp.conf", "server ntp\n");

    let told = host.ask(&json!({"drift": "10ms"}));

    assert_eq!(told.elements["iswithindrift"], true, "{told:?}");
    assert!(told.last()["error_bound_nanoseconds"].as_i64().unwrap() >= 200_000_000);
}

#[test]
fn servers_are_asked_in_order_until_one_answers() {
    let host = TestHost::new();
    let closed = std::net::UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (right, never) = (host.server(0), host.server(0));
    let host = host
        .name("closed", &[closed])
        .name("right", &[right.address])
        .name("never", &[never.address])
        .fallback(&["never"])
        .file("/etc/ntp.conf", "server closed\nserver nosuch\nserver right\nserver never\n");

    let told = host.ask(&json!({"drift": "5s"}));

    assert_eq!(told.hosts(), ["closed", "nosuch", "right"]);
    assert!(told.success && !told.found, "{told:?}");
    let stats = &told.statistics["ntpstats"];
    assert_eq!(stats[0]["reachable"], false);
    assert_eq!(
        (stats[0]["time"].as_str(), stats[0]["latency"].as_str()),
        (Some("0001-01-01T00:00:00Z"), Some(""))
    );
    assert!(stats[0]["error"].as_str().unwrap().contains("cannot be reached: "), "{told:?}");
    assert!(stats[1]["error"].as_str().unwrap().contains("cannot be resolved: no such name"), "{told:?}");
    assert!(never.requests().is_empty());
}

#[test]
fn all_addresses_of_a_name_are_tried() {
    let host = TestHost::new();
    let (silent, right) = (Server::silent(), host.server(0));
    let host = host.name("ntp", &[silent.address, right.address]).file("/etc/ntp.conf", "server ntp\n");

    let told = host.ask(&json!({"drift": "5s", "timeout": "4s"}));

    assert_eq!(told.hosts(), ["ntp", "ntp"]);
    assert_eq!(told.last()["address"], right.address.to_string());
    assert!(told.success, "{told:?}");
}

#[test]
fn a_wrong_family_is_not_asked() {
    let host = TestHost::new();
    let server = host.server(0);
    let host = host.name("ntp", &[server.address]).file("/etc/ntp.conf", "server -6 ntp\nserver -4 ntp\n");

    let told = host.ask(&json!({"drift": "5s"}));

    assert_eq!(told.hosts(), ["ntp", "ntp"]);
    assert!(
        told.statistics["ntpstats"][0]["error"]
            .as_str()
            .unwrap()
            .contains("no address of the configured family")
    );
    assert_eq!(told.last()["reachable"], true);
}

#[test]
fn dead_servers_do_not_use_more_than_the_time_for_all() {
    let silent: Vec<Server> = (0..8).map(|_| Server::silent()).collect();
    let mut host = TestHost::new();
    let mut config = String::new();
    for (number, server) in silent.iter().enumerate() {
        host = host.name(&format!("silent{number}"), &[server.address]);
        config += &format!("server silent{number}\n");
    }
    let host = host.file("/etc/ntp.conf", &config);
    let began = now();

    let told = host.ask(&json!({"drift": "5s", "timeout": "600ms"}));

    assert!(began.elapsed() < CEILING / 3, "{:?}", began.elapsed());
    assert!(!told.success && !told.found, "{told:?}");
    assert_eq!(told.elements["hascheckeddrift"], false);
    assert_eq!(told.elements.get("iswithindrift"), None);
    assert_eq!(told.hosts().len(), 8, "{told:?}");
    assert!(told.errors[0].contains("silent0 at 127.0.0.1:"), "{told:?}");
    assert!(told.errors[7].contains("because the time had run out"), "{told:?}");
}

#[test]
fn a_silent_server_leaves_time_for_the_next() {
    let host = TestHost::new();
    let (silent, right) = (Server::silent(), host.server(0));
    let host = host
        .name("silent", &[silent.address])
        .name("right", &[right.address])
        .file("/etc/ntp.conf", "server silent\nserver right\n");

    let told = host.ask(&json!({"drift": "5s", "timeout": "4s"}));

    assert!(told.success, "{told:?}");
    assert_eq!(told.hosts(), ["silent", "right"]);
    assert_eq!(silent.requests().len(), 2, "asked once more, in case a packet was lost");
}

#[test]
fn a_name_service_that_never_answers_ends_with_the_deadline() {
    let (keep, forever) = mpsc::channel::<()>();
    let forever = Mutex::new(forever);
    let files = TestHost::new().file("/etc/ntp.conf", "server ntp\n");
    let mut host = files.host();
    host.means.resolve = Arc::new(move |_, _| {
        forever.lock().unwrap().recv().ok();
        Ok(Vec::new())
    });
    let began = now();

    let result = answer(&query(&json!({"drift": "5s", "timeout": "300ms"})), &host);

    assert!(began.elapsed() < CEILING / 3);
    assert!(!result.success);
    assert!(result.errors.unwrap()[0].contains("was not resolved within"));
    drop(keep);
}

#[test]
fn a_kiss_of_death_ends_a_server_but_not_a_pool() {
    for (keyword, expected) in [("server", vec!["a", "b"]), ("pool", vec!["a", "a"])] {
        let host = TestHost::new();
        let clock = Arc::clone(&host.clock);
        let denying = Server::at(
            "127.0.0.1:0",
            Box::new(move |request| {
                let mut reply = good(request, &*clock, 0);
                (reply.stratum, reply.leap_indicator, reply.reference_id) = (0, 3, *b"DENY");
                vec![reply.to_bytes()]
            }),
        );
        let (second, other) = (host.server(0), host.server(0));
        let host = host
            .name("a", &[denying.address, second.address])
            .name("b", &[denying.address, other.address])
            .file("/etc/ntp.conf", &format!("{keyword} a\nserver b\n"));

        let told = host.ask(&json!({"drift": "5s"}));

        assert_eq!(told.hosts(), expected);
        assert!(told.success, "{told:?}");
        assert_eq!(told.statistics["ntpstats"][0]["error"], "kod:DENY");
        assert_eq!(denying.requests().len(), 1, "never again, not even under another name");
    }
}

#[test]
fn the_fallback_list_is_last_and_can_be_empty_or_switched_off() {
    let host = TestHost::new();
    let server = host.server(0);
    let silent_host = TestHost::new();
    let host = host.name("last", &[server.address]).fallback(&["last", "not a host"]);

    let told = host.ask(&json!({"drift": "5s"}));
    assert!(told.success, "{told:?}");
    assert_eq!(told.last()["source"], "fallback");
    assert!(told.errors[0].contains("\"not a host\""), "{told:?}");

    let asked = server.requests().len();
    for (host, parameters) in
        [(&host, json!({"drift": "5s", "fallback": false})), (&silent_host, json!({"drift": "5s"}))]
    {
        let told = host.ask(&parameters);
        assert!(!told.success && told.hosts().is_empty(), "{told:?}");
        assert!(told.errors[0].contains("no time server is configured"), "{told:?}");
    }
    assert_eq!(server.requests().len(), asked);
}

#[test]
fn this_host_has_migs_fallback_list_unless_the_operator_says_otherwise() {
    // The environment of the tests is nobody's configuration.
    assert_eq!(std::env::var_os(vigie_timedrift::FALLBACK_VARIABLE), None);

    let host = Host::from_environment();

    assert_eq!(host.fallback, DEFAULT_FALLBACK);
    assert_eq!((host.root.as_path(), host.means.port), (Path::new("/"), 123));
}

#[test]
fn extra_privacy_masks_who_was_asked_and_where_that_is_written() {
    let host = TestHost::new();
    let server = host.server(100 * SECOND);
    let host = host
        .name("secret.example.org", &[server.address])
        .fallback(&["secret host"])
        .file("/etc/ntp.conf", "server secret-nosuch\nserver secret port 0\nserver secret.example.org\n");
    let mut query = query(&json!({"drift": "5s"}));
    let shown = answer(&query, &host.host());
    query.extraprivacy = true;

    let result = answer(&query, &host.host());

    assert_eq!(vigie_sdk::privacy::check(&result, vigie_timedrift::masked_form), Ok(()));
    assert!(vigie_sdk::privacy::check(&shown, vigie_timedrift::masked_form).is_err());

    let line = String::from_utf8(result.to_line()).unwrap();
    for secret in ["secret", "127.0.0.1", "ntp.conf"] {
        assert!(!line.contains(secret), "{secret}: {line}");
    }
    // That the clock is wrong, and by how much, is the answer.
    let told = Told::from(result);
    assert!(told.found && told.success);
    assert_eq!(told.elements["drifts"][0], "Local time is behind ntp host masked by 1m40s");
    assert_eq!(told.last()["host"], "masked");
    assert_eq!(told.errors.len(), 2, "{told:?}");
}

#[test]
fn wrong_parameters_are_refused_before_anything_is_sent() {
    let host = TestHost::new();
    let server = host.server(0);
    let host = host.name("ntp", &[server.address]).file("/etc/ntp.conf", "server ntp\n");

    for (parameters, expected) in [
        (json!({"drift": "5"}), "drift: time: missing unit in duration \"5\""),
        (json!({"drift": "-5s"}), "drift -5s is negative"),
        (json!({"drift": 5}), "invalid parameters"),
        (json!({"dirft": "5s"}), "unknown field `dirft`"),
        (json!({"drift": "5s", "timeout": "0s"}), "timeout 0s must be more than 0s and at most 1m0s"),
        (json!({"drift": "5s", "timeout": "2m"}), "timeout 2m0s must be more than 0s and at most 1m0s"),
        (json!({"drift": "5s", "fallback": ["a"]}), "invalid parameters"),
        (json!(["5s"]), "invalid parameters"),
    ] {
        let told = host.ask(&parameters);

        assert!(!told.success && !told.found, "{told:?}");
        assert!(told.errors[0].contains(expected), "{told:?}");
    }
    assert!(server.requests().is_empty());
}

#[test]
fn a_few_milliseconds_of_loopback_do_not_make_a_right_clock_wrong() {
    let host = TestHost::new();
    let server = Server::ahead("127.0.0.1:0", Arc::new(vigie_timedrift::client::HostClock), 0);
    let files = host.name("ntp", &[server.address]).file("/etc/ntp.conf", "server ntp\n");
    let mut host = files.host();
    host.means.clock = Arc::new(vigie_timedrift::client::HostClock);

    // No tolerance at all: the error bound alone must hold what the machine adds.
    let told = Told::from(answer(&query(&json!({"drift": "0s", "timeout": "30s"})), &host));

    assert_eq!(told.elements["iswithindrift"], true, "{told:?}");
}

#[test]
fn without_a_timeout_dead_servers_take_five_seconds_together() {
    let silent: Vec<Server> = (0..3).map(|_| Server::silent()).collect();
    let mut host = TestHost::new().file("/etc/ntp.conf", "server a\nserver b\nserver c\n");
    for (name, server) in ["a", "b", "c"].into_iter().zip(&silent) {
        host = host.name(name, &[server.address]);
    }
    let began = now();

    let told = host.ask(&json!({"drift": "5s"}));

    let took = began.elapsed();
    assert!((Duration::from_secs(5)..Duration::from_secs(10)).contains(&took), "{took:?}");
    assert!(!told.success, "{told:?}");
    assert!(silent.iter().all(|server| server.requests().len() == 2), "each was asked, and once more");
}
