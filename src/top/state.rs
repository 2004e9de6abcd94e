//! What `vigie top` knows and shows, and what keys do: without clock, terminal or agent.

use std::time::Duration;

use vigie_protocol::catalogue;
use vigie_protocol::condition::{StandingCondition, Subject};
use vigie_protocol::control::{AgentStatus, AlertRecord, ModuleLine, ModuleStatus, SinkStatus};
use vigie_protocol::module_name::ModuleName;

use super::feed::Feed;

/// Alerts that are kept.
const ALERTS: usize = 500;

/// Lines of a module that are kept.
const LINES: usize = 1000;

/// Lines that Page Up and Page Down go.
const PAGE: isize = 10;

/// What happened.
#[derive(Debug)]
pub(super) enum News {
    /// The agent's status, at this time since the start.
    Status(Box<AgentStatus>, Duration),
    /// The agent cannot be asked, and why.
    Away(String),
    /// An alert that was recorded.
    Alert(AlertRecord),
    /// Alerts are missing, as a sentence.
    Missing(String),
    /// A line of the stream with this number.
    Line(u64, ModuleLine),
    /// The stream with this number ended, and why.
    Ended(u64, String),
    /// A key was pressed.
    Key(Key),
}

/// A key that means something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Key {
    Up,
    Down,
    PageUp,
    PageDown,
    Home,
    End,
    Enter,
    Back,
    Next,
    Previous,
    Letter(char),
}

/// What the shell has to do.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Order {
    Quit,
    /// Open a stream of a module's lines and close the one before.
    Open(u64, ModuleName, Tab),
    Close,
}

/// Parts of the first screen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    Modules,
    Sinks,
    Conditions,
    Alerts,
}

impl Part {
    pub(super) const ALL: [Self; 4] = [Self::Modules, Self::Sinks, Self::Conditions, Self::Alerts];
}

/// What is shown of a module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tab {
    Log,
    Tap,
    Conditions,
}

impl Tab {
    pub(super) const ALL: [Self; 3] = [Self::Log, Self::Tap, Self::Conditions];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Log => "log",
            Self::Tap => "tap",
            Self::Conditions => "conditions",
        }
    }

    fn of(letter: char) -> Option<Self> {
        Self::ALL.into_iter().find(|tab| tab.name().starts_with(letter))
    }
}

/// One module, looked into.
#[derive(Debug)]
pub(super) struct ModuleView {
    pub(super) name: ModuleName,
    pub(super) tab: Tab,
    pub(super) lines: Feed<ModuleLine>,
    pub(super) ended: Option<String>,
    pub(super) condition: usize,
}

/// A text that is read.
#[derive(Debug)]
pub(super) struct TextView {
    pub(super) title: String,
    pub(super) text: String,
    /// Lines above the screen, as far as there are so many.
    pub(super) above: usize,
}

/// How fast something goes, between the two newest statuses.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Rate {
    /// Share of one processor, in per cent.
    pub(super) cpu: Option<f64>,
    pub(super) logs: Option<f64>,
    pub(super) alerts: Option<f64>,
}

/// Everything that is shown.
#[derive(Debug)]
pub(super) struct State {
    pub(super) status: Option<Box<AgentStatus>>,
    at: Duration,
    before: Option<(Box<AgentStatus>, Duration)>,
    /// Why the status is not of now.
    pub(super) away: Option<String>,
    pub(super) alerts: Feed<Result<AlertRecord, String>>,
    pub(super) part: Part,
    pub(super) module: usize,
    pub(super) sink: usize,
    pub(super) condition: usize,
    pub(super) looked_into: Option<ModuleView>,
    pub(super) text: Option<TextView>,
    streams: u64,
}

impl State {
    /// Before anything is known.
    pub(super) fn new() -> Self {
        Self {
            status: None,
            at: Duration::ZERO,
            before: None,
            away: None,
            alerts: Feed::new(ALERTS),
            part: Part::Modules,
            module: 0,
            sink: 0,
            condition: 0,
            looked_into: None,
            text: None,
            streams: 0,
        }
    }

    /// Takes in what happened.
    pub(super) fn take(&mut self, news: News) -> Option<Order> {
        match news {
            News::Status(status, at) => {
                let before = self.status.replace(status).map(|before| (before, self.at));
                // Another agent counts from the beginning.
                self.before = before.filter(|(before, _)| {
                    self.status.as_ref().is_some_and(|now| now.started_at == before.started_at)
                });
                self.at = at;
                self.away = None;
                self.hold_choices();
            }
            News::Away(reason) => self.away = Some(reason),
            News::Alert(alert) => self.alerts.push(Ok(alert)),
            News::Missing(sentence) => self.alerts.push(Err(sentence)),
            News::Line(stream, line) if stream == self.streams => {
                if let Some(view) = &mut self.looked_into {
                    view.ended = None;
                    view.lines.push(line);
                }
            }
            News::Ended(stream, reason) if stream == self.streams => {
                if let Some(view) = &mut self.looked_into {
                    view.ended = Some(reason);
                }
            }
            News::Line(..) | News::Ended(..) => {}
            News::Key(key) => return self.press(key),
        }
        None
    }

