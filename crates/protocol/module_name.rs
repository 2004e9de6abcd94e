//! The names of modules.

use serde::{Deserialize, Serialize};

/// A module's name: 1 to 32 lower-case letters, digits, `-` and `_`, starting with a letter. It becomes part of
/// file names, so nothing else is let through.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ModuleName(String);

/// A text that cannot be a module's name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a module name (1 to 32 lower-case letters, digits, - and _, starting with a letter)")]
pub struct BadModuleName(String);

impl ModuleName {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Display for ModuleName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for ModuleName {
    type Error = BadModuleName;

    fn try_from(text: String) -> Result<Self, BadModuleName> {
        let good = (1..=32).contains(&text.len())
            && text.starts_with(|c: char| c.is_ascii_lowercase())
            && text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '_');
        if good { Ok(Self(text)) } else { Err(BadModuleName(text.chars().take(64).collect())) }
    }
}

impl std::str::FromStr for ModuleName {
    type Err = BadModuleName;

    fn from_str(text: &str) -> Result<Self, BadModuleName> {
        Self::try_from(text.to_owned())
    }
}

impl From<ModuleName> for String {
    fn from(name: ModuleName) -> Self {
        name.0
    }
}
