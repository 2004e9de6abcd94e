//! Rules of what the system itself starts: units, schedules, init, boot, the kernel, the loader.

use crate::catalogue::{Rule, includes, rule, strangers};
use crate::format::Format::{
    self, At, Crontab, Environment, File, Fstab, Grub, Has, Inetd, Inittab, JoinedLines, Keys, Lines, Names,
    Nsswitch, Program, PythonPath, RunParts, Settings, Words,
};

pub(super) const RULES: &[Rule] = &[
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
            "/{etc,run,usr/local/lib,usr/lib}/systemd/{system,user}.conf",
            "~/.config/systemd/user.conf",
            "~/.config/systemd/user.conf.d/*.conf",
            "/{etc,run,usr/local/lib,usr/lib}/systemd/{system,user}.conf.d/*.conf",
        ],
        Keys(&["DefaultEnvironment", "ManagerEnvironment"]),
    ),
    rule("sd-mask", &["/{etc,run,usr/local/lib,usr/lib,lib}/systemd/{system,user}-preset/*.preset"], Lines),
    rule("sd-linger", &["/var/lib/systemd/linger/*"], File),
    rule("sd-sleep", &["/{etc,usr/lib,lib}/systemd/system-{sleep,shutdown}/*"], Program),
    rule("sd-sleep", &["/{etc/pm,usr/lib/pm-utils}/{sleep,power}.d/*"], Program),
    rule(
        "sd-tmpfiles",
        &[
            "/{etc,run,usr/local/lib,usr/lib}/tmpfiles.d/*.conf",
            "/usr/share/user-tmpfiles.d/*.conf",
            "~/.config/user-tmpfiles.d/*.conf",
        ],
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
            "/run/user/*/dbus-1/services/*.service",
        ],
        Keys(&["Exec"]),
    ),
    rule("fstab", &["/etc/fstab", "/etc/fstab.d/*"], Fstab),
    rule("fstab", &["/etc/auto.*", "/etc/auto.master.d/*"], JoinedLines),
    rule("fstab", &["/{usr/,usr/local/,}{s,}bin/mount.*"], Program),
    // schedules
    rule("cron-system", &["/etc/crontab"], Crontab { user: true }),
    rule("cron-d", &["/etc/cron.d/*"], Crontab { user: true }),
    rule(
        "cron-user",
        &[
            "/var/spool/cron/crontabs/*",
            "/var/spool/cron/*",
            "/var/spool/cron/tabs/*",
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
    rule("at-job", &["/var/spool/cron/atjobs/*", "/var/spool/at/*", "/var/spool/atjobs/*"], At),
    rule("incron", &["/var/spool/incron/*", "/etc/incron.d/*", "/etc/incron.conf"], Lines),
    // init
    rule("rc-local", &["/etc/rc.local", "/etc/rc.d/rc.local", "/etc/rc.local.d/*"], Program)
        .with(includes::SHELL),
    rule("initd", &["/etc/init.d/*", "/etc/rc.d/init.d/*"], Program),
    rule("initd", &["/etc/rc?.d/*", "/etc/rc.d/rc?.d/*"], Program),
    rule("inittab", &["/etc/inittab"], Inittab),
    rule("openrc", &["/etc/runlevels/*/*", "/etc/local.d/*"], Program),
    rule("openrc", &["/etc/conf.d/*", "/etc/rc.conf", "/etc/rc.conf.d/*"], Settings),
    rule("etc-default", &["/etc/default/*", "/etc/sysconfig/*"], Settings),
    // ifup reads these as scripts.
    rule(
        "etc-default",
        &[
            "/etc/sysconfig/network-scripts/{ifcfg,route,rule}*",
            "/etc/sysconfig/network/{ifcfg-*,ifroute-*,config,dhcp}",
        ],
        Settings,
    ),
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
    )
    .with(includes::SUPERVISORD),
    rule(
        "supervise",
        &["/etc/monit/conf.d/*", "/etc/monit/conf-enabled/*", "/etc/monit/monitrc", "/etc/monitrc"],
        Has(&["start program", "stop program", " exec ", "check program"]),
    )
    .with(includes::INCLUDE),
    rule("supervise", &["/etc/init/*.conf"], Words(&["exec", "script", "pre-start", "post-start"])),
    rule("supervise", &["~/.pm2/dump.pm2"], File),
    rule("inetd", &["/etc/inetd.conf", "/etc/inetd.d/*"], Inetd),
    rule("inetd", &["/etc/xinetd.conf", "/etc/xinetd.d/*"], Keys(&["server", "server_args"]))
        .with(includes::XINETD),
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
            "/{etc,usr/share}/kernel/{postinst,preinst,postrm,prerm,header_postinst,header_postrm}.d/*",
            "/{etc,usr/lib}/kernel/install.d/*",
            "/etc/initramfs/post-update.d/*",
        ],
        RunParts,
    ),
    rule(
        "dkms",
        &["/usr/src/*/dkms.conf", "/etc/dkms/*.conf", "/etc/dkms/framework.conf.d/*"],
        Keys(&["PRE_*", "POST_*", "MAKE*", "CLEAN*"]),
    ),
    // kernel
    rule("modules-load", &["/etc/sysconfig/modules/*.modules"], Program),
    rule("modules-load", &["/etc/modules", "/{etc,run,usr/local/lib,usr/lib}/modules-load.d/*.conf"], Names),
    rule(
        "modprobe-install",
        &["/{etc,run,usr/local/lib,usr/lib,lib}/modprobe.d/*.conf"],
        Words(&["install", "remove", "softdep", "alias"]),
    ),
    strangers("lkm-file", &["/lib/modules/*/**/*.ko*", "/var/lib/dkms/**/*.ko*", "/etc/depmod.d/*"], File),
    rule("sysctl", &["/{etc,run,usr/local/lib,usr/lib}/sysctl.d/*.conf", "/etc/sysctl.conf"], Format::Sysctl),
    rule("binfmt", &["/{etc,run,usr/local/lib,usr/lib}/binfmt.d/*.conf"], Lines),
    rule("binfmt", &["/usr/share/binfmts/*"], Words(&["interpreter", "detector"])),
    rule("binfmt", &["/var/lib/binfmts/*"], File),
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
    rule("ldso-conf", &["/etc/ld.so.conf", "/etc/ld.so.conf.d/*", "/etc/ld-musl-*.path"], Lines)
        .with(includes::INCLUDE),
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
    )
    .with(includes::OPENSSL),
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
    // Libraries of GSSAPI, in sshd too.
    rule("openssl-conf", &["/{etc,usr/etc}/gss/{mech,mech.d/*}"], Lines),
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
        Keys(&[
            "auto_prepend_file",
            "auto_append_file",
            "extension",
            "zend_extension",
            "php_*[auto_*pend_file]",
            "php_*[extension]",
        ]),
    )
    .with(includes::INCLUDE),
    rule(
        "lang-env",
        &[
            "/etc/perl/sitecustomize.pl",
            "/usr/{local/,}{share,lib}/{site_perl,perl/*}/sitecustomize.pl",
            "/usr/lib/*/perl*/*/sitecustomize.pl",
            "/etc/{npmrc,gemrc}",
            "/etc/R/{Rprofile,Renviron}.site",
            "~/.julia/config/startup.jl",
            "~/.{Rprofile,Renviron,npmrc,gemrc,perldb,irbrc,pryrc,node_repl_history.js,pythonrc,pythonstartup}",
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
];
