//! Names that become parts of subjects and of file names, and so are let through in one form only.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Longest name of an agent or a group, in bytes.
pub const MAX_NAME_BYTES: usize = 64;

/// Characters of an action's id.
const ACTION_ID_CHARACTERS: usize = 32;

/// A text that cannot be a name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadName {
    /// Not the name of an agent or a group.
    #[error(
        "{0:?} is not a name for an agent or a group (1 to 64 letters, digits, - and _, starting with a letter or digit)"
    )]
    Name(String),
    /// Not the id of an action.
    #[error("{0:?} is not the id of an action (32 lower-case hexadecimal digits)")]
    ActionId(String),
}

/// What of a bad text an error shows.
fn shown(text: &str) -> String {
    text.chars().take(MAX_NAME_BYTES).collect()
}

fn is_name(text: &str) -> bool {
    (1..=MAX_NAME_BYTES).contains(&text.len())
        && text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
}

/// The name of an agent, unique in its fleet. It is one token of NATS subjects, so it holds no dot.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct AgentId(String);

/// The name of a group of agents; the same form as [`AgentId`].
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct GroupName(String);

/// The id of an action: 128 random bits.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ActionId(String);

impl ActionId {
    /// The id made of random bytes, which the caller draws.
    #[must_use]
    pub fn from_random(bytes: [u8; 16]) -> Self {
        Self(data_encoding::HEXLOWER.encode(&bytes))
    }
}

macro_rules! name_type {
    ($type:ident, $is_good:expr, $error:expr) => {
        impl $type {
            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl TryFrom<String> for $type {
            type Error = BadName;

            fn try_from(text: String) -> Result<Self, BadName> {
                if $is_good(&text) { Ok(Self(text)) } else { Err($error(shown(&text))) }
            }
        }

        impl FromStr for $type {
            type Err = BadName;

            fn from_str(text: &str) -> Result<Self, BadName> {
                Self::try_from(text.to_owned())
            }
        }

        impl From<$type> for String {
            fn from(name: $type) -> Self {
                name.0
            }
        }
    };
}

name_type!(AgentId, is_name, BadName::Name);
name_type!(GroupName, is_name, BadName::Name);
name_type!(
    ActionId,
    |text: &str| text.len() == ACTION_ID_CHARACTERS
        && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')),
    BadName::ActionId
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_one_token_of_a_subject() {
        for good in ["web-1", "a", "0", "DB_7", &"x".repeat(64)] {
            assert!(good.parse::<AgentId>().is_ok(), "{good}");
        }
        for bad in ["", "-a", "a.b", "a b", "*", ">", "é", "a\n", &"x".repeat(65)] {
            assert!(bad.parse::<AgentId>().is_err(), "{bad}");
        }
    }

    #[test]
    fn an_action_id_is_its_random_bytes() {
        let id = ActionId::from_random([0xab; 16]);
        assert_eq!(id.as_str(), "ab".repeat(16));
        assert_eq!(id.as_str().parse(), Ok(id.clone()));
        assert!("AB".repeat(16).parse::<ActionId>().is_err());
    }
}
