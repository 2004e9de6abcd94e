//! Records of syslog: RFC 5424 for the network, RFC 3164 for the local socket, octet counting of RFC 6587.
//!
//! A record stays below a limit, because receivers cut what is longer, and some parse the rest as records of their own.
//! It is made shorter by field: first the JSON document gives way to the sentence, then the sentence is cut.

use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde_json::Value;
use vigie_protocol::severity::Severity;

use crate::alert::Alert;
use crate::schema::Schema;
use crate::text::cut;

/// The largest record in bytes: rsyslog cuts at 8,096 unless it is told otherwise.
pub const MAX_RECORD_BYTES: usize = 8000;

/// The smallest limit of a record, and the length that every receiver takes (RFC 5424 section 6.1).
pub const MIN_RECORD_BYTES: usize = 2048;

/// Longest value of structured data in bytes.
const MAX_VALUE_BYTES: usize = 512;

/// Longest text of the names in the header, which RFC 5424 limits to printable ASCII.
const MAX_HOST_BYTES: usize = 255;
const MAX_MSGID_BYTES: usize = 32;

/// What the records of one sink have in common.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Form {
    /// The facility, 0 to 23.
    pub facility: u8,
    /// The private enterprise number in the id of the structured data; 32473 is reserved for examples.
    pub enterprise: u32,
    /// The document in the message; the sentence alone when there is none.
    pub schema: Option<Schema>,
    /// Largest record in bytes.
    pub limit: usize,
}

fn priority(form: &Form, severity: Severity) -> u8 {
    form.facility * 8
        + match severity {
            Severity::Critical => 2,
            Severity::High => 3,
            Severity::Medium => 4,
            Severity::Low => 5,
        }
}

/// A name of the header: printable ASCII, or `-`.
fn name(text: &str, limit: usize) -> String {
    let name: String = text.chars().filter(char::is_ascii_graphic).take(limit).collect();
    if name.is_empty() { "-".to_owned() } else { name }
}

/// Control characters as `\xNN`: a receiver may write them to a terminal or take them for the end of a record.
fn visible(text: &str) -> String {
    let mut result = String::with_capacity(text.len());
    for character in text.chars() {
        if character.is_control() || matches!(character, '\u{2028}' | '\u{2029}') {
            for byte in character.encode_utf8(&mut [0; 4]).bytes() {
                result.push_str(&format!("\\x{byte:02x}"));
            }
        } else {
            result.push(character);
        }
    }
    result
}

/// A value of structured data: the three characters of RFC 5424 section 6.3.3 are escaped.
fn parameter(record: &mut String, name: &str, value: &str) {
    record.push(' ');
    record.push_str(name);
    record.push_str("=\"");
    for character in cut(&visible(value), MAX_VALUE_BYTES).chars() {
        if matches!(character, '"' | '\\' | ']') {
            record.push('\\');
        }
        record.push(character);
    }
    record.push('"');
}

fn structured(alert: &Alert, form: &Form, truncated: bool) -> String {
    let fields = &alert.fields;
    let process = |key: &str| fields.get("process").and_then(|process| process.get(key));
    let mut data = format!("[vigie@{}", form.enterprise);
    let mut optional = |name: &str, value: &str| {
        if !value.is_empty() {
            parameter(&mut data, name, value);
        }
    };
    optional("seq", &alert.seq.to_string());
    optional("epoch", &alert.journal);
    optional("id", alert.id.as_deref().unwrap_or_default());
    optional("severity", alert.severity.name());
    optional("module", &alert.module);
    optional("event", alert.event());
    optional("rule", alert.text("rule"));
    optional("path", alert.text("path"));
    optional("user", &process("user").and_then(Value::as_u64).map(|uid| uid.to_string()).unwrap_or_default());
    optional("exe", process("executable").and_then(Value::as_str).unwrap_or_default());
    optional(
        "count",
        &fields.get("count").and_then(Value::as_u64).map(|count| count.to_string()).unwrap_or_default(),
    );
    optional("resent", if alert.resent { "1" } else { "" });
    optional("truncated", if truncated { "1" } else { "" });
    data.push(']');
    data
}

/// A record of RFC 5424.
#[must_use]
pub fn rfc5424(alert: &Alert, form: &Form) -> Vec<u8> {
    // At most six digits of a second.
    let time = alert
        .time
        .parse::<Timestamp>()
        .map_or_else(|_| "-".to_owned(), |time| time.strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string());
    let event = if alert.event().is_empty() { "alert" } else { alert.event() };
    let header = format!(
        "<{}>1 {time} {} vigie - {} ",
        priority(form, alert.severity),
        name(&alert.source.host, MAX_HOST_BYTES),
        name(event, MAX_MSGID_BYTES)
    );
    if let Some(schema) = form.schema {
        let document = schema.line(alert);
        let whole = structured(alert, form, false);
        if header.len() + whole.len() + 1 + document.len() <= form.limit {
            let mut record = format!("{header}{whole} ").into_bytes();
            record.extend_from_slice(&document);
            return record;
        }
    }
    let sentence = visible(&alert.sentence);
    let is_short = form.schema.is_some();
    let data = structured(alert, form, is_short);
    let room = form.limit.saturating_sub(header.len() + data.len() + 1);
    if sentence.len() <= room {
        return format!("{header}{data} {sentence}").into_bytes();
    }
    let data = structured(alert, form, true);
    let room = form.limit.saturating_sub(header.len() + data.len() + 1);
    let mut record = format!("{header}{data} {}", cut(&sentence, room)).into_bytes();
    // Thirteen values of 512 bytes, each byte escaped, can be longer than a small limit.
    if record.len() > form.limit {
        record =
            format!("{header}[vigie@{} seq=\"{}\" truncated=\"1\"]", form.enterprise, alert.seq).into_bytes();
    }
    record
}

