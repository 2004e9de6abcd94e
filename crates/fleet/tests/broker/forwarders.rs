//! Groups of forwarders on a real server: they share the alerts, lose none, and may do nothing else.

use std::collections::BTreeSet;
use std::time::Duration;

use vigie_fleet::broker::consumer::{self, Answer, Begin, Member};
use vigie_fleet::broker::jwt::Role;
use vigie_fleet::broker::stored::store;

use crate::broker_fixture::{Fixture, name, server_is_missing, within};

const FLUSH: Duration = Duration::from_secs(10);
const PATIENCE: Duration = Duration::from_millis(300);

#[tokio::test]
async fn two_instances_share_the_alerts_and_what_one_gives_back_the_other_gets() {
    if server_is_missing() {
        return;
    }
    let fixture = Fixture::with_streams().await;
    let admin = fixture.user(Role::Administrator, "root").await;
    let agent = fixture.user(Role::Agent, "web-1").await;
    let group = name("siem");
    within(consumer::ensure(admin.client(), &group, Begin::Oldest)).await.unwrap();
    within(consumer::ensure(admin.client(), &group, Begin::New)).await.unwrap();
    let one = fixture.user(Role::Forwarder, "siem").await;
    let two = fixture.user(Role::Forwarder, "siem").await;
    let mut at_one = Member::new(one.client(), &group).unwrap();
    let mut at_two = Member::new(two.client(), &group).unwrap();
    assert_eq!(within(at_one.next(5, PATIENCE)).await.unwrap(), []);
    for number in 1..=100 {
        within(store(agent.client(), "vigie.alert.web-1", format!("alert {number}").as_bytes()))
            .await
            .unwrap();
    }

    let first = within(at_one.next(70, PATIENCE)).await.unwrap();
    let second = within(at_two.next(70, PATIENCE)).await.unwrap();
    assert_eq!((first.len(), second.len()), (70, 30));
    assert!(first.iter().chain(&second).all(|delivery| !delivery.again));
    let numbers: BTreeSet<u64> = first.iter().chain(&second).map(|delivery| delivery.sequence).collect();
    assert_eq!(numbers, (1..=100).collect());
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let stored = u64::try_from(first[0].stored).unwrap();
    assert!(now.abs_diff(stored) < 60, "{stored} is about {now}");

    for delivery in &second {
        delivery.answer(two.client(), Answer::Done).await.unwrap();
    }
    for delivery in &first {
        let answer = if delivery.sequence <= 60 { Answer::Done } else { Answer::Back };
        delivery.answer(one.client(), answer).await.unwrap();
    }
    within(one.client().flush(FLUSH)).await.unwrap();
    within(two.client().flush(FLUSH)).await.unwrap();
    let again = within(at_two.next(70, Duration::from_secs(10))).await.unwrap();
    assert!(again.iter().all(|delivery| delivery.again));
    let mut numbers: BTreeSet<u64> = again.iter().map(|delivery| delivery.sequence).collect();
    while numbers.len() < 10 {
        let more = within(at_two.next(70, Duration::from_secs(10))).await.unwrap();
        numbers.extend(more.iter().map(|delivery| delivery.sequence));
    }
    assert_eq!(numbers, (61..=70).collect());

    within(consumer::remove(admin.client(), &group)).await.unwrap();
    assert!(within(at_one.next(1, PATIENCE)).await.is_err());
}

#[tokio::test]
async fn a_forwarder_may_do_nothing_else() {
    if server_is_missing() {
        return;
    }
    let fixture = Fixture::with_streams().await;
    let mut forwarder = fixture.user(Role::Forwarder, "siem").await;
    for subject in [
        "vigie.alert.siem",
        "vigie.ask.siem",
        "vigie.enrol.web-1",
        "vigie.policy",
        "vigie.live.web-1.x",
        "$JS.API.CONSUMER.MSG.NEXT.ALERTS.other",
        "$JS.ACK.ALERTS.other.1.1.1.1.0",
        "$JS.API.CONSUMER.MSG.NEXT.RESULTS.siem",
        "$JS.API.CONSUMER.DURABLE.CREATE.ALERTS.siem",
        "$JS.API.CONSUMER.DELETE.ALERTS.siem",
        "$JS.API.CONSUMER.INFO.ALERTS.siem",
        "$JS.API.STREAM.PURGE.ALERTS",
        "$JS.API.DIRECT.GET.ALERTS",
        "$JS.API.DIRECT.GET.RESULTS",
        "$JS.API.DIRECT.GET.ASK",
        "$JS.API.DIRECT.GET.FACTS",
    ] {
        forwarder.is_refused_publishing(subject).await;
    }
    for subject in ["vigie.alert.*", "vigie.>", ">", "_INBOX.forwarder.other.>", "$JS.ACK.>"] {
        forwarder.is_refused_subscribing(subject).await;
    }
}
