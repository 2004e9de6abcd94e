//! The engine on real directories: whatever is done to them, what is told covers exactly the differences. Every case
//! runs where fanotify may be used, which without privileges is inotify as well, and where only inotify may be used.

use std::collections::{BTreeMap, HashSet};
use std::ffi::OsString;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use proptest::prelude::*;
use rustix::fs::{CWD, Mode, OFlags};
use serde_json::{Value, json};
use vigie_fswatch::change::Event;
use vigie_fswatch::engine::{Engine, Order, SharedStatus};
use vigie_fswatch::events::Mailbox;
use vigie_sdk::protocol::Asker;

use super::running::{Alert, CEILING, Running, Said, TestSink, recursive, sorted_texts, texts, with_backend};

macro_rules! on_every_backend {
    ($($name:ident,)*) => {
        mod auto {
            $(#[test] fn $name() { super::with_backend("auto", super::$name); })*
        }
        mod inotify {
            $(#[test] fn $name() { super::with_backend("inotify", super::$name); })*
        }
    };
}

on_every_backend! {
    a_changed_a_new_and_a_removed_file_are_each_told_once,
    a_second_change_of_the_same_file_is_told_as_well,
    an_atomic_replacement_is_one_change,
    nested_directories_made_at_once_hide_no_file,
    a_tree_that_is_moved_in_and_out_is_told_file_by_file,
    a_fifo_stops_nothing,
    a_missing_path_is_waited_for_and_watched_when_it_comes,
    a_root_that_is_removed_and_made_again_stays_watched,
    a_root_that_is_a_link_is_followed_and_so_is_its_new_target,
    a_single_file_is_watched_through_its_replacements,
    what_is_no_longer_configured_is_forgotten_in_silence,
    overlapping_entries_tell_each_change_once,
    what_is_done_to_a_file_without_writing_it_is_told,
    what_a_rule_leaves_out_is_not_told_and_its_severity_is,
    wildcards_cover_what_comes_later,
    a_log_that_is_rotated_is_no_change_and_one_that_is_exchanged_is,
    a_log_that_is_copied_and_emptied_is_no_change_and_one_that_is_only_emptied_is,
    a_log_that_is_compressed_is_no_change_and_one_in_whose_place_something_else_comes_is,
    a_log_that_is_written_while_it_is_copied_is_no_change_and_one_that_lost_lines_is,
    a_log_that_is_emptied_before_its_copy_is_complete_is_no_change,
    many_files_with_other_names_are_told_with_both,
    a_rotation_is_no_change_however_long_it_takes,
    a_large_log_that_is_copied_and_emptied_is_no_change,
    a_log_with_an_extension_is_found_in_its_copy_of_an_earlier_round,
    what_only_looks_like_a_rotation_is_told,
    what_is_done_to_a_log_while_it_is_renamed_is_told,
    a_log_that_comes_back_with_other_rights_and_one_that_is_exchanged_with_its_copy_are_told,
    what_is_no_copy_any_more_excuses_no_loss,
    a_log_that_is_written_all_the_time_is_compared_with_what_it_was,
    a_log_that_only_grows_is_no_change,
    a_rescan_finds_what_gave_no_notification,
    a_store_to_a_mapped_page_is_found_by_reading_everything,
    names_of_any_bytes_and_paths_beyond_what_the_kernel_takes_are_told,
    a_tree_too_deep_to_be_watched_is_one_entry_of_the_status_as_long_as_it_is_there,
    lost_notifications_are_said_and_what_they_hid_is_told,
    a_clock_that_jumped_makes_no_window_that_ends_before_it_begins,
    a_directory_that_may_not_be_read_any_more_is_said_and_the_rest_goes_on,
    what_changed_while_nobody_watched_is_told_once_with_the_time_in_which_it_happened,
    the_same_changes_are_told_once_while_they_happen,
    a_directory_with_another_name_is_told_once_with_what_is_in_it,
    a_damaged_baseline_is_not_trusted_and_that_is_told,
    a_life_that_ends_before_everything_was_compared_leaves_the_time_and_raises_no_alarm,
    queues_that_overflow_again_and_again_make_one_comparison_more_and_no_storm_of_notices,
    the_file_that_a_link_leads_to_is_watched_only_where_links_are_followed,
    an_accepted_change_is_no_longer_listed_and_who_accepted_it_is_told,
    a_storm_is_one_alert_and_its_members_are_in_the_history,
    a_file_that_goes_back_and_forth_is_told_a_few_times_and_then_with_a_count,
    what_goes_from_a_directory_that_has_just_moved_is_told,
    the_alerts_lead_from_the_first_state_to_the_last,
    the_alerts_of_several_lives_lead_from_the_first_state_to_the_last,
}

fn a_changed_a_new_and_a_removed_file_are_each_told_once() {
    let temp = tempfile::tempdir().unwrap();
    let directory = temp.path();
    fs::write(directory.join("a"), "1").unwrap();
    fs::write(directory.join("b"), "1").unwrap();
    let mut running = Running::on(&[directory.to_str().unwrap()]);

    fs::write(directory.join("a"), "2").unwrap();
    fs::remove_file(directory.join("b")).unwrap();
    fs::write(directory.join("c"), "").unwrap();
    let mut told = texts(&running.told(directory), directory);

    told.sort();
    assert_eq!(told, ["changed a", "created c", "removed b"]);
}

fn a_second_change_of_the_same_file_is_told_as_well() {
    let temp = tempfile::tempdir().unwrap();
    let directory = temp.path();
    fs::write(directory.join("a"), "1").unwrap();
    let mut running = Running::on(&[directory.to_str().unwrap()]);

    fs::write(directory.join("a"), "2").unwrap();
    let first = running.told(directory);
    fs::write(directory.join("a"), "3").unwrap();
    let second = running.told(directory);

    assert_eq!(first[0].after["sha256"], second[0].before["sha256"]);
    assert_eq!(texts(&second, directory), ["changed a"]);
}

fn an_atomic_replacement_is_one_change() {
    let temp = tempfile::tempdir().unwrap();
    let directory = temp.path();
    fs::write(directory.join("a"), "1").unwrap();
    let mut running = Running::settling(json!({"paths": {"path": [directory]}}), 500);

    // Both within one settling, however busy the host is.
    fs::write(directory.join("a.new"), "2").unwrap();
    fs::rename(directory.join("a.new"), directory.join("a")).unwrap();
    let told = texts(&running.told(directory), directory);

    assert_eq!(told, ["changed a"]);
}

fn nested_directories_made_at_once_hide_no_file() {
    let temp = tempfile::tempdir().unwrap();
    let directory = temp.path();
    let mut running = Running::on(&[&recursive(directory)]);

    for number in 0..200 {
        let inner = directory.join(format!("{number}/a/b"));
        fs::create_dir_all(&inner).unwrap();
        fs::write(inner.join("file"), "x").unwrap();
    }
    let told = running.told(directory);

    let created =
        |kind| told.iter().filter(|alert| alert.event == Event::Created && alert.kind == kind).count();
    assert_eq!((created("file"), created("directory")), (200, 600), "{:?}", texts(&told, directory));
}

fn a_tree_that_is_moved_in_and_out_is_told_file_by_file() {
    let temp = tempfile::tempdir().unwrap();
    let (directory, outside) = (temp.path().join("in"), temp.path().join("out"));
    fs::create_dir_all(&directory).unwrap();
    fs::create_dir_all(outside.join("sub")).unwrap();
    fs::write(outside.join("sub/a"), "").unwrap();
    fs::write(outside.join("b"), "").unwrap();
    let mut running = Running::on(&[&recursive(&directory)]);

    fs::rename(&outside, directory.join("tree")).unwrap();
    let mut came = texts(&running.told(&directory), &directory);
    fs::rename(directory.join("tree"), &outside).unwrap();
    let mut went = texts(&running.told(&directory), &directory);

    came.sort();
    went.sort();
    assert_eq!(came, ["created tree", "created tree/b", "created tree/sub", "created tree/sub/a"]);
    assert_eq!(went, ["removed tree", "removed tree/b", "removed tree/sub", "removed tree/sub/a"]);
}

fn a_fifo_stops_nothing() {
    let temp = tempfile::tempdir().unwrap();
    let directory = temp.path();
    let mut running = Running::on(&[directory.to_str().unwrap()]);

    nix::unistd::mkfifo(&directory.join("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    fs::write(directory.join("later"), "").unwrap();
    let mut told = texts(&running.told(directory), directory);

    told.sort();
    assert_eq!(told, ["created fifo", "created later"]);
}

fn a_missing_path_is_waited_for_and_watched_when_it_comes() {
    let temp = tempfile::tempdir().unwrap();
    let directory = temp.path().join("not/there/yet");
    let mut running = Running::on(&[&recursive(&directory)]);
    running.status_when(|status| status.waiting.contains(&directory) && status.baseline_complete);

    fs::create_dir_all(&directory).unwrap();
    fs::write(directory.join("a"), "").unwrap();
    let told = sorted_texts(&running.told(&directory), &directory);

    assert_eq!(told, ["created .", "created a"]);
    running.status_when(|status| status.waiting.is_empty());
}

fn a_root_that_is_removed_and_made_again_stays_watched() {
    let temp = tempfile::tempdir().unwrap();
    let directory = temp.path().join("root");
    fs::create_dir(&directory).unwrap();
    fs::write(directory.join("a"), "1").unwrap();
    let mut running = Running::on(&[directory.to_str().unwrap()]);

    fs::remove_dir_all(&directory).unwrap();
    running.status_when(|status| !status.waiting.is_empty() && status.alerts == 2);
    fs::create_dir(&directory).unwrap();
    fs::write(directory.join("b"), "1").unwrap();
    let mut told = texts(&running.told(&directory), &directory);

    told.sort();
    assert_eq!(told, ["created .", "created b", "removed .", "removed a"]);
}

fn a_root_that_is_a_link_is_followed_and_so_is_its_new_target() {
    let temp = tempfile::tempdir().unwrap();
    let (first, second, link) = (temp.path().join("1"), temp.path().join("2"), temp.path().join("link"));
    fs::create_dir(&first).unwrap();
    fs::create_dir(&second).unwrap();
    symlink(&first, &link).unwrap();
    let mut running = Running::on(&[&recursive(&link)]);

    fs::write(first.join("a"), "").unwrap();
    let in_first = texts(&running.told(&first), temp.path());
    symlink(&second, temp.path().join("new")).unwrap();
    fs::rename(temp.path().join("new"), &link).unwrap();
    let changed = running.soon(|alert| alert.path.ends_with("/link"));
    running.status_when(|status| status.alerts >= 3);
    fs::write(second.join("b"), "").unwrap();
    let after = texts(&running.told(&second), temp.path());

    assert_eq!(in_first, ["created 1/a"]);
    assert_eq!(texts(&[changed], temp.path()), ["changed link"]);
    assert!(after.contains(&"created 2/b".to_owned()), "{after:?}");
}

fn a_single_file_is_watched_through_its_replacements() {
    let temp = tempfile::tempdir().unwrap();
    let file = temp.path().join("file");
    fs::write(&file, "1").unwrap();
    let marks = temp.path().join("marks");
    fs::create_dir(&marks).unwrap();
    let mut running = Running::on(&[file.to_str().unwrap(), marks.to_str().unwrap()]);

    fs::write(temp.path().join("other"), "").unwrap();
    fs::remove_file(&file).unwrap();
    let removed = texts(&running.told(&marks), temp.path());
    fs::write(&file, "2").unwrap();
    let created = texts(&running.told(&marks), temp.path());
    fs::write(temp.path().join("other"), "3").unwrap();
    fs::rename(temp.path().join("other"), &file).unwrap();
    let replaced = texts(&running.told(&marks), temp.path());

    assert_eq!(
        (removed, created, replaced),
        (vec!["removed file".to_owned()], vec!["created file".to_owned()], vec!["changed file".to_owned()],)
    );
}

fn what_is_no_longer_configured_is_forgotten_in_silence() {
    let temp = tempfile::tempdir().unwrap();
    let (first, second) = (temp.path().join("1"), temp.path().join("2"));
    fs::create_dir(&first).unwrap();
    fs::create_dir(&second).unwrap();
    fs::write(second.join("known"), "1").unwrap();
    let mut running = Running::on(&[first.to_str().unwrap()]);

    running.watch(&[second.to_str().unwrap()]);
    fs::write(first.join("a"), "").unwrap();
    fs::write(second.join("known"), "2").unwrap();
    let told = texts(&running.told(&second), temp.path());

    assert_eq!(told, ["changed 2/known"]);
}

fn overlapping_entries_tell_each_change_once() {
    let temp = tempfile::tempdir().unwrap();
    let directory = temp.path();
    let sub = directory.join("sub");
    fs::create_dir(&sub).unwrap();
    fs::write(sub.join("a"), "1").unwrap();
    let file = sub.join("a");
    let mut running = Running::on(&[
        &recursive(directory),
        sub.to_str().unwrap(),
        file.to_str().unwrap(),
        &recursive(&sub),
    ]);

    fs::write(&file, "2").unwrap();
    let told = texts(&running.told(directory), directory);

    assert_eq!(told, ["changed sub/a"]);
}

fn what_is_done_to_a_file_without_writing_it_is_told() {
    let temp = tempfile::tempdir().unwrap();
    let directory = temp.path();
    let file = directory.join("a");
    fs::write(&file, "1").unwrap();
    let mut running = Running::on(&[directory.to_str().unwrap()]);

    fs::set_permissions(&file, PermissionsExt::from_mode(0o4755)).unwrap();
    let mode = running.told(directory);
    fs::hard_link(&file, directory.join("b")).unwrap();
    let link = running.told(directory);
    fs::File::options().write(true).open(&file).unwrap().set_modified(std::time::UNIX_EPOCH).unwrap();
    let touched = running.told(directory);

    assert_eq!(
        (mode[0].attributes.as_slice(), mode[0].before["mode"].as_str()),
        (&["mode".to_owned()][..], Some("0644"))
    );
    assert_eq!(mode[0].severity, "critical");
    assert!(texts(&link, directory).contains(&"created b".to_owned()), "{link:?}");
    assert!(
        touched.iter().any(|alert| alert.attributes.iter().any(|name| name == "modification_time")),
        "{touched:?}"
    );
}

fn what_a_rule_leaves_out_is_not_told_and_its_severity_is() {
    let temp = tempfile::tempdir().unwrap();
    let directory = temp.path();
    let mut running = Running::configured(json!({"paths": {
        "path": [recursive(directory)], "exclude": ["*.swp", "cache"], "severity": "low", "tags": ["web"],
    }}));

    fs::create_dir(directory.join("cache")).unwrap();
    fs::write(directory.join("cache/x"), "").unwrap();
    fs::write(directory.join(".a.swp"), "").unwrap();
    fs::write(directory.join("a"), "").unwrap();
    let told = running.told(directory);

    assert_eq!(texts(&told, directory), ["created a"]);
    assert_eq!(told[0].severity, "low");
    assert_eq!(told[0].tags, ["web"]);
}

fn wildcards_cover_what_comes_later() {
    let temp = tempfile::tempdir().unwrap();
    let directory = temp.path();
    let mut running = Running::on(&[
        &format!("{}/home/*/.ssh/keys", directory.display()),
        &recursive(&directory.join("marks")),
    ]);
    fs::create_dir(directory.join("marks")).unwrap();

    fs::create_dir_all(directory.join("home/ada/.ssh")).unwrap();
    fs::write(directory.join("home/ada/.ssh/keys"), "key").unwrap();
    fs::write(directory.join("home/ada/.ssh/other"), "").unwrap();
    let told = texts(&running.told(&directory.join("marks")), directory);

    assert!(told.contains(&"created home/ada/.ssh/keys".to_owned()), "{told:?}");
    assert!(!told.iter().any(|text| text.contains("other")), "{told:?}");
}

fn a_log_that_is_rotated_is_no_change_and_one_that_is_exchanged_is() {
    let temp = tempfile::tempdir().unwrap();
    let log = temp.path().join("log");
    fs::write(&log, "one\n").unwrap();
    let mut running =
        Running::configured(json!({"paths": {"path": [temp.path()], "growing": true, "exclude": ["new"]}}));

    fs::rename(&log, temp.path().join("log.1")).unwrap();
    fs::write(&log, "two\n").unwrap();
    let rotated = running.told(temp.path());
    fs::write(temp.path().join("new"), "three\n").unwrap();
    fs::rename(temp.path().join("new"), &log).unwrap();
    let exchanged = running.told(temp.path());

    assert_eq!(texts(&rotated, temp.path()), [""; 0]);
    assert_eq!(texts(&exchanged, temp.path()), ["changed log"]);
}

fn a_log_that_is_copied_and_emptied_is_no_change_and_one_that_is_only_emptied_is() {
    let temp = tempfile::tempdir().unwrap();
    let log = temp.path().join("log");
    fs::write(&log, "one\n").unwrap();
    let mut running = Running::configured(json!({"paths": {"path": [temp.path()], "growing": true}}));

    // As logrotate does with copytruncate, twice.
    fs::copy(&log, temp.path().join("log.1")).unwrap();
    fs::write(&log, "").unwrap();
    let first = running.told(temp.path());
    fs::write(&log, "two\nthree\n").unwrap();
    let grown = running.told(temp.path());
    fs::rename(temp.path().join("log.1"), temp.path().join("log.2")).unwrap();
    fs::copy(&log, temp.path().join("log.1")).unwrap();
    fs::write(&log, "").unwrap();
    let second = running.told(temp.path());
    fs::write(&log, "four\n").unwrap();
    running.told(temp.path());
    fs::write(&log, "").unwrap();
    let emptied = running.told(temp.path());

    for told in [first, grown, second] {
        assert_eq!(texts(&told, temp.path()), [""; 0]);
    }
    assert_eq!(texts(&emptied, temp.path()), ["changed log"]);
}

fn a_log_that_is_written_while_it_is_copied_is_no_change_and_one_that_lost_lines_is() {
    let temp = tempfile::tempdir().unwrap();
    let at = |name: &str| temp.path().join(name);
    fs::write(at("log"), "one\n").unwrap();
    let mut running = Running::configured(json!({"paths": {"path": [temp.path()], "growing": true}}));

    // Nobody sees the second line before it is in the copy.
    fs::write(at("log.1"), "one\ntwo\n").unwrap();
    fs::write(at("log"), "").unwrap();
    let copied = running.told(temp.path());
    fs::write(at("log"), "three\n").unwrap();
    let grown = running.told(temp.path());
    fs::write(at("log.2"), "thr\n").unwrap();
    fs::write(at("log"), "").unwrap();
    let lost = running.told(temp.path());

    assert_eq!((copied, grown), (Vec::new(), Vec::new()));
    assert_eq!(sorted_texts(&lost, temp.path()), ["changed log", "created log.2"]);
}

fn a_log_that_is_emptied_before_its_copy_is_complete_is_no_change() {
    let temp = tempfile::tempdir().unwrap();
    let at = |name: &str| temp.path().join(name);
    fs::write(at("log"), "two\n").unwrap();
    fs::write(at("log.1"), "one\n").unwrap();
    let mut running = Running::configured(json!({"paths": {"path": [temp.path()], "growing": true}}));

    fs::rename(at("log.1"), at("log.2")).unwrap();
    let mut copy = fs::File::create(at("log.1")).unwrap();
    copy.write_all(b"tw").unwrap();
    let begun = running.told_unfinished(temp.path());
    fs::write(at("log"), "").unwrap();
    let emptied = running.told_unfinished(temp.path());
    copy.write_all(b"o\n").unwrap();
    drop(copy);
    let complete = running.told(temp.path());

    assert_eq!((begun, emptied, complete), (Vec::new(), Vec::new(), Vec::new()));
}

fn many_files_with_other_names_are_told_with_both() {
    let temp = tempfile::tempdir().unwrap();
    let name = |kind: &str, number: usize| temp.path().join(format!("{kind}{number:03}"));
    // More than are looked at together.
    let all = 0..600;
    all.clone().for_each(|number| fs::write(name("old", number), number.to_string()).unwrap());
    let mut running = Running::configured(
        json!({"paths": {"path": [recursive(temp.path())]}, "fswatch": {"storm_changes": 10_000}}),
    );

    all.clone().for_each(|number| fs::rename(name("old", number), name("new", number)).unwrap());
    let told = running.told(temp.path());

    let expected: Vec<_> = all.map(|number| format!("renamed new{number:03}")).collect();
    assert_eq!(sorted_texts(&told, temp.path()), expected);
}

fn a_rotation_is_no_change_however_long_it_takes() {
    let temp = tempfile::tempdir().unwrap();
    let at = |name: &str| temp.path().join(name);
    fs::write(at("log"), "one\n").unwrap();
    let mut running = Running::configured(json!({"paths": {"path": [temp.path()], "growing": true}}));
    let (mut told, copy) = (Vec::new(), std::cell::RefCell::new(None));
    let mut step = |running: &mut Running, step: &dyn Fn()| {
        step();
        let steps = if copy.borrow().is_some() {
            running.told_unfinished(temp.path())
        } else {
            running.told(temp.path())
        };
        told.extend(texts(&steps, temp.path()));
    };

    // As logrotate does with `copytruncate`, on a host on which each step takes longer than the engine waits.
    let write =
        |text: &[u8]| copy.borrow_mut().as_mut().map(|copy: &mut fs::File| copy.write_all(text).unwrap());
    let opened = |name: &str| *copy.borrow_mut() = Some(fs::File::create(at(name)).unwrap());
    step(&mut running, &|| opened("log.1"));
    step(&mut running, &|| write(b"on").unwrap());
    step(&mut running, &|| write(b"e\n").unwrap());
    step(&mut running, &|| *copy.borrow_mut() = None);
    step(&mut running, &|| fs::write(at("log"), "").unwrap());
    step(&mut running, &|| fs::write(at("log"), "two\n").unwrap());
    // As it does with `create`, `compress` and `delaycompress`.
    for (first, second) in [("log.3", "log.4"), ("log-20261128", "log-1")] {
        step(&mut running, &|| fs::rename(at("log"), at(first)).unwrap());
        step(&mut running, &|| fs::write(at("log"), "").unwrap());
        step(&mut running, &|| fs::write(at("log"), first).unwrap());
        step(&mut running, &|| fs::rename(at(first), at(second)).unwrap());
        step(&mut running, &|| fs::rename(at("log"), at(first)).unwrap());
        step(&mut running, &|| fs::write(at("log"), "").unwrap());
        let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        packed.write_all(&fs::read(at(second)).unwrap()).unwrap();
        let packed = packed.finish().unwrap();
        let (head, rest) = packed.split_at(7);
        step(&mut running, &|| opened(&format!("{second}.gz")));
        step(&mut running, &|| write(head).unwrap());
        step(&mut running, &|| write(rest).unwrap());
        step(&mut running, &|| *copy.borrow_mut() = None);
        step(&mut running, &|| fs::remove_file(at(second)).unwrap());
    }

    assert_eq!(told, [""; 0]);
}

/// The copy stands before the log in the order of names, and is known already when the log is emptied.
fn a_log_with_an_extension_is_found_in_its_copy_of_an_earlier_round() {
    let temp = tempfile::tempdir().unwrap();
    let at = |name: &str| temp.path().join(name);
    for name in ["a.log", "b.log"] {
        fs::write(at(name), "one\n").unwrap();
    }
    let mut running = Running::configured(json!({"paths": {"path": [temp.path()], "growing": true}}));
    let mut told = Vec::new();
    for (log, copy) in [("a.log", "a-20261128.log"), ("b.log", "b.1.log")] {
        fs::copy(at(log), at(copy)).unwrap();
        told.extend(texts(&running.told(temp.path()), temp.path()));
        fs::write(at(log), "").unwrap();
        told.extend(texts(&running.told(temp.path()), temp.path()));
    }

    assert_eq!(told, [""; 0]);
}

fn what_only_looks_like_a_rotation_is_told() {
    let temp = tempfile::tempdir().unwrap();
    let at = |name: &str| temp.path().join(name);
    for name in ["log", "log-access"] {
        fs::write(at(name), "one\n").unwrap();
    }
    fs::write(at("log.1"), "two\n").unwrap();
    let mut running = Running::configured(json!({"paths": {"path": [temp.path()], "growing": true}}));

    fs::rename(at("log-access"), at("log-other")).unwrap();
    let other_name = running.told(temp.path());
    fs::rename(at("log.1"), at("log.2")).unwrap();
    fs::set_permissions(at("log.2"), PermissionsExt::from_mode(0o4755)).unwrap();
    let rights = running.told(temp.path());
    let program = fs::File::options().create_new(true).write(true).mode(0o755).open(at("log.3")).unwrap();
    let open = running.told_unfinished(temp.path());
    drop(program);
    running.told(temp.path());
    // As a rotation or growth, and other rights in the same moment.
    let set_user = || PermissionsExt::from_mode(0o4755);
    fs::write(at("log"), "one\nmore\n").unwrap();
    fs::set_permissions(at("log"), set_user()).unwrap();
    let grown = running.told(temp.path());
    fs::copy(at("log"), at("log.4")).unwrap();
    fs::set_permissions(at("log.4"), set_user()).unwrap();
    let copied = running.told(temp.path());
    fs::write(at("other"), "one\n").unwrap();
    running.told(temp.path());
    fs::rename(at("other"), at("other.1")).unwrap();
    fs::set_permissions(at("other.1"), set_user()).unwrap();
    fs::write(at("other"), "").unwrap();
    let renamed = running.told(temp.path());

    assert_eq!(texts(&grown, temp.path()), ["changed log"]);
    assert_eq!(grown[0].attributes, ["mode"]);
    assert_eq!(texts(&copied, temp.path()), ["created log.4"]);
    assert!(texts(&renamed, temp.path()).iter().any(|text| text.ends_with("other.1")), "{renamed:?}");
    assert_eq!(texts(&other_name, temp.path()), ["renamed log-other"]);
    assert!(!rights.is_empty());
    assert_eq!(texts(&open, temp.path()), ["created log.3"]);
}

fn what_is_done_to_a_log_while_it_is_renamed_is_told() {
    let temp = tempfile::tempdir().unwrap();
    let at = |name: &str| temp.path().join(name);
    let large = vec![b'x'; 20 << 20];
    for name in ["a", "a.1", "b", "c", "d", "e"] {
        fs::write(at(name), format!("one\ntwo {name}\n")).unwrap();
    }
    for name in ["f", "g"] {
        fs::write(at(name), &large).unwrap();
    }
    // All of a step within one settling.
    let mut running = Running::settling(json!({"paths": {"path": [temp.path()], "growing": true}}), 500);
    let rotate = |name: &str, rest: &dyn Fn(&Path)| {
        fs::rename(at(name), at(&format!("{name}.1"))).unwrap();
        rest(&at(&format!("{name}.1")));
        fs::write(at(name), "").unwrap();
    };
    let append = |path: &Path| {
        fs::File::options().append(true).open(path).unwrap().write_all(b"more\n").unwrap();
    };

    for name in ["a", "b", "f"] {
        rotate(name, &append);
    }
    let appended = running.told(temp.path());
    rotate("c", &|path| fs::write(path, "evil\n").unwrap());
    let rewritten = running.told(temp.path());
    rotate("g", &|path| {
        fs::File::options().write(true).open(path).unwrap().write_all_at(b"evil", 1 << 20).unwrap();
    });
    let large = running.next(|alert| alert.path.contains("/g"));
    let set =
        |path: &Path| rustix::fs::setxattr(path, "user.note", b"x", rustix::fs::XattrFlags::empty()).is_ok();
    let can = set(&at("c"));
    running.told(temp.path());
    rotate("d", &|path| assert!(set(path) || !can));
    let attribute = running.told(temp.path());
    fs::hard_link(at("e"), at("e-other")).unwrap();
    append(&at("e"));
    let linked = running.told(temp.path());

    let is_about =
        |told: &[Alert], name: &str| texts(told, temp.path()).iter().any(|text| text.contains(name));
    assert_eq!(texts(&appended, temp.path()), [""; 0]);
    assert!(is_about(&rewritten, " c"), "{rewritten:?}");
    assert_eq!(texts(&[large], temp.path()), ["created g.1"]);
    assert!(!can || is_about(&attribute, " d"), "{attribute:?}");
    assert!(texts(&linked, temp.path()).contains(&"changed e".to_owned()), "{linked:?}");
}

fn a_log_that_comes_back_with_other_rights_and_one_that_is_exchanged_with_its_copy_are_told() {
    let temp = tempfile::tempdir().unwrap();
    let at = |name: &str| temp.path().join(name);
    for name in ["a", "b", "b.1"] {
        fs::write(at(name), name).unwrap();
    }
    let mut running = Running::settling(json!({"paths": {"path": [temp.path()], "growing": true}}), 500);

    fs::rename(at("a"), at("a.1")).unwrap();
    let went = running.told(temp.path());
    fs::write(at("a"), "").unwrap();
    fs::set_permissions(at("a"), PermissionsExt::from_mode(0o666)).unwrap();
    let came = running.told(temp.path());
    rustix::fs::renameat_with(CWD, at("b"), CWD, at("b.1"), rustix::fs::RenameFlags::EXCHANGE).unwrap();
    let exchanged = running.told(temp.path());

    assert_eq!(texts(&went, temp.path()), [""; 0]);
    assert_eq!(texts(&came, temp.path()), ["created a"]);
    assert_eq!(sorted_texts(&exchanged, temp.path()), ["changed b", "changed b.1"]);
}

fn what_is_no_copy_any_more_excuses_no_loss() {
    let temp = tempfile::tempdir().unwrap();
    let at = |name: &str| temp.path().join(name);
    for name in ["a", "b.1", "c", "d", "e"] {
        fs::write(at(name), format!("{name}\n")).unwrap();
    }
    let mut running = Running::settling(json!({"paths": {"path": [temp.path()], "growing": true}}), 500);
    let empty = |name: &str| fs::File::options().write(true).truncate(true).open(at(name)).unwrap();

    fs::write(at("a.1"), "a\nmore\n").unwrap();
    assert!(Command::new("gzip").arg("-k").arg(at("b.1")).status().unwrap().success());
    fs::copy(at("c"), at("c.1")).unwrap();
    fs::copy(at("e"), at("e.1")).unwrap();
    let copied = running.told(temp.path());
    fs::write(at("a.1"), "evil\n").unwrap();
    fs::remove_file(at("b.1.gz")).unwrap();
    running.told(temp.path());
    empty("a");
    fs::remove_file(at("b.1")).unwrap();
    // The copy goes in the same moment.
    empty("c");
    fs::remove_file(at("c.1")).unwrap();
    let lost = running.told(temp.path());
    // A copy that is the same file.
    fs::hard_link(at("d"), at("d.1")).unwrap();
    running.told(temp.path());
    empty("d");
    let linked = running.told(temp.path());
    // Something else with the number of its inode.
    fs::remove_file(at("e")).unwrap();
    nix::unistd::mkfifo(&at("e"), nix::sys::stat::Mode::from_bits_truncate(0o644)).unwrap();
    fs::set_permissions(at("e"), PermissionsExt::from_mode(0o644)).unwrap();
    let fifo = running.told(temp.path());

    assert_eq!(texts(&copied, temp.path()), [""; 0]);
    assert_eq!(sorted_texts(&lost, temp.path()), ["changed a", "changed c", "removed b.1", "removed c.1"]);
    assert!(texts(&linked, temp.path()).contains(&"changed d".to_owned()), "{linked:?}");
    assert_eq!(texts(&fifo, temp.path()), ["changed e"]);
}

fn a_log_that_is_written_all_the_time_is_compared_with_what_it_was() {
    let temp = tempfile::tempdir().unwrap();
    let log = temp.path().join("log");
    fs::write(&log, "one\ntwo\n".repeat(1_000_000)).unwrap();
    let running = Running::configured(json!({"paths": {"path": [temp.path()], "growing": true}}));
    let done = std::sync::atomic::AtomicBool::new(false);

    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut file = fs::File::options().append(true).open(&log).unwrap();
            while !done.load(std::sync::atomic::Ordering::SeqCst) {
                file.write_all(b"x").unwrap();
            }
        });
        fs::File::options().write(true).open(&log).unwrap().write_all_at(b"evil", 0).unwrap();
        let said = running.said.recv_timeout(CEILING);
        done.store(true, std::sync::atomic::Ordering::SeqCst);
        assert!(matches!(said, Ok(Said::Alert(alert)) if alert.attributes.contains(&"content".to_owned())));
    });
}

