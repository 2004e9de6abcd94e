//! What `vigie query MODULE` takes for the modules that Vigie brings along: flags with the names of the parameters.

use std::path::PathBuf;

use clap::Args;
use serde_json::{Map, Value, json};

use crate::query::paths::{path_text, searched_path};

/// `query fswatch`
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct FswatchFlags {
    /// List everything that is not watched or cannot be read, with the reason
    #[arg(long)]
    unwatched: bool,

    /// Show which rule and which kernel facility watch this path
    #[arg(long, value_name = "PATH")]
    explain: Option<PathBuf>,

    /// Compare these paths and everything below them now; without a path, compare everything
    #[arg(long, value_name = "PATH", num_args = 0..)]
    rescan: Option<Vec<PathBuf>>,

    /// With --rescan: read every file, even if its metadata is unchanged
    #[arg(long, requires = "rescan")]
    prove: bool,

    /// List changes at and below these paths; without a path, list all changes
    #[arg(long, value_name = "PATH", num_args = 0..)]
    changes: Option<Vec<PathBuf>>,

    /// Show all changes of this path and its present state
    #[arg(long, value_name = "PATH")]
    history: Option<PathBuf>,

    /// Show the members of a group of changes
    #[arg(long, value_name = "ID")]
    group: Option<String>,

    /// List the changes that nobody has accepted
    #[arg(long)]
    unaccepted: bool,

    /// Accept the changes at and below these paths; your user is recorded
    #[arg(long, value_name = "PATH", num_args = 1..)]
    accept: Option<Vec<PathBuf>>,

    /// Announce changes at and below these paths as expected; see --until and --by
    #[arg(long, value_name = "PATH", num_args = 1.., requires = "until")]
    expect: Option<Vec<PathBuf>>,

    /// With --expect: until this time of day (04:00), until this RFC 3339 time, or for this long (2h)
    #[arg(long, value_name = "TIME", requires = "expect", value_parser = crate::fswatch_view::end_of_plan)]
    until: Option<String>,

    /// With --accept and --expect: on whose behalf [default: your user]; the agent also records your user
    #[arg(long, value_name = "NAME")]
    by: Option<String>,

    /// Only changes since this RFC 3339 time, or within this period (2h)
    #[arg(long, value_name = "TIME")]
    since: Option<String>,

    /// Only changes of this kind
    #[arg(long, value_name = "EVENT", value_parser = ["created", "changed", "removed", "renamed", "group", "notice", "accepted", "expected", "transaction"])]
    event: Option<String>,

    /// Only changes by programs whose path contains this text
    #[arg(long, value_name = "TEXT")]
    process: Option<String>,

    /// Only the newest COUNT changes
    #[arg(long, value_name = "COUNT")]
    newest: Option<usize>,
}

/// `query netstat`
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct NetstatFlags {
    /// Hardware addresses of local interfaces that match this expression
    #[arg(long, value_name = "REGEX")]
    local_mac: Vec<String>,

    /// Hardware addresses of neighbours that match this expression
    #[arg(long, value_name = "REGEX")]
    neighbor_mac: Vec<String>,

    /// Local addresses in this range
    #[arg(long, value_name = "IP|CIDR")]
    local_ip: Vec<String>,

    /// Neighbours in this range
    #[arg(long, value_name = "IP|CIDR")]
    neighbor_ip: Vec<String>,

    /// Sockets with a peer in this range
    #[arg(long, value_name = "IP|CIDR")]
    connected_ip: Vec<String>,

    /// Sockets that listen on this port or in this range (8000-8999); "not 22" excludes, here and in the
    /// address ranges above
    #[arg(long, value_name = "PORT|RANGE")]
    listening_port: Vec<String>,

    /// All listening sockets
    #[arg(long)]
    listening: bool,

    /// All connected sockets
    #[arg(long)]
    connected: bool,

    /// Sockets in any state with this local port
    #[arg(long, value_name = "PORT|RANGE")]
    local_port: Vec<String>,

    /// Unix sockets whose name matches
    #[arg(long, value_name = "REGEX")]
    unix_socket: Vec<String>,

    /// Raw sockets for this IP protocol (0-255)
    #[arg(long, value_name = "NUMBER|RANGE")]
    raw_socket: Vec<String>,

    /// Packet sockets on interfaces whose name matches; "any" stands for sockets on all interfaces
    #[arg(long, value_name = "REGEX")]
    packet_socket: Vec<String>,

    /// Compare sock_diag, /proc/net and the processes' file descriptors
    #[arg(long)]
    cross_view: bool,

    /// Only sockets of processes whose name matches; without a socket filter, this and the next three options
    /// select all listening and connected sockets
    #[arg(long, value_name = "REGEX")]
    process: Vec<String>,

    /// Only sockets of processes whose executable path matches
    #[arg(long, value_name = "REGEX")]
    executable: Vec<String>,

    /// Only sockets of this user's processes, by name or ID
    #[arg(long, value_name = "USER")]
    user: Vec<String>,

    /// Only sockets of containers whose id matches
    #[arg(long, value_name = "REGEX")]
    container: Vec<String>,

    /// Search every network namespace
    #[arg(long)]
    namespaces: bool,

    /// Show the processes that own each socket
    #[arg(long)]
    processes: bool,
}

