//! Everyday ways to be blind, and that they are seen or said: the canary, what the agent's journal knows of the
//! baseline, single files as the only entries, loop devices, file systems that are exchanged at the same place.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::Ordering;
use std::time::Duration;

use nix::mount::MsFlags;
use serde_json::{Value, json};
use vigie_fswatch::change::Event;
use vigie_fswatch::engine::Order;
use vigie_journal::{Draft, SealedBatch, Sizes, Writer};

use super::running::{Alert, Running, recursive, texts, with_backend};
use super::who::{mount_at, own_mounts, uses_fanotify};

fn every_second(watched: &Path) -> Value {
    json!({"paths": {"path": [recursive(watched)]}, "fswatch": {"canary_seconds": 1}})
}

fn is_canary(alert: &Alert) -> bool {
    alert.event == Event::Canary
}

#[test]
fn a_canary_comes_all_the_way_and_is_said_when_it_does_not() {
    for backend in ["auto", "inotify"] {
        with_backend(backend, canary_comes_or_is_missed);
    }
}

fn canary_comes_or_is_missed() {
    let temp = tempfile::tempdir().unwrap();
    let (watched, state) = (temp.path().join("w"), temp.path().join("s"));
    fs::create_dir(&watched).unwrap();
    fs::create_dir(&state).unwrap();
    let running = Running::keeping(Some(&state), every_second(&watched));

    let canary = running.next(is_canary);
    let status = running.status_when(|status| status.canary["proved"].is_string());
    assert_eq!(canary.severity, "low");
    assert!(status.canary["how"].is_string() && status.canary["blind_since"].is_null());

    // Where it cannot be made, nothing is proved.
    fs::rename(state.join("canary"), temp.path().join("aside")).unwrap();
    fs::write(state.join("canary"), "").unwrap();
    let lost = running.next(|alert| alert.event == Event::Notice);
    assert!(lost.alert.starts_with("blind since") && lost.severity == "high", "{lost:?}");
    running.status_when(|status| status.conditions.iter().any(|one| one.name == "blind"));
    fs::remove_file(state.join("canary")).unwrap();
    let again = running.next(|alert| alert.event == Event::Notice);
    assert!(again.alert.contains("is detected again"), "{again:?}");
    running.status_when(|status| status.conditions.iter().all(|one| one.name != "blind"));
    // It is no change, and in no history.
    let history = fs::read_to_string(state.join("fswatch.history")).unwrap_or_default();
    assert!(!history.contains("\"canary\""), "{history}");
}

#[test]
fn a_canary_whose_record_the_agent_does_not_acknowledge_makes_blind_and_says_so() {
    let temp = tempfile::tempdir().unwrap();
    let (watched, state) = (temp.path().join("w"), temp.path().join("s"));
    fs::create_dir(&watched).unwrap();
    fs::create_dir(&state).unwrap();
    let running = Running::keeping(Some(&state), every_second(&watched));
    running.status_when(|status| status.canary["proved"].is_string());

    running.is_silent.store(true, Ordering::SeqCst);
    let lost = running.next(|alert| alert.event == Event::Notice);
    assert!(lost.alert.contains("the agent does not acknowledge its record"), "{lost:?}");
    assert_eq!(lost.severity, "high");
    running.status_when(|status| status.conditions.iter().any(|one| one.name == "blind"));

    running.is_silent.store(false, Ordering::SeqCst);
    let again = running.next(|alert| alert.event == Event::Notice);
    assert!(again.alert.contains("is detected again"), "{again:?}");
    running.status_when(|status| status.conditions.iter().all(|one| one.name != "blind"));
}

