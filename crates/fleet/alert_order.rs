//! Puts the alerts of each agent in their order and tells which are missing. Pure; the time is passed in.
//!
//! Agents send an alert again when they do not know that the broker has it, so one can come twice: the number and the
//! link ([`FleetAlert::link`]) say that it is the same. Another link under the same number, or an alert that does not
//! follow on the one before it, was made by a second agent of the same identity: a cloned machine, a snapshot that
//! was put back, or a stolen key.
//!
//! A broker that was killed can hold a later alert before an earlier one, which the agent sends again. Alerts
//! behind a missing one wait a moment for it; after that the gap is told, and what still comes is told as late.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::answer::{Continued, FleetAlert};
use crate::heartbeat::AlertHead;
use vigie_protocol::names::AgentId;

/// Alerts of one agent that wait behind a missing one; beyond it the gap is told at once.
const MAX_WAITING: usize = 4096;

/// Gaps of one agent that are remembered, to tell a late alert from one that comes twice.
const MAX_GAPS: usize = 256;

/// Links of an agent that are remembered, to know a second agent by an alert that comes again and differs.
const MAX_LINKS: usize = 1024;

/// What a reader of alerts is told, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Told {
    /// The next alert.
    Alert(FleetAlert),
    /// An alert of a gap that was told before.
    Late(FleetAlert),
    /// An alert of a second agent of this identity, under a number that the other has used.
    Twin(FleetAlert),
    /// Alerts are missing.
    Gap {
        /// Whose.
        agent: AgentId,
        /// Number of the first one.
        first_seq: u64,
        /// Number of the last one.
        last_seq: u64,
        /// The agent says that it gave them up for want of room; otherwise nobody knows.
        given_up: bool,
    },
    /// The first alerts of an agent are not at the broker any more: they are old, or were pushed out.
    Gone {
        /// Whose.
        agent: AgentId,
        /// Number of the last one that is not there.
        last_seq: u64,
    },
    /// The newest alerts that the agent says the broker took are not there.
    Cut {
        /// Whose.
        agent: AgentId,
        /// Number of the first one.
        first_seq: u64,
        /// Number of the last one.
        last_seq: u64,
    },
    /// The alerts that follow are in a journal of another name: the agent found that the former one may not be its
    /// alone, because its files came from another machine or are an older copy.
    Renamed {
        /// Which agent.
        agent: AgentId,
        /// The former name.
        before: String,
        /// Number of the newest alert under it that the agent knows to be its own.
        seq: u64,
    },
    /// Two agents bear this identity: there are two different alerts of one number, or one that does not follow on
    /// the one before it.
    Fork {
        /// Which identity.
        agent: AgentId,
        /// From which number on they differ.
        seq: u64,
    },
}

/// The order of the alerts of all agents.
#[derive(Debug)]
pub struct AlertOrder {
    /// Milliseconds that alerts wait for one before them.
    patience: u64,
    /// Whether reading begins at the first alert that the broker has: then what came before is missing.
    from_start: bool,
    agents: HashMap<(AgentId, String), Sequence>,
}

/// The alerts of one journal.
#[derive(Debug, Default)]
struct Sequence {
    /// Number of the next alert to tell; unknown until the first was told.
    next: Option<u64>,
    waiting: BTreeMap<u64, FleetAlert>,
    /// Since when something waits, in milliseconds.
    since: u64,
    gaps: Vec<(u64, u64)>,
    /// Links of the newest alerts that were told.
    links: BTreeMap<u64, String>,
    /// What was told of a second agent: number and link.
    twins: BTreeSet<(u64, String)>,
    /// A fork was told; each further alert would tell it again.
    forked: bool,
    /// What is missing before the first alert is to be told.
    until_first: bool,
    /// It was told what the journal continues.
    continues: bool,
}

impl AlertOrder {
    /// An order in which alerts wait `patience` milliseconds for those before them.
    #[must_use]
    pub fn new(patience: u64) -> Self {
        Self { patience, from_start: false, agents: HashMap::new() }
    }

