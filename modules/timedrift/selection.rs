//! Which of several clocks may be right: the intersection of their intervals.
//!
//! Each server says where the true time is, give or take its error bound. If more than half of the servers are
//! right, the true time is where more than half of the intervals overlap. This is Marzullo's algorithm as RFC
//! 5905, section 11.2.1, and chronyd use it; whoever has no part in any such place cannot be right.
//!
//! Pure: numbers in, numbers out.

/// Where a server says that the true offset lies, in nanoseconds. Both ends belong to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// The lower end.
    pub low: i128,
    /// The upper end, not below the lower one.
    pub high: i128,
}

impl Span {
    /// The span around `middle` that reaches `bound` to both sides.
    #[must_use]
    pub fn around(middle: i128, bound: i128) -> Self {
        Self { low: middle - bound.abs(), high: middle + bound.abs() }
    }

    fn contains(self, other: Self) -> bool {
        self.low <= other.low && other.high <= self.high
    }
}

/// What the others say about one server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opinion {
    /// It is one of the largest group that agrees.
    Agrees,
    /// It may be right, but the largest group agrees without it.
    Doubtful,
    /// It cannot be right if more than half of the servers are.
    Liar,
    /// No more than half agree anywhere.
    NoMajority,
}

/// What several servers say together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selection {
    /// From the lowest to the highest offset where more than half of the servers overlap; `None` when there is none.
    pub majority: Option<Span>,
    /// One opinion for each server, in their order.
    pub opinions: Vec<Opinion>,
}

/// What follows for a clock that may be off by a tolerance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Wherever the true time is, the clock is near enough.
    Within,
    /// Wherever the true time is, the clock is too far from it.
    Outside,
    /// It depends, or nobody knows where the true time is.
    CannotTell,
}

/// Compares what servers say.
#[must_use]
pub fn select(spans: &[Span]) -> Selection {
    let places = majorities(spans);
    let Some(best) = best(spans).filter(|_| !places.is_empty()) else {
        return Selection { majority: None, opinions: vec![Opinion::NoMajority; spans.len()] };
    };
    let opinion = |span: &Span| {
        // First: between two places of the deepest overlap nobody is right.
        if !places.iter().any(|place| span.low <= place.high && place.low <= span.high) {
            Opinion::Liar
        } else if span.contains(best) || best.contains(*span) {
            Opinion::Agrees
        } else {
            Opinion::Doubtful
        }
    };
    let majority =
        places.first().zip(places.last()).map(|(first, last)| Span { low: first.low, high: last.high });
    Selection { majority, opinions: spans.iter().map(opinion).collect() }
}

/// The judgement about a clock whose true offset lies in `majority`, when it may be at most `tolerance`.
#[must_use]
pub fn verdict(majority: Option<Span>, tolerance: u128) -> Verdict {
    let Some(span) = majority else { return Verdict::CannotTell };
    let tolerance = i128::try_from(tolerance).unwrap_or(i128::MAX);
    let allowed = Span { low: -tolerance, high: tolerance };
    if allowed.contains(span) {
        Verdict::Within
    } else if span.low > allowed.high || span.high < allowed.low {
        Verdict::Outside
    } else {
        Verdict::CannotTell
    }
}

/// The ends of all spans in their order; where a span ends and another begins, they overlap.
fn ends(spans: &[Span]) -> Vec<(i128, bool)> {
    let mut ends: Vec<(i128, bool)> =
        spans.iter().flat_map(|span| [(span.low, false), (span.high, true)]).collect();
    ends.sort_unstable();
    ends
}

/// The places where more than half of the spans overlap, in their order.
fn majorities(spans: &[Span]) -> Vec<Span> {
    let mut depth = 0_usize;
    let mut places = Vec::new();
    let mut low = None;
    for (at, is_end) in ends(spans) {
        if is_end {
            depth -= 1;
            if depth * 2 <= spans.len()
                && let Some(low) = low.take()
            {
                places.push(Span { low, high: at });
            }
        } else {
            depth += 1;
            if depth * 2 > spans.len() && low.is_none() {
                low = Some(at);
            }
        }
    }
    places
}

