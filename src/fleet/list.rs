//! `vigie fleet agents`: who is in the fleet.

use clap::Args;
use serde::Serialize;
use vigie_fleet::facts::Facts;
use vigie_protocol::names::AgentId;

use super::files;
use super::inventory::{Inventory, Known, parse_target};
use super::profile::Profile;
use super::view::View;
use crate::exit::{Exit, Failure};
use crate::print::{self, Printer, Tone};
use crate::table::{Cell, Room, Table};

/// `fleet agents`
#[derive(Debug, Args)]
pub(crate) struct AgentsArgs {
    /// Only agents for which this is true; see docs/targets.md
    #[arg(long, short = 't', value_name = "EXPR", default_value = "all")]
    pub(crate) target: String,

    /// Only those that are online
    #[arg(long)]
    pub(crate) online: bool,

    /// Also print all their facts
    #[arg(long)]
    pub(crate) facts: bool,
}

/// An agent as JSON.
#[derive(Serialize)]
struct AgentLine<'a> {
    agent: &'a AgentId,
    online: bool,
    key: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    facts: Option<&'a Facts>,
}

/// Carries out `fleet agents`.
pub(crate) fn run(args: &AgentsArgs, profile: &Profile, printer: &mut Printer) -> Result<Exit, Failure> {
    files::block_on(list(args, profile, printer))
}

async fn list(args: &AgentsArgs, profile: &Profile, printer: &mut Printer) -> Result<Exit, Failure> {
    let target = parse_target(&args.target)?;
    let (connection, _events) = profile.connect().await?;
    let inventory = Inventory::load(&connection, profile).await?;
    View::new(printer).flagged_records(&inventory.flagged)?;
    // An agent that was enrolled and never came has no facts: only `all` is true for it.
    let is_all = args.target.trim() == "all";
    let agents: Vec<(&AgentId, &Known)> = inventory
        .agents
        .iter()
        .filter(|(_, known)| known.facts.as_ref().map_or(is_all, |facts| target.matches(facts)))
        .filter(|(_, known)| known.online || !args.online)
        .collect();
    if printer.is_json() {
        for (agent, known) in &agents {
            let facts = known.facts.as_ref();
            printer.json(&AgentLine { agent, online: known.online, key: known.key.text(), facts })?;
        }
        return Ok(Exit::Ok);
    }
    show(&agents, args.facts, printer)?;
    let online = agents.iter().filter(|(_, known)| known.online).count();
    print::note(&format!("{} agents, {online} online", agents.len()));
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
        let (tone, state) = match (&known.facts, known.online) {
            (_, true) => (Tone::Good, "online"),
            (Some(_), false) => (Tone::Doubtful, "offline"),
            (None, false) => (Tone::Doubtful, "never seen"),
        };
        let mut cells = vec![Cell::from(agent.as_str()), Cell::new(tone, state)];
        let texts = known.facts.as_ref().map(|facts| texts(facts, with_facts)).unwrap_or_default();
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
