//! Rules that say what is worth an alert: read from TOML, asked about each record.
//!
//! ```toml
//! [[rule]]
//! id = "memfd-exec"
//! title = "A program that is only in memory is run"
//! attack = ["T1620"]
//! severity = "critical"
//! on = ["exec"]
//! when = [{ exe.path = "memfd:*" }]
//! unless = [{ parent.name = ["containerd-shim*", "podman"] }]
//! ```
//!
//! One of `when` must fit and none of `unless`. In each, all keys must fit; of a list one. Texts are patterns with `*`
//! and `?`, numbers can be `"<600"` or `">=50"`, addresses are networks, `$name` is a list of the file. `and` is a list
//! of further tables of which all must fit, for a key that is needed twice.

mod arguments;
mod facts;
mod field;
mod shell_text;

use std::collections::{BTreeMap, HashMap, HashSet};

use vigie_sdk::severity::Severity;

pub(crate) use self::arguments::{Download, absolute, download, keeps_input, script_of};
pub(crate) use self::facts::{Facts, name_of, outcome_name, standard_kind};
use self::field::{Field, Pattern};
pub(crate) use self::field::{contains, parse_network};
use crate::record::{Key, Kind};
use crate::shares::Bounded;

/// The rules that are part of the program.
pub(crate) const BUILTIN: &str =
    concat!(include_str!("rules/builtin.toml"), include_str!("rules/builtin_after.toml"));

/// Processes whose events are counted for one rule.
const MOST_COUNTED: usize = 256;

/// Alerts of one rule about one program that are not repeated for so long, in microseconds.
const QUIET: i64 = 60_000_000;
const MOST_QUIET: usize = 1024;

/// Everything that must hold.
type Conditions = Vec<(Field, Vec<Pattern>)>;

/// What is counted before a rule fires.
#[derive(Debug, Clone)]
struct Many {
    at_least: usize,
    /// Microseconds.
    within: i64,
}

/// A rule.
#[derive(Debug, Clone)]
pub(crate) struct Rule {
    pub(crate) id: String,
    pub(crate) title: String,
    pub(crate) attack: Vec<String>,
    pub(crate) severity: Severity,
    pub(crate) benign: String,
    on: Vec<Kind>,
    when: Vec<Conditions>,
    unless: Vec<Conditions>,
    many: Option<Many>,
    /// Commands that make it fire, for the tests.
    #[cfg_attr(not(test), expect(dead_code, reason = "only tests make rules fire"))]
    pub(crate) trigger: Option<String>,
}

/// What a rule did so far.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Tally {
    pub(crate) asked: u64,
    pub(crate) fired: u64,
    /// Fired within a minute of the same alert.
    pub(crate) repeated: u64,
    pub(crate) nanoseconds: u64,
}

/// The rules in force, and what they remember.
#[derive(Debug)]
pub(crate) struct Rules {
    rules: Vec<Rule>,
    tallies: Vec<Tally>,
    by_kind: HashMap<Kind, Vec<usize>>,
    counted: Bounded<(usize, Key), Counted>,
    quiet: Bounded<(usize, Vec<u8>, u32), (i64, u64)>,
}

#[derive(Debug, Default)]
struct Counted {
    since: i64,
    targets: HashSet<Vec<u8>>,
}

/// A rule that fired.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fired<'a> {
    pub(crate) rule: &'a Rule,
    /// How often it was not told since the last alert about the same.
    pub(crate) repeated: u64,
}

/// A file of rules.
#[derive(Debug, Default, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct RuleFile {
    #[serde(default)]
    lists: BTreeMap<String, Vec<String>>,
    #[serde(default)]
    rule: Vec<RuleText>,
}

#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct RuleText {
    id: String,
    title: String,
    #[serde(default)]
    attack: Vec<String>,
    severity: String,
    on: Vec<String>,
    when: Vec<toml::Table>,
    #[serde(default)]
    unless: Vec<toml::Table>,
    many: Option<ManyText>,
    /// Texts are the same in capital and small letters.
    #[serde(default)]
    ignore_case: bool,
    /// What else it fires on, for whoever reads the alert.
    #[serde(default)]
    benign: String,
    trigger: Option<String>,
}

