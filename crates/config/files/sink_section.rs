//! `[[sink]]` of the agent's file.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use vigie_protocol::severity::Severity;
use vigie_sinks::filter::{self, Filter, Pattern};
use vigie_sinks::otlp::Encoding;
use vigie_sinks::request::Template;
use vigie_sinks::schema::Schema;
use vigie_sinks::signature::Style;
use vigie_sinks::syslog::{MAX_RECORD_BYTES, MIN_RECORD_BYTES};

use super::agent_file::{check_command, number};
use super::origin::{cut, quoted_address};
use super::reader::{Problems, Table};
use crate::sinks::{
    Address, Begin, CommandTarget, FileTarget, HttpTarget, Overlap, SinkSection, SyslogTarget, Target, Tls,
    Transport, Url,
};

/// Most sinks of one agent: each has a batch in memory.
const MAX_SINKS: usize = 32;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const TIB: u64 = 1 << 40;

/// Where local syslog daemons and systemd's journal listen.
const LOCAL_SOCKET: &str = "/dev/log";
const JOURNAL_SOCKET: &str = "/run/systemd/journal/socket";

/// Largest file of a secret in bytes.
const MAX_SECRET_BYTES: u64 = 64 << 10;

/// The facilities of RFC 5424 by the names of syslog(3).
const FACILITIES: [(&str, u8); 12] = [
    ("user", 1),
    ("daemon", 3),
    ("auth", 4),
    ("authpriv", 10),
    ("local0", 16),
    ("local1", 17),
    ("local2", 18),
    ("local3", 19),
    ("local4", 20),
    ("local5", 21),
    ("local6", 22),
    ("local7", 23),
];

const SCHEMAS: [(&str, Schema); 3] = [("vigie", Schema::Vigie), ("ocsf", Schema::Ocsf), ("ecs", Schema::Ecs)];

#[derive(Debug, Clone, Copy, PartialEq)]
enum Kind {
    File,
    Syslog,
    Webhook,
    Otlp,
    Command,
    Journald,
}

/// Reads all sinks; one with a problem is left out.
pub(crate) fn read_all(
    tables: Vec<Table>,
    problems: &mut Problems,
    warnings: &mut Problems,
) -> Vec<SinkSection> {
    let mut names = BTreeSet::new();
    let mut files = BTreeSet::new();
    let mut sinks = Vec::new();
    for (at, table) in tables.into_iter().enumerate() {
        let line = table.line;
        if at == MAX_SINKS {
            problems.add(line, "sink", format!("there are more than {MAX_SINKS} sinks"));
            break;
        }
        let Some(sink) = read(table, problems, warnings) else { continue };
        if !names.insert(sink.name.clone()) {
            problems.add(line, "sink.name", format!("duplicate [[sink]] with the name {}", sink.name));
        }
        if let Target::File(file) = &sink.target
            && !files.insert(file.path.clone())
        {
            problems.add(line, "sink.path", format!("another [[sink]] already writes to {:?}", file.path));
        }
        sinks.push(sink);
    }
    sinks
}

fn read(mut table: Table, problems: &mut Problems, warnings: &mut Problems) -> Option<SinkSection> {
    let name = required(&mut table, problems, "name", "every [[sink]] needs one")?;
    let is_name = (1..=32).contains(&name.len())
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '_'));
    if !is_name {
        let message = format!(
            "{:?} is not a sink name: 1 to 32 lower-case letters, digits, - and _, beginning with a letter",
            cut(&name)
        );
        table.complain(problems, "name", message);
        return None;
    }
    table.path = format!("sink.{name}");
    let kinds = [
        ("file", Kind::File),
        ("syslog", Kind::Syslog),
        ("webhook", Kind::Webhook),
        ("otlp", Kind::Otlp),
        ("command", Kind::Command),
        ("journald", Kind::Journald),
    ];
    let Some(kind) = table.choice(problems, "kind", &kinds) else {
        missing(&table, problems, "kind", "one of file, syslog, webhook, otlp, command, journald");
        return None;
    };
    let begins = [("new", Begin::New), ("oldest", Begin::Oldest)];
    let enabled = table.boolean(problems, "enabled", true);
    let filter = read_filter(&mut table, problems);
    let begin = table.choice(problems, "begin", &begins).unwrap_or(Begin::New);
    let batch_alerts = number(table.integer(problems, "batch_alerts", 1..=10_000), 500);
    let batch_bytes = number(table.bytes(problems, "batch_bytes", KIB..=16 * MIB), 1 << 20);
    let timeout = table.duration(
        problems,
        "timeout",
        Duration::from_secs(30),
        Duration::from_millis(100)..=Duration::from_secs(600),
    );
    let target = match kind {
        Kind::File => file(&mut table, problems),
        Kind::Syslog => syslog(&mut table, problems),
        Kind::Webhook | Kind::Otlp => http(&mut table, kind, problems, warnings),
        Kind::Command => command(&mut table, problems, warnings),
        Kind::Journald => {
            Some(Target::Journald(table.path(problems, "socket").unwrap_or_else(|| JOURNAL_SOCKET.into())))
        }
    };
    table.finish(problems);
    Some(SinkSection { name, enabled, filter, begin, batch_alerts, batch_bytes, timeout, target: target? })
}

