//! The container that a control group's path names. Whoever may make control groups chooses the path: it is a hint, and
//! the namespaces are the truth.

use serde::Serialize;

/// Characters of a container's id.
const ID_CHARACTERS: usize = 64;

/// A container by its path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Default)]
pub(crate) struct Container {
    /// What runs it: `docker`, `podman`, `containerd`, `crio`, `lxc`, `nspawn`, …
    pub(crate) runtime: &'static str,
    /// Its id or name.
    pub(crate) id: String,
    /// The uid of its Kubernetes pod.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) pod: Option<String>,
    /// The process only watches the container.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(crate) monitor: bool,
}

/// Prefixes of a unit's name in front of an id, with the runtime; `true` for what only watches.
const PREFIXES: [(&str, &str, bool); 8] = [
    ("docker-", "docker", false),
    ("libpod-conmon-", "podman", true),
    ("libpod-", "podman", false),
    ("cri-containerd-", "containerd", false),
    ("cri-containerd:", "containerd", false),
    ("crio-conmon-", "crio", true),
    ("crio-", "crio", false),
    ("nerdctl-", "containerd", false),
];

/// Finds the container of a path, the innermost one.
#[must_use]
pub(crate) fn of_path(path: &str) -> Option<Container> {
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    let pod = parts.iter().find_map(|part| pod(part));
    for (place, part) in parts.iter().enumerate().rev() {
        let before = place.checked_sub(1).map(|before| parts[before]);
        let unit = part.trim_end_matches(".scope").trim_end_matches(".service");
        if let Some((runtime, id, monitor)) = by_prefix(unit) {
            return Some(Container { runtime, id: id.to_owned(), pod, monitor });
        }
        if is_id(unit) {
            let runtime = match before {
                Some("docker") => "docker",
                Some("garden") => "garden",
                Some(_) if parts.first() == Some(&"ecs") => "ecs",
                _ if pod.is_some() => "kubernetes",
                // containerd: /NAMESPACE/ID
                Some(_) if parts.len() == 2 => "containerd",
                _ => "unknown",
            };
            return Some(Container { runtime, id: unit.to_owned(), pod, monitor: false });
        }
        if let Some((name, runtime, monitor)) = by_name(unit, before) {
            return Some(Container { runtime, id: name, pod, monitor });
        }
    }
    pod.map(|uid| Container { runtime: "kubernetes", id: String::new(), pod: Some(uid), monitor: false })
}

fn is_id(text: &str) -> bool {
    text.len() == ID_CHARACTERS && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

fn by_prefix(unit: &str) -> Option<(&'static str, &str, bool)> {
    PREFIXES.iter().find_map(|(prefix, runtime, monitor)| {
        // A colon can stand in between: `SLICE:cri-containerd:ID`.
        let (_, rest) = unit.split_once(prefix)?;
        is_id(rest).then_some((*runtime, rest, *monitor))
    })
}

fn by_name(unit: &str, before: Option<&str>) -> Option<(String, &'static str, bool)> {
    let named = |name: &str, runtime, monitor| {
        (!name.is_empty()).then(|| (name.replace("\\x2d", "-"), runtime, monitor))
    };
    if let Some(name) = unit.strip_prefix("lxc.payload.") {
        return named(name, "lxc", false);
    }
    if let Some(name) = unit.strip_prefix("lxc.monitor.") {
        return named(name, "lxc", true);
    }
    if let Some(name) = unit.strip_prefix("systemd-nspawn@") {
        return named(name, "nspawn", false);
    }
    match before {
        Some("lxc") => named(unit, "lxc", false),
        Some("garden") => named(unit, "garden", false),
        Some("machine.slice") => named(unit.strip_prefix("machine-")?, "nspawn", false),
        Some("nomad.slice") => named(unit, "nomad", false),
        _ => None,
    }
}

/// The uid in `pod…` and `kubepods-…-pod….slice`; systemd writes `_` for `-`.
fn pod(part: &str) -> Option<String> {
    let part = part.trim_end_matches(".slice");
    let uid = match part.rsplit_once("-pod") {
        Some((slice, uid)) if slice.starts_with("kubepods") => uid,
        _ => part.strip_prefix("pod")?,
    };
    let uid = uid.replace('_', "-");
    let is_uid = uid.len() >= 32 && uid.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-');
    is_uid.then_some(uid)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
    const POD: &str = "2c48913c-b29f-11e7-9350-020968147796";

    #[test]
    fn paths_of_every_runtime_name_their_containers() {
        for (path, runtime, id, is_pod, monitor) in [
            ("/docker/ID", "docker", ID, false, false),
            ("/system.slice/docker-ID.scope", "docker", ID, false, false),
            (
                "/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-ID.scope/container",
                "podman",
                ID,
                false,
                false,
            ),
            ("/machine.slice/libpod-conmon-ID.scope", "podman", ID, false, true),
            ("/default/ID", "containerd", ID, false, false),
            ("/kubepods/burstable/podPOD/ID", "kubernetes", ID, true, false),
            (
                "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podUNDER.slice/cri-containerd-ID.scope",
                "containerd",
                ID,
                true,
                false,
            ),
            ("/kubepods-besteffort-podUNDER.slice:cri-containerd:ID", "containerd", ID, false, false),
            ("/kubepods.slice/kubepods-podUNDER.slice/crio-ID.scope", "crio", ID, true, false),
            ("/kubepods.slice/crio-conmon-ID.scope", "crio", ID, false, true),
            ("/lxc/web", "lxc", "web", false, false),
            ("/lxc.payload.web/system.slice/x.service", "lxc", "web", false, false),
            ("/lxc.monitor.web", "lxc", "web", false, true),
            ("/machine.slice/machine-my\\x2dweb.scope", "nspawn", "my-web", false, false),
            ("/machine.slice/systemd-nspawn@web.service/payload", "nspawn", "web", false, false),
            ("/ecs/TASK/ID", "ecs", ID, false, false),
            ("/garden/name", "garden", "name", false, false),
        ] {
            let path = path.replace("ID", ID).replace("POD", POD).replace("UNDER", &POD.replace('-', "_"));
            let container = of_path(&path).unwrap_or_else(|| panic!("{path}"));
            assert_eq!(
                (container.runtime, &*container.id, container.monitor),
                (runtime, id, monitor),
                "{path}"
            );
            assert_eq!(container.pod.as_deref(), is_pod.then_some(POD), "{path}");
        }
    }

    #[test]
    fn other_paths_name_none() {
        for path in [
            "/",
            "",
            "/system.slice/ssh.service",
            "/user.slice/user-0.slice/session-1.scope",
            "/init.scope",
            "/docker",
        ] {
            assert_eq!(of_path(path), None, "{path}");
        }
    }

    proptest! {
        #[test]
        fn any_path_can_be_asked_about(path in "[a-f0-9/.:@_-]{0,150}|\\PC{0,40}") {
            let _ = of_path(&path);
        }
    }
}
