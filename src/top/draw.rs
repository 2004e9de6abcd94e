//! The picture of `vigie top`. All text from the agent is escaped here, at the last moment before the screen.

use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use unicode_width::UnicodeWidthStr as _;
use vigie_protocol::condition::ConditionSeverity;
use vigie_protocol::control::{AlertRecord, Health, LineFate};

use super::feed::window;
use super::state::{ModuleView, Part, State, Tab, TextView};
use crate::print::{Paint, Tone, drawn_in_ascii, duration, safe, size};
use crate::table::cut_end;
use crate::{alerts, sink, status};

/// Lines for alerts, with their title, where modules want all of the room.
const ALERT_LINES: usize = 5;

/// Draws everything; a text that is read is held to its end.
pub(super) fn draw(frame: &mut Frame<'_>, state: &mut State, colour: bool) {
    let mut pen = Pen { area: frame.area(), frame, colour };
    let Rect { height, .. } = pen.area;
    if pen.area.width == 0 || height == 0 {
        return;
    }
    // Of a window without room for everything the keys go first, then the second line of the head.
    let head = if height > 7 { 2 } else { 1 };
    let foot = u16::from(height > 3);
    for (row, line) in heading(state, &pen).into_iter().take(head.into()).enumerate() {
        pen.line(u16::try_from(row).unwrap_or(0), line);
    }
    let room = (head.min(height), height.saturating_sub(foot));
    let keys = if let Some(view) = &mut state.text {
        text_view(&mut pen, room, view);
        "q quit  Esc back  ↑↓ scroll"
    } else if let Some(view) = &state.looked_into {
        module_view(&mut pen, room, state, view);
        "q quit  Esc back  ↑↓ select  Enter read  l log  t tap  c conditions"
    } else {
        overview(&mut pen, room, state);
        "q quit  ↑↓ select  Tab next pane  Enter open  l log  t tap  c conditions"
    };
    if foot > 0 {
        let style = pen.tone(Tone::Faint);
        pen.line(height - 1, Line::styled(keys, style));
    }
}

/// Draws lines and marks anew, of what a terminal without UTF-8 can show; names of others stay as they are.
pub(super) fn draw_in_ascii(frame: &mut Frame<'_>) {
    for cell in &mut frame.buffer_mut().content {
        if !cell.symbol().is_ascii() {
            let plain = drawn_in_ascii(cell.symbol());
            cell.set_symbol(&plain);
        }
    }
}

/// Writes lines on the screen.
struct Pen<'a, 'b> {
    frame: &'a mut Frame<'b>,
    area: Rect,
    colour: bool,
}

impl Pen<'_, '_> {
    /// Writes a line, as much of it as there is room for.
    fn line(&mut self, row: u16, line: Line<'_>) {
        if row < self.area.height {
            self.frame.buffer_mut().set_line(self.area.x, self.area.y + row, &line, self.area.width);
        }
    }

    fn tone(&self, tone: Tone) -> Style {
        let style = Style::new();
        match tone {
            Tone::Bad if self.colour => style.fg(Color::Red).add_modifier(Modifier::BOLD),
            Tone::Bad => style.add_modifier(Modifier::BOLD),
            Tone::Doubtful if self.colour => style.fg(Color::Yellow),
            Tone::Good if self.colour => style.fg(Color::Green),
            Tone::Faint => style.add_modifier(Modifier::DIM),
            Tone::Doubtful | Tone::Good | Tone::Plain => style,
        }
    }

    /// The title of a part, with a rule to the edge.
    fn title(&mut self, row: u16, text: &str, chosen: bool) {
        let mark = if chosen { "▸ " } else { "─ " };
        let text = format!("{mark}{} ", safe(text));
        let rule = "─".repeat(usize::from(self.area.width).saturating_sub(text.width()));
        let style = if chosen { Style::new().add_modifier(Modifier::BOLD) } else { self.tone(Tone::Faint) };
        self.line(row, Line::styled(format!("{text}{rule}"), style));
    }

