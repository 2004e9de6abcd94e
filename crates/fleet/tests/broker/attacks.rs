//! What somebody does who holds one login and speaks the protocol himself: every reply, header, id and call. Nothing of
//! it changes what is stored of others, or reaches their subscriptions. SECURITY.md has the table.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::StreamExt as _;
use vigie_fleet::broker::client::{Outgoing, State};
use vigie_fleet::broker::consumer::{self, Begin, Member};
use vigie_fleet::broker::is_safe_server;
use vigie_fleet::broker::jwt::Role;
use vigie_fleet::broker::stored::{self, Cursor, Which, get, store, store_after};
use vigie_fleet::subjects::{self, STREAMS};

use crate::broker_fixture::{Fixture, User, name, server_is_missing, until, within};

const FLUSH: Duration = Duration::from_secs(60);

/// Everything that is stored, by stream and subject: number and content.
type Contents = BTreeMap<(String, String), Vec<(u64, Vec<u8>)>>;

async fn contents(admin: &User) -> Contents {
    let mut contents = Contents::new();
    for stream in STREAMS {
        let mut cursor = Cursor { next: 1 };
        let all = cursor.read(admin.client(), stream, "vigie.>", |entry| {
            let place = contents.entry((stream.to_owned(), entry.subject)).or_default();
            place.push((entry.sequence, entry.value.to_vec()));
            true
        });
        assert!(within(all).await.unwrap());
    }
    contents
}

/// A fleet in which everybody has stored something, and listens.
pub(crate) struct Scene {
    pub(crate) fixture: Fixture,
    pub(crate) admin: User,
    victims: Vec<(User, vigie_fleet::broker::client::Subscription)>,
    before: Contents,
    attacker: String,
}

impl Scene {
    async fn new(attacker: &str) -> Self {
        Self::in_fleet(Fixture::with_streams().await, attacker).await
    }

    pub(crate) async fn in_fleet(fixture: Fixture, attacker: &str) -> Self {
        let admin = fixture.user(Role::Administrator, "root").await;
        let mut victims = Vec::new();
        for victim in ["h2", "h3"] {
            let user = fixture.user(Role::Agent, victim).await;
            let live = user.client().subscribe(&subjects::live(&name(victim), "0123456789abcdef")).unwrap();
            for subject in agent_subjects(victim) {
                within(store(user.client(), &subject, b"victim's")).await.unwrap();
            }
            within(user.client().flush(FLUSH)).await.unwrap();
            victims.push((user, live));
        }
        let bob = fixture.user(Role::Investigator, "bob").await;
        let live = bob.client().subscribe(&bob.client().new_inbox()).unwrap();
        within(store(bob.client(), "vigie.ask.bob", b"bob's")).await.unwrap();
        victims.push((bob, live));
        for (subject, value) in
            [("vigie.policy", "signed policy"), ("vigie.enrol.h1", "record"), ("vigie.enrol.h2", "record")]
        {
            within(store(admin.client(), subject, value.as_bytes())).await.unwrap();
        }
        let before = contents(&admin).await;
        Self { fixture, admin, victims, before, attacker: attacker.to_owned() }
    }

    /// Whether the server is one that this attack does not end; see `SAFE_SERVER`.
    pub(crate) fn is_safe(&self) -> bool {
        is_safe_server(&self.admin.client().server().version)
    }

    /// Nothing of others has changed, nobody got anything, everybody is still connected and can work.
    pub(crate) async fn is_unharmed(&mut self) {
        self.is_unharmed_but(&[]).await;
    }