    /// The same where reading begins with the first alert that the broker has, so that those that are not there any
    /// more are told.
    #[must_use]
    pub fn from_start(patience: u64) -> Self {
        Self { from_start: true, ..Self::new(patience) }
    }

    /// Appends what an agent's own word about its newest alert shows to be missing at the end. After [`Self::finish`].
    pub fn compare(&self, agent: &AgentId, head: &AlertHead, told: &mut Vec<Told>) {
        let sequence = self.agents.get(&(agent.clone(), head.journal.clone()));
        let next = sequence.and_then(|sequence| sequence.next).unwrap_or(1);
        if next <= head.seq && (sequence.is_some() || self.from_start) {
            told.push(Told::Cut { agent: agent.clone(), first_seq: next, last_seq: head.seq });
        }
        let link = sequence.and_then(|sequence| sequence.links.get(&head.seq));
        if link.is_some_and(|link| *link != head.link) && !sequence.is_some_and(|sequence| sequence.forked) {
            told.push(Told::Fork { agent: agent.clone(), seq: head.seq });
        }
    }

    /// Takes an alert that came at `now` (milliseconds of any clock) and appends what can be told.
    pub fn take(&mut self, alert: FleetAlert, now: u64, told: &mut Vec<Told>) {
        let sequence = self.agents.entry((alert.agent.clone(), alert.journal.clone())).or_default();
        if let Some(Continued { journal, seq }) = alert.continues.clone().filter(|it| it.seq < alert.seq)
            && !std::mem::replace(&mut sequence.continues, true)
        {
            told.push(Told::Renamed { agent: alert.agent.clone(), before: journal, seq });
            // What came before is in the other one.
            sequence.next.get_or_insert(seq + 1);
        }
        if sequence.next.is_some_and(|next| alert.seq < next) {
            if sequence.was_missing(alert.seq) {
                told.push(Told::Late(alert));
            } else if sequence.links.get(&alert.seq).is_some_and(|link| *link != alert.link()) {
                sequence.twin(alert, told);
            }
            return;
        }
        if sequence.waiting.get(&alert.seq).is_some_and(|waiting| waiting.link() != alert.link()) {
            sequence.twin(alert, told);
            return;
        }
        if sequence.waiting.is_empty() {
            sequence.since = now;
        }
        // Where reading begins in the middle nobody knows what came before; the first alert of all is known.
        if sequence.next.is_none() {
            if alert.seq == 1 {
                sequence.next = Some(1);
            } else if self.from_start && sequence.waiting.is_empty() {
                sequence.until_first = true;
            }
        }
        sequence.waiting.entry(alert.seq).or_insert(alert);
        if sequence.tell(told) {
            sequence.since = now;
        }
        if sequence.waiting.len() > MAX_WAITING {
            sequence.skip(told);
            sequence.since = now;
        }
    }

    /// Appends what has waited long enough at `now`.
    pub fn overdue(&mut self, now: u64, told: &mut Vec<Told>) {
        let patience = self.patience;
        for sequence in self.agents.values_mut() {
            while !sequence.waiting.is_empty() && now.saturating_sub(sequence.since) >= patience {
                sequence.skip(told);
            }
        }
    }

    /// Appends all that waits: nothing more will come.
    pub fn finish(&mut self, told: &mut Vec<Told>) {
        for sequence in self.agents.values_mut() {
            while !sequence.waiting.is_empty() {
                sequence.skip(told);
            }
        }
    }

    /// Whether alerts wait for others.
    #[must_use]
    pub fn waits(&self) -> bool {
        self.agents.values().any(|sequence| !sequence.waiting.is_empty())
    }
}

impl Sequence {
    /// Tells the alerts that are next; says whether there were any.
    fn tell(&mut self, told: &mut Vec<Told>) -> bool {
        let before = told.len();
        while let (Some(next), Some(entry)) = (self.next, self.waiting.first_entry()) {
            let seq = *entry.key();
            let given_up = next < seq && covers(&entry.get().dropped, next, seq - 1);
            if next != seq && !given_up {
                break;
            }
            let alert = entry.remove();
            self.follow(&alert, told);
            if given_up {
                let (agent, last_seq) = (alert.agent.clone(), seq - 1);
                told.push(Told::Gap { agent, first_seq: next, last_seq, given_up: true });
            }
            told.push(Told::Alert(alert));
            self.next = seq.checked_add(1);
        }
        told.len() > before
    }

