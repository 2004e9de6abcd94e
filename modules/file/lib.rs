//! Searches files by name, size, mode, time, content and digest.

#![forbid(unsafe_code)]

pub mod content;
pub mod digest;
pub mod filter;
pub mod findings;
pub mod mounts;
pub mod open;
pub mod parameters;
pub mod pattern;
pub mod pool;
pub mod read;
