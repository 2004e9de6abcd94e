//! `vigie fleet doctor` names who takes more of the broker than a host should, within ten seconds.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::Value;
use tokio::sync::mpsc;
use tokio::time::Instant;
use vigie_fleet::agent_key::AgentKey;
use vigie_fleet::broker::connection::{Connection, ConnectionSettings, Login, TlsSettings, connect};
use vigie_fleet::broker::jwt::Role;
use vigie_fleet::broker::local::find_server;
use vigie_fleet::broker::stored;

use crate::fleet_setup::{Up, fleet, free_port, server_is_missing};
use crate::harness::{Ran, wait_until};

/// How long it may take to name somebody.
const WITHIN: Duration = Duration::from_secs(10);

/// The login of an agent whose files lie in this directory.
fn login(directory: &Path, name: &str, url: &str) -> ConnectionSettings {
    let key = AgentKey::load(&directory.join("agent.nk")).unwrap();
    let jwt = fs::read_to_string(directory.join("agent.jwt")).unwrap().trim().to_owned();
    ConnectionSettings {
        urls: vec![url.to_owned()],
        login: Login::Token { jwt, key: Box::new(key) },
        tls: TlsSettings::default(),
        name: "attacker".to_owned(),
        inbox_prefix: Role::Agent.inbox_prefix(&name.parse().unwrap()),
        subscription_capacity: None,
        connect_in_background: false,
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

async fn hold(settings: &ConnectionSettings, count: usize) -> Vec<Connection> {
    let mut held = Vec::new();
    for _ in 0..count {
        let (events, _) = mpsc::channel(8);
        held.extend(connect(settings.clone(), events).await.ok());
    }
    held
}

/// What is not good, and the whole of what was found.
fn bad(ran: &Ran) -> Vec<(String, String)> {
    let lines = ran.out.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let text = |line: &Value, what: &str| line[what].as_str().unwrap_or_default().to_owned();
    lines
        .filter(|line| line["good"] == false)
        .map(|line| (text(&line, "check"), text(&line, "found")))
        .collect()
}

fn is_named(found: &[(String, String)], check: &str, words: &str) -> bool {
    found.iter().any(|(of, text)| of == check && text.contains(words))
}

#[test]
fn who_floods_and_who_holds_connections_is_named_within_ten_seconds() {
    if server_is_missing() {
        return;
    }
    let up = Up::start();
    let enrolled = up.administrator(&["enrol", "web-1"]);
    assert_eq!(enrolled.code, 0, "{enrolled:?}");
    let url = format!("nats://127.0.0.1:{}", fs::read_to_string(up.path("port")).unwrap());
    let settings = login(&up.path("web-1"), "web-1", &url);
    let quiet = up.administrator(&["doctor", "--json"]);
    let found = bad(&quiet);
    assert!(!found.iter().any(|(check, _)| check == "flood" || check == "connections"), "{found:?}");

    let stop = Arc::new(AtomicBool::new(false));
    let stopped = stop.clone();
    let of_flooder = settings.clone();
    let flooder = std::thread::spawn(move || {
        runtime().block_on(async {
            let held = hold(&of_flooder, 8).await;
            let junk = [b'x'; 512];
            while !stopped.load(Ordering::Relaxed) {
                held[0].client.send("vigie.alert.web-1", &junk).await.ok();
            }
        });
    });
    wait_until("the flood is named", || {
        let begin = Instant::now();
        let ran = up.administrator(&["doctor", "--json"]);
        let took = begin.elapsed();
        let found = bad(&ran);
        println!("{took:?} {found:?}");
        assert_eq!(ran.code, 1);
        let named =
            is_named(&found, "flood", "web-1 sends") && is_named(&found, "connections", "web-1 holds 8");
        (named && took < WITHIN).then_some(())
    });
    stop.store(true, Ordering::Relaxed);
    flooder.join().unwrap();
    wait_until("nobody floods any more", || {
        let found = bad(&up.administrator(&["doctor", "--json"]));
        (!found.iter().any(|(check, _)| check == "flood" || check == "connections")).then_some(())
    });
    // Whoever has no keys of the broker's system is told that this was not looked at.
    let ann = up.user("ann", &["doctor", "--json"]);
    assert!(ann.out.contains("were not checked"), "{ann:?}");
}

#[test]
fn a_broker_that_takes_no_more_connections_is_named_as_such() {
    if server_is_missing() {
        return;
    }
    let place = tempfile::tempdir().unwrap();
    let url = format!("nats://127.0.0.1:{}", free_port());
    let made = fleet(place.path(), &["init", "fleet", "--org", "example", "--url", &url]);
    assert_eq!(made.code, 0, "{made:?}");
    let path = place.path().join("fleet/nats-server.conf");
    let mut config: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    config["max_connections"] = 12.into();
    fs::write(&path, config.to_string()).unwrap();
    fs::create_dir_all(place.path().join("fleet/jetstream")).unwrap();
    let mut server = Command::new("setpriv");
    server.args(["--pdeathsig", "KILL", "--"]).arg(find_server().unwrap()).arg("-c").arg(&path);
    let mut server = server.stdin(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let administrator = ["--fleet", "fleet/administrator/fleet.toml"];
    let run = |arguments: &[&str]| fleet(place.path(), &[&administrator[..], arguments].concat());
    wait_until("the policy is published", || {
        (run(&["policy", "publish", "fleet/policy.signed.json"]).code == 0).then_some(())
    });
    assert_eq!(run(&["enrol", "web-1"]).code, 0);
    let settings = login(&place.path().join("web-1"), "web-1", &url);
    let runtime = runtime();

    let held = runtime.block_on(hold(&settings, 11));
    assert_eq!(held.len(), 11);
    // One is left: people see who has the others.
    let nearly = bad(&run(&["doctor", "--json"]));
    println!("{nearly:?}");
    assert!(
        is_named(&nearly, "connections", "web-1 holds 11")
            || is_named(&nearly, "connections", "no more connections")
    );
    let last = runtime.block_on(hold(&settings, 1));
    assert_eq!(last.len(), 1);
    let begin = Instant::now();
    let full = run(&["doctor", "--json"]);
    assert!(begin.elapsed() < WITHIN);
    assert!(is_named(&bad(&full), "connections", "accepts no more connections"), "{full:?}");
    assert_eq!(full.code, 1);

    server.kill().unwrap();
    server.wait().unwrap();
}

/// After its disk was full, nats-server 2.15 reads everything and stores nothing.
#[test]
fn a_broker_that_answers_and_stores_nothing_is_named() {
    if server_is_missing() {
        return;
    }
    let up = Up::start();
    let quiet = bad(&up.administrator(&["doctor", "--json"]));
    assert!(!quiet.iter().any(|(check, _)| check == "storage"), "{quiet:?}");
    let settings = ConnectionSettings {
        login: Login::CredentialsFile(up.path("fleet/administrator/broker.creds")),
        inbox_prefix: Role::Administrator.inbox_prefix(&"probe".parse().unwrap()),
        urls: vec![format!("nats://127.0.0.1:{}", fs::read_to_string(up.path("port")).unwrap())],
        tls: TlsSettings::default(),
        name: "probe".to_owned(),
        subscription_capacity: None,
        connect_in_background: false,
    };
    runtime().block_on(async {
        let (events, _) = mpsc::channel(8);
        let connection = connect(settings, events).await.unwrap();
        let facts = stored::api(&connection.client, "$JS.API.STREAM.INFO.FACTS", &Value::Null).await.unwrap();
        assert_eq!(facts["state"]["messages"], 0, "what was tried is not left there: {facts}");
        let mut config = facts["config"].clone();
        config["max_msg_size"] = 1.into();
        stored::api(&connection.client, "$JS.API.STREAM.UPDATE.FACTS", &config).await.unwrap();
    });

    let ran = up.administrator(&["doctor", "--json"]);

    assert!(is_named(&bad(&ran), "storage", "stores no heartbeats"), "{ran:?}");
    assert_eq!(ran.code, 1);
    // Investigators may not store anything there, and are not accused of it.
    let ann = up.user("ann", &["doctor", "--json"]);
    assert!(ann.out.contains("needs an administrator's fleet file"), "{ann:?}");
    assert!(!bad(&ann).iter().any(|(check, _)| check == "storage"), "{ann:?}");
}