    /// A row of cells, in reverse when it is the choice.
    fn row(&mut self, row: u16, cells: &[Cell], columns: &[Column], chosen: bool) {
        let mut spans = Vec::new();
        for (cell, column) in cells.iter().zip(columns) {
            if column.width == 0 {
                continue;
            }
            let text = cut_end(&safe(&cell.1), column.width);
            let blanks = " ".repeat(column.width.saturating_sub(text.width()));
            let padded = if column.right { format!("{blanks}{text} ") } else { format!("{text}{blanks} ") };
            spans.push(Span::styled(padded, self.tone(cell.0)));
        }
        let line = Line::from(spans);
        self.line(row, if chosen { line.patch_style(Modifier::REVERSED) } else { line });
    }
}

/// A text and what it means.
struct Cell(Tone, String);

fn plain(text: impl Into<String>) -> Cell {
    Cell(Tone::Plain, text.into())
}

/// How wide a column is; 0 leaves it out.
#[derive(Debug, Clone, Copy)]
struct Column {
    width: usize,
    right: bool,
}

/// Columns as wide as this; the last one takes what is left, and those that matter least are left out for it.
fn columns(widths: &[(usize, bool)], least_wanted: &[usize], total: u16) -> Vec<Column> {
    let mut columns: Vec<Column> = widths.iter().map(|&(width, right)| Column { width, right }).collect();
    let taken = |columns: &[Column]| -> usize {
        columns.iter().filter(|column| column.width > 0).map(|column| column.width + 1).sum()
    };
    for at in least_wanted {
        if taken(&columns) <= usize::from(total) {
            break;
        }
        columns[*at].width = 0;
    }
    let left = usize::from(total).saturating_sub(taken(&columns));
    if let Some(last) = columns.last_mut() {
        last.width += left;
    }
    columns
}

/// The two lines at the top.
fn heading(state: &State, pen: &Pen<'_, '_>) -> Vec<Line<'static>> {
    let away = state
        .away
        .as_ref()
        .map(|reason| Line::styled(format!("{}; waiting for it", safe(reason)), pen.tone(Tone::Bad)));
    let Some(now) = &state.status else {
        return vec![away.unwrap_or_else(|| Line::from("asking the agent"))];
    };
    let (tone, health) = match now.health {
        Health::Healthy => (Tone::Good, "healthy"),
        Health::Degraded => (Tone::Doubtful, "degraded"),
        Health::Failed => (Tone::Bad, "failed"),
    };
    let first = Line::from(vec![
        Span::raw(format!("vigie {} on {}: ", safe(&now.version), safe(&now.hostname))),
        Span::styled(health, pen.tone(tone)),
        Span::raw(format!(", up {}, configuration {}", duration(now.uptime_secs), now.config.generation)),
    ]);
    let rate = state.own_rate();
    let memory = now.resources.map_or("-".to_owned(), |used| size(used.memory_bytes));
    let fleet = now
        .fleet
        .as_ref()
        .map_or("", |fleet| if fleet.connected { "  fleet connected" } else { "  fleet not connected" });
    let second = Line::from(format!(
        "cpu {}  memory {memory}  alerts {} ({}/s, {} to be stored)  queries {}+{}{fleet}",
        per_cent(rate.cpu),
        now.journal.recorded,
        per_second(rate.alerts),
        now.journal.pending,
        now.queries.running,
        now.queries.waiting,
    ));
    match away {
        Some(away) => vec![away, first],
        None => vec![first, second],
    }
}

fn overview(pen: &mut Pen<'_, '_>, (top, bottom): (u16, u16), state: &State) {
    let wants = [
        state.modules().len() + 2,
        if state.sinks().is_empty() { 0 } else { state.sinks().len() + 1 },
        state.conditions().len().max(1) + 1,
        ALERT_LINES,
    ];
    let focus = Part::ALL.iter().position(|part| *part == state.part).unwrap_or(0);
    let mut row = top;
    for (part, height) in Part::ALL.into_iter().zip(shares(wants, bottom.saturating_sub(top).into(), focus)) {
        let height = u16::try_from(height).unwrap_or(0);
        if height == 0 {
            continue;
        }
        let chosen = part == state.part;
        match part {
            Part::Modules => modules(pen, row, height, state, chosen),
            Part::Sinks => sinks(pen, row, height, state, chosen),
            Part::Conditions => conditions(pen, row, height, state, chosen),
            Part::Alerts => alert_lines(pen, row, height, state, chosen),
        }
        row += height;
    }
}