/// Says that a key without a default is missing; where it has a wrong value there is a problem already.
fn missing(table: &Table, problems: &mut Problems, key: &'static str, what: &str) {
    if table.line_of(key) == table.line {
        table.complain(problems, key, format!("is missing: {what}"));
    }
}

fn required(table: &mut Table, problems: &mut Problems, key: &'static str, what: &str) -> Option<String> {
    let text = table.text(problems, key);
    if text.is_none() {
        missing(table, problems, key, what);
    }
    text
}

fn read_filter(table: &mut Table, problems: &mut Problems) -> Filter {
    let severities = Severity::ALL.map(|severity| (severity.name(), severity));
    Filter {
        modules: table.texts(problems, "modules").unwrap_or_default(),
        severity: table.choice(problems, "severity", &severities),
        rules: patterns(table, problems, "rules"),
        paths: patterns(table, problems, "paths"),
    }
}

fn patterns(table: &mut Table, problems: &mut Problems, key: &'static str) -> Vec<Pattern> {
    let mut patterns = Vec::new();
    for text in table.texts(problems, key).unwrap_or_default() {
        match filter::pattern(&text) {
            Ok(pattern) => patterns.push(pattern),
            Err(error) => table.complain(problems, key, format!("invalid pattern {:?}: {error}", cut(&text))),
        }
    }
    patterns
}

fn schema(table: &mut Table, problems: &mut Problems, default: Schema) -> Schema {
    table.choice(problems, "schema", &SCHEMAS).unwrap_or(default)
}

fn file(table: &mut Table, problems: &mut Problems) -> Option<Target> {
    let path = table.path(problems, "path");
    if path.is_none() {
        missing(table, problems, "path", "the file's absolute path");
    }
    let rotate_bytes = table.bytes(problems, "rotate_bytes", 0..=TIB).unwrap_or(128 * MIB);
    if rotate_bytes != 0 && rotate_bytes < 64 * KIB {
        table.complain(problems, "rotate_bytes", "is 0 (never), or 64 KiB to 1 TiB");
    }
    let mode = match table.text(problems, "mode") {
        None => 0o600,
        Some(text) => match u32::from_str_radix(&text, 8) {
            Ok(mode) if mode & !0o666 == 0 => mode,
            _ => {
                let message =
                    format!("{:?} is not a file mode such as \"0640\", at most \"0666\"", cut(&text));
                table.complain(problems, "mode", message);
                0o600
            }
        },
    };
    Some(Target::File(FileTarget {
        schema: schema(table, problems, Schema::Vigie),
        keep_files: number(table.integer(problems, "keep_files", 0..=1000), 4),
        path: path?,
        rotate_bytes,
        mode,
    }))
}

