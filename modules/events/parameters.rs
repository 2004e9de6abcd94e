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

/// In front of a kind of events that was not recorded at all for a while, among what was lost.
pub(crate) const NOT_RECORDED: &[u8] = b"not-recorded:";
/// Among what was lost: the time when the module did not run.
pub(crate) const NOT_RUNNING: &[u8] = b"not-running";

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

/// Kinds of events that have a program, and those that have a user beside them.
const OF_PROGRAMS: [Kind; 4] = [Kind::Exec, Kind::Connect, Kind::Accept, Kind::Listen];
const OF_USERS: [Kind; 4] = [Kind::Exit, Kind::Setuid, Kind::Login, Kind::Logout];

/// Events that are asked for: every list that is not empty must fit.
#[derive(Debug, Default)]
pub(crate) struct Wanted {
    ran: Vec<Vec<u8>>,
    by: Vec<u32>,
    /// The same users by their names, as logins have them.
    names: Vec<String>,
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
        if since > until {
            problems.push("parameter until: it is before since, so no event could be found".to_owned());
        }
        let others = [("tree", asked.tree.is_some()), ("rules", asked.rules), ("verify", asked.verify)];
        if let Some((key, _)) = others.iter().find(|(_, is)| *is)
            && (asked.asks_events() || others.iter().filter(|(_, is)| *is).count() > 1)
        {
            problems.push(format!("parameter {key}: it cannot be combined with other parameters"));
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
        let known = by.iter().filter_map(|uid| names.user(*uid)).map(str::to_owned);
        let names: Vec<String> = asked.by.iter().cloned().chain(known).collect();
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
        let ran: Vec<Vec<u8>> = asked.ran.iter().map(|text| vigie_host::meant(text.as_bytes())).collect();
        let wanted = Wanted {
            ran,
            by,
            names,
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
        if wanted.possible().is_empty() {
            problems.push(
                "no event can match all of these: only exec, connect, accept and listen have a program (ran, hash), \
                 only exec has arguments (command), only connect and accept have a peer (connected), and these, exit, \
                 setuid, login and logout have a user (by); ask for one of them, or for the tree of a process"
                    .to_owned(),
            );
        }
        if !problems.is_empty() {
            return Err(problems);
        }
        Ok(match tree {
            Some((pid, time)) => Self::Tree { pid, start: asked.start, time, limit },
            None if asked.rules => Self::Rules,
            None if asked.verify => Self::Verify,
            None if wanted.asks_nothing() => Self::Status,
            None => Self::Events(Box::new(wanted)),
        })
    }
}

impl Asked {
    fn asks_events(&self) -> bool {
        let lists = [&self.ran, &self.by, &self.connected, &self.hash, &self.command, &self.kind];
        lists.iter().any(|list| !list.is_empty())
            || !self.pid.is_empty()
            || self.since.is_some()
            || self.until.is_some()
    }
}

impl Wanted {
    /// The kinds that can have what is asked for.
    fn possible(&self) -> Vec<Kind> {
        let asks_program = !(self.ran.is_empty() && self.hash.is_empty());
        let can = |kind: &Kind| {
            (self.kinds.is_empty() || self.kinds.contains(kind))
                && (!asks_program || OF_PROGRAMS.contains(kind))
                && (self.command.is_empty() || *kind == Kind::Exec)
                && (self.connected.is_empty() || matches!(kind, Kind::Connect | Kind::Accept))
                && (self.by.is_empty() || OF_PROGRAMS.contains(kind) || self.has_users(*kind))
        };
        Kind::ALL.into_iter().filter(can).collect()
    }

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
        let possible = self.possible();
        let asks = |kinds: &[Kind]| possible.iter().any(|kind| kinds.contains(kind));
        let lost = crate::answer::kind_and_whose(lost).0;
        if let Some(kind) = lost.strip_prefix(NOT_RECORDED) {
            let kind = std::str::from_utf8(kind).ok().and_then(Kind::from_name);
            // Whether it ran is answered by execs alone.
            let enough = self.kinds.is_empty() && !self.ran.is_empty() && possible.contains(&Kind::Exec);
            return kind.is_some_and(|kind| if enough { kind == Kind::Exec } else { asks(&[kind]) });
        }
        match lost {
            b"exec" => asks(&[Kind::Exec]),
            b"exit" => asks(&[Kind::Exit]),
            b"net" => asks(&[Kind::Connect, Kind::Accept, Kind::Listen]) && self.asks_sockets(),
            // Nobody can ask for forks.
            b"fork" => false,
            _ => true,
        }
    }

