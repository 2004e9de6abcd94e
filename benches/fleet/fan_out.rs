//! One question to every agent: what the broker takes for the messages alone, and what the signed action takes from
//! the signature of whoever asks to the last answer.
//!
//! Both go to the same agents over the same connections with the same rights, in turns. A raw request has 2 KiB, and
//! each agent answers at once with 256 bytes that nobody stores. An action is stored and sent to each agent; each
//! decides by the code of real agents (signature, policy, target, what it has run), seals its answer, and stores it
//! in the stream of answers; the client takes it as it comes. Real
//! agents store a sealed record for the auditors as well; what that takes at the same moment is shown beside it.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::{Instant, timeout};
use vigie_fleet::agent_key::{AgentPublicKey, open};
use vigie_fleet::answer::{Purpose, Sealed};
use vigie_fleet::broker::client::Subscription;
use vigie_fleet::broker::stored;
use vigie_fleet::collect::{Collector, SealProblem, Taken};
use vigie_fleet::subjects::answers_to;
use vigie_protocol::names::{ActionId, AgentId};

use crate::set_up::{ALICE, Fleet, People, action, envelope};
use crate::simulator::{Counts, RAW, RAW_REQUEST, RAW_SLOT, name};
use crate::simulators::Simulators;
use crate::{PATIENCE, Size};
use vigie_benchmark::{BenchResult, Goal, Measure, Report, median};

/// Bytes of a raw request.
const REQUEST_BYTES: usize = 2048;

/// Times of the raw fan-out that the collected answers may take, and those that are verified as well.
const COLLECTED_TIMES: f64 = 4.0;
const VERIFIED_TIMES: f64 = 5.0;

/// Seconds that all raw answers of multiplexed agents may take.
const MULTIPLEXED_SECONDS: f64 = 1.0;

/// Connections that multiplexed agents share.
pub(crate) const SHARED_CONNECTIONS: u32 = 100;

/// Enrolled keys as the client has them.
pub(crate) type Keys = HashMap<AgentId, AgentPublicKey>;

pub(crate) fn enrolled(simulators: &Simulators) -> Keys {
    (0..).map(name).zip(simulators.keys.iter().cloned()).collect()
}

/// Row 1.
pub(crate) async fn measure(size: Size, report: &mut Report) -> BenchResult<()> {
    let fleet = Fleet::start(&People::new(), &[]).await?;
    let idle_broker = fleet.broker_mib()?;
    let began = Instant::now();
    let mut simulators = Simulators::start(&fleet.simulated(size.agents, None)).await?;
    let connecting = began.elapsed();
    let agents = u64::from(size.agents);
    let connected_broker = fleet.broker_mib()?;
    let keys = enrolled(&simulators);
    let resident_kib = simulators.counts().await?.resident_kib;
    let names: Vec<AgentId> = (0..size.agents).map(name).collect();
    let mut raw_answers = fleet.investigator.client.subscribe(&format!("vigie.res.{RAW_SLOT}.*"))?;
    fleet.investigator.client.flush(PATIENCE).await?;

    let (mut raw, mut collected, mut verified) = (Vec::new(), Vec::new(), Vec::new());
    let (mut audited_collected, mut audited_verified) = (Vec::new(), Vec::new());
    let mut fewest = [agents; 3];
    // The first round fills caches and pools on all sides and is not counted.
    for round in 0..=size.rounds {
        report.progress(&format!("  round {round} of {}", size.rounds));
        let (count, time) = ask_raw(&fleet, &mut raw_answers, &names).await?;
        simulators.audit(false).await?;
        let (count_collected, time_collected) = ask(&fleet, &mut simulators, &names, None).await?;
        let (count_verified, time_verified) = ask(&fleet, &mut simulators, &names, Some(&keys)).await?;
        simulators.audit(true).await?;
        let (count_audited_collected, time_audited_collected) =
            ask(&fleet, &mut simulators, &names, None).await?;
        let (count_audited_verified, time_audited_verified) =
            ask(&fleet, &mut simulators, &names, Some(&keys)).await?;
        let counts =
            [count, count_collected.min(count_audited_collected), count_verified.min(count_audited_verified)];
        for (fewest, count) in fewest.iter_mut().zip(counts) {
            *fewest = (*fewest).min(count);
        }
        if round > 0 {
            raw.push(milliseconds(time));
            collected.push(milliseconds(time_collected));
            verified.push(milliseconds(time_verified));
            audited_collected.push(milliseconds(time_audited_collected));
            audited_verified.push(milliseconds(time_audited_verified));
        }
    }

    let raw = median(&mut raw);
    let row =
        |what: &str, value, unit| Measure::new("1 fan-out", format!("{agents} agents: {what}"), value, unit);
    report.add(row("raw request to last raw answer", raw, "ms"));
    report.add(
        row("signed action to last answer, collected", median(&mut collected), "ms")
            .against(raw)
            .goal(Goal::AtMost(COLLECTED_TIMES)),
    );
    report.add(
        row("signed action to last answer, collected and verified", median(&mut verified), "ms")
            .against(raw)
            .goal(Goal::AtMost(VERIFIED_TIMES)),
    );
    for (what, times) in
        [("collected", &mut audited_collected), ("collected and verified", &mut audited_verified)]
    {
        let what = format!("the same with an audit record of each, {what}");
        report.add(row(&what, median(times), "ms").against(raw));
    }
    for (what, count) in ["raw answers", "answers collected", "answers verified"].iter().zip(fewest) {
        let what = format!("{what}, fewest of a round");
        report.add(row(&what, count as f64, "answers").goal(Goal::AtLeast(agents as f64)));
    }
    report.add(row("all connected after", connecting.as_secs_f64(), "s"));
    report.add(row("memory of a simulated agent", resident_kib as f64 / agents as f64, "KiB"));
    report.add(row(
        "memory of the broker for a connection",
        (connected_broker - idle_broker) * 1024.0 / agents as f64,
        "KiB",
    ));
    report.add(row("memory of the broker at the end", fleet.broker_mib()?, "MiB"));
    no_problems(&mut simulators).await
}

