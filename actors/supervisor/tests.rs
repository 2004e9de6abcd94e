//! The supervisor with children that are no processes, under virtual time.

mod packs;

use std::rc::Rc;

use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::Instant;
use vigie_protocol::control::{ModuleState, ModuleStatus};

use super::exits::RestartDue;
use super::*;
use crate::module_process::ModuleExited;
use crate::testing::{self, FakeChild, FakeSpawner, PausedSystem};

/// Longest wait for anything, in virtual time: longer than any pause of the supervisor.
const CEILING: Duration = Duration::from_secs(700);

struct House {
    config: Arc<LoadedConfig>,
    supervisor: Addr<Supervisor>,
    spawner: Rc<FakeSpawner>,
    children: UnboundedReceiver<FakeChild>,
    _directory: tempfile::TempDir,
}

fn house(names: &[&str]) -> House {
    let directory = tempfile::tempdir().unwrap();
    let modules = names.iter().map(|name| testing::module(name)).collect();
    let config = testing::config(directory.path(), modules);
    let (services, spawner, children) = testing::services(&config);
    let supervisor = Supervisor::new(services, HostFacts::default(), config.clone()).start();
    House { config, supervisor, spawner, children, _directory: directory }
}

impl House {
    async fn child(&mut self) -> FakeChild {
        let child = tokio::time::timeout(CEILING, self.children.recv()).await;
        child.expect("a life begins").unwrap()
    }

    async fn status(&self) -> ModuleStatus {
        self.supervisor.send(GetModules).await.unwrap().remove(0)
    }

