//! The agent's status as metrics. Pure: status in, text out; who listens and writes files is elsewhere.
//!
//! Two formats: Prometheus' text format 0.0.4, which everything reads, and OpenMetrics 1.0 for a scraper that asks for
//! it. Labels are bounded: names of modules and sinks, and words of catalogues; never a path, a rule, a user or a pid.
//!
//! ```
//! # let status = serde_json::from_str(vigie_metrics::EXAMPLE_STATUS).unwrap();
//! let page = vigie_metrics::render(&status, vigie_metrics::Form::Text);
//! assert!(page.contains("# TYPE vigie_health gauge\nvigie_health 1\n"));
//! ```

mod collect;
mod families;
pub mod http;
mod write;

use vigie_protocol::control::AgentStatus;

pub use families::{FAMILIES, Family, Kind};

/// Mode of a file for node_exporter, which runs as another user; nothing in it is secret.
pub const TEXTFILE_MODE: u32 = 0o644;

/// A status with something in every part, for tests here and in other crates.
pub const EXAMPLE_STATUS: &str = include_str!("example-status.json");

/// In which format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// Prometheus' text format 0.0.4.
    Text,
    /// OpenMetrics 1.0.
    OpenMetrics,
}

impl Form {
    /// The media type that an answer in this format has.
    #[must_use]
    pub(crate) fn content_type(self) -> &'static str {
        match self {
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// Writes everything that the status knows.
#[must_use]
pub fn render(status: &AgentStatus, form: Form) -> String {
    write::page(&collect::samples(status), form)
}
