//! The network namespaces of this host, and how to be in one of them (network_namespaces(7)).

use std::collections::HashSet;
use std::io;
use std::ops::ControlFlow;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FsWord, Mode, OFlags, fstat, fstatfs, open};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use vigie_host::mounts::Mounts;
use vigie_host::tracing_hint;

/// What the name of a network namespace begins with: `net:[4026531840]`.
const NAME_START: &[u8] = b"net:[";

/// The type of the file system of namespaces (`linux/magic.h`).
const NSFS_MAGIC: FsWord = 0x6e73_6673;

/// Why the namespaces of this host are not all known.
#[derive(Debug, thiserror::Error)]
pub enum NamespaceError {
    /// The namespace of this thread is not known.
    #[error("cannot read the network namespace of this process in /proc")]
    OwnUnknown(#[source] io::Error),
    /// The processes cannot be listed.
    #[error("cannot list the processes in /proc")]
    ProcUnreadable(#[source] io::Error),
    /// The mounts cannot be listed.
    #[error("cannot list the mounts in /proc/thread-self/mountinfo")]
    MountsUnreadable(#[source] io::Error),
    /// Namespaces of other users' processes are not shown.
    #[error("the network namespaces of {0} processes cannot be read: {hint}", hint = tracing_hint())]
    Hidden(usize),
    /// A mounted namespace is not shown.
    #[error("network namespace {name} cannot be opened at {path:?}")]
    NotOpened {
        /// Its name.
        name: String,
        /// Where it is mounted.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

/// A network namespace that stays until this is dropped.
#[derive(Debug)]
pub struct Namespace {
    /// The name as in `/proc/PID/ns`.
    pub name: String,
    fd: OwnedFd,
}

impl Namespace {
    /// Moves the calling thread into the namespace. The thread must serve nothing else afterwards.
    ///
    /// # Errors
    /// Without CAP_SYS_ADMIN.
    pub fn enter(&self) -> io::Result<()> {
        Ok(move_into_link_name_space(self.fd.as_fd(), Some(LinkNameSpaceType::Network))?)
    }

    /// Opens the namespace that a path leads to; `None` when it is something else.
    fn open(path: &Path) -> io::Result<Option<Self>> {
        let fd = open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        // The path may lead elsewhere since it was looked at, the descriptor does not. One of a namespace of
        // another kind cannot be entered.
        if fstatfs(&fd)?.f_type != NSFS_MAGIC {
            return Ok(None);
        }
        let name = format!("net:[{}]", fstat(&fd)?.st_ino);
        Ok(Some(Self { name, fd }))
    }
}

/// The name of the calling thread's namespace.
///
/// # Errors
/// Without `/proc`.
pub fn own_name() -> Result<String, NamespaceError> {
    let target = std::fs::read_link("/proc/thread-self/ns/net").map_err(NamespaceError::OwnUnknown)?;
    Ok(target.to_string_lossy().into_owned())
}

/// Gives `found` every namespace except the one of that name, until it breaks: those of all threads, and those
/// without a process that are mounted, as `ip netns` and container engines do. Returns why there may be more.
///
/// Those that an open descriptor keeps alive are found as well; one that only a socket keeps alive is not. `looking` is
/// told which process is looked at, and when none is any more.
pub(crate) fn find_others(
    own: &str,
    looking: &dyn Fn(Option<&str>),
    found: &mut dyn FnMut(Namespace) -> ControlFlow<()>,
) -> Vec<NamespaceError> {
    let mut problems = Vec::new();
    let mut seen = HashSet::from([own.to_owned()]);
    let listed = of_processes(&mut seen, looking, found);
    looking(None);
    match listed {
        Ok(ControlFlow::Break(())) => return problems,
        Ok(ControlFlow::Continue(hidden)) if hidden > 0 => problems.push(NamespaceError::Hidden(hidden)),
        Ok(ControlFlow::Continue(_)) => {}
        Err(error) => problems.push(NamespaceError::ProcUnreadable(error)),
    }
    let mounts = match Mounts::read() {
        Ok(mounts) => mounts,
        Err(error) => {
            problems.push(NamespaceError::MountsUnreadable(error));
            return problems;
        }
    };
    for (name, path) in mounted(&mounts) {
        if seen.contains(&name) {
            continue;
        }
        match Namespace::open(&path) {
            Ok(Some(namespace)) if seen.insert(namespace.name.clone()) => {
                if found(namespace).is_break() {
                    return problems;
                }
            }
            // Unmounted or replaced since, and known or nothing of ours.
            Ok(_) => {}
            Err(error) if is_gone(&error) => {}
            Err(source) => problems.push(NamespaceError::NotOpened { name, path, source }),
        }
    }
    problems
}

/// The network namespaces beside the one that was searched.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Elsewhere {
    /// How many are known.
    pub known: usize,
    /// Why there may be more.
    pub unknown: Option<String>,
}

impl From<NamespaceError> for Elsewhere {
    fn from(error: NamespaceError) -> Self {
        Self { known: 0, unknown: Some(error.to_string()) }
    }
}

/// The network namespaces of processes and mounts beside the one of this name, as far as they can be seen at once.
pub(crate) fn elsewhere(own: &str, proc: &Path, mounts: io::Result<Mounts>) -> Elsewhere {
    let processes = match numbered(proc) {
        Ok(processes) => processes,
        Err(error) => return NamespaceError::ProcUnreadable(error).into(),
    };
    let mut others = HashSet::new();
    let mut hidden = 0;
    for process in &processes {
        match std::fs::read_link(process.join("ns/net")) {
            Ok(target) => others.extend(namespace_name(target.as_os_str().as_bytes())),
            Err(error) if is_gone(&error) => {}
            Err(_) => hidden += 1,
        }
    }
    let mut unknown = (hidden > 0).then(|| NamespaceError::Hidden(hidden).to_string());
    // With hidepid not even the first process is there.
    if !processes.iter().any(|process| process.ends_with("1")) {
        unknown = Some("other users' processes are not shown in /proc".to_owned());
    }
    match mounts {
        Ok(mounts) => others.extend(mounted(&mounts).into_iter().map(|(name, _)| name)),
        Err(error) => unknown = Some(NamespaceError::MountsUnreadable(error).to_string()),
    }
    others.remove(own);
    Elsewhere { known: others.len(), unknown }
}

/// The namespaces of processes and their threads; returns of how many processes they are hidden.
fn of_processes(
    seen: &mut HashSet<String>,
    looking: &dyn Fn(Option<&str>),
    found: &mut dyn FnMut(Namespace) -> ControlFlow<()>,
) -> io::Result<ControlFlow<(), usize>> {
    let mut hidden = 0;
    for process in numbered(Path::new("/proc"))? {
        looking(process.file_name().and_then(|name| name.to_str()));
        let mut process_hidden = false;
        // A process that ends meanwhile has no threads any more.
        for thread in numbered(&process.join("task")).unwrap_or_default() {
            let link = thread.join("ns/net");
            let namespace = match std::fs::read_link(&link) {
                Ok(target) => match namespace_name(target.as_os_str().as_bytes()) {
                    Some(name) if !seen.contains(&name) => Namespace::open(&link),
                    _ => Ok(None),
                },
                Err(error) => Err(error),
            };
            match namespace {
                Ok(Some(namespace)) => {
                    if seen.insert(namespace.name.clone()) && found(namespace).is_break() {
                        return Ok(ControlFlow::Break(()));
                    }
                }
                Ok(None) => {}
                // Another process of the namespace comes later.
                Err(error) if is_gone(&error) => {}
                Err(_) => process_hidden = true,
            }
        }
        // One that nothing but an open descriptor keeps alive.
        for descriptor in numbered(&process.join("fd")).unwrap_or_default() {
            let target = std::fs::read_link(&descriptor);
            let name = target.ok().and_then(|target| namespace_name(target.as_os_str().as_bytes()));
            if name.is_some_and(|name| !seen.contains(&name))
                && let Ok(Some(namespace)) = Namespace::open(&descriptor)
                && seen.insert(namespace.name.clone())
                && found(namespace).is_break()
            {
                return Ok(ControlFlow::Break(()));
            }
        }
        hidden += usize::from(process_hidden);
    }
    Ok(ControlFlow::Continue(hidden))
}

/// The entries of a directory of `/proc` whose names are numbers.
fn numbered(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let is_number =
        |path: &PathBuf| path.file_name().is_some_and(|name| name.as_bytes().iter().all(u8::is_ascii_digit));
    Ok(std::fs::read_dir(directory)?.flatten().map(|entry| entry.path()).filter(is_number).collect())
}

/// Whether the process or the file is no longer there.
fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound
        || error.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error())
}

fn namespace_name(target: &[u8]) -> Option<String> {
    target.starts_with(NAME_START).then(|| String::from_utf8_lossy(target).into_owned())
}

/// The network namespaces in a mount table, with where they are mounted.
fn mounted(mounts: &Mounts) -> Vec<(String, PathBuf)> {
    let namespaces = mounts.iter().filter(|mount| mount.kind == "nsfs");
    namespaces
        .filter_map(|mount| Some((namespace_name(mount.root.as_os_str().as_bytes())?, mount.point.clone())))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounted_network_namespaces_are_told_from_other_mounts() {
        let mounts = b"22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw\n\
            60 25 0:4 net:[4026532180] /run/netns/with\\040blank rw shared:30 - nsfs nsfs rw\n\
            61 25 0:4 mnt:[4026532190] /run/mnt rw shared:31 master:2 - nsfs nsfs rw\n\
            62 25 0:4 net:[4026532249] /run/docker/netns/a\\134b rw - nsfs nsfs rw\n";

        let found = mounted(&Mounts::parse(mounts));

        assert_eq!(
            found,
            [
                ("net:[4026532180]".to_owned(), PathBuf::from("/run/netns/with blank")),
                ("net:[4026532249]".to_owned(), PathBuf::from("/run/docker/netns/a\\b")),
            ]
        );
    }

    #[test]
    fn namespaces_that_are_hidden_are_not_said_to_be_absent() {
        let proc = tempfile::tempdir().unwrap();
        let links = [("1", "net:[1]"), ("7", "net:[1]"), ("8", "net:[2]")];
        for (process, target) in links {
            std::fs::create_dir_all(proc.path().join(process).join("ns")).unwrap();
            std::os::unix::fs::symlink(target, proc.path().join(process).join("ns/net")).unwrap();
        }
        let elsewhere = |proc: &Path| {
            let mounts = b"60 25 0:4 net:[2] /run/netns/a rw - nsfs nsfs rw\n\
                61 25 0:4 net:[3] /run/netns/b rw - nsfs nsfs rw\n";
            elsewhere("net:[1]", proc, Ok(Mounts::parse(mounts)))
        };

        assert_eq!(elsewhere(proc.path()), Elsewhere { known: 2, unknown: None });
        std::fs::create_dir_all(proc.path().join("9/ns/net")).unwrap();
        let hidden = elsewhere(proc.path());
        assert!(hidden.unknown.is_some_and(|why| why.contains("of 1 processes cannot be read")));
        std::fs::remove_dir_all(proc.path().join("1")).unwrap();
        let hidden = elsewhere(proc.path());
        assert!(hidden.unknown.is_some_and(|why| why.contains("not shown in /proc")));
        assert!(elsewhere(Path::new("/no/such")).unknown.is_some());
        let unread = super::elsewhere("net:[1]", proc.path(), Err(io::ErrorKind::NotFound.into()));
        assert!(unread.unknown.is_some_and(|why| why.contains("mountinfo")));
    }

    #[test]
    fn the_own_namespace_is_not_among_the_others() {
        let own = own_name().unwrap();

        find_others(&own, &|_| {}, &mut |namespace| {
            assert_ne!(namespace.name, own);
            ControlFlow::Continue(())
        });

        assert!(own.starts_with("net:["), "{own}");
    }
}
