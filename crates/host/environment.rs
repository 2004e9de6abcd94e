//! What modules are told about the host: init system, distribution, architecture, addresses.
//!
//! Only files and the kernel are asked, nobody on the network.

use std::collections::BTreeMap;
use std::path::Path;

use vigie_protocol::message::Environment;

use crate::addresses::addresses;
use crate::architecture::architecture;
use crate::os_release;

/// Describes this host. `modules` are the names of the modules that this agent can run. Reads a few small files
/// of `/etc`, `/proc` and `/run`, so call it where a short wait is harmless.
#[must_use]
pub fn collect(modules: Vec<String>) -> Environment {
    let comm = std::fs::read_to_string("/proc/1/comm").unwrap_or_default();
    Environment {
        init: init_system(comm.trim_end(), |path| Path::new(path).exists()),
        ident: distribution(&os_release::read()),
        os: std::env::consts::OS.to_owned(),
        arch: architecture().to_owned(),
        isproxied: false,
        addresses: addresses().into_iter().map(|(address, prefix)| format!("{address}/{prefix}")).collect(),
        publicip: String::new(),
        aws: BTreeMap::new(),
        modules,
    }
}

/// The kernel's name of this host; `localhost` where it has none.
#[must_use]
pub fn hostname() -> String {
    let name = nix::unistd::gethostname().unwrap_or_default();
    let name = name.to_string_lossy();
    if name.is_empty() { "localhost".to_owned() } else { name.into_owned() }
}

/// Names the init system from the first process's name and from what exists only while that system runs.
/// In a container the first process is often a program of its own, whose name is then the answer.
fn init_system(comm: &str, exists: impl Fn(&str) -> bool) -> String {
    // sd_booted(3): this directory exists when systemd is the running init, installed is not enough.
    let name = if exists("/run/systemd/system") {
        "systemd"
    } else if exists("/run/openrc/softlevel") || comm == "openrc-init" {
        "openrc"
    } else if comm.starts_with("s6-svscan") || exists("/run/s6/basedir") {
        "s6"
    } else if comm == "runit" || comm == "runit-init" || exists("/run/runit.stopit") {
        "runit"
    } else if comm == "init" && exists("/sbin/upstart-udev-bridge") {
        "upstart"
    } else if comm == "init" && exists("/etc/inittab") {
        "sysvinit"
    } else if comm.is_empty() {
        "unknown"
    } else {
        comm
    };
    name.to_owned()
}

/// Names distribution, version and code name: `Debian 12 bookworm`.
fn distribution(values: &BTreeMap<String, String>) -> String {
    let value = |key: &str| values.get(key).map(|value| value.trim()).filter(|value| !value.is_empty());

    let name = value("NAME").or(value("ID")).unwrap_or("Linux");
    // "Debian GNU/Linux" and "Fedora Linux" are Debian and Fedora to everyone, MIG included.
    let short = name.strip_suffix(" Linux").or(name.strip_suffix(" GNU/Linux")).unwrap_or(name);
    let code_name = if values.contains_key("VERSION_CODENAME") {
        value("VERSION_CODENAME")
    } else {
        // Red Hat has its code name in parentheses only. Where the other key exists but is empty, what stands
        // in parentheses is an edition.
        value("VERSION").and_then(|version| version.split_once('(')?.1.split_once(')').map(|(name, _)| name))
    };
    [Some(short), value("VERSION_ID"), code_name].into_iter().flatten().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    fn distribution(text: &str) -> String {
        super::distribution(&os_release::parse(text))
    }

    #[test]
    fn distributions_are_named_as_people_name_them() {
        let debian = "PRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\nNAME=\"Debian GNU/Linux\"\n\
                      VERSION_ID=\"12\"\nVERSION=\"12 (bookworm)\"\nVERSION_CODENAME=bookworm\nID=debian\n";
        let ubuntu = "NAME=\"Ubuntu\"\nVERSION_ID=\"22.04\"\nVERSION=\"22.04.3 LTS (Jammy Jellyfish)\"\n\
                      VERSION_CODENAME=jammy\nID=ubuntu\nID_LIKE=debian\n";
        let fedora = "NAME=\"Fedora Linux\"\nVERSION=\"38 (Workstation Edition)\"\nID=fedora\nVERSION_ID=38\n\
                      VERSION_CODENAME=\"\"\n";
        let red_hat = "NAME=\"Red Hat Enterprise Linux\"\nVERSION=\"9.2 (Plow)\"\nID=\"rhel\"\n\
                       VERSION_ID=\"9.2\"\n";
        let alpine = "NAME=\"Alpine Linux\"\nID=alpine\nVERSION_ID=3.18.4\n";

        assert_eq!(distribution(debian), "Debian 12 bookworm");
        assert_eq!(distribution(ubuntu), "Ubuntu 22.04 jammy");
        assert_eq!(distribution(fedora), "Fedora 38");
        assert_eq!(distribution(red_hat), "Red Hat Enterprise 9.2 Plow");
        assert_eq!(distribution(alpine), "Alpine 3.18.4");
    }

    #[test]
    fn a_strange_os_release_still_gives_a_name() {
        assert_eq!(distribution(""), "Linux");
        assert_eq!(distribution("garbage\n=x\n# NAME=no\nID='arch'\r\n"), "arch");
        assert_eq!(distribution("NAME=\"A\nVERSION_ID=2\n"), "Linux 2");
    }

    #[test]
    fn the_init_system_is_the_one_that_runs() {
        let only = |path: &'static str| move |asked: &str| asked == path;

        assert_eq!(init_system("systemd", only("/run/systemd/system")), "systemd");
        assert_eq!(init_system("init", only("/run/openrc/softlevel")), "openrc");
        assert_eq!(init_system("init", only("/etc/inittab")), "sysvinit");
        assert_eq!(init_system("runit", only("")), "runit");
        assert_eq!(init_system("s6-svscan", only("")), "s6");
        assert_eq!(init_system("tini", only("")), "tini");
        assert_eq!(init_system("", only("")), "unknown");
    }

    #[test]
    fn this_host_is_described() {
        let environment = collect(vec!["fswatch".to_owned()]);

        assert_eq!(environment.os, "linux");
        assert!(!environment.ident.is_empty());
        assert!(!environment.init.is_empty());
        assert!(!hostname().is_empty());
        for address in &environment.addresses {
            let (ip, prefix) = address.split_once('/').unwrap();
            assert!(!ip.parse::<IpAddr>().unwrap().is_loopback(), "{address}");
            assert!(prefix.parse::<u32>().unwrap() <= 128, "{address}");
        }
    }
}
