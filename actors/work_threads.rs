//! The threads on which the agent does what can block: files, `/proc`, the user database.
//!
//! All of them are made when the agent starts and live as long as it: a host whose tasks are used up (a fork bomb,
//! a user's process limit) cannot take one away, and nothing later depends on getting one. Each [`Lane`] has
//! threads of its own and a bounded queue, so that a job behind one that hangs is never a job of another kind.
//!
//! The runtime's own blocking pool is used only by libraries (`lookup_host`, `tokio::fs`). It panics when a job
//! comes while none of its threads lives and none can be made, so it is filled at start and its threads never end
//! ([`fill_runtime_pool`]).

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender};
use tokio::sync::oneshot;

/// What kind of work a thread does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lane {
    /// The alert journal's writes; one job at a time.
    Journal,
    /// Modules' lines on their way to the log; at most two jobs for each module.
    Log,
    /// Configuration files.
    Config,
    /// Programs, directories and sockets of modules, `/proc`.
    Modules,
    /// Ending what a module left behind in its cgroup.
    Kill,
    /// Names of users, which can come from a directory service.
    Names,
    /// Alerts read back for sinks, dispatching modules and the fleet.
    Readers,
    /// The same for clients of the socket: however many they are and however much they read, alerts leave the host.
    Clients,
    /// Answers that are read through once more; work for the processor, not for a disk.
    Answers,
    /// Files of the link to the fleet.
    Fleet,
    /// Writing alerts for sinks, and the files that say how far a sink is; at most one job for each sink.
    Sinks,
    /// Addresses of the receivers of sinks, which a name server may be slow to give; at most one job for each sink.
    Resolve,
}

impl Lane {
    /// Every lane.
    const ALL: [Self; 12] = [
        Self::Journal,
        Self::Log,
        Self::Config,
        Self::Modules,
        Self::Kill,
        Self::Names,
        Self::Readers,
        Self::Clients,
        Self::Answers,
        Self::Fleet,
        Self::Sinks,
        Self::Resolve,
    ];

    /// Its threads' name, at most 15 bytes (pthread_setname_np(3)).
    fn name(self) -> &'static str {
        match self {
            Self::Journal => "journal",
            Self::Log => "log",
            Self::Config => "config",
            Self::Modules => "modules",
            Self::Kill => "kill",
            Self::Names => "names",
            Self::Readers => "readers",
            Self::Clients => "clients",
            Self::Answers => "answers",
            Self::Fleet => "fleet",
            Self::Sinks => "sinks",
            Self::Resolve => "resolve",
        }
    }

    /// Threads: more than one where jobs of many clients should not wait for each other.
    fn threads(self) -> usize {
        match self {
            Self::Readers | Self::Clients | Self::Kill | Self::Sinks | Self::Resolve => 2,
            _ => 1,
        }
    }
}

/// Jobs that wait for a thread of one lane; a further one is refused. More than the agent ever has under way in
/// one lane, unless a disk hangs. The bound is counted: a channel with this bound takes the memory of a full one.
const QUEUE: usize = 1024;

/// Room for a thread's stack in bytes; only what is used of it is taken.
const STACK_BYTES: usize = 1 << 20;

/// Threads of the runtime's own pool.
pub const RUNTIME_POOL: usize = 2;

/// How long a thread of the runtime's pool lives without work: for ever. tokio adds it to the present time, so it is
/// no larger than that can take.
pub const RUNTIME_POOL_KEEP_ALIVE: Duration = Duration::from_secs(1 << 30);

/// A thread cannot be made.
#[derive(Debug, thiserror::Error)]
#[error("cannot start the {needed} worker threads that the agent needs; only {made} could be started")]
pub struct ThreadsError {
    /// How many it takes.
    needed: usize,
    /// How many there are.
    made: usize,
    #[source]
    source: io::Error,
}

/// Why a job was not done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotDone {
    /// More jobs of its kind wait than may.
    #[error("too many jobs of this kind are queued, possibly because a disk does not respond")]
    QueueFull,
    /// The job panicked, and a panic ends the agent.
    #[error("the job was aborted")]
    CutOff,
}