/// Whatever the engine waits for, somebody beside it reports that it does.
#[test]
fn an_engine_that_does_not_go_on_is_blind_for_all_who_ask_and_says_so_when_it_goes_on() {
    let temp = tempfile::tempdir().unwrap();
    let running = Running::on(&[&recursive(temp.path())]);
    let (missed, reports) = std::sync::mpsc::channel();
    let report = move |_: &vigie_fswatch::engine::Status| missed.send(()).unwrap();
    let _pulse = running.status.watch_pulse(Duration::from_millis(100), report).unwrap();
    let ask = || {
        running.status.ask_for_life();
        running.order(Order::Heartbeat);
    };
    ask();
    running.ask(|done| Order::Known(temp.path().to_owned(), done));

    let held = running.way.lock().unwrap();
    fs::write(temp.path().join("a"), "1").unwrap();
    let status = loop {
        ask();
        if reports.recv_timeout(Duration::from_millis(200)).is_ok() {
            break running.status.get();
        }
    };
    drop(held);
    let back = running.next(|alert| alert.event == Event::Notice);

    let blind = status.conditions.iter().find(|one| one.name == "blind").unwrap();
    assert!(blind.detail.starts_with("blind since") && blind.detail.contains("does not go on"), "{blind:?}");
    assert!(back.severity == "high" && back.alert.contains("did not go on from"), "{back:?}");
    running.status_when(|status| status.conditions.iter().all(|one| one.name != "blind"));
}

/// Runs until a canary was told, and ends; gives the directory of a journal that has its record.
fn told_once(temp: &Path) -> std::path::PathBuf {
    let (watched, state, agent) = (temp.join("w"), temp.join("s"), temp.join("agent"));
    for directory in [&watched, &state, &agent] {
        fs::create_dir_all(directory).unwrap();
    }
    fs::write(watched.join("a"), "1").unwrap();
    let running = Running::keeping(Some(&state), every_second(&watched));
    let canary = running.next(is_canary);
    running.stop();
    let sizes = Sizes { segment_bytes: 1 << 20, keep_segments: 4 };
    let (mut writer, mut seen, _) = Writer::open(&agent.join("journal"), sizes).unwrap();
    let mut draft = Draft::default();
    let message = json!({"severity": "low", "event": "canary", "mark": canary.mark}).to_string();
    draft.push_text(1, "2026-01-02T03:04:05Z", "fswatch", None, &message);
    writer.append(&SealedBatch::of(&draft, writer.place()), Some(seen.snapshot())).unwrap();
    agent
}

/// What a life says in the beginning that knows the agent's journal.
fn first_words(temp: &Path, agent: &Path) -> Vec<Alert> {
    let state = temp.join("s");
    let running = Running::knowing(Some(&state), every_second(&temp.join("w")), vec![agent.to_owned()]);
    let early = running.early.clone();
    running.stop();
    early
}

#[test]
fn what_the_journal_knows_shows_that_all_files_of_the_module_are_gone_older_or_others() {
    let critical = |said: &[Alert], text: &str| {
        said.iter().any(|alert| alert.severity == "critical" && alert.alert.contains(text))
    };
    let temp = tempfile::tempdir().unwrap();
    let agent = told_once(temp.path());
    let state = temp.path().join("s");
    let said = first_words(temp.path(), &agent);
    assert!(said.iter().all(|alert| alert.severity != "critical"), "nothing happened: {said:?}");

    let copy = |from: &Path, to: &Path| {
        fs::remove_dir_all(to).ok();
        assert!(Command::new("cp").arg("-a").args([from, to]).status().unwrap().success());
    };
    // All is gone, the liveness mark as well.
    let kept = temp.path().join("kept");
    copy(&state, &kept);
    fs::remove_dir_all(&state).unwrap();
    fs::create_dir(&state).unwrap();
    let said = first_words(temp.path(), &agent);
    assert!(critical(&said, "are missing from"), "{said:?}");
    let said = first_words(temp.path(), &agent);
    assert!(!critical(&said, "replaced by another one"), "it is told once: {said:?}");

    // Another life's files, whole in themselves.
    let other = tempfile::tempdir().unwrap();
    told_once(other.path());
    copy(&other.path().join("s"), &state);
    let said = first_words(temp.path(), &agent);
    assert!(critical(&said, "replaced by another one"), "{said:?}");

    // The same life's, but older than what was told last.
    let temp = tempfile::tempdir().unwrap();
    let (watched, state, agent) = (temp.path().join("w"), temp.path().join("s"), told_once(temp.path()));
    let old = temp.path().join("old");
    copy(&state, &old);
    fs::write(watched.join("a"), "2").unwrap();
    fs::remove_dir_all(agent.join("journal")).unwrap();
    let agent = told_once(temp.path());
    copy(&old, &state);
    let said = first_words(temp.path(), &agent);
    assert!(critical(&said, "replaced by an older one"), "{said:?}");
}

