//! What is kept of an event.

use std::net::IpAddr;

use vigie_kernel_events::{DESCRIPTORS, Descriptor, Exec, File, Listed};

use crate::rules::{absolute, script_of};

/// Names a process for as long as the host runs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Key {
    /// Its number in the first namespace.
    pub(crate) pid: u32,
    /// When it began, microseconds since the start of the host.
    pub(crate) start: u64,
}

impl Key {
    /// From the kernel's nanoseconds.
    pub(crate) fn new(pid: u32, start_ns: u64) -> Self {
        Self { pid, start: start_ns / 1000 }
    }
}

/// Whose work it is, and with which rights.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(crate) struct Rights {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) euid: u32,
    pub(crate) egid: u32,
    pub(crate) suid: u32,
    pub(crate) fsuid: u32,
    pub(crate) effective: u64,
    pub(crate) permitted: u64,
    pub(crate) login_uid: Option<u32>,
    pub(crate) login_session: Option<u32>,
    /// Mounts, processes, network, users.
    pub(crate) namespaces: [u32; 4],
    pub(crate) cgroup: u64,
    pub(crate) cgroup_v2: u64,
}

impl Rights {
    /// Those of a process at one moment.
    pub(crate) fn of(who: &vigie_kernel_events::Identity) -> Self {
        Self {
            uid: who.uid,
            gid: who.gid,
            euid: who.euid,
            egid: who.egid,
            suid: who.suid,
            fsuid: who.fsuid,
            effective: who.effective,
            permitted: who.permitted,
            login_uid: who.login_uid,
            login_session: who.login_session,
            namespaces: [who.namespaces.mnt, who.namespaces.pid, who.namespaces.net, who.namespaces.user],
            cgroup: who.cgroup,
            cgroup_v2: who.cgroup_v2,
        }
    }
}

/// The program that a process runs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(crate) struct Program {
    pub(crate) path: Vec<u8>,
    pub(crate) file: File,
}

/// A process runs another program.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Run {
    /// The nearest ancestor that runs a program of its own: what a shell's children go through is left out.
    pub(crate) maker: Key,
    /// The parent's number.
    pub(crate) parent: u32,
    pub(crate) group: u32,
    pub(crate) session: u32,
    pub(crate) program: Program,
    pub(crate) rights: Rights,
    /// What was asked for, when it is not the program's path: a script, a link, a descriptor.
    pub(crate) filename: Vec<u8>,
    pub(crate) cwd: Vec<u8>,
    pub(crate) arguments: Listed,
    /// The true length of the arguments with their NULs.
    pub(crate) argument_bytes: u32,
    /// Kind and family of standard input, output and errors.
    pub(crate) standard: [(u32, u32); 3],
    /// The pipe that it reads from, as standard input or as its script, and the one that it writes to; 0 for none. Not
    /// kept in the history.
    pub(crate) pipes: [u64; 2],
    /// The inode of the file that standard output is; 0 for none. Not kept in the history.
    pub(crate) output_file: u64,
    /// What the descriptor is by whose name the program or its script was called, as `/proc` writes it. Not kept in the
    /// history.
    pub(crate) script_file: Option<Vec<u8>>,
    pub(crate) environment: Vec<(Vec<u8>, Vec<u8>)>,
    /// It gained rights.
    pub(crate) secure: bool,
    pub(crate) by_descriptor: bool,
    /// Another thread than the first one asked for it.
    pub(crate) by_thread: bool,
    /// What the process says of itself.
    pub(crate) claimed: bool,
}

impl Run {
    /// Puts the script that an interpreter is told to run behind what was executed, with a NUL between them: both are
    /// asked for, as for `sh` in `sh x`.
    pub(crate) fn add_script(&mut self) {
        let Some(script) = script_of(self).filter(|script| *script != self.filename) else { return };
        if !self.filename.is_empty() {
            self.filename.push(0);
        }
        self.filename.extend_from_slice(&script);
    }

