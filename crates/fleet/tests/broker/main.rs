//! The broker's side of a fleet against a real nats-server: the one in `VIGIE_NATS_SERVER`, in `PATH` or of Debian.
//! Without one these tests say so and pass, but not in CI.

#[cfg(test)]
mod attacks;
#[cfg(test)]
mod broker_fixture;
#[cfg(test)]
mod forwarders;
#[cfg(test)]
mod headers;
#[cfg(test)]
mod hostile_server;
#[cfg(test)]
mod leaf;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use vigie_fleet::broker::connection::{BrokerEvent, ConnectionError, Login, connect};
use vigie_fleet::broker::jwt::{Authority, Role};
use vigie_fleet::broker::local::{LocalBroker, LocalBrokerSettings};
use vigie_fleet::broker::stored::{self, Cursor, Which, get, store};
use vigie_fleet::broker::streams::{self, Change, StreamSizes};
use vigie_fleet::subjects;
use vigie_protocol::names::ActionId;

use broker_fixture::{Fixture, NOW, User, certificates, name, server_is_missing, until, within};

fn action() -> ActionId {
    ActionId::from_random([7; 16])
}

/// Nobody waits for what the broker does not permit, and is told what that is.
#[tokio::test]
async fn what_is_not_permitted_is_said_at_once() {
    if server_is_missing() {
        return;
    }
    let fixture = Fixture::with_streams().await;
    let agent = fixture.user(Role::Agent, "web-1").await;
    let asked = stored::newest_of_own(agent.client(), subjects::ALERTS, "vigie.alert.web-2");
    let error = within(asked).await.unwrap_err();
    assert!(error.is_not_permitted() && !error.is_transient(), "{error:?}");
    // A reader does not ask again and again either.
    let error = within(get(agent.client(), subjects::ALERTS, Which::Number(1))).await.unwrap_err();
    assert!(error.is_not_permitted(), "{error:?}");
}

#[tokio::test]
async fn an_agent_can_do_everything_that_it_needs() {
    if server_is_missing() {
        return;
    }
    let fixture = Fixture::with_streams().await;
    let admin = fixture.user(Role::Administrator, "root").await;
    let ann = fixture.user(Role::Investigator, "ann").await;
    let mut agent = fixture.user(Role::Agent, "web-1").await;
    let me = name("web-1");

    let mut live = agent.client().subscribe(&subjects::live(&me, "secret")).unwrap();
    within(agent.client().flush(Duration::from_secs(30))).await.unwrap();
    for sender in [&ann, &admin] {
        within(sender.client().send(&subjects::live(&me, "secret"), b"look")).await.unwrap();
        assert_eq!(within(live.next()).await.unwrap().payload, "look");
    }
    let policy = Which::Last(subjects::POLICY_SUBJECT);
    assert_eq!(within(get(agent.client(), subjects::POLICY, policy)).await.unwrap(), None);
    within(store(admin.client(), subjects::POLICY_SUBJECT, b"policy 1")).await.unwrap();
    let found = within(get(agent.client(), subjects::POLICY, policy)).await.unwrap().unwrap();
    assert_eq!((found.sequence, &found.value[..]), (1, &b"policy 1"[..]));

    // Questions are found by catching up.
    let every = |from| Which::Next(subjects::EVERY_ASK, from);
    assert_eq!(within(get(agent.client(), subjects::ASK, every(1))).await.unwrap(), None);
    within(store(ann.client(), "vigie.ask.ann", b"ask")).await.unwrap();
    let found = within(get(agent.client(), subjects::ASK, every(1))).await.unwrap().unwrap();
    assert_eq!((found.subject.as_str(), &found.value[..]), ("vigie.ask.ann", &b"ask"[..]));
    assert_eq!(within(get(agent.client(), subjects::ASK, every(2))).await.unwrap(), None);

    let mut answers = ann.client().subscribe(&subjects::answers_to(&action())).unwrap();
    within(ann.client().flush(Duration::from_secs(30))).await.unwrap();
    let mine =
        [subjects::answer(&action(), &me), subjects::alert(&me), subjects::audit(&me), subjects::facts(&me)];
    for subject in &mine {
        within(store(agent.client(), subject, b"mine")).await.unwrap();
    }
    assert_eq!(within(answers.next()).await.unwrap().payload, "mine");
    // What it wrote last it may read, to know whether it did.
    for (stream, subject) in [(subjects::ALERTS, &mine[1]), (subjects::FACTS, &mine[3])] {
        let newest = within(stored::newest_of_own(agent.client(), stream, subject)).await.unwrap();
        assert_eq!(newest.map(|entry| (entry.subject, entry.value)), Some((subject.clone(), "mine".into())));
    }
    let other = fixture.user(Role::Agent, "web-2").await;
    let nothing = stored::newest_of_own(other.client(), subjects::ALERTS, "vigie.alert.web-2");
    assert_eq!(within(nothing).await.unwrap(), None);
    // A second writer of one's own facts is noticed.
    let facts = subjects::facts(&me);
    within(stored::store_after(agent.client(), &facts, 1, b"again")).await.unwrap();
    let error = within(stored::store_after(agent.client(), &facts, 1, b"third")).await.unwrap_err();
    assert!(error.is_other_writer(), "{error:?}");
    // Nothing was refused on the way: the event of this one comes after any other.
    agent.is_refused_publishing("vigie.act.all").await;
}

