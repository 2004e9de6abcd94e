//! Alerts that leave the host in extra privacy mode: which module, which rule, how severe, how many; nothing that
//! identifies a file, a person or a process.

use serde_json::{Map, Value, json};

use crate::privacy::MASKED;

/// Keys with a word of a fixed vocabulary, or a list of them.
const WORDS: [&str; 4] = ["severity", "event", "kind", "attributes"];

/// Keys that the configuration gives: the entry that covers a path, and its labels.
const CONFIGURED: [&str; 2] = ["rule", "tags"];

/// Numbers of a group.
const COUNTS: [&str; 8] =
    ["events", "severities", "repeated", "as_recorded", "ended", "explained", "by_scripts", "told_alone"];

/// Longest word of a vocabulary in bytes.
const MAX_WORD_BYTES: usize = 40;

/// The alert's text with everything masked that identifies. What is no JSON object becomes one that says only that
/// there is an alert of this module.
#[must_use]
pub fn masked_alert(module: &str, message: &str) -> String {
    let fields = match serde_json::from_str(message) {
        Ok(Value::Object(fields)) => fields,
        _ => Map::new(),
    };
    let mut shown = Map::new();
    for key in WORDS {
        if let Some(value) = fields.get(key).and_then(words) {
            shown.insert(key.to_owned(), value);
        }
    }
    for key in CONFIGURED {
        if let Some(value @ (Value::String(_) | Value::Array(_))) = fields.get(key) {
            shown.insert(key.to_owned(), value.clone());
        }
    }
    if let Some(count) = fields.get("count").filter(|count| count.is_u64()) {
        shown.insert("count".to_owned(), count.clone());
    }
    if let Some(Value::Object(group)) = fields.get("group") {
        let counts: Map<String, Value> = COUNTS
            .into_iter()
            .filter_map(|key| Some((key.to_owned(), group.get(key).and_then(counts)?)))
            .collect();
        if !counts.is_empty() {
            shown.insert("group".to_owned(), counts.into());
        }
    }
    if let Some(name) = fields.get("condition").and_then(|condition| words(condition.get("name")?)) {
        shown.insert("condition".to_owned(), json!({ "name": name }));
    }
    let event = shown.get("event").and_then(Value::as_str).unwrap_or("alert");
    let sentence = format!("{module}: {event} ({MASKED}: extra privacy mode is on)");
    shown.insert("alert".to_owned(), sentence.into());
    shown.insert("masked".to_owned(), true.into());
    Value::Object(shown).to_string()
}

/// A word, or a list of words; a text with a slash, a digit or a capital may be anything.
fn words(value: &Value) -> Option<Value> {
    let is_word = |text: &str| {
        (1..=MAX_WORD_BYTES).contains(&text.len())
            && text.bytes().all(|byte| byte.is_ascii_lowercase() || b"_- ".contains(&byte))
    };
    match value {
        Value::String(text) if is_word(text) => Some(value.clone()),
        Value::Array(items) => {
            let all = items.iter().all(|item| item.as_str().is_some_and(is_word));
            all.then(|| value.clone())
        }
        _ => None,
    }
}

/// A number, a yes or no, or numbers by word.
fn counts(value: &Value) -> Option<Value> {
    match value {
        Value::Bool(_) | Value::Number(_) => Some(value.clone()),
        Value::Object(map) => {
            let all =
                map.iter().all(|(key, count)| count.is_u64() && words(&Value::String(key.clone())).is_some());
            all.then(|| value.clone())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_alert_keeps_what_and_how_many_and_loses_who_and_where() {
        let message = json!({
            "severity": "critical", "alert": "/home/ann/x changed", "event": "changed", "path": "/home/ann/x",
            "kind": "file", "attributes": ["content"], "rule": "home", "tags": ["people"], "count": 3,
            "before": {"sha256": "a".repeat(64)}, "process": {"pid": 1, "command": "vi"}, "time": "2026-01-01T00:00:00Z",
            "group": {"id": "g", "samples": ["/home/ann/x"], "events": {"changed": 3}, "by": "ann"},
        });

        let masked: Value = serde_json::from_str(&masked_alert("fswatch", &message.to_string())).unwrap();

        assert_eq!(
            masked,
            json!({
                "severity": "critical", "alert": "fswatch: changed (masked: extra privacy mode is on)", "masked": true,
                "event": "changed", "kind": "file", "attributes": ["content"], "rule": "home", "tags": ["people"],
                "count": 3, "group": {"events": {"changed": 3}},
            })
        );
        assert_eq!(
            masked_alert("scanner", "ann logged in"),
            r#"{"alert":"scanner: alert (masked: extra privacy mode is on)","masked":true}"#
        );
    }

    proptest! {
        /// Wherever a path, a digest or a number of a person stands but in a rule or a tag: it is not in what leaves.
        #[test]
        fn a_secret_anywhere_does_not_leave(key in prop::sample::select(vec![
            "alert", "event", "kind", "path", "from", "before", "after", "process", "group", "time", "window", "id", "new",
            "severity", "attributes", "count", "condition",
        ]), form in 0..4) {
            let secret = "/home/Ann7";
            let value = match form {
                0 => json!(secret),
                1 => json!([secret]),
                2 => json!({"name": secret, "samples": [secret], "events": {secret: 1}, "by": secret}),
                _ => json!({"deep": {"deeper": secret}}),
            };
            let masked = masked_alert("m", &json!({"severity": "low", key: value}).to_string());
            prop_assert!(!masked.contains("Ann7"), "{masked}");
        }
    }
}
