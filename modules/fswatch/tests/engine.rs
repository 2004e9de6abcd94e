//! The engine with its threads, on real file systems.

mod adversary;
mod cases;
mod managers;
mod running;
mod who;