/// A record of RFC 3164, as local syslog daemons read it from their socket.
#[must_use]
pub fn rfc3164(alert: &Alert, form: &Form, zone: &TimeZone, pid: u32) -> Vec<u8> {
    let time = alert.time.parse::<Timestamp>().unwrap_or_default().to_zoned(zone.clone());
    let mut record = format!(
        "<{}>{} vigie[{pid}]: {} {}: ",
        priority(form, alert.severity),
        time.strftime("%b %e %H:%M:%S"),
        alert.severity.name(),
        alert.module
    );
    let tail = format!(" (alert {}{})", alert.seq, if alert.resent { ", sent again" } else { "" });
    let room = form.limit.saturating_sub(record.len() + tail.len());
    record.push_str(&cut(&visible(&alert.sentence), room));
    record.push_str(&tail);
    record.into_bytes()
}

/// A record with its length in front.
#[must_use]
pub fn counted(record: &[u8]) -> Vec<u8> {
    let mut frame = format!("{} ", record.len()).into_bytes();
    frame.extend_from_slice(record);
    frame
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::alert::tests::{alert, any_alert, hard};

    fn form(limit: usize) -> Form {
        Form { facility: 4, enterprise: 32473, schema: Some(Schema::Vigie), limit }
    }

    /// Reads structured data as RFC 5424 says; the rest is the message.
    fn parse(record: &str) -> (Vec<(String, String)>, &str) {
        let start = record.find('[').unwrap();
        assert_eq!(record[..start].split(' ').count(), 7, "{record}");
        let mut parameters = Vec::new();
        let mut rest = record[start..].strip_prefix("[vigie@32473").unwrap();
        loop {
            if let Some(message) = rest.strip_prefix(']') {
                return (parameters, message.strip_prefix(' ').unwrap_or(message));
            }
            let (name, value) = rest.strip_prefix(' ').unwrap().split_once("=\"").unwrap();
            let mut text = String::new();
            let mut characters = value.char_indices();
            let end = loop {
                match characters.next().unwrap() {
                    (_, '\\') => text.push(characters.next().unwrap().1),
                    (at, '"') => break at + 1,
                    (_, other) => text.push(other),
                }
            };
            parameters.push((name.to_owned(), text));
            rest = &value[end..];
        }
    }

    #[test]
    fn a_record_of_rfc_5424() {
        let record =
            String::from_utf8(rfc5424(&alert(7, "disk\nis odd"), &Form { schema: None, ..form(8000) }))
                .unwrap();

        assert_eq!(
            record,
            "<36>1 2026-11-28T17:00:00.123456Z web-1 vigie - alert [vigie@32473 seq=\"7\" epoch=\"0011223344556677\" \
             id=\"e-7\" severity=\"medium\" module=\"fswatch\"] disk\\x0ais odd"
        );
    }

    #[test]
    fn a_hard_path_comes_back_from_the_structured_data() {
        let alert = hard();
        let record = String::from_utf8(rfc5424(&alert, &form(8000))).unwrap();

        let (parameters, message) = parse(&record);

        let path = parameters.iter().find(|(name, _)| name == "path").unwrap();
        assert_eq!(path.1, alert.text("path"));
        let document: Value = serde_json::from_str(message).unwrap();
        assert_eq!(document["alert"]["path"], alert.text("path"));
    }

    #[test]
    fn a_record_of_the_local_socket() {
        let record = rfc3164(&alert(7, "disk\nis odd"), &form(2048), &TimeZone::UTC, 99);

        assert_eq!(
            String::from_utf8(record).unwrap(),
            "<36>Nov 28 17:00:00 vigie[99]: medium fswatch: disk\\x0ais odd (alert 7)"
        );
    }

    proptest! {
        #[test]
        fn a_record_stays_below_its_limit_holds_no_control_character_and_can_be_read(
            alert in any_alert(), limit in MIN_RECORD_BYTES..=MAX_RECORD_BYTES, long in any::<bool>(), resent in any::<bool>(),
        ) {
            let mut alert = alert;
            alert.resent = resent;
            if long {
                alert.sentence = "\n\"é".repeat(20_000);
            }
            let record = rfc5424(&alert, &form(limit));
            prop_assert!(record.len() <= limit);
            let text = String::from_utf8(record.clone()).unwrap();
            let (parameters, _) = parse(&text);
            prop_assert_eq!(&parameters[0], &("seq".to_owned(), alert.seq.to_string()));
            prop_assert!(!text.bytes().any(|byte| byte < b' '));
            let local = rfc3164(&alert, &form(limit), &TimeZone::UTC, 1);
            prop_assert!(local.len() <= limit && !local.iter().any(|byte| *byte < b' '));
            let frame = counted(&record);
            let space = frame.iter().position(|byte| *byte == b' ').unwrap();
            prop_assert_eq!(String::from_utf8_lossy(&frame[..space]).parse::<usize>().unwrap(), frame.len() - space - 1);
        }
    }
}
