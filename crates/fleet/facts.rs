//! What an agent says of itself, and what targets are evaluated against.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use vigie_protocol::names::{AgentId, GroupName};

/// Longest JSON of facts in bytes. Facts within the other limits always fit.
pub(crate) const MAX_JSON_BYTES: usize = 64 * 1024;

/// Longest text of a fact in bytes: a host name in DNS has at most 253.
pub(crate) const MAX_FACT_BYTES: usize = 256;

/// Longest name of a tag or module in bytes.
pub const MAX_KEY_BYTES: usize = 64;

/// Most modules of an agent.
pub const MAX_MODULES: usize = 64;

/// Most addresses of an agent.
pub const MAX_ADDRESSES: usize = 256;

/// Most tags of an agent.
pub const MAX_TAGS: usize = 64;

/// Most groups of an agent.
pub const MAX_GROUPS: usize = 64;

/// Facts that cannot be taken.
#[derive(Debug, thiserror::Error)]
pub enum FactsError {
    /// More bytes than `MAX_JSON_BYTES`.
    #[error("facts of {0} bytes; at most {MAX_JSON_BYTES} are taken")]
    TooLarge(usize),
    /// Not the JSON of [`Facts`].
    #[error("facts are not readable")]
    Unreadable(#[source] serde_json::Error),
    /// A text that is longer than `MAX_FACT_BYTES`.
    #[error("fact {name} has {bytes} bytes; at most {MAX_FACT_BYTES} are allowed")]
    TextTooLong {
        /// The fact.
        name: String,
        /// Its length.
        bytes: usize,
    },
    /// A text with a control character.
    #[error("fact {name} holds the control character {character:?}")]
    ControlCharacter {
        /// The fact.
        name: String,
        /// The character.
        character: char,
    },
    /// A name that no tag can have.
    #[error("{0:?} is not the name of a tag (1 to {MAX_KEY_BYTES} letters, digits, -, _ and .)")]
    BadTagName(String),
    /// A name that no module can have.
    #[error("{0:?} is not the name of a module (1 to {MAX_KEY_BYTES} bytes)")]
    BadModuleName(String),
    /// A list with too many items.
    #[error("fact {name} has {count} items; at most {limit} are allowed")]
    TooMany {
        /// The fact.
        name: &'static str,
        /// How many there are.
        count: usize,
        /// How many are allowed.
        limit: usize,
    },
}

/// Whether a tag can have this name: then a target can ask for it.
#[must_use]
pub(crate) fn is_tag_name(name: &str) -> bool {
    (1..=MAX_KEY_BYTES).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'))
}

/// The facts of one agent. In a [`crate::predicate`] they have the names in backquotes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    /// `agent`: its name in the fleet.
    pub agent: AgentId,
    /// `hostname`
    pub hostname: String,
    /// `os`: `linux`
    pub os: String,
    /// `os.id`: `ID` of os-release(5), such as `debian`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub os_id: Option<String>,
    /// `os.version`: `VERSION_ID` of os-release(5), such as `12`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub os_version: Option<String>,
    /// `arch`: as Go names it, such as `amd64`; MIG's investigators know it so.
    pub arch: String,
    /// `kernel`: release of the kernel, uname(2).
    pub kernel: String,
    /// `agent.version`
    pub agent_version: String,
    /// `module`: names of the modules that can be asked.
    #[serde(default)]
    pub modules: Vec<String>,
    /// `addr`: addresses of the host, without loopback.
    #[serde(default)]
    pub addresses: Vec<IpAddr>,
    /// `tag.NAME`: labels that the host's configuration gives it.
    #[serde(default)]
    pub tags: BTreeMap<String, String>,
    /// `group`: groups that the host's configuration puts it in.
    #[serde(default)]
    pub groups: Vec<GroupName>,
}

impl Facts {
    /// Reads the facts that somebody else sent.
    ///
    /// # Errors
    /// When they are not facts, or beyond a limit; see [`Facts::check`].
    pub fn from_json(json: &[u8]) -> Result<Self, FactsError> {
        if json.len() > MAX_JSON_BYTES {
            return Err(FactsError::TooLarge(json.len()));
        }
        let facts: Self = serde_json::from_slice(json).map_err(FactsError::Unreadable)?;
        facts.check()?;
        Ok(facts)
    }

    /// Checks every number and length. An agent that cannot be read by others has to know itself.
    ///
    /// # Errors
    /// Names the first fact that is beyond its limit.
    pub fn check(&self) -> Result<(), FactsError> {
        let texts = [
            ("hostname", Some(&self.hostname)),
            ("os", Some(&self.os)),
            ("os.id", self.os_id.as_ref()),
            ("os.version", self.os_version.as_ref()),
            ("arch", Some(&self.arch)),
            ("kernel", Some(&self.kernel)),
            ("agent.version", Some(&self.agent_version)),
        ];
        for (name, text) in texts {
            check_text(text.map_or("", String::as_str), || name.to_owned())?;
        }
        let lists = [
            ("module", self.modules.len(), MAX_MODULES),
            ("addr", self.addresses.len(), MAX_ADDRESSES),
            ("tag", self.tags.len(), MAX_TAGS),
            ("group", self.groups.len(), MAX_GROUPS),
        ];
        for (name, count, limit) in lists {
            if count > limit {
                return Err(FactsError::TooMany { name, count, limit });
            }
        }
        for module in &self.modules {
            if !(1..=MAX_KEY_BYTES).contains(&module.len()) {
                return Err(FactsError::BadModuleName(shown(module)));
            }
            check_text(module, || "module".to_owned())?;
        }
        for (name, value) in &self.tags {
            if !is_tag_name(name) {
                return Err(FactsError::BadTagName(shown(name)));
            }
            check_text(value, || format!("tag.{name}"))?;
        }
        Ok(())
    }
}

