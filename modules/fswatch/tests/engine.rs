//! The engine with its threads, on real file systems.

mod adversary;
mod blind;
mod cases;
mod managers;
mod quiet;
mod rpm;
mod running;
mod who;
