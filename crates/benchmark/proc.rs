//! What the kernel says of a process.

use std::time::Duration;

use procfs::process::Process;

use crate::BenchResult;

/// What a process holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    /// Open files.
    pub descriptors: usize,
    /// Threads.
    pub threads: u64,
    /// Children that ended and were not waited for.
    pub zombies: usize,
    /// Resident memory in KiB.
    pub resident_kib: u64,
    /// What of it is the process's own and no page of a file, in KiB.
    pub anonymous_kib: u64,
}

fn process(pid: u32) -> BenchResult<Process> {
    Ok(Process::new(i32::try_from(pid)?)?)
}

/// What the process holds now.
///
/// # Errors
/// When it has ended or may not be inspected.
pub fn held(pid: u32) -> BenchResult<Held> {
    let process = process(pid)?;
    let status = process.status()?;
    let zombies = procfs::process::all_processes()?
        .flatten()
        .filter_map(|other| other.stat().ok())
        .filter(|stat| stat.ppid == process.pid() && stat.state == 'Z')
        .count();
    Ok(Held {
        descriptors: process.fd_count()?,
        threads: status.threads,
        zombies,
        resident_kib: status.vmrss.unwrap_or(0),
        anonymous_kib: status.rssanon.unwrap_or(0),
    })
}

/// Processor time that the process has used, to the hundredth of a second.
///
/// # Errors
/// When it has ended or may not be inspected.
pub fn cpu_time(pid: u32) -> BenchResult<Duration> {
    let stat = process(pid)?.stat()?;
    let ticks = stat.utime + stat.stime;
    Ok(Duration::from_millis(ticks * 1000 / procfs::ticks_per_second()))
}

/// Times that threads of the process gave up the processor to wait, which is how often it was woken up.
///
/// # Errors
/// When it has ended or may not be inspected.
pub fn waits(pid: u32) -> BenchResult<u64> {
    let mut waits = 0;
    for task in process(pid)?.tasks()? {
        // A thread may end between the two looks.
        if let Ok(status) = task.and_then(|task| task.status()) {
            waits += status.voluntary_ctxt_switches.unwrap_or(0);
        }
    }
    Ok(waits)
}

/// The processes that a process has started and that still run, with their command lines up to the options.
///
/// # Errors
/// When it has ended or may not be inspected.
pub fn children(pid: u32) -> BenchResult<Vec<(u32, String)>> {
    let parent = i32::try_from(pid)?;
    let mut found = Vec::new();
    for process in procfs::process::all_processes()?.flatten() {
        let Ok(stat) = process.stat() else { continue };
        if stat.ppid == parent && stat.state != 'Z' {
            let words = process.cmdline().unwrap_or_default();
            let name: Vec<String> =
                words.into_iter().skip(1).take_while(|word| !word.starts_with('-')).collect();
            found.push((u32::try_from(stat.pid)?, name.join(" ")));
        }
    }
    Ok(found)
}

/// Directories below the cgroup in which the process' modules are, when there is one.
///
/// # Errors
/// When it has ended or may not be inspected.
pub fn cgroups_of(pid: u32) -> BenchResult<usize> {
    let mut directories = 0;
    for group in process(pid)?.cgroups()?.0.into_iter().filter(|group| group.hierarchy == 0) {
        let root = std::path::Path::new("/sys/fs/cgroup").join(group.pathname.trim_start_matches('/'));
        directories += count_directories(&root, 0);
    }
    Ok(directories)
}

/// Counted to a small depth: what a module is put into is two levels below the agent.
fn count_directories(root: &std::path::Path, depth: usize) -> usize {
    let Ok(entries) = std::fs::read_dir(root) else { return 0 };
    entries
        .flatten()
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| 1 + if depth < 3 { count_directories(&entry.path(), depth + 1) } else { 0 })
        .sum()
}
