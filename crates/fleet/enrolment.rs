//! Which key belongs to which agent: records that an enrolment key of the policy signed.
//!
//! A record lies in the bucket of enrolments as JSON of [`SignedEnrolment`]. Whoever holds the broker can hide or
//! bring back records, but cannot make one; a reader that keeps the newest `issued` it has seen for an agent notices
//! an old one.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::agent_key::AgentPublicKey;
use vigie_protocol::names::AgentId;

/// Version of [`Enrolment`].
pub const VERSION: u8 = 1;

/// Namespace of the signatures of enrolments (`ssh-keygen -Y sign -n …`).
pub const NAMESPACE: &str = "vigie-enrol@v1";

/// Most bytes of a [`SignedEnrolment`] as JSON.
pub(crate) const MAX_ENROLMENT_BYTES: usize = 16 * 1024;

/// Most signatures of an enrolment; one that holds is enough.
pub const MAX_SIGNATURES: usize = 4;

/// How far an enrolment's time may lie in the future, in seconds: clocks differ.
pub(crate) const CLOCK_SKEW_SECONDS: i64 = 300;

/// An enrolment and who signed it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SignedEnrolment {
    /// The exact text that was signed: JSON of an [`Enrolment`].
    pub record: String,
    /// Armoured SSH signatures (OpenSSH's PROTOCOL.sshsig) over the bytes of `record`.
    pub sigs: Vec<String>,
}

/// Says that an agent has a key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Enrolment {
    /// Always [`VERSION`].
    pub v: u8,
    /// Name of the fleet.
    pub org: String,
    /// The agent.
    pub agent: AgentId,
    /// Its key.
    pub key: AgentPublicKey,
    /// When it was signed, in seconds since 1970 (UTC). Of two records of an agent the later one holds.
    pub issued: i64,
    /// Keys that it had before, with the time until which they were its own: what they sealed until then still
    /// counts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub former: Vec<FormerKey>,
    /// Id of the token by which it joined, see [`crate::join`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    /// It is in the fleet no more.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub revoked: bool,
}

/// A key that an agent had.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FormerKey {
    /// The key.
    pub key: AgentPublicKey,
    /// Until when, in seconds since 1970 (UTC).
    pub until: i64,
}

/// Most former keys that a record names; older ones are forgotten.
pub(crate) const MAX_FORMER_KEYS: usize = 16;

impl Enrolment {
    /// A first record of an agent.
    #[must_use]
    pub fn new(org: &str, agent: &AgentId, key: &AgentPublicKey, issued: i64) -> Self {
        Self {
            v: VERSION,
            org: org.to_owned(),
            agent: agent.clone(),
            key: key.clone(),
            issued,
            former: Vec::new(),
            token: None,
            revoked: false,
        }
    }

    /// The record that follows: with another key, or none any more. What the keys before sealed until then still
    /// counts.
    #[must_use]
    pub fn next(&self, key: &AgentPublicKey, now: i64, revoked: bool) -> Self {
        let issued = now.max(self.issued.saturating_add(1));
        let mut former = self.former.clone();
        former.retain(|one| one.key != *key);
        if self.key != *key && !self.revoked {
            former.push(FormerKey { key: self.key.clone(), until: issued });
        }
        let excess = former.len().saturating_sub(MAX_FORMER_KEYS);
        former.drain(..excess);
        Self { key: key.clone(), issued, former, revoked, ..self.clone() }
    }

    /// The keys whose seals count for what the broker stored at this time, in seconds since 1970.
    pub fn keys_at(&self, stored: i64) -> impl Iterator<Item = &AgentPublicKey> {
        let own = (!self.revoked || stored <= self.issued).then_some(&self.key);
        let former =
            self.former.iter().filter(move |one| stored <= one.until.saturating_add(CLOCK_SKEW_SECONDS));
        own.into_iter().chain(former.map(|one| &one.key))
    }

    /// The text to sign.
    #[must_use]
    pub fn to_text(&self) -> String {
        serde_json::to_string(self).expect("strings and numbers always become JSON")
    }
}

