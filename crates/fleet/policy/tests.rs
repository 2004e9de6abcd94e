//! Signed policies: who must sign, what contradicts itself, what replaces what.

use std::sync::LazyLock;

use serde_json::{Value, json};

use super::*;
use crate::signature::tests::TestKey;

pub(crate) const ORG: &str = "example";

/// Root keys of the tests.
pub(crate) fn root(number: u8) -> TestKey {
    TestKey::ed25519(100 + number)
}

pub(crate) fn roots(numbers: &[u8], threshold: u32) -> Roots {
    Roots { keys: numbers.iter().map(|number| root(*number).public()).collect(), threshold }
}

/// Policy 1: alice and bob may ask, bob's second key is in a token that must be touched, carol is in a group.
pub(crate) fn document() -> Value {
    // Made once: without optimisation keys take their time.
    static DOCUMENT: LazyLock<Value> = LazyLock::new(make_document);
    DOCUMENT.clone()
}

fn make_document() -> Value {
    json!({
        "v": 1,
        "org": ORG,
        "version": 1,
        "roots": roots(&[1, 2, 3], 2),
        "enrolment": [TestKey::ed25519(90).line()],
        "investigators": {
            "alice": {"keys": [{"key": TestKey::ed25519(1).line()}, {"key": TestKey::ed25519(4).line()}]},
            "bob": {"keys": [
                {"key": TestKey::ed25519(2).line()},
                {"key": TestKey::ed25519(3).with_token(1).line(), "touch": true},
            ]},
            "carol": {"keys": [{"key": TestKey::ecdsa().line()}], "groups": ["oncall", "trainees"]},
        },
        "acl": {
            "default": {"minimum_weight": 1, "investigators": {"alice": 1, "bob": 1, "@oncall": 2, "@trainees": 1}},
            "file": {"minimum_weight": 2, "investigators": {"alice": 1, "bob": 1}},
        },
    })
}

/// The document with one value put elsewhere, named as in RFC 6901.
pub(crate) fn with(pointer: &str, value: Value) -> Value {
    let mut document = document();
    let (parent, field) = pointer.rsplit_once('/').unwrap();
    document.pointer_mut(parent).unwrap()[field] = value;
    document
}

pub(crate) fn sign(document: &Value, signers: &[u8]) -> SignedPolicy {
    let policy = document.to_string();
    let sigs = signers.iter().map(|number| root(*number).sign(NAMESPACE, policy.as_bytes())).collect();
    SignedPolicy { policy, sigs }
}

pub(crate) fn policy(document: &Value) -> Policy {
    Policy::parse_unsigned(&document.to_string(), ORG).unwrap()
}

fn check(document: &Value) -> Result<(), PolicyError> {
    Policy::parse_unsigned(&document.to_string(), ORG).map(|_| ())
}

#[test]
fn enough_distinct_root_keys_must_sign() {
    let pinned = roots(&[1, 2, 3], 2);
    let few = |found| Err(PolicyError::TooFewSignatures { found, wanted: 2, ignored: None });
    let verify = |signed: &SignedPolicy| verify(signed, &pinned, ORG).map(|policy| policy.version());

    assert_eq!(verify(&sign(&document(), &[1, 3])), Ok(1));
    assert_eq!(verify(&sign(&document(), &[3, 9, 2])), Ok(1));
    assert_eq!(verify(&sign(&document(), &[])), few(0));
    assert_eq!(verify(&sign(&document(), &[2])), few(1));
    assert_eq!(verify(&sign(&document(), &[2, 2, 2])), few(1));
    assert_eq!(verify(&sign(&document(), &[2, 8, 9])), few(1));
    assert_eq!(verify(&sign(&document(), &[2; 17])), Err(PolicyError::TooManySignatures(17)));

    let mut tampered = sign(&document(), &[1, 2]);
    tampered.policy = tampered.policy.replace("\"minimum_weight\":2", "\"minimum_weight\":1");
    assert!(matches!(
        verify(&tampered),
        Err(PolicyError::TooFewSignatures { found: 0, ignored: Some(SignatureError::Wrong(_)), .. })
    ));
    let mut for_an_action = sign(&document(), &[1]);
    for_an_action.sigs.push(root(2).sign(crate::action::NAMESPACE, for_an_action.policy.as_bytes()));
    let refused = verify(&for_an_action).unwrap_err();
    assert!(refused.to_string().contains("vigie-action@v1"), "{refused}");
}

