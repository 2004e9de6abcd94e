//! Plants in places of which several belong to one technique.

use serde_json::{Value, json};

use crate::host::Host;

/// Technique, ATT&CK number, file, content, line.
const PLANTS: &[(&str, &str, &str, &str, u64)] = &[
    (
        "sd-managerenv",
        "T1574.006",
        "/run/systemd/system.conf",
        "[Manager]\nDefaultEnvironment=LD_PRELOAD=/p\n",
        2,
    ),
    ("sd-dbus", "T1543.002", "/run/user/1000/dbus-1/services/p.service", "[D-BUS Service]\nExec=/opt/p\n", 2),
    (
        "etc-default",
        "T1037",
        "/etc/sysconfig/network-scripts/ifcfg-eth0",
        "DEVICE=eth0\nNAME=Net /opt/p\n",
        2,
    ),
    ("ifupdown", "T1546", "/usr/sbin/ifup-local", "#!/bin/sh\n/opt/p\n", 2),
    ("ifupdown", "T1546", "/etc/sysconfig/network/if-up.d/p", "#!/bin/sh\n/opt/p\n", 2),
    ("ifupdown", "T1546", "/etc/dnsmasq.d/p", "dhcp-script=/opt/p\n", 1),
    ("ifupdown", "T1546", "/etc/keepalived/keepalived.conf", "vrrp_instance x {\n notify /opt/p\n}\n", 2),
    ("inetd", "T1543", "/etc/rsyncd.conf", "[x]\npost-xfer exec = /opt/p\n", 2),
    ("inetd", "T1543", "/etc/samba/smb.conf", "[x]\n root preexec = /opt/p\n", 2),
    ("kernel-hooks", "T1546", "/usr/share/kernel/postinst.d/p", "#!/bin/sh\n/opt/p\n", 2),
    ("modules-load", "T1547.006", "/etc/sysconfig/modules/p.modules", "#!/bin/sh\n/opt/p\n", 2),
    ("openssl-conf", "T1574", "/etc/gss/mech.d/p.conf", "p 1.2.3 /opt/p.so\n", 1),
    ("lang-env", "T1574", "/home/ann/.Rprofile", "system('/opt/p')\n", 1),
    ("sshd-conf", "T1556", "/usr/etc/ssh/sshd_config.d/p.conf", "ForceCommand /opt/p\n", 1),
    ("sudoers", "T1548.003", "/usr/etc/sudoers.d/p", "ann ALL=ALL\n", 1),
    ("polkit", "T1548", "/etc/polkit-1/actions/p.policy", "<policyconfig/>\n", 1),
    ("bash-compl", "T1546.004", "/home/ann/.config/bash_completion", "/opt/p\n", 1),
    ("fish", "T1546.004", "/usr/local/share/fish/vendor_conf.d/p.fish", "/opt/p\n", 1),
    ("xsession", "T1546", "/home/ann/.gnomerc", "/opt/p\n", 1),
    ("editor", "T1546", "/home/ann/.gnupg/gpg-agent.conf", "# c\npinentry-program /opt/p\n", 2),
    ("editor", "T1546", "/home/ann/.hgrc", "[hooks]\nupdate = /opt/p\n", 1),
    ("docker", "T1610", "/home/ann/.docker/cli-plugins/docker-p", "#!/bin/sh\n/opt/p\n", 2),
    ("docker", "T1610", "/var/lib/lxc/c/config", "lxc.hook.start = /opt/p\n", 1),
    ("k8s", "T1610", "/var/lib/rancher/k3s/server/manifests/p.yaml", "kind: Pod\n", 1),
    ("webconf", "T1505", "/etc/squid/squid.conf", "url_rewrite_program /opt/p\n", 1),
    (
        "database",
        "T1505.001",
        "/etc/postgresql/15/main/conf.d/p.conf",
        "recovery_end_command = '/opt/p'\n",
        1,
    ),
    ("monitoring", "T1546", "/usr/lib/check_mk_agent/local/p", "#!/bin/sh\n/opt/p\n", 2),
    ("monitoring", "T1546", "/etc/fail2ban/action.d/p.local", "[Definition]\nactionban = /opt/p\n", 2),
    ("monitoring", "T1546", "/usr/lib/nagios/plugins/check_p", "#!/bin/sh\n/opt/p\n", 2),
    ("logrotate", "T1546", "/etc/logrotate.d/p", "/x {\n compresscmd /opt/p\n}\n", 2),
    (
        "apt-hook",
        "T1546.016",
        "/etc/apt/apt.conf.d/00trustcdrom",
        "#clear X; DPkg::Post-Invoke {\"/opt/p\";};\n",
        1,
    ),
    ("udev", "T1546.017", "/etc/udev/rules.d/p.rules", "# c\nACTION==\"add\" RUN+=\"/opt/p\"\n", 2),
    (
        "sd-user-unit",
        "T1543.002",
        "/run/user/1000/systemd/user/p.service",
        "[Service]\nExecStart=/opt/p\n",
        2,
    ),
    (
        "sd-user-unit",
        "T1543.002",
        "/run/user/7/systemd/transient/p.service",
        "[Service]\nExecStart=/opt/p\n",
        2,
    ),
    (
        "sd-managerenv",
        "T1574.006",
        "/home/ann/.config/systemd/user.conf",
        "[Manager]\nDefaultEnvironment=A=b\n",
        2,
    ),
    ("cron-user", "T1053.003", "/var/spool/cron/tabs/ann", "@daily /opt/p\n", 1),
    ("at-job", "T1053.002", "/var/spool/atjobs/a1", "#!/bin/sh\n/opt/p\n", 2),
    ("pam-conf", "T1556.003", "/etc/security/namespace.init", "#!/bin/sh\n/opt/p\n", 2),
    ("xsession", "T1546", "/usr/share/xsessions/p.desktop", "[Desktop Entry]\nExec=/opt/p\n", 2),
    ("xsession", "T1546", "/usr/share/wayland-sessions/p.desktop", "[Desktop Entry]\nExec=/opt/p\n", 2),
    ("xsession", "T1546", "/home/ann/.config/i3/config", "exec --no-startup-id /opt/p\n", 1),
    ("xsession", "T1546", "/home/ann/.config/sway/config", "exec_always /opt/p\n", 1),
    ("xsession", "T1546", "/home/ann/.config/hypr/hyprland.conf", "exec-once = /opt/p\n", 1),
    ("xsession", "T1546", "/home/ann/.config/openbox/autostart", "/opt/p &\n", 1),
    ("xsession", "T1546", "/etc/xdg/lxsession/LXDE/autostart", "@/opt/p\n", 1),
    ("binfmt", "T1546", "/usr/share/binfmts/p", "package p\ninterpreter /opt/p\n", 2),
    ("binfmt", "T1546", "/var/lib/binfmts/q", "q\nmagic\n0\nx\n\n/opt/p\n", 1),
    ("dkms", "T1547.006", "/usr/src/p-1/dkms.conf", "PACKAGE_NAME=p\nPOST_BUILD=\"p.sh\"\n", 2),
    ("kernel-hooks", "T1546", "/etc/initramfs/post-update.d/p", "#!/bin/sh\n/opt/p\n", 2),
    ("sd-sleep", "T1546", "/etc/pm/sleep.d/p", "#!/bin/sh\n/opt/p\n", 2),
    ("libvirt", "T1546", "/etc/libvirt/hooks/qemu", "#!/bin/sh\n/opt/p\n", 2),
    ("cert-hook", "T1546", "/etc/letsencrypt/renewal-hooks/deploy/p", "#!/bin/sh\n/opt/p\n", 2),
    ("cert-hook", "T1546", "/etc/letsencrypt/renewal/p.conf", "[renewalparams]\nrenew_hook = /opt/p\n", 2),
    ("cert-hook", "T1546", "/etc/ca-certificates/update.d/p", "#!/bin/sh\n/opt/p\n", 2),
    ("nm-dispatcher", "T1546", "/etc/dhcp/dhclient-enter-hooks", "/opt/p\n", 1),
    ("nm-dispatcher", "T1546", "/etc/dhcp/dhclient-exit-hooks.d/p", "/opt/p\n", 1),
    ("dnf-hook", "T1546.016", "/usr/lib/python3.11/site-packages/dnf-plugins/p.py", "import os\n", 1),
    ("dnf-hook", "T1546.016", "/usr/lib/zypp/plugins/commit/p", "#!/bin/sh\n/opt/p\n", 2),
    ("mail", "T1546", "/etc/postfix/master.cf", "p unix - n n - - pipe\n flags=R user=p argv=/opt/p\n", 2),
    ("mail", "T1546", "/home/ann/.qmail", "|/opt/p\n", 1),
    ("mail", "T1546", "/home/ann/.mailfilter", "to \"|/opt/p\"\n", 1),
    ("webshell", "T1505.003", "/var/lib/tomcat10/webapps/ROOT/p.jsp", "<% %>\n", 1),
    ("ldso-conf", "T1574.006", "/etc/ld-musl-x86_64.path", "/tmp/p\n", 1),
    ("git", "T1546", "/srv/bare.git/hooks/post-receive", "#!/bin/sh\n/opt/p\n", 2),
    ("git", "T1546", "/srv/w/.git/modules/sub/hooks/post-merge", "#!/bin/sh\n/opt/p\n", 2),
    ("git", "T1546", "/srv/bare.git/config", "[core]\n hooksPath = h\n", 2),
    ("git", "T1546", "/srv/bare.git/h/pre-receive", "#!/bin/sh\n/opt/p\n", 2),
];

