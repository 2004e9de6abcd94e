//! How many alerts one user's work may raise: whoever does forbidden things as fast as he can must not push the alerts
//! about others out of the journal, nor keep the engine waiting for its disk.

use vigie_kernel_events::Account;

use crate::shares::Bounded;

/// Alerts of one rule about one account in a minute. Each rule has its own, so that a noisy one hides no other.
const EACH: u64 = 20;

/// The minute, in microseconds.
const WINDOW: i64 = 60_000_000;

/// Pairs of rule and account that are counted.
const MOST: usize = 4096;

/// What was not told one by one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HeldBack {
    pub(crate) account: Account,
    pub(crate) rule: String,
    pub(crate) severity: &'static str,
    pub(crate) count: u64,
    /// Microseconds since 1970.
    pub(crate) from: i64,
}

#[derive(Debug)]
struct Spent {
    since: i64,
    told: u64,
    severity: &'static str,
    rule: String,
    held_back: u64,
}

/// Counts the alerts of this minute.
#[derive(Debug)]
pub(crate) struct AlertBudget(Bounded<(Account, String), Spent>);

impl Default for AlertBudget {
    fn default() -> Self {
        Self(Bounded::new(MOST))
    }
}

fn held_back((account, spent): (Account, Spent)) -> Option<HeldBack> {
    let Spent { since: from, severity, rule, held_back: count, .. } = spent;
    (count > 0).then_some(HeldBack { account, rule, severity, count, from })
}

impl AlertBudget {
    /// Whether an alert is told on its own, and what must be told before it is forgotten. The trusted have no bound:
    /// who may end the agent need not flood it.
    pub(crate) fn spend(
        &mut self,
        account: Account,
        rule: &str,
        severity: &'static str,
        now: i64,
    ) -> (bool, Option<HeldBack>) {
        if account.is_trusted() {
            return (true, None);
        }
        let key = (account, rule.to_owned());
        if let Some(spent) = self.0.get_mut(&key)
            && (0..WINDOW).contains(&(now - spent.since))
        {
            let tells = spent.told < EACH;
            spent.told += u64::from(tells);
            spent.held_back += u64::from(!tells);
            return (tells, None);
        }
        let before = self.0.remove(&key);
        let fresh = Spent { since: now, told: 1, severity, rule: rule.to_owned(), held_back: 0 };
        let displaced = self.0.insert(key, account, fresh);
        (true, before.and_then(held_back).or(displaced.and_then(held_back)))
    }

    /// What was held back in minutes that are over.
    pub(crate) fn due(&mut self, now: i64) -> Vec<HeldBack> {
        let over = self.0.take_while(|spent| !(0..WINDOW).contains(&(now - spent.since)));
        over.into_iter().filter_map(held_back).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANN: Account = Account::user(1000);

    #[test]
    fn beyond_its_share_a_rules_alerts_about_a_user_are_one() {
        let mut budget = AlertBudget::default();
        let mut spend = |account, rule, now| budget.spend(account, rule, "high", now).0;

        let told = (0..1000).filter(|second| spend(ANN, "noisy", *second)).count();
        assert_eq!(told as u64, EACH);
        assert!(spend(ANN, "other", 5) && spend(Account::user(1001), "noisy", 5));
        assert!((0..1000).all(|second| spend(Account::TRUSTED, "noisy", second)));

        assert_eq!(budget.due(WINDOW - 1), []);
        let rule = "noisy".to_owned();
        let expected = HeldBack { account: ANN, rule, severity: "high", count: 1000 - EACH, from: 0 };
        assert_eq!(budget.due(WINDOW), [expected]);
        assert_eq!(budget.due(2 * WINDOW), []);
    }
}
