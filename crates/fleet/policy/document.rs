//! The document: its form and what makes it contradict itself.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use sha2::Digest as _;

use super::{MAX_POLICY_BYTES, MAX_WINDOW_SECONDS, PolicyError, VERSION};
use crate::signature::{Fingerprint, PublicKey};

/// Name of the rule for modules that have none of their own.
pub const DEFAULT_RULE: &str = "default";

/// Most root keys.
const MAX_ROOTS: usize = 16;
/// Most keys that enrol agents.
const MAX_ENROLMENT_KEYS: usize = 64;
/// Most keys of one investigator.
const MAX_KEYS: usize = 16;
/// Longest name, in bytes.
const MAX_NAME_BYTES: usize = 64;

/// The policy of a fleet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PolicyDocument {
    /// Always [`VERSION`].
    pub v: u8,
    /// Name of the fleet.
    pub org: String,
    /// Version of the content, from 1; each new policy has a higher one.
    pub version: u64,
    /// When it should have been replaced, in seconds since 1970 (UTC). After that agents keep it and warn.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<i64>,
    /// Who signs the next version.
    pub roots: Roots,
    /// Keys that may say which key an agent has.
    #[serde(default)]
    pub enrolment: Vec<PublicKey>,
    /// Who may sign actions, by name.
    #[serde(default)]
    pub investigators: BTreeMap<String, Investigator>,
    /// What it takes to ask a module, by its name; [`DEFAULT_RULE`] for the others.
    #[serde(default)]
    pub acl: BTreeMap<String, Rule>,
    /// Keys that are not to be trusted any more, wherever they are listed.
    #[serde(default)]
    pub revoked: Vec<Fingerprint>,
    /// Longest time during which an action may be begun, in seconds: 1 to [`MAX_WINDOW_SECONDS`], the default.
    #[serde(default = "default_window")]
    pub max_window_seconds: u32,
    /// What an action may use on each agent.
    #[serde(default)]
    pub limits: PolicyLimits,
}

fn default_window() -> u32 {
    MAX_WINDOW_SECONDS
}

/// Root keys, and how many of them must sign.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Roots {
    /// The keys, 1 to 16, as they stand in `.pub` files.
    pub keys: Vec<PublicKey>,
    /// How many distinct ones must sign; 2 or more, so that one stolen key is not enough.
    pub threshold: u32,
}

impl Roots {
    /// A short name of these keys, for the files of a fleet.
    #[must_use]
    pub fn digest(&self) -> String {
        let mut keys: Vec<String> = self.keys.iter().map(|key| key.fingerprint().to_string()).collect();
        keys.sort();
        data_encoding::HEXLOWER.encode(&sha2::Sha256::digest(keys.join("\n"))[..8])
    }
}

/// Somebody who may sign actions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Investigator {
    /// His keys, up to 16.
    pub keys: Vec<InvestigatorKey>,
    /// Groups that he is in; rules name them with `@` in front.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<String>,
}

/// A key of an investigator.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InvestigatorKey {
    /// The key, as it stands in a `.pub` file.
    pub key: PublicKey,
    /// First moment at which it is taken, in seconds since 1970 (UTC).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_before: Option<i64>,
    /// Last moment at which it is taken, in seconds since 1970 (UTC).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_after: Option<i64>,
    /// Somebody must touch the token for each signature. For keys in a token only.
    #[serde(default)]
    pub touch: bool,
}

/// What it takes to ask a module.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// What the weights of the signers must come to, at least 1. Two with weights of 1: two people must sign.
    pub minimum_weight: u32,
    /// Weights of investigators, and of groups by `@` and their name. A name goes before a group, and 0 takes
    /// somebody out.
    pub investigators: BTreeMap<String, u32>,
}

/// What an action may use on each agent at most, and what it gets when it does not say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PolicyLimits {
    /// Time for all operations together, in seconds: 1 to 86,400, default 300.
    pub seconds: u32,
    /// Size of the whole answer in bytes: 1 KiB to 1 GiB, default 16 MiB.
    pub bytes: u64,
}

impl Default for PolicyLimits {
    fn default() -> Self {
        Self { seconds: 300, bytes: 16 * 1024 * 1024 }
    }
}

fn in_range<T: Into<u64> + PartialOrd>(
    what: &str,
    found: T,
    range: std::ops::RangeInclusive<T>,
    allowed: &'static str,
) -> Result<(), PolicyError> {
    if range.contains(&found) {
        return Ok(());
    }
    Err(PolicyError::OutOfRange { what: what.to_owned(), found: found.into(), allowed })
}

fn count(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}

fn check_name(name: &str) -> Result<(), PolicyError> {
    let good = (1..=MAX_NAME_BYTES).contains(&name.len())
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_+@".contains(&byte));
    if good { Ok(()) } else { Err(PolicyError::BadName(name.chars().take(MAX_NAME_BYTES).collect())) }
}

