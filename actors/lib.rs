//! The actors of Vigie's agent.

pub mod agent_log;
pub mod builtin;
pub mod config;
pub mod config_difference;
pub mod config_files;
pub mod config_loader;
pub mod control_protocol;
pub mod environment;
