//! Tables for people: one line for each row, as wide as the terminal; or all of it as CSV.
//!
//! A narrow terminal first cuts what may be cut, then leaves out the columns that matter least. No word is broken but
//! where a cell is cut, which `…` shows.

use unicode_width::UnicodeWidthChar as _;

use crate::print::{Paint, Tone, safe};

/// Blanks between two columns.
const GAP: usize = 2;

/// A cell is cut to no less.
const LEAST: usize = 12;

/// How a column gives way when the table is too wide.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fit {
    /// Not at all.
    Keep,
    /// Its end is cut off.
    CutEnd,
    /// Its beginning is cut off: of a path the end says most.
    CutStart,
    /// It goes on in further lines, between words.
    Wrap,
}

/// A column.
#[derive(Debug, Clone)]
pub(crate) struct Column {
    title: String,
    fit: Fit,
    /// The higher, the earlier it is left out; 0 stays.
    rank: usize,
    right: bool,
    wide: bool,
}

impl Column {
    /// A column that stays as it is.
    pub(crate) fn new(title: &str) -> Self {
        Self { title: title.to_owned(), fit: Fit::Keep, rank: 0, right: false, wide: false }
    }

    /// Gives way like this.
    pub(crate) fn fit(self, fit: Fit) -> Self {
        Self { fit, ..self }
    }

    /// Is left out on a narrow terminal, the higher the earlier.
    pub(crate) fn rank(self, rank: usize) -> Self {
        Self { rank, ..self }
    }

    /// Numbers stand below each other.
    pub(crate) fn right(self) -> Self {
        Self { right: true, ..self }
    }

    /// Is shown with `--wide` and in CSV only.
    pub(crate) fn wide(self) -> Self {
        Self { wide: true, ..self }
    }
}

/// A cell.
#[derive(Debug, Clone)]
pub(crate) struct Cell {
    tone: Tone,
    text: String,
}

impl Cell {
    /// A text and what it means.
    pub(crate) fn new(tone: Tone, text: impl Into<String>) -> Self {
        Self { tone, text: text.into() }
    }
}

impl From<String> for Cell {
    fn from(text: String) -> Self {
        Self::new(Tone::Plain, text)
    }
}

impl From<&str> for Cell {
    fn from(text: &str) -> Self {
        Self::new(Tone::Plain, text)
    }
}

/// How much of a table is shown.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Room {
    /// Columns of the terminal; unlimited without one.
    pub(crate) width: Option<u16>,
    /// Every column, and nothing cut.
    pub(crate) wide: bool,
}

/// A table.
#[derive(Debug, Clone, Default)]
pub(crate) struct Table {
    columns: Vec<Column>,
    rows: Vec<Vec<Cell>>,
}

impl Table {
    /// A table without rows.
    pub(crate) fn new(columns: impl IntoIterator<Item = Column>) -> Self {
        Self { columns: columns.into_iter().collect(), rows: Vec::new() }
    }

    /// A table whose first two columns and the last one stay, and whose last one goes on in further lines.
    pub(crate) fn simple(titles: &[&str]) -> Self {
        let last = titles.len().saturating_sub(1);
        Self::new(titles.iter().enumerate().map(|(at, title)| match at {
            _ if at == last => Column::new(title).fit(Fit::Wrap),
            0 | 1 => Column::new(title),
            _ => Column::new(title).rank(at),
        }))
    }

    /// Adds a row with a cell for each column.
    pub(crate) fn add<C: Into<Cell>>(&mut self, cells: impl IntoIterator<Item = C>) {
        let mut row: Vec<Cell> = cells.into_iter().map(Into::into).collect();
        row.resize_with(self.columns.len(), || "".into());
        self.rows.push(row);
    }

    /// Whether it has no row.
    pub(crate) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The table as text, each line with its line feed and without blanks at its end.
    pub(crate) fn text(&self, room: Room, paint: Paint) -> String {
        let mut shown: Vec<usize> =
            (0..self.columns.len()).filter(|at| room.wide || !self.columns[*at].wide).collect();
        let cells: Vec<Vec<String>> = self
            .rows
            .iter()
            .map(|row| row.iter().map(|cell| safe(&cell.text).into_owned()).collect())
            .collect();
        let mut widths: Vec<usize> = (0..self.columns.len())
            .map(|at| {
                let longest = cells.iter().map(|row| columns_of(&row[at])).max().unwrap_or(0);
                longest.max(columns_of(&self.columns[at].title))
            })
            .collect();
        if let Some(width) = room.width.filter(|_| !room.wide) {
            self.fit(usize::from(width), &mut shown, &mut widths);
        }
        let mut text = String::new();
        let titles: Vec<String> = self.columns.iter().map(|column| column.title.clone()).collect();
        self.line(&mut text, &shown, &widths, &titles, |_| Tone::Faint, paint);
        for (row, cells) in self.rows.iter().zip(&cells) {
            self.line(&mut text, &shown, &widths, cells, |at| row[at].tone, paint);
        }
        text
    }

