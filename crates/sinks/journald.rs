//! The native protocol of systemd's journal: one datagram with the fields of an entry (systemd's
//! docs/JOURNAL_NATIVE_PROTOCOL.md).

use serde_json::Value;
use vigie_protocol::severity::Severity;

use crate::alert::Alert;
use crate::schema::Schema;

/// Entries a second above which systemd may drop without a word: 10,000 in 30 s for each unit by default.
pub const SAFE_PER_SECOND: u64 = 300;

/// One id for the entries of all alerts, so that a catalogue can explain them.
const MESSAGE_ID: &str = "6f1f3a9c5b0f4f0c8f3e9a7d51c2b6e4";

/// The bytes of an entry.
#[must_use]
pub fn entry(alert: &Alert) -> Vec<u8> {
    let priority = match alert.severity {
        Severity::Critical => "2",
        Severity::High => "3",
        Severity::Medium => "4",
        Severity::Low => "5",
    };
    let process = |key: &str| alert.fields.get("process").and_then(|process| process.get(key));
    let uid = process("user").and_then(Value::as_u64).map(|uid| uid.to_string());
    let document = Schema::Vigie.line(alert);
    let mut entry = Vec::with_capacity(document.len() + 1024);
    let mut field = |name: &str, value: &[u8]| {
        if !value.is_empty() {
            write_field(&mut entry, name, value);
        }
    };
    field("MESSAGE", alert.sentence.as_bytes());
    field("MESSAGE_ID", MESSAGE_ID.as_bytes());
    field("PRIORITY", priority.as_bytes());
    field("SYSLOG_IDENTIFIER", b"vigie");
    field("SYSLOG_FACILITY", b"4");
    field("VIGIE_SEQ", alert.seq.to_string().as_bytes());
    field("VIGIE_JOURNAL", alert.journal.as_bytes());
    field("VIGIE_ID", alert.id.as_deref().unwrap_or_default().as_bytes());
    field("VIGIE_MODULE", alert.module.as_bytes());
    field("VIGIE_SEVERITY", alert.severity.name().as_bytes());
    field("VIGIE_TIME", alert.time.as_bytes());
    field("VIGIE_EVENT", alert.event().as_bytes());
    field("VIGIE_RULE", alert.text("rule").as_bytes());
    field("VIGIE_PATH", alert.text("path").as_bytes());
    field("VIGIE_USER", uid.unwrap_or_default().as_bytes());
    field("VIGIE_EXE", process("executable").and_then(Value::as_str).unwrap_or_default().as_bytes());
    field("VIGIE_RESENT", if alert.resent { b"1" } else { b"" });
    field("VIGIE_ALERT", &document);
    entry
}

fn write_field(entry: &mut Vec<u8>, name: &str, value: &[u8]) {
    entry.extend_from_slice(name.as_bytes());
    if value.contains(&b'\n') {
        entry.push(b'\n');
        entry.extend_from_slice(&(value.len() as u64).to_le_bytes());
    } else {
        entry.push(b'=');
    }
    entry.extend_from_slice(value);
    entry.push(b'\n');
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::alert::tests::any_alert;

    /// Reads an entry as systemd does.
    fn read(mut entry: &[u8]) -> BTreeMap<String, Vec<u8>> {
        let mut fields = BTreeMap::new();
        while !entry.is_empty() {
            let end = entry.iter().position(|byte| *byte == b'\n').unwrap();
            let (line, rest) = (&entry[..end], &entry[end + 1..]);
            let (name, value, rest) = match line.iter().position(|byte| *byte == b'=') {
                Some(at) => (&line[..at], &line[at + 1..], rest),
                None => {
                    let length = usize::try_from(u64::from_le_bytes(rest[..8].try_into().unwrap())).unwrap();
                    assert_eq!(rest[8 + length], b'\n');
                    (line, &rest[8..8 + length], &rest[9 + length..])
                }
            };
            fields.insert(String::from_utf8(name.to_vec()).unwrap(), value.to_vec());
            entry = rest;
        }
        fields
    }

    proptest! {
        #[test]
        fn no_text_makes_a_field_of_its_own(alert in any_alert()) {
            let fields = read(&entry(&alert));
            prop_assert!(fields.keys().all(|name| name.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'_')));
            prop_assert_eq!(fields.get("MESSAGE").cloned().unwrap_or_default(), alert.sentence.as_bytes());
            prop_assert_eq!(&fields["VIGIE_SEQ"], &alert.seq.to_string().into_bytes());
            prop_assert_eq!(fields.get("VIGIE_PATH").cloned().unwrap_or_default(), alert.text("path").as_bytes());
        }
    }
}
