//! What users do who want the engine to be blind, busy or wrong. Needs root, which alone can be several users; without
//! it each test says so and ends.

use std::cell::Cell;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::{FileExt, PermissionsExt, chown};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::SystemTime;

use serde_json::{Value, json};
use tempfile::TempDir;
use vigie_fswatch::change::Event;
use vigie_fswatch::engine::{Order, Status};

use super::running::{Alert, CEILING, Running, recursive};
use super::who::uses_fanotify;

/// A user that has no account.
const USER: u32 = 54_321;

/// A directory that root alone can change, and one of a user; none without root.
fn two_directories() -> Option<TempDir> {
    if !vigie_skipped::is_root() {
        return None;
    }
    let temp = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    fs::set_permissions(temp.path(), fs::Permissions::from_mode(0o755)).unwrap();
    for name in ["etc", "home"] {
        fs::create_dir(temp.path().join(name)).unwrap();
    }
    chown(temp.path().join("home"), Some(USER), Some(USER)).unwrap();
    fs::write(temp.path().join("etc/shadow"), "root:*").unwrap();
    Some(temp)
}

fn config(directory: &Path, storm: usize) -> Value {
    json!({"paths": {"path": [recursive(directory)]}, "fswatch": {"storm_changes": storm}})
}

/// Runs a program of Python as the user.
fn as_user(program: &str, directory: &Path) -> Command {
    let mut command = Command::new("setpriv");
    let id = USER.to_string();
    command.args(["--reuid", &id, "--regid", &id, "--clear-groups", "/usr/bin/python3", "-c", program]);
    command.arg(directory);
    command
}

fn is_of(path: &Path) -> impl Fn(&Alert) -> bool {
    move |alert| alert.path == path.to_str().unwrap()
}

#[test]
fn a_large_file_is_told_at_once_and_its_digest_follows_and_refers_to_that() {
    let temp = tempfile::tempdir().unwrap();
    let running = Running::configured(config(temp.path(), 0));
    let path = temp.path().join("large");
    let large = vec![7_u8; 40 * 1024 * 1024];

    fs::write(temp.path().join("new"), &large).unwrap();
    fs::set_permissions(temp.path().join("new"), fs::Permissions::from_mode(0o4755)).unwrap();
    fs::rename(temp.path().join("new"), &path).unwrap();
    let created = running.next(is_of(&path));
    let digest = running.next(|alert| alert.path == created.path && alert.event == Event::Digest);
    File::options().write(true).open(&path).unwrap().write_all_at(b"evil", 39 << 20).unwrap();
    let changed =
        running.next(|alert| alert.path == created.path && !alert.attributes.contains(&"content".to_owned()));
    let content =
        running.next(|alert| alert.path == created.path && alert.attributes.contains(&"content".to_owned()));

    assert!(created.after["not_read"].is_string() && created.after["sha256"].is_null(), "{created:?}");
    assert_eq!(digest.refers_to.as_ref(), Some(&created.id), "{digest:?}");
    assert!(digest.after["sha256"].is_string(), "{digest:?}");
    assert!(changed.after["not_read"].is_string(), "{changed:?}");
    assert_eq!((&content.before["sha256"], content.refers_to), (&digest.after["sha256"], Some(changed.id)));
}

/// Takes a lease, changes the content, and waits for a line before it gives the lease up.
const LEASE: &str = "
import fcntl, os, signal, sys
signal.signal(signal.SIGIO, signal.SIG_IGN)
file = os.open(sys.argv[1] + '/key', os.O_RDWR)
fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_WRLCK)
os.pwrite(file, b'EVIL', 0)
print('written', flush=True)
sys.stdin.readline()
fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_UNLCK)
";

