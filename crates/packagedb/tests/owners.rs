//! The databases of dpkg and apk, made up in a directory and, where there is one, of this host.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use vigie_packagedb::owners::{Manager, Packages, Recorded, md5_of};
use vigie_tree::Root;

/// A root directory with databases, and a clock.
struct Host {
    root: TempDir,
    packages: Packages,
    now: Instant,
}

#[expect(clippy::disallowed_methods, reason = "any time will do to begin with")]
fn some_time() -> Instant {
    Instant::now()
}

impl Host {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        for directory in ["var/lib/dpkg/info", "var/lib/dpkg/updates", "lib/apk/db", "usr/bin"] {
            fs::create_dir_all(root.path().join(directory)).unwrap();
        }
        Self { packages: Packages::at(&Root::open(root.path()).unwrap()), root, now: some_time() }
    }

    /// Replaces a file as package managers do it.
    fn write(&self, path: &str, content: impl AsRef<[u8]>) {
        let path = self.root.path().join(path);
        let new = path.with_extension("new");
        fs::write(&new, content).unwrap();
        fs::rename(new, path).unwrap();
    }

    fn dpkg(&self, path: &str, content: impl AsRef<[u8]>) {
        self.write(&format!("var/lib/dpkg/{path}"), content);
    }

    fn find(&mut self, path: &str) -> Option<Recorded> {
        self.packages.find(Path::new(path), self.now)
    }

    fn package(&mut self, path: &str) -> Option<String> {
        self.find(path).map(|recorded| recorded.package)
    }

    fn wait(&mut self) {
        self.now += Duration::from_secs(1);
    }
}

/// The MD5 of a text, and as dpkg writes it.
fn md5(text: &str) -> [u8; 16] {
    md5_of(text.as_bytes()).unwrap()
}

