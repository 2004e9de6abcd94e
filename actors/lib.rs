//! The actors of Vigie's agent.

pub mod alert_journal;
pub mod child;
pub mod conditions;
pub mod config_loader;
pub mod containment;
pub mod control_server;
pub mod descriptors;
pub mod fleet_link;
pub mod guard_link;
mod life;
pub mod line_feed;
pub mod log_keeper;
pub mod metrics_server;
pub mod module_process;
pub mod own_alerts;
pub mod privacy_memory;
mod process_use;
pub mod query_router;
pub mod run_directory;
pub mod sinks;
pub mod socket_policy;
pub mod socket_registry;
pub mod supervisor;
pub mod work_threads;

#[cfg(test)]
mod testing;
