//! The binding with the kernel that runs, on file systems that the tests mount for themselves.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod common;
mod events;
mod handles;
mod marks;
mod priority;