    /// Makes the columns fit, as far as they give way.
    fn fit(&self, width: usize, shown: &mut Vec<usize>, widths: &mut [usize]) {
        let total = |shown: &[usize], widths: &[usize]| {
            shown.iter().map(|at| widths[*at]).sum::<usize>() + GAP * shown.len().saturating_sub(1)
        };
        loop {
            let surplus = total(shown, widths).saturating_sub(width);
            if surplus == 0 {
                return;
            }
            let least = |at: usize| LEAST.max(columns_of(&self.columns[at].title));
            let widest = shown
                .iter()
                .copied()
                .filter(|at| self.columns[*at].fit != Fit::Keep && widths[*at] > least(*at))
                .max_by_key(|at| widths[*at]);
            if let Some(at) = widest {
                widths[at] = widths[at].saturating_sub(surplus).max(least(at));
                continue;
            }
            let dropped = shown.iter().copied().filter(|at| self.columns[*at].rank > 0);
            match dropped.max_by_key(|at| self.columns[*at].rank) {
                Some(least_wanted) => shown.retain(|at| *at != least_wanted),
                None => return,
            }
            // What was cut for the column that is gone gets its room back.
            for at in shown.iter() {
                let longest =
                    self.rows.iter().map(|row| columns_of(&safe(&row[*at].text))).max().unwrap_or(0);
                widths[*at] = longest.max(columns_of(&self.columns[*at].title));
            }
        }
    }

    fn line(
        &self,
        text: &mut String,
        shown: &[usize],
        widths: &[usize],
        cells: &[String],
        tone: impl Fn(usize) -> Tone,
        paint: Paint,
    ) {
        let mut lines: Vec<Vec<String>> = shown
            .iter()
            .map(|at| match self.columns[*at].fit {
                Fit::Wrap => wrapped(&cells[*at], widths[*at]),
                Fit::CutStart => vec![cut_start(&cells[*at], widths[*at])],
                Fit::CutEnd => vec![cut_end(&cells[*at], widths[*at])],
                Fit::Keep => vec![cells[*at].clone()],
            })
            .collect();
        let height = lines.iter().map(Vec::len).max().unwrap_or(0);
        for number in 0..height {
            let mut line = String::new();
            let mut blanks = 0;
            for (place, at) in shown.iter().enumerate() {
                let cell = lines[place].get_mut(number).map(std::mem::take).unwrap_or_default();
                let room = widths[*at].saturating_sub(columns_of(&cell));
                let (before, after) = if self.columns[*at].right { (room, 0) } else { (0, room) };
                blanks += before;
                if !cell.is_empty() {
                    line.extend(std::iter::repeat_n(' ', blanks));
                    line.push_str(&paint.text(tone(*at), &cell));
                    blanks = 0;
                }
                blanks += after + GAP;
            }
            text.push_str(&line);
            text.push('\n');
        }
    }

    /// All columns and rows as CSV (RFC 4180). Nothing in it drives a terminal or is a formula of a spreadsheet.
    pub(crate) fn csv(&self) -> String {
        let mut text = String::new();
        let titles = self.columns.iter().map(|column| column.title.to_lowercase().replace(' ', "_"));
        push_record(&mut text, titles);
        for row in &self.rows {
            push_record(&mut text, row.iter().map(|cell| safe(&cell.text).into_owned()));
        }
        text
    }
}

fn push_record(text: &mut String, fields: impl Iterator<Item = String>) {
    for (at, field) in fields.enumerate() {
        text.push_str(if at > 0 { "," } else { "" });
        let is_formula = field.starts_with(['=', '+', '@', '\t'])
            || (field.starts_with('-') && field.len() > 1 && field.parse::<f64>().is_err());
        let field = if is_formula { format!("'{field}") } else { field };
        if field.contains([',', '"', '\n', '\r']) {
            text.push_str(&format!("\"{}\"", field.replace('"', "\"\"")));
        } else {
            text.push_str(&field);
        }
    }
    text.push_str("\r\n");
}

