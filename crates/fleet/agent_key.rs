//! The agent's own key: an Ed25519 key in the form of a NATS user key. With it an agent logs in to the broker, and
//! seals what it sends.
//!
//! The text forms are those of NATS (`nkeys`): a prefix, the bytes and a checksum in base32. A public key begins
//! with `U`, a secret one (the seed) with `SU`.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::path::Path;
use std::str::FromStr;

use data_encoding::BASE64;
use nkeys::{KeyPair, KeyPairType};
use serde::{Deserialize, Serialize};

use crate::answer::{Purpose, Sealed, signed_bytes};
use vigie_files::secret_file;
pub use vigie_files::secret_file::SecretFileError;

/// Largest text that is sealed or opened, in bytes: what a message of NATS can hold by default.
pub(crate) const MAX_SEALED_BYTES: usize = 1024 * 1024;

/// Largest file that is read as a key: a seed, its end of line, and room.
const MAX_KEY_FILE_BYTES: u64 = 256;

/// Bytes of an Ed25519 signature (RFC 8032).
const SIGNATURE_BYTES: usize = 64;

/// The encodings of y of all points of small order, the bit of the sign cleared: the eight points have five values
/// of y, and two of those have a second, not reduced encoding. A key or a nonce among them lets one signature pass
/// for many texts.
const SMALL_ORDER: [[u8; 32]; 7] = [
    // 0: order 4.
    [0; 32],
    // 1: the neutral element.
    {
        let mut y = [0; 32];
        y[0] = 1;
        y
    },
    // Order 8.
    [
        0x26, 0xe8, 0x95, 0x8f, 0xc2, 0xb2, 0x27, 0xb0, 0x45, 0xc3, 0xf4, 0x89, 0xf2, 0xef, 0x98, 0xf0, 0xd5,
        0xdf, 0xac, 0x05, 0xd3, 0xc6, 0x33, 0x39, 0xb1, 0x38, 0x02, 0x88, 0x6d, 0x53, 0xfc, 0x05,
    ],
    // Order 8.
    [
        0xc7, 0x17, 0x6a, 0x70, 0x3d, 0x4d, 0xd8, 0x4f, 0xba, 0x3c, 0x0b, 0x76, 0x0d, 0x10, 0x67, 0x0f, 0x2a,
        0x20, 0x53, 0xfa, 0x2c, 0x39, 0xcc, 0xc6, 0x4e, 0xc7, 0xfd, 0x77, 0x92, 0xac, 0x03, 0x7a,
    ],
    // p - 1: order 2.
    near_the_prime(0xec),
    // p, which is 0.
    near_the_prime(0xed),
    // p + 1, which is 1.
    near_the_prime(0xee),
];

/// A number that begins with `low` and has all other bits of p = 2^255 - 19.
const fn near_the_prime(low: u8) -> [u8; 32] {
    let mut y = [0xff; 32];
    y[0] = low;
    y[31] = 0x7f;
    y
}

fn is_of_small_order(point: &[u8; 32]) -> bool {
    let mut y = *point;
    y[31] &= 0x7f;
    SMALL_ORDER.contains(&y)
}

/// A text or file that holds no key of an agent.
#[derive(Debug, thiserror::Error)]
pub enum AgentKeyError {
    /// Not a public key.
    #[error("not the public key of an agent: it has 56 characters and begins with U")]
    PublicKey,
    /// Not a seed. The text is secret, so it is not shown.
    #[error("not the secret key of an agent: it has 58 characters and begins with SU")]
    Seed,
    /// The file cannot be used.
    #[error(transparent)]
    File(#[from] SecretFileError),
}

/// Why a seal does not hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// The text is larger than `MAX_SEALED_BYTES`.
    #[error("the sealed text has more than {MAX_SEALED_BYTES} bytes")]
    TooLarge,
    /// The signature is not 64 bytes in base64.
    #[error("the seal is not an Ed25519 signature in base64")]
    NotASignature,
    /// The key did not make this seal for this text and purpose.
    #[error("the seal is not from this agent's key: the text was altered or forged")]
    Forged,
}

/// The public key of an agent, parsed once for many checks. Equal keys have equal texts.
#[derive(Clone, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct AgentPublicKey {
    pair: KeyPair,
    bytes: [u8; 32],
}

impl AgentPublicKey {
    /// The key as NATS writes it: `U…`, 56 characters.
    #[must_use]
    pub fn text(&self) -> String {
        self.pair.public_key()
    }

    /// The 32 bytes of the key (RFC 8032).
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.bytes
    }

    /// Checks a signature over plain bytes. Takes only what RFC 8032 calls valid without the cofactor, and no points
    /// of small order, so that a signature fits one text and one key.
    fn verifies(&self, bytes: &[u8], signature: &[u8; SIGNATURE_BYTES]) -> bool {
        let mut nonce = [0; 32];
        nonce.copy_from_slice(&signature[..32]);
        // The key itself was looked at when it was parsed.
        !is_of_small_order(&nonce) && self.pair.verify(bytes, signature).is_ok()
    }
}

impl FromStr for AgentPublicKey {
    type Err = AgentKeyError;

    fn from_str(text: &str) -> Result<Self, AgentKeyError> {
        let (_, bytes) = nkeys::from_public_key(text).map_err(|_| AgentKeyError::PublicKey)?;
        let pair = KeyPair::from_public_key(text).map_err(|_| AgentKeyError::PublicKey)?;
        if pair.key_pair_type() != KeyPairType::User || is_of_small_order(&bytes) {
            return Err(AgentKeyError::PublicKey);
        }
        Ok(Self { pair, bytes })
    }
}

