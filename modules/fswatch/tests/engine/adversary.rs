//! What users do who want the engine to be blind, busy or wrong. Needs root, which alone can be several users; without
//! it each test says so and ends.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::{FileExt, PermissionsExt, chown};
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use tempfile::TempDir;
use vigie_fswatch::change::Event;
use vigie_fswatch::engine::Order;

use super::running::{Alert, Running, recursive};

/// A user that has no account.
const USER: u32 = 54_321;

/// A directory that root alone can change, and one of a user; none without root.
fn two_directories() -> Option<TempDir> {
    if !nix::unistd::geteuid().is_root() {
        writeln!(std::io::stderr(), "skipped: only root can be several users").ok();
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