fn a_large_log_that_is_copied_and_emptied_is_no_change() {
    let temp = tempfile::tempdir().unwrap();
    let log = temp.path().join("log");
    fs::write(&log, vec![b'x'; 48 << 20]).unwrap();
    let mut running = Running::configured(json!({"paths": {"path": [temp.path()], "growing": true}}));

    fs::copy(&log, temp.path().join("log.1")).unwrap();
    fs::write(&log, "").unwrap();
    let told = running.told(temp.path());

    assert_eq!(texts(&told, temp.path()), [""; 0]);
}

fn a_log_that_is_compressed_is_no_change_and_one_in_whose_place_something_else_comes_is() {
    let temp = tempfile::tempdir().unwrap();
    for (name, content) in [("log.1", "one\n"), ("log.2", "two\n"), ("outside", "evil\n")] {
        fs::write(temp.path().join(name), content).unwrap();
    }
    let mut running = Running::configured(
        json!({"paths": {"path": [temp.path()], "growing": true, "exclude": ["outside*"]}}),
    );
    let gzip = |name: &str| {
        assert!(Command::new("gzip").arg(temp.path().join(name)).status().unwrap().success());
    };

    gzip("log.1");
    let compressed = running.told(temp.path());
    gzip("outside");
    fs::rename(temp.path().join("outside.gz"), temp.path().join("log.2.gz")).unwrap();
    fs::remove_file(temp.path().join("log.2")).unwrap();
    let replaced = running.told(temp.path());

    assert_eq!(texts(&compressed, temp.path()), [""; 0]);
    assert_eq!(sorted_texts(&replaced, temp.path()), ["created log.2.gz", "removed log.2"]);
}

