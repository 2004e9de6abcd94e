//! What the answer to an HTTP request means for the alerts in it.
//!
//! | answer | means |
//! |---|---|
//! | 2xx | stored, unless the body says otherwise (Elasticsearch, Splunk, OTLP) |
//! | 2xx with a whole body that is none of OTLP's | taken, but nobody knows whether all of them: see [`Verdict::Unreadable`] |
//! | 408, 425, 429, 5xx | try again later; `Retry-After` counts. OTLP: 429, 502, 503 and 504 only |
//! | 3xx, 401, 403, 404, 410 and others that are about the address, the login or the way of asking | nobody gets any alert there: rest, and say so |
//! | other 4xx | an alert among them is bad: find it by halves, put it aside |
//!
//! The same holds for the items of Elasticsearch's answers: an index that is missing, closed or read-only says nothing
//! about the alerts.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::request::Template;
use crate::text::cut;

/// Longest text of an answer that is shown, in bytes.
const MAX_SHOWN_BYTES: usize = 200;

/// Why a delivery failed, by a name for programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// The host has no address, or takes no connection.
    Connect,
    /// The connection broke, or an answer did not come in time.
    Broken,
    /// No answer came in time.
    Timeout,
    /// Certificates or keys are not accepted by one of the sides.
    Tls,
    /// The receiver asks to slow down.
    Throttled,
    /// The receiver says that it failed.
    Server,
    /// What the receiver says is not its protocol.
    Protocol,
    /// The receiver wants other credentials.
    Unauthorized,
    /// There is no such receiver.
    NotFound,
    /// The receiver is elsewhere; that is not followed.
    Redirected,
    /// The receiver refuses an alert.
    Refused,
    /// A file cannot be written.
    Io,
    /// The program ended.
    Exited,
    /// A file with a secret or a certificate cannot be used.
    Secret,
}

impl Reason {
    /// The name in status and metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Broken => "broken",
            Self::Timeout => "timeout",
            Self::Tls => "tls",
            Self::Throttled => "throttled",
            Self::Server => "server",
            Self::Protocol => "protocol",
            Self::Unauthorized => "unauthorized",
            Self::NotFound => "not_found",
            Self::Redirected => "redirected",
            Self::Refused => "refused",
            Self::Io => "io",
            Self::Exited => "exited",
            Self::Secret => "secret",
        }
    }
}

/// An answer to a request.
#[derive(Debug, Clone, Copy)]
pub struct Answer<'a> {
    /// The status.
    pub status: u16,
    /// The header `Retry-After`.
    pub retry_after: Option<&'a str>,
    /// The header `Location`.
    pub location: Option<&'a str>,
    /// The body, as far as it is read.
    pub body: &'a [u8],
    /// That is all of it that will ever be read: the connection did not cut it.
    pub is_whole: bool,
}

/// What became of one alert.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate {
    /// It is stored.
    Stored,
    /// It is to be sent again.
    Later,
    /// It will never be stored.
    Dead(String),
    /// Nothing can be delivered there as it is.
    Rest {
        /// Why.
        reason: Reason,
        /// For people.
        detail: String,
    },
}

/// What an answer means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// All are stored.
    Stored,
    /// All are dealt with; so many were refused and are not to be sent again.
    Partial {
        /// How many.
        rejected: u64,
        /// Why.
        message: String,
    },
    /// The receiver took them, as its status says; what its answer says of single ones cannot be read, and why.
    Unreadable(String),
    /// Each on its own.
    Each(Vec<Fate>),
    /// One of them is bad.
    Bad(String),
    /// Try again.
    Later {
        /// Why.
        reason: Reason,
        /// How long the receiver asks to wait.
        asked: Option<Duration>,
        /// For people.
        detail: String,
    },
    /// Nothing can be delivered there as it is.
    Rest {
        /// Why.
        reason: Reason,
        /// For people.
        detail: String,
    },
}

