//! The engine where only inotify may be used.

/// The backend of all cases.
const BACKEND: &str = "inotify";

#[path = "engine/cases.rs"]
mod cases;
