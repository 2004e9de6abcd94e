//! One test for each reason, the order of the reasons, and what must never be admitted.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::policy::tests::{ORG, document, policy, with};
use crate::signature::tests::TestKey;
use vigie_protocol::names::AgentId;

const NOW: i64 = 1_800_000_000;

static ALICE: LazyLock<TestKey> = LazyLock::new(|| TestKey::ed25519(1));
static ALICE_2: LazyLock<TestKey> = LazyLock::new(|| TestKey::ed25519(4));
static BOB: LazyLock<TestKey> = LazyLock::new(|| TestKey::ed25519(2));
static BOB_TOKEN: LazyLock<TestKey> = LazyLock::new(|| TestKey::ed25519(3).with_token(1));
static MALLORY: LazyLock<TestKey> = LazyLock::new(|| TestKey::ed25519(66));
static POLICY: LazyLock<Policy> = LazyLock::new(|| policy(&document()));

fn facts() -> Facts {
    Facts {
        agent: "web-1".parse().unwrap(),
        hostname: "web-1.example.net".to_owned(),
        os: "linux".to_owned(),
        os_id: None,
        os_version: None,
        arch: "amd64".to_owned(),
        kernel: "6.1.0".to_owned(),
        agent_version: "0.1.0".to_owned(),
        modules: vec!["file".to_owned(), "netstat".to_owned()],
        addresses: Vec::new(),
        tags: std::collections::BTreeMap::new(),
        groups: Vec::new(),
    }
}

/// A good action, that alice may ask alone.
fn action() -> Value {
    json!({
        "v": 1,
        "org": ORG,
        "id": "0123456789abcdef0123456789abcdef",
        "name": "who listens on port 22",
        "target": "os == \"linux\"",
        "not_before": NOW - 60,
        "not_after": NOW + 3600,
        "ops": [{"module": "netstat", "params": {"listening_port": ["22"]}}],
        "limits": {"seconds": 60},
    })
}

fn changed(field: &str, value: Value) -> Value {
    let mut action = action();
    action[field] = value;
    action
}

fn sign(action: &Value, keys: &[&TestKey]) -> Envelope {
    let action = action.to_string();
    let sigs = keys.iter().map(|key| key.sign(NAMESPACE, action.as_bytes())).collect();
    Envelope { action, sigs }
}

fn json(envelope: &Envelope) -> Vec<u8> {
    serde_json::to_vec(envelope).unwrap()
}

/// Stands in for the language of targets.
fn target(text: &str, facts: &Facts) -> Result<bool, String> {
    match text {
        "os == \"linux\"" => Ok(facts.os == "linux"),
        "os == \"plan9\"" => Ok(facts.os == "plan9"),
        _ => Err("expected a comparison".to_owned()),
    }
}

fn decide_under(policy: Option<&Policy>, envelope: &[u8], seen: bool) -> Result<Admitted, Box<Refused>> {
    let facts = facts();
    let situation = Situation { now: NOW, org: ORG, policy, facts: &facts };
    decide(envelope, &situation, |_, _| seen, target)
}

fn code(envelope: &[u8]) -> &'static str {
    decide_under(Some(&POLICY), envelope, false).map_or_else(|refused| refused.refusal.code(), |_| "admitted")
}

fn code_of(action: &Value) -> &'static str {
    code(&json(&sign(action, &[&ALICE])))
}

fn code_under(document: &Value, envelope: &Envelope) -> &'static str {
    decide_under(Some(&policy(document)), &json(envelope), false)
        .map_or_else(|refused| refused.refusal.code(), |_| "admitted")
}

