//! What an alert of the journal is to a sink.

use std::sync::Arc;

use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};
use vigie_protocol::severity::Severity;

/// Who sends: the same for all alerts of an agent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Source {
    /// The host's name.
    pub host: String,
    /// The host's machine id; empty when it has none.
    pub machine_id: String,
    /// The distribution's name, such as `Debian GNU/Linux`.
    pub os_name: String,
    /// The distribution's version.
    pub os_version: String,
    /// The architecture, such as `amd64`.
    pub arch: String,
    /// Vigie's version.
    pub version: String,
}

/// One alert on its way to a sink.
#[derive(Debug, Clone, PartialEq)]
pub struct Alert {
    /// Who sends it.
    pub source: Arc<Source>,
    /// The journal in which it has its number.
    pub journal: Arc<str>,
    /// Its number in that journal; 0 for a test that is in none.
    pub seq: u64,
    /// When the agent recorded it, RFC 3339 in UTC.
    pub time: String,
    /// The module that sent it.
    pub module: String,
    /// The module's id for it.
    pub id: Option<String>,
    /// How severe it is.
    pub severity: Severity,
    /// The sentence for people.
    pub sentence: String,
    /// The keys of the alert, when it is a JSON object.
    pub fields: Map<String, Value>,
    /// The other side may have it already.
    pub resent: bool,
}

/// What an alert is made from.
#[derive(Debug, Clone)]
pub struct Recorded<'a> {
    /// See [`Alert::seq`].
    pub seq: u64,
    /// See [`Alert::time`].
    pub time: &'a str,
    /// See [`Alert::module`].
    pub module: &'a str,
    /// See [`Alert::id`].
    pub id: Option<&'a str>,
    /// See [`Alert::severity`].
    pub severity: Severity,
    /// The text as the module sent it; by custom a JSON object with the key `alert`.
    pub message: &'a str,
}

impl Alert {
    /// Reads a recorded alert.
    #[must_use]
    pub fn new(source: &Arc<Source>, journal: &Arc<str>, recorded: &Recorded<'_>) -> Self {
        let fields = match serde_json::from_str(recorded.message) {
            Ok(Value::Object(fields)) => fields,
            _ => Map::new(),
        };
        let sentence = match fields.get("alert") {
            Some(Value::String(sentence)) => sentence.clone(),
            _ => recorded.message.to_owned(),
        };
        Self {
            source: source.clone(),
            journal: journal.clone(),
            seq: recorded.seq,
            time: recorded.time.to_owned(),
            module: recorded.module.to_owned(),
            id: recorded.id.map(str::to_owned),
            severity: recorded.severity,
            sentence,
            fields,
            resent: false,
        }
    }

    /// What happened, by the alert's own word; empty when it does not say.
    #[must_use]
    pub fn event(&self) -> &str {
        self.text("event")
    }

    /// A text of the alert's own keys; empty when there is none.
    #[must_use]
    pub fn text(&self, key: &str) -> &str {
        self.fields.get(key).and_then(Value::as_str).unwrap_or_default()
    }

    /// A name for it that no other alert has: the journal and the number in it.
    #[must_use]
    pub fn unique(&self) -> String {
        format!("{}-{}", self.journal, self.seq)
    }

    /// The time in milliseconds since 1970; 0 when it cannot be read.
    #[must_use]
    pub fn milliseconds(&self) -> i64 {
        crate::text::milliseconds(&self.time).unwrap_or(0)
    }
}

