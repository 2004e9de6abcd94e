//! The catalogue: which techniques are known, where each has its files, and how those are read.

use crate::format::Format;

/// A way to be started without anybody asking.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Technique {
    /// Its name here.
    pub(crate) id: &'static str,
    /// The technique's number in MITRE ATT&CK.
    pub(crate) attack: &'static str,
    /// The family that it is shown under.
    pub(crate) kind: &'static str,
    /// What makes it run.
    pub(crate) when: &'static str,
}

/// Files of a technique.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rule {
    pub(crate) technique: &'static str,
    /// Patterns; `~` is the home of every account.
    pub(crate) paths: &'static [&'static str],
    pub(crate) format: Format,
    /// There are many of these on every host: only those that nothing explains are reported.
    pub(crate) strangers_only: bool,
}

/// The technique with this name.
pub(crate) fn technique(id: &str) -> &'static Technique {
    TECHNIQUES.iter().find(|technique| technique.id == id).expect("the catalogue is tested to know its names")
}

/// The families, for the check of parameters.
pub(crate) const KINDS: [&str; 24] = [
    "account",
    "at",
    "boot",
    "certificate",
    "container",
    "cron",
    "desktop",
    "init",
    "kernel",
    "live",
    "loader",
    "login",
    "mail",
    "network",
    "packages",
    "pam",
    "privilege",
    "program",
    "shell",
    "ssh",
    "systemd",
    "tool",
    "udev",
    "web",
];

const fn t(id: &'static str, attack: &'static str, kind: &'static str, when: &'static str) -> Technique {
    Technique { id, attack, kind, when }
}