/// Columns of a terminal that a text takes.
fn columns_of(text: &str) -> usize {
    text.chars().map(|character| character.width().unwrap_or(0)).sum()
}

/// The text in at most so many columns; `…` stands for the end that is cut off.
pub(crate) fn cut_end(text: &str, width: usize) -> String {
    if columns_of(text) <= width {
        return text.to_owned();
    }
    let mut left = width.saturating_sub(1);
    let kept = text.chars().take_while(|character| {
        let needed = character.width().unwrap_or(0);
        let fits = needed <= left;
        left = left.saturating_sub(needed);
        fits
    });
    kept.chain(std::iter::once('…')).collect()
}

/// The text in at most so many columns; `…` stands for the beginning that is cut off.
fn cut_start(text: &str, width: usize) -> String {
    if columns_of(text) <= width {
        return text.to_owned();
    }
    let mut left = width.saturating_sub(1);
    let mut start = text.len();
    for (at, character) in text.char_indices().rev() {
        let needed = character.width().unwrap_or(0);
        if needed > left {
            break;
        }
        left -= needed;
        start = at;
    }
    format!("…{}", &text[start..])
}

/// The text in lines of at most so many columns, cut between words; a longer word is cut where the line ends.
fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let line = lines.last_mut().expect("there is one from the beginning");
        let needed = columns_of(word) + usize::from(!line.is_empty());
        if columns_of(line) + needed <= width || line.is_empty() {
            line.push_str(if line.is_empty() { "" } else { " " });
            line.push_str(word);
        } else {
            lines.push(word.to_owned());
        }
    }
    lines
}

/// A text in lines of at most so many columns, of which all but the first begin with blanks. The first keeps its own.
pub(crate) fn hanging(text: &str, width: Option<u16>, indent: usize) -> String {
    let Some(width) = width.map(usize::from).filter(|width| columns_of(text) > *width) else {
        return text.to_owned();
    };
    // Where there is hardly room beside the blanks, there are fewer of them.
    let indent = if width < indent + LEAST_BESIDE { 2 } else { indent };
    let words = text.trim_start_matches(' ');
    let own = text.len() - words.len();
    // Blanks before the first word are not kept there, so they are put before it again.
    let head = wrapped(words, width.saturating_sub(own)).swap_remove(0);
    let rest = words[head.len()..].trim_start_matches(' ');
    let rest = wrapped(rest, width.saturating_sub(indent));
    let rest = rest.iter().filter(|line| !line.is_empty()).map(|line| format!("\n{:indent$}{line}", ""));
    rest.fold(text[..own].to_owned() + &head, |text, line| text + &line)
}

