//! The priority of reading and writing.

use std::process::Command;

use nix::unistd::{Pid, gettid};

use crate::common::start;

#[test]
fn the_calling_thread_becomes_idle_and_no_other() {
    let io_class = |thread: Pid| {
        let id = thread.to_string();
        let output = start(|| Command::new("ionice").args(["-p", &id]).output()).ok()?;
        Some(String::from_utf8(output.stdout).unwrap().trim().to_owned())
    };
    let this = gettid();
    if !vigie_skipped::happens_to_have("ionice") {
        return;
    }

    let idle = std::thread::spawn(move || {
        vigie_fanotify::set_idle_io_priority().unwrap();
        io_class(gettid())
    });

    assert_eq!(idle.join().unwrap().as_deref(), Some("idle"));
    assert_ne!(io_class(this).as_deref(), Some("idle"));
}
