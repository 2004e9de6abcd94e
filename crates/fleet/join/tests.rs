use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::broker::jwt::{Authority, Role};
use crate::policy;
use crate::signature::SigningKey;

const NOW: i64 = 1_800_000_000;

fn enroller() -> SigningKey {
    SigningKey::from_seed(&[9; 32])
}

fn policy() -> Policy {
    let root = SigningKey::from_seed(&[1; 32]);
    let document = json!({
        "v": policy::VERSION, "org": "example", "version": 3,
        "roots": {"keys": [root.public_key()], "threshold": 1}, "enrolment": [enroller().public_key()],
    });
    Policy::parse_unsigned(&document.to_string(), "example").unwrap()
}

fn signed(text: String, namespace: &str, by: &SigningKey) -> Signed {
    let sig = by.sign(namespace, text.as_bytes()).unwrap();
    Signed { text, sig }
}

fn grant(token: &AgentKey) -> Grant {
    Grant {
        v: VERSION,
        org: "example".to_owned(),
        id: "0123456789abcdef0123456789abcdef".to_owned(),
        key: token.public_key().clone(),
        uses: 2,
        not_after: NOW + 60,
        approved: true,
        names: Some("web-*".to_owned()),
        tags: BTreeMap::new(),
        groups: Vec::new(),
    }
}

fn signed_grant(grant: &Grant, by: &SigningKey) -> Signed {
    signed(serde_json::to_string(grant).unwrap(), GRANT_NAMESPACE, by)
}

fn request(name: &str, key: &AgentKey, grant: &Grant) -> Request {
    Request {
        v: VERSION,
        org: "example".to_owned(),
        token: Some(grant.id.clone()),
        key: key.public_key().clone(),
        agent: name.parse().unwrap(),
        hostname: name.to_owned(),
        machine: "ab12".to_owned(),
        tls_key: None,
        made: NOW,
    }
}

struct World {
    token: AgentKey,
    host: AgentKey,
    grant: Grant,
}

impl World {
    fn new() -> Self {
        let (token, host) = (AgentKey::generate(), AgentKey::generate());
        let grant = grant(&token);
        Self { token, host, grant }
    }

    fn sealed(&self) -> SealedRequest {
        let signed = signed_grant(&self.grant, &enroller());
        request("web-1", &self.host, &self.grant).seal(&self.host, Some((&self.token, &signed))).unwrap()
    }
}

fn opened(sealed: &SealedRequest, id: &str) -> Result<Checked, JoinProblem> {
    open_request(&serde_json::to_vec(sealed).unwrap(), "example", id, &policy())
}