type Work = Box<dyn FnOnce() + Send>;

struct Lanes {
    queues: Vec<Queue>,
}

/// The jobs of one lane.
struct Queue {
    jobs: Sender<Work>,
    waiting: Arc<AtomicUsize>,
}

impl Queue {
    fn add(&self, job: Work) -> Result<(), NotDone> {
        if self.waiting.fetch_add(1, Ordering::SeqCst) >= QUEUE {
            self.waiting.fetch_sub(1, Ordering::SeqCst);
            return Err(NotDone::QueueFull);
        }
        self.jobs.send(job).map_err(|_| NotDone::CutOff)
    }
}

static LANES: OnceLock<Lanes> = OnceLock::new();

/// Makes all threads. Called once, before the first job.
///
/// # Errors
/// When the system does not give as many.
pub fn start() -> Result<(), ThreadsError> {
    if LANES.get().is_none() {
        let lanes = make_lanes()?;
        LANES.set(lanes).ok();
    }
    Ok(())
}

fn make_lanes() -> Result<Lanes, ThreadsError> {
    let needed = Lane::ALL.iter().map(|lane| lane.threads()).sum::<usize>() + RUNTIME_POOL;
    let mut made = 0;
    let failed = |made| move |source| ThreadsError { needed, made, source };
    let mut queues = Vec::with_capacity(Lane::ALL.len());
    for lane in Lane::ALL {
        let (sender, jobs) = crossbeam_channel::unbounded::<Work>();
        let queue = Queue { jobs: sender, waiting: Arc::default() };
        for _ in 0..lane.threads() {
            let (jobs, waiting) = (jobs.clone(), Arc::clone(&queue.waiting));
            spawn(lane.name(), move || work(&jobs, &waiting)).map_err(failed(made))?;
            made += 1;
        }
        queues.push(queue);
    }
    // The runtime panics where we can say what is wrong: try whether its threads can be made before it does.
    let (hold, held) = crossbeam_channel::bounded::<()>(0);
    for _ in 0..RUNTIME_POOL {
        let held = held.clone();
        spawn("probe", move || {
            held.recv().ok();
        })
        .map_err(failed(made))?;
        made += 1;
    }
    drop(hold);
    Ok(Lanes { queues })
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> io::Result<()> {
    std::thread::Builder::new().name(name.to_owned()).stack_size(STACK_BYTES).spawn(work).map(drop)
}

fn work(jobs: &Receiver<Work>, waiting: &AtomicUsize) {
    while let Ok(job) = jobs.recv() {
        waiting.fetch_sub(1, Ordering::SeqCst);
        job();
    }
}

/// Has the runtime that this is called on make all threads of its blocking pool and keep them.
#[expect(clippy::disallowed_methods, reason = "fills the pool that libraries use")]
pub async fn fill_runtime_pool() {
    let (hold, held) = crossbeam_channel::bounded::<()>(0);
    let (here, mut arrived) = tokio::sync::mpsc::channel(RUNTIME_POOL);
    for _ in 0..RUNTIME_POOL {
        let (held, here) = (held.clone(), here.clone());
        tokio::task::spawn_blocking(move || {
            here.try_send(()).ok();
            held.recv().ok();
        });
    }
    // Each job holds its thread until all have one.
    for _ in 0..RUNTIME_POOL {
        arrived.recv().await;
    }
    drop(hold);
}

/// Work under way on a thread of its lane; it is done whether or not this is waited for.
#[derive(Debug)]
pub struct Job<T>(Waiting<T>);

#[derive(Debug)]
enum Waiting<T> {
    Answer(oneshot::Receiver<T>),
    Refused(NotDone),
    /// In tests with virtual time, which must stand still while a thread works.
    #[cfg(test)]
    Pool(tokio::task::JoinHandle<T>),
}

impl<T> Future for Job<T> {
    type Output = Result<T, NotDone>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.0 {
            Waiting::Answer(answer) => Pin::new(answer).poll(context).map_err(|_| NotDone::CutOff),
            Waiting::Refused(why) => Poll::Ready(Err(*why)),
            #[cfg(test)]
            Waiting::Pool(pool) => Pin::new(pool).poll(context).map_err(|_| NotDone::CutOff),
        }
    }
}