impl Roots {
    /// Sees whether they can be used.
    ///
    /// # Errors
    ///
    /// There are none or too many, one is listed twice, or the threshold cannot be reached.
    pub fn check(&self) -> Result<(), PolicyError> {
        let keys = count(self.keys.len());
        in_range("the number of root keys", keys, 1..=count(MAX_ROOTS), "1 to 16")?;
        in_range("the threshold of root keys", self.threshold.into(), 1..=keys, "1 to their number")?;
        Places::default().add_all(&self.keys, "the root keys")
    }
}

/// Where each key was seen.
#[derive(Default)]
struct Places(BTreeMap<Fingerprint, String>);

impl Places {
    fn add(&mut self, key: &PublicKey, place: &str) -> Result<(), PolicyError> {
        match self.0.insert(key.fingerprint().clone(), place.to_owned()) {
            None => Ok(()),
            Some(first) => Err(PolicyError::SameKeyTwice {
                key: key.fingerprint().clone(),
                first,
                second: place.to_owned(),
            }),
        }
    }

    fn add_all(&mut self, keys: &[PublicKey], place: &str) -> Result<(), PolicyError> {
        keys.iter().try_for_each(|key| self.add(key, place))
    }
}

impl PolicyDocument {
    /// Reads the JSON of a policy; its content is not looked at.
    ///
    /// # Errors
    ///
    /// It is too large, of another form or of a later one.
    pub fn parse(text: &str) -> Result<Self, PolicyError> {
        #[derive(Deserialize)]
        struct Head {
            v: u64,
        }

        if text.len() > MAX_POLICY_BYTES {
            return Err(PolicyError::TooLarge { bytes: text.len(), limit: MAX_POLICY_BYTES });
        }
        let malformed = |error: serde_json::Error| PolicyError::Malformed(error.to_string());
        // First: a later form may have other fields.
        let Head { v } = serde_json::from_str(text).map_err(malformed)?;
        if v != u64::from(VERSION) {
            return Err(PolicyError::UnknownVersion(v));
        }
        serde_json::from_str(text).map_err(malformed)
    }

    /// Checks the content and gives whose key each key is.
    pub(super) fn check(&self) -> Result<BTreeMap<Fingerprint, (String, usize)>, PolicyError> {
        in_range("the version", self.version, 1..=u64::MAX, "1 and more")?;
        in_range("max_window_seconds", self.max_window_seconds, 1..=MAX_WINDOW_SECONDS, "1 to 86,400")?;
        in_range("limits.seconds", self.limits.seconds, 1..=86_400, "1 to 86,400")?;
        in_range("limits.bytes", self.limits.bytes, 1024..=1 << 30, "1,024 to 1,073,741,824")?;
        self.roots.check()?;
        if let Some(root) = self.roots.keys.iter().find(|root| self.revoked.contains(root.fingerprint())) {
            return Err(PolicyError::RevokedRoot(root.fingerprint().clone()));
        }
        in_range(
            "the number of enrolment keys",
            count(self.enrolment.len()),
            0..=count(MAX_ENROLMENT_KEYS),
            "0 to 64",
        )?;
        Places::default().add_all(&self.enrolment, "the enrolment keys")?;
        let keys = self.check_investigators()?;
        self.check_rules()?;
        Ok(keys)
    }

    fn check_investigators(&self) -> Result<BTreeMap<Fingerprint, (String, usize)>, PolicyError> {
        let mut places = Places::default();
        let mut keys = BTreeMap::new();
        for (name, investigator) in &self.investigators {
            check_name(name)?;
            investigator.groups.iter().try_for_each(|group| check_name(group))?;
            in_range(
                &format!("the number of keys of {name:?}"),
                count(investigator.keys.len()),
                0..=count(MAX_KEYS),
                "0 to 16",
            )?;
            for (place, InvestigatorKey { key, touch, .. }) in investigator.keys.iter().enumerate() {
                // One key of two people could count for either.
                places.add(key, name)?;
                if *touch && !key.is_token() {
                    return Err(PolicyError::TouchWithoutToken {
                        key: key.fingerprint().clone(),
                        investigator: name.clone(),
                    });
                }
                keys.insert(key.fingerprint().clone(), (name.clone(), place));
            }
        }
        Ok(keys)
    }

    fn check_rules(&self) -> Result<(), PolicyError> {
        let groups: BTreeSet<&str> =
            self.investigators.values().flat_map(|someone| &someone.groups).map(String::as_str).collect();
        for (name, rule) in &self.acl {
            check_name(name)?;
            let what = format!("minimum_weight of the rule for {name:?}");
            in_range(&what, rule.minimum_weight, 1..=u32::MAX, "1 and more")?;
            for named in rule.investigators.keys() {
                let known = match named.strip_prefix('@') {
                    Some(group) => groups.contains(group),
                    None => self.investigators.contains_key(named),
                };
                if !known {
                    return Err(PolicyError::UnknownInvestigator {
                        rule: name.clone(),
                        name: named.chars().take(MAX_NAME_BYTES).collect(),
                    });
                }
            }
        }
        Ok(())
    }
}
