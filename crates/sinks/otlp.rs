//! OpenTelemetry's logs over HTTP: the request in protobuf and in JSON, and the collector's answer.
//!
//! The messages are written by hand: there are eight of them, and the tests read them back with the official classes.
//! Numbers of fields are those of `opentelemetry/proto/logs/v1/logs.proto` and `common/v1/common.proto`, version 1.5.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};
use vigie_protocol::severity::Severity;

use crate::alert::{Alert, Source};
use crate::text::{nanoseconds, plain, split_path};

/// In which form a request is written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Encoding {
    /// `application/x-protobuf`.
    #[default]
    Protobuf,
    /// `application/json`.
    Json,
}

/// A value of an attribute; others are written as text.
#[derive(Debug, Clone, PartialEq)]
enum Attribute {
    Text(String),
    Number(i64),
    Flag(bool),
    Texts(Vec<String>),
}

type Attributes = Vec<(String, Attribute)>;

impl Encoding {
    /// The media type of requests and answers.
    #[must_use]
    pub fn media_type(self) -> &'static str {
        match self {
            Self::Protobuf => "application/x-protobuf",
            Self::Json => "application/json",
        }
    }

    /// The body of a request.
    #[must_use]
    pub fn body(self, alerts: &[Alert]) -> Vec<u8> {
        match self {
            Self::Protobuf => protobuf(alerts),
            Self::Json => serde_json::to_vec(&json(alerts)).expect("a request is plain data"),
        }
    }

    /// How many records the collector refused, and what it says; an answer in another form refuses none. `None` for one
    /// that begins like an answer and is none, as one that is cut: nobody knows what stood in the rest.
    #[must_use]
    pub fn rejected(self, answer: &[u8]) -> Option<(u64, String)> {
        match self {
            Self::Protobuf => rejected_in_protobuf(answer),
            Self::Json => rejected_in_json(answer),
        }
    }
}

fn resource(source: &Source) -> Attributes {
    let texts = [
        ("service.name", "vigie"),
        ("service.version", &source.version),
        ("service.instance.id", &source.machine_id),
        ("host.name", &source.host),
        ("host.id", &source.machine_id),
        ("host.arch", &source.arch),
        ("os.type", "linux"),
        ("os.name", &source.os_name),
        ("os.version", &source.os_version),
    ];
    let known = texts.into_iter().filter(|(_, text)| !text.is_empty());
    known.map(|(name, text)| (name.to_owned(), Attribute::Text(text.to_owned()))).collect()
}

fn severity_number(severity: Severity) -> u64 {
    match severity {
        Severity::Low => 10,
        Severity::Medium => 13,
        Severity::High => 17,
        Severity::Critical => 18,
    }
}

fn event_name(alert: &Alert) -> String {
    let event: String =
        alert.event().chars().filter(|c| c.is_ascii_lowercase() || matches!(c, '_' | '-')).take(32).collect();
    match (event.as_str(), alert.text("path")) {
        ("", _) => "vigie.alert".to_owned(),
        (event, "") => format!("vigie.{event}"),
        (event, _) => format!("vigie.file.{event}"),
    }
}

