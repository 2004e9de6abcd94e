//! What the kernel reports of a file system, read through a group.

use std::ffi::OsString;
use std::fs::{self, File, Permissions};
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rustix::fs::{CWD, RenameFlags, XattrFlags};
use vigie_fanotify::{Mask, Options, Pidfd};

use crate::common::{Seen, Watched, changes, masks, or_skip, skip, start, write};

#[test]
fn a_new_file_is_reported_by_name_and_by_handle() {
    let mut watched = or_skip!(Watched::filesystem(changes()));

    write(watched.path("report.txt"), "content").unwrap();

    let seen = watched.seen();
    assert_eq!(masks(&seen), Mask::CREATE | Mask::MODIFY | Mask::CLOSE_WRITE);
    for event in &seen {
        assert_eq!(event.directory, watched.entry("report.txt"));
        assert_eq!(event.target, Some(watched.handle("report.txt")));
        assert_eq!(event.pid, i32::try_from(std::process::id()).unwrap());
        assert!(event.old.is_none() && event.new.is_none() && event.error.is_none());
    }
    assert!(watched.seen().is_empty());
}

#[test]
fn a_rename_is_one_event_with_both_names() {
    let mut watched = or_skip!(Watched::filesystem(Mask::RENAME));
    fs::create_dir(watched.path("from")).unwrap();
    fs::create_dir(watched.path("to")).unwrap();
    write(watched.path("from/before"), "content").unwrap();

    fs::rename(watched.path("from/before"), watched.path("to/after")).unwrap();

    let [event] = &watched.seen()[..] else { panic!("not one event") };
    assert_eq!(event.mask, Mask::RENAME);
    assert_eq!(event.old, Some((watched.handle("from"), "before".into())));
    assert_eq!(event.new, Some((watched.handle("to"), "after".into())));
    assert_eq!(event.target, Some(watched.handle("to/after")));
    assert_eq!(event.directory, None);
}

#[test]
fn an_exchange_of_two_names_is_two_renames() {
    let mut watched = or_skip!(Watched::filesystem(Mask::RENAME));
    let [one, other] = ["one", "other"].map(|name| watched.path(name));
    write(&one, "").unwrap();
    write(&other, "").unwrap();

    rustix::fs::renameat_with(CWD, &one, CWD, &other, RenameFlags::EXCHANGE).unwrap();

    let names = |event: &Seen| {
        let name = |entry: &Option<(_, OsString)>| entry.as_ref().map(|(_, name)| name.clone()).unwrap();
        (name(&event.old), name(&event.new))
    };
    let mut renames: Vec<_> = watched.seen().iter().map(names).collect();
    renames.sort();
    assert_eq!(renames, [("one".into(), "other".into()), ("other".into(), "one".into())]);
}

#[test]
fn a_change_of_mode_or_of_an_extended_attribute_is_reported() {
    let mut watched = or_skip!(Watched::filesystem(changes()));
    let file = watched.path("tool");
    write(&file, "").unwrap();
    watched.seen();

    fs::set_permissions(&file, Permissions::from_mode(0o4755)).unwrap();

    let [event] = &watched.seen()[..] else { panic!("not one event") };
    assert_eq!(event.mask, Mask::ATTRIB);
    assert_eq!(event.directory, watched.entry("tool"));

    rustix::fs::setxattr(&file, "trusted.origin", b"elsewhere", XattrFlags::CREATE).unwrap();

    let [event] = &watched.seen()[..] else { panic!("not one event") };
    assert_eq!(event.mask, Mask::ATTRIB);
    assert_eq!(event.target, Some(watched.handle("tool")));
}

#[test]
fn a_deleted_file_is_reported_by_its_name_and_by_the_handle_it_had() {
    let mut watched = or_skip!(Watched::filesystem(changes()));
    write(watched.path("file"), "").unwrap();
    let handle = watched.handle("file");
    watched.seen();

    fs::remove_file(watched.path("file")).unwrap();

    let seen = watched.seen();
    assert!(masks(&seen).contains(Mask::DELETE | Mask::DELETE_SELF), "{seen:?}");
    assert!(seen.iter().all(|event| event.target.as_ref() == Some(&handle)), "{seen:?}");
    let named = seen.iter().find(|event| event.mask.contains(Mask::DELETE)).unwrap();
    assert_eq!(named.directory, watched.entry("file"));
}

#[test]
fn a_directory_is_told_from_a_file_and_names_itself_with_a_dot() {
    let mut watched = or_skip!(Watched::filesystem(changes()));

    fs::create_dir(watched.path("directory")).unwrap();

    let [event] = &watched.seen()[..] else { panic!("not one event") };
    assert_eq!(event.mask, Mask::CREATE | Mask::ONDIR);
    assert_eq!(event.directory, watched.entry("directory"));
    assert_eq!(event.target, Some(watched.handle("directory")));

    fs::set_permissions(watched.path("directory"), Permissions::from_mode(0o700)).unwrap();

    let [event] = &watched.seen()[..] else { panic!("not one event") };
    assert_eq!(event.mask, Mask::ATTRIB | Mask::ONDIR);
    assert_eq!(event.directory, Some((watched.handle("directory"), ".".into())));
}

#[test]
fn a_hard_link_is_a_new_name_of_the_same_object() {
    let mut watched = or_skip!(Watched::filesystem(changes()));
    write(watched.path("first"), "").unwrap();
    watched.seen();

    fs::hard_link(watched.path("first"), watched.path("second")).unwrap();

    let seen = watched.seen();
    let created = seen.iter().find(|event| event.mask.contains(Mask::CREATE)).unwrap();
    assert_eq!(created.directory, watched.entry("second"));
    assert_eq!(created.target, Some(watched.handle("first")));
}

