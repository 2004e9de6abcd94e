//! `vigie fleet agents`: who is in the fleet.

use clap::Args;
use serde::Serialize;
use vigie_fleet::facts::Facts;
use vigie_protocol::names::AgentId;

use super::files;
use super::inventory::{Inventory, Known, Shown, parse_target};
use super::profile::Profile;
use super::view::View;
use crate::exit::{Exit, Failure};
use crate::print::{self, Printer, Tone};
use crate::table::{Cell, Room, Table};

/// `fleet agents`
#[derive(Debug, Args)]
pub(crate) struct AgentsArgs {
    /// Only agents that match this expression; see docs/targets.md
    #[arg(long, short = 't', value_name = "EXPR", default_value = "all")]
    pub(crate) target: String,

    /// Only agents that are online
    #[arg(long)]
    pub(crate) online: bool,

    /// Also print all facts of each agent
    #[arg(long)]
    pub(crate) facts: bool,
}

/// An agent as JSON.
#[derive(Serialize)]
struct AgentLine<'a> {
    agent: &'a AgentId,
    online: bool,
    /// When it was seen last, in seconds since 1970 by the broker's clock.
    #[serde(skip_serializing_if = "Option::is_none")]
    seen: Option<i64>,
    /// How far its clock is ahead of the broker's, in seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    clock_ahead: Option<i64>,
    key: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    facts: Option<&'a Facts>,
}

/// Carries out `fleet agents`.
pub(crate) fn run(args: &AgentsArgs, profile: &Profile, printer: &mut Printer) -> Result<Exit, Failure> {
    files::block_on(list(args, profile, printer))
}

async fn list(args: &AgentsArgs, profile: &Profile, printer: &mut Printer) -> Result<Exit, Failure> {
    let (target, text) = parse_target(&args.target, profile)?;
    let (connection, _events) = profile.connect().await?;
    let inventory = Inventory::load(&connection, profile).await?;
    let mut view = View::new(printer);
    view.flagged_records(&inventory.flagged)?;
    view.clones(&inventory)?;
    // An agent that was enrolled and never came has no facts: only `all` is true for it.
    let is_all = text.trim() == "all";
    let agents: Vec<(&AgentId, &Known)> = inventory
        .agents
        .iter()
        .filter(|(_, known)| known.facts().map_or(is_all, |facts| target.matches(facts)))
        .filter(|(_, known)| known.online || !args.online)
        .collect();
    if printer.is_json() {
        for (agent, known) in &agents {
            let key = known.enrolment.key.text();
            let seen = known.shown.as_ref().map(|shown| shown.stored);
            let clock_ahead = known.shown.as_ref().map(|shown| shown.sent.saturating_sub(shown.stored));
            let (online, facts) = (known.online, known.facts());
            printer.json(&AgentLine { agent, online, seen, clock_ahead, key, facts })?;
        }
        return Ok(Exit::Ok);
    }
    show(&agents, args.facts, printer)?;
    print::note(&format!("{}; {} shown", inventory.counted(), agents.len()));
    Ok(Exit::Ok)
}

fn show(agents: &[(&AgentId, &Known)], with_facts: bool, printer: &mut Printer) -> Result<(), Failure> {
    let paint = printer.paint();
    let mut headings = vec!["AGENT", "STATE", "HOST", "SYSTEM", "VERSION", "GROUPS"];
    if with_facts {
        headings.extend(["TAGS", "KERNEL", "MODULES", "ADDRESSES"]);
    }
    let mut table = Table::simple(&headings);
    for (agent, known) in agents {
        let (tone, state) = match &known.shown {
            Some(Shown { shared: Some(shared), .. }) => (Tone::Bad, shared.state()),
            Some(_) if known.online => (Tone::Good, "online"),
            Some(_) => (Tone::Doubtful, "silent"),
            None => (Tone::Doubtful, "never seen"),
        };
        let mut cells = vec![Cell::from(agent.as_str()), Cell::new(tone, state)];
        let texts = known.facts().map(|facts| texts(facts, with_facts)).unwrap_or_default();
        cells.extend(texts.iter().map(|text| Cell::from(text.as_str())));
        table.add(cells);
    }
    printer.line(table.text(Room { width: printer.width(), wide: false }, paint).trim_end())
}

fn texts(facts: &Facts, with_facts: bool) -> Vec<String> {
    let system = match (&facts.os_id, &facts.os_version) {
        (Some(id), Some(version)) => format!("{id} {version}"),
        (Some(id), None) => id.clone(),
        _ => facts.os.clone(),
    };
    let list = |items: &mut dyn Iterator<Item = String>| items.collect::<Vec<_>>().join(", ");
    let mut texts = vec![
        facts.hostname.clone(),
        system,
        facts.agent_version.clone(),
        list(&mut facts.groups.iter().map(ToString::to_string)),
    ];
    if with_facts {
        texts.push(list(&mut facts.tags.iter().map(|(name, value)| format!("{name}={value}"))));
        texts.push(facts.kernel.clone());
        texts.push(list(&mut facts.modules.iter().cloned()));
        texts.push(list(&mut facts.addresses.iter().map(ToString::to_string)));
    }
    texts
}
