//! Decides what goes to make room, and which segments become one.
//!
//! Critical and high alerts have three quarters of the room to themselves, so that no flood of lesser ones pushes them
//! out, and the others have the last quarter; either takes what the other leaves free. Within such a part each share
//! (a module, or the agent about a module) has an equal part to itself and takes what the others leave free, so that
//! no flood of one pushes out what another told: whoever takes most gives first. Within a share the less severe go
//! first as long as they take more than a quarter of it, oldest first.
//!
//! What the fleet has goes before what it does not have, of shares that take more than their equal part.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use vigie_protocol::severity::Severity;

use crate::contents::{Contents, add_counts};
use crate::line::Counts;
use crate::segment::Name;
use crate::verify::by_severity;

/// Modules that the text of an alert names; its `modules` has all.
const NAMED: usize = 3;

/// A segment to which nothing is added.
#[derive(Debug, Clone)]
pub(crate) struct ClosedSegment {
    pub(crate) name: Name,
    /// Number of its last alert, at most.
    pub(crate) last: u64,
    pub(crate) contents: Contents,
    /// It cannot be merged with others: it is of before version 2.
    pub(crate) is_alone: bool,
    /// It could not be read or rewritten, or another file holds a part of it as well: it stays as it is until the next
    /// segment is begun.
    pub(crate) is_put_off: bool,
}

impl ClosedSegment {
    pub(crate) fn new(name: Name, last: u64, contents: Contents) -> Self {
        Self { name, last, contents, is_alone: false, is_put_off: false }
    }
}

/// What goes next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Victim {
    /// Which segment.
    pub(crate) index: usize,
    pub(crate) goes: Goes,
}

/// What of a segment goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Goes {
    /// Everything, as versions before decided when there were too many segments.
    All,
    /// Alerts of this share and severity.
    Part(String, Severity),
}

impl Goes {
    pub(crate) fn is(&self, share: &str, severity: Severity) -> bool {
        match self {
            Self::All => true,
            Self::Part(goes, of) => *of == severity && goes == share,
        }
    }

    /// Whether there is any of it.
    pub(crate) fn is_in(&self, contents: &Contents) -> bool {
        match self {
            Self::All => contents.counts() != [0; 4],
            Self::Part(share, severity) => contents.count(share, *severity) > 0,
        }
    }
}

/// Whether something must go.
pub(crate) fn is_too_much(closed: &[ClosedSegment], allowance: u64) -> bool {
    closed.iter().map(|segment| segment.contents.total_bytes()).sum::<u64>() > allowance
}

/// Which segment becomes one with the next one, if there are more than `most`: those that take least together. They
/// take less than a full one when twice as many are allowed as there is room for.
pub(crate) fn next_merge(closed: &[ClosedSegment], most: usize) -> Option<usize> {
    if closed.len() <= most {
        return None;
    }
    let can_be = |one: &ClosedSegment| !one.is_alone && !one.is_put_off;
    let pairs = closed.windows(2).enumerate().filter(|(_, pair)| pair.iter().all(can_be));
    let bytes = |pair: &[ClosedSegment]| pair.iter().map(|one| one.contents.total_bytes()).sum::<u64>();
    pairs.min_by_key(|(_, pair)| bytes(pair)).map(|(index, _)| index)
}

/// Decides what goes next, if anything must. `closed` are in order, and none is rough that is not put off;
/// `sent_through` is the number of the newest alert that the fleet has, absent when no fleet wants them.
///
/// What is put off counts for whom it is of, as everything does: otherwise lesser alerts in it would take the room of
/// severe ones.
pub(crate) fn next_victim(
    closed: &[ClosedSegment],
    allowance: u64,
    sent_through: Option<u64>,
) -> Option<Victim> {
    if !is_too_much(closed, allowance) {
        return None;
    }
    let mut shares: BTreeMap<&str, [u64; 4]> = BTreeMap::new();
    let mut other = 0;
    for ClosedSegment { contents, .. } in closed {
        let Contents { shares: more, other_bytes, .. } = contents;
        other += other_bytes;
        for (share, tally) in more {
            let sum = shares.entry(share).or_default();
            sum.iter_mut().zip(tally.bytes).for_each(|(sum, bytes)| *sum += bytes);
        }
    }
    let lower: u64 = shares.values().map(|[low, medium, ..]| low + medium).sum();
    let severe_first = lower <= allowance.saturating_sub(other) / 4;
    [severe_first, !severe_first]
        .into_iter()
        .find_map(|severe| Part::of(&shares, severe).victim(closed, sent_through))
}

