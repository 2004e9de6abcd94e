//! What a process uses, from `/proc`. Blocking.

#![expect(clippy::disallowed_methods, reason = "called on Lane::Modules; is_pending waits for no disk")]

use nix::sys::signal::Signal;
use procfs::WithCurrentSystemInfo as _;
use procfs::process::{LimitValue, Process};
use vigie_protocol::control::ProcessUse;

/// Whose processor time counts.
#[derive(Clone, Copy)]
enum Processor {
    /// The process's alone.
    Own,
    /// With that of its children that ended and were waited for.
    WithChildren,
}

/// What the agent's own process uses. Its children are the modules, and, when a script became the agent by `exec`, what
/// the script ran: their time is not the agent's.
pub(crate) fn own_use() -> Option<ProcessUse> {
    read(std::process::id(), Processor::Own)
}

/// What a module's process uses; nothing when there is none of this number. What it lets others do is its work as well.
pub(crate) fn module_use(pid: u32) -> Option<ProcessUse> {
    read(pid, Processor::WithChildren)
}

/// Whether a signal that was sent to a process is still pending; also when that cannot be read. Asks only the kernel,
/// which answers at once.
pub(crate) fn is_pending(pid: u32, signal: Signal) -> bool {
    let process = i32::try_from(pid).ok().and_then(|pid| Process::new(pid).ok());
    let pending = process.and_then(|process| Some(process.status().ok()?.shdpnd));
    pending.is_none_or(|signals| signals & (1 << (signal as i32 - 1)) != 0)
}

fn read(pid: u32, processor: Processor) -> Option<ProcessUse> {
    let process = Process::new(i32::try_from(pid).ok()?).ok()?;
    let stat = process.stat().ok()?;
    let children = match processor {
        Processor::Own => 0,
        Processor::WithChildren => u64::try_from(stat.cutime + stat.cstime).unwrap_or_default(),
    };
    let ticks = stat.utime + stat.stime + children;
    let limit = process.limits().ok().map(|limits| limits.max_open_files.soft_limit);
    Some(ProcessUse {
        cpu_ms: ticks.saturating_mul(1000) / procfs::ticks_per_second().max(1),
        memory_bytes: stat.rss_bytes().get(),
        threads: u64::try_from(stat.num_threads).unwrap_or_default(),
        open_files: process.fd_count().ok().and_then(|count| u64::try_from(count).ok()),
        open_files_limit: limit.and_then(|limit| match limit {
            LimitValue::Value(value) => Some(value),
            LimitValue::Unlimited => None,
        }),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::signal::kill;
    use nix::sys::wait::{WaitPidFlag, waitpid};
    use nix::unistd::Pid;

    #[test]
    fn a_signal_that_a_stopped_process_was_sent_is_pending() {
        let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let pid = Pid::from_raw(child.id().cast_signed());
        kill(pid, Signal::SIGSTOP).unwrap();
        waitpid(pid, Some(WaitPidFlag::WUNTRACED)).unwrap();
        let before = is_pending(child.id(), Signal::SIGUSR1);

        kill(pid, Signal::SIGUSR1).unwrap();
        let after = is_pending(child.id(), Signal::SIGUSR1);

        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!((before, after), (false, true));
    }

    #[test]
    fn what_this_process_uses_is_plausible() {
        let mut memory = vec![0_u8; 32 << 20];
        memory.iter_mut().step_by(4096).for_each(|byte| *byte = 1);

        let used = own_use().unwrap();

        assert!(used.memory_bytes > 32 << 20, "{used:?}");
        assert!(
            used.threads >= 1 && used.open_files >= Some(3) && used.open_files_limit > Some(3),
            "{used:?}"
        );
        drop(memory);
    }

    #[test]
    fn the_time_of_children_is_a_module_s_and_not_the_agent_s() {
        let is_more = |_| {
            let work = "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done";
            std::process::Command::new("sh").args(["-c", work]).status().unwrap();
            // The kernel counts in ticks of some milliseconds.
            module_use(std::process::id()).unwrap().cpu_ms > own_use().unwrap().cpu_ms + 30
        };

        assert!((0..100).any(is_more));
    }

    #[test]
    fn a_process_that_is_not_there_uses_nothing() {
        assert_eq!(module_use(u32::MAX), None);
    }
}
