//! Many hosts that join at once by one token, as a new data centre does, with the broker killed in between: all get in,
//! none twice. Each host is a connection and a key of its own that does what `vigie fleet join` does; who lets them in
//! is the program. `VIGIE_FLEET_JOINS` sets how many there are.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::Value;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::Instant;
use vigie_files::random;
use vigie_fleet::agent_key::AgentKey;
use vigie_fleet::broker::connection::{ConnectionSettings, Login, TlsSettings, connect};
use vigie_fleet::broker::jwt::Role;
use vigie_fleet::broker::local::find_server;
use vigie_fleet::broker::stored::{self, Cursor, Which};
use vigie_fleet::enrolment::SignedEnrolment;
use vigie_fleet::join::{Grant, JoinToken, Outcome, Request, VERSION, open_answer};
use vigie_fleet::policy::{Policy, SignedPolicy};
use vigie_fleet::subjects::{self, ENROL, EVERY_ENROLMENT, JOINED};

use crate::fleet_setup::{fleet, free_port, json_of, server_is_missing};
use crate::harness::{VIGIE, wait_until};

/// Hosts that are under way at once: a limit of open files, not of the fleet.
const AT_ONCE: usize = 400;

/// Longest pause between two looks of a host for its answer.
const LOOK: Duration = Duration::from_secs(5);

struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

