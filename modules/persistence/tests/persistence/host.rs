//! A small Debian in a directory, with the records of its packages.

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;

use serde_json::value::to_raw_value;
use serde_json::{Value, json};
use vigie_persistence::Persistence;
use vigie_sdk::{ModuleResult, Query, StandardModule};

const SCHEMA: &str = include_str!("../../../../docs/persistence.schema.json");

/// Files that packages brought: package, path, mode, content.
const PACKAGED: &[(&str, &str, u32, &str)] = &[
    (
        "cron",
        "/usr/lib/systemd/system/cron.service",
        0o644,
        "[Unit]\nDescription=cron\n[Service]\nExecStart=/usr/sbin/cron -f\n[Install]\nWantedBy=multi-user.target\n",
    ),
    ("cron", "/usr/sbin/cron", 0o755, "\u{7f}ELF cron"),
    ("cron", "/etc/init.d/cron", 0o755, "#!/bin/sh\n### BEGIN INIT INFO\nstart\n"),
    (
        "openssh-server",
        "/usr/lib/systemd/system/ssh.service",
        0o644,
        "[Service]\nExecStart=/usr/sbin/sshd -D\n[Install]\nWantedBy=multi-user.target\nAlias=sshd.service\n",
    ),
    ("openssh-server", "/usr/sbin/sshd", 0o755, "\u{7f}ELF sshd"),
    (
        "openssh-server",
        "/usr/share/openssh/sshd_config",
        0o644,
        "Include /etc/ssh/sshd_config.d/*.conf\nUsePAM yes\nSubsystem sftp /usr/lib/openssh/sftp-server\n",
    ),
    ("coreutils", "/usr/bin/true", 0o755, "\u{7f}ELF true"),
    ("coreutils", "/usr/bin/tty", 0o755, "\u{7f}ELF tty"),
    ("coreutils", "/usr/bin/ls", 0o755, "\u{7f}ELF ls"),
    ("passwd", "/usr/bin/passwd", 0o4755, "\u{7f}ELF passwd"),
    ("base-files", "/usr/share/base-files/dot.bashrc", 0o644, "# bashrc\nalias ll='ls -l'\n"),
    ("base-files", "/usr/share/base-files/profile", 0o644, "PATH=/bin\nexport PATH\n"),
    (
        "libc-bin",
        "/usr/share/libc-bin/nsswitch.conf",
        0o644,
        "passwd:         files\nhosts:          files dns\n",
    ),
    (
        "libpam-runtime",
        "/usr/share/pam/common-auth",
        0o644,
        "# frame\n$auth_primary\nauth\trequisite\t\tpam_deny.so\n$auth_additional\n",
    ),
    (
        "libpam-runtime",
        "/usr/share/pam-configs/unix",
        0o644,
        "Name: Unix\nAuth-Type: Primary\nAuth:\n\t[success=end default=ignore]\tpam_unix.so nullok\n",
    ),
    ("libpam-modules", "/usr/lib/x86_64-linux-gnu/security/pam_unix.so", 0o644, "\u{7f}ELF unix"),
    (
        "ca-certificates",
        "/usr/share/ca-certificates/mozilla/a.crt",
        0o644,
        "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
    ),
    ("bash", "/etc/skel/.profile", 0o644, "# profile of new accounts\n"),
];