    /// Sockets of a program that is asked for are only more of it.
    fn asks_sockets(&self) -> bool {
        let asks_program = !(self.ran.is_empty() && self.hash.is_empty() && self.command.is_empty());
        !asks_program || !self.connected.is_empty() || !self.kinds.is_empty()
    }

    /// A pattern without a directory is compared with the name as well.
    fn is_path(&self, path: &[u8]) -> bool {
        let name = path.rsplit(|byte| *byte == b'/').next().unwrap_or(path);
        self.ran.iter().any(|pattern| {
            vigie_tree::matches(pattern, path)
                || !pattern.contains(&b'/') && vigie_tree::matches(pattern, name)
        })
    }

    /// What was executed, and a script behind it (see [`crate::record::Run::add_script`]).
    fn is_filename(&self, filename: &[u8]) -> bool {
        filename.split(|byte| *byte == 0).any(|path| !path.is_empty() && self.is_path(path))
    }

    /// Kinds that have a user and nothing that a block could be left out by. Exits are asked for by name: each exec has
    /// one, and twice as many events would be listed.
    fn has_users(&self, kind: Kind) -> bool {
        OF_USERS.contains(&kind) && (kind != Kind::Exit || self.kinds.contains(&kind))
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
            && !any(Texts::Filenames, &|name| self.is_filename(name))?
        {
            return Ok(false);
        }
        if !self.connected.is_empty()
            && !any(Texts::Addresses, &|address| address_of(address).is_some_and(|at| self.is_peer(at)))?
        {
            return Ok(false);
        }
        let asked = |kind: Kind| self.kinds.is_empty() || self.kinds.contains(&kind);
        let has = |kind: &Kind| asked(*kind) && self.has_users(*kind) && block.count(*kind) > 0;
        let has_users = || OF_USERS.iter().any(has);
        if !self.by.is_empty()
            && !has_users()
            && !any(Texts::Rights, &|rights| rights_of(rights).is_some_and(|rights| self.is_by(&rights)))?
        {
            return Ok(false);
        }
        if !self.command.is_empty() && !any(Texts::Arguments, &|text| self.is_command(text))? {
            return Ok(false);
        }
        Ok(true)
    }

    /// Whether it was done by a user who is asked for, of what has no rights of its own in the history.
    fn is_of_user(&self, what: &What) -> bool {
        match what {
            What::Exit { euid, .. } => self.by.contains(euid),
            What::Setuid { uid, euid } => self.by.contains(uid) || self.by.contains(euid),
            What::Login(session) | What::Logout(session) => {
                self.names.iter().any(|name| name.as_bytes() == session.user)
            }
            _ => false,
        }
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
        let (run, socket) = match &record.what {
            What::Exec(run) => (Some(run), None),
            What::Socket(socket) => (None, Some(socket)),
            // All others have no program of their own in the history.
            what => {
                let asks_more = !(self.ran.is_empty() && self.hash.is_empty() && self.command.is_empty());
                return self.connected.is_empty()
                    && !asks_more
                    && (self.by.is_empty() || self.has_users(what.kind()) && self.is_of_user(what));
            }
        };
        let program = run.map(|run| &run.program).or(socket.map(|socket| &socket.program));
        let rights = run.map(|run| &run.rights).or(socket.map(|socket| &socket.rights));
        let path = program.is_some_and(|program| self.is_path(&program.path))
            || run.is_some_and(|run| self.is_filename(&run.filename));
        (self.ran.is_empty() || path)
            && (self.by.is_empty() || rights.is_some_and(|rights| self.is_by(rights)))
            && (self.hash.is_empty() || digest.is_some_and(|digest| self.hash.contains(digest)))
            && (self.connected.is_empty() || socket.is_some_and(|socket| self.is_peer(socket.remote)))
            && (self.command.is_empty() || run.is_some_and(|run| self.is_command(run.arguments.bytes())))
    }
}