fn md5_text(text: &str) -> String {
    md5(text).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn recorded(package: &str, version: &str, md5: Option<[u8; 16]>, configuration: bool) -> Recorded {
    let (package, version) = (package.to_owned(), version.to_owned());
    Recorded { manager: Manager::Dpkg, package, version, md5, sha1: None, sha256: None, configuration }
}

#[test]
fn while_a_package_is_unpacked_its_new_manifest_counts_before_the_old_one() {
    let mut host = Host::new();
    host.dpkg("status", "Package: one\nStatus: install ok installed\nVersion: 1\n\n");
    host.dpkg("info/one.list", "/.\n/opt/one\n/opt/kept\n");
    host.dpkg("info/one.md5sums", format!("{}  opt/one\n{}  opt/kept\n", md5_text("old"), md5_text("kept")));
    assert_eq!(host.find("/opt/one"), Some(recorded("one", "1", Some(md5("old")), false)));

    // Not a second later: at once.
    fs::create_dir(host.root.path().join("var/lib/dpkg/tmp.ci")).unwrap();
    host.dpkg("tmp.ci/control", "Package: one\nVersion: 2\n");
    host.dpkg("tmp.ci/md5sums", format!("{}  opt/one\n{}  opt/new\n", md5_text("new"), md5_text("new")));
    assert_eq!(host.find("/opt/one"), Some(recorded("one", "2", Some(md5("new")), false)));
    assert_eq!(host.find("/opt/new"), Some(recorded("one", "2", Some(md5("new")), false)));
    assert_eq!(host.find("/opt/kept"), Some(recorded("one", "1", Some(md5("kept")), false)));

    fs::remove_dir_all(host.root.path().join("var/lib/dpkg/tmp.ci")).unwrap();
    assert_eq!(host.find("/opt/one"), Some(recorded("one", "1", Some(md5("old")), false)));
}

#[test]
fn versions_are_those_of_packages_whose_files_are_there() {
    let host = Host::new();
    host.dpkg(
        "status",
        "Package: one\nStatus: install ok installed\nVersion: 1\n\n\
         Package: two\nStatus: deinstall ok config-files\nVersion: 2\n\n\
         Package: six\nStatus: install ok installed\nArchitecture: i386\nMulti-Arch: same\nVersion: 6\n\n",
    );
    host.dpkg("updates/0000", "Package: one\nStatus: install reinstreq half-installed\nVersion: 3\n\n");

    let versions = host.packages.versions(Manager::Dpkg);

    let expected =
        [("one", "3"), ("six:i386", "6")].map(|(name, version)| (name.to_owned(), version.to_owned()));
    assert_eq!(versions, expected.into());
}

#[test]
fn a_file_has_the_package_the_version_and_the_digest_that_dpkg_recorded() {
    let mut host = Host::new();
    host.dpkg("status", "Package: one\nVersion: 1:2.3-4\nArchitecture: amd64\n\n");
    host.dpkg("info/one.list", "/.\n/opt\n/opt/one\n/opt/one/tool\n/opt/one/link\n/opt/one/empty\n");
    host.dpkg("info/one.md5sums", format!("{}  opt/one/tool\n", md5_text("tool")));

    assert_eq!(host.find("/opt/one/tool"), Some(recorded("one", "1:2.3-4", Some(md5("tool")), false)));
    assert_eq!(host.find("/opt/one/link"), Some(recorded("one", "1:2.3-4", None, false)));
    for other in ["/opt/one", "/opt", "/", "/opt/one/other", "/opt/one/tool/x", "opt/one/tool", ""] {
        assert_eq!(host.find(other), None, "{other}");
    }
}

#[test]
fn whether_a_file_is_as_recorded_is_told_by_its_content() {
    let known = recorded("one", "1", Some(md5("tool")), false);

    assert_eq!(known.matches(&b"tool"[..]).unwrap(), Some(true));
    assert_eq!(known.matches(&b"trojan"[..]).unwrap(), Some(false));
    assert_eq!(Recorded { md5: None, ..known }.matches(&b"tool"[..]).unwrap(), None);
}

#[test]
fn a_file_is_found_by_any_name_of_its_directory() {
    let mut host = Host::new();
    symlink("usr/bin", host.root.path().join("bin")).unwrap();
    symlink("/usr/bin", host.root.path().join("sbin")).unwrap();
    symlink("bin", host.root.path().join("usr/sbin")).unwrap();
    host.dpkg("info/old.list", "/.\n/bin\n/bin/ls\n/sbin\n/sbin/init\n");
    host.dpkg("info/old.md5sums", format!("{}  bin/ls\n", md5_text("ls")));
    host.dpkg("info/new.list", "/.\n/usr\n/usr/bin\n/usr/bin/cat\n/usr/sbin\n/usr/sbin/cron\n");

    for name in ["/usr/bin/ls", "/bin/ls", "/sbin/ls", "/usr/sbin/ls"] {
        assert_eq!(host.find(name), Some(recorded("old", "", Some(md5("ls")), false)), "{name}");
    }
    assert_eq!(host.package("/usr/bin/init").as_deref(), Some("old"));
    for name in ["/bin/cat", "/usr/bin/cron"] {
        assert_eq!(host.package(name).as_deref(), Some("new"), "{name}");
    }
    // The link belongs to no package though something is recorded to be in it.
    assert_eq!(host.package("/bin"), None);
}

#[test]
fn without_links_two_names_are_two_files() {
    let mut host = Host::new();
    host.dpkg("info/one.list", "/bin\n/bin/ls\n");

    assert_eq!(host.package("/bin/ls").as_deref(), Some("one"));
    assert_eq!(host.package("/usr/bin/ls"), None);
}

#[test]
fn configuration_has_the_digest_that_status_knows() {
    let mut host = Host::new();
    let status = format!(
        "Package: one\nVersion: 1\nConffiles:\n /etc/known {}\n /etc/new newconffile\n /etc/old {} obsolete\n",
        md5_text("known"),
        md5_text("old")
    );
    host.dpkg("status", status);
    host.dpkg("info/one.list", "/etc\n/etc/known\n/etc/new\n/etc/old\n/etc/plain\n");
    host.dpkg("info/one.md5sums", format!("{}  etc/plain\n", md5_text("plain")));

    for (path, digest, configuration) in [
        ("/etc/known", Some(md5("known")), true),
        ("/etc/new", None, true),
        ("/etc/old", Some(md5("old")), true),
        ("/etc/plain", Some(md5("plain")), false),
    ] {
        assert_eq!(host.find(path), Some(recorded("one", "1", digest, configuration)), "{path}");
    }
}

#[test]
fn one_package_for_several_architectures_is_told_apart() {
    let mut host = Host::new();
    let stanza = |architecture: &str, version: &str| {
        format!("Package: lib\nArchitecture: {architecture}\nMulti-Arch: same\nVersion: {version}\n\n")
    };
    host.dpkg("status", stanza("amd64", "1") + &stanza("i386", "2"));
    host.dpkg("info/lib:amd64.list", "/usr/lib/64/lib.so\n");
    host.dpkg("info/lib:i386.list", "/usr/lib/32/lib.so\n");

    assert_eq!(host.find("/usr/lib/64/lib.so"), Some(recorded("lib:amd64", "1", None, false)));
    assert_eq!(host.find("/usr/lib/32/lib.so"), Some(recorded("lib:i386", "2", None, false)));
}

#[test]
fn diverted_files_belong_to_the_package_whose_content_they_have() {
    let mut host = Host::new();
    symlink("usr/bin", host.root.path().join("bin")).unwrap();
    host.dpkg("info/shell.list", "/usr/bin/sh\n/usr/bin/vi\n");
    host.dpkg("info/shell.md5sums", format!("{}  usr/bin/sh\n", md5_text("shell")));
    host.dpkg("info/other:amd64.list", "/bin/sh\n");
    host.dpkg("info/other:amd64.md5sums", format!("{}  bin/sh\n", md5_text("other")));
    host.dpkg(
        "diversions",
        "/bin/sh\n/bin/sh.distrib\nother\n/lost\nbroken\n/usr/bin/vi\n/usr/bin/vi.distrib\n:\n",
    );

    let digest = |found: Option<Recorded>| found.unwrap().md5.unwrap();
    assert_eq!(digest(host.find("/usr/bin/sh")), md5("other"));
    assert_eq!(digest(host.find("/usr/bin/sh.distrib")), md5("shell"));
    // The administrator's own file is there now.
    assert_eq!(host.package("/usr/bin/vi"), None);
    assert_eq!(host.package("/usr/bin/vi.distrib").as_deref(), Some("shell"));
}

#[test]
fn what_changes_is_read_again_after_a_second_and_the_rest_stays() {
    let mut host = Host::new();
    host.dpkg("status", "Package: one\nVersion: 1\n\nPackage: two\nVersion: 1\n");
    host.dpkg("info/one.list", "/opt/a\n/opt/b\n");
    host.dpkg("info/two.list", "/opt/c\n");
    assert_eq!(host.package("/opt/a").as_deref(), Some("one"));

    host.dpkg("info/one.list", "/opt/b\n/opt/d\n");
    host.dpkg("info/one.md5sums", format!("{}  opt/b\n", md5_text("b")));
    host.dpkg("status", "Package: one\nVersion: 2\n\nPackage: two\nVersion: 1\n");
    assert_eq!(host.package("/opt/d"), None);
    host.wait();
    assert_eq!(host.package("/opt/a"), None);
    assert_eq!(host.find("/opt/b"), Some(recorded("one", "2", Some(md5("b")), false)));
    assert_eq!(host.package("/opt/c").as_deref(), Some("two"));

    fs::remove_file(host.root.path().join("var/lib/dpkg/info/two.list")).unwrap();
    host.wait();
    assert_eq!(host.package("/opt/c"), None);
    assert_eq!(host.package("/opt/d").as_deref(), Some("one"));

    host.dpkg("info/two.list", "/opt/c\n");
    host.wait();
    assert_eq!(host.package("/opt/c").as_deref(), Some("two"));
}

#[test]
fn digests_are_those_of_the_disk_even_when_the_index_is_not() {
    let mut host = Host::new();
    host.dpkg("info/one.list", "/opt/a\n");
    host.dpkg("info/one.md5sums", format!("{}  opt/a\n", md5_text("old")));
    assert_eq!(host.find("/opt/a").unwrap().md5, Some(md5("old")));

    host.dpkg("info/one.md5sums", format!("{}  opt/a\n", md5_text("new")));

    assert_eq!(host.find("/opt/a").unwrap().md5, Some(md5("new")));
}

#[test]
fn what_dpkg_is_about_to_write_counts_more_than_what_it_wrote() {
    let mut host = Host::new();
    let stanza = |version: &str| {
        format!("Package: one\nVersion: {version}\nConffiles:\n /etc/one {}\n\n", md5_text(version))
    };
    host.dpkg("info/one.list", "/etc/one\n");
    host.dpkg("status", stanza("1"));
    host.dpkg("updates/0000", stanza("2"));
    host.dpkg("updates/0001", stanza("3"));
    host.dpkg("updates/tmp.i", stanza("4"));

    assert_eq!(host.find("/etc/one"), Some(recorded("one", "3", Some(md5("3")), true)));
}

#[test]
fn nothing_is_read_before_the_first_question_and_again_after_forgetting() {
    let mut host = Host::new();
    host.dpkg("info/one.list", "/opt/a\n");
    assert_eq!(host.package("/opt/a").as_deref(), Some("one"));
    host.dpkg("info/one.list", "/opt/b\n");

    assert_eq!(host.package("/opt/b"), None);
    host.packages.forget();
    assert_eq!(host.package("/opt/b").as_deref(), Some("one"));
}

#[test]
fn what_is_damaged_is_left_out_line_by_line() {
    let mut host = Host::new();
    let long = "/".repeat(20_000);
    let list = [&b"\xff\xfe\0\n/opt/a\nopt/b\n\n"[..], long.as_bytes(), b"\n/opt/\xff\n/opt/c"].concat();
    host.dpkg("info/one.list", list);
    host.dpkg("info/one.md5sums", format!("zz  opt/a\n{}  opt/c\n\0\n", md5_text("c")));
    host.dpkg(
        "status",
        format!("\n\n:\nVersion\nPackage: one\nConffiles:\n x\nVersion: 1\nDepends: {long}\n"),
    );
    host.dpkg("diversions", "x\n/y\n");
    fs::create_dir(host.root.path().join("var/lib/dpkg/info/directory.list")).unwrap();
    host.write("lib/apk/db/installed", b"R:x\nZ:y\nP\n\xff\n\nF:opt\nR:a\n");

    assert_eq!(host.find("/opt/a"), Some(recorded("one", "1", None, false)));
    assert_eq!(host.find("/opt/c"), Some(recorded("one", "1", Some(md5("c")), false)));
    assert_eq!(host.package("/opt/b"), None);
    assert_eq!(host.package("/x"), None);
}

#[test]
fn a_host_without_databases_has_no_packages() {
    let root = tempfile::tempdir().unwrap();

    let found = Packages::at(&Root::open(root.path()).unwrap()).find(Path::new("/usr/bin/ls"), some_time());

    assert_eq!(found, None);
}

#[test]
fn apk_records_are_read_and_read_again() {
    let mut host = Host::new();
    // The SHA-1 of nothing.
    let empty = "Q12jmj7l5rSw0yVb/vlWAYkK/YBwk=";
    let installed = format!(
        "C:Q1x\nP:musl\nV:1.2.5-r0\nA:x86_64\nF:lib\nR:libc.so\na:0:0:755\nZ:{empty}\nR:nothing\n\
         F:etc\nR:musl.conf\nZ:{empty}\nF:etc/init.d\nR:musl\nZ:Q2x\nF:\nR:top\nZ:{empty}\n\n\
         P:three\nV:3\nf:S\nF:lib\nF:lib/three\nR:tool\nZ:{empty}\n\n"
    );
    host.write("lib/apk/db/installed", installed);

    let sha1 = Some(vigie_packagedb::owners::sha1_of(&b""[..]).unwrap());
    for (path, package, version, sha1, configuration) in [
        ("/lib/libc.so", "musl", "1.2.5-r0", sha1, false),
        ("/lib/nothing", "musl", "1.2.5-r0", None, false),
        ("/etc/musl.conf", "musl", "1.2.5-r0", sha1, true),
        ("/etc/init.d/musl", "musl", "1.2.5-r0", None, false),
        ("/top", "musl", "1.2.5-r0", sha1, false),
        // Its digests are of another kind.
        ("/lib/three/tool", "three", "3", None, false),
    ] {
        let expected = Recorded {
            manager: Manager::Apk,
            package: package.to_owned(),
            version: version.to_owned(),
            md5: None,
            sha1,
            sha256: None,
            configuration,
        };
        assert_eq!(host.find(path), Some(expected), "{path}");
    }
    assert_eq!(host.package("/lib"), None);
    assert_eq!(host.find("/top").unwrap().matches(&b""[..]).unwrap(), Some(true));

    host.write("lib/apk/db/installed", format!("P:musl\nV:2\nF:lib\nR:new\nZ:{empty}\n"));
    host.wait();
    assert_eq!(host.package("/lib/libc.so"), None);
    assert_eq!(host.find("/lib/new").map(|new| (new.version, new.sha1)), Some(("2".to_owned(), sha1)));
}

#[test]
fn apk_is_found_by_both_names_of_its_directory() {
    let mut host = Host::new();
    fs::create_dir_all(host.root.path().join("usr/lib")).unwrap();
    fs::rename(host.root.path().join("lib/apk"), host.root.path().join("usr/lib/apk")).unwrap();
    fs::remove_dir(host.root.path().join("lib")).unwrap();
    host.write("usr/lib/apk/db/installed", "P:one\nV:1\nF:lib\nR:a\n\n");

    assert_eq!(host.package("/lib/a").as_deref(), Some("one"));
    symlink("usr/lib", host.root.path().join("lib")).unwrap();
    host.wait();
    assert_eq!(host.package("/usr/lib/a").as_deref(), Some("one"));
}

#[test]
fn every_file_of_a_package_of_this_host_is_found_and_is_as_recorded() {
    let Ok(list) = fs::read_to_string("/var/lib/dpkg/info/coreutils.list") else {
        vigie_skipped::skipped("this host has no package coreutils of dpkg");
        return;
    };
    let mut packages = Packages::at(&Root::host());
    let mut compared = 0;
    for listed in list.lines().map(Path::new) {
        let (Some(directory), Some(name)) = (listed.parent(), listed.file_name()) else { continue };
        // Some hosts leave documentation out.
        let Ok(directory) = fs::canonicalize(directory) else { continue };
        let path: PathBuf = directory.join(name);
        if !path.symlink_metadata().is_ok_and(|metadata| metadata.is_file()) {
            continue;
        }

        let found = packages.find(&path, some_time()).unwrap_or_else(|| panic!("{path:?} is not found"));

        assert_eq!((found.manager, found.package.as_str()), (Manager::Dpkg, "coreutils"));
        assert!(!found.version.is_empty());
        assert_eq!(found.matches(File::open(&path).unwrap()).unwrap(), Some(true), "{path:?}");
        compared += 1;
    }
    assert!(compared > 50, "only {compared} files were compared");
}
