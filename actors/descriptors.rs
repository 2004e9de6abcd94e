//! Descriptors that are held back, so that a module can be started when everything else has used up the rest.

use std::cell::{Cell, RefCell};
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;

use nix::errno::Errno;
use vigie_protocol::catalogue::AgentCondition;

use crate::metrics_server::MAX_SCRAPERS;

/// Descriptors held back: starting a process takes six at once, the rest is for the agent's own threads meanwhile.
const RESERVED: usize = 24;

/// Descriptors that a living module takes: three pipes, its process, and its connections.
const OF_MODULE: u64 = 8;

/// Descriptors that the agent itself uses while no client asks it: runtime, locks, journal, log, guard, sockets, and the
/// scrapers of its two listeners.
const OF_AGENT: u64 = 40 + 2 * MAX_SCRAPERS as u64;

/// Fewest clients that must be possible.
const FEWEST_CLIENTS: u64 = 4;

/// The limit of open files leaves too little to work with.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the limit of {limit} open files is too small for {modules} modules; at least {needed} are needed")]
pub struct TooFewDescriptors {
    /// The limit.
    pub limit: u64,
    /// Modules that are configured.
    pub modules: usize,
    /// What is needed at least.
    pub needed: u64,
}

/// How many clients can be served under this limit of open files: each takes a connection to the agent and one to a
/// module.
///
/// # Errors
/// When there is too little to work with at all.
pub fn clients_within(limit: u64, modules: usize) -> Result<usize, TooFewDescriptors> {
    let fixed = OF_AGENT + RESERVED as u64 + OF_MODULE * modules as u64;
    let clients = limit.saturating_sub(fixed) / 2;
    if clients < FEWEST_CLIENTS {
        return Err(TooFewDescriptors { limit, modules, needed: fixed + 2 * FEWEST_CLIENTS });
    }
    Ok(usize::try_from(clients).unwrap_or(usize::MAX))
}

/// The soft limit of open files.
#[must_use]
pub fn limit() -> u64 {
    nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE).map_or(1024, |(soft, _)| soft)
}

thread_local! {
    /// The descriptors; only the arbiter's thread starts processes, so only it has some.
    static HELD: RefCell<Vec<OwnedFd>> = const { RefCell::new(Vec::new()) };
    /// Whether the reserve was taken: other programs do without.
    static WANTED: Cell<usize> = const { Cell::new(0) };
}

/// Takes the reserve of this thread.
///
/// # Errors
/// When there are not as many descriptors.
pub fn hold_reserve() -> io::Result<()> {
    WANTED.set(RESERVED);
    refill()
}

/// Does what needs descriptors, with those of the reserve.
pub(crate) fn with_reserve<T>(work: impl FnOnce() -> T) -> T {
    HELD.with_borrow_mut(Vec::clear);
    let done = work();
    // What is not free now is taken at the next start.
    refill().ok();
    done
}

#[expect(clippy::disallowed_methods, reason = "opens /dev/null, which waits for no disk")]
fn refill() -> io::Result<()> {
    HELD.with_borrow_mut(|held| {
        while held.len() < WANTED.get() {
            let descriptor = match held.first() {
                Some(first) => first.try_clone()?,
                None => File::open("/dev/null")?.into(),
            };
            held.push(descriptor);
        }
        Ok(())
    })
}

/// Which condition of the agent a failure to start a process shows.
#[must_use]
pub(crate) fn condition(error: &io::Error) -> Option<AgentCondition> {
    match Errno::from_raw(error.raw_os_error()?) {
        Errno::EMFILE | Errno::ENFILE => Some(AgentCondition::DescriptorsExhausted),
        Errno::EAGAIN | Errno::ENOMEM => Some(AgentCondition::TasksExhausted),
        _ => None,
    }
}

/// Whether this failure says that the host, or the agent's user, has nothing left of what a process takes. It says
/// nothing about the program that was to run.
#[must_use]
pub fn is_shortage(error: &io::Error) -> bool {
    error.raw_os_error().map(Errno::from_raw).is_some_and(|errno| {
        matches!(errno, Errno::EMFILE | Errno::ENFILE | Errno::EAGAIN | Errno::ENOMEM | Errno::ENOSPC)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_follow_the_limit_and_modules_come_first() {
        assert_eq!(clients_within(65_536, 5), Ok(32_700));
        assert_eq!(clients_within(128, 2), Ok(8));
        assert_eq!(clients_within(64, 2), Err(TooFewDescriptors { limit: 64, modules: 2, needed: 120 }));
    }

    #[test]
    fn the_reserve_is_free_while_it_is_needed_and_held_otherwise() {
        let held = || HELD.with_borrow(Vec::len);
        assert_eq!(with_reserve(held), 0);
        assert_eq!(held(), 0, "nobody asked for one");

        hold_reserve().unwrap();

        assert_eq!(held(), RESERVED);
        assert_eq!(with_reserve(held), 0);
        assert_eq!(held(), RESERVED);
    }

    #[test]
    fn only_what_the_host_lacks_is_a_shortage() {
        for code in [Errno::EMFILE, Errno::ENFILE, Errno::EAGAIN, Errno::ENOMEM, Errno::ENOSPC] {
            assert!(is_shortage(&io::Error::from(code)), "{code}");
        }
        for code in [Errno::ENOENT, Errno::EACCES, Errno::ENOEXEC] {
            assert!(!is_shortage(&io::Error::from(code)), "{code}");
        }
    }
}
