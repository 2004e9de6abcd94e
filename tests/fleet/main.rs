//! Tests of a fleet: agents against a real nats-server, the one in `VIGIE_NATS_SERVER`, in `PATH` or of Debian. Without
//! one they say so and pass, but not in CI.
//!
//! Agents are processes of the built binary, or many in one process on the production actors (`crowd.rs`). Numbers are
//! modest; these variables of the environment raise them: `VIGIE_FLEET_AGENTS`, `VIGIE_FLEET_ALERTS`,
//! `VIGIE_FLEET_BROKER_KILLS`, `VIGIE_FLEET_AGENT_KILLS`, `VIGIE_FLEET_OUTAGE` (seconds).

#[cfg(test)]
mod actions;
#[cfg(test)]
mod alerts;
#[cfg(test)]
mod backup;
#[cfg(test)]
mod clones;
#[cfg(test)]
mod crowd;
#[cfg(test)]
mod flood;
#[cfg(test)]
#[path = "../end_to_end/forms.rs"]
mod forms;
#[cfg(test)]
mod harness;
#[cfg(test)]
#[path = "../end_to_end/harness.rs"]
#[expect(dead_code, reason = "the end-to-end tests use more of it")]
mod host;
#[cfg(test)]
mod hostile;
#[cfg(test)]
mod leaf;
#[cfg(test)]
mod marker;
#[cfg(test)]
mod membership;
#[cfg(test)]
mod packs;
#[cfg(test)]
mod person;
#[cfg(test)]
mod refusals;
#[cfg(test)]
mod standing;
