//! What the way through the agent adds to a query, and whether a thousand at once are all answered.

use std::path::{Path, PathBuf};

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::time::Instant;
use vigie_protocol::socket::SocketSpec;

use crate::Size;
use crate::agent_process::{AgentProcess, ask, ask_on};
use vigie_benchmark::{BenchResult, Goal, Measure, Report, median};

const MODULE: &str = "examplepersist";

/// Through the agent.
const REQUEST: &[u8] = br#"{"query":{"module":"examplepersist","parameters":{"string":"hello"}}}"#;

/// Straight to the module.
const DIRECT: &[u8] = b"{\"class\":\"parameters\",\"parameters\":{\"string\":\"hello\"}}\n";

pub(crate) async fn measure(size: Size, report: &mut Report) -> BenchResult<()> {
    let mut agent = AgentProcess::start(
        "[[module]]\nname = \"fswatch\"\nenabled = false\n[[module]]\nname = \"examplepersist\"\nenabled = true\n",
        &[],
    )?;
    let status = agent.ready().await?;
    let spec = status.modules.iter().find(|m| m.name.as_str() == MODULE).and_then(|m| m.socket.clone());
    let SocketSpec::Unix(module_socket) = spec.ok_or("the module has no socket")?.parse()? else {
        return Err("the module does not listen on a unix socket".into());
    };

    let mut through = Vec::new();
    let mut kept = Vec::new();
    let mut direct = Vec::new();
    for run in 0..=size.runs {
        let queries = if run == 0 { size.queries / 10 } else { size.queries };
        let times = [
            each(queries, || ask_agent(agent.socket())).await?,
            on_one_connection(queries, &agent.socket()).await?,
            each(queries, || ask_module(module_socket.clone())).await?,
        ];
        // The first run warms up.
        if run > 0 {
            for (all, time) in [&mut through, &mut kept, &mut direct].into_iter().zip(times) {
                all.push(time);
            }
        }
    }
    let direct = median(&mut direct);
    report.add(
        Measure::new("queries", "round trip through the agent", median(&mut through), "us")
            .against(direct)
            .goal(Goal::AtMost(2.3)),
    );
    report.add(
        Measure::new("queries", "the same on one connection to the agent", median(&mut kept), "us")
            .against(direct)
            .goal(Goal::AtMost(1.6)),
    );

    let start = Instant::now();
    let failures = at_once(size.concurrent_queries, &agent.socket()).await;
    let seconds = start.elapsed().as_secs_f64();
    let what = format!("failures of {} at once", size.concurrent_queries);
    report.add(Measure::new("queries", what, failures as f64, "").goal(Goal::AtMost(0.0)));
    let what = format!("{} at once, all answered after", size.concurrent_queries);
    report.add(Measure::new("queries", what, seconds * 1000.0, "ms"));
    agent.stop().await
}

/// Median time of one query in microseconds.
async fn each<F, A>(queries: usize, mut ask: F) -> BenchResult<f64>
where
    F: FnMut() -> A,
    A: Future<Output = BenchResult<()>>,
{
    let mut times = Vec::with_capacity(queries);
    for _ in 0..queries {
        let start = Instant::now();
        ask().await?;
        times.push(micros(start));
    }
    Ok(median(&mut times))
}

async fn on_one_connection(queries: usize, socket: &Path) -> BenchResult<f64> {
    let mut stream = BufReader::new(UnixStream::connect(socket).await?);
    let mut times = Vec::with_capacity(queries);
    for _ in 0..queries {
        let start = Instant::now();
        check(&ask_on(&mut stream, REQUEST).await?["result"])?;
        times.push(micros(start));
    }
    Ok(median(&mut times))
}

/// Queries that are not answered well when so many come at the same time, each on a connection of its own.
async fn at_once(queries: usize, socket: &Path) -> usize {
    let local = tokio::task::LocalSet::new();
    local
        .run_until(async {
            let asking: Vec<_> =
                (0..queries).map(|_| tokio::task::spawn_local(ask_agent(socket.to_owned()))).collect();
            let mut failures = 0;
            for asked in asking {
                if !matches!(asked.await, Ok(Ok(()))) {
                    failures += 1;
                }
            }
            failures
        })
        .await
}

async fn ask_agent(socket: PathBuf) -> BenchResult<()> {
    check(&ask(&socket, REQUEST).await?["result"])
}

async fn ask_module(socket: PathBuf) -> BenchResult<()> {
    let mut stream = UnixStream::connect(socket).await?;
    stream.write_all(DIRECT).await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    check(&serde_json::from_slice(&answer)?)
}

fn check(result: &Value) -> BenchResult<()> {
    if result["success"] == true && result["elements"]["string"] == "hello" {
        return Ok(());
    }
    Err(format!("wrong answer: {result}").into())
}

fn micros(start: Instant) -> f64 {
    start.elapsed().as_secs_f64() * 1e6
}
