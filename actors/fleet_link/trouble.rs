//! What keeps a membership from working, each by its name: raised and cleared by the one part that knows.

use std::collections::BTreeMap;

/// What is wrong. The first one is the one that people hear of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Trouble {
    /// The broker does not know this agent, or does not any more.
    LoginRefused,
    /// No encrypted connection comes about.
    Tls,
    /// The broker takes no more connections: somebody may use them all.
    BrokerFull,
    /// The agent's token has other rights than it needs.
    NotPermitted,
    /// Another host writes under this name.
    RunsTwice,
    /// The agent's files were made on another machine.
    Copied,
    /// The facts are not such as a fleet takes.
    Facts,
    /// A certificate ends within 30 days, or has ended.
    Certificate,
}

/// What is wrong now.
#[derive(Debug, Default)]
pub(super) struct Troubles(BTreeMap<Trouble, String>);

impl Troubles {
    /// Takes note; whether it is new.
    pub(super) fn raise(&mut self, trouble: Trouble, detail: String) -> bool {
        self.0.insert(trouble, detail).is_none()
    }

    /// It is over; whether it was there.
    pub(super) fn clear(&mut self, trouble: Trouble) -> bool {
        self.0.remove(&trouble).is_some()
    }

    /// All of it in one text; nothing when all is well.
    pub(super) fn text(&self) -> Option<String> {
        let texts: Vec<&str> = self.0.values().map(String::as_str).collect();
        (!texts.is_empty()).then(|| texts.join("; "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_that_is_over_leaves_the_others() {
        let mut troubles = Troubles::default();
        assert!(troubles.raise(Trouble::Tls, "tls".to_owned()));
        assert!(!troubles.raise(Trouble::Tls, "tls again".to_owned()));
        assert!(troubles.raise(Trouble::LoginRefused, "login".to_owned()));
        assert_eq!(troubles.text().as_deref(), Some("login; tls again"));
        assert!(troubles.clear(Trouble::LoginRefused) && !troubles.clear(Trouble::LoginRefused));
        assert!(troubles.clear(Trouble::Tls));
        assert_eq!(troubles.text(), None);
    }
}