    /// Choices stay within what there is.
    fn hold_choices(&mut self) {
        let last = |count: usize| count.saturating_sub(1);
        self.module = self.module.min(last(self.modules().len()));
        self.sink = self.sink.min(last(self.sinks().len()));
        self.condition = self.condition.min(last(self.conditions().len()));
        let count = self.looked_into.as_ref().map(|view| self.conditions_of(&view.name).count());
        if let (Some(view), Some(count)) = (&mut self.looked_into, count) {
            view.condition = view.condition.min(last(count));
        }
        if !self.has(self.part) {
            self.part = Part::Modules;
        }
    }

    pub(super) fn modules(&self) -> &[ModuleStatus] {
        self.status.as_ref().map_or(&[], |status| &status.modules)
    }

    pub(super) fn sinks(&self) -> &[SinkStatus] {
        self.status.as_ref().map_or(&[], |status| &status.sinks)
    }

    pub(super) fn conditions(&self) -> &[StandingCondition] {
        self.status.as_ref().map_or(&[], |status| &status.conditions)
    }

    /// What is wrong with a module.
    pub(super) fn conditions_of(&self, module: &ModuleName) -> impl Iterator<Item = &StandingCondition> {
        self.conditions()
            .iter()
            .filter(move |standing| matches!(&standing.about, Subject::Module(name) if name == module))
    }

    /// Whether a part of the first screen is there to be chosen.
    pub(super) fn has(&self, part: Part) -> bool {
        part != Part::Sinks || !self.sinks().is_empty()
    }

    fn press(&mut self, key: Key) -> Option<Order> {
        if key == Key::Letter('q') {
            return Some(Order::Quit);
        }
        if let Some(view) = &mut self.text {
            match steps(key) {
                Some(by) => view.above = view.above.saturating_add_signed(by),
                None if matches!(key, Key::Back | Key::Enter) => self.text = None,
                None => {}
            }
            return None;
        }
        if self.looked_into.is_some() { self.press_in_module(key) } else { self.press_in_overview(key) }
    }

    fn press_in_overview(&mut self, key: Key) -> Option<Order> {
        if let Some(by) = steps(key) {
            let step = |at: usize, count: usize| at.saturating_add_signed(by).min(count.saturating_sub(1));
            match self.part {
                Part::Modules => self.module = step(self.module, self.modules().len()),
                Part::Sinks => self.sink = step(self.sink, self.sinks().len()),
                Part::Conditions => self.condition = step(self.condition, self.conditions().len()),
                Part::Alerts => self.alerts.step(by),
            }
            return None;
        }
        match key {
            Key::Next | Key::Previous => {
                let parts: Vec<Part> = Part::ALL.into_iter().filter(|part| self.has(*part)).collect();
                let at = parts.iter().position(|part| *part == self.part).unwrap_or(0);
                let by = if key == Key::Next { 1 } else { parts.len() - 1 };
                self.part = parts[(at + by) % parts.len()];
                None
            }
            Key::Enter if self.part == Part::Modules => self.look_into(Tab::Log),
            Key::Enter => {
                self.text = match self.part {
                    Part::Modules => None,
                    Part::Sinks => self.sinks().get(self.sink).map(about_sink),
                    Part::Conditions => self.conditions().get(self.condition).map(about_condition),
                    Part::Alerts => self.alerts.chosen().map(about_alert),
                };
                None
            }
            Key::Letter(letter) => self.look_into(Tab::of(letter)?),
            _ => None,
        }
    }

    /// Opens the chosen module.
    fn look_into(&mut self, tab: Tab) -> Option<Order> {
        let name = self.modules().get(self.module)?.name.clone();
        self.looked_into = Some(ModuleView { name, tab, lines: Feed::new(LINES), ended: None, condition: 0 });
        self.stream()
    }

    /// Has the stream of the open module's tab opened.
    fn stream(&mut self) -> Option<Order> {
        self.streams += 1;
        let view = self.looked_into.as_ref()?;
        Some(match view.tab {
            Tab::Conditions => Order::Close,
            tab => Order::Open(self.streams, view.name.clone(), tab),
        })
    }

    fn press_in_module(&mut self, key: Key) -> Option<Order> {
        let count = self.looked_into.as_ref().map_or(0, |view| self.conditions_of(&view.name).count());
        let view = self.looked_into.as_mut()?;
        if let Some(by) = steps(key) {
            if view.tab == Tab::Conditions {
                view.condition = view.condition.saturating_add_signed(by).min(count.saturating_sub(1));
            } else {
                view.lines.step(by);
            }
            return None;
        }
        let at = Tab::ALL.iter().position(|tab| *tab == view.tab).unwrap_or(0);
        let tab = match key {
            Key::Back => {
                self.looked_into = None;
                self.streams += 1;
                return Some(Order::Close);
            }
            Key::Enter => {
                self.text = self.look_closer();
                return None;
            }
            Key::Next => Tab::ALL[(at + 1) % Tab::ALL.len()],
            Key::Previous => Tab::ALL[(at + Tab::ALL.len() - 1) % Tab::ALL.len()],
            Key::Letter(letter) => Tab::of(letter)?,
            _ => return None,
        };
        if view.tab != tab {
            view.tab = tab;
            view.lines = Feed::new(LINES);
            view.ended = None;
            return self.stream();
        }
        None
    }