    /// What is kept of an exec.
    pub(crate) fn of(exec: Exec) -> Self {
        let rights = Rights::of(&exec.who);
        let [input, output, errors, ..] = exec.descriptors;
        let standard = [input, output, errors].map(|file| (file.mode & 0o170_000, file.family));
        let script_file = named_descriptor(&exec);
        let pipe = |file: Descriptor| if file.is_pipe() { file.inode } else { 0 };
        let script_pipe = script_file.as_deref().and_then(pipe_number);
        let pipes = [script_pipe.unwrap_or_else(|| pipe(input)), pipe(output)];
        // What is executed by a name from the working directory on is asked for, and ruled on, by its place.
        let is_relative =
            !exec.filename.is_empty() && !exec.filename.starts_with(b"/") && exec.cwd.starts_with(b"/");
        let filename = if is_relative { absolute(&exec.cwd, &exec.filename) } else { exec.filename };
        let filename = if filename == exec.path { Vec::new() } else { filename };
        Self {
            maker: Key::new(exec.who.maker, exec.who.maker_start),
            parent: exec.who.parent,
            group: exec.who.group,
            session: exec.who.session,
            rights,
            filename,
            cwd: exec.cwd,
            argument_bytes: exec.argument_bytes,
            arguments: exec.arguments,
            standard,
            pipes,
            output_file: if output.mode & 0o170_000 == 0o100_000 { output.inode } else { 0 },
            script_file,
            environment: exec.environment,
            secure: exec.secure,
            by_descriptor: exec.by_descriptor,
            by_thread: exec.old_tid != exec.who.pid,
            claimed: exec.claimed,
            program: Program { path: exec.path, file: exec.file },
        }
    }
}

/// What the first descriptor is that is named by what was asked for or by an argument. Of those that the kernel did not
/// report, it is read from `/proc`, where it is gone when the process has ended.
fn named_descriptor(exec: &Exec) -> Option<Vec<u8>> {
    let names = [&exec.filename[..]].into_iter().chain(exec.arguments.iter().skip(1));
    let (pid, number) = names.filter_map(descriptor_number).next()?;
    let pid = pid.unwrap_or(exec.who.pid);
    let known = DESCRIPTORS.iter().position(|it| *it == number).filter(|_| pid == exec.who.pid);
    match known.map(|place| exec.descriptors[place]) {
        Some(file) if file.is_pipe() => return Some(format!("pipe:[{}]", file.inode).into_bytes()),
        Some(file) if file.is_memory() => return Some(b"memfd:".to_vec()),
        _ => {}
    }
    let link = format!("/proc/{pid}/fd/{number}");
    let target = rustix::fs::readlink(link, Vec::new()).ok()?.into_bytes();
    let target = target.strip_suffix(b" (deleted)").unwrap_or(&target);
    Some(target.strip_prefix(b"/").filter(|it| it.starts_with(b"memfd:")).unwrap_or(target).to_vec())
}

/// The process, when it is not the one that asks, and the number of a descriptor that a path names.
fn descriptor_number(path: &[u8]) -> Option<(Option<u32>, u32)> {
    let number = |text: &[u8]| std::str::from_utf8(text).ok()?.parse().ok();
    if let Some(own) = path.strip_prefix(b"/dev/fd/").or_else(|| path.strip_prefix(b"/proc/self/fd/")) {
        return Some((None, number(own)?));
    }
    let mut parts = path.strip_prefix(b"/proc/")?.split(|byte| *byte == b'/');
    let (pid, directory, descriptor) = (number(parts.next()?)?, parts.next()?, number(parts.next()?)?);
    (directory == b"fd" && parts.next().is_none()).then_some((Some(pid), descriptor))
}

fn pipe_number(target: &[u8]) -> Option<u64> {
    std::str::from_utf8(target.strip_prefix(b"pipe:[")?.strip_suffix(b"]")?).ok()?.parse().ok()
}

/// What became of a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Outcome {
    /// The peer answered, or was accepted.
    Open,
    /// The peer refused or did not answer.
    Refused,
    /// Not known when it was written down.
    Unanswered,
}

/// What a socket did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Socket {
    pub(crate) kind: SocketKind,
    pub(crate) outcome: Outcome,
    pub(crate) local: IpAddr,
    pub(crate) local_port: u16,
    pub(crate) remote: IpAddr,
    pub(crate) remote_port: u16,
    /// The program and rights of the process; empty when it is not known whose socket it is.
    pub(crate) program: Program,
    pub(crate) rights: Rights,
    /// The process at the other end, when it is on this host.
    pub(crate) peer: Key,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum SocketKind {
    Connect,
    Accept,
    Listen,
}

