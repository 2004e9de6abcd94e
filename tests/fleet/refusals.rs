//! What an agent refuses, each under its own code, and that nothing of it runs.

use std::collections::BTreeMap;

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use vigie_fleet::answer::AnswerStatus;
use vigie_fleet::subjects;

use crate::harness::{
    Fleet, Member, action, alice, bob, carol, document, dora, envelope, id_of, key, mallory, now, patiently,
    server_is_missing, sign, signed_policy, with,
};
use crate::person::Person;

fn asks(module: &str) -> Value {
    with("ops", json!([{"module": module, "params": {"mark": "bad"}}]))
}

/// An envelope whose action was changed after it was signed.
fn tampered(field: &str, value: Value) -> Vec<u8> {
    let mut action = action();
    let mut signed: Value = serde_json::from_slice(&sign(&action, &[&alice()])).unwrap();
    action[field] = value;
    signed["action"] = json!(action.to_string());
    serde_json::to_vec(&signed).unwrap()
}

fn by_alice(field: &str, value: Value) -> Vec<u8> {
    sign(&with(field, value), &[&alice()])
}

/// Each kind of bad action with its code.
fn bad() -> Vec<(&'static str, Vec<u8>)> {
    let good = action();
    let keys: Vec<_> = (10..19).map(key).collect();
    vec![
        ("too_large", by_alice("name", json!("x".repeat(300)))),
        ("malformed", b"{}".to_vec()),
        ("malformed", by_alice("ops", json!([]))),
        ("unknown_field", by_alice("sudo", json!(true))),
        ("unknown_version", by_alice("v", json!(2))),
        ("wrong_org", by_alice("org", json!("other"))),
        ("no_signature", sign(&good, &[])),
        ("too_many_signatures", sign(&good, &keys.iter().collect::<Vec<_>>())),
        ("bad_signature", tampered("ops", json!([{"module": "trace", "params": {"mark": "changed"}}]))),
        ("bad_signature", tampered("target", json!("os == \"linux\""))),
        ("bad_signature", tampered("not_after", json!(now() + 3601))),
        ("wrong_namespace", envelope(&good.to_string(), &[&alice()], "file")),
        ("unknown_key", sign(&good, &[&mallory()])),
        ("revoked_key", sign(&good, &[&dora()])),
        ("key_not_valid_now", sign(&good, &[&carol()])),
        ("same_key_twice", sign(&good, &[&alice(), &alice()])),
        // As an agent sees it whose clock is an hour ahead or behind.
        ("expired", in_window(now() - 3600, now() - 1)),
        ("not_yet_valid", in_window(now() + 3600, now() + 7200)),
        ("window_too_long", by_alice("not_after", json!(now() + 8000))),
        ("not_targeted", by_alice("target", json!("os == \"plan9\""))),
        ("not_targeted", by_alice("agents", json!(["web-2"]))),
        ("bad_target", by_alice("target", json!("os =="))),
        ("unknown_module", sign(&asks("nothing"), &[&alice()])),
        ("no_rule", sign(&asks("free"), &[&alice()])),
        ("too_little_weight", sign(&asks("both"), &[&alice()])),
        ("over_limits", by_alice("limits", json!({"seconds": 121}))),
    ]
}

/// A good action with another window.
fn in_window(not_before: i64, not_after: i64) -> Vec<u8> {
    let mut action = action();
    action["not_before"] = json!(not_before);
    action["not_after"] = json!(not_after);
    sign(&action, &[&alice()])
}

fn wait_outcomes(member: &Member, wanted: &BTreeMap<&str, u64>) {
    member.wait("all are decided", |status| {
        wanted.iter().all(|(code, count)| status["outcomes"][code].as_u64() == Some(*count))
    });
    let status = member.status();
    assert_eq!(status["outcomes"], json!(wanted), "no other outcome");
}

