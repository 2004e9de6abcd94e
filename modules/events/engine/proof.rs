//! Proves that the source tells what happens: a program is run, and its exec must come.

use std::process::{Child, Command, Stdio};

/// Time between two proofs, and until one is overdue, in microseconds.
const EVERY: i64 = 600_000_000;
const PATIENCE: i64 = 10_000_000;

#[derive(Debug)]
pub(super) struct Proof {
    canary: fn() -> Command,
    child: Option<(Child, i64)>,
    /// The process that must be told, and since when.
    waiting: Option<(u32, i64)>,
    proved: Option<i64>,
    /// When the next one is due.
    next: i64,
    failed: bool,
}

impl Proof {
    pub(super) fn new(canary: fn() -> Command) -> Self {
        Self { canary, child: None, waiting: None, proved: None, next: 0, failed: false }
    }

    pub(super) fn begin(&mut self, now: i64) {
        if let Some((mut child, _)) = self.child.take() {
            child.kill().ok();
            child.wait().ok();
        }
        self.waiting = None;
        self.next = now + PATIENCE;
        let mut command = (self.canary)();
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        // A host without room for another process is not the source's fault.
        if let Ok(child) = command.spawn() {
            self.waiting = Some((child.id(), now));
            self.child = Some((child, now));
            self.next = now + EVERY;
        }
    }

    /// An exec was told.
    pub(super) fn saw(&mut self, pid: u32, now: i64) {
        if self.waiting.is_some_and(|(wanted, _)| wanted == pid) {
            self.waiting = None;
            self.proved = Some(now);
            self.failed = false;
        }
    }

    pub(super) fn tend(&mut self, now: i64) {
        if let Some((child, began)) = &mut self.child {
            match child.try_wait() {
                Ok(None) if now - *began < PATIENCE => return,
                Ok(None) => {
                    child.kill().ok();
                    child.wait().ok();
                }
                Ok(Some(_)) | Err(_) => {}
            }
            self.child = None;
        }
        if self.waiting.is_some_and(|(_, since)| now - since > PATIENCE) {
            self.waiting = None;
            self.failed = true;
            self.begin(now);
        } else if self.waiting.is_none() && now >= self.next {
            self.begin(now);
        }
    }

    pub(super) fn is_overdue(&self, now: i64) -> bool {
        self.failed || self.waiting.is_some_and(|(_, since)| now - since > PATIENCE)
    }

    /// When the source was last proved, microseconds since 1970.
    pub(super) fn proved(&self) -> Option<i64> {
        self.proved
    }
}
