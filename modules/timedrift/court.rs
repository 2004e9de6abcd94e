//! Asks all time servers of a host at once, and judges its clock by what most of them say together; they are not
//! authenticated, so whoever runs most of them decides.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::client::{Patience, ask};
use crate::selection::{Opinion, Selection, Span, Verdict, select, verdict};
use crate::sources::Source;
use crate::survey::{Attempt, AttemptError, MAX_ADDRESSES, Means, resolve, share};

/// Servers that are asked, and names that are looked up, at the same time.
const WORKERS: usize = 32;

/// Stack of a worker in bytes; it holds a packet and little else.
const STACK_BYTES: usize = 256 << 10;

/// What becomes of one server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Judgement {
    /// It was counted.
    Counted(Opinion),
    /// It may be farther from the time than its daemon allows.
    TooFar,
    /// Its configuration says that it must not be used.
    NotSelectable,
    /// It answered, but its daemon was told to trust others.
    NotTrusted,
}

/// The judgement about a clock.
#[derive(Debug)]
pub struct Ruling {
    /// The judgement.
    pub verdict: Verdict,
    /// Where the true offset lies, when most servers agree about it.
    pub majority: Option<Span>,
    /// Servers that agree.
    pub agreeing: usize,
    /// Servers that were counted.
    pub counted: usize,
    /// A server that its configuration requires is not among those that agree.
    pub lacks_required: bool,
    /// How much the clock was moved while the servers were asked.
    pub clock_moved: Duration,
}

/// Asks all `sources`, and all addresses of pools, within one deadline.
#[must_use]
pub(crate) fn ask_all(sources: &[Source], means: &Means, patience: Patience<'_>) -> Vec<Attempt> {
    let half = patience.until(crate::client::now() + patience.left() / 2);
    let resolved = in_parallel(sources, half, |source, patience| {
        if source.server.options.offline {
            return Err(AttemptError::Offline);
        }
        resolve(means, source, patience)
    });
    let mut asked = HashSet::new();
    let mut attempts = Vec::new();
    let mut plan: Vec<(&Source, Vec<SocketAddr>)> = Vec::new();
    for (source, addresses) in sources.iter().zip(resolved) {
        let addresses = match addresses.unwrap_or(Err(AttemptError::NoTimeLeft)) {
            Ok(addresses) => addresses,
            Err(error) => {
                attempts.push(Attempt::new(source, None, Err(error)));
                continue;
            }
        };
        let most = if source.server.is_pool { source.server.options.votes } else { MAX_ADDRESSES };
        let fresh: Vec<SocketAddr> =
            addresses.into_iter().filter(|address| asked.insert(*address)).take(most).collect();
        match fresh.as_slice() {
            [] => attempts.push(Attempt::new(source, None, Err(AttemptError::AskedAlready))),
            // Each address of a pool is a server, with a voice of its own.
            pool if source.server.is_pool => plan.extend(pool.iter().map(|address| (source, vec![*address]))),
            _ => plan.push((source, fresh)),
        }
    }
    let answers = in_parallel(&plan, patience, |(source, addresses), patience| {
        ask_one(source, addresses, means, patience)
    });
    for ((source, addresses), answer) in plan.iter().zip(answers) {
        attempts.extend(answer.unwrap_or_else(|| {
            vec![Attempt::new(source, addresses.first().copied(), Err(AttemptError::NoTimeLeft))]
        }));
    }
    attempts
}

/// Asks one server at one of its addresses after the other; one valid answer is its voice.
fn ask_one(source: &Source, addresses: &[SocketAddr], means: &Means, patience: Patience<'_>) -> Vec<Attempt> {
    let mut attempts = Vec::new();
    for (index, address) in addresses.iter().enumerate() {
        let patience = share(patience, addresses.len() - index);
        let outcome = if patience.left().is_zero() {
            Err(AttemptError::NoTimeLeft)
        } else {
            ask(*address, &*means.clock, patience).map_err(AttemptError::Asked)
        };
        let is_over = outcome.as_ref().map_or_else(AttemptError::is_kiss_of_death, |_| true);
        attempts.push(Attempt::new(source, Some(*address), outcome));
        if is_over {
            break;
        }
    }
    attempts
}

/// Does `work` for all items on a few threads, this one among them; `None` where a thread failed.
fn in_parallel<T: Sync, R: Send>(
    items: &[T],
    patience: Patience<'_>,
    work: impl Fn(&T, Patience<'_>) -> R + Sync,
) -> Vec<Option<R>> {
    let results: Vec<Mutex<Option<R>>> = items.iter().map(|_| Mutex::new(None)).collect();
    let next = AtomicUsize::new(0);
    let worker = || {
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let (Some(item), Some(result)) = (items.get(index), results.get(index)) else { return };
            let rounds = (items.len() - index).div_ceil(WORKERS);
            let done = work(item, share(patience, rounds));
            if let Ok(mut result) = result.lock() {
                *result = Some(done);
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..items.len().min(WORKERS) {
            let builder = std::thread::Builder::new().name("ask".to_owned()).stack_size(STACK_BYTES);
            // Without more threads it takes longer, that is all.
            if builder.spawn_scoped(scope, worker).is_err() {
                break;
            }
        }
        worker();
    });
    results.into_iter().map(|result| result.into_inner().ok().flatten()).collect()
}

/// Judges the clock, and writes into each attempt what became of it. `clock_moved` is how far the clock was moved
/// meanwhile: all answers are less sure by that.
#[must_use]
pub fn judge(attempts: &mut [Attempt], tolerance: Duration, clock_moved: Duration) -> Ruling {
    let moved = clock_moved.as_nanos().cast_signed();
    let has_trusted = attempts.iter().any(|attempt| {
        let options = attempt.source.server.options;
        attempt.outcome.is_ok() && options.trust && !options.noselect
    });
    let mut counted = Vec::new();
    let mut spans = Vec::new();
    for (index, attempt) in attempts.iter_mut().enumerate() {
        let Ok(answer) = &attempt.outcome else { continue };
        let options = attempt.source.server.options;
        let bound = i128::from(answer.measurement.error_bound.to_nanoseconds_up()) + moved;
        let limit = attempt.source.max_distance.as_nanos().cast_signed();
        attempt.judgement = if options.noselect {
            Some(Judgement::NotSelectable)
        } else if bound > limit {
            Some(Judgement::TooFar)
        } else if has_trusted && !options.trust {
            Some(Judgement::NotTrusted)
        } else {
            counted.push(index);
            spans.push(Span::around(answer.measurement.offset.to_nanoseconds().into(), bound));
            None
        };
    }
    let Selection { majority, opinions } = select(&spans);
    for (index, opinion) in counted.iter().zip(&opinions) {
        attempts[*index].judgement = Some(Judgement::Counted(*opinion));
    }
    let agrees = |attempt: &&Attempt| attempt.judgement == Some(Judgement::Counted(Opinion::Agrees));
    let mut required = attempts.iter().filter(|attempt| attempt.source.server.options.require).peekable();
    let lacks_required = required.peek().is_some() && !required.any(|attempt| agrees(&attempt));
    let verdict = if lacks_required { Verdict::CannotTell } else { verdict(majority, tolerance.as_nanos()) };
    Ruling {
        verdict,
        majority,
        agreeing: attempts.iter().filter(agrees).count(),
        counted: counted.len(),
        lacks_required,
        clock_moved,
    }
}
