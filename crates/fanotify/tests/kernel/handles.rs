//! Handles of what lies on a disk.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::symlink;

use nix::mount::{MsFlags, mount};
use rustix::fs::{Mode, OFlags, fstat};
use vigie_fanotify::{FilesystemId, Handle, Identity, handle_of, open_handle};

use crate::common::{Tmpfs, or_skip, skip, write};

fn openable(directory: &File, name: &str) -> Handle {
    match handle_of(directory.as_fd(), name.as_ref()).unwrap() {
        Identity::Openable(handle) => handle,
        Identity::Comparable(handle) => panic!("not openable: {handle:?}"),
    }
}

fn open(mount: &File, handle: &Handle) -> Option<OwnedFd> {
    match open_handle(mount.as_fd(), handle) {
        Err(error) if error.kind() == ErrorKind::PermissionDenied => skip("CAP_DAC_READ_SEARCH is missing"),
        result => Some(result.unwrap()),
    }
}

#[test]
fn a_handle_opens_what_it_was_made_from_also_after_a_rename() {
    let tmpfs = or_skip!(Tmpfs::new());
    let root = File::open(tmpfs.root()).unwrap();
    fs::create_dir(tmpfs.path("directory")).unwrap();
    write(tmpfs.path("directory/file"), "content").unwrap();
    let before = fstat(File::open(tmpfs.path("directory/file")).unwrap()).unwrap();
    let directory = File::open(tmpfs.path("directory")).unwrap();
    let handle = openable(&directory, "file");

    fs::rename(tmpfs.path("directory/file"), tmpfs.path("renamed")).unwrap();
    let opened = or_skip!(open(&root, &handle));

    let after = fstat(&opened).unwrap();
    assert_eq!((after.st_dev, after.st_ino), (before.st_dev, before.st_ino));
    assert_eq!(openable(&root, "renamed"), handle);
    assert_eq!(openable(&root, "directory"), openable(&directory, ""));
    assert_eq!(openable(&root, "directory"), openable(&directory, "."));
    assert_ne!(openable(&root, "directory"), handle);
    assert_eq!(handle.filesystem(), FilesystemId::of(root.as_fd()).unwrap());
}

#[test]
fn a_handle_of_a_directory_leads_to_its_path() {
    let tmpfs = or_skip!(Tmpfs::new());
    fs::create_dir_all(tmpfs.path("a/b")).unwrap();
    let root = File::open(tmpfs.root()).unwrap();
    let handle = openable(&root, "a/b");

    let opened = or_skip!(open(&root, &handle));

    let link = format!("/proc/thread-self/fd/{}", opened.as_raw_fd());
    assert_eq!(fs::read_link(link).unwrap(), tmpfs.path("a/b"));
}

#[test]
fn a_symbolic_link_has_a_handle_of_its_own() {
    let tmpfs = or_skip!(Tmpfs::new());
    let root = File::open(tmpfs.root()).unwrap();
    write(tmpfs.path("file"), "").unwrap();
    symlink("file", tmpfs.path("link")).unwrap();

    let handle = openable(&root, "link");

    assert_ne!(handle, openable(&root, "file"));
    let opened = or_skip!(open(&root, &handle));
    assert_eq!(rustix::fs::readlinkat(&opened, "", Vec::new()).unwrap().as_c_str(), c"file");
}

#[test]
fn a_mount_point_stands_for_what_is_mounted() {
    let tmpfs = or_skip!(Tmpfs::new());
    let root = File::open(tmpfs.root()).unwrap();
    fs::create_dir(tmpfs.path("other")).unwrap();
    let below = openable(&root, "other");
    mount(Some("tmpfs"), &tmpfs.path("other"), Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
    let other = File::open(tmpfs.path("other")).unwrap();

    let handle = openable(&root, "other");

    assert_eq!(handle, openable(&other, ""));
    assert_eq!(handle.filesystem(), FilesystemId::of(other.as_fd()).unwrap());
    assert_ne!(handle.filesystem(), below.filesystem());
}

#[test]
fn a_handle_of_what_is_gone_is_stale() {
    let tmpfs = or_skip!(Tmpfs::new());
    let root = File::open(tmpfs.root()).unwrap();
    write(tmpfs.path("file"), "").unwrap();
    let handle = openable(&root, "file");

    fs::remove_file(tmpfs.path("file")).unwrap();

    let refused = open_handle(root.as_fd(), &handle).unwrap_err();
    if refused.kind() == ErrorKind::PermissionDenied {
        return or_skip!(skip("CAP_DAC_READ_SEARCH is missing"));
    }
    assert_eq!(refused.kind(), ErrorKind::StaleNetworkFileHandle);
    let refused = handle_of(root.as_fd(), "file".as_ref()).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::NotFound);
}

#[test]
fn what_is_open_for_reference_only_has_a_handle() {
    let tmpfs = or_skip!(Tmpfs::new());
    write(tmpfs.path("file"), "").unwrap();
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let file = rustix::fs::open(tmpfs.path("file"), flags, Mode::empty()).unwrap();

    let identity = handle_of(file.as_fd(), "".as_ref()).unwrap();

    assert_eq!(identity.handle(), &openable(&File::open(tmpfs.root()).unwrap(), "file"));
}

#[test]
fn the_disk_of_this_host_gives_handles_that_open() {
    let directory = tempfile::tempdir().unwrap();
    let root = File::open(directory.path()).unwrap();
    write(directory.path().join("file"), "").unwrap();
    let handle = match handle_of(root.as_fd(), "file".as_ref()) {
        Ok(Identity::Openable(handle)) => handle,
        other => {
            return or_skip!(skip(&format!(
                "the directory for temporary files has no such handles: {other:?}"
            )));
        }
    };

    let opened = or_skip!(open(&root, &handle));

    let expected = fstat(File::open(directory.path().join("file")).unwrap()).unwrap();
    assert_eq!(fstat(opened).unwrap().st_ino, expected.st_ino);
}
