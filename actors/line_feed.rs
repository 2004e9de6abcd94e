//! Lines of modules for whoever watches them: `vigie module logs -f`, `module tap` and `top`.
//!
//! A feed lives as long as its module is known, over all its lives. Nobody who gives it lines waits for a watcher: what
//! a watcher does not take in time is left out, and he is told how many lines.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use tokio::sync::Notify;
use vigie_protocol::control::{LineFate, ModuleLine};

/// Most bytes of text that wait for one watcher: the largest line of a module, several times.
const MAX_WAITING_BYTES: usize = 8 << 20;

/// Most lines that wait for one watcher.
const MAX_WAITING_LINES: usize = 4096;

/// Newest lines of a module that are kept for `vigie module logs`.
pub(crate) const KEPT_LINES: usize = 100;

/// Longest text of a line for people, in characters.
const SHOWN_CHARS: usize = 512;

/// Text of a dropped line that is kept for people, in characters.
const DROPPED_CHARS: usize = 200;

/// The feeds of a module.
#[derive(Debug, Clone, Default)]
pub(crate) struct LineFeeds {
    /// What it logs and writes to stderr, and what of it was dropped.
    pub logs: LineFeed,
    /// Every message in both directions, whole.
    pub wire: LineFeed,
}

/// A feed.
#[derive(Debug, Clone, Default)]
pub struct LineFeed(Arc<Source>);

/// What comes to a watcher.
#[derive(Debug, PartialEq, Eq)]
pub enum Watched {
    /// A line.
    Line(ModuleLine),
    /// So many lines are missing here.
    Missed(u64),
}

/// A watcher's end of a feed.
#[derive(Debug)]
pub struct LineWatch(Arc<Waiting>);

/// Locks are held for moments, by one thread.
#[derive(Debug, Default)]
struct Source(Mutex<Vec<Weak<Waiting>>>);

#[derive(Debug, Default)]
struct Waiting {
    queue: Mutex<Queue>,
    news: Notify,
}

#[derive(Debug, Default)]
struct Queue {
    lines: VecDeque<Watched>,
    bytes: usize,
    /// The feed is gone: nothing comes any more.
    closed: bool,
}

impl LineFeed {
    /// Watches from now on.
    #[must_use]
    pub fn subscribe(&self) -> LineWatch {
        let waiting = Arc::new(Waiting::default());
        let mut watchers = locked(&self.0.0);
        watchers.retain(|watcher| watcher.strong_count() > 0);
        watchers.push(Arc::downgrade(&waiting));
        LineWatch(waiting)
    }

    /// Whether anybody watches.
    pub(crate) fn is_watched(&self) -> bool {
        locked(&self.0.0).iter().any(|watcher| watcher.strong_count() > 0)
    }

    /// Gives those who watch a line, which is made only for them.
    pub(crate) fn send(&self, line: impl FnOnce() -> ModuleLine) {
        let watchers: Vec<_> = locked(&self.0.0).iter().filter_map(Weak::upgrade).collect();
        let Some((last, others)) = watchers.split_last() else { return };
        let line = line();
        for watcher in others {
            watcher.push(line.clone());
        }
        last.push(line);
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        for watcher in locked(&self.0).iter().filter_map(Weak::upgrade) {
            locked(&watcher.queue).closed = true;
            watcher.news.notify_one();
        }
    }
}

impl Waiting {
    fn push(&self, line: ModuleLine) {
        let mut queue = locked(&self.queue);
        let bytes = queue.bytes + line.text.len();
        if bytes > MAX_WAITING_BYTES || queue.lines.len() >= MAX_WAITING_LINES {
            if let Some(Watched::Missed(count)) = queue.lines.back_mut() {
                *count += 1;
            } else {
                queue.lines.push_back(Watched::Missed(1));
            }
        } else {
            queue.bytes = bytes;
            queue.lines.push_back(Watched::Line(line));
        }
        drop(queue);
        self.news.notify_one();
    }
}