fn attributes(alert: &Alert) -> Attributes {
    let mut all = Attributes::new();
    let mut text = |name: &str, value: &str| {
        if !value.is_empty() {
            all.push((name.to_owned(), Attribute::Text(value.to_owned())));
        }
    };
    text("vigie.journal", &alert.journal);
    text("vigie.alert.id", alert.id.as_deref().unwrap_or_default());
    text("vigie.module", &alert.module);
    text("vigie.rule", alert.text("rule"));
    text("file.path", alert.text("path"));
    if !alert.text("path").is_empty() {
        let (parent, name) = split_path(alert.text("path"));
        text("file.name", name);
        text("file.directory", parent);
    }
    text("vigie.from", alert.text("from"));
    text("file.type", alert.text("kind"));
    all.push(("vigie.alert.seq".to_owned(), Attribute::Number(i64::try_from(alert.seq).unwrap_or(i64::MAX))));
    if alert.resent {
        all.push(("vigie.resent".to_owned(), Attribute::Flag(true)));
    }
    for (key, value) in &alert.fields {
        match (key.as_str(), value) {
            ("after", Value::Object(known)) => object(&mut all, known, ""),
            ("before", Value::Object(known)) => object(&mut all, known, "vigie.before."),
            ("process", Value::Object(process)) => process_attributes(&mut all, process),
            ("package", Value::Object(package)) => nested(&mut all, "package", package),
            ("group", Value::Object(group)) => nested(&mut all, "vigie.group", group),
            ("tags" | "attributes" | "count" | "refers_to", value) => {
                all.push((format!("vigie.{key}"), attribute(value)))
            }
            _ => {}
        }
    }
    all
}

fn attribute(value: &Value) -> Attribute {
    match value {
        Value::Bool(flag) => Attribute::Flag(*flag),
        Value::Number(number) => {
            number.as_i64().map_or_else(|| Attribute::Text(number.to_string()), Attribute::Number)
        }
        Value::Array(items) => Attribute::Texts(items.iter().map(plain).collect()),
        other => Attribute::Text(plain(other)),
    }
}

fn nested(all: &mut Attributes, prefix: &str, object: &Map<String, Value>) {
    all.extend(
        object
            .iter()
            .filter(|(_, value)| !value.is_null())
            .map(|(key, value)| (format!("{prefix}.{key}"), attribute(value))),
    );
}

/// What is known of a file; by the names of the semantic conventions where they have one.
fn object(all: &mut Attributes, known: &Map<String, Value>, prefix: &str) {
    for (key, value) in known.iter().filter(|(_, value)| !value.is_null()) {
        let name = match key.as_str() {
            "sha256" => "file.hash.sha256",
            "size" => "file.size",
            "mode" => "file.mode",
            "owner" => "file.owner.id",
            "group" => "file.group.id",
            "modified" => "file.modified",
            "inode" => "file.inode",
            "target" => "file.symbolic_link.target_path",
            _ => "",
        };
        let value = match (key.as_str(), attribute(value)) {
            // The conventions have them as texts.
            ("owner" | "group" | "inode", Attribute::Number(number)) => Attribute::Text(number.to_string()),
            (_, value) => value,
        };
        let name = match (prefix, name) {
            ("", "") => format!("vigie.after.{key}"),
            ("", name) => name.to_owned(),
            (prefix, _) => format!("{prefix}{key}"),
        };
        all.push((name, value));
    }
}

fn process_attributes(all: &mut Attributes, process: &Map<String, Value>) {
    for (key, value) in process.iter().filter(|(_, value)| !value.is_null()) {
        let name = match key.as_str() {
            "pid" => "process.pid",
            "executable" => "process.executable.path",
            "command" => "process.command_line",
            "user" => "process.user.id",
            "user_name" => "process.user.name",
            "login_user" => "user.id",
            "login_name" => "user.name",
            "container" => "container.id",
            "parent" => {
                if let Some(pid) = value.get("pid").and_then(Value::as_i64) {
                    all.push(("process.parent_pid".to_owned(), Attribute::Number(pid)));
                }
                continue;
            }
            _ => continue,
        };
        let value = match (name, attribute(value)) {
            ("process.pid", number @ Attribute::Number(_)) => number,
            (_, Attribute::Number(number)) => Attribute::Text(number.to_string()),
            (_, value) => value,
        };
        all.push((name.to_owned(), value));
    }
}

/// Attributes with each name once: the last one counts.
fn unique(attributes: Attributes) -> BTreeMap<String, Attribute> {
    attributes.into_iter().collect()
}