#[test]
fn versions_never_go_down_and_one_version_has_one_text() {
    let pinned = roots(&[1, 2, 3], 2);
    let offer = |current: Option<&Policy>, document: &Value| {
        accept_newer(current, &pinned, ORG, &sign(document, &[1, 2])).map(|offered| match offered {
            Offered::Newer(policy) => policy.version(),
            Offered::Same => 0,
        })
    };
    let two = policy(&with("/version", json!(2)));

    assert_eq!(offer(None, &document()), Ok(1));
    assert_eq!(offer(Some(&two), &document()), Err(PolicyError::Older { found: 1, current: 2 }));
    assert_eq!(offer(Some(&two), &with("/version", json!(2))), Ok(0));
    assert_eq!(offer(Some(&two), &with("/version", json!(3))), Ok(3));
    let mut other = with("/version", json!(2));
    other["expires"] = json!(5);
    assert_eq!(offer(Some(&two), &other), Err(PolicyError::OtherContent(2)));
}

#[test]
fn the_policy_in_force_says_who_signs_the_next() {
    let pinned = roots(&[1, 2, 3], 2);
    let next = |version: u64, numbers: &[u8]| {
        let mut document = document();
        document["version"] = json!(version);
        document["roots"] = json!(roots(numbers, 2));
        document
    };
    let offer = |current: &Policy, document: &Value, signers: &[u8]| match accept_newer(
        Some(current),
        &pinned,
        ORG,
        &sign(document, signers),
    ) {
        Ok(Offered::Newer(policy)) => Ok(*policy),
        Ok(Offered::Same) => panic!("another version"),
        Err(error) => Err(error),
    };

    let first = policy(&next(1, &[1, 2, 3]));
    assert!(offer(&first, &next(2, &[4, 5]), &[4, 5]).is_err());
    let second = offer(&first, &next(2, &[4, 5]), &[1, 2]).unwrap();
    // The old keys, still pinned, no longer count.
    assert!(offer(&second, &next(3, &[1, 2]), &[1, 2, 3]).is_err());
    offer(&second, &next(3, &[4, 5]), &[4, 5]).unwrap();
    // One that is behind takes a version that both signed.
    offer(&first, &next(3, &[4, 5]), &[1, 2, 4, 5]).unwrap();

    let stored = StoredPolicy { pinned: pinned.clone(), signed: sign(&next(3, &[4, 5]), &[4, 5]) };
    let stored = StoredPolicy::from_json(&serde_json::to_vec(&stored).unwrap()).unwrap();
    assert_eq!(stored.restore(&pinned, ORG).unwrap().version(), 3);
    assert!(stored.restore(&roots(&[1, 2], 2), ORG).is_err());
    assert_eq!(stored.restore(&roots(&[4, 5, 6], 2), ORG).unwrap().version(), 3);
}

#[test]
fn what_contradicts_itself_is_refused_with_its_name() {
    assert_eq!(check(&document()), Ok(()));
    let alice = TestKey::ed25519(1);
    let out_of_range = [
        with("/version", json!(0)),
        with("/max_window_seconds", json!(0)),
        with("/max_window_seconds", json!(86_401)),
        with("/limits", json!({"seconds": 0})),
        with("/limits", json!({"bytes": 1})),
        with("/roots/threshold", json!(0)),
        with("/roots/threshold", json!(4)),
        with("/roots/keys", json!([])),
        with("/acl/file/minimum_weight", json!(0)),
        with("/standing", json!({"investigators": ["alice"], "min_seconds": 4})),
        with("/standing", json!({"investigators": ["alice"], "questions": 65})),
        with("/standing", json!({"investigators": ["alice"], "max_window_seconds": 7_776_001})),
        with("/brokers", json!(vec!["tls://b.example.org"; 17])),
        with("/packs", json!({"events": {"a": "x".repeat(100_000), "b": "x".repeat(40_000)}})),
    ];
    for document in out_of_range {
        assert!(matches!(check(&document), Err(PolicyError::OutOfRange { .. })), "{document}");
    }
    for address in ["nats://b.example.org:4222", "http://b", "tls://a:b@c", &"x".repeat(300)] {
        let document = with("/brokers", json!(["nats://127.0.0.1:4222", "tls://b.example.org", address]));
        assert!(matches!(check(&document), Err(PolicyError::BadBroker(_))), "{document}");
    }
    assert_eq!(check(&with("/packs", json!({"events": {"web": "[[rule]]"}}))), Ok(()));
    let no_name = with("/packs", json!({"events": {"../web": ""}}));
    assert!(matches!(check(&no_name), Err(PolicyError::BadName(_))));
    let stranger = with("/standing", json!({"investigators": ["mallory"]}));
    assert!(matches!(check(&stranger), Err(PolicyError::UnknownInvestigator { .. })));
    let malformed = [
        with("/else", json!(1)),
        with("/acl/file/else", json!(1)),
        with("/version", json!(-1)),
        with("/revoked", json!(["SHA256:short"])),
        with("/roots/keys", json!(["ssh-rsa AAAA"])),
        json!([]),
    ];
    for document in malformed {
        assert!(matches!(check(&document), Err(PolicyError::Malformed(_))), "{document}");
    }
    assert_eq!(check(&with("/v", json!(2))), Err(PolicyError::UnknownVersion(2)));
    assert!(matches!(check(&with("/org", json!("other"))), Err(PolicyError::WrongOrg { .. })));
    for twice in [
        with("/investigators/bob/keys", json!([{"key": alice.line()}])),
        with("/roots/keys", json!([alice.line(), alice.line()])),
        with("/enrolment", json!([alice.line(), alice.line()])),
    ] {
        assert!(matches!(check(&twice), Err(PolicyError::SameKeyTwice { .. })), "{twice}");
    }
    for name in ["mallory", "@nobody", "@", ""] {
        let document = with("/acl/file/investigators", json!({name: 1}));
        assert!(matches!(check(&document), Err(PolicyError::UnknownInvestigator { .. })), "{name}");
    }
    for name in ["", "@x", "a b", &"x".repeat(65)] {
        assert!(matches!(
            check(&with(&format!("/investigators/{name}"), json!({"keys": []}))),
            Err(PolicyError::BadName(_))
        ));
    }
    let touch = json!([{"key": TestKey::ed25519(7).line(), "touch": true}]);
    assert!(matches!(
        check(&with("/investigators/bob/keys", touch)),
        Err(PolicyError::TouchWithoutToken { .. })
    ));
    let revoked_root = with("/revoked", json!([root(1).public().fingerprint()]));
    assert!(matches!(check(&revoked_root), Err(PolicyError::RevokedRoot(_))));
    assert!(matches!(
        Policy::parse_unsigned(&" ".repeat(MAX_POLICY_BYTES + 1), ORG),
        Err(PolicyError::TooLarge { .. })
    ));
    assert!(SignedPolicy::from_json(&vec![b' '; MAX_SIGNED_POLICY_BYTES + 1]).is_err());
}

