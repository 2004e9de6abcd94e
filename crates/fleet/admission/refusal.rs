//! Why an agent does not run an action: codes for programs, words for people.

use std::fmt;

use crate::action::Action;
use crate::answer::Asked;
use crate::signature::{Fingerprint, SignatureError};
use vigie_protocol::names::ActionId;

/// Code of [`Refusal::StateReverted`].
pub(crate) const STATE_REVERTED: &str = "state_reverted";

/// Longest part of a foreign text that a refusal shows, in characters.
const SHOWN_CHARACTERS: usize = 64;

/// What of a foreign text a refusal shows.
pub(super) fn shown(text: &str) -> String {
    text.chars().take(SHOWN_CHARACTERS).collect()
}

/// Longest reason of a reader of JSON that is kept, in characters: it can hold names from the envelope.
const REASON_CHARACTERS: usize = 256;

/// An action that is not run.
#[derive(Debug, Clone)]
pub struct Refused {
    /// Why.
    pub refusal: Refusal,
    /// Its id, when it could be read. Proven only when there are signers.
    pub action: Option<ActionId>,
    /// Names of those who signed it. None: the signatures are not good, or were not looked at; what the envelope
    /// says may come from anybody, and deserves no answer.
    pub signers: Vec<String>,
    /// What they asked. None where nobody signed it.
    pub asked: Option<Box<Asked>>,
}

impl Refused {
    /// The refusal of what nobody is proved to have signed.
    pub(super) fn unproved(refusal: Refusal, action: Option<ActionId>) -> Self {
        Self { refusal, action, signers: Vec::new(), asked: None }
    }

    /// The refusal of an action that these have signed.
    #[must_use]
    pub fn of(refusal: Refusal, action: &Action, signers: &[String]) -> Self {
        let asked = Some(Box::new(Asked::of(action)));
        Self { refusal, action: Some(action.id.clone()), signers: signers.to_vec(), asked }
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.action {
            Some(action) => write!(f, "action {action} is refused ({})", self.refusal.code()),
            None => write!(f, "an action is refused ({})", self.refusal.code()),
        }
    }
}

impl std::error::Error for Refused {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.refusal)
    }
}

/// Why an action is not run.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// More than is looked at.
    #[error("{what} is {found}, but at most {limit} is allowed: send several actions")]
    TooLarge {
        /// Of what.
        what: &'static str,
        /// How much.
        found: usize,
        /// The limit.
        limit: usize,
    },
    /// Not an envelope with an action.
    #[error("the action cannot be read: {0}")]
    Malformed(String),
    /// A field that this version does not have: it might be a condition, so it is not passed over.
    #[error("the action has an unknown field: {0}")]
    UnknownField(String),
    /// Of a later form.
    #[error("the action has version {0}, but this agent knows {version}: update the agent", version = crate::action::VERSION)]
    UnknownVersion(u64),
    /// For another fleet.
    #[error("the action is for the fleet {found:?}, but this agent belongs to {wanted:?}")]
    WrongOrg {
        /// Whose it is.
        found: String,
        /// The agent's.
        wanted: String,
    },
    /// The agent has no policy yet, so nobody may ask anything.
    #[error("this agent has no policy: publish one that the pinned root keys have signed")]
    NoPolicy,
    /// Nobody signed.
    #[error("the action is not signed: use `vigie fleet sign`")]
    NoSignature,
    /// More signatures than are looked at.
    #[error("the action has {0} signatures, but at most {max} are allowed", max = crate::action::MAX_SIGNATURES)]
    TooManySignatures(usize),
    /// A signature cannot be read, or was made by another key or over something else.
    #[error("a signature is not valid: {0}")]
    BadSignature(SignatureError),
    /// A signature was made for something else.
    #[error(
        "a signature is for the namespace {found:?} instead of {wanted:?}: sign with ssh-keygen -Y sign -n {wanted}"
    )]
    WrongNamespace {
        /// What it was made for.
        found: String,
        /// What it must have been made for.
        wanted: String,
    },
    /// The policy does not list the key.
    #[error("the key {0} belongs to no investigator in the policy")]
    UnknownKey(Fingerprint),
    /// The policy revokes the key.
    #[error("the key {0} is revoked: sign with another one")]
    RevokedKey(Fingerprint),
    /// The policy lists the key for another time.
    #[error("the key {key} of {investigator:?} is not valid at this time: see its not_before and not_after")]
    KeyNotValidNow {
        /// The key.
        key: Fingerprint,
        /// Whose it is.
        investigator: String,
    },
    /// Two signatures by one key.
    #[error("the key {0} signed twice: another person must sign")]
    SameKeyTwice(Fingerprint),
    /// The token was not touched.
    #[error("the security token with the key {0} was not touched, but the policy requires it")]
    NoTouch(Fingerprint),
    /// Too late.
    #[error("the action expired at {not_after}; it is now {now} (seconds since 1970): sign a new one")]
    Expired {
        /// Until when.
        not_after: i64,
        /// The agent's clock.
        now: i64,
    },
    /// Too early.
    #[error(
        "the action is not valid before {not_before}; it is now {now} (seconds since 1970): compare both clocks"
    )]
    NotYetValid {
        /// From when.
        not_before: i64,
        /// The agent's clock.
        now: i64,
    },
    /// It may be begun for longer than the policy allows.
    #[error(
        "the action is valid for {seconds} s, but the policy allows {limit} s: choose an earlier not_after"
    )]
    WindowTooLong {
        /// Validity.
        seconds: i64,
        /// The limit.
        limit: u32,
    },
    /// It was run before, or it may have been.
    #[error("the action was already run here: sign a new one to run it again")]
    Replayed,
    /// The target is none; it is true for nobody.
    #[error("the target cannot be evaluated: {0}")]
    BadTarget(String),
    /// It is for others.
    #[error("the action is not for this agent")]
    NotTargeted,
    /// The agent does not have the module.
    #[error("this agent has no module {0:?} that can be queried")]
    UnknownModule(String),
    /// The policy lets nobody ask the module.
    #[error("the policy has neither a rule for the module {0:?} nor a default rule")]
    NoRule(String),
    /// More people must sign, or others.
    #[error(
        "the signers' weight for the module {module:?} is {weight}, but {minimum} is required: add signatures"
    )]
    TooLittleWeight {
        /// The module.
        module: String,
        /// The sum of the signers' weights.
        weight: u64,
        /// The rule's minimum.
        minimum: u32,
    },
    /// It wants to use more than the policy allows.
    #[error("limits.{what} of the action is {found}, the policy allows 1 to {limit}")]
    OverLimits {
        /// Which limit.
        what: &'static str,
        /// What it wants.
        found: u64,
        /// What it may have.
        limit: u64,
    },
    /// Nobody who signed may sign standing questions.
    #[error("no signer may sign standing queries (standing in the policy): another person must sign")]
    NoStanding,
    /// It is to be run more often than the policy allows.
    #[error("the query repeats every {found} s, but the policy requires at least {limit} s")]
    TooOften {
        /// What it wants.
        found: u32,
        /// What it may have.
        limit: u32,
    },
    /// It may have been run by a state of the agent that is gone. Decided by whoever runs actions.
    #[error(
        "an older copy of the agent's state was restored (noticed at {noticed}, seconds since 1970), so it cannot know whether \
         it ran this action: sign a new one that is not valid before {}", noticed.saturating_add(super::SKEW_SECONDS + 1)
    )]
    StateReverted {
        /// When the agent noticed.
        noticed: i64,
    },
    /// The agent has enough to do. Decided by whoever runs actions.
    #[error("the agent accepts no more actions at present ({0}): try again later")]
    Busy(String),
}

