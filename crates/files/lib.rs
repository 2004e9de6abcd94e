//! Files that must survive: secrets, atomic replacement, append-only files; and random numbers.
//!
//! Everything that changes a durable file goes through [`durable`]. With the feature `recording` a test can see each
//! change, make one fail, and build every state that a power loss may leave: see `recording`.

pub mod durable;
pub mod line_file;
pub mod published;
pub mod random;
#[cfg(feature = "recording")]
pub mod recording;
pub mod remote;
pub mod secret_file;
