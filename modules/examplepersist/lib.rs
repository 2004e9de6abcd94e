//! The smallest complete persistent module: an example to start from.
//!
//! It writes the time to the agent's log every `interval` seconds, and answers a query with the string that it
//! was asked with. Its configuration in MIG's format:
//!
//! ```text
//! [examplepersist]
//! interval = 30
//! ```

use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use vigie_sdk::privacy::Showing;
use vigie_sdk::{Host, ModuleError, ModuleResult, PersistentModule, Query, Settings};

/// Seconds between two log lines when the configuration names none; MIG's default.
const DEFAULT_INTERVAL_SECS: u64 = 30;

/// The module's configuration. All keys are optional.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Config {
    examplepersist: Option<Section>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Section {
    /// Seconds; not positive means the default.
    interval: i64,
}

/// The parameters of a query, and the elements of its answer.
#[derive(Debug, Serialize, Deserialize)]
struct Echo {
    string: String,
}

/// The running module. Dropping the sender ends its thread.
#[derive(Debug)]
pub struct ExamplePersist {
    _running: mpsc::Sender<()>,
}

impl PersistentModule for ExamplePersist {
    const NAME: &'static str = "examplepersist";
    type Config = Config;

    fn start(settings: Settings<Config>, host: Host) -> Result<Self, ModuleError> {
        let interval = settings.config.examplepersist.unwrap_or_default().interval;
        let interval_secs = u64::try_from(interval).ok().filter(|secs| *secs > 0).unwrap_or_else(|| {
            host.log(&format!("config interval was <= 0, defaulting to {DEFAULT_INTERVAL_SECS} seconds"));
            DEFAULT_INTERVAL_SECS
        });
        let (running, stopped) = mpsc::channel();
        // Work of its own belongs on a thread: `start` returns at once, and queries are answered from then on.
        std::thread::spawn(move || {
            let interval = Duration::from_secs(interval_secs);
            while stopped.recv_timeout(interval) == Err(RecvTimeoutError::Timeout) {
                host.log(&format!("running, current time is {}", jiff::Timestamp::now()));
            }
        });
        Ok(Self { _running: running })
    }

    fn query(&self, query: Query) -> ModuleResult {
        match query.parse::<Echo>() {
            Ok(echo) if echo.string.is_empty() => {
                ModuleResult::rejected(["must set a string to echo".to_owned()])
            }
            Ok(echo) => ModuleResult::found(true, &echo),
            Err(error) => ModuleResult::rejected([error.to_string()]),
        }
    }
}

/// What a result may show in extra privacy mode: the string is whoever asked's own.
#[must_use]
pub fn masked_form(place: &[&str]) -> Showing {
    match place {
        ["elements"] => Showing::Inside,
        ["elements", "string"] | ["errors"] => Showing::Anything,
        _ => Showing::Nothing,
    }
}

/// Checks a configuration before it is sent to the module.
///
/// # Errors
/// Every problem as the key that has it, `section.key`, and what is wrong with it.
pub fn check(config: &serde_json::Value) -> Result<(), Vec<(String, String)>> {
    vigie_sdk::json::check_sections(config, &[("examplepersist", &[("interval", &check_interval)])])
}

fn check_interval(value: &serde_json::Value) -> Result<(), String> {
    match value.as_i64() {
        Some(_) => Ok(()),
        None => Err("must be a whole number of seconds".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use serde_json::value::to_raw_value;

    fn ask(parameters: &serde_json::Value) -> ModuleResult {
        let (running, _stopped) = mpsc::channel();
        let module = ExamplePersist { _running: running };
        module.query(Query::new(Some(to_raw_value(parameters).unwrap())))
    }

    #[test]
    fn a_query_is_answered_with_its_string_and_nothing_else() {
        let result = ask(&json!({"STRING": "hello", "other": 1}));

        assert!(result.success && result.foundanything);
        assert_eq!(result.elements.unwrap().get(), r#"{"string":"hello"}"#);
    }

    #[test]
    fn a_query_without_a_string_is_a_parameter_error() {
        for parameters in [json!({}), json!({"string": ""}), json!({"string": 5}), json!(null)] {
            let result = ask(&parameters);

            assert!(!result.success, "{parameters}");
            assert_eq!(result.errors.unwrap().len(), 1);
        }
    }

    #[test]
    fn the_configuration_is_checked_key_by_key() {
        assert_eq!(check(&json!({"ExamplePersist": {"Interval": 5}})), Ok(()));
        assert_eq!(check(&json!({})), Ok(()));
        let problems =
            check(&json!({"examplepersist": {"interval": "5s", "x": 1}, "other": {}})).unwrap_err();

        let keys: Vec<&str> = problems.iter().map(|(key, _)| key.as_str()).collect();
        assert_eq!(keys, ["examplepersist.interval", "examplepersist.x", "other"]);
    }
}