fn a_log_that_only_grows_is_no_change() {
    let temp = tempfile::tempdir().unwrap();
    let directory = temp.path();
    let log = directory.join("log");
    fs::write(&log, "one\n").unwrap();
    let mut running =
        Running::configured(json!({"paths": {"path": [directory.to_str().unwrap()], "growing": true}}));

    fs::write(&log, "one\ntwo\n").unwrap();
    let grown = running.told(directory);
    fs::write(&log, "two\n").unwrap();
    let rewritten = texts(&running.told(directory), directory);

    assert_eq!(grown, []);
    assert_eq!(rewritten, ["changed log"]);
}

fn a_rescan_finds_what_gave_no_notification() {
    let temp = tempfile::tempdir().unwrap();
    let (directory, outside) = (temp.path().join("in"), temp.path().join("outside"));
    fs::create_dir(&directory).unwrap();
    fs::write(directory.join("a"), "1").unwrap();
    fs::hard_link(directory.join("a"), &outside).unwrap();
    let running = Running::on(&[directory.to_str().unwrap()]);

    fs::write(&outside, "2").unwrap();
    let (reply, done) = mpsc::sync_channel(1);
    running.orders.send(Order::Rescan { paths: Vec::new(), prove: false, done: reply }).unwrap();
    running.mailbox.wake();
    done.recv_timeout(CEILING).unwrap();

    let told: Vec<_> = running
        .said
        .try_iter()
        .filter_map(|said| match said {
            Said::Alert(alert) => Some(*alert),
            Said::Log(_) => None,
        })
        .collect();
    assert_eq!(texts(&told, &directory), ["changed a"]);
}