/// Shares the lines out: parts that are not in use give way first, down to a title and two lines, then the one in use
/// down to five; then parts go. What is left over is for alerts, or for the part in use.
fn shares(mut wants: [usize; 4], room: usize, focus: usize) -> [usize; 4] {
    const LEAST: usize = 3;
    const LEAST_IN_USE: usize = 5;
    loop {
        let total: usize = wants.iter().sum();
        if total <= room {
            wants[if wants[3] > 0 { 3 } else { focus }] += room - total;
            return wants;
        }
        let others = (0..4).filter(|at| *at != focus);
        if let Some(longest) = others.filter(|at| wants[*at] > LEAST).max_by_key(|at| wants[*at]) {
            wants[longest] -= 1;
        } else if wants[focus] > LEAST_IN_USE {
            wants[focus] -= 1;
        } else if let Some(least) = [1, 2, 3, 0].into_iter().find(|at| *at != focus && wants[*at] > 0) {
            wants[least] = 0;
        } else {
            wants[focus] = room;
            return wants;
        }
    }
}

fn modules(pen: &mut Pen<'_, '_>, top: u16, height: u16, state: &State, chosen: bool) {
    pen.title(top, &format!("modules ({})", state.modules().len()), chosen);
    let longest = state.modules().iter().map(|module| module.name.as_str().len()).max().unwrap_or(0);
    let widths = [
        (longest.clamp(6, 16), false),
        (8, false),
        (6, true),
        (9, true),
        (9, true),
        (6, true),
        (8, true),
        (8, true),
        (8, false),
    ];
    let columns = columns(&widths, &[7, 5, 6, 4, 3, 2, 8], pen.area.width);
    let headings =
        ["MODULE", "STATE", "CPU", "MEMORY", "HEARTBEAT", "LOGS/S", "ALERTS/S", "RESTARTS", "NOTE"];
    let headings = headings.map(|heading| Cell(Tone::Faint, heading.to_owned()));
    let has_headings = height > 2;
    if has_headings {
        pen.row(top + 1, &headings, &columns, false);
    }
    let first = 1 + u16::from(has_headings);
    let lines = usize::from(height.saturating_sub(first));
    let start = window(state.module, state.modules().len(), lines);
    for (at, module) in state.modules().iter().enumerate().skip(start).take(lines) {
        let rate = state.rate(module);
        let (tone, word) = status::state_word(module.state);
        let cells = [
            plain(module.name.as_str()),
            Cell(tone, word.to_owned()),
            plain(per_cent(rate.cpu)),
            plain(module.resources.map_or("-".to_owned(), |used| size(used.memory_bytes))),
            plain(module.heartbeat_us.map_or("-".to_owned(), status::heartbeat)),
            plain(per_second(rate.logs)),
            plain(per_second(rate.alerts)),
            plain(module.restarts.to_string()),
            plain(status::module_note(module)),
        ];
        pen.row(place(top + first, at - start), &cells, &columns, chosen && at == state.module);
    }
}

fn sinks(pen: &mut Pen<'_, '_>, top: u16, height: u16, state: &State, chosen: bool) {
    pen.title(top, &format!("sinks ({})", state.sinks().len()), chosen);
    let longest = state.sinks().iter().map(|sink| sink.name.len()).max().unwrap_or(0);
    let widths = [(longest.clamp(4, 16), false), (8, false), (8, false), (12, true), (14, true), (8, false)];
    let columns = columns(&widths, &[1, 4, 5], pen.area.width);
    let lines = usize::from(height.saturating_sub(1));
    let start = window(state.sink, state.sinks().len(), lines);
    for (at, one) in state.sinks().iter().enumerate().skip(start).take(lines) {
        let (tone, word) = sink::state_word(one.state);
        let cells = [
            plain(&one.name),
            plain(&one.kind),
            Cell(tone, word.to_owned()),
            plain(format!("{} waiting", one.lag)),
            plain(format!("{}/s sent", per_second(state.sink_rate(one)))),
            plain(sink::note(one)),
        ];
        pen.row(place(top + 1, at - start), &cells, &columns, chosen && at == state.sink);
    }
}

