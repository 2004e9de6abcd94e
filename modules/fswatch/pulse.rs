//! Notices from beside the engine that it does not go round: a health that only the engine reports stays what it was when
//! the engine waits for a disk or a server.
//!
//! Whoever orders something asks for a sign of life, and so does each heartbeat of the agent; the engine gives one in each
//! round. Nothing wakes up while all is well and nobody asks.

use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

/// Time in which the engine must have gone round once: longer than any step of it takes on a busy host.
pub(crate) const PATIENCE: Duration = Duration::from_secs(15);

/// The engine's signs of life.
#[derive(Debug, Clone, Default)]
pub(crate) struct Pulse(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// When a sign was asked for that did not come yet.
    asked: Option<Instant>,
    /// When the engine went round last.
    beat: Option<SystemTime>,
    /// Its thread, as `/proc` shows it.
    thread: Option<PathBuf>,
    /// Since when it does not go round, and where it waits.
    stuck: Option<(SystemTime, String)>,
    /// Nobody waits for signs any more.
    ended: bool,
}

/// Ends the thread that waits for signs.
#[derive(Debug)]
pub(crate) struct Watch(Pulse);

impl Drop for Watch {
    fn drop(&mut self) {
        self.0.lock().ended = true;
        self.0.0.changed.notify_all();
    }
}

#[expect(clippy::disallowed_methods, reason = "the engine lives in real time")]
fn now() -> Instant {
    Instant::now()
}

impl Pulse {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The engine begins, on this thread.
    pub(crate) fn begin(&self) {
        let thread = std::fs::read_link("/proc/thread-self").ok();
        self.lock().thread = thread.map(|thread| PathBuf::from("/proc").join(thread));
    }

    /// The engine goes round. Since when it did not, when that was noticed.
    pub(crate) fn beat(&self) -> Option<SystemTime> {
        let mut state = self.lock();
        state.beat = Some(SystemTime::now());
        if state.asked.take().is_some() {
            self.0.changed.notify_all();
        }
        state.stuck.take().map(|(since, _)| since)
    }

    /// Asks for a sign of life.
    pub(crate) fn ask(&self) {
        let mut state = self.lock();
        if state.asked.is_none() {
            state.asked = Some(now());
            self.0.changed.notify_all();
        }
    }

    /// Since when the engine does not go round, and where it waits.
    pub(crate) fn stuck(&self) -> Option<(SystemTime, String)> {
        self.lock().stuck.clone()
    }

    /// Waits for the signs that are asked for; calls `report` when one does not come in time.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub(crate) fn watch(
        &self,
        patience: Duration,
        report: impl Fn() + Send + 'static,
    ) -> std::io::Result<Watch> {
        let pulse = self.clone();
        let thread = std::thread::Builder::new().name("pulse".to_owned()).stack_size(128 * 1024);
        thread.spawn(move || {
            while pulse.miss_one(patience) {
                report()
            }
        })?;
        Ok(Watch(self.clone()))
    }

    /// Returns when a sign does not come in time; `false` when nobody waits any more.
    fn miss_one(&self, patience: Duration) -> bool {
        let mut state = self.lock();
        while !state.ended {
            // One that was missed is not missed again before it came.
            let left = match state.asked {
                // Before its first round it reads what it knows, and the module is not ready.
                Some(asked) if state.stuck.is_none() && state.beat.is_some() => {
                    patience.saturating_sub(now().duration_since(asked))
                }
                _ => Duration::MAX,
            };
            if left.is_zero() {
                let since = state.beat.unwrap_or_else(SystemTime::now);
                state.stuck = Some((since, waits_for(state.thread.as_ref())));
                return true;
            }
            let changed = &self.0.changed;
            state = if left == Duration::MAX {
                changed.wait(state).unwrap_or_else(PoisonError::into_inner)
            } else {
                changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0
            };
        }
        false
    }
}

/// What a thread waits for, in words. The kernel says in which of its functions, see proc_pid_wchan(5).
fn waits_for(thread: Option<&PathBuf>) -> String {
    let place = thread.and_then(|thread| std::fs::read_to_string(thread.join("wchan")).ok());
    match place.as_deref() {
        Some(place) if place.contains("fuse") || place == "request_wait_answer" => {
            format!("the server of a FUSE mount does not respond (kernel function {place})")
        }
        Some("" | "0") | None => "one step takes very long".to_owned(),
        Some(place) => {
            format!("it waits in the kernel function {place}, as for a disk that does not respond")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    #[test]
    fn a_sign_that_does_not_come_is_reported_once_and_the_next_one_says_since_when() {
        let pulse = Pulse::default();
        let (missed, reports) = mpsc::channel();
        let watch = pulse.watch(Duration::from_millis(20), move || missed.send(()).unwrap()).unwrap();
        pulse.begin();
        assert_eq!(pulse.beat(), None);

        pulse.ask();
        pulse.ask();
        reports.recv_timeout(Duration::from_secs(30)).unwrap();
        assert!(pulse.stuck().is_some());
        assert!(pulse.beat().is_some() && pulse.stuck().is_none() && pulse.beat().is_none());
        pulse.ask();
        reports.recv_timeout(Duration::from_secs(30)).unwrap();
        drop(watch);

        assert!(reports.recv_timeout(Duration::from_secs(30)).is_err(), "the thread ends, and said it once");
    }
}
