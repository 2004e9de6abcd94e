//! The facts of the host that this runs on. Only files and the kernel are asked, nobody on the network.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::net::IpAddr;

use nix::ifaddrs::{InterfaceAddress, getifaddrs};
use nix::net::if_::InterfaceFlags;

use crate::facts::{Facts, FactsError, MAX_ADDRESSES, MAX_FACT_BYTES};
use crate::names::{AgentId, GroupName};

/// Where the distribution describes itself, the second for systems that keep `/etc` empty; os-release(5).
const OS_RELEASE_FILES: [&str; 2] = ["/etc/os-release", "/usr/lib/os-release"];

/// Release of the kernel, as uname(2) gives it; proc_sys_kernel(5).
const KERNEL_RELEASE_FILE: &str = "/proc/sys/kernel/osrelease";

/// Longest file that is read, in bytes; real ones have a few hundred.
const MAX_FILE_BYTES: u64 = 64 * 1024;

/// What the host does not know, but its configuration and the agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The agent's name in the fleet.
    pub agent: AgentId,
    /// The agent's version, such as `0.1.0`.
    pub agent_version: String,
    /// Labels from the configuration.
    pub tags: BTreeMap<String, String>,
    /// Groups from the configuration.
    pub groups: Vec<GroupName>,
    /// Names of the modules that can be asked.
    pub modules: Vec<String>,
}

/// Collects the facts of this host. Reads a few small files of `/etc` and `/proc`, so call it where a short wait
/// is harmless. Of more addresses than a fact holds, those that reach beyond the own link come first.
///
/// # Errors
/// When something of `identity` is beyond a limit of facts.
pub fn collect(identity: Identity) -> Result<Facts, FactsError> {
    let Identity { agent, agent_version, tags, groups, modules } = identity;
    let release = OS_RELEASE_FILES.iter().find_map(|file| read(file)).unwrap_or_default();
    let mut release = os_release(&release);
    let mut described = |key: &str| release.remove(key).map(|value| fact(&value)).filter(|v| !v.is_empty());
    let facts = Facts {
        agent,
        hostname: fact(&nix::unistd::gethostname().unwrap_or_default().to_string_lossy()),
        os: std::env::consts::OS.to_owned(),
        os_id: described("ID"),
        os_version: described("VERSION_ID"),
        arch: go_architecture(std::env::consts::ARCH, cfg!(target_endian = "little")).to_owned(),
        kernel: fact(&read(KERNEL_RELEASE_FILE).unwrap_or_default()),
        agent_version,
        modules,
        addresses: addresses(),
        tags,
        groups,
    };
    facts.check()?;
    Ok(facts)
}

fn read(file: &str) -> Option<String> {
    let mut bytes = Vec::new();
    File::open(file).ok()?.take(MAX_FILE_BYTES).read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

/// A text of the host within the limits of a fact.
fn fact(text: &str) -> String {
    let text: String = text.trim().chars().filter(|c| !c.is_control()).collect();
    text[..text.floor_char_boundary(MAX_FACT_BYTES)].to_owned()
}

/// Reads `KEY=value` lines as a shell would, os-release(5); the last line of a key counts. Lines of another form
/// are skipped.
fn os_release(text: &str) -> BTreeMap<&str, String> {
    let lines = text.lines().map(str::trim).filter(|line| !line.starts_with('#'));
    lines
        .filter_map(|line| line.split_once('='))
        .filter_map(|(key, value)| Some((key, word(value)?)))
        .collect()
}

/// The value of one shell word without expansions: quotes, and backslashes as each kind of quotes knows them.
/// `None` when a quote is not closed, or more than one word stands there.
fn word(value: &str) -> Option<String> {
    let mut word = String::new();
    let mut characters = value.chars();
    while let Some(c) = characters.next() {
        match c {
            '\'' => loop {
                match characters.next()? {
                    '\'' => break,
                    c => word.push(c),
                }
            },
            '"' => loop {
                match characters.next()? {
                    '"' => break,
                    '\\' => match characters.next()? {
                        c @ ('"' | '\\' | '$' | '`') => word.push(c),
                        // Before anything else the backslash stands for itself.
                        c => word.extend(['\\', c]),
                    },
                    c => word.push(c),
                }
            },
            '\\' => word.push(characters.next()?),
            c if c.is_whitespace() => return None,
            c => word.push(c),
        }
    }
    Some(word)
}

/// The name that Go, and so every MIG tool, has for an architecture.
#[must_use]
pub fn go_architecture(rust_name: &str, little_endian: bool) -> &str {
    match (rust_name, little_endian) {
        ("x86_64", _) => "amd64",
        ("x86", _) => "386",
        ("aarch64", _) => "arm64",
        ("powerpc64", true) => "ppc64le",
        ("powerpc64", false) => "ppc64",
        ("mips", true) => "mipsle",
        ("mips64", true) => "mips64le",
        ("loongarch64", _) => "loong64",
        (other, _) => other,
    }
}

/// Addresses of all interfaces that are up, loopback left out.
fn addresses() -> Vec<IpAddr> {
    let Ok(interfaces) = getifaddrs() else { return Vec::new() };
    bounded(interfaces.filter_map(|interface| address(&interface)).collect())
}

/// Each address once, sorted. A host of containers has a link-local address for each of them: they are the first
/// to be left out.
fn bounded(mut addresses: Vec<IpAddr>) -> Vec<IpAddr> {
    addresses.sort_unstable_by_key(|address| (is_link_local(*address), *address));
    addresses.dedup();
    addresses.truncate(MAX_ADDRESSES);
    addresses
}

fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    }
}

