//! SSH signatures: the check of those that come from outside, and the keys that may make them.
//!
//! The format is the one of `ssh-keygen -Y sign` (OpenSSH's PROTOCOL.sshsig), so that people sign with the keys
//! that they have, in files, in ssh-agent or on a FIDO token. Ed25519 and ECDSA over P-256 are allowed, each with
//! or without a token; RSA, DSA, other curves and certificates are not.
//!
//! Nothing passes here that `ssh-keygen -Y verify` refuses. It accepts more; we do not take:
//! - another armour than the one `ssh-keygen` writes: carriage returns, spaces, empty lines, text after the end;
//! - a version other than 1 (it takes 0), or anything in the reserved field (it skips it);
//! - Ed25519 signatures whose scalar is not reduced (RFC 8032, 5.1.7), and integers with superfluous zeros: other
//!   bytes with the same meaning;
//! - the keys that are not allowed, and signatures that a browser made with a token (`webauthn-sk-…`).
//!
//! Whether a token was touched is told by [`Signer::token`] and judged by whoever asks: a signature is as good
//! without, for `ssh-keygen` and for us.

mod key;
mod signing;
mod wire;

#[cfg(test)]
mod oracle;
#[cfg(test)]
pub(crate) mod tests;

pub use key::{Fingerprint, KeyError, MAX_KEY_BYTES, PublicKey};
pub use signing::{SignError, SigningKey, sign_with_key_file};

use ssh_key::{HashAlg, SshSig};

/// Largest armoured signature in bytes. The largest that is allowed, by a token with a name for the application,
/// takes below 1 KiB.
pub(crate) const MAX_SIGNATURE_BYTES: usize = 4096;

/// Longest part of a foreign text that an error shows, in characters.
const SHOWN_CHARACTERS: usize = 64;

/// Why a signature is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// Not even looked at.
    #[error("the signature has {bytes} bytes, at most {MAX_SIGNATURE_BYTES} are read")]
    TooLarge {
        /// Its size.
        bytes: usize,
    },
    /// Not the text that `ssh-keygen -Y sign` writes.
    #[error("the signature is not armoured as `ssh-keygen -Y sign` writes it: {0}")]
    Armour(&'static str),
    /// What is inside the armour is not a signature.
    #[error("the signature cannot be read: {0}")]
    Malformed(&'static str),
    /// A version that is not known.
    #[error("the signature is of version {0}, only version 1 is known")]
    Version(u32),
    /// It was made for something else.
    #[error("the signature was made for {found:?}, not for {wanted:?} (ssh-keygen -Y sign -n {wanted})")]
    Namespace {
        /// What it was made for, cut to 64 characters.
        found: String,
        /// What it must have been made for.
        wanted: String,
    },
    /// The reserved field is used.
    #[error("the signature uses the reserved field, whose meaning is not known")]
    Reserved,
    /// Neither SHA-256 nor SHA-512.
    #[error("the signature is over a digest by {0:?}, only sha256 and sha512 are allowed")]
    HashAlgorithm(String),
    /// The key that it names is not allowed.
    #[error("the signature uses an unsupported key: {0}")]
    Key(KeyError),
    /// The signature is of another kind than its key.
    #[error("the signature is of the kind {found:?}, its key makes {wanted:?}")]
    OtherAlgorithm {
        /// The kind of the signature, cut to 64 characters.
        found: String,
        /// The kind that the key makes.
        wanted: &'static str,
    },
    /// The key did not make it over this message.
    #[error("the signature does not match the message and the key {0}")]
    Wrong(Fingerprint),
}

/// What a token (a `sk-…` key) says about how it signed; PROTOCOL.u2f of OpenSSH. It is covered by the signature.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TokenFlags {
    /// Somebody touched it.
    pub user_presence: bool,
    /// It knew whom: by PIN or finger.
    pub user_verification: bool,
}

impl TokenFlags {
    fn from_byte(flags: u8) -> Self {
        Self { user_presence: flags & 0x01 != 0, user_verification: flags & 0x04 != 0 }
    }
}

/// Who made a signature that was checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signer {
    /// The key.
    pub key: PublicKey,
    /// What the token said; none for a key without token.
    pub token: Option<TokenFlags>,
}

/// A signature that was read, for which nothing is proven yet.
#[derive(Debug, Clone)]
pub struct Unchecked {
    key: PublicKey,
    namespace: String,
    hash: HashAlg,
    signature: ssh_key::Signature,
    token: Option<TokenFlags>,
}

impl Unchecked {
    /// Reads the armoured text.
    ///
    /// # Errors
    ///
    /// It is too large, has another form, or is by a key that is not allowed.
    pub fn parse(armored: &str) -> Result<Self, SignatureError> {
        if armored.len() > MAX_SIGNATURE_BYTES {
            return Err(SignatureError::TooLarge { bytes: armored.len() });
        }
        wire::parse(&wire::remove_armour(armored)?)
    }

    /// The key that it says it is by; to look it up before the costly check.
    #[must_use]
    pub fn claimed_key(&self) -> &PublicKey {
        &self.key
    }

    /// Sees whether it was made for this namespace.
    ///
    /// # Errors
    ///
    /// It was made for another one.
    pub(crate) fn check_namespace(&self, namespace: &str) -> Result<(), SignatureError> {
        if self.namespace == namespace {
            return Ok(());
        }
        Err(SignatureError::Namespace { found: shown(&self.namespace), wanted: namespace.to_owned() })
    }

    /// Checks it over a message, for a namespace.
    ///
    /// # Errors
    ///
    /// It was made for another namespace, over another message or by another key.
    pub fn verify(self, namespace: &str, message: &[u8]) -> Result<Signer, SignatureError> {
        self.check_namespace(namespace)?;
        let Self { key, hash, signature, token, .. } = self;
        let wrong = || SignatureError::Wrong(key.fingerprint().clone());
        let signature =
            SshSig::new(key.ssh().key_data().clone(), namespace, hash, signature).map_err(|_| wrong())?;
        key.ssh().verify(namespace, message, &signature).map_err(|_| wrong())?;
        Ok(Signer { key, token })
    }
}

/// Checks an armoured signature over a message, for a namespace.
///
/// # Errors
///
/// The signature has another form, is for something else, or is not by the key that it names.
pub fn verify(namespace: &str, message: &[u8], armored: &str) -> Result<Signer, SignatureError> {
    Unchecked::parse(armored)?.verify(namespace, message)
}

/// What of a foreign text an error shows.
fn shown(text: &str) -> String {
    text.chars().take(SHOWN_CHARACTERS).collect()
}
