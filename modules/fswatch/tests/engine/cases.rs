//! The engine on real directories: whatever is done to them, what is told covers exactly the differences. Every case
//! runs where fanotify may be used, which without privileges is inotify as well, and where only inotify may be used.

use std::ffi::OsString;
use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use rustix::fs::{CWD, Mode, OFlags};
use serde_json::{Value, json};
use vigie_fswatch::change::Event;
use vigie_fswatch::engine::Order;
use vigie_sdk::protocol::Asker;

use super::running::{CEILING, Running, Said, recursive, sorted_texts, texts, with_backend};

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
    many_files_with_other_names_are_told_with_both,
    names_of_any_bytes_and_paths_beyond_what_the_kernel_takes_are_told,
    a_tree_too_deep_to_be_watched_is_one_entry_of_the_status_as_long_as_it_is_there,
    a_directory_with_another_name_is_told_once_with_what_is_in_it,
    the_file_that_a_link_leads_to_is_watched_only_where_links_are_followed,
    an_accepted_change_is_no_longer_listed_and_who_accepted_it_is_told,
    a_storm_is_one_alert_and_its_members_are_in_the_history,
    a_file_that_goes_back_and_forth_is_told_a_few_times_and_then_with_a_count,
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
    let (mut members, mut unfinished) = (0, 0);
    vigie_fswatch::history::History::read(&state, |line| {
        let is_member = line["group_id"] == group.group["id"];
        members += u64::from(is_member);
        // One that was looked at between its making and its closing is told twice.
        let is_unfinished = line["alert"].as_str().is_some_and(|text| text.contains("is being written"));
        unfinished += u64::from(is_member && is_unfinished);
        true
    })
    .unwrap();
    assert_eq!(Some(members), group.count);
    assert_eq!(alone + members - unfinished, 500);
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
