//! Questions to the fleet from the command line: no answer is lost, whatever happens to whoever waits for it, and
//! nothing counts that no agent sealed.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use futures_util::StreamExt as _;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::process::{Child, Command};
use tokio::sync::mpsc;
use vigie_fleet::action::{Action, Envelope, NAMESPACE};
use vigie_fleet::agent_key::AgentKey;
use vigie_fleet::answer::Purpose;
use vigie_fleet::broker::client::Subscription;
use vigie_fleet::broker::connection::{self, Connection};
use vigie_fleet::broker::jwt::Role;
use vigie_fleet::broker::local::{LocalBroker, LocalBrokerSettings, find_server};
use vigie_fleet::broker::stored;
use vigie_fleet::broker::streams;
use vigie_fleet::collect;
use vigie_fleet::enrolment::{self, Enrolment, SignedEnrolment};
use vigie_fleet::policy;
use vigie_fleet::signature::SigningKey;
use vigie_fleet::subjects;
use vigie_protocol::names::{ActionId, AgentId};

use crate::harness::VIGIE;

/// Agents whose answers are waited for; the goal's number is 5,000.
const AGENTS_VARIABLE: &str = "VIGIE_FLEET_ANSWERS";

/// Bytes of each answer.
const ANSWER_BYTES: usize = 64 * 1024;

/// Longest that anything here may take.
const CEILING: Duration = Duration::from_secs(300);

/// A fleet whose agents are played by the test.
pub(crate) struct Fleet {
    pub(crate) broker: LocalBroker,
    pub(crate) administrator: Connection,
    pub(crate) agents: Vec<(AgentId, AgentKey)>,
    pub(crate) place: TempDir,
    /// What ann asks, as it comes.
    asked: tokio::sync::Mutex<Subscription>,
}

fn now() -> i64 {
    jiff::Timestamp::now().as_second()
}

/// Stores an enrolment that the clerk of [`fleet`] signed.
pub(crate) async fn enrol(administrator: &Connection, enrolment: &Enrolment) {
    let record = enrolment.to_text();
    let clerk = SigningKey::from_seed(&[3; 32]);
    let sigs = vec![clerk.sign(enrolment::NAMESPACE, record.as_bytes()).unwrap()];
    let value = serde_json::to_vec(&SignedEnrolment { record, sigs }).unwrap();
    stored::store(&administrator.client, &subjects::enrolment(&enrolment.agent), &value).await.unwrap();
}

/// The policy of [`fleet`], as its root key signs it.
fn signed_policy() -> Vec<u8> {
    let (root, ann, clerk) =
        (SigningKey::from_seed(&[1; 32]), SigningKey::from_seed(&[2; 32]), SigningKey::from_seed(&[3; 32]));
    let document = json!({
        "v": 1, "org": "o", "version": 1,
        "roots": {"keys": [root.public_key()], "threshold": 1},
        "enrolment": [clerk.public_key()],
        "investigators": {"ann": {"keys": [{"key": ann.public_key()}]}},
        "acl": {"default": {"minimum_weight": 1, "investigators": {"ann": 1}}}
    })
    .to_string();
    let sigs = [root.sign(policy::NAMESPACE, document.as_bytes()).unwrap()];
    json!({"sigs": sigs, "policy": document}).to_string().into_bytes()
}

/// A fleet, or nothing where there is no broker to be had.
pub(crate) async fn fleet(count: usize) -> Option<Fleet> {
    if find_server().is_err() {
        vigie_skipped::missing("nats-server");
        return None;
    }
    let place = tempfile::tempdir().unwrap();
    let broker =
        LocalBroker::start(LocalBrokerSettings::new(place.path().join("broker"), "o", now())).await.unwrap();
    let settings = broker.connection_settings(Role::Administrator, &"admin".parse().unwrap());
    let (events, _) = mpsc::channel(8);
    let administrator = connection::connect(settings, events).await.unwrap();
    streams::ensure(&administrator.client, &streams::StreamSizes::default()).await.unwrap();

    stored::store(&administrator.client, subjects::POLICY_SUBJECT, &signed_policy()).await.unwrap();
    let (root, ann) = (SigningKey::from_seed(&[1; 32]), SigningKey::from_seed(&[2; 32]));

    let mut agents = Vec::new();
    for number in 0..count {
        agents.push(join(&administrator, &format!("sim-{number}")).await);
    }
    let credentials = broker.credentials_file(Role::Investigator, &"ann".parse().unwrap()).unwrap();
    ann.write_new(&place.path().join("ann"), "ann").unwrap();
    let profile = format!(
        "org = \"o\"\nuser = \"ann\"\nurls = [{:?}]\ncredentials = {credentials:?}\nroots = [\"{}\"]\nsigning_key = \"ann\"\n",
        broker.url(),
        root.public_key()
    );
    fs::write(place.path().join("fleet.toml"), profile).unwrap();
    let asked = administrator.client.subscribe("vigie.ask.ann").unwrap();
    administrator.client.flush(CEILING).await.unwrap();
    Some(Fleet { broker, administrator, agents, place, asked: tokio::sync::Mutex::new(asked) })
}

