//! The policy in force, as an agent keeps it over a restart.

use serde::{Deserialize, Serialize};

use super::{MAX_SIGNED_POLICY_BYTES, Policy, PolicyError, Roots, SignedPolicy, verify};

/// The policy in force, with the root keys that the configuration pinned when it was taken.
///
/// After a change of root keys the pinned ones have not signed it, so it is not checked against them again:
/// whoever can write an agent's state is root there. When the configuration pins other keys than it did, the
/// administrator has decided anew who is to be trusted, and they must have signed it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoredPolicy {
    /// What was pinned.
    pub pinned: Roots,
    /// The policy, as it arrived.
    pub signed: SignedPolicy,
}

impl StoredPolicy {
    /// Reads its JSON.
    ///
    /// # Errors
    ///
    /// It is too large or has another form.
    pub fn from_json(bytes: &[u8]) -> Result<Self, PolicyError> {
        // Beside the policy there are a few keys.
        let limit = MAX_SIGNED_POLICY_BYTES + 32 * 1024;
        if bytes.len() > limit {
            return Err(PolicyError::TooLarge { bytes: bytes.len(), limit });
        }
        serde_json::from_slice(bytes).map_err(|error| PolicyError::Malformed(error.to_string()))
    }

    /// The policy to be in force after a restart.
    ///
    /// # Errors
    ///
    /// Other keys are pinned by now and have not signed it, it is for another fleet, or it is damaged.
    pub fn restore(&self, pinned: &Roots, org: &str) -> Result<Policy, PolicyError> {
        if self.pinned == *pinned {
            Policy::parse_unsigned(&self.signed.policy, org)
        } else {
            verify(&self.signed, pinned, org)
        }
    }
}
