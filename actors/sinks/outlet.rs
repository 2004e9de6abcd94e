//! The way to a receiver for alerts that come from elsewhere than this host's journal: what `vigie fleet forward` uses.
//! Whoever calls keeps the place, tries again and waits.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use vigie_config::sinks::SinkSection;
use vigie_protocol::masked_alert::masked_alert;
use vigie_sinks::alert::{Alert, Recorded, Source};
use vigie_sinks::verdict::Reason;

use super::outcome::{Failure, Outcome};
use super::transport::{Form, Transport};
use crate::work_threads::{self, Lane};

/// What became of alerts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Delivered {
    /// The receiver has the first so many, or refused them for good.
    pub done: usize,
    /// Of these, those that it refused for good, or that are among those, by index, and why.
    pub refused: Vec<(usize, String)>,
    /// Of these, so many were rejected, nobody says which.
    pub rejected: u64,
    /// Why the others were not delivered.
    pub failure: Option<NotDelivered>,
}

/// Why alerts were not delivered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotDelivered {
    /// By a name for programs.
    pub reason: &'static str,
    /// For people; holds no secret.
    pub detail: String,
    /// How long the receiver asks to wait.
    pub asked: Option<Duration>,
    /// It makes no sense to try again soon.
    pub rest: bool,
    /// The receiver may have some of it all the same.
    pub unsure: bool,
}

/// The way to one receiver, which must acknowledge.
pub struct Outlet {
    section: SinkSection,
    masked: bool,
    transport: Transport,
    /// Number of the next alert on this way: alerts of many agents have the same numbers of their own.
    next: u64,
}

impl Outlet {
    /// A way that is not used yet. `masked` hides what extra privacy mode hides where alerts leave the host; `vigie` is
    /// this program, which writes files.
    #[must_use]
    pub fn new(section: &SinkSection, masked: bool, vigie: &Path, version: &str) -> Self {
        Self {
            section: section.clone(),
            masked: masked && section.leaves_the_host(),
            transport: Transport::new(section, vigie, version, 0),
            next: 1,
        }
    }

    /// The section of the configuration.
    #[must_use]
    pub fn section(&self) -> &SinkSection {
        &self.section
    }

    /// An alert as it leaves here; nothing when the filter leaves it out.
    #[must_use]
    pub fn alert(&self, source: &Arc<Source>, journal: &Arc<str>, recorded: &Recorded<'_>) -> Option<Alert> {
        let filter = &self.section.filter;
        let alert = Alert::new(source, journal, recorded);
        if filter.leaves_out_canary(recorded.module, recorded.message) || !filter.wants(&alert) {
            return None;
        }
        if !self.masked {
            return Some(alert);
        }
        let message = masked_alert(recorded.module, recorded.message);
        Some(Alert::new(source, journal, &Recorded { id: None, message: &message, ..recorded.clone() }))
    }

    /// Delivers a batch, as far as it can.
    pub async fn deliver(&mut self, alerts: &[Alert]) -> Delivered {
        let count = alerts.len().min(self.transport.most_alerts());
        let numbers = (self.next..).take(count).collect();
        self.next += count as u64;
        let (form, part) = (Form::of(&self.section), alerts[..count].to_vec());
        let rendering = work_threads::run(Lane::Sinks, move || form.render_as(part, numbers)).await;
        let mut outcome = match rendering {
            Ok(batch) => self.transport.deliver(&batch).await,
            Err(error) => Outcome::failed(0, Failure::new(Reason::Io, error.to_string())),
        };
        if !self.transport.is_acknowledged() {
            // Records over TLS whose end nobody answers: that a receiver has them is not known.
            let detail = "the receiver does not acknowledge, so its progress is unknown";
            outcome = Outcome::failed(0, Failure::new(Reason::Protocol, detail).unsure().rests());
        }
        let Outcome { done, dead, rejected, suspects, failure } = outcome;
        let failure = failure.map(|failure| NotDelivered {
            reason: failure.reason.name(),
            detail: failure.detail,
            asked: failure.asked,
            rest: failure.rest,
            unsure: failure.unsure,
        });
        let refused = [dead, suspects].concat();
        Delivered { done: done.min(count), refused, rejected, failure }
    }

    /// Least time between two batches, for receivers that want that.
    #[must_use]
    pub fn pace(&self) -> Option<Duration> {
        self.transport.pace()
    }

    /// Ends in good order, as far as the receiver takes part.
    pub async fn close(&mut self) {
        self.transport.close().await;
    }
}
