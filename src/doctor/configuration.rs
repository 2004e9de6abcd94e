//! The configuration: whether it is valid, whether it watches anything, and whether it is in force.

use std::path::Path;
use std::time::SystemTime;

use vigie_protocol::control::{ConfigProblem, ConfigStatus, ModuleKind};

use super::{Check, Outcome, Patient, Verdict, fine, note, trouble, unknown};

pub(super) const CHECKS: &[Check] = &[
    Check {
        id: "configuration.files",
        title: "validity of all files",
        docs: "docs/configuration.md",
        run: files,
    },
    Check {
        id: "configuration.watched",
        title: "paths that fswatch watches",
        docs: "docs/fswatch.md",
        run: watched,
    },
    Check {
        id: "configuration.in-force",
        title: "whether the agent has loaded the present files",
        docs: "docs/configuration.md",
        run: in_force,
    },
];

fn files(patient: &Patient) -> Vec<Outcome> {
    let of = |verdict: Verdict| {
        move |problem: &ConfigProblem| {
            trouble(verdict, problem.to_string(), "correct it; `vigie check-config` lists all problems")
        }
    };
    match &patient.config {
        Err(_) if patient.hidden_file().is_some() => vec![patient.without_config("they are not checked")],
        Err(problems) => problems.iter().map(of(Verdict::Fail)).collect(),
        Ok(config) if !config.warnings.is_empty() => config.warnings.iter().map(of(Verdict::Warn)).collect(),
        Ok(config) => {
            let path = config
                .path
                .as_ref()
                .map_or("no file: the defaults apply".into(), |path| path.to_string_lossy());
            vec![fine(path)]
        }
    }
}

fn watched(patient: &Patient) -> Vec<Outcome> {
    let Ok(config) = &patient.config else {
        return vec![patient.without_config("the paths are not known")];
    };
    let fswatch = config.modules.iter().find(|spec| spec.name().as_str() == "fswatch");
    let Some(fswatch) =
        fswatch.filter(|spec| spec.section.enabled && spec.section.kind == ModuleKind::Persistent)
    else {
        return vec![note("fswatch is disabled: no file is watched")];
    };
    let text = fswatch.config.usable().map_or("", |config| config.get());
    let value: serde_json::Value = serde_json::from_str(text).unwrap_or_default();
    let has_paths = value["Paths"]["Path"].as_array().is_some_and(|paths| !paths.is_empty());
    let profile = value["Fswatch"]["profile"].as_str().filter(|profile| !profile.is_empty());
    vec![if has_paths {
        fine("paths are named")
    } else if profile != Some("none") {
        fine(format!("the built-in list {}", profile.unwrap_or("default")))
    } else {
        let file = config.agent.agent.persistconfigdir.join("fswatch.cfg");
        let remedy = format!("configure paths or a profile in {}", file.display());
        trouble(Verdict::Warn, "fswatch runs but has no path to watch", remedy)
    }]
}

fn in_force(patient: &Patient) -> Vec<Outcome> {
    let Ok(status) = &patient.status else {
        return vec![patient.without_agent("there is nothing to compare")];
    };
    // What the agent says of the newest file counts even where this file cannot be read.
    let path = patient.config.as_ref().ok().and_then(|config| config.path.as_deref());
    vec![match difference(&status.config, path) {
        Some(Ok((found, remedy))) => trouble(Verdict::Warn, found, remedy),
        Some(Err(())) => {
            unknown("cannot determine when the file was changed and read", "run the doctor as root")
        }
        None if patient.config.is_err() => patient.without_config("the file is not compared"),
        None => {
            fine(path.map_or("the defaults".into(), |path| format!("the agent has read {}", path.display())))
        }
    }]
}

/// Why what the file says now is not what the agent uses, and what to do; an error when that cannot be determined.
pub(crate) fn difference(
    status: &ConfigStatus,
    path: Option<&Path>,
) -> Option<Result<(String, &'static str), ()>> {
    if !status.last_reload_ok {
        let found = "the agent rejected the newest configuration and uses the previous one".to_owned();
        return Some(Ok((found, "correct it, then `vigie reload`")));
    }
    let path = path?;
    let read_at = status.last_reload_at.parse::<jiff::Timestamp>().map(SystemTime::from);
    let changed_at = std::fs::metadata(path).and_then(|data| data.modified());
    match (read_at, changed_at) {
        (Ok(read_at), Ok(changed_at)) if changed_at > read_at => Some(Ok((
            format!("{} was changed after the agent read it", path.display()),
            "`vigie reload --dry-run` shows what would change, `vigie reload` applies it",
        ))),
        (Ok(_), Ok(_)) => None,
        _ => Some(Err(())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::tests::Planted;

    #[test]
    fn an_invalid_file_is_named_with_its_line() {
        assert_eq!(Planted::new().examined("configuration.files").0, Verdict::Ok);
        let (verdict, found) =
            Planted::new().configured("[agent]\nstop_grace = 3\n").examined("configuration.files");
        assert_eq!(verdict, Verdict::Fail);
        assert!(found.contains("vigie.toml:2: agent.stop_grace"), "{found}");
        let warned = "[agent]\nstop_grace = \"9s\"\n";
        assert_eq!(Planted::new().configured(warned).examined("configuration.files").0, Verdict::Warn);
    }

    #[test]
    fn fswatch_that_watches_nothing_is_named() {
        assert_eq!(Planted::new().examined("configuration.watched").0, Verdict::Ok);
        let none = Planted::new().with("/modules.d/fswatch.cfg", "[fswatch]\nprofile = none\n");
        assert_eq!(none.configured("# nothing\n").examined("configuration.watched").0, Verdict::Warn);
        let host =
            Planted::new().with("/modules.d/fswatch.cfg", "[paths]\npath = /etc\n").configured("# nothing\n");
        assert_eq!(host.examined("configuration.watched").0, Verdict::Ok);
        let off = "[[module]]\nname = \"fswatch\"\nenabled = false\n";
        assert_eq!(Planted::new().configured(off).examined("configuration.watched").0, Verdict::Info);
    }

    #[test]
    fn a_file_that_the_agent_has_not_read_is_named() {
        let read_at = |time: &str| {
            let time = time.to_owned();
            Planted::new()
                .says(|status| status.config.last_reload_at = time)
                .examined("configuration.in-force")
                .0
        };
        assert_eq!(read_at("2020-01-01T00:00:00Z"), Verdict::Warn);
        assert_eq!(read_at("2120-01-01T00:00:00Z"), Verdict::Ok);
        let refused = Planted::new().says(|status| status.config.last_reload_ok = false);
        assert_eq!(refused.examined("configuration.in-force").0, Verdict::Warn);
        assert_eq!(Planted::new().without_agent().examined("configuration.in-force").0, Verdict::Info);
    }

    #[test]
    fn an_invalid_file_beside_a_running_agent_is_not_compared() {
        let invalid = || Planted::new().configured("[agent]\nstop_grace = 3\n");
        let in_force = |host: Planted| host.examined("configuration.in-force");

        let (verdict, found) = in_force(invalid());
        assert_eq!(verdict, Verdict::Unknown);
        assert_eq!(found, "the file is not compared: the configuration is invalid");
        let (verdict, found) = in_force(invalid().says(|status| status.config.last_reload_ok = false));
        assert!(verdict == Verdict::Warn && found.contains("rejected the newest"), "{found}");
        assert_eq!(in_force(invalid().without_agent()).0, Verdict::Info);
    }
}
