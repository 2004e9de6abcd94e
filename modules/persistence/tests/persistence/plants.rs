//! One plant for each technique of the catalogue that a directory can hold.

use std::os::unix::fs::symlink;

use serde_json::{Value, json};

use crate::host::Host;

enum How {
    /// A file of its own.
    File(&'static str, u32),
    /// Lines at the end of what is there.
    Append(&'static str),
    /// A symbolic link.
    Link(&'static str),
    /// A text takes the place of another.
    Replace(&'static str, &'static str),
}

use How::{Append, File, Link, Replace};

/// Technique, ATT&CK number, file, how, line (0 where a file has none), verdict.
const PLANTS: &[(&str, &str, &str, How, u64, &str)] = &[
    (
        "sd-unit-etc",
        "T1543.002",
        "/etc/systemd/system/p-a.service",
        File("[Unit]\nDescription=x\n[Service]\nExecStart=-/opt/p\n", 0o644),
        4,
        "local",
    ),
    (
        "sd-unit-vendor",
        "T1543.002",
        "/usr/lib/systemd/system/p-b.service",
        File("[Service]\nExecStart=/opt/p\n", 0o644),
        2,
        "local",
    ),
    (
        "sd-unit-local",
        "T1543.002",
        "/usr/local/lib/systemd/system/p-c.service",
        File("[Service]\nExecStart=@/opt/p p\n", 0o644),
        2,
        "local",
    ),
    (
        "sd-unit-run",
        "T1543.002",
        "/run/systemd/system/p-d.service",
        File("[Service]\nExecStart=/opt/p\n", 0o644),
        2,
        "local",
    ),
    (
        "sd-control",
        "T1543.002",
        "/etc/systemd/system.control/ssh.service.d/a.conf",
        File("[Service]\nExecStartPre=/opt/p\n", 0o644),
        2,
        "local",
    ),
    (
        "sd-dropin",
        "T1543.002",
        "/etc/systemd/system/cron.service.d/a.conf",
        File("[Service]\n# x\nExecStartPost=/opt/p\n", 0o644),
        3,
        "local",
    ),
    (
        "sd-dropin-type",
        "T1543.002",
        "/run/systemd/system/p-.service.d/a.conf",
        File("[Service]\nExecStop=/opt/p\n", 0o644),
        2,
        "local",
    ),
    (
        "sd-override",
        "T1543.002",
        "/etc/systemd/system/ssh.service",
        File("[Service]\nExecStart=/usr/sbin/sshd -D\nExecStartPre=/opt/p\n", 0o644),
        3,
        "local",
    ),
    (
        "sd-wants",
        "T1543.002",
        "/etc/systemd/system/basic.target.requires/p-e.service",
        Link("/opt/p-e.service"),
        0,
        "local",
    ),
    (
        "sd-alias",
        "T1543.002",
        "/etc/systemd/system/dbus-org.p.service",
        Link("/usr/lib/systemd/system/cron.service"),
        0,
        "local",
    ),
    ("sd-mask", "T1562.001", "/etc/systemd/system/auditd.service", File("", 0o644), 1, "local"),
    (
        "sd-timer",
        "T1053.006",
        "/etc/systemd/system/p-a.timer",
        File("[Timer]\nOnBootSec=5m\n", 0o644),
        2,
        "local",
    ),
    (
        "sd-path",
        "T1543.002",
        "/etc/systemd/system/p-a.path",
        File("[Path]\nPathChanged=/tmp/p\n", 0o644),
        2,
        "local",
    ),
    (
        "sd-socket",
        "T1543.002",
        "/etc/systemd/system/p-f.socket",
        File("[Socket]\nAccept=yes\nListenStream=1\n", 0o644),
        3,
        "local",
    ),
    (
        "sd-onfailure",
        "T1543.002",
        "/etc/systemd/system/p-g.service",
        File("[Unit]\nOnFailure=p-a.service\n", 0o644),
        2,
        "local",
    ),
    ("sd-envfile", "T1574.006", "/etc/default/cron", Append("LD_AUDIT=/tmp/p.so\n"), 3, "modified"),
    (
        "sd-generator",
        "T1543.002",
        "/usr/local/lib/systemd/system-generators/p",
        File("#!/bin/sh\ntrue\n", 0o755),
        2,
        "local",
    ),
    (
        "sd-generator-user",
        "T1543.002",
        "/etc/systemd/user-generators/p",
        File("#!/bin/sh\ntrue\n", 0o755),
        2,
        "local",
    ),
    (
        "sd-envgen",
        "T1574.006",
        "/home/ann/.config/environment.d/p.conf",
        File("A=b\nLD_PRELOAD=/tmp/p.so\n", 0o644),
        2,
        "local",
    ),
    (
        "sd-managerenv",
        "T1574.006",
        "/etc/systemd/user.conf.d/p.conf",
        File("[Manager]\nDefaultEnvironment=A=b\n", 0o644),
        2,
        "local",
    ),
    (
        "sd-user-unit",
        "T1543.002",
        "/home/ann/.local/share/systemd/user/p.service",
        File("[Service]\nExecStart=/opt/p\n", 0o644),
        2,
        "local",
    ),
    (
        "sd-user-global",
        "T1543.002",
        "/etc/xdg/systemd/user/p.service",
        File("[Service]\nExecStart=/opt/p\n", 0o644),
        2,
        "local",
    ),
    ("sd-linger", "T1543.002", "/var/lib/systemd/linger/ann", File("", 0o644), 1, "local"),
    ("sd-sleep", "T1546", "/usr/lib/systemd/system-sleep/p", File("#!/bin/sh\ntrue\n", 0o755), 2, "local"),
    (
        "sd-tmpfiles",
        "T1546",
        "/etc/tmpfiles.d/p.conf",
        File("# x\nL+ /etc/p - - - - /tmp/p\n", 0o644),
        2,
        "local",
    ),
    ("sd-sysusers", "T1136.001", "/run/sysusers.d/p.conf", File("u p 0\n", 0o644), 1, "local"),
    (
        "sd-extension",
        "T1542",
        "/var/lib/extensions/p/usr/lib/extension-release.d/extension-release.p",
        File("ID=_any\n", 0o644),
        1,
        "local",
    ),
    ("sd-nspawn", "T1610", "/etc/systemd/nspawn/p.nspawn", File("[Exec]\nBoot=yes\n", 0o644), 2, "local"),
    (
        "sd-quadlet",
        "T1610",
        "/home/ann/.config/containers/systemd/p.container",
        File("[Container]\nImage=localhost/p\n", 0o644),
        2,
        "local",
    ),
    (
        "sd-dbus",
        "T1543.002",
        "/usr/share/dbus-1/services/p.service",
        File("[D-BUS Service]\nName=p\nExec=/opt/p\n", 0o644),
        3,
        "local",
    ),
    ("fstab", "T1547", "/etc/fstab", Append("p#x /usr/bin fuse rw 0 0\n"), 3, "local"),
    ("cron-system", "T1053.003", "/etc/crontab", Append("@reboot root /opt/p\n"), 3, "modified"),
    ("cron-d", "T1053.003", "/etc/cron.d/p", File("A=b\n*/5 * * * * root /opt/p\n", 0o644), 2, "local"),
    ("cron-user", "T1053.003", "/var/spool/cron/crontabs/gone", File("@hourly /opt/p\n", 0o600), 1, "local"),
    ("cron-periodic", "T1053.003", "/etc/cron.weekly/p", File("#!/bin/sh\ntrue\n", 0o755), 2, "local"),
    ("anacron", "T1053.003", "/etc/anacrontab", File("7 5 p /opt/p\n", 0o644), 1, "local"),
    (
        "at-job",
        "T1053.002",
        "/var/spool/at/a00001000aaaaa",
        File("#!/bin/sh\n# atrun uid=0 gid=0\numask 22\n/opt/p\n", 0o700),
        4,
        "local",
    ),
    ("incron", "T1546", "/var/spool/incron/ann", File("/tmp IN_CREATE /opt/p\n", 0o600), 1, "local"),
    ("rc-local", "T1037.004", "/etc/rc.local", File("#!/bin/sh\n/opt/p\n", 0o755), 2, "local"),
    ("initd", "T1037.004", "/etc/init.d/p", File("#!/bin/sh\n# Provides: p\n/opt/p\n", 0o755), 3, "local"),
    ("inittab", "T1037", "/etc/inittab", File("p:2:respawn:/opt/p\n", 0o644), 1, "local"),
    ("openrc", "T1037", "/etc/conf.d/p", File("A=b\n/opt/p\n", 0o644), 2, "local"),
    ("etc-default", "T1037", "/etc/default/ssh", Append("/opt/p &\n"), 3, "modified"),
    ("supervise", "T1543", "/etc/service/p/run", File("#!/bin/sh\nexec /opt/p\n", 0o755), 2, "local"),
    ("inetd", "T1543", "/etc/xinetd.d/p", File("service p\n{\n server = /opt/p\n}\n", 0o644), 3, "local"),
    (
        "initramfs-hook",
        "T1542",
        "/etc/initramfs-tools/scripts/init-top/p",
        File("#!/bin/sh\ntrue\n", 0o755),
        2,
        "local",
    ),
    ("initramfs-image", "T1542", "/boot/initrd.img-p", File("\0\u{1}", 0o644), 0, "local"),
    (
        "dracut",
        "T1542",
        "/etc/dracut.conf.d/p.conf",
        File("# x\ninstall_items+=\" /opt/p \"\n", 0o644),
        2,
        "local",
    ),
    (
        "grub",
        "T1542",
        "/boot/grub/custom.cfg",
        File("menuentry x {\n linux /vmlinuz init=/opt/p\n}\n", 0o644),
        2,
        "local",
    ),
    ("kernel-hooks", "T1546", "/etc/kernel/postrm.d/p", File("#!/bin/sh\ntrue\n", 0o755), 2, "local"),
    ("efi", "T1542.001", "/boot/efi/EFI/BOOT/p.efi", File("MZ\0", 0o644), 0, "local"),
    ("modules-load", "T1547.006", "/etc/modules", File("# x\np\n", 0o644), 2, "local"),
    (
        "modprobe-install",
        "T1547.006",
        "/run/modprobe.d/p.conf",
        File("softdep a pre: b\ninstall p \\\n /opt/p\n", 0o644),
        2,
        "local",
    ),
    ("lkm-file", "T1547.006", "/usr/lib/modules/6/extra/p.ko.xz", File("\0", 0o644), 0, "local"),
    (
        "ldso-preload",
        "T1574.006",
        "/etc/ld.so.preload",
        File("# x\n/tmp/p.so /tmp/q.so\n", 0o644),
        2,
        "local",
    ),
    ("ldso-conf", "T1574.006", "/etc/ld.so.conf.d/p.conf", File("/tmp/p\n", 0o644), 1, "local"),
    ("ldso-lib", "T1574", "/usr/lib/x86_64-linux-gnu/libp.so.1", File("\0", 0o644), 0, "local"),
    ("env-file", "T1574.006", "/etc/environment", Append("LD_PRELOAD=/tmp/p.so\n"), 1, "local"),
    (
        "bash-env",
        "T1546.004",
        "/home/ann/.pam_environment",
        File("A=b\nBASH_ENV DEFAULT=/tmp/p\n", 0o644),
        2,
        "local",
    ),
    (
        "nss-module",
        "T1556",
        "/etc/nsswitch.conf",
        Replace("hosts:          files", "hosts:          files p"),
        2,
        "modified",
    ),
    (
        "openssl-conf",
        "T1574",
        "/etc/ssl/openssl.cnf",
        Append("[p]\ndynamic_path = /tmp/p.so\n"),
        4,
        "modified",
    ),
    (
        "py-site",
        "T1546.018",
        "/home/ann/.local/lib/python3.11/site-packages/p.pth",
        File("/x\nimport os; os.x\n", 0o644),
        2,
        "local",
    ),
    (
        "lang-env",
        "T1574",
        "/etc/php/8.2/fpm/php.ini",
        File("; x\nauto_append_file = /tmp/p\n", 0o644),
        2,
        "local",
    ),
    (
        "pam-conf",
        "T1556.003",
        "/etc/pam.d/su",
        Append("session optional pam_exec.so /opt/p\n"),
        3,
        "modified",
    ),
    (
        "pam-conf",
        "T1556.003",
        "/etc/pam.d/common-auth",
        Append("auth sufficient pam_permit.so\n"),
        4,
        "modified",
    ),
    ("pam-module", "T1556.003", "/usr/lib/x86_64-linux-gnu/security/pam_p.so", File("\0", 0o644), 0, "local"),
    (
        "ssh-authkeys",
        "T1098.004",
        "/home/ann/.ssh/authorized_keys",
        File("# x\nssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAA p\n", 0o600),
        2,
        "local",
    ),
    (
        "ssh-authkeys-cmd",
        "T1098.004",
        "/home/ann/.ssh/authorized_keys2",
        File("restrict,command=\"/opt/p\" ssh-rsa AAAAB3 p\n", 0o600),
        1,
        "local",
    ),
    (
        "sshd-conf",
        "T1556",
        "/etc/ssh/sshd_config.d/p.conf",
        File("Match User x\n ForceCommand /opt/p\n", 0o644),
        2,
        "local",
    ),
    ("sshd-conf", "T1556", "/etc/ssh/sshd_config", Append("AuthorizedKeysCommand /opt/p\n"), 4, "modified"),
    ("ssh-rc", "T1546.004", "/etc/ssh/sshrc", File("/opt/p\n", 0o644), 1, "local"),
    (
        "ssh-client",
        "T1546",
        "/home/ann/.ssh/config",
        File("Host x\n proxycommand /opt/p\n", 0o600),
        2,
        "local",
    ),
    ("uid0", "T1136.001", "/etc/passwd", Append("p:x:00:0::/:/bin/sh\n"), 5, "local"),
    (
        "sysaccount",
        "T1078.003",
        "/etc/passwd",
        Replace("/var/spool/news:/usr/sbin/nologin", "/var/spool/news:/bin/sh"),
        3,
        "local",
    ),
    ("empty-pw", "T1098", "/etc/shadow", Append("p::1:0:99999:7:::\n"), 3, "local"),
    ("group-priv", "T1098.007", "/etc/group", Replace("sudo:x:27:", "sudo:x:27:ann"), 2, "local"),
    ("subid", "T1098", "/etc/subuid", Append("p:1000:5\n"), 2, "local"),
    ("sudoers", "T1548.003", "/etc/sudoers.d/p", File("# x\np ALL = NOPASSWD: ALL\n", 0o440), 2, "local"),
    ("sudo-plugin", "T1548.003", "/etc/sudo.conf", Append("Plugin p /tmp/p.so\n"), 2, "modified"),
    (
        "polkit",
        "T1548",
        "/usr/share/polkit-1/rules.d/00-p.rules",
        File("polkit.addRule(x);\n", 0o644),
        1,
        "local",
    ),
    ("doas", "T1548", "/etc/doas.conf", File("permit nopass p\n", 0o644), 1, "local"),
    ("suid", "T1548.001", "/usr/local/bin/p", File("\0", 0o4755), 0, "local"),
    ("rhosts", "T1021", "/home/ann/.shosts", File("+ +\n", 0o644), 1, "local"),
    ("hosts-allow", "T1546", "/etc/hosts.allow", Append("ALL: ALL: twist /opt/p\n"), 2, "local"),
    (
        "ca-store",
        "T1553.004",
        "/etc/ssl/certs/ca-certificates.crt",
        Append("-----BEGIN CERTIFICATE-----\nBBBB\n-----END CERTIFICATE-----\n"),
        4,
        "modified",
    ),
    ("adduser-hook", "T1546", "/usr/local/sbin/deluser.local", File("#!/bin/sh\ntrue\n", 0o755), 2, "local"),
    ("profile", "T1546.004", "/etc/profile", Append("/opt/p\n"), 3, "modified"),
    ("bashrc", "T1546.004", "/etc/bash.bashrc", Append("/opt/p\n"), 3, "modified"),
    ("user-rc", "T1546.004", "/root/.bashrc", Append("/opt/p\n"), 3, "modified"),
    ("user-rc", "T1546.004", "/home/ann/.profile", Append("/opt/p\n"), 2, "modified"),
    ("user-bashprofile", "T1546.004", "/home/ann/.bash_login", File("/opt/p\n", 0o644), 1, "local"),
    ("zsh", "T1546.004", "/home/ann/.zshenv", File("/opt/p\n", 0o644), 1, "local"),
    ("fish", "T1546.004", "/etc/fish/conf.d/p.fish", File("/opt/p\n", 0o644), 1, "local"),
    ("csh", "T1546.004", "/etc/csh.cshrc", File("/opt/p\n", 0o644), 1, "local"),
    (
        "bash-compl",
        "T1546.004",
        "/usr/share/bash-completion/completions/p",
        File("/opt/p\n", 0o644),
        1,
        "local",
    ),
    ("path-shadow", "T1574.007", "/home/ann/.local/bin/ls", File("#!/bin/sh\n/opt/p\n", 0o755), 2, "local"),
    ("binary-changed", "T1554", "/usr/bin/tty", Append("x"), 1, "modified"),
    ("motd", "T1546", "/etc/update-motd.d/p", File("#!/bin/sh\ntrue\n", 0o755), 2, "local"),
    (
        "xdg-autostart",
        "T1547.013",
        "/home/ann/.config/autostart/p.desktop",
        File("[Desktop Entry]\nExec=env A=b /opt/p\n", 0o644),
        2,
        "local",
    ),
    ("xsession", "T1546", "/etc/X11/Xsession.d/p", File("/opt/p\n", 0o644), 1, "local"),
    (
        "desktop-ext",
        "T1176",
        "/home/ann/.config/chromium/NativeMessagingHosts/p.json",
        File("{}\n", 0o644),
        1,
        "local",
    ),
    ("editor", "T1546", "/home/ann/.vim/plugin/a/p.vim", File("\" x\ncall x()\n", 0o644), 1, "local"),
    ("git", "T1546", "/home/ann/.gitconfig", File("[core]\n\tfsmonitor = /opt/p\n", 0o644), 2, "local"),
    ("mail", "T1546", "/home/ann/.forward", File("\"|/opt/p\"\n", 0o644), 1, "local"),
    (
        "apt-hook",
        "T1546.016",
        "/etc/apt/apt.conf.d/99p",
        File("DPkg {\n  Post-Invoke { \"/opt/p\"; };\n};\n", 0o644),
        2,
        "local",
    ),
    ("dpkg-hook", "T1546.016", "/home/ann/.dpkg.cfg", File("pre-invoke /opt/p\n", 0o644), 1, "local"),
    ("dpkg-script", "T1546.016", "/var/lib/dpkg/info/cron.postinst", Append("/opt/p\n"), 2, "modified"),
    (
        "diversion",
        "T1574",
        "/var/lib/dpkg/diversions",
        File("/a\n/b\npkg\n/usr/bin/x\n/usr/bin/y\n:\n", 0o644),
        4,
        "local",
    ),
    (
        "dnf-hook",
        "T1546.016",
        "/etc/dnf/libdnf5-plugins/actions.d/p.actions",
        File("post_transaction::::/opt/p\n", 0o644),
        1,
        "local",
    ),
    ("rpm-hook", "T1546.016", "/home/ann/.rpmmacros", File("%p %(/opt/p)\n", 0o644), 1, "local"),
    ("apk-hook", "T1546.016", "/etc/apk/commit_hooks.d/p", File("#!/bin/sh\ntrue\n", 0o755), 2, "local"),
    (
        "pacman-hook",
        "T1546.016",
        "/usr/share/libalpm/hooks/p.hook",
        File("[Action]\nExec = /opt/p\n", 0o644),
        2,
        "local",
    ),
    (
        "repo",
        "T1195.002",
        "/etc/apt/sources.list",
        Append("deb [allow-insecure=yes] http://192.0.2.1/ x main\n"),
        2,
        "local",
    ),
    (
        "logrotate",
        "T1546",
        "/etc/logrotate.d/p",
        File("/x {\n firstaction\n  /opt/p\n endscript\n}\n", 0o644),
        3,
        "local",
    ),
    (
        "syslog",
        "T1546",
        "/etc/rsyslog.d/p.conf",
        File("# x\naction(type=\"omprog\" binary=\"/opt/p\")\n", 0o644),
        2,
        "local",
    ),
    ("nm-dispatcher", "T1546", "/etc/network/if-up.d/p", File("#!/bin/sh\ntrue\n", 0o755), 2, "local"),
    (
        "ifupdown",
        "T1546",
        "/etc/network/interfaces",
        File("iface lo inet loopback\n post-up /opt/p\n", 0o644),
        2,
        "local",
    ),
    ("acpi-usb", "T1546", "/etc/smartd.conf", File("DEVICESCAN -M exec /opt/p\n", 0o644), 1, "local"),
    (
        "udev",
        "T1546.017",
        "/run/udev/rules.d/p.rules",
        File("# x\nKERNEL==\"a\", \\\n PROGRAM=\"/opt/p\"\n", 0o644),
        2,
        "local",
    ),
    ("core-pattern", "T1546", "/etc/sysctl.conf", File("kernel/modprobe = /opt/p\n", 0o644), 1, "local"),
    ("sysctl", "T1562", "/run/sysctl.d/p.conf", File("a=b\n-fs.protected_symlinks=0\n", 0o644), 2, "local"),
    ("binfmt", "T1546", "/run/binfmt.d/p.conf", File(":p:E::p::/opt/p:\n", 0o644), 1, "local"),
    ("request-key", "T1546", "/etc/request-key.conf", File("create p * * /opt/p\n", 0o644), 1, "local"),
    (
        "netfilter",
        "T1205",
        "/etc/nftables.conf",
        File("#!/usr/sbin/nft -f\nflush ruleset\n", 0o755),
        2,
        "local",
    ),
    (
        "docker",
        "T1610",
        "/var/lib/docker/containers/p/hostconfig.json",
        File("{\"PidMode\":\"host\"}", 0o600),
        1,
        "local",
    ),
    ("k8s", "T1610", "/etc/cni/net.d/p.conf", File("{}\n", 0o644), 1, "local"),
    (
        "cloud-init",
        "T1037",
        "/var/lib/cloud/scripts/per-once/p",
        File("#!/bin/sh\ntrue\n", 0o755),
        2,
        "local",
    ),
    (
        "monitoring",
        "T1546",
        "/etc/zabbix/zabbix_agentd.conf",
        File("# x\nUserParameter=p,/opt/p\n", 0o644),
        2,
        "local",
    ),
    ("webshell", "T1505.003", "/var/www/html/deep/er/p.phtml", File("<?php ?>\n", 0o644), 1, "local"),
    ("webconf", "T1505", "/var/www/html/deep/.htaccess", File("# x\nSetHandler p\n", 0o644), 2, "local"),
    (
        "database",
        "T1505.001",
        "/etc/redis/redis.conf",
        File("# x\nloadmodule /tmp/p.so\n", 0o644),
        2,
        "local",
    ),
    ("needrestart", "T1546.016", "/etc/needrestart/notify.d/p", File("#!/bin/sh\ntrue\n", 0o755), 2, "local"),
    ("lsm-off", "T1562.001", "/etc/apparmor.d/disable/p", Link("/etc/apparmor.d/p"), 0, "local"),
];

fn plant(host: &Host, path: &str, how: &How) {
    match how {
        File(content, mode) => host.write(path, content, *mode),
        Append(more) => host.append(path, more),
        Link(target) => {
            let link = host.path(path);
            std::fs::create_dir_all(link.parent().unwrap()).unwrap();
            symlink(target, link).unwrap();
        }
        Replace(from, to) => {
            let old = std::fs::read_to_string(host.path(path)).unwrap();
            assert!(old.contains(from), "{path}");
            std::fs::write(host.path(path), old.replace(from, to)).unwrap();
        }
    }
}

fn has(entries: &[Value], technique: &str, attack: &str, path: &str, line: u64, verdict: &str) -> bool {
    entries.iter().any(|entry| {
        entry["technique"] == technique
            && entry["attack"] == attack
            && entry["file"] == path
            && entry["verdict"] == verdict
            && (line == 0 || entry["line"] == line)
    })
}

#[test]
fn on_a_host_that_was_only_installed_everything_is_explained() {
    let host = Host::fresh();

    let all = host.entries(json!({"deep": true}));

    let strange: Vec<&Value> = all
        .iter()
        .filter(|entry| !["packaged", "derived"].contains(&entry["verdict"].as_str().unwrap()))
        .collect();
    assert!(strange.is_empty(), "{strange:#?}");
    for (file, verdict) in [
        ("/usr/lib/systemd/system/cron.service", "packaged"),
        ("/etc/systemd/system/sshd.service", "derived"),
        ("/etc/rc2.d/S01cron", "derived"),
        ("/etc/pam.d/common-auth", "derived"),
        ("/root/.bashrc", "derived"),
        ("/home/ann/.profile", "derived"),
        ("/etc/crontab", "packaged"),
    ] {
        assert!(all.iter().any(|entry| entry["file"] == file && entry["verdict"] == verdict), "{file}");
    }
    let cron = all.iter().find(|entry| entry["file"] == "/usr/lib/systemd/system/cron.service").unwrap();
    assert_eq!((&cron["package"], &cron["program"]["package"]), (&json!("cron"), &json!("cron")), "{cron}");
    assert_eq!((cron["sha256"].as_str().map(str::len), cron["line"].as_u64()), (Some(64), Some(4)), "{cron}");
}

#[test]
fn every_plant_is_found_with_file_line_verdict_and_attack_number() {
    let host = Host::fresh();
    for (_, _, path, how, _, _) in PLANTS {
        plant(&host, path, how);
    }

    let found = host.entries(json!({"local": true}));

    let missing: Vec<_> = PLANTS
        .iter()
        .filter(|(technique, attack, path, _, line, verdict)| {
            !has(&found, technique, attack, path, *line, verdict)
        })
        .map(|(technique, _, path, _, line, verdict)| {
            let near: Vec<String> =
                found.iter().filter(|entry| entry["file"] == *path).map(Value::to_string).collect();
            format!("{technique} {path}:{line} {verdict}, but {near:?}")
        })
        .collect();
    assert!(missing.is_empty(), "{}", missing.join("\n"));
    let mut techniques: Vec<&str> = PLANTS.iter().map(|(technique, ..)| *technique).collect();
    techniques.sort_unstable();
    techniques.dedup();
    // Capabilities need rights, five others a live kernel.
    assert_eq!(techniques.len(), 130);
}

#[test]
fn lines_that_a_package_brought_stay_packaged_beside_those_that_were_added() {
    let host = Host::fresh();
    host.write("/etc/crontab", "SHELL=/bin/sh\n* * * * * root /opt/p\n17 *\t* * *\troot\tcd / && run-parts --report /etc/cron.hourly\n", 0o644);

    let lines = host.entries(json!({"technique": ["cron-system"]}));

    assert!(has(&lines, "cron-system", "T1053.003", "/etc/crontab", 2, "modified"), "{lines:?}");
    assert!(has(&lines, "cron-system", "T1053.003", "/etc/crontab", 3, "packaged"), "{lines:?}");
}

#[test]
fn capabilities_of_files_are_found() {
    let host = Host::fresh();
    host.write("/usr/local/bin/p", "x", 0o755);
    let capability = [1, 0, 0, 2, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let set = rustix::fs::setxattr(
        host.path("/usr/local/bin/p"),
        "security.capability",
        &capability,
        rustix::fs::XattrFlags::empty(),
    );
    if set.is_err() {
        return vigie_skipped::skipped(
            "only root can give a file capabilities, and not on every file system",
        );
    }

    let found = host.entries(json!({"technique": "filecaps", "local": true}));

    assert!(has(&found, "filecaps", "T1548", "/usr/local/bin/p", 0, "local"), "{found:?}");
    assert_eq!(found[0]["notes"], json!(["cap_setuid"]));
}

#[test]
fn a_packaged_program_that_became_setuid_is_told() {
    let host = Host::fresh();
    let ls = host.path("/usr/bin/ls");
    std::fs::set_permissions(&ls, std::os::unix::fs::PermissionsExt::from_mode(0o4755)).unwrap();

    let found = host.entries(json!({"technique": "suid"}));

    assert!(has(&found, "suid", "T1548.001", "/usr/bin/ls", 0, "modified"), "{found:?}");
    assert!(has(&found, "suid", "T1548.001", "/usr/bin/passwd", 0, "packaged"), "{found:?}");
}

#[test]
fn hooks_of_git_and_changed_programs_anywhere_need_a_deep_walk() {
    let host = Host::fresh();
    host.write("/srv/repo/.git/hooks/post-merge", "#!/bin/sh\n/opt/p\n", 0o755);
    host.write("/srv/tool", "x", 0o4755);

    let shallow = host.ask(json!({"technique": ["git", "suid"], "local": true}));
    let deep = host.entries(json!({"technique": ["git", "suid"], "local": true, "deep": true}));

    assert!(shallow.is_not_known(), "{shallow:?}");
    assert!(has(&deep, "git", "T1546", "/srv/repo/.git/hooks/post-merge", 2, "local"), "{deep:?}");
    assert!(has(&deep, "suid", "T1548.001", "/srv/tool", 0, "local"), "{deep:?}");
}

#[test]
fn a_question_that_needs_no_walk_is_answered_completely() {
    let host = Host::fresh();

    let result = host.ask(json!({"kind": "cron", "local": true}));

    assert!(!result.foundanything && result.coverage.unwrap().complete);
}

#[test]
fn without_a_database_of_packages_nothing_is_called_local() {
    let host = Host::fresh();
    std::fs::remove_dir_all(host.path("/var/lib/dpkg")).unwrap();

    let result = host.ask(json!({"technique": "cron-d"}));
    host.write("/etc/cron.d/p", "@daily root x\n", 0o644);
    let entries = host.entries(json!({"technique": "cron-d"}));

    assert!(!result.coverage.unwrap().complete);
    assert_eq!(entries[0]["verdict"], "unknown");
}
