//! A small process that makes the changes of durable files, and the agent's side of it.
//!
//! A thread that writes to a file system that hangs (frozen, or its disk gone) keeps its whole process alive until it
//! wakes, beyond SIGKILL, with every lock and socket. So the agent has its changes made by another process, waits for
//! the answer on a thread that can be ended, and leaves that process behind when it ends itself. The price is half a
//! megabyte of memory and a copy and two changes of process for each change.
//!
//! Files are opened by the agent (opening one that exists never waits for a frozen file system) and their descriptors
//! are sent with each order, so the process knows nothing: when it is killed, the order under way fails and the next
//! one finds a new process. It is killed with the agent: what it waited to write is then not written when the disk
//! wakes, beside the work of the next agent.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::errno::Errno;
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{SigSet, Signal, kill};
use nix::unistd::{Pid, getppid};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};

/// How long the process may take before it is told to go on, in case somebody stopped it.
const PATIENCE: Duration = Duration::from_secs(1);

/// Times that an order is given again within [`despite_kills`].
const MORE_ATTEMPTS: u32 = 20;

/// The command that runs the process; its argument is the agent's process id.
pub const COMMAND: &str = "write-files";

/// Largest order in bytes; the largest real one is a snapshot of ids.
const MAX_PAYLOAD_BYTES: usize = 1 << 30;

/// Bytes of an order's head: kind, number (an offset or a length), lengths of two payloads.
const HEAD_BYTES: usize = 1 + 8 + 4 + 4;