/// What can be done to a small tree.
/// Stores to a mapped page of a file, each time it is told to by a line.
const MAPPER: &str = "
import mmap, sys
with open(sys.argv[1], 'r+b') as file:
    page = mmap.mmap(file.fileno(), 0)
    for line in sys.stdin:
        page[0:1] = line[0:1].encode()
        print('done', flush=True)
";

fn a_store_to_a_mapped_page_is_found_by_reading_everything() {
    let temp = tempfile::tempdir().unwrap();
    let file = temp.path().join("a");
    fs::write(&file, "1").unwrap();
    let mut running = Running::on(&[temp.path().to_str().unwrap()]);
    let mut mapper = Command::new("python3")
        .args(["-c", MAPPER])
        .arg(&file)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut done = BufReader::new(mapper.stdout.take().unwrap());
    let mut commands = mapper.stdin.take().unwrap();
    let mut store = |value: &str| {
        writeln!(commands, "{value}").unwrap();
        let mut line = String::new();
        done.read_line(&mut line).unwrap();
        assert_eq!(line, "done\n");
    };
    let rescan = |running: &Running, prove| {
        running.ask(|done| Order::Rescan { paths: Vec::new(), prove, done });
    };

    store("2");
    rescan(&running, true);
    let first = running.told(temp.path());
    // The page is dirty already: neither an event nor a time tells of this.
    store("3");
    rescan(&running, true);
    let second = running.told(temp.path());
    drop(commands);
    mapper.wait().unwrap();

    assert_eq!(texts(&first, temp.path()), ["changed a"]);
    assert_eq!(texts(&second, temp.path()), ["changed a"]);
    assert!(second[0].attributes.contains(&"content".to_owned()), "{second:?}");
    assert_eq!(second[0].before["sha256"], first[0].after["sha256"]);
    assert!(second[0].window["from"].is_string());
}

