//! The agent's configuration: what every key means, how files become values, and how two configurations differ.

pub mod builtin;
pub mod difference;
pub mod files;
pub mod model;
pub mod sinks;
