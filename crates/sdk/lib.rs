//! A module author's side of Vigie's protocol.
//!
//! A module is a child process that speaks one JSON message per line on stdin and stdout. What those lines
//! mean is in [`protocol`].
//! A module author implements [`PersistentModule`] or [`StandardModule`] and hands it to [`run_persistent`] or
//! [`run_standard`]; everything else in this crate serves these two.

pub mod adapter;
pub mod given;
pub mod listener;
pub mod module;
pub mod outbox;
pub mod serve;

mod reporter;
mod request;
mod standard;

pub use vigie_protocol::condition::{Condition, ConditionSeverity};
pub use vigie_protocol::{json, message as protocol, privacy, severity, socket};

pub use adapter::run_adapter;
pub use module::{Host, Kept, ModuleError, PersistentModule, Query, Settings, StandardModule};
pub use outbox::AlertId;
pub use serve::run_persistent;
pub use standard::run_standard;
#[doc(hidden)]
pub use standard::watched;
pub use vigie_protocol::result::{Coverage, ModuleResult, NotExamined, Verdict};

/// The guide for module authors; its Rust example is compiled with the tests.
#[cfg(doctest)]
#[doc = include_str!("../../docs/modules.md")]
struct Guide;