#[test]
fn a_good_action_is_admitted_with_its_signers_and_limits() {
    let admitted = decide_under(Some(&POLICY), &json(&sign(&action(), &[&BOB, &ALICE])), false).unwrap();

    assert_eq!(admitted.signers, ["alice", "bob"]);
    assert_eq!(admitted.limits, PolicyLimits { seconds: 60, bytes: 16 * 1024 * 1024 });
    assert_eq!((admitted.policy_version, admitted.action.ops.len()), (1, 1));
    for good in [
        changed("agents", json!(["web-2", "web-1"])),
        changed("not_before", json!(NOW + SKEW_SECONDS)),
        changed("not_after", json!(NOW)),
        changed("not_after", json!(NOW - 60 + 86_400)),
        changed("limits", json!({})),
    ] {
        assert_eq!(code_of(&good), "admitted", "{good}");
    }
    let file = changed("ops", json!([{"module": "file"}, {"module": "netstat"}]));
    assert_eq!(code(&json(&sign(&file, &[&ALICE, &BOB]))), "admitted");
    assert_eq!(code(&json(&sign(&action(), &[&BOB_TOKEN]))), "admitted");
    assert_eq!(code(&json(&sign(&action(), &[&TestKey::ecdsa()]))), "admitted");
}

/// One bad action or more for each code, with the code that it must get.
fn bad_actions() -> Vec<(&'static str, &'static str)> {
    let mut got = Vec::new();
    let mut add = |expected: &'static str, code: &'static str| got.push((expected, code));
    let good = sign(&action(), &[&ALICE]);

    add("too_large", code(&vec![b' '; MAX_LISTED_ENVELOPE_BYTES + 1]));
    add("too_large", code_of(&changed("target", json!("x".repeat(MAX_ENVELOPE_BYTES)))));
    let agents: Vec<AgentId> = (0..=MAX_AGENTS).map(|number| format!("a{number}").parse().unwrap()).collect();
    add("too_large", code_of(&changed("agents", json!(agents))));
    add("too_large", code_of(&changed("ops", json!(vec![json!({"module": "netstat"}); MAX_OPERATIONS + 1]))));
    add("too_large", code_of(&changed("name", json!("x".repeat(257)))));
    add("too_large", code_of(&changed("ops", json!([{"module": "netstat"}, {"module": "x".repeat(65)}]))));
    add("malformed", code(b""));
    add("malformed", code(b"{\"action\":\"{}\"}"));
    add("malformed", code(&json(&good)[1..]));
    add("malformed", code_of(&changed("id", json!("1"))));
    add("malformed", code_of(&changed("ops", json!([]))));
    add("malformed", code_of(&changed("not_after", json!(NOW - 61))));
    add("malformed", code_of(&changed("not_after", json!(1.5e300))));
    add("malformed", code(&json(&Envelope { action: "{\"v\":1,\"v\":1}".to_owned(), sigs: Vec::new() })));
    add("unknown_field", code_of(&changed("condition", json!(true))));
    add("unknown_field", code_of(&changed("limits", json!({"rows": 1}))));
    add("unknown_field", code_of(&changed("ops", json!([{"module": "netstat", "as": "root"}]))));
    add("unknown_field", code(b"{\"action\":\"\",\"sigs\":[],\"more\":1}"));
    add("unknown_version", code_of(&json!({"v": 2, "condition": true})));
    add("wrong_org", code_of(&changed("org", json!("other"))));
    add("no_signature", code(&json(&sign(&action(), &[]))));
    add(
        "too_many_signatures",
        code(&json(&Envelope { sigs: vec![good.sigs[0].clone(); 9], ..good.clone() })),
    );
    let mut tampered = good.clone();
    tampered.action = tampered.action.replace("\"22\"", "\"23\"");
    add("bad_signature", code(&json(&tampered)));
    tampered.action = good.action.replace("linux", "plan9");
    add("bad_signature", code(&json(&tampered)));
    add("bad_signature", code(&json(&Envelope { sigs: vec!["signed".to_owned()], ..good.clone() })));
    let for_git = Envelope { sigs: vec![ALICE.sign("git", good.action.as_bytes())], ..good.clone() };
    add("wrong_namespace", code(&json(&for_git)));
    add("unknown_key", code(&json(&sign(&action(), &[&MALLORY]))));
    add("unknown_key", code(&json(&sign(&action(), &[&ALICE, &MALLORY]))));
    let revoked = with("/revoked", json!([ALICE.public().fingerprint()]));
    add("revoked_key", code_under(&revoked, &good));
    let mut removed = revoked.clone();
    removed["investigators"]["alice"]["keys"] = json!([]);
    add("revoked_key", code_under(&removed, &good));
    for (field, value) in [("not_before", NOW + 1), ("not_after", NOW - 1)] {
        let keys = json!([{"key": ALICE.line(), field: value}]);
        add("key_not_valid_now", code_under(&with("/investigators/alice/keys", keys), &good));
    }
    add("same_key_twice", code(&json(&sign(&action(), &[&ALICE, &ALICE]))));
    let untouched = TestKey { token: Some(4), ..BOB_TOKEN.clone() };
    add("no_touch", code(&json(&sign(&action(), &[&untouched]))));
    let old = changed("not_before", json!(NOW - 7200));
    add(
        "expired",
        code_of(&{
            let mut old = old.clone();
            old["not_after"] = json!(NOW - 1);
            old
        }),
    );
    add("not_yet_valid", code_of(&changed("not_before", json!(NOW + SKEW_SECONDS + 1))));
    add("window_too_long", code_of(&changed("not_after", json!(NOW - 60 + 86_401))));
    let for_ever = [("not_before", json!(i64::MIN)), ("not_after", json!(i64::MAX))];
    add(
        "window_too_long",
        code_of(&for_ever.into_iter().fold(action(), |mut action, (field, value)| {
            action[field] = value;
            action
        })),
    );
    let replayed = decide_under(Some(&POLICY), &json(&good), true).unwrap_err();
    assert_eq!(replayed.signers, ["alice"]);
    add("replayed", replayed.refusal.code());
    add("not_targeted", code_of(&changed("agents", json!(["web-2"]))));
    add("not_targeted", code_of(&changed("agents", json!([]))));
    add("not_targeted", code_of(&changed("target", json!("os == \"plan9\""))));
    add("bad_target", code_of(&changed("target", json!("os =="))));
    add("unknown_module", code_of(&changed("ops", json!([{"module": "netstat"}, {"module": "memory"}]))));
    let mut no_rule = document();
    no_rule["acl"].as_object_mut().unwrap().remove("default");
    add("no_rule", code_under(&no_rule, &good));
    let file = changed("ops", json!([{"module": "netstat"}, {"module": "file"}]));
    add("too_little_weight", code_of(&file));
    // One person, two keys: still one person.
    add("too_little_weight", code(&json(&sign(&file, &[&ALICE, &ALICE_2]))));
    add("over_limits", code_of(&changed("limits", json!({"seconds": 301}))));
    add("over_limits", code_of(&changed("limits", json!({"bytes": 1_u64 << 40}))));
    add("over_limits", code_of(&changed("limits", json!({"seconds": 0}))));
    let standing = |every: u32| changed("standing", json!({ "every": every }));
    add("no_standing", code_of(&standing(60)));
    add("no_standing", {
        let mut stop = changed("stop", json!("0123456789abcdef0123456789abcdee"));
        stop["ops"] = json!([]);
        code_of(&stop)
    });
    let ruled = with("/standing", json!({"investigators": ["alice"]}));
    add("too_often", code_under(&ruled, &sign(&standing(59), &[&ALICE])));
    add("no_standing", code_under(&ruled, &sign(&standing(60), &[&BOB])));
    add("malformed", code_of(&changed("stop", json!("0123456789abcdef0123456789abcdee"))));
    let mut listed = standing(60);
    listed["agents"] = json!(["web-1"]);
    add("malformed", code_of(&listed));
    add("no_policy", decide_under(None, &json(&good), false).unwrap_err().refusal.code());
    let admitted = decide_under(Some(&POLICY), &json(&good), false).unwrap();
    add("state_reverted", admitted.not_run_before(Some(NOW)).unwrap_err().refusal.code());
    add("busy", Refusal::Busy("queue full".to_owned()).code());
    got
}

