//! The broker's side of a fleet against a real nats-server: the one in `VIGIE_NATS_SERVER`, in `PATH` or of Debian.
//! Without one these tests say so and pass, but not in CI.

// For clippy, which lets tests unwrap and print.
#[cfg(test)]
mod broker_fixture;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use async_nats::jetstream::consumer::pull;
use bytes::Bytes;
use futures_util::StreamExt;
use vigie_fleet::broker::connection::{BrokerEvent, ConnectionError, Login, connect};
use vigie_fleet::broker::jwt::{Authority, Role};
use vigie_fleet::broker::kv;
use vigie_fleet::broker::local::{LocalBroker, LocalBrokerSettings};
use vigie_fleet::broker::streams::{self, Change, StreamSizes};
use vigie_fleet::subjects;
use vigie_protocol::names::ActionId;

use broker_fixture::{Fixture, NOW, User, certificates, name, server_is_missing, until, within};

fn action() -> ActionId {
    ActionId::from_random([7; 16])
}

#[tokio::test]
async fn an_agent_can_do_everything_that_it_needs() {
    if server_is_missing() {
        return;
    }
    let fixture = Fixture::with_streams().await;
    let admin = fixture.user(Role::Administrator, "root").await;
    let mut agent = fixture.user(Role::Agent, "web-1").await;
    let me = name("web-1");
    let group = "db".parse().unwrap();

    let mut heard = Vec::new();
    for subject in ["vigie.act.all", "vigie.act.g.db", "vigie.act.a.web-1"] {
        heard.push(agent.connection.client.subscribe(subject).await.unwrap());
    }
    let jetstream = &agent.connection.jetstream;
    let mut policy = within(kv::watch(jetstream, subjects::POLICY)).await.unwrap();
    assert_eq!(within(kv::get(jetstream, subjects::KV_POLICY, subjects::POLICY)).await.unwrap(), None);
    assert_eq!(
        within(kv::next(jetstream, subjects::ACTIONS, subjects::EVERY_ACTION, 1)).await.unwrap(),
        None
    );
    kv::put(&admin.connection.jetstream, subjects::POLICY, Bytes::from_static(b"policy 1")).await.unwrap();
    assert_eq!(within(policy.next()).await.unwrap(), "policy 1");
    let stored = within(kv::get(jetstream, subjects::KV_POLICY, subjects::POLICY)).await.unwrap().unwrap();
    assert_eq!((stored.sequence, &stored.value[..]), (1, &b"policy 1"[..]));

    let orders = [
        subjects::ACTION_ALL.to_owned(),
        subjects::action_for_group(&group),
        subjects::action_for_agent(&me),
    ];
    for order in &orders {
        kv::put(&admin.connection.jetstream, order, Bytes::from(order.clone())).await.unwrap();
    }
    for (subscription, order) in heard.iter_mut().zip(&orders) {
        assert_eq!(within(subscription.next()).await.unwrap().payload, order.as_bytes());
    }
    // The same by catching up.
    let mut sequence = 1;
    for order in &orders {
        let found = within(kv::next(jetstream, subjects::ACTIONS, subjects::EVERY_ACTION, sequence))
            .await
            .unwrap()
            .unwrap();
        assert_eq!(found.subject, *order);
        sequence = found.sequence + 1;
    }
    assert_eq!(
        within(kv::next(jetstream, subjects::ACTIONS, subjects::EVERY_ACTION, sequence)).await.unwrap(),
        None
    );

    for subject in [
        subjects::answer(&action(), &me),
        subjects::alert(&me, "fswatch"),
        subjects::audit(&me),
        subjects::facts(&me),
        subjects::presence(&me),
    ] {
        within(kv::put(jetstream, &subject, Bytes::from_static(b"mine"))).await.unwrap();
    }
    // Nothing was refused on the way: the event of this one comes after any other.
    agent.is_refused_publishing("vigie.act.all").await;
}

