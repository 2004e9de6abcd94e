//! The chain of batches: each batch's digests go into the head, which so stands for all batches before it. Pure.
//!
//! A record has only a checksum: a hash for each would cost a fifth of a core at a million records a second, while one
//! for a batch costs nothing that counts. The head proves nothing against who can write the journal, unless somebody
//! else knows an earlier one: that is why it is told to the fleet.

use data_encoding::HEXLOWER;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use sha2::{Digest as _, Sha256};

/// A SHA-256 digest, written in hexadecimal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Digest(pub(crate) [u8; 32]);

/// What stands for all batches up to a place; all zeros before the first one.
pub(crate) type Head = Digest;

impl std::fmt::Display for Digest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&HEXLOWER.encode(&self.0))
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <&str>::deserialize(deserializer)?;
        let bytes = HEXLOWER.decode(text.as_bytes()).map_err(de::Error::custom)?;
        bytes.try_into().map(Self).map_err(|_| de::Error::custom("not a SHA-256 digest"))
    }
}

/// Gathers the digests of one batch.
#[derive(Debug, Clone, Default)]
pub(crate) struct BatchDigest {
    severe: Option<Sha256>,
    other: Option<Sha256>,
    records: u64,
}

impl BatchDigest {
    /// Adds a record's line with its line feed.
    pub(crate) fn add(&mut self, line: &[u8], is_severe: bool) {
        let part = if is_severe { &mut self.severe } else { &mut self.other };
        part.get_or_insert_default().update(line);
        self.records += 1;
    }

    /// Records that were added.
    pub(crate) fn records(&self) -> u64 {
        self.records
    }

    /// Digests of the severe lines and of the others.
    pub(crate) fn finish(self) -> (Option<Digest>, Option<Digest>) {
        let digest = |part: Option<Sha256>| part.map(|part| Digest(part.finalize().into()));
        (digest(self.severe), digest(self.other))
    }
}

/// The head after a batch.
pub(crate) fn next_head(
    before: &Head,
    last_seq: u64,
    records: u64,
    severe: Option<&Digest>,
    other: Option<&Digest>,
) -> Head {
    let mut hash = Sha256::new();
    hash.update(before.0);
    hash.update(last_seq.to_be_bytes());
    hash.update(records.to_be_bytes());
    for digest in [severe, other] {
        hash.update([u8::from(digest.is_some())]);
        hash.update(digest.map_or([0; 32], |digest| digest.0));
    }
    Digest(hash.finalize().into())
}
