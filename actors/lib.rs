//! The actors of Vigie's agent.

pub mod agent_log;
pub mod alert_journal;
pub mod builtin;
pub mod child;
pub mod config;
pub mod config_difference;
pub mod config_files;
pub mod config_loader;
pub mod containment;
pub mod control_protocol;
pub mod control_server;
pub mod descriptors;
pub mod environment;
pub mod error;
pub mod fleet_link;
pub mod guard_link;
pub mod log_keeper;
pub mod module_process;
pub mod query_router;
pub mod run_directory;
pub mod socket_policy;
pub mod socket_registry;
pub mod supervisor;
pub mod work_threads;

#[cfg(test)]
mod testing;