#[tokio::test]
async fn an_agent_can_do_nothing_in_the_name_of_others() {
    if server_is_missing() {
        return;
    }
    let fixture = Fixture::with_streams().await;
    let mut agent = fixture.user(Role::Agent, "web-1").await;

    for subject in [
        "vigie.res.07070707070707070707070707070707.web-2",
        "vigie.alert.web-2.fswatch",
        "vigie.alert.web-1",
        "vigie.audit.web-2",
        "$KV.agents.web-2",
        "$KV.presence.web-2",
        "$KV.policy.current",
        "$KV.enrol.web-1",
        "vigie.act.all",
        "vigie.act.a.web-1",
        "vigie.act.g.db",
        "$JS.API.STREAM.DELETE.ACTIONS",
        "$JS.API.STREAM.PURGE.ALERTS",
        "$JS.API.STREAM.INFO.ALERTS",
        "$JS.API.STREAM.MSG.GET.ALERTS",
        "$JS.API.DIRECT.GET.ALERTS",
        "$JS.API.DIRECT.GET.RESULTS",
        "$JS.API.DIRECT.GET.AUDIT",
        "$JS.API.DIRECT.GET.KV_agents.$KV.agents.web-2",
        "$JS.API.CONSUMER.CREATE.ALERTS",
        "$JS.API.CONSUMER.CREATE.ACTIONS.mine",
        "_INBOX.agent.web-2.x",
        "_INBOX.investigator.ann.x",
    ] {
        agent.is_refused_publishing(subject).await;
    }
    for subject in [
        ">",
        "vigie.>",
        "vigie.act.>",
        "vigie.act.a.*",
        "vigie.act.a.web-2",
        "vigie.res.>",
        "vigie.res.*.web-1",
        "vigie.alert.>",
        "vigie.audit.web-2",
        "$KV.agents.*",
        "$KV.presence.*",
        "$KV.enrol.*",
        "_INBOX.agent.web-2.>",
        "_INBOX.>",
        "$SYS.>",
    ] {
        agent.is_refused_subscribing(subject).await;
    }
}

#[tokio::test]
async fn an_investigator_asks_and_reads_but_changes_neither_policy_nor_answers() {
    if server_is_missing() {
        return;
    }
    let fixture = Fixture::with_streams().await;
    let agent = fixture.user(Role::Agent, "web-1").await;
    let mut ann = fixture.user(Role::Investigator, "ann").await;
    let me = name("web-1");
    let jetstream = &ann.connection.jetstream;

    within(kv::put(jetstream, subjects::ACTION_ALL, Bytes::from_static(b"ask"))).await.unwrap();
    let agents = &agent.connection.jetstream;
    for subject in [subjects::answer(&action(), &me), subjects::alert(&me, "fswatch"), subjects::facts(&me)] {
        within(kv::put(agents, &subject, Bytes::from(subject.clone()))).await.unwrap();
    }
    for (stream, subject) in [
        (subjects::RESULTS, subjects::answers_to(&action())),
        (subjects::ALERTS, subjects::EVERY_ALERT.to_owned()),
        (subjects::KV_AGENTS, "$KV.agents.*".to_owned()),
        (subjects::ACTIONS, subjects::EVERY_ACTION.to_owned()),
    ] {
        let mut found = Vec::new();
        let count =
            within(kv::read_all(jetstream, stream, &subject, |entry| found.push(entry))).await.unwrap();
        assert_eq!((count, found.len()), (1, 1), "{stream}");
    }
    // A durable pull, as an exporter of alerts has it.
    let stream = within(jetstream.get_stream(subjects::ALERTS)).await.unwrap();
    let config = pull::Config { durable_name: Some("exporter".to_owned()), ..pull::Config::default() };
    let consumer = within(stream.create_consumer(config)).await.unwrap();
    let mut batch = within(consumer.fetch().max_messages(1).messages()).await.unwrap();
    let message = within(batch.next()).await.unwrap().unwrap();
    within(message.double_ack()).await.unwrap();

    for subject in [
        "vigie.res.07070707070707070707070707070707.web-1",
        "vigie.alert.web-1.fswatch",
        "vigie.audit.web-1",
        "$KV.agents.web-1",
        "$KV.policy.current",
        "$KV.enrol.web-1",
        "$JS.API.STREAM.CREATE.MINE",
        "$JS.API.STREAM.UPDATE.ALERTS",
        "$JS.API.STREAM.DELETE.RESULTS",
        "$JS.API.STREAM.PURGE.ALERTS",
        "$JS.API.STREAM.MSG.DELETE.ALERTS",
        "$JS.API.CONSUMER.CREATE.AUDIT",
        "$JS.API.DIRECT.GET.AUDIT",
    ] {
        ann.is_refused_publishing(subject).await;
    }
    for subject in ["vigie.audit.*", "_INBOX.agent.web-1.>", "_INBOX.investigator.bob.>", "_INBOX.>"] {
        ann.is_refused_subscribing(subject).await;
    }
}

