//! The agent's decision about one envelope: run it, or refuse it with a reason.
//!
//! Pure: the clock, the policy, the agent's facts and what it has run are passed in. The checks go from what
//! costs little to what costs much, and from what anybody can get wrong to what only somebody with a key can:
//!
//! 1. size, form, version of the form, fleet;
//! 2. a policy is there; signatures: how many, of what kind, for what, by whose keys; then the computation;
//! 3. the time at which the action may be begun;
//! 4. it was not run before;
//! 5. it is for this agent: the list of agents, then the target over the agent's facts;
//! 6. for each module: the agent has it, the signers' weights suffice; one of them may sign standing questions;
//! 7. the limits are within the policy's.
//!
//! Between this decision and the run time can pass and a key can be revoked: [`Admitted::still_admitted`] looks
//! again just before. Whoever runs it writes its id to the [replay log](crate::replay_log) first.

mod refusal;

#[cfg(test)]
mod tests;

pub(crate) use refusal::STATE_REVERTED;
pub use refusal::{Refusal, Refused};

use std::collections::BTreeSet;

use serde::Deserialize;

use crate::action::{
    Action, Envelope, MAX_AGENTS, MAX_ENVELOPE_BYTES, MAX_LISTED_ENVELOPE_BYTES, MAX_OPERATIONS,
    MAX_SIGNATURES, NAMESPACE, Standing, VERSION,
};
use crate::facts::Facts;
use crate::policy::{Policy, PolicyLimits};
use crate::signature::{Fingerprint, SignatureError, TokenFlags, Unchecked};
use vigie_protocol::names::ActionId;

/// How much earlier than an action's `not_before` it is taken, in seconds: clocks differ.
pub(crate) const SKEW_SECONDS: i64 = 60;

/// Longest name of an action, in bytes.
const MAX_ACTION_NAME_BYTES: usize = 256;

/// Longest name of a module in an action, in bytes; those of modules are not longer.
const MAX_MODULE_NAME_BYTES: usize = 64;

/// What an agent knows when an envelope arrives.
#[derive(Debug, Clone, Copy)]
pub struct Situation<'a> {
    /// The agent's clock, in seconds since 1970 (UTC).
    pub now: i64,
    /// The fleet that the agent belongs to.
    pub org: &'a str,
    /// The policy in force.
    pub policy: Option<&'a Policy>,
    /// What the agent is, has and can be asked.
    pub facts: &'a Facts,
}

/// An action that may be run, once, by this agent.
#[derive(Debug, Clone)]
pub struct Admitted {
    /// The action.
    pub action: Action,
    /// Names of those who signed it, sorted, each once.
    pub signers: Vec<String>,
    /// What it may use: as it says, or the policy's most.
    pub limits: PolicyLimits,
    /// The policy that was in force.
    pub policy_version: u64,
    keys: Vec<SignedWith>,
}

/// A key that signed, and what its token said.
#[derive(Debug, Clone)]
struct SignedWith {
    key: Fingerprint,
    token: Option<TokenFlags>,
}

/// Decides about an envelope as it arrived.
///
/// `seen` says whether an action may have been run, by its id and `not_after`; `targeted` whether a target is true
/// for facts, or why it is none.
///
/// # Errors
///
/// It must not be run: the first reason in the order above.
pub fn decide(
    envelope: &[u8],
    situation: &Situation<'_>,
    seen: impl FnOnce(&ActionId, i64) -> bool,
    targeted: impl FnOnce(&str, &Facts) -> Result<bool, String>,
) -> Result<Admitted, Box<Refused>> {
    let (envelope, action) = read(envelope)?;
    let id = action.id.clone();
    let refuse = |refusal: Refusal| Refused::unproved(refusal, Some(id.clone()));

    if action.org != situation.org {
        return Err(Box::new(refuse(Refusal::WrongOrg {
            found: refusal::shown(&action.org),
            wanted: situation.org.to_owned(),
        })));
    }
    let policy = situation.policy.ok_or_else(|| refuse(Refusal::NoPolicy))?;
    let keys = check_signatures(&envelope, policy, situation.now).map_err(refuse)?;
    let signers = names(&keys, policy);
    let signed = |refusal| Refused::of(refusal, &action, &signers);

    check_time(&action, situation.now, policy).map_err(signed)?;
    if seen(&action.id, action.not_after) {
        return Err(Box::new(signed(Refusal::Replayed)));
    }
    check_target(&action, situation.facts, targeted).map_err(signed)?;
    for operation in &action.ops {
        if !situation.facts.modules.contains(&operation.module) {
            return Err(Box::new(signed(Refusal::UnknownModule(refusal::shown(&operation.module)))));
        }
    }
    check_weights(&action, &signers, policy).map_err(signed)?;
    check_standing(&action, &signers, policy).map_err(signed)?;
    let limits = check_limits(&action, policy).map_err(signed)?;
    Ok(Admitted { action, signers, limits, policy_version: policy.version(), keys })
}

