//! The module asked as the agent asks it, on trees of its own.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod attributes;
mod coverage;
mod elsewhere;
mod filters;
mod harness;
mod limits;
mod model;
mod objects;
mod starving;