#[test]
fn a_request_counts_with_both_seals_and_a_grant_of_an_enroller() {
    let world = World::new();
    let sealed = world.sealed();
    let id = world.grant.id.as_str();
    assert_eq!(opened(&sealed, id).unwrap().grant, world.grant);

    let other = World::new();
    let bad = |change: &dyn Fn(&mut SealedRequest)| {
        let mut sealed = sealed.clone();
        change(&mut sealed);
        opened(&sealed, id).unwrap_err()
    };
    // Another name or key under seals that were seen.
    let change =
        |sealed: &mut SealedRequest| sealed.request.text = sealed.request.text.replace("web-1", "web-2");
    assert_eq!(bad(&change), JoinProblem::Seal("the host's key"));
    assert_eq!(bad(&|sealed| sealed.by_token = other.sealed().by_token), JoinProblem::Seal("the token"));
    assert!(matches!(bad(&|sealed| sealed.grant = other.sealed().grant), JoinProblem::Seal("the token")));
    // A grant that somebody widened, or made himself.
    let wider = Grant { uses: 9, ..world.grant.clone() };
    let own = |sealed: &mut SealedRequest| {
        sealed.grant = Some(signed_grant(&wider, &SigningKey::from_seed(&[66; 32])));
    };
    assert!(matches!(bad(&own), JoinProblem::Unsigned(_)));
    let (tag, group) = (("env".to_owned(), "prod".to_owned()), "admins".parse().unwrap());
    for wider in [
        wider,
        Grant { not_after: NOW + 3600, ..world.grant.clone() },
        Grant { names: None, ..world.grant.clone() },
        Grant { tags: BTreeMap::from([tag]), ..world.grant.clone() },
        Grant { groups: vec![group], ..world.grant.clone() },
        Grant { approved: false, ..world.grant.clone() },
    ] {
        let widened = |sealed: &mut SealedRequest| {
            if let Some(grant) = &mut sealed.grant {
                grant.text = serde_json::to_string(&wider).unwrap();
            }
        };
        assert!(matches!(bad(&widened), JoinProblem::Unsigned(_)), "{wider:?}");
    }
    // A signature of an enroller for something else.
    let record = |sealed: &mut SealedRequest| {
        let text = serde_json::to_string(&world.grant).unwrap();
        sealed.grant = Some(signed(text, enrolment::NAMESPACE, &enroller()));
    };
    assert!(matches!(bad(&record), JoinProblem::Unsigned(_)));
    assert_eq!(bad(&|sealed| sealed.by_token = None), JoinProblem::Other("kind: no token is named"));
    assert_eq!(opened(&sealed, "f0123456789abcdef0123456789abcde").unwrap_err(), JoinProblem::Other("token"));
    // The token's own key is no host's.
    let same = request("web-1", &world.token, &world.grant);
    let same =
        same.seal(&world.token, Some((&world.token, &signed_grant(&world.grant, &enroller())))).unwrap();
    assert_eq!(opened(&same, id).unwrap_err(), JoinProblem::BadValue("key"));
    // A seal of the host for a renewal is none for joining, and the reverse.
    let renewal = Request { token: None, ..request("web-1", &world.host, &world.grant) };
    let renewal = serde_json::to_vec(&renewal.seal(&world.host, None).unwrap()).unwrap();
    let name = "web-1".parse().unwrap();
    assert!(open_renewal(&renewal, "example", &name, world.host.public_key()).is_ok());
    assert!(open_renewal(&renewal, "example", &name, other.host.public_key()).is_err());
    assert!(open_renewal(&renewal, "example", &"web-2".parse().unwrap(), world.host.public_key()).is_err());
    let joining = serde_json::to_vec(&sealed).unwrap();
    assert!(open_renewal(&joining, "example", &name, world.host.public_key()).is_err());
}

fn admitted(members: &mut Members, checked: &Checked) {
    let mut enrolment = Enrolment::new("example", &checked.request.agent, &checked.request.key, NOW);
    enrolment.token = Some(checked.grant.id.clone());
    members.add(enrolment);
}

#[test]
fn a_token_lets_in_as_many_hosts_as_it_may_and_a_replay_lets_in_nobody() {
    let world = World::new();
    let mut members = Members::default();
    let checked = |name: &str, key: &AgentKey| Checked {
        request: request(name, key, &world.grant),
        grant: world.grant.clone(),
    };
    let keys: Vec<AgentKey> = (0..3).map(|_| AgentKey::generate()).collect();
    let (first, second) = (checked("web-1", &keys[0]), checked("web-2", &keys[1]));
    assert_eq!(members.decide(&first, NOW, false), Decision::Admit);
    admitted(&mut members, &first);
    // Thousands of times the same: nothing new.
    assert!(matches!(members.decide(&first, NOW, false), Decision::Again(_)));
    assert!(
        matches!(members.decide(&checked("web-2", &keys[0]), NOW, true), Decision::Refuse(_)),
        "a second name"
    );
    assert!(
        matches!(members.decide(&checked("web-1", &keys[1]), NOW, true), Decision::Refuse(_)),
        "a taken name"
    );
    assert!(
        matches!(members.decide(&checked("db-1", &keys[1]), NOW, true), Decision::Refuse(_)),
        "the token's names"
    );
    admitted(&mut members, &second);
    assert!(matches!(members.decide(&checked("web-3", &keys[2]), NOW, true), Decision::Refuse(_)), "used up");
    // A host that was shut out does not come back by its old request, and its place is used.
    let gone = members.get(&first.request.agent).unwrap().next(&first.request.key, NOW + 1, true);
    members.add(gone);
    assert!(matches!(members.decide(&first, NOW, true), Decision::Refuse(_)));
    assert_eq!(members.used(&world.grant.id), 2);
    // Nor does a key that was replaced.
    let third = AgentKey::generate();
    let next = members.get(&second.request.agent).unwrap().next(third.public_key(), NOW + 1, false);
    members.add(next);
    assert!(matches!(members.decide(&second, NOW, true), Decision::Refuse(_)));
}

