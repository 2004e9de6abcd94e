//! Which sockets a module may register, and whether the one who answers there is the module.

#![expect(clippy::disallowed_methods, reason = "what reads files or /proc is called on Lane::Modules")]

use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use crate::work_threads::{self, Lane};
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use nix::unistd::Pid;
use procfs::net::TcpState;
use procfs::process::{FDTarget, Process};
use vigie_protocol::socket::SocketSpec;

/// What a module may register.
#[derive(Debug, Clone)]
pub struct SocketRules {
    /// Directories in which its unix socket may be.
    pub directories: Vec<PathBuf>,
    /// Whether TCP addresses other than loopback are allowed.
    pub allow_remote_tcp: bool,
    /// The module's process.
    pub pid: u32,
}

/// Checks a socket that a module registers and gives its spec, or the reason for the refusal as text for
/// people.
///
/// # Errors
/// When the socket is not allowed.
pub async fn check(sockpath: &str, rules: SocketRules) -> Result<SocketSpec, String> {
    let spec: SocketSpec = sockpath.parse().map_err(|error| format!("{error}"))?;
    let checked = spec.clone();
    // The checks read the file system and /proc.
    let check = work_threads::run(Lane::Modules, move || match &checked {
        SocketSpec::Unix(path) => check_unix(path, &rules),
        SocketSpec::Tcp(address) => check_tcp(*address, &rules),
    });
    match check.await {
        Ok(Ok(())) => Ok(spec),
        Ok(Err(refused)) => Err(refused),
        Err(error) => Err(error.to_string()),
    }
}

fn check_unix(path: &Path, rules: &SocketRules) -> Result<(), String> {
    let parent = path.parent().unwrap_or(Path::new("/"));
    let real = parent.canonicalize().map_err(|error| format!("directory {parent:?}: {error}"))?;
    let allowed = rules
        .directories
        .iter()
        .any(|directory| directory.canonicalize().is_ok_and(|directory| directory == real));
    if !allowed {
        return Err(format!("{path:?} is not in {:?}", rules.directories));
    }
    let metadata = path.symlink_metadata().map_err(|error| format!("{path:?}: {error}"))?;
    if !metadata.file_type().is_socket() {
        return Err(format!("{path:?} is not a socket"));
    }
    let owner = process_owner(rules.pid)?;
    if metadata.uid() != owner && metadata.uid() != 0 {
        return Err(format!("{path:?} belongs to user {}, the module runs as {owner}", metadata.uid()));
    }
    Ok(())
}

fn process_owner(pid: u32) -> Result<u32, String> {
    let path = format!("/proc/{pid}");
    std::fs::metadata(&path).map(|metadata| metadata.uid()).map_err(|error| format!("{path}: {error}"))
}

fn check_tcp(address: SocketAddr, rules: &SocketRules) -> Result<(), String> {
    if !address.ip().is_loopback() && !rules.allow_remote_tcp {
        return Err(format!("{address} is not a loopback address (allow_remote_tcp is off)"));
    }
    check_owner(address, rules.pid)
}

/// Says who listens at a TCP address when it is not the module.
///
/// # Errors
/// When somebody else listens, or it cannot be known.
pub(crate) async fn check_listener(address: SocketAddr, module: u32) -> Result<(), String> {
    let checked = work_threads::run(Lane::Modules, move || check_owner(address, module)).await;
    checked.unwrap_or_else(|error| Err(format!("the listening process is unknown: {error}")))
}

fn check_owner(address: SocketAddr, module: u32) -> Result<(), String> {
    let table = if address.is_ipv4() { procfs::net::tcp() } else { procfs::net::tcp6() };
    let listeners =
        table.map_err(|error| format!("cannot determine which process listens on {address}: {error}"))?;
    let inode = listeners
        .iter()
        .find(|entry| entry.state == TcpState::Listen && entry.local_address == address)
        .map(|entry| entry.inode)
        .ok_or_else(|| format!("no process listens on {address}"))?;
    if holds_socket(module, inode) {
        Ok(())
    } else {
        Err(format!("the socket that listens on {address} is not the module's"))
    }
}