fn by_module(alerts: &[Alert]) -> BTreeMap<&str, Vec<&Alert>> {
    let mut scopes: BTreeMap<&str, Vec<&Alert>> = BTreeMap::new();
    for alert in alerts {
        scopes.entry(&alert.module).or_default().push(alert);
    }
    scopes
}

fn times(alert: &Alert) -> (u64, u64) {
    let observed = nanoseconds(&alert.time).unwrap_or(0);
    (nanoseconds(alert.text("time")).unwrap_or(observed), observed)
}

// ---- protobuf

fn varint(buffer: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        buffer.push((number as u8 & 0x7f) | 0x80);
        number >>= 7;
    }
    buffer.push(number as u8);
}

fn key(buffer: &mut Vec<u8>, field: u64, wire_type: u64) {
    varint(buffer, field << 3 | wire_type);
}

fn bytes(buffer: &mut Vec<u8>, field: u64, content: &[u8]) {
    key(buffer, field, 2);
    varint(buffer, content.len() as u64);
    buffer.extend_from_slice(content);
}

fn fixed(buffer: &mut Vec<u8>, field: u64, number: u64) {
    key(buffer, field, 1);
    buffer.extend_from_slice(&number.to_le_bytes());
}

/// `AnyValue`.
fn value_bytes(value: &Attribute) -> Vec<u8> {
    let mut buffer = Vec::new();
    match value {
        Attribute::Text(text) => bytes(&mut buffer, 1, text.as_bytes()),
        Attribute::Flag(flag) => {
            key(&mut buffer, 2, 0);
            varint(&mut buffer, u64::from(*flag));
        }
        Attribute::Number(number) => {
            key(&mut buffer, 3, 0);
            varint(&mut buffer, number.cast_unsigned());
        }
        Attribute::Texts(texts) => {
            let mut array = Vec::new();
            for text in texts {
                bytes(&mut array, 1, &value_bytes(&Attribute::Text(text.clone())));
            }
            bytes(&mut buffer, 5, &array);
        }
    }
    buffer
}

/// A repeated `KeyValue`.
fn pairs(buffer: &mut Vec<u8>, field: u64, attributes: Attributes) {
    for (name, value) in unique(attributes) {
        let mut pair = Vec::new();
        bytes(&mut pair, 1, name.as_bytes());
        bytes(&mut pair, 2, &value_bytes(&value));
        bytes(buffer, field, &pair);
    }
}

fn record(alert: &Alert) -> Vec<u8> {
    let (time, observed) = times(alert);
    let mut record = Vec::new();
    fixed(&mut record, 1, time);
    key(&mut record, 2, 0);
    varint(&mut record, severity_number(alert.severity));
    bytes(&mut record, 3, alert.severity.name().as_bytes());
    bytes(&mut record, 5, &value_bytes(&Attribute::Text(alert.sentence.clone())));
    pairs(&mut record, 6, attributes(alert));
    fixed(&mut record, 11, observed);
    bytes(&mut record, 12, event_name(alert).as_bytes());
    record
}

fn protobuf(alerts: &[Alert]) -> Vec<u8> {
    let Some(first) = alerts.first() else { return Vec::new() };
    let mut resource_logs = Vec::new();
    let mut resource_bytes = Vec::new();
    pairs(&mut resource_bytes, 1, resource(&first.source));
    bytes(&mut resource_logs, 1, &resource_bytes);
    for (module, alerts) in by_module(alerts) {
        let mut scope = Vec::new();
        bytes(&mut scope, 1, format!("vigie.{module}").as_bytes());
        bytes(&mut scope, 2, first.source.version.as_bytes());
        let mut scope_logs = Vec::new();
        bytes(&mut scope_logs, 1, &scope);
        for alert in alerts {
            bytes(&mut scope_logs, 2, &record(alert));
        }
        bytes(&mut resource_logs, 2, &scope_logs);
    }
    let mut request = Vec::new();
    bytes(&mut request, 1, &resource_logs);
    request
}