/// `query timedrift`
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct TimedriftFlags {
    /// Largest acceptable offset of the clock (5s, 10ms); without it, only the local time is reported
    #[arg(long, value_name = "TIME")]
    drift: Option<String>,

    /// Query the servers one by one and trust the first answer, instead of comparing all answers
    #[arg(long, requires = "drift")]
    first: bool,

    /// Query only the host's own servers, not the built-in list
    #[arg(long)]
    no_fallback: bool,
}

/// `query file`
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct FileFlags {
    /// Directory or file to search
    #[arg(long, value_name = "PATH")]
    path: Vec<PathBuf>,

    /// Name; here and below, a leading ! negates an expression
    #[arg(long, value_name = "REGEX", allow_hyphen_values = true)]
    name: Vec<String>,

    /// Size: at most 10m (<10m), at least 1g (>1g), 4096
    #[arg(long, value_name = "SIZE")]
    size: Vec<String>,

    /// Permissions as text: -rwxr-xr-x, with u, g or t as the first character for setuid, setgid and sticky;
    /// ^u finds setuid programs such as urwxr-xr-x
    #[arg(long, value_name = "REGEX", allow_hyphen_values = true)]
    mode: Vec<String>,

    /// Time since the last change of the content: <90d, >2h
    #[arg(long, value_name = "AGE")]
    mtime: Vec<String>,

    /// Expression that a line of the content matches
    #[arg(long, value_name = "REGEX", allow_hyphen_values = true)]
    content: Vec<String>,

    /// MD5 of the content
    #[arg(long, value_name = "HEX")]
    md5: Vec<String>,

    /// SHA-1 of the content
    #[arg(long, value_name = "HEX")]
    sha1: Vec<String>,

    /// SHA-2 of the content: 256, 384 or 512 bits
    #[arg(long, value_name = "HEX")]
    sha2: Vec<String>,

    /// SHA-3 of the content: 224, 256, 384 or 512 bits
    #[arg(long, value_name = "HEX")]
    sha3: Vec<String>,

    /// Time since the last change of content or metadata: <1d
    #[arg(long, value_name = "AGE")]
    ctime: Vec<String>,

    /// Time since the file was created: <1d
    #[arg(long, value_name = "AGE")]
    btime: Vec<String>,

    /// Owner: a name, an ID, or "none" for an ID without a name
    #[arg(long, value_name = "USER")]
    owner: Vec<String>,

    /// Group: a name, an ID, or "none" for an ID without a name
    #[arg(long, value_name = "GROUP")]
    group: Vec<String>,

    /// Inode number
    #[arg(long, value_name = "NUMBER")]
    inode: Vec<String>,

    /// Number of hard links: 2, at least 2 (>2), at most 2 (<2)
    #[arg(long, value_name = "NUMBER")]
    links: Vec<String>,

    /// Capabilities as getcap shows them: cap_sys_admin
    #[arg(long, value_name = "REGEX")]
    capabilities: Vec<String>,

    /// Name of an extended attribute: ^user\.
    #[arg(long, value_name = "REGEX")]
    xattr: Vec<String>,

    /// File type: file, directory, link, socket, fifo, block, character [default: file]
    #[arg(long = "type", value_name = "KIND")]
    kind: Vec<String>,

    /// Setuid and setgid programs
    #[arg(long)]
    setuid: bool,

    /// Paths to exclude: /var/lib/docker, /home/*/.cache
    #[arg(long, value_name = "PATTERN")]
    exclude: Vec<String>,

    /// A list of digests, one per line as sha256sum writes them; finds files with any of them
    #[arg(long, value_name = "FILE", value_parser = digests)]
    digests: Option<Digests>,

    /// Do not read files larger than this: 100m
    #[arg(long, value_name = "SIZE")]
    maxread: Option<String>,

    /// Return owner, group, times, inode, links, capabilities and extended attributes of each match
    #[arg(long)]
    returnmetadata: bool,

    /// Additional searches in the same walk: {"LABEL": {"paths": [...], "names": [...]}}
    #[arg(long, value_name = "JSON", value_parser = searches)]
    search: Vec<Map<String, Value>>,

    /// Maximum directory depth
    #[arg(long, value_name = "COUNT")]
    maxdepth: Option<u32>,

    /// Return only files that match all filters
    #[arg(long)]
    matchall: bool,

    /// Every content expression must match every line
    #[arg(long)]
    macroal: bool,

    /// Filter to invert: name, size, content, …
    #[arg(long, value_name = "FILTER")]
    mismatch: Vec<String>,

    /// Stop the search after this many matches
    #[arg(long, value_name = "COUNT")]
    matchlimit: Option<u32>,

    /// Maximum number of errors to report
    #[arg(long, value_name = "COUNT")]
    maxerrors: Option<u32>,

    /// Return the SHA-256 of each match
    #[arg(long)]
    returnsha256: bool,

    /// Also search the contents of gzip, xz and zstd files
    #[arg(long)]
    decompress: bool,
}

