//! Bodies of HTTP requests for the receivers that teams have. JSON is built as values, never as text: no path can break
//! a body.

use serde_json::{Value, json};
use vigie_protocol::severity::Severity;

use crate::alert::Alert;
use crate::otlp::Encoding;
use crate::schema::Schema;
use crate::text::{cut, nanoseconds};

/// What a receiver wants to get.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Template {
    /// A JSON array of documents.
    Plain,
    /// A document a line.
    Lines,
    /// Slack's incoming webhooks, and what is compatible with them.
    Slack,
    /// Mattermost's: Markdown, which needs another escaping.
    Mattermost,
    /// PagerDuty's events, version 2.
    PagerDuty,
    /// Splunk's HTTP event collector.
    Splunk,
    /// Elasticsearch's and OpenSearch's `_bulk`.
    Elasticsearch,
    /// Grafana Loki.
    Loki,
    /// OpenTelemetry's collectors.
    Otlp(Encoding),
}

/// What a body needs beside the alerts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Extras {
    /// The schema of documents.
    pub schema: Schema,
    /// PagerDuty's key.
    pub routing_key: String,
}

impl Template {
    /// The media type of a body.
    #[must_use]
    pub fn media_type(self) -> &'static str {
        match self {
            Self::Lines | Self::Elasticsearch => "application/x-ndjson",
            Self::Otlp(encoding) => encoding.media_type(),
            _ => "application/json",
        }
    }

    /// Most alerts in a request: what a message in a chat, or an incident, can hold.
    #[must_use]
    pub fn most_alerts(self) -> usize {
        match self {
            Self::Slack => 30,
            Self::Mattermost => 12,
            Self::PagerDuty => 1,
            _ => usize::MAX,
        }
    }

    /// The body of a request.
    #[must_use]
    pub fn body(self, alerts: &[Alert], extras: &Extras) -> Vec<u8> {
        let body = match self {
            Self::Plain => alerts.iter().map(|alert| Value::Object(extras.schema.document(alert))).collect(),
            Self::Slack => json!({"text": chat(alerts, slack)}),
            Self::Mattermost => json!({"text": chat(alerts, markdown)}),
            Self::PagerDuty => alerts.first().map_or_else(|| json!({}), |alert| pagerduty(alert, extras)),
            Self::Loki => loki(alerts, extras),
            Self::Otlp(encoding) => return encoding.body(alerts),
            Self::Lines => return lines(alerts, |alert| vec![Value::Object(extras.schema.document(alert))]),
            Self::Splunk => return lines(alerts, |alert| vec![splunk(alert, extras)]),
            Self::Elasticsearch => {
                return lines(alerts, |alert| {
                    vec![
                        json!({"create": {"_id": alert.unique()}}),
                        Value::Object(extras.schema.document(alert)),
                    ]
                });
            }
        };
        serde_json::to_vec(&body).expect("a body is plain data")
    }
}

fn lines(alerts: &[Alert], of: impl Fn(&Alert) -> Vec<Value>) -> Vec<u8> {
    let mut body = Vec::new();
    for value in alerts.iter().flat_map(of) {
        serde_json::to_writer(&mut body, &value).expect("a document is plain data");
        body.push(b'\n');
    }
    body
}

/// Longest line of an alert in a chat, in bytes: thirty of them are below Slack's 40,000 characters, twelve below
/// Mattermost's 16,383.
const MAX_CHAT_BYTES: usize = 1200;

fn chat(alerts: &[Alert], escape: impl Fn(&str) -> String) -> String {
    let line = |alert: &Alert| {
        let again = if alert.resent { " (sent again)" } else { "" };
        let sentence: String = alert.sentence.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        format!(
            "{} *{}* {} {}: {}{again}",
            symbol(alert.severity),
            alert.severity.name(),
            escape(&cut(&alert.source.host, 100)),
            escape(&alert.module),
            escape(&cut(&sentence, MAX_CHAT_BYTES / 6 * 3))
        )
    };
    alerts.iter().map(line).collect::<Vec<_>>().join("\n")
}

fn symbol(severity: Severity) -> &'static str {
    match severity {
        Severity::Critical => ":red_circle:",
        Severity::High => ":large_orange_circle:",
        Severity::Medium => ":large_yellow_circle:",
        Severity::Low => ":white_circle:",
    }
}