    /// Gives up waiting for what is missing before the first that waits.
    fn skip(&mut self, told: &mut Vec<Told>) {
        let Some((&seq, alert)) = self.waiting.first_key_value() else { return };
        if let Some(next) = self.next
            && next < seq
        {
            if self.gaps.len() == MAX_GAPS {
                self.gaps.remove(0);
            }
            self.gaps.push((next, seq - 1));
            let agent = alert.agent.clone();
            told.push(Told::Gap { agent, first_seq: next, last_seq: seq - 1, given_up: false });
        }
        if self.next.is_none() && self.until_first && seq > 1 && !covers(&alert.dropped, 1, seq - 1) {
            told.push(Told::Gone { agent: alert.agent.clone(), last_seq: seq - 1 });
        }
        self.next = Some(seq);
        self.tell(told);
    }

    /// Takes note of an alert that is about to be told, and tells when it does not follow on the one before it.
    fn follow(&mut self, alert: &FleetAlert, told: &mut Vec<Told>) {
        let before = alert.seq.checked_sub(1).and_then(|before| self.links.get(&before));
        if let (Some(before), Some(previous)) = (before, &alert.previous)
            && before != previous
        {
            self.fork(alert, told);
        }
        if self.links.len() == MAX_LINKS {
            self.links.pop_first();
        }
        self.links.insert(alert.seq, alert.link());
    }

    fn fork(&mut self, alert: &FleetAlert, told: &mut Vec<Told>) {
        if !std::mem::replace(&mut self.forked, true) {
            told.push(Told::Fork { agent: alert.agent.clone(), seq: alert.seq });
        }
    }

    /// Tells an alert of a second agent, once: a clone's alerts are lost no more than another's.
    fn twin(&mut self, alert: FleetAlert, told: &mut Vec<Told>) {
        self.fork(&alert, told);
        if self.twins.len() == MAX_LINKS {
            self.twins.pop_first();
        }
        if self.twins.insert((alert.seq, alert.link())) {
            told.push(Told::Twin(alert));
        }
    }

    /// Whether a number is in a gap; it is not any more afterwards.
    fn was_missing(&mut self, seq: u64) -> bool {
        let Some(at) = self.gaps.iter().position(|&(first, last)| (first..=last).contains(&seq)) else {
            return false;
        };
        let (first, last) = self.gaps.swap_remove(at);
        let rest = [(first, seq.wrapping_sub(1)), (seq.wrapping_add(1), last)];
        self.gaps.extend(rest.into_iter().filter(|(first, last)| first <= last && *last != u64::MAX));
        true
    }
}

fn covers(ranges: &[(u64, u64)], first: u64, last: u64) -> bool {
    ranges.iter().any(|&(from, through)| from <= first && last <= through)
}

#[cfg(test)]
mod tests {
    use super::*;

    use proptest::prelude::*;

    fn alert(seq: u64) -> FleetAlert {
        FleetAlert {
            v: 1,
            agent: "a".parse().unwrap(),
            journal: "j".to_owned(),
            seq,
            time: String::new(),
            module: "watch".to_owned(),
            message: String::new(),
            dropped: Vec::new(),
            previous: None,
            continues: None,
        }
    }

    fn gap(first_seq: u64, last_seq: u64, given_up: bool) -> Told {
        Told::Gap { agent: "a".parse().unwrap(), first_seq, last_seq, given_up }
    }

    fn take_all(order: &mut AlertOrder, seqs: &[u64], now: u64) -> Vec<Told> {
        let mut told = Vec::new();
        for &seq in seqs {
            order.take(alert(seq), now, &mut told);
        }
        told
    }