/// A host that joins: it is enrolled, and shows what it is.
async fn join(administrator: &Connection, name: &str) -> (AgentId, AgentKey) {
    let agent: AgentId = name.parse().unwrap();
    let key = AgentKey::generate();
    enrol(administrator, &Enrolment::new("o", &agent, key.public_key(), now())).await;
    let joined = (agent, key);
    show(administrator, &joined).await;
    joined
}

/// A host shows what it is.
async fn show(administrator: &Connection, (agent, key): &(AgentId, AgentKey)) {
    let facts = json!({"agent": agent, "hostname": agent, "os": "linux", "arch": "amd64", "kernel": "6.1",
        "agent_version": "0.1.0", "modules": ["netstat"]});
    let shown = json!({"v": 1, "sent": now(), "live": "0123456789abcdef0123456789abcdef", "facts": facts,
        "life": {"machine": "m", "boot": "b", "epoch": "e", "count": 1}});
    let facts = key.seal(Purpose::Facts, shown.to_string()).unwrap();
    let facts = serde_json::to_vec(&facts).unwrap();
    stored::store(&administrator.client, &subjects::facts(agent), &facts).await.unwrap();
}

/// What a module answered, of about this size.
fn answer_text(agent: &AgentId, bytes: usize) -> String {
    json!({"status": "ok", "hostname": agent, "time": "2026-01-01T00:00:00Z", "operations": [{"module": "netstat",
        "result": {"foundanything": true, "success": true, "elements": {"fill": "x".repeat(bytes)}, "statistics": null, "errors": null}}]})
    .to_string()
}

impl Fleet {
    fn file(&self, name: &str) -> PathBuf {
        self.place.path().join(name)
    }

    /// Starts the command line, which writes into a file so that nobody has to read it meanwhile.
    fn start(&self, name: &str, arguments: &[&str]) -> Child {
        Command::new(VIGIE)
            .args(arguments)
            .env("VIGIE_FLEET", self.file("fleet.toml"))
            .env("XDG_STATE_HOME", self.place.path())
            .stdin(Stdio::null())
            .stdout(File::create(self.file(name)).unwrap())
            .stderr(File::create(self.file("errors")).unwrap())
            .spawn()
            .unwrap()
    }

    /// The next action that is asked, when it is another than `before`.
    async fn asked_after(&self, before: Option<&ActionId>) -> Action {
        let mut asked = self.asked.lock().await;
        loop {
            let message = tokio::time::timeout(CEILING, asked.next()).await;
            let message = message.expect("something is asked").expect("the broker is there");
            let envelope: Envelope = serde_json::from_slice(&message.payload).unwrap();
            let action: Action = serde_json::from_str(&envelope.action).unwrap();
            if Some(&action.id) != before {
                return action;
            }
        }
    }

    async fn action_after(&self, before: Option<&ActionId>) -> ActionId {
        self.asked_after(before).await.id
    }

    /// Sends the answers of some agents; all are stored when this returns.
    async fn answer(&self, action: &ActionId, agents: &[(AgentId, AgentKey)], bytes: usize) {
        futures_util::stream::iter(agents)
            .map(|(agent, key)| async move {
                self.answer_with(action, agent, key, &answer_text(agent, bytes)).await;
            })
            .buffer_unordered(64)
            .collect::<Vec<()>>()
            .await;
    }

    async fn answer_with(&self, action: &ActionId, agent: &AgentId, key: &AgentKey, text: &str) {
        for part in collect::cut(action, agent, text) {
            let sealed = key.seal(Purpose::Answer, serde_json::to_string(&part).unwrap()).unwrap();
            let payload = serde_json::to_vec(&sealed).unwrap();
            self.publish(&subjects::answer(action, agent), payload).await;
        }
    }