impl Admitted {
    /// Its refusal.
    #[must_use]
    pub fn refused(&self, refusal: Refusal) -> Refused {
        Refused::of(refusal, &self.action, &self.signers)
    }

    /// Looks whether a state of the agent that is gone may have run the action, when the agent noticed at `noticed`
    /// that its state is an older copy: the replay log is one as well. What could not be begun before that moment is
    /// not in doubt. The end of a standing question is taken in any case, since ending it twice does no harm.
    ///
    /// # Errors
    ///
    /// It must not be run.
    pub fn not_run_before(self, noticed: Option<i64>) -> Result<Self, Box<Refused>> {
        match noticed {
            Some(noticed)
                if self.action.stop.is_none()
                    && self.action.not_before <= noticed.saturating_add(SKEW_SECONDS) =>
            {
                let refusal = Refusal::StateReverted { noticed };
                Err(Box::new(self.refused(refusal)))
            }
            _ => Ok(self),
        }
    }

    /// Looks again at what can have changed since the decision: the clock and the policy. To be asked just before
    /// the action is begun.
    ///
    /// # Errors
    ///
    /// It must not be run any more.
    pub fn still_admitted(mut self, now: i64, policy: Option<&Policy>) -> Result<Self, Box<Refused>> {
        let refuse = |refusal| Refused::of(refusal, &self.action, &self.signers);
        let policy = policy.ok_or_else(|| refuse(Refusal::NoPolicy))?;
        for signed in &self.keys {
            check_key(&signed.key, policy, now).map_err(refuse)?;
            check_touch(signed, policy).map_err(refuse)?;
        }
        check_time(&self.action, now, policy).map_err(refuse)?;
        let signers = names(&self.keys, policy);
        check_weights(&self.action, &signers, policy).map_err(refuse)?;
        check_standing(&self.action, &signers, policy).map_err(refuse)?;
        self.limits = check_limits(&self.action, policy).map_err(refuse)?;
        self.signers = signers;
        self.policy_version = policy.version();
        Ok(self)
    }
}

/// Reads an envelope and checks its form; nothing in it is proven.
///
/// # Errors
///
/// It is too large, of another form, or of a later one.
pub fn read(bytes: &[u8]) -> Result<(Envelope, Action), Box<Refused>> {
    #[derive(Deserialize)]
    struct Head {
        v: u64,
    }

    let unread = |refusal| Refused::unproved(refusal, None);
    if bytes.len() > MAX_LISTED_ENVELOPE_BYTES {
        let what = "the envelope in bytes";
        return Err(Box::new(unread(Refusal::TooLarge {
            what,
            found: bytes.len(),
            limit: MAX_LISTED_ENVELOPE_BYTES,
        })));
    }
    let envelope: Envelope =
        serde_json::from_slice(bytes).map_err(|error| unread(Refusal::of_json(&error)))?;
    // First: a later form may have other fields.
    let head: Head =
        serde_json::from_str(&envelope.action).map_err(|error| unread(Refusal::of_json(&error)))?;
    if head.v != u64::from(VERSION) {
        return Err(Box::new(unread(Refusal::UnknownVersion(head.v))));
    }
    let action: Action =
        serde_json::from_str(&envelope.action).map_err(|error| unread(Refusal::of_json(&error)))?;
    match check_form(bytes.len(), &action) {
        Ok(()) => Ok((envelope, action)),
        Err(refusal) => Err(Box::new(Refused::unproved(refusal, Some(action.id)))),
    }
}

