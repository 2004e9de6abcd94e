//! What gave no notification, or nobody watched: it is found, told once, and with the time in which it happened.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use nix::mount::{MntFlags, MsFlags, umount2};
use serde_json::json;
use vigie_fswatch::change::Event;
use vigie_fswatch::engine::{Engine, Order, SharedStatus};
use vigie_fswatch::events::Mailbox;

use super::running::{CEILING, Running, Said, TestSink, recursive, sorted_texts, texts, with_backend};
use super::who::{mount_at, own_mounts};

on_every_backend! {
    a_rescan_finds_what_gave_no_notification,
    a_store_to_a_mapped_page_is_found_by_reading_everything,
    what_nobody_was_heard_to_write_is_told_with_the_next_thing_that_happens_to_the_file,
    lost_notifications_are_said_and_what_they_hid_is_told,
    a_clock_that_jumped_makes_no_window_that_ends_before_it_begins,
    a_directory_that_may_not_be_read_any_more_is_said_and_the_rest_goes_on,
    what_changed_while_nobody_watched_is_told_once_with_the_time_in_which_it_happened,
    the_same_changes_are_told_once_while_they_happen,
    a_damaged_baseline_is_not_trusted_and_that_is_told,
    a_life_that_ends_before_everything_was_compared_leaves_the_time_and_raises_no_alarm,
    queues_that_overflow_again_and_again_make_one_comparison_more_and_no_storm_of_notices,
    a_listing_that_does_not_return_is_said_and_so_is_what_is_lost_meanwhile,
    scans_go_on_past_directories_that_do_not_respond_and_name_them,
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

/// A FUSE server of root's that answers what is asked of its directory itself and never lists it.
fn serve_without_listing(mut server: fs::File) {
    const GETATTR: u32 = 3;
    const STATFS: u32 = 17;
    const INIT: u32 = 26;
    const OPENDIR: u32 = 27;
    let mut buffer = vec![0; 256 * 1024];
    // It ends with the connection.
    while let Ok(length) = server.read(&mut buffer) {
        let number = |at: usize| u32::from_ne_bytes(buffer[at..at + 4].try_into().expect("four bytes"));
        let (opcode, unique) = (number(4), buffer[8..16].to_vec());
        let mut answer = match opcode {
            INIT => vec![0; 64],
            GETATTR => vec![0; 104],
            STATFS => vec![0; 80],
            _ => Vec::new(),
        };
        let mut put = |at: usize, number: u32| answer[at..at + 4].copy_from_slice(&number.to_ne_bytes());
        match opcode {
            OPENDIR => continue,
            INIT => [(0, 7), (4, 31), (20, 4096)].into_iter().for_each(|(at, number)| put(at, number)),
            // The inode, the mode, and the number of links.
            GETATTR => {
                [(16, 1), (76, 0o40_755), (80, 2)].into_iter().for_each(|(at, number)| put(at, number))
            }
            _ => {}
        }
        let error = if answer.is_empty() { -nix::libc::ENOSYS } else { 0 };
        let total = u32::try_from(16 + answer.len()).expect("a short answer");
        let head = [total.to_ne_bytes(), error.to_ne_bytes()].concat();
        assert!(length >= 40);
        // Nobody waits for what came to nothing.
        server.write_all(&[head, unique, answer].concat()).ok();
    }
}

fn a_listing_that_does_not_return_is_said_and_so_is_what_is_lost_meanwhile() {
    if !own_mounts() {
        return;
    }
    let temp = tempfile::tempdir().unwrap();
    let point = temp.path().join("w/m");
    fs::create_dir_all(&point).unwrap();
    let Ok(server) = fs::File::options().read(true).write(true).open("/dev/fuse") else {
        return vigie_skipped::skipped("no /dev/fuse");
    };
    let options = format!("fd={},rootmode=40000,user_id=0,group_id=0,allow_other", server.as_raw_fd());
    let running = Running::configured(json!({
        "paths": {"path": [recursive(&temp.path().join("w"))]},
        "fswatch": {"behind_seconds": 1},
    }));
    if !mount_at("unlisted", Some("fuse.unlisted"), &point, MsFlags::empty(), Some(&options)) {
        return;
    }
    let answering = std::thread::spawn(move || serve_without_listing(server));

    let (done, _) = mpsc::sync_channel(1);
    running.order(Order::Rescan { paths: Vec::new(), prove: false, done });
    let behind = running.next(|alert| alert.alert.starts_with("fswatch has been behind since"));
    running.mailbox.open().overflowed("a queue of the test overflowed");
    let lost = running.next(|alert| alert.alert.contains("a queue of the test overflowed"));
    let status = running.status_when(|status| status.conditions.len() >= 2);
    umount2(&point, MntFlags::MNT_FORCE | MntFlags::MNT_DETACH).unwrap();
    running.status_when(|status| status.scans.is_empty());
    running.stop();
    answering.join().unwrap();

    assert!(behind.alert.contains(point.to_str().unwrap()), "{behind:?}");
    // At once, whether everything is under way already or the tree of the mount alone.
    assert!(
        lost.alert.contains("is compared with the baseline") || lost.alert.contains("is over"),
        "{lost:?}"
    );
    let names: Vec<_> = status.conditions.iter().map(|one| one.name.as_str()).collect();
    assert!(names.contains(&"looks-behind") && names.contains(&"notifications-lost"), "{names:?}");
}

/// Mounts that are aborted in the end.
struct Mounted<'a>(&'a [std::path::PathBuf]);

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        for point in self.0 {
            umount2(point, MntFlags::MNT_FORCE | MntFlags::MNT_DETACH).ok();
        }
    }
}

