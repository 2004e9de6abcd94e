//! What the investigator gets.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use serde::Serialize;
use vigie_sdk::privacy::{MASKED, Showing};
use vigie_sdk::{Coverage, ModuleResult, NotExamined};

use crate::allowance::ROOT;
use crate::record::{Program, Record, Verdict};

/// Most bytes of all entries together; an answer stays below the 16 MiB that an agent takes.
const MAX_BYTES: usize = 14 << 20;

/// When not all entries fit, those of one account beyond so many bytes are left out first, so that nobody pushes out
/// others'. Root's are not limited.
const SHARE: usize = MAX_BYTES / 16;

/// Most bytes of the list of what was not examined.
const MAX_COVERAGE: usize = 1 << 20;

/// What a scan found.
#[derive(Debug, Default)]
pub(crate) struct Finished {
    pub(crate) records: Vec<Record>,
    pub(crate) coverage: Coverage,
    pub(crate) examined: u64,
}

#[derive(Debug, Serialize)]
struct Elements<'a> {
    entries: &'a [Record],
}

#[derive(Debug, Serialize)]
struct Statistics {
    examined: u64,
    totalhits: usize,
    exectime: String,
    verdicts: BTreeMap<&'static str, usize>,
}

/// Writes the answer.
pub(crate) fn answer(finished: Finished, extraprivacy: bool, elapsed: Duration) -> ModuleResult {
    let Finished { mut records, mut coverage, examined } = finished;
    let total = records.len();
    let mut verdicts = BTreeMap::new();
    for record in &records {
        if let Some((name, _)) = Verdict::NAMES.iter().find(|(_, verdict)| Some(*verdict) == record.verdict) {
            *verdicts.entry(*name).or_insert(0) += 1;
        }
    }
    // What nobody explains comes first: it is what an answer that is cut must still have.
    records.sort_by(|a, b| {
        let rank = |record: &Record| match record.verdict {
            Some(Verdict::Local) => 0,
            Some(Verdict::Modified) => 1,
            Some(Verdict::Unknown) | None => 2,
            Some(Verdict::Derived) => 3,
            Some(Verdict::Packaged) => 4,
        };
        (rank(a), a.kind, &a.file, a.line, a.technique).cmp(&(rank(b), b.kind, &b.file, b.line, b.technique))
    });
    if extraprivacy {
        records.iter_mut().for_each(mask);
    }
    records = fitting(records, MAX_BYTES, SHARE);
    let listed = records.len();
    let mut errors = Vec::new();
    if listed < total {
        let note = format!(
            "{listed} of {total} entries are listed because of the size limit of a result: query fewer kinds or verdicts"
        );
        coverage.skip("entries beyond the size limit of a result", note.clone());
        errors.push(note);
    }
    shorten(&mut coverage);
    coverage.examined = examined;
    let statistics = Statistics { examined, totalhits: total, exectime: format!("{elapsed:?}"), verdicts };
    let mut result = ModuleResult::found(total > 0, &Elements { entries: &records })
        .with_statistics(&statistics)
        .with_coverage(coverage);
    result.errors = (!errors.is_empty()).then_some(errors);
    result
}

/// The first records that fit. What one account has beyond its share comes after all others.
fn fitting(records: Vec<Record>, room: usize, share: usize) -> Vec<Record> {
    let lengths: Vec<usize> =
        records.iter().map(|record| serde_json::to_vec(record).map_or(0, |text| text.len() + 1)).collect();
    let mut taken: HashMap<u32, usize> = HashMap::new();
    let is_over = |(record, length): (&Record, &usize)| {
        let taken = taken.entry(record.payer).or_default();
        *taken += length;
        record.payer != ROOT && *taken > share
    };
    let over: Vec<bool> = records.iter().zip(&lengths).map(is_over).collect();
    let mut order: Vec<usize> = (0..records.len()).collect();
    order.sort_by_key(|place| over[*place]);
    let mut bytes = 0;
    let fits = |place: &usize| {
        bytes += lengths[*place];
        bytes <= room
    };
    let kept: HashSet<usize> = order.into_iter().take_while(fits).collect();
    let places = records.into_iter().zip(0..);
    places.filter(|(_, place)| kept.contains(place)).map(|(record, _)| record).collect()
}

/// Leaves out what the list of an answer that fits has no room for; names can be long.
fn shorten(coverage: &mut Coverage) {
    let mut bytes = 0;
    let fits = |skipped: &NotExamined| {
        bytes += serde_json::to_vec(skipped).map_or(0, |text| text.len() + 1);
        bytes <= MAX_COVERAGE
    };
    let listed = coverage.not_examined.iter().map(fits).take_while(|fits| *fits).count();
    if listed < coverage.not_examined.len() {
        coverage.not_examined.truncate(listed);
        coverage.skip("more", "the list is cut here");
    }
}

fn mask(record: &mut Record) {
    let hide = |text: &mut String| {
        if !text.is_empty() {
            MASKED.clone_into(text);
        }
    };
    hide(&mut record.file);
    hide(&mut record.command);
    hide(&mut record.when);
    for text in [
        &mut record.user,
        &mut record.package,
        &mut record.target,
        &mut record.owner,
        &mut record.mode,
        &mut record.sha256,
    ] {
        text.as_mut().map(hide);
    }
    // A day says little, a second says which.
    if let Some(time) = &mut record.mtime {
        time.truncate("2026-01-01".len());
    }
    if record.program.is_some() {
        record.program = Some(Program { path: MASKED.to_owned(), package: None, missing: false });
    }
    record.uid = None;
    record.size = None;
    record.line = None;
    record.notes.clear();
}

fn is_day(text: &str) -> bool {
    text.len() <= "2026-01-01".len() && text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'-')
}

/// What an answer may show in extra privacy mode: kinds, ATT&CK numbers, verdicts and how many.
#[must_use]
pub fn masked_form(place: &[&str]) -> Showing {
    match place {
        ["elements"] | ["elements", "entries"] => Showing::Inside,
        ["elements", "entries", key] => match *key {
            "kind" | "technique" | "attack" | "verdict" | "inactive" | "made_by" => Showing::Unnamed,
            "immutable" => Showing::Unnamed,
            "mtime" => Showing::Text(is_day),
            "file" | "command" | "when" | "user" | "package" | "target" | "owner" | "mode" | "sha256" => {
                Showing::Hidden
            }
            "program" => Showing::Inside,
            _ => Showing::Nothing,
        },
        ["elements", "entries", "program", "path" | "package"] => Showing::Hidden,
        ["statistics"] | ["statistics", "verdicts"] => Showing::Inside,
        ["statistics", "examined" | "totalhits" | "exectime"] | ["statistics", "verdicts", _] => {
            Showing::Unnamed
        }
        ["errors"] => Showing::Unnamed,
        _ => Showing::Nothing,
    }
}
