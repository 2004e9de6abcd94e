//! Package managers at work: what their packages explain is one record, and nothing else hides in it. A real dpkg, with
//! its database and the files that it puts in place in mounts of this test's own.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use vigie_fswatch::change::Event;

use super::running::{Alert, CEILING, Running, Said, texts};
use super::who::{mount_at, own_mounts, uses_fanotify};
use nix::mount::MsFlags;

/// A host of the test's own: `/opt` and dpkg's database are other ones here.
struct Host {
    temp: tempfile::TempDir,
    running: Running,
}

const PACKAGE: &str = "vigie-test";

fn done(command: &mut Command) -> bool {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap().success()
}

/// What a package has: files with content and mode, and whether its manifest has them.
type Files<'a> = &'a [(&'a str, &'a str, u32, bool)];

impl Host {
    fn new() -> Option<Self> {
        if !["dpkg", "dpkg-deb", "md5sum"].into_iter().all(vigie_skipped::happens_to_have) || !own_mounts() {
            return None;
        }
        let temp = tempfile::tempdir().unwrap();
        let none = MsFlags::empty();
        let copy = temp.path().join("dpkg");
        assert!(done(Command::new("cp").arg("-a").arg("/var/lib/dpkg").arg(&copy)));
        let is_made =
            mount_at(copy.to_str().unwrap(), None, Path::new("/var/lib/dpkg"), MsFlags::MS_BIND, None)
                && mount_at("tmpfs", Some("tmpfs"), Path::new("/opt"), none, None);
        if !is_made {
            return None;
        }
        fs::create_dir_all("/opt/vt").unwrap();
        fs::write("/opt/vt/begin", "").unwrap();
        let running = Running::configured(json!({
            "paths": {"path": ["recursive:/opt/vt", "/var/lib/dpkg/info"]}, "fswatch": {"storm_changes": 0},
        }));
        uses_fanotify(&running).then_some(Self { temp, running })
    }

    /// Builds a package; `scripts` are its maintainer's.
    fn package(
        &self,
        version: &str,
        files: Files<'_>,
        scripts: &[(&str, &str)],
        conffiles: &[&str],
    ) -> PathBuf {
        let root = self.temp.path().join(format!("build-{version}"));
        fs::create_dir_all(root.join("DEBIAN")).unwrap();
        let mut manifest = String::new();
        for (path, content, mode, is_listed) in files {
            let at = root.join(path);
            fs::create_dir_all(at.parent().unwrap()).unwrap();
            fs::write(&at, content).unwrap();
            fs::set_permissions(&at, PermissionsExt::from_mode(*mode)).unwrap();
            if *is_listed {
                let digest = Command::new("md5sum").arg(&at).output().unwrap().stdout;
                let digest = String::from_utf8(digest).unwrap()[..32].to_owned();
                manifest.push_str(&format!("{digest}  {path}\n"));
            }
        }
        let control = format!(
            "Package: {PACKAGE}\nVersion: {version}\nArchitecture: all\nMaintainer: a <a@b.c>\nDescription: test\n"
        );
        let control_file = |name: &str, content: &str, mode: u32| {
            let path = root.join("DEBIAN").join(name);
            fs::write(&path, content).unwrap();
            fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
        };
        control_file("control", &control, 0o644);
        control_file("md5sums", &manifest, 0o644);
        if !conffiles.is_empty() {
            control_file("conffiles", &format!("{}\n", conffiles.join("\n")), 0o644);
        }
        for (name, script) in scripts {
            control_file(name, &format!("#!/bin/sh\nset -e\n{script}\n"), 0o755);
        }
        let package = self.temp.path().join(format!("{version}.deb"));
        assert!(done(Command::new("dpkg-deb").arg("--build").arg(&root).arg(&package)));
        package
    }

    fn dpkg(arguments: &[&str]) {
        let done = Command::new("/usr/bin/dpkg")
            .args(["--force-confdef", "--force-unsafe-io"])
            .args(arguments)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        assert!(done.status.success(), "{done:?}");
    }

    /// Everything that is told until the record of the package manager, and that.
    fn until_record(&mut self) -> (Vec<Alert>, Alert) {
        let mut alerts = Vec::new();
        loop {
            match self.running.said.recv_timeout(CEILING) {
                Ok(Said::Alert(alert)) if alert.event == Event::Transaction => return (alerts, *alert),
                Ok(Said::Alert(alert)) => alerts.push(*alert),
                Ok(Said::Log(_)) => {}
                Err(error) => panic!("no record: {error}; told: {}", alerts.len()),
            }
        }
    }
}

fn packages(record: &Alert) -> &Value {
    &record.group["packages"]
}

