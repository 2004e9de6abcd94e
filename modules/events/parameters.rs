//! What a question asks.

use std::net::IpAddr;

use serde::Deserialize;
use vigie_host::users::Names;
use vigie_matching::Expressions;
use vigie_sdk::Query;

use crate::history::block::{Block, BlockError, Bytes, Texts, address_of, path_of, rights_of};
use crate::history::columns::texts;
use crate::record::{Kind, Record, Rights, What};
use crate::rules::{contains, parse_network};

/// Events that are listed when the question says nothing.
const DEFAULT_LIMIT: usize = 1000;
const LARGEST_LIMIT: usize = 100_000;

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Asked {
    ran: Vec<String>,
    by: Vec<String>,
    connected: Vec<String>,
    hash: Vec<String>,
    command: Vec<String>,
    kind: Vec<String>,
    pid: Vec<u32>,
    since: Option<String>,
    until: Option<String>,
    tree: Option<String>,
    start: Option<u64>,
    rules: bool,
    verify: bool,
    limit: Option<usize>,
}

/// A question, checked.
#[derive(Debug)]
pub(crate) enum Parameters {
    /// How the module is.
    Status,
    /// What the rules did.
    Rules,
    /// Whether the history is as it was sealed.
    Verify,
    /// A process with its ancestors and descendants: the newest of this number at a moment, or the one that began then
    /// (microseconds since the start of the host).
    Tree { pid: u32, start: Option<u64>, time: i64, limit: usize },
    /// Events.
    Events(Box<Wanted>),
}

/// Events that are asked for: every list that is not empty must fit.
#[derive(Debug, Default)]
pub(crate) struct Wanted {
    ran: Vec<Vec<u8>>,
    by: Vec<u32>,
    /// Names that this host does not know.
    pub(crate) unknown_users: Vec<String>,
    connected: Vec<(IpAddr, u8)>,
    hash: Vec<[u8; 32]>,
    command: Expressions,
    kinds: Vec<Kind>,
    pids: Vec<u32>,
    pub(crate) since: i64,
    pub(crate) until: i64,
    pub(crate) limit: usize,
}

/// A time in RFC 3339, or how long ago it is: `30d`, `2h`.
fn time(text: &str, now: i64) -> Option<i64> {
    if let Ok(age) = humantime::parse_duration(text) {
        return now.checked_sub(i64::try_from(age.as_micros()).ok()?);
    }
    let text = if text.len() == 10 && text.as_bytes().get(4) == Some(&b'-') {
        format!("{text}T00:00:00Z")
    } else {
        text.to_owned()
    };
    text.parse::<jiff::Timestamp>().ok().map(jiff::Timestamp::as_microsecond)
}

