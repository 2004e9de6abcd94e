use super::*;
use crate::extended::AttributeValue;
use sha2::{Digest, Sha256};
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;

use rustix::fs::Mode;

const ALL: Plan = Plan {
    hash: true,
    largest_hashed: None,
    prove: false,
    growing: false,
    spare_cache: false,
    being_read: false,
    being_written: false,
};

fn look(path: &Path, plan: Plan, known: Option<&Object>) -> Found {
    look_at(path, plan, known, &mut Scratch::default()).unwrap()
}

fn object_at(path: &Path) -> Object {
    match look(path, ALL, None) {
        Found::Object { object, .. } => object,
        Found::Missing => panic!("{path:?} is missing"),
    }
}

fn sha256(bytes: &[u8]) -> Content {
    Content::Digest(Sha256::digest(bytes).into())
}

#[test]
fn a_file_is_known_by_its_digest_whatever_its_size() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("file");
    for size in [0, 1, READ_BYTES - 1, READ_BYTES, READ_BYTES + 1, 3 * READ_BYTES] {
        let bytes: Vec<u8> = (0..size).map(|index| (index % 251) as u8).collect();
        fs::write(&path, &bytes).unwrap();
        for spare_cache in [false, true] {
            let Found::Object { object, .. } = look(&path, Plan { spare_cache, ..ALL }, None) else {
                panic!()
            };
            assert_eq!(object.content, sha256(&bytes), "{size} bytes");
            assert_eq!(object.size, size as u64);
        }
    }
}

#[test]
fn what_looks_the_same_is_not_read_again_unless_it_is_to_be_proved() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("file");
    fs::write(&path, "abc").unwrap();
    let forged = Object { content: Content::Digest([7; 32]), ..object_at(&path) };

    let Found::Object { object, .. } = look(&path, ALL, Some(&forged)) else { panic!() };
    assert_eq!(object.content, forged.content);
    let Found::Object { object, .. } = look(&path, Plan { prove: true, ..ALL }, Some(&forged)) else {
        panic!()
    };
    assert_eq!(object.content, sha256(b"abc"));
}

#[test]
fn special_files_and_links_are_seen_for_what_they_are_and_never_waited_for() {
    let directory = tempfile::tempdir().unwrap();
    let fifo = directory.path().join("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let link = directory.path().join("link");
    symlink("/nowhere/at all", &link).unwrap();
    let socket = directory.path().join("socket");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();

    assert_eq!(object_at(&fifo).kind, Kind::Fifo);
    assert_eq!(object_at(&socket).kind, Kind::Socket);
    assert_eq!(object_at(&link).content, Content::Target("/nowhere/at all".into()));
    assert_eq!(object_at(directory.path()).kind, Kind::Directory);
    assert_eq!(object_at(Path::new("/")).kind, Kind::Directory);
    assert_eq!(object_at(Path::new("/dev/null")).kind, Kind::CharacterDevice);
    assert_eq!(look(&directory.path().join("no"), ALL, None), Found::Missing);
    assert_eq!(look(&fifo.join("below"), ALL, None), Found::Missing);
    assert_eq!(look(&link.join("below"), ALL, None), Found::Missing);
}

#[test]
fn a_directory_that_became_a_link_leads_nowhere() {
    let directory = tempfile::tempdir().unwrap();
    fs::create_dir(directory.path().join("elsewhere")).unwrap();
    fs::write(directory.path().join("elsewhere/file"), "x").unwrap();
    symlink("elsewhere", directory.path().join("here")).unwrap();

    assert_eq!(look(&directory.path().join("here/file"), ALL, None), Found::Missing);
}

#[test]
fn names_longer_than_a_path_may_be_are_reached() {
    let directory = tempfile::tempdir().unwrap();
    let name = "d".repeat(255);
    let mut path = directory.path().to_owned();
    let mut at = open_directory(&path, &Avoided::default()).unwrap();
    for _ in 0..20 {
        rustix::fs::mkdirat(&at, &name, Mode::RWXU).unwrap();
        at = rustix::fs::openat(&at, &name, OFlags::DIRECTORY, Mode::empty()).unwrap();
        path.push(&name);
    }
    let file = rustix::fs::openat(&at, "file", OFlags::CREATE | OFlags::WRONLY, Mode::RUSR).unwrap();
    rustix::io::write(&file, b"deep").unwrap();

    assert_eq!(object_at(&path.join("file")).content, sha256(b"deep"));
}

#[test]
fn what_is_not_to_be_hashed_says_why() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("file");
    fs::write(&path, "abc").unwrap();

    for (plan, why) in [
        (Plan { hash: false, ..ALL }, NotRead::MetadataOnly),
        (Plan { largest_hashed: Some(2), ..ALL }, NotRead::TooLarge),
    ] {
        let Found::Object { object, .. } = look(&path, plan, None) else { panic!() };
        assert_eq!(object.content, Content::NotRead(why));
        assert_eq!(object.size, 3);
    }
}

#[test]
fn a_log_that_grew_is_told_from_one_that_was_rewritten() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("log");
    let growing = Plan { growing: true, ..ALL };
    for (before, after, expected) in [
        ("one\n", "one\ntwo\n", true),
        ("", "one\n", true),
        ("one\n", "two\ntwo\n", false),
        ("one\ntwo\n", "one\n", false),
        ("one\n", "two\n", false),
    ] {
        fs::write(&path, before).unwrap();
        let known = object_at(&path);
        fs::write(&path, after).unwrap();
        let Found::Object { object, grown } = look(&path, growing, Some(&known)) else { panic!() };
        assert_eq!(object.content, sha256(after.as_bytes()), "{before:?} {after:?}");
        assert_eq!(grown, expected, "{before:?} {after:?}");
    }
}

