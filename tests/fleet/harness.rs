//! A fleet for one test: a broker with streams, a policy, investigators, and agents that are enrolled.

use std::collections::{BTreeMap, HashMap};
use std::future::Future;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use vigie_fleet::action::{Envelope, NAMESPACE};
use vigie_fleet::agent_key::{self, AgentKey, AgentPublicKey};
use vigie_fleet::answer::{Answer, AuditRecord, FleetAlert, Purpose, Sealed};
use vigie_fleet::broker::LOOK;
use vigie_fleet::broker::client::Outgoing;
use vigie_fleet::broker::connection::{Connection, connect};
use vigie_fleet::broker::jwt::Role;
use vigie_fleet::broker::local::{LocalBroker, LocalBrokerSettings, find_server};
use vigie_fleet::broker::stored::{self, Cursor, Entry, Which};
use vigie_fleet::broker::streams::{self, StreamSizes};
use vigie_fleet::collect::{Collector, Flag, SealProblem, Taken};
use vigie_fleet::enrolment::{self, Enrolment, SignedEnrolment};
use vigie_fleet::policy::{self, Policy, Roots, SignedPolicy};
use vigie_fleet::signature::{self, PublicKey, SigningKey};
use vigie_fleet::subjects;
use vigie_protocol::names::{ActionId, AgentId};

use crate::host::{Host, Settings, module};

pub(crate) const ORG: &str = "example";

/// Longest wait for anything; never reached when all is well.
const CEILING: Duration = Duration::from_secs(240);

/// Time of tokens and enrolments, in seconds since 1970; before any clock of a machine that runs this.
pub(crate) const LONG_AGO: i64 = 1_700_000_000;

pub(crate) fn server_is_missing() -> bool {
    let missing = find_server().is_err();
    if missing {
        vigie_skipped::missing("nats-server");
    }
    missing
}

/// A number that the environment can raise.
pub(crate) fn number(variable: &str, default: usize) -> usize {
    std::env::var(variable).map_or(default, |text| text.parse().unwrap())
}

