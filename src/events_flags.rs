//! What `vigie query events` takes.

use std::ffi::OsString;

use clap::Args;
use serde_json::{Map, Value};

use crate::query::paths::text_of;
use crate::query_flags::Parameters;

/// `query events`
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct EventsFlags {
    /// Path of the program, or of the script that was executed or given to an interpreter; a pattern without
    /// / is compared with the file name alone; * and ? are wildcards
    #[arg(long, value_name = "PATTERN")]
    ran: Vec<OsString>,

    /// Real user, effective user or login user, by name or ID; exits only with --kind exit
    #[arg(long, value_name = "USER")]
    by: Vec<String>,

    /// Connections to or from an address in this range
    #[arg(long, value_name = "IP|CIDR")]
    connected: Vec<String>,

    /// SHA-256 of the program (of a script, its interpreter is the program)
    #[arg(long, value_name = "HEX")]
    hash: Vec<String>,

    /// Arguments, joined by spaces; a leading ! negates the expression
    #[arg(long, value_name = "REGEX", allow_hyphen_values = true)]
    command: Vec<String>,

    /// Only events of this kind
    #[arg(long, value_name = "KIND", value_parser = ["exec", "exit", "connect", "accept", "listen", "setuid", "ptrace", "login", "logout", "lost", "mount", "module", "bpf", "time", "namespace"])]
    kind: Vec<String>,

    /// Process ID
    #[arg(long, value_name = "PID")]
    pid: Vec<u32>,

    /// Only events since this RFC 3339 time or date, or within this period (30d)
    #[arg(long, value_name = "TIME")]
    since: Option<String>,

    /// Only events until this time, or at least this old
    #[arg(long, value_name = "TIME")]
    until: Option<String>,

    /// A process with its ancestors and descendants: PID@TIME; without a time, the newest process with that
    /// PID
    #[arg(long, value_name = "PID@TIME", conflicts_with_all = ["ran", "by", "connected", "hash", "command", "kind", "pid", "since", "until"])]
    tree: Option<String>,

    /// The process that the alert with this journal number (seq) is about, with its ancestors, descendants
    /// and all their alerts
    #[arg(long, value_name = "SEQ", conflicts_with_all = ["tree", "rules", "verify", "ran", "by", "connected", "hash", "command", "kind", "pid", "since", "until"])]
    pub(crate) alert: Option<u64>,

    /// Show with each event the numbers of the alerts that name its process
    #[arg(long, conflicts_with_all = ["rules", "verify"])]
    pub(crate) alerts: bool,

    /// List the rules with their matches and cost
    #[arg(long, conflicts_with_all = ["tree", "ran", "by", "connected", "hash", "command", "kind", "pid", "since", "until"])]
    rules: bool,

    /// Verify the history's seals
    #[arg(long, conflicts_with_all = ["rules", "tree", "ran", "by", "connected", "hash", "command", "kind", "pid", "since", "until"])]
    verify: bool,

    /// Maximum number of events to list; the newest are kept
    #[arg(long, value_name = "COUNT")]
    most: Option<usize>,
}

impl EventsFlags {
    /// The parameters of the query.
    pub(crate) fn parameters(self) -> Map<String, Value> {
        let mut all = Parameters::default();
        all.put_all("ran", self.ran.iter().map(|pattern| text_of(pattern)).collect());
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