#[test]
fn every_place_is_known() {
    let host = Host::fresh();
    for repository in ["/srv/bare.git", "/srv/w/.git/modules/sub"] {
        host.write(&format!("{repository}/HEAD"), "ref: refs/heads/main\n", 0o644);
        host.write(&format!("{repository}/objects/x"), "", 0o644);
    }
    for (_, _, path, content, _) in PLANTS {
        host.write(path, content, 0o755);
    }

    let found = host.entries(json!({"local": true, "deep": true}));

    let missing: Vec<String> = PLANTS
        .iter()
        .filter(|(technique, attack, path, _, line)| {
            !found.iter().any(|entry| {
                entry["technique"] == *technique
                    && entry["attack"] == *attack
                    && entry["file"] == *path
                    && entry["line"] == *line
                    && entry.get("inactive").is_none()
            })
        })
        .map(|(technique, _, path, _, _)| {
            let near: Vec<&Value> = found.iter().filter(|entry| entry["file"] == *path).collect();
            format!("{technique} {path}, but {near:?}")
        })
        .collect();
    assert!(missing.is_empty(), "{}", missing.join("\n"));
}

#[test]
fn what_packages_and_their_tools_bring_to_these_places_is_explained() {
    let host = Host::fresh();
    let desktop = "[Desktop Entry]\nExec=tty --x %U\n";
    host.write("/etc/xdg/autostart/x.desktop", desktop, 0o644);
    host.own("coreutils", "/etc/xdg/autostart/x.desktop");
    host.write("/usr/share/binfmts/x", "package x\ninterpreter /usr/bin/true\nmagic a\n", 0o644);
    host.own("coreutils", "/usr/share/binfmts/x");
    host.write("/var/lib/binfmts/x", "x\nmagic\n0\na\n\n/usr/bin/true\n\nno\n", 0o644);
    let unit = "[Unit]\nSourcePath=/etc/xdg/autostart/x.desktop\n[Service]\nExecStart=:/usr/bin/tty --x\n";
    host.write("/run/user/1000/systemd/generator.late/app-x@autostart.service", unit, 0o644);
    host.write("/run/user/1000/systemd/transient/app-y.scope", "[Scope]\n", 0o644);
    let planted = unit.replace("--x", "--evil");
    host.write("/run/user/1000/systemd/generator.late/app-z@autostart.service", &planted, 0o644);

    let found = host.entries(json!({"local": true}));

    let files: Vec<&str> = found.iter().filter_map(|entry| entry["file"].as_str()).collect();
    assert_eq!(files, ["/run/user/1000/systemd/generator.late/app-z@autostart.service"], "{found:#?}");
}

