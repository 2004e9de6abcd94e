//! The engine where fanotify may be used; without privileges it is inotify here as well.

/// The backend of all cases.
const BACKEND: &str = "auto";

#[path = "engine/cases.rs"]
mod cases;

#[path = "engine_fanotify/who.rs"]
mod who;