#[test]
fn each_bad_action_is_refused_under_its_own_code_and_nothing_runs() {
    if server_is_missing() {
        return;
    }
    let mut fleet = Fleet::new();
    let member = fleet.host("web-1", "");
    let running = member.host.start();
    member.wait_connected();

    let mut outcomes: BTreeMap<&str, u64> = BTreeMap::new();
    for (code, envelope) in bad() {
        fleet.send(&envelope);
        *outcomes.entry(code).or_default() += 1;
    }
    wait_outcomes(&member, &outcomes);
    assert!(outcomes.len() >= 20, "{} kinds", outcomes.len());
    assert_eq!(member.trace(), [""; 0]);

    // Controls, and the two-man rule.
    let good = action();
    let id = fleet.ask(&good);
    assert_eq!(fleet.answers(&id, 1)["web-1"].status, AnswerStatus::Ok);
    let two = asks("both");
    fleet.send(&sign(&two, &[&alice(), &bob()]));
    assert_eq!(fleet.answers(&id_of(&two), 1)["web-1"].status, AnswerStatus::Ok);
    assert_eq!(member.trace(), [id.to_string(), "bad".to_owned()]);
    fleet.send(&sign(&good, &[&alice()]));
    outcomes.extend([("accepted", 2), ("replayed", 1)]);
    wait_outcomes(&member, &outcomes);

    let mut reported: BTreeMap<String, u64> = BTreeMap::new();
    patiently("all is reported", || {
        reported.clear();
        for record in fleet.audit("web-1") {
            *reported.entry(record.outcome).or_default() += 1;
        }
        (reported.values().sum::<u64>() >= outcomes.values().sum::<u64>() - 2).then_some(())
    });
    // An action for others is no refusal.
    outcomes.remove("not_targeted");
    assert_eq!(json!(reported), json!(outcomes));

    // An action that ran before the agent was killed.
    running.kill();
    let _running = member.host.start();
    member.wait_connected();
    member.wait("the stored ones are decided", |status| status["outcomes"]["again"].as_u64() >= Some(3));
    // More often than it lies in the stream: that many copies are no replay.
    for _ in 0..5 {
        fleet.live(&sign(&good, &[&alice()]));
    }
    member.wait("it is a replay", |status| status["outcomes"]["replayed"].as_u64() >= Some(1));
    assert_eq!(member.trace().len(), 2);
}

#[test]
fn whoever_may_ask_is_told_why_not_and_others_are_told_nothing() {
    if server_is_missing() {
        return;
    }
    let mut fleet = Fleet::new();
    let member = fleet.host("web-1", "");
    let _running = member.host.start();
    member.wait_connected();

    let told = asks("both");
    let id = fleet.ask(&told);
    let answer = &fleet.answers(&id, 1)["web-1"];
    assert_eq!((answer.status, answer.code.as_deref()), (AnswerStatus::Refused, Some("too_little_weight")));

    let untold = action();
    fleet.send(&sign(&untold, &[&mallory()]));
    member.wait("it is refused", |status| status["outcomes"]["unknown_key"] == 1);
    // The answer to this one comes after any other.
    let last = fleet.ask(&action());
    fleet.answers(&last, 1);
    assert!(fleet.collect(&id_of(&untold)).answers.is_empty());
}

#[test]
fn a_revoked_key_is_refused_as_soon_as_the_policy_is_published_and_no_policy_goes_back() {
    if server_is_missing() {
        return;
    }
    let mut fleet = Fleet::new();
    let member = fleet.host("web-1", "");
    let running = member.host.start();
    member.wait_connected();
    let mut second = document();
    second["version"] = json!(2);
    second["revoked"] = json!([dora().public_key().fingerprint(), alice().public_key().fingerprint()]);

    fleet.publish_policy(&second);
    let late = action();
    fleet.send(&sign(&late, &[&alice()]));

    member.wait("it is refused", |status| status["outcomes"]["revoked_key"] == 1);
    assert_eq!(member.status()["policy_version"], 2);
    // An older one, one that nobody signed, one by too few, one with the same version.
    let mut third = document();
    third["version"] = json!(3);
    let mut other = document();
    other["version"] = json!(2);
    let bad = [
        signed_policy(&document(), &[1, 2]),
        signed_policy(&third, &[]),
        signed_policy(&third, &[1]),
        signed_policy(&other, &[1, 2]),
        b"\x00".to_vec(),
        // An error that would quote all of it.
        format!("{{\"policy\": \"\", \"sigs\": \"{}\"}}", "\u{80}".repeat(300_000)).into_bytes(),
    ];
    for (before, policy) in bad.iter().enumerate() {
        fleet.put_policy(policy);
        member.wait("it is not taken", |status| status["outcomes"]["bad_policy"] == before + 1);
    }
    assert_eq!(member.status()["policy_version"], 2);
    running.kill();
    let _running = member.host.start();
    member.wait_connected();
    fleet.send(&sign(&action(), &[&alice()]));
    member.wait("it is refused after a restart", |status| {
        status["outcomes"]["revoked_key"].as_u64() >= Some(2)
    });
    assert_eq!(member.status()["policy_version"], 2);
    let bobs = action();
    fleet.send(&sign(&bobs, &[&bob()]));
    fleet.answers(&id_of(&bobs), 1);
    assert_eq!(member.trace(), [id_of(&bobs).to_string()]);
}

