//! What is known to be meant is no alert of its own: plans, tools for accounts. And what is seen is proved.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use nix::mount::MsFlags;
use serde_json::{Value, json};
use vigie_fswatch::change::Event;
use vigie_fswatch::engine::Order;

use super::running::{Alert, CEILING, Running, Said, recursive, texts, with_backend};
use super::who::{mount_at, own_mounts, uses_fanotify};

fn next(running: &Running, is: impl Fn(&Alert) -> bool) -> (Vec<Alert>, Alert) {
    let mut others = Vec::new();
    loop {
        match running.said.recv_timeout(CEILING) {
            Ok(Said::Alert(alert)) if is(&alert) => return (others, *alert),
            Ok(Said::Alert(alert)) => others.push(*alert),
            Ok(Said::Log(_)) => {}
            Err(error) => {
                panic!("{error}: {:?}", others.iter().map(|alert| &alert.alert).collect::<Vec<_>>())
            }
        }
    }
}

fn plan(running: &Running, path: &Path, time: Duration) -> Value {
    running.ask(|done| Order::Expect {
        paths: vec![path.to_owned()],
        until: SystemTime::now() + time,
        by: "change-4711".to_owned(),
        asker: None,
        done,
    })
}

#[test]
fn what_is_planned_is_recorded_and_counted_and_everything_else_is_told_as_always() {
    let temp = tempfile::tempdir().unwrap();
    let (planned, other) = (temp.path().join("nginx"), temp.path().join("other"));
    fs::create_dir(&planned).unwrap();
    fs::create_dir(&other).unwrap();
    let moved = other.join("moved");
    fs::write(&moved, "1").unwrap();
    let mut running = Running::on(&[&recursive(temp.path())]);
    assert!(plan(&running, Path::new("/"), Duration::from_secs(60))["refused"].is_string());

    let answer = plan(&running, &planned, Duration::from_secs(3));
    assert_eq!(answer["expected"], json!([planned]));
    next(&running, |alert| alert.event == Event::Expected);
    // What was elsewhere is gone there, which nobody planned.
    fs::rename(&moved, planned.join("moved")).unwrap();
    fs::write(planned.join("conf"), "1").unwrap();
    fs::write(planned.join("setuid"), "1").unwrap();
    fs::set_permissions(planned.join("setuid"), std::os::unix::fs::PermissionsExt::from_mode(0o4755))
        .unwrap();
    fs::write(other.join("conf"), "1").unwrap();
    let (told, end) = next(&running, |alert| alert.event == Event::Expected);

    let told = texts(&told, temp.path());
    assert!(told.contains(&"created other/conf".to_owned()), "{told:?}");
    assert!(told.iter().any(|text| text.ends_with("nginx/moved")), "{told:?}");
    assert!(told.iter().any(|text| text.ends_with("nginx/setuid")), "{told:?}");
    assert!(!told.iter().any(|text| text.ends_with("nginx/conf")), "{told:?}");
    assert!(end.alert.contains("expected changes") && end.alert.contains("change-4711"), "{}", end.alert);
    fs::write(planned.join("late"), "1").unwrap();
    let told = running.told(temp.path());
    assert_eq!(texts(&told, temp.path()), ["created nginx/late"]);
}

#[test]
fn what_one_useradd_does_is_one_story() {
    let temp = tempfile::tempdir().unwrap();
    if !vigie_skipped::happens_to_have("useradd") || !own_mounts() {
        return;
    }
    let copy = temp.path().join("etc");
    assert!(Command::new("cp").arg("-a").arg("/etc").arg(&copy).stderr(Stdio::null()).status().is_ok());
    if !mount_at(copy.to_str().unwrap(), None, Path::new("/etc"), MsFlags::MS_BIND, None) {
        return;
    }
    let files = ["passwd", "shadow", "group", "gshadow", "subuid", "subgid"];
    let files: Vec<String> =
        files.iter().flat_map(|name| [format!("/etc/{name}"), format!("/etc/{name}-")]).collect();
    let running = Running::configured(json!({"paths": {"path": files}}));
    if !uses_fanotify(&running) {
        return;
    }
    let run = |program: &str, arguments: &[&str]| {
        assert!(Command::new(program).args(arguments).stderr(Stdio::null()).status().unwrap().success());
        next(&running, |alert| alert.event == Event::Group)
    };

    let (others, story) = run("/usr/sbin/useradd", &["-M", "-u", "4711", "vigietest"]);
    assert_eq!(others.len(), 0, "{others:?}");
    assert!(
        story.alert.starts_with("account vigietest made: uid 4711, home /home/vigietest"),
        "{}",
        story.alert
    );
    assert_eq!(story.severity, "high");
    let (others, story) = run("/usr/sbin/usermod", &["-aG", "root", "vigietest"]);
    assert_eq!(others.len(), 0, "{others:?}");
    assert!(story.alert.starts_with("vigietest is now in root (usermod"), "{}", story.alert);
    assert_eq!(story.severity, "critical");
    let (others, story) = run("/usr/sbin/userdel", &["vigietest"]);
    assert_eq!(others.len(), 0, "{others:?}");
    assert!(story.alert.contains("account vigietest removed"), "{}", story.alert);

    // What somebody else wrote meanwhile is not said to be the tool's doing alone.
    let script = "echo evil::0:0::/:/bin/sh >>/etc/passwd; useradd -M vigieother";
    assert!(Command::new("sh").args(["-c", script]).stderr(Stdio::null()).status().unwrap().success());
    let (others, story) = next(&running, |alert| alert.event == Event::Group);
    assert!(
        others.iter().any(|alert| alert.path == "/etc/passwd" && alert.severity == "critical"),
        "{others:?}"
    );
    assert!(story.alert.contains(" wrote these files at the same time"), "{}", story.alert);

    // Anybody else's change of the same files is told as always.
    let shadow = fs::read("/etc/shadow").unwrap();
    fs::write("/etc/shadow", [shadow.as_slice(), b"evil::1::::::\n"].concat()).unwrap();
    let (_, alone) = next(&running, |alert| alert.path == "/etc/shadow");
    assert_eq!((alone.event, alone.severity.as_str()), (Event::Changed, "critical"));
}

