//! One batch to one receiver.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use jiff::tz::TimeZone;
use vigie_config::sinks::{SinkSection, SyslogTarget, Target, Transport as Way};
use vigie_sinks::ack::Envelope;
use vigie_sinks::alert::Alert;
use vigie_sinks::schema::Schema;
use vigie_sinks::{journald, syslog};

use super::connect::TlsMaker;
use super::datagram::{Datagrams, Journal};
use super::http::Http;
use super::outcome::{Failure, Outcome};
use super::program::Program;
use super::stream::{Relp, Tcp, TlsBatches};

/// How the alerts of a sink are written, apart from what a connection adds. Pure, for the work threads.
#[derive(Debug, Clone)]
pub(super) enum Form {
    /// A record of RFC 5424.
    Syslog(syslog::Form),
    /// A record of RFC 3164.
    LocalSyslog(syslog::Form),
    /// A line to a program.
    Line(Schema),
    /// An entry of systemd's journal.
    Journald,
    /// Nothing: bodies of HTTP are made of many alerts.
    Body,
}

impl Form {
    pub(super) fn of(section: &SinkSection) -> Self {
        let form = |target: &SyslogTarget| syslog::Form {
            facility: target.facility,
            enterprise: target.enterprise_number,
            schema: target.schema,
            limit: target.record_bytes,
        };
        match &section.target {
            Target::File(file) => Self::Line(file.schema),
            Target::Command(command) => Self::Line(command.schema),
            Target::Syslog(target) if matches!(target.transport, Way::Local(_)) => {
                Self::LocalSyslog(form(target))
            }
            Target::Syslog(target) => Self::Syslog(form(target)),
            Target::Http(_) => Self::Body,
            Target::Journald(_) => Self::Journald,
        }
    }

    /// The bytes of each alert, under its number in the journal. Blocking: it computes.
    pub(super) fn render(&self, alerts: Vec<Alert>) -> Batch {
        let numbers = alerts.iter().map(|alert| alert.seq).collect();
        self.render_as(alerts, numbers)
    }

    /// The same under other numbers, in their order.
    pub(super) fn render_as(&self, alerts: Vec<Alert>, numbers: Vec<u64>) -> Batch {
        let zone = TimeZone::system();
        let record = |(alert, number): (&Alert, &u64)| match self {
            Self::Syslog(form) => syslog::rfc5424(alert, form),
            Self::LocalSyslog(form) => syslog::rfc3164(alert, form, &zone, std::process::id()),
            Self::Line(schema) => Envelope::line(*number, &schema.line(alert)),
            Self::Journald => journald::entry(alert),
            Self::Body => Vec::new(),
        };
        let records = alerts.iter().zip(&numbers).map(record).collect();
        Batch { alerts: alerts.into(), numbers, records }
    }
}

/// Alerts and their bytes.
#[derive(Debug, Clone)]
pub(super) struct Batch {
    pub(super) alerts: Arc<[Alert]>,
    /// Numbers on the way to the receiver: those of the journal, where the alerts come from one.
    pub(super) numbers: Vec<u64>,
    /// As the form of the sink has them.
    pub(super) records: Vec<Vec<u8>>,
}

impl Batch {
    pub(super) fn len(&self) -> usize {
        self.alerts.len()
    }
}

/// The way to a receiver.
pub(super) enum Transport {
    Relp(Relp),
    Tls(Box<TlsBatches>),
    Tcp(Tcp),
    Datagrams(Datagrams),
    Journal(Journal),
    Program(Program),
    Http(Box<Http>),
}

impl Transport {
    /// A way that is not used yet; `after` is the number after which it begins.
    pub(super) fn new(section: &SinkSection, vigie: &Path, version: &str, after: u64) -> Self {
        let limit = section.timeout;
        match &section.target {
            Target::File(file) => Self::Program(Program::writer(vigie, file, limit)),
            Target::Command(command) => Self::Program(Program::command(vigie, command, limit)),
            Target::Journald(path) => Self::Journal(Journal::new(path, limit)),
            Target::Http(http) => Self::Http(Box::new(Http::new(http, limit))),
            Target::Syslog(syslog) => match &syslog.transport {
                Way::Relp(address, tls) => Self::Relp(Relp::new(address, tls.as_ref(), limit, version)),
                Way::Tls(address, tls, overlap) => {
                    Self::Tls(Box::new(TlsBatches::new(address, tls, overlap.0, limit, after)))
                }
                Way::Tcp(address, overlap) => Self::Tcp(Tcp::new(address, None, overlap.0, limit, after)),
                Way::Udp(address) => Self::Datagrams(Datagrams::udp(address, limit)),
                Way::Local(path) => Self::Datagrams(Datagrams::local(path, limit)),
            },
        }
    }

    /// Delivers a batch, as far as it can.
    pub(super) async fn deliver(&mut self, batch: &Batch) -> Outcome {
        match self {
            Self::Relp(relp) => relp.deliver(batch).await,
            Self::Tls(tls) => tls.deliver(batch).await,
            Self::Tcp(tcp) => tcp.deliver(batch).await,
            Self::Datagrams(datagrams) => datagrams.deliver(batch).await,
            Self::Journal(journal) => journal.deliver(batch).await,
            Self::Program(program) => program.deliver(batch).await,
            Self::Http(http) => http.deliver(batch).await,
        }
    }

    /// Number up to which nothing is sent again after a restart; nothing when that is all that is dealt with.
    pub(super) fn settled(&self) -> Option<u64> {
        match self {
            Self::Tcp(tcp) => Some(tcp.settled()),
            Self::Tls(tls) => tls.settled(),
            _ => None,
        }
    }

    /// Whether the receiver says that it has stored an alert.
    pub(super) fn is_acknowledged(&self) -> bool {
        match self {
            Self::Relp(_) | Self::Program(_) | Self::Http(_) => true,
            Self::Tls(tls) => tls.settled().is_none(),
            Self::Tcp(_) | Self::Datagrams(_) | Self::Journal(_) => false,
        }
    }

    /// Most alerts that one request can hold.
    pub(super) fn most_alerts(&self) -> usize {
        match self {
            Self::Http(http) => http.most_alerts(),
            _ => usize::MAX,
        }
    }

    /// Least time between two batches, for receivers that want that.
    pub(super) fn pace(&self) -> Option<Duration> {
        match self {
            Self::Http(http) => http.pace(),
            _ => None,
        }
    }

    /// Waits until something is to be done although there is no alert: a connection that does not acknowledge broke.
    pub(super) async fn broken(&mut self) -> Failure {
        match self {
            Self::Tcp(tcp) => tcp.broken().await,
            Self::Tls(tls) => tls.broken().await,
            _ => std::future::pending().await,
        }
    }

    /// What makes its encrypted connections, if it has such.
    pub(super) fn tls(&self) -> Option<&TlsMaker> {
        match self {
            Self::Relp(relp) => relp.tls(),
            Self::Tls(tls) => Some(tls.tls()),
            Self::Http(http) => http.tls(),
            Self::Tcp(_) | Self::Datagrams(_) | Self::Journal(_) | Self::Program(_) => None,
        }
    }

    /// Ends in good order, as far as the receiver takes part.
    pub(super) async fn close(&mut self) {
        match self {
            Self::Relp(relp) => relp.close().await,
            Self::Tcp(tcp) => tcp.close().await,
            Self::Tls(tls) => tls.close().await,
            Self::Program(program) => program.close().await,
            Self::Datagrams(_) | Self::Journal(_) | Self::Http(_) => {}
        }
    }
}
