//! Files with several watched names: what is done under one is told of each.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::json;
use vigie_fswatch::change::Event;

use super::running::{Alert, Running, recursive, with_backend};
use super::who::uses_fanotify;

on_every_backend! {
    what_is_written_under_a_new_name_is_told_under_the_old_one,
    what_is_written_under_one_of_two_known_names_is_told_under_both,
}

/// Two watched directories and one that nobody watches; in the first there are files.
struct Places {
    temp: tempfile::TempDir,
}

impl Places {
    fn new() -> Self {
        let temp = tempfile::tempdir().expect("a directory");
        for name in ["a", "b", "o"] {
            fs::create_dir(temp.path().join(name)).expect("a directory");
        }
        for name in ["f", "g", "h", "i"] {
            fs::write(temp.path().join("a").join(name), "1\n").expect("a file");
        }
        Self { temp }
    }

    fn at(&self, path: &str) -> PathBuf {
        self.temp.path().join(path)
    }

    fn watch(&self) -> Running {
        Running::on(&[&recursive(&self.at("a")), &recursive(&self.at("b"))])
    }

    /// Runs a script there; the shell itself writes.
    fn run(&self, script: &str) {
        let done = Command::new("sh").args(["-c", script]).current_dir(self.temp.path()).status();
        assert!(done.expect("a shell").success(), "{script}");
    }
}

fn append(path: &Path) {
    let file = fs::File::options().append(true).open(path);
    file.expect("a file").write_all(b"evil\n").expect("it can be written");
}

/// The next alert that a file has another content.
fn written(running: &Running, path: &Path) -> Alert {
    let is_it = |alert: &Alert| {
        alert.path == path.to_str().unwrap()
            && alert.event == Event::Changed
            && alert.before["size"] != alert.after["size"]
            && !alert.is_being_written()
    };
    running.next(is_it)
}

fn what_is_written_under_a_new_name_is_told_under_the_old_one() {
    let places = Places::new();
    let running = places.watch();

    fs::hard_link(places.at("a/f"), places.at("b/f")).unwrap();
    let mut created = None;
    running.next(|alert| {
        if alert.path.ends_with("/b/f") && alert.event == Event::Created {
            created = Some(alert.clone());
        }
        alert.path.ends_with("/a/f") && alert.attributes == ["links"]
    });
    let created = created.unwrap_or_else(|| running.next(|alert| alert.path.ends_with("/b/f")));
    append(&places.at("b/f"));

    assert!(!created.is_being_written(), "{created:?}");
    written(&running, &places.at("a/f"));
}

fn what_is_written_under_one_of_two_known_names_is_told_under_both() {
    let places = Places::new();
    fs::hard_link(places.at("a/f"), places.at("b/f")).unwrap();
    let running = places.watch();

    append(&places.at("b/f"));

    written(&running, &places.at("a/f"));
}

/// Each shell writes under another name and takes that away at once: only the old name is left to be told of.
#[test]
fn what_is_written_under_a_name_that_is_gone_at_once_is_told_with_who_wrote() {
    let places = Places::new();
    let running = places.watch();
    if !uses_fanotify(&running) {
        return;
    }
    let shell = fs::canonicalize("/bin/sh").unwrap();

    for (file, script) in [
        ("a/f", "ln a/f b/f; echo evil >> b/f; rm b/f"),
        ("a/g", "ln a/g o/g; echo evil >> o/g; rm o/g"),
        ("a/h", "ln a/h b/h; echo evil >> b/h; mv b/h o/h; rm o/h"),
        ("a/i", "echo 2 > b/new; ln a/i b/i; echo evil >> b/i; mv -f b/new b/i"),
    ] {
        places.run(script);

        let told = written(&running, &places.at(file));
        // Who takes a name away is told as well, and can be the last.
        let others = told.other_processes.as_array().into_iter().flatten();
        let mut who = others.chain([&told.process]);
        assert!(who.any(|process| process["executable"] == json!(shell)), "{script}: {told:?}");
    }
}

/// One process does it all, so that the kernel tells it as one event.
#[test]
fn what_one_process_does_under_another_name_in_one_go_is_told() {
    let places = Places::new();
    let running = places.watch();
    if !uses_fanotify(&running) {
        return;
    }

    for (file, other) in [("a/f", "b/f"), ("a/g", "o/g")] {
        fs::hard_link(places.at(file), places.at(other)).unwrap();
        append(&places.at(other));
        fs::remove_file(places.at(other)).unwrap();

        written(&running, &places.at(file));
    }
}