#[test]
fn existing_files_that_braces_name_as_the_only_entries_are_known_and_their_changes_are_told() {
    let temp = tempfile::tempdir().unwrap();
    for name in ["passwd", "passwd-", "shadow", "shadow-", "other"] {
        fs::write(temp.path().join(name), "1").unwrap();
    }
    for entry in ["{passwd,shadow}{,-}", "*d", "shadow"] {
        let running = Running::on(&[temp.path().join(entry).to_str().unwrap()]);
        assert!(running.early.is_empty(), "{entry}: {:?}", running.early);
        let name = if entry == "*d" { "passwd" } else { "shadow" };

        fs::write(temp.path().join(name), entry).unwrap();
        let told = running.next(|_| true);

        assert_eq!(texts(std::slice::from_ref(&told), temp.path()), [format!("changed {name}")], "{entry}");
        running.stop();
    }
}

#[test]
fn what_is_written_through_a_loop_device_is_told_although_no_notification_comes() {
    let temp = tempfile::tempdir().unwrap();
    let image = temp.path().join("image");
    File::create(&image).unwrap().set_len(1 << 20).unwrap();
    let running = Running::on(&[&recursive(temp.path())]);
    let losetup = Command::new("losetup").args(["-f", "--show"]).arg(&image).output();
    let Some(device) = losetup.ok().filter(|done| done.status.success()) else {
        return vigie_skipped::skipped("no loop device can be attached");
    };
    let device = String::from_utf8(device.stdout).unwrap().trim().to_owned();

    let attached = running.soon(|alert| alert.event == Event::Notice);
    let block = File::options().write(true).open(&device).unwrap();
    block.write_all_at(b"evil", 4096).unwrap();
    block.sync_all().unwrap();
    drop(block);
    let told = running.next(|alert| alert.attributes.contains(&"content".to_owned()));
    assert!(Command::new("losetup").args(["-d", &device]).status().unwrap().success());

    assert!(attached.alert.contains("loop device") && attached.severity == "high", "{attached:?}");
    assert_eq!(told.path, image.to_str().unwrap());
}

#[test]
fn a_file_system_that_is_exchanged_at_the_same_place_is_told_and_watched() {
    if !own_mounts() {
        return;
    }
    let temp = tempfile::tempdir().unwrap();
    let place = temp.path().join("place");
    fs::create_dir(&place).unwrap();
    if !mount_at("tmpfs", Some("tmpfs"), &place, MsFlags::empty(), None) {
        return;
    }
    fs::write(place.join("good"), "1").unwrap();
    let running = Running::on(&[&recursive(&place)]);
    if !uses_fanotify(&running) {
        return;
    }

    // The device number is given again at once.
    nix::mount::umount(&place).unwrap();
    assert!(mount_at("tmpfs", Some("tmpfs"), &place, MsFlags::empty(), None));
    let told = running.soon(|alert| alert.event == Event::Notice);
    let gone = running.soon(|alert| alert.path.ends_with("/good"));
    fs::write(place.join("evil"), "1").unwrap();
    let come = running.next(|alert| alert.path.ends_with("/evil"));
    nix::mount::umount(&place).unwrap();

    assert!(told.alert.contains("mounted"), "{told:?}");
    assert_eq!((gone.event, come.event), (Event::Removed, Event::Created));
}

#[test]
fn a_rescan_of_what_is_not_watched_says_so() {
    let temp = tempfile::tempdir().unwrap();
    let running = Running::on(&[&recursive(temp.path())]);
    let rescan = |paths: Vec<std::path::PathBuf>| {
        running.ask(|done| Order::Rescan { paths: paths.clone(), prove: false, done })
    };

    let unwatched = rescan(vec!["/proc/version".into()]);
    let both = rescan(vec!["/proc/version".into(), temp.path().to_owned()]);

    assert_eq!(unwatched["not_watched"], json!(["/proc/version"]));
    assert_eq!((&both["rescanned"], &both["not_watched"]), (&json!(true), &json!(["/proc/version"])));
}