#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct ManyText {
    /// Different addresses and ports.
    at_least: usize,
    seconds: u32,
}

/// Reads the rules of a file.
///
/// # Errors
/// Everything that is wrong, with the rule that has it.
pub(crate) fn parse(text: &str) -> Result<Vec<Rule>, Vec<String>> {
    let file: RuleFile = toml::from_str(text).map_err(|error| vec![error.to_string().trim().to_owned()])?;
    let mut problems = Vec::new();
    let mut rules: Vec<Rule> = Vec::new();
    for rule in file.rule {
        let id = rule.id.clone();
        match compile(rule, &file.lists) {
            Ok(rule) if rules.iter().any(|other| other.id == rule.id) => {
                problems.push(format!("rule {id}: duplicate ID"));
            }
            Ok(rule) => rules.push(rule),
            Err(problem) => problems.push(format!("rule {id}: {problem}")),
        }
    }
    if problems.is_empty() { Ok(rules) } else { Err(problems) }
}

fn compile(text: RuleText, lists: &BTreeMap<String, Vec<String>>) -> Result<Rule, String> {
    let severity =
        Severity::from_name(&text.severity).ok_or(format!("unknown severity {:?}", text.severity))?;
    let on = text
        .on
        .iter()
        .map(|name| Kind::from_name(name).ok_or(format!("unknown kind {name:?}")))
        .collect::<Result<Vec<_>, _>>()?;
    if on.is_empty() || text.when.is_empty() {
        return Err("\"on\" and \"when\" must have at least one entry".to_owned());
    }
    let all = |tables: &[toml::Table]| {
        tables.iter().map(|table| conditions(table, lists, text.ignore_case)).collect::<Result<Vec<_>, _>>()
    };
    Ok(Rule {
        when: all(&text.when)?,
        unless: all(&text.unless)?,
        id: text.id,
        title: text.title,
        attack: text.attack,
        severity,
        benign: text.benign,
        on,
        many: text
            .many
            .map(|many| Many { at_least: many.at_least, within: i64::from(many.seconds) * 1_000_000 }),
        trigger: text.trigger,
    })
}

/// `{ exe.name = … }` is a table within a table: both are one key.
fn conditions(
    table: &toml::Table,
    lists: &BTreeMap<String, Vec<String>>,
    ignore_case: bool,
) -> Result<Conditions, String> {
    let mut all = Vec::new();
    for (key, value) in table {
        match value {
            toml::Value::Table(inner) => {
                for (second, value) in inner {
                    all.push(condition(&format!("{key}.{second}"), value, lists, ignore_case)?);
                }
            }
            toml::Value::Array(more) if key == "and" => {
                for one in more {
                    let one = one.as_table().ok_or("\"and\" must be a list of tables".to_owned())?;
                    all.extend(conditions(one, lists, ignore_case)?);
                }
            }
            value => all.push(condition(key, value, lists, ignore_case)?),
        }
    }
    let mut conditions = all;
    if conditions.is_empty() {
        return Err("an empty condition would match everything".to_owned());
    }
    // What costs least is asked first.
    conditions.sort_by_key(|(field, _)| field.cost());
    Ok(conditions)
}

fn condition(
    key: &str,
    value: &toml::Value,
    lists: &BTreeMap<String, Vec<String>>,
    ignore_case: bool,
) -> Result<(Field, Vec<Pattern>), String> {
    let field = Field::from_name(key).ok_or(format!("unknown field {key:?}"))?;
    let mut texts = Vec::new();
    let mut add = |value: &toml::Value| -> Result<(), String> {
        let text = match value {
            toml::Value::String(text) => text.clone(),
            toml::Value::Integer(number) => number.to_string(),
            toml::Value::Boolean(is) => is.to_string(),
            other => return Err(format!("{key} cannot be a {}", other.type_str())),
        };
        match text.strip_prefix('$') {
            Some(name) => {
                texts.extend(lists.get(name).ok_or(format!("unknown list {name:?}"))?.iter().cloned());
            }
            None => texts.push(text),
        }
        Ok(())
    };
    match value {
        toml::Value::Array(values) => values.iter().try_for_each(&mut add)?,
        value => add(value)?,
    }
    let parse = |text: &String| Pattern::parse(field, text, ignore_case);
    let patterns = texts.iter().map(parse).collect::<Result<Vec<_>, _>>()?;
    Ok((field, patterns))
}

