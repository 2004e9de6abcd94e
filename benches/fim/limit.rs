//! What the machine gives: bare loops without anything that makes them useful.

use std::ffi::CStr;
use std::hint::black_box;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, inotify, openat, statat};
use sha2::{Digest, Sha256};
use tokio::time::Instant;
use vigie_benchmark::BenchResult;
use vigie_fanotify::{Buffer, Group, Mask, Options};

/// Threads of every loop. The goals were set for two, whatever the machine has.
const THREADS: usize = 2;

/// Bytes of one read.
const READ_BYTES: usize = 128 * 1024;

/// What a thread of a loop has seen.
#[derive(Debug, Default)]
struct Seen {
    files: usize,
    /// Name and digest of each file, kept as whoever compares them later would.
    records: Vec<(Box<CStr>, [u8; 32])>,
}

/// Reads and hashes all files below `root`; returns how long that took.
///
/// # Errors
/// When a file cannot be read, or there are not `files` of them.
pub(crate) fn hash_files(root: &Path, files: usize) -> BenchResult<Duration> {
    walk(root, files, |directory, name, buffer, seen| {
        let mut hash = Sha256::new();
        read_file(directory, name, buffer, |bytes| hash.update(bytes))?;
        seen.records.push((name.into(), hash.finalize().into()));
        Ok(())
    })
}

/// Reads all files below `root`, so that they are in the page cache.
///
/// # Errors
/// As [`hash_files`].
pub(crate) fn read_files(root: &Path, files: usize) -> BenchResult<Duration> {
    walk(root, files, |directory, name, buffer, _| {
        read_file(directory, name, buffer, |bytes| {
            black_box(bytes);
        })
    })
}

/// Looks at the metadata of all files below `root`.
///
/// # Errors
/// As [`hash_files`].
pub(crate) fn stat_files(root: &Path, files: usize) -> BenchResult<Duration> {
    walk(root, files, |directory, name, _, _| {
        black_box(statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)?);
        Ok(())
    })
}

fn read_file(
    directory: &OwnedFd,
    name: &CStr,
    buffer: &mut [u8],
    mut take: impl FnMut(&[u8]),
) -> io::Result<()> {
    let file = openat(directory, name, OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    loop {
        let count = rustix::io::read(&file, &mut *buffer)?;
        if count == 0 {
            return Ok(());
        }
        take(&buffer[..count]);
    }
}

/// Calls `visit` for every file below `root`, on all threads.
fn walk(
    root: &Path,
    files: usize,
    visit: impl Fn(&OwnedFd, &CStr, &mut [u8], &mut Seen) -> io::Result<()> + Sync,
) -> BenchResult<Duration> {
    let start = Instant::now();
    let waiting = Mutex::new(vec![root.to_owned()]);
    // Directories that wait or are being listed.
    let unfinished = AtomicUsize::new(1);
    let work = || -> io::Result<Seen> {
        let mut buffer = vec![0; READ_BYTES];
        let mut seen = Seen::default();
        while unfinished.load(Ordering::Acquire) > 0 {
            let next = waiting.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let Some(path) = next else {
                std::thread::yield_now();
                continue;
            };
            let listed = list(&path, &mut |directory, name| {
                seen.files += 1;
                visit(directory, name, &mut buffer, &mut seen)
            });
            let found = match listed {
                Ok(found) => found,
                Err(error) => {
                    // The other threads end as well.
                    unfinished.store(0, Ordering::Release);
                    return Err(error);
                }
            };
            unfinished.fetch_add(found.len(), Ordering::AcqRel);
            waiting.lock().unwrap_or_else(PoisonError::into_inner).extend(found);
            unfinished.fetch_sub(1, Ordering::AcqRel);
        }
        Ok(seen)
    };
    let seen = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(work)).collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|_| Err(io::ErrorKind::Other.into())))
            .collect::<io::Result<Vec<_>>>()
    })?;
    let took = start.elapsed();
    let found: usize = seen.iter().map(|seen| seen.files).sum();
    black_box(&seen);
    if found != files {
        return Err(format!("{} has {found} files, not {files}", root.display()).into());
    }
    Ok(took)
}

/// Calls `visit` for the files of one directory and returns the directories in it.
fn list(path: &Path, visit: &mut dyn FnMut(&OwnedFd, &CStr) -> io::Result<()>) -> io::Result<Vec<PathBuf>> {
    use std::os::unix::ffi::OsStrExt;

    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let directory = openat(CWD, path, flags, Mode::empty())?;
    let mut directories = Vec::new();
    for entry in Dir::read_from(&directory)? {
        let entry = entry?;
        let name = entry.file_name();
        match entry.file_type() {
            FileType::Directory if name != c"." && name != c".." => {
                directories.push(path.join(std::ffi::OsStr::from_bytes(name.to_bytes())));
            }
            FileType::RegularFile => visit(&directory, name)?,
            _ => {}
        }
    }
    Ok(directories)
}

/// All directories at and below `root`.
///
/// # Errors
/// When one cannot be listed.
pub(crate) fn directories(root: &Path) -> BenchResult<Vec<PathBuf>> {
    let mut all = vec![root.to_owned()];
    let mut next = 0;
    while let Some(path) = all.get(next) {
        let found = list(path, &mut |_, _| Ok(()))?;
        all.extend(found);
        next += 1;
    }
    Ok(all)
}

