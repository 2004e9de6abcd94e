//! What became of a batch.

use std::time::Duration;

use vigie_fleet::broker::client::tls;
use vigie_sinks::verdict::Reason;

/// What became of a batch.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Outcome {
    /// The first so many alerts are dealt with.
    pub(super) done: usize,
    /// Of these, those that were refused for good, by index, and why.
    pub(super) dead: Vec<(usize, String)>,
    /// Of these, so many were rejected, nobody says which.
    pub(super) rejected: u64,
    /// Those among which the rejected ones are, by index, and why.
    pub(super) suspects: Vec<(usize, String)>,
    /// Why the others were not delivered; nothing when all are dealt with.
    pub(super) failure: Option<Failure>,
}

/// Why something was not delivered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Failure {
    /// For programs.
    pub(super) reason: Reason,
    /// For people; holds no secret.
    pub(super) detail: String,
    /// How long the receiver asks to wait.
    pub(super) asked: Option<Duration>,
    /// It makes no sense to try again soon.
    pub(super) rest: bool,
    /// The receiver may have some of it all the same.
    pub(super) unsure: bool,
    /// What was sent after this number may be lost, and is to be sent again.
    pub(super) rewind: Option<u64>,
}

/// Longest detail in bytes.
const MAX_DETAIL_BYTES: usize = 300;

impl Failure {
    pub(super) fn new(reason: Reason, detail: impl Into<String>) -> Self {
        let mut detail: String = detail.into().replace(char::is_control, " ");
        detail.truncate(detail.floor_char_boundary(MAX_DETAIL_BYTES));
        Self { reason, detail, asked: None, rest: false, unsure: false, rewind: None }
    }

    /// What was sent before it may have arrived.
    pub(super) fn unsure(mut self) -> Self {
        self.unsure = true;
        self
    }

    pub(super) fn rests(mut self) -> Self {
        self.rest = true;
        self
    }

    /// A connection that broke, or certificates that one side did not like.
    pub(super) fn of_io(what: &str, error: &std::io::Error) -> Self {
        let is_tls = error.get_ref().is_some_and(|inner| inner.is::<tokio_rustls::rustls::Error>());
        let reason = match error.kind() {
            _ if is_tls => Reason::Tls,
            std::io::ErrorKind::TimedOut => Reason::Timeout,
            _ => Reason::Broken,
        };
        let detail = tls::explained(error).unwrap_or_else(|| error.to_string());
        Self::new(reason, format!("{what}: {detail}")).unsure()
    }

    pub(super) fn timeout(what: &str, limit: Duration) -> Self {
        Self::new(Reason::Timeout, format!("{what} within {}", humantime::format_duration(limit))).unsure()
    }
}

impl Outcome {
    pub(super) fn all(count: usize) -> Self {
        Self { done: count, ..Self::default() }
    }

    pub(super) fn failed(done: usize, failure: Failure) -> Self {
        Self { done, failure: Some(failure), ..Self::default() }
    }
}