/// Whether a process of the module's session has this socket open.
fn holds_socket(session: u32, inode: u64) -> bool {
    let Ok(processes) = procfs::process::all_processes() else { return false };
    processes.flatten().filter(|process| belongs_to(process.pid(), session)).any(|process: Process| {
        process.fd().is_ok_and(|descriptors| {
            descriptors
                .flatten()
                .any(|descriptor| matches!(descriptor.target, FDTarget::Socket(n) if n == inode))
        })
    })
}

/// Whether `pid` is the module's process or in its session; a module is the leader of a session of its own.
fn belongs_to(pid: i32, module: u32) -> bool {
    let Ok(module) = i32::try_from(module) else { return false };
    pid == module
        || nix::unistd::getsid(Some(Pid::from_raw(pid))).is_ok_and(|session| session.as_raw() == module)
}

/// Says who listens at the other end of a connected unix socket when it is not the module: the kernel notes the
/// credentials of the process that called listen(2), see SO_PEERCRED in unix(7).
///
/// # Errors
/// When somebody else listens, or it cannot be known.
pub(crate) fn check_peer(stream: &impl AsFd, module: u32) -> Result<(), String> {
    let peer = getsockopt(stream, PeerCredentials)
        .map_err(|error| format!("the listening process is unknown: {error}"))?;
    if belongs_to(peer.pid(), module) {
        Ok(())
    } else {
        Err(format!(
            "process {} of user {} listens there instead of the module (process {module})",
            peer.pid(),
            peer.uid()
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::{UnixListener, UnixStream};

    fn rules(directory: &Path) -> SocketRules {
        SocketRules {
            directories: vec![directory.to_owned()],
            allow_remote_tcp: false,
            pid: std::process::id(),
        }
    }

    async fn refusal(spec: &str, directory: &Path) -> String {
        check(spec, rules(directory)).await.unwrap_err()
    }

    #[actix_rt::test]
    async fn a_socket_in_the_run_directory_is_allowed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("persist-a.sock");
        let _listener = UnixListener::bind(&path).unwrap();

        let spec = check(&format!("unix:{}", path.display()), rules(directory.path())).await.unwrap();

        assert_eq!(spec, SocketSpec::Unix(path));
    }

    #[actix_rt::test]
    async fn what_is_elsewhere_or_no_socket_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let elsewhere = tempfile::tempdir().unwrap();
        let outside = elsewhere.path().join("s");
        let _listener = UnixListener::bind(&outside).unwrap();
        let link = directory.path().join("link");
        std::os::unix::fs::symlink(&outside, &link).unwrap();
        let file = directory.path().join("file");
        std::fs::write(&file, "").unwrap();

        let spec = |path: &Path| format!("unix:{}", path.display());

        assert!(refusal(&spec(&outside), directory.path()).await.contains("is not in"));
        assert!(refusal(&spec(&link), directory.path()).await.contains("is not a socket"));
        assert!(refusal(&spec(&file), directory.path()).await.contains("is not a socket"));
        assert!(
            refusal(&spec(&directory.path().join("no")), directory.path()).await.contains("No such file")
        );
    }

    #[actix_rt::test]
    async fn tcp_is_allowed_on_loopback_where_the_module_itself_listens() {
        let directory = tempfile::tempdir().unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();

        let own = check(&format!("tcp:{address}"), rules(directory.path())).await;
        let foreign =
            check(&format!("tcp:{address}"), SocketRules { pid: 1, ..rules(directory.path()) }).await;
        drop(listener);

        assert_eq!(own, Ok(SocketSpec::Tcp(address)));
        assert!(foreign.unwrap_err().contains("not the module's"));
        assert!(refusal("tcp:192.0.2.1:80", directory.path()).await.contains("not a loopback address"));
        assert!(refusal(&format!("tcp:{address}"), directory.path()).await.contains("no process listens"));
    }

    #[test]
    fn the_peer_of_a_connection_is_the_one_that_listens() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        let _listener = UnixListener::bind(&path).unwrap();
        let stream = UnixStream::connect(&path).unwrap();

        assert_eq!(check_peer(&stream, std::process::id()), Ok(()));
        assert!(check_peer(&stream, 1).unwrap_err().contains("instead of the module"));
    }
}
