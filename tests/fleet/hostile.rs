//! Somebody holds the broker: with every permission he makes nobody run anything, and what he sends is flagged.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::json;
use vigie_fleet::agent_key::AgentKey;
use vigie_fleet::answer::{Purpose, Sealed};
use vigie_fleet::subjects;

use crate::crowd::Crowd;
use crate::harness::{
    Fleet, action, agent, alice, document, id_of, mallory, server_is_missing, sign, signed_policy, with,
};

const NAMES: [&str; 3] = ["web-1", "web-2", "web-3"];

fn fleet() -> (Fleet, Crowd) {
    let mut fleet = Fleet::new();
    let names = NAMES.map(str::to_owned);
    let crowd = Crowd::new(&mut fleet, &names, "");
    crowd.start(&names);
    crowd.wait_connected();
    (fleet, crowd)
}

#[test]
fn sending_again_and_elsewhere_runs_nothing_and_policies_cannot_be_replaced() {
    if server_is_missing() {
        return;
    }
    let (fleet, crowd) = fleet();
    let mut second = document();
    second["version"] = json!(2);
    fleet.publish_policy(&second);
    crowd.wait("policy 2", |status| status.policy_version == Some(2));
    let for_one = with("agents", json!(["web-1"]));
    let for_all = action();
    fleet.ask(&for_one);
    fleet.ask(&for_all);
    fleet.answers(&id_of(&for_one), 1);
    fleet.answers(&id_of(&for_all), 3);
    let before = crowd.ran();

    let mut third = document();
    third["version"] = json!(3);
    third["investigators"]["mallory"] = json!({"keys": [{"key": mallory().public_key()}]});
    third["acl"]["trace"]["investigators"]["mallory"] = json!(1);
    for (number, policy) in
        [signed_policy(&document(), &[1, 2]), signed_policy(&third, &[1]), signed_policy(&third, &[])]
            .into_iter()
            .enumerate()
    {
        fleet.put_policy(&policy);
        crowd.wait("it is not taken", |status| {
            status.outcomes.get("bad_policy") == Some(&(number as u64 + 1))
        });
    }
    let mut sent = 0;
    for envelope in [sign(&for_one, &[&alice()]), sign(&for_all, &[&alice()]), sign(&action(), &[&mallory()])]
    {
        // Stored once more, and sent to each once more.
        fleet.send(&envelope);
        fleet.live(&envelope);
        sent += 1;
    }

    crowd.wait("all are decided", |status| {
        let refused = ["replayed", "not_targeted", "unknown_key", "again"];
        let count: u64 = refused.iter().filter_map(|code| status.outcomes.get(*code)).sum();
        count >= 2 * sent
    });
    assert!(crowd.status().iter().all(|status| status.policy_version == Some(2)));
    assert_eq!(crowd.ran(), before, "nothing ran");
    // An action that is held back for long and an agent that comes back find the same.
    fleet.answers(&id_of(&for_one), 1);
    fleet.answers(&id_of(&for_all), 3);
}

#[test]
fn every_forged_swapped_and_replayed_answer_is_flagged() {
    if server_is_missing() {
        return;
    }
    let (fleet, _crowd) = fleet();
    let (earlier, asked) = (fleet.ask(&action()), fleet.ask(&with("agents", json!(["web-1", "web-2"]))));
    fleet.answers(&earlier, 3);
    fleet.answers(&asked, 2);
    let message = |id, name: &str| {
        let subject = subjects::answer(id, &agent(name));
        let of_this = |entry: &vigie_fleet::broker::stored::Entry| {
            String::from_utf8_lossy(&entry.value).contains(vigie_protocol::names::ActionId::as_str(id))
        };
        fleet.read(subjects::RESULTS, &subject).into_iter().find(of_this).unwrap().value
    };
    let (one, old) = (message(&asked, "web-1"), message(&earlier, "web-3"));
    // A true answer to another action of the same slot is nobody's fault, and is not this one.
    let before = fleet.collect(&asked).answers.len();
    fleet.publish(&subjects::answer(&asked, &agent("web-3")), &old);
    assert_eq!((fleet.collect(&asked).answers.len(), fleet.collect(&asked).flags.len()), (before, 0));
    let sealed: Sealed = serde_json::from_slice(&one).unwrap();
    let thief = AgentKey::generate();
    let resealed = serde_json::to_vec(&thief.seal(Purpose::Answer, sealed.text.clone()).unwrap()).unwrap();
    let changed = Sealed { text: sealed.text.replace("ok", "ko"), sig: sealed.sig.clone() };
    let changed = serde_json::to_vec(&changed).unwrap();
    let stranger = sealed.text.replace("web-1", "web-9");
    let stranger = serde_json::to_vec(&thief.seal(Purpose::Answer, stranger).unwrap()).unwrap();
    let facts = fleet.get(subjects::FACTS, &subjects::facts(&agent("web-3"))).unwrap().value;

    for (name, payload, code) in [
        ("web-3", &one[..], "bad_seal"),
        ("web-1", &resealed, "bad_seal"),
        ("web-1", &changed, "bad_seal"),
        ("web-3", &resealed, "bad_seal"),
        ("web-3", &facts, "bad_seal"),
        ("web-9", &stranger, "not_enrolled"),
        ("web-1", b"", "malformed"),
        ("web-1", b"{}", "malformed"),
    ] {
        let before = fleet.collect(&asked).flags.len();
        fleet.publish(&subjects::answer(&asked, &agent(name)), payload);
        let collected = fleet.collect(&asked);
        assert_eq!(collected.flags.len(), before + 1, "{code}");
        assert_eq!(collected.flags.last().unwrap().code(), code);
    }
    // A true one again changes nothing.
    fleet.publish(&subjects::answer(&asked, &agent("web-1")), &one);
    let collected = fleet.collect(&asked);
    assert_eq!((collected.answers.len(), collected.again), (2, 1));
}

