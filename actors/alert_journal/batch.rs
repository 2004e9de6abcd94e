//! Alerts on their way from a module to the journal: JSON strings as the module wrote them, one after the other.
//!
//! Journal, acknowledgement and log all need JSON strings or can copy from one, so nothing is unescaped and escaped
//! again on the way, and a batch is two allocations instead of two an alert.

use std::borrow::Cow;

/// One alert with plain texts.
#[derive(Debug, Clone)]
pub struct NewAlert {
    /// The module's id for it.
    pub id: Option<String>,
    /// Its text.
    pub message: String,
}

/// Alerts in their order.
#[derive(Debug, Clone, Default)]
pub struct AlertBatch {
    /// Ids and messages as JSON strings.
    json: String,
    /// Where each alert's parts end.
    ends: Vec<Ends>,
    id_bytes: usize,
}

#[derive(Debug, Clone, Copy)]
struct Ends {
    /// End of the id; the start of the message. Nothing is before it when the alert has no id.
    id: usize,
    message: usize,
}

/// One alert of a batch.
#[derive(Debug, Clone, Copy)]
pub struct RawAlert<'a> {
    /// The module's id for it, a JSON string.
    pub id: Option<&'a str>,
    /// Its text, a JSON string.
    pub message: &'a str,
}

impl AlertBatch {
    /// Adds an alert; both are JSON strings, and valid ones.
    pub fn push(&mut self, id: Option<&str>, message: &str) {
        let id = id.unwrap_or_default();
        self.id_bytes += id.len();
        self.json.push_str(id);
        let id = self.json.len();
        self.json.push_str(message);
        self.ends.push(Ends { id, message: self.json.len() });
    }

    /// Adds an alert from plain texts.
    pub fn push_text(&mut self, id: Option<&str>, message: &str) {
        let json = |text: &str| serde_json::to_string(text).expect("a text is plain data");
        self.push(id.map(json).as_deref(), &json(message));
    }

    /// How many alerts.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Bytes of all texts.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.json.len()
    }

    /// Bytes of all ids.
    #[must_use]
    pub fn id_bytes(&self) -> usize {
        self.id_bytes
    }

    /// The alerts.
    pub fn iter(&self) -> impl Iterator<Item = RawAlert<'_>> {
        let mut start = 0;
        self.ends.iter().map(move |ends| {
            let id = &self.json[start..ends.id];
            start = ends.message;
            RawAlert { id: (!id.is_empty()).then_some(id), message: &self.json[ends.id..ends.message] }
        })
    }
}

impl From<Vec<NewAlert>> for AlertBatch {
    fn from(alerts: Vec<NewAlert>) -> Self {
        let mut batch = Self::default();
        for NewAlert { id, message } in alerts {
            batch.push_text(id.as_deref(), &message);
        }
        batch
    }
}

/// The text of a JSON string that is known to be valid.
pub(crate) fn text_of(json: &str) -> Cow<'_, str> {
    let inside = json.get(1..json.len().saturating_sub(1)).unwrap_or_default();
    if !inside.contains('\\') {
        return Cow::Borrowed(inside);
    }
    Cow::Owned(serde_json::from_str(json).unwrap_or_default())
}