#[tokio::test]
async fn users_that_the_fleet_did_not_make_are_refused() {
    if server_is_missing() {
        return;
    }
    let fixture = Fixture::new().await;
    let user = name("web-1");

    // Another fleet's user, and one whose key is not the one in its token.
    let mut stranger = fixture.broker.connection_settings(Role::Agent, &user);
    let key = vigie_fleet::agent_key::AgentKey::generate();
    let jwt = Authority::generate().signer(Role::Agent).user(&user, key.public_key(), NOW, None);
    stranger.login = Login::Token { jwt, key: Box::new(key.clone()) };
    let mut thief = fixture.broker.connection_settings(Role::Agent, &user);
    let Login::Token { jwt, .. } = &thief.login else { unreachable!() };
    thief.login = Login::Token { jwt: jwt.clone(), key: Box::new(key.clone()) };
    let mut late = fixture.broker.connection_settings(Role::Agent, &user);
    let jwt = fixture.broker.signer(Role::Agent).user(&user, key.public_key(), NOW, Some(NOW));
    late.login = Login::Token { jwt, key: Box::new(key) };

    for settings in [stranger, thief, late] {
        let (events, _kept) = tokio::sync::mpsc::channel(64);
        let error = within(connect(settings, events)).await.unwrap_err();
        assert!(matches!(error, ConnectionError::Refused { .. }), "{error:?}");
    }
}

#[tokio::test]
async fn streams_are_made_once_and_changed_only_when_they_differ() {
    if server_is_missing() {
        return;
    }
    let fixture = Fixture::new().await;
    let admin = fixture.user(Role::Administrator, "root").await;
    let jetstream = &admin.connection.jetstream;
    let sizes = StreamSizes { results: 64 << 20, ..StreamSizes::default() };

    let made = within(streams::ensure(jetstream, &sizes)).await.unwrap();
    kv::put(jetstream, subjects::ACTION_ALL, Bytes::from_static(b"kept")).await.unwrap();
    let again = within(streams::ensure(jetstream, &sizes)).await.unwrap();
    let larger = StreamSizes { results: 128 << 20, ..sizes };
    let changed = within(streams::ensure(jetstream, &larger)).await.unwrap();
    let at_last = within(streams::ensure(jetstream, &larger)).await.unwrap();

    assert_eq!(made.len(), 8);
    assert!(made.iter().all(|(_, change)| *change == Change::Created), "{made:?}");
    assert!(again.iter().all(|(_, change)| *change == Change::Unchanged), "{again:?}");
    let updated: Vec<&str> = changed
        .iter()
        .filter(|(_, change)| *change == Change::Updated)
        .map(|(name, _)| name.as_str())
        .collect();
    assert_eq!(updated, [subjects::RESULTS]);
    assert!(at_last.iter().all(|(_, change)| *change == Change::Unchanged), "{at_last:?}");
    assert!(kv::next(jetstream, subjects::ACTIONS, subjects::EVERY_ACTION, 1).await.unwrap().is_some());
}