pub(crate) const TECHNIQUES: &[Technique] = &[
    t("sd-unit-etc", "T1543.002", "systemd", "boot"),
    t("sd-unit-vendor", "T1543.002", "systemd", "boot"),
    t("sd-unit-local", "T1543.002", "systemd", "boot"),
    t("sd-unit-run", "T1543.002", "systemd", "until reboot"),
    t("sd-control", "T1543.002", "systemd", "boot"),
    t("sd-dropin", "T1543.002", "systemd", "boot"),
    t("sd-dropin-type", "T1543.002", "systemd", "boot"),
    t("sd-override", "T1543.002", "systemd", "boot"),
    t("sd-wants", "T1543.002", "systemd", "boot"),
    t("sd-alias", "T1543.002", "systemd", "boot, bus"),
    t("sd-mask", "T1562.001", "systemd", "boot"),
    t("sd-timer", "T1053.006", "systemd", "schedule"),
    t("sd-path", "T1543.002", "systemd", "file change"),
    t("sd-socket", "T1543.002", "systemd", "connection"),
    t("sd-onfailure", "T1543.002", "systemd", "event"),
    t("sd-envfile", "T1574.006", "systemd", "boot"),
    t("sd-generator", "T1543.002", "systemd", "boot, daemon-reload"),
    t("sd-generator-user", "T1543.002", "systemd", "login"),
    t("sd-envgen", "T1574.006", "systemd", "boot, login"),
    t("sd-managerenv", "T1574.006", "systemd", "boot"),
    t("sd-user-unit", "T1543.002", "systemd", "login"),
    t("sd-user-global", "T1543.002", "systemd", "login"),
    t("sd-linger", "T1543.002", "systemd", "boot"),
    t("sd-sleep", "T1546", "systemd", "sleep, shutdown"),
    t("sd-tmpfiles", "T1546", "systemd", "boot, daily"),
    t("sd-sysusers", "T1136.001", "systemd", "boot, package"),
    t("sd-extension", "T1542", "systemd", "boot"),
    t("sd-nspawn", "T1610", "container", "boot"),
    t("sd-quadlet", "T1610", "container", "boot, login"),
    t("sd-dbus", "T1543.002", "systemd", "bus call"),
    t("fstab", "T1547", "boot", "boot"),
    t("cron-system", "T1053.003", "cron", "schedule"),
    t("cron-d", "T1053.003", "cron", "schedule"),
    t("cron-user", "T1053.003", "cron", "schedule"),
    t("cron-periodic", "T1053.003", "cron", "schedule"),
    t("anacron", "T1053.003", "cron", "schedule"),
    t("at-job", "T1053.002", "at", "once"),
    t("incron", "T1546", "cron", "file change"),
    t("rc-local", "T1037.004", "init", "boot"),
    t("initd", "T1037.004", "init", "boot"),
    t("inittab", "T1037", "init", "boot, respawn"),
    t("openrc", "T1037", "init", "boot"),
    t("etc-default", "T1037", "init", "boot"),
    t("supervise", "T1543", "init", "boot"),
    t("inetd", "T1543", "network", "connection"),
    t("initramfs-hook", "T1542", "boot", "image build, boot"),
    t("initramfs-image", "T1542", "boot", "boot"),
    t("dracut", "T1542", "boot", "image build"),
    t("grub", "T1542", "boot", "boot"),
    t("kernel-hooks", "T1546", "boot", "kernel package"),
    t("efi", "T1542.001", "boot", "boot"),
    t("modules-load", "T1547.006", "kernel", "boot"),
    t("modprobe-install", "T1547.006", "kernel", "module load"),
    t("lkm-file", "T1547.006", "kernel", "boot"),
    t("lkm-live", "T1014", "live", "live"),
    t("ldso-preload", "T1574.006", "loader", "every program"),
    t("ldso-conf", "T1574.006", "loader", "every program"),
    t("ldso-lib", "T1574", "loader", "every program"),
    t("env-file", "T1574.006", "login", "login"),
    t("nss-module", "T1556", "login", "every look-up"),
    t("openssl-conf", "T1574", "loader", "program start"),
    t("py-site", "T1546.018", "loader", "every python"),
    t("lang-env", "T1574", "loader", "program start"),
    t("pam-conf", "T1556.003", "pam", "login, su, sudo"),
    t("pam-module", "T1556.003", "pam", "login"),
    t("ssh-authkeys", "T1098.004", "ssh", "login"),
    t("ssh-authkeys-cmd", "T1098.004", "ssh", "login"),
    t("sshd-conf", "T1556", "ssh", "login"),
    t("ssh-rc", "T1546.004", "ssh", "login"),
    t("ssh-client", "T1546", "ssh", "ssh use"),
    t("uid0", "T1136.001", "account", "login"),
    t("sysaccount", "T1078.003", "account", "login"),
    t("empty-pw", "T1098", "account", "login"),
    t("group-priv", "T1098.007", "account", "login"),
    t("subid", "T1098", "account", "container"),
    t("sudoers", "T1548.003", "privilege", "sudo"),
    t("sudo-plugin", "T1548.003", "privilege", "sudo"),
    t("polkit", "T1548", "privilege", "privileged call"),
    t("doas", "T1548", "privilege", "doas"),
    t("suid", "T1548.001", "privilege", "use"),
    t("filecaps", "T1548", "privilege", "use"),
    t("rhosts", "T1021", "login", "login"),
    t("hosts-allow", "T1546", "network", "connection"),
    t("ca-store", "T1553.004", "certificate", "TLS"),
    t("adduser-hook", "T1546", "account", "adduser"),
    t("profile", "T1546.004", "shell", "login shell"),
    t("bashrc", "T1546.004", "shell", "interactive shell"),
    t("user-rc", "T1546.004", "shell", "login, interactive"),
    t("user-bashprofile", "T1546.004", "shell", "login"),
    t("zsh", "T1546.004", "shell", "every zsh"),
    t("fish", "T1546.004", "shell", "every fish"),
    t("csh", "T1546.004", "shell", "shell start"),
    t("bash-env", "T1546.004", "shell", "every shell"),
    t("bash-compl", "T1546.004", "shell", "interactive"),
    t("path-shadow", "T1574.007", "program", "use"),
    t("binary-changed", "T1554", "program", "use"),
    t("motd", "T1546", "login", "login"),
    t("xdg-autostart", "T1547.013", "desktop", "desktop login"),
    t("xsession", "T1546", "desktop", "desktop login"),
    t("desktop-ext", "T1176", "desktop", "desktop"),
    t("editor", "T1546", "tool", "use"),
    t("git", "T1546", "tool", "git use"),
    t("mail", "T1546", "mail", "mail arrives"),
    t("apt-hook", "T1546.016", "packages", "apt use"),
    t("dpkg-hook", "T1546.016", "packages", "dpkg use"),
    t("dpkg-script", "T1546.016", "packages", "upgrade, remove"),
    t("diversion", "T1574", "packages", "use"),
    t("dnf-hook", "T1546.016", "packages", "dnf use"),
    t("rpm-hook", "T1546.016", "packages", "rpm use"),
    t("apk-hook", "T1546.016", "packages", "apk use"),
    t("pacman-hook", "T1546.016", "packages", "package use"),
    t("repo", "T1195.002", "packages", "upgrade"),
    t("logrotate", "T1546", "tool", "daily"),
    t("syslog", "T1546", "tool", "log line"),
    t("nm-dispatcher", "T1546", "network", "network change"),
    t("ifupdown", "T1546", "network", "network change"),
    t("acpi-usb", "T1546", "udev", "hardware event"),
    t("udev", "T1546.017", "udev", "device event, boot"),
    t("core-pattern", "T1546", "kernel", "crash, hotplug"),
    t("sysctl", "T1562", "kernel", "boot"),
    t("binfmt", "T1546", "kernel", "program start"),
    t("request-key", "T1546", "kernel", "key upcall"),
    t("bpf", "T1205.002", "live", "live"),
    t("netfilter", "T1205", "network", "boot"),
    t("overmount", "T1564", "live", "live"),
    t("docker", "T1610", "container", "boot"),
    t("k8s", "T1610", "container", "boot, container start"),
    t("cloud-init", "T1037", "boot", "boot"),
    t("monitoring", "T1546", "tool", "schedule"),
    t("webshell", "T1505.003", "web", "request"),
    t("webconf", "T1505", "web", "request"),
    t("database", "T1505.001", "web", "start"),
    t("needrestart", "T1546.016", "packages", "apt use"),
    t("lsm-off", "T1562.001", "kernel", "boot"),
    t("immutable", "T1222", "live", "-"),
    t("live-orphan", "T1543", "live", "live"),
];

