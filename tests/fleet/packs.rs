//! Rules of `events` that the signed policy brings.

use std::process::Command;

use serde_json::{Value, json};

use crate::harness::{Fleet, Member, document, patiently, root, server_is_missing, signed_policy};
use crate::host::persistent;
use vigie_fleet::policy::SignedPolicy;

const EVENTS: &str = "[[module]]\nname = \"events\"\nkind = \"persistent\"\n";

fn rule(id: &str, condition: &str) -> String {
    format!(
        "[[rule]]\nid = \"{id}\"\ntitle = \"The fleet's rule\"\nseverity = \"high\"\non = [\"exec\"]\nwhen = [{{ {condition} }}]\n"
    )
}

/// The policy in another version, with these packs.
fn with_packs(version: u64, packs: &Value) -> Value {
    let mut policy = document();
    policy["version"] = json!(version);
    if !packs.is_null() {
        policy["packs"] = json!({ "events": packs });
    }
    policy
}

impl Member {
    /// How the module is, once it answers.
    fn events(&self) -> Option<Value> {
        let answer = self.host.query("events", &Value::Null);
        Some(answer["result"]["elements"]["status"].clone()).filter(Value::is_object)
    }

    fn wait_packs(&self, what: &str, expected: &Value) {
        patiently(what, || self.events().filter(|status| status["packs"] == *expected));
    }

    fn policy_version(&self) -> Value {
        self.status()["policy_version"].clone()
    }
}

#[test]
fn rules_of_the_signed_policy_are_in_force_as_long_as_it_has_them_and_nothing_else_is() {
    if server_is_missing() {
        return;
    }
    let mut fleet = Fleet::new();
    let member = fleet.host("web-1", EVENTS);
    let agent = member.host.start();
    member.wait_connected();
    member.wait_packs("there are none", &json!([]));
    let probe = "exe.name = \"packed-probe\"";
    let web = rule("probe", probe);
    let packs = json!({ "broken": rule("x", "no.such = 1"), "web": web });

    fleet.publish_policy(&with_packs(2, &packs));

    let status = patiently("both are read", || {
        member.events().filter(|status| status["packs"].as_array().is_some_and(|packs| packs.len() == 2))
    });
    assert_eq!(status["packs"][1], json!({ "name": "web", "rules": 1 }));
    assert!(status["packs"][0]["problem"].as_str().unwrap().contains("no.such"), "{status}");
    let condition = member.host.wait_condition("events", "rule-pack-refused");
    assert!(condition["detail"].as_str().unwrap().contains("broken"), "{condition}");
    if status["source"] == "bpf" {
        let program = member.host.path("packed-probe");
        vigie_skipped::copy_program("/bin/true", &program);
        Command::new(&program).status().unwrap();
        patiently("the rule fires", || {
            member.host.journal().iter().any(|alert| alert.to_string().contains("web/probe")).then_some(())
        });
    } else {
        vigie_skipped::without_bpf(format_args!("BPF cannot be loaded here: {}", status["not_used"]));
    }

    // Unsigned, signed by too few, and altered after it was signed.
    let other = with_packs(3, &json!({ "web": rule("probe", probe), "more": rule("more", probe) }));
    let mut altered: SignedPolicy =
        serde_json::from_slice(&signed_policy(&with_packs(3, &packs), &[1, 2])).unwrap();
    assert!(altered.policy.contains("packed-probe"));
    altered.policy = altered.policy.replace("packed-probe", "another-name");
    let refused =
        [signed_policy(&other, &[]), signed_policy(&other, &[1]), serde_json::to_vec(&altered).unwrap()];
    for (number, policy) in refused.iter().enumerate() {
        fleet.put_policy(policy);
        member.wait("it is refused", |status| status["outcomes"]["bad_policy"] == number as u64 + 1);
        assert_eq!(member.policy_version(), 2);
        assert_eq!(member.events().unwrap()["packs"], status["packs"]);
    }

    // Gone with the next version.
    fleet.publish_policy(&with_packs(4, &Value::Null));
    member.wait_packs("they are gone", &json!([]));
    patiently("nothing is refused", || {
        member.host.condition("events", "rule-pack-refused").is_none().then_some(())
    });

    // They are there after a restart without a broker, and end with the membership.
    let one = json!([{ "name": "web", "rules": 1 }]);
    fleet.publish_policy(&with_packs(5, &json!({ "web": web })));
    member.wait_packs("they are back", &one);
    agent.stop();
    drop(fleet);
    let _agent = member.host.start();
    member.wait_packs("they are in the stored policy", &one);
    member.configure_with("", &[], EVENTS);
    let reloaded = member.host.vigie(&["reload"]);
    assert_eq!(reloaded.code, 0, "{}", reloaded.err);
    member.wait_packs("they are the fleet's", &json!([]));
}

/// What a module that answers with its newest configuration has.
fn wait_own(member: &Member, what: &str, expected: &Value) {
    patiently(what, || {
        let answer = member.host.query("reconfigurable", &Value::Null);
        (answer["result"]["elements"]["packs"] == *expected).then_some(())
    });
}

#[test]
fn packs_are_there_from_the_start_of_a_module_and_no_longer_than_those_who_signed_them_are_trusted() {
    if server_is_missing() {
        return;
    }
    let mut fleet = Fleet::new();
    // The second one takes no configuration while it runs.
    let modules = persistent("reconfigurable.py", &[]) + &persistent("echo.py", &[]);
    let member = fleet.host("web-1", &modules);
    let agent = member.host.start();
    member.wait_connected();
    let one = json!({ "web": "one" });
    let mut policy = document();
    policy["version"] = json!(2);
    policy["packs"] = json!({ "reconfigurable": &one, "echo": &one });
    fleet.publish_policy(&policy);
    wait_own(&member, "the policy brings them", &one);
    member.host.wait_for("echo", |module| module["incarnation"] == 2 && module["state"] == "running");
    agent.stop();

    // The policy is on disk, and the fleet cannot be joined.
    std::fs::rename(member.host.path("agent.jwt"), member.host.path("kept.jwt")).unwrap();
    let _agent = member.host.start();
    member.host.wait_condition("agent", "fleet-not-joined");
    wait_own(&member, "they are in the stored policy", &one);
    for module in ["reconfigurable", "echo"] {
        assert_eq!(member.host.wait_running(module)["incarnation"], 1);
    }

    // Others are trusted.
    let theirs = serde_json::to_string(&[root(4).public_key(), root(5).public_key()]).unwrap();
    let roots = member.section.lines().find(|line| line.starts_with("roots")).unwrap();
    member.configure_with(&member.section.replace(roots, &format!("roots = {theirs}")), &[], &modules);
    assert_eq!(member.host.vigie(&["reload"]).code, 0);
    wait_own(&member, "they are gone", &Value::Null);
    member.host.wait_condition("agent", "fleet-not-joined");

    // And those who signed again, which takes no broker.
    member.configure("", &modules);
    assert_eq!(member.host.vigie(&["reload"]).code, 0);
    wait_own(&member, "they are in force again", &one);
    member.host.wait_condition("agent", "fleet-not-joined");
}
