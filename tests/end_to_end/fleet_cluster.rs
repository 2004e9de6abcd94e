//! Three servers as `fleet init --replicas 3` writes them: one is killed while questions run, and none is lost.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use serde_json::Value;
use tokio::sync::mpsc;
use tokio::time::Instant;
use vigie_files::secret_file;
use vigie_fleet::broker::client::Outgoing;
use vigie_fleet::broker::connection::{ConnectionSettings, Login, TlsSettings, connect};
use vigie_fleet::broker::local::find_server;
use vigie_fleet::broker::stored::{self, Cursor};
use vigie_fleet::certificates::{self, Authority};
use vigie_fleet::subjects::ALERTS;

use crate::fleet_setup::{fleet, free_port, server_is_missing, status};
use crate::harness::{Host, Settings, VIGIE, wait_until};

/// A server of the cluster.
struct Server(Child);

impl Server {
    fn start(directory: &Path, number: usize) -> Self {
        let store = directory.join(format!("fleet/jetstream/{number}"));
        std::fs::create_dir_all(&store).unwrap();
        let config = directory.join(format!("fleet/nats-server-{number}.conf"));
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]).arg(find_server().unwrap()).arg("-c").arg(config);
        Self(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// Asks all agents; how many answered.
fn ask(place: &Path) -> (i32, usize, String) {
    let output = Command::new(VIGIE)
        .args(["query", "netstat", "-t", "all", "--listening-port", "22", "--wait", "60s", "--fleet"])
        .arg(place.join("fleet/ann/fleet.toml"))
        .env("HOME", place)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let lines = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let answers = lines.filter(|line| line["type"] == "answer").count();
    let said = format!("{text}{}", String::from_utf8_lossy(&output.stderr));
    (output.status.code().unwrap_or(-1), answers, said)
}

/// Certificates of an agent, by the fleet's own authority.
fn give_certificate(place: &Path, agent: &str) {
    let read = |name: &str| fs::read_to_string(place.join("fleet").join(name)).unwrap();
    let authority = Authority::new(&read("server/ca.pem"), &read("keys/ca.key")).unwrap();
    let key = certificates::new_key().unwrap();
    let public = certificates::public_key(&key).unwrap();
    let now = jiff::Timestamp::now().as_second();
    let certificate = authority.client(agent, &public, now, now + 3600).unwrap();
    fs::write(place.join(agent).join("agent-tls.pem"), certificate).unwrap();
    secret_file::create(&place.join(agent).join("agent-tls.key"), &key).unwrap();
}

/// Publishes and reads without a pause, each by a connection of its own, and keeps how long each stood still.
struct Probe {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Seen>,
}

/// What a probe saw.
#[derive(Debug)]
struct Seen {
    stored: Vec<u64>,
    /// Longest times between two that were stored, and between two that were read.
    publishing: Duration,
    reading: Duration,
}

impl Probe {
    fn start(place: &Path, urls: &[String]) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let settings = administrator(place, urls);
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(probe(settings, &stopped))
        });
        Self { stop, thread }
    }

    fn end(self) -> Seen {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

fn administrator(place: &Path, urls: &[String]) -> ConnectionSettings {
    let file = |name: &str| place.join("fleet/administrator").join(name);
    ConnectionSettings {
        urls: urls.to_vec(),
        login: Login::CredentialsFile(file("broker.creds")),
        tls: TlsSettings {
            required: true,
            ca: Some(file("ca.pem")),
            certificate: Some(file("tls.pem")),
            key: Some(file("tls.key")),
        },
        name: "probe".to_owned(),
        inbox_prefix: "_INBOX.probe".to_owned(),
        subscription_capacity: None,
        connect_in_background: true,
    }
}

async fn probe(settings: ConnectionSettings, stop: &AtomicBool) -> Seen {
    let (events, _kept) = mpsc::channel(1024);
    let writer = connect(settings.clone(), events.clone()).await.unwrap();
    let reader = connect(settings, events).await.unwrap();
    let publishing = async {
        let (mut stored_ones, mut longest, mut last) = (Vec::new(), Duration::ZERO, Instant::now());
        for number in 0_u64.. {
            while let Err(error) =
                stored::store(&writer.client, "vigie.alert.probe", number.to_string().as_bytes()).await
            {
                assert!(error.is_transient(), "{error:?}");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            longest = longest.max(last.elapsed());
            last = Instant::now();
            stored_ones.push(number);
            if stop.load(Ordering::Relaxed) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        (stored_ones, longest)
    };
    let reading = async {
        let (mut longest, mut last) = (Duration::ZERO, Instant::now());
        while !stop.load(Ordering::Relaxed) {
            // One try with the time that a reader has, not the patience of one that waits.
            let body = br#"{"last_by_subj":"vigie.policy"}"#;
            let ask = Outgoing { subject: "$JS.API.DIRECT.GET.POLICY", payload: body, ..Outgoing::default() };
            let answer = reader.client.request(ask, Duration::from_secs(1)).await;
            if answer.is_ok_and(|answer| answer.status.is_none()) {
                longest = longest.max(last.elapsed());
                last = Instant::now();
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        longest.max(last.elapsed())
    };
    let ((stored, publishing), reading) = tokio::join!(publishing, reading);
    Seen { stored, publishing, reading }
}

/// The number of the server that leads a stream.
fn leader(place: &Path, urls: &[String], stream: &str) -> Option<usize> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let (events, _kept) = mpsc::channel(64);
        let settings = ConnectionSettings { connect_in_background: false, ..administrator(place, urls) };
        let connection = connect(settings, events).await.ok()?;
        let subject = format!("$JS.API.STREAM.INFO.{stream}");
        let info = stored::api(&connection.client, &subject, &Value::Null).await.ok()?;
        info["cluster"]["leader"].as_str()?.strip_prefix("example-")?.parse().ok()
    })
}

/// Everything that the probe was told is stored is in the stream.
fn kept(place: &Path, urls: &[String]) -> BTreeSet<u64> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let (events, _kept) = mpsc::channel(64);
        let settings = ConnectionSettings { connect_in_background: false, ..administrator(place, urls) };
        let connection = connect(settings, events).await.unwrap();
        let mut kept = BTreeSet::new();
        let mut cursor = Cursor { next: 1 };
        let all = cursor.read(&connection.client, ALERTS, "vigie.alert.probe", |entry| {
            kept.extend(std::str::from_utf8(&entry.value).ok().and_then(|text| text.parse::<u64>().ok()));
            true
        });
        assert!(all.await.unwrap());
        kept
    })
}

