//! The module about made-up hosts, beside `dpkg -V` where that is installed, and against its schema.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

use proptest::prelude::*;
use serde_json::value::to_raw_value;
use serde_json::{Value, json};
use tempfile::TempDir;
use vigie_sdk::{ModuleResult, Query, privacy};

const SCHEMA: &str = include_str!("../../../docs/packages.schema.json");

fn md5(content: &[u8]) -> String {
    use md5::Digest;
    md5::Md5::digest(content).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A host with two packages of dpkg.
struct Host {
    root: TempDir,
    state: TempDir,
}

const FILES: [(&str, &str); 5] = [
    ("usr/bin/tool", "#!/bin/sh\n"),
    ("usr/share/doc/tool/readme", "read me"),
    ("usr/lib/tool/a b", "plugin"),
    ("etc/tool.conf", "x = 1\n"),
    ("usr/bin/other", "other"),
];

impl Host {
    fn new() -> Self {
        let host = Self { root: tempfile::tempdir().unwrap(), state: tempfile::tempdir().unwrap() };
        for (path, content) in FILES {
            host.write(path, content);
        }
        let mode = |path: &str, mode| {
            fs::set_permissions(host.path(path), fs::Permissions::from_mode(mode)).unwrap()
        };
        mode("usr/bin/tool", 0o755);
        mode("usr/bin/other", 0o755);
        symlink("tool", host.path("usr/bin/alias")).unwrap();
        let conf = md5(FILES[3].1.as_bytes());
        host.write(
            "var/lib/dpkg/status",
            &format!(
                "Package: tool\nStatus: install ok installed\nVersion: 1.0-1\nArchitecture: all\nConffiles:\n /etc/tool.conf {conf}\n\
                 Maintainer: x <x@example.invalid>\nDescription: x\n\n\
                 Package: other\nStatus: hold ok installed\nVersion: 2:3.0.14-1~deb12u2\nArchitecture: amd64\nSource: origin\n\
                 Maintainer: x <x@example.invalid>\nDescription: x\n"
            ),
        );
        host.write(
            "var/lib/dpkg/info/tool.list",
            "/.\n/etc\n/etc/tool.conf\n/usr\n/usr/bin\n/usr/bin/alias\n/usr/bin/tool\n/usr/lib\n/usr/lib/tool\n\
             /usr/lib/tool/a b\n/usr/share\n/usr/share/doc\n/usr/share/doc/tool\n/usr/share/doc/tool/readme\n",
        );
        let sums = FILES[..3].iter().map(|(path, content)| format!("{}  {path}\n", md5(content.as_bytes())));
        host.write("var/lib/dpkg/info/tool.md5sums", &sums.collect::<String>());
        host.write("var/lib/dpkg/info/other.list", "/.\n/usr\n/usr/bin\n/usr/bin/other\n");
        host.write("var/lib/dpkg/info/other.md5sums", &format!("{}  usr/bin/other\n", md5(b"other")));
        host.write("var/lib/dpkg/info/format", "1\n");
        host.write("var/lib/dpkg/available", "");
        host.write("etc/passwd", "root:x:0:0::/:/bin/sh\ndaemon:x:1:1::/:/bin/sh\n");
        host.write("etc/group", "root:x:0:\ndaemon:x:1:\n");
        host
    }

    fn path(&self, path: &str) -> PathBuf {
        self.root.path().join(path)
    }

    fn write(&self, path: &str, content: &str) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    fn run(&self, parameters: &Value, private: bool) -> ModuleResult {
        let schema: Value = serde_json::from_str(SCHEMA).unwrap();
        assert_eq!(vigie_schema::problems(&schema, "/$defs/parameters", parameters), [""; 0], "{parameters}");
        let mut query = Query::new(Some(to_raw_value(parameters).unwrap()));
        query.extraprivacy = private;
        let result = vigie_packages::run_at(&query, self.root.path(), Some(self.state.path()));
        let value = serde_json::to_value(&result).unwrap();
        assert_eq!(vigie_schema::problems(&schema, "/$defs/result", &value), [""; 0], "{value}");
        result
    }

    fn ask(&self, parameters: &Value) -> Value {
        serde_json::to_value(self.run(parameters, false)).unwrap()
    }

    fn names(&self, parameters: &Value) -> Vec<String> {
        let answer = self.ask(parameters);
        let packages = answer["elements"]["packages"].as_array().unwrap();
        packages.iter().map(|package| package["name"].as_str().unwrap().to_owned()).collect()
    }

    /// What differs: kind and path.
    fn findings(&self) -> BTreeSet<(String, String)> {
        let answer = self.ask(&json!({"verify": true}));
        let findings = answer["elements"]["findings"].as_array().unwrap();
        let text = |finding: &Value, key: &str| finding[key].as_str().unwrap().to_owned();
        findings.iter().map(|finding| (text(finding, "what"), text(finding, "path"))).collect()
    }
}

fn pairs(expected: &[(&str, &str)]) -> BTreeSet<(String, String)> {
    expected.iter().map(|(what, path)| ((*what).to_owned(), (*path).to_owned())).collect()
}

#[test]
fn packages_are_found_by_name_version_source_state_and_file() {
    let host = Host::new();

    assert_eq!(host.names(&json!({})), ["tool", "other"]);
    assert_eq!(host.names(&json!({"name": ["^oth"], "version": ["<2:3.0.15"]})), ["other"]);
    assert_eq!(host.names(&json!({"version": ["<3.0.15"]})), ["tool"]);
    assert_eq!(host.names(&json!({"source": ["origin"], "state": ["hold"], "manager": ["dpkg"]})), ["other"]);
    assert_eq!(host.names(&json!({"file": ["/usr//bin/tool/"]})), ["tool"]);
    assert_eq!(host.names(&json!({"file": ["/usr/bin"]})), ["tool", "other"]);
    assert_eq!(host.names(&json!({"file": ["/usr/lib/tool/a\\x20b"]})), ["tool"]);
    assert_eq!(host.names(&json!({"file": ["/nobody/s"], "files": true})), [""; 0]);
    let answer = host.ask(&json!({"limit": 1}));
    assert_eq!(answer["statistics"]["totalhits"], 2);
    assert_eq!(
        (answer["coverage"]["complete"].clone(), answer["coverage"]["examined"].clone()),
        (json!(false), json!(2))
    );
}

#[test]
fn what_is_known_at_the_deadline_is_the_answer_and_the_rest_is_not_known() {
    let host = Host::new();
    let mut query = Query::new(Some(to_raw_value(&json!({"verify": true})).unwrap()));
    query.deadline = Some("2000-01-01T00:00:00Z".to_owned());

    let result = vigie_packages::run_at(&query, host.root.path(), Some(host.state.path()));

    assert!(result.success && !result.coverage.unwrap().complete);
}

#[test]
fn nothing_found_without_a_database_or_with_one_that_cannot_be_read_is_not_known() {
    let empty = tempfile::tempdir().unwrap();
    let result = vigie_packages::run_at(&Query::new(None), empty.path(), None);
    assert!(result.success && !result.foundanything && !result.coverage.unwrap().complete);

    let host = Host::new();
    host.write("var/lib/rpm/rpmdb.sqlite", "no database");
    let answer = host.ask(&json!({"name": ["^nosuch"]}));
    assert_eq!(answer["coverage"]["complete"], false, "{answer}");
    assert!(answer["errors"][0].as_str().unwrap().contains("rpmdb.sqlite"), "{answer}");
}

#[test]
fn nothing_found_in_an_emptied_or_damaged_database_is_not_known() {
    for (path, content) in [
        ("var/lib/dpkg/status", String::new()),
        ("var/lib/dpkg/status", "\0".repeat(4096)),
        ("var/lib/dpkg/status", "Package: tool\nStatus: install ok installed\nVersion: 1\n\n".to_owned()),
        ("var/lib/dpkg/info/tool.list", "\0".repeat(100)),
    ] {
        let host = Host::new();
        host.write(path, &content);
        let question = json!({"file": ["/usr/bin/nobodys"]});
        assert_eq!(host.ask(&question)["coverage"]["complete"], false, "{path}: {content:?}");
        assert!(host.run(&question, true).coverage.is_some_and(|coverage| !coverage.complete));
    }
    let emptied = Host::new();
    fs::remove_dir_all(emptied.path("var/lib/dpkg/info")).unwrap();
    emptied.write("var/lib/dpkg/status", "");
    assert_eq!(emptied.ask(&json!({}))["coverage"]["complete"], false);

    let host = Host::new();
    for name in ["tool.list", "tool.md5sums"] {
        fs::remove_file(host.path(&format!("var/lib/dpkg/info/{name}"))).unwrap();
    }
    // Without its records a package has no differences, and that proves nothing.
    let answer = host.ask(&json!({"verify": true}));
    assert_eq!(answer["coverage"]["complete"], false, "{answer}");
    assert!(answer["errors"][0].as_str().unwrap().contains("tool.list"), "{answer}");
}

#[test]
fn a_host_as_it_was_installed_has_no_findings() {
    if !vigie_skipped::is_root() {
        return;
    }
    let host = Host::new();

    let answer = host.ask(&json!({"verify": true}));

    assert_eq!(answer["elements"]["findings"], json!([]), "{answer}");
    assert_eq!(answer["coverage"]["complete"], true);
    assert_eq!(answer["statistics"]["verified"]["read"], 5);
}

/// Verifies a host's directory as an image, and gives the whole answer with what differs.
fn verified_as_image(host: &Host) -> (Value, BTreeSet<(String, String)>) {
    let parameters = json!({"root": host.root.path(), "verify": true});
    let query = Query::new(Some(to_raw_value(&parameters).unwrap()));
    let result = vigie_packages::run_at(&query, Path::new("/"), Some(host.state.path()));
    let answer = serde_json::to_value(&result).unwrap();
    let findings = answer["elements"]["findings"].as_array().cloned().unwrap_or_default();
    let text = |finding: &Value, key: &str| finding[key].as_str().unwrap().to_owned();
    let found = findings.iter().map(|finding| (text(finding, "what"), text(finding, "path"))).collect();
    (answer, found)
}

#[test]
fn a_directory_of_a_package_that_is_gone_is_missing_as_its_files_are() {
    if !vigie_skipped::is_root() {
        return;
    }
    let host = Host::new();
    fs::remove_dir_all(host.path("usr/share/doc")).unwrap();

    let missing = ["/usr/share/doc", "/usr/share/doc/tool", "/usr/share/doc/tool/readme"];
    assert_eq!(host.findings(), pairs(&missing.map(|path| ("missing", path))));
    if let Some(reported) = dpkg_verify(host.root.path()) {
        assert_eq!(reported, pairs(&missing.map(|path| ("missing", path))));
    }
    // Where dpkg is told not to install them, they are marked.
    host.write("etc/dpkg/dpkg.cfg.d/small", "path-exclude=/usr/share/doc/*\n");
    let answer = host.ask(&json!({"verify": true}));
    let findings = answer["elements"]["findings"].as_array().unwrap();
    let excluded =
        findings.iter().filter(|finding| finding["excluded"] == true).map(|finding| &finding["path"]);
    assert_eq!(excluded.collect::<Vec<_>>(), missing[1..], "{answer}");
}

#[test]
fn an_image_without_names_has_root_and_says_that_others_are_not_known() {
    if !vigie_skipped::is_root() {
        return;
    }
    let host = Host::new();
    for file in ["etc/passwd", "etc/group"] {
        fs::remove_file(host.path(file)).unwrap();
    }
    host.write("var/lib/dpkg/statoverride", "daemon root 755 /usr/bin/tool\n");

    let (answer, found) = verified_as_image(&host);
    assert_eq!(found, BTreeSet::new(), "{answer}");
    let skipped = answer["coverage"]["not_examined"].to_string();
    assert!(skipped.contains("/etc/passwd") && skipped.contains("/etc/group"), "{answer}");

    chown(host.path("usr/bin/other"), Some(77), None).unwrap();
    let (_, found) = verified_as_image(&host);
    assert_eq!(found, pairs(&[("owner", "/usr/bin/other")]));
}

#[test]
fn an_image_is_verified_and_its_links_lead_nowhere_out_of_it() {
    if !vigie_skipped::is_root() {
        return;
    }
    let host = Host::new();
    let (answer, found) = verified_as_image(&host);
    assert_eq!((found, &answer["coverage"]["complete"]), (BTreeSet::new(), &json!(true)), "{answer}");

    // What an absolute link leads to is the image's own, and nothing of the host that examines it.
    let outside = tempfile::tempdir().unwrap();
    fs::create_dir_all(outside.path().join("tool")).unwrap();
    fs::write(outside.path().join("tool/a b"), FILES[2].1).unwrap();
    fs::rename(host.path("usr/share"), host.path("shared")).unwrap();
    symlink("/shared", host.path("usr/share")).unwrap();
    fs::remove_dir_all(host.path("usr/lib")).unwrap();
    symlink(outside.path(), host.path("usr/lib")).unwrap();
    fs::remove_file(host.path("usr/bin/other")).unwrap();
    symlink(outside.path().join("tool/a b"), host.path("usr/bin/other")).unwrap();
    host.write("etc/tool.conf", "x = 2\n");
    let (answer, found) = verified_as_image(&host);

    let expected = pairs(&[
        ("missing", "/usr/lib/tool"),
        ("missing", "/usr/lib/tool/a b"),
        ("type", "/usr/bin/other"),
        ("digest", "/etc/tool.conf"),
    ]);
    assert_eq!(found, expected, "{answer}");

    // Whose numbers belong to which names is the image's as well.
    host.write("etc/passwd", "toor:x:0:0::/:/bin/sh\nroot:x:77:0::/:/bin/sh\n");
    let (answer, found) = verified_as_image(&host);
    assert!(found.contains(&("owner".to_owned(), "/usr/bin/tool".to_owned())), "{answer}");
}

#[test]
fn a_directory_that_does_not_respond_costs_only_what_is_below_it() {
    let host = Host::new();
    host.write("usr/lib/tool/dir/x", "");
    let list = fs::read_to_string(host.path("var/lib/dpkg/info/tool.list")).unwrap();
    let (held, rest) = ("/usr/lib/tool/dir/x", "/usr/share/doc/tool/readme");
    let before = list.replace(&format!("{rest}\n"), "");
    host.write("var/lib/dpkg/info/tool.list", &format!("{before}{held}\n{rest}\n"));
    host.write("etc/tool.conf", "x = 2\n");
    let (root, point) = (host.root.path().to_owned(), host.path("usr/lib/tool/dir"));

    // With the image as this thread's root, its mounts are those of "this host", which is verified wherever it lies.
    let answered = std::thread::spawn(move || {
        use nix::sched::CloneFlags;
        nix::sched::unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_FS).ok()?;
        let device = fs::File::options().read(true).write(true).open("/dev/fuse").ok()?;
        let run = |arguments: &[&str]| {
            let stdin = std::process::Stdio::from(device.try_clone().ok()?);
            Command::new("mount").args(arguments).stdin(stdin).status().ok().filter(|status| status.success())
        };
        run(&["--make-rprivate", "/"])?;
        let options = "fd=0,rootmode=40000,user_id=0,group_id=0";
        run(&["-i", "-t", "fuse", "-o", options, "hung", point.to_str().unwrap()])?;
        nix::unistd::chroot(&root).ok()?;
        let mut query = Query::new(Some(to_raw_value(&json!({"verify": true})).unwrap()));
        let soon = jiff::Timestamp::now() + std::time::Duration::from_secs(3);
        query.deadline = Some(soon.to_string());
        let result = vigie_sdk::watched::<vigie_packages::Packages>(query);
        // Whoever waits for it is let go.
        drop(device);
        Some(serde_json::to_value(&result).unwrap())
    });

    let Some(answer) = answered.join().unwrap() else {
        return vigie_skipped::skipped("no FUSE file system can be mounted");
    };
    assert!(answer["foundanything"] == true && answer["success"] == false, "{answer}");
    let findings = answer["elements"]["findings"].to_string();
    assert!(findings.contains("/etc/tool.conf"), "{answer}");
    let skipped = answer["coverage"]["not_examined"].as_array().unwrap();
    assert!(skipped.iter().any(|entry| entry["what"] == held), "{answer}");
    let is_behind = |entry: &&Value| entry["why"].as_str().is_some_and(|why| why.contains("before it"));
    let behind: Vec<&Value> = skipped.iter().filter(is_behind).map(|entry| &entry["what"]).collect();
    assert_eq!(behind, ["/usr", "/usr/bin", "/usr/bin/other", rest], "{answer}");
}