#[test]
fn every_forged_and_moved_alert_is_flagged() {
    if server_is_missing() {
        return;
    }
    let (fleet, crowd) = fleet();
    crowd.alerts(vec![vigie_actors::alert_journal::NewAlert { id: None, message: "real".to_owned() }]);
    crowd.wait("they are sent", |status| status.alerts_sent == 1);
    let of = |name: &str| subjects::alert(&agent(name));
    let real = fleet.get(subjects::ALERTS, &of("web-1")).unwrap().value;
    let sealed: Sealed = serde_json::from_slice(&real).unwrap();
    let thief = AgentKey::generate();
    let resealed = serde_json::to_vec(&thief.seal(Purpose::Alert, sealed.text.clone()).unwrap()).unwrap();
    let changed = Sealed { text: sealed.text.replace("real", "fake"), sig: sealed.sig };
    let changed = serde_json::to_vec(&changed).unwrap();
    let asked = fleet.ask(&action());
    fleet.answers(&asked, 3);
    let answer = fleet.get(subjects::RESULTS, &subjects::answer(&asked, &agent("web-1"))).unwrap().value;

    let mut forged = 0;
    for (subject, payload) in [
        (of("web-2"), &real[..]),
        (of("web-1"), &resealed),
        (of("web-1"), &changed),
        (of("web-1"), &answer),
        (of("web-9"), &resealed),
        (of("web-1"), b"{}"),
    ] {
        fleet.publish(&subject, payload);
        forged += 1;
        let (alerts, flagged) = fleet.alerts();
        assert_eq!((alerts.len(), flagged), (3, forged), "{subject}");
    }
    let mut seen: BTreeMap<String, u64> = BTreeMap::new();
    for alert in fleet.alerts().0 {
        *seen.entry(alert.message).or_default() += 1;
    }
    assert_eq!(seen, BTreeMap::from([("real".to_owned(), 3)]));
}

/// Logs in whoever comes, answers whether it is there, and nothing else; until it is told to go.
fn silent_broker(gone: Arc<AtomicBool>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let address = listener.local_addr().expect("it has one");
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let gone = gone.clone();
            std::thread::spawn(move || -> std::io::Result<()> {
                stream.write_all(
                    b"INFO {\"version\":\"2.10.25\",\"max_payload\":1048576,\"nonce\":\"abc\"}\r\n",
                )?;
                for line in BufReader::new(stream.try_clone()?).split(b'\n') {
                    if gone.load(Ordering::Relaxed) {
                        break;
                    }
                    if line? == b"PING\r" {
                        stream.write_all(b"PONG\r\n")?;
                    }
                }
                Ok(())
            });
        }
    });
    format!("nats://{address}")
}

#[test]
fn a_broker_that_is_connected_and_stores_nothing_is_a_condition() {
    if server_is_missing() {
        return;
    }
    let mut fleet = Fleet::new();
    let gone = Arc::new(AtomicBool::new(false));
    fleet.agents_url = Some(silent_broker(gone.clone()));
    let member = fleet.host("web-1", "");
    let _agent = member.host.start();

    let status = member.wait("it is noticed", |status| {
        status["problem"].as_str().is_some_and(|problem| problem.contains("stores nothing of this host"))
    });

    assert_eq!(status["connected"], true, "the connection stands: {status}");
    let shown = member.host.vigie(&["status", "--json"]);
    assert!(shown.out.contains("fleet-disconnected"), "{shown:?}");

    // What was said of a connection ends with it.
    gone.store(true, Ordering::Relaxed);
    let status = member.wait("it is gone", |status| {
        status["problem"].as_str().is_some_and(|problem| problem.contains("not connected to a broker"))
    });
    assert!(!status["problem"].to_string().contains("stores nothing"), "{status}");
}
