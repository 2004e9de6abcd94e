//! Planned changes: what is below some paths is recorded as expected for a while, and counted.

use std::path::{Component, Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use vigie_sdk::protocol::Asker;

use super::orders::listed;
use super::{Engine, Sink, now, text_of_time};
use crate::change::{Alert, Event, notice, shown};
use crate::ledger::Entry;
use crate::query::path_from_text;
use crate::rules::Severity;

/// Plans at a time.
const MAX_PLANS: usize = 64;

/// Paths of one plan.
const MAX_PATHS: usize = 100;

/// Longest time that somebody may plan for.
const LONGEST: Duration = Duration::from_secs(7 * 24 * 3600);

/// A plan. This is what the store keeps of it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Plan {
    id: String,
    paths: Vec<PathBuf>,
    since: SystemTime,
    until: SystemTime,
    /// Who plans, as he says, and as the agent proves.
    by: String,
    asker: Option<Asker>,
    count: u64,
    samples: Vec<String>,
}

/// Why something cannot be planned.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
enum Refused {
    #[error("name the paths: a plan for all paths would hide everything")]
    Everything,
    #[error("write the paths without `..`: what is watched has none")]
    Upwards,
    #[error("at most {MAX_PATHS} paths and {MAX_PLANS} plans at a time")]
    TooMany,
    #[error("the end must be in the future, and at most seven days away")]
    End,
}

fn check(paths: &[PathBuf], plans: usize, until: SystemTime, now: SystemTime) -> Result<(), Refused> {
    if paths.is_empty() || paths.iter().any(|path| path.parent().is_none() || path.is_relative()) {
        return Err(Refused::Everything);
    }
    if paths.iter().flat_map(|path| path.components()).any(|part| part == Component::ParentDir) {
        return Err(Refused::Upwards);
    }
    if paths.len() > MAX_PATHS || plans >= MAX_PLANS {
        return Err(Refused::TooMany);
    }
    match until.duration_since(now) {
        Ok(time) if !time.is_zero() && time <= LONGEST => Ok(()),
        _ => Err(Refused::End),
    }
}

/// The plans that are in force.
#[derive(Debug, Default)]
pub(super) struct Plans {
    plans: Vec<Plan>,
    made: u64,
    /// When the time was last looked at.
    looked: Option<Instant>,
}

impl Plans {
    pub(super) fn restore(&mut self, plans: Vec<Plan>) {
        self.plans = plans;
    }

    pub(super) fn kept(&self) -> &[Plan] {
        &self.plans
    }

    /// Time until a plan may be over. The clock may be set meanwhile, so it is looked at now and then.
    pub(super) fn next(&self) -> Option<Duration> {
        let wall = SystemTime::now();
        let ends = self.plans.iter().map(|plan| plan.until.duration_since(wall).unwrap_or_default());
        ends.min().map(|time| time.min(Duration::from_secs(60)).max(Duration::from_millis(50)))
    }
}

impl<S: Sink> Engine<S> {
    /// Takes a plan.
    pub(super) fn plan(
        &mut self,
        paths: &[PathBuf],
        until: SystemTime,
        by: &str,
        asker: Option<&Asker>,
    ) -> Value {
        let wall = SystemTime::now();
        if let Err(why) = check(paths, self.plans.plans.len(), until, wall) {
            return json!({"refused": why.to_string()});
        }
        self.plans.made += 1;
        let plan = Plan {
            id: format!("{:016x}-e{}", self.ledger.epoch(), self.plans.made),
            paths: paths.to_vec(),
            since: wall,
            until,
            by: by.to_owned(),
            asker: asker.cloned(),
            count: 0,
            samples: Vec::new(),
        };
        let text =
            format!("{} expects changes of {} until {}", who(&plan), below(&plan), text_of_time(until));
        let told = alert_of(&plan, text);
        let answer = json!({"expected": told.group["paths"], "id": plan.id, "until": text_of_time(until)});
        self.plans.plans.push(plan);
        let groups = Some(self.groups_text());
        self.commit(Entry { alone: vec![told], groups, ..Entry::default() });
        answer
    }

