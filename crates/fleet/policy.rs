//! Who may ask what: one versioned document, signed by some of the fleet's root keys.
//!
//! An agent's configuration pins the first root keys and how many of them must sign. A policy names the root keys
//! that sign the *next* version: from then on these count, and the pinned ones no longer, so that a root key
//! that was stolen can be put out of use without touching a host. While agents may still be on the version
//! before a change of root keys, sign with enough of the old and the new ones: signatures by other keys are
//! passed over, not refused.
//!
//! Weights are MIG's: a rule names, for a module, the sum of weights that the signers of an action must reach. A
//! person counts once, whatever keys he signs with. No rule for the module and no rule `default`: nobody may ask.

mod document;
mod stored;

#[cfg(test)]
pub(crate) mod tests;

pub use document::{
    DEFAULT_RULE, Investigator, InvestigatorKey, Packs, PolicyDocument, PolicyLimits, Roots, Rule,
    StandingRule,
};
pub use stored::StoredPolicy;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::signature::{Fingerprint, PublicKey, SignatureError, Unchecked};

/// Version of the document's form.
pub const VERSION: u8 = 1;

/// Namespace of the signatures of policies (`ssh-keygen -Y sign -n …`).
pub const NAMESPACE: &str = "vigie-policy@v1";

/// Largest text of a policy in bytes: thousands of keys.
pub(crate) const MAX_POLICY_BYTES: usize = 256 * 1024;

/// Largest signed policy in bytes, as JSON: the text within is escaped, the signatures are beside it.
pub const MAX_SIGNED_POLICY_BYTES: usize = 640 * 1024;

/// Most signatures of a policy.
pub const MAX_SIGNATURES: usize = 16;

/// Longest time during which an action may be begun, in seconds: a day, for that long the broker keeps actions.
/// A policy can make it shorter.
pub const MAX_WINDOW_SECONDS: u32 = 24 * 60 * 60;

/// Longest life of a standing question, in seconds: 90 days, for that long the broker keeps them.
pub(crate) const MAX_STANDING_SECONDS: u32 = 90 * 24 * 60 * 60;

/// Why a policy is not taken. The policy in force stays in force.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// Not even looked at.
    #[error("the policy has {bytes} bytes, but at most {limit} are allowed")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// Not a policy.
    #[error("the policy cannot be read: {0}")]
    Malformed(String),
    /// Of a later form.
    #[error("the policy has format {0}, but this program reads format {VERSION}: update the program")]
    UnknownVersion(u64),
    /// For another fleet.
    #[error("the policy is for the fleet {found:?}, not for {wanted:?}")]
    WrongOrg {
        /// Whose it is.
        found: String,
        /// Who we are.
        wanted: String,
    },
    /// Too few root keys signed.
    #[error("{found} of the {wanted} required root key signatures are valid{}", because(.ignored))]
    TooFewSignatures {
        /// Distinct root keys that signed.
        found: usize,
        /// How many must.
        wanted: usize,
        /// Why the last signature by a root key did not count.
        ignored: Option<SignatureError>,
    },
    /// More signatures than are looked at.
    #[error("the policy has {0} signatures, but at most {MAX_SIGNATURES} are allowed")]
    TooManySignatures(usize),
    /// A number or a list is out of its range.
    #[error("{what} is {found}, allowed is {allowed}")]
    OutOfRange {
        /// What it is.
        what: String,
        /// Its value.
        found: u64,
        /// The range.
        allowed: &'static str,
    },
    /// A name in a form that is not let through.
    #[error("{0:?} is not a name (1 to 64 letters, digits and .-_+@, starting with a letter or digit)")]
    BadName(String),
    /// A key stands in two places.
    #[error("the key {key} is listed twice, for {first} and for {second}")]
    SameKeyTwice {
        /// The key.
        key: Fingerprint,
        /// One place.
        first: String,
        /// The other.
        second: String,
    },
    /// A rule names somebody whom the policy does not know.
    #[error("the rule for {rule:?} names {name:?}, who is neither an investigator nor a group that has one")]
    UnknownInvestigator {
        /// The module or `default`.
        rule: String,
        /// The name.
        name: String,
    },
    /// A touch is asked of a key that cannot give one.
    #[error("the key {key} of {investigator:?} requires touch, but it is not on a security token (sk-…)")]
    TouchWithoutToken {
        /// The key.
        key: Fingerprint,
        /// Whose it is.
        investigator: String,
    },
    /// An address that agents must not go to.
    #[error("{0:?} cannot be a broker's address: write tls://HOST:PORT; without TLS only on this machine")]
    BadBroker(String),
    /// A root key is revoked.
    #[error("the root key {0} is revoked: remove it from the root keys")]
    RevokedRoot(Fingerprint),
    /// The version must be higher than the current one.
    #[error("version {found} is older than {current}, which is in force")]
    Older {
        /// Its version.
        found: u64,
        /// The one in force.
        current: u64,
    },
    /// Two policies with one version.
    #[error("another policy with the version {0} is in force: give the new one a higher version")]
    OtherContent(u64),
}

