//! Answers as JSON.

use std::time::Duration;

use serde_json::{Map, Value, json};
use vigie_host::shown;
use vigie_host::users::Names;
use vigie_kernel_events::{ExitStatus, Kind as Told, Whose};
use vigie_sdk::privacy::{self, Showing};
use vigie_sdk::{Coverage, ModuleResult};

use crate::alert::{time_text, user};
use crate::config::Pack;
use crate::engine::Look;
use crate::history::lanes::Lane;
use crate::history::store::Extent;
use crate::parameters::{NOT_RECORDED, NOT_RUNNING};
use crate::record::{Kind, Rights, Run, Socket, What};
use crate::rules::{outcome_name, standard_kind};
use crate::search::{Found, Hit};

fn text(bytes: &[u8]) -> Value {
    shown(bytes).into()
}

fn put_rights(all: &mut Map<String, Value>, rights: &Rights, names: &Names) {
    all.insert("user".to_owned(), user(names, rights.euid).into());
    all.insert("uid".to_owned(), rights.uid.into());
    all.insert("euid".to_owned(), rights.euid.into());
    all.insert("gid".to_owned(), rights.gid.into());
    if let Some(login) = rights.login_uid {
        all.insert("login".to_owned(), user(names, login).into());
    }
    if let Some(session) = rights.login_session {
        all.insert("login_session".to_owned(), session.into());
    }
    let [mnt, pid, net, user] = rights.namespaces;
    all.insert("namespaces".to_owned(), json!({ "mnt": mnt, "pid": pid, "net": net, "user": user }));
    all.insert("cgroup".to_owned(), rights.cgroup.into());
    all.insert("capabilities".to_owned(), format!("{:x}", rights.effective).into());
}

fn put_run(all: &mut Map<String, Value>, run: &Run, names: &Names) {
    let mut put = |key: &str, value: Value| {
        all.insert(key.to_owned(), value);
    };
    put("path", text(&run.program.path));
    if !run.filename.is_empty() {
        // The script, where there is one.
        let name = run.filename.rsplit(|byte| *byte == 0).next().unwrap_or_default();
        put("filename", text(name));
    }
    put("argv", run.arguments.iter().map(text).collect());
    if run.argument_bytes as usize > run.arguments.bytes().len() + 1 {
        put("argument_bytes", run.argument_bytes.into());
    }
    put("cwd", text(&run.cwd));
    put("parent", run.parent.into());
    put("maker", run.maker.pid.into());
    put("maker_start", run.maker.start.into());
    put("group", run.group.into());
    put("session", run.session.into());
    let file = &run.program.file;
    put(
        "exe",
        json!({
            "device": format!("{}:{}", file.device.0, file.device.1),
            "inode": file.inode,
            "size": file.size,
            "changed": time_text(file.changed.saturating_mul(1_000_000)),
            "mode": format!("{:04o}", file.mode & 0o7777),
            "owner": user(names, file.owner),
            "links": file.links,
        }),
    );
    let standard = run.standard.map(|file| String::from_utf8_lossy(standard_kind(file)).into_owned());
    put("standard", standard.to_vec().into());
    if !run.environment.is_empty() {
        let all: Map<String, Value> =
            run.environment.iter().map(|(name, value)| (shown(name), text(value))).collect();
        put("environment", all.into());
    }
    let flags = [
        ("secure", run.secure),
        ("by_descriptor", run.by_descriptor),
        ("by_thread", run.by_thread),
        ("claimed", run.claimed),
    ];
    let flags: Vec<Value> = flags.iter().filter(|(_, is)| *is).map(|(name, _)| (*name).into()).collect();
    put("flags", flags.into());
    put_rights(all, &run.rights, names);
}