/// A field of a message: its number, and its bytes or its number.
enum Field<'a> {
    Bytes(u64, &'a [u8]),
    Number(u64, u64),
}

fn read_varint(input: &mut &[u8]) -> Option<u64> {
    let mut number = 0_u64;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = input.split_first()?;
        *input = rest;
        number |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(number);
        }
    }
    None
}

fn read_field<'a>(input: &mut &'a [u8]) -> Option<Field<'a>> {
    let head = read_varint(input)?;
    let mut take = |length: usize| {
        let (taken, rest) = input.split_at_checked(length)?;
        *input = rest;
        Some(taken)
    };
    match head & 7 {
        0 => Some(Field::Number(head >> 3, read_varint(input)?)),
        1 => take(8).map(|taken| Field::Bytes(head >> 3, taken)),
        5 => take(4).map(|taken| Field::Bytes(head >> 3, taken)),
        2 => {
            let length = usize::try_from(read_varint(input)?).ok()?;
            let (taken, rest) = input.split_at_checked(length)?;
            *input = rest;
            Some(Field::Bytes(head >> 3, taken))
        }
        _ => None,
    }
}

/// How `ExportLogsServiceResponse` begins when there is anything in it: field 1, bytes.
const PARTIAL_SUCCESS: u8 = 0x0a;

fn rejected_in_protobuf(mut answer: &[u8]) -> Option<(u64, String)> {
    let (mut rejected, mut message) = (0, String::new());
    if answer.first() != Some(&PARTIAL_SUCCESS) {
        // Some servers acknowledge with a word.
        return Some((rejected, message));
    }
    while !answer.is_empty() {
        let Field::Bytes(1, mut partial) = read_field(&mut answer)? else { continue };
        while !partial.is_empty() {
            match read_field(&mut partial)? {
                Field::Number(1, number) => rejected = number,
                Field::Bytes(2, text) => message = String::from_utf8_lossy(text).into_owned(),
                _ => {}
            }
        }
    }
    Some((rejected, message))
}

// ---- JSON

fn json_value(value: &Attribute) -> Value {
    match value {
        Attribute::Text(text) => json!({ "stringValue": text }),
        Attribute::Flag(flag) => json!({ "boolValue": flag }),
        // Numbers of 64 bits are texts in the JSON form of protobuf.
        Attribute::Number(number) => json!({"intValue": number.to_string()}),
        Attribute::Texts(texts) => {
            let values: Vec<Value> = texts.iter().map(|text| json!({ "stringValue": text })).collect();
            json!({"arrayValue": {"values": values}})
        }
    }
}

fn json_pairs(attributes: Attributes) -> Value {
    unique(attributes).iter().map(|(name, value)| json!({"key": name, "value": json_value(value)})).collect()
}

fn json(alerts: &[Alert]) -> Value {
    let Some(first) = alerts.first() else { return json!({}) };
    let scopes: Vec<Value> = by_module(alerts)
        .into_iter()
        .map(|(module, alerts)| {
            let records: Vec<Value> = alerts
                .into_iter()
                .map(|alert| {
                    let (time, observed) = times(alert);
                    json!({
                        "timeUnixNano": time.to_string(),
                        "observedTimeUnixNano": observed.to_string(),
                        "severityNumber": severity_number(alert.severity),
                        "severityText": alert.severity.name(),
                        "body": {"stringValue": alert.sentence},
                        "attributes": json_pairs(attributes(alert)),
                        "eventName": event_name(alert),
                    })
                })
                .collect();
            json!({
                "scope": {"name": format!("vigie.{module}"), "version": first.source.version},
                "logRecords": records,
            })
        })
        .collect();
    json!({"resourceLogs": [{"resource": {"attributes": json_pairs(resource(&first.source))}, "scopeLogs": scopes}]})
}