fn check_text(text: &str, name: impl Fn() -> String) -> Result<(), FactsError> {
    if text.len() > MAX_FACT_BYTES {
        return Err(FactsError::TextTooLong { name: name(), bytes: text.len() });
    }
    match text.chars().find(|c| c.is_control()) {
        Some(character) => Err(FactsError::ControlCharacter { name: name(), character }),
        None => Ok(()),
    }
}

/// What of a bad name an error shows.
fn shown(text: &str) -> String {
    text.chars().take(MAX_KEY_BYTES).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SMALLEST: &str = r#"{"agent":"a","hostname":"h","os":"linux","arch":"amd64","kernel":"6.1.0","agent_version":"0.1.0"}"#;

    fn smallest() -> Facts {
        Facts::from_json(SMALLEST.as_bytes()).unwrap()
    }

    fn error_of(facts: &Facts) -> String {
        Facts::from_json(&serde_json::to_vec(facts).unwrap()).unwrap_err().to_string()
    }

    #[test]
    fn facts_keep_their_form() {
        let mut facts = smallest();
        facts.os_id = Some("debian".to_owned());
        facts.modules = vec!["file".to_owned()];
        facts.addresses = vec!["192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap()];
        facts.tags.insert("env".to_owned(), "prod".to_owned());
        facts.groups = vec!["web".parse().unwrap()];

        let json = r#"{"agent":"a","hostname":"h","os":"linux","os_id":"debian","arch":"amd64","kernel":"6.1.0","agent_version":"0.1.0","modules":["file"],"addresses":["192.0.2.1","2001:db8::1"],"tags":{"env":"prod"},"groups":["web"]}"#;
        assert_eq!(serde_json::to_string(&facts).unwrap(), json);
        assert_eq!(Facts::from_json(json.as_bytes()).unwrap(), facts);
    }

    #[test]
    fn a_field_of_a_later_version_is_left_alone() {
        let later = SMALLEST.replacen('{', r#"{"cloud":{"region":"x"},"#, 1);
        assert_eq!(Facts::from_json(later.as_bytes()).unwrap(), smallest());
    }

    #[test]
    fn each_limit_has_its_error() {
        let facts = Facts { hostname: "h".repeat(257), ..smallest() };
        assert_eq!(error_of(&facts), "fact hostname has 257 bytes; at most 256 are allowed");

        let facts = Facts { os_id: Some("a\u{1b}[31m".to_owned()), ..smallest() };
        assert_eq!(error_of(&facts), "fact os.id holds the control character '\\u{1b}'");

        let facts = Facts { modules: vec!["m".to_owned(); 65], ..smallest() };
        assert_eq!(error_of(&facts), "fact module has 65 items; at most 64 are allowed");

        let facts = Facts { modules: vec![String::new()], ..smallest() };
        assert_eq!(error_of(&facts), "\"\" is not the name of a module (1 to 64 bytes)");

        let facts = Facts { addresses: vec!["::1".parse().unwrap(); 257], ..smallest() };
        assert_eq!(error_of(&facts), "fact addr has 257 items; at most 256 are allowed");

        let facts = Facts { groups: vec!["g".parse().unwrap(); 65], ..smallest() };
        assert_eq!(error_of(&facts), "fact group has 65 items; at most 64 are allowed");

        let tags = |name: &str, value: &str| [(name.to_owned(), value.to_owned())].into();
        let facts = Facts { tags: tags("a b", "x"), ..smallest() };
        assert_eq!(
            error_of(&facts),
            "\"a b\" is not the name of a tag (1 to 64 letters, digits, -, _ and .)"
        );

        let facts = Facts { tags: tags("a", &"x".repeat(257)), ..smallest() };
        assert_eq!(error_of(&facts), "fact tag.a has 257 bytes; at most 256 are allowed");

        let facts = Facts { tags: (0..65).map(|i| (format!("t{i}"), String::new())).collect(), ..smallest() };
        assert_eq!(error_of(&facts), "fact tag has 65 items; at most 64 are allowed");

        let large = [SMALLEST.as_bytes(), &vec![b' '; MAX_JSON_BYTES]].concat();
        assert!(matches!(Facts::from_json(&large), Err(FactsError::TooLarge(_))));
        assert!(matches!(Facts::from_json(b"[1]"), Err(FactsError::Unreadable(_))));
    }

    #[test]
    fn facts_within_their_limits_fit() {
        // A quotation mark takes two bytes in JSON.
        let longest = "\"".repeat(MAX_FACT_BYTES);
        let numbered = |i: usize, width: usize| format!("{i:0>width$}");
        let facts = Facts {
            agent: "a".repeat(64).parse().unwrap(),
            hostname: longest.clone(),
            os: longest.clone(),
            os_id: Some(longest.clone()),
            os_version: Some(longest.clone()),
            arch: longest.clone(),
            kernel: longest.clone(),
            agent_version: longest.clone(),
            modules: vec!["\"".repeat(MAX_KEY_BYTES); MAX_MODULES],
            addresses: vec!["1111:2222:3333:4444:5555:6666:7777:8888".parse().unwrap(); MAX_ADDRESSES],
            tags: (0..MAX_TAGS).map(|i| (numbered(i, MAX_KEY_BYTES), longest.clone())).collect(),
            groups: (0..MAX_GROUPS).map(|i| numbered(i, 64).parse().unwrap()).collect(),
        };

        let json = serde_json::to_vec(&facts).unwrap();

        assert!(json.len() <= MAX_JSON_BYTES, "{}", json.len());
        assert_eq!(Facts::from_json(&json).unwrap(), facts);
    }

    proptest! {
        #[test]
        fn any_bytes_are_facts_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Facts::from_json(&bytes);
        }
    }
}
