//! The crate against the running kernel. Needs `CAP_SYS_ADMIN`; without it each test says so and ends.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::event::{PollFd, PollFlags, poll};
use vigie_fanotify::{Buffer, Entry, Group, Handle, Mask, Options, Pidfd, handle_of, open_handle};

/// What happened to one name.
#[derive(Debug, Clone, PartialEq)]
struct Told {
    mask: Mask,
    name: OsString,
    old: Option<OsString>,
    pid: i32,
    has_ended: bool,
    target: Option<Handle>,
}

/// A marked file system, and a directory on it whose events are looked at.
struct Watched {
    group: Group,
    directory: tempfile::TempDir,
    handle: Handle,
}

impl Watched {
    fn new(options: Options, mask: Mask) -> Option<Self> {
        let group = match Group::new(options) {
            Ok(group) => group,
            Err(error) => {
                writeln!(std::io::stderr(), "skipped: fanotify gives no group: {error}").unwrap();
                return None;
            }
        };
        let directory = tempfile::tempdir().unwrap();
        let open = File::open(directory.path()).unwrap();
        if let Err(error) = group.mark_filesystem(open.as_fd(), mask) {
            writeln!(std::io::stderr(), "skipped: the file system takes no mark: {error}").unwrap();
            return None;
        }
        let handle = handle_of(open.as_fd(), OsStr::new("")).unwrap();
        Some(Self { group, directory, handle })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// All that happened in the directory until a file with this name was made.
    fn until(&self, last: &str) -> Vec<Told> {
        let mut told: Vec<Told> = Vec::new();
        let mut buffer = Buffer::new(64 * 1024);
        while !told.iter().any(|one| one.name == last) {
            poll(&mut [PollFd::new(&self.group, PollFlags::IN)], None).unwrap();
            while let Some(events) = self.group.read(&mut buffer).unwrap() {
                for event in events {
                    let here = |entry: &Entry<'_>| Handle::from(entry.directory) == self.handle;
                    let Some(entry) = event.entry.or(event.new).or(event.old).filter(here) else { continue };
                    told.push(Told {
                        mask: event.mask,
                        name: entry.name.to_owned(),
                        old: event.old.map(|entry| entry.name.to_owned()),
                        pid: event.pid,
                        has_ended: matches!(event.pidfd, Pidfd::Ended),
                        target: event.target.map(Handle::from),
                    });
                }
            }
        }
        told
    }
}

fn all() -> Mask {
    Mask::CREATE
        | Mask::DELETE
        | Mask::RENAME
        | Mask::MODIFY
        | Mask::CLOSE_WRITE
        | Mask::ATTRIB
        | Mask::DIRECTORY
}

#[test]
fn what_happens_in_a_directory_is_told_by_name_and_process() {
    let Some(watched) = Watched::new(Options::default(), all()) else { return };
    let odd = OsString::from_vec(vec![b'n'; 253].into_iter().chain([0xff, b'\n']).collect());

    fs::write(watched.path("file"), "1").unwrap();
    fs::set_permissions(watched.path("file"), std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    fs::hard_link(watched.path("file"), watched.path("link")).unwrap();
    fs::create_dir(watched.path("sub")).unwrap();
    fs::rename(watched.path("file"), watched.path("renamed")).unwrap();
    fs::remove_file(watched.path("link")).unwrap();
    fs::write(watched.directory.path().join(&odd), "").unwrap();
    fs::write(watched.path("last"), "").unwrap();
    let told = watched.until("last");

    let masks = |name: &OsStr| {
        told.iter().filter(|one| one.name == name).fold(Mask::default(), |all, one| all | one.mask)
    };
    let written = Mask::CREATE | Mask::MODIFY | Mask::CLOSE_WRITE | Mask::ATTRIB;
    assert!(masks(OsStr::new("file")).contains(written), "{told:?}");
    assert!(masks(OsStr::new("link")).contains(Mask::CREATE | Mask::DELETE), "{told:?}");
    assert!(masks(OsStr::new("sub")).contains(Mask::CREATE | Mask::DIRECTORY), "{told:?}");
    assert!(masks(&odd).contains(Mask::CREATE), "{told:?}");
    let renamed = told.iter().find(|one| one.mask.contains(Mask::RENAME)).unwrap();
    assert_eq!(
        (renamed.name.as_bytes(), renamed.old.as_deref()),
        (&b"renamed"[..], Some(OsStr::new("file")))
    );
    let own = i32::try_from(std::process::id()).unwrap();
    assert!(told.iter().all(|one| one.pid == own && !one.has_ended), "{told:?}");
}

#[test]
fn an_exchange_is_told_from_both_sides() {
    let Some(watched) = Watched::new(Options::default(), all()) else { return };
    fs::write(watched.path("a"), "").unwrap();
    fs::write(watched.path("b"), "").unwrap();

    let directory = File::open(watched.directory.path()).unwrap();
    rustix::fs::renameat_with(&directory, "a", &directory, "b", rustix::fs::RenameFlags::EXCHANGE).unwrap();
    fs::write(watched.path("last"), "").unwrap();

    let told = watched.until("last");
    let renames: Vec<_> = told.iter().filter(|one| one.mask.contains(Mask::RENAME)).collect();
    assert_eq!(renames.len(), 2, "{told:?}");
}

#[test]
fn a_process_that_ended_is_told_as_such_and_its_program_by_its_start() {
    let Some(watched) = Watched::new(Options::default(), all() | Mask::OPEN_EXEC) else { return };
    fs::copy("/bin/true", watched.path("program")).unwrap();

    let status = Command::new("sh")
        .arg("-c")
        .arg("echo > \"$0\"; \"$1\"")
        .arg(watched.path("by-shell"))
        .arg(watched.path("program"))
        .status()
        .unwrap();
    assert!(status.success());
    fs::write(watched.path("last"), "").unwrap();

    let told = watched.until("last");
    let by_shell = told.iter().find(|one| one.name == "by-shell").unwrap();
    assert!(by_shell.has_ended, "{told:?}");
    let program = told.iter().find(|one| one.mask.contains(Mask::OPEN_EXEC)).unwrap();
    assert_eq!(program.name, "program");
}

#[test]
fn a_handle_leads_to_the_same_inode_under_every_name_until_it_is_gone() {
    let Some(watched) = Watched::new(Options::default(), all()) else { return };
    let directory = File::open(watched.directory.path()).unwrap();
    fs::write(watched.path("a"), "").unwrap();
    let inode = fs::metadata(watched.path("a")).unwrap().ino();
    let handle = handle_of(directory.as_fd(), OsStr::new("a")).unwrap();

    fs::rename(watched.path("a"), watched.path("b")).unwrap();
    let opened = open_handle(directory.as_fd(), handle.as_ref()).unwrap();
    let path = fs::read_link(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&opened))).unwrap();
    assert_eq!(rustix::fs::fstat(&opened).unwrap().st_ino, inode);
    assert_eq!(path, fs::canonicalize(watched.path("b")).unwrap());
    drop(opened);
    fs::remove_file(watched.path("b")).unwrap();