fn names_of_any_bytes_and_paths_beyond_what_the_kernel_takes_are_told() {
    let temp = tempfile::tempdir().unwrap();
    let mut running = Running::on(&[&recursive(temp.path())]);
    let odd = [
        OsString::from_vec(vec![0xff, 0xfe, b'x']),
        OsString::from("new\nline"),
        OsString::from("x".repeat(255)),
        OsString::from("back\\slash \u{1b}[2J"),
    ];

    for name in &odd {
        fs::write(temp.path().join(name), "").unwrap();
    }
    let name = "d".repeat(200);
    let at = make_deep(temp.path(), &name, 30);
    let file = rustix::fs::openat(&at, "deep", OFlags::CREATE | OFlags::WRONLY, Mode::RWXU).unwrap();
    drop(file);
    let told = running.told(temp.path());

    for name in &odd {
        let path = vigie_fswatch::change::shown(&temp.path().join(name));
        let count = told.iter().filter(|alert| alert.path == path).count();
        assert_eq!(count, 1, "{path}");
    }
    // How deep is told depends on what the backend can name; that it goes on is what matters.
    assert!(told.iter().filter(|alert| alert.kind == "directory").count() >= 15, "{}", told.len());
    fs::write(temp.path().join("after"), "").unwrap();
    assert_eq!(texts(&running.told(temp.path()), temp.path()), ["created after"]);
    // The test's own tree is too deep for remove_dir_all by path.
    Command::new("rm").arg("-rf").arg(temp.path().join(&name)).status().unwrap();
}

/// Makes directories deeper than PATH_MAX: from where the last one was, as tar and rm do. The lowest one.
fn make_deep(top: &Path, name: &str, depth: usize) -> OwnedFd {
    let mut at = rustix::fs::openat(CWD, top, OFlags::DIRECTORY, Mode::empty()).unwrap();
    for _ in 0..depth {
        rustix::fs::mkdirat(&at, name, Mode::RWXU).unwrap();
        at = rustix::fs::openat(&at, name, OFlags::DIRECTORY, Mode::empty()).unwrap();
    }
    at
}

fn a_tree_too_deep_to_be_watched_is_one_entry_of_the_status_as_long_as_it_is_there() {
    let temp = tempfile::tempdir().unwrap();
    let name = "d".repeat(200);
    drop(make_deep(temp.path(), &name, 60));
    let running = Running::on(&[&recursive(temp.path())]);

    for _ in 0..2 {
        running.ask(|done| Order::Rescan { paths: Vec::new(), prove: false, done });
        let status = running.status_when(|status| status.scans.is_empty());
        let unwatched: Vec<_> = status.unwatched.keys().map(|path| path.as_os_str().len()).collect();
        assert_eq!(unwatched.len(), 1, "{unwatched:?}");
        assert!((4_096..4_096 + 256).contains(&unwatched[0]), "{unwatched:?}");
    }
    // The test's own tree is too deep for remove_dir_all by path.
    Command::new("rm").arg("-rf").arg(temp.path().join(&name)).status().unwrap();
    running.ask(|done| Order::Rescan { paths: Vec::new(), prove: false, done });
    running.status_when(|status| status.unwatched.is_empty());
}