fn check_form(envelope_bytes: usize, action: &Action) -> Result<(), Refusal> {
    let within = |what, found, limit| {
        if found > limit { Err(Refusal::TooLarge { what, found, limit }) } else { Ok(()) }
    };
    match &action.agents {
        None => {
            within("the envelope in bytes, without a list of agents,", envelope_bytes, MAX_ENVELOPE_BYTES)?
        }
        Some(agents) => within("the list of agents", agents.len(), MAX_AGENTS)?,
    }
    within("the list of operations", action.ops.len(), MAX_OPERATIONS)?;
    within("the action's name in bytes", action.name.len(), MAX_ACTION_NAME_BYTES)?;
    let longest = action.ops.iter().map(|operation| operation.module.len()).max().unwrap_or(0);
    within("the name of a module in bytes", longest, MAX_MODULE_NAME_BYTES)?;
    let malformed = |what: &str| Err(Refusal::Malformed(what.to_owned()));
    match (&action.stop, action.ops.is_empty()) {
        (None, true) => return malformed("it has no operation"),
        (Some(_), false) => return malformed("it stops something and asks something"),
        _ => {}
    }
    if action.standing.is_some() && (action.stop.is_some() || action.agents.is_some()) {
        return malformed("a standing question stops nothing, and says by its target whom it is for");
    }
    if action.not_after < action.not_before {
        return Err(Refusal::Malformed("it ends before it begins".to_owned()));
    }
    Ok(())
}

/// Checks all signatures; one that is not good spoils the envelope. What needs no computation goes first.
fn check_signatures(envelope: &Envelope, policy: &Policy, now: i64) -> Result<Vec<SignedWith>, Refusal> {
    if envelope.sigs.is_empty() {
        return Err(Refusal::NoSignature);
    }
    if envelope.sigs.len() > MAX_SIGNATURES {
        return Err(Refusal::TooManySignatures(envelope.sigs.len()));
    }
    let mut unchecked = Vec::with_capacity(envelope.sigs.len());
    let mut keys = BTreeSet::new();
    for armored in &envelope.sigs {
        let signature = Unchecked::parse(armored).map_err(Refusal::BadSignature)?;
        signature.check_namespace(NAMESPACE).map_err(of_signature)?;
        let key = signature.claimed_key().fingerprint();
        check_key(key, policy, now)?;
        if !keys.insert(key.clone()) {
            return Err(Refusal::SameKeyTwice(key.clone()));
        }
        unchecked.push(signature);
    }
    unchecked
        .into_iter()
        .map(|signature| {
            let signer = signature.verify(NAMESPACE, envelope.action.as_bytes()).map_err(of_signature)?;
            let signed = SignedWith { key: signer.key.fingerprint().clone(), token: signer.token };
            check_touch(&signed, policy)?;
            Ok(signed)
        })
        .collect()
}

fn of_signature(error: SignatureError) -> Refusal {
    match error {
        SignatureError::Namespace { found, wanted } => Refusal::WrongNamespace { found, wanted },
        error => Refusal::BadSignature(error),
    }
}

/// A key of an investigator that is to be trusted now.
fn check_key(key: &Fingerprint, policy: &Policy, now: i64) -> Result<(), Refusal> {
    // First: one that was revoked may have been taken out of the lists as well.
    if policy.is_revoked(key) {
        return Err(Refusal::RevokedKey(key.clone()));
    }
    let (name, listed) = policy.investigator(key).ok_or_else(|| Refusal::UnknownKey(key.clone()))?;
    let begun = listed.not_before.is_none_or(|not_before| now >= not_before);
    let ended = listed.not_after.is_some_and(|not_after| now > not_after);
    if !begun || ended {
        return Err(Refusal::KeyNotValidNow { key: key.clone(), investigator: name.to_owned() });
    }
    Ok(())
}