fn put_socket(all: &mut Map<String, Value>, socket: &Socket, names: &Names) {
    let known = !socket.program.path.is_empty();
    if known {
        all.insert("path".to_owned(), text(&socket.program.path));
        put_rights(all, &socket.rights, names);
    }
    all.insert("local".to_owned(), socket.local.to_string().into());
    all.insert("local_port".to_owned(), socket.local_port.into());
    if socket.kind != crate::record::SocketKind::Listen {
        all.insert("remote".to_owned(), socket.remote.to_string().into());
        all.insert("remote_port".to_owned(), socket.remote_port.into());
        all.insert("outcome".to_owned(), outcome_name(socket.outcome).into());
    }
    if socket.peer.pid != 0 {
        all.insert("peer".to_owned(), socket.peer.pid.into());
    }
}

fn event(hit: &Hit, names: &Names) -> Value {
    let record = &hit.record;
    let mut all = Map::new();
    all.insert("time".to_owned(), time_text(record.time).into());
    all.insert("kind".to_owned(), record.what.kind().name().into());
    if record.who.pid != 0 {
        all.insert("pid".to_owned(), record.who.pid.into());
        all.insert("start".to_owned(), record.who.start.into());
    }
    if let Some(depth) = hit.depth {
        all.insert("depth".to_owned(), depth.into());
    }
    match &record.what {
        What::Exec(run) => put_run(&mut all, run, names),
        What::Exit { status, processor_ms, resident_quarters, euid } => {
            let status = ExitStatus(*status);
            if let Some(code) = status.code() {
                all.insert("code".to_owned(), code.into());
            }
            if let Some(signal) = status.signal() {
                all.insert("signal".to_owned(), signal.into());
            }
            all.insert("processor_ms".to_owned(), (*processor_ms).into());
            all.insert("resident_bytes".to_owned(), (resident_quarters * 256 * 1024).into());
            all.insert("user".to_owned(), user(names, *euid).into());
        }
        What::Socket(socket) => put_socket(&mut all, socket, names),
        What::Setuid { uid, euid } => {
            all.insert("uid".to_owned(), (*uid).into());
            all.insert("euid".to_owned(), (*euid).into());
            all.insert("user".to_owned(), user(names, *euid).into());
        }
        What::Ptrace { tracer } => {
            all.insert("tracer".to_owned(), tracer.pid.into());
        }
        What::Login(session) | What::Logout(session) => {
            all.insert("user".to_owned(), text(&session.user));
            all.insert("line".to_owned(), text(&session.line));
            all.insert("host".to_owned(), text(&session.host));
            all.insert("source".to_owned(), text(&session.source));
        }
        What::Host(_, what) | What::Namespace(what) => {
            all.insert("what".to_owned(), text(what));
        }
        What::Lost { kind, count, from } => {
            let (kind, whose) = kind_and_whose(kind);
            all.insert("lost".to_owned(), text(kind));
            if let Some(whose) = whose {
                all.insert("whose".to_owned(), text(whose));
            }
            all.insert("count".to_owned(), (*count).into());
            all.insert("from".to_owned(), time_text(*from).into());
        }
    }
    if let Some(digest) = &hit.digest {
        all.insert("sha256".to_owned(), data_encoding::HEXLOWER.encode(digest).into());
    }
    all.into()
}

/// What a loss was of, and whose, as [`crate::engine::Lost::name`] writes it.
pub(crate) fn kind_and_whose(lost: &[u8]) -> (&[u8], Option<&[u8]>) {
    match lost.iter().position(|byte| *byte == b'/') {
        Some(slash) => (&lost[..slash], Some(&lost[slash + 1..])),
        None => (lost, None),
    }
}

/// From when on the history is whole.
#[derive(Debug, Default)]
pub(crate) struct Begins {
    /// The first record of all, when there is one.
    first: Option<i64>,
    /// Lanes of which blocks were removed, and the first record that is left.
    removed: Vec<(Lane, i64)>,
}

impl Begins {
    pub(crate) fn of(extents: &[(Lane, Extent)]) -> Self {
        let removed = extents.iter().filter(|(_, extent)| extent.removed);
        Self {
            first: extents.iter().filter_map(|(_, extent)| extent.from).min(),
            removed: removed.filter_map(|(lane, extent)| Some((*lane, extent.from?))).collect(),
        }
    }
}

