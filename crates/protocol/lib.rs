//! What crosses Vigie's pipes and sockets: the lines between agent and module, and those between agent and client.
//!
//! A leaf that both sides share: it knows no actor and no module. [`message`] has the lines of modules, [`control`]
//! those of the agent's own socket; [`codec`] and [`stream`] read lines without trusting who wrote them.

pub mod catalogue;
pub mod codec;
pub mod condition;
pub mod control;
pub mod error_chain;
pub mod json;
pub mod masked_alert;
pub mod message;
pub mod module_name;
pub mod names;
pub mod privacy;
pub mod progress;
pub mod result;
pub mod severity;
pub mod socket;
pub mod stream;
pub mod suggestion;
