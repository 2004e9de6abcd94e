//! The document: its form and what makes it contradict itself.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use sha2::Digest as _;

use super::{MAX_POLICY_BYTES, MAX_STANDING_SECONDS, MAX_WINDOW_SECONDS, PolicyError, VERSION};
use crate::broker::client::address::Address;
use crate::signature::{Fingerprint, PublicKey};

/// Name of the rule for modules that have none of their own.
pub const DEFAULT_RULE: &str = "default";

/// Most root keys.
const MAX_ROOTS: usize = 16;
/// Most keys that enrol agents.
const MAX_ENROLMENT_KEYS: usize = 64;
/// Most keys of one investigator.
const MAX_KEYS: usize = 16;
/// Most addresses of brokers.
const MAX_BROKERS: usize = 16;
/// Longest address, in bytes.
const MAX_ADDRESS_BYTES: usize = 256;
/// Longest name, in bytes.
const MAX_NAME_BYTES: usize = 64;
/// Most packs of all modules together.
const MAX_PACKS: usize = 64;
/// Most bytes of all packs together: half of a policy.
const MAX_PACK_BYTES: usize = MAX_POLICY_BYTES / 2;

/// What a policy has for modules: by module and name, texts of which only the module knows the form.
pub type Packs = BTreeMap<String, BTreeMap<String, String>>;

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
    /// Where the brokers are, `tls://HOST:PORT`, up to 16. Agents try them before those of their configuration, which
    /// they fall back to.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub brokers: Vec<String>,
    /// Who may have agents ask something again and again; absent: nobody.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub standing: Option<StandingRule>,
    /// Texts for modules, such as rules of `events`: signed with the policy, in force with it and gone with it. Up to
    /// 64, together half of the policy's size.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub packs: Packs,
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

/// Who may sign standing questions, and how much of an agent they may take.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StandingRule {
    /// Investigators, and groups with `@` before them. One of the signers must be among them; the rules of the
    /// modules hold beside it.
    pub investigators: BTreeSet<String>,
    /// Shortest time between two runs, in seconds: 5 to 86,400, default 60.
    #[serde(default = "default_every")]
    pub min_seconds: u32,
    /// Most standing questions of an agent: 1 to 64, default 16.
    #[serde(default = "default_questions")]
    pub questions: u32,
    /// Longest life of one, in seconds: 60 to `MAX_STANDING_SECONDS`, default 30 days.
    #[serde(default = "default_standing")]
    pub max_window_seconds: u32,
}

fn default_every() -> u32 {
    60
}

fn default_questions() -> u32 {
    16
}

fn default_standing() -> u32 {
    30 * 24 * 60 * 60
}

impl StandingRule {
    /// The rule that lets these ask, with the bounds that hold when nothing else is said.
    #[must_use]
    pub fn of(investigators: BTreeSet<String>) -> Self {
        Self {
            investigators,
            min_seconds: default_every(),
            questions: default_questions(),
            max_window_seconds: default_standing(),
        }
    }

    fn check(&self) -> Result<(), PolicyError> {
        in_range("standing.min_seconds", self.min_seconds, 5..=86_400, "5 to 86,400")?;
        in_range("standing.questions", self.questions, 1..=64, "1 to 64")?;
        in_range(
            "standing.max_window_seconds",
            self.max_window_seconds,
            60..=MAX_STANDING_SECONDS,
            "60 to 7,776,000",
        )
    }
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
        if let Some(standing) = &self.standing {
            standing.check()?;
        }
        self.addresses()?;
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
        self.check_packs()?;
        let keys = self.check_investigators()?;
        self.check_rules()?;
        Ok(keys)
    }

    /// The addresses of the brokers.
    ///
    /// # Errors
    ///
    /// They are too many, or one is no address, or not encrypted and not on this machine.
    pub fn addresses(&self) -> Result<Vec<Address>, PolicyError> {
        in_range("the number of brokers", count(self.brokers.len()), 0..=count(MAX_BROKERS), "0 to 16")?;
        let address = |text: &String| {
            let bad = || PolicyError::BadBroker(text.chars().take(MAX_ADDRESS_BYTES).collect());
            let address: Address = Some(text)
                .filter(|text| text.len() <= MAX_ADDRESS_BYTES)
                .ok_or_else(bad)?
                .parse()
                .map_err(|_| bad())?;
            if address.tls || address.is_local() { Ok(address) } else { Err(bad()) }
        };
        self.brokers.iter().map(address).collect()
    }

    fn check_packs(&self) -> Result<(), PolicyError> {
        for (module, packs) in &self.packs {
            check_name(module)?;
            packs.keys().try_for_each(|name| check_name(name))?;
        }
        let all = || self.packs.values().flat_map(BTreeMap::values);
        in_range("the number of packs", count(all().count()), 0..=count(MAX_PACKS), "0 to 64")?;
        let bytes = all().map(String::len).sum();
        in_range("bytes of all packs", count(bytes), 0..=count(MAX_PACK_BYTES), "0 to 131,072")
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
        let check = |rule: &str, named: &String| {
            let known = match named.strip_prefix('@') {
                Some(group) => groups.contains(group),
                None => self.investigators.contains_key(named),
            };
            if known {
                return Ok(());
            }
            let name = named.chars().take(MAX_NAME_BYTES).collect();
            Err(PolicyError::UnknownInvestigator { rule: rule.to_owned(), name })
        };
        for (name, rule) in &self.acl {
            check_name(name)?;
            let what = format!("minimum_weight of the rule for {name:?}");
            in_range(&what, rule.minimum_weight, 1..=u32::MAX, "1 and more")?;
            rule.investigators.keys().try_for_each(|named| check(name, named))?;
        }
        let standing = self.standing.iter().flat_map(|standing| &standing.investigators);
        standing.into_iter().try_for_each(|named| check("standing questions", named))
    }
}
