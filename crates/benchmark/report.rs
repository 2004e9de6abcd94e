//! What was measured, as a table for people and as JSON for programs.

use std::error::Error;
use std::io::Write;
use std::path::Path;
use std::time::Duration;

use comfy_table::{CellAlignment, Table};
use serde::Serialize;

use crate::BenchResult;

/// Which side of the limit is good.
#[derive(Debug, Clone, Copy)]
pub enum Goal {
    /// At least this.
    AtLeast(f64),
    /// At most this.
    AtMost(f64),
}

/// One figure.
#[derive(Debug, Serialize)]
pub struct Measure {
    subject: &'static str,
    what: String,
    value: f64,
    unit: &'static str,
    /// The same figure of the peer, measured in the same run.
    #[serde(skip_serializing_if = "Option::is_none")]
    peer: Option<f64>,
    /// `value` divided by `peer`.
    #[serde(skip_serializing_if = "Option::is_none")]
    ratio: Option<f64>,
    /// The limit on the ratio, or on the value where there is no peer.
    #[serde(skip_serializing_if = "Option::is_none")]
    goal: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    met: Option<bool>,
}

impl Measure {
    /// A figure without a peer or a goal.
    pub fn new(subject: &'static str, what: impl Into<String>, value: f64, unit: &'static str) -> Self {
        Self { subject, what: what.into(), value, unit, peer: None, ratio: None, goal: None, met: None }
    }

    /// The peer's figure; what [`Measure::goal`] judges is then the ratio.
    #[must_use]
    pub fn against(mut self, peer: f64) -> Self {
        self.peer = Some(peer);
        self.ratio = Some(self.value / peer);
        self
    }

    /// The limit.
    #[must_use]
    pub fn goal(mut self, goal: Goal) -> Self {
        let judged = self.ratio.unwrap_or(self.value);
        let (text, met) = match goal {
            Goal::AtLeast(limit) => (format!(">= {}", number(limit)), judged >= limit),
            Goal::AtMost(limit) => (format!("<= {}", number(limit)), judged <= limit),
        };
        self.goal = Some(text);
        self.met = Some(met);
        self
    }
}

/// Everything that was measured.
#[derive(Debug, Serialize)]
pub struct Report {
    quick: bool,
    processors: usize,
    measures: Vec<Measure>,
    /// What could not be measured, and why.
    not_measured: Vec<String>,
    #[serde(skip)]
    talks: bool,
}

impl Report {
    /// An empty report of a short or a full run; `talks`: progress is printed.
    #[must_use]
    pub fn new(quick: bool, talks: bool) -> Self {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        Self { quick, processors, measures: Vec::new(), not_measured: Vec::new(), talks }
    }

    /// Adds a figure.
    pub fn add(&mut self, measure: Measure) {
        self.measures.push(measure);
    }

    /// Tells a person who waits what is being done.
    pub fn progress(&self, text: &str) {
        if self.talks {
            complain(text);
        }
    }

    /// Adds what could not be measured, and why.
    pub fn not_measured(&mut self, subject: &str, error: &dyn Error) {
        self.not_measured.push(format!("{subject}: {error}"));
    }

    /// Prints the report and writes it as JSON to `path`.
    ///
    /// # Errors
    /// When the JSON cannot be written.
    pub fn finish(&self, json: bool, path: &Path) -> BenchResult<()> {
        let text = serde_json::to_string_pretty(self)?;
        if let Some(directory) = path.parent() {
            std::fs::create_dir_all(directory)?;
        }
        std::fs::write(path, format!("{text}\n"))?;
        if json {
            say(&text);
        } else {
            say(&self.table().to_string());
            for problem in &self.not_measured {
                say(&format!("NOT MEASURED {problem}"));
            }
            say(&format!("JSON: {}", path.display()));
        }
        Ok(())
    }

    fn table(&self) -> Table {
        let mut table = Table::new();
        table.load_style(comfy_table::presets::UTF8_HORIZONTAL_ONLY);
        table.set_header(["subject", "measure", "vigie", "unit", "peer", "ratio", "goal", ""]);
        for measure in &self.measures {
            let optional = |value: Option<f64>| value.map(number).unwrap_or_default();
            table.add_row([
                measure.subject.to_owned(),
                measure.what.clone(),
                number(measure.value),
                measure.unit.to_owned(),
                optional(measure.peer),
                optional(measure.ratio),
                measure.goal.clone().unwrap_or_default(),
                measure.met.map_or("", |met| if met { "met" } else { "MISSED" }).to_owned(),
            ]);
        }
        for index in [2, 4, 5] {
            if let Some(column) = table.column_mut(index) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        table
    }
}

/// A number with three digits that count, and whole from 100 on.
fn number(value: f64) -> String {
    match value.abs() {
        0.0 => "0".to_owned(),
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        size if size >= 0.1 => format!("{value:.2}"),
        _ => format!("{value:.4}"),
    }
}

/// The middle one of several values; the mean of the two middle ones when their number is even.
#[must_use]
pub fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values {
        [] => f64::NAN,
        _ if values.len() % 2 == 1 => values[middle],
        _ => f64::midpoint(values[middle - 1], values[middle]),
    }
}

/// Items a second.
#[must_use]
pub fn rate(items: u64, time: Duration) -> f64 {
    items as f64 / time.as_secs_f64()
}

/// Writes a line to standard output; nobody is there to be told when that fails.
pub fn say(text: &str) {
    writeln!(std::io::stdout().lock(), "{text}").ok();
}

/// Writes a line to standard error.
pub fn complain(text: &str) {
    writeln!(std::io::stderr().lock(), "{text}").ok();
}
