//! The installation: the program, its directories, its secrets, its unit, and what confines its processes.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use vigie_files::secret_file;
use vigie_protocol::error_chain::ErrorChain;
use walkdir::{DirEntry, WalkDir};

use super::{Check, Outcome, Patient, Verdict, fine, note, trouble, unknown};

pub(super) const CHECKS: &[Check] = &[
    Check {
        id: "installation.program",
        title: "the agent's program",
        docs: "docs/doctor.md#installation",
        run: program,
    },
    Check {
        id: "installation.directories",
        title: "the agent's directories",
        docs: "docs/doctor.md#installation",
        run: directories,
    },
    Check { id: "installation.secrets", title: "files with secrets", docs: "docs/fleet.md", run: secrets },
    Check {
        id: "installation.unit",
        title: "the unit for systemd",
        docs: "docs/doctor.md#installation",
        run: unit,
    },
    Check {
        id: "installation.sandbox",
        title: "confinement of each process",
        docs: "docs/doctor.md#installation",
        run: sandbox,
    },
];

/// Where units are, the first one found is in force (systemd.unit(5)).
const UNITS: [&str; 4] = [
    "/etc/systemd/system/vigie.service",
    "/run/systemd/system/vigie.service",
    "/usr/lib/systemd/system/vigie.service",
    "/usr/local/lib/systemd/system/vigie.service",
];

fn program(patient: &Patient) -> Vec<Outcome> {
    let Some(pid) = patient.agent_pid() else {
        return vec![patient.without_agent("its program is not compared")];
    };
    let Ok(target) = std::fs::read_link(patient.path(&format!("/proc/{pid}/exe"))) else {
        return vec![unknown("the agent's program cannot be read", "run the doctor as root")];
    };
    let shown = target.to_string_lossy().into_owned();
    if shown.ends_with(" (deleted)") {
        let remedy = "restart the agent: `systemctl restart vigie`";
        return vec![trouble(Verdict::Warn, "the agent's program was replaced since it started", remedy)];
    }
    vec![match std::fs::metadata(patient.below(&target)) {
        Ok(data) if data.mode() & 0o022 != 0 => {
            let remedy = "`chmod go-w` on it: whoever can write it can replace the agent";
            trouble(Verdict::Fail, format!("users other than its owner can write {shown}"), remedy)
        }
        Ok(_) => fine(shown),
        Err(error) => unknown(format!("{shown} cannot be examined: {error}"), "run the doctor as root"),
    }]
}

fn directories(patient: &Patient) -> Vec<Outcome> {
    let Ok(config) = &patient.config else {
        return vec![patient.without_config("the directories are not known")];
    };
    let agent = &config.agent.agent;
    let mut outcomes = Vec::new();
    for (key, directory) in [("agent.run_dir", &agent.run_dir), ("agent.state_dir", &agent.state_dir)] {
        let path = patient.below(directory);
        match std::fs::symlink_metadata(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                outcomes.push(note(format!("{key}: {directory:?} does not exist yet; the agent creates it")));
            }
            Err(error) => {
                outcomes.push(unknown(format!("{key}: {directory:?}: {error}"), "run the doctor as root"))
            }
            Ok(data) if !data.is_dir() => {
                let remedy = "remove it, or configure another directory";
                outcomes.push(trouble(
                    Verdict::Fail,
                    format!("{key}: {directory:?} is not a directory"),
                    remedy,
                ));
            }
            Ok(data) if data.permissions().mode() & 0o022 != 0 => {
                let remedy = format!("`chmod go-w {}`", directory.display());
                outcomes.push(trouble(
                    Verdict::Fail,
                    format!("{key}: other users can write to {directory:?}"),
                    remedy,
                ));
            }
            Ok(_) => outcomes.push(fine(format!("{key}: {directory:?}"))),
        }
    }
    outcomes
}

fn secrets(patient: &Patient) -> Vec<Outcome> {
    let Ok(config) = &patient.config else {
        return vec![patient.without_config("the files are not known")];
    };
    let enrol = "enrol this host: `vigie fleet enrol --help`";
    let mut outcomes = Vec::new();
    let mut look = |key: &str, path: &Path, missing| {
        outcomes.push(of_secret(key, path, &patient.below(path), missing));
    };
    if let Some(fleet) = &config.agent.fleet {
        look("fleet.key_file", &fleet.key_file, enrol);
        look("fleet.credentials", &fleet.credentials, enrol);
        if let Some((_, key)) = &fleet.certificate {
            look("fleet.certificate_key", key, enrol);
        }
    }
    for sink in &config.agent.sinks {
        for (key, path) in sink.secret_files() {
            look(&format!("sink.{}.{key}", sink.name), path, "write the secret into it, with mode 0600");
        }
    }
    if outcomes.is_empty() {
        outcomes.push(note("there are no secrets: no fleet and no sink with one is configured"));
    }
    outcomes
}