/// A file in memory, whose file system takes attributes of any number and length; `None` when there is none.
fn file_with(attributes: &[(String, Vec<u8>)]) -> Option<(tempfile::TempDir, PathBuf)> {
    let directory = tempfile::Builder::new().tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    let path = directory.path().join("file");
    fs::write(&path, "").unwrap();
    if attributes.iter().any(|(name, value)| set(&path, name, value).is_err()) {
        vigie_skipped::skipped("the file system does not take so many extended attributes");
        return None;
    }
    Some((directory, path))
}

fn set(path: &Path, name: &str, value: &[u8]) -> rustix::io::Result<()> {
    rustix::fs::setxattr(path, name, value, rustix::fs::XattrFlags::empty())
}

fn numbered(count: usize, name_bytes: usize, bytes: usize) -> Vec<(String, Vec<u8>)> {
    (0..count).map(|number| (format!("user.{number:0>name_bytes$}"), vec![b'x'; bytes])).collect()
}

/// More than is offered to the kernel at first, more than is kept, more than is read, and more than the kernel lists.
#[test]
fn every_change_of_many_and_large_extended_attributes_is_seen() {
    for (count, name_bytes, bytes) in
        [(1, 1, 600), (3, 1, 70), (30, 20, 1_000), (8, 1, 65_000), (300, 245, 1)]
    {
        let mut attributes = numbered(count, name_bytes, bytes);
        let Some((_directory, path)) = file_with(&attributes) else { return };
        let known = object_at(&path);
        assert!(!known.extended.is_empty());
        assert_eq!(object_at(&path).extended, known.extended, "{count} {bytes}");
        let is_all_read = count * bytes < 256 * 1024 && count * name_bytes < 64 * 1024;
        if is_all_read {
            // Set in another order.
            attributes.reverse();
            let (_other, path) = file_with(&attributes).unwrap();
            assert_eq!(object_at(&path).extended, known.extended, "{count} {bytes}");
        }

        for (name, value) in [attributes.first().unwrap(), attributes.last().unwrap()] {
            let mut other = value.clone();
            other[0] = b'y';
            set(&path, name, &other).unwrap();
            let changed = object_at(&path);
            assert_ne!(changed.extended, known.extended, "a value: {count} {bytes}");
            set(&path, name, value).unwrap();
            assert_eq!(object_at(&path).extended == known.extended, is_all_read, "{count} {bytes}");
            set(&path, "user.more", b"").unwrap();
            assert_ne!(object_at(&path).extended, known.extended, "one more: {count} {bytes}");
            rustix::fs::removexattr(&path, "user.more").unwrap();
            rustix::fs::removexattr(&path, name).unwrap();
            assert_ne!(object_at(&path).extended, known.extended, "one less: {count} {bytes}");
            set(&path, name, value).unwrap();
        }
    }
}

#[test]
fn a_capability_is_seen_behind_more_attributes_than_the_kernel_lists() {
    let Some((_directory, path)) = file_with(&numbered(300, 245, 1)) else { return };
    let capability = [1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    if set(&path, "security.capability", &capability).is_err() {
        vigie_skipped::skipped("file capabilities need root");
        return;
    }

    let seen = object_at(&path).extended;

    assert_eq!(seen.get(b"security.capability"), Some(AttributeValue::Whole(&capability)));
    assert!(seen.others().all(|(_, value)| matches!(value, AttributeValue::Together { count: 0, .. })));
}

#[test]
fn a_long_target_of_a_link_is_known_by_its_beginning_and_digest() {
    let directory = tempfile::tempdir().unwrap();
    let at = |target: String| {
        let link = directory.path().join("link");
        fs::remove_file(&link).ok();
        symlink(target, &link).unwrap();
        object_at(&link).content
    };
    let Content::LongTarget(kept) = at("t".repeat(4_000)) else { panic!() };

    assert_eq!((kept.length, kept.sha256), (4_000, Sha256::digest("t".repeat(4_000)).into()));
    assert!("t".repeat(4_000).starts_with(kept.beginning.to_str().unwrap()));
    assert_ne!(at("t".repeat(3_999) + "u"), Content::LongTarget(kept));
    assert_eq!(at("t".repeat(256)), Content::Target("t".repeat(256).into()));
}

#[test]
fn mode_and_extended_attributes_are_seen() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("file");
    fs::write(&path, "abc").unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o4755)).unwrap();
    let supported = rustix::fs::setxattr(&path, "user.note", b"hi", rustix::fs::XattrFlags::empty()).is_ok();

    let object = object_at(&path);

    assert_eq!(object.permissions, 0o4755);
    if supported {
        assert_eq!(object.extended.get(b"user.note"), Some(AttributeValue::Whole(b"hi")));
    }
}

#[test]
fn a_file_that_never_rests_is_reported_as_written_to_with_its_attributes() {
    let Some((_directory, path)) = file_with(&[("user.note".to_owned(), b"hi".to_vec())]) else { return };
    fs::write(&path, vec![0; 32 * READ_BYTES]).unwrap();
    let done = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let (writing, stop) = (path.clone(), done.clone());
    let writer = std::thread::spawn(move || {
        let file = fs::OpenOptions::new().write(true).open(writing).unwrap();
        let mut count = 0_u64;
        while !stop.load(std::sync::atomic::Ordering::Relaxed) {
            count += 1;
            std::os::unix::fs::FileExt::write_at(&file, &count.to_ne_bytes(), 0).unwrap();
        }
    });

    let object = object_at(&path);
    done.store(true, std::sync::atomic::Ordering::Relaxed);
    writer.join().unwrap();

    assert_eq!(object.content, Content::NotRead(NotRead::OpenForWriting));
    assert_eq!(object.extended.get(b"user.note"), Some(AttributeValue::Whole(b"hi")));
}
