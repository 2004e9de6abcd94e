//! What a process uses, from `/proc`. Blocking.

#![expect(clippy::disallowed_methods, reason = "called on Lane::Modules")]

use procfs::WithCurrentSystemInfo as _;
use procfs::process::{LimitValue, Process};
use vigie_protocol::control::ProcessUse;

/// Reads what a process uses; nothing when there is none of this number.
pub(crate) fn process_use(pid: u32) -> Option<ProcessUse> {
    let process = Process::new(i32::try_from(pid).ok()?).ok()?;
    let stat = process.stat().ok()?;
    // Children that were waited for are what a module did as well.
    let children = u64::try_from(stat.cutime + stat.cstime).unwrap_or_default();
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

    #[test]
    fn what_this_process_uses_is_plausible() {
        let mut memory = vec![0_u8; 32 << 20];
        memory.iter_mut().step_by(4096).for_each(|byte| *byte = 1);

        let used = process_use(std::process::id()).unwrap();

        assert!(used.memory_bytes > 32 << 20, "{used:?}");
        assert!(
            used.threads >= 1 && used.open_files >= Some(3) && used.open_files_limit > Some(3),
            "{used:?}"
        );
        drop(memory);
    }

    #[test]
    fn a_process_that_is_not_there_uses_nothing() {
        assert_eq!(process_use(u32::MAX), None);
    }
}
