//! Ten thousand restarts of one module: how long one takes, and what the agent holds afterwards that it did not
//! hold before.
//!
//! The module registers, connects to the benchmark's socket, and ends as soon as it reads a byte there. So every
//! life is counted, and the benchmark can look at the agent while the module waits: nothing is starting or
//! ending then.

use std::io::Read;
use std::os::unix::net::UnixStream as BlockingStream;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::{UnixListener, UnixStream};
use tokio::time::{Instant, sleep, timeout};
use vigie_protocol::control::ModuleState;
use vigie_protocol::message::RUN_DIR_VARIABLE;

use crate::Size;
use crate::agent_process::{AgentProcess, LOOK_AGAIN};
use crate::generator::{SOCKET_VARIABLE, answer_heartbeats, register};
use vigie_benchmark::proc::{self, Held};
use vigie_benchmark::{BenchResult, Goal, Measure, Report};

/// Hidden argument that makes the benchmark the module.
pub(crate) const ARGUMENT: &str = "--be-restarted";

/// Longest wait for the next life.
const LIFE_LIMIT: Duration = Duration::from_secs(60);

/// Time after which the agent gives back what only its start needed, and a little more.
const START_IS_OVER: Duration = Duration::from_secs(12);

/// Most that the agent's memory may grow, in KiB.
const GROWTH_KIB: f64 = 1024.0;

/// The module's part.
pub(crate) fn module() -> BenchResult<()> {
    let _listener = register(&std::env::var(RUN_DIR_VARIABLE)?)?;
    let mut stream = BlockingStream::connect(std::env::var(SOCKET_VARIABLE)?)?;
    // A module that answers no heartbeat is not ready, and is killed.
    std::thread::spawn(|| answer_heartbeats().ok());
    // Also ends when the benchmark goes away.
    let _end = stream.read(&mut [0])?;
    Ok(())
}

pub(crate) async fn measure(size: Size, report: &mut Report) -> BenchResult<()> {
    let sockets = tempfile::Builder::new().prefix("vigie-bench-").tempdir()?;
    let socket = sockets.path().join("lives");
    let listener = UnixListener::bind(&socket)?;
    let program = std::env::current_exe()?;
    let mut agent = AgentProcess::start(
        &format!(
            "[restart]\nbackoff_initial = \"0s\"\nbreaker_deaths = 0\n\
             [[module]]\nname = \"fswatch\"\nenabled = false\n\
             [[module]]\nname = \"bench\"\nkind = \"persistent\"\ncommand = [{program:?}, \"{ARGUMENT}\"]\n\
             [module.env]\n{SOCKET_VARIABLE} = {socket:?}\n"
        ),
        &[],
    )?;
    let mut living = next_life(&listener).await?;
    agent.ready().await?;

    // Then it gives back the pages of its program; what a restart needs of them comes back with the warm-up.
    sleep((agent.started() + START_IS_OVER).saturating_duration_since(Instant::now())).await;
    living = live_through(size.warm_up_restarts, living, &listener).await?;
    let before = look(&agent).await?;
    let start = Instant::now();
    living = live_through(size.restarts, living, &listener).await?;
    let time = start.elapsed();
    let after = look(&agent).await?;
    drop(living);

    let restarts = size.restarts;
    report.add(Measure::new(
        "restarts",
        format!("one of {restarts} restarts, death to registered"),
        time.as_secs_f64() * 1000.0 / restarts as f64,
        "ms",
    ));
    let none = Goal::AtMost(0.0);
    let grown = |now: f64, then: f64| now - then;
    for (what, now, then, unit, goal) in [
        ("descriptors more", after.held.descriptors as f64, before.held.descriptors as f64, "", none),
        ("threads more", after.held.threads as f64, before.held.threads as f64, "", none),
        ("zombies", after.held.zombies as f64, 0.0, "", none),
        ("cgroups more", after.cgroups as f64, before.cgroups as f64, "", none),
        (
            "resident memory more",
            after.held.resident_kib as f64,
            before.held.resident_kib as f64,
            "KiB",
            Goal::AtMost(GROWTH_KIB),
        ),
        (
            "memory without pages of files more",
            after.held.anonymous_kib as f64,
            before.held.anonymous_kib as f64,
            "KiB",
            Goal::AtMost(GROWTH_KIB),
        ),
    ] {
        let what = format!("{what} after {restarts} restarts");
        report.add(Measure::new("restarts", what, grown(now, then), unit).goal(goal));
    }
    agent.stop().await
}

/// Lets the module die and be restarted so many times; gives the connection of the last life.
async fn live_through(
    restarts: u64,
    mut living: UnixStream,
    listener: &UnixListener,
) -> BenchResult<UnixStream> {
    for _ in 0..restarts {
        living.write_all(b"x").await?;
        living = next_life(listener).await?;
    }
    Ok(living)
}

async fn next_life(listener: &UnixListener) -> BenchResult<UnixStream> {
    match timeout(LIFE_LIMIT, listener.accept()).await {
        Ok(accepted) => Ok(accepted?.0),
        Err(_) => Err(format!("the module was not started again within {LIFE_LIMIT:?}").into()),
    }
}

/// What the agent holds.
struct Seen {
    held: Held,
    cgroups: usize,
}

/// Looks at the agent when the module runs and the agent holds the same at two looks in a row: idle threads of
/// its pool end after some seconds.
async fn look(agent: &AgentProcess) -> BenchResult<Seen> {
    let deadline = Instant::now() + LIFE_LIMIT;
    let running = async || -> BenchResult<bool> {
        Ok(agent.status().await?.modules.iter().any(|module| module.state == ModuleState::Running))
    };
    while !running().await? {
        if Instant::now() > deadline {
            return Err("the module does not run".into());
        }
        sleep(LOOK_AGAIN).await;
    }
    let held = settled(agent.pid(), deadline).await?;
    Ok(Seen { held, cgroups: proc::cgroups_of(agent.pid())? })
}

/// Idle threads of tokio's blocking pool end after ten seconds; only then their number means something.
const SETTLE: Duration = Duration::from_secs(11);

async fn settled(pid: u32, deadline: Instant) -> BenchResult<Held> {
    loop {
        sleep(SETTLE).await;
        let held = proc::held(pid)?;
        if held.zombies == 0 || Instant::now() > deadline {
            return Ok(held);
        }
    }
}