/// Judges an answer; `count` is how many alerts the request had.
#[must_use]
pub fn judge(template: Template, count: usize, answer: Answer<'_>, now: Timestamp) -> Verdict {
    let detail = || {
        let body = String::from_utf8_lossy(&answer.body[..answer.body.len().min(4 * MAX_SHOWN_BYTES)])
            .replace(char::is_control, " ");
        let body = cut(body.trim(), MAX_SHOWN_BYTES);
        if body.is_empty() {
            format!("status {}", answer.status)
        } else {
            format!("status {}: {body}", answer.status)
        }
    };
    let is_otlp = matches!(template, Template::Otlp(_));
    let later = |reason| Verdict::Later {
        reason,
        asked: answer.retry_after.and_then(|text| retry_after(text, now)),
        detail: detail(),
    };
    let rest = |reason| Verdict::Rest { reason, detail: detail() };
    match answer.status {
        200..=299 => stored(template, count, answer),
        300..=399 => Verdict::Rest {
            reason: Reason::Redirected,
            detail: format!(
                "status {}: it leads to {:?}, which is not followed; name the new place in url",
                answer.status,
                cut(answer.location.unwrap_or_default(), MAX_SHOWN_BYTES)
            ),
        },
        429 => later(Reason::Throttled),
        502..=504 => later(Reason::Server),
        408 | 425 | 500..=599 if !is_otlp => later(Reason::Server),
        // The specification lists what may be sent again, and this is not on it.
        500..=599 => Verdict::Partial { rejected: count as u64, message: detail() },
        status => about_all(status).map_or_else(|| Verdict::Bad(detail()), rest),
    }
}

/// Why nobody gets any alert there: the status is about the address, the login or the way of asking, not about an
/// alert.
fn about_all(status: u16) -> Option<Reason> {
    match status {
        401..=403 | 407 => Some(Reason::Unauthorized),
        404 | 410 => Some(Reason::NotFound),
        405 | 406 | 411 | 415 | 417 | 421 | 426 | 428 | 431 | 451 => Some(Reason::Refused),
        _ => None,
    }
}

fn stored(template: Template, count: usize, answer: Answer<'_>) -> Verdict {
    let body = answer.body;
    let is_own_receiver = matches!(template, Template::Plain | Template::Lines);
    if !is_own_receiver && is_page(body) {
        return Verdict::Rest {
            reason: Reason::Protocol,
            detail: "the answer is a web page: a proxy or a login is in front of the receiver".to_owned(),
        };
    }
    match template {
        Template::Otlp(_) if !answer.is_whole => Verdict::Later {
            reason: Reason::Protocol,
            asked: None,
            detail: "the collector's answer is cut: what it rejected is not known".to_owned(),
        },
        Template::Otlp(encoding) => match encoding.rejected(body) {
            None => Verdict::Unreadable(format!(
                "the collector answers with status {} and a body of {} bytes that cannot be read: what it rejected is not known",
                answer.status,
                body.len()
            )),
            Some((0, _)) => Verdict::Stored,
            Some((rejected, message)) => Verdict::Partial {
                rejected: rejected.min(count as u64),
                message: cut(&message.replace(char::is_control, " "), MAX_SHOWN_BYTES),
            },
        },
        Template::Elasticsearch => bulk(count, body),
        Template::Splunk => splunk(body),
        _ => Verdict::Stored,
    }
}

/// Whether somebody else answered: no receiver of this kind acknowledges with a page for people.
fn is_page(body: &[u8]) -> bool {
    let body = body.trim_ascii_start();
    let begins =
        |with: &str| body.get(..with.len()).is_some_and(|start| start.eq_ignore_ascii_case(with.as_bytes()));
    begins("<!doctype html") || begins("<html")
}

/// A bulk request succeeds as a whole when it fails for each document.
fn bulk(count: usize, body: &[u8]) -> Verdict {
    let unclear = |what: &str| Verdict::Later {
        reason: Reason::Protocol,
        asked: None,
        detail: format!("the answer to the bulk request {what}"),
    };
    let Ok(answer) = serde_json::from_slice::<Value>(body) else {
        return unclear("cannot be read (is it longer than 4 MiB?)");
    };
    if answer["errors"] == Value::Bool(false) {
        return Verdict::Stored;
    }
    let Some(items) = answer["items"].as_array() else { return unclear("has no items") };
    if items.len() != count {
        return unclear("has another number of items");
    }
    let fate = |item: &Value| {
        let outcome = item.as_object().and_then(|item| item.values().next()).unwrap_or(&Value::Null);
        match outcome["status"].as_u64() {
            // 409: a document of this id is there already.
            Some(200..=299 | 409) => Fate::Stored,
            Some(408 | 425 | 429) => Fate::Later,
            Some(status @ 400..=499) => {
                let detail = cut(&outcome["error"].to_string(), MAX_SHOWN_BYTES);
                let reason = u16::try_from(status).ok().and_then(about_all);
                let is_closed = outcome["error"]["type"] == "index_closed_exception";
                match reason.or(is_closed.then_some(Reason::Refused)) {
                    Some(reason) => Fate::Rest { reason, detail },
                    None => Fate::Dead(detail),
                }
            }
            _ => Fate::Later,
        }
    };
    Verdict::Each(items.iter().map(fate).collect())
}

