//! Notices from beside the engine that it does not go round: a health that only the engine reports stays what it was
//! when the engine waits for a disk or a server.
//!
//! Whoever orders something asks for a sign of life, and so does each heartbeat of the agent; the engine gives one in
//! each round. Nothing wakes up while all is well and nobody asks.

use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

/// Time in which the engine must have gone round once: longer than any step of it takes on a busy host.
pub(crate) const PATIENCE: Duration = Duration::from_secs(15);

/// Since when the engine does not go round, and where it waits.
pub(crate) type Stuck = (SystemTime, String);

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
    stuck: Option<Stuck>,
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
    pub(crate) fn stuck(&self) -> Option<Stuck> {
        self.lock().stuck.clone()
    }

    /// Waits for the signs that are asked for; calls `report` when one does not come in time.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub(crate) fn watch(
        &self,
        patience: Duration,
        report: impl Fn(&Stuck) + Send + 'static,
    ) -> std::io::Result<Watch> {
        let pulse = self.clone();
        let thread = std::thread::Builder::new().name("pulse".to_owned()).stack_size(128 * 1024);
        thread.spawn(move || {
            // The engine does not go on before this is reported: what it says then is the last word.
            while let Some(state) = pulse.miss_one(patience) {
                if let Some(stuck) = &state.stuck {
                    report(stuck);
                }
            }
        })?;
        Ok(Watch(self.clone()))
    }

    /// Returns when a sign does not come in time; nothing when nobody waits any more.
    fn miss_one(&self, patience: Duration) -> Option<MutexGuard<'_, State>> {
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
                return Some(state);
            }
            let changed = &self.0.changed;
            state = if left == Duration::MAX {
                changed.wait(state).unwrap_or_else(PoisonError::into_inner)
            } else {
                changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0
            };
        }
        None
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
        let watch = pulse.watch(Duration::from_millis(20), move |_| missed.send(()).unwrap()).unwrap();
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

    #[test]
    fn whoever_gives_a_sign_goes_on_when_its_absence_was_reported() {
        let pulse = Pulse::default();
        let ((reports, reported), (go_on, may_go_on)) = (mpsc::channel(), mpsc::channel());
        let report = move |_: &Stuck| {
            reports.send("reported").unwrap();
            may_go_on.recv().unwrap();
            reports.send("done").unwrap();
        };
        let _watch = pulse.watch(Duration::from_millis(20), report).unwrap();
        pulse.beat();
        pulse.ask();
        assert_eq!(reported.recv_timeout(Duration::from_secs(30)), Ok("reported"));

        let engine = std::thread::spawn(move || pulse.beat());
        assert!(reported.recv_timeout(Duration::from_millis(50)).is_err() && !engine.is_finished());
        go_on.send(()).unwrap();

        assert!(engine.join().unwrap().is_some());
        assert_eq!(reported.try_recv(), Ok("done"));
    }
}