#[test]
fn a_name_goes_before_a_group_and_the_best_group_counts() {
    let policy = policy(&with(
        "/acl/netstat",
        json!({"minimum_weight": 1, "investigators": {"carol": 0, "@oncall": 5}}),
    ));
    let default = policy.rule("anything").unwrap();
    assert_eq!(policy.weight(default, "carol"), 2);
    assert_eq!(policy.weight(default, "alice"), 1);
    assert_eq!(policy.weight(default, "mallory"), 0);
    assert_eq!(policy.weight(policy.rule("netstat").unwrap(), "carol"), 0);
    assert_eq!(policy.rule("file").unwrap().minimum_weight, 2);
}

#[test]
fn an_expired_policy_says_so_and_a_revoked_key_enrols_nobody() {
    let key = TestKey::ed25519(90).public();
    let good = policy(&with("/expires", json!(1_000)));
    assert!(!good.is_expired(1_000) && good.is_expired(1_001));
    assert!(good.is_enrolment_key(&key) && !good.is_enrolment_key(&TestKey::ed25519(1).public()));
    let revoked = policy(&with("/revoked", json!([key.fingerprint()])));
    assert!(!revoked.is_enrolment_key(&key) && !revoked.is_expired(i64::MAX));
}

#[test]
fn garbage_hides_no_policy_and_an_old_one_replaces_none() {
    let (first, mut second) = (document(), document());
    second["version"] = json!(2);
    // The second is signed by the roots that the first names, not by the pinned ones.
    let mut changed = document();
    changed["roots"] = json!(roots(&[4, 5], 2));
    let bytes = |document: &Value, signers: &[u8]| serde_json::to_vec(&sign(document, signers)).unwrap();
    let pinned = roots(&[1, 2, 3], 2);
    let of = |stored: &[Vec<u8>]| {
        let (best, wrong) = newest(stored.iter().map(Vec::as_slice), &pinned, ORG);
        (best.map(|policy| policy.version()), wrong.len())
    };

    let stored = [bytes(&second, &[1, 2]), bytes(&first, &[1, 2]), b"junk".to_vec(), bytes(&second, &[1])];
    assert_eq!(of(&stored), (Some(2), 1), "the last is the same text");
    assert_eq!(of(&stored[2..]), (None, 2));
    assert_eq!(of(&[bytes(&second, &[4, 5]), bytes(&changed, &[1, 2])]), (Some(2), 0));
    assert_eq!(of(&[bytes(&second, &[1, 2]), bytes(&changed, &[1, 2])]), (Some(1), 1));
    assert_eq!(of(&[]), (None, 0));
}
