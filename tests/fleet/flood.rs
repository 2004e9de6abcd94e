//! One host that floods the broker at full speed, beside many agents: how much longer a question takes.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;
use vigie_fleet::broker::client::Outgoing;
use vigie_fleet::broker::connection::{ConnectionSettings, connect};
use vigie_fleet::broker::jwt::Role;
use vigie_fleet::broker::stored;
use vigie_fleet::subjects;

use crate::crowd::Crowd;
use crate::harness::{Fleet, action, agent, alice, id_of, number, server_is_missing, sign};

/// Questions of which a median is taken.
const ROUNDS: usize = 7;

/// Says all that it may as fast as it can.
struct Flooder {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Flooder {
    fn start(settings: ConnectionSettings) -> Self {
        let (stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stopped, counted) = (stop.clone(), sent.clone());
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(flood(settings, &stopped, &counted));
        });
        Self { stop, sent, thread: Some(thread) }
    }
}

impl Drop for Flooder {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let ended = self.thread.take().map(JoinHandle::join);
        assert!(ended.is_some_and(|ended| ended.is_ok()) || std::thread::panicking());
    }
}

async fn flood(settings: ConnectionSettings, stop: &AtomicBool, sent: &AtomicU64) {
    let (events, _kept) = mpsc::channel(8);
    let connection = connect(settings, events).await.unwrap();
    let client = &connection.client;
    let reply = client.new_inbox();
    // Nobody takes the answers: the broker has to get rid of them.
    let _answers = client.subscribe(&reply).unwrap();
    let junk = [b'x'; 512];
    // Stored, read, refused.
    let kinds: [(&str, &[u8]); 3] = [
        ("vigie.alert.flooder", &junk),
        ("$JS.API.DIRECT.GET.POLICY", br#"{"last_by_subj":"vigie.policy"}"#),
        ("vigie.alert.many-0", &junk),
    ];
    while !stop.load(Ordering::Relaxed) {
        for (subject, payload) in kinds {
            let message = Outgoing { subject, reply: Some(&reply), payload, ..Outgoing::default() };
            if client.publish(message).await.is_ok() {
                sent.fetch_add(1, Ordering::Relaxed);
            } else {
                tokio::task::yield_now().await;
            }
        }
    }
}

/// Asks all agents at once; how long it takes until the last has answered.
fn round(fleet: &Fleet, lives: &[String]) -> Duration {
    let action = action();
    let (id, envelope) = (id_of(&action), sign(&action, &[&alice()]));
    let client = &fleet.admin.client;
    fleet.block_on(async {
        let mut answers = client.subscribe(&subjects::answers_to(&id)).unwrap();
        client.flush(Duration::from_secs(60)).await.unwrap();
        let begin = Instant::now();
        while stored::store(client, "vigie.ask.alice", &envelope).await.is_err() {}
        for live in lives {
            client.send(live, &envelope).await.unwrap();
        }
        let mut from = BTreeSet::new();
        while from.len() < lives.len() {
            from.insert(answers.next().await.unwrap().subject.clone());
        }
        begin.elapsed()
    })
}

fn median(fleet: &Fleet, lives: &[String]) -> Duration {
    let mut rounds: Vec<Duration> = (0..ROUNDS).map(|_| round(fleet, lives)).collect();
    rounds.sort();
    rounds[ROUNDS / 2]
}

/// The ratio is printed and not asserted: what else the machine does would decide. Stays below 3 where it was measured.
#[test]
fn every_agent_answers_every_question_beside_a_flooder() {
    if server_is_missing() {
        return;
    }
    let agents = number("VIGIE_FLEET_AGENTS", 100);
    let mut fleet = Fleet::new();
    let names: Vec<String> = (0..agents).map(|at| format!("many-{at}")).collect();
    let crowd = Crowd::new(&mut fleet, &names, "");
    crowd.start(&names);
    crowd.wait_connected();
    let live = |name: &String| {
        crate::harness::patiently("the agent shows where it listens", || fleet.heartbeat(name))["live"]
            .as_str()
            .map(|secret| subjects::live(&agent(name), secret))
            .unwrap()
    };
    let lives: Vec<String> = names.iter().map(live).collect();
    round(&fleet, &lives);
    let alone = median(&fleet, &lives);
    let flooder = Flooder::start(fleet.broker.connection_settings(Role::Agent, &agent("flooder")));
    crate::harness::patiently("the flood comes", || {
        (flooder.sent.load(Ordering::Relaxed) > 50_000).then_some(())
    });

    let before = flooder.sent.load(Ordering::Relaxed);
    let beside = median(&fleet, &lives);

    assert!(flooder.sent.load(Ordering::Relaxed) > before);
    let ratio = beside.as_secs_f64() / alone.as_secs_f64();
    println!("{agents} agents: a question alone {alone:?}, beside the flood {beside:?}: {ratio:.2} times");
}