/// An event, as it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Record {
    /// Microseconds since 1970.
    pub(crate) time: i64,
    /// The process; zeros when none is known.
    pub(crate) who: Key,
    pub(crate) what: What,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum What {
    Exec(Box<Run>),
    /// Status as wait(2) has it; milliseconds on processors; most memory in units of 256 KiB; effective user.
    Exit {
        status: u32,
        processor_ms: u64,
        resident_quarters: u64,
        euid: u32,
    },
    Socket(Box<Socket>),
    /// Real and effective user from now on.
    Setuid {
        uid: u32,
        euid: u32,
    },
    /// Traced by another process.
    Ptrace {
        tracer: Key,
    },
    Login(Box<Session>),
    Logout(Box<Session>),
    /// Something of the host changed, of this kind: what, in words.
    Host(Kind, Vec<u8>),
    /// A process runs a program in other namespaces than its maker: those that changed, by their names.
    Namespace(Vec<u8>),
    /// So many events were lost between `from` (microseconds since 1970) and the record's time.
    Lost {
        kind: Vec<u8>,
        count: u64,
        from: i64,
    },
}

/// Who logged in, and from where.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Session {
    pub(crate) user: Vec<u8>,
    pub(crate) line: Vec<u8>,
    pub(crate) host: Vec<u8>,
    /// Which source says so: `kernel` or `wtmp`.
    pub(crate) source: Vec<u8>,
}

/// Kinds in the order in which blocks count them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    Exec,
    Exit,
    Connect,
    Accept,
    Listen,
    Setuid,
    Ptrace,
    Login,
    Logout,
    Lost,
    Mount,
    Module,
    Bpf,
    Time,
    Namespace,
}

impl Kind {
    pub(crate) const ALL: [Self; 15] = [
        Self::Exec,
        Self::Exit,
        Self::Connect,
        Self::Accept,
        Self::Listen,
        Self::Setuid,
        Self::Ptrace,
        Self::Login,
        Self::Logout,
        Self::Lost,
        Self::Mount,
        Self::Module,
        Self::Bpf,
        Self::Time,
        Self::Namespace,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Exec => "exec",
            Self::Exit => "exit",
            Self::Connect => "connect",
            Self::Accept => "accept",
            Self::Listen => "listen",
            Self::Setuid => "setuid",
            Self::Ptrace => "ptrace",
            Self::Login => "login",
            Self::Logout => "logout",
            Self::Lost => "lost",
            Self::Mount => "mount",
            Self::Module => "module",
            Self::Bpf => "bpf",
            Self::Time => "time",
            Self::Namespace => "namespace",
        }
    }

    pub(crate) fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// Who did it, as far as this is known.
    pub(crate) fn who(self) -> &'static str {
        match self {
            Self::Exec | Self::Exit | Self::Connect | Self::Listen => "the process itself, from the kernel",
            Self::Accept => "the process that made the socket listen; on this host also the peer",
            Self::Setuid => {
                "the process itself, from the kernel; without the process connector at its next event"
            }
            Self::Ptrace => "the tracing process, from the kernel",
            Self::Login => "the process whose login session is new, or what wtmp claims",
            Self::Logout => "the first process of the session, or what wtmp claims",
            Self::Lost => "nobody",
            Self::Mount | Self::Module | Self::Time => {
                "not known: the exec records of that moment may show it"
            }
            Self::Bpf => "the user who loaded it, from the kernel; the process is not known",
            Self::Namespace => "the process itself, at its exec, from the kernel",
        }
    }
}

impl What {
    pub(crate) fn kind(&self) -> Kind {
        match self {
            Self::Exec(_) => Kind::Exec,
            Self::Exit { .. } => Kind::Exit,
            Self::Socket(socket) => match socket.kind {
                SocketKind::Connect => Kind::Connect,
                SocketKind::Accept => Kind::Accept,
                SocketKind::Listen => Kind::Listen,
            },
            Self::Setuid { .. } => Kind::Setuid,
            Self::Ptrace { .. } => Kind::Ptrace,
            Self::Login(_) => Kind::Login,
            Self::Logout(_) => Kind::Logout,
            Self::Lost { .. } => Kind::Lost,
            Self::Host(kind, _) => *kind,
            Self::Namespace(_) => Kind::Namespace,
        }
    }
}
