//! Plants in places of which several belong to one technique.

use serde_json::{Value, json};

use crate::host::Host;

/// Technique, ATT&CK number, file, content, line.
const PLANTS: &[(&str, &str, &str, &str, u64)] = &[
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