/// Questions while servers are killed, by so many people at once.
const QUESTIONS: usize = 100;
const PEOPLE: usize = 4;

/// How long publishing may stand still, and direct gets, when the leader of the streams is killed. The goals are half
/// of it, for a machine that does nothing else.
const PUBLISHING: Duration = Duration::from_secs(20);
const READING: Duration = Duration::from_secs(4);

#[test]
fn a_hundred_questions_are_answered_while_one_of_three_servers_is_killed() {
    if server_is_missing() {
        return;
    }
    let place = tempfile::tempdir().unwrap();
    let urls: Vec<String> = (0..3).map(|_| format!("tls://127.0.0.1:{}", free_port())).collect();
    let mut init = vec!["init", "fleet", "--org", "example", "--investigator", "ann", "--replicas", "3"];
    let two = fleet(place.path(), &[&init[..], &["--url", &urls[0], "--url", &urls[1]]].concat());
    assert_eq!(two.code, 64, "{two:?}");
    for url in &urls {
        init.extend(["--url", url]);
    }
    let made = fleet(place.path(), &init);
    assert_eq!(made.code, 0, "{made:?}");
    for number in 1..=3 {
        let config =
            fs::read_to_string(place.path().join(format!("fleet/nats-server-{number}.conf"))).unwrap();
        let config: Value = serde_json::from_str(&config).unwrap();
        assert_eq!(config["cluster"]["tls"]["verify"], true, "servers prove themselves to each other");
    }
    let mut servers: Vec<Server> = (1..=3).map(|number| Server::start(place.path(), number)).collect();
    let administrator = ["--fleet", "fleet/administrator/fleet.toml"];
    wait_until("the cluster has a leader and takes the policy", || {
        let publish = [&administrator[..], &["policy", "publish", "fleet/policy.signed.json"]].concat();
        (fleet(place.path(), &publish).code == 0).then_some(())
    });
    let enrolled = fleet(place.path(), &[&administrator[..], &["enrol", "web-1"]].concat());
    assert_eq!(enrolled.code, 0, "{enrolled:?}");
    give_certificate(place.path(), "web-1");
    let section = fs::read_to_string(place.path().join("web-1/vigie-fleet.toml")).unwrap();
    let host = Host::new(&Settings::default(), &section);
    let _agent = host.start();
    wait_until("the agent is connected", || {
        let fleet = status(&host)["fleet"].clone();
        (fleet["connected"] == true && fleet["policy_version"] == 1).then_some(())
    });
    let (code, answers, said) = ask(place.path());
    assert_eq!((code, answers), (0, 1), "all three run: {said}");

    let probe = Probe::start(place.path(), &urls);
    let asked = AtomicUsize::new(0);
    let asking = |place: &Path| {
        while asked.fetch_add(1, Ordering::Relaxed) < QUESTIONS {
            let (code, answers, said) = ask(place);
            assert_eq!((code, answers), (0, 1), "one server is dead: {said}");
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..PEOPLE {
            scope.spawn(|| asking(place.path()));
        }
        // The one that everything waits for.
        let victim = wait_until("the stream of alerts has a leader", || leader(place.path(), &urls, ALERTS));
        wait_until("questions run", || (asked.load(Ordering::Relaxed) > PEOPLE + 5).then_some(()));
        servers[victim - 1].0.kill().unwrap();
        servers[victim - 1].0.wait().unwrap();
        wait_until("half of the questions are asked", || {
            (asked.load(Ordering::Relaxed) > QUESTIONS / 2).then_some(())
        });
        servers[victim - 1] = Server::start(place.path(), victim);
    });
    let seen = probe.end();
    println!(
        "{} messages stored, standing still for at most {:?}; direct gets for at most {:?}",
        seen.stored.len(),
        seen.publishing,
        seen.reading
    );
    assert!(seen.publishing < PUBLISHING, "{:?}", seen.publishing);
    assert!(seen.reading < READING, "{:?}", seen.reading);
    let kept = kept(place.path(), &urls);
    let lost: Vec<&u64> = seen.stored.iter().filter(|number| !kept.contains(number)).collect();
    assert_eq!(lost, Vec::<&u64>::new());
    // Each ran once.
    let outcomes = status(&host)["fleet"]["outcomes"].clone();
    assert_eq!(outcomes["accepted"], QUESTIONS + 1, "{outcomes}");
}
