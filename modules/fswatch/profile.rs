//! What is watched when nobody says: lists for Debian, Ubuntu, Fedora, RHEL and Alpine in one.
//!
//! A list names what an intruder changes to stay: programs and libraries, the boot loader, kernel modules, who may
//! log in and become root, what is started by itself. What a distribution does not have is waited for. What changes by
//! itself is left out by name, so that an alert is worth reading. Where two entries meet, the nearer one
//! counts, see [`crate::rules`].

use crate::config::PathGroup;

/// A built-in list of paths.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Profile {
    /// All that is below.
    #[default]
    Default,
    /// The list of Mozilla's MIG.
    Minimal,
    /// Nothing.
    None,
}

/// Some paths of a list that are watched alike.
struct Group {
    name: &'static str,
    severity: Option<&'static str>,
    paths: &'static [&'static str],
    exclude: &'static [&'static str],
}

/// MIG's `fswatch_profile_linux.go`.
const MINIMAL: &[Group] = &[Group {
    name: "minimal",
    severity: None,
    paths: &[
        "/boot",
        "/etc/cron.d",
        "/var/spool/cron",
        "/bin",
        "/sbin",
        "/usr/bin",
        "/usr/sbin",
        "/etc",
        "/etc/init.d",
        "/etc/systemd/system",
    ],
    exclude: &[],
}];

/// What editors leave for a moment beside the files they write. Every name that is left out is a place to hide, so
/// nothing is left out among programs and libraries, and nowhere more than a name that nothing reads by itself.
const EDITORS: &[&str] =
    &[".*.sw[a-p]", "4913", ".#*", "*~", "*.{dpkg-new,dpkg-tmp}", "*.apk-new.*", ".apk.*"];

