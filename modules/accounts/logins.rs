//! Who logged in, when and from where: utmp(5), wtmp, lastlog, and the sessions of logind.

use std::collections::HashMap;
use std::net::IpAddr;

use serde::Serialize;

/// Bytes of a record of utmp(5) on every architecture whose C library is glibc with 64 bits.
pub(crate) const UTMP_BYTES: usize = 384;

/// Bytes of a record of lastlog.
pub(crate) const LASTLOG_BYTES: usize = 292;

/// Kinds of records.
const BOOT_TIME: i16 = 2;
const USER_PROCESS: i16 = 7;
const DEAD_PROCESS: i16 = 8;

/// A record of utmp(5).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Utmp {
    /// What it says.
    pub kind: i16,
    /// The process that leads the session.
    pub pid: i32,
    /// The terminal.
    pub line: String,
    /// Who.
    pub user: String,
    /// From where, as the program that wrote it says.
    pub host: String,
    /// From where.
    pub address: Option<IpAddr>,
    /// Seconds since the epoch, until 2106.
    pub time: u32,
}

/// The records of a file, oldest first; a torn last one is left out.
#[must_use]
pub fn records(content: &[u8]) -> Vec<Utmp> {
    content.as_chunks::<UTMP_BYTES>().0.iter().map(record).collect()
}

fn record(bytes: &[u8; UTMP_BYTES]) -> Utmp {
    let word = |at: usize| u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    let address: [u8; 16] = bytes[348..364].try_into().expect("the range has 16 bytes");
    Utmp {
        kind: i16::from_ne_bytes([bytes[0], bytes[1]]),
        pid: word(4).cast_signed(),
        line: text(&bytes[8..40]),
        user: text(&bytes[44..76]),
        host: text(&bytes[76..332]),
        address: if address == [0; 16] {
            None
        } else if address[4..] == [0; 12] {
            Some(IpAddr::from([address[0], address[1], address[2], address[3]]))
        } else {
            Some(IpAddr::from(address))
        },
        time: word(340),
    }
}

/// Text up to the first NUL, which need not be there.
fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    vigie_host::shown(&bytes[..end])
}

/// Somebody was logged in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Login {
    /// Who.
    pub username: String,
    /// The terminal.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub tty: String,
    /// From where.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub host: String,
    /// RFC 3339.
    pub time: String,
    /// RFC 3339; `None` while it goes on, or when nothing says how it ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub end: Option<String>,
    /// The process that leads the session.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid: Option<i32>,
    /// What says so.
    pub source: &'static str,
}

/// Seconds since the epoch as RFC 3339.
#[must_use]
pub fn time(seconds: i64) -> String {
    jiff::Timestamp::from_second(seconds).map(|time| time.to_string()).unwrap_or_default()
}

/// Logins with their ends, newest first, and evidence that somebody edited the file.
#[must_use]
pub fn logins(records: &[Utmp], source: &'static str) -> (Vec<Login>, Vec<String>) {
    let mut logins: Vec<Login> = Vec::new();
    let mut open: HashMap<&str, usize> = HashMap::new();
    let mut problems = Vec::new();
    let mut latest = 0;
    let mut zeroed = 0_u32;
    let mut backwards = 0_u32;
    for record in records {
        if record.kind == 0 && record.time == 0 && record.user.is_empty() && record.line.is_empty() {
            // Editors of logs write zeros over what they hide.
            zeroed += 1;
            continue;
        }
        // A clock that is set back at boot is no evidence, an hour is.
        backwards += u32::from(record.time.saturating_add(3_600) < latest && record.time != 0);
        latest = latest.max(record.time);
        let when = time(i64::from(record.time));
        match record.kind {
            USER_PROCESS => {
                open.insert(&record.line, logins.len());
                logins.push(Login {
                    username: record.user.clone(),
                    tty: record.line.clone(),
                    host: record.address.map_or_else(|| record.host.clone(), |address| address.to_string()),
                    time: when,
                    end: None,
                    pid: Some(record.pid),
                    source,
                });
            }
            DEAD_PROCESS => {
                if let Some(login) = open.remove(record.line.as_str()).and_then(|at| logins.get_mut(at)) {
                    login.end = Some(when);
                }
            }
            BOOT_TIME => {
                for (_, at) in open.drain() {
                    logins[at].end = Some(when.clone());
                }
            }
            _ => {}
        }
    }
    if zeroed > 0 {
        problems.push(format!("{zeroed} records were overwritten with zeros"));
    }
    if backwards > 0 {
        problems.push(format!("{backwards} records are older than those before them"));
    }
    logins.reverse();
    (logins, problems)
}

/// A record of lastlog; `None` when that user never logged in.
#[must_use]
pub fn last_login(bytes: &[u8; LASTLOG_BYTES]) -> Option<(i64, String, String)> {
    let seconds = u32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    (seconds != 0).then(|| (i64::from(seconds), text(&bytes[4..36]), text(&bytes[36..292])))
}

/// A session of logind: lines `KEY=VALUE`.
#[must_use]
pub fn session(content: &[u8]) -> HashMap<String, String> {
    let text = String::from_utf8_lossy(content);
    text.lines()
        .take(200)
        .filter_map(|line| line.split_once('='))
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bytes(kind: i16, line: &str, user: &str, time: u32) -> Vec<u8> {
        let mut record = vec![0; UTMP_BYTES];
        record[..2].copy_from_slice(&kind.to_ne_bytes());
        record[8..8 + line.len()].copy_from_slice(line.as_bytes());
        record[44..44 + user.len()].copy_from_slice(user.as_bytes());
        record[340..344].copy_from_slice(&time.to_ne_bytes());
        record[348..352].copy_from_slice(&[192, 0, 2, 1]);
        record
    }

    #[test]
    fn a_login_ends_with_its_terminal_or_the_next_boot() {
        let file = [
            bytes(7, "pts/0", "ann", 1_000),
            bytes(7, "pts/1", "bob", 1_001),
            bytes(8, "pts/0", "", 1_010),
            bytes(2, "~", "reboot", 1_100),
            bytes(7, "pts/0", "ann", 4_000_000_000),
            vec![0; UTMP_BYTES],
            vec![7; 5],
        ]
        .concat();

        let (logins, problems) = logins(&records(&file), "wtmp");

        let said: Vec<_> = logins
            .iter()
            .map(|login| (login.username.as_str(), login.time.as_str(), login.end.as_deref()))
            .collect();
        assert_eq!(
            said,
            [
                ("ann", "2096-10-02T07:06:40Z", None),
                ("bob", "1970-01-01T00:16:41Z", Some("1970-01-01T00:18:20Z")),
                ("ann", "1970-01-01T00:16:40Z", Some("1970-01-01T00:16:50Z")),
            ]
        );
        assert_eq!(logins[0].host, "192.0.2.1");
        assert_eq!(problems, ["1 records were overwritten with zeros"]);
    }

    #[test]
    fn times_that_go_back_are_evidence() {
        let file = [bytes(7, "a", "ann", 100_000), bytes(7, "b", "ann", 5)].concat();

        assert_eq!(logins(&records(&file), "wtmp").1, ["1 records are older than those before them"]);
    }

    proptest! {
        #[test]
        fn any_bytes_are_records(bytes in proptest::collection::vec(any::<u8>(), 0..1200)) {
            let _ = logins(&records(&bytes), "wtmp");
            let _ = session(&bytes);
        }
    }
}