fn because(error: &Option<SignatureError>) -> String {
    error.as_ref().map_or_else(String::new, |error| format!(" ({error})"))
}

/// A policy and who signed it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SignedPolicy {
    /// The exact text that was signed: JSON of a [`PolicyDocument`].
    pub policy: String,
    /// Armoured SSH signatures over the bytes of `policy`, for [`NAMESPACE`].
    pub sigs: Vec<String>,
}

impl SignedPolicy {
    /// Reads its JSON.
    ///
    /// # Errors
    ///
    /// It is too large or has another form.
    pub fn from_json(bytes: &[u8]) -> Result<Self, PolicyError> {
        if bytes.len() > MAX_SIGNED_POLICY_BYTES {
            return Err(PolicyError::TooLarge { bytes: bytes.len(), limit: MAX_SIGNED_POLICY_BYTES });
        }
        serde_json::from_slice(bytes).map_err(|error| PolicyError::Malformed(error.to_string()))
    }
}

/// A policy whose signatures and content were checked.
#[derive(Debug, Clone)]
pub struct Policy {
    document: PolicyDocument,
    /// The signed text.
    text: String,
    /// Who has which key: the investigator and the key's place in his list.
    keys: BTreeMap<Fingerprint, (String, usize)>,
    revoked: BTreeSet<Fingerprint>,
}

/// What comes of a policy that arrived.
#[derive(Debug, Clone)]
pub enum Offered {
    /// It is to be in force from now on.
    Newer(Box<Policy>),
    /// It is the one in force.
    Same,
}

impl Policy {
    /// Reads and checks a policy's content, without its signatures: for whoever writes one, and for one that was
    /// checked before.
    ///
    /// # Errors
    ///
    /// It cannot be read, contradicts itself or is for another fleet.
    pub fn parse_unsigned(text: &str, org: &str) -> Result<Self, PolicyError> {
        let document = PolicyDocument::parse(text)?;
        if document.org != org {
            return Err(PolicyError::WrongOrg { found: document.org, wanted: org.to_owned() });
        }
        let keys = document.check()?;
        let revoked = document.revoked.iter().cloned().collect();
        Ok(Self { document, text: text.to_owned(), keys, revoked })
    }

    /// Its content.
    #[must_use]
    pub fn document(&self) -> &PolicyDocument {
        &self.document
    }

    /// The exact text that was signed.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Its version, which never goes down.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.document.version
    }

    /// It should have been replaced by now (seconds since 1970). It stays in force, and whoever sees it warns.
    #[must_use]
    pub fn is_expired(&self, now: i64) -> bool {
        self.document.expires.is_some_and(|expires| now > expires)
    }

    /// The key is not to be trusted any more.
    #[must_use]
    pub fn is_revoked(&self, key: &Fingerprint) -> bool {
        self.revoked.contains(key)
    }

    /// Whose key it is, with what the policy asks of it.
    #[must_use]
    pub fn investigator(&self, key: &Fingerprint) -> Option<(&str, &InvestigatorKey)> {
        let (name, place) = self.keys.get(key)?;
        let key = self.document.investigators.get(name)?.keys.get(*place)?;
        Some((name, key))
    }

    /// The key may enrol agents: it is listed for that and not revoked.
    #[must_use]
    pub fn is_enrolment_key(&self, key: &PublicKey) -> bool {
        self.document.enrolment.contains(key) && !self.is_revoked(key.fingerprint())
    }

    /// The rule for a module: its own, or the default one.
    #[must_use]
    pub fn rule(&self, module: &str) -> Option<&Rule> {
        self.document.acl.get(module).or_else(|| self.document.acl.get(DEFAULT_RULE))
    }

    /// The rule for standing questions, if one of these may sign them.
    #[must_use]
    pub fn standing(&self, signers: &[String]) -> Option<&StandingRule> {
        let rule = self.document.standing.as_ref()?;
        let may = |signer: &String| {
            let groups = self.document.investigators.get(signer).map_or(&[][..], |someone| &someone.groups);
            rule.investigators.contains(signer)
                || groups.iter().any(|group| rule.investigators.contains(&format!("@{group}")))
        };
        signers.iter().any(may).then_some(rule)
    }

    /// The weight of an investigator under a rule: the one by his name, or else the largest by a group of his.
    #[must_use]
    pub fn weight(&self, rule: &Rule, investigator: &str) -> u32 {
        if let Some(weight) = rule.investigators.get(investigator) {
            return *weight;
        }
        let groups = self.document.investigators.get(investigator).map_or(&[][..], |someone| &someone.groups);
        let weights = groups.iter().filter_map(|group| rule.investigators.get(&format!("@{group}")));
        weights.max().copied().unwrap_or(0)
    }
}

