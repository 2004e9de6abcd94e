//! The engine with its threads, on real file systems.

mod cases;
mod running;
mod who;