#[tokio::test]
async fn a_message_with_a_known_id_is_stored_once() {
    if server_is_missing() {
        return;
    }
    let mut fixture = Fixture::with_streams().await;
    let agent = fixture.user(Role::Agent, "web-1").await;
    let send = async || {
        let mut headers = async_nats::HeaderMap::new();
        headers.insert("Nats-Msg-Id", "web-1.journal.1");
        let subject = subjects::alert(&name("web-1"), "fswatch");
        let sent =
            agent.connection.jetstream.publish_with_headers(subject, headers, "alert".into()).await.unwrap();
        sent.await
    };

    let first = within(send()).await.unwrap();
    let second = within(send()).await.unwrap();
    fixture.broker.kill().await.unwrap();
    fixture.broker.restart().await.unwrap();
    // While the client comes back, acknowledgements time out and the message is sent again, as an agent does.
    let third = until(async || send().await.ok()).await;

    assert_eq!((first.duplicate, second.duplicate, third.duplicate), (false, true, true));
    assert_eq!(first.sequence, third.sequence);
}

#[tokio::test]
async fn buckets_hold_the_newest_value_of_each_key() {
    if server_is_missing() {
        return;
    }
    let fixture = Fixture::with_streams().await;
    let admin = fixture.user(Role::Administrator, "root").await;
    let jetstream = &admin.connection.jetstream;
    let all = async || {
        let mut found = Vec::new();
        let count = within(kv::read_all(jetstream, subjects::KV_AGENTS, "$KV.agents.*", |entry| {
            found.push((entry.subject, entry.value));
        }))
        .await
        .unwrap();
        assert_eq!(count, found.len() as u64);
        found.sort();
        found
    };

    assert_eq!(all().await, []);
    for value in ["old", "new"] {
        for key in ["a", "b", "c"] {
            kv::put(jetstream, &format!("$KV.agents.{key}"), Bytes::from(format!("{key} {value}")))
                .await
                .unwrap();
        }
    }
    // Deleted as the tools of NATS do it.
    let bucket = jetstream.get_key_value("agents").await.unwrap();
    bucket.delete("b").await.unwrap();

    let expected = [("$KV.agents.a", "a new"), ("$KV.agents.c", "c new")]
        .map(|(subject, value)| (subject.to_owned(), Bytes::from_static(value.as_bytes())));
    assert_eq!(all().await, expected);
    assert_eq!(kv::get(jetstream, subjects::KV_AGENTS, "$KV.agents.b").await.unwrap(), None);
    assert_eq!(bucket.get("a").await.unwrap().unwrap(), "a new");
}

#[tokio::test]
async fn a_bucket_of_many_entries_is_read_whole() {
    if server_is_missing() {
        return;
    }
    const ENTRIES: u32 = 20_000;
    let fixture = Fixture::with_streams().await;
    let ann = fixture.user(Role::Investigator, "ann").await;
    let admin = fixture.user(Role::Administrator, "root").await;
    for number in 0..ENTRIES {
        let subject = format!("$KV.agents.host-{number}");
        admin.connection.client.publish(subject, "x".repeat(283).into()).await.unwrap();
    }
    // One with an acknowledgement, after all others.
    kv::put(&admin.connection.jetstream, "$KV.agents.last", Bytes::new()).await.unwrap();

    let mut sum = 0;
    let count =
        within(kv::read_all(&ann.connection.jetstream, subjects::KV_AGENTS, "$KV.agents.*", |entry| {
            sum += entry.value.len();
        }))
        .await
        .unwrap();

    assert_eq!(count, u64::from(ENTRIES) + 1);
    assert_eq!(sum, ENTRIES as usize * 283);
}

