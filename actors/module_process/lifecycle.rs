//! The life of one module process as a state machine without I/O or clock: events in, effects out.
//!
//! ```text
//!             first pong                 missed beat
//!  Starting ─────────────► Running ◄──────────────────► Degraded
//!     │                       │          next pong          │
//!     │ misses used up, or told to stop, or a pipe closed   │
//!     └──────────────► Stopping(stage) ◄────────────────────┘
//!                          │ asked ─► terminated ─► killed
//!                          ▼
//!                        Ended  (on the exit of the process, from any state)
//! ```
//!
//! Nothing leaves `Ended`, and only the exit of the process leads there: what a dying module still writes
//! cannot bring it back, and no second copy starts while the first one lives.

use std::time::Duration;

use tokio::time::Instant;

use crate::life::EndReason;

/// Time between SIGTERM and SIGKILL for a module that has already proved deaf.
const DEAF_GRACE: Duration = Duration::from_millis(500);

/// Time that a process may outlive its stdout before it is ended; covers a normal exit, where the pipe closes
/// a moment before the process is gone.
const CLOSED_PIPE_GRACE: Duration = Duration::from_secs(1);

/// Kills, one a second, after which a process that is still there is a problem and no delay.
const KILLS_EXPECTED: u32 = 5;

/// Where a module is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// The process runs and has not answered a heartbeat.
    Starting,
    /// Heartbeats are answered.
    Running,
    /// At least one heartbeat in a row was missed.
    Degraded,
    /// The process is being ended.
    Stopping(Stage),
    /// The process is gone.
    Ended,
}

/// How far the ending of a process has got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// stdout is closed; the process is about to exit, or hangs.
    Closing,
    /// `stop` was sent, or stdin closed.
    Asked,
    /// SIGTERM was sent.
    Terminated,
    /// SIGKILL was sent.
    Killed,
}

/// What happens to a module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Event {
    /// The process was started.
    Spawned,
    /// It registered and said that it honours `stop`.
    HonoursStop,
    /// It echoed a heartbeat.
    Pong {
        /// The echoed number; `None` where the module answers without one.
        nonce: Option<u64>,
    },
    /// It is time for the next heartbeat.
    HeartbeatDue {
        /// Since when the agent has not read the module's stdout because its own disk is slow.
        not_reading_since: Option<Instant>,
        /// Since when a write to the module's stdin has been waiting.
        writing_since: Option<Instant>,
    },
    /// It is to end.
    Stop {
        /// Why.
        reason: EndReason,
        /// Time between asking and killing.
        grace: Duration,
    },
    /// The time of the present stage is over.
    StageDue {
        /// The stage that the timer was set for.
        stage: Stage,
    },
    /// stdout came to its end.
    StdoutClosed,
    /// A write to stdin failed.
    StdinClosed,
    /// The process is gone.
    Exited(EndReason),
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Effect {
    /// Send a heartbeat with this number.
    Ping(u64),
    /// Deliver `HeartbeatDue` after the interval.
    ArmHeartbeat,
    /// Send `stop`.
    AskToStop,
    /// Close stdin.
    CloseStdin,
    /// SIGTERM, then SIGCONT so that a stopped process sees it.
    Terminate,
    /// Kill the process and everything it started.
    Kill,
    /// Say that it is still there, although it was killed again and again.
    ReportUnkillable,
    /// Deliver `StageDue` for the stage after this time.
    ArmStage(Stage, Duration),
    /// A heartbeat came back after this time.
    HeartbeatAnswered(Duration),
    /// An echo carried a number that no unanswered heartbeat has; it counts for nothing.
    IgnoreEcho,
}

/// The state machine.
#[derive(Debug, Clone)]
pub(crate) struct Lifecycle {
    state: State,
    misses_allowed: u32,
    honours_stop: bool,
    /// Number of the newest heartbeat; they count from 1.
    newest_nonce: u64,
    /// Oldest heartbeat that is not answered; above `newest_nonce` when all are.
    first_unanswered: u64,
    /// When the newest heartbeat was sent.
    pinged_at: Option<Instant>,
    missed: u32,
    ever_answered: bool,
    stop_reason: Option<EndReason>,
    grace: Duration,
    kills: u32,
    end: Option<EndReason>,
}

