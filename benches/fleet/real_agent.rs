//! What belonging to a fleet adds to a real agent that has nothing to do: memory, threads, messages.
//!
//! Two agents run side by side, with and without a `[fleet]` section, and are otherwise alike.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};
use vigie_fleet::agent_key::AgentKey;
use vigie_fleet::broker::jwt::Role;
use vigie_fleet::broker::stored;
use vigie_fleet::subjects::POLICY_SUBJECT;

use crate::agent_process::AgentProcess;
use crate::set_up::{Fleet, ORG, People, now};
use crate::{LOOK_AGAIN, PATIENCE, Size};
use vigie_benchmark::{BenchResult, Goal, Measure, Report, median, proc};

/// The goals.
const MORE_MIB: f64 = 3.0;
const MORE_THREADS: f64 = 0.0;
const MESSAGES_A_MINUTE: f64 = 1.0;

/// The agent's name.
const NAME: &str = "bench-1";

/// What an agent holds at rest.
struct Rest {
    mib: f64,
    threads: f64,
}

/// Row 10.
pub(crate) async fn measure(size: Size, report: &mut Report) -> BenchResult<()> {
    let fleet = Fleet::start(&People::new(), &[]).await?;
    let policy = serde_json::to_vec(fleet.policy())?;
    stored::store(&fleet.administrator.client, POLICY_SUBJECT, &policy).await?;
    fs::create_dir_all(fleet.directory())?;

    let (mut plain, mut member) = (Vec::new(), Vec::new());
    for round in 0..size.rounds {
        report.progress(&format!("  round {} of {}", round + 1, size.rounds));
        let without = AgentProcess::start("", &modules())?;
        let with = join(&fleet, round)?;
        let (without, with) = (at_rest(without, size, false).await?, at_rest(with, size, true).await?);
        plain.push(without);
        member.push(with);
    }
    let middle =
        |rests: &[Rest], what: fn(&Rest) -> f64| median(&mut rests.iter().map(what).collect::<Vec<_>>());
    let row = |what: &str, value, unit| Measure::new("10 real agent", what, value, unit);
    let (mib, member_mib) = (middle(&plain, |rest| rest.mib), middle(&member, |rest| rest.mib));
    let (threads, member_threads) =
        (middle(&plain, |rest| rest.threads), middle(&member, |rest| rest.threads));
    report.add(row("memory without a fleet", mib, "MiB"));
    report.add(row("memory with a fleet", member_mib, "MiB"));
    report.add(row("memory that the fleet adds", member_mib - mib, "MiB").goal(Goal::AtMost(MORE_MIB)));
    report.add(row("threads without a fleet", threads, "threads"));
    report.add(
        row("threads that the fleet adds", member_threads - threads, "threads")
            .goal(Goal::AtMost(MORE_THREADS)),
    );

    let agent = join(&fleet, size.rounds)?;
    let messages = messages(&fleet, agent, size.idle_minutes).await?;
    let count: u64 = messages.values().sum();
    let rate = count as f64 / f64::from(size.idle_minutes);
    report.add(row("messages a minute at rest", rate, "1/min").goal(Goal::AtMost(MESSAGES_A_MINUTE)));
    for (subject, count) in messages {
        report.add(row(&format!("of these on {subject}"), count as f64, "messages"));
    }
    Ok(())
}

/// A module has to run, or the agent is never ready.
fn modules() -> Vec<(&'static str, String)> {
    vec![("fswatch.cfg", "[paths]\npath = /etc/hostname\n".to_owned())]
}

/// Enrols an agent and starts it.
fn join(fleet: &Fleet, round: usize) -> BenchResult<AgentProcess> {
    let directory = fleet.directory().join(round.to_string());
    fs::create_dir_all(&directory)?;
    let (key_file, token_file) = (directory.join("agent.nk"), directory.join("agent.jwt"));
    let key = AgentKey::generate();
    key.store(&key_file)?;
    let token = fleet.broker.signer(Role::Agent).user(&NAME.parse()?, key.public_key(), now(), None);
    fs::write(&token_file, token)?;
    fs::set_permissions(&token_file, fs::Permissions::from_mode(0o600))?;
    let roots: Vec<String> = fleet.roots().keys.iter().map(ToString::to_string).collect();
    let section = format!(
        "[fleet]\norg = {ORG:?}\nagent = {NAME:?}\nurls = [{url:?}]\ncredentials = {token_file:?}\n\
         key_file = {key_file:?}\nroots = {roots:?}\nroot_threshold = {threshold}\n",
        url = fleet.broker.url(),
        threshold = fleet.roots().threshold,
    );
    AgentProcess::start(&section, &modules())
}

/// Waits until the agent is in the fleet and has its policy.
async fn joined(agent: &AgentProcess) -> BenchResult<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let fleet = agent.status().await?.fleet;
        if fleet.as_ref().is_some_and(|fleet| fleet.connected && fleet.policy_version.is_some()) {
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(format!("the agent does not join the fleet: {fleet:?}").into());
        }
        sleep(LOOK_AGAIN).await;
    }
}

async fn at_rest(mut agent: AgentProcess, size: Size, is_member: bool) -> BenchResult<Rest> {
    agent.ready().await?;
    if is_member {
        joined(&agent).await?;
    }
    // Threads that had something to do at the start go away after ten seconds.
    sleep(size.settle).await;
    let held = proc::held(agent.pid())?;
    agent.stop().await?;
    Ok(Rest { mib: held.resident_kib as f64 / 1024.0, threads: held.threads as f64 })
}

/// What the agent publishes in some minutes, by the beginning of the subject.
async fn messages(
    fleet: &Fleet,
    mut agent: AgentProcess,
    minutes: u32,
) -> BenchResult<BTreeMap<String, u64>> {
    agent.ready().await?;
    joined(&agent).await?;
    // What it says when it arrives is over.
    sleep(Duration::from_secs(5)).await;
    let mut everything = fleet.administrator.client.subscribe(">")?;
    fleet.administrator.client.flush(PATIENCE).await?;
    let mut messages = BTreeMap::new();
    let counting = async {
        while let Some(message) = everything.next().await {
            let beginning = message.subject.split('.').take(2).collect::<Vec<_>>().join(".");
            *messages.entry(beginning).or_default() += 1;
        }
    };
    let _time_is_up = timeout(Duration::from_secs(60) * minutes, counting).await;
    agent.stop().await?;
    Ok(messages)
}
