//! Whatever may lie in a directory.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;

use rustix::fs::{CWD, FileType, Mode, mknodat};
use serde_json::{Value, json};

use crate::harness::{Tree, ask, elements, statistics};

fn everything() -> Value {
    json!({"contents": ["!nothing has this"]})
}

#[test]
fn fifos_sockets_and_devices_are_neither_opened_nor_waited_for() {
    let tree = Tree::with(&[("file", "x")]);
    mknodat(CWD, tree.path("fifo"), FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    let _listener = UnixListener::bind(tree.path("socket")).unwrap();
    // /dev/zero, which would be read for ever.
    let zero = rustix::fs::makedev(1, 5);
    if mknodat(CWD, tree.path("zero"), FileType::CharacterDevice, Mode::RUSR, zero).is_err() {
        vigie_skipped::skipped("a device can only be made with CAP_MKNOD; the rest is tested");
    }
    symlink("fifo", tree.path("link to fifo")).unwrap();

    assert_eq!(tree.find(everything()), ["file"]);
}

#[test]
fn a_search_path_that_is_no_file_is_an_error() {
    let tree = Tree::new();
    mknodat(CWD, tree.path("fifo"), FileType::Fifo, Mode::RUSR, 0).unwrap();
    let paths = json!([tree.text("fifo"), tree.text("none")]);

    let result = ask(&json!({"searches": {"s": {"paths": paths, "contents": ["a"]}}}));

    assert!(result.success && !result.foundanything);
    let errors = result.errors.clone().unwrap();
    assert_eq!(errors.len(), 2, "{errors:?}");
    assert!(errors[0].contains("fifo\" is neither a file nor a directory"), "{errors:?}");
    assert!(errors[1].contains("none\" cannot be opened: No such file or directory"), "{errors:?}");
    assert_eq!(statistics(&result)["openfailed"], 1);
    assert_eq!(elements(&result)["s"][0]["file"], "");
}

#[test]
fn a_search_path_itself_is_found_whatever_it_is() {
    let tree = Tree::with(&[("directory/inner", "x")]);
    mknodat(CWD, tree.path("fifo"), FileType::Fifo, Mode::RUSR, 0).unwrap();
    let _listener = UnixListener::bind(tree.path("socket")).unwrap();
    for (target, link) in [("directory", "to_directory"), ("gone", "dangling"), ("fifo", "to_fifo")] {
        symlink(target, tree.path(link)).unwrap();
    }
    let found = |paths: &[&str], kinds: &[&str]| {
        let paths: Vec<String> = paths.iter().map(|path| tree.text(path)).collect();
        let result = ask(&json!({"searches": {
            "s": {"paths": paths, "types": kinds, "names": ["."], "options": {"matchall": true}}
        }}));
        (tree.files(&elements(&result)["s"]), result.errors.is_none())
    };
    let these = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();

    for (path, kind) in [
        ("directory", "directory"),
        ("to_directory", "directory"),
        ("to_directory", "link"),
        ("fifo", "fifo"),
        ("to_fifo", "fifo"),
        ("to_fifo", "link"),
        ("socket", "socket"),
    ] {
        assert_eq!(found(&[path], &[kind]).0, [path], "{path} {kind}");
    }
    assert_eq!(found(&["dangling"], &["link"]).0, ["dangling"]);
    assert_eq!(found(&["fifo"], &["socket", "directory"]), (these(&[]), false));
    // What is met on the way from another search path is found once.
    let all = ["", "directory", "fifo", "to_fifo", "to_directory"];
    assert_eq!(found(&all, &["fifo"]).0, ["fifo", "to_fifo"]);
    assert_eq!(found(&all, &["link"]).0, ["dangling", "to_directory", "to_fifo"]);
    assert_eq!(found(&["directory", "directory"], &["directory"]).0, ["directory"]);
    // A way that crosses a link, is too deep or is excluded leads to none.
    symlink("../fifo", tree.path("directory/link")).unwrap();
    for (path, more) in [
        ("to_directory/link", json!({})),
        ("directory/link", json!({"options": {"maxdepth": 1}})),
        ("directory/link", json!({"excludes": [tree.text("directory")]})),
    ] {
        let mut search =
            json!({"paths": [tree.text(""), tree.text(path)], "types": ["link"], "names": ["^link$"]});
        search.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let result = ask(&json!({"searches": {"s": search}}));
        assert!(tree.files(&elements(&result)["s"]).contains(&path.to_owned()), "{path} {more}");
    }
}

#[test]
fn odd_names_are_found() {
    let tree = Tree::new();
    let odd = ["-rf", "a b", "new\nline", "quote\"", "back\\slash", "é", ".hidden", "*"];
    for name in odd {
        tree.write(name, "x");
    }
    let longest = "n".repeat(255);
    tree.write(&longest, "x");

    let mut expected: Vec<&str> = odd.iter().copied().chain([longest.as_str()]).collect();
    expected.sort_unstable();

    assert_eq!(tree.find(everything()), expected);
    assert_eq!(tree.find(json!({"names": [r"\n"]})), ["new\nline"]);
}

#[test]
fn a_name_that_is_no_text_is_matched_as_bytes_and_returned_with_them() {
    let tree = Tree::new();
    let path = tree.path("").join(OsStr::from_bytes(b"\xff\xfe"));
    std::fs::write(&path, "x").unwrap();

    let result = ask(&json!({"searches": {"s": tree.search(json!({"names": [r"(?-u)^\xff"]}))}}));

    let found = &elements(&result)["s"][0];
    assert_eq!(found["file"], tree.text("\u{fffd}\u{fffd}"));
    assert!(found["filebytes"].as_str().unwrap().ends_with("2FFFFE"), "{found}");
}

#[test]
fn links_to_files_are_followed_below_the_search_path_only() {
    let tree = Tree::with(&[("in/real", "needle"), ("out/real", "needle")]);
    symlink("real", tree.path("in/below")).unwrap();
    symlink(tree.path("in/real"), tree.path("in/absolute")).unwrap();
    symlink("../out/real", tree.path("in/outside")).unwrap();
    symlink("gone", tree.path("in/dangling")).unwrap();
    symlink("../out", tree.path("in/directory")).unwrap();
    symlink(".", tree.path("in/self")).unwrap();
    symlink("circle", tree.path("in/circle")).unwrap();

    let result = ask(&json!({"searches": {
        "s": {"paths": [tree.text("in")], "contents": ["needle"], "options": {"matchall": true}}
    }}));

    assert_eq!(tree.files(&elements(&result)["s"]), ["in/absolute", "in/below", "in/real"]);
    assert_eq!(result.errors, None);
    assert_eq!(statistics(&result)["filescount"], 3);
}

#[test]
fn a_link_is_matched_by_its_own_name_and_its_files_metadata() {
    let tree = Tree::with(&[("real", "12345")]);
    symlink("real", tree.path("link")).unwrap();

    assert_eq!(tree.find(json!({"names": ["^link$"], "sizes": ["5"]})), ["link"]);
    assert_eq!(tree.find(json!({"names": ["^link$"]})), ["link"]);
}

#[test]
fn a_search_path_that_is_a_link_is_followed_as_find_does_with_h() {
    let tree = Tree::with(&[("file", "x"), ("directory/inner", "x")]);
    symlink("file", tree.path("to_file")).unwrap();
    symlink("directory", tree.path("to_directory")).unwrap();
    let paths = json!([tree.text("to_file"), tree.text("to_directory")]);

    let result = ask(&json!({"searches": {"s": {"paths": paths, "names": ["."]}}}));

    assert_eq!(tree.files(&elements(&result)["s"]), ["to_directory/inner", "to_file"]);
    assert_eq!(result.errors, None);
    let coverage = result.coverage.unwrap();
    assert_eq!((coverage.complete, coverage.examined), (true, 2));
}

#[test]
fn a_search_path_may_lead_through_links() {
    let tree = Tree::with(&[("real/inner/a", "x"), ("real/inner/b/c", "x")]);
    symlink("real", tree.path("link")).unwrap();
    symlink("../a", tree.path("real/inner/b/up")).unwrap();

    let found = tree.find(json!({"paths": [tree.text("link/inner")], "names": ["."]}));

    assert_eq!(found, ["link/inner/a", "link/inner/b/c", "link/inner/b/up"]);
}

#[test]
fn a_path_longer_than_the_kernel_takes_is_searched() {
    let tree = Tree::new();
    let mut directory = vigie_file::open::open_directory(CWD, tree.text("").as_bytes()).unwrap();
    for _ in 0..25 {
        let name = "d".repeat(200);
        rustix::fs::mkdirat(&directory, &name, Mode::RWXU).unwrap();
        directory =
            vigie_file::open::open_directory(std::os::fd::AsFd::as_fd(&directory), name.as_bytes()).unwrap();
    }
    let flags = rustix::fs::OFlags::CREATE | rustix::fs::OFlags::WRONLY;
    let file = rustix::fs::openat(&directory, "deep", flags, Mode::RUSR).unwrap();
    rustix::io::write(&file, b"needle").unwrap();

    assert_eq!(tree.find(json!({"contents": ["needle"]})).len(), 1);
}

#[test]
fn what_may_not_be_read_is_told_and_still_found_by_its_metadata() {
    if !vigie_skipped::is_plain_user() {
        return;
    }
    let tree = Tree::with(&[("locked", "x"), ("closed/inner", "x")]);
    for path in ["locked", "closed"] {
        std::fs::set_permissions(tree.path(path), std::os::unix::fs::PermissionsExt::from_mode(0o0)).unwrap();
    }

    let result = ask(&json!({"searches": {
        "content": tree.search(json!({"contents": ["x"]})),
        "name": tree.search(json!({"names": ["locked"], "options": {"returnsha256": true}})),
    }}));

    std::fs::set_permissions(tree.path("closed"), std::os::unix::fs::PermissionsExt::from_mode(0o700))
        .unwrap();
    assert!(tree.files(&elements(&result)["content"]).is_empty());
    assert_eq!(tree.files(&elements(&result)["name"]), ["locked"]);
    assert_eq!(statistics(&result)["openfailed"], 2);
    assert_eq!(result.errors.unwrap().len(), 2);
}

#[test]
fn file_systems_that_hold_nothing_are_entered_when_asked_only() {
    let find = |paths: Value, all: bool| {
        let options = json!({"maxdepth": 2, "matchall": true, "allfilesystems": all});
        let search = json!({"paths": paths, "names": ["^version$"], "options": options});
        let result = ask(&json!({"searches": {"s": search}}));
        let matches = elements(&result)["s"].as_array().unwrap().clone();
        matches.iter().any(|found| found["file"] == "/proc/version")
    };

    assert!(!find(json!(["/"]), false));
    assert!(find(json!(["/"]), true));
    assert!(find(json!(["/proc"]), false));
    assert!(find(json!(["/", "/proc"]), false));
    assert!(find(json!(["/proc/version"]), false));
}

#[test]
fn what_the_kernel_makes_up_is_read_although_it_has_no_size() {
    let search = json!({"paths": ["/proc/version"], "contents": ["^Linux version"], "sizes": ["0"]});

    let result = ask(&json!({"searches": {"s": search}}));

    assert_eq!(statistics(&result)["totalhits"], 2);
}