impl Lifecycle {
    /// A module that is killed after `misses_allowed` missed heartbeats in a row.
    #[must_use]
    pub(crate) fn new(misses_allowed: u32) -> Self {
        Self {
            state: State::Starting,
            misses_allowed: misses_allowed.max(1),
            honours_stop: false,
            newest_nonce: 0,
            first_unanswered: 1,
            pinged_at: None,
            missed: 0,
            ever_answered: false,
            stop_reason: None,
            grace: DEAF_GRACE,
            kills: 0,
            end: None,
        }
    }

    /// Changes how many heartbeats may be missed from now on.
    pub(crate) fn set_misses_allowed(&mut self, misses_allowed: u32) {
        self.misses_allowed = misses_allowed.max(1);
    }

    /// Where the module is.
    #[must_use]
    pub(crate) fn state(&self) -> State {
        self.state
    }

    /// Heartbeats missed in a row.
    #[must_use]
    pub(crate) fn missed(&self) -> u32 {
        self.missed
    }

    /// Why the life ended, once it has.
    #[must_use]
    pub(crate) fn end(&self) -> Option<&EndReason> {
        self.end.as_ref()
    }

    /// Why the module is being ended.
    #[must_use]
    pub(crate) fn stop_reason(&self) -> Option<&EndReason> {
        self.stop_reason.as_ref()
    }

    /// Takes an event and says what is to be done, in order.
    pub(crate) fn step(&mut self, event: Event, now: Instant) -> Vec<Effect> {
        if self.state == State::Ended {
            return Vec::new();
        }
        match event {
            Event::Spawned => self.ping(now),
            Event::HonoursStop => {
                self.honours_stop = true;
                Vec::new()
            }
            Event::Pong { nonce } => self.pong(nonce, now),
            Event::HeartbeatDue { not_reading_since, writing_since } => {
                self.heartbeat_due(not_reading_since, writing_since, now)
            }
            Event::Stop { reason, grace } => self.stop(reason, grace),
            Event::StageDue { stage } => self.stage_due(stage),
            Event::StdoutClosed => self.pipe_closed(EndReason::ClosedStdout),
            Event::StdinClosed => self.pipe_closed(EndReason::ClosedStdin),
            Event::Exited(reason) => {
                // A pipe that closes a moment before the exit belongs to the exit, and a module without memory or
                // tasks misses heartbeats because of that.
                let closing = self.state == State::Stopping(Stage::Closing);
                let explained = matches!(reason, EndReason::Limit(_));
                let ordered = self.stop_reason.take();
                let ordered = ordered.filter(|why| !closing && (why.is_ordered() || !explained));
                self.end = Some(ordered.unwrap_or(reason));
                self.state = State::Ended;
                Vec::new()
            }
        }
    }

    /// Whether the module is not being ended.
    pub(crate) fn is_live(&self) -> bool {
        matches!(self.state, State::Starting | State::Running | State::Degraded)
    }

    fn ping(&mut self, now: Instant) -> Vec<Effect> {
        self.newest_nonce += 1;
        self.pinged_at = Some(now);
        vec![Effect::Ping(self.newest_nonce), Effect::ArmHeartbeat]
    }

    fn pong(&mut self, nonce: Option<u64>, now: Instant) -> Vec<Effect> {
        let nonce = nonce.unwrap_or(self.newest_nonce);
        if nonce < self.first_unanswered || nonce > self.newest_nonce {
            return vec![Effect::IgnoreEcho];
        }
        self.first_unanswered = nonce + 1;
        if !self.is_live() {
            return Vec::new();
        }
        self.state = State::Running;
        self.missed = 0;
        self.ever_answered = true;
        let round_trip = self.pinged_at.map(|at| now.duration_since(at));
        round_trip.filter(|_| nonce == self.newest_nonce).map(Effect::HeartbeatAnswered).into_iter().collect()
    }