fn lost_notifications_are_said_and_what_they_hid_is_told() {
    let temp = tempfile::tempdir().unwrap();
    fs::write(temp.path().join("a"), "1").unwrap();
    let mut running = Running::on(&[&recursive(temp.path())]);

    running.mailbox.open().overflowed("a queue of the test overflowed");
    fs::write(temp.path().join("a"), "2").unwrap();
    let told = running.told(temp.path());

    let notice = told.iter().find(|alert| alert.event == Event::Notice).unwrap();
    assert!(notice.alert.contains("a queue of the test overflowed"), "{notice:?}");
    assert!(notice.window["from"].as_str() <= notice.window["to"].as_str(), "{notice:?}");
    assert!(texts(&told, temp.path()).contains(&"changed a".to_owned()), "{told:?}");
}

fn a_clock_that_jumped_makes_no_window_that_ends_before_it_begins() {
    let temp = tempfile::tempdir().unwrap();
    let (watched, state) = (temp.path().join("w"), temp.path().join("s"));
    fs::create_dir(&watched).unwrap();
    fs::create_dir(&state).unwrap();
    fs::write(watched.join("a"), "1").unwrap();
    let config = json!({"paths": {"path": [recursive(&watched)]}});
    Running::keeping(Some(&state), config.clone()).stop();

    // The last life ran under a clock that was a year ahead.
    let ahead = std::time::SystemTime::now() + Duration::from_secs(365 * 24 * 3600);
    for name in ["fswatch.alive", "fswatch.baseline"] {
        fs::File::options().write(true).open(state.join(name)).unwrap().set_modified(ahead).unwrap();
    }
    fs::write(watched.join("a"), "2").unwrap();
    let running = Running::keeping(Some(&state), config);

    let window = &running.early[0].window;
    assert!(window["from"].as_str() <= window["to"].as_str(), "{window}");
}

fn a_directory_that_may_not_be_read_any_more_is_said_and_the_rest_goes_on() {
    if !vigie_skipped::is_plain_user() {
        return;
    }
    let temp = tempfile::tempdir().unwrap();
    let closed = temp.path().join("closed");
    fs::create_dir(&closed).unwrap();
    fs::write(closed.join("a"), "1").unwrap();
    let mut running = Running::on(&[&recursive(temp.path())]);

    fs::set_permissions(&closed, std::os::unix::fs::PermissionsExt::from_mode(0o000)).unwrap();
    running.ask(|done| Order::Rescan { paths: Vec::new(), prove: false, done });
    let status = running.status_when(|status| !status.unwatched.is_empty() || !status.unreadable.is_empty());
    fs::write(temp.path().join("b"), "").unwrap();
    let told = texts(&running.told(temp.path()), temp.path());
    fs::set_permissions(&closed, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();

    assert!(told.contains(&"created b".to_owned()), "{told:?} {status:?}");
    assert!(!told.iter().any(|text| text.starts_with("removed")), "{told:?}");
}

/// What can be done to a tree while nobody watches, and how it is told.
fn change_everything(watched: &Path, outside: &Path) -> Vec<&'static str> {
    let file = |name: &str| watched.join(name);
    let modified = fs::metadata(file("same-size")).unwrap().modified().unwrap();
    fs::write(file("edit"), "other and longer").unwrap();
    fs::write(file("same-size"), "2").unwrap();
    fs::File::options().write(true).open(file("same-size")).unwrap().set_modified(modified).unwrap();
    fs::set_permissions(file("setuid"), PermissionsExt::from_mode(0o4755)).unwrap();
    fs::write(file("new"), "3").unwrap();
    fs::rename(file("new"), file("replaced")).unwrap();
    fs::rename(outside.join("in"), file("in")).unwrap();
    fs::rename(file("out"), outside.join("out")).unwrap();
    fs::write(file("added"), "").unwrap();
    fs::remove_file(file("deleted")).unwrap();
    fs::remove_file(file("link")).unwrap();
    symlink("/elsewhere", file("link")).unwrap();
    fs::rename(file("old-name"), file("new-name")).unwrap();
    fs::create_dir_all(file("directory/sub")).unwrap();
    fs::write(file("directory/sub/file"), "").unwrap();
    fs::remove_dir_all(file("tree")).unwrap();
    vec![
        "changed edit",
        "changed link",
        "changed replaced",
        "changed same-size",
        "changed setuid",
        "created added",
        "created directory",
        "created directory/sub",
        "created directory/sub/file",
        "created in",
        "removed deleted",
        "removed out",
        "removed tree",
        "removed tree/sub",
        "removed tree/sub/file",
        "renamed new-name",
    ]
}

fn tree_to_change(watched: &Path, outside: &Path) {
    fs::create_dir_all(watched.join("tree/sub")).unwrap();
    fs::create_dir_all(outside).unwrap();
    for name in ["edit", "same-size", "setuid", "replaced", "out", "deleted", "old-name", "tree/sub/file"] {
        fs::write(watched.join(name), "1").unwrap();
    }
    fs::write(outside.join("in"), "1").unwrap();
    symlink("/somewhere", watched.join("link")).unwrap();
}

fn what_changed_while_nobody_watched_is_told_once_with_the_time_in_which_it_happened() {
    let temp = tempfile::tempdir().unwrap();
    let (watched, outside, state) = (temp.path().join("w"), temp.path().join("o"), temp.path().join("s"));
    tree_to_change(&watched, &outside);
    fs::create_dir(&state).unwrap();
    let config = json!({"paths": {"path": [recursive(&watched)]}});
    Running::keeping(Some(&state), config.clone()).stop();

    let expected = change_everything(&watched, &outside);
    let second = Running::keeping(Some(&state), config.clone());
    let told = second.early.clone();
    second.stop();
    let third = Running::keeping(Some(&state), config);

    assert_eq!(sorted_texts(&told, &watched), expected);
    assert!(
        told.iter().all(|alert| alert.window["from"].as_str() <= alert.window["to"].as_str()),
        "{told:?}"
    );
    assert!(told.iter().all(|alert| alert.window["from"].is_string()), "{told:?}");
    let edited = told.iter().find(|alert| alert.path.ends_with("edit")).unwrap();
    assert!(edited.before["sha256"].is_string() && edited.after["sha256"].is_string(), "{edited:?}");
    assert_eq!(third.early, [], "told once only");
}

fn the_same_changes_are_told_once_while_they_happen() {
    let temp = tempfile::tempdir().unwrap();
    let (watched, outside) = (temp.path().join("w"), temp.path().join("o"));
    tree_to_change(&watched, &outside);
    let mut running = Running::on(&[&recursive(&watched)]);

    let expected = change_everything(&watched, &outside);
    let told = running.told(&watched);

    assert_eq!(sorted_texts(&told, &watched), expected);
    assert!(told.iter().all(|alert| alert.window.is_null()), "{told:?}");
}

fn a_directory_with_another_name_is_told_once_with_what_is_in_it() {
    let temp = tempfile::tempdir().unwrap();
    let directory = temp.path();
    fs::create_dir_all(directory.join("old/sub")).unwrap();
    fs::write(directory.join("old/sub/file"), "1").unwrap();
    let mut running = Running::on(&[&recursive(directory)]);

    fs::rename(directory.join("old"), directory.join("new")).unwrap();
    let renamed = running.told(directory);
    fs::write(directory.join("new/sub/file"), "2").unwrap();
    let changed = running.told(directory);

    assert_eq!(texts(&renamed, directory), ["renamed new"]);
    assert_eq!(renamed[0].from.as_deref(), directory.join("old").to_str());
    assert_eq!(renamed[0].count, Some(3));
    assert_eq!(texts(&changed, directory), ["changed new/sub/file"]);
}

