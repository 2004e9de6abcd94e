//! The chain of batches: each batch's digests go into the head, which so stands for all batches before it. Pure.
//!
//! A batch has one digest for each [share](crate::line::share_of) and severity, which is what retention deletes at
//! once: so what is left of a batch is proved as before. Batches of version 2 have two, of severe and of other lines.
//!
//! A record has only a checksum: a hash for each would cost a fifth of a core at a million records a second, while one
//! for a batch costs nothing that counts. The head proves nothing against who can write the journal, unless somebody
//! else knows an earlier one: that is why it is told to the fleet.

use std::collections::BTreeMap;

use data_encoding::HEXLOWER;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use sha2::{Digest as _, Sha256};
use vigie_protocol::severity::Severity;

use crate::contents::{Contents, is_severe};

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

/// Digests of a batch's lines, by share and severity.
pub(crate) type Parts = BTreeMap<String, BTreeMap<Severity, Digest>>;

/// Digests of a batch's lines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Digests {
    /// Of version 2: of critical and high lines, and of the others.
    Classes(Option<Digest>, Option<Digest>),
    Parts(Parts),
}

/// Gathers the digests of one batch, and counts what is in it.
#[derive(Debug, Clone, Default)]
pub(crate) struct BatchDigest {
    parts: Vec<Part>,
    /// The part of the newest line; the next one is mostly of the same.
    newest: usize,
    records: u64,
    /// Whether the batch is of version 2.
    by_class: bool,
}

#[derive(Debug, Clone)]
struct Part {
    share: String,
    severity: Severity,
    hash: Sha256,
    records: u64,
    bytes: u64,
}

impl BatchDigest {
    /// An empty one for a batch of this version of the format.
    pub(crate) fn of_version(version: u32) -> Self {
        Self { by_class: version == 2, ..Self::default() }
    }

    /// Adds a record's line with its line feed.
    pub(crate) fn add(&mut self, line: &[u8], share: &str, severity: Severity) {
        self.add_many(line, 1, share, severity);
    }

    /// Adds so many lines, one after the other, of one share and severity.
    pub(crate) fn add_many(&mut self, lines: &[u8], records: u64, share: &str, severity: Severity) {
        let (share, severity) = match (self.by_class, is_severe(severity)) {
            (false, _) => (share, severity),
            (true, true) => ("", Severity::High),
            (true, false) => ("", Severity::Low),
        };
        let is_it = |part: &Part| part.severity == severity && part.share == share;
        if !self.parts.get(self.newest).is_some_and(is_it) {
            self.newest = self.parts.iter().position(is_it).unwrap_or_else(|| {
                let share = share.to_owned();
                self.parts.push(Part { share, severity, hash: Sha256::default(), records: 0, bytes: 0 });
                self.parts.len() - 1
            });
        }
        let part = &mut self.parts[self.newest];
        part.hash.update(lines);
        part.records += records;
        part.bytes += lines.len() as u64;
        self.records += records;
    }

    /// Records that were added.
    pub(crate) fn records(&self) -> u64 {
        self.records
    }

    /// What the lines take. Not for a batch of version 2.
    pub(crate) fn contents(&self) -> Contents {
        let mut contents = Contents::default();
        for part in &self.parts {
            contents.add_many(&part.share, part.severity, part.records, part.bytes);
        }
        contents
    }

    /// The digests.
    pub(crate) fn finish(self) -> Digests {
        let mut parts = Parts::new();
        for part in self.parts {
            let digest = Digest(part.hash.finalize().into());
            parts.entry(part.share).or_default().insert(part.severity, digest);
        }
        if !self.by_class {
            return Digests::Parts(parts);
        }
        let class = |severity| parts.get("").and_then(|class| class.get(&severity)).copied();
        Digests::Classes(class(Severity::High), class(Severity::Low))
    }
}

/// The head after a batch.
pub(crate) fn next_head(before: &Head, last_seq: u64, records: u64, digests: &Digests) -> Head {
    let mut hash = Sha256::new();
    hash.update(before.0);
    hash.update(last_seq.to_be_bytes());
    hash.update(records.to_be_bytes());
    match digests {
        Digests::Classes(severe, other) => {
            for digest in [severe, other] {
                hash.update([u8::from(digest.is_some())]);
                hash.update(digest.map_or([0; 32], |digest| digest.0));
            }
        }
        Digests::Parts(parts) => {
            // No class is announced by this number.
            hash.update([3]);
            for (share, digests) in parts {
                for (severity, digest) in digests {
                    hash.update((share.len() as u64).to_be_bytes());
                    hash.update(share);
                    hash.update([*severity as u8]);
                    hash.update(digest.0);
                }
            }
        }
    }
    Digest(hash.finalize().into())
}
