//! The engine with its threads, on real file systems.

/// Runs each case where fanotify may be used, which without privileges is inotify as well, and where only inotify may
/// be used.
macro_rules! on_every_backend {
    ($($name:ident,)*) => {
        mod auto {
            $(#[test] fn $name() { super::with_backend("auto", super::$name); })*
        }
        mod inotify {
            $(#[test] fn $name() { super::with_backend("inotify", super::$name); })*
        }
    };
}

mod adversary;
mod blind;
mod cases;
mod forged;
mod histories;
mod linked;
mod managers;
mod missed;
mod quiet;
mod rotations;
mod rpm;
mod running;
mod undone;
mod ways;
mod who;