#[test]
fn only_what_could_be_begun_before_the_state_was_restored_may_have_been_run() {
    let noticed_before = |not_before: i64, noticed: Option<i64>| {
        let action = changed("not_before", json!(not_before));
        let admitted = decide_under(Some(&POLICY), &json(&sign(&action, &[&ALICE])), false).unwrap();
        admitted.not_run_before(noticed).is_ok()
    };

    assert!(noticed_before(NOW, None));
    assert!(!noticed_before(NOW, Some(NOW)) && !noticed_before(NOW, Some(NOW + 1000)));
    // An agent takes an action a minute before its time, because clocks differ.
    assert!(!noticed_before(NOW, Some(NOW - 60)));
    assert!(noticed_before(NOW, Some(NOW - 61)) && noticed_before(NOW, Some(i64::MIN)));
    assert!(!noticed_before(NOW, Some(i64::MAX)));
}

#[test]
fn every_reason_has_its_code_and_every_code_a_case() {
    let cases = bad_actions();

    for (expected, code) in &cases {
        assert_eq!(expected, code);
    }
    let seen: BTreeSet<&str> = cases.iter().map(|(_, code)| *code).collect();
    assert_eq!(seen, BTreeSet::from(Refusal::ALL));
    assert_eq!(seen.len(), Refusal::ALL.len());
}

