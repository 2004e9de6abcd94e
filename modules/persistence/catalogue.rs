//! The catalogue: which techniques are known, where each has its files, and how those are read.

mod access;
mod includes;
mod services;
mod system;

use crate::format::Format;
use crate::includes::Include;

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
    /// Lines in them that name further files.
    pub(crate) includes: &'static [Include],
}

impl Rule {
    /// The same rule for files with such lines.
    const fn with(self, includes: &'static [Include]) -> Self {
        Self { includes, ..self }
    }
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
    t("dkms", "T1547.006", "kernel", "module build"),
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
    t("cert-hook", "T1546", "certificate", "renewal, update of CAs"),
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
    t("libvirt", "T1546", "container", "start of a guest"),
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

pub(crate) const fn rule(technique: &'static str, paths: &'static [&'static str], format: Format) -> Rule {
    Rule { technique, paths, format, strangers_only: false, includes: &[] }
}

const fn strangers(technique: &'static str, paths: &'static [&'static str], format: Format) -> Rule {
    Rule { technique, paths, format, strangers_only: true, includes: &[] }
}

/// Where each technique has its files, and how they are read.
pub(crate) fn rules() -> impl Iterator<Item = &'static Rule> {
    [system::RULES, access::RULES, services::RULES].into_iter().flatten()
}

/// Rules whose paths depend on the configuration of sshd.
pub(crate) const AUTHORIZED_KEYS: Format = Format::AuthorizedKeys;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rule_has_a_technique_and_every_technique_a_kind() {
        for rule in rules() {
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
        assert_eq!(names.len(), 139);
    }
}