impl Refusal {
    /// All codes, in the order of the checks.
    pub const ALL: [&'static str; 29] = [
        "too_large",
        "malformed",
        "unknown_field",
        "unknown_version",
        "wrong_org",
        "no_policy",
        "no_signature",
        "too_many_signatures",
        "bad_signature",
        "wrong_namespace",
        "revoked_key",
        "unknown_key",
        "key_not_valid_now",
        "same_key_twice",
        "no_touch",
        "expired",
        "not_yet_valid",
        "window_too_long",
        "replayed",
        "not_targeted",
        "bad_target",
        "unknown_module",
        "no_rule",
        "too_little_weight",
        "over_limits",
        "no_standing",
        "too_often",
        STATE_REVERTED,
        "busy",
    ];

    /// Its code: stable, for programs, counters and audit records.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::TooLarge { .. } => "too_large",
            Self::Malformed(_) => "malformed",
            Self::UnknownField(_) => "unknown_field",
            Self::UnknownVersion(_) => "unknown_version",
            Self::WrongOrg { .. } => "wrong_org",
            Self::NoPolicy => "no_policy",
            Self::NoSignature => "no_signature",
            Self::TooManySignatures(_) => "too_many_signatures",
            Self::BadSignature(_) => "bad_signature",
            Self::WrongNamespace { .. } => "wrong_namespace",
            Self::RevokedKey(_) => "revoked_key",
            Self::UnknownKey(_) => "unknown_key",
            Self::KeyNotValidNow { .. } => "key_not_valid_now",
            Self::SameKeyTwice(_) => "same_key_twice",
            Self::NoTouch(_) => "no_touch",
            Self::Expired { .. } => "expired",
            Self::NotYetValid { .. } => "not_yet_valid",
            Self::WindowTooLong { .. } => "window_too_long",
            Self::Replayed => "replayed",
            Self::NotTargeted => "not_targeted",
            Self::BadTarget(_) => "bad_target",
            Self::UnknownModule(_) => "unknown_module",
            Self::NoRule(_) => "no_rule",
            Self::TooLittleWeight { .. } => "too_little_weight",
            Self::OverLimits { .. } => "over_limits",
            Self::NoStanding => "no_standing",
            Self::TooOften { .. } => "too_often",
            Self::StateReverted { .. } => STATE_REVERTED,
            Self::Busy(_) => "busy",
        }
    }

    /// The refusal of what serde could not read.
    pub(super) fn of_json(error: &serde_json::Error) -> Self {
        let reason: String = error.to_string().chars().take(REASON_CHARACTERS).collect();
        // serde gives no kind for this; a test holds its words.
        if reason.starts_with("unknown field") { Self::UnknownField(reason) } else { Self::Malformed(reason) }
    }
}
