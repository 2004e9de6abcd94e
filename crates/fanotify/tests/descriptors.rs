//! No descriptor is left open, whatever becomes of the events. Alone in its program: it counts what is open.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::fs::{self, File};
use std::os::fd::AsFd;

use vigie_fanotify::{Buffer, Group, GroupError, Mask, Options, Pidfd};

/// Descriptors of this program, but for the one that counts.
fn open_descriptors() -> usize {
    fs::read_dir("/proc/self/fd").unwrap().count() - 1
}

#[test]
fn processes_of_events_that_nobody_keeps_are_closed() {
    let group = match Group::new(Options::default()) {
        Err(error @ GroupError::NotPermitted(_)) => {
            return vigie_skipped::skipped(error);
        }
        result => result.unwrap(),
    };
    let directory = tempfile::tempdir().unwrap();
    let opened = File::open(directory.path()).unwrap();
    group.mark_directory(opened.as_fd(), Mask::CREATE).unwrap();
    let create = |names: std::ops::Range<u32>| {
        for name in names {
            fs::write(directory.path().join(name.to_string()), "").unwrap();
        }
    };
    let mut buffer = Buffer::new(0);
    let before = open_descriptors();

    // Read, and not looked at.
    create(0..10);
    let events = group.read(&mut buffer).unwrap().unwrap();
    assert_eq!(open_descriptors(), before + 10);
    drop(events);
    assert_eq!(open_descriptors(), before);

    // Looked at in part; an event outlives the others.
    create(10..20);
    let mut events = group.read(&mut buffer).unwrap().unwrap();
    let kept = events.nth(3).unwrap().unwrap();
    assert!(matches!(kept.pidfd, Pidfd::Open(_)));
    assert_eq!(open_descriptors(), before + 7);
    drop(events);
    assert_eq!(open_descriptors(), before + 1);
    drop(kept);
    assert_eq!(open_descriptors(), before);

    // Looked at to the end.
    create(20..30);
    assert_eq!(group.read(&mut buffer).unwrap().unwrap().count(), 10);
    assert_eq!(open_descriptors(), before);
    assert!(group.read(&mut buffer).unwrap().is_none());

    // More than fits into one read.
    create(30..200);
    let mut count = 0;
    while let Some(events) = group.read(&mut buffer).unwrap() {
        count += events.inspect(|event| assert!(event.is_ok())).count();
    }
    assert_eq!(count, 170);
    assert_eq!(open_descriptors(), before);
}
