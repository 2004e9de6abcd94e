//! All servers asked at once: what they say together, who lies, and what the host's own daemon follows.

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use vigie_timedrift::answer;
use vigie_timedrift::daemons::Daemons;

use crate::server::{CEILING, Reply, Server, good, now};
use crate::survey::{TestHost, Told, query};

const SECOND: i64 = 1_000_000_000;

fn all(drift: &str) -> Value {
    json!({"drift": drift, "ask": "all"})
}

/// A host with these servers, named `s0` and so on in a file of its ntpd, each line with its options.
fn host_with(host: TestHost, servers: &[(&Server, &str)]) -> TestHost {
    let mut text = String::new();
    let mut host = host;
    for (number, (server, options)) in servers.iter().enumerate() {
        text += &format!("server s{number} {options}\n");
        host = host.name(&format!("s{number}"), &[server.address]);
    }
    host.file("/etc/ntp.conf", &text)
}

fn judgements(told: &Told) -> Vec<&str> {
    let all = told.statistics["ntpstats"].as_array().map(Vec::as_slice).unwrap_or_default();
    all.iter().map(|one| one["judgement"].as_str().unwrap_or_default()).collect()
}

/// A server that is right, changed by `change`.
fn changed(host: &TestHost, change: impl Fn(&mut Reply) + Send + 'static) -> Server {
    let clock = Arc::clone(&host.clock);
    Server::at(
        "127.0.0.1:0",
        Box::new(move |request| {
            let mut reply = good(request, &*clock, 0);
            change(&mut reply);
            vec![reply.to_bytes()]
        }),
    )
}

#[test]
fn two_servers_outvote_a_third_and_name_it() {
    let host = TestHost::new();
    let (right, liar, other) = (host.server(0), host.server(3_600 * SECOND), host.server(SECOND / 1_000));
    let host = host_with(host, &[(&liar, ""), (&right, ""), (&other, "")]);

    let told = host.ask(&all("5s"));

    assert!(told.success && !told.found && told.complete, "{told:?}");
    assert_eq!(told.elements["verdict"], "within");
    assert_eq!(told.elements["iswithindrift"], true);
    assert_eq!(judgements(&told), ["liar", "agrees", "agrees"]);
    assert_eq!(told.elements["liars"], json!([{"host": "s0", "address": liar.address.to_string()}]));
    assert_eq!((&told.elements["agreed"]["servers"], &told.elements["agreed"]["of"]), (&json!(2), &json!(3)));
    assert!(told.errors[0].contains("s0 at 127.0.0.1:"), "{told:?}");
    assert!(told.errors[0].contains("disagrees with 2 of 3 that agree"), "{told:?}");

    // MIG's own question still believes the first that answers.
    let first = host.ask(&json!({"drift": "5s"}));
    assert!(first.found, "{first:?}");
    assert_eq!(first.hosts(), ["s0"]);
    assert_eq!(first.elements.get("verdict"), None);
    assert_eq!(host.ask(&json!({"drift": "5s", "ask": "first"})).elements, first.elements);
}

#[test]
fn a_clock_that_all_contradict_is_outside() {
    let host = TestHost::new();
    let servers = [host.server(100 * SECOND), host.server(100 * SECOND)];
    let host = host_with(host, &[(&servers[0], ""), (&servers[1], "prefer")]);

    let told = host.ask(&all("5s"));

    assert!(told.success && told.found && told.complete, "{told:?}");
    assert_eq!(
        (&told.elements["verdict"], &told.elements["iswithindrift"]),
        (&json!("outside"), &json!(false))
    );
    let sentence = told.elements["drifts"][0].as_str().unwrap();
    assert!(
        sentence.starts_with("Local time is behind 2 of 2 time servers that agree by 1m39.9"),
        "{sentence}"
    );
    assert_eq!(told.last()["preferred"], true);
}