fn check_touch(signed: &SignedWith, policy: &Policy) -> Result<(), Refusal> {
    let wanted = policy.investigator(&signed.key).is_some_and(|(_, listed)| listed.touch);
    let touched = signed.token.is_some_and(|token| token.user_presence);
    if wanted && !touched { Err(Refusal::NoTouch(signed.key.clone())) } else { Ok(()) }
}

/// Whose keys these are.
fn names(keys: &[SignedWith], policy: &Policy) -> Vec<String> {
    let names: BTreeSet<&str> =
        keys.iter().filter_map(|signed| Some(policy.investigator(&signed.key)?.0)).collect();
    names.into_iter().map(str::to_owned).collect()
}

fn check_time(action: &Action, now: i64, policy: &Policy) -> Result<(), Refusal> {
    if now > action.not_after {
        return Err(Refusal::Expired { not_after: action.not_after, now });
    }
    if now < action.not_before.saturating_sub(SKEW_SECONDS) {
        return Err(Refusal::NotYetValid { not_before: action.not_before, now });
    }
    let document = policy.document();
    let limit = match &document.standing {
        Some(standing) if action.standing.is_some() || action.stop.is_some() => standing.max_window_seconds,
        _ => document.max_window_seconds,
    };
    let seconds = action.not_after.saturating_sub(action.not_before);
    if seconds > i64::from(limit) {
        return Err(Refusal::WindowTooLong { seconds, limit });
    }
    Ok(())
}

fn check_target(
    action: &Action,
    facts: &Facts,
    targeted: impl FnOnce(&str, &Facts) -> Result<bool, String>,
) -> Result<(), Refusal> {
    if action.agents.as_ref().is_some_and(|agents| !agents.contains(&facts.agent)) {
        return Err(Refusal::NotTargeted);
    }
    match targeted(&action.target, facts) {
        Ok(true) => Ok(()),
        Ok(false) => Err(Refusal::NotTargeted),
        Err(reason) => Err(Refusal::BadTarget(reason)),
    }
}

fn check_weights(action: &Action, signers: &[String], policy: &Policy) -> Result<(), Refusal> {
    let modules: BTreeSet<&str> = action.ops.iter().map(|operation| operation.module.as_str()).collect();
    for module in modules {
        let rule = policy.rule(module).ok_or_else(|| Refusal::NoRule(refusal::shown(module)))?;
        let weight: u64 = signers.iter().map(|signer| u64::from(policy.weight(rule, signer))).sum();
        if weight < u64::from(rule.minimum_weight) {
            return Err(Refusal::TooLittleWeight {
                module: refusal::shown(module),
                weight,
                minimum: rule.minimum_weight,
            });
        }
    }
    Ok(())
}

/// Standing questions, and their ends, take a right of their own.
fn check_standing(action: &Action, signers: &[String], policy: &Policy) -> Result<(), Refusal> {
    if action.standing.is_none() && action.stop.is_none() {
        return Ok(());
    }
    let rule = policy.standing(signers).ok_or(Refusal::NoStanding)?;
    match action.standing {
        Some(Standing { every }) if every < rule.min_seconds => {
            Err(Refusal::TooOften { found: every, limit: rule.min_seconds })
        }
        _ => Ok(()),
    }
}

/// Whether these may end a standing question: whoever could have signed it.
///
/// # Errors
///
/// Their weights do not suffice for what it asks.
pub fn check_stop(question: &Action, signers: &[String], policy: &Policy) -> Result<(), Refusal> {
    check_weights(question, signers, policy)
}

/// What the action may use.
fn check_limits(action: &Action, policy: &Policy) -> Result<PolicyLimits, Refusal> {
    let most = policy.document().limits;
    let seconds = action.limits.seconds.unwrap_or(most.seconds);
    let bytes = action.limits.bytes.unwrap_or(most.bytes);
    if !(1..=most.seconds).contains(&seconds) {
        let (found, limit) = (u64::from(seconds), u64::from(most.seconds));
        return Err(Refusal::OverLimits { what: "seconds", found, limit });
    }
    if !(1..=most.bytes).contains(&bytes) {
        return Err(Refusal::OverLimits { what: "bytes", found: bytes, limit: most.bytes });
    }
    Ok(PolicyLimits { seconds, bytes })
}