/// An enrolment that was checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckedEnrolment<Signer> {
    /// What it says.
    pub enrolment: Enrolment,
    /// Whose signature it bears, as the check of signatures named it.
    pub signer: Signer,
}

/// Why an enrolment does not count.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum EnrolmentError {
    /// It is larger than `MAX_ENROLMENT_BYTES`.
    #[error("the enrolment has {found} bytes, more than {MAX_ENROLMENT_BYTES}")]
    TooLarge {
        /// Its size.
        found: usize,
    },
    /// It is not the JSON of an enrolment.
    #[error("the enrolment cannot be read: {0}")]
    Malformed(String),
    /// Its version is another.
    #[error("the enrolment has version {0}, but this program knows {VERSION}: use a newer program")]
    Version(u8),
    /// It is for another fleet.
    #[error("the enrolment is for the fleet {0:?}")]
    OtherFleet(String),
    /// It was found under another agent's name.
    #[error("the enrolment of {found} is stored in place of that of {expected}")]
    OtherAgent {
        /// Whose it is.
        found: AgentId,
        /// Whose it should be.
        expected: AgentId,
    },
    /// It bears no signature, or too many.
    #[error("the enrolment has {0} signatures, not 1 to {MAX_SIGNATURES}")]
    SignatureCount(usize),
    /// No signature is of an enrolment key of the policy.
    #[error("no signature of the enrolment is valid; the last one: {0}")]
    Unsigned(String),
    /// It was signed in the future.
    #[error("the enrolment was signed at {issued}, in the future: check the clocks")]
    InTheFuture {
        /// When, in seconds since 1970.
        issued: i64,
    },
    /// A later one is known.
    #[error(
        "the enrolment was signed at {issued}, but one from {known} is known: an old record was restored"
    )]
    Older {
        /// When this one was signed, in seconds since 1970.
        issued: i64,
        /// When the known one was signed.
        known: i64,
    },
    /// It has another key than the known one of the same time.
    #[error(
        "two enrolments of {agent} were signed at the same time with different keys: enrol the agent again"
    )]
    Contradiction {
        /// The agent.
        agent: AgentId,
    },
}

/// Decides whether an enrolment counts. `verify_signature` gets the signed bytes and one armoured signature; it says
/// whose it is when it holds in [`NAMESPACE`] and the policy names that key for enrolments. `known` is what was
/// accepted for this agent before; `now` is in seconds since 1970 (UTC).
///
/// # Errors
///
/// See [`EnrolmentError`]; what was known then still holds.
pub fn check<Signer, E: fmt::Display>(
    bytes: &[u8],
    org: &str,
    agent: &AgentId,
    known: Option<&Enrolment>,
    now: i64,
    verify_signature: impl Fn(&[u8], &str) -> Result<Signer, E>,
) -> Result<CheckedEnrolment<Signer>, EnrolmentError> {
    if bytes.len() > MAX_ENROLMENT_BYTES {
        return Err(EnrolmentError::TooLarge { found: bytes.len() });
    }
    let malformed = |error: serde_json::Error| EnrolmentError::Malformed(error.to_string());
    let signed: SignedEnrolment = serde_json::from_slice(bytes).map_err(malformed)?;
    let enrolment: Enrolment = serde_json::from_str(&signed.record).map_err(malformed)?;
    if enrolment.v != VERSION {
        return Err(EnrolmentError::Version(enrolment.v));
    }
    if enrolment.org != org {
        return Err(EnrolmentError::OtherFleet(enrolment.org.chars().take(64).collect()));
    }
    if enrolment.agent != *agent {
        return Err(EnrolmentError::OtherAgent { found: enrolment.agent, expected: agent.clone() });
    }
    if enrolment.issued > now.saturating_add(CLOCK_SKEW_SECONDS) {
        return Err(EnrolmentError::InTheFuture { issued: enrolment.issued });
    }
    if let Some(known) = known {
        if enrolment.issued < known.issued {
            return Err(EnrolmentError::Older { issued: enrolment.issued, known: known.issued });
        }
        if enrolment.issued == known.issued && enrolment.key != known.key {
            return Err(EnrolmentError::Contradiction { agent: enrolment.agent });
        }
    }
    if !(1..=MAX_SIGNATURES).contains(&signed.sigs.len()) {
        return Err(EnrolmentError::SignatureCount(signed.sigs.len()));
    }
    let mut refusal = String::new();
    for signature in &signed.sigs {
        match verify_signature(signed.record.as_bytes(), signature) {
            Ok(signer) => return Ok(CheckedEnrolment { enrolment, signer }),
            Err(error) => refusal = error.to_string(),
        }
    }
    Err(EnrolmentError::Unsigned(refusal))
}