    /// The broker forgets what it has of this subject.
    async fn purge(&self, stream: &str, subject: &str) {
        let purge = format!("$JS.API.STREAM.PURGE.{stream}");
        stored::api(&self.administrator.client, &purge, &json!({"filter": subject})).await.unwrap();
    }

    /// The agent found nothing.
    async fn answer_nothing(&self, action: &ActionId, (agent, key): &(AgentId, AgentKey)) {
        let text = answer_text(agent, 10).replace("\"foundanything\":true", "\"foundanything\":false");
        self.answer_with(action, agent, key, &text).await;
    }

    async fn publish(&self, subject: &str, payload: Vec<u8>) {
        while let Err(error) = stored::store(&self.administrator.client, subject, &payload).await {
            assert!(error.is_transient(), "{error:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

fn signal(child: &Child, signal: Signal) {
    let id = child.id().expect("it was not waited for");
    kill(Pid::from_raw(id.try_into().unwrap()), signal).unwrap();
}

async fn wait(child: &mut Child) -> i32 {
    let ended = tokio::time::timeout(CEILING, child.wait()).await;
    ended.expect("the command ends").unwrap().code().unwrap_or(-1)
}

/// Waits until the file has a line of this type.
async fn wait_for_line(path: &Path, of_type: &str) {
    let start = tokio::time::Instant::now();
    while !lines(path).iter().any(|line| line["type"] == of_type) {
        assert!(start.elapsed() < CEILING, "no line of type {of_type}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// The whole lines of JSON that a command has written.
fn lines(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap();
    text.split_inclusive('\n')
        .filter(|line| line.ends_with('\n'))
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

fn answered(path: &Path) -> Vec<String> {
    let mut agents: Vec<String> = lines(path)
        .iter()
        .filter(|line| line["type"] == "answer")
        .map(|line| line["agent"].as_str().unwrap().to_owned())
        .collect();
    agents.sort();
    agents
}

#[tokio::test]
async fn a_client_that_is_stopped_or_killed_loses_no_answer() {
    let count = std::env::var(AGENTS_VARIABLE).ok().map_or(100, |text| text.parse().unwrap());
    let Some(fleet) = fleet(count).await else { return };
    let mut names: Vec<String> = fleet.agents.iter().map(|(agent, _)| agent.to_string()).collect();
    names.sort();
    let question = ["query", "netstat", "-t", "all", "--listening-port", "22", "--wait", "all", "--json"];

    // Stopped while all answers come, and longer than the broker would wait for a reader.
    let mut client = fleet.start("first", &question);
    let action = fleet.action_after(None).await;
    fleet.answer(&action, &fleet.agents[..1], ANSWER_BYTES).await;
    wait_for_line(&fleet.file("first"), "answer").await;
    signal(&client, Signal::SIGSTOP);
    fleet.answer(&action, &fleet.agents[1..], ANSWER_BYTES).await;
    signal(&client, Signal::SIGCONT);
    assert_eq!(wait(&mut client).await, 0, "{}", fs::read_to_string(fleet.file("errors")).unwrap());
    assert_eq!(answered(&fleet.file("first")), names);

    // Killed while answers come: whoever asks for the results has the same.
    let mut client = fleet.start("second", &question);
    let action = fleet.action_after(Some(&action)).await;
    fleet.answer(&action, &fleet.agents[..1], ANSWER_BYTES).await;
    wait_for_line(&fleet.file("second"), "answer").await;
    signal(&client, Signal::SIGKILL);
    wait(&mut client).await;
    fleet.answer(&action, &fleet.agents[1..], ANSWER_BYTES).await;
    let mut client = fleet.start("third", &["fleet", "results", action.as_str(), "--json"]);
    assert_eq!(wait(&mut client).await, 0, "{}", fs::read_to_string(fleet.file("errors")).unwrap());
    assert_eq!(answered(&fleet.file("third")), names);
}

/// Whom an earlier query leaves in the dark is named, and no all-clear is given.
#[tokio::test]
async fn a_hunt_goes_on_where_an_earlier_query_found_something() {
    let Some(fleet) = fleet(4).await else { return };
    let profile = fs::read_to_string(fleet.file("fleet.toml")).unwrap();
    fs::write(fleet.file("fleet.toml"), profile + "[targets]\nsims = 'hostname ~ \"sim-*\"'\n").unwrap();
    let errors = || fs::read_to_string(fleet.file("errors")).unwrap();
    let ask = ["query", "netstat", "-t", "@sims", "--listening-port", "22", "--json"];
    let mut client = fleet.start("asked", &[&ask[..], &["--wait", "none"]].concat());
    let Action { id: first, target, .. } = fleet.asked_after(None).await;
    assert_eq!(target, "hostname ~ \"sim-*\"");
    assert_eq!(wait(&mut client).await, 0, "{}", errors());
    fleet.answer(&first, &fleet.agents[..1], 10).await;
    for agent in &fleet.agents[1..3] {
        fleet.answer_nothing(&first, agent).await;
    }

    let hunt = [&ask[..], &["--found-in", first.as_str(), "--wait", "all"]].concat();
    let mut client = fleet.start("hunted", &hunt);
    let Action { id: second, agents, .. } = fleet.asked_after(Some(&first)).await;
    assert_eq!(agents, Some(vec![fleet.agents[0].0.clone()]));
    fleet.answer(&second, &fleet.agents[..1], 10).await;
    assert_eq!(wait(&mut client).await, 2, "nobody knows of the last one: {}", errors());
    assert_eq!(answered(&fleet.file("hunted")), ["sim-0"]);
    assert!(errors().contains("not queried: 1 ") && errors().contains("sim-3"), "{}", errors());

    fleet.answer_nothing(&first, &fleet.agents[3]).await;
    let mut client = fleet.start("again", &hunt);
    let third = fleet.action_after(Some(&second)).await;
    fleet.answer(&third, &fleet.agents[..1], 10).await;
    assert_eq!(wait(&mut client).await, 0, "{}", errors());

    for (more, code, said) in [
        (["--found-in", "0123456789abcdef0123456789abcdef"], 64, "holds neither the query"),
        (["-t", "@nobody"], 64, "no target @nobody: saved are @sims"),
    ] {
        let plain = if more[0] == "-t" { &ask[..2] } else { &ask[..] };
        let mut client = fleet.start("wrong", &[plain, &more[..]].concat());
        assert_eq!(wait(&mut client).await, code, "{}", errors());
        assert!(errors().contains(said), "{}", errors());
    }
}

#[tokio::test]
async fn a_hunt_gives_no_all_clear_for_agents_whose_facts_are_gone() {
    let Some(fleet) = fleet(4).await else { return };
    let errors = || fs::read_to_string(fleet.file("errors")).unwrap();
    let ask = ["query", "netstat", "-t", "all", "--listening-port", "22", "--json"];
    for (name, batch) in [("listed", &["--batch", "10"][..]), ("open", &[])] {
        let mut client = fleet.start(name, &[&ask[..], batch, &["--wait", "none"]].concat());
        let Action { id, agents, .. } = fleet.asked_after(None).await;
        assert_eq!(agents.map(|agents| agents.len()), (name == "listed").then_some(4));
        assert_eq!(wait(&mut client).await, 0, "{}", errors());
        fleet.answer(&id, &fleet.agents[..1], 10).await;
        for agent in &fleet.agents[1..3] {
            fleet.answer_nothing(&id, agent).await;
        }
        for agent in [0, 2, 3] {
            fleet.purge(subjects::FACTS, &subjects::facts(&fleet.agents[agent].0)).await;
        }

        let mut client = fleet.start("hunted", &[&ask[..], &["--found-in", id.as_str()]].concat());
        assert_eq!(wait(&mut client).await, 2, "{name}: {}", errors());
        assert!(
            errors().contains("found something there and now show no valid facts: sim-0\n"),
            "{}",
            errors()
        );
        assert!(errors().contains("or did not examine everything there: sim-3\n"), "{}", errors());
        let mut client = fleet.start("results", &["fleet", "results", id.as_str(), "--json"]);
        let code = if name == "listed" { 3 } else { 2 };
        assert_eq!(wait(&mut client).await, code, "{name}: {}", errors());

        for agent in &fleet.agents {
            show(&fleet.administrator, agent).await;
        }
    }
}

/// Whoever may ask may store anything under the ID of a query that the broker no longer holds.
#[tokio::test]
async fn a_hunt_does_not_believe_a_query_that_nobody_signed() {
    let Some(fleet) = fleet(2).await else { return };
    let errors = || fs::read_to_string(fleet.file("errors")).unwrap();
    let ask = ["query", "netstat", "-t", "all", "--listening-port", "22", "--json"];
    let mut client = fleet.start("asked", &[&ask[..], &["--wait", "none"]].concat());
    let mut action = fleet.asked_after(None).await;
    wait(&mut client).await;
    fleet.answer_nothing(&action.id, &fleet.agents[1]).await;
    let asked = subjects::ask(&"ann".parse().unwrap());
    let newest = stored::get(&fleet.administrator.client, subjects::ASK, stored::Which::Last(&asked)).await;
    let genuine = newest.unwrap().unwrap().value;
    let id = action.id.clone();
    let hunt = [&ask[..], &["--found-in", id.as_str()]].concat();
    let unheld = "the broker no longer holds this query";

    fleet.purge(subjects::ASK, &asked).await;
    action.agents = Some(vec![fleet.agents[1].0.clone()]);
    let text = serde_json::to_string(&action).unwrap();
    let others = SigningKey::from_seed(&[9; 32]).sign(NAMESPACE, text.as_bytes()).unwrap();
    let Envelope { sigs, .. } = serde_json::from_slice(&genuine).unwrap();
    for sigs in [vec![], vec![others], sigs] {
        let forged = Envelope { action: text.clone(), sigs };
        fleet.publish(&asked, serde_json::to_vec(&forged).unwrap()).await;
    }
    let mut client = fleet.start("forged", &hunt);
    assert_eq!(wait(&mut client).await, 2, "{}", errors());
    assert!(errors().contains(unheld), "{}", errors());
    let mut client = fleet.start("results", &["fleet", "results", id.as_str(), "--json"]);
    assert_eq!(wait(&mut client).await, 2, "{}", errors());
    assert!(errors().contains(unheld), "{}", errors());

    // Forgeries before it hide no true one.
    fleet.publish(&asked, genuine.to_vec()).await;
    let mut client = fleet.start("genuine", &hunt);
    assert_eq!(wait(&mut client).await, 2, "{}", errors());
    assert!(!errors().contains(unheld) && errors().contains("there: sim-0\n"), "{}", errors());
}

#[tokio::test]
async fn whoever_follows_the_results_sees_hosts_that_join_meanwhile() {
    let Some(fleet) = fleet(2).await else { return };
    let question = ["query", "netstat", "-t", "all", "--listening-port", "22", "--wait", "none", "--json"];
    let mut client = fleet.start("asked", &question);
    let action = fleet.action_after(None).await;
    wait(&mut client).await;
    fleet.answer(&action, &fleet.agents[..1], 10).await;
    let follow = ["fleet", "results", action.as_str(), "-f", "--wait", "all", "--json"];
    let mut client = fleet.start("followed", &follow);
    wait_for_line(&fleet.file("followed"), "answer").await;

    let late = join(&fleet.administrator, "late").await;
    fleet.answer(&action, &[late], 10).await;
    let start = tokio::time::Instant::now();
    while answered(&fleet.file("followed")).len() < 2 {
        assert!(start.elapsed() < CEILING, "the host that joined is not seen");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    // Nobody of this name is enrolled.
    fleet.answer(&action, &[("stranger".parse().unwrap(), AgentKey::generate())], 10).await;
    fleet.answer(&action, &fleet.agents[1..], 10).await;

    assert_eq!(wait(&mut client).await, 0, "{}", fs::read_to_string(fleet.file("errors")).unwrap());
    assert_eq!(answered(&fleet.file("followed")), ["late", "sim-0", "sim-1"]);
}

#[tokio::test]
async fn an_agent_that_gets_another_key_while_it_is_asked_is_not_accused_of_a_forgery() {
    let Some(fleet) = fleet(2).await else { return };
    let question = ["query", "netstat", "-t", "all", "--listening-port", "22", "--wait", "all", "--json"];
    let mut client = fleet.start("asked", &question);
    let action = fleet.action_after(None).await;

    // The client has read whom it asks.
    let (agent, former) = &fleet.agents[0];
    let key = AgentKey::generate();
    let enrolled = Enrolment::new("o", agent, former.public_key(), now());
    enrol(&fleet.administrator, &enrolled.next(key.public_key(), now(), false)).await;
    fleet.answer(&action, &[(agent.clone(), key)], 10).await;
    fleet.answer(&action, &fleet.agents[1..], 10).await;

    assert_eq!(wait(&mut client).await, 0, "{}", fs::read_to_string(fleet.file("errors")).unwrap());
    assert_eq!(answered(&fleet.file("asked")), ["sim-0", "sim-1"]);
}

#[tokio::test]
async fn a_host_that_joins_while_the_broker_fails_is_looked_at_again() {
    let Some(fleet) = fleet(2).await else { return };
    let question = ["query", "netstat", "-t", "all", "--listening-port", "22", "--wait", "none", "--json"];
    let mut client = fleet.start("asked", &question);
    let action = fleet.action_after(None).await;
    wait(&mut client).await;
    fleet.answer(&action, &fleet.agents[..1], 10).await;
    let follow = ["fleet", "results", action.as_str(), "-f", "--wait", "all", "--json"];
    let mut client = fleet.start("followed", &follow);
    wait_for_line(&fleet.file("followed"), "answer").await;

    // The enrolment is read, and what proves it is not there.
    for _ in 0..streams::POLICY_VERSIONS {
        fleet.publish(subjects::POLICY_SUBJECT, b"damaged".to_vec()).await;
    }
    let reads = format!("$JS.API.DIRECT.GET.{}", subjects::POLICY);
    let mut reads = fleet.administrator.client.subscribe(&reads).unwrap();
    fleet.administrator.client.flush(CEILING).await.unwrap();
    let late = join(&fleet.administrator, "late").await;
    // It gave up, and tries again.
    for _ in 0..2 * streams::POLICY_VERSIONS {
        tokio::time::timeout(CEILING, reads.next()).await.unwrap().unwrap();
    }
    fleet.publish(subjects::POLICY_SUBJECT, signed_policy()).await;
    fleet.answer(&action, &[late], 10).await;
    let start = tokio::time::Instant::now();
    while answered(&fleet.file("followed")).len() < 2 {
        assert!(start.elapsed() < CEILING, "the host that joined is not seen");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    fleet.answer(&action, &fleet.agents[1..], 10).await;

    assert_eq!(wait(&mut client).await, 0, "{}", fs::read_to_string(fleet.file("errors")).unwrap());
    assert_eq!(answered(&fleet.file("followed")), ["late", "sim-0", "sim-1"]);
}

#[tokio::test]
async fn whoever_answers_one_of_several_actions_is_silent_to_the_others() {
    let Some(fleet) = fleet(2).await else { return };
    let question = ["query", "netstat", "-t", "all", "--listening-port", "22", "--wait", "none", "--json"];
    let mut actions: Vec<ActionId> = Vec::new();
    for name in ["one", "two"] {
        let mut client = fleet.start(name, &question);
        actions.push(fleet.action_after(actions.last()).await);
        wait(&mut client).await;
    }
    let [one, two] = &actions[..] else { panic!("two were asked") };
    fleet.answer(one, &fleet.agents[..1], 10).await;
    fleet.answer(two, &fleet.agents, 10).await;

    let mut client = fleet.start("results", &["fleet", "results", one.as_str(), two.as_str(), "--json"]);

    assert_eq!(wait(&mut client).await, 3);
    let lines = lines(&fleet.file("results"));
    assert!(lines.iter().any(|line| line["type"] == "silent" && line["agent"] == "sim-1"), "{lines:?}");

    // A host that joins while the first is followed is expected to answer both.
    fleet.answer(one, &fleet.agents[1..], 10).await;
    let follow = ["fleet", "results", one.as_str(), two.as_str(), "-f", "--wait", "all", "--json"];
    let slow = [join(&fleet.administrator, "slow").await];
    let mut client = fleet.start("followed", &follow);
    wait_for_line(&fleet.file("followed"), "answer").await;
    let late = [join(&fleet.administrator, "late").await];
    fleet.answer(one, &late, 10).await;
    let seen = async |count: usize| {
        let start = tokio::time::Instant::now();
        while answered(&fleet.file("followed")).len() < count {
            assert!(start.elapsed() < CEILING, "{:?}", answered(&fleet.file("followed")));
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    seen(3).await;
    fleet.answer(one, &slow, 10).await;
    fleet.answer(two, &slow, 10).await;
    seen(7).await;
    fleet.answer(two, &late, 10).await;

    assert_eq!(wait(&mut client).await, 0, "{}", fs::read_to_string(fleet.file("errors")).unwrap());
    assert_eq!(answered(&fleet.file("followed")).len(), 8);
}

#[tokio::test]
async fn a_host_that_answers_is_known_although_it_was_never_seen() {
    let Some(fleet) = fleet(1).await else { return };
    let (agent, key): (AgentId, _) = ("unseen".parse().unwrap(), AgentKey::generate());
    enrol(&fleet.administrator, &Enrolment::new("o", &agent, key.public_key(), now())).await;
    let question = ["query", "netstat", "-t", "all", "--listening-port", "22", "--wait", "none", "--json"];
    let mut client = fleet.start("asked", &question);
    let action = fleet.action_after(None).await;
    wait(&mut client).await;
    fleet.answer(&action, &fleet.agents, 10).await;
    let results = async |name: &str| {
        let mut client = fleet.start(name, &["fleet", "results", action.as_str(), "--json"]);
        let code = wait(&mut client).await;
        let lines = lines(&fleet.file(name));
        (code, lines.iter().any(|line| line["type"] == "silent" && line["agent"] == "unseen"))
    };

    assert_eq!(results("before").await, (2, true));
    fleet.answer(&action, &[(agent, key)], 10).await;

    assert_eq!(results("after").await, (0, false));
}

#[tokio::test]
async fn answers_go_on_over_a_restart_of_the_broker_and_the_silent_are_named() {
    let Some(mut fleet) = fleet(6).await else { return };
    let mut client = fleet.start(
        "out",
        &["query", "netstat", "-t", "all", "--listening-port", "22", "--wait", "80%", "--json"],
    );
    let action = fleet.action_after(None).await;
    fleet.answer(&action, &fleet.agents[..2], 10).await;
    wait_for_line(&fleet.file("out"), "answer").await;

    fleet.broker.kill().await.unwrap();
    fleet.broker.restart().await.unwrap();
    fleet.answer(&action, &fleet.agents[2..5], 10).await;

    assert_eq!(wait(&mut client).await, 3);
    let lines = lines(&fleet.file("out"));
    assert_eq!(answered(&fleet.file("out")).len(), 5);
    assert!(
        lines.contains(&json!({"type": "silent", "agent": "sim-5", "online": true, "known": true})),
        "{lines:?}"
    );
    let summary = lines.last().unwrap();
    assert_eq!((&summary["answered"], &summary["silent"]), (&json!(5), &json!(1)));
}

#[tokio::test]
async fn what_no_agent_sealed_is_flagged_and_does_not_count() {
    let Some(fleet) = fleet(4).await else { return };
    let mut client = fleet.start(
        "out",
        &["query", "netstat", "-t", "all", "--listening-port", "22", "--wait", "all", "--json"],
    );
    let action = fleet.action_after(None).await;
    let (honest, key) = &fleet.agents[0];
    let other = &fleet.agents[1].0;
    let part = collect::cut(&action, honest, &answer_text(honest, 10)).remove(0);
    let true_text = serde_json::to_string(&part).unwrap();
    let seal = |key: &AgentKey, text: &str| {
        serde_json::to_vec(&key.seal(Purpose::Answer, text.to_owned()).unwrap()).unwrap()
    };

    // Another key, another agent's answer, another text under a true seal.
    let third = &fleet.agents[2].0;
    fleet.publish(&subjects::answer(&action, other), seal(&AgentKey::generate(), &true_text)).await;
    fleet.publish(&subjects::answer(&action, third), seal(key, &true_text)).await;
    let mut changed = key.seal(Purpose::Answer, true_text.clone()).unwrap();
    changed.text = changed.text.replace("true", "false");
    fleet.publish(&subjects::answer(&action, honest), serde_json::to_vec(&changed).unwrap()).await;
    let start = tokio::time::Instant::now();
    while lines(&fleet.file("out")).iter().filter(|line| line["type"] == "flagged").count() < 3 {
        assert!(start.elapsed() < CEILING, "it is not flagged");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    fleet.answer(&action, &fleet.agents, 10).await;

    assert_eq!(wait(&mut client).await, 4);
    let lines = lines(&fleet.file("out"));
    let mut codes: Vec<&str> = lines
        .iter()
        .filter(|line| line["type"] == "flagged")
        .map(|line| line["code"].as_str().unwrap())
        .collect();
    codes.sort_unstable();
    assert_eq!(codes, ["bad_seal"; 3]);
    assert_eq!(answered(&fleet.file("out")).len(), 4, "the honest answers count");
}
