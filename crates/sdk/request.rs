//! Reads the one message that a query is, from a query socket or from a standard module's stdin.

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock};

use serde_json::value::RawValue;

use crate::module::Query;
use vigie_protocol::message::{Class, MessageRef};

/// A query as it came in.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) query: Query,
    /// For an adapter: whom to ask.
    pub(crate) persistsock: Option<String>,
    /// Whoever asks wants to hear how far the work is.
    pub(crate) progress: bool,
}

impl Request {
    /// Reads a line. Bytes that are not UTF-8 read as U+FFFD, as MIG reads them.
    ///
    /// # Errors
    /// A sentence for the one who asked.
    pub(crate) fn parse(line: &[u8]) -> Result<Self, String> {
        let text = String::from_utf8_lossy(line);
        if text.trim().is_empty() {
            return Err("the request is empty: expected one parameters message".to_owned());
        }
        let message =
            MessageRef::parse(&text).map_err(|error| format!("request is not understood: {error}"))?;
        if message.class != Class::Parameters {
            let class: String = message.class.to_string().chars().take(64).collect();
            return Err(format!(
                "unexpected input is not module parameters but a message of class {class:?}"
            ));
        }
        Ok(Self {
            query: Query {
                parameters: message.parameters.map(|raw| raw.0.to_owned()),
                extraprivacy: message.extraprivacy,
                deadline: message.deadline.map(|deadline| deadline.into_owned()),
                asker: message.asker,
                progress: None,
                stopped: Arc::new(AtomicBool::new(false)),
                answer_at: OnceLock::new(),
                so_far: Arc::default(),
            },
            persistsock: message.persistsock.map(|spec| spec.into_owned()).filter(|spec| !spec.is_empty()),
            progress: message.progress,
        })
    }

    /// The parameters, taken out.
    pub(crate) fn take_parameters(&mut self) -> Option<Box<RawValue>> {
        self.query.parameters.take()
    }
}

/// How long until an RFC 3339 `deadline`; zero when it has passed, `None` when it is not a time.
pub(crate) fn time_left(deadline: &str, now: jiff::Timestamp) -> Option<std::time::Duration> {
    let deadline: jiff::Timestamp = deadline.parse().ok()?;
    Some(std::time::Duration::try_from(deadline.duration_since(now)).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use vigie_protocol::message::Asker;

    #[test]
    fn a_request_carries_parameters_privacy_deadline_and_socket() {
        let mut request = Request::parse(
            br#"{"class":"parameters","parameters":{"a":1},"persistsock":"unix:/x","extraprivacy":true,"deadline":"2026-11-23T00:00:00Z","asker":{"uid":7,"user":"ann","shoe":39}}"#,
        )
        .unwrap();

        assert_eq!(request.take_parameters().unwrap().get(), r#"{"a":1}"#);
        assert!(request.query.extraprivacy);
        assert_eq!(request.query.deadline.as_deref(), Some("2026-11-23T00:00:00Z"));
        let asker = Asker { uid: Some(7), user: Some("ann".to_owned()), investigator: None };
        assert_eq!(request.query.asker, Some(asker));
        assert_eq!(request.persistsock.as_deref(), Some("unix:/x"));
    }

    #[test]
    fn bytes_that_are_not_utf8_are_replaced_as_mig_does() {
        let request =
            Request::parse(b"{\"class\":\"parameters\",\"parameters\":{\"string\":\"hi\xff\xfe\"}}").unwrap();

        assert_eq!(request.query.parameters.unwrap().get(), "{\"string\":\"hi\u{fffd}\u{fffd}\"}");
    }

    #[test]
    fn a_deadline_leaves_time_or_none() {
        let now: jiff::Timestamp = "2026-11-23T00:00:00Z".parse().unwrap();

        assert_eq!(time_left("2026-11-23T00:00:01.5Z", now), Some(Duration::from_millis(1500)));
        assert_eq!(time_left("2026-11-23T01:00:00+01:00", now), Some(Duration::ZERO));
        assert_eq!(time_left("2026-11-22T00:00:00Z", now), Some(Duration::ZERO));
        assert_eq!(time_left("soon", now), None);
    }
}
