//! The engine with its threads, on real file systems.

mod adversary;
mod cases;
mod running;
mod who;