/// What an observer of changes asks inotify(7) for.
const OBSERVED: inotify::WatchFlags = inotify::WatchFlags::CREATE
    .union(inotify::WatchFlags::DELETE)
    .union(inotify::WatchFlags::MODIFY)
    .union(inotify::WatchFlags::CLOSE_WRITE)
    .union(inotify::WatchFlags::ATTRIB)
    .union(inotify::WatchFlags::MOVED_FROM)
    .union(inotify::WatchFlags::MOVED_TO)
    .union(inotify::WatchFlags::DELETE_SELF)
    .union(inotify::WatchFlags::MOVE_SELF)
    .union(inotify::WatchFlags::ONLYDIR)
    .union(inotify::WatchFlags::DONT_FOLLOW);

/// Adds an inotify watch for each directory; returns how long that took. The watches are gone afterwards.
///
/// # Errors
/// When the kernel refuses one (`fs.inotify.max_user_watches`).
pub(crate) fn add_watches(directories: &[PathBuf]) -> BenchResult<Duration> {
    let start = Instant::now();
    let queue = inotify::init(inotify::CreateFlags::CLOEXEC)?;
    for directory in directories {
        inotify::add_watch(&queue, directory, OBSERVED)?;
    }
    Ok(start.elapsed())
}

/// A thread that watches one directory, takes all events and does nothing with them: what the kernel's own part of
/// watching costs. It ends when it is dropped.
pub(crate) struct BareWatcher {
    queue: std::sync::Arc<OwnedFd>,
    watch: i32,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl BareWatcher {
    /// Begins to watch.
    ///
    /// # Errors
    /// When the kernel gives no watch or no thread.
    pub(crate) fn start(directory: &Path) -> BenchResult<Self> {
        let queue = std::sync::Arc::new(inotify::init(inotify::CreateFlags::CLOEXEC)?);
        let watch = inotify::add_watch(&*queue, directory, OBSERVED)?;
        let reader = std::sync::Arc::clone(&queue);
        let thread = std::thread::Builder::new().spawn(move || {
            let mut buffer = vec![std::mem::MaybeUninit::uninit(); READ_BYTES];
            let mut events = inotify::Reader::new(&*reader, &mut buffer);
            // The watch is removed when the measurement is over.
            while events.next().is_ok_and(|event| !event.events().contains(inotify::ReadFlags::IGNORED)) {}
        })?;
        Ok(Self { queue, watch, thread: Some(thread) })
    }
}

impl Drop for BareWatcher {
    fn drop(&mut self) {
        if inotify::remove_watch(&*self.queue, self.watch).is_ok()
            && let Some(thread) = self.thread.take()
        {
            thread.join().ok();
        }
    }
}

/// The same with fanotify: a directory and its file system are marked as the module marks them.
pub(crate) struct BareFanotify {
    /// The thread ends when it is closed.
    end: Option<OwnedFd>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl BareFanotify {
    /// Begins to watch.
    ///
    /// # Errors
    /// When the kernel refuses, as it does without privileges, or gives no thread.
    pub(crate) fn start(directory: &Path) -> BenchResult<Self> {
        let open =
            openat(CWD, directory, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        let group = Group::new(Options { unlimited_queue: true, pidfd: false, target: true })?;
        let everywhere = Mask::CREATE | Mask::RENAME | Mask::CLOSE_WRITE | Mask::ONDIR;
        group.mark_filesystem(open.as_fd(), everywhere)?;
        let here = everywhere | Mask::DELETE | Mask::ATTRIB | Mask::MODIFY | Mask::EVENT_ON_CHILD;
        group.mark_directory(open.as_fd(), here)?;
        let (ended, end) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
        let thread = std::thread::Builder::new().spawn(move || {
            let mut buffer = Buffer::new(READ_BYTES);
            loop {
                let mut ready = [PollFd::new(&group, PollFlags::IN), PollFd::new(&ended, PollFlags::IN)];
                if poll(&mut ready, None).is_err() || !ready[1].revents().is_empty() {
                    return;
                }
                while let Ok(Some(events)) = group.read(&mut buffer) {
                    events.for_each(|event| _ = black_box(event));
                }
            }
        })?;
        Ok(Self { end: Some(end), thread: Some(thread) })
    }
}

impl Drop for BareFanotify {
    fn drop(&mut self) {
        self.end = None;
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

/// Makes a fanotify group and marks the file system of `path` in it; returns how long that took.
///
/// # Errors
/// When the kernel refuses, as it does without privileges.
pub(crate) fn mark_file_system(path: &Path) -> BenchResult<Duration> {
    let directory = openat(CWD, path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let start = Instant::now();
    let group = Group::new(Options { unlimited_queue: true, pidfd: true, target: true })?;
    group.mark_filesystem(directory.as_fd(), Mask::CREATE)?;
    Ok(start.elapsed())
}

/// The SHA-256 of some bytes, as alerts show it.
pub(crate) fn digest_of(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}