impl LineWatch {
    /// The next line; nothing when the module is no longer known. Cancel safe.
    pub async fn next(&mut self) -> Option<Watched> {
        loop {
            {
                let mut queue = locked(&self.0.queue);
                match queue.lines.pop_front() {
                    Some(Watched::Line(line)) => {
                        queue.bytes -= line.text.len();
                        return Some(Watched::Line(line));
                    }
                    Some(missed) => return Some(missed),
                    None if queue.closed => return None,
                    None => {}
                }
            }
            self.0.news.notified().await;
        }
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing is left half done by a panic, and a panic ends the agent.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A line for people, cut where it is very long.
pub(crate) fn module_line(source: &str, text: &str) -> ModuleLine {
    let mut line = wire_line(source, "");
    text.trim_end_matches('\n').clone_into(&mut line.text);
    cut(&mut line);
    line
}

/// A line as it passed, whole.
pub(crate) fn wire_line(source: &str, text: &str) -> ModuleLine {
    ModuleLine {
        time: jiff::Timestamp::now().to_string(),
        source: source.to_owned(),
        life: None,
        query: None,
        fate: None,
        reason: None,
        text: text.trim_end_matches('\n').to_owned(),
    }
}

/// A line that came from a module, and what became of it: `dropped` says why.
pub(crate) fn line_from_module(text: &str, dropped: Option<&str>) -> ModuleLine {
    let fate = if dropped.is_some() { LineFate::Dropped } else { LineFate::Accepted };
    ModuleLine { fate: Some(fate), reason: dropped.map(ToOwned::to_owned), ..wire_line("from_module", text) }
}

/// For people: why a line was dropped, and its beginning.
pub(crate) fn dropped_line(why: &str, line: &str) -> ModuleLine {
    let start: String = line.chars().take(DROPPED_CHARS).collect();
    module_line("dropped", &if start.is_empty() { why.to_owned() } else { format!("{why}: {start}") })
}

/// Adds lines to those that are kept, of which the oldest go.
pub(crate) fn keep_newest(kept: &mut VecDeque<ModuleLine>, lines: impl IntoIterator<Item = ModuleLine>) {
    kept.extend(lines);
    let surplus = kept.len().saturating_sub(KEPT_LINES);
    kept.drain(..surplus);
}

/// Cuts the text for people.
pub(crate) fn cut(line: &mut ModuleLine) {
    if let Some((end, _)) = line.text.char_indices().nth(SHOWN_CHARS) {
        line.text.truncate(end);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text_of(watched: Option<Watched>) -> String {
        match watched {
            Some(Watched::Line(line)) => line.text,
            other => panic!("{other:?}"),
        }
    }

    #[actix_rt::test]
    async fn a_line_is_made_only_for_a_watcher() {
        let feed = LineFeed::default();
        feed.send(|| panic!("nobody watches"));
        let mut watch = feed.subscribe();
        assert!(feed.is_watched());
        feed.send(|| wire_line("log", "one"));

        assert_eq!(text_of(watch.next().await), "one");
        drop(watch);
        assert!(!feed.is_watched());
        feed.send(|| panic!("nobody watches any more"));
    }

    #[actix_rt::test]
    async fn a_slow_watcher_is_told_how_many_lines_it_missed_and_where() {
        let feed = LineFeed::default();
        let (mut slow, mut fast) = (feed.subscribe(), feed.subscribe());
        let large = "x".repeat(MAX_WAITING_BYTES / 2);
        for number in 0..4 {
            feed.send(|| wire_line("log", &format!("{number}{}", &large[1..])));
            assert!(text_of(fast.next().await).starts_with(&number.to_string()));
        }
        assert!(text_of(slow.next().await).starts_with('0'));
        assert!(text_of(slow.next().await).starts_with('1'));
        feed.send(|| wire_line("log", "small"));

        assert_eq!(slow.next().await, Some(Watched::Missed(2)));
        assert_eq!(text_of(slow.next().await), "small");
        drop(feed);
        assert_eq!(slow.next().await, None);
    }

    #[test]
    fn a_line_for_people_is_cut() {
        assert_eq!(module_line("log", &"ä".repeat(SHOWN_CHARS + 1)).text.chars().count(), SHOWN_CHARS);
        assert_eq!(wire_line("log", &"ä".repeat(SHOWN_CHARS + 1)).text.chars().count(), SHOWN_CHARS + 1);
    }
}
