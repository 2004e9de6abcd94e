//! What the fleet's policy has for modules, given to children that are no processes.

use vigie_config::difference::take_effect;
use vigie_config::model::ModuleConfig;

use super::*;
use crate::config_loader::ConfigChanged;

const REGISTER: &str =
    r#"{"class":"register","parameters":{"sockpath":"","capabilities":["reconfigure","configured"]}}"#;

fn packs(text: &str) -> TakePacks {
    let own = [("web".to_owned(), text.to_owned())].into();
    TakePacks([("watch".to_owned(), own)].into())
}

/// The next `config` that the child gets: its generation, its configuration, the pack.
async fn next_config(child: &mut FakeChild) -> (u64, serde_json::Value, serde_json::Value) {
    loop {
        let line = tokio::time::timeout(CEILING, child.read()).await.expect("it gets one");
        let line = line.expect("its stdin is open");
        let mut line: serde_json::Value = serde_json::from_str(&line).unwrap();
        if line["class"] == "config" {
            let parameters = &mut line["parameters"];
            let generation = parameters["generation"].as_u64().unwrap();
            return (generation, parameters["config"].take(), parameters["packs"]["web"].take());
        }
    }
}

async fn say_configured(child: &mut FakeChild, generation: u64, ok: bool) {
    let errors = if ok { "" } else { r#","errors":["x: wrong"]"# };
    let parameters = format!(r#"{{"generation":{generation},"ok":{ok}{errors}}}"#);
    child.say(&format!(r#"{{"class":"configured","parameters":{parameters}}}"#)).await;
}

impl House {
    async fn give(&self, text: &str) {
        self.supervisor.send(packs(text)).await.unwrap();
    }

    /// Puts another configuration of the module into force.
    async fn reload(&self, text: &str) {
        let mut next = (*self.config).clone();
        let config = serde_json::value::RawValue::from_string(text.to_owned()).unwrap();
        next.modules[0].config = ModuleConfig::Good(config);
        next.generation = 2;
        let (next, difference) = take_effect(&self.config, next);
        let changed = ConfigChanged { config: Arc::new(next), difference: Arc::new(difference) };
        self.supervisor.send(changed).await.unwrap();
    }

    async fn configuration(&self) -> String {
        serde_json::to_string(&self.status().await.configuration).unwrap()
    }

    async fn wait_configuration(&self, text: &str) {
        let begun = Instant::now();
        while !self.configuration().await.contains(text) {
            assert!(begun.elapsed() < CEILING, "waited for {text}: {}", self.configuration().await);
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

#[actix_rt::test(system = "PausedSystem")]
async fn packs_that_come_before_the_process_is_there_are_in_its_first_configuration() {
    let mut house = house(&["watch"]);
    house.give("one").await;

    let mut child = house.child().await;

    assert_eq!(next_config(&mut child).await.2, "one");
    child.say(REGISTER).await;
    child.pong().await;
    assert_eq!(house.wait_for(ModuleState::Running).await.incarnation, 1);
}

#[actix_rt::test(system = "PausedSystem")]
async fn packs_that_come_before_a_module_has_registered_reach_it_without_a_restart() {
    let mut house = house(&["watch"]);
    let mut child = house.child().await;
    assert!(next_config(&mut child).await.2.is_null());

    house.give("one").await;
    house.give("two").await;
    child.say(REGISTER).await;

    assert_eq!(next_config(&mut child).await.2, "two");
    child.pong().await;
    assert_eq!(house.wait_for(ModuleState::Running).await.incarnation, 1);
    assert!(child.signals().is_empty());
}

#[actix_rt::test(system = "PausedSystem")]
async fn a_module_that_takes_no_configuration_while_it_runs_is_started_anew_with_the_packs_once() {
    let mut house = house(&["watch"]);
    let mut child = house.child().await;
    next_config(&mut child).await;
    house.give("one").await;

    child.say(r#"{"class":"register","parameters":{"sockpath":"","capabilities":[]}}"#).await;
    while child.read().await.is_some() {}
    child.exit(EndReason::Exited(0));

    let mut second = house.child().await;
    assert_eq!(next_config(&mut second).await.2, "one");
    second.pong().await;
    let status = house.wait_for(ModuleState::Running).await;
    assert_eq!((status.incarnation, status.last_exit.as_deref()), (2, Some("config_changed")));
}

#[actix_rt::test(system = "PausedSystem")]
async fn a_module_of_the_old_kind_that_registers_nothing_gets_the_packs_when_it_answers() {
    let mut house = house(&["watch"]);
    let mut child = house.child().await;
    house.give("one").await;

    child.pong().await;
    while child.read().await.is_some() {}
    child.exit(EndReason::Exited(0));

    assert_eq!(next_config(&mut house.child().await).await.2, "one");
}

#[actix_rt::test(system = "PausedSystem")]
async fn packs_for_a_module_that_went_back_do_not_hide_its_refusal_nor_restart_it() {
    let mut house = house(&["watch"]);
    let mut child = house.child().await;
    child.say(REGISTER).await;
    say_configured(&mut child, 1, true).await;
    child.pong().await;
    house.wait_configuration("in_force").await;
    house.reload(r#"{"new":1}"#).await;
    child.exit(EndReason::Exited(78));
    let mut child = house.child().await;
    let (generation, config, _) = next_config(&mut child).await;
    assert_eq!((generation, config), (2, serde_json::json!({})));
    child.say(REGISTER).await;
    say_configured(&mut child, 2, true).await;
    child.pong().await;
    house.wait_for(ModuleState::Running).await;

    house.give("one").await;

    assert_eq!(next_config(&mut child).await.1, serde_json::json!({}));
    say_configured(&mut child, 2, true).await;
    let answering = async {
        loop {
            child.pong().await;
        }
    };
    tokio::select! {
        () = tokio::time::sleep(Duration::from_secs(300)) => {}
        () = answering => unreachable!(),
    }
    let status = house.status().await;
    assert_eq!((status.state, status.incarnation), (ModuleState::Running, 2));
    assert!(house.configuration().await.contains(r#""state":"refused""#), "{}", house.configuration().await);
}

#[actix_rt::test(system = "PausedSystem")]
async fn a_module_that_went_back_and_dies_still_shows_what_it_refused() {
    let mut house = house(&["watch"]);
    let mut child = house.child().await;
    child.say(REGISTER).await;
    say_configured(&mut child, 1, true).await;
    house.wait_configuration("in_force").await;
    house.reload(r#"{"new":1}"#).await;
    child.exit(EndReason::Exited(78));
    house.child().await.exit(EndReason::Exited(1));

    let mut third = house.child().await;
    third.say(REGISTER).await;
    third.pong().await;
    house.wait_for(ModuleState::Running).await;

    assert!(house.configuration().await.contains(r#""state":"refused""#), "{}", house.configuration().await);
}

#[actix_rt::test(system = "PausedSystem")]
async fn the_time_for_an_answer_begins_with_the_newest_packs() {
    let mut house = house(&["watch"]);
    let mut child = house.child().await;
    child.say(REGISTER).await;
    say_configured(&mut child, 1, true).await;
    child.pong().await;
    house.wait_configuration("in_force").await;
    // The first one has 30 seconds, three heartbeats.
    for _ in 0..2 {
        child.pong().await;
    }
    tokio::time::sleep(Duration::from_secs(9)).await;

    house.give("one").await;
    tokio::time::sleep(Duration::from_secs(2)).await;

    assert!(house.configuration().await.contains(r#""state":"unconfirmed""#));
    assert_eq!(house.status().await.incarnation, 1);
    assert!(child.signals().is_empty());
}

#[actix_rt::test(system = "PausedSystem")]
async fn a_module_that_rests_because_it_refused_is_tried_with_the_next_packs() {
    let mut house = house(&["watch"]);
    house.give("bad").await;
    house.child().await.exit(EndReason::Exited(78));
    house.wait_for(ModuleState::Failed).await;

    house.give("good").await;

    let mut child = house.child().await;
    assert_eq!(next_config(&mut child).await.2, "good");
    child.say(REGISTER).await;
    say_configured(&mut child, 1, true).await;
    child.pong().await;
    house.wait_for(ModuleState::Running).await;
    house.wait_configuration("in_force").await;
}

#[actix_rt::test(system = "PausedSystem")]
async fn a_module_that_died_too_often_is_tried_with_the_next_packs_at_once() {
    let mut house = house(&["watch"]);
    house.give("bad").await;
    for _ in 0..5 {
        house.child().await.exit(EndReason::Exited(1));
    }
    house.wait_for(ModuleState::Failed).await;
    let given = Instant::now();

    house.give("good").await;

    assert_eq!(next_config(&mut house.child().await).await.2, "good");
    assert!(given.elapsed() < Duration::from_secs(1), "{:?}", given.elapsed());
}

#[actix_rt::test(system = "PausedSystem")]
async fn an_operator_has_a_refused_configuration_tried_again() {
    let mut house = house(&["watch"]);
    house.child().await.exit(EndReason::Exited(78));
    house.wait_for(ModuleState::Failed).await;

    let restarted = actix_rt::spawn(house.supervisor.send(RestartModule("watch".parse().unwrap())));
    let mut child = house.child().await;
    child.say(REGISTER).await;
    say_configured(&mut child, 1, true).await;
    child.pong().await;

    assert!(restarted.await.unwrap().unwrap().is_ok());
    house.wait_configuration("in_force").await;
}