/// Whose records a lane has.
fn lane_words(lane: Lane) -> &'static str {
    match lane {
        Lane::Trusted => "events of the trusted",
        Lane::Others => "events of others",
        Lane::Excess => "events of others beyond their share of a day",
    }
}

/// The answer to a question about events.
pub(crate) fn events(
    found: &Found,
    begins: &Begins,
    since: i64,
    masked: bool,
    names: &Names,
    elapsed: Duration,
) -> ModuleResult {
    let mut coverage = Coverage::whole();
    coverage.examined = found.examined;
    for (what, why) in &found.unread {
        coverage.skip(what.clone(), why.clone());
    }
    if found.stopped {
        coverage.skip("older events", "the search was stopped, or its time was over");
    }
    if found.more {
        coverage.skip("more events", "the limit is reached: ask for less at once, or raise it");
    }
    if found.without_digest > 0 {
        coverage.skip(
            format!("{} programs", found.without_digest),
            "their files were gone or too large before they could be read",
        );
    }
    for (kind, count) in &found.lost {
        if kind.as_bytes() == NOT_RUNNING {
            let times = if *count == 1 { "one time".to_owned() } else { format!("{count} times") };
            coverage.skip(format!("events of {times}"), "the module did not run; kind lost shows when");
            continue;
        }
        if let Some(kind) = kind.as_bytes().strip_prefix(NOT_RECORDED) {
            let what = format!("some events of kind {}", String::from_utf8_lossy(kind));
            coverage.skip(
                what,
                "they were not recorded: the configuration left them out, or the source does not see them",
            );
            continue;
        }
        let (kind, whose) =
            kind.split_once('/').map_or((kind.as_str(), None), |(kind, whose)| (kind, Some(whose)));
        let what = if kind == "any" { "events".to_owned() } else { format!("events of kind {kind}") };
        let of = whose.map_or(String::new(), |whose| format!(" of {whose}"));
        coverage.skip(format!("{count} {what}{of}"), "they were lost; the log says when");
    }
    let before =
        |time: i64| if masked { "earlier".to_owned() } else { format!("before {}", time_text(time)) };
    for (lane, from) in &begins.removed {
        if since != i64::MIN && since < *from {
            let what = format!("{}, {}", lane_words(*lane), before(*from));
            coverage.skip(what, "they were removed to stay within the history's budget");
        }
    }
    match begins.first {
        Some(begins) if since != i64::MIN && since < begins => {
            coverage.skip(format!("events, {}", before(begins)), "the history begins later");
        }
        Some(_) => {}
        None => coverage.skip("events", "there is no history"),
    }
    let all: Vec<Value> = match masked {
        true => found.hits.iter().map(|hit| json!({ "kind": hit.record.what.kind().name() })).collect(),
        false => found.hits.iter().map(|hit| event(hit, names)).collect(),
    };
    let statistics = json!({
        "exectime": format!("{elapsed:?}"),
        "examined": found.examined,
        "totalhits": found.hits.len(),
    });
    let mut result = ModuleResult::found(!found.hits.is_empty(), &json!({ "events": all }));
    result = result.with_statistics(&statistics).with_coverage(coverage);
    result
}