/// Slack wants these three escaped and nothing else.
fn slack(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// Markdown: a text that must not become a link, a mention or a heading.
fn markdown(text: &str) -> String {
    let mut result = String::with_capacity(text.len() + 8);
    for character in text.chars() {
        match character {
            '@' => result.push_str("@\u{200b}"),
            '\\' | '`' | '*' | '_' | '{' | '}' | '[' | ']' | '(' | ')' | '#' | '|' | '~' | '!' | '<'
            | '>' => {
                result.push('\\');
                result.push(character);
            }
            _ => result.push(character),
        }
    }
    result
}

/// Longest key that names an incident, and longest summary, in bytes.
const MAX_DEDUP_BYTES: usize = 255;
const MAX_SUMMARY_BYTES: usize = 1024;

fn pagerduty(alert: &Alert, extras: &Extras) -> Value {
    // A rule and a path are one incident, however often they alert.
    let about = [alert.module.as_str(), alert.text("rule"), alert.text("path")].join("\n");
    let dedup = if about.len() <= MAX_DEDUP_BYTES - 2 && alert.text("path").len() > 1 {
        about.replace('\n', "|")
    } else if alert.text("path").is_empty() {
        alert.unique()
    } else {
        use sha2::{Digest as _, Sha256};
        data_encoding::HEXLOWER.encode(&Sha256::digest(about.as_bytes()))
    };
    let severity = match alert.severity {
        Severity::Critical => "critical",
        Severity::High => "error",
        Severity::Medium => "warning",
        Severity::Low => "info",
    };
    json!({
        "routing_key": extras.routing_key,
        "event_action": if alert.event() == "accepted" { "resolve" } else { "trigger" },
        "dedup_key": dedup,
        "payload": {
            "summary": cut(&format!("{}: {}", alert.source.host, alert.sentence), MAX_SUMMARY_BYTES),
            "source": alert.source.host,
            "severity": severity,
            "timestamp": alert.time,
            "component": alert.module,
            "class": alert.event(),
            "custom_details": extras.schema.document(alert),
        },
    })
}

fn splunk(alert: &Alert, extras: &Extras) -> Value {
    let milliseconds = alert.milliseconds();
    #[expect(clippy::cast_precision_loss, reason = "milliseconds of this century fit")]
    let seconds = milliseconds as f64 / 1000.0;
    json!({
        "time": seconds, "host": alert.source.host, "source": "vigie",
        "sourcetype": format!("vigie:{}", if extras.schema == Schema::Vigie { "alert" } else { extras.schema.name() }),
        "event": extras.schema.document(alert), "fields": {"severity": alert.severity.name(), "module": alert.module},
    })
}

fn loki(alerts: &[Alert], extras: &Extras) -> Value {
    let mut streams: std::collections::BTreeMap<(&str, &str, &str), Vec<Value>> =
        std::collections::BTreeMap::new();
    for alert in alerts {
        let line = String::from_utf8_lossy(&extras.schema.line(alert)).into_owned();
        let time = nanoseconds(&alert.time).unwrap_or(0).to_string();
        let labels = (alert.source.host.as_str(), alert.module.as_str(), alert.severity.name());
        streams.entry(labels).or_default().push(json!([time, line]));
    }
    let streams: Vec<Value> = streams
        .into_iter()
        .map(|((host, module, severity), values)| {
            json!({"stream": {"service_name": "vigie", "host": host, "module": module, "severity": severity}, "values": values})
        })
        .collect();
    json!({ "streams": streams })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::alert::tests::{any_alert, hard};

    const ALL: [Template; 10] = [
        Template::Plain,
        Template::Lines,
        Template::Slack,
        Template::Mattermost,
        Template::PagerDuty,
        Template::Splunk,
        Template::Elasticsearch,
        Template::Loki,
        Template::Otlp(Encoding::Protobuf),
        Template::Otlp(Encoding::Json),
    ];

    fn value(template: Template, alerts: &[Alert]) -> Value {
        serde_json::from_slice(&template.body(alerts, &Extras::default())).unwrap()
    }

    #[test]
    fn a_hard_path_breaks_no_body_and_mentions_nobody() {
        let mut alert = hard();
        alert.sentence = "@here <!channel> **x** \"\\\n".to_owned();

        let slack = value(Template::Slack, &[alert.clone()]);
        assert_eq!(
            slack["text"],
            ":red_circle: *critical* web-1 fswatch: @here &lt;!channel&gt; **x** \"\\ "
        );
        let mattermost = value(Template::Mattermost, &[alert.clone()]);
        assert!(
            mattermost["text"].as_str().unwrap().contains("@\u{200b}here \\<\\!channel\\> \\*\\*x\\*\\*")
        );
        let incident = value(Template::PagerDuty, &[alert.clone()]);
        assert_eq!(incident["payload"]["custom_details"]["alert"]["path"], alert.text("path"));
        assert!(incident["dedup_key"].as_str().unwrap().starts_with("fswatch|recursive:/srv|/srv/a"));
    }

    #[test]
    fn a_bulk_request_names_each_alert_once_and_ends_its_last_line() {
        let body = Template::Elasticsearch
            .body(&[hard(), hard()], &Extras { schema: Schema::Ecs, ..Extras::default() });
        let text = String::from_utf8(body).unwrap();
        let lines: Vec<_> = text.lines().collect();

        assert_eq!(
            (lines.len(), lines[0], text.ends_with('\n')),
            (4, r#"{"create":{"_id":"0011223344556677-42"}}"#, true)
        );
        assert!(lines[1].contains("\"@timestamp\""));
    }

    proptest! {
        #[test]
        fn every_body_of_json_can_be_read_and_is_bounded_in_a_chat(alerts in prop::collection::vec(any_alert(), 1..40)) {
            for template in ALL {
                let some = &alerts[..alerts.len().min(template.most_alerts())];
                let body = template.body(some, &Extras::default());
                if matches!(template, Template::Otlp(Encoding::Protobuf)) {
                    continue;
                }
                let is_lines = matches!(template, Template::Lines | Template::Splunk | Template::Elasticsearch);
                for part in body.split(|byte| is_lines && *byte == b'\n').filter(|part| !part.is_empty()) {
                    let value: Value = serde_json::from_slice(part).unwrap();
                    if let (Template::Mattermost | Template::Slack, Some(text)) = (template, value["text"].as_str()) {
                        let limit = if template == Template::Slack { 40_000 } else { 16_383 };
                        prop_assert!(text.chars().count() <= limit);
                        prop_assert_eq!(text.lines().count(), some.len());
                    }
                }
            }
        }
    }
}