/// Checks a policy against the root keys that must sign it.
///
/// # Errors
///
/// Too few of them did, or its content is not good.
pub fn verify(signed: &SignedPolicy, roots: &Roots, org: &str) -> Result<Policy, PolicyError> {
    if signed.policy.len() > MAX_POLICY_BYTES {
        return Err(PolicyError::TooLarge { bytes: signed.policy.len(), limit: MAX_POLICY_BYTES });
    }
    if signed.sigs.len() > MAX_SIGNATURES {
        return Err(PolicyError::TooManySignatures(signed.sigs.len()));
    }
    roots.check()?;
    let mut signers = BTreeSet::new();
    let mut ignored = None;
    for armored in &signed.sigs {
        match root_signer(armored, &signed.policy, roots) {
            Ok(Some(signer)) => {
                signers.insert(signer);
            }
            Ok(None) => {}
            Err(error) => ignored = Some(error),
        }
    }
    let wanted = roots.threshold as usize;
    if signers.len() < wanted {
        return Err(PolicyError::TooFewSignatures { found: signers.len(), wanted, ignored });
    }
    Policy::parse_unsigned(&signed.policy, org)
}

/// The root key that made this signature; none when it is by another key.
fn root_signer(armored: &str, text: &str, roots: &Roots) -> Result<Option<Fingerprint>, SignatureError> {
    let unchecked = Unchecked::parse(armored)?;
    if !roots.keys.contains(unchecked.claimed_key()) {
        return Ok(None);
    }
    let signer = unchecked.verify(NAMESPACE, text.as_bytes())?;
    Ok(Some(signer.key.fingerprint().clone()))
}

/// Decides about a policy that arrived, whatever way: the root keys of the policy in force must have signed it,
/// or the pinned ones while none is in force, and its version must be higher.
///
/// # Errors
///
/// See [`verify`]; it is older than the one in force, or has its version with another text.
pub fn accept_newer(
    current: Option<&Policy>,
    pinned: &Roots,
    org: &str,
    signed: &SignedPolicy,
) -> Result<Offered, PolicyError> {
    if current.is_some_and(|current| current.text == signed.policy) {
        return Ok(Offered::Same);
    }
    let roots = current.map_or(pinned, |current| &current.document.roots);
    let policy = verify(signed, roots, org)?;
    let Some(current) = current else { return Ok(Offered::Newer(Box::new(policy))) };
    if policy.version() < current.version() {
        return Err(PolicyError::Older { found: policy.version(), current: current.version() });
    }
    if policy.version() == current.version() {
        return Err(PolicyError::OtherContent(policy.version()));
    }
    Ok(Offered::Newer(Box::new(policy)))
}

/// The newest of several stored versions of the policy that counts, and what is wrong with those that do not. What does
/// not count hides nothing that does; root keys that a version changed count for those that follow.
pub fn newest<'v>(
    versions: impl IntoIterator<Item = &'v [u8]>,
    pinned: &Roots,
    org: &str,
) -> (Option<Policy>, Vec<PolicyError>) {
    let mut best: Option<Policy> = None;
    let mut wrong = Vec::new();
    let mut signed: Vec<(u64, SignedPolicy)> = Vec::new();
    for bytes in versions {
        let read = SignedPolicy::from_json(bytes).and_then(|signed| {
            // Only to put them in order: nothing of it counts yet.
            PolicyDocument::parse(&signed.policy).map(|document| (document.version, signed))
        });
        match read {
            Ok(read) => signed.push(read),
            Err(error) => wrong.push(error),
        }
    }
    signed.sort_by_key(|(version, _)| *version);
    for (_, signed) in &signed {
        match accept_newer(best.as_ref(), pinned, org, signed) {
            Ok(Offered::Newer(policy)) => best = Some(*policy),
            Ok(Offered::Same) => {}
            Err(error) => wrong.push(error),
        }
    }
    (best, wrong)
}
