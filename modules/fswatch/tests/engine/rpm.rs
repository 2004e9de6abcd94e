//! rpm at work: a real one, with its database and the files that it puts in place in mounts of this test's own. The
//! other cases of package managers are in `managers.rs`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::mount::MsFlags;
use serde_json::{Value, json};
use vigie_fswatch::change::Event;

use super::running::{Alert, CEILING, Running, Said, texts};
use super::who::{mount_at, own_mounts, uses_fanotify};

const DATABASE: &str = "/var/lib/rpm";

/// A host of the test's own: `/opt` and rpm's database are other ones here.
struct Host {
    temp: tempfile::TempDir,
    running: Running,
}

fn run(command: &mut Command) {
    let done = command.stdin(Stdio::null()).output().unwrap();
    assert!(done.status.success(), "{command:?}: {done:?}");
}

impl Host {
    fn new() -> Option<Self> {
        if !["rpm", "rpmbuild"].into_iter().all(vigie_skipped::has) {
            return None;
        }
        if !Path::new(DATABASE).exists() {
            vigie_skipped::skipped(format_args!("this host has no {DATABASE}"));
            return None;
        }
        if !own_mounts() {
            return None;
        }
        for place in [DATABASE, "/opt"] {
            if !mount_at("tmpfs", Some("tmpfs"), Path::new(place), MsFlags::empty(), None) {
                return None;
            }
        }
        fs::create_dir_all("/opt/vr").unwrap();
        fs::write("/opt/vr/begin", "").unwrap();
        // Who starts a program is known where its file system is watched.
        let running = Running::configured(json!({
            "paths": {"path": ["recursive:/opt/vr", "/usr/bin/rpm"]}, "fswatch": {"storm_changes": 0},
        }));
        let temp = tempfile::tempdir().unwrap();
        uses_fanotify(&running).then_some(Self { temp, running })
    }

    fn package(&self, version: &str, content: &str) -> PathBuf {
        let top = self.temp.path().join(version);
        fs::create_dir(&top).unwrap();
        // With so little to do rpm would be gone in 20 ms; it lives until it was looked at.
        let spec = format!(
            "Name: vigie-test\nVersion: {version}\nRelease: 1\nSummary: x\nLicense: x\nBuildArch: noarch\n\
             %description\nx\n%install\nmkdir -p %{{buildroot}}/opt/vr/bin\n\
             for name in tool other; do echo {content} $name >%{{buildroot}}/opt/vr/bin/$name; done\n\
             %files\n%attr(0755,root,root) /opt/vr/bin/*\n\
             %post\nsleep 1\n%postun\nsleep 1\n"
        );
        fs::write(top.join("x.spec"), spec).unwrap();
        let define = format!("_topdir {}", top.display());
        run(Command::new("rpmbuild").args(["--quiet", "-bb", "--define", &define]).arg(top.join("x.spec")));
        top.join(format!("RPMS/noarch/vigie-test-{version}-1.noarch.rpm"))
    }

    fn rpm(arguments: &[&str]) {
        let always = ["--dbpath", DATABASE, "--nodeps", "--force-debian"];
        run(Command::new("/usr/bin/rpm").args(always).args(arguments));
    }

    /// Everything that is told until the record of the package manager, and that.
    fn until_record(&self) -> (Vec<Alert>, Alert) {
        let mut alerts = Vec::new();
        loop {
            match self.running.said.recv_timeout(CEILING) {
                Ok(Said::Alert(alert)) if alert.event == Event::Transaction => return (alerts, *alert),
                Ok(Said::Alert(alert)) => alerts.push(*alert),
                Ok(Said::Log(_)) => {}
                Err(error) => panic!("no record: {error}; told: {alerts:?}"),
            }
        }
    }
}

fn packages(record: &Alert) -> &Value {
    &record.group["packages"]
}

#[test]
fn what_rpm_installs_upgrades_and_removes_is_one_record_each_and_what_another_alters_is_told_alone() {
    let Some(host) = Host::new() else { return };
    let (one, two) = (host.package("1", "first"), host.package("2", "second"));
    let nothing: [&str; 0] = [];

    Host::rpm(&["-i", "--ignoreos", one.to_str().unwrap()]);
    let (alone, record) = host.until_record();
    assert_eq!(texts(&alone, Path::new("/opt/vr")), nothing, "{record:?}");
    assert_eq!(*packages(&record), json!([{"name": "vigie-test", "to": "1-1"}]));
    assert_eq!(record.process["executable"], "/usr/bin/rpm");

    fs::write("/opt/vr/bin/tool", "evil").unwrap();
    let altered = host.running.next(|alert| alert.path == "/opt/vr/bin/tool");
    assert_eq!(altered.package["name"], "vigie-test", "{altered:?}");
    assert_eq!(altered.package["as_recorded"], false, "{altered:?}");

    Host::rpm(&["-U", "--ignoreos", two.to_str().unwrap()]);
    let (alone, record) = host.until_record();
    assert_eq!(texts(&alone, Path::new("/opt/vr")), nothing, "{record:?}");
    assert_eq!(*packages(&record), json!([{"name": "vigie-test", "from": "1-1", "to": "2-1"}]));

    Host::rpm(&["-e", "vigie-test"]);
    let (alone, record) = host.until_record();
    assert_eq!(texts(&alone, Path::new("/opt/vr")), nothing, "{record:?}");
    assert_eq!(*packages(&record), json!([{"name": "vigie-test", "from": "2-1"}]));
}