/// Configuration that packages brought.
const CONFFILES: &[(&str, &str, &str)] = &[
    (
        "cron",
        "/etc/crontab",
        "SHELL=/bin/sh\n17 *\t* * *\troot\tcd / && run-parts --report /etc/cron.hourly\n",
    ),
    ("cron", "/etc/default/cron", "# options\nEXTRA_OPTS=''\n"),
    ("openssh-server", "/etc/default/ssh", "# options\nSSHD_OPTS=\n"),
    ("openssl", "/etc/ssl/openssl.cnf", "[default]\nx = y\n"),
    ("bash", "/etc/bash.bashrc", "# system bashrc\nPS1='$ '\n"),
    ("util-linux", "/etc/pam.d/su", "auth sufficient pam_rootok.so\n@include common-auth\n"),
    ("sudo", "/etc/sudo.conf", "# plugins\n"),
    ("sudo", "/etc/sudoers", "root ALL=(ALL:ALL) ALL\n@includedir /etc/sudoers.d\n"),
    ("apt", "/etc/apt/apt.conf.d/01autoremove", "APT\n{\n  NeverAutoRemove { \"x\"; };\n};\n"),
];

/// Files that installation made of them, or of nothing.
const MADE: &[(&str, u32, &str)] = &[
    (
        "/etc/passwd",
        0o644,
        "root:x:0:0:root:/root:/bin/bash\ndaemon:x:1:1::/usr/sbin:/usr/sbin/nologin\nnews:x:9:9::/var/spool/news:/usr/sbin/nologin\nann:x:1000:1000::/home/ann:/bin/bash\n",
    ),
    ("/etc/shadow", 0o640, "root:*:19000:0:99999:7:::\nann:!:19000:0:99999:7:::\n"),
    ("/etc/group", 0o644, "root:x:0:\nsudo:x:27:\nann:x:1000:\n"),
    ("/etc/profile", 0o644, "PATH=/bin\nexport PATH\n"),
    ("/root/.bashrc", 0o644, "# bashrc\nalias ll='ls -l'\n"),
    ("/home/ann/.profile", 0o644, "# profile of new accounts\n"),
    ("/etc/nsswitch.conf", 0o644, "passwd:         files\nhosts:          files dns\n"),
    ("/etc/environment", 0o644, ""),
    ("/etc/shells", 0o644, "# shells\n/usr/bin/true\n"),
    ("/etc/fstab", 0o644, "# none\n/dev/vda1 / ext4 errors=remount-ro 0 1\n"),
    ("/etc/subuid", 0o644, "ann:100000:65536\n"),
    ("/etc/hosts.allow", 0o644, "# nobody\n"),
    ("/etc/apt/sources.list", 0o644, "deb http://deb.debian.org/debian bookworm main\n"),
    (
        "/etc/pam.d/common-auth",
        0o644,
        "# here\nauth\t[success=1 default=ignore]\tpam_unix.so nullok\nauth\trequisite\t\tpam_deny.so\n",
    ),
    (
        "/etc/ssl/certs/ca-certificates.crt",
        0o644,
        "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
    ),
    (
        "/etc/ssh/sshd_config",
        0o644,
        "Include /etc/ssh/sshd_config.d/*.conf\nUsePAM yes\nSubsystem sftp /usr/lib/openssh/sftp-server\n",
    ),
    ("/var/lib/systemd/deb-systemd-helper-enabled/sshd.service", 0o644, ""),
    ("/var/lib/dpkg/info/cron.postinst", 0o755, "#!/bin/sh\nset -e\n"),
    ("/var/lib/dpkg/alternatives/pager", 0o644, "auto\n/usr/bin/pager\n\n/usr/bin/ls\n50\n\n"),
];

const LINKS: &[(&str, &str)] = &[
    ("/bin", "usr/bin"),
    ("/sbin", "usr/sbin"),
    ("/lib", "usr/lib"),
    ("/etc/rc2.d/S01cron", "../init.d/cron"),
    ("/etc/systemd/system/multi-user.target.wants/cron.service", "/lib/systemd/system/cron.service"),
    ("/etc/systemd/system/sshd.service", "/lib/systemd/system/ssh.service"),
    ("/etc/alternatives/pager", "/bin/ls"),
    ("/usr/bin/pager", "/etc/alternatives/pager"),
    ("/etc/ssl/certs/a.pem", "/usr/share/ca-certificates/mozilla/a.crt"),
];