const fn rule(technique: &'static str, paths: &'static [&'static str], format: Format) -> Rule {
    Rule { technique, paths, format, strangers_only: false }
}

const fn strangers(technique: &'static str, paths: &'static [&'static str], format: Format) -> Rule {
    Rule { technique, paths, format, strangers_only: true }
}

use Format::{
    Apt, At, AuthorizedKeys, Crontab, Environment, File, Fstab, Git, Grub, Has, Inetd, Inittab, Interfaces,
    Keys, Lines, Logrotate, Names, Nsswitch, Pam, Program, PythonPath, RunParts, Settings, Shells, Sources,
    Words,
};

/// Where each technique has its files, and how they are read.
pub(crate) const RULES: &[Rule] = &[
    // systemd beside its units
    rule("sd-generator", &["/{run,etc,usr/local/lib,usr/lib,lib}/systemd/system-generators/*"], Program),
    rule("sd-generator-user", &["/{run,etc,usr/local/lib,usr/lib,lib}/systemd/user-generators/*"], Program),
    rule(
        "sd-envgen",
        &["/{run,etc,usr/local/lib,usr/lib,lib}/systemd/{system,user}-environment-generators/*"],
        Program,
    ),
    rule(
        "sd-envgen",
        &["/{etc,run,usr/local/lib,usr/lib}/environment.d/*.conf", "~/.config/environment.d/*.conf"],
        Environment,
    ),
    rule(
        "sd-managerenv",
        &[
            "/etc/systemd/{system,user}.conf",
            "/{etc,run,usr/local/lib,usr/lib}/systemd/{system,user}.conf.d/*.conf",
        ],
        Keys(&["DefaultEnvironment", "ManagerEnvironment"]),
    ),
    rule("sd-mask", &["/{etc,run,usr/local/lib,usr/lib,lib}/systemd/{system,user}-preset/*.preset"], Lines),
    rule("sd-linger", &["/var/lib/systemd/linger/*"], File),
    rule("sd-sleep", &["/{etc,usr/lib,lib}/systemd/system-{sleep,shutdown}/*"], Program),
    rule(
        "sd-tmpfiles",
        &["/{etc,run,usr/local/lib,usr/lib}/tmpfiles.d/*.conf", "~/.config/user-tmpfiles.d/*.conf"],
        Lines,
    ),
    rule("sd-sysusers", &["/{etc,run,usr/local/lib,usr/lib}/sysusers.d/*.conf"], Lines),
    rule(
        "sd-extension",
        &[
            "/{etc,run,var/lib,usr/lib,usr/local/lib}/{extensions,confexts}/*",
            "/{etc,run,var/lib}/extensions.mutable/*",
            "/{etc,run,var/lib}/extensions/*/usr/lib/extension-release.d/*",
            "/{run,var/lib,usr/lib,usr/local/lib}/confexts/*/etc/extension-release.d/*",
        ],
        File,
    ),
    rule(
        "sd-nspawn",
        &["/{etc,run}/systemd/nspawn/*.nspawn", "/var/lib/machines/*", "/{var/lib,etc,run}/portables/*"],
        Keys(&["Boot", "Parameters"]),
    ),
    rule(
        "sd-quadlet",
        &["/{etc,run,usr/share}/containers/systemd/**", "~/.config/containers/systemd/**"],
        Keys(&["Exec", "Image", "Yaml", "ExecStart*", "ImageName"]),
    ),
    rule(
        "sd-dbus",
        &[
            "/{usr/share,usr/local/share,etc,run}/dbus-1/{system-services,services}/*.service",
            "~/.local/share/dbus-1/services/*.service",
        ],
        Keys(&["Exec"]),
    ),
    rule("fstab", &["/etc/fstab", "/etc/fstab.d/*"], Fstab),
    rule("fstab", &["/etc/auto.*", "/etc/auto.master.d/*"], Lines),
    rule("fstab", &["/{usr/,usr/local/,}{s,}bin/mount.*"], Program),
    // schedules
    rule("cron-system", &["/etc/crontab"], Crontab { user: true }),
    rule("cron-d", &["/etc/cron.d/*"], Crontab { user: true }),
    rule(
        "cron-user",
        &[
            "/var/spool/cron/crontabs/*",
            "/var/spool/cron/*",
            "/etc/crontabs/*",
            "/var/spool/fcron/*",
            "/var/cron/tabs/*",
        ],
        Crontab { user: false },
    ),
    rule(
        "cron-periodic",
        &[
            "/etc/cron.{hourly,daily,weekly,monthly,yearly}/*",
            "/etc/periodic/{15min,hourly,daily,weekly,monthly}/*",
        ],
        RunParts,
    ),
    rule("anacron", &["/etc/anacrontab", "~/.anacrontab", "~/.anacron/etc/*"], Format::Anacron),
    rule("at-job", &["/var/spool/cron/atjobs/*", "/var/spool/at/*"], At),
    rule("incron", &["/var/spool/incron/*", "/etc/incron.d/*", "/etc/incron.conf"], Lines),
    // init
    rule("rc-local", &["/etc/rc.local", "/etc/rc.d/rc.local", "/etc/rc.local.d/*"], Program),
    rule("initd", &["/etc/init.d/*", "/etc/rc.d/init.d/*"], Program),
    rule("initd", &["/etc/rc?.d/*", "/etc/rc.d/rc?.d/*"], Program),
    rule("inittab", &["/etc/inittab"], Inittab),
    rule("openrc", &["/etc/runlevels/*/*", "/etc/local.d/*"], Program),
    rule("openrc", &["/etc/conf.d/*", "/etc/rc.conf", "/etc/rc.conf.d/*"], Settings),
    rule("etc-default", &["/etc/default/*", "/etc/sysconfig/*"], Settings),
    rule(
        "supervise",
        &[
            "/etc/service/*/{run,finish}",
            "/etc/sv/*/{run,finish}",
            "/etc/{s6,s6-overlay,s6-rc}/**",
            "/service/*/run",
        ],
        Program,
    ),
    rule(
        "supervise",
        &[
            "/etc/supervisor/conf.d/*",
            "/etc/supervisor/supervisord.conf",
            "/etc/supervisord.conf",
            "/etc/supervisord.d/*",
            "/etc/dinit.d/**",
        ],
        Keys(&["command", "stop-command", "exec"]),
    ),
    rule(
        "supervise",
        &["/etc/monit/conf.d/*", "/etc/monit/conf-enabled/*", "/etc/monit/monitrc", "/etc/monitrc"],
        Has(&["start program", "stop program", " exec ", "check program"]),
    ),
    rule("supervise", &["/etc/init/*.conf"], Words(&["exec", "script", "pre-start", "post-start"])),
    rule("supervise", &["~/.pm2/dump.pm2"], File),
    rule("inetd", &["/etc/inetd.conf", "/etc/inetd.d/*"], Inetd),
    rule("inetd", &["/etc/xinetd.conf", "/etc/xinetd.d/*"], Keys(&["server", "server_args"])),
    // boot
    rule(
        "initramfs-hook",
        &[
            "/{etc,usr/share}/initramfs-tools/{hooks,scripts,scripts/*,conf-hooks.d,conf.d,modules.d}/*",
            "/etc/initramfs-tools/{initramfs.conf,update-initramfs.conf}",
        ],
        File,
    ),
    rule("initramfs-hook", &["/etc/initramfs-tools/modules"], Names),
    rule(
        "dracut",
        &[
            "/etc/dracut.conf",
            "/{etc,usr/lib}/dracut.conf.d/*",
            "/usr/lib/dracut/dracut.conf.d/*",
            "/etc/mkinitcpio.conf",
            "/etc/mkinitcpio.conf.d/*",
            "/{etc,usr/lib}/initcpio/{hooks,install}/*",
            "/usr/lib/dracut/modules.d/*/*",
        ],
        File,
    ),
    rule("grub", &["/etc/default/grub", "/etc/default/grub.d/*"], Settings),
    rule("grub", &["/etc/grub.d/*"], Program),
    rule(
        "grub",
        &[
            "/boot/grub{,2}/{grub,custom,user}.cfg",
            "/boot/{,efi/}loader/entries/*.conf",
            "/etc/kernel/cmdline",
            "/boot/extlinux/*.conf",
            "/boot/syslinux/*.cfg",
            "/boot/efi/EFI/*/grub.cfg",
        ],
        Grub,
    ),
    rule(
        "kernel-hooks",
        &[
            "/etc/kernel/{postinst,preinst,postrm,prerm,header_postinst,header_postrm}.d/*",
            "/{etc,usr/lib}/kernel/install.d/*",
        ],
        RunParts,
    ),
    // kernel
    rule("modules-load", &["/etc/modules", "/{etc,run,usr/local/lib,usr/lib}/modules-load.d/*.conf"], Names),
    rule(
        "modprobe-install",
        &["/{etc,run,usr/local/lib,usr/lib,lib}/modprobe.d/*.conf"],
        Words(&["install", "remove", "softdep", "alias"]),
    ),
    strangers("lkm-file", &["/lib/modules/*/**/*.ko*", "/var/lib/dkms/**/*.ko*", "/etc/depmod.d/*"], File),
    rule("sysctl", &["/{etc,run,usr/local/lib,usr/lib}/sysctl.d/*.conf", "/etc/sysctl.conf"], Format::Sysctl),
    rule("binfmt", &["/{etc,run,usr/local/lib,usr/lib}/binfmt.d/*.conf"], Lines),
    rule("request-key", &["/etc/request-key.conf", "/etc/request-key.d/*.conf"], Lines),
    rule("lsm-off", &["/etc/selinux/config"], Keys(&["SELINUX"])),
    rule(
        "lsm-off",
        &[
            "/etc/apparmor.d/disable/*",
            "/etc/apparmor.d/force-complain/*",
            "/etc/audit/{auditd.conf,audit.rules,rules.d/*}",
        ],
        File,
    ),
    rule("lsm-off", &["/etc/audit/plugins.d/*.conf", "/etc/audisp/plugins.d/*.conf"], Keys(&["path"])),
    // the loader and languages
    rule("ldso-preload", &["/etc/ld.so.preload"], Lines),
    rule("ldso-conf", &["/etc/ld.so.conf", "/etc/ld.so.conf.d/*"], Lines),
    rule(
        "openssl-conf",
        &[
            "/etc/ssl/openssl.cnf",
            "/etc/ssl/openssl.cnf.d/*",
            "/etc/pki/tls/openssl.cnf",
            "/etc/pki/tls/openssl.d/*",
            "/usr/lib/ssl/openssl.cnf",
        ],
        Keys(&["dynamic_path", "module", ".include"]),
    ),
    rule(
        "openssl-conf",
        &[
            "/etc/pkcs11/modules/*",
            "/etc/pkcs11/pkcs11.conf",
            "/usr/share/p11-kit/modules/*",
            "~/.config/pkcs11/modules/*",
        ],
        Words(&["module:", "remote:"]),
    ),
    rule("openssl-conf", &["/usr/lib{,64}/{,*/}gconv/gconv-modules{,.d/*}"], Lines),
    rule(
        "py-site",
        &[
            "/usr/{,local/}lib{,64}/python*/{,site-packages/,dist-packages/}{*.pth,sitecustomize.py,usercustomize.py}",
            "/etc/python*/sitecustomize.py",
            "~/.local/lib/python*/{site-packages,dist-packages}/{*.pth,sitecustomize.py,usercustomize.py}",
        ],
        PythonPath,
    ),
    rule(
        "lang-env",
        &[
            "/etc/php/*/*/{php.ini,php-fpm.conf,conf.d/*}",
            "/etc/php/*/mods-available/*",
            "/etc/php.ini",
            "/etc/php.d/*",
            "/usr/local/etc/php/{php.ini,conf.d/*}",
        ],
        Keys(&["auto_prepend_file", "auto_append_file", "extension", "zend_extension"]),
    ),
    rule(
        "lang-env",
        &[
            "/etc/perl/sitecustomize.pl",
            "/usr/{local/,}{share,lib}/{site_perl,perl/*}/sitecustomize.pl",
            "/usr/lib/*/perl*/*/sitecustomize.pl",
            "/etc/{npmrc,gemrc}",
            "~/.{npmrc,gemrc,perldb,irbrc,pryrc,node_repl_history.js,pythonrc,pythonstartup}",
        ],
        File,
    ),
    rule(
        "env-file",
        &[
            "/etc/environment",
            "/etc/security/pam_env.conf",
            "~/.pam_environment",
            "/etc/default/locale",
            "/etc/locale.conf",
        ],
        Environment,
    ),
    rule("nss-module", &["/etc/nsswitch.conf"], Nsswitch),
    // login
    rule("pam-conf", &["/etc/pam.d/*", "/usr/lib/pam.d/*", "/usr/etc/pam.d/*"], Pam { service: false }),
    rule("pam-conf", &["/etc/pam.conf"], Pam { service: true }),
    rule("pam-conf", &["/usr/share/pam-configs/*"], File),
    rule("pam-module", &["/{,usr/,usr/local/}lib{,64}/{,*-linux-gnu*/}security/*.so"], File),
    rule(
        "sshd-conf",
        &["/etc/ssh/sshd_config", "/etc/ssh/sshd_config.d/*"],
        Words(&[
            "AuthorizedKeysCommand",
            "AuthorizedKeysFile",
            "AuthorizedPrincipals*",
            "ForceCommand",
            "Subsystem",
            "TrustedUserCAKeys",
            "PermitRootLogin",
            "PermitUserEnvironment",
            "PermitEmptyPasswords",
            "HostKeyAgent",
            "StrictModes",
            "ChrootDirectory",
            "SecurityKeyProvider",
            "AcceptEnv",
            "SetEnv",
            "Match",
        ]),
    ),
    rule("ssh-rc", &["~/.ssh/rc", "/etc/ssh/sshrc"], File),
    rule("ssh-rc", &["~/.ssh/environment"], Environment),
    rule(
        "ssh-client",
        &["~/.ssh/config", "/etc/ssh/ssh_config", "/etc/ssh/ssh_config.d/*"],
        Words(&[
            "ProxyCommand",
            "LocalCommand",
            "PermitLocalCommand",
            "KnownHostsCommand",
            "PKCS11Provider",
            "SecurityKeyProvider",
            "XAuthLocation",
            "Match",
            "RemoteCommand",
        ]),
    ),
    rule(
        "rhosts",
        &["~/.{rhosts,shosts,k5login,k5users}", "/etc/{hosts.equiv,shosts.equiv}", "/etc/ssh/shosts.equiv"],
        Lines,
    ),
    rule("motd", &["/etc/update-motd.d/*"], RunParts),
    rule("motd", &["/{etc,run,usr/lib}/motd.d/*"], File),
    // privileges
    rule(
        "sudoers",
        &["/etc/sudoers", "/etc/sudoers.d/*", "/usr/local/etc/sudoers", "/etc/sudoers-rs"],
        Lines,
    ),
    rule("sudo-plugin", &["/etc/sudo.conf"], Words(&["Plugin", "Path"])),
    rule(
        "polkit",
        &[
            "/{etc,run,usr/share,usr/local/share}/polkit-1/rules.d/*.rules",
            "/{etc,var/lib}/polkit-1/localauthority{,.conf.d}/{,*/}*.{pkla,conf}",
            "/usr/share/polkit-1/actions/*",
        ],
        File,
    ),
    rule("doas", &["/etc/doas.conf", "/etc/doas.d/*"], Lines),
    rule(
        "adduser-hook",
        &[
            "/usr/local/sbin/{adduser,deluser}.local",
            "/usr/local/sbin/{useradd,userdel}.local",
            "/etc/shadow-maint/{useradd,userdel}-{pre,post}.d/*",
        ],
        Program,
    ),
    rule(
        "adduser-hook",
        &["/etc/login.defs"],
        Words(&["USERDEL_CMD", "FAKE_SHELL", "LOGIN_STRING", "ENV_FILE"]),
    ),
    rule("adduser-hook", &["/etc/shells"], Shells),
    rule("adduser-hook", &["/etc/skel/**"], File),
    // shells
    rule("profile", &["/etc/profile", "/etc/profile.d/*"], File),
    rule("bashrc", &["/etc/{bash.bashrc,bashrc,bash.bash_logout}", "/etc/bash/**", "/etc/bashrc.d/*"], File),
    rule("user-rc", &["~/.{bashrc,profile,bash_logout,bash_aliases}", "~/.bashrc.d/*"], File),
    rule("user-bashprofile", &["~/.bash_profile", "~/.bash_login"], File),
    rule(
        "zsh",
        &[
            "/etc/zsh/{zshenv,zprofile,zshrc,zlogin,zlogout,newuser.zshrc.recommended}",
            "/etc/{zshenv,zprofile,zshrc,zlogin,zlogout}",
            "~/.{zshenv,zprofile,zshrc,zlogin,zlogout}",
        ],
        File,
    ),
    rule(
        "fish",
        &[
            "/etc/fish/{config.fish,conf.d/*,functions/*,completions/*}",
            "/usr/share/fish/vendor_conf.d/*",
            "~/.config/fish/{config.fish,conf.d/*,functions/*,completions/*}",
        ],
        File,
    ),
    rule(
        "csh",
        &[
            "/etc/csh.{cshrc,login,logout}",
            "/etc/csh/**",
            "/etc/{ksh.kshrc,mkshrc,suid_profile}",
            "~/.{cshrc,tcshrc,login,logout,kshrc,mkshrc}",
        ],
        File,
    ),
    rule(
        "bash-compl",
        &[
            "/etc/bash_completion",
            "/etc/bash_completion.d/*",
            "~/.bash_completion",
            "~/.bash_completion.d/*",
            "~/.local/share/bash-completion/**",
            "~/.inputrc",
            "/etc/inputrc",
        ],
        File,
    ),
    strangers("bash-compl", &["/usr/share/bash-completion/**", "/usr/local/share/bash-completion/**"], File),
    // desktop and tools
    rule(
        "xdg-autostart",
        &[
            "/etc/xdg/{,*/}autostart/*.desktop",
            "/usr/{local/,}share/{gnome/,}autostart/*.desktop",
            "~/.config/autostart/*.desktop",
        ],
        Keys(&["Exec"]),
    ),
    rule(
        "xsession",
        &[
            "/etc/X11/Xsession.d/*",
            "/etc/X11/{Xsession,Xreset,Xsession.options}",
            "/etc/X11/{xinit,Xreset.d,xdm}/**",
            "/etc/{gdm3,gdm}/{Init,PostLogin,PreSession,PostSession}/*",
            "/etc/sddm.conf",
            "/etc/sddm.conf.d/*",
            "/usr/share/sddm/scripts/*",
            "~/.{xprofile,xsession,xsessionrc,xinitrc,xserverrc,Xclients}",
            "~/.config/plasma-workspace/{env,shutdown}/*",
            "~/.kde*/Autostart/*",
            "~/.config/autostart-scripts/*",
        ],
        File,
    ),
    rule(
        "xsession",
        &["/etc/lightdm/{,lightdm.conf.d/}*.conf", "/usr/share/lightdm/lightdm.conf.d/*"],
        Keys(&["*-script", "session-wrapper", "greeter-wrapper"]),
    ),
    rule(
        "desktop-ext",
        &[
            "~/.local/share/gnome-shell/extensions/*/{metadata.json,extension.js}",
            "/usr/share/mozilla/extensions/**",
            "~/.config/*/NativeMessagingHosts/*",
            "~/.mozilla/native-messaging-hosts/*",
            "/etc/{opt/chrome,chromium}/native-messaging-hosts/*",
            "/usr/lib{,64}/mozilla/native-messaging-hosts/*",
            "~/.local/share/applications/*",
            "~/.config/mimeapps.list",
        ],
        File,
    ),
    rule(
        "editor",
        &[
            "~/.{vimrc,gvimrc,exrc,emacs,tmux.conf,screenrc,gdbinit,lessfilter,lesskey,wgetrc,curlrc,nanorc,Xresources,mailrc,psqlrc,my.cnf,lldbinit}",
            "~/.vim/{plugin,autoload,after,ftplugin,pack}/**",
            "~/.vim/vimrc",
            "~/.config/{nvim,tmux,vim}/**",
            "~/.emacs.d/{init.el,early-init.el}",
            "~/.gdbinit.d/*",
            "/etc/vim/{vimrc,vimrc.local,vimrc.tiny,gvimrc}",
            "/etc/{screenrc,tmux.conf,gdb/gdbinit,nanorc,wgetrc}",
            "/etc/emacs/**",
        ],
        File,
    ),
    rule("git", &["/etc/gitconfig", "~/.gitconfig", "~/.config/git/config", "~/.git/config"], Git),
    rule(
        "git",
        &[
            "~/.git/hooks/*",
            "/usr/{local/,}share/git-core/templates/hooks/*",
            "~/.config/git/hooks/*",
            "~/.git-templates/hooks/*",
        ],
        Program,
    ),
    rule(
        "mail",
        &["~/.forward", "/etc/{aliases,procmailrc}", "/etc/mail/aliases", "/etc/postfix/aliases"],
        Has(&["|", ":include:"]),
    ),
    rule(
        "mail",
        &[
            "~/.{procmailrc,mailcap,maildroprc,sieve,dovecot.sieve,fetchmailrc,muttrc}",
            "~/.mutt/muttrc",
            "/etc/Muttrc.d/*",
        ],
        File,
    ),
    rule("logrotate", &["/etc/logrotate.conf", "/etc/logrotate.d/*"], Logrotate),
    rule(
        "syslog",
        &["/etc/rsyslog.conf", "/etc/rsyslog.d/*", "/etc/syslog.conf"],
        Has(&["omprog", "mmexternal", "^/", "improg", "module(load", "$ModLoad", "|/"]),
    ),
    rule("syslog", &["/etc/syslog-ng/**"], Has(&["program("])),
    rule(
        "monitoring",
        &["/etc/nagios/nrpe*.cfg", "/etc/nagios/nrpe.d/*", "/etc/nrpe.d/*"],
        Has(&["command["]),
    ),
    rule("monitoring", &["/etc/zabbix/**"], Keys(&["UserParameter", "LoadModule", "AlertScriptsPath"])),
    rule(
        "monitoring",
        &["/etc/snmp/**"],
        Words(&["extend*", "exec", "pass*", "sh", "dlmod", "proc*fix", "exec*fix"]),
    ),
    rule(
        "monitoring",
        &[
            "/etc/{telegraf,collectd,osquery,salt,puppet,puppetlabs,chef,munin,icinga2}/**",
            "/etc/collectd.conf",
        ],
        Has(&["inputs.exec", "outputs.exec", "Exec ", "commands", "extensions_autoload", "command"]),
    ),
    // packages
    rule("apt-hook", &["/etc/apt/apt.conf", "/etc/apt/apt.conf.d/*"], Apt),
    rule("dpkg-hook", &["/etc/dpkg/dpkg.cfg", "/etc/dpkg/dpkg.cfg.d/*", "~/.dpkg.cfg"], Format::Dpkg),
    rule(
        "dnf-hook",
        &[
            "/etc/dnf/{dnf.conf,plugins/*.conf,plugins/*.d/*,libdnf5-plugins/**}",
            "/etc/yum/pluginconf.d/*",
            "/etc/yum.conf",
            "/usr/lib/python3*/site-packages/dnf-plugins/*",
            "/usr/lib/yum-plugins/*",
            "/usr/lib{,64}/{libdnf,libdnf5,dnf5}/plugins/*",
        ],
        Lines,
    ),
    rule(
        "rpm-hook",
        &["/etc/rpm/**", "~/.{rpmmacros,rpmrc}", "/usr/lib/rpm/macros.d/*", "/usr/lib{,64}/rpm-plugins/*"],
        Lines,
    ),
    rule("apk-hook", &["/etc/apk/commit_hooks.d/*"], Program),
    rule("apk-hook", &["/etc/apk/{world,repositories}", "/etc/apk/repositories.d/*"], Lines),
    rule(
        "pacman-hook",
        &["/etc/pacman.conf", "/{etc/pacman.d,usr/share/libalpm}/hooks/*.hook"],
        Keys(&["Exec"]),
    ),
    rule(
        "pacman-hook",
        &["/var/lib/snapd/snaps/*", "/var/lib/flatpak/{app,exports/share/applications}/*"],
        File,
    ),
    rule(
        "repo",
        &[
            "/etc/apt/{sources.list,sources.list.d/*,auth.conf,auth.conf.d/*,preferences,preferences.d/*}",
            "/etc/yum.repos.d/*",
            "/etc/zypp/repos.d/*",
        ],
        Sources,
    ),
    rule(
        "repo",
        &["/etc/apt/{trusted.gpg,trusted.gpg.d/*,keyrings/*}", "/etc/apk/keys/*", "/etc/pki/rpm-gpg/*"],
        File,
    ),
    rule(
        "needrestart",
        &[
            "/etc/needrestart/{needrestart.conf,hook.d/*,notify.d/*,restart.d/*,conf.d/*}",
            "/etc/etckeeper/{,*.d/*}*",
        ],
        File,
    ),
    // network
    rule(
        "nm-dispatcher",
        &[
            "/{etc,usr/lib}/NetworkManager/dispatcher.d/**",
            "/{etc,usr/lib}/networkd-dispatcher/*.d/*",
            "/etc/network/if-{up,pre-up,down,post-down}.d/*",
            "/etc/ppp/{ip-up,ip-down,ipv6-up,ipv6-down,ip-pre-up,auth-up,auth-down}{,.d/*}",
            "/etc/wpa_supplicant/*.sh",
            "/etc/resolvconf/update{,-libc}.d/*",
        ],
        Program,
    ),
    rule(
        "nm-dispatcher",
        &[
            "/etc/dhcp/dhclient-*-hooks.d/*",
            "/etc/dhcp/dhclient*.conf",
            "/etc/dhcpcd.{enter-hook,exit-hook}",
            "/lib/dhcpcd/dhcpcd-hooks/*",
            "/etc/udhcpc/**",
        ],
        File,
    ),
    rule(
        "nm-dispatcher",
        &["/etc/openvpn/**", "/etc/wireguard/*.conf", "/etc/strongswan.d/**", "/etc/ipsec.conf"],
        Words(&[
            "up",
            "down",
            "script-security",
            "route-up",
            "tls-verify",
            "client-connect",
            "learn-address",
            "auth-user-pass-verify",
            "ipchange",
            "plugin",
            "PostUp",
            "PreUp",
            "PostDown",
            "PreDown",
            "leftupdown*",
            "rightupdown*",
            "management-*",
        ]),
    ),
    rule("ifupdown", &["/etc/network/interfaces", "/etc/network/interfaces.d/*"], Interfaces),
    rule("hosts-allow", &["/etc/hosts.allow", "/etc/hosts.deny"], Has(&["spawn", "twist"])),
    rule(
        "netfilter",
        &[
            "/etc/nftables.conf",
            "/etc/nftables.d/*",
            "/etc/iptables/*",
            "/etc/sysconfig/{nftables.conf,iptables,ip6tables}",
            "/etc/knockd.conf",
            "/etc/ufw/*.rules",
        ],
        Lines,
    ),
    // hardware
    rule("udev", &["/{etc,run,usr/local/lib,usr/lib,lib}/udev/rules.d/*.rules"], Format::Udev),
    rule("udev", &["/etc/udev/hwdb.d/*", "/etc/udev/udev.conf"], Lines),
    strangers("udev", &["/{usr/lib,lib}/udev/*"], Program),
    rule("acpi-usb", &["/etc/acpi/events/*"], Keys(&["action"])),
    rule(
        "acpi-usb",
        &["/etc/acpi/*.sh", "/etc/apcupsd/*", "/etc/usb_modeswitch.d/*", "/usr/lib/cups/{backend,filter}/*"],
        Program,
    ),
    rule(
        "acpi-usb",
        &[
            "/etc/smartd.conf",
            "/etc/mdadm/mdadm.conf",
            "/etc/mdadm.conf",
            "/etc/nut/*.conf",
            "/etc/cups/*.conf",
        ],
        Has(&["-M exec", "PROGRAM", "NOTIFYCMD", "SHUTDOWNCMD", "NOTIFYFLAG"]),
    ),
    // containers, clouds, servers
    rule(
        "docker",
        &[
            "/var/lib/docker/containers/*/{hostconfig,config.v2}.json",
            "/var/lib/containers/storage/overlay-containers/containers.json",
        ],
        Format::Docker,
    ),
    rule("docker", &["/etc/docker/daemon.json"], File),
    rule(
        "k8s",
        &[
            "/etc/kubernetes/{manifests/*,kubelet.conf}",
            "/var/lib/kubelet/config.yaml",
            "/etc/cni/net.d/*",
            "/{etc,usr/share}/containers/oci/hooks.d/*",
            "/etc/containerd/{config.toml,conf.d/*}",
            "/etc/crio/{crio.conf,crio.conf.d/*}",
            "/opt/cni/bin/*",
        ],
        File,
    ),
    rule(
        "cloud-init",
        &["/var/lib/cloud/scripts/per-{boot,instance,once}/*", "/var/lib/cloud/instance{,s/*}/scripts/*"],
        Program,
    ),
    rule(
        "cloud-init",
        &["/var/lib/cloud/instance/user-data.txt", "/etc/cloud/cloud.cfg", "/etc/cloud/cloud.cfg.d/*"],
        Words(&["bootcmd:", "runcmd:", "- bootcmd", "write_files:"]),
    ),
    rule(
        "webshell",
        &[
            "/var/www/**/*.{php,phtml,php5,php7,phar,jsp,jspx,cgi,pl,py,asp,aspx,sh}",
            "/srv/{www,http}/**/*.{php,phtml,phar,jsp,jspx,cgi,pl,py,sh}",
            "/usr/lib/cgi-bin/*",
            "/usr/share/nginx/html/**/*.{php,jsp,cgi,py}",
            "~/public_html/**/*.{php,phtml,cgi,pl,py}",
        ],
        File,
    ),
    rule(
        "webconf",
        &["/var/www/**/.{htaccess,user.ini}", "/srv/{www,http}/**/.{htaccess,user.ini}"],
        Words(&[
            "php_value",
            "php_admin_value",
            "SetHandler",
            "AddHandler",
            "AddType",
            "auto_prepend_file*",
            "auto_append_file*",
            "Options",
            "Action",
        ]),
    ),
    rule(
        "webconf",
        &[
            "/etc/apache2/{mods,conf,sites}-enabled/*",
            "/etc/apache2/apache2.conf",
            "/etc/httpd/{conf,conf.d,conf.modules.d}/*",
        ],
        Words(&[
            "LoadModule",
            "LoadFile",
            "php_value",
            "php_admin_value",
            "SetHandler",
            "CustomLog",
            "ErrorLog",
            "WSGIScriptAlias",
            "ScriptAlias",
            "DocumentRoot",
            "Alias",
        ]),
    ),
    rule(
        "webconf",
        &["/etc/nginx/{nginx.conf,conf.d/*,sites-enabled/*,modules-enabled/*}"],
        Has(&["load_module", "_by_lua", "perl_modules", "perl ", "fastcgi_pass", "root ", "alias "]),
    ),
    rule(
        "database",
        &[
            "/etc/mysql/{my.cnf,conf.d/*,mysql.conf.d/*,mariadb.conf.d/*,mariadb.cnf}",
            "/etc/my.cnf",
            "/etc/my.cnf.d/*",
        ],
        Keys(&["init_file", "init-file", "plugin_load*", "plugin-load*", "plugin_dir", "plugin-dir"]),
    ),
    rule(
        "database",
        &[
            "/etc/postgresql/*/*/{postgresql.conf,conf.d/*}",
            "/var/lib/{pgsql,postgresql}/{*/,}{*/,}{postgresql.conf,postgresql.auto.conf}",
        ],
        Keys(&[
            "shared_preload_libraries",
            "local_preload_libraries",
            "session_preload_libraries",
            "archive_command",
            "restore_command",
            "ssl_passphrase_command",
            "dynamic_library_path",
        ]),
    ),
    rule("database", &["/etc/redis/*.conf", "/etc/redis.conf", "/etc/valkey/*.conf"], Words(&["loadmodule"])),
    rule(
        "ca-store",
        &[
            "/usr/local/share/ca-certificates/**",
            "/etc/pki/ca-trust/source/{anchors/*,*.p12}",
            "/etc/ca-certificates/trust-source/anchors/*",
            "/usr/share/pki/trust/anchors/*",
        ],
        File,
    ),
    strangers("ca-store", &["/etc/ssl/certs/*"], File),
];

/// Rules whose paths depend on the configuration of sshd.
pub(crate) const AUTHORIZED_KEYS: Format = AuthorizedKeys;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rule_has_a_technique_and_every_technique_a_kind() {
        for rule in RULES {
            technique(rule.technique);
        }
        for technique in TECHNIQUES {
            assert!(KINDS.contains(&technique.kind), "{}", technique.id);
            assert!(technique.attack.starts_with('T'), "{}", technique.id);
        }
        let mut names: Vec<&str> = TECHNIQUES.iter().map(|technique| technique.id).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), TECHNIQUES.len());
        assert_eq!(names.len(), 136);
    }
}
