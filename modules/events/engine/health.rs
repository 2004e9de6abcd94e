//! How the engine is: what was lost, conditions, and everything at once for an answer.

use vigie_kernel_events::{Account, Source, SourceKind, Whose};
use vigie_sdk::{Condition, ConditionSeverity};

use super::{Engine, Look, RuleLook, Sink};
use crate::alert;
use crate::config::Pack;
use crate::history::lanes::Lanes;
use crate::record::{Key, Record, What};

impl<S: Sink> Engine<S> {
    /// Tells what was lost, once a second, or `at_once`.
    pub(super) fn count_losses(&mut self, now: i64, at_once: bool) {
        if !at_once && !self.losses.is_due(now) {
            return;
        }
        let counters = self.source.as_ref().and_then(|source| source.counters().ok());
        let refused = self.store.as_mut().map(Lanes::take_refused);
        let mut refused = refused.unwrap_or(Whose::ALL.map(|whose| (whose, 0)));
        for ((_, count), more) in refused.iter_mut().zip(std::mem::take(&mut self.not_kept)) {
            *count += more;
        }
        let all = self.losses.update(counters.as_ref(), refused, now);
        for lost in &all {
            self.sink.log(&format!(
                "{lost} were lost between {} and {}",
                alert::time_text(lost.from),
                alert::time_text(now)
            ));
            let what = What::Lost { kind: lost.name().into(), count: lost.count, from: lost.from };
            self.keep(Record { time: now, who: Key::default(), what }, Account::TRUSTED);
        }
        for lost in self.losses.alerts(&all, now) {
            self.sink.alert(&alert::lost(&lost, now));
        }
    }

    pub(super) fn tell_health(&mut self, now: i64, steady: i64) {
        let mut conditions = Vec::new();
        let mut set = |name: &str, severity: ConditionSeverity, detail: Option<String>| {
            let Some(detail) = detail else { return };
            let known = self.told.iter().find(|condition| condition.name == name);
            let since = known.map_or_else(|| alert::time_text(now), |known| known.since.clone());
            conditions.push(Condition { name: name.to_owned(), severity, since, detail });
        };
        let nothing = self.source.is_none().then(|| self.not_used.join("; "));
        set("no-source", ConditionSeverity::Failed, nothing);
        let lesser = self.source.as_ref().filter(|source| source.kind() != SourceKind::Bpf);
        let lesser = lesser.filter(|_| self.setup.bpf).map(|source| {
            let blind = source.kind().blind_spots().join(", ");
            format!("{} is used and does not see: {blind}", source.kind().name())
        });
        set("lesser-source", ConditionSeverity::Warning, lesser);
        let silent = self.source.as_ref().filter(|_| self.proof.is_overdue(steady));
        let silent =
            silent.map(|_| "the source did not report a program that was run as a self-test".to_owned());
        set("source-silent", ConditionSeverity::Failed, silent);
        set("events-lost", ConditionSeverity::Warning, self.losses.recent(now));
        let problem =
            |pack: &Pack| pack.rules.as_ref().err().map(|problem| format!("{}: {problem}", pack.name));
        let refused: Vec<String> = self.setup.packs.iter().filter_map(problem).collect();
        set(
            "rule-pack-refused",
            ConditionSeverity::Warning,
            (!refused.is_empty()).then(|| refused.join("; ")),
        );
        set("history-not-written", ConditionSeverity::Failed, self.history_problem.clone());
        let damage = (!self.damage.is_empty()).then(|| self.damage.join("; "));
        set("history-damaged", ConditionSeverity::Warning, damage);
        let same = |a: &Condition, b: &Condition| a.name == b.name && a.detail == b.detail;
        if conditions.len() != self.told.len() || conditions.iter().zip(&self.told).any(|(a, b)| !same(a, b))
        {
            self.told = conditions.clone();
            self.sink.health(conditions);
        }
    }

    pub(crate) fn look(&self) -> Look {
        Look {
            open: self.store.as_ref().map(Lanes::snapshot).unwrap_or_default(),
            source: self.source.as_ref().map(Source::kind),
            not_used: self.not_used.clone(),
            blind: self.host.blind_spots(),
            tells_credentials: self.source.as_ref().is_some_and(Source::tells_credentials),
            proved: self.proof.proved(),
            counters: self.source.as_ref().and_then(|source| source.counters().ok()).unwrap_or_default(),
            since: self.since,
            extents: self.store.as_ref().map(Lanes::extents).unwrap_or_default(),
            budget: self.setup.budget,
            processes: self.table.len(),
            kinds: self.setup.kinds.clone(),
            unrecorded: self.unrecorded(),
            noted: self.noted + self.offset,
            conditions: self.told.clone(),
            packs: self.setup.packs.clone(),
            rules: self
                .rules
                .tallies()
                .map(|(rule, tally)| RuleLook {
                    id: rule.id.clone(),
                    title: rule.title.clone(),
                    attack: rule.attack.clone(),
                    severity: rule.severity.name(),
                    asked: tally.asked,
                    fired: tally.fired,
                    repeated: tally.repeated,
                    nanoseconds: tally.nanoseconds,
                })
                .collect(),
        }
    }
}