#[test]
fn what_a_unit_says_of_its_generator_explains_only_what_that_runs() {
    let host = Host::fresh();
    for program in
        ["/usr/lib/systemd/system-generators/systemd-sysv-generator", "/usr/lib/systemd/systemd-fsck"]
    {
        host.write(program, "\u{7f}ELF", 0o755);
        host.own("systemd", program);
    }
    let unit = |service: &str| {
        format!("# Automatically generated by systemd-sysv-generator\n[Service]\n{service}\n")
    };
    for (name, service) in [
        ("own", "ExecStart=/usr/lib/systemd/systemd-fsck /dev/x"),
        ("script", "ExecStart=/etc/init.d/cron start"),
        ("stranger", "ExecStart=/opt/p"),
        ("shell", "ExecStart=/usr/bin/tty -c /opt/p"),
        ("hidden", "ExecStart=/etc/init.d/cron start \\\\\nExecStop=/opt/p"),
        ("loader", "Environment=LD_PRELOAD=/opt/p.so\nExecStart=/etc/init.d/cron start"),
    ] {
        host.write(&format!("/run/systemd/generator.late/{name}.service"), &unit(service), 0o644);
    }

    let found = host.entries(json!({"local": true, "kind": ["systemd"]}));

    let names = found.iter().filter_map(|entry| entry["file"].as_str()?.rsplit('/').next());
    let names: std::collections::BTreeSet<&str> = names.collect();
    assert_eq!(
        names.into_iter().collect::<Vec<_>>(),
        ["hidden.service", "loader.service", "shell.service", "stranger.service"]
    );
}