#[tokio::test]
async fn subscriptions_come_back_after_the_broker_was_killed() {
    if server_is_missing() {
        return;
    }
    let mut fixture = Fixture::with_streams().await;
    let mut agent = fixture.user(Role::Agent, "web-1").await;
    let mut orders = agent.connection.client.subscribe("vigie.act.a.web-1").await.unwrap();
    agent.sees(&BrokerEvent::Connected).await;

    fixture.broker.kill().await.unwrap();
    agent.sees(&BrokerEvent::Disconnected).await;
    fixture.broker.restart().await.unwrap();
    agent.sees(&BrokerEvent::Connected).await;

    let ann = fixture.user(Role::Investigator, "ann").await;
    // Connected is told before the broker has taken the subscriptions; what comes earlier is found by catching up.
    let heard = until(async || {
        kv::put(&ann.connection.jetstream, "vigie.act.a.web-1", Bytes::from_static(b"again")).await.ok()?;
        tokio::time::timeout(Duration::from_millis(200), orders.next()).await.ok().flatten()
    })
    .await;
    assert_eq!(heard.payload, "again");
    assert_eq!(agent.connection.events_lost(), 0);
}

#[tokio::test]
async fn an_agent_that_starts_before_its_broker_connects_when_it_is_there() {
    if server_is_missing() {
        return;
    }
    let mut fixture = Fixture::with_streams().await;
    let mut settings = fixture.broker.connection_settings(Role::Agent, &name("web-1"));
    fixture.broker.stop().await.unwrap();

    let (events, _kept) = tokio::sync::mpsc::channel(64);
    let error = within(connect(settings.clone(), events)).await.unwrap_err();
    assert!(matches!(error, ConnectionError::Unreachable { .. }), "{error:?}");
    settings.connect_in_background = true;
    let (events, received) = tokio::sync::mpsc::channel(64);
    let connection = within(connect(settings, events)).await.unwrap();
    fixture.broker.restart().await.unwrap();

    User { connection, events: received }.sees(&BrokerEvent::Connected).await;
}

#[tokio::test]
async fn a_broker_keeps_its_keys_and_streams_between_its_lives() {
    if server_is_missing() {
        return;
    }
    let fixture = Fixture::with_streams().await;
    let credentials = fixture.broker.credentials_file(Role::Investigator, &name("ann")).unwrap();
    let mut settings = fixture.broker.connection_settings(Role::Investigator, &name("ann"));
    settings.login = Login::CredentialsFile(credentials.clone());
    let ann = User::connect(settings.clone()).await;
    kv::put(&ann.connection.jetstream, subjects::ACTION_ALL, Bytes::from_static(b"kept")).await.unwrap();
    drop(ann);
    let Fixture { mut broker, directory } = fixture;
    broker.stop().await.unwrap();
    drop(broker);

    let broker =
        LocalBroker::start(LocalBrokerSettings::new(directory.path(), "example", NOW)).await.unwrap();
    settings.urls = vec![broker.url()];
    let ann = User::connect(settings.clone()).await;
    let found = kv::get(&ann.connection.jetstream, subjects::ACTIONS, subjects::ACTION_ALL).await.unwrap();
    assert_eq!(found.unwrap().value, "kept");

    // Nobody else may read what lets one in.
    for file in ["keys/operator.seed", "keys/agent.seed", "users/investigator-ann.creds"] {
        assert_eq!(
            fs::metadata(directory.path().join(file)).unwrap().permissions().mode() & 0o7777,
            0o600,
            "{file}"
        );
    }
    fs::set_permissions(&credentials, fs::Permissions::from_mode(0o644)).unwrap();
    let (events, _kept) = tokio::sync::mpsc::channel(64);
    let error = connect(settings, events).await.unwrap_err();
    assert!(matches!(error, ConnectionError::Secret { .. }), "{error:?}");
}

