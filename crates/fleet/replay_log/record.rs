//! One record of the file.

/// Bytes of an action's id.
pub(super) const ID_BYTES: usize = 16;

/// Bytes of a record; a sector holds a whole number of them.
pub(super) const RECORD_BYTES: usize = 32;

/// Where the checksum begins.
const CHECKED_BYTES: usize = RECORD_BYTES - 4;

/// In the place of the header's id: what file this is, and the version of its form.
const MAGIC: [u8; ID_BYTES] = *b"vigie-replay-v1\n";

/// What a record says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// The latest `not_after` of what was forgotten.
    Header,
    /// The action is about to be run.
    Begun,
    /// Its answer is safe.
    Answered,
}

impl Kind {
    fn byte(self) -> u8 {
        match self {
            Self::Header => 1,
            Self::Begun => 2,
            Self::Answered => 3,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) kind: Kind,
    pub(super) id: [u8; ID_BYTES],
    /// In seconds since 1970.
    pub(super) time: i64,
}

impl Record {
    pub(super) fn header(forgotten_until: i64) -> Self {
        Self { kind: Kind::Header, id: MAGIC, time: forgotten_until }
    }

    pub(super) fn to_bytes(self) -> [u8; RECORD_BYTES] {
        let mut bytes = [0; RECORD_BYTES];
        bytes[0] = self.kind.byte();
        bytes[4..20].copy_from_slice(&self.id);
        bytes[20..CHECKED_BYTES].copy_from_slice(&self.time.to_le_bytes());
        let checksum = crc32fast::hash(&bytes[..CHECKED_BYTES]);
        bytes[CHECKED_BYTES..].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    /// None when it is not as it was written.
    pub(super) fn from_bytes(bytes: &[u8; RECORD_BYTES]) -> Option<Self> {
        let kind =
            [Kind::Header, Kind::Begun, Kind::Answered].into_iter().find(|kind| kind.byte() == bytes[0])?;
        let id = *bytes[4..].first_chunk()?;
        let time = i64::from_le_bytes(*bytes[20..].first_chunk()?);
        let record = Self { kind, id, time };
        // Also compares the checksum and the zeros.
        let good = record.to_bytes() == *bytes && (kind != Kind::Header || id == MAGIC);
        good.then_some(record)
    }
}