    let gone = open_handle(directory.as_fd(), handle.as_ref()).unwrap_err();
    assert_eq!(gone.raw_os_error(), Some(libc::ESTALE));
    fs::write(watched.path("last"), "").unwrap();
    assert!(watched.until("last").iter().any(|one| one.target == Some(handle.clone())));
}

#[test]
fn a_bounded_queue_tells_that_it_overflowed() {
    let options = Options { unlimited_queue: false, ..Options::default() };
    let Some(watched) = Watched::new(options, all()) else { return };
    let bound: usize =
        fs::read_to_string("/proc/sys/fs/fanotify/max_queued_events").unwrap().trim().parse().unwrap();

    for number in 0..bound + 1000 {
        fs::write(watched.path(&format!("{}-{number}", number % 7)), "").unwrap();
    }
    let mut buffer = Buffer::new(64 * 1024);
    let mut overflowed = false;
    while let Some(events) = watched.group.read(&mut buffer).unwrap() {
        overflowed |= events.into_iter().any(|event| event.mask.contains(Mask::OVERFLOW));
    }

    assert!(overflowed);
}

#[test]
fn what_is_not_marked_any_more_is_not_told_and_no_descriptor_is_left_open() {
    let Some(watched) = Watched::new(Options::default(), all()) else { return };
    let open = File::open(watched.directory.path()).unwrap();
    fs::write(watched.path("first"), "").unwrap();
    watched.until("first");

    watched.group.unmark_filesystem(open.as_fd(), all()).unwrap();
    fs::write(watched.path("second"), "").unwrap();
    let mut buffer = Buffer::new(4096);
    while let Some(events) = watched.group.read(&mut buffer).unwrap() {
        for event in events {
            assert_ne!(event.entry.map(|entry| entry.name), Some(OsStr::new("second")));
        }
    }
}

#[test]
fn proc_takes_no_mark() {
    let Ok(group) = Group::new(Options::default()) else { return };
    let proc = File::open("/proc").unwrap();

    assert!(group.mark_filesystem(proc.as_fd(), all()).is_err());
    assert!(Path::new("/proc/self").exists());
}
