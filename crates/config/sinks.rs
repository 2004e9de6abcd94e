//! `[[sink]]`: where alerts are sent to, as plain values.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use vigie_sinks::filter::Filter;
use vigie_sinks::request::Template;
use vigie_sinks::schema::Schema;
use vigie_sinks::signature::Style;

/// One sink.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SinkSection {
    /// Its name, 1 to 32 lower-case letters, digits, `-` and `_`; also the name of its files.
    pub name: String,
    /// Whether it sends.
    pub enabled: bool,
    /// Which alerts it wants.
    pub filter: Filter,
    /// Where a sink begins that has sent nothing yet.
    pub begin: Begin,
    /// Most alerts that are sent together, 1 to 10,000.
    pub batch_alerts: usize,
    /// Most bytes of the journal that are sent together, 1 KiB to 16 MiB; one alert is sent however long it is.
    pub batch_bytes: usize,
    /// Longest wait for the receiver without any progress, 100 ms to 10 min.
    pub timeout: Duration,
    /// Where to.
    pub target: Target,
}

/// Where a new sink begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Begin {
    /// With what is recorded from now on.
    New,
    /// With the oldest alert of the journal.
    Oldest,
}

/// Where a sink sends to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// A file of JSON lines.
    File(FileTarget),
    /// A syslog daemon.
    Syslog(SyslogTarget),
    /// An HTTP receiver; OTLP is one with a template of its own.
    Http(HttpTarget),
    /// A program.
    Command(CommandTarget),
    /// The socket of systemd's journal.
    Journald(PathBuf),
}

/// A file of JSON lines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileTarget {
    /// The file.
    pub path: PathBuf,
    /// What a line is.
    pub schema: Schema,
    /// Size in bytes at which it is renamed to `PATH.1`, 64 KiB to 1 TiB; 0 leaves that to others, such as logrotate.
    pub rotate_bytes: u64,
    /// Renamed files that are kept, 0 to 1000.
    pub keep_files: u32,
    /// Permission bits of a file that is made, at most 0666.
    pub mode: u32,
}

/// A syslog daemon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SyslogTarget {
    /// How records get there.
    pub transport: Transport,
    /// The facility, 0 to 23.
    pub facility: u8,
    /// The private enterprise number in the id of structured data.
    pub enterprise_number: u32,
    /// The document in the message; without one the sentence.
    pub schema: Option<Schema>,
    /// Largest record in bytes, 2,048 to 8,000.
    pub record_bytes: usize,
}

/// How records get to a syslog daemon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Transport {
    /// RELP, where each record is acknowledged; encrypted when there is TLS.
    Relp(Address, Option<Tls>),
    /// TLS of RFC 5425; the end of each connection acknowledges a batch.
    Tls(Address, Tls, Overlap),
    /// TCP with octet counting.
    Tcp(Address, Overlap),
    /// UDP.
    Udp(Address),
    /// The local socket.
    Local(PathBuf),
}

/// Bytes that are sent again after a connection broke that does not acknowledge, 0 to 1 GiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Overlap(pub u64);

/// A host and a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    /// A name or an address; an IPv6 address without brackets.
    pub host: String,
    /// The port.
    pub port: u16,
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// Certificates; all files in PEM.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tls {
    /// Who vouches for the receiver; the host's own list when absent.
    pub ca: Option<PathBuf>,
    /// Our certificate and its key, for receivers that ask for one.
    pub certificate: Option<(PathBuf, PathBuf)>,
    /// The name that the receiver's certificate must have; the host of its address when absent.
    pub server_name: Option<String>,
}

/// An HTTP receiver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpTarget {
    /// The address, or the file that holds it where the address itself is a secret.
    pub url: Url,
    /// What a request looks like.
    pub template: Template,
    /// The schema of documents in it.
    pub schema: Schema,
    /// File with the value of the header `Authorization`.
    pub authorization_file: Option<PathBuf>,
    /// File with the key of PagerDuty's service.
    pub routing_key_file: Option<PathBuf>,
    /// File with keys that sign requests, and how.
    pub signing: Option<(PathBuf, Style)>,
    /// Further headers.
    pub headers: BTreeMap<String, String>,
    /// Compress requests.
    pub gzip: bool,
    /// Certificates.
    pub tls: Tls,
}

