//! How many log lines and alerts of one module the agent carries into its log file and journal.
//!
//! The peer is a bare loop in this process: it reads the same lines from the same generator over a pipe, parses
//! each as JSON and writes its text to a file on the same disk. It has no limits, no journal and no `fdatasync`,
//! takes no heartbeat and escapes nothing, so it is what the machine gives. It is measured with untyped JSON
//! (`serde_json::Value`, what the goal is judged against) and with a typed, borrowing structure.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;
use tempfile::TempDir;
use tokio::net::UnixListener;
use tokio::time::{Instant, sleep, timeout};
use vigie_protocol::control::AgentStatus;

use crate::Size;
use crate::agent_process::{AgentProcess, LOOK_AGAIN};
use crate::generator::{self, FIRST_NUMBER, Kind, SOCKET_VARIABLE};
use vigie_benchmark::proc;
use vigie_benchmark::{BenchResult, Goal, Measure, Report, median, rate};

/// Longest that one run may take.
const RUN_LIMIT: Duration = Duration::from_secs(120);

/// Longest wait for a generator to connect.
const CONNECT_LIMIT: Duration = Duration::from_secs(30);

/// How much of the log's end is looked at for the last line.
const TAIL_BYTES: u64 = 4096;

/// The least share of the bare loop's rate, and of alerts that are acknowledged.
const GOAL: Goal = Goal::AtLeast(0.5);
const NUMBERED_GOAL: Goal = Goal::AtLeast(0.65);

/// The most that an acknowledged alert may cost the agent, in nanoseconds of processor time.
const CPU_GOAL: Goal = Goal::AtMost(1300.0);

pub(crate) async fn measure(size: Size, report: &mut Report) -> BenchResult<()> {
    let sockets = tempfile::Builder::new().prefix("vigie-bench-").tempdir()?;
    let mut agent = AgentSide::start(&sockets).await?;
    let mut peer = PeerSide::start(&sockets, agent.agent.work_dir()).await?;
    let kinds = [
        (Kind::Log, "log lines"),
        (Kind::Alert, "alerts"),
        (Kind::NumberedAlert, "alerts with acknowledgement"),
    ];
    for (kind, what) in kinds {
        let mut rates: [Vec<f64>; 3] = Default::default();
        let mut cpu = Vec::new();
        // The first run of each is not counted: it fills caches, pools and the page cache.
        for run in 0..=size.runs {
            let lines = if run == 0 { size.lines / 10 } else { size.lines };
            let carried = agent.run(kind, lines).await?;
            let untyped = peer.run(kind, lines, text_of_value)?;
            let typed = peer.run(kind, lines, text_of_typed)?;
            if run == 0 {
                continue;
            }
            for (rates, time) in rates.iter_mut().zip([carried.time, untyped, typed]) {
                rates.push(rate(lines, time));
            }
            cpu.push(carried.agent_cpu.as_nanos() as f64 / lines as f64);
        }
        let [carried, untyped, typed] = rates.each_mut().map(|rates| median(rates));
        let is_numbered = kind == Kind::NumberedAlert;
        report.add(
            Measure::new("carry", format!("{what}, peer with Value"), carried, "1/s")
                .against(untyped)
                .goal(if is_numbered { NUMBERED_GOAL } else { GOAL }),
        );
        report.add(Measure::new("carry", format!("{what}, peer typed"), carried, "1/s").against(typed));
        let cost = Measure::new("carry", format!("{what}, CPU of the agent"), median(&mut cpu), "ns each");
        report.add(if is_numbered { cost.goal(CPU_GOAL) } else { cost });
    }
    agent.agent.stop().await
}

/// One run through the agent.
struct Carried {
    time: Duration,
    agent_cpu: Duration,
}

/// An agent with a generator as its module.
struct AgentSide {
    agent: AgentProcess,
    orders: UnixStream,
    log: PathBuf,
    next: u64,
}

impl AgentSide {
    async fn start(sockets: &TempDir) -> BenchResult<Self> {
        let socket = sockets.path().join("agent-side");
        let listener = UnixListener::bind(&socket)?;
        let program = std::env::current_exe()?;
        let mut agent = AgentProcess::start(
            &format!(
                "[[module]]\nname = \"fswatch\"\nenabled = false\n\
                 [[module]]\nname = \"bench\"\nkind = \"persistent\"\ncommand = [{program:?}, \"{}\"]\n\
                 [module.env]\n{SOCKET_VARIABLE} = {socket:?}\n",
                generator::ARGUMENT,
            ),
            &[],
        )?;
        agent.ready().await?;
        let orders = accept(&listener).await?;
        Ok(Self { log: agent.log_file(), agent, orders, next: FIRST_NUMBER })
    }