const DEFAULT: &[Group] = &[
    Group {
        name: "programs",
        severity: None,
        paths: &[
            "recursive:/usr/bin",
            "recursive:/usr/sbin",
            "recursive:/bin",
            "recursive:/sbin",
            "recursive:/usr/libexec",
            "recursive:/usr/local/bin",
            "recursive:/usr/local/sbin",
            "recursive:/usr/local/libexec",
            "recursive:/usr/local/etc",
            "recursive:/opt/*/{bin,sbin}",
            "recursive:/snap/bin",
        ],
        exclude: &[],
    },
    Group {
        // The directories where the loader looks, and the plug-ins of what runs as root; not all of /usr/lib.
        name: "libraries",
        severity: None,
        paths: &[
            "/usr/lib",
            "/lib",
            "/usr/lib64",
            "/lib64",
            "/usr/lib32",
            "/lib32",
            "/usr/lib/*-linux-{gnu,gnu*,musl*}",
            "/lib/*-linux-{gnu,gnu*,musl*}",
            "/usr/local/lib",
            "/usr/local/lib64",
            "/usr/local/lib/*-linux-{gnu,gnu*,musl*}",
            "recursive:/usr/lib/{apt,dpkg,dbus-1.0,initramfs-tools,NetworkManager,openssh,polkit-1,sudo,rpm}",
            "recursive:/usr/share/{polkit-1,dbus-1/system-services,dbus-1/system.d,initramfs-tools,keyrings}",
        ],
        exclude: &[],
    },
    Group {
        name: "boot",
        severity: Some("high"),
        paths: &["recursive:/boot", "recursive:/efi"],
        exclude: &[
            "grubenv",
            "/boot/loader/random-seed",
            "/boot/efi/loader/random-seed",
            "/efi/loader/random-seed",
        ],
    },
    Group {
        name: "kernel modules",
        severity: Some("high"),
        paths: &["recursive:/usr/lib/modules", "recursive:/lib/modules"],
        // Made anew by depmod from the modules, which are watched themselves.
        exclude: &["modules.*"],
    },
    Group {
        name: "configuration",
        severity: None,
        paths: &["recursive:/etc"],
        exclude: &[
            ".*.sw[a-p]",
            "4913",
            ".#*",
            "*~",
            "*.{dpkg-new,dpkg-tmp}",
            "*.apk-new.*",
            ".apk.*",
            "/etc/.git",
            "/etc/.pwd.lock",
            "/etc/{passwd,shadow,group,gshadow,subuid,subgid}{.lock,+,.[0-9]*}",
            "/etc/mtab",
            "/etc/adjtime",
            "/etc/.updated",
            "/etc/fake-hwclock.data",
            "/etc/blkid*",
            "/etc/cups/{subscriptions,printers,classes}.conf*",
            "/etc/cups/ppd",
            "/etc/lvm/{archive,backup,cache}",
            "/etc/apparmor.d/cache*",
            "/etc/selinux/*/{active,contexts/files/*.bin}",
            "/etc/udev/hwdb.bin",
            "/etc/samba/*.tdb",
            "/etc/openvpn/*.status",
            "/etc/pki/nssdb",
            "/etc/prelink.cache",
            "/etc/network/run",
            "/etc/aliases.db",
            "/etc/postfix/*.db",
        ],
    },
    Group {
        // Changed by the machine itself every day or by the network it is in; worth keeping, not worth a look.
        name: "configuration that changes by itself",
        severity: Some("low"),
        paths: &["/etc/resolv.conf", "/etc/ld.so.cache", "/etc/machine-id", "/etc/ssl/certs/java"],
        exclude: &[],
    },
    Group {
        name: "who may log in",
        severity: Some("critical"),
        paths: &[
            "/etc/{passwd,shadow,gshadow,subuid,subgid}",
            "/etc/sudoers",
            "recursive:/etc/sudoers.d",
            "/etc/sudo.conf",
            "/etc/doas.conf",
            "recursive:/etc/doas.d",
            "recursive:/etc/pam.d",
            "/etc/pam.conf",
            "recursive:/etc/security",
            "/etc/nsswitch.conf",
            "recursive:/usr/lib/pam.d",
            "recursive:/usr/lib/security",
            "recursive:/lib/security",
            "recursive:/usr/lib64/security",
            "recursive:/lib64/security",
            "recursive:/usr/lib/*-linux-{gnu,gnu*,musl*}/security",
            "recursive:/lib/*-linux-{gnu,gnu*,musl*}/security",
            "recursive:/etc/ssh",
            "/root/.ssh/authorized_keys*",
            "/home/*/.ssh/authorized_keys*",
            "/{root,home/*}/.{rhosts,shosts}",
        ],
        exclude: EDITORS,
    },
    Group {
        name: "what every program loads",
        severity: Some("critical"),
        paths: &[
            "/etc/ld.so.preload",
            "/etc/ld.so.conf",
            "/etc/ld-musl-*.path",
            "recursive:/etc/ld.so.conf.d",
        ],
        exclude: &[],
    },
    Group {
        name: "started by itself",
        severity: Some("high"),
        paths: &[
            "recursive:/etc/systemd",
            "recursive:/usr/lib/systemd",
            "recursive:/lib/systemd",
            "recursive:/usr/local/lib/systemd",
            "recursive:/etc/{init.d,rc.d,rc*.d,runlevels,local.d,conf.d,init}",
            "/etc/{rc.local,inittab,rc.conf}",
            "/etc/{crontab,anacrontab,at.allow,at.deny,cron.allow,cron.deny}",
            "recursive:/etc/cron.{d,hourly,daily,weekly,monthly,yearly}",
            "recursive:/etc/{periodic,crontabs}",
            "recursive:/var/spool/cron",
            "recursive:/var/spool/at",
            "recursive:/etc/{udev/rules.d,modprobe.d,modules-load.d,modules,initramfs-tools,dracut.conf.d,mkinitfs}",
            "recursive:/etc/{profile.d,update-motd.d,xdg/autostart,NetworkManager/dispatcher.d,dhcp,network,ppp}",
            "/etc/{profile,bash.bashrc,bashrc,zshenv,environment,csh.cshrc,csh.login}",
            "recursive:/etc/zsh",
            "recursive:/etc/polkit-1",
        ],
        // at counts its jobs in .SEQ.
        exclude: &[
            ".*.sw[a-p]",
            "4913",
            ".#*",
            "*~",
            "*.{dpkg-new,dpkg-tmp}",
            "*.apk-new.*",
            ".apk.*",
            ".SEQ",
            "/etc/network/run",
            "/var/spool/cron/lastrun",
        ],
    },
    Group {
        name: "where packages come from",
        severity: Some("high"),
        paths: &[
            "recursive:/etc/apt",
            "recursive:/etc/dpkg",
            "recursive:/etc/{yum,yum.repos.d,dnf,rpm,pki/rpm-gpg}",
            "/etc/yum.conf",
            "recursive:/etc/apk",
        ],
        exclude: &[".*.sw[a-p]", "4913", ".#*", "*~", "*.{dpkg-new,dpkg-tmp}", "/etc/apk/cache"],
    },
    Group {
        name: "shells of users",
        severity: Some("high"),
        paths: &[
            "/{root,home/*}/.{profile,bashrc,bash_profile,bash_login,bash_logout,bash_aliases}",
            "/{root,home/*}/.{zshenv,zprofile,zshrc,zlogin,zlogout,kshrc,mkshrc,ashrc,cshrc,tcshrc,login,logout}",
            "/{root,home/*}/.{xinitrc,xprofile,xsession,xsessionrc,pam_environment,forward}",
            "/{root,home/*}/.config/fish/config.fish",
            "recursive:/{root,home/*}/.config/fish/conf.d",
            "recursive:/{root,home/*}/.config/{autostart,systemd/user,environment.d}",
            "recursive:/{root,home/*}/.ssh",
        ],
        // ssh writes known_hosts at the first connection to a host, and keeps its sockets there.
        exclude: &["known_hosts*", ".*.sw[a-p]", "4913", ".#*", "*~", "/{root,home/*}/.ssh/agent", "cm-*"],
    },
];

impl Profile {
    /// The list as if it were configured; the groups' names begin with that of the profile.
    #[must_use]
    pub fn groups(self) -> Vec<PathGroup> {
        let (name, groups) = match self {
            Self::Default => ("default", DEFAULT),
            Self::Minimal => ("minimal", MINIMAL),
            Self::None => ("none", [].as_slice()),
        };
        let owned = |texts: &[&str]| Some(texts.iter().map(|text| (*text).to_owned()).collect());
        let group = |group: &Group| PathGroup {
            name: Some(format!("profile {name}: {}", group.name)),
            path: owned(group.paths),
            exclude: owned(group.exclude),
            severity: group.severity.map(str::to_owned),
            ..PathGroup::default()
        };
        groups.iter().map(group).collect()
    }
}
