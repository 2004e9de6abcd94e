//! What a group is told to watch, to leave out, and what it cannot watch.

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::process::Command;

use nix::mount::{MsFlags, mount};
use rustix::fs::{Mode, OFlags};
use vigie_fanotify::{Buffer, Group, Identity, MarkError, Mask, Options, handle_of};

use crate::common::{Watched, changes, group, masks, or_skip, own_mounts, skip, start, write};

#[test]
fn nothing_is_reported_after_the_mark_is_removed() {
    let mut watched = or_skip!(Watched::unmarked(Options::default()));
    let root = watched.root();
    let marked = changes() | Mask::EVENT_ON_CHILD;
    watched.group.mark_directory(root.as_fd(), marked).unwrap();

    watched.group.unmark_directory(root.as_fd(), marked).unwrap();

    write(watched.path("file"), "content").unwrap();
    assert!(watched.seen().is_empty());
    let again = watched.group.unmark_directory(root.as_fd(), marked);
    assert!(matches!(again, Err(MarkError::NotMarked(_))), "{again:?}");
}

#[test]
fn a_part_of_a_mark_can_be_removed() {
    let mut watched = or_skip!(Watched::unmarked(Options::default()));
    let root = watched.root();
    watched.group.mark_directory(root.as_fd(), changes() | Mask::EVENT_ON_CHILD).unwrap();

    watched.group.unmark_directory(root.as_fd(), Mask::CREATE | Mask::MODIFY).unwrap();

    write(watched.path("file"), "content").unwrap();
    assert_eq!(masks(&watched.seen()), Mask::CLOSE_WRITE);
}

#[test]
fn a_directory_alone_can_be_marked() {
    let mut watched = or_skip!(Watched::unmarked(Options::default()));
    fs::create_dir_all(watched.path("watched/deeper")).unwrap();
    let directory = File::open(watched.path("watched")).unwrap();
    watched.group.mark_directory(directory.as_fd(), changes() | Mask::EVENT_ON_CHILD).unwrap();

    write(watched.path("elsewhere"), "").unwrap();
    write(watched.path("watched/deeper/file"), "").unwrap();

    assert!(watched.seen().is_empty());

    write(watched.path("watched/file"), "").unwrap();

    let seen = watched.seen();
    assert_eq!(masks(&seen), Mask::CREATE | Mask::CLOSE_WRITE);
    assert_eq!(seen[0].directory, Some((watched.handle("watched"), "file".into())));

    watched.group.unmark_directory(directory.as_fd(), changes() | Mask::EVENT_ON_CHILD).unwrap();
    write(watched.path("watched/file"), "").unwrap();

    assert!(watched.seen().is_empty());
}

#[test]
fn a_directory_to_mark_may_be_open_for_reference_only() {
    let mut watched = or_skip!(Watched::unmarked(Options::default()));
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open(watched.tmpfs.root(), flags, Mode::empty()).unwrap();

    watched.group.mark_filesystem(root.as_fd(), Mask::CREATE).unwrap();

    write(watched.path("file"), "").unwrap();
    assert_eq!(masks(&watched.seen()), Mask::CREATE);
}

#[test]
fn a_file_is_not_marked_as_a_directory() {
    let watched = or_skip!(Watched::unmarked(Options::default()));
    write(watched.path("file"), "").unwrap();
    let file = File::open(watched.path("file")).unwrap();

    let refused = watched.group.mark_directory(file.as_fd(), Mask::CREATE);

    assert!(matches!(refused, Err(MarkError::Failed(_))), "{refused:?}");
}