fn fits(conditions: &Conditions, facts: &Facts<'_>, excuses: bool) -> bool {
    conditions.iter().all(|(field, patterns)| facts.any(*field, patterns, excuses))
}

impl Rules {
    /// These rules, without those whose ids are `disabled`.
    pub(crate) fn new(rules: Vec<Rule>, disabled: &[String]) -> Self {
        let rules: Vec<Rule> = rules.into_iter().filter(|rule| !disabled.contains(&rule.id)).collect();
        let mut by_kind: HashMap<Kind, Vec<usize>> = HashMap::new();
        for (number, rule) in rules.iter().enumerate() {
            for kind in &rule.on {
                by_kind.entry(*kind).or_default().push(number);
            }
        }
        Self {
            tallies: vec![Tally::default(); rules.len()],
            rules,
            by_kind,
            counted: Bounded::new(MOST_COUNTED),
            quiet: Bounded::new(MOST_QUIET),
        }
    }

    /// All rules with what they did so far.
    pub(crate) fn tallies(&self) -> impl Iterator<Item = (&Rule, Tally)> {
        self.rules.iter().zip(self.tallies.iter().copied())
    }

    /// Asks all rules about one record. `now` is a clock that nobody sets, in microseconds: one that is set back would
    /// keep what has just been told from being told again until it is there again.
    pub(crate) fn ask(&mut self, facts: &Facts<'_>, now: i64) -> Vec<Fired<'_>> {
        let Some(numbers) = self.by_kind.get(&facts.kind()) else { return Vec::new() };
        let mut fired = Vec::new();
        for number in numbers {
            let rule = &self.rules[*number];
            let tally = &mut self.tallies[*number];
            tally.asked += 1;
            // One in 64 is measured: the clock costs as much as a rule.
            #[expect(clippy::disallowed_methods, reason = "the cost of a rule is real time")]
            let began = (tally.asked % 64 == 1).then(std::time::Instant::now);
            let does = rule.when.iter().any(|when| fits(when, facts, false))
                && !rule.unless.iter().any(|unless| fits(unless, facts, true));
            if let Some(began) = began {
                tally.nanoseconds += u64::try_from(began.elapsed().as_nanos()).unwrap_or(0) * 64;
            }
            if !does || !is_enough(&mut self.counted, *number, rule, facts, now) {
                continue;
            }
            tally.fired += 1;
            let about = (*number, facts.program_path().to_vec(), facts.uid());
            match self.quiet.get_mut(&about) {
                Some((told, repeated)) if now - *told < QUIET => {
                    *repeated += 1;
                    tally.repeated += 1;
                    continue;
                }
                Some((told, repeated)) => {
                    *told = now;
                    fired.push((*number, std::mem::take(repeated)));
                }
                None => {
                    self.quiet.insert(about, facts.account(), (now, 0));
                    fired.push((*number, 0));
                }
            }
        }
        fired.into_iter().map(|(number, repeated)| Fired { rule: &self.rules[number], repeated }).collect()
    }
}

/// Counts different targets of one process, where the rule wants many.
fn is_enough(
    counted: &mut Bounded<(usize, Key), Counted>,
    number: usize,
    rule: &Rule,
    facts: &Facts<'_>,
    now: i64,
) -> bool {
    let Some(many) = &rule.many else { return true };
    let key = (number, facts.counted());
    if counted.get(&key).is_none() {
        counted.insert(key, facts.account(), Counted::default());
    }
    let Some(known) = counted.get_mut(&key) else { return false };
    if now - known.since > many.within {
        known.since = now;
        known.targets.clear();
    }
    known.targets.insert(facts.target());
    if known.targets.len() >= many.at_least {
        known.targets.clear();
        return true;
    }
    false
}

#[cfg(test)]
mod tests;
