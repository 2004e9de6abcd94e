//! Processes that hold sockets until their standard input ends.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::process::{Child, ChildStdin, Command, Stdio};

use rustix::process::{Resource, getrlimit, setrlimit};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use vigie_benchmark::{BenchResult, say};

/// The hidden argument; after it the number of sockets and, if any, the namespace under `/run/netns`.
pub(crate) const ARGUMENT: &str = "--hold";

/// An address of the loopback network that nobody else uses.
pub(crate) const ADDRESS: Ipv4Addr = Ipv4Addr::new(127, 77, 7, 7);

/// What a holder says when it has its sockets: the port of its listener follows.
const READY: &str = "ready ";

/// A process that holds sockets; they are closed when this is dropped.
pub(crate) struct Holder {
    child: Child,
    stdin: Option<ChildStdin>,
    /// The port that it listens on.
    pub(crate) port: u16,
}

impl Holder {
    /// Starts a process that holds connections with both their ends, and waits until it has them.
    pub(crate) fn start(sockets: usize, namespace: Option<&str>) -> BenchResult<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .arg(ARGUMENT)
            .arg(sockets.to_string())
            .args(namespace)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let stdin = child.stdin.take();
        let mut line = String::new();
        if let Some(stdout) = child.stdout.take() {
            BufReader::new(stdout).read_line(&mut line)?;
        }
        let mut holder = Self { child, stdin, port: 0 };
        holder.port = line
            .trim_end()
            .strip_prefix(READY)
            .and_then(|port| port.parse().ok())
            .ok_or("a process that was to hold sockets did not get them")?;
        Ok(holder)
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        drop(self.stdin.take());
        self.child.wait().ok();
    }
}

/// The life of a holder.
pub(crate) fn run(arguments: &[String]) -> BenchResult<()> {
    let sockets: usize = arguments.first().ok_or("how many sockets?")?.parse()?;
    if let Some(namespace) = arguments.get(1) {
        let namespace = File::open(format!("/run/netns/{namespace}"))?;
        move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
    }
    let (listener, _connections) = connections(sockets)?;
    say(&format!("{READY}{}", listener.local_addr()?.port()));
    std::io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}

/// A listener and connections to it with both their ends, together as many sockets as asked for.
pub(crate) fn connections(sockets: usize) -> BenchResult<(TcpListener, Vec<(TcpStream, TcpStream)>)> {
    allow_descriptors(sockets + 100)?;
    let listener = TcpListener::bind((ADDRESS, 0))?;
    let peer = listener.local_addr()?;
    let connect = || Ok((TcpStream::connect(peer)?, listener.accept()?.0));
    let connections: BenchResult<Vec<_>> = (0..sockets / 2).map(|_| connect()).collect();
    let connections = connections?;
    Ok((listener, connections))
}

fn allow_descriptors(wanted: usize) -> BenchResult<()> {
    let mut limit = getrlimit(Resource::Nofile);
    let wanted = u64::try_from(wanted)?;
    if limit.current.is_none_or(|current| current >= wanted) {
        return Ok(());
    }
    if limit.maximum.is_some_and(|maximum| maximum < wanted) {
        return Err(format!(
            "a process may open only {:?} files, {wanted} are needed: ulimit -n",
            limit.maximum
        )
        .into());
    }
    limit.current = Some(wanted);
    setrlimit(Resource::Nofile, limit)?;
    Ok(())
}