/// One of the two parts of the room.
struct Part<'a> {
    less: Severity,
    more: Severity,
    /// Bytes of the less severe alerts and of the others by share; the largest share first.
    shares: Vec<(&'a str, u64, u64)>,
}

impl<'a> Part<'a> {
    fn of(shares: &BTreeMap<&'a str, [u64; 4]>, severe: bool) -> Self {
        let (less, more) =
            if severe { (Severity::High, Severity::Critical) } else { (Severity::Low, Severity::Medium) };
        let mut shares: Vec<_> = shares
            .iter()
            .map(|(&share, bytes)| (share, bytes[less as usize], bytes[more as usize]))
            .filter(|(_, less, more)| less + more > 0)
            .collect();
        shares.sort_by_key(|(_, less, more)| std::cmp::Reverse(less + more));
        Self { less, more, shares }
    }

    fn victim(&self, closed: &[ClosedSegment], sent_through: Option<u64>) -> Option<Victim> {
        let sum: u64 = self.shares.iter().map(|(_, less, more)| less + more).sum();
        let count = self.shares.len() as u64;
        let first = |share: &str, severity: Severity, through: u64| {
            let has_some = |segment: &ClosedSegment| {
                !segment.is_put_off && segment.last <= through && segment.contents.count(share, severity) > 0
            };
            let index = closed.iter().position(has_some)?;
            Some(Victim { index, goes: Goes::Part(share.to_owned(), severity) })
        };
        let by_quarter = |less: u64, more: u64| {
            if less * 3 > more { [self.less, self.more] } else { [self.more, self.less] }
        };
        if let Some(through) = sent_through {
            let above = self.shares.iter().filter(|(_, less, more)| (less + more) * count >= sum);
            let sent = above.flat_map(|&(share, less, more)| by_quarter(less, more).map(|of| (share, of)));
            if let Some(victim) = sent.into_iter().find_map(|(share, of)| first(share, of, through)) {
                return Some(victim);
            }
        }
        self.shares.iter().find_map(|&(share, less, more)| {
            // What nobody else has goes strictly from the least severe on.
            let order = if sent_through.is_some() { [self.less, self.more] } else { by_quarter(less, more) };
            order.into_iter().find_map(|severity| first(share, severity, u64::MAX))
        })
    }
}

/// Alerts that went before the fleet had them, or, where no fleet wants them, severe ones that went.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GivenUp {
    /// How many of each severity, as [`Severity::ALL`] orders them.
    pub counts: Counts,
    /// Number of the first one.
    pub first_seq: u64,
    /// Number of the last one.
    pub last_seq: u64,
    /// The same counts by module; what the agent told about a module counts as `agent:MODULE`.
    pub modules: BTreeMap<String, Counts>,
}

impl GivenUp {
    pub(crate) fn add(total: &mut Option<Self>, share: &str, severity: Severity, seq: u64) {
        let total = total.get_or_insert_with(|| Self {
            counts: [0; 4],
            first_seq: seq,
            last_seq: seq,
            modules: BTreeMap::new(),
        });
        total.counts[severity as usize] += 1;
        let mut one = [0; 4];
        one[severity as usize] = 1;
        add_counts(&mut total.modules, share, one);
        total.first_seq = total.first_seq.min(seq);
        total.last_seq = total.last_seq.max(seq);
    }

    /// All of them.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Joins what was given up at two times.
    pub fn join(total: &mut Option<Self>, more: Option<Self>) {
        match (&mut *total, more) {
            (Some(total), Some(more)) => {
                total.counts.iter_mut().zip(more.counts).for_each(|(count, more)| *count += more);
                for (share, counts) in more.modules {
                    add_counts(&mut total.modules, &share, counts);
                }
                total.first_seq = total.first_seq.min(more.first_seq);
                total.last_seq = total.last_seq.max(more.last_seq);
            }
            (None, more @ Some(_)) => *total = more,
            (_, None) => {}
        }
    }

    /// A name for it that nothing else has: an alert is given up once.
    #[must_use]
    pub fn id(&self) -> String {
        format!("given up {} {}", self.first_seq, self.last_seq)
    }