/// The newest of several stored versions of an agent's record that counts, and what is wrong with those that do not.
/// What does not count hides nothing that does. Versions that are older than what is known are no fault while a newer
/// one is there.
pub fn newest<'v, Signer, E: fmt::Display>(
    versions: impl IntoIterator<Item = &'v [u8]>,
    org: &str,
    agent: &AgentId,
    known: Option<&Enrolment>,
    now: i64,
    verify_signature: impl Fn(&[u8], &str) -> Result<Signer, E>,
) -> (Option<CheckedEnrolment<Signer>>, Vec<EnrolmentError>) {
    let mut best: Option<CheckedEnrolment<Signer>> = None;
    let mut wrong = Vec::new();
    let mut older = None;
    for bytes in versions {
        let newest_known = best.as_ref().map(|best| &best.enrolment).or(known);
        match check(bytes, org, agent, newest_known, now, &verify_signature) {
            Ok(checked) => best = Some(checked),
            Err(error @ EnrolmentError::Older { .. }) => older = Some(error),
            Err(error) => wrong.push(error),
        }
    }
    if best.is_none() {
        wrong.extend(older);
    }
    (best, wrong)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::agent_key::AgentKey;

    const NOW: i64 = 1_800_000_000;

    fn record(agent: &str, issued: i64, key: &AgentKey) -> Enrolment {
        Enrolment::new("example", &agent.parse().unwrap(), key.public_key(), issued)
    }

    fn signed(record: String, sigs: &[&str]) -> Vec<u8> {
        let sigs = sigs.iter().map(ToString::to_string).collect();
        serde_json::to_vec(&SignedEnrolment { record, sigs }).unwrap()
    }

    /// Stands for the check of SSH signatures: it takes `good`.
    fn verify(_: &[u8], signature: &str) -> Result<&'static str, String> {
        if signature == "good" { Ok("enroller") } else { Err(format!("bad signature {signature:?}")) }
    }

    fn checked(
        bytes: &[u8],
        known: Option<&Enrolment>,
    ) -> Result<CheckedEnrolment<&'static str>, EnrolmentError> {
        check(bytes, "example", &"web-1".parse().unwrap(), known, NOW, verify)
    }

    #[test]
    fn a_signed_record_counts_and_names_its_signer() {
        let enrolment = record("web-1", NOW, &AgentKey::generate());
        let bytes = signed(enrolment.to_text(), &["bad", "good"]);
        assert_eq!(checked(&bytes, None), Ok(CheckedEnrolment { enrolment, signer: "enroller" }));
    }

    #[test]
    fn a_replaced_key_needs_a_newer_record() {
        let (old, new) = (AgentKey::generate(), AgentKey::generate());
        let known = record("web-1", NOW - 10, &old);
        let with = |issued, key| signed(record("web-1", issued, key).to_text(), &["good"]);

        assert!(checked(&with(NOW - 9, &new), Some(&known)).is_ok());
        assert!(checked(&with(NOW - 10, &old), Some(&known)).is_ok());
        assert!(matches!(
            checked(&with(NOW - 10, &new), Some(&known)),
            Err(EnrolmentError::Contradiction { .. })
        ));
        assert!(matches!(checked(&with(NOW - 11, &old), Some(&known)), Err(EnrolmentError::Older { .. })));
    }

    #[test]
    fn what_is_not_for_this_agent_and_fleet_is_refused() {
        let key = AgentKey::generate();
        let good = record("web-1", NOW, &key);
        let refused = |enrolment: &Enrolment, sigs: &[&str]| {
            checked(&signed(enrolment.to_text(), sigs), None).unwrap_err()
        };

        assert!(matches!(refused(&record("web-2", NOW, &key), &["good"]), EnrolmentError::OtherAgent { .. }));
        let other = Enrolment { org: "other".to_owned(), ..good.clone() };
        assert!(matches!(refused(&other, &["good"]), EnrolmentError::OtherFleet(_)));
        let version = Enrolment { v: 2, ..good.clone() };
        assert_eq!(refused(&version, &["good"]), EnrolmentError::Version(2));
        let future = Enrolment { issued: NOW + CLOCK_SKEW_SECONDS + 1, ..good.clone() };
        assert!(matches!(refused(&future, &["good"]), EnrolmentError::InTheFuture { .. }));
        assert!(matches!(refused(&good, &["bad"]), EnrolmentError::Unsigned(_)));
        assert_eq!(refused(&good, &[]), EnrolmentError::SignatureCount(0));
        assert_eq!(refused(&good, &["good"; 5]), EnrolmentError::SignatureCount(5));
        assert!(matches!(
            checked(&[b' '; MAX_ENROLMENT_BYTES + 1], None),
            Err(EnrolmentError::TooLarge { .. })
        ));
        let unknown = good.to_text().replace("\"v\":1", "\"v\":1,\"x\":1");
        assert!(matches!(checked(&signed(unknown, &["good"]), None), Err(EnrolmentError::Malformed(_))));
    }

    #[test]
    fn garbage_hides_no_record_and_an_old_one_replaces_none() {
        let (old, new) = (AgentKey::generate(), AgentKey::generate());
        let agent = "web-1".parse().unwrap();
        let bytes = |issued, key: &AgentKey, by: &str| signed(record("web-1", issued, key).to_text(), &[by]);
        let stored = [
            bytes(NOW - 10, &old, "good"),
            bytes(NOW - 5, &new, "good"),
            bytes(NOW - 10, &old, "good"),
            bytes(NOW, &old, "bad"),
            b"junk".to_vec(),
        ];

        let of = |known: Option<&Enrolment>, stored: &[Vec<u8>]| {
            newest(stored.iter().map(Vec::as_slice), "example", &agent, known, NOW, verify)
        };
        let (best, wrong) = of(None, &stored);
        assert_eq!((best.unwrap().enrolment.key, wrong.len()), (new.public_key().clone(), 2));
        let pinned = record("web-1", NOW - 5, &new);
        let (best, wrong) = of(Some(&pinned), &stored[..1]);
        assert!(best.is_none() && matches!(wrong[..], [EnrolmentError::Older { .. }]));
    }

    #[test]
    fn what_a_former_key_sealed_in_its_time_still_counts() {
        let (old, new) = (AgentKey::generate(), AgentKey::generate());
        let first = record("web-1", NOW - 1000, &old);
        let second = first.next(new.public_key(), NOW, false);
        let keys = |of: &Enrolment, stored| of.keys_at(stored).cloned().collect::<Vec<_>>();

        assert_eq!(keys(&second, NOW - 1), [new.public_key().clone(), old.public_key().clone()]);
        assert_eq!(keys(&second, NOW + 1000), [new.public_key().clone()]);
        let gone = second.next(new.public_key(), NOW + 10, true);
        assert_eq!(keys(&gone, NOW + 11 + CLOCK_SKEW_SECONDS), []);
        assert!(keys(&gone, NOW + 5).contains(new.public_key()));
        let mut many = first;
        for _ in 0..40 {
            many = many.next(AgentKey::generate().public_key(), NOW, false);
        }
        assert_eq!(many.former.len(), MAX_FORMER_KEYS);
        assert!(many.to_text().len() < MAX_ENROLMENT_BYTES / 2);
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_check_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), record in "\\PC{0,100}") {
            prop_assert!(checked(&bytes, None).is_err());
            prop_assert!(checked(&signed(record, &["good"]), None).is_err());
        }
    }
}
