//! fswatch as others see it. One program for all subjects: each one more would be linked anew.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod attributes;
mod engine;
mod schema;
