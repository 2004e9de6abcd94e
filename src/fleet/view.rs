//! How questions to the fleet look: a progress line, answers as they come, and at the end who did not answer.

use std::collections::BTreeSet;
use std::io::{self, IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

use serde::Serialize;
use vigie_fleet::answer::{Answer, OperationAnswer};
use vigie_fleet::collect::Flag;
use vigie_protocol::names::{ActionId, AgentId};
use vigie_protocol::result::ModuleResult;

use super::answers::{Answers, Counts, Kind};
use super::inventory::{Flagged, Inventory};
use crate::exit::Failure;
use crate::print::{self, Printer, Tone, safe};
use crate::report;
use crate::table::Room;

/// Time between two pictures of the progress line.
pub(crate) const PICTURE: Duration = Duration::from_millis(200);

/// Agents that are named one by one for people; programs get all.
const NAMED: usize = 50;

/// An answer as JSON.
#[derive(Serialize)]
struct AnswerLine<'a> {
    r#type: &'a str,
    action: &'a ActionId,
    agent: &'a AgentId,
    found: bool,
    #[serde(flatten)]
    answer: &'a Answer,
}

/// An agent without an answer as JSON.
#[derive(Serialize)]
struct SilentLine<'a> {
    r#type: &'a str,
    agent: &'a AgentId,
    online: bool,
    /// Whether it was ever seen; of one that was not nobody knows whether it is meant.
    known: bool,
}

/// A message that counts for nothing, as JSON.
#[derive(Serialize)]
struct FlaggedLine<'a> {
    r#type: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    agent: Option<&'a str>,
    code: &'a str,
    message: String,
}

/// Everything as JSON.
#[derive(Serialize)]
struct SummaryLine<'a> {
    r#type: &'a str,
    actions: &'a [ActionId],
    targeted: usize,
    online: usize,
    answered: usize,
    found: usize,
    not_known: usize,
    failed: usize,
    refused: usize,
    flagged: usize,
    silent: usize,
    offline: usize,
    /// Enrolled and never seen: nobody knows whether they are meant.
    unknown: usize,
    seconds: f64,
}

/// The picture of one question.
pub(crate) struct View<'p> {
    printer: &'p mut Printer,
    started: Instant,
    /// A person watches standard error.
    watched: bool,
    is_shown: bool,
    /// Whole results below each line of the table.
    details: bool,
    /// Width of the table's first column.
    agent_columns: usize,
    has_heading: bool,
}

#[expect(clippy::disallowed_methods, reason = "a client waits in real time")]
fn now() -> Instant {
    Instant::now()
}

impl<'p> View<'p> {
    /// A picture that nothing was drawn into yet.
    pub(crate) fn new(printer: &'p mut Printer) -> Self {
        let watched = io::stderr().is_terminal() && !print::is_dumb();
        Self {
            printer,
            started: now(),
            watched,
            is_shown: false,
            details: false,
            agent_columns: "AGENT".len(),
            has_heading: false,
        }
    }