#[test]
fn what_nobody_can_know_is_not_clean() {
    let host = TestHost::new();
    let (right, liar) = (host.server(0), host.server(3_600 * SECOND));
    let host = host_with(host, &[(&right, ""), (&liar, "")]);

    let told = host.ask(&all("5s"));

    assert!(told.success && !told.found && !told.complete, "{told:?}");
    assert_eq!(
        (&told.elements["verdict"], told.elements.get("iswithindrift")),
        (&json!("cannot tell"), None)
    );
    assert_eq!(told.elements["why"], "no majority of the time servers agrees");
    assert_eq!(judgements(&told), ["no majority", "no majority"]);
    assert_eq!((&told.elements["hascheckeddrift"], &told.elements["liars"]), (&json!(false), &json!([])));

    // A tolerance that is smaller than what the servers know.
    let host = TestHost::new();
    let vague = changed(&host, |reply| reply.root_dispersion = 0x0000_8000);
    let told = host_with(host, &[(&vague, "")]).ask(&all("10ms"));
    assert_eq!(told.elements["verdict"], "cannot tell");
    assert_eq!(told.elements["why"], "the tolerance lies within the error of the agreeing time servers");
}

#[test]
fn a_server_that_is_farther_than_its_daemon_allows_decides_nothing() {
    for (path, text, limit_seconds) in [
        ("/etc/ntp.conf", "server ntp\n", 1.5),
        ("/etc/ntp.conf", "server ntp\ntos minsane 1 maxdist 4.5\n", 4.5),
        ("/etc/chrony/chrony.conf", "server ntp\n", 3.0),
        ("/etc/chrony.conf", "maxdistance 1.0\nserver ntp\n", 1.0),
        ("/etc/systemd/timesyncd.conf", "[Time]\nNTP=ntp\n", 5.0),
        ("/etc/systemd/timesyncd.conf", "[Time]\nNTP=ntp\nRootDistanceMaxSec=2s\n", 2.0),
        ("/etc/ntpd-rs/ntp.toml", "[[source]]\nmode = \"server\"\naddress = \"ntp\"\n", 1.5),
        ("/etc/openntpd/ntpd.conf", "server ntp\n", 1.5),
    ] {
        for (distance, judgement, verdict) in
            [(limit_seconds - 0.25, "agrees", "within"), (limit_seconds + 0.25, "too far", "cannot tell")]
        {
            let host = TestHost::new();
            let server = changed(&host, move |reply| reply.root_dispersion = (distance * 65_536.0) as u32);
            let host = host.name("ntp", &[server.address]).file(path, text);

            let told = host.ask(&all("1m"));

            assert_eq!(judgements(&told), [judgement], "{path} {text} {told:?}");
            assert_eq!(told.elements["verdict"], verdict, "{told:?}");
        }
    }
}

#[test]
fn options_of_a_line_decide_who_counts() {
    let host = TestHost::new();
    let (right, watched, away) = (host.server(0), host.server(60 * SECOND), host.server(0));
    let (shy, far) = (host.server(0), host.server(60 * SECOND));
    let host = host_with(host, &[(&right, ""), (&watched, "noselect"), (&away, "offline")]);

    let told = host.ask(&all("5s"));

    assert_eq!(judgements(&told), ["", "agrees", "not selectable"], "{told:?}");
    assert_eq!(told.elements["verdict"], "within");
    assert!(away.requests().is_empty());
    assert!(told.statistics["ntpstats"][0]["error"].as_str().unwrap().contains("offline"), "{told:?}");

    // Trust: two that nobody trusts do not outvote one that is.
    let trusting = host_with(TestHost::new(), &[(&shy, "trust"), (&watched, ""), (&far, "")]);
    let told = trusting.ask(&all("5s"));
    assert_eq!(judgements(&told), ["agrees", "not trusted", "not trusted"], "{told:?}");

    let required = host_with(TestHost::new(), &[(&right, ""), (&shy, ""), (&far, "require")]);
    let told = required.ask(&all("5s"));
    assert_eq!(told.elements["verdict"], "cannot tell");
    assert!(told.elements["why"].as_str().unwrap().contains("requires"), "{told:?}");
}