/// From the first to the last place where as many spans overlap as nowhere else, as chronyd has it.
fn best(spans: &[Span]) -> Option<Span> {
    let (mut depth, mut deepest) = (0_usize, 0);
    let mut best: Option<Span> = None;
    for (at, is_end) in ends(spans) {
        if is_end {
            if depth == deepest
                && let Some(best) = &mut best
            {
                best.high = at;
            }
            depth -= 1;
        } else {
            depth += 1;
            if depth > deepest {
                deepest = depth;
                best = Some(Span { low: at, high: at });
            }
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn span(low: i128, high: i128) -> Span {
        Span { low, high }
    }

    #[test]
    fn one_server_is_believed_and_two_that_differ_are_not() {
        let one = select(&[span(1, 3)]);
        assert_eq!((one.majority, one.opinions), (Some(span(1, 3)), vec![Opinion::Agrees]));

        let two = select(&[span(1, 3), span(4, 5)]);
        assert_eq!((two.majority, two.opinions), (None, vec![Opinion::NoMajority; 2]));
        assert_eq!(select(&[span(1, 3), span(3, 5)]).majority, Some(span(3, 3)));
        assert_eq!(select(&[]).majority, None);
    }

    #[test]
    fn two_of_three_name_the_third() {
        let three = select(&[span(-2, 2), span(100, 104), span(-1, 3)]);

        assert_eq!(three.majority, Some(span(-1, 2)));
        assert_eq!(three.opinions, [Opinion::Agrees, Opinion::Liar, Opinion::Agrees]);
    }

    #[test]
    fn who_may_be_right_without_the_largest_group_is_doubtful_and_no_liar() {
        // Three of five overlap at 4, and four at 8: the fifth may still be right.
        let five = select(&[span(0, 5), span(4, 9), span(4, 9), span(8, 9), span(8, 9)]);

        assert_eq!(five.majority, Some(span(4, 9)));
        assert_eq!(five.opinions[0], Opinion::Doubtful);
        assert!(five.opinions[1..].iter().all(|one| *one == Opinion::Agrees));
    }

    #[test]
    fn a_verdict_needs_the_whole_span_on_one_side() {
        for (low, high, expected) in [
            (-5, 5, Verdict::Within),
            (-5, 6, Verdict::CannotTell),
            (5, 6, Verdict::CannotTell),
            (6, 7, Verdict::Outside),
            (-9, -6, Verdict::Outside),
            (-9, 9, Verdict::CannotTell),
        ] {
            assert_eq!(verdict(Some(span(low, high)), 5), expected, "{low} {high}");
        }
        assert_eq!(verdict(None, 5), Verdict::CannotTell);
        assert_eq!(verdict(Some(span(i128::MIN / 2, i128::MAX / 2)), u128::MAX), Verdict::Within);
    }

    fn spans() -> impl Strategy<Value = Vec<Span>> {
        prop::collection::vec((-50_i128..50, 0_i128..30), 1..12)
            .prop_map(|all| all.into_iter().map(|(middle, bound)| Span::around(middle, bound)).collect())
    }

    proptest! {
        /// Where the majority lies, point by point.
        #[test]
        fn the_majority_is_where_more_than_half_overlap(spans in spans()) {
            let depth = |at: i128| spans.iter().filter(|span| span.low <= at && at <= span.high).count();
            let agreed: Vec<i128> = (-100..=100).filter(|at| depth(*at) * 2 > spans.len()).collect();

            let selection = select(&spans);

            let expected = agreed.first().zip(agreed.last()).map(|(low, high)| span(*low, *high));
            prop_assert_eq!(selection.majority, expected);
            for (one, opinion) in spans.iter().zip(&selection.opinions) {
                let may_be_right = agreed.iter().any(|at| one.low <= *at && *at <= one.high);
                match opinion {
                    Opinion::Liar => prop_assert!(!may_be_right),
                    Opinion::Agrees | Opinion::Doubtful => prop_assert!(may_be_right),
                    Opinion::NoMajority => prop_assert!(agreed.is_empty()),
                }
            }
        }

        /// No verdict is wrong, and no honest server is called a liar, while more than half are honest.
        #[test]
        fn while_most_are_honest_no_verdict_is_wrong(
            truth in -20_i128..20,
            honest in prop::collection::vec((-10_i128..10, 0_i128..10), 1..8),
            liars in prop::collection::vec((-40_i128..40, 0_i128..20), 0..7),
            tolerance in 0_u128..30,
        ) {
            let honest: Vec<Span> = honest
                .into_iter()
                .map(|(shift, more)| Span::around(truth + shift, shift.abs() + more))
                .collect();
            let liars = liars.into_iter().take(honest.len() - 1).map(|(at, bound)| Span::around(at, bound));
            let all: Vec<Span> = honest.iter().copied().chain(liars).collect();

            let selection = select(&all);

            let is_right = |one: &Opinion| matches!(one, Opinion::Agrees | Opinion::Doubtful);
            prop_assert!(selection.opinions[..honest.len()].iter().all(is_right));
            match verdict(selection.majority, tolerance) {
                Verdict::Within => prop_assert!(truth.unsigned_abs() <= tolerance),
                Verdict::Outside => prop_assert!(truth.unsigned_abs() > tolerance),
                Verdict::CannotTell => {}
            }
        }
    }
}