fn rejected_in_json(answer: &[u8]) -> Option<(u64, String)> {
    let answer: Value = match serde_json::from_slice(answer) {
        Ok(answer) => answer,
        Err(_) if answer.trim_ascii_start().starts_with(b"{") => return None,
        Err(_) => Value::Null,
    };
    let partial = &answer["partialSuccess"];
    let rejected = match &partial["rejectedLogRecords"] {
        Value::String(number) => number.parse().unwrap_or(0),
        number => number.as_u64().unwrap_or(0),
    };
    Some((rejected, partial["errorMessage"].as_str().unwrap_or_default().to_owned()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::alert::tests::{any_alert, hard};

    #[test]
    fn the_json_form_has_numbers_of_64_bits_as_texts_and_enums_as_numbers() {
        let body: Value = serde_json::from_slice(&Encoding::Json.body(&[hard()])).unwrap();
        let record = &body["resourceLogs"][0]["scopeLogs"][0]["logRecords"][0];

        assert_eq!(record["timeUnixNano"], "1795885199500000000");
        assert_eq!(record["severityNumber"], 18);
        assert_eq!(record["eventName"], "vigie.file.changed");
        let attributes = record["attributes"].as_array().unwrap();
        let of = |name: &str| attributes.iter().find(|pair| pair["key"] == name).unwrap()["value"].clone();
        assert_eq!(of("vigie.alert.seq"), json!({"intValue": "42"}));
        assert_eq!(of("file.path"), json!({"stringValue": hard().text("path")}));
        assert_eq!(of("process.pid"), json!({"intValue": "812"}));
        assert_eq!(of("file.owner.id"), json!({"stringValue": "0"}));
    }

    #[test]
    fn what_a_collector_refuses_is_read_from_both_forms() {
        let mut partial = Vec::new();
        key(&mut partial, 1, 0);
        varint(&mut partial, 300);
        bytes(&mut partial, 2, b"too old");
        let mut answer = Vec::new();
        bytes(&mut answer, 1, &partial);

        assert_eq!(Encoding::Protobuf.rejected(&answer), Some((300, "too old".to_owned())));
        let json = br#"{"partialSuccess":{"rejectedLogRecords":"3","errorMessage":"x"}}"#;
        assert_eq!(Encoding::Json.rejected(json), Some((3, "x".to_owned())));
        let none = Some((0, String::new()));
        for other in [&b""[..], b"{}", b"OK", b"\xff\xff"] {
            assert_eq!(Encoding::Protobuf.rejected(other), none);
        }
        for other in [&b""[..], b"{}", b"OK", b"\xff\xff"] {
            assert_eq!(Encoding::Json.rejected(other), none);
        }
        // Cut anywhere, it says nothing.
        for end in 1..answer.len() {
            assert_eq!(Encoding::Protobuf.rejected(&answer[..end]), None, "{end}");
        }
        for end in 1..json.len() {
            assert_eq!(Encoding::Json.rejected(&json[..end]), None, "{end}");
        }
    }

    proptest! {
        #[test]
        fn each_name_of_an_attribute_stands_once(alerts in prop::collection::vec(any_alert(), 1..4)) {
            let body: Value = serde_json::from_slice(&Encoding::Json.body(&alerts)).unwrap();
            let mut count = 0;
            for scope in body["resourceLogs"][0]["scopeLogs"].as_array().unwrap() {
                for record in scope["logRecords"].as_array().unwrap() {
                    count += 1;
                    let names: Vec<_> = record["attributes"].as_array().unwrap().iter().map(|pair| pair["key"].as_str().unwrap()).collect();
                    let unique: std::collections::BTreeSet<_> = names.iter().collect();
                    prop_assert_eq!(names.len(), unique.len());
                }
            }
            prop_assert_eq!(count, alerts.len());
        }

        #[test]
        fn no_answer_makes_the_reader_panic(answer in prop::collection::vec(any::<u8>(), 0..200)) {
            drop((Encoding::Protobuf.rejected(&answer), Encoding::Json.rejected(&answer)));
        }
    }
}