impl TryFrom<String> for AgentPublicKey {
    type Error = AgentKeyError;

    fn try_from(text: String) -> Result<Self, AgentKeyError> {
        text.parse()
    }
}

impl From<AgentPublicKey> for String {
    fn from(key: AgentPublicKey) -> Self {
        key.text()
    }
}

impl fmt::Display for AgentPublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text())
    }
}

impl fmt::Debug for AgentPublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AgentPublicKey({})", self.text())
    }
}

impl PartialEq for AgentPublicKey {
    fn eq(&self, other: &Self) -> bool {
        self.bytes == other.bytes
    }
}

impl Eq for AgentPublicKey {}

impl Hash for AgentPublicKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.bytes.hash(state);
    }
}

/// The secret key of an agent.
#[derive(Clone)]
pub struct AgentKey {
    pair: KeyPair,
    public: AgentPublicKey,
}

/// Never shows the secret.
impl fmt::Debug for AgentKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AgentKey({})", self.public)
    }
}

impl AgentKey {
    /// A new key from the system's random numbers.
    #[must_use]
    pub fn generate() -> Self {
        Self::from_pair(KeyPair::new_user()).expect("a fresh key is a user's key")
    }

    /// The key of a seed, `SU…`.
    ///
    /// # Errors
    ///
    /// [`AgentKeyError::Seed`]
    pub fn from_seed(seed: &str) -> Result<Self, AgentKeyError> {
        Self::from_pair(KeyPair::from_seed(seed).map_err(|_| AgentKeyError::Seed)?)
    }

    fn from_pair(pair: KeyPair) -> Result<Self, AgentKeyError> {
        if pair.key_pair_type() != KeyPairType::User {
            return Err(AgentKeyError::Seed);
        }
        let public = pair.public_key().parse().map_err(|_| AgentKeyError::Seed)?;
        Ok(Self { pair, public })
    }

    /// Reads the key from a file with mode 0600 that holds its seed.
    ///
    /// # Errors
    ///
    /// When the file cannot be read, others have rights on it, or it holds no seed.
    pub fn load(path: &Path) -> Result<Self, AgentKeyError> {
        Self::from_seed(secret_file::read(path, MAX_KEY_FILE_BYTES)?.trim_end())
    }

    /// Writes the seed to a new file with mode 0600, on disk when this returns. It never overwrites a file.
    ///
    /// # Errors
    ///
    /// When there is a file already, or it cannot be written.
    pub fn store(&self, path: &Path) -> Result<(), AgentKeyError> {
        Ok(secret_file::create(path, &format!("{}\n", self.seed()))?)
    }

    /// The key in the file; when there is no file, a new key that is in it from now on.
    ///
    /// # Errors
    ///
    /// As [`AgentKey::load`] and [`AgentKey::store`].
    pub fn load_or_create(path: &Path) -> Result<Self, AgentKeyError> {
        match Self::load(path) {
            Err(AgentKeyError::File(SecretFileError::Unreadable { source, .. }))
                if source.kind() == std::io::ErrorKind::NotFound =>
            {
                let key = Self::generate();
                key.store(path)?;
                Ok(key)
            }
            result => result,
        }
    }

    /// The secret as text, `SU…`. For files with mode 0600 only.
    #[must_use]
    pub fn seed(&self) -> String {
        self.pair.seed().expect("this pair was made from a seed")
    }

    /// What others check seals with.
    #[must_use]
    pub fn public_key(&self) -> &AgentPublicKey {
        &self.public
    }

    /// Signs plain bytes; for the nonce that the broker sends at login.
    #[must_use]
    pub fn sign(&self, bytes: &[u8]) -> Vec<u8> {
        self.pair.sign(bytes).expect("this pair has its secret")
    }

    /// Seals a text for a purpose.
    ///
    /// # Errors
    ///
    /// [`SealError::TooLarge`] when nobody would open it.
    pub fn seal(&self, purpose: Purpose, text: String) -> Result<Sealed, SealError> {
        if text.len() > MAX_SEALED_BYTES {
            return Err(SealError::TooLarge);
        }
        let sig = BASE64.encode(&self.sign(&signed_bytes(purpose, &text)));
        Ok(Sealed { text, sig })
    }
}

/// The text of a seal that this key made for this purpose.
///
/// # Errors
///
/// See [`SealError`]; the text must then not be used.
pub fn open<'a>(sealed: &'a Sealed, purpose: Purpose, key: &AgentPublicKey) -> Result<&'a str, SealError> {
    if sealed.text.len() > MAX_SEALED_BYTES {
        return Err(SealError::TooLarge);
    }
    // 64 bytes are 88 characters; nothing else is decoded.
    if sealed.sig.len() != BASE64.encode_len(SIGNATURE_BYTES) {
        return Err(SealError::NotASignature);
    }
    let signature: [u8; SIGNATURE_BYTES] = BASE64
        .decode(sealed.sig.as_bytes())
        .ok()
        .and_then(|bytes| bytes.try_into().ok())
        .ok_or(SealError::NotASignature)?;
    if key.verifies(&signed_bytes(purpose, &sealed.text), &signature) {
        Ok(&sealed.text)
    } else {
        Err(SealError::Forged)
    }
}

#[cfg(test)]
mod tests;
