//! The contract between Vigie's agent and its modules, used by both sides of the pipe.
//!
//! A module is a child process that speaks one JSON message per line on stdin and stdout. What those lines
//! mean is in [`protocol`]; how they are read without trusting the writer is in [`codec`] and [`stream`].
//! A module author implements [`PersistentModule`] or [`StandardModule`] and hands it to [`run_persistent`] or
//! [`run_standard`]; everything else in this crate serves these two.

pub mod adapter;
pub mod codec;
pub mod json;
pub mod listener;
pub mod module;
pub mod outbox;
pub mod privacy;
pub mod progress;
pub mod protocol;
pub mod result;
pub mod serve;
pub mod severity;
pub mod socket;
pub mod stream;

mod request;
mod standard;

pub use adapter::run_adapter;
pub use module::{Host, ModuleError, PersistentModule, Query, Settings, StandardModule};
pub use outbox::AlertId;
pub use result::{Coverage, ModuleResult, NotExamined, Verdict};
pub use serve::run_persistent;
pub use standard::run_standard;

/// The guide for module authors; its Rust example is compiled with the tests.
#[cfg(doctest)]
#[doc = include_str!("../../docs/modules.md")]
struct Guide;