    #[test]
    fn an_alert_waits_for_the_one_before_it() {
        let mut order = AlertOrder::new(1000);

        assert_eq!(take_all(&mut order, &[1, 3, 4], 0), [Told::Alert(alert(1))]);
        assert!(order.waits());
        assert_eq!(take_all(&mut order, &[2], 10), [2, 3, 4].map(|seq| Told::Alert(alert(seq))));
        assert!(!order.waits());
    }

    #[test]
    fn what_does_not_come_is_told_as_a_gap_and_what_then_comes_as_late() {
        let mut order = AlertOrder::new(1000);
        take_all(&mut order, &[1, 5], 0);
        let mut told = Vec::new();
        order.overdue(999, &mut told);
        assert_eq!(told, []);

        order.overdue(1000, &mut told);

        assert_eq!(told, [gap(2, 4, false), Told::Alert(alert(5))]);
        assert_eq!(take_all(&mut order, &[3, 3, 5, 1], 1100), [Told::Late(alert(3))]);
        assert_eq!(take_all(&mut order, &[4, 2], 1200), [Told::Late(alert(4)), Told::Late(alert(2))]);
    }

    #[test]
    fn what_the_agent_gave_up_is_told_at_once() {
        let mut order = AlertOrder::new(1000);
        take_all(&mut order, &[1], 0);
        let mut told = Vec::new();

        order.take(FleetAlert { dropped: vec![(2, 9)], ..alert(10) }, 0, &mut told);

        assert_eq!(told[0], gap(2, 9, true));
        assert_eq!(told.len(), 2);
    }

    #[test]
    fn two_agents_of_one_identity_are_told_once_and_no_alert_of_either_is_lost() {
        let agent: AgentId = "a".parse().unwrap();
        let other = |seq| FleetAlert { time: "2026-01-01T00:00:00Z".to_owned(), ..alert(seq) };
        let fork = |seq| Told::Fork { agent: agent.clone(), seq };
        // The same number, recorded at another time, whichever comes first.
        let mut order = AlertOrder::new(1000);
        let mut told = take_all(&mut order, &[1, 2], 0);
        told.clear();
        order.take(alert(2), 0, &mut told);
        order.take(FleetAlert { message: "masked".to_owned(), ..alert(2) }, 0, &mut told);
        assert_eq!(told, [], "the same again is no fork, also when it is masked now");
        // None is lost, and one that comes again is told once.
        for seq in [2, 1, 2] {
            order.take(other(seq), 0, &mut told);
        }
        assert_eq!(told, [fork(2), Told::Twin(other(2)), Told::Twin(other(1))]);
        told.clear();
        order.take(alert(4), 0, &mut told);
        order.take(other(4), 0, &mut told);
        assert_eq!(told, [Told::Twin(other(4))], "also while one before it is missing");
        // One that follows on another one than there is: a snapshot was put back.
        let mut order = AlertOrder::new(1000);
        let mut told = take_all(&mut order, &[1], 0);
        told.clear();
        order.take(FleetAlert { previous: Some(alert(1).link()), ..alert(2) }, 0, &mut told);
        let reverted = FleetAlert { previous: Some(other(2).link()), ..alert(3) };
        order.take(reverted.clone(), 0, &mut told);
        assert_eq!(told[1..], [fork(3), Told::Alert(reverted)]);
    }

    #[test]
    fn a_journal_that_got_another_name_goes_on_without_a_gap_and_is_told_once() {
        let agent: AgentId = "a".parse().unwrap();
        let renamed = |seq| FleetAlert { journal: "k".to_owned(), ..alert(seq) };
        let continues = Some(Continued { journal: "j".to_owned(), seq: 2 });
        let first = FleetAlert { continues: continues.clone(), ..renamed(3) };
        let mut order = AlertOrder::from_start(1000);
        // The lost ones of the former name, which a snapshot that was put back knows nothing of.
        let mut told = take_all(&mut order, &[1, 2, 3, 4], 0);
        told.clear();

        for alert in [first.clone(), renamed(4), first.clone()] {
            order.take(alert, 0, &mut told);
        }

        let before = Told::Renamed { agent: agent.clone(), before: "j".to_owned(), seq: 2 };
        assert_eq!(told, [before.clone(), Told::Alert(first), Told::Alert(renamed(4))]);
        assert!(!order.waits());
        // Retention took what was to come first; what cannot be is not believed.
        let mut order = AlertOrder::from_start(1000);
        told.clear();
        let later = FleetAlert { continues, dropped: vec![(3, 6)], ..renamed(7) };
        order.take(later.clone(), 0, &mut told);
        assert_eq!(told, [before, gap(3, 6, true), Told::Alert(later)]);
        told.clear();
        let forged = Some(Continued { journal: "j".to_owned(), seq: 70 });
        order.take(FleetAlert { journal: "l".to_owned(), continues: forged, ..alert(1) }, 0, &mut told);
        assert!(matches!(&told[..], [Told::Alert(_)]), "{told:?}");
    }