/// Looks at a condition until it holds.
#[expect(clippy::disallowed_methods, reason = "other processes are watched, which announce nothing")]
pub(crate) fn patiently<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let start = std::time::Instant::now();
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(start.elapsed() < CEILING, "waited too long: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A directory whose syncs cost little, where there is one.
pub(crate) fn fast_directory() -> TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

pub(crate) fn agent(text: &str) -> AgentId {
    text.parse().unwrap()
}

/// Now, in seconds since 1970.
pub(crate) fn now() -> i64 {
    jiff::Timestamp::now().as_second()
}

/// A key of the tests.
pub(crate) fn key(number: u8) -> SigningKey {
    SigningKey::from_seed(&[number; 32])
}

pub(crate) fn alice() -> SigningKey {
    key(1)
}

pub(crate) fn bob() -> SigningKey {
    key(2)
}

/// Her key is not valid any more.
pub(crate) fn carol() -> SigningKey {
    key(3)
}

/// Her key is revoked.
pub(crate) fn dora() -> SigningKey {
    key(4)
}

pub(crate) fn mallory() -> SigningKey {
    key(66)
}

pub(crate) fn root(number: u8) -> SigningKey {
    key(100 + number)
}

fn enroller() -> SigningKey {
    key(90)
}

fn roots() -> Roots {
    Roots { keys: [1, 2, 3].map(|number| root(number).public_key().clone()).into(), threshold: 2 }
}

/// Version 1: alice and bob may ask `trace`, together they may ask `both`; nobody may ask `free`.
pub(crate) fn document() -> Value {
    let one = |key: SigningKey| json!({"keys": [{"key": key.public_key()}]});
    json!({
        "v": 1, "org": ORG, "version": 1, "roots": roots(), "enrolment": [enroller().public_key()],
        "investigators": {
            "alice": one(alice()), "bob": one(bob()), "dora": one(dora()),
            "carol": {"keys": [{"key": carol().public_key(), "not_after": LONG_AGO}]},
        },
        "acl": {
            "trace": {"minimum_weight": 1, "investigators": {"alice": 1, "bob": 1, "carol": 1, "dora": 1}},
            "netstat": {"minimum_weight": 1, "investigators": {"alice": 1}},
            "both": {"minimum_weight": 2, "investigators": {"alice": 1, "bob": 1}},
        },
        "revoked": [dora().public_key().fingerprint()],
        "max_window_seconds": 7200,
        "limits": {"seconds": 120},
    })
}

/// A policy as it is published.
pub(crate) fn signed_policy(document: &Value, signers: &[u8]) -> Vec<u8> {
    let policy = document.to_string();
    let sigs = signers
        .iter()
        .map(|number| root(*number).sign(policy::NAMESPACE, policy.as_bytes()).unwrap())
        .collect();
    serde_json::to_vec(&SignedPolicy { policy, sigs }).unwrap()
}

pub(crate) fn new_id() -> ActionId {
    let draw = || RandomState::new().build_hasher().finish().to_le_bytes();
    let (one, two) = (draw(), draw());
    ActionId::from_random(std::array::from_fn(|at| if at < 8 { one[at] } else { two[at - 8] }))
}

/// A good action for everybody, which leaves its id where it runs.
pub(crate) fn action() -> Value {
    let id = new_id();
    json!({
        "v": 1, "org": ORG, "id": id, "name": "test", "target": "all",
        "not_before": now(), "not_after": now() + 3600,
        "ops": [{"module": "trace", "params": {"mark": id}}],
    })
}

pub(crate) fn id_of(action: &Value) -> ActionId {
    action["id"].as_str().unwrap().parse().unwrap()
}

/// The same with one value put elsewhere, and an id of its own.
pub(crate) fn with(field: &str, value: Value) -> Value {
    let mut action = action();
    action[field] = value;
    action
}

pub(crate) fn envelope(text: &str, keys: &[&SigningKey], namespace: &str) -> Vec<u8> {
    let sigs = keys.iter().map(|key| key.sign(namespace, text.as_bytes()).unwrap()).collect();
    serde_json::to_vec(&Envelope { action: text.to_owned(), sigs }).unwrap()
}

pub(crate) fn sign(action: &Value, keys: &[&SigningKey]) -> Vec<u8> {
    envelope(&action.to_string(), keys, NAMESPACE)
}

/// What came back to an action.
#[derive(Debug, Default)]
pub(crate) struct Collected {
    pub(crate) answers: BTreeMap<String, Answer>,
    /// Messages that were there before, with another number in the stream.
    pub(crate) again: usize,
    pub(crate) flags: Vec<Flag>,
}

/// A running fleet.
pub(crate) struct Fleet {
    pub(crate) admin: Connection,
    pub(crate) broker: LocalBroker,
    runtime: Runtime,
    enrolled: HashMap<AgentId, AgentPublicKey>,
    /// Where agents that are enrolled from now on find a server; without it the broker.
    pub(crate) agents_url: Option<String>,
    directory: TempDir,
}

impl Fleet {
    /// Starts a broker with streams and policy 1.
    pub(crate) fn new() -> Self {
        let fleet = Self::without_policy();
        fleet.publish_policy(&document());
        fleet
    }

    pub(crate) fn without_policy() -> Self {
        Self::start(fast_directory(), |_| ())
    }

    /// Starts a broker with a port for leaf nodes, streams and policy 1, in a directory that may hold sites.
    pub(crate) fn with_leaf_port(directory: TempDir, port: u16) -> Self {
        let fleet = Self::start(directory, |settings| settings.leaf_port = Some(port));
        fleet.publish_policy(&document());
        fleet
    }

    fn start(directory: TempDir, change: impl FnOnce(&mut LocalBrokerSettings)) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let mut settings = LocalBrokerSettings::new(directory.path(), ORG, LONG_AGO);
        change(&mut settings);
        let (broker, admin) = runtime.block_on(async {
            let broker = LocalBroker::start(settings).await.unwrap();
            let admin = administrator(&broker).await;
            streams::ensure(&admin.client, &StreamSizes::default()).await.unwrap();
            (broker, admin)
        });
        Self { admin, broker, runtime, enrolled: HashMap::new(), agents_url: None, directory }
    }

    pub(crate) fn block_on<F: Future>(&self, future: F) -> F::Output {
        self.runtime
            .block_on(async { tokio::time::timeout(CEILING, future).await })
            .expect("nothing takes this long")
    }

    /// Kills the broker.
    pub(crate) fn kill_broker(&mut self) {
        self.runtime.block_on(self.broker.kill()).unwrap();
    }

    /// A stream is lost while connections stand.
    pub(crate) fn lose(&self, stream: &str) {
        let subject = format!("$JS.API.STREAM.DELETE.{stream}");
        self.block_on(async {
            let delete = Outgoing { subject: &subject, ..Outgoing::default() };
            self.admin.client.request(delete, Duration::from_secs(20)).await.expect("the broker deletes it");
        });
    }

    /// Makes the streams that are not there.
    pub(crate) fn make_streams(&self) {
        let sizes = StreamSizes::default();
        self.block_on(streams::ensure(&self.admin.client, &sizes)).expect("the broker makes them");
    }

    /// A stream is lost, and made anew, while connections stand.
    pub(crate) fn make_anew(&self, stream: &str) {
        self.lose(stream);
        self.make_streams();
    }

    /// An administrator changes the largest message that a stream takes.
    pub(crate) fn limit_messages(&self, stream: &str, bytes: u64) {
        let ask = |verb: &str, body: Value| {
            let subject = format!("$JS.API.STREAM.{verb}.{stream}");
            self.block_on(stored::api(&self.admin.client, &subject, &body)).expect("the broker does it")
        };
        let mut settings = ask("INFO", Value::Null)["config"].take();
        settings["max_msg_size"] = json!(bytes);
        ask("UPDATE", settings);
    }

    /// Starts it again with the same streams.
    pub(crate) fn restart_broker(&mut self) {
        self.admin = self.runtime.block_on(async {
            self.broker.restart().await.unwrap();
            administrator(&self.broker).await
        });
    }

    /// Starts it again with the same streams on another port.
    pub(crate) fn move_broker(&mut self, port: u16) {
        let settings = LocalBrokerSettings {
            port: Some(port),
            ..LocalBrokerSettings::new(self.directory.path(), ORG, LONG_AGO)
        };
        (self.broker, self.admin) = self.runtime.block_on(async {
            self.broker.kill().await.unwrap();
            let broker = LocalBroker::start(settings).await.unwrap();
            let admin = administrator(&broker).await;
            (broker, admin)
        });
    }

    /// Stores until the broker has it; the number in the stream.
    pub(crate) fn publish(&self, subject: &str, payload: &[u8]) -> u64 {
        self.block_on(async {
            loop {
                match stored::store(&self.admin.client, subject, payload).await {
                    Ok(sequence) => return sequence,
                    Err(error) if error.is_transient() => tokio::time::sleep(Duration::from_millis(20)).await,
                    Err(error) => panic!("{subject}: {error:?}"),
                }
            }
        })
    }

    /// Sends something to each agent at once, where its newest heartbeat says that it listens.
    pub(crate) fn live(&self, payload: &[u8]) {
        for name in self.enrolled.keys() {
            self.live_to(name.as_str(), payload);
        }
    }

    /// Sends something to one agent at once.
    pub(crate) fn live_to(&self, name: &str, payload: &[u8]) {
        let Some(heartbeat) = self.heartbeat(name) else { return };
        let subject = subjects::live(&agent(name), heartbeat["live"].as_str().unwrap());
        self.block_on(async {
            self.admin.client.send(&subject, payload).await.ok();
            self.admin.client.flush(CEILING).await.ok();
        });
    }

    /// Publishes a policy and has all agents look for it.
    pub(crate) fn publish_policy(&self, document: &Value) {
        self.put_policy(&signed_policy(document, &[1, 2]));
    }

    /// The same with anything as a policy.
    pub(crate) fn put_policy(&self, policy: &[u8]) {
        self.publish(subjects::POLICY_SUBJECT, policy);
        self.live(LOOK);
    }

    /// Stores a question and sends it to all agents, as the command line does.
    pub(crate) fn send(&self, envelope: &[u8]) {
        self.publish("vigie.ask.alice", envelope);
        self.live(envelope);
    }

    /// Asks all agents what alice asks; the id.
    pub(crate) fn ask(&self, action: &Value) -> ActionId {
        self.send(&sign(action, &[&alice()]));
        id_of(action)
    }

    /// Enrols an agent whose key and token are in `directory`; its `[fleet]`.
    pub(crate) fn enrol(&mut self, name: &str, directory: &Path) -> String {
        let name = agent(name);
        let key = AgentKey::load_or_create(&directory.join("agent.nk")).unwrap();
        let token = self.broker.signer(Role::Agent).user(&name, key.public_key(), LONG_AGO, None);
        std::fs::write(directory.join("agent.jwt"), token).unwrap();
        let public = key.public_key().clone();
        let record = Enrolment::new(ORG, &name, &public, LONG_AGO).to_text();
        let sigs = vec![enroller().sign(enrolment::NAMESPACE, record.as_bytes()).unwrap()];
        let signed = serde_json::to_vec(&SignedEnrolment { record, sigs }).unwrap();
        self.publish(&subjects::enrolment(&name), &signed);
        self.enrolled.insert(name.clone(), public);
        let roots = serde_json::to_string(&roots().keys).unwrap();
        format!(
            "[fleet]\norg = \"{ORG}\"\nagent = \"{name}\"\nurls = [\"{}\"]\ncredentials = {:?}\nkey_file = {:?}\n\
             roots = {roots}\nroot_threshold = 2\n",
            self.agents_url.clone().unwrap_or_else(|| self.broker.url()),
            directory.join("agent.jwt"),
            directory.join("agent.nk"),
        )
    }

    /// A host of the fleet with the modules `trace`, `both` and `free`, and further configuration.
    pub(crate) fn host(&mut self, name: &str, more: &str) -> Member {
        let host = Host::new(&Settings::default(), "");
        let section = self.enrol(name, &host.path("."));
        let member = Member { host, section };
        member.configure("", more);
        member
    }

    /// All messages of a stream whose subject matches, in their order.
    pub(crate) fn read(&self, stream: &str, filter: &str) -> Vec<Entry> {
        self.block_on(async {
            let mut entries = Vec::new();
            let mut cursor = Cursor { next: 1 };
            let all = cursor.read(&self.admin.client, stream, filter, |entry| {
                entries.push(entry);
                true
            });
            assert!(all.await.unwrap());
            entries
        })
    }

    /// The newest message of a subject.
    pub(crate) fn get(&self, stream: &str, subject: &str) -> Option<Entry> {
        self.block_on(stored::get(&self.admin.client, stream, Which::Last(subject))).unwrap()
    }

    /// Whose key it is, as the enrolments in the broker say.
    pub(crate) fn enrolled_key(&self, name: &AgentId) -> Option<AgentPublicKey> {
        let policy = Policy::parse_unsigned(&document().to_string(), ORG).unwrap();
        let entry = self.get(subjects::ENROL, &subjects::enrolment(name))?;
        let verify = |text: &[u8], sig: &str| {
            let signer =
                signature::verify(enrolment::NAMESPACE, text, sig).map_err(|error| error.to_string())?;
            let known: &PublicKey = &signer.key;
            if policy.is_enrolment_key(known) { Ok(()) } else { Err("not an enrolment key".to_owned()) }
        };
        let checked = enrolment::check(&entry.value, ORG, name, None, now(), verify).ok()?;
        Some(checked.enrolment.key)
    }

    fn open(&self, name: &AgentId, sealed: &Sealed, purpose: Purpose) -> Result<(), SealProblem> {
        let key = self.enrolled.get(name).ok_or(SealProblem::NotEnrolled)?;
        agent_key::open(sealed, purpose, key).map(drop).map_err(|_| SealProblem::Bad)
    }

    /// What came back to an action so far.
    pub(crate) fn collect(&self, id: &ActionId) -> Collected {
        let mut collector = Collector::new(id.clone());
        let mut collected = Collected::default();
        for entry in self.read(subjects::RESULTS, &subjects::answers_to(id)) {
            let open = |name: &AgentId, sealed: &Sealed| self.open(name, sealed, Purpose::Answer);
            match collector.take(&entry.subject, &entry.value, open) {
                Ok(Taken::Complete { agent, answer }) => {
                    collected.answers.insert(agent.to_string(), *answer);
                }
                Ok(Taken::Part | Taken::Other) => {}
                Ok(Taken::Again) => collected.again += 1,
                Err(flag) => collected.flags.push(flag),
            }
        }
        collected
    }

    /// Waits for the answers of `count` agents, each once.
    pub(crate) fn answers(&self, id: &ActionId, count: usize) -> BTreeMap<String, Answer> {
        let collected = patiently(&format!("{count} answers"), || {
            let collected = self.collect(id);
            (collected.answers.len() >= count).then_some(collected)
        });
        assert_eq!(collected.answers.len(), count, "{collected:?}");
        assert_eq!(collected.flags, []);
        collected.answers
    }

    /// A sealed text of an agent; its seal holds.
    fn opened(&self, name: &str, payload: &[u8], purpose: Purpose) -> String {
        let sealed: Sealed = serde_json::from_slice(payload).unwrap();
        self.open(&agent(name), &sealed, purpose).unwrap();
        sealed.text
    }

    /// What an agent shows; its seal holds.
    pub(crate) fn heartbeat(&self, name: &str) -> Option<Value> {
        let entry = self.get(subjects::FACTS, &subjects::facts(&agent(name)))?;
        Some(serde_json::from_str(&self.opened(name, &entry.value, Purpose::Facts)).unwrap())
    }

    /// What an agent says of itself.
    pub(crate) fn facts(&self, name: &str) -> Option<Value> {
        self.heartbeat(name).map(|mut heartbeat| heartbeat["facts"].take())
    }

    /// What an agent reported to the auditors; the seals hold.
    pub(crate) fn audit(&self, name: &str) -> Vec<AuditRecord> {
        let entries = self.read(subjects::AUDIT, &subjects::audit(&agent(name)));
        let texts = entries.iter().map(|entry| self.opened(name, &entry.value, Purpose::Audit));
        texts.map(|text| serde_json::from_str(&text).unwrap()).collect()
    }

    /// The alerts of all agents in the order of the stream, those that came twice once, and how many messages were
    /// none: forged, or moved to another agent's subject.
    pub(crate) fn alerts(&self) -> (Vec<FleetAlert>, usize) {
        let mut flagged = 0;
        let mut alerts: Vec<FleetAlert> = Vec::new();
        let mut links = BTreeMap::new();
        for entry in self.read(subjects::ALERTS, subjects::EVERY_ALERT) {
            let checked = || {
                let name: AgentId = entry.subject.split('.').nth(2)?.parse().ok()?;
                let sealed: Sealed = serde_json::from_slice(&entry.value).ok()?;
                self.open(&name, &sealed, Purpose::Alert).ok()?;
                let alert: FleetAlert = serde_json::from_str(&sealed.text).ok()?;
                (subjects::alert(&alert.agent) == entry.subject).then_some(alert)
            };
            match checked() {
                Some(alert) => {
                    let place = (alert.agent.clone(), alert.journal.clone(), alert.seq);
                    match links.insert(place, alert.link()) {
                        None => alerts.push(alert),
                        Some(before) => {
                            assert_eq!(before, alert.link(), "two alerts of one number: {alert:?}")
                        }
                    }
                }
                None => flagged += 1,
            }
        }
        (alerts, flagged)
    }
}