/// Reads the line of an alert in the form that our SDK and MIG write, without looking at it twice. Nothing when it has
/// another form, or anything in it has to be judged; then the line is read as every other one is.
pub(crate) fn read_plain(line: &str) -> Option<RawAlert<'_>> {
    let rest = line.strip_prefix(r#"{"class":"alert","parameters":{"message":"#)?;
    let (message, rest) = split_plain_string(rest)?;
    if rest == "}}" {
        return Some(RawAlert { id: None, message });
    }
    let (id, rest) = split_plain_string(rest.strip_prefix(r#","id":"#)?)?;
    (rest == "}}").then_some(RawAlert { id: Some(id), message })
}

/// Splits off a JSON string without `\u` escapes, also in JSON that is its text: they may be half a pair.
fn split_plain_string(json: &str) -> Option<(&str, &str)> {
    let bytes = json.as_bytes();
    if bytes.first() != Some(&b'"') {
        return None;
    }
    let mut at = 1;
    loop {
        at += memchr::memchr2(b'"', b'\\', &bytes[at..])?;
        if bytes[at] == b'"' {
            break;
        }
        match bytes.get(at + 1) {
            Some(b'"' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => {}
            Some(b'\\') if bytes.get(at + 2) != Some(&b'u') => {}
            _ => return None,
        }
        at += 2;
    }
    let (string, rest) = json.split_at(at + 1);
    // Control characters must be escaped; seeing all bytes at once is faster than stopping at the first one.
    let has_control = string.bytes().fold(false, |found, byte| found | (byte < 0x20));
    (!has_control).then_some((string, rest))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use vigie_protocol::message::{AlertParameters, Class, Message, MessageRef};

    use super::*;

    #[test]
    fn a_batch_gives_back_what_was_put_in() {
        let mut batch = AlertBatch::default();
        batch.push_text(Some("e-1"), "a \"b\"\n");
        batch.push_text(None, "");
        batch.push(Some(r#""x""#), r#""y""#);

        let found: Vec<_> =
            batch.iter().map(|alert| (alert.id.map(text_of), text_of(alert.message))).collect();

        assert_eq!(found[0], (Some("e-1".into()), "a \"b\"\n".into()));
        assert_eq!(found[1], (None, "".into()));
        assert_eq!(found[2], (Some("x".into()), "y".into()));
    }

    #[test]
    fn what_is_not_in_the_usual_form_is_left_to_the_usual_reader() {
        for line in [
            r#"{"class":"alert","parameters":{"message":"\ud800"}}"#,
            r#"{"class":"alert","parameters":{"message":"{\"path\":\"\\udcff\"}"}}"#,
            r#"{"class":"alert","parameters":{"message":"a\x"}}"#,
            "{\"class\":\"alert\",\"parameters\":{\"message\":\"a\tb\"}}",
            r#"{"class":"alert","parameters":{"message":"a"},"x":1}"#,
            r#"{"class":"alert","parameters":{"message":"a","message":"b"}}"#,
            r#"{"class":"alert","parameters":{"message":7}}"#,
            r#"{"class":"alert","parameters":{"message":"a"#,
            r#"{"Class":"alert","parameters":{"message":"a"}}"#,
            r#"{"class":"log","parameters":{"message":"a"}}"#,
        ] {
            assert!(read_plain(line).is_none(), "{line}");
        }
    }

    proptest! {
        /// The quick reader agrees with the usual one wherever it reads at all, and reads what our SDK writes.
        #[test]
        fn both_readers_agree(message in ".{0,60}", id in prop::option::of("[a-z\"\\\\]{1,8}-[0-9]{1,3}"), cut in 0usize..200) {
            let line = String::from_utf8(Message::alert(&message, id.as_deref()).to_line()).unwrap();
            let line = line.trim_end_matches('\n');
            if let Some(alert) = read_plain(line) {
                prop_assert_eq!(text_of(alert.message), message.as_str());
                prop_assert_eq!(alert.id.map(|id| text_of(id).into_owned()), id.clone());
            } else {
                prop_assert!(line.contains("\\u"));
            }
            let mut cut = cut.min(line.len());
            while !line.is_char_boundary(cut) {
                cut -= 1;
            }
            let part = &line[..cut];
            if let Some(alert) = read_plain(part) {
                let parsed = MessageRef::parse(part).unwrap();
                prop_assert_eq!(&parsed.class, &Class::Alert);
                let parameters: AlertParameters<'_> = parsed.parameters_as("alert").unwrap();
                prop_assert_eq!(text_of(alert.message), parameters.message);
            }
        }
    }
}