fn conditions(pen: &mut Pen<'_, '_>, top: u16, height: u16, state: &State, chosen: bool) {
    pen.title(top, &format!("conditions ({})", state.conditions().len()), chosen);
    if state.status.is_none() {
        return;
    }
    let standing: Vec<_> = state.conditions().iter().collect();
    condition_rows(pen, top + 1, height.saturating_sub(1), &standing, state.condition, chosen);
}

fn condition_rows(
    pen: &mut Pen<'_, '_>,
    top: u16,
    height: u16,
    standing: &[&vigie_protocol::condition::StandingCondition],
    choice: usize,
    chosen: bool,
) {
    if standing.is_empty() && height > 0 {
        let style = pen.tone(Tone::Good);
        pen.line(top, Line::styled("nothing is wrong", style));
        return;
    }
    let columns = columns(&[(7, false), (19, false), (8, false)], &[0, 1], pen.area.width);
    let start = window(choice, standing.len(), height.into());
    for (at, one) in standing.iter().enumerate().skip(start).take(height.into()) {
        let (tone, severity) = match one.condition.severity {
            ConditionSeverity::Warning => (Tone::Doubtful, "warning"),
            ConditionSeverity::Failed => (Tone::Bad, "failed"),
        };
        let detail = &one.condition.detail;
        let colon = if detail.is_empty() { "" } else { ": " };
        let cells = [
            Cell(tone, severity.to_owned()),
            plain(one.about.to_string()),
            plain(format!("{}{colon}{detail}", one.condition.name)),
        ];
        pen.row(place(top, at - start), &cells, &columns, chosen && at == choice);
    }
}

fn alert_lines(pen: &mut Pen<'_, '_>, top: u16, height: u16, state: &State, chosen: bool) {
    let follows = if state.alerts.follows() { "" } else { ", End follows the newest" };
    pen.title(top, &format!("alerts{follows}"), chosen);
    let lines = usize::from(height.saturating_sub(1));
    if state.alerts.is_empty() && lines > 0 {
        let style = pen.tone(Tone::Faint);
        pen.line(top + 1, Line::styled("none yet", style));
    }
    let columns = columns(&[(8, false), (12, false), (8, false), (8, false)], &[1, 0, 2], pen.area.width);
    for (row, (choice, alert)) in state.alerts.shown(lines).enumerate() {
        pen.row(place(top + 1, row), &alert_cells(alert), &columns, chosen && choice);
    }
}

fn alert_cells(alert: &Result<AlertRecord, String>) -> [Cell; 4] {
    match alert {
        Ok(alert) => {
            let (tone, severity, text) = alerts::said(&alert.message);
            [plain(clock(&alert.time)), plain(alert.module.as_str()), Cell(tone, severity), plain(text)]
        }
        Err(sentence) => [plain("---"), plain(""), plain(""), Cell(Tone::Bad, sentence.clone())],
    }
}