async fn administrator(broker: &LocalBroker) -> Connection {
    let (events, _) = mpsc::channel(1);
    let settings = broker.connection_settings(Role::Administrator, &agent("admin"));
    connect(settings, events).await.unwrap()
}

/// A host that belongs to a fleet.
pub(crate) struct Member {
    pub(crate) host: Host,
    /// Its `[fleet]`.
    pub(crate) section: String,
}

impl Member {
    /// Where `trace` and `both` leave what they were asked.
    pub(crate) fn trace_path(&self) -> PathBuf {
        self.host.path("trace")
    }

    /// What was run, by the mark in its parameters.
    pub(crate) fn trace(&self) -> Vec<String> {
        let text = std::fs::read_to_string(self.trace_path()).unwrap_or_default();
        text.lines()
            .map(|line| {
                let request: Value = serde_json::from_str(line).unwrap();
                request["parameters"]["mark"].as_str().unwrap().to_owned()
            })
            .collect()
    }

    /// Writes the configuration with its modules; `fleet` are further keys of `[fleet]`.
    pub(crate) fn configure(&self, fleet: &str, more: &str) {
        self.configure_with(&format!("{}{fleet}", self.section), &[], more);
    }

    /// The same with a fleet section of its own and further arguments of `trace`.
    pub(crate) fn configure_with(&self, section: &str, arguments: &[&str], more: &str) {
        let trace = self.trace_path();
        let mut all = vec![trace.to_str().unwrap()];
        all.extend(arguments);
        let modules: String = ["trace", "both", "free"]
            .map(|name| module("standard", name, "leaves_trace.sh", &all, ""))
            .concat();
        self.host.configure(&Settings::default(), &format!("{section}\n{modules}\n{more}"));
    }

    /// How its link is.
    pub(crate) fn status(&self) -> Value {
        self.host.status()["fleet"].take()
    }

    /// Waits until the link is as `is_so` wants it.
    pub(crate) fn wait(&self, what: &str, is_so: impl Fn(&Value) -> bool) -> Value {
        let mut newest = Value::Null;
        patiently(what, || {
            let status = self.status();
            if status != newest {
                println!("{status}");
                newest = status.clone();
            }
            is_so(&status).then_some(status)
        })
    }

    /// Waits until it has a broker and a policy.
    pub(crate) fn wait_connected(&self) -> Value {
        self.wait("the agent joins", |status| {
            status["connected"] == true && status["policy_version"].is_u64()
        })
    }
}