    fn heartbeat_due(
        &mut self,
        not_reading_since: Option<Instant>,
        writing_since: Option<Instant>,
        now: Instant,
    ) -> Vec<Effect> {
        if !self.is_live() {
            return Vec::new();
        }
        let pinged_at = self.pinged_at.unwrap_or(now);
        // An echo that the agent itself did not read is not the module's miss.
        let unread_by_us = not_reading_since.is_some_and(|since| since <= pinged_at);
        if self.first_unanswered <= self.newest_nonce && !unread_by_us {
            self.missed += 1;
            if self.missed >= self.misses_allowed {
                let reason = if writing_since.is_some_and(|since| since <= pinged_at) {
                    EndReason::WriteTimeout
                } else if self.ever_answered {
                    EndReason::HeartbeatLost
                } else {
                    EndReason::StartTimeout
                };
                self.stop_reason = Some(reason);
                return self.terminate(DEAF_GRACE);
            }
            if self.state == State::Running {
                self.state = State::Degraded;
            }
        }
        self.ping(now)
    }

    fn stop(&mut self, reason: EndReason, grace: Duration) -> Vec<Effect> {
        if matches!(self.state, State::Stopping(stage) if stage != Stage::Closing) {
            return Vec::new();
        }
        self.stop_reason = Some(reason);
        self.grace = grace;
        self.state = State::Stopping(Stage::Asked);
        let ask = if self.honours_stop { Effect::AskToStop } else { Effect::CloseStdin };
        vec![ask, Effect::ArmStage(Stage::Asked, grace / 2)]
    }

    fn terminate(&mut self, grace: Duration) -> Vec<Effect> {
        self.state = State::Stopping(Stage::Terminated);
        vec![Effect::CloseStdin, Effect::Terminate, Effect::ArmStage(Stage::Terminated, grace)]
    }

    fn stage_due(&mut self, stage: Stage) -> Vec<Effect> {
        if self.state != State::Stopping(stage) {
            return Vec::new();
        }
        match stage {
            Stage::Closing => self.terminate(DEAF_GRACE),
            Stage::Asked => self.terminate(self.grace / 2),
            Stage::Terminated | Stage::Killed => {
                self.state = State::Stopping(Stage::Killed);
                // Again and again until it is gone: a process in uninterruptible sleep dies only when it wakes.
                let again = [Effect::Kill, Effect::ArmStage(Stage::Killed, Duration::from_secs(1))];
                self.kills = self.kills.saturating_add(1);
                let report = (self.kills == KILLS_EXPECTED).then_some(Effect::ReportUnkillable);
                again.into_iter().chain(report).collect()
            }
        }
    }