/// A host in a directory that goes away.
pub(crate) struct Host {
    directory: tempfile::TempDir,
}

impl Host {
    /// A host on which nobody did anything after it was installed.
    pub(crate) fn fresh() -> Self {
        let host = Self { directory: tempfile::tempdir().unwrap() };
        for (link, target) in LINKS {
            let link = host.path(link);
            fs::create_dir_all(link.parent().unwrap()).unwrap();
            symlink(target, link).unwrap();
        }
        // Lists name files as packages do: under /lib and /bin, and under /usr.
        let mut lists: BTreeMap<&str, (String, String, String)> = BTreeMap::new();
        for (package, path, mode, content) in PACKAGED {
            host.write(path, content, *mode);
            let (list, sums, _) = lists.entry(package).or_default();
            let listed = path.replace("/usr/lib/systemd", "/lib/systemd");
            list.push_str(&format!("{listed}\n"));
            sums.push_str(&format!("{}  {}\n", md5(content), &listed[1..]));
        }
        for (package, path, content) in CONFFILES {
            host.write(path, content, 0o644);
            let (list, _, conffiles) = lists.entry(package).or_default();
            list.push_str(&format!("{path}\n"));
            conffiles.push_str(&format!("\n {path} {}", md5(content)));
        }
        for (path, mode, content) in MADE {
            host.write(path, content, *mode);
        }
        let mut status = String::new();
        for (package, (list, sums, conffiles)) in lists {
            status.push_str(&format!(
                "Package: {package}\nStatus: install ok installed\nArchitecture: amd64\nVersion: 1\n"
            ));
            if !conffiles.is_empty() {
                status.push_str(&format!("Conffiles:{conffiles}\n"));
            }
            status.push('\n');
            host.write(&format!("/var/lib/dpkg/info/{package}.md5sums"), &sums, 0o644);
            host.write(&format!("/var/lib/dpkg/info/{package}.list"), &list, 0o644);
        }
        host.write("/var/lib/dpkg/status", &status, 0o644);
        // Unpacking was yesterday.
        host.age();
        host
    }

    /// Sets the times of everything that is there back, but for that of the last change.
    fn age(&self) {
        let yesterday = std::time::SystemTime::now() - std::time::Duration::from_secs(86_400);
        let mut directories = vec![self.directory.path().to_owned()];
        while let Some(directory) = directories.pop() {
            for entry in fs::read_dir(directory).unwrap().flatten() {
                let kind = entry.file_type().unwrap();
                if kind.is_dir() {
                    directories.push(entry.path());
                } else if kind.is_file() {
                    fs::File::open(entry.path()).unwrap().set_modified(yesterday).unwrap();
                }
            }
        }
    }

    pub(crate) fn path(&self, path: &str) -> PathBuf {
        self.directory.path().join(path.trim_start_matches('/'))
    }