    /// Waits until the first module is in this state.
    async fn wait_for(&self, state: ModuleState) -> ModuleStatus {
        let begun = Instant::now();
        loop {
            let status = self.status().await;
            assert!(begun.elapsed() < CEILING, "waited for {state:?}: {status:?}");
            if status.state == state {
                return status;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

#[actix_rt::test(system = "PausedSystem")]
async fn a_module_gets_its_configuration_first_and_runs_when_it_answers() {
    let mut house = house(&["watch"]);
    let mut child = house.child().await;

    let first = child.read().await.unwrap();
    assert_eq!(house.status().await.state, ModuleState::Starting);
    child.pong().await;
    let status = house.wait_for(ModuleState::Running).await;

    assert!(first.starts_with(r#"{"class":"config","parameters":{"config":{},"hostname":"host""#), "{first}");
    assert_eq!(status.incarnation, 1);
}

#[actix_rt::test(system = "PausedSystem")]
async fn a_module_that_falls_silent_is_degraded_ended_and_started_again() {
    let mut house = house(&["watch"]);
    let mut child = house.child().await;
    child.pong().await;
    house.wait_for(ModuleState::Running).await;
    let silent_since = Instant::now();

    let degraded = house.wait_for(ModuleState::Degraded).await;
    let degraded_after = silent_since.elapsed();
    let second = house.child().await;

    assert_eq!(degraded.reason.as_deref(), Some("missed 1 heartbeats in a row"));
    // The beat after the answered one is missed when the next one is due.
    assert_eq!(degraded_after.as_secs(), 20);
    assert_eq!(silent_since.elapsed().as_secs(), 40);
    assert_eq!(child.signals(), ["terminate"]);
    assert_eq!(second.incarnation, Incarnation(2));
    assert_eq!(house.status().await.last_exit.as_deref(), Some("heartbeat_lost"));
}

#[actix_rt::test(system = "PausedSystem")]
async fn no_second_copy_starts_while_the_first_one_lives() {
    let mut house = house(&["watch"]);
    let child = house.child().await;
    child.ignore_sigterm();

    let second = house.child().await;

    assert_eq!(child.signals(), ["terminate", "kill"]);
    assert_eq!(house.spawner.most_alive.get(), 1);
    assert_eq!(house.status().await.last_exit.as_deref(), Some("start_timeout"));
    drop(second);
}

#[actix_rt::test(system = "PausedSystem")]
async fn a_crash_loop_opens_the_breaker_and_is_tried_every_ten_minutes() {
    let mut house = house(&["watch"]);
    let begun = Instant::now();
    for _ in 0..5 {
        house.child().await.exit(EndReason::Exited(1));
    }
    let failed = house.wait_for(ModuleState::Failed).await;
    assert!(begun.elapsed() < Duration::from_secs(4));

    let half_open = house.child().await;

    assert_eq!(failed.restarts, 4);
    assert!(begun.elapsed() >= Duration::from_secs(600));
    drop(half_open);
}

#[actix_rt::test(system = "PausedSystem")]
async fn an_operator_restarts_a_failed_module_at_once() {
    let mut house = house(&["watch"]);
    for _ in 0..5 {
        house.child().await.exit(EndReason::Exited(1));
    }
    house.wait_for(ModuleState::Failed).await;
    let asked = Instant::now();

    let pid = house.supervisor.send(RestartModule("watch".parse().unwrap())).await.unwrap();

    assert!(pid.is_ok());
    assert!(asked.elapsed() <= Duration::from_secs(1), "{:?}", asked.elapsed());
}

#[actix_rt::test(system = "PausedSystem")]
async fn what_is_said_of_an_earlier_life_changes_nothing() {
    let mut house = house(&["watch"]);
    house.child().await.exit(EndReason::Exited(1));
    let mut child = house.child().await;
    child.pong().await;
    let before = house.wait_for(ModuleState::Running).await;
    let (module, incarnation): (ModuleName, _) = ("watch".parse().unwrap(), Incarnation(1));

    let exited = ModuleExited {
        module: module.clone(),
        incarnation,
        reason: EndReason::Exited(9),
        lifetime: Duration::ZERO,
        counters: crate::module_process::Counters::default(),
        lines: std::collections::VecDeque::new(),
    };
    house.supervisor.send(exited).await.unwrap();
    house.supervisor.send(RestartDue { module, incarnation }).await.unwrap();

    let after = house.status().await;
    assert_eq!((before.incarnation, after.incarnation), (2, 2));
    assert_eq!((after.state, after.last_exit), (ModuleState::Running, before.last_exit));
    assert_eq!(house.spawner.most_alive.get(), 1);
}

#[actix_rt::test(system = "PausedSystem")]
async fn all_modules_end_in_the_reverse_order_within_the_budget() {
    let mut house = house(&["first", "second", "third"]);
    let children = [house.child().await, house.child().await, house.child().await];
    let names: Vec<_> = children.iter().map(|child| child.name.as_str()).collect();
    assert_eq!(names, ["first", "second", "third"]);
    for child in &children {
        child.ignore_sigterm();
    }
    let begun = Instant::now();

    let stopping = actix_rt::spawn(house.supervisor.send(StopAll));
    while children[2].signals() != ["terminate", "kill"] {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert!(children[0].signals().is_empty() && children[1].signals().is_empty());
    stopping.await.unwrap().unwrap();

    assert!(children.iter().all(|child| child.signals() == ["terminate", "kill"]));
    assert!(begun.elapsed() <= Duration::from_secs(11), "{:?}", begun.elapsed());
}

#[actix_rt::test(system = "PausedSystem")]
async fn a_flood_of_echoes_with_wrong_numbers_does_not_keep_a_module_alive() {
    let mut house = house(&["watch"]);
    let mut child = house.child().await;
    let flood = async {
        loop {
            child.say(r#"{"class":"ping","parameters":{"nonce":77}}"#).await;
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    };

    let second = tokio::select! {
        second = house.child() => second,
        () = flood => unreachable!(),
    };

    assert_eq!(second.incarnation, Incarnation(2));
    assert!(house.status().await.dropped["wrong_nonce"] > 10);
}

#[actix_rt::test(system = "PausedSystem")]
async fn bad_lines_are_counted_and_the_next_good_one_is_read() {
    let mut house = house(&["watch"]);
    let mut child = house.child().await;
    for line in ["garbage", "", r#"{"class":"nonsense"}"#, r#"{"class":"log","parameters":{"message":5}}"#] {
        child.say(line).await;
    }
    child.say(r#"{"class":"log","parameters":{"message":"good"}}"#).await;
    child.pong().await;

    let status = house.wait_for(ModuleState::Running).await;

    assert_eq!(status.logs, 1);
    let dropped: Vec<_> = status.dropped.iter().map(|(reason, count)| (reason.as_str(), *count)).collect();
    assert_eq!(dropped, [("bad_parameters", 1), ("not_message", 2), ("unexpected_class", 1)]);
}

#[actix_rt::test(system = "PausedSystem")]
async fn an_alert_is_acknowledged_when_it_is_on_disk_and_once_only_recorded() {
    let mut house = house(&["watch"]);
    let mut child = house.child().await;
    child.say(r#"{"class":"register","parameters":{"sockpath":"","capabilities":["alert-ack"]}}"#).await;
    let alert = r#"{"class":"alert","parameters":{"message":"m","id":"e-1"}}"#;
    child.say(alert).await;
    child.say(alert).await;

    let mut acks = 0;
    while acks < 2 {
        let line = child.read().await.unwrap();
        if line.contains("\"ack\"") {
            assert_eq!(line, r#"{"class":"ack","parameters":{"id":"e-1"}}"#);
            acks += 1;
        }
    }

    assert_eq!(house.status().await.alerts, 2);
}