#[test]
fn what_is_watched_is_proved_and_said() {
    for backend in ["auto", "inotify"] {
        with_backend(backend, is_proved);
    }
}

fn is_proved() {
    let temp = tempfile::tempdir().unwrap();
    let running = Running::on(&[&recursive(temp.path())]);

    running.status_when(|status| status.proofs.iter().any(|proof| proof.proved.is_some()));

    let explained = running.ask(|answer| Order::Explain(temp.path().join("x"), answer));
    assert!(explained["proof"]["proved"].is_string() && explained["proof"]["how"].is_string(), "{explained}");
    assert!(explained["proof"]["blind_since"].is_null());
}

#[test]
fn a_file_that_is_written_for_a_while_is_told_when_that_begins_and_when_it_ends() {
    let temp = tempfile::tempdir().unwrap();
    let mut running = Running::on(&[&recursive(temp.path())]);
    if !uses_fanotify(&running) {
        return;
    }
    let path = temp.path().join("download");

    let mut writer = Command::new("sh")
        .arg("-c")
        .arg(format!(
            "exec 3>'{}'; for i in 1 2 3 4 5 6 7 8 9 10 11 12; do echo part >&3; sleep 0.25; done",
            path.display()
        ))
        .spawn()
        .unwrap();
    assert!(writer.wait().unwrap().success());
    let told = running.told_with_writing(temp.path());

    assert_eq!(texts(&told, temp.path()), ["created download", "created download"]);
    assert!(told[0].is_being_written() && told[1].after["size"] == json!(60), "{told:?}");
}

#[test]
fn a_single_file_is_watched_like_any_other() {
    let temp = tempfile::tempdir().unwrap();
    let file = temp.path().join("only");
    fs::write(&file, "1").unwrap();
    let running = Running::on(&[file.to_str().unwrap()]);
    let status = running.status_when(|status| !status.backends.is_empty());
    if status.backends[0].why.as_ref().is_some_and(|why| !why.contains("irectory")) {
        return vigie_skipped::skipped(format_args!("{:?}", status.backends));
    }

    fs::write(&file, "2").unwrap();
    let (_, told) = next(&running, |alert| alert.path == file.to_str().unwrap());

    assert_eq!(told.process["pid"], json!(std::process::id()), "{:?}", status.backends);
}

#[test]
fn a_narrower_configuration_is_told() {
    let temp = tempfile::tempdir().unwrap();
    for name in ["a", "b"] {
        fs::create_dir(temp.path().join(name)).unwrap();
        fs::write(temp.path().join(name).join("x"), "").unwrap();
    }
    let (a, b) = (recursive(&temp.path().join("a")), recursive(&temp.path().join("b")));
    let mut running = Running::on(&[&a, &b]);

    running.watch(&[&a]);

    let told = running.early.pop().unwrap();
    assert!(told.alert.contains("watches less: no longer") && told.alert.contains(&b), "{}", told.alert);
    assert_eq!(told.severity, "high");
    running.watch(&[&a, &b]);
    assert!(running.early.is_empty());
}

#[test]
fn what_is_mounted_over_a_watched_place_is_told_as_that() {
    let temp = tempfile::tempdir().unwrap();
    let (file, other, directory) = (temp.path().join("f"), temp.path().join("o"), temp.path().join("d"));
    fs::write(&file, "good").unwrap();
    fs::write(&other, "evil").unwrap();
    fs::create_dir(&directory).unwrap();
    fs::write(directory.join("x"), "").unwrap();
    if !own_mounts() {
        return;
    }
    let entries = [file.to_str().unwrap().to_owned(), recursive(&directory)];
    let running = Running::on(&[&entries[0], &entries[1]]);

    if !mount_at("tmpfs", Some("tmpfs"), &directory, MsFlags::empty(), None) {
        return;
    }
    let told = running.soon(|alert| alert.event == Event::Notice);
    assert!(told.alert.starts_with("tmpfs"), "{}", told.alert);
    let (_, gone) = next(&running, |alert| alert.path.ends_with("/x"));
    assert!(gone.alert.starts_with("caused by the mount at "), "{}", gone.alert);

    assert!(mount_at(other.to_str().unwrap(), None, &file, MsFlags::MS_BIND, None));
    let told = running.soon(|alert| alert.event == Event::Notice);
    assert!(told.alert.contains("was mounted over ") && told.alert.contains("/f: "), "{}", told.alert);
    let (_, changed) = next(&running, |alert| alert.path == entries[0] && alert.event == Event::Changed);
    assert!(changed.alert.starts_with("caused by the mount at "), "{}", changed.alert);
    nix::mount::umount(&file).unwrap();
    let told = running.soon(|alert| alert.event == Event::Notice);
    assert!(told.alert.contains("/f was unmounted"), "{}", told.alert);
}