    pub(crate) fn write(&self, path: &str, content: &str, mode: u32) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
    }

    /// Records a file that is there as one that a package brought.
    pub(crate) fn own(&self, package: &str, path: &str) {
        let content = fs::read_to_string(self.path(path)).unwrap();
        self.append(&format!("/var/lib/dpkg/info/{package}.list"), &format!("{path}\n"));
        let sum = format!("{}  {}\n", md5(&content), &path[1..]);
        self.append(&format!("/var/lib/dpkg/info/{package}.md5sums"), &sum);
    }

    pub(crate) fn append(&self, path: &str, more: &str) {
        let old = fs::read_to_string(self.path(path)).unwrap_or_default();
        let mode =
            fs::metadata(self.path(path)).map_or(0o644, |metadata| metadata.permissions().mode() & 0o7777);
        self.write(path, &(old + more), mode);
    }

    /// Gives homes with all that lies there to their accounts: ann and bob. Only root can.
    pub(crate) fn give_homes(&self) -> bool {
        [("/home/ann", 1000), ("/home/bob", 1001)].into_iter().all(|(home, uid)| {
            let mut left = vec![self.path(home)];
            while let Some(path) = left.pop() {
                left.extend(fs::read_dir(&path).into_iter().flatten().flatten().map(|entry| entry.path()));
                if std::os::unix::fs::lchown(&path, Some(uid), None).is_err() {
                    return false;
                }
            }
            true
        })
    }

    pub(crate) fn ask(&self, mut parameters: Value) -> ModuleResult {
        parameters["root"] = json!(self.directory.path());
        let schema: Value = serde_json::from_str(SCHEMA).unwrap();
        let fits = |part: &str, value: &Value| {
            assert_eq!(vigie_schema::problems(&schema, part, value), [""; 0], "{value}");
        };
        let mut query = Query::new(Some(to_raw_value(&parameters).unwrap()));
        let result = Persistence::run(&query);
        if result.success {
            fits("/$defs/parameters", &parameters);
            fits("/$defs/result", &serde_json::to_value(&result).unwrap());
            query.extraprivacy = true;
            fits("/$defs/result", &serde_json::to_value(Persistence::run(&query)).unwrap());
        }
        result
    }

    pub(crate) fn entries(&self, parameters: Value) -> Vec<Value> {
        let result = self.ask(parameters);
        assert!(result.success, "{:?}", result.errors);
        let elements: Value = serde_json::from_str(result.elements.unwrap().get()).unwrap();
        elements["entries"].as_array().unwrap().clone()
    }
}

fn md5(content: &str) -> String {
    vigie_tree::md5(content.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What is answered while a directory of the host does not respond. With the image as this thread's root and without
/// /proc, nobody knows from a table of mounts that it may not.
fn answered_while_hung(root: &std::path::Path, point: &std::path::Path) -> Option<Value> {
    use nix::sched::CloneFlags;
    let (root, point) = (root.to_owned(), point.to_owned());
    let answered = std::thread::spawn(move || {
        nix::sched::unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_FS).ok()?;
        let device = fs::File::options().read(true).write(true).open("/dev/fuse").ok()?;
        let run = |arguments: &[&str]| {
            let stdin = std::process::Stdio::from(device.try_clone().ok()?);
            let ran = std::process::Command::new("mount").args(arguments).stdin(stdin).status();
            ran.ok().filter(|status| status.success())
        };
        run(&["--make-rprivate", "/"])?;
        let options = "fd=0,rootmode=40000,user_id=0,group_id=0";
        run(&["-i", "-t", "fuse", "-o", options, "hung", point.to_str()?])?;
        nix::unistd::chroot(&root).ok()?;
        let mut query = Query::new(Some(to_raw_value(&json!({})).unwrap()));
        query.deadline = Some((jiff::Timestamp::now() + std::time::Duration::from_secs(4)).to_string());
        let result = vigie_sdk::watched::<Persistence>(query);
        // Whoever waits for it is let go.
        drop(device);
        Some(serde_json::to_value(&result).unwrap())
    });
    answered.join().unwrap()
}

#[test]
fn a_directory_that_does_not_respond_costs_only_what_is_looked_at_after_it() {
    let host = Host::fresh();
    host.write("/etc/cron.d/job", "* * * * * root /opt/job\n", 0o644);
    host.write("/usr/lib/systemd/system/sub.d/x", "", 0o644);
    let hung = host.path("/usr/lib/systemd/system/sub.d");
    let Some(answer) = answered_while_hung(host.directory.path(), &hung) else {
        return vigie_skipped::skipped("no FUSE file system can be mounted");
    };

    assert!(answer["foundanything"] == true && answer["success"] == false, "{answer}");
    assert!(answer["elements"]["entries"].to_string().contains("/etc/cron.d/job"), "{answer}");
    let skipped = answer["coverage"]["not_examined"].to_string();
    assert!(skipped.contains("does not respond"), "{answer}");
}