#[test]
fn a_refusal_says_whether_anybody_is_proven_to_have_signed() {
    let tampered = Envelope { action: changed("name", json!("x")).to_string(), ..sign(&action(), &[&ALICE]) };
    let unproven = decide_under(Some(&POLICY), &json(&tampered), false).unwrap_err();
    assert!(unproven.signers.is_empty() && unproven.action.is_some());

    let over = sign(&changed("limits", json!({"seconds": 301})), &[&ALICE]);
    let proven = decide_under(Some(&POLICY), &json(&over), false).unwrap_err();
    assert_eq!(proven.signers, ["alice"]);
    assert_eq!(proven.to_string(), "action 0123456789abcdef0123456789abcdef is refused (over_limits)");
    assert_eq!(proven.refusal.to_string(), "limits.seconds of the action is 301, the policy allows 1 to 300");
}

#[test]
fn just_before_it_is_begun_the_clock_and_the_policy_are_asked_again() {
    let file = changed("ops", json!([{"module": "file"}]));
    let envelope = json(&sign(&file, &[&ALICE, &BOB_TOKEN]));
    let admitted = decide_under(Some(&POLICY), &envelope, false).unwrap();
    let again = |now, document: &Value| {
        let policy = policy(document);
        admitted.clone().still_admitted(now, Some(&policy)).map_err(|refused| refused.refusal.code())
    };

    assert_eq!(again(NOW, &document()).unwrap().signers, ["alice", "bob"]);
    assert_eq!(again(NOW + 3600, &document()).unwrap().policy_version, 1);
    assert_eq!(again(NOW + 3601, &document()).unwrap_err(), "expired");
    let revoked = with("/revoked", json!([BOB_TOKEN.public().fingerprint()]));
    assert_eq!(again(NOW, &revoked).unwrap_err(), "revoked_key");
    assert_eq!(again(NOW, &with("/acl/file/minimum_weight", json!(3))).unwrap_err(), "too_little_weight");
    assert_eq!(again(NOW, &with("/limits", json!({"seconds": 59}))).unwrap_err(), "over_limits");
    assert_eq!(again(NOW, &with("/max_window_seconds", json!(60))).unwrap_err(), "window_too_long");
    assert_eq!(again(NOW, &with("/limits", json!({"bytes": 2048}))).unwrap().limits.bytes, 2048);
    assert_eq!(admitted.still_admitted(NOW, None).unwrap_err().refusal.code(), "no_policy");
}