/// How the module is.
pub(crate) fn status(look: &Look, masked: bool) -> ModuleResult {
    let counts: Map<String, Value> = Told::ALL
        .into_iter()
        .map(|kind| {
            let (sent, lost) = (look.counters.sent(kind), look.counters.lost(kind));
            let of_trusted = look.counters.lost_of(kind, Whose::Trusted);
            (kind.name().to_owned(), json!({ "reported": sent, "lost": lost, "lost_of_trusted": of_trusted }))
        })
        .collect();
    let kinds: Map<String, Value> =
        look.kinds.iter().map(|kind| (kind.name().to_owned(), kind.who().into())).collect();
    let mut blind: Vec<&str> = look.source.map(|source| source.blind_spots().to_vec()).unwrap_or_default();
    if !look.tells_credentials {
        blind.push("changes of users and traced processes as they happen");
    }
    blind.extend(&look.blind);
    blind.extend([
        "connections over UDP and unix sockets",
        "who mounted, loaded a module or set the clock, but by the commands that did it at that moment",
        "mounts in other mount namespaces than the first process's",
        "changes of namespaces before the next exec",
    ]);
    let all = |part: fn(&Extent) -> u64| look.extents.iter().map(|(_, extent)| part(extent)).sum::<u64>();
    let lanes: Map<String, Value> = look
        .extents
        .iter()
        .map(|(lane, extent)| {
            let mut about =
                json!({ "blocks": extent.blocks, "bytes": extent.bytes, "removed": extent.removed });
            if !masked {
                about["from"] = extent.from.map(time_text).into();
            }
            (lane.name().to_owned(), about)
        })
        .collect();
    let mut status = json!({
        "source": look.source.map(|source| source.name()),
        "does_not_see": blind,
        "counts": counts,
        "recursion_misses": look.counters.recursion_misses,
        "who_is_known": kinds,
        "processes": look.processes,
        "rules": look.rules.len(),
        "packs": look.packs.len(),
        "conditions": look.conditions.iter().map(|condition| condition.name.clone()).collect::<Vec<_>>(),
        "history": {
            "blocks": all(|extent| extent.blocks),
            "bytes": all(|extent| extent.bytes),
            "budget_bytes": look.budget,
            "lanes": lanes,
        },
    });
    if !masked {
        let pack = |pack: &Pack| match &pack.rules {
            Ok(rules) => json!({ "name": pack.name, "rules": rules }),
            Err(problem) => json!({ "name": pack.name, "problem": problem }),
        };
        status["packs"] = look.packs.iter().map(pack).collect();
        status["not_used"] = look.not_used.clone().into();
        status["since"] = time_text(look.since).into();
        status["proved"] = look.proved.map(time_text).into();
        status["history"]["from"] = Begins::of(&look.extents).first.map(time_text).into();
    }
    let mut coverage = Coverage::whole();
    if look.source.is_none() {
        coverage.skip("events", "there is no source");
    }
    ModuleResult::found(false, &json!({ "status": status })).with_coverage(coverage)
}

/// What the rules did.
pub(crate) fn rules(look: &Look) -> ModuleResult {
    let all: Vec<Value> = look
        .rules
        .iter()
        .map(|rule| {
            json!({
                "id": rule.id,
                "title": rule.title,
                "attack": rule.attack,
                "severity": rule.severity,
                "asked": rule.asked,
                "fired": rule.fired,
                "repeated": rule.repeated,
                "nanoseconds": rule.nanoseconds.checked_div(rule.asked).unwrap_or(0),
            })
        })
        .collect();
    ModuleResult::found(look.rules.iter().any(|rule| rule.fired > 0), &json!({ "rules": all }))
        .with_coverage(Coverage::whole())
}

/// What a result may show in extra privacy mode: how many events, of which kinds; how the module and its rules are.
#[must_use]
pub fn masked_form(place: &[&str]) -> Showing {
    match place {
        ["elements"] | ["elements", "events" | "status" | "rules" | "verified"] => Showing::Inside,
        ["elements", "events", "kind"] => Showing::Text(|text| Kind::from_name(text).is_some()),
        ["elements", "status" | "rules" | "verified", ..] => Showing::Unnamed,
        ["statistics"] => Showing::Inside,
        ["statistics", "exectime" | "examined" | "totalhits"] => Showing::Unnamed,
        ["errors"] => Showing::Unnamed,
        _ => Showing::Nothing,
    }
}

/// Hides what errors name.
pub(crate) fn masked(mut result: ModuleResult, asked: &privacy::Asked) -> ModuleResult {
    privacy::mask_errors(&mut result, asked);
    result
}