#[test]
fn events_of_one_file_system_are_not_those_of_another() {
    let mut watched = or_skip!(Watched::filesystem(changes()));
    fs::create_dir(watched.path("other")).unwrap();
    mount(Some("tmpfs"), &watched.path("other"), Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
    watched.seen();

    write(watched.path("other/file"), "").unwrap();

    assert!(watched.seen().is_empty());
}

#[test]
fn what_happens_through_a_bind_mount_is_reported() {
    let mut watched = or_skip!(Watched::filesystem(Mask::CREATE));
    fs::create_dir(watched.path("directory")).unwrap();
    fs::create_dir(watched.path("bound")).unwrap();
    let (from, to) = (watched.path("directory"), watched.path("bound"));
    mount(Some(&from), &to, None::<&str>, MsFlags::MS_BIND, None::<&str>).unwrap();

    write(to.join("file"), "").unwrap();

    let seen = watched.seen();
    assert_eq!(seen.last().unwrap().directory, Some((watched.handle("directory"), "file".into())));
}

#[test]
fn an_overlay_is_refused_and_its_handles_only_compare() {
    let watched = or_skip!(Watched::unmarked(Options::default()));
    for name in ["lower", "upper", "work", "merged"] {
        fs::create_dir(watched.path(name)).unwrap();
    }
    write(watched.path("lower/file"), "").unwrap();
    let [lower, upper, work] =
        ["lower", "upper", "work"].map(|name| watched.path(name).display().to_string());
    let options = format!("lowerdir={lower},upperdir={upper},workdir={work}");
    let merged = watched.path("merged");
    let mounted = mount(Some("overlay"), &merged, Some("overlay"), MsFlags::empty(), Some(&options[..]));
    if let Err(error) = mounted {
        return or_skip!(skip(&format!("no overlay can be mounted: {error}")));
    }
    let root = File::open(&merged).unwrap();

    let refused = watched.group.mark_filesystem(root.as_fd(), changes());

    assert!(matches!(refused, Err(MarkError::FilesystemUnsupported(_))), "{refused:?}");

    match handle_of(root.as_fd(), "file".as_ref()) {
        Ok(identity) => {
            assert!(matches!(identity, Identity::Comparable(_)));
            assert_eq!(handle_of(root.as_fd(), "file".as_ref()).unwrap(), identity);
            assert_ne!(handle_of(root.as_fd(), "".as_ref()).unwrap(), identity);
        }
        // Before Linux 6.5.
        Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::Unsupported),
    }
}

/// A file system in a file, which can be broken on purpose.
#[test]
fn a_file_system_that_finds_itself_damaged_is_reported() {
    let group = or_skip!(group(Options::default()));
    or_skip!(own_mounts());
    let directory = tempfile::tempdir().unwrap();
    let image = directory.path().join("image");
    let mounted = directory.path().join("mounted");
    fs::create_dir(&mounted).unwrap();
    File::create(&image).unwrap().set_len(4 << 20).unwrap();
    let succeeds =
        |command: &mut Command| start(|| command.output()).is_ok_and(|output| output.status.success());
    if !succeeds(Command::new("mkfs.ext4").arg("-q").arg(&image))
        || !succeeds(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(&mounted))
    {
        return or_skip!(skip("no ext4 can be made and mounted in a file"));
    }
    let root = File::open(&mounted).unwrap();
    group.mark_filesystem(root.as_fd(), Mask::FS_ERROR).unwrap();

    let aborted = succeeds(Command::new("mount").args(["-o", "remount,abort"]).arg(&mounted));

    let error = first_error(&group);
    drop(root);
    assert!(succeeds(Command::new("umount").arg(&mounted)));
    assert!(aborted);
    let (code, count) = error.unwrap();
    assert_ne!(code, 0);
    assert_eq!(count, 1);
}

/// Number and count of the first file system error that is queued.
fn first_error(group: &Group) -> Option<(i32, u32)> {
    let mut buffer = Buffer::new(0);
    let mut events = group.read(&mut buffer).unwrap()?;
    let event = events.next()?.unwrap();
    assert_eq!(event.mask, Mask::FS_ERROR);
    assert!(event.target.is_some());
    event.error.map(|error| (error.code, error.count))
}