/// Columns of text that are worth the blanks before them.
const LEAST_BESIDE: usize = 24;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_long_text_goes_on_below_itself() {
        let text = "warn    host.disk    the state directory is nearly full";
        let cut = "warn    host.disk    the state\n        directory is\n        nearly full";
        assert_eq!(hanging(text, None, 8), text);
        assert_eq!(hanging(text, Some(80), 8), text);
        assert_eq!(hanging(text, Some(32), 8), cut.replace("is\n        nearly", "is nearly"));
        assert_eq!(
            hanging(text, Some(30), 21),
            cut.replace("        ", "  ")
                .replace("warn  host", "warn    host")
                .replace("is\n  nearly", "is nearly")
        );
    }

    fn table() -> Table {
        let mut table = Table::new([
            Column::new("SIZE").right(),
            Column::new("CHANGED").rank(1),
            Column::new("SHA256").wide(),
            Column::new("FILE").fit(Fit::CutStart),
        ]);
        table.add(["12 B", "2026-11-28 18:39", "ab,c", "/usr/lib/a/very/long/path/to/a/file\n"]);
        table.add(["1.5 KiB", "2026-11-28 18:40", "=cmd()", "/e\"tc"]);
        table
    }

    fn text(width: Option<u16>, wide: bool) -> String {
        table().text(Room { width, wide }, Paint::new(false))
    }

    #[test]
    fn a_table_is_as_wide_as_its_cells() {
        assert_eq!(
            text(None, false),
            concat!(
                "   SIZE  CHANGED           FILE\n",
                "   12 B  2026-11-28 18:39  /usr/lib/a/very/long/path/to/a/file\\n\n",
                "1.5 KiB  2026-11-28 18:40  /e\"tc\n",
            )
        );
        assert!(text(Some(20), true).lines().next().unwrap().contains("SHA256"));
    }

    #[test]
    fn a_narrow_terminal_cuts_paths_and_then_leaves_columns_out() {
        assert_eq!(
            text(Some(50), false),
            concat!(
                "   SIZE  CHANGED           FILE\n",
                "   12 B  2026-11-28 18:39  …/long/path/to/a/file\\n\n",
                "1.5 KiB  2026-11-28 18:40  /e\"tc\n",
            )
        );
        assert_eq!(
            text(Some(30), false),
            concat!("   SIZE  FILE\n", "   12 B  …ong/path/to/a/file\\n\n", "1.5 KiB  /e\"tc\n",)
        );
    }

    #[test]
    fn the_last_column_goes_on_between_words() {
        let mut table = Table::simple(&["A", "B", "C", "NOTE"]);
        table.add(["a", "b", "cccccccccc", "one two three four"]);

        assert_eq!(
            table.text(Room { width: Some(24), wide: false }, Paint::new(false)),
            "\
A  B  NOTE
a  b  one two three four
"
        );
        assert_eq!(
            table.text(Room { width: Some(20), wide: false }, Paint::new(false)),
            "\
A  B  NOTE
a  b  one two three
      four
"
        );
    }

    #[test]
    fn colours_change_no_place() {
        let plain = text(Some(40), false);
        let coloured = table().text(Room { width: Some(40), wide: false }, Paint::new(true));

        let mut stripped = String::new();
        let mut rest = coloured.as_str();
        while let Some((before, after)) = rest.split_once('\u{1b}') {
            stripped.push_str(before);
            rest = after.split_once('m').unwrap().1;
        }
        stripped.push_str(rest);
        assert_eq!(stripped, plain);
        assert_ne!(coloured, plain);
    }

    #[test]
    fn csv_has_every_column_and_no_formula() {
        assert_eq!(
            table().csv(),
            "size,changed,sha256,file\r\n\
             12 B,2026-11-28 18:39,\"ab,c\",/usr/lib/a/very/long/path/to/a/file\\n\r\n\
             1.5 KiB,2026-11-28 18:40,'=cmd(),\"/e\"\"tc\"\r\n"
        );
    }

    proptest! {
        #[test]
        fn no_line_is_wider_than_the_terminal(cells in proptest::collection::vec(any::<String>(), 4), width in 40_u16..120) {
            let mut table = table();
            table.add(cells);

            let text = table.text(Room { width: Some(width), wide: false }, Paint::new(false));

            // What never gives way may need more: the sizes here.
            let kept = columns_of(&safe(&table.rows[2][0].text)).max(7);
            for line in text.lines().filter(|_| kept + GAP + LEAST <= usize::from(width)) {
                prop_assert!(columns_of(line) <= usize::from(width), "{line}");
            }
        }

        /// Whatever the text and however narrow the terminal: every word once, in their order, behind the first
        /// line's own blanks.
        #[test]
        fn a_hanging_text_has_all_words_in_order(
            text in r"( {0,12}(é|日本|\\u\{1b\}|[a-z/]{1,30})){0,30} {0,2}", width in 0_u16..60, indent in 0_usize..40,
        ) {
            let hung = hanging(&text, Some(width), indent);

            let words = |text: &str| -> Vec<String> {
                text.split([' ', '\n']).filter(|word| !word.is_empty()).map(str::to_owned).collect()
            };
            let own = |text: &str| text.len() - text.trim_start_matches(' ').len();
            prop_assert_eq!(words(&hung), words(&text));
            prop_assert_eq!(own(&hung), own(&text));
            for (number, line) in hung.lines().enumerate() {
                let one = words(line).len() <= 1;
                prop_assert!(one || columns_of(line.trim_end()) <= usize::from(width), "{number}: {line:?}");
            }
        }

        #[test]
        fn cutting_keeps_within_the_width(text in any::<String>(), width in 1_usize..30) {
            prop_assert!(columns_of(&cut_end(&text, width)) <= width);
            prop_assert!(columns_of(&cut_start(&text, width)) <= width);
        }
    }
}
