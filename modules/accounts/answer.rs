//! What the investigator gets.

use std::time::Duration;

use serde::Serialize;
use serde_json::{Map, Value, json};
use vigie_sdk::ModuleResult;
use vigie_sdk::privacy::{MASKED, Showing};

use crate::gather::Gathered;

/// Most bytes of all elements together; an answer stays below the 16 MiB that an agent takes.
const MAX_BYTES: usize = 14 << 20;

/// Writes the answer.
pub(crate) fn answer(gathered: Gathered, extraprivacy: bool, elapsed: Duration) -> ModuleResult {
    let Gathered { users, groups, sudo, keys, logins, failures, sessions, problems, mut coverage, examined } =
        gathered;
    coverage.examined = examined;
    let mut writer = Writer { elements: Map::new(), left: MAX_BYTES, cut: Vec::new() };
    // What an answer that is cut must still have comes first.
    let total = writer.put("users", &users)
        + writer.put("sudo", &sudo.rules)
        + writer.put("keys", &keys)
        + writer.put("sessions", &sessions)
        + writer.put("groups", &groups)
        + writer.put("logins", &logins)
        + writer.put("failures", &failures);
    writer.put("sudo_defaults", &sudo.defaults);
    writer.put("problems", &problems);
    let Writer { mut elements, cut, .. } = writer;
    let mut errors = Vec::new();
    for note in cut {
        coverage.skip("parts beyond the size limit of a result", note.clone());
        errors.push(note);
    }
    if extraprivacy {
        elements.values_mut().flat_map(|list| list.as_array_mut().into_iter().flatten()).for_each(mask);
        for skipped in &mut coverage.not_examined {
            MASKED.clone_into(&mut skipped.what);
            if vigie_sdk::privacy::identifies(&skipped.why) {
                MASKED.clone_into(&mut skipped.why);
            }
        }
    }
    let statistics = json!({"examined": examined, "totalhits": total, "exectime": format!("{elapsed:?}")});
    let mut result =
        ModuleResult::found(total > 0, &elements).with_statistics(&statistics).with_coverage(coverage);
    result.errors = (!errors.is_empty()).then_some(errors);
    result
}

struct Writer {
    elements: Map<String, Value>,
    left: usize,
    cut: Vec<String>,
}

impl Writer {
    /// Adds a list, as far as there is room; an empty one is left out. Returns how many there are.
    fn put<T: Serialize>(&mut self, name: &str, list: &[T]) -> usize {
        let mut values = Vec::new();
        for item in list {
            let Ok(value) = serde_json::to_value(item) else { continue };
            let bytes = value.to_string().len() + 1;
            if bytes > self.left {
                self.cut.push(format!(
                    "{} of {} {name} are listed because of the size limit of a result: narrow the query",
                    values.len(),
                    list.len()
                ));
                break;
            }
            self.left -= bytes;
            values.push(value);
        }
        if !values.is_empty() {
            self.elements.insert(name.to_owned(), Value::Array(values));
        }
        list.len()
    }
}

/// Keys whose values identify nobody.
const SHOWN: [&str; 12] = [
    "state",
    "password_status",
    "password_scheme",
    "must_change",
    "keys",
    "sudo",
    "privileged",
    "cert_authority",
    "password",
    "this_host",
    "tags",
    "algorithm",
];

/// Days say little, seconds say which.
const DAYS: [&str; 6] = ["last_change", "password_expires", "expire", "last_login", "time", "end"];

fn mask(item: &mut Value) {
    let Some(object) = item.as_object_mut() else { return };
    // What is neither text nor a list would have to be zero, which would be a lie.
    object.retain(|key, value| SHOWN.contains(&key.as_str()) || !(value.is_number() || value.is_boolean()));
    for (key, value) in object.iter_mut() {
        if SHOWN.contains(&key.as_str()) {
            continue;
        }
        match value {
            Value::String(text) if DAYS.contains(&key.as_str()) => text.truncate("2026-01-01".len()),
            Value::String(text) if !text.is_empty() => MASKED.clone_into(text),
            Value::Array(items) => items.iter_mut().for_each(|item| *item = json!(MASKED)),
            _ => {}
        }
    }
}

fn is_day(text: &str) -> bool {
    text.len() <= "2026-01-01".len() && text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'-')
}

/// What an answer may show in extra privacy mode: states, counts and days.
#[must_use]
pub fn masked_form(place: &[&str]) -> Showing {
    match place {
        ["elements"] => Showing::Inside,
        [
            "elements",
            "users" | "groups" | "sudo" | "sudo_defaults" | "keys" | "logins" | "failures" | "sessions"
            | "problems",
        ] => Showing::Inside,
        ["elements", _, key] if SHOWN.contains(key) => Showing::Unnamed,
        ["elements", _, key] if DAYS.contains(key) => Showing::Text(is_day),
        ["elements", _, _] => Showing::Hidden,
        ["statistics"] => Showing::Inside,
        ["statistics", "examined" | "totalhits" | "exectime"] => Showing::Unnamed,
        ["errors"] => Showing::Unnamed,
        _ => Showing::Nothing,
    }
}