#[test]
fn an_agent_without_a_policy_refuses_all() {
    if server_is_missing() {
        return;
    }
    let mut fleet = Fleet::without_policy();
    let member = fleet.host("web-1", "");
    let _running = member.host.start();
    member.wait("it is connected", |status| status["connected"] == true);
    let early = action();
    fleet.send(&sign(&early, &[&alice()]));

    let status = member.wait("it is refused", |status| status["outcomes"]["no_policy"] == 1);

    assert!(status["problem"].as_str().unwrap().contains("no fleet policy"), "{status}");
    fleet.publish_policy(&document());
    member.wait_connected();
    let id = fleet.ask(&action());
    fleet.answers(&id, 1);
    assert_eq!(member.trace(), [id.to_string()]);
}

/// What a signer writes into an action, and a stream that takes less than it should, cost the auditors details and no
/// record after it.
#[test]
fn no_action_keeps_back_the_audit_records_after_it() {
    if server_is_missing() {
        return;
    }
    let mut fleet = Fleet::new();
    let member = fleet.host("web-1", "");
    let _running = member.host.start();
    member.wait_connected();
    let auditor = Person::administrator(&fleet);
    let recorded = |action: &Value| {
        fleet.ask(action);
        patiently("it is in the audit", || {
            let records = auditor.json(&fleet, &["fleet", "audit"]);
            records.into_iter().find(|record| record["action"] == action["id"])
        })
    };
    let escaped = json!({"module": "\u{1}".repeat(64), "params": "\"".repeat(100)});
    let mut escaped = with("ops", json!(vec![escaped; 32]));
    (escaped["name"], escaped["target"]) = (json!("\u{1}".repeat(256)), json!("\u{1}".repeat(1024)));

    let long = recorded(&with("ops", json!([{"module": "x".repeat(50_000)}])));
    assert_eq!(long["outcome"], "too_large");
    let message = long["message"].as_str().unwrap();
    assert!(message.contains("the name of a module in bytes is 50000"), "{message}");
    let escaped = recorded(&escaped);
    assert_eq!((&escaped["signers"], &escaped["asked"]["shortened"]), (&json!(["alice"]), &json!(true)));
    assert_eq!(recorded(&action())["asked"]["operations"].as_array().unwrap().len(), 1);

    fleet.limit_messages(subjects::AUDIT, 1500);
    let shortened =
        recorded(&with("ops", json!([{"module": "trace", "params": {"mark": "m".repeat(2000)}}])));
    assert_eq!((&shortened["signers"], &shortened["asked"]["shortened"]), (&json!(["alice"]), &json!(true)));
    fleet.limit_messages(subjects::AUDIT, 64);
    fleet.ask(&action());
    let is_told = || member.host.condition("agent", "fleet-audit-dropped");
    let told = patiently("it is told that a record is dropped", is_told);
    assert_eq!(told["detail"], "audit records were dropped because the broker did not take them: 1");
    fleet.limit_messages(subjects::AUDIT, 16 * 1024);
    assert_eq!(recorded(&action())["dropped"], 1);
    // Without a further action.
    patiently("the auditors know", || is_told().is_none().then_some(()));
}

/// A reload that joins anew costs the auditors nothing.
#[test]
fn records_that_wait_for_the_broker_are_sent_by_the_next_membership() {
    if server_is_missing() {
        return;
    }
    let mut fleet = Fleet::new();
    let member = fleet.host("web-1", "");
    let running = member.host.start();
    member.wait_connected();
    fleet.lose(subjects::AUDIT);
    let asked: Vec<_> = (0..3).map(|_| fleet.ask(&action())).collect();
    for id in &asked {
        fleet.answers(id, 1);
    }

    member.configure("groups = [\"db\"]\n", "");
    running.signal(Signal::SIGHUP);
    patiently("it joins anew", || (fleet.facts("web-1")?["groups"] == json!(["db"])).then_some(()));
    fleet.make_streams();

    patiently("all are in the audit", || {
        let audit = fleet.audit("web-1");
        asked.iter().all(|id| audit.iter().any(|record| record.action.as_ref() == Some(id))).then_some(())
    });
}