/// One change.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Order<'a> {
    Create(&'a Path),
    MakeDirectory(&'a Path),
    Rename(&'a Path, &'a Path),
    Remove(&'a Path),
    SyncDirectory(&'a Path),
    Write(&'a File, u64, &'a [u8]),
    SetLength(&'a File, u64),
    Sync(&'a File),
}

impl<'a> Order<'a> {
    fn kind(&self) -> u8 {
        match self {
            Self::Create(_) => 0,
            Self::MakeDirectory(_) => 1,
            Self::Rename(..) => 2,
            Self::Remove(_) => 3,
            Self::SyncDirectory(_) => 4,
            Self::Write(..) => 5,
            Self::SetLength(..) => 6,
            Self::Sync(_) => 7,
        }
    }

    fn parts(&self) -> (Option<BorrowedFd<'a>>, u64, &'a [u8], &'a [u8]) {
        let bytes = |path: &'a Path| path.as_os_str().as_bytes();
        match *self {
            Self::Create(path)
            | Self::MakeDirectory(path)
            | Self::Remove(path)
            | Self::SyncDirectory(path) => (None, 0, bytes(path), &[]),
            Self::Rename(from, to) => (None, 0, bytes(from), bytes(to)),
            Self::Write(file, offset, content) => (Some(file.as_fd()), offset, content, &[]),
            Self::SetLength(file, length) => (Some(file.as_fd()), length, &[], &[]),
            Self::Sync(file) => (Some(file.as_fd()), 0, &[], &[]),
        }
    }

    /// Which file a renaming renames.
    fn renamed(&self) -> Option<(u64, u64)> {
        let Self::Rename(from, _) = *self else { return None };
        fs::symlink_metadata(from).ok().map(|file| (file.dev(), file.ino()))
    }

    /// Whether an order that was given again fails because it was carried out the first time; `renamed` as it was then.
    fn was_made_before(&self, error: &io::Error, renamed: Option<(u64, u64)>) -> bool {
        match *self {
            Self::Create(path) => {
                error.kind() == io::ErrorKind::AlreadyExists
                    && fs::symlink_metadata(path).is_ok_and(|found| found.is_file() && found.len() == 0)
            }
            Self::Remove(_) => error.kind() == io::ErrorKind::NotFound,
            Self::Rename(_, to) => {
                error.kind() == io::ErrorKind::NotFound
                    && renamed.is_some()
                    && fs::symlink_metadata(to).ok().map(|file| (file.dev(), file.ino())) == renamed
            }
            _ => false,
        }
    }

    /// Makes the change in this process.
    pub(crate) fn carry_out(&self) -> io::Result<()> {
        match *self {
            Self::Create(path) => crate::durable::options().create_new(true).open(path).map(drop),
            Self::MakeDirectory(path) => crate::durable::make_directory_here(path),
            Self::Rename(from, to) => fs::rename(from, to),
            Self::Remove(path) => fs::remove_file(path),
            Self::SyncDirectory(path) => File::open(path)?.sync_all(),
            Self::Write(file, offset, content) => file.write_all_at(content, offset),
            Self::SetLength(file, length) => file.set_len(length),
            Self::Sync(file) => file.sync_data(),
        }
    }
}

/// The agent's side.
struct Remote {
    program: PathBuf,
    /// A file on the file system that the changes go to.
    known_file: PathBuf,
    running: Option<(UnixStream, Child)>,
}

static REMOTE: OnceLock<Mutex<Remote>> = OnceLock::new();

/// When the order under way was given, in milliseconds since 1970; 0 when there is none.
static BUSY_SINCE: AtomicU64 = AtomicU64::new(0);

/// Whether an order whose process was killed is given again.
static GIVES_AGAIN: AtomicBool = AtomicBool::new(false);

/// Whether a probe waits for its answer.
static PROBING: AtomicBool = AtomicBool::new(false);

/// From now on has all changes of this process made by another one: `program` with [`COMMAND`]. `known_file` is there,
/// where the changes go.
///
/// # Errors
/// When the other process cannot be started.
pub fn install(program: &Path, known_file: &Path) -> io::Result<()> {
    let mut remote = Remote { program: program.to_owned(), known_file: known_file.to_owned(), running: None };
    remote.start()?;
    REMOTE.set(Mutex::new(remote)).map_err(|_| io::Error::other("it is installed already"))
}

/// Has each order of `work` given again when the process is killed meanwhile, so that `work` neither fails nor begins
/// anew and finds its own changes made. For the start of the agent, which nothing else uses the process in: an error of
/// the disk that only a killed process got to know is not known then.
pub fn despite_kills<T>(work: impl FnOnce() -> T) -> T {
    GIVES_AGAIN.store(true, Ordering::Relaxed);
    let done = work();
    GIVES_AGAIN.store(false, Ordering::Relaxed);
    done
}

/// How long the order under way has been waiting for its file system.
#[must_use]
pub fn busy_for() -> Option<Duration> {
    let since = BUSY_SINCE.load(Ordering::Relaxed);
    (since > 0).then(|| Duration::from_millis(now().saturating_sub(since)))
}

/// Has the file system take an order that changes nothing, unless one is under way. Blocking, for as long as the file
/// system does not answer.
pub fn probe() {
    if let Some(remote) = REMOTE.get()
        && !PROBING.swap(true, Ordering::Relaxed)
    {
        let known = remote.lock().unwrap_or_else(PoisonError::into_inner).known_file.clone();
        // Renaming a file to its own name is an order like any other until the kernel sees that nothing is to be done.
        change(Order::Rename(&known, &known)).ok();
        PROBING.store(false, Ordering::Relaxed);
    }
}

/// Whether a probe would wait behind another one.
#[must_use]
pub fn is_probing() -> bool {
    PROBING.load(Ordering::Relaxed)
}

fn now() -> u64 {
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since_1970.as_millis()).unwrap_or(u64::MAX).max(1)
}

/// Makes a change, in the other process when there is one.
pub(crate) fn change(order: Order<'_>) -> io::Result<()> {
    let Some(remote) = REMOTE.get() else { return order.carry_out() };
    // A panic ends the agent, so the lock cannot be poisoned in a way that matters.
    let mut remote = remote.lock().unwrap_or_else(PoisonError::into_inner);
    BUSY_SINCE.store(now(), Ordering::Relaxed);
    let done = remote.order(order);
    BUSY_SINCE.store(0, Ordering::Relaxed);
    done
}

impl Remote {
    fn start(&mut self) -> io::Result<()> {
        let (ours, theirs) = UnixStream::pair()?;
        ours.set_read_timeout(Some(PATIENCE))?;
        ours.set_write_timeout(Some(PATIENCE))?;
        let child = Command::new(&self.program)
            .arg0("vigie")
            .arg(COMMAND)
            .arg(std::process::id().to_string())
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()?;
        self.running = Some((ours, child));
        Ok(())
    }

    fn order(&mut self, order: Order<'_>) -> io::Result<()> {
        let more_attempts = if GIVES_AGAIN.load(Ordering::Relaxed) { MORE_ATTEMPTS } else { 0 };
        let renamed = order.renamed();
        let mut attempts = 0;
        loop {
            match self.give(order)? {
                Ok(0) => return Ok(()),
                Ok(code) => {
                    let error = io::Error::from_raw_os_error(code);
                    let was_made = attempts > 0 && order.was_made_before(&error, renamed);
                    return if was_made { Ok(()) } else { Err(error) };
                }
                // It was killed.
                Err(_) if attempts < more_attempts => attempts += 1,
                // Whether the change was made is not known, as after a failed write.
                Err(error) => {
                    let text = format!("the process that writes files ended: {error}");
                    return Err(io::Error::new(error.kind(), text));
                }
            }
        }
    }

    /// Gives an order once; the answer is an error number or 0, or why there is none. Fails when there is no process.
    fn give(&mut self, order: Order<'_>) -> io::Result<io::Result<i32>> {
        if self.running.is_none() {
            self.start()?;
        }
        let Some((socket, child)) = &self.running else { return Err(io::ErrorKind::NotConnected.into()) };
        let mut link = Link { socket, process: Pid::from_raw(child.id().cast_signed()) };
        let answer = exchange(&mut link, order);
        if answer.is_err()
            && let Some((_, mut child)) = self.running.take()
        {
            child.kill().ok();
            child.wait().ok();
        }
        Ok(answer)
    }
}

/// The socket to the process, which is continued when it takes long: a stopped one looks like a disk that hangs.
struct Link<'a> {
    socket: &'a UnixStream,
    process: Pid,
}

impl Link<'_> {
    fn patiently(&self, mut transfer: impl FnMut(&UnixStream) -> io::Result<usize>) -> io::Result<usize> {
        loop {
            match transfer(self.socket) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    // It has not been waited for, so the number is its own.
                    kill(self.process, Signal::SIGCONT).ok();
                }
                done => return done,
            }
        }
    }
}

