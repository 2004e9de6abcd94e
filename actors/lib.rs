//! The actors of Vigie's agent.
pub mod config;
pub mod control_protocol;