fn syslog(table: &mut Table, problems: &mut Problems) -> Option<Target> {
    #[derive(Clone, Copy, PartialEq)]
    enum Way {
        Relp,
        RelpTls,
        Tls,
        Tcp,
        Udp,
        Local,
    }
    let ways = [
        ("relp", Way::Relp),
        ("relp-tls", Way::RelpTls),
        ("tls", Way::Tls),
        ("tcp", Way::Tcp),
        ("udp", Way::Udp),
        ("local", Way::Local),
    ];
    let Some(way) = table.choice(problems, "transport", &ways) else {
        missing(table, problems, "transport", "one of relp, relp-tls, tls, tcp, udp, local");
        return None;
    };
    let facility = table.choice(problems, "facility", &FACILITIES).unwrap_or(4);
    let enterprise_number =
        number(table.integer(problems, "enterprise_number", 1..=u64::from(u32::MAX)), 32473);
    let schemas = [
        ("none", None),
        ("vigie", Some(Schema::Vigie)),
        ("ocsf", Some(Schema::Ocsf)),
        ("ecs", Some(Schema::Ecs)),
    ];
    let is_short = matches!(way, Way::Udp | Way::Local);
    let schema = table.choice(problems, "schema", &schemas).unwrap_or(Some(Schema::Vigie));
    let record_bytes = number(
        table.integer(problems, "record_bytes", MIN_RECORD_BYTES as u64..=MAX_RECORD_BYTES as u64),
        if is_short { MIN_RECORD_BYTES } else { MAX_RECORD_BYTES },
    );
    let address = if way == Way::Local { None } else { address(table, problems) };
    let transport = match way {
        Way::Local => Transport::Local(table.path(problems, "socket").unwrap_or_else(|| LOCAL_SOCKET.into())),
        Way::Udp => Transport::Udp(address?),
        Way::Relp => Transport::Relp(address?, None),
        Way::RelpTls => Transport::Relp(address?, Some(tls(table, problems))),
        Way::Tcp | Way::Tls => {
            let overlap = Overlap(table.bytes(problems, "overlap_bytes", 0..=GIB).unwrap_or(8 * MIB));
            if way == Way::Tcp {
                Transport::Tcp(address?, overlap)
            } else {
                Transport::Tls(address?, tls(table, problems), overlap)
            }
        }
    };
    Some(Target::Syslog(SyslogTarget { transport, facility, enterprise_number, schema, record_bytes }))
}

fn address(table: &mut Table, problems: &mut Problems) -> Option<Address> {
    let text = required(table, problems, "address", "HOST:PORT of the receiver")?;
    let parsed = text.rsplit_once(':').and_then(|(host, port)| {
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        let port = port.parse::<u16>().ok().filter(|port| *port != 0)?;
        let is_good = !host.is_empty() && !host.contains(|c: char| c.is_whitespace() || c == '/');
        is_good.then(|| Address { host: host.to_owned(), port })
    });
    if parsed.is_none() {
        table.complain(problems, "address", format!("{:?} is not HOST:PORT", cut(&text)));
    }
    parsed
}

fn tls(table: &mut Table, problems: &mut Problems) -> Tls {
    let (certificate, key) = (table.path(problems, "certificate"), table.path(problems, "certificate_key"));
    if certificate.is_some() != key.is_some() {
        let there = if certificate.is_some() { "certificate" } else { "certificate_key" };
        table.complain(problems, there, "certificate and certificate_key must be set together");
    }
    Tls {
        ca: table.path(problems, "ca"),
        certificate: certificate.zip(key),
        server_name: table.text(problems, "server_name"),
    }
}

/// A file with a secret; what is wrong with it is said now, although it is read anew for each connection.
fn secret(
    table: &mut Table,
    problems: &mut Problems,
    warnings: &mut Problems,
    key: &'static str,
) -> Option<PathBuf> {
    let path = table.path(problems, key)?;
    if let Some(problem) = secret_problem(&path) {
        table.complain(warnings, key, problem);
    }
    Some(path)
}

fn secret_problem(path: &Path) -> Option<String> {
    let error = vigie_files::secret_file::read(path, MAX_SECRET_BYTES).err()?;
    Some(vigie_protocol::error_chain::ErrorChain(&error).to_string())
}