fn a_damaged_baseline_is_not_trusted_and_that_is_told() {
    let temp = tempfile::tempdir().unwrap();
    let (watched, state) = (temp.path().join("w"), temp.path().join("s"));
    fs::create_dir(&watched).unwrap();
    fs::create_dir(&state).unwrap();
    fs::write(watched.join("a"), "1").unwrap();
    let config = json!({"paths": {"path": [recursive(&watched)]}});
    Running::keeping(Some(&state), config.clone()).stop();
    let mut store = fs::read(state.join("fswatch.baseline")).unwrap();
    let middle = store.len() / 2;
    store[middle] ^= 1;
    fs::write(state.join("fswatch.baseline"), store).unwrap();

    let running = Running::keeping(Some(&state), config);

    let told: Vec<_> = running.early.iter().map(|alert| (alert.event, alert.severity.as_str())).collect();
    assert_eq!(told, [(Event::Notice, "critical")]);
    assert!(running.early[0].alert.contains("fswatch.baseline.set-aside"), "{:?}", running.early);
    assert!(state.join("fswatch.baseline.set-aside").exists());
}

fn a_life_that_ends_before_everything_was_compared_leaves_the_time_and_raises_no_alarm() {
    let temp = tempfile::tempdir().unwrap();
    let (watched, state) = (temp.path().join("w"), temp.path().join("s"));
    fs::create_dir(&watched).unwrap();
    fs::create_dir(&state).unwrap();
    fs::write(watched.join("a"), "1").unwrap();
    let config = json!({"paths": {"path": [recursive(&watched)]}});
    let end_at_once = || {
        let (said, _) = mpsc::channel();
        let (orders, received) = mpsc::channel();
        let sink = TestSink { said, orders: orders.clone(), is_silent: std::sync::Arc::default() };
        let engine = Engine::new(sink, Mailbox::default(), Some(state.clone()), SharedStatus::default());
        orders.send(Order::Heartbeat).unwrap();
        orders.send(Order::Stop).unwrap();
        engine.unwrap().run(&received);
    };

    end_at_once();
    assert!(!state.join("fswatch.alive").exists());
    let first = Running::keeping(Some(&state), config);
    assert_eq!(first.early, []);
    first.stop();
    let alive = |state: &Path| fs::metadata(state.join("fswatch.alive")).unwrap().modified().unwrap();
    let before = alive(&state);
    end_at_once();
    assert_eq!(alive(&state), before);
}

fn queues_that_overflow_again_and_again_make_one_comparison_more_and_no_storm_of_notices() {
    let temp = tempfile::tempdir().unwrap();
    for number in 0..200 {
        fs::create_dir_all(temp.path().join(format!("{number}/sub"))).unwrap();
    }
    let mut running = Running::on(&[&recursive(temp.path())]);

    for _ in 0..1000 {
        running.mailbox.open().overflowed("a queue of the test overflowed");
        assert!(running.status.get().scans.len() <= 2);
        std::thread::yield_now();
    }
    let told = running.told(temp.path());

    let status = running.status_when(|status| status.scans.is_empty());
    let notices = told.iter().filter(|alert| alert.event == Event::Notice).count() as u64;
    assert!(notices >= 1 && notices <= status.overflows, "{notices} {}", status.overflows);
}

fn the_file_that_a_link_leads_to_is_watched_only_where_links_are_followed() {
    for follow in [false, true] {
        let temp = tempfile::tempdir().unwrap();
        let (watched, outside) = (temp.path().join("w"), temp.path().join("o"));
        fs::create_dir(&watched).unwrap();
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("target"), "1").unwrap();
        symlink(outside.join("target"), watched.join("link")).unwrap();
        let mut running =
            Running::configured(json!({"paths": {"path": [recursive(&watched)], "follow": follow}}));

        fs::write(outside.join("target"), "2").unwrap();
        fs::write(outside.join("other"), "").unwrap();
        let told = texts(&running.told(&watched), temp.path());

        let expected: &[&str] = if follow { &["changed o/target"] } else { &[] };
        assert_eq!(told, expected);
    }
}

fn an_accepted_change_is_no_longer_listed_and_who_accepted_it_is_told() {
    let temp = tempfile::tempdir().unwrap();
    let directory = temp.path();
    let mut running = Running::on(&[directory.to_str().unwrap()]);
    fs::write(directory.join("a"), "1").unwrap();
    running.told(directory);

    let listed = running.ask(Order::Unaccepted);
    let asker = Asker { uid: Some(1000), user: Some("ann".to_owned()), investigator: None };
    let accepted = running.ask(|done| Order::Accept {
        paths: vec![directory.join("a")],
        by: "alice".to_owned(),
        asker: Some(asker.clone()),
        done,
    });
    let told = running.told(directory);
    let rest = running.ask(Order::Unaccepted);

    let paths = |value: &Value| value["unaccepted"].as_array().map(Vec::len);
    assert_eq!(paths(&listed), Some(2), "{listed}");
    assert_eq!(accepted["accepted"], json!([directory.join("a")]));
    assert_eq!(told[0].event, Event::Accepted);
    assert!(told[0].alert.starts_with("alice (asked by user ann) accepted"), "{told:?}");
    assert_eq!((&told[0].group["by"], &told[0].group["asker"]), (&json!("alice"), &json!(asker)));
    assert_eq!(paths(&rest), Some(2), "the two marks: {rest}");
}

fn a_storm_is_one_alert_and_its_members_are_in_the_history() {
    let temp = tempfile::tempdir().unwrap();
    let (watched, state) = (temp.path().join("w"), temp.path().join("s"));
    fs::create_dir(&watched).unwrap();
    fs::create_dir(&state).unwrap();
    let config = json!({"paths": {"path": [recursive(&watched)]}, "fswatch": {"storm_changes": 10}});
    let running = Running::keeping(Some(&state), config);

    for number in 0..500 {
        fs::write(watched.join(number.to_string()), "").unwrap();
    }
    let mut alone = 0;
    let group = loop {
        match running.said.recv_timeout(CEILING).unwrap() {
            Said::Alert(alert) if alert.event == Event::Group => break alert,
            Said::Alert(alert) => alone += u64::from(!alert.is_being_written()),
            Said::Log(_) => {}
        }
    };

    assert!(alone <= 10, "{alone}");
    assert_eq!(alone + group.count.unwrap(), 500);
    let mut members = 0;
    vigie_fswatch::history::History::read(&state, |line| {
        members += u64::from(line["group_id"] == group.group["id"]);
        true
    })
    .unwrap();
    assert_eq!(Some(members), group.count);
}

fn a_file_that_goes_back_and_forth_is_told_a_few_times_and_then_with_a_count() {
    let temp = tempfile::tempdir().unwrap();
    let (watched, state) = (temp.path().join("w"), temp.path().join("s"));
    fs::create_dir(&watched).unwrap();
    fs::create_dir(&state).unwrap();
    let file = watched.join("file");
    fs::write(&file, "0").unwrap();
    let config = json!({"paths": {"path": [recursive(&watched)]}, "fswatch": {"storm_changes": 100}});
    let running = Running::keeping(Some(&state), config);

    for number in 1..=10 {
        fs::write(&file, (number % 2).to_string()).unwrap();
        // Each change is seen before the next one is made.
        running.status_when(|status| status.alerts + status.grouped == number && status.pending == 0);
    }
    let (mut alone, mut groups) = (Vec::new(), Vec::new());
    while groups.len() < 2 {
        match running.said.recv_timeout(CEILING).unwrap() {
            Said::Alert(alert) if alert.event == Event::Group => groups.push(alert),
            Said::Alert(alert) => alone.push(alert),
            Said::Log(_) => {}
        }
    }

    assert_eq!(alone.len(), 6);
    assert_eq!(groups.iter().map(|group| group.count).collect::<Vec<_>>(), [Some(2), Some(2)]);
    for group in groups {
        assert_eq!(group.path, file.to_str().unwrap());
        assert_eq!(group.group["repeated"], json!(true));
        assert_eq!(group.severity, "critical");
        assert!(alone.iter().any(|one| group.alert.starts_with(&one.alert)), "{group:?}");
    }
}

