//! The alert journal's files: segments of JSON lines that prove themselves.
//!
//! A record carries a checksum and the checksum of the record before; a batch, written and synced at once, carries a
//! hash in a chain. So one flipped bit costs at most one record and hides none, and a gap, a broken link or a changed
//! batch is found by every reader. The high-water mark, kept apart, makes numbers go on even when all segments are
//! gone. The format is described in `docs/journal.md`.
//!
//! - a [`Draft`] holds records, an [`OpenBatch`] seals them, and [`Writer`] appends such batches and keeps the files within
//!   their room;
//! - [`Reader`] is a cursor: it yields alerts, gaps and damage, and never holds up the writer;
//! - [`verify`] proves the whole chain;
//! - [`SeenIds`] remembers which ids of modules are recorded.

mod batch;
mod chain;
mod contents;
mod cursor;
mod draft;
mod ledger;
mod line;
mod mark;
mod names;
mod reader;
mod recovery;
mod retention;
mod rewrite;
mod seen;
mod segment;
mod verify;
mod walk;
mod writer;

#[cfg(test)]
mod merged_tests;
#[cfg(test)]
mod retention_tests;
#[cfg(test)]
mod room_tests;
#[cfg(test)]
mod tests;

pub use batch::{OpenBatch, Place, SealedBatch};
pub use cursor::{Cursor, identity};
pub use draft::{Draft, Source};
pub use line::{Counts, Record, Why};
pub use names::{Names, Renamed, SettleError, settle};
pub use reader::{Cause, Damage, DamageKind, Item, Missing, Portion, Reader, start_of_last};
pub use recovery::Recovery;
pub use retention::GivenUp;
pub use seen::{AlertId, MAX_ID_BYTES, SeenIds, SeenSnapshot};
pub use verify::{by_module, by_severity, verify};
pub use writer::{AppendError, Incident, OpenError, Sizes, Writer};