/// Hands blocking work to its lane. Never waits.
#[cfg(not(test))]
pub fn run<T: Send + 'static>(lane: Lane, work: impl FnOnce() -> T + Send + 'static) -> Job<T> {
    on_lane(lane, work)
}

/// Hands blocking work to the runtime's pool, which keeps virtual time from passing meanwhile.
#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "only in tests")]
pub fn run<T: Send + 'static>(_: Lane, work: impl FnOnce() -> T + Send + 'static) -> Job<T> {
    let Some(turns) = here::turns() else { return Job(Waiting::Pool(tokio::task::spawn_blocking(work))) };
    Job(Waiting::Pool(tokio::task::spawn_local(async move {
        for _ in 0..turns {
            tokio::task::yield_now().await;
        }
        work()
    })))
}

/// For tests that record the changes of files, which is done for one thread: work is done on the thread that asks, and
/// after so many turns of others as a seed says.
#[cfg(test)]
pub(crate) mod here {
    use std::cell::Cell;

    thread_local! {
        static SEED: Cell<Option<u64>> = const { Cell::new(None) };
    }

    pub(crate) fn set(seed: Option<u64>) {
        SEED.set(seed);
    }

    pub(super) fn turns() -> Option<u64> {
        // Knuth's MMIX generator.
        let seed =
            SEED.get()?.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        SEED.set(Some(seed));
        Some((seed >> 33) % 6)
    }
}

fn on_lane<T: Send + 'static>(lane: Lane, work: impl FnOnce() -> T + Send + 'static) -> Job<T> {
    // The agent has called `start`; programs that only borrow an actor make the threads when they need them.
    let lanes =
        LANES.get_or_init(|| make_lanes().expect("a program that did not ask before has threads to spare"));
    let (sender, answer) = oneshot::channel();
    let job: Work = Box::new(move || drop(sender.send(work())));
    let queue = Lane::ALL.iter().position(|of| *of == lane).and_then(|index| lanes.queues.get(index));
    match queue.map_or(Err(NotDone::CutOff), |queue| queue.add(job)) {
        Ok(()) => Job(Waiting::Answer(answer)),
        Err(why) => Job(Waiting::Refused(why)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[actix_rt::test]
    async fn a_job_that_hangs_holds_up_only_its_own_kind_and_its_queue_is_bounded() {
        let (hold, held) = crossbeam_channel::bounded::<()>(0);
        let hung = on_lane(Lane::Config, move || {
            held.recv().ok();
        });
        let behind: Vec<_> = (0..QUEUE + 1).map(|number| on_lane(Lane::Config, move || number)).collect();

        let other = on_lane(Lane::Names, || std::thread::current().name().map(str::to_owned)).await;

        assert_eq!(other, Ok(Some("names".to_owned())));
        drop(hold);
        assert_eq!(hung.await, Ok(()));
        let mut refused = 0;
        for (number, job) in behind.into_iter().enumerate() {
            match job.await {
                Ok(done) => assert_eq!(done, number),
                Err(why) => {
                    assert_eq!(why, NotDone::QueueFull);
                    refused += 1;
                }
            }
        }
        assert!((1..=2).contains(&refused), "{refused}");
    }

    #[actix_rt::test]
    async fn the_runtimes_pool_can_be_filled_more_than_once() {
        fill_runtime_pool().await;
        fill_runtime_pool().await;
    }

    #[test]
    fn every_lane_has_a_name_of_its_own_that_the_kernel_takes() {
        let mut names: Vec<_> = Lane::ALL.iter().map(|lane| lane.name()).collect();
        names.sort_unstable();
        names.dedup();

        assert_eq!(names.len(), Lane::ALL.len());
        assert!(names.iter().all(|name| name.len() <= 15));
    }
}