    #[test]
    fn what_is_missing_at_either_end_is_told() {
        let agent: AgentId = "a".parse().unwrap();
        let mut order = AlertOrder::from_start(1000);
        let mut told = take_all(&mut order, &[8, 9], 0);
        order.finish(&mut told);
        let head = |seq| AlertHead { journal: "j".to_owned(), seq, link: alert(seq).link() };
        order.compare(&agent, &head(9), &mut told);
        order.compare(&agent, &head(11), &mut told);

        let gone = Told::Gone { agent: agent.clone(), last_seq: 7 };
        let cut = Told::Cut { agent: agent.clone(), first_seq: 10, last_seq: 11 };
        assert_eq!(told, [gone, Told::Alert(alert(8)), Told::Alert(alert(9)), cut]);
        // All of them are gone.
        told.clear();
        AlertOrder::from_start(1).compare(&agent, &head(3), &mut told);
        assert_eq!(told, [Told::Cut { agent, first_seq: 1, last_seq: 3 }]);
    }

    #[test]
    fn reading_from_the_middle_is_no_gap() {
        let mut order = AlertOrder::new(1000);
        let mut told = take_all(&mut order, &[8, 7], 0);
        order.finish(&mut told);

        assert_eq!(told, [Told::Alert(alert(7)), Told::Alert(alert(8))]);
    }

    proptest! {
        /// Whatever the order and however often each comes: every alert is told once, and in its order, when all
        /// come in time.
        #[test]
        fn every_alert_is_told_once_and_in_order(mut seqs in Just((1u64..60).collect::<Vec<_>>()).prop_shuffle(),
                                                 again in prop::collection::vec(1u64..60, 0..30)) {
            seqs.extend(again);
            let mut order = AlertOrder::new(1000);
            let told = take_all(&mut order, &seqs, 0);
            let expected: Vec<_> = (1..60).map(|seq| Told::Alert(alert(seq))).collect();
            prop_assert_eq!(told, expected);
        }

        /// Told alerts, late ones and gaps together are every number exactly once.
        #[test]
        fn nothing_vanishes(seqs in prop::collection::vec((1u64..80, 0u64..400), 1..120)) {
            let mut order = AlertOrder::new(1000);
            let (mut told, mut now) = (Vec::new(), 0);
            order.take(alert(1), 0, &mut told);
            for (seq, pause) in &seqs {
                now += pause;
                order.take(alert(*seq), now, &mut told);
                order.overdue(now, &mut told);
            }
            order.finish(&mut told);
            let mut seen = std::collections::BTreeSet::new();
            let mut missing = std::collections::BTreeSet::new();
            for one in told {
                match one {
                    Told::Alert(alert) => prop_assert!(seen.insert(alert.seq)),
                    Told::Late(alert) => prop_assert!(missing.remove(&alert.seq) && seen.insert(alert.seq)),
                    Told::Gap { first_seq, last_seq, .. } => missing.extend(first_seq..=last_seq),
                    other => prop_assert!(false, "{other:?}"),
                }
            }
            let sent: std::collections::BTreeSet<u64> = seqs.iter().map(|(seq, _)| *seq).chain([1]).collect();
            prop_assert_eq!(&seen, &sent);
            let last = *seen.last().unwrap();
            prop_assert_eq!(missing, (1..=last).filter(|seq| !seen.contains(seq)).collect());
        }
    }
}