#[test]
fn without_a_rule_or_after_its_time_a_person_decides() {
    let world = World::new();
    let members = Members::default();
    let checked = |grant: Grant| Checked { request: request("web-1", &world.host, &grant), grant };
    let asking = checked(Grant { approved: false, ..world.grant.clone() });
    assert!(matches!(members.decide(&asking, NOW, false), Decision::Ask(_)));
    assert_eq!(members.decide(&asking, NOW, true), Decision::Admit);
    let late = checked(world.grant.clone());
    assert!(matches!(members.decide(&late, NOW + 61, false), Decision::Refuse(_)));
    assert_eq!(members.decide(&late, NOW + 61, true), Decision::Admit);
    let mut members = Members::default();
    let other = AgentKey::generate();
    members.add(Enrolment::new("example", &"web-1".parse().unwrap(), other.public_key(), NOW).next(
        other.public_key(),
        NOW,
        true,
    ));
    assert!(matches!(members.decide(&checked(world.grant.clone()), NOW, false), Decision::Ask(_)));
}

/// What an enroller answers to a request.
fn approval(request: &Request, key: &AgentKey, by: &SigningKey) -> Answer {
    let record = Enrolment::new("example", &request.agent, key.public_key(), NOW).to_text();
    let sigs = vec![by.sign(enrolment::NAMESPACE, record.as_bytes()).unwrap()];
    let login = Authority::generate().signer(Role::Agent).user(&request.agent, key.public_key(), NOW, None);
    Answer {
        v: VERSION,
        org: "example".to_owned(),
        key: request.key.clone(),
        token: request.token.clone(),
        made: request.made,
        issued: NOW,
        outcome: Outcome::Approved(Box::new(Approved {
            enrolment: SignedEnrolment { record, sigs },
            login,
            certificate: None,
        })),
    }
}

#[test]
fn an_answer_counts_for_its_host_only_and_a_lying_broker_or_enroller_is_noticed() {
    let world = World::new();
    let asked = request("web-1", &world.host, &world.grant);
    let policy = policy();
    let sent = |answer: &Answer, by: &SigningKey| {
        let text = serde_json::to_string(answer).unwrap();
        serde_json::to_vec(&signed(text, ANSWER_NAMESPACE, by)).unwrap()
    };
    let open = |answer: &Answer, by: &SigningKey| open_answer(&sent(answer, by), &asked, &policy, NOW);
    let (good, mallory) = (approval(&asked, &world.host, &enroller()), SigningKey::from_seed(&[66; 32]));

    assert_eq!(open(&good, &enroller()).unwrap(), good);
    assert!(matches!(open(&good, &mallory), Err(JoinProblem::Unsigned(_))));
    // Another key's record, login or answer, another name, a record of nobody.
    let other = AgentKey::generate();
    assert!(open(&approval(&asked, &other, &enroller()), &enroller()).is_err());
    let renamed = Request { agent: "web-2".parse().unwrap(), ..asked.clone() };
    assert!(open(&approval(&renamed, &world.host, &enroller()), &enroller()).is_err());
    assert!(open(&approval(&asked, &world.host, &mallory), &enroller()).is_err());
    let elsewhere = Answer { key: other.public_key().clone(), ..good.clone() };
    assert_eq!(open(&elsewhere, &enroller()), Err(JoinProblem::Other("key")));
    let before = Answer { token: Some("another".to_owned()), ..good.clone() };
    assert_eq!(open(&before, &enroller()), Err(JoinProblem::Other("token")));
    let mut login = good.clone();
    if let Outcome::Approved(approved) = &mut login.outcome {
        approved.login =
            Authority::generate().signer(Role::Agent).user(&asked.agent, other.public_key(), NOW, None);
    }
    assert_eq!(open(&login, &enroller()), Err(JoinProblem::Other("login")));
    let denied = Answer { outcome: Outcome::Denied { reason: "no".to_owned(), by_person: false }, ..good };
    assert_eq!(open(&denied, &enroller()).unwrap(), denied);
    let later = Request { made: NOW + 1, ..asked.clone() };
    assert!(
        !denies_earlier(&denied, &asked)
            && denies_earlier(&denied, &later)
            && !denies_earlier(&login, &later)
    );
    assert!(open(&denied, &mallory).is_err(), "a broker cannot turn a host away");
}

