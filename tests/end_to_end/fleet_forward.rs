//! Forwarders of a fleet's alerts: two instances share the work, and kill -9 of one loses none.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use vigie_fleet::agent_key::AgentKey;
use vigie_fleet::answer::{Continued, FleetAlert, Purpose};
use vigie_fleet::broker::consumer::{self, Begin};
use vigie_fleet::broker::jwt::Role;
use vigie_fleet::broker::stored;
use vigie_fleet::enrolment::Enrolment;
use vigie_fleet::subjects;
use vigie_protocol::names::AgentId;

use crate::fleet_query::{Fleet, enrol, fleet};
use crate::harness::VIGIE;
use crate::receivers::{Receiver, status};

/// Alerts of each agent.
const ALERTS: u64 = 1500;

/// Longest that anything here may take: what a killed instance held is given out again after half a minute.
const CEILING: Duration = Duration::from_secs(150);

/// An instance, which does not outlive its test.
struct Instance {
    child: Child,
    out: std::path::PathBuf,
}

impl Drop for Instance {
    fn drop(&mut self) {
        // Only this very child, and nothing when it has ended.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

impl Instance {
    /// Starts an instance of the group `siem` that writes into a file of its own.
    fn start(fleet: &Fleet, name: &str) -> Self {
        let out = fleet.place.path().join(format!("{name}.jsonl"));
        Self::with_sink(fleet, name, &format!("kind = \"file\"\npath = {out:?}\n"))
    }

    /// The same with a sink of another kind.
    fn with_sink(fleet: &Fleet, name: &str, sink: &str) -> Self {
        let place = fleet.place.path();
        let out = place.join(format!("{name}.jsonl"));
        let config = place.join(format!("{name}.toml"));
        fs::write(&config, format!("[[sink]]\nname = \"{name}\"\nbatch_alerts = 20\n{sink}")).unwrap();
        let child = Command::new(VIGIE)
            .args(["fleet", "forward", "--fleet"])
            .arg(place.join("siem.toml"))
            .arg("--sink")
            .arg(config)
            .env("XDG_STATE_HOME", place)
            .stdin(Stdio::null())
            .stdout(File::create(place.join(format!("{name}.out"))).unwrap())
            .stderr(File::create(place.join(format!("{name}.err"))).unwrap())
            .spawn()
            .unwrap();
        Self { child, out }
    }

    /// What its receiver has; the last line may be half written.
    fn got(&self) -> Vec<Value> {
        let text = fs::read_to_string(&self.out).unwrap_or_default();
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }
}

async fn store(fleet: &Fleet, agent: &AgentId, key: &AgentKey, seq: u64) {
    store_alert(fleet, key, alert(agent, seq)).await;
}

fn alert(agent: &AgentId, seq: u64) -> FleetAlert {
    FleetAlert {
        v: 1,
        agent: agent.clone(),
        journal: format!("journal-of-{agent}"),
        seq,
        time: "2026-11-29T00:00:00Z".to_owned(),
        module: "fswatch".to_owned(),
        message: json!({"severity": "high", "alert": format!("alert {seq} of {agent}")}).to_string(),
        dropped: Vec::new(),
        previous: None,
        continues: None,
    }
}

async fn store_alert(fleet: &Fleet, key: &AgentKey, alert: FleetAlert) {
    let sealed = key.seal(Purpose::Alert, serde_json::to_string(&alert).unwrap()).unwrap();
    let payload = serde_json::to_vec(&sealed).unwrap();
    stored::store(&fleet.administrator.client, &subjects::alert(&alert.agent), &payload).await.unwrap();
}

/// Makes the group `siem` with its file.
async fn make_group(fleet: &Fleet) {
    let group: AgentId = "siem".parse().unwrap();
    consumer::ensure(&fleet.administrator.client, &group, Begin::Oldest).await.unwrap();
    let credentials = fleet.broker.credentials_file(Role::Forwarder, &group).unwrap();
    let investigator = fs::read_to_string(fleet.place.path().join("fleet.toml")).unwrap();
    let roots = investigator.lines().find(|line| line.starts_with("roots")).unwrap();
    let profile = format!(
        "role = \"forwarder\"\norg = \"o\"\nuser = \"siem\"\nurls = [{:?}]\ncredentials = {credentials:?}\n{roots}\n",
        fleet.broker.url()
    );
    fs::write(fleet.place.path().join("siem.toml"), profile).unwrap();
}

async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let start = tokio::time::Instant::now();
    while !is_so() {
        assert!(start.elapsed() < CEILING, "waited too long: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn an_alert_that_the_receiver_rejects_is_a_line_with_the_reason_and_holds_no_other_up() {
    let Some(fleet) = fleet(1).await else { return };
    make_group(&fleet).await;
    let (agent, key) = &fleet.agents[0];
    for seq in 1..=5 {
        store(&fleet, agent, key, seq).await;
    }
    let receiver = Receiver::start(|got, _| {
        let is_bad = String::from_utf8_lossy(&got.body).contains("alert 2 of");
        Some(if is_bad { status("422 No", "", "the field is too long") } else { status("200 OK", "", "") })
    });
    let sink = format!("kind = \"webhook\"\nurl = {:?}\n", receiver.url());
    let _instance = Instance::with_sink(&fleet, "hook", &sink);
    let printed = || -> Vec<Value> {
        let text = fs::read_to_string(fleet.place.path().join("hook.out")).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let accepted = || -> BTreeSet<u64> {
        let bodies =
            receiver.got().into_iter().filter_map(|got| serde_json::from_slice::<Vec<Value>>(&got.body).ok());
        let good = bodies.filter(|alerts| !alerts.iter().any(|alert| alert["seq"] == 2));
        good.flatten().filter_map(|alert| alert["seq"].as_u64()).collect()
    };

    until("the others are accepted, and the line is there", || {
        accepted().len() == 4 && !printed().is_empty()
    })
    .await;

    assert_eq!(accepted(), [1, 3, 4, 5].into());
    let lines = printed();
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert_eq!((&lines[0]["sink"], &lines[0]["alert"]["seq"]), (&json!("hook"), &json!(2)), "{lines:?}");
    assert_eq!(lines[0]["alert"]["host"]["name"], agent.as_str(), "{lines:?}");
    assert!(lines[0]["refused"].as_str().unwrap().contains("422: the field is too long"), "{lines:?}");
}

#[tokio::test]
async fn two_instances_share_the_alerts_and_kill_9_of_one_loses_none() {
    let Some(fleet) = fleet(2).await else { return };
    make_group(&fleet).await;

    for (agent, key) in &fleet.agents {
        for seq in 1..=ALERTS / 2 {
            store(&fleet, agent, key, seq).await;
        }
    }
    // Somebody who writes in the name of an agent without its key, and something that is no alert at all.
    let (victim, _) = &fleet.agents[0];
    store(&fleet, victim, &AgentKey::generate(), 1).await;
    stored::store(&fleet.administrator.client, &subjects::alert(victim), b"junk").await.unwrap();

    let mut one = Instance::start(&fleet, "one");
    let two = Instance::start(&fleet, "two");
    until("both have some", || one.got().len() >= 100 && two.got().len() >= 100).await;
    one.child.kill().unwrap();
    one.child.wait().unwrap();
    for (agent, key) in &fleet.agents {
        for seq in ALERTS / 2 + 1..=ALERTS {
            store(&fleet, agent, key, seq).await;
        }
    }

    let wanted: BTreeSet<(String, u64)> = fleet
        .agents
        .iter()
        .flat_map(|(agent, _)| (1..=ALERTS).map(move |seq| (agent.to_string(), seq)))
        .collect();
    let all = || one.got().into_iter().chain(two.got()).collect::<Vec<Value>>();
    let of_agents = |all: &[Value]| -> Vec<(String, u64)> {
        let of = |alert: &Value| {
            (alert["host"]["name"].as_str().unwrap().to_owned(), alert["seq"].as_u64().unwrap())
        };
        all.iter().filter(|alert| alert["module"] == "fswatch").map(of).collect()
    };
    until("every alert is there", || {
        of_agents(&all()).into_iter().collect::<BTreeSet<_>>().is_superset(&wanted)
            && all().iter().filter(|alert| alert["module"] == "fleet").count() >= 2
    })
    .await;

    let got = all();
    let numbers = of_agents(&got);
    assert_eq!(numbers.iter().cloned().collect::<BTreeSet<_>>(), wanted, "nothing that nobody sealed");
    let mut copies: BTreeMap<(String, u64), (usize, usize)> = BTreeMap::new();
    for alert in got.iter().filter(|alert| alert["module"] == "fswatch") {
        let id = (alert["host"]["name"].as_str().unwrap().to_owned(), alert["seq"].as_u64().unwrap());
        let (all, marked) = copies.entry(id).or_default();
        *all += 1;
        *marked += usize::from(alert["resent"] == true);
    }
    for (id, (all, marked)) in &copies {
        assert!(all - marked <= 1, "{id:?}: {all} copies of which {marked} are marked");
    }
    let doubles = numbers.len() - wanted.len();
    println!("{} alerts, {doubles} of them twice after kill -9", wanted.len());
    let told: BTreeSet<&str> = got
        .iter()
        .filter(|alert| alert["module"] == "fleet")
        .map(|alert| {
            assert_eq!(
                (&alert["severity"], &alert["alert"]["event"]),
                (&json!("high"), &json!("unverified"))
            );
            alert["message"].as_str().unwrap()
        })
        .collect();
    assert_eq!(told.len(), 2, "{told:?}");
    assert!(told.iter().all(|text| text.contains("in the name of sim-0 is invalid")), "{told:?}");

    let mut two = two;
    kill(Pid::from_raw(two.child.id().try_into().unwrap()), Signal::SIGTERM).unwrap();
    until("it ends", || two.child.try_wait().unwrap().is_some()).await;
    assert_eq!(two.child.wait().unwrap().code(), Some(0));
    // What it had is done: another instance gets nothing.
    let three = Instance::start(&fleet, "three");
    let before = fleet.agents[0].clone();
    store(&fleet, &before.0, &before.1, ALERTS + 1).await;
    until("the newest one came", || !three.got().is_empty()).await;
    assert_eq!(of_agents(&three.got()), [(before.0.to_string(), ALERTS + 1)]);
}

#[tokio::test]
async fn hosts_that_join_and_keys_that_change_while_it_runs_cost_no_alert() {
    let Some(fleet) = fleet(1).await else { return };
    make_group(&fleet).await;
    let (known, old) = fleet.agents[0].clone();
    store(&fleet, &known, &old, 1).await;
    let instance = Instance::start(&fleet, "one");
    until("the first came", || instance.got().len() == 1).await;
    let now = jiff::Timestamp::now().as_second();

    // One after the other: what was read for the first says nothing of the second.
    let mut wanted = BTreeSet::from([(known.to_string(), 1)]);
    for name in ["new-1", "new-2"] {
        let (agent, key): (AgentId, _) = (name.parse().unwrap(), AgentKey::generate());
        enrol(&fleet.administrator, &Enrolment::new("o", &agent, key.public_key(), now)).await;
        store(&fleet, &agent, &key, 1).await;
        wanted.insert((name.to_owned(), 1));
        until("it came", || instance.got().len() == wanted.len()).await;
    }
    let new = AgentKey::generate();
    let before = Enrolment::new("o", &known, old.public_key(), now);
    enrol(&fleet.administrator, &before.next(new.public_key(), now + 1, false)).await;
    store(&fleet, &known, &new, 2).await;
    wanted.insert((known.to_string(), 2));
    until("it came", || instance.got().len() == wanted.len()).await;

    let got: BTreeSet<(String, u64)> = instance
        .got()
        .iter()
        .map(|alert| (alert["host"]["name"].as_str().unwrap().to_owned(), alert["seq"].as_u64().unwrap()))
        .collect();
    assert_eq!(got, wanted, "{:?}", instance.got());
}

#[tokio::test]
async fn a_journal_under_another_name_is_reported_and_its_alerts_are_others() {
    let Some(fleet) = fleet(1).await else { return };
    make_group(&fleet).await;
    let (agent, key) = fleet.agents[0].clone();
    let instance = Instance::start(&fleet, "one");
    store(&fleet, &agent, &key, 1).await;
    store(&fleet, &agent, &key, 2).await;
    let continues = Some(Continued { journal: format!("journal-of-{agent}"), seq: 1 });
    let renamed = FleetAlert { journal: "renamed".to_owned(), continues, ..alert(&agent, 2) };
    store_alert(&fleet, &key, renamed).await;

    until("all came", || instance.got().len() == 4).await;

    let got = instance.got();
    let of = |journal: &str, seq: u64| {
        let is_so = |alert: &&Value| alert["journal"] == journal && alert["seq"] == seq;
        got.iter().filter(is_so).count()
    };
    let before = format!("journal-of-{agent}");
    assert_eq!((of(&before, 1), of(&before, 2), of("renamed", 2)), (1, 1, 1), "{got:#?}");
    let told = got.iter().find(|alert| alert["module"] == "fleet").unwrap();
    assert_eq!((&told["severity"], &told["alert"]["event"]), (&json!("high"), &json!("renamed")), "{told}");
    assert!(told["message"].as_str().unwrap().contains(&before), "{told}");
}

#[tokio::test]
async fn what_cannot_be_forwarded_safely_is_refused_before_anything_is_taken() {
    let Some(fleet) = fleet(1).await else { return };
    let place = fleet.place.path();
    let investigator = fs::read_to_string(place.join("fleet.toml")).unwrap();
    fs::write(place.join("forwarder.toml"), format!("role = \"forwarder\"\n{investigator}")).unwrap();
    fs::write(
        place.join("udp.toml"),
        "[[sink]]\nname = \"udp\"\nkind = \"syslog\"\ntransport = \"udp\"\naddress = \"127.0.0.1:514\"\n",
    )
    .unwrap();
    fs::write(place.join("none.toml"), "[logging]\nmode = \"stderr\"\n").unwrap();
    for (profile, sink, said) in [
        ("fleet.toml", "none.toml", "is not a forwarder's file"),
        ("forwarder.toml", "none.toml", "no sink is configured"),
        ("forwarder.toml", "udp.toml", "does not acknowledge"),
    ] {
        let ran = Command::new(VIGIE)
            .args(["fleet", "forward", "--fleet"])
            .arg(place.join(profile))
            .arg("--sink")
            .arg(place.join(sink))
            .output()
            .unwrap();
        let err = String::from_utf8_lossy(&ran.stderr);
        assert_eq!(ran.status.code(), Some(78), "{sink}: {err}");
        assert!(err.contains(said), "{sink}: {err}");
    }
}

#[test]
fn a_forwarder_without_proc_is_told_what_to_mount() {
    let without_proc = |program: &str| {
        let mut command = Command::new("timeout");
        let seconds = CEILING.as_secs().to_string();
        command.args([
            "-k",
            "1",
            &seconds,
            "unshare",
            "-m",
            "sh",
            "-c",
            "umount -l /proc && exec \"$@\"",
            "sh",
        ]);
        command.arg(program).stdin(Stdio::null());
        command
    };
    // Root in a container may lack what it takes.
    if !without_proc("true").output().is_ok_and(|ran| ran.status.success()) {
        return vigie_skipped::skipped("/proc cannot be unmounted in a mount namespace here");
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let Some(fleet) = runtime.block_on(fleet(0)) else { return };
    runtime.block_on(make_group(&fleet));
    let sink = fleet.place.path().join("sink.toml");
    let out = fleet.place.path().join("out.jsonl");
    fs::write(&sink, format!("[[sink]]\nname = \"out\"\nkind = \"file\"\npath = {out:?}\n")).unwrap();

    let ran = without_proc(VIGIE)
        .args(["fleet", "forward", "--fleet"])
        .arg(fleet.place.path().join("siem.toml"))
        .arg("--sink")
        .arg(&sink)
        .output()
        .unwrap();

    let errors = String::from_utf8_lossy(&ran.stderr);
    assert_eq!(ran.status.code(), Some(69), "{errors}");
    assert!(errors.contains("/proc is not mounted") && errors.contains("mount -t proc"), "{errors}");
}
