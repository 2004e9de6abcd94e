//! The contract between Vigie's agent and its modules, used by both sides of the pipe.
//!
//! A module is a child process that speaks one JSON message per line on stdin and stdout. What those lines
//! mean is in [`protocol`]; how they are read without trusting the writer is in [`codec`] and [`stream`].

pub mod codec;
pub mod json;
pub mod protocol;
pub mod result;
pub mod socket;
pub mod stream;

pub use result::ModuleResult;
