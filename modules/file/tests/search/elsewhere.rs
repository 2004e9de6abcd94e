//! File systems that do not respond, and the roots of other processes.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};
use vigie_file::File as Module;
use vigie_sdk::StandardModule;

use crate::harness::{Tree, ask, elements, query};

/// A FUSE file system whose program never answers.
struct Hung {
    device: Option<File>,
    point: PathBuf,
}

impl Hung {
    fn at(point: &Path) -> Option<Self> {
        let device = File::options().read(true).write(true).open("/dev/fuse").ok()?;
        let mounted = Command::new("mount")
            .args(["-i", "-t", "fuse", "-o", "fd=0,rootmode=40000,user_id=0,group_id=0", "hung"])
            .arg(point)
            .stdin(device.try_clone().ok()?)
            .stderr(Stdio::null())
            .status();
        let is_mounted = mounted.is_ok_and(|status| status.success());
        is_mounted.then(|| Self { device: Some(device), point: point.to_owned() })
    }
}

impl Drop for Hung {
    fn drop(&mut self) {
        // Without its program, whoever waits is told so.
        self.device = None;
        Command::new("umount").arg("-l").arg(&self.point).status().ok();
    }
}

/// What was not examined, with the reasons.
fn not_examined(result: &vigie_sdk::ModuleResult) -> String {
    let skipped = &result.coverage.as_ref().unwrap().not_examined;
    skipped.iter().map(|one| format!("{}: {}\n", one.what, one.why)).collect()
}

#[test]
fn a_search_path_that_does_not_respond_keeps_nothing_else_from_being_answered() {
    let tree = Tree::with(&[("here/wanted", "text")]);
    // More than there are threads on most hosts, so that each would wait.
    let points: Vec<PathBuf> = (0..6).map(|number| tree.path(&format!("hung{number}"))).collect();
    let mut mounts = Vec::new();
    for point in &points {
        std::fs::create_dir(point).unwrap();
        match Hung::at(point) {
            Some(mount) => mounts.push(mount),
            None => return vigie_skipped::skipped("no FUSE file system can be mounted"),
        }
    }
    let mut paths: Vec<String> = points.iter().map(|point| point.to_str().unwrap().to_owned()).collect();
    paths.push(format!("{}/*", paths[0]));
    let mut asked = query(&json!({"searches": {
        "hung": {"paths": paths, "names": ["wanted"]},
        "here": {"paths": [tree.text("here")], "contents": ["text"], "options": {"matchall": true}},
    }}));
    let deadline = std::time::SystemTime::now() + std::time::Duration::from_secs(20);
    asked.deadline = Some(jiff::Timestamp::try_from(deadline).unwrap().to_string());

    let result = Module::run(&asked);

    assert!(!result.success);
    assert_eq!(tree.files(&elements(&result)["here"]), ["here/wanted"]);
    let skipped = not_examined(&result);
    for number in 0..6 {
        assert!(skipped.contains(&format!("hung{number}: does not respond")), "{skipped}");
    }
    assert!(skipped.contains("hung0/*: does not respond"), "{skipped}");
    assert!(!skipped.lines().any(|line| line.starts_with(':')), "{skipped}");
    assert!(skipped.contains("the rest of the search: it ended early"), "{skipped}");
}