#[derive(Debug, Clone)]
enum Action {
    Write(u8, u8),
    Append(u8),
    Remove(u8),
    Rename(u8, u8),
    MakeDirectories(u8),
    RemoveTree(u8),
    MoveTree(u8, u8),
    Link(u8),
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        3 => (any::<u8>(), any::<u8>()).prop_map(|(file, text)| Action::Write(file, text)),
        1 => any::<u8>().prop_map(Action::Append),
        2 => any::<u8>().prop_map(Action::Remove),
        2 => (any::<u8>(), any::<u8>()).prop_map(|(from, to)| Action::Rename(from, to)),
        2 => any::<u8>().prop_map(Action::MakeDirectories),
        1 => any::<u8>().prop_map(Action::RemoveTree),
        1 => (any::<u8>(), any::<u8>()).prop_map(|(from, to)| Action::MoveTree(from, to)),
        1 => any::<u8>().prop_map(Action::Link),
    ]
}

fn directory_of(root: &Path, number: u8) -> PathBuf {
    [root.to_owned(), root.join("d"), root.join("d/e"), root.join("f")][usize::from(number) % 4].clone()
}

fn file_of(root: &Path, number: u8) -> PathBuf {
    directory_of(root, number).join(format!("file{}", number / 4 % 3))
}

/// Does it; what is not possible at the moment is left out.
fn perform(root: &Path, action: &Action) {
    let done = match action {
        Action::Write(file, text) => fs::write(file_of(root, *file), [*text]),
        Action::Append(file) => fs::OpenOptions::new()
            .append(true)
            .open(file_of(root, *file))
            .and_then(|mut file| std::io::Write::write_all(&mut file, b"more")),
        Action::Remove(file) => fs::remove_file(file_of(root, *file)),
        Action::Rename(from, to) => fs::rename(file_of(root, *from), file_of(root, *to)),
        Action::MakeDirectories(number) => fs::create_dir_all(directory_of(root, *number)),
        Action::RemoveTree(number) if number % 4 != 0 => fs::remove_dir_all(directory_of(root, *number)),
        Action::MoveTree(from, to) if from % 4 != 0 && to % 4 != 0 => {
            fs::rename(directory_of(root, *from), directory_of(root, *to))
        }
        // A target that cannot be made by writing through the link.
        Action::Link(number) => symlink("/nonexistent/target", file_of(root, *number)),
        Action::RemoveTree(_) | Action::MoveTree(..) => Ok(()),
    };
    done.ok();
}

/// What an alert says that an object holds.
fn content(side: &Value) -> Option<String> {
    side.get("sha256").or(side.get("target")).and_then(Value::as_str).map(str::to_owned)
}

/// Every object of the tree and what it holds, by the words of the alerts.
fn state(root: &Path) -> BTreeMap<String, String> {
    use sha2::Digest;
    walkdir::WalkDir::new(root)
        .into_iter()
        .flatten()
        .filter(|item| !item.file_type().is_dir() && !item.file_name().to_string_lossy().starts_with('~'))
        .map(|item| {
            let content = if item.file_type().is_symlink() {
                fs::read_link(item.path()).unwrap().display().to_string()
            } else {
                let digest = sha2::Sha256::digest(fs::read(item.path()).unwrap());
                digest.iter().map(|byte| format!("{byte:02x}")).collect()
            };
            (item.path().display().to_string(), content)
        })
        .collect()
}

/// Does to a state what alerts tell; says which alert does not continue from the ones before.
fn replay(
    mut replayed: BTreeMap<String, String>,
    told: &[Alert],
) -> Result<BTreeMap<String, String>, String> {
    for alert in told.iter().filter(|alert| !alert.path.contains('~') && !alert.is_being_written()) {
        if let Some(from) = &alert.from {
            let (moved, stay): (BTreeMap<_, _>, _) =
                replayed.into_iter().partition(|(path, _)| Path::new(path).starts_with(from));
            replayed = stay;
            for (path, content) in moved {
                if replayed.insert(path.replacen(from, &alert.path, 1), content).is_some() {
                    return Err(format!("renamed to what was there: {alert:?}"));
                }
            }
        }
        let (before, after) = (content(&alert.before), content(&alert.after));
        let is_about_content = match alert.event {
            Event::Created | Event::Removed => alert.kind != "directory",
            // Otherwise only its metadata changed.
            Event::Changed => alert.kind != "directory" && (before.is_some() || after.is_some()),
            Event::Renamed => after.is_some(),
            _ => false,
        };
        if !is_about_content {
            continue;
        }
        if alert.event != Event::Renamed && replayed.get(&alert.path) != before.as_ref() {
            return Err(format!("does not continue from {:?}: {alert:?}", replayed.get(&alert.path)));
        }
        match after {
            Some(after) => replayed.insert(alert.path.clone(), after),
            None => replayed.remove(&alert.path),
        };
    }
    Ok(replayed)
}

/// The notification of what went can come when nobody knows any more, or yet, which directory it is about.
fn what_goes_from_a_directory_that_has_just_moved_is_told() {
    let temp = tempfile::tempdir().unwrap();
    let root = temp.path();
    for number in 0..200 {
        let directory = root.join(format!("from{number}"));
        fs::create_dir(&directory).unwrap();
        fs::write(directory.join("goes"), "1").unwrap();
        fs::write(directory.join("stays"), "2").unwrap();
    }
    let before = state(root);
    let mut running = Running::on(&[&recursive(root)]);

    for number in 0..200 {
        let to = root.join(format!("to{number}"));
        fs::rename(root.join(format!("from{number}")), &to).unwrap();
        fs::remove_file(to.join("goes")).unwrap();
    }
    let told = running.told(root);

    assert_eq!(replay(before, &told).unwrap(), state(root));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]
    /// Whoever replays the alerts on what was there at the beginning gets exactly what is there at the end, and
    /// every alert continues from the one before.
        fn the_alerts_lead_from_the_first_state_to_the_last(
        before in proptest::collection::vec(action(), 0..12),
        during in proptest::collection::vec(action(), 1..40),
    ) {
        let temp = tempfile::tempdir().unwrap();
        let root = temp.path();
        before.iter().for_each(|action| perform(root, action));
        let mut replayed = state(root);
        let mut running = Running::on(&[&recursive(root)]);

        during.iter().for_each(|action| perform(root, action));
        let told = running.told(root);

        replayed = replay(replayed, &told).map_err(TestCaseError::fail)?;
        prop_assert_eq!(replayed, state(root));
    }

    /// The same over several lives of the engine on one state directory, with changes while none runs, with lost
    /// notifications, and with lives that end in the middle of everything.
        fn the_alerts_of_several_lives_lead_from_the_first_state_to_the_last(
        before in proptest::collection::vec(action(), 0..12),
        lives in proptest::collection::vec(
            (
                proptest::collection::vec(action(), 0..12),
                proptest::collection::vec(action(), 0..12),
                any::<bool>(),
                any::<bool>(),
            ),
            1..4,
        ),
    ) {
        let temp = tempfile::tempdir().unwrap();
        let (root, kept) = (temp.path().join("watched"), temp.path().join("state"));
        fs::create_dir(&root).unwrap();
        fs::create_dir(&kept).unwrap();
        before.iter().for_each(|action| perform(&root, action));
        let mut replayed = state(&root);
        let config = json!({"paths": {"path": [recursive(&root)]}});
        // What was not acknowledged is sent again by the next life; the journal drops it.
        let mut journal = HashSet::new();
        let mut replay_new = |replayed, mut told: Vec<Alert>| {
            told.retain(|alert| journal.insert(alert.id.clone()));
            replay(replayed, &told).map_err(TestCaseError::fail)
        };

        for (while_it_runs, while_none_runs, lose, wait) in lives {
            let mut running = Running::keeping(Some(&kept), config.clone());
            let mut told = std::mem::take(&mut running.early);
            while_it_runs.iter().for_each(|action| perform(&root, action));
            if lose {
                running.mailbox.open().overflowed("a queue of the test overflowed");
            }
            if wait {
                told.extend(running.told(&root));
            }
            told.extend(running.stop_and_listen());
            replayed = replay_new(replayed, told)?;
            while_none_runs.iter().for_each(|action| perform(&root, action));
        }
        let mut last = Running::keeping(Some(&kept), config);
        let mut told = std::mem::take(&mut last.early);
        told.extend(last.told(&root));
        replayed = replay_new(replayed, told)?;

        replayed.retain(|path, _| !path.contains('~'));
        prop_assert_eq!(replayed, state(&root));
    }
}
