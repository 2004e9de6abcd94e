//! The fleet: one question to every host, signed by whoever asks and by whoever answers.
//!
//! Agents, the command line and the simulators of the benchmark share this crate, so that what an investigator
//! sees in a preview is what an agent decides. Everything but [`replay_log`], [`broker`] and the files of keys is
//! pure: no I/O, and the time is passed in.

pub mod action;
pub mod agent_key;
pub mod answer;
pub mod broker;
pub mod enrolment;
pub mod facts;
pub mod names;
mod secret_file;
pub mod subjects;