fn start_server(config: &Path) -> Process {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--"]).arg(find_server().unwrap()).arg("-c").arg(config);
    Process(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
}

/// What all hosts share.
struct Door {
    token: JoinToken,
    grant: Grant,
    policy: Policy,
}

/// One host: asks until it is let in.
async fn join(door: &Door, number: usize) {
    let key = AgentKey::generate();
    let token_key = door.token.key().unwrap();
    let request = Request {
        v: VERSION,
        org: door.grant.org.clone(),
        token: Some(door.grant.id.clone()),
        key: key.public_key().clone(),
        agent: format!("web-{number}").parse().unwrap(),
        hostname: format!("web-{number}"),
        machine: String::new(),
        tls_key: None,
        made: jiff::Timestamp::now().as_millisecond(),
    };
    let settings = ConnectionSettings {
        urls: door.token.urls.clone(),
        login: Login::Token { jwt: door.token.login.clone(), key: Box::new(token_key.clone()) },
        tls: TlsSettings::default(),
        name: "storm".to_owned(),
        inbox_prefix: Role::Joiner.inbox_prefix(&door.grant.id.parse().unwrap()),
        subscription_capacity: None,
        connect_in_background: false,
    };
    let sealed = request.seal(&key, Some((&token_key, &door.token.grant))).unwrap();
    let bytes = serde_json::to_vec(&sealed).unwrap();
    let (place, answer_place) = (subjects::join(&door.grant.id), subjects::joined(&request.key.text()));
    let mut asked = false;
    loop {
        let (events, _kept) = mpsc::channel(8);
        let Ok(connection) = connect(settings.clone(), events).await else {
            tokio::time::sleep(Duration::from_secs(1).mul_f64(random::fraction())).await;
            continue;
        };
        let mut pause = Duration::from_millis(200);
        loop {
            if !asked {
                match stored::store(&connection.client, &place, &bytes).await {
                    Ok(_) => asked = true,
                    Err(error) => {
                        assert!(error.is_transient(), "{error:?}");
                        break;
                    }
                }
            }
            match stored::get(&connection.client, JOINED, Which::Last(&answer_place)).await {
                Ok(Some(entry)) => {
                    let now = jiff::Timestamp::now().as_second();
                    let answer = open_answer(&entry.value, &request, &door.policy, now).unwrap();
                    assert!(matches!(answer.outcome, Outcome::Approved(_)), "{answer:?}");
                    return;
                }
                Ok(None) => {}
                Err(error) => {
                    assert!(error.is_transient(), "{error:?}");
                    break;
                }
            }
            tokio::time::sleep(pause.mul_f64(0.5 + random::fraction() / 2.0)).await;
            pause = (pause * 2).min(LOOK);
        }
    }
}

/// All records of enrolment, by agent.
async fn records(settings: ConnectionSettings) -> BTreeMap<String, Vec<SignedEnrolment>> {
    let (events, _kept) = mpsc::channel(8);
    let connection = connect(settings, events).await.unwrap();
    let mut records: BTreeMap<String, Vec<SignedEnrolment>> = BTreeMap::new();
    let mut cursor = Cursor { next: 1 };
    let all = cursor.read(&connection.client, ENROL, EVERY_ENROLMENT, |entry| {
        let name = entry.subject.rsplit('.').next().unwrap().to_owned();
        records.entry(name).or_default().push(serde_json::from_slice(&entry.value).unwrap());
        true
    });
    assert!(all.await.unwrap());
    records
}

#[test]
fn thousands_of_hosts_join_at_once_while_the_broker_is_killed_and_none_is_in_twice() {
    if server_is_missing() {
        return;
    }
    let hosts: usize = std::env::var("VIGIE_FLEET_JOINS").map_or(500, |text| text.parse().unwrap());
    let place = tempfile::tempdir().unwrap();
    let url = format!("nats://127.0.0.1:{}", free_port());
    let run = |arguments: &[&str]| {
        let ran = fleet(place.path(), arguments);
        assert_eq!(ran.code, 0, "{arguments:?}: {ran:?}");
        ran
    };
    run(&["init", "fleet", "--org", "example", "--url", &url]);
    fs::create_dir_all(place.path().join("fleet/jetstream")).unwrap();
    let config = place.path().join("fleet/nats-server.conf");
    let server = start_server(&config);
    let administrator = ["--fleet", "fleet/administrator/fleet.toml"];
    wait_until("the policy is published", || {
        let publish = [&administrator[..], &["policy", "publish", "fleet/policy.signed.json"]].concat();
        (fleet(place.path(), &publish).code == 0).then_some(())
    });
    let uses = hosts.to_string();
    let made = run(&[&administrator[..], &["token", "new", "--approved", "--uses", &uses]].concat());
    let text = json_of(&made)["token"].as_str().unwrap().to_owned();
    let (token, grant) = JoinToken::parse(&text).unwrap();
    let signed: SignedPolicy =
        serde_json::from_str(&fs::read_to_string(place.path().join("fleet/policy.signed.json")).unwrap())
            .unwrap();
    let policy = Policy::parse_unsigned(&signed.policy, "example").unwrap();
    let door = Arc::new(Door { token, grant, policy });
    let output = File::create(place.path().join("approve.out")).unwrap();
    let approver = Command::new(VIGIE)
        .args(["fleet", "--fleet", "fleet/enroller/fleet.toml", "approve", "--follow"])
        .current_dir(place.path())
        .env("HOME", place.path())
        .stdin(Stdio::null())
        .stderr(output.try_clone().unwrap())
        .stdout(output)
        .spawn()
        .unwrap();
    let approver = Process(approver);

    let begin = Instant::now();
    let inside = Arc::new(AtomicUsize::new(0));
    let counted = inside.clone();
    let of_hosts = door.clone();
    let storm = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let turns = Arc::new(Semaphore::new(AT_ONCE));
            let each = (0..hosts).map(|number| {
                let (door, turns, counted) = (of_hosts.clone(), turns.clone(), counted.clone());
                tokio::spawn(async move {
                    let _turn = turns.acquire().await.unwrap();
                    join(&door, number).await;
                    counted.fetch_add(1, Ordering::Relaxed);
                })
            });
            for one in each.collect::<Vec<_>>() {
                one.await.unwrap();
            }
        });
    });
    wait_until("a third is in", || (inside.load(Ordering::Relaxed) >= hosts / 3).then_some(()));
    drop(server);
    let _server = start_server(&config);
    storm.join().unwrap();
    let took = begin.elapsed();
    println!("{hosts} hosts joined within {took:?}, with one kill -9 of the broker");
    drop(approver);

    let file = |name: &str| place.path().join("fleet/administrator").join(name);
    let settings = ConnectionSettings {
        urls: vec![url],
        login: Login::CredentialsFile(file("broker.creds")),
        tls: TlsSettings::default(),
        name: "count".to_owned(),
        inbox_prefix: "_INBOX.count".to_owned(),
        subscription_capacity: None,
        connect_in_background: false,
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let records = runtime.block_on(records(settings));
    assert_eq!(records.len(), hosts);
    for (name, of_one) in records {
        let keys: std::collections::BTreeSet<String> = of_one
            .iter()
            .map(|signed| serde_json::from_str::<Value>(&signed.record).unwrap()["key"].to_string())
            .collect();
        assert_eq!(keys.len(), 1, "{name} is in with two keys");
        // The same record again, when an acknowledgement was lost, is no second enrolment.
        assert!(of_one.windows(2).all(|two| two[0].record == two[1].record), "{name} is in twice");
    }
}