fn http(table: &mut Table, kind: Kind, problems: &mut Problems, warnings: &mut Problems) -> Option<Target> {
    let templates = [
        ("plain", Template::Plain),
        ("lines", Template::Lines),
        ("slack", Template::Slack),
        ("mattermost", Template::Mattermost),
        ("pagerduty", Template::PagerDuty),
        ("splunk", Template::Splunk),
        ("elasticsearch", Template::Elasticsearch),
        ("loki", Template::Loki),
    ];
    let encodings = [("protobuf", Encoding::Protobuf), ("json", Encoding::Json)];
    let template = if kind == Kind::Otlp {
        Template::Otlp(table.choice(problems, "encoding", &encodings).unwrap_or_default())
    } else {
        table.choice(problems, "template", &templates).unwrap_or(Template::Plain)
    };
    let default = if template == Template::Elasticsearch { Schema::Ecs } else { Schema::Vigie };
    let schema = if kind == Kind::Otlp { Schema::Vigie } else { schema(table, problems, default) };
    let url_file = secret(table, problems, warnings, "url_file");
    let url = table.text(problems, "url");
    let authorization_file = secret(table, problems, warnings, "authorization_file");
    let routing_key_file = secret(table, problems, warnings, "routing_key_file");
    let signing_file = secret(table, problems, warnings, "signing_key_file");
    let styles = [("standard", Style::Standard), ("hub", Style::Hub)];
    let style = table.choice(problems, "signature", &styles).unwrap_or(Style::Standard);
    let headers = headers(table.table(problems, "headers"), problems);
    let gzip = table.boolean(problems, "gzip", false);
    let tls = tls(table, problems);
    if template == Template::PagerDuty && routing_key_file.is_none() {
        missing(table, problems, "routing_key_file", "the template pagerduty needs the service's key");
    }
    let url = match (url, url_file) {
        (Some(_), Some(_)) => {
            table.complain(problems, "url", "set either url or url_file, not both");
            return None;
        }
        (None, Some(file)) => Url::File(file),
        (None, None) => {
            missing(table, problems, "url", "the receiver's address, or url_file where that is a secret");
            return None;
        }
        (Some(url), None) => {
            let has_secret = authorization_file.is_some() || routing_key_file.is_some();
            if let Err(problem) = check_url(&url, has_secret) {
                table.complain(problems, "url", format!("{} {problem}", quoted_address(&url)));
                return None;
            }
            if is_in_clear(&url) {
                table.complain(
                    warnings,
                    "url",
                    "would send alerts unencrypted over the network: use https://",
                );
            }
            Url::Plain(url)
        }
    };
    Some(Target::Http(HttpTarget {
        url,
        template,
        schema,
        authorization_file,
        routing_key_file,
        signing: signing_file.map(|file| (file, style)),
        headers,
        gzip,
        tls,
    }))
}

/// Says what is wrong with an address of HTTP.
///
/// # Errors
/// When it is no address, holds a user or a password, which would be shown where the address is, or would take a secret
/// over the network in clear.
pub fn check_url(url: &str, has_secret: bool) -> Result<(), &'static str> {
    let rest = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"));
    let Some(rest) = rest else { return Err("is not http://HOST… or https://HOST…") };
    let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
    if host.contains('@') {
        return Err("must not contain user and password; set authorization_file");
    }
    if host.is_empty() || url.contains(|c: char| !c.is_ascii_graphic()) {
        return Err("is not http://HOST… or https://HOST… in ASCII without spaces");
    }
    if has_secret && is_in_clear(url) {
        return Err("would send a secret unencrypted over the network: use https://");
    }
    Ok(())
}

fn is_in_clear(url: &str) -> bool {
    url.strip_prefix("http://").is_some_and(|rest| !is_loopback(rest))
}

fn is_loopback(rest: &str) -> bool {
    let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let host = host
        .rsplit_once(':')
        .filter(|(_, port)| port.bytes().all(|b| b.is_ascii_digit()))
        .map_or(host, |(host, _)| host);
    host == "localhost"
        || host
            .trim_matches(['[', ']'])
            .parse::<std::net::IpAddr>()
            .is_ok_and(|address| address.is_loopback())
}

/// Headers that the agent sets itself, or that have a key for their secret.
const OWN_HEADERS: [&str; 7] = [
    "authorization",
    "host",
    "content-length",
    "content-type",
    "content-encoding",
    "transfer-encoding",
    "connection",
];

fn headers(table: Table, problems: &mut Problems) -> BTreeMap<String, String> {
    let path = table.path.clone();
    let mut headers = BTreeMap::new();
    for (name, value, line) in table.into_texts(problems) {
        let key = format!("{path}.{}", cut(&name));
        let lower = name.to_ascii_lowercase();
        if name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_') {
            problems.add(line, key, "a header's name has letters, digits, - and _");
        } else if OWN_HEADERS.contains(&lower.as_str()) {
            problems.add(line, key, "is set by the agent; put secrets into authorization_file");
        } else if !value.is_ascii() {
            problems.add(line, key, "a header value must be ASCII");
        }
        headers.insert(lower, value);
    }
    headers
}

fn command(table: &mut Table, problems: &mut Problems, warnings: &mut Problems) -> Option<Target> {
    let command = table.texts(problems, "command");
    match &command {
        Some(command) => check_command(command, table, problems, warnings),
        None => missing(table, problems, "command", "the program's absolute path and its arguments"),
    }
    let user = table.text(problems, "user");
    if let Some(user) = &user
        && matches!(nix::unistd::User::from_name(user), Ok(None))
    {
        table.complain(warnings, "user", format!("the user {:?} does not exist on this host", cut(user)));
    }
    Some(Target::Command(CommandTarget {
        command: command?,
        user,
        schema: schema(table, problems, Schema::Vigie),
    }))
}