#[test]
fn what_was_found_is_answered_in_time_although_a_file_system_does_not_respond() {
    let tree = Tree::with(&[("here/wanted", "text")]);
    std::fs::create_dir(tree.path("hung")).unwrap();
    let Some(_mount) = Hung::at(&tree.path("hung")) else {
        return vigie_skipped::skipped("no FUSE file system can be mounted");
    };
    let ask = |paths: &[&str], milliseconds| {
        let paths: Vec<String> = paths.iter().map(|path| tree.text(path)).collect();
        let search = json!({"paths": paths, "names": ["wanted"], "options": {"matchall": true}});
        let mut asked = query(&json!({"searches": {"s": search}}));
        let deadline = jiff::Timestamp::now() + std::time::Duration::from_millis(milliseconds);
        asked.deadline = Some(deadline.to_string());
        let result = Module::run(&asked);
        assert!(jiff::Timestamp::now() < deadline, "{milliseconds}");
        assert!(!result.success);
        result
    };

    let result = ask(&["hung"], 2_000);
    let skipped = not_examined(&result);
    assert!(skipped.contains("hung: does not respond"), "{skipped}");

    // A pattern leaves time for what is there.
    let result = ask(&["hung/*", "hung", "here"], 4_000);
    assert_eq!(tree.files(&elements(&result)["s"]), ["here/wanted"]);
    let skipped = not_examined(&result);
    assert!(skipped.contains("hung/*: does not respond"), "{skipped}");
}

/// Mounts as many hung file systems at these paths of a tree; `None` where there can be none.
fn hang(tree: &Tree, paths: impl IntoIterator<Item = String>) -> Option<Vec<Hung>> {
    let mounts = paths.into_iter().map(|path| {
        std::fs::create_dir_all(tree.path(&path)).unwrap();
        Hung::at(&tree.path(&path))
    });
    let mounts: Option<Vec<Hung>> = mounts.collect();
    if mounts.is_none() {
        vigie_skipped::skipped("no FUSE file system can be mounted");
    }
    mounts
}

/// Searches some paths for files with `text` in them, into other file systems too, for so many seconds.
fn ask_for(tree: &Tree, paths: &[&str], seconds: u64) -> vigie_sdk::ModuleResult {
    let paths: Vec<String> = paths.iter().map(|path| tree.text(path)).collect();
    let options = json!({"matchall": true, "remotefs": true});
    let mut asked =
        query(&json!({"searches": {"s": {"paths": paths, "contents": ["text"], "options": options}}}));
    let deadline = jiff::Timestamp::now() + std::time::Duration::from_secs(seconds);
    asked.deadline = Some(deadline.to_string());
    Module::run(&asked)
}

#[test]
fn what_a_held_thread_was_to_do_is_done_by_the_others() {
    let tree = Tree::new();
    for number in 0..60 {
        tree.write(&format!("all/{number}/file"), "text");
        tree.write(&format!("all/file{number}"), "text");
    }
    let Some(_mounts) = hang(&tree, (0..4).map(|number| format!("all/hung{number}"))) else { return };

    let result = ask_for(&tree, &["all"], 15);

    assert_eq!(tree.files(&elements(&result)["s"]).len(), 120, "{}", not_examined(&result));
    let skipped = not_examined(&result);
    assert_eq!(skipped.matches("does not respond: ").count(), 4, "{skipped}");
}

#[test]
fn a_directory_whose_listing_is_held_is_named() {
    let tree = Tree::new();
    for number in 0..20 {
        tree.write(&format!("all/file{number}"), "text");
    }
    let Some(_mount) = hang(&tree, ["all/hung".to_owned()]) else { return };
    std::os::unix::fs::symlink("hung/file", tree.path("all/link")).unwrap();

    let result = ask_for(&tree, &["all"], 5);

    let skipped = not_examined(&result);
    assert!(skipped.contains("all/link: does not respond: "), "{skipped}");
    let listed = format!(
        "{}: was not listed to its end: the search waits for {},",
        tree.text("all"),
        tree.text("all/link")
    );
    assert!(skipped.contains(&listed), "{skipped}");
}

#[test]
fn a_search_path_that_is_a_link_to_what_does_not_respond_holds_up_no_other() {
    let tree = Tree::with(&[("here/wanted", "text")]);
    let Some(_mounts) = hang(&tree, (0..6).map(|number| format!("hung{number}"))) else { return };
    let links: Vec<String> = (0..6).map(|number| format!("link{number}")).collect();
    for (number, link) in links.iter().enumerate() {
        std::os::unix::fs::symlink(tree.path(&format!("hung{number}/x")), tree.path(link)).unwrap();
    }
    let paths: Vec<&str> = links.iter().map(String::as_str).chain(["here"]).collect();

    let result = ask_for(&tree, &paths, 15);

    assert_eq!(tree.files(&elements(&result)["s"]), ["here/wanted"], "{}", not_examined(&result));
}