#[test]
fn a_program_that_is_started_is_reported_with_its_process() {
    let mut watched = or_skip!(Watched::filesystem(Mask::OPEN_EXEC));
    let program = watched.path("program");
    vigie_skipped::copy_program("/bin/true", &program);

    let mut child = start(|| Command::new(&program).spawn()).unwrap();
    child.wait().unwrap();

    let seen = watched.seen();
    let event = seen.iter().find(|event| event.directory == watched.entry("program")).unwrap();
    assert!(event.mask.contains(Mask::OPEN_EXEC));
    assert_eq!(event.pid, i32::try_from(child.id()).unwrap());
}

#[test]
fn a_process_is_open_while_it_lives_and_ended_afterwards() {
    let mut watched = or_skip!(Watched::filesystem(Mask::CREATE));
    let mut shell = Command::new("sh");
    shell
        .args(["-c", ": > early; read line; : > late"])
        .current_dir(watched.tmpfs.root())
        .stdin(Stdio::piped());
    let mut child = start(|| shell.spawn()).unwrap();
    let pid = i32::try_from(child.id()).unwrap();
    wait_for_events(&watched);

    let [event] = &watched.seen()[..] else { panic!("not one event") };

    assert_eq!((event.pid, &event.directory), (pid, &watched.entry("early")));
    let Pidfd::Open(pidfd) = &event.pidfd else { panic!("{:?}", event.pidfd) };
    let number = pidfd.as_raw_fd();
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{number}")).unwrap();
    assert!(info.lines().any(|line| line == format!("Pid:\t{pid}")), "{info}");

    child.stdin.take().unwrap().write_all(b"\n").unwrap();
    child.wait().unwrap();

    let [event] = &watched.seen()[..] else { panic!("not one event") };
    assert_eq!((event.pid, &event.directory), (pid, &watched.entry("late")));
    assert!(matches!(event.pidfd, Pidfd::Ended), "{:?}", event.pidfd);
}

/// Waits until something is queued, at most 30 seconds.
fn wait_for_events(watched: &Watched) {
    let mut descriptors = [PollFd::new(watched.group.as_fd(), PollFlags::POLLIN)];
    assert_eq!(poll(&mut descriptors, PollTimeout::from(30_000_u16)), Ok(1));
}

#[test]
fn a_name_may_be_long_and_need_not_be_text() {
    let mut watched = or_skip!(Watched::filesystem(changes()));
    let longest = OsString::from_vec((1..=255).map(|byte| if byte == b'/' { b'.' } else { byte }).collect());
    assert_eq!(longest.len(), 255);
    let also_longest = OsString::from_vec(vec![0xff; 255]);

    write(watched.path(&longest), "").unwrap();
    fs::rename(watched.path(&longest), watched.path(&also_longest)).unwrap();

    let seen = watched.seen();
    assert_eq!(seen[0].directory, watched.entry(&longest));
    let renamed = seen.iter().find(|event| event.mask.contains(Mask::RENAME)).unwrap();
    assert_eq!(renamed.old, watched.entry(&longest));
    assert_eq!(renamed.new, watched.entry(&also_longest));
}

/// Creates more names than the queue takes without `unlimited_queue`; `None` when that would be too many.
fn more_than_the_queue_takes(watched: &Watched) -> Option<usize> {
    // The file is there since Linux 5.13; the limit was a constant before.
    let limit = fs::read_to_string("/proc/sys/fs/fanotify/max_queued_events")
        .map_or(16_384, |limit| limit.trim().parse().unwrap());
    if limit > 100_000 {
        return skip(&format!("fs.fanotify.max_queued_events is {limit}"));
    }
    for number in 0..=limit {
        File::create(watched.path(number.to_string())).unwrap();
    }
    Some(limit)
}

#[test]
fn a_queue_with_a_limit_says_that_it_overflowed() {
    let options = Options { unlimited_queue: false, ..Options::default() };
    let mut watched = or_skip!(Watched::unmarked(options));
    watched.group.mark_filesystem(watched.root().as_fd(), Mask::CREATE).unwrap();

    let limit = or_skip!(more_than_the_queue_takes(&watched));

    let seen = watched.seen();
    assert_eq!(seen.len(), limit + 1);
    let overflow = seen.last().unwrap();
    assert_eq!(overflow.mask, Mask::Q_OVERFLOW);
    assert!(overflow.directory.is_none() && overflow.target.is_none());
    assert!(matches!(overflow.pidfd, Pidfd::Ended | Pidfd::NotReported), "{:?}", overflow.pidfd);
}

#[test]
fn a_queue_without_a_limit_keeps_everything() {
    let mut watched = or_skip!(Watched::filesystem(Mask::CREATE));

    let limit = or_skip!(more_than_the_queue_takes(&watched));

    let seen = watched.seen();
    assert_eq!(seen.len(), limit + 1);
    assert_eq!(masks(&seen), Mask::CREATE);
}

#[test]
fn what_was_not_asked_for_is_not_reported() {
    let options = Options { unlimited_queue: true, pidfd: false, target: false };
    let mut watched = or_skip!(Watched::unmarked(options));
    watched.group.mark_filesystem(watched.root().as_fd(), Mask::CREATE).unwrap();

    write(watched.path("file"), "").unwrap();

    let [event] = &watched.seen()[..] else { panic!("not one event") };
    assert_eq!(event.directory, watched.entry("file"));
    assert_eq!(event.target, None);
    assert!(matches!(event.pidfd, Pidfd::NotReported));
}