#[test]
fn silent_servers_cost_the_time_of_one_and_no_voice() {
    let host = TestHost::new();
    let (first, second) = (host.server(0), host.server(0));
    let silent: Vec<Server> = (0..20).map(|_| Server::silent()).collect();
    let servers: Vec<(&Server, &str)> =
        silent.iter().chain([&first, &second]).map(|server| (server, "")).collect();
    let host = host_with(host, &servers);
    let began = now();

    let told = host.ask(&json!({"drift": "5s", "ask": "all", "timeout": "3s"}));

    assert!(began.elapsed() < CEILING / 2, "{:?}", began.elapsed());
    assert_eq!(told.elements["verdict"], "within", "{told:?}");
    assert_eq!(told.elements["agreed"]["servers"], 2);
    assert!(silent.iter().all(|server| !server.requests().is_empty()), "each was asked");
}

#[test]
fn a_host_has_one_voice_and_each_address_of_a_pool_has_one() {
    let host = TestHost::new();
    let (a, b, c) = (host.server(0), host.server(0), host.server(60 * SECOND));
    let two_addresses = host
        .name("twice", &[c.address, c.address, a.address])
        .name("again", &[c.address])
        .name("right", &[b.address])
        .file("/etc/ntp.conf", "server twice\nserver again\nserver right\n");

    let told = two_addresses.ask(&all("5s"));

    assert_eq!(judgements(&told), ["", "no majority", "no majority"], "{told:?}");

    let pool = TestHost::new()
        .name("pool", &[a.address, b.address, c.address])
        .file("/etc/chrony.conf", "pool pool\n");
    assert_eq!(judgements(&pool.ask(&all("5s"))), ["agrees", "agrees", "liar"]);
    let narrow = TestHost::new()
        .name("pool", &[a.address, b.address, c.address])
        .file("/etc/chrony.conf", "pool pool maxsources 2\n");
    assert_eq!(judgements(&narrow.ask(&all("5s"))), ["agrees", "agrees"]);
}

#[test]
fn servers_of_last_resort_are_asked_when_no_other_answers() {
    let host = TestHost::new();
    let (right, last, vendor) = (host.server(0), host.server(0), host.server(0));
    let silent = Server::silent();
    let host = host
        .name("right", &[right.address])
        .name("last", &[last.address])
        .name("silent", &[silent.address])
        .name("vendor", &[vendor.address])
        .fallback(&["last"]);
    let host = host.file("/etc/systemd/timesyncd.conf", "[Time]\nNTP=right\nFallbackNTP=vendor\n");
    assert_eq!(host.ask(&all("5s")).hosts(), ["right"]);
    assert!(last.requests().is_empty() && vendor.requests().is_empty());

    let host = host.file("/etc/systemd/timesyncd.conf", "[Time]\nNTP=silent\nFallbackNTP=vendor\n");
    let told = host.ask(&json!({"drift": "5s", "ask": "all", "timeout": "3s"}));
    assert_eq!(told.hosts(), ["silent", "vendor", "last"], "{told:?}");
    assert_eq!(told.elements["verdict"], "within", "{told:?}");
}

#[test]
fn nobody_who_answers_is_a_failure_that_says_of_each_why() {
    let host = TestHost::new();
    let unsynchronised = changed(&host, |reply| reply.leap_indicator = 3);
    let short = changed(&host, |reply| reply.length = 47);
    let host = host_with(host, &[(&unsynchronised, ""), (&short, "")]);

    let told = host.ask(&json!({"drift": "5s", "ask": "all", "timeout": "1s"}));

    assert!(!told.success && !told.found && !told.complete, "{told:?}");
    assert_eq!(told.elements["why"], "no time server gave a valid answer");
    assert_eq!(told.errors.len(), 2, "{told:?}");

    let nobody = TestHost::new().ask(&all("5s"));
    assert!(!nobody.success && nobody.errors[0].contains("no time server is configured"), "{nobody:?}");
}