impl Parameters {
    /// Reads the question.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub(crate) fn of(query: &Query, names: &Names, now: i64) -> Result<Self, Vec<String>> {
        let asked: Asked = match &query.parameters {
            Some(parameters) if parameters.get() != "null" => {
                query.parse().map_err(|error| vec![error.to_string()])?
            }
            _ => Asked::default(),
        };
        let mut problems = Vec::new();
        let limit = asked.limit.unwrap_or(DEFAULT_LIMIT);
        if limit == 0 || limit > LARGEST_LIMIT {
            problems.push(format!("parameter limit must be from 1 to {LARGEST_LIMIT}"));
        }
        let mut moment = |key: &str, text: &Option<String>, otherwise: i64| match text {
            None => otherwise,
            Some(text) => time(text, now).unwrap_or_else(|| {
                problems.push(format!(
                    "parameter {key}: {text:?} is neither an RFC 3339 time nor a duration such as 30d"
                ));
                otherwise
            }),
        };
        let since = moment("since", &asked.since, i64::MIN);
        let until = moment("until", &asked.until, i64::MAX);
        let tree = asked.tree.as_ref().map(|text| {
            let (pid, at) = text.split_once('@').map_or((text.as_str(), None), |(pid, at)| (pid, Some(at)));
            let time = at.map_or(Some(i64::MAX), |at| time(at, now));
            pid.parse::<u32>().ok().zip(time).ok_or_else(|| {
                format!(
                    "parameter tree: {text:?} is not PID@TIME, such as 4711@2026-01-31T12:00:00Z or 4711@2h"
                )
            })
        });
        let tree = match tree.transpose() {
            Ok(tree) => tree,
            Err(problem) => {
                problems.push(problem);
                None
            }
        };
        if asked.start.is_some() && asked.tree.is_none() {
            problems.push("parameter start: requires tree".to_owned());
        }
        let kinds = asked.kind.iter().filter_map(|name| {
            let kind = Kind::from_name(name);
            if kind.is_none() {
                problems.push(format!("parameter kind: unknown kind {name:?}"));
            }
            kind
        });
        let kinds = kinds.collect();
        let mut read = |key: &str, what: &str, text: &str| {
            problems.push(format!("parameter {key}: {text:?} is not a {what}"));
        };
        let mut unknown_users = Vec::new();
        let by = asked.by.iter().filter_map(|text| {
            let uid = names.asked_uid(text, &mut unknown_users);
            if uid.is_none() {
                read("by", "name of a user or user ID", text);
            }
            uid
        });
        let by: Vec<u32> = by.collect();
        let networks = asked.connected.iter().filter_map(|text| {
            let network = parse_network(text);
            if network.is_none() {
                read("connected", "address and no network", text);
            }
            network
        });
        let connected: Vec<(IpAddr, u8)> = networks.collect();
        let digests = asked.hash.iter().filter_map(|text| {
            let digest = data_encoding::HEXLOWER_PERMISSIVE.decode(text.as_bytes()).ok();
            let digest = digest.and_then(|bytes| <[u8; 32]>::try_from(bytes).ok());
            if digest.is_none() {
                read("hash", "SHA-256 in hexadecimal", text);
            }
            digest
        });
        let hash: Vec<[u8; 32]> = digests.collect();
        let command = Expressions::parse("command", &asked.command, &mut problems);
        if !problems.is_empty() {
            return Err(problems);
        }
        let ran: Vec<Vec<u8>> = asked.ran.iter().map(|text| vigie_host::meant(text.as_bytes())).collect();
        let wanted = Wanted {
            ran,
            by,
            unknown_users,
            connected,
            hash,
            command,
            kinds,
            pids: asked.pid,
            since,
            until,
            limit,
        };
        Ok(match tree {
            Some((pid, time)) => Self::Tree { pid, start: asked.start, time, limit },
            None if asked.rules => Self::Rules,
            None if asked.verify => Self::Verify,
            None if wanted.asks_nothing() => Self::Status,
            None => Self::Events(Box::new(wanted)),
        })
    }
}

impl Wanted {
    fn asks_nothing(&self) -> bool {
        self.ran.is_empty()
            && self.by.is_empty()
            && self.connected.is_empty()
            && self.hash.is_empty()
            && self.command.is_empty()
            && self.kinds.is_empty()
            && self.pids.is_empty()
            && (self.since, self.until) == (i64::MIN, i64::MAX)
    }

    /// Whether digests are asked for: those of some programs are not known.
    pub(crate) fn asks_digests(&self) -> bool {
        !self.hash.is_empty()
    }

    /// Whether a lost event of such a kind, as the counters name it, could have been one that is asked for.
    pub(crate) fn concerns(&self, lost: &[u8]) -> bool {
        let asks_execs = !self.ran.is_empty() || !self.command.is_empty() || !self.hash.is_empty();
        let asks_sockets = !self.connected.is_empty();
        let asks =
            |kinds: &[Kind]| self.kinds.is_empty() || self.kinds.iter().any(|kind| kinds.contains(kind));
        match crate::answer::kind_and_whose(lost).0 {
            b"exec" => !asks_sockets && asks(&[Kind::Exec]),
            b"exit" => !asks_sockets && !asks_execs && asks(&[Kind::Exit]),
            b"net" => !asks_execs && asks(&[Kind::Connect, Kind::Accept, Kind::Listen]),
            // Nobody can ask for forks.
            b"fork" => false,
            _ => true,
        }
    }