    async fn run(&mut self, kind: Kind, lines: u64) -> BenchResult<Carried> {
        // Other runs' lines would only be counted again.
        File::options().write(true).open(&self.log)?.set_len(0)?;
        let before = self.agent.status().await?;
        let cpu_before = proc::cpu_time(self.agent.pid())?;
        self.next += lines;
        let last = (self.next - 1).to_string();

        let start = Instant::now();
        writeln!(self.orders, "{} {lines}", kind.word())?;
        while !ends_with(&self.log, &last)? {
            if start.elapsed() > RUN_LIMIT {
                return Err(
                    format!("{lines} {} lines are not in the log after {RUN_LIMIT:?}", kind.word()).into()
                );
            }
            sleep(LOOK_AGAIN).await;
        }
        let time = start.elapsed();

        let agent_cpu = proc::cpu_time(self.agent.pid())?.saturating_sub(cpu_before);
        let logged = count_lines(
            &self.log,
            &format!(" {}", if kind == Kind::Log { "bench: " } else { "bench alert: " }),
        )?;
        // The agent's own alerts, such as the one that old alerts made room, are beside the point.
        let recorded = recorded_of_module(&self.agent.status().await?) - recorded_of_module(&before);
        let expected = if kind == Kind::Log { 0 } else { lines };
        if logged != lines || recorded != expected {
            return Err(format!(
                "of {lines} {} lines {logged} are in the log and {recorded} in the journal",
                kind.word()
            )
            .into());
        }
        Ok(Carried { time, agent_cpu })
    }
}

fn recorded_of_module(status: &AgentStatus) -> u64 {
    status.journal.by_module.get("bench").into_iter().flat_map(BTreeMap::values).sum()
}

/// Whether the last line of the log names this number.
fn ends_with(log: &Path, number: &str) -> BenchResult<bool> {
    let mut file = File::open(log)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES)))?;
    let mut tail = Vec::new();
    file.read_to_end(&mut tail)?;
    Ok(tail.windows(number.len()).any(|window| window == number.as_bytes()))
}

fn count_lines(log: &Path, mark: &str) -> BenchResult<u64> {
    let mut reader = BufReader::with_capacity(1 << 20, File::open(log)?);
    let (mut line, mut count) = (String::new(), 0);
    while reader.read_line(&mut line)? > 0 {
        count += u64::from(line.contains(mark));
        line.clear();
    }
    Ok(count)
}

/// A generator whose lines the bare loop reads.
struct PeerSide {
    child: Child,
    stdout: BufReader<ChildStdout>,
    orders: UnixStream,
    file: PathBuf,
}

impl PeerSide {
    async fn start(sockets: &TempDir, work_dir: &Path) -> BenchResult<Self> {
        let socket = sockets.path().join("peer-side");
        let listener = UnixListener::bind(&socket)?;
        let mut child = Command::new(std::env::current_exe()?)
            .arg(generator::ARGUMENT)
            .env(SOCKET_VARIABLE, &socket)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let stdout = child.stdout.take().ok_or("the generator has no stdout")?;
        let orders = accept(&listener).await?;
        let file = work_dir.join("bare-loop.log");
        Ok(Self { child, stdout: BufReader::with_capacity(64 * 1024, stdout), orders, file })
    }

    fn run(
        &mut self,
        kind: Kind,
        lines: u64,
        write_text: impl Fn(&str, &mut BufWriter<File>) -> BenchResult<()>,
    ) -> BenchResult<Duration> {
        fs::remove_file(&self.file).ok();
        let mut file = BufWriter::with_capacity(64 * 1024, File::create(&self.file)?);
        let mut line = String::new();

        let start = Instant::now();
        writeln!(self.orders, "{} {lines}", kind.word())?;
        for _ in 0..lines {
            line.clear();
            if self.stdout.read_line(&mut line)? == 0 {
                return Err("the generator ended".into());
            }
            write_text(&line, &mut file)?;
        }
        file.flush()?;
        Ok(start.elapsed())
    }
}

impl Drop for PeerSide {
    fn drop(&mut self) {
        // Both fail only for a process that has been waited for.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn text_of_value(line: &str, file: &mut BufWriter<File>) -> BenchResult<()> {
    let message: Value = serde_json::from_str(line)?;
    let text = message["parameters"]["message"].as_str().ok_or("a line without a message")?;
    write_line(file, text)
}

fn text_of_typed(line: &str, file: &mut BufWriter<File>) -> BenchResult<()> {
    #[derive(Deserialize)]
    struct Line<'a> {
        #[serde(borrow)]
        parameters: Parameters<'a>,
    }
    #[derive(Deserialize)]
    struct Parameters<'a> {
        #[serde(borrow)]
        message: Cow<'a, str>,
    }
    let line: Line<'_> = serde_json::from_str(line)?;
    write_line(file, &line.parameters.message)
}

fn write_line(file: &mut BufWriter<File>, text: &str) -> BenchResult<()> {
    file.write_all(text.as_bytes())?;
    file.write_all(b"\n")?;
    Ok(())
}

/// Takes the connection of a generator, for blocking use.
async fn accept(listener: &UnixListener) -> BenchResult<UnixStream> {
    let (stream, _) = timeout(CONNECT_LIMIT, listener.accept()).await??;
    let stream = stream.into_std()?;
    stream.set_nonblocking(false)?;
    Ok(stream)
}