fn address(interface: &InterfaceAddress) -> Option<IpAddr> {
    let up = interface.flags.contains(InterfaceFlags::IFF_UP);
    if !up || interface.flags.contains(InterfaceFlags::IFF_LOOPBACK) {
        return None;
    }
    let address = interface.address.as_ref()?;
    let v4 = address.as_sockaddr_in().map(|address| IpAddr::V4(address.ip()));
    v4.or_else(|| address.as_sockaddr_in6().map(|address| IpAddr::V6(address.ip())))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn identity() -> Identity {
        Identity {
            agent: "web-1".parse().unwrap(),
            agent_version: "0.1.0".to_owned(),
            tags: [("env".to_owned(), "prod".to_owned())].into(),
            groups: vec!["web".parse().unwrap()],
            modules: vec!["file".to_owned()],
        }
    }

    #[test]
    fn this_host_has_facts() {
        let facts = collect(identity()).unwrap();

        assert_eq!(facts.agent.as_str(), "web-1");
        assert_eq!(facts.os, "linux");
        assert_eq!(facts.tags["env"], "prod");
        assert!(!facts.hostname.is_empty());
        assert!(crate::target::Target::parse("kernel >= 3").unwrap().matches(&facts), "{}", facts.kernel);
        assert!(facts.addresses.iter().all(|address| !address.is_loopback()));
        assert_eq!(Facts::from_json(&serde_json::to_vec(&facts).unwrap()).unwrap(), facts);
    }

    #[test]
    fn a_configuration_beyond_the_limits_is_refused() {
        let tags = [("with space".to_owned(), String::new())].into();
        let error = collect(Identity { tags, ..identity() }).unwrap_err();
        assert!(matches!(error, FactsError::BadTagName(name) if name == "with space"));
    }

    #[test]
    fn os_release_is_read_as_a_shell_reads_it() {
        let text = "# comment\nNAME=\"Debian GNU/Linux\"\n  ID=debian\r\nVERSION_ID='12'\nHOME=\"a\\\"\\\\\\$\\`\\x\"\n\
                    JOINED=a\"b c\"'d'\\ e\nTWO=a b\nOPEN=\"abc\nID=last\nEMPTY=\ngarbage\n";
        let values = os_release(text);

        assert_eq!(values["NAME"], "Debian GNU/Linux");
        assert_eq!(values["ID"], "last");
        assert_eq!(values["VERSION_ID"], "12");
        assert_eq!(values["HOME"], "a\"\\$`\\x");
        assert_eq!(values["JOINED"], "ab cd e");
        assert_eq!(values["EMPTY"], "");
        assert!(!values.contains_key("TWO") && !values.contains_key("OPEN"));
    }

    #[test]
    fn a_text_of_the_host_is_cut_to_a_fact() {
        assert_eq!(fact(" a\u{7}b\n"), "ab");
        assert_eq!(fact(&"é".repeat(200)), "é".repeat(128));
        assert_eq!(fact(&format!("x{}", "é".repeat(200))).len(), 255);
    }

    #[test]
    fn of_too_many_addresses_the_link_local_ones_go() {
        let many = (0..300_u16).map(|i| format!("fe80::{i:x}").parse().unwrap());
        let far: IpAddr = "2001:db8::1".parse().unwrap();

        let kept = bounded(many.chain([far, far]).collect());

        assert_eq!(kept.len(), MAX_ADDRESSES);
        assert_eq!(kept[0], far);
        assert_ne!(kept[1], far);
    }

    #[test]
    fn architectures_have_gos_names() {
        assert_eq!(go_architecture("x86_64", true), "amd64");
        assert_eq!(go_architecture("aarch64", true), "arm64");
        assert_eq!(go_architecture("powerpc64", true), "ppc64le");
        assert_eq!(go_architecture("riscv64", true), "riscv64");
    }

    proptest! {
        #[test]
        fn any_os_release_is_read(text in "[A-Z=\"'\\\\\n a-z#]{0,60}") {
            let _ = os_release(&text);
        }
    }
}