fn of_secret(key: &str, shown: &Path, path: &Path, missing: &str) -> Outcome {
    match secret_file::read(path, 64 << 10) {
        Ok(_) => fine(format!("{key}: {shown:?}")),
        Err(secret_file::SecretFileError::Unreadable { source, .. })
            if source.kind() == std::io::ErrorKind::PermissionDenied =>
        {
            unknown(format!("{key}: {shown:?} cannot be read by this user"), "run the doctor as root")
        }
        Err(error @ secret_file::SecretFileError::Unreadable { .. }) => {
            trouble(Verdict::Fail, format!("{key}: {}", ErrorChain(&error)), missing)
        }
        Err(error) => {
            let remedy = "restrict it to the agent: `chmod 600`, `chown root`";
            trouble(Verdict::Fail, format!("{key}: {}", ErrorChain(&error)), remedy)
        }
    }
}

/// The files of the unit in force: itself and its drop-ins.
fn unit_files(patient: &Patient) -> Vec<PathBuf> {
    let Some(unit) = UNITS.iter().map(|path| patient.path(path)).find(|path| path.exists()) else {
        return Vec::new();
    };
    let mut files = vec![unit];
    for directory in UNITS {
        let drop_ins = WalkDir::new(patient.path(&format!("{directory}.d"))).min_depth(1).max_depth(1);
        let names = drop_ins.sort_by_file_name().into_iter().flatten().map(DirEntry::into_path);
        files.extend(names.filter(|path| path.extension().is_some_and(|ending| ending == "conf")));
    }
    files
}

fn unit(patient: &Patient) -> Vec<Outcome> {
    let files = unit_files(patient);
    if files.is_empty() {
        return vec![note("no systemd unit; the agent is started in another way")];
    }
    let texts: Vec<String> = files.iter().filter_map(|file| std::fs::read_to_string(file).ok()).collect();
    let lines: Vec<&str> = texts.iter().flat_map(|text| text.lines()).map(str::trim).collect();
    let last = |key: &str| lines.iter().rev().find_map(|line| line.strip_prefix(key));
    let mut outcomes = Vec::new();
    for (setting, lost) in [
        ("ProtectClock=yes", "timedrift cannot read the kernel's clock"),
        ("PrivateTmp=yes", "the host's /tmp is hidden"),
        ("PrivateDevices=yes", "the host's /dev is hidden"),
        ("ProtectHome=yes", "/root and /home are hidden"),
        ("RestrictNamespaces=yes", "other network namespaces cannot be entered"),
    ] {
        let key = setting.trim_end_matches("yes");
        if last(key).is_some_and(|value| matches!(value, "yes" | "true" | "on" | "1")) {
            let remedy = format!("remove {setting} from the unit or its drop-ins");
            outcomes.push(trouble(Verdict::Warn, format!("{setting}: {lost}"), remedy));
        }
    }
    if last("Restart=").is_none_or(|value| value == "no") {
        let remedy = "set Restart=always, because a stopped agent reports nothing";
        outcomes.push(trouble(Verdict::Warn, "systemd does not restart the agent when it ends", remedy));
    }
    if last("Delegate=").is_none_or(|value| matches!(value, "no" | "false" | "off" | "0")) {
        let remedy = "set Delegate=pids memory cpu, so that each module gets a cgroup";
        outcomes.push(trouble(Verdict::Warn, "the unit does not delegate its cgroup", remedy));
    }
    if outcomes.is_empty() {
        let more = files.len() - 1;
        let with = if more == 0 { String::new() } else { format!(" and {more} drop-ins") };
        outcomes.push(fine(format!("{}{with}", files[0].display())));
    }
    outcomes
}

fn sandbox(patient: &Patient) -> Vec<Outcome> {
    let Ok(status) = &patient.status else {
        return vec![patient.without_agent("its processes are not looked at")];
    };
    let modules = status.modules.iter().filter_map(|module| Some((module.name.to_string(), module.pid?)));
    let processes = std::iter::once(("agent".to_owned(), status.pid)).chain(modules);
    processes.map(|(name, pid)| of_process(patient, &name, pid)).collect()
}