#[test]
fn an_installation_an_upgrade_and_a_removal_are_one_record_each() {
    let Some(mut host) = Host::new() else { return };
    let one = host.package(
        "1",
        &[
            ("opt/vt/bin/tool", "one", 0o755, true),
            ("opt/vt/lib/a", "a", 0o644, true),
            ("opt/vt/etc/conf", "conf", 0o644, false),
        ],
        &[("postinst", "echo made > /opt/vt/made")],
        &["/opt/vt/etc/conf"],
    );
    Host::dpkg(&["-i", one.to_str().unwrap()]);
    let (alone, record) = host.until_record();
    assert_eq!(texts(&alone, Path::new("/opt/vt")), [""; 0]);
    assert_eq!(*packages(&record), json!([{"name": PACKAGE, "to": "1"}]));
    assert!(record.alert.contains("made by their scripts: /opt/vt/made"), "{}", record.alert);
    assert!(record.process["executable"] == "/usr/bin/dpkg" && record.process["parent"]["pid"].is_u64());
    assert_eq!(record.severity, "low");

    let two = host.package("2", &[("opt/vt/bin/tool", "two", 0o755, true)], &[], &[]);
    Host::dpkg(&["-i", two.to_str().unwrap()]);
    let (alone, record) = host.until_record();
    assert_eq!(texts(&alone, Path::new("/opt/vt")), [""; 0]);
    assert_eq!(*packages(&record), json!([{"name": PACKAGE, "from": "1", "to": "2"}]));

    Host::dpkg(&["-i", two.to_str().unwrap()]);
    let (alone, record) = host.until_record();
    assert_eq!(texts(&alone, Path::new("/opt/vt")), [""; 0]);
    assert!(record.alert.contains("reinstalled vigie-test 2"), "{}", record.alert);

    Host::dpkg(&["--purge", PACKAGE]);
    let (alone, record) = host.until_record();
    assert_eq!(texts(&alone, Path::new("/opt/vt")), [""; 0]);
    assert_eq!(*packages(&record), json!([{"name": PACKAGE, "from": "2"}]));
}

#[test]
fn what_the_manifest_does_not_have_is_told_alone_beside_the_record() {
    let Some(mut host) = Host::new() else { return };
    let package = host.package(
        "1",
        &[
            ("opt/vt/bin/tool", "one", 0o755, true),
            ("opt/vt/bin/sneaky", "left out", 0o755, false),
            ("opt/vt/bin/root", "setuid", 0o4755, true),
        ],
        &[("postinst", "echo evil > /opt/vt/bin/tool; echo x > /var/lib/dpkg/info/other.postinst")],
        &[],
    );

    Host::dpkg(&["-i", package.to_str().unwrap()]);
    let (alone, record) = host.until_record();

    let mut told: Vec<(&str, &str)> =
        alone.iter().map(|alert| (alert.path.as_str(), alert.severity.as_str())).collect();
    told.sort_unstable();
    let paths: Vec<&str> = told.iter().map(|(path, _)| *path).collect();
    assert_eq!(
        paths,
        ["/opt/vt/bin/root", "/opt/vt/bin/sneaky", "/opt/vt/bin/tool", "/var/lib/dpkg/info/other.postinst"],
        "{record:?}"
    );
    assert!(told.contains(&("/opt/vt/bin/root", "critical")), "{told:?}");
    // A script that ended before its process could be looked at is nobody's: its changes are told without the record.
    let by_manager = alone.iter().filter(|alert| alert.package["by_manager"].is_string()).count();
    assert_eq!(record.group["told_alone"], by_manager);
    let tool = alone.iter().find(|alert| alert.path.ends_with("tool")).unwrap();
    assert_eq!(tool.package["as_recorded"], json!(false), "{tool:?}");
}

#[test]
fn what_a_script_did_is_reported_while_it_hangs() {
    let Some(mut host) = Host::new() else { return };
    let release = host.temp.path().join("release");
    rustix::fs::mknodat(rustix::fs::CWD, &release, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    let script = format!("echo evil > /opt/vt/made\nread line < {}", release.display());
    let package = host.package("1", &[("opt/vt/bin", "1", 0o755, true)], &[("postinst", &script)], &[]);
    let mut dpkg = Command::new("/usr/bin/dpkg")
        .args(["--force-unsafe-io", "-i", package.to_str().unwrap()])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();

    let (_, interim) = host.until_record();
    let is_running = dpkg.try_wait().unwrap().is_none();
    fs::write(&release, "go on\n").unwrap();
    assert!(dpkg.wait().unwrap().success());
    let (_, record) = host.until_record();

    assert!(is_running && interim.group["ended"] == false, "{interim:?}");
    assert!(interim.alert.contains("still running") && interim.alert.contains("/opt/vt/made"), "{interim:?}");
    assert_eq!(
        (&record.group["ended"], &record.group["packages"][0]["name"]),
        (&json!(true), &json!(PACKAGE))
    );
}

#[test]
fn what_another_process_alters_in_the_same_second_is_told_alone_and_at_once() {
    let Some(mut host) = Host::new() else { return };
    let contents: Vec<(String, String)> =
        (0..10).map(|number| (format!("opt/vt/bin/{number:02}"), format!("program {number}"))).collect();
    let files: Vec<(&str, &str, u32, bool)> =
        contents.iter().map(|(path, content)| (path.as_str(), content.as_str(), 0o755, true)).collect();
    let package = host.package("1", &files, &[], &[]);
    Host::dpkg(&["-i", package.to_str().unwrap()]);
    host.until_record();

    for number in 0..10 {
        let victim = format!("/opt/vt/bin/{number:02}");
        let mut dpkg = Command::new("/usr/bin/dpkg")
            .args(["--force-unsafe-io", "-i", package.to_str().unwrap()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // At any moment of its work, and at the latest after it: somebody appends, as long as it runs.
        let mut ended = false;
        while !ended {
            ended = dpkg.try_wait().unwrap().is_some();
            if let Ok(mut file) = fs::OpenOptions::new().append(true).open(&victim) {
                file.write_all(b"evil").unwrap();
            }
        }
        assert!(dpkg.wait().unwrap().success());
        let (alone, _) = host.until_record();
        let told: Vec<String> =
            alone.iter().map(|alert| format!("{} {}", alert.severity, alert.path)).collect();
        assert!(told.contains(&format!("critical {victim}")), "round {number}: {told:?}");
        assert!(alone.iter().all(|alert| alert.path.starts_with(&victim)), "round {number}: {told:?}");
    }
}
