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
pub const MAX_ENROLMENT_BYTES: usize = 16 * 1024;

/// Most signatures of an enrolment; one that holds is enough.
pub const MAX_SIGNATURES: usize = 4;

/// How far an enrolment's time may lie in the future, in seconds: clocks differ.
pub const CLOCK_SKEW_SECONDS: i64 = 300;

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
}

impl Enrolment {
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
    /// It is larger than [`MAX_ENROLMENT_BYTES`].
    #[error("the enrolment has {found} bytes, more than {MAX_ENROLMENT_BYTES}")]
    TooLarge {
        /// Its size.
        found: usize,
    },
    /// It is not the JSON of an enrolment.
    #[error("the enrolment cannot be read: {0}")]
    Malformed(String),
    /// Its version is another.
    #[error("the enrolment has version {0}, this program knows {VERSION}: use a newer program")]
    Version(u8),
    /// It is for another fleet.
    #[error("the enrolment is for the fleet {0:?}")]
    OtherFleet(String),
    /// It was found under another agent's name.
    #[error("the enrolment of {found} lies where that of {expected} belongs")]
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
    #[error("no signature of the enrolment holds; the last one: {0}")]
    Unsigned(String),
    /// It was signed in the future.
    #[error("the enrolment was signed at {issued}, in the future: check the clocks")]
    InTheFuture {
        /// When, in seconds since 1970.
        issued: i64,
    },
    /// A later one is known.
    #[error(
        "the enrolment was signed at {issued}, but one of {known} is known: somebody brought back an old one"
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::agent_key::AgentKey;

    const NOW: i64 = 1_800_000_000;

    fn record(agent: &str, issued: i64, key: &AgentKey) -> Enrolment {
        let agent = agent.parse().unwrap();
        Enrolment { v: VERSION, org: "example".to_owned(), agent, key: key.public_key().clone(), issued }
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

    proptest! {
        #[test]
        fn no_bytes_make_the_check_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), record in "\\PC{0,100}") {
            prop_assert!(checked(&bytes, None).is_err());
            prop_assert!(checked(&signed(record, &["good"]), None).is_err());
        }
    }
}