#[tokio::test]
async fn a_revoked_key_is_shut_out_and_a_new_key_of_the_same_agent_is_not() {
    if server_is_missing() {
        return;
    }
    let Fixture { mut broker, directory } = Fixture::new().await;
    let user = name("web-1");
    let old = broker.connection_settings(Role::Agent, &user);
    let Login::Token { key, .. } = &old.login else { unreachable!() };
    let revoked = vec![(key.public_key().clone(), NOW)];
    broker.stop().await.unwrap();

    let mut settings = LocalBrokerSettings::new(directory.path(), "example", NOW);
    settings.port = Some(broker.port());
    settings.revoked = revoked;
    drop(broker);
    let broker = LocalBroker::start(settings).await.unwrap();

    let (events, _kept) = tokio::sync::mpsc::channel(64);
    let error = within(connect(old, events)).await.unwrap_err();
    assert!(matches!(error, ConnectionError::Refused { .. }), "{error:?}");
    User::connect(broker.connection_settings(Role::Agent, &user)).await;
}

#[tokio::test]
async fn a_port_that_is_taken_is_told_with_the_server_s_words() {
    if server_is_missing() {
        return;
    }
    let fixture = Fixture::new().await;
    let directory = tempfile::tempdir().unwrap();
    let mut settings = LocalBrokerSettings::new(directory.path(), "example", NOW);
    settings.port = Some(fixture.broker.port());
    let error = LocalBroker::start(settings).await.unwrap_err();
    assert!(error.to_string().contains("address already in use"), "{error}");
}

#[test]
fn the_server_dies_with_whoever_started_it() {
    if server_is_missing() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let settings = LocalBrokerSettings::new(directory.path(), "example", NOW);
    let pid = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let broker = runtime.block_on(LocalBroker::start(settings)).unwrap();
        let pid = broker.pid().unwrap();
        // As if this were killed: nothing is dropped.
        std::mem::forget(broker);
        std::mem::forget(runtime);
        pid
    })
    .join()
    .unwrap();

    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(until(async || {
        // This process has not waited for it, so what is left is a zombie.
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        stat.contains(") Z ").then_some(())
    }));
}

#[tokio::test]
async fn with_tls_only_holders_of_a_certificate_get_in_and_only_the_right_broker_is_taken() {
    if server_is_missing() || broker_fixture::openssl_is_missing() {
        return;
    }
    let files = tempfile::tempdir().unwrap();
    let ours = certificates(files.path(), "ours");
    let others = certificates(files.path(), "others");
    let fixture = Fixture::start(|settings| settings.tls = Some(ours.server.clone())).await;
    let base = fixture.broker.connection_settings(Role::Agent, &name("web-1"));

    let mut good = base.clone();
    good.tls.certificate = Some(ours.agent_certificate.clone());
    good.tls.key = Some(ours.agent_key.clone());
    let mut agent = User::connect(good.clone()).await;
    agent.sees(&BrokerEvent::Connected).await;

    let mut foreign_certificate = good.clone();
    foreign_certificate.tls.certificate = Some(others.agent_certificate.clone());
    foreign_certificate.tls.key = Some(others.agent_key.clone());
    let mut other_ca = good.clone();
    other_ca.tls.ca = Some(others.server.ca.clone());
    let mut other_name = good.clone();
    other_name.urls = vec![format!("tls://localhost:{}", fixture.broker.port())];
    for (what, settings) in
        [("none", base), ("foreign", foreign_certificate), ("other CA", other_ca), ("other name", other_name)]
    {
        let (events, _kept) = tokio::sync::mpsc::channel(64);
        let error = within(connect(settings, events)).await.expect_err(what);
        assert!(matches!(error, ConnectionError::Tls { .. }), "{what}: {error:?}");
    }
    let mut half = good;
    half.tls.key = None;
    let (events, _kept) = tokio::sync::mpsc::channel(64);
    assert!(matches!(connect(half, events).await, Err(ConnectionError::HalfCertificate)));
}

#[tokio::test]
async fn an_agent_that_wants_tls_does_not_speak_to_a_broker_without() {
    if server_is_missing() {
        return;
    }
    let fixture = Fixture::new().await;
    let mut settings = fixture.broker.connection_settings(Role::Agent, &name("web-1"));
    settings.tls.required = true;
    let (events, _kept) = tokio::sync::mpsc::channel(64);
    assert!(within(connect(settings, events)).await.is_err());
}