    fn is_path(&self, path: &[u8]) -> bool {
        self.ran.iter().any(|pattern| vigie_tree::matches(pattern, path))
    }

    fn is_by(&self, rights: &Rights) -> bool {
        let all = [Some(rights.uid), Some(rights.euid), rights.login_uid];
        all.iter().flatten().any(|uid| self.by.contains(uid))
    }

    /// Whether a block can have such events; reads as little of it as this takes.
    pub(crate) fn may_be_in<B: Bytes>(&self, block: &Block<B>) -> Result<bool, BlockError> {
        if block.last < self.since || block.first > self.until {
            return Ok(false);
        }
        if !self.kinds.is_empty() && self.kinds.iter().all(|kind| block.count(*kind) == 0) {
            return Ok(false);
        }
        let any = |dictionary: Texts, fits: &dyn Fn(&[u8]) -> bool| -> Result<bool, BlockError> {
            let data = block.dictionary(dictionary)?;
            Ok(texts(&data).ok_or(BlockError::Damaged)?.into_iter().any(fits))
        };
        if !self.hash.is_empty()
            && !any(Texts::Digests, &|digest| self.hash.iter().any(|wanted| wanted == digest))?
        {
            return Ok(false);
        }
        if !self.ran.is_empty()
            && !any(Texts::Programs, &|program| path_of(program).is_some_and(|path| self.is_path(path)))?
            && !any(Texts::Filenames, &|name| self.is_path(name))?
        {
            return Ok(false);
        }
        if !self.connected.is_empty()
            && !any(Texts::Addresses, &|address| address_of(address).is_some_and(|at| self.is_peer(at)))?
        {
            return Ok(false);
        }
        if !self.by.is_empty()
            && !any(Texts::Rights, &|rights| rights_of(rights).is_some_and(|rights| self.is_by(&rights)))?
        {
            return Ok(false);
        }
        if !self.command.is_empty() && !any(Texts::Arguments, &|text| self.is_command(text))? {
            return Ok(false);
        }
        Ok(true)
    }

    fn is_peer(&self, address: IpAddr) -> bool {
        self.connected.iter().any(|(network, bits)| contains(*network, *bits, address))
    }

    fn is_command(&self, arguments: &[u8]) -> bool {
        let text: Vec<u8> = arguments.iter().map(|byte| if *byte == 0 { b' ' } else { *byte }).collect();
        self.command.matches(&text)
    }

    /// Whether this is such an event.
    pub(crate) fn fits(&self, record: &Record, digest: Option<&[u8; 32]>) -> bool {
        if !(self.since..=self.until).contains(&record.time) {
            return false;
        }
        if !self.kinds.is_empty() && !self.kinds.contains(&record.what.kind()) {
            return false;
        }
        if !self.pids.is_empty() && !self.pids.contains(&record.who.pid) {
            return false;
        }
        let asked_of_program =
            !(self.ran.is_empty() && self.by.is_empty() && self.hash.is_empty() && self.command.is_empty());
        let (run, socket) = match &record.what {
            What::Exec(run) => (Some(run), None),
            What::Socket(socket) => (None, Some(socket)),
            // All others have no program of their own in the history.
            _ => return !asked_of_program && self.connected.is_empty(),
        };
        let program = run.map(|run| &run.program).or(socket.map(|socket| &socket.program));
        let rights = run.map(|run| &run.rights).or(socket.map(|socket| &socket.rights));
        let path = program.is_some_and(|program| self.is_path(&program.path))
            || run.is_some_and(|run| !run.filename.is_empty() && self.is_path(&run.filename));
        (self.ran.is_empty() || path)
            && (self.by.is_empty() || rights.is_some_and(|rights| self.is_by(rights)))
            && (self.hash.is_empty() || digest.is_some_and(|digest| self.hash.contains(digest)))
            && (self.connected.is_empty() || socket.is_some_and(|socket| self.is_peer(socket.remote)))
            && (self.command.is_empty() || run.is_some_and(|run| self.is_command(run.arguments.bytes())))
    }
}