fn splunk(body: &[u8]) -> Verdict {
    match serde_json::from_slice::<BTreeMap<String, Value>>(body)
        .ok()
        .and_then(|answer| answer.get("code").and_then(Value::as_u64))
    {
        Some(0) => Verdict::Stored,
        Some(9 | 26 | 27) => Verdict::Later {
            reason: Reason::Throttled,
            asked: None,
            detail: "the collector is busy".to_owned(),
        },
        code => Verdict::Later {
            reason: Reason::Protocol,
            asked: None,
            detail: format!("the collector answers with code {code:?}"),
        },
    }
}

/// Reads `Retry-After`: seconds, or a date of HTTP.
#[must_use]
pub fn retry_after(text: &str, now: Timestamp) -> Option<Duration> {
    let text = text.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = text.strip_suffix(" GMT")?;
    let date = jiff::civil::DateTime::strptime("%a, %d %b %Y %H:%M:%S", date).ok()?;
    let time = date.to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp();
    Some(Duration::try_from(time.duration_since(now)).unwrap_or(Duration::ZERO))
}

/// Finds the bad alerts of a batch by halves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Halves {
    /// What is to be sent, the next part last.
    parts: Vec<(usize, usize)>,
}

impl Halves {
    /// A batch of so many alerts.
    #[must_use]
    pub fn new(count: usize) -> Self {
        Self { parts: if count == 0 { Vec::new() } else { vec![(0, count)] } }
    }

    /// What is to be sent next, from and up to (not with) an index.
    #[must_use]
    pub fn part(&self) -> Option<(usize, usize)> {
        self.parts.last().copied()
    }

    /// The part is dealt with.
    pub fn done(&mut self) {
        self.parts.pop();
    }

