//! What is read of the databases, beside the programs that read them too.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use tempfile::TempDir;
use vigie_packagedb::installed::{Algorithm, FileRecord, Package, Unread, Visitor, Want, managers, visit};
use vigie_packagedb::owners::{Manager, Packages};
use vigie_packagedb::sqlite::{Database, Value};
use vigie_tree::Root;

#[expect(clippy::disallowed_methods, reason = "any time will do to begin with")]
fn some_time() -> Instant {
    Instant::now()
}

/// Takes everything.
#[derive(Default)]
struct All(Vec<(Package, Vec<FileRecord>)>);

impl Visitor for All {
    fn want(&mut self, _: Manager, _: &Package) -> Want {
        Want::Files
    }

    fn take(&mut self, _: Manager, package: Package, files: Vec<FileRecord>) {
        self.0.push((package, files));
    }
}

fn read(root: &Path, manager: Manager) -> (Vec<(Package, Vec<FileRecord>)>, Vec<Unread>) {
    let mut all = All::default();
    let problems = visit(&Root::open(root).unwrap(), manager, &mut all);
    (all.0, problems)
}

fn root(files: &[(&str, &str)]) -> TempDir {
    let root = tempfile::tempdir().unwrap();
    for (path, content) in files {
        let path = root.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
    root
}

fn output(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).output().ok()?;
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {errors}");
    Some(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[test]
fn packages_of_dpkg_have_state_source_and_files_with_digests_diversions_and_overrides() {
    let digest = "00112233445566778899aabbccddeeff";
    let root = root(&[
        (
            "var/lib/dpkg/status",
            "Package: a\nStatus: hold ok installed\nVersion: 1:2-3\nArchitecture: amd64\nMulti-Arch: same\n\
             Source: a-source (1:2)\nInstalled-Size: 7\n\nPackage: gone\nStatus: deinstall ok not-installed\n\n\
             Package: b\nStatus: install reinstreq half-installed\nVersion: 1\nArchitecture: all\n",
        ),
        (
            "var/lib/dpkg/updates/0001",
            "Package: b\nStatus: install ok installed\nVersion: 2\nArchitecture: all\nConffiles:\n /etc/b newconffile\n",
        ),
        ("var/lib/dpkg/info/a:amd64.list", "/.\n/usr\n/usr/bin\n/usr/bin/x\n/usr/bin/new\n"),
        ("var/lib/dpkg/info/a:amd64.md5sums", &format!("{digest}  usr/bin/x\n")),
        ("var/lib/dpkg/info/b.list", "/.\n/etc\n/etc/b\n"),
        ("var/lib/dpkg/diversions", "/usr/bin/x\n/usr/bin/x.distrib\nb\n"),
        ("var/lib/dpkg/statoverride", "root adm 4750 /usr/bin/new\n"),
    ]);

    let (packages, problems) = read(root.path(), Manager::Dpkg);

    assert_eq!(problems, []);
    assert_eq!(managers(&Root::open(root.path()).unwrap()), [Manager::Dpkg]);
    let [(a, a_files), (b, b_files)] = &*packages else { panic!("{packages:?}") };
    assert_eq!((&*a.name, &*a.version, a.wanted.as_deref()), ("a", "1:2-3", Some("hold")));
    assert_eq!((a.source.as_deref(), a.size, a.installed_at.is_some()), (Some("a-source"), Some(7168), true));
    assert_eq!((&*b.version, &*b.state), ("2", "installed"));
    let paths: Vec<_> = a_files.iter().map(|file| String::from_utf8_lossy(&file.path)).collect();
    assert_eq!(paths, ["/usr", "/usr/bin", "/usr/bin/x.distrib", "/usr/bin/new"]);
    assert_eq!(a_files[2].digest.as_ref().map(|digest| digest.algorithm), Some(Algorithm::Md5));
    assert!(a_files[1].directory && !a_files[2].directory && a_files[3].lacks_digest);
    assert_eq!((a_files[3].mode, a_files[3].group.as_deref()), (Some(0o4750), Some("adm")));
    assert!(b_files[1].configuration && !b_files[1].lacks_digest);
}

#[test]
fn what_makes_no_sense_in_a_database_of_dpkg_is_told() {
    let sound = "Package: a\nStatus: install ok installed\nVersion: 1\nArchitecture: all\n\n";
    let second = sound.replace("Package: a", "Package: b");
    let zeros = "\0".repeat(600);
    let joined = format!("{}{second}", sound.trim_end());
    for (status, why) in [
        (zeros.clone(), "line 1 is no field"),
        (format!("{sound}{zeros}{second}"), "line 6 is no field"),
        (format!("{sound}Package: b\nStatus: install ok inst"), "begins a package in an unknown state"),
        (
            format!("{sound}Package: b\nStatus: install ok installed\nVersion: 1"),
            "it ends in the middle of a line",
        ),
        (format!("{sound}Status: install ok installed\nVersion: 1\n"), "without the name of a package"),
        (format!("{sound}{}", second.replace("Version: 1\n", "")), "begins a package without a version"),
        (format!("{sound} and more\n"), "continues nothing"),
        (format!("{sound}Package: {}\nStatus: x\n", "b".repeat(10_000)), "is too long"),
        (format!("{sound}Package: b\0\nStatus: install ok installed\nVersion: 1\n"), "is no text"),
        (joined.replace("\n\n", "\n"), "is a field that was there before"),
    ] {
        let root = root(&[("var/lib/dpkg/status", &status)]);
        let (_, problems) = read(root.path(), Manager::Dpkg);
        assert!(problems.iter().any(|problem| problem.why.contains(why)), "{why}: {problems:?}");
    }
    // What is not read may be as long as it likes, and names of fields are written as anybody likes.
    let long = sound.replace("Version", &format!("Provides: {}\nVERSION", "x".repeat(10_000)));
    let root = root(&[("var/lib/dpkg/status", &*long), ("var/lib/dpkg/info/a.list", "/.\n/usr\n")]);
    let (packages, problems) = read(root.path(), Manager::Dpkg);
    assert_eq!((problems.len(), &*packages[0].0.version), (0, "1"));
}

#[test]
fn a_list_that_is_gone_damaged_or_of_no_package_is_told() {
    let status = "Package: a\nStatus: install ok installed\nVersion: 1\nArchitecture: all\n\n";
    let long = format!("/.\n/usr\n/usr/{}\n", "x".repeat(9_000));
    for (files, why) in [
        (&[][..], "is missing: the files of its package are not known"),
        (&[("var/lib/dpkg/info/a.list", "\0\0\0\0")], "is damaged: line 1 is no path"),
        (&[("var/lib/dpkg/info/a.list", &*long)], "is damaged: line 3 is too much"),
        (
            &[("var/lib/dpkg/info/a.list", "/.\n"), ("var/lib/dpkg/info/b:amd64.list", "/.\n")],
            "has the lists of 1 packages that no status names",
        ),
        (
            &[("var/lib/dpkg/info/a.list", "/.\n"), ("var/lib/dpkg/info/a.md5sums", "half a li")],
            "is damaged: line 1 is no digest of a path",
        ),
    ] {
        let root = root(&[files, &[("var/lib/dpkg/status", status)]].concat());
        let (_, problems) = read(root.path(), Manager::Dpkg);
        assert!(problems.iter().any(|problem| problem.why == why), "{why}: {problems:?}");
    }
}

#[test]
fn what_makes_no_sense_in_a_database_of_apk_is_told() {
    let sound = "C:Q1x\nP:a\nV:1\nA:x86_64\nF:bin\nR:x\n\n";
    let zeros = "\0".repeat(600);
    for (installed, why) in [
        (zeros.clone(), "line 1 is no text"),
        (format!("{sound}{zeros}{sound}"), "line 8 is no text"),
        (format!("{sound}C:Q1x\nP:b\nV:1."), "line 10 is cut: the file ends in it"),
        (format!("{sound}C:Q1x\nV:1\n"), "without the name of a package"),
        (format!("{sound}P:b\n"), "begins a package without a version"),
        (format!("{sound}P:b\nV:1\nP:c\nV:1\n"), "is a field that was there before"),
        (format!("{sound}P:b\nV:1\nF:{}\n", "x".repeat(9_000)), "is too long"),
    ] {
        let root = root(&[("lib/apk/db/installed", &installed)]);
        let (_, problems) = read(root.path(), Manager::Apk);
        assert!(problems.iter().any(|problem| problem.why.contains(why)), "{why}: {problems:?}");
    }
    let root = root(&[("lib/apk/db/installed", &format!("P:a\nV:1\nD:{}\n\n", "x ".repeat(9_000)))]);
    assert_eq!(read(root.path(), Manager::Apk).1, []);
}

#[test]
fn images_without_dpkg_have_a_file_for_each_package() {
    let root = root(&[
        ("var/lib/dpkg/status.d/base", "Package: base-files\nVersion: 12\nArchitecture: amd64\n"),
        ("var/lib/dpkg/status.d/base.md5sums", "00112233445566778899aabbccddeeff  etc/x\n"),
    ]);

    let (packages, _) = read(root.path(), Manager::Dpkg);

    assert_eq!((&*packages[0].0.name, &*packages[0].0.state), ("base-files", "installed"));
}

#[test]
fn packages_of_apk_have_modes_owners_and_digests() {
    let root = root(&[(
        "lib/apk/db/installed",
        "C:Q1x\nP:busybox\nV:1.36.1-r2\nA:x86_64\nI:962560\no:busybox\nF:\nF:bin\nR:busybox\na:0:0:4755\n\
         Z:Q12jmj7l5rSw0yVb/vlWAYkK/YBwk=\nF:etc\nM:0:42:750\nR:securetty\n\nP:second\nV:1\nf:S\nF:x\nR:y\nZ:Q12jmj7l5rSw0yVb/vlWAYkK/YBwk=\n",
    )]);

    let (packages, problems) = read(root.path(), Manager::Apk);

    assert_eq!(problems, []);
    let (package, files) = &packages[0];
    assert_eq!((&*package.name, &*package.version, package.size), ("busybox", "1.36.1-r2", Some(962_560)));
    let busybox = files.iter().find(|file| file.path == b"/bin/busybox").unwrap();
    assert_eq!((busybox.mode, busybox.digest.as_ref().unwrap().bytes.len()), (Some(0o4755), 20));
    let etc = files.iter().find(|file| file.path == b"/etc").unwrap();
    assert_eq!((etc.mode, etc.group.as_deref(), etc.directory), (Some(0o750), Some("42"), true));
    let securetty = files.iter().find(|file| file.path == b"/etc/securetty").unwrap();
    assert!(securetty.configuration && securetty.lacks_digest);
    assert_eq!(packages[1].1[1].digest, None);
}

#[test]
fn this_host_has_the_packages_that_dpkg_query_lists() {
    let format = "${Package} ${Version} ${Architecture} ${db:Status-Status}\n";
    if !vigie_skipped::happens_to_have("dpkg-query") {
        return;
    }
    let listed = output("dpkg-query", &["-W", "-f", format]).unwrap();

    let (packages, problems) = read(Path::new("/"), Manager::Dpkg);

    let listed: BTreeSet<String> =
        listed.lines().map(str::to_owned).filter(|line| !line.ends_with("not-installed")).collect();
    let found: BTreeSet<String> = packages
        .iter()
        .map(|(package, _)| {
            let state = package.state.split(',').next().unwrap();
            format!("{} {} {} {state}", package.name, package.version, package.architecture)
        })
        .collect();
    assert_eq!(found, listed);
    assert_eq!(problems, []);
}

/// Builds two packages and installs them into a database; what rpm lists then, or `None` without rpm, which is said.
fn rpm_database(directory: &Path) -> Option<String> {
    if !vigie_skipped::has("rpmbuild") {
        return None;
    }
    let spec = "Name: %{named}\nVersion: 1.2\nRelease: 3\nEpoch: 4\nSummary: x\nLicense: x\nBuildArch: noarch\n\
        %description\nx\n%install\nmkdir -p %{buildroot}/opt/%{named}\necho hello >%{buildroot}/opt/%{named}/file\n\
        ln -s file %{buildroot}/opt/%{named}/link\n\
        for n in `seq 300`; do echo $n >%{buildroot}/opt/%{named}/a-rather-long-name-of-a-file-number-$n; done\n\
        touch %{buildroot}/opt/%{named}/ghost\n%files\n%attr(4750,root,adm) /opt/%{named}/file\n/opt/%{named}/link\n\
        /opt/%{named}/a-*\n%ghost /opt/%{named}/ghost\n";
    fs::write(directory.join("x.spec"), spec).unwrap();
    let path = |name: &str| directory.join(name).display().to_string();
    let top = format!("_topdir {}", path("build"));
    for name in ["first", "second"] {
        output(
            "rpmbuild",
            &["--quiet", "-bb", "--define", &top, "--define", &format!("named {name}"), &path("x.spec")],
        );
    }
    fs::create_dir_all(directory.join("var/lib/rpm")).unwrap();
    let database = path("var/lib/rpm");
    for name in ["first", "second"] {
        let package = path(&format!("build/RPMS/noarch/{name}-1.2-3.noarch.rpm"));
        output(
            "rpm",
            &["--dbpath", &database, "-i", "--justdb", "--nodeps", "--force-debian", "--ignoreos", &package],
        );
    }
    let query = "%{NAME} %{EPOCH}:%{VERSION}-%{RELEASE} %{ARCH}\n[%{FILENAMES} %{FILEMODES:octal} %{FILEUSERNAME} %{FILEGROUPNAME} %{FILESIZES} %{FILELINKTOS}\n]";
    output("rpm", &["--dbpath", &database, "-qa", "--qf", query])
}

/// The same as rpm prints.
fn as_rpm_prints(packages: &[(Package, Vec<FileRecord>)]) -> BTreeSet<String> {
    let mut lines = BTreeSet::new();
    for (package, files) in packages {
        lines.insert(format!("{} {} {}", package.name, package.version, package.architecture));
        for file in files {
            let text = |text: &Option<String>| text.clone().unwrap_or_default();
            let link = String::from_utf8(file.link.clone().unwrap_or_default()).unwrap();
            // A ghost's size and a link's are not verified.
            let size = file.size.map(|size| size.to_string()).unwrap_or("-".to_owned());
            lines.insert(format!(
                "{} {:o} {} {} {size} {link}",
                String::from_utf8(file.path.clone()).unwrap(),
                file.mode.unwrap(),
                text(&file.user),
                text(&file.group)
            ));
        }
    }
    lines
}

/// The headers in a database of SQLite.
fn blobs(path: &Path) -> Vec<Vec<u8>> {
    let database = Database::open(&Root::host().place(path)).unwrap();
    let mut blobs = Vec::new();
    let table = database.table("Packages").unwrap().unwrap();
    let mut take = |_, row: &[Value]| match row {
        [_, Value::Blob(blob)] => blobs.push(blob.clone()),
        other => panic!("{other:?}"),
    };
    database.each_row(table, &mut take).unwrap();
    blobs
}

/// The same headers as a database of ndb: a page of slots, then the packages. Debian's rpm writes none.
fn ndb(blobs: &[Vec<u8>]) -> Vec<u8> {
    let words = |words: &[u32]| words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<u8>>();
    let mut file = [&b"RpmP"[..], &words(&[0, 7, 1, 3, 0, 0, 0])].concat();
    file.resize(4096, 0);
    for (number, blob) in (1_u32..).zip(blobs) {
        let (at, length) = (u32::try_from(file.len() / 16).unwrap(), u32::try_from(blob.len()).unwrap());
        let blocks = (length + 28).div_ceil(16);
        let slot = [&b"Slot"[..], &words(&[number, at, blocks])].concat();
        // The first two slots are the header; one stays empty, as after a removal.
        let place = 16 * (2 + 2 * number as usize);
        file[place..place + 16].copy_from_slice(&slot);
        file.extend_from_slice(b"BlbS");
        file.extend(words(&[number, 7, length]));
        file.extend_from_slice(blob);
        file.resize(file.len().next_multiple_of(16), 0);
    }
    file
}

/// The same headers as a hash of Berkeley DB, with pages of 512 bytes.
fn bdb(blobs: &[Vec<u8>]) -> Vec<u8> {
    const PAGE: usize = 512;
    let mut pages = vec![vec![0_u8; PAGE]];
    for (number, blob) in (1_u32..).zip(blobs) {
        // A page with one pair, of key and value.
        let first = u32::try_from(pages.len() + 1).unwrap();
        let mut page = vec![0; PAGE];
        page[20..22].copy_from_slice(&2_u16.to_le_bytes());
        page[25] = 13;
        page[26..28].copy_from_slice(&507_u16.to_le_bytes());
        page[28..30].copy_from_slice(&495_u16.to_le_bytes());
        page[495] = 3;
        page[499..503].copy_from_slice(&first.to_le_bytes());
        page[503..507].copy_from_slice(&u32::try_from(blob.len()).unwrap().to_le_bytes());
        page[507] = 1;
        page[508..512].copy_from_slice(&number.to_le_bytes());
        pages.push(page);
        let chunks: Vec<&[u8]> = blob.chunks(PAGE - 26).collect();
        for (nth, chunk) in (1_u32..).zip(&chunks) {
            let mut page = vec![0; 26];
            let next = if nth as usize == chunks.len() { 0 } else { first + nth };
            page[16..20].copy_from_slice(&next.to_le_bytes());
            page[22..24].copy_from_slice(&u16::try_from(chunk.len()).unwrap().to_le_bytes());
            page[25] = 7;
            page.extend_from_slice(chunk);
            page.resize(PAGE, 0);
            pages.push(page);
        }
    }
    let last = u32::try_from(pages.len() - 1).unwrap();
    for (at, word) in [(12, 0x0006_1561), (16, 9), (20, 512), (32, last)] {
        pages[0][at..at + 4].copy_from_slice(&u32::to_le_bytes(word));
    }
    pages[0][25] = 8;
    pages.concat()
}

#[test]
fn a_package_that_rpm_removes_owns_nothing_any_more() {
    let directory = tempfile::tempdir().unwrap();
    if rpm_database(directory.path()).is_none() {
        return;
    }
    let mut owners = Packages::at(&Root::open(directory.path()).unwrap());
    let now = some_time();
    let path = Path::new("/opt/second/file");
    assert!(owners.find(path, now).is_some());

    let database = directory.path().join("var/lib/rpm").display().to_string();
    output("rpm", &["--dbpath", &database, "-e", "--justdb", "second"]);

    assert!(owners.find(path, now).is_some(), "it is believed for a second");
    assert_eq!(owners.find(path, now + Duration::from_secs(1)), None);
    assert!(owners.find(Path::new("/opt/first/file"), now).is_some());
}

#[test]
fn each_kind_of_database_of_rpm_is_read_as_rpm_reads_it() {
    let directory = tempfile::tempdir().unwrap();
    let Some(listed) = rpm_database(directory.path()) else { return };
    let listed: BTreeSet<String> = listed
        .lines()
        .map(|line| {
            let mut fields: Vec<&str> = line.split(' ').collect();
            if fields[0].ends_with("/ghost") || fields[0].ends_with("/link") {
                fields[4] = "-";
            }
            fields.join(" ")
        })
        .collect();
    let database = directory.path().join("var/lib/rpm");
    let headers = blobs(&database.join("rpmdb.sqlite"));

    for (name, content) in
        [("rpmdb.sqlite", None), ("Packages.db", Some(ndb(&headers))), ("Packages", Some(bdb(&headers)))]
    {
        if let Some(content) = content {
            fs::remove_dir_all(&database).unwrap();
            fs::create_dir(&database).unwrap();
            fs::write(database.join(name), content).unwrap();
        }

        let (packages, problems) = read(directory.path(), Manager::Rpm);

        assert_eq!(problems, [], "{name}");
        assert_eq!(as_rpm_prints(&packages), listed, "{name}");
        let mut owners = Packages::at(&Root::open(directory.path()).unwrap());
        let mut owner = |path: &str| owners.find(Path::new(path), some_time());
        let file = owner("/opt/first/file").unwrap();
        assert_eq!(
            (file.manager, &*file.package, &*file.version),
            (Manager::Rpm, "first", "4:1.2-3"),
            "{name}"
        );
        assert_eq!(file.matches(&b"hello\n"[..]).unwrap(), Some(true));
        assert_eq!(file.matches(&b"changed\n"[..]).unwrap(), Some(false));
        assert_eq!(owner("/opt/second/a-rather-long-name-of-a-file-number-300").unwrap().package, "second");
        assert_eq!(owner("/opt/second/link").unwrap().matches(&b""[..]).unwrap(), None);
        assert_eq!(owner("/opt/first/other"), None);
        assert_eq!(
            owners.versions(Manager::Rpm),
            ["first", "second"].map(|name| (name.to_owned(), "4:1.2-3".to_owned())).into()
        );
        let first = packages.iter().find(|(package, _)| package.name == "first").unwrap();
        let file = first.1.iter().find(|file| file.path.ends_with(b"/file")).unwrap();
        assert_eq!(file.digest.as_ref().unwrap().algorithm, Algorithm::Sha256);
        assert_eq!((first.0.source.as_deref(), first.0.installed_at.is_some()), (Some("first"), true));
        assert!(first.1.iter().any(|file| file.path.ends_with(b"/ghost") && file.may_be_missing));
    }
}

/// A table of SQLite, with what is in the log only, written by Python's own SQLite.
const WRITE_TABLE: &str = r"
import sqlite3, sys, os
path = sys.argv[1]
database = sqlite3.connect(path, isolation_level=None)
database.execute('PRAGMA page_size=' + sys.argv[2])
database.execute('PRAGMA journal_mode=' + sys.argv[3])
database.execute('PRAGMA wal_autocheckpoint=0')
database.execute('PRAGMA synchronous=OFF')
database.execute('CREATE TABLE other (x)')
database.execute('CREATE TABLE t (number INTEGER PRIMARY KEY, a, b)')
for number in range(int(sys.argv[4])):
    if number == 5:
        database.execute('PRAGMA wal_checkpoint(TRUNCATE)')
    database.execute('INSERT INTO t VALUES (?, ?, ?)', (number, number * -3000 ** (number % 5), bytes([number % 256]) * (number * number % 9001)))
database.execute('DELETE FROM t WHERE number % 7 = 3')
# The connection is not closed: that would empty the log.
os._exit(0)
";

#[test]
fn a_table_of_sqlite_is_read_whole_also_from_its_log() {
    if !vigie_skipped::has("python3") {
        return;
    }
    for (page_bytes, mode, rows) in
        [("512", "DELETE", 400), ("4096", "DELETE", 1_000), ("4096", "WAL", 1_000), ("65536", "WAL", 40)]
    {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("x.sqlite");
        let arguments = ["-c", WRITE_TABLE, path.to_str().unwrap(), page_bytes, mode, &rows.to_string()];
        output("python3", &arguments).unwrap();

        let database = Database::open(&Root::host().place(&path)).unwrap();
        let table = database.table("t").unwrap().unwrap();
        let mut found = Vec::new();
        database
            .each_row(table, &mut |number, row| {
                let [Value::Null, Value::Integer(a), Value::Blob(b)] = row else { panic!("{row:?}") };
                found.push((number, *a, b.clone()));
            })
            .unwrap();

        let expected: Vec<_> = (0_i64..rows)
            .filter(|number| number % 7 != 3)
            .map(|number| {
                let a = number * -(3000_i64.pow(u32::try_from(number % 5).unwrap()));
                (
                    number,
                    a,
                    vec![
                        u8::try_from(number % 256).unwrap();
                        usize::try_from(number * number % 9001).unwrap()
                    ],
                )
            })
            .collect();
        assert!(found == expected, "{page_bytes} {mode}: {} rows", found.len());
        assert!(database.is_unchanged() && database.table("none").unwrap().is_none());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_bytes_are_a_database_or_refused(
        kind in 0_usize..3, content in proptest::collection::vec(any::<u8>(), 0..9000),
    ) {
        let begins: [(&str, &[u8]); 3] = [
            ("rpmdb.sqlite", b"SQLite format 3\0\x10\x00\x01\x01\x00"),
            ("Packages.db", b"RpmP\0\0\0\0\0\0\0\0\x01\0\0\0"),
            ("Packages", b"\0\0\0\0\0\0\0\0\0\0\0\0\x61\x15\x06\0\x09\0\0\0\0\x02\0\0\0\x08\0\0\0\0\0\0\x10\0\0\0"),
        ];
        let (name, begin) = begins[kind];
        let root = root(&[]);
        let directory = root.path().join("var/lib/rpm");
        fs::create_dir_all(&directory).unwrap();
        fs::write(directory.join(name), [begin, &content].concat()).unwrap();

        read(root.path(), Manager::Rpm);
    }
}