/// A clock that jumps when a server is asked.
#[test]
fn a_clock_that_is_set_meanwhile_is_not_judged() {
    struct Jumping(Arc<crate::server::TestClock>, std::sync::atomic::AtomicBool);
    impl vigie_timedrift::client::Clock for Jumping {
        fn wall(&self) -> std::time::SystemTime {
            let jumped = self.1.load(std::sync::atomic::Ordering::Relaxed);
            self.0.wall() + Duration::from_secs(if jumped { 10 } else { 0 })
        }
        fn monotonic(&self) -> Duration {
            self.0.monotonic()
        }
    }
    let files = TestHost::new();
    let jumping = Arc::new(Jumping(Arc::clone(&files.clock), false.into()));
    let (clock, jump) = (Arc::clone(&files.clock), Arc::clone(&jumping));
    let server = Server::at(
        "127.0.0.1:0",
        Box::new(move |request| {
            jump.1.store(true, std::sync::atomic::Ordering::Relaxed);
            vec![good(request, &*clock, 0).to_bytes()]
        }),
    );
    let files = host_with(files, &[(&server, "")]);
    let mut host = files.host();
    host.means.clock = jumping;

    let told = Told::from(answer(&query(&all("5s")), &host));

    assert_eq!(told.elements["verdict"], "cannot tell", "{told:?}");
}

/// A chronyd that reports that it follows `server`.
fn fake_chronyd(server: SocketAddr) -> Server {
    let SocketAddr::V4(server) = server else { panic!("{server} is no IPv4 address") };
    Server::at(
        "127.0.0.1:0",
        Box::new(move |request| {
            assert_eq!((request.len(), &request[..6]), (104, &[6, 1, 0, 0, 0, 33][..]));
            let mut reply = vec![0; 104];
            reply[..8].copy_from_slice(&[6, 2, 0, 0, 0, 33, 0, 5]);
            reply[32..36].copy_from_slice(&server.ip().octets());
            reply[49] = 1;
            // Somebody else's answers do not count.
            vec![b"noise".to_vec(), reply]
        }),
    )
}

#[test]
fn what_the_daemon_follows_is_compared_with_the_others() {
    let files = TestHost::new();
    let clock = || Arc::clone(&files.clock) as Arc<dyn vigie_timedrift::client::Clock>;
    let right = [Server::ahead("127.0.0.5:0", clock(), 0), Server::ahead("127.0.0.6:0", clock(), 0)];
    let liar = Server::ahead("127.0.0.7:0", clock(), 60 * SECOND);
    let files = host_with(files, &[(&right[0], ""), (&right[1], ""), (&liar, "")]);
    for (follows, judgement, errors) in [(right[0].address, "agrees", 1), (liar.address, "liar", 2)] {
        let chronyd = fake_chronyd(follows);
        let mut host = files.host();
        host.daemons = Daemons { chronyd: Some(chronyd.address), ntpd: None, system_bus: None };

        let told = Told::from(answer(&query(&all("5s")), &host));

        let expected = json!({
            "name": "chronyd", "synchronised": true, "server": follows.ip().to_string(), "judgement": judgement
        });
        assert_eq!(told.elements["daemon"], expected, "{told:?}");
        assert_eq!(told.errors.len(), errors, "{told:?}");
    }
    // Nobody at the port, or somebody who never answers.
    let closed = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let silent = Server::silent();
    for address in [closed, silent.address] {
        let mut host = files.host();
        host.daemons = Daemons { chronyd: Some(address), ntpd: Some(address), system_bus: None };
        let told = Told::from(answer(&query(&all("5s")), &host));
        assert_eq!((told.elements.get("daemon"), &told.elements["verdict"]), (None, &json!("within")));
    }
}