    /// The same; `writers` have stored something since.
    pub(crate) async fn is_unharmed_but(&mut self, writers: &[&str]) {
        let after = contents(&self.admin).await;
        for (place, entries) in &self.before {
            if place.1.ends_with(&format!(".{}", self.attacker)) {
                continue;
            }
            assert_eq!(after.get(place), Some(entries), "{place:?}");
        }
        for place in after.keys() {
            let name = place.1.rsplit('.').next().unwrap_or_default();
            let own = name == self.attacker || writers.contains(&name);
            assert!(own || self.before.contains_key(place), "{place:?} is new");
        }
        for (user, live) in &mut self.victims {
            // What was sent to it before has come by now.
            within(user.client().flush(FLUSH)).await.unwrap();
            let got = tokio::time::timeout(Duration::ZERO, live.next()).await;
            assert!(got.is_err(), "{got:?}");
            assert!(matches!(user.client().state(), State::Connected(_)));
        }
        let (victim, live) = &mut self.victims[0];
        within(store(victim.client(), "vigie.alert.h2", b"after")).await.unwrap();
        within(self.admin.client().send("vigie.live.h2.0123456789abcdef", b"look")).await.unwrap();
        assert_eq!(within(live.next()).await.unwrap().payload, "look");
    }
}

pub(crate) fn agent_subjects(agent: &str) -> Vec<String> {
    let agent = name(agent);
    let mut subjects = vec![subjects::alert(&agent), subjects::audit(&agent), subjects::facts(&agent)];
    subjects.extend((0..subjects::SLOTS).map(|slot| format!("vigie.res.{slot}.{agent}")));
    subjects
}

/// Where an answer of the broker could do harm.
pub(crate) fn replies(safe: bool) -> Vec<String> {
    let mut replies: Vec<String> = [
        "vigie.alert.h2",
        "vigie.facts.h2",
        "vigie.audit.h2",
        "vigie.res.7.h2",
        "vigie.policy",
        "vigie.enrol.h2",
        "vigie.ask.bob",
        "vigie.live.h2.guess",
        "vigie.live.h3.guess",
        "_INBOX.agent.h2.guess",
        "_INBOX.investigator.bob.guess",
        "$JS.API.STREAM.PURGE.ALERTS",
        "$JS.API.STREAM.DELETE.POLICY",
        "$JS.API.CONSUMER.CREATE.ALERTS",
        "$KV.policy.current",
        "$SYS.REQ.SERVER.PING",
        "_R_.abcdef",
        "_GR_.abcdef",
        "$JS.ACK.ALERTS.x.1.1.1.1.0",
    ]
    .map(str::to_owned)
    .to_vec();
    // A reply with a wildcard overflows the stack of older servers.
    if safe {
        replies.extend(["vigie.live.h2.*", "vigie.>", "a.b.*"].map(str::to_owned));
    }
    replies
}

pub(crate) fn header_sets() -> Vec<Vec<(String, String)>> {
    let sets: &[&[(&str, &str)]] = &[
        &[],
        &[("Nats-Rollup", "all")],
        &[("Nats-Rollup", "sub")],
        &[("Nats-Msg-Id", "h2.journal.1")],
        &[("Nats-Expected-Last-Sequence", "0")],
        &[
            ("Nats-Expected-Last-Subject-Sequence", "1"),
            ("Nats-Expected-Last-Subject-Sequence-Subject", "vigie.policy"),
        ],
        &[("Nats-TTL", "1s")],
        &[("Nats-Schedule", "@every 1s"), ("Nats-Schedule-Target", "vigie.policy")],
        &[("Nats-Trace-Dest", "vigie.policy")],
        &[("Nats-Stream-Source", "POLICY 1 > > vigie.policy")],
        &[("KV-Operation", "PURGE"), ("Nats-Marker-Reason", "Purge")],
        &[("Nats-Incr", "+1"), ("Nats-Batch-Id", "b"), ("Nats-Batch-Sequence", "1")],
    ];
    sets.iter()
        .map(|set| set.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect())
        .collect()
}

