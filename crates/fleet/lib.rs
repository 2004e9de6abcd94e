//! The fleet: one question to every host, signed by whoever asks and by whoever answers.
//!
//! Agents, the command line and the simulators of the benchmark share this crate, so that what an investigator
//! sees in a preview is what an agent decides. All but [`replay_log`], [`broker`], [`host_facts`], the making of
//! signatures and the files of keys is pure: no I/O, and the time is passed in.

pub mod action;
pub mod admission;
pub mod agent_key;
pub mod alert_order;
pub mod answer;
pub mod broker;
pub mod certificates;
pub mod collect;
pub mod enrolment;
pub mod facts;
pub mod heartbeat;
pub mod host_facts;
pub mod join;
pub mod parallel;
pub mod policy;
pub mod predicate;
pub mod replay_log;
pub mod signature;
pub mod standing;
pub mod subjects;