/// A name for alerts that are sent together, which no others have.
#[must_use]
pub fn batch_id(alerts: &[Alert]) -> String {
    let (Some(first), Some(last)) = (alerts.first(), alerts.last()) else { return String::new() };
    let follows = |(one, next): (&Alert, &Alert)| one.journal == next.journal && one.seq + 1 == next.seq;
    if alerts.iter().zip(&alerts[1..]).all(follows) {
        return format!("{}-{}-{}", first.journal, first.seq, last.seq);
    }
    // Otherwise first and last do not say what is between them.
    let mut digest = Sha256::new();
    for alert in alerts {
        digest.update(alert.unique().as_bytes());
        digest.update([0]);
    }
    data_encoding::HEXLOWER.encode(&digest.finalize()[..16])
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    pub(crate) fn source() -> Arc<Source> {
        Arc::new(Source {
            host: "web-1".to_owned(),
            machine_id: "0123456789abcdef0123456789abcdef".to_owned(),
            os_name: "Debian GNU/Linux".to_owned(),
            os_version: "12".to_owned(),
            arch: "amd64".to_owned(),
            version: "0.1.0".to_owned(),
        })
    }

    pub(crate) fn alert(seq: u64, message: &str) -> Alert {
        let recorded = Recorded {
            seq,
            time: "2026-11-28T17:00:00.123456789Z",
            module: "fswatch",
            id: Some("e-7"),
            severity: Severity::of(message),
            message,
        };
        Alert::new(&source(), &"0011223344556677".into(), &recorded)
    }

    /// A change of a file with a path that is hard to write.
    pub(crate) fn hard() -> Alert {
        let path = r#"/srv/a "b]' \\x0a\\xff=\\ é<&>"#;
        alert(
            42,
            &json!({
                "severity": "critical", "alert": format!("{path} changed"), "event": "changed", "path": path,
                "kind": "file", "attributes": ["content", "size"], "rule": "recursive:/srv", "tags": ["web"],
                "time": "2026-11-28T16:59:59.5Z", "before": {"sha256": "a".repeat(64), "size": 3, "mode": "0644"},
                "after": {"sha256": "b".repeat(64), "size": 4, "owner": 0, "group": 0, "inode": 12,
                          "modified": "2026-11-28T16:59:59Z"},
                "process": {"pid": 812, "executable": "/usr/bin/vi", "command": "vi 'x'", "user": 0, "login_user": 1000,
                            "parent": {"pid": 700, "executable": "/bin/bash"}},
            })
            .to_string(),
        )
    }

    /// Any text that JSON can hold, often with what other formats escape.
    pub(crate) fn any_text() -> impl Strategy<Value = String> {
        prop_oneof![
            "[a-z/]{1,20}",
            any::<String>(),
            prop::collection::vec(
                prop::sample::select(
                    &[
                        "\"",
                        "\\",
                        "]",
                        "\n",
                        "\r",
                        "\0",
                        "\u{1b}",
                        "é",
                        "\u{10ffff}",
                        " ",
                        "'",
                        "<",
                        "&",
                        "="
                    ][..]
                ),
                0..12
            )
            .prop_map(|parts| parts.concat()),
        ]
    }

    /// Any alert that fswatch may send, and some that it would not.
    pub(crate) fn any_alert() -> impl Strategy<Value = Alert> {
        let events = &[
            "created",
            "changed",
            "removed",
            "renamed",
            "touched",
            "digest",
            "group",
            "notice",
            "accepted",
            "transaction",
            "expected",
            "new",
        ][..];
        let kinds = &[
            "file",
            "directory",
            "symbolic link",
            "fifo",
            "socket",
            "character device",
            "block device",
            "?",
        ][..];
        let attributes = &[
            "kind",
            "content",
            "size",
            "mode",
            "owner",
            "group",
            "modification_time",
            "target",
            "inode",
            "links",
            "device",
            "flags",
            "acl",
            "capabilities",
            "selinux_label",
            "extended_attributes",
        ][..];
        let object = (any_text(), any::<u32>(), any::<bool>(), 0..3_u8).prop_map(|(text, number, flag, form)| match form {
            0 => json!({"sha256": "c".repeat(64), "size": number, "mode": "4755", "owner": number, "group": 1,
                        "modified": "2026-01-02T03:04:05.678Z", "inode": number, "links": 2, "target": text}),
            1 => json!({"sha256": null, "not_read": text, "size": number, "modified": "253402300800 seconds", "acl": [text],
                        "flags": ["immutable"], "selinux_label": null}),
            _ => json!({"kind": "file", "odd": flag, "size": text, "owner": {"deep": [text]}}),
        }).boxed();
        let process = (any_text(), any::<i32>(), any::<bool>()).prop_map(|(text, number, flag)| {
            json!({"pid": number.unsigned_abs(), "executable": text, "command": text, "user": number.unsigned_abs(),
                   "user_name": text, "login_user": 1000, "container": if flag { Value::String(text.clone()) } else { json!({"id": text}) },
                   "parent": {"pid": 1, "executable": text}, "claimed": ["command"], "unknown": {"x": text}})
        });
        (
            prop::sample::select(events),
            prop::sample::select(kinds),
            prop::collection::vec(prop::sample::select(attributes), 1..4),
            (any_text(), any_text()),
            (prop::option::of(object.clone()), prop::option::of(object)),
            prop::option::of(process),
            (prop::sample::select(&Severity::ALL[..]), any::<bool>(), 1..u64::from(u32::MAX)),
        )
            .prop_map(|(event, kind, attributes, (path, text), (before, after), process, (severity, odd, number))| {
                let mut message = json!({
                    "severity": severity, "alert": text, "event": event, "path": format!("/{path}"), "kind": kind,
                    "attributes": attributes, "rule": text, "tags": [text], "time": "2026-11-28T16:59:59.5Z",
                    "before": before, "after": after, "process": process, "count": number, "from": format!("/{text}"),
                    "package": {"manager": "dpkg", "name": text, "version": "1.2"},
                    "window": {"from": "2026-11-28T16:00:00Z", "to": "2026-11-28T17:00:00Z"},
                    "group": {"id": "g", "samples": [path, text], "events": {"changed": 3}},
                });
                let fields = message.as_object_mut().unwrap();
                fields.retain(|_, value| !value.is_null());
                if odd {
                    fields.insert("path".to_owned(), json!(7));
                    fields.insert("time".to_owned(), json!("yesterday"));
                }
                alert(number, &message.to_string())
            })
    }

    #[test]
    fn a_plain_text_is_its_own_sentence() {
        let plain = alert(1, "disk is odd");

        assert_eq!((plain.sentence.as_str(), plain.fields.len(), plain.event()), ("disk is odd", 0, ""));
        assert_eq!(plain.severity, Severity::Medium);
        assert_eq!(hard().event(), "changed");
        assert_eq!(hard().milliseconds(), 1_795_885_200_123);
    }
}