/// Raw answers of row 2.
pub(crate) async fn measure_multiplexed(
    fleet: &Fleet,
    simulators: &mut Simulators,
    size: Size,
    report: &mut Report,
) -> BenchResult<()> {
    let agents = u64::from(size.multiplexed_agents);
    // They share connections with an administrator's rights, in the fleet's account.
    let client = &fleet.administrator.client;
    let mut raw_answers = client.subscribe(&format!("vigie.res.{RAW_SLOT}.*"))?;
    client.flush(PATIENCE).await?;
    let (mut times, mut fewest) = (Vec::new(), agents);
    for round in 0..=size.rounds {
        let began = Instant::now();
        client.send(RAW_REQUEST, &[RAW; REQUEST_BYTES]).await?;
        let count = count_raw(&mut raw_answers, agents).await;
        let time = began.elapsed();
        fewest = fewest.min(count);
        if round > 0 {
            times.push(time.as_secs_f64());
        }
    }
    let row = |what: &str, value, unit| {
        let what = format!("{agents} agents on {SHARED_CONNECTIONS} connections: {what}");
        Measure::new("2 many agents", what, value, unit)
    };
    report.add(
        row("raw request to last raw answer", median(&mut times), "s")
            .goal(Goal::AtMost(MULTIPLEXED_SECONDS)),
    );
    report.add(
        row("raw answers, fewest of a round", fewest as f64, "answers").goal(Goal::AtLeast(agents as f64)),
    );
    no_problems(simulators).await
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

/// What the broker told a simulator is a fault of the measurement, whatever came out.
pub(crate) async fn no_problems(simulators: &mut Simulators) -> BenchResult<()> {
    let problems = simulators.counts().await?.problems;
    if problems.is_empty() { Ok(()) } else { Err(format!("the broker complains: {problems:?}").into()) }
}

/// Sends a raw request to each agent and counts the answers; with the time to the last one.
async fn ask_raw(
    fleet: &Fleet,
    answers: &mut Subscription,
    agents: &[AgentId],
) -> BenchResult<(u64, Duration)> {
    let began = Instant::now();
    let (told, count) =
        tokio::join!(fleet.tell(agents, &[RAW; REQUEST_BYTES]), count_raw(answers, agents.len() as u64));
    told?;
    Ok((count, began.elapsed()))
}

async fn count_raw(answers: &mut Subscription, agents: u64) -> u64 {
    let mut count = 0;
    let counting = async {
        while count < agents && answers.next().await.is_some() {
            count += 1;
        }
    };
    // What is missing after that is told by the count.
    let _ = timeout(PATIENCE, counting).await;
    count
}

/// Signs and sends an action and collects the answers; with `keys`, only those with a good seal count.
async fn ask(
    fleet: &Fleet,
    simulators: &mut Simulators,
    names: &[AgentId],
    keys: Option<&Keys>,
) -> BenchResult<(u64, Duration)> {
    let (audited, agents) = (simulators.audited(), names.len() as u64);
    let action =
        action(r#"os == "linux" && (tag.env in ["prod", "test", "stage", "dev"] || hostname ~ "web-*")"#)?;
    let id: ActionId = serde_json::from_value(action["id"].clone())?;
    fleet.store_answers_to(&id).await?;
    let before = simulators.counts().await?;

    let began = Instant::now();
    let envelope = envelope(&action, &[ALICE])?;
    let client = &fleet.investigator.client;
    let mut messages = client.subscribe(&answers_to(&id))?;
    stored::store(client, "vigie.ask.alice", &envelope).await?;
    let mut collector = Collector::new(id);
    let mut count = 0;
    let collecting = async {
        while count < agents {
            let Some(message) = messages.next().await else { break };
            let taken = collector
                .take(&message.subject, &message.payload, |agent, sealed| check(agent, sealed, keys))?;
            count += u64::from(matches!(taken, Taken::Complete { .. }));
        }
        BenchResult::Ok(())
    };
    let (told, collected) = tokio::join!(fleet.tell(names, &envelope), timeout(PATIENCE, collecting));
    told?;
    match collected {
        Ok(result) => result?,
        // What is missing is told by the count.
        Err(_) => return Ok((count, began.elapsed())),
    }
    let time = began.elapsed();
    drop(messages);
    // What is still on its way would be in the way of the next round.
    let settled = |counts: &Counts| {
        let of_each = if audited { 2 } else { 1 };
        counts.acknowledged == before.acknowledged + of_each * agents
    };
    simulators.until("all answers are acknowledged", settled).await?;
    Ok((count, time))
}

fn check(agent: &AgentId, sealed: &Sealed, keys: Option<&Keys>) -> Result<(), SealProblem> {
    let Some(keys) = keys else { return Ok(()) };
    let key = keys.get(agent).ok_or(SealProblem::NotEnrolled)?;
    open(sealed, Purpose::Answer, key).map(drop).map_err(|_| SealProblem::Bad)
}
