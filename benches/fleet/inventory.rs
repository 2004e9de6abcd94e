//! The inventory of a large fleet: the facts of all agents, read from their bucket and evaluated with a target.
//!
//! What a client needs for a preview is the facts as they are stored: a target decides nothing there, each agent
//! decides for itself. Whoever wants to know that no broker has changed them opens each seal with the enrolled key
//! as well; that is measured beside it, with keys that the client has from before.

use tokio::time::Instant;
use vigie_fleet::answer::Sealed;
use vigie_fleet::broker::stored::{self, Entry};
use vigie_fleet::facts::Facts;
use vigie_fleet::heartbeat::Heartbeat;
use vigie_fleet::parallel;
use vigie_fleet::predicate::Target;
use vigie_fleet::subjects::{self, FACTS};
use vigie_protocol::names::AgentId;

use crate::fan_out::{self, Keys, SHARED_CONNECTIONS, enrolled, no_problems};
use crate::set_up::{Fleet, People};
use crate::simulators::Simulators;
use crate::{LOOK_AGAIN, PATIENCE, Size};
use vigie_benchmark::{BenchResult, Goal, Measure, Report, median};

/// Seconds that reading and evaluating the whole inventory may take.
const SECONDS: f64 = 1.0;

/// True for a quarter of the simulated agents.
const TARGET: &str =
    r#"os == "linux" && tag.env == "prod" && agent.version < 99 && !(module has "fanotify")"#;

/// Row 2.
pub(crate) async fn measure(size: Size, report: &mut Report) -> BenchResult<()> {
    let fleet = Fleet::start(&People::new(), &[]).await?;
    let start = fleet.simulated(size.multiplexed_agents, Some(SHARED_CONNECTIONS));
    let mut simulators = Simulators::start(&start).await?;
    fan_out::measure_multiplexed(&fleet, &mut simulators, size, report).await?;

    let agents = u64::from(size.multiplexed_agents);
    let began = Instant::now();
    simulators.store_facts().await?;
    stored(&fleet, agents).await?;
    let storing = began.elapsed();
    no_problems(&mut simulators).await?;
    let keys = enrolled(&simulators);
    let (mut reads, mut evaluated, mut verified) = (Vec::new(), Vec::new(), Vec::new());
    let mut bytes = 0;
    let mut found = Found { facts: agents, matches: agents / 4 };
    for round in 0..=size.rounds {
        let began = Instant::now();
        bytes = read(&fleet, &keys).await?.iter().map(|entry| entry.value.len()).sum();
        let reading = began.elapsed();
        let began = Instant::now();
        let plain = read_and_evaluate(&fleet, &keys, false).await?;
        let evaluating = began.elapsed();
        let began = Instant::now();
        let checked = read_and_evaluate(&fleet, &keys, true).await?;
        let verifying = began.elapsed();
        if plain != checked {
            return Err(format!("with seals {checked:?}, without {plain:?}").into());
        }
        found.facts = found.facts.min(plain.facts);
        if plain.matches != found.matches {
            return Err(format!("{plain:?} instead of {found:?}").into());
        }
        if round > 0 {
            reads.push(reading.as_secs_f64());
            evaluated.push(evaluating.as_secs_f64());
            verified.push(verifying.as_secs_f64());
        }
    }
    let row = |what: &str, value, unit| {
        Measure::new("2 many agents", format!("inventory of {agents}: {what}"), value, unit)
    };
    report.add(row("size of an entry", bytes as f64 / agents as f64, "bytes"));
    report.add(row("stored after", storing.as_secs_f64(), "s"));
    report.add(row("read from the broker", median(&mut reads), "s"));
    report.add(row("read and evaluated", median(&mut evaluated), "s").goal(Goal::AtMost(SECONDS)));
    report.add(row("read and evaluated, every seal verified", median(&mut verified), "s"));
    let what = "facts evaluated, fewest of a round";
    report.add(row(what, found.facts as f64, "facts").goal(Goal::AtLeast(agents as f64)));
    report.add(row("memory of the broker", fleet.broker_mib()?, "MiB"));
    Ok(())
}

/// Waits until the bucket holds so many entries.
async fn stored(fleet: &Fleet, entries: u64) -> BenchResult<()> {
    let began = Instant::now();
    loop {
        let subject = format!("$JS.API.STREAM.INFO.{FACTS}");
        let info = stored::api(&fleet.administrator.client, &subject, &serde_json::Value::Null).await?;
        let found = info["state"]["messages"].as_u64().unwrap_or(0);
        if found == entries {
            return Ok(());
        }
        if began.elapsed() > PATIENCE {
            return Err(format!("only {found} of {entries} facts are stored").into());
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Found {
    /// Entries that were read and hold the facts of the agent under whose name they are.
    facts: u64,
    /// Those for which the target is true.
    matches: u64,
}

/// The newest heartbeat of each agent, asked for by its name as a client does.
async fn read(fleet: &Fleet, keys: &Keys) -> BenchResult<Vec<Entry>> {
    Ok(stored::newest(&fleet.investigator.client, FACTS, keys.keys().map(subjects::facts)).await?)
}

async fn read_and_evaluate(fleet: &Fleet, keys: &Keys, verified: bool) -> BenchResult<Found> {
    let target = Target::parse(TARGET)?;
    let mut found = Found { facts: 0, matches: 0 };
    let entries = read(fleet, keys).await?;
    // On all processors, as the command line does.
    for facts in parallel::map(&entries, |entry| facts(entry, keys, verified)) {
        let Some(facts) = facts else { continue };
        found.facts += 1;
        found.matches += u64::from(target.matches(&facts));
    }
    Ok(found)
}

/// The facts of an entry, if it is what its agent stores.
fn facts(entry: &Entry, keys: &Keys, verified: bool) -> Option<Facts> {
    let agent: AgentId = subjects::last_name(&entry.subject)?;
    if verified {
        return Some(Heartbeat::open(&entry.value, &agent, keys.get(&agent)?).ok()?.facts);
    }
    let sealed: Sealed = serde_json::from_slice(&entry.value).ok()?;
    let heartbeat: Heartbeat = serde_json::from_str(&sealed.text).ok()?;
    heartbeat.facts.check().ok()?;
    Some(heartbeat.facts).filter(|facts| facts.agent == agent)
}