fn scans_go_on_past_directories_that_do_not_respond_and_name_them() {
    if !own_mounts() {
        return;
    }
    let temp = tempfile::tempdir().unwrap();
    let watched = temp.path().join("w");
    // As many as there are threads that list.
    let number = std::thread::available_parallelism().map_or(1, |number| number.get().min(8));
    let points: Vec<_> = (0..number).map(|number| watched.join(format!("m{number}"))).collect();
    points.iter().for_each(|point| fs::create_dir_all(point).unwrap());
    fs::create_dir(watched.join("a")).unwrap();
    fs::write(watched.join("a/file"), "1").unwrap();
    let running = Running::on(&[&recursive(&watched)]);
    let mut servers = Vec::new();
    // Whatever fails, nobody waits for them for ever.
    let _mounts = Mounted(&points);
    for point in &points {
        let Ok(server) = fs::File::options().read(true).write(true).open("/dev/fuse") else {
            return vigie_skipped::skipped("no /dev/fuse");
        };
        let options = format!("fd={},rootmode=40000,user_id=0,group_id=0,allow_other", server.as_raw_fd());
        if !mount_at("unlisted", Some("fuse.unlisted"), point, MsFlags::empty(), Some(&options)) {
            return;
        }
        servers.push(std::thread::spawn(move || serve_without_listing(server)));
    }

    let answers =
        [(); 2].map(|()| running.ask(|done| Order::Rescan { paths: Vec::new(), prove: false, done }));
    let status = running.status_when(|status| {
        points.iter().all(|point| status.unwatched.contains_key(point))
            && status.conditions.iter().any(|one| one.name == "directories-unwatched")
    });
    drop(Mounted(&points));
    let after = running.status_when(|status| status.conditions.is_empty() && status.scans.is_empty());
    running.stop();
    servers.into_iter().for_each(|server| server.join().unwrap());

    assert!(answers.iter().all(|answer| answer["rescanned"] == true), "{answers:?}");
    let is_named = |one: &vigie_sdk::Condition| one.name == "directories-unwatched";
    assert!(status.conditions.iter().any(is_named), "{status:?}");
    assert!(after.conditions.iter().all(|one| !is_named(one)), "{after:?}");
}

/// Stores to a mapped page of a file, each time it is told to by a line.
const MAPPER: &str = "
import mmap, sys
with open(sys.argv[1], 'r+b') as file:
    page = mmap.mmap(file.fileno(), 0)
    for line in sys.stdin:
        page[0:1] = line[0:1].encode()
        print('done', flush=True)
";

/// The program that does it; ends with the test.
struct Mapper {
    process: Child,
    done: BufReader<ChildStdout>,
}

impl Mapper {
    fn of(file: &Path) -> Self {
        let mut command = Command::new("python3");
        command.args(["-c", MAPPER]).arg(file).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = command.spawn().expect("there is Python");
        let done = BufReader::new(process.stdout.take().expect("it is piped"));
        Self { process, done }
    }

    fn store(&mut self, value: &str) {
        let commands = self.process.stdin.as_mut().expect("it is piped");
        writeln!(commands, "{value}").expect("it reads");
        let mut line = String::new();
        self.done.read_line(&mut line).expect("it answers");
        assert_eq!(line, "done\n");
    }
}

impl Drop for Mapper {
    fn drop(&mut self) {
        drop(self.process.stdin.take());
        self.process.wait().ok();
    }
}

fn a_store_to_a_mapped_page_is_found_by_reading_everything() {
    let temp = tempfile::tempdir().unwrap();
    let file = temp.path().join("a");
    fs::write(&file, "1").unwrap();
    let mut running = Running::on(&[temp.path().to_str().unwrap()]);
    let mut mapper = Mapper::of(&file);
    let rescan = |running: &Running, prove| {
        running.ask(|done| Order::Rescan { paths: Vec::new(), prove, done });
    };

    mapper.store("2");
    rescan(&running, true);
    let first = running.told(temp.path());
    // The page is dirty already: neither an event nor a time tells of this.
    mapper.store("3");
    rescan(&running, true);
    let second = running.told(temp.path());

    assert_eq!(texts(&first, temp.path()), ["changed a"]);
    assert_eq!(texts(&second, temp.path()), ["changed a"]);
    assert!(second[0].attributes.contains(&"content".to_owned()), "{second:?}");
    assert_eq!(second[0].before["sha256"], first[0].after["sha256"]);
    assert!(second[0].window["from"].is_string());
}

/// Whoever changes the rights did not write, and nobody is heard of who did.
fn what_nobody_was_heard_to_write_is_told_with_the_next_thing_that_happens_to_the_file() {
    let temp = tempfile::tempdir().unwrap();
    let file = temp.path().join("a");
    fs::write(&file, "1").unwrap();
    let running = Running::on(&[&recursive(temp.path())]);
    let mut mapper = Mapper::of(&file);
    mapper.store("2");

    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    let told = running.next(|alert| alert.attributes.contains(&"content".to_owned()));

    assert_eq!((told.path, told.severity.as_str()), (file.display().to_string(), "critical"));
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
        let sink = TestSink {
            said,
            orders: orders.clone(),
            is_silent: std::sync::Arc::default(),
            way: std::sync::Arc::default(),
        };
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

    let notices = told.iter().filter(|alert| alert.event == Event::Notice).count() as u64;
    assert!(notices >= 1);
    running.status_when(|status| status.scans.is_empty() && notices <= status.overflows);
}