/// Parameters as they are put together.
#[derive(Default)]
pub(crate) struct Parameters(pub(crate) Map<String, Value>);

impl Parameters {
    pub(crate) fn put(&mut self, key: &str, value: impl Into<Value>) {
        self.0.insert(key.to_owned(), value.into());
    }

    pub(crate) fn put_if(&mut self, key: &str, wanted: bool) {
        if wanted {
            self.put(key, true);
        }
    }

    pub(crate) fn put_some<T: Into<Value>>(&mut self, key: &str, value: Option<T>) {
        if let Some(value) = value {
            self.put(key, value);
        }
    }

    pub(crate) fn put_all(&mut self, key: &str, values: Vec<String>) {
        if !values.is_empty() {
            self.put(key, values);
        }
    }
}

/// Digests of a file, in hexadecimal.
#[derive(Debug, Clone, Default)]
pub(crate) struct Digests(Vec<String>);

/// Reads a list of digests: the first word of each line that is no comment. Names of files may be of any bytes;
/// sha256sum writes a backslash before the digest of a name that it escapes.
fn digests(path: &str) -> Result<Digests, String> {
    let content = std::fs::read(path).map_err(|error| format!("cannot read {path:?}: {error}"))?;
    let content = content.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&content);
    let digests: Vec<String> = content
        .split(|byte| *byte == b'\n')
        .filter_map(|line| line.split(u8::is_ascii_whitespace).find(|word| !word.is_empty()))
        .filter(|word| !word.starts_with(b"#"))
        .map(|word| String::from_utf8_lossy(word.strip_prefix(b"\\").unwrap_or(word)).into_owned())
        .collect();
    if digests.is_empty() { Err(format!("{path:?} contains no digest")) } else { Ok(Digests(digests)) }
}

/// Reads searches by label.
fn searches(text: &str) -> Result<Map<String, Value>, String> {
    serde_json::from_str(text).map_err(|error| format!("not an object of searches: {error}"))
}

/// All, or some paths.
fn selection(paths: &[PathBuf]) -> Value {
    if paths.is_empty() { json!(true) } else { paths.iter().map(|path| path_text(path)).collect() }
}

/// Who asks, for the record.
fn asker() -> String {
    let uid = nix::unistd::getuid();
    let user = nix::unistd::User::from_uid(uid).ok().flatten().map(|user| user.name);
    let user = user.unwrap_or_else(|| format!("user {uid}"));
    match std::env::var("SUDO_USER") {
        Ok(before) if !before.is_empty() && before != user => format!("{before} (as {user})"),
        _ => user,
    }
}

impl FswatchFlags {
    /// The paths that are asked about.
    pub(crate) fn paths(&self) -> impl Iterator<Item = &PathBuf> {
        let lists = [&self.rescan, &self.changes, &self.accept, &self.expect];
        lists.into_iter().flatten().flatten().chain(&self.explain).chain(&self.history)
    }