    /// Makes room for these agents' names, and says whether whole results are wanted.
    pub(crate) fn prepare<'n>(&mut self, agents: impl Iterator<Item = &'n AgentId>, details: bool) {
        let longest = agents.map(|agent| agent.as_str().len()).max().unwrap_or(0);
        self.agent_columns = self.agent_columns.max(longest);
        self.details = details;
    }

    /// Says something beside the answers.
    pub(crate) fn note(&mut self, text: &str) {
        self.clear();
        print::note(text);
    }

    /// Draws how far it is.
    pub(crate) fn progress(&mut self, answers: &Answers<'_>, until: Option<&str>) {
        if !self.watched {
            return;
        }
        let text = progress_text(answers, until, now().saturating_duration_since(self.started));
        // Whoever closed standard error does not want it.
        let _ = write!(io::stderr().lock(), "\r{text}\u{1b}[K");
        self.is_shown = true;
    }

    /// Takes the progress line away.
    pub(crate) fn clear(&mut self) {
        if self.is_shown {
            let _ = write!(io::stderr().lock(), "\r\u{1b}[K");
            self.is_shown = false;
        }
    }

    /// Prints an agent's answer.
    pub(crate) fn answer(
        &mut self,
        action: &ActionId,
        agent: &AgentId,
        answer: &Answer,
        kind: Kind,
    ) -> Result<(), Failure> {
        self.clear();
        if self.printer.is_json() {
            let line = AnswerLine { r#type: "answer", action, agent, found: kind == Kind::Found, answer };
            return self.printer.json(&line);
        }
        self.row(agent, answer, kind)?;
        if self.details && kind != Kind::NotFound {
            for operation in &answer.operations {
                self.operation(operation)?;
            }
        }
        Ok(())
    }

    /// One line of the table. Its columns are fixed before the first answer, because the others come later.
    fn row(&mut self, agent: &AgentId, answer: &Answer, kind: Kind) -> Result<(), Failure> {
        let paint = self.printer.paint();
        let columns = self.agent_columns;
        if !self.has_heading {
            self.has_heading = true;
            let heading = format!("{:columns$}  {:13}  WHAT", "AGENT", "ANSWER");
            self.printer.line(&paint.text(Tone::Faint, &heading))?;
        }
        let (tone, word) = match kind {
            Kind::Found => (Tone::Good, "found"),
            Kind::NotFound => (Tone::Faint, "found nothing"),
            Kind::NotKnown => (Tone::Doubtful, "not known"),
            Kind::Failed => (Tone::Bad, "failed"),
            Kind::Refused => (Tone::Bad, "refused"),
        };
        let left = self.printer.width().map(|width| usize::from(width).saturating_sub(columns + 17));
        let what = cut(&safe(&what(answer)), left);
        let word = paint.text(tone, &format!("{word:13}"));
        self.printer.line(format!("{:columns$}  {word}  {what}", agent.as_str()).trim_end())
    }

    fn operation(&mut self, operation: &OperationAnswer) -> Result<(), Failure> {
        let Some(result) = operation.result.as_ref() else { return Ok(()) };
        let Ok(result) = serde_json::from_str::<ModuleResult>(result.get()) else { return Ok(()) };
        let room = Room { width: self.printer.width().map(|width| width.saturating_sub(4)), wide: false };
        let text = report::text(&operation.module, &result, room, self.printer.paint());
        for line in text.lines() {
            self.printer.line(&format!("    {line}"))?;
        }
        Ok(())
    }

    /// Prints a message that counts for nothing.
    pub(crate) fn flagged(&mut self, flag: &Flag) -> Result<(), Failure> {
        self.clear();
        if self.printer.is_json() {
            let agent = flag.agent().map(AgentId::as_str);
            let line = FlaggedLine { r#type: "flagged", agent, code: flag.code(), message: flag.to_string() };
            return self.printer.json(&line);
        }
        self.printer.line(&format!(
            "{}  {}",
            self.printer.paint().text(Tone::Bad, "not counted"),
            safe(&flag.to_string())
        ))
    }

    /// Says what of the inventory does not count.
    pub(crate) fn flagged_records(&mut self, flagged: &[Flagged]) -> Result<(), Failure> {
        for Flagged { agent, problem } in flagged {
            if self.printer.is_json() {
                let message = problem.clone();
                let line = FlaggedLine { r#type: "flagged", agent: Some(agent), code: "bad_record", message };
                self.printer.json(&line)?;
            } else {
                self.note(&format!("{agent}  invalid: {problem}"));
            }
        }
        Ok(())
    }

    /// Names agents after a word, when there are any.
    fn names<'n>(&mut self, word: &str, names: impl Iterator<Item = &'n AgentId>) -> Result<(), Failure> {
        let names: Vec<_> = names.map(AgentId::as_str).collect();
        if names.is_empty() {
            return Ok(());
        }
        let more = names.len().saturating_sub(NAMED);
        let rest = if more > 0 { format!(" and {more} more") } else { String::new() };
        let shown = names[..names.len() - more].join(", ");
        let word = self.printer.paint().text(Tone::Doubtful, &format!("{word}:"));
        self.printer.line(&format!("{word} {shown}{rest}"))
    }

    /// Says which agents were never seen, where nothing was asked.
    pub(crate) fn unknown(&mut self, agents: &[AgentId]) -> Result<(), Failure> {
        if self.printer.is_json() {
            for agent in agents {
                self.printer.json(&SilentLine { r#type: "silent", agent, online: false, known: false })?;
            }
            return Ok(());
        }
        self.names("never seen, unknown whether they match", agents.iter())
    }

    /// Says which identities two hosts use.
    pub(crate) fn clones(&mut self, inventory: &Inventory) -> Result<(), Failure> {
        for (agent, shared) in inventory.clones() {
            let message = format!("{}: {agent}; {}", shared.found(), shared.remedy());
            if self.printer.is_json() {
                let line = FlaggedLine {
                    r#type: "flagged",
                    agent: Some(agent.as_str()),
                    code: shared.code(),
                    message,
                };
                self.printer.json(&line)?;
            } else {
                self.note(&message);
            }
        }
        Ok(())
    }

    /// Prints who did not answer, and everything in numbers.
    pub(crate) fn end(&mut self, answers: &Answers<'_>, actions: &[ActionId]) -> Result<(), Failure> {
        self.clear();
        let elapsed = now().saturating_duration_since(self.started);
        if self.printer.is_json() {
            for agent in answers.silent() {
                let online = answers.is_online(agent);
                self.printer.json(&SilentLine { r#type: "silent", agent, online, known: true })?;
            }
            for agent in answers.unknown() {
                self.printer.json(&SilentLine { r#type: "silent", agent, online: false, known: false })?;
            }
            return self.printer.json(&summary(answers, actions, elapsed));
        }
        let silent = answers.silent();
        for (word, online) in [("silent", true), ("offline", false)] {
            let names = silent.iter().copied().filter(|agent| answers.is_online(agent) == online);
            self.names(word, names)?;
        }
        self.names("never seen, unknown whether they match", answers.unknown().into_iter())?;
        let text = progress_text(answers, None, elapsed);
        // The answers are data; this is about them.
        print::note(&text);
        Ok(())
    }
}

/// What an answer says, on one line: what went wrong, or what was found.
fn what(answer: &Answer) -> String {
    let operation = |operation: &OperationAnswer| {
        if let Some(error) = &operation.error {
            return error.clone();
        }
        let result =
            operation.result.as_ref().map(|result| serde_json::from_str::<ModuleResult>(result.get()));
        match result {
            Some(Ok(result)) if !result.success => {
                result.errors.iter().flatten().map(String::as_str).collect::<Vec<_>>().join("; ")
            }
            Some(Ok(result)) if result.foundanything => report::summary(&operation.module, &result)
                .or_else(|| result.elements.map(|elements| elements.get().to_owned()))
                .unwrap_or_default(),
            Some(Ok(result)) if result.is_not_known() => left_out(&result),
            Some(Ok(_)) => String::new(),
            _ => "the result cannot be read".to_owned(),
        }
    };
    let parts = answer.message.iter().cloned().chain(answer.operations.iter().map(operation));
    parts.filter(|part| !part.is_empty()).collect::<Vec<_>>().join("; ")
}

/// What a result did not examine, on one line.
fn left_out(result: &ModuleResult) -> String {
    let entries = result.coverage.iter().flat_map(|coverage| &coverage.not_examined);
    let entries: Vec<String> = entries.map(|entry| format!("{}: {}", entry.what, entry.why)).collect();
    match &entries[..] {
        [] => "not everything was examined".to_owned(),
        [one] => format!("not examined: {one}"),
        [first, rest @ ..] => format!("not examined: {first}, and {} more", rest.len()),
    }
}

/// A text of at most so many characters.
fn cut(text: &str, most: Option<usize>) -> String {
    match most {
        Some(most) if text.chars().count() > most => {
            text.chars().take(most.saturating_sub(1)).chain(['…']).collect()
        }
        _ => text.to_owned(),
    }
}

fn summary<'a>(answers: &Answers<'_>, actions: &'a [ActionId], elapsed: Duration) -> SummaryLine<'a> {
    let Counts { answered, found, not_known, failed, refused, flagged } = answers.counts;
    let (targeted, silent) = (answers.targeted(), answers.silent());
    let online = |agents: &BTreeSet<&AgentId>| agents.iter().filter(|agent| answers.is_online(agent)).count();
    SummaryLine {
        r#type: "summary",
        actions,
        targeted: targeted.len(),
        online: online(&targeted),
        answered,
        found,
        not_known,
        failed,
        refused,
        flagged,
        silent: online(&silent),
        offline: silent.len() - online(&silent),
        unknown: answers.unknown().len(),
        seconds: elapsed.as_secs_f64(),
    }
}

/// `412 targeted (398 online, 14 offline until 14:05) | 371 answered, 12 found, 2 failed, 1 refused | 27 silent | 3.1
/// s`
fn progress_text(answers: &Answers<'_>, until: Option<&str>, elapsed: Duration) -> String {
    let targeted = answers.targeted();
    let online = targeted.iter().filter(|agent| answers.is_online(agent)).count();
    let targeted = targeted.len();
    let Counts { answered, found, not_known, failed, refused, flagged } = answers.counts;
    let until = until.map_or_else(String::new, |until| format!(" until {until}"));
    let mut text = format!(
        "{targeted} targeted ({online} online, {} offline{until}) | {answered} answered, {found} found, {not_known} not known, {failed} failed, \
         {refused} refused | {} silent | {:.1} s",
        targeted - online,
        answers.silent().len(),
        elapsed.as_secs_f64()
    );
    if flagged > 0 {
        text.push_str(&format!(" | {flagged} messages rejected"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(operations: &str) -> Answer {
        serde_json::from_str(&format!(
            r#"{{"status":"ok","hostname":"h","time":"t","operations":{operations}}}"#
        ))
        .unwrap()
    }

    #[test]
    fn a_row_says_what_was_found_or_went_wrong() {
        let found = r#"[{"module":"m","result":{"foundanything":true,"success":true,"elements":{"a":1},"errors":null}}]"#;
        let failed = r#"[{"module":"m","result":{"foundanything":false,"success":false,"elements":null,"errors":["no"]}},{"module":"n","code":"module_down","error":"module n is down"}]"#;
        let nothing =
            r#"[{"module":"m","result":{"foundanything":false,"success":true,"elements":{"a":[]}}}]"#;

        assert_eq!(what(&answer(found)), r#"{"a":1}"#);
        let processes = found.replace("\"m\"", "\"processes\"").replace(
            r#"{"a":1}"#,
            r#"{"processes":[{"pid":1}]},"statistics":{"totalhits":1,"examined":1200,"exectime":"2ms"}"#,
        );
        assert_eq!(what(&answer(&processes)), "1 in 1,200 processes, 2ms");
        let fswatch = found.replace("\"m\"", "\"fswatch\"").replace(r#"{"a":1}"#, r#"{"accepted":["/a"]}"#);
        assert_eq!(what(&answer(&fswatch)), "accepted the changes of 1 path");
        assert_eq!(what(&answer(failed)), "no; module n is down");
        assert_eq!(what(&answer(nothing)), "");
        let partly = r#"[{"module":"m","result":{"success":true,"coverage":{"complete":false,"not_examined":[{"what":"/x","why":"no"},{"what":"/y","why":"no"}]}}}]"#;
        assert_eq!(what(&answer(partly)), "not examined: /x: no, and 1 more");
    }

    #[test]
    fn a_long_text_is_cut_at_a_character() {
        assert_eq!(cut("aéb", Some(2)), "a…");
        assert_eq!(cut("aéb", Some(3)), "aéb");
        assert_eq!(cut("aéb", None), "aéb");
        assert_eq!(cut("ab", Some(0)), "…");
    }
}
