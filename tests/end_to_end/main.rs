//! End-to-end tests: the built binary with real modules, good and deliberately bad ones.
//!
//! Every test has an agent of its own in a directory of its own. The bad modules are the scripts in
//! `tests/fixtures/modules`, one per fault.

#[cfg(test)]
mod actions;
#[cfg(test)]
mod alerts;
#[cfg(test)]
mod borders;
#[cfg(test)]
mod chaos;
#[cfg(test)]
mod clients;
#[cfg(test)]
mod command_line;
#[cfg(test)]
mod configuration;
#[cfg(test)]
mod confirmation;
#[cfg(test)]
mod credentials;
#[cfg(test)]
mod deployment;
#[cfg(test)]
mod diagnostics;
#[cfg(test)]
mod disk;
#[cfg(test)]
mod dispatch;
#[cfg(test)]
mod doctor;
#[cfg(test)]
mod documents;
#[cfg(test)]
mod events;
#[cfg(test)]
mod examples;
#[cfg(test)]
mod file_watch;
#[cfg(test)]
mod fleet_cluster;
#[cfg(test)]
mod fleet_doctor;
#[cfg(test)]
mod fleet_document;
#[cfg(test)]
mod fleet_forward;
#[cfg(test)]
mod fleet_join;
#[cfg(test)]
mod fleet_query;
#[cfg(test)]
mod fleet_setup;
#[cfg(test)]
mod fleet_storm;
#[cfg(test)]
mod forms;
#[cfg(test)]
mod harness;
#[cfg(test)]
mod hung_disks;
#[cfg(test)]
mod hunts;
#[cfg(test)]
mod images;
#[cfg(test)]
mod inventory;
#[cfg(test)]
mod json;
#[cfg(test)]
mod limits;
#[cfg(test)]
mod make_run;
#[cfg(test)]
mod marker;
#[cfg(test)]
mod metrics;
#[cfg(test)]
mod module_test;
#[cfg(test)]
mod operators;
#[cfg(test)]
mod privacy;
#[cfg(test)]
mod progress;
#[cfg(test)]
mod query;
#[cfg(test)]
mod receivers;
#[cfg(test)]
mod resources;
#[cfg(test)]
mod shutdown;
#[cfg(test)]
mod sinks;
#[cfg(test)]
mod sinks_programs;
#[cfg(test)]
mod sinks_refusing;
#[cfg(test)]
mod sinks_rsyslog;
#[cfg(test)]
mod starts;
#[cfg(test)]
mod supervision;
#[cfg(test)]
mod taps;
#[cfg(test)]
mod task_limit;
#[cfg(test)]
mod top;
#[cfg(test)]
mod watched;