#[test]
fn what_a_lease_keeps_from_being_read_is_told_and_read_when_it_can_be() {
    let Some(temp) = two_directories() else { return };
    let home = temp.path().join("home");
    let key = home.join("key");
    fs::write(&key, "good").unwrap();
    chown(&key, Some(USER), Some(USER)).unwrap();
    let running = Running::configured(config(temp.path(), 0));

    let mut user = as_user(LEASE, &home).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(user.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "written\n");
    // The event of a write comes when the file is closed, or with the scan.
    running.ask(|done| Order::Rescan { paths: Vec::new(), prove: false, done });
    let unread = running.next(is_of(&key));
    let known = running.ask(|done| Order::Known(key.clone(), done));
    user.stdin.take().unwrap().write_all(b"\n").unwrap();
    user.wait().unwrap();
    let read = running.next(|alert| is_of(&key)(alert) && alert.after["sha256"].is_string());

    assert!(unread.after["not_read"].as_str().unwrap().contains("lease"), "{unread:?}");
    assert_eq!(known["known"]["sha256"], Value::Null, "no digest is kept for what was not read: {known}");
    assert_eq!(read.attributes[0], "content", "{read:?}");
    assert_ne!(read.before["sha256"], read.after["sha256"]);
    running.status_when(|status| status.unreadable.is_empty());
}

/// Makes and removes files until a line comes.
const FLOOD: &str = "
import os, select, sys
os.chdir(sys.argv[1])
number = 0
print('begun', flush=True)
while not select.select([sys.stdin], [], [], 0)[0]:
    for _ in range(100):
        number += 1
        name = '%d-' % number + 'x' * 230
        open(name, 'w').close()
        if number % 3 == 0:
            os.rename(name, name + '-')
";

