//! What `vigie query events` takes.

use clap::Args;
use serde_json::{Map, Value};

use crate::query_flags::Parameters;

/// `query events`
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct EventsFlags {
    /// Path of the program, or what was asked for: a script; * and ? stand for anything
    #[arg(long, value_name = "PATTERN")]
    ran: Vec<String>,

    /// Who did it: user, effective user or who logged in, by name or number
    #[arg(long, value_name = "USER")]
    by: Vec<String>,

    /// Connections with a peer in this range
    #[arg(long, value_name = "IP|CIDR")]
    connected: Vec<String>,

    /// SHA-256 of the program
    #[arg(long, value_name = "HEX")]
    hash: Vec<String>,

    /// Arguments, with blanks between them; a ! before the expression wants what does not match
    #[arg(long, value_name = "REGEX", allow_hyphen_values = true)]
    command: Vec<String>,

    /// Only events of this kind
    #[arg(long, value_name = "KIND", value_parser = ["exec", "exit", "connect", "accept", "listen", "setuid", "ptrace", "login", "logout", "lost", "mount", "module", "bpf", "time", "namespace"])]
    kind: Vec<String>,

    /// Number of the process
    #[arg(long, value_name = "PID")]
    pid: Vec<u32>,

    /// Only events since this RFC 3339 time or day, or of this age or younger (30d)
    #[arg(long, value_name = "TIME")]
    since: Option<String>,

    /// Only events until this time, or of this age or older
    #[arg(long, value_name = "TIME")]
    until: Option<String>,

    /// A process with its ancestors, and everything that came of it: PID@TIME; without a time the newest of that number
    #[arg(long, value_name = "PID@TIME", conflicts_with_all = ["ran", "by", "connected", "hash", "command", "kind", "pid", "since", "until"])]
    tree: Option<String>,

    /// The process that this alert of the journal is about (its number, seq), its ancestors, and everything that came of
    /// it, with all alerts beside
    #[arg(long, value_name = "SEQ", conflicts_with_all = ["tree", "rules", "verify", "ran", "by", "connected", "hash", "command", "kind", "pid", "since", "until"])]
    pub(crate) alert: Option<u64>,

    /// Beside each event the numbers of the alerts that name its process
    #[arg(long, conflicts_with_all = ["rules", "verify"])]
    pub(crate) alerts: bool,

    /// List the rules, what they found and what they cost
    #[arg(long, conflicts_with_all = ["tree", "ran", "by", "connected", "hash", "command", "kind", "pid", "since", "until"])]
    rules: bool,

    /// Check that the history is as it was sealed
    #[arg(long, conflicts_with_all = ["rules", "tree", "ran", "by", "connected", "hash", "command", "kind", "pid", "since", "until"])]
    verify: bool,

    /// Most events that are listed, the newest
    #[arg(long, value_name = "COUNT")]
    most: Option<usize>,
}

impl EventsFlags {
    /// The parameters of the query.
    pub(crate) fn parameters(self) -> Map<String, Value> {
        let mut all = Parameters::default();
        all.put_all("ran", self.ran);
        all.put_all("by", self.by);
        all.put_all("connected", self.connected);
        all.put_all("hash", self.hash);
        all.put_all("command", self.command);
        all.put_all("kind", self.kind);
        if !self.pid.is_empty() {
            all.put("pid", self.pid);
        }
        all.put_some("since", self.since);
        all.put_some("until", self.until);
        all.put_some("tree", self.tree);
        all.put_if("rules", self.rules);
        all.put_if("verify", self.verify);
        all.put_some("limit", self.most);
        all.0
    }
}