/// Publishes every allowed subject with every reply and header, and bodies that ask for others' messages.
async fn publish_everything(attacker: &User, allowed: &[String], safe: bool) {
    for subject in allowed {
        let body: &[u8] = if subject.starts_with("$JS.API.DIRECT.GET") { br#"{"seq":1}"# } else { b"junk" };
        for reply in replies(safe) {
            for headers in header_sets() {
                let message = Outgoing { subject, reply: Some(&reply), headers: &headers, payload: body };
                within(attacker.client().publish(message)).await.unwrap();
            }
        }
    }
    within(attacker.client().flush(FLUSH)).await.unwrap();
}

#[tokio::test]
async fn an_agent_with_every_reply_header_and_id_changes_nothing_of_others() {
    if server_is_missing() {
        return;
    }
    let mut scene = Scene::new("h1").await;
    let attacker = scene.fixture.user(Role::Agent, "h1").await;
    let mut allowed = agent_subjects("h1");
    let read = [
        "$JS.API.DIRECT.GET.POLICY",
        "$JS.API.DIRECT.GET.ASK",
        "$JS.API.DIRECT.GET.ALERTS.vigie.alert.h1",
        "$JS.API.DIRECT.GET.FACTS.vigie.facts.h1",
    ];
    allowed.extend(read.map(str::to_owned));
    publish_everything(&attacker, &allowed, scene.is_safe()).await;
    scene.is_unharmed().await;
}

#[tokio::test]
async fn an_agent_that_floods_fills_no_more_than_its_quota() {
    if server_is_missing() {
        return;
    }
    let mut scene = Scene::new("h1").await;
    let attacker = scene.fixture.user(Role::Agent, "h1").await;
    let junk = vec![b'x'; 60 * 1024];
    for round in 0..1500 {
        for subject in ["vigie.alert.h1", "vigie.res.7.h1", "vigie.facts.h1"] {
            let _ = within(attacker.client().send(subject, &junk)).await;
        }
        let _ = within(attacker.client().send("vigie.audit.h1", &junk[..round + 1])).await;
    }
    within(attacker.client().flush(FLUSH)).await.unwrap();
    scene.is_unharmed().await;
    let after = contents(&scene.admin).await;
    let count = |stream: &str, subject: &str| {
        after.get(&(stream.to_owned(), subject.to_owned())).map_or(0, |entries| entries.len() as u64)
    };
    assert_eq!(count(subjects::FACTS, "vigie.facts.h1"), 2);
    assert_eq!(count(subjects::RESULTS, "vigie.res.7.h1"), 64);
    for stream in STREAMS {
        let own: usize = after
            .iter()
            .filter(|((of, subject), _)| {
                of == stream && subject.ends_with(".h1") && !subject.contains("enrol")
            })
            .flat_map(|(_, entries)| entries.iter().map(|(_, value)| value.len()))
            .sum();
        assert!(own as u64 <= vigie_fleet::broker::streams::quota(stream).unwrap(), "{stream}: {own}");
    }
    // One message that is too large is refused, and costs nobody else anything.
    let error = within(store(attacker.client(), "vigie.audit.h1", &junk)).await.unwrap_err();
    assert!(matches!(error, stored::StoredError::Refused { .. }), "{error:?}");
}

#[tokio::test]
async fn an_agent_that_knows_others_message_ids_keeps_nothing_of_theirs_out() {
    if server_is_missing() {
        return;
    }
    let mut scene = Scene::new("h1").await;
    let attacker = scene.fixture.user(Role::Agent, "h1").await;
    for number in 0..2000 {
        let headers = [("Nats-Msg-Id".to_owned(), format!("h2.journal.{number}"))];
        let message = Outgoing { subject: "vigie.alert.h1", headers: &headers, ..Outgoing::default() };
        within(attacker.client().publish(message)).await.unwrap();
    }
    within(attacker.client().flush(FLUSH)).await.unwrap();
    // What agents store has no id, so none can be used up.
    let first = within(store(scene.victims[0].0.client(), "vigie.audit.h2", b"mine")).await.unwrap();
    let second = within(store(scene.victims[0].0.client(), "vigie.audit.h2", b"mine")).await.unwrap();
    assert_eq!(second, first + 1);
    scene.before = contents(&scene.admin).await;
    scene.is_unharmed().await;
}

#[tokio::test]
async fn an_investigator_with_every_call_changes_nothing_of_others() {
    if server_is_missing() {
        return;
    }
    let mut scene = Scene::new("ann").await;
    let attacker = scene.fixture.user(Role::Investigator, "ann").await;
    let mut allowed = vec!["vigie.ask.ann".to_owned(), "vigie.live.h2.guess".to_owned()];
    for stream in STREAMS {
        allowed.push(format!("$JS.API.DIRECT.GET.{stream}"));
    }
    publish_everything(&attacker, &allowed, scene.is_safe()).await;
    scene.is_unharmed().await;
    // He fills only his own questions: bob still asks.
    let mut refused = None;
    for _ in 0..250 {
        refused = within(store(attacker.client(), "vigie.ask.ann", b"ask")).await.err().or(refused);
    }
    assert!(refused.is_some_and(|error| matches!(error, stored::StoredError::Refused { .. })));
    within(store(scene.victims[2].0.client(), "vigie.ask.bob", b"bob's second")).await.unwrap();
}

#[tokio::test]
async fn an_enroller_with_every_call_changes_nothing_but_records() {
    if server_is_missing() {
        return;
    }
    let mut scene = Scene::new("h9").await;
    let attacker = scene.fixture.user(Role::Enroller, "erin").await;
    let mut allowed = vec!["vigie.enrol.h9".to_owned(), "vigie.joined.h9".to_owned()];
    for stream in ["ENROL", "POLICY", "JOIN", "RENEW", "JOINED"] {
        allowed.push(format!("$JS.API.DIRECT.GET.{stream}"));
    }
    publish_everything(&attacker, &allowed, scene.is_safe()).await;
    scene.is_unharmed().await;
}

#[tokio::test]
async fn a_forwarder_with_every_call_changes_nothing() {
    if server_is_missing() {
        return;
    }
    let mut scene = Scene::new("siem").await;
    let group = name("siem");
    within(consumer::ensure(scene.admin.client(), &group, Begin::Oldest)).await.unwrap();
    let attacker = scene.fixture.user(Role::Forwarder, "siem").await;
    let mut member = Member::new(attacker.client(), &group).unwrap();
    let taken = within(member.next(1, FLUSH)).await.unwrap();
    assert_eq!(taken.len(), 1, "there is something to send where it may do harm");
    let allowed = [
        "$JS.API.CONSUMER.MSG.NEXT.ALERTS.siem",
        "$JS.ACK.ALERTS.siem.1.1.1.1700000000000000000.0",
        "$JS.API.DIRECT.GET.ENROL",
        "$JS.API.DIRECT.GET.POLICY",
    ]
    .map(str::to_owned);
    publish_everything(&attacker, &allowed, scene.is_safe()).await;
    // An acknowledgement that asks for the next alert sends it to whoever it names.
    for reply in replies(scene.is_safe()) {
        for payload in [&b"+NXT"[..], br#"+NXT {"batch": 100}"#, b"-NAK", b"1"] {
            let subject = "$JS.ACK.ALERTS.siem.1.1.1.1700000000000000000.0";
            let message = Outgoing { subject, reply: Some(&reply), payload, ..Outgoing::default() };
            within(attacker.client().publish(message)).await.unwrap();
            let subject = "$JS.API.CONSUMER.MSG.NEXT.ALERTS.siem";
            let message = Outgoing { subject, reply: Some(&reply), payload, ..Outgoing::default() };
            within(attacker.client().publish(message)).await.unwrap();
        }
    }
    within(attacker.client().flush(FLUSH)).await.unwrap();
    scene.is_unharmed().await;
}

/// Whoever has a token that was leaked can fill what is the token's, and nothing else.
#[tokio::test]
async fn a_token_that_was_leaked_changes_nothing_but_its_own_requests() {
    if server_is_missing() {
        return;
    }
    let mut scene = Scene::new("h9").await;
    let attacker = scene.fixture.user(Role::Joiner, "h9").await;
    let mut allowed = vec!["vigie.join.h9".to_owned()];
    for stream in ["POLICY", "JOINED"] {
        allowed.push(format!("$JS.API.DIRECT.GET.{stream}"));
    }
    publish_everything(&attacker, &allowed, scene.is_safe()).await;
    scene.is_unharmed().await;
    // What it may not, it may not: answers, records, another token's requests, what agents write, other streams.
    let others = ["vigie.joined.U1", "vigie.enrol.h9", "vigie.join.h8", "vigie.alert.h9", "vigie.renew.h9"];
    let mut again = scene.fixture.user(Role::Joiner, "h9").await;
    for subject in others.into_iter().chain(["$JS.API.DIRECT.GET.ENROL", "$JS.API.DIRECT.GET.JOIN"]) {
        again.is_refused_publishing(subject).await;
    }
    // Thousands of requests by one token keep no other token's out.
    let mut refused = None;
    let client = attacker.client().clone();
    for _ in 0..12 {
        let asked = (0..1000).map(|_| store(&client, "vigie.join.h9", &[b'x'; 512]));
        let asked: Vec<_> = futures_util::stream::iter(asked).buffer_unordered(256).collect().await;
        refused = asked.into_iter().find_map(Result::err).or(refused);
    }
    assert!(matches!(refused, Some(stored::StoredError::Refused { .. })), "{refused:?}");
    let other = scene.fixture.user(Role::Joiner, "h7").await;
    within(store(other.client(), "vigie.join.h7", b"request")).await.unwrap();
}

#[tokio::test]
async fn a_second_writer_of_one_identity_is_noticed() {
    if server_is_missing() {
        return;
    }
    let fixture = Fixture::with_streams().await;
    let (one, two) = (fixture.user(Role::Agent, "web-1").await, fixture.user(Role::Agent, "web-1").await);
    let first = within(store(one.client(), "vigie.facts.web-1", b"one")).await.unwrap();
    within(store(two.client(), "vigie.facts.web-1", b"two")).await.unwrap();
    let error =
        within(store_after(one.client(), "vigie.facts.web-1", first, b"one again")).await.unwrap_err();
    assert!(error.is_other_writer(), "{error:?}");
    assert_eq!(
        within(stored::versions(
            fixture.user(Role::Administrator, "root").await.client(),
            subjects::FACTS,
            "vigie.facts.web-1",
            9
        ))
        .await
        .unwrap()
        .len(),
        2
    );
}

#[tokio::test]
async fn garbage_over_the_policy_hides_no_version_and_can_be_published_over() {
    if server_is_missing() {
        return;
    }
    let fixture = Fixture::with_streams().await;
    let (admin, agent) =
        (fixture.user(Role::Administrator, "root").await, fixture.user(Role::Agent, "h1").await);
    for text in ["good", "junk", "", "more junk"] {
        within(store(admin.client(), subjects::POLICY_SUBJECT, text.as_bytes())).await.unwrap();
    }
    let all = stored::versions(agent.client(), subjects::POLICY, subjects::POLICY_SUBJECT, 8);
    let texts: Vec<_> = within(all).await.unwrap().into_iter().map(|entry| entry.value).collect();
    assert_eq!(texts, ["good", "junk", "", "more junk"]);
    for _ in 0..20 {
        within(store(admin.client(), subjects::POLICY_SUBJECT, b"new")).await.unwrap();
    }
    let last = until(async || {
        get(agent.client(), subjects::POLICY, Which::Last(subjects::POLICY_SUBJECT)).await.ok()
    })
    .await;
    assert_eq!(last.unwrap().value, "new");
}