impl Read for Link<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.patiently(|mut socket| socket.read(buffer))
    }
}

impl Write for Link<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.patiently(|mut socket| socket.write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn exchange(link: &mut Link<'_>, order: Order<'_>) -> io::Result<i32> {
    let (file, number, first, second) = order.parts();
    let mut head = [0; HEAD_BYTES];
    head[0] = order.kind();
    head[1..9].copy_from_slice(&number.to_le_bytes());
    head[9..13].copy_from_slice(&length(first)?.to_le_bytes());
    head[13..].copy_from_slice(&length(second)?.to_le_bytes());
    send_head(link.socket, &head, file)?;
    link.write_all(first)?;
    link.write_all(second)?;
    let mut code = [0; 4];
    link.read_exact(&mut code)?;
    Ok(i32::from_le_bytes(code))
}

fn length(payload: &[u8]) -> io::Result<u32> {
    let length = u32::try_from(payload.len()).ok().filter(|_| payload.len() <= MAX_PAYLOAD_BYTES);
    length.ok_or_else(|| io::ErrorKind::InvalidInput.into())
}

fn send_head(socket: &UnixStream, head: &[u8; HEAD_BYTES], file: Option<BorrowedFd<'_>>) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let files: Vec<BorrowedFd<'_>> = file.into_iter().collect();
    if !files.is_empty() {
        control.push(SendAncillaryMessage::ScmRights(&files));
    }
    // A stream takes so few bytes whole or not at all.
    let sent = sendmsg(socket, &[IoSlice::new(head)], &mut control, SendFlags::NOSIGNAL)?;
    if sent == HEAD_BYTES { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
}

/// The other process: makes changes until the agent is gone.
///
/// # Errors
/// When the socket fails.
pub fn serve(agent: OwnedFd, parent: i32) -> io::Result<()> {
    SigSet::from_iter([Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGQUIT]).thread_block().ok();
    set_pdeathsig(Signal::SIGKILL)?;
    if getppid().as_raw() != parent {
        return Ok(());
    }
    carry_out_orders(UnixStream::from(agent))
}

fn carry_out_orders(mut agent: UnixStream) -> io::Result<()> {
    let (mut first, mut second) = (Vec::new(), Vec::new());
    while let Some((head, file)) = receive_head(&mut agent)? {
        let field = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        let mut number = [0; 8];
        number.copy_from_slice(&head[1..9]);
        let lengths = [field(9), field(13)]
            .map(|length| usize::try_from(length).unwrap_or(usize::MAX).min(MAX_PAYLOAD_BYTES));
        for (payload, length) in [&mut first, &mut second].into_iter().zip(lengths) {
            // Never made shorter by a small order: that would fill the rest with zeros for the next large one.
            if payload.len() < length {
                payload.resize(length, 0);
            }
            agent.read_exact(&mut payload[..length])?;
        }
        let payloads = (&first[..lengths[0]], &second[..lengths[1]]);
        let code = match perform(head[0], u64::from_le_bytes(number), payloads.0, payloads.1, file.as_ref()) {
            Ok(()) => 0,
            Err(error) => error.raw_os_error().unwrap_or(Errno::EIO as i32),
        };
        // A large one is rare: its memory is not kept.
        first.truncate(1 << 20);
        first.shrink_to(1 << 20);
        agent.write_all(&code.to_le_bytes())?;
    }
    Ok(())
}

fn perform(kind: u8, number: u64, first: &[u8], second: &[u8], file: Option<&File>) -> io::Result<()> {
    let (one, other) = (Path::new(OsStr::from_bytes(first)), Path::new(OsStr::from_bytes(second)));
    let no_file = || io::Error::from_raw_os_error(Errno::EBADF as i32);
    let order = match kind {
        0 => Order::Create(one),
        1 => Order::MakeDirectory(one),
        2 => Order::Rename(one, other),
        3 => Order::Remove(one),
        4 => Order::SyncDirectory(one),
        5 => Order::Write(file.ok_or_else(no_file)?, number, first),
        6 => Order::SetLength(file.ok_or_else(no_file)?, number),
        7 => Order::Sync(file.ok_or_else(no_file)?),
        _ => return Err(io::Error::from_raw_os_error(Errno::ENOSYS as i32)),
    };
    order.carry_out()
}

/// The next order's head with its file; `None` at the end.
fn receive_head(agent: &mut UnixStream) -> io::Result<Option<([u8; HEAD_BYTES], Option<File>)>> {
    let mut head = [0; HEAD_BYTES];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = loop {
        match recvmsg(&*agent, &mut [IoSliceMut::new(&mut head)], &mut control, RecvFlags::CMSG_CLOEXEC) {
            Ok(received) => break received.bytes,
            Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    };
    if received == 0 {
        return Ok(None);
    }
    let file = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut files) => files.next().map(File::from),
        _ => None,
    });
    agent.read_exact(&mut head[received..])?;
    Ok(Some((head, file)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A server in a thread; the agent's end of its socket.
    fn server() -> UnixStream {
        let (ours, theirs) = UnixStream::pair().unwrap();
        std::thread::spawn(move || carry_out_orders(theirs));
        ours
    }

    #[test]
    fn every_kind_of_change_is_made_by_the_other_side_and_failures_come_back() {
        let directory = tempfile::tempdir().unwrap();
        let (one, two) = (directory.path().join("a/b/one"), directory.path().join("a/b/two"));
        let mut link = Link { socket: &server(), process: nix::unistd::getpid() };
        let mut order = |order: Order<'_>| exchange(&mut link, order).unwrap();

        assert_eq!(order(Order::Create(&one)), Errno::ENOENT as i32);
        assert_eq!(order(Order::MakeDirectory(one.parent().unwrap())), 0);
        assert_eq!(order(Order::Create(&one)), 0);
        assert_eq!(order(Order::Create(&one)), Errno::EEXIST as i32);
        let file = fs::OpenOptions::new().write(true).open(&one).unwrap();
        let large = vec![7; 3 << 20];
        assert_eq!(order(Order::Write(&file, 2, &large)), 0);
        assert_eq!(order(Order::Sync(&file)), 0);
        assert_eq!(order(Order::SetLength(&file, 4)), 0);
        assert_eq!(order(Order::Rename(&one, &two)), 0);
        assert_eq!(order(Order::SyncDirectory(directory.path())), 0);

        assert_eq!(fs::read(&two).unwrap(), [0, 0, 7, 7]);
        assert_eq!(order(Order::Remove(&two)), 0);
        assert!(!two.exists());
        let read_only = File::open("/dev/null").unwrap();
        assert_eq!(order(Order::Write(&read_only, 0, b"x")), Errno::EBADF as i32);
    }

    #[test]
    fn an_order_that_is_given_again_was_made_if_what_it_makes_is_there() {
        let directory = tempfile::tempdir().unwrap();
        let [new, old, gone] = ["new", "old", "gone"].map(|name| directory.path().join(name));
        fs::write(&new, "").unwrap();
        fs::write(&old, "x").unwrap();
        let renamed = Order::Rename(&old, &gone).renamed();
        let failed = |order: Order<'_>| order.was_made_before(&order.carry_out().unwrap_err(), renamed);

        assert!(failed(Order::Create(&new)));
        assert!(!failed(Order::Create(&old)));
        assert!(failed(Order::Rename(&gone, &old)));
        assert!(!failed(Order::Rename(&gone, &new)));
        assert!(failed(Order::Remove(&gone)));
        assert!(!failed(Order::SyncDirectory(&gone)));
    }
}