/// An address of HTTP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Url {
    /// The address.
    Plain(String),
    /// A file of mode 0600 with the address.
    File(PathBuf),
}

/// A program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandTarget {
    /// Program and arguments.
    pub command: Vec<String>,
    /// User to run as; the agent's own when absent.
    pub user: Option<String>,
    /// The schema of an alert.
    pub schema: Schema,
}

impl SinkSection {
    /// The kind, as the configuration names it.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match &self.target {
            Target::File(_) => "file",
            Target::Syslog(_) => "syslog",
            Target::Http(HttpTarget { template: Template::Otlp(_), .. }) => "otlp",
            Target::Http(_) => "webhook",
            Target::Command(_) => "command",
            Target::Journald(_) => "journald",
        }
    }

    /// Where it sends to, without anything secret.
    #[must_use]
    pub fn shown_target(&self) -> String {
        match &self.target {
            Target::File(file) => file.path.display().to_string(),
            Target::Syslog(syslog) => match &syslog.transport {
                Transport::Relp(address, None) => format!("relp://{address}"),
                Transport::Relp(address, Some(_)) => format!("relp+tls://{address}"),
                Transport::Tls(address, ..) => format!("tls://{address}"),
                Transport::Tcp(address, _) => format!("tcp://{address}"),
                Transport::Udp(address) => format!("udp://{address}"),
                Transport::Local(path) => path.display().to_string(),
            },
            Target::Http(http) => match &http.url {
                // The path of a webhook is often a secret; the host is enough to know which one it is.
                Url::Plain(url) => {
                    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
                    format!("{scheme}://{}", rest.split(['/', '?']).next().unwrap_or_default())
                }
                Url::File(path) => format!("the address in {}", path.display()),
            },
            Target::Command(command) => command.command.first().cloned().unwrap_or_default(),
            Target::Journald(path) => path.display().to_string(),
        }
    }

    /// Files with its secrets, and the keys that name them.
    #[must_use]
    pub fn secret_files(&self) -> Vec<(&'static str, &Path)> {
        let mut files = Vec::new();
        let tls = match &self.target {
            Target::Http(http) => {
                let address = match &http.url {
                    Url::File(file) => Some(file),
                    Url::Plain(_) => None,
                };
                files.push(("url_file", address));
                files.push(("authorization_file", http.authorization_file.as_ref()));
                files.push(("routing_key_file", http.routing_key_file.as_ref()));
                files.push(("signing_key_file", http.signing.as_ref().map(|(file, _)| file)));
                Some(&http.tls)
            }
            Target::Syslog(SyslogTarget { transport: Transport::Relp(_, tls), .. }) => tls.as_ref(),
            Target::Syslog(SyslogTarget { transport: Transport::Tls(_, tls, _), .. }) => Some(tls),
            _ => None,
        };
        let key = tls.and_then(|tls| tls.certificate.as_ref()).map(|(_, key)| key);
        files.push(("certificate_key", key));
        files.into_iter().filter_map(|(key, file)| Some((key, file?.as_path()))).collect()
    }

    /// Whether alerts may leave the host: extra privacy mode masks them then. A program may send them anywhere.
    #[must_use]
    pub fn leaves_the_host(&self) -> bool {
        match &self.target {
            Target::File(_) | Target::Journald(_) => false,
            Target::Syslog(syslog) => !matches!(syslog.transport, Transport::Local(_)),
            Target::Http(_) | Target::Command(_) => true,
        }
    }

    /// Whether the receiver says that it has stored an alert.
    #[must_use]
    pub fn is_acknowledged(&self) -> bool {
        match &self.target {
            Target::File(_) | Target::Http(_) | Target::Command(_) => true,
            Target::Syslog(syslog) => matches!(syslog.transport, Transport::Relp(..) | Transport::Tls(..)),
            Target::Journald(_) => false,
        }
    }
}
