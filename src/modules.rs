//! The built-in modules: the one place that names them.

use std::process::ExitCode;

use vigie_accounts::Accounts;
use vigie_config::builtin::{BuiltinModule, KeyShape, KeyType, accept_any};
use vigie_events::Events;
use vigie_examplepersist::ExamplePersist;
use vigie_file::File;
use vigie_fswatch::FsWatch;
use vigie_netstat::Netstat;
use vigie_packages::Packages;
use vigie_persistence::Persistence;
use vigie_processes::Processes;
use vigie_protocol::control::ModuleKind;
use vigie_protocol::message::Message;
use vigie_sdk::{ModuleResult, run_adapter, run_persistent, run_standard};
use vigie_timedrift::TimeDrift;

use crate::exit::Exit;
use crate::print;

/// What the agent knows of the modules that are part of this program.
pub(crate) const BUILTINS: &[BuiltinModule] = &[
    BuiltinModule {
        name: "fswatch",
        kind: ModuleKind::Persistent,
        enabled_by_default: true,
        keys: FSWATCH_KEYS,
        empty_config: r#"{"Paths":{"Path":null}}"#,
        check: vigie_fswatch::check,
        masked_form: vigie_fswatch::masked_form,
    },
    BuiltinModule {
        name: "events",
        kind: ModuleKind::Persistent,
        enabled_by_default: false,
        keys: EVENTS_KEYS,
        empty_config: r#"{"Events":{"kinds":null}}"#,
        check: vigie_events::check,
        masked_form: vigie_events::masked_form,
    },
    BuiltinModule {
        name: "examplepersist",
        kind: ModuleKind::Persistent,
        enabled_by_default: false,
        keys: &[KeyShape { section: "ExamplePersist", key: "interval", kind: KeyType::Integer }],
        empty_config: r#"{"ExamplePersist":{"interval":0}}"#,
        check: vigie_examplepersist::check,
        masked_form: vigie_examplepersist::masked_form,
    },
    BuiltinModule {
        name: "accounts",
        kind: ModuleKind::Standard,
        enabled_by_default: true,
        keys: &[],
        empty_config: "{}",
        check: accept_any,
        masked_form: vigie_accounts::masked_form,
    },
    BuiltinModule {
        name: "persistence",
        kind: ModuleKind::Standard,
        enabled_by_default: true,
        keys: &[],
        empty_config: "{}",
        check: accept_any,
        masked_form: vigie_persistence::masked_form,
    },
    BuiltinModule {
        name: "file",
        kind: ModuleKind::Standard,
        enabled_by_default: true,
        keys: &[],
        empty_config: "{}",
        check: accept_any,
        masked_form: vigie_file::masked_form,
    },
    BuiltinModule {
        name: "netstat",
        kind: ModuleKind::Standard,
        enabled_by_default: true,
        keys: &[],
        empty_config: "{}",
        check: accept_any,
        masked_form: vigie_netstat::masked_form,
    },
    BuiltinModule {
        name: "packages",
        kind: ModuleKind::Standard,
        enabled_by_default: true,
        keys: &[],
        empty_config: "{}",
        check: accept_any,
        masked_form: vigie_packages::masked_form,
    },
    BuiltinModule {
        name: "processes",
        kind: ModuleKind::Standard,
        enabled_by_default: true,
        keys: &[],
        empty_config: "{}",
        check: accept_any,
        masked_form: vigie_processes::masked_form,
    },
    BuiltinModule {
        name: "timedrift",
        kind: ModuleKind::Standard,
        enabled_by_default: true,
        keys: &[],
        empty_config: "{}",
        check: accept_any,
        masked_form: vigie_timedrift::masked_form,
    },
];

const EVENTS_KEYS: &[KeyShape] = &[
    KeyShape { section: "Events", key: "kinds", kind: KeyType::Strings },
    KeyShape { section: "Events", key: "history_mib", kind: KeyType::Integer },
    KeyShape { section: "Events", key: "detections", kind: KeyType::Boolean },
    KeyShape { section: "Events", key: "rules", kind: KeyType::Strings },
    KeyShape { section: "Events", key: "disable", kind: KeyType::Strings },
    KeyShape { section: "Events", key: "bpf", kind: KeyType::Boolean },
];