    /// The chosen line or condition of the open module, whole.
    fn look_closer(&self) -> Option<TextView> {
        let view = self.looked_into.as_ref()?;
        if view.tab == Tab::Conditions {
            return self.conditions_of(&view.name).nth(view.condition).map(about_condition);
        }
        let line = view.lines.chosen()?;
        let title = format!("{} {} {}", view.name, line.source, line.time);
        Some(TextView { title, text: spread(&line.text), above: 0 })
    }

    /// How fast a module goes.
    pub(super) fn rate(&self, module: &ModuleStatus) -> Rate {
        let Some((before, at)) = &self.before else { return Rate::default() };
        let Some(old) = before.modules.iter().find(|old| old.name == module.name) else {
            return Rate::default();
        };
        let seconds = self.at.saturating_sub(*at).as_secs_f64();
        let same_process = old.pid == module.pid && old.incarnation == module.incarnation;
        let cpu = old.resources.zip(module.resources).filter(|_| same_process);
        Rate {
            cpu: cpu.and_then(|(old, now)| per_second(old.cpu_ms, now.cpu_ms, seconds)).map(|ms| ms / 10.0),
            logs: per_second(old.logs, module.logs, seconds),
            alerts: per_second(old.alerts, module.alerts, seconds),
        }
    }

    /// How fast the agent itself goes: its processor time, and alerts that it records.
    pub(super) fn own_rate(&self) -> Rate {
        let (Some((before, at)), Some(now)) = (&self.before, &self.status) else { return Rate::default() };
        let seconds = self.at.saturating_sub(*at).as_secs_f64();
        let cpu = before.resources.zip(now.resources);
        Rate {
            cpu: cpu.and_then(|(old, now)| per_second(old.cpu_ms, now.cpu_ms, seconds)).map(|ms| ms / 10.0),
            logs: None,
            alerts: per_second(before.journal.recorded, now.journal.recorded, seconds),
        }
    }

    /// How fast a sink sends.
    pub(super) fn sink_rate(&self, sink: &SinkStatus) -> Option<f64> {
        let (before, at) = self.before.as_ref()?;
        let old = before.sinks.iter().find(|old| old.name == sink.name)?;
        per_second(old.sent, sink.sent, self.at.saturating_sub(*at).as_secs_f64())
    }
}

/// How many lines a key goes down; upwards when it is negative.
fn steps(key: Key) -> Option<isize> {
    Some(match key {
        Key::Up | Key::Letter('k') => -1,
        Key::Down | Key::Letter('j') => 1,
        Key::PageUp => -PAGE,
        Key::PageDown => PAGE,
        Key::Home => isize::MIN / 2,
        Key::End => isize::MAX / 2,
        _ => return None,
    })
}

#[expect(clippy::cast_precision_loss, reason = "one digit after the point is shown")]
fn per_second(before: u64, now: u64, seconds: f64) -> Option<f64> {
    // What counts less than before was begun anew.
    let more = now.checked_sub(before)?;
    (seconds > 0.0).then(|| more as f64 / seconds)
}

/// JSON on lines of its own; other text as it is.
fn spread(text: &str) -> String {
    let object = text.trim_start().starts_with('{');
    let value = object.then(|| serde_json::from_str::<serde_json::Value>(text).ok()).flatten();
    value.and_then(|value| serde_json::to_string_pretty(&value).ok()).unwrap_or_else(|| text.to_owned())
}

fn about_alert(alert: &Result<AlertRecord, String>) -> TextView {
    match alert {
        Ok(alert) => TextView {
            title: format!("alert {} of {}, recorded {}", alert.seq, alert.module, alert.time),
            text: spread(&alert.message),
            above: 0,
        },
        Err(sentence) => {
            TextView { title: "alerts are missing".to_owned(), text: sentence.clone(), above: 0 }
        }
    }
}

fn about_condition(standing: &StandingCondition) -> TextView {
    let condition = &standing.condition;
    let severity = match condition.severity {
        vigie_protocol::condition::ConditionSeverity::Warning => "warning",
        vigie_protocol::condition::ConditionSeverity::Failed => "failed",
    };
    let mut text = format!("{severity}, since {}\n", condition.since);
    if !condition.detail.is_empty() {
        text.push_str(&format!("{}\n", condition.detail));
    }
    if let Some(entry) = catalogue::all().find(|entry| entry.name == condition.name) {
        text.push_str(&format!("\n{}\nRemedy: {}", entry.meaning.trim(), entry.remedy));
    }
    TextView { title: format!("{}: {}", standing.about, condition.name), text, above: 0 }
}

fn about_sink(sink: &SinkStatus) -> TextView {
    let text = serde_json::to_string_pretty(sink).unwrap_or_default();
    TextView { title: format!("sink {}", sink.name), text, above: 0 }
}