    /// The part has a bad alert in it. Returns its index when the part is that alert; it is dealt with then.
    pub fn bad(&mut self) -> Option<usize> {
        let (from, to) = self.parts.pop()?;
        if to - from <= 1 {
            return Some(from);
        }
        let middle = from + (to - from) / 2;
        self.parts.push((middle, to));
        self.parts.push((from, middle));
        None
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::otlp::Encoding;

    fn now() -> Timestamp {
        "2026-11-28T17:00:00Z".parse().unwrap()
    }

    fn judged(template: Template, status: u16, body: &str) -> Verdict {
        judge(
            template,
            3,
            Answer { status, retry_after: Some("7"), location: None, body: body.as_bytes(), is_whole: true },
            now(),
        )
    }

    #[test]
    fn an_answer_that_is_cut_acknowledges_nothing_where_the_body_counts() {
        let judged = |template, body: &str| {
            let answer = Answer {
                status: 200,
                retry_after: None,
                location: None,
                body: body.as_bytes(),
                is_whole: false,
            };
            judge(template, 3, answer, now())
        };

        for (template, body) in [
            (Template::Otlp(Encoding::Json), "{}"),
            (Template::Otlp(Encoding::Json), ""),
            (Template::Otlp(Encoding::Json), r#"{"partialSucc"#),
            (Template::Otlp(Encoding::Protobuf), ""),
            (Template::Elasticsearch, r#"{"errors":fal"#),
            (Template::Splunk, r#"{"text":"Succ"#),
        ] {
            assert!(
                matches!(judged(template, body), Verdict::Later { reason: Reason::Protocol, .. }),
                "{body}"
            );
        }
        assert_eq!(judged(Template::Plain, ""), Verdict::Stored);
    }

    #[test]
    fn an_answer_that_is_whole_and_cannot_be_read_is_neither_success_nor_a_reason_to_ask_for_ever() {
        for (encoding, body) in [(Encoding::Json, r#"{"partialSucc"#), (Encoding::Protobuf, "\u{a}\u{9}")] {
            let verdict = judged(Template::Otlp(encoding), 200, body);

            assert!(
                matches!(&verdict, Verdict::Unreadable(why) if why.contains("status 200")),
                "{verdict:?}"
            );
        }
    }

    #[test]
    fn every_status_has_one_meaning() {
        use Verdict::{Bad, Later, Partial, Rest, Stored};
        const OTLP: Template = Template::Otlp(Encoding::Json);
        assert!(matches!(judged(Template::Plain, 204, ""), Stored));
        for status in [408, 425, 429, 500, 502, 503, 504, 599] {
            let asked = Some(Duration::from_secs(7));
            assert!(
                matches!(judged(Template::Plain, status, ""), Later { asked: a, .. } if a == asked),
                "{status}"
            );
        }
        for status in [301, 307, 401, 402, 403, 404, 405, 407, 410, 415, 421, 426, 431] {
            assert!(matches!(judged(Template::Plain, status, ""), Rest { .. }), "{status}");
        }
        for status in [400, 413, 422] {
            assert!(matches!(judged(Template::Plain, status, ""), Bad(_)), "{status}");
        }
        assert!(matches!(judged(OTLP, 429, ""), Later { .. }));
        assert!(matches!(judged(OTLP, 503, ""), Later { .. }));
        assert!(matches!(judged(OTLP, 500, ""), Partial { rejected: 3, .. }));
        assert!(matches!(judged(OTLP, 408, ""), Bad(_)));
        assert!(matches!(
            judged(OTLP, 200, r#"{"partialSuccess":{"rejectedLogRecords":"2"}}"#),
            Partial { rejected: 2, .. }
        ));
        assert!(matches!(judged(OTLP, 200, r#"{"partialSuccess":{"errorMessage":"x"}}"#), Stored));
        let Bad(detail) = judged(Template::Slack, 400, "invalid_payload\n\u{1b}") else { panic!() };
        assert_eq!(detail, "status 400: invalid_payload");
    }

    #[test]
    fn a_login_page_stores_no_alert() {
        for template in [Template::Slack, Template::Loki, Template::Otlp(Encoding::Json), Template::PagerDuty]
        {
            let page = judged(template, 200, "\n<!DOCTYPE HTML><html>Please sign in");
            assert!(matches!(page, Verdict::Rest { reason: Reason::Protocol, .. }), "{page:?}");
            assert_eq!(judged(template, 200, ""), Verdict::Stored);
        }
        assert_eq!(judged(Template::Plain, 200, "<html>thanks"), Verdict::Stored);
    }

    #[test]
    fn a_bulk_request_is_read_item_by_item() {
        let answer = r#"{"errors":true,"items":[{"create":{"status":201}},{"create":{"status":409}},{"create":{"status":400,"error":"bad"}}]}"#;
        let Verdict::Each(fates) = judged(Template::Elasticsearch, 200, answer) else { panic!() };
        assert_eq!(fates, [Fate::Stored, Fate::Stored, Fate::Dead("\"bad\"".to_owned())]);
        for (status, reason) in [("403", Reason::Unauthorized), ("404", Reason::NotFound)] {
            // What the cluster says of the index is about every alert.
            let blocked = answer.replace("400", status);
            let Verdict::Each(fates) = judged(Template::Elasticsearch, 200, &blocked) else { panic!() };
            assert!(matches!(&fates[2], Fate::Rest { reason: r, .. } if *r == reason), "{fates:?}");
        }
        let closed = answer.replace("\"bad\"", r#"{"type":"index_closed_exception"}"#);
        let Verdict::Each(fates) = judged(Template::Elasticsearch, 200, &closed) else { panic!() };
        assert!(matches!(&fates[2], Fate::Rest { reason: Reason::Refused, .. }), "{fates:?}");
        let busy = answer.replace("409", "429");
        let Verdict::Each(fates) = judged(Template::Elasticsearch, 200, &busy) else { panic!() };
        assert_eq!(fates[1], Fate::Later);
        assert_eq!(judged(Template::Elasticsearch, 200, r#"{"errors":false}"#), Verdict::Stored);
        for odd in ["", "{}", r#"{"errors":true,"items":[]}"#] {
            assert!(matches!(judged(Template::Elasticsearch, 200, odd), Verdict::Later { .. }), "{odd}");
        }
        assert_eq!(judged(Template::Splunk, 200, r#"{"text":"Success","code":0}"#), Verdict::Stored);
        assert!(matches!(judged(Template::Splunk, 200, "sorry"), Verdict::Later { .. }));
    }

    #[test]
    fn a_receiver_may_ask_to_wait_by_seconds_or_by_date() {
        for (text, wait) in [
            ("120", Some(120)),
            ("Sat, 28 Nov 2026 17:00:30 GMT", Some(30)),
            ("Sat, 28 Nov 2026 16:00:30 GMT", Some(0)),
            ("soon", None),
            ("-1", None),
        ] {
            assert_eq!(retry_after(text, now()), wait.map(Duration::from_secs), "{text}");
        }
    }

    proptest! {
        /// Whatever alerts of a batch are bad: these are found, and all others are sent once, in order.
        #[test]
        fn halves_find_exactly_the_bad_ones(bad in prop::collection::vec(any::<bool>(), 0..40)) {
            let mut halves = Halves::new(bad.len());
            let (mut stored, mut found) = (Vec::new(), Vec::new());
            while let Some((from, to)) = halves.part() {
                if bad[from..to].contains(&true) {
                    found.extend(halves.bad());
                } else {
                    stored.extend(from..to);
                    halves.done();
                }
            }
            prop_assert!(stored.is_sorted() && found.is_sorted());
            prop_assert!(found.iter().all(|index| bad[*index]) && found.len() + stored.len() == bad.len());
        }
    }
}
