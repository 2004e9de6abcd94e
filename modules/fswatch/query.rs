//! What an investigator can ask, and the answers.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;

use serde::{Deserialize, Deserializer};
use serde_json::{Value, json};
use vigie_sdk::{ModuleError, ModuleResult, Query};

use crate::change::shown;
use crate::engine::{Order, Status};

/// Paths that the status lists of one kind; their number is always told.
const LISTED_PATHS: usize = 100;

/// Time between two looks at whether somebody still waits for the answer.
const PATIENCE: Duration = Duration::from_millis(100);

/// What is put in a name's place in extra privacy mode.
const MASKED: &str = "masked";

/// The parameters of a query. Without any, the status is asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Parameters {
    /// List all directories and files that are not watched or not readable.
    pub unwatched: bool,
    /// Say which rule applies to this path.
    pub explain: Option<String>,
    /// Compare now: everything, or these paths.
    #[serde(deserialize_with = "selection")]
    pub rescan: Option<Selection>,
}

/// Everything, or some paths.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selection {
    /// Everything.
    All,
    /// These and what is below them.
    Paths(Vec<String>),
}

fn selection<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Selection>, D::Error> {
    Ok(match Value::deserialize(deserializer)? {
        Value::Null | Value::Bool(false) => None,
        Value::Bool(true) => Some(Selection::All),
        Value::String(path) => Some(Selection::Paths(vec![path])),
        Value::Array(paths) => {
            let paths: Option<Vec<_>> = paths.iter().map(|path| path.as_str().map(str::to_owned)).collect();
            Some(Selection::Paths(
                paths.ok_or_else(|| serde::de::Error::custom("every path must be a text"))?,
            ))
        }
        _ => return Err(serde::de::Error::custom("must be true, a path or a list of paths")),
    })
}

/// Reads a path as answers and alerts show it: `\xNN` is a byte, `\\` a backslash.
#[must_use]
pub fn path_from_text(text: &str) -> PathBuf {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let escaped = match after {
            _ if *first != b'\\' => None,
            [b'x', high, low, ..] => {
                let digits = [*high, *low];
                let digits = std::str::from_utf8(&digits).ok();
                digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()).map(|byte| (byte, 3))
            }
            [b'\\', ..] => Some((b'\\', 1)),
            _ => None,
        };
        let (byte, length) = escaped.unwrap_or((*first, 0));
        bytes.push(byte);
        rest = &after[length..];
    }
    OsString::from_vec(bytes).into()
}

/// Answers a query; `ask` gives the engine an order.
///
/// # Errors
/// When the parameters are wrong, or nobody waits any longer for the engine's answer.
pub fn answer(
    query: &Query,
    status: &Status,
    masked: bool,
    ask: &dyn Fn(Order),
) -> Result<ModuleResult, ModuleError> {
    let parameters: Parameters = match &query.parameters {
        Some(_) => query.parse()?,
        None => Parameters::default(),
    };
    let elements = if parameters.unwatched {
        describe(status, masked, usize::MAX)
    } else if let Some(path) = &parameters.explain {
        if masked {
            return Err(ModuleError::new("extra privacy mode is on: no path is explained"));
        }
        let (reply, answer) = mpsc::sync_channel(1);
        ask(Order::Explain(path_from_text(path), reply));
        wait(query, &answer)?
    } else if let Some(selection) = &parameters.rescan {
        let paths = match selection {
            Selection::All => Vec::new(),
            Selection::Paths(paths) => paths.iter().map(|path| path_from_text(path)).collect(),
        };
        let (reply, answer) = mpsc::sync_channel(1);
        ask(Order::Rescan(paths, reply));
        wait(query, &answer)?;
        json!({"rescanned": true})
    } else {
        describe(status, masked, LISTED_PATHS)
    };
    Ok(ModuleResult::found(true, &elements))
}

fn wait<T>(query: &Query, answer: &mpsc::Receiver<T>) -> Result<T, ModuleError> {
    loop {
        match answer.recv_timeout(PATIENCE) {
            Ok(answer) => return Ok(answer),
            Err(mpsc::RecvTimeoutError::Timeout) if !query.is_stopped() => {}
            Err(_) => {
                return Err(ModuleError::new(
                    "stopped before the engine answered; what was asked for goes on",
                ));
            }
        }
    }
}

fn describe(status: &Status, masked: bool, most: usize) -> Value {
    let name = |path: &Path| if masked { MASKED.to_owned() } else { shown(path) };
    let reasons = |paths: &BTreeMap<PathBuf, String>| -> Vec<_> {
        let listed = paths.iter().take(most);
        listed.map(|(path, why)| json!({"path": name(path), "reason": why})).collect()
    };
    let waiting: Vec<_> = status.waiting.iter().take(most).map(|path| name(path)).collect();
    json!({
        "ok": status.unwatched.is_empty() && status.unreadable.is_empty(),
        "baseline_complete": status.baseline_complete,
        "paths": status.entries,
        "files": status.objects,
        "watches": status.watches,
        "pending": status.pending,
        "alerts": status.alerts,
        "overflows": status.overflows,
        "last_scan": status.last_scan.map(|(at, took)| json!({
            "time": humantime::format_rfc3339_millis(at).to_string(),
            "seconds": took.as_secs_f64(),
        })),
        "waiting_count": status.waiting.len(),
        "waiting": waiting,
        "unreadable_count": status.unreadable.len(),
        "unreadable": reasons(&status.unreadable),
        "unwatched_count": status.unwatched.len(),
        "unwatched": reasons(&status.unwatched),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_selection_is_everything_a_path_or_some_paths() {
        let rescan = |value: Value| {
            serde_json::from_value::<Parameters>(json!({"rescan": value})).map(|one| one.rescan)
        };

        assert_eq!(rescan(json!(true)).unwrap(), Some(Selection::All));
        assert_eq!(rescan(json!("/a")).unwrap(), Some(Selection::Paths(vec!["/a".to_owned()])));
        assert_eq!(rescan(json!(["/a"])).unwrap(), Some(Selection::Paths(vec!["/a".to_owned()])));
        assert_eq!(rescan(json!(false)).unwrap(), None);
        assert!(rescan(json!(1)).is_err());
        assert!(serde_json::from_value::<Parameters>(json!({"rescn": true})).is_err());
    }

    proptest! {
        #[test]
        fn a_path_is_found_again_as_it_was_shown(bytes in proptest::collection::vec(1u8..=255, 0..40)) {
            let path = PathBuf::from(OsString::from_vec(bytes));

            prop_assert_eq!(path_from_text(&shown(&path)), path);
        }
    }
}