    /// The plan that a change belongs to. A right that somebody gains belongs to none.
    pub(super) fn planned(&mut self, alert: &Alert, path: &Path) -> Option<String> {
        if alert.gains_rights || self.plans.plans.is_empty() {
            return None;
        }
        let wall = SystemTime::now();
        // What came from elsewhere is gone there, and nobody planned that.
        let from = alert.from.as_deref().map(path_from_text);
        let covers = |plan: &&mut Plan| {
            let is_in = |path: &Path| plan.paths.iter().any(|below| path.starts_with(below));
            plan.since <= wall && wall < plan.until && is_in(path) && from.as_deref().is_none_or(is_in)
        };
        let plan = self.plans.plans.iter_mut().find(covers)?;
        plan.count += 1;
        if plan.samples.len() < 10 && !plan.samples.contains(&alert.path) {
            plan.samples.push(alert.path.clone());
        }
        Some(plan.id.clone())
    }

    /// Ends the plans whose time is over.
    pub(super) fn tend_plans(&mut self) {
        let now = now();
        let looked =
            self.plans.looked.is_some_and(|last| now.duration_since(last) < Duration::from_millis(50));
        if self.plans.plans.is_empty() || looked {
            return;
        }
        self.plans.looked = Some(now);
        let wall = SystemTime::now();
        let (over, open): (Vec<Plan>, Vec<Plan>) =
            std::mem::take(&mut self.plans.plans).into_iter().partition(|plan| plan.until <= wall);
        self.plans.plans = open;
        if over.is_empty() {
            return;
        }
        let alone = over
            .iter()
            .map(|plan| {
                let count = plan.count;
                let text = format!(
                    "{count} expected changes of {} ({}); changes there are reported as usual from now on",
                    below(plan),
                    who(plan)
                );
                Alert { count: (count > 0).then_some(count), ..alert_of(plan, text) }
            })
            .collect();
        let groups = Some(self.groups_text());
        self.commit(Entry { alone, groups, ..Entry::default() });
    }
}

fn who(plan: &Plan) -> String {
    let proved = plan.asker.as_ref().map(|asker| format!(" (asked by {asker})")).unwrap_or_default();
    format!("{}{proved}", plan.by)
}

fn below(plan: &Plan) -> String {
    listed(&plan.paths.iter().map(|path| shown(path)).collect::<Vec<_>>())
}

fn alert_of(plan: &Plan, text: String) -> Alert {
    let paths: Vec<String> = plan.paths.iter().map(|path| shown(path)).collect();
    let mut group = json!({
        "id": plan.id, "by": plan.by, "paths": paths, "samples": plan.samples,
        "from": text_of_time(plan.since), "to": text_of_time(plan.until),
    });
    if let Some(asker) = &plan.asker {
        group["asker"] = json!(asker);
    }
    let time = text_of_time(SystemTime::now());
    Alert {
        severity: Severity::Low,
        event: Event::Expected,
        group,
        ..notice(paths.first().cloned().unwrap_or_default(), text, &time)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_is_for_some_paths_and_for_some_days_at_most() {
        let now = SystemTime::now();
        let hour = now + Duration::from_secs(3600);
        let some = [PathBuf::from("/etc/nginx")];

        assert_eq!(check(&some, 0, hour, now), Ok(()));
        for everything in [&[][..], &[PathBuf::from("/")], &[PathBuf::from("/a"), PathBuf::from("/")]] {
            assert_eq!(check(everything, 0, hour, now), Err(Refused::Everything));
        }
        for upwards in ["/etc/nginx/..", "/../", "/etc/nginx/../ssh"] {
            assert_eq!(check(&[PathBuf::from(upwards)], 0, hour, now), Err(Refused::Upwards));
        }
        assert_eq!(check(&some, MAX_PLANS, hour, now), Err(Refused::TooMany));
        for end in [now, now - Duration::from_secs(1), now + LONGEST + Duration::from_secs(1)] {
            assert_eq!(check(&some, 0, end, now), Err(Refused::End));
        }
    }
}