/// `Paths.Path` is MIG's, the others are ours.
const FSWATCH_KEYS: &[KeyShape] = &[
    KeyShape { section: "Paths", key: "Path", kind: KeyType::Strings },
    KeyShape { section: "Paths", key: "exclude", kind: KeyType::Strings },
    KeyShape { section: "Paths", key: "attributes", kind: KeyType::Strings },
    KeyShape { section: "Paths", key: "severity", kind: KeyType::String },
    KeyShape { section: "Paths", key: "hash", kind: KeyType::Boolean },
    KeyShape { section: "Paths", key: "largest_hashed", kind: KeyType::String },
    KeyShape { section: "Paths", key: "growing", kind: KeyType::Boolean },
    KeyShape { section: "Paths", key: "follow", kind: KeyType::Boolean },
    KeyShape { section: "Paths", key: "tags", kind: KeyType::Strings },
    KeyShape { section: "Paths", key: "depth", kind: KeyType::Integer },
    KeyShape { section: "Paths", key: "groups", kind: KeyType::Named },
    KeyShape { section: "Fswatch", key: "settle_milliseconds", kind: KeyType::Integer },
    KeyShape { section: "Fswatch", key: "quick_scan_minutes", kind: KeyType::Integer },
    KeyShape { section: "Fswatch", key: "profile", kind: KeyType::String },
    KeyShape { section: "Fswatch", key: "rehash_days", kind: KeyType::Integer },
    KeyShape { section: "Fswatch", key: "cpu_percent", kind: KeyType::Integer },
    KeyShape { section: "Fswatch", key: "bytes_per_second", kind: KeyType::String },
    KeyShape { section: "Fswatch", key: "backend", kind: KeyType::String },
    KeyShape { section: "Fswatch", key: "history", kind: KeyType::String },
    KeyShape { section: "Fswatch", key: "storm_changes", kind: KeyType::Integer },
    KeyShape { section: "Fswatch", key: "behind_seconds", kind: KeyType::Integer },
    KeyShape { section: "Fswatch", key: "canary_seconds", kind: KeyType::Integer },
    KeyShape { section: "Fswatch", key: "commands", kind: KeyType::String },
];

/// Runs a persistent module on standard input and output.
pub(crate) fn persist(name: &str) -> ExitCode {
    match name {
        "fswatch" => run_persistent::<FsWatch>(),
        "events" => run_persistent::<Events>(),
        "examplepersist" => run_persistent::<ExamplePersist>(),
        _ => {
            // The one who started this reads messages.
            let text = format!("module {name:?} is not available");
            print::raw(&Message::log(&text).to_line());
            Exit::Usage.into()
        }
    }
}

/// Answers one query on standard input and output; a persistent module is asked through its socket.
pub(crate) fn run(name: &str) -> ExitCode {
    match name {
        "accounts" => run_standard::<Accounts>(),
        "persistence" => run_standard::<Persistence>(),
        "file" => run_standard::<File>(),
        "netstat" => run_standard::<Netstat>(),
        "packages" => run_standard::<Packages>(),
        "processes" => run_standard::<Processes>(),
        "timedrift" => run_standard::<TimeDrift>(),
        _ if is_persistent(name) => run_adapter(name),
        _ => {
            print::raw(&ModuleResult::failed([format!("module '{name}' is not available")]).to_line());
            ExitCode::SUCCESS
        }
    }
}

fn is_persistent(name: &str) -> bool {
    BUILTINS.iter().any(|builtin| builtin.name == name && builtin.kind == ModuleKind::Persistent)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_built_in_module_takes_its_own_empty_configuration() {
        for builtin in BUILTINS {
            let config = serde_json::from_str(builtin.empty_config).unwrap();

            assert_eq!((builtin.check)(&config), Ok(()), "{}", builtin.name);
        }
    }
}
