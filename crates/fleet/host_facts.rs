//! The facts of the host that this runs on. Only files and the kernel are asked, nobody on the network.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::net::IpAddr;

use sha2::{Digest as _, Sha256};

use crate::facts::{Facts, FactsError, MAX_ADDRESSES, MAX_FACT_BYTES};
use vigie_protocol::names::{AgentId, GroupName};

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
    let mut release = vigie_host::os_release::read();
    let mut described = |key: &str| release.remove(key).map(|value| fact(&value)).filter(|v| !v.is_empty());
    let facts = Facts {
        agent,
        hostname: fact(&nix::unistd::gethostname().unwrap_or_default().to_string_lossy()),
        os: std::env::consts::OS.to_owned(),
        os_id: described("ID"),
        os_version: described("VERSION_ID"),
        arch: vigie_host::architecture().to_owned(),
        kernel: fact(&read(KERNEL_RELEASE_FILE).unwrap_or_default()),
        agent_version,
        modules,
        addresses: bounded(vigie_host::addresses().into_iter().map(|(address, _)| address).collect()),
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

/// A digest of the machine's id, which differs on another machine; empty when it has none. Blocking.
#[must_use]
pub fn machine() -> String {
    machine_in(&["/etc/machine-id", "/var/lib/dbus/machine-id"])
}

/// During the first boot, and in images, the file holds something else than an id.
fn machine_in(files: &[&str]) -> String {
    let is_id = |text: &String| text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let mut ids = files.iter().filter_map(|path| Some(read(path)?.trim().to_owned()));
    ids.find(is_id).map_or_else(String::new, |id| digest(&id))
}

/// A digest of the kernel's boot id, which differs after each boot. Blocking.
#[must_use]
pub fn boot() -> String {
    read("/proc/sys/kernel/random/boot_id").map_or_else(String::new, |id| digest(id.trim()))
}

/// machine-id(5) says that the id itself is not to be shown.
fn digest(id: &str) -> String {
    let hash = Sha256::new().chain_update(b"vigie-life@v1").chain_update(id).finalize();
    data_encoding::HEXLOWER.encode(&hash[..8])
}

#[cfg(test)]
mod tests {
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
        assert!(crate::predicate::Target::parse("kernel >= 3").unwrap().matches(&facts), "{}", facts.kernel);
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
    fn what_is_no_machine_id_tells_machines_apart_by_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = directory.path().join(name);
            std::fs::write(&path, text).unwrap();
            path.to_str().unwrap().to_owned()
        };
        let (one, two) = (write("one", &format!("{}\n", "1a".repeat(16))), write("two", &"2b".repeat(16)));
        assert_ne!(machine_in(&[&one]), machine_in(&[&two]));
        // The first boot, an image, and a machine without.
        for text in ["uninitialized\n", "", "12", "\u{e9}"] {
            let none = write("none", text);
            assert_eq!(machine_in(&[&none]), "", "{text:?}");
            assert_eq!(machine_in(&[&none, &one]), machine_in(&[&one]));
        }
        assert_eq!(machine_in(&["/nonexistent"]), "");
    }
}