    /// The parameters of the query.
    pub(crate) fn parameters(self) -> Map<String, Value> {
        let mut all = Parameters::default();
        all.put_if("unwatched", self.unwatched);
        all.put_some("explain", self.explain.as_deref().map(path_text));
        all.put_some("rescan", self.rescan.as_deref().map(selection));
        all.put_if("prove", self.prove);
        all.put_some("changes", self.changes.as_deref().map(selection));
        all.put_some("history", self.history.as_deref().map(path_text));
        all.put_some("group", self.group);
        all.put_if("unaccepted", self.unaccepted);
        if let Some(paths) = &self.accept {
            all.put("accept", selection(paths));
        }
        if let Some(paths) = &self.expect {
            all.put("expect", selection(paths));
            all.put_some("until", self.until);
        }
        if self.accept.is_some() || self.expect.is_some() {
            all.put("by", self.by.unwrap_or_else(asker));
        }
        all.put_some("since", self.since);
        all.put_some("event", self.event);
        all.put_some("process", self.process);
        all.put_some("limit", self.newest);
        all.0
    }
}

impl NetstatFlags {
    /// The parameters of the query.
    pub(crate) fn parameters(self) -> Map<String, Value> {
        let filters = [&self.process, &self.executable, &self.user, &self.container];
        let has_filter = filters.iter().any(|filter| !filter.is_empty());
        let sockets = [
            &self.connected_ip,
            &self.listening_port,
            &self.local_port,
            &self.unix_socket,
            &self.raw_socket,
            &self.packet_socket,
        ];
        let says_which = self.listening || self.connected || sockets.iter().any(|list| !list.is_empty());
        let all_of_them = has_filter && !says_which;
        let mut all = Parameters::default();
        all.put_all("process", self.process);
        all.put_all("executable", self.executable);
        all.put_all("user", self.user);
        all.put_all("container", self.container);
        all.put_all("localport", self.local_port);
        all.put_all("unixsocket", self.unix_socket);
        all.put_all("rawsocket", self.raw_socket);
        all.put_all("packetsocket", self.packet_socket);
        all.put_if("crossview", self.cross_view);
        all.put_all("localmac", self.local_mac);
        all.put_all("neighbormac", self.neighbor_mac);
        all.put_all("localip", self.local_ip);
        all.put_all("neighborip", self.neighbor_ip);
        let mut peers = self.connected_ip;
        if self.connected || all_of_them {
            peers.extend(["0.0.0.0/0".to_owned(), "::/0".to_owned()]);
        }
        all.put_all("connectedip", peers);
        let mut ports = self.listening_port;
        if self.listening || all_of_them {
            ports.push("0-65535".to_owned());
        }
        all.put_all("listeningport", ports);
        all.put_if("namespaces", self.namespaces);
        all.put_if("processes", self.processes);
        all.0
    }
}

impl TimedriftFlags {
    /// The parameters of the query.
    pub(crate) fn parameters(self) -> Map<String, Value> {
        let mut all = Parameters::default();
        // MIG's own parameters mean the first server; all are asked when somebody says so.
        let all_servers = self.drift.is_some() && !self.first;
        all.put_some("drift", self.drift);
        all.put_some("ask", all_servers.then_some("all"));
        all.put_some("fallback", self.no_fallback.then_some(false));
        all.0
    }
}

impl FileFlags {
    /// The paths that are asked about.
    pub(crate) fn paths(&self) -> impl Iterator<Item = &PathBuf> {
        self.path.iter()
    }

