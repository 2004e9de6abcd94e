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
    /// The technique of MITRE ATT&CK that a change here may belong to.
    technique: Option<&'static str>,
    /// Whether only metadata are compared: big files that nothing runs by itself.
    metadata_only: bool,
    paths: &'static [&'static str],
    exclude: &'static [&'static str],
}

/// MIG's `fswatch_profile_linux.go`.
const MINIMAL: &[Group] = &[Group {
    name: "minimal",
    severity: None,
    technique: None,
    metadata_only: false,
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
        technique: Some("T1554"),
        metadata_only: false,
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
        technique: Some("T1574.006"),
        metadata_only: false,
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
        technique: Some("T1542"),
        metadata_only: false,
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
        technique: Some("T1547.006"),
        metadata_only: false,
        paths: &["recursive:/usr/lib/modules", "recursive:/lib/modules"],
        // Made anew by depmod from the modules, which are watched themselves.
        exclude: &["modules.*"],
    },
    Group {
        name: "configuration",
        severity: None,
        technique: None,
        metadata_only: false,
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
            "/etc/{npasswd,nshadow}",
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
        technique: None,
        metadata_only: false,
        paths: &["/etc/resolv.conf", "/etc/ld.so.cache", "/etc/machine-id", "/etc/ssl/certs/java"],
        exclude: &[],
    },
    Group {
        name: "who may log in",
        severity: Some("critical"),
        technique: Some("T1556"),
        metadata_only: false,
        paths: &[
            "/etc/{passwd,shadow,group,gshadow}",
            "/etc/nsswitch.conf",
            "recursive:/usr/lib/pam.d",
            "recursive:/usr/lib/security",
            "recursive:/lib/security",
            "recursive:/usr/lib64/security",
            "recursive:/lib64/security",
            "recursive:/usr/lib/*-linux-{gnu,gnu*,musl*}/security",
            "recursive:/lib/*-linux-{gnu,gnu*,musl*}/security",
        ],
        exclude: EDITORS,
    },
    Group {
        name: "who may become root",
        severity: Some("critical"),
        technique: Some("T1548.003"),
        metadata_only: false,
        paths: &[
            "/etc/sudoers",
            "recursive:/etc/sudoers.d",
            "/etc/sudo.conf",
            "/etc/doas.conf",
            "recursive:/etc/doas.d",
        ],
        exclude: EDITORS,
    },
    Group {
        name: "keys that let in",
        severity: Some("critical"),
        technique: Some("T1098.004"),
        metadata_only: false,
        paths: &[
            "recursive:/etc/ssh",
            "/{root,home/*}/.ssh/{authorized_keys*,rc}",
            // Service accounts live there.
            "/{var/lib/*,var/www,var/spool/*,srv,srv/*,opt/*}/.ssh/{authorized_keys*,rc}",
            "/{root,home/*}/.{rhosts,shosts}",
        ],
        exclude: EDITORS,
    },
    Group {
        // What useradd and its like leave is the file as it was before; only who looks for old passwords misses it.
        name: "copies of what says who may log in",
        severity: Some("low"),
        technique: None,
        metadata_only: false,
        paths: &["/etc/{passwd,shadow,group,gshadow,subuid,subgid}-"],
        exclude: &[],
    },
    Group {
        name: "ids of user namespaces",
        severity: Some("medium"),
        technique: None,
        metadata_only: false,
        paths: &["/etc/{subuid,subgid}"],
        exclude: &[],
    },
    Group {
        name: "plug-ins of libraries",
        severity: Some("critical"),
        technique: Some("T1574.006"),
        metadata_only: false,
        paths: &[
            "recursive:/{usr/lib,lib}/*-linux-{gnu,gnu*,musl*}/{gconv,engines-*,ossl-modules,sasl2,krb5}",
            "recursive:/{usr/lib64,lib64,usr/lib}/{gconv,engines-*,ossl-modules,sasl2,krb5}",
            "recursive:/{usr/lib,usr/lib64}/{nginx/modules,cups/backend,cups/filter,apache2/modules,httpd/modules}",
        ],
        exclude: &[],
    },
    Group {
        // Compiled files are made by whoever imports a module first, from the sources that are watched.
        name: "what interpreters load",
        severity: Some("high"),
        technique: Some("T1546.018"),
        metadata_only: false,
        paths: &[
            "/usr/{lib,lib64,local/lib,local/lib64}/python3*",
            "/usr/{lib,lib64,local/lib,local/lib64}/python3*/{dist-packages,site-packages}",
            "recursive:/usr/{lib,lib64}/python3*/{dist-packages,site-packages}/dnf-plugins",
            "/{root,home/*}/.pythonstartup",
            "/{root,home/*}/.local/lib/python3*/site-packages",
        ],
        exclude: &["__pycache__", "*.pyc"],
    },
    Group {
        name: "scripts of packages",
        severity: Some("critical"),
        technique: Some("T1546.016"),
        metadata_only: false,
        paths: &["/var/lib/dpkg/info/*.{preinst,postinst,prerm,postrm,config}"],
        exclude: &[],
    },
    Group {
        name: "programs of git",
        severity: Some("high"),
        technique: Some("T1546"),
        metadata_only: false,
        paths: &[
            "recursive:/usr/{lib,libexec}/git-core",
            "recursive:/usr/share/git-core/templates",
            "/etc/gitconfig",
            "/{root,home/*}/.gitconfig",
            "/{root,home/*}/.config/git/config",
        ],
        exclude: EDITORS,
    },
    Group {
        name: "devices that appear",
        severity: Some("high"),
        technique: Some("T1546.017"),
        metadata_only: false,
        paths: &["recursive:/{usr/lib,lib,run,usr/local/lib,etc}/udev/rules.d"],
        exclude: EDITORS,
    },
    Group {
        // Not /run/systemd/transient and its like, which change with each login.
        name: "units made at run time",
        severity: Some("high"),
        technique: Some("T1543.002"),
        metadata_only: false,
        paths: &[
            "recursive:/run/systemd/{system,user,system.control,user.control,system-generators,user-generators}",
            "recursive:/run/systemd/{generator,generator.early,generator.late,system.attached}",
            "recursive:/usr/lib/pm-utils",
        ],
        exclude: &[],
    },
    Group {
        name: "files and users made at boot",
        severity: Some("high"),
        technique: Some("T1543"),
        metadata_only: false,
        paths: &["recursive:/{usr/lib,run,usr/local/lib,etc}/{tmpfiles.d,sysusers.d}"],
        exclude: EDITORS,
    },
    Group {
        name: "modules that are loaded",
        severity: Some("high"),
        technique: Some("T1547.006"),
        metadata_only: false,
        paths: &[
            "recursive:/{usr/lib,lib,run,etc}/{modprobe.d,modules-load.d}",
            "/usr/src/*/dkms.conf",
            "recursive:/etc/dkms",
        ],
        exclude: EDITORS,
    },
    Group {
        name: "settings of the kernel",
        severity: Some("medium"),
        technique: Some("T1562.001"),
        metadata_only: false,
        paths: &["recursive:/{usr/lib,run,usr/local/lib,etc}/{sysctl.d,binfmt.d}", "/etc/sysctl.conf"],
        exclude: EDITORS,
    },
    Group {
        name: "firmware",
        severity: Some("medium"),
        technique: Some("T1542"),
        metadata_only: true,
        paths: &["recursive:/{usr/lib,lib}/firmware"],
        exclude: &[],
    },
    Group {
        name: "what shells load",
        severity: Some("high"),
        technique: Some("T1546.004"),
        metadata_only: false,
        paths: &[
            "/usr/share/bash-completion/completions",
            "/usr/share/zsh/{vendor-completions,site-functions}",
            "/usr/share/fish/{vendor_completions.d,vendor_conf.d}",
            "recursive:/usr/share/vim/{vim*/plugin,vimfiles}",
            "recursive:/etc/{vim,bash_completion.d}",
            "recursive:/{usr/lib,run,etc}/environment.d",
        ],
        exclude: &[],
    },
    Group {
        name: "containers",
        severity: Some("high"),
        technique: Some("T1610"),
        metadata_only: false,
        paths: &[
            "recursive:/etc/{docker,containerd,crio,containers,cni,kubernetes}",
            "/var/lib/kubelet/config.yaml",
            "recursive:/opt/cni/bin",
        ],
        exclude: EDITORS,
    },
    Group {
        name: "whom the host trusts",
        severity: Some("high"),
        technique: Some("T1553.004"),
        metadata_only: false,
        paths: &[
            "recursive:/usr/local/share/ca-certificates",
            "/etc/ca-certificates.conf",
            "/etc/ssl/openssl.cnf",
        ],
        exclude: EDITORS,
    },
    Group {
        name: "when jobs ran last",
        severity: Some("low"),
        technique: Some("T1053.003"),
        metadata_only: false,
        paths: &["/var/spool/anacron"],
        exclude: &[],
    },
    Group {
        name: "what every program loads",
        severity: Some("critical"),
        technique: Some("T1574.006"),
        metadata_only: false,
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
        technique: Some("T1543.002"),
        metadata_only: false,
        paths: &[
            "recursive:/etc/systemd",
            "recursive:/usr/lib/systemd",
            "recursive:/lib/systemd",
            "recursive:/usr/local/lib/systemd",
            "recursive:/etc/{init.d,rc.d,rc*.d,runlevels,local.d,conf.d,init}",
            "/etc/{rc.local,inittab,rc.conf}",
            "/etc/modules",
            "recursive:/etc/profile.d",
            "/etc/{profile,bash.bashrc,bashrc,zshenv,environment,csh.cshrc,csh.login}",
            "recursive:/etc/zsh",
        ],
        exclude: &[
            ".*.sw[a-p]",
            "4913",
            ".#*",
            "*~",
            "*.{dpkg-new,dpkg-tmp}",
            "*.apk-new.*",
            ".apk.*",
            "/etc/network/run",
        ],
    },
    Group {
        name: "where packages come from",
        severity: Some("high"),
        technique: Some("T1546.016"),
        metadata_only: false,
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
        name: "before the system starts",
        severity: Some("high"),
        technique: Some("T1542"),
        metadata_only: false,
        paths: &[
            "/etc/default/grub",
            "recursive:/etc/{grub.d,kernel,initramfs-tools,dracut.conf.d,mkinitfs}",
            "recursive:/{usr/lib,lib}/dracut",
        ],
        exclude: EDITORS,
    },
    Group {
        name: "modules of PAM",
        severity: Some("critical"),
        technique: Some("T1556.003"),
        metadata_only: false,
        paths: &["recursive:/etc/pam.d", "/etc/pam.conf", "recursive:/etc/security"],
        exclude: EDITORS,
    },
    Group {
        name: "modules of Perl",
        severity: Some("high"),
        technique: Some("T1574"),
        metadata_only: false,
        paths: &[
            "recursive:/usr/lib/*-linux-{gnu,gnu*,musl*}/perl-base",
            "/usr/share/perl5",
            "/usr/local/lib/site_perl",
            "recursive:/etc/perl",
        ],
        exclude: &[],
    },
    Group {
        name: "what packages recorded",
        severity: Some("high"),
        technique: Some("T1565.001"),
        metadata_only: false,
        paths: &[
            "/var/lib/dpkg/{status,diversions,statoverride}",
            "/var/lib/dpkg/info",
            "/var/lib/dpkg/alternatives",
        ],
        exclude: &[],
    },
    Group {
        name: "scripts of the network and of logins",
        severity: Some("high"),
        technique: Some("T1037"),
        metadata_only: false,
        paths: &[
            "recursive:/etc/{update-motd.d,NetworkManager/dispatcher.d,dhcp,network,ppp}",
            "recursive:/usr/lib/NetworkManager/dispatcher.d",
            "recursive:/etc/acpi",
        ],
        exclude: &[".*.sw[a-p]", "4913", ".#*", "*~", "*.{dpkg-new,dpkg-tmp}", "/etc/network/run"],
    },
    Group {
        name: "rights that are asked for",
        severity: Some("high"),
        technique: Some("T1548"),
        metadata_only: false,
        paths: &[
            "recursive:/{etc,usr/share,var/lib}/polkit-1",
            "recursive:/{etc,usr/share}/dbus-1/system.d",
            "recursive:/usr/share/dbus-1/system-services",
        ],
        exclude: EDITORS,
    },
    Group {
        name: "sessions",
        severity: Some("high"),
        technique: Some("T1547.013"),
        metadata_only: false,
        paths: &[
            "recursive:/etc/xdg/autostart",
            "/usr/share/{xsessions,wayland-sessions}",
            "recursive:/{root,home/*}/.config/autostart",
        ],
        exclude: EDITORS,
    },
    Group {
        name: "units of users",
        severity: Some("high"),
        technique: Some("T1543.002"),
        metadata_only: false,
        paths: &["recursive:/{root,home/*}/.config/systemd/user"],
        exclude: EDITORS,
    },
    Group {
        name: "programs of package managers",
        severity: Some("high"),
        technique: Some("T1546.016"),
        metadata_only: false,
        paths: &["recursive:/usr/lib/{apt,dpkg,rpm}", "recursive:/usr/lib/yum-plugins"],
        exclude: &[],
    },
    Group {
        name: "what is logged",
        severity: Some("high"),
        technique: Some("T1562.006"),
        metadata_only: false,
        paths: &["recursive:/etc/{audit,rsyslog.d}", "/etc/rsyslog.conf"],
        exclude: EDITORS,
    },
    Group {
        // at counts its jobs in .SEQ.
        name: "jobs",
        severity: Some("high"),
        technique: Some("T1053.003"),
        metadata_only: false,
        paths: &[
            "recursive:/etc/cron.{d,hourly,daily,weekly,monthly,yearly}",
            "/etc/{crontab,anacrontab,at.allow,at.deny,cron.allow,cron.deny}",
            "recursive:/etc/{periodic,crontabs}",
            "recursive:/var/spool/cron",
            "recursive:/var/spool/at",
        ],
        exclude: &[
            ".*.sw[a-p]",
            "4913",
            ".#*",
            "*~",
            "*.{dpkg-new,dpkg-tmp}",
            ".SEQ",
            "/var/spool/cron/lastrun",
        ],
    },
    Group {
        name: "shells of users",
        severity: Some("high"),
        technique: Some("T1546.004"),
        metadata_only: false,
        paths: &[
            "/{root,home/*}/.{profile,bashrc,bash_profile,bash_login,bash_logout,bash_aliases}",
            "/{root,home/*}/.{zshenv,zprofile,zshrc,zlogin,zlogout,kshrc,mkshrc,ashrc,cshrc,tcshrc,login,logout}",
            "/{root,home/*}/.{xinitrc,xprofile,xsession,xsessionrc,pam_environment,forward}",
            "/{root,home/*}/.{vimrc,inputrc,tmux.conf,selected_editor,screenrc,mailcap}",
            "/{var/lib/*,var/www,srv/*,opt/*}/.{profile,bashrc,bash_profile,bash_login,zshenv,forward}",
            "/{root,home/*}/.config/fish/config.fish",
            "recursive:/{root,home/*}/.config/fish/conf.d",
            "recursive:/{root,home/*}/.config/environment.d",
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
            tags: group.technique.map(|technique| vec![technique.to_owned()]),
            hash: group.metadata_only.then_some(false),
            ..PathGroup::default()
        };
        groups.iter().map(group).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde_json::json;

    use crate::config::Config;
    use crate::rules::{Coverage, Rules};

    /// What attackers use to stay, with the severity that a change there has at least, and its technique.
    const USED: &str = include_str!("profile_paths.txt");

    #[test]
    fn the_default_profile_covers_what_attackers_use() {
        let config: Config = serde_json::from_value(json!({})).unwrap();
        let coverage = Coverage::new(&Rules::compile(&config).unwrap(), &|path| Some(path.to_owned()));
        let mut missing = Vec::new();
        for line in USED.lines().filter(|line| !line.starts_with('#')) {
            let [severity, technique, path] = *line.split_whitespace().collect::<Vec<_>>() else {
                panic!("{line}");
            };
            match coverage.options(Path::new(path)) {
                None => missing.push(format!("{path} is not watched")),
                Some(options) => {
                    // Without one, content is critical and what is new medium.
                    let told = options.severity.map_or("-", |severity| severity.name());
                    if told != severity {
                        missing.push(format!("{path} is {told}, not {severity}"));
                    }
                    let has = technique == "-" || options.tags.iter().any(|tag| tag == technique);
                    if !has {
                        missing.push(format!("{path} is {:?}, not {technique}", options.tags));
                    }
                }
            }
        }
        assert_eq!(missing, [""; 0]);
    }
}
