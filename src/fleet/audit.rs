//! `vigie fleet audit`: who asked what and who was refused, as the agents reported it.

use clap::Args;
use serde::Serialize;
use vigie_fleet::agent_key;
use vigie_fleet::answer::{Asked, AuditRecord, Purpose, Sealed};
use vigie_fleet::broker::stored::{Cursor, Entry};
use vigie_fleet::subjects::{self, AUDIT, EVERY_AUDIT};
use vigie_protocol::names::AgentId;

use super::files::{self, failed};
use super::inventory::Inventory;
use super::profile::Profile;
use crate::exit::{Exit, Failure};
use crate::print::{Printer, Tone, safe};

/// `fleet audit`
#[derive(Debug, Args)]
pub(crate) struct AuditArgs {
    /// Only entries reported within this period (1h) or since this RFC 3339 time
    #[arg(long, value_name = "TIME")]
    pub(crate) since: Option<String>,

    /// Only refused queries
    #[arg(long)]
    pub(crate) refused: bool,
}

/// A record that no enrolled key sealed.
#[derive(Serialize)]
struct Wrong<'a> {
    r#type: &'a str,
    agent: &'a str,
    message: &'a str,
}

/// Carries out `fleet audit`.
pub(super) fn run(args: &AuditArgs, profile: &Profile, printer: &mut Printer) -> Result<Exit, Failure> {
    let since = args.since.as_deref().map(crate::alerts::since_seconds).transpose()?;
    let hint = "check that the broker is running and reachable, and that this user may read the audit";
    let (inventory, entries) = files::block_on(async {
        let (connection, _events) = profile.connect().await?;
        let inventory = Inventory::load(&connection, profile).await?;
        let client = &connection.client;
        let mut cursor = Cursor { next: 1 };
        if let Some(seconds) = since {
            let found = Cursor::at_time(client, AUDIT, EVERY_AUDIT, seconds).await;
            cursor = found.map_err(|error| failed(Exit::Unavailable, hint)(&error))?;
        }
        let mut entries = Vec::new();
        cursor
            .read(client, AUDIT, EVERY_AUDIT, |entry| {
                entries.push(entry);
                true
            })
            .await
            .map_err(|error| failed(Exit::Unavailable, hint)(&error))?;
        Ok((inventory, entries))
    })?;
    let mut is_bad = false;
    let mut seen = std::collections::BTreeSet::new();
    for entry in &entries {
        let Some(agent) = subjects::last_name(&entry.subject) else { continue };
        match open(&inventory, &agent, entry) {
            // One that was not acknowledged was sent again, with the same seal.
            Ok((_, seal)) if !seen.insert(seal.clone()) => {}
            Ok((record, _)) if args.refused && record.outcome == "accepted" => {}
            Ok((record, _)) if printer.is_json() => printer.json(&record)?,
            Ok((record, _)) => printer.line(&line(&record))?,
            Err(problem) => {
                is_bad = true;
                if printer.is_json() {
                    printer.json(&Wrong { r#type: "flagged", agent: agent.as_str(), message: &problem })?;
                } else {
                    let problem = printer.paint().text(Tone::Bad, &safe(&problem));
                    printer.line(&format!("{agent}  invalid: {problem}"))?;
                }
            }
        }
    }
    Ok(if is_bad { Exit::SomeFailed } else { Exit::Ok })
}

fn open(inventory: &Inventory, agent: &AgentId, entry: &Entry) -> Result<(AuditRecord, String), String> {
    let known = inventory.agents.get(agent).ok_or("no agent of this name is enrolled")?;
    let sealed: Sealed = serde_json::from_slice(&entry.value).map_err(|error| error.to_string())?;
    let mut problem = "no key of the agent was valid at that time".to_owned();
    for key in known.enrolment.keys_at(entry.stored) {
        match agent_key::open(&sealed, Purpose::Audit, key) {
            Ok(text) => {
                let record: AuditRecord = serde_json::from_str(text).map_err(|error| error.to_string())?;
                if record.agent != *agent {
                    return Err(format!("contains a record of {}", record.agent));
                }
                return Ok((record, sealed.sig.clone()));
            }
            Err(error) => problem = error.to_string(),
        }
    }
    Err(problem)
}

/// `2026-01-01T00:00:00Z  web-1  accepted  by alice  4f…`, the reason, and below it what was asked of whom.
fn line(record: &AuditRecord) -> String {
    let signers = if record.signers.is_empty() { "nobody".to_owned() } else { record.signers.join(", ") };
    let action = record.action.as_ref().map_or("-", |id| id.as_str());
    let repeated = match record.repeated {
        0 => String::new(),
        count => format!(" (and {count} like it before)"),
    };
    let dropped = match record.dropped {
        0 => String::new(),
        count => format!(" (records dropped by the agent before: {count})"),
    };
    let message = record.message.as_deref().map_or_else(String::new, |message| format!(": {message}"));
    let first = format!(
        "{}  {}  {}  by {signers}  {action}{message}{repeated}{dropped}",
        record.time, record.agent, record.outcome
    );
    let asked = record.asked.as_deref().map(asked).unwrap_or_default();
    let lines = std::iter::once(first).chain(asked.into_iter().map(|line| format!("  {line}")));
    lines.map(|line| safe(&line).into_owned()).collect::<Vec<_>>().join("\n")
}

/// Whom an action was for and why, then a line per question.
fn asked(asked: &Asked) -> Vec<String> {
    let mut first =
        format!("{:?} for {}", asked.name, if asked.target.is_empty() { "all" } else { &asked.target });
    if let Some(agents) = asked.agents {
        first += &format!(", {agents} of them");
    }
    if let Some(seconds) = asked.every {
        first += &format!(", every {}", crate::print::duration(seconds.into()));
    }
    if let Some(question) = &asked.stop {
        first += &format!(", ends {question}");
    }
    let questions = asked.operations.iter().map(|operation| {
        let parameters = operation.params.as_ref().map_or("", |parameters| parameters.get());
        format!("{} {parameters}", operation.module).trim_end().to_owned()
    });
    let shortened =
        asked.shortened.then(|| "some of it is too long for a record and was left out".to_owned());
    std::iter::once(first).chain(questions).chain(shortened).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_shows_what_was_asked_of_whom() {
        let record: AuditRecord = serde_json::from_str(
            r#"{"v":1,"agent":"web-1","time":"t","outcome":"accepted","signers":["alice"],"action":null,
               "asked":{"name":"case 7","target":"tags.role = 'web'","agents":2,"every":3600,"shortened":true,
               "operations":[{"module":"file","params":{"path":["/etc\u001b"]}},{"module":"netstat"}]}}"#,
        )
        .unwrap();

        assert_eq!(
            line(&record),
            "t  web-1  accepted  by alice  -\n  \"case 7\" for tags.role = 'web', 2 of them, every 1h\n  \
             file {\"path\":[\"/etc\\u001b\"]}\n  netstat\n  some of it is too long for a record and was left out"
        );
    }

    #[test]
    fn a_refusal_says_who_and_why() {
        let record: AuditRecord = serde_json::from_str(
            r#"{"v":1,"agent":"web-1","time":"t","outcome":"revoked_key","signers":[],"message":"the key\nis revoked","repeated":2,"dropped":3}"#,
        )
        .unwrap();
        let text = line(&record);
        assert!(text.starts_with("t  web-1  revoked_key  by nobody  -: the key"), "{text}");
        assert!(
            text.ends_with("(and 2 like it before) (records dropped by the agent before: 3)")
                && !text.contains('\n'),
            "{text}"
        );
    }
}