#[test]
fn a_token_is_one_word_and_damage_is_noticed() {
    let world = World::new();
    let root = SigningKey::from_seed(&[1; 32]);
    let token = JoinToken {
        grant: signed_grant(&world.grant, &enroller()),
        seed: world.token.seed(),
        login: "a.b.c".to_owned(),
        urls: vec!["nats://127.0.0.1:4222".to_owned()],
        roots: Roots { keys: vec![root.public_key().clone()], threshold: 1 },
        policy_version: 3,
        tls: None,
    };
    let text = token.to_text();
    let (read, grant) = JoinToken::parse(&format!(" {text}\n")).unwrap();
    assert_eq!((grant, read.policy_version), (world.grant.clone(), 3));
    assert!(!text.contains(char::is_whitespace) && !format!("{read:?}").contains(&token.seed));
    for cut in [0, 5, text.len() / 2, text.len() - 1] {
        assert!(matches!(JoinToken::parse(&text[..cut]), Err(TokenError::Form)), "{cut}");
    }
    let swapped = JoinToken { seed: AgentKey::generate().seed(), ..token };
    assert!(matches!(JoinToken::parse(&swapped.to_text()), Err(TokenError::Damaged(_))));
}

#[test]
fn a_token_is_ended_by_an_enroller_only() {
    let world = World::new();
    let end =
        TokenEnd { v: VERSION, org: "example".to_owned(), ended_token: world.grant.id.clone(), issued: NOW };
    let bytes = |by: &SigningKey| {
        serde_json::to_vec(&signed(serde_json::to_string(&end).unwrap(), ANSWER_NAMESPACE, by)).unwrap()
    };
    let (policy, id) = (policy(), world.grant.id.as_str());
    assert!(is_ended(&bytes(&enroller()), "example", id, &policy));
    assert!(!is_ended(&bytes(&SigningKey::from_seed(&[66; 32])), "example", id, &policy));
    assert!(!is_ended(&bytes(&enroller()), "example", "other", &policy));
    assert!(!is_ended(b"{}", "example", id, &policy));
}

proptest! {
    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), text in "\\PC{0,200}") {
        let policy = policy();
        let key = AgentKey::generate();
        let name = "a".parse().unwrap();
        prop_assert!(open_request(&bytes, "example", "x", &policy).is_err());
        prop_assert!(open_renewal(&bytes, "example", &name, key.public_key()).is_err());
        prop_assert!(!is_ended(&bytes, "example", "x", &policy));
        let sealed = SealedRequest {
            request: key.seal(Purpose::Join, text.clone()).unwrap(), by_token: Some(text.clone()), grant: None,
        };
        prop_assert!(open_request(&serde_json::to_vec(&sealed).unwrap(), "example", "x", &policy).is_err());
        prop_assert!(JoinToken::parse(&text).is_err());
        let token = format!("{PREFIX}{}", BASE64URL_NOPAD.encode(&bytes));
        prop_assert!(JoinToken::parse(&token).is_err());
    }
}
