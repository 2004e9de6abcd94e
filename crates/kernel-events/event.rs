//! What the kernel tells.

use std::net::IpAddr;

use crate::account::Account;

/// Something that happened. Times are nanoseconds since the start of the host, sleep included.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A process runs another program.
    Exec(Box<Exec>),
    /// The last thread of a process that ran a program of its own has ended.
    Exit(Exit),
    /// A socket connects, listens, accepts or gives up.
    Net(Box<Net>),
    /// A process has other user ids. From the process connector: who did it is the process itself.
    Credentials {
        /// The process.
        pid: u32,
        /// Its real user id now.
        uid: u32,
        /// Its effective user id now.
        euid: u32,
        /// When.
        time: u64,
    },
    /// A process is traced by another one, or no longer. From the process connector.
    Ptrace {
        /// The process that is traced.
        pid: u32,
        /// Who traces it; 0 when it stopped.
        tracer: u32,
        /// When.
        time: u64,
    },
}

/// The namespaces of a process, by their inode numbers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Namespaces {
    /// Mounts.
    pub mnt: u32,
    /// Process numbers.
    pub pid: u32,
    /// Network.
    pub net: u32,
    /// Users.
    pub user: u32,
}

/// A process at one moment. What names it for ever is [`Identity::pid`] together with [`Identity::start`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Identity {
    /// When its first thread began, nanoseconds since the start of the host.
    pub start: u64,
    /// The same of its parent.
    pub parent_start: u64,
    /// Its number in the first namespace, as all numbers here.
    pub pid: u32,
    /// The thread.
    pub tid: u32,
    /// Its parent.
    pub parent: u32,
    /// The nearest ancestor that runs a program of its own: children that a shell only forks are left out.
    pub maker: u32,
    /// When that one's first thread began.
    pub maker_start: u64,
    /// Its process group.
    pub group: u32,
    /// Its session.
    pub session: u32,
    /// Real user.
    pub uid: u32,
    /// Real group.
    pub gid: u32,
    /// Effective user.
    pub euid: u32,
    /// Effective group.
    pub egid: u32,
    /// Saved user.
    pub suid: u32,
    /// User for files.
    pub fsuid: u32,
    /// Who logged in, when PAM says so.
    pub login_uid: Option<u32>,
    /// The session of that login.
    pub login_session: Option<u32>,
    /// Its namespaces.
    pub namespaces: Namespaces,
    /// Device of its program's file, major and minor.
    pub exe_device: (u32, u32),
    /// Inode of its program's file.
    pub exe_inode: u64,
    /// How many names that file has at this moment; 0 when it was removed since.
    pub exe_links: u32,
    /// Capabilities that are in force; they count in [`Namespaces::user`] only.
    pub effective: u64,
    /// Capabilities that it can put in force.
    pub permitted: u64,
    /// Its control group: of version 1's controller of processes where there is one, otherwise of version 2.
    pub cgroup: u64,
    /// Its control group in version 2's tree.
    pub cgroup_v2: u64,
    /// The name that the kernel has; the process can change it.
    pub name: Vec<u8>,
}

/// A file, as the inode in the kernel had it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct File {
    /// Device, major and minor.
    pub device: (u32, u32),
    /// Inode.
    pub inode: u64,
    /// Bytes.
    pub size: u64,
    /// Last change of the inode, seconds since 1970.
    pub changed: i64,
    /// `s_magic` of its file system, as statfs(2) has it.
    pub filesystem: u64,
    /// Kind and permissions.
    pub mode: u32,
    /// Owner.
    pub owner: u32,
    /// How many names it has; 0 for a removed one and for one in memory.
    pub links: u32,
    /// Generation of the inode.
    pub generation: u32,
}

/// The descriptors of a new program that are looked at: the standard ones, and those by which shells name a script that
/// is none: the first free one, and the highest of a small table, as in `bash <(command)`.
pub const DESCRIPTORS: [u32; 5] = [0, 1, 2, 3, 63];

/// What a descriptor is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Descriptor {
    /// Kind and permissions, 0 when it is closed.
    pub mode: u32,
    /// Address family of a socket, major number of a device, 1 for a file in memory (memfd).
    pub family: u32,
    /// Inode.
    pub inode: u64,
}

impl Descriptor {
    /// Whether it is a pipe.
    #[must_use]
    pub fn is_pipe(self) -> bool {
        self.mode & 0o170_000 == 0o010_000
    }

    /// Whether it is a file in memory, as of memfd_create(2).
    #[must_use]
    pub fn is_memory(self) -> bool {
        self.mode & 0o170_000 == 0o100_000 && self.family == 1
    }
}

/// Texts in one piece of memory, with a NUL between them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Listed(Vec<u8>);

impl Listed {
    /// Texts with a NUL between each two of them.
    #[must_use]
    pub fn from_bytes(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }

    /// The bytes, with a NUL between each two texts.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// The texts; none where there are no bytes.
    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        self.0.split(|byte| *byte == 0).filter(|_| !self.0.is_empty())
    }
}

/// A process runs another program.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Exec {
    /// When.
    pub time: u64,
    /// Whose it is.
    pub account: Account,
    /// The process, with its new program.
    pub who: Identity,
    /// The program's file: that of the interpreter when a script was asked for.
    pub file: File,
    /// How many arguments.
    pub argument_count: u32,
    /// How many bytes they have with their NULs.
    pub argument_bytes: u32,
    /// The thread that asked for it; another one than the process's first when a thread did.
    pub old_tid: u32,
    /// The program gained rights: it is setuid or setgid, or has capabilities.
    pub secure: bool,
    /// It was named by a descriptor (fexecve).
    pub by_descriptor: bool,
    /// What the descriptors of [`DESCRIPTORS`] are.
    pub descriptors: [Descriptor; DESCRIPTORS.len()],
    /// What was asked for: the script, not its interpreter.
    pub filename: Vec<u8>,
    /// Path of the file in the mount namespace of the process; it begins with `…` when it was too deep.
    pub path: Vec<u8>,
    /// Current directory, in the same manner.
    pub cwd: Vec<u8>,
    /// The arguments as the new program gets them, up to 4 KiB; 256 bytes of somebody who has much in the ring already.
    pub arguments: Listed,
    /// The few variables that change what a program does, with their values.
    pub environment: Vec<(Vec<u8>, Vec<u8>)>,
    /// More environment than was looked at.
    pub environment_cut: bool,
    /// Read from `/proc` afterwards: what the process says of itself, if it was still there.
    pub claimed: bool,
}

impl Exec {
    /// Whether more arguments are there than were taken.
    #[must_use]
    pub fn arguments_cut(&self) -> bool {
        // The last NUL is not kept.
        self.arguments.bytes().len() + 1 < self.argument_bytes as usize
    }
}

/// How a process ended, as wait(2) has it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct ExitStatus(pub u32);

impl ExitStatus {
    /// The code that it exited with.
    #[must_use]
    pub fn code(self) -> Option<u8> {
        (self.signal().is_none()).then_some((self.0 >> 8) as u8)
    }

    /// The signal that ended it.
    #[must_use]
    pub fn signal(self) -> Option<u8> {
        Some((self.0 & 0x7f) as u8).filter(|signal| *signal != 0)
    }
}

/// A process has ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Exit {
    /// When.
    pub time: u64,
    /// Whose it is.
    pub account: Account,
    /// When its first thread began.
    pub start: u64,
    /// Its number.
    pub pid: u32,
    /// Real user at the end.
    pub uid: u32,
    /// Effective user at the end.
    pub euid: u32,
    /// How.
    pub status: ExitStatus,
    /// Time on processors for itself.
    pub user_ns: u64,
    /// Time on processors in the kernel.
    pub system_ns: u64,
    /// Most memory that it had, in pages.
    pub resident_pages: u64,
}

/// What became of a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum NetState {
    /// It asks a peer; the local port is not known yet.
    Connecting,
    /// The peer has answered.
    Connected,
    /// The peer refused, or did not answer.
    Failed,
    /// A peer is connected to a listening socket.
    Accepted,
    /// It listens.
    Listening,
    /// It no longer listens.
    Unlistening,
}

impl NetState {
    /// States as `include/net/tcp_states.h` numbers them.
    pub(crate) fn of(old: u16, new: u16) -> Option<Self> {
        const ESTABLISHED: u16 = 1;
        const SYN_SENT: u16 = 2;
        const CLOSE: u16 = 7;
        const LISTEN: u16 = 10;
        Some(match (old, new) {
            (_, SYN_SENT) => Self::Connecting,
            (SYN_SENT, ESTABLISHED) => Self::Connected,
            (SYN_SENT, CLOSE) => Self::Failed,
            (_, ESTABLISHED) => Self::Accepted,
            (_, LISTEN) => Self::Listening,
            (LISTEN, CLOSE) => Self::Unlistening,
            _ => return None,
        })
    }
}

/// A TCP socket has another state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Net {
    /// When.
    pub time: u64,
    /// Whose it is; nobody on this host chooses how many peers connect, so that those have an account of their own.
    pub account: Account,
    /// Whose socket it is: known of [`NetState::Connecting`] and [`NetState::Listening`] only. The others happen when
    /// packets come, whatever runs then.
    pub who: Option<Identity>,
    /// Names the socket as long as it lives; joins a connection's records.
    pub socket: u64,
    /// Its network namespace.
    pub net_namespace: u32,
    /// What became of it.
    pub state: NetState,
    /// Own address.
    pub local: IpAddr,
    /// Own port.
    pub local_port: u16,
    /// The peer's address.
    pub remote: IpAddr,
    /// The peer's port.
    pub remote_port: u16,
}
