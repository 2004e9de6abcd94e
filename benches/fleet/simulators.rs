//! The processes of simulated agents, as the benchmark holds them.

use std::process::Stdio;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::{Instant, sleep, timeout};
use vigie_fleet::agent_key::AgentPublicKey;

use crate::simulator::{self, Counts, Start};
use crate::{LOOK_AGAIN, PATIENCE};
use vigie_benchmark::BenchResult;

/// Processes, one for each processor of the smallest machine that a fleet is measured on.
const PROCESSES: u32 = 2;

/// All simulated agents. Dropped, their processes end.
pub(crate) struct Simulators {
    processes: Vec<Process>,
    /// Connections that they have together when all are there.
    connections: u64,
    audited: bool,
    /// Public keys in the order of the agents' numbers.
    pub(crate) keys: Vec<AgentPublicKey>,
}

struct Process {
    /// Held to be killed with this.
    _child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Process {
    fn spawn() -> BenchResult<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .arg(simulator::ARGUMENT)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            return Err("the simulator has no pipes".into());
        };
        Ok(Self { _child: child, input, output: BufReader::new(output) })
    }

    async fn tell(&mut self, command: &simulator::Command) -> BenchResult<()> {
        let mut line = serde_json::to_vec(command)?;
        line.push(b'\n');
        Ok(self.input.write_all(&line).await?)
    }

    async fn hear(&mut self) -> BenchResult<Counts> {
        let mut line = String::new();
        timeout(PATIENCE, self.output.read_line(&mut line)).await??;
        if line.is_empty() {
            return Err("a simulator ended; it says above why".into());
        }
        Ok(serde_json::from_str(&line)?)
    }
}

impl Simulators {
    /// Starts `start.agents` agents in several processes and returns when all are connected.
    pub(crate) async fn start(start: &Start) -> BenchResult<Self> {
        let mut processes = Vec::new();
        let mut first = start.first;
        for process in 0..PROCESSES {
            let share = |total: u32| total / PROCESSES + u32::from(process < total % PROCESSES);
            let part = Start {
                first,
                agents: share(start.agents),
                shared_connections: start.shared_connections.map(share),
                ..start.clone()
            };
            first += part.agents;
            let mut started = Process::spawn()?;
            started.tell(&simulator::Command::Start(Box::new(part))).await?;
            processes.push(started);
        }
        let mut keys = Vec::new();
        for process in &mut processes {
            for key in process.hear().await?.keys {
                keys.push(key.parse()?);
            }
        }
        let connections = u64::from(start.shared_connections.unwrap_or(start.agents));
        let mut simulators = Self { processes, connections, audited: false, keys };
        simulators.connected().await?;
        Ok(simulators)
    }

    async fn connected(&mut self) -> BenchResult<()> {
        let connections = self.connections;
        self.until("all agents are connected", |counts| counts.ready == connections).await.map(drop)
    }

    async fn all(&mut self, command: &simulator::Command) -> BenchResult<Counts> {
        for process in &mut self.processes {
            process.tell(command).await?;
        }
        let mut sum = Counts::default();
        for process in &mut self.processes {
            let counts = process.hear().await?;
            sum.ready += counts.ready;
            sum.raw += counts.raw;
            sum.ran += counts.ran;
            sum.acknowledged += counts.acknowledged;
            sum.resident_kib += counts.resident_kib;
            sum.problems.extend(counts.problems);
            for (code, count) in counts.refused {
                *sum.refused.entry(code).or_default() += count;
            }
        }
        Ok(sum)
    }

    /// What happened until now.
    pub(crate) async fn counts(&mut self) -> BenchResult<Counts> {
        self.all(&simulator::Command::Count).await
    }

    /// Waits until something holds of the counts.
    pub(crate) async fn until(&mut self, what: &str, holds: impl Fn(&Counts) -> bool) -> BenchResult<Counts> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let counts = self.counts().await?;
            if holds(&counts) {
                return Ok(counts);
            }
            if Instant::now() > deadline {
                return Err(format!("not after {PATIENCE:?}: {what}; {counts:?}").into());
            }
            sleep(LOOK_AGAIN).await;
        }
    }

    /// Ends and starts all agents; returns when they are connected again.
    pub(crate) async fn restart(&mut self) -> BenchResult<()> {
        self.all(&simulator::Command::Restart).await?;
        self.connected().await
    }

    /// Whether all agents tell the auditors from now on what they run.
    pub(crate) async fn audit(&mut self, audited: bool) -> BenchResult<()> {
        self.audited = audited;
        self.all(&simulator::Command::Audit(audited)).await.map(drop)
    }

    /// See [`Simulators::audit`].
    pub(crate) fn audited(&self) -> bool {
        self.audited
    }

    /// All agents store their facts; they are on their way when this returns.
    pub(crate) async fn store_facts(&mut self) -> BenchResult<()> {
        self.all(&simulator::Command::StoreFacts).await.map(drop)
    }
}