    /// The parameters of the query: one search.
    pub(crate) fn parameters(self) -> Map<String, Value> {
        let mut options = Parameters::default();
        options.put_some("maxdepth", self.maxdepth);
        options.put_if("matchall", self.matchall);
        options.put_if("macroal", self.macroal);
        options.put_all("mismatch", self.mismatch);
        options.put_some("matchlimit", self.matchlimit);
        options.put_some("maxerrors", self.maxerrors);
        options.put_if("returnsha256", self.returnsha256);
        options.put_if("decompress", self.decompress);
        options.put_some("maxread", self.maxread);
        options.put_if("returnmetadata", self.returnmetadata);
        let mut search = Parameters::default();
        search.put_all("paths", self.path.iter().map(|path| searched_path(path)).collect());
        let setuid = self.setuid.then(|| "^[ugt]*[ug]".to_owned());
        let modes = self.mode.into_iter().chain(setuid).collect();
        let lists = [
            ("ctimes", self.ctime),
            ("btimes", self.btime),
            ("owners", self.owner),
            ("groups", self.group),
            ("inodes", self.inode),
            ("links", self.links),
            ("capabilities", self.capabilities),
            ("xattrs", self.xattr),
            ("types", self.kind),
            ("excludes", self.exclude),
            ("digests", self.digests.unwrap_or_default().0),
            ("names", self.name),
            ("sizes", self.size),
            ("modes", modes),
            ("mtimes", self.mtime),
            ("contents", self.content),
            ("md5", self.md5),
            ("sha1", self.sha1),
            ("sha2", self.sha2),
            ("sha3", self.sha3),
        ];
        for (key, values) in lists {
            search.put_all(key, values);
        }
        let mut searches: Map<String, Value> = self.search.into_iter().flatten().collect();
        if search.0.is_empty() && options.0.is_empty() && searches.is_empty() {
            return Map::new();
        }
        if !search.0.is_empty() || searches.is_empty() {
            search.put("options", options.0);
            searches.insert("search".to_owned(), Value::Object(search.0));
        }
        let mut all = Parameters::default();
        all.put("searches", searches);
        all.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_flags_there_are_no_parameters() {
        assert!(FswatchFlags::default().parameters().is_empty());
        assert!(NetstatFlags::default().parameters().is_empty());
        assert!(TimedriftFlags::default().parameters().is_empty());
        assert!(FileFlags::default().parameters().is_empty());
    }

    #[test]
    fn whose_sockets_alone_means_all_that_listen_or_are_connected() {
        let process = NetstatFlags { process: vec!["^nc$".to_owned()], ..Default::default() };
        let narrow = NetstatFlags { local_port: vec!["22".to_owned()], ..process.clone() };

        let all = json!({
            "process": ["^nc$"], "connectedip": ["0.0.0.0/0", "::/0"], "listeningport": ["0-65535"]
        });
        assert_eq!(Value::Object(process.parameters()), all);
        assert_eq!(Value::Object(narrow.parameters()), json!({"process": ["^nc$"], "localport": ["22"]}));
    }

    #[test]
    fn all_time_servers_are_asked_unless_the_first_is_wanted() {
        let drift = TimedriftFlags { drift: Some("5s".to_owned()), ..Default::default() };
        let first = TimedriftFlags { first: true, ..drift.clone() };

        assert_eq!(Value::Object(drift.parameters()), json!({"drift": "5s", "ask": "all"}));
        assert_eq!(Value::Object(first.parameters()), json!({"drift": "5s"}));
    }

    #[test]
    fn accepting_names_who_does_and_paths_are_absolute() {
        let flags =
            FswatchFlags { accept: Some(vec!["/etc/a\nb".into(), "rel".into()]), ..Default::default() };

        let parameters = flags.parameters();

        let here = std::env::current_dir().unwrap().join("rel");
        assert_eq!(parameters["accept"], json!(["/etc/a\\x0ab", here]));
        assert!(parameters["by"].as_str().is_some_and(|by| !by.is_empty()));
    }

    #[test]
    fn a_list_without_items_means_everything() {
        let flags = FswatchFlags { rescan: Some(Vec::new()), prove: true, ..Default::default() };

        assert_eq!(Value::Object(flags.parameters()), json!({"rescan": true, "prove": true}));
    }

    #[test]
    fn digests_are_read_as_sha256sum_writes_them() {
        let directory = tempfile::tempdir().unwrap();
        let list = directory.path().join("list");
        let (one, other) = ("a".repeat(64), "b".repeat(64));
        let lines =
            [b"\xef\xbb\xbf", one.as_bytes(), b"  plain\n# remark\n\n\\", other.as_bytes(), b"  a\\nb\n"];
        let lines = [&lines.concat()[..], one.as_bytes(), b" *name \xff\r\n"].concat();
        std::fs::write(&list, lines).unwrap();

        let Digests(read) = digests(list.to_str().unwrap()).unwrap();

        assert_eq!(read, [one.clone(), other, one]);
    }

    #[test]
    fn a_search_for_files_has_its_options_beside_its_filters() {
        let flags = FileFlags {
            path: vec!["/etc".into()],
            name: vec!["^passwd$".to_owned()],
            returnsha256: true,
            ..Default::default()
        };

        let expected = json!({"searches": {"search": {
            "paths": ["/etc"], "names": ["^passwd$"], "options": {"returnsha256": true},
        }}});
        assert_eq!(Value::Object(flags.parameters()), expected);
    }
}