/// What /proc says of a process's confinement (proc_pid_status(5)).
fn of_process(patient: &Patient, name: &str, pid: u32) -> Outcome {
    let Some(text) = patient.text(&format!("/proc/{pid}/status")) else {
        return unknown(format!("{name}: process {pid} cannot be read"), "run the doctor as root");
    };
    let field = |key: &str| text.lines().find_map(|line| line.strip_prefix(key)).map_or("?", str::trim);
    let filter = match field("Seccomp:") {
        "0" => "none",
        "1" => "strict",
        "2" => "filter",
        other => other,
    };
    note(format!(
        "{name}: seccomp {filter}, no_new_privs {}, capabilities {}",
        field("NoNewPrivs:"),
        field("CapEff:")
    ))
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};

    use super::*;
    use crate::doctor::tests::Planted;

    fn set_mode(path: &Path, mode: u32) {
        fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn a_program_that_was_replaced_or_that_others_can_write_is_named() {
        let host = |target: &str| {
            let host = Planted::new().with("/usr/bin/vigie", "x").with("/proc/4242/status", "x");
            std::os::unix::fs::symlink(target, host.patient.path("/proc/4242/exe")).unwrap();
            host
        };
        let good = host("/usr/bin/vigie");
        assert_eq!(good.examined("installation.program").0, Verdict::Ok);
        set_mode(&good.patient.path("/usr/bin/vigie"), 0o777);
        assert_eq!(good.examined("installation.program").0, Verdict::Fail);
        assert_eq!(host("/usr/bin/vigie (deleted)").examined("installation.program").0, Verdict::Warn);
        assert_eq!(Planted::new().without_agent().examined("installation.program").0, Verdict::Info);
    }

    #[test]
    fn a_directory_that_others_can_write_to_is_named() {
        let text = "[agent]\nrun_dir = \"/r\"\nstate_dir = \"/s\"\n";
        let host = Planted::new().configured(text).with("/r/x", "").with("/s/x", "");
        assert_eq!(host.examined("installation.directories").0, Verdict::Ok);
        set_mode(&host.patient.path("/s"), 0o777);
        assert_eq!(host.examined("installation.directories").0, Verdict::Fail);
        let host = Planted::new().configured(text).with("/r", "a file");
        assert_eq!(host.examined("installation.directories").0, Verdict::Fail);
    }

    #[test]
    fn a_secret_that_others_can_read_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key");
        fs::write(&path, "secret").unwrap();
        set_mode(&path, 0o600);
        assert_eq!(of_secret("k", &path, &path, "").verdict, Verdict::Ok);
        set_mode(&path, 0o644);
        let outcome = of_secret("k", &path, &path, "");
        assert_eq!(outcome.verdict, Verdict::Fail);
        assert!(outcome.found.contains("0644") && !outcome.found.contains("secret\n"), "{outcome:?}");
        assert_eq!(of_secret("k", &path, &directory.path().join("none"), "").verdict, Verdict::Fail);
        assert_eq!(Planted::new().examined("installation.secrets").0, Verdict::Info);
        let text = "[[sink]]\nname = \"hook\"\nkind = \"webhook\"\nurl_file = \"/s/url\"\n";
        let host = Planted::new().configured(text).with("/s/url", "https://receiver.example/secret");
        set_mode(&host.patient.path("/s/url"), 0o600);
        assert_eq!(host.examined("installation.secrets").0, Verdict::Ok);
        set_mode(&host.patient.path("/s/url"), 0o644);
        assert_eq!(host.examined("installation.secrets").0, Verdict::Fail);
    }

    #[test]
    fn the_unit_that_ships_is_fine_and_a_drop_in_that_blinds_modules_is_named() {
        let shipped = include_str!("../../conf/systemd/vigie.service");
        let host = || Planted::new().with("/usr/lib/systemd/system/vigie.service", shipped);
        assert_eq!(host().examined("installation.unit").0, Verdict::Ok);
        let blinded =
            host().with("/etc/systemd/system/vigie.service.d/x.conf", "[Service]\nPrivateTmp=yes\n");
        let (verdict, found) = blinded.examined("installation.unit");
        assert_eq!(verdict, Verdict::Warn);
        assert!(found.contains("/tmp is hidden"), "{found}");
        let bare = Planted::new().with("/etc/systemd/system/vigie.service", "[Service]\nExecStart=/x\n");
        assert_eq!(bare.examined("installation.unit").1.lines().count(), 2);
        assert_eq!(Planted::new().examined("installation.unit").0, Verdict::Info);
    }

    #[test]
    fn what_confines_a_process_is_shown() {
        let text = "NoNewPrivs:\t1\nSeccomp:\t2\nCapEff:\t0000000000280004\n";
        let host = Planted::new().with("/proc/4242/status", text).with("/proc/4243/status", text);
        let (verdict, found) = host.examined("installation.sandbox");
        assert_eq!(verdict, Verdict::Info);
        assert!(found.contains("fswatch: seccomp filter, no_new_privs 1"), "{found}");
        assert_eq!(Planted::new().examined("installation.sandbox").0, Verdict::Unknown);
    }
}
