//! Every message that MIG's agent and modules exchanged is one that we understand, and ours have the keys that
//! they need. The captured bytes are in `tests/vectors/wire`.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::{Path, PathBuf};

use serde_json::Value;
use vigie_sdk::ModuleResult;
use vigie_sdk::protocol::{
    AlertParameters, Class, ConfigParameters, LogParameters, Message, MessageRef, QueryOptions,
    RegisterParameters,
};
use vigie_sdk::socket::SocketSpec;

fn captured(ending: &str) -> Vec<(PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/vectors/wire");
    let mut found = Vec::new();
    for session in std::fs::read_dir(root).unwrap() {
        for file in std::fs::read_dir(session.unwrap().path()).unwrap() {
            let path = file.unwrap().path();
            if path.to_str().unwrap().ends_with(ending) {
                let text = std::fs::read_to_string(&path).unwrap();
                found.push((path, text));
            }
        }
    }
    assert!(found.len() >= 8, "only {} captured files end with {ending}", found.len());
    found
}

fn is_persistent(path: &Path) -> bool {
    path.file_name().unwrap().to_str().unwrap().starts_with("P-")
}

#[test]
fn all_that_migs_agent_wrote_to_modules_is_understood() {
    for (path, text) in captured(".in.raw") {
        for line in text.lines() {
            let message = MessageRef::parse(line).unwrap_or_else(|error| panic!("{path:?}: {error}"));
            match message.class {
                Class::Config => {
                    let config: ConfigParameters = message.parameters_as("config").unwrap();
                    assert!(!config.hostname.is_empty() && config.config.is_some());
                    assert_eq!(config.environment.os, "linux");
                }
                Class::Ping => assert_eq!(message.parameters, None),
                Class::Parameters => assert!(!is_persistent(&path) && message.parameters.is_some()),
                other => panic!("{path:?}: {other}"),
            }
        }
    }
}

#[test]
fn all_that_migs_modules_wrote_is_understood() {
    for (path, text) in captured(".out.raw") {
        for line in text.lines() {
            if !is_persistent(&path) {
                let result: ModuleResult = serde_json::from_str(line).unwrap();
                let same: Value = serde_json::from_slice(&result.to_line()).unwrap();
                assert_eq!(same, serde_json::from_str::<Value>(line).unwrap(), "{path:?}");
                continue;
            }
            let message = MessageRef::parse(line).unwrap_or_else(|error| panic!("{path:?}: {error}"));
            match message.class {
                Class::Register => {
                    let register: RegisterParameters<'_> = message.parameters_as("register").unwrap();
                    register.sockpath.parse::<SocketSpec>().unwrap();
                    assert!(register.capabilities.is_empty());
                }
                Class::Log => drop(message.parameters_as::<LogParameters<'_>>("log").unwrap()),
                Class::Alert => {
                    let alert: AlertParameters<'_> = message.parameters_as("alert").unwrap();
                    let inner: Value = serde_json::from_str(&alert.message).unwrap();
                    assert!(inner["severity"].is_string() && inner["alert"].is_string());
                }
                Class::Ping => assert_eq!(Message::pong(&message).to_line(), b"{\"class\":\"ping\"}\n"),
                other => panic!("{path:?}: {other}"),
            }
        }
    }
}

#[test]
fn what_we_write_is_what_migs_programs_wrote_plus_keys_that_they_ignore() {
    for (path, text) in captured(".in.raw") {
        for line in text.lines() {
            let theirs: Value = serde_json::from_str(line).unwrap();
            let message = MessageRef::parse(line).unwrap();
            let ours = match message.class {
                Class::Config => {
                    Message::config(&message.parameters_as::<ConfigParameters>("config").unwrap()).to_line()
                }
                Class::Ping => Message::ping(1).to_line(),
                _ => Message::parameters(
                    message.parameters.map(|raw| raw.0.to_owned()),
                    QueryOptions {
                        persistsock: message.persistsock.map(|spec| spec.into_owned()),
                        ..QueryOptions::default()
                    },
                )
                .to_line(),
            };
            let ours: Value = serde_json::from_slice(&ours).unwrap();
            assert_contains(&ours, &theirs, &path);
        }
    }
}

/// Whether every key of `theirs` is in `ours` with the same value, at every level.
fn assert_contains(ours: &Value, theirs: &Value, path: &Path) {
    match (ours, theirs) {
        (Value::Object(ours), Value::Object(theirs)) => {
            for (key, value) in theirs {
                let own = ours.get(key).unwrap_or_else(|| panic!("{path:?}: we lack {key:?}"));
                assert_contains(own, value, path);
            }
        }
        _ => assert_eq!(ours, theirs, "{path:?}"),
    }
}