    /// The alert that tells of it, in the form that modules' alerts have.
    #[must_use]
    pub fn message(&self, fleet: bool) -> serde_json::Value {
        let [low, medium, high, critical] = self.counts;
        // About lesser alerts it says no more than they did, or a flood of them would fill the room of the severe ones.
        let severity = if high + critical > 0 { Severity::Critical } else { Severity::Medium };
        let (event, text) = if fleet {
            (
                "alerts_given_up",
                "alerts were deleted before they could be sent to the fleet because the journal is full; increase journal.keep_segments, and check why the broker does not accept alerts",
            )
        } else {
            (
                "alerts_deleted",
                "severe alerts were deleted because the journal is full of critical and high alerts; increase journal.keep_segments, and find out why so many are sent",
            )
        };
        let mut by_count: Vec<(&str, u64)> =
            self.modules.iter().map(|(module, counts)| (module.as_str(), counts.iter().sum())).collect();
        by_count.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        let more = if by_count.len() > NAMED { ", …" } else { "" };
        let named: Vec<String> =
            by_count.into_iter().take(NAMED).map(|(module, count)| format!("{count} of {module}")).collect();
        let modules: BTreeMap<&String, _> =
            self.modules.iter().map(|(module, counts)| (module, by_severity(*counts))).collect();
        serde_json::json!({
            "severity": severity,
            "alert": format!("{} {text} ({}{more})", self.total(), named.join(", ")),
            "event": event,
            "modules": modules,
            "low": low, "medium": medium, "high": high, "critical": critical,
            "first_seq": self.first_seq, "last_seq": self.last_seq,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SHARES: [&str; 4] = ["quiet", "loud", "agent", "agent:loud"];

    /// Alerts of 100 bytes each, by share.
    fn segment(index: u64, counts: &[(&str, Counts)]) -> ClosedSegment {
        let mut contents = Contents::default();
        for (share, counts) in counts {
            for severity in Severity::ALL {
                let count = counts[severity as usize];
                if count > 0 {
                    contents.add_many(share, severity, count, count * 100);
                }
            }
        }
        ClosedSegment::new(Name { first: index * 1000 + 1, part: 0 }, (index + 1) * 1000, contents)
    }

    /// Deletes until there is room; returns what is left.
    fn make_room(
        mut closed: Vec<ClosedSegment>,
        allowance: u64,
        sent_through: Option<u64>,
    ) -> Vec<ClosedSegment> {
        while let Some(Victim { index, goes }) = next_victim(&closed, allowance, sent_through) {
            let Goes::Part(share, severity) = goes else { panic!("{goes:?}") };
            let tally = closed[index].contents.shares.get_mut(&share).unwrap();
            let at = severity as usize;
            assert_ne!(std::mem::take(&mut tally.counts[at]), 0, "something goes each time");
            tally.bytes[at] = 0;
            if closed[index].contents.counts() == [0; 4] {
                closed.remove(index);
            }
        }
        closed
    }

    /// Alerts of a share that are left.
    fn left(closed: &[ClosedSegment], share: &str) -> Counts {
        let mut sum = [0; 4];
        for segment in closed {
            for severity in Severity::ALL {
                sum[severity as usize] += segment.contents.count(share, severity);
            }
        }
        sum
    }

    #[test]
    fn a_flood_of_lesser_alerts_costs_no_severe_one() {
        let mut closed = vec![segment(0, &[("loud", [10, 10, 10, 10])])];
        closed.extend((1..50).map(|index| segment(index, &[("loud", [50, 50, 0, 0])])));

        let left = make_room(closed, 40_000, None);

        assert_eq!(left[0].contents.counts(), [0, 0, 10, 10]);
        assert!(left.last().is_some_and(|last| last.contents.counts()[..2] == [50, 50]), "the newest stay");
    }

    #[test]
    fn a_flood_of_one_share_costs_no_other_one_and_within_it_first_the_less_severe() {
        let others = [("quiet", [3, 3, 3, 3]), ("agent", [0, 0, 0, 2]), ("agent:loud", [0, 0, 0, 1])];
        for sent_through in [None, Some(0), Some(u64::MAX)] {
            for flood in [[0, 0, 0, 50], [0, 0, 50, 0], [20, 20, 20, 20]] {
                let mut closed = vec![segment(0, &others), segment(1, &[("loud", [0, 0, 0, 5])])];
                closed.extend((2..60).map(|index| segment(index, &[("loud", flood)])));

                let closed = make_room(closed, 20_000, sent_through);

                for (share, counts) in others {
                    assert_eq!(left(&closed, share), counts, "{share} {flood:?} {sent_through:?}");
                }
                assert!(left(&closed, "loud")[2..].iter().sum::<u64>() > 50);
                if flood[3] == 0 {
                    assert_eq!(left(&closed, "loud")[3], 5, "high alerts push out no critical one");
                }
            }
        }
    }

    #[test]
    fn what_is_put_off_stays_and_the_share_that_takes_most_of_the_rest_gives() {
        let mut closed: Vec<_> = (0..20)
            .map(|index| segment(index, &[("loud", [0, 0, 0, 20]), ("quiet", [0, 0, 0, 2])]))
            .collect();
        closed[0].is_put_off = true;

        let closed = make_room(closed, 20_000, None);

        assert_eq!(closed[0].contents.counts(), [0, 0, 0, 22]);
        assert_eq!(left(&closed, "quiet")[3], 40);
    }

    #[test]
    fn lesser_alerts_that_are_put_off_take_no_room_of_severe_ones() {
        let mut closed: Vec<_> = (0..6).map(|index| segment(index, &[("loud", [100, 0, 0, 0])])).collect();
        closed.iter_mut().for_each(|segment| segment.is_put_off = true);
        closed.extend((6..10).map(|index| segment(index, &[("quiet", [25, 0, 0, 100])])));

        let closed = make_room(closed, 100_000, None);

        assert_eq!(left(&closed, "quiet"), [0, 0, 0, 400]);
    }

    #[test]
    fn of_too_many_segments_the_smallest_neighbours_become_one_and_nothing_goes() {
        let counts = [9, 1, 2, 7, 1, 1, 8];
        let mut closed: Vec<_> =
            (0..).zip(counts).map(|(index, count)| segment(index, &[("quiet", [0, 0, 0, count])])).collect();

        assert_eq!(next_merge(&closed, 7), None);
        assert_eq!(next_merge(&closed, 6), Some(4));
        closed[5].is_alone = true;
        assert_eq!(next_merge(&closed, 6), Some(1));
        assert_eq!(next_victim(&closed, u64::MAX, None), None);
    }

    #[test]
    fn of_what_takes_too_much_the_fleet_s_goes_first() {
        let closed: Vec<_> =
            (0..40).map(|index| segment(index, &[("loud", [0, 0, 9, 0]), ("full", [0, 0, 8, 0])])).collect();

        let closed = make_room(closed, 40_000, Some(20_000));

        let waiting: Vec<_> = closed.into_iter().filter(|segment| segment.last > 20_000).collect();
        assert_eq!((left(&waiting, "loud")[2], left(&waiting, "full")[2]), (20 * 9, 20 * 8));
    }

    proptest! {
        /// Neither part, nor a share within one, loses anything while it has at most its own room, and everything fits
        /// in the end.
        #[test]
        fn each_part_and_share_has_room_of_its_own(
            counts in proptest::collection::vec(
                proptest::collection::vec([0u64..20, 0u64..20, 0u64..20, 0u64..20], 1..4), 1..30,
            ),
            sent in prop::option::of(0u64..30_000),
        ) {
            let closed: Vec<_> = (0..).zip(counts).map(|(index, counts)| {
                segment(index, &SHARES.into_iter().zip(counts).collect::<Vec<_>>())
            }).collect();
            let bytes = |closed: &[ClosedSegment], share| {
                let [low, medium, high, critical] = left(closed, share);
                ((low + medium) * 100, (high + critical) * 100)
            };
            let allowance = 10_000;

            let after = make_room(closed.clone(), allowance, sent);

            let sum = |closed: &[ClosedSegment]| {
                SHARES.iter().map(|share| bytes(closed, share)).fold((0, 0), |sum, more| (sum.0 + more.0, sum.1 + more.1))
            };
            let (before_all, after_all) = (sum(&closed), sum(&after));
            prop_assert!(after_all.0 + after_all.1 <= allowance);
            if before_all.1 <= allowance / 4 * 3 {
                prop_assert_eq!(after_all.1, before_all.1);
            }
            if before_all.0 <= allowance / 4 {
                prop_assert_eq!(after_all.0, before_all.0);
            }
            let count = SHARES.len() as u64;
            for share in SHARES {
                let (before, after) = (bytes(&closed, share), bytes(&after, share));
                if before.1 <= allowance / 4 * 3 / count {
                    prop_assert_eq!(after.1, before.1, "{}", share);
                }
                if before.0 <= allowance / 4 / count {
                    prop_assert_eq!(after.0, before.0, "{}", share);
                }
            }
        }
    }
}
