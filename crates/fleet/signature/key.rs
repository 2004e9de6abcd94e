//! The public keys that may sign, and their fingerprints.

use std::fmt;
use std::str::FromStr;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};
use ssh_key::HashAlg;

use super::shown;

/// Largest public key in OpenSSH's form, with its comment, in bytes.
pub const MAX_KEY_BYTES: usize = 1024;

/// Kinds of keys that may sign.
pub(super) const ALGORITHMS: [&str; 4] = [
    "ssh-ed25519",
    "sk-ssh-ed25519@openssh.com",
    "ecdsa-sha2-nistp256",
    "sk-ecdsa-sha2-nistp256@openssh.com",
];

/// What a fingerprint begins with, as `ssh-keygen -l` prints it.
const FINGERPRINT_PREFIX: &str = "SHA256:";

/// Why a key cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Not even looked at.
    #[error("a public key has {bytes} bytes, at most {MAX_KEY_BYTES} are read")]
    TooLarge {
        /// Its size.
        bytes: usize,
    },
    /// A certificate.
    #[error("{0:?} is an SSH certificate: sign with the plain key that it is for")]
    Certificate(String),
    /// A kind that is not allowed.
    #[error(
        "keys of the kind {0:?} are not allowed: use ed25519 or ecdsa-p256, with a token or without \
         (ssh-keygen -t ed25519)"
    )]
    Algorithm(String),
    /// Not a key.
    #[error("{0:?} is not a public key as it stands in a .pub file of OpenSSH")]
    Malformed(String),
    /// Not a fingerprint.
    #[error("{0:?} is not a fingerprint as `ssh-keygen -l` prints it (SHA256:…)")]
    Fingerprint(String),
}

/// Finds the kind among the allowed ones.
pub(super) fn allowed_algorithm(name: &str) -> Result<&'static str, KeyError> {
    if let Some(allowed) = ALGORITHMS.iter().find(|&&allowed| allowed == name) {
        return Ok(allowed);
    }
    Err(if name.contains("-cert-v") {
        KeyError::Certificate(shown(name))
    } else {
        KeyError::Algorithm(shown(name))
    })
}

/// The SHA-256 fingerprint of a public key, as `ssh-keygen -l` prints it: `SHA256:` and 43 characters of base64.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Fingerprint(String);

impl Fingerprint {
    /// The fingerprint as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for Fingerprint {
    type Error = KeyError;

    fn try_from(text: String) -> Result<Self, KeyError> {
        // What is not in canonical base64 would never be equal to the fingerprint of a key, and so revoke nothing.
        let good = text
            .strip_prefix(FINGERPRINT_PREFIX)
            .and_then(|digest| data_encoding::BASE64_NOPAD.decode(digest.as_bytes()).ok())
            .is_some_and(|digest| digest.len() == HashAlg::Sha256.digest_size());
        if good { Ok(Self(text)) } else { Err(KeyError::Fingerprint(shown(&text))) }
    }
}

impl FromStr for Fingerprint {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        Self::try_from(text.to_owned())
    }
}

impl From<Fingerprint> for String {
    fn from(fingerprint: Fingerprint) -> Self {
        fingerprint.0
    }
}

/// A public key of an allowed kind. Two are equal when the keys are; comments do not count.
#[derive(Debug, Clone, Serialize)]
#[serde(into = "String")]
pub struct PublicKey {
    key: ssh_key::PublicKey,
    fingerprint: Fingerprint,
    algorithm: &'static str,
}

impl PartialEq for PublicKey {
    fn eq(&self, other: &Self) -> bool {
        self.key.key_data() == other.key.key_data()
    }
}

impl Eq for PublicKey {}

impl PublicKey {
    /// Reads a line of a `.pub` file: kind, key in base64, comment if any.
    ///
    /// # Errors
    ///
    /// It is too large, not a key, or of a kind that is not allowed.
    pub fn parse(line: &str) -> Result<Self, KeyError> {
        if line.len() > MAX_KEY_BYTES {
            return Err(KeyError::TooLarge { bytes: line.len() });
        }
        let line = line.trim();
        let name = line.split_ascii_whitespace().next().unwrap_or_default();
        // Before the rest is read: it may be of a kind that the reader does not know.
        allowed_algorithm(name).map_err(|error| {
            let looks_like_a_kind = name.contains('-') && line.contains(' ');
            if looks_like_a_kind { error } else { KeyError::Malformed(shown(line)) }
        })?;
        let key = ssh_key::PublicKey::from_openssh(line).map_err(|_| KeyError::Malformed(shown(line)))?;
        Self::from_ssh(key)
    }

    pub(super) fn from_ssh(key: ssh_key::PublicKey) -> Result<Self, KeyError> {
        let algorithm = allowed_algorithm(key.algorithm().as_str())?;
        let fingerprint = Fingerprint(key.fingerprint(HashAlg::Sha256).to_string());
        Ok(Self { key, fingerprint, algorithm })
    }

    /// Its fingerprint.
    #[must_use]
    pub fn fingerprint(&self) -> &Fingerprint {
        &self.fingerprint
    }

    /// Its kind, as OpenSSH names it.
    #[must_use]
    pub fn algorithm(&self) -> &'static str {
        self.algorithm
    }

    /// The private part is in a FIDO token.
    #[must_use]
    pub(crate) fn is_token(&self) -> bool {
        self.algorithm.starts_with("sk-")
    }

    /// What stands behind the key in its `.pub` file: most often whose it is.
    #[must_use]
    pub fn comment(&self) -> &str {
        self.key.comment()
    }

    pub(super) fn ssh(&self) -> &ssh_key::PublicKey {
        &self.key
    }
}

/// The line of a `.pub` file, without end of line.
impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let line = self.key.to_openssh().map_err(|_| fmt::Error)?;
        f.write_str(line.trim_end())
    }
}

// Not derived: that would borrow what it reads for as long as `algorithm` lives.
impl<'de> Deserialize<'de> for PublicKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::parse(&String::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

impl FromStr for PublicKey {
    type Err = KeyError;

    fn from_str(line: &str) -> Result<Self, KeyError> {
        Self::parse(line)
    }
}

impl From<PublicKey> for String {
    fn from(key: PublicKey) -> Self {
        key.to_string()
    }
}