#[tokio::test]
async fn who_decided_on_records_that_are_not_the_newest_stores_nothing_under_any_name() {
    if server_is_missing() {
        return;
    }
    let fixture = Fixture::with_streams().await;
    let (one, two) = (fixture.user(Role::Enroller, "one").await, fixture.user(Role::Enroller, "two").await);
    let record = |name: &str| subjects::enrolment(&name.parse().unwrap());

    let first = within(stored::store_alone(one.client(), &record("web-1"), 0, 0, b"1")).await.unwrap();
    // The other one has not read that, and means another host.
    let error = within(stored::store_alone(two.client(), &record("web-2"), 0, 0, b"2")).await.unwrap_err();

    assert!(error.is_other_writer(), "{error:?}");
    assert_eq!(error.newest(), Some(first));
    within(stored::store_alone(two.client(), &record("web-2"), 0, first, b"2")).await.unwrap();
}

#[tokio::test]
async fn an_agent_can_do_nothing_in_the_name_of_others() {
    if server_is_missing() {
        return;
    }
    let fixture = Fixture::with_streams().await;
    let mut agent = fixture.user(Role::Agent, "web-1").await;

    for subject in [
        "vigie.res.7.web-2",
        "vigie.res.16.web-1",
        "vigie.res.7.web-1.x",
        "vigie.alert.web-2",
        "vigie.alert.web-1.fswatch",
        "vigie.audit.web-2",
        "vigie.facts.web-2",
        "vigie.policy",
        "vigie.enrol.web-1",
        "vigie.ask.ann",
        "vigie.live.web-2.x",
        "vigie.live.web-1.x",
        "$KV.agents.web-1",
        "$JS.API.INFO",
        "$JS.API.STREAM.NAMES",
        "$JS.API.STREAM.DELETE.ASK",
        "$JS.API.STREAM.PURGE.ALERTS",
        "$JS.API.STREAM.INFO.ALERTS",
        "$JS.API.STREAM.MSG.GET.ALERTS",
        "$JS.API.DIRECT.GET.ALERTS",
        "$JS.API.DIRECT.GET.RESULTS",
        "$JS.API.DIRECT.GET.AUDIT",
        "$JS.API.DIRECT.GET.FACTS",
        "$JS.API.DIRECT.GET.ENROL",
        "$JS.API.DIRECT.GET.ALERTS.vigie.alert.web-2",
        "$JS.API.DIRECT.GET.FACTS.vigie.facts.web-2",
        "$JS.API.DIRECT.GET.RESULTS.vigie.res.7.web-1",
        "$JS.API.CONSUMER.CREATE.ALERTS",
        "$JS.API.CONSUMER.CREATE.ASK.mine",
        "$SYS.REQ.ACCOUNT.PING.CONNZ",
        "$SYS.REQ.USER.INFO",
        "_INBOX.agent.web-2.x",
        "_INBOX.investigator.ann.x",
    ] {
        agent.is_refused_publishing(subject).await;
    }
    for subject in [
        ">",
        "vigie.>",
        "vigie.live.>",
        "vigie.live.*.*",
        "vigie.live.web-2.*",
        "vigie.res.>",
        "vigie.res.*.web-1",
        "vigie.alert.>",
        "vigie.audit.web-2",
        "vigie.facts.*",
        "vigie.enrol.*",
        "vigie.ask.*",
        "_INBOX.agent.web-2.>",
        "_INBOX.>",
        "_R_.>",
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

    within(store(ann.client(), "vigie.ask.ann", b"ask")).await.unwrap();
    for subject in [subjects::answer(&action(), &me), subjects::alert(&me), subjects::facts(&me)] {
        within(store(agent.client(), &subject, subject.as_bytes())).await.unwrap();
    }
    for (stream, filter) in [
        (subjects::RESULTS, subjects::answers_to(&action())),
        (subjects::ALERTS, subjects::EVERY_ALERT.to_owned()),
        (subjects::FACTS, subjects::EVERY_FACTS.to_owned()),
        (subjects::ASK, subjects::EVERY_ASK.to_owned()),
    ] {
        let mut found = Vec::new();
        let mut cursor = Cursor { next: 1 };
        let all = cursor.read(ann.client(), stream, &filter, |entry| {
            found.push(entry.subject);
            true
        });
        assert!(within(all).await.unwrap());
        assert_eq!(found.len(), 1, "{stream}");
        assert!(within(stored::extent(ann.client(), stream, &filter)).await.unwrap().is_some(), "{stream}");
    }

    for subject in [
        "vigie.ask.bob",
        "vigie.res.7.web-1",
        "vigie.alert.web-1",
        "vigie.audit.web-1",
        "vigie.facts.web-1",
        "vigie.policy",
        "vigie.enrol.web-1",
        "$JS.API.STREAM.INFO.ALERTS",
        "$JS.API.STREAM.CREATE.MINE",
        "$JS.API.STREAM.UPDATE.ALERTS",
        "$JS.API.STREAM.DELETE.RESULTS",
        "$JS.API.STREAM.PURGE.ALERTS",
        "$JS.API.STREAM.MSG.DELETE.ALERTS",
        "$JS.API.CONSUMER.CREATE.ALERTS",
        "$JS.API.CONSUMER.CREATE.ALERTS.mine",
        "$JS.API.CONSUMER.DURABLE.CREATE.ALERTS.mine",
        "_INBOX.agent.web-1.x",
    ] {
        ann.is_refused_publishing(subject).await;
    }
    for subject in
        ["vigie.audit.*", "vigie.live.>", "_INBOX.agent.web-1.>", "_INBOX.investigator.bob.>", "_INBOX.>"]
    {
        ann.is_refused_subscribing(subject).await;
    }
}

#[tokio::test]
async fn an_enroller_stores_records_and_nothing_else() {
    if server_is_missing() {
        return;
    }
    let fixture = Fixture::with_streams().await;
    let mut enroller = fixture.user(Role::Enroller, "erin").await;
    within(store(enroller.client(), &subjects::enrolment(&name("web-1")), b"record")).await.unwrap();
    let found =
        within(stored::versions(enroller.client(), subjects::ENROL, "vigie.enrol.web-1", 8)).await.unwrap();
    assert_eq!(found.len(), 1);
    for subject in [
        "vigie.policy",
        "vigie.ask.erin",
        "vigie.facts.web-1",
        "vigie.live.web-1.x",
        "vigie.alert.web-1",
        "$JS.API.DIRECT.GET.FACTS",
        "$JS.API.STREAM.INFO.ENROL",
        "$JS.API.CONSUMER.CREATE.ENROL",
        "$JS.API.STREAM.PURGE.ENROL",
    ] {
        enroller.is_refused_publishing(subject).await;
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
    let jetstream = admin.client();
    let sizes = StreamSizes { results: 64 << 20, ..StreamSizes::default() };

    let made = within(streams::ensure(jetstream, &sizes)).await.unwrap();
    store(jetstream, "vigie.ask.ann", b"kept").await.unwrap();
    let again = within(streams::ensure(jetstream, &sizes)).await.unwrap();
    let larger = StreamSizes { results: 128 << 20, ..sizes };
    let changed = within(streams::ensure(jetstream, &larger)).await.unwrap();
    let at_last = within(streams::ensure(jetstream, &larger)).await.unwrap();

    assert_eq!(made.len(), subjects::STREAMS.len());
    assert!(made.iter().all(|(_, change)| *change == Change::Created), "{made:?}");
    assert!(again.iter().all(|(_, change)| *change == Change::Unchanged), "{again:?}");
    let updated: Vec<&str> = changed
        .iter()
        .filter(|(_, change)| *change == Change::Updated)
        .map(|(name, _)| name.as_str())
        .collect();
    assert_eq!(updated, [subjects::RESULTS]);
    assert!(at_last.iter().all(|(_, change)| *change == Change::Unchanged), "{at_last:?}");
    assert!(get(jetstream, subjects::ASK, Which::Number(1)).await.unwrap().is_some());
}

/// As it looks behind somebody who pushes out what he wrote himself.
#[tokio::test]
async fn a_stream_with_holes_is_read_whole_in_order_and_from_a_time() {
    if server_is_missing() {
        return;
    }
    const FLOOD: usize = 30_000;
    let fixture = Fixture::with_streams().await;
    let ann = fixture.user(Role::Investigator, "ann").await;
    let admin = fixture.user(Role::Administrator, "root").await;
    for number in 0..300 {
        store(admin.client(), &format!("vigie.alert.host-{number}"), b"first").await.unwrap();
    }
    for _ in 0..FLOOD {
        admin.client().send("vigie.alert.flooder", b"x").await.unwrap();
    }
    store(admin.client(), "vigie.alert.last", b"last").await.unwrap();

    let mut found = Vec::new();
    let mut cursor = Cursor { next: 1 };
    let all = cursor.read(ann.client(), subjects::ALERTS, subjects::EVERY_ALERT, |entry| {
        found.push((entry.sequence, entry.subject));
        true
    });
    assert!(within(all).await.unwrap());
    let sequences: Vec<u64> = found.iter().map(|(sequence, _)| *sequence).collect();
    assert!(sequences.is_sorted());
    let flood = found.iter().filter(|(_, subject)| subject.ends_with(".flooder")).count();
    assert_eq!((found.len() - flood, flood), (301, 5_000), "the flooder pushed out only what is his own");
    assert_eq!(found.last().unwrap().1, "vigie.alert.last");
    let far = Cursor::at_time(ann.client(), subjects::ALERTS, subjects::EVERY_ALERT, i64::MAX);
    assert_eq!(within(far).await.unwrap().next, sequences.last().unwrap() + 1);
    let begin = Cursor::at_time(ann.client(), subjects::ALERTS, subjects::EVERY_ALERT, 0);
    assert_eq!(within(begin).await.unwrap().next, 1);
    let newest =
        stored::newest(ann.client(), subjects::ALERTS, (0..310).map(|n| format!("vigie.alert.host-{n}")));
    assert_eq!(within(newest).await.unwrap().len(), 300);
}

#[tokio::test]
async fn subscriptions_come_back_after_the_broker_was_killed() {
    if server_is_missing() {
        return;
    }
    let mut fixture = Fixture::with_streams().await;
    let mut agent = fixture.user(Role::Agent, "web-1").await;
    let mut orders = agent.client().subscribe("vigie.live.web-1.secret").unwrap();
    agent.sees(&BrokerEvent::Connected).await;

    fixture.broker.kill().await.unwrap();
    agent.sees(&BrokerEvent::Disconnected).await;
    fixture.broker.restart().await.unwrap();
    agent.sees(&BrokerEvent::Connected).await;

    let ann = fixture.user(Role::Investigator, "ann").await;
    within(agent.client().flush(Duration::from_secs(30))).await.unwrap();
    ann.client().send("vigie.live.web-1.secret", b"again").await.unwrap();
    let heard = within(orders.next()).await.unwrap();
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
    store(ann.client(), "vigie.ask.ann", b"kept").await.unwrap();
    drop(ann);
    let Fixture { mut broker, directory } = fixture;
    broker.stop().await.unwrap();
    drop(broker);

    let broker =
        LocalBroker::start(LocalBrokerSettings::new(directory.path(), "example", NOW)).await.unwrap();
    settings.urls = vec![broker.url()];
    let ann = User::connect(settings.clone()).await;
    let found = get(ann.client(), subjects::ASK, Which::Last("vigie.ask.ann")).await.unwrap();
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