/// A process in mounts of its own, as a container has them.
struct Container(Child);

impl Container {
    fn start(directory: &Path) -> Option<Self> {
        let script = "set -e; mount -t tmpfs none \"$1\"; cd \"$1\"; mkdir -p etc old srv; echo inside >etc/marker; \
                      ln -s /etc/marker etc/link; ln -s /etc var; ln -s ../../../../../etc srv/up; \
                      pivot_root . old; cd /; echo ready; read end";
        let mut child = Command::new("unshare")
            .args(["-m", "--propagation", "private", "sh", "-c", script, "sh"])
            .arg(directory)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .ok()?;
        let mut line = String::new();
        BufReader::new(child.stdout.take()?).read_line(&mut line).ok()?;
        let started = Self(child);
        (line == "ready\n").then_some(started)
    }

    fn path(&self, path: &str) -> String {
        format!("/proc/{}/{path}", self.0.id())
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

fn found(result: &vigie_sdk::ModuleResult) -> Vec<String> {
    let all = elements(result);
    let files = all["s"].as_array().unwrap().iter().map(|one| one["file"].as_str().unwrap().to_owned());
    files.filter(|file| !file.is_empty()).collect()
}

#[test]
fn the_root_of_another_process_is_searched_as_that_process_sees_it() {
    let directory = tempfile::tempdir().unwrap();
    let Some(container) = Container::start(directory.path()) else {
        return vigie_skipped::skipped("no mount namespace can be made");
    };
    let search = |path: &str, fields: Value| {
        let mut search = json!({"paths": [container.path(path)], "options": {"matchall": true}});
        search.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        ask(&json!({"searches": {"s": search}}))
    };

    // Links lead where they lead that process, and every one of these exists on this host too.
    for path in ["root/etc", "root/var", "root/srv/up"] {
        let result = search(path, json!({"contents": ["inside"]}));
        let expected = ["link", "marker"].map(|name| format!("{}/{name}", container.path(path)));
        assert_eq!(found(&result), expected, "{result:?}");
        let names = search(path, json!({"names": ["^(hostname|passwd|marker)$"]}));
        assert_eq!(found(&names), [format!("{}/marker", container.path(path))], "{names:?}");
        assert!(names.coverage.unwrap().complete);
    }
    let result = search("root/etc/link", json!({"names": ["."]}));
    assert_eq!(found(&result), [container.path("root/etc/link")], "{result:?}");
    // Its own kernel file systems are known as such, and its mount of the host is searched.
    let host = search("root", json!({"names": ["^marker$"], "options": {"matchall": true, "maxdepth": 2}}));
    assert_eq!(found(&host), [container.path("root/etc/marker")], "{host:?}");
}

#[test]
fn a_link_of_the_kernels_into_other_mounts_is_not_taken_for_a_path_of_this_host() {
    let directory = tempfile::tempdir().unwrap();
    let Some(container) = Container::start(directory.path()) else {
        return vigie_skipped::skipped("no mount namespace can be made");
    };

    let result = ask(&json!({"searches": {"s": {"paths": [container.path("cwd")], "names": ["."]}}}));

    assert_eq!(found(&result), Vec::<String>::new());
    assert!(!result.coverage.as_ref().unwrap().complete);
    let errors = result.errors.unwrap().concat();
    assert!(errors.contains("search it below /proc/PID/root"), "{errors}");
}

#[test]
fn nobody_knows_what_was_in_the_root_of_a_process_that_has_ended() {
    let mut child = Command::new("true").spawn().unwrap();
    child.wait().unwrap();
    let path = format!("/proc/{}/root/etc", child.id());

    let result = ask(&json!({"searches": {"s": {"paths": [path], "names": ["."]}}}));

    assert!(!result.coverage.unwrap().complete);
}