#[test]
fn ntpd_says_which_association_it_follows() {
    let ntpd = Server::at(
        "127.0.0.1:0",
        Box::new(|request| {
            assert_eq!(request[..2], [0x16, 2]);
            let text: &[u8] = match request[7] {
                0 => b"peer=42, leap=00",
                42 => b"srcadr=127.0.0.9",
                other => panic!("association {other}"),
            };
            let mut answer = vec![0x16, 0x82, 0, 1, 0, 0, 0, request[7], 0, 0, 0, text.len() as u8];
            answer.extend(text);
            answer.resize(answer.len().next_multiple_of(4), 0);
            vec![answer]
        }),
    );
    let files = TestHost::new();
    let server = Server::ahead("127.0.0.9:0", Arc::clone(&files.clock) as _, 0);
    let files = host_with(files, &[(&server, "")]);
    let mut host = files.host();
    host.daemons.ntpd = Some(ntpd.address);

    let told = Told::from(answer(&query(&all("5s")), &host));

    assert_eq!(
        told.elements["daemon"],
        json!({"name": "ntpd", "synchronised": true, "server": "127.0.0.9", "judgement": "agrees"})
    );
}

#[test]
fn answers_and_parameters_fit_the_schema() {
    let schema: Value = serde_json::from_str(include_str!("../../../../docs/timedrift.schema.json")).unwrap();
    let files = TestHost::new();
    let servers = [files.server(100 * SECOND), files.server(100 * SECOND), files.server(0)];
    let chronyd = fake_chronyd(servers[2].address);
    let silent = Server::silent();
    let files =
        host_with(files, &[(&servers[0], "prefer"), (&servers[1], ""), (&servers[2], ""), (&silent, "")]);
    let mut host = files.host();
    host.daemons.chronyd = Some(chronyd.address);
    let nobody = TestHost::new().host();
    for (host, parameters) in [
        (&host, json!({})),
        (&host, json!({"drift": "5s", "timeout": "1s", "fallback": false})),
        (&host, json!({"drift": "5s", "ask": "all", "timeout": "2s"})),
        (&host, json!({"drift": "100s", "ask": "all", "timeout": "2s"})),
        (&nobody, all("5s")),
    ] {
        assert_eq!(vigie_schema::problems(&schema, "/$defs/parameters", &parameters), [""; 0]);
        for extraprivacy in [false, true] {
            let mut query = query(&parameters);
            query.extraprivacy = extraprivacy;
            let line = answer(&query, host).to_line();
            let result: Value = serde_json::from_slice(&line).unwrap();
            assert_eq!(vigie_schema::problems(&schema, "/$defs/result", &result), [""; 0], "{result}");
        }
    }
}

#[test]
fn extra_privacy_masks_the_liar_and_what_the_daemon_follows() {
    let files = TestHost::new();
    let servers = [files.server(100 * SECOND), files.server(100 * SECOND), files.server(0)];
    let chronyd = fake_chronyd(servers[2].address);
    let files = host_with(files, &[(&servers[0], ""), (&servers[1], ""), (&servers[2], "")]);
    let mut host = files.host();
    host.daemons.chronyd = Some(chronyd.address);
    let mut query = query(&all("5s"));
    let shown = answer(&query, &host);
    query.extraprivacy = true;

    let result = answer(&query, &host);

    assert_eq!(vigie_sdk::privacy::check(&result, vigie_timedrift::masked_form), Ok(()));
    assert!(vigie_sdk::privacy::check(&shown, vigie_timedrift::masked_form).is_err());
    let line = String::from_utf8(result.to_line()).unwrap();
    for secret in ["s2", "127.0.0", "ntp.conf"] {
        assert!(!line.contains(secret), "{secret}: {line}");
    }
    let told = Told::from(result);
    assert!(told.found && told.elements["liars"][0]["host"] == "masked", "{told:?}");
}