    fn pipe_closed(&mut self, reason: EndReason) -> Vec<Effect> {
        if !self.is_live() {
            return Vec::new();
        }
        self.stop_reason = Some(reason);
        self.state = State::Stopping(Stage::Closing);
        vec![Effect::ArmStage(Stage::Closing, CLOSED_PIPE_GRACE)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::life::Limit;
    use proptest::prelude::*;

    const BEAT: Duration = Duration::from_secs(10);

    fn quiet() -> Event {
        Event::HeartbeatDue { not_reading_since: None, writing_since: None }
    }

    fn started() -> (Lifecycle, Instant) {
        let now = Instant::now();
        let mut life = Lifecycle::new(3);
        assert_eq!(life.step(Event::Spawned, now), [Effect::Ping(1), Effect::ArmHeartbeat]);
        (life, now)
    }

    #[test]
    fn a_module_runs_when_it_answers_its_first_heartbeat() {
        let (mut life, now) = started();

        let effects = life.step(Event::Pong { nonce: Some(1) }, now + Duration::from_millis(2));

        assert_eq!(effects, [Effect::HeartbeatAnswered(Duration::from_millis(2))]);
        assert_eq!(life.state(), State::Running);
    }

    #[test]
    fn one_missed_beat_degrades_and_three_kill() {
        let (mut life, now) = started();
        life.step(Event::Pong { nonce: Some(1) }, now);
        life.step(quiet(), now + BEAT);
        life.step(quiet(), now + BEAT * 2);
        assert_eq!(life.state(), State::Degraded);
        life.step(quiet(), now + BEAT * 3);
        assert_eq!(life.state(), State::Degraded);

        let effects = life.step(quiet(), now + BEAT * 4);
        life.step(Event::Exited(EndReason::Signalled(15)), now + BEAT * 4);

        assert_eq!(
            effects,
            [Effect::CloseStdin, Effect::Terminate, Effect::ArmStage(Stage::Terminated, DEAF_GRACE)]
        );
        assert_eq!(life.end(), Some(&EndReason::HeartbeatLost));
    }

    #[test]
    fn a_late_answer_heals_and_an_answer_counts_once() {
        let (mut life, now) = started();
        life.step(quiet(), now + BEAT);
        life.step(quiet(), now + BEAT * 2);

        life.step(Event::Pong { nonce: Some(2) }, now + BEAT * 2);
        let again = life.step(Event::Pong { nonce: Some(2) }, now + BEAT * 2);

        assert_eq!(life.state(), State::Running);
        assert_eq!(again, [Effect::IgnoreEcho]);
    }

    #[test]
    fn a_limit_explains_missed_heartbeats_but_not_an_order() {
        for (stop, end) in [
            (EndReason::HeartbeatLost, "limit(tasks)"),
            (EndReason::ClosedStdout, "limit(tasks)"),
            (EndReason::Operator, "operator"),
        ] {
            let (mut life, now) = started();
            life.step(Event::Stop { reason: stop, grace: BEAT }, now);
            life.step(Event::Exited(EndReason::Limit(Limit::Tasks)), now);

            assert_eq!(life.end().unwrap().to_string(), end);
        }
    }

    #[test]
    fn wrong_numbers_do_not_keep_a_module_alive() {
        let (mut life, now) = started();

        for beat in 1..=3 {
            assert_eq!(life.step(Event::Pong { nonce: Some(99) }, now), [Effect::IgnoreEcho]);
            life.step(quiet(), now + BEAT * beat);
        }

        assert_eq!(life.state(), State::Stopping(Stage::Terminated));
    }

    #[test]
    fn a_module_that_never_reads_its_stdin_ends_with_that_reason() {
        let (mut life, now) = started();
        let stuck = Event::HeartbeatDue { not_reading_since: None, writing_since: Some(now) };

        for beat in 1..=3 {
            life.step(stuck.clone(), now + BEAT * beat);
        }
        life.step(Event::Exited(EndReason::Signalled(9)), now + BEAT * 3);

        // The write that is stuck is older than every heartbeat that was sent behind it.
        assert_eq!(life.end(), Some(&EndReason::WriteTimeout));
    }

    #[test]
    fn an_echo_that_the_agent_did_not_read_is_not_a_miss() {
        let (mut life, now) = started();
        life.step(Event::Pong { nonce: Some(1) }, now);
        life.step(quiet(), now + BEAT);
        let since = now + BEAT;

        for beat in 2..20 {
            let event = Event::HeartbeatDue { not_reading_since: Some(since), writing_since: None };
            life.step(event, now + BEAT * beat);
        }

        assert_eq!(life.state(), State::Running);
    }

    #[test]
    fn a_stop_asks_then_terminates_then_kills() {
        let (mut life, now) = started();
        life.step(Event::HonoursStop, now);

        let asked =
            life.step(Event::Stop { reason: EndReason::Operator, grace: Duration::from_secs(4) }, now);
        let terminated = life.step(Event::StageDue { stage: Stage::Asked }, now);
        let killed = life.step(Event::StageDue { stage: Stage::Terminated }, now);

        assert_eq!(asked, [Effect::AskToStop, Effect::ArmStage(Stage::Asked, Duration::from_secs(2))]);
        assert!(terminated.contains(&Effect::Terminate));
        assert!(killed.contains(&Effect::Kill));
    }

    #[test]
    fn a_process_that_outlives_being_killed_is_reported_once() {
        let (mut life, now) = started();
        life.step(Event::Stop { reason: EndReason::Operator, grace: BEAT }, now);
        life.step(Event::StageDue { stage: Stage::Asked }, now);
        life.step(Event::StageDue { stage: Stage::Terminated }, now);

        let kills = (0..20).map(|_| life.step(Event::StageDue { stage: Stage::Killed }, now));
        let reports: Vec<bool> = kills.map(|effects| effects.contains(&Effect::ReportUnkillable)).collect();

        assert_eq!(reports.iter().position(|is_report| *is_report), Some(3));
        assert_eq!(reports.iter().filter(|is_report| **is_report).count(), 1);
    }

    #[test]
    fn a_module_without_the_stop_capability_has_its_stdin_closed() {
        let (mut life, now) = started();

        let effects = life.step(Event::Stop { reason: EndReason::Operator, grace: BEAT }, now);

        assert_eq!(effects[0], Effect::CloseStdin);
    }

    #[test]
    fn a_process_that_closes_its_stdout_and_lives_on_is_ended() {
        let (mut life, now) = started();
        life.step(Event::StdoutClosed, now);

        let effects = life.step(Event::StageDue { stage: Stage::Closing }, now + CLOSED_PIPE_GRACE);
        life.step(Event::Exited(EndReason::Signalled(15)), now);

        assert!(effects.contains(&Effect::Terminate));
        assert_eq!(life.end(), Some(&EndReason::ClosedStdout));
    }

    #[test]
    fn an_exit_right_after_the_pipe_closed_is_a_plain_exit() {
        let (mut life, now) = started();
        life.step(Event::StdoutClosed, now);

        life.step(Event::Exited(EndReason::Exited(1)), now);

        assert_eq!(life.end(), Some(&EndReason::Exited(1)));
    }

    fn any_event() -> impl Strategy<Value = Event> {
        prop_oneof![
            Just(Event::HonoursStop),
            proptest::option::of(0u64..6).prop_map(|nonce| Event::Pong { nonce }),
            Just(quiet()),
            Just(Event::Stop { reason: EndReason::Operator, grace: BEAT }),
            prop_oneof![
                Just(Stage::Closing),
                Just(Stage::Asked),
                Just(Stage::Terminated),
                Just(Stage::Killed)
            ]
            .prop_map(|stage| Event::StageDue { stage }),
            Just(Event::StdoutClosed),
            Just(Event::StdinClosed),
            Just(Event::Exited(EndReason::Exited(0))),
        ]
    }

    proptest! {
        /// Whatever happens in whatever order: nothing follows the end, a module that is being ended never runs
        /// again, and one that is being ended always has a timer that leads on to its death.
        #[test]
        fn a_life_only_moves_towards_its_end(events in proptest::collection::vec(any_event(), 0..60)) {
            let (mut life, start) = started();
            let mut stopping = false;
            for (index, event) in events.into_iter().enumerate() {
                let before = life.state();
                let effects = life.step(event, start + Duration::from_secs(index as u64));

                if before == State::Ended {
                    prop_assert!(effects.is_empty());
                    prop_assert_eq!(life.state(), State::Ended);
                }
                if stopping {
                    prop_assert!(matches!(life.state(), State::Stopping(_) | State::Ended));
                    prop_assert!(!effects.iter().any(|effect| matches!(effect, Effect::Ping(_))));
                }
                if matches!(life.state(), State::Stopping(_)) && before != life.state() {
                    prop_assert!(effects.iter().any(|effect| matches!(effect, Effect::ArmStage(..))));
                }
                stopping |= matches!(life.state(), State::Stopping(_));
                prop_assert_eq!(life.end().is_some(), life.state() == State::Ended);
            }
        }

        /// A module that stops answering is told to end after exactly the allowed misses.
        #[test]
        fn deaf_modules_are_ended_after_the_allowed_misses(allowed in 1u32..10, answered in 0u64..5) {
            let mut life = Lifecycle::new(allowed);
            let mut now = Instant::now();
            life.step(Event::Spawned, now);
            for nonce in 1..=answered {
                life.step(Event::Pong { nonce: Some(nonce) }, now);
                now += BEAT;
                life.step(quiet(), now);
            }

            let mut misses = 0;
            while !matches!(life.state(), State::Stopping(_)) {
                now += BEAT;
                life.step(quiet(), now);
                misses += 1;
            }

            prop_assert_eq!(misses, allowed);
        }
    }
}