/// Faults that one envelope can have together, in the order in which they must be found.
const FAULTS: [&str; 11] = [
    "unknown_version",
    "wrong_org",
    "too_many_signatures",
    "unknown_key",
    "bad_signature",
    "expired",
    "replayed",
    "not_targeted",
    "unknown_module",
    "too_little_weight",
    "over_limits",
];

fn with_faults(faults: &BTreeSet<usize>) -> (Vec<u8>, bool) {
    let has = |code| faults.iter().any(|fault| FAULTS[*fault] == code);
    let mut action = action();
    let mut ops = vec![json!({"module": "netstat"})];
    if has("unknown_version") {
        action["v"] = json!(2);
    }
    if has("wrong_org") {
        action["org"] = json!("other");
    }
    if has("expired") {
        action["not_after"] = json!(NOW - 1);
    }
    if has("not_targeted") {
        action["agents"] = json!(["web-2"]);
    }
    if has("unknown_module") {
        ops.push(json!({"module": "memory"}));
    }
    if has("too_little_weight") {
        ops.push(json!({"module": "file"}));
    }
    if has("over_limits") {
        action["limits"] = json!({"seconds": 301});
    }
    action["ops"] = json!(ops);
    let signers: [&TestKey; 2] = [&ALICE, &MALLORY];
    let mut envelope = sign(&action, if has("unknown_key") { &signers } else { &signers[..1] });
    if has("bad_signature") {
        envelope.action.push(' ');
    }
    if has("too_many_signatures") {
        envelope.sigs = vec![envelope.sigs[0].clone(); 9];
    }
    (json(&envelope), has("replayed"))
}

static GOOD: LazyLock<Vec<u8>> = LazyLock::new(|| json(&sign(&action(), &[&ALICE, &BOB])));

proptest! {
    #[test]
    fn the_first_reason_in_the_order_is_given(faults in prop::collection::btree_set(0..FAULTS.len(), 0..5)) {
        let (envelope, seen) = with_faults(&faults);

        let code = decide_under(Some(&POLICY), &envelope, seen)
            .map_or_else(|refused| refused.refusal.code(), |_| "admitted");

        prop_assert_eq!(code, faults.first().map_or("admitted", |first| FAULTS[*first]));
    }

    #[test]
    fn an_envelope_of_which_a_byte_is_changed_is_never_admitted(
        at in any::<prop::sample::Index>(), change in 1..=255_u8,
    ) {
        let mut envelope = GOOD.clone();
        let at = at.index(envelope.len());
        envelope[at] ^= change;

        let refused = decide_under(Some(&POLICY), &envelope, false);

        prop_assert!(refused.is_err(), "{}", String::from_utf8_lossy(&envelope));
    }

    #[test]
    fn another_action_under_good_signatures_is_never_admitted(
        field in prop::sample::select(vec!["name", "target", "org", "module", "id"]),
        value in "[a-z]{1,8}|[0-9a-f]{32}",
        not_after in NOW..NOW + 7200,
    ) {
        let envelope: Envelope = serde_json::from_slice(&GOOD).unwrap();
        let mut other = changed("not_after", json!(not_after));
        if field == "module" {
            other["ops"] = json!([{"module": value}]);
        } else {
            other[field] = json!(value);
        }
        let tampered = Envelope { action: other.to_string(), ..envelope };

        prop_assert!(decide_under(Some(&POLICY), &json(&tampered), false).is_err());
    }

    #[test]
    fn nothing_from_outside_makes_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), text in "\\PC{0,200}") {
        let _ = code(&bytes);
        let _ = code(text.as_bytes());
        let _ = code(&json(&Envelope { action: text.clone(), sigs: vec![text] }));
    }
}

#[test]
fn the_good_envelope_of_the_properties_is_admitted() {
    assert_eq!(code(&GOOD), "admitted");
}