#[test]
fn roots_change_is_told_alone_and_by_name_in_the_middle_of_a_users_flood() {
    let Some(temp) = two_directories() else { return };
    let running = Running::configured(config(temp.path(), 20));
    let shadow = temp.path().join("etc/shadow");

    let mut user = as_user(FLOOD, &temp.path().join("home"));
    let mut user = user.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(user.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let mut told = Vec::new();
    for number in 0..20 {
        fs::write(&shadow, format!("evil:{number}")).unwrap();
        // Whatever the user does meanwhile, only so much of it is told before.
        let mut noise = 0;
        told.push(running.next(|alert| {
            noise += 1;
            assert!(noise < 200, "the user's changes are told one by one");
            is_of(&shadow)(alert)
        }));
    }
    user.stdin.take().unwrap().write_all(b"\n").unwrap();
    user.wait().unwrap();

    assert!(told.iter().all(|alert| alert.severity == "critical" && alert.group.is_null()), "{told:?}");
}

#[test]
fn sparse_files_of_a_user_keep_nobody_waiting() {
    let Some(temp) = two_directories() else { return };
    let running = Running::configured(config(temp.path(), 0));
    let (home, shadow) = (temp.path().join("home"), temp.path().join("etc/shadow"));

    for number in 0..8 {
        let file = File::create(home.join(number.to_string())).unwrap();
        assert!([1 << 62, 1 << 43, 1 << 41].into_iter().any(|size| file.set_len(size).is_ok()));
        chown(home.join(number.to_string()), Some(USER), Some(USER)).unwrap();
    }
    fs::write(&shadow, "evil").unwrap();
    let (mut told, mut sparse) = (None, 0);
    while told.is_none() || sparse < 8 {
        let alert = running.next(|_| true);
        sparse += usize::from(alert.after["sha256_sparse_1"].is_string());
        if is_of(&shadow)(&alert) {
            told = Some(alert);
        }
    }

    assert_eq!(told.unwrap().attributes[0], "content");
}

/// Each new directory begins a scan of its own, and none must cost a step for all the others.
#[test]
fn deep_trees_of_a_user_keep_nobody_waiting_and_are_known_in_the_end() {
    let Some(temp) = two_directories() else { return };
    let running = Running::configured(config(temp.path(), 20));
    let shadow = temp.path().join("etc/shadow");
    let program = "
import os, sys
for chain in range(12):
    os.chdir(sys.argv[1])
    for level in range(60):
        name = '%d-%s' % (chain, 'd' * 40)
        os.mkdir(name)
        os.chdir(name)
";

    assert!(as_user(program, &temp.path().join("home")).status().unwrap().success());
    fs::write(&shadow, "evil").unwrap();
    let told = running.next(is_of(&shadow));

    assert!(told.group.is_null() && told.severity == "critical", "{told:?}");
    running.status_when(|status| status.objects >= 723 && status.pending == 0 && status.scans.is_empty());
}

/// More names at once than wait by name: their directories are compared instead.
#[test]
fn of_a_users_ten_thousands_of_files_every_one_is_known_in_the_end() {
    let Some(temp) = two_directories() else { return };
    let running = Running::configured(config(temp.path(), 20));
    let program = "
import os, sys
os.chdir(sys.argv[1])
for number in range(14000):
    open('%d' % number, 'w').close()
";

    assert!(as_user(program, &temp.path().join("home")).status().unwrap().success());

    running.status_when(|status| status.objects >= 14_003 && status.pending == 0 && status.scans.is_empty());
}

/// Who removes very much at once does not decide for how long nothing else is told.
#[test]
fn a_large_tree_that_goes_is_told_in_parts_and_nothing_of_it_is_kept() {
    let Some(temp) = two_directories() else { return };
    let outside = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    let large = temp.path().join("etc/large");
    for directory in 0..10 {
        fs::create_dir_all(large.join(format!("{directory}/sub"))).unwrap();
        for number in 0..300 {
            fs::write(large.join(format!("{directory}/{number}")), "").unwrap();
            fs::write(large.join(format!("{directory}/sub/{number}")), "").unwrap();
        }
    }
    let running = Running::configured(config(temp.path(), 0));
    let before = running.status_when(|status| status.objects > 6_000).objects;

    fs::rename(&large, outside.path().join("large")).unwrap();
    running.status_when(|status| status.objects == before - 6_021 && status.pending == 0);
    let gone = running.next(|alert| alert.path == large.to_str().unwrap() && alert.event == Event::Removed);

    assert_eq!(gone.kind, "directory", "{gone:?}");
}

/// Makes so many directories of a hundred files each; gives the number of objects.
fn make_large(at: &Path, directories: usize) -> usize {
    for directory in 0..directories {
        fs::create_dir_all(at.join(format!("{directory}/sub"))).unwrap();
        for number in 0..50 {
            fs::write(at.join(format!("{directory}/{number}")), "").unwrap();
            fs::write(at.join(format!("{directory}/sub/{number}")), "").unwrap();
        }
    }
    1 + directories * 102
}

/// Whoever renames very much at once does not decide for how long nothing else is told.
#[test]
fn a_large_directory_that_is_renamed_is_told_once_and_what_is_in_it_goes_along() {
    let Some(temp) = two_directories() else { return };
    let (home, shadow) = (temp.path().join("home"), temp.path().join("etc/shadow"));
    let (one, other) = (home.join("one"), home.join("other"));
    let objects = make_large(&one, 30);
    let mut running = Running::configured(config(temp.path(), 0));
    let before = running.status.get().objects;

    fs::rename(&one, &other).unwrap();
    let renamed = running.next(|alert| alert.event == Event::Renamed);
    fs::write(other.join("7/sub/9"), "changed").unwrap();
    fs::write(&shadow, "evil").unwrap();
    let told = running.next(is_of(&shadow));
    let known = running.ask(|done| Order::Known(one.join("0"), done));
    let changed = running.next(is_of(&other.join("7/sub/9")));
    let rest = running.told(&home);

    assert_eq!(told.severity, "critical");
    assert!(known["known"].is_object(), "root's change is told before all is moved: {known}");
    assert_eq!((renamed.path.as_str(), renamed.count), (other.to_str().unwrap(), Some(objects as u64)));
    assert_eq!((changed.event, changed.attributes[0].as_str()), (Event::Changed, "content"), "{changed:?}");
    assert_eq!(rest, []);
    running.status_when(|status| status.objects == before + 1 && status.pending == 0);
    // There and back, and away: as often as somebody likes.
    fs::rename(&other, &one).unwrap();
    fs::rename(&one, home.join("third")).unwrap();
    fs::rename(home.join("third"), temp.path().join("etc/fourth")).unwrap();
    running.told(&home);
    running
        .status_when(|status| status.objects == before + 2 && status.pending == 0 && status.scans.is_empty());
    let known = running.ask(|done| Order::Known(temp.path().join("etc/fourth/7/sub/9"), done));
    assert_eq!(known["known"]["size"], 7, "{known}");
}

/// A life that ends in the middle of it leaves nothing that the next one does not find.
#[test]
fn a_large_directory_that_is_half_moved_when_the_module_ends_is_found_by_the_next_life() {
    let temp = tempfile::tempdir().unwrap();
    let (watched, state) = (temp.path().join("w"), temp.path().join("s"));
    let (one, other) = (watched.join("one"), watched.join("other"));
    fs::create_dir(&state).unwrap();
    for is_gone_meanwhile in [false, true] {
        let objects = make_large(&one, 60);
        let mut running = Running::keeping(Some(&state), config(&watched, 0));
        running.told(&watched);
        let before = running.status.get().objects;
        fs::rename(&one, &other).unwrap();
        let renamed = running.next(|alert| alert.event == Event::Renamed);
        running.stop();
        if is_gone_meanwhile {
            fs::remove_dir_all(&other).unwrap();
        }

        let mut running = Running::keeping(Some(&state), config(&watched, 0));

        assert_eq!(renamed.count, Some(objects as u64), "{renamed:?}");
        let left = if is_gone_meanwhile { before - objects } else { before };
        running.status_when(|status| status.objects == left && status.pending == 0);
        let mut told = std::mem::take(&mut running.early);
        told.extend(running.told(&watched));
        let is_told = |path: &Path, event| {
            told.iter().any(|alert| alert.path == path.to_str().unwrap() && alert.event == event)
        };
        assert!(is_told(&one, Event::Removed), "it ended in the middle: {:?}", told.first());
        assert_eq!(is_told(&other, Event::Removed), is_gone_meanwhile);
        running.stop();
        fs::remove_dir_all(&other).ok();
    }
}

/// However deep a user's directories are and however many at once, what waits of them takes no more than the shares.
#[test]
fn what_waits_of_a_users_deep_chains_is_bounded_in_bytes_and_all_is_known_in_the_end() {
    const MOST: usize = 24 << 20;
    let Some(temp) = two_directories() else { return };
    let running = Running::configured(config(temp.path(), 20));
    let program = "
import os, sys
for chain in range(100):
    os.chdir(sys.argv[1])
    for level in range(38):
        name = '%d-%s' % (chain, 'd' * 98)
        os.mkdir(name)
        os.chdir(name)
";

    let most = Cell::new(0);
    let waits = |status: &Status| most.set(most.get().max(status.waiting_bytes));
    let mut user = as_user(program, &temp.path().join("home")).spawn().unwrap();
    while user.try_wait().unwrap().is_none() {
        waits(&running.status.get());
    }
    let deadline = SystemTime::now() + 6 * CEILING;
    loop {
        let status = running.status.get();
        waits(&status);
        if status.objects >= 3_803 && status.pending == 0 && status.scans.is_empty() {
            break;
        }
        assert!(SystemTime::now() < deadline, "{status:?}");
        std::thread::yield_now();
    }

    assert!((1 << 20..MOST).contains(&most.get()), "{}", most.get());
}

#[test]
fn what_is_done_and_undone_before_anybody_looks_is_told() {
    let temp = tempfile::tempdir().unwrap();
    let program = temp.path().join("program");
    fs::write(&program, "good").unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let running = Running::settling(config(temp.path(), 0), 300);
    let modified = fs::metadata(&program).unwrap().modified().unwrap();

    fs::write(&program, "evil").unwrap();
    fs::write(&program, "good").unwrap();
    File::options().write(true).open(&program).unwrap().set_modified(modified).unwrap();
    let swapped = running.next(is_of(&program));
    fs::set_permissions(&program, fs::Permissions::from_mode(0o4755)).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let setuid = running.next(is_of(&program));
    fs::rename(&program, temp.path().join("aside")).unwrap();
    fs::write(&program, "evil").unwrap();
    fs::rename(temp.path().join("aside"), &program).unwrap();
    let exchanged = running.next(is_of(&program));

    for told in [swapped, setuid, exchanged] {
        assert_eq!((told.event, told.severity.as_str()), (Event::Touched, "high"), "{told:?}");
    }
}

#[test]
fn a_program_that_is_made_run_and_removed_is_told_with_who_did_it() {
    let temp = tempfile::tempdir().unwrap();
    let running = Running::settling(config(temp.path(), 0), 500);
    if !uses_fanotify(&running) {
        return;
    }
    let dropper = temp.path().join("dropper");

    let script = format!("cp /bin/true {0} && {0} && rm {0}", dropper.display());
    assert!(Command::new("sh").arg("-c").arg(script).status().unwrap().success());
    let told = running.next(is_of(&dropper));

    assert_eq!((told.event, told.severity.as_str()), (Event::Touched, "high"), "{told:?}");
    assert!(told.process["pid"].is_number(), "{told:?}");
}

/// One state while it is written, and one alert when it is closed.
#[test]
fn a_writer_that_takes_its_time_is_told_once_while_it_writes_and_once_when_it_has_closed() {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("download");
    fs::write(&path, "old").unwrap();
    let running = Running::configured(config(temp.path(), 0));

    let mut file = File::options().write(true).open(&path).unwrap();
    file.write_all(b"new").unwrap();
    let begun = running.next(is_of(&path));
    for _ in 0..1000 {
        file.write_all(b"more").unwrap();
        std::thread::yield_now();
    }
    drop(file);
    let closed = running.next(is_of(&path));

    assert!(begun.after["not_read"].is_string(), "{begun:?}");
    assert!(closed.after["sha256"].is_string() && closed.before["sha256"].is_string(), "{closed:?}");
    assert_eq!(closed.refers_to, Some(begun.id));
}

#[test]
fn a_state_that_is_something_else_is_told_as_critical_and_keeps_nobody_waiting() {
    for what in ["fswatch.baseline", "fswatch.key", "fswatch.history", "fswatch.alive"] {
        for kind in ["link", "directory", "fifo"] {
            let temp = tempfile::tempdir().unwrap();
            let (watched, state) = (temp.path().join("w"), temp.path().join("s"));
            fs::create_dir(&watched).unwrap();
            fs::create_dir(&state).unwrap();
            fs::write(watched.join("a"), "1").unwrap();
            Running::keeping(Some(&state), config(&watched, 0)).stop();
            let path = state.join(what);
            fs::remove_file(&path).ok();
            let nowhere = temp.path().join("nowhere");
            match kind {
                "link" => std::os::unix::fs::symlink(&nowhere, &path).unwrap(),
                "directory" => fs::create_dir(&path).unwrap(),
                _ => nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap(),
            }

            let running = Running::keeping(Some(&state), config(&watched, 0));

            let told = running.early.iter().any(|alert| {
                alert.severity == "critical" && alert.event == Event::Notice && alert.alert.contains(kind)
            });
            assert!(told, "{what} {kind}: {:?}", running.early);
            assert!(!nowhere.exists());
            running.stop();
            assert!(fs::symlink_metadata(state.join("fswatch.baseline")).unwrap().is_file());
        }
    }
}