#[test]
fn every_kind_of_difference_is_found() {
    if !vigie_skipped::is_root() {
        return;
    }
    let host = Host::new();
    host.write("etc/tool.conf", "x = 2\n");
    fs::remove_file(host.path("usr/share/doc/tool/readme")).unwrap();
    fs::set_permissions(host.path("usr/bin/tool"), fs::Permissions::from_mode(0o6755)).unwrap();
    fs::set_permissions(host.path("usr/lib/tool/a b"), fs::Permissions::from_mode(0o666)).unwrap();
    fs::set_permissions(host.path("usr/lib/tool"), fs::Permissions::from_mode(0o777)).unwrap();
    chown(host.path("usr/lib/tool/a b"), Some(1), Some(1)).unwrap();
    host.write("var/lib/dpkg/info/other.md5sums", "");
    let capability = [1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let flags = rustix::fs::XattrFlags::empty();
    let capable =
        rustix::fs::lsetxattr(host.path("usr/bin/other"), "security.capability", &capability, flags).is_ok();

    let found = host.findings();

    let mut expected = pairs(&[
        ("digest", "/etc/tool.conf"),
        ("missing", "/usr/share/doc/tool/readme"),
        ("setuid", "/usr/bin/tool"),
        ("mode", "/usr/lib/tool/a b"),
        ("mode", "/usr/lib/tool"),
        ("owner", "/usr/lib/tool/a b"),
        ("no_digest", "/usr/bin/other"),
    ]);
    if capable {
        expected.extend(pairs(&[("capabilities", "/usr/bin/other")]));
    }
    assert_eq!(found, expected);
    let answer = host.ask(&json!({"verify": true, "name": ["tool"]}));
    let setuid =
        answer["elements"]["findings"].as_array().unwrap().iter().find(|finding| finding["what"] == "setuid");
    assert_eq!(setuid.unwrap()["expected"], "0755");
    assert_eq!(setuid.unwrap()["found"], "6755");
}

#[test]
fn what_the_administrator_set_is_as_it_should_be() {
    if !vigie_skipped::is_root() {
        return;
    }
    let host = Host::new();
    fs::set_permissions(host.path("usr/bin/tool"), fs::Permissions::from_mode(0o4750)).unwrap();
    chown(host.path("usr/bin/tool"), Some(0), Some(1)).unwrap();
    fs::set_permissions(host.path("usr/bin/tool"), fs::Permissions::from_mode(0o4750)).unwrap();
    host.write("var/lib/dpkg/statoverride", "root daemon 4750 /usr/bin/tool\n");
    fs::remove_file(host.path("usr/share/doc/tool/readme")).unwrap();
    host.write("etc/dpkg/dpkg.cfg.d/docker", "# no\npath-exclude = /usr/share/doc/*\n");

    let answer = host.ask(&json!({"verify": true}));

    let findings = answer["elements"]["findings"].as_array().unwrap();
    assert_eq!(findings.len(), 1, "{answer}");
    assert_eq!(
        (findings[0]["what"].clone(), findings[0]["excluded"].clone()),
        (json!("missing"), json!(true))
    );
}

#[test]
fn digests_are_remembered_until_a_file_changes_or_all_is_wanted() {
    let host = Host::new();
    let times = |time: i64| {
        let time = rustix::fs::Timespec { tv_sec: time, tv_nsec: 0 };
        rustix::fs::Timestamps { last_access: time, last_modification: time }
    };
    let verified = |full: bool| {
        let answer = host.ask(&json!({"verify": true, "full": full}));
        (
            answer["statistics"]["verified"]["read"].as_u64().unwrap(),
            answer["statistics"]["verified"]["remembered"].as_u64().unwrap(),
        )
    };
    // The change time cannot be set: what is younger than two seconds is read until it has settled.
    let deadline = std::time::SystemTime::now() + std::time::Duration::from_secs(60);
    while verified(false) != (0, 5) {
        assert!(std::time::SystemTime::now() < deadline, "never remembered");
        std::thread::yield_now();
    }

    assert_eq!(verified(true), (5, 0));
    assert_eq!(verified(false), (0, 5));
    // Same length, same modification time: the change time tells.
    let tool = host.path("usr/bin/tool");
    let flags = rustix::fs::AtFlags::empty();
    fs::write(&tool, "#!/bin/XX\n").unwrap();
    rustix::fs::utimensat(rustix::fs::CWD, &tool, &times(1_000_000_000), flags).unwrap();
    assert_eq!(verified(false), (1, 4));
    assert!(host.findings().contains(&("digest".to_owned(), "/usr/bin/tool".to_owned())));
}

#[test]
fn masked_answers_say_how_many_and_of_what_kind_only() {
    let host = Host::new();
    host.write("etc/tool.conf", "x = 2\n");
    host.write("var/lib/rpm/rpmdb.sqlite", "no database");
    fs::remove_file(host.path("usr/bin/other")).unwrap();

    for parameters in [
        json!({}),
        json!({"files": true}),
        json!({"file": ["/usr/bin/tool"]}),
        json!({"verify": true}),
        json!({"name": ["^nosuch"]}),
    ] {
        let result = host.run(&parameters, true);

        assert_eq!(privacy::check(&result, vigie_packages::masked_form), Ok(()), "{parameters}");
        let mut value = serde_json::to_value(&result).unwrap();
        // How long it took may have the digits of a year.
        value["statistics"]["exectime"] = Value::Null;
        let text = value.to_string();
        for secret in ["tool", "other", "3.0.14", "rpmdb", &*md5(b"x = 2\n"), "1970", "202"] {
            assert!(!text.contains(secret), "{secret} in {text}");
        }
        // The same answer unmasked is refused.
        let plain = host.run(&parameters, false);
        assert!(privacy::check(&plain, vigie_packages::masked_form).is_err(), "{parameters}");
    }
}

/// What somebody did to a file.
#[derive(Debug, Clone)]
enum Deed {
    Write(usize),
    Remove(usize),
    RemoveDirectory(usize),
    Link(usize),
    Directory(usize),
    CutDigest(usize),
    Divert(usize),
}

fn deeds() -> impl Strategy<Value = Vec<Deed>> {
    let file = 0..FILES.len();
    let deed = prop_oneof![
        file.clone().prop_map(Deed::Write),
        file.clone().prop_map(Deed::Remove),
        // Those of which nothing else of this host is in the directory.
        (1..3_usize).prop_map(Deed::RemoveDirectory),
        file.clone().prop_map(Deed::Link),
        file.clone().prop_map(Deed::Directory),
        file.clone().prop_map(Deed::CutDigest),
        file.prop_map(Deed::Divert),
    ];
    proptest::collection::vec(deed, 0..5)
}

fn carry_out(host: &Host, deed: &Deed) {
    let away = |path: &Path| {
        fs::remove_file(path).or_else(|_| fs::remove_dir(path)).ok();
    };
    match *deed {
        Deed::Write(file) => {
            away(&host.path(FILES[file].0));
            host.write(FILES[file].0, "changed");
        }
        Deed::Remove(file) => away(&host.path(FILES[file].0)),
        Deed::RemoveDirectory(file) => {
            fs::remove_dir_all(host.path(FILES[file].0).parent().unwrap()).ok();
        }
        Deed::Link(file) => {
            away(&host.path(FILES[file].0));
            fs::create_dir_all(host.path(FILES[file].0).parent().unwrap()).unwrap();
            symlink("/etc/passwd", host.path(FILES[file].0)).unwrap();
        }
        Deed::Directory(file) => {
            away(&host.path(FILES[file].0));
            fs::create_dir_all(host.path(FILES[file].0)).unwrap();
        }
        Deed::CutDigest(file) => {
            for package in ["tool", "other"] {
                let path = host.path(&format!("var/lib/dpkg/info/{package}.md5sums"));
                let lines = fs::read_to_string(&path).unwrap();
                let kept: String = lines
                    .lines()
                    .filter(|line| !line.ends_with(FILES[file].0))
                    .map(|line| format!("{line}\n"))
                    .collect();
                fs::write(path, kept).unwrap();
            }
        }
        Deed::Divert(file) => {
            let path = host.path("var/lib/dpkg/diversions");
            let mut lines = fs::read_to_string(&path).unwrap_or_default();
            let from = FILES[file].0;
            if !lines.contains(from) {
                lines.push_str(&format!("/{from}\n/{from}.distrib\n:\n"));
                fs::write(path, lines).unwrap();
            }
        }
    }
}

/// What `dpkg -V` reports, as we call it.
fn dpkg_verify(root: &Path) -> Option<BTreeSet<(String, String)>> {
    static IS_HERE: LazyLock<bool> = LazyLock::new(|| vigie_skipped::happens_to_have("dpkg"));
    if !*IS_HERE {
        return None;
    }
    let output = Command::new("dpkg").arg(format!("--root={}", root.display())).arg("-V").output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let mut found = BTreeSet::new();
    for line in text.lines() {
        let path = line[line.find(" /").unwrap() + 1..].to_owned();
        let path = path.strip_suffix(" (Not a directory)").unwrap_or(&path).to_owned();
        let what = match line {
            line if line.starts_with("missing") => "missing",
            line if line[1..].starts_with('M') => "type",
            _ => "digest",
        };
        found.insert((what.to_owned(), path));
    }
    Some(found)
}

#[test]
fn links_of_an_image_do_not_make_this_hosts_packages_its_own() {
    let host = Host::new();
    let absolute = |path: &str| host.path(path);
    for (link, target) in [
        ("var/lib/dpkg", absolute("var/lib/dpkg")),
        ("usr/lib/sysimage/rpm", absolute("rpm")),
        ("lib/apk/db/installed", absolute("apk")),
        (
            "var/lib/dpkg",
            PathBuf::from("../../../../../../../../../../../../../../../../")
                .join(absolute("var/lib/dpkg").strip_prefix("/").unwrap()),
        ),
    ] {
        host.write("apk", "P:secret\nV:1\n\n");
        let image = tempfile::tempdir().unwrap();
        let link = image.path().join(link);
        fs::create_dir_all(link.parent().unwrap()).unwrap();
        symlink(target, &link).unwrap();

        let answer = host.ask(&json!({"root": image.path()}));

        assert_eq!(answer["elements"]["packages"], json!([]), "{answer}");
        assert_eq!(answer["coverage"]["complete"], false, "{answer}");
    }
}

#[test]
fn links_in_an_images_database_lead_nowhere_out_of_it() {
    let host = Host::new();
    let image = tempfile::tempdir().unwrap();
    let info = image.path().join("var/lib/dpkg/info");
    fs::create_dir_all(&info).unwrap();
    fs::write(
        image.path().join("var/lib/dpkg/status"),
        "Package: tool\nStatus: install ok installed\nVersion: 1\nArchitecture: all\n",
    )
    .unwrap();
    symlink(host.path("var/lib/dpkg/info/tool.list"), info.join("tool.list")).unwrap();
    symlink(host.path("var/lib/dpkg/info/tool.md5sums"), info.join("tool.md5sums")).unwrap();
    symlink(host.path("usr"), image.path().join("usr")).unwrap();
    // Every program would belong to it, if the name of a package were a way out.
    fs::create_dir_all(image.path().join("var/lib/dpkg/updates")).unwrap();
    let elsewhere =
        format!("../../../../../../../../../../..{}", host.path("var/lib/dpkg/info/other").display());
    fs::write(
        image.path().join("var/lib/dpkg/updates/0001"),
        format!("Package: {elsewhere}\nStatus: install ok installed\nVersion: 1\nArchitecture: all\n"),
    )
    .unwrap();

    let answer = host.ask(&json!({"root": image.path(), "files": true}));

    let text = answer.to_string();
    assert!(!text.contains("readme") && !text.contains("/usr/bin/other"), "{text}");
    assert_eq!(answer["coverage"]["complete"], false, "{answer}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn everything_that_dpkg_verify_reports_is_found(deeds in deeds()) {
        let host = Host::new();
        deeds.iter().for_each(|deed| carry_out(&host, deed));
        let Some(reported) = dpkg_verify(host.root.path()) else { return Ok(()) };

        let found = host.findings();

        let missed: Vec<_> = reported.difference(&found).collect();
        prop_assert!(missed.is_empty(), "{:?} of {:?}; found {:?}", missed, reported, found);
        // And nothing missing, and no content, that dpkg thinks is well, where it has a digest.
        // dpkg ends at a directory where a file should be.
        let cut = deeds.iter().any(|deed| matches!(deed, Deed::CutDigest(_) | Deed::Directory(_)));
        let alike = |(what, path): &&(String, String)| {
            matches!(&**what, "digest" | "missing") && !path.ends_with("alias") && !cut
        };
        let more: Vec<_> = found.difference(&reported).filter(alike).collect();
        prop_assert!(more.is_empty(), "{:?} beyond {:?}", more, reported);
    }
}