fn module_view(pen: &mut Pen<'_, '_>, (top, bottom): (u16, u16), state: &State, view: &ModuleView) {
    let module = state.modules().iter().find(|module| module.name == view.name);
    let mut row = top;
    if let Some(module) = module {
        let (tone, word) = status::state_word(module.state);
        let rate = state.rate(module);
        let resources = module.resources.map_or(String::new(), |used| {
            let files = used.open_files.map_or(String::new(), |files| format!(", {files} open files"));
            format!(", {} memory, {} threads{files}", size(used.memory_bytes), used.threads)
        });
        let pid = module.pid.map_or(String::new(), |pid| format!(", pid {pid}"));
        let up = module.uptime_secs.map_or(String::new(), |up| format!(", up {}", duration(up)));
        let line = Line::from(vec![
            Span::raw(format!("{}: ", view.name)),
            Span::styled(word, pen.tone(tone)),
            Span::raw(format!(
                "{pid}{up}, {} restarts, cpu {}{resources}",
                module.restarts,
                per_cent(rate.cpu)
            )),
        ]);
        let note = status::module_note(module);
        pen.line(row, line);
        row += 1;
        if !note.is_empty() && row < bottom {
            pen.line(row, Line::from(safe(&note).into_owned()));
            row += 1;
        }
    }
    if row >= bottom {
        return;
    }
    let follows = if view.lines.follows() { "" } else { ", End follows the newest" };
    pen.title(row, &format!("{} of {}{follows}", view.tab.name(), view.name), true);
    row += 1;
    let mut height = bottom.saturating_sub(row);
    if view.tab == Tab::Conditions {
        let standing: Vec<_> = state.conditions_of(&view.name).collect();
        condition_rows(pen, row, height, &standing, view.condition, true);
        return;
    }
    if let Some(reason) = view.ended.as_ref().filter(|_| height > 0) {
        let style = pen.tone(Tone::Doubtful);
        pen.line(row, Line::styled(safe(reason).into_owned(), style));
        row += 1;
        height -= 1;
    }
    let columns = columns(&[(8, false), (6, false), (8, false)], &[0, 1], pen.area.width);
    for (at, (choice, line)) in view.lines.shown(height.into()).enumerate() {
        let (tone, source) = crate::module_commands::source(&line.source);
        let marks = match line.fate {
            Some(LineFate::Accepted) => String::new(),
            _ => crate::module_commands::marks(line, Paint::new(false)),
        };
        let text = format!("{marks}{}", line.text);
        let cells = [plain(clock(&line.time)), Cell(tone, source.to_owned()), plain(&text)];
        pen.row(place(row, at), &cells, &columns, choice);
    }
    if view.lines.is_empty() && view.ended.is_none() && height > 0 {
        let style = pen.tone(Tone::Faint);
        pen.line(row, Line::styled("nothing yet", style));
    }
}

fn text_view(pen: &mut Pen<'_, '_>, (top, bottom): (u16, u16), view: &mut TextView) {
    if top >= bottom {
        return;
    }
    pen.title(top, &view.title, true);
    let width = usize::from(pen.area.width);
    let lines: Vec<String> = view.text.split('\n').flat_map(|line| folded(&safe(line), width)).collect();
    let height = usize::from(bottom - top - 1);
    view.above = view.above.min(lines.len().saturating_sub(height));
    for (at, line) in lines.into_iter().skip(view.above).take(height).enumerate() {
        pen.line(place(top + 1, at), Line::from(line));
    }
}

/// A text in lines of at most so many columns, cut where a line ends.
fn folded(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    let mut taken = 0;
    for character in text.chars() {
        let needed = unicode_width::UnicodeWidthChar::width(character).unwrap_or(0);
        if taken + needed > width {
            lines.push(String::new());
            taken = 0;
        }
        taken += needed;
        lines.last_mut().expect("there is one from the beginning").push(character);
    }
    lines
}

/// The row so many lines below another.
fn place(top: u16, lines: usize) -> u16 {
    top.saturating_add(u16::try_from(lines).unwrap_or(u16::MAX))
}

/// The time of day of an RFC 3339 time.
fn clock(time: &str) -> String {
    time.get(11..19).unwrap_or(time).to_owned()
}

fn per_cent(share: Option<f64>) -> String {
    share.map_or("-".to_owned(), |share| format!("{share:.1}%"))
}

fn per_second(rate: Option<f64>) -> String {
    match rate {
        None => "-".to_owned(),
        Some(rate) if rate < 100.0 => format!("{rate:.1}"),
        Some(rate) if rate < 10_000.0 => format!("{rate:.0}"),
        Some(rate) => format!("{:.0}k", rate / 1000.0),
    }
}

#[cfg(test)]
#[path = "draw_tests.rs"]
mod tests;
